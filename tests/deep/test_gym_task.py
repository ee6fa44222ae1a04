"""GymTask on Discrete and Box actions: what it shows, which priors it takes, and what it refuses."""

from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers import FlattenObservation
from scipy.integrate import quad
from scipy.special import log_softmax

from deep import GymTask, cloning
from deep.cloning import CloningConfig
from deep.gaussian import SquashedGaussianPolicy
from deep.highway.task import make_highway
from deep.learner import LearnerConfig, NeuralLearner
from deep.nets import mlp
from deep.policies import DiscretePolicy
from deep.residual_dqn import DQNConfig
from deep.residual_sac import SACConfig
from deep.rollouts import collect
from deep.stable_baselines import GaussianPolicy, load_zip
from mereq_min import METHODS, EstimatorConfig, LoopConfig, align, make_aligner, settings_of
from mereq_min.lab.datasets.logs import LogSource, read_run_steps, write_log
from mereq_min.lab.plugins import load_task
from mereq_min.lab.runs.files import RunError, save_arrays
from mereq_min.lab.runs.records import read_config, write_config
from mereq_min.lab.runs.run import RunConfig, run
from mereq_min.methods import choose_method
from mereq_min.policies import UniformPolicy
from mereq_min.rollout import rollout

DATA = Path(__file__).parents[1] / "data"
KINDS = ("discrete", "box")
ALPHA = 0.1
"""alpha_hat of the tasks below."""


def pole_features(state, action, after, info):
    return abs(float(after[0])) / 2.4, float(action)


def pendulum_features(state, action, after, info):
    return (1 - float(after[0])) / 2, float(action[0]) ** 2 / 4, float(state[2]) ** 2 / 64


def make_task(kind="discrete", **changes):
    """CartPole or Pendulum with short episodes, learnt in no time."""
    pole = ("pole", "CartPole-v1", pole_features, ("position", "right"), None)
    pendulum = ("pendulum", "Pendulum-v1", pendulum_features, ("tilt", "effort", "speed"), None)
    names = ("name", "env", "features", "feature_names", "prior")
    settings = dict(zip(names, pole if kind == "discrete" else pendulum, strict=True))
    settings |= {"gamma": 0.98, "temperature": ALPHA, "horizon": 30, "episodes": 4}
    settings["learner"] = LearnerConfig(num_envs=2, updates=2, first_rounds=1)
    settings["dqn"] = DQNConfig(engine="torch", hidden=(8,), batch_size=8)
    settings["sac"] = SACConfig(engine="torch", hidden=(8,), batch_size=8)
    return GymTask(**settings | changes)


def make_prior(kind="discrete", temperature=0.5, seed=5):
    if kind == "discrete":
        return DiscretePolicy(mlp([4, 8, 2], seed), temperature)
    return SquashedGaussianPolicy(mlp([3, 8, 2], seed), np.array([-2.0]), np.array([2.0]), temperature)


class Balance:
    """Any object: keeps the pole up, more or less."""

    def log_prob(self, state, action):
        chance = 1 / (1 + np.exp(-3 * state @ [0.1, 0.5, 5.0, 1.0]))
        return np.log(np.where(action == 1, chance, 1 - chance))

    def sample(self, state, rng):
        chance = np.exp(self.log_prob(state, np.ones(len(state))))
        return (rng.random(len(state)) < chance).astype(np.int64)


# --- What it shows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_told_what_was_seen_done_and_earned(kind):
    told = []

    def features(state, action, after, info):
        told.append((state, action, after, info["reward"]))
        return [len(told), 0.5]

    task = make_task(kind, features=features, feature_names=("count", "half"))
    ours, own = task.make_env(), gym.make(task.env)
    own.action_space.seed(0)
    for seed in range(3):
        state, _ = ours.reset(seed=seed)
        np.testing.assert_array_equal(state, own.reset(seed=seed)[0])
        for _ in range(8):
            action = own.action_space.sample()
            after, reward, *_, info = ours.step(action)
            their_after, their_reward, *_ = own.step(action)
            np.testing.assert_array_equal(after, their_after)
            assert reward == their_reward  # the environment's own, untouched
            np.testing.assert_array_equal(told[-1][0], state)
            np.testing.assert_array_equal(told[-1][1], action)
            np.testing.assert_array_equal(told[-1][2], after)
            assert told[-1][3] == reward
            np.testing.assert_array_equal(info["features"], [len(told), 0.5])
            state = after


