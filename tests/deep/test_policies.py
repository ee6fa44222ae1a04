import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from scipy.special import log_softmax
from scipy.stats import kstest

from deep.gaussian import SquashedGaussianPolicy, squashed_gaussian_policy
from deep.nets import ACTIVATIONS, OneHot, mlp
from deep.policies import DiscretePolicy, EpsilonPolicy, all_log_probs, discrete_policy
from deep.stable_baselines import GaussianPolicy
from mereq_min.policies import TabularPolicy, UniformPolicy, check_fit

STATES = np.random.default_rng(0).normal(size=(6, 2, 2))


class Bare:
    """A prior that offers no more than the interface asks for."""

    def __init__(self, policy):
        self.log_prob, self.sample = policy.log_prob, policy.sample


def make_policy(seed=0, temperature=0.5, **prior):
    return DiscretePolicy(mlp([4, 8, 3], seed), temperature, **prior)


def outputs(policy):
    with torch.no_grad():
        return policy.net(torch.as_tensor(STATES, dtype=torch.float32)).numpy().astype(np.float64)


def test_log_probs_are_those_of_the_customised_prior():
    prior = make_policy(1)
    policy = make_policy(0, prior=Bare(prior), prior_scale=0.7)
    logits = outputs(policy) / 0.5 + 0.7 * log_softmax(outputs(prior) / 0.5, axis=1)
    np.testing.assert_allclose(policy.log_probs(STATES), log_softmax(logits, axis=1), rtol=1e-6)
    np.testing.assert_allclose(np.exp(policy.log_probs(STATES)).sum(axis=1), 1.0)


def test_log_prob_picks_the_action():
    policy = make_policy()
    action = np.array([0, 1, 2, 2, 1, 0])
    np.testing.assert_array_equal(
        policy.log_prob(STATES, action), policy.log_probs(STATES)[np.arange(6), action]
    )


def test_any_policy_tells_all_its_log_probabilities():
    policy = make_policy()
    np.testing.assert_array_equal(all_log_probs(Bare(policy), STATES, 3), policy.log_probs(STATES))


def test_temperature_zero_always_takes_the_best_action():
    policy = make_policy(temperature=0.0)
    best = outputs(policy).argmax(axis=1)
    np.testing.assert_array_equal(policy.sample(STATES, np.random.default_rng(0)), best)
    np.testing.assert_array_equal(policy.log_prob(STATES, best), 0.0)
    assert np.isneginf(policy.log_prob(STATES, (best + 1) % 3)).all()


def check_sampling(policy):
    n = 30_000
    drawn = policy.sample(np.broadcast_to(STATES[0], (n, 2, 2)), np.random.default_rng(0))
    expected = np.exp(policy.log_prob(STATES[[0, 0, 0]], np.arange(3)))
    np.testing.assert_allclose(expected.sum(), 1.0)
    np.testing.assert_allclose(np.bincount(drawn, minlength=3) / n, expected, atol=0.012)


@pytest.mark.parametrize("temperature", [0.5, 0.05])
def test_samples_agree_with_log_prob(temperature):
    check_sampling(make_policy(temperature=temperature))


def test_epsilon_shares_out_its_probability():
    greedy = make_policy(temperature=0.0)
    policy = EpsilonPolicy(greedy, 0.3, 3)
    best = greedy.sample(STATES, np.random.default_rng(0))
    np.testing.assert_allclose(np.exp(policy.log_prob(STATES, best)), 0.8)
    np.testing.assert_allclose(np.exp(policy.log_prob(STATES, (best + 1) % 3)), 0.1)
    check_sampling(policy)


def test_logits_of_unknown_temperature_are_not_divided():
    policy = make_policy(temperature=None)
    np.testing.assert_array_equal(policy.log_probs(STATES), make_policy(temperature=1.0).log_probs(STATES))
    assert policy.temperature is None
    assert policy.divisor == 1.0
    assert make_policy(temperature=0.3).divisor == 0.3


