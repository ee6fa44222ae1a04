"""One writer at a time: the second is told who the first is, and settings never mix."""

import contextlib
import dataclasses
import functools
import os
import re
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
from tiny import make_tiny

from mereq_min import LoopConfig
from mereq_min.lab.plugins import load_task
from mereq_min.lab.runs.config import RunConfig, run_folder
from mereq_min.lab.runs.files import RunError
from mereq_min.lab.runs.lock import hold
from mereq_min.lab.runs.records import read_config, read_rows
from mereq_min.lab.runs.run import discard, run
from mereq_min.lab.runs.sweep import Sweep

MEREQ = Path(sys.executable).with_name("mereq")
LOOP = LoopConfig(iterations=2, steps_per_iteration=25)
CONFIG = RunConfig("carpet", "MEReQ-L", 0, LOOP)

HOLDER = """
import sys
from pathlib import Path
from mereq_min.lab.runs.lock import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(name="held")
def _held(tmp_path):
    """A finished run whose lock another process holds; returns its folder and that process."""
    path = run(load_task("carpet"), CONFIG, tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield path, process
    process.communicate("\n")


def test_who_holds_a_run_is_named_until_that_process_is_gone(held, tmp_path):
    path, process = held
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    task, other = (
        load_task("carpet"),
        dataclasses.replace(CONFIG, loop=dataclasses.replace(LOOP, iterations=1)),
    )
    who = re.escape(f"{path} is being written by process {process.pid} on {socket.gethostname()}; wait until")
    for attempt in (
        lambda: run(task, CONFIG, tmp_path),
        lambda: run(task, other, tmp_path),
        lambda: run(task, other, tmp_path, overwrite=True),
        lambda: discard(path),
    ):
        with pytest.raises(RunError, match=who):
            attempt()
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    process.kill()
    process.wait()
    assert len(read_rows(run(task, other, tmp_path, overwrite=True))) == 1


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_sweep_reports_a_run_that_another_process_holds_and_goes_on(held, tmp_path, overwrite):
    path, process = held
    configs = [CONFIG, dataclasses.replace(CONFIG, seed=1)]
    failures = Sweep(configs, tmp_path, workers=1).run(overwrite=overwrite)
    assert list(failures) == [path]
    assert f"is being written by process {process.pid} on" in failures[path]
    assert len(read_rows(run_folder(tmp_path, configs[1]))) == 2


def test_a_lock_is_held_once_in_a_process_too_and_is_free_after_an_error(tmp_path):
    path = tmp_path / "a/run"
    with hold(path), pytest.raises(RunError, match=f"process {os.getpid()} on"), hold(path):
        pytest.fail("held twice")
    with pytest.raises(ZeroDivisionError), hold(path):
        raise ZeroDivisionError
    with hold(path):
        pass
    assert not path.exists()
    assert (tmp_path / "a/.run.lock").read_bytes() == b""


@pytest.mark.parametrize("plant", [os.symlink, os.link])
def test_a_planted_link_is_not_taken_for_a_lock_file(tmp_path, plant):
    mine = tmp_path / "mine"
    mine.write_text("years of work")
    plant(mine, tmp_path / ".run.lock")
    with pytest.raises((RunError, OSError)), hold(tmp_path / "run"):
        pytest.fail("held")
    assert mine.read_text() == "years of work"


# --- Two processes ---------------------------------------------------------------------------------------

WAITING = """
import time
from pathlib import Path

class Expert:
    patience = 1
    def __init__(self, task):
        pass
    def reset(self, rng):
        Path("begun").touch()
        while not Path("go").exists():
            time.sleep(0.01)
    def intervene(self, state, policy_action):
        return None
"""


@contextlib.contextmanager
def align(cwd, steps, *more):
    command = [
        MEREQ,
        "align",
        "carpet",
        "--method",
        "MEReQ-L",
        "--iterations",
        "2",
        "--expert",
        "waiting:Expert",
    ]
    command += ["--steps-per-iteration", str(steps), *more]
    with subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(file, process):
    deadline = time.monotonic() + 120
    while not file.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_of_two_aligns_into_one_folder_one_runs_and_the_other_ends_with_a_sentence(tmp_path):
    (tmp_path / "waiting.py").write_text(WAITING)
    with align(tmp_path, 20) as first:
        wait_for(tmp_path / "begun", first)
        for more in ([], ["--overwrite"]):
            with align(tmp_path, 30, *more) as second:
                said, _ = second.communicate(timeout=120)
            assert second.returncode == 1
            said = said.splitlines()[-1]  # above it stands the bar of progress
            assert f"is being written by process {first.pid} on {socket.gethostname()}; wait until" in said
        (tmp_path / "go").touch()
        first.communicate(timeout=120)
    assert first.returncode == 0
    path = tmp_path / "runs/carpet/MEReQ-L/seed0"
    assert read_config(path)["config"]["loop"]["steps_per_iteration"] == 20
    assert [row["steps"] for row in read_rows(path)] == [20, 40]


def race(works):
    """Do all works at once, each in a child process; returns the exit code of each, 3 for a `RunError`."""
    ready, go = os.pipe()
    children = []
    for work in works:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside idle threads of BLAS
            child = os.fork()
        if child == 0:
            os.close(go)
            os.read(ready, 1)  # returns in all of them when the other end is closed
            try:
                work()
            except RunError:
                os._exit(3)
            except BaseException:
                os._exit(1)
            os._exit(0)
        children.append(child)
    os.close(go)
    os.close(ready)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


@pytest.mark.slow
def test_settings_never_mix_when_two_processes_race_for_a_folder(tmp_path):
    """Whoever comes second finds the folder held, or the finished run of the first."""
    task = make_tiny()
    configs = [
        RunConfig("tiny", "MEReQ-L", 0, dataclasses.replace(LOOP, steps_per_iteration=steps))
        for steps in (20, 30)
    ]
    whole = [contents(run(task, config, tmp_path / str(i))) for i, config in enumerate(configs)]
    codes = []
    for i in range(40):
        out = tmp_path / f"race{i}"
        works = [functools.partial(run, task, config, out) for config in configs]
        codes.append(sorted(race(works)))
        assert codes[-1] == [0, 3]
        assert contents(run_folder(out, configs[0])) in whole
        same = [functools.partial(run, task, configs[0], out, overwrite=True)] * 3
        assert set(race(same)) <= {0, 3}
        assert contents(run_folder(out, configs[0])) == whole[0]
    print(f"{len(codes)} races of two settings, {len(codes)} of three overwriting: none mixed, none died")


def contents(path):
    return {
        file.name: file.read_bytes()
        for file in path.iterdir()
        if file.name not in ("seconds.json", "config.json")  # versions and git hash
    }


@pytest.mark.slow
def test_a_killed_run_leaves_no_lock(tmp_path):
    (tmp_path / "waiting.py").write_text(WAITING)
    with align(tmp_path, 20) as first:
        wait_for(tmp_path / "begun", first)
    (tmp_path / "go").touch()
    with align(tmp_path, 20) as second:
        said, _ = second.communicate(timeout=120)
    assert second.returncode == 0, said
