"""Robot cells: an arm with a tool at a table, simulated by MuJoCo, many cells of one kind side by side.

An action, in [-1, 1], is the Cartesian velocity of the tool's tip and, for the gripper, the speed at which it
closes. It moves a commanded point, which is kept near the tip so that it does not run away while an obstacle
stops the tip. Inverse kinematics turns the commanded point into joint angles, and position actuators follow
them. Of the arm, only the tool collides with objects.
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
"""Folder of the MuJoCo models."""
HORIZON = 100
"""Time limit of an episode [steps]."""
SUB_STEPS = 10
"""Simulator steps in a step of the environment, which takes 1/20 s [steps]."""
SPEED = 0.3
"""Speed of the tip along an axis at an action of 1 [m/s]."""
LEASH = 0.03
"""Largest distance of the commanded point from the tip along each axis [m]."""
UNIT = 0.1
"""Unit of length in observations, 1 dm [m]."""

_STATE = mujoco.mjtState.mjSTATE_INTEGRATION
"""Parts of MuJoCo's state from which a simulation goes on bit for bit."""


@cache
def build_model(scene: str, tool: str) -> mujoco.MjModel:
    """Build the model of a cell from the table, arm, tool and scene in `assets/`.

    Names of the arm's, the tool's and the scene's elements begin with arm/, arm/tool/ and scene/.
    """
    parts = {
        name: mujoco.MjSpec.from_file(str(ASSETS / f"{name}.xml")) for name in ("table", "arm", tool, scene)
    }
    parts["arm"].attach(parts[tool], site="flange", prefix="tool/")
    parts["table"].attach(parts["arm"], frame="robot", prefix="arm/")
    parts["table"].attach(parts[scene], frame="robot", prefix="scene/")
    return parts["table"].compile()


class Cells(ABC):
    """N independent cells of one kind; row n of every array belongs to cell n.

    Args:
        count: N [cells].
    """

    scene: ClassVar[str]
    """Name of the scene's file in `assets/`, without suffix."""
    tool: ClassVar[str]
    """Name of the tool's file in `assets/`, without suffix."""
    tool_length: ClassVar[float]
    """Distance from the flange to the tip [m]."""
    tool_pitch: ClassVar[float]
    """Angle of the tool below the horizontal [rad]."""
    workspace: ClassVar[tuple[tuple[float, ...], tuple[float, ...]]]
    """Lower and upper corner of the box that the commanded point stays in [m]."""
    surface: ClassVar[float] = 0.0
    """Height of the surface below the tool, on which shadows fall [m]."""
    features: ClassVar[tuple[str, ...]]
    """Names (K,) of the features, all in [0, 1]."""
    n_observations: ClassVar[int]
    """Numbers in an observation."""
    n_actions: ClassVar[int] = 3
    """Numbers in an action: D."""

    def __init__(self, count: int) -> None:
        self.model = build_model(self.scene, self.tool)
        self.data = [mujoco.MjData(self.model) for _ in range(count)]
        self.tip, self.command = np.zeros((count, 3)), np.zeros((count, 3))
        self._tip = self.model.site("arm/tool/tip").id

    def reset(self, n: int, rng: np.random.Generator) -> None:
        """Draw an initial state for cell n."""
        data = self.data[n]
        mujoco.mj_resetData(self.model, data)
        self.command[n] = self.sample_initial_state(n, rng)
        angles = self._angles()[n]
        data.qpos[:6] = data.ctrl[:6] = angles
        self._look(n)

    def step(self, action: Array) -> Array:
        """Take a step with actions (N, D) in [-1, 1], and return its features (N, K)."""
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
        """Update the recorded positions of a cell's tip and objects.

        mj_step integrates the joints last, and so leaves the positions of the sub-step before.
        """
        data = self.data[n]
        mujoco.mj_kinematics(self.model, data)
        self.tip[n] = data.site_xpos[self._tip]
        self._read(n, data)

    def _lead(self) -> Array:
        """Return the lead (N, 3) of the commanded point over the tip, in [-1, 1].

        It shows how fast the tip moves and what resists it.
        """
        return (self.command - self.tip) / LEASH

    def copy(self, n: int, other: Cells, m: int) -> None:
        """Copy the state of cell m of `other`, cells of the same kind, into cell n."""
        mujoco.mj_copyData(self.data[n], self.model, other.data[m])
        for rows, others in zip(self._rows(), other._rows(), strict=True):
            rows[n] = others[m]

    def _rows(self) -> list[NDArray[Any]]:
        """Return all arrays of this object, each of which has one row for each cell."""
        return [each for each in vars(self).values() if isinstance(each, np.ndarray)]

    @property
    def state_size(self) -> int:
        """Numbers in the state of a cell."""
        return mujoco.mj_stateSize(self.model, _STATE) + sum(int(each[0].size) for each in self._rows())

    def get_state(self) -> Array:
        """Return the states (N, state_size) of all cells: MuJoCo's, and then all arrays of this object."""
        physics = np.empty((len(self.data), mujoco.mj_stateSize(self.model, _STATE)))
        for row, data in zip(physics, self.data, strict=True):
            mujoco.mj_getState(self.model, data, row, _STATE)
        return np.hstack([physics, *(each.reshape(len(each), -1) for each in self._rows())])

    def set_state(self, state: Array) -> None:
        """Continue from states (N, state_size) that `get_state` returned."""
        at = mujoco.mj_stateSize(self.model, _STATE)
        for row, data in zip(state, self.data, strict=True):
            mujoco.mj_setState(self.model, data, row[:at].copy(), _STATE)
        for each in self._rows():
            size = each[0].size
            each[:] = state[:, at : at + size].reshape(each.shape)
            at += size

    def _steer(self, action: Array) -> None:  # noqa: B027 (optional: not every kind has further controls)
        """Set the controls that an action (N, D) gives besides the tip's velocity."""

    def _advance(self) -> None:  # noqa: B027 (optional: not every kind has such state)
        """Update state that MuJoCo does not simulate, after a step."""

    @abstractmethod
    def sample_initial_state(self, n: int, rng: np.random.Generator) -> Array:
        """Draw the objects' initial state in cell n, and return the tip's initial position (3,) [m]."""

    @abstractmethod
    def _read(self, n: int, data: mujoco.MjData) -> None:
        """Read the state of the objects of cell n from the simulator."""

    @abstractmethod
    def observe(self) -> Array:
        """Return observations (N, n_observations); lengths are in dm."""

    @abstractmethod
    def _measure(self, action: Array) -> Array:
        """Return the features (N, K) of the step just taken with actions (N, D)."""

    @staticmethod
    @abstractmethod
    def violates(observation: NDArray[Any], limit: float) -> bool:
        """Return whether the expert objects in a state, given its observation (n,).

        Args:
            observation: (n,) what the expert sees.
            limit: threshold of the rule, in the unit that each kind of cell states.
        """

    @staticmethod
    @abstractmethod
    def succeeded(observation: NDArray[Any]) -> NDArray[np.bool_]:
        """Return (N,) whether the task is done, judged by observations (N, n)."""

    def draw_marks(self, scene: mujoco.MjvScene) -> None:  # noqa: B027 (optional: not every kind has marks)
        """Draw what is not part of the model, such as a goal, into the picture of the first cell."""

    def draw_shadows(self, scene: mujoco.MjvScene) -> None:
        """Draw the shadows of the tip and of objects into the picture of the first cell."""
        draw_shadow(scene, self.tip[0], self.surface, (0.02, 0.02))


