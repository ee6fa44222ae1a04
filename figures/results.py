"""Write the tables of RESULTS.md and README.md from the records behind them.

python figures/results.py    # fills what stands between `<!-- table: name -->` and `<!-- end -->`
"""

import json
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from recording import read_record

from mereq_min import settings_of
from mereq_min.lab.plugins import load_task
from mereq_min.lab.runs.records import Row
from mereq_min.lab.show.plots import read_runs
from mereq_min.lab.show.published import read_published
from mereq_min.methods import METHODS, RECORDED_METHODS, choose_method
from mereq_min.metrics import (
    THRESHOLDS,
    Interval,
    bootstrap_mean,
    samples_interval,
    samples_to_stay,
    share_of_the_way,
)

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "RESULTS.md")
GRIDWORLDS = ("carpet", "lanes", "shelf", "windy")
ARM = ("bottle", "eraser", "pillow")
NETWORKS = ("highway", *ARM)
EVERY = (*GRIDWORLDS, *NETWORKS)
WISHES = {
    "carpet": "keep off the carpets",
    "lanes": "keep to the right-hand lane if it is free",
    "shelf": "push low",
    "windy": "keep away from the cliff",
    "highway": "keep to the right-hand lane",
    "bottle": "push the bottle low",
    "eraser": "press firmly",
    "pillow": "grasp the pillow by its middle",
}
"""Wish of each task's expert, in words."""
SUMMARY = ("carpet", *NETWORKS)
"""Tasks in README's table."""
STAY = 5
"""Last iterations over which a rate has to stay low."""


PAPERS = RECORDED_METHODS[:6]
"""The methods that the paper compares."""
SKILLED = {"least_success": 0.9, "count": samples_to_stay, "confirmed": True}
"""Count samples until the rate stays low, by policies that do the task, as `samples_interval` is told."""


@cache
def runs_of(task: str) -> dict[str, list[list[Row]]]:
    return read_runs(ROOT / "figures/runs", task)


def last_rows(task: str, method: str) -> list[Row]:
    return [rows[-1] for rows in runs_of(task)[method]]


def mean(task: str, method: str, measure: str) -> float:
    """A measure of the final policies, mean over seeds; by more episodes than usual if those are recorded."""
    rows, ends = last_rows(task, method), read_json("figures/ends.json")
    if task == ends["task"] and measure in ends["measures"]:
        rows = list(ends["ends"][method].values())
    return float(np.mean([row[measure] for row in rows]))


@cache
def read_json(file: str) -> Any:
    return json.loads((ROOT / file).read_text())


def reference(task: str) -> Any:
    """References of a task; `bottle-random` names runs on bottle whose expert errs."""
    return read_json("figures/references.json")["tasks"][task.partition("-")[0]]


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "".join(map(table_row, [columns, ["---"] * len(columns), *rows]))


def table_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |\n"


Cell = Callable[[str, str], str]
"""Makes a cell of a task and a method."""


def by_method(
    first: str, columns: dict[str, Cell], tasks: Sequence[str], methods: Sequence[str] = RECORDED_METHODS
) -> str:
    """A table with a row for each method and, for each task, the named columns; `{}` stands for the task.

    A dash stands where a method did not run.
    """
    cells = [(name.format(task), task, cell) for task in tasks for name, cell in columns.items()]
    header = [first, *(name for name, _, _ in cells)]
    rows = (
        [method, *(cell(task, method) if method in runs_of(task) else "-" for _, task, cell in cells)]
        for method in methods
    )
    return table(header, rows)


def of_tasks(first: str, cell: Cell, tasks: Sequence[str] = EVERY) -> str:
    """A table with a row for each method, and a column for each task."""
    return by_method(first, {"{}": cell}, tasks)


# --- Cells -----------------------------------------------------------------------------------------------


def samples(task: str, method: str, threshold: float = THRESHOLDS[0], **options: Any) -> str:
    return show_samples(*samples_interval(runs_of(task)[method], threshold, **options))


