"""The exact policy, learner and cloner: sampling, visits, warm starts, and cloning by hand."""

import dataclasses
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import chisquare
from strategies import draw_log_policy, generators, mdps, temperatures
from toy import draw_steps, make_mdp, make_steps

from mereq_min.exact import ExactCloner, ExactLearner, tabulate, visitation
from mereq_min.mdp import Array, TabularMDP
from mereq_min.policies import TabularPolicy
from mereq_min.residual import solve_residual
from mereq_min.soft import occupancy, solve_soft
from mereq_min.steps import mean_features

# TabularPolicy ---------------------------------------------------------------------------------------------


def log(table: Any) -> Array:
    with np.errstate(divide="ignore"):
        return np.log(np.array(table, dtype=float))


@given(mdps(), generators, st.booleans())
def test_log_prob_is_the_normalised_table(mdp: TabularMDP, rng: np.random.Generator, zeros: bool) -> None:
    log_policy = draw_log_policy(mdp, rng, zeros=zeros)
    policy = TabularPolicy(log_policy)
    assert_array_equal(tabulate(mdp, policy), log_policy)
    state = rng.integers(mdp.n_states, size=7)
    each = [np.exp(policy.log_prob(state, np.full(7, a))) for a in range(mdp.n_actions)]
    assert_allclose(np.sum(each, axis=0), 1.0, rtol=1e-12)


def test_samples_come_as_often_as_log_prob_says() -> None:
    table = [[0.1, 0.2, 0.3, 0.4], [0.97, 0.01, 0.01, 0.01], [0.25, 0.25, 0.25, 0.25]]
    n = 20_000
    state = np.random.default_rng(0).permutation(np.repeat(np.arange(3), n))
    action = TabularPolicy(log(table)).sample(state, np.random.default_rng(1))
    for s, probabilities in enumerate(table):
        counts = np.bincount(action[state == s], minlength=4)
        assert chisquare(counts, n * np.array(probabilities)).pvalue > 1e-3


class LargestDraw:
    """A generator that draws the largest number below 1, where rounding shows."""

    def random(self, n: int) -> Array:
        return np.full(n, np.nextafter(1.0, 0.0))


class SmallestDraw:
    """A generator that draws 0."""

    def random(self, n: int) -> Array:
        return np.zeros(n)


@pytest.mark.parametrize("rng", [LargestDraw(), SmallestDraw(), np.random.default_rng(0)])
@pytest.mark.parametrize("n", range(1, 30))
def test_actions_of_probability_0_are_never_drawn(n: int, rng: Any) -> None:
    """They lie at both ends and in between; the others are 1/n each, which does not sum to 1 in float64."""
    row = np.zeros(n + 3)
    row[1 : n + 2] = 1.0 / n
    row[2 if n > 1 else 1] = 0.0
    row /= row.sum()
    # A policy out of a network in float32 sums to 1 within about 1e-7 only.
    for slack in (0.0, 5e-7, -5e-7):
        action = TabularPolicy(log([row]) + slack).sample(np.zeros(200, dtype=int), rng)
        assert (row[action] > 0).all()


