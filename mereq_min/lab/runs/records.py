"""What is read back from run folders and bundles of runs, and checked: whole, as written, and sensible."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict, cast

import msgspec

from mereq_min.lab.runs.config import RunConfig
from mereq_min.lab.runs.files import (
    Arrays,
    ArraysError,
    RunError,
    damaged,
    hash_arrays,
    load_arrays,
    read_file,
    write_file,
)
from mereq_min.lab.runs.provenance import Provenance
from mereq_min.loop import LoopConfig
from mereq_min.methods import METHODS
from mereq_min.steps import Steps

LARGEST_JSON = 2**24
"""Size of the largest config.json and seconds.json, and of a line of others, that is read [bytes]."""
LARGEST_LOG = 2**28
"""Size of the largest iterations.jsonl, and of an unpacked bundle, that is read [bytes]."""
DEEPEST_JSON = 32
"""Lists and objects of JSON inside each other that are read."""

_Count = Annotated[int, msgspec.Meta(ge=0)]
_Positive = Annotated[int, msgspec.Meta(ge=1)]
_NotNegative = Annotated[float, msgspec.Meta(ge=0)]
_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class Seal(TypedDict):
    """What belongs to an iteration in its run folder, each as its SHA-256 in hexadecimal."""

    steps: _Sha256
    """Of its file of steps."""
    checkpoint: _Sha256
    """Of the checkpoint after it."""
    policy: NotRequired[_Sha256]
    """Of policy.safetensors after it, if there is one."""
    row: _Sha256
    """Of the row itself, this hash left out, together with the row before it."""


class Row(TypedDict):
    """One iteration of a run, a line of iterations.jsonl; numbers that are not finite are None.

    A task's `evaluate` may add measures of its own, and a method's update a report of its fit.
    """

    iteration: _Positive
    """From 1."""
    intervention_rate: _Share
    """lambda, the share of this iteration's steps that the expert controlled."""
    expert_samples: _Count
    """Expert steps of this and all earlier iterations [steps]."""
    steps: _Positive
    """All steps of this and all earlier iterations [steps]."""
    remeasured_rate: NotRequired[_Share | None]
    """lambda of the policy that this iteration watched, measured again over at least
    `run.REMEASURED_EPISODES` whole episodes by an expert who makes no errors; only where it is needed, see
    `run.needs_remeasuring`."""
    theta: list[float] | None
    """(K,) inferred weights after the update; None for imitation."""
    standard_errors: NotRequired[list[_NotNegative | None]]
    """(K,) of theta."""
    solves: NotRequired[_Positive]
    """Policies that the update solved for; missing, as are the next two, if theta was kept."""
    gradient_norm: NotRequired[_NotNegative | None]
    """Euclidean norm of the gradient at theta."""
    converged: NotRequired[bool]
    """Whether the solve for theta met its stopping rule within the allowed steps."""
    reward_distance: NotRequired[float | None]
    """STARC distance of theta to the true reward; only if the task has an oracle."""
    task_return: NotRequired[float | None]
    """Mean return of an episode under the environment's own reward, after the update."""
    success: NotRequired[float | None]
    """Share of episodes in which the task is done."""
    expert_return: NotRequired[float | None]
    """Mean return of an episode under the expert's reward; only if the task has an oracle."""
    kl_to_expert: NotRequired[float | None]
    """Mean KL(expert || policy) over the expert's steps [nats]; only if the task has an oracle."""
    feature_divergence: NotRequired[list[float | None]]
    """(K,) Jensen-Shannon divergence of the features from the expert's [bits]; likewise."""
    sha256: NotRequired[Seal]
    """Only in a run folder, see `read_sealed_rows`."""


class PriorRecord(TypedDict):
    """The prior of a run that was not the task's own, as far as it can be written down."""

    sha256: _Sha256
    """Of its arrays, see `files.hash_arrays`."""
    temperature: float | None
    """At which it is soft-optimal, None if unknown [reward]."""


