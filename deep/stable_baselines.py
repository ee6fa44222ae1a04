"""Priors trained with Stable-Baselines3, read from its zip files without unpickling anything.

Such a file holds pickles, and unpickling does whatever they say (torch's `weights_only` was no safeguard
before 2.6, CVE-2025-32434). So the opcodes that describe the weights are read as data, and of the rest only
JSON text.
"""

from __future__ import annotations

import json
import math
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from deep.gaussian import SquashedGaussianPolicy
from deep.nets import ACTIVATIONS, to_tensor
from deep.policies import DiscretePolicy
from deep.torch_zip import ZIP_ERRORS, read_member, read_tensors, shorten
from mereq_min.interfaces import Policy, Task
from mereq_min.validation import Array, check_number

_ACTIVATIONS = {layer.__name__: layer for layer in ACTIVATIONS}
_SETTINGS = {
    "net_arch", "activation_fn", "use_sde", "ortho_init", "log_std_init", "n_critics", "optimizer_class",
    "optimizer_kwargs", "normalize_images", "share_features_extractor",
}  # fmt: skip
"""Settings of a policy that are honoured here, or do not change how it acts on vectors."""

Layer = tuple[NDArray[Any], NDArray[Any]]
"""Weight (outputs, inputs) and bias (outputs,)."""


class GaussianPolicy:
    """A diagonal Gaussian over actions (N, D), with the same width everywhere and without bounds.

    Args:
        net: observations (N, ...) to means (N, D).
        log_std: (D,) log standard deviations.
    """

    def __init__(self, net: nn.Module, log_std: NDArray[Any]) -> None:
        self.net, self.log_std = net, np.array(log_std, dtype=np.float64)

    def log_prob(self, state: NDArray[Any], action: NDArray[Any]) -> Array:
        """Log-density (N,) of actions (N, D) in states (N, ...)."""
        z = (np.asarray(action, dtype=np.float64) - self._mean(state)) / np.exp(self.log_std)
        return -(0.5 * z**2 + self.log_std + 0.5 * math.log(2 * math.pi)).sum(axis=1)

    def sample(self, state: NDArray[Any], rng: np.random.Generator) -> NDArray[np.float32]:
        """Draw actions (N, D) in states (N, ...)."""
        mean = self._mean(state)
        return (mean + np.exp(self.log_std) * rng.standard_normal(mean.shape)).astype(np.float32)

    def _mean(self, state: NDArray[Any]) -> Array:
        with torch.no_grad():
            return self.net(to_tensor(state)).numpy().astype(float)


class OneHot(nn.Module):
    """Indices (N,) to unit vectors (N, n), as Stable-Baselines3 shows a network `Discrete` observations."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n = n

    def forward(self, index: torch.Tensor) -> torch.Tensor:
        """Unit vectors (N, n)."""
        return nn.functional.one_hot(index.long(), self.n).float()


def load_zip(path: str | Path, *, temperature: float | None = None) -> Policy:
    """Read a policy over vectors or indices from the zip file that a Stable-Baselines3 model's `save` wrote.

    DQN: pi(a | s) is proportional to exp(Q(s, a) / temperature). PPO, A2C: the categorical distribution, or
    over a `Box` the Gaussian without bounds; Stable-Baselines3 clips its actions only on their way to the
    environment, as `gymnasium.wrappers.ClipAction` does. SAC: the squashed Gaussian, in the units of the
    action space, no narrower than `deep.gaussian.LOG_STD_BOUNDS` allows. Observations must be as the network
    saw them: the statistics of `VecNormalize` are not in this file.

    Args:
        path: the file.
        temperature: of a DQN, and of nothing else [reward].

    Raises:
        ValueError: if the file is missing, damaged, or would need code that is not here (a policy class of
            your own, images, gSDE, ...), or if the temperature is missing or uncalled-for.
    """
    with _explained(path):
        return _build(*_open(path), temperature)


def load_for_task(path: Path, task: Task) -> Policy:
    """`load_zip` as the command line calls it: a DQN acts at the task's `prior_temperature`."""
    with _explained(path):
        settings, weights = _open(path)
        return _build(settings, weights, task.prior_temperature if weights.is_dqn else None)


@contextmanager
def _explained(path: str | Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RecursionError, ValueError, *ZIP_ERRORS) as error:
        raise ValueError(f"cannot load {path} as a policy of Stable-Baselines3: {error}") from error