def show_samples(interval: Interval, censored: int) -> str:
    """Mean samples of runs with its interval, and how many of them are censored."""
    mark = f" c{censored}" if censored else ""
    return f"{interval.mean:.0f} [{interval.low:.0f}, {interval.high:.0f}]{mark}"


def stay_mean(task: str, method: str) -> float:
    """Mean samples until the rate stays low."""
    return samples_interval(runs_of(task)[method], THRESHOLDS[0], **SKILLED)[0].mean


def stays(task: str, method: str) -> str:
    """In how many runs the rate is below the threshold throughout the last iterations."""
    return count_stays(rates_of(task, method))


def rates_of(task: str, method: str) -> list[list[float]]:
    """Intervention rates of the runs, by iteration."""
    return [[row["intervention_rate"] for row in rows] for rows in runs_of(task)[method]]


def count_stays(rates: Iterable[Sequence[float]]) -> str:
    """Among several sequences of rates, how many stay below the threshold in their last iterations."""
    low = [max(each[-STAY:]) < THRESHOLDS[0] for each in rates]
    return f"{sum(low)} of {len(low)}"


def to_stay(task: str, method: str) -> str:
    """Samples until the rate stays low."""
    return samples(task, method, **SKILLED)


STAYING: dict[str, Cell] = {"{}": to_stay, "stays": stays}
"""Columns of a task: samples until the rate stays low, and in how many runs it does."""


def kl(task: str, method: str) -> str:
    return f"{mean(task, method, 'kl_to_expert'):.2f}"


def way(task: str, method: str) -> str:
    """Success, and the part of the way from the prior's to the expert's return under the expert's reward."""
    prior, expert = (reference(task)[who]["expert_return"] for who in ("prior", "expert"))
    part = share_of_the_way(mean(task, method, "expert_return"), prior, expert)
    return f"{mean(task, method, 'success'):.2f}, {100 * part:.0f} %"


def own_return(task: str, value: float) -> str:
    """Change of a return under the prior's own reward against the prior's, in per cent of its size."""
    prior = reference(task)["prior"]["task_return"]
    return f"{round(100 * (value - prior) / abs(prior)):+d} %"


def vector(values: Iterable[float], digits: int = 2) -> str:
    return ", ".join(f"{value:.{digits}f}" for value in values)


def distance(task: str, method: str) -> str:
    return f"{mean(task, method, 'reward_distance'):.2f}"


def coverage(task: str, method: str) -> str:
    """Share of the entries of theta whose 95 % interval holds the true one; all seeds and features."""
    rows, truth = last_rows(task, method), load_task(task).oracle.true_theta
    pairs = [
        (abs(value - true), error)
        for row in rows
        for value, true, error in zip(row["theta"], truth, row["standard_errors"], strict=True)
    ]
    held = [gap <= 1.96 * error for gap, error in pairs if error is not None]
    return f"{100 * np.mean(held):.0f} %"


# --- Tables ----------------------------------------------------------------------------------------------


def summary() -> str:
    rows = []
    for task in SUMMARY:
        method = choose_method(load_task(task))
        rates = np.array([[row["intervention_rate"] for row in rows] for rows in runs_of(task)[method]])
        mean, censored = samples_interval(runs_of(task)[method], THRESHOLDS[0])
        before, after = rates.mean(axis=0)[[0, -1]]
        steps = f"{'≥ ' if censored else ''}{mean.mean:.0f}"
        seconds = sum(reference(task).get("seconds", []))
        time = f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
        rows.append(
            [
                f"`{task}`",
                WISHES[task],
                method,
                str(len(rates)),
                f"{100 * before:.0f} %",
                f"{100 * after:.1f} %",
                steps,
                time if seconds else "-",
            ]
        )
    columns = ["task", "what the expert wants", "method", "runs", "before", "after", "expert steps", "time"]
    return table(columns, rows)


