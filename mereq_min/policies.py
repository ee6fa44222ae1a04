"""Policies over finite state sets, and the uniform policy of any bounded action space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mereq_min.validation import Array, check_log_probabilities

if TYPE_CHECKING:
    from gymnasium import spaces

States = NDArray[np.int64]


class TabularPolicy:
    """A policy given by log pi(a | s) in a table (S, A); states and actions are indices.

    Raises:
        ValueError: if the table is not one of normalised log-probabilities.
    """

    def __init__(self, log_policy: ArrayLike) -> None:
        self.log_policy = check_log_probabilities("log_policy", log_policy)
        cumulative = np.cumsum(np.exp(self.log_policy), axis=1)
        # Divided by the last entry, so that rounding leaves no share to a last action of probability 0.
        self._cumulative = cumulative[:, :-1] / cumulative[:, -1:]

    def log_prob(self, state: States, action: States) -> Array:
        """Log-probability (N,) of actions (N,) in states (N,)."""
        return self.log_policy[state, action]

    def sample(self, state: States, rng: np.random.Generator) -> States:
        """Draw actions (N,) in states (N,)."""
        return (rng.random(len(state))[:, None] >= self._cumulative[state]).sum(axis=1)

    def state(self) -> dict[str, Array]:
        """The table, to be saved."""
        return {"log_policy": self.log_policy}


class UniformPolicy:
    """Draws every action of a finite set, or of a bounded Box, with equal probability.

    Args:
        space: gymnasium's `Discrete` or a bounded `Box`.

    Raises:
        ValueError: on any other space.
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.space: Any = space
        self.is_discrete = hasattr(space, "n") and hasattr(space, "start")
        if not self.is_discrete and not (hasattr(space, "is_bounded") and space.is_bounded()):
            raise ValueError(f"space must be Discrete or a bounded Box, got {space}")

    def log_prob(self, state: NDArray[Any], action: NDArray[Any]) -> Array:
        """Log-probability or log-density (N,), the same for all actions."""
        if self.is_discrete:
            return np.full(len(state), -np.log(float(self.space.n)))
        return np.full(len(state), -np.log(self.space.high - self.space.low).sum())

    def sample(self, state: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """Draw actions (N, ...)."""
        if self.is_discrete:
            return self.space.start + rng.integers(self.space.n, size=len(state))
        shape = (len(state), *self.space.shape)
        return rng.uniform(self.space.low, self.space.high, shape).astype(self.space.dtype)
