"""Exact residual Q-learning: customise a prior policy whose reward is unknown.

Li et al., "Residual Q-Learning" (NeurIPS 2023). The full reward is omega r + r_R: r is the unknown reward of
the prior, whose policy pi is soft-optimal for it at temperature alpha, and r_R is the residual reward. Since
omega Q = omega' log pi + omega V, and omega V cancels, the Bellman equation of Q_R := Q_hat - omega Q
contains log pi, but neither r, Q nor V of the prior.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from mereq_min.interfaces import Policy
from mereq_min.mdp import TabularMDP
from mereq_min.soft import SoftSolution, bellman_q, check_log_policy, log_softmax, soft_value, solve_soft
from mereq_min.validation import Array, check_array, check_number


def scaled_prior_weight(prior: Policy, prior_weight: float, temperature: float) -> float:
    """Return omega' = omega alpha of a prior, where alpha is the temperature of that prior [reward].

    If the prior states no temperature, alpha_hat is used. With omega = 1 this is KL control (E7): the reward
    r_R less alpha_hat times the KL divergence from the prior.

    Args:
        prior: the prior in use; its attribute `temperature`, if it has one, is alpha.
        prior_weight: omega.
        temperature: alpha_hat [reward].
    """
    alpha = getattr(prior, "temperature", None)
    return prior_weight * (temperature if alpha is None else float(alpha))


def prior_bonus(log_prior: Array, scaled_prior_weight: float) -> Array:
    """Return omega' log pi(a | s), the prior's term in Q and in the augmented reward.

    If omega' = 0 it is 0, also for actions that the prior never takes.

    Book: eq-prior-term.
    """
    if scaled_prior_weight == 0.0:
        return np.zeros_like(log_prior)
    return scaled_prior_weight * log_prior


def residual_bellman(
    mdp: TabularMDP,
    v_residual: Array,
    residual_reward: Array,
    log_prior: Array,
    scaled_prior_weight: float,
    temperature: float,
) -> tuple[Array, Array]:
    """Apply the residual soft Bellman operator once. It is a gamma-contraction in the sup norm.

    Q_R(s, a) = r_R(s, a) + gamma E[V_R(s')],
    V_R(s) = alpha_hat logsumexp_a((Q_R(s, a) + omega' log pi(a | s)) / alpha_hat). Li et al. (2023).

    Book: eq-residual-q, eq-residual-v, eq-residual-contraction.

    Args:
        mdp: the MDP.
        v_residual: (S,) V_R.
        residual_reward: (S, A) r_R.
        log_prior: (S, A) log pi(a | s); -inf for an action that the prior never takes.
        scaled_prior_weight: omega' = omega * alpha >= 0.
        temperature: alpha_hat > 0.

    Returns:
        Q_R (S, A) and the new V_R (S,).
    """
    q = bellman_q(mdp, v_residual, residual_reward)
    return q, soft_value(mdp, q + prior_bonus(log_prior, scaled_prior_weight), temperature)


def solve_residual(
    mdp: TabularMDP,
    residual_reward: ArrayLike,
    log_prior: ArrayLike,
    scaled_prior_weight: float,
    temperature: float,
    *,
    tol: float = 1e-8,
    initial_v: ArrayLike | None = None,
) -> SoftSolution:
    """Solve the residual soft Bellman equation, Li et al. (2023).

    Q_R + omega' log pi is the soft Q of the augmented reward r_R + omega' log pi (E2): any solver of soft
    control finds it. Actions that the prior never takes have a finite Q_R and probability 0.

    Book: eq-residual-policy, eq-augmented-reward.

    Args:
        mdp: the MDP.
        residual_reward: (S, A) r_R.
        log_prior: (S, A) log pi(a | s).
        scaled_prior_weight: omega' = omega * alpha >= 0; with 0 the prior has no influence.
        temperature: alpha_hat > 0.
        tol: bound on the sup-norm error of the residual Bellman equation [temperature]; see `solve_soft` for
            what it means for the policy.
        initial_v: (S,) warm start for V_R [reward].

    Returns:
        Q_R as `q`, V_R as `v`, and log pi_hat as `log_policy`.

    Raises:
        ValueError: on malformed input, or if rounding alone may move the policy too far, as in `solve_soft`.
        NotConvergedError: if the tolerance is not reached.
    """
    residual_reward = check_array("residual_reward", residual_reward, shape=(mdp.n_states, mdp.n_actions))
    log_prior = check_log_policy(mdp, log_prior, "log_prior")
    check_number("scaled_prior_weight", scaled_prior_weight, 0)
    with np.errstate(over="ignore"):
        bonus = prior_bonus(log_prior, scaled_prior_weight)
    if (np.isinf(bonus) & np.isfinite(log_prior)).any():
        raise ValueError(
            f"scaled_prior_weight is too large: omega' log pi overflows float64, got {scaled_prior_weight}"
        )
    solution = solve_soft(mdp, residual_reward + bonus, temperature, tol=tol, initial_v=initial_v)
    q, backed_up = residual_bellman(
        mdp, solution.v, residual_reward, log_prior, scaled_prior_weight, temperature
    )
    error = float(np.abs(backed_up - solution.v).max())
    log_policy = log_softmax((q + bonus) / temperature)
    return replace(solution, q=q, log_policy=log_policy, bellman_error=error)
