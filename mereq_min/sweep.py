"""Many runs at once, in processes of their own."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

import joblib

from mereq_min.catalogue import load_task
from mereq_min.runs import RunConfig, run, run_folder


def run_all(
    configs: Sequence[RunConfig], out: Path, overwrite: bool, workers: int, backend: str
) -> Iterator[tuple[Path, str | None]]:
    """Run or resume all runs; a failed one does not stop the others.

    Args:
        configs: the runs.
        out: root of their folders.
        overwrite: start them over.
        workers: processes.
        backend: joblib backend.

    Yields:
        Folder and error message (None if it went well) of each run, as they finish.
    """
    with joblib.parallel_config(backend, n_jobs=workers):
        jobs = (joblib.delayed(attempt)(config, out, overwrite) for config in configs)
        yield from joblib.Parallel(return_as="generator_unordered")(jobs)


def attempt(config: RunConfig, out: Path, overwrite: bool) -> tuple[Path, str | None]:
    """One run in a worker; its failure is kept beside it and does not stop the others."""
    path = run_folder(out, config)
    log = path.with_name(f"{path.name}.error.txt")
    try:
        run(load_task(config.task), config, out, overwrite=overwrite)
    except Exception as error:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(traceback.format_exc())
        return path, f"{type(error).__name__}: {error} (see {log})"
    log.unlink(missing_ok=True)
    return path, None
