"""Residual Q-learning: facts E1-E7 of the method on random MDPs, a closed form, hard priors, refusals.

The equations are written out a second time here, with loops, so that the library is not held against itself.
"""

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from strategies import discounts, draw_log_policy, draw_table, generators, mdps, prior_weights, temperatures

from mereq_min.mdp import Array, TabularMDP
from mereq_min.residual import residual_bellman, solve_residual
from mereq_min.soft import solve_soft

TOL = 1e-10
"""Bellman error to which everything is solved [temperature]."""


def assert_near(actual: Array, desired: Array, size: float, accuracy: float = 1e-9) -> None:
    """Compare to `accuracy`, relative to the size of the values involved where that is above 1."""
    assert_allclose(actual, desired, rtol=0, atol=accuracy * max(1.0, size))


def assert_same_policy(actual: Array, desired: Array) -> None:
    assert_allclose(np.exp(actual), np.exp(desired), rtol=0, atol=1e-7)


def shaping(mdp: TabularMDP, potential: Array) -> Array:
    """gamma E[Phi(s')] - Phi(s), written out."""
    table = np.zeros((mdp.n_states, mdp.n_actions))
    rows = mdp.transition.toarray()
    for s in range(mdp.n_states):
        for a in range(mdp.n_actions):
            table[s, a] = mdp.gamma * rows[s * mdp.n_actions + a] @ potential - potential[s]
    return table


def draw_potential(mdp: TabularMDP, rng: np.random.Generator) -> Array:
    """Draw Phi; an episode that ends forfeits the potential to come, hence 0 in terminal states."""
    return np.where(mdp.terminal, 0.0, rng.normal(scale=3.0, size=mdp.n_states))


def backup_by_hand(
    mdp: TabularMDP, v: Array, reward: Array, log_prior: Array, omega_scaled: float, alpha_hat: float
) -> Array:
    """One sweep of the residual operator on V_R, one state and one action at a time."""
    rows = mdp.transition.toarray()
    backed_up = np.zeros(mdp.n_states)
    for s in np.flatnonzero(~mdp.terminal):
        exponents = []
        for a in range(mdp.n_actions):
            q = reward[s, a] + mdp.gamma * rows[s * mdp.n_actions + a] @ v
            bonus = omega_scaled * log_prior[s, a] if omega_scaled > 0 else 0.0
            exponents.append((q + bonus) / alpha_hat)
        backed_up[s] = alpha_hat * np.logaddexp.reduce(exponents)
    return backed_up


# E1 to E7 of the method ------------------------------------------------------------------------------------


@given(mdps(), generators, prior_weights, temperatures, temperatures)
def test_e1_residual_q_is_the_experts_q_less_the_priors(
    mdp: TabularMDP, rng: np.random.Generator, omega: float, alpha: float, alpha_hat: float
) -> None:
    prior_reward, residual_reward = draw_table(mdp, rng), draw_table(mdp, rng)
    prior = solve_soft(mdp, prior_reward, alpha, tol=TOL)
    expert = solve_soft(mdp, omega * prior_reward + residual_reward, alpha_hat, tol=TOL)
    residual = solve_residual(mdp, residual_reward, prior.log_policy, omega * alpha, alpha_hat, tol=TOL)
    size = np.abs(expert.q).max() + omega * np.abs(prior.q).max()
    assert_near(residual.q, expert.q - omega * prior.q, size)
    assert_near(residual.v, expert.v - omega * prior.v, size)
    assert_same_policy(residual.log_policy, expert.log_policy)


@given(mdps(), generators, prior_weights, temperatures, st.booleans())
def test_e2_it_is_soft_control_of_the_augmented_reward(
    mdp: TabularMDP, rng: np.random.Generator, omega_scaled: float, alpha_hat: float, zeros: bool
) -> None:
    residual_reward, log_prior = draw_table(mdp, rng), draw_log_policy(mdp, rng, zeros=zeros)
    bonus = omega_scaled * log_prior if omega_scaled > 0 else np.zeros_like(log_prior)
    residual = solve_residual(mdp, residual_reward, log_prior, omega_scaled, alpha_hat, tol=TOL)
    augmented = solve_soft(mdp, residual_reward + bonus, alpha_hat, tol=TOL)
    assert_near(residual.q + bonus, augmented.q, np.abs(augmented.v).max())
    assert_same_policy(residual.log_policy, augmented.log_policy)


