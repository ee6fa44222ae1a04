"""Finite Markov decision processes with linear features, for the exact solvers.

Index order, everywhere: `V[s]`, `Q[s, a]`, `features[s, a, k]`, and row `s * A + a` of the transition matrix.
"""

from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from mereq_min.validation import Array, check_array

ROW_ERROR = 1e-9
"""By how much the sum of a distribution may differ from 1."""


@dataclass(frozen=True, eq=False)
class TabularMDP:
    """A finite MDP with linear features; S, A and K follow from the shapes.

    `gamma` is stored here and nowhere else: every function that discounts takes the MDP.

    Args:
        transition: (S*A, S) matrix, sparse or dense; row s * A + a is P(. | s, a).
        features: (S, A, K) feature vectors f(s, a).
        initial: (S,) distribution rho0 of the first state.
        gamma: discount factor in [0, 1 - 1e-9).
        terminal: (S,) mask of the states that end the episode: their value is 0 and no step is taken in them.
            They must be absorbing and have features 0. By default no state is terminal; an absorbing state
            then earns reward and entropy for ever.

    Raises:
        ValueError: naming the argument, what it got and what would be right.
    """

    transition: sp.csr_array
    features: Array
    initial: Array
    gamma: float
    terminal: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=bool))

    def __post_init__(self) -> None:
        if not isinstance(self.gamma, Real) or not 0.0 <= self.gamma < 1.0:
            raise ValueError(f"gamma must lie in [0, 1), got {self.gamma!r}")
        gamma = float(self.gamma)
        if gamma * (1.0 + ROW_ERROR) >= 1.0:
            raise ValueError(
                f"gamma must be below 1 - {ROW_ERROR:g}, because rows of transition sum to 1 only within "
                f"{ROW_ERROR:g}; got {gamma!r}"
            )
        features = check_array("features", self.features, ndim=3)
        S, A, K = features.shape
        if min(S, A, K) == 0:
            raise ValueError(f"features must have shape (S, A, K) with no empty axis, got {features.shape}")
        transition = _check_transition(self.transition, S, A)
        initial = check_array("initial", self.initial, shape=(S,))
        _check_distribution("initial", initial[None, :])
        terminal = np.array(self.terminal)
        if terminal.size == 0:
            terminal = np.zeros(S, dtype=bool)
        if terminal.shape != (S,) or terminal.dtype != bool:
            raise ValueError(
                f"terminal must be a boolean mask of shape ({S},), got {terminal.dtype} of {terminal.shape}"
            )
        _check_terminal(terminal, transition, features)
        for array in (features, initial, terminal, transition.data, transition.indices, transition.indptr):
            array.setflags(write=False)
        for name, value in [
            ("transition", transition),
            ("features", features),
            ("initial", initial),
            ("gamma", gamma),
            ("terminal", terminal),
        ]:
            object.__setattr__(self, name, value)

    @property
    def n_states(self) -> int:
        """S, the number of states."""
        return self.features.shape[0]

    @property
    def n_actions(self) -> int:
        """A, the number of actions."""
        return self.features.shape[1]

    @property
    def n_features(self) -> int:
        """K, the number of features."""
        return self.features.shape[2]

    def reward(self, weights: ArrayLike) -> Array:
        """Linear reward r(s, a) = weights . f(s, a).

        Book: eq-linear-reward.

        Args:
            weights: (K,) reward weights.

        Returns:
            (S, A) reward.

        Raises:
            ValueError: if `weights` is not a finite vector of length K, or the reward overflows.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            # As a matrix, whose product takes half the time of that of a stack of small ones.
            rows = self.features.reshape(-1, self.n_features)
            reward = rows @ check_array("weights", weights, shape=(self.n_features,))
        if not np.isfinite(reward).all():
            raise ValueError("weights are too large: the reward overflows float64; rescale them")
        return reward.reshape(self.n_states, self.n_actions)


def _check_distribution(name: str, rows: Array | sp.csr_array) -> None:
    data = rows.data if sp.issparse(rows) else rows
    if (np.asarray(data) < 0).any():
        raise ValueError(f"{name} must hold probabilities, got the negative entry {np.asarray(data).min()}")
    sums = np.asarray(rows.sum(axis=1)).ravel()
    worst = int(np.argmax(np.abs(sums - 1.0)))
    if abs(sums[worst] - 1.0) > ROW_ERROR:
        row = f" (row {worst})" if len(sums) > 1 else ""
        raise ValueError(f"{name} must sum to 1, got {sums[worst]:.12g}{row}")


def _check_transition(value: Any, S: int, A: int) -> sp.csr_array:
    if not sp.issparse(value):
        value = check_array("transition", value, ndim=2)
    elif value.dtype.kind not in "buif":
        raise ValueError(f"transition must hold real numbers, got entries of type {value.dtype}")
    transition = sp.csr_array(value, dtype=np.float64, copy=True)
    if transition.shape != (S * A, S):
        raise ValueError(
            f"transition must have shape (S*A, S) = {(S * A, S)} with row s*A + a for (s, a), "
            f"got {transition.shape}"
        )
    if not np.isfinite(transition.data).all():
        raise ValueError("transition must be finite, got NaN or infinite entries")
    _check_distribution("transition", transition)
    transition.sum_duplicates()
    return transition


def _check_terminal(terminal: NDArray[np.bool_], transition: sp.csr_array, features: Array) -> None:
    states = np.flatnonzero(terminal)
    if len(states) == 0:
        return
    A = features.shape[1]
    rows = (states[:, None] * A + np.arange(A)).ravel()
    stay = np.asarray(transition[rows, np.repeat(states, A)]).ravel()
    if not np.allclose(stay, 1.0):
        raise ValueError(
            f"terminal states must be absorbing, but state {np.repeat(states, A)[np.argmin(stay)]} is not"
        )
    if features[states].any():
        bad = states[features[states].any(axis=(1, 2))][0]
        raise ValueError(f"features must be 0 in terminal states, got {features[bad]} in state {bad}")
