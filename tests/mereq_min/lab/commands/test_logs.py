"""`mereq export`, `mereq fit` and `mereq compare --log`, in this process."""

import re
import sys

import pandas as pd
import pytest

from mereq_min.lab.datasets.logs import LogSource
from mereq_min.lab.plugins import load_task
from mereq_min.lab.runs.config import RunConfig
from mereq_min.lab.runs.records import read_config, read_policy, read_rows, read_sealed_rows
from mereq_min.lab.runs.run import run
from mereq_min.lab.show.tables import WATCHED_STEPS
from mereq_min.loop import LoopConfig
from mereq_min.rollout import watch

TASK = "tiny:make_tiny"
RUN = "runs/tiny-make_tiny/MEReQ-L/seed0"


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
    """A working directory with a short run of a task."""
    folder = tmp_path_factory.mktemp("logs")
    run(load_task(TASK), RunConfig(TASK, "MEReQ-L", 0, LoopConfig(2, 80)), folder / "runs")
    return folder


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("csv", "tiny-make_tiny-MEReQ-L-seed0.csv"),
        ("parquet", "tiny-make_tiny-MEReQ-L-seed0.parquet"),
        ("minari", "tiny-make_tiny-MEReQ-L-seed0-v0"),
        ("lerobot", "tiny-make_tiny-MEReQ-L-seed0-lerobot"),
    ],
)
def test_a_run_is_exported_under_a_name_of_its_own(folder, call, kind, name):
    said = call("export", RUN, "--task", TASK, "--format", kind)
    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout.strip() == f"160 steps written to {name}"
    task = load_task(TASK)
    assert (
        LogSource(folder / name).load(task).record.sha256 == LogSource(folder / RUN).load(task).record.sha256
    )
    assert call("export", RUN, "--task", TASK, "--format", kind).returncode == 1  # nothing is overwritten


def test_an_export_can_be_fitted(folder, call):
    assert call("export", RUN, "--task", TASK, "--format", "minari", "--out", "mine-v0").returncode == 0
    command = ("fit", "mine-v0", "--task", TASK, "--method", "MEReQ-L")
    said = call(*command)
    assert said.returncode == 0, said.stderr
    for part in (*load_task(TASK).feature_names, "standard error", "intervention rate"):
        assert part in said.stdout
    fitted = folder / "runs/tiny-make_tiny-log-mine-v0/MEReQ-L/seed0"
    assert [row["theta"] for row in read_rows(fitted)] == [row["theta"] for row in read_rows(folder / RUN)]
    config = read_config(fitted)["config"]
    assert (config["expert"], config["log"]["name"]) == ("recorded", "mine-v0")
    assert (fitted / "curve.png").exists()
    assert (fitted / "film.gif").exists()
    assert "had finished before" in call(*command).stdout


def test_methods_are_fitted_to_one_log_and_rolled_out(folder, call):
    methods = ("IWR-FT", "MEReQ-L")
    options = ("--seeds", "1", "--workers", "1", "--out", "all", "--methods", *methods)
    said = call("compare", TASK, "--log", RUN, *options)
    assert said.returncode == 0, said.stderr
    rows = dict(re.findall(r"^│ (\S+) +│(.*)│$", said.stdout, flags=re.MULTILINE))
    assert list(rows) == ["prior", *methods]
    task = load_task(TASK)
    for name in methods:
        path = folder / "all/tiny-make_tiny-log-tiny-make_tiny-MEReQ-L-seed0" / name / "seed0"
        policy = task.load_policy(read_policy(path, read_sealed_rows(path)))
        measured = watch(task, policy, task.oracle, WATCHED_STEPS, 0).intervention_rate
        runs, task_return, rate, kl, _ = (cell.strip() for cell in rows[name].split("│"))
        assert (runs, rate) == ("1", f"{measured:.3f}")
        assert task_return == f"{task.evaluate(policy)['task_return']:.3f}"
        assert kl == f"{task.evaluate(policy)['kl_to_expert']:.3f}"
    assert read_rows(path)[-1]["theta"] == read_rows(folder / RUN)[-1]["theta"]


def test_whole_demonstrations_are_fitted(folder, call):
    assert call("export", RUN, "--task", TASK, "--out", "demonstrations.csv").returncode == 0
    table = pd.read_csv(folder / "demonstrations.csv")
    table.drop(columns=["is_intervention", "policy_version"]).to_csv(
        folder / "demonstrations.csv", index=False
    )
    said = call("fit", "demonstrations.csv", "--task", TASK)
    assert said.returncode == 1
    assert "has no is_intervention" in said.stderr
    assert "pass --demonstrations" in said.stderr
    said = call("fit", "demonstrations.csv", "--task", TASK, "--demonstrations")
    assert said.returncode == 0, said.stderr
    (row,) = read_rows(folder / "runs/tiny-make_tiny-log-demonstrations/MEReQ-R/seed0")
    assert row["expert_samples"] == row["steps"] == len(table)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("export", "nowhere"), "nowhere is not a run: it has no config.json"),
        (("export", RUN, "--format", "hdf5"), "--format"),
        (("fit", "nowhere.csv", "--task", TASK), "nowhere.csv cannot be read as a log: No such file"),
        (("fit", RUN, "--task", "carpet"), "cannot be read as a log: "),
        (("fit", RUN, "--task", "carpets"), "did you mean 'carpet'?"),
        (("fit", RUN, "--task", TASK, "--method", "MERQ"), "did you mean 'MEReQ'?"),
        (("fit", RUN, "--task", TASK, "--patience", "-1"), "patience must be"),
        (("compare", TASK, "carpet", "--log", RUN), "with --log, name exactly one task"),
        (("compare", "--log", RUN), "with --log, name exactly one task"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(call, arguments, sentence):
    said = call(*arguments)
    assert said.returncode in (1, 2)
    assert sentence in " ".join(said.stderr.split())
    assert "Traceback" not in said.stderr
    assert "bug" not in said.stderr


def test_a_module_that_only_a_record_names_is_not_imported(call):
    said = call("export", RUN, "--out", "own.csv")
    assert said.returncode == 2
    assert f"a module that its record alone names; pass --task {TASK}" in " ".join(said.stderr.split())


def test_a_missing_library_is_named_with_the_extra_that_brings_it(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    said = call("export", RUN, "--task", TASK, "--format", "parquet", "--out", "new.parquet")
    assert said.returncode == 2
    assert "needs the package pyarrow" in said.stderr
    assert ".[data]" in said.stderr
