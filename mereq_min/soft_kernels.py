"""What the compiled solvers share: the soft maximum of many states at a time, and how accurate a step is."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mereq_min import policy_chain
from mereq_min.validation import Array

LOG2_E = 1.4426950408889634
"""log2(e)."""
LN2_HIGH, LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
"""ln(2) as the sum of two floats, so that multiples of the first are exact."""
ROUND = 1.5 * 2.0**52
"""Adding it to a float64 leaves the nearest integer in the lowest bits."""
ROOT_HALF = 0x3FE6A09E667F3BCD
"""Bits of the float64 nearest to sqrt(1/2)."""

MIN_RAISED_SHARE = 0.02
"""Share of the states whose value a greedy sweep must raise for another sweep to be worth it."""

_rounding_error = njit(cache=True)(policy_chain.rounding_error)


@njit(cache=True)
def rounding_error(v: Array) -> float:
    """Return `policy_chain.rounding_error` of values v (S,)."""
    return _rounding_error(v)


@njit(cache=True)
def forcing_term(iteration: int, growth: float, reduction: float) -> float:
    """Return the relative tolerance of a linear solve: the squared reduction of the error in the last update.

    Eisenstat and Walker (1996); it is bounded, and tightened with time.
    """
    rtol = min(0.02, max(growth * growth, 1e-3)) ** (1 + iteration // 40)
    return min(max(rtol, 0.3 * reduction), 0.5)


@njit(cache=True, fastmath={"contract"}, error_model="numpy")
def soft_value_and_policy(
    q: Array, alpha: float, scratch: Array, bits: NDArray, value: Array, policy: NDArray
) -> None:
    """Write the soft maximum of q (A, block) over actions into `value`, and the policy; overwrites q."""
    A, block, sharpness = len(q), len(value), 1.0 / alpha
    top, total = q[0].copy(), np.zeros(block)
    for a in range(1, A):
        for i in range(block):
            top[i] = q[a, i] if q[a, i] > top[i] else top[i]
    for a in range(A):
        for i in range(block):
            q[a, i] = (q[a, i] - top[i]) * sharpness
        _exp_in_place(q[a], scratch, bits)
        for i in range(block):
            total[i] += q[a, i]
    _log(total, scratch, bits, value)
    for i in range(block):
        value[i] = top[i] + alpha * value[i]
        total[i] = 1.0 / total[i]
    for a in range(A):
        for i in range(block):
            policy[a, i] = q[a, i] * total[i]


@njit(cache=True, fastmath={"contract"})
def _exp_in_place(x: Array, scratch: Array, bits: NDArray) -> None:
    """Replace x <= 0 by exp(x) = 2^n e^f, with a Taylor series for |f| <= ln(2) / 2; numba vectorises it.

    `bits` is `scratch` read as integers. Below -700 the result is exp(-700).
    """
    for i in range(len(x)):
        z = x[i] if x[i] > -700.0 else -700.0
        rounded = z * LOG2_E + ROUND
        scratch[i] = rounded
        n = rounded - ROUND
        f = (z - n * LN2_HIGH) - n * LN2_LOW
        p = 1.0 / 479001600.0
        p = p * f + 1.0 / 39916800.0
        p = p * f + 1.0 / 3628800.0
        p = p * f + 1.0 / 362880.0
        p = p * f + 1.0 / 40320.0
        p = p * f + 1.0 / 5040.0
        p = p * f + 1.0 / 720.0
        p = p * f + 1.0 / 120.0
        p = p * f + 1.0 / 24.0
        p = p * f + 1.0 / 6.0
        p = p * f + 0.5
        p = p * f + 1.0
        x[i] = p * f + 1.0
    for i in range(len(x)):
        bits[i] = (bits[i] + 1023) << 52  # the float64 2^n
    for i in range(len(x)):
        x[i] *= scratch[i]


@njit(cache=True, fastmath={"contract"}, error_model="numpy")
def _log(x: Array, scratch: Array, bits: NDArray, out: Array) -> None:
    """Write log(x) for x >= 1 into `out`: x = 2^n m, log(m) = 2 artanh((m - 1) / (m + 1))."""
    for i in range(len(x)):
        scratch[i] = x[i]
    for i in range(len(x)):
        n = (bits[i] - ROOT_HALF) >> 52
        bits[i] -= n << 52  # the float64 m, between sqrt(1/2) and sqrt(2)
        out[i] = n
    for i in range(len(x)):
        f = (scratch[i] - 1.0) / (scratch[i] + 1.0)
        g = f * f
        p = 1.0 / 19.0
        p = p * g + 1.0 / 17.0
        p = p * g + 1.0 / 15.0
        p = p * g + 1.0 / 13.0
        p = p * g + 1.0 / 11.0
        p = p * g + 1.0 / 9.0
        p = p * g + 1.0 / 7.0
        p = p * g + 1.0 / 5.0
        p = p * g + 1.0 / 3.0
        out[i] = out[i] * LN2_HIGH + (out[i] * LN2_LOW + 2.0 * f * (p * g + 1.0))
