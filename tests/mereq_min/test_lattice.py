"""Lattices are recognised whatever their walls and numbering, and solved as the readable solver does."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from gridworlds import grid, random_mdp
from mereq_min import TabularMDP, soft_numba, solve_soft
from mereq_min.lattice import STEP, Lattice, find_lattice
from mereq_min.mdp import Array
from mereq_min.soft import bellman_q, soft_value
from mereq_min.soft_lattice import solve_on_lattice

ALPHA = 1.5
OUTCOMES = [[0, 3, 1], [1, 0, 2], [2, 1, 3], [3, 2, 0], [4, 4, 4]]
"""Each move, those to its sides, and staying, which has none."""


def make_world(
    free: Array, gamma: float, slip: float, *, n_actions: int = 4, absorbing: bool = False, shuffle: int = 0
) -> TabularMDP:
    """Moves on the free cells; the last is terminal, or absorbing without being terminal."""
    S = int(free.sum())
    order = np.random.default_rng(shuffle).permutation(S) if shuffle else np.arange(S)
    number = np.full(np.add(free.shape, 2), -1)
    number[1:-1, 1:-1][free] = order
    P = np.zeros((S, n_actions, S))
    for s, (i, j) in zip(order, np.argwhere(free), strict=True):
        near = [number[1 + i + a, 1 + j + b] for a, b in [*STEP, (0, 0)]]
        near = [s if t < 0 or s == order[-1] else t for t in near]
        for a in range(n_actions):
            for outcome, p in zip(OUTCOMES[a], (1.0 - slip, slip / 2, slip / 2), strict=True):
                P[s, a, near[outcome]] += p
    terminal = (np.arange(S) == order[-1]) & (not absorbing)
    return TabularMDP(P.reshape(-1, S), np.zeros((S, n_actions, 1)), np.full(S, 1 / S), gamma, terminal)


def bellman_error(mdp: TabularMDP, v: Array, reward: Array) -> float:
    return float(np.abs(soft_value(mdp, bellman_q(mdp, v, reward), ALPHA) - v).max())


def find(mdp: TabularMDP) -> Lattice:
    lattice = find_lattice(mdp)
    assert lattice is not None
    return lattice


worlds = st.builds(
    lambda seed, rows, columns, share, **options: make_world(
        np.random.default_rng(seed).random((rows, columns)) >= share, **options
    ),
    st.integers(0, 2**32 - 1),
    st.integers(3, 14),
    st.integers(3, 14),
    st.sampled_from([0.0, 0.1]),
    gamma=st.sampled_from([0.5, 0.95, 0.99]),
    slip=st.sampled_from([0.0, 0.1, 0.3]),
    n_actions=st.sampled_from([4, 5]),
    absorbing=st.booleans(),
    shuffle=st.integers(0, 2),
)


@settings(deadline=None, max_examples=25)
@given(worlds, st.integers(0, 2**32 - 1), st.sampled_from(["random", "goal", "cost"]))
def test_any_lattice_is_solved_as_by_the_readable_solver(mdp: TabularMDP, seed: int, kind: str) -> None:
    lattice = find_lattice(mdp)
    assume(lattice is not None)  # the walls may cut it into too many pieces
    assert lattice is not None
    reward = {
        "random": lambda: 10.0 * np.random.default_rng(seed).normal(size=(mdp.n_states, mdp.n_actions)),
        "goal": lambda: (
            np.where(np.arange(mdp.n_states)[:, None] == seed % mdp.n_states, 20.0, 0.0)
            + np.zeros((1, mdp.n_actions))
        ),
        "cost": lambda: np.full((mdp.n_states, mdp.n_actions), -5.0),
    }[kind]()
    reward[mdp.terminal] = 0.0
    v = np.zeros(mdp.n_states)
    done = solve_on_lattice(lattice, reward, mdp.gamma, ALPHA, 1e-9, v, 500)
    assert done < 500
    assert bellman_error(mdp, v, reward) <= 2e-9
    expected = solve_soft(mdp, reward, ALPHA, tol=1e-10).v
    assert_allclose(v, expected, atol=5e-9 / (1.0 - mdp.gamma), rtol=0)


@settings(deadline=None, max_examples=25)
@given(worlds)
def test_a_lattice_holds_all_of_the_dynamics(mdp: TabularMDP) -> None:
    lattice = find_lattice(mdp)
    assume(lattice is not None)
    assert lattice is not None
    S, A = mdp.n_states, mdp.n_actions
    assert len({*map(tuple, lattice.cells)}) == S
    at = {tuple(cell): s for s, cell in enumerate(lattice.cells)}
    P = np.zeros((S, A, S))
    for s in range(S):
        for d in range(4):
            stopped = lattice.walls[s] >> d & 1
            P[s, :, s if stopped else at[tuple(lattice.cells[s] + STEP[d])]] += lattice.moves[:, d]
        P[s, :, s] += lattice.moves[:, 4]
    assert_allclose(P.reshape(S * A, S), mdp.transition.toarray(), atol=1e-13)
    assert ((lattice.walls >> 4 == 1) == mdp.terminal).all()


@pytest.mark.parametrize("gamma", [0.99, 0.999, 0.9999])
@pytest.mark.parametrize("kind", ["random", "goal"])
def test_several_blocks_are_solved_together(gamma: float, kind: str) -> None:
    mdp = grid(150, gamma=gamma)
    reward = 16.0 * (
        np.random.default_rng(0).normal(size=(mdp.n_states, 4))
        if kind == "random"
        else mdp.reward([1.0, 0.0])
    )
    v = np.zeros(mdp.n_states)
    solve_on_lattice(find(mdp), reward, gamma, ALPHA, 1e-8, v, 500)
    assert bellman_error(mdp, v, reward) <= max(1.1e-8, 4e-15 * np.abs(v).max())


def test_pieces_lie_side_by_side() -> None:
    free = np.ones((9, 9), dtype=bool)
    free[4], free[:, 4] = False, False
    lattice = find(make_world(free, 0.9, 0.1))
    assert lattice.shape == (8, 8)


def on_a_torus() -> TabularMDP:
    n = 6
    i, j = np.divmod(np.arange(n * n), n)
    P = np.zeros((n * n, 4, n * n))
    for a, (down, right) in enumerate(STEP):
        P[np.arange(n * n), a, (i + down) % n * n + (j + right) % n] = 1.0
    return TabularMDP(P.reshape(-1, n * n), np.zeros((n * n, 4, 1)), np.full(n * n, n**-2.0), 0.9)


def with_one_odd_state() -> TabularMDP:
    mdp = grid(6, gamma=0.9)
    P = mdp.transition.toarray()
    P[60] = P[61]  # one action of one state does what another does
    return TabularMDP(P, mdp.features, mdp.initial, 0.9)


def along_a_corridor() -> TabularMDP:
    return make_world(np.ones((1, 9), dtype=bool), 0.9, 0.0)


@pytest.mark.parametrize(
    "make",
    [on_a_torus, with_one_odd_state, along_a_corridor, lambda: random_mdp(0, 30, 3, 2)],
)
def test_what_is_no_lattice_is_left_alone(make: Callable[[], TabularMDP]) -> None:
    assert find_lattice(make()) is None


@pytest.mark.parametrize("gamma", [0.95, 0.9999])
def test_the_solver_takes_the_lattice_and_keeps_its_bounds(
    gamma: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    mdp = grid(40, gamma=gamma)
    reward = np.random.default_rng(1).normal(size=(1600, 4))
    plain = solve_soft(mdp, reward, 0.1, backend="numba")
    called = []
    monkeypatch.setattr(soft_numba, "LATTICE_STATES", 1)
    monkeypatch.setattr(
        soft_numba, "solve_on_lattice", lambda *args: called.append(1) or solve_on_lattice(*args)
    )
    fast = solve_soft(mdp, reward, 0.1, backend="numba")
    assert called == [1]
    assert fast.bellman_error <= 1e-9
    assert_allclose(fast.v, plain.v, atol=2e-9 / (1 - gamma))
    assert np.abs(np.exp(fast.log_policy) - np.exp(plain.log_policy)).max() <= (
        fast.policy_error + plain.policy_error
    )


def test_updates_are_limited() -> None:
    mdp = grid(20, gamma=0.99)
    reward, v = 16.0 * np.random.default_rng(0).normal(size=(400, 4)), np.zeros(400)
    assert solve_on_lattice(find(mdp), reward, 0.99, ALPHA, 1e-9, v, 2) == 2
    assert bellman_error(mdp, v, reward) > 1e-3
