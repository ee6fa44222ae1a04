"""The methods that are compared, as rows of one table, and what turns steps into a better policy.

Two rooms stand behind the seam `update(steps) -> (policy, info)`: inverse RL on a learner, and cloning. No
imitation baseline has to fake a theta.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mereq_min.interfaces import Aligner, Cloner, Info, Learner, Policy, RewardModel, Start, Task
from mereq_min.inverse import (
    Estimate,
    FeatureMatchingConfig,
    SegmentLikelihoodConfig,
    match_features,
    maximise_likelihood,
)
from mereq_min.steps import ExpertSet, Steps, sample_weights
from mereq_min.validation import Array


@dataclass(frozen=True)
class Method:
    """One row of the table of methods that Chen et al. (2025) compare, plus ours.

    Attributes:
        name: as in the paper.
        reward: which reward is inferred; None for imitation.
        start: which policy is rolled out first.
        expert_set: which steps count as the expert's.
        estimator: how theta (or, for cloning, the policy) is fitted.
        source: where it comes from.
    """

    name: str
    reward: RewardModel | None
    start: Start
    expert_set: ExpertSet
    estimator: Literal["feature matching", "segment likelihood", "cloning"]
    source: str


METHODS = {
    method.name: method
    for method in (
        Method("MEReQ", "residual", "prior", "expert + good-enough", "feature matching", "Chen et al. 2025"),
        Method("MEReQ-NP", "residual", "prior", "expert", "feature matching", "Chen et al. 2025"),
        Method(
            "MaxEnt", "full", "scratch", "expert + good-enough", "feature matching", "Ziebart et al. 2010"
        ),
        Method("MaxEnt-FT", "full", "prior", "expert + good-enough", "feature matching", "Chen et al. 2025"),
        Method("HG-DAgger-FT", None, "prior", "expert", "cloning", "Kelly et al. 2019"),
        Method("IWR-FT", None, "prior", "expert + policy", "cloning", "Mandlekar et al. 2020"),
        Method("MEReQ-L", "residual", "prior", "expert", "segment likelihood", "this project"),
    )
}


@dataclass(frozen=True)
class EstimatorConfig:
    """Settings of the estimators; a method reads those of its own."""

    matching: FeatureMatchingConfig = field(default_factory=FeatureMatchingConfig)
    likelihood: SegmentLikelihoodConfig = field(default_factory=SegmentLikelihoodConfig)


class InverseRL:
    """Infers theta from the expert set with the method's estimator; warm-started from the last theta."""

    def __init__(self, task: Task, method: Method, learner: Learner, config: EstimatorConfig) -> None:
        self.method, self.learner, self.config = method, learner, config
        self.patience = task.patience
        self.theta: Array = np.zeros(len(task.feature_names))
        self.info: Info = {"theta": self.theta, "standard_errors": np.full_like(self.theta, np.inf)}
        self.policy = task.prior if method.start == "prior" else learner.solve(self.theta)
        self._expert_samples = 0  # of those that theta was fitted to

    def update(self, steps: Steps) -> tuple[Policy, Info]:
        """Fit theta to all steps so far; without a single expert step everything stays as it is.

        So it does where the likelihood is maximised and no expert step has come since: the same steps have
        the same maximum, and a neural learner would only add its noise to it.
        """
        expert_samples = int(steps.is_intervention.sum())
        known = self._expert_samples if self.method.estimator == "segment likelihood" else 0
        if expert_samples == known:
            return self.policy, self.info
        self._expert_samples = expert_samples
        estimate = self._estimate(steps)
        self.theta, self.policy = estimate.theta, estimate.policy
        self.info = {"theta": self.theta, "standard_errors": estimate.standard_errors}
        return self.policy, {name: value for name, value in vars(estimate).items() if name != "policy"}

    def _estimate(self, steps: Steps) -> Estimate:
        if self.method.estimator == "segment likelihood":
            expert_steps = steps.select(steps.is_intervention)
            return maximise_likelihood(self.learner, expert_steps, self.theta, self.config.likelihood)
        weights = sample_weights(steps, self.method.expert_set, self.patience)
        return match_features(self.learner, steps, weights, self.theta, self.config.matching)

    def state(self) -> dict[str, NDArray[Any]]:
        """Theta, its standard errors, and the learner's warm start."""
        errors = self.info["standard_errors"]
        return {"theta": self.theta, "standard_errors": errors, **self.learner.state()}

    def restore(self, state: dict[str, NDArray[Any]], steps: Steps) -> None:
        """Take back theta, the learner and its policy."""
        self.theta = state["theta"]
        self.info = {"theta": self.theta, "standard_errors": state["standard_errors"]}
        self.learner.restore(state)
        self._expert_samples = int(steps.is_intervention.sum())
        if self._expert_samples or self.method.start == "scratch":
            self.policy = self.learner.policy


class Cloning:
    """Behaviour cloning of the expert set; a pure function of the steps."""

    def __init__(self, task: Task, method: Method, cloner: Cloner) -> None:
        self.method, self.cloner = method, cloner
        self.patience = task.patience
        self.policy, self.info = task.prior, {"theta": None}

    def update(self, steps: Steps) -> tuple[Policy, Info]:
        """Clone all steps so far, weighted as the method says."""
        weights = sample_weights(steps, self.method.expert_set, self.patience)
        self.policy = self.cloner.clone(steps, weights)
        return self.policy, self.info

    def state(self) -> dict[str, NDArray[Any]]:
        """Nothing: the steps are all there is."""
        return {}

    def restore(self, state: dict[str, NDArray[Any]], steps: Steps) -> None:
        """Clone the steps again."""
        self.update(steps)


def make_aligner(task: Task, method: Method, config: EstimatorConfig, *, seed: int = 0) -> Aligner:
    """Build what a method needs out of the task's own learner or cloner; `seed` is for networks."""
    if method.reward is None:
        return Cloning(task, method, task.make_cloner(seed=seed))
    learner = task.make_learner(method.reward, config.matching.discount, start=method.start, seed=seed)
    return InverseRL(task, method, learner, config)
