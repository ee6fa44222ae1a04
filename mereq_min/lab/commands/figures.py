"""The command `mereq figures`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track

from mereq_min.lab.plugins import UsageError, load_task
from mereq_min.lab.runs.episodes import Behaviour, load_behaviour, read_behaviour
from mereq_min.lab.show.plots import (
    STYLE,
    draw_comparison,
    draw_features,
    draw_returns,
    find_tasks,
    read_runs,
    save_figure,
)
from mereq_min.validation import check_number


@dataclass(frozen=True)
class Figures:
    """Draw the figures of the paper from runs: rates and expert samples, and how the policies behave."""

    runs: Path = Path("runs/paper")
    """Folder of the runs, or of bundles of them, as `mereq reproduce` or `mereq compare` writes both."""
    out: Path = Path("runs/figures")
    """Folder for the pictures."""
    episodes: int = 25
    """Episodes for which each run's policy is rolled out, the first time that it is drawn [episodes]."""

    def __call__(self) -> int:
        """Draw what there is."""
        check_number("episodes", self.episodes, 1, whole=True)
        comparison = {name: runs for name in find_tasks(self.runs) if (runs := read_runs(self.runs, name))}
        if not comparison:
            raise UsageError(f"no finished runs in {self.runs}; `mereq reproduce` makes them")
        with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
            self.save("comparison", draw_comparison(comparison))
            found = [(load_task(name), self.read_behaviour(name)) for name in comparison]
            behaviours = [(task, behaviour) for task, behaviour in found if behaviour]
            for task, behaviour in behaviours:
                self.save(f"features-{task.name}", draw_features(task, behaviour))
            if behaviours:
                self.save("returns", draw_returns(behaviours))
        return 0

    def save(self, name: str, figure: Figure) -> None:
        """Write a picture and say where it lies."""
        file = self.out / f"{name}.png"
        save_figure(figure, file)
        print(f"picture: {file}")

    def read_behaviour(self, name: str) -> Behaviour:
        """How the policies of a task's run folders do it, or what is recorded of that; empty without both."""
        if (recorded := self.runs / f"{name}.episodes.safetensors").exists():
            return load_behaviour(recorded)
        behaviour: Behaviour = {}
        pairs = read_behaviour(load_task(name), self.runs / name, self.episodes)
        for label, episodes in track(pairs, f"rolling out {name}", console=Console(stderr=True)):
            behaviour.setdefault(label, []).append(episodes)
        return behaviour
