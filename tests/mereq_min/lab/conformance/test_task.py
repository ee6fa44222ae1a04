"""Each kind of fault, planted in a task or an oracle that has no other, is found and named."""

import re
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Discrete

from gridworlds import TASKS
from mereq_min import TabularPolicy
from mereq_min.experts import DemonstratingExpert, SimulatedExpert
from mereq_min.interfaces import Imperfections, Oracle, Task
from mereq_min.lab.commands.check import show_results
from mereq_min.lab.conformance import subject as shared
from mereq_min.lab.conformance.harness import run_check
from mereq_min.lab.conformance.oracle import ORACLE_CHECKS
from mereq_min.lab.conformance.subject import TaskSubject
from mereq_min.lab.conformance.task import TASK_CHECKS, check_task, run_task_checks


@cache
def carpet():
    return TASKS["carpet"]()


class Altered:
    """An object with some attributes replaced."""

    def __init__(self, original, absent=(), **attributes):
        self.__dict__.update(attributes, original=original, absent=absent)

    def __getattr__(self, name):
        if name in self.__dict__.get("absent", ()):
            raise AttributeError(name)
        return getattr(self.__dict__["original"], name)


def task_with(**attributes):
    return Altered(carpet(), **attributes)


def oracle_with(**attributes):
    """The task whose oracle has some attributes replaced."""
    return task_with(oracle=Altered(carpet().oracle, **attributes))


def only(protocol, thing, **attributes):
    """What a protocol names of an object, and nothing else."""
    names = [*protocol.__annotations__, *(name for name in vars(protocol) if not name.startswith("_"))]
    return SimpleNamespace(**{name: getattr(thing, name) for name in names} | attributes)


class AlteredEnv(gym.Wrapper):
    """The environment with features, observations or seeds altered."""

    def __init__(self, env, features=lambda f: f, observation=lambda o: o, seed=lambda s: s, info=True):
        super().__init__(env)
        self.alter, self.observe, self.seed, self.info = features, observation, seed, info

    def reset(self, *, seed=None, options=None):
        state, info = self.env.reset(seed=self.seed(seed), options=options)
        return self.observe(state), info

    def step(self, action):
        state, reward, terminated, truncated, info = self.env.step(action)
        info = {"features": self.alter(info["features"])} if self.info else {}
        return self.observe(state), reward, terminated, truncated, info


def with_env(**alterations):
    def make_env(render_mode=None, *, reference=False):
        return AlteredEnv(carpet().make_env(render_mode), **alterations)

    return task_with(make_env=make_env)


def column(k, value):
    """Features with column k replaced."""
    return lambda features: np.where(np.arange(len(features)) == k, value, features)


def without_time_limit(render_mode=None, *, reference=False):
    return carpet().make_env(render_mode).env


def other_reference(render_mode=None, *, reference=False):
    env = carpet().make_env(render_mode)
    if reference:
        env.action_space = Discrete(7)
    return env


def black_images(render_mode=None, *, reference=False):
    env = carpet().make_env(render_mode)
    env.render = lambda: np.zeros((80, 80, 3), dtype=np.uint8)
    return env


def small_images(render_mode=None, *, reference=False):
    env = carpet().make_env(render_mode)
    env.render = lambda: np.zeros((8, 8))
    return env


def measured(**changes):
    """The task whose `evaluate` returns some other measures, and leaves out those that are None."""

    def evaluate(policy):
        measures = {**carpet().evaluate(policy), **changes}
        return {name: value for name, value in measures.items() if value is not None}

    return task_with(evaluate=evaluate)


class Constant:
    """Always takes the first action."""

    def sample(self, state, rng):
        return np.zeros(len(state), dtype=int)


class Unnormalised:
    """A policy whose probabilities sum to 5 / e."""

    def log_prob(self, state, action):
        return np.full(len(state), -1.0)

    def sample(self, state, rng):
        return rng.integers(5, size=len(state))


class Forgetful:
    """A uniform policy that saves another one."""

    def log_prob(self, state, action):
        return np.full(len(state), -np.log(5))

    def sample(self, state, rng):
        return rng.integers(5, size=len(state))

    def arrays(self):
        return carpet().prior.arrays()


def with_temperature(temperature):
    """The prior, soft-optimal at another temperature."""
    return TabularPolicy(carpet().log_prior, temperature)


