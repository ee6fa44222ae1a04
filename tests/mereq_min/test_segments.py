"""MEReQ-S: pieces of interventions, features to come, moments without bias, and theta from them."""

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from tiny import make_tiny
from toy import draw_steps, make_mdp, make_steps

from mereq_min.exact import ExactLearner
from mereq_min.inverse import (
    FeatureMatchingConfig,
    SegmentLikelihoodConfig,
    SegmentMatchingConfig,
    _SegmentMoments,
    match_features,
    match_segments,
)
from mereq_min.mdp import Array, TabularMDP
from mereq_min.methods import METHODS, RobustInverseRL, make_aligner
from mereq_min.segments import cut
from mereq_min.steps import Steps

FLAT = SegmentLikelihoodConfig(prior_sd=1e3, least_step=1e-6, max_iterations=100)
"""A prior on theta too wide to matter."""


def make_learner(mdp: TabularMDP, horizon: int = 8) -> ExactLearner:
    return ExactLearner(mdp, 0.5, horizon=horizon)


# --- Pieces -----------------------------------------------------------------------------------------------


def test_an_intervention_is_cut_from_its_start_and_the_policy_gets_the_rest() -> None:
    by_expert = np.array([0, 1, 1, 1, 1, 1, 0, 0, 0, 0], dtype=bool)
    pieces = cut(make_steps(np.arange(10.0)[:, None], is_intervention=by_expert), longest=3, horizon=50)
    assert_array_equal(pieces.start, [1, 4])
    assert_array_equal(pieces.stop, [4, 6])
    assert_array_equal(pieces.steps, [3, 3])
    assert_array_equal(pieces.rest, [0, 1])
    assert_array_equal(pieces.segment, [0, 0])
    assert_array_equal(pieces.features[:, 0], [1 + 2 + 3, 4 + 5])


def test_a_piece_is_no_longer_than_the_episode_or_the_rollout() -> None:
    by_expert = np.array([0, 1, 0, 0, 0, 1, 0], dtype=bool)
    episode, t = np.array([0, 0, 0, 0, 1, 1, 1]), np.array([0, 1, 2, 3, 0, 1, 2])
    steps = make_steps(np.ones((7, 1)), is_intervention=by_expert, episode=episode, t=t)
    pieces = cut(steps, longest=5, horizon=4)
    assert_array_equal(pieces.steps, [3, 2])  # time limit; end of the rollout
    assert_array_equal(pieces.rest, [2, 1])


def test_the_end_of_a_rollout_does_not_depend_on_what_was_recorded_after_it() -> None:
    by_expert = np.array([0, 1, 0, 0, 1, 0], dtype=bool)
    columns: dict[str, Any] = {
        "is_intervention": by_expert,
        "episode": np.array([0, 0, 0, 1, 1, 1]),
        "t": np.array([0, 1, 2, 0, 1, 2]),
    }
    for ends in ({"policy_version": columns["episode"]}, {"seed": columns["episode"]}):
        pieces = cut(make_steps(np.ones((6, 1)), **{**columns, **ends}), longest=9, horizon=9)
        assert_array_equal(pieces.steps, [2, 2])


def test_after_a_terminal_state_or_a_gap_nothing_is_left() -> None:
    by_expert = np.array([1, 1, 1, 1, 0], dtype=bool)
    columns: dict[str, Any] = {
        "is_intervention": by_expert,
        "episode": np.array([0, 0, 1, 1, 1]),
        "t": np.array([0, 1, 0, 1, 4]),
        "terminated": np.array([0, 1, 0, 0, 0], dtype=bool),
    }
    pieces = cut(make_steps(np.ones((5, 1)), **columns), longest=4, horizon=9)
    assert_array_equal(pieces.rest, [0, 0])
    assert_array_equal(
        pieces.steps, [4, 2]
    )  # the policy might have lived on; what followed the gap is unknown


# --- Features to come -------------------------------------------------------------------------------------


def enumerate_paths(
    mdp: TabularMDP, policy: Array, state: int, n: int
) -> list[tuple[float, Array, list[Any]]]:
    """All paths of n steps or to a terminal state: probability, feature sum (K,), and states and actions."""
    if n == 0 or mdp.terminal[state]:
        return [(1.0, np.zeros(mdp.n_features), [])]
    P = mdp.transition.toarray().reshape(mdp.n_states, mdp.n_actions, -1)
    return [
        (policy[state, a] * P[state, a, s] * p, mdp.features[state, a] + total, [(state, a), *rest])
        for a, s in product(range(mdp.n_actions), range(mdp.n_states))
        for p, total, rest in enumerate_paths(mdp, policy, s, n - 1)
    ]


