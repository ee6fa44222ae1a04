"""The named tasks: the prior succeeds at each, but not in the way that the expert prefers.

The preference concerns one feature: theta* = expert_weights - prior_weight * prior_weights has one entry that
is not 0. Episodes last 25 or 50 steps, so that an iteration of 250 steps holds whole episodes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import gymnasium as gym
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from gridworlds.draw import draw_lanes, draw_map, draw_shelf
from gridworlds.maps import Layout, goal_distance, map_mdp, map_transition, parse_map, stack_features
from gridworlds.scenes import (
    CARPET_LEGEND,
    CARPET_STORY,
    CARPET_WORDS,
    WINDY_LEGEND,
    WINDY_STORY,
    WINDY_WORDS,
    lanes_scene,
    map_scene,
    shelf_scene,
)
from gridworlds.tabular import TabularTask, make_task
from mereq_min.mdp import TabularMDP
from mereq_min.validation import Array

CARPET_MAP = """
###############
#SS....cc.t.GG#
#SSccc.cc.t..G#
#SSccc.cc....G#
#SSccc....cccG#
#SSccc.p..cccG#
#SS....cc.ccc.#
#SS.cc.cc.....#
#SS.cc.cc.p...#
#SS.cc....cc..#
#SS.cc.cc.cc..#
#SS.cc.cc.cc..#
#SS....cc.cc..#
#SSp...cc.....#
#SSccc....cccG#
#SSccc.cc.cccG#
#SSccc.cc....G#
#SS....cc.t..G#
#SS.......t.GG#
###############
"""
"""Map of `make_carpet`."""

WINDY_MAP = """
###############
#SS..........G#
#SS....x.....G#
#SS.x.....x..G#
#SS..........G#
#SS..x.......G#
#SS.....x....G#
#SS..........G#
#SS.x.....x..G#
#SS..........G#
#SS...x......G#
#SS.......x..G#
#SS.x........G#
#SS....x.....G#
#SS.......x..G#
#SS.x........G#
#SS....x.....G#
#SS.......x..G#
#SS..........G#
###############
"""
"""Map of `make_windy`."""

HORIZONS = {"carpet": 25, "lanes": 50, "shelf": 25, "windy": 25}
"""Time limit of an episode, by task [steps]; gymnasium registers it without building the task."""

LANES_SHAPE = (3, 3, 14, 3)
"""Ego's lane from the left, other car's lane, gap - 1 [cells], relative speed [cells/step]."""

SHELF_SHAPE = (14, 4, 4)
"""Bottle's position along the shelf, hand's distance behind the bottle, hand's height."""


def make_carpet() -> TabularTask:
    """Cross a room full of rugs: the prior walks over them, the expert walks around them.

    Map: `CARPET_MAP`, "c" carpet, "p" puddle, "t" tiles; slip 0.1, gamma 0.97; episodes of 25 steps begin
    at the west wall. Reaching a goal does not end the episode.

    Features of a step: `distance`, moves from its first cell to the nearest goal, divided by the largest such
    number; `carpet`, `puddle`, `tiles`, the probability that it ends on such a cell; `move`, 1 unless
    staying.
    Weights: prior (-1, 0, -0.5, 0, -0.1), expert (-1, -1, -0.5, 0, -0.1), theta* = (0, -1, 0, 0, 0); both
    temperatures 0.1. Violation: value rule with margin 0.5; patience 1, release 3. Success: reach a goal.
    """
    layout = parse_map(CARPET_MAP, "cpt")
    transition = map_transition(layout, slip=0.1)
    distance = goal_distance(layout)
    features = {
        "distance": distance / distance.max(),
        "carpet": _expect(transition, layout.mark("c")),
        "puddle": _expect(transition, layout.mark("p")),
        "tiles": _expect(transition, layout.mark("t")),
        "move": np.array([[1.0, 1.0, 1.0, 1.0, 0.0]]),
    }
    goal = layout.mark("G") == 1.0
    mdp = map_mdp(layout, transition, features, gamma=0.97)
    return make_task(
        name="carpet",
        mdp=mdp,
        feature_names=tuple(features),
        prior_weights=np.array([-1.0, 0.0, -0.5, 0.0, -0.1]),
        expert_weights=np.array([-1.0, -1.0, -0.5, 0.0, -0.1]),
        prior_temperature=0.1,
        temperature=0.1,
        horizon=HORIZONS["carpet"],
        patience=1,
        release=3,
        rule=0.5,
        goal=goal,
        hazard=np.zeros_like(goal),
        layout=layout,
        draw=draw_map,
        scene=map_scene(layout, mdp.features, CARPET_LEGEND, CARPET_WORDS, CARPET_STORY),
    )


