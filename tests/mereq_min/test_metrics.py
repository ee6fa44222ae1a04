"""Metrics: golden cases, coverage of intervals, invariances of the divergence and of the STARC distance."""

import itertools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import binomtest
from strategies import draw_table, generators, mdps
from toy import make_mdp

from mereq_min.mdp import Array, TabularMDP
from mereq_min.metrics import (
    bootstrap_mean,
    canonicalise,
    confirmed_rates,
    feature_divergence,
    paired_difference,
    samples_interval,
    samples_to_stay,
    samples_to_threshold,
    share_of_the_way,
    starc_distance,
)
from mereq_min.soft import discounted_sum

# Expert samples --------------------------------------------------------------------------------------------

RATES = [0.4, 0.1, 0.12, 0.05, 0.02]
SAMPLES = [100, 125, 155, 167, 172]


@pytest.mark.parametrize(
    ("threshold", "samples", "censored"),
    [
        (0.5, 100, False),
        (0.15, 125, False),  # the first time counts, though the rate rises again
        (0.1, 167, False),  # a rate equal to the threshold is not below it
        (0.05, 172, False),
        (0.02, 172, True),
        (0.0, 172, True),
    ],
)
def test_golden_samples_to_threshold(threshold: float, samples: int, censored: bool) -> None:
    assert samples_to_threshold(RATES, SAMPLES, threshold) == (samples, censored)


@pytest.mark.parametrize(("rates", "samples"), [([], []), ([0.1], []), ([0.1], [1, 2])])
def test_iterations_must_match(rates: Sequence[float], samples: Sequence[int]) -> None:
    with pytest.raises(ValueError, match=f"one entry per iteration.*{len(rates)} and {len(samples)}"):
        samples_to_threshold(rates, samples, 0.1)


def test_a_rate_counts_only_while_the_task_is_done_if_asked() -> None:
    """The policy that is watched is the one whose success the row before reports."""
    success = [0.95, 0.2, 0.3, 0.9, 1.0]
    rows = [
        {"intervention_rate": rate, "expert_samples": samples, "success": done}
        for rate, samples, done in zip([0.4, 0.2, 0.04, 0.03, 0.02], SAMPLES, success, strict=True)
    ]
    assert samples_interval([rows], 0.05)[0].mean == 155
    assert samples_interval([rows], 0.05, least_success=0.9) == (
        pytest.approx((172, np.nan, np.nan), nan_ok=True),
        0,
    )
    assert samples_interval([rows], 0.3, least_success=0.9)[0].mean == 125
    assert samples_interval([rows], 0.5, least_success=0.9)[0].mean == 125  # nothing is known of the first
    assert samples_interval([rows], 0.05, least_success=0.96)[1] == 1


@pytest.mark.parametrize(
    ("rates", "samples", "censored"),
    [
        ([0.4, 0.1, 0.04, 0.03, 0.02], 155, False),
        ([0.4, 0.04, 0.12, 0.04, 0.02], 167, False),  # the first crossing was luck
        ([0.04, 0.03, 0.02, 0.01, 0.00], 100, False),  # the prior already was good enough
        ([0.4, 0.04, 0.04, 0.04, 0.05], 172, True),  # equal to the threshold is not below it
        ([0.4, 0.1, 0.1, 0.1, 0.04], 172, True),  # nothing confirms the last rate
        ([0.4, 0.1, 0.04, 0.1, 0.04], 172, True),
    ],
)
def test_golden_samples_to_stay(rates: Sequence[float], samples: int, censored: bool) -> None:
    assert samples_to_stay(rates, SAMPLES, 0.05) == (samples, censored)


@pytest.mark.parametrize(("rates", "samples"), [([], []), ([0.1], []), ([0.1], [1, 2])])
def test_iterations_must_match_for_staying_too(rates: Sequence[float], samples: Sequence[int]) -> None:
    with pytest.raises(ValueError, match=f"one entry per iteration.*{len(rates)} and {len(samples)}"):
        samples_to_stay(rates, samples, 0.1)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0, 1))