@pytest.mark.parametrize("kind", KINDS)
def test_rollouts_hold_the_features_of_every_step_the_last_of_an_episode_included(kind):
    task = make_task(kind, horizon=60)
    function = pole_features if kind == "discrete" else pendulum_features
    side_by_side = task.roll_out(task.prior, 3)
    assert side_by_side.terminated.any() == (kind == "discrete")
    for index in np.ndindex(side_by_side.t.shape):
        row = [getattr(side_by_side, name)[index] for name in ("state", "action", "next_state")]
        np.testing.assert_array_equal(side_by_side.features[index], function(*row, {}))
    alone = rollout(task, task.prior, None, 80, np.random.default_rng(0))
    ends = alone.terminated | alone.truncated
    assert ends.any()
    for i in np.flatnonzero(~ends):
        row = alone.state[i], alone.action[i], alone.state[i + 1]
        np.testing.assert_array_equal(alone.features[i], function(*row, {}))


def test_the_time_limit_is_the_ids_unless_another_is_given():
    assert make_task(horizon=0).horizon == 500
    task = make_task("box", horizon=7)
    env = task.make_env()
    env.reset(seed=0)
    assert [env.step(np.zeros(1))[3] for _ in range(7)] == [False] * 6 + [True]
    steps = task.roll_out(task.prior, 2)
    assert steps.t.shape == (7, 2)
    envs = task.make_vector_env(2)
    later = collect(envs, task.prior, 15, np.random.default_rng(0), seed=0).t
    np.testing.assert_array_equal(later[:, 0], np.arange(15) % 7)


def test_an_environment_may_be_a_function_and_then_names_its_time_limit_or_asks_for_one():
    def make(render_mode=None):
        return gym.make("CartPole-v1", render_mode=render_mode, max_episode_steps=12)

    assert make_task(env=make, horizon=0).horizon == 12
    task = make_task(env=make, horizon=5)
    assert task.roll_out(task.prior, 2).t.shape == (5, 2)
    with pytest.raises(ValueError, match="horizon must be given: this environment does not tell"):
        make_task(env=lambda render_mode: gym.make("CartPole-v1").unwrapped, horizon=0)
    drawn = make_task().make_env("rgb_array")
    drawn.reset(seed=0)
    assert drawn.render().ndim == 3
    drawn.close()


def test_observations_of_several_axes_are_flattened():
    class Grid(gym.Env):
        observation_space, action_space = spaces.Box(-1, 1, (2, 3)), spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return self.np_random.uniform(-1, 1, (2, 3)).astype(np.float32), {}

        def step(self, action):
            return np.ones((2, 3), np.float32), 0.0, False, False, {}

    task = make_task(env=lambda render_mode: Grid(), features=lambda *step: step[0].ravel()[:2])
    assert task.n_inputs == 6
    policy = task.make_learner("residual", 1.0).solve(np.array([0.1, 0.2]))
    np.testing.assert_allclose(np.exp(policy.log_probs(np.zeros((4, 2, 3)))).sum(axis=1), 1)


# --- What it refuses --------------------------------------------------------------------------------------

VECTOR, COIN = spaces.Box(-1.0, 1.0, (3,)), spaces.Discrete(2)


class Still(gym.Env):
    """Nothing ever happens between two spaces."""

    def __init__(self, observations, actions):
        self.observation_space, self.action_space = observations, actions

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}


