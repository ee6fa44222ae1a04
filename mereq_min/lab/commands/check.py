"""The commands `mereq check-policy` and `mereq check-task`, and how a policy is named on the command line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import tyro
from rich.console import Console
from rich.text import Text

from mereq_min.lab.conformance.density import PolicySubject
from mereq_min.lab.conformance.harness import run_checks
from mereq_min.lab.conformance.policy import POLICY_CHECKS
from mereq_min.lab.conformance.task import TASK_CHECKS, TaskSubject
from mereq_min.lab.plugins import UsageError, load_policy, load_task
from mereq_min.rollout import rollout


@dataclass(frozen=True)
class CheckPolicy:
    """Check that a policy of your own can take part: what it promises, against what it does."""

    policy: tyro.conf.Positional[str]
    """module:attribute (a policy, or what makes one), a saved .safetensors policy, or a file of another kind
    for which a loader is installed, such as a .zip of Stable-Baselines3."""
    task: tyro.conf.Positional[str]
    """Name of the task whose states it is shown (see `mereq tasks`), or module:attribute of your own."""
    steps: int = 500
    """Steps of the task's prior, from which the states are taken [steps]."""
    seed: int = 0
    """Seed of all randomness."""

    def __call__(self) -> int:
        """Print what was checked; 0 if all is well."""
        if self.steps < 2 or self.seed < 0:
            raise UsageError("--steps must be at least 2, --seed at least 0")
        task = load_task(self.task)
        policy = load_policy(self.policy, task)
        states = rollout(task, task.prior, None, self.steps, np.random.default_rng(self.seed)).state
        space = task.make_env().action_space
        return show_checks(run_checks(POLICY_CHECKS, PolicySubject(policy, states, space, self.seed)))


@dataclass(frozen=True)
class CheckTask:
    """Check that a task of your own can take part: its promises, calibration, prior and expert."""

    task: tyro.conf.Positional[str]
    """Name of the task (see `mereq tasks`), or module:attribute of your own."""
    seed: int = 0
    """Seed of all rollouts."""

    def __call__(self) -> int:
        """Print what was checked; 0 if all is well."""
        if self.seed < 0:
            raise UsageError("--seed must be at least 0")
        return show_checks(run_checks(TASK_CHECKS, TaskSubject(load_task(self.task), self.seed)))


def show_checks(results: Iterable[tuple[str, list[str] | None]]) -> int:
    """Print each check as it is made, and its findings; returns 0 if there are none, else 1."""
    console = Console(soft_wrap=True, highlight=False)
    n_findings = 0
    for title, found in results:
        if found is None:
            console.print(Text.assemble(("not checked  ", "yellow"), title))
            continue
        console.print(Text.assemble(("fails        ", "red") if found else ("holds        ", "green"), title))
        for finding in found:
            console.print(Text(f"             - {finding}"))
        n_findings += len(found)
    console.print(Text(f"{n_findings or 'no'} finding{'' if n_findings == 1 else 's'}"))
    return 1 if n_findings else 0
