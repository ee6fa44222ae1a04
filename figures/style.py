"""Colours, fonts and saving that all figures share."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# Okabe and Ito's palette: apart for colour-blind readers too; ours is the dark one.
METHOD_COLOURS = {
    "MEReQ": "#D55E00",
    "MEReQ-NP": "#E69F00",
    "MaxEnt": "#999999",
    "MaxEnt-FT": "#56B4E9",
    "HG-DAgger-FT": "#009E73",
    "IWR-FT": "#CC79A7",
    "MEReQ-L": "#0072B2",
}

plt.rcParams.update(
    {
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.dpi": 110,
        "savefig.dpi": 160,
        "legend.frameon": False,
    }
)


def save(figure: plt.Figure, file: Path) -> None:
    """Write the figure and say where it lies."""
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
    print(f"picture: {file}")
