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

import json
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from mereq_min.interfaces import Aligner, Task
from mereq_min.lab.runs.files import RunError, damaged, load_arrays, save_arrays, write_file
from mereq_min.lab.runs.provenance import provenance
from mereq_min.lab.runs.records import (
    Record,
    Row,
    is_finished,
    read_config,
    read_rows,
    read_seconds,
    read_steps,
)
from mereq_min.loop import Iteration, LoopConfig, align
from mereq_min.methods import METHODS, EstimatorConfig, make_aligner
from mereq_min.steps import Steps, concatenate
from mereq_min.validation import check_number


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
        raise damaged(file, error) from error


def _checkpoint(path: Path, iteration: int) -> Path:
    return path / f"checkpoint-{iteration:03d}.safetensors"


def _plain(value: Any) -> Any:
    """Arrays and numpy numbers as JSON knows them; numbers that are not finite as null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
