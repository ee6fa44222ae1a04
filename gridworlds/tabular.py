"""Tabular tasks and their oracles, solved exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray

from gridworlds.draw import Draw
from gridworlds.env import TabularEnv
from gridworlds.maps import Layout
from mereq_min.baselines import FeatureCloner, ProxyValues, ResidualCloner, TakeoverReward
from mereq_min.exact import ExactCloner, ExactLearner, tabulate, visitation
from mereq_min.experts import RuleOracle
from mereq_min.interfaces import Cloner, Imperfections, Policy, RewardModel, Start
from mereq_min.lab.human.scenes import Scene
from mereq_min.loop import Settings
from mereq_min.mdp import TabularMDP
from mereq_min.methods import Baseline
from mereq_min.metrics import feature_divergence, starc_distance
from mereq_min.peers import InterventionModel, PredictedPreferences
from mereq_min.policies import TabularPolicy
from mereq_min.residual import scaled_prior_weight, solve_residual
from mereq_min.soft import solve_soft
from mereq_min.validation import Array, Mask, check_array, check_log_probabilities, check_number

BASELINES: dict[Baseline, Callable[..., Cloner]] = {
    "feature cloning": FeatureCloner,
    "residual cloning": ResidualCloner,
    "takeover reward": TakeoverReward,
    "proxy values": ProxyValues,
    "intervention model": InterventionModel,
    "predicted preferences": PredictedPreferences,
}
"""The baselines of `TabularTask.make_baseline`."""

LOWEST_LOG_PROB = -20.0
"""Floor of log pi(a | s) in `kl_to_expert` [nats], which is finite even if a policy never takes an action."""


@dataclass(frozen=True, eq=False)
class TabularTask:
    """A tabular `interfaces.Task`, with exact learner, cloner and measures.

    Attributes:
        name: name of the task.
        mdp: dynamics, features f, rho0 and gamma.
        feature_names: (K,) names of the features.
        prior: the policy to align, over state and action indices; it is stored as a table.
        temperature: alpha_hat [reward].
        horizon: time limit of an episode [steps].
        env_weights: (K,) weights of the environment's own reward.
        goal: (S,) mask of goals; a successful episode visits one of them.
        hazard: (S,) mask of hazards; a successful episode visits none of them.
        layout: the cell of each state on a picture.
        draw: draws a state.
        prior_weight: omega, the weight of the prior's reward in the expert's.
        oracle: the truth behind the simulated expert; None if it is unknown. The task binds it to itself, so
            that its expert customises the prior of this task.
        recorded_settings: settings of the task's recorded runs.
        scene: how the task is shown to a person, see `scenes`; None for the pictures of `draw`.

    Raises:
        ValueError: naming the argument, what it got and what would be right.
    """

    name: str
    mdp: TabularMDP
    feature_names: tuple[str, ...]
    prior: Policy
    temperature: float
    horizon: int
    env_weights: Array
    goal: Mask
    hazard: Mask
    layout: Layout
    draw: Draw
    prior_weight: float = 1.0
    oracle: TabularOracle | None = None
    recorded_settings: Settings | None = None
    scene: Scene | None = None

    def __post_init__(self) -> None:
        S, A, K = self.mdp.features.shape
        if not len(self.feature_names) == len(set(self.feature_names)) == K:
            raise ValueError(
                f"feature_names must be {K} different names, one per feature of mdp, got {self.feature_names}"
            )
        check_number("temperature", self.temperature, 0, exclusive=True)
        check_number("prior_weight", self.prior_weight, 0)
        check_number("horizon", self.horizon, 1, integer=True)
        if not hasattr(self.prior, "log_prob"):
            raise ValueError(f"prior must have a method log_prob(state, action), got {self.prior!r}")
        if not isinstance(self.prior, TabularPolicy):
            table = tabulate(self.mdp, self.prior)
            prior = TabularPolicy(table, getattr(self.prior, "temperature", None))
            object.__setattr__(self, "prior", prior)
        check_log_probabilities("prior", self.log_prior, shape=(S, A))
        weights = check_array("env_weights", self.env_weights, shape=(K,))
        object.__setattr__(self, "env_weights", weights)
        for name in ("goal", "hazard"):
            object.__setattr__(self, name, _check_mask(name, getattr(self, name), (S,)))
        if self.oracle is not None:
            object.__setattr__(self, "oracle", self.oracle.bind(self))

    @property
    def gamma(self) -> float:
        """Discount factor of the MDP."""
        return self.mdp.gamma

    @property
    def scaled_prior_weight(self) -> float:
        """omega' of the prior in use [reward]; see `residual.scaled_prior_weight`."""
        return scaled_prior_weight(self.prior, self.prior_weight, self.temperature)

    @property
    def log_prior(self) -> Array:
        """log pi(a | s) of the prior (S, A)."""
        assert isinstance(self.prior, TabularPolicy)  # __post_init__ made it one
        return self.prior.log_policy

    def make_env(self, render_mode: str | None = None, *, reference: bool = False) -> gym.Env[int, int]:
        """Return a new environment with the time limit applied; `reference` has no effect."""
        env = TabularEnv(self.mdp, self.env_weights, self.layout, self.draw, render_mode)
        return gym.wrappers.TimeLimit(env, self.horizon)

    def make_learner(
        self, reward: RewardModel, discount: float, *, start: Start = "prior", seed: int = 0
    ) -> ExactLearner:
        """Return the exact learner of the residual reward on the prior, or of the full reward without it.

        Its solutions depend neither on `start` nor on `seed`.
        """
        residual = reward == "residual"
        return ExactLearner(
            self.mdp,
            self.temperature,
            horizon=self.horizon,
            discount=discount,
            log_prior=self.log_prior if residual else None,
            scaled_prior_weight=self.scaled_prior_weight if residual else 0.0,
        )

    def make_tempered_learner(self, *, seed: int = 0) -> ExactLearner:
        """Return the exact learner of (theta, omega' / omega'_0 - 1), see `interfaces.TemperedLearner`.

        The prior's own term, omega'_0 log pi, is its last feature. Where the prior never takes an action, the
        feature is 0, and the prior rules the action out.
        """
        possible = np.isfinite(self.log_prior) & ~self.mdp.terminal[:, None]
        term = self.scaled_prior_weight * np.where(possible, self.log_prior, 0.0)
        features = np.concatenate([self.mdp.features, term[..., None]], axis=2)
        return ExactLearner(
            replace(self.mdp, features=features),
            self.temperature,
            horizon=self.horizon,
            log_prior=self.log_prior,
            scaled_prior_weight=self.scaled_prior_weight,
        )

    def make_cloner(self, *, seed: int = 0) -> ExactCloner:
        """Return the exact cloner, which starts from the prior; `seed` has no effect."""
        return ExactCloner(self.log_prior)

    def make_baseline(self, kind: Baseline, *, seed: int = 0) -> Cloner:
        """Return a method of `mereq_min.baselines` or `peers` on this task; `seed` has no effect."""
        return BASELINES[kind](self.mdp, self.log_prior, self.scaled_prior_weight, self.temperature)

    features_need_next_state = False
    """f(s, a) is a table."""

    def features_of(
        self,
        state: NDArray[Any],
        action: NDArray[Any],
        next_state: NDArray[Any] | None = None,
        reward: NDArray[Any] | None = None,
    ) -> Array:
        """Return the features (N, K) of steps that lack them; only state and action matter."""
        return self.mdp.features[state, action]

    def load_policy(self, arrays: dict[str, NDArray[Any]]) -> TabularPolicy:
        """Rebuild a policy from the arrays of its `arrays()`.

        Args:
            arrays: `log_policy` (S, A), as `TabularPolicy.arrays` returns it.

        Raises:
            ValueError: if `log_policy` is missing or is not a table of log-probabilities for this MDP.
        """
        if "log_policy" not in arrays:
            raise ValueError(f"arrays must hold log_policy, got {sorted(arrays)}")
        table, shape = arrays["log_policy"], (self.mdp.n_states, self.mdp.n_actions)
        if table.dtype.kind != "f" or table.ndim != 2:
            raise ValueError(
                f"log_policy must be a table of floats, got {table.dtype} of shape {table.shape}"
            )
        if table.shape != shape:
            raise ValueError(
                f"{self.name}: the policy observes one of {table.shape[0]} states and has {table.shape[1]} "
                f"actions, the task has {shape[0]} states and {shape[1]} actions"
            )
        return TabularPolicy(check_log_probabilities("log_policy", table, shape=shape))

    def evaluate(
        self, policy: Policy, *, episodes: int | None = None, reference: bool = False
    ) -> dict[str, Any]:
        """Measure a policy exactly, over episodes of the horizon from rho0.

        Args:
            policy: any policy over state and action indices.
            episodes: must be None, because the measures are expectations and not averages over episodes.
            reference: no effect, because the table is the only simulator.

        Returns:
            `task_return`: expected undiscounted sum of env_weights . f in an episode [reward]; `success`:
            probability that an episode visits a goal and no hazard; and, with an oracle, the measures of
            `TabularOracle.measure`.

        Raises:
            ValueError: if `episodes` is not None.
        """
        if episodes is not None:
            raise ValueError(
                f"episodes must be None for {self.name}, whose measures are exact, got {episodes}"
            )
        log_policy = tabulate(self.mdp, policy)
        visits = visitation(self.mdp, log_policy, self.horizon, 1.0)
        return {
            "task_return": float((visits * self.mdp.reward(self.env_weights)).sum()),
            "success": self._probability_of_avoiding(log_policy, self.hazard)
            - self._probability_of_avoiding(log_policy, self.hazard | self.goal),
            **({} if self.oracle is None else self.oracle.measure(log_policy, visits)),
        }

    def _probability_of_avoiding(self, log_policy: Array, states: Mask) -> float:
        """Return the probability that an episode visits none of the states (S,)."""
        policy = np.where(states[:, None], 0.0, np.exp(log_policy))
        state_probs = self.mdp.initial
        for _ in range(self.horizon):
            state_probs = self.mdp.transition.T @ (state_probs[:, None] * policy).ravel()
        return float(state_probs[~states].sum())


