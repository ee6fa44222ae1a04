"""Each kind of fault, planted in a policy or a task that has no other, is found and named."""

import re
from functools import cache

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from scipy.special import log_softmax
from scipy.stats import norm

from gridworlds import TASKS
from mereq_min.lab.conformance.harness import run_check, run_checks
from mereq_min.lab.conformance.policy import POLICY_CHECKS, check_policy
from mereq_min.lab.conformance.task import TASK_CHECKS, TaskSubject, check_task

STATES = np.random.default_rng(5).normal(size=(40, 2))
THREE = Discrete(3)
BOX = Box(np.float32([-2, 0]), np.float32([2, 1]))
LINE = Box(-np.inf, np.inf, (1,), np.float32)
GLOBAL = np.random.default_rng(0)
"""A generator that a policy may keep to itself, though it should not."""


class Categorical:
    """A flawless policy over three actions."""

    def log_probs(self, state):
        return log_softmax(np.column_stack([state[:, 0], state[:, 1], np.zeros(len(state))]), axis=1)

    def log_prob(self, state, action):
        return np.take_along_axis(self.log_probs(state), action[:, None], axis=1)[:, 0]

    def sample(self, state, rng):
        cumulative = np.exp(self.log_probs(state)).cumsum(axis=1)
        return (rng.random(len(state))[:, None] >= cumulative[:, :-1]).sum(axis=1)


class Squashed:
    """A flawless policy over a box: tanh of a Gaussian, stretched to the bounds."""

    std, half = 0.6, (BOX.high - BOX.low) / 2

    def log_prob(self, state, action):
        unit = np.clip((action - BOX.low) / self.half - 1, -1 + 1e-7, 1 - 1e-7).astype(float)
        density = norm.logpdf(np.arctanh(unit), state, self.std)
        return (density - np.log1p(-(unit**2)) - np.log(self.half)).sum(axis=1)

    def sample(self, state, rng):
        latent = state + self.std * rng.standard_normal(state.shape)
        return (BOX.low + (np.tanh(latent) + 1) * self.half).astype(np.float32)


class TwoPeaks:
    """A flawless policy over the line with a peak at -3 and one at 3, which no one Gaussian covers well."""

    def log_prob(self, state, action):
        return np.logaddexp(norm.logpdf(action[:, 0], -3, 0.3), norm.logpdf(action[:, 0], 3, 0.3)) - np.log(2)

    def sample(self, state, rng):
        side = 3.0 * rng.choice([-1, 1], size=(len(state), 1))
        return (side + 0.3 * rng.standard_normal((len(state), 1))).astype(np.float32)


def changed(policy_class, **methods):
    """An instance of a policy with methods replaced."""
    return type("Changed", (policy_class,), methods)()


FLAWLESS = [(Categorical(), THREE), (Squashed(), BOX), (TwoPeaks(), LINE)]


@pytest.mark.parametrize(("policy", "space"), FLAWLESS, ids=["categorical", "squashed", "two peaks"])
def test_a_flawless_policy_has_no_findings(policy, space):
    for seed in range(10):
        assert check_policy(policy, STATES, space, np.random.default_rng(seed)) == []


def always_first(self, state, rng):
    return np.zeros(len(state), dtype=int)


def draw_globally(self, state, rng):
    np.random.random()  # noqa: NPY002 (the planted fault)
    return Categorical.sample(self, state, rng)


def keep_own_generator(self, state, rng):
    return Categorical.sample(self, state, GLOBAL)


def ignore_generator(self, state, rng):
    return Categorical.sample(self, state, np.random.default_rng(1))


def overwrite(self, state, action):
    log_prob = Categorical.log_prob(self, state, action)
    state[:] = 0.0
    return log_prob


def drop_out(self, state, action):
    return Categorical.log_prob(self, state, action) + 1e-9 * GLOBAL.random()


def normalise_batch(self, state, action):
    return Categorical.log_prob(self, state - state.mean(axis=0), action)


def impossible_third(self, state, action):
    return np.where(action == 2, -np.inf, Categorical.log_prob(self, state, action))


def off_centre(self, state, rng):
    return Squashed.sample(self, state + 0.2, rng)


def too_narrow(self, state, rng):
    return Squashed.sample(self, state - 0.2 * rng.standard_normal(state.shape), rng)


def same_noise(self, state, rng):
    """Right in each component, but both move together."""
    latent = state + self.std * rng.standard_normal((len(state), 1))
    return (BOX.low + (np.tanh(latent) + 1) * self.half).astype(np.float32)


