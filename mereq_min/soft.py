"""Soft (maximum-entropy) control: the Bellman operator, three solvers, occupancy and successor features.

The equations are those of Ziebart (2010) and Haarnoja et al. (2017); with temperature alpha,

    Q(s, a) = r(s, a) + gamma E[V(s')],   V(s) = alpha logsumexp_a(Q(s, a) / alpha),
    pi(a | s) = exp((Q(s, a) - V(s)) / alpha).

The soft Bellman operator is smooth and convex in V, and soft policy iteration is Newton's method on the
Bellman equation: one linear solve per iteration and quadratic convergence, where value iteration reduces the
error by a factor gamma per sweep.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from mereq_min.mdp import ROW_ERROR, TabularMDP
from mereq_min.policy_chain import NotConvergedError, PolicyChain, rounding_error, sweeps_needed
from mereq_min.validation import Array, check_array, check_log_probabilities, to_float64

SolveMethod = Literal["newton", "modified_policy_iteration", "value_iteration"]
"""The solvers: soft policy iteration, modified policy iteration and value iteration."""
Backend = Literal["scipy", "numba"]
"""The implementation of Newton's method."""

FORCING_TERM = 0.05
"""Relative tolerance of the linear solves in Newton's method."""

ROUNDING_LIMIT = 0.01
"""A policy that rounding may have moved by more than this [total variation] is refused."""


@dataclass(frozen=True, eq=False)
class SoftSolution:
    """A solved soft control problem with its audit trail.

    Attributes:
        q: (S, A) soft Q-values; -inf where the reward forbids the action.
        v: (S,) soft values; 0 in terminal states.
        log_policy: (S, A) log pi(a | s), normalised in every state.
        bellman_error: sup-norm of V - T V at the returned V [reward].
        policy_error: bound on the total variation between the policy and the soft-optimal one, in any state;
            see `solve_soft`.
        iterations: sweeps of value iteration, or policy updates of the other methods.
        method: the solver that ran.
    """

    q: Array
    v: Array
    log_policy: Array
    bellman_error: float
    policy_error: float
    iterations: int
    method: str


def bellman_q(mdp: TabularMDP, v: Array, reward: Array) -> Array:
    """Return the one-step look-ahead Q(s, a) = r(s, a) + gamma E[V(s')], Haarnoja et al. (2017).

    Book: eq-soft-q.

    Args:
        mdp: the MDP.
        v: (S,) values.
        reward: (S, A) reward; -inf forbids an action.

    Returns:
        (S, A) Q-values.
    """
    q = (mdp.transition @ v).reshape(mdp.n_states, mdp.n_actions)
    q *= mdp.gamma
    q += reward
    return q


def soft_value(mdp: TabularMDP, q: Array, temperature: float) -> Array:
    """Return the soft maximum V(s) = alpha logsumexp_a(Q(s, a) / alpha), Haarnoja et al. (2017).

    It is 0 in terminal states.

    Book: eq-soft-v.

    Args:
        mdp: the MDP.
        q: (S, A) Q-values.
        temperature: alpha > 0.

    Returns:
        (S,) values.
    """
    return _soft_value_and_policy(mdp, q, temperature)[0]


def log_softmax(logits: Array) -> Array:
    """Return log-probabilities (S, A) from logits (S, A), without overflow; -inf stays -inf.

    Book: eq-soft-policy.
    """
    # Transposed, because numpy reduces a short axis many times faster when it comes first.
    shifted = np.array(logits.T, order="C")
    shifted -= shifted.max(axis=0)
    shifted -= np.log(np.exp(shifted).sum(axis=0))
    return np.ascontiguousarray(shifted.T)


