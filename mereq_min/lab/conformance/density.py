"""Statistical tests of whether a policy samples from the distribution that its log-probabilities describe."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import chisquare, multivariate_normal, poisson

from mereq_min.validation import Array

P_VALUE = 1e-5
"""Only deviations that chance would produce less often than this are reported."""
DRAWS = 4_000
"""Number of actions drawn in one state."""


@dataclass(frozen=True)
class PolicySubject:
    """A policy under check.

    Attributes:
        policy: the policy.
        states: (N, ...) states of its environment.
        space: action space of that environment.
        seed: seed of everything that the checks draw.
    """

    policy: Any
    states: NDArray[Any]
    space: Any
    seed: int

    @property
    def is_discrete(self) -> bool:
        """Whether the action space is `Discrete`."""
        return hasattr(self.space, "n")

    @property
    def indices(self) -> NDArray[np.int64]:
        """All actions (A,) of a `Discrete` space."""
        return int(self.space.start) + np.arange(int(self.space.n))

    def some_states(self, n: int) -> NDArray[Any]:
        """At most `n` of the states, evenly spaced."""
        return self.states[np.unique(np.linspace(0, len(self.states) - 1, n).astype(int))]

    def sample(self, states: NDArray[Any], seed: int) -> NDArray[Any]:
        """Draw actions (N, ...) with a fresh generator."""
        return self.policy.sample(states.copy(), np.random.default_rng((self.seed, seed)))

    def log_prob(self, states: NDArray[Any], actions: NDArray[Any]) -> Array:
        """Log-probabilities (N,) as float64."""
        return np.asarray(self.policy.log_prob(states.copy(), actions.copy()), dtype=np.float64)

    @cached_property
    def densities(self) -> list[Density]:
        """Draws and densities over a `Box`, in up to three states in which they can be compared."""
        states = self.some_states(3)
        found = [measure_density(self, state, index) for index, state in enumerate(states)]
        return [density for density in found if density is not None]


class Density(NamedTuple):
    """Drawn latents (M, D + 1) and proposed latents (N, D + 1); the last column is their log-density."""

    drawn: Array
    proposed: Array
    weights: Array
    """(N,) importance weights, density over proposal density; their mean estimates the density's integral."""


def measure_density(subject: PolicySubject, state: NDArray[Any], index: int) -> Density | None:
    """Integrate exp(log_prob) in one state by importance sampling, with a proposal wider than the draws.

    Bounded actions are mapped to the whole line by the inverse of tanh.

    Args:
        subject: the policy under check.
        state: (...) the state.
        index: number of the state, which varies the seed.

    Returns:
        None where `sample` draws single points, or where more than 1 % of its draws lie at the bounds, as
        float32 cannot resolve the density there.
    """
    rng = np.random.default_rng((subject.seed, index))
    states = np.repeat(state[None], DRAWS, axis=0)
    actions = subject.sample(states, index)
    drawn, slope = stretch(actions, subject.space)
    covariance = np.atleast_2d(np.cov(drawn, rowvar=False))
    if is_at_bound(subject.space, drawn).mean() > 0.01 or (np.diag(covariance) < 1e-12).any():
        return None
    covariance += 0.1 * np.diag(
        np.diag(covariance)
    )  # the draws may lie in a plane although the density does not
    # Half from a wider Gaussian, half from narrow ones around the draws, in case they have several modes.
    wide = multivariate_normal(drawn.mean(axis=0), 2.25 * covariance)
    narrow = multivariate_normal(np.zeros(drawn.shape[1]), 0.25 * covariance)
    centres = drawn[: DRAWS // 20]
    near = centres[rng.integers(len(centres), size=DRAWS)] + narrow.rvs(DRAWS, rng).reshape(DRAWS, -1)
    latent = np.concatenate([wide.rvs(DRAWS, rng).reshape(DRAWS, -1), near])
    proposed_actions = squeeze(latent, subject.space)
    latent, proposed_slope = stretch(proposed_actions, subject.space)  # with the rounding of the actions
    kernels = np.stack([narrow.logpdf(latent - centre) for centre in centres])
    log_proposal = np.logaddexp(
        wide.logpdf(latent), logsumexp(kernels, axis=0) - np.log(len(centres))
    ) - np.log(2)
    log_drawn = subject.log_prob(states, actions) + slope
    log_density = (
        subject.log_prob(np.repeat(state[None], len(latent), axis=0), proposed_actions) + proposed_slope
    )
    return Density(
        np.column_stack([drawn, log_drawn]),
        np.column_stack([latent, log_density]),
        np.exp(log_density - log_proposal),
    )


def is_bounded(space: Any) -> bool:
    """Whether a `Box` has bounds on all sides."""
    return bool(np.isfinite(space.low).all() and np.isfinite(space.high).all())


def stretch(actions: NDArray[Any], space: Any) -> tuple[Array, Array]:
    """Map actions (N, D) of a `Box` to latents (N, D), and return log |d action / d latent| (N,) too."""
    actions = np.asarray(actions, dtype=np.float64)
    if not is_bounded(space):
        return actions, np.zeros(len(actions))
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    unit = np.clip(2 * (actions - low) / (high - low) - 1, -1 + 1e-9, 1 - 1e-9)
    return np.arctanh(unit), (np.log((high - low) / 2) + np.log1p(-(unit**2))).sum(axis=1)


def is_at_bound(space: Any, latent: Array) -> NDArray[np.bool_]:
    """Whether each of the latents (N, D) belongs to an action at a bound, within 2e-6 of the half-width."""
    return np.any(np.abs(latent) > 7.0, axis=1) & is_bounded(space)


def squeeze(latent: Array, space: Any) -> NDArray[Any]:
    """Map latents (N, D) back to actions (N, D)."""
    if is_bounded(space):
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
        latent = low + (np.tanh(latent) + 1) / 2 * (high - low)
    return latent.astype(space.dtype)


def p_value(counts: NDArray[np.int64], expected: Array) -> float:
    """Smaller p-value of a chi-square test of counts (A,) and a Poisson test of those too rare for it."""
    rare = expected < 5
    p_rare = float(poisson.sf(counts[rare].sum() - 1, expected[rare].sum()))
    observed, wanted = counts[~rare], expected[~rare]
    if len(observed) < 2 or not observed.any():
        return p_rare
    return min(p_rare, float(chisquare(observed, wanted * observed.sum() / wanted.sum()).pvalue))


def compare_draws(density: Density) -> Iterator[str]:
    """Compare draws with weighted proposals, each component and the log-density (Kolmogorov-Smirnov)."""
    if not density.weights.any():
        return  # the density is 0 where the draws are, which the check of its integral reports
    weights = density.weights / density.weights.sum()
    n_effective = 1 / (weights**2).sum()
    allowed = np.sqrt(-np.log(P_VALUE / 2) / 2 * (1 / len(density.drawn) + 1 / n_effective))
    for axis, (drawn, proposed) in enumerate(zip(density.drawn.T, density.proposed.T, strict=True)):
        order = np.argsort(proposed)
        expected = np.append(0.0, weights[order].cumsum())[np.searchsorted(proposed[order], np.sort(drawn))]
        distance = np.abs(expected - np.arange(1, len(drawn) + 1) / len(drawn)).max()
        if distance > allowed:
            is_density = axis == density.drawn.shape[1] - 1
            what = "log_prob of the draws" if is_density else f"component {axis} of the action"
            yield (
                f"sample must agree with log_prob: the distribution of {what} is off by {distance:.2f} "
                f"(chance explains {allowed:.2f}); let both use the same distribution"
            )
            return
