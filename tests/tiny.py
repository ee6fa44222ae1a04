"""The smallest task with everything: a room of six cells with a rug, over which the prior walks."""

from functools import cache
from typing import Any

import numpy as np

from gridworlds import make_task
from gridworlds.draw import draw_map
from gridworlds.maps import map_mdp, map_transition, parse_map
from gridworlds.tabular import TabularTask

ROOM = """
#####
#ScG#
#...#
#####
"""


def make_tiny() -> TabularTask:
    """Return the task; solving it takes a few milliseconds."""
    layout = parse_map(ROOM, "c")
    transition = map_transition(layout, slip=0.1)
    rug, goal = layout.mark("c"), layout.mark("G")
    features = {
        "goal": (transition @ goal).reshape(len(goal), -1),
        "rug": (transition @ rug).reshape(len(goal), -1),
    }
    return make_task(
        name="tiny",
        mdp=map_mdp(layout, transition, features, gamma=0.9),
        feature_names=tuple(features),
        prior_weights=np.array([1.0, 0.0]),
        expert_weights=np.array([1.0, -2.0]),
        prior_temperature=0.3,
        temperature=0.3,
        horizon=6,
        rule=0.4,
        goal=goal == 1.0,
        hazard=np.zeros(len(goal), dtype=bool),
        layout=layout,
        draw=draw_map,
    )


@cache
def tiny() -> TabularTask:
    """Return the task, the same one each time."""
    return make_tiny()


def make_cloner(kind: type, **settings: float) -> Any:
    """Return a baseline on the task."""
    task = tiny()
    return kind(task.mdp, task.log_prior, task.scaled_prior_weight, task.temperature, **settings)
