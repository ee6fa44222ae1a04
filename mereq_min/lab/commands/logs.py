"""The commands of logs: `mereq export` and `mereq fit`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Self

import tyro

from mereq_min.lab.commands.align import Output, draw_run
from mereq_min.lab.commands.console import console, progress_bar
from mereq_min.lab.commands.show import count_iterations, show_run
from mereq_min.lab.datasets.logs import Format, LogSource, name_log, read_run_steps, write_log
from mereq_min.lab.plugins import check_name, load_task, prepare_task
from mereq_min.lab.runs.config import run_folder
from mereq_min.lab.runs.records import Row, read_rows
from mereq_min.lab.runs.run import find_recorded_task, run
from mereq_min.loop import settings_of
from mereq_min.methods import METHODS, EstimatorConfig, choose_method


@dataclass(frozen=True)
class Export:
    """Write the steps of a run as a log that other libraries read, and `mereq fit` too.

    csv and parquet: one table, with one column per number; csv keeps all digits, parquet also the dtypes.
    minari: a Minari dataset in HDF5, also exact; what Minari does not know is in its infos. lerobot: a
    LeRobotDataset v3; states and actions are rounded to float32. All but csv need the extra `data`.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Folder of a run, such as runs/carpet/MEReQ/seed0."""
    format: Format = "csv"
    """csv, parquet, minari or lerobot."""
    out: Path | None = None
    """File or folder to write; default: named after the run, in the working directory."""
    task: str | None = None
    """module:attribute of the run's task, if it is one of your own."""

    def __call__(self) -> int:
        """Write the log, and say where it is."""
        steps = read_run_steps(self.run)
        task = find_recorded_task(self.run, self.task)
        target = self.out or default_target(self.run, self.format)
        write_log(target, self.format, steps, task)
        console.print(f"{len(steps)} steps written to {target}", highlight=False, soft_wrap=True)
        return 0


def default_target(path: Path, kind: Format) -> Path:
    """Where the steps of a run are written by default; Minari finds only folders with a version."""
    endings: dict[Format, str] = {"minari": "-v0", "lerobot": "-lerobot"}
    return Path(name_log(path) + endings.get(kind, f".{kind}"))


@tyro.conf.configure(tyro.conf.OmitArgPrefixes)
@dataclass(frozen=True)
class Fit(Output):
    """Infer theta from a recorded log, ours or somebody else's, and align the prior offline.

    A log is the folder of a run, a Minari dataset, a LeRobotDataset v3, or a .csv or .parquet file with one
    row per step. It must hold state, action, is_intervention (or intervention, takeover) and episode, under
    these names or those of LeRobot. It may hold t, next_state, policy_action, policy_version, terminated,
    truncated, features, reward, seed, expert_action and takeover_start. The entries of vectors are columns
    state.0, state.1, ..., those of features are features.NAME. The task computes missing features, if it can.

    The result is a run like those of `mereq align`. A log of several policy versions is fitted version by
    version, as it was recorded. If the task brings its own settings (`recorded_settings`), these are the
    defaults.
    """

    log: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="LOG")] = tyro.MISSING
    """The log."""
    task: str = tyro.MISSING
    """Name of the task in which it was recorded (see `mereq tasks`), or module:attribute of your own."""
    method: str = "MEReQ-L"
    """One of the methods of `mereq align`. The default is MEReQ-R for tabular tasks, else MEReQ-L."""
    prior: str | None = None
    """The policy that drove, in place of the task's own; see `mereq align`."""
    temperature: float | None = None
    """alpha_hat, the temperature of the aligned policy [reward]; default: that of the task."""
    prior_weight: float | None = None
    """omega, the weight of the prior's reward in the expert's; default: that of the task."""
    patience: int | None = None
    """Steps before a takeover that provoked it; default: those of the task's oracle, or 1 [steps]."""
    demonstrations: tyro.conf.FlagCreatePairsOff[bool] = False
    """The log marks no interventions: it holds whole demonstrations of the expert."""
    seed: int = 0
    """Seed of the networks."""
    estimators: EstimatorConfig = field(default_factory=EstimatorConfig)
    """Settings of the estimators."""

    def with_recorded_settings(self) -> Self:
        """The defaults of this command for its task: best method, and the settings that it brings."""
        task = load_task(self.task)
        estimators = settings_of(task).estimators
        return type(self)(log=self.log, task=self.task, method=choose_method(task), estimators=estimators)

    def __call__(self) -> int:
        """Fit the log, print theta and the table of before and after, and draw curve and film."""
        check_name("method", self.method, METHODS)
        changes: dict[str, Any] = {
            "prior": self.prior,
            "temperature": self.temperature,
            "prior_weight": self.prior_weight,
        }
        task = prepare_task(self.task, **changes, cache=self.out / "oracles")
        log = LogSource(self.log, self.patience, self.demonstrations).load(task)
        config = log.config(self.task, self.method, self.seed, self.estimators, **changes)
        before = 0 if self.overwrite else count_iterations(run_folder(self.out, config))
        with progress_bar() as bar:
            line = bar.add_task(f"{self.task} {self.method}", total=config.loop.iterations)

            def report(row: Row) -> None:
                bar.update(
                    line, advance=1, description=f"{self.task} {self.method}: {row['steps']} steps fitted"
                )

            iterations = log.iterations
            path = run(
                task, config, self.out, recorded=iterations, overwrite=self.overwrite, on_iteration=report
            )
        if not self.overwrite and before == count_iterations(path):
            console.print("This fit had finished before; here is its record.")
        aligned = show_run(path, task)
        draw_run(path, task, config, read_rows(path), aligned)
        return 0
