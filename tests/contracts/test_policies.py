"""The contract of every kind of policy; those of the tasks are checked with the tasks."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch import nn

from deep.gaussian import SquashedGaussianPolicy
from deep.nets import mlp
from deep.policies import DiscretePolicy, EpsilonPolicy
from deep.stable_baselines import GaussianPolicy
from mereq_min import TabularPolicy
from mereq_min.lab.conformance.policy import check_policy

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(30, 5, 5)).astype(np.float32)
VECTORS = RNG.normal(size=(30, 3)).astype(np.float32)
INDICES = np.arange(6)


class Convolution(nn.Module):
    """A torch module as anybody might have trained it: images (N, 5, 5) to logits (N, 4)."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.convolution, self.head = nn.Conv2d(1, 2, 3), nn.Linear(18, 4)

    def forward(self, images):
        return self.head(torch.relu(self.convolution(images[:, None])).flatten(1))


class Uniform:
    """Nothing but log_prob and sample."""

    def log_prob(self, state, action):
        return np.full(len(state), -np.log(4))

    def sample(self, state, rng):
        return rng.integers(4, size=len(state))


def tabular():
    """A table in which some actions are never taken."""
    probabilities = np.array([[0.2, 0.8, 0.0], [1.0, 0.0, 0.0], [0.3, 0.3, 0.4]]).repeat(2, axis=0)
    with np.errstate(divide="ignore"):
        return TabularPolicy(np.log(probabilities))


POLICIES = {
    "table": (tabular(), INDICES, Discrete(3)),
    "any object": (Uniform(), IMAGES, Discrete(4)),
    "any torch module": (DiscretePolicy(Convolution(), temperature=0.2), IMAGES, Discrete(4)),
    "greedy": (DiscretePolicy(mlp([25, 8, 4], seed=1), temperature=0.0), IMAGES, Discrete(4)),
    "greedy at times": (
        EpsilonPolicy(DiscretePolicy(Convolution(), temperature=0.0), 0.1, 4),
        IMAGES,
        Discrete(4),
    ),
    "on a prior": (
        DiscretePolicy(mlp([25, 8, 4], seed=1), 0.5, prior=DiscretePolicy(Convolution()), prior_scale=0.7),
        IMAGES,
        Discrete(4),
    ),
    "squashed": (
        SquashedGaussianPolicy(mlp([3, 8, 4], seed=2), np.array([-3.0, 0.0]), np.array([3.0, 0.5])),
        VECTORS,
        Box(np.float32([-3, 0]), np.float32([3, 0.5])),
    ),
    "Gaussian": (
        GaussianPolicy(mlp([3, 8, 2], seed=3), np.array([-1.0, 0.3])),
        VECTORS,
        Box(-np.inf, np.inf, (2,)),
    ),
}


@pytest.mark.parametrize(("policy", "states", "space"), POLICIES.values(), ids=POLICIES)
def test_the_policy_keeps_its_contract(policy, states, space):
    assert check_policy(policy, states, space, np.random.default_rng(1)) == []


def squashed(n_inputs, n_actions):
    """A squashed Gaussian over the unit box."""
    bounds = np.ones(n_actions)
    return SquashedGaussianPolicy(mlp([n_inputs, 8, 2 * n_actions], seed=2), -bounds, bounds)


UNIT_BOX = Box(-1, 1, (2,))
MISFITS = {
    "observations": (
        DiscretePolicy(mlp([4, 8, 4], seed=1)),
        IMAGES,
        Discrete(4),
        "your policy observes 4 numbers, but the task's observations have 25 (shape (5, 5)); use a policy",
    ),
    "observations, continuous": (
        squashed(7, 2),
        VECTORS,
        UNIT_BOX,
        "your policy observes 7 numbers, but the task's observations have 3",
    ),
    "images for vectors": (
        DiscretePolicy(Convolution()),
        VECTORS,
        Discrete(4),
        "your policy cannot read the task's observations of shape (3,) (3 numbers): RuntimeError: ",
    ),
    "few actions": (
        DiscretePolicy(mlp([25, 8, 3], seed=1)),
        IMAGES,
        Discrete(4),
        "your policy chooses among 3 actions, the task has 4",
    ),
    "many actions": (
        DiscretePolicy(mlp([25, 8, 7], seed=1)),
        IMAGES,
        Discrete(4),
        "your policy chooses among 7 actions, the task has 4",
    ),
    "few numbers in an action": (
        squashed(3, 1),
        VECTORS,
        UNIT_BOX,
        "your policy gives 1 number as an action, the task takes 2",
    ),
    "many numbers in an action": (
        squashed(3, 3),
        VECTORS,
        UNIT_BOX,
        "your policy gives 3 numbers as an action, the task takes 2",
    ),
}


@pytest.mark.parametrize(("policy", "states", "space", "message"), MISFITS.values(), ids=MISFITS)
def test_a_policy_for_another_task_gets_one_finding_in_plain_words(policy, states, space, message):
    (finding,) = check_policy(policy, states, space, np.random.default_rng(0))
    assert finding.startswith(message)


def test_a_torch_module_becomes_the_softmax_of_its_outputs():
    module = Convolution()
    actions = np.arange(30) % 4
    expected = torch.log_softmax(module(torch.tensor(IMAGES)) / 0.2, dim=1).detach().numpy()
    log_prob = DiscretePolicy(module, temperature=0.2).log_prob(IMAGES, actions)
    np.testing.assert_allclose(log_prob, expected[np.arange(30), actions], rtol=1e-5)


def test_a_policy_that_is_not_normalised_is_refused():
    with pytest.raises(ValueError, match="exp sums to 2"):
        TabularPolicy(np.zeros((3, 2)))
