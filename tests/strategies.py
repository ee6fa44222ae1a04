"""Random MDPs, policies and number generators for property tests.

Hypothesis draws and shrinks the structure of a problem; a seeded generator draws the numbers. About half of
what hypothesis draws is the simplest value of its kind, so that here this is an ordinary value and no limit.
"""

import numpy as np
import scipy.sparse as sp
from hypothesis import strategies as st

from mereq_min.mdp import Array, TabularMDP

generators = st.integers(0, 2**32 - 1).map(np.random.default_rng)
"""A new seeded numpy generator for each example."""

discounts = st.sampled_from([0.9, 0.99, 0.5, 0.0])
"""gamma."""

temperatures = st.floats(-1.3, 0.7).map(lambda exponent: 10.0**exponent)
"""alpha or alpha_hat from 0.05 to 5, for rewards of unit size; the simplest is 1."""

prior_weights = st.one_of(temperatures, st.just(0.0))
"""omega or omega', including 0."""


@st.composite
def mdps(draw: st.DrawFn) -> TabularMDP:
    """S <= 8, A <= 4, K <= 3, at most 3 successors a row, gamma from 0 to 0.99, at most 2 terminal states."""
    S, A, K = draw(st.integers(1, 8)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    terminal = np.zeros(S, dtype=bool)
    terminal[draw(st.lists(st.integers(0, S - 1), max_size=2))] = True
    # Spawned, so that a test which draws the same seed for its own tables gets different numbers.
    rng = draw(generators).spawn(1)[0]
    features = rng.normal(size=(S, A, K))
    features[terminal] = 0.0
    return TabularMDP(
        transition=_draw_transition(rng, S, A, terminal),
        features=features,
        initial=rng.dirichlet(np.ones(S)),
        gamma=draw(discounts),
        terminal=terminal,
    )


def _draw_transition(rng: np.random.Generator, S: int, A: int, terminal: np.ndarray) -> sp.csr_array:
    dense = np.zeros((S * A, S))
    for row in range(S * A):
        state = row // A
        successors = rng.choice(S, size=rng.integers(1, min(3, S) + 1), replace=False)
        if terminal[state]:
            dense[row, state] = 1.0
        else:
            dense[row, successors] = rng.dirichlet(np.ones(len(successors)))
    return sp.csr_array(dense)


def draw_table(mdp: TabularMDP, rng: np.random.Generator) -> Array:
    """Draw an (S, A) reward of unit size, not 0 in terminal states either."""
    return rng.normal(size=(mdp.n_states, mdp.n_actions))


def draw_log_policy(mdp: TabularMDP, rng: np.random.Generator, *, zeros: bool = False) -> Array:
    """Draw a random log pi(a | s) of shape (S, A); with `zeros` it never takes some actions (-inf)."""
    policy = rng.dirichlet(np.ones(mdp.n_actions), size=mdp.n_states)
    if zeros:
        keep = rng.random(policy.shape) < 0.5
        keep[np.arange(mdp.n_states), rng.integers(mdp.n_actions, size=mdp.n_states)] = True
        policy = np.where(keep, policy, 0.0)
        policy /= policy.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore"):
        return np.log(policy)
