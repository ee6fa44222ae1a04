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
from mereq_min.checks import Array

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


class BottleCells(Cells):
    """Bottle-Pushing-Sim: push a wine bottle over the table to a goal, at whatever height.

    Features: `tip2bottle` distance of the tip from the bottle's surface in the plane / 0.3 m, `bottle2goal`
    distance / 0.3 m, `control` mean square of the action, `table_dist` height of the tip / 0.2 m; cut at 1.

    Observations: from the bottle to the tip in the plane (2), height of the tip (1), lead of the commanded
    point (3), from the bottle to the goal (2), where the bottle is (2), its velocity / `SPEED` (2).
    """

    scene, tool, tool_length, tool_pitch = "bottle", "stick", 0.20, np.pi / 4
    workspace = (0.44, -0.35, 0.02), (1.0, 0.35, 0.30)
    features = ("tip2bottle", "bottle2goal", "control", "table_dist")
    n_observations = 12

    RADIUS = 0.0495
    """Of bottle and tip together [m]."""
    GOAL_RADIUS = 0.03
    """[m]."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.bottle, self.velocity, self.goal = (np.zeros((count, 2)) for _ in range(3))
        self._x = self.model.joint("scene/bottle x").qposadr[0]
        self._v = self.model.joint("scene/bottle x").dofadr[0]

    def _draw(self, n: int, rng: np.random.Generator) -> Array:
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
        """Observations (N, n_observations); lengths in dm."""
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
        """The tip touches the bottle more than `limit` above the table [of 0.2 m], or has left it alone.

        It touches from 1 cm on. It has left the bottle alone if it is farther away than it ever begins, and
        the bottle is not where it should be.
        """
        distance = np.linalg.norm(observation[:2]) * UNIT
        is_high = observation[2] * UNIT > 0.2 * limit
        is_astray = distance > 0.18 and not BottleCells.succeeded(observation[None])[0]
        return bool((distance < BottleCells.RADIUS + 0.01 and is_high) or is_astray)

    @staticmethod
    def succeeded(observation: NDArray[Any]) -> NDArray[np.bool_]:
        """(N,) whether the task proper is done, as observations (N, n) show it."""
        return np.linalg.norm(observation[:, 6:8], axis=1) * UNIT <= BottleCells.GOAL_RADIUS

    def draw_marks(self, scene: mujoco.MjvScene) -> None:
        """Add what is no geometry to the picture of the first cell."""
        draw_disc(scene, (*self.goal[0], 0.0005), 0.05, (0.15, 0.55, 0.30, 1))
        draw_disc(scene, (*self.goal[0], 0.0010), 0.04, (0.92, 0.95, 0.90, 1))


class TopplingBottleCells(BottleCells):
    """The same with a bottle that falls over where it is pushed too high, at 12.5 cm with a friction of 0.3.

    Once it lies, `bottle2goal` is 1 and the task has failed.

    Observations: those of the bottle, and the plane's part of its axis (2), 0 where it stands upright.
    """

    scene = "toppling_bottle"
    n_observations = 14

    UPRIGHT = 0.8
    """Least cosine of its tilt."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.axis = np.zeros((count, 3))
        self._bottle = self.model.body("scene/bottle").id

    def _read(self, n: int, data: mujoco.MjData) -> None:
        super()._read(n, data)
        self.axis[n] = data.xmat[self._bottle].reshape(3, 3)[:, 2]

    def observe(self) -> Array:
        """Observations (N, n_observations); lengths in dm."""
        return np.hstack((super().observe(), self.axis[:, :2]))

    def _measure(self, action: Array) -> Array:
        features = super()._measure(action)
        features[self.axis[:, 2] < self.UPRIGHT, 1] = 1.0
        return features

    @staticmethod
    def succeeded(observation: NDArray[Any]) -> NDArray[np.bool_]:
        """(N,) whether the task proper is done, as observations (N, n) show it."""
        tilt = np.linalg.norm(observation[:, 12:], axis=1)
        return BottleCells.succeeded(observation) & (tilt < np.sqrt(1 - TopplingBottleCells.UPRIGHT**2))


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


