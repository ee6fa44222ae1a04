"""Gymnasium environments of a straight highway, compiled: one road, or many roads stepped together.

They and `reference.ReferenceEnv`, which is highway-env itself, have the same spaces, rewards and
`info["features"]`. From the same seed all three start in the same state, and the same actions then lead to
the same observations (see `deep.highway.engine`).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

from deep.highway import engine
from deep.highway.roads import (
    FEATURES,
    PAPER_WEIGHTS,
    RoadConfig,
    Roads,
    RoadState,
    StepResult,
    check_action,
    check_actions,
    empty_observations,
    make_spaces,
)
from deep.rollouts import make_generators
from mereq_min.validation import Array, check_number


class HighwayVectorEnv(VectorEnv[Any, Any, Any]):
    """N compiled roads stepped together; a road whose episode ends is reset in the same step.

    Observations are (N, 5, 5) float32, actions (N,) indices into `ACTIONS`. `info["features"]` (N, 3) and
    `info["final_obs"]` (N, 5, 5) are always those of the step just taken, before any reset, and
    `info["_final_obs"]` (N,) says which roads were reset. Each road has its own random generator: seed s
    gives road i the seed s + i, as elsewhere in gymnasium, and no road's course depends on `num_envs` or
    `threads`.

    Args:
        num_envs: N [roads].
        config: the scene.
        weights: (3,) weights of the reward, which is weights . f + 1 on the road and 0 off it; default: those
            of the published prior.
        threads: number of threads among which the roads are divided.

    Raises:
        ValueError: if an argument is malformed.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012 (gymnasium's own)
    _pool: ThreadPoolExecutor | None = None  # gymnasium closes even environments whose arguments were refused

    def __init__(
        self,
        num_envs: int,
        config: RoadConfig = RoadConfig(),
        weights: ArrayLike = PAPER_WEIGHTS,
        threads: int = 1,
    ) -> None:
        check_number("num_envs", num_envs, 1, integer=True)
        check_number("threads", threads, 1, integer=True)
        self.num_envs, self.config, self.threads = num_envs, config, threads
        self.single_observation_space, self.single_action_space = make_spaces()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._roads = Roads(num_envs, config, weights)
        self._pool = ThreadPoolExecutor(threads - 1) if threads > 1 else None
        edges = np.linspace(0, num_envs, threads + 1).astype(int).tolist()
        self._shares = list(pairwise(edges))

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Draw an initial state for every road; without a seed, the random generators continue.

        Raises:
            ValueError: if there is a list of seeds whose length is not N.
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
            ValueError: if the actions are not N integers in 0..4.
            ResetNeeded: before the first `reset`.
        """
        self._roads.require("step")
        N = self.num_envs
        final, features, rewards = empty_observations(N), np.empty((N, len(FEATURES))), np.empty(N)
        terminated, truncated = np.empty(N, np.bool_), np.empty(N, np.bool_)
        chosen = check_actions(actions, N)
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
        """Continue from a state that `get_state` returned, and return its observations (N, 5, 5).

        Raises:
            ValueError: if shapes or types differ, a value is not finite, or a lane does not exist.
        """
        return self._roads.set(state)

    def _run(self, *arguments: Any) -> None:
        """Step each thread's share of the roads; the compiled code releases the interpreter lock."""
        others = [
            self._pool.submit(engine.step_roads, *share, *arguments)
            for share in self._shares[1:]
            if self._pool is not None
        ]
        engine.step_roads(*self._shares[0], *arguments)
        for other in others:
            other.result()

    def close_extras(self, **kwargs: Any) -> None:
        """Shut the threads down."""
        if self._pool is not None:
            self._pool.shutdown()


class HighwayEnv(gym.Env[Any, Any]):
    """One compiled road.

    Observations are (5, 5) float32, actions indices into `ACTIONS`; `info["features"]` (3,) are the features
    of the step.

    Args:
        config: the scene.
        weights: (3,) weights of the reward, which is weights . f + 1 on the road and 0 off it; default: those
            of the published prior.

    Raises:
        ValueError: if an argument is malformed.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (gymnasium's own declaration)

    def __init__(
        self,
        config: RoadConfig = RoadConfig(),
        weights: ArrayLike = PAPER_WEIGHTS,
    ) -> None:
        self.config = config
        self.observation_space, self.action_space = make_spaces()
        self._roads = Roads(1, config, weights)
        # These arrays are overwritten at every step; callers only get their items.
        self._action = np.zeros(1, np.int64)
        self._results: tuple[Any, ...] = (np.zeros(1), np.zeros(1, np.bool_), np.zeros(1, np.bool_))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Draw the initial state that highway-env draws from the seed; without one, the generator goes on."""
        super().reset(seed=seed)
        if seed is not None or not self._roads.is_set:
            self._roads.seed(0, self.np_random)
        return self._roads.reset()[0], {}

    def step(self, action: int) -> StepResult:
        """Take one policy step.

        Raises:
            ValueError: if the action is not an integer in 0..4.
            ResetNeeded: before the first `reset`.
        """
        self._roads.require("step")
        self._action[0] = check_action(action)
        observation, features = empty_observations(1), np.empty((1, len(FEATURES)))
        arguments = (*self._roads.arguments(), self._action, observation, features, *self._results)
        engine.step_roads(0, 1, *arguments)
        reward, terminated, truncated = (result.item() for result in self._results)
        return observation[0], reward, terminated, truncated, {"features": features[0]}

    def get_state(self) -> RoadState:
        """Return a copy of the road's state, as one row.

        Raises:
            ResetNeeded: before the first `reset`.
        """
        return self._roads.get()

    def set_state(self, state: RoadState) -> NDArray[np.float32]:
        """Continue from a state that `get_state` returned, and return its observation (5, 5).

        Raises:
            ValueError: if shapes or types differ, a value is not finite, or a lane does not exist.
        """
        return self._roads.set(state)[0]
