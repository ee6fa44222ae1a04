"""Tabular tasks refuse what makes no sense, and their oracles follow the prior in use."""

from dataclasses import replace

import numpy as np
import pytest
from gymnasium.spaces import Discrete

from gridworlds import TASKS, TabularOracle, make_oracle, make_task, soft_prior
from mereq_min import UniformPolicy, solve_residual, solve_soft
from mereq_min.exact import tabulate
from mereq_min.policies import TabularPolicy

TASK = TASKS["windy"]()
ORACLE = TASK.oracle
S, A, K = TASK.mdp.features.shape
UNIFORM = TabularPolicy(np.full((S, A), -np.log(A)))
REWARDS = {"prior_weights": TASK.env_weights, "expert_weights": ORACLE.full_weights, "prior_temperature": 0.1}
"""The rewards of the windy task, for `make_task`."""


@pytest.mark.parametrize(
    ("argument", "value", "right"),
    [
        ("feature_names", TASK.feature_names[:-1], f"{K} different names"),
        ("feature_names", TASK.feature_names[:1] * K, f"{K} different names"),
        ("env_weights", np.ones(K + 1), rf"shape \({K},\), got \({K + 1},\)"),
        ("env_weights", np.full(K, np.nan), f"finite, got {K} bad"),
        ("temperature", 0.0, "above 0, got 0.0"),
        ("temperature", -0.1, "above 0, got -0.1"),
        ("temperature", np.nan, "above 0, got nan"),
        ("prior_weight", -1.0, "at least 0, got -1.0"),
        ("horizon", 0, "at least 1, got 0"),
        ("horizon", 25.0, "integer.*got 25.0"),
        ("goal", TASK.goal[1:], rf"mask of shape \({S},\), got bool of \({S - 1},\)"),
        ("goal", TASK.goal.astype(float), "mask.*got float64"),
        ("hazard", None, r"mask.*got object of \(\)"),
        ("prior", UNIFORM.log_policy, "log_prob"),
        ("prior", TabularPolicy(UNIFORM.log_policy[1:]), rf"shape \({S}, {A}\), got \({S - 1}, {A}\)"),
    ],
)
def test_what_makes_no_task_is_refused_by_name(argument, value, right):
    with pytest.raises(ValueError, match=f"(?s)^{argument} must .*{right}"):
        replace(TASK, **{argument: value})


@pytest.mark.parametrize(
    ("argument", "value", "right"),
    [
        ("true_theta", np.ones(K + 1), rf"shape \({K},\), got \({K + 1},\)"),
        ("true_theta", np.full(K, np.nan), f"finite, got {K} bad"),
        ("full_weights", np.ones(K + 1), rf"shape \({K},\), got \({K + 1},\)"),
        ("patience", 0, "at least 1, got 0"),
        ("patience", 1.5, "integer.*got 1.5"),
        ("release", 0, "at least 1, got 0"),
        ("release", "2", "integer.*got '2'"),
        ("rule", 0, "above 0, got 0"),
        ("rule", -0.4, "above 0, got -0.4"),
        ("rule", True, "above 0, got True"),
        ("rule", None, "above 0, got None"),
        ("rule", np.ones((S, A)), rf"mask of shape \({S}, {A}\), got float64"),
        ("rule", np.ones(S, dtype=bool), rf"mask of shape \({S}, {A}\), got bool of \({S},\)"),
    ],
)
def test_what_makes_no_oracle_is_refused_by_name(argument, value, right):
    with pytest.raises(ValueError, match=f"(?s)^{argument} must .*{right}"):
        replace(TASK, oracle=replace(ORACLE, **{argument: value}))


@pytest.mark.parametrize(
    ("argument", "value", "right"),
    [
        ("prior_weights", np.ones(K + 1), rf"shape \({K},\), got \({K + 1},\)"),
        ("expert_weights", np.full(K, np.nan), f"finite, got {K} bad"),
        ("prior_temperature", 0.0, "above 0, got 0.0"),
        ("prior_weight", -1.0, "at least 0, got -1.0"),
    ],
)
def test_rewards_that_make_no_task_are_refused_by_name(argument, value, right):
    with pytest.raises(ValueError, match=f"(?s)^{argument} must .*{right}"):
        make_task(mdp=TASK.mdp, rule=0.4, **REWARDS | {argument: value})


