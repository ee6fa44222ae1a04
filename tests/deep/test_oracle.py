"""The oracle of a GymTask: closed forms of its measures, and an expert who belongs to the prior in use."""

from dataclasses import replace

import numpy as np
import pytest
from gymnasium.envs.classic_control import CartPoleEnv
from scipy.special import log_softmax

from deep import GymTask, make_oracle, oracle
from deep.gaussian import SquashedGaussianPolicy
from deep.learner import LearnerConfig, NeuralLearner
from deep.nets import mlp
from deep.oracle import SimulatorOracle, calibrate, exact_kl, gram_distance, gram_of_values, sampled_kl
from deep.policies import DiscretePolicy
from deep.residual_dqn import DQNConfig
from deep.residual_sac import SACConfig
from deep.rollouts import Rollout
from mereq_min.rollout import watch

ALPHA = 0.1
STATES = np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32)


class HeavyPole(CartPoleEnv):
    """CartPole with a cart that is harder to push."""

    def __init__(self, render_mode=None):
        super().__init__(render_mode=render_mode)
        self.force_mag = 5.0


def make_task(kind="discrete", **changes):
    """CartPole or Pendulum with short episodes, learnt in no time."""
    pole = ("CartPole-v1", lambda state, action, after, info: (abs(float(after[0])) / 2.4, float(action)))
    pendulum = ("Pendulum-v1", lambda state, action, after, info: (abs(float(after[1])), action[0] ** 2 / 4))
    env, features = pole if kind == "discrete" else pendulum
    settings = {
        "prior": make_policy(kind),
        "learner": LearnerConfig(num_envs=2, updates=2, first_rounds=1),
        "dqn": DQNConfig(engine="torch", hidden=(8,), batch_size=8),
        "sac": SACConfig(engine="torch", hidden=(8,), batch_size=8),
    }
    settings |= {"gamma": 0.98, "temperature": ALPHA, "horizon": 30, "episodes": 4}
    return GymTask("toy", env, features, ("place", "action"), **settings | changes)


def make_policy(kind="discrete", seed=5, temperature=0.5):
    if kind == "discrete":
        return DiscretePolicy(mlp([4, 8, 2], seed), temperature)
    return SquashedGaussianPolicy(mlp([3, 8, 2], seed), np.array([-2.0]), np.array([2.0]), temperature)


class Table:
    """The same probabilities (A,) in all states."""

    temperature = None

    def __init__(self, *probabilities):
        with np.errstate(divide="ignore"):
            self.log_policy = np.log(probabilities)

    def log_prob(self, state, action):
        return self.log_policy[action]

    def sample(self, state, rng):
        return rng.choice(len(self.log_policy), size=len(state), p=np.exp(self.log_policy))


def steps_of(action, t=None):
    """A rollout (T, E) of actions (T, E, ...), all in the first episode unless t says otherwise."""
    T, E = action.shape[:2]
    t = np.repeat(np.arange(T)[:, None], E, axis=1) if t is None else t
    state, flags = np.zeros((T, E, 3), np.float32), np.zeros((T, E), bool)
    return Rollout(state, action, np.zeros((T, E, 2)), state, flags, t, np.zeros((T, E)))


# --- Measures ---------------------------------------------------------------------------------------------


def test_the_kl_over_discrete_actions_is_exact():
    steps = steps_of(np.zeros((3, 2), int))
    for p, q in (([0.5, 0.3, 0.2], [0.2, 0.3, 0.5]), ([1.0, 0.0, 0.0], [0.25, 0.5, 0.25])):
        wanted = sum(a * np.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)
        assert exact_kl(Table(*p), Table(*q), steps, 3) == pytest.approx(wanted)
    assert exact_kl(Table(0.5, 0.5), Table(1.0, 0.0), steps, 2) == pytest.approx(np.log(0.5) + 0.5 * 20)


def test_the_kl_counts_states_of_first_episodes_alone():
    net = mlp([3, 2], 0)
    steps = steps_of(np.zeros((4, 1), int), t=np.array([[0], [1], [0], [1]]))
    steps.state[2:] = 100.0  # the second episode
    first = replace(steps, **{name: getattr(steps, name)[:2] for name in vars(steps)})
    expert, policy = DiscretePolicy(net, 0.2), Table(0.5, 0.5)
    assert exact_kl(expert, policy, steps, 2) == pytest.approx(exact_kl(expert, policy, first, 2))