FAULTS = {
    "no sample": (object(), THREE, "a policy must offer `sample`, this object does not"),
    "no method": (
        changed(Categorical, sample=3),
        THREE,
        "`sample` of a policy must be a method, it is a int",
    ),
    "space": (Categorical(), MultiDiscrete([2, 2]), "actions must be Discrete or a Box of one axis"),
    "list": (
        changed(Categorical, sample=lambda *_: [0] * 40),
        THREE,
        "must return a numpy array, got a list",
    ),
    "one action": (
        changed(Categorical, sample=lambda *_: np.array(1)),
        THREE,
        r"each state, \(40,\), got \(\)",
    ),
    "float": (changed(Categorical, sample=lambda s, x, r: np.zeros(len(x))), THREE, "must return integers"),
    "range": (
        changed(Categorical, sample=lambda s, x, r: np.full(len(x), 3)),
        THREE,
        r"must stay within Discrete\(3\), it drew 3; bound it",
    ),
    "unbounded": (
        changed(Squashed, sample=lambda s, x, r: np.full(x.shape, 5.0)),
        BOX,
        "must stay within Box.*it drew 5.0; bound it or wrap the environment in gymnasium.*ClipAction",
    ),
    "NaN": (changed(Squashed, sample=lambda s, x, r: np.full(x.shape, np.nan)), BOX, "it drew nan"),
    "column": (
        changed(Categorical, log_prob=lambda s, x, a: Categorical.log_prob(s, x, a)[:, None]),
        THREE,
        r"a number for each action, \(40,\), got \(40, 1\)",
    ),
    "per axis": (
        changed(Squashed, log_prob=lambda s, x, a: norm.logpdf(a)),
        BOX,
        r"a number for each action, \(40,\), got \(40, 2\); sum over axes",
    ),
    "not an array": (changed(Categorical, log_prob=lambda *_: 0.5), THREE, "array of floats, got float"),
    "NaN density": (
        changed(Categorical, log_prob=lambda s, x, a: np.full(len(x), np.nan)),
        THREE,
        "an action that sample drew must be finite, got nan",
    ),
    "impossible": (
        changed(Categorical, log_prob=impossible_third),
        THREE,
        "an action that sample drew must be finite, got -inf for .*2.* in state",
    ),
    "NaN where not drawn": (
        changed(Categorical, sample=always_first, log_prob=lambda s, x, a: np.where(a == 0, 0.0, np.nan)),
        THREE,
        "must be a number or -inf for any action, got NaN",
    ),
    "logits": (
        changed(Categorical, log_prob=lambda s, x, a: np.full(len(x), -1.0)),
        THREE,
        r"probabilities must sum to 1, they sum to 1.10364; return the log_softmax",
    ),
    "units": (
        changed(Squashed, log_prob=lambda s, x, a: Squashed.log_prob(s, x, a) + np.log(2)),
        BOX,
        r"the density must integrate to 1 over actions, it integrates to (1\.9|2)",
    ),
    "slope": (
        changed(Squashed, log_prob=lambda s, x, a: norm.logpdf(a, x, 0.6).sum(axis=1)),
        BOX,
        "the density must integrate to 1 over actions",
    ),
    "greedy": (changed(Categorical, sample=always_first), THREE, r"of 4000 actions \d+ should be \d"),
    "off centre": (changed(Squashed, sample=off_centre), BOX, "distribution of component 0 of the action"),
    "too narrow": (changed(Squashed, sample=too_narrow), BOX, "sample must draw what log_prob says"),
    "same noise": (changed(Squashed, sample=same_noise), BOX, "distribution of log_prob of the draws"),
    "one point": (
        changed(Squashed, sample=lambda s, x, r: np.tile(np.float32([0.1, 0.5]), (len(x), 1))),
        BOX,
        "must draw from a density, it drew the same action 1,000 times",
    ),
    "own generator": (changed(Categorical, sample=keep_own_generator), THREE, "from an equal generator"),
    "no generator": (changed(Categorical, sample=ignore_generator), THREE, "anew from another generator"),
    "dropout": (
        changed(Categorical, log_prob=drop_out),
        THREE,
        "log_prob must say the same when asked again",
    ),
    "global": (
        changed(Categorical, sample=draw_globally),
        THREE,
        "leave the global generator of numpy alone",
    ),
    "overwrites": (changed(Categorical, log_prob=overwrite), THREE, "must not write into the arrays"),
    "batch": (changed(Categorical, log_prob=normalise_batch), THREE, "not depend on the rest of the batch"),
    "raises": (
        changed(Categorical, log_prob=lambda s, x, a: x[10**6]),
        THREE,
        r"raised IndexError: index 1000000 is out of bounds.*test_contracts.py:\d+",
    ),
    "division": (changed(Categorical, sample=lambda *_: 1 // 0), THREE, "raised ZeroDivisionError"),
}


@pytest.mark.parametrize(("policy", "space", "message"), FAULTS.values(), ids=FAULTS)
def test_a_planted_fault_of_a_policy_is_named(policy, space, message):
    found = check_policy(policy, STATES, space, np.random.default_rng(0))
    assert any(_matches(message, finding) for finding in found), found


def _matches(pattern, text):
    return re.search(pattern, text, re.DOTALL) is not None


def test_the_global_generators_are_left_as_they_were():
    before = repr(np.random.get_state())  # noqa: NPY002 (to see that it stays)
    check_policy(Categorical(), STATES, THREE, np.random.default_rng(0))
    assert repr(np.random.get_state()) == before  # noqa: NPY002


def test_a_failed_basic_check_leaves_the_later_ones_unmade():
    found = check_policy(object(), STATES, THREE, np.random.default_rng(0))
    assert len(found) == 2  # log_prob and sample, and nothing that follows from their absence


@cache
def carpet():
    return TASKS["carpet"]()


class Altered:
    """The task `carpet` with some attributes of its own."""

    def __init__(self, **attributes):
        self.__dict__.update(attributes)

    def __getattr__(self, name):
        if name in self.__dict__.get("absent", ()):
            raise AttributeError(name)
        return getattr(carpet(), name)


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

    return Altered(make_env=make_env)


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
    return Altered(evaluate=lambda policy: {**carpet().evaluate(policy), **changes})


def unmeasured(policy):
    return {"success": 1.0}


def skilled_expert(share):
    """Measures by which the expert beats the prior at its own reward, by a share of what it gains at hers."""
    task = carpet()
    returns = [task.evaluate(policy)["expert_return"] for policy in (task.prior, task.expert_policy)]

    def evaluate(policy):
        bonus = share * (returns[1] - returns[0]) if policy is task.expert_policy else 0.0
        return {**task.evaluate(policy), "prior_return": bonus}

    return Altered(evaluate=evaluate, prior=task.prior, expert_policy=task.expert_policy)


class Passive:
    """An expert who never takes over."""

    def reset(self):
        pass

    def intervene(self, state, policy_action):
        return None


ONES = np.ones(5)
SEEDLESS = Altered(
    make_env=with_env(seed=lambda s: 3).make_env,
    prior=changed(Categorical, sample=always_first),
    make_expert=lambda *_: Passive(),
)
PREFERENCE = Altered(expert_weights=carpet().prior_weights)
TASK_FAULTS = {
    "no learner": (
        0,
        Altered(absent=["make_learner"]),
        "a task must offer `make_learner`, this Altered does not",
    ),
    "no method": (0, Altered(evaluate={}), "`evaluate` of a task must be a method, it is a dict"),
    "name": (1, Altered(name=""), "name must be a string"),
    "names": (1, Altered(feature_names=["a"]), "feature_names must be a tuple of strings"),
    "repeated": (1, Altered(feature_names=tuple("aabcd")), "must differ from one another"),
    "length": (
        1,
        Altered(prior_weights=np.ones(4)),
        r"prior_weights must have shape \(5,\), got \(4,\); give one",
    ),
    "NaN weight": (1, Altered(expert_weights=ONES * np.nan), "expert_weights must be finite"),
    "gamma": (1, Altered(gamma=1.0), "gamma must be a finite number at least 0"),
    "horizon": (1, Altered(horizon=25.5), "horizon must be a whole number at least 1, got 25.5"),
    "temperature": (1, Altered(temperature=0.0), "temperature must be a finite number above 0, got 0.0"),
    "no preference": (1, PREFERENCE, "no preference to be inferred"),
    "observation": (
        2,
        with_env(observation=lambda o: -1),
        "observations must lie in Discrete.*got -1 at step 0",
    ),
    "no features": (2, with_env(info=False), "must hold the 5 features of each step, got nothing"),
    "few features": (2, with_env(features=lambda f: f[:3]), r"the 5 features of each step, got shape \(3,\)"),
    "endless": (2, Altered(make_env=without_time_limit), "horizon of 25 steps, it went on after 26; wrap"),
    "short": (2, Altered(horizon=30), "horizon of 30 steps, it ended after 25; wrap"),
    "reference": (
        2,
        Altered(make_env=other_reference),
        "reference simulator must have the same action_space",
    ),
    "checker": (3, Altered(make_env=lambda: gym.Wrapper(gym.Env())), "raised .*Error"),
    "unseeded": (4, with_env(seed=lambda s: None), "the same seed must give the same steps, `state` differs"),
    "one seed": (4, SEEDLESS, "another seed must give other steps, it gave the same"),
    "NaN feature": (
        5,
        with_env(features=column(2, np.nan)),
        "feature 'puddle' must be finite, 22000 entries",
    ),
    "constant": (
        5,
        with_env(features=column(3, 0.25)),
        "feature 'tiles' must vary, it is 0.25 in all 22000 steps",
    ),
    "scale": (
        5,
        with_env(features=lambda f: f * 100),
        "feature 'distance' must be about from 0 to 1, it reaches",
    ),
    "rate": (7, Altered(prior=carpet().expert_policy), r"from 0.25 to 0.5, it is 0\.0.*object to more"),
    "expert rate": (7, Altered(expert_policy=carpet().prior), "rate of at most 0.03, it is 0.[2-5]"),
    "keys": (8, Altered(evaluate=unmeasured), "evaluate must return prior_return, .* missing for the prior"),
    "shape": (8, measured(feature_divergence=np.zeros(2)), r"feature_divergence must have shape \(5,\)"),
    "success": (
        8,
        measured(success=0.5),
        r"the prior must do the task proper in 90% of episodes, it does in 50.0%",
    ),
    "not better": (8, measured(expert_return=1.0), "the expert must be the better one by its own reward"),
    "prior not better": (8, skilled_expert(0.2), "the prior must be the better one by its own"),
    "no difference": (8, measured(kl_to_expert=0.0), "the prior must differ from the expert"),
    "itself": (8, measured(kl_to_expert=0.3), "the expert must not differ from itself: kl_to_expert 0.3"),
    "distance": (9, Altered(reward_distance=lambda *_: 0.5), "reward_distance must be 0 for twice the true"),
    "learner": (10, Altered(make_learner=lambda *_: 3), "the residual learner must offer `solve`"),
    "cloner": (10, Altered(make_cloner=object), "the cloner must offer `clone`, this object does not"),
    "expert": (10, Altered(make_expert=lambda *_: 3), "the expert must offer `intervene`, this int does not"),
    "image": (
        11,
        Altered(make_env=small_images),
        r"images \(height, width, 3\) of uint8.*got float64 \(8, 8\)",
    ),
    "still": (11, Altered(make_env=black_images), "rendering must show the state, the image stayed the same"),
    "raises": (0, Altered(absent=["evaluate"]), "a task must offer `evaluate`"),
}


@pytest.mark.parametrize(("number", "task", "message"), TASK_FAULTS.values(), ids=TASK_FAULTS)
def test_a_planted_fault_of_a_task_is_named(number, task, message):
    found = run_check(TASK_CHECKS[number], TaskSubject(task, 0))
    assert any(_matches(message, finding) for finding in found), found


def test_faults_of_the_prior_and_of_loading_are_named():
    class Forgetful(Categorical):
        def log_probs(self, state):
            return np.full((len(state), 5), -np.log(5))

        def sample(self, state, rng):
            return rng.integers(5, size=len(state))

        def state(self):
            return carpet().prior.state()

    found = run_check(TASK_CHECKS[6], TaskSubject(Altered(prior=Forgetful()), 0))
    assert found == ["load_policy must rebuild the prior from its state(), log_prob differs; save more"]
    skewed = changed(Forgetful, log_probs=lambda s, x: np.full((len(x), 5), -1.0))
    del type(skewed).__mro__[1].state
    found = run_check(TASK_CHECKS[6], TaskSubject(Altered(prior=skewed), 0))
    assert any(finding.startswith("prior: probabilities must sum to 1") for finding in found)


def test_a_whole_check_stops_at_what_is_basic_and_reports_all_else():
    assert check_task(3)[:2] == [
        "a task must offer `name`, this int does not; see mereq_min.interfaces.Task",
        "a task must offer `gamma`, this int does not; see mereq_min.interfaces.Task",
    ]
    results = run_checks(TASK_CHECKS, TaskSubject(PREFERENCE, 0))
    made = [title for title, found in results if found is not None]
    assert made == [check.title for check in TASK_CHECKS[:2]]
    found = check_task(Altered(evaluate=unmeasured, reward_distance=lambda *_: 0.5))
    assert {finding.split()[0] for finding in found} == {"evaluate", "reward_distance"}


def test_titles_are_different():
    for checks in (POLICY_CHECKS, TASK_CHECKS):
        assert len({check.title for check in checks}) == len(checks)
