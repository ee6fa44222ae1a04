"""The loop and its methods on the carpet."""

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest

from gridworlds import make_oracle
from mereq_min import (
    METHODS,
    EstimatorConfig,
    FeatureMatchingConfig,
    Imperfections,
    LoopConfig,
    Settings,
    UniformPolicy,
    align,
    concatenate,
    fit_log,
    make_aligner,
    settings_of,
    solve_soft,
    watch,
)
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
        ("MEReQ-all", "residual", "prior", "expert + good-enough", "feature matching"),
        ("MEReQ-R", "residual", "prior", "expert", "robust likelihood"),
        ("MEReQ-S", "residual", "prior", "expert", "segment matching"),
        ("HG-DAgger-1", None, "prior", "expert", "feature cloning"),
        ("Residual-BC", None, "prior", "expert", "residual cloning"),
        ("RLIF", None, "prior", "expert + policy", "takeover reward"),
        ("PVP", None, "prior", "expert + policy", "proxy values"),
        ("MILE", None, "prior", "expert + policy", "intervention model"),
        ("PPL", None, "prior", "expert", "predicted preferences"),
    }
    matching = {m.name for m in METHODS.values() if m.estimator == "feature matching"}
    assert {m.name for m in METHODS.values() if m.iterations == "last"} == matching - {"MEReQ-all"}


@pytest.mark.parametrize("task", ["carpet", "windy"])
def test_the_state_after_each_step_is_kept_the_last_of_an_episode_too(task):
    task = load_task(task)
    steps = watch(task, task.prior, task.oracle, 400, seed=3)
    follows = steps.episode[1:] == steps.episode[:-1]
    np.testing.assert_array_equal(steps.next_state[:-1][follows], steps.state[1:][follows])
    env = task.make_env()  # the same environment again, driven by the same actions
    env.reset(seed=int(np.random.default_rng(np.random.SeedSequence(3).spawn(2)[0]).integers(2**31)))
    for action, after, ends in zip(
        steps.action, steps.next_state, steps.terminated | steps.truncated, strict=True
    ):
        assert env.step(action)[0] == after
        if ends:
            env.reset()
    np.testing.assert_array_equal(task.mdp.terminal[steps.next_state], steps.terminated)


def test_a_log_of_a_method_is_fitted_as_it_was_recorded():
    task = load_task("carpet")
    for method in METHODS.values():
        recorded = list(align(task, make_aligner(task, method), LoopConfig(3, 80), seed=1))
        steps = [each.steps for each in recorded]
        fitted = list(fit_log(make_aligner(task, method), steps, task.oracle.patience))
        for mine, theirs in zip(fitted, recorded, strict=True):
            assert (mine.iteration, mine.intervention_rate, mine.expert_samples) == (
                theirs.iteration, theirs.intervention_rate, theirs.expert_samples
            )  # fmt: skip
            np.testing.assert_array_equal(mine.info["theta"], theirs.info["theta"])
            np.testing.assert_array_equal(mine.policy.log_policy, theirs.policy.log_policy)


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
        patience = 1

        def reset(self, rng):
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
        policy, _ = aligner.update(done.steps, 1)
        if restored:
            state, aligner = aligner.arrays(), make_aligner(task, METHODS[name], EstimatorConfig())
            aligner.restore(state, done.steps, 1)
        again, _ = aligner.update(longer, 1)
        same = np.array_equal(tabulate(task.mdp, policy), tabulate(task.mdp, again))
        assert same == stays