@pytest.mark.parametrize(
    ("observations", "actions", "message"),
    [
        (spaces.Dict(a=VECTOR), COIN, r"a Box of floats, got Dict.*gymnasium.wrappers.FlattenObservation"),
        (spaces.Box(0, 255, (8, 8, 3), np.uint8), COIN, "got Box.*images are not supported"),
        (spaces.Discrete(16), COIN, r"got Discrete\(16\): wrap the environment so that it shows a vector"),
        (VECTOR, spaces.MultiDiscrete([2, 3]), r"actions must be Discrete from 0 or .* got MultiDiscrete"),
        (
            VECTOR,
            spaces.Discrete(2, start=1),
            r"actions must be Discrete from 0 .* got Discrete\(2, start=1\)",
        ),
        (VECTOR, spaces.Box(-np.inf, 1.0, (2,)), "a bounded Box of one axis, got Box"),
        (VECTOR, spaces.Box(-1.0, 1.0, (2, 2)), "a bounded Box of one axis, got Box"),
    ],
)
def test_other_spaces_are_refused_with_what_to_do(observations, actions, message):
    with pytest.raises(ValueError, match=message):
        make_task(env=lambda render_mode: Still(observations, actions))


def test_what_the_message_advises_works():
    still = Still(spaces.Dict(a=VECTOR, b=spaces.Box(0.0, 1.0, (2,))), COIN)
    assert make_task(env=lambda render_mode: FlattenObservation(still)).n_inputs == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"env": "CartPoleo-v1"}, r"env must be an installed gymnasium id, got 'CartPoleo-v1': .*CartPole"),
        ({"env": "no_such_module:Pole-v0"}, "env must be an installed gymnasium id, got 'no_such_module:"),
        ({"name": ""}, "name must be a string"),
        ({"gamma": 1.0}, "gamma must be above 0 and below 1, got 1.0"),
        ({"gamma": np.nan}, "gamma must be above 0 and below 1, got nan"),
        ({"temperature": 0.0}, "temperature must be a finite number above 0, got 0.0"),
        ({"prior_weight": -1.0}, "prior_weight must be"),
        ({"horizon": 2.5}, "horizon must be an integer"),
        ({"feature_names": ("a", "a")}, r"feature_names must be distinct strings, .* got \('a', 'a'\)"),
        ({"feature_names": ()}, "feature_names must be distinct strings"),
        ({"feature_names": (1, 2)}, "feature_names must be distinct strings"),
        ({"input_scale": np.ones(3)}, r"input_scale must have shape \(4,\), got \(3,\)"),
        ({"input_scale": "mine"}, "input_scale must be an array, 'prior' or None, got 'mine'"),
    ],
)
def test_malformed_settings_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        make_task(**changes)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0.1], r"features must have shape \(2,\), got \(1,\)"),
        ([0.1, 0.2, 0.3], r"features must have shape \(2,\), got \(3,\)"),
        (0.1, r"features must have shape \(2,\), got \(\)"),
        ([0.1, np.nan], "features must be finite, got 1 bad entries"),
    ],
)
def test_features_that_are_not_k_numbers_are_refused_at_the_first_step(values, message):
    env = make_task(features=lambda *step: values, input_scale=None).make_env()
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.step(0)


@pytest.mark.parametrize(
    ("kind", "prior", "message"),
    [
        ("discrete", object(), "prior must offer log_prob and sample, or be a file or a torch .* got object"),
        ("discrete", np.zeros(2), "prior must offer log_prob and sample, .* got ndarray"),
        (
            "discrete",
            DiscretePolicy(mlp([8, 2], 0), 1.0),
            "pole: the policy observes 8 numbers, the task's observation is 4",
        ),
        ("discrete", DiscretePolicy(mlp([4, 3], 0), 1.0), "this policy has 3 actions, the task has 2"),
        ("discrete", mlp([6, 2], 0), "observes 6 numbers, the task's observation is 4"),
        ("discrete", DATA / "sac_pendulum.zip", "observes 3 numbers, the task's observation is 4"),
        ("discrete", DATA / "nowhere.zip", "nowhere.zip"),
        ("discrete", "nowhere.safetensors", "nowhere.safetensors"),
        ("box", mlp([3, 2], 0), "a torch module alone does not define a density over a Box; wrap it"),
        ("box", DATA / "ppo_cartpole.zip", "observes 4 numbers, the task's observation is 3"),
        (
            "box",
            SquashedGaussianPolicy(mlp([3, 2], 0), -np.ones(1), np.ones(1)),
            "actions lie between .* the task's between",
        ),
    ],
)
def test_priors_that_cannot_act_here_are_refused_in_words(kind, prior, message):
    with pytest.raises(ValueError, match=message):
        make_task(kind, prior=prior)