@given(mdps(), generators, temperatures, st.booleans())
def test_e3_no_residual_reward_leaves_the_prior(
    mdp: TabularMDP, rng: np.random.Generator, alpha_hat: float, zeros: bool
) -> None:
    log_prior = draw_log_policy(mdp, rng, zeros=zeros)
    nothing = np.zeros_like(log_prior)
    residual = solve_residual(mdp, nothing, log_prior, alpha_hat, alpha_hat, tol=TOL)
    assert_allclose(residual.q, 0.0, atol=1e-9)
    assert_same_policy(residual.log_policy, log_prior)


@given(mdps(), generators, temperatures, st.booleans())
def test_e3_no_prior_weight_leaves_plain_soft_control(
    mdp: TabularMDP, rng: np.random.Generator, alpha_hat: float, zeros: bool
) -> None:
    residual_reward, log_prior = draw_table(mdp, rng), draw_log_policy(mdp, rng, zeros=zeros)
    residual = solve_residual(mdp, residual_reward, log_prior, 0.0, alpha_hat, tol=TOL)
    plain = solve_soft(mdp, residual_reward, alpha_hat, tol=TOL)
    assert_near(residual.q, plain.q, np.abs(plain.q).max())
    assert_same_policy(residual.log_policy, plain.log_policy)


@given(mdps(), generators, prior_weights, temperatures, st.booleans())
def test_e4_the_residual_operator_contracts_by_gamma_and_no_more(
    mdp: TabularMDP, rng: np.random.Generator, omega_scaled: float, alpha_hat: float, zeros: bool
) -> None:
    residual_reward, log_prior = draw_table(mdp, rng), draw_log_policy(mdp, rng, zeros=zeros)

    def backup(v: Array) -> Array:
        return residual_bellman(mdp, v, residual_reward, log_prior, omega_scaled, alpha_hat)[1]

    v, other = rng.normal(scale=5.0, size=(2, mdp.n_states))
    assert np.abs(backup(v) - backup(other)).max() <= mdp.gamma * np.abs(v - other).max() + 1e-12
    # A constant shift attains the factor in every state that goes on.
    shifted = np.where(mdp.terminal, 0.0, mdp.gamma * 7.0)
    assert_allclose(backup(v + 7.0) - backup(v), shifted, rtol=0, atol=1e-12)


@given(mdps(), generators, prior_weights, temperatures, st.booleans())
def test_e5_shaping_the_residual_reward_leaves_the_policy(
    mdp: TabularMDP, rng: np.random.Generator, omega_scaled: float, alpha_hat: float, zeros: bool
) -> None:
    residual_reward, log_prior = draw_table(mdp, rng), draw_log_policy(mdp, rng, zeros=zeros)
    potential = draw_potential(mdp, rng)
    shaped_reward = residual_reward + shaping(mdp, potential)
    plain = solve_residual(mdp, residual_reward, log_prior, omega_scaled, alpha_hat, tol=TOL)
    shaped = solve_residual(mdp, shaped_reward, log_prior, omega_scaled, alpha_hat, tol=TOL)
    assert_near(shaped.q, plain.q - potential[:, None], np.abs(plain.q).max())
    assert_same_policy(shaped.log_policy, plain.log_policy)


