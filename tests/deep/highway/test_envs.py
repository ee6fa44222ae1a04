"""The gymnasium side: three environments with one interface, seeds, resets, states and refusals."""

import copy
import pickle

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from deep.highway import HighwayEnv, HighwayVectorEnv, ReferenceEnv, RoadConfig
from deep.highway.reference import DrawnHighwayEnv

FEW = RoadConfig(vehicles_count=5, duration=6)
SINGLE = pytest.mark.parametrize("make", [HighwayEnv, ReferenceEnv])
EVERY = pytest.mark.parametrize(
    "make", [HighwayEnv, ReferenceEnv, lambda config: HighwayVectorEnv(1, config)]
)
OFF_ROAD = {"x": 100.0, "y": -20.0, "speed": 25.0, "lane": 0, "target_lane": 0}


@SINGLE
def test_gymnasiums_checker_has_no_complaint(make):
    check_env(make(FEW), skip_render_check=True)


@EVERY
def test_step_needs_a_reset(make):
    env = make(FEW)
    with pytest.raises(ResetNeeded, match="call reset first"):
        env.step(env.action_space.sample())
    with pytest.raises(ResetNeeded, match="call reset first"):
        env.get_state()


@SINGLE
@pytest.mark.parametrize("action", [-1, 5, 1.0, "faster", None, [1]])
def test_bad_actions_are_named(make, action):
    env = make(FEW)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"action must be an integer in 0\.\.4, got"):
        env.step(action)


@pytest.mark.parametrize("actions", [[0], [0, 5], [-1, 0], [0.0, 1.0], [[0, 1]], 1])
def test_bad_batches_of_actions_are_named(actions):
    envs = HighwayVectorEnv(2, FEW)
    envs.reset(seed=0)
    with pytest.raises(ValueError, match="actions must be"):
        envs.step(actions)


@pytest.mark.parametrize(
    "field",
    [
        {"lanes_count": 0},
        {"lanes_count": 2.5},
        {"vehicles_count": -1},
        {"policy_frequency": 0},
        {"simulation_frequency": 0.5},
        {"duration": np.nan},
        {"ego_spacing": 0},
        {"vehicles_density": np.inf},
        {"initial_lane_id": 3},
        {"others_collide": 1},
    ],
)
def test_bad_scenes_are_named(field):
    with pytest.raises(ValueError, match=next(iter(field))):
        RoadConfig(**field)


@pytest.mark.parametrize("weights", [[1.0, 2.0], [0.0, np.nan, 0.0]])
def test_bad_weights_are_named(weights):
    for make in (HighwayEnv, ReferenceEnv, lambda config, w: HighwayVectorEnv(1, config, w)):
        with pytest.raises(ValueError, match="weights must"):
            make(FEW, weights)


def test_bad_numbers_of_roads_threads_and_seeds_are_named():
    with pytest.raises(ValueError, match="num_envs"):
        HighwayVectorEnv(0)
    with pytest.raises(ValueError, match="threads"):
        HighwayVectorEnv(2, threads=0)
    with pytest.raises(ValueError, match="seed must be an integer or 2 of them, got 1"):
        HighwayVectorEnv(2).reset(seed=[1])


def test_the_configuration_is_highway_envs_own():
    config = ReferenceEnv(RoadConfig(lanes_count=4, initial_lane_id=1)).simulator.config
    assert (config["lanes_count"], config["initial_lane_id"], config["ego_spacing"]) == (4, 1, 1.5)
    known = gym.make("highway-v0").unwrapped.config
    assert set(RoadConfig().highway_env()) <= set(known)


