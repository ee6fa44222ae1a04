"""Rollouts of a policy in vector environments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from mereq_min.interfaces import Policy
from mereq_min.policies import ActionCheck
from mereq_min.validation import Array, Mask


@dataclass(frozen=True, eq=False)
class Rollout:
    """Transitions of E parallel environments over T steps.

    Attributes:
        state: (T, E, ...) observations.
        action: (T, E, ...) actions.
        features: (T, E, K) f(s, a).
        next_state: (T, E, ...) observations after the step, before any reset.
        terminated: (T, E) whether the MDP terminated at the step; a truncation does not count.
        t: (T, E) time within the episode, from 0 [steps].
        reward: (T, E) the environments' own rewards.
    """

    state: NDArray[Any]
    action: NDArray[Any]
    features: Array
    next_state: NDArray[Any]
    terminated: Mask
    t: NDArray[np.int64]
    reward: Array

    def transitions(self) -> dict[str, NDArray[Any]]:
        """Return the columns that `Agent.add` takes, flattened to (T * E, ...)."""
        names = [field.name for field in fields(self) if field.name not in ("t", "reward")]
        columns = {name: getattr(self, name) for name in names}
        return {name: column.reshape(-1, *column.shape[2:]) for name, column in columns.items()}

    @property
    def in_first_episode(self) -> Mask:
        """(T, E) whether a step belongs to its environment's first episode; later ones may be cut short."""
        return self.t == np.arange(len(self.t))[:, None]


def collect(
    envs: VectorEnv[Any, Any, Any], policy: Policy, n_steps: int, rng: np.random.Generator, seed: int
) -> Rollout:
    """Reset all environments and take `n_steps` steps in each.

    Every call starts new episodes, so that the result depends on the arguments alone and the state of the
    environments need not be saved.

    Args:
        envs: a vector environment that resets an environment in the step that ends its episode
            (AutoresetMode.SAME_STEP). Features are those in info["features"]; if there are none, the reward
            is the only feature.
        policy: chooses the actions.
        n_steps: T, the number of steps in each environment.
        rng: source of the policy's randomness.
        seed: seed of the environments.

    Raises:
        ValueError: if `envs` does not use SAME_STEP autoreset, or the policy's actions do not fit its space.
    """
    return _stack(interact(envs, policy, n_steps, rng, seed))


def _stack(rows: Iterator[tuple[Any, ...]]) -> Rollout:
    return Rollout(*(np.stack(column) for column in zip(*rows, strict=True)))


class CopyingEnvs(Protocol):
    """Optional methods of a vector environment that save and restore its simulator state.

    With them, a learner can start a policy where the expert took over, which MEReQ-S needs.
    """

    def get_state(self) -> Any:
        """Return a copy of all that the future depends on: an array (E, ...), or a named tuple of such."""
        ...

    def set_state(self, state: Any) -> NDArray[Any]:
        """Continue from a state of any such environments, and return its observations (E, ...)."""
        ...


def collect_from(
    envs: Any, state: Any, policy: Policy, n_steps: int, rng: np.random.Generator, seed: int
) -> Rollout:
    """Take `n_steps` steps in each of `CopyingEnvs` from a state on; time counts from there.

    The other arguments are those of `collect`; the seed serves the episodes after the first.
    """
    envs.reset(seed=seed)
    return _stack(_walk(envs, envs.set_state(state), policy, n_steps, rng))


def select_states(state: Any, rows: NDArray[np.intp]) -> Any:
    """Return some rows (M,) of what `CopyingEnvs.get_state` returned."""
    return type(state)(*(part[rows] for part in state)) if isinstance(state, tuple) else state[rows]


def join_states(states: Sequence[Any]) -> Any:
    """Join what `CopyingEnvs.get_state` returned several times, row after row."""
    if isinstance(states[0], tuple):
        return type(states[0])(*(np.concatenate(parts) for parts in zip(*states, strict=True)))
    return np.concatenate(states)