@given(mdps(), generators, prior_weights, temperatures, temperatures)
def test_e6_the_priors_reward_matters_only_through_the_prior(
    mdp: TabularMDP, rng: np.random.Generator, omega: float, alpha: float, alpha_hat: float
) -> None:
    prior_reward, residual_reward = draw_table(mdp, rng), draw_table(mdp, rng)
    shaped_reward = prior_reward + shaping(mdp, draw_potential(mdp, rng))
    prior = solve_soft(mdp, prior_reward, alpha, tol=TOL)
    residual = solve_residual(mdp, residual_reward, prior.log_policy, omega * alpha, alpha_hat, tol=TOL)
    shaped_expert = solve_soft(mdp, omega * shaped_reward + residual_reward, alpha_hat, tol=TOL)
    assert_same_policy(solve_soft(mdp, shaped_reward, alpha, tol=TOL).log_policy, prior.log_policy)
    assert_same_policy(shaped_expert.log_policy, residual.log_policy)


def kl_return(
    mdp: TabularMDP, policy: Array, residual_reward: Array, log_prior: Array, alpha_hat: float
) -> Array:
    """Discounted return (S,) of r_R - alpha_hat KL(policy || prior), by one dense solve."""
    S, A = policy.shape
    chosen = policy > 0
    log_ratio = np.zeros((S, A))
    log_ratio[chosen] = np.log(policy[chosen]) - log_prior[chosen]
    reward = (policy * (residual_reward - alpha_hat * log_ratio)).sum(axis=1)
    chain = np.einsum("sa,sat->st", policy, mdp.transition.toarray().reshape(S, A, S))
    going = ~mdp.terminal
    return np.linalg.solve(np.eye(S) - mdp.gamma * going[:, None] * chain, going * reward)


@given(mdps(), generators, temperatures, st.booleans())
def test_e7_the_policy_attains_the_largest_kl_regularised_return(
    mdp: TabularMDP, rng: np.random.Generator, alpha_hat: float, zeros: bool
) -> None:
    residual_reward, log_prior = draw_table(mdp, rng), draw_log_policy(mdp, rng, zeros=zeros)
    residual = solve_residual(mdp, residual_reward, log_prior, alpha_hat, alpha_hat, tol=TOL)
    best = np.exp(residual.log_policy)
    size = np.abs(residual.v).max()
    attained = kl_return(mdp, best, residual_reward, log_prior, alpha_hat)
    assert_near(residual.v, attained, size, accuracy=1e-8)
    for share in (0.01, 0.3, 1.0):
        other = np.where(np.isneginf(log_prior), 0.0, np.exp(draw_log_policy(mdp, rng)))
        policy = (1.0 - share) * best + share * other / other.sum(axis=1, keepdims=True)
        rival = kl_return(mdp, policy, residual_reward, log_prior, alpha_hat)
        assert (rival <= residual.v + 1e-8 * max(1.0, size)).all()


# The operator and the solution -----------------------------------------------------------------------------


@given(mdps(), generators, prior_weights, temperatures, st.booleans())
def test_the_operator_is_the_equation_written_out(
    mdp: TabularMDP, rng: np.random.Generator, omega_scaled: float, alpha_hat: float, zeros: bool
) -> None:
    residual_reward, log_prior = draw_table(mdp, rng), draw_log_policy(mdp, rng, zeros=zeros)
    v = rng.normal(scale=5.0, size=mdp.n_states)
    _, backed_up = residual_bellman(mdp, v, residual_reward, log_prior, omega_scaled, alpha_hat)
    expected = backup_by_hand(mdp, v, residual_reward, log_prior, omega_scaled, alpha_hat)
    assert_near(backed_up, expected, np.abs(expected).max(), accuracy=1e-12)


@pytest.mark.parametrize("tol", [0.3, 1e-10])
@given(mdps(), generators, prior_weights, temperatures, st.booleans())
def test_the_bellman_error_is_that_of_the_residual_operator(
    tol: float, mdp: TabularMDP, rng: np.random.Generator, omega_scaled: float, alpha_hat: float, zeros: bool
) -> None:
    residual_reward, log_prior = draw_table(mdp, rng), draw_log_policy(mdp, rng, zeros=zeros)
    residual = solve_residual(mdp, residual_reward, log_prior, omega_scaled, alpha_hat, tol=tol)
    backed_up = backup_by_hand(mdp, residual.v, residual_reward, log_prior, omega_scaled, alpha_hat)
    rounding = 1e-13 * max(1.0, np.abs(residual.v).max())
    assert residual.bellman_error <= tol * alpha_hat + rounding
    assert abs(residual.bellman_error - np.abs(backed_up - residual.v).max()) <= rounding


