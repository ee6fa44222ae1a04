"""The commands of many runs: `mereq compare` and `mereq reproduce`."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Self

import tyro
from rich.progress import TextColumn
from rich.table import Table

from mereq_min.interfaces import Task
from mereq_min.lab.commands.align import Output, with_imperfections
from mereq_min.lab.commands.console import complain, console, progress_bar, stderr_console
from mereq_min.lab.datasets.logs import Log, LogSource
from mereq_min.lab.plugins import UsageError, check_name, load_task
from mereq_min.lab.runs.config import RunConfig, run_folder, slug
from mereq_min.lab.runs.records import (
    bundle,
    find_runs,
    read_config,
    read_policy,
    read_record,
    read_sealed_rows,
)
from mereq_min.lab.runs.sweep import Engine, Sweep
from mereq_min.lab.show.published import PAPER_NAMES
from mereq_min.lab.show.tables import comparison_table, fits_table, outcomes_table
from mereq_min.loop import Settings, settings_of
from mereq_min.methods import METHODS, RECORDED_METHODS
from mereq_min.validation import check_number

MAX_SEEDS = 100_000
"""Largest number of runs of a method on a task in one command."""
SECONDS_BETWEEN_LOOKS = 2.0
"""Time between two looks at the progress of a sweep [s]."""


@dataclass(frozen=True)
class Many(Output):
    """Options that the commands of many runs share."""

    methods: tuple[str, ...] = RECORDED_METHODS
    """Names of the methods; also MEReQ-all, MEReQ-S, Residual-BC, RLIF, PVP, MILE, PPL and, on tabular
    tasks, HG-DAgger-1."""
    seeds: int = 30
    """Runs of each method on each task [runs]."""
    first_seed: int = 0
    """The first of their seeds."""
    workers: int = 2
    """Number of processes."""
    engine: Engine = "local"
    """local: processes of this machine. ray: those of the cluster at RAY_ADDRESS, or of the one that `ray
    start` started here, or of one started for this command alone (needs the extra `cluster`)."""

    def sweep(
        self, tasks: Sequence[str], settings: Callable[[str], Settings], log: LogSource | None = None
    ) -> int:
        """Run what is not finished, write one bundle per task, print the tables; returns the exit code.

        Args:
            tasks: their names.
            settings: returns those of a task by its name.
            log: a log of the only task, which is fitted in place of rollouts.
        """
        if not tasks:
            raise UsageError("name at least one task; `mereq tasks` lists them")
        if not self.methods:
            raise UsageError(f"name at least one method ({', '.join(METHODS)})")
        check_number("seeds", self.seeds, 1, MAX_SEEDS, integer=True)
        check_number("workers", self.workers, 1, integer=True)
        check_number("first_seed", self.first_seed, 0, integer=True)
        tasks = list(dict.fromkeys(tasks))
        for name in tasks:
            load_task(name)
        for name in self.methods:
            check_name("method", name, METHODS)
        tuned = {task: settings(task) for task in tasks}
        make = _configure if log is None else _configure_fits(log.load(load_task(tasks[0])))
        configs = [  # seed by seed: whenever it is stopped, everything has about as many seeds
            make(task, method, seed, tuned[task])
            for seed in range(self.first_seed, self.first_seed + self.seeds)
            for task in tasks
            for method in dict.fromkeys(self.methods)
        ]
        workers = min(self.workers, len(configs))
        sweep = Sweep(configs, self.out, workers=workers, engine=self.engine, log=log)
        with watch(sweep):
            failures = sweep.run(overwrite=self.overwrite)
        for task in tasks:
            mine = [config for config in configs if config.task == task]
            ran = [run_folder(sweep.out, config) for config in mine]
            file = self.out / f"{slug(mine[0])}.jsonl.gz"
            found = find_runs(sweep.out / slug(mine[0]))
            done = [path for path in ran if path not in failures]
            if log is None:
                records = [read_record(path) for path in done]
                console.print(comparison_table(task, records))
                console.print(
                    outcomes_table(task, records, _expert_returns(load_task(task)) if records else None)
                )
            else:
                console.print(_roll_out(task, log, done))
            try:
                bundle([path for path in found if path not in failures], file)
            except OSError as error:  # a full disk, which is perhaps why runs failed
                failures[file] = f"the runs could not be bundled ({error.strerror})"
            else:
                console.print(f"all runs of {task} are bundled in {file}\n", highlight=False)
        for path, message in failures.items():
            complain(f"failed: {path}: {message}", style="red")
        return 1 if failures else 0


def _configure(task: str, method: str, seed: int, settings: Settings) -> RunConfig:
    return RunConfig(task, method, seed, settings.loop, settings.estimators)


def _configure_fits(log: Log) -> Callable[[str, str, int, Settings], RunConfig]:
    return lambda task, method, seed, settings: log.config(task, method, seed, settings.estimators)


def _roll_out(name: str, log: LogSource, paths: Sequence[Path]) -> Table:
    """Roll out what the methods made of a log, and tell how the policies do."""
    task = load_task(name)
    policies = []
    for path in paths:
        rows = read_sealed_rows(path)
        if (arrays := read_policy(path, rows)) is not None:
            policies.append((read_config(path)["config"]["method"], rows[-1], task.load_policy(arrays)))
    with stderr_console.status("rolling the policies out"):
        return fits_table(task, log.path, policies)


@tyro.conf.configure(tyro.conf.OmitArgPrefixes)
@dataclass(frozen=True)
class Compare(Many, Settings):
    """Run methods on tasks over many seeds; the same command resumes what was interrupted.

    With --log, all methods are fitted to one recorded log instead, and the policies that come out of it are
    rolled out.
    """

    tasks: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[TASK [TASK ...]]")] = (
        tyro.MISSING
    )
    """Names of the tasks; exactly one with --log."""
    imperfections: str = "none"
    """Errors of the simulated expert by name, see `mereq align`."""
    log: Path | None = None
    """A log that all methods are fitted to, see `mereq fit`; of the other options, those of the estimators
    and --demonstrations apply. Exact (tabular) methods need only one seed."""

    def with_recorded_settings(self) -> Self:
        """The defaults of this command, with the errors of that name."""
        return type(self)(tasks=self.tasks, loop=with_imperfections(self.loop, self.imperfections))

    def __call__(self) -> int:
        """Run all tasks with the same settings."""
        if self.log is None:
            return self.sweep(self.tasks, lambda task: self)
        if len(set(self.tasks)) != 1:
            raise UsageError("with --log, name exactly one task: the one that the log was recorded on")
        source = LogSource(self.log, demonstrations=self.loop.demonstrations)
        return self.sweep(self.tasks, lambda task: self, source)


@dataclass(frozen=True)
class Reproduce(Many):
    """Run all experiments of the paper, each task with its recorded settings; the same command resumes.

    `mereq figures` draws the results.
    """

    tasks: tuple[str, ...] = tuple(PAPER_NAMES)
    """Names of the tasks; those without recorded settings run with the defaults of `mereq compare`."""
    seeds: int = 8
    """Runs of each method on each task [runs]."""
    first_seed: int = 1000
    """The first of their seeds; the tasks were calibrated on seeds under 100."""
    out: Path = Path("runs/paper")
    """Folder for the runs."""
    iterations: int | None = None
    """Iterations of a run, to try it at less cost; default: those of the recorded runs [iterations]."""
    steps_per_iteration: int | None = None
    """Steps rolled out between updates; default: those of the recorded runs [steps]."""

    def __call__(self) -> int:
        """Run all tasks with their own settings."""
        budget = {"iterations": self.iterations, "steps_per_iteration": self.steps_per_iteration}
        given: dict[str, Any] = {name: value for name, value in budget.items() if value is not None}

        def settings(task: str) -> Settings:
            recorded = settings_of(load_task(task))
            return replace(recorded, loop=replace(recorded.loop, **given))

        return self.sweep(self.tasks, settings)


def _expert_returns(task: Task) -> tuple[float, float] | None:
    """Returns of prior and expert under the expert's reward; None without an oracle."""
    if task.oracle is None:
        return None
    prior, expert = (
        task.evaluate(policy)["expert_return"] for policy in (task.prior, task.oracle.expert_policy)
    )
    return prior, expert


