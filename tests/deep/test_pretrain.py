"""Pretraining: interrupted or not it ends in the same bits, refuses in words, learns what it is asked to."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from deep import pretrain
from deep.classic import RESIDUAL_WEIGHTS, TASKS, make_plain
from deep.nets import mlp
from deep.policies import DiscretePolicy
from deep.pretrain import Pretrain, make_problem, train
from deep.residual_dqn import DQNConfig
from deep.residual_sac import SACConfig
from deep.rollouts import collect
from mereq_min.lab.commands.main import main
from mereq_min.lab.plugins import UsageError
from mereq_min.lab.runs.files import RunError, save_arrays
from mereq_min.policies import UniformPolicy

CARTPOLE, CAR = "CartPole-v1", "MountainCarContinuous-v0"
ALGORITHMS = [(CARTPOLE, "soft-dqn"), (CARTPOLE, "dqn"), (CARTPOLE, "sac"), (CAR, "sac")]


def make_task(name):
    """Short episodes, of which few are measured."""
    return dataclasses.replace(TASKS[name](), horizon=10, episodes=2)


def make_settings(task=CARTPOLE, algo="soft-dqn", **changes):
    """Three checkpoints, in which the replay runs over."""
    dqn = DQNConfig(engine="torch", hidden=(8,), batch_size=16, replay_capacity=64, exploration_steps=80)
    sac = SACConfig(engine="torch", hidden=(8,), batch_size=16, replay_capacity=64, target_entropy=-1.0)
    tiny = Pretrain(task, algo, steps=100, steps_per_checkpoint=40, num_envs=4, anneal=True, dqn=dqn, sac=sac)
    return dataclasses.replace(tiny, **changes)


def run(settings, path, task=None):
    return train(settings, task or make_task(settings.task), path, report=lambda row: None)


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


class Killed(BaseException):
    """Stands for kill -9: nothing after it runs."""


def kill_at(patch, number):
    """Die just before the change `number` to a file, replacing or deleting it; returns the files changed."""
    changed = []

    def dying(change):
        def change_or_die(file, *arguments, **options):
            changed.append(file)
            if len(changed) == number:
                raise Killed
            return change(file, *arguments, **options)

        return change_or_die

    for name in ("replace", "unlink"):
        patch.setattr(Path, name, dying(getattr(Path, name)))
    return changed


@pytest.mark.parametrize(("task", "algo"), ALGORITHMS)
def test_killed_anywhere_and_resumed_it_ends_bit_identical(tmp_path, monkeypatch, task, algo):
    settings = make_settings(task, algo)
    with monkeypatch.context() as patch:
        changes = kill_at(patch, None)
        run(settings, tmp_path / "unbroken/it")
    assert sorted(contents(tmp_path / "unbroken")) == [
        "it.checkpoint-003.safetensors",
        "it.json",
        "it.safetensors",
    ]
    every = 1 if algo == "soft-dqn" else 4  # the same moments for all, so that a few tell
    for number in range(1, len(changes) + 1, every):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill_at(patch, number)
            run(settings, tmp_path / f"{number}/it")
        run(settings, tmp_path / f"{number}/it")
        assert contents(tmp_path / f"{number}") == contents(tmp_path / "unbroken"), changes[number - 1]


def test_overwriting_that_was_killed_is_resumed_without_asking_again(tmp_path, monkeypatch):
    settings = make_settings(seed=1)
    run(settings, tmp_path / "unbroken/it")
    for number in (2, 3, 6):
        run(make_settings(seed=1, temperature=0.2), tmp_path / f"{number}/it")
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill_at(patch, number)
            run(dataclasses.replace(settings, overwrite=True), tmp_path / f"{number}/it")
        run(settings, tmp_path / f"{number}/it")
        assert contents(tmp_path / f"{number}") == contents(tmp_path / "unbroken")


def test_overwriting_with_settings_that_make_no_sense_destroys_nothing(tmp_path):
    run(make_settings(), tmp_path / "it")
    before = contents(tmp_path)
    with pytest.raises(UsageError, match="cannot load policy"):
        run(make_settings(prior="nowhere.safetensors", overwrite=True), tmp_path / "it")
    assert contents(tmp_path) == before


def test_what_is_finished_is_left_as_it_is(tmp_path):
    policy = run(make_settings(), tmp_path / "it")
    before = contents(tmp_path)
    again = run(make_settings(), tmp_path / "it")
    assert contents(tmp_path) == before
    states = np.random.default_rng(0).standard_normal((20, 4))
    np.testing.assert_array_equal(again.log_probs(states), policy.log_probs(states))


def test_the_record_counts_the_steps_and_measures_the_policy_that_is_saved(tmp_path):
    run(make_settings(), tmp_path / "it")
    rows = json.loads((tmp_path / "it.json").read_text())["measures"]
    assert [row["steps"] for row in rows] == [40, 80, 100]
    task = make_task(CARTPOLE)
    measures = task.evaluate(task.load_policy(load_file(tmp_path / "it.safetensors")))
    assert measures == {name: rows[-1][name] for name in measures}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_envs": 5}, "num_envs 4 there, 5 now"),
        ({"seed": 3, "steps": 99}, "steps 100 there, 99 now; seed 0 there, 3 now"),
        ({"dqn": DQNConfig(engine="torch")}, r"dqn .*'batch_size': 16.* there, .*'batch_size': 256.* now"),
        ({"dqn": dataclasses.replace(make_settings().dqn, engine="jax")}, "engine torch there, jax now"),
        ({"prior": "x.safetensors"}, "prior None there, x.safetensors now"),
    ],
)
def test_other_settings_at_the_same_path_are_refused_by_name(tmp_path, changes, message):
    run(make_settings(), tmp_path / "it")
    before = contents(tmp_path)
    with pytest.raises(RunError, match=rf"it.json is of other settings \({message}\): choose another --out"):
        run(make_settings(**changes), tmp_path / "it")
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("it.json", lambda file: file.write_bytes(file.read_bytes()[:-30])),
        ("it.json", lambda file: file.write_text("[]")),
        ("it.json", lambda file: file.write_text('{"settings": 1, "measures": []}')),
        ("it.json", lambda file: file.write_text('{"settings": {}, "measures": 1}')),
        ("it.checkpoint-003.safetensors", lambda file: file.unlink()),
        ("it.checkpoint-003.safetensors", lambda file: file.write_bytes(file.read_bytes()[:-30])),
        ("it.checkpoint-003.safetensors", lambda file: file.write_bytes(b"\x80\x04N.")),  # a pickle
        ("it.checkpoint-003.safetensors", lambda file: save_file({"theta": np.zeros(2)}, file)),
        (
            "it.checkpoint-003.safetensors",
            lambda file: save_file({**load_file(file), "net.1.bias": np.full(8, np.nan, np.float32)}, file),
        ),
    ],
)
def test_damage_is_named_with_what_to_do_and_doing_it_helps(tmp_path, file, damage):
    run(make_settings(), tmp_path / "it")
    whole = contents(tmp_path)
    damage(tmp_path / file)
    with pytest.raises(RunError, match=rf"{file} is .*damaged .*; pass --overwrite to train again"):
        run(make_settings(), tmp_path / "it")
    run(make_settings(overwrite=True), tmp_path / "it")
    assert contents(tmp_path) == whole


@pytest.mark.parametrize("algo", ["dqn", "soft-dqn"])
def test_dqn_over_a_box_of_actions_is_refused(tmp_path, algo):
    with pytest.raises(
        UsageError, match=rf"{algo} needs a finite set of actions, got Box.*choose --algo sac"
    ):
        run(make_settings(CAR, algo), tmp_path / "it")
    assert contents(tmp_path) == {}


def test_a_greedy_policy_on_a_prior_is_refused(tmp_path):
    with pytest.raises(UsageError, match="dqn is greedy, which a customised prior cannot be: choose --algo"):
        run(make_settings(algo="dqn", prior="prior.safetensors"), tmp_path / "it")


def test_a_task_in_a_table_is_refused(capsys):
    assert main(["pretrain", "carpet"]) == 2
    assert "carpet is not a GymTask: tabular tasks are solved without training" in capsys.readouterr().err


@pytest.mark.parametrize("changes", [{"reward": "expert"}, {"prior": "prior.safetensors"}])
def test_without_an_oracle_there_is_no_reward_of_the_experts(tmp_path, changes):
    task = TASKS["LunarLander-v3"]()
    with pytest.raises(UsageError, match="LunarLander-v3 has no oracle: an expert's reward is not known"):
        make_problem(make_settings("LunarLander-v3", **changes), task)


@pytest.mark.parametrize(
    ("name", "value"),
    [("steps", 0), ("num_envs", 1.5), ("seed", -1), ("steps_per_update", 0.0), ("steps_per_checkpoint", 0)],
)
def test_settings_that_make_no_sense_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be"):
        make_settings(**{name: value})


@pytest.mark.parametrize(("name", "algo"), ALGORITHMS)
def test_a_saved_policy_acts_as_the_one_that_was_trained(tmp_path, name, algo):
    task = make_task(name)
    trained = run(make_settings(name, algo), tmp_path / "it")
    loaded = task.load_policy(load_file(tmp_path / "it.safetensors"))
    envs = task.make_vector_env(4)
    walks = [collect(envs, policy, 50, np.random.default_rng(0), seed=0) for policy in (trained, loaded)]
    envs.close()
    for column in dataclasses.fields(walks[0]):
        np.testing.assert_array_equal(*(getattr(walk, column.name) for walk in walks))


# --- What is learnt --------------------------------------------------------------------------------------


@pytest.fixture(name="prior")
def _prior(tmp_path):
    """A policy over CartPole's actions, and its file."""
    policy = DiscretePolicy(mlp([4, 8, 2], seed=5), 0.3)
    save_arrays(tmp_path / "prior.safetensors", policy.arrays())
    return policy, str(tmp_path / "prior.safetensors")


