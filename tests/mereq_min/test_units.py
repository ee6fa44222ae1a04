"""Units: scaling reward and temperature together changes no policy, and the bound on its error holds."""

import re
from collections.abc import Callable
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from strategies import draw_log_policy, draw_table, generators, mdps, temperatures
from toy import draw_steps, make_mdp

from mereq_min.exact import ExactLearner
from mereq_min.inverse import (
    FeatureMatchingConfig,
    SegmentLikelihoodConfig,
    match_features,
    maximise_likelihood,
)
from mereq_min.mdp import Array, TabularMDP
from mereq_min.metrics import starc_distance
from mereq_min.residual import solve_residual
from mereq_min.soft import SoftSolution, discounted_sum, occupancy, solve_soft
from mereq_min.validation import check_array, check_log_probabilities

Solver = Callable[..., SoftSolution]

SOLVERS: list[dict[str, Any]] = [
    {"method": "newton"},
    {"method": "modified_policy_iteration"},
    {"method": "value_iteration"},
    {"backend": "numba"},
]
solvers = pytest.mark.parametrize("options", SOLVERS, ids=lambda options: next(iter(options.values())))

factors = st.one_of(
    st.floats(-12.0, 12.0).map(lambda exponent: 10.0**exponent), st.sampled_from([1e-12, 1e12])
)
"""The units in question, as factors of reward and temperature."""


def exact_policy(mdp: TabularMDP, reward: Array, temperature: float) -> Array:
    """The soft-optimal policy (S, A), to 45 of 60 digits: float64 solves refine the residual of Decimals."""
    S, A = reward.shape
    rows = mdp.transition.toarray()
    with localcontext() as context:
        context.prec = 60
        alpha, gamma = Decimal(temperature), Decimal(mdp.gamma)
        r = [[Decimal(x) / alpha for x in row] for row in reward.tolist()]
        chances = [[(t, Decimal(p)) for t, p in enumerate(row) if p > 0] for row in rows.tolist()]
        v = [Decimal(x) for x in (solve_soft(mdp, reward, temperature).v / temperature).tolist()]
        for _ in range(12):
            policy, residual = np.empty((S, A)), np.zeros(S)
            for s in range(S):
                q = [r[s][a] + gamma * sum(p * v[t] for t, p in chances[s * A + a]) for a in range(A)]
                powers = [(x - max(q)).exp() for x in q]
                policy[s] = [float(x / sum(powers)) for x in powers]
                if not mdp.terminal[s]:
                    residual[s] = max(q) + sum(powers).ln() - v[s]
            if np.abs(residual).max() < 1e-45:
                return policy
            chain = np.einsum(
                "sa,sat->st", np.where(mdp.terminal[:, None], 0.0, policy), rows.reshape(S, A, S)
            )
            step = np.linalg.solve(np.eye(S) - mdp.gamma * chain, residual)
            v = [value + Decimal(x) for value, x in zip(v, step.tolist(), strict=True)]
    raise AssertionError("the reference has not converged")


def variation(mdp: TabularMDP, log_policy: Array, policy: Array) -> float:
    """Largest total variation over the states that go on."""
    apart = 0.5 * np.abs(np.exp(log_policy) - policy).sum(axis=1)
    return float(apart[~mdp.terminal].max(initial=0.0))


# The policy does not depend on the unit --------------------------------------------------------------------


@solvers
@given(mdp=mdps(), rng=generators, alpha=temperatures, factor=factors)
def test_in_any_unit_the_policy_is_that_of_sixty_digits(
    options: dict[str, Any], mdp: TabularMDP, rng: np.random.Generator, alpha: float, factor: float
) -> None:
    reward, temperature = factor * draw_table(mdp, rng), factor * alpha
    solution = solve_soft(mdp, reward, temperature, **options)
    error = variation(mdp, solution.log_policy, exact_policy(mdp, reward, temperature))
    assert error <= solution.policy_error + 1e-15
    assert solution.policy_error <= 1e-6
    assert solution.bellman_error <= 1e-8 * temperature


