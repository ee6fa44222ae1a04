"""Small test problems: a dense random MDP, steps made by hand, and whole trajectories."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mereq_min.interfaces import Policy
from mereq_min.mdp import Array, TabularMDP
from mereq_min.steps import Steps


def make_mdp(
    seed: int, *, S: int = 6, A: int = 3, K: int = 2, gamma: float = 0.9, terminal: ArrayLike = ()
) -> TabularMDP:
    """Return a random MDP without structure, except for the listed terminal states."""
    rng = np.random.default_rng(seed)
    mask = np.isin(np.arange(S), terminal)
    transition = rng.dirichlet(np.full(S, 0.5), size=(S, A))
    transition[mask] = np.eye(S)[mask][:, None, :]
    features = np.where(mask[:, None, None], 0.0, rng.uniform(size=(S, A, K)))
    initial = np.where(mask, 0.0, 1.0) / (~mask).sum()
    return TabularMDP(transition.reshape(S * A, S), features, initial, gamma, mask)


def make_steps(features: ArrayLike, **columns: Any) -> Steps:
    """Return expert steps of one episode in state 0, except for the given columns; features (N, K)."""
    features = np.array(features, dtype=float)
    n = len(features)
    zeros, no = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=bool)
    default = {
        "state": zeros,
        "action": zeros,
        "is_intervention": ~no,
        "episode": zeros,
        "t": np.arange(n),
        "terminated": no,
        "truncated": no,
        "policy_version": zeros,
    }
    columns = default | columns
    return Steps(features=features, **{"policy_action": columns["action"]} | columns)


def draw_steps(
    mdp: TabularMDP,
    policy: Policy,
    rng: np.random.Generator,
    *,
    n_episodes: int,
    horizon: int,
    initial: Array | None = None,
) -> Steps:
    """Draw whole episodes of expert steps under one policy, from rho0 or another distribution (S,)."""
    S, A = mdp.n_states, mdp.n_actions
    cumulative = mdp.transition.toarray().cumsum(axis=1)[:, :-1]
    states, actions = np.empty((2, n_episodes, horizon), dtype=np.int64)
    state = rng.choice(S, size=n_episodes, p=mdp.initial if initial is None else initial)
    for t in range(horizon):
        action = policy.sample(state, rng)
        states[:, t], actions[:, t] = state, action
        state = (rng.random(n_episodes)[:, None] >= cumulative[state * A + action]).sum(axis=1)
    episode, t = np.nonzero(~mdp.terminal[states])
    state, action = states[episode, t], actions[episode, t]
    return make_steps(mdp.features[state, action], state=state, action=action, episode=episode, t=t)
