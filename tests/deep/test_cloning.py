"""Cloning against what maximum likelihood must give, with states that tell the answer apart."""

import numpy as np
import pytest
import torch
from toy import make_steps

from deep.cloning import CloningConfig, NeuralCloner
from deep.nets import mlp
from deep.policies import DiscretePolicy

A = 3
STATES = np.eye(4, dtype=np.float32)


class Table:
    """A prior without a network: log pi(a | s) by the number of the state."""

    def __init__(self, policy):
        self.log_policy = np.log(policy)

    def log_prob(self, state, action):
        return self.log_policy[state.argmax(axis=1), action]


def make_prior(temperature=0.5):
    return DiscretePolicy(mlp([4, 16, A], seed=1), temperature)


def steps_of(state, action):
    return make_steps(np.zeros((len(state), 1)), state=STATES[state], action=np.asarray(action))


def probabilities(policy):
    return np.exp(policy.log_probs(STATES))


def test_the_fit_is_the_share_of_weight_of_each_action():
    steps = steps_of([0, 0, 0, 1, 1], [0, 1, 2, 1, 2])
    weights = np.array([1.0, 2.0, 5.0, 3.0, 1.0])
    config = CloningConfig(updates=1_000, batch_size=256, pull=0.0)
    policy = NeuralCloner(make_prior(), A, config).clone(steps, weights)
    expected = [[1 / 8, 2 / 8, 5 / 8], [0, 3 / 4, 1 / 4]]
    np.testing.assert_allclose(probabilities(policy)[:2], expected, atol=0.05)


def test_a_few_steps_move_the_policy_there_and_the_pull_spares_it_elsewhere():
    prior = make_prior()
    steps = steps_of([0] * 10, [2] * 10)
    before = probabilities(prior)
    free, pulled = (
        probabilities(NeuralCloner(prior, A, CloningConfig(pull=pull)).clone(steps, np.ones(10)))
        for pull in (0.0, CloningConfig().pull)
    )
    assert before[0, 2] + 0.3 < pulled[0, 2] < free[0, 2]
    assert np.abs(pulled[1:] - before[1:]).sum() < 0.9 * np.abs(free[1:] - before[1:]).sum()


def test_a_strong_pull_keeps_the_prior():
    prior = make_prior()
    steps = steps_of([0] * 10, [2] * 10)
    policy = NeuralCloner(prior, A, CloningConfig(pull=100.0)).clone(steps, np.ones(10))
    np.testing.assert_allclose(probabilities(policy), probabilities(prior), atol=0.05)


def test_without_weight_the_prior_is_returned():
    prior = make_prior(temperature=0.2)
    policy = NeuralCloner(prior, A).clone(steps_of([0, 1], [0, 1]), np.zeros(2))
    np.testing.assert_allclose(policy.log_probs(STATES), prior.log_probs(STATES), atol=1e-5)


@pytest.mark.parametrize("activation", [torch.nn.Tanh, torch.nn.Softplus])
def test_cloning_starts_at_the_prior_whatever_its_activation(activation):
    """Tanh as it is; softplus, which cannot be rebuilt, by distillation."""
    prior = DiscretePolicy(mlp([4, 16, A], seed=1, activation=activation), 0.5)
    policy = NeuralCloner(prior, A).clone(steps_of([0, 1, 2, 3], [0] * 4), np.zeros(4))
    np.testing.assert_allclose(probabilities(policy), probabilities(prior), atol=0.05)


def test_a_prior_without_a_network_is_distilled_on_the_states_of_the_steps():
    table = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.3, 0.3, 0.4], [0.2, 0.6, 0.2]])
    policy = NeuralCloner(Table(table), A).clone(steps_of([0, 1, 2, 3], [0] * 4), np.zeros(4))
    np.testing.assert_allclose(probabilities(policy), table, atol=0.05)


def test_cloning_is_a_function_of_steps_weights_and_seed():
    steps, weights = steps_of([0, 1, 2], [0, 1, 2]), np.ones(3)
    cloner = NeuralCloner(make_prior(), A, CloningConfig(batch_size=2, updates=20), seed=3)
    first, again = cloner.clone(steps, weights), cloner.clone(steps, weights)
    np.testing.assert_array_equal(first.log_probs(STATES), again.log_probs(STATES))
    other = NeuralCloner(make_prior(), A, cloner.config, seed=4).clone(steps, weights)
    assert not np.array_equal(first.log_probs(STATES), other.log_probs(STATES))


@pytest.mark.parametrize("weights", [np.ones(2), np.array([1.0, -1.0, 1.0]), np.array([1.0, np.nan, 1.0])])
def test_malformed_weights_are_refused(weights):
    with pytest.raises(ValueError, match="weights must"):
        NeuralCloner(make_prior(), A).clone(steps_of([0, 1, 2], [0, 1, 2]), weights)
