"""ASCII maps as `TabularMDP`s.

A map has one character per cell: "#" wall, "." floor, "S" floor where episodes begin, "G" goal, and letters
of your own. States are numbered row by row; the actions are up, right, down, left and stay.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.csgraph import dijkstra

from mereq_min.mdp import TabularMDP
from mereq_min.validation import Array, check_array, check_number

Direction = Literal["up", "right", "down", "left"]
"""A direction on a map; up is north."""

MOVES: dict[str, tuple[int, int]] = {
    "up": (-1, 0),
    "right": (0, 1),
    "down": (1, 0),
    "left": (0, -1),
    "stay": (0, 0),
}
"""Row and column step of each action, in the order of the actions."""


@dataclass(frozen=True, eq=False)
class Layout:
    """The cells of a picture, and the cell of each state.

    Attributes:
        letters: (rows, columns) character of each cell; "#" is a wall.
        cells: (S, 2) row and column of each state; several states may share a cell.
    """

    letters: NDArray[np.str_]
    cells: NDArray[np.int32]

    def mark(self, letters: str) -> Array:
        """Return the indicator (S,) of the states on one of the `letters`: 1.0 there, else 0.0."""
        here = self.letters[tuple(self.cells.T)]
        return np.isin(here, list(letters)).astype(float)

    def heat(self, values: ArrayLike) -> Array:
        """Sum values (S,) of states over the cells, for a heat map.

        Returns:
            (rows, columns) sums; NaN in cells that hold no state.

        Raises:
            ValueError: if `values` is not a finite vector of length S.
        """
        values = check_array("values", values, shape=(len(self.cells),))
        rows, columns = self.cells.T
        sums = np.full(self.letters.shape, np.nan)
        sums[rows, columns] = 0.0
        np.add.at(sums, (rows, columns), values)
        return sums


def parse_map(text: str, letters: Iterable[str] = ()) -> Layout:
    """Parse an ASCII map; every cell that is not a wall is a state.

    Args:
        text: rows of equal length, of "#", ".", "S", "G" and `letters`.
        letters: further characters that the map may contain.

    Returns:
        The layout, with one state per cell.

    Raises:
        ValueError: on an empty or ragged map, an unknown character, or no start.
    """
    rows = [line.strip() for line in text.strip().splitlines()]
    if not rows:
        raise ValueError("text must hold at least one row, got an empty map")
    for number, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise ValueError(
                f"text must have rows of equal length, got {len(row)} characters in row {number} "
                f"and {len(rows[0])} in row 0"
            )
        unknown = set(row) - set("#.SG") - set(letters)
        if unknown:
            raise ValueError(
                f"text holds the unknown character {min(unknown)!r} in row {number}; "
                f"known are # . S G and letters={sorted(letters)}"
            )
    if not any("S" in row for row in rows):
        raise ValueError("text must mark at least one start with S, got none")
    grid = np.array([list(row) for row in rows])
    return Layout(grid, np.argwhere(grid != "#").astype(np.int32))


def map_transition(
    layout: Layout,
    *,
    slip: float = 0.0,
    wind: ArrayLike = 0.0,
    wind_direction: Direction = "down",
    terminal: str = "",
    restart: str = "",
) -> sp.csr_array:
    """Return the transition matrix of moves on a map.

    A move succeeds with probability 1 - slip and slips to either side with probability slip / 2 each; walls
    and the rim stop it. Staying never slips. After the move a gust may blow one cell further in
    `wind_direction`, unless a wall is there; its probability is that of the cell where the step began.

    Args:
        layout: a map as `parse_map` returns it.
        slip: probability in [0, 1] of moving sideways.
        wind: probability of a gust: a number, (columns,), (rows, 1) or (rows, columns).
        wind_direction: direction in which gusts blow.
        terminal: letters of the cells that end the episode; they are absorbing.
        restart: letters of the cells from which every action leads to a random start S.

    Returns:
        (S*5, S) transition matrix, row s*5 + a for (s, a).

    Raises:
        ValueError: if `slip` or `wind` is not a probability, `wind` does not fit the map, or `wind_direction`
            is not a direction.
    """
    if wind_direction not in get_args(Direction):
        raise ValueError(f"wind_direction must be one of {get_args(Direction)}, got {wind_direction!r}")
    gust = _broadcast_wind(wind, layout)
    neighbours = _find_neighbours(layout)
    ends = layout.mark(terminal) == 1.0
    neighbours[ends] = np.flatnonzero(ends)[:, None]
    gust[ends] = 0.0
    transition = _move_matrix(neighbours, slip, n_actions=5)
    S = len(gust)
    blown_to = neighbours[:, list(MOVES).index(wind_direction)]
    blow = sp.csr_array((np.ones(S), (np.arange(S), blown_to)), shape=(S, S))
    gust = np.repeat(gust, 5)
    transition = sp.diags_array(1.0 - gust) @ transition + sp.diags_array(gust) @ (transition @ blow)
    again = np.repeat(layout.mark(restart), 5)
    starts = np.repeat(layout.mark("S")[None] / layout.mark("S").sum(), 5 * S, axis=0)
    return sp.csr_array(sp.diags_array(1.0 - again) @ transition + sp.diags_array(again) @ starts)


def goal_distance(layout: Layout, closed: str = "") -> Array:
    """Return the number of moves (S,) to the nearest goal, without slips; 0 in closed cells.

    Args:
        layout: a map as `parse_map` returns it.
        closed: letters of cells that may not be entered.

    Raises:
        ValueError: if the map has no goal, or no goal can be reached from some open cell.
    """
    goals = np.flatnonzero(layout.mark("G"))
    if len(goals) == 0:
        raise ValueError("layout must hold a goal G, got none")
    neighbours = _find_neighbours(layout)[:, :4]
    S = len(neighbours)
    shut = layout.mark(closed) == 1.0
    entered, left = neighbours.ravel(), np.repeat(np.arange(S), 4)
    open_ = ~shut[entered]
    backwards = sp.csr_array((np.ones(open_.sum()), (entered[open_], left[open_])), shape=(S, S))
    steps = dijkstra(backwards, unweighted=True, indices=goals, min_only=True)
    steps[shut] = 0.0
    if np.isinf(steps).any():
        row, column = layout.cells[np.argmax(np.isinf(steps))]
        raise ValueError(f"layout must connect every cell to a goal, got none for row {row}, column {column}")
    return steps


def map_mdp(
    layout: Layout,
    transition: sp.csr_array,
    features: Mapping[str, ArrayLike],
    gamma: float,
    *,
    terminal: str = "",
) -> TabularMDP:
    """Combine the dynamics and features of a map into an MDP; rho0 is uniform over the starts S.

    Args:
        layout: a map as `parse_map` returns it.
        transition: (S*5, S) as `map_transition` returns it.
        features: columns by name, each (S,) or broadcastable to (S, 5); set to 0 in terminal states.
        gamma: discount factor in [0, 1).
        terminal: letters of the cells that end the episode.

    Returns:
        The MDP, with K = len(features).

    Raises:
        ValueError: without features, or from `TabularMDP`.
    """
    if not features:
        raise ValueError("features must hold at least one column by name, got none")
    S = len(layout.cells)
    starts, ends = layout.mark("S"), layout.mark(terminal) == 1.0
    return TabularMDP(
        transition=transition,
        features=stack_features(features.values(), (S, 5), ends),
        initial=starts / starts.sum(),
        gamma=gamma,
        terminal=ends,
    )


def stack_features(columns: Iterable[ArrayLike], shape: tuple[int, int], ends: NDArray[np.bool_]) -> Array:
    """Stack features, each (S,) or broadcastable to (S, A), into (S, A, K), with 0 in terminal states."""
    arrays = [np.asarray(column, dtype=float) for column in columns]
    spread = [np.broadcast_to(a[:, None] if a.ndim == 1 else a, shape) for a in arrays]
    return np.where(ends[:, None, None], 0.0, np.stack(spread, axis=-1))


def _broadcast_wind(wind: ArrayLike, layout: Layout) -> Array:
    wind = check_array("wind", wind)
    if (wind < 0).any() or (wind > 1).any():
        raise ValueError(f"wind must hold probabilities in [0, 1], got {wind.min():g} to {wind.max():g}")
    try:
        spread = np.broadcast_to(wind, layout.letters.shape)
    except ValueError:
        raise ValueError(
            f"wind must broadcast to (rows, columns) = {layout.letters.shape}, got {wind.shape}"
        ) from None
    return spread[tuple(layout.cells.T)]


def _find_neighbours(layout: Layout) -> NDArray[np.int32]:
    states = np.full(layout.letters.shape, -1, dtype=np.int32)
    states[tuple(layout.cells.T)] = np.arange(len(layout.cells), dtype=np.int32)
    return _next_states(states)


def _next_states(states: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the next state (S, 5) of each move, for state indices on a grid (-1: wall)."""
    rows, columns = states.shape
    padded = np.pad(states, 1, constant_values=-1)
    free = states >= 0
    here = states[free]
    targets = np.empty((len(here), 5), dtype=np.int32)
    for action, (down, right) in enumerate(MOVES.values()):
        there = padded[1 + down : 1 + down + rows, 1 + right : 1 + right + columns][free]
        targets[:, action] = np.where(there < 0, here, there)
    return targets


def _move_matrix(neighbours: NDArray[np.int32], slip: float, n_actions: Literal[4, 5]) -> sp.csr_array:
    check_number("slip", slip, 0, 1)
    # Each move with the moves to its two sides; staying has none.
    outcomes = np.array([[0, 3, 1], [1, 0, 2], [2, 1, 3], [3, 2, 0], [4, 4, 4]])[:n_actions]
    S = len(neighbours)
    indices = neighbours[:, outcomes.ravel()].ravel()
    data = np.tile([1.0 - slip, slip / 2, slip / 2], S * n_actions)
    indptr = np.arange(0, len(indices) + 1, 3, dtype=np.int32)
    transition = sp.csr_array((data, indices, indptr), shape=(S * n_actions, S))
    transition.sum_duplicates()
    transition.eliminate_zeros()
    return transition
