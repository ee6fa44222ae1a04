"""The contract of every installed task and of its oracle; a new task joins by being installed."""

from functools import cache

import pytest

from mereq_min.lab.conformance.harness import run_check
from mereq_min.lab.conformance.oracle import ORACLE_CHECKS
from mereq_min.lab.conformance.subject import TaskSubject
from mereq_min.lab.conformance.task import TASK_CHECKS
from mereq_min.lab.plugins import load_task, task_factories

QUICK = {"carpet", "lanes", "shelf", "windy"}
"""Tasks whose rollouts take seconds; those of the others take half a minute or more."""

NAMES = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow, id=name) for name in task_factories()
]


@cache
def subject(name):
    """The task, whose rollouts and measures all checks share."""
    return TaskSubject(load_task(name), seed=0)


@pytest.mark.parametrize("check", TASK_CHECKS, ids=lambda check: check.title)
@pytest.mark.parametrize("name", NAMES)
def test_the_task_keeps_its_contract(name, check):
    assert run_check(check, subject(name)) == []


@pytest.mark.parametrize("check", ORACLE_CHECKS, ids=lambda check: check.title)
@pytest.mark.parametrize("name", NAMES)
def test_the_oracle_of_the_task_keeps_its_contract(name, check):
    assert run_check(check, subject(name)) == []