def test_staying_takes_no_fewer_samples_than_crossing(rates: list[float], threshold: float) -> None:
    samples = list(range(10, 10 + len(rates)))
    cross, stay = (count(rates, samples, threshold) for count in (samples_to_threshold, samples_to_stay))
    assert stay.samples >= cross.samples
    assert stay.censored >= cross.censored
    if not stay.censored:
        assert max(rates[samples.index(stay.samples) :]) < threshold


def test_luck_of_one_rate_makes_crossings_early_and_staying_only_a_little_late() -> None:
    """A rate of 0.08 measured on 100 steps is below 0.05 in 10 % of iterations, and hardly ever stays so."""
    rng, runs = np.random.default_rng(0), 400
    rates = np.hstack([rng.binomial(100, 0.08, size=(runs, 10)) / 100, np.full((runs, 2), 0.01)])
    samples = list(range(12))
    crossed, stayed = (
        np.array([count(each, samples, 0.05).samples for each in rates])
        for count in (samples_to_threshold, samples_to_stay)
    )
    assert (crossed < 10).mean() > 0.5
    assert (stayed < 9).mean() < 0.02


def make_rows(rates: Sequence[float], **columns: Sequence[Any]) -> list[dict[str, Any]]:
    rows = [
        {"intervention_rate": rate, "expert_samples": samples}
        for rate, samples in zip(rates, SAMPLES, strict=True)
    ]
    for name, column in columns.items():
        for row, value in zip(rows, column, strict=True):
            row |= {} if value is None else {name: value}
    return rows


def test_a_crossing_counts_if_it_is_seen_twice() -> None:
    rates = [0.4, 0.04, 0.1, 0.03, 0.02]
    rows = make_rows(rates, remeasured_rate=[None, 0.09, None, 0.04, None])
    assert confirmed_rates(rows) == [0.4, 0.09, 0.1, 0.04, 0.02]
    for confirmed, samples in ((False, 125), (True, 167)):
        assert samples_interval([rows], 0.05, confirmed=confirmed)[0].mean == samples
    assert samples_interval([rows], 0.05, count=samples_to_stay)[0].mean == 167
    assert samples_interval([rows], 0.05, count=samples_to_stay, confirmed=True)[0].mean == 167


def test_an_idle_policy_does_not_count_though_its_rate_stays() -> None:
    rows = make_rows([0.4, 0.0, 0.0, 0.04, 0.03], success=[0.0, 0.0, 0.96, 0.97, 0.97])
    idle, able = (
        samples_interval([rows], 0.05, least_success=least, count=samples_to_stay)[0].mean
        for least in (0.0, 0.95)
    )
    assert (idle, able) == (125, 167)


# Pairs and shares ------------------------------------------------------------------------------------------


def test_golden_paired_difference() -> None:
    """Differences 1, 2 and 3: mean 2, standard error 1 / sqrt(3), Student's quantile 4.3027."""
    mean, low, high = paired_difference([11, 22, 33], [10, 20, 30])
    assert mean == 2.0
    assert_allclose([low, high], [2 - 4.302653 / np.sqrt(3), 2 + 4.302653 / np.sqrt(3)], rtol=1e-6)


@given(generators, st.integers(2, 20))
def test_what_pairs_share_cancels(rng: np.random.Generator, n: int) -> None:
    values, others, shared = rng.normal(size=n), rng.normal(size=n), 100 * rng.normal(size=n)
    found = paired_difference(values + shared, others + shared)
    assert_allclose(found, paired_difference(values, others), rtol=0, atol=1e-10)
    reverse = paired_difference(others, values)
    assert_allclose(found, [-reverse.mean, -reverse.high, -reverse.low], rtol=0, atol=1e-10)


DIFFERENCES: dict[str, Any] = {
    "normal": (lambda rng, shape: rng.normal(size=shape), 0.0),
    "heavy tails": (lambda rng, shape: rng.laplace(size=shape), 0.0),
    "gamma less gamma": (lambda rng, shape: rng.gamma(4, 1, shape) - rng.gamma(4, 0.5, shape), 2.0),
    "counts": (lambda rng, shape: rng.poisson(3, shape) - rng.poisson(1, shape), 2.0),
    "skewed": (lambda rng, shape: rng.lognormal(0, 0.4, shape) - 0.1 * rng.normal(size=shape), np.exp(0.08)),
}
"""How differences of expert samples may be distributed over seeds, and their true mean."""


