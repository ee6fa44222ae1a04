"""The neural `interfaces.Learner`: an agent that learns from rollouts in a vector environment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from deep.rollouts import Mask, Rollout, collect
from mereq_min.interfaces import Policy
from mereq_min.steps import Steps, time_weights
from mereq_min.validation import Array, check_number


class Agent(Protocol):
    """Off-policy learning of the policy for a theta; residual soft DQN and residual SAC offer it.

    The policy, `score` and `information` are those of the theta of the last `update`, at first theta = 0.
    """

    def add(
        self,
        state: NDArray[Any],
        action: NDArray[Any],
        features: Array,
        next_state: NDArray[Any],
        terminated: Mask,
    ) -> None:
        """Store N transitions in the replay."""
        ...

    def update(self, theta: Array, n_updates: int) -> dict[str, float]:
        """Take gradient steps with rewards theta . f; returns metrics by name."""
        ...

    def policy(self) -> Policy:
        """A frozen copy of the policy."""
        ...

    def explorer(self) -> Policy:
        """The policy to collect transitions with while a prior is trained."""
        ...

    def score(self, state: NDArray[Any], action: NDArray[Any]) -> Array:
        """grad_theta log pi_hat(a | s) (N, K) of actions (N, ...) in states (N, ...)."""
        ...

    def information(self, state: NDArray[Any]) -> Array:
        """Fisher information (N, K, K) on theta that one action carries in each of the states (N, ...)."""
        ...

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything that later updates depend on, as named arrays."""
        ...

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Take back what `state` returned."""
        ...


@dataclass(frozen=True)
class LearnerConfig:
    """How much a solve may cost."""

    num_envs: int = 64
    """Environments side by side; each rolls out one whole episode a round [environments]."""
    updates: int = 100
    """Gradient updates of a round [updates]."""
    first_rounds: int = 30
    """Rounds of the first solve; each later one goes on from the last with a single round [rounds]."""

    def __post_init__(self) -> None:
        check_number("num_envs", self.num_envs, 1, whole=True)
        check_number("updates", self.updates, 1, whole=True)
        check_number("first_rounds", self.first_rounds, 1, whole=True)


class NeuralLearner:
    """`interfaces.Learner` by an agent: a round is gradient updates for theta, then fresh episodes to replay.

    Args:
        agent: learns the policy.
        make_envs: returns that many environments behind one vector environment, see `collect`.
        horizon: time limit of an episode [steps].
        discount: weight of time in feature expectations; 1 weighs the steps of a rollout alike.
        config: budget of a solve.
        seed: of environments and actions; the agent has its own.

    Raises:
        ValueError: on malformed numbers.
    """

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
        check_number("horizon", horizon, 1, whole=True)
        check_number("discount", discount, 0, 1, above=True)
        self.agent, self.horizon, self.discount = agent, horizon, discount
        self.config, self.seed = config or LearnerConfig(), seed
        self._envs = make_envs(self.config.num_envs)
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
        rounds = 1
        if self._rollouts == 0:
            rounds = self.config.first_rounds
            self._roll_out()
        for _ in range(rounds):
            self.agent.update(theta, self.config.updates)
            self._policy = self.agent.policy()
            self._roll_out()
        return self._policy

    def mean_features(self) -> Array:
        """Mean features (K,) of the last solved policy over its whole episodes."""
        episodes = self._solved()
        weights = self._time_weights()
        return np.einsum("te,tek->k", weights, episodes.features) / weights.sum()

    def mean_features_jacobian(self) -> Array:
        """Derivative of `mean_features` (rows, K) with respect to theta (columns, K).

        By the score-function identity (Williams 1992) on the same episodes, for the ratio sum w f / sum w:
        sum_t (sum_{u >= t} w_u (f_u - f_bar) - baseline_t) grad_theta log pi_hat(a_t | s_t) / sum w, with the
        mean over the episodes as the baseline. Its noise falls with the square root of their number.
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

    def score(self, steps: Steps) -> Array:
        """Gradient (K,) of the log-likelihood of the steps' actions at the last theta."""
        self._solved()
        return self.agent.score(steps.state, steps.action).sum(axis=0)

    def information(self, steps: Steps) -> Array:
        """Fisher information (K, K) that the steps' actions carry at the last theta."""
        self._solved()
        return self.agent.information(steps.state).sum(axis=0)

    def state(self) -> dict[str, NDArray[Any]]:
        """The agent, and how often the environments were rolled out."""
        return {**self.agent.state(), "rollouts": np.array(self._rollouts)}

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Take back what `state` returned; the last episodes are rolled out again, as they were."""
        self.agent.restore(state)
        self._policy, self._rollouts = self.agent.policy(), int(state["rollouts"])
        self._episodes = self._collect(self._rollouts - 1) if self._rollouts else None

    def _roll_out(self) -> None:
        """Roll the policy out over fresh episodes, and let the agent learn from them later."""
        self._episodes = self._collect(self._rollouts)
        self._rollouts += 1
        self.agent.add(**self._episodes.transitions())

    def _collect(self, number: int) -> Rollout:
        rng = np.random.default_rng([self.seed, number])
        return collect(self._envs, self._policy, self.horizon, rng, seed=int(rng.integers(2**31)))

    def _solved(self) -> Rollout:
        if self._episodes is None:
            raise ValueError("call solve(theta) first: there is no policy to speak of yet")
        return self._episodes

    def _time_weights(self) -> Array:
        """Weight (T, E) of each step in the feature expectation; 0 after the first episode."""
        episodes = self._solved()
        return episodes.in_first_episode * time_weights(episodes.t, self.discount)
