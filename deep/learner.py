"""The neural `interfaces.Learner`: an agent that learns from rollouts in a vector environment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from mereq_min.checks import Array, check_number
from mereq_min.interfaces import Policy
from mereq_min.steps import Steps, time_weights

Mask = NDArray[np.bool_]


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


@dataclass(frozen=True, eq=False)
class Rollout:
    """Transitions of E environments over T steps, environments side by side.

    Attributes:
        state: (T, E, ...) observations.
        action: (T, E, ...) actions.
        features: (T, E, K) f(s, a).
        next_state: (T, E, ...) observations that followed; those before a reset, where there was one.
        terminated: (T, E) the step ended the episode in the MDP.
        t: (T, E) time within the episode [steps].
    """

    state: NDArray[Any]
    action: NDArray[Any]
    features: Array
    next_state: NDArray[Any]
    terminated: Mask
    t: NDArray[np.int64]

    def transitions(self) -> dict[str, NDArray[Any]]:
        """The columns that `Agent.add` takes, flattened to (T * E, ...)."""
        columns = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "t"}
        return {name: column.reshape(-1, *column.shape[2:]) for name, column in columns.items()}

    @property
    def in_first_episode(self) -> Mask:
        """(T, E) steps of the episode that an environment began with: of the others, the last one is cut."""
        return self.t == np.arange(len(self.t))[:, None]


def collect(
    envs: VectorEnv[Any, Any, Any], policy: Policy, n_steps: int, rng: np.random.Generator, seed: int
) -> Rollout:
    """Reset all environments and take `n_steps` steps in each.

    Every call begins fresh episodes, so that what follows depends on its arguments alone and nothing of the
    environments has to be saved.

    Args:
        envs: resets an environment in the step that ends its episode (AutoresetMode.SAME_STEP). Features come
            from info["features"] or, where there are none, the reward is the single feature.
        policy: draws the actions.
        n_steps: steps of each environment, T.
        rng: draws the policy's actions.
        seed: of the environments.

    Raises:
        ValueError: if the environments reset themselves at another time.
    """
    return Rollout(
        *(np.stack(column) for column in zip(*interact(envs, policy, n_steps, rng, seed), strict=True))
    )


def interact(
    envs: VectorEnv[Any, Any, Any], policy: Policy, n_steps: int, rng: np.random.Generator, seed: int
) -> Iterator[tuple[Any, ...]]:
    """Do what `collect` does step by step, so that an agent can learn meanwhile; the arguments are the same.

    Yields:
        One step of all E environments: a row (E, ...) of each column of `Rollout`.
    """
    if envs.metadata.get("autoreset_mode") != AutoresetMode.SAME_STEP:
        raise ValueError(
            "envs must reset in the step that ends an episode (autoreset_mode=AutoresetMode.SAME_STEP), got "
            f"{envs.metadata.get('autoreset_mode')}"
        )
    state, _ = envs.reset(seed=seed)
    t = np.zeros(envs.num_envs, dtype=np.int64)
    for _ in range(n_steps):
        action = policy.sample(state, rng)
        after_reset, reward, terminated, truncated, info = envs.step(action)
        next_state = _before_reset(after_reset, info)
        yield state.copy(), action, _features(reward, info), next_state, terminated.copy(), t
        state, t = after_reset, np.where(terminated | truncated, 0, t + 1)


def _before_reset(state: NDArray[Any], info: dict[str, Any]) -> NDArray[Any]:
    """The observations (E, ...) that a step led to, where some environments have been reset since."""
    state = state.copy()
    for i in np.flatnonzero(info.get("_final_obs", ())):
        state[i] = info["final_obs"][i]
    return state


def _features(reward: Array, info: dict[str, Any]) -> Array:
    """Features (E, K) of a step; gymnasium keeps those of an episode's last step apart, in final_info."""
    final = info.get("final_info", {})
    if "features" not in info and "features" not in final:
        return np.array(reward, dtype=np.float64)[:, None]
    features = np.array(info.get("features", final.get("features")), dtype=np.float64)
    if "features" in final:
        ended = final["_features"]
        features[ended] = final["features"][ended]
    return features


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
