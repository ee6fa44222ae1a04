"""What is read back from run folders and bundles of runs."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mereq_min.lab.runs.files import RunError, damaged, load_arrays, write_file
from mereq_min.loop import LoopConfig
from mereq_min.methods import METHODS
from mereq_min.steps import Steps

Row = dict[str, Any]
Record = dict[str, Any]


def is_finished(rows: Sequence[Row], loop: LoopConfig) -> bool:
    """Whether a run with these rows did all its iterations, or got below its threshold."""
    return len(rows) >= loop.iterations or (bool(rows) and rows[-1]["intervention_rate"] < loop.threshold)


def read_config(path: Path) -> Record:
    """The contents of a run's config.json.

    Raises:
        RunError: if there is none, or it is damaged.
    """
    file = path / "config.json"
    if not file.is_file():
        raise RunError(f"{path} is not a run: it has no config.json")
    try:
        record = json.loads(file.read_text())
        if not {"config", "definition"} <= set(record) or record["config"]["method"] not in METHODS:
            raise ValueError("it does not say what was run")
    except (ValueError, TypeError, KeyError) as error:
        raise damaged(file, error) from error
    return record


def read_rows(path: Path) -> list[Row]:
    """The rows of a run's finished iterations.

    Raises:
        RunError: if the file is damaged.
    """
    file = path / "iterations.jsonl"
    if not file.exists():
        return []
    try:
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        if [row["iteration"] for row in rows] != list(range(1, len(rows) + 1)):
            raise ValueError("iterations are missing")
        if not all({"intervention_rate", "expert_samples", "theta"} <= set(row) for row in rows):
            raise ValueError("columns are missing")
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(file, error) from error
    return rows


def read_seconds(path: Path) -> dict[int, float]:
    """Wall time of each iteration by its number, as far as it was kept [s]."""
    file = path / "seconds.json"
    if not file.exists():
        return {}
    try:
        return {int(iteration): float(taken) for iteration, taken in json.loads(file.read_text()).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise damaged(file, error) from error


def read_record(path: Path) -> Record:
    """What a run was and what came of it: the contents of config.json, and its rows as `iterations`."""
    return {**read_config(path), "iterations": read_rows(path)}


def is_complete(record: Record) -> bool:
    """Whether a recorded run is finished, see `is_finished`."""
    loop = record["config"]["loop"]
    return is_finished(record["iterations"], LoopConfig(loop["iterations"], threshold=loop["threshold"]))


def read_steps(path: Path, iteration: int) -> Steps:
    """The steps of one iteration, exactly as they were taken.

    Raises:
        RunError: if the file is missing or damaged.
    """
    file = path / f"steps-{iteration:03d}.safetensors"
    try:
        return Steps(**load_arrays(file))
    except (TypeError, ValueError) as error:
        raise damaged(file, error) from error


def find_runs(root: Path) -> list[Path]:
    """All run folders below `root` with a finished iteration, sorted."""
    return sorted(file.parent for file in root.rglob("iterations.jsonl"))


def bundle(paths: Iterable[Path], file: Path) -> None:
    """Write runs as one gzipped file, a JSON object {"config", "versions", "git", "iterations"} a line."""
    lines = "".join(json.dumps(read_record(path)) + "\n" for path in paths)
    write_file(file, gzip.compress(lines.encode(), mtime=0))  # no time stamp: the same runs, the same bytes


def read_bundle(file: Path) -> Iterator[Record]:
    """The runs of a file written by `bundle`.

    Raises:
        RunError: if the file is missing or damaged.
    """
    try:
        for line in gzip.decompress(file.read_bytes()).splitlines():
            yield json.loads(line)
    except (OSError, EOFError, ValueError) as error:
        raise RunError(
            f"{file} is missing or damaged ({error}); run the comparison again to write it"
        ) from error
