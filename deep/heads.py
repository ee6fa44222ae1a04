"""Actors, twin critics and cloning heads, each for discrete actions and for a Box of continuous ones."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn

from deep.bellman import Candidates, bounded_log_prior
from deep.gaussian import SquashedGaussianPolicy, log_jacobian, normal_log_density, split_head, unsquash
from deep.nets import (
    is_mlp,
    mlp,
    mlp_from_arrays,
    mlp_to_arrays,
    to_tensor,
    zero_last_layer,
)
from deep.policies import DiscretePolicy, all_log_probs, check_indices
from mereq_min.interfaces import Policy
from mereq_min.validation import Array, check_array

DRAWS = 64
"""Actions drawn in each state to estimate an expectation over a Box [actions]."""


class TwinMLP(nn.Module):
    """Two multilayer perceptrons of the same shape, evaluated together: (N, sizes[0]) -> (2, N, sizes[-1]).

    Args:
        sizes: widths of the input, the hidden layers and the output.
        seed: seed of the initial weights.
        scale: (sizes[0],) factors of the inputs, None for none.
    """

    def __init__(self, sizes: Sequence[int], seed: int, scale: NDArray[Any] | None = None) -> None:
        super().__init__()
        self.scale: Tensor | None
        self.register_buffer("scale", None if scale is None else to_tensor(scale), persistent=False)
        seeds = np.random.SeedSequence(seed).generate_state(2).tolist()
        one, two = (list(mlp(sizes, twin).parameters()) for twin in seeds)
        # The order is that of `mlp`: the weights of a layer, its biases, then the next layer.
        self.stacked = nn.ParameterList(
            torch.stack((a.detach().T, b.detach().T)).contiguous()
            if a.ndim == 2
            else torch.stack((a.detach(), b.detach()))[:, None]
            for a, b in zip(one, two, strict=True)
        )
        # The layers are kept in a list, because reading a ParameterList takes longer than a small matmul.
        parameters = list(self.stacked)
        self._layers = list(zip(parameters[::2], parameters[1::2], strict=True))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs (2, N, sizes[-1]) of both networks for inputs (N, sizes[0])."""
        x = (inputs if self.scale is None else inputs * self.scale).expand(2, *inputs.shape)
        for weight, bias in self._layers[:-1]:
            x = torch.baddbmm(bias, x, weight).relu_()
        weight, bias = self._layers[-1]
        return torch.baddbmm(bias, x, weight)


# --- Actors -----------------------------------------------------------------------------------------------


class CategoricalActor:
    """Actor over discrete actions: pi_hat = softmax(net(s) + (omega' / alpha_hat) log pi).

    The network learns Q_R / alpha_hat. It starts at 0, so that the first policy depends on the prior alone.

    Args:
        n_inputs: numbers in an observation.
        space: space of the actions, Discrete(A).
        hidden: widths of the hidden layers [units].
        prior: the prior, None for none.
        prior_scale: omega' / alpha_hat at the initial temperature, even if that is tuned later.
        seed: seed of the initial weights.
        input_scale: (n_inputs,) factors of an observation's entries, None for none.
    """

    def __init__(
        self,
        n_inputs: int,
        space: spaces.Discrete,
        hidden: tuple[int, ...],
        prior: Policy | None,
        prior_scale: float,
        seed: int,
        input_scale: NDArray[Any] | None = None,
    ) -> None:
        self.n_actions = int(space.n)
        self.net = mlp([n_inputs, *hidden, self.n_actions], seed, input_scale)
        zero_last_layer(self.net)  # at first the policy adds nothing to the prior
        self.networks = (self.net,)
        self.prior, self.prior_scale = prior, prior_scale
        self.critic_sizes = n_inputs, self.n_actions

    def stored(self, state: NDArray[Any], next_state: NDArray[Any]) -> dict[str, Array]:
        """Return the prior's log-probabilities (N, A) in both states, as columns for the replay."""
        return {"log_prior": self._log_prior(state), "next_log_prior": self._log_prior(next_state)}

    def encode(self, action: NDArray[Any]) -> NDArray[np.int64]:
        """Return actions (N,) as the replay stores them.

        Raises:
            ValueError: if an action is not an integer from 0 to A - 1.
        """
        return check_indices(action, self.n_actions)

    def propose(self, state: Tensor, log_prior: Tensor, rng: np.random.Generator) -> Candidates:
        """Return all A actions with their probabilities as candidates."""
        log_policy = torch.log_softmax(self.net(state) + self.prior_scale * log_prior, dim=1)
        return Candidates(state[:, :0], log_policy.exp(), log_policy, log_prior)

    def values(self, critics: TwinMLP, state: Tensor, action: Tensor) -> Tensor:
        """Return both critics' psi and h (2, N, A, K + 1) of all actions."""
        return critics(state).view(2, len(state), self.n_actions, -1)

    def values_taken(self, critics: TwinMLP, state: Tensor, action: Tensor) -> Tensor:
        """Return both critics' psi and h (2, N, K + 1) of the actions (N,)."""
        return self.values(critics, state, action)[:, torch.arange(len(state)), action]

    def draw(self, state: NDArray[Any], rng: np.random.Generator) -> tuple[NDArray[Any], Array]:
        """Return all actions (N, A) and their probabilities (N, A)."""
        return np.tile(np.arange(self.n_actions), (len(state), 1)), np.exp(self.policy().log_probs(state))

    def policy(self) -> DiscretePolicy:
        """Return a frozen copy of the policy."""
        return DiscretePolicy(copy.deepcopy(self.net), None, self.prior, self.prior_scale)

    def _log_prior(self, state: NDArray[Any]) -> Array:
        return bounded_log_prior(self.prior, state, self.n_actions)