@SINGLE
def test_reward_is_linear_in_the_features_and_nothing_off_the_road(make):
    env = make(RoadConfig(vehicles_count=0), weights=(-0.5, 0.25, 0.4))
    env.reset(seed=0)
    _, reward, *_, info = env.step(2)
    collision, right_lane, high_speed = info["features"]
    assert (collision, right_lane) == (0, env.get_state().cars["target_lane"][0, 0] / 2)
    ego = env.get_state().cars[0, 0]
    assert high_speed == pytest.approx((ego["speed"] * np.cos(ego["heading"]) - 20) / 10)
    assert reward == pytest.approx(0.25 * right_lane + 0.4 * high_speed + 1)

    state = env.get_state()
    for name, value in OFF_ROAD.items():
        state.cars[name][0, 0] = value
    env.set_state(state)
    _, reward, terminated, _, _ = env.step(1)
    assert env.get_state().cars["y"][0, 0] < -2
    assert (reward, terminated) == (0, False)


def test_a_vector_of_roads_is_as_many_single_ones_reset_in_the_same_step():
    n_steps, n_roads = 25, 6
    envs = HighwayVectorEnv(n_roads, FEW)
    assert envs.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    singles = [HighwayEnv(FEW) for _ in range(n_roads)]
    observations, _ = envs.reset(seed=7)
    for i, env in enumerate(singles):
        np.testing.assert_array_equal(env.reset(seed=7 + i)[0], observations[i])
    rng, ends = np.random.default_rng(0), set()
    for _ in range(n_steps):
        actions = rng.choice(5, n_roads, p=[0.1, 0.1, 0.1, 0.6, 0.1])
        observations, rewards, terminated, truncated, info = envs.step(actions)
        for i, env in enumerate(singles):
            observation, *results, single_info = env.step(int(actions[i]))
            assert results == [rewards[i], terminated[i], truncated[i]]
            np.testing.assert_array_equal(single_info["features"], info["features"][i])
            np.testing.assert_array_equal(observation, info["final_obs"][i])
            assert info["_final_obs"][i] == (terminated[i] or truncated[i])
            if info["_final_obs"][i]:
                observation, _ = env.reset()
            ends |= {name for name, value in zip(("crash", "time"), results[1:], strict=True) if value}
            np.testing.assert_array_equal(observation, observations[i])
    assert ends == {"crash", "time"}


