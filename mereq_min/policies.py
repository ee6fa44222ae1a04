"""A policy in a table, the uniform policy over any bounded action space, and checks of any policy.

The checks are for what users hand in: a policy must fit its task, and what it returns must be actions and
log-probabilities.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mereq_min.validation import Array, check_log_probabilities

if TYPE_CHECKING:
    from gymnasium import spaces

    from mereq_min.interfaces import Policy


class TabularPolicy:
    """A policy given by log pi(a | s) in a table (S, A); states and actions are indices.

    Args:
        log_policy: (S, A) log pi(a | s).
        temperature: alpha at which the policy is soft-optimal for some reward, None if unknown [reward].

    Raises:
        ValueError: if the rows of the table are not normalised log-probabilities.
    """

    def __init__(self, log_policy: ArrayLike, temperature: float | None = None) -> None:
        self.temperature = temperature
        self.log_policy = check_log_probabilities("log_policy", log_policy)

    @cached_property
    def _cumulative(self) -> Array:
        """Cumulative probabilities (S, A - 1); most policies of a fit are never sampled."""
        cumulative = np.cumsum(np.exp(self.log_policy), axis=1)
        # Dividing by the last entry keeps rounding from giving probability to a last action that has none.
        return cumulative[:, :-1] / cumulative[:, -1:]

    def log_prob(self, state: NDArray[np.int64], action: NDArray[np.int64]) -> Array:
        """Return log pi(a | s) (N,) of actions (N,) in states (N,)."""
        return self.log_policy[state, action]

    def sample(self, state: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw one action for each of the states (N,); returns (N,)."""
        if len(state) == 1:  # each step of a rollout comes here, and the line below takes three times as long
            return self._cumulative[state[0]].searchsorted(rng.random(1), side="right")
        return (rng.random(len(state))[:, None] >= self._cumulative[state]).sum(axis=1)

    def arrays(self) -> dict[str, Array]:
        """Return the table by name, for saving."""
        return {"log_policy": self.log_policy}


class UniformPolicy:
    """The uniform policy: all actions of a finite set, or of a bounded Box, are equally likely.

    Args:
        space: gymnasium's `Discrete` or a bounded `Box`.

    Raises:
        ValueError: on any other space.
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.space: Any = space
        self.is_discrete = hasattr(space, "n") and hasattr(space, "start")
        if not self.is_discrete and not (hasattr(space, "is_bounded") and space.is_bounded()):
            raise ValueError(f"space must be Discrete or a bounded Box, got {space}")

    def log_prob(self, state: NDArray[Any], action: NDArray[Any]) -> Array:
        """Return the log-probability or log-density (N,), which is the same for all actions."""
        if self.is_discrete:
            return np.full(len(state), -np.log(float(self.space.n)))
        return np.full(len(state), -np.log(self.space.high - self.space.low).sum())

    def sample(self, state: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """Draw one action for each of the states (N, ...); returns (N, ...)."""
        if self.is_discrete:
            return self.space.start + rng.integers(self.space.n, size=len(state))
        shape = (len(state), *self.space.shape)
        return rng.uniform(self.space.low, self.space.high, shape).astype(self.space.dtype)


# --- What a policy returns --------------------------------------------------------------------------------


class ActionCheck:
    """Checks that a policy or an expert returns actions of a space; the bounds of a Box are not checked.

    Args:
        space: gymnasium's `Discrete` or `Box`.
    """

    def __init__(self, space: Any) -> None:
        self.shape, self.is_discrete = tuple(space.shape), hasattr(space, "n")
        if self.is_discrete:
            self.low, self.high = int(space.start), int(space.start) + int(space.n) - 1

    def __call__(self, actions: Any, n: int) -> NDArray[Any]:
        """Return the actions (n, ...) that a policy drew for n states, after checking them.

        Raises:
            ValueError: if they are not an array of this shape, or hold an index outside the space, NaN or
                infinity.
        """
        whose = "a policy's sample"
        return self._check(_check_returned(actions, (n, *self.shape), whose), whose)

    def check_one(self, action: Any) -> NDArray[Any]:
        """Return the action (...) of an expert in one state as an array, after checking it.

        Raises:
            ValueError: as when it is called with several actions.
        """
        array, whose = np.asarray(action), "an expert's intervene"
        if array.shape != self.shape:
            wanted = f"an array of shape {self.shape}" if self.shape else "one number"
            raise ValueError(f"{whose} must return {wanted} or None, got shape {array.shape}")
        return self._check(array, whose)

    def _check(self, array: NDArray[Any], whose: str) -> NDArray[Any]:
        kind = array.dtype.kind
        if not self.is_discrete:
            if kind not in "fiu" or not np.isfinite(array).all():
                raise ValueError(f"{whose} must return finite numbers, got {_first_bad(array)}")
            return array
        if kind not in "iu":
            raise ValueError(f"{whose} must return integers, got values of type {array.dtype}")
        if array.size == 1:  # each step of a rollout comes here, and `min` takes longer
            is_inside = self.low <= array.item() <= self.high
        else:
            is_inside = not array.size or bool(self.low <= array.min() and array.max() <= self.high)
        if not is_inside:
            outside = array[(array < self.low) | (array > self.high)].flat[0]
            raise ValueError(f"{whose} must return actions from {self.low} to {self.high}, got {outside}")
        return array


def check_returned_log_prob(values: Any, n: int) -> Array:
    """Return log-probabilities (n,) as float64 after checking their shape, and that none is NaN.

    Raises:
        ValueError: if they are no such array.
    """
    array = _check_returned(values, (n,), "a policy's log_prob")
    if array.dtype.kind not in "fiu" or np.isnan(array).any():
        raise ValueError(f"a policy's log_prob must return numbers, got {_first_bad(array)}")
    return array.astype(np.float64)


def _check_returned(value: Any, shape: tuple[int, ...], whose: str) -> NDArray[Any]:
    is_array = isinstance(value, np.ndarray)
    if not is_array or value.shape != shape:
        got = f"shape {value.shape}" if is_array else type(value).__name__
        raise ValueError(f"{whose} must return a numpy array of shape {shape}, got {got}")
    return value


def _first_bad(array: NDArray[Any]) -> str:
    if array.dtype.kind not in "fiu":
        return f"values of type {array.dtype}"
    return str(array[~np.isfinite(array)].flat[0])


# --- Whether a policy fits a task -------------------------------------------------------------------------

TOLERANCE = 1e-3
"""Largest difference from 1 of the sum of a policy's probabilities, which may be computed in float32."""


