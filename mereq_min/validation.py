"""Checks of arguments; their errors name the argument, what it got and what would be right."""

import math
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
"""Array of float64."""
Mask = NDArray[np.bool_]
"""Array of booleans."""

TOO_LARGE = 2**63
"""Integers from here on do not fit into 64 bits."""


def check_number(
    name: str,
    value: Any,
    minimum: float,
    maximum: float = np.inf,
    *,
    exclusive: bool = False,
    integer: bool = False,
) -> None:
    """Check that a value is a finite number from `minimum` to `maximum`.

    Args:
        name: name of the argument.
        value: value of the argument.
        minimum: smallest allowed value.
        maximum: largest allowed value.
        exclusive: whether `minimum` itself is refused too.
        integer: whether only integers are accepted; they must fit into 64 bits.

    Raises:
        ValueError: naming the argument, what it got and what would be right.
    """
    number = isinstance(value, Integral if integer else Real) and not isinstance(value, bool)
    fits = number and _is_finite(value, integer)
    if fits and minimum <= value <= maximum and not (exclusive and value == minimum):
        return
    kind = "an integer" if integer else "a finite number"
    bounds = f"above {minimum:g}" if exclusive else f"at least {minimum:g}"
    bounds += f" and at most {maximum:g}" if maximum < np.inf else ""
    bounds += " and below 2^63" if integer and number and not fits and maximum == np.inf else ""
    is_long = isinstance(value, int) and value.bit_length() > 400
    raise ValueError(
        f"{name} must be {kind} {bounds}, got {'a very long integer' if is_long else repr(value)}"
    )


def _is_finite(value: Any, integer: bool) -> bool:
    """Whether an integer has at most 64 bits, or another number can be a finite float."""
    if integer:
        return -TOO_LARGE <= value < TOO_LARGE
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def to_float64(name: str, value: ArrayLike) -> Array:
    """Return a float64 copy of an array of real numbers; booleans become 0 and 1.

    Raises:
        ValueError: on complex numbers, text, other objects, masked entries or rows of different shapes, which
            numpy would silently turn into real numbers, or not convert at all.
    """
    try:
        array = np.asarray(value)
    except ValueError:
        raise ValueError(f"{name} must be an array of numbers, got rows of different shapes") from None
    is_real = array.dtype.kind in "buif" or (array.dtype == object and all(map(_is_real, array.flat)))
    if not is_real or np.ma.is_masked(value):
        kind = "masked entries" if is_real else f"entries of type {_type_name(array)}"
        raise ValueError(f"{name} must hold real numbers, got {kind}")
    try:
        with np.errstate(over="ignore"):  # what is too large for float64 becomes infinite
            return np.array(array, dtype=np.float64)
    except OverflowError:
        raise ValueError(f"{name} must hold numbers that fit float64, got a larger integer") from None


def _is_real(x: Any) -> bool:
    return isinstance(x, Real)


def _type_name(array: NDArray[Any]) -> str:
    if array.dtype != object:
        return str(array.dtype)
    return type(next(x for x in array.flat if not _is_real(x))).__name__


def check_array(
    name: str, value: ArrayLike, *, shape: tuple[int, ...] | None = None, ndim: int | None = None
) -> Array:
    """Return a float64 copy of `value` after checking its shape and that all entries are finite.

    Raises:
        ValueError: if the entries are not real numbers, the shape or number of axes is wrong, or an entry is
            NaN or infinite.
    """
    array = to_float64(name, value)
    if shape is not None and array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    if ndim is not None and array.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} axes, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got {np.count_nonzero(~np.isfinite(array))} bad entries")
    return array


def check_log_probabilities(name: str, value: ArrayLike, *, shape: tuple[int, ...] | None = None) -> Array:
    """Return a float64 copy of a table (S, A) of log-probabilities after checking that rows are normalised.

    Raises:
        ValueError: on entries that are not real numbers, a wrong shape, NaN, or rows whose probabilities do
            not sum to 1 within 1e-6.
    """
    log_policy = to_float64(name, value)
    if log_policy.ndim != 2 or (shape is not None and log_policy.shape != shape):
        raise ValueError(f"{name} must have shape {shape or '(S, A)'}, got {log_policy.shape}")
    if np.isnan(log_policy).any():
        raise ValueError(f"{name} must not hold NaN; use -inf for an action that is never taken")
    with np.errstate(over="ignore"):
        sums = np.exp(log_policy).sum(axis=1)
    worst = int(np.argmax(np.abs(sums - 1.0)))
    if not abs(sums[worst] - 1.0) <= 1e-6:
        raise ValueError(
            f"{name} must hold log-probabilities, but exp sums to {sums[worst]:.6g} in state {worst}"
        )
    return log_policy