def tasks() -> str:
    rows = []
    for task, wish in WISHES.items():
        first = [rows[0]["intervention_rate"] for rows in runs_of(task)["MEReQ"]]
        steps = settings_of(load_task(task)).loop.steps_per_iteration
        rows.append([f"`{task}`", wish, f"{np.mean(first):.2f}", str(len(first)), f"{steps:,}"])
    return table(["task", "what the expert wants", "lambda_0", "seeds", "steps an iteration"], rows)


def gridworlds() -> str:
    return of_tasks("method", samples, GRIDWORLDS)


def highway() -> str:
    published = read_published()["highway"]
    rows = []
    for method in RECORDED_METHODS:
        ours = [samples("highway", method, threshold) for threshold in THRESHOLDS]
        theirs = published.get((method, THRESHOLDS[0]))
        rows.append([method, *ours, "-" if theirs is None else f"{theirs:.0f}"])
    columns = [f"rate < {threshold:.2f}" for threshold in THRESHOLDS]
    return table(["method", *columns, "the paper's, < 0.05"], rows)


def arm() -> str:
    published = read_published()
    rows = []
    for method in RECORDED_METHODS:
        theirs = [published[task].get((method, THRESHOLDS[0])) for task in ARM]
        paper = "-" if None in theirs else " / ".join(f"{each:.0f}" for each in theirs)
        rows.append([method, *(samples(task, method) for task in ARM), paper])
    return table(["method", *ARM, "the paper's"], rows)


def arm_done() -> str:
    def cell(task: str, method: str) -> str:
        return samples(task, method, least_success=0.9)

    return by_method("method", {"{}, done": cell}, ARM)


def own() -> str:
    rows = []
    for method in RECORDED_METHODS:
        rows.append([method, *(own_return(task, mean(task, method, "task_return")) for task in NETWORKS)])
    expert = [own_return(task, reference(task)["expert"]["task_return"]) for task in NETWORKS]
    return table(["own return", *NETWORKS], [*rows, ["the expert", *expert]])


def stays_with_expert() -> str:
    """Runs that stay below the threshold; then the same of the expert's own policy."""
    expert = [expert_stays(task, "expert") for task in EVERY]
    return of_tasks("stays below 0.05", stays) + table_row(["the expert", *expert])


def expert_stays(task: str, watcher: str) -> str:
    """Count the expert's own policies whose rate stays below the threshold."""
    rates = reference(task)["watched"][watcher]
    return count_stays(rates[first : first + STAY] for first in range(0, len(rates), STAY))


def against_six() -> str:
    """Samples of our methods until the rate stays low, as a share of those of the best of the paper's six."""
    rows = []
    for task in EVERY:
        means = {method: stay_mean(task, method) for method in RECORDED_METHODS}
        best = min(PAPERS, key=lambda method: means[method])
        ours = [f"{means[method] / means[best]:.2f}" for method in ("MEReQ-L", "MEReQ-R")]
        rows.append([f"`{task}`", f"{best}: {means[best]:.0f}", *ours])
    return table(["task", "fewest of the six", "MEReQ-L", "MEReQ-R"], rows)


def others() -> str:
    """Samples of all methods until the rate stays low, and how often it does."""
    return by_method("all methods", STAYING, (*GRIDWORLDS, "highway"), list(METHODS))


def erring() -> str:
    """The same of the paper's methods and ours, with experts who err as people do."""
    expert = [cell for task in GRIDWORLDS for cell in ("-", expert_stays(task, "erring"))]
    table = by_method("with a model of a person", STAYING, [f"{task}-human" for task in GRIDWORLDS])
    return table + table_row(["the expert", *expert])


def slipping() -> str:
    """The runs with networks whose expert takes a random action now and then."""
    columns: dict[str, Cell] = {"{}: final rate": final_rate, "stays": stays, "success, way": way}
    tasks = ("highway-random", "bottle-random")
    methods = ("MEReQ-L", "MEReQ-R", "MEReQ", "HG-DAgger-FT")
    return by_method("one action in ten at random", columns, tasks, methods).replace("-random:", ":")


