"""A vector environment of a tabular MDP with one-hot observations, for neural learners."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from mereq_min import TabularMDP, TabularPolicy
from mereq_min.validation import Array


def one_hot(mdp: TabularMDP, state: NDArray[np.int64]) -> NDArray[np.float32]:
    """Observations (N, S) of states (N,)."""
    return np.eye(mdp.n_states, dtype=np.float32)[state]


class TabularVectorEnv(VectorEnv[Any, Any, Any]):
    """Many copies of a `TabularMDP`, with a time limit; the reward is the first feature.

    Args:
        mdp: the MDP.
        num_envs: number of copies.
        horizon: time limit [steps].
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012 (gymnasium's own declaration)

    def __init__(self, mdp: TabularMDP, num_envs: int, horizon: int) -> None:
        self.mdp, self.num_envs, self.horizon = mdp, num_envs, horizon
        self.single_observation_space = gym.spaces.Box(0, 1, (mdp.n_states,), np.float32)
        self.single_action_space = gym.spaces.Discrete(mdp.n_actions)
        self._cumulative = mdp.transition.toarray().cumsum(axis=1)[:, :-1]

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Draw all initial states from rho0."""
        self._rng = np.random.default_rng(seed)
        self._state = self._sample_initial_states()
        self._t = np.zeros(self.num_envs, dtype=np.int64)
        return one_hot(self.mdp, self._state), {}

    def step(self, action: NDArray[np.int64]) -> tuple[Any, ...]:
        """Draw all next states, and reset where an episode ended."""
        row = self._state * self.mdp.n_actions + action
        features = self.mdp.features[self._state, action]
        after = (self._rng.random(self.num_envs)[:, None] >= self._cumulative[row]).sum(axis=1)
        self._t += 1
        terminated = self.mdp.terminal[after]
        truncated = ~terminated & (self._t == self.horizon)
        ended = terminated | truncated
        self._state = np.where(ended, self._sample_initial_states(), after)
        self._t[ended] = 0
        info = {"features": features, "final_obs": one_hot(self.mdp, after), "_final_obs": ended}
        return one_hot(self.mdp, self._state), features[:, 0], terminated, truncated, info

    def _sample_initial_states(self) -> NDArray[np.int64]:
        return self._rng.choice(self.mdp.n_states, size=self.num_envs, p=self.mdp.initial)


class OneHotPolicy:
    """A table log pi(a | s) (S, A) over one-hot observations."""

    def __init__(self, log_policy: Array) -> None:
        self._policy = TabularPolicy(log_policy)

    def log_prob(self, state: NDArray[Any], action: NDArray[Any]) -> Array:
        """Log-probability (N,) of actions (N,) in observations (N, S)."""
        return self._policy.log_prob(state.argmax(axis=1), action)

    def sample(self, state: NDArray[Any], rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw actions (N,) in observations (N, S)."""
        return self._policy.sample(state.argmax(axis=1), rng)
