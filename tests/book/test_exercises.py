"""The tests that readers run on their functions refuse mistakes; pages run them on what is right."""

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
CHAPTERS = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "book").glob("[0-9]*.md"))}


def across_episodes(hers: Any, episode: Any) -> Any:
    """Segments that go on from one episode to the next."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], hers.astype(int), [0]])))
    return list(zip(edges[::2], edges[1::2], strict=True))


def overflows(q: Any, alpha: float) -> Any:
    with np.errstate(all="ignore"):
        return alpha * np.log(np.exp(q / alpha).sum(axis=1))


def without_prior(v: Any, r_R: Any, log_prior: Any, P: Any, gamma: float, weight: float, alpha: float) -> Any:
    return alpha * np.logaddexp.reduce((r_R + gamma * (P @ v)) / alpha, axis=1)


def uncentred(psi: Any, log_policy: Any, state: Any, action: Any, alpha_hat: float) -> Any:
    return psi[state, action].sum(axis=0) / alpha_hat


def impatient(violates: Any, patience: int, release: int) -> list[bool]:
    """Takes over after one violation, whatever the patience."""
    controls, hers, count = [], False, 0
    for wrong in violates:
        if count >= (release if hers else 1):
            hers, count = not hers, 0
        controls.append(hers)
        count = count + 1 if wrong != hers else 0
    return controls


def at_the_threshold(rates: Any, totals: Any, delta: float) -> Any:
    there = [total for rate, total in zip(rates, totals, strict=True) if rate <= delta]
    return (there[0], False) if there else (totals[-1], True)


def never_ends(f: Any, ended: Any, psi: Any, h: Any, log_policy: Any, log_prior: Any, *numbers: float) -> Any:
    gamma, omega_scaled, alpha_hat = numbers
    policy = np.exp(log_policy)
    stray = h + omega_scaled * log_prior - alpha_hat * log_policy
    return f + gamma * np.einsum("na,nak->nk", policy, psi), gamma * (policy * stray).sum(axis=1)


def first_time(rates: Any, totals: Any, delta: float) -> Any:
    return next((total for rate, total in zip(rates, totals, strict=True) if rate < delta), None)


def without_jacobian(u: Any, mean: float, log_std: float) -> Any:
    return -0.5 * ((u - mean) / np.exp(log_std)) ** 2 - log_std - 0.5 * np.log(2 * np.pi)


def rounded_jacobian(u: Any, mean: float, log_std: float) -> Any:
    with np.errstate(divide="ignore"):
        return without_jacobian(u, mean, log_std) - np.log(1 - np.tanh(u) ** 2)


class Forgetful:
    """Counts on from one episode to the next."""

    def __init__(self, expert: Any, delay: int) -> None:
        self.expert, self.delay, self.patience, self.wanted = expert, delay, expert.patience, 0

    def reset(self, rng: Any) -> None:
        self.expert.reset(rng)

    def intervene(self, state: Any, policy_action: Any) -> Any:
        action = self.expert.intervene(state, policy_action)
        self.wanted += action is not None
        return action if self.wanted > self.delay else None


def unclipped(features: Any, scale: Any) -> Any:
    return lambda *given: np.divide(features(*given), scale)


def beyond_updates(entries: Any) -> Any:
    """Undoes steps that an update has learned from."""
    left: list[Any] = []
    for entry in entries:
        if isinstance(entry, int):
            del left[max(0, len(left) - entry) :]
        else:
            left.append(entry)
    return left


def without_slips(log_p: Any, error_rate: float, n_actions: int) -> Any:
    own = (1 - error_rate) * np.exp(log_p)
    return own / (own + error_rate)


def uncorrected(parameter: Any, gradient: Any, first: Any, second: Any, step: int, rate: float) -> Any:
    first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
    return parameter - rate * first / (np.sqrt(second) + 1e-8), first, second


def without_reference(log_policy: Any, log_prior: Any, better: Any, worse: Any, beta: float) -> Any:
    return np.logaddexp(0, beta * (log_policy[worse] - log_policy[better])).mean()


MISTAKES: list[tuple[str, Callable[..., Any]]] = [
    ("check_segments", across_episodes),
    ("check_soft_max", overflows),
    ("check_residual_sweep", without_prior),
    ("check_score", uncentred),
    ("check_takeovers", impatient),
    ("check_samples", at_the_threshold),
    ("check_targets", never_ends),
    ("check_samples_to_stay", first_time),
    ("check_squashed_log_prob", without_jacobian),
    ("check_squashed_log_prob", rounded_jacobian),
    ("check_late", Forgetful),
    ("check_unit", unclipped),
    ("check_effective", beyond_updates),
    ("check_responsibility", without_slips),
    ("check_adam", uncorrected),
    ("check_preference_loss", without_reference),
]


@pytest.mark.parametrize(("name", "mistake"), MISTAKES, ids=[mistake.__name__ for _, mistake in MISTAKES])
def test_a_mistake_is_refused(exercises: ModuleType, name: str, mistake: Callable[..., Any]) -> None:
    with pytest.raises(AssertionError):
        getattr(exercises, name)(mistake)


def test_there_is_a_mistake_for_each_test(exercises: ModuleType) -> None:
    assert {name for name in vars(exercises) if name.startswith("check_")} == {name for name, _ in MISTAKES}


@pytest.mark.parametrize("name", CHAPTERS)
def test_each_chapter_asks_for_a_function_and_tests_its_own_solution(name: str) -> None:
    _, _, exercises = CHAPTERS[name].partition("## Exercises")
    assert (
        exercises.count("<details><summary>Solution</summary>")
        == exercises.count("{admonition} Exercise")
        > 1
    )
    asked = re.findall(r"`(check_\w+)\(\w+\)`", exercises)
    run = re.findall(r"^(check_\w+)\(\w+\)$", exercises, flags=re.MULTILINE)
    assert asked == run and len(run) == 1
