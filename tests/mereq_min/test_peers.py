"""MILE and PPL in tables: the probit model, the preferences that are predicted, and their gradients."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import approx_fprime
from scipy.special import ndtr
from strategies import generators
from tiny import make_cloner as make
from tiny import tiny
from toy import make_steps

from mereq_min.mdp import Array
from mereq_min.peers import InterventionModel, PredictedPreferences, intervention_probability
from mereq_min.soft import log_softmax
from mereq_min.steps import Steps


def draw(rng: np.random.Generator, n: int) -> Steps:
    S, A, _ = tiny().mdp.features.shape
    state, action, policy_action = rng.integers([[S], [A], [A]], size=(3, n))
    columns = {"state": state, "action": action, "policy_action": policy_action}
    return make_steps(tiny().mdp.features[state, action], is_intervention=rng.random(n) < 0.6, **columns)


def random_policies(rng: np.random.Generator, S: int = 4, A: int = 3) -> tuple[Array, Array]:
    return log_softmax(rng.normal(size=(S, A))), np.exp(log_softmax(rng.normal(size=(S, A))))


# --- MILE ---


@given(generators, st.floats(0.0, 4.0), st.floats(0.3, 3.0))
def test_someone_who_does_not_care_what_is_done_takes_over_when_the_noise_exceeds_the_cost(
    rng: np.random.Generator, cost: float, scale: float
) -> None:
    """All actions are equally good, so that nothing is gained: p = Phi(-cost / scale)."""
    _, mental = random_policies(rng)
    probability, _, _ = intervention_probability(np.full((4, 3), -np.log(3.0)), mental, cost, scale)
    assert_allclose(probability, ndtr(-cost / scale), rtol=1e-12)


def test_the_probit_model_of_two_actions_worked_by_hand() -> None:
    """The person does action 0 in 9 of 10 cases and expects the robot to do action 1."""
    log_policy, mental = np.log([[0.9, 0.1]]), np.array([[0.0, 1.0]])
    gain = np.log(9.0)  # of action 0 over what is expected
    probability, _, _ = intervention_probability(log_policy, mental, 1.0, 2.0)
    assert_allclose(probability, 0.9 * ndtr((gain - 1.0) / 2.0) + 0.1 * ndtr(-0.5), rtol=1e-12)


@settings(max_examples=20)
@given(generators)
def test_the_derivatives_of_the_probit_model_are_those_of_differences(rng: np.random.Generator) -> None:
    """Log-policy and mental model are moved freely here, without the constraint that they sum to 1."""
    log_policy, mental = random_policies(rng, S=1)
    _, by_log_policy, by_mental = intervention_probability(log_policy, mental, 0.7, 1.3)

    def probability(both: Array) -> float:
        return float(intervention_probability(both[None, :3], both[None, 3:], 0.7, 1.3)[0][0])

    both = np.concatenate([log_policy[0], mental[0]])
    slopes = np.concatenate([by_log_policy[0], by_mental[0]])
    step = 1e-6 * np.eye(6)
    central = [(probability(both + each) - probability(both - each)) / 2e-6 for each in step]
    assert_allclose(slopes, central, rtol=1e-5, atol=1e-8)


@settings(max_examples=10)
@given(generators)
def test_miles_gradient_is_that_of_differences(rng: np.random.Generator) -> None:
    cloner, steps = make(InterventionModel, cost=0.5), draw(rng, 40)
    actions = cloner.count(steps, steps.is_intervention.astype(float))
    n_steps = cloner.count(steps, np.ones(40)).sum(axis=1)
    w = 0.2 * rng.normal(size=len(cloner.gather(actions)) + actions.size)
    _, gradient = cloner.loss(w, actions, n_steps)
    numerical = approx_fprime(w, lambda w: cloner.loss(w, actions, n_steps)[0], 1e-7)
    assert_allclose(gradient, numerical, rtol=1e-3, atol=1e-3)


def test_mile_learns_how_often_the_person_takes_over() -> None:
    """Where the actions leave room for it, p(s) at the maximum is the share of steps that were taken over."""
    n, share = 400, 0.3
    taken = np.arange(n) < share * n
    state, action = np.full(n, 1), np.arange(n) % 3
    steps = make_steps(tiny().mdp.features[state, action], state=state, action=action, is_intervention=taken)
    cloner = make(InterventionModel, cost=1.0, prior_sd=30.0)
    actions = cloner.count(steps, taken.astype(float))
    n_steps = cloner.count(steps, np.ones(n)).sum(axis=1)
    policy, mental = cloner.fit(actions, n_steps)
    found, _, _ = intervention_probability(policy, mental, cloner.cost, cloner.scale)
    assert_allclose(found[1], share, atol=0.01)


def test_letting_pass_what_the_robot_does_speaks_for_it() -> None:
    """The same takeovers, and in one case many steps besides in which the person let the robot go on."""
    state, action = np.array([1] * 10), np.array([0] * 10)
    quiet = np.full(10, 2), np.full(10, 1)

    def fit(n_quiet: int) -> Array:
        s, a = (
            np.concatenate([one, np.tile(two, n_quiet)])
            for one, two in zip((state, action), quiet, strict=True)
        )
        taken = np.arange(len(s)) < 10
        steps = make_steps(tiny().mdp.features[s, a], state=s, action=a, is_intervention=taken)
        return np.exp(make(InterventionModel, cost=0.5).clone(steps, np.ones(len(s))).log_policy)

    prior = np.exp(log_softmax(make(InterventionModel).bonus / tiny().temperature))
    without, let_pass = fit(0), fit(5)
    assert np.abs(let_pass[2] - prior[2]).sum() < np.abs(without[2] - prior[2]).sum()
    assert let_pass[1, 0] > prior[1, 0] + 0.05


# --- PPL ---


@settings(max_examples=20)
@given(generators)
def test_with_a_horizon_of_one_ppl_contrasts_the_two_actions_of_the_takeover_alone(
    rng: np.random.Generator,
) -> None:
    cloner, steps = make(PredictedPreferences, horizon=1, beta=0.7), draw(rng, 30)
    steps = steps.select(~tiny().mdp.terminal[steps.state])
    weights = steps.is_intervention.astype(float)
    counts, preferences = cloner.count(steps, weights), cloner.preferences(steps, weights)
    w = rng.normal(size=len(cloner.gather(counts)))
    log_policy = log_softmax((cloner.bonus + cloner.corrections(w)) / tiny().temperature)
    mine = steps.select(steps.is_intervention)
    better, worse = log_policy[mine.state, mine.action], log_policy[mine.state, mine.policy_action]
    contrast = np.log1p(np.exp(-0.7 * (better - worse)))[mine.action != mine.policy_action].sum()
    expected = 0.5 * (w @ w) / cloner.prior_sd**2 - better.sum() + contrast
    assert_allclose(cloner.loss(w, counts, preferences)[0], expected, rtol=1e-10)


def test_the_overridden_action_is_held_in_the_transition_model() -> None:
    """Preferences of one step: in its state, and in those after the policy's action, once and twice."""
    mdp = tiny().mdp
    A = mdp.n_actions
    steps = make_steps(
        mdp.features[[1], [2]], state=np.array([1]), action=np.array([2]), policy_action=np.array([0])
    )
    found = make(PredictedPreferences, horizon=3).preferences(steps, np.array([6.0]))
    held = mdp.transition[0::A].toarray()
    visits = np.eye(mdp.n_states)[1] + held[1] + held[1] @ held
    assert_allclose(found[:, 2, 0], 2.0 * np.where(mdp.terminal, 0.0, visits), atol=1e-12)
    found[:, 2, 0] = 0.0
    assert_array_equal(found, 0.0)


@settings(max_examples=10)
@given(generators)
def test_ppls_gradient_is_that_of_differences(rng: np.random.Generator) -> None:
    cloner, steps = make(PredictedPreferences, beta=0.6), draw(rng, 30)
    weights = steps.is_intervention * rng.random(30)
    counts, preferences = cloner.count(steps, weights), cloner.preferences(steps, weights)
    w = rng.normal(size=len(cloner.gather(counts)))
    _, gradient = cloner.loss(w, counts, preferences)
    numerical = approx_fprime(w, lambda w: cloner.loss(w, counts, preferences)[0], 1e-7)
    assert_allclose(gradient, numerical, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", [InterventionModel, PredictedPreferences])
def test_steps_without_weight_are_left_out(kind: type) -> None:
    steps = draw(np.random.default_rng(0), 40)
    weights = (np.arange(40) < 25).astype(float)
    some = make(kind).clone(steps, weights).log_policy
    assert_allclose(some, make(kind).clone(steps.select(weights > 0), np.ones(25)).log_policy, atol=1e-10)
