"""The command line as a user types it, in a process of its own."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, version
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

import gridworlds
from gridworlds import TabularOracle
from mereq_min import EstimatorConfig, FeatureMatchingConfig, LoopConfig, Settings
from mereq_min.experts import PRESETS
from mereq_min.lab import plugins
from mereq_min.lab.commands import main as main_module
from mereq_min.lab.commands.align import Align
from mereq_min.lab.commands.main import COMMANDS, SUMMARIES, main
from mereq_min.lab.commands.sweep import Compare
from mereq_min.lab.plugins import UsageError, load_task
from mereq_min.lab.runs import calibration
from mereq_min.lab.runs.calibration import Calibration
from mereq_min.lab.runs.records import find_runs, read_bundle, read_config, read_rows
from mereq_min.lab.runs.run import load_run_task
from mereq_min.lab.show.film import film
from mereq_min.policies import UniformPolicy

MEREQ = Path(sys.executable).with_name("mereq")
SHORT = ("--iterations", "2", "--steps-per-iteration", "60")
ENVIRONMENT = {**os.environ, "COLUMNS": "160", "OMP_NUM_THREADS": "1"}


def mereq(*arguments, cwd):
    command = [MEREQ, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)


def test_help_names_every_command_and_setting(tmp_path):
    shown = mereq("--help", cwd=tmp_path)
    assert shown.returncode == 0
    listed = dict(re.findall(r"^  ([a-z-]+) {2,}(.+)$", shown.stdout, flags=re.MULTILINE))
    assert {name: listed[name] for name in COMMANDS} == {
        name: command.summary for name, command in COMMANDS.items()
    }
    assert listed["pretrain"] == SUMMARIES["pretrain"]
    shown = mereq("align", "--help", cwd=tmp_path).stdout
    settings = ("--seed", "--out", "--method", "--overwrite", "--steps-per-iteration", "--threshold")
    ours = ("--prior", "--expert", "--temperature", "--prior-weight", "--demonstrations")
    for option in (*settings, *ours, "--accumulate", "--no-accumulate"):
        assert option in shown


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_can_be_imported_and_says_what_it_does(command, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([command, "--help"])
    assert exit_.value.code == 0
    assert f"usage: mereq {command}" in capsys.readouterr().out


def test_the_version_is_that_of_the_distribution(tmp_path):
    assert mereq("--version", cwd=tmp_path).stdout == f"mereq-min {version('mereq-min')}\n"


def test_without_a_command_help_is_shown(capsys):
    assert main([]) == 2
    assert "commands:" in capsys.readouterr().err


def processor_seconds(*arguments, cwd):
    before = os.times()
    assert mereq(*arguments, cwd=cwd).returncode == 0
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def test_help_and_the_list_of_tasks_are_quick(tmp_path):
    """At one of three tries, since a busy machine takes longer."""
    assert any(processor_seconds("--help", cwd=tmp_path) < 0.5 for _ in range(3))
    assert any(processor_seconds("tasks", cwd=tmp_path) < 2.0 for _ in range(3))


def test_a_command_whose_package_is_missing_says_how_to_install_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "deep.pretrain", None)
    assert main(["pretrain"]) == 2
    assert "pip install -e '.[deep]'" in capsys.readouterr().err


def test_debug_shows_the_traceback_of_any_error():
    with pytest.raises(ValueError, match="unknown task 'carpte'"):
        main(["--debug", "align", "carpte"])


RECORDED = Settings(
    LoopConfig(iterations=4, steps_per_iteration=70),
    EstimatorConfig(accumulate=False, matching=FeatureMatchingConfig(max_steps=7)),
)


@pytest.fixture(name="aligned")
def _aligned(monkeypatch):
    """The commands that `mereq align` would have run, on a task that has recorded settings."""
    task = replace(load_task("carpet"), recorded_settings=RECORDED)
    monkeypatch.setattr("mereq_min.lab.commands.align.load_task", lambda name: task)
    asked = []
    monkeypatch.setattr(Align, "__call__", lambda self: asked.append(self) or 0)
    return asked


def test_recorded_settings_of_a_task_are_the_defaults_of_align(aligned):
    assert main(["align", "carpet", "--seed", "3"]) == 0
    assert main(["align", "--max-steps", "9", "--accumulate", "carpet", "--iterations", "10"]) == 0
    first, other = aligned
    assert (first.loop, first.estimators) == (RECORDED.loop, RECORDED.estimators)
    assert first.seed == 3
    assert main(["align", "carpet", "--overwrite", "--tensorboard"]) == 0
    assert aligned.pop().overwrite
    assert other.loop == LoopConfig(
        iterations=10, steps_per_iteration=70
    )  # 10 was typed, general default or not
    assert other.estimators == EstimatorConfig(matching=FeatureMatchingConfig(max_steps=9))


def test_a_task_without_recorded_settings_has_the_general_defaults(monkeypatch):
    asked = []
    monkeypatch.setattr(Align, "__call__", lambda self: asked.append(self) or 0)
    assert main(["align", "carpet", "--out", "bottle"]) == 0
    assert (asked[0].loop, asked[0].estimators) == (LoopConfig(), EstimatorConfig())


# --- Experts who err ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [Align, Compare])
def test_imperfections_have_a_name_and_single_ones_can_be_changed(command, monkeypatch):
    asked = []
    monkeypatch.setattr(command, "__call__", lambda self: asked.append(self) or 0)
    name = command.__name__.lower()
    human = ["--imperfections", "human"]
    for options in ([], human, [*human, "--miss-rate", "0.4", "--iterations", "3"]):
        assert main([name, "carpet", *options]) == 0
    plain, human, changed = (each.loop for each in asked)
    assert plain == LoopConfig()
    assert human == LoopConfig(imperfections=PRESETS["human"])
    assert changed == LoopConfig(3, imperfections=replace(PRESETS["human"], miss_rate=0.4))


def test_unknown_imperfections_are_refused_with_the_names_that_there_are(capsys):
    assert main(["align", "carpet", "--imperfections", "humann"]) == 2
    assert "human" in capsys.readouterr().err


def test_human_runs_are_compared_beside_ideal_ones(call, tmp_path):
    short = ("--seeds", 2, "--iterations", 2, "--steps-per-iteration", 60, "--workers", 1)
    chosen = ("--methods", "MEReQ", "MEReQ-R", "--out", tmp_path)
    for options in ((), ("--imperfections", "human")):
        shown = call("compare", "carpet", *short, *chosen, *options)
        assert shown.returncode == 0, shown.stderr
        assert "lasting results" in shown.stdout
    assert {path.name for path in tmp_path.glob("*.jsonl.gz")} == {"carpet.jsonl.gz", "carpet-human.jsonl.gz"}


# --- Tasks -----------------------------------------------------------------------------------------------


def test_tasks_shows_the_calibration_that_is_kept(call):
    shown = call("tasks")
    assert shown.returncode == 0, shown.stderr
    kept = calibration.read(Path(gridworlds.__file__).with_name("calibration.json"))
    for name in ("carpet", "lanes", "shelf", "windy"):
        (line,) = (line for line in shown.stdout.splitlines() if f" {name} " in line)
        assert f"{kept[name].prior_rate:.3f}" in line
        assert f"{kept[name].expert_success:.3f}" in line


@pytest.mark.parametrize("name", ["carpet", "lanes", "shelf", "windy"])
def test_what_is_kept_is_what_is_measured(name):
    kept = calibration.read(Path(gridworlds.__file__).with_name("calibration.json"))[name]
    assert calibration.measure(load_task(name), kept.steps, kept.seed) == kept


def test_every_task_of_the_gridworlds_is_kept():
    assert set(calibration.read(Path(gridworlds.__file__).with_name("calibration.json"))) == set(
        gridworlds.TASKS
    )


@pytest.fixture(name="package")
def _package(tmp_path, monkeypatch):
    """A package of one's own with two tasks, one of them without an oracle; returns its folder."""
    folder = tmp_path / "own_tasks"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "import dataclasses\n"
        "from gridworlds import TASKS as known\n"
        "def alone():\n"
        "    return dataclasses.replace(known['carpet'](), name='alone', oracle=None)\n"
        "TASKS = {'alone': alone, 'carpet': known['carpet']}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    entry = EntryPoint("own", "own_tasks:TASKS", "mereq_min.tasks")
    monkeypatch.setattr("mereq_min.lab.commands.tasks.find_entries", lambda group: [entry])
    monkeypatch.setattr(plugins, "task_factories", entry.load)
    plugins.find_task.cache_clear()
    yield folder
    plugins.find_task.cache_clear()


