"""The updates of a session: a method at work, in a process of its own, beside whoever drives.

`Pupil` is the method, and does the same in any process. `Worker` keeps one in another process, so that what
it computes holds up neither keys nor steps.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from mereq_min.interfaces import Learner, Policy, Task
from mereq_min.lab.human.films import film_policy
from mereq_min.lab.human.scenes import Chart, scene_of
from mereq_min.lab.runs.config import RunConfig
from mereq_min.lab.runs.files import Arrays
from mereq_min.lab.runs.records import Row
from mereq_min.lab.runs.run import describe, load_config_task, policy_arrays
from mereq_min.loop import fit_log
from mereq_min.methods import METHODS, make_aligner
from mereq_min.steps import Steps, concatenate
from mereq_min.validation import Array


@dataclass(frozen=True)
class Update:
    """What an update came to.

    Attributes:
        row: the row of its iteration.
        checkpoint: what the next update depends on.
        policy: the new policy's arrays.
        seconds: time that it took [s].
        before: what an episode of the policy before shows, see `films.film_policy`.
        after: the same of the new policy, from the same start.
        chart: heat and arrows, for a scene with cells.
        telling: index of the frame of `after` in which a takeover would tell most, see `find_telling`.
    """

    row: Row
    checkpoint: Arrays
    policy: Arrays
    seconds: float
    before: list[dict[str, Any]]
    after: list[dict[str, Any]]
    chart: Chart
    telling: int | None


class Pupil:
    """The method of a session at work.

    Args:
        task: the task.
        config: the run that the session makes.

    Raises:
        ValueError: if the policies of the task cannot be written down.
    """

    def __init__(self, task: Task, config: RunConfig) -> None:
        self.task, self.config = task, config
        self._begin()

    def _begin(self) -> None:
        config = self.config
        with threadpool_limits(1):  # how sums are split over threads shows in their last bits
            self.aligner = make_aligner(
                self.task, METHODS[config.method], config.estimators, seed=config.seed
            )
        self._policy = self.aligner.policy

    @property
    def first_policy(self) -> Arrays | None:
        """The arrays of the policy that drives first; None if it is the task's prior."""
        return None if self.aligner.policy is self.task.prior else _arrays_of(self.aligner.policy)

    def warm_up(self) -> None:
        """Solve for theta 0, the slowest solve, so that the task's learner need not do it again."""
        method = METHODS[self.config.method]
        if method.reward != "residual":
            return
        with threadpool_limits(1):
            learner = self.task.make_learner(
                method.reward,
                self.config.estimators.matching.discount,
                start=method.start,
                seed=self.config.seed,
            )
            learner.solve(np.zeros(len(self.task.feature_names)))

    def update(self, batches: Sequence[Steps], patience: int) -> Update:
        """Update the policy to all rounds so far.

        Args:
            batches: the steps of each round; the last is the one that was not learned from yet.
            patience: steps before each takeover that count as its cause [steps].
        """
        begun, before = time.perf_counter(), self._policy
        with threadpool_limits(1):
            (iteration,) = fit_log(self.aligner, batches, patience, n_done=len(batches) - 1)
            self._policy, info = iteration.policy, iteration.info
            measures = self.task.evaluate(iteration.policy)
            steps = sum(map(len, batches[:-1]))
            row = describe(self.task, self.config, iteration, measures, before=steps)
        seconds = time.perf_counter() - begun
        chart = scene_of(self.task).chart
        old, new = (film_policy(self.task, policy, self.config.seed) for policy in (before, self._policy))
        learner = getattr(self.aligner, "learner", None)
        return Update(
            row,
            self.aligner.arrays(),
            _arrays_of(self._policy),
            seconds,
            old.scenes,
            new.scenes,
            (None, None) if chart is None else chart(self._policy, info["theta"]),
            None if learner is None else find_telling(learner, new.steps, info["standard_errors"]),
        )

    def restore(self, checkpoint: Arrays, batches: Sequence[Steps], patience: int) -> None:
        """Go back to where an update left, or, without rounds, to the beginning.

        Args:
            checkpoint: what that update returned.
            batches: the steps of the rounds up to it.
            patience: what was passed to it.
        """
        if not batches:
            self._begin()
            return
        with threadpool_limits(1):
            self.aligner.restore(checkpoint, concatenate(batches), patience)
        self._policy = self.aligner.policy


def find_telling(learner: Learner, steps: Steps, errors: Array) -> int | None:
    """Find where a person's action would tell most about theta.

    One action in a state with Fisher information I lowers the entropy of theta, which is Gaussian with
    independent entries here, by log det(1 + diag(errors^2) I) / 2 [nats] (Lindley 1956).

    Args:
        learner: has solved for the policy that took the steps.
        steps: the states to choose from.
        errors: (K,) standard errors of theta.

    Returns:
        The index of the step; None if the errors are not known, or no state tells anything.
    """
    if not np.isfinite(errors).all():
        return None
    K = len(errors)  # a tempered learner also knows of the weight of the prior
    single = [learner.information(steps.select(np.arange(len(steps)) == t)) for t in range(len(steps))]
    gains = [np.linalg.slogdet(np.eye(K) + np.square(errors)[:, None] * each[:K, :K])[1] for each in single]
    best = int(np.argmax(gains))
    return best if gains[best] > 1e-9 else None


def _arrays_of(policy: Policy) -> Arrays:
    arrays = policy_arrays(policy)
    if arrays is None:
        raise ValueError("only a policy that offers its arrays by arrays() can be taught in a session")
    return arrays


class Worker:
    """A `Pupil` in a process of its own, which ends with this one.

    Args:
        config: the run; the task is loaded by its name, as the run's own process did.
        out: root of the run folders.
    """

    def __init__(self, config: RunConfig, out: Path) -> None:
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, config, out), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, number: int, request: str, *arguments: Any) -> None:
        """Ask for `update` or `restore` of the pupil, with these arguments.

        Args:
            number: given back with the answer.
            request: name of the pupil's method.
            *arguments: its arguments.
        """
        self._connection.send((number, request, *arguments))

    def receive(self) -> tuple[str, int, Any]:
        """Wait for what the pupil says next.

        Returns:
            `first` and its arrays, once; `ready`, once; and to each request `done` and what it returned, or
            `failed` and why; between the two, the number of the request.

        Raises:
            EOFError: if the process ended.
        """
        try:
            found: tuple[str, int, Any] = self._connection.recv()
        except OSError as error:
            raise EOFError(str(error)) from error
        return found

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.join()
        self._connection.close()


def _serve(connection: Connection, config: RunConfig, out: Path) -> None:
    """What the process of a `Worker` does."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if hasattr(os, "nice"):
        os.nice(5)  # whoever drives goes first
    pupil = Pupil(load_config_task(config, out), config)
    connection.send(("first", 0, pupil.first_policy))
    pupil.warm_up()
    connection.send(("ready", 0, None))
    while True:
        try:
            number, request, *arguments = connection.recv()
        except (EOFError, OSError):
            return
        try:
            answer = "done", number, getattr(pupil, request)(*arguments)
        except Exception as error:
            answer = "failed", number, f"{type(error).__name__}: {error}"
        connection.send(answer)


def _end_with_parent() -> None:
    """End this process when its parent does, even in the middle of an update."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
