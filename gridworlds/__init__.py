"""Gridworlds as exact tables: ASCII maps, named tasks, large grids and random MDPs.

Importing this package registers the tasks with gymnasium, as `mereq/Carpet-v0` and so on.
"""

import gymnasium as gym

from gridworlds.draw import draw_map
from gridworlds.env import TabularEnv
from gridworlds.maps import Layout, goal_distance, map_mdp, map_transition, parse_map
from gridworlds.synthetic import grid, random_mdp
from gridworlds.tabular import TabularOracle, TabularTask, make_oracle, make_task, soft_prior
from gridworlds.tasks import HORIZONS, TASKS

__all__ = [
    "TASKS",
    "Layout",
    "TabularEnv",
    "TabularOracle",
    "TabularTask",
    "draw_map",
    "goal_distance",
    "grid",
    "make_oracle",
    "make_task",
    "map_mdp",
    "map_transition",
    "parse_map",
    "random_mdp",
    "soft_prior",
]


for _name in TASKS:
    gym.register(
        id=f"mereq/{_name.capitalize()}-v0",
        entry_point="gridworlds.tasks:make_env",
        max_episode_steps=HORIZONS[_name],
        kwargs={"task": _name},
    )
