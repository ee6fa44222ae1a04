"""Exact solves for Markov chains whose graph has no cycle, such as mazes: elimination from the leaves.

Nothing fills in, so that a solve costs as little as a sweep, whatever gamma is.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

NONE = np.uint32(0xFFFFFFFF)
"""No parent, or no such entry."""


@njit(cache=True)
def find_forest(
    rows: NDArray, columns: NDArray, first: NDArray, terminal: NDArray
) -> tuple[NDArray, NDArray]:
    """Return an order in which each state has at most one neighbour left when its turn comes.

    Args:
        rows: (S + 1, 2) where rows of the sparsity pattern begin, in column 0.
        columns: column of each entry.
        first: (len(columns) + 1,) first term of each entry; an entry without terms is always 0.
        terminal: (S,) mask; what leads into these states is left out, since their value is known.

    Returns:
        The order (S,), and for each place in it the last neighbour, the entry that leads there and the one
        that leads back (S, 3), NONE where there is none. Both are empty if the graph has a cycle.
    """
    S = len(rows) - 1
    empty = np.empty(0, np.uint32), np.empty((0, 3), np.uint32)
    degree = np.zeros(S, np.uint32)
    # The exclusive or of all neighbours: of the last one when only one is left.
    mixed = np.zeros(S, np.uint32)
    edges = 0
    for s in range(S):
        for k in range(rows[s, 0], rows[s + 1, 0]):
            t = columns[k]
            if t == s or terminal[t] or first[k] == first[k + 1]:
                continue
            if t < s and _find_entry(rows, columns, first, t, s) != NONE:
                continue  # counted from the other end
            edges += 1
            if edges >= S:
                return empty
            degree[s] += 1
            degree[t] += 1
            mixed[s] ^= np.uint32(t)
            mixed[t] ^= np.uint32(s)
    order, links = np.empty(S, np.uint32), np.full((S, 3), NONE, np.uint32)
    count = 0
    for leaf in range(S):
        last = np.uint32(leaf)
        while degree[last] == 1:
            parent = mixed[last]
            order[count] = last
            links[count, 0] = parent
            links[count, 1] = _find_entry(rows, columns, first, last, parent)
            links[count, 2] = _find_entry(rows, columns, first, parent, last)
            count += 1
            degree[last] = 0
            mixed[last] = NONE
            degree[parent] -= 1
            mixed[parent] ^= last
            last = parent
    for s in range(S):
        if degree[s] > 0:
            return empty
        if mixed[s] != NONE:
            order[count] = s
            count += 1
    return order, links


@njit(cache=True)
def _find_entry(
    rows: NDArray, columns: NDArray, first: NDArray, s: int | np.integer, t: int | np.integer
) -> np.uint32:
    for k in range(rows[s, 0], rows[s + 1, 0]):
        if columns[k] == t and first[k] < first[k + 1]:
            return np.uint32(k)
    return NONE


@njit(cache=True, error_model="numpy")
def solve_on_forest(order: NDArray, links: NDArray, entries: NDArray, b: NDArray, x: NDArray) -> None:
    """Solve (I - entries) x = b, with a diagonal of ones, by elimination along `find_forest`."""
    diagonal, right = np.ones(len(order)), b.astype(np.float64)
    for place in range(len(order)):
        s, parent, back = order[place], links[place, 0], links[place, 2]
        if parent != NONE and back != NONE:
            factor = entries[back] / diagonal[s]
            right[parent] += factor * right[s]
            if links[place, 1] != NONE:
                diagonal[parent] -= factor * entries[links[place, 1]]
    for i in range(len(order)):
        place = len(order) - 1 - i
        s, parent, there = order[place], links[place, 0], links[place, 1]
        if there != NONE:
            right[s] += entries[there] * right[parent]
        right[s] /= diagonal[s]
        x[s] = right[s]
