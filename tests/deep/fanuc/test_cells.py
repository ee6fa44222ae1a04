"""The cells' mechanics against closed forms, and their features recomputed from the simulator's data."""

import mujoco
import numpy as np
import pytest

from deep.fanuc.bottle import BottleCells, TopplingBottleCells
from deep.fanuc.cells import HORIZON, LEASH, SPEED, SUB_STEPS
from deep.fanuc.eraser import EraserCells
from deep.fanuc.pillow import PillowCells

GRAVITY = 9.81
STEP = 0.05  # [s]


def make(kind, seed=0, count=1):
    cells = kind(count)
    for n in range(count):
        cells.reset(n, np.random.default_rng([seed, n]))
    return cells


def rest(cells, n_steps, grip=0.0):
    for _ in range(n_steps):
        cells.step(np.array([[0.0, 0.0, 0.0, grip]])[:, : cells.n_actions])


def contact_force(cells, first, second):
    """Normal force between two geoms (or, by a prefix, groups of them) of the first cell [N]."""
    data, wrench, total = cells.data[0], np.zeros(6), 0.0
    mujoco.mj_forward(cells.model, data)
    for i in range(data.ncon):
        names = {cells.model.geom(geom).name for geom in data.contact[i].geom}
        if any(name.startswith(first) for name in names) and any(name.startswith(second) for name in names):
            mujoco.mj_contactForce(cells.model, data, i, wrench)
            total += wrench[0]
    return total


def test_a_step_is_a_twentieth_of_a_second(kind):
    cells = make(kind)
    rest(cells, 3)
    assert cells.data[0].time == pytest.approx(3 * STEP)
    assert SUB_STEPS * cells.model.opt.timestep == pytest.approx(STEP)


@pytest.mark.parametrize(
    "direction", [(0.5, 0, 0), (0, 0.5, 0), (0, 0, -0.5), (0, 0, 0.5), (1, 0, 0), (0, 1, 0), (0.3, -0.4, 0.2)]
)
def test_in_free_space_the_tip_has_the_commanded_velocity(kind, drive, direction):
    """Within 4 % of the speed, from the fourth step on."""
    cells, direction = make(kind), np.array(direction)
    if kind is BottleCells:  # out of the way
        cells.data[0].qpos[cells.model.joint("scene/bottle x").qposadr[0]] = -0.4
    centre = np.array([0.58, 0.0, 0.15])
    drive(cells, centre - 0.2 * SPEED * direction, 60)
    action = np.zeros((1, cells.n_actions))
    action[0, :3] = direction
    tips = []
    for _ in range(8):
        cells.step(action)
        tips.append(cells.tip[0].copy())
    velocity = np.diff(tips, axis=0)[2:] / STEP
    speed = SPEED * np.linalg.norm(direction)
    assert np.linalg.norm(velocity - SPEED * direction, axis=1).max() < 0.04 * speed


def test_the_commanded_point_stays_in_the_workspace_and_on_its_leash(kind):
    cells, rng = make(kind, count=4), np.random.default_rng(0)
    low, high = np.array(kind.workspace)
    for _ in range(100):
        before = cells.tip.copy()
        action = rng.choice([-1.0, 1.0], size=(4, cells.n_actions))
        cells.step(action)
        assert (cells.command >= low).all()
        assert (cells.command <= high).all()
        inside = ((before > low) & (before < high)).all(axis=1)
        assert (np.abs(cells.command - before)[inside] <= LEASH + 1e-12).all()


def test_a_copied_cell_goes_on_alike(kind):
    rng = np.random.default_rng(1)
    cells, others = make(kind, seed=1, count=2), make(kind, seed=2, count=3)
    actions = rng.uniform(-1, 1, size=(30, 3, cells.n_actions))
    for action in actions[:15]:
        others.step(action)
    cells.copy(0, others, 2)
    for action in actions[15:]:
        ours, theirs = cells.step(action[[2, 0]]), others.step(action)
        np.testing.assert_array_equal(ours[0], theirs[2])
        np.testing.assert_array_equal(cells.observe()[0], others.observe()[2])


