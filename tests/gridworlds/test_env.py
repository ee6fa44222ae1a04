"""The environment draws from the very rows of the MDP, and its pictures show where the agent is."""

import re
import subprocess
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from scipy.stats import chisquare

from gridworlds import TASKS, TabularEnv
from gridworlds.draw import CONTROLLER_COLOURS
from gridworlds.tasks import HORIZONS

each_task = pytest.mark.parametrize("name", TASKS)


def make_env(task, render_mode=None):
    """The environment of a task without its time limit."""
    return task.make_env(render_mode).unwrapped


@each_task
def test_gymnasium_makes_and_approves_of_it(name):
    env = gym.make(f"mereq/{name.capitalize()}-v0", render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)
    assert env.spec.max_episode_steps == TASKS[name]().horizon == HORIZONS[name]


@each_task
def test_steps_follow_the_transition_rows(name):
    task = TASKS[name]()
    env, mdp = make_env(task), task.mdp
    env.reset(seed=0)
    busiest = np.argsort(-np.diff(mdp.transition.indptr), kind="stable")[:3]
    for row in [*busiest, 0]:
        drawn = np.zeros(mdp.n_states)
        for _ in range(4_000):
            env.state, action = divmod(int(row), mdp.n_actions)
            state, reward, terminated, truncated, info = env.step(action)
            drawn[state] += 1
        expected = mdp.transition[[row]].toarray()[0]
        assert drawn[expected == 0].sum() == 0
        possible = expected > 0
        if possible.sum() > 1:
            assert chisquare(drawn[possible], 4_000 * expected[possible]).pvalue > 1e-3
        s, a = divmod(int(row), mdp.n_actions)
        np.testing.assert_array_equal(info["features"], mdp.features[s, a])
        assert reward == pytest.approx(task.env_weights @ mdp.features[s, a])
        assert terminated == mdp.terminal[state]
        assert not truncated


@each_task
def test_episodes_begin_in_the_initial_distribution(name):
    task = TASKS[name]()
    env = make_env(task)
    first = [env.reset(seed=0)[0], *(env.reset()[0] for _ in range(5_000))]
    counts = np.bincount(first, minlength=task.mdp.n_states)
    possible = task.mdp.initial > 0
    assert counts[~possible].sum() == 0
    assert chisquare(counts[possible], counts.sum() * task.mdp.initial[possible]).pvalue > 1e-3


def test_the_last_step_of_a_crash_terminates_and_time_truncates():
    task = TASKS["lanes"]()
    env = task.make_env()
    env.reset(seed=0)
    crash = task.mdp.n_states - 1
    ends = set()
    for _ in range(3_000):
        state, _, terminated, truncated, _ = env.step(3)  # always faster
        assert terminated == (state == crash)
        if terminated or truncated:
            ends.add("crash" if terminated else "time")
            env.reset()
    assert "crash" in ends
    for _ in range(60):
        _, _, terminated, truncated, _ = env.step(4)  # always slower
        if truncated:
            break
    assert truncated
    assert not terminated


def test_seeds_decide_everything():
    def play(seed):
        env = TASKS["carpet"]().make_env()
        state, _ = env.reset(seed=seed)
        return [state] + [env.step(t % 5)[0] for t in range(25)]

    assert play(7) == play(7)
    assert play(7) != play(8)


@pytest.mark.parametrize("action", [5, -1, 1.7, 1.0, "x", None, np.int64(5), np.array([1])], ids=repr)
def test_actions_outside_the_space_are_refused(action):
    env = TASKS["carpet"]().make_env()
    env.reset(seed=0)
    with pytest.raises(ValueError, match=re.escape(f"action must be an integer in 0..4, got {action!r}")):
        env.step(action)


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.array])
def test_numpy_integers_are_actions(kind):
    ours, plain = TASKS["carpet"]().make_env(), TASKS["carpet"]().make_env()
    ours.reset(seed=0)
    plain.reset(seed=0)
    assert [ours.step(kind(t % 5))[0] for t in range(25)] == [plain.step(t % 5)[0] for t in range(25)]


@pytest.mark.parametrize("call", [lambda env: env.step(0), TabularEnv.render])
def test_nothing_goes_before_reset(call):
    env = make_env(TASKS["carpet"](), "rgb_array")
    with pytest.raises(ResetNeeded, match="call reset first"):
        call(env)


@pytest.mark.parametrize("mode", ["human", "ansi", ""])
def test_other_render_modes_are_refused(mode):
    with pytest.raises(ValueError, match=f"render_mode must be None or 'rgb_array', got '{mode}'"):
        make_env(TASKS["carpet"](), mode)


@pytest.mark.parametrize("name", ["carpet", "windy"])
@pytest.mark.parametrize("controller", ["policy", "expert"])
def test_the_agent_is_painted_where_it_is(name, controller):
    task = TASKS[name]()
    env = make_env(task, "rgb_array")
    env.reset(seed=0)
    env.controller = controller
    size = env.render().shape[0] / task.layout.letters.shape[0]
    for state in (0, 17, task.mdp.n_states - 1):
        env.state = state
        image = env.render()
        agent = np.argwhere((image == CONTROLLER_COLOURS[controller]).all(axis=2))
        np.testing.assert_array_equal(np.floor(agent.mean(axis=0) / size), task.layout.cells[state])
        assert len(agent) > 0.2 * size**2


def test_lanes_show_the_ego_and_the_gap():
    task = TASKS["lanes"]()
    env = make_env(task, "rgb_array")
    env.reset(seed=0)

    def columns_of(colour):
        return np.argwhere((env.render() == colour).all(axis=2)).mean(axis=0)

    where = []
    for lane, gap in ((0, 1), (2, 1), (2, 9)):
        env.state = int(np.ravel_multi_index((lane, 1, gap, 0), (3, 3, 14, 3)))
        where.append((columns_of(CONTROLLER_COLOURS["policy"]), columns_of((208, 210, 214))))
    assert where[0][0][0] < where[1][0][0]  # further down in a lane further right
    np.testing.assert_allclose(where[0][1], where[1][1])  # the other car stays
    assert where[2][1][1] > where[1][1][1] + 100  # a larger gap is further on
    env.state = task.mdp.n_states - 1
    assert not (env.render() == CONTROLLER_COLOURS["policy"]).all(axis=2).any()


def test_the_shelf_shows_the_hand_at_its_height():
    env = make_env(TASKS["shelf"](), "rgb_array")
    env.reset(seed=0)
    rows = []
    for height in range(4):
        env.state = int(np.ravel_multi_index((5, 2, height), (14, 4, 4)))
        rows.append(np.argwhere((env.render() == CONTROLLER_COLOURS["policy"]).all(axis=2)).mean(axis=0))
    assert (np.diff([row for row, _ in rows]) < -20).all()
    np.testing.assert_allclose([column for _, column in rows], rows[0][1])


def test_importing_builds_no_task():
    """Building a task takes a solve, so the import builds none; gymnasium knows the time limits anyway."""
    program = (
        "import gymnasium, mereq_min.soft; mereq_min.soft.solve_soft = None; import gridworlds\n"
        "print(gymnasium.spec('mereq/Lanes-v0').max_episode_steps)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "50"
