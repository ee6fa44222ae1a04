"""Checks that a task keeps the promises of `interfaces.Task`, and `check_task`, which includes its oracle."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from mereq_min.interfaces import Cloner, Learner, Task
from mereq_min.lab.conformance.harness import Check, Result, find_missing, run_checks
from mereq_min.lab.conformance.oracle import ORACLE_CHECKS
from mereq_min.lab.conformance.subject import TaskSubject, find_differing_column, find_policy_faults
from mereq_min.loop import Settings
from mereq_min.residual import scaled_prior_weight
from mereq_min.rollout import rollout
from mereq_min.validation import check_number


def check_task(task: Any, seed: int = 0) -> list[str]:
    """Check a task against `interfaces.Task` and, if it has one, its oracle against `interfaces.Oracle`.

    Args:
        task: the task.
        seed: seed of all rollouts.

    Returns:
        Findings in plain words; none if all contracts are kept.
    """
    results = run_task_checks(TaskSubject(task, seed))
    return [finding for result in results for finding in result.findings]


def run_task_checks(subject: TaskSubject) -> Iterator[Result]:
    """Yield the result of each check of a task and then of its oracle, as soon as it is made.

    The checks of the oracle have the status "no oracle" if the task has none.
    """
    if subject.lacks_oracle:
        yield from run_checks(TASK_CHECKS, subject)
        yield from (Result(check.title, "no oracle") for check in ORACLE_CHECKS)
    else:
        yield from run_checks((*TASK_CHECKS, *ORACLE_CHECKS), subject)


def _offers_task(subject: TaskSubject) -> Iterator[str]:
    yield from find_missing("a task", subject.task, Task)


def _numbers_fit(subject: TaskSubject) -> Iterator[str]:
    task = subject.task
    if not isinstance(task.name, str) or not task.name:
        yield f"name must be a string, got {task.name!r}"
    names = task.feature_names
    if not isinstance(names, tuple) or not names or not all(isinstance(name, str) for name in names):
        yield f"feature_names must be a tuple of strings, one for each feature, got {names!r}"
    elif len(set(names)) < len(names):
        yield f"feature_names must differ from one another, got {names}; rename the repeated ones"
    bounds = (
        ("horizon", 1, False, True),
        ("temperature", 0, True, False),
        ("scaled_prior_weight", 0, False, False),
    )
    for name, least, exclusive, integer in bounds:
        try:
            check_number(name, getattr(task, name), least, exclusive=exclusive, integer=integer)
        except ValueError as error:
            yield f"{error}"
    if not 0 <= task.gamma < 1:
        yield f"gamma must be at least 0 and below 1, got {task.gamma!r}"
    settings = getattr(task, "recorded_settings", None)
    if not isinstance(settings, Settings | None):
        yield f"recorded_settings must be a mereq_min.loop.Settings or None, got {settings!r}"


def _prior_weight_fits(subject: TaskSubject) -> Iterator[str]:
    task = subject.task
    if not hasattr(task, "prior_weight"):
        return  # a task may choose omega' without saying what omega is
    check_number("prior_weight", task.prior_weight, 0)
    expected = scaled_prior_weight(task.prior, task.prior_weight, task.temperature)
    if not np.isclose(task.scaled_prior_weight, expected, rtol=1e-6):
        alpha = getattr(task.prior, "temperature", None)
        whose = "the task's, as the prior's is unknown" if alpha is None else "the prior's"
        yield (
            f"scaled_prior_weight must be prior_weight times a temperature ({whose}), which is {expected:g}, "
            f"got {task.scaled_prior_weight:g}; compute it by mereq_min.residual.scaled_prior_weight"
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
            f"an episode must terminate or be truncated at the horizon of {task.horizon} steps, but "
            f"{ending}; wrap the environment in gymnasium.wrappers.TimeLimit"
        )
    reference = task.make_env(reference=True)
    for name in ("observation_space", "action_space"):
        if getattr(reference, name) != getattr(env, name):
            yield f"make_env(reference=True) must have the same {name}, but has {getattr(reference, name)}"


def _gymnasium_agrees(subject: TaskSubject) -> Iterator[str]:
    from gymnasium.utils.env_checker import check_env  # importing this module needs numpy and scipy only

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its warnings are advice, not errors
        check_env(subject.task.make_env().unwrapped, skip_render_check=True)
    yield from ()


def _seeds_repeat(subject: TaskSubject) -> Iterator[str]:
    def roll_out(seed: int) -> Any:
        return rollout(subject.task, subject.task.prior, None, 300, np.random.default_rng(seed))

    first, again, other = (roll_out(subject.seed + i) for i in (0, 0, 1))
    differing = find_differing_column(first, again)
    if differing is not None:
        yield (
            f"the same seed must give the same steps, but `{differing}` differs; let the environment draw "
            "everything from the generator that `reset(seed=...)` seeds"
        )
    elif np.array_equal(first.state, other.state) and np.array_equal(first.action, other.action):
        yield "another seed must give other steps, but gave the same; use the seed of `reset(seed=...)`"


def _features_vary(subject: TaskSubject) -> Iterator[str]:
    features = np.concatenate([subject.random_steps.features, subject.prior_steps.features])
    for name, column in zip(subject.task.feature_names, features.T, strict=True):
        if not np.isfinite(column).all():
            n_bad = np.count_nonzero(~np.isfinite(column))
            yield f"feature {name!r} must be finite, but {n_bad} entries are not"
        elif np.ptp(column) == 0:
            yield f"feature {name!r} must vary, but is {column[0]:g} in all {len(column)} steps; leave it out"
        elif np.abs(column).max() > 2:
            yield f"feature {name!r} must be of order 1, but reaches {np.abs(column).max():g}; scale it"


def _prior_fits(subject: TaskSubject) -> Iterator[str]:
    yield from find_policy_faults(subject, "prior", subject.task.prior, subject.prior_steps)


def _measures_fit(subject: TaskSubject) -> Iterator[str]:
    measures = subject.prior_measures
    if "task_return" not in measures:
        yield f"evaluate must return task_return, got only {', '.join(measures) or 'nothing'}"
    elif np.ndim(measures["task_return"]) or not np.isfinite(measures["task_return"]):
        yield f"task_return must be a finite number, got {measures['task_return']!r}"
    if "success" in measures and not 0 <= measures["success"] <= 1:
        yield f"success must be a share of episodes, from 0 to 1, got {measures['success']!r}"


def _parts_can_be_made(subject: TaskSubject) -> Iterator[str]:
    task = subject.task
    yield from find_missing("the residual learner", task.make_learner("residual", task.gamma), Learner)
    yield from find_missing("the learner of the full reward", task.make_learner("full", 1.0), Learner)
    yield from find_missing("the cloner", task.make_cloner(), Cloner)


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
        yield f"rendering must show the state, but the image stayed the same for {len(images) - 1} steps"


TASK_CHECKS: tuple[Check[TaskSubject], ...] = (
    Check("the task offers everything in interfaces.Task", _offers_task, is_basic=True),
    Check("names and numbers are valid", _numbers_fit, is_basic=True),
    Check("spaces are honoured, features are reported, episodes end", _environment_fits, is_basic=True),
    Check("gymnasium's own checker finds no error", _gymnasium_agrees),
    Check("the same seed gives the same steps", _seeds_repeat),
    Check("features are finite, of order 1, and none is constant", _features_vary),
    Check("the prior is a valid policy, and can be reloaded once saved", _prior_fits),
    Check("scaled_prior_weight is that of the prior", _prior_weight_fits),
    Check("evaluate returns the task's own measures", _measures_fit),
    Check("learners and cloner can be made", _parts_can_be_made),
    Check("rendering shows the state", _rendering_works),
)
"""What `check_task` checks of every task, in this order."""
