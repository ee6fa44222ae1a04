"""Reaction times are measured from what the person could see, and become steps."""

from __future__ import annotations

from typing import Any, cast

import pytest

from mereq_min.interfaces import Oracle
from mereq_min.lab.human.reaction import FEWEST, LONGEST, Reactions


class Objects:
    """Objects to the action 1."""

    def violates(self, state: Any, action: Any) -> bool:
        return bool(action == 1)


def make(default: float = 0.5) -> Reactions:
    return Reactions(cast(Oracle, Objects()), default)


def react(reactions: Reactions, at: float, after: float) -> float | None:
    """A violation is seen at a time, and goes on; the key comes some time later."""
    reactions.see(0, 0, at - 1.0)
    reactions.see(0, 1, at)
    reactions.see(0, 1, at + after / 2)
    reactions.take_over(at + after)
    return reactions.take_measured()


def test_the_time_runs_from_the_first_of_a_row_of_violations() -> None:
    reactions = make()
    assert react(reactions, 10.0, 0.4) == pytest.approx(0.4)
    assert reactions.take_measured() is None


def test_a_violation_that_passed_and_a_pause_do_not_count() -> None:
    reactions = make()
    reactions.see(0, 1, 1.0)
    reactions.see(0, 0, 2.0)
    reactions.take_over(2.5)
    assert reactions.take_measured() is None
    reactions.see(0, 1, 3.0)
    reactions.forget()
    reactions.take_over(3.5)
    assert reactions.take_measured() is None
    assert react(reactions, 10.0, LONGEST + 0.1) is None


def test_the_median_counts_once_enough_is_measured() -> None:
    reactions = make(0.5)
    for after in (0.2, 0.9, 0.3)[: FEWEST - 1]:
        react(reactions, 10.0, after)
    assert reactions.time == 0.5
    react(reactions, 20.0, 0.3)
    assert reactions.time == pytest.approx(0.3)
    assert [reactions.patience(rate) for rate in (1.0, 5.0, 20.0)] == [0, 2, 6]


def test_a_session_that_goes_on_remembers() -> None:
    reactions = make(0.5)
    for reaction in (None, 0.7, 0.8, None, 0.9):
        reactions.remember(reaction)
    assert reactions.time == 0.8


def test_without_an_oracle_the_default_counts() -> None:
    reactions = Reactions(None, 0.25)
    assert react(reactions, 1.0, 0.4) is None
    assert reactions.patience(20.0) == 5