STATES = np.random.default_rng(0).standard_normal((30, 4))


@pytest.mark.parametrize("algo", ["soft-dqn", "sac"])
def test_where_nothing_is_added_to_the_reward_the_policy_stays_its_prior(tmp_path, prior, algo, monkeypatch):
    policy, file = prior
    settings = make_settings(
        algo=algo, prior=file, temperature=0.3, steps=400, steps_per_checkpoint=400,
        dqn=DQNConfig(engine="torch", hidden=(8,), batch_size=64),
        sac=SACConfig(engine="torch", hidden=(8,), batch_size=64),
    )  # fmt: skip
    learned = []
    for name, added in (("same", np.zeros(3)), ("other", RESIDUAL_WEIGHTS[CARTPOLE])):
        monkeypatch.setitem(RESIDUAL_WEIGHTS, CARTPOLE, added)
        learned.append(run(settings, tmp_path / name / "it"))
    drift, change = (np.abs(each.log_probs(STATES) - policy.log_probs(STATES)).max() for each in learned)
    assert drift < 0.005  # rounding, which Adam magnifies
    assert change > 0.02


def test_a_residual_policy_is_saved_together_with_its_prior(tmp_path, prior):
    policy, file = prior
    trained = run(make_settings(prior=file), tmp_path / "it")
    Path(file).unlink()
    loaded = make_task(CARTPOLE).load_policy(load_file(tmp_path / "it.safetensors"))
    np.testing.assert_array_equal(loaded.log_probs(STATES), trained.log_probs(STATES))
    np.testing.assert_array_equal(loaded.prior.log_probs(STATES), policy.log_probs(STATES))


