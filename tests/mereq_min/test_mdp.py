"""TabularMDP: what it accepts, what it refuses and how it says so, and the linear reward."""

import re
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from strategies import generators, mdps

from mereq_min.mdp import TabularMDP

TERMINAL = np.array([False, True])


def fields(**changes: Any) -> dict[str, Any]:
    """Return the fields of a valid MDP with S = 2, A = 2, K = 1 but for `changes`; state 1 can end it."""
    valid = {
        "transition": np.array([[0.9, 0.1], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]),
        "features": np.array([[[1.0], [-2.0]], [[0.0], [0.0]]]),
        "initial": np.array([0.25, 0.75]),
        "gamma": 0.5,
    }
    return valid | changes


def with_row(row: list[float], index: int = 0) -> np.ndarray:
    """Return the valid transition matrix with one row replaced."""
    transition = fields()["transition"]
    transition[index] = row
    return transition


MALFORMED = [
    ({"transition": with_row([0.9, 0.2])}, "transition must sum to 1, got 1.1 (row 0)"),
    ({"transition": with_row([0.0, 0.5], index=3)}, "transition must sum to 1, got 0.5 (row 3)"),
    ({"transition": np.zeros((4, 2))}, "transition must sum to 1, got 0 (row 0)"),
    (
        {"transition": with_row([1.5, -0.5])},
        "transition must hold probabilities, got the negative entry -0.5",
    ),
    ({"transition": with_row([np.nan, 1.0])}, "transition must be finite, got"),
    ({"transition": with_row([np.inf, 0.0])}, "transition must be finite, got"),
    ({"transition": np.eye(2)}, "transition must have shape (S*A, S) = (4, 2) with row s*A + a for (s, a)"),
    ({"transition": np.full((4, 3), 1 / 3)}, "transition must have shape (S*A, S) = (4, 2)"),
    ({"features": np.zeros((2, 2))}, "features must have 3 axes, got shape (2, 2)"),
    ({"features": np.full((2, 2, 1), np.nan)}, "features must be finite, got 4 bad entries"),
    ({"features": np.full((2, 2, 1), -np.inf)}, "features must be finite, got 4 bad entries"),
    ({"features": np.zeros((0, 2, 1))}, "(S, A, K) with no empty axis, got (0, 2, 1)"),
    ({"features": np.zeros((2, 0, 1))}, "(S, A, K) with no empty axis, got (2, 0, 1)"),
    ({"features": np.zeros((2, 2, 0))}, "(S, A, K) with no empty axis, got (2, 2, 0)"),
    ({"initial": [0.5, 0.4]}, "initial must sum to 1, got 0.9"),
    ({"initial": [1.5, -0.5]}, "initial must hold probabilities, got the negative entry -0.5"),
    ({"initial": [np.nan, 1.0]}, "initial must be finite, got 1 bad entries"),
    ({"initial": [1.0]}, "initial must have shape (2,), got (1,)"),
    ({"initial": [[0.5, 0.5]]}, "initial must have shape (2,), got (1, 2)"),
    ({"gamma": 1.0}, "gamma must lie in [0, 1), got 1.0"),
    ({"gamma": -0.1}, "gamma must lie in [0, 1), got -0.1"),
    ({"gamma": float("nan")}, "gamma must lie in [0, 1), got nan"),
    (
        {"terminal": np.array([0, 1], dtype=np.int64)},
        "terminal must be a boolean mask of shape (2,), got int64 of (2,)",
    ),
    ({"terminal": np.array([True])}, "terminal must be a boolean mask of shape (2,), got bool of (1,)"),
    ({"terminal": TERMINAL[:, None]}, "terminal must be a boolean mask of shape (2,), got bool of (2, 1)"),
    (
        {"terminal": TERMINAL, "transition": with_row([0.5, 0.5], index=3)},
        "terminal states must be absorbing, but state 1 is not",
    ),
    (
        {"terminal": TERMINAL, "features": np.ones((2, 2, 1))},
        "features must be 0 in terminal states, got [[1.]\n [1.]] in state 1",
    ),
]


