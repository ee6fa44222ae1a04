"""Highway-Sim as a task: shipped policies, the expert's rule, measures on both engines, and a whole run."""

import re
from contextlib import suppress
from dataclasses import replace
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from deep.highway.reference import ReferenceEnv
from deep.highway.roads import ACTIONS, RoadConfig
from deep.highway.task import MARGIN, PRIOR_WEIGHTS, TEMPERATURE, make_highway
from deep.nets import mlp
from deep.policies import DiscretePolicy, all_log_probs
from mereq_min import METHODS, EstimatorConfig, LoopConfig, align, make_aligner
from mereq_min.lab.runs.files import load_arrays
from mereq_min.lab.runs.records import read_rows
from mereq_min.lab.runs.run import RunConfig, run
from mereq_min.lab.show import tables
from mereq_min.rollout import rollout, watch

A = len(ACTIONS)


@pytest.fixture(scope="module", name="task")
def _task():
    return make_highway()


@pytest.fixture(scope="module", name="states")
def _states(task):
    """Observations on episodes of the prior."""
    return rollout(task, task.prior, None, 200, np.random.default_rng(0)).state


def test_the_prior_is_skilled_as_it_samples(task):
    """At least 95 of 100 episodes without a crash, and fast."""
    measures = task.evaluate(task.prior, episodes=1_000)
    assert measures["success"] >= 0.95
    assert measures["mean_speed"] > 22.5
    assert task.evaluate(task.oracle.expert_policy, episodes=1_000)["success"] >= 0.95


@pytest.mark.slow
def test_ten_episodes_on_highway_env_end_like_those_on_compiled_roads(task):
    real, ours = (task.evaluate(task.prior, episodes=10, reference=real) for real in (True, False))
    for name, value in real.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-6, atol=1e-6, err_msg=name)


def test_two_episodes_are_measured_alike_on_both_engines(task):
    real, ours = (task.evaluate(task.prior, episodes=2, reference=reference) for reference in (True, False))
    for name, value in real.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-6, atol=1e-6, err_msg=name)


def test_the_table_before_and_after_is_measured_on_the_episodes_of_highway_env(task, monkeypatch):
    """Equal episodes give equal numbers, so that the slow simulator needs to replay only one of them."""
    small = replace(task, reference_episodes=1)
    monkeypatch.setattr(tables, "WATCHED_STEPS", 20)
    table = tables.before_after_table(small, task.oracle.expert_policy)
    same, count = re.fullmatch(r".*: (\d+) of (\d+) steps equal", table.caption).groups()
    assert same == count == "10"
    names, *columns = (list(column.cells) for column in table.columns)
    real = small.evaluate(task.prior, reference=True)
    assert columns[0][names.index("return, expert's reward")] == f"{real['expert_return']:.3f}"
    assert columns[0][names.index("mean speed \\[m/s]")] == f"{real['mean_speed']:.3f}"


def test_a_spot_check_tells_how_many_steps_are_equal(task):
    other = RoadConfig(vehicles_density=1.5)
    wrong = replace(task, reference_env=partial(ReferenceEnv, other, PRIOR_WEIGHTS))
    same, count = wrong.spot_check(task.prior)
    assert same < count == 10
    assert task.spot_check(task.prior, task.horizon) == (task.horizon, task.horizon)
    assert replace(task, reference_env=None).spot_check(task.prior) is None


def test_the_rule_is_the_expert_s_advantage(task, states):
    """Q_E = Q_R + omega' log pi from the expert's network, V_E = alpha_hat log sum exp(Q_E / alpha_hat)."""
    expert = task.oracle.expert_policy
    with torch.no_grad():
        q_residual = expert.net(torch.as_tensor(states)).numpy().astype(float)
    assert task.scaled_prior_weight == TEMPERATURE
    q = q_residual + TEMPERATURE * all_log_probs(task.prior, states, A)
    v = task.temperature * logsumexp(q / task.temperature, axis=1, keepdims=True)
    wanted = q - v < -MARGIN
    objects = [[task.oracle.violates(state, np.int64(action)) for action in range(A)] for state in states]
    np.testing.assert_array_equal(objects, wanted)
    assert 0.1 < wanted.mean() < 0.9  # the rule tells actions apart
    best = expert.log_probs(states).argmax(axis=1)
    assert not wanted[np.arange(len(states)), best].any()


def test_the_expert_objects_to_leaving_the_right_lane(task, states):
    in_right_lane = states[np.abs(states[:, 0, 2] - 2 / 3) < 0.05]
    left, idle = (
        np.mean([task.oracle.violates(state, np.int64(ACTIONS.index(name))) for state in in_right_lane])
        for name in ("lane left", "idle")
    )
    assert left > 0.8 > idle


def test_the_expert_wants_the_right_lane_and_nothing_else(task):
    np.testing.assert_array_equal(task.oracle.true_weights("residual"), [0, 0.5, 0])
    prior, expert = (
        rollout(task, policy, None, 1_000, np.random.default_rng(1)).features.mean(axis=0)
        for policy in (task.prior, task.oracle.expert_policy)
    )
    right = task.feature_names.index("right_lane")
    assert expert[right] > 0.85 > 0.7 > prior[right]


