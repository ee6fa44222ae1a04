"""Maps, grids and random MDPs against rows worked out by hand, planted symmetries and closed forms."""

import numpy as np
import pytest

from gridworlds import goal_distance, grid, map_mdp, map_transition, parse_map, random_mdp
from mereq_min import solve_soft

UP, RIGHT, DOWN, LEFT, STAY = range(5)

TINY = """
    S.#
    ..G
"""
# States: 0 S, 1 east of it; 2, 3 below; 4 the goal.


def row(transition, s, a):
    return transition.toarray()[s * 5 + a]


@pytest.mark.parametrize(
    ("s", "a", "expected"),
    [
        (0, UP, [0.8 + 0.1, 0.1, 0, 0, 0]),  # the rim above and to the left
        (0, RIGHT, [0.1, 0.8, 0.1, 0, 0]),
        (1, RIGHT, [0, 0.8 + 0.1, 0, 0.1, 0]),  # a wall ahead, the rim above
        (3, RIGHT, [0, 0.1, 0, 0.1, 0.8]),
        (2, DOWN, [0, 0, 0.8 + 0.1, 0.1, 0]),
        (3, STAY, [0, 0, 0, 1, 0]),
        (4, LEFT, [0, 0, 0.0, 0, 1]),  # the goal ends the episode
    ],
)
def test_moves_slip_to_either_side_and_stop_at_walls(s, a, expected):
    transition = map_transition(parse_map(TINY), slip=0.2, terminal="G")
    np.testing.assert_allclose(row(transition, s, a), expected, atol=1e-15)


def test_wind_carries_on_from_where_the_move_ends():
    layout = parse_map(TINY)
    transition = map_transition(layout, slip=0.2, wind=[0.5, 0, 0], wind_direction="down")
    # Right from the start: moves to 1 (0.8), 0 (0.1) or 2 (0.1), then half of each goes one down.
    np.testing.assert_allclose(row(transition, 0, RIGHT), [0.05, 0.4, 0.05 + 0.1, 0.4, 0])
    # No wind in the second column.
    np.testing.assert_allclose(row(transition, 1, STAY), [0, 1, 0, 0, 0])
    by_row = map_transition(layout, wind=[[1.0], [0.0]], wind_direction="right")
    np.testing.assert_allclose(row(by_row, 0, STAY), [0, 1, 0, 0, 0])
    np.testing.assert_allclose(row(by_row, 1, STAY), [0, 1, 0, 0, 0])  # against the wall
    np.testing.assert_allclose(row(by_row, 2, STAY), [0, 0, 1, 0, 0])


def test_restarting_cells_lead_to_the_starts():
    layout = parse_map("S.S\n..G")
    transition = map_transition(layout, slip=0.1, wind=0.3, restart="G")
    for action in range(5):
        np.testing.assert_allclose(row(transition, 5, action), [0.5, 0, 0.5, 0, 0, 0])
    np.testing.assert_allclose(row(transition, 3, RIGHT), [0.035, 0, 0, 0.05 + 0.015, 0.9, 0])


def test_goal_distance_goes_round_walls_and_closed_cells():
    layout = parse_map("S.x.G\n.....", "x")
    np.testing.assert_array_equal(goal_distance(layout), [4, 3, 2, 1, 0, 5, 4, 3, 2, 1])
    np.testing.assert_array_equal(goal_distance(layout, closed="x"), [6, 5, 0, 1, 0, 5, 4, 3, 2, 1])


def test_letters_mark_states_and_heat_sums_by_cell():
    layout = parse_map("Sc#\n.cG", "c")
    np.testing.assert_array_equal(layout.mark("c"), [0, 1, 0, 1, 0])
    np.testing.assert_array_equal(layout.mark("SG"), [1, 0, 0, 0, 1])
    heat = layout.heat(np.arange(5.0))
    np.testing.assert_array_equal(heat, [[0, 1, np.nan], [2, 3, 4]])


def test_map_mdp_starts_on_every_start_and_zeroes_terminal_features():
    layout = parse_map("SS.\n..G")
    transition = map_transition(layout, terminal="G")
    features = {"one": np.ones(6), "move": [[1.0, 1.0, 1.0, 1.0, 0.0]]}
    mdp = map_mdp(layout, transition, features, gamma=0.9, terminal="G")
    np.testing.assert_array_equal(mdp.initial, [0.5, 0.5, 0, 0, 0, 0])
    np.testing.assert_array_equal(mdp.terminal, [False] * 5 + [True])
    np.testing.assert_array_equal(mdp.features[0], [[1, 1]] * 4 + [[1, 0]])
    assert not mdp.features[5].any()


ROOM = """
    S..c...
    ..##c..
    .c...#G
    ....S..
"""


def solve_room(rows, wind_direction):
    layout = parse_map("\n".join(rows), "c")
    blown = {"wind": 0.3, "wind_direction": wind_direction}
    transition = map_transition(layout, slip=0.2, terminal="G", **blown)
    features = {"distance": goal_distance(layout), "carpet": layout.mark("c")}
    mdp = map_mdp(layout, transition, features, gamma=0.95, terminal="G")
    return layout.heat(solve_soft(mdp, mdp.reward([-0.3, -0.7]), 0.2).v)


