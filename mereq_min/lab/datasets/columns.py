"""What the columns of a log are called, here and elsewhere, and how they become `Steps` of a task.

A log holds one row per step, in the order in which the steps were taken. It must have

    state             in which the step was taken
    action            that was executed
    is_intervention   whether the expert controlled the step (not needed with demonstrations)
    episode           number of the episode

and may have

    t                 time within the episode; default: counted from 0 [steps]
    terminated        whether the step led to a terminal state; default: no
    truncated         whether the episode was cut off here; default: at the last step of each episode
    policy_action     what the policy proposed; default: `action` (no method reads it on the expert's steps)
    policy_version    number of updates before the step, which tells iterations apart; default: 0
    next_state        state after the step
    seed              of the environment at the first step of the rollout, from which MEReQ-S replays it
    features          of (state, action); default: computed by the task
    reward            of the environment, which the features of some tasks are computed from
    expert_action     the expert's own action, where `action` is the policy's even if the expert took over
    takeover_start    marks first steps of interventions that `is_intervention` does not mark

Other names of these columns that are understood are in `ALIASES`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import gymnasium
import msgspec
import numpy as np
from numpy.typing import NDArray

from mereq_min.interfaces import Task
from mereq_min.lab.plugins import UsageError, install_hint, make_closed_env
from mereq_min.lab.runs.checks import check_column, check_steps
from mereq_min.lab.runs.files import LARGEST_ARRAYS, Arrays, RunError
from mereq_min.steps import Steps
from mereq_min.validation import Mask

ALIASES: dict[str, tuple[str, ...]] = {
    "state": ("observation.state", "observation", "obs"),
    "action": (),
    "is_intervention": ("intervention", "takeover", "complementary_info.is_intervention"),
    "episode": ("episode_index", "episode_id"),
    "t": ("frame_index",),
    "terminated": ("next.terminated",),
    "truncated": ("next.truncated",),
    "policy_action": (),
    "policy_version": (),
    "next_state": ("next_observation", "next_obs"),
    "seed": (),
    "features": (),
    "reward": ("next.reward",),
    "expert_action": ("intervene_action", "teleop_action", "raw_action"),
    "takeover_start": (),
}
"""The columns of a log, and what LeRobot, HIL-SERL, gym-hil and PVP call them."""


class LogError(RunError):
    """A log cannot be read or written as asked; the message says what to do."""


def find_columns(names: Sequence[str], feature_names: Sequence[str]) -> dict[str, list[str]]:
    """Find the columns of a log among names.

    A column of vectors may also be spread over `<column>.0`, `<column>.1`, ..., that of the features over
    `features.<name of the feature>`.

    Args:
        names: of the columns that there are.
        feature_names: of the task, in the order of its features.

    Returns:
        By column, the names under which it is there: one, or one per entry.

    Raises:
        ValueError: if an entry of a column is missing.
    """
    there, found = set(names), {}
    for column, aliases in ALIASES.items():
        for name in (column, *aliases):
            if name in there:
                found[column] = [name]
            elif n := sum(re.fullmatch(rf"{re.escape(name)}\.\d+", each) is not None for each in there):
                found[column] = [f"{name}.{i}" for i in range(n)]
                if not there.issuperset(found[column]):
                    raise ValueError(f"the columns {name}.N do not count from 0 without a gap")
            else:
                continue
            break
    spread = [f"features.{name}" for name in feature_names]
    if spread and there.issuperset(spread):
        found["features"] = spread
    return found


def make_steps(task: Task, columns: Arrays, *, is_exact: bool = True, demonstrations: bool = False) -> Steps:
    """Make steps of the columns of a log, see the head of this module.

    Args:
        task: says what states and actions are, and computes features that the log lacks. If it needs
            next states for that and the log has none, the last step of each episode is left out.
        columns: what the log has, by the names above.
        is_exact: whether the columns have the types of numbers with which they were recorded. Otherwise
            states and actions get those of the task's spaces, wherever these hold every value.
        demonstrations: whether a log that marks no interventions holds whole demonstrations of the expert.

    Raises:
        ValueError: if a column is missing, or the columns cannot be steps of the task.
    """
    columns = dict(columns)
    if "is_intervention" not in columns and demonstrations:
        columns["is_intervention"] = np.ones(len(columns.get("action", ())), dtype=bool)
    if lacking := [name for name in ("state", "action", "is_intervention", "episode") if name not in columns]:
        hint = "; pass --demonstrations if the expert took all steps" if "is_intervention" in lacking else ""
        raise ValueError(f"it has no {' and no '.join(map(_describe, lacking))}{hint}")
    n = len(columns["state"])
    for name, column in columns.items():
        if len(column) != n:
            raise ValueError(f"{name} has {len(column)} rows, but state has {n}")
        if column.dtype.kind not in "biuf":
            raise ValueError(f"{name} holds no numbers")
    if n == 0:
        raise ValueError("it has no steps")
    env = make_closed_env(task)
    for name in ("state", "next_state", "action", "policy_action", "expert_action"):
        if name in columns:
            space = env.observation_space if name.endswith("state") else env.action_space
            columns[name] = _as_space(columns[name], space, is_exact=is_exact)
    _fill_in(columns)
    check_column("state", columns["state"], env.observation_space)
    check_column("action", columns["action"], env.action_space)
    if "features" not in columns:
        columns = _add_features(task, columns)
    columns["features"] = (
        columns["features"].astype(np.float64, copy=False).reshape(len(columns["state"]), -1)
    )
    steps = Steps(**{name: columns[name] for name in Steps.__annotations__ if name in columns})
    if (np.diff(steps.policy_version) < 0).any():
        raise ValueError("policy_version decreases; keep the steps in the order they were taken")
    check_steps(steps, env, len(task.feature_names))
    return steps


def _describe(name: str) -> str:
    aliases = f" (or {', '.join(ALIASES[name])})" if ALIASES[name] else ""
    return f"{name}{aliases}"


def _as_space(column: NDArray[Any], space: gymnasium.Space[Any], *, is_exact: bool) -> NDArray[Any]:
    """A column in the shape of a space and, if it is not exact, in its type if that holds every value."""
    shape = space.shape or ()
    if column.size == len(column) * math.prod(shape):
        column = column.reshape(len(column), *shape)
    if is_exact and column.dtype.kind == np.dtype(space.dtype).kind:
        return column
    with np.errstate(invalid="ignore", over="ignore"):
        cast = column.astype(space.dtype)
    return cast if np.array_equal(cast, column) else column


def _fill_in(columns: Arrays) -> None:
    """Give the other columns their types, and their defaults where they are missing."""
    for name in ("episode", "t", "policy_version", "seed"):
        if name in columns:
            columns[name] = _whole(name, columns[name])
    for name in ("is_intervention", "takeover_start", "terminated", "truncated"):
        if name in columns:
            columns[name] = _mask(name, columns[name])
    columns["is_intervention"] = columns["is_intervention"] | columns.pop("takeover_start", False)
    expert_action = columns.pop("expert_action", None)
    if expert_action is not None:
        proposed, by_expert = columns["action"], columns["is_intervention"]
        columns.setdefault("policy_action", proposed)
        by_expert = by_expert.reshape(-1, *[1] * (proposed.ndim - 1))
        columns["action"] = np.where(by_expert, expert_action, proposed).astype(proposed.dtype)
    columns.setdefault("policy_action", columns["action"])
    episode = columns["episode"]
    ends = np.append(episode[1:] != episode[:-1], True)
    if "t" not in columns:
        first = np.flatnonzero(np.append(True, ends[:-1]))
        columns["t"] = np.arange(len(ends)) - np.repeat(first, np.diff(np.append(first, len(ends))))
    columns.setdefault("terminated", np.zeros(len(ends), dtype=bool))
    columns.setdefault("truncated", ends & ~columns["terminated"])
    columns.setdefault("policy_version", np.zeros(len(ends), dtype=np.int64))


def _whole(name: str, column: NDArray[Any]) -> NDArray[np.int64]:
    with np.errstate(invalid="ignore"):
        whole = column.astype(np.int64).reshape(-1)
    if whole.shape != (len(column),) or not np.array_equal(whole, column.reshape(-1)):
        raise ValueError(f"{name} must hold one integer per step")
    return whole


def _mask(name: str, column: NDArray[Any]) -> Mask:
    flat = column.reshape(-1)
    if flat.shape != (len(column),) or not np.isin(flat, (0, 1)).all():
        raise ValueError(f"{name} must hold 0 or 1 (or true or false) for each step")
    return flat.astype(bool)


def _add_features(task: Task, columns: Arrays) -> Arrays:
    """The columns with features computed by the task, without the steps for which these are unknown."""
    compute = getattr(task, "features_of", None)
    if compute is None:
        raise ValueError(
            f"it has no features, and the task {task.name} has no features_of(state, action, next_state, "
            "reward) to compute them"
        )
    if "next_state" not in columns and getattr(task, "features_need_next_state", True):
        state, episode, t = columns["state"], columns["episode"], columns["t"]
        follows = (episode[1:] == episode[:-1]) & (np.diff(t) == 1)
        kept = np.append(follows, False)
        columns = {name: column[kept] for name, column in columns.items()}
        columns["next_state"] = state[1:][follows]
    inputs = (columns.get(name) for name in ("state", "action", "next_state", "reward"))
    features = np.asarray(compute(*inputs), dtype=np.float64)
    return {**columns, "features": features}


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever is wrong with a log into a `LogError` that names it."""
    try:
        yield
    except (UsageError, RunError):
        raise
    except _READING_FAILS as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if isinstance(error, KeyError):
            reason = f"it has no {reason}"
        raise LogError(f"{path} cannot be read as a log: {' '.join(reason.split())}") from error


_READING_FAILS = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    AssertionError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    MemoryError,
    msgspec.MsgspecError,
)
"""What the libraries raise that read damaged files."""


def need(package: str) -> Any:
    """Import a module of a package that the extra `data` installs.

    Raises:
        UsageError: if it is not installed.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise UsageError(f"this needs the package {package}, {install_hint('data')}") from error


def check_size(folder: Path) -> None:
    """Check that a folder holds only files, and no more than is read.

    Raises:
        ValueError: otherwise; a pipe or a device may have no end.
    """
    files = [file for file in folder.rglob("*") if not file.is_dir()]
    if not all(file.is_file() for file in files):
        raise ValueError("not everything in it is a regular file")
    size = sum(file.stat().st_size for file in files)
    if size > LARGEST_ARRAYS:
        raise ValueError(f"it has {size} bytes, more than the {LARGEST_ARRAYS} that are read")
