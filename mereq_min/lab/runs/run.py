"""Runs on disk: `<out>/<task>/<method>/seed<k>/`, written so that a crash loses at most one iteration.

    config.json               what was run, with versions and git hash
    iterations.jsonl          one JSON object per iteration, see `records.Row`; replacing this file commits it
    steps-001.safetensors     the steps of iteration 1, ...
    checkpoint-010.safetensors  what the next update depends on, after the last iteration
    policy.safetensors        the last policy, if it offers `arrays()`
    prior.safetensors         the prior, if it was not the task's own and offers `arrays()`
    seconds.json              wall time of each iteration; the one file that differs when a run is repeated
    curve.png, film.gif       drawings; tensorboard/ if it was asked for

One process at a time writes a run: it holds the lock `.seed<k>.lock` beside the folder, see `lock.hold`.
Every file down to prior.safetensors is covered by a SHA-256 in config.json or iterations.jsonl, and checked
when the run is opened again. Nothing that a run names is ever imported or opened as a path.

Tensors are safetensors (a plain, checked format that many tools read): nothing is ever unpickled.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from threadpoolctl import threadpool_limits

from mereq_min.interfaces import Aligner, Expert, Policy, Task
from mereq_min.lab.plugins import (
    UsageError,
    change_task,
    load_policy,
    load_task,
    make_closed_env,
    prepare_task,
)
from mereq_min.lab.runs.checks import check_against_row, check_steps
from mereq_min.lab.runs.config import RunConfig, run_folder
from mereq_min.lab.runs.files import (
    Arrays,
    RunError,
    damaged,
    hash_arrays,
    move_file,
    save_arrays,
    sync_folder,
    write_file,
)
from mereq_min.lab.runs.lock import hold
from mereq_min.lab.runs.provenance import provenance
from mereq_min.lab.runs.records import (
    Header,
    PriorRecord,
    Row,
    flatten,
    is_finished,
    load_run_arrays,
    load_steps,
    policy_file,
    read_config,
    read_policy,
    read_prior,
    read_sealed_rows,
    read_seconds,
    seal,
    unseal,
    write_config,
)
from mereq_min.loop import Iteration, align, fit_log, make_watcher
from mereq_min.methods import METHODS, make_aligner
from mereq_min.metrics import THRESHOLDS, confirmed_rates
from mereq_min.rollout import watch
from mereq_min.steps import Steps, concatenate

REMEASURED_EPISODES = 20
"""Least number of episodes over which a rate is measured again [episodes]."""


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
    found = find_recorded_task(path, task)
    header = read_config(path)
    config = header["config"]
    policy = load_policy(prior, found) if prior is not None else _recorded_prior(path, header, found)
    temperature, prior_weight = config["temperature"], config["prior_weight"]
    cache = _oracles(path.resolve().parent.parent.parent)
    return change_task(found, prior=policy, temperature=temperature, prior_weight=prior_weight, cache=cache)


def find_recorded_task(path: Path, task: str | None = None) -> Task:
    """The task of a recorded run as it is by itself; see `load_run_task`."""
    name = read_config(path)["config"]["task"]
    if task is None and ":" in name:
        raise UsageError(
            f"the run {path} is of the task {name}, a module that its record alone names; pass --task {name} "
            "to import it"
        )
    return load_task(task or name)


def _recorded_prior(path: Path, header: Header, task: Task) -> Policy | None:
    """The prior that a run was made with; None if it was the task's own."""
    name = header["config"]["prior"]
    if name is None:
        return None
    if name == "random":  # no table of it, since its kind tells that the whole reward is to be inferred
        return load_policy(name, task)
    arrays = read_prior(path, header)
    if arrays is None:
        if name == "expert":
            return load_policy(name, task)
        raise UsageError(f"the prior of {path} could not be saved as arrays; pass --prior {name} again")
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
    recorded: Sequence[Steps] = (),
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
        recorded: the iterations of the log that the configuration names, if it names one; they are fitted in
            place of rollouts.
        overwrite: start over, discarding the run that is there.
        on_iteration: called with the row of each iteration, those read from disk too.

    Returns:
        The run's folder.

    Raises:
        RunError: if the folder holds a run of another configuration, or is damaged.
        ValueError: if nobody watches: there is neither an expert nor an oracle.
    """
    path = run_folder(out, config)
    with hold(path):
        if overwrite:
            _delete(path)
        header, rows = claim(path, config, task)
        open_run(path, header, rows, config)
        for row in rows:
            on_iteration(unseal(row))
        if not is_finished(rows, config.loop):
            _go_on(path, rows, task, config, expert, recorded, on_iteration)
    return path


def _go_on(
    path: Path,
    rows: list[Row],
    task: Task,
    config: RunConfig,
    expert: Expert | None,
    recorded: Sequence[Steps],
    on_iteration: Callable[[Row], None],
) -> None:
    """Do the iterations of a run that are not in its record yet."""
    seconds = read_seconds(path)
    if not rows:
        save_prior(path, config, task)
    watcher = None if config.log is not None else expert or make_watcher(task, config.loop)
    begun = time.perf_counter()
    aligner = make_aligner(task, METHODS[config.method], config.estimators, seed=config.seed)
    done = read_done(path, rows, task, config) if config.log is None else list(recorded[: len(rows)])
    if config.log is None:
        assert watcher is not None
        patience = watcher.patience
        iterations = align(task, aligner, config.loop, seed=config.seed, expert=watcher, done=done)
    else:
        patience = config.log.patience
        iterations = fit_log(aligner, recorded, patience, n_done=len(done))
    if done:
        restore(path, aligner, rows, done, patience)
        begun = time.perf_counter()
    watched, measures = aligner.policy, None
    for iteration in iterations:
        if measures is None or iteration.policy is not watched:
            measures = task.evaluate(iteration.policy)
        row = describe(task, config, iteration, measures, before=rows[-1]["steps"] if rows else 0)
        # The rate of a log is that of the policies that were recorded, which are not there.
        if config.log is None and task.oracle is not None and needs_remeasuring(rows, row):
            row["remeasured_rate"] = _remeasure(task, watched, config.seed, iteration.iteration)
        watched = iteration.policy
        seconds[iteration.iteration] = time.perf_counter() - begun
        write_file(path / "seconds.json", json.dumps(seconds).encode())
        commit(path, rows, row, iteration.steps, aligner.arrays(), policy_arrays(iteration.policy))
        on_iteration(row)
        begun = time.perf_counter()


def needs_remeasuring(rows: Sequence[Row], row: Row) -> bool:
    """Whether the rate of an iteration is below a threshold that none before is known to have passed.

    A first rate below a threshold may be luck; it is confirmed if the policy has such a rate again.

    Args:
        rows: the rows before it.
        row: the row of the iteration.
    """
    known = min((confirmed_rates([each])[0] for each in rows), default=math.inf)
    return any(row["intervention_rate"] < threshold <= known for threshold in THRESHOLDS)


def _remeasure(task: Task, policy: Policy, seed: int, iteration: int) -> float:
    """Return the intervention rate over fresh episodes, watched by the oracle's expert without errors."""
    assert task.oracle is not None
    n_steps = REMEASURED_EPISODES * task.horizon
    return watch(task, policy, task.oracle, n_steps, [seed, iteration]).intervention_rate


