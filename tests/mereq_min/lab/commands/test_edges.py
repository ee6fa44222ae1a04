"""What users hand to the command line by mistake: answered in a sentence, whoever's mistake it is."""

import errno
import itertools
import os
import re
import sys
from pathlib import Path
from unittest.mock import Mock

import edges
import joblib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mereq_min.lab import faults
from mereq_min.lab.commands.console import LONGEST, one_line
from mereq_min.lab.commands.main import main
from mereq_min.lab.commands.tasks import Tasks
from mereq_min.lab.faults import find_place, is_refusal
from mereq_min.lab.plugins import UsageError, load_environment, load_policy, load_task
from mereq_min.lab.runs import sweep
from mereq_min.validation import check_number

# --- The table of edges -----------------------------------------------------------------------------------

NTH = {
    "numbers": 29,
    "modules": 19,
    "policies": 13,
    "experts": 5,
    "tasks": 5,
    "files": 17,
    "shapes": 9,
    "usage": 1,
}
"""Which cases of the table the default tests type: each n-th; the slow ones type all."""


@pytest.fixture(name="workplace", scope="module")
def _workplace():
    with edges.workplace() as folder:
        yield folder


def type_all(cases, folder):
    """Type cases; returns those that were not answered as they should be."""
    wrong = []
    for number, case in cases:
        answer = edges.type_case(case, folder, number)
        if answer.verdict != "ok":
            wrong.append((answer.verdict, case.arguments, case.source, answer.printed[-500:]))
    return wrong


def numbered(group):
    """The cases of a group with numbers that no other group has."""
    begin = 10_000 * list(edges.GROUPS).index(group)
    return [(begin + number, case) for number, case in enumerate(edges.GROUPS[group]())]


@pytest.mark.parametrize("group", edges.GROUPS)
def test_each_mistake_is_answered_in_a_sentence(workplace, group):
    assert type_all(numbered(group)[:: NTH[group]], workplace) == []


@pytest.mark.slow
@pytest.mark.parametrize("group", edges.GROUPS)
def test_every_mistake_of_the_table_is_answered_in_a_sentence(workplace, group):
    cases = [(5_000 + number, case) for number, case in numbered(group)]
    assert len(cases) >= 25
    assert type_all(cases, workplace) == []


# --- Whose mistake it is ----------------------------------------------------------------------------------


@pytest.fixture(name="folder")
def _folder(tmp_path, monkeypatch):
    """The working directory, where tracebacks are kept too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def said(capsys):
    return " ".join(capsys.readouterr().err.split())


def test_an_error_of_ours_is_called_a_bug_and_its_traceback_is_kept(folder, monkeypatch, capsys):
    monkeypatch.setattr(faults, "_named", set())
    monkeypatch.setattr("mereq_min.lab.commands.tasks.tasks_table", None)
    assert main(["tasks"]) == 1
    message = said(capsys)
    assert message.startswith(
        "mereq: this looks like a bug in mereq-min: TypeError in commands/tasks.py, line "
    )
    (kept,) = folder.glob("mereq-*.traceback.txt")
    assert message.endswith(f"; the traceback is in {kept}")
    assert kept.read_text().startswith("Traceback (most recent call last)")
    assert "tasks_table()" in kept.read_text()
    with pytest.raises(TypeError):
        main(["--debug", "tasks"])


def test_where_a_traceback_cannot_be_kept_the_option_that_shows_it_is_named(monkeypatch, capsys):
    monkeypatch.setattr("tempfile.tempdir", "/nowhere/at/all")
    monkeypatch.setattr(Tasks, "__call__", lambda self: 1 // 0)
    assert main(["tasks"]) == 1
    assert said(capsys).endswith("; mereq --debug COMMAND shows the traceback")


LATE = """
import numpy as np

class Late:
    calls = 0
    def log_prob(self, state, action):
        return np.full(len(state), -np.log(2))
    def sample(self, state, rng):
        self.calls += 1
        if self.calls == 9:
            {raises}
        return np.zeros(len(state), dtype=int)
