"""Both estimators of theta: gradients (E8), standard errors, limits, and where matching is biased."""

import itertools
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from strategies import draw_log_policy, generators, mdps, temperatures
from toy import draw_steps, make_mdp, make_steps

from mereq_min.exact import ExactLearner
from mereq_min.inverse import (
    FeatureMatchingConfig,
    SegmentLikelihoodConfig,
    match_features,
    maximise_likelihood,
)
from mereq_min.mdp import Array, TabularMDP
from mereq_min.policies import TabularPolicy
from mereq_min.residual import solve_residual
from mereq_min.soft import SoftSolution, solve_soft, successor_features
from mereq_min.steps import Steps

TRUTH = np.array([1.0, -0.7])
"""theta*, what the expert's steps are drawn with [reward]."""

FLAT = SegmentLikelihoodConfig(prior_sd=10.0)
"""A prior on theta too wide to matter."""


def solve_tightly(learner: ExactLearner, theta: Array) -> SoftSolution:
    """The learner's problem, solved afresh to where float64 ends."""
    mdp, reward = learner.mdp, learner.mdp.reward(theta)
    if learner.log_prior is None:
        return solve_soft(mdp, reward, learner.temperature, tol=1e-12)
    return solve_residual(
        mdp, reward, learner.log_prior, learner.scaled_prior_weight, learner.temperature, tol=1e-12
    )


def draw_learner(
    mdp: TabularMDP, rng: np.random.Generator, temperature: float, residual: bool, **settings: Any
) -> ExactLearner:
    """A learner of the full reward, or of the residual on a prior that never takes some actions."""
    log_prior = draw_log_policy(mdp, rng, zeros=True) if residual else None
    return ExactLearner(
        mdp,
        temperature,
        **{"horizon": 30} | settings,
        log_prior=log_prior,
        scaled_prior_weight=0.3 if residual else 0.0,
    )


def score_size(learner: ExactLearner, theta: Array) -> float:
    """The largest entry that the score of one step can have; its inverse is the natural scale of theta."""
    psi = successor_features(learner.mdp, solve_tightly(learner, theta).log_policy)
    return max(1.0, 2.0 * float(np.abs(psi).max()) / learner.temperature)


def expected_steps(mdp: TabularMDP, policy: TabularPolicy, horizon: int) -> tuple[Steps, Array]:
    """All that can happen in an episode, as steps (t, s, a) weighted with their probability."""
    S, A = mdp.n_states, mdp.n_actions
    now, weights = np.where(mdp.terminal, 0.0, mdp.initial), []
    for _ in range(horizon):
        weights.append(now[:, None] * np.exp(policy.log_policy))
        now = np.where(mdp.terminal, 0.0, mdp.transition.T @ weights[-1].ravel())
    pair, t = np.divmod(np.arange(S * A * horizon), horizon)
    state, action = np.divmod(pair, A)
    steps = make_steps(mdp.features[state, action], state=state, action=action, episode=pair, t=t)
    return steps, np.array(weights).reshape(horizon, S * A).T.ravel()


# E8: gradients and information -----------------------------------------------------------------------------


@given(mdps(), generators, temperatures, st.booleans())
def test_e8_score_is_the_derivative_of_the_log_likelihood(
    mdp: TabularMDP, rng: np.random.Generator, temperature: float, residual: bool
) -> None:
    learner, theta = draw_learner(mdp, rng, temperature, residual), rng.normal(size=mdp.n_features)
    size = score_size(learner, theta)
    state = rng.integers(mdp.n_states, size=5)
    action = learner.solve(theta).sample(state, rng)
    steps = make_steps(mdp.features[state, action], state=state, action=action)

    def log_likelihood(theta: Array) -> float:
        return solve_tightly(learner, theta).log_policy[state, action].sum()

    h = 1e-4 / size
    numerical = [
        (log_likelihood(theta + h * e) - log_likelihood(theta - h * e)) / (2 * h)
        for e in np.eye(mdp.n_features)
    ]
    assert_allclose(learner.scores(steps).sum(axis=0), numerical, rtol=0, atol=1e-5 * size)


