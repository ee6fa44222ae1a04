"""What keys and drags come to: over indices the last key counts, over a Box nothing ever jumps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mereq_min.lab.human.hands import FADE, SLEW, Hands, SmoothHands

LOW, HIGH = np.array([-1.0, 0.0]), np.array([1.0, 10.0])
PROPOSAL = np.array([0.2, 9.0])


def smooth() -> SmoothHands:
    return SmoothHands(LOW, HIGH)


def in_units(action: Any) -> np.ndarray:
    return 2 * (np.asarray(action) - LOW) / (HIGH - LOW) - 1


def test_a_tap_lasts_one_step_and_a_held_key_goes_on() -> None:
    hands = Hands(5, idle=4)
    assert hands.decide(1) is None
    assert hands.act(2, True, 1) and not hands.act(2, False, 0)
    assert not hands.is_waited_for
    assert hands.decide(1) == 2 and hands.is_waited_for
    assert hands.decide(1) == 4
    hands.act(0, True, 1)
    assert [hands.decide(1), hands.decide(1)] == [0, 0]
    hands.act(3, True, 1)
    assert hands.decide(1) == 3
    hands.act(3, False, 0)
    assert hands.decide(1) == 0  # which is still held
    hands.hand_back()
    assert hands.decide(1) is None and not hands.in_control


def test_without_an_idle_action_the_last_one_goes_on() -> None:
    hands = Hands(5, idle=None)
    hands.act(3, True, 1)
    hands.act(3, False, 0)
    assert [hands.decide(1), hands.decide(1)] == [3, 3]


def test_letting_go_hands_back_but_a_tap_still_counts() -> None:
    hands = Hands(5, idle=4)
    hands.release = "letting go"
    hands.act(2, True, 1)
    hands.act(2, False, 0)
    assert hands.decide(1) == 2 and not hands.in_control
    assert hands.decide(1) is None
    hands.act(2, True, 1)
    assert [hands.decide(1), hands.decide(1)] == [2, 2]
    hands.act(2, False, 0)
    assert hands.decide(1) is None


def test_keystrokes_are_counted_from_step_to_step() -> None:
    hands = Hands(5, idle=4)
    hands.act(2, True, 1)
    hands.act(1, True, 1)
    assert hands.keys == 2
    hands.decide(1)
    assert hands.keys == 0


def test_what_is_no_action_is_refused() -> None:
    """It would be in the journal before anybody saw that it cannot be taken."""
    for hands, action in ((Hands(5, 4), 5), (Hands(5, 4), [1.0]), (smooth(), 2), (smooth(), [1.0])):
        with pytest.raises(ValueError, match="an action of this task"):
            hands.act(action, True, 1)
        assert not hands.in_control


velocity = st.lists(st.floats(-1, 1), min_size=2, max_size=2)
messages = st.one_of(
    velocity.map(lambda v: ("act", v)), st.just(("release", None)), st.just(("hand_back", None)), st.none()
)


@given(st.lists(messages, max_size=60))
def test_actions_over_a_box_never_jump(messages: list[Any]) -> None:
    """While the policy proposes the same, each axis moves by SLEW at most, or by what fades in a step."""
    hands = smooth()
    before = in_units(PROPOSAL)
    for message in messages:
        if message is not None and message[0] == "act":
            hands.act(message[1], True, 1)
        elif message is not None and message[0] == "release":
            hands.act([0.0, 0.0], False, 0)
        elif message is not None:
            hands.hand_back()
        action = hands.decide(PROPOSAL)
        now = in_units(PROPOSAL if action is None else action)
        assert (np.abs(now - before) <= max(SLEW, 2 / FADE) + 1e-9).all()
        assert (np.abs(now) <= 1 + 1e-9).all()
        before = now


def test_a_hand_back_fades_into_the_policy_and_ends() -> None:
    hands = smooth()
    hands.act([-1.0, -1.0], True, 1)
    for _ in range(20):
        hands.decide(PROPOSAL)
    hands.act([0.0, 0.0], False, 0)
    hands.act([-1.0, -1.0], True, 1)
    hands.decide(PROPOSAL)
    hands.hand_back()
    fading = [hands.decide(PROPOSAL) for _ in range(FADE + 1)]
    assert [action is None for action in fading] == [False] * (FADE - 1) + [True, True]
    gaps = [np.abs(in_units(action) - in_units(PROPOSAL)) for action in fading if action is not None]
    np.testing.assert_allclose(gaps, [gaps[0] * k / (FADE - 1) for k in range(FADE - 1, 0, -1)])
    assert not hands.in_control


def test_a_takeover_starts_from_what_the_policy_was_doing() -> None:
    hands = smooth()
    hands.decide(PROPOSAL)
    assert hands.act([1.0, -1.0], True, 1)
    np.testing.assert_allclose(in_units(hands.decide(PROPOSAL)), in_units(PROPOSAL) + np.array([SLEW, -SLEW]))
