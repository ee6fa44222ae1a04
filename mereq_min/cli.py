"""The command line `mereq`: most of its commands, and what other modules and packages add."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, make_dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from mereq_min.catalogue import UsageError, check_name, load_commands, load_task, task_factories
from mereq_min.check import CheckPolicy, CheckTask
from mereq_min.evaluate import Evaluate
from mereq_min.figures import Figures
from mereq_min.interfaces import Policy
from mereq_min.loop import LoopConfig
from mereq_min.methods import METHODS, EstimatorConfig
from mereq_min.pictures import draw_curve, film, to_gif
from mereq_min.report import (
    before_after_table,
    comparison_table,
    iterations_table,
    tasks_table,
    theta_table,
)
from mereq_min.runs import (
    Row,
    RunConfig,
    RunError,
    bundle,
    find_runs,
    load_arrays,
    read_config,
    read_record,
    read_rows,
    run,
    run_folder,
    write_events,
    write_file,
)
from mereq_min.soft import NotConvergedError
from mereq_min.sweep import PAPER, Engine, Sweep

console = Console()
if not console.is_terminal:
    console.width = 120  # into a pipe or a file nothing has to wrap at 80
complaints = Console(stderr=True)
"""Errors and progress; results alone go to standard output."""

SECONDS_BETWEEN_LOOKS = 2.0
"""How often a sweep is looked at [s]."""


@dataclass(frozen=True)
class Tasks:
    """List the tasks with their calibration: how often the prior and the expert itself are intervened on."""

    steps: int = 5_000
    """Steps rolled out for each rate [steps]."""
    seed: int = 0
    """Seed of the rollouts."""

    def __call__(self) -> int:
        """Print the table of the tasks whose packages are installed."""
        tasks = []
        for name in progress(task_factories(), "solving priors and experts"):
            try:
                tasks.append(load_task(name))
            except UsageError as error:
                complaints.print(f"left out: {error}", markup=False, highlight=False, soft_wrap=True)
        console.print(tasks_table(tasks, self.steps, self.seed))
        return 0


@dataclass(frozen=True)
class Output:
    """Where runs go."""

    out: Path = Path("runs")
    """Folder for the runs."""
    overwrite: bool = False
    """Discard what is there and start over."""


@dataclass(frozen=True)
class Settings:
    """What a run can be tuned by."""

    loop: LoopConfig = field(default_factory=LoopConfig)
    estimators: EstimatorConfig = field(default_factory=EstimatorConfig)


@tyro.conf.configure(tyro.conf.OmitArgPrefixes)
@dataclass(frozen=True)
class Align(Output, Settings):
    """Align the prior of a task with its expert; an interrupted run goes on where it stopped.

    A task of the paper has the settings of its recorded runs as defaults.
    """

    task: tyro.conf.Positional[str] = tyro.MISSING
    """Name of the task (see `mereq tasks`), or module:attribute of your own."""
    method: str = "MEReQ"
    """One of MEReQ, MEReQ-NP, MaxEnt, MaxEnt-FT, HG-DAgger-FT, IWR-FT, MEReQ-L."""
    seed: int = 0
    """Seed of the run."""
    tensorboard: bool = False
    """Write TensorBoard event files into the run's folder too."""

    def __call__(self) -> int:
        """Run, with progress, print the table of before and after, and draw curve and film."""
        task = load_task(self.task)
        check_name("method", self.method, METHODS)
        config = RunConfig(self.task, self.method, self.seed, self.loop, self.estimators)
        before = 0 if self.overwrite else count_iterations(run_folder(self.out, config))
        with progress_bar() as bar:
            line = bar.add_task(f"{self.task} {self.method}", total=self.loop.iterations)

            def report(row: Row) -> None:
                text = f"{self.task} {self.method}: rate {row['intervention_rate']:.3f}"
                bar.update(line, advance=1, description=f"{text}, {row['expert_samples']} expert samples")

            path = run(task, config, self.out, overwrite=self.overwrite, on_iteration=report)
        if not self.overwrite and before == count_iterations(path):
            console.print("This run had finished before; here is its record.")
        aligned = show_run(path)
        rows = read_rows(path)
        title = f"{self.task}, {self.method}, seed {self.seed}"
        draw_curve(task, rows, METHODS[self.method].reward, title).savefig(path / "curve.png")
        policies = {"prior": task.prior, "aligned": aligned or task.prior, "expert": task.expert_policy}
        films = [film(task, policy, name, self.seed) for name, policy in policies.items()]
        write_file(path / "film.gif", to_gif(films))
        if self.tensorboard:
            write_events(path / "tensorboard", rows, task.feature_names)
        return 0