class GaussianActor:
    """Actor over a Box: a squashed Gaussian that starts as a copy of the prior, if there is one.

    Args:
        n_inputs: numbers in an observation.
        space: space of the actions, a Box of shape (D,).
        hidden: widths of the hidden layers [units], if there is no prior.
        prior: the prior, a `SquashedGaussianPolicy`, None for none.
        prior_scale: not used; the losses weigh the prior.
        seed: seed of the initial weights, if there is no prior.
        input_scale: (n_inputs,) factors of an observation's entries, if there is no prior; None for none.

    Raises:
        ValueError: if the Box has not exactly one axis, or the prior is of another class or acts on another
            Box.
    """

    def __init__(
        self,
        n_inputs: int,
        space: spaces.Box,
        hidden: tuple[int, ...],
        prior: Policy | None,
        prior_scale: float,
        seed: int,
        input_scale: NDArray[Any] | None = None,
    ) -> None:
        if len(space.shape) != 1:
            raise ValueError(f"actions must be vectors (D,), got a Box of shape {space.shape}")
        self.low, self.high = space.low, space.high
        start = SquashedGaussianPolicy(
            mlp([n_inputs, *hidden, 2 * space.shape[0]], seed, input_scale), self.low, self.high
        )
        self.prior = None if prior is None else _freeze_prior(prior, start)
        self.net = copy.deepcopy((self.prior or start).net).requires_grad_(True)
        self.networks = (self.net,) if self.prior is None else (self.net, self.prior.net)
        self.centre, self.half_width = start.centre, start.half_width
        self.critic_sizes = n_inputs + space.shape[0], 1

    def stored(self, state: NDArray[Any], next_state: NDArray[Any]) -> dict[str, Array]:
        """Return no columns: the prior's log-density is needed at new draws, not at stored actions."""
        return {}

    def encode(self, action: NDArray[Any]) -> NDArray[np.float32]:
        """Return actions (N, D) of the Box as unit actions, rescaled to [-1, 1]^D."""
        action = check_array("action", action, ndim=2)
        return ((action - self.centre) / self.half_width).astype(np.float32)

    def propose(self, state: Tensor, log_prior: Tensor, rng: np.random.Generator) -> Candidates:
        """Draw a candidate tanh(mean + std * noise) in each state; gradients reach the net through it."""
        mean, log_std = split_head(self.net(state))
        noise = torch.as_tensor(rng.standard_normal(mean.shape, dtype=np.float32))
        latent = mean + log_std.exp() * noise
        log_det = log_jacobian(latent)
        # The noise itself is (latent - mean) / std.
        standard = -0.5 * (noise.square() + math.log(2 * math.pi)).sum(1)
        log_policy = standard - log_std.sum(1) - log_det
        log_prior = torch.zeros(len(state))
        if self.prior is not None:
            log_prior = normal_log_density(*split_head(self.prior.net(state)), latent) - log_det
        return Candidates(
            torch.tanh(latent), torch.ones(len(state), 1), log_policy[:, None], log_prior[:, None]
        )

    def values(self, critics: TwinMLP, state: Tensor, action: Tensor) -> Tensor:
        """Return both critics' psi and h (2, N, 1, K + 1) of the unit actions (N, D)."""
        return critics(torch.cat((state, action), dim=1))[:, :, None]

    def values_taken(self, critics: TwinMLP, state: Tensor, action: Tensor) -> Tensor:
        """Return both critics' psi and h (2, N, K + 1) of the unit actions (N, D)."""
        return critics(torch.cat((state, action), dim=1))

    def policy(self) -> SquashedGaussianPolicy:
        """Return a frozen copy of the policy."""
        return SquashedGaussianPolicy(copy.deepcopy(self.net), self.low, self.high)

    def draw(self, state: NDArray[Any], rng: np.random.Generator) -> tuple[NDArray[Any], Array]:
        """Return M = `DRAWS` actions (N, M, D) drawn from the policy, and their weights 1 / M (N, M)."""
        repeated = np.repeat(state, DRAWS, axis=0)
        action = self.policy().sample(repeated, rng).reshape(len(state), DRAWS, -1)
        return action, np.full(action.shape[:2], 1.0 / DRAWS)


