"""Robot cells in which ink is wiped off a whiteboard."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from deep.fanuc.cells import UNIT, Cells, draw_disc
from mereq_min.validation import Array


class EraserCells(Cells):
    """Erasing-Sim: wipe a stroke of 16 ink dots off a whiteboard with a pad on a spring.

    A dot is erased after `CONTACTS` steps in which the pad covers it and touches the board, however lightly.

    Features, each clipped to [0, 1]: `ink_dist`, the horizontal distance from the pad to the nearest
    remaining dot / 0.3 m, 0 once there is none; `ink_left`, the share of dots that remain; `control`,
    (mean square of the action + 2 (force / 30 N)^2) / 3; `force_deficit`, 1 - force / 30 N, 0 once there is
    no ink.

    Observations: horizontal vectors from the pad to the nearest, the first and the last remaining dot (6, 0
    once there is none), lead of the commanded point (3), height of the pad (1), force / 30 N (1), share of
    dots that remain (1), position of the pad (2). They do not show how often a dot has been wiped.
    """

    scene, tool, tool_length, tool_pitch = "eraser", "pad", 0.15, np.pi / 2
    workspace = (0.40, -0.24, -0.005), (0.80, 0.24, 0.20)
    features = ("ink_dist", "ink_left", "control", "force_deficit")
    n_observations = 14

    DOTS = 16
    """Number of dots."""
    STROKE = 0.20
    """Length of the stroke [m]."""
    CONTACTS = 5
    """Steps under the touching pad after which a dot is erased [steps]."""
    COVER = 0.02
    """Radius of the area that the pad covers [m]."""
    BOARD = surface = 0.02
    """Height of the board's surface [m]."""
    STIFFNESS = 1500.0
    """Stiffness of the pad's spring [N/m]."""
    TOUCH = 1.0
    """Least force that counts as contact [N]."""
    FIRM = 30.0
    """Force of a firm press, which the features are scaled by [N]."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.force = np.zeros(count)
        self.ink = np.zeros((count, self.DOTS, 2))
        self.contacts = np.zeros((count, self.DOTS), dtype=np.int64)
        self._spring = self.model.joint("arm/tool/spring").qposadr[0]

    def sample_initial_state(self, n: int, rng: np.random.Generator) -> Array:
        """Draw the stroke of cell n, and return the tip's initial position (3,) above the board [m]."""
        centre = rng.uniform((0.56, -0.10), (0.64, 0.10))
        angle = rng.uniform(0, np.pi)
        along = np.linspace(-0.5, 0.5, self.DOTS)[:, None] * self.STROKE
        self.ink[n] = centre + along * (np.cos(angle), np.sin(angle))
        self.contacts[n] = 0
        return rng.uniform((0.50, -0.15, 0.06), (0.70, 0.15, 0.12))

    def _read(self, n: int, data: mujoco.MjData) -> None:
        self.force[n] = self.STIFFNESS * max(data.qpos[self._spring], 0.0)

    def _advance(self) -> None:
        covered = self._distances() <= self.COVER
        self.contacts += covered & (self.force >= self.TOUCH)[:, None]

    def _left(self) -> NDArray[np.bool_]:
        """Return (N, DOTS) which dots remain."""
        return np.asarray(self.contacts < self.CONTACTS)

    def _distances(self) -> Array:
        """Return the horizontal distances (N, DOTS) from the pad to the dots [m]."""
        return np.linalg.norm(self.ink - self.tip[:, None, :2], axis=2)

    def observe(self) -> Array:
        """Return observations (N, n_observations); lengths are in dm."""
        left, rows = self._left(), np.arange(len(self.tip))
        any_left = np.asarray(left.any(axis=1))
        ahead = self.ink - self.tip[:, None, :2]
        nearest = np.where(left, self._distances(), np.inf).argmin(axis=1)
        # The ends of the remaining stroke show where to wipe next.
        first, last = left.argmax(axis=1), self.DOTS - 1 - left[:, ::-1].argmax(axis=1)
        targets = [ahead[rows, chosen] / UNIT * any_left[:, None] for chosen in (nearest, first, last)]
        board = np.column_stack((self.tip[:, 2] / UNIT, self.force / self.FIRM, left.mean(axis=1)))
        return np.hstack((*targets, self._lead(), board, (self.tip[:, :2] - (0.6, 0.0)) / UNIT))

    def _measure(self, action: Array) -> Array:
        left = self._left()
        any_left = left.any(axis=1)
        nearest = np.where(left, self._distances(), np.inf).min(axis=1, initial=10.0)
        effort = ((action**2).mean(axis=1) + 2 * (self.force / self.FIRM) ** 2) / 3
        deficit = 1 - np.minimum(self.force / self.FIRM, 1)
        terms = nearest / 0.3 * any_left, left.mean(axis=1), effort, deficit * any_left
        return np.clip(np.stack(terms, axis=1), 0, 1)

    @staticmethod
    def violates(observation: NDArray[Any], limit: float) -> bool:
        """Return whether ink remains and the pad presses too lightly, or has gone too high up.

        A pad less than 1 cm above the board should press. A pad is too high if it is higher than in any
        initial state.

        Args:
            observation: (n,) what the expert sees.
            limit: force that is too light, as a fraction of `FIRM`.
        """
        ink_left, force, height = observation[11], observation[10], observation[9] * UNIT
        is_light = height < EraserCells.BOARD + 0.01 and force < limit
        return bool(ink_left > 0 and (is_light or height > 0.13))

    @staticmethod
    def succeeded(observation: NDArray[Any]) -> NDArray[np.bool_]:
        """Return (N,) whether the task is done, judged by observations (N, n)."""
        return np.equal(observation[:, 11], 0)

    def draw_marks(self, scene: mujoco.MjvScene) -> None:
        """Draw what is not part of the model into the picture of the first cell: the dots that remain."""
        for x, y in self.ink[0][self._left()[0]]:
            draw_disc(scene, (x, y, self.BOARD + 0.0005), 0.009, (0.1, 0.15, 0.6, 1))
