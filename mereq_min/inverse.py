"""Inverse RL: two estimators of theta from expert steps, both against any `Learner`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from mereq_min.checks import Array, check_array, check_number
from mereq_min.interfaces import Learner, Policy
from mereq_min.steps import Steps, mean_features, time_weights


@dataclass(frozen=True)
class Estimate:
    """An inferred reward with its audit trail.

    Attributes:
        theta: (K,) reward weights.
        standard_errors: (K,) standard errors of theta; all inf if the data leave a direction of theta open.
        policy: the policy for theta.
        gradient_norm: Euclidean norm of the gradient at theta.
        solves: policies solved for on the way.
        converged: whether the stopping rule was met within the budget.
    """

    theta: Array
    standard_errors: Array
    policy: Policy
    gradient_norm: float
    solves: int
    converged: bool


@dataclass(frozen=True)
class FeatureMatchingConfig:
    """Gradient ascent on the dual of maximum causal entropy, as the paper runs it."""

    learning_rate: float = 0.5
    """eta, step along the difference of features [reward]."""
    tolerance: float = 0.01
    """Stop when the norm of the difference of mean features falls below it [feature]."""
    max_steps: int = 150
    """Gradient steps an update [steps]."""
    discount: float = 1.0
    """Weight discount**t of a step at time t, on both sides; 1 weighs all steps alike."""

    def __post_init__(self) -> None:
        check_number("learning_rate", self.learning_rate, 0, above=True)
        check_number("tolerance", self.tolerance, 0)
        check_number("max_steps", self.max_steps, 1, whole=True)
        check_number("discount", self.discount, 0, 1, above=True)


@dataclass(frozen=True)
class SegmentLikelihoodConfig:
    """Maximum a posteriori by L-BFGS."""

    prior_sd: float = 0.5
    """Standard deviation of the Gaussian prior on theta, for features of unit range [reward]."""
    max_iterations: int = 60
    """L-BFGS iterations an update [iterations]."""

    def __post_init__(self) -> None:
        check_number("prior_sd", self.prior_sd, 0, above=True)
        check_number("max_iterations", self.max_iterations, 1, whole=True)


def match_features(
    learner: Learner, steps: Steps, weights: Array, theta: Array, config: FeatureMatchingConfig
) -> Estimate:
    """Feature matching: theta <- theta + eta (f_bar_E - f_bar_pi_hat), Chen et al. (2025).

    The step is the gradient of the maximum-causal-entropy dual (Ziebart et al. 2010) if the weighted steps
    are whole trajectories from rho0, all of one length. On cut-out segments it is biased, and where episodes
    end early a mean over steps is a ratio: the step is then no gradient and theta can run away.

    Args:
        learner: solves for a theta; its discount must be the config's.
        steps: the steps.
        weights: (N,) weights of the steps in the expert set.
        theta: (K,) where to start.
        config: step size, tolerance, budget.

    Raises:
        ValueError: if the expert set is empty, theta malformed, or the two sides weigh time differently.
    """
    if learner.discount != config.discount:
        raise ValueError(
            f"both sides must weigh time alike, but the learner discounts by {learner.discount} and "
            f"feature matching by {config.discount}"
        )
    target = mean_features(steps, weights, config.discount)
    theta = check_array("theta", theta, shape=target.shape)
    for iteration in range(1, config.max_steps + 1):
        learner.solve(theta)
        gradient = target - learner.mean_features()
        norm = float(np.linalg.norm(gradient))
        if norm < config.tolerance or iteration == config.max_steps:
            break
        theta = theta + config.learning_rate * gradient
    errors = _matching_errors(learner, theta, _target_covariance(steps, weights, config.discount))
    return Estimate(theta, errors, learner.solve(theta), norm, iteration, norm < config.tolerance)


def maximise_likelihood(
    learner: Learner, steps: Steps, theta: Array, config: SegmentLikelihoodConfig
) -> Estimate:
    """Segment likelihood: the MAP theta of log pi_hat_theta over expert steps (ours).

    Maximises sum log pi_hat_theta(a | s) - |theta|^2 / (2 sd^2). It asks only how the expert acted in the
    states it was in, and so is consistent on segments that start wherever the policy got to.

    Args:
        learner: solves for a theta, and gives score and information through successor features.
        steps: the expert steps.
        theta: (K,) where to start.
        config: prior and budget.

    Raises:
        ValueError: if there are no steps, theta is malformed, or a step has probability 0 whatever theta is.
    """
    if len(steps) == 0:
        raise ValueError("the expert set is empty: no step has weight; roll out until the expert intervenes")
    theta = check_array("theta", theta, shape=(steps.features.shape[1],))
    precision = config.prior_sd**-2

    def negative_log_posterior(theta: Array) -> tuple[float, Array]:
        log_likelihood = learner.solve(theta).log_prob(steps.state, steps.action).sum()
        if log_likelihood == -np.inf:
            raise ValueError(
                "the expert took an action that the prior never takes, so no residual reward explains it; "
                "give the prior a little probability everywhere"
            )
        value = 0.5 * precision * theta @ theta - log_likelihood
        return float(value), precision * theta - learner.score(steps)

    result = minimize(
        negative_log_posterior,
        theta,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": config.max_iterations, "ftol": 1e-10, "gtol": 1e-6 * len(steps)},
    )
    policy = learner.solve(result.x)
    information = learner.information(steps) + precision * np.eye(len(theta))
    errors = np.sqrt(np.diag(np.linalg.inv(information)))
    return Estimate(
        result.x, errors, policy, float(np.linalg.norm(result.jac)), int(result.nfev), bool(result.success)
    )


def _target_covariance(steps: Steps, weights: Array, discount: float) -> Array:
    """Covariance (K, K) of the weighted mean features, episodes being independent; inf from a single one."""
    used = weights * time_weights(steps.t, discount)
    residual = used[:, None] * (steps.features - used @ steps.features / used.sum())
    _, unit = np.unique(steps.episode, return_inverse=True)
    n_units = unit.max() + 1
    if n_units == 1:
        return np.full((residual.shape[1],) * 2, np.inf)
    sums = np.zeros((n_units, residual.shape[1]))
    np.add.at(sums, unit, residual)
    return n_units / (n_units - 1) * sums.T @ sums / used.sum() ** 2


def _matching_errors(learner: Learner, theta: Array, covariance: Array) -> Array:
    """Delta method: theta solves f_bar_pi(theta) = f_bar_E, so Cov(theta) = J^-1 Cov(f_bar_E) J^-T."""
    K, h = len(theta), 1e-3
    jacobian = np.empty((K, K))
    for k in range(K):
        means = []
        for sign in (1.0, -1.0):
            learner.solve(theta + sign * h * np.eye(K)[k])
            means.append(learner.mean_features())
        jacobian[:, k] = (means[0] - means[1]) / (2 * h)
    if np.linalg.cond(jacobian) > 1e12 or np.isinf(covariance).any():
        return np.full(K, np.inf)
    inverse = np.linalg.inv(jacobian)
    return np.sqrt(np.diag(inverse @ covariance @ inverse.T))
