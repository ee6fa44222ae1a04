"""The command `mereq tasks`."""

from __future__ import annotations

from dataclasses import dataclass

from mereq_min.lab.commands.console import complaints, console, progress
from mereq_min.lab.plugins import UsageError, load_task, task_factories
from mereq_min.lab.show.tables import (
    tasks_table,
)


@dataclass(frozen=True)
class Tasks:
    """List the tasks with their calibration: how often the prior and the expert itself are intervened on."""

    steps: int = 5_000
    """Steps rolled out for each rate [steps]."""
    seed: int = 0
    """Seed of the rollouts."""

    def __call__(self) -> int:
        """Print the table of the tasks whose packages are installed."""
        tasks = []
        for name in progress(task_factories(), "solving priors and experts"):
            try:
                tasks.append(load_task(name))
            except UsageError as error:
                complaints.print(f"left out: {error}", markup=False, highlight=False, soft_wrap=True)
        console.print(tasks_table(tasks, self.steps, self.seed))
        return 0
