"""The paper's two-row figure on gridworlds: intervention rate by iteration, expert samples to each threshold.

mereq compare carpet lanes shelf windy --seeds 30 --first-seed 1000 --out runs/fresh
    cp runs/fresh/*.jsonl.gz figures/runs/
python figures/comparison.py [--runs figures/runs] [--out FILE]

The tasks were calibrated on seeds under 100; these are fresh.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from style import METHOD_COLOURS, save

from mereq_min.metrics import THRESHOLDS, bootstrap_mean, samples_interval
from mereq_min.runs import read_bundle

Runs = dict[str, list[list[dict]]]
"""Rows of every run by method."""


@dataclass(frozen=True)
class Arguments:
    """Draw all methods on recorded tasks."""

    tasks: tuple[str, ...] = ("carpet", "lanes", "shelf", "windy")
    """Their names."""
    runs: Path = Path("figures/runs")
    """Folder with one bundle of runs a task, as `mereq compare` writes them."""
    out: Path = Path("figures/comparison.png")
    """The picture."""


def read_runs(file: Path) -> Runs:
    if not file.exists():
        raise SystemExit(f"{file} is missing; run `mereq compare` with --out {file.parent} first")
    runs: Runs = {}
    for record in read_bundle(file):
        runs.setdefault(record["config"]["method"], []).append(record["iterations"])
    return runs


def draw(tasks: Sequence[str], folder: Path) -> plt.Figure:
    figure, axes = plt.subplots(
        2, len(tasks), figsize=(3.6 * len(tasks), 6), layout="constrained", squeeze=False
    )
    for column, task in zip(axes.T, tasks, strict=True):
        runs = read_runs(folder / f"{task}.jsonl.gz")
        draw_rates(column[0], runs)
        draw_samples(column[1], runs)
        column[0].set_title(f"{task} ({count_seeds(runs)} seeds)")
    axes[0, 0].set_ylabel("intervention rate (dashed: 0.05)")
    axes[1, 0].set_ylabel("expert samples until rate < δ")
    add_legend(figure)
    return figure


def count_seeds(runs: Runs) -> int:
    return min(len(each) for each in runs.values())


def add_legend(figure: plt.Figure) -> None:
    handles = [plt.Line2D([], [], color=METHOD_COLOURS[m], lw=3, label=m) for m in METHOD_COLOURS]
    handles.append(
        Patch(
            facecolor="#bbb",
            hatch="////",
            edgecolor="white",
            label="lower bound: so many runs never got there",
        )
    )
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))


def draw_rates(ax: Axes, runs: Runs) -> None:
    for method in METHOD_COLOURS:
        rates = np.array([[row["intervention_rate"] for row in rows] for rows in runs[method]])
        intervals = np.array([bootstrap_mean(column, np.random.default_rng(0)) for column in rates.T])
        iterations = np.arange(1, len(intervals) + 1)
        ax.plot(iterations, intervals[:, 0], color=METHOD_COLOURS[method], lw=1.5)
        ax.fill_between(iterations, *intervals[:, 1:].T, color=METHOD_COLOURS[method], alpha=0.2, lw=0)
    ax.axhline(THRESHOLDS[0], color="#444", lw=0.8, ls="--")
    ax.set(xlabel="iteration", ylim=(0, None), xticks=iterations)


def draw_samples(ax: Axes, runs: Runs) -> None:
    """Bars with 95 % intervals; hatched where some runs never got there, so that the bar is a lower bound."""
    for method in METHOD_COLOURS:
        for group, threshold in enumerate(THRESHOLDS):
            (mean, low, high), censored = samples_interval(runs[method], threshold)
            x = draw_bar(ax, group, method, mean, hatch="////" if censored else None)
            ax.errorbar(x, mean, [[mean - low], [high - mean]], color="#222", lw=0.8, capsize=1.5)
            if censored:
                ax.text(x, high, f" {censored}", rotation=90, ha="center", va="bottom", fontsize=5.5)
    label_thresholds(ax)


def draw_bar(ax: Axes, group: int, method: str, height: float, hatch: str | None = None) -> float:
    """One method's bar in the group of a threshold; returns where it stands."""
    width = 0.8 / len(METHOD_COLOURS)
    x = group + (list(METHOD_COLOURS).index(method) - (len(METHOD_COLOURS) - 1) / 2) * width
    ax.bar(x, height, 0.92 * width, color=METHOD_COLOURS[method], hatch=hatch, edgecolor="white", lw=0)
    return x


def label_thresholds(ax: Axes) -> None:
    ax.set_xticks(range(len(THRESHOLDS)), [f"δ = {threshold:.2f}" for threshold in THRESHOLDS])


if __name__ == "__main__":
    arguments = tyro.cli(Arguments)
    save(draw(arguments.tasks, arguments.runs), arguments.out)
