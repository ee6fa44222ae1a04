"""Runs on disk: `<out>/<task>/<method>/seed<k>/`, written so that a kill at any moment loses one iteration.

    config.json               what was run, with versions and git hash
    iterations.jsonl          one JSON object an iteration; replacing this file commits the iteration
    steps-001.safetensors     the steps of iteration 1, ...
    checkpoint-010.safetensors  what the next update depends on, after the last iteration
    policy.safetensors        the last policy, if it offers `state()`
    seconds.json              wall time of each iteration; the one file that differs when a run is repeated

Tensors are safetensors (a plain, checked format that many tools read): nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import gzip
import importlib.metadata
import json
import math
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save
from threadpoolctl import threadpool_limits

from mereq_min.checks import check_number
from mereq_min.interfaces import Task
from mereq_min.loop import Iteration, LoopConfig, align
from mereq_min.methods import METHODS, Aligner, EstimatorConfig, make_aligner
from mereq_min.steps import Steps, concatenate

Row = dict[str, Any]
Record = dict[str, Any]


class RunError(RuntimeError):
    """A run folder cannot be used as asked; the message says what to do."""


@dataclass(frozen=True)
class RunConfig:
    """Everything that a run depends on beside the task's own definition."""

    task: str
    """Name of the task."""
    method: str = "MEReQ"
    """Name of the method, see `mereq_min.METHODS`."""
    seed: int = 0
    """Seed of all randomness."""
    loop: LoopConfig = field(default_factory=LoopConfig)
    estimators: EstimatorConfig = field(default_factory=EstimatorConfig)

    def __post_init__(self) -> None:
        check_number("seed", self.seed, 0, whole=True)
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {self.method!r}")


def run_folder(out: Path, config: RunConfig) -> Path:
    """The folder of a run under `out`."""
    return out / config.task / config.method / f"seed{config.seed}"


# How BLAS splits a sum over threads shows in its last bits, and these tables are too small to gain by it.
@threadpool_limits.wrap(limits=1)
def run(
    task: Task,
    config: RunConfig,
    out: Path,
    *,
    overwrite: bool = False,
    on_iteration: Callable[[Row], None] = lambda row: None,
) -> Path:
    """Align a task and write the run down, or go on with it where it was interrupted.

    A finished run with the same configuration is left as it is.

    Args:
        task: the task named in the config.
        config: what to run.
        out: root of the run folders.
        overwrite: start over, discarding the run that is there.
        on_iteration: called with the row of each iteration, those read from disk too.

    Returns:
        The run's folder.

    Raises:
        RunError: if the folder holds a run of another configuration, or is damaged.
    """
    path = run_folder(out, config)
    if overwrite:
        discard(path)
    _claim(path, config, task)
    rows, seconds = read_rows(path), read_seconds(path)
    for row in rows:
        on_iteration(row)
    if is_finished(rows, config.loop):
        return path  # building what goes on would cost a method that starts from scratch its first solve
    begun = time.perf_counter()
    aligner = make_aligner(task, METHODS[config.method], config.estimators, seed=config.seed)
    done = [read_steps(path, row["iteration"]) for row in rows]
    if done:
        _restore(path, aligner, done)
        begun = time.perf_counter()
    for iteration in align(task, aligner, config.loop, seed=config.seed, done=done):
        rows.append(describe(task, config, iteration))
        seconds[iteration.iteration] = time.perf_counter() - begun
        write_file(path / "seconds.json", json.dumps(seconds).encode())
        _commit(path, rows, iteration, aligner)
        on_iteration(rows[-1])
        begun = time.perf_counter()
    return path


def discard(path: Path) -> None:
    """Delete a run; a folder that holds something else is left alone."""
    if (path / "config.json").exists():
        shutil.rmtree(path)


def is_finished(rows: Sequence[Row], loop: LoopConfig) -> bool:
    """Whether a run with these rows did all its iterations, or got below its threshold."""
    return len(rows) >= loop.iterations or (bool(rows) and rows[-1]["intervention_rate"] < loop.threshold)


def describe(task: Task, config: RunConfig, iteration: Iteration) -> Row:
    """The row of an iteration: its rate, and theta and measures of the policy that came out of it.

    Keys: `iteration`, `intervention_rate`, `expert_samples` and `steps` (running totals), what the update
    reported (`theta`, `standard_errors`, ...; null where not finite), `reward_distance` (STARC), and the
    measures of `Task.evaluate`.
    """
    theta, reward = iteration.info["theta"], METHODS[config.method].reward
    return _plain(
        {
            "iteration": iteration.iteration,
            "intervention_rate": iteration.intervention_rate,
            "expert_samples": iteration.expert_samples,
            "steps": iteration.iteration * config.loop.steps_per_iteration,
            **iteration.info,
            "reward_distance": None if reward is None else task.reward_distance(theta, reward),
            **task.evaluate(iteration.policy),
        }
    )