def check_fit(policy: Policy, observation_space: Any, action_space: Any, task_name: str) -> None:
    """Refuse a policy that cannot act in a task, after asking it for actions and for log-probabilities.

    Args:
        policy: any policy; if it holds a torch network, the message says what that network observes.
        observation_space: what the task shows, `Discrete` or `Box`.
        action_space: what the task accepts, `Discrete` or `Box`.
        task_name: named in the message.

    Raises:
        ValueError: saying what the policy takes and what the task shows, which actions they have, or what
            the policy returns.
    """
    prior: Any = getattr(policy, "prior", None)
    if hasattr(prior, "log_prob") and hasattr(prior, "sample"):
        check_fit(prior, observation_space, action_space, task_name)
    shows, takes = _describe_observations(observation_space), _describe_inputs(policy)
    differs = takes not in (None, shows)
    if differs and _count_states(policy) is not None:  # a table with too many rows would not fail
        raise ValueError(f"{task_name}: the policy observes {takes}, the task's observation is {shows}")
    state = _example_states(observation_space)
    action: Any = None
    columns: list[Any] = []
    failure: Exception | None = None
    try:
        action = policy.sample(state.copy(), np.random.default_rng(0))
        columns = _ask_for_all(policy, state, action, action_space)
    except Exception as error:  # whatever the policy's own code raises
        failure = error
    has, wanted = _describe_policy_actions(policy, state, action_space), _describe_actions(action_space)
    if failure is not None and differs:
        raise ValueError(
            f"{task_name}: the policy observes {takes}, the task's observation is {shows}"
        ) from failure
    if has not in (None, wanted):
        raise ValueError(f"{task_name}: this policy has {has}, the task has {wanted}") from failure
    if failure is not None:
        what = f"{type(failure).__name__}: {failure}" if str(failure) else type(failure).__name__
        raise ValueError(
            f"{task_name}: this policy fails on what the task shows, {shows}: {what}"
        ) from failure
    try:
        ActionCheck(action_space)(action, len(state))
        _check_sum([check_returned_log_prob(column, len(state)) for column in columns], action_space)
    except ValueError as error:
        raise ValueError(f"{task_name}: {error}") from None
    _check_bounds(policy, action_space, task_name)


