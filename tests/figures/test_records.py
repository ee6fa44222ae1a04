"""The recorded runs behind figures and README: complete, reproducible, and quoted as they are."""

from dataclasses import asdict
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from mereq_min import METHODS, LoopConfig
from mereq_min.catalogue import load_task
from mereq_min.metrics import THRESHOLDS, samples_interval
from mereq_min.runs import RunConfig, read_bundle, read_rows, run
from mereq_min.sweep import PAPER

ROOT = Path(__file__).parents[2]
TASKS = ("carpet", "lanes", "shelf", "windy")


@cache
def records(task):
    return list(read_bundle(ROOT / f"figures/runs/{task}.jsonl.gz"))


def quoted(first_column, method):
    """The cells of a method's row in README's table that begins with these columns."""
    _, _, table = (ROOT / "README.md").read_text().partition(f"| method | {first_column} |")
    (line,) = (line for line in table.split("\n\n")[0].splitlines() if line.startswith(f"| {method} |"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def cell(task, method, threshold):
    runs = [record["iterations"] for record in records(task) if record["config"]["method"] == method]
    interval, censored = samples_interval(runs, threshold)
    mark = f" c{censored}" if censored else ""
    return f"{interval.mean:.0f} [{interval.low:.0f}, {interval.high:.0f}]{mark}"


@pytest.mark.parametrize(("task", "seeds"), [*((task, 30) for task in TASKS), ("highway", 8)])
def test_every_method_ran_on_the_same_seeds(task, seeds):
    ran = {(record["config"]["method"], record["config"]["seed"]) for record in records(task)}
    assert ran == {(method, seed) for method in METHODS for seed in range(1000, 1000 + seeds)}
    assert len(records(task)) == len(ran)
    assert all(len(record["iterations"]) == 10 for record in records(task))
    assert not any(record["git"].endswith("-dirty") for record in records(task))


@pytest.mark.parametrize(
    "task", [task for task in PAPER if (ROOT / f"figures/runs/{task}.jsonl.gz").exists()]
)
def test_mereq_reproduce_has_the_settings_of_the_recorded_runs(task):
    loop, estimators = map(asdict, PAPER[task])
    for record in records(task):
        assert record["config"]["loop"] == loop
        assert record["config"]["estimators"] == estimators


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("method", ["MEReQ", "MEReQ-L", "IWR-FT"])
def test_a_recorded_run_comes_out_again(task, method, tmp_path):
    """The golden table of the whole loop: three iterations of a run on another day."""
    (recorded,) = (
        record["iterations"][:3]
        for record in records(task)
        if (record["config"]["method"], record["config"]["seed"]) == (method, 1000)
    )
    config = RunConfig(task, method, 1000, LoopConfig(iterations=3))
    again = read_rows(run(load_task(task), config, tmp_path))
    for row, golden in zip(again, recorded, strict=True):
        assert row["intervention_rate"] == golden["intervention_rate"]
        assert row["expert_samples"] == golden["expert_samples"]
        assert row["kl_to_expert"] == pytest.approx(golden["kl_to_expert"], rel=1e-3, abs=1e-5)
        if golden["theta"] is not None:
            np.testing.assert_allclose(row["theta"], golden["theta"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_readme_quotes_the_records(method):
    assert quoted("carpet", method) == [cell(task, method, THRESHOLDS[0]) for task in TASKS]
    ours = [cell("highway", method, threshold) for threshold in THRESHOLDS]
    assert quoted("rate < 0.05", method)[: len(ours)] == ours