def discard(path: Path) -> None:
    """Delete a run; a folder that holds something else is left alone.

    Raises:
        RunError: if another process is writing the run.
    """
    with hold(path):
        _delete(path)


def _delete(path: Path) -> None:
    """Delete a run whose lock is held, so that what a crash leaves of it is a run without iterations."""
    if not (path / "config.json").exists():
        return
    (path / "iterations.jsonl").unlink(missing_ok=True)
    sync_folder(path)
    for part in path.iterdir():
        if part.is_dir() and not part.is_symlink():
            shutil.rmtree(part)
        elif part.name != "config.json":
            part.unlink()
    (path / "config.json").unlink()
    path.rmdir()


def describe(
    task: Task, config: RunConfig, iteration: Iteration, measures: dict[str, Any], *, before: int
) -> Row:
    """The row of an iteration: its rate, and theta and measures of the policy that came out of it.

    Args:
        task: what is aligned.
        config: how.
        iteration: the iteration.
        measures: of its policy, see `Task.evaluate`.
        before: steps of all earlier iterations [steps].
    """
    theta, reward, oracle = iteration.info["theta"], METHODS[config.method].reward, task.oracle
    row: dict[str, Any] = {
        "iteration": iteration.iteration,
        "intervention_rate": iteration.intervention_rate,
        "expert_samples": iteration.expert_samples,
        "steps": before + len(iteration.steps),
        **iteration.info,
    }
    if oracle is not None:
        row["reward_distance"] = None if reward is None else oracle.reward_distance(theta, reward)
    return cast(Row, plain({**row, **measures}))


