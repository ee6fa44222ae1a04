"""What the page is sent of each task: small, finite, and true of the state that it shows."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from mereq_min.lab.human.films import film_policy
from mereq_min.lab.human.protocol import LARGEST_MESSAGE, Act, read
from mereq_min.lab.human.scenes import axis_keys, scene_of
from mereq_min.lab.plugins import load_task

KINDS = {
    "carpet": "map", "windy": "map", "lanes": "lanes", "shelf": "shelf", "highway": "highway",
    "bottle": "arm", "eraser": "arm", "pillow": "arm",
}  # fmt: skip


def after(name: str, n_steps: int) -> tuple[Any, dict[str, Any]]:
    """An environment after some steps, and what moves in it."""
    task = load_task(name)
    env = task.make_env()
    env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(n_steps):
        env.step(env.action_space.sample())
    return env, scene_of(task).moving(env)


@pytest.mark.parametrize(("name", "kind"), KINDS.items())
def test_every_task_has_a_scene_of_its_own(name: str, kind: str) -> None:
    task = load_task(name)
    scene = scene_of(task)
    env, moving = after(name, 5)
    assert scene.kind == kind and not scene.needs_pictures
    assert set(scene.words) == set(task.feature_names)
    assert len(json.dumps(moving, allow_nan=False)) < 8_000
    json.dumps(scene.still, allow_nan=False)
    assert len({action.key for action in scene.actions}) == len(scene.actions)
    for action in scene.actions:
        message = json.dumps({"type": "act", "action": action.action})
        assert isinstance(read(message), Act) and len(message) < LARGEST_MESSAGE
    if hasattr(env.action_space, "n"):
        assert [each.action for each in scene.actions] == list(range(env.action_space.n))
    else:  # each axis has a key for both directions
        moves = np.array([each.action for each in scene.actions])
        assert np.array_equal(np.sort(moves, axis=0)[[0, -1]], [[-1] * moves.shape[1], [1] * moves.shape[1]])
        assert (np.abs(moves).sum(axis=1) == 1).all()
    env.close()


def test_a_map_shows_the_cell_of_the_state() -> None:
    env, moving = after("carpet", 3)
    layout: Any = load_task("carpet").layout  # type: ignore[attr-defined]
    assert moving["cell"] == layout.cells[env.unwrapped.state].tolist()
    still = scene_of(load_task("carpet")).still
    row, column = moving["cell"]
    assert still["map"][row][column] in still["legend"] or still["map"][row][column] == "."


def test_the_cars_are_those_of_the_road_the_ego_first() -> None:
    env, moving = after("highway", 3)
    cars = env.unwrapped.get_state().cars[0]
    np.testing.assert_allclose(moving["cars"][0][:2], [cars["x"][0], cars["y"][0]], atol=0.005)
    assert 1 < len(moving["cars"]) <= len(cars)


def test_the_poses_are_where_mujoco_has_the_shapes() -> None:
    env, moving = after("bottle", 5)
    still = scene_of(load_task("bottle")).still
    poses = np.array(moving["poses"])
    data = env.unwrapped._episodes.cells.data[0]
    assert len(poses) == len(still["geoms"])
    for pose in poses:
        assert (np.abs(data.geom_xpos - pose[:3]).max(axis=1) < 1e-4).any()
        matrix = pose[3:].reshape(3, 3)
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-3)
    goal = env.unwrapped._episodes.cells.goal[0]
    assert any(np.allclose(mark["pose"][:2], goal, atol=1e-3) for mark in moving["marks"])
    env.close()


def test_a_task_without_a_scene_is_shown_by_its_pictures() -> None:
    task = dataclasses.replace(load_task("carpet"), scene=None)  # type: ignore[type-var]
    scene = scene_of(task)
    env = task.make_env(scene.render_mode)
    env.reset(seed=0)
    assert scene.kind == "picture" and scene.moving(env)["jpeg"].startswith("/9j/")
    assert [each.key for each in scene.actions][:2] == ["ArrowUp", "ArrowRight"]
    blind = task.make_env()
    blind.reset(seed=0)
    assert "text" in scene.moving(blind)


def test_keys_of_a_box_with_many_axes() -> None:
    assert [each.action for each in axis_keys((("left", "right"),), 2)] == [
        [-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0],
    ]  # fmt: skip
    assert axis_keys((("left", "right"),), 2)[3].name == "axis 2 up"


def test_two_policies_are_filmed_from_the_same_start() -> None:
    task = load_task("carpet")
    assert task.oracle is not None
    before, after_ = (film_policy(task, policy, 3) for policy in (task.prior, task.oracle.expert_policy))
    assert before.scenes[0] == after_.scenes[0] and before.scenes != after_.scenes
    layout: Any = task.layout  # type: ignore[attr-defined]
    for film in (before, after_):
        assert len(film.scenes) == task.horizon + 1
        cells = [scene["cell"] for scene in film.scenes[:-1]]
        assert cells == layout.cells[film.steps.state].tolist()


def test_arrows_and_heat_are_those_of_the_policy_and_the_reward() -> None:
    task: Any = load_task("carpet")
    theta = np.array([0.0, -1.0, 0.0, 0.0, 0.0])
    chart = scene_of(task).chart
    assert chart is not None
    heat, arrows = chart(task.oracle.expert_policy, theta)
    assert arrows is not None and heat is not None
    best = task.oracle.expert_policy.log_policy.argmax(axis=1)
    assert [arrow[2] for arrow in arrows] == best.tolist()
    for s, (row, column, action) in enumerate(arrows):
        assert heat[row][column] == pytest.approx(-task.mdp.features[s, action, 1])
    assert heat[0][0] is None  # a wall
    assert chart(task.prior, None)[0] is None
