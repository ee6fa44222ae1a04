"""Steps: golden tables of segments, takeovers and expert sets, their algebra, and feature expectations."""

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from toy import make_steps

from mereq_min.steps import (
    Steps,
    concatenate,
    mean_features,
    ratio_covariance,
    sample_weights,
    time_weights,
)
from mereq_min.validation import Mask

episodes = st.lists(st.text("PE", min_size=1, max_size=9), max_size=5).map("|".join)
"""Who controlled each step of a few episodes, such as "PPE|EP"."""


def watched(who: str) -> Steps:
    """Steps of which the policy took those marked P, the expert those marked E; `|` ends an episode."""
    runs = [run for run in who.split("|") if run]
    n = sum(map(len, runs))
    return make_steps(
        np.column_stack([np.arange(n), np.ones(n)]),
        state=np.arange(n),
        action=100 + np.arange(n),
        policy_action=200 + np.arange(n),
        is_intervention=np.array([c == "E" for run in runs for c in run], dtype=bool),
        episode=np.repeat(np.arange(len(runs)), [len(run) for run in runs]),
        t=np.array([t for run in runs for t in range(len(run))], dtype=np.int64),
        policy_version=np.arange(n) // 3,
    )


def marked(mask: Mask, who: str) -> str:
    """Write a mask as x and . in the layout of `who`."""
    marks = iter(mask)
    return "".join(c if c == "|" else ".x"[int(next(marks))] for c in who)


# Golden tables ---------------------------------------------------------------------------------------------

TABLE = [
    # who controlled, takeovers, good enough with patience 0, 1 and 2
    ("PPP", "...", "xxx", "xxx", "xxx"),
    ("EEE", "x..", "...", "...", "..."),
    ("PPPE", "...x", "xxx.", "xx..", "x..."),
    ("PEP", ".x.", "x.x", "..x", "..x"),
    ("PPEEP", "..x..", "xx..x", "x...x", "....x"),
    # A takeover at an episode's start is not provoked by the end of the episode before.
    ("PPP|EPP", "...|x..", "xxx|.xx", "xxx|.xx", "xxx|.xx"),
    ("PPP|PEP", "...|.x.", "xxx|x.x", "xxx|..x", "xxx|..x"),
    # Neighbouring episodes under the expert are two takeovers.
    ("PPE|EEP", "..x|x..", "xx.|..x", "x..|..x", "...|..x"),
    # The patience reaches back over an earlier segment.
    ("PPPPEPE", "....x.x", "xxxx.x.", "xxx....", "xx....."),
    ("PPPEPPE", "...x..x", "xxx.xx.", "xx..x..", "x......"),
    ("", "", "", "", ""),
]


@pytest.mark.parametrize(("who", "starts", *("good_0", "good_1", "good_2")), TABLE)
def test_golden_takeovers_and_good_enough_steps(
    who: str, starts: str, good_0: str, good_1: str, good_2: str
) -> None:
    steps = watched(who)
    assert marked(steps.intervention_start, who) == starts
    found = [marked(steps.good_enough(patience), who) for patience in range(3)]
    assert found == [good_0, good_1, good_2]


@pytest.mark.parametrize(
    ("who", "segments"),
    [
        ("PPP|P", []),
        ("EEE", [(0, 3)]),
        ("PEEP|EP|PPPE", [(1, 3), (4, 5), (9, 10)]),
        ("PE|EP", [(1, 2), (2, 3)]),
        ("EPE|E|E", [(0, 1), (2, 3), (3, 4), (4, 5)]),
        ("", []),
    ],
)
def test_golden_segments(who: str, segments: list[tuple[int, int]]) -> None:
    assert watched(who).segments() == [slice(a, b) for a, b in segments]


@pytest.mark.parametrize(("who", "rate"), [("PPP", 0.0), ("EE", 1.0), ("PPEE|P", 0.4)])
def test_intervention_rate_is_the_experts_share(who: str, rate: float) -> None:
    assert watched(who).intervention_rate == rate


@pytest.mark.parametrize(
    ("expert_set", "patience", "who", "weights"),
    [
        ("expert", 1, "PPEEP|PE", [0, 0, 1, 1, 0, 0, 1]),
        ("expert + good-enough", 0, "PPEEP|PE", [1, 1, 1, 1, 1, 1, 1]),
        ("expert + good-enough", 1, "PPEEP|PE", [1, 0, 1, 1, 1, 0, 1]),
        ("expert + policy", 1, "PPEEP|PE", [0.75, 0.75, 1, 1, 0.75, 0.75, 1]),
        ("expert + policy", 1, "EEP", [1, 1, 2]),
        ("expert + policy", 1, "EE", [1, 1]),
        ("expert + policy", 1, "PP", [0, 0]),
    ],
)
def test_golden_weights_of_the_expert_sets(
    expert_set: Any, patience: int, who: str, weights: list[float]
) -> None:
    assert_array_equal(sample_weights(watched(who), expert_set, patience), weights)