@given(mdps(), generators, temperatures, st.booleans())
def test_information_is_the_expected_curvature_of_the_log_likelihood(
    mdp: TabularMDP, rng: np.random.Generator, temperature: float, residual: bool
) -> None:
    learner, theta = draw_learner(mdp, rng, temperature, residual), rng.normal(size=mdp.n_features)
    size = score_size(learner, theta)
    state = rng.integers(mdp.n_states, size=5)
    policy = np.exp(learner.solve(theta).log_policy)
    possible = policy > 0

    def log_policy(theta: Array) -> Array:
        return np.where(possible, solve_tightly(learner, theta).log_policy, 0.0)

    K, h = mdp.n_features, 1e-3 / size
    curvature = np.empty((K, K))
    for i, j in itertools.product(range(K), repeat=2):
        a, b = h * np.eye(K)[i], h * np.eye(K)[j]
        second = (
            log_policy(theta + a + b)
            - log_policy(theta + a - b)
            - log_policy(theta - a + b)
            + log_policy(theta - a - b)
        ) / (4 * h**2)
        curvature[i, j] = (policy * second)[state].sum()

    found = learner.information(make_steps(np.zeros((5, K)), state=state))
    assert_allclose(found, -curvature, rtol=0, atol=1e-4 * size**2)


# Feature matching ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("residual", [False, True], ids=["full", "residual"])
@pytest.mark.parametrize("seed", range(3))
def test_a_step_of_matching_is_the_gradient_of_the_dual_on_whole_trajectories(
    seed: int, residual: bool
) -> None:
    """The dual of maximum causal entropy is g(theta) = theta . F_E - E_rho0[V_theta], concave in theta.

    F_E = sum_t gamma^t E[f(s_t, a_t)] under the expert, and the derivative of E_rho0[V_theta] is the same sum
    under pi_hat. Where no state is terminal the weights gamma^t add up to 1 / (1 - gamma) on both sides, so
    that the difference of means is (1 - gamma) times the gradient of g.
    """
    mdp, rng = make_mdp(seed, K=3), np.random.default_rng(seed)
    learner = draw_learner(mdp, rng, 0.4, residual, horizon=300, discount=mdp.gamma)
    expert = TabularPolicy(draw_log_policy(mdp, rng))
    steps, weights = expected_steps(mdp, expert, horizon=300)
    F_E = np.einsum("n,nk->k", weights * mdp.gamma**steps.t, steps.features)
    theta = rng.normal(size=3)

    def dual(theta: Array) -> float:
        return theta @ F_E - mdp.initial @ solve_tightly(learner, theta).v

    h = 1e-4
    gradient = np.array([(dual(theta + h * e) - dual(theta - h * e)) / (2 * h) for e in np.eye(3)])
    config = FeatureMatchingConfig(learning_rate=0.5, max_steps=2, tolerance=1e-9, discount=mdp.gamma)
    moved = match_features(learner, steps, weights, theta, config).theta - theta
    assert_allclose(moved, 0.5 * (1.0 - mdp.gamma) * gradient, rtol=0, atol=1e-8)
    assert np.abs(moved).max() > 1e-2


@pytest.mark.parametrize("residual", [False, True], ids=["full", "residual"])
@pytest.mark.parametrize("terminal", [(), (5,)], ids=["endless", "terminal"])
@pytest.mark.parametrize("discount", [0.9, 1.0], ids=["discounted", "undiscounted"])
def test_matching_exact_occupancies_finds_the_experts_policy(
    discount: float, terminal: tuple[int, ...], residual: bool
) -> None:
    mdp, rng = make_mdp(0, terminal=terminal), np.random.default_rng(0)
    learner = draw_learner(mdp, rng, 0.3, residual, discount=discount)
    expert = TabularPolicy(solve_tightly(learner, TRUTH).log_policy)
    steps, weights = expected_steps(mdp, expert, horizon=30)
    config = FeatureMatchingConfig(learning_rate=3.0, tolerance=1e-7, max_steps=2000, discount=discount)
    estimate = match_features(learner, steps, weights, np.zeros(2), config)
    assert estimate.converged and estimate.gradient_norm < 1e-7
    assert 2 < estimate.solves < 2000
    assert_allclose(estimate.theta, TRUTH, rtol=0, atol=1e-4)
    found = estimate.policy.log_prob(steps.state, steps.action)
    assert_allclose(np.exp(found), np.exp(expert.log_prob(steps.state, steps.action)), rtol=0, atol=1e-4)


