"""The neural `interfaces.Learner`, whose agent learns from rollouts in a vector environment.

`TemperedNeuralLearner` also varies the weight of the prior.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from deep.rollouts import Rollout, collect, collect_from, join_states, repeat_actions, select_states
from deep.streams import stream
from mereq_min.interfaces import FeatureSums, Policy
from mereq_min.steps import Steps, ratio_covariance, time_weights
from mereq_min.validation import Array, Mask, check_number


class Agent(Protocol):
    """Learns the policy for a theta off-policy; `ResidualDQN` and `ResidualSAC` are agents.

    `policy`, `score` and `information` refer to the theta of the last `update`; before it, theta is 0.
    """

    def add(
        self,
        state: NDArray[Any],
        action: NDArray[Any],
        features: Array,
        next_state: NDArray[Any],
        terminated: Mask,
    ) -> None:
        """Store N transitions in the replay buffer."""
        ...

    def update(self, theta: Array, n_updates: int) -> dict[str, float]:
        """Take gradient steps for the reward theta . f, and return metrics by name."""
        ...

    def policy(self) -> Policy:
        """Return a frozen copy of the policy."""
        ...

    def explorer(self) -> Policy:
        """Return the policy that collects transitions while a prior is trained."""
        ...

    def score(self, state: NDArray[Any], action: NDArray[Any]) -> Array:
        """Return grad_theta log pi_hat(a | s) (N, K) of actions (N, ...) in states (N, ...)."""
        ...

    def information(self, state: NDArray[Any]) -> Array:
        """Return the Fisher information (N, K, K) on theta of one action in each of the states (N, ...)."""
        ...

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return everything that later updates depend on, as named arrays."""
        ...

    def restore(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Restore what `arrays` returned."""
        ...


@dataclass(frozen=True)
class LearnerConfig:
    """Budget of a solve."""

    num_envs: int = 64
    """Parallel environments, at least 2; each of them runs for `horizon` steps in a round [environments]."""
    updates: int = 100
    """Gradient updates in a round [updates]."""
    first_rounds: int = 30
    """Rounds of the first solve; each later solve continues from the last one with one round [rounds]."""
    rounds_per_rollout: int = 4
    """Rounds between rollouts of a first solve for theta 0, whose policy hardly changes: fewer rollouts
    suffice [rounds]."""

    def __post_init__(self) -> None:
        for name in ("updates", "first_rounds", "rounds_per_rollout"):
            check_number(name, getattr(self, name), 1, integer=True)
        check_number("num_envs", self.num_envs, 2, integer=True)


class NeuralLearner:
    """Solves for the policy of a theta with an agent (`interfaces.Learner`).

    A solve consists of rounds. Each round takes gradient updates for theta, then rolls the policy out over
    fresh episodes, which are added to the agent's replay buffer. In a first solve for theta 0, only some
    rounds include a rollout, see `LearnerConfig.rounds_per_rollout`.

    Args:
        agent: learns the policy.
        make_envs: returns a vector environment of the given number of environments, see `collect`.
        horizon: time limit of an episode [steps].
        discount: discount factor of feature expectations, not the agent's gamma; 1 weighs all steps equally.
        config: budget of a solve.
        seed: seed of environments and actions; the agent has its own.

    Raises:
        ValueError: if a number is out of range.
    """

    is_exact = False

    def __init__(
        self,
        agent: Agent,
        make_envs: Callable[[int], VectorEnv[Any, Any, Any]],
        *,
        horizon: int,
        discount: float = 1.0,
        config: LearnerConfig | None = None,
        seed: int = 0,
    ) -> None:
        check_number("horizon", horizon, 1, integer=True)
        check_number("discount", discount, 0, 1, exclusive=True)
        self.agent, self.horizon, self.discount = agent, horizon, discount
        self.config, self.seed = config or LearnerConfig(), seed
        self._make_envs, self._envs = make_envs, make_envs(self.config.num_envs)
        self._simulator_states: dict[Hashable, Any] = {}
        self._rollouts = 0
        self._policy = agent.policy()
        self._episodes: Rollout | None = None

    @property
    def policy(self) -> Policy:
        """The last solved policy."""
        self._solved()
        return self._policy

    def solve(self, theta: Array) -> Policy:
        """Return the policy for theta (K,), warm-started from the last call."""
        rounds = period = 1
        if self._rollouts == 0:
            rounds = self.config.first_rounds
            period = 1 if np.any(theta) else self.config.rounds_per_rollout
            self._roll_out()
        for number in range(1, rounds + 1):
            self.agent.update(theta, self.config.updates)
            self._policy = self.agent.policy()
            if number % period == 0 or number == rounds:
                self._roll_out()
        return self._policy

    def mean_features(self) -> Array:
        """Return the mean features (K,) of the last solved policy over the episodes of its rollout."""
        episodes = self._solved()
        weights = self._time_weights()
        return np.einsum("te,tek->k", weights, episodes.features) / weights.sum()

    def mean_features_covariance(self) -> Array:
        """Return the covariance (K, K) of `mean_features`' sampling errors, from the spread of episodes."""
        weights = self._time_weights()
        centred = self._solved().features - self.mean_features()
        return ratio_covariance(np.einsum("te,tek->ek", weights, centred), weights.sum())

    def mean_features_jacobian(self) -> Array:
        """Return the Jacobian (K, K) of `mean_features`, [k, l] = d mean_k / d theta_l.

        It is estimated on the same episodes by the score-function identity (Williams 1992), for the ratio
        sum w f / sum w:
        sum_t (sum_{u >= t} w_u (f_u - f_bar) - baseline_t) grad_theta log pi_hat(a_t | s_t) / sum w.
        The baseline is the mean over the episodes. The noise falls as one over the square root of their
        number.
        """
        episodes, weights = self._solved(), self._time_weights()
        centred = weights[..., None] * (episodes.features - self.mean_features())
        to_come = np.cumsum(centred[::-1], axis=0)[::-1]
        alive = episodes.in_first_episode[..., None]
        to_come -= to_come.sum(axis=1, keepdims=True, where=alive) / np.maximum(
            alive.sum(axis=1, keepdims=True), 1
        )
        flat = episodes.transitions()
        score = self.agent.score(flat["state"], flat["action"]).reshape(to_come.shape)
        return np.einsum("tek,tel->kl", alive * to_come, score) / weights.sum()

    @property
    def can_restart(self) -> bool:
        """Whether its environments are `rollouts.CopyingEnvs`."""
        return hasattr(self._envs, "get_state") and hasattr(self._envs, "set_state")

    def feature_sums(
        self,
        steps: Steps,
        rows: NDArray[np.intp],
        counts: NDArray[np.int64],
        varied: NDArray[np.int64],
        n_paths: int,
    ) -> FeatureSums:
        """Return what the last solved policy collects from the states of some steps on.

        The simulator is brought into these states by taking the recorded actions again. Derivatives are
        estimated by the score-function identity (Williams 1992), with the mean of the other paths from the
        same state as the baseline. See `interfaces.SegmentLearner`.
        """
        m, K, T = len(rows), self._solved().features.shape[2], int(counts.max(initial=1))
        features, score = (np.zeros((T, m * n_paths, K)) for _ in range(2))
        rng = stream(self.seed, "paths", self._rollouts)
        count = np.repeat(counts, n_paths)
        for starts, paths in self._batches(steps, rows, count):
            n = int(count[paths].max())
            envs = self._restartable[1]
            found = collect_from(envs, starts, self._policy, n, rng, int(rng.integers(2**31)))
            flat = found.transitions()
            scores = self.agent.score(flat["state"], flat["action"]).reshape(found.features.shape)
            taken = (found.in_first_episode[:, : len(paths)] & (np.arange(n)[:, None] < count[paths]))[
                ..., None
            ]
            features[:n, paths] = taken * found.features[:, : len(paths)]
            score[:n, paths] = taken * scores[:, : len(paths)]
        shape = (T, m, n_paths, K)
        features, score = features.reshape(shape), score.reshape(shape)
        score *= (np.arange(T)[:, None] < varied)[:, :, None, None]
        to_come = np.cumsum(features[::-1], axis=0)[::-1]
        over_others = n_paths / (n_paths - 1) * (to_come - to_come.mean(axis=2, keepdims=True))
        spread = over_others[0] if m else np.zeros((0, n_paths, K))
        return FeatureSums(
            features.sum(axis=0).mean(axis=1),
            np.einsum("tmpk,tmpj->mkj", over_others, score) / n_paths,
            np.einsum("mpk,mpl->mkl", spread, spread) * (n_paths - 1) / n_paths**2,
            float(n_paths),
        )

    def scores(self, steps: Steps) -> Array:
        """Return grad_theta log pi_hat(a | s) (N, K) of the steps' actions, at the last theta."""
        self._solved()
        return self.agent.score(steps.state, steps.action)

    def information(self, steps: Steps, weights: Array | None = None) -> Array:
        """Return the Fisher information (K, K) on theta of the steps' actions, at the last theta.

        Args:
            steps: the steps.
            weights: (N,) weights of the steps; default: 1.
        """
        self._solved()
        weights = np.ones(len(steps)) if weights is None else weights
        return np.einsum("n,nkl->kl", weights, self.agent.information(steps.state))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the agent's state and the number of rollouts so far."""
        return {**self.agent.arrays(), "rollouts": np.array(self._rollouts)}

    def restore(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Restore what `arrays` returned; the last rollout is repeated, with the same result."""
        self.agent.restore(arrays)
        self._policy, self._rollouts = self.agent.policy(), int(arrays["rollouts"])
        self._episodes = self._collect(self._rollouts - 1) if self._rollouts else None

    @cached_property
    def _restartable(self) -> tuple[Any, Any]:
        """One environment that replays, and `PARALLEL_PATHS` of them that start at given states."""
        return self._make_envs(1), self._make_envs(PARALLEL_PATHS)

    def _batches(
        self, steps: Steps, rows: NDArray[np.intp], count: NDArray[np.int64]
    ) -> Iterator[tuple[Any, NDArray[np.intp]]]:
        """Yield initial states of all restartable environments, and the paths that the first of them take.

        Paths of about the same length go together; further environments repeat them.
        """
        if len(rows) == 0:
            return
        states, n_paths = self._states_at(steps, rows), len(count) // len(rows)
        order = np.argsort(-count, kind="stable")
        for first in range(0, len(order), PARALLEL_PATHS):
            paths = order[first : first + PARALLEL_PATHS]
            yield select_states(states, np.resize(paths, PARALLEL_PATHS) // n_paths), paths

    def _states_at(self, steps: Steps, rows: NDArray[np.intp]) -> Any:
        """Return the states of the simulator (m rows) before the steps in some rows (m,)."""
        if steps.seed is None:
            raise ValueError(_CANNOT_REPLAY)
        edges = np.flatnonzero(np.diff(steps.seed, prepend=steps.seed[0] - 1, append=steps.seed[-1] - 1))
        wanted, place = np.unique(rows, return_inverse=True)
        parts = []
        for start, stop in pairwise(edges.tolist()):
            inside = wanted[(wanted >= start) & (wanted < stop)] - start
            if len(inside):
                parts.append(self._restore_states(steps, slice(start, stop), inside))
        return select_states(join_states(parts), place)

    def _restore_states(self, steps: Steps, part: slice, rows: NDArray[np.intp]) -> Any:
        assert steps.seed is not None
        seed, action = int(steps.seed[part.start]), steps.action[part]
        key = seed, rows.tobytes(), action[: rows[-1]].tobytes()
        if key not in self._simulator_states:
            state, observation = repeat_actions(self._restartable[0], seed, action, rows)
            if not np.allclose(observation, steps.state[part][: len(observation)], rtol=0, atol=1e-6):
                raise ValueError(_CANNOT_REPLAY)
            self._simulator_states[key] = state
        return self._simulator_states[key]

    def _roll_out(self) -> None:
        """Roll the policy out over fresh episodes, and add them to the agent's replay buffer."""
        self._episodes = self._collect(self._rollouts)
        self._rollouts += 1
        self.agent.add(**self._episodes.transitions())

    def _collect(self, number: int) -> Rollout:
        rng = stream(self.seed, "rollouts", number)
        return collect(self._envs, self._policy, self.horizon, rng, seed=int(rng.integers(2**31)))

    def _solved(self) -> Rollout:
        if self._episodes is None:
            raise ValueError("call solve(theta) first: no policy has been solved for yet")
        return self._episodes

    def _time_weights(self) -> Array:
        """Return the weight (T, E) of each step in feature expectations; 0 after the first episode."""
        episodes = self._solved()
        return episodes.in_first_episode * time_weights(episodes.t, self.discount)


PARALLEL_PATHS = 128
"""Paths that are simulated side by side from the starts of interventions [environments]."""

_CANNOT_REPLAY = (
    "the recorded actions do not lead the simulator through these steps, so that MEReQ-S cannot start a "
    "policy where the expert took over; fit them by MEReQ-R"
)

MIN_LOG_PRIOR_FEATURE = -20.0
"""Least log pi(a | s) that counts as a feature [nats]. Policies hardly ever take rarer actions, and a network
that had to predict their log-probabilities would predict nothing else well."""


class TemperedNeuralLearner(NeuralLearner):
    """Solves for (theta, omega' / omega'_0 - 1) with an agent (`interfaces.TemperedLearner`).

    The agent has K + 1 features. The last is omega'_0 log pi(a | s), with `MIN_LOG_PRIOR_FEATURE` in place of
    rarer actions; at weight 0 the policy is that of the residual reward theta . f.

    Book: eq-expert-temperature.

    Args:
        agent: learns the policy.
        *arguments: the others of `NeuralLearner`.
        log_prior: log pi(a | s) (N,) of actions (N, ...) in states (N, ...), over a Box that of unit actions.
        scaled_prior_weight: omega'_0 [reward].
        **options: those of `NeuralLearner`.
    """

    def __init__(
        self,
        agent: Agent,
        *arguments: Any,
        log_prior: Callable[[NDArray[Any], NDArray[Any]], Array],
        scaled_prior_weight: float,
        **options: Any,
    ) -> None:
        super().__init__(agent, *arguments, **options)
        self._log_prior, self._scaled_prior_weight = log_prior, scaled_prior_weight

    def _collect(self, number: int) -> Rollout:
        steps = super()._collect(number)
        flat = steps.transitions()
        log_prior = np.maximum(self._log_prior(flat["state"], flat["action"]), MIN_LOG_PRIOR_FEATURE)
        term = self._scaled_prior_weight * log_prior.reshape(*steps.t.shape, 1)
        return replace(steps, features=np.concatenate([steps.features, term], axis=2))
