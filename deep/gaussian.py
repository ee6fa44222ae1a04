"""Squashed Gaussians: distributions over the actions of a Box, behind `mereq_min.interfaces.Policy`.

A latent u ~ N(mean(s), std(s)) becomes the unit action y = tanh(u) in [-1, 1]^D and the action
centre + half_width * y in the Box (Haarnoja et al. 2018, appendix C).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import softplus

from deep.nets import mlp_from_arrays, mlp_to_arrays, to_tensor
from mereq_min.validation import Array, check_array

# A floor on the width keeps the density of a prior finite, and its gradient usable, far from its mean.
LOG_STD_BOUNDS = (-5.0, 2.0)
# tanh reaches 1 in single precision at about 9; an action on the bound is read as one just inside it.
_LARGEST_UNIT_ACTION = 1.0 - 1e-7


def unsquash(unit: Array) -> Array:
    """Latents (N, D) of unit actions (N, D) in [-1, 1], finite on the bounds too."""
    return np.arctanh(np.clip(unit, -_LARGEST_UNIT_ACTION, _LARGEST_UNIT_ACTION))


def split_head(output: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and bounded log standard deviation, each (N, D), from a network's output (N, 2 D)."""
    mean, log_std = output.chunk(2, dim=1)
    return mean, log_std.clamp(*LOG_STD_BOUNDS)


def normal_log_density(mean: Tensor, log_std: Tensor, latent: Tensor) -> Tensor:
    """log N(u; mean, std) of latents (N, D), summed over D: (N,)."""
    z = (latent - mean) * torch.exp(-log_std)
    return -(0.5 * z * z + log_std).sum(1) - 0.5 * math.log(2 * math.pi) * mean.shape[1]


def log_jacobian(latent: Tensor) -> Tensor:
    """log |d tanh(u) / du| of latents (N, D), summed over D: (N,).

    log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2 u)) neither cancels nor overflows at large |u|.
    """
    return 2.0 * (math.log(2.0) * latent.shape[1] - (latent + softplus(-2.0 * latent)).sum(1))


class SquashedGaussianPolicy:
    """pi(a | s): a Gaussian whose draws are squashed by tanh and stretched to the Box from `low` to `high`.

    Args:
        net: states (N, ...) to (N, 2 D), means and log standard deviations of the latents.
        low: (D,) lower bounds of the actions.
        high: (D,) upper bounds.

    Raises:
        ValueError: if the bounds are not finite and in order.
    """

    def __init__(self, net: nn.Module, low: NDArray[Any], high: NDArray[Any]) -> None:
        self.net = net
        self.low = check_array("low", low, ndim=1)
        self.high = check_array("high", high, shape=self.low.shape)
        if not (self.low < self.high).all():
            raise ValueError(f"high must lie above low, got low {self.low} and high {self.high}")
        self.centre, self.half_width = (self.high + self.low) / 2, (self.high - self.low) / 2

    def log_prob(self, state: NDArray[Any], action: NDArray[Any]) -> Array:
        """Log-density (N,) of actions (N, D) in states (N, ...); -inf outside the Box.

        Book: eq-squashed.
        """
        action = np.asarray(action, dtype=np.float64)
        unit = (action - self.centre) / self.half_width
        latent = torch.as_tensor(unsquash(unit))
        mean, log_std = (x.double() for x in self._head(state))
        density = (normal_log_density(mean, log_std, latent) - log_jacobian(latent)).numpy()
        # A float32 bound may round to just outside the float64 one.
        outside = (np.abs(unit) > 1.0 + 1e-6).any(axis=1)
        return np.where(outside, -np.inf, density - np.log(self.half_width).sum())

    def sample(self, state: NDArray[Any], rng: np.random.Generator) -> NDArray[np.float32]:
        """Draw actions (N, D) in states (N, ...)."""
        mean, log_std = (x.numpy() for x in self._head(state))
        latent = mean + np.exp(log_std) * rng.standard_normal(mean.shape)
        return (self.centre + self.half_width * np.tanh(latent)).astype(np.float32)

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything, to be saved."""
        return {"low": self.low, "high": self.high, **mlp_to_arrays(self.net, "net.")}

    def _head(self, state: NDArray[Any]) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return split_head(self.net(to_tensor(state)))


def squashed_gaussian_policy(arrays: dict[str, NDArray[Any]]) -> SquashedGaussianPolicy:
    """Rebuild a `SquashedGaussianPolicy` from its `state()`.

    Raises:
        ValueError: if the arrays are not those of such a policy.
    """
    if "low" not in arrays or "high" not in arrays:
        raise ValueError(f"no squashed Gaussian policy: expected low, high and net.*, got {sorted(arrays)}")
    policy = SquashedGaussianPolicy(mlp_from_arrays(arrays, "net."), arrays["low"], arrays["high"])
    outputs = [layer.out_features for layer in policy.net.modules() if isinstance(layer, nn.Linear)][-1]
    if outputs != 2 * len(policy.low):
        raise ValueError(f"the network must have 2 D = {2 * len(policy.low)} outputs, got {outputs}")
    return policy