@contextlib.contextmanager
def watch(sweep: Sweep) -> Iterator[None]:
    """Show how far a sweep is while it runs: as a bar, or in a file as a line for each finished run."""
    done, seen = threading.Event(), 0
    with progress_bar(TextColumn("{task.fields[left]}")) as bar:
        line = bar.add_task("", total=None, left="")

        def look() -> None:
            nonlocal seen
            now = sweep.progress()
            runs = f"{now.finished} of {len(sweep.configs)} runs"
            left = describe_time_left(now.seconds_left)
            bar.update(line, completed=now.iterations, total=now.total, description=runs, left=left)
            if not stderr_console.is_terminal and now.finished > seen:
                stderr_console.print(f"{runs}, {now.iterations} of {now.total} iterations, {left}")
            seen = now.finished

        def keep_looking() -> None:
            while not done.wait(SECONDS_BETWEEN_LOOKS):
                look()

        look()
        watcher = threading.Thread(target=keep_looking, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()
            look()


def describe_time_left(seconds: float | None) -> str:
    """A time in words, rounded to minutes."""
    if seconds is None:
        return "time left not known yet"
    minutes = round(seconds / 60)
    if minutes < 1:
        return "less than a minute left" if seconds else "done"
    return f"{minutes // 60} h {minutes % 60:02d} min left" if minutes >= 60 else f"{minutes} min left"
