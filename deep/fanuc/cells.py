"""Robot cells: the arm with a tool before a table, simulated by MuJoCo, many of one kind side by side.

An action is the Cartesian velocity of the tool's tip (and, for the gripper, how fast it closes), in [-1, 1].
It moves a commanded point, which is kept near the tip so that it does not run away where the tip is stopped;
inverse kinematics makes joint angles of it, and position actuators follow them. Only the tool collides.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import mujoco
import numpy as np
from numpy.typing import NDArray

from deep.fanuc.kinematics import inverse_kinematics
from mereq_min.validation import Array

ASSETS = Path(__file__).parent / "assets"
HORIZON = 100
"""Time limit of an episode [steps]."""
SUB_STEPS = 10
"""Steps of the simulator in one of the environment, 20 Hz in all [steps]."""
SPEED = 0.3
"""Of the tip, at an action of 1 [m/s]."""
LEASH = 0.03
"""How far the commanded point may run ahead of the tip, along each axis [m]."""
UNIT = 0.1
"""Lengths in observations are in decimetres [m]."""


@cache
def build_model(scene: str, tool: str) -> mujoco.MjModel:
    """Compose table, arm, tool and scene of `assets/`; their names begin with arm/, arm/tool/ and scene/."""
    parts = {
        name: mujoco.MjSpec.from_file(str(ASSETS / f"{name}.xml")) for name in ("table", "arm", tool, scene)
    }
    parts["arm"].attach(parts[tool], site="flange", prefix="tool/")
    parts["table"].attach(parts["arm"], frame="robot", prefix="arm/")
    parts["table"].attach(parts[scene], frame="robot", prefix="scene/")
    return parts["table"].compile()


class Cells(ABC):
    """N cells of one kind; row n of every array is cell n, and no cell depends on another.

    Args:
        count: N [cells].
    """

    scene: ClassVar[str]
    tool: ClassVar[str]
    tool_length: ClassVar[float]
    """From the flange to the tip [m]."""
    tool_pitch: ClassVar[float]
    """Of the tool below the horizontal [rad]."""
    workspace: ClassVar[tuple[tuple[float, ...], tuple[float, ...]]]
    """Lowest and highest corner of the box for the commanded point [m]."""
    features: ClassVar[tuple[str, ...]]
    """Names (K,) of the features, all in [0, 1]."""
    n_observations: ClassVar[int]
    n_actions: ClassVar[int] = 3

    def __init__(self, count: int) -> None:
        self.model = build_model(self.scene, self.tool)
        self.data = [mujoco.MjData(self.model) for _ in range(count)]
        self.tip, self.command = np.zeros((count, 3)), np.zeros((count, 3))
        self._tip = self.model.site("arm/tool/tip").id

    def reset(self, n: int, rng: np.random.Generator) -> None:
        """Draw the first state of a cell."""
        data = self.data[n]
        mujoco.mj_resetData(self.model, data)
        self.command[n] = self._draw(n, rng)
        angles = self._angles()[n]
        data.qpos[:6] = data.ctrl[:6] = angles
        self._look(n)

    def step(self, action: Array) -> Array:
        """Take a step with actions (N, D) in [-1, 1]; returns its features (N, K)."""
        dt = SUB_STEPS * self.model.opt.timestep
        command = self.command + SPEED * dt * action[:, :3]
        command = np.clip(command, self.tip - LEASH, self.tip + LEASH)
        self.command = np.clip(command, *np.array(self.workspace))
        self._steer(action)
        for n, (data, angles) in enumerate(zip(self.data, self._angles(), strict=True)):
            data.ctrl[:6] = angles
            mujoco.mj_step(self.model, data, nstep=SUB_STEPS)
            self._look(n)
        self._advance()
        return self._measure(action)

    def _angles(self) -> Array:
        return inverse_kinematics(self.command, self.tool_pitch, self.tool_length)

    def _look(self, n: int) -> None:
        """Take over where a cell's tip and objects are; the integrator has moved the joints alone."""
        data = self.data[n]
        mujoco.mj_kinematics(self.model, data)
        self.tip[n] = data.site_xpos[self._tip]
        self._read(n, data)

    def _lead(self) -> Array:
        """(N, 3) how far the commanded point is ahead, from -1 to 1: it tells speed and resistance."""
        return (self.command - self.tip) / LEASH

    def copy(self, n: int, other: Cells, m: int) -> None:
        """Make cell n what cell m of others of its kind is."""
        mujoco.mj_copyData(self.data[n], self.model, other.data[m])
        for name, rows in vars(self).items():
            if isinstance(rows, np.ndarray):  # each has a row for a cell
                rows[n] = getattr(other, name)[m]

    def _steer(self, action: Array) -> None:  # noqa: B027 (not every kind has more to steer)
        """Turn what an action holds beside the tip's velocity into controls."""

    def _advance(self) -> None:  # noqa: B027 (nor to count)
        """Keep count of what is no mechanics, after a step."""

    @abstractmethod
    def _draw(self, n: int, rng: np.random.Generator) -> Array:
        """Draw the objects of cell n; returns where its tip begins (3,) [m]."""

    @abstractmethod
    def _read(self, n: int, data: mujoco.MjData) -> None:
        """Take over the objects of cell n from the simulator."""

    @abstractmethod
    def observe(self) -> Array:
        """Observations (N, n_observations); lengths in dm."""

    @abstractmethod
    def _measure(self, action: Array) -> Array:
        """Features (N, K) of the step that was just taken."""

    @staticmethod
    @abstractmethod
    def violates(observation: NDArray[Any], limit: float) -> bool:
        """Whether the expert objects to what it sees in an observation (n,): its state rule."""

    @staticmethod
    @abstractmethod
    def succeeded(observation: NDArray[Any]) -> NDArray[np.bool_]:
        """(N,) whether the task proper is done, as observations (N, n) show it."""

    def draw_marks(self, scene: mujoco.MjvScene) -> None:  # noqa: B027 (nor to draw)
        """Add what is no geometry to the picture of the first cell."""


def draw_disc(
    scene: mujoco.MjvScene, centre: tuple[float, ...], radius: float, rgba: tuple[float, ...]
) -> None:
    """Add a flat disc to a picture."""
    size, turn = np.array([radius, 0.0005, 0.0]), np.eye(3).ravel()
    geom = scene.geoms[scene.ngeom]
    mujoco.mjv_initGeom(
        geom, mujoco.mjtGeom.mjGEOM_CYLINDER, size, np.array(centre), turn, np.array(rgba, np.float32)
    )
    scene.ngeom += 1