class Header(Provenance):
    """The contents of a run's config.json."""

    config: dict[str, Any]
    """`RunConfig` as JSON."""
    engine: NotRequired[str]
    """What computed the updates of a neural learner; where it is missing, torch did."""
    definition: dict[str, Any]
    """See `run.define_task`."""
    prior: NotRequired[PriorRecord]
    """Of a prior that is saved beside it, as prior.safetensors."""
    sha256: NotRequired[_Sha256]
    """Of all the rest; only in a run folder, and not in those from before hashes were kept."""


class Record(Header):
    """A run: what was run, and what came of it."""

    iterations: list[Row]
    """One row for each iteration that is finished."""


def is_finished(rows: Sequence[Row], loop: LoopConfig) -> bool:
    """Whether a run with these rows did all its iterations, or got below its threshold."""
    return len(rows) >= loop.iterations or (bool(rows) and rows[-1]["intervention_rate"] < loop.threshold)


def read_config(path: Path) -> Header:
    """The contents of a run's config.json.

    Settings that the run's version did not know yet have their defaults.

    Raises:
        RunError: if there is none, or it is damaged.
    """
    file = path / "config.json"
    if not file.is_file():
        raise RunError(f"{path} is not a run: it has no config.json")
    with _blame(file):
        header = _parse(read_file(file, LARGEST_JSON))
        checked = _check_header(header)
        if "sha256" in checked and checked["sha256"] != _hash_header(header):
            raise ValueError("it was changed after it was written (SHA-256 mismatch)")
    return checked


def write_config(path: Path, header: Header) -> None:
    """Write config.json with the hash by which `read_config` knows that it is whole."""
    sealed = {**header, "sha256": _hash_header(header)}
    write_file(path / "config.json", json.dumps(sealed, indent=1).encode())


def _hash_header(header: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in header.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest).encode()).hexdigest()


def read_rows(path: Path) -> list[Row]:
    """The rows of a run's finished iterations, without their hashes.

    Raises:
        RunError: if the file is damaged.
    """
    return [unseal(row) for row in read_sealed_rows(path)]


def read_sealed_rows(path: Path, header: Header | None = None) -> list[Row]:
    """The rows of a run's finished iterations, as they stand in iterations.jsonl.

    Each row carries the hashes of the iteration's files, and its own, which also covers the row before it. A
    run folder from before hashes were kept has none, neither here nor in config.json: it can be read, though
    nothing tells whether its numbers are those that were written.

    Args:
        path: the run's folder.
        header: what `read_config` returned; default: config.json is read, if there is one.

    Raises:
        RunError: if a file is damaged.
    """
    file = path / "iterations.jsonl"
    if not file.exists():
        return []
    if header is None and (path / "config.json").exists():
        header = read_config(path)
    with _blame(file):
        raw = [_parse(line) for line in read_file(file, LARGEST_LOG).splitlines()]
        rows = _check_rows(raw, header)
        is_sealed = any("sha256" in row for row in rows) if header is None else "sha256" in header
        previous = ""
        for row in rows:
            if ("sha256" in row) != is_sealed:
                raise ValueError(f"row {row['iteration']} has hashes and others have none, or it lacks them")
            if is_sealed and row["sha256"]["row"] != _hash_row(row, previous):
                raise ValueError(
                    f"row {row['iteration']} was changed after it was written (SHA-256 mismatch)"
                )
            previous = row["sha256"]["row"] if is_sealed else ""
    return rows


def seal(row: Row, files: Mapping[str, str], rows: Sequence[Row]) -> Row:
    """A row with its hashes, as the next of iterations.jsonl.

    Args:
        row: without hashes.
        files: SHA-256 of `steps`, `checkpoint` and, if there is one, `policy`.
        rows: the rows before it.
    """
    sealed = cast(Row, {**row, "sha256": dict(files)})
    own = _hash_row(sealed, rows[-1]["sha256"]["row"] if rows else "")
    return cast(Row, {**row, "sha256": {**files, "row": own}})


def unseal(row: Row) -> Row:
    """A row without its hashes."""
    return cast(Row, {name: value for name, value in row.items() if name != "sha256"})


def _hash_row(row: Row, previous: str) -> str:
    hashes = {name: value for name, value in row["sha256"].items() if name != "row"}
    return hashlib.sha256((previous + json.dumps({**row, "sha256": hashes})).encode()).hexdigest()


