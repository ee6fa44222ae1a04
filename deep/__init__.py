"""Neural learners and simulator tasks behind the interfaces of `mereq_min` (needs the extra `deep`).

Importing this package is cheap: what needs torch or a simulator is imported when a task is made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deep.highway.task import HighwayTask

__all__ = ["TASKS"]


def make_highway() -> HighwayTask:
    """Return Highway-Sim with the prior and the expert that come with this package."""
    from deep.highway.task import HighwayTask

    return HighwayTask()


TASKS: dict[str, Callable[[], HighwayTask]] = {"highway": make_highway}
"""Task factories by name."""