"""


@pytest.mark.parametrize(
    ("raises", "what"),
    [
        ("[][0]", "IndexError at line 11: list index out of range"),
        ("np.zeros(3) + np.zeros(4)", "ValueError at line 11: operands could not be broadcast"),
        ("raise ValueError('not today')", "ValueError at line 11: not today"),
        ("open('/nowhere/at/all')", "FileNotFoundError at line 11: "),
        ("raise SystemExit(0)", "SystemExit at line 11: 0"),
        ("rng.choice([])", "ValueError at line 11: a cannot be empty"),
    ],
)
def test_an_error_of_the_users_module_is_told_with_its_line(folder, capsys, raises, what):
    name = f"late_{abs(hash(raises))}"
    (folder / f"{name}.py").write_text(LATE.format(raises=raises))
    assert main(["evaluate", f"{name}:Late", "CartPole-v1", "--episodes", "1"]) == 1
    message = said(capsys)
    assert message.startswith(f"mereq: your module {name}.py raised {what}")
    assert re.search(r"; the traceback is in .*\.traceback\.txt$", message)
    with pytest.raises((Exception, SystemExit)) as raised:
        main(["--debug", "evaluate", f"{name}:Late", "CartPole-v1", "--episodes", "1"])
    assert not isinstance(raised.value, UsageError)


def test_an_interrupt_is_no_error_of_the_module_in_which_it_came(folder, capsys):
    (folder / "interrupted_module.py").write_text("raise KeyboardInterrupt\n")
    assert main(["evaluate", "interrupted_module:policy", "carpet"]) == 130
    assert "interrupted; repeat the command to resume" in said(capsys)


def raised_by(function, *arguments):
    with pytest.raises((ValueError, IndexError)) as raised:
        function(*arguments)
    return raised.value


def test_only_what_our_code_raises_by_itself_is_a_refusal():
    assert is_refusal(raised_by(check_number, "it", -1, 0))
    assert is_refusal(raised_by(load_task, "carpte"))
    task = load_task("carpet")
    assert is_refusal(raised_by(task.mdp.reward, np.zeros(17)))
    assert not is_refusal(raised_by(np.zeros(3).reshape, 2))  # numpy's words
    assert not is_refusal(raised_by(int, "x"))
    assert not is_refusal(raised_by(lambda: [][0]))
    assert not is_refusal(ValueError("never raised"))

    def ours():
        raise ValueError("of a test, which is no code of ours")

    assert not is_refusal(raised_by(ours))


def test_a_place_is_the_innermost_line_that_is_ours_or_the_users(monkeypatch):
    import json

    mine = find_place(raised_by(json.loads, "{"))
    assert mine.file.name == "test_edges.py"  # the line above asked for it
    assert not mine.is_ours
    ours = find_place(raised_by(check_number, "it", -1, 0))
    assert (ours.file.name, ours.is_ours) == ("validation.py", True)
    monkeypatch.setattr(faults, "_named", {"json"})
    assert find_place(raised_by(json.loads, "{")).file.name == "decoder.py"  # as if the user had named it
    assert find_place(ValueError("never raised")) is None


def test_a_module_that_is_named_by_the_command_line_is_the_users_wherever_it_lies(
    folder, monkeypatch, capsys
):
    installed = folder / "site-packages"
    installed.mkdir()
    (installed / "installed_module.py").write_text("def policy():\n    return {}['key']\n")
    monkeypatch.syspath_prepend(installed)
    monkeypatch.setattr(faults, "_foreign_folders", lambda: [installed])
    assert main(["evaluate", "installed_module:policy", "carpet"]) == 2
    assert "your module installed_module.py raised KeyError at line 2: 'key'" in said(capsys)


# --- Disks ------------------------------------------------------------------------------------------------


@pytest.fixture(name="full")
def _full(monkeypatch):
    """A disk that is full as soon as iterations are written."""
    refusals = itertools.repeat(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    fsync = Mock(side_effect=itertools.chain([None] * 3, refusals))
    monkeypatch.setattr(os, "fsync", fsync)
    return fsync


SHORT = ["--iterations", "2", "--steps-per-iteration", "20"]


@pytest.mark.usefixtures("full")
def test_a_full_disk_is_told_in_a_sentence(folder, capsys):
    assert main(["align", "carpet", "--out", "runs", *SHORT]) == 1
    assert re.search(r"mereq: runs\S*: No space left on device", said(capsys))
    assert list(folder.glob("*.traceback.txt")) == []


def test_on_a_full_disk_compare_names_each_run_that_failed(folder, capsys, full, monkeypatch):
    monkeypatch.setattr(sweep, "_parallel", lambda engine, workers: joblib.parallel_config("sequential"))
    write_text = Path.write_text

    def refuse(self, *given, **named):
        if self.name.endswith(".error.txt"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))
        return write_text(self, *given, **named)

    monkeypatch.setattr(Path, "write_text", refuse)
    code = main(
        ["compare", "carpet", "--methods", "MEReQ-L", "MEReQ", "--seeds", "1", "--out", "runs", *SHORT]
    )
    assert code == 1
    assert full.call_count > 3
    message = said(capsys)
    assert "Traceback" not in message
    for method in ("MEReQ-L", "MEReQ"):
        assert re.search(
            rf"failed: \S*runs/carpet/{method}/seed0: OSError: .*No space left on device", message
        )


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.EDQUOT])
def test_what_the_system_does_not_allow_is_told_with_the_place(folder, capsys, monkeypatch, code):
    monkeypatch.setattr(Path, "mkdir", Mock(side_effect=OSError(code, os.strerror(code), "runs/carpet")))
    assert main(["align", "carpet", "--out", "runs", *SHORT]) == 1
    assert said(capsys).endswith(f" mereq: runs/carpet: {os.strerror(code)}")


# --- Words ------------------------------------------------------------------------------------------------


def test_a_complaint_is_one_line_that_does_not_steer_the_terminal():
    assert one_line("a\n\tb  c") == "a b c"
    assert one_line("\x1b[31mred\x07 \udcff é π") == "\\x1b[31mred\\x07 \\udcff é π"
    assert len(one_line("x" * 10**6)) == LONGEST + 4


def test_a_policy_of_another_task_is_refused_with_what_it_takes_and_what_the_task_shows(folder):
    from gymnasium.spaces import Discrete
    from safetensors.numpy import save_file

    from mereq_min.policies import TabularPolicy, UniformPolicy, check_fit

    carpet = load_task("carpet")
    S, A = carpet.prior.log_policy.shape
    save_file(load_task("shelf").prior.arrays(), "shelf.safetensors")
    with pytest.raises(UsageError, match=rf"observes one of \d+ states and has \d actions, the task has {S}"):
        load_policy("shelf.safetensors", carpet)
    larger = TabularPolicy(np.log(np.full((S + 7, A), 1 / A)))
    with pytest.raises(
        ValueError,
        match=f"carpet: the policy observes one of {S + 7} states, the task's observation is one of {S}",
    ):
        check_fit(larger, Discrete(S), Discrete(A), "carpet")
    fewer, more = UniformPolicy(Discrete(A - 1)), UniformPolicy(Discrete(100 * A))
    for policy, total in ((fewer, "1.25"), (more, None)):
        with pytest.raises(
            ValueError, match=rf"must sum to 1, they sum to {total}" if total else "from 0 to 4, got"
        ):
            check_fit(policy, Discrete(S), Discrete(A), "carpet")
    zipped = edges.DATA / "ppo_cartpole.zip"
    with pytest.raises(
        UsageError,
        match=f"carpet: the policy observes 4 numbers, the task's observation is one of {S} states",
    ):
        load_policy(str(zipped), carpet)


def test_the_module_of_the_table_is_where_these_tests_look_for_it():
    assert Path(sys.modules["edges"].__file__) == Path(__file__).parents[3] / "edges.py"


# --- Arrays from strangers --------------------------------------------------------------------------------

TYPES = st.sampled_from(["f2", "f4", "f8", "i8", "i4", "u1", "?", "c8"])
SHAPES = st.lists(st.integers(0, 3), max_size=3).map(tuple)
ARRAYS = st.tuples(TYPES, SHAPES, st.sampled_from([0, 1, -1, 255, 1e30, float("nan"), float("inf")]))
KEYS = st.sampled_from([
    "log_policy", "scales", "net.1.weight", "net.1.bias", "net.3.weight", "net.3.bias", "net.0.scale",
    "net.x", "net.activation", "low", "high", "temperature", "prior.scales", "prior.net.1.weight",
    "prior.low", "prior.", "",
])  # fmt: skip


def make_array(given):
    dtype, shape, value = given
    with np.errstate(all="ignore"):
        return np.full(shape, value).astype(dtype)


@pytest.fixture(name="cartpole", scope="module")
def _cartpole():
    return load_environment("CartPole-v1")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@given(changes=st.dictionaries(KEYS, ARRAYS, max_size=4), kept=st.booleans())
def test_any_arrays_are_a_policy_or_refused_in_a_sentence(cartpole, changes, kept):
    from deep.nets import mlp
    from deep.policies import DiscretePolicy

    own = {
        load_task("carpet"): load_task("carpet").prior.arrays(),
        cartpole: DiscretePolicy(mlp([4, 3, 2], 0)).arrays(),
    }
    for task, arrays in own.items():
        changed = {name: make_array(array) for name, array in changes.items()}
        found = {**(arrays if kept else {}), **changed}
        try:
            policy = task.load_policy(found)
        except ValueError as error:
            assert is_refusal(error), repr(error)  # and not numpy's or torch's words
            assert len(str(error)) < 2_000
        else:
            assert hasattr(policy, "log_prob")
