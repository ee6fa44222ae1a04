"""The command `mereq align`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Self

import tyro

from mereq_min.experts import PRESETS
from mereq_min.interfaces import Policy, Task
from mereq_min.lab.commands.console import console, progress_bar, stderr_console
from mereq_min.lab.commands.show import count_iterations, show_run
from mereq_min.lab.plugins import HUMAN, SIMULATED, UsageError, check_name, load_expert, load_task
from mereq_min.lab.runs.files import write_file
from mereq_min.lab.runs.records import Row, read_rows
from mereq_min.lab.runs.run import RunConfig, load_config_task, run, run_folder
from mereq_min.loop import LoopConfig, Settings, settings_of
from mereq_min.methods import METHODS, choose_method


@dataclass(frozen=True)
class Output:
    """Where runs go."""

    out: Path = Path("runs")
    """Folder for the runs."""
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False
    """Discard what is there and start over."""


@tyro.conf.configure(tyro.conf.OmitArgPrefixes)
@dataclass(frozen=True)
class Align(Output, Settings):
    """Align the prior of a task with an expert; the same command resumes an interrupted run.

    A finished run continues if --iterations is raised. If the task brings its own settings
    (`recorded_settings`), these are the defaults, not those shown here.
    """

    task: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TASK")] = tyro.MISSING
    """Name of the task (see `mereq tasks`), or module:attribute of your own."""
    method: str = "MEReQ-L"
    """One of MEReQ, MEReQ-NP, MaxEnt, MaxEnt-FT, HG-DAgger-FT, IWR-FT, MEReQ-L, MEReQ-R, MEReQ-all,
    MEReQ-S, Residual-BC, RLIF, PVP, MILE, PPL; on tabular tasks also HG-DAgger-1. The default is MEReQ-R for
    tabular tasks, else MEReQ-L."""
    prior: str | None = None
    """The policy to align, in place of the task's own: a file (.safetensors, or .zip of Stable-Baselines3),
    module:attribute of your own, or random for the uniformly random policy. A new simulated expert is made
    for this prior. With random the expert stays the same, and MEReQ and MaxEnt-FT become plain
    maximum-entropy inverse RL of its full reward."""
    expert: str = SIMULATED
    """Who watches: simulated; human for yourself in the browser, see `mereq teach`; or module:attribute of an
    expert of your own, or of what makes one when called with the task."""
    temperature: float | None = None
    """alpha_hat, the temperature of the aligned policy [reward]; default: that of the task."""
    prior_weight: float | None = None
    """omega, the weight of the prior's reward in the expert's; default: that of the task."""
    imperfections: str = "none"
    """Errors of the simulated expert by name: none, or human for one who errs in five ways at once.
    --miss-rate and the like change single ones."""
    seed: int = 0
    """Seed of the run."""
    tensorboard: tyro.conf.FlagCreatePairsOff[bool] = False
    """Write TensorBoard event files into the run's folder too."""

    def with_recorded_settings(self) -> Self:
        """The defaults of this command for its task: best method, and the settings that it brings."""
        task = load_task(self.task)
        settings = settings_of(task)
        loop = with_imperfections(settings.loop, self.imperfections)
        method = choose_method(task)
        return type(self)(task=self.task, method=method, loop=loop, estimators=settings.estimators)

    @property
    def config(self) -> RunConfig:
        """The run that was asked for."""
        return RunConfig(
            self.task,
            self.method,
            self.seed,
            self.loop,
            self.estimators,
            prior=self.prior,
            expert=self.expert,
            temperature=self.temperature,
            prior_weight=self.prior_weight,
        )

    def __call__(self) -> int:
        """Run, with progress, print the table of before and after, and draw curve and film."""
        check_name("method", self.method, METHODS)
        if self.expert == HUMAN and (self.overwrite or self.tensorboard):
            raise UsageError("--overwrite and --tensorboard do not work with --expert human")
        config = self.config
        task = load_config_task(config, self.out)
        if (gap := getattr(task, "clone_kl", None)) is not None:
            stderr_console.print(
                f"the prior was cloned into a squashed Gaussian; {gap:.2g} nats of KL remain"
            )
        if self.expert == HUMAN:
            from mereq_min.lab.commands.teach import teach

            teach(task, config, self.out)
            return 0
        expert = load_expert(self.expert, task)
        if expert is None and task is not load_task(self.task):
            train_expert(task)
        before = 0 if self.overwrite else count_iterations(run_folder(self.out, config))
        with progress_bar() as bar:
            line = bar.add_task(f"{self.task} {self.method}", total=self.loop.iterations)

            def report(row: Row) -> None:
                text = f"{self.task} {self.method}: rate {row['intervention_rate']:.3f}"
                bar.update(line, advance=1, description=f"{text}, {row['expert_samples']} expert samples")

            path = run(task, config, self.out, expert=expert, overwrite=self.overwrite, on_iteration=report)
        if not self.overwrite and before == count_iterations(path):
            console.print("This run had finished before; here is its record.")
        aligned = show_run(path, task)
        rows = read_rows(path)
        draw_run(path, task, config, rows, aligned)
        if self.tensorboard:
            from mereq_min.lab.runs.tensorboard import write_events

            write_events(path / "tensorboard", rows, task.feature_names)
        return 0


def with_imperfections(loop: LoopConfig, name: str) -> LoopConfig:
    """Settings of a loop whose expert has the errors of that name; its own if that is none.

    Raises:
        UsageError: if there is no such name.
    """
    check_name("imperfections", name, PRESETS)
    return loop if name == "none" else replace(loop, imperfections=PRESETS[name])


def train_expert(task: Task) -> None:
    """Make the expert of a task's oracle, which may have to be trained for a prior of the user's own."""
    with stderr_console.status("training the simulated expert for this prior"):
        if task.oracle is not None:
            _ = task.oracle.expert_policy


def draw_run(path: Path, task: Task, config: RunConfig, rows: list[Row], aligned: Policy | None) -> None:
    """Draw the curve of a run and film its policies, into its folder.

    Films are watched by the simulated expert, if that is the one who watched the run.
    """
    from mereq_min.lab.show.film import film, to_gif
    from mereq_min.lab.show.plots import draw_curve

    title = f"{config.task}, {config.method}, seed {config.seed}"
    draw_curve(task, rows, METHODS[config.method].reward, title).savefig(path / "curve.png")
    policies = {"prior": task.prior, "aligned": aligned or task.prior}
    watched = config.expert == SIMULATED and task.oracle is not None
    if watched and task.oracle is not None:
        policies["expert"] = task.oracle.expert_policy
    films = [film(task, policy, name, config.seed, watched=watched) for name, policy in policies.items()]
    write_file(path / "film.gif", to_gif(films))
