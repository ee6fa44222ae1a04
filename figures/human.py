"""Seconds in control until a policy is aligned, by method and by how human the expert is.

    python figures/human.py                # draw what is recorded
    python figures/human.py --record       # run what the record lacks (6 minutes of one core), then draw

A whole person is `mereq_min.experts.make_human` at the pace of the page of `mereq teach`: 3 steps a second.
The rate of such a person never stays under 0.05, whatever the policy, because false alarms and holding on are
steps too. Each policy is therefore judged by an ideal expert in further watched steps, which are not counted.
"""

from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.axes import Axes
from recording import append_missing, read_record
from style import COLOURS, save

from gridworlds import TASKS
from gridworlds.scenes import GRID_RATE
from mereq_min import METHODS, LoopConfig, align, make_aligner, watch
from mereq_min.experts import make_human
from mereq_min.metrics import bootstrap_mean, samples_to_stay

FIRST_SEED = 2_100
"""The tasks were calibrated on seeds under 100, and the methods compared on seeds from 1000."""
WATCHED = 1_000
"""Further steps that judge each policy [steps]."""
LOOP = {"iterations": 10, "steps_per_iteration": 100}
"""The rounds of a session: those of `mereq teach`."""
THRESHOLD = 0.05
"""delta."""
SHOWN = {
    "MEReQ-R": "o", "MEReQ-L": "s", "MEReQ": "D", "HG-DAgger-1": "^", "Residual-BC": "v", "HG-DAgger-FT": "P"
}  # fmt: skip
"""Methods and their marks."""


@dataclass(frozen=True)
class Arguments:
    """Draw, or record and draw, seconds in control by how human the expert is."""

    record: bool = False
    """Run what the record lacks."""
    shares: tuple[float, ...] = (0.0, 0.5, 1.0)
    """Shares of human error of the experts, from 0 to 1, see `make_human`."""
    seeds: int = 8
    """Seeds of each."""
    data: Path = Path("figures/human.jsonl")
    """The record."""
    out: Path = Path("figures/human.png")
    """The picture."""


def record(arguments: Arguments) -> None:
    """Add the runs that are missing."""
    errors = {str(share): asdict(make_human(GRID_RATE, share)) for share in arguments.shares}
    config = {"loop": LOOP, "watched": WATCHED, "rate": GRID_RATE, "errors": errors}
    seeds = range(FIRST_SEED, FIRST_SEED + arguments.seeds)
    jobs = product(seeds, TASKS, SHOWN, arguments.shares)
    append_missing(arguments.data, config, ("seed", "task", "method", "share"), jobs, measure)


def measure(seed: int, name: str, method: str, share: float) -> dict:
    """The rates and expert steps of one run, by iteration."""
    task = TASKS[name]()
    config = LoopConfig(**LOOP, imperfections=make_human(GRID_RATE, share))
    rows = [
        (
            round(each.intervention_rate, 4),
            round(watch(task, each.policy, task.oracle, WATCHED, seed).intervention_rate, 4),
            each.expert_samples,
        )
        for each in align(task, make_aligner(task, METHODS[method]), config, seed=seed)
    ]
    own, ideal, samples = (list(column) for column in zip(*rows, strict=True))
    return {"person_rates": own, "ideal_rates": ideal, "expert_samples": samples}


def find_seconds(line: dict, rate: float) -> tuple[float, bool]:
    """Seconds in control until the rate stays low, and whether that is a lower bound."""
    count = samples_to_stay(line["ideal_rates"], line["expert_samples"], THRESHOLD)
    return count.samples / rate, count.censored


def draw(file: Path) -> plt.Figure:
    header, lines = read_record(file)
    tasks = list(dict.fromkeys(line["task"] for line in lines))
    figure, axes = plt.subplots(1, len(tasks), figsize=(10, 3.6), layout="constrained", sharey=True)
    for ax, task in zip(axes, tasks, strict=True):
        draw_task(ax, [line for line in lines if line["task"] == task], header["config"]["rate"])
        ax.set_title(task)
    axes[0].set_ylabel("seconds in control until the rate\nstays under 0.05")
    marks = [
        plt.Line2D([], [], marker=mark, ls="", color=COLOURS[name], label=name)
        for name, mark in SHOWN.items()
    ]
    bound = plt.Line2D(
        [], [], marker="o", ls="", mfc="white", color="#888", label="open: not all runs get there"
    )
    figure.legend(handles=[*marks, bound], loc="outside lower center", ncols=4)
    return figure


def draw_task(ax: Axes, lines: list[dict], rate: float) -> None:
    """A line a method, with 95 % intervals of the mean; slightly apart, so that none hides another."""
    shares = sorted({line["share"] for line in lines})
    for number, (method, mark) in enumerate(SHOWN.items()):
        x = np.array(shares) + 0.045 * (number - (len(SHOWN) - 1) / 2)
        for k, share in enumerate(shares):
            found = [find_seconds(e, rate) for e in lines if (e["method"], e["share"]) == (method, share)]
            mean, low, high = bootstrap_mean([seconds for seconds, _ in found], np.random.default_rng(0))
            face = "white" if any(censored for _, censored in found) else COLOURS[method]
            ax.plot([x[k], x[k]], [low, high], color=COLOURS[method], lw=1.2)
            ax.plot(x[k], mean, mark, ms=5, color=COLOURS[method], mfc=face)
    ax.set(yscale="log", xlabel="how human the expert is")
    ax.set_xticks(shares, ["ideal", *(f"{share:g}" for share in shares[1:-1]), "person"])
    ax.set_yticks([10, 20, 50, 100], ["10", "20", "50", "100"])
    ax.minorticks_off()


if __name__ == "__main__":
    arguments = tyro.cli(Arguments, config=(tyro.conf.FlagCreatePairsOff,))
    if arguments.record:
        record(arguments)
    save(draw(arguments.data), arguments.out)