# --- Bottle -----------------------------------------------------------------------------------------------


def test_the_bottle_stands_still_untouched():
    for seed in range(5):
        cells = make(BottleCells, seed)
        before = cells.bottle.copy()
        rest(cells, HORIZON)
        assert np.abs(cells.bottle - before).max() < 1e-4


@pytest.mark.parametrize("angle", [0.0, 0.7, -1.2])
def test_a_shoved_bottle_slides_to_rest_by_coulombs_law(angle):
    """Deceleration mu g within 3 %, and a way of v^2 / (2 mu g) within 3 %."""
    cells = make(BottleCells)
    model, data = cells.model, cells.data[0]
    mu = max(model.geom("scene/bottle").friction[0], model.geom("table").friction[0])
    drop = model.body("scene/bottle").mass[0] * GRAVITY
    data.qpos[:6] = data.ctrl[:6] = 0  # the arm points away
    rest_steps, dt, speed = 40, model.opt.timestep, 0.8
    mujoco.mj_step(model, data, nstep=rest_steps)
    assert contact_force(cells, "scene/bottle", "table") == pytest.approx(drop, rel=1e-3)
    x = model.joint("scene/bottle x")
    here, there = (slice(adr[0], adr[0] + 2) for adr in (x.qposadr, x.dofadr))
    start = data.qpos[here].copy()
    data.qvel[there] = speed * np.cos(angle), speed * np.sin(angle)
    speeds = [speed]
    while speeds[-1] > 1e-6 and len(speeds) < 400:
        mujoco.mj_step(model, data)
        speeds.append(np.linalg.norm(data.qvel[there]))
    sliding = np.array(speeds)[np.array(speeds) > 0.2 * speed]
    slope = np.polyfit(dt * np.arange(len(sliding)), sliding, 1)[0]
    assert -slope == pytest.approx(mu * GRAVITY, rel=0.03)
    way = data.qpos[here] - start
    assert np.linalg.norm(way) == pytest.approx(speed**2 / (2 * mu * GRAVITY), rel=0.03)
    assert np.arctan2(way[1], way[0]) == pytest.approx(angle, abs=0.01)


def test_a_pushed_bottle_moves_with_the_tip(drive):
    cells = make(BottleCells)
    before = cells.bottle[0].copy()
    # From behind, low, and straight on: the surfaces touch where the tip is a radius away.
    drive(cells, np.array([before[0] - 0.1, before[1], 0.05]), 40)
    drive(cells, np.array([before[0] + 0.1, before[1], 0.05]), 80)
    moved = cells.bottle[0] - before
    assert moved[0] == pytest.approx(0.1 + BottleCells.RADIUS, abs=0.005)
    assert cells.bottle[0, 0] - cells.tip[0, 0] == pytest.approx(BottleCells.RADIUS, abs=0.003)


@pytest.mark.parametrize(("height", "falls"), [(0.04, False), (0.11, False), (0.14, True), (0.18, True)])
def test_a_bottle_pushed_above_its_radius_over_the_friction_falls(drive, height, falls):
    """Statics: friction mu m g at the bottom outweighs m g r at the edge if pushed above r / mu = 12.5 cm."""
    cells = make(TopplingBottleCells)
    before = cells.bottle[0].copy()
    drive(cells, np.array([before[0] - 0.1, before[1], height]), 40)
    assert cells.axis[0, 2] == pytest.approx(1.0, abs=1e-6)
    drive(cells, np.array([before[0] + 0.1, before[1], height]), 80)
    assert (cells.axis[0, 2] < cells.UPRIGHT) == falls
    assert (cells.step(np.zeros((1, 3)))[0, 1] == 1.0) == falls
    cells.goal[0] = cells.bottle[0]
    assert cells.succeeded(cells.observe())[0] != falls


