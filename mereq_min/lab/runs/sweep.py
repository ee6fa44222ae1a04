"""Many runs at once, in several processes or on a Ray cluster, and an estimate of the time left."""

from __future__ import annotations

import contextlib
import heapq
import os
import socket
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, NamedTuple

import joblib
from joblib.externals.loky import get_reusable_executor

from mereq_min.lab.datasets.logs import LogSource
from mereq_min.lab.plugins import install_hint, load_expert
from mereq_min.lab.runs.config import RunConfig, run_folder
from mereq_min.lab.runs.files import RunError
from mereq_min.lab.runs.records import Row, is_finished, read_rows, read_seconds
from mereq_min.lab.runs.run import discard, load_config_task, run

Engine = Literal["local", "ray"]
"""Where runs are executed: in processes of this machine, or on a Ray cluster."""
SECONDS_BETWEEN_SIGNS = 1.0
"""How often a worker looks for signs of life of its sweep [s]."""


class Progress(NamedTuple):
    """How far a sweep has come."""

    iterations: int
    """Iterations that are done."""
    total: int
    """Iterations in all; what failed runs left undone is not counted."""
    finished: int
    """Runs that need no more, failed ones too."""
    seconds_left: float | None
    """Estimated time until all are done, None while no iteration was timed [s]."""


class Sweep:
    """Many runs, started in the order given; their folders on disk say how far each one is.

    Args:
        configs: the runs.
        out: root of their folders.
        workers: number of processes.
        engine: local for processes of this machine; ray for those of a cluster, all of whose machines must
            see the same folder `out`.
        log: the log that the runs fit in place of rollouts, if they do.
    """

    def __init__(
        self,
        configs: Sequence[RunConfig],
        out: Path,
        *,
        workers: int,
        engine: Engine = "local",
        log: LogSource | None = None,
    ) -> None:
        self.configs, self.out, self.workers, self.engine = configs, out.resolve(), workers, engine
        self.log = log if log is None else replace(log, path=log.path.resolve())

    def run(self, *, overwrite: bool = False) -> dict[Path, str]:
        """Run or resume all; a failed run does not stop the others, and leaves its error in a file.

        Args:
            overwrite: discard what is there and start over.

        Returns:
            The error message of each failed run by its folder.

        Raises:
            RunError: if a worker died, or the cluster cannot be used.
        """
        failures: dict[Path, str] = {}
        for config in self.configs:
            path = run_folder(self.out, config)
            _error_file(path).unlink(missing_ok=True)
            if overwrite:
                try:
                    discard(path)
                except RunError as error:  # another process writes this run
                    failures[path] = str(error)
        todo = [config for config in self.configs if run_folder(self.out, config) not in failures]
        with _parallel(self.engine, self.workers):
            # Without batches: joblib would enlarge them while it meets finished runs, and would then give
            # many unfinished ones to a single worker.
            parent = os.getpid() if self.engine == "local" else None
            jobs = (joblib.delayed(attempt)(config, self.out, self.log, parent) for config in todo)
            try:
                messages = joblib.Parallel(batch_size=1)(jobs)
            except BrokenExecutor as error:
                raise RunError(
                    "a worker died, perhaps because memory ran out; repeat the command to resume, with fewer "
                    "--workers to use less memory"
                ) from error
        attempted = zip(todo, messages, strict=True)
        failures |= {run_folder(self.out, config): message for config, message in attempted if message}
        return failures

    def progress(self) -> Progress:
        """Say how far the runs are, and estimate the time left from the iterations timed so far."""
        done, left = [], []
        timed: dict[tuple[Any, ...], list[float]] = defaultdict(list)
        for config in self.configs:
            rows, seconds = self._look(config)
            done.append(len(rows))
            open_ = (
                not is_finished(rows, config.loop) and not _error_file(run_folder(self.out, config)).exists()
            )
            left.append(range(len(rows) + 1, config.loop.iterations + 1) if open_ else range(0))
            for iteration, taken in seconds.items():
                for known in _likeness(config, iteration):
                    timed[known].append(taken)
        # The most similar known iterations predict the time: same number, method and task first, any last.
        typical = {known: fmean(taken) for known, taken in timed.items()}
        finished = sum(not iterations for iterations in left)
        total = sum(done) + sum(map(len, left))
        if not typical:
            return Progress(sum(done), total, finished, None if any(left) else 0.0)
        free = [0.0] * self.workers  # when each worker is free again, if runs are handed out in order
        for config, iterations in zip(self.configs, left, strict=True):
            predicted = sum(
                next(typical[known] for known in _likeness(config, iteration) if known in typical)
                for iteration in iterations
            )
            heapq.heappush(free, heapq.heappop(free) + predicted)
        return Progress(sum(done), total, finished, max(free))

    def _look(self, config: RunConfig) -> tuple[list[Row], dict[int, float]]:
        """Rows and wall times of a run; empty for a damaged one, which its worker will report."""
        path = run_folder(self.out, config)
        try:
            return read_rows(path), read_seconds(path)
        except RunError:
            return [], {}


