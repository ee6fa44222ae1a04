"""What every learner promises (`interfaces.Learner`), against the exact solution of a small random MDP.

A neural learner joins by adding its factory, what it observes of a state, and how close it must come.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Discrete
from vector import OneHotPolicy, TabularVectorEnv, one_hot

from deep.engines import Engine
from deep.learner import Agent, LearnerConfig, NeuralLearner
from deep.residual_dqn import DQNConfig, ResidualDQN
from deep.residual_sac import ResidualSAC, SACConfig
from gridworlds import random_mdp
from mereq_min import ExactLearner, Learner, Steps, solve_residual, solve_soft

THETA = np.array([0.4, -0.7, 0.2])
TEMPERATURE, PRIOR_TEMPERATURE, PRIOR_WEIGHT, HORIZON = 0.2, 0.3, 0.8, 40
ENVS = 256
ENGINES: tuple[Engine, ...] = ("torch", "jax")
SCALED_PRIOR_WEIGHT = PRIOR_WEIGHT * PRIOR_TEMPERATURE


@dataclass(frozen=True)
class Case:
    """A way to make learners, and how close to the exact one they must come."""

    make: Callable[[bool], Learner]
    kl: float
    """Mean KL from the exact policy [nats]."""
    rtol: float
    """Error of feature expectations, score and information, relative to the largest entry."""
    jacobian_rtol: float
    """The same for the Jacobian of the feature expectations."""
    observe: Callable[[np.ndarray], np.ndarray] = lambda state: state
    """Observations of states (N,)."""


@cache
def problem():
    mdp = random_mdp(0, 12, 3, 3)
    prior = solve_soft(mdp, mdp.reward([0.5, 0.3, -0.2]), PRIOR_TEMPERATURE, tol=1e-12)
    return mdp, prior.log_policy


def make_exact(residual: bool) -> Learner:
    mdp, log_prior = problem()
    prior = {"log_prior": log_prior, "scaled_prior_weight": SCALED_PRIOR_WEIGHT}
    return ExactLearner(mdp, TEMPERATURE, horizon=HORIZON, **(prior if residual else {}))


def make_neural(
    make_agent: Callable[..., Agent], config: DQNConfig | SACConfig, actions: Any, rounds: int, residual: bool
) -> Learner:
    mdp, log_prior = problem()
    prior = {"prior": OneHotPolicy(log_prior), "scaled_prior_weight": SCALED_PRIOR_WEIGHT}
    agent = make_agent(
        mdp.n_states,
        actions,
        mdp.n_features,
        gamma=mdp.gamma,
        temperature=TEMPERATURE,
        config=config,
        **(prior if residual else {}),
    )
    return NeuralLearner(
        agent,
        lambda n: TabularVectorEnv(mdp, n, HORIZON),
        horizon=HORIZON,
        config=LearnerConfig(num_envs=ENVS, first_rounds=rounds),
    )


def observe_one_hot(state: np.ndarray) -> np.ndarray:
    return one_hot(problem()[0], state)


# Small networks that learn in big steps: the problem needs no more.
CASES = {
    "exact": Case(make_exact, kl=1e-12, rtol=1e-5, jacobian_rtol=1e-5),
    **{
        f"residual DQN, {engine}": Case(
            partial(make_neural, ResidualDQN, DQNConfig(hidden=(32,), engine=engine), 3, 10),
            kl=0.003,
            rtol=0.1,
            jacobian_rtol=0.3,
            observe=observe_one_hot,
        )
        for engine in ENGINES
    },
    **{
        f"residual SAC, {engine}": Case(
            partial(
                make_neural,
                ResidualSAC,
                SACConfig(learning_rate=3e-3, target_rate=0.02, engine=engine),
                Discrete(3),
                20,
            ),
            kl=0.005,
            rtol=0.1,
            jacobian_rtol=0.3,
            observe=observe_one_hot,
        )
        for engine in ENGINES
    },
}


@cache
def solved_state(name: str, residual: bool) -> dict[str, Any]:
    """What a learner knows after its first solve, so that every test can go on from there."""
    learner = CASES[name].make(residual)
    learner.solve(THETA)
    return learner.arrays()


def exact_log_policy(residual, theta=THETA):
    mdp, log_prior = problem()
    if residual:
        reward = mdp.reward(theta)
        solution = solve_residual(mdp, reward, log_prior, SCALED_PRIOR_WEIGHT, TEMPERATURE, tol=1e-12)
        return solution.log_policy
    return solve_soft(mdp, mdp.reward(theta), TEMPERATURE, tol=1e-12).log_policy


def derivative(function, h=1e-5):
    """Central differences of a function of theta at THETA; theta's axis comes last."""
    ends = [[function(THETA + sign * h * e) for sign in (1, -1)] for e in np.eye(len(THETA))]
    return np.stack([(plus - minus) / (2 * h) for plus, minus in ends], axis=-1)


