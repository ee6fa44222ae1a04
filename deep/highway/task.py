"""Highway-Sim as a task: a prior that drives well on any lane, and an expert who wants it to keep right.

The expert objects by a value rule: an action is a violation if, by the expert's own values, it costs more
than a margin,

    violation(s, a):  Q_E(s, a) - V_E(s) = alpha_hat log pi_E(a | s) < -margin

While the right-most lane is free, it is a violation to leave it or not to change towards it; while it is
occupied, it is not. An action that is about to cause a crash is a violation too.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import gymnasium as gym
import numpy as np

from deep.gym_task import OF_NETWORKS, GymTask
from deep.highway.envs import HighwayEnv, HighwayVectorEnv
from deep.highway.reference import DrawnHighwayEnv, ReferenceEnv
from deep.highway.roads import ACTIONS, FEATURES, RoadConfig, RoadState
from deep.highway.scene import highway_scene
from deep.learner import LearnerConfig
from deep.oracle import SimulatorOracle, gram_of_values
from deep.policies import DiscretePolicy, discrete_policy
from deep.residual_dqn import DQNConfig
from deep.rollouts import Rollout, collect
from mereq_min.inverse import FeatureMatchingConfig
from mereq_min.lab.runs.files import load_arrays
from mereq_min.loop import LoopConfig, Settings
from mereq_min.validation import Array

HERE = Path(__file__).parent
"""Folder of the trained policies."""

PRIOR_WEIGHTS = np.array([-60.0, 0.0, 0.4])
"""(K,) weights w of the prior's reward w . f + 1, which is the environment's own.

In the paper a collision weighs -0.5. With gamma 0.8 a collision then pays: the optimal policy crashes in
every sixth episode. Here it weighs -60 for the prior and the expert; theta* = (0, 0.5, 0) is the paper's.
"""
EXPERT_WEIGHTS = np.array([-60.0, 0.5, 0.4])
"""(K,) weights w of the expert's reward w . f + 1."""
TEMPERATURE = 0.04
"""alpha of the prior and alpha_hat of the aligned policies [reward]."""
MARGIN = 0.4
"""Cost of an action above which the expert objects [reward]; a step on the right-most lane is worth 0.5."""

INPUT_SCALE = np.tile([1.0, 20.0, 3.0, 20.0, 40.0], 5)
"""(25,) factors of presence, x, y, vx and vy of the five cars, which make each vary by about 1.

Highway-env divides by 200 m, 12 m and 80 m/s, but the cars that matter are 10 m away and 2 m/s faster or
slower.
"""

RECORDED = Settings(
    # 500 steps are 12 episodes; with 250 steps, rates of 0.05 and 0.10 cannot be told apart. Each gradient
    # step rolls out 64 episodes. Their noise exceeds the tolerance of feature matching: after 50 gradient
    # steps, theta only wanders.
    LoopConfig(steps_per_iteration=500),
    replace(OF_NETWORKS.estimators, matching=FeatureMatchingConfig(max_steps=50)),
)
"""Settings of the task's recorded runs."""


def make_highway(config: RoadConfig = RoadConfig()) -> GymTask:
    """Return the task Highway-Sim with the prior and the expert of this package.

    The features of a step are highway-env's, measured after the step: `collision` (1 if the ego has crashed),
    `right_lane` (target lane / (lanes - 1), which is 1 on the right-most lane) and `high_speed`
    (clip((v cos(heading) - 20) / 10, 0, 1), v in m/s). Rewards are w . f + 1 on the road and 0 off it; the 1
    is not part of the residual reward.

    The prior was trained by soft DQN for `PRIOR_WEIGHTS` and is followed at `TEMPERATURE`. The expert was
    trained by residual soft DQN for theta* on that prior, takes over after one violation, and hands back
    after 5 steps without one.

    Args:
        config: the scene; prior and expert were trained on the default scene.
    """
    q = discrete_policy(load_arrays(HERE / "prior.safetensors")).net
    prior = DiscretePolicy(q, TEMPERATURE)
    oracle = SimulatorOracle(
        EXPERT_WEIGHTS - PRIOR_WEIGHTS,
        rule=MARGIN,
        release=5,
        expert=discrete_policy(load_arrays(HERE / "expert.safetensors"), prior),
        full_weights=EXPERT_WEIGHTS,
        make_gram=partial(advantage_gram, config=config),
    )
    return GymTask(
        name="highway",
        env=partial(make_road, config=config),
        features=None,
        feature_names=FEATURES,
        prior=prior,
        gamma=0.8,
        temperature=TEMPERATURE,
        horizon=math.ceil(config.duration * config.policy_frequency),
        vector_env=partial(HighwayVectorEnv, config=config, weights=PRIOR_WEIGHTS),
        reference_env=partial(ReferenceEnv, config, PRIOR_WEIGHTS),
        input_scale=INPUT_SCALE,
        learner=LearnerConfig(),
        dqn=DQNConfig(hidden=(128, 128), replay_capacity=100_000),
        measure=measure_driving,
        oracle=oracle,
        recorded_settings=RECORDED,
        scene=highway_scene(config),
    )


