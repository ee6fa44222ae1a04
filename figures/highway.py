"""Highway-Sim beside the paper: intervention rate by iteration, our expert samples, and the paper's.

mereq compare highway --seeds 8 --first-seed 1000 --out runs/fresh
    cp runs/fresh/highway.jsonl.gz figures/runs/
python figures/highway.py [--runs FILE] [--out FILE]

The paper's numbers are in paper_expert_samples.csv, read off its published figure to about 2 %.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import tyro
from comparison import (
    add_legend,
    count_seeds,
    draw_bar,
    draw_rates,
    draw_samples,
    label_thresholds,
    read_runs,
)
from matplotlib.axes import Axes
from style import save

from mereq_min.metrics import THRESHOLDS

PAPER = Path(__file__).with_name("paper_expert_samples.csv")


@dataclass(frozen=True)
class Arguments:
    """Draw all methods on the highway, and the paper's numbers."""

    runs: Path = Path("figures/runs/highway.jsonl.gz")
    """Bundle of runs, as `mereq compare highway` writes it."""
    out: Path = Path("figures/highway.png")
    """The picture."""


def draw(file: Path) -> plt.Figure:
    figure, (rates, ours, paper) = plt.subplots(1, 3, figsize=(12.5, 3.9), layout="constrained")
    runs = read_runs(file)
    draw_rates(rates, runs)
    draw_samples(ours, runs)
    draw_paper(paper)
    rates.set(title=f"ours ({count_seeds(runs)} seeds)", ylabel="intervention rate (dashed: 0.05)")
    ours.set(title=f"ours ({count_seeds(runs)} seeds)", ylabel="expert samples until rate < δ")
    paper.set(title="Chen et al. 2025", ylabel="expert samples until rate < δ")
    add_legend(figure)
    return figure


def draw_paper(ax: Axes) -> None:
    with PAPER.open() as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        for row in rows:
            if row["task"] == "highway":
                group = THRESHOLDS.index(float(row["delta"]))
                draw_bar(ax, group, row["method"], float(row["mean_expert_samples"]))
    label_thresholds(ax)


if __name__ == "__main__":
    arguments = tyro.cli(Arguments)
    save(draw(arguments.runs), arguments.out)
