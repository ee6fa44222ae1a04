"""Residual SAC: closed forms and identities on toy batches, and exact solutions of small problems."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy.integrate import trapezoid
from scipy.linalg import solve_discrete_lyapunov

from deep.bellman import Candidates, critic_target, join_twins, stray_bonus
from deep.gaussian import SquashedGaussianPolicy, log_jacobian, normal_log_density, squashed_gaussian_policy
from deep.heads import TwinMLP
from deep.nets import mlp
from deep.residual_sac import ResidualSAC, SACConfig, actor_loss, critic_loss, temperature_loss
from gridworlds import random_mdp
from mereq_min import solve_residual, solve_soft, successor_features

BOX = spaces.Box(np.array([-2.0, 0.0]), np.array([2.0, 3.0]), dtype=np.float64)
GAMMA = 0.9


def gaussian_policy(seed=0, n_inputs=3, low=BOX.low, high=BOX.high):
    return SquashedGaussianPolicy(mlp([n_inputs, 16, 2 * len(low)], seed), low, high)


class TablePolicy:
    """A table of log pi(a | s) (S, A) behind one-hot states."""

    def __init__(self, log_policy):
        self.log_policy = log_policy

    def log_probs(self, state):
        return self.log_policy[np.argmax(state, axis=1)]


def toy_candidates(rng, n=5, m=3):
    """Candidates of n states, psi and h of both twins (2, n, m, 3), and weights (theta, 1)."""
    log_policy = torch.log_softmax(torch.as_tensor(rng.normal(size=(n, m))), dim=1)
    log_prior = torch.log_softmax(torch.as_tensor(rng.normal(size=(n, m))), dim=1)
    candidates = Candidates(torch.zeros(n, 0), log_policy.exp(), log_policy, log_prior)
    return candidates, torch.as_tensor(rng.normal(size=(2, n, m, 3))), torch.tensor([0.7, -0.4, 1.0]).double()


def fill(agent, rng, n=300):
    """Random transitions, every fifth of which terminates."""
    discrete = not hasattr(agent.actor, "low")
    action = rng.integers(3, size=n) if discrete else rng.uniform(BOX.low, BOX.high, size=(n, 2))
    agent.add(
        rng.normal(size=(n, 3)),
        action,
        rng.normal(size=(n, 2)),
        rng.normal(size=(n, 3)),
        np.arange(n) % 5 == 0,
    )
    return agent


def make_agent(kind, *, seed=0, prior=True, omega=0.3, temperature=0.3, **config):
    rng = np.random.default_rng(1)
    table = TablePolicy(np.log(rng.dirichlet(np.ones(3), size=3)))
    priors = {"discrete": table, "box": gaussian_policy(7)}
    return ResidualSAC(
        3, {"discrete": spaces.Discrete(3), "box": BOX}[kind], 2, gamma=GAMMA, temperature=temperature,
        prior=priors[kind] if prior else None, scaled_prior_weight=omega,
        config=SACConfig(hidden=(16,), batch_size=32, engine="torch", **config), seed=seed,
    )  # fmt: skip


both_kinds = pytest.mark.parametrize("kind", ["discrete", "box"])


# --- Squashed Gaussians ----------------------------------------------------------------------------------


def test_density_integrates_to_one():
    policy = gaussian_policy(3)
    # The grid is even in the latent, so that it is dense where the density is steep.
    y = np.tanh(np.linspace(-9, 9, 601))
    grids = [centre + half * y for centre, half in zip(policy.centre, policy.half_width, strict=True)]
    first, second = np.meshgrid(*grids, indexing="ij")
    action = np.stack([first.ravel(), second.ravel()], axis=1)
    density = np.exp(policy.log_prob(np.tile([0.3, -1.0, 0.5], (len(action), 1)), action)).reshape(601, 601)
    assert trapezoid(trapezoid(density, grids[1], axis=1), grids[0]) == pytest.approx(1.0, abs=1e-3)


def test_density_follows_the_change_of_variables():
    policy, state = gaussian_policy(4), np.random.default_rng(0).normal(size=(50, 3))
    latent, h = np.random.default_rng(1).normal(size=(50, 2)), 1e-6

    def stretch(u):
        return policy.centre + policy.half_width * np.tanh(u)

    slope = (stretch(latent + h) - stretch(latent - h)) / (2 * h)
    with torch.no_grad():
        output = policy.net(torch.as_tensor(state, dtype=torch.float32)).double().numpy()
    mean, log_std = output.T.reshape(2, 2, 50)
    z = (latent.T - mean) / np.exp(log_std)
    normal = (-0.5 * z**2 - log_std - 0.5 * math.log(2 * math.pi)).sum(axis=0)
    expected = normal - np.log(slope).sum(axis=1)
    np.testing.assert_allclose(policy.log_prob(state, stretch(latent)), expected, rtol=1e-6, atol=1e-6)


def test_samples_have_the_density_that_is_stated():
    policy = gaussian_policy(5)
    state, rng = np.tile([0.1, 0.2, -0.3], (20_000, 1)), np.random.default_rng(0)
    action = policy.sample(state, rng)
    # Importance weights from the density to the even distribution over the Box average to 1.
    weight = np.exp(-policy.log_prob(state, action)) / np.prod(BOX.high - BOX.low)
    inner = np.all(np.abs((action - policy.centre) / policy.half_width) < 0.9, axis=1)
    assert (weight * inner).mean() == pytest.approx(0.9**2, rel=0.03)
    assert policy.log_prob(state[:1], BOX.high[None] + 0.1)[0] == -np.inf


def test_jacobian_is_exact_where_tanh_is_flat():
    latent = torch.tensor([[0.0], [1.5], [-1.5], [50.0], [-50.0]])
    slope = math.log(1 - math.tanh(1.5) ** 2)
    flat = 2 * math.log(2) - 100.0  # 1 - tanh(u)^2 -> 4 exp(-2 |u|)
    np.testing.assert_allclose(log_jacobian(latent), [0.0, slope, slope, flat, flat], rtol=1e-5, atol=1e-6)


def test_the_actor_states_the_density_of_its_own_draws():
    agent, state = make_agent("box"), np.random.default_rng(0).normal(size=(40, 3))
    with torch.no_grad():
        drawn = agent.actor.propose(
            torch.as_tensor(state, dtype=torch.float32), torch.zeros(40, 0), np.random.default_rng(2)
        )
    policy = agent.policy()
    action = policy.centre + policy.half_width * drawn.action.double().numpy()
    volume = np.log(policy.half_width).sum()  # the losses see unit actions
    expected = policy.log_prob(state, action) + volume
    np.testing.assert_allclose(drawn.log_policy[:, 0], expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(drawn.log_prior[:, 0], expected, rtol=1e-3, atol=1e-3)


def test_a_rebuilt_policy_acts_the_same():
    policy, state = gaussian_policy(6), np.random.default_rng(0).normal(size=(9, 3))
    twin = squashed_gaussian_policy(policy.arrays())
    draws = [each.sample(state, np.random.default_rng(3)) for each in (policy, twin)]
    np.testing.assert_array_equal(*draws)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("low", None, "expected low, high"),
        ("low", np.array([np.nan, 0.0]), "low must be finite"),
        ("high", np.array([-3.0, 1.0]), "high must lie above low"),
        ("high", np.ones(3), "high must have shape"),
        ("net.1.weight", np.full((16, 3), np.nan), "not finite"),
        ("net.3.bias", np.zeros(5), "does not fit"),
    ],
)
def test_damaged_policies_are_refused(name, value, message):
    arrays = gaussian_policy().arrays()
    arrays[name] = value
    with pytest.raises(ValueError, match=message):
        squashed_gaussian_policy({key: array for key, array in arrays.items() if array is not None})


# --- Nets and losses -------------------------------------------------------------------------------------


def test_twins_are_two_perceptrons():
    twins, x = TwinMLP([4, 8, 8, 3], 5), torch.as_tensor(np.random.default_rng(0).normal(size=(6, 4))).float()
    seeds = np.random.SeedSequence(5).generate_state(2).tolist()
    separate = torch.stack([mlp([4, 8, 8, 3], seed)(x) for seed in seeds])
    assert not torch.allclose(separate[0], separate[1], atol=0.01)
    torch.testing.assert_close(twins(x), separate)


@pytest.mark.parametrize("pessimistic", [True, False])
def test_targets_are_the_residual_bellman_equation_by_brute_force(pessimistic):
    join = min if pessimistic else lambda *both: sum(both) / 2
    rng = np.random.default_rng(0)
    after, values, weights = toy_candidates(rng)
    features, terminated = torch.as_tensor(rng.normal(size=(5, 2))), torch.tensor([True, False] * 2 + [False])
    omega, alpha = 0.3, torch.tensor(0.2)
    bonus = stray_bonus(after, omega, alpha)
    joined = join_twins(values, weights, pessimistic)
    target = critic_target(features, terminated, joined, after.probability, bonus, GAMMA)
    for i in range(5):
        reward = features[i] @ weights[:2]
        v = sum(
            after.probability[i, a]
            * (
                join(values[0, i, a] @ weights, values[1, i, a] @ weights)
                + omega * after.log_prior[i, a]
                - alpha * after.log_policy[i, a]
            )
            for a in range(3)
        )
        # Only a termination stops the bootstrap; a time limit is stored as not terminated.
        expected = reward if terminated[i] else reward + GAMMA * v
        assert float(target[i] @ weights) == pytest.approx(float(expected), rel=1e-6)


def test_without_a_prior_the_losses_are_those_of_sac():
    rng = np.random.default_rng(1)
    now, values, weights = toy_candidates(rng, m=1)
    alpha, q = torch.tensor(0.2), values @ weights
    expected = (alpha * now.log_policy[:, 0] - torch.minimum(q[0], q[1])[:, 0]).mean()
    joined = join_twins(values, weights, True) @ weights
    loss = actor_loss(joined, stray_bonus(now, 0.0, alpha), torch.ones(5, 1))
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    # With the reward as the one head the critics' loss is SAC's: half the mean squared error of both.
    target = torch.as_tensor(rng.normal(size=(5, 1)))
    expected = sum(0.5 * torch.nn.functional.mse_loss(q[i], target) for i in range(2))
    assert float(critic_loss(q, target)) == pytest.approx(float(expected), rel=1e-6)


def test_the_rewards_part_of_the_target_is_linear_in_theta():
    rng = np.random.default_rng(2)
    after, values, _ = toy_candidates(rng)
    features, alive = torch.as_tensor(rng.normal(size=(5, 2))), torch.zeros(5, dtype=torch.bool)

    def target_of(theta):
        """Of one critic, so that which twin is smaller does not depend on theta."""
        bonus = stray_bonus(after, 0.3, torch.tensor(0.2))
        target = critic_target(features, alive, values[0], after.probability, bonus, GAMMA)
        return target @ torch.tensor([*theta, 1.0]).double()

    one, two, zero = target_of([0.5, 0.0]), target_of([0.0, -2.0]), target_of([0.0, 0.0])
    torch.testing.assert_close(target_of([0.5, -2.0]) - zero, (one - zero) + (two - zero))
    assert (one - zero).abs().min() > 1e-3


def test_the_temperature_moves_towards_the_target_entropy():
    for entropy, sign in ((0.2, -1), (0.9, 1)):
        log_temperature = torch.tensor(0.5, requires_grad=True)
        temperature_loss(log_temperature, torch.tensor(entropy), 0.5).backward()
        assert (
            math.copysign(1, log_temperature.grad) == sign
        )  # a descent step raises it where entropy is short


# --- Residual identities ---------------------------------------------------------------------------------


def test_the_prior_is_the_optimum_of_a_zero_residual_reward():
    """E3: with r_R = 0, Q_R = 0 and alpha_hat = omega' no loss has a gradient."""
    agent = fill(make_agent("discrete"), np.random.default_rng(0))
    batch = agent.replay.sample(64, np.random.default_rng(0))
    now = agent.actor.propose(batch["state"], batch["log_prior"], np.random.default_rng(0))
    torch.testing.assert_close(now.log_policy, batch["log_prior"])
    bonus = stray_bonus(now, 0.3, torch.tensor(0.3))
    values = agent.actor.values_taken(agent.critics, batch["state"], batch["action"])
    onward = agent.actor.values(agent.target_critics, batch["next_state"], now.action)[0]
    target = critic_target(torch.zeros(64, 2), batch["terminated"], onward, now.probability, bonus, GAMMA)
    for loss, net in (
        (critic_loss(values, target), agent.critics),
        (actor_loss(torch.zeros(64, 3), bonus, now.probability), agent.actor.net),
    ):
        for gradient in torch.autograd.grad(loss, list(net.parameters())):
            torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-6, rtol=0)