@np.errstate(over="ignore", invalid="ignore")  # overflow is reported as an error
def solve_soft(
    mdp: TabularMDP,
    reward: ArrayLike,
    temperature: float,
    *,
    method: SolveMethod = "newton",
    tol: float = 1e-8,
    initial_v: ArrayLike | None = None,
    max_iterations: int | None = None,
    backend: Backend = "scipy",
) -> SoftSolution:
    """Solve the soft Bellman equation V = alpha logsumexp((r + gamma P V) / alpha), Ziebart (2010).

    The Bellman error e [reward], in units of the temperature, bounds the error of the policy:

        |log pi - log pi*| <= D := 2 gamma e / ((1 - gamma) alpha),   TV(pi, pi*) <= tanh(D / 4) <= D / 4.

    |V - V*| <= e / (1 - gamma), because T is a gamma-contraction. So the logits Q / alpha are off by at most
    gamma e / ((1 - gamma) alpha), and differences of two of them by at most D. Hence the odds of any set of
    actions change by a factor of at most exp(D), and its probability by at most tanh(D / 4).

    The solver works in the power of two next to the temperature as its unit. If reward and temperature are
    scaled together by a power of two, the policy stays the same to the last bit; by any other factor, up to
    the rounding of the scaled reward.

    Book: eq-soft-return, eq-newton, eq-policy-error.

    Args:
        mdp: the MDP.
        reward: (S, A) reward; -inf forbids an action, but each state must allow at least one.
        temperature: alpha > 0 [reward].
        method: "newton" (soft policy iteration), "modified_policy_iteration" or "value_iteration".
        tol: bound on the sup-norm Bellman error [temperature]. If the values are too large for float64 to
            reach it, the bound is the rounding error of one backup instead; `policy_error` includes it.
        initial_v: (S,) warm start [reward].
        max_iterations: default: 500 for Newton, else the most that a gamma-contraction can need.
        backend: "scipy", or "numba" for the compiled Newton method (`pip install 'mereq-min[fast]'`).

    Returns:
        The solution with its Bellman error and the bound on the error of its policy.

    Raises:
        ValueError: on malformed input, or if the values are so large beside the temperature that rounding
            alone may move the policy by more than `ROUNDING_LIMIT`.
        ImportError: if the backend is numba and numba is not installed.
        NotConvergedError: if the error is still above the tolerance after `max_iterations`.
    """
    reward = check_reward(mdp, reward)
    limit = _check_solver(mdp, temperature, method, tol, max_iterations, backend)
    shape = (mdp.n_states,)
    v = np.zeros(shape) if initial_v is None else check_array("initial_v", initial_v, shape=shape)
    v[mdp.terminal] = 0.0
    # Exact, and from here on the temperature lies in [1, 2): nothing overflows or underflows for its unit.
    unit = 2.0 ** (math.frexp(temperature)[1] - 1)
    reward, v = _times("reward", reward, 1.0 / unit), _times("initial_v", v, 1.0 / unit)
    alpha = float(temperature) / unit
    target = tol * alpha
    done = 0
    if backend == "numba":
        # The loop below checks the values of the compiled solver, and improves them where needed.
        done = _import_compiled_newton()(mdp, reward, alpha, target, v, limit)
    for iteration in range(done, limit + 1):
        q = bellman_q(mdp, v, reward)
        backed_up, policy = _soft_value_and_policy(mdp, q, alpha)
        residual = np.subtract(backed_up, v, out=backed_up)
        error = float(np.abs(residual).max())
        if not np.isfinite(error):
            raise ValueError("reward is too large: the values overflow float64; rescale it")
        if error <= target or error <= rounding_error(v):
            log_policy = log_softmax(q / alpha)
            bound = _policy_error(mdp, v, log_policy, error, alpha)
            q, v = _times("reward", q, unit), _times("reward", v, unit)
            return SoftSolution(q, v, log_policy, error * unit, bound, iteration, method)
        if iteration < limit:
            v = v + _CORRECTIONS[method](mdp, policy, residual, _forcing_term(iteration, target / error))
    raise NotConvergedError(
        f"{method} reached a Bellman error of {error / alpha:.3g} after {limit} iterations, not {tol:.3g} "
        "[temperature]; raise max_iterations or tol"
    )


def _times(name: str, x: Array, factor: float) -> Array:
    """Return x * factor, after checking that no entry overflows."""
    scaled = x * factor
    if np.isinf(scaled).sum() > np.isinf(x).sum():
        raise ValueError(f"{name} is too large for the temperature: the values overflow float64; rescale it")
    return scaled


def _policy_error(mdp: TabularMDP, v: Array, log_policy: Array, error: float, temperature: float) -> float:
    """Return the bound on the total variation of `solve_soft`, which includes rounding.

    Raises:
        ValueError: if rounding alone accounts for more than `ROUNDING_LIMIT`.
    """
    rounding = rounding_error(v)

    def bound(error: float) -> float:
        # Rounding enters twice: the true Bellman error may be larger than the computed one, and Q is rounded.
        change = 2.0 * (mdp.gamma * error + rounding) / ((1.0 - mdp.gamma * (1.0 + ROW_ERROR)) * temperature)
        return _variation(mdp, log_policy, change)

    if (unavoidable := bound(min(error, rounding))) > ROUNDING_LIMIT:
        raise ValueError(
            f"rounding may have moved the policy by {unavoidable:.2g} (total variation), because the values "
            f"reach {np.abs(v).max() / temperature:.2g} times the temperature and gamma is {mdp.gamma:.10g}; "
            "raise the temperature, lower gamma, or bring the reward closer to 0"
        )
    return bound(error)


