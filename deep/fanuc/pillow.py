"""Robot cells in which a pillow is grasped and lifted."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from deep.fanuc.cells import UNIT, Cells, draw_shadow
from mereq_min.validation import Array


class PillowCells(Cells):
    """Pillow-Grasping-Sim: grasp a pillow between two fingers, which hold it by friction, and lift it.

    The hand is the point between the fingers. Features, each clipped to [0, 1]: `hand2pillow`, the distance
    from the hand to the pillow's long axis / 0.3 m; `lift_left`, 1 - height of the lift / 0.15 m; `control`,
    the mean square of the action; `offset`, the distance of the hand from the pillow's centre along the axis
    / 0.15 m.

    Observations: vector from the pillow's axis to the hand (3), position of the hand along the axis, from the
    centre (1), commanded and actual closing of the fingers (2), lead of the commanded point (3), height of
    the pillow (1), x and z of its axis (2), position of the hand (2).
    """

    scene, tool, tool_length, tool_pitch = "pillow", "gripper", 0.17, np.pi / 2
    workspace = (0.42, -0.35, 0.025), (0.80, 0.35, 0.30)
    features = ("hand2pillow", "lift_left", "control", "offset")
    n_observations = 14
    n_actions = 4

    HALF_LENGTH = 0.15
    """Half the length of the pillow [m]."""
    REST = 0.03
    """Height of the pillow's centre while it lies on the table [m]."""
    LIFT = 0.15
    """Lift at which `lift_left` becomes 0 [m]."""
    STROKE = 0.05
    """Travel of a finger from open to closed [m]."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.pillow, self.axis = np.zeros((count, 3)), np.zeros((count, 3))
        self.closed, self.grip = np.zeros(count), np.zeros(count)
        self._body = self.model.body("scene/pillow").id
        self._pose = self.model.joint("scene/pillow").qposadr[0]
        self._fingers = [self.model.joint(f"arm/tool/{side} finger").qposadr[0] for side in ("left", "right")]

    def sample_initial_state(self, n: int, rng: np.random.Generator) -> Array:
        """Draw the pillow's pose in cell n, and return the hand's initial position (3,) beside it [m]."""
        x, y, yaw = rng.uniform((0.54, -0.10, -0.15), (0.66, 0.10, 0.15))
        turn = np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)
        self.data[n].qpos[self._pose : self._pose + 7] = x, y, self.REST, *turn
        self.closed[n] = 0
        side = rng.choice((-1.0, 1.0))
        return np.array((x, y, 0)) + rng.uniform((-0.08, 0.05, 0.12), (0.08, 0.12, 0.20)) * (1, side, 1)

    def _steer(self, action: Array) -> None:
        self.closed = np.clip(self.closed + 0.25 * action[:, 3], 0, 1)
        for data, closed in zip(self.data, self.closed, strict=True):
            data.ctrl[6:] = self.STROKE * closed

    def _read(self, n: int, data: mujoco.MjData) -> None:
        self.pillow[n] = data.xpos[self._body]
        self.axis[n] = data.xmat[self._body].reshape(3, 3)[:, 1]
        self.grip[n] = data.qpos[self._fingers].mean() / self.STROKE

    def _along(self) -> Array:
        """Return the position (N,) of the hand along the pillow's axis, from its centre [m]."""
        return ((self.tip - self.pillow) * self.axis).sum(axis=1)

    def _apart(self) -> Array:
        """Return the vectors (N, 3) from the closest point of the pillow's axis to the hand [m]."""
        along = np.clip(self._along(), -self.HALF_LENGTH, self.HALF_LENGTH)
        return self.tip - self.pillow - along[:, None] * self.axis

    def observe(self) -> Array:
        """Return observations (N, n_observations); lengths are in dm."""
        hand = np.column_stack((self._along() / UNIT, self.closed, self.grip))
        pillow = np.column_stack((self.pillow[:, 2] / UNIT, self.axis[:, [0, 2]]))
        return np.hstack(
            (self._apart() / UNIT, hand, self._lead(), pillow, (self.tip[:, :2] - (0.6, 0.0)) / UNIT)
        )

    def _measure(self, action: Array) -> Array:
        terms = (
            np.linalg.norm(self._apart(), axis=1) / 0.3,
            1 - self._lift() / self.LIFT,
            (action**2).mean(axis=1),
            np.abs(self._along()) / self.HALF_LENGTH,
        )
        return np.clip(np.stack(terms, axis=1), 0, 1)

    def _lift(self) -> Array:
        return self.pillow[:, 2] - self.REST

    @staticmethod
    def violates(observation: NDArray[Any], limit: float) -> bool:
        """Return whether the hand approaches the pillow too far from its middle, or is far from it.

        Until the pillow is lifted, the hand has to stay in a funnel over the middle within 0.1 m of the
        pillow's axis. Up to 3 cm from the axis, where the fingers close, the funnel has a constant
        half-width; beyond that, the half-width grows by as much as the distance. A grasp that has lifted the
        pillow is left as it is. The hand is far if it is farther away than in any initial state.

        Args:
            observation: (n,) what the expert sees.
            limit: half-width of the funnel up to 3 cm from the axis, as a fraction of `HALF_LENGTH`.
        """
        distance = float(np.linalg.norm(observation[:3])) * UNIT
        width = PillowCells.HALF_LENGTH * limit + max(distance - 0.03, 0.0)
        is_off = distance < 0.1 and abs(observation[3]) * UNIT > width
        is_lifted = PillowCells.succeeded(observation[None])[0]
        return bool((is_off and not is_lifted) or distance > 0.30)

    @staticmethod
    def succeeded(observation: NDArray[Any]) -> NDArray[np.bool_]:
        """Return (N,) whether the task is done, judged by observations (N, n)."""
        return observation[:, 9] * UNIT - PillowCells.REST >= 0.8 * PillowCells.LIFT

    def draw_shadows(self, scene: mujoco.MjvScene) -> None:
        """Draw the shadows of the tip and the pillow into the picture of the first cell."""
        x, y, _ = self.axis[0]
        draw_shadow(scene, self.pillow[0], self.surface, (0.05, 0.16), (x, y))
        super().draw_shadows(scene)
