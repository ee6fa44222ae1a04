"""The compiled engine against highway-env itself: the same seeds and actions, the same roads.

States agree within 1e-6 up to the ego's crash, whole numbers and terminations exactly, observations within
the rounding of float32. Where the engine's source runs on numpy's maths, everything is identical.
"""

from dataclasses import replace

import numpy as np
import pytest

from deep.highway import HighwayEnv, ReferenceEnv, RoadConfig, RoadState, engine

SIM = RoadConfig()
SCENES = {
    "two lanes": replace(SIM, lanes_count=2),
    "four lanes, 50 cars": replace(SIM, lanes_count=4, vehicles_count=50),
    "one lane": replace(SIM, lanes_count=1, vehicles_count=10),
    "15 Hz": replace(SIM, simulation_frequency=15, vehicles_count=20),
    "10 Hz, 2 Hz": replace(SIM, simulation_frequency=10, policy_frequency=2),
    "7 Hz, 2 Hz": replace(SIM, simulation_frequency=7, policy_frequency=2, vehicles_count=10, duration=8.5),
    "dense": replace(SIM, vehicles_density=2.0),
    "sparse, ego on the right": replace(SIM, vehicles_density=0.5, initial_lane_id=2, ego_spacing=3),
    "ten cars": replace(SIM, vehicles_count=10, duration=20),
    "no other car": replace(SIM, vehicles_count=0, duration=5),
    "highway-fast-v0": replace(SIM, vehicles_count=20, duration=30, others_collide=False),
}
TOLERANCE = 1e-6
ROUNDING = float(np.finfo(np.float32).eps)


def assert_follows(episode, config, assert_same_state):
    """Say that the compiled engine goes through the same episode from the recorded first state."""
    env = HighwayEnv(config)
    np.testing.assert_array_equal(env.set_state(episode.start), episode.observation)
    for step in episode.steps:
        observation, reward, terminated, truncated, info = env.step(step.action)
        assert_same_state(env.get_state(), step.state, TOLERANCE)
        np.testing.assert_allclose(observation, step.observation, rtol=0, atol=ROUNDING)
        np.testing.assert_allclose(info["features"], step.features, rtol=0, atol=TOLERANCE)
        assert reward == pytest.approx(step.reward, abs=TOLERANCE)
        assert (terminated, truncated) == (step.terminated, step.truncated)


def test_episodes_of_highway_sim(style, record, assert_same_state):
    assert_follows(record(SIM, 3, style, n_steps=15), SIM, assert_same_state)


@pytest.mark.parametrize("scene", SCENES)
def test_first_steps_of_other_scenes(scene, record, assert_same_state):
    assert_follows(record(SCENES[scene], 1, "random", n_steps=3), SCENES[scene], assert_same_state)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 106))
def test_whole_episodes_of_highway_sim(seed, style, record, assert_same_state):
    assert_follows(record(SIM, seed, style), SIM, assert_same_state)


@pytest.mark.slow
@pytest.mark.parametrize("scene", SCENES)
def test_whole_episodes_of_other_scenes(scene, style, record, assert_same_state):
    assert_follows(record(SCENES[scene], 200, style), SCENES[scene], assert_same_state)


def assert_identical(episode, config, oracle, assert_same_state):
    """Say that the engine's rules on numpy's maths repeat an episode to the last bit."""
    cars, roads = episode.start.cars.view(np.recarray), episode.start.roads.view(np.recarray)
    cars, roads = cars.copy(), roads.copy()
    observation, features = np.empty((1, 5, 5), np.float32), np.empty((1, 3))
    reward, terminated, truncated = np.empty(1), np.empty(1, bool), np.empty(1, bool)
    results = (observation, features, reward, terminated, truncated)
    weights = np.array([-0.5, 0.0, 0.4])
    for step in episode.steps:
        oracle.step_roads(0, 1, cars, roads, config.scene(), weights, np.array([step.action]), *results)
        assert_same_state(RoadState(cars, roads), step.state, 0.0)
        np.testing.assert_array_equal(observation[0], step.observation)
        np.testing.assert_array_equal(features[0], step.features)
        assert (reward[0], terminated[0], truncated[0]) == (step.reward, step.terminated, step.truncated)


@pytest.mark.parametrize("choice", ["random", "mostly slower"])
def test_identical_on_numpys_maths(choice, record, oracle, assert_same_state):
    assert_identical(record(SIM, 3, choice, n_steps=15), SIM, oracle, assert_same_state)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(300, 302))
def test_identical_on_numpys_maths_beyond_the_crash(seed, style, record, oracle, assert_same_state):
    assert_identical(record(SIM, seed, style, past_the_end=True), SIM, oracle, assert_same_state)


