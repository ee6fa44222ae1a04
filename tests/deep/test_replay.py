import numpy as np
import pytest
import torch

from deep.replay import Replay


def columns(values):
    values = np.asarray(values, dtype=np.float64)
    return {"x": np.stack([values, -values], axis=1), "flag": values > 2}


def stored(replay):
    return sorted(set(replay.sample(2_000, np.random.default_rng(0))["x"][:, 0].tolist()))


def test_the_last_transitions_stay_and_older_ones_go():
    replay = Replay(5)
    for first in (0, 2, 4, 6):
        replay.add(**columns([first, first + 1]))
    assert len(replay) == 5
    assert replay.added == 8
    assert stored(replay) == [3, 4, 5, 6, 7]


def test_more_than_fits_leaves_the_last_ones():
    replay = Replay(3)
    replay.add(**columns(range(10)))
    assert stored(replay) == [7, 8, 9]
    replay.add(**columns([10]))
    assert stored(replay) == [8, 9, 10]


def test_rows_stay_together_and_are_drawn_evenly():
    replay = Replay(8)
    replay.add(**columns(range(5)))
    batch = replay.sample(50_000, np.random.default_rng(1))
    x = batch["x"]
    assert torch.equal(x[:, 0], -x[:, 1])
    assert torch.equal(batch["flag"], x[:, 0] > 2)
    np.testing.assert_allclose(np.bincount(x[:, 0].int()), 10_000, atol=4 * np.sqrt(10_000))


def test_a_restored_replay_goes_on_alike():
    replay, again = Replay(5), Replay(5)
    replay.add(**columns(range(7)))
    again.restore(replay.arrays())
    for each in (replay, again):
        each.add(**columns([20, 21]))
    draws = [each.sample(100, np.random.default_rng(0)) for each in (replay, again)]
    for name in ("x", "flag"):
        assert torch.equal(draws[0][name], draws[1][name])


def test_an_empty_replay_survives_a_round_trip():
    replay = Replay(5)
    replay.restore(Replay(5).arrays())
    assert len(replay) == 0
    with pytest.raises(ValueError, match="empty"):
        replay.sample(1, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"x": np.zeros((2, 2))}, "columns must have shapes"),
        ({"x": np.zeros((2, 2)), "flag": np.zeros(3, dtype=bool)}, "columns must have shapes"),
        ({"x": np.zeros((2, 3)), "flag": np.zeros(2, dtype=bool)}, "columns must have shapes"),
        ({"x": np.full((2, 2), np.nan), "flag": np.zeros(2, dtype=bool)}, "x must be finite, got 4"),
    ],
)
def test_columns_that_do_not_fit_are_refused(given, message):
    replay = Replay(5)
    replay.add(**columns([1, 2]))
    with pytest.raises(ValueError, match=message):
        replay.add(**given)


@pytest.mark.parametrize("damage", [{"added": np.array(9)}, {"x": np.zeros((3, 2))}, {"added": np.array(0)}])
def test_a_damaged_state_is_refused(damage):
    replay = Replay(5)
    replay.add(**columns([1, 2]))
    with pytest.raises(ValueError, match="transitions into a replay of 5"):
        Replay(5).restore(replay.arrays() | damage)
