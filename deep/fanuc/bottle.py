"""Robot cells in which a bottle is pushed to a goal."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from deep.fanuc.cells import SPEED, UNIT, Cells, draw_disc, draw_shadow
from mereq_min.validation import Array


class BottleCells(Cells):
    """Bottle-Pushing-Sim: push a wine bottle over the table to a goal; the tip may touch it at any height.

    Features, each clipped to [0, 1]: `tip2bottle`, the horizontal distance from the tip to the bottle's
    surface / 0.3 m; `bottle2goal`, the distance from the bottle to the goal / 0.3 m; `control`, the mean
    square of the action; `table_dist`, the height of the tip above the table / 0.2 m.

    Observations: the horizontal vector from the bottle to the tip (2), height of the tip (1), lead of the
    commanded point (3), vector from the bottle to the goal (2), position of the bottle (2), its velocity /
    `SPEED` (2).
    """

    scene, tool, tool_length, tool_pitch = "bottle", "stick", 0.20, np.pi / 4
    workspace = (0.44, -0.35, 0.02), (1.0, 0.35, 0.30)
    features = ("tip2bottle", "bottle2goal", "control", "table_dist")
    n_observations = 12

    RADIUS = 0.0495
    """Sum of the radii of bottle and tip [m]."""
    GOAL_RADIUS = 0.03
    """Distance of the bottle from the goal up to which the task counts as done [m]."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.bottle, self.velocity, self.goal = (np.zeros((count, 2)) for _ in range(3))
        self._x = self.model.joint("scene/bottle x").qposadr[0]
        self._v = self.model.joint("scene/bottle x").dofadr[0]

    def sample_initial_state(self, n: int, rng: np.random.Generator) -> Array:
        """Draw bottle and goal of cell n; return the tip's initial position (3,) behind the bottle [m]."""
        bottle = rng.uniform((0.58, -0.12), (0.68, 0.12))
        distance, angle = rng.uniform((0.12, -np.pi / 4), (0.24, np.pi / 4))
        heading = np.array([np.cos(angle), np.sin(angle)])
        self.goal[n] = bottle + distance * heading
        self.data[n].qpos[self._x : self._x + 2] = bottle - self.model.body("scene/bottle").pos[:2]
        return np.append(bottle - rng.uniform(0.08, 0.12) * heading, rng.uniform(0.07, 0.15))

    def _read(self, n: int, data: mujoco.MjData) -> None:
        self.bottle[n] = data.qpos[self._x : self._x + 2] + self.model.body("scene/bottle").pos[:2]
        self.velocity[n] = data.qvel[self._v : self._v + 2]

    def observe(self) -> Array:
        """Return observations (N, n_observations); lengths are in dm."""
        tip, bottle = self.tip, self.bottle
        return np.hstack(
            (
                (tip[:, :2] - bottle) / UNIT,
                tip[:, 2:] / UNIT,
                self._lead(),
                (self.goal - bottle) / UNIT,
                (bottle - (0.65, 0.0)) / UNIT,
                self.velocity / SPEED,
            )
        )

    def _measure(self, action: Array) -> Array:
        apart = np.linalg.norm(self.tip[:, :2] - self.bottle, axis=1)
        left = np.linalg.norm(self.goal - self.bottle, axis=1)
        effort = (action**2).mean(axis=1)
        terms = (apart - self.RADIUS) / 0.3, left / 0.3, effort, self.tip[:, 2] / 0.2
        return np.clip(np.stack(terms, axis=1), 0, 1)

    @staticmethod
    def violates(observation: NDArray[Any], limit: float) -> bool:
        """Return whether the tip touches the bottle too high up, or is far from a bottle not yet at its goal.

        A tip less than 1 cm away counts as touching. A tip is far if it is farther from the bottle than in
        any initial state.

        Args:
            observation: (n,) what the expert sees.
            limit: height of the tip above the table that is too high, as a fraction of 0.2 m.
        """
        distance = np.linalg.norm(observation[:2]) * UNIT
        is_high = observation[2] * UNIT > 0.2 * limit
        is_astray = distance > 0.18 and not BottleCells.succeeded(observation[None])[0]
        return bool((distance < BottleCells.RADIUS + 0.01 and is_high) or is_astray)

    @staticmethod
    def succeeded(observation: NDArray[Any]) -> NDArray[np.bool_]:
        """Return (N,) whether the task is done, judged by observations (N, n)."""
        return np.linalg.norm(observation[:, 6:8], axis=1) * UNIT <= BottleCells.GOAL_RADIUS

    def draw_marks(self, scene: mujoco.MjvScene) -> None:
        """Draw what is not part of the model into the picture of the first cell: the goal."""
        draw_disc(scene, (*self.goal[0], 0.0005), 0.05, (0.15, 0.55, 0.30, 1))
        draw_disc(scene, (*self.goal[0], 0.0010), 0.04, (0.92, 0.95, 0.90, 1))

    def draw_shadows(self, scene: mujoco.MjvScene) -> None:
        """Draw the shadows of the tip and the bottle into the picture of the first cell."""
        draw_shadow(scene, self.bottle[0], self.surface, (0.052, 0.052))
        super().draw_shadows(scene)


class TopplingBottleCells(BottleCells):
    """`BottleCells` with a bottle that falls over if it is pushed too high up.

    With a friction coefficient of 0.3 it does so from 12.5 cm on. Once it has fallen, `bottle2goal` is 1 and
    the task has failed.

    Observations: those of `BottleCells`, and the horizontal components of the bottle's axis (2), which are 0
    while it stands upright.
    """

    scene = "toppling_bottle"
    n_observations = 14

    UPRIGHT = 0.8
    """Cosine of the tilt below which the bottle counts as fallen."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.axis = np.zeros((count, 3))
        self._bottle = self.model.body("scene/bottle").id

    def _read(self, n: int, data: mujoco.MjData) -> None:
        super()._read(n, data)
        self.axis[n] = data.xmat[self._bottle].reshape(3, 3)[:, 2]

    def observe(self) -> Array:
        """Return observations (N, n_observations); lengths are in dm."""
        return np.hstack((super().observe(), self.axis[:, :2]))

    def _measure(self, action: Array) -> Array:
        features = super()._measure(action)
        features[self.axis[:, 2] < self.UPRIGHT, 1] = 1.0
        return features

    @staticmethod
    def succeeded(observation: NDArray[Any]) -> NDArray[np.bool_]:
        """Return (N,) whether the task is done, judged by observations (N, n)."""
        tilt = np.linalg.norm(observation[:, 12:], axis=1)
        return BottleCells.succeeded(observation) & (tilt < np.sqrt(1 - TopplingBottleCells.UPRIGHT**2))
