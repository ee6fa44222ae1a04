"""A dynamics model fitted to rollouts, with which PPL predicts where an action would have led."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray

from deep.cloning import CloningConfig, descend
from deep.heads import CategoricalHead, GaussianHead
from deep.nets import evaluate, mlp, to_tensor
from mereq_min.validation import Array

STEP_FIT = CloningConfig(batch_size=256, updates=3_000, hidden=(128, 128))
"""Budget of the fit of a step model."""
STEP_ENVS, STEPS_EACH = 32, 40
"""Size of each of the two rollouts, of the prior and of random actions, to which one is fitted:
environments, and steps of each."""


class DynamicsModel:
    """Dynamics model: a network that predicts the change of the state from a state and an action.

    On Highway, from 200 states of the prior, with an action held for three steps: it explains 0.66, 0.70 and
    0.61 of the squared change of all scaled entries, and 0.98 of that of the ego's y. It does not predict
    crashes.

    Args:
        state: (N, ...) states.
        action: (N, ...) actions taken in them.
        next_state: (N, ...) states after the steps.
        space: space of the actions.
        input_scale: (n,) factors of the states' entries, None for none.
        seed: seed of the initial weights and the batches.
    """

    def __init__(
        self,
        state: NDArray[Any],
        action: NDArray[Any],
        next_state: NDArray[Any],
        space: spaces.Discrete | spaces.Box,
        input_scale: Array | None = None,
        seed: int = 0,
    ) -> None:
        self.space = space
        flat = state.reshape(len(state), -1)
        step = (next_state - state).reshape(flat.shape)
        self.change_sd = np.maximum(step.std(axis=0), 1e-6)  # the network predicts changes in this unit
        codes = self._encode(action)
        scale = np.ones(flat.shape[1]) if input_scale is None else input_scale
        sizes = [flat.shape[1] + codes.shape[1], *STEP_FIT.hidden, flat.shape[1]]
        self.net = mlp(sizes, seed, np.append(scale, np.ones(codes.shape[1])))
        x, y = to_tensor(np.concatenate([flat, codes], axis=1)), to_tensor(step / self.change_sd)

        def loss(batch: torch.Tensor) -> torch.Tensor:
            return (self.net(x[batch]) - y[batch]).square().mean()

        rng = np.random.default_rng(seed)
        descend(list(self.net.parameters()), loss, np.ones(len(flat)), rng, STEP_FIT, pull=0.0)

    def __call__(self, state: NDArray[Any], action: NDArray[Any], n_steps: int) -> NDArray[Any]:
        """Return the states (n_steps, N, ...) after 1, 2, ... steps in which actions (N, ...) are held."""
        codes, ahead = self._encode(action), [state]
        for _ in range(n_steps):
            flat = ahead[-1].reshape(len(state), -1)
            step = evaluate(self.net, np.concatenate([flat, codes], axis=1)) * self.change_sd
            ahead.append(ahead[-1] + step.reshape(state.shape))
        return np.stack(ahead)[1:]

    def _encode(self, action: NDArray[Any]) -> Array:
        """Return actions (N, ...) as inputs of the network: one-hot, or unit actions."""
        if isinstance(self.space, spaces.Discrete):
            return CategoricalHead(self.space).encode(action)
        return np.tanh(GaussianHead(self.space).encode(action))
