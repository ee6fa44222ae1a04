"""Runs on disk: lossless, atomic, resumable, never overwritten by accident, never unpickled."""

import dataclasses
import json
import shutil
import sys
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
import pytest
from killing import Killed, run_until_killed
from safetensors.numpy import save
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from mereq_min import METHODS, EstimatorConfig, Imperfections, LoopConfig, Steps, align, make_aligner, watch
from mereq_min.experts import PRESETS
from mereq_min.lab.plugins import UsageError, load_task, prepare_task
from mereq_min.lab.runs import files, records
from mereq_min.lab.runs import run as run_module
from mereq_min.lab.runs.config import RunConfig, run_folder, slug
from mereq_min.lab.runs.files import ArraysError, RunError, hash_arrays, load_arrays, save_arrays
from mereq_min.lab.runs.records import read_config, read_rows, read_steps, write_config
from mereq_min.lab.runs.run import define_task, load_run_task, needs_remeasuring, run
from mereq_min.lab.runs.tensorboard import write_events
from mereq_min.policies import TabularPolicy, UniformPolicy

LOOP = LoopConfig(iterations=3, steps_per_iteration=80)
RECORDED = Path(__file__).parents[4] / "figures/runs/carpet/MEReQ-L/seed0"


def config(method="MEReQ-L", seed=0, loop=LOOP):
    return RunConfig("carpet", method, seed, loop)


def contents(path):
    """Everything but the wall times, which are never twice the same."""
    return {file.name: file.read_bytes() for file in path.iterdir() if file.name != "seconds.json"}


@pytest.fixture(name="task", scope="module")
def _task():
    return load_task("carpet")


@pytest.fixture(name="interrupted", scope="module")
def _interrupted(task, tmp_path_factory):
    """Killed after two of three iterations."""
    out = tmp_path_factory.mktemp("interrupted")
    run_until_killed(task, config(), out, iteration=2)
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
    save_arrays(tmp_path / "steps-001.safetensors", steps.columns())
    again = read_steps(tmp_path, 1)
    for name, column in steps.columns().items():
        np.testing.assert_array_equal(column, again.columns()[name])
        assert column.dtype == again.columns()[name].dtype


@pytest.fixture(name="unbroken_run", scope="module")
def _unbroken_run(task, tmp_path_factory):
    """The folder of a whole run by each method."""
    out = tmp_path_factory.mktemp("unbroken")
    return cache(lambda method: run(task, config(method), out))