@solvers
@given(mdp=mdps(), rng=generators, alpha=temperatures, exponent=st.integers(-900, 900), warm=st.booleans())
def test_a_unit_that_is_a_power_of_two_changes_no_bit(
    options: dict[str, Any],
    mdp: TabularMDP,
    rng: np.random.Generator,
    alpha: float,
    exponent: int,
    warm: bool,
) -> None:
    reward, unit = draw_table(mdp, rng), 2.0**exponent
    start = rng.normal(size=mdp.n_states) if warm else np.zeros(mdp.n_states)
    plain = solve_soft(mdp, reward, alpha, initial_v=start, **options)
    scaled = solve_soft(mdp, unit * reward, unit * alpha, initial_v=unit * start, **options)
    assert_array_equal(scaled.log_policy, plain.log_policy)
    assert_array_equal(scaled.v / unit, plain.v)
    assert_array_equal(scaled.q / unit, plain.q)
    assert scaled.bellman_error / unit == plain.bellman_error
    assert (scaled.policy_error, scaled.iterations) == (plain.policy_error, plain.iterations)


@given(mdp=mdps(), rng=generators, alpha=temperatures, exponent=st.integers(-900, 900), zeros=st.booleans())
def test_nor_does_it_change_a_residual_policy(
    mdp: TabularMDP, rng: np.random.Generator, alpha: float, exponent: int, zeros: bool
) -> None:
    reward, log_prior, unit = draw_table(mdp, rng), draw_log_policy(mdp, rng, zeros=zeros), 2.0**exponent
    plain = solve_residual(mdp, reward, log_prior, 0.3, alpha)
    scaled = solve_residual(mdp, unit * reward, log_prior, unit * 0.3, unit * alpha)
    assert_array_equal(scaled.log_policy, plain.log_policy)
    assert_array_equal(scaled.q / unit, plain.q)
    assert scaled.bellman_error / unit == plain.bellman_error


@pytest.mark.parametrize("backend", ["scipy", "numba"])
@pytest.mark.parametrize("unit", [2.0**-1000, 2.0**-40, 2.0**40, 2.0**1000])
@pytest.mark.parametrize("S", [150, 300, 500])  # dense, dense but for rough solves, Krylov
def test_large_problems_neither(S: int, unit: float, backend: Any) -> None:
    mdp = make_mdp(0, S=S)
    reward = mdp.reward([1.0, -0.5])
    plain = solve_soft(mdp, reward, 0.1, backend=backend)
    scaled = solve_soft(mdp, unit * reward, unit * 0.1, backend=backend)
    assert_array_equal(scaled.log_policy, plain.log_policy)
    sums = discounted_sum(mdp, plain.log_policy, reward)
    assert_array_equal(discounted_sum(mdp, plain.log_policy, unit * reward) / unit, sums)


@pytest.mark.parametrize("temperature", [2.0**-1022, 1e-300, 1e300])
def test_the_ends_of_float64_are_solved(temperature: float) -> None:
    mdp, rng = make_mdp(0), np.random.default_rng(0)
    reward = draw_table(mdp, rng)
    plain, scaled = solve_soft(mdp, reward, 1.0), solve_soft(mdp, temperature * reward, temperature)
    assert_allclose(np.exp(scaled.log_policy), np.exp(plain.log_policy), rtol=0, atol=1e-12)
    assert_allclose(scaled.v / temperature, plain.v, rtol=1e-12)


@pytest.mark.parametrize("exponent", [-40, -3, 40])
def test_a_unit_of_reward_changes_no_bit_of_what_is_inferred(exponent: int) -> None:
    mdp, unit = make_mdp(0), 2.0**exponent
    expert = ExactLearner(mdp, 0.3, horizon=20).solve(np.array([1.0, -0.7]))
    steps = draw_steps(mdp, expert, np.random.default_rng(0), n_episodes=20, horizon=20)

    def infer(unit: float) -> list[Any]:
        learner = ExactLearner(mdp, 0.3 * unit, horizon=20)
        start, weights = unit * np.array([2.0, 3.0]), np.ones(len(steps))  # far off: the first step is cut
        likelihood = SegmentLikelihoodConfig(prior_sd=0.5 * unit)
        # A difference of features moves theta, so that eta is a reward over a feature.
        matching = FeatureMatchingConfig(learning_rate=0.5 * unit, max_steps=10)
        return [
            maximise_likelihood(learner, steps, start, likelihood, longest_step=0.5 * unit),
            match_features(learner, steps, weights, start, matching),
        ]

    for plain, scaled in zip(infer(1.0), infer(unit), strict=True):
        assert_array_equal(scaled.theta / unit, plain.theta)
        assert_array_equal(scaled.standard_errors / unit, plain.standard_errors)
        assert_array_equal(scaled.policy.log_policy, plain.policy.log_policy)
        assert (scaled.solves, scaled.converged) == (plain.solves, plain.converged)


