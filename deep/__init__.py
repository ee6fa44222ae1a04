"""Neural learners and simulator tasks behind the interfaces of `mereq_min` (needs the extra `deep`).

Importing this package is cheap: what needs torch or a simulator is imported when a task is made. It registers
with gymnasium `mereq/Highway-v0`, `Fanuc-pusher-v0`, `Fanuc-eraser-v0` and `Fanuc-gripper-v0`, which have the
prior's reward, and with the expert's `Fanuc-pusher-AddedReward-v0` and so on. The bottle can fall over in
`Fanuc-pusher-Toppling-v0`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import gymnasium as gym

if TYPE_CHECKING:
    from deep.fanuc.task import FanucTask
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


def make_fanuc(name: str) -> FanucTask:
    """Return the task `bottle`, `eraser` or `pillow`, with the prior and expert of this package."""
    from deep.fanuc.task import make_bottle, make_eraser, make_pillow

    return {"bottle": make_bottle, "eraser": make_eraser, "pillow": make_pillow}[name]()


def make_fanuc_env(
    name: str, with_added_reward: bool = False, render_mode: str | None = None
) -> gym.Env[Any, Any]:
    """Return a robot cell with the prior's reward, or the expert's."""
    from deep.fanuc.envs import FanucEnv

    task = make_fanuc(name)
    return FanucEnv(task.cells, task.expert_weights if with_added_reward else task.prior_weights, render_mode)


for _id, _name in {"pusher": "bottle", "eraser": "eraser", "gripper": "pillow"}.items():
    for _suffix, _added in {"": False, "-AddedReward": True}.items():
        gym.register(
            f"Fanuc-{_id}{_suffix}-v0",
            entry_point="deep:make_fanuc_env",
            kwargs={"name": _name, "with_added_reward": _added},
        )


def make_toppling_env(render_mode: str | None = None) -> gym.Env[Any, Any]:
    """Return the cell whose bottle can fall over, with the bottle's prior's reward."""
    from deep.fanuc.bottle import TopplingBottleCells

    return replace(make_fanuc("bottle"), cells=TopplingBottleCells).make_env(render_mode)


gym.register("Fanuc-pusher-Toppling-v0", entry_point="deep:make_toppling_env")

TASKS: dict[str, Callable[[], HighwayTask | FanucTask]] = {
    "highway": make_highway,
    **{name: partial(make_fanuc, name) for name in ("bottle", "eraser", "pillow")},
}
"""Task factories by name."""
