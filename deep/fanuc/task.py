"""The three manipulation tasks: a prior that does the job, and an expert who minds how it is done.

Rewards are w . f with the weights of the paper divided by `SCALE`, temperatures likewise: which unit a reward
has is free, and values near 10 are learned faster than values near 50.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from deep.cloning import CloningConfig, NeuralCloner
from deep.fanuc.bottle import BottleCells
from deep.fanuc.cells import HORIZON, Cells
from deep.fanuc.envs import FanucEnv, FanucVectorEnv
from deep.fanuc.eraser import EraserCells
from deep.fanuc.pillow import PillowCells
from deep.gaussian import SquashedGaussianPolicy, squashed_gaussian_policy
from deep.gym_task import check_settings
from deep.learner import LearnerConfig, NeuralLearner
from deep.oracle import gram_distance, gram_of_values, sampled_kl
from deep.residual_sac import ResidualSAC, SACConfig
from deep.rollouts import Rollout, collect
from mereq_min.experts import Imperfections, SimulatedExpert
from mereq_min.interfaces import Policy, RewardModel, Start
from mereq_min.lab.runs.files import load_arrays
from mereq_min.metrics import feature_divergence, true_weights
from mereq_min.validation import Array, check_number

HERE = Path(__file__).parent

SCALE = 5.0
"""What the paper's weights are divided by."""

EPISODES = 100
"""Episodes of an evaluation [episodes]."""


