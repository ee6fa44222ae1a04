"""Films of policies as scenes, which the page draws: before an update and after it."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from mereq_min.interfaces import Policy, Task
from mereq_min.lab.human.scenes import scene_of
from mereq_min.rollout import rollout

LONGEST_FILM, LONGEST_PICTURES = 100, 25
"""Most frames of a film that is drawn in the page, and of one of pictures [frames]."""


class _Watched(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Keeps what the first episode shows."""

    def __init__(self, task: Task, stride: int) -> None:
        self.scene = scene_of(task)
        super().__init__(task.make_env(self.scene.render_mode))
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
        self._keep()
        return found

    def _keep(self) -> None:
        if self._episodes == 1 and self._t % self._stride == 0:
            self.scenes.append(self.scene.moving(self.env))


def film_scenes(task: Task, policy: Policy, seed: int) -> list[dict[str, Any]]:
    """What the first episode of a policy that nobody watches shows, as `scenes` draws it.

    Args:
        task: the task.
        policy: drives.
        seed: of the episode: two policies with the same seed are shown from the same start.
    """
    longest = LONGEST_PICTURES if scene_of(task).needs_pictures else LONGEST_FILM
    env = _Watched(task, -(-(task.horizon + 1) // longest))
    rollout(task, policy, None, task.horizon, np.random.default_rng(seed), env=env)
    return env.scenes
