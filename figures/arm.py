"""The whole paper in one figure, and how the policies of the arm do it: features of a step, returns.

Usage:

    mereq reproduce --tasks bottle eraser pillow --first-seed 3000 --out runs/fresh
    cp runs/fresh/*.jsonl.gz figures/runs/
    python figures/arm.py --record runs/fresh    # roll the policies out and keep the episodes, then draw
    python figures/arm.py                        # draw what is recorded
"""

from dataclasses import dataclass
from pathlib import Path

import tyro
from style import read_main_runs, save

from mereq_min.lab.commands.figures import Figures
from mereq_min.lab.plugins import load_task
from mereq_min.lab.runs.episodes import save_behaviour
from mereq_min.lab.show.plots import draw_comparison, draw_features, draw_rate_panels, draw_returns

ARM = ("bottle", "eraser", "pillow")


@dataclass(frozen=True)
class Arguments:
    """Draw the paper's comparison, and features and returns on the arm."""

    record: Path | None = None
    """Folder of the runs whose policies are rolled out again."""
    episodes: int = 5
    """Episodes of each policy and seed, if so [episodes]."""
    runs: Path = Path("figures/runs")
    """Folder of the bundles and of what is recorded."""
    out: Path = Path("figures")
    """Folder for the pictures."""


if __name__ == "__main__":
    arguments = tyro.cli(Arguments)
    if arguments.record:
        fresh = Figures(arguments.record, episodes=arguments.episodes)
        for name in ARM:
            save_behaviour(arguments.runs / f"{name}.episodes.safetensors", fresh.behaviour_of(name))
    runs = {name: read_main_runs(arguments.runs, name) for name in ("highway", *ARM)}
    save(draw_comparison(runs), arguments.out / "paper.png")
    save(draw_rate_panels(runs), arguments.out / "paper-rates.png")
    behaviours = [(load_task(name), Figures(arguments.runs).behaviour_of(name)) for name in ARM]
    for task, behaviour in behaviours:
        save(draw_features(task, behaviour), arguments.out / f"features-{task.name}.png")
    save(draw_returns(behaviours), arguments.out / "returns.png")