@dataclass(frozen=True, eq=False)
class FanucTask:
    """A robot cell with everything that `interfaces.Task` asks for.

    Attributes:
        name: its key in `TASKS`.
        cells: the kind of cell, which says what the features are and what the expert objects to.
        limit: where its rule, `Cells.violates`, begins.
        prior_weights: (K,) w of the prior's reward.
        expert_weights: (K,) w of the expert's reward.
        release: consecutive steps without violation before handing back [steps].
        gamma: discount factor.
        prior_weight: omega.
        prior_temperature: alpha [reward].
        temperature: alpha_hat of what is aligned [reward].
        patience: consecutive violations before a takeover [steps].
        own_prior: a prior of your own, instead of the trained one that comes with this package.

    Raises:
        ValueError: naming the argument, what it got and what would be right.
    """

    name: str
    cells: type[Cells]
    limit: float
    prior_weights: Array
    expert_weights: Array
    release: int
    gamma: float = 0.98
    prior_weight: float = 1.0
    prior_temperature: float = 0.02
    temperature: float = 0.02
    patience: int = 4
    own_prior: Policy | None = None

    def __post_init__(self) -> None:
        check_settings(self)
        check_number("limit", self.limit, 0)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names (K,) of the features."""
        return self.cells.features

    @property
    def horizon(self) -> int:
        """Time limit of an episode [steps]."""
        return HORIZON

    @cached_property
    def prior(self) -> Policy:
        """`own_prior`, else soft actor-critic for prior_weights at prior_temperature."""
        return self.own_prior or squashed_gaussian_policy(
            load_arrays(HERE / f"{self.name}-prior.safetensors")
        )

    @cached_property
    def expert_policy(self) -> SquashedGaussianPolicy:
        """Residual soft actor-critic for expert_weights at temperature, on the trained prior."""
        return squashed_gaussian_policy(load_arrays(HERE / f"{self.name}-expert.safetensors"))

    def make_env(self, render_mode: str | None = None, *, reference: bool = False) -> gym.Env[Any, Any]:
        """Return a cell with the prior's reward; there is one simulator only."""
        return FanucEnv(self.cells, self.prior_weights, render_mode)

    def make_vector_env(self, num_envs: int, weights: Array) -> VectorEnv[Any, Any, Any]:
        """Return cells side by side, with the reward of the given weights (K,)."""
        return FanucVectorEnv(self.cells, num_envs, weights)

    def make_expert(
        self,
        rng: np.random.Generator,
        imperfections: Imperfections = Imperfections(),
    ) -> SimulatedExpert:
        """Return the expert who watches by the cell's rule; `rng` draws its actions and imperfections."""
        return SimulatedExpert(
            self.expert_policy,
            lambda state, action: self.cells.violates(state, self.limit),
            patience=self.patience,
            release=self.release,
            rng=rng,
            imperfections=imperfections,
        )

    def make_learner(
        self, reward: RewardModel, discount: float, *, start: Start = "prior", seed: int = 0
    ) -> NeuralLearner:
        """Return residual soft actor-critic on the prior, or soft actor-critic of the full reward."""
        agent = ResidualSAC(
            self.cells.n_observations,
            self.make_env().action_space,
            len(self.feature_names),
            gamma=self.gamma,
            temperature=self.temperature,
            # Without a weight it is only where the actor begins.
            prior=self.prior if start == "prior" else None,
            scaled_prior_weight=self.prior_weight * self.prior_temperature if reward == "residual" else 0.0,
            config=SACConfig(batch_size=128),
            seed=seed,
        )
        return NeuralLearner(
            agent,
            lambda n: self.make_vector_env(n, self.prior_weights),
            horizon=HORIZON,
            discount=discount,
            config=LearnerConfig(num_envs=16, first_rounds=100),
            seed=seed,
        )

    def make_cloner(self, *, seed: int = 0) -> NeuralCloner:
        """Return cloning by maximum likelihood, from the prior's weights."""
        return NeuralCloner(self.prior, self.make_env().action_space, CloningConfig(pull=5.0), seed=seed)

    def load_policy(self, state: dict[str, NDArray[Any]]) -> SquashedGaussianPolicy:
        """Rebuild a policy from the arrays of its `state()`.

        Raises:
            ValueError: if they are not those of a policy for this task.
        """
        policy = squashed_gaussian_policy(state)
        try:
            actions = policy.sample(np.zeros((1, self.cells.n_observations)), np.random.default_rng(0))
        except RuntimeError as error:
            raise ValueError(f"this policy does not take the observations of {self.name}: {error}") from error
        if actions.shape[1] != self.cells.n_actions:
            raise ValueError(f"this policy has {actions.shape[1]} actions, the task {self.cells.n_actions}")
        return policy

    def evaluate(
        self, policy: Policy, *, episodes: int | None = None, reference: bool = False
    ) -> dict[str, Any]:
        """Measure a policy over whole episodes, the same ones for every policy.

        Args:
            policy: the policy.
            episodes: how many; default `EPISODES`.
            reference: there is one simulator only.

        Returns:
            `prior_return` and `expert_return`: mean sum of w . f in an episode [reward]; `success`: share of
            episodes at whose end the task proper is done; `kl_to_expert`: `evaluation.sampled_kl` [nats];
            `feature_divergence`: (K,) Jensen-Shannon divergence of each feature's distribution over steps
            from the expert's [bits].
        """
        steps = self._roll_out(policy, episodes or EPISODES)
        returns = steps.features.sum(axis=0).mean(axis=0)
        flat, of_expert = (each.transitions()["features"] for each in (steps, self._expert_steps))
        return {
            "prior_return": float(returns @ self.prior_weights),
            "expert_return": float(returns @ self.expert_weights),
            "success": float(self.cells.succeeded(steps.next_state[-1]).mean()),
            "kl_to_expert": max(0.0, sampled_kl(self.expert_policy, policy, self._expert_steps)),
            "feature_divergence": feature_divergence(flat, of_expert),
        }

    def reward_distance(self, theta: Array, reward: RewardModel) -> float:
        """STARC distance of theta . f to the true reward; NaN for the residual on an `own_prior`."""
        if reward == "residual" and self.own_prior is not None:
            return float("nan")
        return gram_distance(theta, true_weights(self, reward), self.advantage_gram)

    @cached_property
    def advantage_gram(self) -> Array:
        """(K, K) mean of A_k A_l, the features' advantages along paths of random actions.

        By simulation from states that prior and expert visit: random actions in turn, then the same random
        ones after all of them. Cells are deterministic, so that shaping cancels along a path already, and the
        products of one path make a matrix that is no less than 0.
        """
        rng = np.random.default_rng(0)
        cells = self._visited_cells(40)
        first = rng.uniform(-1, 1, (len(cells.data), 4, cells.n_actions))
        values = _discounted_features(cells, first, self.gamma, rng)
        return gram_of_values(values, values)

    @cached_property
    def _expert_steps(self) -> Rollout:
        return self._roll_out(self.expert_policy, EPISODES)

    def _roll_out(self, policy: Policy, episodes: int) -> Rollout:
        """Whole episodes from the seeds 0, 1, ..., side by side."""
        envs = self.make_vector_env(episodes, self.prior_weights)
        return collect(envs, policy, HORIZON, np.random.default_rng(0), seed=0)

    def _visited_cells(self, count: int) -> Cells:
        """Cells in the middle of episodes, half of them under the prior and half under the expert."""
        cells, rng = self.cells(count), np.random.default_rng(0)
        for n in range(count):
            cells.reset(n, rng)
        for _ in range(HORIZON // 2):
            halves = zip((self.prior, self.expert_policy), np.array_split(cells.observe(), 2), strict=True)
            cells.step(np.concatenate([policy.sample(state, rng) for policy, state in halves]))
        return cells


def _discounted_features(cells: Cells, first: Array, gamma: float, rng: np.random.Generator) -> Array:
    """Discounted sums (N, A, K) of the features after first actions (N, A, D), then after random ones.

    The copies of one cell are dealt the same random actions, so that their noise cancels in a difference.
    """
    N, A, D = first.shape
    copies = type(cells)(N * A)
    for n in range(N * A):
        copies.copy(n, cells, n // A)
    action, total = first.reshape(N * A, D), np.zeros((N * A, len(cells.features)))
    for t in range(HORIZON):
        total += gamma**t * copies.step(action)
        action = np.repeat(rng.uniform(-1, 1, (N, D)), A, axis=0)
    return total.reshape(N, A, -1)


def make_bottle() -> FanucTask:
    """Push a bottle to its goal; the expert wants it pushed low."""
    prior, added = np.array([-2.5, -5.0, -0.5, 0.0]) / SCALE, np.array([0.0, 0.0, 0.0, -5.0]) / SCALE
    return FanucTask("bottle", BottleCells, 0.36, prior, prior + added, release=20)


def make_eraser() -> FanucTask:
    """Wipe ink off a board; the expert wants it pressed firmly."""
    prior, added = np.array([-2.5, -5.0, -2.0, 0.0]) / SCALE, np.array([0.0, 0.0, 0.0, -5.0]) / SCALE
    return FanucTask("eraser", EraserCells, 0.6, prior, prior + added, release=10)


def make_pillow() -> FanucTask:
    """Lift a pillow; the expert wants it held by its middle."""
    prior, added = np.array([-2.5, -5.0, -1.0, 0.0]) / SCALE, np.array([0.0, 0.0, 0.0, -3.0]) / SCALE
    return FanucTask("pillow", PillowCells, 0.22, prior, prior + added, release=5, patience=1)