def test_a_file_written_before_temperatures_could_be_unknown_keeps_its_number():
    arrays = make_policy(temperature=None).arrays() | {"scales": np.array([1.0, 0.0])}
    assert discrete_policy(arrays).temperature == 1.0


@pytest.mark.parametrize("temperature", [0.5, 0.0, None])
def test_a_saved_policy_takes_identical_actions(temperature):
    policy = make_policy(temperature=temperature)
    again = discrete_policy(policy.arrays())
    assert again.temperature == temperature
    np.testing.assert_array_equal(again.log_probs(STATES), policy.log_probs(STATES))
    first, second = (each.sample(STATES, np.random.default_rng(4)) for each in (policy, again))
    np.testing.assert_array_equal(first, second)


def test_a_saved_residual_policy_needs_its_prior():
    prior = make_policy(1)
    policy = make_policy(0, prior=prior, prior_scale=0.7)
    np.testing.assert_array_equal(
        discrete_policy(policy.arrays(), prior).log_probs(STATES), policy.log_probs(STATES)
    )
    with pytest.raises(ValueError, match="together with it"):
        discrete_policy(policy.arrays())


@pytest.mark.parametrize(
    "damage",
    [
        {"scales": np.array([1.0])},
        {"scales": np.array([np.inf, 0.0])},
        {"scales": np.array([0.5, np.nan])},
        {"net.1.bias": np.zeros(9)},
        {"net.1.bias": np.full(8, np.nan)},
    ],
)
def test_a_damaged_policy_is_refused(damage):
    with pytest.raises(ValueError, match=r"scales|net"):
        discrete_policy(make_policy().arrays() | damage)


@pytest.mark.parametrize(
    "arguments",
    [{"temperature": -1.0}, {"temperature": 0.0, "prior": make_policy()}, {"prior_scale": np.nan}],
)
def test_malformed_numbers_are_refused(arguments):
    with pytest.raises(ValueError, match=r"temperature|prior_scale"):
        make_policy(**arguments)


def test_a_prior_that_counts_for_nothing_may_rule_out_actions():
    greedy = make_policy(1, temperature=0.0)
    policy = make_policy(prior=greedy, prior_scale=0.0)
    np.testing.assert_array_equal(policy.log_probs(STATES), make_policy().log_probs(STATES))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_saved_policy_keeps_its_activation(activation):
    policy = DiscretePolicy(mlp([4, 8, 3], seed=0, activation=activation))
    again = discrete_policy(policy.arrays())
    np.testing.assert_array_equal(again.log_probs(STATES), policy.log_probs(STATES))


@pytest.mark.parametrize(
    "layers",
    [
        (torch.nn.Linear(4, 8), torch.nn.Softplus(), torch.nn.Linear(8, 3)),
        (torch.nn.Linear(4, 8), torch.nn.LeakyReLU(0.5), torch.nn.Linear(8, 3)),
        (torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3), torch.nn.Tanh()),
        (torch.nn.LayerNorm(4), torch.nn.Linear(4, 3)),
    ],
)
def test_a_network_that_its_arrays_do_not_tell_is_not_rebuilt_as_another(layers):
    policy = DiscretePolicy(torch.nn.Sequential(torch.nn.Flatten(), *layers))
    assert np.isfinite(policy.log_probs(STATES)).all()
    with pytest.raises(ValueError, match="was not built like"):
        discrete_policy(policy.arrays())


LOW, HIGH = np.array([-3.0, 0.0]), np.array([3.0, 0.5])


def make_squashed(temperature=None, n_inputs=4):
    return SquashedGaussianPolicy(mlp([n_inputs, 8, 4], seed=2), LOW, HIGH, temperature)


