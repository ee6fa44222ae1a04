"""What a task looks like in the page: its state as small JSON, which the page draws, and its keys.

A task may have an attribute `scene`; one that has none is shown by the pictures that its environment draws,
and gets keys by the order of its actions. Kinds of scenes, with what stands still and what moves:

    map      still: map (rows of letters), legend (letter: name)
             moves: cell [row, column]
    lanes    still: lanes, gaps [cells], speeds
             moves: lane, other, gap [cells], speed, crashed
    shelf    still: places, distances, heights
             moves: place, distance, height
    highway  still: lanes, lane_width [m], length, width [m] of a car
             moves: cars [[x, y [m], heading [rad], crashed]], the ego first; y is 0 in the left lane;
             and numbers, by which a car is known again
    arm      still: geoms [{type, size [m], rgba}], camera {position [m], matrix (9), fovy [deg]}
             moves: poses [[x, y, z [m], 9 of a matrix, by rows]] of the geoms, tip [x, y, z [m]], which
             actions move, and marks [{type, size [m], rgba, pose}], such as a goal or ink
    picture  still: nothing
             moves: jpeg (base64), or text if there is no picture
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np

from mereq_min.interfaces import Policy, Task
from mereq_min.lab.human.protocol import Action, ActionName, Pace
from mereq_min.lab.plugins import make_closed_env
from mereq_min.validation import Array

Chart = tuple[list[list[float | None]] | None, list[list[int]] | None]
"""`heat` and `arrows` of `protocol.Report`."""

ARROWS = ("ArrowUp", "ArrowRight", "ArrowDown", "ArrowLeft")
"""Keys of directions."""


@dataclass(frozen=True, eq=False)
class Scene:
    """How a task is shown, and how a person acts in it.

    Attributes:
        kind: one of the kinds above.
        still: what stands still.
        moving: environment -> what moves.
        actions: names and keys of actions.
        idle: the action of a person in control who presses nothing; None is the last one again.
        rate: steps a second at speed 1 [1/s].
        pace: how time runs at first.
        words: for each feature, what more of it and what less of it is called, such as ("keeps right more",
            "keeps right less").
        chart: (policy, theta (K,) or None) -> heat and arrows, for a scene with cells.
        story: two sentences for newcomers, or none: what the policy does, what they may want instead.
        needs_pictures: whether the environment must be able to render.
    """

    kind: str
    still: dict[str, Any]
    moving: Callable[[gymnasium.Env[Any, Any]], dict[str, Any]]
    actions: tuple[ActionName, ...]
    idle: Action | None
    rate: float
    pace: Pace = "real time"
    words: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    chart: Callable[[Policy, Array | None], Chart] | None = None
    story: tuple[str, ...] = ()
    needs_pictures: bool = False

    @property
    def render_mode(self) -> str | None:
        """Of the environments that are shown."""
        return "rgb_array" if self.needs_pictures else None


def scene_of(task: Task) -> Scene:
    """The scene of a task: its own, or pictures."""
    return getattr(task, "scene", None) or _make_picture(task)


def discrete_keys(names: Iterable[str], keys: Iterable[str]) -> tuple[ActionName, ...]:
    """Actions 0, 1, ... by their names, and the key of each."""
    return tuple(ActionName(name, key, a) for a, (name, key) in enumerate(zip(names, keys, strict=True)))


def axis_keys(names: tuple[tuple[str, str], ...], n: int) -> tuple[ActionName, ...]:
    """Actions over a Box of n numbers: a pair of keys for each axis.

    Args:
        names: of the negative and the positive direction of each axis.
        n: D.
    """
    pairs = (
        ("ArrowLeft", "ArrowRight"),
        ("ArrowDown", "ArrowUp"),
        ("s", "w"),
        ("a", "d"),
        ("f", "r"),
        ("g", "t"),
    )
    named = [*names, *((f"axis {axis} down", f"axis {axis} up") for axis in range(len(names) + 1, n + 1))]
    return tuple(
        ActionName(name, key, [sign * float(i == axis) for i in range(n)])
        for axis, (keys, both) in enumerate(zip(pairs, named, strict=False))
        if axis < n
        for name, key, sign in zip(both, keys, (-1, 1), strict=True)
    )


def _make_picture(task: Task) -> Scene:
    env = make_closed_env(task)
    space: Any = env.action_space
    if hasattr(space, "n"):
        keys = [*ARROWS, *"123456789"]
        n = min(int(space.n), len(keys))
        actions = discrete_keys([f"action {a}" for a in range(n)], keys[:n])
        idle: Action | None = None
    else:
        actions, idle = axis_keys((), int(space.shape[0])), [0.0] * int(space.shape[0])
    rate = float(env.metadata.get("render_fps", 10))
    return Scene("picture", {}, _draw, actions, idle, min(rate, 20.0), needs_pictures=True)


def _draw(env: gymnasium.Env[Any, Any]) -> dict[str, Any]:
    from PIL import Image

    picture: Any = env.render()
    if picture is None:
        return {"text": "this environment draws no pictures"}
    file = io.BytesIO()
    Image.fromarray(np.asarray(picture, dtype=np.uint8)).save(file, "JPEG", quality=80)
    return {"jpeg": base64.b64encode(file.getvalue()).decode()}