def test_the_bellman_error_of_a_guess_within_tolerance() -> None:
    # V_R = 2 log 2 exactly; the guess 2 log 2 + 0.1 backs up to 2 log 2 + 0.05.
    guess = [2.0 * np.log(2.0) + 0.1]
    residual = solve_residual(COIN, COIN_REWARD, COIN_LOG_PRIOR, 1.0, 1.0, tol=0.06, initial_v=guess)
    assert residual.iterations == 0
    assert residual.bellman_error == pytest.approx(0.05, abs=1e-12)


@given(mdps(), generators, prior_weights, temperatures, st.booleans())
def test_a_warm_start_changes_the_work_and_not_the_answer(
    mdp: TabularMDP, rng: np.random.Generator, omega_scaled: float, alpha_hat: float, zeros: bool
) -> None:
    residual_reward, log_prior = draw_table(mdp, rng), draw_log_policy(mdp, rng, zeros=zeros)
    problem = (mdp, residual_reward, log_prior, omega_scaled, alpha_hat)
    cold = solve_residual(*problem, tol=TOL)
    warm = solve_residual(*problem, tol=TOL, initial_v=cold.v)
    far = rng.normal(scale=20.0, size=mdp.n_states)
    given_far = far.copy()
    distant = solve_residual(*problem, tol=TOL, initial_v=far)
    np.testing.assert_array_equal(far, given_far)
    assert warm.iterations == 0
    np.testing.assert_array_equal(warm.v, cold.v)
    assert_near(distant.v, cold.v, np.abs(cold.v).max())
    assert_same_policy(distant.log_policy, cold.log_policy)


# Solved by hand --------------------------------------------------------------------------------------------

COIN = TabularMDP(transition=np.ones((2, 1)), features=np.zeros((1, 2, 1)), initial=np.ones(1), gamma=0.5)
"""One state, two actions, gamma = 1/2."""
COIN_REWARD = np.log([[3.0, 1.0]])
COIN_LOG_PRIOR = np.log([[0.5, 0.5]])


def test_a_coin_by_hand() -> None:
    # sum_a pi(a) exp(r_R(a)) = (3 + 1) / 2, so V_R = log 2 / (1 - 1/2) and pi_hat is in the ratio 3 : 1.
    residual = solve_residual(COIN, COIN_REWARD, COIN_LOG_PRIOR, 1.0, 1.0, tol=1e-12)
    assert_allclose(residual.v, [2.0 * np.log(2.0)], atol=1e-12)
    assert_allclose(residual.q, COIN_REWARD + np.log(2.0), atol=1e-12)
    assert_allclose(np.exp(residual.log_policy), [[0.75, 0.25]], atol=1e-12)


@given(generators, st.integers(1, 5), discounts, prior_weights, temperatures)
def test_one_state_in_closed_form(
    rng: np.random.Generator, A: int, gamma: float, omega_scaled: float, alpha_hat: float
) -> None:
    mdp = TabularMDP(np.ones((A, 1)), features=np.zeros((1, A, 1)), initial=np.ones(1), gamma=gamma)
    residual_reward, log_prior = draw_table(mdp, rng), draw_log_policy(mdp, rng)
    weights = np.exp(log_prior[0]) ** (omega_scaled / alpha_hat) * np.exp(residual_reward[0] / alpha_hat)
    v = alpha_hat * np.log(weights.sum()) / (1.0 - gamma)
    residual = solve_residual(mdp, residual_reward, log_prior, omega_scaled, alpha_hat, tol=TOL)
    assert_near(residual.v, np.array([v]), abs(v), accuracy=1e-8)
    assert_allclose(np.exp(residual.log_policy[0]), weights / weights.sum(), rtol=0, atol=1e-9)


