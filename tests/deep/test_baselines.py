"""Baselines with networks: their labels and losses, worked by hand, and where training must end."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import ndtr
from toy import make_steps

from deep.baselines import (
    AgentCloner,
    InterventionCloner,
    PreferenceCloner,
    ResidualNeuralCloner,
    add_networks,
    label_proxy_values,
    label_takeovers,
    start_correction,
)
from deep.classic import make_cartpole
from deep.cloning import CloningConfig
from deep.gaussian import SquashedGaussianPolicy
from deep.heads import CategoricalHead, GaussianHead
from deep.nets import mlp, to_tensor
from deep.policies import DiscretePolicy
from deep.prediction import DynamicsModel
from deep.residual_dqn import DQNConfig, ResidualDQN
from mereq_min import METHODS, make_aligner
from mereq_min.peers import intervention_probability
from mereq_min.soft import log_softmax

A = 3
SPACE = spaces.Discrete(A)
BOX = spaces.Box(np.array([-2.0, 0.0]), np.array([2.0, 3.0]), dtype=np.float64)
STATES = np.eye(4, dtype=np.float32)
ALPHA = 0.5


def make_prior():
    return DiscretePolicy(mlp([4, 16, A], seed=1), ALPHA)


def gaussian_prior():
    return SquashedGaussianPolicy(mlp([4, 16, 4], seed=1), BOX.low, BOX.high)


def steps_of(state, action, taken, policy_action=None, **columns):
    """Steps of one episode in the numbered states; the state after each is the next number."""
    state, action = np.asarray(state), np.asarray(action)
    return make_steps(
        np.zeros((len(state), 1)),
        state=STATES[state],
        action=action,
        policy_action=action if policy_action is None else np.asarray(policy_action),
        is_intervention=np.asarray(taken, dtype=bool),
        next_state=STATES[(state + 1) % 4],
        **columns,
    )


# --- RLIF and PVP ---


def make_agent():
    config = DQNConfig(hidden=(32,), learning_rate=1e-2, batch_size=64, target_rate=0.1, engine="torch")
    arguments = {"gamma": 0.9, "temperature": ALPHA, "prior": make_prior(), "scaled_prior_weight": ALPHA}
    return ResidualDQN(4, A, 1, config=config, **arguments)


def test_rlifs_reward_is_minus_one_at_the_step_that_provoked_a_takeover():
    steps = steps_of([0, 1, 2, 3, 0, 1], [0, 1, 2, 0, 1, 2], [0, 0, 1, 1, 0, 0])
    columns = label_takeovers(steps)
    assert_array_equal(columns["features"], [[0], [-1], [0], [0], [0], [0]])
    for name in ("state", "action", "next_state", "terminated"):
        assert_array_equal(columns[name], getattr(steps, name))


def test_rlif_makes_the_punished_action_rarer_by_its_cost():
    """All steps end the episode, so that Q is the reward: -cost for action 1 of state 0, else 0."""
    n = 20
    state, action = np.tile([0, 0, 0, 1], n), np.tile([0, 2, 1, 0], n)
    steps = steps_of(state, action, np.tile([0, 0, 0, 1], n), terminated=np.ones(4 * n, dtype=bool))
    cloner = AgentCloner(make_prior(), make_agent, label_takeovers, weight=0.8, updates=300)
    found = cloner.clone(steps, np.ones(len(steps))).log_probs(STATES[:1])
    expected = log_softmax(make_prior().log_probs(STATES[:1]) + np.array([[0.0, -0.8, 0.0]]) / ALPHA)
    assert_allclose(np.exp(found), np.exp(expected), atol=0.02)


def test_pvp_labels_both_actions_of_a_takeover_and_passes_values_through_the_policys_own_steps():
    steps = steps_of([0, 1, 2], [0, 1, 2], [0, 1, 0], policy_action=[0, 2, 2])
    columns = label_proxy_values(steps)
    rows = {
        (int(s.argmax()), int(a), float(f), bool(end))
        for s, a, (f,), end in zip(
            *(columns[k] for k in ("state", "action", "features", "terminated")), strict=True
        )
    }
    assert rows == {(0, 0, 0.0, False), (2, 2, 0.0, False), (1, 1, 1.0, True), (1, 2, -1.0, True)}


def test_pvps_labels_are_as_many_as_the_policys_steps():
    columns = label_proxy_values(steps_of([0] * 41, [0] * 41, [1] + [0] * 40, policy_action=[1] + [0] * 40))
    assert [(columns["features"] == label).sum() for label in (0.0, 1.0, -1.0)] == [40, 20, 20]


def test_pvp_learns_the_proxy_values():
    """In a single state the odds of the two labelled actions grow by twice the weight."""
    steps = steps_of([0] * 10, [0] * 10, [1] * 10, policy_action=[1] * 10)
    policy = AgentCloner(make_prior(), make_agent, label_proxy_values, weight=0.6, updates=300)
    policy = policy.clone(steps, np.ones(10))
    gain = (policy.log_probs(STATES[:1]) - make_prior().log_probs(STATES[:1]))[0]
    assert_allclose(gain[0] - gain[1], 2 * 0.6 / ALPHA, atol=0.05)


@pytest.mark.parametrize("label", [label_takeovers, label_proxy_values])
def test_without_takeovers_the_prior_stays(label):
    steps = steps_of([0, 1, 2], [0, 1, 2], [0, 0, 0])
    cloner = AgentCloner(prior := make_prior(), make_agent, label, weight=1.0)
    assert cloner.clone(steps, np.ones(3)) is prior
    with pytest.raises(ValueError, match="need the states after the steps"):
        cloner.clone(replace(steps, next_state=None), np.ones(3))


# --- Residual-BC ---


@pytest.mark.parametrize("sizes", [[4, 6], [4, 8, 6], [4, 8, 7, 6], [4, 8, 7, 5, 6]])
@pytest.mark.parametrize("activation", [torch.nn.ReLU, torch.nn.Tanh])
def test_two_networks_side_by_side_add_up(sizes, activation):
    scale = np.array([1.0, 2.0, 0.5, 3.0])
    one, two = (mlp(sizes, seed, scale, activation) for seed in (0, 1))
    x = to_tensor(np.random.default_rng(0).normal(size=(10, 4)))
    with torch.no_grad():
        assert_allclose(add_networks(one, two)(x).numpy(), (one(x) + two(x)).numpy(), atol=1e-5)
        assert_array_equal(start_correction(one, seed=3)(x).numpy(), 0.0)


@pytest.mark.parametrize(("prior", "space"), [(make_prior(), SPACE), (gaussian_prior(), BOX)])
def test_a_correction_of_nothing_is_the_prior(prior, space):
    action = prior.sample(STATES, np.random.default_rng(0))
    steps = make_steps(np.zeros((4, 1)), state=STATES, action=action)
    policy = ResidualNeuralCloner(prior, space).clone(steps, np.zeros(4))
    assert_allclose(policy.log_prob(STATES, action), prior.log_prob(STATES, action), atol=1e-5)


def test_residual_cloning_is_the_share_of_weight_of_each_action():
    steps = steps_of([0, 0, 0, 1, 1], [0, 1, 2, 1, 2], [1] * 5)
    config = CloningConfig(updates=600, batch_size=256, pull=0.0)
    cloner = ResidualNeuralCloner(make_prior(), SPACE, config)
    found = np.exp(cloner.clone(steps, np.array([1.0, 2.0, 5.0, 3.0, 1.0])).log_probs(STATES))
    assert_allclose(found[:2], [[1 / 8, 2 / 8, 5 / 8], [0, 3 / 4, 1 / 4]], atol=0.06)


# --- MILE ---


def test_the_probit_model_of_networks_is_that_of_tables():
    output, expected = np.random.default_rng(0).normal(size=(2, 5, A))
    found = CategoricalHead(SPACE).intervention_probability(
        *map(torch.as_tensor, (output, expected)), 0.7, 1.3
    )
    wanted, _, _ = intervention_probability(log_softmax(output), np.exp(log_softmax(expected)), 0.7, 1.3)
    assert_allclose(found.numpy(), wanted, rtol=1e-10)


def test_the_probit_model_over_a_box_is_the_mean_over_draws():
    rng, D = np.random.default_rng(0), 2
    output, expected = 0.5 * rng.normal(size=(2, 4, 2 * D))
    found = GaussianHead(BOX).intervention_probability(*map(torch.as_tensor, (output, expected)), 0.7, 1.3)
    (mean, std), (of_mental, mental_std) = ((x[:, :D], np.exp(x[:, D:])) for x in (output, expected))

    def log_density(u):
        return (-0.5 * ((u - mean) / std) ** 2 - np.log(std)).sum(axis=-1)

    own, believed = rng.normal(size=(2, 20_000, 4, D))
    gain = log_density(mean + std * own) - log_density(of_mental + mental_std * believed).mean(axis=0)
    assert_allclose(found.numpy(), ndtr((gain - 0.7) / 1.3).mean(axis=0), atol=0.01)


def test_mile_does_what_the_person_did_and_without_takeovers_the_prior_stays():
    n = 200
    state, taken = np.tile([0, 1], n), np.tile([1, 0], n)
    steps = steps_of(state, np.tile([2, 0], n), taken)
    config = CloningConfig(learning_rate=5e-3, updates=200, pull=0.0)
    found = np.exp(
        InterventionCloner(make_prior(), SPACE, config).clone(steps, np.ones(2 * n)).log_probs(STATES)
    )
    assert found[0, 2] > 0.95
    untaken = steps_of(state, np.tile([2, 0], n), np.zeros(2 * n))
    kept = InterventionCloner(make_prior(), SPACE).clone(untaken, np.ones(2 * n))
    assert_allclose(kept.log_probs(STATES), make_prior().log_probs(STATES), atol=1e-6)


# --- PPL ---


def cloner_of(prior, space, horizon=1, predict=None):
    cloner = PreferenceCloner(prior, space, CloningConfig(learning_rate=5e-3, updates=100), predict=predict)
    cloner.HORIZON = horizon
    return cloner


def test_with_a_horizon_of_one_ppl_contrasts_the_two_actions_of_the_takeover_alone():
    better, worse = np.array([0, 1, 2]), np.array([1, 0, 2])  # the last pair is no preference
    cloner = cloner_of(make_prior(), SPACE)
    output = torch.as_tensor(np.random.default_rng(0).normal(size=(3, A)))
    codes = (torch.as_tensor(cloner.head.encode(a)) for a in (better, worse))
    log_policy = log_softmax(output.numpy())
    margin = (log_policy[range(3), better] - log_policy[range(3), worse])[:2]
    expected = np.log1p(np.exp(-cloner.BETA * margin)).sum() / 3
    assert_allclose(float(cloner.contrast([output], *codes)), expected, rtol=1e-10)


def test_preferences_over_a_box_compare_densities():
    prior, rng = gaussian_prior(), np.random.default_rng(0)
    head = GaussianHead(BOX)
    better, worse = prior.sample(STATES, rng), prior.sample(STATES, rng)
    with torch.no_grad():
        output = prior.net(to_tensor(STATES)).double()
        found = [head.log_prob(output, torch.as_tensor(head.encode(a))).numpy() for a in (better, worse)]
    wanted = [prior.log_prob(STATES, a) for a in (better, worse)]
    assert_allclose(found[0] - found[1], wanted[0] - wanted[1], atol=1e-4)


def test_ppl_shuns_the_overridden_action_where_it_would_have_led():
    steps = steps_of([0] * 10, [0] * 10, [1] * 10, policy_action=[1] * 10)

    def predict(state, action, n):
        assert_array_equal(action, 1)
        return np.stack([np.tile(STATES[1 + i], (len(state), 1)) for i in range(n)])

    before, cloner = make_prior().log_probs(STATES), cloner_of(make_prior(), SPACE, 3, predict)
    gain = cloner.clone(steps, np.ones(10)).log_probs(STATES) - before
    assert (gain[:3, 0] - gain[:3, 1] > 0.5).all()
    assert_allclose(cloner.clone(steps, np.zeros(10)).log_probs(STATES), before)


@pytest.mark.parametrize("space", [SPACE, spaces.Box(-1.0, 1.0, (2,))])
def test_a_step_model_learns_a_linear_system_and_holds_the_action(space, monkeypatch):
    quick = CloningConfig(learning_rate=5e-3, batch_size=128, updates=500, hidden=(32,))
    monkeypatch.setattr("deep.prediction.STEP_FIT", quick)
    rng = np.random.default_rng(0)
    pushes = rng.normal(size=(A, 2)) if space is SPACE else 0.5 * np.eye(2)

    def push(action):
        return pushes[action] if space is SPACE else action @ pushes

    state = rng.normal(size=(2_000, 2)).astype(np.float32)
    action = (
        np.array([space.sample() for _ in range(2_000)])
        if space is not SPACE
        else rng.integers(A, size=2_000)
    )
    after = (0.9 * state + push(action)).astype(np.float32)
    model = DynamicsModel(state, action, after, space)
    found = model(state[:50], action[:50], 2)
    assert found.shape == (2, 50, 2)
    twice = 0.9 * after[:50] + push(action[:50])
    assert np.sqrt(np.mean((found[0] - after[:50]) ** 2)) < 0.05
    assert np.sqrt(np.mean((found[1] - twice) ** 2)) < 0.1


# --- Tasks ---


def test_what_a_task_cannot_do_is_said_in_a_sentence():
    task = make_cartpole()
    with pytest.raises(ValueError, match=r"HG-DAgger-1 works on tables only, and .* is none"):
        make_aligner(task, METHODS["HG-DAgger-1"])
    with pytest.raises(ValueError, match="there is no feature cloning with networks"):
        task.make_baseline("feature cloning")

    class Bare:
        name = "bare"

    with pytest.raises(ValueError, match="RLIF needs the task's make_baseline"):
        make_aligner(Bare(), METHODS["RLIF"])


@pytest.mark.parametrize("method", ["Residual-BC", "RLIF", "PVP", "MILE", "PPL"])
def test_on_an_environment_the_experts_action_becomes_likelier(method, monkeypatch):
    """The expert always does what the uniform prior did not propose."""
    quick = CloningConfig(learning_rate=5e-3, updates=60, pull=0.0)
    monkeypatch.setattr("deep.prediction.STEP_FIT", quick)
    task = replace(make_cartpole(), cloning=quick, dqn=DQNConfig(hidden=(32,), engine="torch"))
    n = 40
    state = task._prior_states[: 2 * n]
    taken = np.tile([False, True], n)
    steps = make_steps(
        np.zeros((2 * n, 3)),
        state=state,
        action=np.where(taken, 0, 1),
        policy_action=np.ones(2 * n, dtype=int),
        is_intervention=taken,
        next_state=np.roll(state, -1, axis=0),
    )
    aligner = make_aligner(task, METHODS[method], seed=0)
    if hasattr(aligner.cloner, "updates"):
        aligner.cloner.updates = 60
    before = task.prior.log_prob(state, np.zeros(2 * n, dtype=int)).mean()
    policy, _ = aligner.update(steps, patience=1)
    assert policy.log_prob(state, np.zeros(2 * n, dtype=int)).mean() > before + 0.1
