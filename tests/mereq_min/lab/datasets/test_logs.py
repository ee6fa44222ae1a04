"""Logs of ours come back bit for bit from every format, and those of others are understood."""

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import minari
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gymnasium.spaces import Box, Discrete
from hypothesis import given, settings
from hypothesis import strategies as st
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage
from strategies import generators
from tiny import make_tiny

from mereq_min import METHODS, EstimatorConfig, LoopConfig, Steps
from mereq_min.lab.datasets.columns import LogError, make_steps
from mereq_min.lab.datasets.logs import LogSource, name_log, read_run_steps, write_log
from mereq_min.lab.datasets.tables import spread_columns
from mereq_min.lab.runs.config import RunConfig
from mereq_min.lab.runs.files import RunError, save_arrays
from mereq_min.lab.runs.records import load_steps, read_config, read_rows
from mereq_min.lab.runs.run import run

FORMATS = ("csv", "parquet", "minari", "lerobot")
EXACT = ("csv", "parquet", "minari")
LOOP = LoopConfig(3, 40)


class StubEnv(gymnasium.Env):
    metadata = {"render_fps": 20}  # noqa: RUF012

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space


@dataclass(frozen=True)
class StubTask:
    """All that reading and writing a log ask of a task."""

    state_space: gymnasium.Space
    action_space: gymnasium.Space
    feature_names: tuple[str, ...]
    name: str = "stub"
    oracle: None = None

    def make_env(self):
        return StubEnv(self.state_space, self.action_space)


def draw_numbers(rng, shape, dtype):
    """Ordinary numbers, and among them those whose last bits or signs are easily lost."""
    info = np.finfo(dtype)
    odd = np.array([0.0, -0.0, 1 / 3, info.tiny / 4, 1e15, -1e-15, info.eps], dtype=dtype)
    ordinary = rng.standard_normal(shape).astype(dtype)
    return np.where(rng.random(shape) < 0.5, ordinary, rng.choice(odd, shape))


def draw_member(rng, n, space):
    """Members (n, ...) of a space."""
    if isinstance(space, Discrete):
        return rng.integers(space.start, space.start + space.n, n)
    return draw_numbers(rng, (n, *space.shape), space.dtype)


boxes = st.builds(
    lambda shape, dtype: Box(-np.inf, np.inf, shape, dtype),
    st.sampled_from([(1,), (3,), (2, 2)]),
    st.sampled_from([np.float32, np.float64]),
)


@st.composite
def recordings(draw):
    """A task and steps of whole episodes in it, with numbers of all kinds."""
    state_space = draw(st.builds(lambda start: Discrete(5, start=start), st.integers(-2, 2)) | boxes)
    action_space = draw(st.just(Discrete(4)) | boxes)
    lengths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    names = tuple(f"feature {k}, of some" for k in range(draw(st.integers(1, 3))))
    rng, n = draw(generators), sum(lengths)
    chains = [draw_member(rng, length + 1, state_space) for length in lengths]
    is_end = np.isin(np.arange(n), np.cumsum(lengths) - 1)
    terminated = is_end & (rng.random(n) < 0.5)
    steps = Steps(
        state=np.concatenate([chain[:-1] for chain in chains]),
        action=draw_member(rng, n, action_space),
        policy_action=draw_member(rng, n, action_space),
        features=draw_numbers(rng, (n, len(names)), np.float64),
        is_intervention=(rng.random(n) < 0.5) | (np.arange(n) == 0),
        episode=rng.integers(9) + rng.integers(1, 4) * np.repeat(np.arange(len(lengths)), lengths),
        t=np.concatenate([np.arange(length) for length in lengths]),
        terminated=terminated,
        truncated=is_end & ~terminated,
        policy_version=np.sort(rng.integers(3, size=n)),
        next_state=np.concatenate([chain[1:] for chain in chains]),
    )
    return StubTask(state_space, action_space, names), steps


def assert_same(steps, again):
    """Every column has the same type, shape and bits."""
    assert again.columns().keys() == steps.columns().keys()
    for name, column in steps.columns().items():
        other = again.columns()[name]
        assert (other.dtype, other.shape) == (column.dtype, column.shape), name
        assert other.tobytes() == np.ascontiguousarray(column).tobytes(), name


