"""Experience replay: a ring of transitions that stores features, so that rewards follow theta."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Batch = dict[str, torch.Tensor]


class Replay:
    """The last `capacity` transitions as columns of tensors.

    Features are stored, not rewards: `batch["features"] @ theta` is the reward under whatever theta is now.
    Columns take their shapes and types from the first transitions that are added.

    Args:
        capacity: transitions that are kept [transitions].
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
        """Transitions that were ever added, forgotten ones included [transitions]."""
        return self._added

    def add(self, **columns: NDArray[Any]) -> None:
        """Store N transitions, column by column, each (N, ...); the oldest make room.

        Raises:
            ValueError: if the columns are not those of the first call, or differ in length.
        """
        n = len(next(iter(columns.values())))
        if not self.columns:
            self.columns = {
                name: torch.zeros((self.capacity, *column.shape[1:]), dtype=_dtype(column))
                for name, column in columns.items()
            }
        if set(columns) != set(self.columns) or any(len(column) != n for column in columns.values()):
            raise ValueError(
                f"columns must be {sorted(self.columns)}, all of one length, got "
                f"{ {name: len(column) for name, column in columns.items()} }"
            )
        rows = torch.as_tensor((self._added + np.arange(n)) % self.capacity)
        for name, column in columns.items():
            self.columns[name][rows] = torch.as_tensor(column, dtype=self.columns[name].dtype)
        self._added += n

    def sample(self, n: int, rng: np.random.Generator) -> Batch:
        """Draw n transitions, uniformly with replacement."""
        if len(self) == 0:
            raise ValueError("the replay is empty: add transitions before sampling")
        rows = torch.as_tensor(rng.integers(len(self), size=n))
        return {name: column[rows] for name, column in self.columns.items()}

    def state(self) -> dict[str, NDArray[Any]]:
        """What is stored, as named arrays."""
        filled = {name: column[: len(self)].numpy() for name, column in self.columns.items()}
        return {"added": np.array(self._added), **filled}

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Take back what `state` returned."""
        self.columns, self._added = {}, 0
        filled = {name: array for name, array in state.items() if name != "added"}
        if filled:
            self.add(**filled)
        self._added = int(state["added"])


def _dtype(column: NDArray[Any]) -> torch.dtype:
    """Numbers are kept in single precision, actions and flags as they are."""
    return torch.float32 if column.dtype.kind == "f" else torch.as_tensor(column[:0]).dtype
