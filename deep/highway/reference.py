"""Highway-env itself, with the interface of the compiled roads."""

from __future__ import annotations

import os
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded
from numpy.typing import ArrayLike, NDArray

from deep.highway import engine
from deep.highway.envs import HighwayEnv
from deep.highway.roads import (
    FEATURES,
    PAPER_WEIGHTS,
    RoadConfig,
    RoadState,
    StepResult,
    check_action,
    check_state,
    load_generator,
    make_spaces,
    save_generator,
)
from mereq_min.validation import check_array


class ReferenceEnv(gym.Env[Any, Any]):
    """Highway-env itself with the interface of `HighwayEnv`: a thousand times slower, but it can be rendered.

    Args:
        config: the scene.
        weights: (3,) weights of the reward, which is weights . f + 1 on the road and 0 off it; default: those
            of the published prior.
        render_mode: "human", "rgb_array" or None.

    Attributes:
        simulator: highway-env's environment; its `vehicle` is the ego, its `road.vehicles` are all cars.

    Raises:
        ValueError: if an argument is malformed.
    """

    metadata = {"render_modes": ["human", "rgb_array"], "render_fps": 5}  # noqa: RUF012 (gymnasium's own)

    def __init__(
        self,
        config: RoadConfig = RoadConfig(),
        weights: ArrayLike = PAPER_WEIGHTS,
        render_mode: str | None = None,
    ) -> None:
        # It is slow to import, and training does not need it.
        from highway_env.envs import highway_env  # type: ignore[import-untyped]

        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode must be 'human', 'rgb_array' or None, got {render_mode!r}")
        # An image needs no display, but SDL fails without one unless it is told so. SDL reads this variable
        # only once: a process that has rendered images cannot open a window later.
        if render_mode == "rgb_array":
            os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        self.config, self.render_mode = config, render_mode
        self._weights = check_array("weights", weights, shape=(len(FEATURES),)).tolist()
        self.observation_space, self.action_space = make_spaces()
        simulator = highway_env.HighwayEnv if config.others_collide else highway_env.HighwayEnvFast
        self.simulator = simulator(config.highway_env(), render_mode)
        self._is_set = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Draw an initial state; without a seed, the random generator continues."""
        super().reset(seed=seed)
        self.simulator.np_random = self.np_random
        self._is_set = True
        return self.simulator.reset()[0], {}

    def step(self, action: int) -> StepResult:
        """Take one policy step.

        Raises:
            ValueError: if the action is not an integer in 0..4.
            ResetNeeded: before the first `reset`.
        """
        if not self._is_set:
            raise ResetNeeded("step needs a state: call reset first")
        observation, _, terminated, truncated, info = self.simulator.step(check_action(action))
        terms = info["rewards"]
        f = [float(terms[name + "_reward"]) for name in FEATURES]
        w = self._weights
        reward = w[0] * f[0] + w[1] * f[1] + w[2] * f[2] + 1 if terms["on_road_reward"] else 0.0
        return observation, reward, bool(terminated), bool(truncated), {"features": np.array(f)}

    def get_state(self) -> RoadState:
        """Return the road's state as one row, in the form that the compiled environments use.

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
        save_generator(self.np_random, state.roads[0])
        return state

    def set_state(self, state: RoadState) -> NDArray[np.float32]:
        """Continue from a state that any `get_state` returned, and return its observation (5, 5).

        Raises:
            ValueError: if shapes or types differ, a value is not finite, or a lane does not exist.
        """
        self.place(state)
        return self.simulator.observation_type.observe()

    def place(self, state: RoadState) -> None:
        """Do what `set_state` does, without its observation, which takes longer than drawing a picture.

        Raises:
            ValueError: if shapes or types differ, a value is not finite, or a lane does not exist.
        """
        vehicles = self.simulator.road.vehicles
        cars, roads = check_state(state, (1, len(vehicles)), self.config.lanes_count)
        for car, vehicle in zip(cars[0], vehicles, strict=True):
            _write_vehicle(car, vehicle)
        self.simulator.time = float(roads[0]["time"])
        load_generator(self.np_random, roads[0])
        self.simulator.np_random = self.simulator.road.np_random = self.np_random
        self._is_set = True

    def render(self) -> Any:
        """Render the road; return an RGB image (height, width, 3), or None if a window shows it.

        Raises:
            ResetNeeded: before the first `reset`.
        """
        if not self._is_set:
            raise ResetNeeded("render needs a state: call reset first")
        if self.render_mode is None:
            return None
        image = self.simulator.render()
        # If SDL_VIDEODRIVER is "dummy", highway-env's viewer starts disabled and the image is black.
        if not self.simulator.viewer.enabled:
            self.simulator.viewer.enabled = True
            image = self.simulator.render()
        return image

    def close(self) -> None:
        """Close the window."""
        self.simulator.close()

    def __getstate__(self) -> dict[str, Any]:
        # The viewer's surfaces cannot be pickled; the next `render` makes new ones.
        self.simulator.viewer = None
        return self.__dict__


class DrawnHighwayEnv(HighwayEnv):
    """One compiled road whose pictures highway-env draws, for films; arguments are those of `HighwayEnv`."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012 (gymnasium's own)
    render_mode = "rgb_array"

    def __init__(
        self,
        config: RoadConfig = RoadConfig(),
        weights: ArrayLike = PAPER_WEIGHTS,
    ) -> None:
        super().__init__(config, weights)
        self._painter = ReferenceEnv(config, weights, self.render_mode)

    def render(self) -> Any:
        """Return an RGB image (height, width, 3) of the road.

        Raises:
            ResetNeeded: before the first `reset`.
        """
        self._painter.place(self.get_state())
        return self._painter.render()

    def close(self) -> None:
        """Free what drew the pictures."""
        self._painter.close()


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
