"""What is read from a run folder is what was written, or an error in a sentence; nothing of it is run."""

import dataclasses
import gzip
import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from killing import run_until_killed
from safetensors.numpy import save
from tiny import make_tiny

from mereq_min import LoopConfig
from mereq_min.lab.commands.main import main
from mereq_min.lab.plugins import load_task
from mereq_min.lab.runs import records
from mereq_min.lab.runs.config import RunConfig, run_folder
from mereq_min.lab.runs.episodes import Episodes, load_behaviour, save_behaviour
from mereq_min.lab.runs.files import ArraysError, RunError, load_arrays, save_arrays
from mereq_min.lab.runs.records import (
    read_bundle,
    read_config,
    read_policy,
    read_rows,
    read_sealed_rows,
    read_seconds,
    read_steps,
    seal,
    unseal,
    write_config,
)
from mereq_min.lab.runs.run import load_run_task, run
from mereq_min.lab.show.plots import draw_comparison, draw_curve, find_tasks
from mereq_min.lab.show.tables import comparison_table, iterations_table, runs_table, theta_table

ROOT = Path(__file__).parents[4]
LOOP = LoopConfig(iterations=3, steps_per_iteration=40)
CONFIG = RunConfig("tiny", "MEReQ-L", 0, LOOP)


@pytest.fixture(name="task", scope="module")
def _task():
    return make_tiny()


@pytest.fixture(name="halfway", scope="module")
def _halfway(task, tmp_path_factory):
    """A run that was killed after two of three iterations; returns the folder above its own."""
    out = tmp_path_factory.mktemp("halfway")
    run_until_killed(task, CONFIG, out, iteration=2)
    return out


@pytest.fixture(name="damaged")
def _damaged(halfway, tmp_path):
    """A copy of it to damage, and the run's folder in it."""
    shutil.copytree(halfway, tmp_path / "runs")
    return tmp_path / "runs", run_folder(tmp_path / "runs", CONFIG)


def read_all(path):
    """Everything that can be read of a run, as comparable values."""
    log = read_sealed_rows(path)
    columns = [read_steps(path, row["iteration"]).columns() for row in log]
    policy = read_policy(path, log)
    arrays = [*columns, {} if policy is None else policy]
    plain = [{name: (a.dtype.str, a.tolist()) for name, a in each.items()} for each in arrays]
    return read_config(path), read_rows(path), plain


# --- Bits and bytes --------------------------------------------------------------------------------------

READ = (
    "config.json",
    "iterations.jsonl",
    "steps-001.safetensors",
    "steps-002.safetensors",
    "policy.safetensors",
)


@given(data=st.data(), name=st.sampled_from(READ))
def test_a_flipped_bit_is_an_error_or_changes_nothing(halfway, tmp_path_factory, data, name):
    path = tmp_path_factory.getbasetemp() / "flipped"
    if not path.exists():
        shutil.copytree(run_folder(halfway, CONFIG), path)
    whole = (path / name).read_bytes()
    bit = data.draw(st.integers(0, 8 * len(whole) - 1))
    flipped = bytearray(whole)
    flipped[bit // 8] ^= 1 << bit % 8
    expected = read_all(path)
    (path / name).write_bytes(flipped)
    try:
        assert read_all(path) == expected  # white space between the parts of JSON means nothing
    except RunError as error:
        assert name in str(error)
    finally:
        (path / name).write_bytes(whole)


@given(
    name=st.sampled_from((*READ, "seconds.json", "checkpoint-002.safetensors")), data=st.binary(max_size=99)
)
def test_any_bytes_in_place_of_a_file_are_an_error(halfway, tmp_path_factory, name, data):
    path = tmp_path_factory.getbasetemp() / "replaced"
    if not path.exists():
        shutil.copytree(run_folder(halfway, CONFIG), path)
    whole = (path / name).read_bytes()
    (path / name).write_bytes(data)
    try:
        read_all(path)
        read_seconds(path)
        # Without a row nothing is left to read, and the others are not looked at.
        assert (name, data.strip()) == ("iterations.jsonl", b"") or name.startswith(("checkpoint", "seconds"))
    except RunError as error:
        assert name in str(error)
    finally:
        (path / name).write_bytes(whole)


trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=9), inside, max_size=4),
    max_leaves=20,
)


