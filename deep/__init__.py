"""Neural learners and simulator tasks behind the interfaces of `mereq_min` (needs the extra `deep`).

Importing this package is cheap: what needs torch or a simulator is imported when a task is made. It registers
the highway with gymnasium as `mereq/Highway-v0`, with the prior's reward.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gymnasium as gym

if TYPE_CHECKING:
    from deep.highway.task import HighwayTask

__all__ = ["TASKS"]


def make_highway() -> HighwayTask:
    """Return Highway-Sim with the prior and the expert that come with this package."""
    from deep.highway.task import HighwayTask

    return HighwayTask()


def make_highway_env(render_mode: str | None = None) -> gym.Env[Any, Any]:
    """Return a road of the highway task; highway-env itself where it is to be drawn."""
    return make_highway().make_env(render_mode)


def make_highway_vector_env(num_envs: int) -> gym.vector.VectorEnv[Any, Any, Any]:
    """Return compiled roads of the highway task side by side."""
    task = make_highway()
    return task.make_vector_env(num_envs, task.prior_weights)


gym.register(
    "mereq/Highway-v0",
    entry_point="deep:make_highway_env",
    vector_entry_point="deep:make_highway_vector_env",
)

TASKS: dict[str, Callable[[], HighwayTask]] = {"highway": make_highway}
"""Task factories by name."""
