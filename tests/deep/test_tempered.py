"""MEReQ-R on networks: the learner that also varies the prior's weight, and the robust likelihood with it."""

from functools import cache
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import norm
from toy import make_steps
from vector import OneHotPolicy, TabularVectorEnv, one_hot

from deep import GymTask
from deep.gaussian import SquashedGaussianPolicy
from deep.learner import MIN_LOG_PRIOR_FEATURE, LearnerConfig, TemperedNeuralLearner
from deep.nets import mlp
from deep.policies import EpsilonPolicy
from deep.residual_dqn import DQNConfig, ResidualDQN
from deep.residual_sac import SACConfig
from gridworlds import random_mdp
from mereq_min import METHODS, EstimatorConfig, LoopConfig, Steps, align, make_aligner
from mereq_min.interfaces import Policy, TemperedLearner
from mereq_min.inverse import (
    RobustConfig,
    SegmentLikelihoodConfig,
    _Mixture,
    _walk,
    maximise_likelihood,
    maximise_robust_likelihood,
)
from mereq_min.policies import UniformPolicy
from mereq_min.residual import solve_residual
from mereq_min.soft import solve_soft
from mereq_min.validation import Array

THETA = np.array([0.4, -0.7, 0.2])
TEMPERATURE, OMEGA, HORIZON = 0.2, 0.24, 40
SLIPS = UniformPolicy(spaces.Discrete(3))
NONE = RobustConfig(error_rate=0.0, temperature_sd=0.0)
"""An expert without slips, at the robot's temperature."""


@cache
def problem():
    """A random MDP with a prior whose reward is no sum of its features."""
    mdp = random_mdp(0, 12, 3, 3)
    reward = 0.4 * np.random.default_rng(1).normal(size=(mdp.n_states, mdp.n_actions))
    return mdp, solve_soft(mdp, reward, 0.3, tol=1e-12).log_policy


def make_learner(*, rounds: int = 8, num_envs: int = 256) -> TemperedNeuralLearner:
    mdp, log_prior = problem()
    prior = OneHotPolicy(log_prior)
    agent = ResidualDQN(
        mdp.n_states,
        mdp.n_actions,
        mdp.n_features + 1,
        gamma=mdp.gamma,
        temperature=TEMPERATURE,
        prior=prior,
        scaled_prior_weight=OMEGA,
        config=DQNConfig(hidden=(32,), engine="torch"),
    )
    return TemperedNeuralLearner(
        agent,
        lambda n: TabularVectorEnv(mdp, n, HORIZON),
        horizon=HORIZON,
        config=LearnerConfig(num_envs=num_envs, first_rounds=rounds),
        log_prior=prior.log_prob,
        scaled_prior_weight=OMEGA,
    )


@cache
def solved_state(*x: float) -> dict[str, NDArray[Any]]:
    """What a learner knows after its first solve."""
    learner = make_learner()
    learner.solve(np.array(x))
    return learner.arrays()


def make_solved(*x: float) -> TemperedNeuralLearner:
    learner = make_learner()
    learner.restore(solved_state(*x))
    return learner


def make_rough(*x: float) -> TemperedNeuralLearner:
    """A learner that is far from the exact solution."""
    learner = make_learner(rounds=2, num_envs=16)
    learner.solve(np.array(x))
    return learner


def exact_log_policy(x: Array) -> Array:
    mdp, log_prior = problem()
    weight = OMEGA * (1.0 + x[-1])
    return solve_residual(mdp, mdp.reward(x[:-1]), log_prior, weight, TEMPERATURE, tol=1e-12).log_policy


def derivatives(function: Any, x: Array, h: float) -> Array:
    """Central differences of a function of x; the axis of x comes last."""
    return np.stack([(function(x + h * e) - function(x - h * e)) / (2 * h) for e in np.eye(len(x))], axis=-1)


def observe(state: NDArray[np.int64], action: NDArray[np.int64]) -> Steps:
    """Expert steps with these states and actions."""
    mdp, _ = problem()
    return make_steps(mdp.features[state, action], state=one_hot(mdp, state), action=action)