@dataclass(frozen=True, eq=False)
class TabularOracle(RuleOracle):
    """A tabular `interfaces.Oracle`, whose expert is the exact customisation of the prior for true_theta.

    For a prior that is soft-optimal for r, this is the soft-optimal policy for omega r + true_theta . f (E1).

    Attributes:
        true_theta: (K,) theta*, the residual reward.
        rule: a mask (S, A) of violations (state rule), or a margin > 0 (value rule): an action is then a
            violation if its advantage for the expert, Q_E(s, a) - V_E(s), is below -margin [reward].
        patience: consecutive violations before a takeover [steps].
        release: consecutive steps without a violation before the expert hands back [steps].
        full_weights: (K,) weights of the expert's full reward; None if unknown.
        task: the task that the oracle is bound to; a `TabularTask` binds its oracle itself.

    Raises:
        ValueError: naming the argument, what it got and what would be right.
    """

    true_theta: Array
    rule: Mask | float
    patience: int = 1
    release: int = 3
    full_weights: Array | None = None
    task: TabularTask | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not np.ndim(self.rule):
            check_number("rule", self.rule, 0, exclusive=True)

    def bind(self, task: TabularTask) -> TabularOracle:
        """Return this oracle bound to a task: its expert customises the prior of that task.

        The weights of the full reward are kept only if MDP, prior and omega stay the same; otherwise they
        are unknown.

        Args:
            task: the task.

        Raises:
            ValueError: if true_theta, full_weights or rule do not fit the MDP of the task.
        """
        S, A, K = task.mdp.features.shape
        for name in ("true_theta", "full_weights"):
            if getattr(self, name) is not None:
                check_array(name, getattr(self, name), shape=(K,))
        rule = _check_mask("rule", self.rule, (S, A)) if np.ndim(self.rule) else self.rule
        old = self.task
        is_same = old is None or (
            old.mdp is task.mdp and old.prior is task.prior and old.prior_weight == task.prior_weight
        )
        return replace(self, task=task, rule=rule, full_weights=self.full_weights if is_same else None)

    @cached_property
    def expert_policy(self) -> TabularPolicy:
        """The prior, customised exactly for true_theta."""
        return self.erring_policy(Imperfections())

    @property
    def action_space(self) -> gym.spaces.Discrete:
        """The actions of the task."""
        return gym.spaces.Discrete(self._task.mdp.n_actions)

    def erring_policy(self, imperfections: Imperfections) -> TabularPolicy:
        """Return the expert's policy with the errors of `Imperfections.changes_policy`, if there are any."""
        task, errors = self._task, imperfections
        mdp = replace(task.mdp, gamma=task.gamma * (1.0 - errors.myopia))
        temperature = errors.temperature_ratio * task.temperature
        solution = solve_residual(
            mdp,
            mdp.reward(errors.wish_share * self.true_theta),
            task.log_prior,
            task.scaled_prior_weight,
            temperature,
        )
        return TabularPolicy(solution.log_policy, temperature)

    @cached_property
    def violation(self) -> Mask:
        """Mask (S, A) of the actions that the expert objects to.

        Book: eq-violation.
        """
        if isinstance(self.rule, np.ndarray):
            return self.rule
        # Q_E - V_E = alpha_hat log pi_E, also if the reward of the prior is unknown.
        return self._task.temperature * self.expert_policy.log_policy < -self.rule

    def violates(self, state: NDArray[Any], action: NDArray[Any]) -> bool:
        """Return whether the expert objects to an action in a state."""
        return bool(self.violation[state, action])

    def reward_distance(self, theta: Array, reward: RewardModel) -> float:
        """Return the STARC distance of theta . f to the true reward; NaN if that is unknown."""
        truth, mdp = self.true_weights(reward), self._task.mdp
        if truth is None:
            return float("nan")
        return starc_distance(mdp, mdp.reward(theta), mdp.reward(truth))

    def measure(self, log_policy: Array, visits: Array) -> dict[str, Any]:
        """Compare a policy with the expert, exactly.

        Args:
            log_policy: (S, A) log pi(a | s) of the policy.
            visits: (S, A) expected visits of the policy in an episode.

        Returns:
            `expert_return`: expected undiscounted sum of (omega env_weights + true_theta) . f in an episode
            [reward]; `kl_to_expert`: mean KL(expert || policy) over the expert's steps [nats], with
            log-probabilities of the policy no lower than `LOWEST_LOG_PROB`; `feature_divergence`: (K,)
            Jensen-Shannon divergence of each feature's distribution over the visited (s, a) from the
            expert's [bits].
        """
        task = self._task
        weights = task.prior_weight * task.env_weights + self.true_theta
        log_expert = self.expert_policy.log_policy
        expert_visits = visitation(task.mdp, log_expert, task.horizon, 1.0)
        log_ratio = log_expert - np.maximum(log_policy, LOWEST_LOG_PROB)
        features = task.mdp.features.reshape(-1, task.mdp.n_features)
        return {
            "expert_return": float((visits * task.mdp.reward(weights)).sum()),
            "kl_to_expert": max(0.0, float((expert_visits * log_ratio).sum() / expert_visits.sum())),
            "feature_divergence": feature_divergence(
                features, features, a_weights=visits.ravel(), b_weights=expert_visits.ravel()
            ),
        }

    @property
    def _task(self) -> TabularTask:
        if self.task is None:
            raise ValueError("this oracle is not bound to a task: use replace(task, oracle=...)")
        return self.task


