"""What every policy promises (`interfaces.Policy`): log_prob is normalised, sample agrees with it."""

import numpy as np
import pytest
from scipy.stats import chisquare

from mereq_min import TabularPolicy
from mereq_min.catalogue import load_task, task_factories

KINDS = ("prior", "expert_policy")


@pytest.fixture(params=[(name, kind) for name in task_factories() for kind in KINDS], ids="-".join)
def policy_and_actions(request):
    """A policy over discrete states, a few states of its task, and the number of actions."""
    name, kind = request.param
    task = load_task(name)
    env = task.make_env()
    states = [env.reset(seed=seed)[0] for seed in range(5)]
    return getattr(task, kind), np.array(states), int(env.action_space.n)


def test_log_prob_is_normalised_over_actions(policy_and_actions):
    policy, states, n_actions = policy_and_actions
    probabilities = [np.exp(policy.log_prob(states, np.full(len(states), a))) for a in range(n_actions)]
    np.testing.assert_allclose(np.sum(probabilities, axis=0), 1.0, rtol=1e-9)


def test_sample_agrees_with_log_prob(policy_and_actions):
    policy, states, n_actions = policy_and_actions
    state = states[0]
    drawn = policy.sample(np.full(20_000, state), np.random.default_rng(0))
    expected = np.exp(policy.log_prob(np.full(n_actions, state), np.arange(n_actions)))
    likely = expected * len(drawn) >= 5
    counts = np.bincount(drawn, minlength=n_actions)
    rest = [counts[~likely].sum()], [expected[~likely].sum() * len(drawn)]
    observed = np.append(counts[likely], rest[0])
    wanted = np.append(expected[likely] * len(drawn), rest[1])
    keep = wanted > 0
    assert observed[~keep].sum() == 0
    if keep.sum() > 1:
        assert chisquare(observed[keep], wanted[keep] * observed.sum() / wanted.sum()).pvalue > 1e-4


def test_sampling_is_reproducible_from_the_generator(policy_and_actions):
    policy, states, _ = policy_and_actions
    first, again = (policy.sample(states, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_a_policy_that_is_not_normalised_is_refused():
    with pytest.raises(ValueError, match="exp sums to 2"):
        TabularPolicy(np.zeros((3, 2)))