@pytest.mark.parametrize("name", DIFFERENCES)
def test_the_interval_of_eight_pairs_covers_as_often_as_it_says(name: str) -> None:
    """Student's interval, which is why it was chosen; percentiles of a bootstrap are too narrow for eight."""
    draw, truth = DIFFERENCES[name]
    rng = np.random.default_rng(0)
    values = draw(rng, (4000, 8))
    intervals = np.array([paired_difference(each, np.zeros(8)) for each in values])
    covered = ((intervals[:, 1] <= truth) & (truth <= intervals[:, 2])).mean()
    assert 0.93 < covered < 0.97

    means = values[:500, rng.integers(8, size=(500, 8))].mean(axis=2)
    low, high = np.quantile(means, [0.025, 0.975], axis=1)
    assert ((low <= truth) & (truth <= high)).mean() < covered - 0.03


def test_a_single_pair_has_no_interval() -> None:
    mean, low, high = paired_difference([4.0], [1.0])
    assert (mean, np.isnan(low), np.isnan(high)) == (3.0, True, True)


@pytest.mark.parametrize(
    ("values", "others", "message"),
    [
        ([], [], "values must hold at least one number, got none"),
        ([1.0], [1.0, 2.0], "others must have shape (1,), got (2,)"),
        ([np.nan], [1.0], "values must be finite, got 1 bad entries"),
    ],
)
def test_paired_difference_refuses(values: Any, others: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        paired_difference(values, others)


@given(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3), st.floats(-2.0, 2.0))
def test_a_share_of_the_way_leads_back_to_the_value(start: float, end: float, share: float) -> None:
    assume(abs(end - start) > 1e-6)
    value = start + share * (end - start)
    assert_allclose(share_of_the_way(value, start, end), share, rtol=0, atol=1e-6)


def test_no_way_leads_from_a_return_to_itself() -> None:
    with pytest.raises(ValueError, match=r"start and end must differ, both are -3.0"):
        share_of_the_way(1.0, -3.0, -3.0)


# Bootstrap -------------------------------------------------------------------------------------------------


def test_bootstrap_meets_the_normal_interval_in_large_samples() -> None:
    rng = np.random.default_rng(0)
    values = rng.exponential(size=1500)
    error = values.std() / np.sqrt(len(values))
    for confidence, z in ((0.95, 1.960), (0.80, 1.2816)):
        mean, low, high = bootstrap_mean(values, rng, confidence)
        assert mean == values.mean()
        assert_allclose([low, high], [mean - z * error, mean + z * error], rtol=0, atol=0.08 * error)


def test_bootstrap_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(300):
        interval = bootstrap_mean(rng.normal(3.0, 2.0, size=40), rng, 0.9)
        covered += interval.low <= 3.0 <= interval.high
    # In 40 normal values the percentile interval is narrower than Student's by 4 %: it covers 88.5 %.
    assert binomtest(covered, 300, 0.885).pvalue > 1e-2


def test_bootstrap_of_one_value_has_no_interval() -> None:
    mean, low, high = bootstrap_mean([4.0], np.random.default_rng(0))
    assert (mean, np.isnan(low), np.isnan(high)) == (4.0, True, True)


@pytest.mark.parametrize("n", [2, 30])
def test_bootstrap_of_equal_values_has_no_width(n: int) -> None:
    assert bootstrap_mean([2.5] * n, np.random.default_rng(0)) == (2.5, 2.5, 2.5)


