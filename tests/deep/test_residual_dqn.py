"""Identities of the targets and of the loss on toy batches, and the exact solution where there is one."""

import numpy as np
import pytest
import torch
from vector import OneHotPolicy, TabularVectorEnv

from deep.bellman import MIN_LOG_PROB, bounded_log_prior, critic_loss, critic_target, stray_bonus
from deep.nets import mlp
from deep.policies import DiscretePolicy
from deep.residual_dqn import DQNConfig, ResidualDQN, soft_candidates
from deep.rollouts import collect
from gridworlds import TASKS
from mereq_min.exact import visitation
from mereq_min.soft import successor_features

N, A, K, GAMMA, TEMPERATURE = 16, 4, 2, 0.9, 0.3
THETA = torch.tensor([0.7, -0.4])


def make_batch(seed=0):
    rng = np.random.default_rng(seed)
    log_prior = np.log(rng.dirichlet(np.ones(A), size=N))
    return {
        "features": torch.as_tensor(rng.normal(size=(N, K)), dtype=torch.float32),
        "terminated": torch.as_tensor(rng.random(N) < 0.3),
        "next_log_prior": torch.as_tensor(log_prior, dtype=torch.float32),
    }


def make_values(seed=1):
    """psi and h (N, A, K + 1), and their Q_R under THETA (N, A)."""
    values = torch.as_tensor(np.random.default_rng(seed).normal(size=(N, A, K + 1)), dtype=torch.float32)
    return values, values[..., :-1] @ THETA + values[..., -1]


def make_target(batch, values, q, omega=0.2, temperature=TEMPERATURE):
    """Targets of psi and h (N, K + 1), and the probabilities (N, A) at the next states."""
    after = soft_candidates(q, batch["next_log_prior"], omega, temperature)
    stray = stray_bonus(after, omega, torch.tensor(temperature))
    target = critic_target(batch["features"], batch["terminated"], values, after.probability, stray, GAMMA)
    return target, after.probability


def q_target(batch, values, q, omega=0.2, temperature=TEMPERATURE):
    """Target of Q_R = psi . theta + h that the targets of psi and h add up to."""
    target, _ = make_target(batch, values, q, omega, temperature)
    return target[:, :-1] @ THETA + target[:, -1]


def soft_value(logits, temperature=TEMPERATURE):
    return temperature * torch.logsumexp(logits / temperature, dim=1)


def test_targets_add_up_to_those_of_residual_q_learning():
    batch = make_batch()
    values, q = make_values()
    expected = batch["features"] @ THETA + GAMMA * ~batch["terminated"] * soft_value(
        q + 0.2 * batch["next_log_prior"]
    )
    torch.testing.assert_close(q_target(batch, values, q), expected)


def test_without_weight_on_the_prior_they_are_those_of_soft_dqn():
    batch = make_batch()
    values, q = make_values()
    expected = batch["features"] @ THETA + GAMMA * ~batch["terminated"] * soft_value(q)
    torch.testing.assert_close(q_target(batch, values, q, omega=0.0), expected)


def test_at_temperature_zero_they_are_those_of_dqn():
    batch = make_batch()
    values, q = make_values()
    expected = batch["features"] @ THETA + GAMMA * ~batch["terminated"] * q.max(dim=1).values
    torch.testing.assert_close(q_target(batch, values, q, omega=0.0, temperature=0.0), expected)


def test_nothing_follows_a_termination_and_a_value_follows_a_time_limit():
    batch = make_batch()
    values, q = make_values()
    target, policy = make_target(batch, values, q)
    ended = batch["terminated"]
    torch.testing.assert_close(target[ended, :-1], batch["features"][ended])
    torch.testing.assert_close(target[ended, -1], torch.zeros(int(ended.sum())))
    onward = (policy[..., None] * values[..., :-1]).sum(dim=1)
    torch.testing.assert_close(target[~ended, :-1], batch["features"][~ended] + GAMMA * onward[~ended])


def test_an_action_that_the_prior_never_takes_has_no_part_in_the_targets():
    prior = OneHotPolicy(np.log([[0.5, 0.5, 1e-300, 1e-300]]))
    prior.log_prob = lambda state, action: np.where(action < 2, np.log(0.5), -np.inf)
    bounded = bounded_log_prior(prior, np.ones((N, 1)), A)
    assert bounded.min() == MIN_LOG_PROB
    log_prior = torch.as_tensor(bounded, dtype=torch.float32)
    batch = make_batch() | {"next_log_prior": log_prior}
    values, q = make_values()
    allowed = soft_value((q + 0.2 * log_prior)[:, :2])
    expected = batch["features"] @ THETA + GAMMA * ~batch["terminated"] * allowed
    torch.testing.assert_close(q_target(batch, values, q), expected)


