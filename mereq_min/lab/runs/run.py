"""Runs on disk: `<out>/<task>/<method>/seed<k>/`, written so that a crash at any moment loses one iteration.

    config.json               what was run, with versions and git hash
    iterations.jsonl          one JSON object an iteration, see `records.Row`; replacing this file commits it
    steps-001.safetensors     the steps of iteration 1, ...
    checkpoint-010.safetensors  what the next update depends on, after the last iteration
    policy.safetensors        the last policy, if it offers `state()`
    prior.safetensors         the prior, if it was not the task's own and offers `state()`
    seconds.json              wall time of each iteration; the one file that differs when a run is repeated

Tensors are safetensors (a plain, checked format that many tools read): nothing is ever unpickled.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from threadpoolctl import threadpool_limits

from mereq_min.interfaces import Aligner, Expert, Imperfections, Policy, Task
from mereq_min.lab.plugins import SIMULATED, UsageError, change_task, load_policy, load_task, prepare_task
from mereq_min.lab.runs.files import RunError, damaged, hash_arrays, save_arrays, write_file
from mereq_min.lab.runs.provenance import provenance
from mereq_min.lab.runs.records import (
    Header,
    PriorRecord,
    Row,
    flatten,
    is_finished,
    load_run_arrays,
    read_config,
    read_rows,
    read_seconds,
    read_steps,
)
from mereq_min.loop import Iteration, LoopConfig, align, make_watcher
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
    prior: str | None = None
    """Name of the prior, see `plugins.load_policy`; None is the task's own."""
    expert: str = SIMULATED
    """Who watches, see `plugins.load_expert`."""
    temperature: float | None = None
    """alpha_hat; None is the task's own [reward]."""
    prior_weight: float | None = None
    """omega; None is the task's own."""

    def __post_init__(self) -> None:
        check_number("seed", self.seed, 0, integer=True)
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {self.method!r}")
        if self.temperature is not None:
            check_number("temperature", self.temperature, 0, exclusive=True)
        if self.prior_weight is not None:
            check_number("prior_weight", self.prior_weight, 0)
        simulates = self.loop.demonstrations or self.loop.imperfections != Imperfections()
        if simulates and self.expert != SIMULATED:
            raise ValueError(
                f"demonstrations and imperfections are those of the simulated expert, but expert is "
                f"{self.expert!r}; leave one of the two out"
            )


def slug(config: RunConfig) -> str:
    """The name of the folder that holds the runs of a task, without characters that Windows or scp refuse.

    Runs with another prior, and runs that learn from demonstrations, have folders of their own.
    """
    parts = [_portable(config.task)]
    if config.prior is not None:
        name = Path(config.prior).name
        parts.append(_portable(name if ":" in name else Path(name).stem))
    if config.loop.demonstrations:
        parts.append("demonstrations")
    return "-".join(parts)


def _portable(name: str) -> str:
    return re.sub(r'[<>:"/\\|?*\s]+', "-", name).strip("-. ")


def run_folder(out: Path, config: RunConfig) -> Path:
    """The folder of a run under `out`."""
    return out / slug(config) / config.method / f"seed{config.seed}"


def load_config_task(config: RunConfig, out: Path) -> Task:
    """The task of a run, with the prior, temperature and prior weight of its configuration.

    Experts that have to be trained for them are kept below `out`.
    """
    return prepare_task(
        config.task,
        prior=config.prior,
        temperature=config.temperature,
        prior_weight=config.prior_weight,
        cache=_oracles(out),
    )


def load_run_task(path: Path, *, task: str | None = None, prior: str | None = None) -> Task:
    """The task of a recorded run, with the prior that was saved beside it.

    A module that only the record names is never imported.

    Args:
        path: the run's folder.
        task: name of the task, if it is one of the user's own as module:attribute.
        prior: name of the prior, if the run has another than the task's own and could not save it.

    Raises:
        UsageError: if the record alone does not suffice.
        RunError: if the record is damaged.
    """
    header = read_config(path)
    config = header["config"]
    if task is None and ":" in config["task"]:
        raise UsageError(
            f"the run {path} is of the task {config['task']}, a module that its record alone names; pass "
            f"--task {config['task']} to import it"
        )
    found = load_task(task or config["task"])
    policy = load_policy(prior, found) if prior is not None else _recorded_prior(path, header, found)
    temperature, prior_weight = config["temperature"], config["prior_weight"]
    cache = _oracles(path.resolve().parent.parent.parent)
    return change_task(found, prior=policy, temperature=temperature, prior_weight=prior_weight, cache=cache)


