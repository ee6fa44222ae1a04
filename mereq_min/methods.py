"""The methods as rows of a table, and their two kinds of update: inverse RL on a learner, and cloning."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mereq_min.interfaces import (
    Aligner,
    Cloner,
    Info,
    Learner,
    Policy,
    RewardModel,
    SegmentLearner,
    Start,
    Task,
    TemperedLearner,
)
from mereq_min.inverse import (
    Estimate,
    FeatureMatchingConfig,
    RobustConfig,
    SegmentLikelihoodConfig,
    SegmentMatchingConfig,
    match_features,
    match_segments,
    maximise_likelihood,
    maximise_robust_likelihood,
)
from mereq_min.policies import UniformPolicy
from mereq_min.steps import ExpertSet, Steps, last_iteration, sample_weights
from mereq_min.validation import Array

Baseline = Literal[
    "feature cloning",
    "residual cloning",
    "takeover reward",
    "proxy values",
    "intervention model",
    "predicted preferences",
]
"""How the methods of `mereq_min.baselines` and `mereq_min.peers` fit a policy; networks do so likewise."""
Estimator = Literal[
    "feature matching",
    "segment likelihood",
    "robust likelihood",
    "segment matching",
    "cloning",
    Baseline,
]
"""How theta or, without one, the policy is fitted."""


@dataclass(frozen=True)
class Method:
    """One row of the table of methods: those that Chen et al. (2025) compare, and ours.

    Attributes:
        name: name of the method; as in the paper for those that it compares.
        reward: the reward that is inferred; None for imitation.
        start: the policy that is rolled out first.
        expert_set: the steps that are fitted, see `steps.sample_weights`.
        estimator: how theta (or, for cloning, the policy) is fitted.
        source: where the method was published.
        iterations: whether the steps of all iterations are fitted, or only those of the last one.
        tables_only: whether the method needs a tabular task.
    """

    name: str
    reward: RewardModel | None
    start: Start
    expert_set: ExpertSet
    estimator: Estimator
    source: str
    iterations: Literal["all", "last"] = "all"
    tables_only: bool = False


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            "MEReQ",
            "residual",
            "prior",
            "expert + good-enough",
            "feature matching",
            "Chen et al. 2025",
            iterations="last",
        ),
        Method(
            "MEReQ-NP",
            "residual",
            "prior",
            "expert",
            "feature matching",
            "Chen et al. 2025",
            iterations="last",
        ),
        Method(
            "MaxEnt",
            "full",
            "scratch",
            "expert + good-enough",
            "feature matching",
            "Ziebart et al. 2010",
            iterations="last",
        ),
        Method(
            "MaxEnt-FT",
            "full",
            "prior",
            "expert + good-enough",
            "feature matching",
            "Chen et al. 2025",
            iterations="last",
        ),
        Method("HG-DAgger-FT", None, "prior", "expert", "cloning", "Kelly et al. 2019"),
        Method("IWR-FT", None, "prior", "expert + policy", "cloning", "Mandlekar et al. 2020"),
        Method("MEReQ-L", "residual", "prior", "expert", "segment likelihood", "this project"),
        Method("MEReQ-R", "residual", "prior", "expert", "robust likelihood", "this project"),
        Method(
            "MEReQ-all",
            "residual",
            "prior",
            "expert + good-enough",
            "feature matching",
            "another reading of Chen et al. 2025",
        ),
        Method("MEReQ-S", "residual", "prior", "expert", "segment matching", "this project"),
        Method(
            "HG-DAgger-1",
            None,
            "prior",
            "expert",
            "feature cloning",
            "Kelly et al. 2019, on features of one step",
            tables_only=True,
        ),
        Method("Residual-BC", None, "prior", "expert", "residual cloning", "Silver et al. 2018, for cloning"),
        Method("RLIF", None, "prior", "expert + policy", "takeover reward", "Luo et al. 2024"),
        Method("PVP", None, "prior", "expert + policy", "proxy values", "Peng et al. 2023"),
        Method("MILE", None, "prior", "expert + policy", "intervention model", "Korkmaz and Biyik 2025"),
        Method("PPL", None, "prior", "expert", "predicted preferences", "Cai et al. 2025"),
    )
}
"""The methods by name."""

RECORDED_METHODS = tuple(METHODS)[:8]
"""The paper's six, MEReQ-L and MEReQ-R, of which there are recorded runs on all tasks."""


