"""Tests for the functions that readers write, one a chapter. Each says that it passed, or what is wrong."""

from collections.abc import Callable
from typing import Any

import numpy as np

from gridworlds import TASKS, random_mdp
from mereq_min import (
    SimulatedExpert,
    residual_bellman,
    samples_to_threshold,
    solve_residual,
    successor_features,
)
from mereq_min.lab.human.journal import Learn, Take, Undo
from mereq_min.lab.human.journal import effective as in_effect


def _agree(found: Any, wanted: Any, case: str, atol: float = 1e-8) -> None:
    np.testing.assert_allclose(np.asarray(found, dtype=float), wanted, atol=atol, err_msg=f"wrong for {case}")


def _scripted(violations: str, patience: int, release: int) -> list[bool]:
    """Return who controls each step of a script in which X is a violation."""
    expert = SimulatedExpert(
        TASKS["carpet"]().prior, lambda t, _: violations[int(t)] == "X", patience=patience, release=release
    )
    expert.reset(np.random.default_rng(0))
    return [expert.intervene(np.array(t), np.array(0)) is not None for t in range(len(violations))]


def check_segments(segments: Callable[..., Any]) -> None:
    """Test `segments(is_intervention, episode)`, a list of (start, stop); chapter 1."""
    cases = {
        "nobody took over": ([0, 0, 0], [0, 0, 0], []),
        "she drove all the time": ([1, 1, 1], [0, 0, 0], [(0, 3)]),
        "two segments of one episode": ([1, 0, 1, 1], [0, 0, 0, 0], [(0, 1), (2, 4)]),
        "a segment up to the end of an episode, and one from the start of the next": (
            [0, 1, 1, 0],
            [0, 0, 1, 1],
            [(1, 2), (2, 3)],
        ),
    }
    for case, (hers, episode, wanted) in cases.items():
        found = [tuple(map(int, each)) for each in segments(np.array(hers, dtype=bool), np.array(episode))]
        assert found == wanted, f"wrong where {case}: {found} and not {wanted}"
    print("check_segments passed")


def check_soft_max(soft_max: Callable[..., Any]) -> None:
    """Test `soft_max(q, alpha)`, from (S, A) to (S,); chapter 2."""
    _agree(soft_max(np.log([[3.0, 1.0]]), 1.0), [np.log(4.0)], "log 3 and log 1 at temperature 1")
    q = np.random.default_rng(0).normal(size=(20, 4))
    _agree(soft_max(q, 0.7), 0.7 * np.logaddexp.reduce(q / 0.7, axis=1), "random values")
    _agree(soft_max(1000 + q, 0.001), 1000 + q.max(axis=1), "large values at a small temperature", 2e-3)
    _agree(soft_max(np.array([[0.0, -np.inf]]), 1.0), [0.0], "an action that is never taken")
    print("check_soft_max passed")


def check_residual_sweep(sweep: Callable[..., Any]) -> None:
    """Test `sweep(v, r_R, log_prior, P, gamma, omega_scaled, alpha_hat)`, from V_R to V_R; chapter 3."""
    mdp, rng = random_mdp(seed=1, S=12, A=3, K=2, gamma=0.8), np.random.default_rng(1)
    r_R, log_prior = rng.normal(size=(12, 3)), np.log(rng.dirichlet(np.ones(3), size=12))
    P = mdp.transition.toarray().reshape(12, 3, 12)
    for omega_scaled, alpha_hat in ((0.2, 0.2), (0.5, 0.3), (0.0, 1.0)):
        case = f"omega' = {omega_scaled} and alpha_hat = {alpha_hat}"
        given = r_R, log_prior, P, mdp.gamma, omega_scaled, alpha_hat
        v = rng.normal(size=12)
        wanted = residual_bellman(mdp, v, r_R, log_prior, omega_scaled, alpha_hat)[1]
        _agree(sweep(v, *given), wanted, case)
        for _ in range(100):
            v = sweep(v, *given)
        exact = solve_residual(mdp, r_R, log_prior, omega_scaled, alpha_hat)
        _agree(v, exact.v, f"the fixed point at {case}", 1e-6)
    print("check_residual_sweep passed")


