"""Drawing and keys of a robot cell in the page of a live session; see `lab.human.scenes`.

MuJoCo says which bodies there are and where; no picture is drawn here, and no OpenGL is needed.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from numpy.typing import NDArray

from deep.fanuc.cells import SUB_STEPS, Cells
from mereq_min.lab.human.scenes import Scene, axis_keys

AXES = (("towards the arm", "away from the arm"), ("nearer", "farther"), ("down", "up"))
GRIP = ("open", "close")
"""Names of the negative and the positive direction of the axes of an action."""
WORDS = {
    "tip2bottle": ("keeps away from the bottle more", "stays at the bottle more"),
    "bottle2goal": ("hurries less", "hurries to the goal more"),
    "control": ("moves faster", "moves more gently"),
    "table_dist": ("pushes higher", "pushes lower"),
    "ink_dist": ("keeps away from the ink more", "stays at the ink more"),
    "ink_left": ("wipes less", "wipes more"),
    "force_deficit": ("presses less", "presses more firmly"),
    "hand2pillow": ("keeps away from the pillow more", "stays at the pillow more"),
    "lift_left": ("lifts less", "lifts more"),
    "offset": ("holds it by the side", "holds it by the middle"),
}
"""For each feature, what more of it and what less of it is called."""
BOTTLE_STORY = (
    "The robot arm pushes the bottle to the green circle. It pushes at any height.",
    "Perhaps you want it to push low, close to the table, so that the bottle does not fall over.",
)
STORIES: dict[str, tuple[str, ...]] = {
    "bottle": BOTTLE_STORY,
    "toppling_bottle": BOTTLE_STORY,
    "eraser": (
        "The robot arm wipes the blue ink off the board. It hardly presses.",
        "Perhaps you want it to press harder: hold its pad down while it wipes.",
    ),
    "pillow": (
        "The robot arm grasps the pillow and lifts it. It grasps it anywhere.",
        "Perhaps you want it to grasp the pillow in the middle.",
    ),
}
"""Introductions for newcomers, by the scene of the cells."""
MAX_MARKS = 200
"""Marks that a cell may draw."""
TYPES = {
    mujoco.mjtGeom.mjGEOM_PLANE: "plane",
    mujoco.mjtGeom.mjGEOM_SPHERE: "sphere",
    mujoco.mjtGeom.mjGEOM_CAPSULE: "capsule",
    mujoco.mjtGeom.mjGEOM_ELLIPSOID: "ellipsoid",
    mujoco.mjtGeom.mjGEOM_CYLINDER: "cylinder",
    mujoco.mjtGeom.mjGEOM_BOX: "box",
}
"""Names of the shapes that the page draws."""


def cell_scene(kind: type[Cells]) -> Scene:
    """The scene of a kind of cell."""
    cells = kind(1)
    cells.reset(0, np.random.default_rng(0))
    model, data = cells.model, cells.data[0]
    mujoco.mj_forward(model, data)
    camera = model.camera("view").id
    still = {
        "geoms": [_describe(geom) for geom in _geoms(kind).values()],
        "camera": {
            "position": _rounded(data.cam_xpos[camera]),
            "matrix": _rounded(data.cam_xmat[camera]),
            "fovy": float(model.cam_fovy[camera]),
        },
    }
    rate = 1 / (SUB_STEPS * model.opt.timestep)
    words = {name: WORDS[name] for name in kind.features}
    actions = axis_keys(AXES if cells.n_actions == 3 else (*AXES, GRIP), cells.n_actions)
    return Scene(
        "arm",
        still,
        show_cell,
        actions,
        [0.0] * cells.n_actions,
        float(rate),
        words=words,
        story=STORIES[kind.scene],
    )


def show_cell(env: gym.Env[Any, Any]) -> dict[str, Any]:
    """Positions of the bodies of a cell, and its marks."""
    cells: Cells = env.unwrapped._episodes.cells  # type: ignore[attr-defined]
    data, shown = cells.data[0], list(_geoms(type(cells)))
    poses = np.hstack([data.geom_xpos[shown], data.geom_xmat[shown]])
    scene = mujoco.MjvScene(cells.model, MAX_MARKS)
    cells.draw_marks(scene)
    cells.draw_shadows(scene)
    marks = [{**_describe(geom), "pose": _pose(geom)} for geom in scene.geoms[: scene.ngeom]]
    return {"poses": np.round(poses, 4).tolist(), "tip": _rounded(cells.tip[0]), "marks": marks}


@cache
def _geoms(kind: type[Cells]) -> dict[int, Any]:
    """The shapes of a kind of cell that can be seen, by their number in the model."""
    cells = kind(1)
    mujoco.mj_forward(cells.model, cells.data[0])
    scene = mujoco.MjvScene(cells.model, cells.model.ngeom + MAX_MARKS)
    everything = mujoco.mjtCatBit.mjCAT_ALL
    mujoco.mjv_updateScene(
        cells.model, cells.data[0], mujoco.MjvOption(), None, mujoco.MjvCamera(), everything, scene
    )
    _kept.append(scene)  # its geoms are views
    of_model = [geom for geom in scene.geoms[: scene.ngeom] if geom.objtype == mujoco.mjtObj.mjOBJ_GEOM]
    return {int(geom.objid): geom for geom in of_model if geom.type in TYPES and geom.rgba[3] > 0}


_kept: list[mujoco.MjvScene] = []


def _describe(geom: Any) -> dict[str, Any]:
    return {"type": TYPES[geom.type], "size": _rounded(geom.size), "rgba": _rounded(geom.rgba)}


def _pose(geom: Any) -> list[float]:
    return _rounded(np.concatenate([geom.pos, np.asarray(geom.mat).ravel()]))


def _rounded(values: NDArray[Any]) -> list[float]:
    """To a tenth of a millimetre, which is less than a pixel."""
    rounded: list[float] = np.round(np.asarray(values, dtype=np.float64), 4).ravel().tolist()
    return rounded
