"""Three gymnasium environments: in each a prior does the task, and an expert wants it done differently."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from deep.gaussian import squashed_gaussian_policy
from deep.gym_task import OF_NETWORKS, GymTask
from deep.learner import LearnerConfig
from deep.oracle import SimulatorOracle
from deep.policies import discrete_policy
from deep.rollouts import Rollout
from deep.stable_baselines import load_zip
from mereq_min.interfaces import Policy
from mereq_min.inverse import SegmentLikelihoodConfig
from mereq_min.lab.runs.files import load_arrays
from mereq_min.loop import LoopConfig, Settings
from mereq_min.validation import Array

HERE = Path(__file__).parent
"""Folder of the trained policies."""

RECORDED = Settings(
    # A dozen episodes, or a few long ones; a wish is about one thing, so that theta is expected to be small.
    LoopConfig(iterations=5, steps_per_iteration=2000),
    replace(OF_NETWORKS.estimators, likelihood=SegmentLikelihoodConfig(prior_sd=0.15)),
)
"""Settings of the runs that the book shows."""


def load_trained_expert(name: str, prior: Policy | None = None) -> Policy | None:
    """The expert that `train_experts.py` wrote, None before it did; `prior` is what it customises."""
    file = HERE / f"{name}-expert.safetensors"
    if not file.exists():
        return None
    arrays = load_arrays(file)
    return squashed_gaussian_policy(arrays) if "low" in arrays else discrete_policy(arrays, prior)


def make_lunar_lander() -> GymTask:
    """Land on the moon; the expert wants the craft to come down slowly.

    Features after a step: `fast_descent`, clip((-v_y - 0.3) / 0.5, 0, 1); `tilt`, min(|angle| / 0.4 rad, 1);
    `drift`, min(|v_x|, 1); `off_centre`, min(|x|, 1). The prior is PPO of Stable-Baselines3. The expert
    objects to sinking faster than 0.75.
    """

    def features(state: NDArray[Any], action: Any, after: NDArray[Any], info: dict[str, Any]) -> list[float]:
        x, _, v_x, v_y, angle = after[:5]
        descent = np.clip((-v_y - 0.3) / 0.5, 0, 1)
        return [descent, min(abs(angle) / 0.4, 1), min(abs(v_x), 1), min(abs(x), 1)]

    def violates(state: NDArray[Any], action: Any) -> bool:
        return bool(state[3] < -0.75)

    prior = load_zip(HERE / "lunar-lander-prior.zip")
    expert = load_trained_expert("lunar-lander", prior)
    theta = np.array([-0.7, 0.0, 0.0, 0.0])
    return GymTask(
        "lunar-lander",
        "LunarLander-v3",
        features,
        ("fast_descent", "tilt", "drift", "off_centre"),
        prior,
        gamma=0.97,
        temperature=0.1,
        horizon=600,
        learner=LearnerConfig(num_envs=8, updates=200, first_rounds=40),
        oracle=SimulatorOracle(theta, violates, release=120, expert=expert, rounds=50),
        recorded_settings=RECORDED,
    )


class PumpingPolicy:
    """Pushes a car the way it moves, which swings it out of a valley: the prior of `mountain-car`.

    A Gaussian around plus or minus `strength`: any object with these two methods can be a prior.

    Args:
        strength: mean of a push, in [0, 1].
        sd: standard deviation of a push.
    """

    def __init__(self, strength: float = 0.8, sd: float = 0.15) -> None:
        self.strength, self.sd = strength, sd

    def log_prob(self, state: NDArray[Any], action: NDArray[Any]) -> Array:
        """Log-density (N,) of actions (N, 1) in states (N, 2)."""
        return norm.logpdf(action[:, 0], self._mean(state), self.sd)

    def sample(self, state: NDArray[Any], rng: np.random.Generator) -> NDArray[np.float32]:
        """Draw actions (N, 1) in states (N, 2)."""
        mean = self._mean(state)
        return (mean + self.sd * rng.standard_normal(mean.shape)).astype(np.float32)[:, None]

    def _mean(self, state: NDArray[Any]) -> Array:
        # At rest, to the right; the slope of tanh is one that a network can learn.
        return self.strength * np.tanh(200.0 * state[:, 1] + 0.5)


def make_mountain_car() -> GymTask:
    """Drive out of a valley; the expert wants it done with less effort.

    Features of a step: `effort`, the push squared; `left`, whether it is a push to the left; `speed`,
    |velocity| / 0.07. The prior is the rule `PumpingPolicy`, cloned into a squashed Gaussian. The expert
    objects to pushes above 0.88.
    """

    def features(
        state: NDArray[Any], action: NDArray[Any], after: NDArray[Any], info: dict[str, Any]
    ) -> list[float]:
        push = float(np.clip(action[0], -1, 1))
        return [push**2, push < 0, abs(after[1]) / 0.07]

    def violates(state: NDArray[Any], action: NDArray[Any]) -> bool:
        return bool(abs(action[0]) > 0.88)

    expert, theta = load_trained_expert("mountain-car"), np.array([-0.45, 0.0, 0.0])
    return GymTask(
        "mountain-car",
        "MountainCarContinuous-v0",
        features,
        ("effort", "left", "speed"),
        PumpingPolicy(),
        gamma=0.99,
        temperature=0.1,
        horizon=300,
        learner=LearnerConfig(num_envs=8),
        measure=measure_arrival,
        oracle=SimulatorOracle(theta, violates, release=1, expert=expert, rounds=40),
        recorded_settings=RECORDED,
    )


def measure_arrival(steps: Rollout) -> dict[str, float]:
    """`success`: share of episodes in which the car gets out of the valley."""
    return {"success": float((steps.terminated & steps.in_first_episode).any(axis=0).mean())}


def make_half_cheetah() -> GymTask:
    """Run; the expert wants the motors of the feet spared.

    Features of a step: `feet`, the mean squared torque of both feet; `legs`, that of thighs and shins;
    `forward`, clip(v_x / 5, 0, 1) with v_x in m/s; `bounce`, min(|v_z| / 2, 1) likewise. The prior is soft
    actor-critic of this package, which found out how to run on its back. The expert objects where the feet's
    mean squared torque is above 0.55.
    """

    def features(
        state: NDArray[Any], action: NDArray[Any], after: NDArray[Any], info: dict[str, Any]
    ) -> list[float]:
        squared = np.square(action)
        forward, vertical = np.clip(after[8] / 5, 0, 1), min(abs(after[9]) / 2, 1)
        return [squared[[2, 5]].mean(), squared[[0, 1, 3, 4]].mean(), forward, vertical]

    def violates(state: NDArray[Any], action: NDArray[Any]) -> bool:
        return bool(np.square(action[[2, 5]]).mean() > 0.55)

    prior = squashed_gaussian_policy(load_arrays(HERE / "half-cheetah-prior.safetensors"))
    prior.temperature = 0.1  # the file does not tell
    expert, theta = load_trained_expert("half-cheetah"), np.array([-1.0, 0.0, 0.0, 0.0])
    return GymTask(
        "half-cheetah",
        "HalfCheetah-v5",
        features,
        ("feet", "legs", "forward", "bounce"),
        prior,
        gamma=0.97,
        temperature=0.1,
        horizon=200,
        oracle=SimulatorOracle(theta, violates, release=2, expert=expert, rounds=60),
        recorded_settings=RECORDED,
    )
