"""Measures of policies and rewards that the simulator tasks share."""

from __future__ import annotations

import numpy as np

from deep.rollouts import Rollout
from mereq_min.interfaces import Policy
from mereq_min.validation import Array

LOWEST_LOG_PROB = -20.0
"""Floor of log pi(a | s) in `kl_to_expert` [nats]; keeps it finite for policies that rule out an action."""


def sampled_kl(expert: Policy, policy: Policy, steps: Rollout) -> float:
    """Mean of log expert - log policy over the expert's own steps, which is KL(expert || policy) [nats].

    Args:
        expert: who took the steps.
        policy: whose log-density is floored at `LOWEST_LOG_PROB`.
        steps: whole episodes.
    """
    lived = steps.in_first_episode
    state, action = steps.state[lived], steps.action[lived]
    floored = np.maximum(policy.log_prob(state, action), LOWEST_LOG_PROB)
    return float((np.maximum(expert.log_prob(state, action), LOWEST_LOG_PROB) - floored).mean())


def gram_of_values(one: Array, other: Array) -> Array:
    """(K, K) mean over states and actions of A_k A_l, the advantages of the features.

    With values from two independent continuations the product is unbiased.

    Args:
        one: (N, A, K) discounted sums of the features after each of the same A actions.
        other: (N, A, K) the same, of other continuations.
    """
    advantages = [
        (values - values.mean(axis=1, keepdims=True)).reshape(-1, values.shape[2]) for values in (one, other)
    ]
    gram = advantages[0].T @ advantages[1] / len(advantages[0])
    return (gram + gram.T) / 2


def gram_distance(theta: Array, truth: Array, gram: Array) -> float:
    """STARC distance (Skalse et al., arXiv 2309.15257) of theta . f to truth . f.

    Rewards are canonicalised by their advantage under a policy, which linear features make a matter of
    `gram_of_values` alone.
    """
    both = np.stack([np.asarray(theta, dtype=np.float64), truth])
    norms = np.sqrt(np.einsum("nk,kl,nl->n", both, gram, both))
    if (norms == 0).any():
        return 0.0 if (norms == 0).all() else 0.5
    difference = both[0] / norms[0] - both[1] / norms[1]
    return 0.5 * float(np.sqrt(max(0.0, difference @ gram @ difference)))
