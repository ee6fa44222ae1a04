"""Find out whether an MDP is a walk on a rectangular lattice, and where its states lie.

On a lattice a state has at most four neighbours, and what an action does is the same everywhere, except that
a move against a wall stays: grids with any walls, holes, terminal or absorbing cells and numbering of the
states. `mereq_min.soft_lattice` solves them without reading an index, many states at a time.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mereq_min.mdp import TabularMDP
from mereq_min.validation import Array

MAX_AREA = 2.0
"""Most cells for each state: beyond, empty cells would cost more than the lattice saves."""
ROUNDING = 1e-14
"""Largest difference of probabilities that count as equal."""
NONE = -1
"""No state, or not known."""
UP, RIGHT, DOWN, LEFT = range(4)
"""The directions; bit d of `Lattice.walls` is that of direction d."""
STEP = np.array([[-1, 0], [0, 1], [1, 0], [0, -1]], np.int32)
"""Rows and columns that a move up, right, down and left goes."""
TERMINAL = 16
"""Bit of a terminal state, whose value stays 0."""


@dataclass(frozen=True, eq=False)
class Lattice:
    """Where the states of an MDP lie on a lattice, and how actions move them.

    Attributes:
        moves: (A, 5) probability of going up, right, down, left and staying, where no wall is near.
        walls: (S,) bits 0 to 3: a wall stops the move up, right, down, left. Bit 4: terminal.
        cells: (S, 2) row and column of each state.
        shape: rows and columns.
    """

    moves: Array
    walls: NDArray[np.uint8]
    cells: NDArray[np.int32]
    shape: tuple[int, int]


def find_lattice(mdp: TabularMDP) -> Lattice | None:
    """Return the lattice on which the MDP is a walk; None if there is none, or if it has no cycle.

    Args:
        mdp: the MDP.
    """
    P, S, A = mdp.transition, mdp.n_states, mdp.n_actions
    chances, neighbours = np.zeros((4, A)), np.full((S, 4), NONE, np.int32)
    if not _find_neighbours(P.data, P.indices, P.indptr, mdp.terminal, chances, neighbours):
        return None
    order = _order_directions(_find_opposites(neighbours))
    if order is None:
        return None
    chances, neighbours = chances[order], np.ascontiguousarray(neighbours[:, order])
    cells, boxes = np.zeros((S, 2), np.int32), np.empty((S, 5), np.int32)
    queue = np.empty(S, np.int32)
    boxes = boxes[: _walk(neighbours, cells, queue, boxes)]
    n_links = (neighbours != NONE).sum()
    if len(boxes) == 0 or n_links // 2 <= S - len(boxes):
        return None
    shape = _pack(boxes, queue, cells)
    if shape[0] * shape[1] > MAX_AREA * S or not _are_different(cells, shape):
        return None
    if shape[0] > shape[1]:  # long rows waste less
        turn = [LEFT, DOWN, RIGHT, UP]
        chances, neighbours = chances[turn], neighbours[:, turn]
        cells, shape = np.ascontiguousarray(cells[:, ::-1]), shape[::-1]
    moves = np.column_stack([chances.T, 1.0 - chances.sum(axis=0)])
    walls = (neighbours == NONE) @ np.array([1, 2, 4, 8], np.uint8) + mdp.terminal * np.uint8(TERMINAL)
    return Lattice(moves, walls.astype(np.uint8), cells, shape)


@njit(cache=True)
def _find_neighbours(
    data: Array, indices: NDArray, indptr: NDArray, terminal: NDArray, chances: Array, neighbours: NDArray
) -> bool:
    """Sort the successors of each state by direction: those of one have the same chances (A,) everywhere.

    Returns whether there are at most four directions and no state has two successors in one.
    """
    A = chances.shape[1]
    near, found = np.empty((4, A)), 0
    states = np.empty(4, np.int64)
    for s in range(len(terminal)):
        if terminal[s]:
            continue
        count = 0
        for a in range(A):
            for j in range(indptr[s * A + a], indptr[s * A + a + 1]):
                t = indices[j]
                if t == s or data[j] == 0.0:
                    continue
                place = 0
                while place < count and states[place] != t:
                    place += 1
                if place == count:
                    if count == 4:
                        return False
                    states[place] = t
                    for other in range(A):
                        near[place, other] = 0.0
                    count += 1
                near[place, a] += data[j]
        for place in range(count):
            d = 0
            while d < found and not _is_close(chances, d, near, place):
                d += 1
            if d == 4 or neighbours[s, d] != NONE:
                return False
            if d == found:
                chances[d] = near[place]
                found += 1
            neighbours[s, d] = states[place]
    return True


@njit(cache=True)
def _is_close(x: Array, i: int, y: Array, j: int) -> bool:
    gap = 0.0
    for a in range(x.shape[1]):
        gap = max(gap, abs(x[i, a] - y[j, a]))
    return gap <= ROUNDING


@njit(cache=True)
def _find_opposites(neighbours: NDArray) -> NDArray:
    """Return for each direction the one that leads back, NONE if it is not known."""
    opposite = np.full(4, NONE)
    for s in range(len(neighbours)):
        for d in range(4):
            t = neighbours[s, d]
            if t != NONE and opposite[d] == NONE:
                for back in range(4):
                    if neighbours[t, back] == s:
                        opposite[d] = back
        if opposite.min() != NONE:
            break
    return opposite


def _order_directions(opposite: NDArray) -> list[int] | None:
    """Return which directions go up, right, down and left; None if they are not two pairs."""
    pairs = [(d, int(back)) for d, back in enumerate(opposite) if back > d and opposite[back] == d]
    if len(pairs) != 2:
        return None
    (up, down), (right, left) = pairs
    return [up, right, down, left]


@njit(cache=True)
def _walk(neighbours: NDArray, cells: NDArray, queue: NDArray, boxes: NDArray) -> int:
    """Give each state its cell, by walking from neighbour to neighbour, in each connected part from (0, 0).

    Writes the states of one part after another into `queue`, and first row and column, height, width and
    number of states of each part into `boxes`. Returns the number of parts, 0 if two ways to a state
    disagree about its cell.
    """
    S = len(neighbours)
    part = np.full(S, NONE, np.int32)
    count = head = tail = 0
    # States that nothing leaves come last: most of them are entered from elsewhere.
    for number in range(2 * S):
        root = number % S
        if part[root] != NONE or (number < S and neighbours[root].max() == NONE):
            continue
        part[root] = count
        queue[tail] = root
        tail, first = tail + 1, tail
        top = bottom = left = right = 0
        while head < tail:
            s = queue[head]
            head += 1
            for d in range(4):
                t = neighbours[s, d]
                if t == NONE:
                    continue
                i, j = cells[s, 0] + STEP[d, 0], cells[s, 1] + STEP[d, 1]
                if part[t] == NONE:
                    part[t], cells[t, 0], cells[t, 1] = count, i, j
                    queue[tail] = t
                    tail += 1
                    top, bottom, left, right = min(top, i), max(bottom, i), min(left, j), max(right, j)
                elif part[t] != count or cells[t, 0] != i or cells[t, 1] != j:
                    return 0
        boxes[count, 0], boxes[count, 1] = top, left
        boxes[count, 2], boxes[count, 3], boxes[count, 4] = bottom - top + 1, right - left + 1, tail - first
        count += 1
    return count


@njit(cache=True)
def _pack(boxes: NDArray, queue: NDArray, cells: NDArray) -> tuple[int, int]:
    """Move the connected parts side by side onto shelves; return the rows and columns that they fill."""
    area = width = 0
    for box in boxes:
        area += int(box[2]) * int(box[3])
        width = max(width, int(box[3]))
    width = max(width, int(np.ceil(np.sqrt(area))))
    shelf = height = column = first = 0
    for box in boxes:
        if column + box[3] > width:
            shelf, height, column = shelf + height, 0, 0
        for s in queue[first : first + box[4]]:
            cells[s, 0] += shelf - box[0]
            cells[s, 1] += column - box[1]
        first += box[4]
        column += box[3]
        height = max(height, box[2])
    return shelf + height, width


@njit(cache=True)
def _are_different(cells: NDArray, shape: tuple[int, int]) -> bool:
    taken = np.zeros(shape, np.bool_)
    for s in range(len(cells)):
        if taken[cells[s, 0], cells[s, 1]]:
            return False
        taken[cells[s, 0], cells[s, 1]] = True
    return True