def align_command(arguments: Sequence[str]) -> type[Align]:
    """`Align` with the defaults of the task that is named among the arguments."""
    words = pairwise(["", *arguments])
    named = next((word for before, word in words if word in PAPER and before != "--out"), None)
    if named is None:
        return Align
    loop, estimators = PAPER[named]
    changed = [
        ("loop", LoopConfig, field(default=loop)),
        ("estimators", EstimatorConfig, field(default=estimators)),
    ]
    same = {"__doc__": Align.__doc__}
    command = make_dataclass("Align", changed, bases=(Align,), namespace=same, frozen=True)
    return tyro.conf.configure(tyro.conf.OmitArgPrefixes)(command)


@dataclass(frozen=True)
class Many(Output):
    """What the commands of many runs share."""

    methods: tuple[str, ...] = tuple(METHODS)
    """Names of the methods."""
    seeds: int = 30
    """Runs of each method on each task [runs]."""
    first_seed: int = 0
    """Their seeds begin here."""
    workers: int = 2
    """Processes."""
    engine: Engine = "local"
    """local: processes of this machine; ray: those of the cluster at RAY_ADDRESS, or that `ray start` started
    here, or else of one started for this command alone (needs the extra `cluster`)."""

    def sweep(
        self, tasks: Sequence[str], settings: Callable[[str], tuple[LoopConfig, EstimatorConfig]]
    ) -> int:
        """Run what is not finished, write one bundle a task, print the tables; returns the exit code.

        Args:
            tasks: their names.
            settings: of a task by its name.
        """
        if not tasks:
            raise UsageError("name at least one task; `mereq tasks` lists them")
        if self.seeds < 1 or self.workers < 1 or self.first_seed < 0:
            raise UsageError("--seeds and --workers must be at least 1, --first-seed at least 0")
        tasks = list(dict.fromkeys(tasks))
        for name in tasks:
            load_task(name)
        for name in self.methods:
            check_name("method", name, METHODS)
        configs = [  # seed by seed: whenever it is stopped, everything has as many seeds
            RunConfig(task, method, seed, *settings(task))
            for seed in range(self.first_seed, self.first_seed + self.seeds)
            for task in tasks
            for method in dict.fromkeys(self.methods)
        ]
        sweep = Sweep(configs, self.out, workers=self.workers, engine=self.engine)
        with watch(sweep):
            failures = sweep.run(overwrite=self.overwrite)
        for task in tasks:
            file = self.out / f"{task}.jsonl.gz"
            ran = [run_folder(sweep.out, config) for config in configs if config.task == task]
            found = find_runs(sweep.out / task)
            bundle([path for path in found if path not in failures], file)
            console.print(comparison_table(task, [read_record(path) for path in ran if path not in failures]))
            console.print(f"all runs of {task} are bundled in {file}\n", highlight=False)
        for path, message in failures.items():
            text = f"failed: {path}: {message}"
            complaints.print(text, style="red", markup=False, highlight=False, soft_wrap=True)
        return 1 if failures else 0


@tyro.conf.configure(tyro.conf.OmitArgPrefixes)
@dataclass(frozen=True)
class Compare(Many, Settings):
    """Run methods on tasks over many seeds; the same command resumes what was interrupted."""

    tasks: tyro.conf.Positional[tuple[str, ...]] = tyro.MISSING
    """Names of the tasks."""

    def __call__(self) -> int:
        """Run all tasks with the same settings."""
        return self.sweep(self.tasks, lambda task: (self.loop, self.estimators))


@dataclass(frozen=True)
class Reproduce(Many):
    """Run the whole paper, each task with the settings of its recorded runs; the same command resumes it.

    `mereq figures` draws what comes out.
    """

    tasks: tuple[str, ...] = tuple(PAPER)
    """Names of the tasks; those that are not in the paper run with the settings of `mereq compare`."""
    seeds: int = 8
    """Runs of each method on each task [runs]."""
    first_seed: int = 1000
    """Their seeds begin here; the tasks were calibrated on seeds under 100."""
    out: Path = Path("runs/paper")
    """Folder for the runs."""
    iterations: int | None = None
    """Iterations of a run, to try it at less cost; default: those of the recorded runs [iterations]."""
    steps_per_iteration: int | None = None
    """Steps rolled out between updates, likewise [steps]."""

    def __call__(self) -> int:
        """Run all tasks with their own settings."""
        budget = {"iterations": self.iterations, "steps_per_iteration": self.steps_per_iteration}
        given: dict[str, Any] = {name: value for name, value in budget.items() if value is not None}

        def settings(task: str) -> tuple[LoopConfig, EstimatorConfig]:
            loop, estimators = PAPER.get(task, (LoopConfig(), EstimatorConfig()))
            return replace(loop, **given), estimators

        return self.sweep(self.tasks, settings)