def gaussian(mean, log_std):
    """A squashed Gaussian over [-2, 2] with the same latent everywhere."""
    net = mlp([3, 2], 0)
    for parameter, values in zip(net.parameters(), ([0.0], [mean, log_std]), strict=True):
        parameter.data[:] = (
            parameter.data.new_tensor(values)[:, None]
            if len(values) == 1
            else (parameter.data.new_tensor(values))
        )
    return SquashedGaussianPolicy(net, np.array([-2.0]), np.array([2.0]))


def test_the_kl_over_a_box_is_that_of_the_latents():
    """KL(N(m, s) || N(n, r)) = log(r / s) + (s^2 + (m - n)^2) / (2 r^2) - 1/2; squashing changes nothing."""
    expert, policy = gaussian(0.3, -1.0), gaussian(0.1, -0.7)
    action = expert.sample(np.zeros((40_000, 3), np.float32), np.random.default_rng(0)).reshape(400, 100, 1)
    wanted = 0.3 + (np.exp(-2.0) + 0.2**2) / (2 * np.exp(-1.4)) - 0.5
    assert sampled_kl(expert, policy, steps_of(action)) == pytest.approx(wanted, abs=0.01)
    assert sampled_kl(expert, expert, steps_of(action)) == 0.0


@pytest.mark.parametrize("kind", ["discrete", "box"])
def test_expert_return_is_omega_times_the_own_return_plus_the_wish(kind):
    theta, policy = np.array([-0.7, 0.4]), make_policy(kind, seed=3)
    task = make_task(kind, prior_weight=0.5, oracle=SimulatorOracle(theta, 1.0, expert=make_policy(kind, 2)))
    steps = task.roll_out(policy)
    by_hand = []
    for n in range(4):
        length = next((t + 1 for t in range(30) if steps.terminated[t, n]), 30)
        own, wish = steps.reward[:length, n].sum(), (steps.features[:length, n] @ theta).sum()
        by_hand.append(0.5 * own + wish)
    measures = task.evaluate(policy)
    assert measures["expert_return"] == pytest.approx(np.mean(by_hand))
    assert measures["feature_divergence"].shape == (2,)
    own = task.evaluate(task.oracle.expert_policy)
    assert own["kl_to_expert"] == 0.0 < measures["kl_to_expert"]
    np.testing.assert_allclose(own["feature_divergence"], 0.0, atol=1e-12)


def test_advantage_is_alpha_log_pi_over_discrete_actions():
    net = mlp([4, 8, 2], 2)
    task = make_task(oracle=SimulatorOracle(np.ones(2), 0.15, expert=DiscretePolicy(net, 0.3)))
    action = np.tile([0, 1], 15)
    q = net(net[1].weight.new_tensor(STATES)).detach().double().numpy()
    wanted = 0.3 * log_softmax(q / 0.3, axis=1)[np.arange(30), action]
    np.testing.assert_allclose(task.oracle.advantage(STATES, action), wanted, atol=1e-7)
    objects = [task.oracle.violates(*row) for row in zip(STATES, action, strict=True)]
    np.testing.assert_array_equal(objects, wanted < -0.15)
    assert 0 < np.mean(objects) < 1
    logits = make_task(oracle=SimulatorOracle(np.ones(2), 0.1, expert=DiscretePolicy(net)))
    wanted = ALPHA * log_softmax(q, axis=1)[np.arange(30), action]
    np.testing.assert_allclose(logits.oracle.advantage(STATES, action), wanted, atol=1e-7)


def test_advantage_is_a_parabola_of_the_latent_over_a_box():
    expert = gaussian(0.3, -1.0)
    task = make_task("box", oracle=SimulatorOracle(np.ones(2), 0.1, expert=expert))
    z = np.linspace(-2, 2, 30)
    action = 2 * np.tanh(0.3 + np.exp(-1.0) * z)[:, None]
    np.testing.assert_allclose(task.oracle.advantage(STATES[:, :3], action), -ALPHA * z**2 / 2, atol=1e-6)
    expert.temperature = 0.4
    np.testing.assert_allclose(task.oracle.advantage(STATES[:, :3], action), -0.2 * z**2, atol=1e-6)
    limit = np.sqrt(2 * 0.1 / 0.4)
    objects = [task.oracle.violates(*row) for row in zip(STATES[:, :3], action, strict=True)]
    np.testing.assert_array_equal(objects, np.abs(z) > limit)


def test_a_rule_may_be_a_function_of_state_and_action():
    task = make_task(oracle=SimulatorOracle(np.ones(2), lambda s, a: s[0] > 0 and a == 1, expert=Table(1, 0)))
    objects = [task.oracle.violates(state, np.int64(1)) for state in STATES]
    np.testing.assert_array_equal(objects, STATES[:, 0] > 0)
    assert not any(task.oracle.violates(state, np.int64(0)) for state in STATES)


