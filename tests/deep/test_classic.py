"""Gymnasium's classic control as tasks: rewards are gymnasium's own or the paper's, time limits truncate."""

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from deep.classic import RESIDUAL_WEIGHTS, TASKS
from deep.nets import mlp
from deep.policies import DiscretePolicy
from deep.rollouts import collect
from deep.stable_baselines import load_zip
from mereq_min.lab.plugins import load_policy
from mereq_min.policies import UniformPolicy

N_STEPS = 400


def walk(env, n_steps, seed, act=None):
    """Steps (state, action, reward, next state, terminated, truncated, info) of random or given actions."""
    env.action_space.seed(seed)
    state, _ = env.reset(seed=seed)
    for _ in range(n_steps):
        action = env.action_space.sample() if act is None else act(state)
        next_state, *outcome = env.step(action)
        yield state, action, next_state, *outcome
        state = next_state
        if outcome[1] or outcome[2]:
            state, _ = env.reset()
    env.close()


@pytest.mark.parametrize("name", ["MountainCarContinuous-v0", "LunarLander-v3", "LunarLander-v3:continuous"])
def test_the_priors_reward_is_gymnasiums_own(name):
    task = TASKS[name]()
    options = {"continuous": True} if name.endswith("continuous") else {}
    own = walk(gym.make(name.partition(":")[0], **options), N_STEPS, seed=1)
    for theirs, ours in zip(own, walk(task.make_env(), N_STEPS, seed=1), strict=True):
        assert ours[3] == theirs[3]
        assert ours[3] == ours[-1]["features"][0]
        np.testing.assert_array_equal(ours[2], theirs[2])
        assert ours[4:6] == theirs[4:6]


def test_the_priors_reward_on_cartpole_is_that_of_the_paper():
    task, weights, ends = TASKS["CartPole-v1"](), np.array([1.0, -10.0, 0.0]), 0
    for _, _, state, reward, terminated, _, info in walk(task.make_env(), N_STEPS, seed=1):
        assert reward == pytest.approx(1 - 10 * abs(float(state[2])) / 0.2095)
        assert reward == info["features"] @ weights
        ends += terminated
    assert ends > 5


@pytest.mark.parametrize(
    ("name", "add_on"),
    [
        ("CartPole-v1", lambda action, state: -abs(float(state[0])) / 2.4),
        ("MountainCarContinuous-v0", lambda action, state: -0.1 if action[0] < 0 else 0.0),
    ],
)
def test_the_residual_reward_is_the_papers_add_on(name, add_on):
    task = TASKS[name]()
    theta = RESIDUAL_WEIGHTS[name]
    differences = []
    for _, action, state, _, _, _, info in walk(task.make_env(), N_STEPS, seed=2):
        differences.append(info["features"] @ theta - add_on(action, state))
    np.testing.assert_allclose(differences, 0.0, atol=1e-12)


def balance(state):
    """A linear controller that keeps the pole up for good."""
    return int(state @ [0.1, 0.5, 5.0, 1.0] > 0)


def test_the_time_limit_truncates_and_a_fall_terminates():
    task = TASKS["CartPole-v1"]()
    *steps, last = walk(task.make_env(), task.horizon, seed=0, act=balance)
    assert task.horizon == 500
    assert not any(step[4] or step[5] for step in steps)
    assert last[4:6] == (False, True)
    falls = [step for step in walk(task.make_env(), 100, seed=0) if step[4] or step[5]]
    assert falls
    for _, _, state, _, terminated, truncated, _ in falls:
        assert terminated
        assert not truncated
        assert abs(state[2]) > 0.2095 - 1e-4 or abs(state[0]) > 2.4


class Balance:
    """`balance` as a policy."""

    def sample(self, state, rng):
        return np.array([balance(row) for row in state])