def test_a_residual_reward_moves_the_policy_off_the_prior_and_zero_does_not():
    state, rng = np.eye(3), np.random.default_rng(0)
    kl = {}
    for scale in (0.0, 1.0):
        agent = fill(make_agent("discrete"), rng)
        agent.update(np.full(2, scale), 200)
        prior, log_policy = agent.actor.prior.log_policy, agent.policy().log_probs(state)
        kl[scale] = (np.exp(prior) * (prior - log_policy)).sum(axis=1).mean()
    assert kl[0.0] < 1e-3 < 1e-2 < kl[1.0]


def test_over_a_box_the_prior_has_no_gradient_but_noise():
    """The mean gradient of the actor's loss at pi_hat = pi is that of alpha_hat E[log pi_hat], which is 0."""
    agent = make_agent("box")
    state = torch.as_tensor(np.random.default_rng(0).normal(size=(20_000, 3))).float()
    now = agent.actor.propose(state, torch.zeros(20_000, 0), np.random.default_rng(1))
    bonus = stray_bonus(now, 0.3, torch.tensor(0.3))
    torch.testing.assert_close(bonus, torch.zeros_like(bonus), atol=1e-4, rtol=0)
    parameters = list(agent.actor.net.parameters())

    def gradient(bonus):
        loss = actor_loss(torch.zeros(2, 20_000, 1), bonus, now.probability)
        return torch.cat([g.ravel() for g in torch.autograd.grad(loss, parameters, retain_graph=True)]).norm()

    assert gradient(bonus) < 0.1 * gradient(stray_bonus(now, 0.0, torch.tensor(0.3)))


