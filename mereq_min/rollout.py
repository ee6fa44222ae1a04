"""Rollouts of a policy while an expert watches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mereq_min.interfaces import Expert, Oracle, Policy, Task
from mereq_min.policies import ActionCheck
from mereq_min.steps import Steps

if TYPE_CHECKING:
    import gymnasium

_ROW = (
    "state",
    "action",
    "policy_action",
    "features",
    "is_intervention",
    "episode",
    "t",
    "terminated",
    "truncated",
)


def rollout(
    task: Task,
    policy: Policy,
    expert: Expert | None,
    n_steps: int,
    rng: np.random.Generator,
    *,
    expert_rng: np.random.Generator | None = None,
    policy_version: int = 0,
    first_episode: int = 0,
    env: gymnasium.Env[Any, Any] | None = None,
    on_step: Callable[[bool], None] = lambda intervened: None,
) -> Steps:
    """Take `n_steps` steps in a new environment of the task, with the expert free to take over at each.

    Args:
        task: makes the environment, whose info holds the features.
        policy: proposes an action at every step, also while the expert is in control.
        expert: who watches; None for a rollout that nobody watches.
        n_steps: steps to take; the last episode is truncated there.
        rng: draws the policy's actions and seeds the environment.
        expert_rng: source of the expert's randomness; default: a stream spawned from `rng`.
        policy_version: recorded with each step.
        first_episode: index of the first episode.
        env: environment to use; default: `task.make_env()`. It is closed at the end.
        on_step: called after each step with whether the expert controlled it.

    Returns:
        The steps.

    Raises:
        ValueError: if `n_steps` is below 1, or what policy or expert return is no action.
    """
    if n_steps < 1:
        raise ValueError(f"n_steps must be at least 1, got {n_steps}")
    env = task.make_env() if env is None else env
    check = ActionCheck(env.action_space)
    rows: list[tuple[Any, ...]] = []
    if expert_rng is None:
        expert_rng = rng.spawn(1)[0]
    state, _ = env.reset(seed=int(rng.integers(2**31)))
    episode, t = first_episode, 0
    if expert is not None:
        expert.reset(expert_rng)
    for i in range(n_steps):
        policy_action = check(policy.sample(np.asarray(state)[None], rng), 1)[0]
        expert_action = None if expert is None else expert.intervene(state, policy_action)
        if expert_action is not None:
            check.one(expert_action)
        action = policy_action if expert_action is None else expert_action
        next_state, _, terminated, truncated, info = env.step(action)
        truncated = truncated or (i == n_steps - 1 and not terminated)
        intervened, features = expert_action is not None, np.array(info["features"], dtype=np.float64)
        rows.append((state, action, policy_action, features, intervened, episode, t, terminated, truncated))
        on_step(intervened)
        state, t = next_state, t + 1
        if terminated or truncated:
            state, _ = env.reset()
            episode, t = episode + 1, 0
            if expert is not None:
                expert.reset(expert_rng)
    env.close()
    columns = {name: np.array(column) for name, column in zip(_ROW, zip(*rows, strict=True), strict=True)}
    return Steps(**columns, policy_version=np.full(n_steps, policy_version))


def watch(task: Task, policy: Policy, oracle: Oracle, n_steps: int, seed: int | Sequence[int]) -> Steps:
    """Roll out a policy while the oracle's ideal expert watches.

    Args:
        task: makes the environment.
        policy: proposes the actions.
        oracle: makes the expert.
        n_steps: steps to take.
        seed: seed of environment, policy and expert; several numbers make one seed.

    Returns:
        The steps.
    """
    rngs = [np.random.default_rng(stream) for stream in np.random.SeedSequence(seed).spawn(2)]
    return rollout(task, policy, oracle.make_expert(), n_steps, rngs[0], expert_rng=rngs[1])