@pytest.mark.parametrize("accumulate", [True, False])
@pytest.mark.parametrize("name", METHODS)
def test_a_restored_aligner_goes_on_bit_for_bit(name, accumulate):
    task, method = load_task("carpet"), METHODS[name]
    matching = FeatureMatchingConfig(max_steps=150 if accumulate else 30)
    settings = EstimatorConfig(accumulate, matching)
    aligner, twin = (make_aligner(task, method, settings) for _ in range(2))
    config = LoopConfig(
        iterations=3, steps_per_iteration=100, imperfections=Imperfections(0.1, 0.05, reaction_delay=1)
    )
    going = align(task, aligner, config, seed=5)
    done = [next(going).steps]
    twin.restore(aligner.arrays(), concatenate(done), task.oracle.patience)
    rest = zip(going, align(task, twin, config, seed=5, done=done), strict=True)
    for first, again in rest:
        np.testing.assert_array_equal(first.steps.action, again.steps.action)
        np.testing.assert_array_equal(tabulate(task.mdp, first.policy), tabulate(task.mdp, again.policy))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"iterations": 0}, "iterations must be an integer at least 1, got 0"),
        ({"steps_per_iteration": 0}, "steps_per_iteration must be an integer at least 1, got 0"),
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
    assert done[-1].info["theta"].shape == task.oracle.true_theta.shape


# Who watches -----------------------------------------------------------------------------------------------


class Detour:
    """A hand-written expert, who needs no oracle: where the policy would step on carpet, walk around it."""

    patience = 1

    def __init__(self, mdp, carpet, distance):
        self.carpet = carpet
        self.detour = np.argmin(10 * carpet + (mdp.transition @ distance).reshape(carpet.shape), axis=1)

    def reset(self, rng):
        """Nothing to forget and nothing to draw."""

    def intervene(self, state, policy_action):
        return self.detour[state] if self.carpet[state, policy_action] > 0.5 else None