def test_an_oracle_of_no_task_says_how_to_bind_it():
    with pytest.raises(ValueError, match=r"not bound to a task: use replace\(task, oracle=...\)"):
        _ = TabularOracle(ORACLE.true_theta, 0.4).expert_policy


@pytest.mark.parametrize("margin", [1, np.float32(0.5), np.float64(0.4), np.int64(2)])
def test_any_positive_number_is_a_margin(margin):
    """The advantage of an action is Q_E - V_E of the expert's full reward."""
    solution = solve_soft(TASK.mdp, TASK.mdp.reward(ORACLE.full_weights), TASK.temperature)
    advantage = solution.q - solution.v[:, None]
    violation = make_oracle(TASK, ORACLE.true_theta, rule=margin).violation
    np.testing.assert_array_equal(violation, advantage < -float(margin))
    assert violation.any()


def test_a_mask_is_the_rule_itself():
    mask = np.random.default_rng(0).random((S, A)) < 0.5
    oracle = make_oracle(TASK, ORACLE.true_theta, rule=mask)
    np.testing.assert_array_equal(oracle.violation, mask)
    np.testing.assert_array_equal([[oracle.violates(s, a) for a in range(A)] for s in range(S)], mask)


def test_lists_will_do_for_weights_and_masks():
    lists = {name: getattr(TASK, name).tolist() for name in ("env_weights", "goal", "hazard")}
    task = replace(TASK, oracle=make_oracle(TASK, ORACLE.true_theta.tolist(), rule=0.4), **lists)
    assert task.evaluate(UNIFORM)["success"] == TASK.evaluate(UNIFORM)["success"]
    assert task.oracle.reward_distance(ORACLE.true_theta, "residual") == pytest.approx(0, abs=1e-6)
    mask = ORACLE.violation
    np.testing.assert_array_equal(make_oracle(TASK, ORACLE.true_theta, rule=mask.tolist()).violation, mask)


# The temperature of the prior in use -----------------------------------------------------------------------


class AnyPrior:
    """A prior of another class than the tables, with or without a temperature."""

    def __init__(self, **attributes):
        vars(self).update(attributes)

    def log_prob(self, state, action):
        """The uniform policy."""
        return np.full(len(state), -np.log(A))

    def sample(self, state, rng):
        """The uniform policy."""
        return rng.integers(A, size=len(state))


@pytest.mark.parametrize(
    ("prior", "alpha"),
    [
        (TabularPolicy(UNIFORM.log_policy, 0.3), 0.3),
        (AnyPrior(temperature=0.3), 0.3),
        (TabularPolicy(UNIFORM.log_policy), None),
        (UniformPolicy(Discrete(A)), None),
        (AnyPrior(), None),
        (AnyPrior(temperature=None), None),
    ],
)
@pytest.mark.parametrize("omega", [1.0, 0.5, 0.0])
def test_the_prior_in_use_decides_the_scaled_prior_weight(prior, alpha, omega):
    """omega' = omega alpha with the prior's own alpha; where it is unknown, alpha_hat (KL control)."""
    task = replace(TASK, prior=prior, prior_weight=omega, temperature=0.2)
    assert task.scaled_prior_weight == pytest.approx(omega * (0.2 if alpha is None else alpha), rel=1e-15)
    learner = task.make_learner("residual", 1.0)
    theta = np.linspace(-1, 1, K)
    exact = solve_residual(
        TASK.mdp, TASK.mdp.reward(theta), UNIFORM.log_policy, task.scaled_prior_weight, 0.2
    )
    np.testing.assert_allclose(np.exp(learner.solve(theta).log_policy), np.exp(exact.log_policy), atol=1e-9)


def test_the_shipped_prior_has_its_own_temperature():
    assert TASK.prior.temperature == 0.1
    assert replace(TASK, temperature=0.7).scaled_prior_weight == 0.1


# An oracle for the prior in use ----------------------------------------------------------------------------

OTHER_WEIGHTS = np.array([-2.0, -6.0, 0.3, 0.0])
"""Weights of another reward, for which the other prior is soft-optimal."""
OTHER_TEMPERATURE = 0.3