def draw(policy: Policy, n: int, seed: int) -> Steps:
    """n expert steps in states drawn uniformly."""
    rng, (mdp, _) = np.random.default_rng(seed), problem()
    state = rng.integers(mdp.n_states, size=n)
    return observe(state, policy.sample(one_hot(mdp, state), rng))


class Held(TemperedNeuralLearner):
    """A learner whose networks stay as they are: its policy changes with x by Q_R = psi . x + h alone."""

    def solve(self, theta: Array) -> Policy:
        self.agent.theta = theta
        return self.agent.policy()


class WithoutTemperature:
    """A tempered learner with the prior's weight held at omega'_0, as a `Learner` of theta."""

    is_exact = False

    def __init__(self, learner: TemperedLearner) -> None:
        self.learner = learner

    def solve(self, theta: Array) -> Policy:
        return self.learner.solve(np.append(theta, 0.0))

    def scores(self, steps: Steps) -> Array:
        return self.learner.scores(steps)[:, :-1]

    def information(self, steps: Steps) -> Array:
        return self.learner.information(steps)[:-1, :-1]


# --- The learner ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.6, pytest.param(1.5, marks=pytest.mark.slow)])
def test_policy_scores_and_information_are_those_of_the_exact_solution(share: float) -> None:
    """In all K + 1 parameters; actions count by how often they are taken."""
    mdp, _ = problem()
    x = np.append(THETA, share - 1.0)
    learner, exact = make_solved(*x), exact_log_policy(x)
    state, action = np.divmod(np.arange(mdp.n_states * mdp.n_actions), mdp.n_actions)
    steps = observe(state, action)
    log_prob = learner.policy.log_prob(steps.state, steps.action)
    assert np.exp(exact.ravel()) @ (exact.ravel() - log_prob) / mdp.n_states < 0.003
    scores = derivatives(exact_log_policy, x, 1e-5).reshape(len(state), -1)
    often = np.exp(0.5 * exact.ravel())[:, None]
    assert_allclose(
        often * learner.scores(steps), often * scores, rtol=0, atol=0.15 * np.abs(often * scores).max()
    )
    weights = np.random.default_rng(0).uniform(size=len(state))
    in_state = weights.reshape(exact.shape).sum(axis=1).repeat(mdp.n_actions)
    expected = (in_state * np.exp(exact.ravel()) * scores.T) @ scores
    found = learner.information(steps, weights)
    assert_allclose(found, expected, rtol=0, atol=0.1 * np.abs(expected).max())


def test_over_a_box_the_last_feature_is_the_log_density_of_the_unit_action() -> None:
    """By the change of variables from the latent u to the unit action tanh(u)."""
    task = make_pendulum()
    rollout = task.make_tempered_learner()._collect(0)
    latent = np.arctanh(rollout.action.astype(np.float64) / 2)
    head = [task.prior._head(state) for state in rollout.state]
    mean, log_std = (np.stack([step[part].numpy() for step in head]) for part in (0, 1))
    log_density = norm.logpdf(latent, mean, np.exp(log_std)) - np.log1p(-(np.tanh(latent) ** 2))
    inside = np.abs(latent) < 4
    assert inside.sum() > 30
    term = rollout.features[..., -1:] / task.scaled_prior_weight
    assert_allclose(term[inside], log_density[inside], atol=1e-6)
    assert_array_equal(rollout.features[..., :3], task.make_learner("residual", 1.0)._collect(0).features)


def test_a_step_that_the_prior_hardly_ever_takes_does_not_swamp_the_others() -> None:
    learner = make_learner()
    learner._log_prior = lambda state, action: np.where(action == 0, -1e6, -0.5)
    steps = learner._collect(0)
    rare = steps.action == 0
    assert rare.any()
    assert_allclose(steps.features[..., -1], OMEGA * np.where(rare, MIN_LOG_PRIOR_FEATURE, -0.5))


# --- The estimator ----------------------------------------------------------------------------------------