def check_score(score: Callable[..., Any]) -> None:
    """Test `score(psi, log_policy, state, action, alpha_hat)`, (K,); chapter 4."""
    mdp, rng = random_mdp(seed=2, S=10, A=3, K=2, gamma=0.8), np.random.default_rng(2)
    log_prior, theta = np.log(rng.dirichlet(np.ones(3), size=10)), np.array([0.3, -0.5])
    state, action = rng.integers(10, size=40), rng.integers(3, size=40)

    def solve(theta: Any) -> Any:
        return solve_residual(mdp, mdp.reward(theta), log_prior, 0.2, 0.4, tol=1e-11).log_policy

    log_policy, h = solve(theta), 1e-5
    found = score(successor_features(mdp, log_policy), log_policy, state, action, 0.4)
    steps = h * np.eye(2)
    up, down = ([solve(theta + sign * e)[state, action].sum() for e in steps] for sign in (1, -1))
    _agree(found, np.subtract(up, down) / (2 * h), "random steps", 1e-4)
    print("check_score passed")


def check_takeovers(takeovers: Callable[..., Any]) -> None:
    """Test `takeovers(violates, patience, release)`, whether she controls each step; chapter 5."""
    rng = np.random.default_rng(3)
    scripts = ["X.....", ".XX.XX....X..", *("".join(rng.choice(["X", "."], size=30)) for _ in range(20))]
    for script in scripts:
        for patience, release in ((1, 1), (1, 3), (2, 1), (3, 2)):
            found = takeovers(np.array([sign == "X" for sign in script]), patience, release)
            wanted = "".join("E" if hers else "p" for hers in _scripted(script, patience, release))
            text = "".join("E" if hers else "p" for hers in found)
            assert text == wanted, f"{script}, patience {patience}, release {release}: {text}, not {wanted}"
    print("check_takeovers passed")


def check_samples(samples: Callable[..., Any]) -> None:
    """Test `samples(rates, expert_samples, delta)`, a count and whether it is a lower bound; chapter 6."""
    runs = {
        "a run that gets there at once": ([0.01, 0.4], [2, 80]),
        "a run that gets there late": ([0.5, 0.2, 0.04, 0.3], [100, 140, 148, 208]),
        "a run that only reaches the threshold itself": ([0.5, 0.05], [100, 110]),
    }
    for case, (rates, totals) in runs.items():
        found, wanted = tuple(samples(rates, totals, 0.05)), tuple(samples_to_threshold(rates, totals, 0.05))
        assert found == wanted, f"wrong for {case}: {found} and not {wanted}"
    print("check_samples passed")


def check_targets(targets: Callable[..., Any]) -> None:
    """Test `targets(f, ended, psi, h, log_policy, log_prior, gamma, omega_scaled, alpha_hat)`; chapter 7.

    psi (N, A, K), h, log_policy and log_prior (N, A) are those of the next states; returns y_psi (N, K) and
    y_h (N,).
    """
    mdp, rng = random_mdp(seed=4, S=8, A=3, K=2, gamma=0.9), np.random.default_rng(4)
    log_prior, theta = np.log(rng.dirichlet(np.ones(3), size=8)), np.array([0.4, -0.2])
    exact = solve_residual(mdp, mdp.reward(theta), log_prior, 0.2, 0.5, tol=1e-11)
    psi = successor_features(mdp, exact.log_policy)
    h = exact.q - psi @ theta
    pair, after = np.divmod(np.arange(8 * 3 * 8), 8)
    f, chance = mdp.features.reshape(24, 2)[pair], mdp.transition.toarray()
    given = psi[after], h[after], exact.log_policy[after], log_prior[after], 0.9, 0.2, 0.5
    y_psi, y_h = targets(f, np.zeros(len(after), dtype=bool), *given)
    mean_psi = np.einsum("ij,ijk->ik", chance, np.reshape(y_psi, (24, 8, 2)))
    _agree(mean_psi, psi.reshape(24, 2), "psi of an exact critic, whose mean target is itself", 1e-7)
    mean_h = (chance * np.reshape(y_h, (24, 8))).sum(axis=1)
    _agree(mean_h, h.ravel(), "h of an exact critic, whose mean target is itself", 1e-7)
    y_psi, y_h = targets(f, np.ones(len(after), dtype=bool), *given)
    _agree(y_psi, f, "psi where the episode ended")
    _agree(y_h, np.zeros(len(after)), "h where the episode ended")
    print("check_targets passed")


