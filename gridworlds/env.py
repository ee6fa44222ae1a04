"""The gymnasium environment of a tabular MDP, sampled from the same matrix that the solvers use."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from operator import index
from typing import Any
from weakref import WeakKeyDictionary

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from gridworlds.draw import Draw
from gridworlds.maps import Layout
from mereq_min.mdp import TabularMDP
from mereq_min.validation import Array


@dataclass(frozen=True)
class _Tables:
    """Tables for sampling an MDP, as plain lists: bisecting a short list is ten times faster than numpy.

    Row s * A + a belongs to state s and action a.

    Attributes:
        successors: states that may follow.
        cumulative: cumulative probabilities of all of them but the last.
        features: f(s, a) (K,).
        terminal: whether each state is terminal.
    """

    successors: list[list[int]]
    cumulative: list[list[float]]
    features: list[Array]
    terminal: list[bool]

    @classmethod
    def of(cls, mdp: TabularMDP) -> _Tables:
        rows = mdp.transition
        splits = rows.indptr[1:-1]
        return cls(
            successors=[row.tolist() for row in np.split(rows.indices, splits)],
            cumulative=[np.cumsum(row)[:-1].tolist() for row in np.split(rows.data, splits)],
            features=list(mdp.features.reshape(-1, mdp.n_features)),
            terminal=mdp.terminal.tolist(),
        )


_tables: WeakKeyDictionary[TabularMDP, _Tables] = WeakKeyDictionary()
"""Tables of every MDP that was sampled: a run makes a new environment in each iteration."""


class TabularEnv(gym.Env[Any, Any]):
    """Samples a `TabularMDP`: observations are states, the reward is weights . f(s, a).

    `info["features"]` holds f(s, a) (K,) of the step. Episodes terminate in the MDP's terminal states.

    Args:
        mdp: dynamics, features and rho0.
        weights: (K,) weights of the reward.
        layout: the cell of each state on a picture.
        draw: draws a state.
        render_mode: "rgb_array" or None.

    Attributes:
        state: index of the current state; -1 before the first `reset`.
        controller: "policy" or "expert"; `render` shows it by the colour of the agent.

    Raises:
        ValueError: on any other render_mode.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 8}  # noqa: RUF012 (gymnasium's own declaration)

    def __init__(
        self, mdp: TabularMDP, weights: Array, layout: Layout, draw: Draw, render_mode: str | None = None
    ) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}")
        self.mdp, self.layout, self.draw, self.render_mode = mdp, layout, draw, render_mode
        self.observation_space = gym.spaces.Discrete(mdp.n_states)
        self.action_space = gym.spaces.Discrete(mdp.n_actions)
        self.state = -1
        self.controller = "policy"
        if mdp not in _tables:
            _tables[mdp] = _Tables.of(mdp)
        self._tables = _tables[mdp]
        self._initial_states = np.flatnonzero(mdp.initial)
        self._initial_cumulative = np.cumsum(mdp.initial[self._initial_states])[:-1]
        self._rewards = mdp.reward(weights).ravel().tolist()
        self._n_actions = mdp.n_actions

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Draw the initial state from rho0."""
        super().reset(seed=seed)
        self.state = self._sample_initial_state()
        return self.state, {}

    def _sample_initial_state(self) -> int:
        drawn = np.searchsorted(self._initial_cumulative, self.np_random.random(), side="right")
        return int(self._initial_states[drawn])

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """Draw the next state from P(. | s, a).

        Raises:
            ValueError: on an action outside the space.
            ResetNeeded: before the first `reset`.
        """
        if self.state < 0:
            raise ResetNeeded("call reset first: step needs a current state")
        try:
            chosen = index(action)
        except TypeError:
            chosen = -1
        if not 0 <= chosen < self._n_actions:
            raise ValueError(f"action must be an integer in 0..{self._n_actions - 1}, got {action!r}")
        row = self.state * self._n_actions + chosen
        tables = self._tables
        drawn = bisect_right(tables.cumulative[row], self.np_random.random())
        self.state = tables.successors[row][drawn]
        info = {"features": tables.features[row]}
        return self.state, self._rewards[row], tables.terminal[self.state], False, info

    def render(self) -> NDArray[np.uint8] | None:
        """Draw the state as an RGB image (height, width, 3); None without a render mode.

        Raises:
            ResetNeeded: before the first `reset`.
        """
        if self.state < 0:
            raise ResetNeeded("call reset first: render needs a current state")
        if self.render_mode is None:
            return None
        return self.draw(self.layout, self.state, self.controller)
