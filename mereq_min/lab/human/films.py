"""Films of policies as scenes, which the page draws: before an update and after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from mereq_min.interfaces import Policy, Task
from mereq_min.lab.human.scenes import Scene, scene_of
from mereq_min.rollout import rollout
from mereq_min.steps import Steps

LONGEST_FILM, LONGEST_PICTURES = 100, 25
"""Most frames of a film that is drawn in the page, and of one of pictures [frames]."""


class _Watched(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Keeps what the first episode shows."""

    def __init__(self, task: Task, scene: Scene, stride: int) -> None:
        super().__init__(task.make_env(scene.render_mode))
        self.scene = scene
        self.scenes: list[dict[str, Any]] = []
        self._stride, self._t, self._episodes = stride, 0, 0

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        found = self.env.reset(**options)
        self._episodes += 1
        self._keep()
        return found

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step."""
        found = self.env.step(action)
        self._t += 1
        self._keep(is_last=found[2] or found[3])
        return found

    def _keep(self, *, is_last: bool = False) -> None:
        if self._episodes == 1 and (is_last or self._t % self._stride == 0):
            self.scenes.append(self.scene.moving(self.env))


@dataclass(frozen=True)
class PolicyFilm:
    """An episode that nobody watches.

    Attributes:
        scenes: what its frames show, as `scenes` draws it; the last is the end of the episode.
        steps: the steps that were taken in the states of the frames but the last.
    """

    scenes: list[dict[str, Any]]
    steps: Steps


def film_policy(task: Task, policy: Policy, seed: int) -> PolicyFilm:
    """Film the first episode of a policy that nobody watches.

    Args:
        task: the task.
        policy: drives.
        seed: of the episode: two policies with the same seed are shown from the same start.
    """
    scene = scene_of(task)
    longest = LONGEST_PICTURES if scene.needs_pictures else LONGEST_FILM
    stride = -(-(task.horizon + 1) // longest)
    env = _Watched(task, scene, stride)
    steps = rollout(task, policy, None, task.horizon, np.random.default_rng(seed), env=env)
    return PolicyFilm(env.scenes, steps.select((steps.episode == 0) & (steps.t % stride == 0)))