def test_target_critics_follow_by_polyak_averaging():
    agent = fill(make_agent("box", target_rate=0.2), np.random.default_rng(0))
    agent.update(np.ones(2), 2)
    before = agent.arrays()
    agent.update(np.ones(2), 1)
    after = agent.arrays()
    names = [name for name in before if name.startswith("target_critics.")]
    assert len(names) == 4
    for name in names:
        online = after[name.removeprefix("target_")]
        assert not np.array_equal(before[name], after[name])
        np.testing.assert_allclose(after[name], 0.8 * before[name] + 0.2 * online, rtol=1e-5, atol=1e-7)


@both_kinds
def test_the_actors_loss_does_not_move_the_critics(kind):
    """Two agents that differ in their actor only through targets of weight 0 have the same critics."""
    agents = [fill(make_agent(kind, learning_rate=0.01), np.random.default_rng(0)) for _ in range(2)]
    with torch.no_grad():
        for parameter in agents[1].actor.net.parameters():
            parameter.add_(0.3)
    for agent in agents:
        agent.gamma = 0.0
        agent.update(np.ones(2), 3)
    first, second = (agent.arrays() for agent in agents)
    for name in (name for name in first if name.startswith("critics.")):
        np.testing.assert_array_equal(first[name], second[name])


# --- Saving ----------------------------------------------------------------------------------------------