def make_windy() -> TabularTask:
    """Cross a windy heath with pits: the prior avoids the pits, the expert their edges too.

    Map: `WINDY_MAP`, "x" pit; no slip, but in every cell a gust blows one cell south with probability 0.2;
    gamma 0.95; episodes of 25 steps begin in the west. From a pit the next step leads back to a random start.

    Features of a step: `distance`, moves from its first cell to the nearest goal without entering a pit,
    divided by the largest such number; `fall`, the probability that it ends in a pit; `edge`, that it ends in
    a pit or in one of the eight cells around it; `move`, 1 unless staying.
    Weights: prior (-1, -8, 0, -0.1), expert (-1, -8, -1, -0.1), theta* = (0, 0, -1, 0); both temperatures
    0.1. Violation: value rule with margin 0.4; patience 1, release 3.
    Success: reach a goal and fall into no pit.
    """
    layout = parse_map(WINDY_MAP, "x")
    transition = map_transition(layout, wind=0.2, wind_direction="down", restart="x")
    distance = goal_distance(layout, closed="x")
    pit = layout.mark("x") == 1.0
    from_pits = np.abs(layout.cells[:, None] - layout.cells[pit]).max(axis=2).min(axis=1)
    features = {
        "distance": distance / distance.max(),
        "fall": _expect(transition, pit),
        "edge": _expect(transition, from_pits <= 1),
        "move": np.array([[1.0, 1.0, 1.0, 1.0, 0.0]]),
    }
    mdp = map_mdp(layout, transition, features, gamma=0.95)
    return make_task(
        name="windy",
        mdp=mdp,
        feature_names=tuple(features),
        prior_weights=np.array([-1.0, -8.0, 0.0, -0.1]),
        expert_weights=np.array([-1.0, -8.0, -1.0, -0.1]),
        prior_temperature=0.1,
        temperature=0.1,
        horizon=HORIZONS["windy"],
        patience=1,
        release=3,
        rule=0.4,
        goal=layout.mark("G") == 1.0,
        hazard=pit,
        layout=layout,
        draw=draw_map,
        scene=map_scene(layout, mdp.features, WINDY_LEGEND, WINDY_WORDS, WINDY_STORY),
    )


