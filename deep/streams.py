"""Independent streams of random numbers for the parts of a learner, which share one seed."""

from __future__ import annotations

from typing import Literal
from zlib import crc32

import numpy as np

Purpose = Literal["rollouts", "paths", "updates", "draws", "training"]
"""Purposes for which a learner draws random numbers."""


def stream(seed: int, purpose: Purpose, number: int) -> np.random.Generator:
    """Return a generator whose numbers depend on its three arguments alone.

    The parts of a learner count their calls by themselves. If they drew from `default_rng([seed, number])`,
    one part's numbers would be another's.

    Args:
        seed: seed of the learner.
        purpose: what the numbers are for.
        number: counter that tells calls for this purpose apart, such as the number of updates so far.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(crc32(purpose.encode()), number)))