def test_sums_and_their_covariance_are_those_of_all_paths() -> None:
    mdp = make_mdp(3, S=3, A=2, terminal=[2])
    learner = make_learner(mdp)
    policy = np.exp(learner.solve(np.array([0.7, -1.0])).log_policy)
    steps = make_steps(np.zeros((2, 2)), state=np.array([0, 1]))
    rows, counts = np.array([0, 1, 0, 1]), np.array([4, 2, 1, 0])
    found = learner.feature_sums(steps, rows, counts, counts, 2)
    for i, (row, n) in enumerate(zip(rows, counts, strict=True)):
        paths = enumerate_paths(mdp, policy, int(steps.state[row]), int(n))
        p, sums = np.array([path[0] for path in paths]), np.array([path[1] for path in paths])
        mean = p @ sums
        assert_allclose(found.mean[i], mean, atol=1e-12)
        assert_allclose(found.covariance[i], (p * (sums - mean).T) @ (sums - mean), atol=1e-12)


@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 1000))
def test_derivatives_are_those_of_a_policy_that_varies_in_the_first_steps(
    n: int, varied: int, seed: int
) -> None:
    """Against numerical derivatives of a forward recursion over states."""
    mdp, rng = make_mdp(seed % 7, terminal=[4]), np.random.default_rng(seed)
    learner, theta, varied = make_learner(mdp), rng.normal(size=2), min(n, varied)
    P = mdp.transition.toarray().reshape(mdp.n_states, mdp.n_actions, -1)

    def collected(first: Array, later: Array) -> Array:
        state, total = np.eye(mdp.n_states)[0], np.zeros(2)
        for t in range(n):
            visits = np.where(mdp.terminal, 0.0, state)[:, None] * (first if t < varied else later)
            total = total + np.einsum("sa,sak->k", visits, mdp.features)
            state = np.einsum("sa,sat->t", visits, P)
        return total

    def policy(at: Array) -> Array:
        return np.exp(learner.solve(at).log_policy)

    now, h = policy(theta), 1e-4
    numerical = np.column_stack(
        [
            (collected(policy(theta + h * e), now) - collected(policy(theta - h * e), now)) / (2 * h)
            for e in np.eye(2)
        ]
    )
    learner.solve(theta)
    one = np.array([0])
    found = learner.feature_sums(make_steps(np.zeros((1, 2))), one, one + n, one + varied, 2)
    assert_allclose(found.mean[0], collected(now, now), atol=1e-12)
    assert_allclose(found.jacobian[0], numerical, atol=2e-5)


# --- Moments ----------------------------------------------------------------------------------------------


def test_moments_have_mean_zero_whenever_the_expert_hands_back() -> None:
    """Over all paths of an expert who hands back as soon as it is in a good state; then the policy goes on.

    Without the policy's rest the mean is not 0: the hand-back depends on what the expert collected.
    """
    mdp, n = make_mdp(1, S=3, A=2), 4
    learner, theta = make_learner(mdp, horizon=n), np.array([1.0, -0.5])
    paths = enumerate_paths(mdp, np.exp(learner.solve(theta).log_policy), 0, n)
    probability, pairs = np.array([path[0] for path in paths]), np.array([path[2] for path in paths])
    state, action = pairs[..., 0].ravel(), pairs[..., 1].ravel()
    by_expert = np.cumsum(pairs[..., 0] == 1, axis=1) == 0
    steps = make_steps(
        mdp.features[state, action],
        state=state,
        action=action,
        is_intervention=by_expert.ravel(),
        episode=np.repeat(np.arange(len(paths)), n),
        t=np.tile(np.arange(n), len(paths)),
    )
    pieces = cut(steps, n, n)
    assert 0 < (pieces.rest > 0).mean() < 1
    moments, _, _, _ = _SegmentMoments(learner, steps, pieces, FLAT, SegmentMatchingConfig(n)).measure()
    assert_allclose(probability @ moments, 0, atol=1e-12)
    length = pieces.stop - pieces.start
    unaided = pieces.features - learner.feature_sums(steps, pieces.start, length, length, 2).mean
    assert np.abs(probability @ unaided).max() > 0.02


def draw_whole(seed: int, n_episodes: int) -> tuple[TabularMDP, ExactLearner, Steps]:
    mdp = make_mdp(0)
    learner = make_learner(mdp)
    expert = learner.solve(np.array([1.0, -1.0]))
    return (
        mdp,
        learner,
        draw_steps(mdp, expert, np.random.default_rng(seed), n_episodes=n_episodes, horizon=8),
    )