@pytest.mark.parametrize("method", ["MEReQ-L", "MEReQ", "MaxEnt", "IWR-FT"])
@pytest.mark.parametrize("writes", [1, 3, 5, 8, 10])
def test_a_run_killed_at_any_write_ends_bit_identical(
    task, unbroken_run, tmp_path, monkeypatch, method, writes
):
    unbroken = unbroken_run(method)
    real, left = files.write_file, iter(range(writes))

    def write_until_killed(file, data):
        if next(left, None) is None:
            file.with_name(f".{file.name}.part").write_bytes(data[: len(data) // 2])
            raise Killed
        real(file, data)

    with monkeypatch.context() as patch:
        for module in (files, run_module):
            patch.setattr(module, "write_file", write_until_killed)
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
    theta = task.oracle.true_theta - 1.0
    edited = dataclasses.replace(task, oracle=dataclasses.replace(task.oracle, true_theta=theta))
    with pytest.raises(RunError, match=r"definition.oracle.true_theta .* there, .* now"):
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
    monkeypatch.setattr(run_module.time, "perf_counter", lambda: now)

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

    changing = config(seed=1)  # each of its iterations makes a new policy, which is measured
    with pytest.raises(Killed):
        run(SlowTask(), changing, tmp_path, on_iteration=interrupt)
    path = run(SlowTask(), changing, tmp_path)
    assert records.read_seconds(path) == {1: 110.0, 2: 10.0, 3: 10.0}


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
        ("checkpoint-002.safetensors", lambda data: save({"theta": np.zeros(2)})),
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
    with pytest.raises(RunError, match=rf"{file} is missing or damaged .* delete .* to start over"):
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
    records.bundle(records.find_runs(finished.parents[2]), file)
    (record,) = records.read_bundle(file)
    assert record["iterations"] == read_rows(finished)
    assert record["config"] == read_config(finished)["config"]
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(RunError, match=r"carpet.jsonl.gz is missing or damaged"):
        list(records.read_bundle(file))


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
        write_events(tmp_path / "tensorboard", rows, task.feature_names)
        found = read_events(tmp_path / "tensorboard")
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert found[name] == np.float32(value), name


def test_tensorboard_is_asked_for_where_it_is_missing(task, finished, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.summary", None)
    with pytest.raises(RunError, match=r"--tensorboard needs TensorBoard; run pip install -e '.\[deep\]'"):
        write_events(tmp_path, read_rows(finished), task.feature_names)


def test_what_is_not_a_run_is_named(tmp_path):
    with pytest.raises(RunError, match="is not a run: it has no config"):
        read_config(tmp_path)


# --- Going on with a finished run -------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["MEReQ-L", "MEReQ", "IWR-FT"])
def test_a_finished_run_goes_on_with_more_iterations_as_if_it_had_been_that_long(task, tmp_path, method):
    run(task, config(method, loop=dataclasses.replace(LOOP, iterations=2)), tmp_path / "extended")
    seen = []
    extended = run(task, config(method), tmp_path / "extended", on_iteration=seen.append)
    assert contents(extended) == contents(run(task, config(method), tmp_path / "whole"))
    assert [row["iteration"] for row in seen] == [1, 2, 3]


def test_a_run_that_got_below_its_threshold_has_nothing_to_go_on_with(task, tmp_path):
    loop = LoopConfig(iterations=4, steps_per_iteration=250, threshold=0.05)
    path = run(task, config(loop=loop), tmp_path)
    count = len(read_rows(path))
    assert count < 4
    assert len(read_rows(run(task, config(loop=dataclasses.replace(loop, iterations=9)), tmp_path))) == count


# --- Another prior, another expert, no oracle -------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "folder"),
    [
        ({}, "carpet"),
        ({"prior": "priors/my_dqn.zip"}, "carpet-my_dqn"),
        ({"prior": "random"}, "carpet-random"),
        ({"prior": "pack.mod:make prior"}, "carpet-pack.mod-make-prior"),
        ({"loop": LoopConfig(demonstrations=True)}, "carpet-demonstrations"),
        ({"prior": "a.zip", "loop": LoopConfig(demonstrations=True)}, "carpet-a-demonstrations"),
    ],
)
def test_folders_are_told_apart_by_prior_and_demonstrations(tmp_path, settings, folder):
    made = RunConfig("carpet", **settings)
    assert slug(made) == folder
    assert run_folder(tmp_path, made) == tmp_path / folder / "MEReQ/seed0"


@pytest.mark.parametrize("name", ["mine:make", 'a<b>c:"d/e\\f|g?h*i', "trailing. "])
def test_folders_have_no_characters_that_windows_or_scp_refuse(name):
    found = slug(RunConfig(name))
    assert not set(found) & set('<>:"/\\|?* ')
    assert not found.endswith((".", " "))


def sharpen(task):
    """The prior at half its temperature: another policy, whose own temperature is known."""
    log_policy = 2.0 * task.log_prior
    log_policy -= np.logaddexp.reduce(log_policy, axis=1, keepdims=True)
    return TabularPolicy(log_policy, 0.05)


def test_another_prior_is_kept_beside_the_run_and_found_again_without_its_module(task, tmp_path):
    other = dataclasses.replace(task, prior=sharpen(task))
    made = dataclasses.replace(config(), prior="gone:prior")
    path = run(other, made, tmp_path)
    assert read_config(path)["prior"] == {
        "sha256": hash_arrays(other.prior.arrays()).hex(),
        "temperature": 0.05,
    }
    again = load_run_task(path)
    np.testing.assert_array_equal(again.log_prior, other.log_prior)
    assert again.prior.temperature == 0.05
    assert define_task(again) == define_task(other) != define_task(task)
    # The expert is that of this prior.
    np.testing.assert_array_equal(
        again.oracle.expert_policy.log_policy, other.oracle.expert_policy.log_policy
    )
    changed = dataclasses.replace(other, prior=TabularPolicy(task.log_prior, 0.05))
    with pytest.raises(RunError, match=r"prior.sha256 .* there, .* now"):
        run(changed, made, tmp_path)
    save_arrays(path / "prior.safetensors", task.prior.arrays())
    with pytest.raises(RunError, match=r"prior.safetensors is missing or damaged .*not the prior"):
        load_run_task(path)


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_run_with_another_prior_that_was_killed_before_its_first_iteration_can_begin_again(
    task, tmp_path, monkeypatch, writes
):
    other, made = (
        dataclasses.replace(task, prior=sharpen(task)),
        dataclasses.replace(config(), prior="gone:prior"),
    )
    real, left = files.write_file, iter(range(writes))

    def write_until_killed(file, data):
        if next(left, None) is None:
            raise Killed
        real(file, data)

    with monkeypatch.context() as patch:
        for module in (files, run_module):
            patch.setattr(module, "write_file", write_until_killed)
        with pytest.raises(Killed):
            run(other, made, tmp_path)
    assert load_run_task(run(other, made, tmp_path)).prior.temperature == 0.05


def test_a_prior_without_arrays_has_to_be_named_again(task, tmp_path):
    path = run(
        dataclasses.replace(task, prior=sharpen(task)), dataclasses.replace(config(), prior="a:b"), tmp_path
    )
    header = read_config(path)
    del header["prior"]
    write_config(path, header)
    with pytest.raises(UsageError, match=r"could not be saved as arrays; pass --prior a:b again"):
        load_run_task(path)
    header["config"]["prior"] = "random"  # this one is known to all
    write_config(path, header)
    uniform = UniformPolicy(task.make_env().action_space)
    np.testing.assert_allclose(
        load_run_task(path).log_prior, uniform.log_prob(np.zeros(1), np.zeros(1))[0], rtol=1e-12
    )


def test_no_module_that_a_record_names_is_imported(task, tmp_path, monkeypatch):
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.chdir(tmp_path)
    path = run(task, dataclasses.replace(config(), task="trap:make", prior="trap:prior"), tmp_path / "runs")
    with pytest.raises(UsageError, match="pass --task trap:make to import it"):
        load_run_task(path)
    assert load_run_task(path, task="carpet").name == "carpet"


def test_temperature_and_prior_weight_are_those_of_the_run(task, tmp_path, monkeypatch):
    made = dataclasses.replace(config(), temperature=0.2, prior_weight=0.5)
    path = run(prepare_task("carpet", temperature=0.2, prior_weight=0.5), made, tmp_path)
    again = load_run_task(path)
    assert (again.temperature, again.prior_weight) == (0.2, 0.5)
    assert again.scaled_prior_weight == 0.5 * task.prior.temperature
    monkeypatch.chdir(path)
    assert define_task(load_run_task(Path())) == define_task(again)


class Distant:
    """An expert of one's own: takes over at every third step."""

    patience = 1

    def reset(self, rng):
        self.left = 3

    def intervene(self, state, policy_action):
        self.left -= 1
        if self.left:
            return None
        self.left = 3
        return np.int64(4)


def test_a_task_without_any_truth_runs_with_an_expert_of_ones_own(task, tmp_path):
    alone = dataclasses.replace(task, oracle=None)
    with pytest.raises(ValueError, match="has no oracle to simulate an expert with"):
        run(alone, config(), tmp_path / "nobody")
    path = run(alone, dataclasses.replace(config(), expert="mine:Distant"), tmp_path, expert=Distant())
    for row in read_rows(path):
        assert row["intervention_rate"] == pytest.approx(1 / 3, abs=0.05)
        assert not {"reward_distance", "expert_return", "kl_to_expert", "feature_divergence"} & set(row)
        assert {"theta", "standard_errors", "task_return", "success"} <= set(row)
    assert "oracle" not in read_config(path)["definition"]


def test_demonstrations_are_the_experts_whole_steps(task, tmp_path):
    loop = dataclasses.replace(LOOP, demonstrations=True)
    path = run(task, config(loop=loop), tmp_path)
    assert [row["intervention_rate"] for row in read_rows(path)] == [1.0] * 3
    steps = read_steps(path, 1)
    assert steps.is_intervention.all()
    # The carpet is what the expert avoids and the prior does not.
    k = task.feature_names.index("carpet")
    assert steps.features[:, k].mean() < 0.1


def test_without_accumulation_the_last_iteration_alone_is_fitted(task, tmp_path):
    shown = config(loop=dataclasses.replace(LOOP, demonstrations=True))  # every iteration has expert steps
    paths = [
        run(
            task,
            dataclasses.replace(shown, estimators=EstimatorConfig(accumulate=each)),
            tmp_path / str(each),
        )
        for each in (True, False)
    ]
    first, other = (read_rows(path) for path in paths)
    assert first[0]["theta"] == other[0]["theta"]
    assert first[-1]["theta"] != other[-1]["theta"]


@pytest.mark.parametrize(
    "loop", [LoopConfig(demonstrations=True), LoopConfig(imperfections=Imperfections(miss_rate=0.1))]
)
def test_settings_of_the_simulated_expert_are_refused_for_another(loop):
    with pytest.raises(
        ValueError, match="demonstrations and imperfections are those of the simulated expert"
    ):
        RunConfig("carpet", loop=loop, expert="mine:Expert")


@pytest.mark.parametrize(
    ("name", "value"), [("temperature", 0.0), ("temperature", np.nan), ("prior_weight", -1.0)]
)
def test_temperatures_and_weights_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a finite number"):
        RunConfig("carpet", **{name: value})


# --- Crossings ------------------------------------------------------------------------------------------


def make_row(rate, again=None):
    return {"intervention_rate": rate} | ({} if again is None else {"remeasured_rate": again})


@pytest.mark.parametrize(
    ("before", "rate", "needed"),
    [
        ([], 0.3, False),
        ([], 0.14, True),
        ([make_row(0.3), make_row(0.14, 0.13)], 0.12, False),  # nothing that was not passed before
        ([make_row(0.3), make_row(0.14, 0.2)], 0.12, True),  # the first crossing was luck
        ([make_row(0.04, 0.04)], 0.03, False),
        ([make_row(0.04, 0.07)], 0.03, True),
    ],
)
def test_a_rate_is_measured_again_until_a_threshold_is_known_to_be_passed(before, rate, needed):
    assert needs_remeasuring(before, make_row(rate)) is needed


def test_a_crossing_is_measured_again_on_the_policy_that_was_watched(task, tmp_path):
    loop = LoopConfig(iterations=3, steps_per_iteration=250)
    path = run(task, config("MEReQ-L", loop=loop), tmp_path)
    rows = read_rows(path)
    crossing = next(row for row in rows if row["intervention_rate"] < 0.05)
    assert 0 <= crossing["remeasured_rate"] < 0.05
    aligner = make_aligner(task, METHODS["MEReQ-L"], EstimatorConfig())
    done = list(align(task, aligner, dataclasses.replace(loop, iterations=crossing["iteration"]), seed=0))
    watched = done[-2].policy
    again = watch(task, watched, task.oracle, 20 * task.horizon, [0, crossing["iteration"]])
    assert len(np.unique(again.episode)) >= 20
    assert again.intervention_rate == crossing["remeasured_rate"]


# --- Experts who err --------------------------------------------------------------------------------------


def test_a_run_from_before_an_imperfection_was_known_means_an_expert_without_it():
    """Recorded runs know three errors; the others have their defaults, which are none."""
    header = json.loads((RECORDED / "config.json").read_text())
    assert set(header["config"]["loop"]["imperfections"]) == {
        "miss_rate",
        "false_alarm_rate",
        "reaction_delay",
    }
    found = msgspec.convert(read_config(RECORDED)["config"], RunConfig)
    assert found.loop.imperfections == Imperfections()
    assert found.estimators == EstimatorConfig()


def test_runs_with_a_human_expert_have_folders_of_their_own(tmp_path):
    loops = {name: LoopConfig(imperfections=preset) for name, preset in PRESETS.items()}
    folders = {name: run_folder(tmp_path, RunConfig("carpet", loop=loop)) for name, loop in loops.items()}
    assert folders["none"] == tmp_path / "carpet/MEReQ/seed0"
    assert folders["human"] == tmp_path / "carpet-human/MEReQ/seed0"
    other = LoopConfig(imperfections=Imperfections(miss_rate=0.3))
    assert run_folder(tmp_path, RunConfig("carpet", loop=other)) == folders["none"]


# --- Arrays ----------------------------------------------------------------------------------------------


def test_arrays_come_back_or_the_file_is_named_without_advice(tmp_path):
    file = tmp_path / "it.safetensors"
    with pytest.raises(ArraysError, match=r"it.safetensors is missing or damaged \(.*No such file.*\)$"):
        load_arrays(file)
    file.write_bytes(BFLOAT16)
    with pytest.raises(ArraysError, match="numpy has no numbers of type 'BF16'; save it in float32"):
        load_arrays(file)
    save_arrays(file, {"x": np.arange(3), "y": np.eye(2)[:, ::-1]})
    np.testing.assert_array_equal(load_arrays(file)["y"], [[0, 1], [1, 0]])


def test_the_hash_of_arrays_depends_on_names_types_shapes_and_values_but_not_on_order():
    arrays = {"x": np.arange(4), "y": np.ones(2)}
    known = hash_arrays(arrays)
    assert hash_arrays(dict(reversed(arrays.items()))) == known
    for other in (
        {"z": arrays["x"], "y": arrays["y"]},
        {**arrays, "x": np.arange(4, dtype=np.int32)},
        {**arrays, "x": np.arange(4).reshape(2, 2)},
        {**arrays, "y": np.zeros(2)},
    ):
        assert hash_arrays(other) != known


def test_a_policy_that_stays_is_measured_once(tmp_path, monkeypatch):
    task, measured = load_task("carpet"), []
    evaluate = type(task).evaluate

    def counting(self, policy, **options):
        measured.append(policy)
        return evaluate(self, policy, **options)

    monkeypatch.setattr(type(task), "evaluate", counting)
    rows = read_rows(run(task, RunConfig("carpet", "MEReQ", 0, LoopConfig(iterations=4)), tmp_path))
    assert len({tuple(row["theta"]) for row in rows}) == len(measured) == 2
    assert rows[3]["kl_to_expert"] == rows[1]["kl_to_expert"] != rows[0]["kl_to_expert"]
