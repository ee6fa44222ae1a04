"""A recorded session, derived again from its journal: to be checked, or to be shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from mereq_min.interfaces import Policy, Task
from mereq_min.lab.human.folder import journal_file, load_kept_policy
from mereq_min.lab.human.journal import Adopt, Entry, Learn, Take, effective, read_journal
from mereq_min.lab.human.learning import Pupil, Update
from mereq_min.lab.human.session import Session
from mereq_min.lab.runs.config import RunConfig


def derive(task: Task, config: RunConfig, entries: Sequence[Entry]) -> tuple[Session, list[Update]]:
    """Derive a session from its journal alone: every step, and every update, which are made anew.

    Args:
        task: the task.
        config: the run.
        entries: the journal.

    Returns:
        The session as it was left, and its updates.
    """
    pupil, updates = Pupil(task, config), list[Update]()
    first = pupil.first_policy

    def policy(version: int) -> Policy:
        if version:
            return task.load_policy(updates[version - 1].policy)
        return task.prior if first is None else task.load_policy(first)

    session = Session(task, config.seed, policy, steps_per_round=config.loop.steps_per_iteration)
    for decision in effective(entries):
        session.apply(decision)
        if isinstance(decision, Learn):
            updates.append(pupil.update(session.batches, decision.patience))
    return session, updates


def retrace(path: Path, task: Task, config: RunConfig, render_mode: str | None = None) -> Iterator[Session]:
    """Go through a recorded session with the policies that were kept.

    Args:
        path: the run's folder.
        task: the task.
        config: the run.
        render_mode: of the environments.

    Yields:
        The same session, at its start and after each step and each policy that took over.
    """
    history: list[Take | Learn | Adopt] = effective(read_journal(journal_file(path)))
    policy = partial(load_kept_policy, path, task)
    n = config.loop.steps_per_iteration
    session = Session(task, config.seed, policy, steps_per_round=n, render_mode=render_mode)
    yield session
    for decision in history:
        if isinstance(decision, Take) and session.proceed():
            yield session
        session.apply(decision)
        yield session
    session.close()