@pytest.mark.parametrize(("wind", "mirrored_wind"), [("left", "right"), ("down", "down")])
def test_a_mirrored_map_has_mirrored_values(wind, mirrored_wind):
    rows = ROOM.split()
    values = solve_room(rows, wind)
    mirrored = solve_room([line[::-1] for line in rows], mirrored_wind)
    np.testing.assert_allclose(mirrored, values[:, ::-1], atol=1e-7)
    assert np.nanstd(values) > 0.1


def test_a_transposed_map_has_transposed_values():
    rows = ROOM.split()
    values = solve_room(rows, "down")
    transposed = solve_room(["".join(column) for column in zip(*rows, strict=True)], "right")
    np.testing.assert_allclose(transposed, values.T, atol=1e-7)


def test_a_straight_corridor_solves_to_the_closed_form():
    # At a low temperature the value of the n-th cell from the goal is that of n steps at -1, discounted.
    layout = parse_map("S....G")
    transition = map_transition(layout, terminal="G")
    mdp = map_mdp(layout, transition, {"step": np.ones(6)}, gamma=0.9, terminal="G")
    v = solve_soft(mdp, mdp.reward([-1.0]), 1e-3).v
    np.testing.assert_allclose(v, -(1 - 0.9 ** np.arange(5, -1, -1)) / 0.1, atol=1e-2)


def test_grid_is_the_open_map():
    big, slip = grid(5, slip=0.3), 0.3
    by_map = map_transition(parse_map("\n".join(["SSSSS"] * 5)), slip=slip).toarray()
    four_moves = by_map.reshape(25, 5, 25)[:, :4].reshape(100, 25)
    np.testing.assert_allclose(big.transition.toarray(), four_moves, atol=1e-15)
    np.testing.assert_allclose(big.initial, 1 / 25)
    assert big.features[:, :, 0].sum() == 4
    assert big.features[-1, :, 0].all()
    assert 0 <= big.features.min() <= big.features.max() <= 1
    assert big.transition.indices.dtype == np.int32


def test_garnet_has_its_branching_and_is_a_function_of_its_seed():
    mdp, again = (random_mdp(3, 20, 4, 2, branching=3) for _ in range(2))
    np.testing.assert_array_equal(np.diff(mdp.transition.indptr), 3)
    np.testing.assert_array_equal(mdp.transition.toarray(), again.transition.toarray())
    np.testing.assert_array_equal(mdp.features, again.features)
    assert not np.array_equal(mdp.features, random_mdp(4, 20, 4, 2).features)
    assert mdp.features.shape == (20, 4, 2)


def test_garnet_probabilities_are_gaps_of_uniform_numbers():
    # Gaps of b - 1 uniform numbers are Dirichlet(1, ..., 1): mean 1 / b, variance (b - 1) / (b^2 (b + 1)).
    p = random_mdp(0, 200, 10, 1, branching=4).transition.data.reshape(-1, 4)
    np.testing.assert_allclose(p.mean(axis=0), 0.25, atol=0.02)
    np.testing.assert_allclose(p.var(axis=0), 3 / 80, rtol=0.1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "at least one row"),
        ("S.\n...", "equal length.*3 characters in row 1 and 2 in row 0"),
        ("S.?", r"unknown character '\?' in row 0"),
        ("S. .", "unknown character ' '"),
        ("..G", "at least one start"),
    ],
)
def test_malformed_maps_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_map(text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"slip": 1.5}, r"slip must be a finite number at least 0 and at most 1, got 1.5"),
        ({"wind": -0.1}, "wind must hold probabilities"),
        ({"wind": [0.1, 0.2]}, r"wind must broadcast to \(rows, columns\) = \(1, 3\), got \(2,\)"),
        ({"wind": np.nan}, "wind must be finite"),
        ({"wind_direction": "north"}, "wind_direction must be one of .*'down'.*, got 'north'"),
        ({"wind_direction": "stay"}, "wind_direction must be one of .*, got 'stay'"),
    ],
)
def test_impossible_dynamics_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        map_transition(parse_map("S.G"), **arguments)


def test_goals_out_of_reach_are_named():
    with pytest.raises(ValueError, match="must hold a goal"):
        goal_distance(parse_map("S."))
    with pytest.raises(ValueError, match="none for row 0, column 0"):
        goal_distance(parse_map("S#G"))
    with pytest.raises(ValueError, match="row 0, column 0"):
        goal_distance(parse_map("SxG", "x"), closed="x")


def test_other_bad_arguments_are_named():
    with pytest.raises(ValueError, match="n must be at least 2, got 1"):
        grid(1)
    with pytest.raises(ValueError, match=r"branching must lie in 1..S = 4, got 5"):
        random_mdp(0, 4, 2, 1, branching=5)
    layout = parse_map("S.G")
    with pytest.raises(ValueError, match="features must hold at least one column"):
        map_mdp(layout, map_transition(layout), {}, gamma=0.9)
    with pytest.raises(ValueError, match=r"values must have shape \(3,\)"):
        layout.heat(np.zeros(2))