def choose_method(task: Task) -> str:
    """Return the name of the default method for a task: of MEReQ-R and MEReQ-L, the more reliable one.

    On tables it is MEReQ-R, which forgives an expert's slips. With networks it is MEReQ-L: there the errors
    of the networks look like slips, and what MEReQ-R infers of them is less certain.
    """
    is_table = hasattr(task, "make_tempered_learner") and not has_networks(task)
    return "MEReQ-R" if is_table else "MEReQ-L"


def has_networks(task: Task) -> bool:
    """Whether the learners of a task are neural networks: it then has an attribute `engine`."""
    return getattr(task, "engine", None) is not None


@dataclass(frozen=True)
class EstimatorConfig:
    """Settings of the estimators; each method reads those of its own estimator."""

    accumulate: bool = True
    """Fit the steps of all iterations, unless the method itself fits only the last one (`Method.iterations`).
    If false, every method fits only the last iteration. MEReQ does so by default, because good-enough steps
    of older policies pull theta back towards those policies. It drops the expert's older steps too: without
    the good-enough steps around them they weigh too much, and theta diverges. MEReQ-all keeps all steps. A
    likelihood has no such bias, and only loses data if this is false."""
    matching: FeatureMatchingConfig = field(default_factory=FeatureMatchingConfig)
    """Settings of feature matching."""
    likelihood: SegmentLikelihoodConfig = field(default_factory=SegmentLikelihoodConfig)
    """Settings of the segment likelihood."""
    robust: RobustConfig = field(default_factory=RobustConfig)
    """Further settings of the robust likelihood."""
    segments: SegmentMatchingConfig = field(default_factory=SegmentMatchingConfig)
    """Further settings of segment matching."""


def _used_steps(steps: Steps, method: Method, config: EstimatorConfig) -> Steps:
    """Return the steps of those iterations that a method fits."""
    return steps if config.accumulate and method.iterations == "all" else last_iteration(steps)