def claim(path: Path, config: RunConfig, task: Task) -> tuple[Header, list[Row]]:
    """Begin a run in `path`, or make sure that the one there is the same, or a shorter one.

    Returns:
        What config.json now says, and the rows of the finished iterations, see `records.read_sealed_rows`.
    """
    wanted: dict[str, Any] = {"config": plain(asdict(config)), "definition": define_task(task)}
    arrays = _prior_arrays(config, task)
    if arrays is not None:
        temperature = getattr(task.prior, "temperature", None)
        prior: PriorRecord = {"sha256": hash_arrays(arrays).hex(), "temperature": temperature}
        wanted["prior"] = prior
    if (engine := getattr(task, "engine", None)) is not None:  # another rounding leads to another run
        wanted["engine"] = engine
    if (path / "config.json").exists():
        header = read_config(path)
        rows = read_sealed_rows(path, header)
        if rows:  # without an iteration nothing would be lost
            return _take_up(path, header, wanted, is_finished(rows, config.loop)), rows
    elif any(path.glob("[!.]*")):  # a crash may leave a hidden temporary behind, see write_file
        raise RunError(f"{path} is not empty and not a run; choose another --out, or move it away")
    header = cast(Header, {**wanted, **provenance()})
    write_config(path, header)
    return read_config(path), []


def _take_up(path: Path, header: Header, wanted: dict[str, Any], finished: bool) -> Header:
    """Make sure that a run with iterations is the one that is wanted, or a shorter one, and lengthen that."""
    differing = find_differences(wanted, {"engine": "torch", **header})  # which was the only one once
    longer = wanted["config"]["loop"]["iterations"] > header["config"]["loop"]["iterations"]
    if differing and not (set(differing) == {"config.loop.iterations"} and longer):
        raise RunError(
            f"{path} holds a run with other settings ({'; '.join(differing.values())}): "
            "choose another --out, or delete that folder to start over"
        )
    if "sha256" not in header and not finished:
        raise RunError(
            f"{path} was written by an older version without hashes and cannot be resumed safely; choose "
            "another --out, or delete that folder to start over"
        )
    if differing:
        header["config"] = wanted["config"]
        write_config(path, header)
    return header


def open_run(path: Path, header: Header, rows: Sequence[Row], config: RunConfig) -> None:
    """Check the files of a run that was claimed, see `claim`, and end what a crash left half done.

    A run from before hashes were kept is left as it is.

    Raises:
        RunError: if a file is missing or damaged.
    """
    if "sha256" not in header:
        return
    if rows:
        read_policy(path, rows)
        read_prior(path, header)
        load_run_arrays(checkpoint_file(path, len(rows)), rows[-1]["sha256"]["checkpoint"])
        if is_finished(rows, config.loop):  # else they are read when the run goes on
            for row in rows:
                load_steps(path, row["iteration"], row)
        if "policy" in rows[-1]["sha256"] and policy_file(path, len(rows)) != path / "policy.safetensors":
            move_file(policy_file(path, len(rows)), path / "policy.safetensors")
    for file in path.iterdir():
        if _is_left_over(file.name, len(rows)):
            file.unlink()


def _is_left_over(name: str, iterations: int) -> bool:
    """Whether a file of that name in a run with so many iterations is from a write that a crash ended."""
    if re.fullmatch(r"\.[a-z]+(-\d+)?\.(json|jsonl|safetensors)(\.[0-9a-f]+)?\.part", name):
        return True
    if iterations == 0 and name in ("policy.safetensors", "prior.safetensors"):
        return True
    if (numbered := re.fullmatch(r"(steps|checkpoint|policy)-(\d+)\.safetensors", name)) is None:
        return False
    kind, number = numbered[1], int(numbered[2])
    return number > iterations if kind == "steps" else kind == "policy" or number != iterations


def save_prior(path: Path, config: RunConfig, task: Task) -> None:
    """Keep a prior that is not the task's own beside its run, if it offers its arrays."""
    arrays = _prior_arrays(config, task)
    if arrays is not None:
        save_arrays(path / "prior.safetensors", arrays)