def test_the_loss_asks_only_for_the_action_taken():
    values, _ = make_values()
    action = torch.as_tensor(np.random.default_rng(0).integers(A, size=N))
    values.requires_grad_()
    target = torch.ones(N, K + 1)
    (gradient,) = torch.autograd.grad(critic_loss(values[torch.arange(N), action], target), values)
    taken = torch.nn.functional.one_hot(action, A)[..., None]
    torch.testing.assert_close(gradient, taken * (values.detach() - 1) / N)


def make_agent(prior=None, *, n_inputs=3, temperature=TEMPERATURE, **settings):
    return ResidualDQN(
        n_inputs,
        A,
        K,
        gamma=GAMMA,
        temperature=temperature,
        prior=prior,
        scaled_prior_weight=0.0 if prior is None else temperature,
        config=DQNConfig(hidden=(16,), batch_size=8, engine="torch", **settings),
        seed=2,
    )


def make_transitions(n=40, seed=0, n_inputs=3):
    rng = np.random.default_rng(seed)
    return {
        "state": rng.normal(size=(n, n_inputs)),
        "action": rng.integers(A, size=n),
        "features": rng.normal(size=(n, K)),
        "next_state": rng.normal(size=(n, n_inputs)),
        "terminated": rng.random(n) < 0.2,
    }


def make_prior():
    return DiscretePolicy(mlp([3, 16, A], seed=7), 0.5)


STATES = np.random.default_rng(5).normal(size=(9, 3))


def test_without_residual_reward_q_stays_zero():
    """alpha_hat = omega', theta = 0: where Q_R = h = 0 the loss has no gradient in h, whatever psi is."""
    batch = make_batch()
    values = make_values()[0]
    values[..., -1] = 0.0
    target, _ = make_target(batch, values, values[..., -1], omega=TEMPERATURE)
    values.requires_grad_()
    loss = critic_loss(values[:, 0], target)
    (gradient,) = torch.autograd.grad(loss, values)
    assert gradient[..., -1].abs().max() < 1e-7
    assert gradient[..., :-1].abs().max() > 1e-2


def test_the_first_policy_is_the_prior_and_without_residual_reward_it_stays_near():
    prior = make_prior()
    agent = make_agent(prior)
    np.testing.assert_allclose(agent.policy().log_probs(STATES), prior.log_probs(STATES), atol=1e-6)
    agent.add(**make_transitions())
    agent.update(np.zeros(K), 50)
    np.testing.assert_allclose(agent.policy().log_probs(STATES), prior.log_probs(STATES), atol=0.05)
    assert np.abs(agent.successor_features(STATES)).max() > 0.1


def test_theta_enters_q_through_the_successor_features_alone():
    agent = make_agent(make_prior())
    agent.add(**make_transitions())
    agent.update(np.zeros(K), 50)
    policies = []
    for theta in ([0.0, 0.0], [0.5, -1.0]):
        agent.theta = np.array(theta)
        policies.append(agent.policy().log_probs(STATES))
    moved = policies[1] - policies[0] - agent.successor_features(STATES) @ [0.5, -1.0] / TEMPERATURE
    np.testing.assert_allclose(moved, np.broadcast_to(moved[:, :1], moved.shape), atol=1e-4)


def test_score_and_information_are_derivatives_of_the_policy_in_theta():
    agent = make_agent(make_prior())
    agent.add(**make_transitions())
    agent.update(np.array([0.3, 0.2]), 50)
    action = np.arange(9) % A
    score, information = agent.score(STATES, action), agent.information(STATES)
    log_probs, h, numerical = agent.policy().log_probs(STATES), 1e-2, []
    for k in range(K):
        ends = []
        for sign in (1, -1):
            agent.theta = np.array([0.3, 0.2]) + sign * h * np.eye(K)[k]
            ends.append(agent.policy().log_probs(STATES))
        numerical.append((ends[0] - ends[1]) / (2 * h))
    gradient = np.stack(numerical, axis=-1)
    np.testing.assert_allclose(score, gradient[np.arange(9), action], rtol=1e-2, atol=1e-3)
    expected = np.einsum("na,nak,nal->nkl", np.exp(log_probs), gradient, gradient)
    np.testing.assert_allclose(information, expected, rtol=2e-2, atol=1e-3)


def test_successor_features_are_the_exact_ones_of_a_gridworld():
    """Within 5 % of their size, in the root mean square over what the prior of the lanes task visits."""
    task = TASKS["lanes"]()
    mdp, log_prior = task.mdp, task.prior.log_policy
    agent = ResidualDQN(
        mdp.n_states,
        mdp.n_actions,
        mdp.n_features,
        gamma=mdp.gamma,
        temperature=TEMPERATURE,
        prior=OneHotPolicy(log_prior),
        scaled_prior_weight=TEMPERATURE,
        config=DQNConfig(batch_size=128, target_rate=0.04, engine="torch"),
    )
    envs = TabularVectorEnv(mdp, 64, task.horizon)
    rollout = collect(envs, agent.policy(), 4 * task.horizon, np.random.default_rng(0), seed=0)
    agent.add(**rollout.transitions())
    agent.update(np.zeros(mdp.n_features), 1_200)
    visits = visitation(mdp, log_prior, task.horizon, 1.0)
    weights = (visits / visits.sum())[..., None]
    exact = successor_features(mdp, log_prior)
    error = agent.successor_features(np.eye(mdp.n_states)) - exact
    assert (weights * error**2).sum() ** 0.5 < 0.05 * (weights * exact**2).sum() ** 0.5


