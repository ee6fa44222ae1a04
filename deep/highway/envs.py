"""Gymnasium environments of a straight highway: compiled singly, compiled in batches, and highway-env itself.

All three have the same spaces, rewards and `info["features"]`. From the same seed they start in the same
state, and the same actions then lead through the same observations (see `deep.highway.engine`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import pairwise
from operator import index
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

from deep.highway import engine
from deep.simulators import make_generators
from mereq_min.checks import Array, check_array, check_number

FEATURES = ("collision", "right_lane", "high_speed")
ACTIONS = ("lane left", "idle", "lane right", "faster", "slower")
PRIOR_WEIGHTS = (-0.5, 0.0, 0.4)

StepResult = tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]


@dataclass(frozen=True)
class RoadConfig:
    """A scene of highway-env's `highway-v0`, whose options have the same names; the defaults are Highway-Sim.

    `others_collide=False` makes it `highway-fast-v0`. All else is highway-env's default: kinematic
    observations of five cars, meta-actions, IDM traffic, a straight road of 10 km.

    Raises:
        ValueError: on a value out of range.
    """

    lanes_count: int = 3  # lanes
    vehicles_count: int = 30  # cars besides the ego
    simulation_frequency: float = 5  # sub-steps [Hz]
    policy_frequency: float = 1  # actions [Hz]
    duration: float = 40  # time limit [s]
    ego_spacing: float = 1.5  # the ego's distance from the start, in default gaps
    vehicles_density: float = 1.0  # of the traffic, 1 for default gaps
    initial_lane_id: int | None = None  # the ego's first lane, 0 is the left-most; None draws it
    others_collide: bool = True  # whether cars other than the ego check for collisions between them

    def __post_init__(self) -> None:
        check_number("lanes_count", self.lanes_count, 1, whole=True)
        check_number("vehicles_count", self.vehicles_count, 0, whole=True)
        check_number("policy_frequency", self.policy_frequency, 0, above=True)
        check_number("simulation_frequency", self.simulation_frequency, self.policy_frequency)
        for name in ("duration", "ego_spacing", "vehicles_density"):
            check_number(name, getattr(self, name), 0, above=True)
        if self.initial_lane_id is not None:
            check_number("initial_lane_id", self.initial_lane_id, 0, self.lanes_count - 1, whole=True)
        if not isinstance(self.others_collide, bool):
            raise ValueError(f"others_collide must be True or False, got {self.others_collide!r}")

    def highway_env(self) -> dict[str, Any]:
        """Return the `config` of the real `highway-v0`, or of `highway-fast-v0` if not `others_collide`."""
        return {name: value for name, value in asdict(self).items() if name != "others_collide"}

    def scene(self) -> engine.Scene:
        """Return the numbers for the compiled engine, each of the one type it is compiled for."""
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
    """Everything that N roads' futures depend on."""

    cars: NDArray[Any]
    """(N, V + 1) of `engine.CAR`, the ego first."""
    roads: NDArray[Any]
    """(N,) of `engine.ROAD`: the clock and the random generator."""


class _Roads:
    """The state of N roads, and how it is drawn, saved and set."""

    def __init__(self, count: int, config: RoadConfig, weights: ArrayLike) -> None:
        self.scene = config.scene()
        self.weights = check_array("weights", weights, shape=(len(FEATURES),))
        self.state = RoadState(
            np.zeros((count, config.vehicles_count + 1), engine.CAR), np.zeros(count, engine.ROAD)
        )
        self.is_set = False

    def arguments(self) -> tuple[Any, ...]:
        return (*self.state, self.scene, self.weights)

    def seed(self, n: int, generator: np.random.Generator) -> None:
        _save_generator(generator, self.state.roads[n])

    def reset(self) -> NDArray[np.float32]:
        self.is_set = True
        count = len(self.state.roads)
        observations = _empty_observations(count)
        self.reset_chosen(np.ones(count, np.bool_), observations)
        return observations

    def reset_chosen(self, chosen: NDArray[np.bool_], observations: NDArray[np.float32]) -> None:
        engine.reset_roads(*self.state, self.scene, chosen, observations)

    def get(self) -> RoadState:
        self.require("get_state")
        return RoadState(self.state.cars.copy(), self.state.roads.copy())

    def set(self, state: RoadState) -> NDArray[np.float32]:
        cars, roads = _check_state(state, self.state.cars.shape, self.scene.lanes)
        self.state.cars[:], self.state.roads[:] = cars, roads
        self.is_set = True
        observations = _empty_observations(len(roads))
        engine.observe_roads(self.state.cars, self.scene, observations)
        return observations

    def require(self, method: str) -> None:
        if not self.is_set:
            raise ResetNeeded(f"{method} needs a state: call reset first")


