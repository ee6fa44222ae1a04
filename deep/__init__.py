"""Neural learners and simulator tasks behind the interfaces of `mereq_min` (needs the extra `deep`).

Importing this package is fast: torch and the simulators are imported when a task is made. The import
registers environments with gymnasium: `mereq/Highway-v0`, `Fanuc-pusher-v0`, `Fanuc-eraser-v0` and
`Fanuc-gripper-v0`, whose reward is the prior's; `Fanuc-pusher-AddedReward-v0` and so on, whose reward is the
expert's; and `Fanuc-pusher-Toppling-v0`, in which the bottle can fall over.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import gymnasium as gym

if sys.platform == "linux":  # MuJoCo reads this when it is imported; its default there needs a display
    os.environ.setdefault("MUJOCO_GL", "egl")

if TYPE_CHECKING:
    from deep.gym_task import GymTask
    from deep.oracle import SimulatorOracle, make_oracle

__all__ = ["TASKS", "GymTask", "SimulatorOracle", "make_oracle"]


def __getattr__(name: str) -> Any:
    """Import a name that needs torch on its first use."""
    module = {"GymTask": "gym_task", "SimulatorOracle": "oracle", "make_oracle": "oracle"}.get(name)
    if module is None:
        raise AttributeError(f"module 'deep' has no attribute {name!r}")
    return getattr(importlib.import_module(f"deep.{module}"), name)


def make_highway() -> GymTask:
    """Return the task Highway-Sim with the prior and the expert of this package."""
    from deep.highway import task

    return task.make_highway()


def make_highway_env(render_mode: str | None = None) -> gym.Env[Any, Any]:
    """Return a compiled road of the highway task; with the render mode "human", highway-env itself."""
    return make_highway().make_env(render_mode)


def make_highway_vector_env(num_envs: int) -> gym.vector.VectorEnv[Any, Any, Any]:
    """Return `num_envs` compiled roads of the highway task, stepped together."""
    return make_highway().make_vector_env(num_envs)


gym.register(
    "mereq/Highway-v0",
    entry_point="deep:make_highway_env",
    vector_entry_point="deep:make_highway_vector_env",
)


def make_fanuc(name: str) -> GymTask:
    """Return the task `bottle`, `eraser` or `pillow` with the prior and the expert of this package."""
    from deep.fanuc import task

    return {"bottle": task.make_bottle, "eraser": task.make_eraser, "pillow": task.make_pillow}[name]()


def make_fanuc_env(
    name: str, with_added_reward: bool = False, render_mode: str | None = None
) -> gym.Env[Any, Any]:
    """Return a robot cell with the prior's reward or, `with_added_reward`, the expert's."""
    from deep.fanuc.envs import FanucEnv
    from deep.fanuc.task import CELLS, PRIOR_WEIGHTS, RESIDUAL_WEIGHTS

    weights = PRIOR_WEIGHTS[name] + (RESIDUAL_WEIGHTS[name] if with_added_reward else 0.0)
    return FanucEnv(CELLS[name], weights, render_mode)


for _id, _name in {"pusher": "bottle", "eraser": "eraser", "gripper": "pillow"}.items():
    for _suffix, _added in {"": False, "-AddedReward": True}.items():
        gym.register(
            f"Fanuc-{_id}{_suffix}-v0",
            entry_point="deep:make_fanuc_env",
            kwargs={"name": _name, "with_added_reward": _added},
        )


def make_toppling_env(render_mode: str | None = None) -> gym.Env[Any, Any]:
    """Return the cell whose bottle can fall over, with the reward of the prior of `bottle`."""
    from deep.fanuc.bottle import TopplingBottleCells
    from deep.fanuc.envs import FanucEnv
    from deep.fanuc.task import PRIOR_WEIGHTS

    return FanucEnv(TopplingBottleCells, PRIOR_WEIGHTS["bottle"], render_mode)


gym.register("Fanuc-pusher-Toppling-v0", entry_point="deep:make_toppling_env")


def make_example(name: str) -> GymTask:
    """Return one of the ordinary gymnasium environments of `deep.examples`."""
    from deep.examples import tasks

    return {
        "lunar-lander": tasks.make_lunar_lander,
        "mountain-car": tasks.make_mountain_car,
        "half-cheetah": tasks.make_half_cheetah,
    }[name]()


TASKS: dict[str, Callable[[], GymTask]] = {
    "highway": make_highway,
    **{name: partial(make_fanuc, name) for name in ("bottle", "eraser", "pillow")},
    **{name: partial(make_example, name) for name in ("lunar-lander", "mountain-car", "half-cheetah")},
}
"""Task factories by name."""
