"""The command `mereq align`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, make_dataclass
from itertools import pairwise
from pathlib import Path

import tyro

from mereq_min.lab.commands.console import console, progress_bar
from mereq_min.lab.commands.show import count_iterations, show_run
from mereq_min.lab.plugins import check_name, load_task
from mereq_min.lab.runs.files import write_file
from mereq_min.lab.runs.records import Row, read_rows
from mereq_min.lab.runs.run import RunConfig, run, run_folder
from mereq_min.lab.runs.sweep import PAPER
from mereq_min.lab.runs.tensorboard import write_events
from mereq_min.lab.show.film import film, to_gif
from mereq_min.lab.show.plots import draw_curve
from mereq_min.loop import LoopConfig
from mereq_min.methods import METHODS, EstimatorConfig


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
