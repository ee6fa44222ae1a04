"""Colours, fonts and saving that all figures share."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from mereq_min.lab.show.plots import COLOURS, METHOD_COLOURS, STYLE, Runs, read_runs, save_figure
from mereq_min.methods import RECORDED_METHODS

__all__ = ["COLOURS", "METHOD_COLOURS", "read_main_runs", "save"]

plt.rcParams.update(STYLE)


def read_main_runs(root: Path, task: str) -> Runs:
    """Read a task's runs of the methods that were recorded on all tasks; others would crowd a figure."""
    runs = read_runs(root, task)
    return {method: runs[method] for method in RECORDED_METHODS if method in runs}


def save(figure: Figure, file: Path) -> None:
    """Write the figure and say where it lies."""
    save_figure(figure, file)
    print(f"picture: {file}")
    plt.close(figure)
