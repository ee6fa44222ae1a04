"""`mereq evaluate` prints the task's own measures of the policy that is named, or says why it cannot."""

import re

import numpy as np
import pytest
from gymnasium import spaces
from PIL import Image

from mereq_min.lab import plugins
from mereq_min.lab.commands.main import main
from mereq_min.lab.conformance.policy import check_policy
from mereq_min.lab.plugins import UsageError, load_environment, load_task
from mereq_min.lab.runs.files import save_arrays
from mereq_min.lab.show.film import film
from mereq_min.policies import UniformPolicy


@pytest.fixture(name="evaluate")
def _evaluate(capsys, monkeypatch):
    """The command: exit code, and what it printed."""
    monkeypatch.setenv("COLUMNS", "160")

    def run(*arguments):
        code = main(["evaluate", *map(str, arguments)])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


def read_table(printed):
    """Names of the columns, labels of the rows, and the numbers (rows, columns)."""
    lines = [re.split(r"[│┃]", line)[1:-1] for line in printed.splitlines() if line[:1] in ("│", "┃")]
    (_, *names), *rows = [[cell.strip() for cell in cells] for cells in lines]
    return names, [row[0] for row in rows], np.array([row[1:] for row in rows], dtype=float)


def numbers(measures):
    """All numbers of `Task.evaluate` one after the other, as a table shows them."""
    return [float(f"{number:.3f}") for value in measures.values() for number in np.atleast_1d(value)]


class Even:
    """Five actions alike, in closed form."""

    def log_prob(self, state, action):
        return np.full(len(state), -np.log(5))


@pytest.mark.parametrize("name", ["carpet", "lanes"])
def test_the_table_holds_the_tasks_own_measures(evaluate, name):
    task = load_task(name)
    for policy, own in (("prior", task.prior), ("expert", task.oracle.expert_policy)):
        code, printed = evaluate(policy, name)
        names, labels, table = read_table(printed)
        assert code == 0
        assert names == [policy]
        assert table[:, 0].tolist() == numbers(task.evaluate(own))
    assert "KL to expert [nats]" in labels
    from_itself = [table[i, 0] for i, label in enumerate(labels) if label.startswith(("KL", "JS"))]
    assert from_itself == [0.0] * (1 + len(task.feature_names))


def test_random_actions_are_measured_beside_it(evaluate):
    task = load_task("carpet")
    _, printed = evaluate("prior", "carpet", "--random")
    names, _, table = read_table(printed)
    assert names == ["prior", "random"]
    assert task.make_env().action_space.n == 5
    for column, policy in zip(table.T, (task.prior, Even()), strict=True):
        assert column.tolist() == numbers(task.evaluate(policy))


def test_random_actions_are_a_policy_too(evaluate):
    code, printed = evaluate("random", "carpet")
    assert code == 0
    assert read_table(printed)[2][:, 0].tolist() == numbers(load_task("carpet").evaluate(Even()))


def test_a_saved_policy_has_the_measures_of_the_one_it_was_saved_from(evaluate, tmp_path):
    file = tmp_path / "it.safetensors"
    save_arrays(file, load_task("carpet").oracle.expert_policy.arrays())
    tables = [read_table(evaluate(policy, "carpet")[1])[2] for policy in (file, "expert")]
    np.testing.assert_array_equal(*tables)


def test_an_environment_to_pretrain_on_will_do_too(evaluate, tmp_path, monkeypatch):
    (tmp_path / "mine_for_cartpole.py").write_text(
        "from gymnasium.spaces import Discrete\n"
        "from mereq_min.policies import UniformPolicy\n"
        "even = UniformPolicy(Discrete(2))\n"
    )
    monkeypatch.chdir(tmp_path)
    code, printed = evaluate("mine_for_cartpole:even", "CartPole-v1", "--episodes", 40)
    _, labels, table = read_table(printed)
    assert code == 0
    task = load_environment("CartPole-v1")
    measures = task.evaluate(UniformPolicy(spaces.Discrete(2)), episodes=40)
    assert table[:, 0].tolist() == numbers(measures)
    # Random pushes keep the pole up for 22 steps in the mean, with a standard deviation of 12.
    assert table[labels.index("length [steps]"), 0] == pytest.approx(22, abs=6)