def fresh(folder: Path, kind: str) -> Path:
    """A path at which nothing is yet."""
    folder.mkdir(exist_ok=True)
    return folder / f"{len(list(folder.iterdir()))}{f'.{kind}' if kind in ('csv', 'parquet') else '-v0'}"


@pytest.fixture(name="task", scope="module")
def _task():
    return make_tiny()


@pytest.fixture(name="recorded", scope="module")
def _recorded(task, tmp_path_factory):
    """Folders of a run by each method that the log is to be fitted by."""
    out = tmp_path_factory.mktemp("recorded")
    return {name: run(task, RunConfig("tiny", name, 0, LOOP), out) for name in METHODS}


@pytest.fixture(name="steps", scope="module")
def _steps(recorded):
    return read_run_steps(recorded["MEReQ"])


# --- Ours ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", EXACT)
@given(recording=recordings())
@settings(max_examples=15)
def test_every_bit_comes_back(tmp_path_factory, kind, recording):
    task, steps = recording
    path = fresh(tmp_path_factory.getbasetemp() / f"bits-{kind}", kind)
    write_log(path, kind, steps, task)
    assert_same(steps, LogSource(path).load(task).steps)


@given(recording=recordings())
@settings(max_examples=15)
def test_lerobot_rounds_states_and_actions_to_float32_and_nothing_else(tmp_path_factory, recording):
    task, steps = recording
    rounded = {}
    for name in ("state", "next_state", "action", "policy_action"):
        column = steps.columns()[name]
        rounded[name] = column.astype(np.float32).astype(column.dtype)
    path = fresh(tmp_path_factory.getbasetemp() / "float32", "lerobot")
    write_log(path, "lerobot", steps, task)
    assert_same(Steps(**{**steps.columns(), **rounded}), LogSource(path).load(task).steps)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_fit_of_an_exported_log_equals_the_recorded_run_bit_for_bit(task, recorded, tmp_path, kind):
    for method in METHODS if kind == "csv" else ("MEReQ-L",):
        path = recorded[method]
        target = fresh(tmp_path / "logs", kind)
        write_log(target, kind, read_run_steps(path), task)
        log = LogSource(target).load(task)
        config = log.config("tiny", method, 0, EstimatorConfig())
        fitted = run(task, config, tmp_path, recorded=log.iterations)
        for name in ("policy", "checkpoint-003", "steps-001", "steps-003"):
            file = f"{name}.safetensors"
            assert (fitted / file).read_bytes() == (path / file).read_bytes(), (method, name)
        rows = read_rows(path)
        for row in rows:
            row.pop("remeasured_rate", None)  # of policies that a log does not hold
        assert read_rows(fitted) == rows


def test_the_folder_of_a_run_is_a_log_too(task, recorded, steps):
    log = LogSource(recorded["MEReQ"]).load(task)
    assert_same(steps, log.steps)
    assert [set(each.policy_version) for each in log.iterations] == [{0}, {1}, {2}]
    assert log.record.patience == task.oracle.patience
    assert name_log(recorded["MEReQ"]) == "tiny-MEReQ-seed0"


def test_an_interrupted_fit_goes_on_bit_for_bit_and_only_with_the_same_log(task, recorded, tmp_path):
    log = LogSource(recorded["MEReQ"]).load(task)
    config = log.config("tiny", "MEReQ-L", 0, EstimatorConfig())

    class StopError(Exception):
        pass

    def stop(row):
        if row["iteration"] == 2:
            raise StopError

    whole = run(task, config, tmp_path / "whole", recorded=log.iterations)
    with pytest.raises(StopError):
        run(task, config, tmp_path / "halves", recorded=log.iterations, on_iteration=stop)
    halves = run(task, config, tmp_path / "halves", recorded=log.iterations)
    assert (halves / "iterations.jsonl").read_bytes() == (whole / "iterations.jsonl").read_bytes()
    assert read_config(whole)["config"]["log"] == {
        "name": "tiny-MEReQ-seed0", "sha256": log.record.sha256, "patience": 1
    }  # fmt: skip
    patient = LogSource(recorded["MEReQ"], patience=3).load(task)
    with pytest.raises(RunError, match=r"config.log.patience 1 there, 3 now"):
        run(task, patient.config("tiny", "MEReQ-L", 0, EstimatorConfig()), tmp_path / "whole")