@pytest.mark.parametrize("algo", ["soft-dqn", "sac"])
def test_residual_learning_asks_for_the_add_on_alone(tmp_path, prior, algo):
    envs, theta = make_problem(make_settings(algo=algo, prior=prior[1]), TASKS[CARTPOLE]())
    steps = collect(envs, UniformPolicy(envs.single_action_space), 60, np.random.default_rng(0), seed=0)
    envs.close()
    assert steps.terminated.any()
    np.testing.assert_allclose(steps.features @ theta, -np.abs(steps.next_state[..., 0]) / 2.4, atol=1e-6)


@pytest.mark.parametrize(("reward", "add_on"), [("prior", 0.0), ("expert", -1.0)])
def test_learning_from_scratch_asks_for_the_whole_reward_of_every_step(reward, add_on):
    envs, theta = make_problem(make_settings(reward=reward), TASKS[CARTPOLE]())
    steps = collect(envs, UniformPolicy(envs.single_action_space), 60, np.random.default_rng(0), seed=0)
    envs.close()
    place, tilt = np.abs(steps.next_state[..., 0]) / 2.4, np.abs(steps.next_state[..., 2]) / 0.2095
    assert steps.terminated.any()
    assert steps.features.shape[2] == 1
    np.testing.assert_allclose(steps.features @ theta, 1 - 10 * tilt + add_on * place, atol=1e-5)