@both_kinds
def test_a_restored_agent_goes_on_bit_for_bit(kind):
    agent = fill(make_agent(kind, target_entropy=-0.5), np.random.default_rng(0))
    agent.update(np.ones(2), 5)
    twin = make_agent(kind, target_entropy=-0.5)
    twin.restore(agent.arrays())
    metrics = [each.update(np.array([1.0, -0.5]), 5) for each in (agent, twin)]
    assert metrics[0] == metrics[1]
    first, again = agent.arrays(), twin.arrays()
    assert set(first) == set(again)
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("actor.1.weight", np.full((16, 3), np.nan), "not finite"),
        ("critics.stacked.0", np.zeros((2, 3, 3)), "does not fit"),
        ("log_temperature", np.array(np.nan), "log_temperature must be finite"),
        ("agent_theta", np.zeros(3), "agent_theta must have shape"),
        ("updates_done", None, "updates_done missing"),
    ],
)
def test_damaged_states_are_refused(name, value, message):
    agent = fill(make_agent("box"), np.random.default_rng(0))
    state = {**agent.arrays(), name: value}
    with pytest.raises(ValueError, match=message):
        agent.restore({key: array for key, array in state.items() if array is not None})


def test_a_policy_is_frozen():
    agent = fill(make_agent("box"), np.random.default_rng(0))
    state, action = np.zeros((1, 3)), BOX.low[None] + 1.0
    policy = agent.policy()
    before = policy.log_prob(state, action)
    agent.update(np.ones(2), 3)
    assert policy.log_prob(state, action) == before != agent.policy().log_prob(state, action)


