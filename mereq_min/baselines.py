"""Baselines on tables that learn from interventions without a theta; each is an `interfaces.Cloner`.

They start from the prior, as the methods of this project do: their logits are omega' log pi plus what they
learn, divided by alpha_hat.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mereq_min.mdp import TabularMDP
from mereq_min.policies import TabularPolicy
from mereq_min.residual import prior_bonus
from mereq_min.soft import bellman_q, log_softmax, solve_soft
from mereq_min.steps import Steps
from mereq_min.validation import Array, check_log_probabilities, check_number

LOWEST_LOG_PRIOR = -50.0
"""Floor of log pi(a | s): a clone must be able to do what the expert does [nats]."""


@dataclass(frozen=True, eq=False)
class TabularBaseline:
    """Base class of the baselines: a tabular prior, and how scores change it.

    Attributes:
        mdp: the MDP.
        log_prior: (S, A) log pi(a | s) of the prior.
        scaled_prior_weight: omega' [reward].
        temperature: alpha_hat [reward].

    Raises:
        ValueError: if a number is out of range or the prior is no table for this MDP.
    """

    mdp: TabularMDP
    log_prior: Array
    scaled_prior_weight: float
    temperature: float

    def __post_init__(self) -> None:
        shape = (self.mdp.n_states, self.mdp.n_actions)
        check_log_probabilities("log_prior", self.log_prior, shape=shape)
        check_number("temperature", self.temperature, 0, exclusive=True)
        check_number("scaled_prior_weight", self.scaled_prior_weight, 0)

    @cached_property
    def bonus(self) -> Array:
        """omega' log pi (S, A) of the prior [reward]."""
        return prior_bonus(np.maximum(self.log_prior, LOWEST_LOG_PRIOR), self.scaled_prior_weight)

    def customise(self, scores: Array) -> TabularPolicy:
        """Return the policy whose logits are the bonus plus scores (S, A), over alpha_hat."""
        return TabularPolicy(log_softmax((self.bonus + scores) / self.temperature))

    def count(self, steps: Steps, weights: Array) -> Array:
        """Return the sum of weights (N,) of the steps by state and action (S, A)."""
        counts = np.zeros(self.log_prior.shape)
        np.add.at(counts, (steps.state, steps.action), weights)
        return counts


@dataclass(frozen=True, eq=False)
class ResidualCloner(TabularBaseline):
    """Behaviour cloning by a correction to the frozen prior: one parameter per state and action.

    It maximises the weighted log-likelihood of the actions less |correction|^2 / (2 sd^2), as cloning with
    networks corrects a frozen policy (residual policy learning, Silver et al. 2018).

    Attributes:
        prior_sd: standard deviation of the Gaussian prior on corrections [reward].
    """

    prior_sd: float = 0.5

    def clone(self, steps: Steps, weights: Array) -> TabularPolicy:
        """Return the policy fitted to the actions of the steps with weights (N,) >= 0."""
        from scipy.optimize import minimize  # slow to import, and no other method needs it

        counts = self.count(steps, weights)
        base, visits = self.bonus, counts.sum(axis=1, keepdims=True)

        def loss(w: Array) -> tuple[float, Array]:
            log_policy = log_softmax((base + self.corrections(w)) / self.temperature)
            slope = (counts - visits * np.exp(log_policy)) / self.temperature
            value = 0.5 * (w @ w) / self.prior_sd**2 - (counts * log_policy).sum()
            return value, w / self.prior_sd**2 - self.gather(slope)

        start = np.zeros(len(self.gather(base)))
        return self.customise(self.corrections(minimize(loss, start, jac=True, method="L-BFGS-B").x))

    def corrections(self, w: Array) -> Array:
        """Return the corrections (S, A) for parameters w."""
        return w.reshape(self.log_prior.shape)

    def gather(self, slope: Array) -> Array:
        """Return the derivative in w of a function whose derivative in the corrections is `slope` (S, A)."""
        return slope.ravel()


@dataclass(frozen=True, eq=False)
class FeatureCloner(ResidualCloner):
    """Behaviour cloning that generalises over states: corrections are linear in features of one step.

    The features are those of the state-action, and those expected one step later under the prior. Unlike
    inverse RL, it solves no control problem.
    """

    @cached_property
    def features(self) -> Array:
        """One-step features (S, A, 2 K)."""
        mdp, prior = self.mdp, np.exp(self.log_prior)
        later = mdp.transition @ np.einsum("sa,sak->sk", prior, mdp.features)
        return np.concatenate([mdp.features, later.reshape(mdp.features.shape)], axis=2)

    def corrections(self, w: Array) -> Array:
        """Return features . w (S, A)."""
        return self.features @ w

    def gather(self, slope: Array) -> Array:
        """Return the derivative in w."""
        return np.einsum("sa,sak->k", slope, self.features)


def takeovers(steps: Steps) -> NDArray[np.bool_]:
    """Return the mask (N,) of the policy's steps after which the expert took over at once."""
    return ~steps.is_intervention & ~steps.good_enough(1)


@dataclass(frozen=True, eq=False)
class TakeoverReward(TabularBaseline):
    """RLIF (Luo et al., ICLR 2024) in a table: the policy is punished for the steps before takeovers.

    The reward of a state and action is -cost times the share of its visits that provoked a takeover. The
    policy is soft-optimal for it, on the prior.

    Attributes:
        cost: cost of a takeover [reward].
    """

    cost: float = 1.0

    def clone(self, steps: Steps, weights: Array) -> TabularPolicy:
        """Return the policy that avoids takeovers; steps of weight 0 are left out."""
        used = (weights > 0).astype(np.float64)
        visits, provoked = self.count(steps, used), self.count(steps, used * takeovers(steps))
        if not provoked.any():
            return TabularPolicy(self.log_prior)
        reward = self.bonus - self.cost * provoked / np.maximum(visits, 1.0)
        return TabularPolicy(solve_soft(self.mdp, reward, self.temperature).log_policy)


@dataclass(frozen=True, eq=False)
class ProxyValues(TabularBaseline):
    """PVP (Peng et al., NeurIPS 2023) in a table: values +1 for what the expert did, -1 for what it replaced.

    These labels spread to the other visited steps by temporal differences without a reward, and the policy
    is greedy in them, softly, on the prior.

    Attributes:
        scale: factor on the values [reward].
        sweeps: sweeps of temporal differences over all states.
    """

    scale: float = 1.0
    sweeps: int = 100

    def clone(self, steps: Steps, weights: Array) -> TabularPolicy:
        """Return the policy for the values that the steps propagate; steps of weight 0 are left out."""
        used = (weights > 0).astype(np.float64)
        seen = self.count(steps, used) > 0
        labels, sums = np.zeros(seen.shape), np.zeros(seen.shape)
        taken = (weights > 0) & steps.is_intervention
        for action, label in ((steps.action, 1.0), (steps.policy_action, -1.0)):
            np.add.at(labels, (steps.state[taken], action[taken]), 1.0)
            np.add.at(sums, (steps.state[taken], action[taken]), label)
        labelled = labels > 0
        proxy = sums / np.maximum(labels, 1.0)
        q = np.where(labelled, proxy, 0.0)
        for _ in range(self.sweeps):
            policy = np.exp(self.customise(self.scale * q).log_policy)
            v = np.where(self.mdp.terminal, 0.0, (policy * q).sum(axis=1))
            ahead = bellman_q(self.mdp, v, np.zeros_like(q))
            q = np.where(labelled, proxy, np.where(seen, ahead, 0.0))
        return self.customise(self.scale * q)