def test_the_patience_of_a_log_decides_what_was_good_enough(task, recorded, tmp_path):
    thetas = []
    for patience in (0, 1, 3):
        log = LogSource(recorded["MEReQ"], patience=patience).load(task)
        config = log.config("tiny", "MEReQ", 0, EstimatorConfig())
        thetas.append(
            read_rows(run(task, config, tmp_path / str(patience), recorded=log.iterations))[-1]["theta"]
        )
    assert thetas[1] == read_rows(recorded["MEReQ"])[-1]["theta"]
    assert thetas[0] != thetas[1] != thetas[2]


def test_runs_from_before_next_states_were_kept_are_exported_as_tables_alone(task, steps, tmp_path):
    columns = {name: column for name, column in steps.columns().items() if name != "next_state"}
    old = Steps(**columns)
    write_log(tmp_path / "old.csv", "csv", old, task)
    assert_same(old, LogSource(tmp_path / "old.csv").load(task).steps)
    for kind in ("minari", "lerobot"):
        with pytest.raises(LogError, match="have no next_state"):
            write_log(tmp_path / "old-v0", kind, old, task)
    assert [each.name for each in tmp_path.iterdir()] == ["old.csv"]  # nothing half done is left


def test_episodes_that_are_not_whole_are_exported_as_tables_alone(task, steps, tmp_path):
    parts = steps.select(steps.is_intervention)
    write_log(tmp_path / "parts.parquet", "parquet", parts, task)
    assert_same(parts, LogSource(tmp_path / "parts.parquet").load(task).steps)
    with pytest.raises(LogError, match=r"episode \d+ is not whole; export it as csv or parquet"):
        write_log(tmp_path / "parts-v0", "minari", parts, task)


def test_nothing_is_overwritten(task, steps, tmp_path):
    (tmp_path / "log.csv").write_text("mine")
    with pytest.raises(LogError, match="is there already"):
        write_log(tmp_path / "log.csv", "csv", steps, task)
    assert (tmp_path / "log.csv").read_text() == "mine"


def test_whole_numbers_that_float32_does_not_hold_are_refused(tmp_path):
    task = StubTask(Discrete(2**26), Discrete(2), ("f",))
    n = np.arange(2)
    state = 2**25 + n
    steps = Steps(
        state, n, n, np.zeros((2, 1)), n == 0, 0 * n, n, n < 0, n == 1, 0 * n, np.append(state[1:], 0)
    )
    with pytest.raises(LogError, match="float32, in which LeRobot keeps state, cannot hold"):
        write_log(tmp_path / "log-v0", "lerobot", steps, task)


# --- What other libraries see ------------------------------------------------------------------------------