def test_standardised_actions_account_for_differences_of_log_density():
    policy = make_squashed()
    states = np.repeat(STATES[:1], 200, axis=0)
    unit = np.random.default_rng(1).uniform(-0.99, 0.99, size=(200, 2))
    action = (HIGH + LOW) / 2 + (HIGH - LOW) / 2 * unit
    z = policy.standardise(states, action)
    # log pi = -z^2 / 2 - log |d action / d latent| + a number that depends on the state alone
    rest = policy.log_prob(states, action) + (0.5 * z**2 + np.log(1 - unit**2)).sum(axis=1)
    np.testing.assert_allclose(rest - rest[0], 0.0, atol=1e-9)


def test_standardised_samples_are_standard_normal():
    policy = make_squashed()
    states = np.repeat(STATES, 2_000, axis=0)
    z = policy.standardise(states, policy.sample(states, np.random.default_rng(0)))
    for axis in range(2):
        assert kstest(z[:, axis], "norm").pvalue > 1e-3
    assert abs(np.corrcoef(z.T)[0, 1]) < 4 / np.sqrt(len(z))


@pytest.mark.parametrize("temperature", [None, 0.2])
def test_a_saved_squashed_policy_keeps_its_density_and_temperature(temperature):
    policy = make_squashed(temperature)
    again = squashed_gaussian_policy(policy.arrays())
    assert again.temperature == temperature
    assert ("temperature" in policy.arrays()) == (temperature is not None)
    action = policy.sample(STATES, np.random.default_rng(0))
    np.testing.assert_array_equal(again.log_prob(STATES, action), policy.log_prob(STATES, action))


@pytest.mark.parametrize("temperature", [0.0, -1.0, np.nan])
def test_a_squashed_policy_refuses_a_temperature_that_is_not_above_0(temperature):
    with pytest.raises(ValueError, match="temperature must be a finite number above 0"):
        make_squashed(temperature)
    with pytest.raises(ValueError, match="temperature must be a finite number above 0"):
        squashed_gaussian_policy(make_squashed().arrays() | {"temperature": np.array(temperature)})


class Module(torch.nn.Module):
    """A network of one's own, whose layers come in no particular order."""

    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh())
        self.head = torch.nn.Linear(8, 3)

    def forward(self, state):
        return self.head(self.body(state))


class Convolution(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 2), torch.nn.Flatten(), torch.nn.Linear(2, 3))

    def forward(self, state):
        return self.layers(state[:, None])


def one_hot_policy(n):
    return DiscretePolicy(torch.nn.Sequential(OneHot(n), torch.nn.Linear(n, 3)))


NUMBERS, IMAGE = Box(-np.inf, np.inf, (4,)), Box(-1, 1, (2, 2))
TORQUES = Box(np.float32(LOW), np.float32(HIGH))
UNBOUNDED = GaussianPolicy(mlp([4, 8, 2], seed=0), np.zeros(2))


@pytest.mark.parametrize(
    ("policy", "observations", "actions"),
    [
        (make_policy(), NUMBERS, Discrete(3)),
        (make_policy(), IMAGE, Discrete(3)),
        (make_policy(temperature=0.0), Box(2, 3, (4,)), Discrete(3)),
        (make_policy(prior=make_policy(), prior_scale=0.5), NUMBERS, Discrete(3)),
        (EpsilonPolicy(make_policy(), 0.1, 3), NUMBERS, Discrete(3)),
        (DiscretePolicy(Module()), NUMBERS, Discrete(3)),
        (DiscretePolicy(Convolution()), IMAGE, Discrete(3)),
        (DiscretePolicy(mlp([4, 8, 3], seed=0, scale=np.ones(4))), NUMBERS, Discrete(3)),
        (one_hot_policy(5), Discrete(5), Discrete(3)),
        (TabularPolicy(np.log(np.full((5, 3), 1 / 3))), Discrete(5), Discrete(3)),
        (UniformPolicy(Discrete(3)), NUMBERS, Discrete(3)),
        (UniformPolicy(TORQUES), NUMBERS, TORQUES),
        (make_squashed(), NUMBERS, TORQUES),
        (UNBOUNDED, NUMBERS, TORQUES),
    ],
)
def test_a_policy_that_fits_its_task_is_accepted(policy, observations, actions):
    check_fit(policy, observations, actions, "task")