# Properties ------------------------------------------------------------------------------------------------


@given(episodes)
def test_segments_partition_the_expert_steps_into_maximal_runs(who: str) -> None:
    steps = watched(who)
    times_covered = np.zeros(len(steps), dtype=int)
    for segment in steps.segments():
        times_covered[segment] += 1
        assert len(set(steps.episode[segment])) == 1
        for neighbour in (segment.start - 1, segment.stop):
            inside = 0 <= neighbour < len(steps)
            if inside and steps.episode[neighbour] == steps.episode[segment.start]:
                assert not steps.is_intervention[neighbour]
    assert_array_equal(times_covered, steps.is_intervention)


@given(episodes, st.integers(0, 12))
def test_expert_provoking_and_good_enough_steps_partition_the_steps(who: str, patience: int) -> None:
    steps = watched(who)
    provoking = np.zeros(len(steps), dtype=bool)
    for segment in steps.segments():
        for i in range(max(segment.start - patience, 0), segment.start):
            same_episode = steps.episode[i] == steps.episode[segment.start]
            provoking[i] |= same_episode and not steps.is_intervention[i]
    parts = np.array([steps.is_intervention, provoking, steps.good_enough(patience)])
    assert_array_equal(parts.sum(axis=0), 1)


@given(episodes)
def test_iwr_gives_expert_and_policy_equal_mass(who: str) -> None:
    steps = watched(who)
    weights = sample_weights(steps, "expert + policy", patience=1)
    expert, policy = weights[steps.is_intervention], weights[~steps.is_intervention]
    assert_array_equal(expert, 1.0)
    if len(policy) > 0:
        assert_allclose(policy.sum(), expert.sum(), rtol=1e-12)
        assert len(set(policy)) == 1


@given(st.lists(st.text("PE", min_size=1, max_size=5), min_size=1, max_size=6), st.data())
def test_concatenate_undoes_a_split_between_episodes(runs: list[str], data: st.DataObject) -> None:
    whole = watched("|".join(runs))
    cut = data.draw(st.integers(0, len(runs)))
    parts = [whole.select(whole.episode < cut), whole.select(whole.episode >= cut)]
    for name, column in concatenate(parts).columns().items():
        assert_array_equal(column, whole.columns()[name])
        assert column.dtype == whole.columns()[name].dtype


def test_select_keeps_whole_rows() -> None:
    steps = watched("PE|EPP")
    chosen = steps.select(np.array([False, True, True, False, True]))
    assert_array_equal(chosen.state, [1, 2, 4])
    assert_array_equal(chosen.action, [101, 102, 104])
    assert_array_equal(chosen.policy_action, [201, 202, 204])
    assert_array_equal(chosen.features, [[1, 1], [2, 1], [4, 1]])
    assert_array_equal(chosen.is_intervention, [True, True, False])
    assert_array_equal(chosen.episode, [0, 1, 1])
    assert_array_equal(chosen.t, [1, 0, 2])
    assert_array_equal(chosen.policy_version, [0, 0, 1])


def test_next_states_go_with_their_steps_and_are_left_out_where_a_part_lacks_them() -> None:
    plain = watched("PE|EPP")
    whole = Steps(**plain.columns(), next_state=plain.state + 1)
    assert "next_state" not in plain.columns()
    assert_array_equal(whole.columns()["next_state"], [1, 2, 3, 4, 5])
    assert_array_equal(whole.select(whole.episode == 1).columns()["next_state"], [3, 4, 5])
    first, second = whole.select(whole.episode == 0), whole.select(whole.episode == 1)
    assert_array_equal(concatenate([first, second]).columns()["next_state"], whole.columns()["next_state"])
    for parts in ([first, plain.select(plain.episode == 1)], [plain.select(plain.episode == 0), second]):
        assert concatenate(parts).next_state is None
    with pytest.raises(ValueError, match=r"^next_state must have 5 rows like state, got 4$"):
        Steps(**plain.columns(), next_state=plain.state[:4])


# Feature expectations --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("discount", "weights"), [(1.0, [1, 1, 1, 1]), (0.5, [1, 0.5, 0.25, 0.125]), (0.0, [1, 0, 0, 0])]
)
def test_golden_time_weights(discount: float, weights: list[float]) -> None:
    assert_array_equal(time_weights(np.arange(4), discount), weights)