def check_samples_to_stay(samples: Callable[..., Any]) -> None:
    """Test `samples(rates, expert_samples, delta)`, the count until the rate stays below; chapter 8."""
    cases = {
        "a rate that falls and stays": ([0.3, 0.04, 0.0], [150, 170, 170], 170),
        "a rate that comes up again": ([0.3, 0.01, 0.2, 0.03], [150, 155, 255, 270], 270),
        "a rate that ends above": ([0.3, 0.01, 0.2], [150, 155, 255], None),
        "a rate that was never above": ([0.0, 0.02], [0, 10], 0),
    }
    for case, (rates, totals, wanted) in cases.items():
        found = samples(rates, totals, 0.05)
        assert found == wanted, f"wrong for {case}: {found} and not {wanted}"
    print("check_samples_to_stay passed")


def check_squashed_log_prob(log_prob: Callable[..., Any]) -> None:
    """Test `log_prob(u, mean, log_std)`, the log-density of a = tanh u in one dimension; chapter 9."""
    u = np.linspace(-8, 8, 40_001)
    for mean, log_std in ((0.0, 0.0), (0.5, -0.7), (-1.0, 0.3)):
        density = np.exp(log_prob(u, mean, log_std))
        total = np.trapezoid(density, np.tanh(u))
        _agree(total, 1.0, f"mean {mean} and log width {log_std}: the density must integrate to 1", 1e-3)
    far = np.array([-40.0, 30.0])
    wanted = -0.5 * far**2 - 0.5 * np.log(2 * np.pi) - (2 * np.log(2) - 2 * np.abs(far))
    _agree(log_prob(far, 0.0, 0.0), wanted, "latents so large that tanh u rounds to 1", 1e-6)
    print("check_squashed_log_prob passed")


def check_late(late: Callable[..., Any]) -> None:
    """Test `late(expert, delay)`, an expert who takes over `delay` steps late; chapter 10."""

    class Scripted:
        patience = 2

        def reset(self, rng: Any) -> None:
            self.t = -1

        def intervene(self, state: Any, policy_action: Any) -> Any:
            self.t += 1
            return np.array(7) if 3 <= self.t < 9 else None

    for delay in (0, 1, 4):
        wrapped = late(Scripted(), delay)
        assert wrapped.patience == 2, "the patience of the expert must be passed on"
        for episode in range(2):
            wrapped.reset(np.random.default_rng(0))
            found = [wrapped.intervene(np.array(0), np.array(1)) is not None for _ in range(15)]
            wanted = [3 + delay <= t < 9 for t in range(15)]
            assert found == wanted, (
                f"delay {delay}, episode {episode}: she controls at {np.flatnonzero(found)}"
            )
    print("check_late passed")


def check_unit(unit: Callable[..., Any]) -> None:
    """Test `unit(features, scale)`, the same features in units of `scale` and within [0, 1]; chapter 11."""
    told = []

    def features(observation: Any, action: Any, next_observation: Any, info: Any) -> tuple[Any, Any]:
        told.append((observation, action, next_observation, info))
        return next_observation[0] - observation[0], -next_observation[1]

    scaled = unit(features, [2.0, 10.0])
    cases = {
        "numbers within the scale": ([1.0, -5.0], [0.5, 0.5]),
        "a number beyond the scale": ([3.0, -20.0], [1.0, 1.0]),
        "numbers below zero": ([-1.0, 4.0], [0.0, 0.0]),
    }
    for case, (after, wanted) in cases.items():
        given = [0.0, 0.0], 1, after, {"reward": 0.0}
        _agree(scaled(*given), wanted, case)
        assert told[-1] == given, "wrong: features must be told all that the new function is told"
    print("check_unit passed")