def _recorded_prior(path: Path, header: Header, task: Task) -> Policy | None:
    """The prior that a run was made with; None if it was the task's own."""
    name, file = header["config"]["prior"], path / "prior.safetensors"
    if name is None:
        return None
    if name == "random":  # no table of it, since its kind tells that the whole reward is to be inferred
        return load_policy(name, task)
    if "prior" not in header:
        if name == "expert":
            return load_policy(name, task)
        raise UsageError(f"the prior of {path} could not be saved as arrays; pass --prior {name} again")
    arrays = load_run_arrays(file)
    if hash_arrays(arrays).hex() != header["prior"]["sha256"]:
        raise damaged(file, "it is not the prior that config.json speaks of")
    policy: Any = task.load_policy(arrays)
    temperature = header["prior"]["temperature"]
    if temperature is not None and getattr(policy, "temperature", None) is None:
        policy.temperature = temperature  # the arrays of a table do not hold it
    return policy


def _oracles(out: Path) -> Path:
    return out / "oracles"


# How BLAS splits a sum over threads shows in its last bits, and these tables are too small to gain by it.
@threadpool_limits.wrap(limits=1)
def run(
    task: Task,
    config: RunConfig,
    out: Path,
    *,
    expert: Expert | None = None,
    overwrite: bool = False,
    on_iteration: Callable[[Row], None] = lambda row: None,
) -> Path:
    """Align a task and write the run down, or go on with it where it was interrupted.

    A finished run with the same configuration is left as it is. One with more iterations goes on from there,
    and ends bit for bit as if it had been that long from the start.

    Args:
        task: the task that the config describes, see `load_config_task`.
        config: what to run.
        out: root of the run folders.
        expert: who watches; default: the simulated expert of the task's oracle.
        overwrite: start over, discarding the run that is there.
        on_iteration: called with the row of each iteration, those read from disk too.

    Returns:
        The run's folder.

    Raises:
        RunError: if the folder holds a run of another configuration, or is damaged.
        ValueError: if nobody watches: there is neither an expert nor an oracle.
    """
    path = run_folder(out, config)
    if overwrite:
        discard(path)
    _claim(path, config, task)
    rows, seconds = read_rows(path), read_seconds(path)
    if not rows:
        _save_prior(path, config, task)
    for row in rows:
        on_iteration(row)
    if is_finished(rows, config.loop):
        return path  # a method that starts from scratch would solve once more only to be made
    expert = expert or make_watcher(task, config.loop)
    begun = time.perf_counter()
    aligner = make_aligner(task, METHODS[config.method], config.estimators, seed=config.seed)
    done = [read_steps(path, row["iteration"]) for row in rows]
    if done:
        _restore(path, aligner, done, expert.patience)
        begun = time.perf_counter()
    for iteration in align(task, aligner, config.loop, seed=config.seed, expert=expert, done=done):
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
    """The row of an iteration: its rate, and theta and measures of the policy that came out of it."""
    theta, reward, oracle = iteration.info["theta"], METHODS[config.method].reward, task.oracle
    row: dict[str, Any] = {
        "iteration": iteration.iteration,
        "intervention_rate": iteration.intervention_rate,
        "expert_samples": iteration.expert_samples,
        "steps": iteration.iteration * config.loop.steps_per_iteration,
        **iteration.info,
    }
    if oracle is not None:
        row["reward_distance"] = None if reward is None else oracle.reward_distance(theta, reward)
    return cast(Row, _plain({**row, **task.evaluate(iteration.policy)}))


