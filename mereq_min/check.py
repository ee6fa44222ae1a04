"""The commands `mereq check-policy` and `mereq check-task`, and how a policy is named on the command line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.text import Text
from safetensors import SafetensorError
from safetensors.numpy import load

from mereq_min.catalogue import UsageError, import_attribute, load_task
from mereq_min.contracts import POLICY_CHECKS, TASK_CHECKS, PolicySubject, TaskSubject, run_checks
from mereq_min.interfaces import Policy
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


def load_policy(name: str, task: Any) -> Policy:
    """The policy of that name, for a task.

    Args:
        name: "prior" or "expert" for the task's own; `module:attribute` of a policy or of what makes one
            without arguments; a file that a run of the task saved (.safetensors); or a file with a suffix
            for which an installed distribution offers a loader, `(path, task) -> Policy`, under the entry
            point `mereq_min.policy_loaders`.
        task: the task that the policy is for, or an environment to pretrain on.

    Raises:
        UsageError: if there is none.
        ValueError: if the file is not one of that kind.
    """
    own = {"prior": "prior", "expert": "expert_policy"}.get(name)
    if own is not None and hasattr(task, own):
        return getattr(task, own)
    if own is not None:
        raise UsageError(f"the task comes without {name}; name a policy by its file or as module:attribute")
    suffix = Path(name).suffix.removeprefix(".")
    loaders = {entry.name: entry for entry in entry_points(group="mereq_min.policy_loaders")}
    try:
        if suffix == "safetensors":
            policy: Any = task.load_policy(_read_arrays(Path(name)))
        elif suffix in loaders:
            policy = loaders[suffix].load()(Path(name), task)
        elif ":" in name:
            policy = _import(name)
        else:
            known = ", ".join(f".{kind}" for kind in sorted({"safetensors", *loaders}))
            raise UsageError(
                f"policy must be prior, expert, module:attribute or a file ({known}), got {name!r}"
            )
    except (OSError, SafetensorError, ImportError, AttributeError, TypeError, RecursionError) as error:
        raise UsageError(f"cannot load policy {name!r}: {error}") from error
    if not hasattr(policy, "log_prob"):
        raise UsageError(
            f"cannot load policy {name!r}: it is a {type(policy).__name__}, which has no log_prob"
        )
    return policy


def _read_arrays(file: Path) -> dict[str, NDArray[Any]]:
    try:
        return load(file.read_bytes())
    except KeyError as error:
        raise TypeError(f"numpy has no numbers of type {error}; save it in float32") from error


def _import(name: str) -> Any:
    found = import_attribute(name)
    is_factory = isinstance(found, type) or (callable(found) and not hasattr(found, "log_prob"))
    return found() if is_factory else found
