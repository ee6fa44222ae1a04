"""The arm against its data sheet and against forward kinematics written from the joint table alone."""

import mujoco
import numpy as np
import pytest

from deep.fanuc.cells import build_model
from deep.fanuc.kinematics import FOREARM, FOREARM_RISE, JOINTS, SHOULDER, UPPER_ARM, inverse_kinematics

ORIGINS = np.array(
    [[0, 0, 0.330], [0.050, 0, 0], [0, 0, 0.440], [0, 0, 0.035], [0.420, 0, 0], [0.080, 0, 0]]
)  # [m]
AXES = np.array([[0, 0, 1], [0, 1, 0], [0, -1, 0], [-1, 0, 0], [0, -1, 0], [-1, 0, 0]])
LIMITS = np.array([[-170, 170], [-100, 145], [-70, 213], [-190, 190], [-125, 125], [-360, 360]])  # [deg]
SPEEDS = np.array([370, 310, 410, 550, 545, 1000])  # [deg/s]
LENGTH, PITCH = 0.17, np.radians(60)


def forward(angles, length=0.0):
    """Position (3,) and orientation (3, 3) of a point that lies `length` before the flange, along its x."""
    position, orientation = np.zeros(3), np.eye(3)
    for origin, axis, angle in zip(ORIGINS, AXES, angles, strict=True):
        position = position + orientation @ origin
        cross = np.cross(np.eye(3), axis)  # its product with v is axis x v
        orientation = orientation @ (np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross)
    return position + orientation @ (length, 0, 0), orientation


def random_angles(rng, n):
    return np.radians(rng.uniform(*LIMITS.T, size=(n, 6)))


def test_forward_kinematics_at_zero_is_the_sum_of_the_origins():
    position, orientation = forward(np.zeros(6))
    np.testing.assert_allclose(position, [0.55, 0, 0.805], atol=1e-15)
    np.testing.assert_array_equal(orientation, np.eye(3))


def test_mujoco_puts_flange_and_tip_where_the_joint_table_does(kind):
    model = build_model(kind.scene, kind.tool)
    data = mujoco.MjData(model)
    for angles in random_angles(np.random.default_rng(0), 200):
        data.qpos[:6] = angles
        mujoco.mj_kinematics(model, data)
        for name, length in (("arm/flange", 0.0), ("arm/tool/tip", kind.tool_length)):
            position, orientation = forward(angles, length)
            np.testing.assert_allclose(data.site(name).xpos, position, rtol=0, atol=1e-12)
            np.testing.assert_allclose(data.site(name).xmat.reshape(3, 3), orientation, rtol=0, atol=1e-12)


def test_the_joints_are_those_of_the_data_sheet():
    np.testing.assert_array_equal([joint.origin for joint in JOINTS], ORIGINS)
    np.testing.assert_array_equal([joint.axis for joint in JOINTS], AXES)
    np.testing.assert_array_equal([joint.limits for joint in JOINTS], LIMITS)
    np.testing.assert_array_equal([joint.speed for joint in JOINTS], SPEEDS)


def test_the_compiled_arm_has_the_data_sheets_origins_axes_and_limits(kind):
    model = build_model(kind.scene, kind.tool)
    for i in range(6):
        joint = model.joint(f"arm/joint{i + 1}")
        assert (joint.qposadr[0], joint.dofadr[0], joint.limited[0]) == (i, i, 1)
        np.testing.assert_array_equal(model.body(f"arm/link{i + 1}").pos, ORIGINS[i])
        np.testing.assert_array_equal(model.body(f"arm/link{i + 1}").quat, [1, 0, 0, 0])
        np.testing.assert_array_equal(joint.axis, AXES[i])
        np.testing.assert_allclose(joint.range, np.radians(LIMITS[i]), rtol=1e-15)
        # An actuator cannot ask for what the joint cannot do.
        actuator = model.actuator(f"arm/joint{i + 1}")
        assert (actuator.id, actuator.trnid[0], actuator.ctrllimited[0]) == (i, joint.id, 1)
        np.testing.assert_allclose(actuator.ctrlrange, joint.range, rtol=1e-15)