def _open(path: str | Path) -> tuple[_Settings, _Weights]:
    with zipfile.ZipFile(path) as archive:
        return _Settings(json.loads(read_member(archive, "data"))), _Weights(
            read_tensors(read_member(archive, "policy.pth"))
        )


def _build(settings: _Settings, weights: _Weights, temperature: float | None) -> Policy:
    """The policy, by the algorithm that the names of its layers tell."""
    if weights.is_dqn:
        return _build_dqn(settings, weights, temperature)
    if temperature is not None:
        raise ValueError("temperature is for a DQN; this policy has a distribution of its own, leave it out")
    if weights.has("actor.mu.weight"):
        return _build_sac(settings, weights)
    if weights.has("action_net."):
        return _build_ppo(settings, weights)
    names = ", ".join(sorted(weights.arrays)[:6])
    raise ValueError(f"its layers are not those of DQN, SAC, PPO or A2C: {names}")


def _build_dqn(settings: _Settings, weights: _Weights, temperature: float | None) -> DiscretePolicy:
    if temperature is None:
        raise ValueError("a DQN is greedy; pass a temperature, for pi(a | s) ~ exp(Q(s, a) / temperature)")
    check_number("temperature", temperature, 0, above=True)
    layers = weights.take_all("q_net.q_net.")
    weights.finish("q_net_target.")
    return DiscretePolicy(settings.make_net(layers, nn.ReLU, settings.n_actions()), temperature)


def _build_sac(settings: _Settings, weights: _Weights) -> SquashedGaussianPolicy:
    hidden = weights.take_all("actor.latent_pi.")
    mean, log_std = (weights.take(f"actor.{name}.") for name in ("mu", "log_std"))
    weights.finish("critic.", "critic_target.")
    low, high = settings.bounds()
    both = np.concatenate([mean[0], log_std[0]]), np.concatenate([mean[1], log_std[1]])
    return SquashedGaussianPolicy(settings.make_net([*hidden, both], nn.ReLU, 2 * len(low)), low, high)


def _build_ppo(settings: _Settings, weights: _Weights) -> DiscretePolicy | GaussianPolicy:
    layers = [*weights.take_all("mlp_extractor.policy_net."), weights.take("action_net.")]
    log_std = weights.arrays.pop("log_std", None)
    weights.finish("mlp_extractor.value_net.", "value_net.")
    if log_std is None:
        return DiscretePolicy(settings.make_net(layers, nn.Tanh, settings.n_actions()))
    n_axes = len(settings.bounds()[0])
    if log_std.shape != (n_axes,):
        raise ValueError(f"log_std must have shape {(n_axes,)}, got {log_std.shape}")
    return GaussianPolicy(settings.make_net(layers, nn.Tanh, n_axes), log_std)


class _Weights:
    """Arrays by name, taken one layer after the other until none is left over."""

    def __init__(self, arrays: dict[str, NDArray[Any]]) -> None:
        self.arrays = dict(arrays)
        bad = [name for name, array in arrays.items() if not np.isfinite(array).all()]
        if bad:
            raise ValueError(f"the weights are not finite in {', '.join(bad[:6])}")

    @property
    def is_dqn(self) -> bool:
        return self.has("q_net.")

    def has(self, prefix: str) -> bool:
        return any(name.startswith(prefix) for name in self.arrays)

    def take(self, prefix: str) -> Layer:
        try:
            weight, bias = (self.arrays.pop(f"{prefix}{part}") for part in ("weight", "bias"))
        except KeyError as error:
            raise ValueError(f"the layer {error.args[0]} is missing") from error
        if weight.ndim != 2 or bias.shape != weight.shape[:1]:
            raise ValueError(f"{prefix}weight {weight.shape} and bias {bias.shape} make no linear layer")
        return weight, bias

    def take_all(self, prefix: str) -> list[Layer]:
        """Linear layers at 0, 2, 4, ...; activations lie between them."""
        layers: list[Layer] = []
        while self.has(f"{prefix}{2 * len(layers)}."):
            layers.append(self.take(f"{prefix}{2 * len(layers)}."))
        return layers

    def finish(self, *ignored: str) -> None:
        left = [name for name in self.arrays if not name.startswith(ignored)]
        if left:
            raise ValueError(
                f"it has layers that are not known here: {', '.join(left[:6])}; images are not read"
            )