def test_tasks_measures_and_records_beside_the_package(package, capsys):
    assert main(["tasks"]) == 0
    assert capsys.readouterr().out.count(" - ") == 10
    assert main(["tasks", "--measure", "--steps", "300"]) == 0
    assert not (package / "calibration.json").exists()
    assert main(["tasks", "carpet", "--measure", "--record", "--steps", "300", "--seed", "2"]) == 0
    kept = calibration.read(package / "calibration.json")
    assert kept == {"carpet": calibration.measure(load_task("carpet"), 300, 2)}
    assert kept["carpet"].wish == {"carpet": -1.0}
    capsys.readouterr()
    assert main(["tasks"]) == 0
    printed = capsys.readouterr().out
    assert printed.count(" - ") == 5  # the task without an oracle
    assert f"{kept['carpet'].prior_rate:.3f}" in printed
    assert main(["tasks", "carpte"]) == 2
    assert main(["tasks", "--record"]) == 2


def test_a_calibration_comes_back_and_damage_is_named(tmp_path):
    file = tmp_path / "calibration.json"
    assert calibration.read(file) == calibration.read(None) == {}
    numbers = {"it": Calibration({"a": 0.5}, 0.3, 0.0, None, 1.0, 100, 0)}
    calibration.write(file, numbers)
    assert calibration.read(file) == numbers
    file.write_text('{"it": {"prior_rate": 0.3}}')
    with pytest.raises(ValueError, match=r"calibration.json is damaged .*--measure --record"):
        calibration.read(file)


