"""The gymnasium environment of a tabular task: sampled from the very matrix that the solvers use."""

from __future__ import annotations

from bisect import bisect_right
from operator import index
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

if TYPE_CHECKING:
    from gridworlds.tabular import TabularTask


class TabularEnv(gym.Env[Any, Any]):
    """Walks through a task's `TabularMDP`; observations are states, the reward is prior_weights . f(s, a).

    `info["features"]` holds f(s, a) (K,) of the step. Episodes terminate in the MDP's terminal states.

    Args:
        task: the task.
        render_mode: "rgb_array" or None.

    Attributes:
        state: where the agent is; -1 before the first `reset`.
        controller: "policy" or "expert"; the rendering shows who acts by the colour of the agent.

    Raises:
        ValueError: on another render_mode.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 8}  # noqa: RUF012 (gymnasium's own declaration)

    def __init__(self, task: TabularTask, render_mode: str | None = None) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}")
        mdp = task.mdp
        self.task, self.render_mode = task, render_mode
        self.observation_space = gym.spaces.Discrete(mdp.n_states)
        self.action_space = gym.spaces.Discrete(mdp.n_actions)
        self.state = -1
        self.controller = "policy"
        # Plain lists: bisecting a short one is some ten times faster than numpy on it.
        rows = mdp.transition
        splits = rows.indptr[1:-1]
        self._successors = [row.tolist() for row in np.split(rows.indices, splits)]
        self._cumulative = [np.cumsum(row)[:-1].tolist() for row in np.split(rows.data, splits)]
        self._initial_states = np.flatnonzero(mdp.initial)
        self._initial_cumulative = np.cumsum(mdp.initial[self._initial_states])[:-1]
        self._rewards = mdp.reward(task.prior_weights).ravel().tolist()
        self._features = list(mdp.features.reshape(-1, mdp.n_features))
        self._terminal = mdp.terminal.tolist()
        self._n_actions = mdp.n_actions

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Draw the first state from rho0."""
        super().reset(seed=seed)
        drawn = np.searchsorted(self._initial_cumulative, self.np_random.random(), side="right")
        self.state = int(self._initial_states[drawn])
        return self.state, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """Draw the next state from P(. | s, a).

        Raises:
            ValueError: on an action outside the space.
            ResetNeeded: before the first `reset`.
        """
        if self.state < 0:
            raise ResetNeeded("step needs a state: call reset first")
        try:
            chosen = index(action)
        except TypeError:
            chosen = -1
        if not 0 <= chosen < self._n_actions:
            raise ValueError(f"action must be an integer in 0..{self._n_actions - 1}, got {action!r}")
        row = self.state * self._n_actions + chosen
        drawn = bisect_right(self._cumulative[row], self.np_random.random())
        self.state = self._successors[row][drawn]
        info = {"features": self._features[row]}
        return self.state, self._rewards[row], self._terminal[self.state], False, info

    def render(self) -> NDArray[np.uint8] | None:
        """Draw the state as an RGB image (height, width, 3).

        Raises:
            ResetNeeded: before the first `reset`.
        """
        if self.state < 0:
            raise ResetNeeded("render needs a state: call reset first")
        if self.render_mode is None:
            return None
        return self.task.draw(self.task.layout, self.state, self.controller)