# --- Eraser -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [0.004, 0.010, 0.016])
def test_a_static_push_is_spring_times_compression_and_the_contacts_force(depth):
    cells = make(EraserCells)
    x, y, _ = cells.tip[0]
    command = np.array([x, y, EraserCells.BOARD - depth])
    for _ in range(80):
        ahead = (command - cells.command[0]) / (SPEED * STEP)
        cells.step(np.clip(ahead, -1, 1)[None])
    spring = cells.model.joint("arm/tool/spring")
    compression = cells.data[0].qpos[spring.qposadr[0]]
    stiffness = cells.model.jnt_stiffness[spring.id]
    assert compression == pytest.approx(depth, abs=0.002)  # what the arm gives way is small
    assert cells.force[0] == pytest.approx(stiffness * compression, rel=1e-12)
    assert contact_force(cells, "arm/tool/felt", "scene/board") == pytest.approx(cells.force[0], rel=0.02)
    assert cells.tip[0, 2] == pytest.approx(EraserCells.BOARD, abs=0.001)


def test_without_touch_there_is_no_force():
    cells = make(EraserCells)
    rest(cells, 20)
    assert cells.force[0] < 0.2  # the spring holds the pad's acceleration alone
    assert contact_force(cells, "arm/tool/felt", "scene/board") == 0


def test_a_firm_stroke_erases_all_ink_and_hovering_none(drive):
    for height, left in ((EraserCells.BOARD - 0.015, 0), (EraserCells.BOARD + 0.01, EraserCells.DOTS)):
        cells = make(EraserCells)
        dots = cells.ink[0].copy()
        drive(cells, np.array([*dots[0], 0.06]), 40)
        for dot in dots:
            drive(cells, np.array([*dot, height]), 10)
        assert (cells.contacts[0] < EraserCells.CONTACTS).sum() == left
        features = dict(zip(EraserCells.features, cells.step(np.array([[0, 0, 0.5]]))[0], strict=True))
        assert features["ink_left"] == left / EraserCells.DOTS
        if left == 0:  # then neither where nor how hard it presses counts
            assert cells.force[0] < EraserCells.FIRM
            assert features["ink_dist"] == features["force_deficit"] == 0
        cells.reset(0, np.random.default_rng(1))
        assert not cells.contacts.any()


# --- Pillow -----------------------------------------------------------------------------------------------


def grasp(drive, seed, offset):
    """Grasp so far off the pillow's centre along its axis [m], and lift it to 0.2 m."""
    cells = make(PillowCells, seed)
    where = cells.pillow[0] + offset * cells.axis[0]
    for height, n_steps, grip in ((0.15, 30, -1), (0.035, 20, -1), (0.035, 10, 1), (0.2, 35, 1)):
        drive(cells, np.array([*where[:2], height]), n_steps, grip)
    return cells


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_closed_fingers_hold_the_pillow_by_friction_and_open_ones_let_it_fall(drive, seed):
    cells = grasp(drive, seed, offset=0.0)
    lifted = cells.pillow[0, 2]
    assert lifted == pytest.approx(0.195, abs=0.005)
    assert contact_force(cells, "scene/pillow", "table") == 0
    rest(cells, HORIZON)  # 5 s
    assert cells.pillow[0, 2] == pytest.approx(lifted, abs=0.003)
    # By Coulomb's law two pads could hold it, with the rougher surface's friction as MuJoCo takes it.
    squeeze = contact_force(cells, "arm/tool/left pad", "scene/pillow")
    mu = max(cells.model.geom(name).friction[0] for name in ("arm/tool/left pad", "scene/pillow"))
    assert 2 * mu * squeeze > cells.model.body("scene/pillow").mass[0] * GRAVITY
    rest(cells, 20, grip=-1)
    assert cells.pillow[0, 2] == pytest.approx(PillowCells.REST, abs=0.002)


