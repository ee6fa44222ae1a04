"""Draw the limit of each estimator as expert samples grow, against theta*.

    python figures/bias.py                # draw the recorded estimates
    python figures/bias.py --record       # estimate again (about 20 minutes on one core), then draw

All data come from the prior, watched: the first iteration of the loop, with ever more steps.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.axes import Axes
from recording import read_record
from rich.progress import track
from style import METHOD_COLOURS, save

from gridworlds import TASKS, TabularTask
from mereq_min import (
    FeatureMatchingConfig,
    SegmentLikelihoodConfig,
    Steps,
    bootstrap_mean,
    match_features,
    maximise_likelihood,
    rollout,
    sample_weights,
)
from mereq_min.lab.runs.provenance import provenance

MATCHING = FeatureMatchingConfig(tolerance=1e-4, max_steps=1_000)
"""Feature matching far beyond what the loop spends, to show its limit."""
ESTIMATORS = {
    "feature matching, expert steps": "MEReQ-NP",
    "feature matching, + good-enough": "MEReQ",
    "segment likelihood": "MEReQ-L",
}
"""Estimators, and the methods whose colours they take."""


@dataclass(frozen=True)
class Arguments:
    """Draw, or record and draw, the bias of the estimators."""

    record: bool = False
    """Estimate again."""
    task: str = "carpet"
    """Task whose prior is watched."""
    steps: tuple[int, ...] = (100, 300, 1_000, 3_000, 10_000, 30_000, 100_000)
    """Sizes of the data [steps]."""
    seeds: int = 10
    """Data sets of each size."""
    data: Path = Path("figures/bias.jsonl")
    """The recorded estimates."""
    out: Path = Path("figures/bias.png")
    """The picture."""


def record(arguments: Arguments) -> None:
    task = TASKS[arguments.task]()
    lines = [{"config": {"task": arguments.task, "matching": asdict(MATCHING)}, **provenance()}]
    jobs = [(n, seed) for n in arguments.steps for seed in range(arguments.seeds)]
    for n, seed in track(jobs, "estimating"):
        streams = np.random.SeedSequence(seed, spawn_key=(n,)).spawn(2)
        rollout_rng, expert_rng = (np.random.default_rng(stream) for stream in streams)
        expert = task.oracle.make_expert()
        steps = rollout(task, task.prior, expert, n, rollout_rng, expert_rng=expert_rng)
        if steps.is_intervention.any():
            for name in ESTIMATORS:
                lines.append({"steps": n, "seed": seed, **estimate(name, task, steps)})
    arguments.data.write_text("".join(json.dumps(line) + "\n" for line in lines))


def estimate(name: str, task: TabularTask, steps: Steps) -> dict:
    learner, start = task.make_learner("residual", MATCHING.discount), np.zeros(len(task.feature_names))
    if name == "segment likelihood":
        expert_steps = steps.select(steps.is_intervention)
        found = maximise_likelihood(learner, expert_steps, start, SegmentLikelihoodConfig())
    else:
        expert_set = "expert + good-enough" if name.endswith("good-enough") else "expert"
        weights = sample_weights(steps, expert_set, task.oracle.patience)
        found = match_features(learner, steps, weights, start, MATCHING)
    return {
        "estimator": name,
        "expert_samples": int(steps.is_intervention.sum()),
        "theta": found.theta.tolist(),
        "converged": found.converged,
        "kl_to_expert": task.evaluate(found.policy)["kl_to_expert"],
    }


def draw(file: Path) -> plt.Figure:
    header, rows = read_record(file)
    task = TASKS[header["config"]["task"]]()
    truth = task.oracle.true_theta
    preference = int(np.argmax(np.abs(truth)))
    measures = {
        f"θ of {task.feature_names[preference]} [reward]": lambda row: row["theta"][preference],
        "‖θ - θ*‖ [reward]": lambda row: float(np.linalg.norm(row["theta"] - truth)),
        "KL(expert ‖ policy) [nats]": lambda row: row["kl_to_expert"],
    }
    figure, axes = plt.subplots(1, 3, figsize=(9, 3.4), layout="constrained")
    for ax, (label, measure) in zip(axes, measures.items(), strict=True):
        draw_measure(ax, rows, measure)
        ax.set(xscale="log", xlabel="expert samples", ylabel=label)
    axes[0].axhline(truth[preference], color="#222", lw=0.8, ls="--", label="θ*")
    for ax in axes[1:]:
        ax.set_yscale("log")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure


def draw_measure(ax: Axes, rows: list[dict], measure: object) -> None:
    for name, method in ESTIMATORS.items():
        mine = [row for row in rows if row["estimator"] == name]
        sizes = sorted({row["steps"] for row in mine})
        groups = [[row for row in mine if row["steps"] == size] for size in sizes]
        x = [np.mean([row["expert_samples"] for row in group]) for group in groups]
        y = np.array([bootstrap_mean([measure(r) for r in g], np.random.default_rng(0)) for g in groups])
        ax.plot(x, y[:, 0], "o-", ms=3, color=METHOD_COLOURS[method], label=name)
        ax.fill_between(x, *y[:, 1:].T, color=METHOD_COLOURS[method], alpha=0.2, lw=0)


if __name__ == "__main__":
    arguments = tyro.cli(Arguments, config=(tyro.conf.FlagCreatePairsOff,))
    if arguments.record:
        record(arguments)
    save(draw(arguments.data), arguments.out)
