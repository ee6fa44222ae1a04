"""MEReQ-R: the likelihood of an expert who slips and is hotter; gradients, limits, recovery, coverage."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.special import logit
from strategies import generators
from tiny import make_tiny
from toy import draw_steps

from gridworlds.tabular import TabularTask
from mereq_min.interfaces import Imperfections
from mereq_min.inverse import (
    RobustConfig,
    RobustEstimate,
    SegmentLikelihoodConfig,
    _Mixture,
    maximise_likelihood,
    maximise_robust_likelihood,
)
from mereq_min.mdp import Array
from mereq_min.policies import TabularPolicy, UniformPolicy
from mereq_min.residual import solve_residual
from mereq_min.soft import solve_soft
from mereq_min.steps import Steps

FLAT = SegmentLikelihoodConfig(prior_sd=20.0, least_step=1e-5, max_iterations=60)
"""A prior on theta too wide to matter."""
OPEN = RobustConfig(error_rate=0.05, error_steps=0.1, temperature_sd=20.0)
"""Priors on slips and temperature too wide to matter."""
NONE = RobustConfig(error_rate=0.0, temperature_sd=0.0)
"""An expert without slips, at the robot's temperature."""


@cache
def tiny() -> TabularTask:
    """The tiny task, with the prior of a reward that is no sum of its features.

    Were it one, more of theta could stand for less of the expert's temperature: only their priors would tell
    the two apart.
    """
    task = make_tiny()
    reward = 0.5 * np.random.default_rng(0).normal(size=(task.mdp.n_states, task.mdp.n_actions))
    prior = TabularPolicy(solve_soft(task.mdp, reward, task.temperature).log_policy, task.temperature)
    return replace(task, prior=prior)


def expert(task: TabularTask, error_rate: float, ratio: float) -> TabularPolicy:
    """An expert who is `ratio` times as hot as the robot and slips at a rate."""
    assert task.oracle is not None
    own = np.exp(task.oracle.erring_policy(Imperfections(temperature_ratio=ratio)).log_policy)
    return TabularPolicy(np.log((1 - error_rate) * own + error_rate / task.mdp.n_actions))


def draw(task: TabularTask, n: int, seed: int, error_rate: float = 0.0, ratio: float = 1.0) -> Steps:
    """n expert steps, in segments of two that begin in any state that is not terminal."""
    rng, mdp = np.random.default_rng(seed), task.mdp
    anywhere = ~mdp.terminal / (~mdp.terminal).sum()
    # A segment of two steps may end in a terminal state after the first.
    drawn = draw_steps(mdp, expert(task, error_rate, ratio), rng, n_episodes=n, horizon=2, initial=anywhere)
    return drawn.select(np.arange(len(drawn)) < n)


def fit(
    task: TabularTask,
    steps: Steps,
    config: SegmentLikelihoodConfig = FLAT,
    robust: RobustConfig = OPEN,
    **start: Any,
) -> RobustEstimate:
    slips = UniformPolicy(task.make_env().action_space)
    theta = start.pop("theta", np.zeros(task.mdp.n_features))
    return maximise_robust_likelihood(
        task.make_tempered_learner(), slips, steps, theta, config, robust, **start
    )


def log_policy(task: TabularTask, theta: Array, share: float) -> Array:
    """log pi_{theta, omega'} by residual Q-learning with another weight of the prior."""
    mdp, weight = task.mdp, share * task.scaled_prior_weight
    return solve_residual(
        mdp, mdp.reward(theta), task.log_prior, weight, task.temperature, tol=1e-12
    ).log_policy


@given(generators, st.floats(0.2, 3.0))
def test_the_last_parameter_of_a_tempered_learner_weighs_the_prior(
    rng: np.random.Generator, share: float
) -> None:
    theta = rng.normal(size=2)
    found = tiny().make_tempered_learner().solve(np.append(theta, share - 1.0))
    assert_allclose(found.log_policy, log_policy(tiny(), theta, share), rtol=0, atol=1e-6)


@given(st.floats(0.3, 4.0))
def test_an_expert_at_another_temperature_acts_for_a_scaled_wish(ratio: float) -> None:
    """Temperature c alpha_hat with theta* and omega' is alpha_hat with theta* / c and omega' / c."""
    task = tiny()
    assert task.oracle is not None
    hot = task.oracle.erring_policy(Imperfections(temperature_ratio=ratio))
    scaled = log_policy(task, task.oracle.true_theta / ratio, 1.0 / ratio)
    assert_allclose(hot.log_policy, scaled, rtol=0, atol=1e-6)


