"""Behaviour cloning over discrete actions: weighted maximum likelihood, begun at the prior's weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

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


def cloning_loss(net: nn.Module, state: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Mean over states (N, ...) of the cross-entropy from wanted probabilities (N, A) to the network's."""
    return -(wanted * torch.log_softmax(net(state), dim=1)).sum(dim=1).mean()


class NeuralCloner:
    """`interfaces.Cloner` over A actions, a pure function of steps, weights and seed.

    Few expert steps are fitted within a few updates; then they are learnt by heart, and what the prior can do
    elsewhere is forgotten. A pull towards the prior's weights (Li et al., "Explicit Inductive Bias for
    Transfer Learning with Convolutional Networks", 2018) keeps cloning a fair baseline: on Highway with 40
    or 160 expert steps it about halves the KL from the expert, and with 640 it does no harm.

    Args:
        prior: where to start. A `DiscretePolicy` that is an `mlp` alone lends its weights; any other policy
            is distilled into a network first, on the states of the steps.
        n_actions: A.
        config: settings.
        seed: of batches, and of the initial weights before distillation.
    """

    def __init__(
        self, prior: Policy, n_actions: int, config: CloningConfig | None = None, *, seed: int = 0
    ) -> None:
        self.prior, self.n_actions = prior, n_actions
        self.config, self.seed = config or CloningConfig(), seed

    def clone(self, steps: Steps, weights: Array) -> DiscretePolicy:
        """Fit the executed actions of the steps with weights (N,) >= 0; without any weight, return the prior.

        Raises:
            ValueError: if the weights are malformed.
        """
        weights = check_array("weights", weights, shape=(len(steps),))
        if (weights < 0).any():
            raise ValueError(f"weights must not be negative, got {weights.min()}")
        rng = np.random.default_rng(self.seed)
        net = self._start(steps, rng)
        if weights.any():
            actions = np.eye(self.n_actions)[steps.action]
            self._fit(net, steps.state, actions, weights, rng, pull=self.config.pull)
        return DiscretePolicy(net)

    def _start(self, steps: Steps, rng: np.random.Generator) -> nn.Sequential:
        """A network whose softmax is the prior."""
        prior = self.prior
        if (
            isinstance(prior, DiscretePolicy)
            and prior.prior is None
            and prior.temperature > 0
            and find_activation(prior.net) >= 0
        ):
            arrays = mlp_to_arrays(prior.net)
            for name in list(arrays)[-2:]:  # the last layer gives logits at temperature 1
                arrays[name] = arrays[name] / prior.temperature
            return mlp_from_arrays(arrays)
        net = mlp([steps.state[0].size, *self.config.hidden, self.n_actions], self.seed)
        wanted = np.exp(all_log_probs(prior, steps.state, self.n_actions))
        self._fit(net, steps.state, wanted, np.ones(len(steps)), rng, pull=0.0)
        return net

    def _fit(
        self,
        net: nn.Sequential,
        states: np.ndarray,
        wanted: np.ndarray,
        weights: Array,
        rng: np.random.Generator,
        *,
        pull: float,
    ) -> None:
        """Fit wanted probabilities (N, A) in states (N, ...) with weights (N,), staying near the start."""
        parameters = list(net.parameters())
        start = [parameter.detach().clone() for parameter in parameters]
        optimiser = torch.optim.Adam(parameters, lr=self.config.learning_rate, fused=True)
        x, y = to_tensor(states), to_tensor(wanted)
        rows = rng.choice(
            len(weights), size=(self.config.updates, self.config.batch_size), p=weights / weights.sum()
        )
        for batch in torch.as_tensor(rows):
            loss = cloning_loss(net, x[batch], y[batch])
            if pull:
                loss = loss + pull * sum(
                    (p - q).square().sum() for p, q in zip(parameters, start, strict=True)
                )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
