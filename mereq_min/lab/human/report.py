"""What a person is told after a round: numbers, and in words what changed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median

import msgspec

from mereq_min.interfaces import Task
from mereq_min.lab.human.journal import Take
from mereq_min.lab.human.learning import Update
from mereq_min.lab.human.protocol import Film, Report, Weight
from mereq_min.lab.human.scenes import Scene
from mereq_min.lab.runs.records import Row
from mereq_min.steps import Steps

SMALLEST_CHANGE = 0.005
"""Change of a weight that is not worth a word [reward]."""


def make_report(
    task: Task,
    scene: Scene,
    update: Update,
    log: Sequence[Row],
    steps: Steps,
    takes: Sequence[Take],
    patience: int,
    round_trips: Sequence[float],
) -> Report:
    """What to tell after an update.

    Args:
        task: names the features.
        scene: has the words for them.
        update: the update.
        log: the rows of the rounds before.
        steps: those of the round.
        takes: the same, as they were decided.
        patience: with which the update was made.
        round_trips: what the page in control measured [ms].
    """
    row = update.row
    version, reactions = row["iteration"], [each.reaction for each in takes if each.reaction is not None]
    return Report(
        round=version,
        version=version,
        rate=row["intervention_rate"],
        rates=[*(each["intervention_rate"] for each in log), row["intervention_rate"]],
        steps=len(steps),
        takeovers=len(steps.segments()),
        person_seconds=sum(each.seconds for each in takes),
        keystrokes=sum(each.keys for each in takes),
        reaction=median(reactions) if reactions else None,
        patience=patience,
        round_trip_ms=median(round_trips) if round_trips else None,
        update_seconds=update.seconds,
        weights=weigh(task.feature_names, row, log[-1] if log else None, scene.words),
        unsure=find_unsure(task.feature_names, row),
        before=Film(version - 1, update.before),
        after=Film(version, update.after),
        telling=update.telling,
        heat=update.chart[0],
        arrows=update.chart[1],
    )


def hide_method(report: Report) -> Report:
    """A report without what tells the method: weights, what follows from them, and the time of the update."""
    return msgspec.structs.replace(
        report, weights=None, unsure="", telling=None, heat=None, update_seconds=0.0
    )


def weigh(
    names: Sequence[str], row: Row, before: Row | None, words: Mapping[str, tuple[str, str]]
) -> list[Weight] | None:
    """The weights after an update, in numbers and in words; None for imitation."""
    theta = row["theta"]
    if theta is None:
        return None
    old = [0.0] * len(theta) if before is None or before["theta"] is None else before["theta"]
    errors = row.get("standard_errors", [None] * len(theta))
    return [
        Weight(name, now, error, now - then, say_change(name, now - then, words))
        for name, now, then, error in zip(names, theta, old, errors, strict=True)
    ]


def say_change(name: str, change: float, words: Mapping[str, tuple[str, str]]) -> str:
    """A change of a weight in words, such as "keeps right more: +0.41"."""
    if abs(change) < SMALLEST_CHANGE:
        return f"{name}: as before"
    more, less = words.get(name, (f"more {name}", f"less {name}"))
    return f"{more if change > 0 else less}: {change:+.2f}"


def find_unsure(names: Sequence[str], row: Row) -> str:
    """The least certain weight in words: that with the largest standard error.

    With n independent takeovers the error of a weight shrinks like 1 / sqrt(n): as many again make it 0.7 of
    what it is.
    """
    errors = row.get("standard_errors")
    if not errors:
        return ""
    if any(error is None for error in errors):
        return "take over a few more times: the data do not determine the weights yet"
    name, error = max(zip(names, errors, strict=True), key=lambda pair: pair[1] or 0.0)
    assert error is not None  # the line above
    return (
        f"{name} is the least certain (+-{error:.2f}); twice as many takeovers would make that about "
        f"+-{error / math.sqrt(2):.2f}"
    )