def _variation(mdp: TabularMDP, log_policy: Array, change: float) -> float:
    """Return by how much [total variation] a policy moves at most if its log odds change by `change`."""
    if mdp.n_actions == 1 or mdp.terminal.all():
        return 0.0
    worst = math.tanh(change / 4.0)
    if worst <= ROUNDING_LIMIT:
        return worst
    # Where one action leads by a wide margin in the log odds, the others stay improbable all the same.
    top = np.partition(log_policy[~mdp.terminal], -2, axis=1)[:, -2:]
    lead = float((top[:, 1] - top[:, 0]).min())
    return min(worst, (mdp.n_actions - 1) * math.exp(min(change - lead, 0.0)))


def _import_compiled_newton() -> Callable[[TabularMDP, Array, float, float, Array, int], int]:
    try:
        from mereq_min.soft_numba import solve_newton
    except ModuleNotFoundError as error:
        raise ImportError("backend 'numba' needs numba: pip install 'mereq-min[fast]'") from error
    return solve_newton


def _check_solver(
    mdp: TabularMDP,
    temperature: float,
    method: str,
    tol: float,
    max_iterations: int | None,
    backend: str,
) -> int:
    check_temperature(temperature)
    if not tol > 0:
        raise ValueError(f"tol must be positive, got {tol}")
    if method not in _CORRECTIONS:
        raise ValueError(f"method must be one of {sorted(_CORRECTIONS)}, got {method!r}")
    if backend not in ("scipy", "numba"):
        raise ValueError(f"backend must be 'scipy' or 'numba', got {backend!r}")
    if backend == "numba" and method != "newton":
        raise ValueError(f"backend 'numba' supports only method 'newton', got {method!r}")
    if max_iterations is None:
        return 500 if method == "newton" else sweeps_needed(mdp.gamma, tol)
    if max_iterations < 0:
        raise ValueError(f"max_iterations must not be negative, got {max_iterations}")
    return max_iterations


def check_temperature(temperature: Any) -> None:
    """Check that a temperature is a positive, finite and normal float64.

    Raises:
        ValueError: naming what it got and what would be right.
    """
    number = isinstance(temperature, Real) and not isinstance(temperature, bool)
    if not number or not temperature > 0 or not np.isfinite(temperature):
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    if temperature < sys.float_info.min:
        raise ValueError(
            f"temperature must be at least {sys.float_info.min:.3g}, below which float64 loses digits, got "
            f"{temperature}; scale reward and temperature up together"
        )


def check_reward(mdp: TabularMDP, reward: ArrayLike) -> Array:
    """Return a copy of `reward` as an (S, A) float array, after checking it.

    Raises:
        ValueError: on entries that are not real numbers, a wrong shape, NaN, +inf, or a state in which every
            action is forbidden (-inf).
    """
    reward = to_float64("reward", reward)
    if reward.shape != (mdp.n_states, mdp.n_actions):
        raise ValueError(
            f"reward must have shape (S, A) = {(mdp.n_states, mdp.n_actions)}, got {reward.shape}"
        )
    if np.isfinite(reward).all():
        return reward
    if np.isnan(reward).any() or (reward == np.inf).any():
        raise ValueError("reward must be finite, or -inf for a forbidden action; got NaN or +inf")
    if np.isneginf(reward).all(axis=1).any():
        raise ValueError("reward forbids every action in some state; allow at least one")
    return reward


