"""The command line as a user types it, in a process of its own."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tyro
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from mereq_min.lab.commands.align import Align, align_command
from mereq_min.lab.commands.main import main
from mereq_min.lab.plugins import load_task
from mereq_min.lab.runs.records import find_runs, read_bundle, read_rows
from mereq_min.lab.runs.sweep import PAPER
from mereq_min.lab.show.film import film

MEREQ = Path(sys.executable).with_name("mereq")
SHORT = ("--iterations", "2", "--steps-per-iteration", "60")
ENVIRONMENT = {**os.environ, "COLUMNS": "160", "OMP_NUM_THREADS": "1"}


def mereq(*arguments, cwd):
    command = [MEREQ, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)


def test_help_names_every_command_and_setting(tmp_path):
    shown = mereq("--help", cwd=tmp_path)
    assert shown.returncode == 0
    own = ("tasks", "align", "compare", "reproduce", "figures", "show", "evaluate")
    assert all(command in shown.stdout for command in (*own, "pretrain"))
    shown = mereq("align", "--help", cwd=tmp_path).stdout
    for option in ("--seed", "--out", "--method", "--overwrite", "--steps-per-iteration", "--threshold"):
        assert option in shown


def test_align_has_the_recorded_settings_of_a_task_of_the_paper_as_defaults():
    for name in PAPER:
        arguments = ["--steps-per-iteration", "70", name, "--seed", "3"]
        align = tyro.cli(align_command(arguments), args=arguments)
        loop, estimators = PAPER[name]
        assert align == type(align)(task=name, seed=3, loop=replace(loop, steps_per_iteration=70))
        assert align.estimators == estimators
    assert align_command(["carpet", "--out", "bottle"]) is Align


def test_tasks_shows_the_calibration(tmp_path):
    shown = mereq("tasks", "--steps", 200, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert all(name in shown.stdout for name in ("carpet", "lanes", "shelf", "windy"))


def test_without_the_extras_the_tasks_that_need_them_are_named_and_left_out(monkeypatch, capsys):
    for simulator in ("highway", "fanuc"):
        monkeypatch.setitem(sys.modules, f"deep.{simulator}.task", None)  # as if its packages were missing
    load_task.cache_clear()
    assert main(["tasks", "--steps", "200"]) == 0
    printed = capsys.readouterr()
    assert "carpet" in printed.out
    assert "highway" not in printed.out
    assert "bottle" not in printed.out
    assert "pip install 'mereq-min[deep]'" in printed.err
    assert main(["align", "highway"]) == 2
    assert "pip install 'mereq-min[deep]'" in capsys.readouterr().err


def test_align_writes_a_run_that_show_shows_and_a_second_call_keeps(tmp_path):
    first = mereq("align", "carpet", "--seed", 3, "--out", "here", *SHORT, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    path = tmp_path / "here/carpet/MEReQ/seed3"
    rows = [json.loads(line) for line in (path / "iterations.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [1, 2]
    assert f"{rows[-1]['intervention_rate']:.3f}" in first.stdout
    stamp = (path / "iterations.jsonl").stat().st_mtime_ns
    again = mereq("align", "carpet", "--seed", 3, "--out", "here", *SHORT, cwd=tmp_path)
    assert again.returncode == 0
    assert (path / "iterations.jsonl").stat().st_mtime_ns == stamp
    shown = mereq("show", path, cwd=tmp_path)
    assert shown.returncode == 0
    assert "Before and after" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("align", "carpte"), 2, r"unknown task 'carpte'; did you mean 'carpet'\?"),
        (("align", "carpet", "--method", "mereq"), 2, r"unknown method 'mereq'; did you mean 'MEReQ'\?"),
        (("compare", "carpet", "--methods", "IWR"), 2, r"unknown method 'IWR'.*'IWR-FT'"),
        (("compare", "carpet", "--seeds", "0"), 2, "--seeds and --workers must be at least 1"),
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
        (("align", "os:getcwd"), 2, "it makes a str, which is no Task"),
        (("align", "carpet", "--seed", "-1"), 1, "seed must be a whole number at least 0, got -1"),
        (("align", "carpet", "--max-steps", "0"), 2, "max_steps must be a whole number at least 1, got 0"),
        (("align", "carpet", "--prior-sd", "-1"), 2, "prior_sd must be a finite number above 0, got -1"),
        (("align", "carpet", "--out", "/dev/null"), 1, "/dev/null"),
        (("align",), 2, "TASK|required"),
        (("align", "carpet", "--iterations", "0"), 2, "iterations must be a whole number at least 1, got 0"),
        (("show", "nowhere"), 1, "nowhere is not a run: it has no config.json"),
        (("alinge", "carpet"), 2, "alinge|align"),
    ],
)
def test_mistakes_get_one_sentence_and_the_right_exit_code(tmp_path, arguments, code, message):
    shown = mereq(*arguments, cwd=tmp_path)
    said = shown.stdout + shown.stderr
    assert shown.returncode == code, said
    assert re.search(message, said), said
    assert "Traceback" not in said
    assert find_runs(tmp_path) == []


def test_align_draws_curve_and_film_and_writes_events_if_asked(tmp_path):
    shown = mereq("align", "carpet", "--tensorboard", *SHORT, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    path, task = tmp_path / "runs/carpet/MEReQ/seed0", load_task("carpet")
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
    shown = mereq("align", "mine:make", "--out", "runs", *SHORT, cwd=tmp_path)
    assert shown.returncode == 0, shown.stdout + shown.stderr


def test_compare_tabulates_and_bundles(tmp_path):
    methods = ("MEReQ-L", "HG-DAgger-FT")
    shown = mereq(
        "compare", "carpet", "--methods", *methods, "--seeds", 2, "--out", "c", *SHORT, cwd=tmp_path
    )
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert all(method in shown.stdout for method in methods)
    assert len(list(read_bundle(tmp_path / "c/carpet.jsonl.gz"))) == 4


def sweep_command(command, out):
    arguments = ("--methods", "MEReQ-L", "MEReQ", "--iterations", "5", "--steps-per-iteration", "200")
    return [MEREQ, *command, *arguments, "--seeds", "2", "--out", str(out)]


NO_GIT = {**ENVIRONMENT, "GIT_DIR": "/nowhere"}
"""Records without the hash of a working tree that may change meanwhile."""


def interrupt(command, how):
    """Start a sweep and stop it once it has got somewhere; returns its exit code and what it said."""
    out = Path(command[-1])
    process = subprocess.Popen(
        command, env=NO_GIT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
        # Whoever runs the tests in the background ignores Ctrl-C, and their children would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not any(len(read_rows(path)) >= 2 for path in find_runs(out)):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, how)
    said, _ = process.communicate(timeout=60)
    return process.returncode, said


@pytest.mark.parametrize(
    ("command", "how"),
    [(("reproduce", "--tasks", "carpet"), signal.SIGKILL), (("compare", "carpet"), signal.SIGINT)],
    ids=["reproduce-kill", "compare-ctrl-c"],
)
def test_an_interrupted_sweep_resumes_to_the_same_end(tmp_path, command, how):
    code, said = interrupt(sweep_command(command, tmp_path / "broken"), how)
    if how == signal.SIGINT:
        assert code == 130, said
        assert "the same command goes on where it stopped" in said
        assert "Traceback" not in said
    assert find_runs(tmp_path / "broken")
    for out in ("broken", "unbroken"):
        subprocess.run(sweep_command(command, tmp_path / out), env=NO_GIT, check=True, capture_output=True)
    bundles = [tmp_path / out / "carpet.jsonl.gz" for out in ("broken", "unbroken")]
    assert len(list(read_bundle(bundles[0]))) == 4
    assert bundles[0].read_bytes() == bundles[1].read_bytes()


def test_overwrite_replaces_even_a_damaged_run_and_one_failure_does_not_stop_a_comparison(tmp_path):
    arguments = ("compare", "carpet", "--methods", "MEReQ-L", "--seeds", 2, "--out", "runs", *SHORT)
    assert mereq(*arguments, cwd=tmp_path).returncode == 0
    damaged = tmp_path / "runs/carpet/MEReQ-L/seed1"
    (damaged / "config.json").write_text("{")
    shown = mereq(*arguments, cwd=tmp_path)
    assert shown.returncode == 1
    assert "config.json is missing or damaged" in shown.stderr.replace("\n", "")
    assert "Traceback" not in shown.stderr
    assert (damaged.parent / "seed1.error.txt").exists()
    assert len(list(read_bundle(tmp_path / "runs/carpet.jsonl.gz"))) == 1
    align = ("align", "carpet", "--method", "MEReQ-L", "--seed", 1, "--out", "runs", "--overwrite", *SHORT)
    assert mereq(*align, cwd=tmp_path).returncode == 0
    assert mereq(*arguments, cwd=tmp_path).returncode == 0
    assert not (damaged.parent / "seed1.error.txt").exists()


def test_the_number_of_threads_does_not_show_in_the_results(tmp_path):
    written = []
    for threads in ("1", "2"):
        command = [MEREQ, "align", "carpet", "--out", threads, "--iterations", "4"]
        subprocess.run(
            command,
            cwd=tmp_path,
            env={**ENVIRONMENT, "OMP_NUM_THREADS": threads},
            check=True,
            capture_output=True,
        )
        written.append((tmp_path / threads / "carpet/MEReQ/seed0/iterations.jsonl").read_text())
    assert written[0] == written[1]