def mutate(draw, tree):
    """Put something else in some place of a tree of JSON."""
    if isinstance(tree, dict) and tree and draw(st.integers(0, 4)):
        name = draw(st.sampled_from(sorted(tree)))
        return {**tree, name: mutate(draw, tree[name])}
    if isinstance(tree, list) and tree and draw(st.integers(0, 4)):
        i = draw(st.integers(0, len(tree) - 1))
        return [*tree[:i], mutate(draw, tree[i]), *tree[i + 1 :]]
    return draw(trees)


RECORDED = ROOT / "figures/runs/carpet/MEReQ-L/seed0"
"""From before hashes were kept: nothing but its meaning can be checked."""


@pytest.mark.parametrize("name", ["config.json", "iterations.jsonl"])
@settings(max_examples=30)
@given(data=st.data())
def test_any_json_in_an_old_run_is_shown_or_an_error(tmp_path_factory, name, data):
    path = tmp_path_factory.getbasetemp() / f"json-{name}"
    if not path.exists():
        shutil.copytree(RECORDED, path)
        for file in path.glob("steps-*"):
            file.unlink()
    whole = (RECORDED / name).read_text()
    trees = [json.loads(each) for each in ([whole] if name == "config.json" else whole.splitlines())]
    i = data.draw(st.integers(0, len(trees) - 1))
    trees[i] = mutate(data.draw, trees[i])
    (path / name).write_text("\n".join(map(json.dumps, trees)))
    task = load_task("carpet")
    try:
        record = records.read_record(path)
    except RunError as error:
        assert f"{name} is missing or damaged" in str(error)
        return
    # What is accepted can be drawn, listed and gone on with, without a programming error.
    rows = record["iterations"]
    runs_table(path.parent, [(path, record)])
    records.is_complete(record)
    if rows:
        iterations_table(rows, "it")
        comparison_table("carpet", [record])
        draw_comparison({"carpet": {record["config"]["method"]: [rows]}})
        if record["config"]["method"] == "MEReQ-L":
            draw_curve(task, rows, "residual", "it")
            theta_table(task, rows[-1], "residual")


@pytest.mark.parametrize("name", ["config.json", "iterations.jsonl", "seconds.json", "../../bundle.jsonl.gz"])
@pytest.mark.parametrize(
    "text",
    [b"[]", b"null", b"1", b'"it"', b"{}", b"{", b"[" * 100_000, b'{"a":' * 100_000, b"\xff", b"\x00" * 99,
     b"NaN", b'{"config":' + b'{"a":' * 200 + b"1" + b"}" * 201, b"9" * 10_000],
    ids=range(13),
)  # fmt: skip
def test_json_that_is_no_run_gets_a_sentence(damaged, name, text):
    _, path = damaged
    file = (path / name).resolve()
    file.write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    if (name, text) == ("seconds.json", b"{}"):
        assert read_seconds(path) == {}
        return
    with pytest.raises(RunError, match=rf"{file.name} is missing or damaged \([^\n]{{5,200}}\)"):
        list(read_bundle(file)) if name.endswith("gz") else (read_all(path), read_seconds(path))


def test_a_bomb_and_a_broken_stream_are_named_within_a_second(tmp_path):
    file, begun = tmp_path / "it.jsonl.gz", time.process_time()
    blocks = gzip.compress(bytes(2**24)) * 200  # 3 GiB in 3 MiB
    for data in (blocks, gzip.compress(b"{}")[:-3], b"\x1f\x8b\x08" + bytes(20), b"no gzip", b""):
        file.write_bytes(data)
        if data:
            with pytest.raises(RunError, match=r"it.jsonl.gz is missing or damaged"):
                list(read_bundle(file))
    assert time.process_time() - begun < 30  # unpacking it all takes longer; a guard, not a measurement
    (tmp_path / "iterations.jsonl").write_bytes(b"")
    with (tmp_path / "iterations.jsonl").open("wb") as stream:
        stream.truncate(2**40)
    with pytest.raises(RunError, match=r"more than the \d+ that are read"):
        read_rows(tmp_path)


