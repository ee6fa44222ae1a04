"""Interventions cut into pieces, after each of which the policy would have had some steps left."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mereq_min.steps import Steps
from mereq_min.validation import Array


@dataclass(frozen=True, eq=False)
class Pieces:
    """Pieces of the interventions in some steps.

    Attributes:
        start: (n,) row of a piece's first step.
        stop: (n,) row after its last step.
        steps: (n,) steps that a policy takes from the state of row `start`, at least stop - start.
        rest: (n,) those that are left from the state of row `stop`; 0 if the piece is not cut short, or ends
            in a terminal state.
        segment: (n,) index of the intervention to which it belongs.
        features: (n, K) sums of the expert's features.
    """

    start: NDArray[np.intp]
    stop: NDArray[np.intp]
    steps: NDArray[np.int64]
    rest: NDArray[np.int64]
    segment: NDArray[np.intp]
    features: Array


def cut(steps: Steps, longest: int, horizon: int) -> Pieces:
    """Cut each intervention into pieces, from its first step on.

    A piece is meant to last `longest` steps, or fewer where the time limit or the end of the rollout comes
    first. The last piece of an intervention is cut short by the hand-back; the rest is left to the policy.

    Args:
        steps: whole rollouts.
        longest: most steps of a piece [steps].
        horizon: time limit of an episode [steps].
    """
    segments = steps.segments()
    start = np.concatenate([np.arange(each.start, each.stop, longest) for each in segments]).astype(np.intp)
    segment = np.repeat(
        np.arange(len(segments)), [-((each.start - each.stop) // longest) for each in segments]
    )
    stop = np.minimum(start + longest, np.array([each.stop for each in segments])[segment])
    end = _last_rows(steps) + 1
    planned = np.minimum(np.minimum(longest, horizon - steps.t[start]), end[start] - start)
    length = stop - start
    after = np.minimum(stop, len(steps) - 1)
    goes_on = (stop < end[start]) & (steps.episode[after] == steps.episode[start])
    goes_on &= steps.t[after] - steps.t[start] == length
    rest = np.where(goes_on, planned - length, 0)
    # What follows a gap in the record is unknown: the plan of such a piece ends where the record ends.
    is_plan_known = goes_on | steps.terminated[stop - 1]
    planned = np.where(is_plan_known, planned, length)
    features = [steps.features[a:b].sum(axis=0) for a, b in zip(start, stop, strict=True)]
    return Pieces(start, stop, planned, rest, segment, np.array(features))


def _last_rows(steps: Steps) -> NDArray[np.intp]:
    """Return the last row (N,) of the rollout of each step."""
    ends = steps.policy_version[1:] != steps.policy_version[:-1]
    if steps.seed is not None:
        ends |= steps.seed[1:] != steps.seed[:-1]
    last = np.append(np.flatnonzero(ends), len(steps) - 1)
    return last[np.searchsorted(last, np.arange(len(steps)))]