def _forcing_term(iteration: int, reduction: float) -> float:
    # With deterministic moves and gamma near 1, rough solves may never converge: tighten them with time.
    return min(max(FORCING_TERM ** (1 + iteration // 40), 0.3 * reduction), 0.5)


def _soft_value_and_policy(mdp: TabularMDP, q: Array, temperature: float) -> tuple[Array, Array]:
    """Return the soft values V (S,) and the policy (A, S), transposed as in `log_softmax`."""
    policy = np.array(q.T, order="C")
    top = policy.max(axis=0)
    policy -= top
    policy /= temperature
    np.exp(policy, out=policy)
    total = policy.sum(axis=0)
    policy /= total
    v = np.log(total, out=total)
    v *= temperature
    v += top
    v[mdp.terminal] = 0.0
    return v, policy


def _newton_correction(mdp: TabularMDP, policy: Array, residual: Array, rtol: float) -> Array:
    # The derivative of the soft Bellman operator T is gamma P_pi: the step is (I - gamma P_pi)^-1 (T V - V).
    return PolicyChain(mdp, policy.T).solve(residual, rtol=rtol)


def _modified_policy_correction(mdp: TabularMDP, policy: Array, residual: Array, rtol: float) -> Array:
    # 30 sweeps of policy evaluation: sum_i (gamma P_pi)^i (T V - V).
    chain = PolicyChain(mdp, policy.T)
    correction = residual.copy()
    for _ in range(30):
        residual = chain.discounted @ residual
        correction += residual
    return correction


def _value_correction(mdp: TabularMDP, policy: Array, residual: Array, rtol: float) -> Array:
    return residual


_CORRECTIONS = {
    "newton": _newton_correction,
    "modified_policy_iteration": _modified_policy_correction,
    "value_iteration": _value_correction,
}


def occupancy(mdp: TabularMDP, log_policy: ArrayLike) -> Array:
    """Return the discounted occupancy measure of a policy, from rho0.

    d(s, a) = (1 - gamma) sum_t gamma^t P(s_t = s, a_t = a). It sums to 1, or to less where episodes end in
    terminal states. Puterman (1994), section 6.9.

    Book: eq-occupancy.

    Args:
        mdp: the MDP.
        log_policy: (S, A) log pi(a | s).

    Returns:
        (S, A) occupancy.

    Raises:
        ValueError: if `log_policy` is malformed.
        NotConvergedError: if the linear solve fails.
    """
    policy = np.exp(check_log_policy(mdp, log_policy))
    states = PolicyChain(mdp, policy).solve((1.0 - mdp.gamma) * mdp.initial, transposed=True)
    return np.where(mdp.terminal, 0.0, states)[:, None] * policy


def discounted_sum(mdp: TabularMDP, log_policy: ArrayLike, x: ArrayLike) -> Array:
    """Return the expected discounted sum of x(s_t, a_t) from each (s, a) on, following the policy after it.

    Y(s, a) = x(s, a) + gamma E[sum_a' pi(a' | s') Y(s', a')]. For x = r this is Q of the policy without
    entropy, for x = f its successor features.

    Args:
        mdp: the MDP.
        log_policy: (S, A) log pi(a | s).
        x: quantities to sum, (S, A) or (S, A, M).

    Returns:
        The sums, in the shape of `x`.

    Raises:
        ValueError: if an argument is malformed.
        NotConvergedError: if the linear solve fails.
    """
    policy = np.exp(check_log_policy(mdp, log_policy))
    x = check_array("x", x)
    S, A = policy.shape
    if x.shape[:2] != (S, A) or x.ndim > 3:
        raise ValueError(f"x must have shape (S, A) = {(S, A)} or (S, A, M), got {x.shape}")
    flat = x.reshape(S, A, -1)
    expected = np.einsum("sa,sam->sm", np.where(mdp.terminal[:, None], 0.0, policy), flat)
    with np.errstate(over="ignore", invalid="ignore"):
        to_come = PolicyChain(mdp, policy).solve(expected)
        sums = flat + mdp.gamma * (mdp.transition @ to_come).reshape(S, A, -1)
    if not np.isfinite(sums).all():
        raise ValueError("x is too large: its discounted sums overflow float64; rescale it")
    return sums.reshape(x.shape)


def successor_features(mdp: TabularMDP, log_policy: ArrayLike) -> Array:
    """Return the successor features psi(s, a): the expected discounted sum of features under the policy.

    Barreto et al. (2017), equation 3. psi of pi_hat is the derivative of Q_R with respect to theta.

    Book: eq-psi.

    Args:
        mdp: the MDP.
        log_policy: (S, A) log pi(a | s).

    Returns:
        (S, A, K) successor features.

    Raises:
        ValueError: if `log_policy` is malformed.
        NotConvergedError: if the linear solve fails.
    """
    return discounted_sum(mdp, log_policy, mdp.features)


def check_log_policy(mdp: TabularMDP, log_policy: ArrayLike, name: str = "log_policy") -> Array:
    """Return a copy of `log_policy` as an (S, A) float array, after checking it.

    Raises:
        ValueError: on entries that are not real numbers, a wrong shape, NaN, or rows whose probabilities do
            not sum to 1.
    """
    return check_log_probabilities(name, log_policy, shape=(mdp.n_states, mdp.n_actions))
