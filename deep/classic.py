"""Gymnasium's classic control as tasks to pretrain on and to customise; no expert watches here.

CartPole and MountainCar carry the residual tasks of Li et al., "Residual Q-Learning" (NeurIPS 2023): what is
added to the prior's reward is one more feature.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

from deep.gaussian import squashed_gaussian_policy
from deep.nets import with_prefix
from deep.policies import discrete_policy
from deep.rollouts import collect
from mereq_min.interfaces import Policy
from mereq_min.validation import Array

Feature = Callable[[NDArray[Any], Any, float], float]
"""(observation that followed, action, the environment's own reward) -> feature of the step."""


@dataclass(frozen=True, eq=False)
class ClassicTask:
    """A gymnasium environment whose reward is a weighted sum of named features.

    Attributes:
        name: gymnasium's id.
        gamma: discount factor.
        features: (K,) features of a step by name.
        prior_weights: (K,) weights of the prior's reward.
        expert_weights: (K,) weights of the reward with what is added to it; the same where nothing is.
        options: what `gymnasium.make` is given beside the id.
        prior_temperature: of a prior that is only known by its Q-values [reward].
    """

    name: str
    gamma: float
    features: dict[str, Feature]
    prior_weights: Array
    expert_weights: Array
    options: dict[str, Any] = field(default_factory=dict)
    prior_temperature: float = 0.05

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names (K,) of the features."""
        return tuple(self.features)

    @property
    def horizon(self) -> int:
        """Time limit of an episode [steps]."""
        spec = gym.spec(self.name.partition(":")[0])
        assert spec.max_episode_steps is not None
        return spec.max_episode_steps

    def make_env(self, render_mode: str | None = None, *, reference: bool = False) -> gym.Env[Any, Any]:
        """Return a fresh environment with `features` in its info and the prior's reward."""
        return self._make(self.prior_weights, render_mode)

    def make_vector_env(self, num_envs: int, weights: Array) -> gym.vector.VectorEnv[Any, Any, Any]:
        """Return that many environments side by side, with the reward of the given weights (K,)."""
        makers = [lambda: self._make(weights, None)] * num_envs
        return SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)

    def evaluate(
        self, policy: Policy, *, episodes: int | None = None, reference: bool = False
    ) -> dict[str, Any]:
        """Measure a policy over whole episodes: mean `prior_return`, `expert_return` and `length` [steps]."""
        envs = self.make_vector_env(episodes or 20, self.prior_weights)
        steps = collect(envs, policy, self.horizon, np.random.default_rng(0), seed=0)
        envs.close()
        lived = steps.in_first_episode
        sums = np.einsum("te,tek->ek", lived, steps.features)
        return {
            "prior_return": float((sums @ self.prior_weights).mean()),
            "expert_return": float((sums @ self.expert_weights).mean()),
            "length": float(lived.sum(axis=0).mean()),
        }

    def load_policy(self, state: dict[str, NDArray[Any]]) -> Policy:
        """Rebuild a policy from the arrays of its `state()`, with its prior's under `prior.` if it has one.

        Raises:
            ValueError: if they are not those of a policy for this task.
        """
        env, of_prior = self.make_env(), with_prefix(state, "prior.")
        prior = self.load_policy(of_prior) if of_prior else None
        policy = squashed_gaussian_policy(state) if "low" in state else discrete_policy(state, prior)
        observation = np.zeros((1, *(env.observation_space.shape or ())), np.float32)
        try:
            action = policy.sample(observation, np.random.default_rng(0))[0]
        except RuntimeError as error:
            raise ValueError(f"this policy does not take the observations of {self.name}: {error}") from error
        if not env.action_space.contains(action):
            raise ValueError(f"{self.name} has the actions {env.action_space}, this policy took {action!r}")
        return policy

    def _make(self, weights: Array, render_mode: str | None) -> gym.Env[Any, Any]:
        env = gym.make(self.name.partition(":")[0], render_mode=render_mode, **self.options)
        return WeightedFeatures(env, self.features, weights)


class WeightedFeatures(gym.Wrapper[Any, Any, Any, Any]):
    """Puts named features into a step's info and makes their weighted sum its reward."""

    def __init__(self, env: gym.Env[Any, Any], features: dict[str, Feature], weights: Array) -> None:
        super().__init__(env)
        self.named, self.weights = features, weights

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take a step; info["features"] is (K,)."""
        state, reward, terminated, truncated, info = super().step(action)
        features = np.array([feature(state, action, float(reward)) for feature in self.named.values()])
        return state, float(features @ self.weights), terminated, truncated, {**info, "features": features}


def _own(state: NDArray[Any], action: Any, reward: float) -> float:
    """The environment's own reward."""
    return reward


def _plain(name: str, **options: Any) -> Callable[[], ClassicTask]:
    one = np.ones(1)
    return lambda: ClassicTask(name, 0.99, {"reward": _own}, one, one, options)


def make_cartpole() -> ClassicTask:
    """Balance upright; what is added: keep to the middle of the track.

    Prior reward 1 - 10 |angle| / 0.2095, add-on -|x| / 2.4 (Li et al. 2023); 0.2095 rad or 2.4 m are the end.
    """
    features: dict[str, Feature] = {
        "alive": lambda state, action, reward: 1.0,
        "angle": lambda state, action, reward: abs(float(state[2])) / 0.2095,
        "position": lambda state, action, reward: abs(float(state[0])) / 2.4,
    }
    return ClassicTask(
        "CartPole-v1", 0.98, features, np.array([1.0, -10.0, 0.0]), np.array([1.0, -10.0, -1.0])
    )


def make_mountain_car() -> ClassicTask:
    """Drive out of a valley; what is added: -0.1 for a push to the left (Li et al. 2023)."""
    features: dict[str, Feature] = {
        "reward": _own,
        "left": lambda state, action, reward: float(action[0] < 0),
    }
    return ClassicTask(
        "MountainCarContinuous-v0", 0.99, features, np.array([1.0, 0.0]), np.array([1.0, -0.1])
    )


TASKS: dict[str, Callable[[], ClassicTask]] = {
    "CartPole-v1": make_cartpole,
    "MountainCarContinuous-v0": make_mountain_car,
    "LunarLander-v3": _plain("LunarLander-v3"),
    "LunarLander-v3:continuous": _plain("LunarLander-v3:continuous", continuous=True),
}
"""Task factories by gymnasium's id."""