def _claim(path: Path, config: RunConfig, task: Task) -> None:
    """Begin a run in `path`, or make sure that the one there is the same, or a shorter one."""
    wanted: dict[str, Any] = {"config": _plain(asdict(config)), "definition": define_task(task)}
    arrays = _prior_arrays(config, task)
    if arrays is not None:
        temperature = getattr(task.prior, "temperature", None)
        prior: PriorRecord = {"sha256": hash_arrays(arrays).hex(), "temperature": temperature}
        wanted["prior"] = prior
    if (path / "config.json").exists():
        header = read_config(path)
        differing = find_differences(wanted, header)
        if not differing:
            return
        longer = config.loop.iterations > header["config"]["loop"]["iterations"]
        if set(differing) == {"config.loop.iterations"} and longer:
            header["config"] = wanted["config"]
            write_file(path / "config.json", json.dumps(header, indent=1).encode())
            return
        if read_rows(path):  # without an iteration nothing would be lost
            raise RunError(
                f"{path} holds a run with other settings ({'; '.join(differing.values())}): "
                "choose another --out, or pass --overwrite to discard it"
            )
    elif any(path.glob("[!.]*")):  # a crash may leave a hidden temporary behind, see write_file
        raise RunError(f"{path} is not empty and not a run; choose another --out, or move it away")
    write_file(path / "config.json", json.dumps({**wanted, **provenance()}, indent=1).encode())


def _save_prior(path: Path, config: RunConfig, task: Task) -> None:
    """Keep a prior that is not the task's own beside its run, if it offers its arrays."""
    arrays = _prior_arrays(config, task)
    if arrays is not None:
        save_arrays(path / "prior.safetensors", arrays)


def _prior_arrays(config: RunConfig, task: Task) -> dict[str, Any] | None:
    """The arrays of a prior that is not the task's own, if it offers them."""
    state = getattr(task.prior, "state", None)
    return None if config.prior is None or state is None else state()


def find_differences(wanted: dict[str, Any], header: Header) -> dict[str, str]:
    """Settings in which a recorded run differs from what is wanted, by dotted name, in words."""
    found = flatten(header)
    return {
        name: f"{name} {found.get(name)} there, {value} now"
        for name, value in flatten(wanted).items()
        if found.get(name) != value
    }


def define_task(task: Task) -> dict[str, Any]:
    """The numbers that define a task: an edited task must not be taken for the one that was run.

    Returns:
        Those of the contract and, if the task is a dataclass, all plain numbers and words among its fields.
        `oracle` holds theta*, patience, release and, if it is a number, the rule of the oracle, if any.
    """
    names = ("feature_names", "gamma", "horizon", "temperature", "scaled_prior_weight")
    of_contract = {name: _plain(getattr(task, name)) for name in names}
    settings: list[str] = [each.name for each in fields(task) if each.init] if is_dataclass(task) else []
    numbers = {name: value for name in settings if _is_plain(value := getattr(task, name))}
    definition: dict[str, Any] = {**numbers, **of_contract}
    if task.oracle is not None:
        of_oracle = {
            name: _plain(getattr(task.oracle, name)) for name in ("true_theta", "patience", "release")
        }
        rule = getattr(task.oracle, "rule", None)
        definition["oracle"] = {**of_oracle, "rule": rule} if _is_plain(rule) else of_oracle
    return definition


def _is_plain(value: Any) -> bool:
    return isinstance(value, int | float | str)


def _commit(path: Path, rows: list[Row], iteration: Iteration, aligner: Aligner) -> None:
    """Write an iteration down; it counts from the moment that iterations.jsonl is replaced."""
    save_arrays(path / f"steps-{iteration.iteration:03d}.safetensors", iteration.steps.columns())
    save_arrays(_checkpoint(path, iteration.iteration), aligner.state())
    if hasattr(iteration.policy, "state"):
        save_arrays(path / "policy.safetensors", iteration.policy.state())
    write_file(path / "iterations.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    _checkpoint(path, iteration.iteration - 1).unlink(missing_ok=True)


def _restore(path: Path, aligner: Aligner, done: list[Steps], patience: int) -> None:
    file = _checkpoint(path, len(done))
    try:
        aligner.restore(load_run_arrays(file), concatenate(done), patience)
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
