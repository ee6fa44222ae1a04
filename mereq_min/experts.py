"""Simulated experts: when to take over, when to hand back, and how a human would get it a little wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mereq_min.interfaces import Policy
from mereq_min.validation import check_number

Violation = Callable[[NDArray[Any], NDArray[Any]], bool]


@dataclass(frozen=True)
class Imperfections:
    """How a simulated expert falls short; all zero is the ideal one."""

    miss: float = 0.0
    """Probability that a violation goes unseen [per step]."""
    needless: float = 0.0
    """Probability of deciding to take over for no reason [per step under policy control]."""
    delay: int = 0
    """Steps between the decision to take over and the takeover; what the policy does wrong in them passes for
    good enough [steps]."""

    def __post_init__(self) -> None:
        check_number("miss", self.miss, 0, 1)
        check_number("needless", self.needless, 0, 1)
        check_number("delay", self.delay, 0, whole=True)


class SimulatedExpert:
    """Takes over after `patience` consecutive violations, hands back after `release` steps without one.

    Executed steps are counted: the violations that provoke a takeover lie in the `patience` steps just before
    it (further back if the expert reacts with a delay), and the expert controls at least `release` steps.

    Args:
        policy: how the expert acts once in control.
        violation: whether the policy's action in a state is a violation: a state rule looks at the state
            alone, a value rule at the expert's advantage of the action.
        patience: consecutive violations before a takeover, >= 1 [steps].
        release: consecutive steps without violation before handing back, >= 1 [steps].
        rng: draws the expert's actions and imperfections.
        imperfections: how the expert falls short.

    Raises:
        ValueError: if `patience` or `release` is under 1.
    """

    def __init__(
        self,
        policy: Policy,
        violation: Violation,
        *,
        patience: int,
        release: int,
        rng: np.random.Generator,
        imperfections: Imperfections = Imperfections(),
    ) -> None:
        check_number("patience", patience, 1, whole=True)
        check_number("release", release, 1, whole=True)
        self.policy, self.violation = policy, violation
        self.patience, self.release = patience, release
        self.rng, self.imperfections = rng, imperfections
        self.reset()

    def reset(self) -> None:
        """Begin a new episode with the policy in control."""
        self._controls = False
        self._streak = 0  # violations in a row under the policy, calm steps in a row under the expert
        self._due: int | None = None  # steps until a takeover that is decided

    def intervene(self, state: NDArray[Any], policy_action: NDArray[Any]) -> NDArray[Any] | None:
        """Return the expert's action where it controls this step, else None; see `interfaces.Expert`."""
        if self._controls:
            if self._streak >= self.release:
                self.reset()
        else:
            self._consider_takeover()
        violates = self._sees_violation(state, policy_action)
        self._streak = self._streak + 1 if violates != self._controls else 0
        return self.policy.sample(np.asarray(state)[None], self.rng)[0] if self._controls else None

    def _consider_takeover(self) -> None:
        if self._due is None:
            needless = self.imperfections.needless > 0 and self.rng.random() < self.imperfections.needless
            if self._streak >= self.patience or needless:
                self._due = self.imperfections.delay
        if self._due == 0:
            self._controls, self._streak, self._due = True, 0, None
        elif self._due is not None:
            self._due -= 1

    def _sees_violation(self, state: NDArray[Any], policy_action: NDArray[Any]) -> bool:
        missed = self.imperfections.miss > 0 and self.rng.random() < self.imperfections.miss
        return not missed and self.violation(state, policy_action)