def test_one_action_is_drawn_as_many_are() -> None:
    """A rollout, which draws action by action, sees the same random stream as a batch."""
    table = draw_log_policy(make_mdp(0), np.random.default_rng(0), zeros=True)
    policy, state = TabularPolicy(table), np.random.default_rng(1).integers(len(table), size=500)
    together = policy.sample(state, np.random.default_rng(2))
    rng = np.random.default_rng(2)
    assert_array_equal([policy.sample(state[[i]], rng)[0] for i in range(500)], together)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (np.zeros((3, 2)), "log_policy must hold log-probabilities, but exp sums to 2 in state 0"),
        (log([[0.5, 0.5], [0.5, 0.4]]), "exp sums to 0.9 in state 1"),
        (np.zeros(3), "log_policy must have shape (S, A), got (3,)"),
        (np.full((2, 2), np.nan), "log_policy must not hold NaN"),
    ],
)
def test_malformed_tables_are_refused(table: Array, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        TabularPolicy(table)


# Visits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("horizon", "discount", "first", "second"),
    [
        (1, 1.0, 0.5, 0.5),
        # 0.5, 0.375, 0.28125 in the first state; 0.5, 0.125, 0.09375 in the second.
        (3, 1.0, 1.15625, 0.71875),
        (3, 0.5, 0.7578125, 0.5859375),
        (3, 0.0, 0.5, 0.5),
    ],
)
def test_visits_to_a_chain_by_hand(horizon: int, discount: float, first: float, second: float) -> None:
    """State 0 moves on by action 0 alone, a quarter of the time; state 1 ends in state 2 by either."""
    transition = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 1], [0, 0, 1], [0, 0, 1]])
    mdp = TabularMDP(
        transition, np.zeros((3, 2, 1)), np.array([0.5, 0.5, 0.0]), 0.9, np.array([False, False, True])
    )
    policy = np.array([[0.25, 0.75], [0.5, 0.5], [1.0, 0.0]])
    expected = np.array([first, second, 0.0])[:, None] * policy
    assert_allclose(visitation(mdp, log(policy), horizon, discount), expected, rtol=1e-14)


@given(mdps(), generators)
def test_visits_discounted_for_ever_are_the_occupancy(mdp: TabularMDP, rng: np.random.Generator) -> None:
    log_policy = draw_log_policy(mdp, rng, zeros=True)
    horizon = 1 if mdp.gamma == 0 else 1 + int(np.log(1e-12) / np.log(mdp.gamma))
    visits = visitation(mdp, log_policy, horizon, mdp.gamma)
    assert_allclose((1.0 - mdp.gamma) * visits, occupancy(mdp, log_policy), rtol=0, atol=1e-11)


@pytest.mark.parametrize("discount", [1.0, 0.8])
@pytest.mark.parametrize("terminal", [(), (4, 5)])
def test_visits_are_what_whole_episodes_average_to(terminal: tuple[int, ...], discount: float) -> None:
    """Both sides of feature matching, drawn and exact, agree within the error of the draw."""
    mdp, n = make_mdp(3, terminal=terminal), 4000
    learner = ExactLearner(mdp, 0.3, horizon=12, discount=discount)
    policy = learner.solve(np.array([1.0, -0.5]))
    steps = draw_steps(mdp, policy, np.random.default_rng(0), n_episodes=n, horizon=12)

    weights = discount**steps.t
    visits = np.zeros((mdp.n_states, mdp.n_actions))
    np.add.at(visits, (steps.state, steps.action), weights / n)
    exact = visitation(mdp, policy.log_policy, 12, discount)
    # At most 12 visits an episode, in fact far more even: sd < 2.
    assert_allclose(visits, exact, rtol=0, atol=4 * 2 / np.sqrt(n))
    drawn = mean_features(steps, np.ones(len(steps)), discount)
    assert_allclose(drawn, learner.mean_features(), rtol=0, atol=0.01)


# ExactLearner ----------------------------------------------------------------------------------------------


@given(mdps(), generators, temperatures, st.floats(0.0, 2.0))
def test_the_learner_solves_soft_control_and_residual_q(
    mdp: TabularMDP, rng: np.random.Generator, temperature: float, scaled_prior_weight: float
) -> None:
    theta, log_prior = rng.normal(size=mdp.n_features), draw_log_policy(mdp, rng)
    full = ExactLearner(mdp, temperature, horizon=5).solve(theta)
    expected = solve_soft(mdp, mdp.reward(theta), temperature, tol=1e-11)
    assert_allclose(np.exp(full.log_policy), np.exp(expected.log_policy), rtol=0, atol=1e-5)
    residual = ExactLearner(
        mdp, temperature, horizon=5, log_prior=log_prior, scaled_prior_weight=scaled_prior_weight
    ).solve(theta)
    expected = solve_residual(mdp, mdp.reward(theta), log_prior, scaled_prior_weight, temperature, tol=1e-11)
    assert_allclose(np.exp(residual.log_policy), np.exp(expected.log_policy), rtol=0, atol=1e-5)