def draw_disc(
    scene: mujoco.MjvScene, centre: tuple[float, ...], radius: float, rgba: tuple[float, ...]
) -> None:
    """Add a flat horizontal disc to a picture.

    Args:
        scene: the picture.
        centre: (3,) centre of the disc [m].
        radius: radius of the disc [m].
        rgba: (4,) colour, in [0, 1].
    """
    size = np.array([radius, 0.0005, 0.0])
    _add_geom(scene, mujoco.mjtGeom.mjGEOM_CYLINDER, size, np.array(centre), np.eye(3), rgba)


def draw_shadow(
    scene: mujoco.MjvScene,
    point: Array,
    surface: float,
    half_axes: tuple[float, float],
    across: tuple[float, float] = (0.0, 1.0),
) -> None:
    """Add an oval shadow to a picture, straight below a point: it shows how high the point is.

    MuJoCo's own shadows take several times as long as the rest of the picture.

    Args:
        scene: the picture.
        point: (2,) or (3,) what casts the shadow [m].
        surface: height at which it falls [m].
        half_axes: the half-axes of the oval [m].
        across: horizontal direction of the second axis; any length above 0.
    """
    u, v = np.array(across) / np.hypot(*across)
    turn = np.array([[v, u, 0.0], [-u, v, 0.0], [0.0, 0.0, 1.0]])  # its columns are the axes
    _add_geom(
        scene,
        mujoco.mjtGeom.mjGEOM_ELLIPSOID,
        np.array([*half_axes, 0.0005]),
        np.array([*point[:2], surface + 0.0015]),
        turn,
        (0.0, 0.0, 0.0, 0.35),
    )


def _add_geom(
    scene: mujoco.MjvScene,
    kind: mujoco.mjtGeom,
    size: Array,
    centre: Array,
    turn: Array,
    rgba: tuple[float, ...],
) -> None:
    geom = scene.geoms[scene.ngeom]
    mujoco.mjv_initGeom(geom, kind, size, centre, turn.ravel(), np.array(rgba, np.float32))
    scene.ngeom += 1