# --- Priors -----------------------------------------------------------------------------------------------


@pytest.fixture
def briefly(monkeypatch):
    """Distil with fewer updates than a prior that is to be aligned deserves."""
    monkeypatch.setattr(cloning, "DISTILLING", CloningConfig(batch_size=256, updates=800))


STATES = np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32)


def test_a_dqn_of_stable_baselines3_is_followed_at_the_tasks_temperature():
    task = make_task(prior=DATA / "dqn_cartpole.zip", temperature=0.3, prior_weight=2.0)
    expected = load_zip(DATA / "dqn_cartpole.zip", temperature=0.3)
    np.testing.assert_array_equal(task.prior.log_probs(STATES), expected.log_probs(STATES))
    assert task.scaled_prior_weight == pytest.approx(0.6)


def test_a_ppo_of_stable_baselines3_tells_no_temperature_and_omega_is_alpha_hat():
    task = make_task(prior=str(DATA / "ppo_cartpole.zip"), temperature=0.3, prior_weight=2.0)
    expected = load_zip(DATA / "ppo_cartpole.zip")
    np.testing.assert_array_equal(task.prior.log_probs(STATES), expected.log_probs(STATES))
    assert task.prior.temperature is None
    assert task.scaled_prior_weight == pytest.approx(0.6)


def test_a_sac_of_stable_baselines3_is_taken_as_it_is():
    task = make_task("box", prior=DATA / "sac_pendulum.zip")
    expected = load_zip(DATA / "sac_pendulum.zip")
    state, action = STATES[:, :3], np.linspace(-1.9, 1.9, 30)[:, None]
    np.testing.assert_array_equal(task.prior.log_prob(state, action), expected.log_prob(state, action))
    assert task.scaled_prior_weight == expected.temperature
    assert task.clone_kl is None


def test_a_gaussian_of_ppo_is_cloned_into_a_squashed_one_and_the_rest_is_reported(briefly):
    """On states and draws of its own the clone is as far away as is said, and that is not far."""
    original = load_zip(DATA / "ppo_pendulum.zip")
    assert isinstance(original, GaussianPolicy)
    task = make_task("box", prior=DATA / "ppo_pendulum.zip", horizon=100)
    assert isinstance(task.prior, SquashedGaussianPolicy)
    state = task.roll_out(task.prior, 20).transitions()["state"]
    action = original.sample(state, np.random.default_rng(7))
    inside = (np.abs(action) < 2).all(axis=1)
    gap = original.log_prob(state, action) - task.prior.log_prob(state, action)
    assert task.clone_kl == pytest.approx(gap[inside].mean(), abs=0.1)
    assert task.scaled_prior_weight == ALPHA
    uniform = make_task("box").prior
    from_uniform = original.log_prob(state, action) - uniform.log_prob(state, action)
    assert 0 < task.clone_kl < 0.5 * from_uniform[inside].mean()
    assert replace(task, episodes=5).clone_kl == task.clone_kl  # it is no news that a clone is no clone


