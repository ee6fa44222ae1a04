"""What every learner promises (`interfaces.Learner`), against the exact solution of a small gridworld.

A neural learner joins by adding its factory and the KL to which it can be held.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest

from gridworlds import random_mdp
from mereq_min import ExactLearner, Learner, Steps, solve_residual, solve_soft

THETA = np.array([0.4, -0.7, 0.2])
TEMPERATURE, PRIOR_TEMPERATURE, PRIOR_WEIGHT, HORIZON = 0.2, 0.3, 0.8, 40


@dataclass(frozen=True)
class Case:
    """A way to make learners, and how close to the exact one they must come."""

    make: object
    kl: float
    """Mean KL from the exact policy [nats]."""
    rtol: float
    """Relative error of feature expectations, score and information."""


@cache
def problem():
    mdp = random_mdp(0, 12, 3, 3)
    prior = solve_soft(mdp, mdp.reward([0.5, 0.3, -0.2]), PRIOR_TEMPERATURE, tol=1e-12)
    return mdp, prior.log_policy


def make_exact(residual: bool) -> Learner:
    mdp, log_prior = problem()
    prior = {"log_prior": log_prior, "scaled_prior_weight": PRIOR_WEIGHT * PRIOR_TEMPERATURE}
    return ExactLearner(mdp, TEMPERATURE, horizon=HORIZON, **(prior if residual else {}))


CASES = {"exact": Case(make_exact, kl=1e-12, rtol=1e-5)}


def exact_log_policy(residual, theta=THETA):
    mdp, log_prior = problem()
    if residual:
        omega = PRIOR_WEIGHT * PRIOR_TEMPERATURE
        return solve_residual(mdp, mdp.reward(theta), log_prior, omega, TEMPERATURE, tol=1e-12).log_policy
    return solve_soft(mdp, mdp.reward(theta), TEMPERATURE, tol=1e-12).log_policy


def all_steps():
    """One step of each action in each state."""
    mdp, _ = problem()
    state, action = np.divmod(np.arange(mdp.n_states * mdp.n_actions), mdp.n_actions)
    n, no = len(state), np.zeros(len(state), dtype=bool)
    return Steps(
        state=state,
        action=action,
        policy_action=action,
        features=mdp.features[state, action],
        is_intervention=~no,
        episode=np.zeros(n, dtype=int),
        t=np.arange(n),
        terminated=no,
        truncated=no,
        policy_version=np.zeros(n, dtype=int),
    )


@pytest.fixture(params=CASES, name="case")
def _case(request):
    return CASES[request.param]


both_rewards = pytest.mark.parametrize("residual", [True, False], ids=["residual", "full"])


@both_rewards
def test_solve_reaches_the_exact_policy(case, residual):
    steps = all_steps()
    policy = case.make(residual).solve(THETA)
    exact = exact_log_policy(residual)[steps.state, steps.action]
    kl = np.exp(exact) @ (exact - policy.log_prob(steps.state, steps.action)) / problem()[0].n_states
    assert abs(kl) <= case.kl


@both_rewards
def test_mean_features_are_those_of_rolled_out_episodes(case, residual):
    mdp, _ = problem()
    learner = case.make(residual)
    policy = learner.solve(THETA)
    rng, episodes = np.random.default_rng(0), 4_000
    state = rng.choice(mdp.n_states, size=episodes, p=mdp.initial)
    rows = np.cumsum(mdp.transition.toarray(), axis=1)
    total = np.zeros(mdp.n_features)
    for _ in range(HORIZON):
        action = policy.sample(state, rng)
        total += mdp.features[state, action].sum(axis=0)
        state = (rng.random(episodes)[:, None] >= rows[state * mdp.n_actions + action]).sum(axis=1)
    np.testing.assert_allclose(learner.mean_features(), total / (episodes * HORIZON), atol=0.01 + case.rtol)


@both_rewards
def test_score_is_the_derivative_of_the_log_likelihood(case, residual):
    steps = all_steps()
    learner = case.make(residual)
    learner.solve(THETA)
    h, numerical = 1e-5, []
    for k in range(3):
        ends = [
            exact_log_policy(residual, THETA + sign * h * np.eye(3)[k])[steps.state, steps.action].sum()
            for sign in (1, -1)
        ]
        numerical.append((ends[0] - ends[1]) / (2 * h))
    np.testing.assert_allclose(learner.score(steps), numerical, rtol=case.rtol, atol=1e-5)


@both_rewards
def test_information_is_the_variance_of_the_score_under_the_policy(case, residual):
    steps = all_steps()
    learner = case.make(residual)
    policy = learner.solve(THETA)
    expected = np.zeros((3, 3))
    for i in range(len(steps)):
        one = steps.select(np.arange(len(steps)) == i)
        score = learner.score(one)
        expected += np.exp(policy.log_prob(one.state, one.action)) * np.outer(score, score)
    A = problem()[0].n_actions
    np.testing.assert_allclose(learner.information(steps), A * expected, rtol=case.rtol)


@both_rewards
def test_a_restored_learner_goes_on_bit_for_bit(case, residual):
    learner, twin = case.make(residual), case.make(residual)
    learner.solve(THETA)
    twin.restore(learner.state())
    for theta in (THETA, 1.1 * THETA):
        steps = all_steps()
        policies = [each.solve(theta) for each in (learner, twin)]
        first, again = (policy.log_prob(steps.state, steps.action) for policy in policies)
        np.testing.assert_array_equal(first, again)