def test_a_policy_does_not_follow_later_updates():
    agent = make_agent()
    agent.add(**make_transitions())
    agent.update(np.array([1.0, 0.0]), 5)
    policy = agent.policy()
    before = policy.log_probs(STATES)
    agent.update(np.array([0.0, 1.0]), 5)
    np.testing.assert_array_equal(policy.log_probs(STATES), before)
    assert not np.array_equal(agent.policy().log_probs(STATES), before)


def test_fine_tuning_begins_with_the_policy_that_it_tunes():
    other = make_prior()
    agent = make_agent()
    agent.start_from(other)
    np.testing.assert_allclose(agent.policy().log_probs(STATES), other.log_probs(STATES), atol=1e-5)
    curved = DiscretePolicy(mlp([3, 16, A], seed=7, activation=torch.nn.Tanh), 0.5)
    agent.start_from(curved)
    np.testing.assert_allclose(agent.policy().log_probs(STATES), curved.log_probs(STATES), atol=1e-5)
    with pytest.raises(ValueError, match="built like"):
        agent.start_from(DiscretePolicy(torch.nn.Linear(3, A)))
    with pytest.raises(ValueError, match="needs 5 inputs and 4 actions, got"):
        make_agent(n_inputs=5).start_from(other)
    with pytest.raises(ValueError, match="without a prior"):
        agent.start_from(make_agent(other).policy())


def test_exploration_falls_to_its_final_share():
    agent = make_agent(temperature=0.0, exploration_steps=80, final_epsilon=0.1)
    shares = []
    for seed in range(4):
        shares.append(agent.explorer().epsilon)
        agent.add(**make_transitions(seed=seed))
    np.testing.assert_allclose(shares, [1.0, 0.55, 0.1, 0.1])


@pytest.mark.parametrize("temperature", [TEMPERATURE, 0.0])
def test_a_restored_agent_goes_on_bit_for_bit(temperature):
    agent, again = (make_agent(temperature=temperature, replay_capacity=60) for _ in range(2))
    for seed in (0, 1):
        agent.add(**make_transitions(seed=seed))
        agent.update(np.array([1.0, -0.5]), 10)
    again.restore(agent.arrays())
    for each in (agent, again):
        each.add(**make_transitions(seed=2))
        each.update(np.array([0.3, 0.9]), 10)
    expected, got = agent.arrays(), again.arrays()
    assert set(expected) == set(got)
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name], err_msg=name)


def without(name):
    return lambda state: state.pop(name)


def spoilt(name):
    return lambda state: state.update({name: np.full_like(state[name], np.nan)})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without("updates_done"), "updates_done"),
        (without("net.1.bias"), "does not fit"),
        (without("replay.added"), "transitions into a replay"),
        (spoilt("target_net.1.weight"), "not finite"),
        (spoilt("optimiser.0.exp_avg"), "not finite"),
        (spoilt("replay.features"), "features must be finite"),
        (spoilt("agent_theta"), "agent_theta must be finite"),
    ],
)
def test_a_damaged_state_is_refused(damage, message):
    agent = make_agent()
    agent.add(**make_transitions())
    agent.update(np.zeros(K), 1)
    state = agent.arrays()
    damage(state)
    with pytest.raises(ValueError, match=message):
        make_agent().restore(state)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("features", np.zeros((40, K + 1))),
        ("features", np.full((40, K), np.nan)),
        ("next_state", np.full((40, 3), np.inf)),
        ("action", np.zeros(39, dtype=int)),
    ],
)
def test_malformed_transitions_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must|columns must"):
        make_agent().add(**make_transitions() | {name: value})


def test_malformed_arguments_are_refused():
    with pytest.raises(ValueError, match="theta"):
        make_agent().update(np.zeros(K + 1), 1)
    with pytest.raises(
        ValueError, match=r"theta must be at most 3.4e\+38, as networks compute in float32; got"
    ):
        make_agent().update(np.full(K, -1e39), 1)
    with pytest.raises(ValueError, match="empty"):
        make_agent().update(np.zeros(K), 1)
    with pytest.raises(ValueError, match="n_updates"):
        make_agent().update(np.zeros(K), 0)
    with pytest.raises(ValueError, match="temperature"):
        make_agent(make_prior(), temperature=0.0)
    for temperature in (1e-50, 1e50):  # 0 and infinite in float32
        with pytest.raises(ValueError, match="temperature must be a finite number at least"):
            make_agent(temperature=temperature)
    with pytest.raises(ValueError, match="batch_size"):
        DQNConfig(batch_size=0)
