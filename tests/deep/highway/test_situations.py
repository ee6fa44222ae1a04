"""Situations made by hand for the rules that are easily got wrong: both simulators do what is expected."""

import numpy as np
import pytest

from deep.highway import HighwayEnv, ReferenceEnv, RoadConfig, RoadState, engine

IDLE, RIGHT, FASTER, SLOWER = range(1, 5)
ANY = np.nan  # no claim


def car(x, lane=0, speed=20.0, **fields):
    """One car in the middle of its lane that drives as fast as it wants to, and thinks of no lane change."""
    defaults = {"y": 4.0 * lane, "target_lane": lane, "target_speed": speed, "exponent": 4.0, "timer": -9.0}
    return {"x": x, "lane": lane, "speed": speed, **defaults, **fields}


def ego(x, lane=0, speed=20.0, **fields):
    return car(x, lane, speed, **{"exponent": 0.0, "timer": 0.0, **fields})


def after_steps(cars, actions, assert_same_state, **scene):
    """Take the steps of one sub-step each (or as the scene says) on both, and return the cars that agree."""
    scene = {"policy_frequency": 5, **scene}
    config = RoadConfig(vehicles_count=len(cars) - 1, **scene)
    state = RoadState(np.zeros((1, len(cars)), engine.CAR), np.zeros(1, engine.ROAD))
    for row, fields in zip(state.cars[0], cars, strict=True):
        for name, value in fields.items():
            row[name] = value
    ours, theirs = HighwayEnv(config), ReferenceEnv(config)
    ours.set_state(state)
    theirs.set_state(state)
    for action in actions:
        observation, _, *ends, _ = ours.step(action)
        their_observation, _, *their_ends, _ = theirs.step(action)
        assert_same_state(ours.get_state(), theirs.get_state(), 1e-9)
        np.testing.assert_allclose(observation, their_observation, rtol=0, atol=1e-6)
        assert ends == their_ends
    return ours.get_state().cars[0]


def follow(speed, gap, front_speed):
    """The IDM's acceleration [m/s^2] of a car that drives as fast as it wants to, as published."""
    return -3 * ((10 + 1.5 * speed + speed * (speed - front_speed) / (2 * np.sqrt(3 * 5))) / gap) ** 2