def _prior_arrays(config: RunConfig, task: Task) -> dict[str, Any] | None:
    """The arrays of a prior that is not the task's own, if it offers them."""
    return None if config.prior is None else policy_arrays(task.prior)


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
    of_contract = {name: plain(getattr(task, name)) for name in names}
    settings: list[str] = [each.name for each in fields(task) if each.init] if is_dataclass(task) else []
    numbers = {name: value for name in settings if _is_plain(value := getattr(task, name))}
    definition: dict[str, Any] = {**numbers, **of_contract}
    if task.oracle is not None:
        of_oracle = {
            name: plain(getattr(task.oracle, name)) for name in ("true_theta", "patience", "release")
        }
        rule = getattr(task.oracle, "rule", None)
        definition["oracle"] = {**of_oracle, "rule": rule} if _is_plain(rule) else of_oracle
    return definition


def _is_plain(value: Any) -> bool:
    return isinstance(value, int | float | str)


def commit(
    path: Path, rows: list[Row], row: Row, steps: Steps, checkpoint: Arrays, policy: Arrays | None
) -> None:
    """Write an iteration down; it counts from the moment that iterations.jsonl is replaced.

    Args:
        path: the run's folder, whose lock is held.
        rows: the rows before; the new one is appended.
        row: the new row, without hashes.
        steps: the steps of the iteration.
        checkpoint: what the next update depends on.
        policy: the policy's arrays, None if it offers none.
    """
    number = row["iteration"]
    files = {
        "steps": save_arrays(path / f"steps-{number:03d}.safetensors", steps.columns()),
        "checkpoint": save_arrays(checkpoint_file(path, number), checkpoint),
    }
    if policy is not None:  # the policy of the row before must stay until this row is there
        files["policy"] = save_arrays(path / f"policy-{number:03d}.safetensors", policy)
    sealed = seal(row, files, rows)
    write_rows_file(path, [*rows, sealed])
    rows.append(sealed)
    if "policy" in files:
        move_file(path / f"policy-{number:03d}.safetensors", path / "policy.safetensors")
    checkpoint_file(path, number - 1).unlink(missing_ok=True)


def write_rows_file(path: Path, rows: Sequence[Row]) -> None:
    """Replace iterations.jsonl."""
    write_file(path / "iterations.jsonl", "".join(json.dumps(each) + "\n" for each in rows).encode())


def policy_arrays(policy: Policy) -> Arrays | None:
    """The arrays of a policy, None if it offers none."""
    arrays = getattr(policy, "arrays", None)
    return None if arrays is None else arrays()


def read_done(path: Path, rows: Sequence[Row], task: Task, config: RunConfig) -> list[Steps]:
    """The steps of the iterations of a run, which must be such as its task and its rows allow.

    Raises:
        RunError: if they are missing or damaged.
    """
    done: list[Steps] = []
    if not rows:
        return done
    env = make_closed_env(task)
    for row in rows:
        steps = load_steps(path, row["iteration"], row)
        try:
            check_steps(steps, env, len(task.feature_names))
            check_against_row(steps, row, config, done)
        except ValueError as error:
            raise damaged(path / f"steps-{row['iteration']:03d}.safetensors", error) from error
        done.append(steps)
    return done


def restore(path: Path, aligner: Aligner, rows: Sequence[Row], done: list[Steps], patience: int) -> None:
    """Put an aligner back to where it was after the last iteration of a run.

    Raises:
        RunError: if the checkpoint is missing or damaged, or is not that of the last row.
    """
    file, row = checkpoint_file(path, len(done)), rows[-1]
    arrays = load_run_arrays(file, row["sha256"]["checkpoint"])
    try:
        if row["theta"] is not None and not np.array_equal(arrays["theta"], row["theta"]):
            raise ValueError("its theta is not that of iterations.jsonl")
        aligner.restore(arrays, concatenate(done), patience)
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        raise damaged(file, error) from error


def checkpoint_file(path: Path, iteration: int) -> Path:
    """The file of what the update after an iteration depends on."""
    return path / f"checkpoint-{iteration:03d}.safetensors"


def plain(value: Any) -> Any:
    """Arrays and numpy numbers as JSON knows them; numbers that are not finite as null."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