CHECKS = {check.title: check for check in (*TASK_CHECKS, *ORACLE_CHECKS)}
TASK_FAULTS = {
    "the task offers everything in interfaces.Task": {
        "no learner": (
            task_with(absent=["make_learner"]),
            "a task must offer `make_learner`, but this Altered does not",
        ),
        "no oracle, not even None": (
            task_with(absent=["oracle"]),
            "a task must offer `oracle`, but this Altered does not",
        ),
        "no method": (task_with(evaluate={}), "`evaluate` of a task must be a method, but is a dict"),
    },
    "names and numbers are valid": {
        "name": (task_with(name=""), "name must be a string"),
        "names": (task_with(feature_names=["a"]), "feature_names must be a tuple of strings"),
        "repeated": (task_with(feature_names=tuple("aabcd")), "must differ from one another"),
        "gamma": (task_with(gamma=1.0), "gamma must be at least 0 and below 1"),
        "horizon": (task_with(horizon=25.5), "horizon must be an integer at least 1, got 25.5"),
        "temperature": (task_with(temperature=0.0), "temperature must be a finite number above 0, got 0.0"),
        "negative weight": (
            task_with(scaled_prior_weight=-0.1),
            "scaled_prior_weight must be a finite number at least 0, got -0.1",
        ),
        "NaN weight": (
            task_with(scaled_prior_weight=np.nan),
            "scaled_prior_weight must be a finite number at least 0, got nan",
        ),
        "settings": (
            task_with(recorded_settings={"iterations": 3}),
            "recorded_settings must be a mereq_min.loop.Settings or None, got {'iterations': 3}",
        ),
    },
    "scaled_prior_weight is that of the prior": {
        "another prior's weight": (
            task_with(prior=with_temperature(0.3)),
            r"prior_weight times a temperature \(the prior's\), which is 0.3, got 0.1; compute it by",
        ),
        "weight without temperature": (
            task_with(prior=with_temperature(None), scaled_prior_weight=0.3),
            r"\(the task's, as the prior's is unknown\), which is 0.1, got 0.3",
        ),
    },
    "spaces are honoured, features are reported, episodes end": {
        "observation": (
            with_env(observation=lambda o: -1),
            "observations must lie in Discrete.*got -1 at step 0",
        ),
        "no features": (with_env(info=False), "must hold the 5 features of each step, got nothing"),
        "few features": (
            with_env(features=lambda f: f[:3]),
            r"the 5 features of each step, got shape \(3,\)",
        ),
        "endless": (
            task_with(make_env=without_time_limit),
            "horizon of 25 steps, but went on after 26; wrap",
        ),
        "short": (task_with(horizon=30), "horizon of 30 steps, but ended after 25; wrap"),
        "reference": (
            task_with(make_env=other_reference),
            r"make_env\(reference=True\) must have the same action_space, but has Discrete\(7\)",
        ),
    },
    "gymnasium's own checker finds no error": {
        "checker": (task_with(make_env=lambda: gym.Wrapper(gym.Env())), "raised .*Error"),
    },
    "the same seed gives the same steps": {
        "unseeded": (
            with_env(seed=lambda s: None),
            "the same seed must give the same steps, but `state` differs; let the environment draw",
        ),
        "one seed": (
            task_with(make_env=with_env(seed=lambda s: 3).make_env, prior=Constant()),
            "another seed must give other steps, but gave the same",
        ),
    },
    "features are finite, of order 1, and none is constant": {
        "NaN feature": (
            with_env(features=column(2, np.nan)),
            "feature 'puddle' must be finite, but 7000 entries",
        ),
        "constant": (
            with_env(features=column(3, 0.25)),
            "feature 'tiles' must vary, but is 0.25 in all 7000 steps",
        ),
        "scale": (with_env(features=lambda f: f * 100), "feature 'distance' must be of order 1, but reaches"),
    },
    "the prior is a valid policy, and can be reloaded once saved": {
        "prior": (task_with(prior=Unnormalised()), "^prior: probabilities must sum to 1, but sum to 1.83"),
        "prior of another task": (
            task_with(prior=TabularPolicy(np.full((500, 4), -np.log(4)))),
            "^prior: log_prob must work for all 5 actions of the task, but fails for action 4: IndexError",
        ),
        "loading": (
            task_with(prior=Forgetful()),
            r"^load_policy must rebuild the prior from its arrays\(\), but log_prob differs; let arrays\(\) ",
        ),
    },
    "evaluate returns the task's own measures": {
        "no return": (
            measured(task_return=None),
            "evaluate must return task_return, got only success, expert_return",
        ),
        "NaN return": (measured(task_return=np.nan), "task_return must be a finite number, got nan"),
        "share": (measured(success=97.0), "success must be a share of episodes, from 0 to 1, got 97.0"),
    },
    "learners and cloner can be made": {
        "learner": (task_with(make_learner=lambda *_: 3), "the residual learner must offer `solve`"),
        "cloner": (task_with(make_cloner=object), "the cloner must offer `clone`, but this object does not"),
    },
    "rendering shows the state": {
        "image": (
            task_with(make_env=small_images),
            r"images \(height, width, 3\) of uint8.*got float64 \(8, 8\)",
        ),
        "still": (
            task_with(make_env=black_images),
            "rendering must show the state, but the image stayed the same",
        ),
    },
}


