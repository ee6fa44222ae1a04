"""Each kind of fault, planted in a policy that has no other, is found and named."""

import re

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from scipy.special import log_softmax
from scipy.stats import norm

from mereq_min.lab.conformance.policy import POLICY_CHECKS, check_policy
from mereq_min.policies import TabularPolicy

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


@pytest.mark.parametrize("n_seeds", [3, pytest.param(30, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("policy", "space"), FLAWLESS, ids=["categorical", "squashed", "two peaks"])
def test_a_flawless_policy_has_no_findings(policy, space, n_seeds):
    for seed in range(n_seeds):
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
    "no sample": (object(), THREE, "a policy must offer `sample`, but this object does not"),
    "no method": (
        changed(Categorical, sample=3),
        THREE,
        "`sample` of a policy must be a method, but is a int",
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
        r"must stay within Discrete\(3\), but drew 3; bound it",
    ),
    "unbounded": (
        changed(Squashed, sample=lambda s, x, r: np.full(x.shape, 5.0)),
        BOX,
        "must stay within Box.*but drew 5.0; bound it or wrap the environment in gymnasium.*ClipAction",
    ),
    "NaN": (changed(Squashed, sample=lambda s, x, r: np.full(x.shape, np.nan)), BOX, "but drew nan"),
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
        r"probabilities must sum to 1, but sum to 1.10364; return the log_softmax",
    ),
    "units": (
        changed(Squashed, log_prob=lambda s, x, a: Squashed.log_prob(s, x, a) + np.log(2)),
        BOX,
        r"the density must integrate to 1 over actions, but integrates to (1\.9|2)",
    ),
    "slope": (
        changed(Squashed, log_prob=lambda s, x, a: norm.logpdf(a, x, 0.6).sum(axis=1)),
        BOX,
        "the density must integrate to 1 over actions",
    ),
    "greedy": (changed(Categorical, sample=always_first), THREE, r"of 4000 actions \d+ should be \d"),
    "off centre": (changed(Squashed, sample=off_centre), BOX, "distribution of component 0 of the action"),
    "too narrow": (changed(Squashed, sample=too_narrow), BOX, "sample must agree with log_prob"),
    "same noise": (changed(Squashed, sample=same_noise), BOX, "distribution of log_prob of the draws"),
    "one point": (
        changed(Squashed, sample=lambda s, x, r: np.tile(np.float32([0.1, 0.5]), (len(x), 1))),
        BOX,
        "must draw from a density, but drew the same action 1,000 times",
    ),
    "own generator": (
        changed(Categorical, sample=keep_own_generator),
        THREE,
        "from equally seeded generators",
    ),
    "no generator": (
        changed(Categorical, sample=ignore_generator),
        THREE,
        "anew from a generator of another seed",
    ),
    "dropout": (
        changed(Categorical, log_prob=drop_out),
        THREE,
        "log_prob must return the same if called again",
    ),
    "global": (
        changed(Categorical, sample=draw_globally),
        THREE,
        "leave the global generator of numpy alone",
    ),
    "overwrites": (changed(Categorical, log_prob=overwrite), THREE, "must not write into its input arrays"),
    "batch": (changed(Categorical, log_prob=normalise_batch), THREE, "not depend on the rest of the batch"),
    "raises": (
        changed(Categorical, log_prob=lambda s, x, a: x[10**6]),
        THREE,
        r"but fails for action 0: IndexError: index 1000000 is out of bounds.*test_policy.py:\d+",
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


class Linear:
    """What a torch layer shows of itself."""

    def __init__(self, in_features, out_features):
        self.in_features, self.out_features = in_features, out_features
        self.weight = np.random.default_rng(0).normal(size=(out_features, in_features))


class Network:
    """Two layers behind the one attribute of a torch module that the checks look at."""

    def __init__(self, n_inputs, n_outputs):
        self.layers = [Linear(n_inputs, 8), Linear(8, n_outputs)]

    def modules(self):
        return [self, *self.layers]

    def __call__(self, states):
        for layer in self.layers:
            states = np.tanh(states.reshape(len(states), -1) @ layer.weight.T)
        return states


class Softmax:
    """The softmax of a network's outputs."""

    def __init__(self, n_inputs, n_outputs):
        self.net = Network(n_inputs, n_outputs)

    def table(self, state):
        return log_softmax(self.net(state), axis=1)

    def log_prob(self, state, action):
        return np.take_along_axis(self.table(state), action[:, None], axis=1)[:, 0]

    def sample(self, state, rng):
        return (rng.random(len(state))[:, None] >= np.exp(self.table(state)).cumsum(axis=1)[:, :-1]).sum(
            axis=1
        )


class Listing(Softmax):
    """Offers the log-probabilities of all actions at once, as the policies of `deep` do."""

    log_probs = Softmax.table


IMAGES = np.random.default_rng(6).normal(size=(20, 5, 5))
FOUR = Discrete(4)
TABLE = TabularPolicy(np.log(np.full((40, 3), 1 / 3)))
MISFITS = {
    "observations": (
        Softmax(4, 4),
        IMAGES,
        FOUR,
        r"your policy observes 4 numbers, but the task's observations have 25 \(shape \(5, 5\)\); use",
    ),
    "one number": (
        Softmax(1, 4),
        IMAGES,
        FOUR,
        "your policy observes 1 number, but the task's observations have 25",
    ),
    "few actions": (Softmax(25, 3), IMAGES, FOUR, "your policy chooses among 3 actions, the task has 4; use"),
    "many actions": (
        Listing(25, 5),
        IMAGES,
        FOUR,
        "your policy chooses among 5 actions, the task has 4; use",
    ),
    "one action": (Listing(25, 1), IMAGES, FOUR, "your policy chooses among 1 action, the task has 4; use"),
    "short actions": (
        TwoPeaks(),
        IMAGES,
        BOX,
        "your policy gives 1 number as an action, the task takes 2; use",
    ),
    "vectors for a table": (
        TABLE,
        IMAGES,
        THREE,
        r"cannot read the task's observations of shape \(5, 5\) \(25 numbers\): IndexError: arrays",
    ),
    "states beyond a table": (
        TABLE,
        np.arange(50),
        THREE,
        r"observations of shape \(\) \(1 number\): IndexError: index 49 is out of bounds",
    ),
    "actions beyond a table": (
        TABLE,
        np.arange(40),
        FOUR,
        "log_prob must work for all 4 actions of the task, but fails for action 3: IndexError: index 3",
    ),
}


@pytest.mark.parametrize(("policy", "states", "space", "message"), MISFITS.values(), ids=MISFITS)
def test_a_policy_for_another_task_gets_one_finding_in_plain_words(policy, states, space, message):
    (finding,) = check_policy(policy, states, space, np.random.default_rng(0))
    assert _matches(message, finding), finding


def test_log_prob_alone_may_show_that_a_policy_takes_other_observations():
    policy = Softmax(4, 4)
    policy.sample = lambda state, rng: rng.integers(4, size=len(state))
    (finding,) = check_policy(policy, IMAGES, FOUR, np.random.default_rng(0))
    assert finding.startswith("your policy observes 4 numbers, but the task's observations have 25")


def test_titles_are_different():
    assert len({check.title for check in POLICY_CHECKS}) == len(POLICY_CHECKS)