@both_kinds
def test_malformed_transitions_are_refused(kind):
    agent = make_agent(kind)
    action = np.array([0]) if kind == "discrete" else np.zeros((1, 2))
    good = {
        "state": np.zeros((1, 3)), "action": action, "features": np.zeros((1, 2)),
        "next_state": np.zeros((1, 3)), "terminated": np.array([False]),
    }  # fmt: skip
    bad = {
        "state": np.full((1, 3), np.nan), "next_state": np.zeros((1, 4)), "features": np.zeros((1, 3)),
        "action": np.array([3]) if kind == "discrete" else np.full((1, 2), np.nan),
    }  # fmt: skip
    for name, value in bad.items():
        with pytest.raises(ValueError, match=name):
            agent.add(**{**good, name: value})
    with pytest.raises(ValueError, match="empty"):
        agent.update(np.zeros(2), 1)
    with pytest.raises(ValueError, match="theta"):
        agent.update(np.array([np.nan, 0.0]), 1)
    with pytest.raises(ValueError, match=r"theta must be at most 3.4e\+38, as networks compute in float32"):
        agent.update(np.array([1e39, 0.0]), 1)
    agent.add(**{**good, "features": np.full((1, 2), 100.0)})
    with pytest.raises(ValueError, match=r"training overflowed float32 \(.*= (nan|-?inf)"):
        agent.update(np.array([3e38, 3e38]), 5)


def test_a_prior_must_be_differentiable_on_the_same_box():
    for prior, message in (
        (TablePolicy(np.zeros((1, 2))), "SquashedGaussianPolicy"),
        (gaussian_policy(high=BOX.high + 1.0), "must act on the Box"),
    ):
        with pytest.raises(ValueError, match=message):
            ResidualSAC(3, BOX, 2, gamma=GAMMA, temperature=1.0, prior=prior)
    with pytest.raises(ValueError, match="must count from 0"):
        ResidualSAC(3, spaces.Discrete(3, start=1), 2, gamma=GAMMA, temperature=1.0)
    with pytest.raises(ValueError, match="Discrete or a Box"):
        ResidualSAC(3, spaces.MultiBinary(2), 2, gamma=GAMMA, temperature=1.0)


def test_bounds_that_differ_by_rounding_are_the_same():
    space = spaces.Box(-0.4, 0.4, (2,), np.float32)  # 0.4 in single precision
    prior = gaussian_policy(low=np.full(2, -0.4), high=np.full(2, 0.4))
    assert ResidualSAC(3, space, 2, gamma=GAMMA, temperature=1.0, prior=prior).actor.prior is not None


