"""Checks that an oracle keeps the promises of `interfaces.Oracle` and suits its task."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import numpy as np

from mereq_min.experts import EXPERT_RATE, PRIOR_RATE, SimulatedExpert
from mereq_min.interfaces import Expert, Imperfections, Oracle, RewardModel
from mereq_min.lab.conformance.harness import Check, count, find_missing
from mereq_min.lab.conformance.subject import TaskSubject, find_differing_column, find_policy_faults
from mereq_min.rollout import rollout
from mereq_min.steps import Mask, Steps
from mereq_min.validation import check_array, check_number

LEAST_SUCCESS = 0.9
"""Share of episodes in which prior and expert must succeed."""
SHORT_STEPS = 300
"""Steps of the rollouts that are made anew for a single check."""
REPLAYED_STEPS = 1_000
"""Steps of the watched prior whose interventions are derived again from the rule."""


def _offers_oracle(subject: TaskSubject) -> Iterator[str]:
    yield from find_missing("an oracle", subject.task.oracle, Oracle)


def _truth_fits(subject: TaskSubject) -> Iterator[str]:
    oracle, shape = subject.task.oracle, (len(subject.task.feature_names),)
    for name in ("patience", "release"):
        try:
            check_number(name, getattr(oracle, name), 1, integer=True)
        except ValueError as error:
            yield f"{error}"
    weights = {"true_theta": oracle.true_theta, "true_weights('residual')": oracle.true_weights("residual")}
    full = oracle.true_weights("full")
    if full is not None:
        weights["true_weights('full')"] = full
    for name, value in weights.items():
        try:
            check_array(name, value, shape=shape)
        except (TypeError, ValueError) as error:
            yield f"{error}; give one weight for each of {', '.join(subject.task.feature_names)}"
            return
    if not np.any(oracle.true_theta):
        yield "true_theta must differ from 0, or there is no preference to infer"
    if not np.array_equal(oracle.true_theta, oracle.true_weights("residual")):
        yield "true_weights('residual') must equal true_theta, but differs; return true_theta there"


def _expert_can_be_made(subject: TaskSubject) -> Iterator[str]:
    oracle = subject.task.oracle
    expert = oracle.make_expert()
    yield from find_missing("the expert", expert, Expert)
    if hasattr(expert, "patience") and expert.patience != oracle.patience:
        yield f"the expert's patience must be the oracle's, {oracle.patience}, got {expert.patience}"


def _seeds_repeat(subject: TaskSubject) -> Iterator[str]:
    first, again = (subject.watch(subject.task.prior, SHORT_STEPS, subject.seed) for _ in range(2))
    differing = find_differing_column(first, again)
    if differing is not None:
        yield (
            f"the same seed must give the same watched steps, but `{differing}` differs; let the expert draw "
            "everything from the generator that `reset` gives it"
        )


def _rule_is_followed(subject: TaskSubject) -> Iterator[str]:
    """Derive the interventions again from the rule, patience and release, and compare."""
    oracle, watched = subject.task.oracle, subject.watched_prior_steps
    steps = watched.select(np.arange(len(watched)) < REPLAYED_STEPS)
    verdict = oracle.violates(steps.state[0], steps.policy_action[0])
    if not isinstance(verdict, bool | np.bool_):
        yield f"violates must return True or False, got {verdict!r}"
        return
    differing = np.flatnonzero(_replay(oracle, steps) != steps.is_intervention)
    if len(differing):
        i = int(differing[0])
        taker, owner = ("expert", "policy") if steps.is_intervention[i] else ("policy", "expert")
        yield (
            f"the expert must take over after {count(oracle.patience, 'violation')} in a row, hand back "
            f"after {count(oracle.release, 'step')} without one, and start anew in each episode; step "
            f"{steps.t[i]} of episode {steps.episode[i]} belongs to the {owner}, but the {taker} took it; "
            "see mereq_min.experts.SimulatedExpert"
        )


def _replay(oracle: Any, steps: Steps) -> Mask:
    """Which steps (N,) an ideal expert controls, given the states and actions that it saw."""
    expert = SimulatedExpert(
        oracle.expert_policy, oracle.violates, patience=oracle.patience, release=oracle.release
    )
    controlled = np.zeros(len(steps), dtype=bool)
    for i in range(len(steps)):
        if i == 0 or steps.episode[i] != steps.episode[i - 1]:
            expert.reset(np.random.default_rng(0))
        controlled[i] = expert.intervene(steps.state[i], steps.policy_action[i]) is not None
    return controlled


def _imperfections_are_heeded(subject: TaskSubject) -> Iterator[str]:
    task, rng = subject.task, np.random.default_rng(subject.seed)
    blind = task.oracle.make_expert(Imperfections(miss_rate=1.0))
    n_taken = int(rollout(task, task.prior, blind, SHORT_STEPS, rng).is_intervention.sum())
    if n_taken:
        yield (
            f"an expert with a miss_rate of 1 must never take over, but controlled {n_taken} of "
            f"{SHORT_STEPS} steps; let make_expert pass its imperfections on"
        )


def _expert_policy_fits(subject: TaskSubject) -> Iterator[str]:
    expert_policy = subject.task.oracle.expert_policy
    yield from find_policy_faults(subject, "expert_policy", expert_policy, subject.watched_expert_steps)


def _is_calibrated(subject: TaskSubject) -> Iterator[str]:
    prior = subject.watched_prior_steps.intervention_rate
    expert = subject.watched_expert_steps.intervention_rate
    if not PRIOR_RATE[0] <= prior <= PRIOR_RATE[1]:
        yield (
            f"the intervention rate of the prior must be from {PRIOR_RATE[0]} to {PRIOR_RATE[1]}, but is "
            f"{prior:.3f}; make the rule {'stricter' if prior < PRIOR_RATE[0] else 'more lenient'}"
        )
    if expert > EXPERT_RATE:
        yield (
            f"the intervention rate of the expert's own policy must be at most {EXPERT_RATE}, but is "
            f"{expert:.3f}; let the rule tolerate what the expert does"
        )


def _measures_fit(subject: TaskSubject) -> Iterator[str]:
    keys = ("expert_return", "kl_to_expert", "feature_divergence")
    K = len(subject.task.feature_names)
    measured = {"prior": subject.prior_measures, "expert": subject.expert_measures}
    for name, measures in measured.items():
        absent = [key for key in keys if key not in measures]
        if absent:
            yield f"with an oracle, evaluate must return {', '.join(absent)}, missing for the {name}"
            return
        if np.shape(measures["feature_divergence"]) != (K,):
            yield f"feature_divergence must have shape ({K},), got {np.shape(measures['feature_divergence'])}"
        if not measures.get("success", 1.0) >= LEAST_SUCCESS:
            yield (
                f"the {name} must succeed in at least {LEAST_SUCCESS:.0%} of episodes, but succeeds in "
                f"{measures['success']:.1%}; train it longer"
            )
    prior, expert = measured["prior"], measured["expert"]
    if not expert["expert_return"] > prior["expert_return"]:
        yield (
            "the expert must be better than the prior by the expert's reward, but its expert_return is "
            f"{expert['expert_return']:.4g} and the prior's {prior['expert_return']:.4g}; train the expert "
            "longer, or check true_theta"
        )
    if not abs(expert["kl_to_expert"]) <= 1e-6 or not np.max(expert["feature_divergence"]) <= 0.05:
        yield (
            f"the expert must not differ from itself, but its kl_to_expert is {expert['kl_to_expert']:.2g} "
            f"nats and its largest feature_divergence {np.max(expert['feature_divergence']):.2g} bits; let "
            "evaluate compare with expert_policy"
        )
    if not prior["kl_to_expert"] > 0.01:
        kl = prior["kl_to_expert"]
        yield f"the prior must differ from the expert, but its kl_to_expert is {kl:.2g} nats"


def _distance_is_zero_for_the_truth(subject: TaskSubject) -> Iterator[str]:
    oracle = subject.task.oracle
    for reward in get_args(RewardModel):
        truth = oracle.true_weights(reward)
        if truth is None:
            distance = oracle.reward_distance(oracle.true_theta, reward)
            if not np.isnan(distance):
                yield f"reward_distance must be NaN as the {reward} reward is unknown, but is {distance:.4g}"
            continue
        for scale, expected, name in ((2.0, 0.0, "twice the true"), (-1.0, 1.0, "the negative of the true")):
            distance = oracle.reward_distance(scale * truth, reward)
            if not (np.isnan(distance) or abs(distance - expected) <= 1e-6):
                what = f"{name} {reward} reward"
                yield f"reward_distance must be {expected:g} for {what}, but is {distance:.4g}"


ORACLE_CHECKS: tuple[Check[TaskSubject], ...] = (
    Check("the oracle offers everything in interfaces.Oracle", _offers_oracle, is_basic=True),
    Check("the oracle's weights and numbers are valid", _truth_fits, is_basic=True),
    Check("the oracle's expert can be made", _expert_can_be_made, is_basic=True),
    Check("the same seed gives the same interventions", _seeds_repeat),
    Check("the expert follows the oracle's rule, patience and release", _rule_is_followed),
    Check("the expert has the imperfections that are asked for", _imperfections_are_heeded),
    Check("the expert's policy is valid, and can be reloaded once saved", _expert_policy_fits),
    Check("the prior is stopped often, the expert hardly ever", _is_calibrated),
    Check("prior and expert succeed, and the expert is better by its own reward", _measures_fit),
    Check("the distance of the true reward is 0", _distance_is_zero_for_the_truth),
)
"""What `check_task` checks of a task with an oracle, in this order."""