@pytest.mark.parametrize("unit", [1e-300, 1e-12, 1e12, 1e300])
def test_the_distance_of_rewards_has_no_unit(unit: float) -> None:
    mdp, rng = make_mdp(0), np.random.default_rng(0)
    reward, other = draw_table(mdp, rng), draw_table(mdp, rng)
    expected = starc_distance(mdp, reward, other)
    assert starc_distance(mdp, unit * reward, other) == pytest.approx(expected, rel=1e-9)
    assert starc_distance(mdp, unit * reward, unit * other) == pytest.approx(expected, rel=1e-9)


# The bound -------------------------------------------------------------------------------------------------


@given(
    mdp=mdps(),
    rng=generators,
    alpha=temperatures,
    log_tol=st.floats(-9.0, 1.0),
    options=st.sampled_from(SOLVERS),
)
def test_the_bellman_error_bounds_the_policy(
    mdp: TabularMDP, rng: np.random.Generator, alpha: float, log_tol: float, options: dict[str, Any]
) -> None:
    reward = draw_table(mdp, rng)
    far = rng.normal(scale=alpha / (1 - mdp.gamma), size=mdp.n_states)
    solution = solve_soft(mdp, reward, alpha, tol=10.0**log_tol, initial_v=far, **options)
    exact = exact_policy(mdp, reward, alpha)
    change = 2 * mdp.gamma * solution.bellman_error / ((1 - mdp.gamma) * alpha)
    assert solution.policy_error <= np.tanh(change / 4) * (1 + 1e-6) + 1e-9  # room for rounding
    assert variation(mdp, solution.log_policy, exact) <= solution.policy_error + 1e-15
    going = ~mdp.terminal
    assert_allclose(solution.log_policy[going], np.log(exact[going]), rtol=0, atol=change + 1e-9)


@pytest.mark.parametrize("change", [1e-6, 0.1, 3.0])
def test_the_bound_is_attained(change: float) -> None:
    # Both actions of states 1 and 2 stay; state 0 chooses between them. Their values are wrong in opposite
    # directions, and the reward of state 0 makes the odds of its policy wrong about 1.
    gamma, alpha = 0.9, 0.5
    rows = np.eye(3)[[1, 2, 1, 1, 2, 2]]
    mdp = TabularMDP(rows, np.zeros((3, 2, 1)), np.ones(3) / 3, gamma)
    off = change * alpha / (2 * gamma)
    reward = np.array([[-gamma * off, gamma * off], [0.0, 0.0], [0.0, 0.0]]) / 2
    v = alpha * np.log(2.0) / (1 - gamma) + np.array([0.0, off, -off])
    q = reward[0] + gamma * v[1:]
    v[0] = alpha * np.logaddexp.reduce(q / alpha)
    tol = (1 - gamma) * off / alpha * (1 + 1e-6)
    solution = solve_soft(mdp, reward, alpha, tol=tol, initial_v=v)
    assert solution.iterations == 0
    truth = np.exp(reward / alpha)
    error = variation(mdp, solution.log_policy, truth / truth.sum(axis=1, keepdims=True))
    assert error == pytest.approx(np.tanh(change / 4), rel=1e-6)
    assert solution.policy_error == pytest.approx(error, rel=1e-5)


