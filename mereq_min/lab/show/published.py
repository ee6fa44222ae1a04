"""The numbers that the paper publishes."""

from __future__ import annotations

import csv
from pathlib import Path

Samples = dict[tuple[str, float], float]
"""Mean expert samples by method and threshold."""


def _read_rows() -> list[dict[str, str]]:
    file = Path(__file__).with_name("paper_expert_samples.csv")
    lines = file.read_text(encoding="utf-8").splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


PAPER_NAMES: dict[str, str] = {row["name"]: row["task"] for row in _read_rows()}
"""The tasks of the paper: our name of each, and the paper's."""


def read_published() -> dict[str, Samples]:
    """The paper's mean expert samples by task (our name), then by method and threshold.

    Read off the pixels of its published figure, to about 2 %.
    """
    published: dict[str, Samples] = {}
    for row in _read_rows():
        samples = published.setdefault(row["name"], {})
        samples[row["method"], float(row["delta"])] = float(row["mean_expert_samples"])
    return published
