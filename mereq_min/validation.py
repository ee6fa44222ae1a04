"""What arguments have to be, said in one sentence where they are not."""

from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def check_number(
    name: str, value: Any, least: float, most: float = np.inf, *, above: bool = False, whole: bool = False
) -> None:
    """Refuse what is not a finite number from `least` to `most`.

    Args:
        name: of the argument.
        value: what was given.
        least: smallest value.
        most: largest value.
        above: `least` itself is refused too.
        whole: only integers will do.

    Raises:
        ValueError: naming the argument, what it got and what would be right.
    """
    number = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
    if number and np.isfinite(value) and least <= value <= most and not (above and value == least):
        return
    kind = "a whole number" if whole else "a finite number"
    bounds = f"above {least:g}" if above else f"at least {least:g}"
    bounds += f" and at most {most:g}" if most < np.inf else ""
    raise ValueError(f"{name} must be {kind} {bounds}, got {value!r}")


def check_array(
    name: str, value: ArrayLike, *, shape: tuple[int, ...] | None = None, ndim: int | None = None
) -> Array:
    """Return a float64 copy of `value`, or say which argument is malformed.

    Raises:
        ValueError: if the shape or number of axes is wrong or an entry is NaN or infinite.
    """
    array = np.array(value, dtype=np.float64)
    if shape is not None and array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    if ndim is not None and array.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} axes, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got {np.count_nonzero(~np.isfinite(array))} bad entries")
    return array


def check_log_probabilities(name: str, value: ArrayLike, *, shape: tuple[int, ...] | None = None) -> Array:
    """Return a float64 copy of a table (S, A) of log-probabilities, normalised over actions.

    Raises:
        ValueError: on a wrong shape, NaN, or rows whose probabilities do not sum to 1.
    """
    log_policy = np.array(value, dtype=np.float64)
    if log_policy.ndim != 2 or (shape is not None and log_policy.shape != shape):
        raise ValueError(f"{name} must have shape {shape or '(S, A)'}, got {log_policy.shape}")
    if np.isnan(log_policy).any():
        raise ValueError(f"{name} must not hold NaN; use -inf for an action that is never chosen")
    sums = np.exp(log_policy).sum(axis=1)
    worst = int(np.argmax(np.abs(sums - 1.0)))
    if not abs(sums[worst] - 1.0) <= 1e-6:
        raise ValueError(
            f"{name} must hold log-probabilities, but exp sums to {sums[worst]:.6g} in state {worst}"
        )
    return log_policy
