"""Rolling out a policy with an expert watching: the only place where environments are stepped."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from mereq_min.experts import Imperfections
from mereq_min.interfaces import Expert, Policy, Task
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
    policy_version: int = 0,
    first_episode: int = 0,
    env: gymnasium.Env[Any, Any] | None = None,
    on_step: Callable[[bool], None] = lambda intervened: None,
) -> Steps:
    """Take `n_steps` steps in a fresh environment of the task, the expert taking over as it sees fit.

    Args:
        task: gives the environment, whose info holds the features.
        policy: proposes an action at every step, under the expert's control too.
        expert: who watches; None for nobody.
        n_steps: steps to take; the last episode is cut there.
        rng: draws the policy's actions and seeds the environment.
        policy_version: recorded with each step.
        first_episode: number of the first episode.
        env: where, if not in a fresh `task.make_env()`; it is closed at the end.
        on_step: called after each step with whether the expert controlled it.

    Returns:
        The steps.

    Raises:
        ValueError: if `n_steps` is under 1.
    """
    if n_steps < 1:
        raise ValueError(f"n_steps must be at least 1, got {n_steps}")
    env = env or task.make_env()
    rows: list[tuple[Any, ...]] = []
    state, _ = env.reset(seed=int(rng.integers(2**31)))
    episode, t = first_episode, 0
    if expert is not None:
        expert.reset()
    for i in range(n_steps):
        policy_action = policy.sample(np.asarray(state)[None], rng)[0]
        expert_action = None if expert is None else expert.intervene(state, policy_action)
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
                expert.reset()
    env.close()
    columns = {name: np.array(column) for name, column in zip(_ROW, zip(*rows, strict=True), strict=True)}
    return Steps(**columns, policy_version=np.full(n_steps, policy_version))


def watched_rate(task: Task, policy: Policy, n_steps: int, seed: int) -> float:
    """Intervention rate of a policy watched by the task's simulated expert."""
    rngs = [np.random.default_rng(stream) for stream in np.random.SeedSequence(seed).spawn(2)]
    expert = task.make_expert(rngs[1], Imperfections())
    return rollout(task, policy, expert, n_steps, rngs[0]).intervention_rate
