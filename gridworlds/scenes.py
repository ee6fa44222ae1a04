"""Drawings and keys of the gridworlds in the page of a live session; see `lab.human.scenes`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import gymnasium
import numpy as np

from gridworlds.maps import MOVES, Layout
from mereq_min.interfaces import Policy
from mereq_min.lab.human.scenes import ARROWS, Chart, Scene, discrete_keys
from mereq_min.validation import Array

Words = Mapping[str, tuple[str, str]]
"""For each feature, what more of it and what less of it is called."""

CARPET_LEGEND = {"#": "wall", "S": "start", "G": "goal", "c": "carpet", "p": "puddle", "t": "tiles"}
WINDY_LEGEND = {"#": "wall", "S": "start", "G": "goal", "x": "pit"}
"""Names of the cells of the maps, by letter."""

CARPET_STORY = (
    "The robot walks to the green goal on the right. It takes the shortest way, across the carpets.",
    "Perhaps you want it to keep off the red carpets.",
)
WINDY_STORY = (
    "The robot walks to the green goal on the right. The wind pushes it about. It passes close by the pits.",
    "Perhaps you want it to stay away from the edges of the pits.",
)
"""Introduction to each gridworld, in sentences."""

CARPET_WORDS: Words = {
    "distance": ("hurries to the goal less", "hurries to the goal more"),
    "carpet": ("minds the carpet less", "keeps off the carpet more"),
    "puddle": ("minds puddles less", "keeps off puddles more"),
    "tiles": ("likes tiles more", "keeps off the tiles more"),
    "move": ("moves more", "stands still more"),
}
WINDY_WORDS: Words = {
    "distance": ("hurries to the goal less", "hurries to the goal more"),
    "fall": ("minds the pits less", "keeps out of pits more"),
    "edge": ("minds the edges less", "keeps off the edges more"),
    "move": ("moves more", "stands still more"),
}
"""Words for the features of `make_carpet` and `make_windy`."""

GRID_RATE = 3.0
"""Steps a second of a policy that is watched [1/s]."""


def map_scene(
    layout: Layout, features: Array, legend: Mapping[str, str], words: Words, story: tuple[str, str]
) -> Scene:
    """The scene of a map.

    Args:
        layout: the map.
        features: (S, A, K) of each step.
        legend: name of a cell by letter.
        words: for the features.
        story: for newcomers.
    """
    still = {"map": ["".join(row) for row in layout.letters], "legend": dict(legend)}
    keys = [*ARROWS, "x"]
    actions = discrete_keys(MOVES, keys)
    idle = list(MOVES).index("stay")

    def moving(env: gymnasium.Env[Any, Any]) -> dict[str, Any]:
        return {"cell": layout.cells[_state(env)].tolist()}

    chart = partial(chart_map, layout=layout, features=features)
    return Scene("map", still, moving, actions, idle, GRID_RATE, "turns", words, chart, story)


def chart_map(policy: Policy, theta: Array | None, *, layout: Layout, features: Array) -> Chart:
    """Return what shows a policy and a reward on a map: a heat map and arrows.

    Args:
        policy: the policy.
        theta: (K,) the inferred weights; None for imitation.
        layout: the map.
        features: (S, A, K) of each step.

    Returns:
        The heat map (rows, columns), theta . f of the most probable action in each cell [reward], None in
        walls, or None if theta is None; and (row, column, action) for each state.
    """
    S, A = features.shape[:2]
    states, actions = np.repeat(np.arange(S), A), np.tile(np.arange(A), S)
    best = policy.log_prob(states, actions).reshape(S, A).argmax(axis=1)
    arrows = [[*map(int, cell), int(a)] for cell, a in zip(layout.cells, best, strict=True)]
    if theta is None:
        return None, arrows
    heat = layout.heat(features[np.arange(S), best] @ theta)
    return [[None if np.isnan(value) else float(value) for value in row] for row in heat], arrows


def lanes_scene(shape: tuple[int, int, int, int]) -> Scene:
    """The scene of `make_lanes`, for the shape of its states."""
    lanes, _, gaps, speeds = shape
    names = ("lane left", "idle", "lane right", "faster", "slower")
    keys = ("ArrowUp", "x", "ArrowDown", "ArrowRight", "ArrowLeft")
    actions = discrete_keys(names, keys)
    words: Words = {
        "collision": ("minds a crash less", "avoids a crash more"),
        "right_lane": ("keeps right more", "keeps right less"),
        "high_speed": ("drives faster", "drives slower"),
        "tailgating": ("minds tailgating less", "keeps its distance more"),
        "lane_change": ("changes lanes more", "changes lanes less"),
    }

    def moving(env: gymnasium.Env[Any, Any]) -> dict[str, Any]:
        state = _state(env)
        crashed = state >= np.prod(shape)
        place = np.unravel_index(0 if crashed else state, shape)
        names = ("lane", "other", "gap", "speed")
        return {**{name: int(i) for name, i in zip(names, place, strict=True)}, "crashed": bool(crashed)}

    still = {"lanes": lanes, "gaps": gaps, "speeds": speeds}
    story = (
        "The blue car drives along a road, among others. It takes whatever lane it likes.",
        "Perhaps you want it to keep to the right-hand lane, at the bottom.",
    )
    return Scene("lanes", still, moving, actions, 1, GRID_RATE, "turns", words, story=story)


def shelf_scene(shape: tuple[int, int, int]) -> Scene:
    """The scene of `make_shelf`, for the shape of its states."""
    places, distances, heights = shape
    names = ("forward and up", "forward", "forward and down", "back", "stay")
    keys = ("ArrowUp", "ArrowRight", "ArrowDown", "ArrowLeft", "x")
    actions = discrete_keys(names, keys)
    words: Words = {
        "hand2bottle": ("keeps away from the bottle more", "stays at the bottle more"),
        "bottle2goal": ("hurries less", "hurries to the goal more"),
        "control": ("moves more", "moves less"),
        "height": ("pushes higher", "pushes lower"),
    }

    def moving(env: gymnasium.Env[Any, Any]) -> dict[str, Any]:
        place = np.unravel_index(_state(env), shape)
        return {name: int(i) for name, i in zip(("place", "distance", "height"), place, strict=True)}

    still = {"places": places, "distances": distances, "heights": heights}
    story = (
        "The hand pushes a bottle along the shelf to the goal on the right. It pushes at any height.",
        "Perhaps you want it to push low, so that the bottle does not fall over.",
    )
    return Scene("shelf", still, moving, actions, 4, GRID_RATE, "turns", words, story=story)


def _state(env: gymnasium.Env[Any, Any]) -> int:
    return int(env.unwrapped.state)  # type: ignore[attr-defined]
