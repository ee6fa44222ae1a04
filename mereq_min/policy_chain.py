"""The Markov chain of a policy in an MDP, and linear solves with I - gamma P_pi.

With a fixed policy, policy evaluation, occupancy and successor features are each one such solve: by dense
factorisation for few states, else by BiCGSTAB. The true residual is always checked.
"""

from dataclasses import dataclass
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.linalg import get_blas_funcs

from mereq_min.mdp import TabularMDP
from mereq_min.validation import Array

DENSE_STATES = 400
"""Largest number of states for which accurate solves are dense: above, a Krylov method is faster."""

ROUGH_DENSE_STATES = 200
"""Largest number of states for which the rough solves of Newton's method are dense."""

ROUGH = 1e-3
"""A solve with at least this relative tolerance counts as rough."""

EPS = float(np.finfo(np.float64).eps)
"""Machine epsilon of float64."""

SWEEPS = 100
"""Fixed-point sweeps after an attempt of BiCGSTAB that made little progress."""


class NotConvergedError(RuntimeError):
    """A solver ran out of iterations; the message gives the error reached and the tolerance asked for."""


@dataclass(frozen=True)
class _ChainPattern:
    """Sparsity pattern of P_pi, and the linear map from pi to its entries; the same for all policies.

    Attributes:
        entries: (nnz, A*S) matrix that maps pi, action by action, to the entries of P_pi.
        indices: (nnz,) column of each entry.
        indptr: (S + 1,) first entry of each row.
    """

    entries: sp.csr_array
    indices: NDArray[np.integer]
    indptr: NDArray[np.integer]

    @cached_property
    def cells(self) -> NDArray[np.integer]:
        """(nnz,) index of each entry in the flattened (S * S,) matrix."""
        S = len(self.indptr) - 1
        return self.rows * S + self.indices

    @cached_property
    def rows(self) -> NDArray[np.integer]:
        """(nnz,) row of each entry."""
        return np.repeat(np.arange(len(self.indptr) - 1), np.diff(self.indptr))

    @classmethod
    def of(cls, mdp: TabularMDP) -> "_ChainPattern":
        S, A, transition = mdp.n_states, mdp.n_actions, mdp.transition
        index = transition.indices.dtype
        # Row s holds, sorted by successor, the positions of all entries of P(. | s, .).
        by_state = sp.csr_array(
            (np.arange(transition.nnz, dtype=index), transition.indices, transition.indptr[::A]),
            shape=(S, S),
            copy=True,
        )
        by_state.sort_indices()
        is_first = np.empty(transition.nnz, dtype=bool)
        is_first[1:] = by_state.indices[1:] != by_state.indices[:-1]
        is_first[by_state.indptr[:-1]] = True
        first = np.flatnonzero(is_first).astype(index)
        state_action = np.repeat(np.arange(S * A, dtype=index), np.diff(transition.indptr))[by_state.data]
        state, action = np.divmod(state_action, index.type(A))
        weights = transition.data[by_state.data]
        weights[mdp.terminal[state]] = 0.0
        action *= index.type(S)
        action += state
        indptr = np.append(first, index.type(transition.nnz))
        return cls(
            entries=sp.csr_array((weights, action, indptr), shape=(len(first), S * A)),
            indices=by_state.indices[first],
            indptr=np.searchsorted(first, by_state.indptr).astype(index),
        )


_patterns: WeakKeyDictionary[TabularMDP, _ChainPattern] = WeakKeyDictionary()