WIDE = Box(-np.inf, np.inf, (5, 5))


@pytest.mark.parametrize(
    ("policy", "observations", "actions", "message"),
    [
        (
            make_policy(),
            WIDE,
            Discrete(3),
            "the policy observes 4 numbers, the task's observation is 25 numbers",
        ),
        (
            DiscretePolicy(Module()),
            WIDE,
            Discrete(3),
            "the policy observes 4 numbers, the task's observation is 25 numbers",
        ),
        (
            DiscretePolicy(Module()),
            Box(0, 1, (1,)),
            Discrete(3),
            "the policy observes 4 numbers, the task's observation is 1 number$",
        ),
        (
            DiscretePolicy(mlp([4, 8, 3], seed=0, scale=np.ones(4))),
            WIDE,
            Discrete(3),
            "the policy observes 4 numbers, the task's observation is 25 numbers",
        ),
        (
            make_squashed(),
            WIDE,
            TORQUES,
            "the policy observes 4 numbers, the task's observation is 25 numbers",
        ),
        (UNBOUNDED, WIDE, TORQUES, "the policy observes 4 numbers, the task's observation is 25 numbers"),
        (
            DiscretePolicy(Module()),
            IMAGE,
            Discrete(3),
            "this policy fails on what the task shows, 4 numbers: RuntimeError: mat1",
        ),
        (
            DiscretePolicy(Convolution()),
            NUMBERS,
            Discrete(3),
            "this policy fails on what the task shows, 4 numbers: ",
        ),
        (
            make_policy(),
            Discrete(5),
            Discrete(3),
            "the policy observes 4 numbers, the task's observation is one of 5 states",
        ),
        (
            one_hot_policy(5),
            NUMBERS,
            Discrete(3),
            "the policy observes one of 5 states, the task's observation is 4 numbers",
        ),
        (
            one_hot_policy(5),
            Discrete(7),
            Discrete(3),
            "the policy observes one of 5 states, the task's observation is one of 7 states",
        ),
        (make_policy(), NUMBERS, Discrete(5), "this policy has 3 actions, the task has 5 actions"),
        (make_policy(), NUMBERS, Discrete(1), "this policy has 3 actions, the task has 1 action$"),
        (
            make_policy(),
            NUMBERS,
            TORQUES,
            "this policy has 3 actions, the task has continuous actions of 2 numbers",
        ),
        (
            EpsilonPolicy(make_policy(), 0.1, 3),
            NUMBERS,
            Discrete(5),
            "this policy fails on what the task shows",
        ),
        (
            EpsilonPolicy(make_policy(), 0.1, 3),
            NUMBERS,
            TORQUES,
            "this policy has discrete actions, the task has continuous actions",
        ),
        (
            make_squashed(),
            NUMBERS,
            Box(-1, 1, (3,)),
            "this policy has continuous actions of 2 numbers, the task has continuous actions of 3 numbers",
        ),
        (
            make_squashed(),
            NUMBERS,
            Discrete(2),
            "this policy has continuous actions of 2 numbers, the task has 2 actions",
        ),
        (
            UNBOUNDED,
            NUMBERS,
            Box(-1, 1, (1,)),
            "this policy has continuous actions of 2 numbers, the task has continuous actions of 1 number$",
        ),
        (
            make_squashed(),
            NUMBERS,
            Box(-1, 1, (2,)),
            "this policy's actions lie between .*, the task's between",
        ),
        (
            make_policy(prior=DiscretePolicy(mlp([6, 3], seed=0)), prior_scale=0.5),
            NUMBERS,
            Discrete(3),
            "the policy observes 6 numbers, the task's observation is 4 numbers",
        ),
    ],
)
def test_a_policy_that_does_not_fit_its_task_is_refused_in_plain_words(
    policy, observations, actions, message
):
    with pytest.raises(ValueError, match=f"driving: {message}"):
        check_fit(policy, observations, actions, "driving")
