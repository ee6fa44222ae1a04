"""The script that switches the choices of the authors' learner, and its record."""

import json
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from deep.engines import import_compiled
from mereq_min import METHODS, align, make_aligner, settings_of
from mereq_min.lab.plugins import load_task

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script(load_script):
    """The script."""
    return load_script("fidelity")


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


def test_recorded_runs_come_out_again(script):
    first, *rows = (json.loads(line) for line in (ROOT / "figures/fidelity.jsonl").read_text().splitlines())
    assert not first["git"].endswith("-dirty")
    assert first["config"]["choices"] == {
        name: asdict(script.Choices(**changes)) for name, changes in script.VARIANTS.items()
    }
    task = load_task("carpet")
    for variant in script.READINGS:
        (row,) = (r for r in rows if (r["task"], r["variant"], r["seed"]) == ("carpet", variant, 2100))
        again = script.measure(task, script.Choices(**script.VARIANTS[variant]), 2100, iterations=3)
        assert again["rate"] == row["rate"][:3]
        assert again["expert_samples"] == row["expert_samples"][:3]
        np.testing.assert_allclose(again["theta"], row["theta"][:3], rtol=1e-3, atol=1e-3)


def test_a_run_is_summarised_by_its_last_iterations(script):
    rates = [0.3, 0.0, 0.1, 0.0, 0.0, 0.0, 0.05, 0.04, 0.04, 0.02]
    row = {"rate": rates, "expert_samples": list(range(10, 20)), "expert_return": 3.0, "kl_to_expert": 0.2}
    found = script.summarise(row, {"prior": 1.0, "expert": 5.0})
    assert found == {"rate": pytest.approx(0.03), "samples": 17, "way": 0.5, "kl": 0.2, "censored": False}


@pytest.mark.slow
def test_the_default_choices_are_the_row_mereq(script, highway):
    pytest.importorskip("jax")
    loop = replace(settings_of(highway).loop, iterations=1)
    (turn,) = align(highway, make_aligner(highway, METHODS["MEReQ"], seed=2100), loop, seed=2100)
    found = script.measure(highway, script.Choices(), 2100, iterations=1)
    np.testing.assert_allclose(found["theta"][0], turn.info["theta"], atol=1e-4)