def as_dense(transition: Any) -> Any:
    return transition


@pytest.mark.parametrize("convert", [as_dense, sp.csr_array, sp.coo_array], ids=["dense", "csr", "coo"])
@pytest.mark.parametrize(("changes", "message"), MALFORMED, ids=[message for _, message in MALFORMED])
def test_malformed_input_is_named(changes: dict[str, Any], message: str, convert: Any) -> None:
    arguments = fields(**changes)
    with pytest.raises(ValueError, match=re.escape(message)):
        TabularMDP(**arguments | {"transition": convert(arguments["transition"])})


def test_dense_transition_needs_two_axes() -> None:
    with pytest.raises(ValueError, match=r"transition must have 2 axes, got shape \(2, 2, 2\)"):
        TabularMDP(**fields(transition=np.full((2, 2, 2), 0.5)))


def test_sizes_are_read_off_the_features() -> None:
    transition = np.repeat(np.eye(3), 2, axis=0)
    mdp = TabularMDP(transition, features=np.zeros((3, 2, 5)), initial=np.ones(3) / 3, gamma=0.9)
    assert (mdp.n_states, mdp.n_actions, mdp.n_features) == (3, 2, 5)


def test_no_state_is_terminal_by_default() -> None:
    mdp = TabularMDP(**fields())
    np.testing.assert_array_equal(mdp.terminal, [False, False])


@given(mdps())
def test_dense_and_sparse_transitions_make_the_same_mdp(mdp: TabularMDP) -> None:
    dense = mdp.transition.toarray()
    rest = {name: getattr(mdp, name) for name in ("features", "initial", "gamma", "terminal")}
    for form in (dense, dense.tolist(), sp.coo_array(dense), sp.csc_array(dense), sp.csr_matrix(dense)):
        other = TabularMDP(transition=form, **rest)
        assert isinstance(other.transition, sp.csr_array)
        np.testing.assert_array_equal(other.transition.toarray(), dense)


def test_arrays_and_fields_are_frozen() -> None:
    mdp = TabularMDP(**fields(terminal=TERMINAL))
    for array in (mdp.transition.data, mdp.features, mdp.initial, mdp.terminal):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    with pytest.raises(FrozenInstanceError):
        mdp.gamma = 0.9  # type: ignore[misc]


@pytest.mark.parametrize("convert", [as_dense, sp.csr_array], ids=["dense", "csr"])
@pytest.mark.parametrize("name", ["transition", "features", "initial", "terminal"])
def test_the_mdp_shares_no_memory_with_its_input(name: str, convert: Any) -> None:
    arguments = fields(transition=convert(fields()["transition"]), terminal=TERMINAL.copy())
    mdp = TabularMDP(**arguments)
    before = getattr(mdp, name).copy()
    first = (0,) * arguments[name].ndim
    arguments[name][first] += 1
    assert getattr(mdp, name)[first] == before[first] != arguments[name][first]


@given(mdps(), generators)
def test_reward_is_linear_in_the_weights(mdp: TabularMDP, rng: np.random.Generator) -> None:
    K = mdp.n_features
    for k in range(K):
        np.testing.assert_array_equal(mdp.reward(np.eye(K)[k]), mdp.features[:, :, k])
    first, second = rng.normal(size=(2, K))
    np.testing.assert_allclose(
        mdp.reward(2.0 * first - second), 2.0 * mdp.reward(first) - mdp.reward(second), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0, 2.0], "weights must have shape (1,), got (2,)"),
        (1.0, "weights must have shape (1,), got ()"),
        ([np.nan], "weights must be finite, got 1 bad entries"),
    ],
)
def test_malformed_weights_are_named(weights: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        TabularMDP(**fields()).reward(weights)
