"""A neural learner that reuses the first solve of an identical learner."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deep.learner import NeuralLearner
from mereq_min.interfaces import Policy
from mereq_min.validation import Array, check_array

FirstSolves = dict[Hashable, dict[str, NDArray[Any]]]
"""States of learners after their first solves, by all that these depend on."""


class SharingLearner(NeuralLearner):
    """`NeuralLearner` whose first solve is kept for the next learner that would do the same.

    The first solve takes by far the longest. All methods that infer a residual reward begin with that of
    theta 0, so that in one process with one seed it need be done only once. A restored learner goes on bit
    for bit, and so nothing changes but the time.

    Args:
        *arguments: those of `NeuralLearner`.
        shared: cache of solves; it keeps only the last one, because a replay buffer takes some megabytes.
        key: all that the first solve depends on, beside theta.
        **options: those of `NeuralLearner`.
    """

    def __init__(self, *arguments: Any, shared: FirstSolves, key: Hashable, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._shared, self._key = shared, key

    def solve(self, theta: Array) -> Policy:
        """Return the policy for theta (K,), warm-started from the last call."""
        if self._rollouts:
            return super().solve(theta)
        key = (self._key, check_array("theta", theta, ndim=1).tobytes())
        if key in self._shared:
            self.restore(self._shared[key])
        else:
            super().solve(theta)
            self._shared.clear()
            self._shared[key] = {name: np.array(array) for name, array in self.arrays().items()}
        return self.policy
