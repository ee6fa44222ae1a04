"""Behaviour cloning by weighted maximum likelihood, which starts from the prior's network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import nn

from deep.gaussian import SquashedGaussianPolicy
from deep.heads import CategoricalHead, GaussianHead
from deep.nets import check_hidden, mlp, to_tensor
from deep.policies import DiscretePolicy
from mereq_min.interfaces import Policy
from mereq_min.steps import Steps
from mereq_min.validation import Array, check_array, check_number

MAX_DRAWS = 200_000
"""Largest number of actions drawn from a policy in order to distil it [actions]."""


@dataclass(frozen=True)
class CloningConfig:
    """Settings of behaviour cloning."""

    learning_rate: float = 1e-3
    """Step size of Adam [1]."""
    batch_size: int = 64
    """Steps in a gradient update, drawn in proportion to their weights [steps]."""
    updates: int = 300
    """Gradient updates in a fit [updates]."""
    pull: float = 0.3
    """Weight in the loss of the squared distance from the prior's network weights ("L2-SP") [nats]."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers, if the prior has no network to start from [units]."""

    def __post_init__(self) -> None:
        check_number("learning_rate", self.learning_rate, 0, exclusive=True)
        check_hidden(self.hidden)
        check_number("batch_size", self.batch_size, 1, integer=True)
        check_number("updates", self.updates, 1, integer=True)
        check_number("pull", self.pull, 0)


# --- The cloner -------------------------------------------------------------------------------------------


def check_weights(steps: Steps, weights: Array) -> Array:
    """Return weights (N,) as float64; raise ValueError unless there is one >= 0 for each step."""
    weights = check_array("weights", weights, shape=(len(steps),))
    if (weights < 0).any():
        raise ValueError(f"weights must not be negative, got {weights.min()}")
    return weights


class NeuralCloner:
    """Clones expert steps into a network, over discrete actions or a Box (`interfaces.Cloner`).

    The result depends on the steps, their weights and the seed alone. Over a Box the policy is a squashed
    Gaussian, whose likelihood is maximised in the latents.

    A handful of expert steps is fitted within a few updates; after that the network overfits them and forgets
    what the prior could do elsewhere. A pull towards the prior's weights (Li et al., "Explicit Inductive Bias
    for Transfer Learning with Convolutional Networks", 2018) keeps cloning a fair baseline: on Highway with
    40 or 160 expert steps it about halves the KL from the expert, and with 640 it does no harm. Over a Box
    the likelihood is steeper, because standard deviations collapse onto few actions: on the three Fanuc tasks
    with 40 expert steps, a pull of 0.3 leaves the clone further from the expert than the prior was, and pulls
    of 3 to 6 work best.

    Args:
        prior: policy to start from. If it is a `DiscretePolicy` or `SquashedGaussianPolicy` of one `mlp`, its
            weights are copied; any other policy is first distilled into a network, on the states of the
            steps.
        space: space of the actions, Discrete(A) or a Box of shape (D,).
        config: settings.
        seed: seed of batches, of draws from a prior, and of the initial weights before distillation.

    Raises:
        ValueError: if the space is neither.
    """

    def __init__(
        self,
        prior: Policy,
        space: spaces.Space[Any],
        config: CloningConfig | None = None,
        *,
        seed: int = 0,
    ) -> None:
        self.prior, self.config, self.seed = prior, config or CloningConfig(), seed
        self.head: CategoricalHead | GaussianHead
        if isinstance(space, spaces.Discrete) and space.start == 0:
            self.head = CategoricalHead(space)
        elif isinstance(space, spaces.Box):
            self.head = GaussianHead(space)
        else:
            raise ValueError(f"space must be Discrete, counted from 0, or a Box, got {space}")

    def clone(self, steps: Steps, weights: Array) -> DiscretePolicy | SquashedGaussianPolicy:
        """Return the policy fitted to the executed actions of the steps with weights (N,) >= 0.

        If all weights are 0, it is the prior's network, or a network distilled from the prior.

        Raises:
            ValueError: if the weights or actions are malformed.
        """
        weights = check_weights(steps, weights)
        wanted = self.head.encode(steps.action)
        rng = np.random.default_rng(self.seed)
        net = self.start(steps.state, rng)
        if weights.any():
            self._fit(net, steps.state, wanted, weights, rng, pull=self.config.pull)
        return self.head.policy(net)

    def start(self, state: NDArray[Any], rng: np.random.Generator) -> nn.Sequential:
        """Return a copy of the prior's network or, if it has none that fits, one that acts likewise."""
        return self.head.start(self.prior) or self.distil(state, rng)

    def distil(
        self, state: NDArray[Any], rng: np.random.Generator, scale: Array | None = None
    ) -> nn.Sequential:
        """Return a network fitted to act as the prior does in states (N, ...); for `scale` see `nets.mlp`."""
        net = mlp([state[0].size, *self.config.hidden, self.head.n_outputs], self.seed, scale)
        # The fit sees each draw about once, so that it cannot memorise them.
        n_draws = min(self.config.updates * self.config.batch_size, MAX_DRAWS)
        asked = state[rng.integers(len(state), size=n_draws)]
        wanted = self.head.ask(self.prior, asked, rng)
        self._fit(net, asked, wanted, np.ones(len(asked)), rng, pull=0.0)
        return net

    def _fit(
        self,
        net: nn.Sequential,
        state: NDArray[Any],
        wanted: Array,
        weights: Array,
        rng: np.random.Generator,
        *,
        pull: float,
    ) -> None:
        """Fit a network to targets `wanted` (N, ...) in states (N, ...) with weights (N,).

        `pull` is the weight of the squared distance from the network's initial parameters.
        """
        x, y = to_tensor(state), to_tensor(wanted)

        def loss(batch: torch.Tensor) -> torch.Tensor:
            return self.head.loss(net(x[batch]), y[batch])

        descend(list(net.parameters()), loss, weights, rng, self.config, pull)


