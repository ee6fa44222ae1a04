"""The numbers that the paper publishes."""

from __future__ import annotations

import csv
from pathlib import Path

PAPER_NAMES = {
    "highway": "highway",
    "bottle": "bottle-pushing",
    "eraser": "erasing",
    "pillow": "pillow-grasping",
}
"""What the paper calls our tasks."""


def read_published() -> dict[str, dict[tuple[str, float], float]]:
    """The paper's mean expert samples by task, then by method and threshold.

    Read off its published figure by pixel, to about 2 %.
    """
    published: dict[str, dict[tuple[str, float], float]] = {}
    ours = {theirs: name for name, theirs in PAPER_NAMES.items()}
    with Path(__file__).with_name("paper_expert_samples.csv").open() as file:
        for row in csv.DictReader(line for line in file if not line.startswith("#")):
            samples = published.setdefault(ours[row["task"]], {})
            samples[row["method"], float(row["delta"])] = float(row["mean_expert_samples"])
    return published
