"""Scene and keys of the highway in the page of a live session; see `lab.human.scenes`."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from deep.highway.engine import LANE_WIDTH, LENGTH, WIDTH
from deep.highway.roads import ACTIONS, RoadConfig
from mereq_min.lab.human.scenes import Scene, discrete_keys

IN_SIGHT = 120.0
"""Distance along the road from the ego up to which cars are shown [m]."""
WORDS = {
    "collision": ("minds a crash less", "avoids a crash more"),
    "right_lane": ("keeps right more", "keeps right less"),
    "high_speed": ("drives faster", "drives slower"),
}
"""For each feature, what more of it and what less of it is called."""
STORY = (
    "The blue car drives fast on a motorway, among others. It takes whatever lane it likes.",
    "Perhaps you want it to keep to the right-hand lane, at the bottom.",
)
"""Sentences that introduce the task to newcomers."""


def highway_scene(config: RoadConfig) -> Scene:
    """The scene of a road."""
    keys = ("ArrowUp", "x", "ArrowDown", "ArrowRight", "ArrowLeft")
    actions = discrete_keys(ACTIONS, keys)
    still = {"lanes": config.lanes_count, "lane_width": LANE_WIDTH, "length": LENGTH, "width": WIDTH}
    idle = ACTIONS.index("idle")
    return Scene(
        "highway", still, show_cars, actions, idle, float(config.policy_frequency), words=WORDS, story=STORY
    )


def show_cars(env: gym.Env[Any, Any]) -> dict[str, Any]:
    """The cars in sight, the ego first."""
    road: Any = env.unwrapped
    cars = road.get_state().cars[0]
    numbers = np.flatnonzero(abs(cars["x"] - cars["x"][0]) <= IN_SIGHT)
    return {
        "numbers": numbers.tolist(),
        "cars": [
            [
                round(float(car["x"]), 2),
                round(float(car["y"]), 2),
                round(float(car["heading"]), 3),
                bool(car["crashed"]),
            ]
            for car in cars[numbers]
        ],
    }
