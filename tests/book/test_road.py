"""The road of chapter 3, in dense numpy, says what the library says."""

from types import ModuleType

import numpy as np
import pytest

from gridworlds import TabularTask, draw_map, make_task, map_mdp, map_transition, parse_map
from mereq_min import (
    FeatureMatchingConfig,
    SegmentLikelihoodConfig,
    Steps,
    match_features,
    maximise_likelihood,
    sample_weights,
    solve_residual,
    successor_features,
)


@pytest.fixture(scope="module")
def task(road: ModuleType) -> TabularTask:
    """The same world, from the library's parts."""
    layout = parse_map(road.MAP, "c")
    transition = map_transition(layout, slip=road.SLIP)
    rug = (transition @ layout.mark("c")).reshape(-1, 5)
    features = {"far": 1.0 - layout.mark("G"), "rug": rug}
    goal = layout.mark("G") == 1.0
    return make_task(
        name="road",
        mdp=map_mdp(layout, transition, features, gamma=road.GAMMA),
        feature_names=tuple(features),
        prior_weights=np.array([-1.0, 0.0]),
        expert_weights=np.array([-1.0, 0.0]) + road.TRUTH,
        prior_temperature=road.ALPHA,
        temperature=road.ALPHA_HAT,
        horizon=road.HORIZON,
        patience=1,
        release=road.RELEASE,
        rule=road.MARGIN,
        goal=goal,
        hazard=np.zeros_like(goal),
        layout=layout,
        draw=draw_map,
    )


@pytest.fixture(scope="module")
def rows(road: ModuleType) -> np.ndarray:
    return road.watch(road.LOG_PRIOR, 300, np.random.default_rng(1))


@pytest.fixture(scope="module")
def steps(road: ModuleType, task: TabularTask, rows: np.ndarray) -> Steps:
    """The road's steps in the library's columns."""
    state, action, hers, _ = rows.T
    t = np.arange(len(rows)) % road.HORIZON
    return Steps(
        state=state,
        action=action,
        policy_action=action,
        features=task.mdp.features[state, action],
        is_intervention=hers == 1,
        episode=np.arange(len(rows)) // road.HORIZON,
        t=t,
        terminated=np.zeros(len(rows), dtype=bool),
        truncated=t == road.HORIZON - 1,
        policy_version=np.zeros(len(rows), dtype=int),
    )


def test_world_prior_expert_and_rule_are_those_of_the_library(road: ModuleType, task: TabularTask) -> None:
    np.testing.assert_allclose(road.P.reshape(-1, road.S), task.mdp.transition.toarray(), atol=1e-12)
    np.testing.assert_allclose(road.F, task.mdp.features, atol=1e-12)
    np.testing.assert_allclose(road.RHO, task.mdp.initial)
    np.testing.assert_allclose(road.LOG_PRIOR, task.prior.log_policy, atol=1e-6)
    np.testing.assert_allclose(road.LOG_EXPERT, task.oracle.expert_policy.log_policy, atol=1e-6)
    np.testing.assert_array_equal(road.OBJECTS, task.oracle.violation)


@pytest.mark.parametrize("theta", [(0.0, -1.0), (0.7, 0.4)])
def test_what_follows_from_a_theta_is_what_the_library_says(
    road: ModuleType, task: TabularTask, theta: tuple[float, float]
) -> None:
    q, v, log_policy = road.solve(road.F @ theta, road.OMEGA_SCALED * road.LOG_PRIOR, road.ALPHA_HAT)
    exact = solve_residual(
        task.mdp, task.mdp.reward(theta), task.prior.log_policy, road.OMEGA_SCALED, road.ALPHA_HAT
    )
    np.testing.assert_allclose(q, exact.q, atol=1e-6)
    np.testing.assert_allclose(v, exact.v, atol=1e-6)
    np.testing.assert_allclose(log_policy, exact.log_policy, atol=1e-5)
    learner = task.make_learner("residual", 1.0)
    learner.solve(np.array(theta))
    np.testing.assert_allclose(road.mean_features(log_policy), learner.mean_features(), atol=1e-6)
    psi = successor_features(task.mdp, exact.log_policy)
    np.testing.assert_allclose(road.successor_features(log_policy), psi, atol=1e-4)
    kl = task.evaluate(learner.policy)["kl_to_expert"]
    np.testing.assert_allclose(road.kl_to_expert(log_policy), kl, atol=1e-5)


def test_takeovers_are_those_of_the_librarys_expert(road: ModuleType, task: TabularTask) -> None:
    """The road's own draws, recorded, are what the library's expert is shown."""
    rng, proposals = np.random.default_rng(2), []

    class Recording:
        def __getattr__(self, name):
            return getattr(rng, name)

        def choice(self, n, p):
            drawn = rng.choice(n, p=p)
            proposals.append((n, drawn))
            return drawn

    rows = road.watch(road.LOG_PRIOR, 600, Recording())
    draws, state, expected = iter(proposals), None, []
    expert = task.oracle.make_expert()
    for t in range(len(rows)):
        if t % road.HORIZON == 0:
            state = next(draws)[1]
            expert.reset(np.random.default_rng(0))
        proposed = next(draws)[1]
        hers = expert.intervene(np.array(state), np.array(proposed)) is not None
        expected.append(hers)
        if hers:
            next(draws)  # her action
        state = next(draws)[1]
    np.testing.assert_array_equal(rows[:, 2], expected)
    assert 50 < rows[:, 2].sum() < 550


def test_the_expert_set_is_the_librarys(rows: np.ndarray, steps: Steps) -> None:
    weights = sample_weights(steps, "expert + good-enough", 1)
    np.testing.assert_array_equal(rows[:, 2] + rows[:, 3], weights)


def test_both_estimators_find_what_the_librarys_find(
    road: ModuleType, task: TabularTask, rows: np.ndarray, steps: Steps
) -> None:
    learner = task.make_learner("residual", 1.0)
    weights = sample_weights(steps, "expert + good-enough", 1)
    config = FeatureMatchingConfig(max_steps=151)  # policies solved for, one more than steps
    matched = match_features(learner, steps, weights, np.zeros(2), config)
    np.testing.assert_allclose(road.match(np.zeros(2), rows), matched.theta, atol=1e-5)
    hers = steps.select(steps.is_intervention)
    config = SegmentLikelihoodConfig(least_step=1e-8, max_iterations=100)
    likeliest = maximise_likelihood(learner, hers, np.zeros(2), config)
    np.testing.assert_allclose(road.maximise_likelihood(np.zeros(2), rows), likeliest.theta, atol=1e-5)


def test_the_road_leads_there(road: ModuleType) -> None:
    before, *_, after = road.align(road.maximise_likelihood)
    assert before[0] > 0.15 and after[0] < 0.05
    assert road.kl_to_expert(after[2]) < 0.02 < road.kl_to_expert(road.LOG_PRIOR)
