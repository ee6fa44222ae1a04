"""Experience replay: a ring buffer of transitions, which stores features so that any theta gives rewards."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Batch = dict[str, torch.Tensor]
"""Columns of transitions (N, ...) by name."""


class Replay:
    """Replay buffer that holds the last `capacity` transitions as columns of tensors.

    It stores features instead of rewards: `batch["features"] @ theta` is the reward under the current theta.
    The first transitions added determine the shapes and types of the columns.

    Args:
        capacity: number of transitions that are kept [transitions].

    Raises:
        ValueError: if the capacity is less than 1.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, got {capacity}")
        self.capacity = capacity
        self.columns: Batch = {}
        self._added = 0

    def __len__(self) -> int:
        return min(self._added, self.capacity)

    @property
    def added(self) -> int:
        """Number of transitions added so far, including those no longer held [transitions]."""
        return self._added

    def add(self, **columns: NDArray[Any]) -> None:
        """Store N transitions, given as columns (N, ...); they replace the oldest if the buffer is full.

        Raises:
            ValueError: if the columns are not those of the first call, differ in length, or are not finite.
        """
        n = len(next(iter(columns.values())))
        for name, column in columns.items():
            if not np.isfinite(column).all():
                raise ValueError(
                    f"{name} must be finite, got {np.count_nonzero(~np.isfinite(column))} bad entries"
                )
        if not self.columns:
            self.columns = {
                name: torch.zeros((self.capacity, *column.shape[1:]), dtype=_dtype(column))
                for name, column in columns.items()
            }
        wanted = {name: (n, *column.shape[1:]) for name, column in self.columns.items()}
        given = {name: column.shape for name, column in columns.items()}
        if given != wanted:
            raise ValueError(f"columns must have shapes {wanted}, got {given}")
        kept = np.arange(max(n - self.capacity, 0), n)
        rows = torch.as_tensor((self._added + kept) % self.capacity)
        for name, column in columns.items():
            self.columns[name][rows] = torch.as_tensor(column[kept], dtype=self.columns[name].dtype)
        self._added += n

    def sample(self, n: int, rng: np.random.Generator) -> Batch:
        """Draw n transitions, uniformly with replacement.

        Raises:
            ValueError: if the buffer is empty.
        """
        return self.take(self.draw(n, rng))

    def draw(self, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw n rows of the buffer, uniformly with replacement.

        Raises:
            ValueError: if the buffer is empty.
        """
        if len(self) == 0:
            raise ValueError("the replay is empty: add transitions before sampling")
        return rng.integers(len(self), size=n)

    def take(self, rows: NDArray[np.int64]) -> Batch:
        """Return the transitions in some rows (N,)."""
        indices = torch.as_tensor(rows)
        return {name: column.index_select(0, indices) for name, column in self.columns.items()}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the contents of the buffer, as named arrays."""
        filled = {name: column[: len(self)].numpy() for name, column in self.columns.items()}
        return {"added": np.array(self._added), **filled}

    def restore(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Restore what `arrays` returned.

        Raises:
            ValueError: if the columns are damaged, or do not have the length that `added` implies.
        """
        filled = {name: array for name, array in arrays.items() if name != "added"}
        added = int(arrays.get("added", -1))
        lengths = {name: len(array) for name, array in filled.items()}
        if set(lengths.values()) != ({min(added, self.capacity)} if added else set()):
            raise ValueError(
                f"{added} transitions into a replay of {self.capacity} cannot leave columns of {lengths}"
            )
        self.columns, self._added = {}, 0
        if filled:
            self.add(**filled)
        self._added = added


def _dtype(column: NDArray[Any]) -> torch.dtype:
    """Return the type in which a column is stored: float32 for floats, its own for integers and flags."""
    return torch.float32 if column.dtype.kind == "f" else torch.as_tensor(column[:0]).dtype