def make_simulated(kind=SimulatedExpert, **changes):
    """A `make_expert` whose simulated experts are of another kind or get other arguments."""

    def make_expert(imperfections=Imperfections()):
        oracle = carpet().oracle
        arguments = {"patience": oracle.patience, "release": oracle.release, "imperfections": imperfections}
        return kind(oracle.expert_policy, oracle.violates, **arguments | changes)

    return make_expert


class Stubborn(SimulatedExpert):
    """Keeps control when a new episode begins."""

    def reset(self, rng):
        if not hasattr(self, "rng"):
            super().reset(rng)


class OwnRandomness(SimulatedExpert):
    """Draws from a generator of its own."""

    generator = np.random.default_rng(0)

    def reset(self, rng):
        super().reset(self.generator)


def zeros(reward):
    return np.zeros(5)


def unknown_weights(reward):
    return carpet().oracle.true_theta if reward == "residual" else None


ORACLE_FAULTS = {
    "the oracle offers everything in interfaces.Oracle": {
        "no rule": (
            oracle_with(absent=["violates"]),
            "an oracle must offer `violates`, but this Altered does not; see mereq_min.interfaces.Oracle",
        ),
        "no truth": (oracle_with(absent=["true_theta"]), "an oracle must offer `true_theta`"),
        "no oracle": (task_with(oracle=3), "an oracle must offer `expert_policy`, but this int does not"),
    },
    "the oracle's weights and numbers are valid": {
        "patience": (oracle_with(patience=0), "patience must be an integer at least 1, got 0"),
        "release": (oracle_with(release=1.5), "release must be an integer at least 1, got 1.5"),
        "length": (
            oracle_with(true_theta=np.ones(4)),
            r"true_theta must have shape \(5,\), got \(4,\); give one weight for each of distance, carpet",
        ),
        "NaN truth": (oracle_with(true_theta=np.full(5, np.nan)), "true_theta must be finite"),
        "full length": (
            oracle_with(true_weights=lambda r: np.ones(3) if r == "full" else carpet().oracle.true_theta),
            r"true_weights\('full'\) must have shape \(5,\), got \(3,\)",
        ),
        "no preference": (oracle_with(true_theta=np.zeros(5), true_weights=zeros), "no preference to infer"),
        "two truths": (
            oracle_with(true_weights=zeros),
            r"true_weights\('residual'\) must equal true_theta, but differs",
        ),
    },
    "the oracle's expert can be made": {
        "no expert": (
            oracle_with(make_expert=lambda *_: 3),
            "the expert must offer `intervene`, but this int does not",
        ),
        "expert of the old contract": (
            oracle_with(make_expert=lambda rng, imperfections: None),
            "raised TypeError",
        ),
        "other patience": (
            oracle_with(make_expert=make_simulated(patience=2)),
            "the expert's patience must be the oracle's, 1, got 2",
        ),
    },
    "the same seed gives the same interventions": {
        "own generator": (
            oracle_with(make_expert=make_simulated(OwnRandomness)),
            "the same watched steps, but `.*` differs; let the expert draw everything from the generator",
        ),
    },
    "the expert follows the oracle's rule, patience and release": {
        "later": (
            oracle_with(make_expert=make_simulated(patience=2)),
            "over after 1 violation in a row.*belongs to the expert, but the policy took it; see mereq_min",
        ),
        "longer": (
            oracle_with(make_expert=make_simulated(release=5)),
            "belongs to the policy, but the expert took it",
        ),
        "keeps control": (
            oracle_with(make_expert=make_simulated(Stubborn)),
            r"start anew in each episode; step 0 of episode \d+ belongs to the policy, but the expert",
        ),
        "always in control": (
            oracle_with(make_expert=lambda *_: DemonstratingExpert(carpet().oracle.expert_policy)),
            "step 0 of episode 0 belongs to the policy, but the expert took it",
        ),
        "verdict": (oracle_with(violates=lambda s, a: 0.7), "violates must return True or False, got 0.7"),
    },
    "the expert has the imperfections that are asked for": {
        "imperfections": (
            oracle_with(make_expert=make_simulated(imperfections=Imperfections())),
            r"a miss_rate of 1 must never take over, but controlled \d+ of 300 steps",
        ),
    },
    "the expert's policy is valid, and can be reloaded once saved": {
        "expert policy": (
            oracle_with(expert_policy=Unnormalised()),
            "^expert_policy: probabilities must sum to 1",
        ),
        "expert's loading": (
            oracle_with(expert_policy=Forgetful()),
            r"^load_policy must rebuild the expert_policy from its arrays\(\)",
        ),
    },
    "the prior is stopped often, the expert hardly ever": {
        "lenient": (
            task_with(oracle=replace(carpet().oracle, rule=4.0)),
            r"prior must be from 0.25 to 0.5, but is 0\.[01]\d*; make the rule stricter",
        ),
        "strict": (
            task_with(oracle=replace(carpet().oracle, rule=0.05)),
            r"prior must be from 0.25 to 0.5, but is 0\.[5-9]\d*; make the rule more lenient",
        ),
        "expert's rate": (
            task_with(oracle=replace(carpet().oracle, rule=0.05)),
            r"expert's own policy must be at most 0.03, but is 0\.[1-9]",
        ),
    },
    "prior and expert succeed, and the expert is better by its own reward": {
        "keys": (
            measured(expert_return=None, kl_to_expert=None),
            "with an oracle, evaluate must return expert_return, kl_to_expert, missing for the prior",
        ),
        "shape": (
            measured(feature_divergence=np.zeros(2)),
            r"feature_divergence must have shape \(5,\), got \(2,\)",
        ),
        "success": (
            measured(success=0.5),
            r"the prior must succeed in at least 90% of episodes, but succeeds in 50.0%",
        ),
        "not better": (
            measured(expert_return=1.0),
            "the expert must be better than the prior by the expert's reward, but its expert_return is 1 and",
        ),
        "no difference": (
            measured(kl_to_expert=0.0),
            "the prior must differ from the expert, but its kl_to_expert is 0 nats",
        ),
        "itself": (
            measured(kl_to_expert=0.3),
            "the expert must not differ from itself, but its kl_to_expert is 0.3 nats",
        ),
    },
    "the distance of the true reward is 0": {
        "distance": (
            oracle_with(reward_distance=lambda *_: 0.5),
            "reward_distance must be 0 for twice the true residual reward, but is 0.5",
        ),
        "opposite": (
            oracle_with(reward_distance=lambda *_: 0.0),
            "reward_distance must be 1 for the negative of the true full reward, but is 0",
        ),
        "distance to the unknown": (
            oracle_with(true_weights=unknown_weights),
            "reward_distance must be NaN as the full reward is unknown",
        ),
    },
}