class PolicyChain:
    """The Markov chain of a policy in an MDP, and linear solves with I - gamma P_pi.

    The rows of P_pi are zero in terminal states.

    Args:
        mdp: the MDP.
        policy: (S, A) probabilities pi(a | s).
    """

    def __init__(self, mdp: TabularMDP, policy: Array) -> None:
        pattern = _patterns.get(mdp)
        if pattern is None:
            pattern = _patterns[mdp] = _ChainPattern.of(mdp)
        self._pattern = pattern
        self._entries = pattern.entries @ policy.T.ravel()
        self.gamma = mdp.gamma
        self.n_states = mdp.n_states

    @cached_property
    def matrix(self) -> sp.csr_array:
        """(S, S) state transition matrix P_pi."""
        return self._with_entries(self._entries)

    @cached_property
    def discounted(self) -> sp.csr_array:
        """(S, S) gamma P_pi."""
        return self._with_entries(self.gamma * self._entries)

    @cached_property
    def _transposed(self) -> sp.csc_array:
        """(S, S) transpose of P_pi, without a copy: its columns are the rows of P_pi."""
        S, pattern = self.n_states, self._pattern
        return sp.csc_array((self._entries, pattern.indices, pattern.indptr), shape=(S, S))

    def step(self, state_probs: Array) -> Array:
        """Return the state probabilities (S,) one step after those given."""
        return self._transposed @ state_probs

    def _with_entries(self, entries: Array) -> sp.csr_array:
        S, pattern = self.n_states, self._pattern
        return sp.csr_array((entries, pattern.indices, pattern.indptr), shape=(S, S))

    def solve(self, b: Array, *, transposed: bool = False, rtol: float = 1e-12) -> Array:
        """Solve (I - gamma P_pi) x = b, or with the transpose, for b of shape (S,) or (S, M).

        Args:
            b: right-hand side.
            transposed: solve with the transposed matrix.
            rtol: bound on |b - (I - gamma P_pi) x| / |b|, in the Euclidean norm of each column. If x is too
                large for float64 to reach it, the bound is the rounding error of the product instead.

        Returns:
            x, in the shape of `b`.

        Raises:
            NotConvergedError: if the residual stays above the bound.
        """
        if self.n_states <= (DENSE_STATES if rtol < ROUGH else ROUGH_DENSE_STATES):
            return self._solve_directly(b, transposed, rtol)
        if b.ndim == 2:
            return np.stack([self._solve_iteratively(column, transposed, rtol) for column in b.T], axis=1)
        return self._solve_iteratively(b, transposed, rtol)

    def _solve_directly(self, b: Array, transposed: bool, rtol: float) -> Array:
        S = self.n_states
        cells = np.zeros(S * S)
        cells[self._pattern.cells] = -self.gamma * self._entries
        cells[:: S + 1] += 1.0
        system = cells.reshape(S, S).T if transposed else cells.reshape(S, S)
        # Exact, and without it the squares below would underflow or overflow for the unit of b.
        exponent = np.frexp(np.abs(b).max(axis=0))[1]
        b = np.ldexp(b, -exponent)
        x = np.asarray(np.linalg.solve(system, b), dtype=np.float64)
        if not _is_accurate(b - system @ x, b, x, rtol):
            raise NotConvergedError("the linear solve for the policy's Markov chain is not accurate enough")
        return np.ldexp(x, exponent)

    def _solve_iteratively(self, b: Array, transposed: bool, rtol: float) -> Array:
        dtype = rough_precision(self.gamma) if rtol >= ROUGH else np.float64
        discounted = self._with_entries((self.gamma * self._entries).astype(dtype, copy=False))
        if transposed:
            discounted = discounted.T
        scale = float(np.abs(b).max()) or 1.0
        b = (b / scale).astype(dtype, copy=False)
        x, residual = np.zeros_like(b), b
        target = rtol * np.linalg.norm(b)
        # A sweep reduces the error by a factor gamma: this many cycles suffice even if BiCGSTAB never helps.
        for _ in range(10 + sweeps_needed(self.gamma, rtol) // SWEEPS):
            error = np.linalg.norm(residual)
            trial = x + _solve_bicgstab(discounted, residual, float(target))
            trial_residual = b - trial + discounted @ trial
            if np.linalg.norm(trial_residual) < error:
                x, residual = trial, trial_residual
            if _is_accurate(residual, b, x, rtol):
                return scale * x.astype(np.float64, copy=False)
            if not np.linalg.norm(residual) < 0.1 * error:
                for _ in range(SWEEPS):
                    x = x + residual
                    residual = discounted @ residual
        raise NotConvergedError(
            f"the linear solve for the policy's Markov chain reached a residual of "
            f"{np.linalg.norm(residual) / np.linalg.norm(b):.3g} of the right-hand side, not {rtol:.3g}"
        )


def _is_accurate(residual: NDArray, b: NDArray, x: NDArray, rtol: float) -> bool:
    error, bound = _column_norms(residual), rtol * _column_norms(b)
    if (error <= bound).all():
        return True
    return bool((error <= np.maximum(bound, 64.0 * np.finfo(x.dtype).eps * _column_norms(x))).all())


def _column_norms(x: NDArray) -> NDArray:
    return np.sqrt(np.einsum("s...,s...->...", x, x))


def rough_precision(gamma: float) -> type[np.floating]:
    """Return the precision of rough solves: float32, which is faster, unless gamma is too close to 1."""
    return np.float32 if gamma < 0.9999 else np.float64


def _solve_bicgstab(discounted: sp.csr_array, b: NDArray, target: float) -> NDArray:
    """BiCGSTAB on (I - discounted) x = b, van der Vorst (1992), from x = 0.

    It may break down, and it tracks its residual by a recursion: the caller must check the true residual.
    """
    axpy = get_blas_funcs("axpy", (b,))
    x, shadow = np.zeros_like(b), b
    residual, direction = b.copy(), b.copy()
    rho = shadow @ residual
    diverged = 1e20 * rho
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        for _ in range(1000):
            image = direction - discounted @ direction
            step = rho / (shadow @ image)
            if not np.isfinite(step):
                break
            axpy(direction, x, a=step)
            axpy(image, residual, a=-step)
            if not target**2 < residual @ residual < diverged:
                break
            smooth = residual - discounted @ residual
            damping = (smooth @ residual) / (smooth @ smooth)
            if not np.isfinite(damping):
                break
            axpy(residual, x, a=damping)
            axpy(smooth, residual, a=-damping)
            if not target**2 < residual @ residual < diverged:
                break
            rho, previous = shadow @ residual, rho
            axpy(image, direction, a=-damping)
            direction *= (rho / previous) * (step / damping)
            direction += residual
    return x


def sweeps_needed(gamma: float, tol: float) -> int:
    """Return how many sweeps a gamma-contraction needs at most to reach a tolerance, from any start."""
    # The error shrinks by gamma per sweep; 60 e-folds beyond the tolerance cover any scale of the reward.
    return 100 if gamma == 0 else 100 + int((60.0 - np.log(tol)) / -np.log(gamma))


def rounding_error(v: Array) -> float:
    """Return the sup-norm error that rounding alone can leave in a Bellman backup of values v (S,)."""
    return 16.0 * EPS * float(np.abs(v).max())
