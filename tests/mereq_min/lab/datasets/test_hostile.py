"""A damaged or hostile log is an error in a sentence: nothing in it is run, followed or unpacked blindly."""

import json
import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import make_tiny

from mereq_min.lab.datasets import columns, tables
from mereq_min.lab.datasets.columns import LogError
from mereq_min.lab.datasets.logs import LogSource, write_log
from mereq_min.rollout import watch

KINDS = ("csv", "parquet", "minari", "lerobot")
FILES = {
    "csv": (".",),
    "parquet": (".",),
    "minari": ("data/metadata.json", "data/main_data.hdf5"),
    "lerobot": ("meta/info.json", "data/chunk-000/file-000.parquet"),
}


@pytest.fixture(name="task", scope="module")
def _task():
    return make_tiny()


@pytest.fixture(name="steps", scope="module")
def _steps(task):
    return watch(task, task.prior, task.oracle, 30, seed=0)


@pytest.fixture(name="make", scope="module")
def _make(task, steps, tmp_path_factory):
    """A fresh log of a kind; returns its path."""
    whole = tmp_path_factory.mktemp("whole")
    for kind in KINDS:
        write_log(whole / f"log.{kind}", kind, steps, task)

    def make(kind):
        path = tmp_path_factory.mktemp(kind) / f"log.{kind}"
        (shutil.copytree if (whole / path.name).is_dir() else shutil.copy)(whole / path.name, path)
        return path

    return make


def load(path, task):
    """What is read of a log, or the sentence that says why nothing is."""
    try:
        return LogSource(path).load(task).steps
    except LogError as error:
        assert str(path) in str(error)
        assert "\n" not in str(error).strip()
        return str(error)


# --- Any damage ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in KINDS for name in FILES[kind]])
@given(data=st.data())
@settings(max_examples=15)
def test_a_flipped_bit_is_a_sentence_or_steps_of_the_task(task, make, tmp_path_factory, kind, name, data):
    path = tmp_path_factory.getbasetemp() / f"flipped.{kind}"
    if not path.exists():
        shutil.move(make(kind), path)
    file = path / name
    whole = file.read_bytes()
    bit = data.draw(st.integers(0, 8 * len(whole) - 1))
    flipped = bytearray(whole)
    flipped[bit // 8] ^= 1 << bit % 8
    file.write_bytes(flipped)
    try:
        found = load(path, task)
        assert isinstance(found, str) or np.isfinite(found.features).all()
    finally:
        file.write_bytes(whole)


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in KINDS for name in FILES[kind]])
@given(junk=st.binary(max_size=60), keep=st.floats(0, 1))
@settings(max_examples=15)
def test_any_bytes_in_place_of_the_end_of_a_file_are_a_sentence(
    task, make, tmp_path_factory, kind, name, junk, keep
):
    path = tmp_path_factory.getbasetemp() / f"cut.{kind}"
    if not path.exists():
        shutil.move(make(kind), path)
    file = path / name
    whole = file.read_bytes()
    file.write_bytes(whole[: int(keep * len(whole) * 0.99)] + junk)
    try:
        found = load(path, task)
        # Whole lines of a CSV are a shorter CSV.
        assert isinstance(found, str) or kind == "csv"
    finally:
        file.write_bytes(whole)


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in KINDS for name in FILES[kind]])
def test_a_missing_file_a_folder_or_a_pipe_in_its_place_is_a_sentence(task, make, kind, name):
    path = make(kind)
    file = path / name
    file.unlink()
    assert isinstance(load(path, task), str)
    file.mkdir()
    assert isinstance(load(path, task), str)
    file.rmdir()
    os.mkfifo(file)
    assert isinstance(load(path, task), str)


def test_other_files_and_folders_are_no_logs(task, tmp_path):
    (tmp_path / "notes.txt").write_text("state,action")
    (tmp_path / "steps.pkl").write_bytes(b"cos\nsystem\n(S'touch run'\ntR.")
    for path in (tmp_path, tmp_path / "notes.txt", tmp_path / "steps.pkl"):
        assert "neither a .csv or .parquet file nor the folder of a run" in load(path, task)
    assert "there is no such file or folder" in load(tmp_path / "nowhere", task)


# --- CSV and Parquet ----------------------------------------------------------------------------------------

