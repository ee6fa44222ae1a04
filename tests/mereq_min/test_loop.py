"""The loop and its methods on the carpet."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from mereq_min import METHODS, EstimatorConfig, LoopConfig, align, concatenate, make_aligner, solve_soft
from mereq_min.exact import tabulate
from mereq_min.lab.plugins import load_task
from mereq_min.methods import Method


def iterations(method="MEReQ-L", task="carpet", seed=0, **loop):
    task = load_task(task)
    aligner = make_aligner(task, METHODS[method], EstimatorConfig())
    return list(align(task, aligner, LoopConfig(**loop), seed=seed))


def test_the_table_of_methods_reads_like_the_papers():
    rows = {(m.name, m.reward, m.start, m.expert_set, m.estimator) for m in METHODS.values()}
    assert rows == {
        ("MEReQ", "residual", "prior", "expert + good-enough", "feature matching"),
        ("MEReQ-NP", "residual", "prior", "expert", "feature matching"),
        ("MaxEnt", "full", "scratch", "expert + good-enough", "feature matching"),
        ("MaxEnt-FT", "full", "prior", "expert + good-enough", "feature matching"),
        ("HG-DAgger-FT", None, "prior", "expert", "cloning"),
        ("IWR-FT", None, "prior", "expert + policy", "cloning"),
        ("MEReQ-L", "residual", "prior", "expert", "segment likelihood"),
    }


def test_running_totals_versions_and_episodes_fit_together():
    done = iterations(iterations=4, steps_per_iteration=120)
    assert [each.iteration for each in done] == [1, 2, 3, 4]
    counts = [int(each.steps.is_intervention.sum()) for each in done]
    assert [each.expert_samples for each in done] == np.cumsum(counts).tolist()
    assert [each.intervention_rate for each in done] == [count / 120 for count in counts]
    assert [set(each.steps.policy_version) for each in done] == [{0}, {1}, {2}, {3}]
    for before, after in itertools.pairwise(done):
        assert after.steps.episode[0] == before.steps.episode[-1] + 1
        assert after.steps.t[0] == 0


def test_alignment_brings_the_policy_to_the_expert():
    task = load_task("carpet")
    last = iterations(iterations=5)[-1]
    prior, aligned = task.evaluate(task.prior), task.evaluate(last.policy)
    assert aligned["kl_to_expert"] < 0.2 * prior["kl_to_expert"]
    assert aligned["expert_return"] > prior["expert_return"]


def test_one_step_can_be_an_iteration_and_one_episode_too():
    assert len(iterations(iterations=3, steps_per_iteration=1)) == 3


def test_the_loop_stops_below_the_threshold_with_the_policy_that_was_measured():
    done = iterations(threshold=0.05)
    assert len(done) < 10
    assert done[-1].intervention_rate < 0.05
    assert all(each.intervention_rate >= 0.05 for each in done[:-1])
    assert done[-1].policy is done[-2].policy
    np.testing.assert_array_equal(done[-1].info["theta"], done[-2].info["theta"])


def test_a_loop_that_has_reached_the_threshold_does_not_go_on():
    task, config = load_task("carpet"), LoopConfig(threshold=0.05)
    done = [each.steps for each in iterations(threshold=0.05)]
    aligner = make_aligner(task, METHODS["MEReQ-L"], EstimatorConfig())
    assert list(align(task, aligner, config, seed=0, done=done)) == []


def test_methods_that_start_from_the_prior_meet_the_same_first_iteration():
    first = [
        iterations(name, iterations=1)[0].steps.columns()
        for name, method in METHODS.items()
        if method.start == "prior"
    ]
    for columns in first[1:]:
        for name, column in columns.items():
            np.testing.assert_array_equal(column, first[0][name])


def test_maxent_starts_from_scratch():
    task = load_task("carpet")
    aligner = make_aligner(task, METHODS["MaxEnt"], EstimatorConfig())
    no_reward = solve_soft(task.mdp, np.zeros((task.mdp.n_states, task.mdp.n_actions)), task.temperature)
    np.testing.assert_allclose(tabulate(task.mdp, aligner.policy), no_reward.log_policy, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_without_interventions_nothing_is_learned(name):
    """An expert that watches itself, perfectly content, gives no reason to move."""

    class Content:
        def reset(self):
            pass

        def intervene(self, state, policy_action):
            return None

    task = load_task("carpet")
    aligner = make_aligner(task, METHODS[name], EstimatorConfig())
    start = tabulate(task.mdp, aligner.policy)
    (done,) = align(task, aligner, LoopConfig(iterations=1), seed=0, expert=Content())
    assert done.expert_samples == 0
    if name != "IWR-FT":  # reweights its own steps to the mass of the expert's: none
        np.testing.assert_allclose(tabulate(task.mdp, done.policy), start, atol=1e-12)


@pytest.mark.parametrize("restored", [False, True])
def test_a_likelihood_is_not_maximised_again_without_a_new_expert_step(restored):
    """A neural learner would only add noise; good-enough steps are news to feature matching alone."""
    task = load_task("carpet")
    config = LoopConfig(iterations=1, steps_per_iteration=100)
    (done,) = align(task, make_aligner(task, METHODS["MEReQ-L"], EstimatorConfig()), config, seed=5)
    contented = done.steps.select(~done.steps.is_intervention)
    longer = concatenate([done.steps, replace(contented, episode=contented.episode + len(done.steps))])
    for name, stays in {"MEReQ-L": True, "MEReQ": False}.items():
        aligner = make_aligner(task, METHODS[name], EstimatorConfig())
        policy, _ = aligner.update(done.steps)
        if restored:
            state, aligner = aligner.state(), make_aligner(task, METHODS[name], EstimatorConfig())
            aligner.restore(state, done.steps)
        again, _ = aligner.update(longer)
        same = np.array_equal(tabulate(task.mdp, policy), tabulate(task.mdp, again))
        assert same == stays


@pytest.mark.parametrize("name", METHODS)
def test_a_restored_aligner_goes_on_bit_for_bit(name):
    task, method = load_task("carpet"), METHODS[name]
    aligner, twin = (make_aligner(task, method, EstimatorConfig()) for _ in range(2))
    config = LoopConfig(iterations=3, steps_per_iteration=100)
    going = align(task, aligner, config, seed=5)
    done = [next(going).steps]
    twin.restore(aligner.state(), concatenate(done))
    rest = zip(going, align(task, twin, config, seed=5, done=done), strict=True)
    for first, again in rest:
        np.testing.assert_array_equal(first.steps.action, again.steps.action)
        np.testing.assert_array_equal(tabulate(task.mdp, first.policy), tabulate(task.mdp, again.policy))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"iterations": 0}, "iterations must be a whole number at least 1, got 0"),
        ({"steps_per_iteration": 0}, "steps_per_iteration must be a whole number at least 1, got 0"),
        ({"threshold": 1.5}, "threshold must be a finite number at least 0 and at most 1, got 1.5"),
    ],
)
def test_malformed_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        LoopConfig(**settings)


def test_a_method_is_data():
    """A row of one's own runs through the same loop."""
    own = Method("own", "full", "prior", "expert", "segment likelihood", "test")
    task = load_task("carpet")
    aligner = make_aligner(task, own, EstimatorConfig())
    done = list(align(task, aligner, LoopConfig(iterations=2), seed=0))
    assert done[-1].info["theta"].shape == task.expert_weights.shape