def make_learner() -> ExactLearner:
    mdp = make_mdp(0)
    log_prior = draw_log_policy(mdp, np.random.default_rng(1))
    return ExactLearner(mdp, 0.2, horizon=9, log_prior=log_prior, scaled_prior_weight=0.1)


def test_a_restored_learner_goes_on_bit_for_bit() -> None:
    first, second, third = np.random.default_rng(2).normal(size=(3, 2))
    unbroken = make_learner()
    unbroken.solve(first)
    unbroken.solve(second)
    saved = {name: array.copy() for name, array in unbroken.arrays().items()}
    resumed = make_learner()
    resumed.restore(saved)
    steps = make_steps(np.zeros((3, 2)), state=np.array([0, 2, 4]), action=np.array([1, 0, 2]))
    policies = [learner.solve(third) for learner in (unbroken, resumed)]
    assert_array_equal(policies[0].log_policy, policies[1].log_policy)
    assert_array_equal(unbroken.mean_features(), resumed.mean_features())
    assert_array_equal(unbroken.scores(steps).sum(axis=0), resumed.scores(steps).sum(axis=0))
    # The warm start is no idle passenger: without it the solver takes another path to the same policy.
    cold = make_learner().solve(third)
    assert (cold.log_policy != policies[0].log_policy).any()
    assert_allclose(cold.log_policy, policies[0].log_policy, rtol=0, atol=1e-6)


@given(mdps(), generators, temperatures, st.booleans())
def test_one_inverse_serves_many_rewards_and_each_is_solved(
    mdp: TabularMDP, rng: np.random.Generator, temperature: float, zeros: bool
) -> None:
    log_prior = draw_log_policy(mdp, rng, zeros=zeros)
    learner = ExactLearner(mdp, temperature, horizon=3, log_prior=log_prior, scaled_prior_weight=0.3)
    theta = rng.normal(size=mdp.n_features)
    for scale in (0.0, 0.1, 0.01, 0.0, 10.0):  # near the last theta, equal to it, and far from it
        theta = theta + scale * rng.normal(size=mdp.n_features)
        learner.solve(theta)
        expected = solve_residual(mdp, mdp.reward(theta), log_prior, 0.3, temperature, tol=1e-11)
        # A Bellman error of 1e-8 temperatures is one of at most 1e-8 / (1 - gamma) of them in the values.
        close = 2e-8 * temperature / (1 - mdp.gamma)
        assert_allclose(learner.arrays()["v"], expected.v, rtol=1e-9, atol=close)


