"""The command `mereq evaluate`: how a policy does on the simulator on which results are reported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console

from mereq_min.lab.plugins import load_environment, load_policy
from mereq_min.lab.runs.files import write_file
from mereq_min.lab.show.film import film, to_gif
from mereq_min.lab.show.tables import evaluation_table
from mereq_min.policies import UniformPolicy
from mereq_min.validation import check_number


@dataclass(frozen=True)
class Evaluate:
    """Measure a policy over whole episodes on the task's reference simulator, without interventions."""

    policy: tyro.conf.Positional[str]
    """prior, expert, a file (.safetensors, or .zip of Stable-Baselines3), or module:attribute of your own."""
    task: tyro.conf.Positional[str]
    """Name of the task, module:attribute of your own, or a gymnasium id that `mereq pretrain` knows."""
    episodes: int = 100
    """Episodes [episodes]."""
    random: bool = False
    """Show beside it what random actions achieve."""
    gif: Path | None = None
    """Film it here."""

    def __call__(self) -> int:
        """Print the measures."""
        check_number("episodes", self.episodes, 1, whole=True)
        task = load_environment(self.task)
        policies: dict[str, Any] = {self.policy: load_policy(self.policy, task)}
        if self.random:
            policies["random"] = UniformPolicy(task.make_env().action_space)
        with Console(stderr=True).status(f"evaluating {', '.join(policies)}"):
            measures = {
                name: task.evaluate(policy, episodes=self.episodes, reference=True)
                for name, policy in policies.items()
            }
        console = Console(soft_wrap=True)
        console.print(evaluation_table(f"{self.task}, {self.episodes} episodes", task, measures))
        if self.gif is not None:
            films = [film(task, policy, name, seed=0, watched=False) for name, policy in policies.items()]
            write_file(self.gif, to_gif(films))
            console.print(f"film: {self.gif}", highlight=False)
        return 0
