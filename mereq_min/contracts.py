"""What `mereq_min.interfaces` promises, checked on a policy or task of your own and reported in plain words.

A finding says what was expected, what was found and what to do; where all is well there is none. Nothing that
is wrong with the object raises. Statistical checks accuse a flawless policy less than once in 1,000 calls.
"""

from __future__ import annotations

import random
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import chisquare, multivariate_normal, poisson

from mereq_min.checks import Array, check_array, check_number
from mereq_min.experts import Imperfections
from mereq_min.interfaces import Cloner, Expert, Learner, Policy, Task
from mereq_min.metrics import true_weights
from mereq_min.rollout import rollout
from mereq_min.steps import Steps

PRIOR_RATE, EXPERT_RATE = (0.25, 0.5), 0.03
"""Least and largest lambda_0, the intervention rate of the prior, and the largest of the expert itself."""
LEAST_SUCCESS = 0.9
"""Share of episodes in which prior and expert must do the task proper."""
SLACK = 0.1
"""By how much the expert may beat the prior at the prior's reward, of what it gains at its own."""
RATE_STEPS, RANDOM_STEPS = 10_000, 2_000
"""Steps of the watched rollouts, and of random actions."""
P_VALUE = 1e-5
"""A deviation that is less probable is no accident."""
DRAWS = 4_000
"""Actions drawn in one state."""

Subject = TypeVar("Subject")


@dataclass(frozen=True)
class Check(Generic[Subject]):
    """One promise, and how its findings are found."""

    title: str
    find: Callable[[Subject], Iterator[str]]
    is_basic: bool = False
    """Whether what follows makes no sense without it."""


def check_policy(policy: Any, states: NDArray[Any], action_space: Any, rng: np.random.Generator) -> list[str]:
    """Check a policy against `interfaces.Policy`.

    Args:
        policy: the policy.
        states: (N, ...) states of its environment.
        action_space: gymnasium `Discrete`, or `Box` of one axis.
        rng: seeds what the statistical checks draw.

    Returns:
        Findings in plain words.
    """
    subject = PolicySubject(policy, np.asarray(states), action_space, int(rng.integers(2**31)))
    return [finding for _, found in run_checks(POLICY_CHECKS, subject) for finding in found or []]


def check_task(task: Any, seed: int = 0) -> list[str]:
    """Check a task against `interfaces.Task`, and its calibration.

    Args:
        task: the task.
        seed: of all rollouts.

    Returns:
        Findings in plain words.
    """
    subject = TaskSubject(task, seed)
    return [finding for _, found in run_checks(TASK_CHECKS, subject) for finding in found or []]


def run_checks(checks: Sequence[Check[Subject]], subject: Subject) -> Iterator[tuple[str, list[str] | None]]:
    """Title and findings of each check as it is made; None where a basic one before it failed."""
    goes_on = True
    for check in checks:
        found = run_check(check, subject) if goes_on else None
        goes_on = goes_on and not (check.is_basic and found)
        yield check.title, found


def run_check(check: Check[Subject], subject: Subject) -> list[str]:
    """Findings of one check; what the subject raises is one of them."""
    found = []
    try:
        for finding in check.find(subject):
            found.append(finding)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{last.filename}:{last.lineno}, in {last.name}"
        found.append(f"{check.title}: raised {type(error).__name__}: {error} ({place}); make that work first")
    return found


@dataclass(frozen=True)
class PolicySubject:
    """A policy under check.

    Attributes:
        policy: the policy.
        states: (N, ...) states of its environment.
        space: of its actions.
        seed: of what the checks draw.
    """

    policy: Any
    states: NDArray[Any]
    space: Any
    seed: int

    @property
    def is_discrete(self) -> bool:
        """Whether actions are indices."""
        return hasattr(self.space, "n")

    @property
    def indices(self) -> NDArray[np.int64]:
        """All actions (A,) of a `Discrete` space."""
        return int(self.space.start) + np.arange(int(self.space.n))

    def some_states(self, n: int) -> NDArray[Any]:
        """At most `n` of the states, evenly picked."""
        return self.states[np.unique(np.linspace(0, len(self.states) - 1, n).astype(int))]

    def sample(self, states: NDArray[Any], seed: int) -> NDArray[Any]:
        """Actions (N, ...) drawn from a fresh generator."""
        return self.policy.sample(states.copy(), np.random.default_rng((self.seed, seed)))

    def log_prob(self, states: NDArray[Any], actions: NDArray[Any]) -> Array:
        """Log-probabilities (N,)."""
        return np.asarray(self.policy.log_prob(states.copy(), actions.copy()), dtype=np.float64)

    @cached_property
    def densities(self) -> list[Density]:
        """In a few states, what `log_prob` says of a `Box` and what `sample` draws from it."""
        states = self.some_states(3)
        found = [measure_density(self, state, index) for index, state in enumerate(states)]
        return [density for density in found if density is not None]


