"""The command `mereq tasks`."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.live import Live
from rich.table import Table

from mereq_min.lab.commands.console import complain, console, stderr_console
from mereq_min.lab.plugins import UsageError, check_name, find_entries, load_task
from mereq_min.lab.runs import calibration
from mereq_min.lab.show.tables import add_task, tasks_table
from mereq_min.validation import check_number

if TYPE_CHECKING:
    from mereq_min.lab.runs.calibration import Calibration


@dataclass(frozen=True)
class Tasks:
    """List the tasks with their calibration: how often the expert intervenes on the prior and on itself.

    The rates are those kept beside the tasks, unless --measure asks for new ones. A task that was not
    calibrated, or that has no simulated expert, is listed with dashes.
    """

    tasks: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[TASK [TASK ...]]")] = ()
    """Names of the tasks to list; all, if none is named."""
    measure: tyro.conf.FlagCreatePairsOff[bool] = False
    """Measure the rates now, instead of reading them."""
    record: tyro.conf.FlagCreatePairsOff[bool] = False
    """Keep what was measured beside the tasks, in calibration.json of their package."""
    steps: int = 20_000
    """Steps for which prior and expert are watched, if measured [steps]."""
    seed: int = 0
    """Seed of the rollouts, if measured."""

    def __post_init__(self) -> None:
        check_number("steps", self.steps, 1, integer=True)
        check_number("seed", self.seed, 0, integer=True)

    def __call__(self) -> int:
        """Print the table."""
        if self.record and not self.measure:
            raise UsageError("--record keeps what --measure measures; pass both")
        names = {entry: self._load_names(entry) for entry in find_entries("tasks")}
        known = [name for each in names.values() for name in each]
        for name in self.tasks:
            check_name("task", name, known)
        table = tasks_table()
        if not self.measure:
            for entry, each in names.items():
                kept = calibration.read(calibration.find_file(entry))
                for name in self._wanted(each):
                    add_task(table, name, kept.get(name))
            console.print(table)
            return 0
        with Live(table, console=console):
            for entry, each in names.items():
                self._measure(entry, self._wanted(each), table)
        return 0

    def _load_names(self, entry: EntryPoint) -> list[str]:
        """Names of the tasks of an entry point; none if its package cannot be imported."""
        try:
            return list(entry.load())
        except ModuleNotFoundError as error:
            complain(f"left out the tasks of {entry.name}: {error}")
            return []

    def _wanted(self, names: list[str]) -> list[str]:
        return [name for name in names if not self.tasks or name in self.tasks]

    def _measure(self, entry: EntryPoint, names: list[str], table: Table) -> None:
        """Measure the tasks of an entry point, add them to the table, and keep them if asked to."""
        found: dict[str, Calibration] = {}
        for name in names:
            stderr_console.print(f"measuring {name}", highlight=False)
            try:
                measured = calibration.measure(load_task(name), self.steps, self.seed)
            except UsageError as error:
                complain(f"left out: {error}")
                continue
            add_task(table, name, measured)
            if measured is not None:
                found[name] = measured
        file = calibration.find_file(entry)
        if self.record and found:
            if file is None:
                raise UsageError(f"the tasks of {entry.name} are in no package that could keep a file")
            calibration.write(file, {**calibration.read(file), **found})
            stderr_console.print(f"recorded in {file}", highlight=False, soft_wrap=True)
