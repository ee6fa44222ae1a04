"""Reads a log of any kind as `Steps` of a task, and writes the steps of a run as a log."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mereq_min.interfaces import Task
from mereq_min.lab.datasets.columns import LogError, make_steps, reading
from mereq_min.lab.datasets.lerobot import read_lerobot, write_lerobot
from mereq_min.lab.datasets.minari import read_minari, write_minari
from mereq_min.lab.datasets.tables import read_csv, read_parquet, write_csv, write_parquet
from mereq_min.lab.plugins import make_closed_env
from mereq_min.lab.runs.checks import check_steps
from mereq_min.lab.runs.config import RECORDED, RecordedLog, RunConfig
from mereq_min.lab.runs.files import hash_arrays
from mereq_min.lab.runs.records import load_steps, read_config, read_sealed_rows
from mereq_min.loop import LoopConfig
from mereq_min.methods import EstimatorConfig
from mereq_min.steps import Steps, concatenate

Format = Literal["minari", "lerobot", "csv", "parquet"]
"""The formats that logs are written in."""

FRAMES_PER_SECOND = 10
"""Steps per second of tasks whose environment does not tell its `render_fps`."""


@dataclass(frozen=True)
class Log:
    """A log that was read.

    Attributes:
        iterations: its steps by iteration of the run that it was recorded in; those of each policy version,
            if it is not the folder of the run itself.
        record: what a run that fits them keeps of it.
    """

    iterations: list[Steps]
    record: RecordedLog

    @property
    def steps(self) -> Steps:
        """All its steps."""
        return concatenate(self.iterations)

    def config(
        self, task: str, method: str, seed: int, estimators: EstimatorConfig, **rest: Any
    ) -> RunConfig:
        """The configuration of a run that fits this log; the arguments are those of `RunConfig`."""
        loop = LoopConfig(len(self.iterations), len(self.iterations[0]))
        return RunConfig(task, method, seed, loop, estimators, expert=RECORDED, log=self.record, **rest)


@dataclass(frozen=True)
class LogSource:
    """A log on disk: the folder of a run, a Minari dataset, a LeRobotDataset v3, or a CSV or Parquet file."""

    path: Path
    """The file or folder."""
    patience: int | None = None
    """Steps before a takeover that provoked it; default: those of the task's oracle, or 1 [steps]."""
    demonstrations: bool = False
    """Whether a log that marks no interventions holds whole demonstrations of the expert."""

    def load(self, task: Task) -> Log:
        """Read the log as steps of a task, see `columns.make_steps`.

        Raises:
            LogError: if there is none, it cannot be the task's, or nobody intervenes in it.
        """
        with reading(self.path):
            iterations = _read_iterations(self.path, task, self.demonstrations)
        steps = concatenate(iterations)
        if not steps.is_intervention.any():
            raise LogError(f"nobody intervenes in {self.path}, so that nothing can be learned from it")
        patience = self.patience
        if patience is None:
            patience = 1 if task.oracle is None else task.oracle.patience
        sha256 = hash_arrays(steps.columns()).hex()
        return Log(iterations, RecordedLog(name_log(self.path), sha256, patience))


def name_log(path: Path) -> str:
    """What a log is called in the name of a folder: a run by its task and method too."""
    path = path.resolve()
    return "-".join(path.parts[-3:]) if (path / "config.json").exists() else path.stem


def _read_iterations(path: Path, task: Task, demonstrations: bool) -> list[Steps]:
    names = task.feature_names
    if (path / "config.json").exists():
        return _read_run(path, task)
    is_exact = True
    if (path / "meta" / "info.json").exists():
        columns, is_exact = read_lerobot(path, names), False
    elif (path / "data" / "metadata.json").exists() or (path / "metadata.json").exists():
        columns = read_minari(path)
    elif path.suffix == ".csv":
        columns, is_exact = read_csv(path, names), False
    elif path.suffix == ".parquet":
        columns = read_parquet(path, names)
    elif path.exists():
        raise ValueError(
            "it is neither a .csv or .parquet file nor the folder of a run, a Minari dataset or a "
            "LeRobotDataset v3"
        )
    else:
        raise ValueError("there is no such file or folder")
    steps = make_steps(task, columns, is_exact=is_exact, demonstrations=demonstrations)
    return [steps.select(steps.policy_version == version) for version in np.unique(steps.policy_version)]


def _read_run(path: Path, task: Task) -> list[Steps]:
    iterations = _load_iterations(path)
    steps = concatenate(iterations)
    env = make_closed_env(task)
    check_steps(steps, env, len(task.feature_names))
    if (names := read_config(path)["definition"]["feature_names"]) != list(task.feature_names):
        raise ValueError(f"its features are {', '.join(names)}, those of {task.name} are others")
    return iterations


def read_run_steps(path: Path) -> Steps:
    """All steps of a run.

    Raises:
        RunError: if it is not a run, has no iteration yet, or is damaged.
    """
    return concatenate(_load_iterations(path))


def _load_iterations(path: Path) -> list[Steps]:
    read_config(path)
    rows = read_sealed_rows(path)
    if not rows:
        raise LogError(f"{path} has not finished its first iteration")
    return [load_steps(path, row["iteration"], row) for row in rows]


def write_log(target: Path, kind: Format, steps: Steps, task: Task) -> None:
    """Write steps as a log; a folder appears under its name when it is complete.

    Args:
        target: the file or folder to make.
        kind: its format.
        steps: the steps of a run.
        task: the task that they are of.

    Raises:
        LogError: if there is something in its place, or the format cannot hold the steps.
    """
    if target.exists():
        raise LogError(f"{target} is there already; move it away or choose another --out")
    names = task.feature_names
    if kind == "csv":
        write_csv(target, steps, names)
    elif kind == "parquet":
        write_parquet(target, steps, names)
    else:
        env = make_closed_env(task)
        part = target.with_name(f".{target.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        try:
            if kind == "minari":
                write_minari(part, steps, env, name=target.name)
            else:
                fps = round(env.metadata.get("render_fps") or FRAMES_PER_SECOND)
                write_lerobot(part, steps, names, task=task.name, fps=max(1, fps))
            part.rename(target)
        finally:
            shutil.rmtree(part, ignore_errors=True)
