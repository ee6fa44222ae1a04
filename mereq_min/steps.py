"""Environment steps of a watched rollout, as columns: segments, expert sets, and feature expectations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mereq_min.validation import Array, Mask, check_number

ExpertSet = Literal["expert", "expert + good-enough", "expert + policy"]
"""The steps that a method fits, see `sample_weights`."""


@dataclass(frozen=True, eq=False)
class Steps:
    """N environment steps as columns, in the order in which they were taken.

    Where `is_intervention` holds, `action` is the expert's; `policy_action` is what the policy proposed.

    Attributes:
        state: (N, ...) states in which the steps were taken.
        action: (N, ...) executed actions.
        policy_action: (N, ...) actions that the policy proposed, whoever was in control.
        features: (N, K) feature vectors of the steps.
        is_intervention: (N,) whether the expert controlled this step.
        episode: (N,) index of the episode.
        t: (N,) time within the episode, from 0 [steps].
        terminated: (N,) whether the step led to a terminal state.
        truncated: (N,) whether the episode was cut off here, by its time limit or by the end of the rollout.
        policy_version: (N,) number of updates before this rollout; 0 for the first policy.
        next_state: (N, ...) states after the steps, before any reset; the last one of an episode is in no
            other column. None if they were not recorded.
        seed: (N,) seed with which the environment was reset before the first step of a step's rollout; the
            resets after that go on with its random numbers. None if it was not recorded.

    Raises:
        ValueError: if the columns differ in length or time does not run forward within an episode.
    """

    state: NDArray[Any]
    action: NDArray[Any]
    policy_action: NDArray[Any]
    features: Array
    is_intervention: Mask
    episode: NDArray[np.int64]
    t: NDArray[np.int64]
    terminated: Mask
    truncated: Mask
    policy_version: NDArray[np.int64]
    next_state: NDArray[Any] | None = None
    seed: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        n = len(self.state)
        for name, column in self.columns().items():
            if len(column) != n:
                raise ValueError(f"{name} must have {n} rows like state, got {len(column)}")
        if self.features.ndim != 2:
            raise ValueError(f"features must have shape (N, K), got {self.features.shape}")
        same_episode = self.episode[1:] == self.episode[:-1]
        if (np.diff(self.t)[same_episode] <= 0).any():
            raise ValueError("t must increase within an episode; keep the steps in the order they were taken")

    def __len__(self) -> int:
        return len(self.state)

    def columns(self) -> dict[str, NDArray[Any]]:
        """Return the columns by name; `Steps(**steps.columns())` holds the same data.

        A column that was not recorded is left out.
        """
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: column for name, column in columns.items() if column is not None}

    def select(self, mask: Mask) -> Steps:
        """Return the steps where `mask` (N,) is true."""
        return Steps(**{name: column[mask] for name, column in self.columns().items()})

    @property
    def intervention_start(self) -> Mask:
        """(N,) mask of the steps at which the expert took over."""
        return self.is_intervention & ~self._shifted(self.is_intervention, 1)

    @property
    def intervention_rate(self) -> float:
        """Intervention rate lambda: the share of steps that the expert controlled.

        Book: eq-intervention-rate.

        Raises:
            ValueError: if there are no steps.
        """
        if len(self) == 0:
            raise ValueError("the intervention rate of no steps is undefined; roll out at least one")
        return float(self.is_intervention.mean())

    def segments(self) -> list[slice]:
        """Return the interventions (maximal runs of expert steps in an episode) as slices of the columns."""
        starts = np.flatnonzero(self.intervention_start)
        continues = self._shifted(self.is_intervention, -1)
        ends = np.flatnonzero(self.is_intervention & ~continues) + 1
        return [slice(int(a), int(b)) for a, b in zip(starts, ends, strict=True)]

    def good_enough(self, patience: int) -> Mask:
        """Return the mask (N,) of policy steps that the expert accepted.

        These are all policy steps but the `patience` steps just before each takeover, which provoked it.

        Raises:
            ValueError: if `patience` is negative.
        """
        check_number("patience", patience, 0, integer=True)
        provoking = np.zeros(len(self), dtype=bool)
        for ahead in range(1, patience + 1):
            provoking |= self._shifted(self.intervention_start, -ahead)
        return ~self.is_intervention & ~provoking

    def _shifted(self, mask: Mask, by: int) -> Mask:
        """Shift a mask (N,) in time within episodes; False where there is no row `by` steps before."""
        out = np.zeros(len(self), dtype=bool)
        if abs(by) < len(self):
            here, there = (
                (slice(by, None), slice(None, -by)) if by > 0 else (slice(None, by), slice(-by, None))
            )
            adjacent = (self.episode[here] == self.episode[there]) & (self.t[here] - self.t[there] == by)
            out[here] = mask[there] & adjacent
        return out


def concatenate(parts: Sequence[Steps]) -> Steps:
    """Join steps in order; no episode may appear in two parts.

    A column that one of the parts lacks is left out.
    """
    columns = [part.columns() for part in parts]
    shared = [name for name in columns[0] if all(name in each for each in columns)]
    return Steps(**{name: np.concatenate([each[name] for each in columns]) for name in shared})


def last_iteration(steps: Steps) -> Steps:
    """Return the steps of the last iteration: those with the latest policy version."""
    return steps.select(steps.policy_version == steps.policy_version.max())


def sample_weights(steps: Steps, expert_set: ExpertSet, patience: int) -> Array:
    """Return the weight (N,) of each step in the expert set of a method; steps of weight 0 are left out.

    "expert": expert steps, weight 1. "expert + good-enough": also the policy steps that the expert accepted,
    weight 1 (MEReQ). "expert + policy": all steps, the policy's scaled to the same total weight as the
    expert's (IWR, Mandlekar et al. 2020).

    Book: eq-expert-set.

    Raises:
        ValueError: if the expert set is unknown.
    """
    expert = steps.is_intervention.astype(np.float64)
    if expert_set == "expert":
        return expert
    if expert_set == "expert + good-enough":
        return expert + steps.good_enough(patience)
    if expert_set == "expert + policy":
        policy = 1.0 - expert
        return expert + policy * (expert.sum() / max(policy.sum(), 1.0))
    raise ValueError(f"expert_set must be one of {ExpertSet.__args__}, got {expert_set!r}")


def time_weights(t: NDArray[np.int64], discount: float) -> Array:
    """Return discount**t, the weight of a step at time t in a feature expectation.

    Feature matching uses this function for the expert and for the policy: weighing time on one side only
    would fit another reward. With discount 1 all steps count the same.

    Book: eq-time-weights.
    """
    return np.power(discount, t)


def ratio_covariance(deviations: Array, weight: float) -> Array:
    """Return the covariance (K, K) of the sampling errors of a weighted mean over steps of whole episodes.

    Such a mean is a ratio of two sums over independent episodes, each of which counts by the sum of its
    weighted deviations (Cochran, Sampling Techniques, 1977, chapter 6).

    Args:
        deviations: (n, K) sums over each episode of weight times deviation from the mean.
        weight: sum of the weights of all steps.

    Returns:
        The covariance; infinite for one episode.
    """
    n = len(deviations)
    if n == 1:
        return np.full((deviations.shape[1],) * 2, np.inf)
    return n / (n - 1) * deviations.T @ deviations / weight**2


def mean_features(steps: Steps, weights: Array, discount: float) -> Array:
    """Return the weighted mean f_bar (K,) of the features of steps, Chen et al. (2025).

    Args:
        steps: the steps.
        weights: (N,) weights of the steps, at least 0.
        discount: discount of `time_weights`.

    Raises:
        ValueError: if no step has weight.
    """
    weights = weights * time_weights(steps.t, discount)
    if not weights.sum() > 0:
        raise ValueError("the expert set is empty: no step has weight; roll out until the expert intervenes")
    return weights @ steps.features / weights.sum()
