"""The exact learner and cloner of tabular MDPs, and the helpers they share."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mereq_min.interfaces import FeatureSums
from mereq_min.mdp import TabularMDP
from mereq_min.policies import TabularPolicy, check_returned_log_prob
from mereq_min.policy_chain import DENSE_STATES, PolicyChain, rounding_error
from mereq_min.residual import prior_bonus
from mereq_min.soft import (
    bellman_q,
    check_log_policy,
    log_softmax,
    soft_value,
    solve_soft,
    successor_features,
)
from mereq_min.steps import Steps, time_weights
from mereq_min.validation import Array, check_array, check_log_probabilities, check_number

MOST_CHORD_STEPS = 7
"""If a solve takes more chord steps than this, the inverse is computed anew at its solution."""

LARGEST_CHORD_GAMMA = 1.0 - 1e-6
"""Largest gamma for the chord method: a Bellman error and a rounding error of 1e-8 [temperature] then move
the policy by less than `soft.ROUNDING_LIMIT`."""


def tabulate(mdp: TabularMDP, policy: Any) -> Array:
    """Return the table log pi(a | s) (S, A) of any policy over the state and action indices of an MDP.

    Raises:
        ValueError: if its `log_prob` does not return one number for each state and action, or the
            probabilities of a state's actions do not sum to 1.
    """
    state, action = np.divmod(np.arange(mdp.n_states * mdp.n_actions), mdp.n_actions)
    log_prob = check_returned_log_prob(policy.log_prob(state, action), len(state))
    return check_log_probabilities("the policy", log_prob.reshape(mdp.n_states, mdp.n_actions))


def visitation(mdp: TabularMDP, log_policy: Array, horizon: int, discount: float) -> Array:
    """Return the expected visits sum_t discount**t P(s_t = s, a_t = a) in an episode of `horizon` steps.

    With discount 1, averages over rollouts converge to averages weighted by these visits; `occupancy` is the
    discounted measure without a horizon. Steps after a terminal state do not count.

    Args:
        mdp: the MDP.
        log_policy: (S, A) log pi(a | s).
        horizon: length of an episode [steps].
        discount: discount of `steps.time_weights`.

    Returns:
        (S, A) visits.
    """
    policy = np.exp(log_policy)
    chain = PolicyChain(mdp, policy)
    state_probs = mdp.initial
    visits = state_probs.copy()
    for weight in time_weights(np.arange(1, horizon), discount):
        state_probs = chain.step(state_probs)
        visits += weight * state_probs
    return np.where(mdp.terminal, 0.0, visits)[:, None] * policy


class ExactLearner:
    """The exact `interfaces.Learner`: residual Q-learning on a prior, or soft control of the full reward.

    Args:
        mdp: the MDP.
        temperature: alpha_hat of the policies it returns [reward].
        horizon: length of an episode in feature expectations [steps].
        discount: weight of time in feature expectations; with 1, all steps of a rollout count the same.
        log_prior: (S, A) log pi(a | s) of the prior; None for the full reward.
        scaled_prior_weight: omega' = omega * alpha.

    Raises:
        ValueError: if a number is out of range, or the prior is no table of log-probabilities for this MDP.
    """

    is_exact = True
    can_restart = True

    def __init__(
        self,
        mdp: TabularMDP,
        temperature: float,
        *,
        horizon: int,
        discount: float = 1.0,
        log_prior: Array | None = None,
        scaled_prior_weight: float = 0.0,
    ) -> None:
        check_number("temperature", temperature, 0, exclusive=True)
        check_number("horizon", horizon, 1, integer=True)
        check_number("discount", discount, 0, 1, exclusive=True)
        check_number("scaled_prior_weight", scaled_prior_weight, 0)
        self.mdp, self.temperature = mdp, temperature
        self.horizon, self.discount = horizon, discount
        self.log_prior, self.scaled_prior_weight = log_prior, scaled_prior_weight
        self._bonus: Array | float = 0.0
        if log_prior is not None:
            self._bonus = prior_bonus(check_log_policy(mdp, log_prior, "log_prior"), scaled_prior_weight)
        self._v, self._theta = np.zeros(mdp.n_states), np.zeros(mdp.n_features)
        self._anchor = {"v": self._v, "theta": self._theta}
        self._inverse: NDArray[np.float32] | None = None
        self._policy: TabularPolicy | None = None
        self._psi: Array | None = None

    def solve(self, theta: Array) -> TabularPolicy:
        """Return the policy for theta (K,), solved to a Bellman error of 1e-8 [temperature].

        Book: eq-augmented-reward.
        """
        reward = self._reward(theta)
        self._theta = np.array(theta, dtype=np.float64)
        v, q, steps = self._approach(reward)
        if q is not None:
            self._v, log_policy = v, log_softmax(q / self.temperature)
        else:
            solution = solve_soft(self.mdp, reward, self.temperature, initial_v=v)
            self._v, log_policy = solution.v, solution.log_policy
        if q is None or steps > MOST_CHORD_STEPS:
            self._anchor, self._inverse = {"v": self._v, "theta": self._theta}, None
        self._policy, self._psi = TabularPolicy(log_policy), None
        return self._policy

    def _reward(self, theta: Array) -> Array:
        """Return the reward (S, A) for theta: with a prior, the augmented one r_R + omega' log pi."""
        return self.mdp.reward(theta) + self._bonus

    @np.errstate(over="ignore", invalid="ignore")  # `solve_soft` reports an overflow as an error
    def _approach(self, reward: Array) -> tuple[Array, Array | None, int]:
        """Approach the values (S,) for a reward by the chord method.

        It is Newton's method with the inverse of I - gamma P_pi for the policy of an earlier solution, the
        anchor. One inverse serves many rewards, since those of inverse RL differ little from one to the next.

        Returns:
            The values; their Q (S, A) if they solve the Bellman equation, else None; and the steps taken.
        """
        best = v = self._v
        if self.mdp.n_states > DENSE_STATES or self.mdp.gamma > LARGEST_CHORD_GAMMA:
            return best, None, 0
        error, target = np.inf, 1e-8 * self.temperature
        for steps in count():
            q = bellman_q(self.mdp, v, reward)
            residual = soft_value(self.mdp, q, self.temperature) - v
            last, error = error, float(np.abs(residual).max())
            if not error < 0.5 * last:
                return best, None, steps
            if error <= target and rounding_error(v) <= target:
                return v, q, steps
            if self._inverse is None:
                self._inverse = self._invert()
            best, v = v, v + self._inverse @ residual.astype(np.float32)
        raise AssertionError  # each error is less than half the last

    def _invert(self) -> NDArray[np.float32]:
        """Return (I - gamma P_pi)^-1 (S, S) of the anchor's policy, rounded: it only has to point the way."""
        q = bellman_q(self.mdp, self._anchor["v"], self._reward(self._anchor["theta"]))
        policy = np.exp(log_softmax(q / self.temperature))
        return PolicyChain(self.mdp, policy).solve(np.eye(self.mdp.n_states)).astype(np.float32)

    @property
    def policy(self) -> TabularPolicy:
        """The last solved policy."""
        return self._solved()

    def mean_features(self) -> Array:
        """Return the mean features (K,) of the last solved policy over episodes of the horizon."""
        visits = visitation(self.mdp, self._solved().log_policy, self.horizon, self.discount)
        return visits.ravel() @ self.mdp.features.reshape(-1, self.mdp.n_features) / visits.sum()

    def mean_features_covariance(self) -> Array:
        """Return zeros (K, K): visits are exact."""
        return np.zeros((self.mdp.n_features,) * 2)

    def mean_features_jacobian(self) -> Array:
        """Return the derivative (K, K) of `mean_features` in theta.

        The derivative of the visits is propagated forward together with the visits; that of pi_hat(a | s) is
        pi_hat (psi - E[psi]) / alpha_hat.
        """
        mdp, policy = self.mdp, np.exp(self._solved().log_policy)
        d_policy = policy[..., None] * self._centred_psi() / self.temperature

        def act(states: Array) -> Array:
            """Visits (S, A, 1 + K) that follow from those of states (S, 1 + K)."""
            visits = states[:, None] * policy[..., None]
            visits[..., 1:] += states[:, :1, None] * d_policy
            return visits

        # The last axis holds the visits and then their K derivatives.
        now = np.concatenate([mdp.initial[:, None], np.zeros((mdp.n_states, mdp.n_features))], axis=1)
        states, transposed = now.copy(), mdp.transition.T
        for weight in time_weights(np.arange(1, self.horizon), self.discount):
            now = transposed @ act(now).reshape(-1, 1 + mdp.n_features)
            states += weight * now
        states[mdp.terminal] = 0.0
        total = act(states)
        count, sums = total.sum(axis=(0, 1)), np.einsum("saj,sak->kj", total, mdp.features)
        return (sums[:, 1:] - np.outer(sums[:, 0] / count[0], count[1:])) / count[0]

    def scores(self, steps: Steps) -> Array:
        """Return the gradient (N, K) in theta of log pi_hat of each step's action.

        It is (psi(s, a) - E_pi_hat[psi(s, .)]) / alpha_hat, because psi is the derivative of Q_R.

        Book: eq-score.
        """
        return self._centred_psi()[steps.state, steps.action] / self.temperature

    def information(self, steps: Steps, weights: Array | None = None) -> Array:
        """Return the Fisher information (K, K): the sum over steps of Cov_pi_hat[psi(s, .)] / alpha_hat^2.

        Book: eq-information.

        Args:
            steps: the steps.
            weights: (N,) weights of the steps; default: 1.
        """
        centred = self._centred_psi()[steps.state]
        probability = np.exp(self._solved().log_policy)[steps.state]
        if weights is not None:
            probability = probability * weights[:, None]
        return np.einsum("na,nak,nal->kl", probability, centred, centred) / self.temperature**2

    def feature_sums(
        self,
        steps: Steps,
        rows: NDArray[np.intp],
        counts: NDArray[np.int64],
        varied: NDArray[np.int64],
        n_paths: int,
    ) -> FeatureSums:
        """Return the features to come from the states of some steps, see `interfaces.SegmentLearner`.

        They follow by backward induction over the steps that are left, and with them their derivatives and
        second moments.
        """
        m, K, state = len(rows), self.mdp.n_features, steps.state[rows]
        mean, jacobian, square = np.zeros((m, K)), np.zeros((m, K, K)), np.zeros((m, K, K))
        fixed, group = np.unique(counts - varied, return_inverse=True)
        for step, found in enumerate(self._to_come(int(counts.max(initial=0)), fixed), 1):
            now = counts == step
            mean[now], square[now] = found[0][state[now]], found[2][state[now]]
            jacobian[now] = found[1][state[now], group[now]]
        return FeatureSums(mean, jacobian, square - mean[:, :, None] * mean[:, None], np.inf)

    def _to_come(self, n_steps: int, fixed: NDArray[np.int64]) -> Iterator[tuple[Array, Array, Array]]:
        """Yield means (S, K) of the features to come in 1, 2, ... steps, derivatives and second moments.

        Derivatives (S, F, K, K) are those while the policy of the last `fixed` (F,) of these steps is fixed.
        """
        mdp, log_policy = self.mdp, self._solved().log_policy
        S, A, K = mdp.features.shape
        chain = PolicyChain(mdp, np.exp(log_policy)).matrix
        policy = np.where(mdp.terminal[:, None], 0.0, np.exp(log_policy))
        d_policy = policy[..., None] * self._centred_psi() / self.temperature
        weighted = policy[..., None] * mdp.features
        mean, square = np.zeros((S, K)), np.zeros((S, K, K))
        jacobian = np.zeros((S, len(fixed), K, K))
        for step in range(n_steps):
            later = (mdp.transition @ mean).reshape(S, A, K)
            total = mdp.features + later
            mean = np.einsum("sa,sak->sk", policy, total)
            jacobian = (chain @ jacobian.reshape(S, -1)).reshape(jacobian.shape)
            jacobian[:, step >= fixed] += (total.swapaxes(1, 2) @ d_policy)[:, None]
            # E[(f + X)(f + X)^T] = f f^T + f EX^T + EX f^T + E[X X^T], where X is what follows.
            half = weighted.swapaxes(1, 2) @ (mdp.features / 2 + later)
            square = half + half.swapaxes(1, 2) + (chain @ square.reshape(S, -1)).reshape(S, K, K)
            yield mean, jacobian, square

    def arrays(self) -> dict[str, Array]:
        """Return the last theta and its values, from which the next solve starts, and those of the anchor."""
        anchor = {f"anchor.{name}": array for name, array in self._anchor.items()}
        return {"v": self._v, "theta": self._theta, **anchor}

    def restore(self, arrays: dict[str, Array]) -> None:
        """Restore the values and solve for the last theta again."""
        shapes = {"v": (self.mdp.n_states,), "theta": (self.mdp.n_features,)}
        self._v = check_array("v", arrays["v"], shape=shapes["v"])
        self._anchor = {
            name: check_array(f"anchor.{name}", arrays[f"anchor.{name}"], shape=shape)
            for name, shape in shapes.items()
        }
        self._inverse = None
        self.solve(check_array("theta", arrays["theta"], shape=shapes["theta"]))

    def _solved(self) -> TabularPolicy:
        if self._policy is None:
            raise ValueError("call solve(theta) first: no policy has been solved for yet")
        return self._policy

    def _centred_psi(self) -> Array:
        if self._psi is None:
            log_policy = self._solved().log_policy
            psi = successor_features(self.mdp, log_policy)
            self._psi = psi - np.einsum("sa,sak->sk", np.exp(log_policy), psi)[:, None, :]
        return self._psi


class ExactCloner:
    """Behaviour cloning in a table: the posterior mean under a Dirichlet prior centred on the prior policy.

    pi_hat(a | s) = (c pi(a | s) + sum of weights of (s, a)) / (c + sum of weights of s).

    Args:
        log_prior: (S, A) log pi(a | s) of the prior.
        concentration: c > 0, how many expert steps the prior is worth; cloning does best with 0.1 to 0.3, and
            a much larger value would handicap this baseline.

    Raises:
        ValueError: if `concentration` is not positive.
    """

    def __init__(self, log_prior: Array, concentration: float = 0.2) -> None:
        check_number("concentration", concentration, 0, exclusive=True)
        log_prior = check_log_probabilities("log_prior", log_prior)
        self.prior_counts = concentration * np.exp(log_prior)

    def clone(self, steps: Steps, weights: Array) -> TabularPolicy:
        """Return the policy fitted to the actions of the steps with weights (N,) >= 0."""
        counts = self.prior_counts.copy()
        np.add.at(counts, (steps.state, steps.action), weights)
        with np.errstate(divide="ignore"):
            return TabularPolicy(np.log(counts / counts.sum(axis=1, keepdims=True)))
