"""Multilayer perceptrons and their optimisers; both can be saved as plain arrays and rebuilt from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mereq_min.validation import check_number

ACTIVATIONS: tuple[type[nn.Module], ...] = (
    nn.ReLU, nn.Tanh, nn.ELU, nn.GELU, nn.LeakyReLU, nn.SiLU, nn.Sigmoid,
)  # fmt: skip
"""Activations that an `mlp` may have; a saved network names its own by the index in this tuple."""

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # of Adam


class Scale(nn.Module):
    """Flattens observations (N, ...) and multiplies their entries by fixed factors (n,)."""

    def __init__(self, scale: NDArray[Any]) -> None:
        super().__init__()
        self.scale: torch.Tensor
        self.register_buffer("scale", to_tensor(scale))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Scale observations (N, ...) to (N, n)."""
        return inputs.flatten(1) * self.scale


class OneHot(nn.Module):
    """Encodes indices (N,) as unit vectors (N, n)."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n_states = n

    def forward(self, index: torch.Tensor) -> torch.Tensor:
        """Encode indices (N,) as (N, n)."""
        return nn.functional.one_hot(index.long(), self.n_states).float()


MAX_WIDTH = 100_000
"""Largest width of a hidden layer [units]."""


def check_hidden(widths: Sequence[int]) -> None:
    """Raise ValueError if the widths of hidden layers are not integers from 1 to `MAX_WIDTH`."""
    for width in widths:
        check_number("hidden", width, 1, MAX_WIDTH, integer=True)


def mlp(
    sizes: Sequence[int],
    seed: int,
    scale: NDArray[Any] | None = None,
    activation: type[nn.Module] = nn.ReLU,
) -> nn.Sequential:
    """Return linear layers with an activation between them: (N, ...) -> (N, sizes[0]) -> (N, sizes[-1]).

    Args:
        sizes: widths of the input, the hidden layers and the output. Observations are flattened.
        seed: of the initial weights; torch's global generator is left alone.
        scale: (sizes[0],) factors of the input's entries. Entries that vary by much less than 1 are learnt
            slowly, unless they are scaled up.
        activation: between the layers.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = [nn.Flatten() if scale is None else Scale(scale)]
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*layers[:-1])


_Step = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def _linear(layer: nn.Linear) -> _Step:
    weight = layer.weight.detach().numpy().T
    bias = 0.0 if layer.bias is None else layer.bias.detach().numpy()
    return lambda x: x @ weight + bias


def _flatten(layer: nn.Flatten) -> _Step:
    start = layer.start_dim
    return lambda x: x.reshape(*x.shape[:start], -1)


def _scale(layer: Scale) -> _Step:
    scale = layer.scale.numpy()
    return lambda x: x.reshape(len(x), -1) * scale


_IN_NUMPY: dict[type[nn.Module], Callable[[Any], _Step]] = {
    nn.Flatten: _flatten,
    Scale: _scale,
    nn.Linear: _linear,
    nn.ReLU: lambda layer: lambda x: np.maximum(x, 0),
    nn.Tanh: lambda layer: np.tanh,
}
"""By type of layer, a function that turns the layer into a numpy function, which shares its weights."""

_STEPS = WeakKeyDictionary[nn.Module, list[_Step] | None]()
"""Steps that `evaluate` takes for each network it has met, None for those that torch evaluates."""


def evaluate(net: nn.Module, observations: NDArray[Any]) -> NDArray[np.float32]:
    """Return the outputs (N, ...) of a network for observations (N, ...), without gradients.

    An `mlp` with ReLU or tanh is evaluated by numpy, because torch's overhead dominates on the small batches
    of rollouts. Other networks are evaluated by torch.
    """
    if net not in _STEPS:
        layers = list(net) if isinstance(net, nn.Sequential) else [net]
        known = all(type(layer) in _IN_NUMPY for layer in layers)
        _STEPS[net] = [_IN_NUMPY[type(layer)](layer) for layer in layers] if known else None
    steps = _STEPS[net]
    if steps is None:
        with torch.no_grad():
            return net(to_tensor(observations)).numpy()
    x = np.asarray(observations, np.float32)
    for step in steps:
        x = step(x)
    return x


def to_tensor(array: NDArray[Any]) -> torch.Tensor:
    """Copy an array to a float32 tensor; the array may be read-only."""
    return torch.as_tensor(np.array(array, dtype=np.float32))


def zero_last_layer(net: nn.Module) -> None:
    """Set the last layer to 0, so that the outputs are 0 until they are trained."""
    with torch.no_grad():
        for parameter in list(net.parameters())[-2:]:
            parameter.zero_()