def test_matching_reports_where_it_stopped() -> None:
    """One solve at most: theta stays, and the norm is that of the difference of means there."""
    mdp = make_mdp(0)
    learner = ExactLearner(mdp, 0.3, horizon=20)
    expert = learner.solve(TRUTH)
    target = learner.mean_features()
    steps, weights = expected_steps(mdp, expert, horizon=20)
    start = np.array([0.2, 0.1])
    estimate = match_features(learner, steps, weights, start, FeatureMatchingConfig(max_steps=1))
    assert_array_equal(estimate.theta, start)
    assert (estimate.solves, estimate.converged) == (1, False)
    learner.solve(start)
    assert_allclose(estimate.gradient_norm, np.linalg.norm(target - learner.mean_features()), rtol=1e-6)

    at_goal = match_features(learner, steps, weights, TRUTH, FeatureMatchingConfig(tolerance=1e-6))
    assert (at_goal.solves, at_goal.converged) == (1, True)


def make_sticky(mdp: TabularMDP) -> TabularMDP:
    """The same, but that four moves in five do not come off: steps of an episode resemble each other."""
    stay = np.repeat(np.eye(mdp.n_states), mdp.n_actions, axis=0)
    transition = 0.2 * mdp.transition.toarray() + 0.8 * stay
    return TabularMDP(transition, mdp.features, mdp.initial, mdp.gamma, mdp.terminal)


@pytest.mark.parametrize(
    ("mdp", "n_episodes", "discount"),
    [
        (make_mdp(0), 60, 1.0),
        (make_mdp(0, terminal=5), 1500, 1.0),
        (make_sticky(make_mdp(0)), 400, 1.0),
        (make_mdp(0), 600, 0.5),
    ],
    ids=["endless", "terminal", "sticky", "discounted"],
)
def test_standard_errors_of_matching_are_the_spread_over_repeats(
    mdp: TabularMDP, n_episodes: int, discount: float
) -> None:
    learner = ExactLearner(mdp, 0.3, horizon=20, discount=discount)
    expert = learner.solve(TRUTH)
    config = FeatureMatchingConfig(learning_rate=10.0, tolerance=1e-4, max_steps=500, discount=discount)
    estimates = []
    for seed in range(80):
        steps = draw_steps(mdp, expert, np.random.default_rng(seed), n_episodes=n_episodes, horizon=20)
        estimates.append(match_features(learner, steps, np.ones(len(steps)), TRUTH, config))
    assert_errors_honest(estimates)


def assert_errors_honest(estimates: list[Any]) -> None:
    """The mean is within four of its standard errors; spread and stated errors agree within a quarter."""
    theta = np.array([estimate.theta for estimate in estimates])
    spread = theta.std(axis=0, ddof=1)
    assert (np.abs(theta.mean(axis=0) - TRUTH) < 4 * spread / np.sqrt(len(theta)) + 0.02).all()
    stated = np.sqrt(np.mean([estimate.standard_errors**2 for estimate in estimates], axis=0))
    assert_allclose(stated / spread, 1.0, rtol=0, atol=0.25)


@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_what_matching_cannot_know_has_an_infinite_error(discount: float) -> None:
    """A feature that is the same everywhere leaves its weight open."""
    plain = make_mdp(0)
    features = np.concatenate([plain.features, np.ones((6, 3, 1))], axis=2)
    mdp = TabularMDP(plain.transition, features, plain.initial, plain.gamma)
    learner = ExactLearner(mdp, 0.3, horizon=20, discount=discount)
    steps = draw_steps(
        mdp, learner.solve(np.append(TRUTH, 0.0)), np.random.default_rng(0), n_episodes=50, horizon=20
    )
    config = FeatureMatchingConfig(discount=discount)
    estimate = match_features(learner, steps, np.ones(len(steps)), np.zeros(3), config)
    assert estimate.standard_errors[2] == np.inf
    assert abs(estimate.theta[2]) < 1e-9


