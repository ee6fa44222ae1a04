"""The command `mereq figures`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from rich.progress import track

from mereq_min.interfaces import Task
from mereq_min.lab.commands.console import complain, stderr_console
from mereq_min.lab.plugins import UsageError, load_task
from mereq_min.lab.runs.episodes import Behaviour, load_behaviour, read_behaviour
from mereq_min.lab.runs.records import find_runs
from mereq_min.lab.runs.run import load_run_task
from mereq_min.lab.show.plots import (
    STYLE,
    draw_comparison,
    draw_features,
    draw_rate_panels,
    draw_returns,
    find_tasks,
    full_weights,
    read_records,
    read_runs,
    save_figure,
)
from mereq_min.validation import check_number


@dataclass(frozen=True)
class Figures:
    """Draw the figures of the paper from runs: rates and expert samples, and how the policies behave."""

    runs: Path = Path("runs/paper")
    """Folder of the runs, or of bundles of them; `mereq reproduce` and `mereq compare` write both."""
    out: Path = Path("runs/figures")
    """Folder for the pictures."""
    tasks: tuple[str, ...] = ()
    """Your own tasks among the runs, as module:attribute. Without this their modules are not imported, and
    the behaviour of policies on them is not drawn."""
    episodes: int = 25
    """Episodes for which each run's policy is rolled out, the first time that it is drawn [episodes]."""

    def __call__(self) -> int:
        """Draw what there is."""
        check_number("episodes", self.episodes, 1, integer=True)
        comparison = {name: runs for name in find_tasks(self.runs) if (runs := read_runs(self.runs, name))}
        if not comparison:
            raise UsageError(f"no finished runs in {self.runs}; `mereq reproduce` makes them")
        with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
            self.save("rates", draw_rate_panels(comparison))
            self.save("comparison", draw_comparison(comparison))
            behaviours: list[tuple[Task, Behaviour]] = []
            for name in comparison:
                try:
                    task, behaviour = self.task_of(name), self.behaviour_of(name)
                except UsageError as error:
                    complain(f"left out how policies behave on {name}: {error}")
                    continue
                if behaviour:
                    self.save(f"features-{name}", draw_features(task, behaviour))
                    behaviours.append((task, behaviour))
            known = [(task, behaviour) for task, behaviour in behaviours if full_weights(task) is not None]
            if known:
                self.save("returns", draw_returns(known))
        return 0

    def save(self, name: str, figure: Figure) -> None:
        """Write a picture and say where it lies."""
        file = self.out / f"{name}.png"
        save_figure(figure, file)
        print(f"picture: {file}")

    def task_of(self, name: str) -> Task:
        """The task of the runs that lie under a name, with the prior that they had.

        Raises:
            UsageError: if it is one of the user's own and not among `tasks`.
        """
        typed = read_records(self.runs, name)[0]["config"]["task"]
        folders = find_runs(self.runs / name)
        if folders:
            return load_run_task(folders[0], task=typed if typed in self.tasks else None)
        if ":" in typed and typed not in self.tasks:
            raise UsageError(f"pass --tasks {typed} to import it")
        return load_task(typed)

    def behaviour_of(self, name: str) -> Behaviour:
        """The episodes of a task's policies: those recorded, else those of its run folders, else none."""
        if (recorded := self.runs / f"{name}.episodes.safetensors").exists():
            return load_behaviour(recorded)
        behaviour: Behaviour = {}
        if not find_runs(self.runs / name):
            return behaviour
        pairs = read_behaviour(self.task_of(name), self.runs / name, self.episodes)
        for label, episodes in track(pairs, f"rolling out {name}", console=stderr_console):
            behaviour.setdefault(label, []).append(episodes)
        return behaviour
