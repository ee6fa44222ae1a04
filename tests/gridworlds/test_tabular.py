"""A task in tables refuses what makes no sense, and knows what it cannot know about a prior of one's own."""

from dataclasses import replace

import numpy as np
import pytest

from gridworlds import TASKS
from mereq_min.policies import TabularPolicy

TASK = TASKS["windy"]()
S, A, K = TASK.mdp.features.shape
UNIFORM = TabularPolicy(np.full((S, A), -np.log(A)))


@pytest.mark.parametrize(
    ("argument", "value", "right"),
    [
        ("feature_names", TASK.feature_names[:-1], f"{K} different names"),
        ("feature_names", TASK.feature_names[:1] * K, f"{K} different names"),
        ("prior_weights", np.ones(K + 1), rf"shape \({K},\), got \({K + 1},\)"),
        ("expert_weights", np.full(K, np.nan), f"finite, got {K} bad"),
        ("prior_temperature", 0.0, "above 0, got 0.0"),
        ("temperature", -0.1, "above 0, got -0.1"),
        ("temperature", np.nan, "above 0, got nan"),
        ("prior_weight", -1.0, "at least 0, got -1.0"),
        ("horizon", 0, "at least 1, got 0"),
        ("horizon", 25.0, "whole number.*got 25.0"),
        ("patience", 0, "at least 1, got 0"),
        ("patience", 1.5, "whole number.*got 1.5"),
        ("release", 0, "at least 1, got 0"),
        ("release", "2", "whole number.*got '2'"),
        ("rule", 0, "above 0, got 0"),
        ("rule", -0.4, "above 0, got -0.4"),
        ("rule", True, "above 0, got True"),
        ("rule", None, "above 0, got None"),
        ("rule", np.ones((S, A)), rf"mask of shape \({S}, {A}\), got float64"),
        ("rule", np.ones(S, dtype=bool), rf"mask of shape \({S}, {A}\), got bool of \({S},\)"),
        ("goal", TASK.goal[1:], rf"mask of shape \({S},\), got bool of \({S - 1},\)"),
        ("goal", TASK.goal.astype(float), "mask.*got float64"),
        ("hazard", None, r"mask.*got object of \(\)"),
        ("own_prior", UNIFORM.log_policy, "log_prob"),
    ],
)
def test_what_makes_no_task_is_refused_by_name(argument, value, right):
    with pytest.raises(ValueError, match=f"(?s)^{argument} must .*{right}"):
        replace(TASK, **{argument: value})


@pytest.mark.parametrize("margin", [1, np.float32(0.5), np.float64(0.4), np.int64(2)])
def test_any_positive_number_is_a_margin(margin):
    advantage = TASK.expert_solution.q - TASK.expert_solution.v[:, None]
    violation = replace(TASK, rule=margin).violation
    np.testing.assert_array_equal(violation, advantage < -float(margin))
    assert violation.any()


def test_a_mask_is_the_rule_itself():
    mask = np.random.default_rng(0).random((S, A)) < 0.5
    np.testing.assert_array_equal(replace(TASK, rule=mask).violation, mask)


def test_lists_will_do_for_weights_and_masks():
    lists = {
        name: getattr(TASK, name).tolist() for name in ("prior_weights", "expert_weights", "goal", "hazard")
    }
    assert replace(TASK, **lists).evaluate(UNIFORM)["success"] == TASK.evaluate(UNIFORM)["success"]
    residual = TASK.expert_weights - TASK.prior_weight * TASK.prior_weights
    assert replace(TASK, **lists).reward_distance(residual, "residual") == pytest.approx(0, abs=1e-6)


def test_the_residual_on_a_prior_of_ones_own_is_unknown():
    task = replace(TASK, own_prior=UNIFORM)
    residual = task.expert_weights - task.prior_weight * task.prior_weights
    assert np.isnan(task.reward_distance(residual, "residual"))
    assert task.reward_distance(task.expert_weights, "full") == pytest.approx(0, abs=1e-6)
    assert task.reward_distance(-task.expert_weights, "full") == pytest.approx(1, abs=1e-6)


def test_a_policy_comes_back_from_its_state():
    policy = TASK.load_policy(TASK.expert_policy.state())
    np.testing.assert_array_equal(policy.log_policy, TASK.expert_policy.log_policy)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"v": np.zeros(S)}, r"state must hold the array log_policy, got \['v'\]"),
        ({"log_policy": UNIFORM.log_policy[1:]}, rf"log_policy must have shape \({S}, {A}\)"),
        ({"log_policy": np.zeros((S, A))}, "log_policy must hold log-probabilities"),
    ],
)
def test_what_is_no_policy_of_the_mdp_is_not_loaded(state, message):
    with pytest.raises(ValueError, match=message):
        TASK.load_policy(state)