def test_a_task_is_found_where_environments_to_pretrain_on_need_what_is_not_installed(monkeypatch):
    found = plugins.factories

    def without_torch(group):
        if group == "environments":
            raise ModuleNotFoundError("No module named 'torch'")
        return found(group)

    monkeypatch.setattr(plugins, "factories", without_torch)
    assert load_environment("carpet") is load_task("carpet")
    assert load_environment("gridworlds.tasks:make_carpet").name == "carpet"
    with pytest.raises(UsageError, match=r"cannot be imported \(No module named 'torch'\); run pip install"):
        load_environment("CartPole-v1")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("piror", "carpet"), 2, r"policy must be prior, expert, random, .*got 'piror'"),
        (("nowhere.safetensors", "carpet"), 2, r"cannot load policy 'nowhere.safetensors': .*No such file"),
        (("nowhere:policy", "carpet"), 2, "cannot load policy 'nowhere:policy'"),
        (("math:pi", "carpet"), 2, "it is of type float, which has no log_prob"),
        (("prior", "carpte"), 2, r"unknown task 'carpte'; did you mean 'carpet'\?"),
        (("prior", "CartPole-v2"), 2, r"unknown task 'CartPole-v2'; did you mean 'CartPole-v1'\?"),
        (("expert", "CartPole-v1"), 2, "the task comes without expert; name a policy by its file"),
        (("BF16", "carpet"), 2, r"numpy has no numbers of type 'BF16'; save it in float32"),
        (("prior", "carpet", "--episodes", "0"), 1, "episodes must be an integer at least 1, got 0"),
        (
            ("prior", "carpet", "--episodes", "5"),
            1,
            "episodes must be None for carpet, whose measures are exact, got 5",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_in_words(evaluate, tmp_path, arguments, code, message):
    if arguments[0] == "BF16":
        header = b'{"x":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}'
        (tmp_path / "it.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(2))
        arguments = (tmp_path / "it.safetensors", *arguments[1:])
    found, printed = evaluate(*arguments)
    assert found == code
    assert re.search(message, printed), printed


def test_a_policy_on_priors_without_end_is_refused_in_words(evaluate, tmp_path):
    save_arrays(tmp_path / "it.safetensors", {"prior." * 2_000 + "scales": np.ones(2)})
    code, printed = evaluate(tmp_path / "it.safetensors", "CartPole-v1")
    assert code == 2
    assert "a policy may rest on at most 10 priors, one on the other" in printed


def test_the_film_shows_the_policies_side_by_side(evaluate, tmp_path):
    file = tmp_path / "film.gif"
    code, printed = evaluate("prior", "carpet", "--random", "--gif", file)
    assert code == 0
    assert f"film: {file}" in printed
    task = load_task("carpet")
    height, width = film(task, task.prior, "prior", 0, watched=False)[0].shape[:2]
    with Image.open(file) as pictures:
        assert pictures.size == (2 * width, height)


@pytest.mark.parametrize(
    "space",
    [spaces.Discrete(3), spaces.Discrete(4, start=-2), spaces.Box(np.float32([-1, 2]), np.float32([3, 2.5]))],
)
def test_uniform_actions_are_drawn_as_their_density_says(space):
    policy, states = UniformPolicy(space), np.zeros((40, 2))
    assert check_policy(policy, states, space, np.random.default_rng(0)) == []
    volume = space.n if isinstance(space, spaces.Discrete) else np.prod(space.high - space.low)
    drawn = policy.sample(states, np.random.default_rng(0))
    np.testing.assert_allclose(policy.log_prob(states, drawn), -np.log(float(volume)), rtol=1e-6)


@pytest.mark.parametrize("space", [spaces.MultiBinary(3), spaces.Box(-np.inf, np.inf, (2,))])
def test_uniform_actions_over_anything_else_are_refused(space):
    with pytest.raises(ValueError, match="space must be Discrete or a bounded Box, got"):
        UniformPolicy(space)
