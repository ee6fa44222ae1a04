"""Expert samples against the steps rolled out between updates, from an episode or less up to 500 steps.

    python figures/batch_size.py                # draw what is recorded
    python figures/batch_size.py --record       # run what is missing (about two hours of one core), then draw

The rate of an iteration of few steps is mostly noise. Each policy is therefore judged by 2,000 further
watched steps, which are not counted.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.axes import Axes
from recording import append_missing, read_record
from style import COLOURS, save

from mereq_min import METHODS, LoopConfig, align, make_aligner, watch
from mereq_min.lab.plugins import load_task
from mereq_min.metrics import bootstrap_mean

FIRST_SEED = 3_000
"""The tasks were calibrated on seeds below 3,000."""
WATCHED = 2_000
"""Further steps that judge each policy [steps]."""
TOTAL = 2_500
"""Steps rolled out in all [steps]."""
CONFIG = {"total": TOTAL, "watched": WATCHED}
SHOWN = ("MEReQ", "HG-DAgger-FT", "MEReQ-L", "MEReQ-R")
SIZES = {"carpet": (25, 50, 100, 250, 500), "lanes": (25, 50, 100, 250, 500), "highway": (40, 100, 250, 500)}
"""Steps an iteration; the smallest number is that of an episode, on `lanes` of half an episode."""
MOST_SEEDS = {"highway": 4}
"""Seeds of a task that takes long."""


@dataclass(frozen=True)
class Arguments:
    """Draw, or record and draw, expert samples against the steps an iteration."""

    record: bool = False
    """Run what the record lacks."""
    tasks: tuple[str, ...] = tuple(SIZES)
    """Tasks to run."""
    seeds: int = 30
    """Seeds of each; four on the highway."""
    data: Path = Path("figures/batch_size.jsonl")
    """The record."""
    out: Path = Path("figures/batch_size.png")
    """The picture."""


def list_jobs(arguments: Arguments) -> Iterator[tuple[str, int, int, str]]:
    """Yield task, seed, steps an iteration and method of each run."""
    for number in range(arguments.seeds):
        for task in arguments.tasks:
            if number < MOST_SEEDS.get(task, arguments.seeds):
                for n, method in product(SIZES[task], SHOWN):
                    yield task, FIRST_SEED + number, n, method


def measure(task_name: str, seed: int, n: int, method: str) -> dict:
    """Expert samples seen until the rate of the policy made of them falls below 0.05; else all of them."""
    task = load_task(task_name)
    assert task.oracle is not None
    aligner = make_aligner(task, METHODS[method], seed=seed)
    for iteration in align(task, aligner, LoopConfig(TOTAL // n, n), seed=seed):
        watched = watch(task, iteration.policy, task.oracle, WATCHED, seed)
        reached = watched.intervention_rate < 0.05
        if reached:
            break
    return {"expert_samples": iteration.expert_samples, "censored": not reached}


def draw(file: Path) -> plt.Figure:
    _, records = read_record(file)
    tasks = list(dict.fromkeys(record["task"] for record in records))
    size = (4.2 * len(tasks), 3.8)
    figure, axes = plt.subplots(1, len(tasks), figsize=size, layout="constrained", squeeze=False)
    for ax, task in zip(axes[0], tasks, strict=True):
        draw_task(ax, [record for record in records if record["task"] == task])
        ax.set_title(task)
    axes[0, 0].set_ylabel("expert samples until the policy's rate < 0.05")
    handles, _ = axes[0, 0].get_legend_handles_labels()
    bound = plt.Line2D([], [], marker="o", mfc="white", color="#888", label="open: a lower bound")
    handles.append(bound)
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def draw_task(ax: Axes, records: list[dict]) -> None:
    sizes = sorted({record["n"] for record in records})
    for method in SHOWN:
        groups = [[r for r in records if r["method"] == method and r["n"] == n] for n in sizes]
        counts = ([record["expert_samples"] for record in group] for group in groups)
        means, lows, highs = np.array([bootstrap_mean(c, np.random.default_rng(0)) for c in counts]).T
        ax.plot(sizes, means, "-", color=COLOURS[method], label=method)
        ax.fill_between(sizes, lows, highs, color=COLOURS[method], alpha=0.2, lw=0)
        for n, mean, group in zip(sizes, means, groups, strict=True):
            face = "white" if any(record["censored"] for record in group) else COLOURS[method]
            ax.plot(n, mean, "o", ms=4, color=COLOURS[method], mfc=face)
    ax.set(xscale="log", yscale="log", xlabel="steps an iteration, n")
    ax.set_xticks(sizes, [str(n) for n in sizes])
    ax.minorticks_off()


if __name__ == "__main__":
    arguments = tyro.cli(Arguments, config=(tyro.conf.FlagCreatePairsOff,))
    if arguments.record:
        keys = ("task", "seed", "n", "method")
        append_missing(arguments.data, CONFIG, keys, list_jobs(arguments), measure)
    save(draw(arguments.data), arguments.out)