def test_a_sac_with_state_dependent_noise_is_cloned_too(briefly):
    still = Still(
        spaces.Box(-np.inf, np.inf, (3,)), spaces.Box(np.float32([-2.0, 0.0]), np.float32([2.0, 0.5]))
    )
    still.step = lambda action: (*still.reset()[:1], 0.0, False, False, {})
    still.observation_space.seed(0)
    task = make_task(
        env=lambda render_mode: still, features=lambda *step: (0.0, 0.0), prior=DATA / "sac_gsde.zip"
    )
    original, state = load_zip(DATA / "sac_gsde.zip"), STATES[:, :3]
    (ours, theirs) = (policy.sample(np.repeat(state, 500, axis=0), np.random.default_rng(0)) for policy in
                      (task.prior, original))  # fmt: skip
    gap = np.abs(ours - theirs).reshape(30, 500, 2).mean(axis=(0, 1))
    assert (gap < 0.1 * np.array([4.0, 0.5])).all()
    assert task.clone_kl < 0.5
    assert task.scaled_prior_weight == original.temperature


@pytest.mark.parametrize("kind", KINDS)
def test_a_policy_that_was_saved_here_is_a_prior(tmp_path, kind):
    policy = make_prior(kind)
    save_arrays(tmp_path / "prior.safetensors", policy.arrays())
    task = make_task(kind, prior=tmp_path / "prior.safetensors")
    state, action = STATES[:, : task.n_inputs], np.tile([0, 1], 15) if kind == "discrete" else STATES[:, :1]
    np.testing.assert_array_equal(task.prior.log_prob(state, action), policy.log_prob(state, action))
    assert task.scaled_prior_weight == 0.5


def test_a_torch_module_gives_q_values_at_the_tasks_temperature():
    module = torch.nn.Linear(4, 2)
    task = make_task(prior=module, temperature=0.3)
    with torch.no_grad():
        q = module(torch.as_tensor(STATES)).double().numpy()
    np.testing.assert_allclose(task.prior.log_probs(STATES), log_softmax(q / 0.3, axis=1), atol=1e-6)
    assert task.scaled_prior_weight == 0.3


def test_any_object_will_do_over_discrete_actions(briefly):
    prior = Balance()
    task = make_task(prior=prior)
    assert task.prior is prior
    assert task.scaled_prior_weight == ALPHA
    fine_tuned = task.make_learner("full", 1.0).agent.policy()  # starts from a clone of it
    state = task.roll_out(prior, 20).transitions()["state"]
    log_prior = np.stack([prior.log_prob(state, np.full(len(state), action)) for action in (0, 1)], axis=1)
    kl = (np.exp(log_prior) * (log_prior - fine_tuned.log_probs(state))).sum(axis=1).mean()
    assert kl < 0.02


def test_without_a_prior_actions_are_uniform():
    np.testing.assert_array_equal(make_task().prior.log_prob(STATES, np.zeros(30)), np.full(30, np.log(0.5)))
    assert make_task().scaled_prior_weight == ALPHA


@pytest.mark.parametrize("given", [None, UniformPolicy(spaces.Box(-2.0, 2.0, (1,)))])
def test_over_a_box_it_is_the_squashed_gaussian_nearest_to_the_uniform_policy(given):
    """KL(uniform || N(m, s) squashed) by quadrature over the Box [-2, 2]."""
    task = make_task("box", prior=given)
    state = STATES[:1, :3]

    def density(policy, action):
        return np.exp(policy.log_prob(state, np.array([[action]]))[0])

    def kl_from_uniform(policy):
        gap = quad(lambda a: np.log(1 / 4) - policy.log_prob(state, np.array([[a]]))[0], -2, 2, limit=200)
        return gap[0] / 4

    assert quad(lambda a: density(task.prior, a), -2, 2)[0] == pytest.approx(1, abs=1e-4)
    assert kl_from_uniform(task.prior) == pytest.approx(task.clone_kl, abs=1e-4)
    assert task.clone_kl == pytest.approx(0.0144, abs=1e-4)
    for shift in ([0.1, 0.0], [-0.1, 0.0], [0.0, 0.1], [0.0, -0.1]):
        net = mlp([3, 8, 2], 0)
        net.load_state_dict(task.prior.net.state_dict())
        with torch.no_grad():
            net[-1].bias += torch.tensor(shift)
        assert kl_from_uniform(SquashedGaussianPolicy(net, task.prior.low, task.prior.high)) > task.clone_kl


