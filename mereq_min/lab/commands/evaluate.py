"""The command `mereq evaluate`: how well a policy does on the simulator on which results are reported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from mereq_min.lab.commands.console import console, stderr_console
from mereq_min.lab.plugins import load_environment, load_policy
from mereq_min.lab.runs.files import write_file
from mereq_min.lab.show.tables import evaluation_table
from mereq_min.validation import check_number


@dataclass(frozen=True)
class Evaluate:
    """Measure a policy over whole episodes on the task's reference simulator, without interventions."""

    policy: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="POLICY")]
    """prior, expert, random, a file (.safetensors, or .zip of Stable-Baselines3), or module:attribute of your
    own."""
    task: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TASK")]
    """Name of the task, module:attribute of your own, or a gymnasium id that `mereq pretrain` knows."""
    episodes: int | None = None
    """Number of episodes; default: the task's own choice. Exact measures refuse it [episodes]."""
    random: tyro.conf.FlagCreatePairsOff[bool] = False
    """Also show what random actions achieve."""
    gif: Path | None = None
    """Write a film of the policy to this file."""

    def __call__(self) -> int:
        """Print the measures."""
        if self.episodes is not None:
            check_number("episodes", self.episodes, 1, integer=True)
        task = load_environment(self.task)
        policies: dict[str, Any] = {self.policy: load_policy(self.policy, task)}
        if self.random:
            policies["random"] = load_policy("random", task)
        with stderr_console.status(f"evaluating {', '.join(policies)}"):
            measures = {
                name: check_measures(task, task.evaluate(policy, episodes=self.episodes, reference=True))
                for name, policy in policies.items()
            }
        count = "" if self.episodes is None else f", {self.episodes} episodes"
        console.print(evaluation_table(self.task + count, task, measures))
        if self.gif is not None:
            from mereq_min.lab.show.film import film, to_gif

            films = [film(task, policy, name, seed=0, watched=False) for name, policy in policies.items()]
            write_file(self.gif, to_gif(films))
            console.print(f"film: {self.gif}", highlight=False, soft_wrap=True)
        return 0


def check_measures(task: Any, measures: Any) -> dict[str, Any]:
    """Return what a task's `evaluate` returned, after checking that it holds numbers by name.

    Raises:
        ValueError: if it does not.
    """
    if not isinstance(measures, dict) or not measures:
        raise ValueError(
            f"evaluate of the task {task.name} must return its measures by name, such as "
            f"{{'task_return': 1.0}}, got {measures!r:.60}"
        )
    for name, value in measures.items():
        if not isinstance(name, str) or np.asarray(value).dtype.kind not in "fiub":
            raise ValueError(
                f"evaluate of the task {task.name} must return numbers by name, got {value!r:.60} "
                f"as {name!r:.60}"
            )
    return measures