class HighwayVectorEnv(VectorEnv[Any, Any, Any]):
    """N compiled roads stepped together; a road whose episode ends is reset in the same step.

    Observations are (N, 5, 5) float32, actions (N,) integers of `ACTIONS`. `info["features"]` (N, 3) and
    `info["final_obs"]` (N, 5, 5) are always those of the step just taken, before any reset, and
    `info["_final_obs"]` (N,) says which roads were reset. Each road draws from a generator of its own: seed s
    gives road i the seed s + i, as elsewhere in gymnasium, and nothing depends on `num_envs` or `threads`.

    Args:
        num_envs: N [roads].
        config: the scene.
        weights: (3,) of the reward, weights . f + 1 on the road and 0 off it; default: the published prior's.
        threads: among which the roads are divided.

    Raises:
        ValueError: on a bad argument.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012 (gymnasium's own)

    def __init__(
        self,
        num_envs: int,
        config: RoadConfig = RoadConfig(),
        weights: ArrayLike = PRIOR_WEIGHTS,
        threads: int = 1,
    ) -> None:
        check_number("num_envs", num_envs, 1, whole=True)
        check_number("threads", threads, 1, whole=True)
        self.num_envs, self.config, self.threads = num_envs, config, threads
        self.single_observation_space, self.single_action_space = _spaces()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._roads = _Roads(num_envs, config, weights)
        self._pool = ThreadPoolExecutor(threads - 1) if threads > 1 else None
        edges = np.linspace(0, num_envs, threads + 1).astype(int).tolist()
        self._shares = list(pairwise(edges))

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Draw a first state for every road; without a seed the generators go on.

        Raises:
            ValueError: on a list of seeds whose length is not N.
        """
        if seed is not None or not self._roads.is_set:
            for n, generator in enumerate(make_generators(seed, self.num_envs)):
                self._roads.seed(n, generator)
        return self._roads.reset(), {}

    def step(
        self, actions: ArrayLike
    ) -> tuple[NDArray[np.float32], Array, NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Take one policy step on every road.

        Raises:
            ValueError: on actions (N,) that are not integers in 0..4.
            ResetNeeded: before the first `reset`.
        """
        self._roads.require("step")
        N = self.num_envs
        final, features, rewards = _empty_observations(N), np.empty((N, len(FEATURES))), np.empty(N)
        terminated, truncated = np.empty(N, np.bool_), np.empty(N, np.bool_)
        chosen = _check_actions(actions, N)
        self._run(*self._roads.arguments(), chosen, final, features, rewards, terminated, truncated)
        observations, ended = final.copy(), terminated | truncated
        if ended.any():
            self._roads.reset_chosen(ended, observations)
        info = {"features": features, "final_obs": final, "_final_obs": ended}
        return observations, rewards, terminated, truncated, info

    def get_state(self) -> RoadState:
        """Return a copy of all roads' states.

        Raises:
            ResetNeeded: before the first `reset`.
        """
        return self._roads.get()

    def set_state(self, state: RoadState) -> NDArray[np.float32]:
        """Go on from a state that `get_state` returned, and return its observations (N, 5, 5).

        Raises:
            ValueError: on other shapes or types, values that are not finite, or lanes that do not exist.
        """
        return self._roads.set(state)

    def _run(self, *arguments: Any) -> None:
        """Step each thread's share of the roads; the compiled code holds no lock."""
        others = [
            self._pool.submit(engine.step_roads, *share, *arguments)
            for share in self._shares[1:]
            if self._pool is not None
        ]
        engine.step_roads(*self._shares[0], *arguments)
        for other in others:
            other.result()

    def close_extras(self, **kwargs: Any) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()


class HighwayEnv(gym.Env[Any, Any]):
    """One compiled road; observations are (5, 5) float32, `info["features"]` (3,) is that of the step.

    Args:
        config: the scene.
        weights: (3,) of the reward, weights . f + 1 on the road and 0 off it; default: the published prior's.

    Raises:
        ValueError: on a bad argument.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (gymnasium's own declaration)

    def __init__(
        self,
        config: RoadConfig = RoadConfig(),
        weights: ArrayLike = PRIOR_WEIGHTS,
    ) -> None:
        self.config = config
        self.observation_space, self.action_space = _spaces()
        self._roads = _Roads(1, config, weights)
        # Written again at every step, and only their items handed out.
        self._action = np.zeros(1, np.int64)
        self._results: tuple[Any, ...] = (np.zeros(1), np.zeros(1, np.bool_), np.zeros(1, np.bool_))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Draw the first state as highway-env does from the same seed; without one the generator goes on."""
        super().reset(seed=seed)
        if seed is not None or not self._roads.is_set:
            self._roads.seed(0, self.np_random)
        return self._roads.reset()[0], {}

    def step(self, action: int) -> StepResult:
        """Take one policy step.

        Raises:
            ValueError: on an action outside 0..4.
            ResetNeeded: before the first `reset`.
        """
        self._roads.require("step")
        self._action[0] = _check_action(action)
        observation, features = _empty_observations(1), np.empty((1, len(FEATURES)))
        arguments = (*self._roads.arguments(), self._action, observation, features, *self._results)
        engine.step_roads(0, 1, *arguments)
        reward, terminated, truncated = (result.item() for result in self._results)
        return observation[0], reward, terminated, truncated, {"features": features[0]}

    def get_state(self) -> RoadState:
        """Return a copy of the road's state, of one row.

        Raises:
            ResetNeeded: before the first `reset`.
        """
        return self._roads.get()

    def set_state(self, state: RoadState) -> NDArray[np.float32]:
        """Go on from a state that `get_state` returned, and return its observation (5, 5).

        Raises:
            ValueError: on other shapes or types, values that are not finite, or lanes that do not exist.
        """
        return self._roads.set(state)[0]


class ReferenceEnv(gym.Env[Any, Any]):
    """The real highway-env with the interface of `HighwayEnv`, a thousand times slower; it can be drawn.

    Args:
        config: the scene.
        weights: (3,) of the reward, weights . f + 1 on the road and 0 off it; default: the published prior's.
        render_mode: "human", "rgb_array" or None.

    Attributes:
        simulator: highway-env's environment, whose `vehicle` is the ego and `road.vehicles` are all cars.

    Raises:
        ValueError: on a bad argument.
    """

    metadata = {"render_modes": ["human", "rgb_array"], "render_fps": 5}  # noqa: RUF012 (gymnasium's own)

    def __init__(
        self,
        config: RoadConfig = RoadConfig(),
        weights: ArrayLike = PRIOR_WEIGHTS,
        render_mode: str | None = None,
    ) -> None:
        # Slow to import, and needed by nobody who trains.
        from highway_env.envs import highway_env  # type: ignore[import-untyped]

        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode must be 'human', 'rgb_array' or None, got {render_mode!r}")
        # An image needs no display, and SDL complains where there is none. SDL reads this once: a process
        # that has drawn images opens no window later.
        if render_mode == "rgb_array":
            os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        self.config, self.render_mode = config, render_mode
        self._weights = check_array("weights", weights, shape=(len(FEATURES),)).tolist()
        self.observation_space, self.action_space = _spaces()
        simulator = highway_env.HighwayEnv if config.others_collide else highway_env.HighwayEnvFast
        self.simulator = simulator(config.highway_env(), render_mode)
        self._is_set = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Draw the first state; without a seed the generator goes on."""
        super().reset(seed=seed)
        self.simulator.np_random = self.np_random
        self._is_set = True
        return self.simulator.reset()[0], {}

    def step(self, action: int) -> StepResult:
        """Take one policy step.

        Raises:
            ValueError: on an action outside 0..4.
            ResetNeeded: before the first `reset`.
        """
        if not self._is_set:
            raise ResetNeeded("step needs a state: call reset first")
        observation, _, terminated, truncated, info = self.simulator.step(_check_action(action))
        terms = info["rewards"]
        f = [float(terms[name + "_reward"]) for name in FEATURES]
        w = self._weights
        reward = w[0] * f[0] + w[1] * f[1] + w[2] * f[2] + 1 if terms["on_road_reward"] else 0.0
        return observation, reward, bool(terminated), bool(truncated), {"features": np.array(f)}

    def get_state(self) -> RoadState:
        """Return the road's state, of one row, as the compiled environments understand it.

        Raises:
            ResetNeeded: before the first `reset`.
        """
        if not self._is_set:
            raise ResetNeeded("get_state needs a state: call reset first")
        vehicles = self.simulator.road.vehicles
        state = RoadState(np.zeros((1, len(vehicles)), engine.CAR), np.zeros(1, engine.ROAD))
        for car, vehicle in zip(state.cars[0], vehicles, strict=True):
            _read_vehicle(car, vehicle)
        state.roads["time"] = self.simulator.time
        _save_generator(self.np_random, state.roads[0])
        return state

    def set_state(self, state: RoadState) -> NDArray[np.float32]:
        """Go on from a state that any `get_state` returned, and return its observation (5, 5).

        Raises:
            ValueError: on other shapes or types, values that are not finite, or lanes that do not exist.
        """
        vehicles = self.simulator.road.vehicles
        cars, roads = _check_state(state, (1, len(vehicles)), self.config.lanes_count)
        for car, vehicle in zip(cars[0], vehicles, strict=True):
            _write_vehicle(car, vehicle)
        self.simulator.time = float(roads[0]["time"])
        _load_generator(self.np_random, roads[0])
        self.simulator.np_random = self.simulator.road.np_random = self.np_random
        self._is_set = True
        return self.simulator.observation_type.observe()

    def render(self) -> Any:
        """Draw the road: an RGB image (height, width, 3), or None where a window shows it.

        Raises:
            ResetNeeded: before the first `reset`.
        """
        if not self._is_set:
            raise ResetNeeded("render needs a state: call reset first")
        if self.render_mode is None:
            return None
        image = self.simulator.render()
        # Where SDL_VIDEODRIVER is "dummy", highway-env starts its viewer switched off: the image is black.
        if not self.simulator.viewer.enabled:
            self.simulator.viewer.enabled = True
            image = self.simulator.render()
        return image

    def close(self) -> None:
        """Close the window."""
        self.simulator.close()

    def __getstate__(self) -> dict[str, Any]:
        # Its surfaces cannot be pickled; the next `render` makes new ones.
        self.simulator.viewer = None
        return self.__dict__


def _spaces() -> tuple[gym.spaces.Box, gym.spaces.Discrete]:
    box = gym.spaces.Box(-1.0, 1.0, (engine.OBSERVED, engine.OBSERVED), np.float32)
    return box, gym.spaces.Discrete(len(ACTIONS))


def _empty_observations(count: int) -> NDArray[np.float32]:
    return np.empty((count, engine.OBSERVED, engine.OBSERVED), np.float32)


def _check_action(action: Any) -> int:
    try:
        chosen = index(action)
    except TypeError:
        chosen = -1
    if not 0 <= chosen < len(ACTIONS):
        raise ValueError(f"action must be an integer in 0..{len(ACTIONS) - 1}, got {action!r}")
    return chosen


def _check_actions(actions: ArrayLike, count: int) -> NDArray[np.int64]:
    array = np.asarray(actions)
    if array.shape != (count,) or array.dtype.kind not in "iu":
        raise ValueError(f"actions must be {count} integers, got shape {array.shape} of {array.dtype}")
    if array.min() < 0 or array.max() >= len(ACTIONS):
        raise ValueError(f"actions must be in 0..{len(ACTIONS) - 1}, got {array.min()}..{array.max()}")
    return np.ascontiguousarray(array, np.int64)


def _check_state(state: RoadState, shape: tuple[int, ...], lanes: int) -> RoadState:
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


def _save_generator(generator: np.random.Generator, road: Any) -> None:
    saved: Any = generator.bit_generator.state
    for name, key in (("state", "state"), ("increment", "inc")):
        road[name + "_high"], road[name + "_low"] = divmod(saved["state"][key], 2**64)
    road["half"], road["has_half"] = saved["uinteger"], saved["has_uint32"]


def _load_generator(generator: np.random.Generator, road: Any) -> None:
    generator.bit_generator.state = {
        "bit_generator": "PCG64",
        "state": {
            key: (int(road[name + "_high"]) << 64) + int(road[name + "_low"])
            for name, key in (("state", "state"), ("increment", "inc"))
        },
        "has_uint32": int(road["has_half"]),
        "uinteger": int(road["half"]),
    }


def _read_vehicle(car: Any, vehicle: Any) -> None:
    car["x"], car["y"] = vehicle.position
    for name in ("heading", "speed", "target_speed", "crashed"):
        car[name] = getattr(vehicle, name)
    car["exponent"], car["timer"] = getattr(vehicle, "DELTA", 0.0), getattr(vehicle, "timer", 0.0)
    car["lane"], car["target_lane"] = vehicle.lane_index[2], vehicle.target_lane_index[2]
    car["has_impact"] = vehicle.impact is not None
    if car["has_impact"]:
        car["impact_x"], car["impact_y"] = vehicle.impact


def _write_vehicle(car: Any, vehicle: Any) -> None:
    vehicle.position = np.array([car["x"], car["y"]])
    for name in ("heading", "speed", "target_speed"):
        setattr(vehicle, name, float(car[name]))
    if hasattr(vehicle, "timer"):
        vehicle.DELTA, vehicle.timer = float(car["exponent"]), float(car["timer"])
    vehicle.lane_index, vehicle.target_lane_index = (
        (*vehicle.lane_index[:2], int(car[name])) for name in ("lane", "target_lane")
    )
    vehicle.lane = vehicle.road.network.get_lane(vehicle.lane_index)
    vehicle.impact = np.array([car["impact_x"], car["impact_y"]]) if car["has_impact"] else None
    vehicle.crashed = bool(car["crashed"])