def test_the_gradient_is_the_derivative_of_the_log_posterior() -> None:
    """Of theta, the prior's weight and eps, while the networks stay as they are."""
    learner = make_rough(*THETA, 0.0)
    learner.__class__ = Held
    steps = draw(EpsilonPolicy(learner.policy, 0.2, 3), 40, 0)
    config, robust = SegmentLikelihoodConfig(prior_sd=0.7), RobustConfig(0.1, 15.0, 0.4)
    mixture = _Mixture(learner, SLIPS, steps, config, robust)
    x = np.array([*THETA, -0.2, logit(0.15)])

    def log_posterior(x: Array) -> float:
        eps, policy = expit(x[-1]), learner.solve(x[:-1])
        p = (1 - eps) * np.exp(policy.log_prob(steps.state, steps.action)) + eps / 3
        prior = 1.5 * np.log(eps) + 13.5 * np.log(1 - eps)
        return np.log(p).sum() - 0.5 * (x[:3] ** 2).sum() / 0.7**2 - 0.5 * x[3] ** 2 / 0.4**2 + prior

    numerical = derivatives(log_posterior, x, 1e-2)
    assert_allclose(mixture.evaluate(x).gradient, numerical, rtol=0, atol=5e-3 * np.abs(numerical).max())


def test_without_slips_and_at_the_robots_temperature_it_is_segment_likelihood() -> None:
    """Theta by theta, as both ask the same of the learner."""
    steps = draw(make_rough(*THETA, 0.0).policy, 300, 0)
    config, start = SegmentLikelihoodConfig(max_iterations=6), np.zeros(3)
    plain = maximise_likelihood(WithoutTemperature(make_rough(*start, 0.0)), steps, start, config)  # type: ignore[arg-type]
    robust = maximise_robust_likelihood(make_rough(*start, 0.0), SLIPS, steps, start, config, NONE)
    assert (robust.error_rate, robust.temperature_ratio) == (0.0, 1.0)
    assert robust.solves == plain.solves
    assert_allclose(robust.theta, plain.theta, rtol=1e-9)
    assert_allclose(robust.standard_errors, plain.standard_errors, rtol=1e-6)


def test_networks_come_to_the_robots_temperature_in_short_steps() -> None:
    """The jump from the expert's temperature to the robot's is longer than a network follows in one solve."""
    seen: list[Array] = []

    class Recorder(Held):
        def solve(self, theta: Array) -> Policy:
            seen.append(theta)
            return super().solve(theta)

    learner = make_rough(*THETA, 0.0)
    learner.__class__ = Recorder
    end = np.array([1.4, -0.7, 0.2, 0.0])
    policy = _walk(learner, np.array([0.4, -0.7, 0.2, -0.3]), end, 0.5)
    assert_allclose(np.linalg.norm(np.diff(seen, axis=0), axis=1), np.sqrt(1.09) / 3)
    assert_array_equal(seen[-1], end)
    assert_array_equal(policy.log_probs(np.eye(12)), learner.agent.policy().log_probs(np.eye(12)))


@pytest.mark.slow
@pytest.mark.parametrize("error_rate", [0.0, 0.1])
def test_slips_of_a_network_are_counted_and_do_not_move_theta(error_rate: float) -> None:
    expert = EpsilonPolicy(make_solved(*THETA, 0.0).policy, error_rate, 3)
    robust, config = RobustConfig(0.05, 1.0, 0.5), SegmentLikelihoodConfig(prior_sd=20.0)
    robust_fits, plain_fits = [], []
    for seed in range(3):
        steps, learner = draw(expert, 3000, seed), make_solved(0.0, 0.0, 0.0, 0.0)
        found = maximise_robust_likelihood(learner, SLIPS, steps, np.zeros(3), config, robust)
        assert_allclose(found.temperature_ratio, 1.0, atol=0.15)
        assert_allclose(found.theta, THETA, atol=0.15)
        robust_fits.append(found)
        without_temperature = WithoutTemperature(make_solved(0.0, 0.0, 0.0, 0.0))
        plain_fits.append(maximise_likelihood(without_temperature, steps, np.zeros(3), config))  # type: ignore[arg-type]
    assert abs(np.mean([fit.error_rate for fit in robust_fits]) - error_rate) < 0.03
    if error_rate:
        robust_error, plain_error = (
            np.linalg.norm(np.mean([fit.theta for fit in fits], axis=0) - THETA)
            for fits in (robust_fits, plain_fits)
        )
        assert plain_error > 1.5 * robust_error