SITUATIONS = {
    "a lane action counts from the target lane, and may skip the one below": (
        [ego(100, 0, target_lane=1)], [RIGHT], {"target_lane": [2]},
    ),
    "a lane more than two widths away is out of reach": (
        [ego(100, 0, y=-0.1, target_lane=1)], [RIGHT], {"target_lane": [1]},
    ),
    "faster counts from the speed, not from its target": (
        [ego(100, speed=22.4, target_speed=30)], [FASTER], {"target_speed": [25]},
    ),
    "half-way speeds round to the even index, down here": (
        [ego(100, speed=22.5)], [FASTER], {"target_speed": [25]},
    ),
    "half-way speeds round to the even index, up here": (
        [ego(100, speed=27.5)], [SLOWER], {"target_speed": [25]},
    ),
    "a car across two lanes holds up both": (
        [ego(0), car(160, 0, 18.0, y=2.0), car(100, 0), car(90, 1)], [IDLE],
        {"speed": [ANY, 18, 20 + 0.2 * follow(20, 60, 18), 20 + 0.2 * follow(20, 70, 18)]},
    ),
    "a car three metres off a lane's centre is on it, one further off is not": (
        [ego(0), car(160, 1, 18.0, y=3.0), car(100, 0), car(660, 1, 18.0, y=3.001), car(600, 0)], [IDLE],
        {"speed": [ANY, ANY, 20 + 0.2 * follow(20, 60, 18), 18, 20]},
    ),
    "of two cars in front at one distance the last in the list counts": (
        [ego(0), car(160, 0, 18.0, y=1.5), car(160, 0, 15.0, y=-1.5), car(100, 0)], [IDLE],
        {"speed": [ANY, ANY, ANY, 20 + 0.2 * follow(20, 60, 15)]},
    ),
    "the timer must exceed one second": (
        [ego(0), car(100, 0, 20.0, timer=1.0), car(120, 0, 5.0)], [IDLE], {"target_lane": [0, 0, 0]},
    ),
    "past one second a held-up car leaves its lane, and the timer starts again": (
        [ego(0), car(100, 0, 20.0, timer=1.01), car(120, 0, 5.0)], [IDLE],
        {"target_lane": [0, 1, 0], "timer": [0, 0.2, -8.8]},
    ),
    "where both sides are worth it, the right one overrides": (
        [ego(0), car(100, 1, 20.0, timer=1.01), car(120, 1, 5.0)], [IDLE], {"target_lane": [0, 2, 1]},
    ),
    "the timer is not reset while a change is under way": (
        [ego(0), car(100, 0, 20.0, timer=1.5, target_lane=1)], [IDLE], {"timer": [0, 1.7]},
    ),
    "no change that makes the follower brake hard": (
        [ego(0), car(100, 0, 20.0, timer=1.01), car(120, 0, 5.0), car(90, 1, 30.0)], [IDLE],
        {"target_lane": [0, 0, 0, 1]},
    ),
    # At 20 m/s of 30 wanted and 33 m behind, an exponent of 3.5 brakes by 2.13 m/s^2 and one of 4.5 by 1.89.
    "a follower brakes by the exponent of the car that wants in front of it: too hard": (
        [ego(0), car(100, 0, timer=1.01, exponent=3.5), car(120, 0, 5.0),
         car(67, 1, target_speed=30.0, exponent=4.5)], [IDLE], {"target_lane": [0, 0, 0, 1]},
    ),
    "a follower brakes by the exponent of the car that wants in front of it: not too hard": (
        [ego(0), car(100, 0, timer=1.01, exponent=4.5), car(120, 0, 5.0),
         car(67, 1, target_speed=30.0, exponent=3.5)], [IDLE], {"target_lane": [0, 1, 0, 1]},
    ),
    "a change is given up for a car ahead that already changes into the lane": (
        [ego(0), car(100, 0, target_lane=1), car(110, 2, target_lane=1)], [IDLE],
        {"target_lane": [0, 0, 1]},
    ),
    "and for one that decides so in this very sub-step, if it stands earlier in the list": (
        [ego(0), car(110, 2, timer=1.01), car(130, 2, 5.0), car(100, 0, target_lane=1)], [IDLE],
        {"target_lane": [0, 1, 2, 0]},
    ),
    "but not if it stands later": (
        [ego(0), car(100, 0, target_lane=1), car(110, 2, timer=1.01), car(130, 2, 5.0)], [IDLE],
        {"target_lane": [0, 1, 1, 2]},
    ),
    "while it changes lane, a car minds both lanes: the target lane holds it up": (
        [ego(0), car(100, 0, target_lane=1), car(180, 0, 18.0), car(160, 1, 18.0)], [IDLE],
        {"speed": [ANY, 20 + 0.2 * follow(20, 60, 18), 18, 18]},
    ),
    "while it changes lane, a car minds both lanes: its own holds it up": (
        [ego(0), car(100, 0, target_lane=1), car(160, 0, 18.0), car(180, 1, 18.0)], [IDLE],
        {"speed": [ANY, 20 + 0.2 * follow(20, 60, 18), 18, 18]},
    ),
    "a wrecked car keeps its target lane, and loses a fifth of its speed a sub-step": (
        [ego(0), car(100, 0, crashed=True, target_lane=1), car(120, 2, target_lane=1)], [IDLE, IDLE],
        {"speed": [ANY, 20 * 0.8**2, ANY], "target_lane": [0, 1, 1], "y": [0, 0, ANY]},
    ),
    # A gap of 2 m, which the next sub-step would overrun by 4 - 0.12 - 2 m.
    "about to touch: an impact is noted, nobody is wrecked yet": (
        [ego(100, 0, 20.0), car(111, 0, 0.0)], [IDLE],
        {"crashed": [False] * 2, "has_impact": [True] * 2, "impact_x": [-0.94, 0.94]},
    ),
    "the impact wrecks in the next policy step, although the two never touched": (
        [ego(100, 0, 20.0), car(111, 0, 0.0)], [IDLE, IDLE],
        {"crashed": [True] * 2, "x": [104 + 4 - 0.94, 111 + 0.12 + 0.94]},
    ),
    "a later pair overwrites an impact": (
        [ego(100, 0, 20.0), car(110.9, 0, 0.0, y=1.2), car(110.7, 0, 0.0, y=-1.2)], [IDLE],
        {"has_impact": [True] * 3, "impact_y": [0.4, 0.4, -0.4], "crashed": [False] * 3},
    ),
    "how far a pair looks ahead depends on the speed of its first car: a fast one sees": (
        [ego(0), car(100, 0, 30.0, target_lane=0), car(112.0, 0, 0.0, crashed=True)], [IDLE],
        {"has_impact": [False, True, True]},
    ),
    "and a slow one does not": (
        [ego(0), car(112.0, 0, 0.0, crashed=True), car(100, 0, 30.0, target_lane=0)], [IDLE],
        {"has_impact": [False, False, False]},
    ),
    "a wrecked ego still changes its targets": (
        [ego(100, 0, 10.0, crashed=True)], [RIGHT], {"target_lane": [1], "speed": [8]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SITUATIONS)
def test_situation(name, assert_same_state):
    cars, actions, expected = SITUATIONS[name]
    cars = after_steps(cars, actions, assert_same_state)
    for field, values in expected.items():
        claimed = ~np.isnan(np.asarray(values, float))
        np.testing.assert_allclose(
            cars[field][claimed], np.asarray(values)[claimed], atol=1e-9, err_msg=field
        )