def test_reward_distance_needs_a_gram_matrix_and_the_truth():
    values = np.random.default_rng(0).standard_normal((50, 3, 2))
    gram = gram_of_values(values, values)
    theta = np.array([1.0, -0.5])
    with_gram = SimulatorOracle(theta, 1.0, expert=Table(0.5, 0.5), make_gram=lambda task: gram)
    known = make_task(oracle=with_gram).oracle
    assert known.reward_distance(3 * theta, "residual") == pytest.approx(0.0, abs=1e-7)
    assert known.reward_distance(-theta, "residual") == pytest.approx(1.0)
    assert known.reward_distance(np.zeros(2), "residual") == 0.5
    assert np.isnan(known.reward_distance(theta, "full"))
    assert known.true_weights("full") is None
    assert np.isnan(replace(known, make_gram=None).reward_distance(theta, "residual"))
    # Constants cancel, and the distance is half that of the unit vectors in the metric of the gram matrix.
    shifted = values + np.random.default_rng(1).standard_normal((50, 1, 2))
    np.testing.assert_allclose(gram_of_values(shifted, shifted), gram)
    root = np.linalg.cholesky(gram)
    ours, theirs = (v @ root / np.linalg.norm(v @ root) for v in (np.array([0.2, 1.0]), theta))
    wanted = np.linalg.norm(ours - theirs) / 2
    assert gram_distance(np.array([0.2, 1.0]), theta, gram) == pytest.approx(wanted)


# --- The expert belongs to the prior ----------------------------------------------------------------------


def test_the_expert_stays_on_the_same_prior_and_goes_with_another():
    expert = make_policy(seed=2)
    full = np.array([1.0, 2.0])
    task = make_task(oracle=SimulatorOracle(np.ones(2), 1.0, expert=expert, full_weights=full))
    for same in (replace(task, episodes=7), replace(task, oracle=replace(task.oracle, rule=0.3))):
        assert same.oracle.expert is expert
        assert same.oracle.task is same
        np.testing.assert_array_equal(same.oracle.true_weights("full"), full)
    others = ({"prior": make_policy(seed=9)}, {"temperature": 0.2}, {"prior_weight": 2.0}, {"gamma": 0.9})
    for change in others:
        other = replace(task, **change)
        assert other.oracle.expert is None
        assert other.oracle.true_weights("full") is None
        np.testing.assert_array_equal(other.oracle.true_theta, np.ones(2))
    assert task.oracle.expert is expert  # the old task keeps its own


def test_a_trained_expert_goes_along(monkeypatch):
    task = make_task(oracle=SimulatorOracle(np.ones(2), 1.0, rounds=1))
    expert = task.oracle.expert_policy
    forbid_training(monkeypatch)
    assert replace(task, episodes=7).oracle.expert_policy is expert


def forbid_training(monkeypatch):
    def refuse(self, theta):
        raise AssertionError("it is trained again")

    monkeypatch.setattr(NeuralLearner, "solve", refuse)


@pytest.mark.parametrize("kind", ["discrete", "box"])
def test_a_trained_expert_is_kept_in_a_file_and_read_from_there(tmp_path, monkeypatch, kind):
    def make():
        kept = SimulatorOracle(np.array([0.3, -2.0]), 1.0, rounds=2, cache=tmp_path)
        return make_task(kind, oracle=kept)

    trained = make().oracle.expert_policy
    assert [file.suffix for file in tmp_path.iterdir()] == [".safetensors"]
    forbid_training(monkeypatch)
    loaded = make().oracle.expert_policy
    state = STATES[:, :4] if kind == "discrete" else STATES[:, :3]
    action = np.tile([0, 1], 15) if kind == "discrete" else STATES[:, :1]
    np.testing.assert_array_equal(loaded.log_prob(state, action), trained.log_prob(state, action))
    assert loaded.temperature == trained.temperature
    with pytest.raises(AssertionError, match="trained again"):
        replace(make(), prior=make_policy(kind, seed=9)).oracle.expert_policy  # noqa: B018


def test_another_wish_prior_or_setting_is_another_file(tmp_path):
    task = make_task(oracle=SimulatorOracle(np.ones(2), 1.0, rounds=1, cache=tmp_path))
    changes = (
        {},
        {"prior": make_policy(seed=9)},
        {"prior": make_policy(temperature=0.3)},
        {"temperature": 0.2},
        {"gamma": 0.9},
        {"horizon": 20},
        {"oracle": replace(task.oracle, true_theta=np.array([1.0, 2.0]))},
        {"oracle": replace(task.oracle, seed=1)},
        {"oracle": replace(task.oracle, rounds=2)},
        {"learner": LearnerConfig(num_envs=3, updates=2, first_rounds=1)},
        {"features": lambda state, action, after, info: (abs(float(after[0])) / 2.4, 1.0 - float(action))},
        {"env": HeavyPole},
        {"input_scale": np.full(4, 0.5)},
    )
    for count, change in enumerate(changes, start=1):
        assert replace(task, **change).oracle.expert_policy is not None
        assert len(list(tmp_path.iterdir())) == count, change


