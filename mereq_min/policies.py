"""A policy in a table, and the uniform policy over any bounded action space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mereq_min.validation import Array, check_log_probabilities

if TYPE_CHECKING:
    from gymnasium import spaces


class TabularPolicy:
    """A policy given by log pi(a | s) in a table (S, A); states and actions are indices.

    Args:
        log_policy: (S, A) log pi(a | s).
        temperature: alpha of the reward for which the policy is soft-optimal, None if unknown [reward].

    Raises:
        ValueError: if the rows of the table are not normalised log-probabilities.
    """

    def __init__(self, log_policy: ArrayLike, temperature: float | None = None) -> None:
        self.temperature = temperature
        self.log_policy = check_log_probabilities("log_policy", log_policy)
        cumulative = np.cumsum(np.exp(self.log_policy), axis=1)
        # Dividing by the last entry keeps rounding from giving probability to a last action that has none.
        self._cumulative = cumulative[:, :-1] / cumulative[:, -1:]

    def log_prob(self, state: NDArray[np.int64], action: NDArray[np.int64]) -> Array:
        """Return log pi(a | s) (N,) of actions (N,) in states (N,)."""
        return self.log_policy[state, action]

    def sample(self, state: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw one action for each of the states (N,); returns (N,)."""
        return (rng.random(len(state))[:, None] >= self._cumulative[state]).sum(axis=1)

    def state(self) -> dict[str, Array]:
        """Return the table by name, for saving."""
        return {"log_policy": self.log_policy}


class UniformPolicy:
    """The uniform policy: all actions of a finite set, or of a bounded Box, are equally likely.

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
        """Return the log-probability or log-density (N,), which is the same for all actions."""
        if self.is_discrete:
            return np.full(len(state), -np.log(float(self.space.n)))
        return np.full(len(state), -np.log(self.space.high - self.space.low).sum())

    def sample(self, state: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """Draw one action for each of the states (N, ...); returns (N, ...)."""
        if self.is_discrete:
            return self.space.start + rng.integers(self.space.n, size=len(state))
        shape = (len(state), *self.space.shape)
        return rng.uniform(self.space.low, self.space.high, shape).astype(self.space.dtype)
