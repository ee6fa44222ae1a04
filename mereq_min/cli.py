"""The command line `mereq`: tasks, align, compare, show here, and what other modules and packages add."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mereq_min.catalogue import UsageError, check_name, load_commands, load_task, task_factories
from mereq_min.check import CheckPolicy, CheckTask
from mereq_min.evaluate import Evaluate
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
from mereq_min.sweep import run_all

console = Console()
if not console.is_terminal:
    console.width = 120  # into a pipe or a file nothing has to wrap at 80
complaints = Console(stderr=True)
"""Errors and progress; results alone go to standard output."""


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
class Settings:
    """What a run can be tuned by."""

    loop: LoopConfig = field(default_factory=LoopConfig)
    estimators: EstimatorConfig = field(default_factory=EstimatorConfig)
    out: Path = Path("runs")
    """Folder for the runs."""
    overwrite: bool = False
    """Discard what is there and start over."""


@tyro.conf.configure(tyro.conf.OmitArgPrefixes)
@dataclass(frozen=True)
class Align(Settings):
    """Align the prior of a task with its expert; an interrupted run goes on where it stopped."""

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


@tyro.conf.configure(tyro.conf.OmitArgPrefixes)
@dataclass(frozen=True)
class Compare(Settings):
    """Run methods on tasks over many seeds; the same command resumes what was interrupted."""

    tasks: tyro.conf.Positional[tuple[str, ...]] = tyro.MISSING
    """Names of the tasks."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Names of the methods."""
    seeds: int = 30
    """Runs of each method on each task [runs]."""
    first_seed: int = 0
    """Their seeds begin here."""
    workers: int = 2
    """Processes."""
    backend: str = "loky"
    """joblib backend; one that you have registered, such as ray, works too."""

    def __call__(self) -> int:
        """Run what is not finished, write one bundle a task, print the tables."""
        if not self.tasks:
            raise UsageError("name at least one task; `mereq tasks` lists them")
        if self.seeds < 1 or self.workers < 1 or self.first_seed < 0:
            raise UsageError("--seeds and --workers must be at least 1, --first-seed at least 0")
        tasks, methods = list(dict.fromkeys(self.tasks)), list(dict.fromkeys(self.methods))
        for name in tasks:
            load_task(name)
        for name in methods:
            check_name("method", name, METHODS)
        configs = [
            RunConfig(task, method, seed, self.loop, self.estimators)
            for task in tasks
            for seed in range(self.first_seed, self.first_seed + self.seeds)
            for method in methods
        ]
        outcomes = run_all(configs, self.out, self.overwrite, self.workers, self.backend)
        failures = {path: message for path, message in progress(outcomes, "runs", len(configs)) if message}
        for task in tasks:
            file = self.out / f"{task}.jsonl.gz"
            bundle([path for path in find_runs(self.out / task) if path not in failures], file)
            ran = [run_folder(self.out, config) for config in configs if config.task == task]
            records = [read_record(path) for path in ran if path not in failures]
            console.print(comparison_table(task, records))
            console.print(f"all runs of {task} are bundled in {file}\n", highlight=False)
        for path, message in failures.items():
            text = f"failed: {path}: {message}"
            complaints.print(text, style="red", markup=False, highlight=False, soft_wrap=True)
        return 1 if failures else 0


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


def progress_bar() -> Progress:
    """A progress bar with counts and the time that is left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=complaints,
    )


def progress(items: Iterable[Any], label: str, total: int | None = None) -> Iterable[Any]:
    """Go through items under a progress bar."""
    with progress_bar() as bar:
        yield from bar.track(items, total=total, description=label)


COMMANDS: dict[str, Any] = {
    "tasks": Tasks,
    "align": Align,
    "compare": Compare,
    "show": Show,
    "evaluate": Evaluate,
    "check-policy": CheckPolicy,
    "check-task": CheckTask,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `mereq`; returns the exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    # Commands of other packages may be slow to import: not before one is asked for, or all are listed.
    is_own = bool(arguments) and arguments[0] in COMMANDS
    commands = COMMANDS if is_own else {**COMMANDS, **load_commands()}
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
