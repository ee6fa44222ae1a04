"""How long a person takes to react, and so how many steps before a takeover provoked it."""

from __future__ import annotations

from statistics import median
from typing import Any

import numpy as np

from mereq_min.interfaces import Oracle

FEWEST = 3
"""Measured reactions from which on their median counts."""
LONGEST = 5.0
"""Longest time from a violation to a key that counts as a reaction to it [s]."""


class Reactions:
    """Measures the time from the first of a row of violations that were shown to the takeover.

    Args:
        oracle: tells violations; without one nothing can be measured.
        default: what counts until enough is measured [s].
    """

    def __init__(self, oracle: Oracle | None, default: float) -> None:
        self._oracle, self._default = oracle, default
        self._measured: list[float] = []
        self._since: float | None = None
        self._taken: float | None = None

    def see(self, state: Any, proposal: Any, now: float) -> None:
        """The person sees, from now on, that the policy is about to act so in a state."""
        if self._oracle is None:
            return
        if not self._oracle.violates(np.asarray(state), np.asarray(proposal)):
            self._since = None
        elif self._since is None:
            self._since = now

    def forget(self) -> None:
        """What was seen does not count, for instance after a pause."""
        self._since = None

    def take_over(self, now: float) -> None:
        """The person takes over now."""
        if self._since is not None and now - self._since <= LONGEST:
            self._taken = round(now - self._since, 3)
            self._measured.append(self._taken)
        self._since = None

    def take_measured(self) -> float | None:
        """The reaction that was measured since the last call, for the journal [s]."""
        taken, self._taken = self._taken, None
        return taken

    def remember(self, reaction: float | None) -> None:
        """Count a reaction that the journal holds [s]."""
        if reaction is not None:
            self._measured.append(reaction)

    @property
    def time(self) -> float:
        """The median of what was measured, or the default [s]."""
        return median(self._measured) if len(self._measured) >= FEWEST else self._default

    def patience(self, rate: float) -> int:
        """Steps before a takeover that count as its cause, at so many steps a second [steps]."""
        return round(self.time * rate)