class _Settings:
    """What the file's JSON tells beside the weights.

    Raises:
        ValueError: if it tells of a policy that is not built here.
    """

    def __init__(self, data: Any) -> None:
        self.data = data if isinstance(data, dict) else {}
        module = str(self._of("policy_class").get("__module__"))
        if not module.startswith("stable_baselines3."):
            raise ValueError(f"only its own policies are built here, this one is from {shorten(module)}")
        if self.data.get("use_sde"):
            raise ValueError("state-dependent exploration (gSDE) is not built here")
        unknown = {name for name in self._of("policy_kwargs") if name[:1] != ":"} - _SETTINGS
        if unknown:
            raise ValueError(f"policy_kwargs {', '.join(sorted(unknown))} are not known here")

    def _of(self, name: str) -> dict[str, Any]:
        value = self.data.get(name)
        return value if isinstance(value, dict) else {}

    def make_net(self, layers: list[Layer], default: type[nn.Module], n_outputs: int) -> nn.Sequential:
        """Linear layers with the activation between them, on vectors or one-hot indices."""
        named = self._of("policy_kwargs").get("activation_fn")
        activation = default
        if named is not None:
            name = re.fullmatch(r"<class 'torch\.nn\.modules\.activation\.(\w+)'>", str(named))
            if name is None or name[1] not in _ACTIVATIONS:
                raise ValueError(
                    f"activation_fn must be one of {', '.join(_ACTIVATIONS)}, got {shorten(named)}"
                )
            activation = _ACTIVATIONS[name[1]]
        n_inputs, first = self._observation()
        modules = [first]
        for weight, bias in layers:
            if weight.shape[1] != n_inputs:
                raise ValueError(f"a layer expects {weight.shape[1]} inputs where {n_inputs} come in")
            linear = nn.Linear(n_inputs, len(weight))
            linear.load_state_dict({"weight": torch.tensor(weight), "bias": torch.tensor(bias)})
            modules += [linear, activation()]
            n_inputs = len(weight)
        if n_inputs != n_outputs:
            raise ValueError(f"the action space asks for {n_outputs} outputs, the network has {n_inputs}")
        return nn.Sequential(*modules[:-1])

    def _observation(self) -> tuple[int, nn.Module]:
        if self._kind("observation_space") == "Discrete":
            n = self._discrete("observation_space")
            return n, OneHot(n)
        space = self._of("observation_space")
        if self._kind("observation_space") != "Box" or not str(space.get("dtype")).startswith("float"):
            raise ValueError(
                "observations must be a Box of floats or Discrete; images and dicts are not read"
            )
        return math.prod(self._shape("observation_space")), nn.Flatten()

    def n_actions(self) -> int:
        """Size of a `Discrete` action space."""
        return self._discrete("action_space")

    def bounds(self) -> tuple[Array, Array]:
        """Lowest and highest action (D,) of a `Box` action space."""
        kind, shape = self._kind("action_space"), self._shape("action_space")
        if kind != "Box" or len(shape) != 1:
            raise ValueError(f"actions must be a Box of one axis for this network, got {kind} {shape}")
        low, high = (str(self._of("action_space").get(name)).strip("[]").split() for name in ("low", "high"))
        try:
            return np.array(low, dtype=float).reshape(shape), np.array(high, dtype=float).reshape(shape)
        except ValueError as error:
            raise ValueError(f"the action space does not tell its low and high ({error})") from error

    def _kind(self, name: str) -> str:
        return str(self._of(name).get(":type:")).removesuffix("'>").rpartition(".")[2]

    def _shape(self, name: str) -> tuple[int, ...]:
        shape = self._of(name).get("_shape")
        if not isinstance(shape, list) or not all(isinstance(n, int) and n > 0 for n in shape):
            raise ValueError(f"{name} must tell its shape, got {shorten(shape)}")
        return tuple(shape)

    def _discrete(self, name: str) -> int:
        n, start = str(self._of(name).get("n")), str(self._of(name).get("start", 0))
        if self._kind(name) != "Discrete" or not n.isdecimal() or start != "0":
            raise ValueError(
                f"{name} must be Discrete from 0, got {self._kind(name)} of {shorten(n)} from {start}"
            )
        return int(n)
