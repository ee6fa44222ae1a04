"""The plan of a study, and what each participant goes through by it."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from typing import Literal

import msgspec

from mereq_min.lab.human.defaults import quick_estimators
from mereq_min.lab.plugins import HUMAN, UsageError, check_name, load_task
from mereq_min.lab.runs.config import RunConfig
from mereq_min.lab.runs.files import read_file
from mereq_min.loop import LoopConfig
from mereq_min.methods import METHODS, make_aligner

LARGEST_PLAN = 2**20
"""Size of the largest plan that is read [bytes]."""
CONSENT = (
    "You will teach robots on a screen by taking over when they do what you do not want. We record your key "
    "presses with their times, and your answers, under a pseudonym, on this computer only. You can stop at "
    "any time without giving a reason, and have everything deleted, now or later."
)
"""Consent text, unless the plan has its own."""

Kind = Literal["consent", "practice", "session", "tlx", "compare", "end"]
"""What a participant does in a stage."""


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A plan: every participant teaches every task with every method, in an order of their own."""

    name: str
    """Name of the study, and of its folder."""
    tasks: list[str]
    """Tasks, see `mereq tasks`."""
    methods: list[str]
    """Methods, of which participants learn no names."""
    rounds: int = 3
    """Rounds of a session."""
    steps: int = 100
    """Steps of a round, see `mereq teach` [steps]."""
    practice: str | None = None
    """Task of a first session of one round, which does not count; none without it."""
    compare: bool = True
    """Whether participants finally compare the policies of each pair of methods, blind."""
    consent: str = CONSENT
    """What participants agree to."""

    @property
    def conditions(self) -> list[tuple[str, str]]:
        """Each task with each method."""
        return list(product(self.tasks, self.methods))


@dataclass(frozen=True)
class Stage:
    """A stage of a participant's way through a study.

    Attributes:
        kind: what is done.
        position: of its session in the participant's order, from 1; 0 if it belongs to none.
        task: its task, if any.
        methods: that of its session, or the two that are compared.
    """

    kind: Kind
    position: int = 0
    task: str = ""
    methods: tuple[str, ...] = ()


def read_plan(file: Path) -> Plan:
    """Read a plan, a small TOML file.

    Raises:
        UsageError: if there is none, or it cannot be done; the message says why.
    """
    try:
        found = tomllib.loads(read_file(file, LARGEST_PLAN).decode())
        plan = msgspec.convert(found, Plan)
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror or error}") from error
    except (ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise UsageError(f"{file} is not a study plan: {error}") from error
    try:
        _check(plan)
    except ValueError as error:  # a method that the task cannot be taught by
        raise UsageError(f"{file}: {error}") from error
    return plan


def _check(plan: Plan) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", plan.name):
        raise UsageError(f"name must be letters, digits, - and _, for a folder, got {plan.name!r}")
    for name in ("tasks", "methods"):
        values = getattr(plan, name)
        if not values or len(set(values)) < len(values):
            raise UsageError(f"{name} must name at least one, and none twice, got {values}")
    for name, most in (("rounds", 100), ("steps", 100_000)):
        if not 1 <= getattr(plan, name) <= most:
            raise UsageError(f"{name} must be from 1 to {most}, got {getattr(plan, name)}")
    for method in plan.methods:
        check_name("method", method, METHODS)
    for task in [*plan.tasks, *filter(None, [plan.practice])]:
        for method in plan.methods:
            if METHODS[method].tables_only:
                make_aligner(load_task(task), METHODS[method])
        load_task(task)


def balance(n: int) -> list[list[int]]:
    """Williams design: orders of n conditions, balanced for position and for which condition precedes which.

    A Latin square with n rows for even n; for odd n two squares, one the mirror of the other, with 2 n rows.
    Williams 1949.
    """
    first = [(k + 1) // 2 if k % 2 else -(k // 2) for k in range(n)]
    rows = [[(k + shift) % n for k in first] for shift in range(n)]
    return rows + [row[::-1] for row in rows] if n % 2 and n > 1 else rows


def list_stages(plan: Plan, number: int) -> list[Stage]:
    """What the participant of a number, from 0, goes through."""
    orders = balance(len(plan.conditions))
    stages = [Stage("consent")]
    if plan.practice is not None:
        stages.append(Stage("practice", 0, plan.practice, (plan.methods[0],)))
    for position, k in enumerate(orders[number % len(orders)], 1):
        task, method = plan.conditions[k]
        stages += [Stage(kind, position, task, (method,)) for kind in ("session", "tlx")]
    if plan.compare:
        stages += [Stage("compare", 0, *each) for each in product(plan.tasks, combinations(plan.methods, 2))]
    return [*stages, Stage("end")]


def configure(plan: Plan, stage: Stage, number: int) -> RunConfig:
    """The run that a session of the participant of that number makes."""
    rounds = 1 if stage.kind == "practice" else plan.rounds
    return RunConfig(
        stage.task,
        stage.methods[0],
        1000 * number + stage.position,
        LoopConfig(rounds, plan.steps),
        quick_estimators(load_task(stage.task)),
        expert=HUMAN,
    )