def final_rate(task: str, method: str) -> str:
    """Mean rate of the last iterations."""
    return mean_late(rates_of(task, method))


def mean_late(rates: Iterable[Sequence[float]]) -> str:
    """Mean of several sequences of rates over their last iterations."""
    return f"{np.mean([each[-STAY:] for each in rates]):.3f}"


def theta() -> str:
    rows = []
    for task in EVERY:
        found = np.array([row["theta"] for row in last_rows(task, "MEReQ-L")])
        truth = load_task(task).oracle.true_theta
        measured = [(coverage(task, m), distance(task, m)) for m in ("MEReQ-L", "MEReQ-R", "MEReQ")]
        rows.append(
            [
                f"`{task}`",
                ", ".join(f"{value:g}" for value in truth),
                vector(found.mean(axis=0)),
                vector(found.std(axis=0, ddof=1)),
                *(cell for pair in measured for cell in pair),
            ]
        )
    columns = ["task", "theta*", "MEReQ-L: mean", "spread", "coverage", "distance"]
    return table(
        [*columns, *(f"{m}: {what}" for m in ("MEReQ-R", "MEReQ") for what in ("coverage", "distance"))], rows
    )


def floor() -> str:
    """KL and return of a policy that is solved for theta* itself, beside those of the methods."""
    rows = []
    for task in NETWORKS:
        solve, prior, expert = (reference(task)[who] for who in ("solve", "prior", "expert"))
        part = share_of_the_way(*(each["expert_return"] for each in (solve, prior, expert)))
        cells = [f"{solve['kl_to_expert']:.2f}", f"{solve['success']:.2f}", f"{100 * part:.0f} %"]
        rows.append([f"`{task}`", *cells, f"{np.mean(reference(task)['watched']['solve']):.3f}"])
    return table(["solved for theta*", "KL [nats]", "success", "way", "rate"], rows)


def examples() -> str:
    lines = map(json.loads, (ROOT / "figures/examples.jsonl").read_text().splitlines())
    rows = []
    for record in lines:
        returns = record["task_return"]
        rows.append(
            [
                f"`{record['task']}`",
                ", ".join(f"{rate:.3f}" for rate in record["rates"]),
                ", ".join(f"{value:g}" for value in record["true_theta"]),
                vector(record["theta"]),
                f"{returns['prior']:.1f}, {returns['aligned']:.1f}",
            ]
        )
    return table(["task", "rate by iteration", "theta*", "theta", "own return: prior, aligned"], rows)


def solvers() -> str:
    record = read_json("figures/benchmarks/solvers.json")["seconds"]
    names = {
        "value iteration (numpy)": ("value iteration, stencil", "value iteration, sparse matrix"),
        "modified policy iteration": ("modified policy iteration",),
        "`solve_soft`, Newton (default)": ("Newton (default)",),
        '`solve_soft(..., backend="numba")`': ("Newton, numba",),
    }
    columns = {}
    for side, timed in record.items():
        medians = {name: statistics.median(seconds) for name, seconds in timed.items()}
        shown = {row: min(medians[key] for key in keys if key in medians) for row, keys in names.items()}
        best = min(median for row, median in shown.items() if not row.startswith("`solve_soft"))
        cells = {}
        for row, median in shown.items():
            cells[row] = f"{float(f'{median:.2g}'):g}"  # 190, where .2g alone would write 1.9e+02
            if median == best:
                cells[row] = f"**{cells[row]}**"
            if row.startswith("`solve_soft"):
                cells[row] += f" ({best / median:.2g}x)"
        columns[f"{side}x{side}"] = cells
    rows = ([row, *(cells[row] for cells in columns.values())] for row in names)
    return table(["seconds (times the best peer)", *columns], rows)


