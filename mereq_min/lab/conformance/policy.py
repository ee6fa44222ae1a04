"""Checks that a policy keeps the promises of `interfaces.Policy`."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mereq_min.interfaces import Policy
from mereq_min.lab.conformance.density import (
    DRAWS,
    P_VALUE,
    PolicySubject,
    compare_draws,
    is_at_bound,
    p_value,
    stretch,
)
from mereq_min.lab.conformance.harness import Check, count, describe_error, find_missing, run_checks
from mereq_min.policies import network_sizes

SHAPE_ERRORS = (IndexError, RuntimeError, ValueError)
"""What numpy and torch raise on arrays of another shape than they expect."""


def check_policy(policy: Any, states: NDArray[Any], action_space: Any, rng: np.random.Generator) -> list[str]:
    """Check a policy against `interfaces.Policy`.

    Args:
        policy: the policy.
        states: (N, ...) states of its environment.
        action_space: gymnasium `Discrete`, or `Box` of one axis.
        rng: seeds everything that the checks draw.

    Returns:
        Findings in plain words; none if the policy keeps its contract.
    """
    subject = PolicySubject(policy, np.asarray(states), action_space, int(rng.integers(2**31)))
    return [finding for result in run_checks(POLICY_CHECKS, subject) for finding in result.findings]


def _offers_policy(subject: PolicySubject) -> Iterator[str]:
    yield from find_missing("a policy", subject.policy, Policy)
    if not subject.is_discrete and not (hasattr(subject.space, "low") and len(subject.space.shape) == 1):
        yield f"actions must be Discrete or a Box of one axis, got {subject.space}; adapt the environment"
    if len(subject.states) < 2:
        yield f"at least 2 states are needed for the checks, got {len(subject.states)}; pass more"


def _fits_the_task(subject: PolicySubject) -> Iterator[str]:
    states, space = subject.some_states(2), subject.space
    try:
        drawn = subject.sample(states, 0)
    except SHAPE_ERRORS as error:
        shape = states.shape[1:]
        yield _explain_inputs(subject) or (
            f"your policy cannot read the task's observations of shape {shape} "
            f"({count(math.prod(shape), 'number')}): {describe_error(error)}"
        )
        return
    if subject.is_discrete:
        yield from _knows_all_actions(subject, states)
    elif isinstance(drawn, np.ndarray) and drawn.ndim == 2 and drawn.shape[1:] != space.shape:
        yield (
            f"your policy gives {count(drawn.shape[1], 'number')} as an action, the task takes "
            f"{space.shape[0]}; use a policy that was made for these actions"
        )


def _knows_all_actions(subject: PolicySubject, states: NDArray[Any]) -> Iterator[str]:
    policy, n_actions = subject.policy, len(subject.indices)
    failure = _try_all_actions(subject, states)
    other_inputs = _explain_inputs(subject) if failure else ""
    if other_inputs:
        yield other_inputs
        return
    known = network_sizes(policy)[1] if failure else None
    if hasattr(policy, "log_probs"):
        known = np.shape(policy.log_probs(states.copy()))[-1]
    if known not in (None, n_actions):
        yield (
            f"your policy chooses among {count(known, 'action')}, the task has {n_actions}; use a policy "
            "that was made for these actions"
        )
    elif failure:
        yield failure


def _try_all_actions(subject: PolicySubject, states: NDArray[Any]) -> str:
    """Ask for log_prob of every action; returns what fails, or nothing."""
    for action in subject.indices:
        try:
            subject.policy.log_prob(states.copy(), np.full(len(states), action))
        except SHAPE_ERRORS as error:
            n_actions = len(subject.indices)
            return (
                f"log_prob must work for all {n_actions} actions of the task, but fails for action {action}: "
                f"{describe_error(error)}"
            )
    return ""


def _explain_inputs(subject: PolicySubject) -> str:
    """Say how many numbers the policy's network takes, if that is known and differs from the observations."""
    shape = subject.states.shape[1:]
    taken, shown = network_sizes(subject.policy)[0], math.prod(shape)
    if not shape or taken in (None, shown):  # a network that takes an index may encode it first
        return ""
    return (
        f"your policy observes {count(taken, 'number')}, but the task's observations have {shown} (shape "
        f"{shape}); use a policy that was made for them"
    )


