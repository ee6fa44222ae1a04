"""Gymnasium environments as tasks for `mereq pretrain`; they have no simulated expert.

CartPole and MountainCar are those of Li et al., "Residual Q-Learning" (NeurIPS 2023), where one more feature
makes the residual reward.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np

from deep.gym_task import Features, GymTask, ReportFeatures
from deep.rollouts import Rollout
from mereq_min.validation import Array

RESIDUAL_WEIGHTS: dict[str, Array] = {
    "CartPole-v1": np.array([0.0, 0.0, -1.0]),
    "MountainCarContinuous-v0": np.array([0.0, -0.1]),
}
"""theta* (K,), the weights of the residual reward, by gymnasium's id."""


class WeightedReward(gym.Wrapper[Any, Any, Any, Any]):
    """Replaces the reward of an environment by weights . f of the features f that it reports.

    Args:
        env: the environment, which reports `features` in its info.
        weights: (K,) weights.
    """

    def __init__(self, env: gym.Env[Any, Any], weights: Array) -> None:
        super().__init__(env)
        self.weights = weights

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take a step of the environment."""
        state, _, terminated, truncated, info = self.env.step(action)
        return state, float(info["features"] @ self.weights), terminated, truncated, info


def measure_added(steps: Rollout, *, name: str) -> dict[str, float]:
    """Measure whole episodes (T, E).

    Args:
        steps: the episodes.
        name: the environment's id, by which `RESIDUAL_WEIGHTS` gives the residual reward.

    Returns:
        `expert_return`: mean return of an episode, including the residual reward;
        `length`: mean length of an episode [steps].
    """
    lived = steps.in_first_episode
    added = steps.features @ RESIDUAL_WEIGHTS.get(name, np.zeros(steps.features.shape[-1]))
    return {
        "expert_return": float(((steps.reward + added) * lived).sum(axis=0).mean()),
        "length": float(lived.sum(axis=0).mean()),
    }


def make_plain(name: str, **options: Any) -> GymTask:
    """Return a gymnasium environment as a task whose only feature is the environment's own reward."""
    return _make(
        name, lambda state, action, after, info: [info["reward"]], ("reward",), [1.0], 0.99, **options
    )


def make_cartpole() -> GymTask:
    """Return CartPole: balance a pole upright; the residual reward asks to stay in the middle of the track.

    The prior's reward is 1 - 10 |angle| / 0.2095, the residual reward -|x| / 2.4 (Li et al. 2023). An episode
    ends at an angle of 0.2095 rad or 2.4 m from the middle.
    """

    def features(state: Array, action: Any, after: Array, info: dict[str, Any]) -> list[float]:
        return [1.0, abs(float(after[2])) / 0.2095, abs(float(after[0])) / 2.4]

    return _make("CartPole-v1", features, ("alive", "angle", "position"), [1.0, -10.0, 0.0], 0.98)


def make_mountain_car() -> GymTask:
    """Return MountainCarContinuous: drive out of a valley.

    The residual reward is -0.1 for each push to the left (Li et al. 2023).
    """

    def features(state: Array, action: Array, after: Array, info: dict[str, Any]) -> list[float]:
        return [info["reward"], float(action[0] < 0)]

    return _make("MountainCarContinuous-v0", features, ("reward", "left"), [1.0, 0.0], 0.99)


def _make(
    name: str, features: Features, names: tuple[str, ...], weights: list[float], gamma: float, **options: Any
) -> GymTask:
    def make_env(render_mode: str | None = None) -> gym.Env[Any, Any]:
        env = gym.make(name.partition(":")[0], render_mode=render_mode, **options)
        return WeightedReward(ReportFeatures(env, features, len(names)), np.array(weights))

    return GymTask(
        name,
        make_env,
        None,
        names,
        None,
        gamma,
        temperature=0.05,
        input_scale=None,
        episodes=20,
        measure=partial(measure_added, name=name),
    )


TASKS: dict[str, Callable[[], GymTask]] = {
    "CartPole-v1": make_cartpole,
    "MountainCarContinuous-v0": make_mountain_car,
    "LunarLander-v3": partial(make_plain, "LunarLander-v3"),
    "LunarLander-v3:continuous": partial(make_plain, "LunarLander-v3:continuous", continuous=True),
    "HalfCheetah-v5": partial(make_plain, "HalfCheetah-v5"),
}
"""Task factories by gymnasium's id."""
