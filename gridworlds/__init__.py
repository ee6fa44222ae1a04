"""Gridworlds: ASCII maps, named tasks, big grids and random MDPs, all as exact tables.

Importing registers the tasks with gymnasium as `mereq/Carpet-v0` and so on.
"""

import gymnasium as gym

from gridworlds.draw import draw_map
from gridworlds.env import TabularEnv
from gridworlds.maps import Layout, goal_distance, map_mdp, map_transition, parse_map
from gridworlds.synthetic import grid, random_mdp
from gridworlds.tabular import TabularTask
from gridworlds.tasks import TASKS

__all__ = [
    "TASKS",
    "Layout",
    "TabularEnv",
    "TabularTask",
    "draw_map",
    "goal_distance",
    "grid",
    "map_mdp",
    "map_transition",
    "parse_map",
    "random_mdp",
]


for _name, _factory in TASKS.items():
    gym.register(
        id=f"mereq/{_name.capitalize()}-v0",
        entry_point="gridworlds.tasks:make_env",
        max_episode_steps=_factory().horizon,
        kwargs={"task": _name},
    )