# Segment likelihood ----------------------------------------------------------------------------------------


def cut_out(mdp: TabularMDP, expert: TabularPolicy, n: int, seed: int) -> Steps:
    """n expert steps in segments of two, all begun in state 0, where the policy got to."""
    start = np.eye(mdp.n_states)[0]
    rng = np.random.default_rng(seed)
    return draw_steps(mdp, expert, rng, n_episodes=n // 2, horizon=2, initial=start)


@pytest.mark.parametrize("residual", [False, True], ids=["full", "residual"])
def test_the_error_of_segment_likelihood_shrinks_with_the_root_of_the_steps(residual: bool) -> None:
    mdp = make_mdp(0)
    learner = draw_learner(mdp, np.random.default_rng(0), 0.5, residual)
    expert = TabularPolicy(solve_tightly(learner, TRUTH).log_policy)
    sizes = np.array([200, 800, 3200, 12800])
    errors = []
    for n in sizes:
        thetas = [
            maximise_likelihood(learner, cut_out(mdp, expert, n, seed), np.zeros(2), FLAT).theta
            for seed in range(20)
        ]
        errors.append(np.sqrt(np.mean((np.array(thetas) - TRUTH) ** 2)))
    slope = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert -0.6 < slope < -0.4
    assert errors[-1] < 0.1


def test_standard_errors_of_segment_likelihood_are_the_spread_over_repeats() -> None:
    mdp = make_mdp(0)
    learner = ExactLearner(mdp, 0.5, horizon=20)
    expert = learner.solve(TRUTH)
    assert_errors_honest(
        [maximise_likelihood(learner, cut_out(mdp, expert, 1000, seed), TRUTH, FLAT) for seed in range(100)]
    )


def make_ring(n_cells: int) -> TabularMDP:
    """Cells in a ring, moves left, stay and right; the one feature is the carpet in cell 0."""
    targets = (np.arange(n_cells)[:, None] + [-1, 0, 1]) % n_cells
    transition = np.eye(n_cells)[targets.ravel()]
    features = np.zeros((n_cells, 3, 1))
    features[0] = 1.0
    return TabularMDP(transition, features, np.full(n_cells, 1 / n_cells), 0.9)


def test_matching_is_biased_on_segments_where_their_likelihood_is_not() -> None:
    """The expert dislikes the carpet, but takes over on it, to drive off: half of its steps lie there.

    Matching takes it for one who seeks the carpet: with any number of segments, the sign is wrong.
    """
    mdp, truth = make_ring(5), np.array([-1.0])
    learner = ExactLearner(mdp, 0.5, horizon=50)
    expert = learner.solve(truth)
    steps = cut_out(mdp, expert, 4000, seed=0)
    assert steps.features.mean() >= 0.5
    likelihood = maximise_likelihood(learner, steps, np.zeros(1), FLAT)
    matching = match_features(
        learner, steps, np.ones(len(steps)), np.zeros(1), FeatureMatchingConfig(max_steps=500)
    )
    assert matching.converged and matching.theta[0] > 0.3
    assert likelihood.standard_errors[0] < 0.1
    assert abs(likelihood.theta[0] - truth[0]) < 4 * likelihood.standard_errors[0]

    whole = draw_steps(mdp, expert, np.random.default_rng(1), n_episodes=400, horizon=50)
    on_whole = match_features(
        learner, whole, np.ones(len(whole)), np.zeros(1), FeatureMatchingConfig(max_steps=500, tolerance=1e-3)
    )
    assert abs(on_whole.theta[0] - truth[0]) < 4 * on_whole.standard_errors[0] < 0.4


@given(generators, st.integers(1, 6), st.floats(0.1, 3.0))
def test_few_steps_meet_the_prior_half_way(rng: np.random.Generator, n: int, sd: float) -> None:
    """At the maximum the score of the steps equals theta / sd^2, the pull of the prior."""
    mdp = make_mdp(0)
    learner = ExactLearner(mdp, 0.3, horizon=20)
    state, action = rng.integers(6, size=n), rng.integers(3, size=n)
    steps = make_steps(mdp.features[state, action], state=state, action=action)
    config = SegmentLikelihoodConfig(prior_sd=sd, max_iterations=60)
    estimate = maximise_likelihood(learner, steps, np.zeros(2), config)
    assert estimate.converged
    learner.solve(estimate.theta)
    assert_allclose(learner.scores(steps).sum(axis=0), estimate.theta / sd**2, rtol=0, atol=2e-3 * n)
    assert (estimate.standard_errors <= sd * (1 + 1e-9)).all()
    precision = learner.information(steps) + np.eye(2) / sd**2
    assert_allclose(estimate.standard_errors**2, np.diag(np.linalg.inv(precision)), rtol=1e-4)


def test_the_prior_pulls_towards_0_and_yields_to_many_steps() -> None:
    mdp = make_mdp(0)
    learner = ExactLearner(mdp, 0.3, horizon=20)
    expert = learner.solve(TRUTH)

    def fit(steps: Steps, sd: float) -> Array:
        return maximise_likelihood(learner, steps, TRUTH, SegmentLikelihoodConfig(prior_sd=sd)).theta

    one = make_steps(mdp.features[[1], [2]], state=np.array([1]), action=np.array([2]))
    lengths = [np.linalg.norm(fit(one, sd)) for sd in (0.01, 0.1, 0.5, 2.0)]
    assert (np.diff(lengths) > 0).all()
    learner.solve(np.zeros(2))
    assert_allclose(fit(one, 0.01) / 0.01**2, learner.scores(one).sum(axis=0), rtol=0.02)

    many = draw_steps(mdp, expert, np.random.default_rng(0), n_episodes=300, horizon=20)
    assert_allclose(fit(many, 0.5), fit(many, 50.0), rtol=0, atol=0.02)
    assert_allclose(fit(many, 0.5), TRUTH, rtol=0, atol=0.1)


def test_what_the_steps_cannot_tell_stays_as_the_prior_has_it() -> None:
    plain = make_mdp(0)
    features = np.concatenate([plain.features, np.ones((6, 3, 1))], axis=2)
    mdp = TabularMDP(plain.transition, features, plain.initial, plain.gamma)
    learner = ExactLearner(mdp, 0.3, horizon=20)
    steps = cut_out(mdp, learner.solve(np.append(TRUTH, 0.0)), 400, seed=0)
    estimate = maximise_likelihood(learner, steps, np.zeros(3), SegmentLikelihoodConfig(prior_sd=0.5))
    assert abs(estimate.theta[2]) < 1e-9
    assert_allclose(estimate.standard_errors[2], 0.5, rtol=1e-9)
    assert (estimate.standard_errors[:2] < 0.3).all()


@pytest.mark.parametrize("start", [[0.0, 0.0], [3.0, 2.0], [-2.0, 1.0]])
def test_the_likelihood_has_one_maximum_from_wherever_it_starts(start: list[float]) -> None:
    mdp = make_mdp(0)
    learner = ExactLearner(mdp, 0.3, horizon=20)
    steps = cut_out(mdp, learner.solve(TRUTH), 600, seed=0)
    from_truth = maximise_likelihood(learner, steps, TRUTH, SegmentLikelihoodConfig())
    estimate = maximise_likelihood(learner, steps, np.array(start), SegmentLikelihoodConfig())
    assert estimate.converged and estimate.solves > 1
    assert_allclose(estimate.theta, from_truth.theta, rtol=0, atol=1e-3)
    expected = solve_tightly(learner, estimate.theta).log_policy[steps.state, steps.action]
    assert_allclose(estimate.policy.log_prob(steps.state, steps.action), expected, rtol=0, atol=1e-5)


# Approximate learners --------------------------------------------------------------------------------------


class Noisy(ExactLearner):
    """Scores and mean features have normal noise, as those of a network do."""

    is_exact = False
    of_score = of_mean = 0.0

    def scores(self, steps: Steps) -> Array:
        noise = np.linalg.cholesky(self.information(steps)) @ self.draws.normal(size=2)
        return super().scores(steps) + self.of_score * noise / len(steps)

    def mean_features(self) -> Array:
        return super().mean_features() + self.of_mean * self.draws.normal(size=2)

    def mean_features_covariance(self) -> Array:
        return self.of_mean**2 * np.eye(2)


def make_noisy(seed: int) -> Noisy:
    learner = Noisy(make_mdp(0), 0.3, horizon=20)
    learner.draws = np.random.default_rng(seed)
    return learner


@pytest.mark.parametrize("seed", range(5))
def test_the_likelihood_of_a_noisy_learner_converges_to_within_the_noise(seed: int) -> None:
    """With scores half a standard error off, theta ends less than half a standard error from the maximum."""
    learner = make_noisy(seed)
    steps = cut_out(learner.mdp, learner.solve(TRUTH), 600, seed=0)
    config = SegmentLikelihoodConfig(max_iterations=60)
    top = maximise_likelihood(learner, steps, np.zeros(2), config).theta
    learner.of_score = 0.5
    found = maximise_likelihood(learner, steps, np.zeros(2), config)
    assert found.converged and 3 < found.solves < 60
    away = found.theta - top
    assert away @ learner.information(steps) @ away < 0.5**2
    short = SegmentLikelihoodConfig(max_iterations=2)
    assert not maximise_likelihood(learner, steps, np.zeros(2), short).converged


@pytest.mark.parametrize("seed", range(5))
def test_matching_does_not_chase_what_may_be_the_luck_of_the_rollouts(seed: int) -> None:
    learner = make_noisy(seed)
    steps, weights = expected_steps(learner.mdp, TabularPolicy(solve_tightly(learner, TRUTH).log_policy), 20)
    learner.of_mean = 0.02
    for errors, converged in ((1.0, True), (0.0, False)):
        config = FeatureMatchingConfig(3.0, tolerance=1e-4, tolerance_errors=errors, max_steps=200)
        found = match_features(learner, steps, weights, np.zeros(2), config)
        assert found.converged == converged
        learner.solve(found.theta)
        gap = ExactLearner.mean_features(learner) - weights @ steps.features / weights.sum()
        assert np.linalg.norm(gap) < 0.1
    assert found.solves == 200


# Refusals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("of_learner", "of_config"), [(0.9, 1.0), (1.0, 0.9)])
def test_mixed_weights_of_time_are_refused(of_learner: float, of_config: float) -> None:
    learner = ExactLearner(make_mdp(0), 0.3, horizon=20, discount=of_learner)
    message = f"the learner discounts by {of_learner} and feature matching by {of_config}"
    with pytest.raises(ValueError, match=re.escape(message)):
        match_features(
            learner,
            make_steps(np.ones((3, 2))),
            np.ones(3),
            np.zeros(2),
            FeatureMatchingConfig(discount=of_config),
        )


@pytest.mark.parametrize("of_expert", [0.9, 1.0])
@pytest.mark.parametrize("of_learner", [0.9, 1.0])
def test_only_equal_weights_of_time_leave_the_truth_where_it_is(of_expert: float, of_learner: float) -> None:
    """Why mixing is refused: at theta* the means meet only where both sides weigh time alike."""
    mdp = make_mdp(1)
    expert = ExactLearner(mdp, 0.3, horizon=20, discount=of_expert)
    learner = ExactLearner(mdp, 0.3, horizon=20, discount=of_learner)
    steps, weights = expected_steps(mdp, expert.solve(TRUTH), horizon=20)
    weights = weights * of_expert**steps.t / of_learner**steps.t
    config = FeatureMatchingConfig(max_steps=1, discount=of_learner)
    gap = match_features(learner, steps, weights, TRUTH, config).gradient_norm
    assert gap < 1e-6 if of_expert == of_learner else gap > 1e-3


def test_empty_expert_sets_are_refused() -> None:
    learner = ExactLearner(make_mdp(0), 0.3, horizon=20)
    steps = make_steps(np.ones((3, 2)))
    with pytest.raises(ValueError, match="the expert set is empty"):
        match_features(learner, steps, np.zeros(3), np.zeros(2), FeatureMatchingConfig())
    none = steps.select(np.zeros(3, dtype=bool))
    with pytest.raises(ValueError, match="the expert set is empty"):
        maximise_likelihood(learner, none, np.zeros(2), SegmentLikelihoodConfig())


@pytest.mark.parametrize(
    ("theta", "message"),
    [
        (np.zeros(3), "theta must have shape (2,), got (3,)"),
        (np.array([0.0, np.nan]), "theta must be finite, got 1 bad entries"),
    ],
)
def test_malformed_theta_is_refused(theta: Array, message: str) -> None:
    learner = ExactLearner(make_mdp(0), 0.3, horizon=20)
    steps = make_steps(np.ones((3, 2)))
    with pytest.raises(ValueError, match=re.escape(message)):
        match_features(learner, steps, np.ones(3), theta, FeatureMatchingConfig())
    with pytest.raises(ValueError, match=re.escape(message)):
        maximise_likelihood(learner, steps, theta, SegmentLikelihoodConfig())


def test_one_episode_says_nothing_about_the_spread_between_episodes() -> None:
    mdp = make_mdp(0)
    learner = ExactLearner(mdp, 0.5, horizon=10)
    policy = learner.solve(np.array([0.5, -0.5]))
    steps = draw_steps(mdp, policy, np.random.default_rng(0), n_episodes=1, horizon=10)
    found = match_features(learner, steps, np.ones(10), np.zeros(2), FeatureMatchingConfig(max_steps=2))
    assert np.isinf(found.standard_errors).all()


def test_an_action_that_the_prior_never_takes_is_refused() -> None:
    mdp = make_mdp(0)
    log_prior = np.log([[0.5, 0.5, 1e-300]] * 6)
    log_prior[:, 2] = -np.inf
    learner = ExactLearner(mdp, 0.5, horizon=10, log_prior=log_prior, scaled_prior_weight=0.5)
    steps = make_steps(mdp.features[[0, 0], [1, 2]], action=np.array([1, 2]))
    with pytest.raises(ValueError, match="an action that the prior never takes"):
        maximise_likelihood(learner, steps, np.zeros(2), SegmentLikelihoodConfig())


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        (FeatureMatchingConfig, {"learning_rate": 0.0}),
        (FeatureMatchingConfig, {"learning_rate": np.nan}),
        (FeatureMatchingConfig, {"tolerance": -0.1}),
        (FeatureMatchingConfig, {"max_steps": 0}),
        (FeatureMatchingConfig, {"max_steps": 2.5}),
        (FeatureMatchingConfig, {"discount": 1.1}),
        (SegmentLikelihoodConfig, {"prior_sd": 0.0}),
        (SegmentLikelihoodConfig, {"prior_sd": np.inf}),
        (SegmentLikelihoodConfig, {"max_iterations": 0}),
    ],
)
def test_settings_that_make_no_sense_are_refused(config: Any, settings: dict[str, float]) -> None:
    (name,) = settings
    with pytest.raises(ValueError, match=f"{name} must be (a finite number|an integer) .*, got"):
        config(**settings)


