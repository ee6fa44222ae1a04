"""The critic's Bellman equation, for candidates of discrete and of continuous actions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad


class Candidates(NamedTuple):
    """M actions in each of N states, by which an expectation over pi_hat is taken."""

    action: Tensor
    """(N, D) unit actions of a Box; (N, 0) where they are all A discrete ones."""
    probability: Tensor
    """(N, M), summing to 1."""
    log_policy: Tensor
    """(N, M) log pi_hat."""
    log_prior: Tensor
    """(N, M) log pi."""


# --- Losses ----------------------------------------------------------------------------------------------


def stray_bonus(candidates: Candidates, scaled_prior_weight: float, temperature: Tensor) -> Tensor:
    """omega' log pi - alpha_hat log pi_hat of each candidate (N, M)."""
    if scaled_prior_weight == 0:
        return -temperature * candidates.log_policy
    return scaled_prior_weight * candidates.log_prior - temperature * candidates.log_policy


def smaller_twin(values: Tensor, weights: Tensor) -> Tensor:
    """psi and h (N, M, K + 1) of the twin whose Q_R = (psi, h) . weights is smaller.

    Args:
        values: (2, N, M, K + 1) psi and h of both.
        weights: (K + 1,) theta, and 1 for h.
    """
    q = values @ weights
    return torch.where((q[0] <= q[1])[..., None], values[0], values[1])


def critic_target(
    features: Tensor,
    terminated: Tensor,
    next_values: Tensor,
    probability: Tensor,
    bonus: Tensor,
    gamma: float,
) -> Tensor:
    """Bellman targets (N, K + 1) of psi and h; their product with (theta, 1) is r_R + gamma V_R(s').

    Where the episode terminated nothing comes after; where a time limit cut it, the next state's value stands
    for what would have come.

    Book: eq-critic-targets.

    Args:
        features: (N, K) f(s, a).
        terminated: (N,) flags.
        next_values: (N, M, K + 1) psi and h of the candidates at s'.
        probability: (N, M) of these candidates.
        bonus: (N, M) their `stray_bonus`.
        gamma: discount factor.
    """
    onward = (probability[..., None] * next_values).sum(1)
    onward[:, -1] += (probability * bonus).sum(1)
    return pad(features, (0, 1)) + gamma * (~terminated)[:, None] * onward