# --- Meaning ---------------------------------------------------------------------------------------------


def rewrite(path, number, change):
    """Change the steps of an iteration, with right hashes, as another program would write them."""
    file = path / f"steps-{number:03d}.safetensors"
    steps = {name: column.copy() for name, column in load_arrays(file).items()}
    steps = change(steps) or steps
    reseal(path, lambda row: {"steps": save_arrays(file, steps)} if row["iteration"] == number else {})


def reseal(path, change, row_change=lambda row: row):
    log = []
    for row in read_sealed_rows(path):
        files = {name: value for name, value in row["sha256"].items() if name != "row"}
        log.append(seal(row_change(unseal(row)), files | change(row), log))
    (path / "iterations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))


def put(name, value, at=3):
    def change(steps):
        steps[name][at] = value

    return change


WRONG = {
    "an action below 0": put("action", -1),
    "an action too high": put("action", 5),
    "a proposed action too high": put("policy_action", 5),
    "a state below 0": put("state", -5),
    "a state too high": put("state", 6),
    "a feature that is not a number": put("features", np.nan),
    "an infinite feature": put("features", np.inf),
    "no rows": lambda steps: {name: column[:0] for name, column in steps.items()},
    "too few rows": lambda steps: {name: column[:20] for name, column in steps.items()},
    "too many rows": lambda steps: {
        name: np.concatenate([column, column + 99 if name == "episode" else column])
        for name, column in steps.items()
    },
    "a feature too many": lambda steps: steps | {"features": np.zeros((40, 3))},
    "features of another type": lambda steps: steps | {"features": np.zeros((40, 2), dtype=np.int64)},
    "features without an axis": lambda steps: steps | {"features": np.zeros(40)},
    "decreasing episodes": lambda steps: steps
    | {"episode": steps["episode"][::-1].copy(), "t": np.arange(40)},
    "episodes of before": lambda steps: steps | {"episode": steps["episode"] - steps["episode"][0]},
    "time backwards": lambda steps: steps | {"t": steps["t"][::-1].copy()},
    "states of another type": lambda steps: steps | {"state": steps["state"].astype(float)},
    "states of another shape": lambda steps: steps | {"state": np.zeros((40, 2), dtype=np.int64)},
    "interventions of another type": lambda steps: steps | {"is_intervention": np.zeros(40)},
    "fewer interventions": lambda steps: steps | {"is_intervention": np.zeros(40, dtype=bool)},
    "another policy": lambda steps: steps | {"policy_version": np.zeros(40, dtype=np.int64)},
    "a column that is missing": lambda steps: {name: each for name, each in steps.items() if name != "t"},
    "a column too many": lambda steps: steps | {"mine": np.zeros(40)},
}  # fmt: skip


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_steps_that_cannot_be_are_refused(task, damaged, change):
    out, path = damaged
    rewrite(path, 2, change)
    with pytest.raises(RunError, match=r"steps-002.safetensors is missing or damaged .* to start over$"):
        run(task, CONFIG, out)


def test_steps_that_can_be_are_gone_on_with(task, damaged):
    """The check of the checks: with right hashes and nothing wrong the run ends."""
    out, path = damaged
    rewrite(path, 2, lambda steps: steps)
    assert len(read_rows(run(task, CONFIG, out))) == 3


@pytest.mark.parametrize(
    "change",
    [{"theta": [1.0]}, {"theta": None}, {"theta": [0.0, 0.0]}, {"expert_samples": 10**6}, {"steps": 0},
     {"expert_samples": -1}, {"intervention_rate": 1.5}, {"intervention_rate": True}, {"iteration": 7},
     {"standard_errors": [1.0]}, {"standard_errors": 1}, {"kl_to_expert": "low"}, {"theta": {"a": 1}}],
    ids=str,
)  # fmt: skip
def test_rows_that_cannot_be_are_refused(task, damaged, change):
    out, path = damaged
    reseal(path, lambda row: {}, lambda row: row if row["iteration"] == 1 else row | change)
    with pytest.raises(
        RunError, match=r"(iterations.jsonl|checkpoint-002.safetensors) is missing or damaged"
    ):
        run(task, CONFIG, out)


def test_a_checkpoint_that_does_not_fit_is_refused(task, damaged):
    out, path = damaged
    file = path / "checkpoint-002.safetensors"
    for arrays in ({}, {"theta": np.zeros(3)}, load_arrays(file) | {"theta": np.full(2, np.nan)}):
        sha256 = save_arrays(file, arrays)
        reseal(path, lambda row, sha256=sha256: {"checkpoint": sha256} if row["iteration"] == 2 else {})
        with pytest.raises(RunError, match=r"checkpoint-002.safetensors is missing or damaged"):
            run(task, CONFIG, out)


@pytest.mark.parametrize(
    "name",
    ["steps-001.safetensors", "steps-003.safetensors", "checkpoint-003.safetensors", "policy.safetensors"],
)
def test_damage_to_a_finished_run_is_found_when_it_is_opened(task, damaged, name):
    out, _ = damaged
    path = run(task, CONFIG, out)
    before = (path / name).read_bytes()
    for data in (save({"theta": np.zeros(2)}), before[:-1] + bytes([before[-1] ^ 1]), None):
        (path / name).unlink() if data is None else (path / name).write_bytes(data)
        with pytest.raises(RunError, match=rf"{name} is missing or damaged"):
            run(task, CONFIG, out)


@pytest.mark.parametrize(
    "change",
    [{"seed": "../../x"}, {"seed": 1.5}, {"seed": -1}, {"seed": True}, {"method": "../MEReQ"}, {"method": 3},
     {"task": None}, {"task": ["carpet"]}, {"loop": {"iterations": 0}}, {"loop": 3},
     {"loop": {"threshold": 2}}, {"prior": 3}, {"temperature": -1}, {"more": 1},
     {"estimators": {"matching": {"max_steps": "all"}}}],
    ids=str,
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(damaged, change):
    _, path = damaged
    header = read_config(path)
    write_config(path, header | {"config": header["config"] | change})
    with pytest.raises(RunError, match=r"config.json is missing or damaged"):
        read_config(path)


def test_settings_from_before_a_setting_was_known_have_its_default(damaged):
    _, path = damaged
    header = read_config(path)
    config = {
        name: value for name, value in header["config"].items() if name not in ("temperature", "expert")
    }
    write_config(path, header | {"config": config})
    assert read_config(path)["config"] == header["config"]


def test_hashes_cannot_be_left_out(task, damaged):
    out, path = damaged
    whole = [(path / name).read_bytes() for name in ("config.json", "iterations.jsonl")]
    header = json.loads(whole[0])
    del header["sha256"]
    (path / "config.json").write_text(json.dumps(header))
    with pytest.raises(RunError, match=r"iterations.jsonl is missing or damaged \(row 1 has hashes"):
        run(task, CONFIG, out)
    (path / "config.json").write_bytes(whole[0])
    rows = [json.dumps(unseal(json.loads(line))) for line in whole[1].splitlines()]
    (path / "iterations.jsonl").write_text("\n".join(rows))
    with pytest.raises(RunError, match=r"iterations.jsonl is missing or damaged \(row 1 has hashes"):
        run(task, CONFIG, out)


def test_a_run_from_before_hashes_is_kept_and_shown_but_not_gone_on_with(task, damaged):
    out, path = damaged
    path = run(task, CONFIG, out)
    header = {name: value for name, value in read_config(path).items() if name != "sha256"}
    (path / "config.json").write_text(json.dumps(header))
    (path / "iterations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in read_log_unsealed(path)))
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    assert len(read_rows(run(task, CONFIG, out))) == 3
    longer = dataclasses.replace(CONFIG, loop=dataclasses.replace(LOOP, iterations=4))
    with pytest.raises(
        RunError, match=r"was written by an older version without hashes.*delete that folder to start over$"
    ):
        run(task, longer, out)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    assert len(read_rows(RECORDED)) == 10


def read_log_unsealed(path):
    return [unseal(json.loads(line)) for line in (path / "iterations.jsonl").read_text().splitlines()]


def test_a_policy_whose_row_was_written_but_whose_name_was_not_given_yet_is_read(task, damaged):
    out, path = damaged
    arrays = read_policy(path, read_sealed_rows(path))
    (path / "policy.safetensors").rename(path / "policy-002.safetensors")
    shutil.copy(path / "checkpoint-002.safetensors", path / "policy.safetensors")
    np.testing.assert_equal(read_policy(path, read_sealed_rows(path)), arrays)
    run(task, CONFIG, out)
    assert not (path / "policy-002.safetensors").exists()


def test_what_crashes_left_is_removed_and_what_is_not_ours_is_kept(task, damaged):
    out, path = damaged
    left = ["checkpoint-001.safetensors", "steps-003.safetensors", "policy-003.safetensors"]
    left += [".steps-003.safetensors.0123456789abcdef.part", ".config.json.part", ".iterations.jsonl.ab.part"]
    mine = ["notes.txt", "curve.png", ".film.gif.0123.part", ".mine.part"]
    for name in (*left, *mine):
        (path / name).write_bytes(b"it")
    seen = []
    run(task, CONFIG, out, on_iteration=lambda row: seen.append({file.name for file in path.iterdir()}))
    assert not seen[0] & set(left)
    assert seen[-1] >= set(mine)


def with_defaults(config, defaults=None):
    """The config of a record: settings that were not known yet have their defaults."""
    defaults = dataclasses.asdict(RunConfig("any")) if defaults is None else defaults
    nested = {name: each for name, each in defaults.items() if isinstance(each, dict)}
    inner = {name: with_defaults(config.get(name, {}), each) for name, each in nested.items()}
    return {**defaults, **config, **inner}


def test_old_bundles_are_read_and_new_ones_hold_no_hashes(task, damaged, tmp_path):
    for file in (ROOT / "figures/runs").glob("*.jsonl.gz"):
        lines = gzip.decompress(file.read_bytes()).splitlines()
        for record, line in zip(read_bundle(file), map(json.loads, lines), strict=True):
            assert record == {**line, "config": with_defaults(line["config"])}
    _, path = damaged
    records.bundle([path], tmp_path / "it.jsonl.gz")
    assert b"sha256" not in gzip.decompress((tmp_path / "it.jsonl.gz").read_bytes())
    (record,) = read_bundle(tmp_path / "it.jsonl.gz")
    assert record["iterations"] == read_rows(path)


@given(st.integers(0, 2**16))
def test_a_flipped_bit_in_a_bundle_is_an_error_or_changes_nothing(tmp_path_factory, bit):
    whole = (ROOT / "figures/runs/eraser.jsonl.gz").read_bytes()
    expected = list(read_bundle(ROOT / "figures/runs/eraser.jsonl.gz"))
    file, flipped = tmp_path_factory.getbasetemp() / "eraser.jsonl.gz", bytearray(whole)
    bit = bit * 8 * len(whole) // (2**16 + 1)
    flipped[bit // 8] ^= 1 << bit % 8
    file.write_bytes(flipped)
    try:
        assert list(read_bundle(file)) == expected
    except RunError as error:
        assert "eraser.jsonl.gz is missing or damaged" in str(error)


# --- Episodes --------------------------------------------------------------------------------------------


def test_episodes_come_back_or_the_file_is_named(tmp_path):
    for file in (ROOT / "figures/runs").glob("*.episodes.safetensors"):
        assert set(load_behaviour(file)) >= {"prior", "expert", "MEReQ"}
    file = tmp_path / "it.safetensors"
    whole = Episodes(np.ones((4, 2), dtype=np.float32), np.array([0, 0, 1, 2]))
    save_behaviour(file, {"prior": [whole], "MEReQ": [whole, whole]})
    arrays = load_arrays(file)
    for name, wrong in {
        "prior/0/episode": [
            np.array([0, 0, 1, 2**50]),
            np.array([1, 1, 2, 3]),
            np.array([0, 1, 0, 1]),
            np.zeros(4),
        ],
        "MEReQ/1/features": [
            np.ones((3, 2)),
            np.full((4, 2), np.nan),
            np.ones(4),
            np.ones((4, 2), dtype=bool),
        ],
    }.items():
        for each in [*wrong, None]:
            changed = {**arrays, name: each}
            save_arrays(file, {key: value for key, value in changed.items() if value is not None})
            if each is None and name.endswith("episode"):
                assert "prior" not in load_behaviour(file)
                continue
            with pytest.raises(ArraysError, match=r"it.safetensors is missing or damaged"):
                load_behaviour(file)


# --- Nothing that is read is run -------------------------------------------------------------------------

EVIL = """
from pathlib import Path
Path("imported").touch()
from gridworlds import TASKS
go = TASKS["carpet"]
prior = go().prior
"""


@pytest.fixture(name="trap")
def _trap(tmp_path, monkeypatch):
    """A working directory with evil.py, which says so when it is imported."""
    (tmp_path / "evil.py").write_text(EVIL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    yield tmp_path
    assert not (tmp_path / "imported").exists()
    assert "evil" not in sys.modules


def forge(trap, **change):
    """A whole run of carpet with right hashes whose config.json names something else."""
    path = trap / "runs/evil-go/MEReQ-L/seed0"
    if not path.exists():
        made = run(load_task("carpet"), RunConfig("carpet", "MEReQ-L", 0, LOOP), trap / "made")
        shutil.copytree(made, path)
    header = read_config(path)
    write_config(path, header | {"config": header["config"] | change})
    return path


NAMES = [
    "evil:go",
    "evil",
    "evil.go",
    "./evil.py",
    "../evil:go",
    "evil:go.jsonl.gz",
    "/etc/passwd",
    "../../x",
]


@pytest.mark.parametrize("name", NAMES)
def test_no_task_that_a_run_names_is_imported_or_becomes_a_path(trap, name, capsys):
    path = forge(trap, task=name)
    (trap / "outside").mkdir()
    assert main(["show", str(path)]) == 2
    assert main(["show", "runs"]) == 0
    assert main(["figures", "--runs", "runs", "--out", "pictures"]) in (0, 2)
    records.bundle([path], trap / "bundles/evil-go.jsonl.gz")
    assert main(["figures", "--runs", "bundles", "--out", "pictures"]) in (0, 2)
    made = {file.relative_to(trap).parts[0] for file in trap.rglob("*")}
    assert made <= {"evil.py", "runs", "made", "bundles", "pictures", "outside"}
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["evil:prior", "evil.zip", "evil", "../evil:prior", "prior.safetensors"])
def test_no_prior_or_expert_that_a_run_names_is_imported(trap, name):
    path = forge(trap, prior=name, expert=name)
    assert main(["show", str(path)]) == 2
    assert main(["figures", "--runs", "runs", "--out", "pictures"]) in (0, 2)
    with pytest.raises(ValueError, match="could not be saved as arrays; pass --prior"):
        load_run_task(path)


@pytest.mark.parametrize("name", ["evil:go", "..", ".", "", "evil"])
def test_no_bundle_is_imported_or_leads_out_of_its_folder(trap, name):
    path = forge(trap, task="evil:go")
    records.bundle([path], trap / f"runs/{name}.jsonl.gz")
    (trap / "figures").mkdir()
    assert all(each and not each.startswith(".") for each in find_tasks(trap / "runs"))
    assert main(["figures", "--runs", "runs", "--out", "pictures"]) in (0, 2)


def test_a_sweep_imports_nothing_that_lies_in_its_folder(trap):
    path = forge(trap, task="evil:go")
    shutil.copytree(path, trap / "runs/carpet/MEReQ-L/seed7")
    arguments = ["--methods", "MEReQ-L", "--seeds", "1", "--iterations", "1", "--steps-per-iteration", "20"]
    assert main(["compare", "carpet", *arguments, "--workers", "1", "--out", "runs"]) == 0


def test_a_module_that_was_typed_is_imported(tmp_path, monkeypatch):
    """The trap works."""
    (tmp_path / "evil2.py").write_text(EVIL)
    monkeypatch.chdir(tmp_path)
    path = forge(tmp_path, task="evil2:go")
    assert main(["show", str(path), "--task", "evil2:go"]) == 0
    assert (tmp_path / "imported").exists()