class Mistaken(ExactLearner):
    """Its scores are off by an error that all steps of an intervention share, as those of a network are."""

    is_exact = False

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.errors = np.zeros((0, 2))

    def scores(self, steps: Steps) -> Array:
        return super().scores(steps) + self.errors[steps.episode]


def test_standard_errors_of_a_mistaken_learner_know_of_its_mistakes() -> None:
    """By the spread over interventions 95 % intervals hold the truth; by information alone they do not."""
    learner = Mistaken(make_mdp(0), 0.5, horizon=20)
    expert = learner.solve(TRUTH)
    held = {"interventions": [], "information": []}
    for seed in range(200):
        steps = cut_out(learner.mdp, expert, 600, seed)
        spread = np.sqrt(np.diag(learner.information(steps)) / len(steps))
        learner.errors = np.random.default_rng(seed).normal(size=(steps.episode.max() + 1, 2)) * spread
        found = maximise_likelihood(learner, steps, TRUTH, FLAT)
        away = np.abs(found.theta - TRUTH)
        held["interventions"].append(away < 1.96 * found.standard_errors)
        by_information = np.sqrt(np.diag(np.linalg.inv(learner.information(steps))))
        held["information"].append(away < 1.96 * by_information)
        learner.solve(TRUTH)
    assert 0.92 < np.mean(held["interventions"]) < 0.98
    assert np.mean(held["information"]) < 0.8