def _freeze_prior(prior: Policy, like: SquashedGaussianPolicy) -> SquashedGaussianPolicy:
    """Return a copy of the prior whose weights take no gradients.

    Raises:
        ValueError: if its log-density cannot be differentiated, or its Box is not that of `like`.
    """
    if not isinstance(prior, SquashedGaussianPolicy):
        raise ValueError(
            "over a Box the prior must be a SquashedGaussianPolicy, because the actor's gradient goes "
            f"through its log-density, got {type(prior).__name__}: clone it into one first"
        )
    bounds = [prior.low, prior.high], [like.low, like.high]
    # Bounds that were stored as text or in single precision may differ in the last digits.
    if prior.low.shape != like.low.shape or not np.allclose(*bounds, rtol=1e-6):
        raise ValueError(
            f"the prior must act on the Box from {like.low} to {like.high}, got {prior.low} to {prior.high}"
        )
    prior = copy.deepcopy(prior)
    prior.net.requires_grad_(False)
    return prior


def make_actor(
    n_inputs: int,
    space: spaces.Space[Any],
    hidden: tuple[int, ...],
    prior: Policy | None,
    prior_scale: float,
    seed: int,
    input_scale: NDArray[Any] | None = None,
) -> CategoricalActor | GaussianActor:
    """Return the actor for a space of actions; the arguments are those of the actors.

    Raises:
        ValueError: if the space is neither Discrete from 0 nor a Box.
    """
    if isinstance(space, spaces.Discrete):
        if space.start != 0:
            raise ValueError(f"discrete actions must count from 0, got {space}")
        return CategoricalActor(n_inputs, space, hidden, prior, prior_scale, seed, input_scale)
    if isinstance(space, spaces.Box):
        return GaussianActor(n_inputs, space, hidden, prior, prior_scale, seed, input_scale)
    raise ValueError(f"space must be Discrete or a Box, got {space}")


# --- Heads for cloning ------------------------------------------------------------------------------------


class CategoricalHead:
    """Cloning over discrete actions: a network outputs logits (N, A) and is fitted to probabilities (N, A).

    Args:
        space: space of the actions, Discrete(A).
    """

    def __init__(self, space: spaces.Discrete) -> None:
        self.n_actions = self.n_outputs = int(space.n)

    def encode(self, action: NDArray[Any]) -> Array:
        """Return actions (N,) as one-hot probabilities (N, A).

        Raises:
            ValueError: if an action is not an integer from 0 to A - 1.
        """
        return np.eye(self.n_actions)[check_indices(action, self.n_actions)]

    def log_prob(self, output: Tensor, wanted: Tensor) -> Tensor:
        """Return log pi(a | s) (N,) of encoded actions (N, A), given logits (N, A)."""
        return (wanted * torch.log_softmax(output, dim=1)).sum(dim=1)

    def intervention_probability(self, output: Tensor, expected: Tensor, cost: float, scale: float) -> Tensor:
        """Return MILE's p(s) (N,) for logits (N, A) of the person and of the mental model.

        See `mereq_min.peers.InterventionModel`.
        """
        log_policy, mental = torch.log_softmax(output, dim=1), torch.softmax(expected, dim=1)
        gain = log_policy - (mental * log_policy).sum(dim=1, keepdim=True)
        return (log_policy.exp() * torch.special.ndtr((gain - cost) / scale)).sum(dim=1)

    def loss(self, output: Tensor, wanted: Tensor) -> Tensor:
        """Return the mean cross-entropy between `wanted` (N, A) and the softmax of the logits (N, A)."""
        return -self.log_prob(output, wanted).mean()

    def start(self, prior: Policy) -> nn.Sequential | None:
        """Return a network whose policy is the prior; None if the prior is not the softmax of an `mlp`."""
        if not isinstance(prior, DiscretePolicy) or not is_mlp(prior.net):
            return None
        if prior.prior is not None or prior.temperature == 0:
            return None
        arrays = mlp_to_arrays(prior.net)
        for name in list(arrays)[-2:]:  # the last layer gives logits
            arrays[name] = arrays[name] / prior.divisor
        return mlp_from_arrays(arrays)

    def ask(self, prior: Policy, state: NDArray[Any], rng: np.random.Generator) -> Array:
        """Return the prior's action probabilities (N, A) in states (N, ...)."""
        return np.exp(all_log_probs(prior, state, self.n_actions))

    def policy(self, net: nn.Sequential) -> DiscretePolicy:
        """Return the policy of a network."""
        return DiscretePolicy(net)