def test_results_depend_on_neither_threads_nor_the_number_of_roads():
    results = []
    for num_envs, threads in ((5, 1), (5, 2), (5, 3), (8, 2), (5, 9)):
        envs = HighwayVectorEnv(num_envs, RoadConfig(vehicles_count=8, duration=5), threads=threads)
        first, _ = envs.reset(seed=[10, 11, 12, 13, 14, 15, 16, 17][:num_envs])
        rng = np.random.default_rng(0)
        columns = [first[:5]]
        for _ in range(12):
            observations, rewards, *_, info = envs.step(rng.integers(5, size=8)[:num_envs])
            columns += [observations[:5], rewards[:5], info["features"][:5], info["final_obs"][:5]]
        results.append(columns)
        envs.close()
    for other in results[1:]:
        for ours, theirs in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_what_a_step_returned_is_not_overwritten_by_the_next():
    envs = HighwayVectorEnv(3, FEW)
    envs.reset(seed=0)
    first = envs.step([3, 3, 3])
    kept = copy.deepcopy(first)
    envs.step([0, 0, 0])
    for ours, theirs in zip((*first[:4], *first[4].values()), (*kept[:4], *kept[4].values()), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_without_a_seed_roads_differ():
    observations, _ = HighwayVectorEnv(3, FEW).reset()
    assert len(np.unique(observations, axis=0)) == 3
    assert not np.array_equal(HighwayEnv(FEW).reset()[0], HighwayEnv(FEW).reset()[0])


@EVERY
def test_a_state_can_be_branched_from(make):
    env, other = make(FEW), make(FEW)
    env.reset(seed=3)
    step = (lambda e, a: e.step([a])) if isinstance(env, HighwayVectorEnv) else (lambda e, a: e.step(a))
    step(env, 3)
    state = env.get_state()
    last = [step(env, action)[0] for action in (3, 0, 2)][-1]
    np.testing.assert_array_equal(other.set_state(state), env.set_state(state))
    np.testing.assert_array_equal([step(other, action)[0] for action in (3, 0, 2)][-1], last)
    # The generator is part of the state.
    np.testing.assert_array_equal(other.set_state(state), env.set_state(state))
    np.testing.assert_array_equal(other.reset()[0], env.reset()[0])


def test_a_state_goes_from_any_of_the_three_to_any_other():
    envs = [HighwayVectorEnv(1, FEW), HighwayEnv(FEW), ReferenceEnv(FEW)]
    envs[1].reset(seed=5)
    envs[1].step(3)
    state = envs[1].get_state()
    observations = [np.reshape(env.set_state(state), (5, 5)) for env in envs]
    for observation in observations[1:]:
        np.testing.assert_allclose(observation, observations[0], rtol=0, atol=1e-6)
    for env in envs:
        for ours, theirs in zip(env.get_state(), state, strict=True):
            for name in ("x", "y", "speed", "timer", "lane") if "x" in ours.dtype.names else ours.dtype.names:
                np.testing.assert_array_equal(ours[name], theirs[name])


@EVERY
def test_damaged_states_are_refused(make):
    env = make(FEW)
    env.reset(seed=0)
    state = env.get_state()
    with pytest.raises(ValueError, match=r"state\.cars must be an array of shape \(1, 6\)"):
        env.set_state(state._replace(cars=state.cars[:, :4]))
    with pytest.raises(ValueError, match=r"state\.roads must be"):
        env.set_state(state._replace(roads=np.zeros(1)))
    for name, value, message in (
        ("x", np.nan, "'x'.* must be finite"),
        ("target_lane", 3, "must be in 0..2"),
    ):
        cars = state.cars.copy()
        cars[name][0, 1] = value
        with pytest.raises(ValueError, match=message):
            env.set_state(state._replace(cars=cars))


@SINGLE
def test_copies_by_pickle_go_on_alike(make):
    env = make(FEW)
    env.reset(seed=0)
    other = pickle.loads(pickle.dumps(env))
    np.testing.assert_array_equal(other.step(3)[0], env.step(3)[0])
    np.testing.assert_array_equal(other.reset()[0], env.reset()[0])


@pytest.mark.parametrize("driver", ["dummy", None])
def test_the_reference_can_be_drawn_without_a_screen(driver, monkeypatch):
    monkeypatch.delenv("SDL_VIDEODRIVER", raising=False)
    if driver:
        monkeypatch.setenv("SDL_VIDEODRIVER", driver)
    env = ReferenceEnv(FEW, render_mode="rgb_array")
    with pytest.raises(ResetNeeded):
        env.render()
    env.reset(seed=0)
    before = env.render()
    assert before.shape == (150, 600, 3)
    env.step(2)
    assert not np.array_equal(env.render(), before)
    assert env.unwrapped.simulator.vehicle is env.simulator.road.vehicles[0]
    pickle.loads(pickle.dumps(env)).close()
    env.close()
    env.close()
    assert ReferenceEnv(FEW).render_mode is None
    with pytest.raises(ValueError, match="render_mode must be"):
        ReferenceEnv(FEW, render_mode="ansi")


def test_a_compiled_road_is_drawn_as_highway_env_draws_itself():
    drawn, real = DrawnHighwayEnv(FEW), ReferenceEnv(FEW, render_mode="rgb_array")
    with pytest.raises(ResetNeeded):
        drawn.render()
    pictures = []
    for env in (drawn, real):
        env.reset(seed=3)
        env.render()
        for action in (2, 3, 3, 0):
            env.step(action)
            pictures.append(env.render())
        env.close()
    np.testing.assert_array_equal(pictures[:4], pictures[4:])
    assert not np.array_equal(pictures[0], pictures[3])
