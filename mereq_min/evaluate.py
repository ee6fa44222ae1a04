"""The command `mereq evaluate`: how a policy does on the simulator on which results are reported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from gymnasium import spaces
from numpy.typing import NDArray
from rich.console import Console

from mereq_min.catalogue import load_environment
from mereq_min.check import load_policy
from mereq_min.checks import Array, check_number
from mereq_min.pictures import film, to_gif
from mereq_min.report import evaluation_table
from mereq_min.runs import write_file


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


class UniformPolicy:
    """Draws any action of a finite set, or of a bounded Box, alike.

    Raises:
        ValueError: on any other space.
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        if not isinstance(space, spaces.Discrete) and not (
            isinstance(space, spaces.Box) and space.is_bounded()
        ):
            raise ValueError(f"space must be Discrete or a bounded Box, got {space}")
        self.space = space

    def log_prob(self, state: NDArray[Any], action: NDArray[Any]) -> Array:
        """Log-probability or log-density (N,), the same for all."""
        if isinstance(self.space, spaces.Discrete):
            return np.full(len(state), -np.log(float(self.space.n)))
        return np.full(len(state), -np.log(self.space.high - self.space.low).sum())

    def sample(self, state: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """Draw actions (N, ...)."""
        if isinstance(self.space, spaces.Discrete):
            return self.space.start + rng.integers(self.space.n, size=len(state))
        shape = (len(state), *self.space.shape)
        return rng.uniform(self.space.low, self.space.high, shape).astype(self.space.dtype)
