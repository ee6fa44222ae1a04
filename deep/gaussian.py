"""Squashed Gaussian policies over the actions of a bounded Box (`mereq_min.interfaces.Policy`).

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

from deep.nets import evaluate, mlp_from_arrays, mlp_to_arrays
from mereq_min.validation import Array, check_array, check_number

LOG_STD_BOUNDS = (-5.0, 2.0)
"""Bounds of the log standard deviation of a latent. The lower one keeps log-densities and their gradients at
a usable size far from the mean."""
# In float32, tanh(u) rounds to 1 from u = 9 on; an action on the bound is treated as one just inside it.
_LARGEST_UNIT_ACTION = 1.0 - 1e-7


def unsquash(unit: Array) -> Array:
    """Return the latents (N, D) of unit actions (N, D) in [-1, 1]; they are finite on the bounds too."""
    return np.arctanh(np.clip(unit, -_LARGEST_UNIT_ACTION, _LARGEST_UNIT_ACTION))


def split_head(output: Tensor) -> tuple[Tensor, Tensor]:
    """Split a network's output (N, 2 D) into mean and bounded log standard deviation, each (N, D)."""
    mean, log_std = output.chunk(2, dim=1)
    return mean, log_std.clamp(*LOG_STD_BOUNDS)


def normal_log_density(mean: Tensor, log_std: Tensor, latent: Tensor) -> Tensor:
    """Return log N(u; mean, std) of latents (N, D), summed over D: (N,)."""
    z = (latent - mean) * torch.exp(-log_std)
    return -(0.5 * z * z + log_std).sum(1) - 0.5 * math.log(2 * math.pi) * mean.shape[1]


def log_jacobian(latent: Tensor) -> Tensor:
    """Return log |d tanh(u) / du| of latents (N, D), summed over D: (N,).

    The form log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2 u)) neither cancels nor overflows at large |u|.
    """
    return 2.0 * (math.log(2.0) * latent.shape[1] - (latent + softplus(-2.0 * latent)).sum(1))


class SquashedGaussianPolicy:
    """pi(a | s): a Gaussian whose samples are squashed by tanh and scaled to the Box from `low` to `high`.

    Args:
        net: maps states (N, ...) to (N, 2 D), means and log standard deviations of the latents; the latter
            are clipped to `LOG_STD_BOUNDS`.
        low: (D,) lower bounds of the actions.
        high: (D,) upper bounds.
        temperature: alpha of the reward for which the policy was trained, None if unknown [reward].

    Raises:
        ValueError: if the bounds are not finite and in order, or the temperature is not above 0.
    """

    def __init__(
        self, net: nn.Module, low: NDArray[Any], high: NDArray[Any], temperature: float | None = None
    ) -> None:
        if temperature is not None:
            check_number("temperature", temperature, 0, exclusive=True)
        self.net, self.temperature = net, temperature
        self.low = check_array("low", low, ndim=1)
        self.high = check_array("high", high, shape=self.low.shape)
        if not (self.low < self.high).all():
            raise ValueError(f"high must lie above low, got low {self.low} and high {self.high}")
        self.centre, self.half_width = (self.high + self.low) / 2, (self.high - self.low) / 2
        self.clone_kl: float | None = None
        """KL(original || this) if this is a clone of another policy, see `cloning.squash` [nats]."""

    def log_prob(self, state: NDArray[Any], action: NDArray[Any]) -> Array:
        """Return the log-density (N,) of actions (N, D) in states (N, ...); -inf outside the Box.

        Book: eq-squashed.
        """
        unit = self._unit(action)
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

    def standardise(self, state: NDArray[Any], action: NDArray[Any]) -> Array:
        """Return how many standard deviations (N, D) actions (N, D) in the Box lie from the mean.

        The distance is that of latents: z = (u - mean(s)) / std(s) for a = centre + half_width * tanh(u). For
        actions sampled from this policy, z is standard normal.
        """
        mean, log_std = (x.double().numpy() for x in self._head(state))
        return (unsquash(self._unit(action)) - mean) * np.exp(-log_std)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return everything that `squashed_gaussian_policy` needs, to be saved."""
        temperature = {} if self.temperature is None else {"temperature": np.array(float(self.temperature))}
        return {"low": self.low, "high": self.high, **temperature, **mlp_to_arrays(self.net, "net.")}

    def _unit(self, action: NDArray[Any]) -> Array:
        """Actions (N, D) of the Box as unit actions."""
        return (np.asarray(action, dtype=np.float64) - self.centre) / self.half_width

    def _head(self, state: NDArray[Any]) -> tuple[Tensor, Tensor]:
        return split_head(torch.as_tensor(evaluate(self.net, state)))


def squashed_gaussian_policy(arrays: dict[str, NDArray[Any]]) -> SquashedGaussianPolicy:
    """Rebuild a `SquashedGaussianPolicy` from its `arrays()`.

    Raises:
        ValueError: if the arrays are not those of such a policy.
    """
    if "low" not in arrays or "high" not in arrays:
        raise ValueError(
            f"not a squashed Gaussian policy: expected low, high and net.*, got {sorted(arrays)}"
        )
    temperature = arrays.get("temperature")
    if temperature is not None and temperature.size != 1:
        raise ValueError(f"temperature must be one number, got an array of shape {temperature.shape}")
    policy = SquashedGaussianPolicy(
        mlp_from_arrays(arrays, "net."),
        arrays["low"],
        arrays["high"],
        None if temperature is None else temperature.item(),
    )
    outputs = [layer.out_features for layer in policy.net.modules() if isinstance(layer, nn.Linear)][-1]
    if outputs != 2 * len(policy.low):
        raise ValueError(f"the network must have 2 D = {2 * len(policy.low)} outputs, got {outputs}")
    return policy
