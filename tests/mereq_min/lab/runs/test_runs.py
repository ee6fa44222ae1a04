"""Runs on disk: lossless, atomic, resumable, never overwritten by accident, never unpickled."""

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from mereq_min import LoopConfig, Steps, runs
from mereq_min.lab.plugins import load_task
from mereq_min.lab.runs.files import RunError
from mereq_min.lab.runs.records import read_config, read_rows, read_steps
from mereq_min.lab.runs.run import RunConfig, run

LOOP = LoopConfig(iterations=3, steps_per_iteration=80)


def config(method="MEReQ-L", seed=0, loop=LOOP):
    return RunConfig("carpet", method, seed, loop)


def contents(path):
    """Everything but the wall times, which are never twice the same."""
    return {file.name: file.read_bytes() for file in path.iterdir() if file.name != "seconds.json"}


@pytest.fixture(name="task", scope="module")
def _task():
    return load_task("carpet")


class Killed(BaseException):
    """Stands for kill -9: nothing after it runs."""


@pytest.fixture(name="interrupted", scope="module")
def _interrupted(task, tmp_path_factory):
    """Killed after two of three iterations."""

    def kill(row):
        if row["iteration"] == 2:
            raise Killed

    out = tmp_path_factory.mktemp("interrupted")
    with pytest.raises(Killed):
        run(task, config(), out, on_iteration=kill)
    return out / "carpet/MEReQ-L/seed0"


@pytest.fixture(name="finished", scope="module")
def _finished(task, tmp_path_factory):
    return run(task, config(), tmp_path_factory.mktemp("runs"))


def test_a_run_folder_holds_what_the_readme_says(finished):
    assert finished.parts[-3:] == ("carpet", "MEReQ-L", "seed0")
    assert sorted(file.name for file in finished.iterdir()) == [
        "checkpoint-003.safetensors",
        "config.json",
        "iterations.jsonl",
        "policy.safetensors",
        "seconds.json",
        "steps-001.safetensors",
        "steps-002.safetensors",
        "steps-003.safetensors",
    ]
    written = read_config(finished)
    assert written["config"]["loop"]["steps_per_iteration"] == 80
    assert {"python", "numpy", "scipy", "mereq-min"} <= set(written["versions"])
    assert "git" in written


def test_rows_are_plain_json_with_the_promised_keys(finished, task):
    for line in (finished / "iterations.jsonl").read_text().splitlines():
        row = json.loads(line, parse_constant=pytest.fail)  # NaN and Infinity are not JSON
        assert {"iteration", "intervention_rate", "expert_samples", "theta"} <= set(row)
        assert len(row["theta"]) == len(task.feature_names)
    assert [row["steps"] for row in read_rows(finished)] == [80, 160, 240]


def test_rows_agree_with_the_steps_on_disk(finished):
    total = 0
    for row in read_rows(finished):
        steps = read_steps(finished, row["iteration"])
        total += int(steps.is_intervention.sum())
        assert row["intervention_rate"] == steps.intervention_rate
        assert row["expert_samples"] == total


def test_steps_are_saved_without_loss(tmp_path):
    rng = np.random.default_rng(0)
    n = 7
    steps = Steps(
        state=rng.standard_normal((n, 3)).astype(np.float32),
        action=np.asfortranarray(rng.standard_normal((n, 2))),
        policy_action=rng.standard_normal((n, 2)),
        features=rng.standard_normal((4, n)).T,  # not contiguous
        is_intervention=rng.random(n) < 0.5,
        episode=np.zeros(n, dtype=np.int64),
        t=np.arange(n),
        terminated=np.zeros(n, dtype=bool),
        truncated=np.arange(n) == n - 1,
        policy_version=np.full(n, 2),
    )
    runs.save_arrays(tmp_path / "steps-001.safetensors", steps.columns())
    again = read_steps(tmp_path, 1)
    for name, column in steps.columns().items():
        np.testing.assert_array_equal(column, again.columns()[name])
        assert column.dtype == again.columns()[name].dtype