class EraserCells(Cells):
    """Erasing-Sim: wipe a stroke of 16 ink dots off a whiteboard with a pad on a spring.

    A dot is gone after `CONTACTS` steps in which the pad covers it and touches the board, however lightly.

    Features: `ink_dist` distance of the pad from the nearest dot left / 0.3 m, 0 once there is none;
    `ink_left` share of the dots; `control` mean square of the action and twice the squared force over 30 N, a
    third of the sum; `force_deficit` 1 - force / 30 N while ink is left; each cut to [0, 1].

    Observations: from the pad, in the plane, to the nearest dot left, the first and the last one (6, 0 once
    there is none), lead of the commanded point (3), height of the pad (1), force / 30 N (1), share of the
    dots left (1), where the pad is (2). How often a dot has been touched does not show.
    """

    scene, tool, tool_length, tool_pitch = "eraser", "pad", 0.15, np.pi / 2
    workspace = (0.40, -0.24, -0.005), (0.80, 0.24, 0.20)
    features = ("ink_dist", "ink_left", "control", "force_deficit")
    n_observations = 14

    DOTS = 16
    STROKE = 0.20
    """Length of the stroke [m]."""
    CONTACTS = 5
    COVER = 0.02
    """Radius within which the pad wipes [m]."""
    BOARD = 0.02
    """Height of the board's surface [m]."""
    STIFFNESS = 1500.0
    """Of the pad's spring [N/m]."""
    TOUCH = 1.0
    """Least force that is a contact [N]."""
    FIRM = 30.0
    """Force at which `force_deficit` ends and effort counts in full [N]."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.force = np.zeros(count)
        self.ink = np.zeros((count, self.DOTS, 2))
        self.contacts = np.zeros((count, self.DOTS), dtype=np.int64)
        self._spring = self.model.joint("arm/tool/spring").qposadr[0]

    def _draw(self, n: int, rng: np.random.Generator) -> Array:
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
        """(N, DOTS) which dots are left."""
        return np.asarray(self.contacts < self.CONTACTS)

    def _distances(self) -> Array:
        """(N, DOTS) distances of the pad from the dots in the plane [m]."""
        return np.linalg.norm(self.ink - self.tip[:, None, :2], axis=2)

    def observe(self) -> Array:
        """Observations (N, n_observations); lengths in dm."""
        left, rows = self._left(), np.arange(len(self.tip))
        any_left = np.asarray(left.any(axis=1))
        ahead = self.ink - self.tip[:, None, :2]
        nearest = np.where(left, self._distances(), np.inf).argmin(axis=1)
        # The ends of what is left, from the pad: where to go on.
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
        """While ink is left, the pad presses with less than `limit` of a firm press, or goes astray.

        It touches from 1 cm on; it is astray where it is higher up than it ever begins.
        """
        ink_left, force, height = observation[11], observation[10], observation[9] * UNIT
        is_light = height < EraserCells.BOARD + 0.01 and force < limit
        return bool(ink_left > 0 and (is_light or height > 0.13))

    @staticmethod
    def succeeded(observation: NDArray[Any]) -> NDArray[np.bool_]:
        """(N,) whether the task proper is done, as observations (N, n) show it."""
        return np.equal(observation[:, 11], 0)

    def draw_marks(self, scene: mujoco.MjvScene) -> None:
        """Add what is no geometry to the picture of the first cell."""
        for x, y in self.ink[0][self._left()[0]]:
            draw_disc(scene, (x, y, self.BOARD + 0.0005), 0.009, (0.1, 0.15, 0.6, 1))


class PillowCells(Cells):
    """Pillow-Grasping-Sim: grasp a pillow between two fingers, by friction, and lift it.

    Features: `hand2pillow` distance of the point between the fingers from the pillow's long axis / 0.3 m,
    `lift_left` 1 - height above the table / 0.15 m, `control` mean square of the action, `offset` of that
    point from the pillow's centre along the axis / 0.15 m; each cut to [0, 1].

    Observations: from the pillow's axis to the hand (3), along it from its centre (1), how far the fingers
    are told to close and have closed (2), lead of the commanded point (3), height of the pillow (1), x and z
    of its axis (2), where the hand is (2).
    """

    scene, tool, tool_length, tool_pitch = "pillow", "gripper", 0.17, np.pi / 2
    workspace = (0.42, -0.35, 0.025), (0.80, 0.35, 0.30)
    features = ("hand2pillow", "lift_left", "control", "offset")
    n_observations = 14
    n_actions = 4

    HALF_LENGTH = 0.15
    """Of the pillow [m]."""
    REST = 0.03
    """Height of its centre on the table [m]."""
    LIFT = 0.15
    """[m]."""
    STROKE = 0.05
    """Way of a finger [m]."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.pillow, self.axis = np.zeros((count, 3)), np.zeros((count, 3))
        self.closed, self.grip = np.zeros(count), np.zeros(count)
        self._body = self.model.body("scene/pillow").id
        self._pose = self.model.joint("scene/pillow").qposadr[0]
        self._fingers = [self.model.joint(f"arm/tool/{side} finger").qposadr[0] for side in ("left", "right")]

    def _draw(self, n: int, rng: np.random.Generator) -> Array:
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
        """(N,) where the hand is along the pillow's axis, from its centre [m]."""
        return ((self.tip - self.pillow) * self.axis).sum(axis=1)

    def _apart(self) -> Array:
        """(N, 3) from the pillow's axis to the hand [m]."""
        along = np.clip(self._along(), -self.HALF_LENGTH, self.HALF_LENGTH)
        return self.tip - self.pillow - along[:, None] * self.axis

    def observe(self) -> Array:
        """Observations (N, n_observations); lengths in dm."""
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
        """The hand is within 0.1 m of the pillow's axis outside of a funnel over its middle, or astray.

        The funnel is `limit` of the half length wide where the fingers close, up to 3 cm from the axis, and
        widens by as much as the hand is farther away. It is astray where it is farther away than it ever
        begins.
        """
        distance = float(np.linalg.norm(observation[:3])) * UNIT
        width = PillowCells.HALF_LENGTH * limit + max(distance - 0.03, 0.0)
        return bool((distance < 0.1 and abs(observation[3]) * UNIT > width) or distance > 0.30)

    @staticmethod
    def succeeded(observation: NDArray[Any]) -> NDArray[np.bool_]:
        """(N,) whether the task proper is done, as observations (N, n) show it."""
        return observation[:, 9] * UNIT - PillowCells.REST >= 0.8 * PillowCells.LIFT