def _sample_fits(subject: PolicySubject) -> Iterator[str]:
    space, shape = subject.space, (len(subject.states), *subject.space.shape)
    actions = subject.sample(subject.states, 0)
    if not isinstance(actions, np.ndarray):
        yield f"sample must return a numpy array, got a {type(actions).__name__}; convert it"
    elif actions.shape != shape:
        yield f"sample must return an action for each state, {shape}, got {actions.shape}; draw in batches"
    elif actions.dtype.kind not in ("iu" if subject.is_discrete else "f"):
        kind = "integers" if subject.is_discrete else "floats"
        yield f"sample must return {kind} for {space}, got {actions.dtype}; convert them"
    else:
        low, high = subject.indices[[0, -1]] if subject.is_discrete else (space.low, space.high)
        inside = (actions >= low) & (actions <= high)  # False for NaN
        if not inside.all():
            wrap = "" if subject.is_discrete else " or wrap the environment in gymnasium.wrappers.ClipAction"
            yield f"sample must stay within {space}, but drew {actions[~inside].flat[0]}; bound it{wrap}"


def _log_prob_fits(subject: PolicySubject) -> Iterator[str]:
    actions = subject.sample(subject.states, 0)
    values = subject.policy.log_prob(subject.states.copy(), actions)
    shape = (len(actions),)
    if not isinstance(values, np.ndarray) or values.dtype.kind != "f":
        got = values.dtype if isinstance(values, np.ndarray) else type(values).__name__
        yield f"log_prob must return a numpy array of floats, got {got}; convert it"
    elif values.shape != shape:
        yield f"log_prob must return a number for each action, {shape}, got {values.shape}; sum over axes"
    elif not np.isfinite(values).all():
        bad = int(np.flatnonzero(~np.isfinite(values))[0])
        yield (
            f"log_prob of an action that sample drew must be finite, got {values[bad]} for {actions[bad]!r} "
            f"in state {bad}; let both use the same distribution"
        )


def _is_normalised(subject: PolicySubject) -> Iterator[str]:
    no_number = (
        "log_prob must be a number or -inf for any action, got NaN or +inf; return -inf for an action that "
        "is never taken"
    )
    if subject.is_discrete:
        states = subject.some_states(100)
        columns = [subject.log_prob(states, np.full(len(states), action)) for action in subject.indices]
        table = np.stack(columns, axis=1)
        if not (table < np.inf).all():
            yield no_number
            return
        totals = np.exp(table).sum(axis=1)
        worst = totals[np.abs(totals - 1).argmax()]
        if abs(worst - 1) > 1e-5:
            yield f"probabilities must sum to 1, but sum to {worst:.6g}; return the log_softmax of logits"
        return
    for density in subject.densities:
        if not (density.proposed < np.inf).all():
            yield no_number
            return
        total, error = density.weights.mean(), density.weights.std() / np.sqrt(len(density.weights))
        if abs(total - 1) > 0.02 + 5 * error:
            yield (
                "the density must integrate to 1 over actions, but integrates to "
                f"{total:.3g} +- {error:.1g}; include the change of variables (the width of the space, the "
                "slope of tanh) in log_prob"
            )
            return


def _sample_agrees(subject: PolicySubject) -> Iterator[str]:
    if not subject.is_discrete:
        for density in subject.densities:
            yield from compare_draws(density)
        return
    for index, state in enumerate(subject.some_states(5)):
        drawn = subject.sample(np.repeat(state[None], DRAWS, axis=0), index)
        counts = np.bincount(drawn - subject.indices[0], minlength=len(subject.indices))
        states = np.repeat(state[None], len(counts), axis=0)
        expected = DRAWS * np.exp(subject.log_prob(states, subject.indices))
        if p_value(counts, expected) < P_VALUE:
            worst = int(np.abs(counts - expected).argmax())
            yield (
                f"sample must agree with log_prob: of {DRAWS} actions {expected[worst]:.0f} should be "
                f"{subject.indices[worst]}, but {counts[worst]} were; let both use the same distribution"
            )
            return