def test_bootstrap_is_reproducible_from_the_generator() -> None:
    values = np.random.default_rng(2).normal(size=30)
    first, again, other = (bootstrap_mean(values, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "values must hold at least one number, got none"),
        ([1.0, np.nan], "values must be finite, got 1 bad entries"),
        ([[1.0]], "values must have 1 axes, got shape (1, 1)"),
    ],
)
def test_bootstrap_refuses(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        bootstrap_mean(values, np.random.default_rng(0))


# Divergence of features ------------------------------------------------------------------------------------


def entropy(*probabilities: float) -> float:
    return -sum(p * np.log2(p) for p in probabilities if p > 0)


@pytest.mark.parametrize(
    ("a", "b", "bins", "expected"),
    [
        ([0, 0, 0], [1, 1], 20, 1.0),
        ([0, 1], [1, 1, 0, 0], 20, 0.0),
        ([3, 3], [3], 20, 0.0),
        ([0, 1], [0, 0], 20, entropy(3 / 4, 1 / 4) - 1 / 2),
        ([0, 0, 0, 1], [0, 1, 1, 1], 20, 1.0 - entropy(3 / 4, 1 / 4)),
        ([0, 1, 2, 2], [0, 0, 1, 1], 20, entropy(3 / 8, 3 / 8, 1 / 4) - 5 / 4),
        # What falls into one bin is alike; two bins over [0, 8] meet at 4.
        ([0, 8], [3, 5], 2, 0.0),
        ([0, 8], [3, 3], 2, entropy(3 / 4, 1 / 4) - 1 / 2),
        ([0, 8], [3, 5], 1, 0.0),
    ],
)
def test_golden_divergences_in_bits(a: list[float], b: list[float], bins: int, expected: float) -> None:
    columns = np.array(a, dtype=float)[:, None], np.array(b, dtype=float)[:, None]
    assert_allclose(feature_divergence(*columns, bins=bins), [expected], rtol=0, atol=1e-12)


def test_each_feature_is_compared_with_its_own_range() -> None:
    a = np.array([[0.0, 100.0, 7.0], [1.0, 200.0, 7.0]])
    b = np.array([[0.0, 200.0, 7.0], [0.0, 200.0, 7.0]])
    half = entropy(3 / 4, 1 / 4) - 1 / 2
    assert_allclose(feature_divergence(a, b), [half, half, 0.0], rtol=0, atol=1e-12)


@given(generators, st.integers(1, 30), st.integers(1, 30), st.integers(1, 3))
def test_divergence_is_symmetric_and_a_share_of_a_bit(
    rng: np.random.Generator, n: int, m: int, K: int
) -> None:
    a, b = rng.normal(size=(n, K)), rng.normal(size=(m, K))
    found = feature_divergence(a, b)
    assert found.shape == (K,)
    assert (found >= 0).all() and (found <= 1 + 1e-12).all()
    assert_allclose(found, feature_divergence(b, a), rtol=0, atol=1e-12)


@given(generators, st.integers(1, 12))
def test_weights_stand_for_repetition(rng: np.random.Generator, n: int) -> None:
    a, b = rng.normal(size=(n, 2)), rng.normal(size=(9, 2))
    times = rng.integers(1, 5, size=n)
    repeated = np.repeat(a, times, axis=0)
    assert_allclose(
        feature_divergence(a, b, a_weights=times), feature_divergence(repeated, b), rtol=0, atol=1e-12
    )
    assert_allclose(
        feature_divergence(b, a, b_weights=times), feature_divergence(b, repeated), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("scale", [1.0, 0.3, 1e-6])
def test_equal_distributions_do_not_diverge(scale: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        a, weights = rng.normal(size=(25, 2)), rng.random(25)
        found = feature_divergence(a, a, a_weights=weights, b_weights=scale * weights)
        assert_allclose(found, 0.0, rtol=0, atol=1e-12)
        assert (found >= 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"a": np.zeros((0, 2))}, "same K features, got shapes (0, 2) and (2, 2)"),
        ({"b": np.zeros((0, 2))}, "same K features, got shapes (3, 2) and (0, 2)"),
        ({"a": np.zeros((3, 1))}, "same K features, got shapes (3, 1) and (2, 2)"),
        ({"a": np.zeros(3)}, "a must have 2 axes, got shape (3,)"),
        ({"b": np.full((2, 2), np.nan)}, "b must be finite, got 4 bad entries"),
        ({"a_weights": np.ones(2)}, "a_weights must have shape (3,), got (2,)"),
        ({"b_weights": [1.0, np.inf]}, "b_weights must be finite, got 1 bad entries"),
    ],
)
def test_divergence_refuses(arguments: dict[str, Any], message: str) -> None:
    valid = {"a": np.ones((3, 2)), "b": np.zeros((2, 2))}
    with pytest.raises(ValueError, match=re.escape(message)):
        feature_divergence(**valid | arguments)