def make_lanes() -> TabularTask:
    """Overtake on a road with three lanes: the prior uses any lane, the expert keeps right if possible.

    State: `LANES_SHAPE`, plus a last state for a crash, which ends the episode. Actions: lane left, idle,
    lane right, faster, slower. A lane change fails with probability 0.1. The gap shrinks by the new speed and
    drifts by -1, 0 or +1 with probability 0.15, 0.7 and 0.15; it is at most 14 cells. If the gap falls below
    1, the ego crashes if it is in the other car's lane; otherwise it has passed, and the next car appears in
    any lane, 6 to 14 cells ahead, with equal probability. gamma 0.9; episodes of 50 steps begin with a gap of
    6 or more.

    Features of a step: `collision`, the probability of a crash; `right_lane`, the target lane divided by 2;
    `high_speed`, the new speed divided by 2; `tailgating`, clip((4 - gap) / 3, 0, 1) if the target lane is
    that of the other car, else 0; `lane_change`, 1 for a lane change.
    Weights: prior (-4, 0, 0.4, -0.3, -0.1), expert (-4, 0.5, 0.4, -0.3, -0.1), theta* = (0, 0.5, 0, 0, 0);
    both temperatures 0.1. Violation: value rule with margin 0.4; patience 1, release 3.
    Success: no crash.
    """
    n_lanes, _, n_gaps, n_speeds = LANES_SHAPE
    lane, other, gap, speed = np.indices(LANES_SHAPE).reshape(4, -1, 1)
    gap = gap + 1
    turn, accelerate = np.array([-1, 0, 1, 0, 0]), np.array([0, 0, 0, 1, -1])
    target = np.clip(lane + turn, 0, n_lanes - 1)
    new_speed = np.clip(speed + accelerate, 0, n_speeds - 1)
    crash = lane.size
    changes, drifts = ((target, 0.9), (lane, 0.1)), ((-1, 0.15), (0, 0.7), (1, 0.15))
    next_cars = list(product(range(n_lanes), range(6, n_gaps + 1)))
    outcomes = []
    for (new_lane, p_lane), (drift, p_drift) in product(changes, drifts):
        p = p_lane * p_drift
        new_gap = np.minimum(gap - new_speed + drift, n_gaps)
        meets = new_gap < 1
        hits, passes = meets & (new_lane == other), meets & (new_lane != other)
        behind = np.ravel_multi_index((new_lane, other, np.maximum(new_gap, 1) - 1, new_speed), LANES_SHAPE)
        outcomes.append((np.where(hits, crash, behind), p * ~passes))
        for next_lane, next_gap in next_cars:
            beyond = np.ravel_multi_index((new_lane, next_lane, next_gap - 1, new_speed), LANES_SHAPE)
            outcomes.append((beyond, p / len(next_cars) * passes))
    stays_crashed = sp.csr_array((np.ones(5), (np.arange(5), np.full(5, crash))), shape=(5, crash + 1))
    transition = sp.vstack([_sum_outcomes(outcomes, crash + 1), stays_crashed], format="csr")
    ended = np.arange(crash + 1) == crash
    features = {
        "collision": _expect(transition, ended)[:crash],
        "right_lane": target / (n_lanes - 1),
        "high_speed": new_speed / (n_speeds - 1),
        "tailgating": (target == other) * np.clip((4 - gap) / 3, 0.0, 1.0),
        "lane_change": turn[None] != 0,
    }
    table = stack_features(features.values(), (crash, 5), ended[:crash])
    initial = np.append((gap >= 6).astype(float), 0.0)
    cells = np.append(np.hstack([lane, gap - 1]), [[0, 0]], axis=0).astype(np.int32)
    return make_task(
        name="lanes",
        mdp=TabularMDP(
            transition=transition,
            features=np.append(table, np.zeros((1, 5, len(features))), axis=0),
            initial=initial / initial.sum(),
            gamma=0.9,
            terminal=ended,
        ),
        feature_names=tuple(features),
        prior_weights=np.array([-4.0, 0.0, 0.4, -0.3, -0.1]),
        expert_weights=np.array([-4.0, 0.5, 0.4, -0.3, -0.1]),
        prior_temperature=0.1,
        temperature=0.1,
        horizon=HORIZONS["lanes"],
        patience=1,
        release=3,
        rule=0.4,
        goal=np.ones(crash + 1, dtype=bool),
        hazard=ended,
        layout=Layout(np.full((n_lanes, n_gaps), "."), cells),
        draw=partial(draw_lanes, shape=LANES_SHAPE),
        scene=lanes_scene(LANES_SHAPE),
    )