def test_what_moves_has_mass_and_only_tool_and_scene_collide(kind):
    model = build_model(kind.scene, kind.tool)
    moving = model.body_dofnum > 0
    assert (model.body_mass[moving] > 0).all()
    assert (model.body_inertia[moving] > 0).all()
    collides = (model.geom_contype | model.geom_conaffinity) != 0
    bodies = [model.body(model.geom_bodyid[i]).name for i in np.flatnonzero(collides)]
    assert any(name.startswith("arm/tool/") for name in bodies)
    assert any(name.startswith("scene/") for name in bodies)
    assert "world" in bodies  # the table
    assert not any(name.startswith("arm/") and not name.startswith("arm/tool/") for name in bodies)


def test_composing_a_model_draws_no_warning(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its warnings there
    build_model.__wrapped__(kind.scene, kind.tool)
    assert not list(tmp_path.iterdir())


# --- Inverse kinematics ------------------------------------------------------------------------------------


def elbow_up_angles(rng, n):
    """Random ones with the elbow above the line from shoulder to wrist and the tip before the base."""
    angles = random_angles(rng, 4 * n)
    angles[:, 2] = rng.uniform(np.radians(-70), np.pi / 2 - FOREARM_RISE - 0.01, size=4 * n)
    angles[:, 3], angles[:, 5] = 0, -angles[:, 0]
    angles[:, 4] = angles[:, 1] - angles[:, 2] - PITCH
    tips = np.array([forward(row, LENGTH)[0] for row in angles])
    outward = tips[:, 0] * np.cos(angles[:, 0]) + tips[:, 1] * np.sin(angles[:, 0])
    return angles[outward > 0.05][:n], tips[outward > 0.05][:n]


def test_inverse_kinematics_inverts_forward_kinematics():
    angles, tips = elbow_up_angles(np.random.default_rng(1), 500)
    assert len(angles) == 500
    turns = (inverse_kinematics(tips, PITCH, LENGTH) - angles) / (2 * np.pi)
    np.testing.assert_allclose(turns, np.round(turns), atol=1e-9)


def test_the_workspace_is_reached_at_the_tools_pitch_and_with_level_fingers(kind):
    grid = workspace_grid(kind)
    for tip, angles in zip(grid, inverse_kinematics(grid, kind.tool_pitch, kind.tool_length), strict=True):
        position, orientation = forward(angles, kind.tool_length)
        np.testing.assert_allclose(position, tip, rtol=0, atol=1e-12)
        x, y, z = orientation[:, 0]
        assert np.arctan2(-z, np.hypot(x, y)) == pytest.approx(kind.tool_pitch, abs=1e-9)
        if kind.tool_pitch == np.pi / 2:  # straight down: joint 6 undoes the base's turn
            np.testing.assert_allclose(orientation[:, 1], [0, 1, 0], atol=1e-9)


def test_the_workspace_is_within_the_joints_limits(kind):
    angles = np.degrees(inverse_kinematics(workspace_grid(kind), kind.tool_pitch, kind.tool_length))
    assert (angles >= LIMITS[:, 0]).all()
    assert (angles <= LIMITS[:, 1]).all()


def workspace_grid(kind):
    axes = (np.linspace(low, high, 9) for low, high in zip(*kind.workspace, strict=True))
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)


def test_what_is_out_of_reach_is_approached_as_far_as_the_arm_goes():
    """The wrist's centre lies on the line to where it should be, with the arm stretched."""
    tips = np.array([[2.0, 0.5, 0.4], [0.1, -1.5, 1.8], [0.9, 0.9, 0.0]])
    for tip, angles in zip(tips, inverse_kinematics(tips, PITCH, LENGTH), strict=True):
        assert np.isfinite(angles).all()
        position, orientation = forward(angles, LENGTH)
        tool = (ORIGINS[5, 0] + LENGTH) * orientation[:, 0]
        turn = np.array([np.cos(angles[0]), np.sin(angles[0]), 0])
        shoulder = SHOULDER[0] * turn + (0, 0, SHOULDER[1])
        reached, wanted = position - tool - shoulder, tip - tool - shoulder
        assert np.linalg.norm(reached) == pytest.approx(UPPER_ARM + FOREARM, abs=2e-6)
        np.testing.assert_allclose(
            reached / np.linalg.norm(reached), wanted / np.linalg.norm(wanted), atol=1e-9
        )