def live() -> str:
    record = read_json("tests/benchmarks/live.json")
    worst = record["quantiles"].index(95)
    rows = []
    for task, halves in record["times [ms]"].items():
        cells = (
            f"{times[what]['quantiles'][worst]:.1f}"
            for what in ("answer", "late")
            for times in (halves["rest"], halves["learning"])
        )
        update = halves["learning"]["update"]["quantiles"][record["quantiles"].index(50)]
        rows.append([f"`{task}`", *cells, f"{update / 1000:.2g}"])
    names = ["key to frame [ms]", "same, while it learns", "step late by [ms]", "same, while it learns"]
    return table(["task", *names, "an update [s]"], rows)


def roads() -> str:
    rates = read_json("tests/benchmarks/highway.json")["one core"]["policy steps a second"]
    medians = {name: statistics.median(each) for name, each in rates.items()}
    names = {
        "highway-env": "highway-env",
        "`HighwayEnv`, one road": "single environment",
        "`HighwayVectorEnv`, 64 roads": "64 roads",
    }
    rows = []
    for shown, key in names.items():
        times = medians[key] / medians["highway-env"]
        rows.append([shown, f"{medians[key]:,.0f}", f"{times:,.0f}"])
    return table(["simulator", "policy steps a second", "times highway-env 1.12.1"], rows)


def cells() -> str:
    rates = read_json("tests/benchmarks/fanuc.json")["one core"]["steps a second"]
    kinds = {
        "one at a time": "single",
        "16 side by side": "16 side by side",
        "64 side by side": "64 side by side",
    }
    rows = (
        [f"`{task}`", *(f"{statistics.median(rates[task][key]):,.0f}" for key in kinds.values())]
        for task in rates
    )
    return table(["steps a second", *kinds], rows)


def learners() -> str:
    record = read_json("tests/benchmarks/learners.json")
    kinds = {
        "SAC": ("updates_a_second", "Stable-Baselines3"),
        "soft DQN": ("dqn_updates_a_second", "mereq-min, torch"),
    }
    rows = []
    for kind, (key, base) in kinds.items():
        medians = {
            size: {who: statistics.median(each) for who, each in sides.items()}
            for size, sides in record[key].items()
        }
        for who in next(iter(medians.values())):
            cells = [f"{each[who]:,.0f} ({each[who] / each[base]:.1f}x)" for each in medians.values()]
            rows.append([f"{kind}, {who}", *cells])
    return table(["updates a second", *medians], rows)


def waiting() -> str:
    rates = read_json("tests/benchmarks/waiting.json")["a second"]
    rows = []
    for name, pair in rates.items():
        before, now = (statistics.median(pair[side]) for side in ("before", "now"))
        shown = [f"{each:,.0f}" if each >= 10 else f"{each:.2g}" for each in (before, now, now / before)]
        rows.append([name.replace("[", "(").replace("]", ")"), *shown[:2], f"{shown[2]}x"])
    return table(["a second", "before", "now", "ratio"], rows)


def readings() -> str:
    """MEReQ, which fits the last iteration's steps, beside MEReQ-all, on the same seeds."""
    _, rows = read_record(ROOT / "figures/fidelity.jsonl")
    lines = []
    for task in GRIDWORLDS:
        runs = {(row["variant"], row["seed"]): row for row in rows if row["task"] == task}
        both = [seed for variant, seed in runs if variant == "all iterations" and ("ours", seed) in runs]
        pair = [[runs[variant, seed] for seed in both] for variant in ("ours", "all iterations")]
        rates = (mean_late(row["rate"] for row in each) for each in pair)
        lines.append([f"`{task}`", str(len(both)), *map(samples_of_runs, pair), *rates])
    return table(["reading", "seeds", "MEReQ", "MEReQ-all", "MEReQ: rate", "MEReQ-all: rate"], lines)


