"""Logs as LeRobotDataset v3: a folder with `meta` and `data`, the latter in Parquet.

States and actions lie there as float32, as LeRobot's policies expect, under `observation.state` and `action`;
those of float64 are rounded. Everything else is exact: interventions are in `intervention`, and the columns
that LeRobot does not know keep their names. In datasets of others, the names in `columns` are understood.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mereq_min.lab.datasets.columns import LogError, check_size, need
from mereq_min.lab.datasets.minari import split_episodes
from mereq_min.lab.datasets.tables import read_parquet
from mereq_min.lab.runs.files import Arrays, read_file, write_file
from mereq_min.steps import Steps

VERSION = "v3.0"
"""The version of the format."""
LARGEST_INFO = 2**24
"""Size of the largest info.json that is read [bytes]."""

DATA, EPISODES = "data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet"
PLACE = "chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
"""Where LeRobot looks for a file of given numbers."""
QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
EXACT_INTEGERS = 2**24
"""Whole numbers up to which float32 holds them all."""


def write_lerobot(folder: Path, steps: Steps, feature_names: Sequence[str], *, task: str, fps: int) -> None:
    """Write steps as a LeRobotDataset v3, without videos.

    Args:
        folder: the dataset's folder.
        steps: whole episodes, with next states.
        feature_names: names of the features.
        task: what the robot does, in words.
        fps: steps per second.

    Raises:
        LogError: if an episode is not whole, or float32 cannot hold a discrete state or action.
    """
    lengths = [len(part) for part in split_episodes(steps)]
    columns = _columns(steps, lengths, fps)
    names = {"features": list(feature_names)}
    features = {
        name: {
            "dtype": str(column.dtype),
            "shape": [1] if column.ndim == 1 else list(column.shape[1:]),
            "names": names.get(name),
        }
        for name, column in columns.items()
    }
    info = {
        "codebase_version": VERSION,
        "robot_type": None,
        "total_episodes": len(lengths),
        "total_frames": len(steps),
        "total_tasks": 1,
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": fps,
        "splits": {"train": f"0:{len(lengths)}"},
        "data_path": f"data/{PLACE}",
        "video_path": None,
        "features": features,
    }
    _write_table(folder / DATA, columns)
    _write_table(folder / EPISODES, _describe_episodes(lengths, task))
    _write_table(folder / "meta/tasks.parquet", {"task_index": np.array([0]), "task": [task]}, index="task")
    stats = {name: _measure(column) for name, column in columns.items()}
    write_file(folder / "meta/stats.json", json.dumps(stats).encode())
    write_file(folder / "meta/info.json", json.dumps(info, indent=1).encode())


def _columns(steps: Steps, lengths: Sequence[int], fps: int) -> dict[str, NDArray[Any]]:
    n = len(steps)
    columns = steps.columns()
    return {
        "observation.state": _as_float32("state", columns["state"]),
        "action": _as_float32("action", columns["action"]),
        "intervention": steps.is_intervention,
        "next.done": steps.terminated | steps.truncated,
        "policy_action": _as_float32("policy_action", columns["policy_action"]),
        "next_state": _as_float32("next_state", columns["next_state"]),
        "features": steps.features if steps.features.shape[1] > 1 else steps.features[:, 0],
        "terminated": steps.terminated,
        "truncated": steps.truncated,
        "policy_version": steps.policy_version,
        "episode": steps.episode,
        **({} if steps.seed is None else {"seed": steps.seed}),
        "timestamp": (steps.t / fps).astype(np.float32),
        "frame_index": steps.t,
        "episode_index": np.repeat(np.arange(len(lengths)), lengths),
        "index": np.arange(n),
        "task_index": np.zeros(n, dtype=np.int64),
    }


def _as_float32(name: str, column: NDArray[Any]) -> NDArray[np.float32]:
    """A column (N,) or flattened (N, D) as float32; one entry alone is a number, as LeRobot has it."""
    if column.dtype.kind in "iu" and (np.abs(column) > EXACT_INTEGERS).any():
        raise LogError(f"float32, in which LeRobot keeps {name}, cannot hold all of its whole numbers")
    flat = column.reshape(len(column), -1).astype(np.float32)
    return flat[:, 0] if flat.shape[1] == 1 else flat


def _describe_episodes(lengths: Sequence[int], task: str) -> dict[str, Any]:
    ends, n = np.cumsum(lengths), len(lengths)
    zeros = np.zeros(n, dtype=np.int64)
    places = ("data/chunk_index", "data/file_index", "meta/episodes/chunk_index", "meta/episodes/file_index")
    return {
        "episode_index": np.arange(n),
        "tasks": [[task]] * n,
        "length": np.array(lengths),
        "dataset_from_index": ends - lengths,
        "dataset_to_index": ends,
        **dict.fromkeys(places, zeros),
    }


def _measure(column: NDArray[Any]) -> dict[str, list[float]]:
    """What LeRobot normalises with, by name: one number per entry of the column."""
    values = column.reshape(len(column), -1).astype(np.float64)
    quantiles = np.quantile(values, list(QUANTILES.values()), axis=0)
    measures = {"min": values.min(0), "max": values.max(0), "mean": values.mean(0), "std": values.std(0)}
    measures |= dict(zip(QUANTILES, quantiles, strict=True))
    return {**{name: each.tolist() for name, each in measures.items()}, "count": [len(values)]}


def _write_table(file: Path, columns: dict[str, Any], *, index: str | None = None) -> None:
    """Write columns as Parquet, lists where they have several entries; `index` is that of a pandas table."""
    pa, pq = need("pyarrow"), need("pyarrow.parquet")
    table = pa.table({name: _to_arrow(column, pa) for name, column in columns.items()})
    if index is not None:
        about = [
            {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy, "metadata": None}
            for name, kind, numpy in (("task_index", "int64", "int64"), (index, "unicode", "object"))
        ]
        pandas = {"index_columns": [index], "column_indexes": [], "columns": about, "pandas_version": "2.0.0"}
        table = table.replace_schema_metadata({"pandas": json.dumps(pandas)})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    write_file(file, buffer.getvalue())


def _to_arrow(column: Any, pa: Any) -> Any:
    if not isinstance(column, np.ndarray) or column.ndim == 1:
        return pa.array(column)
    return pa.FixedSizeListArray.from_arrays(np.ascontiguousarray(column).reshape(-1), column.shape[1])


def read_lerobot(folder: Path, feature_names: Sequence[str]) -> Arrays:
    """The columns of a LeRobotDataset v3; images and videos are left alone.

    Raises:
        OSError, ValueError, ...: if it cannot be read, see `columns.reading`.
    """
    info = msgspec.json.decode(read_file(folder / "meta/info.json", LARGEST_INFO), type=dict[str, Any])
    version = info.get("codebase_version")
    if not str(version).startswith("v3."):
        raise ValueError(
            f"it is a LeRobotDataset of version {version!r:.40}, of which only v3 is read; LeRobot converts "
            "older ones"
        )
    # The files are found by LeRobot's own names: a path that info.json names could lie anywhere.
    files = sorted((folder / "data").glob("chunk-*/file-*.parquet"))
    if not files:
        raise ValueError("it has no data/chunk-000/file-000.parquet")
    check_size(folder / "data")
    parts = [read_parquet(file, feature_names) for file in files]
    shared = [name for name in parts[0] if all(name in part for part in parts)]
    return {name: np.concatenate([part[name] for part in parts]) for name in shared}
