"""Expert samples against the steps rolled out between updates, from one episode up to 500 steps.

    python figures/batch_size.py                # draw what is recorded
    python figures/batch_size.py --record       # run again (about 10 minutes on two cores), then draw

The rate of an iteration of few steps is mostly noise. Each policy is therefore judged by 2,000 further
watched steps, which are not counted.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import joblib
import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.axes import Axes
from rich.progress import track
from style import COLOURS, save

from gridworlds import TASKS
from mereq_min import METHODS, EstimatorConfig, LoopConfig, align, make_aligner, watch
from mereq_min.lab.runs.provenance import provenance
from mereq_min.metrics import bootstrap_mean

FIRST_SEED = 1_000
"""The tasks were calibrated on seeds under 100; these are fresh."""
WATCHED = 2_000
"""Further steps that judge each policy [steps]."""
SHOWN = ("MEReQ-all", "HG-DAgger-FT", "MEReQ-L")


@dataclass(frozen=True)
class Arguments:
    """Draw, or record and draw, expert samples against the steps an iteration."""

    record: bool = False
    """Run again."""
    tasks: tuple[str, ...] = ("carpet", "lanes")
    """Tasks."""
    steps: tuple[int, ...] = (25, 50, 100, 250, 500)
    """Steps an iteration."""
    total: int = 2_500
    """Steps rolled out in all, at least one iteration of each size [steps]."""
    seeds: int = 30
    """Seeds of each."""
    workers: int = 2
    """Processes."""
    data: Path = Path("figures/batch_size.jsonl")
    """The record."""
    out: Path = Path("figures/batch_size.png")
    """The picture."""


def record(arguments: Arguments) -> None:
    jobs = [
        joblib.delayed(measure)(task, method, n, seed, LoopConfig(arguments.total // n, n))
        for task in arguments.tasks
        for n in arguments.steps
        for method in SHOWN
        for seed in range(FIRST_SEED, FIRST_SEED + arguments.seeds)
    ]
    results = joblib.Parallel(n_jobs=arguments.workers, return_as="generator")(jobs)
    lines = [{"config": {"total": arguments.total, "watched": WATCHED}, **provenance()}]
    lines += track(results, "running", total=len(jobs))
    arguments.data.write_text("".join(json.dumps(line) + "\n" for line in lines))


def measure(task_name: str, method: str, n: int, seed: int, config: LoopConfig) -> dict:
    """Expert samples seen until the rate of the policy made of them falls below 0.05; else all of them."""
    task = TASKS[task_name]()
    aligner = make_aligner(task, METHODS[method], EstimatorConfig())
    for iteration in align(task, aligner, config, seed=seed):
        watched = watch(task, iteration.policy, task.oracle, WATCHED, seed)
        reached = watched.intervention_rate < 0.05
        if reached:
            break
    outcome = {"expert_samples": iteration.expert_samples, "censored": not reached}
    return {"task": task_name, "method": method, "n": n, "seed": seed, **outcome}


def draw(file: Path) -> plt.Figure:
    _, *records = (json.loads(line) for line in file.read_text().splitlines())
    tasks = list(dict.fromkeys(record["task"] for record in records))
    size = (4.2 * len(tasks), 3.8)
    figure, axes = plt.subplots(1, len(tasks), figsize=size, layout="constrained", squeeze=False)
    for ax, task in zip(axes[0], tasks, strict=True):
        draw_task(ax, [record for record in records if record["task"] == task])
        ax.set_title(task)
    axes[0, 0].set_ylabel("expert samples until the policy's rate < 0.05")
    handles, _ = axes[0, 0].get_legend_handles_labels()
    bound = plt.Line2D([], [], marker="o", mfc="white", color="#888", label="open: a lower bound")
    handles.append(bound)
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def draw_task(ax: Axes, records: list[dict]) -> None:
    sizes = sorted({record["n"] for record in records})
    for method in SHOWN:
        groups = [[r for r in records if r["method"] == method and r["n"] == n] for n in sizes]
        counts = ([record["expert_samples"] for record in group] for group in groups)
        means, lows, highs = np.array([bootstrap_mean(c, np.random.default_rng(0)) for c in counts]).T
        ax.plot(sizes, means, "-", color=COLOURS[method], label=method)
        ax.fill_between(sizes, lows, highs, color=COLOURS[method], alpha=0.2, lw=0)
        for n, mean, group in zip(sizes, means, groups, strict=True):
            face = "white" if any(record["censored"] for record in group) else COLOURS[method]
            ax.plot(n, mean, "o", ms=4, color=COLOURS[method], mfc=face)
    ax.set(xscale="log", yscale="log", xlabel="steps an iteration, n")
    ax.set_xticks(sizes, [str(n) for n in sizes])
    ax.minorticks_off()


if __name__ == "__main__":
    arguments = tyro.cli(Arguments, config=(tyro.conf.FlagCreatePairsOff,))
    if arguments.record:
        record(arguments)
    save(draw(arguments.data), arguments.out)
