"""The named tasks are what their docstrings say; their measures are exact; the preference is one feature."""

import numpy as np
import pytest

from gridworlds import TASKS
from mereq_min import rollout
from mereq_min.policies import TabularPolicy

each_task = pytest.mark.parametrize("name", TASKS)


@each_task
def test_prior_and_expert_succeed(name):
    task = TASKS[name]()
    assert task.evaluate(task.prior)["success"] >= 0.95
    assert task.evaluate(task.oracle.expert_policy)["success"] >= 0.95


@each_task
def test_the_residual_is_one_preference_among_features_of_unit_range(name):
    task = TASKS[name]()
    oracle = task.oracle
    full = task.prior_weight * task.env_weights + oracle.true_theta
    np.testing.assert_allclose(oracle.true_weights("full"), full, atol=1e-12)
    assert oracle.true_weights("residual") is oracle.true_theta
    assert np.count_nonzero(oracle.true_theta) == 1
    assert task.mdp.features.min() >= 0
    assert task.mdp.features.max() <= 1
    assert (np.ptp(task.mdp.features, axis=(0, 1)) >= 0.8).all()


@each_task
def test_batches_of_250_steps_hold_whole_episodes(name):
    assert 250 % TASKS[name]().horizon == 0


@each_task
def test_every_state_can_be_reached_in_time(name):
    task = TASKS[name]()
    reached = task.mdp.initial > 0
    for _ in range(task.horizon):
        onward = task.mdp.transition.T @ np.repeat(reached, task.mdp.n_actions).astype(float)
        reached = reached | (onward > 0)
    assert reached.all()


@each_task
@pytest.mark.parametrize("who", ["prior", "expert"])
def test_measures_agree_with_rollouts(name, who):
    task = TASKS[name]()
    policy = task.prior if who == "prior" else task.oracle.expert_policy
    steps = rollout(task, policy, None, 40_000, np.random.default_rng(3))
    ends = np.flatnonzero(np.diff(steps.episode, append=-1))
    whole = ends[steps.terminated[ends] | (steps.t[ends] == task.horizon - 1)]
    starts = np.concatenate([[0], ends[:-1] + 1])[: len(whole)]
    measured = task.evaluate(policy)
    expert_weights = task.oracle.true_weights("full")
    for key, weights in (("task_return", task.env_weights), ("expert_return", expert_weights)):
        returns = np.add.reduceat(steps.features @ weights, starts)[: len(whole)]
        assert abs(returns.mean() - measured[key]) < 4 * returns.std() / np.sqrt(len(whole))


def test_success_counts_episodes_that_reach_a_goal_and_no_hazard():
    task = TASKS["windy"]()
    uniform = TabularPolicy(np.full((task.mdp.n_states, 5), -np.log(5)))
    rng, env = np.random.default_rng(0), task.make_env()
    done = []
    env.reset(seed=0)
    for _ in range(2_000):
        state, _ = env.reset()
        seen = [state]
        truncated = False
        while not truncated:
            state, _, _, truncated, _ = env.step(int(uniform.sample(np.array([state]), rng)[0]))
            seen.append(state)
        done.append(task.goal[seen].any() and not task.hazard[seen].any())
    exact = task.evaluate(uniform)["success"]
    assert abs(np.mean(done) - exact) < 4 * np.sqrt(exact * (1 - exact) / len(done))


def test_kl_to_the_expert_is_its_log_likelihood_ratio_and_stays_finite():
    task = TASKS["shelf"]()
    expert_policy = task.oracle.expert_policy
    steps = rollout(task, expert_policy, None, 30_000, np.random.default_rng(1))
    ratio = expert_policy.log_prob(steps.state, steps.action) - task.prior.log_prob(steps.state, steps.action)
    assert task.evaluate(task.prior)["kl_to_expert"] == pytest.approx(ratio.mean(), rel=0.1)
    with np.errstate(divide="ignore"):
        stubborn = TabularPolicy(np.log(np.tile([0.0, 0, 0, 0, 1], (task.mdp.n_states, 1))))
    assert 1 < task.evaluate(stubborn)["kl_to_expert"] < 20


@pytest.mark.parametrize("name", ["carpet", "lanes", "windy"])
def test_the_value_rule_names_what_the_expert_would_hardly_do(name):
    # Q_E - V_E = alpha_hat log pi_E, so the margin is a bound on the probability.
    task = TASKS[name]()
    oracle = task.oracle
    rare = np.exp(oracle.expert_policy.log_policy) < np.exp(-oracle.rule / task.temperature)
    np.testing.assert_array_equal(oracle.violation, rare)
    assert 0.01 < oracle.violation.mean() < 0.99


def test_the_state_rule_of_the_shelf_excuses_lowering_the_hand():
    task = TASKS["shelf"]()
    violation = task.oracle.violation.reshape(14, 4, 4, 5)
    assert not violation[..., 0, :].any()
    assert not violation[..., 2].any()
    assert violation[:, :, 1:][..., [0, 1, 3, 4]].all()


def test_a_lane_change_into_the_next_car_crashes_by_hand():
    task = TASKS["lanes"]()
    s = int(np.ravel_multi_index((0, 1, 0, 1), (3, 3, 14, 3)))  # gap 1, closing at 1, other car to the right
    crash = task.mdp.n_states - 1
    to_crash = task.mdp.transition[[s * 5 + 2]].toarray()[0, crash]
    assert to_crash == pytest.approx(0.9 * (0.15 + 0.7))  # unless the other draws away or the change fails
    idle = task.mdp.transition[[s * 5 + 1]].toarray()[0]
    assert idle[crash] == 0
    same_gap = int(np.ravel_multi_index((0, 1, 0, 1), (3, 3, 14, 3)))
    assert idle[same_gap] == pytest.approx(0.15)
    fresh = int(np.ravel_multi_index((0, 2, 13, 1), (3, 3, 14, 3)))
    assert idle[fresh] == pytest.approx(0.85 / 27)  # passed: one of 3 lanes x 9 gaps


def test_a_push_moves_bottle_and_hand_by_hand():
    task = TASKS["shelf"]()
    shape = (14, 4, 4)
    state = np.ravel_multi_index((4, 0, 1), shape)
    row = task.mdp.transition[[state * 5 + 2]].toarray()[0].reshape(shape)  # forward and down
    assert row[5, 0, 0] == pytest.approx(0.82 * (0.9 + 0.05))  # trembling below the lowest stops there
    assert row[5, 0, 1] == pytest.approx(0.82 * 0.05)
    assert row[4].sum() == pytest.approx(0.18)
    state = np.ravel_multi_index((4, 2, 1), shape)
    row = task.mdp.transition[[state * 5 + 0]].toarray()[0].reshape(shape)  # forward and up
    assert row[4, 1, 2] == pytest.approx(0.8 * 0.9)
    assert row[4, 2, 3] == pytest.approx(0.2 * 0.05)


def test_the_pits_of_windy_are_fallen_into_from_the_north():
    task = TASKS["windy"]()
    assert task.layout.letters[10, 6] == "x"
    north = int(np.flatnonzero((task.layout.cells == [9, 6]).all(axis=1))[0])
    fall = task.mdp.features[:, :, task.feature_names.index("fall")]
    np.testing.assert_allclose(fall[north], [0, 0, 0.8, 0, 0.2])  # down: unless blown over it
    edge = task.mdp.features[:, :, task.feature_names.index("edge")]
    np.testing.assert_allclose(edge[north], [0.2, 1, 1, 1, 1])  # up: unless blown back
