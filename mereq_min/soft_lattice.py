"""Newton's method for the soft Bellman equation on a lattice, compiled with numba.

The method is that of `mereq_min.soft_numba`; only the order of the states in memory differs. Gauss-Seidel
sweeps, and the triangular solves of the preconditioner, visit the cells row by row, and each needs the
results of the cell before it and of the one above. So the cells of a diagonal can be computed together:

    rows       places in memory            A block of `lanes` rows is stored diagonal by diagonal. Place
    a b c      a . . | b d . | c e g       k has its left neighbour at k - lanes, its upper one at
    d e f      . f h | . . i               k - lanes - 1, and all cells of a diagonal are contiguous: one
    g h i                                  vector instruction updates eight. Only the first and the last
                                           lane have a neighbour in another block, `far` places away.

The corners of a block are left empty, and places without a state keep the value 0.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mereq_min.lattice import TERMINAL, Lattice
from mereq_min.policy_chain import rough_precision
from mereq_min.soft_kernels import MIN_RAISED_SHARE, forcing_term, rounding_error, soft_value_and_policy
from mereq_min.validation import Array

STEPS = 4
"""Diagonals that are backed up together."""
ROUGH = 0.1
"""Bellman error [temperature] to which the first passes over parts solve each."""
RARE_SHARE = 0.5
"""Rewards are rare if a first sweep raises fewer of the values."""
FEW_PRODUCTS, MANY_PRODUCTS = 30, 1000
"""Steps of BiCGSTAB after which a linear solve counts as slow, and after which it is given up."""
EXHAUSTED, STOPPED, SLOW = 0, 1, 2
"""How `_Solver.update` ends: out of iterations; error small enough or not finite; linear solve too slow."""
DIAGONAL = 30
"""Cells that take as long as what each diagonal costs besides its cells."""

U = np.uint64  # unsigned, because numba checks the sign of every signed index
UP, RIGHT, DOWN, LEFT = (np.uint8(1 << bit) for bit in range(4))
FROZEN = np.uint8(TERMINAL)
"""Bits of `Lattice.walls`."""


def solve_on_lattice(
    lattice: Lattice,
    reward: Array,
    gamma: float,
    temperature: float,
    tol: float,
    v: Array,
    max_iterations: int,
) -> int:
    """Solve the soft Bellman equation, Ziebart (2010), starting from `v` and writing the solution into it.

    Args:
        lattice: that of the MDP.
        reward: (S, A) reward.
        gamma: discount factor of the MDP.
        temperature: alpha > 0.
        tol: bound on the sup-norm Bellman error, in the unit of the reward.
        v: (S,) initial values, overwritten.
        max_iterations: largest number of policy updates.

    Returns:
        The number of policy updates, those of blocks counted together. The caller must check the error.
    """
    lanes, steps, blocks = _choose_shape(*lattice.shape)
    # A diagonal of nothing lies before the first and after the last, and a place more for their corners.
    size = lanes * (2 + steps * blocks) + 2
    block, lane = np.divmod(lattice.cells[:, 0], lanes)
    places = 1 + lanes * (1 + block * steps + lattice.cells[:, 1] + lane) + lane
    values, walls = np.zeros(size), np.full(size, 31, np.uint8)
    values[places], walls[places] = v, lattice.walls
    # Side by side what a diagonal needs: the backward sweep would wait for memory otherwise.
    rewards = np.zeros((size // lanes, reward.shape[1], lanes))
    _fill(rewards, places, reward)
    solver = _Solver(
        (rewards, walls, values), gamma * lattice.moves, (lanes, steps, blocks), temperature, gamma
    )
    done = solver.run(tol, max_iterations)
    v[:] = values[places]
    return done


def _choose_shape(rows: int, columns: int) -> tuple[int, int, int]:
    """Return the lanes and diagonals of a block, and the number of blocks, that take the least time."""
    shapes = [
        (lanes, -(-(columns + lanes - 1) // STEPS) * STEPS, -(-rows // lanes)) for lanes in (9, 17, 33, 65)
    ]
    return min(shapes, key=lambda shape: (shape[0] + DIAGONAL) * shape[1] * shape[2])


@njit(cache=True)
def _fill(rewards: Array, places: NDArray, reward: Array) -> None:
    """Write the rewards (S, A) of states into those of diagonals (D, A, lanes)."""
    for s in range(len(places)):
        diagonal, lane = divmod(places[s] - 1, rewards.shape[2])
        for a in range(reward.shape[1]):
            rewards[diagonal, a, lane] = reward[s, a]


class _Solver:
    """Newton's method on places, everywhere or block by block.

    Args:
        world: rewards (D, A, lanes), walls and values of all places.
        moves: (A, 5) discounted chances of `Lattice.moves`.
        shape: lanes and diagonals of a block, and blocks.
        alpha: temperature.
        gamma: discount factor.
    """

    def __init__(
        self, world: tuple, moves: Array, shape: tuple[int, int, int], alpha: float, gamma: float
    ) -> None:
        self.world, self.moves, self.shape, self.alpha = world, moves, shape, alpha
        self.values = world[2]
        self.entries = np.zeros((4, len(self.values)), rough_precision(gamma))
        self.vectors = np.zeros((9, len(self.values)), rough_precision(gamma))

    def run(self, tol: float, max_iterations: int) -> int:
        """Update the policy everywhere, or block by block where that pays; return the number of updates.

        Blocks fit into the cache, and values may travel through all of them in one pass. Two passes over
        parts that overlap by a block remove most of the error that comes from the seams. This pays where
        rewards are rare, so that first guesses are poor, and where products with the whole matrix gain too
        little.
        """
        lanes, steps, blocks = self.shape
        whole = self.part(0, blocks)
        raised = _greedy_sweep(self.world, self.moves, whole, False, 0.0)
        in_parts = blocks > 1 and raised < RARE_SHARE * lanes * steps * blocks
        is_slow, most = False, FEW_PRODUCTS if blocks > 1 else MANY_PRODUCTS
        done, width, error, goal = 0, 1, np.inf, ROUGH * self.alpha
        while done < max_iterations:
            previous = error
            if in_parts:
                done += self.pass_over_parts(width, goal) // blocks + 1
                width = 2
            budget = 0 if in_parts and is_slow else max_iterations - done
            updates, error, state = self.update(whole, tol, budget, most)
            done += updates
            if state == STOPPED:
                break
            if in_parts and is_slow and error > 0.1 * previous:
                most = MANY_PRODUCTS
            is_slow = is_slow or state == SLOW
            in_parts = is_slow and most == FEW_PRODUCTS
            goal = max(0.01 * error, 0.3 * tol)
        return done

    def part(self, first: int, count: int) -> tuple:
        """Return lanes, diagonals of a block, first and last diagonal (exclusive) of some blocks."""
        lanes, steps, _ = self.shape
        return tuple(U(x) for x in (lanes, steps, 1 + steps * first, 1 + steps * (first + count)))

    def pass_over_parts(self, width: int, goal: float) -> int:
        """Solve parts of `width` blocks upwards, then of two downwards; return the number of updates."""
        blocks, done = self.shape[2], 0
        for first in range(blocks - width, -1, -1):
            done += self.update(self.part(first, width), goal, 500, MANY_PRODUCTS)[0]
        for first in range(blocks - 1):
            done += self.update(self.part(first, 2), goal, 500, MANY_PRODUCTS)[0]
        return done

    def update(self, part: tuple, tol: float, max_iterations: int, most: int) -> tuple[int, float, int]:
        """Update the policy in a part of the lattice, with the values beyond it as they are.

        Returns the number of updates, the Bellman error, and how it ended: STOPPED, EXHAUSTED, or SLOW
        because a linear solve would need more than `most` steps.
        """
        lanes, _, first, stop = (int(x) for x in part)
        places = slice(1 + lanes * first, 1 + lanes * stop)
        values, x, b = self.values[places], self.vectors[0, places], self.vectors[1, places]
        error = 0.0
        for iteration in range(max_iterations + 1):
            for backward in (False, True):
                raised = _greedy_sweep(self.world, self.moves, part, backward, 0.01 * error)
                if raised < MIN_RAISED_SHARE * len(b):
                    break
            previous = error
            error = _back_up(self.world, self.moves, part, self.alpha, self.entries, self.vectors[1])
            if error <= tol or error <= rounding_error(values) or not np.isfinite(error):
                return iteration, error, STOPPED
            if iteration == max_iterations:
                break
            b *= b.dtype.type(1.0 / error)
            rtol = forcing_term(iteration, error / previous if previous else np.inf, tol / error)
            if not _solve_bicgstab(part, self.entries, rtol, self.vectors, most):
                if most < MANY_PRODUCTS:
                    return iteration, error, SLOW
                x[:] = b  # a sweep of value iteration, which always makes progress
            _add(values, error, x)
        return max_iterations, error, EXHAUSTED


@njit(cache=True, fastmath={"contract"})
def _add(values: Array, scale: float, x: NDArray) -> None:
    for k in range(len(values)):
        values[k] += scale * x[k]


@njit(cache=True)
def _look_around(
    values: Array, walls: NDArray, shape: tuple, k: np.uint64, near: Array, at: int | np.uint64
) -> None:
    """Write what moves up, right, down, left and stays lead to, from the diagonal that begins at place k."""
    lanes, steps = shape[0], shape[1]
    for r in range(lanes):
        # All are read before one is chosen: there is no branch then.
        i = k + r
        wall, own = walls[i], values[i]
        up, right, down, left = (
            values[i - lanes - U(1)],
            values[i + lanes],
            values[i + lanes + U(1)],
            values[i - lanes],
        )
        near[0, at + r] = own if wall & UP else up
        near[1, at + r] = own if wall & RIGHT else right
        near[2, at + r] = own if wall & DOWN else down
        near[3, at + r] = own if wall & LEFT else left
        near[4, at + r] = own
    far = (steps - lanes) * lanes + U(1)
    last = k + lanes - U(1)
    if not walls[k] & UP:
        near[0, at] = values[k - far]
    if not walls[last] & DOWN:
        near[2, at + lanes - U(1)] = values[last + far]


@njit(cache=True, fastmath={"contract"})
def _greedy_sweep(world: tuple, moves: Array, shape: tuple, backward: bool, least: float) -> int:
    """Sweep V(s) <- max(V(s), max_a Q(s, a)) in place; return how many values rose by more than `least`.

    It carries high values across the lattice, where a Newton update spreads a good policy by one state.
    """
    rewards, walls, values = world
    lanes, _, first, stop = shape
    near, best, better = np.empty((5, lanes)), np.empty(lanes), np.empty(lanes)
    raised = 0
    for number in range(first, stop):
        diagonal = first + (stop - U(1) - number) if backward else number
        k = U(1) + lanes * diagonal
        _look_around(values, walls, shape, k, near, U(0))
        for r in range(lanes):
            best[r] = near[4, r]
        for a in range(len(moves)):
            m0, m1, m2, m3, m4 = moves[a, 0], moves[a, 1], moves[a, 2], moves[a, 3], moves[a, 4]
            for r in range(lanes):
                q = rewards[diagonal, a, r] + (m0 * near[0, r] + m1 * near[1, r])
                q += (m2 * near[2, r] + m3 * near[3, r]) + m4 * near[4, r]
                better[r] = q if q > best[r] else best[r]
            best, better = better, best
        for r in range(lanes):
            frozen = walls[k + r] & FROZEN
            own = near[4, r]
            new = own if frozen else best[r]
            raised += new > own + least
            values[k + r] = new
    return raised


@njit(cache=True, fastmath={"contract"})
def _back_up(world: tuple, moves: Array, shape: tuple, alpha: float, entries: NDArray, b: NDArray) -> float:
    """Fill gamma P_pi and T V - V, both divided by the diagonal of I - gamma P_pi; return |T V - V|."""
    rewards, walls, values = world
    lanes, _, first, stop = shape
    A, n = len(moves), U(STEPS) * lanes
    near, sums, q, policy = np.empty((5, n)), np.empty((5, n)), np.empty((A, n)), np.empty((A, n))
    gain, scratch = np.empty(n), np.empty(n)
    error = 0.0
    for step in range(first, stop, U(STEPS)):
        k = U(1) + lanes * step
        for at in range(U(0), n, lanes):
            _look_around(values, walls, shape, k + at, near, at)
        for a in range(A):
            out, place = q[a], U(0)
            for diagonal in range(step, step + U(STEPS)):
                reward = rewards[diagonal, a]
                for r in range(lanes):
                    out[place + r] = reward[r]
                place += lanes
            _accumulate(near, moves[a], out)
        soft_value_and_policy(q, alpha, scratch, scratch.view(np.int64), gain, policy)
        sums[:] = 0.0
        for d in range(5):
            _accumulate(policy, moves[:, d], sums[d])
        error = max(error, _assemble(walls, near, sums, gain, k, entries, b))
    return error


@njit(cache=True, fastmath={"contract"})
def _accumulate(table: Array, weights: Array, out: Array) -> None:
    """Add weights @ table to `out`."""
    for a in range(len(weights)):
        weight, row = weights[a], table[a]
        if weight != 0.0:
            for i in range(len(out)):
                out[i] += weight * row[i]


@njit(cache=True, fastmath={"contract", "reassoc", "nsz", "nnan"}, error_model="numpy")
def _assemble(
    walls: NDArray, near: Array, sums: Array, value: Array, k: np.uint64, entries: NDArray, b: NDArray
) -> float:
    """Fill the rows from place k on: `sums` are the discounted chances of moves, `value` is T V."""
    error = 0.0
    for i in range(U(len(value))):
        wall = walls[k + i]
        up, right, down, left, stay = sums[0, i], sums[1, i], sums[2, i], sums[3, i], 1.0 - sums[4, i]
        o0, o1, o2, o3 = (
            0.0 if wall & UP else up,
            0.0 if wall & RIGHT else right,
            0.0 if wall & DOWN else down,
            0.0 if wall & LEFT else left,
        )
        scale = 1.0 / (stay - (up - o0) - (right - o1) - (down - o2) - (left - o3))
        gain = value[i] - near[4, i]
        gain = 0.0 if wall & FROZEN else gain
        scale = 0.0 if wall & FROZEN else scale
        entries[0, k + i] = scale * o0
        entries[1, k + i] = scale * o1
        entries[2, k + i] = scale * o2
        entries[3, k + i] = scale * o3
        b[k + i] = scale * gain
        gain = abs(gain)
        error = gain if gain > error else error
    return error


@njit(cache=True, fastmath={"contract"})
def _solve_upper(shape: tuple, entries: NDArray, y: NDArray, t: NDArray) -> None:
    """Write (I - U)^-1 y into `t`."""
    lanes, steps, first, stop = shape
    one = U(1)
    far, most, top = (steps - lanes) * lanes + one, lanes - one, U(len(y)) - one
    for number in range(first, stop):
        k = one + lanes * (first + (stop - one - number))
        last = k + most
        for i in range(k, last):
            t[i] = y[i] + entries[2, i] * t[i + lanes + one] + entries[1, i] * t[i + lanes]
        t[last] = y[last] + entries[2, last] * t[min(last + far, top)] + entries[1, last] * t[last + lanes]


@njit(cache=True, fastmath={"contract"})
def _solve_lower(shape: tuple, entries: NDArray, y: NDArray, t: NDArray, z: NDArray, out: NDArray) -> None:
    """Write (I - L)^-1 (y - t) into `z`, and t + z into `out`."""
    lanes, steps, first, stop = shape
    one = U(1)
    far = (steps - lanes) * lanes + one
    for diagonal in range(first, stop):
        k = one + lanes * diagonal
        above = k - far if k > far else U(0)
        z[k] = y[k] - t[k] + entries[0, k] * z[above] + entries[3, k] * z[k - lanes]
        out[k] = z[k] + t[k]
        for i in range(k + one, k + lanes):
            z[i] = y[i] - t[i] + entries[0, i] * z[i - lanes - one] + entries[3, i] * z[i - lanes]
        for i in range(k + one, k + lanes):
            out[i] = z[i] + t[i]


@njit(cache=True, fastmath={"contract", "reassoc", "nsz"}, error_model="numpy")
def _solve_bicgstab(shape: tuple, entries: NDArray, rtol: float, vectors: NDArray, most: int) -> bool:
    """Solve (I - L - U) vectors[0] = vectors[1] by preconditioned BiCGSTAB, van der Vorst (1992).

    The residual is bounded in the sup-norm, as the Bellman error is: `rtol` of its first value.
    """
    low, high = U(1) + shape[0] * shape[2], U(1) + shape[0] * shape[3]
    x, b, shadow, r, p = vectors[0], vectors[1], vectors[2], vectors[3], vectors[4]
    image, smooth, t, z = vectors[5], vectors[6], vectors[7], vectors[8]
    # What lies outside is 0, as far as a block away.
    span = shape[0] * shape[1]
    near = low - min(low, span)
    t[near : high + span] = 0.0
    z[near : high + span] = 0.0
    _solve_lower(shape, entries, b, t, z, shadow)
    for k in range(low, high):
        x[k] = 0.0
        r[k] = shadow[k]
        p[k] = shadow[k]
    zero = x.dtype.type(0.0)
    rho = _dot(shadow, shadow, low, high)
    error = zero
    for k in range(low, high):
        size = abs(shadow[k])
        error = size if size > error else error
    target = rtol * error
    for _ in range(most):
        _solve_upper(shape, entries, p, t)
        _solve_lower(shape, entries, p, t, z, image)
        step = rho / _dot(shadow, image, low, high)
        for k in range(low, high):
            r[k] -= step * image[k]
        _solve_upper(shape, entries, r, t)
        _solve_lower(shape, entries, r, t, z, smooth)
        damping = _dot(smooth, r, low, high) / _dot(smooth, smooth, low, high)
        previous = rho
        error = rho = zero
        for k in range(low, high):
            x[k] += step * p[k] + damping * r[k]
            r[k] -= damping * smooth[k]
            rho += shadow[k] * r[k]
            size = abs(r[k])
            error = size if size > error else error
        if not target < error < 1e10 * target:
            break
        beta = (rho / previous) * (step / damping)
        for k in range(low, high):
            p[k] = r[k] + beta * (p[k] - damping * image[k])
    _solve_upper(shape, entries, x, t)
    for k in range(low, high):
        x[k] = t[k]
    return error <= target


@njit(cache=True, fastmath={"contract", "reassoc", "nsz"})
def _dot(x: NDArray, y: NDArray, low: np.uint64, high: np.uint64) -> float:
    total = x.dtype.type(0.0)
    for k in range(low, high):
        total += x[k] * y[k]
    return total
