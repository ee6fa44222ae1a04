"""The script that switches the choices of the authors' learner, and its record."""

import importlib.util
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from deep.engines import import_compiled
from mereq_min import METHODS, align, make_aligner, settings_of
from mereq_min.lab.plugins import load_task

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script():
    """figures/fidelity.py, which is no module of a package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "figures")
        spec = importlib.util.spec_from_file_location("fidelity", ROOT / "figures/fidelity.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def highway():
    """The highway."""
    return load_task("highway")


def test_every_choice_is_switched_alone_and_all_of_them_together(script):
    ours = script.Choices()
    names = {field.name for field in fields(ours)}
    together = script.Choices(**script.VARIANTS["all of these"])
    for changes in script.AUTHORS.values():
        assert names >= changes.keys()
        assert all(getattr(ours, name) != value == getattr(together, name) for name, value in changes.items())


def test_the_unclipped_speed_clipped_is_the_feature(script, highway):
    steps = highway.roll_out(highway.prior, 8)
    unclipped = script.unclip(steps)
    np.testing.assert_allclose(np.clip(unclipped, 0, 1), steps.features, atol=1e-5)
    assert (unclipped[..., 2] < 0).any()  # who brakes behind a slow car drives at less than 20 m/s


def test_the_huber_loss_is_that_of_torch(script):
    values, target = np.random.default_rng(0).normal(0, 2, (2, 50, 4)).astype(np.float32)
    wanted = torch.nn.functional.huber_loss(torch.tensor(values), torch.tensor(target), reduction="sum") / 50
    assert script.huber_loss(values, target) == pytest.approx(float(wanted), rel=1e-5)


def test_the_compiled_loss_is_put_back(script):
    pytest.importorskip("jax")
    compiled = import_compiled()
    usual = compiled.critic_loss
    with script.critic_loss(True):
        assert compiled.critic_loss is script.huber_loss
    assert compiled.critic_loss is usual


def test_the_greedy_policy_takes_the_most_probable_action(script, highway):
    states = highway.roll_out(highway.prior, 2).transitions()["state"]
    chosen = script.Greedy(highway.prior, 5).sample(states, np.random.default_rng(0))
    probable = highway.prior.log_prob(states, chosen)
    assert all((probable >= highway.prior.log_prob(states, np.full(len(states), a))).all() for a in range(5))


@pytest.mark.slow
def test_the_default_choices_are_the_row_mereq(script, highway):
    pytest.importorskip("jax")
    loop = replace(settings_of(highway).loop, iterations=1)
    (turn,) = align(highway, make_aligner(highway, METHODS["MEReQ"], seed=2100), loop, seed=2100)
    found = script.measure(highway, script.Choices(), 2100, iterations=1)
    np.testing.assert_allclose(found["theta"][0], turn.info["theta"], atol=1e-4)
