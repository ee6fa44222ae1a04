"""Newton's method for the soft Bellman equation, compiled with numba.

`mereq_min.soft` imports this module only when its backend is "numba". It is faster than the numpy version
because it passes over the transitions once per policy and preconditions BiCGSTAB by symmetric Gauss-Seidel,
whose triangular solves cannot be written with array operations. Where the graph has no cycle,
as in a maze, the linear systems are solved exactly instead, and on a lattice `mereq_min.soft_lattice` takes
over.
"""

from weakref import WeakKeyDictionary

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mereq_min.forest import find_forest, solve_on_forest
from mereq_min.lattice import Lattice, find_lattice
from mereq_min.mdp import TabularMDP
from mereq_min.policy_chain import rough_precision
from mereq_min.soft_kernels import MIN_RAISED_SHARE, forcing_term, rounding_error, soft_value_and_policy
from mereq_min.soft_lattice import solve_on_lattice
from mereq_min.validation import Array

BLOCK = 256
"""States that are backed up together: enough for vector instructions, few enough for the L1 cache."""
LATTICE_STATES = 200_000
"""Least number of states for which a lattice is looked for: in smaller ones some problems take longer."""

_lattices: WeakKeyDictionary[TabularMDP, Lattice | None] = WeakKeyDictionary()
_patterns: WeakKeyDictionary[TabularMDP, tuple[NDArray, ...]] = WeakKeyDictionary()
_forests: WeakKeyDictionary[TabularMDP, tuple[NDArray, NDArray]] = WeakKeyDictionary()


def solve_newton(
    mdp: TabularMDP, reward: Array, temperature: float, tol: float, v: Array, max_iterations: int
) -> int:
    """Solve the soft Bellman equation, Ziebart (2010), starting from `v` and writing the solution into it.

    Rewards, values, temperature and `tol` share a unit; `solve_soft` chooses it so that 1 <= alpha < 2.

    Args:
        mdp: the MDP.
        reward: (S, A) reward.
        temperature: alpha > 0.
        tol: bound on the sup-norm Bellman error, in the unit of the reward.
        v: (S,) initial values, overwritten.
        max_iterations: largest number of policy updates.

    Returns:
        The number of policy updates. The caller must check the error.
    """
    P, S, A = mdp.transition, mdp.n_states, mdp.n_actions
    if S >= LATTICE_STATES and mdp not in _lattices:
        _lattices[mdp] = find_lattice(mdp)
    lattice = _lattices.get(mdp)
    if lattice is not None:
        return solve_on_lattice(lattice, reward, mdp.gamma, temperature, tol, v, max_iterations)
    # Unsigned, because numba checks the sign of every signed index.
    transition = (P.data, *(index.view(f"u{index.itemsize}") for index in (P.indices, P.indptr)))
    precision = rough_precision(mdp.gamma)
    pattern = _patterns.get(mdp)
    if pattern is None:
        rows, columns = _sparsity_pattern(transition, S, A)
        action, weight = np.empty(P.nnz, np.min_scalar_type(A - 1)), np.empty(P.nnz, precision)
        first = _pattern_terms(transition, mdp.terminal, mdp.gamma, A, rows, columns, action, weight)
        pattern = _patterns[mdp] = (rows, columns, first, action, weight)
        _forests[mdp] = find_forest(rows, columns, first, mdp.terminal)
    return _iterate(
        transition,
        pattern,
        _forests[mdp],
        reward,
        mdp.terminal,
        mdp.gamma,
        temperature,
        tol,
        max_iterations,
        v,
        np.empty(len(pattern[1]), precision),
        np.empty((9, S), precision),
    )