def check_effective(effective: Callable[..., Any]) -> None:
    """Test `effective(entries)`, what is left of a journal; chapter 12.

    An entry is "learn", an int (undo so many steps), or any other string (a step). Returns the steps and
    "learn"s that count.
    """
    cases = {
        "nothing is undone": (["a", "b", "learn", "c"], ["a", "b", "learn", "c"]),
        "two steps are undone": (["a", "b", "c", 2, "d"], ["a", "d"]),
        "more is undone than there was": (["a", "b", 5, "c"], ["c"]),
        "undoing reaches back to an update": (["a", "learn", "b", 3, "c"], ["a", "learn", "c"]),
        "a step is undone that was taken after an undo": (["a", "b", 1, "c", 1, "d"], ["a", "d"]),
    }
    for case, (entries, wanted) in cases.items():
        found = list(effective(entries))
        assert found == wanted, f"wrong where {case}: {found} and not {wanted}"
    rng = np.random.default_rng(6)
    for _ in range(50):
        choice = [["s", "learn", 1, 2, 4][k] for k in rng.choice(5, size=20, p=(0.6, 0.1, 0.1, 0.1, 0.1))]
        entries = [f"{each}{i}" if each == "s" else each for i, each in enumerate(choice)]
        found, wanted = list(effective(entries)), _effective_of_library(entries)
        assert found == wanted, f"wrong for {entries}: {found} and not {wanted}"
    print("check_effective passed")


def _effective_of_library(entries: list[Any]) -> list[str]:
    makes = {int: lambda each: Undo(0.0, each), str: lambda each: Take(0.0, by=each)}
    learn = Learn(0.0, 1, asked=True)
    journal = [learn if each == "learn" else makes[type(each)](each) for each in entries]
    return [each.by if isinstance(each, Take) else "learn" for each in in_effect(journal)]


def check_responsibility(responsibility: Callable[..., Any]) -> None:
    """Test `responsibility(log_p, error_rate, n_actions)`, the chances (N,) of no slip; chapter 13.

    log_p (N,) are the log-probabilities of the actions under the policy; slips are uniform.
    """
    for error_rate, n_actions in ((0.1, 5), (0.02, 3)):
        log_p = np.log([0.9, 0.2, 1e-3])
        own = (1 - error_rate) * np.exp(log_p)
        wanted = own / (own + error_rate / n_actions)
        _agree(responsibility(log_p, error_rate, n_actions), wanted, f"an error rate of {error_rate}")
    found = responsibility(np.array([-1000.0, np.log(0.5)]), 0.1, 5)
    _agree(found, [0.0, 0.45 / 0.47], "an action that the policy never takes")
    _agree(responsibility(np.array([-3.0, -800.0]), 0.0, 4), [1.0, 1.0], "an expert who never slips")
    print("check_responsibility passed")


def check_adam(adam: Callable[..., Any]) -> None:
    """Test `adam(parameter, gradient, first, second, step, rate)`, Adam without side effects; chapter 14.

    Returns the new parameter, first and second; step counts from 1.
    """
    import torch

    rng = np.random.default_rng(7)
    parameter = torch.tensor(rng.normal(size=5), requires_grad=True)
    optimiser = torch.optim.Adam([parameter], lr=0.1)
    mine, first, second = parameter.detach().numpy().copy(), np.zeros(5), np.zeros(5)
    for step in range(1, 6):
        gradient = rng.normal(size=5)
        given = mine.copy(), first.copy(), second.copy()
        found = adam(mine, gradient, first, second, step, 0.1)
        for before, after in zip(given, (mine, first, second), strict=True):
            np.testing.assert_array_equal(after, before, err_msg="an argument was changed in place")
        mine, first, second = map(np.asarray, found)
        parameter.grad = torch.tensor(gradient)
        optimiser.step()
        _agree(mine, parameter.detach().numpy(), f"step {step}, beside torch's", 1e-6)
    print("check_adam passed")


def check_preference_loss(loss: Callable[..., Any]) -> None:
    """Test `loss(log_policy, log_prior, better, worse, beta)`, DPO's mean loss in one state; chapter 15."""
    rng = np.random.default_rng(5)
    log_prior, reward = np.log(rng.dirichlet(np.ones(4))), rng.normal(size=4)
    better, worse = rng.integers(4, size=(2, 30))
    for beta in (0.1, 1.0):
        q = reward[None] + beta * log_prior[None]
        log_policy = ((q - beta * np.logaddexp.reduce(q / beta, axis=1)) / beta)[0]  # optimal for the reward
        wanted = np.logaddexp(0, reward[worse] - reward[better]).mean()
        _agree(loss(log_policy, log_prior, better, worse, beta), wanted, f"beta {beta}")
    print("check_preference_loss passed")
