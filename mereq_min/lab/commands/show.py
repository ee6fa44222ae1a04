"""The command `mereq show`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from mereq_min.interfaces import Policy
from mereq_min.lab.commands.console import complaints, console
from mereq_min.lab.plugins import load_task
from mereq_min.lab.runs.files import RunError, load_arrays
from mereq_min.lab.runs.records import read_config, read_rows
from mereq_min.lab.show.tables import (
    before_after_table,
    iterations_table,
    theta_table,
)
from mereq_min.methods import METHODS


@dataclass(frozen=True)
class Show:
    """Show a run: each iteration, and the policy before and after."""

    run: tyro.conf.Positional[Path]
    """Folder of the run, such as runs/carpet/MEReQ/seed0."""

    def __call__(self) -> int:
        """Print the tables."""
        show_run(self.run)
        return 0


def count_iterations(path: Path) -> int:
    """Finished iterations of a run; 0 where there is none."""
    return len(read_rows(path)) if (path / "config.json").exists() else 0


def show_run(path: Path) -> Policy | None:
    """Print a run: its iterations, theta against theta*, and the policy before and after.

    Returns:
        The aligned policy, if it was saved.
    """
    config = read_config(path)["config"]
    rows = read_rows(path)
    if not rows:
        raise RunError(f"{path} has not finished its first iteration; run the same command again to go on")
    task = load_task(config["task"])
    console.print(iterations_table(rows, f"{config['task']}, {config['method']}, seed {config['seed']}"))
    reward = METHODS[config["method"]].reward
    if reward is not None:
        console.print(theta_table(task, rows[-1], reward))
    file, aligned = path / "policy.safetensors", None
    if file.exists():
        aligned = task.load_policy(load_arrays(file))
        with complaints.status("evaluating prior, aligned policy and expert"):
            table = before_after_table(task, aligned)
        console.print(table)
    console.print(f"run folder: {path}", highlight=False, soft_wrap=True)
    return aligned
