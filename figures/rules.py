"""What holds MEReQ up on the bottle: rates by iteration under other rules of the expert.

    python figures/rules.py                # draw what is recorded
    python figures/rules.py --record       # run again (about 6 minutes on two cores), then draw

The first panel is the recorded runs of figures/runs with the same seed.
"""

import json
import textwrap
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import joblib
import matplotlib.pyplot as plt
import tyro
from rich.progress import track
from style import METHOD_COLOURS, save

from deep.fanuc.task import make_cell_task
from mereq_min import METHODS, settings_of
from mereq_min.lab.runs.provenance import provenance
from mereq_min.lab.runs.records import Row, read_bundle, read_rows
from mereq_min.lab.runs.run import RunConfig, run

SHOWN = ("MEReQ", "HG-DAgger-FT")
AS_IT_IS = "limit 7.2 cm, release 20, patience 4, tolerance 0.01"
RULES: dict[str, dict[str, Any]] = {
    "tolerance 0.002": {"tolerance": 0.002},
    "patience 8": {"patience": 8},
    "limit 7.6 cm, release 30": {"limit": 0.38, "release": 30},
    "limit 6.6 cm, release 30": {"limit": 0.33, "release": 30},
    "limit 6.0 cm, release 30": {"limit": 0.30, "release": 30},
}
"""What each changes: the expert's rule, or the tolerance of feature matching."""
RULE = {"limit": 0.36, "release": 20, "patience": 4}
"""The rule of the bottle as it is, see `deep.fanuc.task.make_cell_task`."""


@dataclass(frozen=True)
class Arguments:
    """Draw, or record and draw, rates on the bottle under other rules."""

    record: bool = False
    """Run again."""
    seed: int = 1_000
    """Seed of the runs."""
    workers: int = 2
    """Processes."""
    runs: Path = Path("figures/runs")
    """Folder of the recorded runs."""
    fresh: Path = Path("runs/rules")
    """Folder of the runs under other rules; runs that are there are resumed."""
    data: Path = Path("figures/rules.jsonl")
    """The record."""
    out: Path = Path("figures/rules.png")
    """The picture."""


def record(arguments: Arguments) -> None:
    jobs = [
        joblib.delayed(measure)(rule, method, arguments)
        for rule, changes in RULES.items()
        for method in SHOWN
        if "tolerance" not in changes or METHODS[method].reward is not None
    ]
    results = joblib.Parallel(n_jobs=arguments.workers, return_as="generator")(jobs)
    lines = [{"config": {"task": "bottle", "seed": arguments.seed}, **provenance()}]
    lines += read_recorded(arguments)
    lines += track(results, "running", total=len(jobs))
    arguments.data.write_text("".join(json.dumps(line) + "\n" for line in lines))


def read_recorded(arguments: Arguments) -> list[dict]:
    found = {
        each["config"]["method"]: each["iterations"]
        for each in read_bundle(arguments.runs / "bottle.jsonl.gz")
        if each["config"]["seed"] == arguments.seed
    }
    return [describe(AS_IT_IS, method, found[method]) for method in SHOWN]


def measure(rule: str, method: str, arguments: Arguments) -> dict:
    changes = dict(RULES[rule])
    tolerance = changes.pop("tolerance", None)
    task = make_cell_task("bottle", **{**RULE, **changes})
    loop, estimators = settings_of(task).loop, settings_of(task).estimators
    if tolerance is not None:
        estimators = replace(estimators, matching=replace(estimators.matching, tolerance=tolerance))
    config = RunConfig("bottle", method, arguments.seed, loop, estimators)
    return describe(rule, method, read_rows(run(task, config, arguments.fresh / rule)))


def describe(rule: str, method: str, rows: list[Row]) -> dict:
    measures = {name: [row[name] for row in rows] for name in ("intervention_rate", "success", "theta")}
    return {"rule": rule, "method": method, **measures}


def draw(file: Path) -> plt.Figure:
    _, *lines = (json.loads(line) for line in file.read_text().splitlines())
    rules = list(dict.fromkeys(each["rule"] for each in lines))
    figure, axes = plt.subplots(2, 3, figsize=(9.6, 5.4), layout="constrained", sharex=True, sharey=True)
    for ax, rule in zip(axes.flat, rules, strict=True):
        for each in (each for each in lines if each["rule"] == rule):
            rates = each["intervention_rate"]
            colour = METHOD_COLOURS[each["method"]]
            ax.plot(range(1, len(rates) + 1), rates, "o-", ms=3, color=colour, label=each["method"])
        ax.axhline(0.05, color="#777777", ls="--", lw=1)
        ax.set_title(textwrap.fill(rule, 28))
    for ax in axes[:, 0]:
        ax.set_ylabel("rate (dashed: 0.05)")
    for ax in axes[-1]:
        ax.set_xlabel("iteration")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(handles))
    return figure


if __name__ == "__main__":
    arguments = tyro.cli(Arguments, config=(tyro.conf.FlagCreatePairsOff,))
    if arguments.record:
        record(arguments)
    save(draw(arguments.data), arguments.out)
