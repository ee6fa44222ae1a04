"""The command `mereq show`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from mereq_min.interfaces import Policy, Task
from mereq_min.lab.commands.console import complain, console, stderr_console
from mereq_min.lab.runs.files import RunError
from mereq_min.lab.runs.records import (
    Record,
    Row,
    find_runs,
    read_config,
    read_policy,
    read_record,
    read_rows,
    read_sealed_rows,
)
from mereq_min.lab.runs.run import load_run_task
from mereq_min.lab.show.tables import before_after_table, iterations_table, runs_table, theta_table
from mereq_min.methods import METHODS


@dataclass(frozen=True)
class Show:
    """Show a run: each iteration, and the policy before and after. In a folder of runs, list them."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Folder of a run, such as runs/carpet/MEReQ/seed0, or a folder above several."""
    task: str | None = None
    """module:attribute of the run's task, if it is your own; a module is never imported just because a record
    names it."""
    prior: str | None = None
    """The run's prior, if it was one of your own that could not be saved beside the run."""

    def __call__(self) -> int:
        """Print the tables."""
        if (self.run / "config.json").exists() or not find_runs(self.run):
            read_config(self.run)
            show_run(self.run, load_run_task(self.run, task=self.task, prior=self.prior))
        else:
            list_runs(self.run)
        return 0


def count_iterations(path: Path) -> int:
    """Finished iterations of a run; 0 where there is none."""
    return len(read_rows(path)) if (path / "config.json").exists() else 0


def list_runs(root: Path) -> None:
    """Print a table of the runs below a folder."""
    runs: list[tuple[Path, Record]] = []
    for path in find_runs(root):
        try:
            runs.append((path, read_record(path)))
        except RunError as error:
            complain(f"left out: {error}")
    console.print(runs_table(root, runs))


def show_run(path: Path, task: Task) -> Policy | None:
    """Print a run: its iterations, theta beside theta*, and the policy before and after.

    Args:
        path: folder of the run.
        task: what was run, see `load_run_task`.

    Returns:
        The aligned policy, if it was saved.
    """
    rows = show_rows(path, task)
    arrays, aligned = read_policy(path, rows), None
    if arrays is not None:
        aligned = task.load_policy(arrays)
        with stderr_console.status("evaluating the policies before and after"):
            table = before_after_table(task, aligned)
        console.print(table)
    console.print(f"run folder: {path}", highlight=False, soft_wrap=True)
    return aligned


def show_rows(path: Path, task: Task) -> list[Row]:
    """Print the iterations of a run, and theta beside theta*; returns its rows.

    Raises:
        RunError: if there are none.
    """
    header = read_config(path)
    config, rows = header["config"], read_sealed_rows(path, header)
    if not rows:
        raise RunError(
            f"{path} has not finished its first iteration; repeat the command that started it to resume"
        )
    console.print(iterations_table(rows, f"{config['task']}, {config['method']}, seed {config['seed']}"))
    reward = METHODS[config["method"]].reward
    if reward is not None:
        console.print(theta_table(task, rows[-1], reward))
    return rows