def test_side_by_side_the_step_before_a_reset_keeps_its_features_and_observation():
    task = TASKS["CartPole-v1"]()
    envs = task.make_vector_env(3)
    policy = UniformPolicy(envs.single_action_space)
    steps = collect(envs, policy, 120, np.random.default_rng(0), seed=0)
    envs.close()
    assert steps.terminated.sum() > 5
    expected = np.stack(
        [
            np.ones(steps.t.shape),
            np.abs(steps.next_state[..., 2]) / 0.2095,
            np.abs(steps.next_state[..., 0]) / 2.4,
        ],
        axis=-1,
    )
    np.testing.assert_allclose(steps.features, expected, atol=1e-6)
    tilt, place = np.abs(steps.next_state[..., 2]), np.abs(steps.next_state[..., 0])
    np.testing.assert_array_equal(steps.terminated, (tilt > 12 * np.pi / 180) | (place > 2.4))


def test_side_by_side_the_reward_is_the_priors():
    envs = TASKS["CartPole-v1"]().make_vector_env(2)
    envs.reset(seed=0)
    _, reward, *_, info = envs.step(np.array([0, 1]))
    envs.close()
    np.testing.assert_allclose(reward, info["features"] @ [1.0, -10.0, 0.0])


def test_evaluate_measures_the_first_episode_of_each_environment():
    task = TASKS["CartPole-v1"]()
    returns = []
    for seed in range(4):
        rows = []
        for _, _, _, reward, terminated, _, info in walk(task.make_env(), 500, seed, act=lambda state: 0):
            rows.append((reward, info["features"] @ [1.0, -10.0, -1.0], 1.0))
            if terminated:
                break
        returns.append(np.sum(rows, axis=0))
    measured = task.evaluate(AlwaysLeft(), episodes=4)
    assert list(measured) == ["task_return", "expert_return", "length"]
    np.testing.assert_allclose(list(measured.values()), np.mean(returns, axis=0))
    assert task.evaluate(Balance(), episodes=2)["length"] == 500.0


class AlwaysLeft:
    def sample(self, state, rng):
        return np.zeros(len(state), dtype=np.int64)


def test_a_policy_for_another_task_is_refused_in_words():
    task = TASKS["CartPole-v1"]()
    message = "CartPole-v1: the policy observes 8 numbers, the task's observation is 4"
    with pytest.raises(ValueError, match=message):
        task.load_policy(DiscretePolicy(mlp([8, 4], seed=0)).arrays())
    with pytest.raises(ValueError, match="CartPole-v1: this policy has 6 actions, the task has 2 actions"):
        task.load_policy(DiscretePolicy(mlp([4, 6], seed=0)).arrays())
    with pytest.raises(ValueError, match="no policy: expected scales"):
        task.load_policy({})


def test_a_dqn_of_stable_baselines3_acts_at_the_temperature_of_a_prior():
    task, states = TASKS["CartPole-v1"](), np.random.default_rng(0).standard_normal((9, 4))
    file = Path(__file__).parents[1] / "data/dqn_cartpole.zip"
    expected = load_zip(file, temperature=0.05).log_probs(states)
    np.testing.assert_array_equal(load_policy(str(file), task).log_probs(states), expected)


def test_a_policy_on_a_prior_on_a_prior_is_rebuilt_from_one_set_of_arrays():
    task, states = TASKS["CartPole-v1"](), np.random.default_rng(0).standard_normal((9, 4))
    nets = [mlp([4, 8, 2], seed=seed) for seed in range(3)]
    first = DiscretePolicy(nets[0], 0.5)
    second = DiscretePolicy(nets[1], 0.3, first, 0.7)
    third = DiscretePolicy(nets[2], 0.2, second, 2.0)
    arrays = {**third.arrays(), **{f"prior.{k}": v for k, v in second.arrays().items()}}
    with pytest.raises(ValueError, match="customises a prior"):
        task.load_policy(arrays)
    arrays |= {f"prior.prior.{k}": v for k, v in first.arrays().items()}
    np.testing.assert_array_equal(task.load_policy(arrays).log_probs(states), third.log_probs(states))