@settings(max_examples=20)
@given(generators, st.floats(0.01, 0.4))
def test_the_gradient_is_the_derivative_of_the_log_posterior(
    rng: np.random.Generator, error_rate: float
) -> None:
    """All three parts: theta, the weight of the prior, and eps; the derivative is numerical."""
    task = tiny()
    steps = draw(task, 12, seed=int(rng.integers(1000)), error_rate=0.2)
    config, robust = SegmentLikelihoodConfig(prior_sd=0.7), RobustConfig(0.1, 15.0, 0.4)

    def log_posterior(x: Array) -> float:
        eps = 1 / (1 + np.exp(-x[-1]))
        own = np.exp(log_policy(task, x[:2], 1 + x[2])[steps.state, steps.action])
        fit = np.log((1 - eps) * own + eps / task.mdp.n_actions).sum()
        beta = 1.5 * np.log(eps) + 13.5 * np.log(1 - eps)
        return fit - 0.5 * (x[:2] ** 2).sum() / 0.7**2 - 0.5 * x[2] ** 2 / 0.4**2 + beta

    slips = UniformPolicy(task.make_env().action_space)
    mixture = _Mixture(task.make_tempered_learner(), slips, steps, config, robust)
    x = np.array([*rng.normal(size=2), rng.uniform(-0.4, 0.4), logit(error_rate)])
    point = mixture.evaluate(x)
    numerical = [(log_posterior(x + 1e-5 * e) - log_posterior(x - 1e-5 * e)) / 2e-5 for e in np.eye(4)]
    assert_allclose(point.gradient, numerical, rtol=1e-4, atol=1e-4)
    assert_allclose(point.value, log_posterior(x), rtol=1e-6)


def test_the_observed_information_is_the_curvature_where_many_steps_lie() -> None:
    """Louis: at the top of a large sample, minus the second derivative of the log-posterior."""
    task = tiny()
    steps = draw(task, 20_000, seed=0, error_rate=0.15, ratio=1.3)
    slips = UniformPolicy(task.make_env().action_space)
    mixture = _Mixture(task.make_tempered_learner(), slips, steps, FLAT, OPEN)
    assert task.oracle is not None
    x = np.array([*(task.oracle.true_theta / 1.3), 1 / 1.3 - 1, logit(0.15)])
    h = 1e-4
    curvature = np.array(
        [
            (mixture.evaluate(x - h * e).gradient - mixture.evaluate(x + h * e).gradient) / (2 * h)
            for e in np.eye(4)
        ]
    )
    found = mixture.evaluate(x).observed
    scale = np.sqrt(np.outer(np.diag(found), np.diag(found)))
    assert_allclose(curvature / scale, found / scale, rtol=0, atol=0.05)


@pytest.mark.parametrize("seed", range(3))
def test_without_slips_and_at_the_robots_temperature_it_is_segment_likelihood(seed: int) -> None:
    task = tiny()
    steps = draw(task, 150, seed)
    config = SegmentLikelihoodConfig(least_step=1e-8, max_iterations=300)
    plain = maximise_likelihood(task.make_learner("residual", 1.0), steps, np.zeros(2), config)
    robust = fit(task, steps, config, NONE)
    assert plain.converged and robust.converged
    assert (robust.error_rate, robust.temperature_ratio) == (0.0, 1.0)
    assert_allclose(robust.theta, plain.theta, rtol=0, atol=1e-8)
    assert_allclose(robust.standard_errors, plain.standard_errors, rtol=1e-7)
    policies = (each.policy.log_prob(steps.state, steps.action) for each in (robust, plain))
    assert_allclose(*policies, rtol=0, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("error_rate", [0.0, 0.1, 0.2])
def test_the_error_shrinks_with_the_root_of_the_steps(error_rate: float) -> None:
    task, sizes = tiny(), np.array([800, 3200, 12800])
    assert task.oracle is not None
    errors = []
    for n in sizes:
        fits = [fit(task, draw(task, n, seed, error_rate, 1.3)) for seed in range(12)]
        theta = np.array([each.theta for each in fits])
        errors.append(np.sqrt(np.mean((theta - task.oracle.true_theta) ** 2)))
    slope = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert -0.62 < slope < -0.38
    assert errors[-1] < 0.15


@pytest.mark.parametrize(("error_rate", "ratio"), [(0.0, 1.0), (0.1, 1.5), (0.2, 0.8), (0.2, 2.0)])
def test_slips_temperature_and_theta_are_recovered(error_rate: float, ratio: float) -> None:
    task = tiny()
    assert task.oracle is not None
    found = fit(task, draw(task, 30_000, 0, error_rate, ratio))
    assert found.converged
    assert abs(found.error_rate - error_rate) < 0.02
    assert_allclose(found.temperature_ratio, ratio, rtol=0.06)
    assert (np.abs(found.theta - task.oracle.true_theta) < 4 * found.standard_errors).all()
    assert (found.standard_errors < 0.1).all()


def test_slips_mislead_the_likelihood_that_does_not_forgive_them() -> None:
    task = tiny()
    assert task.oracle is not None
    steps, truth = draw(task, 4000, 0, 0.2), task.oracle.true_theta
    plain = maximise_likelihood(task.make_learner("residual", 1.0), steps, np.zeros(2), FLAT)
    assert np.abs(plain.theta - truth).max() > 8 * plain.standard_errors.max()
    assert np.abs(fit(task, steps).theta - truth).max() < 0.25


@pytest.mark.slow
@pytest.mark.parametrize(("error_rate", "ratio"), [(0.0, 1.0), (0.1, 1.5), (0.2, 1.0)])
def test_intervals_cover_the_truth_as_often_as_they_say(error_rate: float, ratio: float) -> None:
    """Of the 95 % intervals of both weights over 200 repetitions, 93 to 97 % cover."""
    task = tiny()
    assert task.oracle is not None
    fits = [fit(task, draw(task, 500, seed, error_rate, ratio)) for seed in range(200)]
    errors = np.array([each.standard_errors for each in fits])
    away = np.abs(np.array([each.theta for each in fits]) - task.oracle.true_theta)
    assert 0.93 <= (away < 1.96 * errors).mean() <= 0.97
