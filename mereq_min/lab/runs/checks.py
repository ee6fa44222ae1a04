"""Whether steps that are read from disk can be those of a task and of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from mereq_min.lab.plugins import HUMAN
from mereq_min.lab.runs.config import RunConfig
from mereq_min.lab.runs.records import Row
from mereq_min.steps import Steps


def check_steps(steps: Steps, env: gymnasium.Env[Any, Any], n_features: int) -> None:
    """Check that steps can be those of an environment.

    Raises:
        ValueError: if a column has a wrong dtype or shape, a number is not finite, a Discrete value is out of
            range, or states and episodes do not follow each other.
    """
    kinds = {"is_intervention": "b", "terminated": "b", "truncated": "b"}
    kinds |= {"episode": "i", "t": "i", "policy_version": "i", "features": "f"}
    for name, kind in kinds.items():
        column = steps.columns()[name]
        if column.dtype.kind != kind or column.ndim != (2 if name == "features" else 1):
            raise ValueError(f"{name} has a wrong dtype or shape: {column.dtype}, {column.shape}")
    if steps.features.shape[1] != n_features or not np.isfinite(steps.features).all():
        raise ValueError(f"the features are not {n_features} finite numbers per step")
    if (np.diff(steps.episode) < 0).any():
        raise ValueError("the numbers of the episodes decrease")
    check_column("state", steps.state, env.observation_space)
    if steps.next_state is not None:
        check_column("next_state", steps.next_state, env.observation_space)
        follows = (steps.episode[1:] == steps.episode[:-1]) & (np.diff(steps.t) == 1)
        if not np.array_equal(steps.state[1:][follows], steps.next_state[:-1][follows]):
            raise ValueError("some next_state differs from the state of the following step")
    check_column("action", steps.action, env.action_space)
    check_column("policy_action", steps.policy_action, env.action_space)


def check_column(name: str, column: NDArray[Any], space: gymnasium.Space[Any]) -> None:
    """Check a column against a space. The bounds of a Box are not checked, as environments may clip.

    Raises:
        ValueError: if the space has no such members.
    """
    shape = column.shape[1:]
    if space.shape is not None and shape != space.shape:
        raise ValueError(f"each {name} has shape {shape}, that of the task has {space.shape}")
    if column.dtype.kind not in "biuf" or not np.isfinite(column).all():
        raise ValueError(f"some numbers of {name} are not finite")
    if isinstance(space, gymnasium.spaces.Discrete):
        inside = (column >= space.start) & (column < space.start + space.n)
        if column.dtype.kind not in "iu" or not inside.all():
            last = space.start + space.n - 1
            raise ValueError(f"{name} must hold integers from {space.start} to {last}")


def check_against_row(steps: Steps, row: Row, config: RunConfig, done: Sequence[Steps]) -> None:
    """Check that steps are as many as the settings ask for, follow those before, and are those of the row.

    A person ends an iteration when they like, and its first steps are by the policy that drove while the last
    update was made.

    Raises:
        ValueError: if they are not.
    """
    is_human, version = config.expert == HUMAN, row["iteration"] - 1
    n = row["steps"] - sum(map(len, done)) if is_human else config.loop.steps_per_iteration
    if len(steps) != n:
        raise ValueError(f"it has {len(steps)} steps instead of {n}")
    if not np.isin(steps.policy_version, (version - 1, version) if is_human else version).all():
        raise ValueError("its steps are of another iteration")
    if done and steps.episode[0] <= done[-1].episode[-1]:
        raise ValueError("its episodes are those of the iteration before")
    samples = int(steps.is_intervention.sum()) + sum(int(each.is_intervention.sum()) for each in done)
    if (steps.intervention_rate, samples) != (row["intervention_rate"], row["expert_samples"]):
        raise ValueError("its takeovers are not those that iterations.jsonl counts")
