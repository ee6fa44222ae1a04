"""Episodes recorded on the real highway-env, and the engine's source run by Python on numpy's maths."""

from dataclasses import dataclass
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from unittest.mock import patch

import numpy as np
import pytest

from deep.highway import ReferenceEnv, engine

STYLES = {
    "random": (0.2, 0.2, 0.2, 0.2, 0.2),
    "always faster": (0.0, 0.0, 0.0, 1.0, 0.0),
    "weaving": (0.4, 0.1, 0.4, 0.1, 0.0),
    "mostly slower": (0.1, 0.1, 0.1, 0.1, 0.6),
}
DERIVED = ("cos", "sin", "steering", "acceleration", "rank")
"""Fields of a car that are worked out from the others at every sub-step."""
WHOLE = ("lane", "target_lane", "has_impact", "crashed")
REAL = tuple(name for name in engine.CAR.names if name not in (*DERIVED, *WHOLE))


@dataclass(frozen=True)
class Step:
    action: int
    state: tuple  # after it
    observation: np.ndarray
    reward: float
    terminated: bool
    truncated: bool
    features: np.ndarray


@dataclass(frozen=True)
class Episode:
    start: tuple
    observation: np.ndarray
    steps: list[Step]


@cache
def record_episode(config, seed, style, n_steps=None, past_the_end=False):
    """Drive the real highway-env until the episode ends, or for `n_steps` at most; it is slow, so cached."""
    env = ReferenceEnv(config)
    observation, _ = env.reset(seed=seed)
    episode = Episode(env.get_state(), observation, [])
    rng = np.random.default_rng(seed)
    while n_steps is None or len(episode.steps) < n_steps:
        action = int(rng.choice(5, p=STYLES[style]))
        observation, reward, terminated, truncated, info = env.step(action)
        results = (observation, reward, terminated, truncated, info["features"])
        episode.steps.append(Step(action, env.get_state(), *results))
        if (terminated and not past_the_end) or truncated:
            break
    return episode


@pytest.fixture
def record():
    return record_episode


@pytest.fixture(params=STYLES)
def style(request):
    return request.param


def states_agree(ours, theirs, tolerance):
    """Say that two states agree: whole numbers exactly, others to a tolerance, impacts where any are."""
    for name in WHOLE:
        np.testing.assert_array_equal(ours.cars[name], theirs.cars[name], name)
    for name in REAL:
        chosen = ours.cars["has_impact"] if name.startswith("impact") else np.full(ours.cars.shape, True)
        ours_chosen, theirs_chosen = ours.cars[name][chosen], theirs.cars[name][chosen]
        np.testing.assert_allclose(ours_chosen, theirs_chosen, rtol=0, atol=tolerance, err_msg=name)
    np.testing.assert_array_equal(ours.roads, theirs.roads)


@pytest.fixture
def assert_same_state():
    return states_agree


@pytest.fixture(scope="session")
def oracle():
    """The engine's module, uncompiled, with the functions that highway-env itself calls."""
    spec = spec_from_file_location("oracle", engine.__file__)
    module = module_from_spec(spec)
    with patch("numba.njit", lambda **options: lambda function: function):
        spec.loader.exec_module(module)
    module.sin, module.cos, module.tan = np.sin, np.cos, np.tan
    module.asin, module.atan, module.power = np.arcsin, np.arctan, np.power
    module.dot = lambda ax, ay, bx, by: np.array([ax, ay]).dot(np.array([bx, by]))
    return module
