import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from deep.nets import ACTIVATIONS, mlp
from deep.policies import DiscretePolicy, EpsilonPolicy, all_log_probs, discrete_policy

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


@pytest.mark.parametrize("temperature", [0.5, 0.0])
def test_a_saved_policy_takes_identical_actions(temperature):
    policy = make_policy(temperature=temperature)
    again = discrete_policy(policy.state())
    np.testing.assert_array_equal(again.log_probs(STATES), policy.log_probs(STATES))
    first, second = (each.sample(STATES, np.random.default_rng(4)) for each in (policy, again))
    np.testing.assert_array_equal(first, second)


def test_a_saved_residual_policy_needs_its_prior():
    prior = make_policy(1)
    policy = make_policy(0, prior=prior, prior_scale=0.7)
    np.testing.assert_array_equal(
        discrete_policy(policy.state(), prior).log_probs(STATES), policy.log_probs(STATES)
    )
    with pytest.raises(ValueError, match="together with it"):
        discrete_policy(policy.state())


@pytest.mark.parametrize(
    "damage",
    [
        {"scales": np.array([1.0])},
        {"scales": np.array([np.nan, 0.0])},
        {"net.1.bias": np.zeros(9)},
        {"net.1.bias": np.full(8, np.nan)},
    ],
)
def test_a_damaged_policy_is_refused(damage):
    with pytest.raises(ValueError, match=r"scales|net"):
        discrete_policy(make_policy().state() | damage)


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
    again = discrete_policy(policy.state())
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
        discrete_policy(policy.state())
