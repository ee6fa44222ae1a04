"""The newest methods that learn from interventions, in tables: MILE and PPL; each is an `interfaces.Cloner`.

Both start from the prior, as the baselines do, and both correct it by `baselines.FeatureCloner`'s linear
function of features, so that what they learn in one state says something of others, as a network would.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from mereq_min.baselines import FeatureCloner
from mereq_min.policies import TabularPolicy
from mereq_min.soft import log_softmax
from mereq_min.steps import Steps
from mereq_min.validation import Array

LEAST_PROBABILITY = 1e-6
"""A person errs at least this often, whatever the probit model says: no step has probability 0."""


@dataclass(frozen=True, eq=False)
class InterventionModel(FeatureCloner):
    """MILE (Korkmaz and Biyik, ICRA 2025) in a table: the timing of interventions tells what a person wants.

    The person, whose policy pi is fitted, expects the robot to act by a mental model m, and takes over with
    the probability of a probit model,

        p(s) = sum_a pi(a | s) Phi((log pi(a | s) - E_m[log pi(. | s)] - cost) / scale).

    pi and m are fitted together: to the person's actions, and to who was in control at every step, by L-BFGS
    until it converges. The mental model starts at the prior and has one parameter per state and action.

    Attributes:
        cost: the person's cost of an intervention [nats]. The authors take 3 for their discrete task; on
            carpet and lanes (seeds 2100-2103, iterations 6-10) it left mean rates of 0.064 and 0.025, and 1
            left 0.074 and 0.053.
        scale: scale of the probit model's noise [nats].
    """

    cost: float = 3.0
    scale: float = 1.0

    def clone(self, steps: Steps, weights: Array) -> TabularPolicy:
        """Return the person's policy fitted to the steps; steps of weight 0 are left out."""
        used, taken = (weights > 0).astype(np.float64), steps.is_intervention
        if not (used * taken).any():
            return TabularPolicy(self.log_prior)
        actions, n_steps = self.count(steps, used * taken), self.count(steps, used).sum(axis=1)
        return TabularPolicy(self.fit(actions, n_steps)[0])

    def fit(self, actions: Array, n_steps: Array) -> tuple[Array, Array]:
        """Return log pi and the mental model, both (S, A), that minimise `loss`; same arguments."""
        from scipy.optimize import minimize  # slow to import

        start = np.zeros(len(self.gather(actions)) + actions.size)
        loss = partial(self.loss, actions=actions, n_steps=n_steps)
        log_policy, log_mental = self.split(minimize(loss, start, jac=True, method="L-BFGS-B").x)
        return log_policy, np.exp(log_mental)

    def split(self, w: Array) -> tuple[Array, Array]:
        """Return log pi and the logarithm of the mental model (S, A) for all parameters w."""
        n = self.log_prior.size
        each = self.corrections(w[:-n]), w[-n:].reshape(self.log_prior.shape)
        log_policy, log_mental = (log_softmax((self.bonus + c) / self.temperature) for c in each)
        return log_policy, log_mental

    def loss(self, w: Array, actions: Array, n_steps: Array) -> tuple[float, Array]:
        """Return minus the log-posterior of all parameters, and its gradient.

        Args:
            w: corrections of pi, then those (S A,) of the mental model.
            actions: (S, A) number of expert steps.
            n_steps: (S,) number of steps of expert and policy.
        """
        log_policy, log_mental = self.split(w)
        mental = np.exp(log_mental)
        p, by_log_policy, by_mental = intervention_probability(log_policy, mental, self.cost, self.scale)
        p = np.clip(p, LEAST_PROBABILITY, 1.0 - LEAST_PROBABILITY)
        taken = actions.sum(axis=1)
        value = 0.5 * (w @ w) / self.prior_sd**2 - (actions * log_policy).sum()
        value -= taken @ np.log(p) + (n_steps - taken) @ np.log1p(-p)
        by_p = (taken / p - (n_steps - taken) / (1.0 - p))[:, None]
        slope = _through_softmax(actions + by_p * by_log_policy, np.exp(log_policy)) / self.temperature
        mental_slope = _through_softmax(by_p * by_mental * mental, mental) / self.temperature
        return value, w / self.prior_sd**2 - np.concatenate([self.gather(slope), mental_slope.ravel()])