def make_pendulum() -> GymTask:
    prior = SquashedGaussianPolicy(mlp([3, 8, 2], 5), np.array([-2.0]), np.array([2.0]), 0.1)
    return GymTask(
        "pendulum",
        "Pendulum-v1",
        lambda state, action, after, info: ((1 - state[0]) / 2, action[0] ** 2 / 4, state[2] ** 2 / 64),
        ("tilt", "effort", "speed"),
        prior,
        0.98,
        temperature=0.1,
        horizon=30,
        learner=LearnerConfig(num_envs=2, updates=1, first_rounds=1),
        sac=SACConfig(engine="torch", hidden=(8,), batch_size=8),
    )


def test_over_a_box_a_slip_has_the_uniform_density() -> None:
    """The expert is the prior with 10 % uniform actions; its density is three units wide, not one."""
    task, rng, n = make_pendulum(), np.random.default_rng(0), 4000
    slips = UniformPolicy(task.action_space)
    state = rng.normal(size=(n, 3)).astype(np.float32)
    random = rng.random(n) < 0.1
    action = np.where(random[:, None], slips.sample(state, rng), task.prior.sample(state, rng))
    steps = make_steps(np.zeros((n, 3)), state=state, action=action)
    config, robust = SegmentLikelihoodConfig(max_iterations=12), RobustConfig(0.05, 1.0, 0.0)
    learner = task.make_tempered_learner()
    found = maximise_robust_likelihood(learner, slips, steps, np.zeros(3), config, robust)
    assert abs(found.error_rate - 0.1) < 0.025
    assert np.abs(found.theta).max() < 0.1


# --- The method -------------------------------------------------------------------------------------------


class Pusher:
    """An expert who holds the pendulum still two steps in five."""

    patience = 1

    def reset(self, rng: np.random.Generator) -> None:
        self.t = 0

    def intervene(self, state: NDArray[Any], action: NDArray[Any]) -> NDArray[Any] | None:
        self.t += 1
        return np.zeros_like(action) if self.t % 5 > 2 else None


def test_a_restored_method_goes_on_bit_for_bit() -> None:
    config = EstimatorConfig(likelihood=SegmentLikelihoodConfig(max_iterations=3))
    task, loop = make_pendulum(), LoopConfig(iterations=2, steps_per_iteration=40)
    first = make_aligner(task, METHODS["MEReQ-R"], config)
    done = list(align(task, first, loop, seed=0, expert=Pusher()))
    second = make_aligner(make_pendulum(), METHODS["MEReQ-R"], config)
    ahead = align(task, second, LoopConfig(1, 40), seed=0, expert=Pusher())
    steps = next(ahead).steps
    third = make_aligner(make_pendulum(), METHODS["MEReQ-R"], config)
    third.restore(second.arrays(), steps, 1)
    (again,) = align(task, third, loop, seed=0, expert=Pusher(), done=[steps])
    assert set(done[-1].info) >= {"error_rate", "temperature_ratio", "converged"}
    for name in ("theta", "standard_errors", "error_rate", "temperature_ratio"):
        assert_array_equal(again.info[name], done[-1].info[name])
    assert_array_equal(
        again.policy.log_prob(steps.state, steps.action), done[-1].policy.log_prob(steps.state, steps.action)
    )


def test_a_task_whose_learners_keep_the_priors_weight_says_so() -> None:
    class Foreign:
        name = "foreign"

    with pytest.raises(ValueError, match=r"MEReQ-R varies the weight of the prior.*choose MEReQ-L"):
        make_aligner(Foreign(), METHODS["MEReQ-R"], EstimatorConfig())  # type: ignore[arg-type]