# --- Against exact solutions -----------------------------------------------------------------------------


def test_discrete_residual_sac_reaches_the_exact_policy_and_its_successor_features():
    """Mean KL under 0.01 nats on a random MDP; psi, score and information follow to first order."""
    S, A, omega, alpha, theta = 5, 3, 0.24, 0.3, np.array([0.9, -0.7])
    mdp = random_mdp(0, S, A, 2, gamma=0.7)
    prior = solve_soft(mdp, mdp.reward([0.5, 0.3]), 0.3, tol=1e-12).log_policy
    exact = solve_residual(mdp, mdp.reward(theta), prior, omega, alpha, tol=1e-12).log_policy
    config = SACConfig(hidden=(32,), learning_rate=3e-3, batch_size=128, target_rate=0.05)
    agent = ResidualSAC(
        S, spaces.Discrete(A), 2, gamma=mdp.gamma, temperature=alpha, prior=TablePolicy(prior),
        scaled_prior_weight=omega, config=config,
    )  # fmt: skip
    rng, n, one_hot = np.random.default_rng(0), 20_000, np.eye(S)
    state, action = rng.integers(S, size=n), rng.integers(A, size=n)
    rows = mdp.transition.toarray().cumsum(axis=1)[state * A + action, :-1]
    following = (rng.random(n)[:, None] >= rows).sum(axis=1)
    never = np.zeros(n, dtype=bool)
    agent.add(one_hot[state], action, mdp.features[state, action], one_hot[following], never)
    agent.update(theta, 1_500)

    def kl_from_exact(log_policy):
        return (np.exp(exact) * (exact - log_policy)).sum(axis=1).mean()

    assert kl_from_exact(agent.policy().log_probs(one_hot)) < 0.01 < 0.05 < kl_from_exact(prior)
    psi = successor_features(mdp, exact)
    every, each = np.repeat(one_hot, A, axis=0), np.tile(np.arange(A), S)
    np.testing.assert_allclose(agent.successor_features(every, each), psi.reshape(S * A, 2), rtol=0.1)
    centred = psi - np.einsum("sa,sak->sk", np.exp(exact), psi)[:, None]
    score = agent.score(every, each).reshape(S, A, 2)
    assert np.abs(score - centred / alpha).max() < 0.15 * np.abs(centred / alpha).max()
    information = np.einsum("sa,sak,sal->skl", np.exp(exact), centred, centred) / alpha**2
    error = np.abs(agent.information(one_hot) - information).max()
    assert error < 0.2 * np.abs(information).max()


def test_over_a_box_residual_sac_reaches_the_residual_optimum():
    """A bandit where r_R = alpha_hat log p - omega' log pi makes a squashed Gaussian p optimal."""
    space = spaces.Box(-1.0, 1.0, (1,), np.float64)
    prior = gaussian_policy(2, n_inputs=1, low=space.low, high=space.high)
    omega, alpha, mean, log_std = 0.2, 0.3, 0.5, -0.7
    rng, n = np.random.default_rng(0), 4_000
    latent = torch.as_tensor(rng.normal(size=(n, 1)) * 1.2)
    state, action = np.zeros((n, 1)), np.tanh(latent.numpy())
    wanted = normal_log_density(torch.tensor([[mean]]), torch.tensor([[log_std]]), latent)
    wanted = wanted - log_jacobian(latent)
    reward = alpha * wanted.numpy() - omega * prior.log_prob(state, action)
    agent = ResidualSAC(
        1, space, 1, gamma=0.0, temperature=alpha, prior=prior, scaled_prior_weight=omega,
        config=SACConfig(hidden=(32, 32), learning_rate=3e-3, batch_size=128),
    )  # fmt: skip
    agent.add(state, action, reward[:, None], state, np.ones(n, dtype=bool))
    agent.update(np.ones(1), 1_200)
    with torch.no_grad():
        learnt = agent.policy().net(torch.zeros(1, 1))[0].tolist()
    assert learnt == pytest.approx([mean, log_std], abs=0.12)
    with torch.no_grad():
        start = prior.net(torch.zeros(1, 1))[0].tolist()
    assert max(abs(start[0] - mean), abs(start[1] - log_std)) > 0.4


