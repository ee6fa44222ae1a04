"""Scene and state of the compiled roads, and checks of their actions and states."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from operator import index
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded
from numpy.typing import ArrayLike, NDArray

from deep.highway import engine
from mereq_min.validation import check_array, check_number

FEATURES = ("collision", "right_lane", "high_speed")
"""Names (K,) of the features."""
ACTIONS = ("lane left", "idle", "lane right", "faster", "slower")
"""Names of the actions 0..4."""
PAPER_WEIGHTS = (-0.5, 0.0, 0.4)
"""(K,) weights of the prior's reward as the paper states them; the task of this package uses others."""

StepResult = tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]
"""Observation (5, 5), reward, terminated, truncated and info of a step."""


@dataclass(frozen=True)
class RoadConfig:
    """Configuration of a scene of highway-env's `highway-v0`; the defaults are those of Highway-Sim.

    Options have highway-env's names. Everything else is highway-env's default: kinematic observations of five
    cars, meta-actions, IDM traffic, a straight road of 10 km.

    Attributes:
        lanes_count: number of lanes.
        vehicles_count: number of cars besides the ego.
        simulation_frequency: frequency of the sub-steps [Hz].
        policy_frequency: frequency of the actions [Hz].
        duration: time limit of an episode [s].
        ego_spacing: distance of the ego's start from the beginning of the road, in multiples of the default
            gap.
        vehicles_density: density of the traffic; at 1, the gaps are the default ones.
        initial_lane_id: lane in which the ego starts, counted from 0 for the left-most; None draws it.
        others_collide: whether collisions between cars other than the ego are detected; False makes the
            scene highway-env's `highway-fast-v0`.

    Raises:
        ValueError: if a value is out of range.
    """

    lanes_count: int = 3
    vehicles_count: int = 30
    simulation_frequency: float = 5
    policy_frequency: float = 1
    duration: float = 40
    ego_spacing: float = 1.5
    vehicles_density: float = 1.0
    initial_lane_id: int | None = None
    others_collide: bool = True

    def __post_init__(self) -> None:
        check_number("lanes_count", self.lanes_count, 1, integer=True)
        check_number("vehicles_count", self.vehicles_count, 0, integer=True)
        check_number("policy_frequency", self.policy_frequency, 0, exclusive=True)
        check_number("simulation_frequency", self.simulation_frequency, self.policy_frequency)
        for name in ("duration", "ego_spacing", "vehicles_density"):
            check_number(name, getattr(self, name), 0, exclusive=True)
        if self.initial_lane_id is not None:
            check_number("initial_lane_id", self.initial_lane_id, 0, self.lanes_count - 1, integer=True)
        if not isinstance(self.others_collide, bool):
            raise ValueError(f"others_collide must be True or False, got {self.others_collide!r}")

    def highway_env(self) -> dict[str, Any]:
        """Return the `config` of highway-env's `highway-v0`, or `highway-fast-v0` if not `others_collide`."""
        return {name: value for name, value in asdict(self).items() if name != "others_collide"}

    def scene(self) -> engine.Scene:
        """Return the parameters of the compiled engine, each with the type it is compiled for."""
        return engine.Scene(
            lanes=int(self.lanes_count),
            sub_steps=int(self.simulation_frequency // self.policy_frequency),
            dt=float(1 / self.simulation_frequency),
            policy_dt=float(1 / self.policy_frequency),
            duration=float(self.duration),
            ego_lane=-1 if self.initial_lane_id is None else int(self.initial_lane_id),
            ego_spacing=float(self.ego_spacing),
            spacing=float(1 / self.vehicles_density),
            only_ego_collides=not self.others_collide,
        )


class RoadState(NamedTuple):
    """Complete state of N roads: everything that their futures depend on."""

    cars: NDArray[Any]
    """(N, V + 1) of `engine.CAR`, with the ego first."""
    roads: NDArray[Any]
    """(N,) of `engine.ROAD`: clocks and random generators."""


class Roads:
    """Holds the state of N roads: draws it, copies it and sets it.

    Args:
        count: N [roads].
        config: the scene.
        weights: (3,) weights of the reward.
    """

    def __init__(self, count: int, config: RoadConfig, weights: ArrayLike) -> None:
        self.scene = config.scene()
        self.weights = check_array("weights", weights, shape=(len(FEATURES),))
        self.state = RoadState(
            np.zeros((count, config.vehicles_count + 1), engine.CAR), np.zeros(count, engine.ROAD)
        )
        self.is_set = False

    def arguments(self) -> tuple[Any, ...]:
        """Return the leading arguments of `engine.step_roads`, after the range of roads."""
        return (*self.state, self.scene, self.weights)

    def seed(self, n: int, generator: np.random.Generator) -> None:
        """Set the random generator of road n to the state of `generator`."""
        save_generator(generator, self.state.roads[n])

    def reset(self) -> NDArray[np.float32]:
        """Draw an initial state for every road, and return observations (N, 5, 5)."""
        self.is_set = True
        count = len(self.state.roads)
        observations = empty_observations(count)
        self.reset_chosen(np.ones(count, np.bool_), observations)
        return observations

    def reset_chosen(self, chosen: NDArray[np.bool_], observations: NDArray[np.float32]) -> None:
        """Draw initial states for the roads where `chosen` (N,) holds, and write their observations."""
        engine.reset_roads(*self.state, self.scene, chosen, observations)

    def get(self) -> RoadState:
        """Return a copy of the state."""
        self.require("get_state")
        return RoadState(self.state.cars.copy(), self.state.roads.copy())

    def set(self, state: RoadState) -> NDArray[np.float32]:
        """Continue from a state, and return its observations (N, 5, 5)."""
        cars, roads = check_state(state, self.state.cars.shape, self.scene.lanes)
        self.state.cars[:], self.state.roads[:] = cars, roads
        self.is_set = True
        observations = empty_observations(len(roads))
        engine.observe_roads(self.state.cars, self.scene, observations)
        return observations

    def require(self, method: str) -> None:
        """Raise ResetNeeded, naming the method that was called, if there is no state yet."""
        if not self.is_set:
            raise ResetNeeded(f"{method} needs a state: call reset first")


def make_spaces() -> tuple[gym.spaces.Box, gym.spaces.Discrete]:
    """Return the observation space and the action space of one road."""
    box = gym.spaces.Box(-1.0, 1.0, (engine.OBSERVED, engine.OBSERVED), np.float32)
    return box, gym.spaces.Discrete(len(ACTIONS))


def empty_observations(count: int) -> NDArray[np.float32]:
    """Return an uninitialised array (N, 5, 5) for the observations of N roads."""
    return np.empty((count, engine.OBSERVED, engine.OBSERVED), np.float32)


def check_action(action: Any) -> int:
    """Return an action as an int; raise ValueError unless it is an integer in 0..4."""
    try:
        chosen = index(action)
    except TypeError:
        chosen = -1
    if not 0 <= chosen < len(ACTIONS):
        raise ValueError(f"action must be an integer in 0..{len(ACTIONS) - 1}, got {action!r}")
    return chosen


def check_actions(actions: ArrayLike, count: int) -> NDArray[np.int64]:
    """Return actions (N,) as int64; raise ValueError unless they are N integers in 0..4."""
    array = np.asarray(actions)
    if array.shape != (count,) or array.dtype.kind not in "iu":
        raise ValueError(f"actions must be {count} integers, got shape {array.shape} of {array.dtype}")
    if array.min() < 0 or array.max() >= len(ACTIONS):
        raise ValueError(f"actions must be in 0..{len(ACTIONS) - 1}, got {array.min()}..{array.max()}")
    return np.ascontiguousarray(array, np.int64)


def check_state(state: RoadState, shape: tuple[int, ...], lanes: int) -> RoadState:
    """Return a state; raise a ValueError unless it fits the shape (N, V + 1) and the number of lanes."""
    expected = {"cars": (shape, engine.CAR), "roads": (shape[:1], engine.ROAD)}
    for name, (expected_shape, dtype) in expected.items():
        array = getattr(state, name, None)
        if not isinstance(array, np.ndarray) or array.shape != expected_shape or array.dtype != dtype:
            raise ValueError(
                f"state.{name} must be an array of shape {expected_shape} as get_state returns, got "
                f"{getattr(array, 'shape', None)} of {getattr(array, 'dtype', type(array).__name__)}"
            )
    for name in ("x", "y", "heading", "speed", "target_speed", "exponent", "timer", "impact_x", "impact_y"):
        check_array(f"state.cars[{name!r}]", state.cars[name])
    for name in ("lane", "target_lane"):
        least, most = state.cars[name].min(), state.cars[name].max()
        if least < 0 or most >= lanes:
            raise ValueError(f"state.cars[{name!r}] must be in 0..{lanes - 1}, got {least}..{most}")
    return state


def save_generator(generator: np.random.Generator, road: Any) -> None:
    """Write the state of a PCG64 generator into an entry of `engine.ROAD`."""
    saved: Any = generator.bit_generator.state
    for name, key in (("state", "state"), ("increment", "inc")):
        road[name + "_high"], road[name + "_low"] = divmod(saved["state"][key], 2**64)
    road["half"], road["has_half"] = saved["uinteger"], saved["has_uint32"]


def load_generator(generator: np.random.Generator, road: Any) -> None:
    """Set a PCG64 generator to the state in an entry of `engine.ROAD`."""
    generator.bit_generator.state = {
        "bit_generator": "PCG64",
        "state": {
            key: (int(road[name + "_high"]) << 64) + int(road[name + "_low"])
            for name, key in (("state", "state"), ("increment", "inc"))
        },
        "has_uint32": int(road["has_half"]),
        "uinteger": int(road["half"]),
    }
