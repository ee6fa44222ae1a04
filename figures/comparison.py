"""The paper's figure on gridworlds: intervention rate by iteration, expert samples to each threshold.

    mereq compare carpet lanes shelf windy --seeds 30 --first-seed 3000 --out runs/fresh
    cp runs/fresh/*.jsonl.gz figures/runs/
    python figures/comparison.py

The tasks were calibrated on seeds under 100; these are fresh.
"""

from dataclasses import dataclass
from pathlib import Path

import tyro
from style import read_main_runs, save

from mereq_min.lab.show.plots import draw_comparison, draw_rate_panels


@dataclass(frozen=True)
class Arguments:
    """Draw all methods on recorded tasks."""

    tasks: tuple[str, ...] = ("carpet", "lanes", "shelf", "windy")
    """Their names."""
    runs: Path = Path("figures/runs")
    """Folder with one bundle of runs a task, as `mereq compare` writes them."""
    out: Path = Path("figures")
    """Folder for the pictures."""


if __name__ == "__main__":
    arguments = tyro.cli(Arguments)
    runs = {task: read_main_runs(arguments.runs, task) for task in arguments.tasks}
    if missing := [task for task in arguments.tasks if not runs[task]]:
        raise SystemExit(f"no finished runs of {', '.join(missing)} in {arguments.runs}; see `mereq compare`")
    save(draw_comparison(runs), arguments.out / "comparison.png")
    save(draw_rate_panels(runs), arguments.out / "comparison-rates.png")