def repeat_actions(
    envs: Any, seed: int, action: NDArray[Any], rows: NDArray[np.intp]
) -> tuple[Any, NDArray[Any]]:
    """Take the actions of a recorded rollout again, and return the simulator states before some steps.

    Args:
        envs: one environment, `CopyingEnvs`.
        seed: the seed of the rollout.
        action: (N, ...) its actions.
        rows: (m,) increasing rows of the steps whose states are asked for, at least one.

    Returns:
        States before these steps (m rows), and the observations (n, ...) of all steps up to the last of them.
    """
    observation, _ = envs.reset(seed=seed)
    wanted, states, observations = set(rows.tolist()), [], []
    for row in range(int(rows[-1]) + 1):
        observations.append(observation[0].copy())
        if row in wanted:
            states.append(envs.get_state())
        observation = envs.step(action[row : row + 1])[0]
    return join_states(states), np.stack(observations)


def interact(
    envs: VectorEnv[Any, Any, Any], policy: Policy, n_steps: int, rng: np.random.Generator, seed: int
) -> Iterator[tuple[Any, ...]]:
    """Yield the steps of `collect` one by one, so that an agent can learn in between; same arguments.

    Yields:
        One step of all E environments: a row (E, ...) of each column of `Rollout`.

    Raises:
        ValueError: if `envs` does not use SAME_STEP autoreset, or the policy's actions do not fit its space.
    """
    if envs.metadata.get("autoreset_mode") != AutoresetMode.SAME_STEP:
        raise ValueError(
            "envs must reset in the step that ends an episode (autoreset_mode=AutoresetMode.SAME_STEP), got "
            f"{envs.metadata.get('autoreset_mode')}"
        )
    state, _ = envs.reset(seed=seed)
    yield from _walk(envs, state, policy, n_steps, rng)


def _walk(
    envs: VectorEnv[Any, Any, Any],
    state: NDArray[Any],
    policy: Policy,
    n_steps: int,
    rng: np.random.Generator,
) -> Iterator[tuple[Any, ...]]:
    """Yield the steps of `interact` from observations (E, ...) on."""
    check = ActionCheck(envs.single_action_space)
    t = np.zeros(envs.num_envs, dtype=np.int64)
    for _ in range(n_steps):
        action = check(policy.sample(state, rng), envs.num_envs)
        after_reset, reward, terminated, truncated, info = envs.step(action)
        next_state = _before_reset(after_reset, info)
        yield state.copy(), action, features_of(reward, info), next_state, terminated.copy(), t, reward.copy()
        state, t = after_reset, np.where(terminated | truncated, 0, t + 1)


def _before_reset(state: NDArray[Any], info: dict[str, Any]) -> NDArray[Any]:
    """Return the observations (E, ...) that a step led to, before some environments were reset."""
    state = state.copy()
    for i in np.flatnonzero(info.get("_final_obs", ())):
        state[i] = info["final_obs"][i]
    return state


def features_of(reward: Array, info: dict[str, Any]) -> Array:
    """Return the features (E, K) of a step; gymnasium keeps those of an episode's last step in final_info."""
    final = info.get("final_info", {})
    if "features" not in info and "features" not in final:
        return np.array(reward, dtype=np.float64)[:, None]
    features = np.array(info.get("features", final.get("features")), dtype=np.float64)
    if "features" in final:
        ended = final["_features"]
        features[ended] = final["features"][ended]
    return features


def make_generators(seed: int | Sequence[int] | None, count: int) -> list[np.random.Generator]:
    """Return a random generator for each of N environments; seed s gives environment i the seed s + i.

    Args:
        seed: one integer, or one for each environment; None draws them.
        count: N [environments].

    Raises:
        ValueError: if there is a list of seeds whose length is not N.
    """
    seeds: Any = np.random.SeedSequence().generate_state(count) if seed is None else seed
    if np.ndim(seeds) == 0:
        seeds = [int(seeds) + i for i in range(count)]
    if len(seeds) != count:
        raise ValueError(f"seed must be an integer or {count} of them, got {len(seeds)}")
    return [seeding.np_random(int(each))[0] for each in seeds]