def test_an_expert_is_trained_for_the_wish_on_the_prior():
    """A strong wish against the action 1 is heard, and the prior stays underneath."""
    task = make_task(
        learner=LearnerConfig(num_envs=8, updates=40), dqn=DQNConfig(engine="torch", hidden=(16,))
    )
    made = make_oracle(task, [0.0, -3.0], rule=0.5, rounds=6)
    assert made.expert.prior is task.prior
    before, after = (policy.log_probs(STATES)[:, 1] for policy in (task.prior, made.expert))
    assert (after < before - 1).mean() > 0.9
    np.testing.assert_array_equal(made.true_theta, [0.0, -3.0])
    assert made.rule == 0.5
    assert replace(task, oracle=made).oracle.expert_policy is made.expert


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rule": 0.0}, "rule must be a finite number above 0"),
        ({"patience": 0}, "patience must be an integer"),
        ({"release": 0.5}, "release must be an integer"),
        ({"rounds": 0}, "rounds must be an integer"),
        ({"true_theta": np.ones(3)}, r"true_theta must have shape \(2,\), got \(3,\)"),
        ({"true_theta": np.array([0.0, np.nan])}, "true_theta must be finite"),
    ],
)
def test_malformed_oracles_are_refused(change, message):
    settings = {"true_theta": np.ones(2), "rule": 1.0} | change
    with pytest.raises(ValueError, match=message):
        make_task(oracle=SimulatorOracle(**settings))


def test_an_oracle_of_no_task_says_what_to_do():
    with pytest.raises(ValueError, match=r"belongs to no task yet: use replace\(task, oracle=...\)"):
        SimulatorOracle(np.ones(2), 1.0).expert_policy  # noqa: B018


# --- Calibration ------------------------------------------------------------------------------------------


class Balance:
    """Keeps the pole up; the sharper, the surer."""

    def __init__(self, sharpness):
        self.sharpness = sharpness

    def log_probs(self, state):
        pull = self.sharpness * (np.asarray(state, float) @ [0.1, 0.5, 5.0, 1.0])
        return log_softmax(np.stack([np.zeros(len(pull)), pull], axis=1), axis=1)

    def log_prob(self, state, action):
        return self.log_probs(state)[np.arange(len(state)), action]

    def sample(self, state, rng):
        return (rng.random(len(state)) >= np.exp(self.log_probs(state)[:, 0])).astype(np.int64)


def calibrated(task, expert, **changes):
    settings = {"true_theta": np.ones(2), "rule": 1.0, "expert": expert} | changes
    made = replace(task, oracle=SimulatorOracle(**settings)).oracle
    return replace(made, rule=calibrate(made))


def test_a_calibrated_margin_stops_the_prior_often_enough_and_the_expert_hardly_ever():
    task = make_task(prior=Balance(0.5), horizon=200)
    made = calibrated(task, Balance(20.0), release=1)
    prior, expert = (
        watch(task, policy, made, 3_000, seed=1).intervention_rate for policy in (task.prior, Balance(20.0))
    )
    assert 0.25 - 0.03 <= prior <= 0.5 + 0.03  # seeds other than those of the calibration
    assert expert <= 0.03 + 0.01


def test_where_no_margin_will_do_the_rates_are_named(monkeypatch):
    """An expert who is the prior is stopped as often as that."""
    monkeypatch.setattr(oracle, "CALIBRATION_STEPS", 300)
    task = make_task(prior=Balance(0.5), horizon=200)
    message = (
        r"no margin stops the prior at a rate from 0.25 to 0.5 and the expert at most at 0.03: at [\d.e-]+ "
        r"they are 0\.\d\d and 0\.\d\d; make the wish true_theta stronger, or train the expert longer"
    )
    with pytest.raises(ValueError, match=message):
        calibrated(task, Balance(0.5))


def test_without_a_rule_an_oracle_is_calibrated(monkeypatch):
    asked = []
    monkeypatch.setattr(oracle, "calibrate", lambda made: asked.append(made.expert) or 0.7)
    made = make_oracle(make_task(), [0.0, -1.0], rounds=1, patience=2, release=3)
    assert (made.rule, made.patience, made.release) == (0.7, 2, 3)
    assert asked == [made.expert]
