"""The loop of alignment from intervention, Chen et al. (2025): the same for tables, networks and people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from mereq_min.experts import DemonstratingExpert
from mereq_min.interfaces import Aligner, Expert, Imperfections, Info, Policy, Task
from mereq_min.methods import EstimatorConfig
from mereq_min.rollout import rollout
from mereq_min.steps import Steps, concatenate
from mereq_min.validation import check_number


@dataclass(frozen=True)
class LoopConfig:
    """Settings of the loop: how much to roll out, when to stop, and how the simulated expert behaves."""

    iterations: int = 10
    """Largest number of iterations."""
    steps_per_iteration: int = 250
    """n, steps rolled out between updates [steps]."""
    threshold: float = 0.0
    """delta: stop once the intervention rate is below it. With 0 the loop runs all iterations."""
    demonstrations: bool = False
    """Learn from whole demonstrations: the oracle's expert controls every step, and the rate is 1."""
    imperfections: Imperfections = field(default_factory=Imperfections)
    """Errors of the simulated expert; a demonstrating one makes none."""

    def __post_init__(self) -> None:
        check_number("iterations", self.iterations, 1, integer=True)
        check_number("steps_per_iteration", self.steps_per_iteration, 1, integer=True)
        check_number("threshold", self.threshold, 0, 1)


@dataclass(frozen=True)
class Settings:
    """All settings of a run; a task may state those of its recorded runs as `recorded_settings`."""

    loop: LoopConfig = field(default_factory=LoopConfig)
    """Settings of the loop."""
    estimators: EstimatorConfig = field(default_factory=EstimatorConfig)
    """Settings of the estimators."""


def settings_of(task: Task) -> Settings:
    """Return the settings of a task's recorded runs, or the defaults if it states none."""
    return getattr(task, "recorded_settings", None) or Settings()


@dataclass(frozen=True)
class Iteration:
    """Result of one iteration of the loop.

    Attributes:
        iteration: number of the iteration, from 1.
        steps: the steps rolled out in this iteration, with the policy from before its update.
        intervention_rate: lambda of those steps.
        expert_samples: number of expert steps in this and all earlier iterations.
        policy: the policy after this iteration's update; unchanged if the rate fell below the threshold.
        info: what the update reports, `theta` included (None for imitation); without an update, the current
            estimate.
    """

    iteration: int
    steps: Steps
    intervention_rate: float
    expert_samples: int
    policy: Policy
    info: Info


def align(
    task: Task,
    aligner: Aligner,
    config: LoopConfig | None = None,
    *,
    seed: int,
    expert: Expert | None = None,
    done: Sequence[Steps] = (),
) -> Iterator[Iteration]:
    """Roll out the policy while the expert watches, update the policy, and repeat; yields each iteration.

    The randomness of an iteration depends only on the seed and on its number. A run resumed after any
    iteration therefore continues bit for bit, and all methods that start from the prior have the same first
    iteration.

    Book: eq-loop.

    Args:
        task: the task.
        aligner: the method, see `make_aligner`; the caller restores it if iterations are already done.
        config: settings; default: `recorded_settings` of the task, if it has any.
        seed: seed of the run.
        expert: who watches; default: the simulated expert of the task's oracle.
        done: the steps of each iteration already done.

    Yields:
        One `Iteration` after another.

    Raises:
        ValueError: if there is neither an expert nor an oracle to simulate one.
    """
    config = settings_of(task).loop if config is None else config
    expert = make_watcher(task, config) if expert is None else expert
    batches = list(done)
    while len(batches) < config.iterations and not _reached(batches, config.threshold):
        version = len(batches)
        streams = np.random.SeedSequence(seed, spawn_key=(version,)).spawn(2)
        rollout_rng, expert_rng = (np.random.default_rng(stream) for stream in streams)
        steps = rollout(
            task,
            aligner.policy,
            expert,
            config.steps_per_iteration,
            rollout_rng,
            expert_rng=expert_rng,
            policy_version=version,
            first_episode=int(batches[-1].episode[-1]) + 1 if batches else 0,
        )
        batches.append(steps)
        everything = concatenate(batches)
        rate = steps.intervention_rate
        # Below the threshold the measured policy is the result: an update would be unmeasured.
        info = aligner.info if rate < config.threshold else aligner.update(everything, expert.patience)[1]
        yield Iteration(version + 1, steps, rate, int(everything.is_intervention.sum()), aligner.policy, info)


def fit_log(
    aligner: Aligner, recorded: Sequence[Steps], patience: int, *, n_done: int = 0
) -> Iterator[Iteration]:
    """Update the policy from recorded iterations one by one, as `align` does from its own rollouts.

    A log of the same method, prior and seed therefore leads to the same theta, bit for bit.

    Args:
        aligner: the method; the caller restores it if iterations are already done.
        recorded: the steps of each iteration.
        patience: number of steps before a takeover that provoked it, see `Expert.patience`.
        n_done: number of iterations already done.

    Yields:
        One `Iteration` after another.
    """
    for number in range(n_done + 1, len(recorded) + 1):
        everything, steps = concatenate(recorded[:number]), recorded[number - 1]
        info = aligner.update(everything, patience)[1]
        n_expert = int(everything.is_intervention.sum())
        yield Iteration(number, steps, steps.intervention_rate, n_expert, aligner.policy, info)


def make_watcher(task: Task, config: LoopConfig) -> Expert:
    """Return the simulated expert of a task's oracle, as the settings ask for.

    Args:
        task: the task.
        config: whether the expert demonstrates, and which errors it makes.

    Raises:
        ValueError: if the task has no oracle.
    """
    if task.oracle is None:
        raise ValueError(
            f"the task {task.name} has no oracle to simulate an expert with; pass expert=..., or give the "
            "task an oracle by make_oracle of deep or gridworlds"
        )
    if config.demonstrations:
        return DemonstratingExpert(task.oracle.expert_policy)
    return task.oracle.make_expert(config.imperfections)


def _reached(batches: Sequence[Steps], threshold: float) -> bool:
    return bool(batches) and batches[-1].intervention_rate < threshold
