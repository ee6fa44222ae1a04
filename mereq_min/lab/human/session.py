"""A session of a person as a state machine: it takes the entries of a journal, and shows what comes of them.

There is no network here and no clock. What a session is depends on the task, the seed, the policies of the
updates and the entries alone, so that the same journal always leads to the same steps, bit for bit: that is
how a session goes on after a crash, how steps are taken back, and how a session is replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mereq_min.interfaces import Policy, Task
from mereq_min.lab.human.journal import Adopt, Learn, Take, Undo, UndoUpdate, rewind
from mereq_min.rollout import Drive
from mereq_min.steps import Steps

Decision = Take | Learn | Adopt | Undo | UndoUpdate
"""What moves a session."""


@dataclass(frozen=True)
class Round:
    """What one round has come to.

    Attributes:
        first: index in the session's history of the round's first decision.
        version: version of the policy at the start of the round.
        steps: its steps; None while the round is running.
    """

    first: int
    version: int
    steps: Steps | None = None


class Session:
    """What a journal comes to, decision by decision.

    A round is what one update learns from: it begins with a fresh environment and ends with a `Learn`. While
    the update is made, the policy from before drives on, in the next round. Its randomness depends on the
    seed and the number of the round alone, as in `loop.align`.

    Args:
        task: the task.
        seed: seed of the run.
        policies: policy by version, from 0; asked for whenever a version takes over.
        steps_per_round: steps by the newest policy after which a round ends, at the end of the episode.
        render_mode: of the environments, for tasks that are shown by pictures.

    Attributes:
        history: the decisions that count, without those that were taken back.
        rounds: the rounds; the last one is running.
        version: version of the policy that proposes.
        drive: the running round.
        proposal: the action that the policy proposes; None if the episode is over.
        last: the last step, None at the start of an episode.
        info: the environment's own report of that step.
    """

    drive: Drive
    _own_steps: int

    def __init__(
        self,
        task: Task,
        seed: int,
        policies: Callable[[int], Policy],
        *,
        steps_per_round: int,
        render_mode: str | None = None,
    ) -> None:
        self.task, self.seed, self.steps_per_round = task, seed, steps_per_round
        self._policies, self._render_mode = policies, render_mode
        self.history: list[Take | Learn | Adopt] = []
        self.rounds: list[Round] = []
        self.version = 0
        self.last: Take | None = None
        self.info: dict[str, Any] = {}
        self._begin_round(0)

    # --- What can be seen -----------------------------------------------------------------------------------

    @property
    def batches(self) -> list[Steps]:
        """The steps of the finished rounds."""
        return [each.steps for each in self.rounds if each.steps is not None]

    @property
    def n_steps(self) -> int:
        """Steps in all rounds [steps]."""
        return sum(map(len, self.batches)) + len(self.drive)

    @property
    def is_learning(self) -> bool:
        """Whether there is an update whose policy has not taken over yet."""
        return self.version < len(self.rounds) - 1

    @property
    def ended(self) -> bool:
        """Whether the last step ended its episode."""
        return self.proposal is None

    @property
    def takes(self) -> list[Take]:
        """The steps of the running round, as they were decided."""
        first = self.rounds[-1].first
        return [each for each in self.history[first:] if isinstance(each, Take)]

    @property
    def person_steps(self) -> int:
        """Steps of the running round that the person controlled [steps]."""
        return sum(each.action is not None for each in self.takes)

    @property
    def is_due(self) -> bool:
        """Whether the round is long enough, and stands between two episodes."""
        return self.ended and not self.is_learning and self._own_steps >= self.steps_per_round

    # --- What moves it --------------------------------------------------------------------------------------

    def apply(self, decision: Decision) -> None:
        """Do what was decided.

        Raises:
            ValueError: if that is not possible now, or an action is invalid.
        """
        if isinstance(decision, Undo):
            for _ in range(decision.steps):
                rewind(self.history)
            self._redo_round()
        elif isinstance(decision, UndoUpdate):
            self._undo_update()
        else:
            self._do(decision)
            self.history.append(decision)

    def replay(self, decisions: Sequence[Decision]) -> None:
        """Do what was decided, one after another."""
        for decision in decisions:
            self.apply(decision)

    def proceed(self) -> bool:
        """Begin the next episode if the last one is over; returns whether it was.

        This is no decision: the next step would do it by itself. It shows the new episode's start.
        """
        if not self.ended:
            return False
        self.drive.begin_episode()
        self.last, self.info = None, {}
        self._propose()
        return True

    def close(self) -> None:
        """Close the environment."""
        self.drive.env.close()

    def _do(self, decision: Take | Learn | Adopt) -> None:
        if isinstance(decision, Take):
            self._take(decision)
        elif isinstance(decision, Learn):
            if self.is_learning:
                raise ValueError("an update is being made; the next one can begin when its policy drives")
            if not len(self.drive):
                raise ValueError("there is no step to learn from in this round yet")
            running = self.rounds[-1]
            self.rounds[-1] = Round(running.first, running.version, self.drive.steps())
            self._begin_round(len(self.history) + 1)
        else:
            if not self.is_learning:
                raise ValueError("there is no update whose policy could take over")
            self._adopt()

    def _take(self, take: Take) -> None:
        self.proceed()
        action = None if take.action is None else self._to_action(take.action)
        ended = self.drive.take(action)
        self._own_steps += self._proposed_by == len(self.rounds) - 1
        self.last, self.info = take, self.drive.info
        self.proposal = None
        if not ended:
            self._propose()

    def _adopt(self) -> None:
        self.proceed()  # whoever looked may have seen the next episode begin, whose first proposal is drawn
        self.version += 1
        self.drive.policy = self._policies(self.version)
        self.drive.policy_version = self.version

    def _propose(self) -> None:
        self._proposed_by = self.version
        self.proposal = self.drive.propose()

    def _begin_round(self, first: int) -> None:
        """Begin the round after those that are finished, with the policy that is driving."""
        if self.rounds:
            self.drive.env.close()
        self.rounds.append(Round(first, self.version))
        self._start_driving()

    def _start_driving(self) -> None:
        done = self.batches
        streams = np.random.SeedSequence(self.seed, spawn_key=(len(done),)).spawn(2)
        self.drive = Drive(
            self.task.make_env(self._render_mode),
            self._policies(self.version),
            np.random.default_rng(streams[0]),
            policy_version=self.version,
            first_episode=int(done[-1].episode[-1]) + 1 if done else 0,
        )
        self.last, self.info = None, {}
        self._own_steps = 0
        self._propose()

    def _redo_round(self) -> None:
        """Do the running round again, as far as the history now goes."""
        running = self.rounds[-1]
        decisions = self.history[running.first :]
        self.version = running.version
        self.drive.env.close()
        self._start_driving()
        for decision in decisions:
            self._do(decision)

    def _undo_update(self) -> None:
        if len(self.rounds) == 1:
            raise ValueError("there is no update to take back")
        self.rounds.pop()
        finished = self.rounds[-1]
        while not isinstance(self.history.pop(), Learn):
            pass
        self.rounds[-1] = Round(finished.first, finished.version)
        self._redo_round()
        self._own_steps = 0  # the round goes on: else the same update would be made again at once

    def _to_action(self, action: int | list[float]) -> Any:
        space = self.drive.env.action_space
        return np.asarray(action, dtype=space.dtype)