def test_a_task_without_an_oracle_says_that_it_needs_an_expert():
    task = replace(load_task("carpet"), oracle=None)
    aligner = make_aligner(task, METHODS["MEReQ-L"])
    message = (
        "the task carpet has no oracle to simulate an expert with; pass expert=..., or give the task "
        "an oracle by make_oracle of deep or gridworlds"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        next(align(task, aligner, seed=0))


def test_a_task_without_an_oracle_aligns_with_a_hand_written_expert():
    """Without any truth in the task, the aligned policy learns to keep off the carpet."""
    task = replace(load_task("carpet"), oracle=None)
    distance, carpet = (task.mdp.features[:, :, task.feature_names.index(n)] for n in ("distance", "carpet"))
    expert = Detour(task.mdp, carpet, distance[:, 0])
    aligner = make_aligner(task, METHODS["MEReQ-L"])
    done = list(align(task, aligner, LoopConfig(iterations=3), seed=0, expert=expert))
    assert done[0].intervention_rate > 0.5
    assert done[-1].intervention_rate < 0.05
    assert done[-1].info["theta"][task.feature_names.index("carpet")] < -0.2
    assert set(task.evaluate(done[-1].policy)) == {"task_return", "success"}


def test_the_patience_of_the_expert_in_use_reaches_the_method():
    """Good-enough steps leave out as many steps before a takeover as the expert that watched says."""
    task, patience = load_task("carpet"), []
    aligner = make_aligner(task, METHODS["MEReQ"])
    aligner.update = lambda steps, given: patience.append(given) or (aligner.policy, aligner.info)
    expert = replace(task.oracle, patience=4).make_expert()
    list(align(task, aligner, LoopConfig(iterations=1), seed=0, expert=expert))
    assert patience == [4]


# Settings --------------------------------------------------------------------------------------------------


def test_a_task_s_recorded_settings_are_the_defaults_of_align_and_make_aligner():
    settings = Settings(
        LoopConfig(iterations=2, steps_per_iteration=75),
        EstimatorConfig(matching=FeatureMatchingConfig(max_steps=3, tolerance=1e-9)),
    )
    task = replace(load_task("carpet"), recorded_settings=settings)
    assert settings_of(task) is settings
    by_default = list(align(task, make_aligner(task, METHODS["MEReQ"]), seed=1))
    aligner = make_aligner(task, METHODS["MEReQ"], settings.estimators)
    by_hand = list(align(task, aligner, settings.loop, seed=1))
    assert [len(each.steps) for each in by_default] == [75, 75]
    assert by_default[-1].info["solves"] == 3
    np.testing.assert_array_equal(by_default[-1].info["theta"], by_hand[-1].info["theta"])
    general = list(align(task, make_aligner(task, METHODS["MEReQ"]), LoopConfig(iterations=1), seed=1))
    assert [len(each.steps) for each in general] == [250]


def test_a_task_without_recorded_settings_has_the_general_defaults():
    assert settings_of(replace(load_task("carpet"), recorded_settings=None)) == Settings()


def test_demonstrations_are_steps_of_the_expert_alone():
    task = load_task("carpet")
    done = iterations("MEReQ", iterations=2, demonstrations=True)
    for each in done:
        assert each.intervention_rate == 1.0
        assert each.steps.is_intervention.all()
    assert done[-1].expert_samples == 500
    probability = task.oracle.expert_policy.log_prob(done[0].steps.state, done[0].steps.action)
    assert probability.mean() > task.prior.log_prob(done[0].steps.state, done[0].steps.action).mean()


def match_expert(task, n_steps, *, demonstrations, theta=None, **settings):
    """Feature matching on one iteration of expert steps, from theta on."""
    config = LoopConfig(iterations=1, steps_per_iteration=n_steps, demonstrations=demonstrations)
    matching = EstimatorConfig(matching=FeatureMatchingConfig(**settings))
    aligner = make_aligner(task, METHODS["MEReQ-NP"], matching)
    aligner.theta = aligner.theta if theta is None else theta
    (done,) = align(task, aligner, config, seed=2)
    return done.info


@pytest.mark.parametrize("name", ["carpet", "shelf", "windy"])
def test_at_the_truth_the_features_of_demonstrations_are_matched_and_those_of_segments_are_not(name):
    """Whole demonstrations are unbiased: what is left at theta* is noise, which falls with the steps."""
    task = load_task(name)

    def gap(n_steps, demonstrations):
        at = {"theta": task.oracle.true_theta, "max_steps": 1}
        return match_expert(task, n_steps, demonstrations=demonstrations, **at)["gradient_norm"]

    assert gap(40_000, demonstrations=True) < 0.006
    assert gap(40_000, demonstrations=False) > 0.06


@pytest.mark.slow
def test_matching_converges_to_the_truth_on_demonstrations_and_not_on_segments():
    task, errors = load_task("shelf"), {}
    for demonstrations in (True, False):
        for n_steps in (500, 20_000):
            ascent = {"learning_rate": 1.0, "tolerance": 2e-4, "max_steps": 500}
            info = match_expert(task, n_steps, demonstrations=demonstrations, **ascent)
            errors[demonstrations, n_steps] = np.abs(info["theta"] - task.oracle.true_theta)
            if (demonstrations, n_steps) == (True, 20_000):
                assert info["converged"]
                assert (errors[True, n_steps] < 4 * info["standard_errors"]).all()
    assert errors[True, 500].max() > 1.0
    assert errors[True, 20_000].max() < 0.2
    preference = np.flatnonzero(task.oracle.true_theta)
    assert min(errors[False, n_steps][preference] for n_steps in (500, 20_000)) > 0.6


@pytest.mark.parametrize("name", METHODS)
def test_without_accumulation_only_the_last_iteration_counts(name):
    """From the same theta, all steps with accumulate=False give what the last ones alone would give."""
    task = load_task("carpet")
    steps = [each.steps for each in iterations(name, iterations=2, steps_per_iteration=100)]
    everything, last = concatenate(steps), steps[-1]
    fitted = {}
    for accumulate, given in ((False, everything), (True, last), (True, everything)):
        settings = EstimatorConfig(accumulate, FeatureMatchingConfig(max_steps=30))
        aligner = make_aligner(task, METHODS[name], settings)
        policy, _ = aligner.update(given, 1)
        fitted[accumulate, given is last] = tabulate(task.mdp, policy)
    np.testing.assert_array_equal(fitted[False, False], fitted[True, True])
    if METHODS[name].iterations == "last":
        np.testing.assert_array_equal(fitted[False, False], fitted[True, False])
        return
    assert np.abs(np.exp(fitted[False, False]) - np.exp(fitted[True, False])).max() > 1e-3


def test_mereq_is_mereq_all_without_accumulation():
    """And with less of the prior's own steps it needs fewer of the expert's, see `EstimatorConfig`."""
    task, found = load_task("carpet"), {}
    for name, accumulate in (("MEReQ-all", False), ("MEReQ", True)):
        aligner = make_aligner(task, METHODS[name], EstimatorConfig(accumulate))
        done = list(align(task, aligner, LoopConfig(iterations=3, steps_per_iteration=100), seed=3))
        found[name] = [each.info["theta"] for each in done]
    np.testing.assert_array_equal(found["MEReQ-all"], found["MEReQ"])


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.tables_only])
def test_methods_of_tables_say_so_on_other_tasks(name):
    class Network:
        name = "pendulum"

    with pytest.raises(
        ValueError, match=f"^{name} works on tables only, and pendulum is none; choose one of"
    ):
        make_aligner(Network(), METHODS[name], EstimatorConfig())


