"""The gymnasium side: one interface single and side by side, seeds, limits, pictures and refusals."""

import copy

import mujoco
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from deep.fanuc.bottle import BottleCells
from deep.fanuc.cells import HORIZON
from deep.fanuc.envs import FanucEnv, FanucVectorEnv
from deep.fanuc.eraser import EraserCells
from deep.fanuc.kinematics import JOINTS
from deep.fanuc.pillow import PillowCells

WEIGHTS = np.array([-2.5, -5.0, -0.5, -3.0])


def episode_of(env, seed, n_steps=HORIZON):
    """What an environment returns on an episode of random actions."""
    rng = np.random.default_rng(seed)
    rows = [env.reset(seed=seed)[0]]
    for _ in range(n_steps):
        observation, reward, terminated, truncated, info = env.step(
            rng.uniform(-1, 1, env.action_space.shape)
        )
        rows += [observation, [reward, terminated, truncated, info["success"]], info["features"]]
    return np.concatenate(rows)


@pytest.mark.filterwarnings("ignore:.*observation space m.*imum value is -?infinity")  # it has no bounds
def test_gymnasiums_checker_has_no_complaint(kind):
    check_env(FanucEnv(kind, WEIGHTS), skip_render_check=True)


def test_the_same_seed_is_the_same_episode_bit_for_bit(kind):
    env, other = FanucEnv(kind, WEIGHTS), FanucEnv(kind, WEIGHTS)
    first = episode_of(env, 3)
    np.testing.assert_array_equal(episode_of(other, 3), first)
    np.testing.assert_array_equal(episode_of(env, 3), first)  # whatever came before
    assert not np.array_equal(episode_of(env, 4), first)


def test_without_a_seed_the_generator_goes_on(kind):
    env, other = FanucEnv(kind, WEIGHTS), FanucEnv(kind, WEIGHTS)
    firsts = [each.reset(seed=5)[0] for each in (env, other)]
    seconds = [each.reset()[0] for each in (env, other)]
    np.testing.assert_array_equal(*seconds)
    assert not np.array_equal(firsts[0], seconds[0])
    assert not np.array_equal(*(FanucEnv(kind, WEIGHTS).reset()[0] for _ in range(2)))


