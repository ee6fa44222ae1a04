"""Behaviour cloning: weighted maximum likelihood, begun at the prior's weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import nn

from deep.gaussian import SquashedGaussianPolicy
from deep.heads import CategoricalHead, GaussianHead
from deep.nets import mlp, to_tensor
from deep.policies import DiscretePolicy
from mereq_min.interfaces import Policy
from mereq_min.steps import Steps
from mereq_min.validation import Array, check_array, check_number


@dataclass(frozen=True)
class CloningConfig:
    """Settings of behaviour cloning."""

    learning_rate: float = 1e-3
    """Step size of Adam [1]."""
    batch_size: int = 64
    """Steps of a gradient update, drawn in proportion to their weights [steps]."""
    updates: int = 300
    """Gradient updates of a fit [updates]."""
    pull: float = 0.3
    """Weight of the squared distance to the prior's weights in the loss, "L2-SP" [nats]."""
    hidden: tuple[int, ...] = (64, 64)
    """Units of the hidden layers, where the prior has no network to start from [units]."""

    def __post_init__(self) -> None:
        check_number("learning_rate", self.learning_rate, 0, above=True)
        check_number("batch_size", self.batch_size, 1, whole=True)
        check_number("updates", self.updates, 1, whole=True)
        check_number("pull", self.pull, 0)


# --- The cloner -------------------------------------------------------------------------------------------


class NeuralCloner:
    """`interfaces.Cloner` over discrete actions or a Box, a pure function of steps, weights and seed.

    Over a Box the policy is a squashed Gaussian, whose likelihood is maximised in the latents.

    Few expert steps are fitted within a few updates; then they are learnt by heart, and what the prior can do
    elsewhere is forgotten. A pull towards the prior's weights (Li et al., "Explicit Inductive Bias for
    Transfer Learning with Convolutional Networks", 2018) keeps cloning a fair baseline: on Highway with 40
    or 160 expert steps it about halves the KL from the expert, and with 640 it does no harm. Over a Box the
    likelihood is steeper, since widths collapse onto few actions: on the three Fanuc tasks with 40 expert
    steps a pull of 0.3 leaves the clone further from the expert than the prior was, and 3 to 6 serve best.

    Args:
        prior: where to start. A `DiscretePolicy` or `SquashedGaussianPolicy` that is an `mlp` alone lends its
            weights; any other policy is distilled into a network first, on the states of the steps.
        space: of the actions, Discrete(A) or a Box of shape (D,).
        config: settings.
        seed: of batches, of draws from a prior, and of the initial weights before distillation.

    Raises:
        ValueError: on another space.
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
        """Fit the executed actions of the steps with weights (N,) >= 0; without any weight, return the prior.

        Raises:
            ValueError: if the weights or actions are malformed.
        """
        weights = check_array("weights", weights, shape=(len(steps),))
        if (weights < 0).any():
            raise ValueError(f"weights must not be negative, got {weights.min()}")
        wanted = self.head.encode(steps.action)
        rng = np.random.default_rng(self.seed)
        net = self.head.start(self.prior) or self._distil(steps.state, rng)
        if weights.any():
            self._fit(net, steps.state, wanted, weights, rng, pull=self.config.pull)
        return self.head.policy(net)

    def _distil(self, state: NDArray[Any], rng: np.random.Generator) -> nn.Sequential:
        """A network that does in states (N, ...) what the prior does."""
        net = mlp([state[0].size, *self.config.hidden, self.head.n_outputs], self.seed)
        # As many draws as the fit looks at, so that none is learnt by heart.
        asked = state[rng.integers(len(state), size=self.config.updates * self.config.batch_size)]
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
        """Fit what is wanted (N, ...) in states (N, ...) with weights (N,), staying near the start."""
        parameters = list(net.parameters())
        start = [parameter.detach().clone() for parameter in parameters]
        optimiser = torch.optim.Adam(parameters, lr=self.config.learning_rate, fused=True)
        x, y = to_tensor(state), to_tensor(wanted)
        rows = rng.choice(
            len(weights), size=(self.config.updates, self.config.batch_size), p=weights / weights.sum()
        )
        for batch in torch.as_tensor(rows):
            loss = self.head.loss(net(x[batch]), y[batch])
            if pull:
                loss = loss + pull * sum(
                    (p - q).square().sum() for p, q in zip(parameters, start, strict=True)
                )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