# STARC distance --------------------------------------------------------------------------------------------


def shape_reward(mdp: TabularMDP, reward: Array, rng: np.random.Generator) -> Array:
    """Add gamma E[Phi(s')] - Phi(s) for a random Phi that is 0 in terminal states."""
    potential = np.where(mdp.terminal, 0.0, rng.normal(scale=3.0, size=mdp.n_states))
    ahead = (mdp.transition.toarray() @ potential).reshape(reward.shape)
    return reward + mdp.gamma * ahead - potential[:, None]


def is_trivial(mdp: TabularMDP) -> bool:
    """Whether no reward tells policies apart, since there is nothing to choose."""
    return mdp.n_actions == 1 or bool(mdp.terminal.all())


@given(mdps(), generators, st.floats(-6.0, 6.0))
def test_distance_ignores_shaping_and_positive_scale(
    mdp: TabularMDP, rng: np.random.Generator, log_scale: float
) -> None:
    reward = draw_table(mdp, rng)
    other = 10.0**log_scale * shape_reward(mdp, reward, rng)
    assert_allclose(starc_distance(mdp, reward, other), 0.0, rtol=0, atol=1e-9)
    third = draw_table(mdp, rng)
    assert_allclose(starc_distance(mdp, third, other), starc_distance(mdp, third, reward), rtol=0, atol=1e-9)


@given(mdps(), generators)
def test_rewards_in_terminal_states_do_not_matter(mdp: TabularMDP, rng: np.random.Generator) -> None:
    reward = draw_table(mdp, rng)
    other = reward + mdp.terminal[:, None] * draw_table(mdp, rng)
    assert_allclose(starc_distance(mdp, reward, other), 0.0, rtol=0, atol=1e-12)
    assert_array_equal(canonicalise(mdp, reward)[mdp.terminal], 0.0)


@given(mdps(), generators)
def test_distance_is_a_metric_from_0_to_1(mdp: TabularMDP, rng: np.random.Generator) -> None:
    a, b, c = (draw_table(mdp, rng) for _ in range(3))
    ab, bc, ac = starc_distance(mdp, a, b), starc_distance(mdp, b, c), starc_distance(mdp, a, c)
    assert_allclose(starc_distance(mdp, b, a), ab, rtol=0, atol=1e-12)
    assert ac <= ab + bc + 1e-12
    assert -1e-12 <= ab <= 1.0 + 1e-12
    assert starc_distance(mdp, a, a) == 0.0


@given(mdps(), generators)
def test_the_opposite_reward_is_at_distance_1(mdp: TabularMDP, rng: np.random.Generator) -> None:
    assume(not is_trivial(mdp))
    reward = draw_table(mdp, rng)
    assert_allclose(starc_distance(mdp, reward, -shape_reward(mdp, reward, rng)), 1.0, rtol=0, atol=1e-9)


@given(mdps(), generators)
def test_trivial_rewards_are_alike_and_half_way_to_any_other(
    mdp: TabularMDP, rng: np.random.Generator
) -> None:
    nothing = np.zeros((mdp.n_states, mdp.n_actions))
    only_shaping = shape_reward(mdp, nothing, rng)
    assert starc_distance(mdp, nothing, only_shaping) == 0.0
    reward = draw_table(mdp, rng)
    for trivial in (nothing, only_shaping):
        expected = 0.0 if is_trivial(mdp) else 0.5
        assert_allclose(starc_distance(mdp, reward, trivial), expected, rtol=0, atol=1e-9)


