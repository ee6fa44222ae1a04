"""Many runs at once, in processes of their own here or on a Ray cluster, and how long they will take."""

from __future__ import annotations

import contextlib
import heapq
import os
import socket
import traceback
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, NamedTuple

import joblib

from mereq_min.inverse import FeatureMatchingConfig
from mereq_min.lab.plugins import load_task
from mereq_min.lab.runs.files import RunError
from mereq_min.lab.runs.records import is_finished, read_rows, read_seconds
from mereq_min.lab.runs.run import RunConfig, discard, run, run_folder
from mereq_min.loop import LoopConfig
from mereq_min.methods import EstimatorConfig

Engine = Literal["local", "ray"]

PAPER: dict[str, tuple[LoopConfig, EstimatorConfig]] = {
    # 500 steps are 12 episodes: 250 are too few to tell rates of 0.05 and 0.10 apart. Each gradient step
    # rolls out 64 episodes, whose noise is above feature matching's tolerance: past 50 it only wanders.
    "highway": (
        LoopConfig(steps_per_iteration=500),
        EstimatorConfig(matching=FeatureMatchingConfig(max_steps=50)),
    ),
    # 10 episodes, nearly as many as on the highway: of 5, none may be one in which the prior is stopped. 15
    # gradient steps of half a second keep a run at a few minutes.
    **{
        name: (
            LoopConfig(steps_per_iteration=1000),
            EstimatorConfig(matching=FeatureMatchingConfig(max_steps=15)),
        )
        for name in ("bottle", "eraser", "pillow")
    },
}
"""The tasks of the paper, and the settings of their recorded runs."""


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
    """Runs in the order in which they are begun; what is on disk says how far they are.

    Args:
        configs: the runs.
        out: root of their folders.
        workers: processes.
        engine: local for processes of this machine; ray for those of a cluster, to which `out` must be the
            same folder on every machine.
    """

    def __init__(
        self, configs: Sequence[RunConfig], out: Path, *, workers: int, engine: Engine = "local"
    ) -> None:
        self.configs, self.out, self.workers, self.engine = configs, out.resolve(), workers, engine

    def run(self, *, overwrite: bool = False) -> dict[Path, str]:
        """Run or resume all; a failed run does not stop the others, and its error is kept beside it.

        Args:
            overwrite: discard what is there and start over.

        Returns:
            The error message of each failed run by its folder.

        Raises:
            RunError: if a worker died, or the cluster cannot be used.
        """
        for config in self.configs:
            path = run_folder(self.out, config)
            _error_file(path).unlink(missing_ok=True)
            if overwrite:
                discard(path)
        with _parallel(self.engine, self.workers):
            # Not in batches: joblib makes them large while it meets finished runs, and then gives one worker
            # many unfinished ones.
            jobs = (joblib.delayed(attempt)(config, self.out) for config in self.configs)
            try:
                messages = joblib.Parallel(batch_size=1)(jobs)
            except BrokenExecutor as error:
                raise RunError(
                    "a worker died, killed perhaps for want of memory; the same command goes on where it "
                    "stopped, with fewer --workers if need be"
                ) from error
        return {
            run_folder(self.out, config): message
            for config, message in zip(self.configs, messages, strict=True)
            if message
        }

    def progress(self) -> Progress:
        """Look how far the runs are, and estimate the time left from the iterations that were timed."""
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
        # Most like it comes first: an iteration of the same number, method and task, ..., any.
        typical = {known: fmean(taken) for known, taken in timed.items()}
        finished = sum(not iterations for iterations in left)
        total = sum(done) + sum(map(len, left))
        if not typical:
            return Progress(sum(done), total, finished, None if any(left) else 0.0)
        free = [0.0] * self.workers  # when each worker is free again, if the rest is dealt out in order
        for config, iterations in zip(self.configs, left, strict=True):
            predicted = sum(
                next(typical[known] for known in _likeness(config, iteration) if known in typical)
                for iteration in iterations
            )
            heapq.heappush(free, heapq.heappop(free) + predicted)
        return Progress(sum(done), total, finished, max(free))

    def _look(self, config: RunConfig) -> tuple[list[dict[str, Any]], dict[int, float]]:
        """Rows and wall times of a run; none of a damaged one, which its worker will complain about."""
        path = run_folder(self.out, config)
        try:
            return read_rows(path), read_seconds(path)
        except RunError:
            return [], {}


def attempt(config: RunConfig, out: Path) -> str | None:
    """One run in a worker; returns what went wrong, which is kept in full beside the run's folder."""
    try:
        run(load_task(config.task), config, out)
    except Exception as error:
        log = _error_file(run_folder(out, config))
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(traceback.format_exc())
        return f"{type(error).__name__}: {error} (see {log})"
    return None


def _error_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.error.txt")


def _likeness(config: RunConfig, iteration: int) -> list[tuple[Any, ...]]:
    """What an iteration is likened to, the most like it first: the first one of a run has most to solve."""
    return [(config.task, config.method, iteration), (config.task, config.method), (config.task,), ()]


@contextlib.contextmanager
def _parallel(engine: Engine, workers: int) -> Iterator[None]:
    """Let joblib work on an engine; a cluster that was started for this is stopped again.

    Raises:
        RunError: if Ray is missing, or no cluster answers at RAY_ADDRESS.
    """
    if engine == "local":
        with joblib.parallel_config("loky", n_jobs=workers):
            yield
        return
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing is reported to anybody
    try:
        import ray
        from ray.util.joblib import register_ray
    except ModuleNotFoundError as error:
        raise RunError("--engine ray needs Ray; pip install 'mereq-min[cluster]'") from error
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
    """Make sure that somebody answers at host:port, for which Ray itself waits for many minutes.

    Raises:
        RunError: if nobody does.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host:
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except (OSError, ValueError) as error:
            raise RunError(f"no Ray cluster answers at RAY_ADDRESS={address}: {error}") from error
