"""What is read back from run folders and bundles of runs."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from mereq_min.lab.runs.files import ArraysError, RunError, damaged, load_arrays, write_file
from mereq_min.lab.runs.provenance import Provenance
from mereq_min.loop import LoopConfig
from mereq_min.methods import METHODS
from mereq_min.steps import Steps


class Row(TypedDict):
    """One iteration of a run, a line of iterations.jsonl; numbers that are not finite are None.

    A task's `evaluate` may add measures of its own, and a method's update a report of its fit.
    """

    iteration: int
    """From 1."""
    intervention_rate: float
    """lambda, the share of this iteration's steps that the expert controlled."""
    expert_samples: int
    """Expert steps of this and all earlier iterations [steps]."""
    steps: int
    """All steps of this and all earlier iterations [steps]."""
    theta: list[float] | None
    """(K,) inferred weights after the update; None for imitation."""
    standard_errors: NotRequired[list[float | None]]
    """(K,) of theta."""
    reward_distance: NotRequired[float | None]
    """STARC distance of theta to the true reward; only if the task has an oracle."""
    task_return: NotRequired[float]
    """Mean return of an episode under the environment's own reward, after the update."""
    success: NotRequired[float]
    """Share of episodes in which the task is done."""
    expert_return: NotRequired[float]
    """Mean return of an episode under the expert's reward; only if the task has an oracle."""
    kl_to_expert: NotRequired[float]
    """Mean KL(expert || policy) over the expert's steps [nats]; only if the task has an oracle."""
    feature_divergence: NotRequired[list[float]]
    """(K,) Jensen-Shannon divergence of the features from the expert's [bits]; likewise."""


class PriorRecord(TypedDict):
    """The prior of a run that was not the task's own, as far as it can be written down."""

    sha256: str
    """Of its arrays, see `files.hash_arrays`."""
    temperature: float | None
    """At which it is soft-optimal, None if unknown [reward]."""


class Header(Provenance):
    """The contents of a run's config.json."""

    config: dict[str, Any]
    """`RunConfig` as JSON."""
    definition: dict[str, Any]
    """See `run.define_task`."""
    prior: NotRequired[PriorRecord]
    """Of a prior that is saved beside it, as prior.safetensors."""


class Record(Header):
    """A run: what was run, and what came of it."""

    iterations: list[Row]
    """One row for each iteration that is finished."""


def is_finished(rows: Sequence[Row], loop: LoopConfig) -> bool:
    """Whether a run with these rows did all its iterations, or got below its threshold."""
    return len(rows) >= loop.iterations or (bool(rows) and rows[-1]["intervention_rate"] < loop.threshold)


def read_config(path: Path) -> Header:
    """The contents of a run's config.json.

    Raises:
        RunError: if there is none, or it is damaged.
    """
    file = path / "config.json"
    if not file.is_file():
        raise RunError(f"{path} is not a run: it has no config.json")
    try:
        header = json.loads(file.read_text())
        if not {"config", "definition"} <= set(header) or header["config"]["method"] not in METHODS:
            raise ValueError("it does not say what was run")
    except (ValueError, TypeError, KeyError) as error:
        raise damaged(file, error) from error
    return header


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
    """Wall time of each iteration by its number, as far as it was kept [s].

    Raises:
        RunError: if the file is damaged.
    """
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
        return Steps(**load_run_arrays(file))
    except (TypeError, ValueError) as error:
        raise damaged(file, error) from error


def load_run_arrays(file: Path) -> dict[str, Any]:
    """Read the arrays of a file of a run.

    Raises:
        RunError: if the file is missing or damaged; the message says how to run it again.
    """
    try:
        return load_arrays(file)
    except ArraysError as error:
        raise damaged(file, error.reason) from error


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def find_runs(root: Path) -> list[Path]:
    """All run folders below `root` with a finished iteration, sorted."""
    return sorted(file.parent for file in root.rglob("iterations.jsonl"))


def bundle(paths: Iterable[Path], file: Path) -> None:
    """Write runs as one gzipped file, a `Record` as JSON on each line."""
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
