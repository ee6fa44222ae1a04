"""The critic's Bellman equation, which residual soft DQN and residual SAC share.

An expectation over the policy is a sum over candidates: all discrete actions with their probabilities, or one
action drawn from a density over a Box.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn.functional import pad

from deep.policies import all_log_probs
from mereq_min.interfaces import Policy
from mereq_min.validation import Array, check_array


class Candidates(NamedTuple):
    """M candidate actions in each of N states; expectations over pi_hat are sums over them."""

    action: Tensor
    """(N, D) unit actions of a Box; empty (N, 0) if the candidates are all A discrete actions."""
    probability: Tensor
    """(N, M) weights of the candidates, which sum to 1 in each state."""
    log_policy: Tensor
    """(N, M) log pi_hat of the candidates."""
    log_prior: Tensor
    """(N, M) log pi of the candidates."""


FLOAT32 = np.finfo(np.float32)
"""Range of the numbers in which networks compute."""

MIN_LOG_PROB = -1e4
"""Replaces log-probabilities of -inf, because 0 times -inf would be NaN instead of 0."""


def check_theta(name: str, theta: ArrayLike, n_features: int) -> Array:
    """Return theta (K,) as float64, after checking that the networks can compute with it.

    Raises:
        ValueError: if it has another shape, is not finite, or overflows float32.
    """
    checked = check_array(name, theta, shape=(n_features,))
    worst = np.abs(checked).max(initial=0.0)
    if worst > FLOAT32.max:
        raise ValueError(
            f"{name} must be at most {FLOAT32.max:.2g}, as networks compute in float32; got {worst:.3g}: "
            "scale rewards and temperatures down together"
        )
    return checked


def check_training(metrics: dict[str, float]) -> dict[str, float]:
    """Return the metrics of an update after checking that they are finite.

    Raises:
        ValueError: naming those that are not: the networks are then useless.
    """
    bad = [f"{name} = {value}" for name, value in metrics.items() if not np.isfinite(value)]
    if bad:
        raise ValueError(
            f"training overflowed float32 ({', '.join(bad)}): theta, features or the learning rate are too "
            "large for the temperature; rescale them"
        )
    return metrics


def bounded_log_prior(prior: Policy | None, state: NDArray[Any], n_actions: int) -> Array:
    """Return log pi(a | s) of all discrete actions (N, A), at least `MIN_LOG_PROB`; 0 without a prior."""
    if prior is None:
        return np.zeros((len(state), n_actions))
    return np.maximum(all_log_probs(prior, state, n_actions), MIN_LOG_PROB)


def stray_bonus(candidates: Candidates, scaled_prior_weight: float, temperature: Tensor) -> Tensor:
    """Return the stray bonus E_pi_hat[omega' log pi - alpha_hat log pi_hat] in each state (N,) [reward].

    If alpha_hat = omega', it is -alpha_hat KL(pi_hat || pi): straying from the prior costs reward.

    Book: eq-stray.

    Args:
        candidates: the actions over which the expectation runs.
        scaled_prior_weight: omega' [reward].
        temperature: () alpha_hat [reward].
    """
    log_policy = candidates.log_policy.clamp(min=MIN_LOG_PROB)  # 0 times -inf would be NaN
    bonus = -temperature * log_policy
    if scaled_prior_weight != 0:
        bonus = scaled_prior_weight * candidates.log_prior + bonus
    return (candidates.probability * bonus).sum(1)


def join_twins(values: Tensor, weights: Tensor, pessimistic: bool) -> Tensor:
    """Return psi and h (N, M, K + 1) that twin critics stand for.

    Args:
        values: (2, N, M, K + 1) psi and h of both critics.
        weights: (K + 1,) theta, and 1 for h.
        pessimistic: return those of the critic whose Q_R = (psi, h) . weights is smaller (clipped double Q,
            Fujimoto et al. 2018), not the mean of both.
    """
    if not pessimistic:
        return values.mean(0)
    q = values @ weights
    return torch.where((q[0] <= q[1])[..., None], values[0], values[1])


def critic_target(
    features: Tensor,
    terminated: Tensor,
    next_values: Tensor,
    probability: Tensor,
    stray: Tensor,
    gamma: float,
) -> Tensor:
    """Return the Bellman targets (N, K + 1) of psi and h.

    Their product with (theta, 1) is r_R + gamma V_R(s'). A terminated episode has no further value; if a time
    limit truncated the episode, the value of the next state stands in for the rest.

    Book: eq-critic-targets.

    Args:
        features: (N, K) f(s, a).
        terminated: (N,) whether the episode terminated.
        next_values: (N, M, K + 1) psi and h of the candidates at s'.
        probability: (N, M) weights of these candidates.
        stray: (N,) their `stray_bonus` [reward].
        gamma: discount factor.
    """
    onward = (probability[..., None] * next_values).sum(1)
    onward[:, -1] += stray
    return pad(features, (0, 1)) + gamma * (~terminated)[:, None] * onward


def critic_loss(values: Tensor, target: Tensor) -> Tensor:
    """Return half the squared error of psi and h, averaged over the batch, summed over outputs and twins.

    Args:
        values: (..., N, K + 1) psi and h at the actions taken.
        target: (N, K + 1) their Bellman targets.
    """
    return 0.5 / len(target) * (values - target).square().sum()