@given(mdps(), generators)
def test_canonical_reward_is_the_uniform_policys_advantage(mdp: TabularMDP, rng: np.random.Generator) -> None:
    """It averages to 0 over actions, differs from the reward by shaping, and is its own canonical form."""
    reward = draw_table(mdp, rng)
    canonical = canonicalise(mdp, reward)
    uniform = np.full(reward.shape, -np.log(mdp.n_actions))
    size = 1.0 / (1.0 - mdp.gamma)
    assert_allclose(canonical.mean(axis=1), 0.0, rtol=0, atol=1e-12 * size)
    assert_allclose(discounted_sum(mdp, uniform, canonical), canonical, rtol=0, atol=1e-10 * size)
    value = np.where(mdp.terminal, 0.0, discounted_sum(mdp, uniform, reward).mean(axis=1))
    ahead = (mdp.transition.toarray() @ value).reshape(reward.shape)
    expected = np.where(mdp.terminal[:, None], 0.0, reward + mdp.gamma * ahead - value[:, None])
    assert_allclose(canonical, expected, rtol=0, atol=1e-10 * size)
    assert_allclose(canonicalise(mdp, canonical), canonical, rtol=0, atol=1e-10 * size)


def test_distance_by_hand() -> None:
    """One state: levelling takes the mean off, and the angle between what is left is 60 degrees."""
    mdp = TabularMDP(np.ones((3, 1)), np.zeros((1, 3, 1)), np.ones(1), 0.5)
    # (2, -1, -1) and (1, 1, -2) have cosine 3 / 6; half the chord of 60 degrees on the unit circle is 1/2.
    assert_allclose(starc_distance(mdp, [[3.0, 0.0, 0.0]], [[5.0, 5.0, 2.0]]), 0.5, rtol=1e-12)


def returns(mdp: TabularMDP, reward: Array) -> Array:
    """Discounted return from rho0 of each deterministic policy, in a fixed order."""
    found = []
    for choice in itertools.product(range(mdp.n_actions), repeat=mdp.n_states):
        chosen = np.arange(mdp.n_states) * mdp.n_actions + np.array(choice)
        chain = mdp.transition.toarray()[chosen]
        value = np.linalg.solve(np.eye(mdp.n_states) - mdp.gamma * chain, reward.ravel()[chosen])
        found.append(mdp.initial @ value)
    return np.array(found)


@pytest.mark.parametrize("seed", range(8))
def test_distance_is_0_exactly_where_all_policies_are_ordered_alike(seed: int) -> None:
    mdp = make_mdp(seed, S=4, A=3, gamma=0.8)
    rng = np.random.default_rng(seed)
    reward = draw_table(mdp, rng)
    value = returns(mdp, reward)

    alike = 2.5 * shape_reward(mdp, reward, rng)
    assert starc_distance(mdp, reward, alike) < 1e-12
    assert_array_equal(np.argsort(returns(mdp, alike)), np.argsort(value))
    assert np.argmax(returns(mdp, alike)) == np.argmax(value)

    for size in (0.1, 1.0):
        other = reward + size * draw_table(mdp, rng)
        assert starc_distance(mdp, reward, other) > 0.01 * size
        assert (np.argsort(returns(mdp, other)) != np.argsort(value)).any()


@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros((6, 2)), "must have shape (6, 3), got (6, 2)"),
        (np.full((6, 3), np.nan), "must be finite, got 18 bad entries"),
    ],
)
def test_distance_names_a_malformed_reward(position: int, value: Array, message: str) -> None:
    rewards = [np.ones((6, 3)), np.ones((6, 3))]
    rewards[position] = value
    with pytest.raises(ValueError, match=f"^{('reward', 'other')[position]} {re.escape(message)}"):
        starc_distance(make_mdp(0), *rewards)


def test_a_feature_that_is_constant_but_for_rounding_has_divergence_0() -> None:
    noise = 1.0 + np.array([[0.0], [2e-16], [-1e-16]])
    assert feature_divergence(noise, noise[:2]) == [0.0]