def test_a_package_is_not_imported_to_find_its_calibration(tmp_path, monkeypatch):
    (tmp_path / "untouched/inside").mkdir(parents=True)
    (tmp_path / "untouched/__init__.py").write_text("raise SystemExit('imported')\n")
    (tmp_path / "plain_module.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    entry = EntryPoint("it", "untouched.inside:TASKS", "mereq_min.tasks")
    assert calibration.find_file(entry) == tmp_path / "untouched/calibration.json"
    assert calibration.find_file(EntryPoint("it", "plain_module:TASKS", "mereq_min.tasks")) is None


def test_without_the_extras_the_tasks_that_need_them_are_named_and_left_out(monkeypatch, capsys):
    for simulator in ("highway", "fanuc"):
        monkeypatch.setitem(sys.modules, f"deep.{simulator}.task", None)  # as if its packages were missing
        if simulator in vars(sys.modules.get("deep", main_module)):
            monkeypatch.delattr(f"deep.{simulator}.task", raising=False)
    plugins.find_task.cache_clear()
    assert main(["tasks", "carpet", "highway", "bottle", "--measure", "--steps", "200"]) == 0
    printed = capsys.readouterr()
    assert "carpet" in printed.out
    assert "highway" not in printed.out
    assert "bottle" not in printed.out
    assert "pip install -e '.[deep]'" in printed.err
    assert main(["align", "highway"]) == 2
    assert "pip install -e '.[deep]'" in capsys.readouterr().err
    plugins.find_task.cache_clear()


# --- Align and show --------------------------------------------------------------------------------------


def test_align_writes_a_run_that_show_shows_and_a_second_call_keeps(tmp_path, call):
    first = mereq("align", "carpet", "--seed", 3, "--out", "here", *SHORT, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    path = tmp_path / "here/carpet/MEReQ-R/seed3"
    rows = [json.loads(line) for line in (path / "iterations.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [1, 2]
    assert f"{rows[-1]['intervention_rate']:.3f}" in first.stdout
    stamp = (path / "iterations.jsonl").stat().st_mtime_ns
    again = call("align", "carpet", "--seed", 3, "--out", "here", *SHORT)
    assert again.returncode == 0
    assert (path / "iterations.jsonl").stat().st_mtime_ns == stamp
    shown = call("show", path)
    assert shown.returncode == 0
    assert "Before and after" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("align", "carpte"), 2, r"unknown task 'carpte'; did you mean 'carpet'\?"),
        (("align", "carpet", "--method", "mereq"), 2, r"unknown method 'mereq'; did you mean 'MEReQ'\?"),
        (("compare", "carpet", "--methods", "IWR"), 2, r"unknown method 'IWR'.*'IWR-FT'"),
        (("compare", "carpet", "--seeds", "0"), 1, "seeds must be an integer at least 1"),
        (("reproduce", "--tasks", "bottles"), 2, "unknown task 'bottles'"),
        (
            ("reproduce", "--tasks", "carpet", "--iterations", "0"),
            1,
            "iterations must be .* at least 1, got 0",
        ),
        (("compare", "carpet", "--engine", "rya"), 2, "local.*ray|rya"),
        (("figures", "--runs", "nowhere"), 2, "no finished runs in nowhere; `mereq reproduce` makes them"),
        (("align", "no_such_module:task"), 2, "cannot load task 'no_such_module:task'"),
        (("align", "math:pi"), 2, "cannot load task 'math:pi'"),
        (
            ("align", "os:getcwd"),
            2,
            "it is of type str, which has no make_learner; see mereq_min.interfaces.Task",
        ),
        (("align", "carpet", "--seed", "-1"), 1, "seed must be an integer at least 0, got -1"),
        (("align", "carpet", "--max-steps", "0"), 2, "max_steps must be an integer at least 1, got 0"),
        (("align", "carpet", "--prior-sd", "-1"), 2, "prior_sd must be a finite number above 0, got -1"),
        (("align", "carpet", "--out", "/dev/null"), 1, "/dev/null"),
        (("align",), 2, "TASK|required"),
        (("align", "carpet", "--iterations", "0"), 2, "iterations must be an integer at least 1, got 0"),
        (("show", "nowhere"), 1, "nowhere is not a run: it has no config.json"),
        (("alinge", "carpet"), 2, r"unknown command 'alinge'; did you mean 'align'\?"),
        (("align", "carpet", "--prior", "piror"), 2, "policy must be prior, expert, random, .*got 'piror'"),
        (("align", "carpet", "--prior", "gone.safetensors"), 2, "cannot load policy 'gone.safetensors'"),
        (
            ("align", "carpet", "--expert", "me"),
            2,
            "expert must be simulated, human or module:attribute, got 'me'",
        ),
        (
            ("align", "carpet", "--expert", "human", "--overwrite"),
            2,
            "--overwrite and --tensorboard do not work with --expert human$",
        ),
        (
            ("align", "carpet", "--expert", "math:pi"),
            2,
            "cannot load expert 'math:pi': it cannot be called with the task: 'float' object is not",
        ),
        (("align", "carpet", "--expert", "builtins:list"), 2, "cannot load expert 'builtins:list'"),
        (("align", "carpet", "--expert", "types:SimpleNamespace"), 2, "cannot load expert"),
        (
            ("align", "carpet", "--expert", "builtins:id"),
            2,
            "it is of type int, which has no reset and no intervene and no patience",
        ),
        (("align", "carpet", "--temperature", "0"), 1, "temperature must be a finite number above 0, got 0"),
        (("align", "carpet", "--prior-weight", "-1"), 1, "prior_weight must be a finite number at least 0"),
        (
            ("align", "carpet", "--demonstrations", "--expert", "a:b"),
            1,
            "demonstrations and imperfections are those of the simulated expert",
        ),
    ],
)
def test_mistakes_get_one_sentence_and_the_right_exit_code(tmp_path, call, arguments, code, message):
    shown = call(*arguments)
    said = shown.stdout + shown.stderr
    assert shown.returncode == code, said
    assert re.search(message, said), said
    assert "Traceback" not in said
    assert find_runs(tmp_path) == []


def test_a_mistake_is_the_exit_code_of_the_process(tmp_path):
    shown = mereq("align", "carpte", cwd=tmp_path)
    assert shown.returncode == 2
    assert "did you mean 'carpet'?" in shown.stderr
    assert "Traceback" not in shown.stderr


def test_align_draws_curve_and_film_and_writes_events_if_asked(tmp_path, call):
    shown = call("align", "carpet", "--method", "MEReQ-L", "--tensorboard", *SHORT)
    assert shown.returncode == 0, shown.stderr
    path, task = tmp_path / "runs/carpet/MEReQ-L/seed0", load_task("carpet")
    with Image.open(path / "curve.png") as picture:
        assert picture.format == "PNG"
    frame = film(task, task.prior, "prior", 0)[0]
    with Image.open(path / "film.gif") as pictures:
        assert pictures.size == (3 * frame.shape[1], frame.shape[0])  # prior, aligned policy and expert
    events = EventAccumulator(str(path / "tensorboard")).Reload()
    rates = [make_ndarray(event.tensor_proto).item() for event in events.Tensors("intervention_rate")]
    assert rates == [np.float32(row["intervention_rate"]) for row in read_rows(path)]


def test_a_task_of_ones_own_is_named_by_module_and_attribute(tmp_path):
    (tmp_path / "mine.py").write_text("from gridworlds import TASKS\nmake = TASKS['carpet']\n")
    shown = mereq("align", "mine:make", "--method", "MEReQ-L", "--out", "runs", *SHORT, cwd=tmp_path)
    assert shown.returncode == 0, shown.stdout + shown.stderr


def test_a_finished_run_goes_on_and_a_folder_of_runs_is_listed(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    short = ["--steps-per-iteration", "60", "--method", "MEReQ-L"]
    assert main(["align", "carpet", "--iterations", "2", *short]) == 0
    assert main(["align", "carpet", "--iterations", "3", *short]) == 0
    assert "had finished before" not in capsys.readouterr().out
    assert main(["align", "carpet", "--iterations", "2", *short]) == 1
    assert "config.loop.iterations 3 there, 2 now" in capsys.readouterr().err
    demonstrated = ["align", "carpet", "--iterations", "2", *short, "--demonstrations", "--no-accumulate"]
    assert main(demonstrated) == 0
    found = read_config(tmp_path / "runs/carpet-demonstrations/MEReQ-L/seed0")["config"]
    assert found["loop"]["demonstrations"] is True
    assert found["estimators"]["accumulate"] is False
    capsys.readouterr()
    assert main(["show", "runs"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "seed0" in line]
    rows = [
        read_rows(tmp_path / f"runs/{name}/MEReQ-L/seed0") for name in ("carpet", "carpet-demonstrations")
    ]
    for line, run, count in zip(lines, rows, ("3 of 3", "2 of 2"), strict=True):
        assert count in line
        assert f"{run[-1]['intervention_rate']:.3f}" in line
        assert f" {run[-1]['expert_samples']} " in line


def test_another_prior_and_temperature_are_named_and_shown_again(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["align", "carpet", *SHORT, "--method", "MaxEnt-FT", "--prior", "random"]
    assert main([*command, "--temperature", "0.2", "--prior-weight", "0.5"]) == 0
    printed = capsys.readouterr().out
    path = tmp_path / "runs/carpet-random/MaxEnt-FT/seed0"
    found = load_run_task(path)
    np.testing.assert_allclose(found.log_prior, -np.log(5), rtol=1e-12)
    assert found.scaled_prior_weight == pytest.approx(0.5 * 0.2)  # the prior's own temperature is unknown
    assert main(["show", str(path.relative_to(tmp_path))]) == 0
    assert capsys.readouterr().out == printed


def test_an_aligned_policy_can_be_the_prior_of_another_run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["align", "carpet", *SHORT, "--method", "MEReQ-L"]) == 0
    file = "runs/carpet/MEReQ-L/seed0/policy.safetensors"
    assert main(["align", "carpet", *SHORT, "--method", "MEReQ-L", "--prior", file]) == 0
    path = tmp_path / "runs/carpet-policy/MEReQ-L/seed0"
    assert (path / "prior.safetensors").read_bytes() == Path(file).read_bytes()


EXPERT = """
import numpy as np

class Expert:
    patience = 2
    def __init__(self, task):
        self.task = task
    def reset(self, rng):
        self.rng = rng
    def intervene(self, state, policy_action):
        return np.int64(4) if self.rng.random() < 0.4 else None

class Blind:
    def __init__(self, task):
        pass
    def intervene(self, state, policy_action):
        return None
"""


def test_an_expert_of_ones_own_watches(capsys, tmp_path, monkeypatch):
    (tmp_path / "my_expert.py").write_text(EXPERT)
    monkeypatch.chdir(tmp_path)
    command = ["align", "carpet", *SHORT, "--method", "MEReQ-L", "--expert"]
    assert main([*command, "my_expert:Blind"]) == 2
    assert "it is of type Blind, which has no reset and no patience" in capsys.readouterr().err
    assert main([*command, "my_expert:Expert"]) == 0
    path = tmp_path / "runs/carpet/MEReQ-L/seed0"
    assert read_config(path)["config"]["expert"] == "my_expert:Expert"
    assert [row["intervention_rate"] for row in read_rows(path)] == pytest.approx([0.4, 0.4], abs=0.2)
    frame = film(load_task("carpet"), load_task("carpet").prior, "prior", 0)[0]
    with Image.open(path / "film.gif") as pictures:
        assert pictures.size == (2 * frame.shape[1], frame.shape[0])  # the expert cannot be filmed


def test_an_oracle_that_trains_its_expert_keeps_it_beside_the_runs(tmp_path):
    """The gridworlds solve theirs: an oracle with a cache stands for the simulators'."""

    @dataclass(frozen=True, eq=False)
    class Caching(TabularOracle):
        cache: Path | None = None

    plain = load_task("carpet")
    oracle = plain.oracle
    caching = Caching(oracle.true_theta, oracle.rule, oracle.patience, oracle.release)
    task = replace(plain, oracle=caching)
    assert plugins.change_task(task, cache=tmp_path).oracle.cache is None
    changed = plugins.change_task(task, temperature=0.2, cache=tmp_path)
    assert changed.oracle.cache == tmp_path
    assert changed.oracle.task is changed
    assert plugins.change_task(plain, temperature=0.2, cache=tmp_path).oracle.task.temperature == 0.2


def test_a_task_that_is_no_dataclass_cannot_be_changed():
    class Fixed:
        name = "fixed"

    with pytest.raises(
        plugins.UsageError, match="does not let temperature be changed: it must be a dataclass"
    ):
        plugins.change_task(Fixed(), temperature=0.2)


def test_compare_tabulates_and_bundles(tmp_path, call):
    methods = ("MEReQ-L", "HG-DAgger-FT")
    shown = call("compare", "carpet", "--methods", *methods, "--seeds", 2, "--out", "c", *SHORT)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert all(method in shown.stdout for method in methods)
    assert len(list(read_bundle(tmp_path / "c/carpet.jsonl.gz"))) == 4


def sweep_command(command, out):
    arguments = ("--methods", "MEReQ-L", "MEReQ", "--iterations", "5", "--steps-per-iteration", "100")
    return [*command, *arguments, "--seeds", "2", "--out", str(out)]


NO_GIT = {**ENVIRONMENT, "GIT_DIR": "/nowhere"}
"""Records without the hash of a working tree that may change meanwhile."""


def interrupt(command, how):
    """Start a sweep and stop it once it has got somewhere; returns its exit code and what it said.

    Ctrl-C reaches its workers too. A kill does not: they must end by themselves, and close what they said.
    """
    out = Path(command[-1])
    process = subprocess.Popen(
        [MEREQ, *command], env=NO_GIT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
        # Whoever runs the tests in the background ignores Ctrl-C, and their children would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    deadline = time.monotonic() + 300  # far more than it takes, for a busy machine
    while not any(len(read_rows(path)) >= 2 for path in find_runs(out)):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (os.killpg if how == signal.SIGINT else os.kill)(process.pid, how)
    said, _ = process.communicate(timeout=60)
    return process.returncode, said


@pytest.mark.parametrize(
    ("command", "how"),
    [(("reproduce", "--tasks", "carpet"), signal.SIGKILL), (("compare", "carpet"), signal.SIGINT)],
    ids=["reproduce-kill", "compare-ctrl-c"],
)
def test_an_interrupted_sweep_resumes_to_the_same_end(tmp_path, monkeypatch, call, command, how):
    code, said = interrupt(sweep_command(command, tmp_path / "broken"), how)
    if how == signal.SIGINT:
        assert code == 130, said
        assert "repeat the command to resume an unfinished run" in said
        assert "Traceback" not in said
    assert find_runs(tmp_path / "broken")
    monkeypatch.setenv("GIT_DIR", NO_GIT["GIT_DIR"])
    for out in ("broken", "unbroken"):
        resumed = call(*sweep_command(command, tmp_path / out), "--workers", 1)
        assert resumed.returncode == 0, resumed.stderr
    bundles = [tmp_path / out / "carpet.jsonl.gz" for out in ("broken", "unbroken")]
    assert len(list(read_bundle(bundles[0]))) == 4
    assert bundles[0].read_bytes() == bundles[1].read_bytes()


def test_overwrite_replaces_even_a_damaged_run_and_one_failure_does_not_stop_a_comparison(tmp_path, call):
    arguments = ("compare", "carpet", "--methods", "MEReQ-L", "--seeds", 2, "--workers", 1, *SHORT)
    assert call(*arguments).returncode == 0
    damaged = tmp_path / "runs/carpet/MEReQ-L/seed1"
    (damaged / "config.json").write_text("{")
    shown = call(*arguments)
    assert shown.returncode == 1
    assert "config.json is missing or damaged" in shown.stderr.replace("\n", "")
    assert "Traceback" not in shown.stderr
    assert (damaged.parent / "seed1.error.txt").exists()
    assert len(list(read_bundle(tmp_path / "runs/carpet.jsonl.gz"))) == 1
    align = ("align", "carpet", "--method", "MEReQ-L", "--seed", 1, "--overwrite", *SHORT)
    assert call(*align).returncode == 0
    assert call(*arguments).returncode == 0
    assert not (damaged.parent / "seed1.error.txt").exists()


@pytest.mark.slow
def test_the_number_of_threads_does_not_show_in_the_results(tmp_path):
    written = []
    for threads in ("1", "2"):
        command = [MEREQ, "align", "carpet", "--out", threads, "--iterations", "2"]
        subprocess.run(
            command,
            cwd=tmp_path,
            env={**ENVIRONMENT, "OMP_NUM_THREADS": threads},
            check=True,
            capture_output=True,
        )
        written.append((tmp_path / threads / "carpet/MEReQ-R/seed0/iterations.jsonl").read_text())
    assert written[0] == written[1]


def test_a_random_prior_leaves_the_same_expert_and_the_whole_reward_to_be_inferred():
    own, task = load_task("carpet"), plugins.prepare_task("carpet", prior="random")
    np.testing.assert_allclose(task.prior.log_policy, -np.log(task.mdp.n_actions))
    assert task.scaled_prior_weight == 0
    np.testing.assert_array_equal(task.oracle.true_theta, own.oracle.true_weights("full"))
    # With omega = 0 the residual solution on theta* is plain soft control of the expert's full reward.
    expert, again = own.oracle.expert_policy.log_policy, task.oracle.expert_policy.log_policy
    np.testing.assert_allclose(again, expert, atol=1e-5)
    measures = [each.evaluate(each.oracle.expert_policy)["expert_return"] for each in (own, task)]
    assert measures[0] == pytest.approx(measures[1], abs=1e-4)


def test_a_random_prior_needs_an_oracle_that_knows_the_full_reward():
    task = load_task("carpet")
    blind = replace(task, oracle=replace(task.oracle, full_weights=None))
    with pytest.raises(UsageError, match="a random prior leaves the whole reward to be inferred"):
        plugins.change_task(blind, prior=UniformPolicy(task.make_env().action_space))