@pytest.mark.parametrize("num_envs", [1, 3, 17])
def test_a_vector_of_cells_is_as_many_single_ones_reset_in_the_same_step(kind, num_envs):
    envs = FanucVectorEnv(kind, num_envs, WEIGHTS)
    assert envs.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    singles = {i: FanucEnv(kind, WEIGHTS) for i in {0, num_envs // 2, num_envs - 1}}
    observations, _ = envs.reset(seed=7)
    assert envs.observation_space.contains(observations)
    for i, env in singles.items():
        np.testing.assert_array_equal(env.reset(seed=7 + i)[0], observations[i])
    rng = np.random.default_rng(0)
    for t in range(HORIZON + 10):
        actions = rng.uniform(-1, 1, size=envs.action_space.shape).astype(np.float32)
        observations, rewards, terminated, truncated, info = envs.step(actions)
        for i, env in singles.items():
            observation, *results, single_info = env.step(actions[i])
            assert results == [rewards[i], terminated[i], truncated[i]]
            assert results[1:] == [False, t == HORIZON - 1]
            assert single_info["success"] == info["success"][i]
            np.testing.assert_array_equal(single_info["features"], info["features"][i])
            np.testing.assert_array_equal(observation, info["final_obs"][i])
            assert info["_final_obs"][i] == results[2]
            if results[2]:
                observation, _ = env.reset()
            np.testing.assert_array_equal(observation, observations[i])


def test_what_a_step_returned_is_not_overwritten_by_the_next(kind):
    envs = FanucVectorEnv(kind, 2, WEIGHTS)
    start, _ = envs.reset(seed=0)
    first = (start, *envs.step(np.full(envs.action_space.shape, 0.5)))
    kept = copy.deepcopy(first)
    for _ in range(HORIZON):  # and a reset
        envs.step(np.full(envs.action_space.shape, -0.5))
    for ours, theirs in zip((*first[:5], *first[5].values()), (*kept[:5], *kept[5].values()), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_reward_is_linear_in_the_features_which_stay_in_the_unit_interval(kind):
    env = FanucEnv(kind, WEIGHTS)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(50):
        _, reward, _, _, info = env.step(rng.uniform(-1, 1, env.action_space.shape))
        assert reward == pytest.approx(WEIGHTS @ info["features"], rel=1e-12)
        assert info["features"].shape == (len(kind.features),)
        assert ((info["features"] >= 0) & (info["features"] <= 1)).all()


def place_bottle(cells, gap):
    model, data = cells.model, cells.data[0]
    here = model.joint("scene/bottle x").qposadr[0]
    data.qpos[here : here + 2] = cells.goal[0] - model.body("scene/bottle").pos[:2] + (gap, 0)


def wipe(cells, n_dots):
    cells.contacts[0] = np.where(np.arange(EraserCells.DOTS) < n_dots, EraserCells.CONTACTS, 0)


def raise_pillow(cells, height):
    cells.data[0].joint("scene/pillow").qpos[2] = height


@pytest.mark.parametrize(
    ("kind", "put", "done", "short"),
    [
        (BottleCells, place_bottle, 0.029, 0.031),
        (EraserCells, wipe, 16, 15),
        (PillowCells, raise_pillow, 0.2, 0.1),
    ],
)
def test_success_is_the_task_proper(kind, put, done, short):
    env = FanucEnv(kind, WEIGHTS)
    for how, success in ((done, True), (short, False)):
        env.reset(seed=0)
        put(env._episodes.cells, how)
        assert env.step(np.zeros(kind.n_actions))[4]["success"] is success


def test_actions_beyond_the_bounds_are_cut_off(kind):
    beyond, on_bounds = (
        FanucEnv(kind, WEIGHTS),
        FanucEnv(kind, WEIGHTS),
    )
    for env in (beyond, on_bounds):
        env.reset(seed=0)
    signs = np.array([1.0, -1.0, 1.0, 1.0])[: kind.n_actions]
    for _ in range(5):
        ours, theirs = beyond.step(3 * signs), on_bounds.step(signs)
        np.testing.assert_array_equal(ours[0], theirs[0])
        np.testing.assert_array_equal(ours[4]["features"], theirs[4]["features"])


# --- What the machine can stand ----------------------------------------------------------------------------


@pytest.mark.parametrize("n_steps", [400, pytest.param(2_500, marks=pytest.mark.slow)])
def test_random_steps_keep_the_data_sheet_and_draw_no_warning(kind, n_steps):
    """At every step of the simulator; actions on the bounds that last for up to ten steps are the worst."""
    sheet = np.radians([(*joint.limits, joint.speed) for joint in JOINTS])
    lowest, highest, fastest, warnings = np.full(6, np.inf), np.full(6, -np.inf), np.zeros(6), []

    def watch(model, data):
        np.minimum(lowest, data.qpos[:6], out=lowest)
        np.maximum(highest, data.qpos[:6], out=highest)
        np.maximum(fastest, np.abs(data.qvel[:6]), out=fastest)
        warnings.append(data.warning.number.sum())

    envs, rng = FanucVectorEnv(kind, 4, WEIGHTS), np.random.default_rng(0)
    envs.reset(seed=0)
    mujoco.set_mjcb_control(watch)
    try:
        for t in range(n_steps):
            if t % 10 == 0:
                held = rng.choice([-1.0, 1.0], size=envs.action_space.shape)
            loose = rng.random(4) < 0.5
            envs.step(np.where(loose[:, None], rng.uniform(-1, 1, size=held.shape), held))
    finally:
        mujoco.set_mjcb_control(None)
    slack = np.radians(0.1)  # limits are soft in MuJoCo
    assert (lowest >= sheet[:, 0] - slack).all()
    assert (highest <= sheet[:, 1] + slack).all()
    assert (fastest <= sheet[:, 2]).all()
    assert fastest.max() > 0.5  # [rad/s]: the callback saw it move
    assert max(warnings) == 0


# --- Refusals ----------------------------------------------------------------------------------------------


def test_step_needs_a_reset(kind):
    with pytest.raises(ResetNeeded, match="call reset first"):
        FanucEnv(kind, WEIGHTS).step(np.zeros(kind.n_actions))
    with pytest.raises(ResetNeeded, match="call reset first"):
        FanucVectorEnv(kind, 2, WEIGHTS).step(np.zeros((2, kind.n_actions)))


@pytest.mark.parametrize("bad", [0.0, [0.0], np.zeros(7), [[0.0, 0.0, 0.0]], None])
def test_bad_actions_are_named(kind, bad):
    env = FanucEnv(kind, WEIGHTS)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="action must"):
        env.step(bad)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_actions_that_are_not_finite_are_named(kind, value):
    envs = FanucVectorEnv(kind, 2, WEIGHTS)
    envs.reset(seed=0)
    actions = np.zeros((2, kind.n_actions))
    actions[1, 0] = value
    with pytest.raises(ValueError, match="action must be finite"):
        envs.step(actions)
    with pytest.raises(ValueError, match="action must have shape"):
        envs.step(actions[:1])


@pytest.mark.parametrize("weights", [np.zeros(3), [0.0, np.nan, 0.0, 0.0]])
def test_bad_weights_are_named(kind, weights):
    with pytest.raises(ValueError, match="weights must"):
        FanucEnv(kind, weights)
    with pytest.raises(ValueError, match="weights must"):
        FanucVectorEnv(kind, 2, weights)


def test_other_bad_arguments_are_named():
    with pytest.raises(ValueError, match="num_envs must be"):
        FanucVectorEnv(BottleCells, 0, WEIGHTS)
    with pytest.raises(ValueError, match="seed must be an integer or 2 of them, got 1"):
        FanucVectorEnv(BottleCells, 2, WEIGHTS).reset(seed=[1])
    with pytest.raises(ValueError, match="render_mode must be rgb_array or None, got 'human'"):
        FanucEnv(BottleCells, WEIGHTS, render_mode="human")


# --- Pictures ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", name="gl")
def _gl():
    env = FanucEnv(BottleCells, WEIGHTS, render_mode="rgb_array")
    env.reset(seed=0)
    try:
        env.render()
    except RuntimeError as error:
        pytest.skip(f"no OpenGL to draw with: {error}")
    env.close()


@pytest.mark.usefixtures("gl")
def test_a_picture_shows_the_arm_and_follows_it(kind):
    env = FanucEnv(kind, WEIGHTS, render_mode="rgb_array")
    env.reset(seed=0)
    before = env.render()
    assert (before.shape, before.dtype) == ((480, 640, 3), np.uint8)
    np.testing.assert_array_equal(env.render(), before)
    red, green, blue = before.astype(float).transpose(2, 0, 1)
    yellow = (red > 150) & (green > 0.6 * red) & (blue < 0.4 * red)
    assert 0.02 < yellow.mean() < 0.4
    for _ in range(10):
        env.step(np.eye(kind.n_actions)[0])
    after = env.render()
    changed = np.abs(after.astype(float) - before).max(axis=2) > 20
    assert 0.005 < changed.mean() < 0.5
    env.close()
    env.close()


def project(cells, points):
    """Where points (N, 3) are in the picture, rows and columns (N, 2), through a pinhole at the camera."""
    camera = cells.data[0].camera("view")
    right, up, back = ((points - camera.xpos) @ camera.xmat.reshape(3, 3)).T
    focal = 240 / np.tan(np.radians(cells.model.camera("view").fovy[0]) / 2)
    return np.stack((240 + focal * up / back, 320 - focal * right / back), axis=1)


@pytest.mark.usefixtures("gl")
@pytest.mark.parametrize("kind", [BottleCells, EraserCells])
def test_goal_and_ink_are_drawn_where_they_are(kind, monkeypatch):
    env = FanucEnv(kind, WEIGHTS, render_mode="rgb_array")
    env.reset(seed=0)
    marked = env.render().astype(float)
    monkeypatch.setattr(kind, "draw_marks", lambda self, scene: None)
    plain = env.render().astype(float)
    changed = np.argwhere(np.abs(marked - plain).max(axis=2) > 30)
    assert 50 < len(changed) < 20_000
    cells = env._episodes.cells
    if kind is BottleCells:
        marks, height = cells.goal, 0.0
    else:
        marks, height = cells.ink[0], EraserCells.BOARD
    pixels = project(cells, np.insert(marks, 2, height, axis=1))
    np.testing.assert_allclose(changed.mean(axis=0), pixels.mean(axis=0), atol=5)
    env.close()


@pytest.mark.usefixtures("gl")
def test_the_tip_s_shadow_lies_straight_below_it(monkeypatch):
    env = FanucEnv(EraserCells, WEIGHTS, render_mode="rgb_array")
    env.reset(seed=0)
    for _ in range(10):
        env.step([0.0, 0.0, 1.0])
    shaded = env.render().astype(float)
    monkeypatch.setattr(EraserCells, "draw_shadows", lambda self, scene: None)
    darker = np.argwhere((env.render() - shaded).max(axis=2) > 20)
    assert len(darker) > 50
    cells = env._episodes.cells
    tip = cells.tip[0]
    assert tip[2] > EraserCells.BOARD + 0.05
    (below,) = project(cells, np.array([[*tip[:2], EraserCells.BOARD]]))
    np.testing.assert_allclose(darker.mean(axis=0), below, atol=3)
    env.close()


@pytest.mark.usefixtures("gl")
def test_wiped_ink_is_not_drawn():
    env = FanucEnv(EraserCells, WEIGHTS, render_mode="rgb_array")
    env.reset(seed=0)
    cells = env._episodes.cells
    pictures = []
    for wiped in (0, 8, 16):
        cells.contacts[0, :wiped] = EraserCells.CONTACTS
        pictures.append(env.render().astype(float))
    blue = [((p[..., 2] > 1.5 * p[..., 0]) & (p[..., 2] > 60)).sum() for p in pictures]
    assert blue[0] - blue[1] == pytest.approx(blue[1] - blue[2], rel=0.5)
    assert blue[0] - blue[2] > 200
    env.close()


def test_without_opengl_the_message_says_what_to_do(monkeypatch):
    def fail(*args):
        raise ImportError("Cannot initialize a EGL device display")

    monkeypatch.setattr(mujoco, "Renderer", fail)
    monkeypatch.setenv("MUJOCO_GL", "egl")
    env = FanucEnv(PillowCells, WEIGHTS, render_mode="rgb_array")
    env.reset(seed=0)
    with pytest.raises(
        RuntimeError, match=r"MUJOCO_GL=egl \(Cannot initialize.*apt-get install libegl1.*osmesa"
    ):
        env.render()
    env.step(np.zeros(4))  # all but pictures works
