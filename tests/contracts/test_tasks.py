"""What every task promises (`interfaces.Task`); a new task joins by being installed."""

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from mereq_min import Imperfections, concatenate, rollout
from mereq_min.catalogue import load_task, task_factories
from mereq_min.rollout import watched_rate

pytestmark = pytest.mark.parametrize("name", task_factories())


def rolled_out(name, seed, n_steps=300):
    task = load_task(name)
    streams = np.random.SeedSequence(seed).spawn(2)
    expert = task.make_expert(np.random.default_rng(streams[1]), Imperfections())
    return rollout(task, task.prior, expert, n_steps, np.random.default_rng(streams[0]))


class Random:
    """Draws actions from the space, whatever the state."""

    def __init__(self, space):
        self.space = space
        space.seed(0)

    def sample(self, state, rng):
        return np.array([self.space.sample() for _ in state])


def test_the_same_seed_gives_the_same_trajectory(name):
    first, again, other = rolled_out(name, 1), rolled_out(name, 1), rolled_out(name, 2)
    for column, values in first.columns().items():
        np.testing.assert_array_equal(values, again.columns()[column])
    assert not np.array_equal(first.state, other.state)


def test_features_are_finite_named_and_none_is_constant(name):
    task = load_task(name)
    policies = (Random(task.make_env().action_space), task.prior, task.expert_policy)
    rng = np.random.default_rng(0)
    parts = [
        rollout(task, policy, None, 3_000, rng, first_episode=10_000 * i) for i, policy in enumerate(policies)
    ]
    steps = concatenate(parts)
    features = task.features(steps.state, steps.action)
    assert features.shape == (9_000, len(task.feature_names))
    assert np.isfinite(features).all()
    np.testing.assert_array_equal(features, steps.features)
    constant = [n for n, column in zip(task.feature_names, features.T, strict=True) if np.ptp(column) == 0]
    assert not constant
    assert np.abs(features).max() <= 1.0


def test_weights_have_one_entry_a_feature_and_the_residual_is_not_zero(name):
    task = load_task(name)
    K = len(task.feature_names)
    assert len(set(task.feature_names)) == K
    assert task.prior_weights.shape == task.expert_weights.shape == (K,)
    assert np.any(task.expert_weights != task.prior_weight * task.prior_weights)
    assert 0 <= task.gamma < 1
    assert task.temperature > 0
    assert task.prior_temperature > 0


def test_spaces_are_honoured_and_episodes_end_at_the_horizon(name):
    task = load_task(name)
    env = task.make_env()
    state, _ = env.reset(seed=0)
    env.action_space.seed(0)
    assert env.observation_space.contains(state)
    t, terminated, truncated = 0, False, False
    while not (terminated or truncated):
        state, _, terminated, truncated, _ = env.step(env.action_space.sample())
        t += 1
        assert env.observation_space.contains(state)
    assert terminated or t == task.horizon


def test_gymnasium_finds_nothing_to_complain_about(name):
    env = load_task(name).make_env()
    check_env(env.unwrapped, skip_render_check=True)


def test_the_prior_misbehaves_and_the_expert_does_not(name):
    task = load_task(name)
    assert 0.25 <= watched_rate(task, task.prior, 10_000, 0) <= 0.5
    assert watched_rate(task, task.expert_policy, 10_000, 0) <= 0.03


def test_both_do_the_task_proper_and_the_expert_is_better_by_its_own_lights(name):
    task = load_task(name)
    prior, expert = task.evaluate(task.prior), task.evaluate(task.expert_policy)
    assert prior["success"] >= 0.9
    assert expert["success"] >= 0.9
    assert expert["expert_return"] > prior["expert_return"]
    assert prior["prior_return"] > expert["prior_return"]
    assert expert["kl_to_expert"] == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(expert["feature_divergence"], 0, atol=1e-9)
    assert prior["kl_to_expert"] > 0.01


def test_the_true_reward_is_at_distance_zero(name):
    task = load_task(name)
    residual = task.expert_weights - task.prior_weight * task.prior_weights
    assert task.reward_distance(2.0 * residual, "residual") == pytest.approx(0, abs=1e-6)
    assert task.reward_distance(task.expert_weights, "full") == pytest.approx(0, abs=1e-6)
    assert task.reward_distance(-residual, "residual") == pytest.approx(1, abs=1e-6)


def test_rendering_gives_an_image_that_changes_with_the_state(name):
    env = load_task(name).make_env(render_mode="rgb_array")
    env.reset(seed=0)
    env.action_space.seed(1)
    images = [env.render()]
    for _ in range(20):
        env.step(env.action_space.sample())
        images.append(env.render())
    assert all(image.dtype == np.uint8 and image.ndim == 3 and min(image.shape[:2]) >= 64 for image in images)
    assert any(not np.array_equal(images[0], image) for image in images[1:])