def intervention_probability(
    log_policy: Array, mental: Array, cost: float, scale: float
) -> tuple[Array, Array, Array]:
    """Return MILE's p(s) (S,) and its derivatives (S, A) in the log-policy and in the mental model.

    Args:
        log_policy: (S, A) log pi of the person.
        mental: (S, A) probabilities of what the person expects of the robot.
        cost: of an intervention [nats].
        scale: of the noise [nats].
    """
    from scipy.special import ndtr  # slow to import

    policy = np.exp(log_policy)
    gain = (log_policy - (mental * log_policy).sum(axis=1, keepdims=True) - cost) / scale
    density = policy * np.exp(-0.5 * gain**2) / (np.sqrt(2.0 * np.pi) * scale)
    total = density.sum(axis=1, keepdims=True)
    probability = policy * ndtr(gain)
    return probability.sum(axis=1), probability + density - mental * total, -log_policy * total


def _through_softmax(by_log: Array, policy: Array) -> Array:
    """Return the derivative (S, A) in logits of what has the derivative `by_log` in their log-softmax."""
    return by_log - policy * by_log.sum(axis=1, keepdims=True)


@dataclass(frozen=True, eq=False)
class PredictedPreferences(FeatureCloner):
    """PPL (Cai et al., NeurIPS 2025) in a table: the expert's action is preferred in the states to come, too.

    At each expert step, the policy's action a- that the expert's a+ replaced is repeated in the MDP's
    transition model. In the state and in each predicted one, a+ is preferred to a-: the loss is that of
    cloning the expert's actions, plus the mean over these states of

        -log sigmoid(beta (log pi(a+ | s) - log pi(a- | s))).

    The loss is minimised by L-BFGS.

    Attributes:
        horizon: number of states with a preference; 1 is the state of the takeover alone [states]. The
            authors add three predicted states, hence 4. The single state did as well or better: on carpet
            and lanes (seeds 2100-2103) it left mean rates of 0.068 and 0.021, 4 states 0.084 and 0.027.
        beta: sharpness of preferences.
    """

    horizon: int = 4
    beta: float = 1.0

    def clone(self, steps: Steps, weights: Array) -> TabularPolicy:
        """Return the policy fitted to the expert's actions and preferences, with weights (N,) >= 0."""
        from scipy.optimize import minimize

        weights = weights * steps.is_intervention
        if not weights.any():
            return TabularPolicy(self.log_prior)
        counts, preferences = self.count(steps, weights), self.preferences(steps, weights)
        loss = partial(self.loss, counts=counts, preferences=preferences)
        start = np.zeros(len(self.gather(counts)))
        return self.customise(self.corrections(minimize(loss, start, jac=True, method="L-BFGS-B").x))

    def preferences(self, steps: Steps, weights: Array) -> Array:
        """Return the weight (S, A, A) with which, in a state, one action is preferred to another."""
        S, A = self.log_prior.shape
        rows = np.flatnonzero(weights * (steps.action != steps.policy_action))
        better, worse = steps.action[rows], steps.policy_action[rows]
        found = np.zeros((S, A, A))
        at = np.zeros((A, A, S))  # where the pairs of actions are: all steps of a pair are rolled out at once
        np.add.at(at, (better, worse, steps.state[rows]), weights[rows] / self.horizon)
        for _ in range(self.horizon):
            found += np.where(self.mdp.terminal, 0.0, at).transpose(2, 0, 1)
            for action in range(A):
                at[:, action] = at[:, action] @ self.mdp.transition[action::A]
        return found

    def loss(self, w: Array, counts: Array, preferences: Array) -> tuple[float, Array]:
        """Return minus the log-posterior of the corrections, and its gradient.

        Args:
            w: parameters of the corrections.
            counts: (S, A) weight of the expert's actions.
            preferences: (S, A, A) weight with which the first action is preferred to the second.
        """
        log_policy = log_softmax((self.bonus + self.corrections(w)) / self.temperature)
        margin = self.beta * (log_policy[:, :, None] - log_policy[:, None, :])
        value = 0.5 * (w @ w) / self.prior_sd**2 - (counts * log_policy).sum()
        value += (preferences * np.logaddexp(0.0, -margin)).sum()
        pull = self.beta * preferences / (1.0 + np.exp(np.minimum(margin, 500.0)))
        by_log = counts + pull.sum(axis=2) - pull.sum(axis=1)
        slope = _through_softmax(by_log, np.exp(log_policy)) / self.temperature
        return value, w / self.prior_sd**2 - self.gather(slope)