class InverseRL:
    """Updates by inverse RL: infers theta from the expert set, starting from the last theta.

    Args:
        task: the task.
        method: says which steps are fitted, and by which estimator.
        learner: solves for the policy of a theta.
        config: settings of the estimators.
    """

    def __init__(self, task: Task, method: Method, learner: Learner, config: EstimatorConfig) -> None:
        self.method, self.learner, self.config = method, learner, config
        self.theta: Array = np.zeros(len(task.feature_names))
        self.info: Info = {"theta": self.theta, "standard_errors": np.full_like(self.theta, np.inf)}
        self.policy = task.prior if method.start == "prior" else learner.solve(self.theta)
        self._expert_samples = 0  # number of expert steps at the last fit

    def update(self, steps: Steps, patience: int) -> tuple[Policy, Info]:
        """Fit theta to the steps and solve for its policy; see `interfaces.Aligner`.

        Without a new expert step, only feature matching fits again. The other estimators keep their theta:
        their solution is the same, and fitting again would only add the noise of a neural learner.
        """
        expert_samples = int(steps.is_intervention.sum())
        known = 0 if self.method.estimator == "feature matching" else self._expert_samples
        used = _used_steps(steps, self.method, self.config)
        if expert_samples == known or not used.is_intervention.any():
            return self.policy, self.info
        self._expert_samples = expert_samples
        estimate = self._estimate(used, patience)
        self.theta, self.policy = estimate.theta, estimate.policy
        self.info = {"theta": self.theta, "standard_errors": estimate.standard_errors}
        return self.policy, {name: value for name, value in vars(estimate).items() if name != "policy"}

    def _estimate(self, steps: Steps, patience: int) -> Estimate:
        if self.method.estimator == "segment likelihood":
            expert_steps = steps.select(steps.is_intervention)
            return maximise_likelihood(self.learner, expert_steps, self.theta, self.config.likelihood)
        weights = sample_weights(steps, self.method.expert_set, patience)
        return match_features(self.learner, steps, weights, self.theta, self.config.matching)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return theta, its standard errors, and the arrays of the learner."""
        errors = self.info["standard_errors"]
        return {"theta": self.theta, "standard_errors": errors, **self.learner.arrays()}

    def restore(self, arrays: dict[str, NDArray[Any]], steps: Steps, patience: int) -> None:
        """Restore theta, the learner and its policy."""
        self._restore(arrays, arrays, steps)

    def _restore(
        self, arrays: dict[str, NDArray[Any]], learner: dict[str, NDArray[Any]], steps: Steps
    ) -> None:
        self.theta = arrays["theta"]
        self.info = {"theta": self.theta, "standard_errors": arrays["standard_errors"]}
        self.learner.restore(learner)
        self._expert_samples = int(steps.is_intervention.sum())
        if self._expert_samples or self.method.start == "scratch":
            self.policy = self.learner.policy


class RobustInverseRL(InverseRL):
    """Updates by `inverse.maximise_robust_likelihood`, starting from the last estimate.

    Args:
        task: the task; slips of its expert are uniform on its action space.
        method: the method.
        learner: solves for theta and for the weight of the prior.
        config: settings of the estimators.
    """

    learner: TemperedLearner

    def __init__(self, task: Task, method: Method, learner: TemperedLearner, config: EstimatorConfig) -> None:
        super().__init__(task, method, learner, config)
        env = task.make_env()
        self.slips = UniformPolicy(env.action_space)
        env.close()
        self.noise = {"error_rate": config.robust.error_rate, "temperature_ratio": 1.0}

    def update(self, steps: Steps, patience: int) -> tuple[Policy, Info]:
        """Fit theta and the expert's noise to the steps, and solve for the policy of theta."""
        policy, report = super().update(steps, patience)
        self.info = {**self.info, **self.noise}
        return policy, report

    def _estimate(self, steps: Steps, patience: int) -> Estimate:
        expert_steps = steps.select(steps.is_intervention)
        likelihood, robust = self.config.likelihood, self.config.robust
        estimate = maximise_robust_likelihood(
            self.learner, self.slips, expert_steps, self.theta, likelihood, robust, **self.noise
        )
        self.noise = {name: getattr(estimate, name) for name in self.noise}
        return estimate

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return theta, its standard errors, the expert's noise, and the arrays of the learner."""
        learner = {f"learner.{name}": array for name, array in self.learner.arrays().items()}
        noise = {name: np.array(value) for name, value in self.noise.items()}
        return {"theta": self.theta, "standard_errors": self.info["standard_errors"], **noise, **learner}

    def restore(self, arrays: dict[str, NDArray[Any]], steps: Steps, patience: int) -> None:
        """Restore theta, the expert's noise, the learner and its policy."""
        prefix, own = "learner.", {name: arrays[name] for name in ("theta", "standard_errors")}
        learner = {name.removeprefix(prefix): arrays[name] for name in arrays if name.startswith(prefix)}
        self.noise = {name: float(arrays[name]) for name in self.noise}
        self._restore(own, learner, steps)
        self.info = {**self.info, **self.noise}


class SegmentInverseRL(InverseRL):
    """Updates by `inverse.match_segments`, starting from the last theta.

    Args:
        task: the task.
        method: the method.
        learner: solves for theta, and starts its policy where steps were taken.
        config: settings of the estimators.
    """

    learner: SegmentLearner

    def __init__(self, task: Task, method: Method, learner: SegmentLearner, config: EstimatorConfig) -> None:
        super().__init__(task, method, learner, config)
        self.horizon = task.horizon

    def _estimate(self, steps: Steps, patience: int) -> Estimate:
        config = self.config
        return match_segments(
            self.learner, steps, self.theta, config.likelihood, config.segments, horizon=self.horizon
        )


