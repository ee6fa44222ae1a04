"""Network heads over discrete actions and over a Box: actors, twin critics, and what cloning fits."""

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

from deep.bellman import Candidates
from deep.gaussian import SquashedGaussianPolicy, log_jacobian, normal_log_density, split_head, unsquash
from deep.nets import (
    find_activation,
    mlp,
    mlp_from_arrays,
    mlp_to_arrays,
    zero_last_layer,
)
from deep.policies import DiscretePolicy, all_log_probs
from mereq_min.interfaces import Policy
from mereq_min.validation import Array, check_array

# In place of -inf for an action that the prior never takes, so that probability 0 times it is 0.
LEAST_LOG_PRIOR = -1e4
DRAWS = 64  # candidates by which psi is averaged over a Box


class TwinMLP(nn.Module):
    """Two perceptrons of one shape, evaluated together: (N, sizes[0]) -> (2, N, sizes[-1])."""

    def __init__(self, sizes: Sequence[int], seed: int) -> None:
        super().__init__()
        seeds = np.random.SeedSequence(seed).generate_state(2).tolist()
        one, two = (list(mlp(sizes, twin).parameters()) for twin in seeds)
        # As in `mlp`: a layer's weights, its biases, the next layer.
        self.stacked = nn.ParameterList(
            torch.stack((a.detach().T, b.detach().T)).contiguous()
            if a.ndim == 2
            else torch.stack((a.detach(), b.detach()))[:, None]
            for a, b in zip(one, two, strict=True)
        )
        # Reading a ParameterList takes longer than a small matmul.
        parameters = list(self.stacked)
        self._layers = list(zip(parameters[::2], parameters[1::2], strict=True))

    def forward(self, inputs: Tensor) -> Tensor:
        """The outputs of both for the same inputs."""
        x = inputs.expand(2, *inputs.shape)
        for weight, bias in self._layers[:-1]:
            x = torch.baddbmm(bias, x, weight).relu_()
        weight, bias = self._layers[-1]
        return torch.baddbmm(bias, x, weight)


# --- Actors: what differs between discrete and continuous actions ----------------------------------------


class CategoricalActor:
    """pi_hat = softmax(net(s) + (omega' / alpha_hat) log pi), where net learns Q_R / alpha_hat from 0 on."""

    def __init__(
        self,
        n_inputs: int,
        space: spaces.Discrete,
        hidden: tuple[int, ...],
        prior: Policy | None,
        prior_scale: float,
        seed: int,
    ) -> None:
        self.n_actions = int(space.n)
        self.net = mlp([n_inputs, *hidden, self.n_actions], seed)
        zero_last_layer(self.net)  # nothing is added to the prior
        self.prior, self.prior_scale = prior, prior_scale
        self.critic_sizes = n_inputs, self.n_actions

    def stored(self, state: NDArray[Any], next_state: NDArray[Any]) -> dict[str, Array]:
        """What the prior says about all actions (N, A), to be kept in the replay."""
        return {"log_prior": self._log_prior(state), "next_log_prior": self._log_prior(next_state)}

    def encode(self, action: NDArray[Any]) -> NDArray[np.int64]:
        """Actions (N,) as they are stored."""
        action = np.asarray(action)
        if action.dtype.kind not in "iu" or ((action < 0) | (action >= self.n_actions)).any():
            raise ValueError(f"action must hold whole numbers from 0 to {self.n_actions - 1}, got {action}")
        return action.astype(np.int64)

    def propose(self, state: Tensor, log_prior: Tensor, rng: np.random.Generator) -> Candidates:
        """All A actions with their probabilities."""
        log_policy = torch.log_softmax(self.net(state) + self.prior_scale * log_prior, dim=1)
        return Candidates(state[:, :0], log_policy.exp(), log_policy, log_prior)

    def values(self, critics: TwinMLP, state: Tensor, action: Tensor) -> Tensor:
        """psi and h (2, N, A, K + 1) of all actions."""
        return critics(state).view(2, len(state), self.n_actions, -1)

    def values_taken(self, critics: TwinMLP, state: Tensor, action: Tensor) -> Tensor:
        """psi and h (2, N, K + 1) of the actions (N,)."""
        return self.values(critics, state, action)[:, torch.arange(len(state)), action]

    def draw(self, state: NDArray[Any], rng: np.random.Generator) -> tuple[NDArray[Any], Array]:
        """All actions (N, A) and their probabilities (N, A)."""
        return np.tile(np.arange(self.n_actions), (len(state), 1)), np.exp(self.policy().log_probs(state))

    def policy(self) -> DiscretePolicy:
        """A frozen copy."""
        return DiscretePolicy(copy.deepcopy(self.net), 1.0, self.prior, self.prior_scale)

    def _log_prior(self, state: NDArray[Any]) -> Array:
        if self.prior is None:
            return np.zeros((len(state), self.n_actions))
        return np.maximum(all_log_probs(self.prior, state, self.n_actions), LEAST_LOG_PRIOR)


