"""Behaviour cloning: weighted maximum likelihood, begun at the prior's weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn

from deep.gaussian import SquashedGaussianPolicy, normal_log_density, split_head, unsquash
from deep.nets import find_activation, mlp, mlp_from_arrays, mlp_to_arrays, to_tensor
from deep.policies import DiscretePolicy, all_log_probs
from mereq_min.checks import Array, check_array, check_number
from mereq_min.interfaces import Policy
from mereq_min.steps import Steps


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


# --- What differs between discrete and continuous actions -------------------------------------------------


class CategoricalHead:
    """Networks that give the logits (N, A) of all actions; fitted to probabilities (N, A)."""

    def __init__(self, space: spaces.Discrete) -> None:
        self.n_actions = self.n_outputs = int(space.n)

    def encode(self, action: NDArray[Any]) -> Array:
        """Actions (N,) as probabilities (N, A)."""
        action = np.asarray(action)
        if action.dtype.kind not in "iu" or ((action < 0) | (action >= self.n_actions)).any():
            raise ValueError(f"action must hold whole numbers from 0 to {self.n_actions - 1}, got {action}")
        return np.eye(self.n_actions)[action]

    def loss(self, output: Tensor, wanted: Tensor) -> Tensor:
        """Mean cross-entropy from wanted probabilities to those of the logits."""
        return -(wanted * torch.log_softmax(output, dim=1)).sum(dim=1).mean()

    def start(self, prior: Policy) -> nn.Sequential | None:
        """A network that is the prior, if the prior is an `mlp` alone."""
        if not isinstance(prior, DiscretePolicy) or find_activation(prior.net) < 0:
            return None
        if prior.prior is not None or prior.temperature == 0:
            return None
        arrays = mlp_to_arrays(prior.net)
        for name in list(arrays)[-2:]:  # the last layer gives logits at temperature 1
            arrays[name] = arrays[name] / prior.temperature
        return mlp_from_arrays(arrays)

    def ask(self, prior: Policy, state: NDArray[Any], rng: np.random.Generator) -> Array:
        """What the prior does in states (N, ...), as probabilities (N, A)."""
        return np.exp(all_log_probs(prior, state, self.n_actions))

    def policy(self, net: nn.Sequential) -> DiscretePolicy:
        """The policy of a network."""
        return DiscretePolicy(net)


class GaussianHead:
    """Networks that give mean and log standard deviation (N, 2 D) of latents; fitted to latents (N, D)."""

    def __init__(self, space: spaces.Box) -> None:
        if len(space.shape) != 1:
            raise ValueError(f"actions must be vectors (D,), got a Box of shape {space.shape}")
        self.low, self.high = space.low.astype(np.float64), space.high.astype(np.float64)
        self.n_outputs = 2 * len(self.low)

    def encode(self, action: NDArray[Any]) -> Array:
        """Actions (N, D) as latents (N, D)."""
        action = check_array("action", action, shape=(len(action), len(self.low)))
        unit = (2 * action - self.high - self.low) / (self.high - self.low)
        return unsquash(unit)

    def loss(self, output: Tensor, wanted: Tensor) -> Tensor:
        """Mean of -log pi, up to the Jacobian of the squashing, which no weight of a network changes."""
        return -normal_log_density(*split_head(output), wanted).mean()

    def start(self, prior: Policy) -> nn.Sequential | None:
        """A network that is the prior, if the prior is an `mlp` alone and acts on the same Box."""
        if not isinstance(prior, SquashedGaussianPolicy) or find_activation(prior.net) < 0:
            return None
        # As text or in single precision, the same bounds differ in the last digits.
        is_same = prior.low.shape == self.low.shape and np.allclose(
            [prior.low, prior.high], [self.low, self.high], rtol=1e-6
        )
        return mlp_from_arrays(mlp_to_arrays(prior.net)) if is_same else None

    def ask(self, prior: Policy, state: NDArray[Any], rng: np.random.Generator) -> Array:
        """What the prior does in states (N, ...), as latents (N, D) of one draw in each."""
        return self.encode(prior.sample(state, rng))

    def policy(self, net: nn.Sequential) -> SquashedGaussianPolicy:
        """The policy of a network."""
        return SquashedGaussianPolicy(net, self.low, self.high)


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
