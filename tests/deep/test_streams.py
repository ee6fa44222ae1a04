"""Streams of random numbers: repeatable, and different for every seed, purpose and number."""

from itertools import product
from typing import get_args

import numpy as np

from deep.streams import Purpose, stream


def test_streams_repeat() -> None:
    assert np.array_equal(stream(3, "rollouts", 5).random(4), stream(3, "rollouts", 5).random(4))


def test_no_two_streams_are_the_same() -> None:
    keys = list(product(range(4), get_args(Purpose), range(8)))
    firsts = {stream(*key).integers(2**63) for key in keys}
    loop = {
        np.random.default_rng(child).integers(2**63)
        for seed, number in product(range(4), range(8))
        for child in np.random.SeedSequence(seed, spawn_key=(number,)).spawn(2)
    }
    lists = {
        np.random.default_rng([seed, number]).integers(2**63) for seed in range(4) for number in range(8)
    }
    assert len(firsts) == len(keys)
    assert not firsts & (loop | lists)