@njit(cache=True)
def _sparsity_pattern(transition: tuple, S: int, A: int) -> tuple[NDArray, NDArray]:
    """Return the sparsity pattern of P_pi, with the entries of a row in the order that the solves need.

    In row s come columns s - 1, s + 1 and s, then those further left, then those further right. Row s begins
    at rows[s, 0], its last part at rows[s, 1].
    """
    _, indices, indptr = transition
    rows = np.zeros((S + 1, 2), np.uint32)
    columns = np.empty(len(indices) + 3 * S, np.uint32)
    seen = np.full(S, -1, np.int64)
    count = 0
    for s in range(S):
        rows[s, 0] = count
        # At the edges column s stands for the missing neighbour, with an entry of 0.
        columns[count] = max(s - 1, 0)
        columns[count + 1] = min(s + 1, S - 1)
        columns[count + 2] = s
        seen[columns[count : count + 3]] = s
        count += 3
        for right in (False, True):
            if right:
                rows[s, 1] = count
            for j in range(indptr[s * A], indptr[s * A + A]):
                column = indices[j]
                if (column > s) == right and seen[column] != s:
                    seen[column] = s
                    columns[count] = column
                    count += 1
    rows[S, 0] = count
    return rows, columns[:count].copy()


@njit(cache=True)
def _pattern_terms(
    transition: tuple,
    terminal: NDArray,
    gamma: float,
    A: int,
    rows: NDArray,
    columns: NDArray,
    action: NDArray,
    weight: NDArray,
) -> NDArray:
    """Write entry k of gamma P_pi as the sum of weight[j] * pi[action[j]], first[k] <= j < first[k + 1]."""
    data, indices, indptr = transition
    S, one = len(rows) - 1, np.uint32(1)
    first = np.zeros(len(columns) + 1, np.uint32)
    place = np.empty(S, np.uint32)
    for s in range(S):
        for k in range(rows[s, 0], rows[s + 1, 0]):
            place[columns[k]] = k
        for j in range(indptr[s * A], indptr[s * A + A]):
            first[place[indices[j]] + one] += one
        for k in range(rows[s, 0], rows[s + 1, 0]):
            first[k + one] += first[k]
        for k in range(rows[s, 0], rows[s + 1, 0]):
            place[columns[k]] = first[k]
        for a in range(A):
            for j in range(indptr[s * A + a], indptr[s * A + a + 1]):
                term = place[indices[j]]
                action[term] = a
                weight[term] = 0.0 if terminal[s] else gamma * data[j]
                place[indices[j]] = term + one
    return first


@njit(cache=True, error_model="numpy")
def _iterate(
    transition: tuple,
    pattern: tuple,
    forest: tuple,
    reward: Array,
    terminal: NDArray,
    gamma: float,
    alpha: float,
    tol: float,
    max_iterations: int,
    v: Array,
    entries: NDArray,
    vectors: NDArray,
) -> int:
    S = len(v)
    residual = np.empty(S)
    x, b = vectors[0], vectors[1]
    error = 0.0
    for iteration in range(max_iterations):
        for backward in (False, True):
            if (
                _greedy_sweep(transition, reward, terminal, gamma, v, backward, 0.01 * error)
                < MIN_RAISED_SHARE * S
            ):
                break
        previous = error
        error = _bellman_backup(transition, pattern, reward, terminal, gamma, alpha, v, residual, entries)
        if error <= tol or error <= rounding_error(v) or not np.isfinite(v.sum()):
            return iteration
        for s in range(S):
            b[s] = residual[s] / error
        rtol = forcing_term(iteration, error / previous, tol / error)
        if len(forest[0]):
            solve_on_forest(forest[0], forest[1], entries, b, x)
        elif not _solve_bicgstab(pattern[0], pattern[1], entries, rtol, vectors):
            x[:] = b  # a sweep of value iteration, which always makes progress
        for s in range(S):
            v[s] += error * x[s]
    return max_iterations


