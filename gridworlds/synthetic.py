"""MDPs of any size: random ones (Garnet) and open square grids."""

import numpy as np
import scipy.sparse as sp

from gridworlds.maps import _move_matrix, _next_states
from mereq_min.mdp import TabularMDP


def grid(n: int, *, slip: float = 0.1, gamma: float = 0.99) -> TabularMDP:
    """Return an open n x n grid, for tests of scale: four moves, no terminal state, uniform rho0.

    A move slips to either side with probability slip / 2 each; the rim stops it. Features: `goal`, 1 in the
    last corner; `height`, smooth hills in [0, 1].

    Args:
        n: side length >= 2; 1000 gives a million states.
        slip: probability in [0, 1] of moving sideways.
        gamma: discount factor in [0, 1).

    Returns:
        The MDP with S = n * n, A = 4, K = 2; state = row * n + column.

    Raises:
        ValueError: on a side under 2 or an impossible slip or gamma.
    """
    if n < 2:
        raise ValueError(f"n must be at least 2, got {n}")
    S = n * n
    states = np.arange(S, dtype=np.int32).reshape(n, n)
    wave = np.sin(np.linspace(0.0, 3.0 * np.pi, n))
    features = np.zeros((S, 4, 2))
    features[-1, :, 0] = 1.0
    features[:, :, 1] = (0.5 + 0.5 * np.outer(wave, wave)).reshape(S, 1)
    return TabularMDP(
        transition=_move_matrix(_next_states(states), slip, n_actions=4),
        features=features,
        initial=np.full(S, 1.0 / S),
        gamma=gamma,
    )


def random_mdp(
    seed: int, S: int, A: int, K: int, *, branching: int | None = None, gamma: float = 0.9
) -> TabularMDP:
    """Return a random Garnet MDP, Archibald, McKinnon and Thomas (1995).

    Each (s, a) leads to `branching` states drawn without replacement; their probabilities are the gaps
    between sorted uniform numbers. Features are uniform on [0, 1], and so is rho0 on the states.

    Args:
        seed: seed of the random generator.
        S: number of states.
        A: number of actions.
        K: number of features.
        branching: number of successors of each (s, a), 1 to S; default min(S, 5).
        gamma: discount factor in [0, 1).

    Returns:
        The MDP.

    Raises:
        ValueError: if `branching` does not lie in 1..S, or from `TabularMDP`.
    """
    branching = min(S, 5) if branching is None else branching
    if not 1 <= branching <= S:
        raise ValueError(f"branching must lie in 1..S = {S}, got {branching}")
    rng = np.random.default_rng(seed)
    successors = rng.random((S * A, S)).argsort(axis=1)[:, :branching]
    cuts = np.sort(rng.random((S * A, branching - 1)), axis=1)
    probabilities = np.diff(cuts, axis=1, prepend=0.0, append=1.0)
    rows = np.repeat(np.arange(S * A), branching)
    return TabularMDP(
        transition=sp.csr_array((probabilities.ravel(), (rows, successors.ravel())), shape=(S * A, S)),
        features=rng.random((S, A, K)),
        initial=np.full(S, 1.0 / S),
        gamma=gamma,
    )
