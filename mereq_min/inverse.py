"""Inverse reinforcement learning: two estimators of theta from expert steps, for any `Learner`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mereq_min.interfaces import Learner, Policy
from mereq_min.steps import Steps, mean_features, time_weights
from mereq_min.validation import Array, check_array, check_number


@dataclass(frozen=True)
class Estimate:
    """An inferred reward, its policy, and how the fit ended.

    Attributes:
        theta: (K,) reward weights.
        standard_errors: (K,) standard errors of theta; all inf if the steps do not determine theta.
        policy: the policy for theta.
        gradient_norm: Euclidean norm of the gradient at theta.
        solves: number of policies solved for.
        converged: whether the stopping rule was met within the allowed steps.
    """

    theta: Array
    standard_errors: Array
    policy: Policy
    gradient_norm: float
    solves: int
    converged: bool


@dataclass(frozen=True)
class FeatureMatchingConfig:
    """Settings of feature matching, gradient ascent on the dual of maximum causal entropy."""

    learning_rate: float = 0.5
    """eta, factor on the difference of mean features [reward]."""
    tolerance: float = 0.01
    """Stop when the norm of the difference of mean features falls below it [feature]."""
    max_steps: int = 150
    """Largest number of policies solved for in one update."""
    discount: float = 1.0
    """A step at time t counts discount**t, for expert and policy; with 1, all steps count the same."""

    def __post_init__(self) -> None:
        check_number("learning_rate", self.learning_rate, 0, exclusive=True)
        check_number("tolerance", self.tolerance, 0)
        check_number("max_steps", self.max_steps, 1, integer=True)
        check_number("discount", self.discount, 0, 1, exclusive=True)


@dataclass(frozen=True)
class SegmentLikelihoodConfig:
    """Settings of the segment likelihood: maximum a posteriori by Fisher scoring."""

    prior_sd: float = 0.5
    """Standard deviation of the Gaussian prior on theta, for features of unit range [reward]."""
    least_step: float = 1e-4
    """Stop when a step moves theta by less than this [standard errors]."""
    max_iterations: int = 20
    """Largest number of policies solved for in one update."""

    def __post_init__(self) -> None:
        check_number("prior_sd", self.prior_sd, 0, exclusive=True)
        check_number("least_step", self.least_step, 0, exclusive=True)
        check_number("max_iterations", self.max_iterations, 1, integer=True)


LONGEST_STEP = 0.5
"""Longest step of Fisher scoring in theta, for rewards of unit size [reward]. The information of a policy
says nothing about very different policies, so that longer steps would overshoot."""


def match_features(
    learner: Learner, steps: Steps, weights: Array, theta: Array, config: FeatureMatchingConfig
) -> Estimate:
    """Infer theta by feature matching: theta <- theta + eta (f_bar_E - f_bar_pi_hat), Chen et al. (2025).

    The step is the gradient of the maximum-causal-entropy dual (Ziebart et al. 2010) if the weighted steps
    are whole trajectories from rho0, all of one length. On segments of trajectories theta is biased. If
    episodes end early, a mean over steps is a ratio: the step is then not a gradient, and theta can diverge.

    Book: eq-dual-gradient, eq-feature-matching, eq-segment-bias.

    Args:
        learner: solves for a theta; its discount must equal that of the config.
        steps: the steps.
        weights: (N,) weights of the steps, see `steps.sample_weights`.
        theta: (K,) initial theta.
        config: step size, tolerance and largest number of steps.

    Raises:
        ValueError: if the expert set is empty, theta is malformed, or learner and config have different
            discounts.
    """
    if learner.discount != config.discount:
        raise ValueError(
            "learner and config must have the same discount, but the learner discounts by "
            f"{learner.discount} and feature matching by {config.discount}"
        )
    target = mean_features(steps, weights, config.discount)
    theta = check_array("theta", theta, shape=target.shape)
    for iteration in range(1, config.max_steps + 1):
        policy = learner.solve(theta)
        gradient = target - learner.mean_features()
        norm = float(np.linalg.norm(gradient))
        if norm < config.tolerance or iteration == config.max_steps:
            break
        theta = theta + config.learning_rate * gradient
    errors = _matching_errors(learner, _target_covariance(steps, weights, config.discount))
    return Estimate(theta, errors, policy, norm, iteration, norm < config.tolerance)


def maximise_likelihood(
    learner: Learner,
    steps: Steps,
    theta: Array,
    config: SegmentLikelihoodConfig,
    *,
    longest_step: float = LONGEST_STEP,
) -> Estimate:
    """Infer theta by segment likelihood: the theta that is most probable given the expert's actions (ours).

    Maximises sum log pi_hat_theta(a | s) - |theta|^2 / (2 sd^2). The estimate is consistent on segments that
    start anywhere, because it uses the expert's actions only given the states in which they were taken. Each
    step of Fisher scoring is the gradient times the inverse information. There is no line search, which a
    learner with approximate policies would mislead.

    Book: eq-likelihood, eq-map, eq-fisher-scoring, eq-segment-score.

    Args:
        learner: solves for a theta, and gives score and information through successor features.
        steps: the expert steps.
        theta: (K,) initial theta.
        config: prior on theta and largest number of steps.
        longest_step: longest step in theta [reward]; it scales with the unit of reward, as `prior_sd` does.

    Raises:
        ValueError: if there are no steps, an argument is malformed, or the prior never takes some expert
            action.
    """
    check_number("longest_step", longest_step, 0, exclusive=True)
    if len(steps) == 0:
        raise ValueError("the expert set is empty: no step has weight; roll out until the expert intervenes")
    theta = check_array("theta", theta, shape=(steps.features.shape[1],))
    precision = config.prior_sd**-2 * np.eye(len(theta))
    last_step, reversals = np.zeros_like(theta), 0
    for solves in range(1, config.max_iterations + 1):
        policy = learner.solve(theta)
        if np.isneginf(policy.log_prob(steps.state, steps.action)).any():
            raise ValueError(
                "the expert took an action that the prior never takes, so no residual reward explains it; "
                "give the prior a little probability everywhere"
            )
        gradient = learner.score(steps) - precision @ theta
        information = learner.information(steps) + precision
        step = np.linalg.solve(information, gradient)
        converged = float(step @ gradient) < config.least_step**2
        if converged or solves == config.max_iterations:
            break
        # Kesten (1958): a step that reverses the last one is a sign of noise; shorter steps average it out.
        reversals += bool(step @ last_step < 0)
        last_step = step * min(1.0, longest_step / float(np.linalg.norm(step))) / (1 + reversals)
        theta = theta + last_step
    errors = np.sqrt(np.diag(np.linalg.inv(information)))
    return Estimate(theta, errors, policy, float(np.linalg.norm(gradient)), solves, converged)


def _target_covariance(steps: Steps, weights: Array, discount: float) -> Array:
    """Return the covariance (K, K) of the weighted mean features over independent episodes; inf for one."""
    used = weights * time_weights(steps.t, discount)
    residual = used[:, None] * (steps.features - used @ steps.features / used.sum())
    _, unit = np.unique(steps.episode, return_inverse=True)
    n_units = unit.max() + 1
    if n_units == 1:
        return np.full((residual.shape[1],) * 2, np.inf)
    sums = np.zeros((n_units, residual.shape[1]))
    np.add.at(sums, unit, residual)
    return n_units / (n_units - 1) * sums.T @ sums / used.sum() ** 2


def _matching_errors(learner: Learner, covariance: Array) -> Array:
    """Return standard errors by the delta method: Cov(theta) = J^-1 Cov(f_bar_E) J^-T."""
    jacobian = learner.mean_features_jacobian()
    if np.linalg.cond(jacobian) > 1e12 or np.isinf(covariance).any():
        return np.full(len(jacobian), np.inf)
    inverse = np.linalg.inv(jacobian)
    return np.sqrt(np.diag(inverse @ covariance @ inverse.T))
