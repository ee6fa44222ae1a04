"""Rollouts of a policy while an expert watches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mereq_min.interfaces import Expert, Imperfections, Oracle, Policy, Task
from mereq_min.policies import ActionCheck
from mereq_min.steps import Steps
from mereq_min.validation import check_number

if TYPE_CHECKING:
    import gymnasium

_ROW = (
    "state",
    "action",
    "policy_action",
    "features",
    "is_intervention",
    "episode",
    "t",
    "terminated",
    "truncated",
    "policy_version",
    "next_state",
    "seed",
)


class Drive:
    """Steps through episodes of an environment, one at a time, while somebody may take over at each.

    The policy proposes an action for every step, also while the expert is in control; what is taken is the
    proposal or the expert's own action. Between steps, `policy` and `policy_version` may be replaced: they
    count from the next proposal on.

    Args:
        env: the environment, whose info holds the features; it is reset.
        policy: proposes the actions.
        rng: draws the policy's actions and seeds the environment.
        policy_version: recorded with each step.
        first_episode: index of the first episode.

    Attributes:
        state: the state that the next action is taken in.
        t: time within the episode [steps].
        info: what the environment said of the last step.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        policy: Policy,
        rng: np.random.Generator,
        *,
        policy_version: int = 0,
        first_episode: int = 0,
    ) -> None:
        self.env, self.policy, self.policy_version = env, policy, policy_version
        self._rng, self._check = rng, ActionCheck(env.action_space)
        self._rows: list[tuple[Any, ...]] = []
        self._proposal: tuple[Any, int] = (None, policy_version)
        self._seed = int(rng.integers(2**31))
        self.state, _ = env.reset(seed=self._seed)
        self.episode, self.t, self.info = first_episode, 0, dict[str, Any]()

    def __len__(self) -> int:
        return len(self._rows)

    def propose(self) -> Any:
        """Draw the action (...) that the policy would take now; to be called once before each step."""
        action = self._check(self.policy.sample(np.asarray(self.state)[None], self._rng), 1)[0]
        self._proposal = action, self.policy_version
        return action

    def take(self, expert_action: Any | None) -> bool:
        """Take the expert's action (...), or for None the proposal; return whether that ended the episode.

        Raises:
            ValueError: if the expert returned something that is not an action.
        """
        policy_action, version = self._proposal
        intervened = expert_action is not None
        if intervened:
            self._check.check_one(expert_action)
        action = expert_action if intervened else policy_action
        following, _, terminated, truncated, info = self.env.step(action)
        features = np.array(info["features"], dtype=np.float64)
        self._rows.append(
            (
                self.state, action, policy_action, features, intervened, self.episode, self.t, terminated,
                truncated, version, following, self._seed,
            )
        )  # fmt: skip
        self.state, self.t, self.info = following, self.t + 1, info
        return bool(terminated or truncated)

    @property
    def last_action(self) -> Any:
        """The action of the last step; None before the first."""
        return self._rows[-1][_ROW.index("action")] if self._rows else None

    def begin_episode(self) -> None:
        """Reset the environment for the next episode."""
        self.state, _ = self.env.reset()
        self.episode, self.t = self.episode + 1, 0

    def steps(self) -> Steps:
        """The steps so far; if the last episode goes on, it is truncated there."""
        columns = {
            name: np.array(column) for name, column in zip(_ROW, zip(*self._rows, strict=True), strict=True)
        }
        columns["truncated"][-1] |= not columns["terminated"][-1]
        return Steps(**columns)


def rollout(
    task: Task,
    policy: Policy,
    expert: Expert | None,
    n_steps: int,
    rng: np.random.Generator,
    *,
    expert_rng: np.random.Generator | None = None,
    policy_version: int = 0,
    first_episode: int = 0,
    env: gymnasium.Env[Any, Any] | None = None,
    on_step: Callable[[bool], None] = lambda intervened: None,
) -> Steps:
    """Take `n_steps` steps in a new environment of the task, with the expert free to take over at each.

    Args:
        task: makes the environment, whose info holds the features.
        policy: proposes an action at every step, also while the expert is in control.
        expert: who watches; None for a rollout that nobody watches.
        n_steps: steps to take; the last episode is truncated there.
        rng: draws the policy's actions and seeds the environment.
        expert_rng: source of the expert's randomness; default: a stream spawned from `rng`.
        policy_version: recorded with each step.
        first_episode: index of the first episode.
        env: environment to use; default: `task.make_env()`. It is closed at the end.
        on_step: called after each step with whether the expert controlled it.

    Returns:
        The steps.

    Raises:
        ValueError: if `n_steps` is below 1, or what policy or expert return is no action.
    """
    check_number("n_steps", n_steps, 1, integer=True)
    env = task.make_env() if env is None else env
    if expert_rng is None:
        expert_rng = rng.spawn(1)[0]
    drive = Drive(env, policy, rng, policy_version=policy_version, first_episode=first_episode)
    if expert is not None:
        expert.reset(expert_rng)
    for _ in range(n_steps):
        proposal = drive.propose()
        expert_action = None if expert is None else expert.intervene(drive.state, proposal)
        ended = drive.take(expert_action)
        on_step(expert_action is not None)
        if ended:
            drive.begin_episode()
            if expert is not None:
                expert.reset(expert_rng)
    env.close()
    return drive.steps()


def watch(
    task: Task,
    policy: Policy,
    oracle: Oracle,
    n_steps: int,
    seed: int | Sequence[int],
    imperfections: Imperfections = Imperfections(),
) -> Steps:
    """Roll out a policy while the oracle's expert watches.

    Args:
        task: makes the environment.
        policy: proposes the actions.
        oracle: makes the expert.
        n_steps: steps to take.
        seed: seed of environment, policy and expert; several numbers make one seed.
        imperfections: errors of the expert; by default there are none.

    Returns:
        The steps.
    """
    rngs = [np.random.default_rng(stream) for stream in np.random.SeedSequence(seed).spawn(2)]
    return rollout(task, policy, oracle.make_expert(imperfections), n_steps, rngs[0], expert_rng=rngs[1])
