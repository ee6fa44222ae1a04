"""A task in tables: an MDP, a prior, an expert who wants it done otherwise, and exact measures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from gridworlds.draw import Draw
from gridworlds.env import TabularEnv
from gridworlds.maps import Layout
from mereq_min.exact import ExactCloner, ExactLearner, tabulate, visitation
from mereq_min.experts import Imperfections, SimulatedExpert
from mereq_min.interfaces import Policy, RewardModel, Start
from mereq_min.mdp import TabularMDP
from mereq_min.metrics import feature_divergence, starc_distance, true_weights
from mereq_min.policies import TabularPolicy
from mereq_min.soft import SoftSolution, solve_soft
from mereq_min.validation import Array, check_array, check_log_probabilities, check_number

Mask = NDArray[np.bool_]

LOWEST_LOG_PROB = -20.0
"""Floor of log pi(a | s) in `kl_to_expert` [nats]; keeps it finite for policies that rule out an action."""


@dataclass(frozen=True, eq=False)
class TabularTask:
    """A task in tables, with everything that `interfaces.Task` asks for solved exactly.

    Attributes:
        name: its key in `TASKS`.
        mdp: dynamics, features f, rho0 and gamma.
        feature_names: (K,) names of the features.
        prior_weights: (K,) w of the prior's reward r = w . f.
        expert_weights: (K,) w of the expert's reward r_E.
        prior_temperature: alpha [reward].
        temperature: alpha_hat [reward].
        horizon: time limit of an episode [steps].
        patience: consecutive violations before a takeover [steps].
        release: consecutive steps without violation before handing back [steps].
        rule: a mask (S, A) of violations (state rule), or a margin > 0: an action violates if the expert's
            advantage Q_E(s, a) - V_E(s) is under -margin (value rule) [reward].
        goal: (S,) states of which an episode must visit one to have done the task proper.
        hazard: (S,) states that it must not visit.
        layout: where states lie on a drawing.
        draw: paints a state.
        prior_weight: omega.
        own_prior: a prior of your own over the state and action indices, instead of the soft-optimal one.

    Raises:
        ValueError: naming the argument, what it got and what would be right.
    """

    name: str
    mdp: TabularMDP
    feature_names: tuple[str, ...]
    prior_weights: Array
    expert_weights: Array
    prior_temperature: float
    temperature: float
    horizon: int
    patience: int
    release: int
    rule: Mask | float
    goal: Mask
    hazard: Mask
    layout: Layout
    draw: Draw
    prior_weight: float = 1.0
    own_prior: Policy | None = None

    def __post_init__(self) -> None:
        S, A, K = self.mdp.features.shape
        if not len(self.feature_names) == len(set(self.feature_names)) == K:
            raise ValueError(
                f"feature_names must be {K} different names, one a feature of mdp, got {self.feature_names}"
            )
        for name in ("prior_temperature", "temperature"):
            check_number(name, getattr(self, name), 0, above=True)
        check_number("prior_weight", self.prior_weight, 0)
        for name in ("horizon", "patience", "release"):
            check_number(name, getattr(self, name), 1, whole=True)
        if self.own_prior is not None and not hasattr(self.own_prior, "log_prob"):
            raise ValueError(f"own_prior must offer log_prob(state, action), got {self.own_prior!r}")
        for name in ("prior_weights", "expert_weights"):
            object.__setattr__(self, name, check_array(name, getattr(self, name), shape=(K,)))
        for name in ("goal", "hazard"):
            object.__setattr__(self, name, _check_mask(name, getattr(self, name), (S,)))
        if np.ndim(self.rule):
            object.__setattr__(self, "rule", _check_mask("rule", self.rule, (S, A)))
        else:
            check_number("rule", self.rule, 0, above=True)

    @property
    def gamma(self) -> float:
        """Discount factor of the MDP."""
        return self.mdp.gamma

    @cached_property
    def prior(self) -> TabularPolicy:
        """The table of `own_prior`, else the soft-optimal policy for prior_weights at prior_temperature."""
        if self.own_prior is not None:
            return TabularPolicy(tabulate(self.mdp, self.own_prior))
        solution = solve_soft(self.mdp, self.mdp.reward(self.prior_weights), self.prior_temperature)
        return TabularPolicy(solution.log_policy)

    @cached_property
    def expert_solution(self) -> SoftSolution:
        """Soft Q_E, V_E and policy for expert_weights at temperature."""
        return solve_soft(self.mdp, self.mdp.reward(self.expert_weights), self.temperature)

    @cached_property
    def expert_policy(self) -> TabularPolicy:
        """The soft-optimal policy for expert_weights at temperature."""
        return TabularPolicy(self.expert_solution.log_policy)

    @cached_property
    def violation(self) -> Mask:
        """Mask (S, A) of the steps that the expert objects to.

        Book: eq-violation.
        """
        if isinstance(self.rule, np.ndarray):
            return self.rule
        return self.expert_solution.q - self.expert_solution.v[:, None] < -self.rule

    def make_env(self, render_mode: str | None = None, *, reference: bool = False) -> gym.Env[int, int]:
        """Return a fresh environment with the time limit applied; there is one simulator, the table."""
        return gym.wrappers.TimeLimit(TabularEnv(self, render_mode), self.horizon)

    def make_expert(
        self,
        rng: np.random.Generator,
        imperfections: Imperfections = Imperfections(),
    ) -> SimulatedExpert:
        """Return the expert who watches by the task's rule; `rng` draws its actions and imperfections."""
        return SimulatedExpert(
            self.expert_policy,
            lambda state, action: bool(self.violation[state, action]),
            patience=self.patience,
            release=self.release,
            rng=rng,
            imperfections=imperfections,
        )

    def make_learner(
        self, reward: RewardModel, discount: float, *, start: Start = "prior", seed: int = 0
    ) -> ExactLearner:
        """Return the exact learner of the residual reward on the prior, or of the full reward without it.

        Where a solve starts does not show in its solution, and nothing is drawn.
        """
        residual = reward == "residual"
        return ExactLearner(
            self.mdp,
            self.temperature,
            horizon=self.horizon,
            discount=discount,
            log_prior=self.prior.log_policy if residual else None,
            scaled_prior_weight=self.prior_weight * self.prior_temperature if residual else 0.0,
        )

    def make_cloner(self, *, seed: int = 0) -> ExactCloner:
        """Return cloning by counting, from the prior; nothing is drawn."""
        return ExactCloner(self.prior.log_policy)

    def load_policy(self, state: dict[str, NDArray[Any]]) -> TabularPolicy:
        """Rebuild a policy from the arrays of its `state()`.

        Args:
            state: `log_policy` (S, A), as `TabularPolicy.state` returns it.

        Raises:
            ValueError: if `log_policy` is missing or no table of log-probabilities for this MDP.
        """
        if "log_policy" not in state:
            raise ValueError(f"state must hold the array log_policy, got {sorted(state)}")
        shape = (self.mdp.n_states, self.mdp.n_actions)
        return TabularPolicy(check_log_probabilities("log_policy", state["log_policy"], shape=shape))

    def evaluate(
        self, policy: Policy, *, episodes: int | None = None, reference: bool = False
    ) -> dict[str, Any]:
        """Measure a policy exactly, over episodes of the horizon from rho0.

        Args:
            policy: any policy over state and action indices; asked for log_prob of all of them.
            episodes: not needed: these are expectations.
            reference: not needed: there is one simulator, the table.

        Returns:
            `prior_return` and `expert_return`: mean undiscounted sum of prior_weights . f and expert_weights
            . f in an episode [reward]; `success`: probability that an episode visits a goal and no hazard;
            `kl_to_expert`: KL(expert || policy) in the mean over the expert's steps [nats], with
            log-probabilities of the policy floored at `LOWEST_LOG_PROB`; `feature_divergence`: (K,)
            Jensen-Shannon divergence of each feature's distribution over the visited (s, a) from the expert's
            [bits].
        """
        log_policy = tabulate(self.mdp, policy)
        visits = visitation(self.mdp, log_policy, self.horizon, 1.0)
        log_expert = self.expert_policy.log_policy
        expert_visits = visitation(self.mdp, log_expert, self.horizon, 1.0)
        log_ratio = log_expert - np.maximum(log_policy, LOWEST_LOG_PROB)
        features = self.mdp.features.reshape(-1, self.mdp.n_features)
        return {
            "prior_return": float((visits * self.mdp.reward(self.prior_weights)).sum()),
            "expert_return": float((visits * self.mdp.reward(self.expert_weights)).sum()),
            "success": self._avoid(log_policy, self.hazard)
            - self._avoid(log_policy, self.hazard | self.goal),
            "kl_to_expert": max(0.0, float((expert_visits * log_ratio).sum() / expert_visits.sum())),
            "feature_divergence": feature_divergence(
                features, features, a_weights=visits.ravel(), b_weights=expert_visits.ravel()
            ),
        }

    def reward_distance(self, theta: Array, reward: RewardModel) -> float:
        """STARC distance of theta . f to the true reward; NaN for the residual on an `own_prior`."""
        if reward == "residual" and self.own_prior is not None:
            # Nothing says which reward such a prior is optimal for.
            return float("nan")
        truth = self.mdp.reward(true_weights(self, reward))
        return starc_distance(self.mdp, self.mdp.reward(theta), truth)

    def _avoid(self, log_policy: Array, states: Mask) -> float:
        """Probability that an episode visits none of the states (S,)."""
        policy = np.where(states[:, None], 0.0, np.exp(log_policy))
        now = self.mdp.initial
        for _ in range(self.horizon):
            now = self.mdp.transition.T @ (now[:, None] * policy).ravel()
        return float(now[~states].sum())


def _check_mask(name: str, value: Any, shape: tuple[int, ...]) -> Mask:
    mask = np.array(value)
    if mask.shape != shape or mask.dtype != bool:
        raise ValueError(f"{name} must be a boolean mask of shape {shape}, got {mask.dtype} of {mask.shape}")
    return mask