@njit(cache=True, fastmath={"contract"})
def _greedy_sweep(
    transition: tuple,
    reward: Array,
    terminal: NDArray,
    gamma: float,
    v: Array,
    backward: bool,
    min_gain: float,
) -> int:
    """Sweep V(s) <- max(V(s), max_a Q(s, a)) in place; return how many values rose by more than `min_gain`.

    Each Newton update spreads a good policy by one state only. A Gauss-Seidel sweep spreads high values as
    far as the order of states allows, at a fraction of the cost. Near the solution the soft values exceed
    max_a Q, and the sweep changes nothing.
    """
    data, indices, indptr = transition
    S, A = reward.shape
    raised = 0
    for i in range(S):
        s = np.uint64(S - 1 - i if backward else i)
        if terminal[s]:
            continue
        best = v[s]
        for a in range(A):
            row = s * np.uint64(A) + np.uint64(a)
            expected = 0.0
            for j in range(indptr[row], indptr[row + np.uint64(1)]):
                expected += data[j] * v[indices[j]]
            q = reward[s, a] + gamma * expected
            best = q if q > best else best
        raised += best > v[s] + min_gain
        v[s] = best
    return raised


@njit(cache=True)
def _bellman_backup(
    transition: tuple,
    pattern: tuple,
    reward: Array,
    terminal: NDArray,
    gamma: float,
    alpha: float,
    v: Array,
    residual: Array,
    entries: NDArray,
) -> float:
    """Fill T V - V and gamma P_pi, with row s of both divided by 1 - gamma P_pi(s | s).

    Returns the sup-norm of T V - V.
    """
    S, A = reward.shape
    q = np.zeros((A, BLOCK))
    gain, scratch = np.empty(BLOCK), np.empty(BLOCK)
    policy = np.empty((A, BLOCK), entries.dtype)
    error = 0.0
    for start in range(0, S, BLOCK):
        stop = min(start + BLOCK, S)
        _bellman_q(transition, reward, gamma, v, start, stop, q)
        soft_value_and_policy(q, alpha, scratch, scratch.view(np.int64), gain, policy)
        for i in range(stop - start):
            gain[i] = 0.0 if terminal[start + i] else gain[i] - v[start + i]
            error = max(error, abs(gain[i]))
        _assemble_matrix(pattern, policy, start, stop, gain, residual, entries)
    return error


@njit(cache=True, fastmath={"contract"})
def _bellman_q(
    transition: tuple, reward: Array, gamma: float, v: Array, start: int, stop: int, q: Array
) -> None:
    """Write Q(s, a) = r(s, a) + gamma E[V(s')] of a block of states into q[a, s - start]."""
    data, indices, indptr = transition
    A = len(q)
    for s in range(start, stop):
        for a in range(A):
            row = np.uint64(s * A + a)
            expected = 0.0
            for j in range(indptr[row], indptr[row + np.uint64(1)]):
                expected += data[j] * v[indices[j]]
            q[a, s - start] = reward[s, a] + gamma * expected


@njit(cache=True, fastmath={"contract"}, error_model="numpy")
def _assemble_matrix(
    pattern: tuple, policy: NDArray, start: int, stop: int, gain: Array, residual: Array, entries: NDArray
) -> None:
    rows, _, first, action, weight = pattern
    for s in range(start, stop):
        i = np.uint64(s - start)
        diagonal = rows[s, 0] + np.uint32(2)
        stay = _matrix_entry(first, action, weight, policy, diagonal, i)
        scale = weight.dtype.type(1.0) / (weight.dtype.type(1.0) - stay)
        for k in range(rows[s, 0], rows[s + 1, 0]):
            entries[k] = scale * _matrix_entry(first, action, weight, policy, k, i)
        residual[s] = scale * gain[i]


@njit(cache=True, fastmath={"contract"})
def _matrix_entry(
    first: NDArray, action: NDArray, weight: NDArray, policy: NDArray, k: int, i: np.uint64
) -> float:
    """Return entry k of gamma P_pi, which lies in the row of state i of the block."""
    entry = weight.dtype.type(0.0)
    for j in range(first[k], first[k + np.uint32(1)]):
        entry += weight[j] * policy[action[j], i]
    return entry


