"""Soft control: closed forms, agreement of all solvers, measured rates, limits, refusals; occupancy and sums.

The Bellman equation is written out a second time here, so that the library is not held against itself.
"""

import re
import sys
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from numpy.testing import assert_allclose
from strategies import draw_log_policy, draw_table, generators, mdps, temperatures

from mereq_min import policy_chain as chain_module
from mereq_min import soft
from mereq_min.mdp import Array, TabularMDP
from mereq_min.policy_chain import PolicyChain
from mereq_min.soft import (
    NotConvergedError,
    SoftSolution,
    bellman_q,
    check_log_policy,
    discounted_sum,
    log_softmax,
    occupancy,
    soft_value,
    solve_soft,
    successor_features,
)
from mereq_min.soft_numba import solve_newton

SOLVERS = [
    {"method": "newton"},
    {"method": "modified_policy_iteration"},
    {"method": "value_iteration"},
    {"backend": "numba"},
]
solvers = pytest.mark.parametrize("options", SOLVERS, ids=lambda options: next(iter(options.values())))
backends = pytest.mark.parametrize("backend", ["scipy", "numba"])


def make_mdp(transition: Any, gamma: float, *, terminal: Any = (), K: int = 1) -> TabularMDP:
    """An MDP without features to speak of; transition (S*A, S)."""
    rows, S = np.shape(transition)
    mask = np.isin(np.arange(S), terminal)
    initial = np.where(mask, 0.0, 1.0) / (~mask).sum()
    return TabularMDP(transition, np.zeros((S, rows // S, K)), initial, gamma, mask)


def make_garnet(
    seed: int, S: int, *, A: int = 3, branching: int = 3, gamma: float = 0.95, terminal: Any = ()
) -> TabularMDP:
    rng = np.random.default_rng(seed)
    mask = np.repeat(np.isin(np.arange(S), terminal), A)
    columns = rng.random((S * A, S)).argsort(axis=1)[:, :branching]
    data = rng.dirichlet(np.ones(branching), size=S * A)
    columns[mask] = (np.flatnonzero(mask) // A)[:, None]
    entries = (data.ravel(), (np.repeat(np.arange(S * A), branching), columns.ravel()))
    return make_mdp(sp.csr_array(entries, shape=(S * A, S)), gamma, terminal=terminal)


def make_reward(mdp: TabularMDP, seed: int = 0) -> Array:
    return draw_table(mdp, np.random.default_rng(seed))


def make_grid(n: int, *, gamma: float = 0.95) -> TabularMDP:
    """n x n states, four certain moves (up, down, left, right), no way over the rim."""
    state = np.arange(n * n).reshape(n, n)
    rim = np.pad(state, 1, mode="edge")
    targets = np.stack([rim[:-2, 1:-1], rim[2:, 1:-1], rim[1:-1, :-2], rim[1:-1, 2:]], axis=-1).ravel()
    ones = np.ones(len(targets))
    return make_mdp(sp.csr_array((ones, (np.arange(len(targets)), targets))), gamma)


def backup_by_hand(mdp: TabularMDP, v: Array, reward: Array, alpha: float) -> Array:
    rows = mdp.transition.toarray()
    backed_up = np.zeros(mdp.n_states)
    for s in np.flatnonzero(~mdp.terminal):
        q = [reward[s, a] + mdp.gamma * rows[s * mdp.n_actions + a] @ v for a in range(mdp.n_actions)]
        backed_up[s] = alpha * np.logaddexp.reduce(np.array(q) / alpha)
    return backed_up


def error_by_hand(mdp: TabularMDP, solution: SoftSolution, reward: Array, alpha: float) -> float:
    return float(np.abs(backup_by_hand(mdp, solution.v, reward, alpha) - solution.v).max())


def hard_values(mdp: TabularMDP, reward: Array) -> Array:
    """Plain value iteration for the greatest return, alpha = 0."""
    v, rows = np.zeros(mdp.n_states), mdp.transition.toarray()
    for _ in range(3000):
        q = reward + mdp.gamma * (rows @ v).reshape(reward.shape)
        v = np.where(mdp.terminal, 0.0, q.max(axis=1))
    return v


# Closed forms


@solvers
@pytest.mark.parametrize("alpha", [0.1, 1.0, 20.0])
def test_one_state_is_a_bandit_for_ever(options: dict[str, Any], alpha: float) -> None:
    mdp, reward = make_mdp(np.ones((3, 1)), 0.9), np.array([[1.0, -0.5, 0.25]])
    solution = solve_soft(mdp, reward, alpha, tol=1e-12, **options)
    v = alpha * np.log(np.exp(reward / alpha).sum()) / (1 - 0.9)
    assert_allclose(solution.v, [v], rtol=1e-10)
    assert_allclose(solution.q, reward + 0.9 * v, rtol=1e-10)
    assert_allclose(np.exp(solution.log_policy), np.exp(reward / alpha) / np.exp(reward / alpha).sum())


@solvers
def test_two_states_and_an_end(options: dict[str, Any]) -> None:
    # 0 goes on to 1 or stays; 1 goes to the end or back to 0; the end pays nothing whatever its reward says.
    rows = [[0, 1, 0], [1, 0, 0], [0, 0, 1], [1, 0, 0], [0, 0, 1], [0, 0, 1]]
    mdp = make_mdp(np.array(rows, dtype=float), 0.5, terminal=[2])
    reward = np.array([[0.0, -np.inf], [2.0, -np.inf], [7.0, 7.0]])
    solution = solve_soft(mdp, reward, 0.3, tol=1e-13, **options)
    assert_allclose(solution.v, [0.5 * 2.0, 2.0, 0.0], atol=1e-12)
    assert_allclose(solution.log_policy[:2], [[0.0, -np.inf]] * 2)

    reward = np.array([[0.0, 0.0], [2.0, -1.0], [7.0, 7.0]])
    solution = solve_soft(mdp, reward, 1.0, tol=1e-13, **options)
    v0, v1, _ = solution.v
    assert v0 == pytest.approx(np.log(np.exp(0.5 * v1) + np.exp(0.5 * v0)))
    assert v1 == pytest.approx(np.log(np.exp(2.0) + np.exp(-1.0 + 0.5 * v0)))


@solvers
def test_a_circle_of_states_passes_its_rewards_round(options: dict[str, Any]) -> None:
    S, gamma = 7, 0.8
    mdp = make_mdp(np.roll(np.eye(S), 1, axis=1), gamma)
    reward = np.random.default_rng(0).normal(size=(S, 1))
    v = [sum(gamma**t * reward[(s + t) % S, 0] for t in range(S)) / (1 - gamma**S) for s in range(S)]
    assert_allclose(solve_soft(mdp, reward, 0.7, tol=1e-12, **options).v, v, atol=1e-10)


# All solvers, any MDP


@given(mdp=mdps(), rng=generators, alpha=temperatures)
def test_all_solvers_agree(mdp: TabularMDP, rng: np.random.Generator, alpha: float) -> None:
    reward = draw_table(mdp, rng)
    solutions = [solve_soft(mdp, reward, alpha, tol=1e-10, **options) for options in SOLVERS]  # type: ignore[arg-type]
    for solution in solutions:
        assert error_by_hand(mdp, solution, reward, alpha) <= 1e-10 * alpha + 1e-12
        assert_allclose(solution.v, solutions[0].v, rtol=0, atol=2e-10 * alpha / (1 - mdp.gamma) + 1e-12)
        assert_allclose(np.exp(solution.log_policy).sum(axis=1), 1.0)
        advantage = solution.q - soft_value(mdp, solution.q, alpha)[:, None]
        states = ~mdp.terminal
        assert_allclose(alpha * solution.log_policy[states], advantage[states], atol=1e-9)
        assert (solution.v[mdp.terminal] == 0.0).all()


@pytest.mark.parametrize("terminal", [(), (3, 77)], ids=["endless", "episodic"])
@pytest.mark.parametrize("branching", [1, 4])
@pytest.mark.parametrize("S", [150, 300, 700])  # dense, dense but for rough solves, Krylov
def test_all_solvers_agree_on_larger_problems(S: int, branching: int, terminal: tuple[int, ...]) -> None:
    mdp = make_garnet(1, S, branching=branching, terminal=terminal)
    reward = make_reward(mdp)
    reference = solve_soft(mdp, reward, 0.2, method="value_iteration", tol=5e-9)
    for options in SOLVERS:
        solution = solve_soft(mdp, reward, 0.2, tol=5e-9, **options)  # type: ignore[arg-type]
        assert error_by_hand(mdp, solution, reward, 0.2) <= 1.001e-9
        assert solution.bellman_error == pytest.approx(
            error_by_hand(mdp, solution, reward, 0.2), rel=1e-3, abs=1e-12
        )
        assert_allclose(solution.v, reference.v, rtol=0, atol=1e-7)


@given(mdp=mdps(), rng=generators, alpha=temperatures)
def test_the_operator_contracts_by_gamma(mdp: TabularMDP, rng: np.random.Generator, alpha: float) -> None:
    reward, v, w = draw_table(mdp, rng), rng.normal(size=mdp.n_states), rng.normal(size=mdp.n_states)
    apart = np.abs(
        soft_value(mdp, bellman_q(mdp, v, reward), alpha) - soft_value(mdp, bellman_q(mdp, w, reward), alpha)
    )
    assert apart.max() <= mdp.gamma * np.abs(v - w).max() + 1e-12


@given(mdp=mdps(), rng=generators, alpha=temperatures)
def test_the_operator_is_the_equation_written_out(
    mdp: TabularMDP, rng: np.random.Generator, alpha: float
) -> None:
    reward, v = draw_table(mdp, rng), rng.normal(size=mdp.n_states)
    backed_up = soft_value(mdp, bellman_q(mdp, v, reward), alpha)
    assert_allclose(backed_up, backup_by_hand(mdp, v, reward, alpha), atol=1e-12)


# Rates


def errors_by_iteration(mdp: TabularMDP, reward: Array, iterations: range, **options: Any) -> Array:
    """Sup-norm distance to the solution after so many iterations, each run started afresh from V = 0."""
    exact = solve_soft(mdp, reward, 1.0, tol=1e-13).v
    errors = []
    for n in iterations:
        with pytest.MonkeyPatch.context() as patch:
            seen = record_values(patch)
            with pytest.raises(NotConvergedError):
                solve_soft(mdp, reward, 1.0, tol=1e-300, max_iterations=n, **options)
        errors.append(np.abs(seen[-1] - exact).max())
    return np.array(errors)


def record_values(patch: pytest.MonkeyPatch) -> list[Array]:
    """Record the V of every backup; tolerances of rounding are switched off, so that iteration goes on."""
    seen: list[Array] = []

    def backup(mdp: TabularMDP, v: Array, reward: Array) -> Array:
        seen.append(v.copy())
        return bellman_q(mdp, v, reward)

    patch.setattr(soft, "bellman_q", backup)
    patch.setattr(soft, "rounding_error", lambda v: 0.0)
    return seen


def test_newton_converges_quadratically() -> None:
    mdp = make_garnet(2, 60, gamma=0.9)
    errors = errors_by_iteration(mdp, 3.0 * make_reward(mdp), range(1, 6), method="newton")
    errors = errors[errors > 1e-11]  # above rounding
    assert len(errors) >= 4
    order = np.log(errors[2:] / errors[1:-1]) / np.log(errors[1:-1] / errors[:-2])
    assert order[-1] == pytest.approx(2.0, abs=0.35)
    # Taylor's remainder of the operator is at most (gamma error)^2 / (2 alpha).
    assert (errors[1:] <= 0.9**2 / (2 * 1.0 * (1 - 0.9)) * errors[:-1] ** 2).all()


def test_value_iteration_converges_by_gamma_a_sweep() -> None:
    mdp = make_garnet(2, 60, gamma=0.9)
    errors = errors_by_iteration(mdp, make_reward(mdp), range(40, 43), method="value_iteration")
    assert_allclose(errors[1:] / errors[:-1], 0.9, rtol=1e-3)


@solvers
def test_a_warm_start_saves_iterations(options: dict[str, Any]) -> None:
    mdp = make_garnet(3, 80, gamma=0.97)
    reward = make_reward(mdp)
    cold = solve_soft(mdp, reward, 0.1, **options)
    near = reward + 0.01 * make_reward(mdp, seed=1)
    warm = solve_soft(mdp, near, 0.1, initial_v=cold.v, **options)
    assert warm.iterations < solve_soft(mdp, near, 0.1, **options).iterations
    assert solve_soft(mdp, reward, 0.1, initial_v=cold.v, **options).iterations == 0


def test_newton_needs_few_policies() -> None:
    mdp = make_garnet(4, 900, gamma=0.99)
    assert solve_soft(mdp, make_reward(mdp), 0.1).iterations <= 15


def test_sweeps_between_updates_spare_most_of_them() -> None:
    # On a grid the front between a good region and a bad one moves by one state an update.
    mdp = make_grid(60, gamma=0.99)
    reward = np.random.default_rng(0).normal(size=(3600, 4))
    plain, swept = (solve_soft(mdp, reward, 0.1, backend=backend) for backend in ("scipy", "numba"))
    assert_allclose(swept.v, plain.v, atol=2e-8 / (1 - 0.99))
    assert swept.iterations < 0.6 * plain.iterations


@pytest.mark.parametrize("A", [1, 2, 5, 40])
def test_the_compiled_method_needs_no_polishing(A: int) -> None:
    # `solve_soft` would hide a slightly wrong operator: hold the compiled one to the equation.
    mdp = make_garnet(12, 400, A=A, terminal=[3])
    reward, v = make_reward(mdp), np.zeros(400)
    solve_newton(mdp, reward, 0.7, 1e-11, v, 100)
    assert_allclose(v, backup_by_hand(mdp, v, reward, 0.7), rtol=0, atol=1.1e-11)


# Limits and stability


@backends
@pytest.mark.parametrize("S", [30, 300])
def test_small_temperatures_find_the_greatest_return(S: int, backend: str) -> None:
    mdp = make_garnet(5, S, gamma=0.9, terminal=[4])
    reward = make_reward(mdp)
    solution = solve_soft(mdp, reward, 1e-6, backend=backend)  # type: ignore[arg-type]
    assert_allclose(solution.v, hard_values(mdp, reward), atol=1e-6 * np.log(3) / (1 - 0.9) + 1e-7)


@backends
@pytest.mark.parametrize("S", [30, 300])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.9999])
@pytest.mark.parametrize(("scale", "alpha"), [(1e8, 1.0), (1e8, 1e-6), (1e-8, 1e-9), (1.0, 1e4)])
def test_any_scale_is_solved(S: int, gamma: float, scale: float, alpha: float, backend: str) -> None:
    mdp = make_garnet(6, S, gamma=gamma, terminal=[1])
    reward = scale * make_reward(mdp)
    solution = solve_soft(mdp, reward, alpha, backend=backend)  # type: ignore[arg-type]
    resolution = 64 * np.finfo(float).eps * np.abs(solution.v).max()
    assert error_by_hand(mdp, solution, reward, alpha) <= 1e-8 * alpha + resolution
    assert_allclose(np.exp(solution.log_policy).sum(axis=1), 1.0)


@backends
@pytest.mark.parametrize("S", [5, 400])
def test_cycles_of_certain_moves_are_solved(S: int, backend: str) -> None:
    # P_pi is close to a permutation: its eigenvalues lie on the circle of radius gamma, the worst for Krylov.
    state = np.arange(S)
    targets = np.stack([(state + 1) % S, (state + 7) % S], axis=1).ravel()
    mdp = make_mdp(sp.csr_array((np.ones(2 * S), (np.arange(2 * S), targets))), 0.999)
    reward = make_reward(mdp)
    solution = solve_soft(mdp, reward, 1e-3, backend=backend)  # type: ignore[arg-type]
    assert error_by_hand(mdp, solution, reward, 1e-3) <= 1e-8
    assert occupancy(mdp, solution.log_policy).sum() == pytest.approx(1.0, abs=1e-9)


@solvers
@pytest.mark.parametrize("S", [8, 450])
def test_forbidden_actions_are_never_taken(options: dict[str, Any], S: int) -> None:
    mdp = make_garnet(7, S, gamma=0.9)
    reward = make_reward(mdp)
    reward[:, 1] = -np.inf
    without = make_mdp(mdp.transition[np.arange(3 * S) % 3 != 1], 0.9)
    solution = solve_soft(mdp, reward, 0.3, **options)
    expected = solve_soft(without, reward[:, [0, 2]], 0.3)
    assert_allclose(solution.v, expected.v, atol=1e-6)
    assert_allclose(np.exp(solution.log_policy[:, [0, 2]]), np.exp(expected.log_policy), atol=1e-6)
    assert (solution.log_policy[:, 1] == -np.inf).all()
    assert (solution.q[:, 1] == -np.inf).all()


@solvers
def test_a_mirrored_grid_has_mirrored_values(options: dict[str, Any]) -> None:
    n = 21  # 441 states: the sparse solvers
    reward = np.random.default_rng(8).normal(size=(n, n, 4))
    reward = reward + reward[::-1][:, :, [1, 0, 2, 3]]  # up becomes down
    solution = solve_soft(make_grid(n), reward.reshape(-1, 4), 0.5, tol=1e-10, **options)
    v, policy = solution.v.reshape(n, n), np.exp(solution.log_policy).reshape(n, n, 4)
    assert_allclose(v, v[::-1], atol=1e-8)
    assert_allclose(policy, policy[::-1][:, :, [1, 0, 2, 3]], atol=1e-7)
    assert np.ptp(v[:, 0] - v[:, -1]) > 0.1  # and no other symmetry


def test_values_beyond_float64_are_refused() -> None:
    mdp = make_mdp(np.ones((1, 1)), 0.9)
    with pytest.raises(ValueError, match="reward is too large"):
        solve_soft(mdp, [[1.5e308]], 1.0)


@given(rng=generators)
def test_log_softmax_normalises_and_keeps_minus_infinity(rng: np.random.Generator) -> None:
    logits = 1e4 * rng.normal(size=(5, 4))
    logits[:, 2] = -np.inf
    normalised = log_softmax(logits)
    assert_allclose(np.exp(normalised).sum(axis=1), 1.0)
    assert (normalised[:, 2] == -np.inf).all()
    assert_allclose(np.diff(normalised[:, :2]), np.diff(logits[:, :2]), atol=1e-9)


# Linear solves


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("rtol", [1e-12, 0.1])
@pytest.mark.parametrize("branching", [1, 3])
@pytest.mark.parametrize("S", [40, 300, 500])
def test_the_chain_is_solved_to_the_residual_asked_for(
    S: int, branching: int, rtol: float, transposed: bool
) -> None:
    mdp = make_garnet(9, S, branching=branching, gamma=0.99, terminal=[0])
    rng = np.random.default_rng(0)
    policy = np.exp(draw_log_policy(mdp, rng, zeros=True))
    matrix = np.einsum("sa,sat->st", policy, mdp.transition.toarray().reshape(S, 3, S))
    matrix[mdp.terminal] = 0.0
    chain = PolicyChain(mdp, policy)
    assert_allclose(chain.matrix.toarray(), matrix, atol=1e-15)
    system = np.eye(S) - 0.99 * (matrix.T if transposed else matrix)
    b = rng.normal(size=(S, 2)) * [1.0, 1e-200]
    x = chain.solve(b, transposed=transposed, rtol=rtol)
    assert (
        np.linalg.norm(b / [1.0, 1e-200] - system @ (x / [1.0, 1e-200]), axis=0) <= 2 * rtol * S**0.5
    ).all()
    assert_allclose(chain.solve(b[:, 0], transposed=transposed, rtol=rtol), x[:, 0], rtol=1e-9)
    assert (chain.solve(np.zeros(S), transposed=transposed, rtol=rtol) == 0.0).all()


def test_the_occupancy_of_a_uniform_start_is_solved() -> None:
    # BiCGSTAB breaks down here at once, while the mass of what it returns is right.
    mdp = make_grid(25, gamma=0.99)
    log_policy = np.full((625, 4), np.log(0.25))
    assert_allclose(occupancy(mdp, log_policy), 0.25 / 625, rtol=1e-10)


@pytest.mark.parametrize("S", [40, 500])
def test_a_solve_that_lost_its_accuracy_raises(S: int, monkeypatch: pytest.MonkeyPatch) -> None:
    mdp = make_garnet(10, S)
    chain = PolicyChain(mdp, np.full((S, 3), 1 / 3))
    monkeypatch.setattr(np.linalg, "solve", lambda system, b: b)
    monkeypatch.setattr(chain_module, "_solve_bicgstab", lambda system, b, target: b)
    monkeypatch.setattr(chain_module, "SWEEPS", 1)
    monkeypatch.setattr(chain_module, "sweeps_needed", lambda gamma, rtol: 0)
    with pytest.raises(NotConvergedError, match="the linear solve for the policy's Markov chain"):
        chain.solve(np.ones(S) + np.arange(S))


@pytest.mark.parametrize("transposed", [False, True])
def test_sweeps_take_over_where_krylov_never_helps(transposed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    mdp = make_garnet(10, 500)
    chain = PolicyChain(mdp, np.full((500, 3), 1 / 3))
    b = make_reward(mdp)[:, 0]
    expected = chain.solve(b, transposed=transposed)
    monkeypatch.setattr(chain_module, "_solve_bicgstab", lambda system, b, target: np.full_like(b, np.nan))
    assert_allclose(chain.solve(b, transposed=transposed), expected, atol=1e-9)


# Occupancy, discounted sums, successor features


@given(mdp=mdps(), rng=generators)
def test_occupancy_is_the_power_series(mdp: TabularMDP, rng: np.random.Generator) -> None:
    log_policy = draw_log_policy(mdp, rng, zeros=True)
    policy, rows = np.exp(log_policy), mdp.transition.toarray()
    now, total = mdp.initial, np.zeros_like(policy)
    for t in range(2500):
        step = np.where(mdp.terminal, 0.0, now)[:, None] * policy
        total += (1 - mdp.gamma) * mdp.gamma**t * step
        now = step.ravel() @ rows
    measured = occupancy(mdp, log_policy)
    assert_allclose(measured, total, atol=1e-9)
    if not mdp.terminal.any():
        assert measured.sum() == pytest.approx(1.0)


@given(mdp=mdps(), rng=generators)
def test_sums_are_the_power_series(mdp: TabularMDP, rng: np.random.Generator) -> None:
    log_policy = draw_log_policy(mdp, rng, zeros=True)
    x = rng.normal(size=(mdp.n_states, mdp.n_actions, 2))
    policy, rows = np.where(mdp.terminal[:, None], 0.0, np.exp(log_policy)), mdp.transition.toarray()
    onward = np.einsum("rt,tb->rtb", rows, policy).reshape(policy.size, policy.size)
    term = x.reshape(-1, 2)
    total = term.copy()
    for _ in range(2500):
        term = mdp.gamma * onward @ term
        total += term
    assert_allclose(discounted_sum(mdp, log_policy, x), total.reshape(x.shape), atol=1e-8)
    assert_allclose(discounted_sum(mdp, log_policy, x[:, :, 1]), total.reshape(x.shape)[:, :, 1], atol=1e-8)


@given(mdp=mdps(), rng=generators, alpha=temperatures)
def test_soft_values_are_sums_of_reward_and_entropy(
    mdp: TabularMDP, rng: np.random.Generator, alpha: float
) -> None:
    reward = draw_table(mdp, rng)
    solution = solve_soft(mdp, reward, alpha, tol=1e-11)
    to_come = discounted_sum(mdp, solution.log_policy, reward - alpha * solution.log_policy)
    assert_allclose(to_come + alpha * solution.log_policy, solution.q, atol=1e-7)


@given(mdp=mdps(), rng=generators)
def test_successor_features_price_any_reward(mdp: TabularMDP, rng: np.random.Generator) -> None:
    log_policy, theta = draw_log_policy(mdp, rng), rng.normal(size=mdp.n_features)
    psi = successor_features(mdp, log_policy)
    assert psi.shape == mdp.features.shape
    assert_allclose(psi @ theta, discounted_sum(mdp, log_policy, mdp.reward(theta)), atol=1e-9)


@given(mdp=mdps(), rng=generators)
def test_occupancy_and_sums_are_two_sides_of_one_return(mdp: TabularMDP, rng: np.random.Generator) -> None:
    log_policy, x = draw_log_policy(mdp, rng), draw_table(mdp, rng)
    start = np.where(mdp.terminal, 0.0, mdp.initial)[:, None] * np.exp(log_policy)
    expected = (1 - mdp.gamma) * (start * discounted_sum(mdp, log_policy, x)).sum()
    assert (occupancy(mdp, log_policy) * x).sum() == pytest.approx(expected, abs=1e-9)


# Refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward": [[0.0]]}, "reward must have shape (S, A) = (2, 2), got (1, 1)"),
        ({"reward": [[0.0, np.nan], [0.0, 0.0]]}, "reward must be finite, or -inf for a forbidden action"),
        ({"reward": [[0.0, np.inf], [0.0, 0.0]]}, "reward must be finite, or -inf for a forbidden action"),
        ({"reward": [[0.0, 0.0], [-np.inf] * 2]}, "reward forbids every action in some state"),
        ({"temperature": 0.0}, "temperature must be positive and finite, got 0.0"),
        ({"temperature": -1.0}, "temperature must be positive and finite, got -1.0"),
        ({"temperature": np.inf}, "temperature must be positive and finite, got inf"),
        ({"temperature": np.nan}, "temperature must be positive and finite, got nan"),
        ({"tol": 0.0}, "tol must be positive, got 0.0"),
        ({"tol": np.nan}, "tol must be positive, got nan"),
        (
            {"method": "howard"},
            "method must be one of ['modified_policy_iteration', 'newton', 'value_iteration'], got 'howard'",
        ),
        ({"backend": "jax"}, "backend must be 'scipy' or 'numba', got 'jax'"),
        (
            {"backend": "numba", "method": "value_iteration"},
            "backend 'numba' supports only method 'newton', got 'value_iteration'",
        ),
        ({"max_iterations": -1}, "max_iterations must not be negative, got -1"),
        ({"initial_v": [0.0]}, "initial_v must have shape (2,), got (1,)"),
        ({"initial_v": [0.0, np.inf]}, "initial_v must be finite, got 1 bad entries"),
    ],
)
def test_malformed_input_is_named(changes: dict[str, Any], message: str) -> None:
    mdp = make_mdp(np.full((4, 2), 0.5), 0.9)
    with pytest.raises(ValueError, match=re.escape(message)):
        solve_soft(mdp, **({"reward": np.zeros((2, 2)), "temperature": 1.0} | changes))


@pytest.mark.parametrize(
    ("log_policy", "message"),
    [
        ([[0.0]], "log_policy must have shape (2, 2), got (1, 1)"),
        (np.full((2, 2), np.nan), "log_policy must not hold NaN"),
        (
            np.log([[0.5, 0.5], [0.5, 0.6]]),
            "log_policy must hold log-probabilities, but exp sums to 1.1 in state 1",
        ),
    ],
)
@pytest.mark.parametrize("function", [check_log_policy, occupancy, successor_features])
def test_malformed_policies_are_named(function: Any, log_policy: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        function(make_mdp(np.full((4, 2), 0.5), 0.9), log_policy)


@pytest.mark.parametrize("shape", [(2,), (2, 3), (3, 2, 1), (2, 2, 1, 1)])
def test_quantities_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    mdp = make_mdp(np.full((4, 2), 0.5), 0.9)
    message = f"x must have shape (S, A) = (2, 2) or (S, A, M), got {shape}"
    with pytest.raises(ValueError, match=re.escape(message)):
        discounted_sum(mdp, np.log(np.full((2, 2), 0.5)), np.zeros(shape))


@solvers
def test_not_converged_says_how_far_it_got(options: dict[str, Any]) -> None:
    mdp = make_garnet(11, 30, gamma=0.99)
    with pytest.raises(NotConvergedError, match=r"Bellman error of [\d.e+-]+ after 2 iterations, not 1e-08"):
        solve_soft(mdp, 10.0 * make_reward(mdp), 0.01, max_iterations=2, **options)


def test_without_numba_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "mereq_min.soft_numba", raising=False)
    with pytest.raises(
        ImportError, match=re.escape("backend 'numba' needs numba: pip install 'mereq-min[fast]'")
    ):
        solve_soft(make_mdp(np.ones((1, 1)), 0.9), [[1.0]], 1.0, backend="numba")