def test_minari_itself_reads_an_export(task, steps, tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    write_log(tmp_path / "tiny-v0", "minari", steps, task)
    dataset = minari.load_dataset("tiny-v0")
    env = task.make_env()
    assert (dataset.observation_space, dataset.action_space) == (env.observation_space, env.action_space)
    assert (dataset.total_steps, dataset.total_episodes) == (len(steps), len(set(steps.episode)))
    for number, episode in zip(np.unique(steps.episode), dataset.iterate_episodes(), strict=True):
        mine = steps.select(steps.episode == number)
        np.testing.assert_array_equal(episode.observations[:-1], mine.state)
        np.testing.assert_array_equal(episode.observations[1:], mine.next_state)
        np.testing.assert_array_equal(episode.actions, mine.action)
        np.testing.assert_array_equal(episode.terminations, mine.terminated)
        np.testing.assert_array_equal(episode.truncations, mine.truncated)
        np.testing.assert_array_equal(episode.infos["is_intervention"][1:], mine.is_intervention)
        np.testing.assert_array_equal(episode.infos["features"][1:], mine.features)


def test_pandas_reads_tables_and_finds_their_columns(task, steps, tmp_path):
    write_log(tmp_path / "log.csv", "csv", steps, task)
    write_log(tmp_path / "log.parquet", "parquet", steps, task)
    for table in (pd.read_csv(tmp_path / "log.csv"), pd.read_parquet(tmp_path / "log.parquet")):
        assert list(table) == list(spread_columns(steps, task.feature_names))
        np.testing.assert_array_equal(table["features.rug"], steps.features[:, 1])
        np.testing.assert_array_equal(table["is_intervention"], steps.is_intervention)


def test_the_files_of_an_export_are_those_of_a_lerobot_dataset_of_version_3(tmp_path):
    """The schema that lerobot 0.4 and later read: paths, names, types, and what the tables say."""
    task = StubTask(Box(-1, 1, (2, 2), np.float32), Discrete(3), ("a", "b"))
    n, lengths = 5, (2, 3)
    chain = np.arange(28, dtype=np.float32).reshape(7, 2, 2) / 28
    index = np.arange(n)
    steps = Steps(
        state=chain[[0, 1, 3, 4, 5]], action=index % 3, policy_action=(index + 1) % 3,
        features=np.column_stack([index, index**2]) / 3, is_intervention=index == 3,
        episode=np.repeat([7, 9], lengths), t=np.array([0, 1, 0, 1, 2]), terminated=index == 1,
        truncated=index == 4, policy_version=np.zeros(n, dtype=np.int64), next_state=chain[[1, 2, 4, 5, 6]],
    )  # fmt: skip
    write_log(tmp_path / "set", "lerobot", steps, task)
    files = {
        str(file.relative_to(tmp_path / "set")) for file in (tmp_path / "set").rglob("*") if file.is_file()
    }
    data, episodes = "data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet"
    assert files == {data, episodes, "meta/info.json", "meta/stats.json", "meta/tasks.parquet"}

    info = json.loads((tmp_path / "set/meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0"
    assert (info["fps"], info["total_episodes"], info["total_frames"], info["total_tasks"]) == (20, 2, 5, 1)
    assert info["splits"] == {"train": "0:2"}
    assert info["data_path"].format(chunk_index=0, file_index=0) == data
    types = {name: (each["dtype"], each["shape"]) for name, each in info["features"].items()}
    defaults = {name: ("int64", [1]) for name in ("frame_index", "episode_index", "index", "task_index")}
    assert types.items() >= {**defaults, "timestamp": ("float32", [1])}.items()
    assert types["observation.state"] == ("float32", [4])
    assert types["action"] == ("float32", [1])
    assert types["intervention"] == ("bool", [1])
    assert all("/" not in name and "names" in each for name, each in info["features"].items())

    table = pq.read_table(tmp_path / "set" / data)
    arrow = {"bool": pa.bool_(), "int64": pa.int64(), "float32": pa.float32(), "float64": pa.float64()}
    assert set(table.column_names) == set(types)
    for name, (dtype, (size,)) in types.items():
        assert table.schema.field(name).type == (arrow[dtype] if size == 1 else pa.list_(arrow[dtype], size))
    assert table["episode_index"].to_pylist() == [0, 0, 1, 1, 1]
    assert table["index"].to_pylist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(table["timestamp"].to_numpy(), steps.t / 20, rtol=1e-7)

    table = pq.read_table(tmp_path / "set" / episodes).to_pydict()
    assert table["length"] == [2, 3]
    assert (table["dataset_from_index"], table["dataset_to_index"]) == ([0, 2], [2, 5])
    assert table["tasks"] == [["stub"], ["stub"]]
    places = ("data/chunk_index", "data/file_index", "meta/episodes/chunk_index", "meta/episodes/file_index")
    assert all(table[place] == [0, 0] for place in places)
    tasks = pd.read_parquet(tmp_path / "set/meta/tasks.parquet")
    assert tasks.index.name == "task"
    assert tasks.loc["stub"].task_index == 0

    stats = json.loads((tmp_path / "set/meta/stats.json").read_text())
    assert set(stats) == set(types)
    assert set(stats["features"]) == {"min", "max", "mean", "std", "count", "q01", "q10", "q50", "q90", "q99"}
    np.testing.assert_allclose(stats["features"]["mean"], steps.features.mean(axis=0))
    np.testing.assert_allclose(stats["features"]["std"], steps.features.std(axis=0))
    assert stats["intervention"]["count"] == [5]


# --- Those of others ---------------------------------------------------------------------------------------


def column_names(**changes):
    """A log as `make_steps` takes it, of two episodes in the tiny room."""
    columns = {
        "state": np.array([0, 1, 2, 0, 1]),
        "action": np.array([4, 3, 2, 1, 0]),
        "is_intervention": np.array([0, 0, 1, 0, 1]),
        "episode": np.array([3, 3, 3, 5, 5]),
    }
    return {name: column for name, column in {**columns, **changes}.items() if column is not None}


def test_what_a_log_lacks_has_its_defaults(task):
    steps = make_steps(task, column_names())
    np.testing.assert_array_equal(steps.t, [0, 1, 2, 0, 1])
    np.testing.assert_array_equal(steps.truncated, [False, False, True, False, True])
    np.testing.assert_array_equal(steps.terminated, False)
    np.testing.assert_array_equal(steps.policy_action, steps.action)
    np.testing.assert_array_equal(steps.policy_version, 0)
    np.testing.assert_array_equal(steps.features, task.mdp.features[steps.state, steps.action])
    assert steps.next_state is None
    assert steps.segments() == [slice(2, 3), slice(4, 5)]


def test_the_experts_action_replaces_the_policys_where_it_took_over(task):
    """HIL-SERL, gym-hil and PVP keep the policy's action as `action`, and the person's in another column."""
    own = np.array([0, 0, 4, 0, 3])
    steps = make_steps(task, column_names(expert_action=own))
    np.testing.assert_array_equal(steps.policy_action, [4, 3, 2, 1, 0])
    np.testing.assert_array_equal(steps.action, [4, 3, 4, 1, 3])


def test_the_first_step_of_a_takeover_counts_where_it_is_marked_apart(task):
    """PVP's `takeover` is false at the onset."""
    onset = np.array([0, 1, 0, 0, 0])
    steps = make_steps(task, column_names(takeover_start=onset))
    assert steps.segments() == [slice(1, 3), slice(4, 5)]


def test_demonstrations_need_no_mark(task, tmp_path):
    columns = column_names(is_intervention=None)
    with pytest.raises(ValueError, match=r"it has no is_intervention \(or intervention, takeover,"):
        make_steps(task, columns)
    assert make_steps(task, columns, demonstrations=True).is_intervention.all()
    assert not make_steps(task, column_names(), demonstrations=True).is_intervention.all()


FOREIGN_NAMES = {
    "lerobot": {
        "state": "observation.state", "is_intervention": "intervention", "episode": "episode_index",
        "t": "frame_index",
    },
    "hil-serl": {"state": "observation", "expert_action": "intervene_action"},
    "gym-hil": {"state": "obs", "expert_action": "teleop_action"},
    "pvp": {"state": "obs", "is_intervention": "takeover", "expert_action": "raw_action"},
}  # fmt: skip


@pytest.mark.parametrize("names", FOREIGN_NAMES.values(), ids=FOREIGN_NAMES)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_the_names_of_others_are_understood(task, tmp_path, names, kind):
    columns = column_names(t=np.array([0, 1, 2, 0, 1]), expert_action=np.array([0, 0, 4, 0, 3]))
    table = pd.DataFrame({names.get(name, name): column for name, column in columns.items()})
    table["comment"] = "anything"
    path = tmp_path / f"theirs.{kind}"
    table.to_csv(path, index=False) if kind == "csv" else table.to_parquet(path)
    assert_same(make_steps(task, columns), LogSource(path).load(task).steps)


def test_a_csv_of_pandas_with_true_and_false_is_read(task, tmp_path):
    columns = column_names(terminated=np.array([False, False, False, False, True]))
    table = pd.DataFrame(columns)
    table["is_intervention"] = table["is_intervention"].astype(bool)
    table.to_csv(tmp_path / "pandas.csv", index=False)
    text = (tmp_path / "pandas.csv").read_text()
    assert "True" in text and "False" in text
    assert_same(make_steps(task, columns), LogSource(tmp_path / "pandas.csv").load(task).steps)


@pytest.mark.parametrize("data_format", ["hdf5", "arrow", "parquet"])
@pytest.mark.parametrize("reset_infos", [True, False])
def test_a_minari_dataset_of_others_is_read(task, steps, tmp_path, data_format, reset_infos):
    """Made by Minari, in its three formats; infos with those of the reset or without, features missing."""
    env = task.make_env()
    (tmp_path / "theirs").mkdir()
    storage = MinariStorage.new(
        tmp_path / "theirs/data", env.observation_space, env.action_space, data_format=data_format
    )
    episodes = [steps.select(steps.episode == number) for number in np.unique(steps.episode)]

    def info(column):
        padded = np.append([column[0]], column) if reset_infos or data_format != "hdf5" else column
        return padded.reshape(-1, 1)  # what has one axis, Arrow does not give back

    storage.update_episodes(
        [
            EpisodeBuffer(
                observations=np.append(each.state, each.next_state[-1:]),
                actions=each.action,
                rewards=np.zeros(len(each)),
                terminations=each.terminated,
                truncations=each.truncated,
                infos={"intervention": info(each.is_intervention.astype(np.float32))},
            )
            for each in episodes
        ]
    )
    found = LogSource(tmp_path / "theirs").load(task).steps
    for name in (
        "state",
        "next_state",
        "action",
        "is_intervention",
        "t",
        "terminated",
        "truncated",
        "features",
    ):
        np.testing.assert_array_equal(found.columns()[name], steps.columns()[name], err_msg=name)
    assert_same(found, LogSource(tmp_path / "theirs/data").load(task).steps)


def test_a_lerobot_dataset_of_others_is_read_over_all_its_files(task, tmp_path):
    """float32 all through, pictures beside it, and more than one file."""
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/info.json").write_text(json.dumps({"codebase_version": "v3.0", "fps": 10}))
    columns = column_names()
    for number, rows in enumerate((slice(0, 3), slice(3, 5))):
        file = tmp_path / f"data/chunk-00{number}/file-000.parquet"
        file.parent.mkdir(parents=True)
        state = [[float(x)] for x in columns["state"][rows]]
        table = {
            "observation.state": pa.array(state, pa.list_(pa.float32(), 1)),
            "action": columns["action"][rows].astype(np.float32),
            "intervention": columns["is_intervention"][rows].astype(np.float32),
            "episode_index": columns["episode"][rows],
            "observation.images.top": [{"bytes": b"\x89PNG", "path": None}] * len(state),
            "task": ["tidy up"] * len(state),
        }
        pq.write_table(pa.table(table), file)
    assert_same(make_steps(task, columns), LogSource(tmp_path).load(task).steps)


def test_features_that_need_the_next_state_leave_out_the_steps_that_lack_it():
    @dataclass(frozen=True)
    class Moving(StubTask):
        def features_of(self, state, action, next_state, reward):
            return np.column_stack([next_state - state, reward])

    task = Moving(Box(-9, 9, (1,), np.float64), Discrete(2), ("way", "reward"))
    columns = {
        "state": np.array([[0.0], [1.0], [3.0], [5.0], [4.0]]),
        "action": np.array([0, 1, 0, 1, 0]),
        "is_intervention": np.array([0, 1, 0, 1, 1]),
        "episode": np.array([0, 0, 0, 1, 1]),
        "reward": np.arange(5.0),
    }
    steps = make_steps(task, columns)
    np.testing.assert_array_equal(steps.features, [[1, 0], [2, 1], [-1, 3]])
    np.testing.assert_array_equal(steps.state[:, 0], [0, 1, 5])
    known = make_steps(task, {**columns, "next_state": np.array([[1.0], [3.0], [7.0], [4.0], [0.0]])})
    np.testing.assert_array_equal(known.features, [[1, 0], [2, 1], [4, 2], [-1, 3], [-4, 4]])


# --- What cannot be ----------------------------------------------------------------------------------------

WRONG = {
    "no state": ({"state": None}, r"it has no state \(or observation.state, observation, obs\)"),
    "no state and no action": ({"state": None, "action": None}, "it has no state .* and no action"),
    "no episode": ({"episode": None}, "it has no episode"),
    "a short column": ({"action": np.zeros(4, dtype=int)}, "action has 4 rows, but state has 5"),
    "words": ({"action": np.array(["a"] * 5)}, "action holds no numbers"),
    "objects": ({"action": np.array([None] * 5)}, "action holds no numbers"),
    "half an intervention": ({"is_intervention": np.full(5, 0.5)}, "is_intervention must hold 0 or 1"),
    "no number": ({"is_intervention": np.full(5, np.nan)}, "is_intervention must hold 0 or 1"),
    "half an episode": ({"episode": np.full(5, 0.5)}, "episode must hold one integer per step"),
    "an endless episode": ({"episode": np.full(5, np.inf)}, "episode must hold one integer per step"),
    "episodes backwards": ({"episode": np.array([3, 3, 3, 1, 1])}, "numbers of the episodes decrease"),
    "versions backwards": ({"policy_version": np.array([1, 1, 1, 0, 0])}, "policy_version decreases"),
    "time backwards": ({"t": np.array([2, 1, 0, 0, 1])}, "t must increase"),
    "a strange state": ({"state": np.full(5, 6)}, "state must hold integers from 0 to 5"),
    "a strange action": ({"action": np.full(5, -1)}, "action must hold integers from 0 to 4"),
    "half an action": ({"action": np.full(5, 0.5)}, "action must hold integers from 0 to 4"),
    "an infinite action": ({"action": np.full(5, np.inf)}, "some numbers of action are not finite"),
    "a vector": ({"state": np.zeros((5, 2))}, r"each state has shape \(2,\), that of the task has \(\)"),
    "too few features": ({"features": np.zeros((5, 1))}, "the features are not 2 finite numbers per step"),
    "infinite features": ({"features": np.full((5, 2), np.inf)}, "the features are not 2 finite numbers"),
    "a jump": ({"next_state": np.full(5, 4)}, "some next_state differs from the state of the following step"),
    "nothing": (
        {name: np.zeros(0) for name in ("state", "action", "is_intervention", "episode")}, "it has no steps"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG)
def test_columns_that_cannot_be_steps_are_refused_in_a_sentence(task, changes, message):
    with pytest.raises(ValueError, match=message):
        make_steps(task, column_names(**changes))


def test_features_that_nobody_can_compute_are_asked_for():
    task = StubTask(Discrete(6), Discrete(5), ("f",))
    with pytest.raises(ValueError, match=r"it has no features, and the task stub has no features_of"):
        make_steps(task, column_names())


def test_a_log_in_which_nobody_intervenes_is_refused(task, tmp_path):
    table = pd.DataFrame(column_names(is_intervention=np.zeros(5, dtype=int)))
    table.to_csv(tmp_path / "quiet.csv", index=False)
    with pytest.raises(LogError, match="nobody intervenes in"):
        LogSource(tmp_path / "quiet.csv").load(task)


def test_a_run_of_a_task_with_other_features_is_refused(task, recorded):
    other = SimpleNamespace(
        name="other", feature_names=("goal", "carpet"), make_env=task.make_env, oracle=None
    )
    with pytest.raises(LogError, match="its features are goal, rug, those of other are others"):
        LogSource(recorded["MEReQ"]).load(other)


def test_steps_with_and_without_next_states_are_one_run(task, recorded, tmp_path):
    """A run that was begun before they were kept and went on after."""
    path = recorded["MEReQ"]
    first = load_steps(path, 1, read_rows(path)[0])
    columns = {name: column for name, column in first.columns().items() if name != "next_state"}
    save_arrays(tmp_path / "steps-001.safetensors", columns)
    assert load_steps(tmp_path, 1, None).next_state is None
