"""What a live session does unless told otherwise: it learns by what suits a person, who waits for it."""

from __future__ import annotations

from dataclasses import replace

from mereq_min.interfaces import Task
from mereq_min.loop import settings_of
from mereq_min.methods import EstimatorConfig

MOST_SOLVES = 8
"""Policies that a neural learner solves for in an update of the segment likelihood, each in about a second: a
person waits for it. Each round goes on from the last, and does what that one left undone."""


def find_best_method(task: Task) -> str:
    """The method that suits a person best: on tables the one that forgives wrong keys."""
    is_table = hasattr(task, "make_tempered_learner") and not _has_networks(task)
    return "MEReQ-R" if is_table else "MEReQ-L"


def quick_estimators(task: Task) -> EstimatorConfig:
    """The settings of a task's recorded runs, but quick to update."""
    found = settings_of(task).estimators
    if not _has_networks(task):
        return found
    solves = min(found.likelihood.max_iterations, MOST_SOLVES)
    return replace(found, likelihood=replace(found.likelihood, max_iterations=solves))


def _has_networks(task: Task) -> bool:
    """Whether the learners of a task are networks, which an engine computes."""
    return getattr(task, "engine", None) is not None
