"""Records of figures that make their own runs: a header, then a line of JSON for each run."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from mereq_min import Iteration, Task
from mereq_min.lab.runs.provenance import provenance

Job = tuple[Any, ...]


def read_record(file: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the header and the runs of a record."""
    header, *runs = (json.loads(line) for line in file.read_text().splitlines())
    return header, runs


def describe_run(task: Task, turns: Sequence[Iteration]) -> dict[str, Any]:
    """Return rate, expert samples and theta by iteration, and the measures of the last policy."""
    measures = task.evaluate(turns[-1].policy)
    return {
        "rate": [turn.intervention_rate for turn in turns],
        "expert_samples": [turn.expert_samples for turn in turns],
        "theta": [np.round(turn.info["theta"], 4).tolist() for turn in turns],
        **{name: round(measures[name], 5) for name in ("expert_return", "kl_to_expert", "success")},
    }


def append_missing(
    file: Path,
    config: dict[str, Any],
    keys: Sequence[str],
    jobs: Iterable[Job],
    measure: Callable[..., dict[str, Any]],
    describe: Callable[[], dict[str, Any]] = dict,
) -> None:
    """Append the runs that a record lacks, each as soon as it is done; begin the record if there is none.

    The header names the commit at which the record was begun; runs made at another one name theirs.

    Args:
        file: the record.
        config: settings of all runs, kept in the header.
        keys: names of the entries of a job, which tell the runs apart.
        jobs: arguments of `measure`, one tuple a run.
        measure: makes a run and returns its outcome.
        describe: returns what else the header of a new record says.

    Raises:
        SystemExit: if the record was made with another `config`.
    """
    if not file.exists():
        file.write_text(json.dumps({"config": config, **describe(), **provenance()}) + "\n")
    header, runs = read_record(file)
    if header["config"] != config:
        raise SystemExit(f"{file} was recorded with other settings; move it away to record again")
    done = {tuple(run[key] for key in keys) for run in runs}
    commit = provenance()["git"]
    source = {} if commit == header["git"] else {"git": commit}
    with file.open("a") as lines:
        for job in track([job for job in jobs if job not in done], "running"):
            run = {**dict(zip(keys, job, strict=True)), **measure(*job), **source}
            lines.write(json.dumps(run) + "\n")
            lines.flush()