# --- What follows the prior -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_omega_is_that_of_the_prior_in_use(kind):
    task = make_task(kind, prior=make_prior(kind, 0.5), prior_weight=2.0)
    assert task.scaled_prior_weight == 1.0
    assert task.make_learner("residual", 1.0).agent.scaled_prior_weight == 1.0
    other = replace(task, prior=make_prior(kind, 0.2))
    assert other.scaled_prior_weight == pytest.approx(0.4)
    assert other.make_learner("residual", 1.0).agent.scaled_prior_weight == pytest.approx(0.4)
    assert replace(task, prior=make_prior(kind, None)).scaled_prior_weight == pytest.approx(2 * ALPHA)
    assert replace(task, temperature=0.7).scaled_prior_weight == 1.0
    assert other.make_learner("full", 1.0).agent.scaled_prior_weight == 0.0


@pytest.mark.parametrize(("temperature", "omega"), [(0.1, 0.1), (None, 0.04)])
def test_a_foreign_prior_on_the_highway_is_customised_at_its_own_temperature(temperature, omega):
    task = replace(make_highway(), prior=DiscretePolicy(mlp([25, 8, 5], 0), temperature))
    assert task.temperature == 0.04
    assert task.scaled_prior_weight == omega
    assert task.make_learner("residual", 1.0).agent.scaled_prior_weight == omega


@pytest.mark.parametrize("kind", KINDS)
def test_observations_are_scaled_by_what_the_prior_shows(kind):
    task = make_task(kind, prior=make_prior(kind))
    shown = collect(task.make_vector_env(8), task.prior, 30, np.random.default_rng(0), seed=0)
    scaled = shown.transitions()["state"] * task.observation_scale
    np.testing.assert_allclose(np.sqrt((scaled.astype(float) ** 2).mean(axis=0)), 1.0, rtol=1e-5)
    agent = task.make_learner("full", 1.0, start="scratch").agent
    buffers = (agent.net if kind == "discrete" else agent.actor.net).state_dict()
    np.testing.assert_allclose(buffers["0.scale"], task.observation_scale, rtol=1e-6)
    assert make_task(kind, input_scale=None).observation_scale is None
    given = np.arange(1.0, 1 + task.n_inputs)
    np.testing.assert_array_equal(make_task(kind, input_scale=given).observation_scale, given)


def test_what_never_moves_keeps_its_scale():
    def make(render_mode):
        padded = spaces.Box(-np.inf, np.inf, (5,))
        return gym.wrappers.TransformObservation(
            gym.make("CartPole-v1"), lambda state: np.append(state, np.float32(0)), padded
        )

    assert make_task(env=make).observation_scale[4] == 1.0


# --- Without any truth ------------------------------------------------------------------------------------


class Centred:
    """An expert written by hand: takes over left of the middle, for as long as the pole is there."""

    patience = 1

    def reset(self, rng):
        pass

    def intervene(self, state, policy_action):
        return np.int64(1) if state[0] < 0 else None


@pytest.mark.parametrize("method", ["MEReQ-L", "MEReQ", "MaxEnt-FT", "IWR-FT"])
def test_a_task_without_any_truth_is_aligned_by_an_expert_written_by_hand(method):
    task = make_task(prior=make_prior())
    estimators = EstimatorConfig()
    few = replace(estimators.matching, max_steps=2), replace(estimators.likelihood, max_iterations=2)
    aligner = make_aligner(task, METHODS[method], replace(estimators, matching=few[0], likelihood=few[1]))
    loop = LoopConfig(iterations=2, steps_per_iteration=40)
    found = list(align(task, aligner, loop, seed=0, expert=Centred()))
    for each in found:
        np.testing.assert_array_equal(each.steps.is_intervention, each.steps.state[:, 0] < 0)
        assert 0 < each.intervention_rate < 1
    assert np.isfinite(found[-1].policy.log_prob(STATES, np.zeros(30, np.int64))).all()
    assert set(task.evaluate(found[-1].policy)) == {"task_return", "length"}
    with pytest.raises(ValueError, match="expert"):
        next(iter(align(task, aligner, loop, seed=0)))


