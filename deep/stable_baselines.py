"""Policies trained with Stable-Baselines3, read from its zip files without unpickling anything.

Such a file contains pickles, and unpickling executes whatever they ask for (torch's `weights_only` was not
safe before version 2.6, CVE-2025-32434). So the opcodes that describe the weights are read as data, by
`deep.torch_zip`, and everything else is taken from JSON text.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from deep.gaussian import SquashedGaussianPolicy
from deep.nets import ACTIVATIONS, OneHot, evaluate, to_tensor
from deep.policies import DiscretePolicy
from deep.torch_zip import MAX_AXES, ZIP_ERRORS, open_archive, read_member, read_tensors, shorten
from mereq_min.interfaces import Policy, Task
from mereq_min.validation import Array, check_number

_VARIABLES = "pytorch_variables.pth"
_MAX_JSON_BYTES, _MAX_JSON_DEPTH = 2**24, 100
"""Limits on the settings, which are JSON [bytes], [levels]."""
_MAX_SIZE = 2**31
"""Limit on the sizes of spaces [entries]."""
_ACTIVATIONS = {layer.__name__: layer for layer in ACTIVATIONS}
_SETTINGS = {
    "net_arch", "activation_fn", "use_sde", "ortho_init", "log_std_init", "n_critics", "optimizer_class",
    "optimizer_kwargs", "normalize_images", "share_features_extractor", "clip_mean", "use_expln",
}  # fmt: skip
"""Settings of a policy that are honoured here, or that do not change how it acts on vectors."""
_SDE_EPSILON = 1e-6
"""Number that Stable-Baselines3 adds to the variance of gSDE, and to the argument of expln."""

Layer = tuple[NDArray[Any], NDArray[Any]]
"""Weight (outputs, inputs) and bias (outputs,)."""


class GaussianPolicy:
    """A diagonal Gaussian over unbounded actions (N, D), with the same standard deviations in all states.

    Args:
        net: maps observations (N, ...) to means (N, D).
        log_std: (D,) log standard deviations.
    """

    def __init__(self, net: nn.Module, log_std: NDArray[Any]) -> None:
        self.net, self.log_std = net, np.array(log_std, dtype=np.float64)

    def log_prob(self, state: NDArray[Any], action: NDArray[Any]) -> Array:
        """Return the log-density (N,) of actions (N, D) in states (N, ...)."""
        z = (np.asarray(action, dtype=np.float64) - self._mean(state)) / np.exp(self.log_std)
        return -(0.5 * z**2 + self.log_std + 0.5 * math.log(2 * math.pi)).sum(axis=1)

    def sample(self, state: NDArray[Any], rng: np.random.Generator) -> NDArray[np.float32]:
        """Draw actions (N, D) in states (N, ...)."""
        mean = self._mean(state)
        return (mean + np.exp(self.log_std) * rng.standard_normal(mean.shape)).astype(np.float32)

    def _mean(self, state: NDArray[Any]) -> Array:
        return evaluate(self.net, state).astype(float)


class StateDependentNoise(nn.Module):
    """Maps observations to mean and log standard deviation (N, 2 D) of the latents under gSDE.

    Generalised state-dependent exploration (Raffin et al., arXiv 2005.05719) adds noise that is linear in the
    activations h(s) (N, J) of the last hidden layer: u = mu(s) + W^T h(s) with W_jd ~ N(0, std_jd^2).
    Marginally over W, the latents are independent Gaussians with

        mean_d = mu_d(s),    variance_d = sum_j h_j(s)^2 std_jd^2 + 1e-6.

    Stable-Baselines3 computes log-probabilities from these, and so does a policy made of this network. Such a
    policy draws W anew for each action, whereas Stable-Baselines3 may keep W for several steps. The 1e-6 is
    part of its log-probabilities only, not of its samples.

    Args:
        net: perceptron from observations (N, ...) to mu (N, D).
        log_std: (J, D) log std.
        clip_mean: bound of |mu|.
    """

    def __init__(self, net: nn.Sequential, log_std: Array, clip_mean: float) -> None:
        super().__init__()
        self.net, self.clip_mean = net, clip_mean
        self.log_std = nn.Parameter(to_tensor(log_std))

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """Compute means and log standard deviations, side by side."""
        hidden = self.net[:-1](observation)
        mean = self.net[-1](hidden).clamp(-self.clip_mean, self.clip_mean)
        variance = hidden.square() @ torch.exp(2 * self.log_std) + _SDE_EPSILON
        return torch.cat([mean, 0.5 * variance.log()], dim=1)


def load_zip(path: str | Path, *, temperature: float | None = None) -> Policy:
    """Read a policy over vectors or indices from the zip file that a Stable-Baselines3 model's `save` wrote.

    - DQN: pi(a | s) is proportional to exp(Q(s, a) / temperature).
    - PPO and A2C: the categorical distribution; over a `Box`, the Gaussian without bounds, because
      Stable-Baselines3 clips its actions only when it passes them to the environment, as
      `gymnasium.wrappers.ClipAction` does. The temperature of their reward is unknown.
    - SAC: the squashed Gaussian, in the units of the action space, with log standard deviations clipped to
      `deep.gaussian.LOG_STD_BOUNDS`. With gSDE it has the saved scale of noise, see `StateDependentNoise`.
      Its `temperature` is the entropy coefficient, fixed or as last tuned; None if that is 0 or not in the
      file.

    Observations and rewards are those that the model was trained on: the statistics of a `VecNormalize` are
    not in this file.

    Args:
        path: the file.
        temperature: of a DQN, and only of a DQN [reward].

    Raises:
        ValueError: if the file is missing or damaged, if it needs code that is not here (a policy class of
            your own, images, gSDE of PPO or A2C, ...), or if the temperature is missing or not expected.
    """
    with _explained(path):
        return _build(_open(path), temperature)


def load_for_task(path: Path, task: Task) -> Policy:
    """Read a policy like `load_zip`; a DQN is followed at the temperature of the task."""
    with _explained(path):
        model = _open(path)
        return _build(model, task.temperature if model.weights.is_dqn else None)


@contextmanager
def _explained(path: str | Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, *ZIP_ERRORS) as error:
        reason = getattr(error, "strerror", None) or error  # without the path, which an OSError repeats
        raise ValueError(f"cannot load {path} as a policy of Stable-Baselines3: {reason}") from error


@dataclass(frozen=True)
class _Model:
    """The parts of a file that are read."""

    settings: _Settings
    weights: _Weights
    variables: dict[str, NDArray[Any]]
    """Tensors beside the weights, of SAC alone."""


def _open(path: str | Path) -> _Model:
    with open_archive(Path(path)) as archive:
        settings = _Settings(_parse_json(read_member(archive, "data", _MAX_JSON_BYTES)))
        weights = _Weights(read_tensors(read_member(archive, "policy.pth")))
        has_variables = weights.is_sac and _VARIABLES in archive.namelist()
        return _Model(
            settings, weights, read_tensors(read_member(archive, _VARIABLES)) if has_variables else {}
        )


def _parse_json(data: bytes) -> Any:
    """Parse JSON whose depth is limited; brackets outside its strings tell the depth before it is parsed."""
    # Possessive quantifiers and an optional closing quote keep this linear in the length of any text.
    text = data.decode()
    outside = re.sub(r'"(?:[^"\\]++|\\.)*+"?', "", text, flags=re.DOTALL)
    brackets = np.frombuffer(re.sub(r"[^][{}]+", "", outside).encode(), dtype=np.uint8)
    depth = np.cumsum(np.where(np.isin(brackets, list(b"[{")), 1, -1))
    if depth.max(initial=0) > _MAX_JSON_DEPTH:
        raise ValueError(f"its settings must be nested at most {_MAX_JSON_DEPTH} deep")
    return json.loads(text)


def _build(model: _Model, temperature: float | None) -> Policy:
    """Build the policy of the algorithm that has such layers."""
    settings, weights = model.settings, model.weights
    if weights.is_dqn:
        return _build_dqn(settings, weights, temperature)
    if temperature is not None:
        raise ValueError("temperature is for a DQN; this policy has a distribution of its own, leave it out")
    if weights.is_sac:
        return _build_sac(settings, weights, settings.entropy_coefficient(model.variables))
    if weights.has("action_net."):
        return _build_ppo(settings, weights)
    names = ", ".join(sorted(weights.arrays)[:6])
    raise ValueError(f"its layers are not those of DQN, SAC, PPO or A2C: {names}")


def _build_dqn(settings: _Settings, weights: _Weights, temperature: float | None) -> DiscretePolicy:
    if temperature is None:
        raise ValueError("a DQN is greedy; pass a temperature, for pi(a | s) ~ exp(Q(s, a) / temperature)")
    check_number("temperature", temperature, 0, exclusive=True)
    layers = weights.take_all("q_net.q_net.")
    weights.finish("q_net_target.")
    return DiscretePolicy(settings.make_net(layers, nn.ReLU, settings.n_actions()), temperature)


def _build_sac(settings: _Settings, weights: _Weights, temperature: float | None) -> SquashedGaussianPolicy:
    low, high = settings.bounds()
    make_net = _make_sde_net if "actor.log_std" in weights.arrays else _make_gaussian_net
    net = make_net(settings, weights, len(low))
    weights.finish("critic.", "critic_target.")
    return SquashedGaussianPolicy(net, low, high, temperature)


def _make_gaussian_net(settings: _Settings, weights: _Weights, n_axes: int) -> nn.Module:
    hidden = weights.take_all("actor.latent_pi.")
    mean, log_std = (weights.take(f"actor.{name}.") for name in ("mu", "log_std"))
    both = np.concatenate([mean[0], log_std[0]]), np.concatenate([mean[1], log_std[1]])
    return settings.make_net([*hidden, both], nn.ReLU, 2 * n_axes)


def _make_sde_net(settings: _Settings, weights: _Weights, n_axes: int) -> nn.Module:
    is_clipped = weights.has("actor.mu.0.")
    layers = [
        *weights.take_all("actor.latent_pi."),
        weights.take("actor.mu.0." if is_clipped else "actor.mu."),
    ]
    net = settings.make_net(layers, nn.ReLU, n_axes)
    log_std = weights.arrays.pop("actor.log_std").astype(np.float64)
    shape = layers[-1][0].shape[::-1]
    if log_std.shape != shape:
        raise ValueError(f"actor.log_std must have shape {shape}, got {log_std.shape}")
    return StateDependentNoise(
        net, settings.sde_log_std(log_std), settings.clip_mean() if is_clipped else math.inf
    )


def _build_ppo(settings: _Settings, weights: _Weights) -> DiscretePolicy | GaussianPolicy:
    if settings.data.get("use_sde"):
        raise ValueError(
            "state-dependent exploration (gSDE) is read from SAC only; train the model with use_sde=False, "
            "or wrap it in an object with log_prob and sample, which can be cloned into a squashed Gaussian"
        )
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
    """Arrays by name, from which one layer after the other is taken until none is left."""

    def __init__(self, arrays: dict[str, NDArray[Any]]) -> None:
        self.arrays = dict(arrays)
        bad = [name for name, array in arrays.items() if not np.isfinite(array).all()]
        if bad:
            raise ValueError(f"the weights are not finite in {', '.join(bad[:6])}")

    @property
    def is_dqn(self) -> bool:
        return self.has("q_net.")

    @property
    def is_sac(self) -> bool:
        return self.has("actor.log_std")

    def has(self, prefix: str) -> bool:
        return any(name.startswith(prefix) for name in self.arrays)

    def take(self, prefix: str) -> Layer:
        try:
            weight, bias = (self.arrays.pop(f"{prefix}{part}") for part in ("weight", "bias"))
        except KeyError as error:
            raise ValueError(f"the layer {error.args[0]} is missing") from error
        if weight.ndim != 2 or bias.shape != weight.shape[:1]:
            raise ValueError(
                f"{prefix}weight {weight.shape} and bias {bias.shape} do not make a linear layer"
            )
        return weight, bias

    def take_all(self, prefix: str) -> list[Layer]:
        """Take the linear layers 0, 2, 4, ...; those between them are activations."""
        layers: list[Layer] = []
        while self.has(f"{prefix}{2 * len(layers)}."):
            layers.append(self.take(f"{prefix}{2 * len(layers)}."))
        return layers

    def finish(self, *ignored: str) -> None:
        left = [name for name in self.arrays if not name.startswith(ignored)]
        if left:
            raise ValueError(
                f"it has unknown layers: {', '.join(left[:6])}; policies over images are not read"
            )


class _Settings:
    """The settings in the file's JSON.

    Raises:
        ValueError: if they are those of a policy that cannot be built here.
    """

    def __init__(self, data: Any) -> None:
        self.data = data if isinstance(data, dict) else {}
        module = str(self._of("policy_class").get("__module__"))
        if not module.startswith("stable_baselines3."):
            raise ValueError(
                f"only policy classes of Stable-Baselines3 can be read, this one is from {shorten(module)}"
            )
        unknown = {name for name in self._of("policy_kwargs") if name[:1] != ":"} - _SETTINGS
        if unknown:
            raise ValueError(f"policy_kwargs {', '.join(sorted(unknown))} are unknown")

    def _of(self, name: str) -> dict[str, Any]:
        value = self.data.get(name)
        return value if isinstance(value, dict) else {}

    def make_net(self, layers: list[Layer], default: type[nn.Module], n_outputs: int) -> nn.Sequential:
        """Build linear layers with the activation between them, on vectors or one-hot indices."""
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
                "observations must be a Box of floats or Discrete; images and dicts cannot be read"
            )
        return math.prod(self._shape("observation_space")), nn.Flatten()

    def entropy_coefficient(self, variables: dict[str, NDArray[Any]]) -> float | None:
        """Return alpha of SAC, fixed or as last tuned; None if it is 0 or unknown."""
        fixed, tuned = self.data.get("ent_coef"), variables.get("log_ent_coef")
        if isinstance(fixed, int | float):
            return fixed or None
        if tuned is None:
            return None
        if tuned.size != 1 or not abs(float(tuned.item())) < 100:
            raise ValueError(f"log_ent_coef must be one number between -100 and 100, got {shorten(tuned)}")
        return math.exp(tuned.item())

    def clip_mean(self) -> float:
        """Return the bound of gSDE's means."""
        clip_mean = self._of("policy_kwargs").get("clip_mean", 2.0)
        check_number("clip_mean", clip_mean, 0, exclusive=True)
        return float(clip_mean)

    def sde_log_std(self, log_std: Array) -> Array:
        """Return the log standard deviations (J, D) of gSDE from its parameter, which may use expln."""
        if not self._of("policy_kwargs").get("use_expln", False):
            return log_std
        above = np.log(np.log1p(np.maximum(log_std, 0.0) + _SDE_EPSILON) + 1.0)
        return np.where(log_std > 0, above, log_std)

    def n_actions(self) -> int:
        """Return the size of a `Discrete` action space."""
        return self._discrete("action_space")

    def bounds(self) -> tuple[Array, Array]:
        """Return the lowest and the highest action (D,) of a `Box` action space."""
        kind, shape = self._kind("action_space"), self._shape("action_space")
        if kind != "Box" or len(shape) != 1:
            raise ValueError(f"actions must be a Box of one axis for this network, got {kind} {shape}")
        low, high = (str(self._of("action_space").get(name)).strip("[]").split() for name in ("low", "high"))
        try:
            return np.array(low, dtype=float).reshape(shape), np.array(high, dtype=float).reshape(shape)
        except ValueError as error:
            raise ValueError(f"the low and high of the action space cannot be read ({error})") from error

    def _kind(self, name: str) -> str:
        return str(self._of(name).get(":type:")).removesuffix("'>").rpartition(".")[2]

    def _shape(self, name: str) -> tuple[int, ...]:
        shape = self._of(name).get("_shape")
        if (
            not isinstance(shape, list)
            or len(shape) > MAX_AXES
            or not all(isinstance(n, int) and 0 < n < _MAX_SIZE for n in shape)
        ):
            raise ValueError(f"{name} must have a shape of positive numbers, got {shorten(shape)}")
        return tuple(shape)

    def _discrete(self, name: str) -> int:
        n, start = (shorten(self._of(name).get(key, 0)).strip("'") for key in ("n", "start"))
        kind = self._kind(name)
        if kind != "Discrete" or not re.fullmatch("[0-9]{1,9}", n) or start != "0":
            raise ValueError(f"{name} must be Discrete from 0, got {kind[:60]} of {n} from {start}")
        return int(n)