def with_prefix(arrays: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    """Return the arrays whose names begin with the prefix, under their names without it."""
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def to_arrays(net: nn.Module, prefix: str = "") -> dict[str, NDArray[np.float32]]:
    """Return the parameters and buffers by name, to be saved."""
    return {prefix + name: value.numpy().copy() for name, value in net.state_dict().items()}


def load_arrays(net: nn.Module, arrays: Mapping[str, NDArray[Any]], prefix: str = "") -> None:
    """Load the parameters that `to_arrays` returned into a network.

    Raises:
        ValueError: if arrays are missing, left over, of the wrong shape or not finite.
    """
    own = with_prefix(arrays, prefix)
    if any(not np.isfinite(value).all() for value in own.values()):
        raise ValueError(f"the network under {prefix!r} holds numbers that are not finite")
    try:
        net.load_state_dict({name: torch.as_tensor(np.array(value)) for name, value in own.items()})
    except RuntimeError as error:
        raise ValueError(f"the network does not fit the arrays under {prefix!r}: {error}") from error


def find_activation(net: nn.Module) -> int:
    """Return the index in `ACTIVATIONS` of a network's activation, or -1 if it is not built like an `mlp`."""
    first, *rest = list(net) if isinstance(net, nn.Sequential) and len(net) else [net]
    linear, between = rest[::2], {repr(module) for module in rest[1::2]}
    alternates = isinstance(first, nn.Flatten | Scale) and len(rest) % 2 == 1
    if not alternates or not all(isinstance(module, nn.Linear) for module in linear):
        return -1
    return next((index for index, each in enumerate(ACTIVATIONS) if between <= {repr(each())}), -1)


def is_mlp(net: nn.Module) -> bool:
    """Return whether a network is built like an `mlp`."""
    return find_activation(net) >= 0


def mlp_to_arrays(net: nn.Module, prefix: str = "") -> dict[str, NDArray[Any]]:
    """Return the parameters by name and, unless it is ReLU, the index of the activation in `ACTIVATIONS`."""
    index = find_activation(net)
    activation = {f"{prefix}activation": np.array(index)} if index else {}
    return {**activation, **to_arrays(net, prefix)}


def mlp_from_arrays(arrays: Mapping[str, NDArray[Any]], prefix: str = "") -> nn.Sequential:
    """Rebuild an `mlp` from what `mlp_to_arrays` returned; the shapes of the arrays give its layers.

    Raises:
        ValueError: if the arrays are not those of an `mlp`, or not finite.
    """
    index = arrays.get(f"{prefix}activation", np.array(0)).tolist()
    if not isinstance(index, int) or index not in range(len(ACTIVATIONS)):
        raise ValueError(
            f"the network under {prefix!r} was not built like `deep.nets.mlp`, so it cannot be rebuilt from "
            "its arrays"
        )
    arrays = {name: value for name, value in arrays.items() if name != f"{prefix}activation"}
    own = with_prefix(arrays, prefix)
    weights = [value for name, value in own.items() if name.endswith("weight")]
    weights = [own[f"{1 + 2 * i}.weight"] for i in range(len(weights)) if f"{1 + 2 * i}.weight" in own]
    if not weights or any(weight.ndim != 2 for weight in weights):
        raise ValueError(f"no network under {prefix!r}: expected {prefix}1.weight, ..., got {sorted(arrays)}")
    sizes = [weights[0].shape[1], *(weight.shape[0] for weight in weights)]
    net = mlp(sizes, seed=0, scale=own.get("0.scale"), activation=ACTIVATIONS[index])
    load_arrays(net, arrays, prefix)
    return net


def optimiser_to_arrays(optimiser: torch.optim.Optimizer, prefix: str = "") -> dict[str, NDArray[Any]]:
    """Return the optimiser's moments and step counts as `<prefix><parameter>.<moment>`, to be saved."""
    state = optimiser.state_dict()["state"]
    return {
        f"{prefix}{i}.{name}": value.numpy().copy()
        for i, moments in state.items()
        for name, value in moments.items()
    }


def load_optimiser(
    optimiser: torch.optim.Optimizer, arrays: Mapping[str, NDArray[Any]], prefix: str = ""
) -> None:
    """Load the moments that `optimiser_to_arrays` returned into an Adam optimiser; its settings stay.

    Raises:
        ValueError: if a moment is missing, not shaped like its parameter, or not finite.
    """
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in with_prefix(arrays, prefix).items():
        number, _, name = key.partition(".")
        index = int(number) if number.isdecimal() else len(parameters)
        is_moment = name in _MOMENTS and index < len(parameters)
        if not is_moment or value.shape != (() if name == "step" else parameters[index].shape):
            raise ValueError(f"{prefix}{key} of shape {value.shape} is not a moment of this optimiser")
        if not np.isfinite(value).all():
            raise ValueError(f"{prefix}{key} holds numbers that are not finite")
        state.setdefault(index, {})[name] = torch.as_tensor(np.array(value))
    for index, moments in state.items():
        if len(moments) < len(_MOMENTS):
            raise ValueError(f"{prefix}{index} must have {', '.join(_MOMENTS)}, got {', '.join(moments)}")
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
