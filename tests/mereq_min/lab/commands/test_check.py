"""The commands check-policy and check-task, and policies by name."""

from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from deep.stable_baselines import load_zip
from mereq_min.lab import plugins
from mereq_min.lab.commands import check
from mereq_min.lab.commands.check import CheckPolicy, CheckTask
from mereq_min.lab.plugins import UsageError, load_environment, load_policy, load_task

DATA = Path(__file__).parents[3] / "data"

MINE = """
import numpy as np

class Uniform:
    scale = 5

    def log_prob(self, state, action):
        return np.full(len(state), -np.log(self.scale))

    def sample(self, state, rng):
        return rng.integers(5, size=len(state))

class Unnormalised(Uniform):
    scale = 4

uniform = Uniform()
nothing = 3

def make():
    return uniform

def broken():
    raise TypeError("not today")
"""


@pytest.fixture(name="mine")
def _mine(tmp_path, monkeypatch):
    """A module `mine_<number>` of one's own in the working directory."""
    name = f"mine_{tmp_path.parent.name.replace('-', '_')}_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    return name


@pytest.fixture(name="with_loader")
def _with_loader(monkeypatch):
    entry = EntryPoint("zip", "deep.stable_baselines:load_for_task", "mereq_min.policy_loaders")
    known = plugins.entry_points
    monkeypatch.setattr(
        plugins, "entry_points", lambda *, group: [entry] if "loaders" in group else known(group=group)
    )


@pytest.mark.parametrize("attribute", ["uniform", "Uniform", "make"])
def test_a_policy_by_module_and_attribute_may_be_the_policy_a_class_or_a_factory(mine, attribute):
    policy = load_policy(f"{mine}:{attribute}", load_task("carpet"))
    np.testing.assert_allclose(policy.log_prob(np.zeros(3), np.zeros(3)), -np.log(5))


def test_a_saved_policy_is_the_task_s(tmp_path):
    task = load_task("carpet")
    file = tmp_path / "policy.safetensors"
    save_file(task.prior.arrays(), file)
    np.testing.assert_array_equal(load_policy(str(file), task).log_policy, task.prior.log_policy)


@pytest.mark.usefixtures("with_loader")
def test_a_file_of_stable_baselines_is_found_by_its_suffix_and_a_dqn_acts_at_the_task_s_temperature():
    task = load_environment("CartPole-v1")
    states = np.random.default_rng(0).normal(size=(9, 4))
    loaded = load_policy(str(DATA / "dqn_cartpole.zip"), task)
    expected = load_zip(DATA / "dqn_cartpole.zip", temperature=task.temperature)
    np.testing.assert_array_equal(loaded.log_probs(states), expected.log_probs(states))
    loaded = load_policy(str(DATA / "ppo_cartpole.zip"), task)
    np.testing.assert_array_equal(
        loaded.log_probs(states), load_zip(DATA / "ppo_cartpole.zip").log_probs(states)
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "carpet",
            r"must be prior, expert, random, module:attribute or a file \(\.safetensors.*got 'carpet'",
        ),
        ("policy.tar", r"must be prior, expert, random, module:attribute or a file"),
        ("nowhere.safetensors", "No such file"),
        ("no_such_module:policy", "No module named"),
        ("MINE:absent", "has no attribute 'absent'"),
        ("MINE:nothing", "it is of type int, which has no log_prob"),
        ("MINE:broken", "not today"),
        ("damaged.safetensors", "cannot load policy"),
    ],
)
def test_what_names_no_policy_is_refused_in_a_sentence(mine, name, message):
    Path("damaged.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(UsageError, match=message):
        load_policy(name.replace("MINE", mine), load_task("carpet"))


def test_the_arrays_of_another_task_are_refused(tmp_path):
    file = tmp_path / "policy.safetensors"
    save_file(load_task("shelf").prior.arrays(), file)
    with pytest.raises(ValueError, match=r"observes one of \d+ states and has 5 actions, the task has"):
        load_policy(str(file), load_task("carpet"))


def test_check_policy_prints_what_holds_and_what_fails(mine, capsys):
    assert CheckPolicy(f"{mine}:uniform", "carpet")() == 0
    shown = capsys.readouterr().out
    assert shown.count("holds  ") == 9
    assert "fails" not in shown
    assert shown.endswith("no findings\n")
    assert CheckPolicy(f"{mine}:Unnormalised", "carpet")() == 1
    shown = capsys.readouterr().out
    assert "fails        probabilities sum to 1, or densities integrate to 1\n" in shown
    assert "- probabilities must sum to 1, but sum to 1.25" in shown


def test_check_task_prints_what_holds_and_what_was_not_checked(monkeypatch, capsys):
    assert CheckTask("shelf")() == 0
    assert capsys.readouterr().out.count("holds  ") == 21
    monkeypatch.setattr(check, "find_task", lambda name: object())
    assert CheckTask("mine")() == 1
    shown = capsys.readouterr().out
    assert "- a task must offer `horizon`, but this object does not" in shown
    assert shown.count("not checked  ") == 20


@pytest.mark.parametrize("command", [CheckTask("carpet", seed=-1), CheckPolicy("x:y", "carpet", steps=1)])
def test_numbers_out_of_range_are_refused(command):
    with pytest.raises(ValueError, match="must be an integer at least"):
        command()