def test_a_run_states_its_engine_and_is_not_resumed_on_another(tmp_path):
    loop = LoopConfig(iterations=1, steps_per_iteration=30)
    config = RunConfig("pole", "HG-DAgger-FT", loop=loop)
    path = run(make_task(), config, tmp_path, expert=Centred())
    assert read_config(path)["engine"] == "torch"
    other = make_task(dqn=DQNConfig(engine="jax", hidden=(8,), batch_size=8))
    with pytest.raises(RunError, match="engine torch there, jax now"):
        run(other, config, tmp_path, expert=Centred())
    header = read_config(path)
    del header["engine"]  # as in runs from before there was a choice
    write_config(path, header)
    assert run(make_task(), config, tmp_path, expert=Centred()) == path
    with pytest.raises(RunError, match="engine torch there, jax now"):
        run(other, config, tmp_path, expert=Centred())


@pytest.mark.parametrize("kind", KINDS)
def test_evaluate_counts_whole_episodes_under_the_environments_own_reward(kind):
    task = make_task(kind, prior=make_prior(kind), measure=lambda steps: {"last": steps.t.max()})
    policy = Constant(1 if kind == "discrete" else [1.5])
    returns = []
    for seed in range(4):
        env, total, over = gym.make(task.env, max_episode_steps=30), 0.0, False
        env.reset(seed=seed)
        while not over:
            _, reward, terminated, truncated, _ = env.step(policy.sample(np.zeros((1, 4)), None)[0])
            total, over = total + reward, terminated or truncated
        returns.append(total)
    measures = task.evaluate(policy)
    assert measures["task_return"] == pytest.approx(np.mean(returns))
    assert set(measures) == {"task_return", "last"}
    assert task.evaluate(policy, episodes=1)["task_return"] == pytest.approx(returns[0])


class Constant:
    def __init__(self, action):
        self.action = action

    def sample(self, state, rng):
        return np.array([self.action] * len(state))


@pytest.mark.parametrize("kind", KINDS)
def test_policies_are_rebuilt_from_their_arrays(kind):
    task = make_task(kind, prior=make_prior(kind))
    for policy in (task.make_learner("residual", 1.0).solve(np.ones(len(task.feature_names))), task.prior):
        loaded = task.load_policy(policy.arrays())
        steps = [task.roll_out(each, 2) for each in (policy, loaded)]
        np.testing.assert_array_equal(steps[0].action, steps[1].action)
        row = (steps[0].transitions()[name] for name in ("state", "action"))
        state, action = row
        np.testing.assert_array_equal(policy.log_prob(state, action), loaded.log_prob(state, action))


def test_clones_begin_at_the_prior():
    task = make_task(prior=make_prior())
    steps = rollout(task, task.prior, None, 20, np.random.default_rng(0))
    clone = task.make_cloner().clone(steps, np.zeros(20))
    np.testing.assert_allclose(clone.log_probs(STATES), task.prior.log_probs(STATES), atol=1e-5)


# --- The first solve is shared ------------------------------------------------------------------------------


def make_aligned_task(kind):
    return make_task(
        kind, prior=make_prior(kind), learner=LearnerConfig(num_envs=2, updates=3, first_rounds=4)
    )


def solve_twice(task, **options):
    """A learner after the solves of two rewards, as arrays."""
    learner = task.make_learner("residual", 0.9, **options)
    theta = np.zeros(len(task.feature_names))
    learner.solve(theta)
    learner.solve(theta + 0.3)
    return learner.arrays() | {"mean_features": learner.mean_features()}


