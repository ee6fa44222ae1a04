"""Cloning against what maximum likelihood must give, with states that tell the answer apart."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from toy import make_steps

from deep.cloning import CloningConfig, NeuralCloner
from deep.gaussian import SquashedGaussianPolicy
from deep.heads import GaussianHead
from deep.nets import mlp
from deep.policies import DiscretePolicy

A = 3
SPACE = spaces.Discrete(A)
BOX = spaces.Box(np.array([-2.0, 0.0]), np.array([2.0, 3.0]), dtype=np.float64)
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
    policy = NeuralCloner(make_prior(), SPACE, config).clone(steps, weights)
    expected = [[1 / 8, 2 / 8, 5 / 8], [0, 3 / 4, 1 / 4]]
    np.testing.assert_allclose(probabilities(policy)[:2], expected, atol=0.05)


def test_a_few_steps_move_the_policy_there_and_the_pull_spares_it_elsewhere():
    prior = make_prior()
    steps = steps_of([0] * 10, [2] * 10)
    before = probabilities(prior)
    free, pulled = (
        probabilities(NeuralCloner(prior, SPACE, CloningConfig(pull=pull)).clone(steps, np.ones(10)))
        for pull in (0.0, CloningConfig().pull)
    )
    assert before[0, 2] + 0.3 < pulled[0, 2] < free[0, 2]
    assert np.abs(pulled[1:] - before[1:]).sum() < 0.9 * np.abs(free[1:] - before[1:]).sum()


def test_a_strong_pull_keeps_the_prior():
    prior = make_prior()
    steps = steps_of([0] * 10, [2] * 10)
    policy = NeuralCloner(prior, SPACE, CloningConfig(pull=100.0)).clone(steps, np.ones(10))
    np.testing.assert_allclose(probabilities(policy), probabilities(prior), atol=0.05)


def test_without_weight_the_prior_is_returned():
    prior = make_prior(temperature=0.2)
    policy = NeuralCloner(prior, SPACE).clone(steps_of([0, 1], [0, 1]), np.zeros(2))
    np.testing.assert_allclose(policy.log_probs(STATES), prior.log_probs(STATES), atol=1e-5)


@pytest.mark.parametrize("activation", [torch.nn.Tanh, torch.nn.Softplus])
def test_cloning_starts_at_the_prior_whatever_its_activation(activation):
    """Tanh as it is; softplus, which cannot be rebuilt, by distillation."""
    prior = DiscretePolicy(mlp([4, 16, A], seed=1, activation=activation), 0.5)
    policy = NeuralCloner(prior, SPACE).clone(steps_of([0, 1, 2, 3], [0] * 4), np.zeros(4))
    np.testing.assert_allclose(probabilities(policy), probabilities(prior), atol=0.05)


def test_a_prior_without_a_network_is_distilled_on_the_states_of_the_steps():
    table = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.3, 0.3, 0.4], [0.2, 0.6, 0.2]])
    policy = NeuralCloner(Table(table), SPACE).clone(steps_of([0, 1, 2, 3], [0] * 4), np.zeros(4))
    np.testing.assert_allclose(probabilities(policy), table, atol=0.05)


def test_cloning_is_a_function_of_steps_weights_and_seed():
    steps, weights = steps_of([0, 1, 2], [0, 1, 2]), np.ones(3)
    cloner = NeuralCloner(make_prior(), SPACE, CloningConfig(batch_size=2, updates=20), seed=3)
    first, again = cloner.clone(steps, weights), cloner.clone(steps, weights)
    np.testing.assert_array_equal(first.log_probs(STATES), again.log_probs(STATES))
    other = NeuralCloner(make_prior(), SPACE, cloner.config, seed=4).clone(steps, weights)
    assert not np.array_equal(first.log_probs(STATES), other.log_probs(STATES))


@pytest.mark.parametrize("weights", [np.ones(2), np.array([1.0, -1.0, 1.0]), np.array([1.0, np.nan, 1.0])])
def test_malformed_weights_are_refused(weights):
    with pytest.raises(ValueError, match="weights must"):
        NeuralCloner(make_prior(), SPACE).clone(steps_of([0, 1, 2], [0, 1, 2]), weights)


@pytest.mark.parametrize("action", [np.array([0, 3]), np.array([-1, 0]), np.array([0.0, 1.0])])
def test_actions_that_do_not_exist_are_refused(action):
    with pytest.raises(ValueError, match="action must hold integers from 0 to 2"):
        NeuralCloner(make_prior(), SPACE).clone(steps_of([0, 1], action), np.ones(2))


# --- Over a Box ------------------------------------------------------------------------------------------


def gaussian_prior(low=BOX.low, high=BOX.high, activation=torch.nn.ReLU):
    return SquashedGaussianPolicy(mlp([4, 16, 4], seed=1, activation=activation), low, high)


def squash(latent):
    return (BOX.high + BOX.low) / 2 + (BOX.high - BOX.low) / 2 * np.tanh(latent)


def head_of(policy):
    """Means and log standard deviations (4, 2) in the four states."""
    with torch.no_grad():
        return np.split(policy.net(torch.as_tensor(STATES)).double().numpy(), 2, axis=1)


def spread(rng, n, mean, std):
    """Steps in state 0 whose latents (n, 2) are drawn, and the latents."""
    latent = rng.normal(mean, std, size=(n, 2))
    return steps_of([0] * n, squash(latent)), latent


def test_over_a_box_the_fit_is_the_maximum_likelihood_of_the_latents():
    """Closed form: the weighted mean and standard deviation of arctanh of the unit actions."""
    rng = np.random.default_rng(0)
    steps, latent = spread(rng, 200, (1.2, -0.7), (0.3, 0.6))
    weights = rng.uniform(0, 2, size=200)
    config = CloningConfig(updates=1_500, batch_size=256, learning_rate=3e-3, pull=0.0)
    policy = NeuralCloner(gaussian_prior(), BOX, config).clone(steps, weights)
    mean = np.average(latent, axis=0, weights=weights)
    std = np.sqrt(np.average((latent - mean) ** 2, axis=0, weights=weights))
    fitted_mean, fitted_log_std = head_of(policy)
    np.testing.assert_allclose(fitted_mean[0], mean, atol=0.05)
    np.testing.assert_allclose(np.exp(fitted_log_std[0]), std, rtol=0.08)
    # No other squashed Gaussian makes the steps likelier than the closed form does: the fit is near it.
    best = -np.log(std).sum() - 1 - np.log(2 * np.pi)
    log_jacobian = np.log(1 - np.tanh(latent) ** 2).sum(axis=1) + np.log((BOX.high - BOX.low) / 2).sum()
    likelihood = np.average(policy.log_prob(steps.state, steps.action) + log_jacobian, weights=weights)
    assert best - 0.02 < likelihood <= best + 1e-6


@pytest.mark.parametrize("space", [SPACE, BOX])
def test_weights_count_how_often_a_step_is_there(space):
    """Weights 0, 1 and 2 are the same as leaving a step out, keeping it and repeating it."""
    rng, weights = np.random.default_rng(0), np.array([2, 0, 1, 2, 0, 1])
    state = np.arange(6) % 4
    action = rng.integers(A, size=6) if space is SPACE else rng.uniform(BOX.low, BOX.high, size=(6, 2))
    prior = make_prior() if space is SPACE else gaussian_prior()
    cloner = NeuralCloner(prior, space, CloningConfig(updates=50))
    weighted = cloner.clone(steps_of(state, action), weights.astype(float))
    rows = np.repeat(np.arange(6), weights)
    repeated = cloner.clone(steps_of(state[rows], action[rows]), np.ones(len(rows)))
    for ours, theirs in zip(weighted.net.parameters(), repeated.net.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    unweighted = cloner.clone(steps_of(state, action), np.ones(6))
    assert not torch.allclose(next(unweighted.net.parameters()), next(weighted.net.parameters()), atol=1e-4)


def test_over_a_box_without_weight_the_prior_is_returned():
    prior = gaussian_prior()
    steps = steps_of([0, 1], BOX.low + np.ones((2, 2)))
    policy = NeuralCloner(prior, BOX).clone(steps, np.zeros(2))
    action = np.random.default_rng(0).uniform(BOX.low, BOX.high, size=(4, 2))
    np.testing.assert_array_equal(policy.log_prob(STATES, action), prior.log_prob(STATES, action))


def test_a_pull_keeps_the_gaussian_prior_elsewhere():
    prior = gaussian_prior()
    steps, _ = spread(np.random.default_rng(0), 20, (1.5, -1.0), 0.3)
    before = np.hstack(head_of(prior))
    shifts = []
    for pull in (0.0, 3.0, 100.0):
        policy = NeuralCloner(prior, BOX, CloningConfig(pull=pull)).clone(steps, np.ones(20))
        shifts.append(np.abs(np.hstack(head_of(policy)) - before))
    free, pulled, held = shifts
    assert free[0].max() > pulled[0].max() > 0.3
    assert pulled[1:].sum() < 0.8 * free[1:].sum()
    assert held.max() < 0.1


class SharpBeta:
    """A prior over a Box without a network: unit actions 2 Beta(5, 2) - 1, mirrored in even states."""

    def sample(self, state, rng):
        unit = 2 * rng.beta(5, 2, size=(len(state), 2)) - 1
        sign = np.where(state.argmax(axis=1) % 2 == 1, 1, -1)[:, None]
        return (BOX.high + BOX.low) / 2 + (BOX.high - BOX.low) / 2 * sign * unit


@pytest.mark.parametrize("other", ["no network", "another Box", "no activation known"])
def test_any_other_prior_over_a_box_is_distilled_to_the_moments_of_its_latents(other):
    prior = {
        "no network": SharpBeta(),
        "another Box": gaussian_prior(low=BOX.low / 2, high=BOX.high / 2),
        "no activation known": gaussian_prior(activation=torch.nn.Softplus),
    }[other]
    policy = NeuralCloner(prior, BOX).clone(steps_of([0, 1, 2, 3], [[0.0, 1.0]] * 4), np.zeros(4))
    rng = np.random.default_rng(1)
    mean, log_std = head_of(policy)
    for i, state in enumerate(STATES):
        unit = (prior.sample(np.tile(state, (20_000, 1)), rng) - BOX.low) / (BOX.high - BOX.low) * 2 - 1
        latent = np.arctanh(np.clip(unit, -1 + 1e-7, 1 - 1e-7))
        np.testing.assert_allclose(mean[i], latent.mean(axis=0), atol=0.1)
        np.testing.assert_allclose(np.exp(log_std[i]), latent.std(axis=0), rtol=0.15)


def test_actions_on_the_bounds_have_finite_losses_and_gradients():
    for dtype in (np.float32, np.float64):  # a bound that is rounded may lie outside the Box
        space = spaces.Box(-0.4, 0.4, (2,), dtype)
        head = GaussianHead(space)
        wanted = torch.as_tensor(head.encode(np.array([[-0.4, 0.4], [0.0, 0.4]])), dtype=torch.float32)
        output = torch.tensor([[0.0, 0.0, -20.0, 20.0]] * 2, requires_grad=True)  # beyond the widths' bounds
        loss = head.loss(output, wanted)
        loss.backward()
        assert loss.isfinite() and output.grad.isfinite().all()
        assert output.grad.abs().sum() > 0
    on_bounds = steps_of([0] * 8, np.array([BOX.low, BOX.high] * 4))
    policy = NeuralCloner(gaussian_prior(), BOX).clone(on_bounds, np.ones(8))
    assert np.isfinite(policy.log_prob(on_bounds.state, on_bounds.action)).all()
    assert all(parameter.isfinite().all() for parameter in policy.net.parameters())


def test_over_a_box_cloning_is_a_function_of_steps_weights_and_seed():
    steps, _ = spread(np.random.default_rng(0), 3, 0.0, 1.0)
    config = CloningConfig(batch_size=2, updates=20)
    for prior in (gaussian_prior(), SharpBeta()):
        first, again, other = (
            np.hstack(head_of(NeuralCloner(prior, BOX, config, seed=seed).clone(steps, np.ones(3))))
            for seed in (3, 3, 4)
        )
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)


@pytest.mark.parametrize("action", [np.zeros(2), np.zeros((2, 3)), np.array([[0.0, np.nan], [0.0, 1.0]])])
def test_malformed_actions_of_a_box_are_refused(action):
    with pytest.raises(ValueError, match="action must"):
        NeuralCloner(gaussian_prior(), BOX).clone(steps_of([0, 1], action), np.ones(2))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Discrete(3, start=1), "counted from 0"),
        (spaces.MultiBinary(2), "Discrete, counted from 0, or a Box"),
        (spaces.Box(-1.0, 1.0, (2, 2)), "must be vectors"),
    ],
)
def test_other_spaces_are_refused(space, message):
    with pytest.raises(ValueError, match=message):
        NeuralCloner(make_prior(), space)
