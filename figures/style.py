"""Colours, fonts and saving that all figures share."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from mereq_min.lab.show.plots import COLOURS, METHOD_COLOURS, STYLE, save_figure

__all__ = ["COLOURS", "METHOD_COLOURS", "save"]

plt.rcParams.update(STYLE)


def save(figure: Figure, file: Path) -> None:
    """Write the figure and say where it lies."""
    save_figure(figure, file)
    print(f"picture: {file}")
    plt.close(figure)