def test_on_a_prior_of_one_s_own_the_expert_is_made_anew_for_the_same_wish(task):
    own = replace(task, prior=DiscretePolicy(mlp([25, A], seed=0), temperature=0.1))
    assert own.scaled_prior_weight == 0.1
    np.testing.assert_array_equal(own.oracle.true_weights("residual"), [0, 0.5, 0])
    assert own.oracle.expert is None  # it is trained when it is first needed
    assert own.oracle.true_weights("full") is None  # nobody knows this prior's reward
    assert np.isnan(own.oracle.reward_distance(np.ones(3), "full"))
    assert task.oracle.expert is not None


def test_gymnasium_makes_roads_with_the_prior_s_reward(task):
    env = gym.make("mereq/Highway-v0")
    env.reset(seed=0)
    _, reward, *_, info = env.step(3)
    assert reward == pytest.approx(info["features"] @ PRIOR_WEIGHTS + 1)
    envs = gym.make_vec("mereq/Highway-v0", num_envs=3)
    envs.reset(seed=0)
    _, rewards, *_, infos = envs.step(np.full(3, 3))
    np.testing.assert_allclose(rewards, infos["features"] @ PRIOR_WEIGHTS + 1)
    assert rewards[0] == reward


@pytest.mark.parametrize(("reward", "other"), [("residual", (0, 0.5, 1)), ("full", (0, 0.5, 0.4))])
def test_reward_distance_ignores_scale_and_knows_the_opposite(task, reward, other):
    oracle = task.oracle
    truth = oracle.true_weights(reward)
    assert oracle.reward_distance(3.0 * truth, reward) == pytest.approx(0.0, abs=1e-6)
    assert oracle.reward_distance(-truth, reward) == pytest.approx(1.0)
    assert 0.1 < oracle.reward_distance(np.array(other), reward) < 0.9
    assert oracle.reward_distance(np.zeros(3), reward) == 0.5


@pytest.mark.slow
def test_without_a_residual_reward_the_learner_s_policy_stays_near_the_prior(task, states):
    """E3, up to what a network learns in one solve from a prior that it cannot copy any better."""
    learner = task.make_learner("residual", 1.0)
    log_prior = all_log_probs(task.prior, states, A)
    log_policy = learner.solve(np.zeros(3)).log_probs(states)
    assert (np.exp(log_prior) * (log_prior - log_policy)).sum(axis=1).mean() < 0.02


def test_policies_of_another_shape_are_refused(task):
    linear = DiscretePolicy(mlp([7, A], seed=0)).arrays()
    message = "highway: the policy observes 7 numbers, the task's observation is 25 numbers"
    with pytest.raises(ValueError, match=message):
        task.load_policy(linear)
    with pytest.raises(ValueError, match="has 3 actions, the task has 5 actions"):
        task.load_policy(DiscretePolicy(mlp([25, 3], seed=0)).arrays())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rule": 0.0}, "rule must be a finite number above 0"),
        ({"release": 0}, "release must be"),
        ({"true_theta": np.ones(2)}, "true_theta must have shape"),
    ],
)
def test_malformed_oracles_are_refused(task, change, message):
    with pytest.raises(ValueError, match=message):
        replace(task, oracle=replace(task.oracle, **change))


@pytest.mark.slow
def test_the_expert_is_nearly_the_policy_that_theta_star_gives(task):
    learner = task.make_learner("residual", 1.0)
    for _ in range(10):
        policy = learner.solve(task.oracle.true_theta)
    assert task.evaluate(policy)["kl_to_expert"] < 0.3 < task.evaluate(task.prior)["kl_to_expert"]
    assert watch(task, policy, task.oracle, 2_000, seed=0).intervention_rate < 0.03


@pytest.mark.slow
def test_segment_likelihood_aligns_the_prior(task):
    aligner = make_aligner(task, METHODS["MEReQ-L"], EstimatorConfig())
    rates = [it.intervention_rate for it in align(task, aligner, LoopConfig(iterations=3), seed=0)]
    assert rates[0] > 0.2
    assert max(rates[1:]) < 0.05
    theta, errors = aligner.info["theta"], np.array(aligner.info["standard_errors"])
    right = task.feature_names.index("right_lane")
    # The networks' own error comes on top of the standard error: over the eight recorded seeds theta lies
    # between 0.32 and 0.52 after three iterations, at standard errors of 0.03.
    assert theta[right] == pytest.approx(0.5, abs=0.2)
    assert theta[right] > 5 * errors[right]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["MEReQ-L", "MEReQ", "MaxEnt-FT", "IWR-FT"])
def test_a_run_that_stopped_ends_bit_for_bit_like_an_unbroken_one(task, tmp_path, method):
    estimators = EstimatorConfig()
    estimators = replace(
        estimators,
        matching=replace(estimators.matching, max_steps=3),
        likelihood=replace(estimators.likelihood, max_iterations=3),
    )
    config = RunConfig("highway", method, 0, LoopConfig(iterations=3, steps_per_iteration=100), estimators)
    unbroken = run(task, config, tmp_path / "unbroken")

    def stop(row):
        if row["iteration"] not in finished:
            finished.add(row["iteration"])
            raise KeyboardInterrupt

    finished, resumed = set(), None
    while resumed is None:
        with suppress(KeyboardInterrupt):
            resumed = run(task, config, tmp_path / "resumed", on_iteration=stop)
    assert len(read_rows(resumed)) == 3
    assert read_rows(resumed) == read_rows(unbroken)
    ours, theirs = (load_arrays(path / "policy.safetensors") for path in (resumed, unbroken))
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array)