TABLES = {
    "words": (
        "state,action,is_intervention,episode\n0,left,1,0\n",
        "action holds 'left', which is not a number",
    ),
    "gaps": ("state,action,is_intervention,episode\n0,,1,0\n", "action holds '', which is not a number"),
    "short rows": (
        "state,action,is_intervention,episode\n0,1\n",
        "its rows are not all as long as its first",
    ),
    "twins": (
        "state,state,action,is_intervention,episode\n0,0,1,1,0\n",
        "two of its columns have the same name",
    ),
    "no rows": ("state,action,is_intervention,episode\n", "it has no steps"),
    "nothing": ("", r"it has no state \(or observation.state"),
    "a gap": (
        "state.0,state.2,action,is_intervention,episode\n0,0,1,1,0\n",
        "the columns state.N do not count from 0 without a gap",
    ),
    "huge": ("state,action,is_intervention,episode\n0,1e400,1,0\n", "some numbers of action are not finite"),
    "long": ("state,action,is_intervention,episode\n0,1,1,1e30\n", "episode must hold one integer per step"),
}


@pytest.mark.parametrize(("text", "message"), TABLES.values(), ids=TABLES)
def test_a_csv_that_is_no_log_is_a_sentence(task, tmp_path, text, message):
    (tmp_path / "log.csv").write_text(text)
    with pytest.raises(LogError, match=message):
        LogSource(tmp_path / "log.csv").load(task)


def test_a_csv_in_another_encoding_or_with_an_endless_field_is_a_sentence(task, tmp_path):
    (tmp_path / "log.csv").write_bytes("größe,1\n".encode("utf-16"))
    assert isinstance(load(tmp_path / "log.csv", task), str)
    (tmp_path / "log.csv").write_text('state,"' + "a" * 200_000)
    assert "it is not a CSV file" in load(tmp_path / "log.csv", task)


def parquet(path, **changes):
    log = {"state": [0, 1], "action": [0, 1], "is_intervention": [True, False], "episode": [0, 0]}
    pq.write_table(pa.table(log | changes), path)
    return path


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([1, None]), "action has gaps in 1 rows"),
        (pa.array(["a", "b"]), "action holds string, which are not numbers"),
        (pa.array([[1], [1, 2]]), "action holds lists of different lengths"),
        (pa.array([[1], None]), "action has gaps"),
        (pa.array([{"x": 1}, {"x": 2}]), r"action holds struct<x: int64>, which are not numbers"),
        (pa.array([1, 2], pa.timestamp("s")), "which are not numbers"),
    ],
)
def test_a_parquet_column_that_holds_no_numbers_is_named(task, tmp_path, column, message):
    with pytest.raises(LogError, match=message):
        LogSource(parquet(tmp_path / "log.parquet", action=column)).load(task)


def test_a_parquet_file_that_unpacks_to_too_much_is_not_unpacked(task, tmp_path):
    """Runs of one number take hardly any space: these 40 million fit in 0.1 MB."""
    n = 10_000_000
    table = {name: np.zeros(n, dtype=np.int8) for name in ("state", "action", "is_intervention", "episode")}
    pq.write_table(pa.table(table), tmp_path / "log.parquet")
    assert (tmp_path / "log.parquet").stat().st_size < 200_000
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "LARGEST_ARRAYS", 1_000_000)
        assert "it unpacks to more than the 1000000 bytes that are read" in load(
            tmp_path / "log.parquet", task
        )


def test_files_that_are_too_large_are_not_read(task, make, monkeypatch):
    monkeypatch.setattr(tables, "LARGEST_CSV", 100)
    monkeypatch.setattr(tables, "LARGEST_ARRAYS", 100)
    monkeypatch.setattr(columns, "LARGEST_ARRAYS", 100)
    for kind in KINDS:
        assert "more than the 100 that are read" in load(make(kind), task)


# --- Minari -------------------------------------------------------------------------------------------------


def edit(file, **changes):
    """Put other values into an object of JSON; None takes them out."""
    found = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({name: value for name, value in found.items() if value is not None}))