@both_kinds
def test_tuning_the_temperature_drives_the_entropy_to_its_target(kind):
    target = {"discrete": 0.6, "box": -0.5}[kind]
    agent = make_agent(kind, prior=False, temperature=1.0, target_entropy=target, learning_rate=0.01)
    fill(agent, np.random.default_rng(0))
    agent.update(np.array([2.0, 1.0]), 900)
    entropy = np.mean([agent.update(np.array([2.0, 1.0]), 1)["entropy"] for _ in range(100)])
    assert entropy == pytest.approx(target, abs=0.15)


# --- Soft LQR: linear dynamics, quadratic rewards ---------------------------------------------------------

# s' = A s + B a; the features are -x^2, -v^2, -a^2. The Box reaches about ten standard deviations
# of the actions, so that the squashed Gaussians are Gaussian to 2 %.
LQR_A, LQR_B, LQR_GAMMA = np.array([[0.8, 0.2], [0.0, 0.6]]), np.array([[0.0], [0.4]]), 0.9
LQR_BOX = spaces.Box(-4.0, 4.0, (1,), np.float64)
NO_PRIOR = np.zeros((1, 2)), np.eye(1)


def solve_lqr(weights, temperature, prior=NO_PRIOR, scaled_prior_weight=0.0):
    """Gain (1, 2) and covariance (1, 1) of pi_hat = N(-gain s, covariance), by a residual Riccati recursion.

    With V_R(s) = -s' P s + const, Q_R + omega' log pi is a quadratic form in (s, a), to which the prior
    N(-prior_gain s, prior_covariance) adds the precision omega' / (2 prior_covariance).
    """
    prior_gain, stiffness = prior[0], scaled_prior_weight / 2 * np.linalg.inv(prior[1])
    P = np.zeros((2, 2))
    for _ in range(1_000):
        aa = np.diag(weights[2:]) + LQR_GAMMA * LQR_B.T @ P @ LQR_B + stiffness
        a_s = LQR_GAMMA * LQR_B.T @ P @ LQR_A + stiffness @ prior_gain
        ss = np.diag(weights[:2]) + LQR_GAMMA * LQR_A.T @ P @ LQR_A + prior_gain.T @ stiffness @ prior_gain
        gain = np.linalg.solve(aa, a_s)
        P = ss - a_s.T @ gain
    return gain, temperature / 2 * np.linalg.inv(aa)


def lqr_successor_features(gain, covariance, state, action):
    """psi (N, 3) of the policy N(-gain s, covariance): the quadratic forms of three Lyapunov equations."""
    closed, psi = LQR_A - LQR_B @ gain, []
    following = state @ LQR_A.T + action @ LQR_B.T
    for k in range(3):
        of_state, of_action = np.diag(np.eye(3)[k, :2]), np.eye(3)[k, 2:, None]
        M = solve_discrete_lyapunov(np.sqrt(LQR_GAMMA) * closed.T, of_state + gain.T @ of_action @ gain)
        noise = np.trace((of_action + LQR_GAMMA * LQR_B.T @ M @ LQR_B) @ covariance) / (1 - LQR_GAMMA)
        now = np.einsum("ni,ij,nj->n", state, of_state, state) + (action**2 @ of_action)[:, 0]
        psi.append(-now - LQR_GAMMA * (np.einsum("ni,ij,nj->n", following, M, following) + noise))
    return np.stack(psi, axis=1)


LQR_PRIOR_WEIGHTS, LQR_THETA = np.array([0.2, 0.1, 0.6]), np.array([2.0, 1.0, -0.1])
LQR_ALPHA, LQR_OMEGA, LQR_ALPHA_HAT = 0.3, 1.2, 0.2


