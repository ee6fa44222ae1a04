"""Chains without a cycle are recognised and solved exactly, and mazes by few steps with them."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from mereq_min import TabularMDP, solve_soft
from mereq_min.forest import find_forest, solve_on_forest
from mereq_min.mdp import Array
from mereq_min.soft import bellman_q, soft_value
from mereq_min.soft_numba import solve_newton

ALPHA = 0.1


def make_tree(rng: np.random.Generator, S: int, *, one_way: float) -> Array:
    """Random non-negative matrix with row sums below 1 whose graph is a forest; no diagonal."""
    matrix = np.zeros((S, S))
    for s in range(1, S):
        t = rng.integers(s)
        if rng.random() < 0.95:
            matrix[s, t], matrix[t, s] = rng.random(2) * (rng.random(2) >= one_way)
    shuffle = rng.permutation(S)
    matrix = matrix[shuffle][:, shuffle]
    return 0.999 * matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1.0)


def to_pattern(matrix: Array) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    sparse = sp.csr_array(matrix)
    rows = np.stack([sparse.indptr, sparse.indptr], axis=1).astype(np.uint32)
    first = np.arange(sparse.nnz + 1, dtype=np.uint32)
    return rows, sparse.indices.astype(np.uint32), first, sparse.data


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.sampled_from([0.0, 0.3]))
def test_elimination_solves_forests_exactly(seed: int, S: int, one_way: float) -> None:
    rng = np.random.default_rng(seed)
    matrix, b, x = make_tree(rng, S, one_way=one_way), rng.normal(size=S), np.empty(S)
    rows, columns, first, entries = to_pattern(matrix)
    order, links = find_forest(rows, columns, first, np.zeros(S, dtype=bool))
    assert sorted(order) == list(range(S))
    solve_on_forest(order, links, entries, b, x)
    assert_allclose(b - x + matrix @ x, 0.0, atol=1e-12 * max(1.0, np.abs(x).max()))


def test_a_cycle_is_no_forest() -> None:
    ring = 0.4 * (np.roll(np.eye(6), 1, axis=1) + np.roll(np.eye(6), -1, axis=1))
    rows, columns, first, _ = to_pattern(ring)
    assert len(find_forest(rows, columns, first, np.zeros(6, dtype=bool))[0]) == 0
    # A state whose value is known is left out, and what remains is a path.
    assert len(find_forest(rows, columns, first, np.arange(6) == 2)[0]) == 6


def make_maze(n: int, gamma: float, *, terminal: bool) -> TabularMDP:
    """A comb of n x n cells, joined at its back alone; four moves that slip, stopped by walls."""
    free = np.zeros((n + 2, n + 2), dtype=bool)
    free[1:-1, 1:-1] = True
    free[2:-1:2, 2:] = False
    number = np.cumsum(free).reshape(free.shape) - 1
    S = int(free.sum())
    steps = [(-1, 0), (0, 1), (1, 0), (0, -1)]
    rows, columns, data = [], [], []
    for s, (i, j) in enumerate(np.argwhere(free)):
        ends = terminal and s == S - 1
        near = [number[i + a, j + b] if free[i + a, j + b] and not ends else s for a, b in steps]
        for a in range(4):
            rows += 3 * [4 * s + a]
            columns += [near[a], near[a - 1], near[(a + 1) % 4]]
            data += [0.9, 0.05, 0.05]
    transition = sp.csr_array((data, (rows, columns)), shape=(4 * S, S))
    mask = (np.arange(S) == S - 1) & terminal
    return TabularMDP(transition, np.zeros((S, 4, 1)), np.full(S, 1 / S), gamma, mask)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.99, 0.999, 0.9999])
@pytest.mark.parametrize("terminal", [False, True])
def test_mazes_are_solved_by_few_exact_steps(gamma: float, terminal: bool) -> None:
    mdp = make_maze(21, gamma, terminal=terminal)
    reward, v = np.full((mdp.n_states, 4), -1.0), np.zeros(mdp.n_states)
    reward[-1] = 0.0
    reward[::7, 1] = -np.inf
    steps = solve_newton(mdp, reward, ALPHA, 1e-8, v, 100)
    assert steps < 40
    error = np.abs(soft_value(mdp, bellman_q(mdp, v, reward), ALPHA) - v).max()
    assert error <= 1e-8 + 64 * np.finfo(float).eps * np.abs(v).max()
    plain = solve_soft(mdp, reward, ALPHA, tol=1e-8)
    assert_allclose(v, plain.v, rtol=1e-9, atol=2e-8 / (1 - gamma))