@pytest.fixture(name="solved")
def _solved(monkeypatch):
    """The learners whose first solve was not taken over from another."""
    learners, real = [], NeuralLearner.solve

    def solve(self, theta):
        if not self._rollouts:
            learners.append(self)
        return real(self, theta)

    monkeypatch.setattr(NeuralLearner, "solve", solve)
    return learners


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_learner_takes_the_first_solve_over_bit_for_bit(kind, solved):
    task = make_aligned_task(kind)
    first, second, alone = solve_twice(task), solve_twice(task), solve_twice(replace(task))
    assert len(solved) == 2
    for name, array in alone.items():
        np.testing.assert_array_equal(first[name], array, err_msg=name)
        np.testing.assert_array_equal(second[name], array, err_msg=name)


def test_what_a_first_solve_depends_on_is_not_mixed_up(solved):
    task = make_aligned_task("discrete")
    solve_twice(task)
    solve_twice(task, seed=1)
    task.make_learner("residual", 0.9, seed=1).solve(np.ones(2))
    task.make_learner("full", 0.9, seed=1).solve(np.ones(2))
    solve_twice(replace(task, gamma=0.9), seed=1)
    assert len(solved) == 5


# --- Logs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_features_of_recorded_steps_are_computed_as_the_environment_reports_them(kind):
    task = make_task(kind)
    steps = rollout(task, task.prior, None, 70, np.random.default_rng(0))
    np.testing.assert_array_equal(
        task.features_of(steps.state, steps.action, steps.next_state), steps.features
    )


def test_features_that_cannot_be_computed_are_named():
    state = np.zeros((2, 4))
    rewarded = make_task(features=lambda s, a, after, info: (info["reward"], info["lap"]))
    with pytest.raises(ValueError, match="the features of pole need 'reward' of each step, which is missing"):
        rewarded.features_of(state, np.zeros(2), state)
    with pytest.raises(ValueError, match="the features of pole need 'lap' of each step"):
        rewarded.features_of(state, np.zeros(2), state, np.ones(2))
    with pytest.raises(ValueError, match="the features of highway are reported by its environment"):
        make_highway().features_of(state, np.zeros(2), state)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "ending"), [("discrete", "fit-v0"), ("box", "fit.csv")])
def test_a_log_of_a_neural_method_is_fitted_as_it_was_recorded(tmp_path, kind, ending):
    """Bit for bit, states and actions in their own types of numbers."""

    class Expert:
        patience = 1

        def reset(self, rng):
            self.t = 0

        def intervene(self, state, action):
            self.t += 1
            return np.ones_like(action) if self.t % 5 > 2 else None

    config = RunConfig("own", "MEReQ-L", 0, LoopConfig(2, 40), expert="own:Expert")
    task = make_task(kind)
    path = run(task, config, tmp_path / "recorded", expert=Expert())
    write_log(tmp_path / ending, "csv" if ending == "fit.csv" else "minari", read_run_steps(path), task)
    log = LogSource(tmp_path / ending).load(task)
    fit = log.config("own", "MEReQ-L", 0, config.estimators)
    fitted = run(make_task(kind), fit, tmp_path / "fitted", recorded=log.iterations)
    for name in ("policy.safetensors", "checkpoint-002.safetensors"):
        assert (fitted / name).read_bytes() == (path / name).read_bytes()


@pytest.mark.parametrize(
    ("name", "method"), [("carpet", "MEReQ-R"), ("highway", "MEReQ-L"), ("bottle", "MEReQ-L")]
)
def test_tables_learn_by_the_robust_likelihood_and_networks_by_the_plain_one(name, method):
    assert choose_method(load_task(name)) == method


def test_networks_take_the_temperature_of_the_expert_as_known():
    for name in ("highway", "bottle", "lunar-lander"):
        assert settings_of(load_task(name)).estimators.robust.temperature_sd == 0
    assert settings_of(load_task("carpet")).estimators.robust.temperature_sd > 0