def solve_residual_lqr(scaled_prior_weight=LQR_OMEGA * LQR_ALPHA):
    prior = solve_lqr(LQR_PRIOR_WEIGHTS, LQR_ALPHA)
    return solve_lqr(LQR_THETA, LQR_ALPHA_HAT, prior, scaled_prior_weight)


def test_the_residual_lqr_solves_the_sum_of_both_rewards():
    """Composition: on the prior of r, r_R gives the soft optimum of omega r + r_R at alpha_hat."""
    composed = solve_lqr(LQR_OMEGA * LQR_PRIOR_WEIGHTS + LQR_THETA, LQR_ALPHA_HAT)
    for ours, theirs in zip(solve_residual_lqr(), composed, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)
    prior = solve_lqr(LQR_PRIOR_WEIGHTS, LQR_ALPHA)
    kept = solve_lqr(np.zeros(3), LQR_ALPHA, prior, LQR_ALPHA)  # E3: no residual, alpha_hat = omega'
    for ours, theirs in zip(kept, prior, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)


@pytest.mark.slow
def test_residual_sac_solves_a_soft_lqr():
    """Gain within 10 %, standard deviation within 4 %, from a prior that is 90 % and 45 % away."""
    half_width = float(LQR_BOX.high[0])
    prior_gain, prior_covariance = solve_lqr(LQR_PRIOR_WEIGHTS, LQR_ALPHA)
    net = mlp([2, 2], 0)  # linear, as the optimum is
    with torch.no_grad():
        net[1].weight.copy_(torch.as_tensor(np.vstack((-prior_gain / half_width, np.zeros((1, 2))))))
        net[1].bias.copy_(torch.tensor([0.0, math.log(math.sqrt(prior_covariance[0, 0]) / half_width)]))
    agent = ResidualSAC(
        2, LQR_BOX, 3, gamma=LQR_GAMMA, temperature=LQR_ALPHA_HAT,
        prior=SquashedGaussianPolicy(net, LQR_BOX.low, LQR_BOX.high),
        scaled_prior_weight=LQR_OMEGA * LQR_ALPHA, config=SACConfig(target_rate=0.02),
    )  # fmt: skip
    # Even draws from a set that the dynamics do not leave.
    rng, n = np.random.default_rng(0), 20_000
    state, action = rng.uniform(-1.5, 1.5, size=(n, 2)), rng.uniform(-1.5, 1.5, size=(n, 1))
    features = -np.hstack((state**2, action**2))
    following = state @ LQR_A.T + action @ LQR_B.T
    agent.add(state, action, features, following, np.zeros(n, dtype=bool))
    agent.update(LQR_THETA, 2_000)

    head = agent.policy().net[1]
    gain = -half_width * head.weight[0].detach().numpy()
    std = half_width * math.exp(head.bias[1].item())
    exact_gain, exact_covariance = solve_residual_lqr()
    exact_std = math.sqrt(exact_covariance[0, 0])

    def miss(gain, std):
        return np.linalg.norm(gain - exact_gain[0]) / np.linalg.norm(exact_gain), abs(std / exact_std - 1)

    assert (np.array(miss(gain, std)) < (0.10, 0.04)).all()
    np.testing.assert_allclose(head.weight[1].detach(), 0, atol=0.1)  # the same width in all states
    # What it must not be mistaken for: the prior, and the optimum for omega' = alpha_hat.
    for gain, covariance in ((prior_gain, prior_covariance), solve_residual_lqr(LQR_ALPHA_HAT)):
        assert (np.array(miss(gain[0], math.sqrt(covariance[0, 0]))) > (0.4, 0.2)).all()

    # Up to a constant, by which the smaller of the twins is too small, and which no action changes.
    inner = (np.abs(state) < 1).all(axis=1) & (np.abs(action[:, 0]) < 1)
    psi = lqr_successor_features(exact_gain, exact_covariance, state[inner], action[inner])
    error = agent.successor_features(state[inner], action[inner]) - psi
    assert (error.std(axis=0) < 0.3 * psi.std(axis=0)).all()