@pytest.mark.slow
@pytest.mark.parametrize("scene", SCENES)
def test_other_scenes_are_identical_on_numpys_maths(scene, record, oracle, assert_same_state):
    assert_identical(record(SCENES[scene], 200, "random"), SCENES[scene], oracle, assert_same_state)


@pytest.mark.parametrize("config", [SIM, *SCENES.values()], ids=["highway-sim", *SCENES])
def test_resets_are_those_of_highway_env(config, assert_same_state):
    """From one seed, the same first state and the same ones after it, hence the same distribution."""
    ours, theirs = HighwayEnv(config), ReferenceEnv(config)
    for seed in (0, 1, 2**31, None, None):
        np.testing.assert_array_equal(ours.reset(seed=seed)[0], theirs.reset(seed=seed)[0])
        # numpy's exp may differ from libm's in the last place, and every car adds to it.
        assert_same_state(ours.get_state(), theirs.get_state(), 1e-9)


def test_bounded_integers_are_numpys(oracle):
    """Three lanes never reject a draw; numbers with a large remainder do so half of the time."""
    env = ReferenceEnv(RoadConfig(vehicles_count=0))
    env.reset(seed=0)
    for bound in (3, 5, 2**31 + 1, 3 * 2**30):
        road = env.get_state().roads.view(np.recarray)[0]
        with np.errstate(over="ignore"):  # numpy warns where the compiled code wraps round on purpose
            ours = [int(oracle.draw_integer(road, bound)) for _ in range(20)]
        assert ours == env.np_random.integers(bound, size=20).tolist()


def random_road(rng, n_cars, lanes):
    """Cars in a heap: some touch, drive backwards, stand across lanes, are wrecked or about to be."""
    cars = np.zeros((1, n_cars), engine.CAR)
    start = rng.choice([20.0, 3000.0, 9960.0])
    cars["x"] = start + np.sort(rng.uniform(0, 8 * n_cars, n_cars)).round(1)
    cars["y"] = rng.uniform(-3, 4 * lanes, n_cars)
    straight = rng.random(n_cars) < 0.4
    cars["lane"] = np.clip(np.round(cars["y"] / 4), 0, lanes - 1)
    cars["y"][0, straight] = 4.0 * cars["lane"][0, straight]
    cars["heading"] = np.where(straight, 0.0, rng.normal(0, 0.3, n_cars))
    cars["speed"] = rng.choice([25.0, 0.0, 0.005, -3.0, 41.0, 12.0], n_cars) + rng.normal(0, 0.5, n_cars)
    cars["target_speed"] = rng.uniform(0, 35, n_cars)
    cars["exponent"] = rng.uniform(3.5, 4.5, n_cars)
    cars["timer"] = rng.uniform(0, 1.2, n_cars)
    cars["target_lane"] = np.clip(cars["lane"] + rng.integers(-1, 2, n_cars), 0, lanes - 1)
    cars["crashed"] = rng.random(n_cars) < 0.1
    cars["has_impact"] = rng.random(n_cars) < 0.1
    cars["impact_x"], cars["impact_y"] = rng.normal(0, 1, (2, 1, n_cars))
    # The ego drives towards one of its own target speeds, and thinks of no lane change.
    for name, value in (("target_speed", 25.0), ("exponent", 0.0), ("timer", 0.0)):
        cars[name][:, 0] = value
    return RoadState(cars, np.zeros(1, engine.ROAD))


@pytest.mark.parametrize(("others_collide", "least"), [(True, 40), (False, 5)])
def test_one_step_from_a_heap_of_cars(others_collide, least, assert_same_state):
    rng, config = np.random.default_rng(5), RoadConfig(vehicles_count=12, others_collide=others_collide)
    ours, theirs = HighwayEnv(config), ReferenceEnv(config)
    impacts = crashes = 0
    for _ in range(30):
        state = random_road(rng, config.vehicles_count + 1, config.lanes_count)
        np.testing.assert_allclose(ours.set_state(state), theirs.set_state(state), rtol=0, atol=ROUNDING)
        action = int(rng.integers(5))
        our_step, their_step = ours.step(action), theirs.step(action)
        after = theirs.get_state()
        assert_same_state(ours.get_state(), after, TOLERANCE)
        np.testing.assert_allclose(our_step[0], their_step[0], rtol=0, atol=ROUNDING)
        assert our_step[1] == pytest.approx(their_step[1], abs=TOLERANCE)
        assert our_step[2:4] == their_step[2:4]
        impacts += after.cars["has_impact"].sum()
        crashes += (after.cars["crashed"] & ~state.cars["crashed"]).sum()
    assert min(impacts, crashes) > least
