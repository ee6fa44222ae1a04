"""Finding tasks by name, without importing any task's package here.

Installed distributions offer dicts of tasks under the entry point `mereq_min.tasks`; anything else is named
as `module:attribute`.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import entry_points

from mereq_min.interfaces import Task


class UsageError(ValueError):
    """What was typed cannot be done; the message says why in one sentence."""


@functools.cache
def task_factories() -> dict[str, Callable[[], Task]]:
    """Every installed task by name."""
    factories: dict[str, Callable[[], Task]] = {}
    for entry in sorted(entry_points(group="mereq_min.tasks"), key=lambda entry: entry.name):
        factories.update(entry.load())
    return factories


@functools.cache
def load_task(name: str) -> Task:
    """The task of that name, or the one that `module:attribute` makes.

    Raises:
        UsageError: if there is none.
    """
    if ":" in name:
        module, _, attribute = name.partition(":")
        if "" not in sys.path:
            sys.path.insert(0, "")  # a console script does not look in the working directory by itself
        try:
            task = getattr(importlib.import_module(module), attribute)()
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            raise UsageError(f"cannot load task {name!r}: {error}") from error
        if not hasattr(task, "make_learner"):
            raise UsageError(f"cannot load task {name!r}: it makes a {type(task).__name__}, which is no Task")
        return task
    return task_factories()[check_name("task", name, task_factories())]()


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
