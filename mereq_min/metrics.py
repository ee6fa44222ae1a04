"""Measures of alignment: expert samples to a threshold, feature divergence, and distance between rewards.

A first crossing of a threshold can be luck, since the rate of an iteration is noisy. `samples_to_stay` counts
until all later rates are below it, too; `confirmed_rates` checks a crossing by a second measurement.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import rel_entr, stdtrit

from mereq_min.mdp import TabularMDP
from mereq_min.soft import discounted_sum
from mereq_min.validation import Array, check_array

THRESHOLDS = (0.05, 0.10, 0.15)
"""Thresholds delta of the intervention rate at which the paper counts expert samples."""


class SamplesToThreshold(NamedTuple):
    """Expert samples that one run took until its intervention rate fell below delta."""

    samples: int
    """Number of expert samples."""
    censored: bool
    """True if the rate never fell below delta; `samples` is then the run's total, a lower bound."""


def samples_to_threshold(
    intervention_rates: Sequence[float], expert_samples: Sequence[int], threshold: float
) -> SamplesToThreshold:
    """Count the expert samples until lambda < delta, the paper's measure of sample efficiency.

    Book: eq-samples.

    Args:
        intervention_rates: lambda of each iteration.
        expert_samples: cumulative expert samples after each iteration.
        threshold: delta.

    Raises:
        ValueError: if the run has no iterations or the sequences differ in length.
    """
    _check_iterations(intervention_rates, expert_samples)
    for rate, samples in zip(intervention_rates, expert_samples, strict=True):
        if rate < threshold:
            return SamplesToThreshold(int(samples), False)
    return SamplesToThreshold(int(expert_samples[-1]), True)


def samples_to_stay(
    intervention_rates: Sequence[float], expert_samples: Sequence[int], threshold: float
) -> SamplesToThreshold:
    """Count the expert samples until lambda < delta for the rest of the run.

    The run is censored unless at least one later rate confirms the first one that counts: a last rate below
    delta may be luck.

    Book: eq-samples-to-stay.

    Args:
        intervention_rates: lambda of each iteration.
        expert_samples: cumulative expert samples after each iteration.
        threshold: delta.

    Raises:
        ValueError: if the run has no iterations or the sequences differ in length.
    """
    _check_iterations(intervention_rates, expert_samples)
    above = [i for i, rate in enumerate(intervention_rates) if not rate < threshold]
    first = above[-1] + 1 if above else 0
    if first + 1 < len(intervention_rates):
        return SamplesToThreshold(int(expert_samples[first]), False)
    return SamplesToThreshold(int(expert_samples[-1]), True)