def _repeats_itself(subject: PolicySubject) -> Iterator[str]:
    states = np.repeat(subject.some_states(1), 1_000, axis=0)
    first, again, other = (subject.sample(states, seed) for seed in (7, 7, 8))
    is_random = len(np.unique(first, axis=0)) > 1
    if not np.array_equal(first, again):
        yield (
            "sample must draw the same from equally seeded generators, but did not; take all randomness from "
            "`rng`"
        )
    elif is_random and np.array_equal(first, other):
        yield (
            "sample must draw anew from a generator of another seed, but drew the same; take all randomness "
            "from `rng`"
        )
    elif (
        not is_random
        and not subject.is_discrete
        and not is_at_bound(subject.space, stretch(first, subject.space)[0]).any()
    ):
        yield "sample must draw from a density, but drew the same action 1,000 times; add noise"
    if not np.array_equal(subject.log_prob(states, first), subject.log_prob(states, first)):
        yield "log_prob must return the same if called again, but did not; switch off dropout (`net.eval()`)"


def _has_no_side_effects(subject: PolicySubject) -> Iterator[str]:
    before, states = _global_generators(), subject.states.copy()
    actions = np.asarray(subject.policy.sample(states, np.random.default_rng(0)))
    kept = actions.copy()
    subject.policy.log_prob(states, actions)
    after = _global_generators()
    for name in before:
        if before[name] != after[name]:
            yield f"a policy must leave the global generator of {name} alone, but drew from it; use `rng`"
    if not np.array_equal(states, subject.states) or not np.array_equal(actions, kept):
        yield "a policy must not write into its input arrays, but did; work on a copy"


def _global_generators() -> dict[str, str]:
    """State of the global random generators of the packages that are loaded, by package."""
    states = {"numpy": repr(np.random.get_state()), "random": repr(random.getstate())}  # noqa: NPY002 (only read)
    if "torch" in sys.modules:
        states["torch"] = repr(sys.modules["torch"].get_rng_state().numpy().tobytes())
    return states


def _batches_agree(subject: PolicySubject) -> Iterator[str]:
    states = subject.some_states(10)
    actions = subject.sample(states, 0)
    together = subject.log_prob(states, actions)
    for i in range(len(states)):
        one = subject.sample(states[i : i + 1], 0)
        if np.shape(one) != (1, *subject.space.shape):
            yield f"sample must return shape {(1, *subject.space.shape)} for one state, got {np.shape(one)}"
            return
        alone = subject.log_prob(states[i : i + 1], actions[i : i + 1])
        # Soft Q-values of single precision over a low temperature are rounded to some 1e-4.
        if not np.allclose(alone, together[i], rtol=1e-3, atol=1e-3):
            yield (
                f"log_prob must not depend on the rest of the batch, but is {together[i]:.6g} among "
                f"{len(states)} states and {np.ravel(alone)[0]:.6g} alone; look for batch normalisation"
            )
            return


POLICY_CHECKS: tuple[Check[PolicySubject], ...] = (
    Check("offers log_prob and sample", _offers_policy, is_basic=True),
    Check("takes the task's observations and has the task's actions", _fits_the_task, is_basic=True),
    Check("sample returns an action of the space for each state", _sample_fits, is_basic=True),
    Check("log_prob returns a finite number for each action drawn", _log_prob_fits, is_basic=True),
    Check("probabilities sum to 1, or densities integrate to 1", _is_normalised),
    Check("sample agrees with log_prob", _sample_agrees),
    Check("equal generators draw the same actions", _repeats_itself),
    Check("global generators and arguments are left as they were", _has_no_side_effects),
    Check("log_prob and sample treat a single state as they do in a batch", _batches_agree),
)
"""What `check_policy` checks, in this order."""
