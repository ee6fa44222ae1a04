"""Alignment from intervention: soft control, residual Q-learning, inverse RL, and the loop around them.

Start with `mereq_min.interfaces`. This package imports with numpy and scipy alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Imported eagerly: the submodule of the same name would hide the function. It needs numpy alone.
from mereq_min.rollout import rollout, watch

if TYPE_CHECKING:
    from mereq_min.exact import ExactCloner, ExactLearner
    from mereq_min.experts import DemonstratingExpert, SimulatedExpert
    from mereq_min.interfaces import Cloner, Expert, Imperfections, Learner, Oracle, Policy, Task
    from mereq_min.inverse import (
        Estimate,
        FeatureMatchingConfig,
        RobustConfig,
        RobustEstimate,
        SegmentLikelihoodConfig,
        SegmentMatchingConfig,
        match_features,
        match_segments,
        maximise_likelihood,
        maximise_robust_likelihood,
    )
    from mereq_min.loop import Iteration, LoopConfig, Settings, align, fit_log, settings_of
    from mereq_min.mdp import TabularMDP
    from mereq_min.methods import METHODS, EstimatorConfig, Method, make_aligner
    from mereq_min.metrics import (
        bootstrap_mean,
        feature_divergence,
        paired_difference,
        samples_to_stay,
        samples_to_threshold,
        share_of_the_way,
        starc_distance,
    )
    from mereq_min.policies import TabularPolicy, UniformPolicy
    from mereq_min.residual import residual_bellman, solve_residual
    from mereq_min.soft import (
        NotConvergedError,
        SoftSolution,
        discounted_sum,
        occupancy,
        solve_soft,
        successor_features,
    )
    from mereq_min.steps import Steps, concatenate, mean_features, sample_weights

__all__ = [
    "METHODS",
    "Cloner",
    "DemonstratingExpert",
    "Estimate",
    "EstimatorConfig",
    "ExactCloner",
    "ExactLearner",
    "Expert",
    "FeatureMatchingConfig",
    "Imperfections",
    "Iteration",
    "Learner",
    "LoopConfig",
    "Method",
    "NotConvergedError",
    "Oracle",
    "Policy",
    "RobustConfig",
    "RobustEstimate",
    "SegmentLikelihoodConfig",
    "SegmentMatchingConfig",
    "Settings",
    "SimulatedExpert",
    "SoftSolution",
    "Steps",
    "TabularMDP",
    "TabularPolicy",
    "Task",
    "UniformPolicy",
    "align",
    "bootstrap_mean",
    "concatenate",
    "discounted_sum",
    "feature_divergence",
    "fit_log",
    "make_aligner",
    "match_features",
    "match_segments",
    "maximise_likelihood",
    "maximise_robust_likelihood",
    "mean_features",
    "occupancy",
    "paired_difference",
    "residual_bellman",
    "rollout",
    "sample_weights",
    "samples_to_stay",
    "samples_to_threshold",
    "settings_of",
    "share_of_the_way",
    "solve_residual",
    "solve_soft",
    "starc_distance",
    "successor_features",
    "watch",
]

_HOMES = {
    "Cloner": "interfaces",
    "DemonstratingExpert": "experts",
    "Estimate": "inverse",
    "EstimatorConfig": "methods",
    "ExactCloner": "exact",
    "ExactLearner": "exact",
    "Expert": "interfaces",
    "FeatureMatchingConfig": "inverse",
    "Imperfections": "interfaces",
    "Iteration": "loop",
    "Learner": "interfaces",
    "LoopConfig": "loop",
    "METHODS": "methods",
    "Method": "methods",
    "NotConvergedError": "soft",
    "Oracle": "interfaces",
    "Policy": "interfaces",
    "RobustConfig": "inverse",
    "RobustEstimate": "inverse",
    "SegmentLikelihoodConfig": "inverse",
    "SegmentMatchingConfig": "inverse",
    "Settings": "loop",
    "SimulatedExpert": "experts",
    "SoftSolution": "soft",
    "Steps": "steps",
    "TabularMDP": "mdp",
    "TabularPolicy": "policies",
    "Task": "interfaces",
    "UniformPolicy": "policies",
    "align": "loop",
    "bootstrap_mean": "metrics",
    "concatenate": "steps",
    "discounted_sum": "soft",
    "feature_divergence": "metrics",
    "fit_log": "loop",
    "make_aligner": "methods",
    "match_features": "inverse",
    "match_segments": "inverse",
    "maximise_likelihood": "inverse",
    "maximise_robust_likelihood": "inverse",
    "mean_features": "steps",
    "occupancy": "soft",
    "paired_difference": "metrics",
    "residual_bellman": "residual",
    "sample_weights": "steps",
    "samples_to_stay": "metrics",
    "samples_to_threshold": "metrics",
    "settings_of": "loop",
    "share_of_the_way": "metrics",
    "solve_residual": "residual",
    "solve_soft": "soft",
    "starc_distance": "metrics",
    "successor_features": "soft",
}
"""The module of each name; it is imported when the name is first used, since scipy takes its time."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"mereq_min.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
