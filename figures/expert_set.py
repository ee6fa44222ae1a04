"""Give MEReQ an expert set without bias, and see what its own set costs it.

    python figures/expert_set.py    # run what is missing (about half an hour of one core)

MEReQ's expert set is what the expert did and let pass: pieces of episodes, chosen by her rule. Here each
iteration's set is exchanged for as many steps of whole episodes of her own policy, which a learner could not
have. All else stays: feature matching, networks, takeovers. `python figures/results.py` writes the table.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from recording import append_missing, describe_run

from mereq_min import METHODS, Policy, Steps, align, make_aligner, settings_of, watch
from mereq_min.lab.plugins import load_task
from mereq_min.methods import InverseRL
from mereq_min.steps import last_iteration

SETS = ("its own", "whole episodes")
"""Expert sets that are compared."""


@dataclass(frozen=True)
class Arguments:
    """Run MEReQ with its own expert set, and with one of whole episodes."""

    tasks: tuple[str, ...] = ("bottle", "highway")
    """Tasks to run."""
    first_seed: int = 2_100
    """The first seed."""
    seeds: int = 4
    """Runs of each."""
    data: Path = Path("figures/expert_set.jsonl")
    """The record."""


class Informed(InverseRL):
    """Inverse RL whose expert set is whole episodes of the expert's own policy; arguments as its parent's."""

    def __init__(self, task: Any, seed: int) -> None:
        config = settings_of(task).estimators
        learner = task.make_learner("residual", config.matching.discount, seed=seed)
        super().__init__(task, METHODS["MEReQ"], learner, config)
        self._task, self._seed, self._updates = task, seed, 0

    def update(self, steps: Steps, patience: int) -> tuple[Policy, Any]:
        """Fit as many steps of the expert's as the last iteration has."""
        self._updates += 1
        n_steps = len(last_iteration(steps).state)
        oracle, seed = self._task.oracle, (self._seed, self._updates)
        shown = watch(self._task, oracle.expert_policy, oracle, n_steps, seed)
        return super().update(replace(shown, is_intervention=np.ones(n_steps, dtype=bool)), patience)


def list_jobs(arguments: Arguments) -> Iterator[tuple[str, str, int]]:
    """Yield task, expert set and seed of each run."""
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        for task in arguments.tasks:
            for expert_set in SETS:
                yield task, expert_set, seed


def measure(name: str, expert_set: str, seed: int) -> dict[str, Any]:
    """Run once; the last measures are those of the last policy."""
    task = load_task(name)
    is_whole = expert_set == "whole episodes"
    aligner = Informed(task, seed) if is_whole else make_aligner(task, METHODS["MEReQ"], seed=seed)
    return describe_run(task, list(align(task, aligner, settings_of(task).loop, seed=seed)))


if __name__ == "__main__":
    arguments = tyro.cli(Arguments)
    loops = {name: asdict(settings_of(load_task(name)).loop) for name in Arguments().tasks}
    keys = ("task", "expert_set", "seed")
    append_missing(arguments.data, {"loops": loops}, keys, list_jobs(arguments), measure)
