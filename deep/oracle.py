"""The truth behind a simulated expert on a `GymTask`: its wish, its policy, and when it objects."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from deep.gaussian import SquashedGaussianPolicy
from deep.gym_task import GymTask
from deep.policies import all_log_probs
from deep.rollouts import Rollout
from mereq_min.experts import EXPERT_RATE, PRIOR_RATE, RuleOracle
from mereq_min.interfaces import Policy, RewardModel
from mereq_min.lab.runs.files import load_arrays, save_arrays
from mereq_min.metrics import feature_divergence
from mereq_min.rollout import rollout, watch
from mereq_min.validation import Array, check_array, check_number

Rule = Callable[[NDArray[Any], NDArray[Any]], bool]
"""(state, action) -> whether the expert objects."""

LOWEST_LOG_PROB = -20.0
"""Floor of log pi(a | s) in `kl_to_expert` [nats]; keeps it finite for policies that rule out an action."""

CALIBRATION_STEPS, CALIBRATION_TRIALS = 3_000, 8
"""Watched steps by which a rate is measured while the margin is sought, and margins that are tried."""


@dataclass(frozen=True, eq=False)
class SimulatorOracle(RuleOracle):
    """The truth behind a simulated expert on a simulator: `interfaces.Oracle`.

    The expert is the task's prior, customised for true_theta by the task's own residual learner. Networks
    that are trained independently differ in more than true_theta asks for. An expert that customises another
    prior would therefore object to actions for reasons that no residual reward can express.

    Attributes:
        true_theta: (K,) theta*, the residual reward.
        rule: a margin > 0 on the expert's `advantage` (value rule): an action below -margin is a violation
            [reward]; or a function (state, action) -> bool.
        patience: consecutive violations before a takeover [steps].
        release: consecutive steps without a violation before the expert hands back [steps].
        expert: the expert's policy; None trains it when it is first needed.
        rounds: rounds of the learner's solve with which an expert is trained, see `LearnerConfig` [rounds].
        seed: of that training.
        cache: folder for trained experts, None for none; empty it after a change of `env` or `features` that
            does not show within `horizon` steps of the prior.
        full_weights: (K,) weights of the expert's full reward, None if unknown.
        make_gram: returns the (K, K) matrix that `gram_distance` needs, None if there is none.
        task: what the oracle is bound to; `GymTask` binds its own.

    Raises:
        ValueError: naming the argument, what it got and what would be right.
    """

    true_theta: Array
    rule: float | Rule
    patience: int = 1
    release: int = 5
    expert: Policy | None = None
    rounds: int = 100
    seed: int = 0
    cache: Path | None = None
    full_weights: Array | None = None
    make_gram: Callable[[GymTask], Array] | None = None
    task: GymTask | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.rule):
            check_number("rule", self.rule, 0, exclusive=True)
        check_number("rounds", self.rounds, 1, integer=True)

    def bind(self, task: GymTask) -> SimulatorOracle:
        """Return this oracle for a task whose prior may be another one.

        On another prior, temperature or omega, the expert has to be trained again, and nobody knows the
        weights of the full reward.
        """
        check_array("true_theta", self.true_theta, shape=(len(task.feature_names),))
        if self.task is None or self._is_like(task):
            trained = self.__dict__.get("expert_policy", self.expert)  # need not be trained again
            return replace(self, task=task, expert=trained)
        return replace(self, task=task, expert=None, full_weights=None)

    @cached_property
    def expert_policy(self) -> Policy:
        """The prior, customised for true_theta by the task's learner."""
        return self._train() if self.expert is None else self.expert

    @property
    def action_space(self) -> spaces.Space[Any]:
        """The actions of the task."""
        return self._task.action_space

    def advantage(self, state: NDArray[Any], action: NDArray[Any]) -> Array:
        """Advantage (N,) of actions (N, ...) in states (N, ...) by the expert's own values [reward].

        Discrete: Q_E(s, a) - V_E(s) = alpha_hat log pi_E(a | s). Over a Box: Q_E less its value at the
        expert's mean action, to second order, -alpha_hat |z|^2 / 2, where z counts standard deviations of the
        latent.
        """
        expert = self.expert_policy
        alpha = getattr(expert, "temperature", None) or self._task.temperature
        if isinstance(expert, SquashedGaussianPolicy):
            return -0.5 * alpha * np.square(expert.standardise(state, action)).sum(axis=1)
        return alpha * expert.log_prob(state, action)

    def violates(self, state: NDArray[Any], action: NDArray[Any]) -> bool:
        """Whether the expert objects to an action (...) in a state (...)."""
        if callable(self.rule):
            return bool(self.rule(state, action))
        return bool(self.advantage(state[None], np.asarray(action)[None])[0] < -self.rule)

    def reward_distance(self, theta: Array, reward: RewardModel) -> float:
        """Return the STARC distance of theta . f to the true reward.

        It is NaN if the true reward or the Gram matrix is unknown.
        """
        truth = self.true_weights(reward)
        if truth is None or self.make_gram is None:
            return float("nan")
        return gram_distance(theta, truth, self._gram)

    def measure(self, policy: Policy, steps: Rollout) -> dict[str, Any]:
        """Compare a policy with the expert.

        Args:
            policy: the policy.
            steps: whole episodes of it.

        Returns:
            `expert_return`: mean return of an episode under omega times the environment's reward plus
            true_theta . f [reward]; `kl_to_expert`: mean KL(expert || policy) over the expert's steps, with
            log-probabilities floored at `LOWEST_LOG_PROB` [nats]; `feature_divergence`: (K,) Jensen-Shannon
            divergence of each feature's distribution over steps from the expert's [bits].
        """
        lived, own = steps.in_first_episode, self.expert_steps
        reward = self._task.prior_weight * steps.reward + steps.features @ self.true_theta
        space = self._task.action_space
        if isinstance(space, spaces.Discrete):
            kl = exact_kl(self.expert_policy, policy, own, int(space.n))
        else:
            kl = sampled_kl(self.expert_policy, policy, own)
        return {
            "expert_return": float((reward * lived).sum(axis=0).mean()),
            "kl_to_expert": max(0.0, kl),
            "feature_divergence": feature_divergence(
                steps.features[lived], own.features[own.in_first_episode]
            ),
        }

    @cached_property
    def expert_steps(self) -> Rollout:
        """Whole episodes of the expert."""
        return self._task.roll_out(self.expert_policy)

    @cached_property
    def _gram(self) -> Array:
        assert self.make_gram is not None
        return self.make_gram(self._task)

    @property
    def _task(self) -> GymTask:
        if self.task is None:
            raise ValueError("this oracle belongs to no task yet: use replace(task, oracle=...)")
        return self.task

    def _is_like(self, task: GymTask) -> bool:
        """Whether the expert of the task before is that of `task` too."""
        before = self._task
        names = ("temperature", "prior_weight", "gamma")  # the horizon cuts episodes, values reach beyond it
        same = all(getattr(before, name) == getattr(task, name) for name in names)
        return same and before.prior is task.prior

    def _train(self) -> Policy:
        """Customise the prior for true_theta, or read it from the cache."""
        task = self._task
        file = self._cache_file()
        if file is not None and file.exists():
            return task.load_policy(load_arrays(file))
        generous = replace(task, oracle=None, learner=replace(task.learner, first_rounds=self.rounds))
        policy = generous.make_learner("residual", 1.0, seed=self.seed).solve(self.true_theta)
        if file is not None and hasattr(policy, "arrays"):
            save_arrays(file, policy.arrays())
        return policy

    def _cache_file(self) -> Path | None:
        """Return the expert's file, named by a hash of what she depends on; None if not cached.

        Environments and features are told apart by `horizon` steps of the prior.
        """
        task = self._task
        if self.cache is None or not hasattr(task.prior, "arrays"):
            return None
        numbers = (task.name, task.gamma, task.horizon, task.temperature, task.scaled_prior_weight)
        settings = (task.learner, task.dqn, task.sac, self.rounds, self.seed, self.true_theta.tolist())
        digest = hashlib.sha256(repr((numbers, settings)).encode())
        probe = rollout(task, task.prior, None, task.horizon, np.random.default_rng(0))
        columns = {name: getattr(probe, name) for name in ("state", "features", "terminated")}
        arrays = {**task.prior.arrays(), **columns}
        if task.observation_scale is not None:
            arrays["scale"] = task.observation_scale
        for name, array in sorted(arrays.items()):
            digest.update(f"{name} {array.dtype} {array.shape}".encode() + np.asarray(array).tobytes())
        return self.cache / f"{task.name}-{digest.hexdigest()[:16]}.safetensors"


