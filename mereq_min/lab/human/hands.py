"""A person's hands: what the keys, drags and sticks of the page come to at each step.

There is no clock and no network here: messages come in, and each step asks once what is to be done.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mereq_min.lab.human.protocol import Action, Release

SLEW = 0.25
"""Largest change of a person's action over a Box between two steps, along each axis [half the bounds]."""
FADE = 5
"""Steps after a hand-back over which the person's last action fades into the policy's [steps]."""


class Hands:
    """A person's actions in a Discrete space.

    Args:
        n: number of actions.
        idle: the action of a person in control who presses nothing; None repeats the last one.

    Attributes:
        in_control: whether the person is in control.
        release: what hands back.
        keys: keystrokes since the last step.
    """

    def __init__(self, n: int, idle: Action | None) -> None:
        self.n, self.idle = n, idle
        self.release: Release = "key"
        self.let_go()

    def let_go(self) -> None:
        """Forget everything, with the policy in control."""
        self.in_control, self.keys = False, 0
        self._held: list[int] = []
        self._tapped: int | None = None
        self._last: int | None = None

    @property
    def is_waited_for(self) -> bool:
        """Whether the person is in control and presses nothing."""
        return self.in_control and not self._held and self._tapped is None

    def act(self, action: Any, down: bool, keys: int) -> bool:
        """A key went down or up; returns whether that took over.

        Raises:
            ValueError: if it is not an index.
        """
        if not isinstance(action, int) or action >= self.n:
            raise ValueError(f"an action of this task is an index below {self.n}")
        if not down:
            self._held = [each for each in self._held if each != action]
            if self.release == "letting go" and not self._held and self._tapped is None:
                self.hand_back()
            return False
        took_over, self.in_control = not self.in_control, True
        self._held = [*(each for each in self._held if each != action), action]
        self._tapped, self.keys = action, self.keys + keys
        return took_over

    def hand_back(self) -> None:
        """Give control back."""
        self.in_control, self._held, self._tapped = False, [], None

    def decide(self, proposal: Any) -> Action | None:
        """The action of the next step, or None for the proposal; to be called once a step."""
        self.keys = 0
        if not self.in_control:
            return None
        wanted = self._held[-1] if self._held else self._tapped
        self._tapped = None
        if wanted is None:
            wanted = self.idle if self.idle is not None else self._last  # type: ignore[assignment]
        self._last = int(proposal) if wanted is None else wanted
        if self.release == "letting go" and not self._held:
            self.in_control = False  # a tap is over with its step
        return self._last


class SmoothHands:
    """A person's actions in a Box space, which never jump.

    A takeover starts from what the policy was doing, and follows the keys at a bounded rate. A hand-back
    fades: the difference between the person's last action and the policy's proposal shrinks to nothing over
    `FADE` steps. These steps still are the person's, for they are not what the policy would do.

    Args:
        low: (D,) lower bounds of an action.
        high: (D,) upper bounds.

    Attributes:
        in_control: whether the person is in control, fading included.
        release: what hands back.
        keys: keystrokes since the last step.
    """

    def __init__(self, low: NDArray[Any], high: NDArray[Any]) -> None:
        self._centre, self._half = (low + high) / 2.0, (high - low) / 2.0
        self.release: Release = "key"
        self.let_go()

    def let_go(self) -> None:
        """Forget everything, with the policy in control."""
        self.in_control, self.keys = False, 0
        self._wanted: NDArray[Any] = np.zeros_like(self._half)
        self._now: NDArray[Any] | None = None  # what the last step did [half the bounds]
        self._fading = 0
        self._offset: NDArray[Any] = np.zeros_like(self._half)

    @property
    def is_waited_for(self) -> bool:
        """Never: letting all keys go is an action, which is to stop."""
        return False

    def act(self, action: Any, down: bool, keys: int) -> bool:
        """The wanted velocity changed; returns whether that took over.

        Raises:
            ValueError: if it is not a velocity of this task.
        """
        if not isinstance(action, list) or len(action) != len(self._half):
            raise ValueError(f"an action of this task has {len(self._half)} numbers")
        wanted = np.array(action, dtype=np.float64) if down else np.zeros_like(self._half)
        moves = bool(wanted.any())
        self.keys += keys if moves else 0
        self._wanted = wanted
        if self.release == "letting go" and not moves and self.in_control:
            self.hand_back()
            return False
        took_over = moves and (not self.in_control or self._fading > 0)
        if moves:
            self.in_control, self._fading = True, 0
        return took_over

    def hand_back(self) -> None:
        """Begin to give control back."""
        if self.in_control and self._now is not None and self._fading == 0:
            self._fading = FADE
        elif self._now is None:
            self.in_control = False
        self._wanted = np.zeros_like(self._half)

    def decide(self, proposal: Any) -> Action | None:
        """The action of the next step, or None for the proposal; to be called once a step."""
        self.keys = 0
        proposed = np.clip((np.asarray(proposal, dtype=np.float64) - self._centre) / self._half, -1, 1)
        if not self.in_control:
            self._now = proposed
            return None
        before = proposed if self._now is None else self._now
        if self._fading == 0:
            self._now = before + np.clip(self._wanted - before, -SLEW, SLEW)
            return self._scaled(self._now)
        if self._fading == FADE:
            self._offset = before - proposed
        self._fading -= 1
        if self._fading == 0:
            self.in_control, self._now = False, proposed
            return None
        self._now = np.clip(proposed + self._offset * self._fading / FADE, -1, 1)
        return self._scaled(self._now)

    def _scaled(self, action: NDArray[Any]) -> list[float]:
        return (self._centre + self._half * action).tolist()


def make_hands(space: Any, idle: Action | None) -> Hands | SmoothHands:
    """The hands for an action space, Discrete or a bounded Box."""
    return Hands(int(space.n), idle) if hasattr(space, "n") else SmoothHands(space.low, space.high)