def read_config(path: Path) -> Record:
    """The contents of a run's config.json.

    Raises:
        RunError: if there is none, or it is damaged.
    """
    file = path / "config.json"
    if not file.is_file():
        raise RunError(f"{path} is not a run: it has no config.json")
    try:
        record = json.loads(file.read_text())
        if not {"config", "definition"} <= set(record) or record["config"]["method"] not in METHODS:
            raise ValueError("it does not say what was run")
    except (ValueError, TypeError, KeyError) as error:
        raise _damaged(file, error) from error
    return record


def read_rows(path: Path) -> list[Row]:
    """The rows of a run's finished iterations.

    Raises:
        RunError: if the file is damaged.
    """
    file = path / "iterations.jsonl"
    if not file.exists():
        return []
    try:
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        if [row["iteration"] for row in rows] != list(range(1, len(rows) + 1)):
            raise ValueError("iterations are missing")
        if not all({"intervention_rate", "expert_samples", "theta"} <= set(row) for row in rows):
            raise ValueError("columns are missing")
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(file, error) from error
    return rows


def read_seconds(path: Path) -> dict[int, float]:
    """Wall time of each iteration by its number, as far as it was kept [s]."""
    file = path / "seconds.json"
    if not file.exists():
        return {}
    try:
        return {int(iteration): float(taken) for iteration, taken in json.loads(file.read_text()).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise _damaged(file, error) from error


def read_record(path: Path) -> Record:
    """What a run was and what came of it: the contents of config.json, and its rows as `iterations`."""
    return {**read_config(path), "iterations": read_rows(path)}


def is_complete(record: Record) -> bool:
    """Whether a recorded run is finished, see `is_finished`."""
    loop = record["config"]["loop"]
    return is_finished(record["iterations"], LoopConfig(loop["iterations"], threshold=loop["threshold"]))


def read_steps(path: Path, iteration: int) -> Steps:
    """The steps of one iteration, exactly as they were taken.

    Raises:
        RunError: if the file is missing or damaged.
    """
    file = path / f"steps-{iteration:03d}.safetensors"
    try:
        return Steps(**load_arrays(file))
    except (TypeError, ValueError) as error:
        raise _damaged(file, error) from error


def load_arrays(file: Path) -> dict[str, NDArray[Any]]:
    """Read named arrays from a safetensors file.

    Raises:
        RunError: if the file is missing or damaged.
    """
    try:
        return load(file.read_bytes())
    except (OSError, SafetensorError, KeyError) as error:  # KeyError: numbers of a type that numpy has not
        raise _damaged(file, error) from error


def save_arrays(file: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Write named arrays as a safetensors file, in one step."""
    # safetensors writes the buffer as it lies in memory, whatever the strides.
    write_file(file, save({name: np.asarray(array, order="C") for name, array in arrays.items()}))


def write_events(folder: Path, rows: Sequence[Row], names: Sequence[str]) -> None:
    """Write the rows of a run as TensorBoard event files, in place of those that are there.

    Args:
        folder: for the files.
        rows: of the run's iterations.
        names: (K,) of the features, which name the entries of vectors such as theta.

    Raises:
        RunError: if TensorBoard is not installed.
    """
    try:
        from tensorboard.summary import Writer
    except ModuleNotFoundError as error:
        raise RunError("--tensorboard needs TensorBoard; pip install 'mereq-min[deep]'") from error
    shutil.rmtree(folder, ignore_errors=True)
    writer = Writer(str(folder))
    for row in rows:
        for key, value in row.items():
            vector = dict(zip(names, value, strict=True)) if isinstance(value, list) else {}
            tags = {f"{key}/{name}": entry for name, entry in vector.items()} or {key: value}
            for tag, number in tags.items():
                if number is not None:
                    writer.add_scalar(tag, float(number), row["iteration"])
    writer.close()


def find_runs(root: Path) -> list[Path]:
    """All run folders below `root` with a finished iteration, sorted."""
    return sorted(file.parent for file in root.rglob("iterations.jsonl"))


def bundle(paths: Iterable[Path], file: Path) -> None:
    """Write runs as one gzipped file, a JSON object {"config", "versions", "git", "iterations"} a line."""
    lines = "".join(json.dumps(read_record(path)) + "\n" for path in paths)
    write_file(file, gzip.compress(lines.encode(), mtime=0))  # no time stamp: the same runs, the same bytes


def read_bundle(file: Path) -> Iterator[Record]:
    """The runs of a file written by `bundle`.

    Raises:
        RunError: if the file is missing or damaged.
    """
    try:
        for line in gzip.decompress(file.read_bytes()).splitlines():
            yield json.loads(line)
    except (OSError, EOFError, ValueError) as error:
        raise RunError(
            f"{file} is missing or damaged ({error}); run the comparison again to write it"
        ) from error


def _claim(path: Path, config: RunConfig, task: Task) -> None:
    """Begin a run in `path`, or make sure that the one there is the same."""
    wanted = {"config": _plain(asdict(config)), "definition": define_task(task)}
    if (path / "config.json").exists():
        found = _flatten(read_config(path))
        differing = [
            f"{name} {found.get(name)} there, {value} now"
            for name, value in _flatten(wanted).items()
            if found.get(name) != value
        ]
        if not differing:
            return
        if read_rows(path):  # without an iteration nothing would be lost
            raise RunError(
                f"{path} holds a run with other settings ({'; '.join(differing)}): "
                "choose another --out, or pass --overwrite to discard it"
            )
    elif any(path.glob("[!.]*")):  # a kill may leave a hidden temporary behind, see write_file
        raise RunError(f"{path} is not empty and not a run; choose another --out, or move it away")
    write_file(path / "config.json", json.dumps({**wanted, **provenance()}, indent=1).encode())


def _flatten(record: Record, prefix: str = "") -> Record:
    """Nested settings by dotted names."""
    flat: Record = {}
    for name, value in record.items():
        flat.update(
            _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
        )
    return flat


def define_task(task: Task) -> Record:
    """The numbers of a task's contract and, of a dataclass, of its settings, such as those of its expert's
    rule: an edited task must not be taken for the one that was run."""
    names = (
        "feature_names", "prior_weights", "expert_weights", "prior_weight", "prior_temperature",
        "temperature", "gamma", "horizon", "patience",
    )  # fmt: skip
    settings: Record = {f.name: getattr(task, f.name) for f in fields(task)} if is_dataclass(task) else {}
    numbers = {name: value for name, value in settings.items() if isinstance(value, (int, float, str))}
    return {**numbers, **{name: _plain(getattr(task, name)) for name in names}}


def _commit(path: Path, rows: list[Row], iteration: Iteration, aligner: Aligner) -> None:
    """Write an iteration down; it counts from the moment that iterations.jsonl is replaced."""
    save_arrays(path / f"steps-{iteration.iteration:03d}.safetensors", iteration.steps.columns())
    save_arrays(_checkpoint(path, iteration.iteration), aligner.state())
    if hasattr(iteration.policy, "state"):
        save_arrays(path / "policy.safetensors", iteration.policy.state())
    write_file(path / "iterations.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    _checkpoint(path, iteration.iteration - 1).unlink(missing_ok=True)


def _restore(path: Path, aligner: Aligner, done: list[Steps]) -> None:
    file = _checkpoint(path, len(done))
    try:
        aligner.restore(load_arrays(file), concatenate(done))
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(file, error) from error


def _checkpoint(path: Path, iteration: int) -> Path:
    return path / f"checkpoint-{iteration:03d}.safetensors"


def write_file(file: Path, data: bytes) -> None:
    """Replace a file in one step, so that a kill leaves the old one or the new one.

    What a kill leaves of the hidden temporary, the next write of the same file replaces.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.part")
    with temporary.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(file)


def _plain(value: Any) -> Any:
    """Arrays and numpy numbers as JSON knows them; numbers that are not finite as null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def provenance() -> Record:
    """Versions and git hash, to be kept beside every recorded result."""
    versions = {"python": platform.python_version()}
    for name in ("mereq-min", "numpy", "scipy", "gymnasium", "torch", "numba", "highway-env"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # the latter are extras
            versions[name] = importlib.metadata.version(name)
    return {"versions": versions, "git": _git_hash()}


def _git_hash() -> str | None:
    """Commit of the source tree that this package runs from, None outside of one."""
    here = Path(__file__)

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, cwd=here.parent, capture_output=True, text=True, check=True).stdout

    try:
        git("ls-files", "--error-unmatch", here.name)  # an installed copy may lie inside somebody else's tree
        return git("describe", "--always", "--dirty", "--abbrev=40").strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _damaged(file: Path, error: Exception) -> RunError:
    return RunError(
        f"{file} is missing or damaged ({error}); delete {file.parent} or pass --overwrite to run it again"
    )