class Density(NamedTuple):
    """Latents drawn and proposed in one state, (M, D + 1) and (N, D + 1); the last column is log-density."""

    drawn: Array
    proposed: Array
    weights: Array
    """(N,) density over the proposal's: their mean is the integral of the density."""


def measure_density(subject: PolicySubject, state: NDArray[Any], index: int) -> Density | None:
    """Importance sampling of exp(log_prob) in one state, from a proposal wider than what `sample` draws.

    Bounded actions are stretched to the whole line by the inverse of tanh. None where `sample` draws single
    points or crowds at the bounds, where float32 cannot tell one density from another.
    """
    rng = np.random.default_rng((subject.seed, index))
    states = np.repeat(state[None], DRAWS, axis=0)
    actions = subject.sample(states, index)
    drawn, slope = stretch(actions, subject.space)
    covariance = np.atleast_2d(np.cov(drawn, rowvar=False))
    if crowds(subject.space, drawn).mean() > 0.01 or (np.diag(covariance) < 1e-12).any():
        return None
    covariance += 0.1 * np.diag(np.diag(covariance))  # draws may lie in a plane where the density does not
    # Half from a wider Gaussian, half from around the draws themselves, in case they have several modes.
    wide = multivariate_normal(drawn.mean(axis=0), 2.25 * covariance)
    narrow = multivariate_normal(np.zeros(drawn.shape[1]), 0.25 * covariance)
    centres = drawn[: DRAWS // 20]
    near = centres[rng.integers(len(centres), size=DRAWS)] + narrow.rvs(DRAWS, rng).reshape(DRAWS, -1)
    latent = np.concatenate([wide.rvs(DRAWS, rng).reshape(DRAWS, -1), near])
    proposed_actions = squeeze(latent, subject.space)
    latent, proposed_slope = stretch(proposed_actions, subject.space)  # as they are after rounding
    kernels = np.stack([narrow.logpdf(latent - centre) for centre in centres])
    log_proposal = np.logaddexp(
        wide.logpdf(latent), logsumexp(kernels, axis=0) - np.log(len(centres))
    ) - np.log(2)
    log_drawn = subject.log_prob(states, actions) + slope
    log_density = (
        subject.log_prob(np.repeat(state[None], len(latent), axis=0), proposed_actions) + proposed_slope
    )
    return Density(
        np.column_stack([drawn, log_drawn]),
        np.column_stack([latent, log_density]),
        np.exp(log_density - log_proposal),
    )


def is_bounded(space: Any) -> bool:
    """Whether a `Box` has bounds on all sides."""
    return bool(np.isfinite(space.low).all() and np.isfinite(space.high).all())


def stretch(actions: NDArray[Any], space: Any) -> tuple[Array, Array]:
    """Latents (N, D) of actions (N, D) in a `Box`, and the log of d action / d latent (N,)."""
    actions = np.asarray(actions, dtype=np.float64)
    if not is_bounded(space):
        return actions, np.zeros(len(actions))
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    unit = np.clip(2 * (actions - low) / (high - low) - 1, -1 + 1e-9, 1 - 1e-9)
    return np.arctanh(unit), (np.log((high - low) / 2) + np.log1p(-(unit**2))).sum(axis=1)


def crowds(space: Any, latent: Array) -> NDArray[np.bool_]:
    """(N,) whether an action is within 2e-6 of a bound."""
    return np.any(np.abs(latent) > 7.0, axis=1) & is_bounded(space)


def squeeze(latent: Array, space: Any) -> NDArray[Any]:
    """Actions (N, D) of latents (N, D)."""
    if is_bounded(space):
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
        latent = low + (np.tanh(latent) + 1) / 2 * (high - low)
    return latent.astype(space.dtype)


def _offers_policy(subject: PolicySubject) -> Iterator[str]:
    yield from _missing("a policy", subject.policy, Policy)
    if not subject.is_discrete and not (hasattr(subject.space, "low") and len(subject.space.shape) == 1):
        yield f"actions must be Discrete or a Box of one axis, got {subject.space}; adapt the environment"
    if len(subject.states) < 2:
        yield f"at least 2 states are needed for the checks, got {len(subject.states)}; pass more"


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
            yield f"sample must stay within {space}, it drew {actions[~inside].flat[0]}; bound it{wrap}"


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
        "log_prob must be a number or -inf for any action, got NaN or +inf; use -inf where never taken"
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
            yield f"probabilities must sum to 1, they sum to {worst:.6g}; return the log_softmax of logits"
        return
    for density in subject.densities:
        if not (density.proposed < np.inf).all():
            yield no_number
            return
        total, error = density.weights.mean(), density.weights.std() / np.sqrt(len(density.weights))
        if abs(total - 1) > 0.02 + 5 * error:
            yield (
                f"the density must integrate to 1 over actions, it integrates to {total:.3g} +- {error:.1g}; "
                "count the action's units (the scale of the space, the slope of tanh) into log_prob"
            )
            return


def _sample_agrees(subject: PolicySubject) -> Iterator[str]:
    if not subject.is_discrete:
        for density in subject.densities:
            yield from _compare_draws(density)
        return
    for index, state in enumerate(subject.some_states(5)):
        drawn = subject.sample(np.repeat(state[None], DRAWS, axis=0), index)
        counts = np.bincount(drawn - subject.indices[0], minlength=len(subject.indices))
        states = np.repeat(state[None], len(counts), axis=0)
        expected = DRAWS * np.exp(subject.log_prob(states, subject.indices))
        if _p_value(counts, expected) < P_VALUE:
            worst = int(np.abs(counts - expected).argmax())
            yield (
                f"sample must draw what log_prob says: of {DRAWS} actions {expected[worst]:.0f} should be "
                f"{subject.indices[worst]}, {counts[worst]} were; let both use the same distribution"
            )
            return


def _p_value(counts: NDArray[np.int64], expected: Array) -> float:
    """Chi-square test of counts (A,), and a Poisson test of those too rare for it, together."""
    rare = expected < 5
    p_rare = float(poisson.sf(counts[rare].sum() - 1, expected[rare].sum()))
    observed, wanted = counts[~rare], expected[~rare]
    if len(observed) < 2 or not observed.any():
        return p_rare
    return min(p_rare, float(chisquare(observed, wanted * observed.sum() / wanted.sum()).pvalue))


def _compare_draws(density: Density) -> Iterator[str]:
    """Kolmogorov-Smirnov, each coordinate and the log-density of draws against the weighted proposals."""
    if not density.weights.any():
        return  # the density is 0 wherever the draws are: it does not integrate to 1
    weights = density.weights / density.weights.sum()
    n_effective = 1 / (weights**2).sum()
    allowed = np.sqrt(-np.log(P_VALUE / 2) / 2 * (1 / len(density.drawn) + 1 / n_effective))
    for axis, (drawn, proposed) in enumerate(zip(density.drawn.T, density.proposed.T, strict=True)):
        order = np.argsort(proposed)
        expected = np.append(0.0, weights[order].cumsum())[np.searchsorted(proposed[order], np.sort(drawn))]
        distance = np.abs(expected - np.arange(1, len(drawn) + 1) / len(drawn)).max()
        if distance > allowed:
            is_density = axis == density.drawn.shape[1] - 1
            what = "log_prob of the draws" if is_density else f"component {axis} of the action"
            yield (
                f"sample must draw what log_prob says: the distribution of {what} is off by {distance:.2f} "
                f"(chance explains {allowed:.2f}); let both use the same distribution"
            )
            return


def _repeats_itself(subject: PolicySubject) -> Iterator[str]:
    states = np.repeat(subject.some_states(1), 1_000, axis=0)
    first, again, other = (subject.sample(states, seed) for seed in (7, 7, 8))
    is_random = len(np.unique(first, axis=0)) > 1
    if not np.array_equal(first, again):
        yield "sample must draw the same from an equal generator, it did not; take all randomness from `rng`"
    elif is_random and np.array_equal(first, other):
        yield "sample must draw anew from another generator, it drew the same; take its randomness from `rng`"
    elif (
        not is_random
        and not subject.is_discrete
        and not crowds(subject.space, stretch(first, subject.space)[0]).any()
    ):
        yield "sample must draw from a density, it drew the same action 1,000 times; give it some noise"
    if not np.array_equal(subject.log_prob(states, first), subject.log_prob(states, first)):
        yield "log_prob must say the same when asked again, it did not; switch off dropout (`net.eval()`)"


def _leaves_the_world_alone(subject: PolicySubject) -> Iterator[str]:
    before, states = _global_generators(), subject.states.copy()
    actions = np.asarray(subject.policy.sample(states, np.random.default_rng(0)))
    kept = actions.copy()
    subject.policy.log_prob(states, actions)
    after = _global_generators()
    for name in before:
        if before[name] != after[name]:
            yield f"a policy must leave the global generator of {name} alone, it drew from it; use `rng`"
    if not np.array_equal(states, subject.states) or not np.array_equal(actions, kept):
        yield "a policy must not write into the arrays that it is given, it did; work on a copy"


def _global_generators() -> dict[str, str]:
    """State of the global generators that are loaded, by package."""
    states = {"numpy": repr(np.random.get_state()), "random": repr(random.getstate())}  # noqa: NPY002 (read)
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
        if not np.allclose(alone, together[i], rtol=1e-4, atol=1e-4):
            yield (
                f"log_prob must not depend on the rest of the batch, it is {together[i]:.6g} among "
                f"{len(states)} states and {np.ravel(alone)[0]:.6g} alone; look for batch normalisation"
            )
            return


POLICY_CHECKS: tuple[Check[PolicySubject], ...] = (
    Check("offers log_prob and sample", _offers_policy, is_basic=True),
    Check("sample returns an action of the space for each state", _sample_fits, is_basic=True),
    Check("log_prob returns a finite number for each action drawn", _log_prob_fits, is_basic=True),
    Check("probabilities sum, or densities integrate, to 1", _is_normalised),
    Check("sample draws what log_prob says", _sample_agrees),
    Check("the same generator draws the same actions", _repeats_itself),
    Check("no global randomness is used and no argument changed", _leaves_the_world_alone),
    Check("one state alone is treated as in a batch", _batches_agree),
)
"""What `check_policy` checks, in this order."""


@dataclass(frozen=True)
class TaskSubject:
    """A task under check; rollouts and measures are made once.

    Attributes:
        task: the task.
        seed: of all rollouts.
    """

    task: Any
    seed: int

    def watch(self, policy: Any, n_steps: int, seed: int) -> Steps:
        """Steps of a policy, watched by the task's ideal expert."""
        rngs = [np.random.default_rng(stream) for stream in np.random.SeedSequence(seed).spawn(2)]
        expert = self.task.make_expert(rngs[1], Imperfections())
        return rollout(self.task, policy, expert, n_steps, rngs[0])

    @cached_property
    def prior_steps(self) -> Steps:
        """The prior's watched steps."""
        return self.watch(self.task.prior, RATE_STEPS, self.seed)

    @cached_property
    def expert_steps(self) -> Steps:
        """The expert's watched steps."""
        return self.watch(self.task.expert_policy, RATE_STEPS, self.seed)

    @cached_property
    def random_steps(self) -> Steps:
        """Steps of random actions, unwatched."""
        policy = _RandomPolicy(self.task.make_env().action_space, self.seed)
        return rollout(self.task, policy, None, RANDOM_STEPS, np.random.default_rng(self.seed))

    @cached_property
    def measures(self) -> dict[str, dict[str, Any]]:
        """What `evaluate` says of the prior and of the expert."""
        return {name: self.task.evaluate(getattr(self.task, name)) for name in ("prior", "expert_policy")}


class _RandomPolicy:
    """Draws actions from the space, whatever the state."""

    def __init__(self, space: Any, seed: int) -> None:
        self.space = space
        space.seed(seed)

    def log_prob(self, state: NDArray[Any], action: NDArray[Any]) -> Array:
        raise NotImplementedError

    def sample(self, state: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        return np.array([self.space.sample() for _ in state])


def _missing(what: str, thing: Any, protocol: type) -> Iterator[str]:
    """Names of a protocol that something does not offer."""
    names = [*protocol.__annotations__, *(name for name in vars(protocol) if not name.startswith("_"))]
    for name in names:
        if name not in dir(thing) and not hasattr(thing, name):  # dir evaluates no property
            see = f"see mereq_min.interfaces.{protocol.__name__}"
            yield f"{what} must offer `{name}`, this {type(thing).__name__} does not; {see}"
        elif callable(getattr(protocol, name, None)) and not callable(getattr(thing, name)):
            yield f"`{name}` of {what} must be a method, it is a {type(getattr(thing, name)).__name__}"


def _offers_task(subject: TaskSubject) -> Iterator[str]:
    yield from _missing("a task", subject.task, Task)


def _numbers_fit(subject: TaskSubject) -> Iterator[str]:
    task = subject.task
    if not isinstance(task.name, str) or not task.name:
        yield f"name must be a string, got {task.name!r}"
    names = task.feature_names
    if not isinstance(names, tuple) or not names or not all(isinstance(name, str) for name in names):
        yield f"feature_names must be a tuple of strings, one a feature, got {names!r}"
        return
    if len(set(names)) < len(names):
        yield f"feature_names must differ from one another, got {names}; rename the repeated ones"
    shaped = True
    for name in ("prior_weights", "expert_weights"):
        try:
            check_array(name, getattr(task, name), shape=(len(names),))
        except (TypeError, ValueError) as error:
            shaped = False
            yield f"{error}; give one weight for each of {', '.join(names)}"
    bounds: tuple[tuple[str, float, float, bool, bool], ...] = (
        ("gamma", 0, 1 - 1e-9, False, False),
        ("horizon", 1, np.inf, False, True),
        ("patience", 1, np.inf, False, True),
        ("prior_weight", 0, np.inf, False, False),
        ("prior_temperature", 0, np.inf, True, False),
        ("temperature", 0, np.inf, True, False),
    )
    for name, least, most, above, whole in bounds:
        try:
            check_number(name, getattr(task, name), least, most, above=above, whole=whole)
        except ValueError as error:
            yield f"{error}"
    if shaped and not true_weights(task, "residual").any():
        yield (
            "expert_weights must differ from prior_weight * prior_weights, they are the same: there is no "
            "preference to be inferred"
        )


def _environment_fits(subject: TaskSubject) -> Iterator[str]:
    task, K = subject.task, len(subject.task.feature_names)
    env = task.make_env()
    env.action_space.seed(subject.seed)
    state, _ = env.reset(seed=subject.seed)
    t, ended = 0, False
    while True:
        if not env.observation_space.contains(state):
            yield f"observations must lie in {env.observation_space}, got {state!r} at step {t}"
            return
        if ended or t > task.horizon:
            break
        state, _, terminated, truncated, info = env.step(env.action_space.sample())
        t, ended = t + 1, terminated or truncated
        features = np.asarray(info["features"]) if "features" in info else None
        if features is None or features.shape != (K,):
            got = "nothing" if features is None else f"shape {features.shape}"
            yield f"info['features'] must hold the {K} features of each step, got {got}; let `step` add them"
            return
    if not ended or (t != task.horizon and not terminated):
        ending = f"ended after {t}" if ended else f"went on after {t}"
        yield (
            f"an episode must end in the MDP or at the horizon of {task.horizon} steps, it {ending}; "
            "wrap the environment in gymnasium.wrappers.TimeLimit"
        )
    reference = task.make_env(reference=True)
    for name in ("observation_space", "action_space"):
        if getattr(reference, name) != getattr(env, name):
            yield f"the reference simulator must have the same {name}, it has {getattr(reference, name)}"


def _gymnasium_agrees(subject: TaskSubject) -> Iterator[str]:
    from gymnasium.utils.env_checker import check_env  # this module itself needs numpy and scipy alone

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice, which a simulator of somebody else's cannot take
        check_env(subject.task.make_env().unwrapped, skip_render_check=True)
    yield from ()


def _seeds_repeat(subject: TaskSubject) -> Iterator[str]:
    first, again, other = (subject.watch(subject.task.prior, 300, subject.seed + i) for i in (0, 0, 1))
    for name, column in first.columns().items():
        if not np.array_equal(column, again.columns()[name]):
            yield (
                f"the same seed must give the same steps, `{name}` differs; take what the environment draws "
                "from `reset(seed=...)`, and the expert's from its `rng`"
            )
            return
    if np.array_equal(first.state, other.state) and np.array_equal(first.action, other.action):
        yield "another seed must give other steps, it gave the same; use the seed of `reset(seed=...)`"


def _features_vary(subject: TaskSubject) -> Iterator[str]:
    parts = (subject.random_steps, subject.prior_steps, subject.expert_steps)
    features = np.concatenate([steps.features for steps in parts])
    for name, column in zip(subject.task.feature_names, features.T, strict=True):
        if not np.isfinite(column).all():
            yield f"feature {name!r} must be finite, {np.count_nonzero(~np.isfinite(column))} entries are not"
        elif np.ptp(column) == 0:
            yield f"feature {name!r} must vary, it is {column[0]:g} in all {len(column)} steps; leave it out"
        elif np.abs(column).max() > 2:
            yield f"feature {name!r} must be about from 0 to 1, it reaches {np.abs(column).max():g}; scale it"


def _policies_fit(subject: TaskSubject) -> Iterator[str]:
    for name, steps in (("prior", subject.prior_steps), ("expert_policy", subject.expert_steps)):
        policy, space = getattr(subject.task, name), subject.task.make_env().action_space
        for finding in check_policy(policy, steps.state, space, np.random.default_rng(subject.seed)):
            yield f"{name}: {finding}"
        if hasattr(policy, "state"):
            loaded = subject.task.load_policy(policy.state())
            saved, rebuilt = (each.log_prob(steps.state, steps.policy_action) for each in (policy, loaded))
            if not np.allclose(saved, rebuilt, rtol=1e-6, atol=1e-6):
                yield f"load_policy must rebuild the {name} from its state(), log_prob differs; save more"


def _is_calibrated(subject: TaskSubject) -> Iterator[str]:
    prior, expert = subject.prior_steps.intervention_rate, subject.expert_steps.intervention_rate
    if not PRIOR_RATE[0] <= prior <= PRIOR_RATE[1]:
        yield (
            f"the prior must be taken over at a rate from {PRIOR_RATE[0]} to {PRIOR_RATE[1]}, "
            f"it is {prior:.3f}; let the expert object to {'more' if prior < PRIOR_RATE[0] else 'less'}"
        )
    if expert > EXPERT_RATE:
        yield (
            f"the expert's own actions must be taken over at a rate of at most {EXPERT_RATE}, it is "
            f"{expert:.3f}; let the rule forgive what the expert does"
        )


def _measures_fit(subject: TaskSubject) -> Iterator[str]:
    keys = ("prior_return", "expert_return", "success", "kl_to_expert", "feature_divergence")
    K = len(subject.task.feature_names)
    for name, measures in subject.measures.items():
        absent = [key for key in keys if key not in measures]
        if absent:
            yield f"evaluate must return {', '.join(absent)}, they are missing for the {name}"
            return
        if np.shape(measures["feature_divergence"]) != (K,):
            yield f"feature_divergence must have shape ({K},), got {np.shape(measures['feature_divergence'])}"
        if not measures["success"] >= LEAST_SUCCESS:
            yield (
                f"the {name} must do the task proper in {LEAST_SUCCESS:.0%} of episodes, it does in "
                f"{measures['success']:.1%}; train it longer, its preference alone should be wrong"
            )
    prior, expert = subject.measures["prior"], subject.measures["expert_policy"]
    if not expert["expert_return"] > prior["expert_return"]:
        yield _not_better("expert", "prior", expert["expert_return"], prior["expert_return"])
    # Soft control pays for entropy with return: a more random prior may fall a little behind the expert.
    allowance = SLACK * abs(expert["expert_return"] - prior["expert_return"])
    if not prior["prior_return"] > expert["prior_return"] - allowance:
        yield _not_better("prior", "expert", prior["prior_return"], expert["prior_return"])
    if not abs(expert["kl_to_expert"]) <= 1e-6 or not np.max(expert["feature_divergence"]) <= 0.05:
        yield (
            f"the expert must not differ from itself: kl_to_expert {expert['kl_to_expert']:.2g} nats, "
            f"feature_divergence {np.max(expert['feature_divergence']):.2g} bits; compare with expert_policy"
        )
    if not prior["kl_to_expert"] > 0.01:
        yield f"the prior must differ from the expert, kl_to_expert is {prior['kl_to_expert']:.2g} nats"


def _not_better(who: str, other: str, own: float, others: float) -> str:
    return (
        f"the {who} must be the better one by its own reward, its return is {own:.4g}, the {other}'s "
        f"{others:.4g}; train it longer, or check its weights"
    )


def _distance_is_calibrated(subject: TaskSubject) -> Iterator[str]:
    for reward in ("residual", "full"):
        truth = true_weights(subject.task, reward)
        for scale, expected, said in ((2.0, 0.0, "twice the true"), (-1.0, 1.0, "the opposite of the true")):
            distance = subject.task.reward_distance(scale * truth, reward)
            if not (np.isnan(distance) or abs(distance - expected) <= 1e-6):
                yield f"reward_distance must be {expected:g} for {said} {reward} reward, it is {distance:.4g}"


def _parts_can_be_made(subject: TaskSubject) -> Iterator[str]:
    task = subject.task
    yield from _missing("the residual learner", task.make_learner("residual", task.gamma), Learner)
    yield from _missing("the full-reward learner", task.make_learner("full", 1.0), Learner)
    yield from _missing("the cloner", task.make_cloner(), Cloner)
    yield from _missing("the expert", task.make_expert(np.random.default_rng(0), Imperfections()), Expert)


def _rendering_works(subject: TaskSubject) -> Iterator[str]:
    env = subject.task.make_env(render_mode="rgb_array")
    env.action_space.seed(subject.seed)
    env.reset(seed=subject.seed)
    images = [np.asarray(env.render())]
    for _ in range(20):
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        images.append(np.asarray(env.render()))
        if terminated or truncated:
            break
    env.close()
    if any(image.dtype != np.uint8 or image.ndim != 3 or min(image.shape[:2]) < 64 for image in images):
        got = f"{images[0].dtype} {images[0].shape}"
        yield f"render must return images (height, width, 3) of uint8, at least 64 pixels each way, got {got}"
    elif all(np.array_equal(images[0], image) for image in images[1:]):
        yield f"rendering must show the state, the image stayed the same for {len(images) - 1} steps"


TASK_CHECKS: tuple[Check[TaskSubject], ...] = (
    Check("offers everything that interfaces.Task names", _offers_task, is_basic=True),
    Check("weights, names and numbers fit together", _numbers_fit, is_basic=True),
    Check("spaces are honoured, features reported, episodes end", _environment_fits, is_basic=True),
    Check("gymnasium's own checker finds no error", _gymnasium_agrees),
    Check("the same seed gives the same steps", _seeds_repeat),
    Check("features are finite, of order 1, and none is constant", _features_vary),
    Check("prior and expert are policies that can be saved", _policies_fit),
    Check("the prior is taken over often, the expert hardly ever", _is_calibrated),
    Check("both do the task proper, each best by its own reward", _measures_fit),
    Check("the distance of the true reward is 0", _distance_is_calibrated),
    Check("learners, cloner and expert can be made", _parts_can_be_made),
    Check("rendering shows the state", _rendering_works),
)
"""What `check_task` checks, in this order."""