def read_seconds(path: Path) -> dict[int, float]:
    """Wall time of each iteration by its number, as far as it was kept [s].

    Raises:
        RunError: if the file is damaged.
    """
    file = path / "seconds.json"
    if not file.exists():
        return {}
    with _blame(file):
        return msgspec.json.decode(read_file(file, LARGEST_JSON), type=dict[int, float])


def read_record(path: Path) -> Record:
    """What a run was and what came of it: the contents of config.json, and its rows as `iterations`."""
    header = read_config(path)
    return {**header, "iterations": [unseal(row) for row in read_sealed_rows(path, header)]}


@contextlib.contextmanager
def _blame(file: Path) -> Iterator[None]:
    """Turn whatever is wrong with the contents of a run's file into a `RunError` that names it."""
    try:
        yield
    except ArraysError as error:
        raise damaged(file, error.reason) from error
    except (OSError, ValueError, TypeError, KeyError, msgspec.MsgspecError, RecursionError) as error:
        raise damaged(file, error) from error


def _parse(data: bytes) -> Any:
    """JSON that is neither long nor deep; NaN and infinities are refused.

    Raises:
        ValueError, msgspec.MsgspecError, RecursionError: otherwise.
    """
    if len(data) > LARGEST_JSON:
        raise ValueError(f"a line has {len(data)} bytes, more than the {LARGEST_JSON} that are read")
    found = msgspec.json.decode(data)
    level: list[Any] = [[found]]
    for _ in range(DEEPEST_JSON + 1):
        inside = [each.values() if isinstance(each, dict) else each for each in level]
        level = [part for parts in inside for part in parts if isinstance(part, dict | list)]
        if not level:
            return found
    raise ValueError(f"its JSON is nested more than {DEEPEST_JSON} levels deep")


def _check_header(found: Any) -> Header:
    """Check what config.json says against the types above.

    Raises:
        ValueError, msgspec.ValidationError: if it does not describe a run.
    """
    header = msgspec.convert(found, Header)  # a copy, whose order is another
    if unknown := set(found) - {*Header.__required_keys__, *Header.__optional_keys__}:
        raise ValueError(f"unknown keys: {', '.join(sorted(unknown))}")
    config = asdict(msgspec.convert(header["config"], RunConfig))
    known = flatten(config).keys()
    if unknown := flatten(header["config"]).keys() - known:
        raise ValueError(f"unknown settings: {', '.join(sorted(unknown))}")
    msgspec.convert(header["definition"].get("feature_names"), list[str])
    return cast(Header, {**found, "config": config})


def _check_rows(found: list[Any], header: Header | None) -> list[Row]:
    """Check rows against the types above, against each other, and against the features of the task.

    Raises:
        ValueError, msgspec.ValidationError: if they are not those of a run.
    """
    for row in found:
        msgspec.convert(row, Row)
    rows: list[Row] = found  # what the task adds has no types
    if [row["iteration"] for row in rows] != list(range(1, len(rows) + 1)):
        raise ValueError("iterations are missing")
    samples = [row["expert_samples"] for row in rows]
    if sorted(samples) != samples or any(row["expert_samples"] > row["steps"] for row in rows):
        raise ValueError("expert_samples decreases, or exceeds steps")
    if header is not None:
        for row in rows:
            _check_vectors(row, header)
    return rows


def _check_vectors(row: Row, header: Header) -> None:
    """Check that a row has theta if its method infers one, and an entry for each feature of its task.

    Raises:
        ValueError: otherwise.
    """
    theta, errors = row["theta"], row.get("standard_errors")
    if METHODS[header["config"]["method"]].reward is None:
        if theta is not None:
            raise ValueError("the method infers no theta")
    elif theta is None or errors is None:
        raise ValueError("theta or its standard errors are missing")
    for vector in (theta, errors, row.get("feature_divergence")):
        if vector is not None and len(vector) != len(header["definition"]["feature_names"]):
            raise ValueError("a vector in a row does not have one entry per feature")


