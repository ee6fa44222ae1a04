"""Baselines on tables: limits, what they generalise to, and the labels that they learn from."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from strategies import generators
from tiny import make_cloner as make
from tiny import tiny
from toy import draw_steps, make_steps

from gridworlds.tabular import BASELINES
from mereq_min.baselines import FeatureCloner, ProxyValues, ResidualCloner, TakeoverReward, takeovers
from mereq_min.mdp import Array
from mereq_min.soft import log_softmax
from mereq_min.steps import Steps


def steps_of(state: list[int], action: list[int], **columns: object) -> Steps:
    features = tiny().mdp.features[state, action]
    return make_steps(features, state=np.array(state), action=np.array(action), **columns)


@pytest.mark.parametrize("kind", BASELINES)
def test_without_takeovers_the_prior_stays(kind: str) -> None:
    no = np.zeros(2, dtype=bool)
    steps = steps_of([0, 1], [1, 1], is_intervention=no)
    weights = np.zeros(2) if "cloning" in kind else np.ones(2)
    found = tiny().make_baseline(kind).clone(steps, weights)
    assert_allclose(np.exp(found.log_policy), np.exp(tiny().log_prior), rtol=0, atol=1e-12)


@settings(max_examples=12)
@given(generators, st.integers(1, 30), st.sampled_from([ResidualCloner, FeatureCloner]))
def test_cloning_is_where_the_pull_of_the_steps_equals_that_of_the_prior(
    rng: np.random.Generator, n: int, kind: type
) -> None:
    """w / sd^2 = sum over steps of (phi(s, a) - E[phi(s, .)]) / alpha_hat, for logits linear in phi . w."""
    mdp, alpha = tiny().mdp, tiny().temperature
    state, action = rng.integers(mdp.n_states, size=n), rng.integers(mdp.n_actions, size=n)
    cloner = make(kind, prior_sd=0.3)
    policy = np.exp(cloner.clone(steps_of(list(state), list(action)), np.ones(n)).log_policy)
    counts = np.zeros(policy.shape)
    np.add.at(counts, (state, action), 1.0)
    w = 0.3**2 * cloner.gather((counts - counts.sum(axis=1, keepdims=True) * policy) / alpha)
    again = log_softmax((cloner.bonus + cloner.corrections(w)) / alpha)
    assert_allclose(np.exp(again), policy, rtol=0, atol=1e-3)


def test_cloning_on_features_says_something_of_states_without_steps() -> None:
    task = tiny()
    assert task.oracle is not None
    expert = task.oracle.expert_policy
    seen = np.flatnonzero(~task.mdp.terminal)[:2]
    initial = np.isin(np.arange(task.mdp.n_states), seen) / 2
    steps = draw_steps(task.mdp, expert, np.random.default_rng(0), n_episodes=300, horizon=1, initial=initial)
    elsewhere = np.setdiff1d(np.flatnonzero(~task.mdp.terminal), seen)

    def kl(log_policy: Array) -> float:
        ratio = expert.log_policy - log_policy
        return float((np.exp(expert.log_policy) * ratio)[elsewhere].sum(axis=1).mean())

    clones = {
        kind: make(kind).clone(steps, np.ones(300)).log_policy for kind in (FeatureCloner, ResidualCloner)
    }
    unmoved = log_softmax(task.log_prior)[elsewhere]
    assert_allclose(clones[ResidualCloner][elsewhere], unmoved, rtol=0, atol=1e-12)
    assert kl(clones[FeatureCloner]) < 0.8 * kl(task.log_prior)


def test_takeovers_are_the_policys_last_steps_before_them() -> None:
    steps = steps_of(
        [0] * 7,
        [0] * 7,
        is_intervention=np.array([False, True, True, False, False, False, True]),
        episode=np.array([0, 0, 0, 0, 0, 1, 1]),
        t=np.array([0, 1, 2, 3, 4, 0, 1]),
    )
    assert_array_equal(takeovers(steps), [True, False, False, False, False, True, False])


def test_rlif_shuns_the_actions_that_were_stopped_and_their_approaches() -> None:
    """Half of the visits of one action were stopped, and it becomes rarer, the more so the dearer it is."""
    stops = np.array([False, True, False, False])
    steps = steps_of([1, 2, 1, 2], [1, 0, 1, 0], is_intervention=stops)
    found = np.exp(make(TakeoverReward, cost=3.0).clone(steps, np.ones(4)).log_policy)
    prior = np.exp(tiny().log_prior)
    assert found[1, 1] < prior[1, 1] - 0.05
    dearer = np.exp(make(TakeoverReward, cost=6.0).clone(steps, np.ones(4)).log_policy)
    assert dearer[1, 1] < found[1, 1] - 0.05


def test_pvp_prefers_what_the_expert_did_to_what_it_replaced() -> None:
    steps = steps_of([1, 1], [0, 0], policy_action=np.array([1, 1]))
    cloner = make(ProxyValues, scale=0.3)
    found = cloner.clone(steps, np.ones(2)).log_policy
    odds = found[1, 0] - found[1, 1] - (cloner.bonus[1, 0] - cloner.bonus[1, 1]) / tiny().temperature
    assert_allclose(odds, 0.3 * 2.0 / tiny().temperature, rtol=1e-9)
    assert_allclose(found[0], log_softmax(cloner.bonus / tiny().temperature)[0], rtol=0, atol=1e-12)