def test_fingers_that_close_beside_the_pillow_lift_nothing(drive):
    cells = grasp(drive, 0, offset=0.20)
    assert cells.pillow[0, 2] == pytest.approx(PillowCells.REST, abs=0.002)


# --- Features, by other formulas --------------------------------------------------------------------------


def bottle_features(cells, data, action):
    tip, bottle = data.site("arm/tool/tip").xpos, data.body("scene/bottle").xpos
    gap = np.hypot(tip[0] - bottle[0], tip[1] - bottle[1]) - 0.0375 - 0.012  # the radii of bottle and tip
    left = np.hypot(*(cells.goal[0] - bottle[:2]))
    return gap / 0.3, left / 0.3, sum(a * a for a in action) / 3, tip[2] / 0.2


def pillow_features(cells, data, action):
    hand, centre = data.site("arm/tool/tip").xpos, data.geom("scene/pillow").xpos
    ends = [centre + data.geom("scene/pillow").xmat.reshape(3, 3) @ (0, y, 0) for y in (-0.15, 0.15)]
    share = np.clip((hand - ends[0]) @ (ends[1] - ends[0]) / 0.3**2, 0, 1)
    nearest = (1 - share) * ends[0] + share * ends[1]
    plane = (ends[1] - ends[0]) / 0.3
    lift = centre[2] - PillowCells.REST
    return (
        np.linalg.norm(hand - nearest) / 0.3,
        1 - lift / 0.15,
        sum(a * a for a in action) / 4,
        abs((hand - centre) @ plane) / 0.15,
    )


class InkLedger:
    """Which dots the pad has wiped, kept apart from the cells."""

    def __init__(self, cells):
        self.touches = dict.fromkeys(map(tuple, cells.ink[0].tolist()), 0)

    def features(self, cells, data, action):
        pad = data.site("arm/tool/tip").xpos
        force = max(0, 1500 * data.joint("arm/tool/spring").qpos[0])
        for dot in self.touches:
            if force >= 1 and np.hypot(pad[0] - dot[0], pad[1] - dot[1]) <= 0.02:
                self.touches[dot] += 1
        left = [dot for dot, touches in self.touches.items() if touches < EraserCells.CONTACTS]
        effort = (sum(a * a for a in action) / 3 + 2 * (force / EraserCells.FIRM) ** 2) / 3
        if not left:
            return 0, 0, effort, 0
        nearest = min(np.hypot(pad[0] - x, pad[1] - y) for x, y in left)
        return nearest / 0.3, len(left) / 16, effort, 1 - force / 30


def press_and_wander(cells, rng):
    """A random action that presses the pad and sweeps it along the stroke, so that dots go."""
    dot = cells.ink[0][rng.integers(16)]
    return np.append(np.clip((dot - cells.tip[0, :2]) / 0.05, -1, 1), rng.uniform(-1, 0.2))


@pytest.mark.parametrize("seed", range(3))
def test_features_follow_from_the_simulators_data(kind, seed):
    cells, rng = make(kind, seed), np.random.default_rng(seed)
    formula = pillow_features if kind is PillowCells else bottle_features
    if kind is EraserCells:
        formula = InkLedger(cells).features
    data, seen = mujoco.MjData(cells.model), []
    for _ in range(HORIZON):
        action = rng.uniform(-1, 1, size=cells.n_actions)
        action = (
            press_and_wander(cells, rng) if kind is EraserCells else action * (1, 1, 0.7, 1)[: len(action)]
        )
        features = cells.step(action[None])[0]
        data.qpos = cells.data[0].qpos
        mujoco.mj_kinematics(cells.model, data)
        np.testing.assert_allclose(features, np.clip(formula(cells, data, action), 0, 1), atol=1e-12)
        seen.append(features)
    assert (np.ptp(seen, axis=0) > 0.01).sum() >= 3  # the episode went somewhere