def fork(gamma: float, pay: tuple[float, float]) -> tuple[TabularMDP, Array]:
    """State 0 chooses between two states that pay for ever and leave no choice."""
    mdp = TabularMDP(np.eye(3)[[1, 2, 1, 1, 2, 2]], np.zeros((3, 2, 1)), np.ones(3) / 3, gamma)
    return mdp, np.array([[0.0, 0.0], [pay[0], -np.inf], [pay[1], -np.inf]])


@solvers
def test_what_rounding_cannot_tell_is_refused(options: dict[str, Any]) -> None:
    # The values are 1e15 temperatures: what they differ by, 0.6 temperatures, is below a rounding error.
    mdp, reward = fork(0.9, (1e14, 1e14 * (1 + 2**-52)))
    message = r"rounding may have moved the policy by 1 \(total variation\), because the values reach 1e\+15"
    with pytest.raises(ValueError, match=message):
        solve_soft(mdp, reward, 1.0, **options)


def test_a_wide_lead_is_told_however_large_the_values_are() -> None:
    mdp, reward = fork(0.9, (1e14, 1.1e14))
    solution = solve_soft(mdp, reward, 1.0)
    assert_array_equal(np.exp(solution.log_policy[0]), [0.0, 1.0])
    assert solution.policy_error == 0.0


def test_close_to_a_discount_of_one_a_solve_is_right_or_refused() -> None:
    gamma = 1.0 - 1e-8
    # What an absorbing state pays adds up to 1e8 times as much, and so does the rounding of that.
    with pytest.raises(ValueError, match="rounding may have moved the policy"):
        solve_soft(*fork(gamma, (1.0, 1.0)), 1.0)
    mdp, reward = fork(gamma, (0.0, 0.0))
    reward[0] = [0.5, 0.0]
    ended = TabularMDP(mdp.transition, mdp.features, mdp.initial, gamma, np.array([False, True, True]))
    solution = solve_soft(ended, reward, 1.0)
    assert_allclose(solution.log_policy[0], [0.5 - np.log1p(np.exp(0.5)), -np.log1p(np.exp(0.5))], rtol=1e-12)
    message = "gamma must be below 1 - 1e-09, because rows of transition sum to 1 only within 1e-09"
    with pytest.raises(ValueError, match=message):
        fork(1.0 - 1e-10, (0.0, 0.0))


# Refusals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 1e-310}, "temperature must be at least 2.23e-308, below which float64 loses digits"),
        ({"temperature": "1"}, "temperature must be positive and finite, got 1"),
        ({"temperature": 1 + 0j}, "temperature must be positive and finite, got (1+0j)"),
        ({"temperature": True}, "temperature must be positive and finite, got True"),
        ({"reward": 1e308 * np.ones((2, 2)), "temperature": 1e-5}, "reward is too large for the temperature"),
        ({"reward": -1e308 * np.eye(2), "temperature": 1e-5}, "reward is too large for the temperature"),
        ({"temperature": 1e308}, "reward is too large for the temperature: the values overflow float64"),
        ({"initial_v": [1e308, 0.0], "temperature": 1e-5}, "initial_v is too large for the temperature"),
        (
            {"reward": np.ones((2, 2), dtype=complex)},
            "reward must hold real numbers, got entries of type complex",
        ),
        ({"reward": [["1", "2"], ["3", "4"]]}, "reward must hold real numbers, got entries of type <U1"),
        (
            {"reward": [[None, 0.0], [0.0, 0.0]]},
            "reward must hold real numbers, got entries of type NoneType",
        ),
        ({"initial_v": [1j, 0.0]}, "initial_v must hold real numbers, got entries of type complex128"),
    ],
)
def test_what_cannot_be_solved_is_refused(changes: dict[str, Any], message: str) -> None:
    mdp = TabularMDP(np.full((4, 2), 0.5), np.zeros((2, 2, 1)), np.ones(2) / 2, 0.9)
    with pytest.raises(ValueError, match=re.escape(message)):
        solve_soft(mdp, **({"reward": np.zeros((2, 2)), "temperature": 1.0} | changes))


