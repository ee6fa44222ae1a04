"""Collecting across the ends of episodes, on environments whose every number is known in advance."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from deep.learner import LearnerConfig, NeuralLearner
from deep.residual_dqn import DQNConfig, ResidualDQN
from deep.rollouts import collect


class Counter(gym.Env):
    """Observes (length, t); the features are the observation before the step; ends at t = length.

    An even length ends in the MDP, an odd one by a time limit.
    """

    observation_space = gym.spaces.Box(0, 100, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, length, with_features=True):
        self.length, self.with_features = length, with_features

    def observation(self):
        return np.array([self.length, self.t], dtype=np.float32)

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return self.observation(), {}

    def step(self, action):
        info = {"features": self.observation().astype(np.float64)} if self.with_features else {}
        self.t += 1
        ended = self.t == self.length
        return (
            self.observation(),
            float(self.t),
            ended and self.length % 2 == 0,
            ended and self.length % 2,
            info,
        )


class Flat(VectorEnv):
    """The same counters, but info holds the features of all, and final_obs is one array."""

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012 (gymnasium's own declaration)

    def __init__(self, lengths):
        self.envs, self.num_envs = [Counter(length) for length in lengths], len(lengths)
        self.single_action_space = self.envs[0].action_space

    def reset(self, *, seed=None, options=None):
        return np.stack([env.reset()[0] for env in self.envs]), {}

    def step(self, actions):
        state, reward, terminated, truncated, infos = zip(*(env.step(0) for env in self.envs), strict=True)
        ended = np.array(terminated) | np.array(truncated)
        info = {
            "features": np.stack([info["features"] for info in infos]),
            "final_obs": np.stack(state),
            "_final_obs": ended,
        }
        after = [env.reset()[0] if done else s for env, done, s in zip(self.envs, ended, state, strict=True)]
        return np.stack(after), np.array(reward), np.array(terminated), np.array(truncated), info


class Zeros:
    """A policy that always takes action 0."""

    def sample(self, state, rng):
        return np.zeros(len(state), dtype=np.int64)


def sync(lengths, **arguments):
    makers = [lambda length=length: Counter(length, **arguments) for length in lengths]
    return SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)


LENGTHS = [2, 3, 3, 7]


@pytest.mark.parametrize("make", [sync, Flat], ids=["gymnasium", "flat"])
def test_steps_around_the_end_of_an_episode_are_what_they_were(make):
    rollout = collect(make(LENGTHS), Zeros(), 7, np.random.default_rng(0), seed=0)
    step, length = np.arange(7)[:, None], np.array(LENGTHS)
    t = step % length
    np.testing.assert_array_equal(rollout.t, t)
    np.testing.assert_array_equal(rollout.state[..., 1], t)
    np.testing.assert_array_equal(rollout.features[..., 1], t)
    np.testing.assert_array_equal(rollout.next_state[..., 1], t + 1)
    np.testing.assert_array_equal(rollout.terminated, (t + 1 == length) & (length % 2 == 0))
    np.testing.assert_array_equal(rollout.in_first_episode, step < length)
    for column in (rollout.state, rollout.features, rollout.next_state):
        np.testing.assert_array_equal(column[..., 0], np.broadcast_to(length, (7, 4)))


def test_episodes_that_all_end_at_once_keep_their_features():
    rollout = collect(sync([2, 2]), Zeros(), 4, np.random.default_rng(0), seed=0)
    np.testing.assert_array_equal(rollout.features[..., 1], [[0, 0], [1, 1], [0, 0], [1, 1]])


def test_without_features_the_reward_is_the_only_one():
    rollout = collect(sync([2, 3], with_features=False), Zeros(), 3, np.random.default_rng(0), seed=0)
    np.testing.assert_array_equal(rollout.features, [[[1], [1]], [[2], [2]], [[1], [3]]])


def test_transitions_are_the_steps_of_all_environments():
    rollout = collect(sync(LENGTHS), Zeros(), 5, np.random.default_rng(0), seed=0)
    flat = rollout.transitions()
    assert set(flat) == {"state", "action", "features", "next_state", "terminated"}
    assert flat["state"].shape == (20, 2)
    np.testing.assert_array_equal(flat["next_state"][4 * 2 + 1], rollout.next_state[2, 1])


def test_another_time_of_reset_is_refused():
    envs = SyncVectorEnv([lambda: Counter(2)], autoreset_mode=AutoresetMode.NEXT_STEP)
    with pytest.raises(ValueError, match="SAME_STEP"):
        collect(envs, Zeros(), 1, np.random.default_rng(0), seed=0)


def make_learner(discount=1.0, horizon=7, first_rounds=2):
    agent = ResidualDQN(
        2, 2, 2, gamma=0.9, temperature=1.0, config=DQNConfig(engine="torch", hidden=(4,), batch_size=4)
    )
    config = LearnerConfig(num_envs=len(LENGTHS), updates=2, first_rounds=first_rounds, rounds_per_rollout=4)
    return NeuralLearner(
        agent, lambda n: sync(LENGTHS), horizon=horizon, discount=discount, config=config, seed=1
    )


@pytest.mark.parametrize("discount", [1.0, 0.5])
def test_mean_features_weigh_the_steps_of_whole_episodes(discount):
    learner = make_learner(discount)
    learner.solve(np.array([0.1, -0.1]))
    t = np.concatenate([np.arange(length) for length in LENGTHS])
    weights = discount**t
    expected = weights @ np.stack([np.repeat(LENGTHS, LENGTHS), t], axis=1) / weights.sum()
    np.testing.assert_allclose(learner.mean_features(), expected)


def test_features_that_do_not_depend_on_the_actions_have_no_derivative():
    """With the mean over episodes as the baseline nothing is left of episodes that are all alike."""
    agent = ResidualDQN(
        2, 2, 2, gamma=0.9, temperature=1.0, config=DQNConfig(engine="torch", hidden=(4,), batch_size=4)
    )
    config = LearnerConfig(num_envs=3, updates=20, first_rounds=2)
    learner = NeuralLearner(agent, lambda n: sync([5] * n), horizon=5, config=config)
    learner.solve(np.array([0.1, -0.1]))
    np.testing.assert_allclose(learner.mean_features_jacobian(), 0.0, atol=1e-12)


def test_later_solves_take_one_round_and_the_first_takes_several():
    learner = make_learner()
    per_round = 7 * len(LENGTHS)
    learner.solve(np.full(2, 0.5))
    assert (learner.agent.updates_done, learner.agent.replay.added) == (4, 3 * per_round)
    learner.solve(np.ones(2))
    assert (learner.agent.updates_done, learner.agent.replay.added) == (6, 4 * per_round)


def test_a_first_solve_for_theta_0_rolls_out_before_after_every_fourth_round_and_at_the_end():
    learner = make_learner(first_rounds=6)
    policy = learner.solve(np.zeros(2))
    assert (learner.agent.updates_done, learner.agent.replay.added) == (12, 3 * 7 * len(LENGTHS))
    assert policy is learner.policy
    learner.solve(np.zeros(2))
    assert (learner.agent.updates_done, learner.agent.replay.added) == (14, 4 * 7 * len(LENGTHS))


def test_malformed_arguments_are_refused():
    with pytest.raises(ValueError, match="horizon"):
        make_learner(horizon=0)
    with pytest.raises(ValueError, match="discount"):
        make_learner(discount=0.0)
    with pytest.raises(ValueError, match="first_rounds"):
        LearnerConfig(first_rounds=0)
    with pytest.raises(ValueError, match="rounds_per_rollout"):
        LearnerConfig(rounds_per_rollout=0)
    with pytest.raises(ValueError, match="theta"):
        make_learner().solve(np.array([np.nan, 0.0]))
