"""What a watched rollout leaves behind: frozen columns, and the questions that are asked of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mereq_min.validation import Array

Mask = NDArray[np.bool_]
ExpertSet = Literal["expert", "expert + good-enough", "expert + policy"]


@dataclass(frozen=True, eq=False)
class Steps:
    """N environment steps as columns, in the order in which they were taken.

    The expert's action is `action` where `is_intervention`; the policy's own is kept beside it.

    Attributes:
        state: (N, ...) states in which the steps were taken.
        action: (N, ...) executed actions.
        policy_action: (N, ...) actions the policy took or, under the expert's control, would have taken.
        features: (N, K) feature vectors of (state, action).
        is_intervention: (N,) the expert controlled this step.
        episode: (N,) number of the episode.
        t: (N,) time within the episode, from 0 [steps].
        terminated: (N,) the step ended the episode in the MDP.
        truncated: (N,) the episode was cut here by its time limit or by the end of the rollout.
        policy_version: (N,) updates that the rolled-out policy had seen; 0 is the first policy.

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
        """The columns by name; `Steps(**steps.columns())` is the same data."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def select(self, mask: Mask) -> Steps:
        """The steps where `mask` (N,) holds."""
        return Steps(**{name: column[mask] for name, column in self.columns().items()})

    @property
    def intervention_start(self) -> Mask:
        """(N,) the steps at which the expert took over."""
        return self.is_intervention & ~self._shifted(self.is_intervention, 1)

    @property
    def intervention_rate(self) -> float:
        """Share of steps that the expert controlled, lambda.

        Book: eq-intervention-rate.

        Raises:
            ValueError: if there are no steps.
        """
        if len(self) == 0:
            raise ValueError("the intervention rate of no steps is undefined; roll out at least one")
        return float(self.is_intervention.mean())

    def segments(self) -> list[slice]:
        """Maximal runs of expert steps within one episode, as slices of the columns."""
        starts = np.flatnonzero(self.intervention_start)
        goes_on = self._shifted(self.is_intervention, -1)
        ends = np.flatnonzero(self.is_intervention & ~goes_on) + 1
        return [slice(int(a), int(b)) for a, b in zip(starts, ends, strict=True)]

    def good_enough(self, patience: int) -> Mask:
        """(N,) policy steps that the expert let pass: all but the `patience` steps before a takeover.

        Raises:
            ValueError: if `patience` is negative.
        """
        if patience < 0:
            raise ValueError(f"patience must not be negative, got {patience}")
        provoking = np.zeros(len(self), dtype=bool)
        for ahead in range(1, patience + 1):
            provoking |= self._shifted(self.intervention_start, -ahead)
        return ~self.is_intervention & ~provoking

    def _shifted(self, mask: Mask, by: int) -> Mask:
        """Row i holds mask[i - by] if that row is `by` steps earlier in the same episode, else False."""
        out = np.zeros(len(self), dtype=bool)
        if abs(by) < len(self):
            here, there = (
                (slice(by, None), slice(None, -by)) if by > 0 else (slice(None, by), slice(-by, None))
            )
            adjacent = (self.episode[here] == self.episode[there]) & (self.t[here] - self.t[there] == by)
            out[here] = mask[there] & adjacent
        return out


def concatenate(parts: Sequence[Steps]) -> Steps:
    """Join steps in order; the parts must not share episode numbers."""
    return Steps(
        **{name: np.concatenate([part.columns()[name] for part in parts]) for name in parts[0].columns()}
    )


def sample_weights(steps: Steps, expert_set: ExpertSet, patience: int) -> Array:
    """Weight (N,) of each step in the expert set of a method; 0 leaves it out.

    "expert": expert steps; "expert + good-enough": also what the expert let pass, each step alike (MEReQ);
    "expert + policy": expert and policy steps, reweighted to equal mass (IWR, Mandlekar et al. 2020).

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
    """Weight discount**t of a step at time t in a feature expectation; discount 1 weighs all steps alike.

    The one function behind both sides of feature matching: weighing time on one side only fits another
    reward.

    Book: eq-time-weights.
    """
    return np.power(discount, t)


def mean_features(steps: Steps, weights: Array, discount: float) -> Array:
    """Empirical feature expectation f_bar (K,) of weighted steps, Chen et al. (2025).

    Args:
        steps: the steps.
        weights: (N,) weights of the steps, not negative.
        discount: see `time_weights`.

    Raises:
        ValueError: if no step has weight.
    """
    weights = weights * time_weights(steps.t, discount)
    if not weights.sum() > 0:
        raise ValueError("the expert set is empty: no step has weight; roll out until the expert intervenes")
    return weights @ steps.features / weights.sum()