def expert_sets() -> str:
    """MEReQ with its own expert set, beside MEReQ with whole episodes of the expert's own policy."""
    _, runs = read_record(ROOT / "figures/expert_set.jsonl")
    lines = []
    for task in ("bottle", "highway"):
        for name in ("its own", "whole episodes"):
            mine = [run for run in runs if (run["task"], run["expert_set"]) == (task, name)]
            rates = [run["rate"] for run in mine]
            divergence = np.mean([run["kl_to_expert"] for run in mine])
            cells = mean_late(rates), count_stays(rates), samples_of_runs(mine), f"{divergence:.2f}"
            lines.append([f"`{task}`", name, *cells])
    return table(["MEReQ on", "expert set", "final rate", "stays", "samples to stay", "KL [nats]"], lines)


def every_episode() -> str:
    """Samples until the rate stays low, and the largest later rate, with an update after every episode."""
    _, runs = read_record(ROOT / "figures/every_episode.jsonl")
    lines = []
    for task in EVERY:
        mine = [run for run in runs if run["task"] == task]
        counts, censored = samples_to_settle(mine)
        counted = show_samples(bootstrap_mean(counts, np.random.default_rng(0)), censored)
        n, last = load_task(task).horizon, np.mean([run["rate"][-1] for run in mine])
        lines.append([f"`{task}`", mine[0]["method"], str(n), str(len(mine)), counted, f"{last:.3f}"])
    return table(["updated every episode", "method", "n", "runs", "samples to stay", "last rate"], lines)


def foreign_prior() -> str:
    """Rate and success by update of a car that somebody else trained, with either expert."""
    _, runs = read_record(ROOT / "figures/foreign_prior.jsonl")
    lines = []
    for expert in dict.fromkeys(run["expert"] for run in runs):
        mine = [run for run in runs if run["expert"] == expert]
        rates, success = (np.mean([run[name] for run in mine], axis=0) for name in ("rate", "success"))
        lines.append(
            [expert, str(len(mine)), *(f"{rate:.3f}" for rate in rates), vector(success[[0, -1]], 3)]
        )
    after = [f"after {count}" for count in range(1, len(rates))]
    return table(["expert", "runs", "rate of the prior", *after, "success: before, after"], lines)


def samples_of_runs(rows: Sequence[dict[str, Any]]) -> str:
    """Mean expert samples until the rate stays below the first threshold, and how many runs never did."""
    counts, censored = samples_to_settle(rows)
    return f"{np.mean(counts):.0f}" + (f" c{censored}" if censored else "")


def samples_to_settle(rows: Sequence[dict[str, Any]]) -> tuple[list[int], int]:
    """Expert samples of each run until the rate stays below the first threshold; how many runs never did."""
    counts = [samples_to_stay(row["rate"], row["expert_samples"], THRESHOLDS[0]) for row in rows]
    return [count.samples for count in counts], sum(count.censored for count in counts)


TABLES: dict[str, Callable[[], str]] = {
    "summary": summary,
    "tasks": tasks,
    "gridworlds": gridworlds,
    "highway": highway,
    "arm": arm,
    "arm, done": arm_done,
    "stays": stays_with_expert,
    "to stay": lambda: of_tasks("to stay", to_stay),
    "against six": against_six,
    "others": others,
    "erring": erring,
    "slipping": slipping,
    "end": lambda: by_method("method", {"{}, end": way}, NETWORKS),
    "own": own,
    "kl": lambda: of_tasks("KL [nats]", kl),
    "floor": floor,
    "theta": theta,
    "readings": readings,
    "expert sets": expert_sets,
    "every episode": every_episode,
    "foreign prior": foreign_prior,
    "examples": examples,
    "solvers": solvers,
    "live": live,
    "roads": roads,
    "cells": cells,
    "learners": learners,
    "waiting": waiting,
}
"""Function that writes each table, by the name in its mark."""
MARK = re.compile(r"(<!-- table: ([\w, ]+) -->\n).*?(<!-- end -->)", flags=re.DOTALL)


def fill(text: str) -> str:
    """Put every table of a document in its place."""
    return MARK.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n{found[3]}", text)


if __name__ == "__main__":
    for document in DOCUMENTS:
        (ROOT / document).write_text(fill((ROOT / document).read_text()))
        print(f"tables: {document}")