def confirmed_rates(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return lambda of each iteration of a run; where it was measured again, the larger of the two.

    `lab.runs.run.needs_remeasuring` chooses the policies to measure again: those that may have crossed a
    threshold by luck. `samples_to_threshold` of these rates therefore counts confirmed crossings only.

    Args:
        rows: the rows of the run.
    """
    return [max(row["intervention_rate"], row.get("remeasured_rate") or 0.0) for row in rows]


def _check_iterations(intervention_rates: Sequence[float], expert_samples: Sequence[int]) -> None:
    if len(intervention_rates) == 0 or len(intervention_rates) != len(expert_samples):
        raise ValueError(
            "intervention_rates and expert_samples must have one entry per iteration, at least one; got "
            f"{len(intervention_rates)} and {len(expert_samples)}"
        )


class Interval(NamedTuple):
    """A mean with its confidence interval."""

    mean: float
    """Mean of the values."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""


def bootstrap_mean(values: ArrayLike, rng: np.random.Generator, confidence: float = 0.95) -> Interval:
    """Mean over seeds with a percentile bootstrap interval (9,999 resamples, scipy).

    The interval of a single value is NaN, since nothing can be resampled; that of equal values has width 0.

    Raises:
        ValueError: if there are no values or one is not finite.
    """
    values = check_array("values", values, ndim=1)
    if len(values) == 0:
        raise ValueError("values must hold at least one number, got none")
    mean = float(values.mean())
    if len(values) == 1:
        return Interval(mean, np.nan, np.nan)
    from scipy.stats import bootstrap  # slow to import, and most programs never need it

    found = bootstrap(
        (values,), np.mean, confidence_level=confidence, n_resamples=9_999, method="percentile", rng=rng
    ).confidence_interval
    return Interval(mean, float(found.low), float(found.high))


def paired_difference(values: ArrayLike, others: ArrayLike, confidence: float = 0.95) -> Interval:
    """Mean of values - others, paired by seed, with Student's t-interval (1908).

    Methods that start from the prior share their first iteration, so that their difference varies less from
    seed to seed than either of them. With 8 pairs, the nominal 95 % interval has a coverage of 93 to 96 %,
    unless the differences are very skewed; the percentile bootstrap has 87 to 90 %.

    The interval of a single pair is NaN.

    Args:
        values: (n,) a measure of one method, by seed.
        others: (n,) that of the other method on the same seeds.
        confidence: nominal coverage probability.

    Raises:
        ValueError: if there are no values, one is not finite, or there are not as many others.
    """
    values = check_array("values", values, ndim=1)
    others = check_array("others", others, shape=values.shape)
    if len(values) == 0:
        raise ValueError("values must hold at least one number, got none")
    differences = values - others
    mean = float(differences.mean())
    if len(differences) == 1:
        return Interval(mean, np.nan, np.nan)
    error = float(differences.std(ddof=1)) / np.sqrt(len(differences))
    half = float(stdtrit(len(differences) - 1, (1 + confidence) / 2)) * error
    return Interval(mean, mean - half, mean + half)


def share_of_the_way(value: float, start: float, end: float) -> float:
    """Return the normalised score of a value: 0 at the start, 1 at the end.

    For returns under the expert's reward, the start is the prior's and the end the expert's own.

    Raises:
        ValueError: if start and end are equal.
    """
    if start == end:
        raise ValueError(f"start and end must differ, both are {start}; there is no way between them")
    return (value - start) / (end - start)


Count = Callable[[Sequence[float], Sequence[int], float], SamplesToThreshold]
"""`samples_to_threshold` or `samples_to_stay`."""


def samples_interval(
    runs: Sequence[Sequence[Mapping[str, Any]]],
    threshold: float,
    *,
    least_success: float = 0.0,
    count: Count = samples_to_threshold,
    confirmed: bool = False,
) -> tuple[Interval, int]:
    """Mean expert samples to a threshold with its 95 % bootstrap interval, and how many runs are censored.

    Args:
        runs: for each run, the rows of its iterations.
        threshold: delta.
        least_success: success that a policy must reach for its rate to count, since an expert who objects to
            one thing only also accepts a policy that no longer does the task. If it is above 0, the rate of
            the first policy never counts, because no row reports that policy's success.
        count: what is counted: until the first rate below the threshold, or until all later ones are.
        confirmed: whether a rate that was measured again counts only if it was low both times.
    """
    counts = [
        count_samples(rows, threshold, least_success=least_success, count=count, confirmed=confirmed)
        for rows in runs
    ]
    interval = bootstrap_mean([each.samples for each in counts], np.random.default_rng(0))
    return interval, sum(count.censored for count in counts)


def count_samples(
    rows: Sequence[Mapping[str, Any]],
    threshold: float,
    *,
    least_success: float = 0.0,
    count: Count = samples_to_threshold,
    confirmed: bool = False,
) -> SamplesToThreshold:
    """Expert samples of one run to a threshold; the arguments are those of `samples_interval`."""
    # The success of the policy that was watched is in the row before.
    achieved = [0.0, *(row["success"] for row in rows[:-1])] if least_success else [0.0] * len(rows)
    measured = confirmed_rates(rows) if confirmed else [row["intervention_rate"] for row in rows]
    rates = [
        rate if success >= least_success else np.inf for rate, success in zip(measured, achieved, strict=True)
    ]
    return count(rates, [row["expert_samples"] for row in rows], threshold)


def feature_divergence(
    a: ArrayLike,
    b: ArrayLike,
    *,
    a_weights: ArrayLike | None = None,
    b_weights: ArrayLike | None = None,
    bins: int = 20,
) -> Array:
    """Jensen-Shannon divergence between the distributions of each feature in two sets of steps, Lin (1991).

    Estimated from histograms with `bins` equal bins over the range of both sets; from 0 (equal) to 1 bit
    (disjoint).

    Args:
        a: (N, K) feature vectors.
        b: (M, K) feature vectors.
        a_weights: (N,) weights of the vectors, such as expected visits; default: equal weights.
        b_weights: (M,) likewise.
        bins: number of bins of the histograms.

    Returns:
        (K,) divergences [bits].

    Raises:
        ValueError: if a set is empty or malformed, or they have different numbers of features.
    """
    a, b = check_array("a", a, ndim=2), check_array("b", b, ndim=2)
    if len(a) == 0 or len(b) == 0 or a.shape[1] != b.shape[1]:
        raise ValueError(
            f"a and b must hold steps with the same K features, got shapes {a.shape} and {b.shape}"
        )
    p_weights, q_weights = _shares("a_weights", a_weights, len(a)), _shares("b_weights", b_weights, len(b))
    divergences = []
    for x, y in zip(a.T, b.T, strict=True):
        both = np.concatenate([x, y])
        if np.ptp(both) <= 1e-9 * np.abs(both).max():  # constant up to rounding
            divergences.append(0.0)
            continue
        edges = np.histogram_bin_edges(both, bins)
        p = np.histogram(x, edges, weights=p_weights)[0]
        q = np.histogram(y, edges, weights=q_weights)[0]
        middle = (p + q) / 2
        divergences.append(0.5 * (rel_entr(p, middle) + rel_entr(q, middle)).sum() / np.log(2))
    # Rounding can make the divergence of equal distributions slightly negative.
    return np.maximum(divergences, 0.0)


def _shares(name: str, weights: ArrayLike | None, n: int) -> Array:
    """Return weights (n,) scaled to sum to 1; equal weights if None."""
    weights = np.ones(n) if weights is None else check_array(name, weights, shape=(n,))
    if (weights < 0).any() or not weights.sum() > 0:
        raise ValueError(f"{name} must be at least 0 and not all 0, got {weights.min()} to {weights.max()}")
    return weights / weights.sum()


def canonicalise(mdp: TabularMDP, reward: Array) -> Array:
    """Return the canonical form of a reward: its advantage under the uniform policy.

    c(r)(s, a) = r(s, a) + gamma E[V(s')] - V(s), where V is the value of the uniform policy. Rewards that
    differ by potential shaping have the same canonical form. This is value-adjusted levelling (VAL) with the
    uniform policy, Skalse et al. (arXiv 2309.15257).

    Book: eq-canonical.

    Args:
        mdp: gives dynamics and discount.
        reward: (S, A) reward.

    Returns:
        (S, A) canonical reward; 0 in terminal states.
    """
    uniform = np.full(reward.shape, -np.log(mdp.n_actions))
    q = discounted_sum(mdp, uniform, reward)
    advantage = q - q.mean(axis=1, keepdims=True)
    return np.where(mdp.terminal[:, None], 0.0, advantage)


def starc_distance(mdp: TabularMDP, reward: ArrayLike, other: ArrayLike) -> float:
    """Return the STARC distance between two rewards: 0 if they rank all policies alike, at most 1.

    It is half the Euclidean distance between the canonical rewards, each scaled to norm 1, and so does not
    change with potential shaping or positive scaling. Skalse et al. (arXiv 2309.15257). A trivial reward,
    under which all policies have the same return, is at distance 0 from another trivial reward and at
    distance 1/2 from any other.

    Book: eq-starc.

    Args:
        mdp: gives dynamics and discount.
        reward: (S, A) reward.
        other: (S, A) reward.

    Raises:
        ValueError: on a malformed reward.
    """
    shape = (mdp.n_states, mdp.n_actions)
    standard: list[Array] = []
    for name, value in (("reward", reward), ("other", other)):
        given = check_array(name, value, shape=shape)
        given = np.ldexp(given, -np.frexp(np.abs(given).max())[1])  # no square overflows or underflows
        canonical = canonicalise(mdp, given)
        norm = np.linalg.norm(canonical)
        trivial = norm <= 1e-10 * np.linalg.norm(given)
        standard.append(np.zeros(shape) if trivial else canonical / norm)
    return float(0.5 * np.linalg.norm(standard[0] - standard[1]))