@pytest.mark.parametrize(
    ("discount", "weights", "expected"),
    [
        (1.0, [1, 1, 1], [2.0, 1.0]),
        (1.0, [0, 0, 2], [3.0, 0.0]),
        (1.0, [1, 0, 3], [2.5, 0.0]),
        # The second episode begins at t = 0 again: weights 1, 1/2, 1.
        (0.5, [1, 1, 1], [1.0 / 2.5 + 2.0 / 5.0 + 3.0 / 2.5, 1.5 / 2.5]),
        (0.5, [0, 4, 1], [(2 * 2 + 1 * 3) / 3, 2.0]),
    ],
)
def test_golden_mean_features(discount: float, weights: list[float], expected: list[float]) -> None:
    steps = make_steps([[1, 0], [2, 3], [3, 0]], episode=np.array([0, 0, 1]), t=np.array([0, 1, 0]))
    assert_allclose(mean_features(steps, np.array(weights), discount), expected, rtol=1e-15)


def test_mixed_weights_of_time_do_not_meet() -> None:
    """A feature that fades is seen twice as often by the side that discounts: the planted mistake."""
    steps = make_steps([[1], [0], [0], [0]])
    everything = np.ones(4)
    assert_allclose(mean_features(steps, everything, 1.0), [1 / 4])
    assert_allclose(mean_features(steps, everything, 0.5), [8 / 15])


# Refusals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in watched("P").columns() if name != "state"])
def test_columns_of_another_length_are_named(name: str) -> None:
    columns = watched("PEP|EP").columns()
    with pytest.raises(ValueError, match=f"^{name} must have 5 rows like state, got 4$"):
        Steps(**columns | {name: columns[name][:4]})


def test_features_must_be_vectors() -> None:
    columns = watched("PEP").columns()
    with pytest.raises(ValueError, match=re.escape("features must have shape (N, K), got (3,)")):
        Steps(**columns | {"features": np.ones(3)})


@pytest.mark.parametrize("t", [[0, 1, 1, 0, 1], [0, 2, 1, 0, 1], [0, 1, 2, 1, 0]])
def test_time_must_run_forward_within_an_episode(t: list[int]) -> None:
    columns = watched("PEP|EP").columns()
    with pytest.raises(ValueError, match="t must increase within an episode"):
        Steps(**columns | {"t": np.array(t)})


def test_episodes_may_have_gaps_in_time() -> None:
    columns = watched("PEP|EP").columns()
    assert len(Steps(**columns | {"t": np.array([3, 7, 8, 0, 9])})) == 5


def test_parts_that_share_an_episode_are_refused() -> None:
    steps = watched("PEP")
    with pytest.raises(ValueError, match="t must increase within an episode"):
        concatenate([steps, steps])


def test_no_steps_have_no_intervention_rate() -> None:
    with pytest.raises(ValueError, match="intervention rate of no steps"):
        _ = watched("").intervention_rate


def test_negative_patience_is_refused() -> None:
    with pytest.raises(ValueError, match="patience must be an integer at least 0, got -1"):
        watched("PE").good_enough(-1)


def test_unknown_expert_set_is_refused() -> None:
    expert_set: Any = "experts"
    with pytest.raises(ValueError, match=r"one of \('expert', .*\), got 'experts'"):
        sample_weights(watched("PE"), expert_set, 1)


@pytest.mark.parametrize("weights", [[0.0, 0.0], [np.nan, 1.0]])
def test_mean_features_of_an_empty_expert_set_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="the expert set is empty"):
        mean_features(watched("PE"), np.array(weights), 1.0)


def test_late_steps_alone_vanish_under_full_discounting() -> None:
    """With discount 0 only t = 0 counts, so that a set of later steps is as good as empty."""
    with pytest.raises(ValueError, match="the expert set is empty"):
        mean_features(watched("PE"), np.array([0.0, 1.0]), 0.0)


def test_steps_that_were_apart_are_not_joined_by_a_selection() -> None:
    features, controlled = np.zeros((6, 1)), np.array([True, True, False, False, True, True])
    steps = make_steps(features, is_intervention=controlled)
    expert = steps.select(steps.is_intervention)
    assert expert.segments() == [slice(0, 2), slice(2, 4)]


def test_the_covariance_of_a_ratio_is_the_spread_over_repeats() -> None:
    """Episodes of random length, whose features depend on the length."""
    rng = np.random.default_rng(0)
    means, stated = [], []
    for _ in range(2_000):
        length = rng.integers(1, 8, size=50)
        sums = length[:, None] * np.column_stack([length, rng.normal(size=50)])
        mean = sums.sum(axis=0) / length.sum()
        means.append(mean)
        stated.append(ratio_covariance(sums - length[:, None] * mean, length.sum()))
    assert_allclose(np.mean(stated, axis=0), np.cov(np.array(means).T), rtol=0.1, atol=2e-3)


def test_one_episode_says_nothing_of_its_own_error() -> None:
    assert np.isinf(ratio_covariance(np.zeros((1, 2)), 3.0)).all()
