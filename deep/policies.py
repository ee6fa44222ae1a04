"""Policies over discrete actions from networks.

They implement `mereq_min.interfaces.Policy`: numpy arrays in, numpy arrays out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from deep.nets import evaluate, mlp_from_arrays, mlp_to_arrays, with_prefix
from mereq_min.interfaces import Policy
from mereq_min.soft import log_softmax
from mereq_min.validation import Array, check_number


def check_indices(action: NDArray[Any], n_actions: int) -> NDArray[np.int64]:
    """Return actions (N,) as int64; raise ValueError unless they are integers from 0 to A - 1."""
    action = np.asarray(action)
    if action.dtype.kind not in "iu" or ((action < 0) | (action >= n_actions)).any():
        raise ValueError(f"action must hold integers from 0 to {n_actions - 1}, got {action}")
    return action.astype(np.int64)


class DiscretePolicy:
    """pi(a | s) proportional to exp(net(s)_a / temperature + prior_scale * log prior(a | s)).

    This class serves all policies over A actions: of soft DQN (the net gives Q), of residual Q-learning (it
    gives Q_R, and prior_scale is omega' / alpha_hat; Li et al. 2023), and of SAC and cloning (it gives
    logits, and no temperature is known). Temperature 0, possible only without a prior, makes DQN's greedy
    policy: it always takes the first of the best actions.

    Args:
        net: maps observations (N, ...) to Q-values or logits (N, A).
        temperature: alpha of the Q-values [reward]; None if the net gives logits, which are not divided.
        prior: the policy that is customised, None for no prior.
        prior_scale: factor of the prior's log-probabilities.

    Raises:
        ValueError: if a number is out of range, or the temperature is 0 although there is a prior.
    """

    def __init__(
        self,
        net: nn.Module,
        temperature: float | None = None,
        prior: Policy | None = None,
        prior_scale: float = 0.0,
    ) -> None:
        if temperature is not None:
            check_number("temperature", temperature, 0, exclusive=prior is not None)
        check_number("prior_scale", prior_scale, 0)
        self.net, self.temperature = net, temperature
        self.prior, self.prior_scale = prior, prior_scale

    @property
    def divisor(self) -> float:
        """Divisor that turns the net's outputs into logits: the temperature, or 1 if that is unknown."""
        return 1.0 if self.temperature is None else self.temperature

    def log_probs(self, state: NDArray[Any]) -> Array:
        """Return the log-probabilities (N, A) of all actions in states (N, ...)."""
        values = evaluate(self.net, state)
        if self.temperature == 0:
            best = values.argmax(axis=1)[:, None] == np.arange(values.shape[1])
            return np.where(best, 0.0, -np.inf)
        logits = values.astype(np.float64) / self.divisor
        if self.prior is not None and self.prior_scale > 0:  # 0 * -inf would be NaN
            logits = logits + self.prior_scale * all_log_probs(self.prior, state, logits.shape[1])
        return log_softmax(logits)

    def log_prob(self, state: NDArray[Any], action: NDArray[Any]) -> Array:
        """Log-probability (N,) of actions (N,) in states (N, ...)."""
        return np.take_along_axis(self.log_probs(state), np.asarray(action)[:, None], axis=1)[:, 0]

    def sample(self, state: NDArray[Any], rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw actions (N,) in states (N, ...)."""
        cumulative = np.exp(self.log_probs(state)).cumsum(axis=1)
        return (rng.random(len(cumulative))[:, None] * cumulative[:, -1:] >= cumulative[:, :-1]).sum(axis=1)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return everything except the prior, to be saved; an unknown temperature is saved as NaN."""
        scales = np.array([np.nan if self.temperature is None else self.temperature, self.prior_scale])
        return {"scales": scales, **mlp_to_arrays(self.net, "net.")}


class EpsilonPolicy:
    """Epsilon-greedy exploration: with probability epsilon a uniformly random action, else the policy's.

    Args:
        policy: the policy that acts otherwise.
        epsilon: probability of a random action.
        n_actions: number of actions A.

    Raises:
        ValueError: if epsilon is not a probability.
    """

    def __init__(self, policy: Policy, epsilon: float, n_actions: int) -> None:
        check_number("epsilon", epsilon, 0, 1)
        self.policy, self.epsilon, self.n_actions = policy, epsilon, n_actions

    def log_prob(self, state: NDArray[Any], action: NDArray[Any]) -> Array:
        """Log-probability (N,) of actions (N,) in states (N, ...)."""
        own = (1.0 - self.epsilon) * np.exp(self.policy.log_prob(state, action))
        with np.errstate(divide="ignore"):
            return np.log(own + self.epsilon / self.n_actions)

    def sample(self, state: NDArray[Any], rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw actions (N,) in states (N, ...)."""
        action = self.policy.sample(state, rng)
        is_random = rng.random(len(action)) < self.epsilon
        return np.where(is_random, rng.integers(self.n_actions, size=len(action)), action)


def discrete_policy(arrays: dict[str, NDArray[Any]], prior: Policy | None = None) -> DiscretePolicy:
    """Rebuild a `DiscretePolicy` from its `arrays()`.

    Args:
        arrays: what `arrays()` returned; they may include the arrays of its prior, prefixed with `prior.`, as
            pretraining saves them.
        prior: the prior that the policy customises, if the arrays do not include one.

    Raises:
        ValueError: if the arrays are not those of such a policy.
    """
    scales = arrays.get("scales")
    if scales is None or scales.shape != (2,) or np.isinf(scales).any() or np.isnan(scales[1]):
        raise ValueError(f"no policy: expected scales (temperature, prior_scale), got {sorted(arrays)}")
    temperature, prior_scale = scales.tolist()
    of_prior = with_prefix(arrays, "prior.")
    if of_prior:
        prior = discrete_policy(of_prior)
    if prior_scale and prior is None:
        raise ValueError("this policy customises a prior: it can only be loaded together with it")
    return DiscretePolicy(
        mlp_from_arrays(arrays, "net."),
        None if np.isnan(temperature) else temperature,
        prior if prior_scale else None,
        prior_scale,
    )


def all_log_probs(policy: Policy, state: NDArray[Any], n_actions: int) -> Array:
    """Return the log-probabilities (N, A) of all actions under any policy over A actions."""
    if hasattr(policy, "log_probs"):
        return policy.log_probs(state)
    n = len(state)
    columns = [policy.log_prob(state, np.full(n, action)) for action in range(n_actions)]
    return np.stack(columns, axis=1)