def test_solves_for_close_rewards_need_no_step_of_newtons_method(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, iterations = make_learner(), []

    def solve(*arguments: Any, **options: Any) -> Any:
        solution = solve_soft(*arguments, **options)
        iterations.append(solution.iterations)
        return solution

    monkeypatch.setattr("mereq_min.exact.solve_soft", solve)
    for i in range(20):
        learner.solve(np.array([1.0, -1.0]) + 0.01 * i)
    assert sum(iterations[1:]) == 0


def test_a_stale_inverse_is_made_anew_though_newtons_method_is_not_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mereq_min.exact.MOST_CHORD_STEPS", 2)
    learner = make_learner()
    learner.solve(np.array([1.0, -1.0]))
    learner.solve(np.array([1.05, -1.0]))
    assert_array_equal(learner.arrays()["anchor.theta"], [1.05, -1.0])
    before = learner.arrays()["v"]
    learner.solve(np.array([1.05, -1.0]))
    assert_array_equal(learner.arrays()["v"], before)


def test_the_learner_refuses_what_solve_soft_refuses() -> None:
    """Rounding may move the policy where the values are large, also if the chord method solves for them."""
    mdp = dataclasses.replace(make_mdp(0), features=np.ones((6, 3, 1)))
    learner = ExactLearner(mdp, 0.5, horizon=3)
    learner.solve(np.zeros(1))
    with pytest.raises(ValueError, match="rounding may have moved the policy"):
        learner.solve(np.array([10**11.5]))


def test_restoring_another_mdps_state_is_refused() -> None:
    with pytest.raises(ValueError, match=re.escape("v must have shape (6,), got (5,)")):
        make_learner().restore({"v": np.zeros(5)})


def test_each_solve_replaces_the_last_ones_answers() -> None:
    """Score and features belong to the last theta, not to the first for which they were asked."""
    first, second = np.random.default_rng(3).normal(size=(2, 2))
    steps = make_steps(np.zeros((3, 2)), state=np.array([0, 2, 4]), action=np.array([1, 0, 2]))
    learner = make_learner()
    learner.solve(first)
    before = [learner.mean_features(), learner.scores(steps).sum(axis=0), learner.information(steps)]
    learner.solve(second)
    after = [learner.mean_features(), learner.scores(steps).sum(axis=0), learner.information(steps)]
    fresh = make_learner()
    fresh.solve(second)
    expected = [fresh.mean_features(), fresh.scores(steps).sum(axis=0), fresh.information(steps)]
    for old, new, wanted in zip(before, after, expected, strict=True):
        assert_allclose(new, wanted, rtol=1e-5)
        assert np.abs(new - old).max() > 1e-3


@pytest.mark.parametrize(
    "ask",
    [
        lambda learner, steps: learner.mean_features(),
        lambda learner, steps: learner.scores(steps).sum(axis=0),
        lambda learner, steps: learner.information(steps),
    ],
    ids=["mean_features", "score", "information"],
)
def test_a_learner_that_solved_nothing_says_so(ask: Any) -> None:
    with pytest.raises(ValueError, match=re.escape("call solve(theta) first")):
        ask(make_learner(), make_steps(np.zeros((1, 2))))


# ExactCloner -----------------------------------------------------------------------------------------------


def test_cloning_is_the_mean_of_a_dirichlet() -> None:
    prior = [[0.5, 0.5, 0.0], [0.2, 0.3, 0.5], [1.0, 0.0, 0.0]]
    steps = make_steps(
        np.zeros((4, 1)),
        state=np.array([0, 0, 0, 2]),
        action=np.array([0, 0, 2, 1]),
        policy_action=np.array([1, 1, 1, 2]),
    )
    cloned = ExactCloner(log(prior), concentration=2.0).clone(steps, np.array([1.0, 1.0, 0.5, 6.0]))
    expected = [
        [(1.0 + 2.0) / 4.5, 1.0 / 4.5, 0.5 / 4.5],
        [0.2, 0.3, 0.5],
        [2.0 / 8.0, 6.0 / 8.0, 0.0],
    ]
    assert_allclose(np.exp(cloned.log_policy), expected, rtol=1e-12)


def test_without_weight_the_clone_is_the_prior_and_stays_so() -> None:
    log_prior = log([[0.5, 0.5], [0.9, 0.1]])
    steps = make_steps(np.zeros((2, 1)), state=np.array([0, 1]), action=np.array([0, 1]))
    cloner = ExactCloner(log_prior)
    cloner.clone(steps, np.array([10.0, 10.0]))
    assert_allclose(cloner.clone(steps, np.zeros(2)).log_policy, log_prior, rtol=1e-12)


def test_clones_of_many_steps_approach_who_took_them() -> None:
    mdp = make_mdp(1)
    expert = TabularPolicy(draw_log_policy(mdp, np.random.default_rng(0)))
    steps = draw_steps(mdp, expert, np.random.default_rng(1), n_episodes=400, horizon=100)
    uniform = np.full((mdp.n_states, mdp.n_actions), -np.log(mdp.n_actions))
    cloned = ExactCloner(uniform).clone(steps, np.ones(len(steps)))
    visits = np.bincount(steps.state, minlength=mdp.n_states)
    error = np.abs(np.exp(cloned.log_policy) - np.exp(expert.log_policy)).max(axis=1)
    assert (error < 4 * 0.5 / np.sqrt(visits)).all()