def descend(
    parameters: list[nn.Parameter],
    loss: Callable[[torch.Tensor], torch.Tensor],
    weights: Array,
    rng: np.random.Generator,
    config: CloningConfig,
    pull: float,
) -> None:
    """Take the gradient steps of a fit.

    Args:
        parameters: what is fitted.
        loss: of a batch, given as rows (B,) of the data [nats].
        weights: (N,) weights of the data, in proportion to which batches are drawn.
        rng: draws the batches.
        config: budget of the fit.
        pull: weight of the squared distance from the initial parameters, in place of the config's [nats].
    """
    start = [parameter.detach().clone() for parameter in parameters]
    optimiser = torch.optim.Adam(parameters, lr=config.learning_rate, fused=True)
    rows = rng.choice(len(weights), size=(config.updates, config.batch_size), p=weights / weights.sum())
    for batch in torch.as_tensor(rows):
        value = loss(batch)
        if pull:
            value = value + pull * sum((p - q).square().sum() for p, q in zip(parameters, start, strict=True))
        optimiser.zero_grad()
        value.backward()
        optimiser.step()


DISTILLING = CloningConfig(batch_size=256, updates=3_000)
"""Settings for distilling a policy into a network; thorough, because all later results rest on it."""


def clone_policy(
    policy: Policy, space: spaces.Space[Any], states: NDArray[Any], scale: Array | None = None, seed: int = 0
) -> DiscretePolicy | SquashedGaussianPolicy:
    """Distil a policy into a single network.

    Args:
        policy: any policy.
        space: space of its actions, Discrete(A) or a Box of shape (D,).
        states: (N, ...) states in which the network has to act like the policy.
        scale: factors of the network's inputs, see `nets.mlp`.
        seed: seed of initial weights and draws.
    """
    cloner = NeuralCloner(policy, space, DISTILLING, seed=seed)
    return cloner.head.policy(cloner.distil(states, np.random.default_rng(seed), scale))


def squash(
    policy: Policy, space: spaces.Box, states: NDArray[Any], scale: Array | None = None
) -> SquashedGaussianPolicy:
    """Clone a policy over a Box into a squashed Gaussian.

    Unless the policy is a squashed Gaussian, its draws are first clipped to inside the Box (`Inside`).

    Args:
        policy: any policy over the Box; its actions may lie outside.
        space: the Box.
        states: (N, ...) states in which the clone has to act like the policy.
        scale: factors of the network's inputs, see `nets.mlp`.

    Returns:
        The clone; its `clone_kl` is the mean of KL(policy || clone) over the states, estimated from draws
        inside the Box [nats], and NaN if there is no such draw.
    """
    # Draws that tanh has squashed have moderate latents however near to the bounds they are.
    inside = policy if isinstance(policy, SquashedGaussianPolicy) else Inside(policy, space)
    clone = clone_policy(inside, space, states, scale)
    assert isinstance(clone, SquashedGaussianPolicy)
    clone.temperature = getattr(policy, "temperature", None)
    action = policy.sample(states, np.random.default_rng(1))
    within = ((action > space.low) & (action < space.high)).all(axis=1)
    states, action = states[within], action[within]
    gap = policy.log_prob(states, action) - clone.log_prob(states, action)
    clone.clone_kl = max(0.0, float(gap.mean())) if within.any() else float("nan")
    return clone


class Inside:
    """A policy whose actions are clipped to slightly inside a Box, where the latents are not extreme.

    Args:
        policy: any policy over the Box; its actions may lie outside.
        space: the Box.
    """

    MARGIN = 0.01
    """Distance of the clipped actions from the bounds, as a fraction of the width of the Box."""

    def __init__(self, policy: Policy, space: spaces.Box) -> None:
        width = space.high.astype(np.float64) - space.low
        self.policy, self.low, self.high = (
            policy,
            space.low + self.MARGIN * width,
            space.high - self.MARGIN * width,
        )

    def log_prob(self, state: NDArray[Any], action: NDArray[Any]) -> Array:
        """Return the log-density (N,) of the policy, which ignores the clipping."""
        return self.policy.log_prob(state, action)

    def sample(self, state: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """Draw clipped actions (N, D) in states (N, ...)."""
        return np.clip(self.policy.sample(state, rng), self.low, self.high)