def test_the_oracle_of_another_prior_customises_that_prior():
    """E1: on a prior that is optimal for r2, the expert is optimal for omega r2 + theta* . f."""
    other = soft_prior(TASK.mdp, OTHER_WEIGHTS, OTHER_TEMPERATURE)
    for omega in (1.0, 0.6):
        task = replace(TASK, prior=other, prior_weight=omega)
        expert = task.oracle.expert_policy
        full = TASK.mdp.reward(omega * OTHER_WEIGHTS + ORACLE.true_theta)
        exact = np.exp(solve_soft(TASK.mdp, full, TASK.temperature, tol=1e-11).log_policy)
        np.testing.assert_allclose(np.exp(expert.log_policy), exact, atol=1e-6)
        assert np.abs(exact - np.exp(ORACLE.expert_policy.log_policy)).max() > 0.1
        np.testing.assert_array_equal(
            task.oracle.violation, TASK.temperature * expert.log_policy < -ORACLE.rule
        )


def test_the_oracle_of_the_shipped_prior_is_the_soft_optimal_policy_of_the_full_reward():
    full = TASK.mdp.reward(ORACLE.full_weights)
    exact = solve_soft(TASK.mdp, full, TASK.temperature, tol=1e-11).log_policy
    np.testing.assert_allclose(np.exp(ORACLE.expert_policy.log_policy), np.exp(exact), atol=1e-7)


def test_on_another_prior_only_the_residual_reward_is_known():
    """theta* stays true; the reward of the prior, and so the full reward, is unknown."""
    oracle = replace(TASK, prior=UNIFORM).oracle
    assert oracle.true_weights("full") is None
    assert np.isnan(oracle.reward_distance(ORACLE.full_weights, "full"))
    np.testing.assert_array_equal(oracle.true_weights("residual"), ORACLE.true_theta)
    assert oracle.reward_distance(ORACLE.true_theta, "residual") == pytest.approx(0, abs=1e-6)
    assert oracle.reward_distance(-ORACLE.true_theta, "residual") == pytest.approx(1, abs=1e-6)


def test_on_the_shipped_prior_both_rewards_are_known():
    for task in (TASK, replace(TASK, horizon=30)):
        assert task.oracle.reward_distance(ORACLE.true_theta, "residual") == pytest.approx(0, abs=1e-6)
        assert task.oracle.reward_distance(ORACLE.full_weights, "full") == pytest.approx(0, abs=1e-6)
        assert task.oracle.reward_distance(-ORACLE.full_weights, "full") == pytest.approx(1, abs=1e-6)
    assert replace(TASK, prior_weight=0.5).oracle.true_weights("full") is None


# Evaluation and saved policies -----------------------------------------------------------------------------


def test_without_an_oracle_only_the_task_itself_is_measured():
    """What needs no truth is measured as before."""
    bare = replace(TASK, oracle=None).evaluate(UNIFORM)
    full = TASK.evaluate(UNIFORM)
    assert set(bare) == {"task_return", "success"}
    assert set(full) == set(bare) | {"expert_return", "kl_to_expert", "feature_divergence"}
    assert bare == {name: full[name] for name in bare}


@pytest.mark.parametrize("episodes", [0, 20])
def test_exact_measures_refuse_a_number_of_episodes(episodes):
    message = f"episodes must be None for windy, whose measures are exact, got {episodes}"
    with pytest.raises(ValueError, match=message):
        TASK.evaluate(UNIFORM, episodes=episodes)


def test_any_prior_becomes_its_table():
    task = replace(TASK, prior=AnyPrior())
    np.testing.assert_allclose(tabulate(TASK.mdp, task.prior), UNIFORM.log_policy)


def test_a_policy_comes_back_from_its_state():
    policy = TASK.load_policy(ORACLE.expert_policy.arrays())
    np.testing.assert_array_equal(policy.log_policy, ORACLE.expert_policy.log_policy)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"v": np.zeros(S)}, r"arrays must hold log_policy, got \['v'\]"),
        (
            {"log_policy": UNIFORM.log_policy[1:]},
            f"observes one of {S - 1} states and has {A} actions, the task",
        ),
        ({"log_policy": np.zeros((S, A))}, "log_policy must hold log-probabilities"),
    ],
)
def test_what_is_no_policy_of_the_mdp_is_not_loaded(state, message):
    with pytest.raises(ValueError, match=message):
        TASK.load_policy(state)
