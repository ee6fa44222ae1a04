"""Measure MEReQ, MEReQ-L and MEReQ-R with an expert who errs: random actions, late takeovers, misses.

    python figures/noise.py                # draw what is recorded
    python figures/noise.py --record       # run what is missing (about 10 minutes on one core), then draw

The expert who is watching while a run learns makes the errors. Each policy is judged by one who makes none:
late takeovers and misses lower the rate of a policy without making it any better.
"""

from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.axes import Axes
from recording import append_missing, read_record
from style import save

from gridworlds import TASKS, TabularTask
from mereq_min import METHODS, Imperfections, LoopConfig, TabularPolicy, align, make_aligner
from mereq_min.lab.show.plots import COLOURS
from mereq_min.metrics import bootstrap_mean

SHOWN = ("MEReQ", "MEReQ-L", "MEReQ-R")
RANDOM = {f"random {rate:.0%}": Imperfections(random_action_rate=rate) for rate in (0.0, 0.05, 0.1, 0.2)}
OTHERS = {"delay 2": Imperfections(reaction_delay=2), "misses 30%": Imperfections(miss_rate=0.3)}
ERRORS = RANDOM | OTHERS
"""Errors of the expert by name."""
MARKERS = {"MEReQ": "s", "MEReQ-L": "o", "MEReQ-R": "D"}


@dataclass(frozen=True)
class Arguments:
    """Draw, or record and draw, the rates of policies that were learned from an expert who errs."""

    record: bool = False
    """Run what the record lacks."""
    tasks: tuple[str, ...] = ("carpet", "lanes")
    """Tasks whose expert takes over after one violation."""
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(iterations=6))
    """Settings of the loop; the errors are those of `ERRORS`."""
    first_seed: int = 2_100
    """The first seed."""
    seeds: int = 30
    """Runs of each."""
    data: Path = Path("figures/noise.jsonl")
    """The record."""
    out: Path = Path("figures/noise.png")
    """The picture."""


def record(arguments: Arguments) -> None:
    """Append what the record lacks, task by task and seed by seed."""
    config = {"loop": asdict(arguments.loop), "errors": {name: asdict(each) for name, each in ERRORS.items()}}
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    jobs = product(arguments.tasks, seeds, ERRORS, SHOWN)

    tasks = {name: TASKS[name]() for name in arguments.tasks}

    def run(task: str, seed: int, error: str, method: str) -> dict:
        return measure(tasks[task], method, seed, arguments.loop, ERRORS[error])

    append_missing(arguments.data, config, ("task", "seed", "error", "method"), jobs, run)


def measure(task: TabularTask, method: str, seed: int, loop: LoopConfig, errors: Imperfections) -> dict:
    """Run once; rates and KL are those of the policies after each update, judged without errors."""
    expert, aligner = task.oracle.make_expert(errors), make_aligner(task, METHODS[method])
    turns = list(align(task, aligner, loop, seed=seed, expert=expert))
    return {
        "rate": [round(attentive_rate(task, turn.policy), 5) for turn in turns],
        "kl_to_expert": [round(task.evaluate(turn.policy)["kl_to_expert"], 5) for turn in turns],
        "expert_samples": [turn.expert_samples for turn in turns],
        "theta": np.round(turns[-1].info["theta"], 4).tolist(),
        "error_rate": turns[-1].info.get("error_rate"),
    }


def attentive_rate(task: TabularTask, policy: TabularPolicy) -> float:
    """The expected share of steps in which an expert without errors, of patience 1, controls."""
    mdp, oracle = task.mdp, task.oracle
    proposed, hers = np.exp(policy.log_policy), np.exp(oracle.expert_policy.log_policy)
    provokes = (proposed * oracle.violation).sum(axis=1)
    let_pass = proposed * ~oracle.violation
    free, calm, controlled = mdp.initial, np.zeros((oracle.release, mdp.n_states)), 0.0
    for _ in range(task.horizon):
        controlled += calm.sum()
        # In control, the next step depends on whether the robot's proposal would have provoked her.
        *calmer, ends = (calm * (1.0 - provokes))[:, :, None] * hers
        begins = free[:, None] * (proposed - let_pass) + (calm.sum(axis=0) * provokes)[:, None] * hers
        onward = free[:, None] * let_pass + ends, begins, *calmer
        free, *rest = (mdp.transition.T @ visits.ravel() for visits in onward)
        calm = np.array(rest)
    return controlled / task.horizon


def draw(file: Path) -> plt.Figure:
    _, rows = read_record(file)
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    size = (4.4 * len(tasks), 3.8)
    figure, axes = plt.subplots(1, len(tasks), figsize=size, layout="constrained", sharey=True, squeeze=False)
    for ax, task in zip(axes[0], tasks, strict=True):
        draw_rates(ax, [row for row in rows if row["task"] == task])
        ax.set_title(task)
    axes[0, 0].set_ylabel("rate of the last policy, judged without errors")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(handles))
    return figure


def draw_rates(ax: Axes, rows: list[dict]) -> None:
    for i, method in enumerate(SHOWN):
        mine = [row for row in rows if row["method"] == method]
        groups = [[row["rate"][-1] for row in mine if row["error"] == error] for error in ERRORS]
        means, lows, highs = np.array([bootstrap_mean(g, np.random.default_rng(0)) for g in groups]).T
        colour, x = COLOURS[method], np.arange(len(ERRORS)) + 0.2 * (i - 1)
        ax.vlines(x, lows, highs, color=colour)
        ax.plot(x, means, MARKERS[method], ms=5, color=colour, label=method)
    ax.axhline(0.05, color="#777777", ls="--", lw=1)
    ax.set_xticks(range(len(ERRORS)), ERRORS, rotation=30, ha="right")
    ax.set_ylim(bottom=0)


if __name__ == "__main__":
    arguments = tyro.cli(Arguments, config=(tyro.conf.FlagCreatePairsOff,))
    if arguments.record:
        record(arguments)
    save(draw(arguments.data), arguments.out)