@pytest.mark.parametrize("steps_per_checkpoint", [40, 100])
def test_annealing_falls_in_a_straight_line_to_a_twentieth(tmp_path, monkeypatch, steps_per_checkpoint):
    rates, make_agent = [], pretrain.make_agent

    def make_watched_agent(settings, task):
        agent = make_agent(settings, task)
        update = agent.update
        agent.update = lambda *given: rates.append(agent.optimiser.param_groups[0]["lr"]) or update(*given)
        return agent

    monkeypatch.setattr(pretrain, "make_agent", make_watched_agent)
    run(make_settings(steps_per_checkpoint=steps_per_checkpoint), tmp_path / "it")
    line = DQNConfig().learning_rate * np.linspace(1.0, 0.05, 26)[1:]  # an update after each 4 of 100 steps
    np.testing.assert_allclose(rates, line)


def test_the_command_names_a_policy_by_what_it_is_for(tmp_path, prior, capsys):
    command = ["pretrain", CARTPOLE, "--steps", "8", "--num-envs", "4", "--out", str(tmp_path / "out")]
    assert main(command) == 0
    assert main([*command, "--reward", "expert"]) == 0
    assert main([*command, "--prior", prior[1]]) == 0
    printed = capsys.readouterr().out
    for reward in ("prior", "expert", "residual"):
        file = tmp_path / f"out/CartPole-v1-{reward}-soft-dqn-seed0.safetensors"
        assert file.exists()
        assert f"policy: {file}" in printed


@pytest.mark.slow
def test_soft_dqn_solves_cartpole(tmp_path):
    task = TASKS[CARTPOLE]()
    settings = Pretrain(CARTPOLE, steps=50_000, num_envs=16, steps_per_checkpoint=25_000)
    measures = task.evaluate(train(settings, task, tmp_path / "it", report=print), episodes=50)
    assert measures["length"] >= 400.0


@pytest.mark.slow
def test_sac_swings_a_pendulum_up(tmp_path):
    task = dataclasses.replace(make_plain("Pendulum-v1"), gamma=0.98)
    settings = Pretrain(
        "Pendulum-v1", "sac", temperature=0.2, steps=12_000, num_envs=4, steps_per_update=2.0,
        steps_per_checkpoint=4_000, sac=SACConfig(target_entropy=-1.0),
    )  # fmt: skip
    measures = task.evaluate(train(settings, task, tmp_path / "it", report=print), episodes=50)
    assert measures["task_return"] > -200.0  # hanging still costs some -1500