def make_road(render_mode: str | None = None, *, config: RoadConfig) -> gym.Env:
    """Return a compiled road, whose images highway-env renders; for "human", highway-env itself."""
    if render_mode is None:
        return HighwayEnv(config, PRIOR_WEIGHTS)
    if render_mode == "rgb_array":
        return DrawnHighwayEnv(config, PRIOR_WEIGHTS)
    return ReferenceEnv(config, PRIOR_WEIGHTS, render_mode)


def measure_driving(steps: Rollout) -> dict[str, float]:
    """Measure whole episodes (T, E).

    Returns:
        `success`: share of episodes without a crash;
        `mean_speed`: mean speed of the ego, clipped to 20 and 30 m/s at each step [m/s].
    """
    lived = steps.in_first_episode
    crashed = (steps.terminated & lived).sum() / lived.shape[1]
    speed = steps.features[lived].mean(axis=0)[FEATURES.index("high_speed")]
    return {"success": 1.0 - float(crashed), "mean_speed": float(20 + 10 * speed)}


def advantage_gram(task: GymTask, *, config: RoadConfig) -> Array:
    """Estimate the mean (K, K) over states and actions of A_k A_l, where A_k is the advantage of feature k.

    Advantages are those of the uniformly random policy. They are simulated from states that the prior and the
    expert visit: each action is tried once, and the same random actions follow each of them.

    Args:
        task: gives prior, expert and discount factor.
        config: the scene.
    """
    rng = np.random.default_rng(0)
    states = _visited_roads(task, config, 200)
    return gram_of_values(*(_discounted_features(task, config, states, rng) for _ in range(2)))


def _visited_roads(task: GymTask, config: RoadConfig, count: int) -> RoadState:
    """Return roads in the middle of an episode: half of them driven by the prior, half by the expert."""
    assert task.oracle is not None
    halves = []
    for policy, seed in ((task.prior, 0), (task.oracle.expert_policy, count)):
        envs = HighwayVectorEnv(count // 2, config)
        collect(envs, policy, task.horizon // 2, np.random.default_rng(seed), seed=seed)
        halves.append(envs.get_state())
    return RoadState(*(np.concatenate(parts) for parts in zip(*halves, strict=True)))


def _discounted_features(
    task: GymTask, config: RoadConfig, roads: RoadState, rng: np.random.Generator
) -> Array:
    """Return discounted sums (N, A, K) of the features of each first action and the random actions after it.

    All roads that start from the same state take the same random actions, so that their noise cancels in
    differences.
    """
    N, A = len(roads.roads), len(ACTIONS)
    envs = HighwayVectorEnv(N * A, config)
    envs.set_state(RoadState(*(np.repeat(part, A, axis=0) for part in roads)))
    total, weight = np.zeros((N * A, len(FEATURES))), np.ones(N * A)
    action = np.tile(np.arange(A), N)
    for _ in range(int(np.log(0.01) / np.log(task.gamma))):
        _, _, terminated, _, info = envs.step(action)
        total += weight[:, None] * info["features"]
        weight *= task.gamma * ~terminated
        action = np.repeat(rng.integers(A, size=N), A)
    return total.reshape(N, A, -1)
