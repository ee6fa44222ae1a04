"""Update after every episode, and count the expert samples until the rate stays below 0.05.

    python figures/every_episode.py    # run what is missing (about an hour of one core)

In one episode the rate is mostly noise. Each policy is therefore judged by 2,000 further watched steps, which
are not counted. `python figures/results.py` writes the table.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from recording import append_missing

from mereq_min import METHODS, LoopConfig, align, make_aligner, watch
from mereq_min.lab.plugins import load_task
from mereq_min.methods import choose_method

SEEDS = {
    "carpet": 30,
    "lanes": 30,
    "shelf": 30,
    "windy": 30,
    "highway": 8,
    "bottle": 4,
    "eraser": 4,
    "pillow": 4,
}
"""Runs of each task."""
FIRST_SEED = 3_000
"""The tasks were calibrated on seeds below 3,000."""
EPISODES, WATCHED = 20, 2_000
"""Updates of a run, and watched steps by which each policy is judged."""


@dataclass(frozen=True)
class Arguments:
    """Update the default method after every episode."""

    tasks: tuple[str, ...] = tuple(SEEDS)
    """Tasks to run."""
    data: Path = Path("figures/every_episode.jsonl")
    """The record."""


def list_jobs(tasks: tuple[str, ...]) -> Iterator[tuple[str, str, int]]:
    """Yield task, method and seed of each run; the first seed of every task comes first."""
    methods = {task: choose_method(load_task(task)) for task in tasks}
    for number in range(max(SEEDS.values())):
        for task in tasks:
            if number < SEEDS[task]:
                yield task, methods[task], FIRST_SEED + number


def measure(name: str, method: str, seed: int) -> dict[str, Any]:
    """Run once: the expert's steps after each episode, and the rate of the policy made of them."""
    task = load_task(name)
    assert task.oracle is not None
    aligner = make_aligner(task, METHODS[method], seed=seed)
    samples, rates = [], []
    for iteration in align(task, aligner, LoopConfig(EPISODES, task.horizon), seed=seed):
        samples.append(iteration.expert_samples)
        rates.append(watch(task, iteration.policy, task.oracle, WATCHED, seed).intervention_rate)
    return {"expert_samples": samples, "rate": [round(rate, 5) for rate in rates]}


if __name__ == "__main__":
    arguments = tyro.cli(Arguments)
    config = {"episodes": EPISODES, "watched": WATCHED}
    append_missing(arguments.data, config, ("task", "method", "seed"), list_jobs(arguments.tasks), measure)
