"""Finding tasks, policies and commands by name, without importing any task's package here.

Installed distributions offer them under entry points: dicts of factories under `mereq_min.tasks` and, for
environments to pretrain on where no expert watches, `mereq_min.environments`; loaders of policy files under
`mereq_min.policy_loaders`; commands under `mereq_min.commands`. Anything else is named as `module:attribute`.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from mereq_min.interfaces import Policy, Task


class UsageError(ValueError):
    """What was typed cannot be done; the message says why in one sentence."""


@functools.cache
def factories(group: str) -> dict[str, Callable[[], Any]]:
    """Everything that installed distributions offer in a group, by name."""
    found: dict[str, Callable[[], Any]] = {}
    for entry in sorted(entry_points(group=f"mereq_min.{group}"), key=lambda entry: entry.name):
        found.update(entry.load())
    return found


def task_factories() -> dict[str, Callable[[], Task]]:
    """Every installed task by name."""
    return factories("tasks")


@functools.cache
def load_task(name: str) -> Task:
    """The task of that name, or the one that `module:attribute` makes.

    Raises:
        UsageError: if there is none.
    """
    if name in task_factories() or ":" not in name:
        return _make(check_name("task", name, task_factories()), task_factories())
    try:
        task = import_attribute(name)()
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UsageError(f"cannot load task {name!r}: {error}") from error
    if not hasattr(task, "make_learner"):
        raise UsageError(f"cannot load task {name!r}: it makes a {type(task).__name__}, which is no Task")
    return task


def load_environment(name: str) -> Any:
    """The task of that name, or an environment to pretrain on.

    Raises:
        UsageError: if there is none.
    """
    if name in task_factories():
        return load_task(name)
    try:
        known = factories("environments")
    except ImportError as error:
        if ":" not in name:
            raise UsageError(
                f"{name!r} is no task, and the environments to pretrain on cannot be imported ({error}); "
                "pip install 'mereq-min[deep]'"
            ) from error
        known = {}  # a task of your own may do without
    if name in known:
        return _make(name, known)
    if ":" not in name:
        check_name("task", name, [*task_factories(), *known])
    return load_task(name)


def load_commands() -> dict[str, Any]:
    """Commands that installed distributions add, by name; those whose packages are missing are left out."""
    commands = {}
    for entry in entry_points(group="mereq_min.commands"):
        with contextlib.suppress(ModuleNotFoundError):
            commands[entry.name] = entry.load()
    return commands


def import_attribute(name: str) -> Any:
    """What `module:attribute` names, the working directory included in the search.

    Raises:
        ImportError, AttributeError: if there is none.
    """
    module, _, attribute = name.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")  # a console script does not look in the working directory by itself
    return getattr(importlib.import_module(module), attribute)


def _make(name: str, known: dict[str, Callable[[], Any]]) -> Any:
    try:
        return known[name]()
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{name} needs the package {error.name}, which is not installed; pip install 'mereq-min[deep]'"
        ) from error


def check_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Return `name` if it is known.

    Raises:
        UsageError: else, with the nearest known name.
    """
    known = list(known)
    if name in known:
        return name
    near = difflib.get_close_matches(name.lower(), [k.lower() for k in known], n=1)
    hint = next((f"; did you mean {k!r}?" for k in known if near and k.lower() == near[0]), "")
    raise UsageError(f"unknown {kind} {name!r}{hint or ''} (known: {', '.join(known)})")


def load_policy(name: str, task: Any) -> Policy:
    """The policy of that name, for a task.

    Args:
        name: "prior" or "expert" for the task's own; `module:attribute` of a policy or of what makes one
            without arguments; a file that a run of the task saved (.safetensors); or a file with a suffix
            for which an installed distribution offers a loader, `(path, task) -> Policy`, under the entry
            point `mereq_min.policy_loaders`.
        task: the task that the policy is for, or an environment to pretrain on.

    Raises:
        UsageError: if there is none.
        ValueError: if the file is not one of that kind.
    """
    own = {"prior": "prior", "expert": "expert_policy"}.get(name)
    if own is not None and hasattr(task, own):
        return getattr(task, own)
    if own is not None:
        raise UsageError(f"the task comes without {name}; name a policy by its file or as module:attribute")
    suffix = Path(name).suffix.removeprefix(".")
    loaders = {entry.name: entry for entry in entry_points(group="mereq_min.policy_loaders")}
    try:
        if suffix == "safetensors":
            policy: Any = task.load_policy(_read_arrays(Path(name)))
        elif suffix in loaders:
            policy = loaders[suffix].load()(Path(name), task)
        elif ":" in name:
            policy = _import(name)
        else:
            known = ", ".join(f".{kind}" for kind in sorted({"safetensors", *loaders}))
            raise UsageError(
                f"policy must be prior, expert, module:attribute or a file ({known}), got {name!r}"
            )
    except (OSError, SafetensorError, ImportError, AttributeError, TypeError, RecursionError) as error:
        raise UsageError(f"cannot load policy {name!r}: {error}") from error
    if not hasattr(policy, "log_prob"):
        raise UsageError(
            f"cannot load policy {name!r}: it is a {type(policy).__name__}, which has no log_prob"
        )
    return policy


def _read_arrays(file: Path) -> dict[str, NDArray[Any]]:
    try:
        return load(file.read_bytes())
    except KeyError as error:
        raise TypeError(f"numpy has no numbers of type {error}; save it in float32") from error


def _import(name: str) -> Any:
    found = import_attribute(name)
    is_factory = isinstance(found, type) or (callable(found) and not hasattr(found, "log_prob"))
    return found() if is_factory else found