def test_an_environment_that_a_dataset_names_is_never_made(task, make, tmp_path, monkeypatch):
    """Minari itself would import and run what env_spec names if the spaces are missing."""
    (tmp_path / "evil_dataset.py").write_text("from pathlib import Path\nPath('it-ran').touch()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    spec = {"id": "Evil-v0", "entry_point": "evil_dataset:Env", "kwargs": {}, "additional_wrappers": []}
    path = make("minari")
    edit(path / "data/metadata.json", env_spec=json.dumps(spec), eval_env_spec=json.dumps(spec))
    assert not isinstance(load(path, task), str)  # it is not looked at
    edit(path / "data/metadata.json", observation_space=None)
    assert "does not tell the spaces" in load(path, task)
    assert not Path("it-ran").exists()


METADATA = {
    "another format": ({"data_format": "pickle"}, "its data_format must be one of hdf5, arrow, parquet"),
    "no format": ({"data_format": None}, "its data_format must be one of"),
    "a strange space": ({"action_space": '{"type": "Eval"}'}, "its action_space is 'Eval' or holds pictures"),
    "pictures": (
        {"observation_space": '{"type": "Box", "dtype": "uint8", "shape": [9, 9, 3], "low": 0, "high": 255}'},
        "its observation_space is 'Box' or holds pictures",
    ),
    "a space that is none": ({"action_space": "[]"}, "cannot be read as a log"),
    "an endless space": ({"action_space": "[" * 100_000}, "cannot be read as a log"),
    "a vast space": (
        {"observation_space": '{"type": "Box", "dtype": "f8", "shape": [1000000000], "low": 0, "high": 1}'},
        "the members of its observation_space have more than 1048576 numbers",
    ),
    "no episodes": ({"total_episodes": 0}, "it has no episodes"),
    "many episodes": ({"total_episodes": 10**18}, "cannot be read as a log"),
    "half an episode": ({"total_episodes": 0.5}, "cannot be read as a log"),
}


@pytest.mark.parametrize(("changes", "message"), METADATA.values(), ids=METADATA)
def test_metadata_that_cannot_be_is_a_sentence(task, make, changes, message):
    path = make("minari")
    edit(path / "data/metadata.json", **changes)
    assert message in load(path, task)


def link_out(group, tmp_path):
    group["observations"] = h5py.ExternalLink(str(tmp_path / "secret.hdf5"), "/observations")


def link_in(group, tmp_path):
    group["observations"] = h5py.SoftLink("/episode_1/observations")


def store_outside(group, tmp_path):
    (tmp_path / "secret.bin").write_bytes(bytes(800))
    group.create_dataset("observations", (100,), "i8", external=[(str(tmp_path / "secret.bin"), 0, 800)])


def show_another(group, tmp_path):
    layout = h5py.VirtualLayout((100,), "i8")
    layout[:] = h5py.VirtualSource(str(tmp_path / "secret.hdf5"), "observations", (100,))
    group.create_virtual_dataset("observations", layout)


def write_words(group, tmp_path):
    group.create_dataset("observations", data=["a", "b"], dtype=h5py.string_dtype())


def blow_up(group, tmp_path):
    group.create_dataset("observations", (10**12,), "i8", chunks=(10**8,))


def shatter(group, tmp_path):
    group.create_dataset("observations", (10**7,), "i8", chunks=(1,))


def nest(group, tmp_path):
    for _ in range(20):
        group = group.create_group("g")


def close_a_circle(group, tmp_path):
    group["infos/again"] = group


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (link_out, "/episode_0/observations is a link, which is not followed"),
        (link_in, "/episode_0/observations is a link, which is not followed"),
        (store_outside, "/episode_0/observations lies in another file, which is not opened"),
        (show_another, "/episode_0/observations lies in another file, which is not opened"),
        (write_words, "/episode_0/observations holds object, which are not numbers"),
        (blow_up, "it unpacks to 8000000"),
        (shatter, "/episode_0/observations lies in more than 65536 pieces"),
        (nest, "groups are nested more than"),
        (close_a_circle, "groups are nested more than"),
    ],
)
def test_hdf5_that_reaches_out_or_blows_up_is_a_sentence(task, make, tmp_path, harm, message):
    with h5py.File(tmp_path / "secret.hdf5", "w") as secret:
        secret["observations"] = np.zeros(100, dtype=np.int64)
    path = make("minari")
    with h5py.File(path / "data/main_data.hdf5", "a") as file:
        if harm not in (nest, close_a_circle):
            del file["episode_0/observations"]
        harm(file["episode_0"], tmp_path)
    assert message in load(path, task)


def test_an_episode_without_its_last_observation_is_a_sentence(task, make):
    path = make("minari")
    with h5py.File(path / "data/main_data.hdf5", "a") as file:
        observations = file["episode_0/observations"][:-1]
        del file["episode_0/observations"]
        file["episode_0/observations"] = observations
    n = len(observations)
    assert f"episode 0 has {n} observations for {n} steps" in load(path, task)


# --- LeRobot ------------------------------------------------------------------------------------------------


def test_other_versions_of_lerobot_are_named(task, make):
    path = make("lerobot")
    for version in ("v2.1", None, 3):
        edit(path / "meta/info.json", codebase_version=version)
        assert f"a LeRobotDataset of version {version!r}, of which only v3 is read" in load(path, task)


def test_files_that_a_lerobot_dataset_names_elsewhere_are_not_opened(task, steps, make, tmp_path):
    path = make("lerobot")
    edit(path / "meta/info.json", data_path=str(tmp_path / "secret-{chunk_index}-{file_index}.parquet"))
    np.testing.assert_array_equal(load(path, task).state, steps.state)