def steps_in_all_states(case, repeats=(1, 1, 1)):
    """In each state, action a as often as `repeats` has it."""
    mdp, _ = problem()
    state = np.repeat(np.arange(mdp.n_states), sum(repeats))
    action = np.tile(np.repeat(np.arange(mdp.n_actions), repeats), mdp.n_states)
    n, no = len(state), np.zeros(len(state), dtype=bool)
    steps = Steps(
        state=case.observe(state),
        action=action,
        policy_action=action,
        features=mdp.features[state, action],
        is_intervention=~no,
        episode=np.zeros(n, dtype=int),
        t=np.arange(n),
        terminated=no,
        truncated=no,
        policy_version=np.zeros(n, dtype=int),
    )
    return state, steps


def assert_close(actual, desired, rtol):
    np.testing.assert_allclose(actual, desired, rtol=0, atol=rtol * np.abs(desired).max())


@pytest.fixture(params=CASES, name="name")
def _name(request):
    return request.param


@pytest.fixture(name="case")
def _case(name):
    return CASES[name]


@pytest.fixture(params=[True, False], ids=["residual", "full"], name="residual")
def _residual(request):
    return request.param


@pytest.fixture(name="learner")
def _learner(name, case, residual):
    learner = case.make(residual)
    learner.restore(solved_state(name, residual))
    return learner


def test_solve_reaches_the_exact_policy(case, residual, learner):
    state, steps = steps_in_all_states(case)
    exact = exact_log_policy(residual)[state, steps.action]
    kl = np.exp(exact) @ (exact - learner.policy.log_prob(steps.state, steps.action)) / problem()[0].n_states
    assert abs(kl) <= case.kl


def test_the_next_solve_follows_theta_from_where_the_last_one_ended(case, residual, learner):
    state, steps = steps_in_all_states(case)
    theta = THETA + np.array([0.2, 0.1, -0.2])
    exact = exact_log_policy(residual, theta)[state, steps.action]
    policy = learner.solve(theta)
    kl = np.exp(exact) @ (exact - policy.log_prob(steps.state, steps.action)) / problem()[0].n_states
    assert abs(kl) <= case.kl


@pytest.fixture(name="rolled_out")
def _rolled_out(case, learner):
    """Mean features (4000, K) of episodes of the learner's policy."""
    mdp, _ = problem()
    rng, episodes = np.random.default_rng(0), 4_000
    state = rng.choice(mdp.n_states, size=episodes, p=mdp.initial)
    rows = np.cumsum(mdp.transition.toarray(), axis=1)
    total = np.zeros((episodes, mdp.n_features))
    for _ in range(HORIZON):
        action = learner.policy.sample(case.observe(state), rng)
        total += mdp.features[state, action]
        state = (rng.random(episodes)[:, None] >= rows[state * mdp.n_actions + action]).sum(axis=1)
    return total / HORIZON


def test_mean_features_are_those_of_rolled_out_episodes(learner, rolled_out):
    np.testing.assert_allclose(learner.mean_features(), rolled_out.mean(axis=0), atol=0.01)


def test_their_covariance_is_that_of_as_many_episodes(name, learner, rolled_out):
    if name == "exact":
        assert not learner.mean_features_covariance().any()
    else:
        assert_close(learner.mean_features_covariance(), np.cov(rolled_out.T) / ENVS, 0.3)


def test_mean_features_jacobian_is_their_derivative(case, residual, learner):
    exact = make_exact(residual)

    def mean_features(theta):
        exact.solve(theta)
        return exact.mean_features()

    assert_close(learner.mean_features_jacobian(), derivative(mean_features, 1e-3), case.jacobian_rtol)


def test_score_is_the_derivative_of_the_log_likelihood(case, residual, learner):
    state, steps = steps_in_all_states(case, repeats=(3, 1, 0))
    numerical = derivative(lambda theta: exact_log_policy(residual, theta)[state, steps.action].sum())
    assert_close(learner.scores(steps).sum(axis=0), numerical, case.rtol)


def test_information_is_the_variance_of_the_score_under_the_policy(case, residual, learner):
    _, steps = steps_in_all_states(case, repeats=(1, 0, 0))
    score = derivative(lambda theta: exact_log_policy(residual, theta))
    expected = np.einsum("sa,sak,sal->kl", np.exp(exact_log_policy(residual)), score, score)
    assert_close(learner.information(steps), expected, case.rtol)


def test_a_restored_learner_goes_on_bit_for_bit(case, residual, learner):
    _, steps = steps_in_all_states(case)
    learner.solve(1.1 * THETA)
    twin = case.make(residual)
    twin.restore(learner.arrays())
    for theta in (None, 1.2 * THETA):
        for each in (learner, twin):
            theta is None or each.solve(theta)
        for look in (
            lambda each: each.policy.log_prob(steps.state, steps.action),
            lambda each: each.mean_features(),
            lambda each: each.scores(steps).sum(axis=0),
        ):
            np.testing.assert_array_equal(look(learner), look(twin))


def test_nothing_is_known_before_the_first_solve(case, residual):
    with pytest.raises(ValueError, match="call solve"):
        case.make(residual).mean_features()