def make_shelf() -> TabularTask:
    """Push a bottle along a shelf: the prior pushes at any height, the expert low.

    State: `SHELF_SHAPE`. Actions: forward and up, forward, forward and down, back, stay. The height changes
    by the action and by noise of one up or down, with probability 0.05 each. Forward moves the hand one
    closer to the bottle, back one away, with probability 0.8. If they touch, forward pushes the bottle on by
    one place, with probability 0.8 to 0.86 by height: low pushes are harder. gamma 0.95; episodes of 25 steps
    begin with the bottle in one of the first 6 places and the hand 2 or 3 behind it, at any height.

    Features of a step: `hand2bottle`, the distance divided by 3; `bottle2goal`, the places left, divided by
    13; `control`, 1 unless staying; `height`, the expected new height divided by 3.
    Weights: prior (-0.3, -0.6, -0.1, 0), expert (-0.3, -0.6, -0.1, -0.8), theta* = (0, 0, 0, -0.8); both
    temperatures 0.1. Violation: state rule, the hand is above the lowest height and the action does not lower
    it; patience 1, release 2. Success: push the bottle to the last place.
    """
    n_places, n_distances, n_heights = SHELF_SHAPE
    place, distance, height = np.indices(SHELF_SHAPE).reshape(3, -1, 1)
    rise, forward = np.array([1, 0, -1, 0, 0]), np.array([1, 1, 1, -1, 0])
    S = place.size
    pushes = (forward == 1) & (distance == 0)
    p_moves = np.where(pushes, 0.8 + 0.02 * height, 0.8)
    outcomes, new_height = [], np.zeros((S, 5))
    for (tremble, p_tremble), moves in product(((-1, 0.05), (0, 0.9), (1, 0.05)), (True, False)):
        p = p_tremble * (p_moves if moves else 1.0 - p_moves)
        after = (
            np.minimum(place + moves * pushes, n_places - 1),
            np.clip(distance - moves * forward, 0, n_distances - 1),
            np.clip(height + rise + tremble, 0, n_heights - 1),
        )
        outcomes.append((np.ravel_multi_index(after, SHELF_SHAPE), p))
        new_height += p * after[2]
    features = {
        "hand2bottle": distance / (n_distances - 1),
        "bottle2goal": (n_places - 1 - place) / (n_places - 1),
        "control": (forward != 0)[None],
        "height": new_height / (n_heights - 1),
    }
    goal = place[:, 0] == n_places - 1
    initial = ((place < 6) & (distance >= 2))[:, 0].astype(float)
    hand_column = place - distance + n_distances - 1
    return make_task(
        name="shelf",
        mdp=TabularMDP(
            transition=_sum_outcomes(outcomes, S),
            features=stack_features(features.values(), (S, 5), np.zeros(S, dtype=bool)),
            initial=initial / initial.sum(),
            gamma=0.95,
        ),
        feature_names=tuple(features),
        prior_weights=np.array([-0.3, -0.6, -0.1, 0.0]),
        expert_weights=np.array([-0.3, -0.6, -0.1, -0.8]),
        prior_temperature=0.1,
        temperature=0.1,
        horizon=HORIZONS["shelf"],
        patience=1,
        release=2,
        rule=(height > 0) & (rise >= 0),
        goal=goal,
        hazard=np.zeros_like(goal),
        layout=Layout(
            np.full((n_heights, n_places + n_distances - 1), "."),
            np.hstack([n_heights - 1 - height, hand_column]).astype(np.int32),
        ),
        draw=partial(draw_shelf, shape=SHELF_SHAPE),
        scene=shelf_scene(SHELF_SHAPE),
    )


TASKS: dict[str, Callable[[], TabularTask]] = {
    "carpet": make_carpet,
    "lanes": make_lanes,
    "shelf": make_shelf,
    "windy": make_windy,
}
"""Task factories by name."""


def make_env(task: str, render_mode: str | None = None) -> gym.Env[Any, Any]:
    """Make the environment of a named task without its time limit, which gymnasium's registry adds."""
    return TASKS[task]().make_env(render_mode).unwrapped


def _expect(transition: sp.csr_array, marked: NDArray) -> Array:
    """Return the probability (S, 5) that a step ends in a marked state."""
    return (transition @ np.asarray(marked, dtype=float)).reshape(-1, 5)


def _sum_outcomes(outcomes: list[tuple[NDArray[np.intp], Array]], n_states: int) -> sp.csr_array:
    """Return the transition matrix (S*A, n_states) of outcomes: next states (S, A), probabilities (S, A)."""
    S_A = outcomes[0][0].size
    states = np.concatenate([state.ravel() for state, _ in outcomes])
    probabilities = np.concatenate([p.ravel() for _, p in outcomes])
    rows = np.tile(np.arange(S_A), len(outcomes))
    transition = sp.csr_array((probabilities, (rows, states)), shape=(S_A, n_states))
    transition.eliminate_zeros()
    return transition
