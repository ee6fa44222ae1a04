"""What `mereq_min.interfaces` promises, checked on a policy or task of your own and reported in plain words.

A finding says what was expected, what was found and what to do; where all is well there is none. Nothing that
is wrong with the object raises. Statistical checks accuse a flawless policy less than once in 1,000 calls.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mereq_min.experts import Imperfections
from mereq_min.interfaces import Cloner, Expert, Learner, Task
from mereq_min.lab.conformance.harness import Check, find_missing, run_checks
from mereq_min.lab.conformance.policy import check_policy
from mereq_min.metrics import true_weights
from mereq_min.rollout import rollout
from mereq_min.steps import Steps
from mereq_min.validation import Array, check_array, check_number

PRIOR_RATE, EXPERT_RATE = (0.25, 0.5), 0.03
"""Least and largest lambda_0, the intervention rate of the prior, and the largest of the expert itself."""
LEAST_SUCCESS = 0.9
"""Share of episodes in which prior and expert must do the task proper."""
SLACK = 0.1
"""By how much the expert may beat the prior at the prior's reward, of what it gains at its own."""
RATE_STEPS, RANDOM_STEPS = 10_000, 2_000
"""Steps of the watched rollouts, and of random actions."""


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


def _offers_task(subject: TaskSubject) -> Iterator[str]:
    yield from find_missing("a task", subject.task, Task)


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
    yield from find_missing("the residual learner", task.make_learner("residual", task.gamma), Learner)
    yield from find_missing("the full-reward learner", task.make_learner("full", 1.0), Learner)
    yield from find_missing("the cloner", task.make_cloner(), Cloner)
    yield from find_missing("the expert", task.make_expert(np.random.default_rng(0), Imperfections()), Expert)


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