def test_without_accumulation_an_iteration_without_interventions_changes_nothing():
    task = load_task("carpet")
    (done,) = iterations("MEReQ", iterations=1)
    aligner = make_aligner(task, METHODS["MEReQ"], EstimatorConfig())
    aligner.update(done.steps, 1)
    calm = done.steps.select(~done.steps.is_intervention)
    calm = replace(calm, episode=calm.episode + 1000, policy_version=calm.policy_version + 1)
    before = aligner.theta
    aligner.update(concatenate([done.steps, calm]), 1)
    assert aligner.theta is before


# Other priors ----------------------------------------------------------------------------------------------


def test_a_uniform_prior_with_kl_control_is_maximum_entropy_irl():
    """omega' = alpha_hat and log pi constant shift all rewards alike: the full learner's policies, E2."""
    task = load_task("carpet")
    task = replace(task, prior=UniformPolicy(task.make_env().action_space), oracle=None)
    assert task.scaled_prior_weight == task.temperature
    residual, full = (task.make_learner(reward, 1.0) for reward in ("residual", "full"))
    for theta in np.random.default_rng(0).normal(size=(4, 5)):
        np.testing.assert_allclose(
            np.exp(residual.solve(theta).log_policy), np.exp(full.solve(theta).log_policy), atol=1e-6
        )
        np.testing.assert_allclose(residual.mean_features(), full.mean_features(), atol=1e-6)


def test_alignment_on_a_uniform_prior_is_the_maxent_method():
    """The same loop, step by step: MEReQ from a random policy infers the theta that MaxEnt infers."""
    task = load_task("carpet")
    task = replace(task, prior=UniformPolicy(task.make_env().action_space))
    theta = {}
    for name in ("MEReQ", "MaxEnt"):
        config = LoopConfig(iterations=2, demonstrations=True)
        theta[name] = list(align(task, make_aligner(task, METHODS[name]), config, seed=0))[-1].info["theta"]
    np.testing.assert_allclose(theta["MEReQ"], theta["MaxEnt"], atol=1e-5)


def test_alignment_on_a_prior_of_another_reward_brings_the_rate_down():
    """The oracle's expert customises the prior in use, so that its rule accepts the habits of that prior."""
    task = load_task("carpet")
    other = solve_soft(task.mdp, task.mdp.reward([-1.0, 0.0, 0.5, -0.3, 0.0]), 0.2)
    task = replace(task, prior=type(task.prior)(other.log_policy, 0.2))
    done = list(align(task, make_aligner(task, METHODS["MEReQ-L"]), LoopConfig(iterations=6), seed=0))
    rate = {
        who: watch(task, policy, task.oracle, 5_000, seed=1).intervention_rate
        for who, policy in {
            "prior": task.prior,
            "aligned": done[-1].policy,
            "expert": task.oracle.expert_policy,
        }.items()
    }
    assert rate["prior"] > 0.15
    assert rate["aligned"] < 0.3 * rate["prior"]
    assert rate["aligned"] < rate["expert"] + 0.02
    shipped = make_oracle(task, task.oracle.true_theta, rule=task.oracle.rule)
    np.testing.assert_allclose(
        np.exp(shipped.expert_policy.log_policy), np.exp(task.oracle.expert_policy.log_policy), atol=1e-12
    )