@pytest.mark.parametrize("method", ["MEReQ-L", "MEReQ", "MaxEnt", "IWR-FT"])
@pytest.mark.parametrize("writes", [1, 3, 5, 8, 10])
def test_a_run_killed_at_any_write_ends_bit_identical(task, tmp_path, monkeypatch, method, writes):
    unbroken = run(task, config(method), tmp_path / "unbroken")
    real, left = runs.write_file, iter(range(writes))

    def write_until_killed(file, data):
        if next(left, None) is None:
            file.with_name(f".{file.name}.part").write_bytes(data[: len(data) // 2])
            raise Killed
        real(file, data)

    with monkeypatch.context() as patch:
        patch.setattr(runs, "write_file", write_until_killed)
        with pytest.raises(Killed):
            run(task, config(method), tmp_path / "broken")
    resumed = run(task, config(method), tmp_path / "broken")
    after = {name: data for name, data in contents(resumed).items() if not name.startswith(".")}
    assert after == contents(unbroken)


def test_a_thresholded_run_ends_bit_identical_too(task, tmp_path):
    """Its last row is written without an update."""
    stops = config(loop=LoopConfig(iterations=6, steps_per_iteration=250, threshold=0.05))
    unbroken = run(task, stops, tmp_path / "unbroken")
    assert len(read_rows(unbroken)) == 2

    def kill(row):
        raise Killed

    with pytest.raises(Killed):
        run(task, stops, tmp_path / "broken", on_iteration=kill)
    resumed = run(task, stops, tmp_path / "broken")
    assert contents(resumed) == contents(unbroken)


def test_a_run_that_failed_before_its_first_iteration_claims_nothing(task, tmp_path):
    class BrokenError(Exception):
        pass

    class BrokenTask:
        def __getattr__(self, name):
            if name == "make_env":
                raise BrokenError
            return getattr(task, name)

    with pytest.raises(BrokenError):
        run(BrokenTask(), config(loop=LoopConfig(iterations=9)), tmp_path)
    assert len(read_rows(run(task, config(), tmp_path))) == 3


def test_an_edited_task_is_not_taken_for_the_one_that_was_run(task, finished):
    edited = dataclasses.replace(task, expert_weights=task.expert_weights - 1.0)
    with pytest.raises(RunError, match=r"definition.expert_weights .* there, .* now"):
        run(edited, config(), finished.parents[2])


@pytest.mark.parametrize(("name", "value"), [("seed", -1), ("seed", 1.5), ("method", "mereq")])
def test_a_config_that_names_nothing_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be"):
        RunConfig("carpet", **{name: value})


def test_a_finished_run_is_left_as_it_is(task, finished):
    before, seen = contents(finished), []
    run(task, config(), finished.parents[2], on_iteration=seen.append)
    assert contents(finished) == before
    assert seen == read_rows(finished)


def test_a_finished_run_costs_nothing_more(finished):
    class Definition:
        """A task that says what it is and can do nothing."""

        def __getattr__(self, name):
            if name.startswith("make"):
                pytest.fail(f"asked to {name}")
            return getattr(load_task("carpet"), name)

    run(Definition(), config(), finished.parents[2])


def test_each_iteration_is_timed_and_a_pause_does_not_count(task, tmp_path, monkeypatch):
    """On a clock that moves while learners are made and policies evaluated, and by an hour in between.

    Making the learner belongs to the first iteration, making it again to resume belongs to none.
    """
    now = 0.0
    monkeypatch.setattr(runs.time, "perf_counter", lambda: now)

    class SlowTask:
        def __getattr__(self, name):
            return getattr(task, name)

        def evaluate(self, policy):
            nonlocal now
            now += 10.0
            return task.evaluate(policy)

        def make_learner(self, *arguments, **options):
            nonlocal now
            now += 100.0
            return task.make_learner(*arguments, **options)

    def interrupt(row):
        nonlocal now
        if row["iteration"] == 2 and now < 3600:
            now += 3600.0
            raise Killed

    with pytest.raises(Killed):
        run(SlowTask(), config(), tmp_path, on_iteration=interrupt)
    path = run(SlowTask(), config(), tmp_path)
    assert runs.read_seconds(path) == {1: 110.0, 2: 10.0, 3: 10.0}


def test_other_settings_in_the_same_folder_are_refused_unless_asked(task, finished, tmp_path):
    out = tmp_path / "runs"
    shutil.copytree(finished.parents[2], out)
    other = config(loop=LoopConfig(iterations=1, steps_per_iteration=80))
    with pytest.raises(RunError, match=r"\(config.loop.iterations 3 there, 1 now\): choose another --out"):
        run(task, other, out)
    assert len(read_rows(out / "carpet/MEReQ-L/seed0")) == 3
    assert len(read_rows(run(task, other, out, overwrite=True))) == 1


def test_a_folder_that_is_no_run_is_not_touched(task, tmp_path):
    mine = tmp_path / "carpet/MEReQ-L/seed0/thesis.tex"
    mine.parent.mkdir(parents=True)
    mine.write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(RunError, match="not empty and not a run"):
            run(task, config(), tmp_path, overwrite=overwrite)
    assert mine.read_text() == "years of work"


HEADER = b'{"theta":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}'
BFLOAT16 = len(HEADER).to_bytes(8, "little") + HEADER + bytes(2)
"""A file of numbers that numpy does not know."""


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("iterations.jsonl", lambda data: data[:-20]),
        ("iterations.jsonl", lambda data: data.split(b"\n", 1)[1]),
        ("config.json", lambda data: data[: len(data) // 2]),
        ("steps-002.safetensors", lambda data: data[: len(data) // 2]),
        ("steps-002.safetensors", lambda data: None),
        ("seconds.json", lambda data: b"[1, 2]"),
        ("checkpoint-002.safetensors", lambda data: b"\x80\x04N."),  # a pickle
        ("checkpoint-002.safetensors", lambda data: runs.save({"theta": np.zeros(2)})),
        ("checkpoint-002.safetensors", lambda data: None),
        ("checkpoint-002.safetensors", lambda data: BFLOAT16),
    ],
)
def test_damage_is_named_with_what_to_do(task, interrupted, tmp_path, file, damage):
    out = tmp_path / "runs"
    shutil.copytree(interrupted.parents[2], out)
    path = out / "carpet/MEReQ-L/seed0"
    data = damage((path / file).read_bytes())
    (path / file).unlink() if data is None else (path / file).write_bytes(data)
    with pytest.raises(RunError, match=rf"{file} is missing or damaged .* pass --overwrite to run it again"):
        run(task, config(), out)


@pytest.mark.parametrize("file", ["config.json", "iterations.jsonl", "steps-001.safetensors"])
def test_a_kill_in_the_middle_of_any_write_loses_nothing(task, tmp_path, monkeypatch, file):
    def killed(temporary, target):
        if target.name == file:
            raise KeyboardInterrupt
        return replace(temporary, target)

    replace = Path.replace
    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        run(task, config(), tmp_path / "killed")
    monkeypatch.undo()
    paths = [run(task, config(), tmp_path / out) for out in ("killed", "whole")]
    assert read_rows(paths[0]) == read_rows(paths[1])
    assert not list(paths[0].glob(".*"))


def test_a_bundle_holds_every_run(finished, tmp_path):
    file = tmp_path / "carpet.jsonl.gz"
    runs.bundle(runs.find_runs(finished.parents[2]), file)
    (record,) = runs.read_bundle(file)
    assert record["iterations"] == read_rows(finished)
    assert record["config"] == read_config(finished)["config"]
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(RunError, match=r"carpet.jsonl.gz is missing or damaged"):
        list(runs.read_bundle(file))


def read_events(folder):
    """Every scalar in TensorBoard's files as TensorBoard reads it, {(tag, iteration): value}."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0}).Reload()
    return {
        (tag, event.step): tensor_util.make_ndarray(event.tensor_proto).item()
        for tag in events.Tags()["tensors"]
        for event in events.Tensors(tag)
    }


def test_tensorboard_shows_every_number_of_the_rows_and_nothing_else(task, finished, tmp_path):
    rows = read_rows(finished)
    rows[1]["standard_errors"][2] = None  # not known
    rows[2]["reward_distance"] = None
    expected = {}
    for row in rows:
        for key, value in row.items():
            entries = (
                [(f"{key}/{task.feature_names[k]}", entry) for k, entry in enumerate(value)]
                if isinstance(value, list)
                else [(key, value)]
            )
            expected |= {(tag, row["iteration"]): float(entry) for tag, entry in entries if entry is not None}
    for _ in range(2):  # the second time in place of the first
        runs.write_events(tmp_path / "tensorboard", rows, task.feature_names)
        found = read_events(tmp_path / "tensorboard")
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert found[name] == np.float32(value), name


def test_tensorboard_is_asked_for_where_it_is_missing(task, finished, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.summary", None)
    with pytest.raises(RunError, match=r"--tensorboard needs TensorBoard; pip install 'mereq-min\[deep\]'"):
        runs.write_events(tmp_path, read_rows(finished), task.feature_names)


def test_what_is_not_a_run_is_named(tmp_path):
    with pytest.raises(RunError, match="is not a run: it has no config"):
        read_config(tmp_path)