def _example_states(space: Any) -> NDArray[Any]:
    """Two states of a space; of a `Discrete` the last, which a policy over fewer states does not know."""
    if hasattr(space, "n"):
        return np.full(2, space.start + space.n - 1)
    return np.clip(np.zeros((2, *space.shape)), space.low, space.high).astype(space.dtype)


def _ask_for_all(policy: Policy, state: NDArray[Any], action: Any, space: Any) -> list[Any]:
    """Log-probabilities (N,) of each action of a `Discrete` space, or of those drawn from a Box."""
    if not hasattr(space, "n"):
        return [policy.log_prob(state.copy(), action)]
    # A policy that is asked about an action which it does not have fails.
    return [
        policy.log_prob(state.copy(), np.full(len(state), space.start + index))
        for index in range(int(space.n))
    ]


def _check_sum(columns: list[Array], space: Any) -> None:
    """Check that the probabilities of all actions of a `Discrete` space sum to 1, given their logs (N,)."""
    if not hasattr(space, "n"):
        return
    with np.errstate(over="ignore"):
        sums = np.exp(columns).sum(axis=0)
    if not (np.abs(sums - 1.0) <= TOLERANCE).all():
        raise ValueError(
            f"a policy's probabilities of all {space.n} actions must sum to 1, they sum to {sums[0]:.6g}"
        )


def _check_bounds(policy: Any, space: Any, task_name: str) -> None:
    own: list[Any] = [getattr(policy, name, None) for name in ("low", "high")]
    if hasattr(space, "n") or any(np.shape(bound) != space.shape for bound in own):
        return
    # Saved in float32, equal bounds differ in their last digits.
    if not np.allclose(own, [space.low, space.high], rtol=1e-6):
        raise ValueError(
            f"{task_name}: this policy's actions lie between {own[0]} and {own[1]}, "
            f"the task's between {space.low} and {space.high}"
        )


def network_sizes(policy: Any) -> tuple[int | None, int | None]:
    """Return inputs of the first and outputs of the last layer of a policy's network, None if unknown."""
    layers = [layer for layer in _layers(policy) if np.ndim(getattr(layer, "weight", 0)) > 1]
    if not layers:
        return None, None
    return getattr(layers[0], "in_features", None), getattr(layers[-1], "out_features", None)


def _layers(policy: Any) -> list[Any]:
    """The layers of the first torch network that a policy is or holds, without importing torch."""
    for thing in (policy, *getattr(policy, "__dict__", {}).values()):
        if callable(getattr(thing, "modules", None)):
            return list(thing.modules())
    return []


def _count_states(policy: Any) -> int | None:
    """Number of states that a policy over indices knows; None if it is not known to be one."""
    if isinstance(policy, TabularPolicy):
        return len(policy.log_policy)
    return next(
        (layer.n_states for layer in _layers(policy) if isinstance(getattr(layer, "n_states", None), int)),
        None,
    )


def _describe_inputs(policy: Any) -> str | None:
    """Describe in words what a policy takes; None if it is unknown."""
    n_states = _count_states(policy)
    if n_states is not None:
        return f"one of {n_states} states"
    n_inputs = network_sizes(policy)[0]
    return None if n_inputs is None else _count(n_inputs, "number")


def _describe_observations(space: Any) -> str:
    return f"one of {space.n} states" if hasattr(space, "n") else _count(math.prod(space.shape), "number")


def _describe_policy_actions(policy: Any, state: NDArray[Any], space: Any) -> str | None:
    """Describe in words the actions that a policy has; None if it does not tell."""
    try:
        if hasattr(policy, "log_probs"):
            return _count(np.shape(policy.log_probs(state.copy()))[1], "action")
        action = policy.sample(state.copy(), np.random.default_rng(0))
    except Exception:  # it has failed before, which is what will be reported
        return None
    if not isinstance(action, np.ndarray) or action.shape[:1] != state.shape[:1]:
        return None
    if action.dtype.kind == "f":
        return _describe_box(action.shape[1:])
    return None if hasattr(space, "n") else "discrete actions"


def _describe_actions(space: Any) -> str:
    return _count(int(space.n), "action") if hasattr(space, "n") else _describe_box(space.shape)


def _describe_box(shape: tuple[int, ...]) -> str:
    return f"continuous actions of {_count(math.prod(shape), 'number')}"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