def make_oracle(
    task: GymTask,
    true_theta: ArrayLike,
    *,
    rule: float | Rule | None = None,
    patience: int = 1,
    release: int = 5,
    rounds: int = 100,
    seed: int = 0,
    cache: Path | None = None,
) -> SimulatorOracle:
    """Return an oracle for a task: train an expert whose residual reward is true_theta . f.

    Give it to the task with `dataclasses.replace(task, oracle=...)`. A value rule is calibrated so that the
    prior is stopped at a rate in `PRIOR_RATE` and the expert at most at `EXPERT_RATE`.

    Args:
        task: the task.
        true_theta: (K,) theta*, weights of the expert's residual reward.
        rule: a margin [reward] or a function (state, action) -> bool; None calibrates a margin.
        patience: consecutive violations before a takeover [steps].
        release: consecutive steps without a violation before the expert hands back [steps].
        rounds: rounds of the learner with which the expert is trained [rounds].
        seed: of the training.
        cache: folder in which the trained expert is kept, None for none.

    Raises:
        ValueError: if no margin meets both rates, saying which rates were found.
    """
    theta = check_array("true_theta", true_theta, shape=(len(task.feature_names),))
    oracle = SimulatorOracle(
        theta, 1.0 if rule is None else rule, patience, release, rounds=rounds, seed=seed, cache=cache
    ).bind(task)
    oracle = replace(oracle, expert=oracle.expert_policy)
    return replace(oracle, rule=calibrate(oracle)) if rule is None else oracle