class GaussianHead:
    """Cloning over a Box: a network outputs mean and log standard deviation (N, 2 D) of the latents.

    It is fitted to latents (N, D).

    Args:
        space: space of the actions, a Box of shape (D,).

    Raises:
        ValueError: if the Box has not exactly one axis.
    """

    def __init__(self, space: spaces.Box) -> None:
        if len(space.shape) != 1:
            raise ValueError(f"actions must be vectors (D,), got a Box of shape {space.shape}")
        self.low, self.high = space.low.astype(np.float64), space.high.astype(np.float64)
        self.n_outputs = 2 * len(self.low)

    def encode(self, action: NDArray[Any]) -> Array:
        """Return the latents (N, D) of actions (N, D)."""
        action = check_array("action", action, shape=(len(action), len(self.low)))
        unit = (2 * action - self.high - self.low) / (self.high - self.low)
        return unsquash(unit)

    def log_prob(self, output: Tensor, wanted: Tensor) -> Tensor:
        """Return log pi(a | s) (N,) of actions with latents (N, D): their densities as unit actions."""
        return normal_log_density(*split_head(output), wanted) - log_jacobian(wanted)

    def intervention_probability(self, output: Tensor, expected: Tensor, cost: float, scale: float) -> Tensor:
        """Return MILE's p(s) (N,) for outputs (N, 2 D) of the person and of the mental model.

        Densities are those of latents. The expectation over the mental model is exact; that over the person's
        action depends on |z|^2 alone, whose chi-squared distribution is cut into `DRAWS` equal parts. See
        `mereq_min.peers.InterventionModel`.
        """
        from scipy.stats import chi2  # slow to import

        mean, log_std = split_head(output)
        of_mental, mental_log_std = split_head(expected)
        square = ((of_mental - mean).square() + (2 * mental_log_std).exp()) * (-2 * log_std).exp()
        shares = (np.arange(DRAWS) + 0.5) / DRAWS
        own = torch.as_tensor(chi2.ppf(shares, mean.shape[1]), dtype=output.dtype)
        gain = 0.5 * (square.sum(dim=1, keepdim=True) - own) - cost
        return torch.special.ndtr(gain / scale).mean(dim=1)

    def loss(self, output: Tensor, wanted: Tensor) -> Tensor:
        """Return the mean of -log pi, without the Jacobian of the squashing: no weight changes that term."""
        return -normal_log_density(*split_head(output), wanted).mean()

    def start(self, prior: Policy) -> nn.Sequential | None:
        """Return a network whose policy is the prior; None if the prior is no `mlp` or has another Box."""
        if not isinstance(prior, SquashedGaussianPolicy) or not is_mlp(prior.net):
            return None
        # Bounds that were stored as text or in single precision may differ in the last digits.
        is_same = prior.low.shape == self.low.shape and np.allclose(
            [prior.low, prior.high], [self.low, self.high], rtol=1e-6
        )
        return mlp_from_arrays(mlp_to_arrays(prior.net)) if is_same else None

    def ask(self, prior: Policy, state: NDArray[Any], rng: np.random.Generator) -> Array:
        """Return the latents (N, D) of one action drawn from the prior in each of the states (N, ...)."""
        return self.encode(prior.sample(state, rng))

    def policy(self, net: nn.Sequential) -> SquashedGaussianPolicy:
        """Return the policy of a network."""
        return SquashedGaussianPolicy(net, self.low, self.high)
