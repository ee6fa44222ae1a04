"""Highway-Sim as a task: a prior that drives well on any lane, and an expert who wants it to keep right.

The expert's rule is a value rule. It objects to an action that costs more than the margin, by its own values:

    violation(s, a):  Q_E(s, a) - V_E(s) = alpha_hat log pi_E(a | s) < -margin

Leaving the right lane, or not going there, is a violation where the right lane is free, and none where it is
taken; and so is an action that is about to crash.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray

from deep.cloning import NeuralCloner
from deep.gym_task import check_settings
from deep.highway.envs import HighwayEnv, HighwayVectorEnv
from deep.highway.reference import ReferenceEnv
from deep.highway.roads import ACTIONS, FEATURES, RoadConfig, RoadState
from deep.learner import NeuralLearner
from deep.oracle import LOWEST_LOG_PROB, gram_distance, gram_of_values
from deep.policies import DiscretePolicy, all_log_probs, discrete_policy
from deep.residual_dqn import DQNConfig, ResidualDQN
from deep.rollouts import Rollout, collect
from mereq_min.experts import Imperfections, SimulatedExpert
from mereq_min.interfaces import Policy, RewardModel, Start
from mereq_min.lab.runs.files import load_arrays
from mereq_min.metrics import feature_divergence, true_weights
from mereq_min.validation import Array, check_number

HERE = Path(__file__).parent

EPISODES = 100
"""Episodes of an evaluation on the compiled roads [episodes]."""

REFERENCE_EPISODES = 20
"""The same on highway-env, which takes one and a half seconds for each [episodes]."""


@dataclass(frozen=True, eq=False)
class HighwayTask:
    """Highway-Sim with everything that `interfaces.Task` asks for.

    Features of a step, as highway-env counts them after it: `collision` (the ego has crashed), `right_lane`
    (target lane / (lanes - 1), the right-most is 1), `high_speed` (clip((v cos(heading) - 20) / 10, 0, 1), v
    in m/s). Rewards are w . f + 1 on the road; the 1 is not part of the residual.

    The paper weighs a collision by -0.5. With gamma 0.8 it then pays to drive into one: the optimum crashes
    in every sixth episode. Here both rewards weigh it by -60; theta* = (0, 0.5, 0) is the paper's.

    Attributes:
        name: its key in `TASKS`.
        config: the scene; the trained prior and expert were made for the default one.
        gamma: discount factor.
        prior_weights: (K,) w of the prior's reward.
        expert_weights: (K,) w of the expert's reward.
        prior_weight: omega.
        prior_temperature: alpha [reward].
        temperature: alpha_hat of what is aligned; the trained expert has its own [reward].
        margin: what an action may cost before the expert objects to it [reward]; a step on the right-most
            lane is worth 0.5 to it.
        patience: consecutive violations before a takeover [steps].
        release: consecutive steps without violation before handing back [steps].
        own_prior: a prior of your own, instead of the trained one that comes with this package.

    Raises:
        ValueError: naming the argument, what it got and what would be right.
    """

    name: str = "highway"
    config: RoadConfig = field(default_factory=RoadConfig)
    gamma: float = 0.8
    prior_weights: Array = field(default_factory=lambda: np.array([-60.0, 0.0, 0.4]))
    expert_weights: Array = field(default_factory=lambda: np.array([-60.0, 0.5, 0.4]))
    prior_weight: float = 1.0
    prior_temperature: float = 0.04
    temperature: float = 0.04
    margin: float = 0.4
    patience: int = 1
    release: int = 5
    own_prior: Policy | None = None

    def __post_init__(self) -> None:
        check_settings(self)
        check_number("margin", self.margin, 0, above=True)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names (K,) of the features."""
        return FEATURES

    @property
    def horizon(self) -> int:
        """Time limit of an episode [steps]."""
        return math.ceil(self.config.duration * self.config.policy_frequency)

    @property
    def input_scale(self) -> Array:
        """What observations (25,) are multiplied by, so that their entries vary by about 1.

        Presence, x, y, vx and vy of five cars: highway-env divides by 200 m, 12 m and 80 m/s, but the cars
        that matter are 10 m away and differ by 2 m/s.
        """
        return np.tile([1.0, 20.0, 3.0, 20.0, 40.0], 5)

    @cached_property
    def prior(self) -> Policy:
        """`own_prior`, else soft DQN for prior_weights, followed at prior_temperature."""
        if self.own_prior is not None:
            return self.own_prior
        q = discrete_policy(load_arrays(HERE / "prior.safetensors")).net
        return DiscretePolicy(q, self.prior_temperature)

    @cached_property
    def expert_policy(self) -> DiscretePolicy:
        """Residual soft DQN for expert_weights at temperature, on the trained prior.

        Two networks that are trained apart disagree by more than what the expert wants: with an expert from
        scratch the policy for theta* would still be stopped at every other step.
        """
        return discrete_policy(load_arrays(HERE / "expert.safetensors"))

    def make_env(self, render_mode: str | None = None, *, reference: bool = False) -> gym.Env[Any, Any]:
        """Return a road: highway-env itself as the reference or to be drawn, else a compiled one."""
        if reference or render_mode is not None:
            return ReferenceEnv(self.config, self.prior_weights, render_mode)
        return HighwayEnv(self.config, self.prior_weights)

    def make_vector_env(self, num_envs: int, weights: Array) -> VectorEnv[Any, Any, Any]:
        """Return compiled roads side by side, with the reward of the given weights (K,)."""
        return HighwayVectorEnv(num_envs, self.config, weights)

    def make_expert(
        self,
        rng: np.random.Generator,
        imperfections: Imperfections = Imperfections(),
    ) -> SimulatedExpert:
        """Return the expert who watches by the rule above; `rng` draws its actions and imperfections."""
        return SimulatedExpert(
            self.expert_policy,
            self.violates,
            patience=self.patience,
            release=self.release,
            rng=rng,
            imperfections=imperfections,
        )

    def violates(self, state: NDArray[Any], action: NDArray[Any]) -> bool:
        """Whether the expert objects to an action in a state (5, 5)."""
        expert = self.expert_policy
        advantage = expert.temperature * expert.log_prob(state[None], np.asarray(action)[None])[0]
        return bool(advantage < -self.margin)

    def make_learner(
        self, reward: RewardModel, discount: float, *, start: Start = "prior", seed: int = 0
    ) -> NeuralLearner:
        """Return residual soft DQN on the prior, or soft DQN of the full reward."""
        residual = reward == "residual"
        agent = ResidualDQN(
            25,
            len(ACTIONS),
            len(FEATURES),
            gamma=self.gamma,
            temperature=self.temperature,
            prior=self.prior if residual else None,
            scaled_prior_weight=self.prior_weight * self.prior_temperature if residual else 0.0,
            input_scale=self.input_scale,
            config=DQNConfig(hidden=(128, 128), replay_capacity=100_000),
            seed=seed,
        )
        if not residual and start == "prior":
            agent.start_from(self.prior)
        return NeuralLearner(
            agent,
            lambda n: self.make_vector_env(n, self.prior_weights),
            horizon=self.horizon,
            discount=discount,
            seed=seed,
        )

    def make_cloner(self, *, seed: int = 0) -> NeuralCloner:
        """Return cloning by maximum likelihood, from the prior's weights."""
        return NeuralCloner(self.prior, spaces.Discrete(len(ACTIONS)), seed=seed)

    def load_policy(self, state: dict[str, NDArray[Any]]) -> DiscretePolicy:
        """Rebuild a policy from the arrays of its `state()`.

        Raises:
            ValueError: if they are not those of a policy for this task.
        """
        policy = discrete_policy(state, self.prior)
        try:
            shape = policy.log_probs(np.zeros((1, 5, 5), np.float32)).shape
        except RuntimeError as error:
            raise ValueError(f"this policy does not take the task's observations (5, 5): {error}") from error
        if shape != (1, len(ACTIONS)):
            raise ValueError(f"this policy has {shape[1]} actions, the task {len(ACTIONS)}")
        return policy

    def evaluate(
        self, policy: Policy, *, episodes: int | None = None, reference: bool = False
    ) -> dict[str, Any]:
        """Measure a policy over whole episodes, the same ones for every policy.

        Args:
            policy: the policy.
            episodes: how many; default `EPISODES`, or `REFERENCE_EPISODES`.
            reference: whether to drive on highway-env itself.

        Returns:
            `prior_return` and `expert_return`: mean sum of w . f + 1 in an episode [reward]; `success`: share
            of episodes without a crash; `mean_speed`: of the ego, from a feature that is cut at 20 and 30
            [m/s]; `kl_to_expert`: mean KL(expert || policy) over the expert's steps, with log-probabilities
            floored at `LOWEST_LOG_PROB` [nats]; `feature_divergence`: (K,) Jensen-Shannon divergence of each
            feature's distribution over steps from the expert's [bits].
        """
        steps = self._roll_out(policy, episodes, reference)
        lived = steps.in_first_episode
        features = steps.features[lived]
        n_episodes = lived.shape[1]
        means = features.mean(axis=0)
        states = self._expert_steps.state[self._expert_steps.in_first_episode]
        log_expert = self.expert_policy.log_probs(states)
        log_policy = np.maximum(all_log_probs(policy, states, len(ACTIONS)), LOWEST_LOG_PROB)
        kl = (np.exp(log_expert) * (np.maximum(log_expert, LOWEST_LOG_PROB) - log_policy)).sum(axis=1).mean()
        return {
            "prior_return": float((features @ self.prior_weights + 1).sum() / n_episodes),
            "expert_return": float((features @ self.expert_weights + 1).sum() / n_episodes),
            "success": 1.0 - float((steps.terminated & lived).sum() / n_episodes),
            "mean_speed": float(20 + 10 * means[FEATURES.index("high_speed")]),
            "kl_to_expert": max(0.0, float(kl)),
            "feature_divergence": feature_divergence(
                features, self._expert_steps.features[self._expert_steps.in_first_episode]
            ),
        }

    def reward_distance(self, theta: Array, reward: RewardModel) -> float:
        """STARC distance (Skalse et al., arXiv 2309.15257) of theta . f to the true reward.

        Rewards are canonicalised by their advantage under uniformly random driving, which linear features
        make a matter of `advantage_gram` alone. NaN for the residual on an `own_prior`.
        """
        if reward == "residual" and self.own_prior is not None:
            return float("nan")
        return gram_distance(theta, true_weights(self, reward), self.advantage_gram)

    @cached_property
    def advantage_gram(self) -> Array:
        """(K, K) mean over states and actions of A_k A_l, the features' advantages under random driving.

        By simulation from states that prior and expert visit: each action in turn, then the same random
        actions after all of them.
        """
        rng = np.random.default_rng(0)
        states = self._visited_roads(200)
        return gram_of_values(*(_discounted_features(self, states, rng) for _ in range(2)))

    @cached_property
    def _expert_steps(self) -> Rollout:
        return self._roll_out(self.expert_policy, None, reference=False)

    def _roll_out(self, policy: Policy, episodes: int | None, reference: bool) -> Rollout:
        """Whole episodes from the seeds 0, 1, ..., side by side."""
        if reference:
            makers = [lambda: self.make_env(reference=True)] * (episodes or REFERENCE_EPISODES)
            envs: VectorEnv[Any, Any, Any] = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)
        else:
            envs = self.make_vector_env(episodes or EPISODES, self.prior_weights)
        steps = collect(envs, policy, self.horizon, np.random.default_rng(0), seed=0)
        envs.close()
        return steps

    def _visited_roads(self, count: int) -> RoadState:
        """Roads in the middle of episodes, half of them driven by the prior and half by the expert."""
        halves = []
        for policy, seed in ((self.prior, 0), (self.expert_policy, count)):
            envs = HighwayVectorEnv(count // 2, self.config)
            rng = np.random.default_rng(seed)
            collect(envs, policy, self.horizon // 2, rng, seed=seed)
            halves.append(envs.get_state())
        return RoadState(*(np.concatenate(parts) for parts in zip(*halves, strict=True)))


def _discounted_features(task: HighwayTask, roads: RoadState, rng: np.random.Generator) -> Array:
    """Discounted sums (N, A, K) of the features after each first action, then of random driving.

    The roads of one state are dealt the same random actions, so that their noise cancels in a difference.
    """
    N, A = len(roads.roads), len(ACTIONS)
    envs = HighwayVectorEnv(N * A, task.config)
    envs.set_state(RoadState(*(np.repeat(part, A, axis=0) for part in roads)))
    total, weight = np.zeros((N * A, len(FEATURES))), np.ones(N * A)
    action = np.tile(np.arange(A), N)
    for _ in range(int(np.log(0.01) / np.log(task.gamma))):
        _, _, terminated, _, info = envs.step(action)
        total += weight[:, None] * info["features"]
        weight *= task.gamma * ~terminated
        action = np.repeat(rng.integers(A, size=N), A)
    return total.reshape(N, A, -1)