@dataclass(frozen=True)
class Show:
    """Show a run: each iteration, and the policy before and after."""

    run: tyro.conf.Positional[Path]
    """Folder of the run, such as runs/carpet/MEReQ/seed0."""

    def __call__(self) -> int:
        """Print the tables."""
        show_run(self.run)
        return 0


def count_iterations(path: Path) -> int:
    """Finished iterations of a run; 0 where there is none."""
    return len(read_rows(path)) if (path / "config.json").exists() else 0


def show_run(path: Path) -> Policy | None:
    """Print a run: its iterations, theta against theta*, and the policy before and after.

    Returns:
        The aligned policy, if it was saved.
    """
    config = read_config(path)["config"]
    rows = read_rows(path)
    if not rows:
        raise RunError(f"{path} has not finished its first iteration; run the same command again to go on")
    task = load_task(config["task"])
    console.print(iterations_table(rows, f"{config['task']}, {config['method']}, seed {config['seed']}"))
    reward = METHODS[config["method"]].reward
    if reward is not None:
        console.print(theta_table(task, rows[-1], reward))
    file, aligned = path / "policy.safetensors", None
    if file.exists():
        aligned = task.load_policy(load_arrays(file))
        with complaints.status("evaluating prior, aligned policy and expert"):
            table = before_after_table(task, aligned)
        console.print(table)
    console.print(f"run folder: {path}", highlight=False, soft_wrap=True)
    return aligned


def progress_bar(time_left: ProgressColumn | None = None) -> Progress:
    """A progress bar with counts and the time that is left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        time_left or TimeRemainingColumn(),
        console=complaints,
    )


@contextlib.contextmanager
def watch(sweep: Sweep) -> Iterator[None]:
    """Show meanwhile how far a sweep is: as a bar, or in a file as a line whenever a run has finished."""
    done, seen = threading.Event(), 0
    with progress_bar(TextColumn("{task.fields[left]}")) as bar:
        line = bar.add_task("", total=None, left="")

        def look() -> None:
            nonlocal seen
            now = sweep.progress()
            runs = f"{now.finished} of {len(sweep.configs)} runs"
            left = describe_time_left(now.seconds_left)
            bar.update(line, completed=now.iterations, total=now.total, description=runs, left=left)
            if not complaints.is_terminal and now.finished > seen:
                complaints.print(f"{runs}, {now.iterations} of {now.total} iterations, {left}")
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
    """A time in words, as exact as an estimate can be."""
    if seconds is None:
        return "time left unknown yet"
    minutes = round(seconds / 60)
    if minutes < 1:
        return "less than a minute left" if seconds else "done"
    return f"{minutes // 60} h {minutes % 60:02d} min left" if minutes >= 60 else f"{minutes} min left"


def progress(items: Iterable[Any], label: str, total: int | None = None) -> Iterable[Any]:
    """Go through items under a progress bar."""
    with progress_bar() as bar:
        yield from bar.track(items, total=total, description=label)


COMMANDS: dict[str, Any] = {
    "tasks": Tasks,
    "align": Align,
    "compare": Compare,
    "reproduce": Reproduce,
    "show": Show,
    "figures": Figures,
    "evaluate": Evaluate,
    "check-policy": CheckPolicy,
    "check-task": CheckTask,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `mereq`; returns the exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    own = {**COMMANDS, "align": align_command(arguments)}
    # Commands of other packages may be slow to import: not before one is asked for, or all are listed.
    is_own = bool(arguments) and arguments[0] in COMMANDS
    commands = own if is_own else {**own, **load_commands()}
    command: Any = tyro.extras.subcommand_cli_from_dict(
        commands,
        prog="mereq",
        description="Alignment from intervention: infer what an expert wants beyond the prior policy.",
        args=arguments,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    try:
        return command()
    except (UsageError, RunError, NotConvergedError, ValueError, OSError) as error:
        # Errors and paths may hold brackets, which are not markup.
        complaints.print(f"mereq: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        without = ", without --overwrite," if getattr(command, "overwrite", False) else ""
        complaints.print(f"mereq: interrupted; the same command{without} goes on where it stopped")
        return 130


if __name__ == "__main__":
    sys.exit(main())