def test_on_whole_episodes_it_matches_features_up_to_their_starts() -> None:
    """With starts weighed as rho0 weighs them, both solve the same equation."""
    mdp = make_mdp(0)
    learner = make_learner(mdp)
    starts = [draw_steps(mdp, learner.solve(np.array([1.0, -1.0])), np.random.default_rng(s), n_episodes=20,
              horizon=8, initial=np.eye(6)[s]) for s in range(6)]  # fmt: skip
    columns = {
        name: np.concatenate([part.columns()[name] + (20 * s if name == "episode" else 0)
                              for s, part in enumerate(starts)])
        for name in starts[0].columns() if name != "is_intervention"
    }  # fmt: skip
    steps = Steps(**columns, is_intervention=np.ones(len(columns["t"]), dtype=bool))
    by_segments = match_segments(learner, steps, np.zeros(2), FLAT, SegmentMatchingConfig(8), horizon=8)
    config = FeatureMatchingConfig(learning_rate=1.0, tolerance=1e-9, max_steps=3000)
    by_means = match_features(learner, steps, np.ones(len(steps)), np.zeros(2), config)
    assert by_segments.converged
    assert by_means.converged
    assert_allclose(by_segments.theta, by_means.theta, atol=1e-4)


def test_the_prior_keeps_features_that_no_action_changes_at_zero() -> None:
    mdp = make_mdp(0)
    features = np.concatenate([mdp.features, np.ones((6, 3, 1))], axis=2)
    mdp = TabularMDP(mdp.transition, features, mdp.initial, mdp.gamma, mdp.terminal)
    learner = make_learner(mdp)
    expert = learner.solve(np.array([1.0, -1.0, 0.0]))
    steps = draw_steps(mdp, expert, np.random.default_rng(0), n_episodes=30, horizon=8)
    found = match_segments(
        learner, steps, np.zeros(3), SegmentLikelihoodConfig(), SegmentMatchingConfig(), horizon=8
    )
    assert abs(found.theta[2]) < 1e-6
    assert found.standard_errors[2] == pytest.approx(0.5)


def plant(seed: int, n_episodes: int) -> Array:
    """Return theta - theta*, and its standard errors, where the expert hands back in two states of six."""
    mdp = make_mdp(0)
    learner = make_learner(mdp)
    expert = learner.solve(np.array([1.0, -1.0]))
    whole = draw_steps(mdp, expert, np.random.default_rng(seed), n_episodes=n_episodes, horizon=8)
    by_expert = np.zeros(len(whole), dtype=bool)
    for at in range(len(whole)):  # takes over at t = 2 and hands back in a good state
        before = whole.t[at] == 2 or (whole.t[at] > 2 and by_expert[at - 1])
        by_expert[at] = before and whole.state[at] not in (1, 3)
    steps = Steps(**{**whole.columns(), "is_intervention": by_expert})
    found = match_segments(learner, steps, np.zeros(2), FLAT, SegmentMatchingConfig(5), horizon=8)
    assert found.converged
    return np.array([found.theta - (1.0, -1.0), found.standard_errors])


def test_theta_is_consistent() -> None:
    """The error falls as one over the root of the number of interventions."""
    few, many = (np.array([plant(seed, n) for seed in range(6)]) for n in (100, 1600))
    assert np.abs(many[:, 0]).max() < 0.3
    ratio = np.sqrt((few[:, 0] ** 2).mean() / (many[:, 0] ** 2).mean())
    assert 2 < ratio < 8  # 4 in the limit
    assert_allclose(few[:, 1].mean() / many[:, 1].mean(), 4, rtol=0.3)


@pytest.mark.slow
def test_standard_errors_cover() -> None:
    """95 % intervals of 200 runs cover 0.95 and 0.89: with few interventions they are a little small."""
    errors = np.array([plant(seed, 200) for seed in range(100, 300)])
    covered = np.abs(errors[:, 0]) < 1.96 * errors[:, 1]
    assert np.all(covered.mean(axis=0) > 0.85)
    assert np.all(covered.mean(axis=0) < 0.99)
    assert np.all(np.abs(errors[:, 0].mean(axis=0)) < 0.3 * errors[:, 1].mean(axis=0))


def test_without_an_expert_step_there_is_nothing_to_match() -> None:
    steps = make_steps(np.ones((3, 2)), is_intervention=np.zeros(3, dtype=bool))
    with pytest.raises(ValueError, match="the expert set is empty"):
        match_segments(
            make_learner(make_mdp(0)), steps, np.zeros(2), FLAT, SegmentMatchingConfig(), horizon=8
        )


# --- The method -------------------------------------------------------------------------------------------


def test_a_task_that_cannot_copy_its_state_gets_the_robust_likelihood() -> None:
    class Fixed:
        """The tiny task, whose learner cannot start anywhere."""

        def __init__(self) -> None:
            self.task = make_tiny()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.task, name)

        def make_learner(self, *arguments: Any, **options: Any) -> Any:
            learner = self.task.make_learner(*arguments, **options)
            learner.can_restart = False
            return learner

    with pytest.warns(UserWarning, match="MEReQ-S falls back to MEReQ-R on tiny"):
        aligner = make_aligner(Fixed(), METHODS["MEReQ-S"])  # type: ignore[arg-type]
    assert isinstance(aligner, RobustInverseRL)