@pytest.fixture(autouse=True)
def _shorter(monkeypatch):
    """These tests need no rate to within 0.01."""
    monkeypatch.setattr(shared, "WATCHED_STEPS", 2_500)


def find(title, task):
    return run_check(CHECKS[title], TaskSubject(task, 0))


PLANTED = {
    f"{title}: {name}": (title, task, message)
    for title, faults in (TASK_FAULTS | ORACLE_FAULTS).items()
    for name, (task, message) in faults.items()
}


@pytest.mark.parametrize(("title", "task", "message"), PLANTED.values(), ids=PLANTED)
def test_a_planted_fault_of_a_task_or_an_oracle_is_named(title, task, message):
    found = find(title, task)
    assert any(re.search(message, finding, re.DOTALL) for finding in found), found


def test_every_check_has_a_planted_fault():
    assert set(TASK_FAULTS) == {check.title for check in TASK_CHECKS}
    assert set(ORACLE_FAULTS) == {check.title for check in ORACLE_CHECKS}


def test_titles_are_different():
    assert len(CHECKS) == len(TASK_CHECKS) + len(ORACLE_CHECKS)


def test_no_more_is_asked_than_the_contracts_name():
    """Objects with the names of `Task` and `Oracle` and no others have no findings."""
    task = only(Task, carpet(), oracle=only(Oracle, carpet().oracle))
    assert check_task(task) == []


