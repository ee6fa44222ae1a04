"""The whole paper in one figure, and how the policies of the arm do it: features of a step, returns.

    mereq reproduce --tasks bottle eraser pillow --out runs/fresh     # two hours and a half on two cores
    cp runs/fresh/*.jsonl.gz figures/runs/
    python figures/arm.py --record runs/fresh    # roll the policies out and keep the episodes, then draw
python figures/arm.py                            # draw what is recorded
"""

from dataclasses import dataclass
from pathlib import Path

import tyro
from style import save

from mereq_min.behaviour import load_behaviour, read_behaviour, save_behaviour
from mereq_min.catalogue import load_task
from mereq_min.figures import draw_comparison, draw_features, draw_returns, read_runs

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


def recorded(runs: Path, name: str) -> Path:
    return runs / f"{name}.episodes.safetensors"


def record(root: Path, name: str, arguments: Arguments) -> None:
    behaviour = {}
    for label, episodes in read_behaviour(load_task(name), root / name, arguments.episodes):
        behaviour.setdefault(label, []).append(episodes)
    save_behaviour(recorded(arguments.runs, name), behaviour)


if __name__ == "__main__":
    arguments = tyro.cli(Arguments)
    if arguments.record:
        for name in ARM:
            record(arguments.record, name, arguments)
    runs = {name: read_runs(arguments.runs, name) for name in ("highway", *ARM)}
    save(draw_comparison(runs), arguments.out / "paper.png")
    behaviours = [(load_task(name), load_behaviour(recorded(arguments.runs, name))) for name in ARM]
    for task, behaviour in behaviours:
        save(draw_features(task, behaviour), arguments.out / f"features-{task.name}.png")
    save(draw_returns(behaviours), arguments.out / "returns.png")
