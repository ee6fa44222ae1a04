"""Runs that are killed on the way."""

from pathlib import Path

import pytest

from mereq_min.interfaces import Task
from mereq_min.lab.runs.config import RunConfig
from mereq_min.lab.runs.run import run


class Killed(BaseException):
    """Stands for kill -9: nothing after it runs."""


def run_until_killed(task: Task, config: RunConfig, out: Path, iteration: int) -> None:
    """Do a run until it has reported an iteration, and kill it there."""

    def kill(row):
        if row["iteration"] == iteration:
            raise Killed

    with pytest.raises(Killed):
        run(task, config, out, on_iteration=kill)