def attempt(
    config: RunConfig, out: Path, source: LogSource | None = None, parent: int | None = None
) -> str | None:
    """Do one run in a worker; returns its error message, and keeps the traceback beside the run's folder.

    Args:
        config: what to run.
        out: root of the run folders.
        source: the log that is fitted in place of rollouts, if one is.
        parent: process id of the sweep, if it runs on this machine; the worker ends with it.
    """
    if parent is not None and parent != os.getpid():
        _end_with_parent(parent)
    try:
        task = load_config_task(config, out)
        if source is None:
            run(task, config, out, expert=load_expert(config.expert, task))
        else:
            found = source.load(task)
            if found.record != config.log:
                raise RunError(f"{source.path} was changed after the command began")
            run(task, config, out, recorded=found.iterations)
    except Exception as error:
        message, log = f"{type(error).__name__}: {error}", _error_file(run_folder(out, config))
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text(traceback.format_exc())
        except OSError as unwritten:  # the disk may be full, which is perhaps why the run failed
            return f"{message} (the traceback could not be kept: {unwritten.strerror})"
        return f"{message} (see {log})"
    return None


@cache
def _end_with_parent(parent: int) -> None:
    """End this process soon after its parent: a sweep that is killed cannot end its workers itself.

    They would otherwise finish their runs, and whoever starts the sweep again is told that these are in use.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(SECONDS_BETWEEN_SIGNS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _error_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.error.txt")


def _likeness(config: RunConfig, iteration: int) -> list[tuple[Any, ...]]:
    """Groups of similar iterations, the most similar first; the first of a run takes longest."""
    return [(config.task, config.method, iteration), (config.task, config.method), (config.task,), ()]


@contextlib.contextmanager
def _parallel(engine: Engine, workers: int) -> Iterator[None]:
    """Make joblib use an engine; a cluster that was started for it is stopped again.

    Raises:
        RunError: if Ray is missing, or no cluster answers at RAY_ADDRESS.
    """
    if engine == "local":
        try:
            with joblib.parallel_config("loky", n_jobs=workers):
                yield
        finally:
            # joblib would keep them for the next sweep, which may start in another folder, from whose modules
            # tasks are imported, or with other environment variables.
            get_reusable_executor().shutdown(wait=True)
        return
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # Ray must not report usage statistics
    try:
        import ray
        from ray.util.joblib import register_ray
    except ModuleNotFoundError as error:
        raise RunError(f"--engine ray needs Ray; {install_hint('cluster')}") from error
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    _check_address(os.environ.get("RAY_ADDRESS", "auto"))
    try:
        ray.init(address="auto", **quiet)  # RAY_ADDRESS, or what `ray start` started here
    except ConnectionError:
        ray.init(address="local", num_cpus=workers, include_dashboard=False, **quiet)
    register_ray()
    try:
        with joblib.parallel_config("ray", n_jobs=workers):
            yield
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Check that a cluster answers at host:port; Ray itself would wait for many minutes.

    Raises:
        RunError: if none does.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host:
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except (OSError, ValueError) as error:
            raise RunError(f"no Ray cluster answers at RAY_ADDRESS={address}: {error}") from error
