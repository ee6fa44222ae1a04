"""Align a car that somebody else trained, watched by an expert made for it and by the shipped one.

    python figures/foreign_prior.py    # run what is missing (about ten minutes of one core)

The prior, `deep/examples/highway-prior.zip`, is a DQN of Stable-Baselines3; `deep/examples/train_priors.py`
made it. The shipped expert customised another network for the same wish. Each policy of a run is judged by
2,000 further watched steps, and by whole episodes. `python figures/results.py` writes the table.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import tyro
from recording import append_missing

from mereq_min import METHODS, Policy, Task, align, make_aligner, settings_of, watch
from mereq_min.lab.plugins import load_task, prepare_task

PRIOR = "deep/examples/highway-prior.zip"
"""The prior's file, as `mereq align highway --prior` takes it."""
METHOD, ITERATIONS = "MEReQ-L", 3
WATCHED, EPISODES = 2_000, 500
"""Watched steps and whole episodes by which each policy is judged."""
EXPERTS = ("made for it", "the shipped one")
"""Experts that are compared."""


@dataclass(frozen=True)
class Arguments:
    """Align the foreign prior with either expert."""

    first_seed: int = 3_000
    """The first seed."""
    seeds: int = 8
    """Runs with each expert."""
    data: Path = Path("figures/foreign_prior.jsonl")
    """The record."""


def list_jobs(arguments: Arguments) -> Iterator[tuple[str, int]]:
    """Yield expert and seed of each run."""
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        for expert in EXPERTS:
            yield expert, seed


def load_foreign(expert: str) -> Task:
    """The highway with the foreign prior and one of the experts."""
    task: Any = prepare_task("highway", prior=PRIOR, cache=Path("runs/experts"))
    if expert == "made for it":
        return task
    shipped = load_task("highway").oracle
    assert shipped is not None
    return replace(task, oracle=replace(task.oracle, expert=shipped.expert_policy))


def judge(task: Task, policy: Policy, seed: int) -> dict[str, float]:
    """The rate at which the expert objects to a policy, and the share of its episodes without a crash."""
    assert task.oracle is not None
    rate = watch(task, policy, task.oracle, WATCHED, seed).intervention_rate
    return {"rate": rate, "success": task.evaluate(policy, episodes=EPISODES)["success"]}


def measure(expert: str, seed: int) -> dict[str, Any]:
    """Run once; prior first, then the policy made by each iteration."""
    task = load_foreign(expert)
    aligner = make_aligner(task, METHODS[METHOD], seed=seed)
    loop = replace(settings_of(task).loop, iterations=ITERATIONS)
    turns = list(align(task, aligner, loop, seed=seed))
    judged = [judge(task, policy, seed) for policy in (task.prior, *(turn.policy for turn in turns))]
    return {
        "expert_samples": [turn.expert_samples for turn in turns],
        "theta": [turn.info["theta"].round(4).tolist() for turn in turns],
        **{name: [round(each[name], 5) for each in judged] for name in judged[0]},
    }


if __name__ == "__main__":
    arguments = tyro.cli(Arguments)
    config = {
        "prior": PRIOR,
        "method": METHOD,
        "iterations": ITERATIONS,
        "watched": WATCHED,
        "episodes": EPISODES,
        "loop": asdict(settings_of(load_task("highway")).loop),
    }
    append_missing(arguments.data, config, ("expert", "seed"), list_jobs(arguments), measure)