# Priors that never take some actions -----------------------------------------------------------------------


@given(mdps(), generators, temperatures, temperatures)
def test_what_the_prior_never_does_is_never_done(
    mdp: TabularMDP, rng: np.random.Generator, omega_scaled: float, alpha_hat: float
) -> None:
    residual_reward, log_prior = draw_table(mdp, rng), draw_log_policy(mdp, rng, zeros=True)
    never = np.isneginf(log_prior)
    residual = solve_residual(mdp, residual_reward, log_prior, omega_scaled, alpha_hat, tol=TOL)
    # However well it would pay: the forbidden actions' reward is of no consequence.
    tempted = solve_residual(
        mdp, np.where(never, 1e3, residual_reward), log_prior, omega_scaled, alpha_hat, tol=TOL
    )
    for solution in (residual, tempted):
        assert np.isneginf(solution.log_policy[never]).all()
        assert np.isfinite(solution.log_policy[~never]).all()
        assert_allclose(np.exp(solution.log_policy).sum(axis=1), 1.0, atol=1e-12)
        assert np.isfinite(solution.q).all()
    np.testing.assert_array_equal(tempted.v, residual.v)


@given(mdps(), generators, temperatures)
def test_no_prior_weight_forgets_the_priors_zeros(
    mdp: TabularMDP, rng: np.random.Generator, alpha_hat: float
) -> None:
    residual_reward = draw_table(mdp, rng)
    with_zeros, without = draw_log_policy(mdp, rng, zeros=True), draw_log_policy(mdp, rng)
    solution = solve_residual(mdp, residual_reward, with_zeros, 0.0, alpha_hat, tol=TOL)
    assert np.isfinite(solution.log_policy).all()
    expected = solve_residual(mdp, residual_reward, without, 0.0, alpha_hat, tol=TOL)
    np.testing.assert_array_equal(solution.log_policy, expected.log_policy)


# Refusals --------------------------------------------------------------------------------------------------

VALID: dict[str, Any] = {
    "residual_reward": COIN_REWARD,
    "log_prior": COIN_LOG_PRIOR,
    "scaled_prior_weight": 1.0,
    "temperature": 1.0,
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"residual_reward": [0.0, 1.0]}, "residual_reward must have shape (1, 2), got (2,)"),
        ({"residual_reward": [[np.nan, 1.0]]}, "residual_reward must be finite, got 1 bad entries"),
        ({"residual_reward": [[-np.inf, 1.0]]}, "residual_reward must be finite, got 1 bad entries"),
        ({"log_prior": [[0.0]]}, "(1, 2), got (1, 1)"),
        ({"log_prior": [[np.nan, 0.0]]}, "log_prior must not hold NaN; use -inf for"),
        (
            {"log_prior": [[0.5, 0.5]]},
            "log_prior must hold log-probabilities, but exp sums to 3.29744 in state 0",
        ),
        ({"log_prior": [[-np.inf, -np.inf]]}, "log_prior must hold log-probabilities, but exp sums to 0 in"),
        ({"scaled_prior_weight": -0.5}, "scaled_prior_weight must be a finite number at least 0, got -0.5"),
        ({"scaled_prior_weight": np.nan}, "scaled_prior_weight must be a finite number at least 0, got nan"),
        ({"scaled_prior_weight": np.inf}, "scaled_prior_weight must be a finite number at least 0, got inf"),
        ({"temperature": 0.0}, "temperature must be positive and finite, got 0.0"),
        ({"temperature": -1.0}, "temperature must be positive and finite, got -1.0"),
        ({"temperature": np.nan}, "temperature must be positive and finite, got nan"),
        ({"tol": 0.0}, "tol must be positive, got 0.0"),
        ({"initial_v": [0.0, 0.0]}, "initial_v must have shape (1,), got (2,)"),
        ({"initial_v": [np.nan]}, "initial_v must be finite, got 1 bad entries"),
    ],
)
def test_malformed_input_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        solve_residual(COIN, **VALID | changes)