def is_complete(record: Record) -> bool:
    """Whether a recorded run is finished, see `is_finished`."""
    loop = record["config"]["loop"]
    return is_finished(record["iterations"], LoopConfig(loop["iterations"], threshold=loop["threshold"]))


def read_steps(path: Path, iteration: int) -> Steps:
    """The steps of one iteration, exactly as they were taken.

    Raises:
        RunError: if the file is missing or damaged.
    """
    rows = read_sealed_rows(path)
    return load_steps(path, iteration, rows[iteration - 1] if iteration <= len(rows) else None)


def load_steps(path: Path, iteration: int, row: Row | None) -> Steps:
    """The steps of one iteration, whose row of `read_sealed_rows` is known; see `read_steps`."""
    file = path / f"steps-{iteration:03d}.safetensors"
    hashes = {} if row is None else row.get("sha256", {})
    arrays = load_run_arrays(file, hashes.get("steps"))
    with _blame(file):
        return Steps(**arrays)


def load_run_arrays(file: Path, sha256: str | None = None) -> Arrays:
    """Read the arrays of a file of a run.

    Args:
        file: the file.
        sha256: SHA-256 that it must have, in hexadecimal; None if it is not known.

    Raises:
        RunError: if the file is missing or damaged; the message says how to run it again.
    """
    with _blame(file):
        return load_arrays(file, sha256=sha256)


def read_policy(path: Path, rows: Sequence[Row]) -> Arrays | None:
    """The arrays of a run's last policy, None if it offered none.

    Args:
        path: the run's folder.
        rows: its rows, see `read_sealed_rows`.

    Raises:
        RunError: if the file is missing or damaged.
    """
    file = policy_file(path, len(rows))
    sha256 = rows[-1]["sha256"].get("policy") if rows and "sha256" in rows[-1] else None
    return load_run_arrays(file, sha256) if file.exists() or sha256 is not None else None


def policy_file(path: Path, iteration: int) -> Path:
    """The file of the policy after an iteration, which has a name of its own until its row is written."""
    new = path / f"policy-{iteration:03d}.safetensors"
    return new if new.exists() else path / "policy.safetensors"


def read_prior(path: Path, header: Header) -> Arrays | None:
    """The arrays of the prior that was saved beside a run, None if there was none.

    Raises:
        RunError: if the file is missing or damaged.
    """
    if "prior" not in header:
        return None
    file = path / "prior.safetensors"
    arrays = load_run_arrays(file)
    if hash_arrays(arrays).hex() != header["prior"]["sha256"]:
        raise damaged(file, "it is not the prior that config.json speaks of")
    return arrays


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
    """Write runs as one gzipped file, a `Record` as JSON on each line.

    It holds no hashes, since the files that they are of stay behind; gzip has a checksum of its own.
    """
    records = ({name: part for name, part in read_record(path).items() if name != "sha256"} for path in paths)
    lines = "".join(json.dumps(record) + "\n" for record in records)
    write_file(file, gzip.compress(lines.encode(), mtime=0))  # no time stamp: the same runs, the same bytes


def read_bundle(file: Path) -> Iterator[Record]:
    """The runs of a file written by `bundle`.

    Raises:
        RunError: if the file is missing or damaged.
    """
    try:
        packed = io.BytesIO(read_file(file, LARGEST_LOG))
        with gzip.GzipFile(fileobj=packed) as stream:
            lines = stream.read(LARGEST_LOG + 1)
        if len(lines) > LARGEST_LOG:
            raise ValueError(f"it unpacks to more than the {LARGEST_LOG} bytes that are read")
        for line in lines.splitlines():
            yield _check_record(_parse(line))
    except (OSError, EOFError, zlib.error, ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise RunError(
            f"{file} is missing or damaged ({error}); run the comparison again to write it"
        ) from error


def _check_record(found: Any) -> Record:
    """Check a line of a bundle, as `_check_header` and `_check_rows` do."""
    rest = dict(msgspec.convert(found, dict[str, Any]))
    rows = msgspec.convert(rest.pop("iterations", None), list[Any])
    header = _check_header(rest)
    return {**header, "iterations": _check_rows(rows, header)}
