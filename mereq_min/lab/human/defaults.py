"""What a live session does unless told otherwise: it learns by what suits a person, who waits for it."""

from __future__ import annotations

from dataclasses import replace

from mereq_min.interfaces import Task
from mereq_min.loop import settings_of
from mereq_min.methods import EstimatorConfig, has_networks

MOST_SOLVES = 8
"""Policies that a neural learner solves for in an update of the segment likelihood, each in about a second: a
person waits for it. Each round goes on from the last, and does what that one left undone."""


def quick_estimators(task: Task) -> EstimatorConfig:
    """The settings of a task's recorded runs, but quick to update."""
    found = settings_of(task).estimators
    if not has_networks(task):
        return found
    solves = min(found.likelihood.max_iterations, MOST_SOLVES)
    return replace(found, likelihood=replace(found.likelihood, max_iterations=solves))