def test_a_task_without_any_truth_passes_and_its_oracle_is_not_asked_for():
    results = list(run_task_checks(TaskSubject(only(Task, replace(carpet(), oracle=None)), 0)))
    assert [result.status for result in results] == ["holds"] * len(TASK_CHECKS) + ["no oracle"] * len(
        ORACLE_CHECKS
    )
    assert [result.title for result in results] == list(CHECKS)
    assert not any(result.findings for result in results)


def test_the_command_says_that_a_task_has_no_oracle(capsys):
    assert show_results(run_task_checks(TaskSubject(replace(carpet(), oracle=None), 0))) == 0
    shown = capsys.readouterr().out
    assert shown.count("holds  ") == len(TASK_CHECKS)
    assert shown.count("no oracle  ") == len(ORACLE_CHECKS)
    assert "no oracle    the prior is stopped often, the expert hardly ever\n" in shown
    assert shown.endswith("no findings; the task has no oracle, so the checks of an oracle do not apply\n")


def test_an_oracle_may_leave_distance_and_full_reward_unknown():
    oracle = oracle_with(true_weights=unknown_weights, reward_distance=lambda *_: np.nan)
    assert find("the oracle's weights and numbers are valid", oracle) == []
    assert find("the distance of the true reward is 0", oracle) == []


def test_success_is_a_measure_that_a_task_may_leave_out():
    task = measured(success=None)
    assert find("evaluate returns the task's own measures", task) == []
    assert find("prior and expert succeed, and the expert is better by its own reward", task) == []


def test_a_task_may_have_any_prior_weight_that_fits_its_prior():
    title = "scaled_prior_weight is that of the prior"
    assert find(title, replace(carpet(), prior=with_temperature(0.3), prior_weight=0.7)) == []
    assert find(title, replace(carpet(), prior=with_temperature(None))) == []
    own = only(Task, carpet(), scaled_prior_weight=12.0)  # which does not say what omega is
    assert find(title, own) == []


def test_a_whole_check_stops_at_what_is_basic_and_reports_all_else():
    assert check_task(3)[:2] == [
        "a task must offer `name`, but this int does not; see mereq_min.interfaces.Task",
        "a task must offer `gamma`, but this int does not; see mereq_min.interfaces.Task",
    ]
    results = list(run_task_checks(TaskSubject(task_with(gamma=1.0), 0)))
    made = [result.title for result in results if result.status != "not checked"]
    assert made == [check.title for check in TASK_CHECKS[:2]]
    found = check_task(
        task_with(
            evaluate=lambda policy: {"success": 1.0},
            oracle=Altered(carpet().oracle, reward_distance=lambda *_: 0.5),
        )
    )
    assert {finding.split()[0] for finding in found} == {"evaluate", "with", "reward_distance"}


def test_an_oracle_that_fails_in_what_is_basic_leaves_the_checks_of_the_task_as_they_are():
    results = list(run_task_checks(TaskSubject(oracle_with(patience=0), 0)))
    assert [result.status for result in results[: len(TASK_CHECKS)]] == ["holds"] * len(TASK_CHECKS)
    statuses = [result.status for result in results[len(TASK_CHECKS) :]]
    assert statuses == ["holds", "fails"] + ["not checked"] * (len(ORACLE_CHECKS) - 2)


def test_an_oracle_that_cannot_be_made_is_a_finding():
    class Untrained:
        @property
        def oracle(self):
            raise RuntimeError("training has not converged")

        def __getattr__(self, name):
            return getattr(carpet(), name)

    found = check_task(Untrained())
    assert len(found) == 1
    assert "raised RuntimeError: training has not converged" in found[0]
