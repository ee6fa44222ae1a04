"""Multilayer perceptrons that can be rebuilt from their own arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn


def mlp(sizes: Sequence[int], seed: int) -> nn.Sequential:
    """Linear layers of the given sizes with ReLU between them, initialised from `seed` alone.

    Observations of any shape are flattened: (N, ...) -> (N, sizes[0]) -> (N, sizes[-1]).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in zip(sizes[:-1], sizes[1:], strict=True):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def to_arrays(net: nn.Module, prefix: str = "") -> dict[str, NDArray[np.float32]]:
    """The parameters by name, to be saved."""
    return {prefix + name: value.numpy().copy() for name, value in net.state_dict().items()}


def mlp_from_arrays(arrays: Mapping[str, NDArray[np.float32]], prefix: str = "") -> nn.Sequential:
    """Rebuild an `mlp` from what `to_arrays` returned; the shapes say what it looks like.

    Raises:
        ValueError: if the arrays are not those of an `mlp`, or not finite.
    """
    own = {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
    weights = [value for name, value in own.items() if name.endswith("weight")]
    weights = [own[f"{1 + 2 * i}.weight"] for i in range(len(weights)) if f"{1 + 2 * i}.weight" in own]
    if not weights or any(weight.ndim != 2 for weight in weights):
        raise ValueError(f"no network under {prefix!r}: expected {prefix}1.weight, ..., got {sorted(arrays)}")
    sizes = [weights[0].shape[1], *(weight.shape[0] for weight in weights)]
    if any(not np.isfinite(value).all() for value in own.values()):
        raise ValueError(f"the network under {prefix!r} holds numbers that are not finite")
    net = mlp(sizes, seed=0)
    try:
        net.load_state_dict({name: torch.as_tensor(np.array(value)) for name, value in own.items()})
    except RuntimeError as error:
        raise ValueError(f"the network under {prefix!r} does not fit together: {error}") from error
    return net