class GaussianActor:
    """pi_hat a squashed Gaussian that starts as a copy of the prior, where there is one."""

    def __init__(
        self,
        n_inputs: int,
        space: spaces.Box,
        hidden: tuple[int, ...],
        prior: Policy | None,
        prior_scale: float,
        seed: int,
    ) -> None:
        if len(space.shape) != 1:
            raise ValueError(f"actions must be vectors (D,), got a Box of shape {space.shape}")
        self.low, self.high = space.low, space.high
        start = SquashedGaussianPolicy(
            mlp([n_inputs, *hidden, 2 * space.shape[0]], seed), self.low, self.high
        )
        self.prior = None if prior is None else _freeze_prior(prior, start)
        self.net = copy.deepcopy((self.prior or start).net).requires_grad_(True)
        self.centre, self.half_width = start.centre, start.half_width
        self.critic_sizes = n_inputs + space.shape[0], 1

    def stored(self, state: NDArray[Any], next_state: NDArray[Any]) -> dict[str, Array]:
        """Nothing: the prior has to be asked about each draw anew."""
        return {}

    def encode(self, action: NDArray[Any]) -> NDArray[np.float32]:
        """Actions (N, D) of the Box as unit actions."""
        action = check_array("action", action, ndim=2)
        return ((action - self.centre) / self.half_width).astype(np.float32)

    def propose(self, state: Tensor, log_prior: Tensor, rng: np.random.Generator) -> Candidates:
        """One draw tanh(mean + std * noise), through which gradients reach the net."""
        mean, log_std = split_head(self.net(state))
        noise = torch.as_tensor(rng.standard_normal(mean.shape, dtype=np.float32))
        latent = mean + log_std.exp() * noise
        volume = log_jacobian(latent)
        # (latent - mean) / std is the noise itself.
        standard = -0.5 * (noise.square() + math.log(2 * math.pi)).sum(1)
        log_policy = standard - log_std.sum(1) - volume
        log_prior = torch.zeros(len(state))
        if self.prior is not None:
            log_prior = normal_log_density(*split_head(self.prior.net(state)), latent) - volume
        return Candidates(
            torch.tanh(latent), torch.ones(len(state), 1), log_policy[:, None], log_prior[:, None]
        )

    def values(self, critics: TwinMLP, state: Tensor, action: Tensor) -> Tensor:
        """psi and h (2, N, 1, K + 1) of the unit actions (N, D)."""
        return critics(torch.cat((state, action), dim=1))[:, :, None]

    def values_taken(self, critics: TwinMLP, state: Tensor, action: Tensor) -> Tensor:
        """psi and h (2, N, K + 1) of the unit actions (N, D)."""
        return critics(torch.cat((state, action), dim=1))

    def policy(self) -> SquashedGaussianPolicy:
        """A frozen copy."""
        return SquashedGaussianPolicy(copy.deepcopy(self.net), self.low, self.high)

    def draw(self, state: NDArray[Any], rng: np.random.Generator) -> tuple[NDArray[Any], Array]:
        """Draws from the policy (N, M, D) and their weights (N, M) in its expectation."""
        repeated = np.repeat(state, DRAWS, axis=0)
        action = self.policy().sample(repeated, rng).reshape(len(state), DRAWS, -1)
        return action, np.full(action.shape[:2], 1.0 / DRAWS)


def _freeze_prior(prior: Policy, like: SquashedGaussianPolicy) -> SquashedGaussianPolicy:
    """A copy of the prior, without gradients of its own, if its log-density can be differentiated."""
    if not isinstance(prior, SquashedGaussianPolicy):
        raise ValueError(
            "over a Box the prior must be a SquashedGaussianPolicy, because the actor's gradient goes "
            f"through its log-density; got {type(prior).__name__}: clone it into one first"
        )
    bounds = [prior.low, prior.high], [like.low, like.high]
    # As text or in single precision, the same bounds differ in the last digits.
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
) -> CategoricalActor | GaussianActor:
    """Return the actor for a space of actions.

    Raises:
        ValueError: on a space that is neither Discrete from 0 nor a Box.
    """
    if isinstance(space, spaces.Discrete):
        if space.start != 0:
            raise ValueError(f"discrete actions must count from 0, got {space}")
        return CategoricalActor(n_inputs, space, hidden, prior, prior_scale, seed)
    if isinstance(space, spaces.Box):
        return GaussianActor(n_inputs, space, hidden, prior, prior_scale, seed)
    raise ValueError(f"space must be Discrete or a Box, got {space}")


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
