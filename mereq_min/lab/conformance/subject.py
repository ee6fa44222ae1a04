"""A task under check, with the rollouts and measures that its checks share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mereq_min.lab.conformance.policy import check_policy
from mereq_min.rollout import rollout, watch
from mereq_min.steps import Steps
from mereq_min.validation import Array

WATCHED_STEPS, PRIOR_STEPS, RANDOM_STEPS = 20_000, 5_000, 2_000
"""Steps of each rollout with the oracle's expert watching, of the prior alone, and of random actions."""


@dataclass(frozen=True)
class TaskSubject:
    """A task under check; each rollout and each measure is made once, when a check first needs it.

    Attributes:
        task: the task.
        seed: seed of all rollouts.
    """

    task: Any
    seed: int

    @property
    def lacks_oracle(self) -> bool:
        """Whether the task says that it has no oracle."""
        try:
            return self.task.oracle is None
        except Exception:  # a check of the task or of its oracle reports it
            return False

    @cached_property
    def prior_steps(self) -> Steps:
        """Steps of the prior, unwatched."""
        rng = np.random.default_rng(self.seed)
        return rollout(self.task, self.task.prior, None, PRIOR_STEPS, rng)

    @cached_property
    def random_steps(self) -> Steps:
        """Steps of random actions, unwatched."""
        policy = _RandomPolicy(self.task.make_env().action_space, self.seed)
        return rollout(self.task, policy, None, RANDOM_STEPS, np.random.default_rng(self.seed))

    @cached_property
    def watched_prior_steps(self) -> Steps:
        """Steps of the prior, with the oracle's ideal expert watching."""
        return self.watch(self.task.prior, WATCHED_STEPS, self.seed)

    @cached_property
    def watched_expert_steps(self) -> Steps:
        """Steps of the expert's own policy, with the oracle's ideal expert watching."""
        return self.watch(self.task.oracle.expert_policy, WATCHED_STEPS, self.seed)

    def watch(self, policy: Any, n_steps: int, seed: int) -> Steps:
        """Roll out a policy with the oracle's ideal expert watching."""
        return watch(self.task, policy, self.task.oracle, n_steps, seed)

    @cached_property
    def prior_measures(self) -> dict[str, Any]:
        """What `evaluate` measures of the prior."""
        return self.task.evaluate(self.task.prior)

    @cached_property
    def expert_measures(self) -> dict[str, Any]:
        """What `evaluate` measures of the expert's policy."""
        return self.task.evaluate(self.task.oracle.expert_policy)


def find_policy_faults(subject: TaskSubject, name: str, policy: Any, steps: Steps) -> Iterator[str]:
    """Yield what is wrong with a policy that belongs to a task.

    Args:
        subject: the task.
        name: what a finding calls the policy.
        policy: the policy; if it has `arrays`, the task must be able to rebuild it.
        steps: steps that show the states of the task.
    """
    space, rng = subject.task.make_env().action_space, np.random.default_rng(subject.seed)
    for finding in check_policy(policy, steps.state, space, rng):
        yield f"{name}: {finding}"
    if hasattr(policy, "arrays"):
        loaded = subject.task.load_policy(policy.arrays())
        saved, rebuilt = (each.log_prob(steps.state, steps.policy_action) for each in (policy, loaded))
        if not np.allclose(saved, rebuilt, rtol=1e-6, atol=1e-6):
            yield (
                f"load_policy must rebuild the {name} from its arrays(), but log_prob differs; let arrays() "
                "return everything"
            )


def find_differing_column(one: Steps, other: Steps) -> str | None:
    """Return the name of the first column in which two rollouts differ, None if there is none."""
    columns = other.columns()
    return next(
        (name for name, values in one.columns().items() if not np.array_equal(values, columns[name])), None
    )


class _RandomPolicy:
    """Draws actions from the space, which need not have bounds, whatever the state."""

    def __init__(self, space: Any, seed: int) -> None:
        self.space = space
        space.seed(seed)

    def log_prob(self, state: NDArray[Any], action: NDArray[Any]) -> Array:
        raise NotImplementedError

    def sample(self, state: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        return np.array([self.space.sample() for _ in state])
