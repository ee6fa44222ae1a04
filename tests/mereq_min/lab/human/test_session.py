"""A session is its journal: the same decisions lead to the same steps, and what was taken back never was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mereq_min.interfaces import Policy, Task
from mereq_min.lab.human.folder import same_steps
from mereq_min.lab.human.journal import Adopt, Learn, Take, Undo, UndoUpdate, effective
from mereq_min.lab.human.session import Decision, Session
from mereq_min.lab.plugins import load_task
from mereq_min.loop import LoopConfig, align
from mereq_min.methods import METHODS, make_aligner
from mereq_min.policies import UniformPolicy

CARPET = load_task("carpet")
TAKE, LEARN, ADOPT = Take(0.0), Learn(0.0, 1, asked=True), Adopt(0.0)


def by_version(task: Task) -> Callable[[int], Policy]:
    """The prior, then policies that differ from it and from each other."""
    env = task.make_env()
    env.close()
    others = [UniformPolicy(env.action_space), task.prior]
    if task.oracle is not None:
        others.append(task.oracle.expert_policy)
    return lambda version: task.prior if version == 0 else others[version % len(others)]


def start(task: Task = CARPET, seed: int = 0, n: int = 100) -> Session:
    return Session(task, seed, by_version(task), steps_per_round=n)


def do(session: Session, decisions: Sequence[Decision | None]) -> list[Decision]:
    """Do those of the decisions that can be at their time; returns them.

    None looks at what comes next, which is no decision and changes nothing.
    """
    done = []
    for decision in decisions:
        if decision is None:
            session.proceed()
            continue
        try:
            session.apply(decision)
        except ValueError:
            continue
        done.append(decision)
    return done


def assert_same(one: Session, other: Session) -> None:
    """Everything that steps to come depend on, and everything that was recorded, is the same."""
    assert [(each.first, each.version) for each in one.rounds] == [
        (each.first, each.version) for each in other.rounds
    ]
    for a, b in zip(one.rounds, other.rounds, strict=True):
        assert (a.steps is None) == (b.steps is None)
        assert a.steps is None or b.steps is None or same_steps(a.steps, b.steps)
    assert (one.history, one.version, one.is_due) == (other.history, other.version, other.is_due)
    assert np.array_equal(one.proposal, other.proposal) and one.ended == other.ended
    for session in (one, other):  # what comes next tells all that is hidden: states and generators
        session.replay([Take(0.0)] * 40)
    assert same_steps(one.drive.steps(), other.drive.steps())


takes = st.one_of(st.just(TAKE), st.integers(0, 4).map(lambda a: Take(0.0, action=a, by="me")))
decisions = st.one_of(
    takes,
    st.lists(takes, min_size=5, max_size=40).map(tuple),
    st.none(),
    st.just(LEARN),
    st.just(ADOPT),
    st.integers(1, 60).map(lambda k: Undo(0.0, k)),
    st.just(UndoUpdate(0.0)),
)


def flatten(parts: Sequence[Any]) -> list[Decision]:
    return [each for part in parts for each in (part if isinstance(part, tuple) else (part,))]


@settings(max_examples=25, deadline=None)
@given(st.lists(decisions, max_size=25), st.integers(0, 3))
def test_what_was_taken_back_never_was(parts: list[Any], seed: int) -> None:
    lived = start(seed=seed)
    done = do(lived, flatten(parts))
    derived = start(seed=seed)
    derived.replay(effective(done))
    assert_same(lived, derived)


@settings(max_examples=15, deadline=None)
@given(st.lists(takes, min_size=1, max_size=60), st.data())
def test_undoing_some_steps_and_taking_others_is_taking_the_others(before: list[Take], data: Any) -> None:
    k = data.draw(st.integers(1, len(before)))
    after = data.draw(st.lists(takes, max_size=30))
    one, other = start(), start()
    one.replay([*before, Undo(0.0, k), *after])
    other.replay([*before[: len(before) - k], *after])
    assert_same(one, other)


def test_undo_does_not_reach_back_beyond_an_update() -> None:
    session = start()
    session.replay([*[TAKE] * 30, LEARN, ADOPT, *[TAKE] * 3, Undo(0.0, 1000)])
    assert (session.n_steps, len(session.rounds), session.version) == (30, 2, 1)


def test_undoing_an_update_brings_the_round_back_as_it_was() -> None:
    session, before = start(), start()
    taken = [TAKE, Take(0.0, action=2), *[TAKE] * 40]
    session.replay([*taken, LEARN, *[TAKE] * 9, ADOPT, *[TAKE] * 9, UndoUpdate(0.0)])
    before.replay(taken)
    assert_same(session, before)


def test_an_update_that_was_taken_back_is_not_made_again_at_once() -> None:
    session = start(n=30)
    while not session.is_due:
        session.apply(TAKE)
    steps = session.n_steps
    session.replay([LEARN, ADOPT, UndoUpdate(0.0)])
    assert session.n_steps == steps and not session.is_due
    while not session.is_due:
        session.apply(TAKE)
    assert session.n_steps >= steps + 30


def test_a_policy_takes_over_at_the_next_proposal_and_no_sooner() -> None:
    session = start()
    session.replay([*[TAKE] * 10, LEARN, TAKE, TAKE])
    shown = session.proposal
    session.apply(ADOPT)
    assert session.proposal == shown
    session.replay([TAKE, TAKE])
    steps = session.drive.steps()
    assert steps.policy_version.tolist() == [0, 0, 0, 1] and steps.action[2] == shown


def test_to_look_at_the_next_episode_changes_nothing() -> None:
    for after in ([ADOPT, TAKE], [TAKE, ADOPT], [UndoUpdate(0.0)], [Undo(0.0, 3)]):
        one, other = start(), start()
        for session in (one, other):
            session.replay([*[TAKE] * 9, LEARN, *[TAKE] * 25])
        assert one.proceed() and other.ended
        one.replay(after)
        other.replay(after)
        assert_same(one, other)


def test_a_round_is_due_at_the_end_of_an_episode_after_enough_steps_by_the_newest_policy() -> None:
    session = start(n=30)
    for _ in range(50):
        assert not session.is_due
        session.apply(TAKE)
    assert session.is_due and session.ended  # at 50, the end of the second episode of 25 steps
    session.replay([LEARN, *[TAKE] * 60, ADOPT])
    for _ in range(40):  # 15 to the end of the episode, then 25
        assert not session.is_due
        session.apply(TAKE)
    assert session.is_due


def test_the_first_round_is_the_first_iteration_of_align() -> None:
    """With the simulated expert's answers as the person's, the steps are those of the loop, bit for bit."""
    config = LoopConfig(1, steps_per_iteration=250)
    wanted = next(iter(align(CARPET, make_aligner(CARPET, METHODS["MEReQ"]), config, seed=4)))
    session = start(seed=4)
    for action, is_person in zip(wanted.steps.action, wanted.steps.is_intervention, strict=True):
        session.apply(Take(0.0, action=int(action) if is_person else None))
    session.apply(LEARN)
    found = session.rounds[0].steps
    assert found is not None and same_steps(found, wanted.steps)


@pytest.mark.parametrize("name", ["highway", "bottle"])
def test_simulators_are_replayed_bit_for_bit(name: str) -> None:
    task = load_task(name)
    env = task.make_env()
    rng = np.random.default_rng(0)
    env.action_space.seed(0)
    taken: list[Decision] = [
        Take(0.0, action=env.action_space.sample().tolist() if rng.random() < 0.4 else None)
        for _ in range(60)
    ]
    env.close()
    parts = [*taken[:25], LEARN, *taken[25:30], ADOPT, *taken[30:50], Undo(0.0, 12), *taken[50:]]
    lived, derived = start(task), start(task)
    lived.replay(parts)
    derived.replay(effective(parts))
    assert_same(lived, derived)


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ([LEARN], "no step to learn from"),
        ([TAKE, LEARN, TAKE, LEARN], "an update is being made"),
        ([TAKE, ADOPT], "no update whose policy"),
        ([UndoUpdate(0.0)], "no update to take back"),
        ([Take(0.0, action=5)], "from 0 to 4, got 5"),
        ([Take(0.0, action=[0.5])], "one number"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(parts: list[Decision], why: str) -> None:
    session, other = start(), start()
    session.replay(parts[:-1])
    other.replay(parts[:-1])
    with pytest.raises(ValueError, match=why):
        session.apply(parts[-1])
    assert_same(session, other)