class Cloning:
    """Updates by behaviour cloning of the expert set; each policy is a function of the steps alone.

    Args:
        task: the task.
        method: says which steps are cloned.
        cloner: clones weighted steps.
        config: settings of the estimators.
    """

    def __init__(self, task: Task, method: Method, cloner: Cloner, config: EstimatorConfig) -> None:
        self.method, self.cloner, self.config = method, cloner, config
        self.policy, self.info = task.prior, {"theta": None}

    def update(self, steps: Steps, patience: int) -> tuple[Policy, Info]:
        """Clone the steps with the weights of the method; see `interfaces.Aligner`."""
        used = _used_steps(steps, self.method, self.config)
        self.policy = self.cloner.clone(used, sample_weights(used, self.method.expert_set, patience))
        return self.policy, self.info

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return no arrays: the policy follows from the steps."""
        return {}

    def restore(self, arrays: dict[str, NDArray[Any]], steps: Steps, patience: int) -> None:
        """Clone the steps again."""
        self.update(steps, patience)


def make_aligner(
    task: Task, method: Method, config: EstimatorConfig | None = None, *, seed: int = 0
) -> Aligner:
    """Build a method on the learner or cloner of a task.

    Args:
        task: the task.
        method: a row of `METHODS`.
        config: settings of the estimators; default: `recorded_settings` of the task, if it has any.
        seed: seed of the networks.

    Raises:
        ValueError: if the task cannot do what the method needs: a table, a baseline, or learners that vary
            the weight of the prior.
    """
    if config is None:
        recorded = getattr(task, "recorded_settings", None)
        config = EstimatorConfig() if recorded is None else recorded.estimators
    if method.estimator in get_args(Baseline):
        return Cloning(task, method, _make_baseline(task, method, seed), config)
    if method.reward is None:
        return Cloning(task, method, task.make_cloner(seed=seed), config)
    if method.estimator == "robust likelihood":
        return RobustInverseRL(task, method, _make_tempered_learner(task, method, seed), config)
    learner = task.make_learner(method.reward, config.matching.discount, start=method.start, seed=seed)
    if method.estimator == "segment matching":
        return _make_segment_aligner(task, method, learner, config, seed)
    return InverseRL(task, method, learner, config)


def _make_baseline(task: Any, method: Method, seed: int) -> Cloner:
    """Return the cloner of a task that fits a policy as a baseline does."""
    if method.tables_only and not hasattr(task, "mdp"):
        raise ValueError(
            f"{method.name} works on tables only, and {task.name} is none; choose one of "
            f"{', '.join(each for each in METHODS if not METHODS[each].tables_only)}"
        )
    if not hasattr(task, "make_baseline"):
        raise ValueError(
            f"{method.name} needs the task's make_baseline(kind, seed=...), which {task.name} lacks; give it "
            "one, or choose HG-DAgger-FT"
        )
    return task.make_baseline(method.estimator, seed=seed)


def _make_segment_aligner(
    task: Any, method: Method, learner: Any, config: EstimatorConfig, seed: int
) -> Aligner:
    """Build segment matching; for a learner that cannot start at given states, warn and build MEReQ-R."""
    if getattr(learner, "can_restart", False):
        return SegmentInverseRL(task, method, learner, config)
    warnings.warn(
        f"{method.name} falls back to MEReQ-R on {task.name}: its learner cannot restart at recorded states",
        stacklevel=3,
    )
    return RobustInverseRL(task, method, _make_tempered_learner(task, method, seed), config)


def _make_tempered_learner(task: Any, method: Method, seed: int) -> TemperedLearner:
    """Return the learner of a task that can also vary the weight of the prior."""
    if not hasattr(task, "make_tempered_learner"):
        raise ValueError(
            f"{method.name} varies the weight of the prior, which the learners of {task.name} cannot; give "
            "the task make_tempered_learner(seed=...), or choose MEReQ-L"
        )
    return task.make_tempered_learner(seed=seed)