@njit(cache=True, fastmath={"contract", "reassoc", "nsz"}, error_model="numpy")
def _solve_bicgstab(rows: NDArray, columns: NDArray, entries: NDArray, rtol: float, vectors: NDArray) -> bool:
    """Solve (I - L - U) vectors[0] = vectors[1] by preconditioned BiCGSTAB, van der Vorst (1992)."""
    x, b, shadow, r, p = vectors[0], vectors[1], vectors[2], vectors[3], vectors[4]
    image, smooth, t, z = vectors[5], vectors[6], vectors[7], vectors[8]
    t[:] = 0.0
    _solve_lower(rows, columns, entries, b, t, z, shadow)
    x[:] = 0.0
    r[:] = shadow
    p[:] = shadow
    rho = _dot(shadow, r)
    zero, target = x.dtype.type(0.0), rtol * rtol * rho
    error = rho
    for _ in range(1000):
        _multiply(rows, columns, entries, p, t, z, image)
        step = rho / _dot(shadow, image)
        error = zero
        for s in range(len(x)):
            x[s] += step * p[s]
            r[s] -= step * image[s]
            error += r[s] * r[s]
        if not target < error < 1e20 * target:
            break
        _multiply(rows, columns, entries, r, t, z, smooth)
        damping = _dot(smooth, r) / _dot(smooth, smooth)
        error = zero
        for s in range(len(x)):
            x[s] += damping * r[s]
            r[s] -= damping * smooth[s]
            error += r[s] * r[s]
        if not target < error < 1e20 * target:
            break
        previous = rho
        rho = _dot(shadow, r)
        beta = (rho / previous) * (step / damping)
        for s in range(len(x)):
            p[s] = r[s] + beta * (p[s] - damping * image[s])
    _solve_upper(rows, columns, entries, x, x)
    return error <= target


@njit(cache=True, fastmath={"contract", "reassoc", "nsz"})
def _dot(x: NDArray, y: NDArray) -> float:
    total = x.dtype.type(0.0)
    for i in range(len(x)):
        total += x[i] * y[i]
    return total


@njit(cache=True)
def _multiply(
    rows: NDArray, columns: NDArray, entries: NDArray, y: NDArray, t: NDArray, z: NDArray, out: NDArray
) -> None:
    """Write (I - L)^-1 (I - L - U) (I - U)^-1 y into `out` at the cost of one product, Eisenstat (1981)."""
    _solve_upper(rows, columns, entries, y, t)
    _solve_lower(rows, columns, entries, y, t, z, out)


@njit(cache=True, fastmath={"contract"})
def _solve_upper(rows: NDArray, columns: NDArray, entries: NDArray, y: NDArray, t: NDArray) -> None:
    """Write (I - U)^-1 y into `t`."""
    # The neighbour's value is kept in a register: the loop would have to wait for it to come from memory.
    last = y.dtype.type(0.0)
    for i in range(len(y)):
        s = np.uint64(len(y) - 1 - i)
        total = y[s]
        for k in range(rows[s, 1], rows[s + np.uint64(1), 0]):
            total += entries[k] * t[columns[k]]
        last = total + entries[rows[s, 0] + np.uint32(1)] * last
        t[s] = last


@njit(cache=True, fastmath={"contract"})
def _solve_lower(
    rows: NDArray, columns: NDArray, entries: NDArray, y: NDArray, t: NDArray, z: NDArray, out: NDArray
) -> None:
    """Write (I - L)^-1 (y - t) into `z`, and t + z into `out`."""
    last = y.dtype.type(0.0)
    for s in range(len(y)):
        total = y[s] - t[s]
        for k in range(rows[s, 0] + np.uint32(3), rows[s, 1]):
            total += entries[k] * z[columns[k]]
        last = total + entries[rows[s, 0]] * last
        z[s] = last
        out[s] = last + t[s]