def calibrate(oracle: SimulatorOracle) -> float:
    """Find a margin at which the prior is stopped at a rate in `PRIOR_RATE`, and the expert hardly ever.

    The prior's rate falls as the margin grows. The margin is bisected for a rate of 0.35; if the expert is
    stopped too often there, for one near the lower end of `PRIOR_RATE`.

    Raises:
        ValueError: if there is none, saying which rates were found.
    """
    task = oracle._task
    steps = task.roll_out(task.prior, task.learner.num_envs).transitions()
    losses = np.sort(-oracle.advantage(steps["state"], steps["action"]))
    for wanted in (0.35, PRIOR_RATE[0] + 0.02):
        low, high = 0.0, 1.0  # share of the prior's steps that are violations
        for _ in range(CALIBRATION_TRIALS):
            share = (low + high) / 2
            margin = max(float(np.quantile(losses, 1 - share)), 1e-9)
            rate = _measure_rate(replace(oracle, rule=margin), task.prior)
            if abs(rate - wanted) < 0.02:
                break
            low, high = (share, high) if rate < wanted else (low, share)
        own = _measure_rate(replace(oracle, rule=margin), oracle.expert_policy)
        if PRIOR_RATE[0] <= rate <= PRIOR_RATE[1] and own <= EXPERT_RATE:
            return margin
    raise ValueError(
        f"no margin stops the prior at a rate from {PRIOR_RATE[0]} to {PRIOR_RATE[1]} and the expert at most "
        f"at {EXPERT_RATE}: at {margin:.3g} they are {rate:.2f} and {own:.2f}; make the wish true_theta "
        "stronger, or train the expert longer (rounds)"
    )


def _measure_rate(oracle: SimulatorOracle, policy: Policy) -> float:
    return watch(oracle._task, policy, oracle, CALIBRATION_STEPS, seed=0).intervention_rate


# --- Measures --------------------------------------------------------------------------------------------


def exact_kl(expert: Policy, policy: Policy, steps: Rollout, n_actions: int) -> float:
    """Mean KL(expert || policy) over discrete actions in the states of the expert's steps [nats].

    Args:
        expert: the expert.
        policy: the policy; log-probabilities of both are floored at `LOWEST_LOG_PROB`.
        steps: whole episodes of the expert.
        n_actions: A.
    """
    states = steps.state[steps.in_first_episode]
    log_expert = all_log_probs(expert, states, n_actions)
    log_policy = np.maximum(all_log_probs(policy, states, n_actions), LOWEST_LOG_PROB)
    gap = np.maximum(log_expert, LOWEST_LOG_PROB) - log_policy
    return float((np.exp(log_expert) * gap).sum(axis=1).mean())


def sampled_kl(expert: Policy, policy: Policy, steps: Rollout) -> float:
    """Estimate KL(expert || policy) [nats] by log expert - log policy over the expert's own steps.

    Args:
        expert: the expert.
        policy: the policy; log-densities of both are floored at `LOWEST_LOG_PROB`.
        steps: whole episodes of the expert.
    """
    lived = steps.in_first_episode
    state, action = steps.state[lived], steps.action[lived]
    floored = np.maximum(policy.log_prob(state, action), LOWEST_LOG_PROB)
    return float((np.maximum(expert.log_prob(state, action), LOWEST_LOG_PROB) - floored).mean())


def gram_of_values(one: Array, other: Array) -> Array:
    """(K, K) mean over states and actions of A_k A_l, where A are the features' advantages.

    With values from two independent continuations the product is unbiased.

    Args:
        one: (N, A, K) discounted sums of the features after each of the same A actions.
        other: (N, A, K) the same, of other continuations.
    """
    advantages = [
        (values - values.mean(axis=1, keepdims=True)).reshape(-1, values.shape[2]) for values in (one, other)
    ]
    gram = advantages[0].T @ advantages[1] / len(advantages[0])
    return (gram + gram.T) / 2


def gram_distance(theta: Array, truth: Array, gram: Array) -> float:
    """STARC distance (Skalse et al., arXiv 2309.15257) of theta . f to truth . f.

    Rewards are made canonical by their advantage under a policy; for linear features that depends on
    `gram_of_values` alone.
    """
    both = np.stack([np.asarray(theta, dtype=np.float64), truth])
    norms = np.sqrt(np.einsum("nk,kl,nl->n", both, gram, both))
    if (norms == 0).any():
        return 0.0 if (norms == 0).all() else 0.5
    difference = both[0] / norms[0] - both[1] / norms[1]
    return 0.5 * float(np.sqrt(max(0.0, difference @ gram @ difference)))
