"""Highway-Sim beside the paper: intervention rate by iteration, our expert samples, and the paper's.

Usage:

    mereq reproduce --tasks highway --out runs/fresh
    cp runs/fresh/highway.jsonl.gz figures/runs/
    python figures/highway.py
"""

from dataclasses import dataclass
from pathlib import Path

import tyro
from matplotlib.figure import Figure
from style import save

from mereq_min.lab.show.plots import (
    Runs,
    add_legend,
    count_seeds,
    draw_published,
    draw_rates,
    draw_samples,
    read_runs,
)
from mereq_min.lab.show.published import read_published


@dataclass(frozen=True)
class Arguments:
    """Draw all methods on the highway, and the paper's numbers."""

    runs: Path = Path("figures/runs")
    """Folder of the bundle `highway.jsonl.gz`."""
    out: Path = Path("figures/highway.png")
    """The picture."""


def draw(runs: Runs) -> Figure:
    figure = Figure(figsize=(12.5, 3.9), layout="constrained")
    rates, ours, paper = figure.subplots(1, 3)
    draw_rates(rates, runs)
    draw_samples(ours, runs)
    draw_published(paper, read_published()["highway"])
    rates.set(title=f"ours ({count_seeds(runs)})", ylabel="intervention rate (dashed: 0.05)")
    ours.set(title=f"ours ({count_seeds(runs)})", ylabel="expert samples until rate < δ")
    paper.set(title="Chen et al. 2025", ylabel="expert samples until rate < δ")
    add_legend(figure)
    return figure


if __name__ == "__main__":
    arguments = tyro.cli(Arguments)
    runs = read_runs(arguments.runs, "highway")
    if not runs:
        raise SystemExit(f"no finished runs of highway in {arguments.runs}; see `mereq reproduce`")
    save(draw(runs), arguments.out)