def test_a_prior_weight_that_overflows_is_refused() -> None:
    mdp, log_prior = make_mdp(0), np.log(np.tile([1e-9, 0.5, 0.5 - 1e-9], (6, 1)))
    message = "scaled_prior_weight is too large: omega' log pi overflows float64, got 1e+307"
    with pytest.raises(ValueError, match=re.escape(message)):
        solve_residual(mdp, np.zeros((6, 3)), log_prior, 1e307, 1e307)


@pytest.mark.parametrize("weights", [[1e308, 1e308], [-1e308, -1e308]])
def test_weights_whose_reward_overflows_are_refused(weights: list[float]) -> None:
    mdp = TabularMDP(np.ones((1, 1)), np.full((1, 1, 2), 2.0), [1.0], 0.5)
    with pytest.raises(ValueError, match="weights are too large: the reward overflows float64; rescale them"):
        mdp.reward(weights)
    with pytest.raises(ValueError, match="x is too large: its discounted sums overflow float64; rescale it"):
        discounted_sum(mdp, [[0.0]], [[1.5e308]])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1j, 0.0], "x must hold real numbers, got entries of type complex128"),
        (["1", "2"], "x must hold real numbers, got entries of type <U1"),
        ([b"1", b"2"], "x must hold real numbers, got entries of type |S1"),
        ([None, 1.0], "x must hold real numbers, got entries of type NoneType"),
        ([1.0, "2"], "x must hold real numbers, got entries of type <U32"),
        (np.array([1.0, "2"], dtype=object), "x must hold real numbers, got entries of type str"),
        ({"a": 1.0}, "x must hold real numbers, got entries of type dict"),
        (
            np.array(["2020-01-01"], dtype="M8[D]"),
            "x must hold real numbers, got entries of type datetime64[D]",
        ),
        (np.ma.masked_array([1.0, 2.0], [False, True]), "x must hold real numbers, got masked entries"),
        ([[1.0], [1.0, 2.0]], "x must be an array of numbers, got rows of different shapes"),
        ([10**400, 1], "x must hold numbers that fit float64, got a larger integer"),
        (sp.csr_array(np.eye(2)), "x must hold real numbers, got entries of type csr_array"),
    ],
)
def test_arrays_of_anything_but_real_numbers_are_refused(value: Any, message: str) -> None:
    for check in (check_array, check_log_probabilities):
        with pytest.raises(ValueError, match=re.escape(message)):
            check("x", value)


def test_what_is_beyond_float64_is_not_finite() -> None:
    with pytest.raises(ValueError, match="x must be finite, got 1 bad entries"):
        check_array("x", np.array([np.longdouble("1e4000"), 1.0]))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([True, False], [1.0, 0.0]),
        (np.array([2**70, 1], dtype=object), [2.0**70, 1.0]),
        ([Fraction(1, 4), 1], [0.25, 1.0]),
        (np.array([1, 2], dtype=np.uint8), [1.0, 2.0]),
        (np.array([0.5, 2], dtype=np.float16), [0.5, 2.0]),
    ],
)
def test_any_real_numbers_are_taken(value: Any, expected: list[float]) -> None:
    array = check_array("x", value)
    assert array.dtype == np.float64
    assert_array_equal(array, expected)


@pytest.mark.parametrize("gamma", ["0.9", 0.9 + 0j, None, [0.9]])
def test_a_discount_that_is_no_number_is_refused(gamma: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(f"gamma must lie in [0, 1), got {gamma!r}")):
        TabularMDP(np.ones((1, 1)), np.zeros((1, 1, 1)), [1.0], gamma)


def test_complex_transitions_are_refused() -> None:
    message = "transition must hold real numbers, got entries of type complex128"
    for transition in (np.ones((1, 1), dtype=complex), sp.csr_array(np.ones((1, 1), dtype=complex))):
        with pytest.raises(ValueError, match=message):
            TabularMDP(transition, np.zeros((1, 1, 1)), [1.0], 0.9)  # type: ignore[arg-type]


def test_occupancy_stays_a_measure_next_to_a_discount_of_one() -> None:
    mdp = make_mdp(0, gamma=1.0 - 1e-8)
    assert occupancy(mdp, np.full((6, 3), -np.log(3.0))).sum() == pytest.approx(1.0, abs=1e-6)
