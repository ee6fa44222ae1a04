"""Policies that networks make, behind `mereq_min.interfaces.Policy`: numpy in, numpy out."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax
from torch import nn

from deep.nets import mlp_from_arrays, mlp_to_arrays, to_tensor, with_prefix
from mereq_min.interfaces import Policy
from mereq_min.validation import Array, check_number


class DiscretePolicy:
    """pi(a | s) proportional to exp(net(s)_a / temperature + prior_scale * log prior(a | s)).

    One class for all policies over A actions here: a soft DQN (net is Q), SAC and cloning (net gives logits,
    temperature 1), and residual Q-learning (net is Q_R, prior_scale omega' / alpha_hat; Li et al. 2023). At
    temperature 0, without a prior, it always takes the first of the best actions (DQN).

    Args:
        net: observations (N, ...) to (N, A).
        temperature: what divides its outputs [reward].
        prior: the policy that is customised, None for no prior.
        prior_scale: what multiplies its log-probabilities.

    Raises:
        ValueError: on malformed numbers, temperature 0 with a prior among them.
    """

    def __init__(
        self, net: nn.Module, temperature: float = 1.0, prior: Policy | None = None, prior_scale: float = 0.0
    ) -> None:
        check_number("temperature", temperature, 0, above=prior is not None)
        check_number("prior_scale", prior_scale, 0)
        self.net, self.temperature = net, temperature
        self.prior, self.prior_scale = prior, prior_scale

    def log_probs(self, state: NDArray[Any]) -> Array:
        """Log-probabilities (N, A) of all actions in states (N, ...)."""
        with torch.no_grad():
            values = self.net(to_tensor(state)).numpy()
        if self.temperature == 0:
            best = values.argmax(axis=1)[:, None] == np.arange(values.shape[1])
            return np.where(best, 0.0, -np.inf)
        logits = values.astype(np.float64) / self.temperature
        if self.prior is not None and self.prior_scale > 0:  # 0 times -inf is no number
            logits = logits + self.prior_scale * all_log_probs(self.prior, state, logits.shape[1])
        return log_softmax(logits, axis=1)

    def log_prob(self, state: NDArray[Any], action: NDArray[Any]) -> Array:
        """Log-probability (N,) of actions (N,) in states (N, ...)."""
        return np.take_along_axis(self.log_probs(state), np.asarray(action)[:, None], axis=1)[:, 0]

    def sample(self, state: NDArray[Any], rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw actions (N,) in states (N, ...)."""
        cumulative = np.exp(self.log_probs(state)).cumsum(axis=1)
        return (rng.random(len(cumulative))[:, None] * cumulative[:, -1:] >= cumulative[:, :-1]).sum(axis=1)

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything but the prior, to be saved."""
        scales = np.array([self.temperature, self.prior_scale])
        return {"scales": scales, **mlp_to_arrays(self.net, "net.")}


class EpsilonPolicy:
    """With probability epsilon an action drawn evenly, else one of another policy; Watkins (1989).

    Args:
        policy: over A actions.
        epsilon: share of even draws.
        n_actions: A.

    Raises:
        ValueError: if epsilon is no probability.
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
        even = rng.random(len(action)) < self.epsilon
        return np.where(even, rng.integers(self.n_actions, size=len(action)), action)


def discrete_policy(arrays: dict[str, NDArray[Any]], prior: Policy | None = None) -> DiscretePolicy:
    """Rebuild a `DiscretePolicy` from its `state()`.

    Args:
        arrays: what `state()` returned; a prior may lie beside it under `prior.`, as pretraining saves it.
        prior: the prior it was made on, where it has one that is not in the arrays.

    Raises:
        ValueError: if the arrays are not those of such a policy.
    """
    scales = arrays.get("scales")
    if scales is None or scales.shape != (2,) or not np.isfinite(scales).all():
        raise ValueError(f"no policy: expected scales (temperature, prior_scale), got {sorted(arrays)}")
    temperature, prior_scale = scales.tolist()
    arrays_of_prior = with_prefix(arrays, "prior.")
    if arrays_of_prior:
        prior = discrete_policy(arrays_of_prior)
    if prior_scale and prior is None:
        raise ValueError("this policy customises a prior: it can only be loaded together with it")
    return DiscretePolicy(
        mlp_from_arrays(arrays, "net."), temperature, prior if prior_scale else None, prior_scale
    )


def all_log_probs(policy: Policy, state: NDArray[Any], n_actions: int) -> Array:
    """Log-probabilities (N, A) of all actions under any policy over A actions."""
    if hasattr(policy, "log_probs"):
        return policy.log_probs(state)
    n = len(state)
    columns = [policy.log_prob(state, np.full(n, action)) for action in range(n_actions)]
    return np.stack(columns, axis=1)
