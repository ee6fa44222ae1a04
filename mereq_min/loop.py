"""The loop of alignment from intervention, once for tables, networks and people; Chen et al. (2025)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from mereq_min.experts import Imperfections
from mereq_min.interfaces import Aligner, Expert, Info, Policy, Task
from mereq_min.rollout import rollout
from mereq_min.steps import Steps, concatenate
from mereq_min.validation import check_number


@dataclass(frozen=True)
class LoopConfig:
    """How much is rolled out, and when to stop."""

    iterations: int = 10
    """Most iterations [iterations]."""
    steps_per_iteration: int = 250
    """Steps rolled out between updates, n [steps]."""
    threshold: float = 0.0
    """delta: stop once the intervention rate is below it; 0 never stops, to draw the whole curve."""
    imperfections: Imperfections = field(default_factory=Imperfections)
    """How the simulated expert falls short."""

    def __post_init__(self) -> None:
        check_number("iterations", self.iterations, 1, whole=True)
        check_number("steps_per_iteration", self.steps_per_iteration, 1, whole=True)
        check_number("threshold", self.threshold, 0, 1)


@dataclass(frozen=True)
class Iteration:
    """What one turn of the loop did.

    Attributes:
        iteration: from 1.
        steps: the steps rolled out in this iteration, with the policy that it began with.
        intervention_rate: lambda of those steps.
        expert_samples: expert steps of this and all earlier iterations.
        policy: the policy after this iteration's update; unchanged if the rate fell below the threshold.
        info: what the update reports, `theta` among it (None for imitation); without an update, only where
            the method stands.
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
    config: LoopConfig,
    *,
    seed: int,
    expert: Expert | None = None,
    done: Sequence[Steps] = (),
) -> Iterator[Iteration]:
    """Roll out, let the expert intervene, update, again; yields after each iteration.

    The randomness of an iteration depends on the seed and its number alone, so that a run resumed after any
    iteration goes on bit for bit, and all methods that start from the prior meet the same first iteration.

    Book: eq-loop.

    Args:
        task: what is done.
        aligner: the method at work; restored by the caller if iterations are already done.
        config: budget and threshold.
        seed: seed of the run.
        expert: who watches; default: the task's simulated expert.
        done: the steps of each iteration already done.

    Yields:
        One `Iteration` each.
    """
    batches = list(done)
    while len(batches) < config.iterations and not _reached(batches, config.threshold):
        version = len(batches)
        streams = np.random.SeedSequence(seed, spawn_key=(version,)).spawn(2)
        rollout_rng, expert_rng = (np.random.default_rng(stream) for stream in streams)
        steps = rollout(
            task,
            aligner.policy,
            expert or task.make_expert(expert_rng, config.imperfections),
            config.steps_per_iteration,
            rollout_rng,
            policy_version=version,
            first_episode=int(batches[-1].episode[-1]) + 1 if batches else 0,
        )
        batches.append(steps)
        everything = concatenate(batches)
        rate = steps.intervention_rate
        # Below the threshold the measured policy is the result: another update would replace it unseen.
        info = aligner.info if rate < config.threshold else aligner.update(everything)[1]
        yield Iteration(version + 1, steps, rate, int(everything.is_intervention.sum()), aligner.policy, info)


def _reached(batches: Sequence[Steps], threshold: float) -> bool:
    return bool(batches) and batches[-1].intervention_rate < threshold