def make_oracle(
    task: TabularTask,
    true_theta: ArrayLike,
    *,
    rule: Mask | float,
    patience: int = 1,
    release: int = 3,
) -> TabularOracle:
    """Return an oracle whose expert wants true_theta . f in addition to what the prior of the task wants.

    Give it to the task by `dataclasses.replace(task, oracle=...)`. The arguments after `task` are those of
    `TabularOracle`.
    """
    return TabularOracle(np.asarray(true_theta, dtype=float), rule, patience, release).bind(task)


def soft_prior(mdp: TabularMDP, weights: ArrayLike, temperature: float) -> TabularPolicy:
    """Return the soft-optimal policy for the reward weights . f at a temperature [reward]."""
    return TabularPolicy(solve_soft(mdp, mdp.reward(weights), temperature).log_policy, temperature)


def make_task(
    *,
    mdp: TabularMDP,
    prior_weights: ArrayLike,
    expert_weights: ArrayLike,
    prior_temperature: float,
    rule: Mask | float,
    patience: int = 1,
    release: int = 3,
    prior_weight: float = 1.0,
    **rest: Any,
) -> TabularTask:
    """Return a task with known rewards: a soft-optimal prior, and an oracle whose expert has a full reward.

    Args:
        mdp: dynamics, features f, rho0 and gamma.
        prior_weights: (K,) weights of the prior's reward, which is also that of the environment.
        expert_weights: (K,) weights of the expert's full reward.
        prior_temperature: alpha [reward].
        rule: rule of the `TabularOracle`, like patience and release.
        patience: consecutive violations before a takeover [steps].
        release: consecutive steps without a violation before the expert hands back [steps].
        prior_weight: omega.
        **rest: the other arguments of `TabularTask`.

    Raises:
        ValueError: naming the argument, what it got and what would be right.
    """
    check_number("prior_weight", prior_weight, 0)
    check_number("prior_temperature", prior_temperature, 0, exclusive=True)
    prior, expert = (
        check_array(name, value, shape=(mdp.n_features,))
        for name, value in (("prior_weights", prior_weights), ("expert_weights", expert_weights))
    )
    return TabularTask(
        mdp=mdp,
        prior=soft_prior(mdp, prior, prior_temperature),
        env_weights=prior,
        prior_weight=prior_weight,
        oracle=TabularOracle(expert - prior_weight * prior, rule, patience, release, full_weights=expert),
        **rest,
    )


def _check_mask(name: str, value: Any, shape: tuple[int, ...]) -> Mask:
    mask = np.array(value)
    if mask.shape != shape or mask.dtype != bool:
        raise ValueError(f"{name} must be a boolean mask of shape {shape}, got {mask.dtype} of {mask.shape}")
    return mask
