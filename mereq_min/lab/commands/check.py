"""The commands `mereq check-policy` and `mereq check-task`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import tyro
from rich.text import Text

from mereq_min.lab.commands.console import console
from mereq_min.lab.conformance.density import PolicySubject
from mereq_min.lab.conformance.harness import Result, count, run_checks
from mereq_min.lab.conformance.policy import POLICY_CHECKS
from mereq_min.lab.conformance.subject import TaskSubject
from mereq_min.lab.conformance.task import run_task_checks
from mereq_min.lab.plugins import find_policy, find_task, load_task
from mereq_min.rollout import rollout
from mereq_min.validation import check_number

_STYLES = {"holds": "green", "fails": "red", "not checked": "yellow", "no oracle": "yellow"}


@dataclass(frozen=True)
class CheckPolicy:
    """Check a policy of your own against the contract of policies, on the states of a task."""

    policy: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="POLICY")]
    """module:attribute (a policy, or a function or class that makes one), a saved .safetensors policy, or a
    file of another kind that an installed package can load, such as a .zip of Stable-Baselines3."""
    task: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TASK")]
    """Name of the task whose states are shown to the policy (see `mereq tasks`), or module:attribute."""
    steps: int = 500
    """Number of steps of the task's prior that the states are taken from [steps]."""
    seed: int = 0
    """Seed of all randomness."""

    def __call__(self) -> int:
        """Print the result of each check; returns 0 if all hold, else 1."""
        check_number("steps", self.steps, 2, integer=True)
        check_number("seed", self.seed, 0, integer=True)
        task = load_task(self.task)
        policy = find_policy(self.policy, task)  # what does not fit is a finding
        states = rollout(task, task.prior, None, self.steps, np.random.default_rng(self.seed)).state
        space = task.make_env().action_space
        return show_results(run_checks(POLICY_CHECKS, PolicySubject(policy, states, space, self.seed)))


@dataclass(frozen=True)
class CheckTask:
    """Check a task of your own against the contract of tasks, and its oracle, if it has one."""

    task: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TASK")]
    """Name of the task (see `mereq tasks`), or module:attribute."""
    seed: int = 0
    """Seed of all rollouts."""

    def __call__(self) -> int:
        """Print the result of each check; returns 0 if all that apply hold, else 1."""
        check_number("seed", self.seed, 0, integer=True)
        return show_results(run_task_checks(TaskSubject(find_task(self.task), self.seed)))


def show_results(results: Iterable[Result]) -> int:
    """Print each result as soon as it is there, with its findings; returns 0 if there are none, else 1."""
    n_findings, lacks_oracle = 0, False
    for result in results:
        console.print(
            Text.assemble((f"{result.status:13}", _STYLES[result.status]), result.title), soft_wrap=True
        )
        for finding in result.findings:
            console.print(Text(f"{'':13}- {finding}"), soft_wrap=True)
        n_findings += len(result.findings)
        lacks_oracle = lacks_oracle or result.status == "no oracle"
    remark = "; the task has no oracle, so the checks of an oracle do not apply" if lacks_oracle else ""
    total = count(n_findings, "finding") if n_findings else "no findings"
    console.print(Text(f"{total}{remark}"), soft_wrap=True)
    return 1 if n_findings else 0
