"""Tables for people to read in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from mereq_min.interfaces import Policy, RewardModel, Task
    from mereq_min.lab.runs.calibration import Calibration
    from mereq_min.lab.runs.records import Record, Row
    from mereq_min.metrics import Interval

LABELS = {
    "task_return": "return, task's reward",
    "expert_return": "return, expert's reward",
    "kl_to_expert": "KL to expert [nats]",
    "feature_divergence": "JS divergence [bits]",
    "mean_speed": "mean speed [m/s]",
    "length": "length [steps]",
}
"""Labels of measures whose key does not explain them."""

WATCHED_STEPS = 2_000
"""Steps from which the intervention rate of a finished policy is measured [steps]."""


def tasks_table() -> Table:
    """An empty table for the calibration of tasks, see `add_task`."""
    table = Table(title="Tasks: what the expert wants, and how often it intervenes", title_justify="left")
    table.add_column("task")
    table.add_column("theta*, where not 0")
    for name in ("rate\nprior", "rate\nexpert", "success\nprior", "success\nexpert"):
        table.add_column(name, justify="right")
    return table


def add_task(table: Table, name: str, calibration: Calibration | None) -> None:
    """Add a task to `tasks_table`; with dashes if it was not calibrated."""
    if calibration is None:
        table.add_row(name, *["-"] * 5)
        return
    wish = ", ".join(f"{feature} {weight:+.2g}" for feature, weight in calibration.wish.items())
    rates = (calibration.prior_rate, calibration.expert_rate)
    successes = (calibration.prior_success, calibration.expert_success)
    table.add_row(name, wish, *map(_number, (*rates, *successes)))


def runs_table(root: Path, runs: Sequence[tuple[Path, Record]]) -> Table:
    """The runs in a folder: how far each is, and what it has come to."""
    table = Table(title=f"Runs in {escape(str(root))}", title_justify="left")
    for name in ("run", "task", "method"):
        table.add_column(name)
    for name in ("seed", "iterations", "last rate", "expert\nsamples"):
        table.add_column(name, justify="right")
    for path, record in runs:
        config, rows = record["config"], record["iterations"]
        table.add_row(
            escape(str(path.relative_to(root))),
            escape(config["task"]),
            config["method"],
            str(config["seed"]),
            f"{len(rows)} of {config['loop']['iterations']}",
            f"{rows[-1]['intervention_rate']:.3f}" if rows else "-",
            str(rows[-1]["expert_samples"]) if rows else "-",
        )
    return table


def iterations_table(rows: Sequence[Row], title: str) -> Table:
    """Rate and expert samples by iteration, how the solve for theta ended, and what the update reached.

    The last needs an oracle; methods that infer no theta lack the one before.
    """
    table = Table(title=escape(title), title_justify="left")
    columns = ["iteration", "intervention\nrate", "expert\nsamples"]
    has_kl = all("kl_to_expert" in row for row in rows)
    has_solve = any("converged" in row for row in rows)
    if has_solve:
        columns.append("solve for\ntheta")
    if has_kl:
        columns.append("KL to expert\nafter update [nats]")
    for name in columns:
        table.add_column(escape(name), justify="right")  # rich takes [nats] for markup
    for row in rows:
        kl = [_number(row["kl_to_expert"], 4)] if has_kl else []
        rate = f"{row['intervention_rate']:.3f}"
        solve = [_ending(row)] if has_solve else []
        table.add_row(str(row["iteration"]), rate, str(row["expert_samples"]), *solve, *kl)
    return table


def _ending(row: Row) -> str:
    """How the solve for theta of an iteration ended, in one word; "none" if theta was kept."""
    if "converged" not in row:
        return "none"
    return "converged" if row["converged"] else "unfinished"


def theta_table(task: Task, row: Row, reward: RewardModel) -> Table:
    """The inferred weights with standard errors and, if they are known, the true ones."""
    truth = None if task.oracle is None else task.oracle.true_weights(reward)
    distance = row.get("reward_distance")
    title = f"Inferred {reward} reward"
    if distance is not None:
        title += f" (STARC distance {distance:.3f})"
    table = Table(title=title, title_justify="left")
    names = ["feature", "inferred", "standard error"] + (["true"] if truth is not None else [])
    for name in names:
        table.add_column(name, justify="left" if name == "feature" else "right")
    theta, errors = row["theta"] or [], row["standard_errors"]
    for k, name in enumerate(task.feature_names):
        error = errors[k]
        known = [f"{truth[k]:+.3f}"] if truth is not None else []
        table.add_row(escape(name), f"{theta[k]:+.3f}", "-" if error is None else f"{error:.3f}", *known)
    return table


def before_after_table(task: Task, aligned: Policy) -> Table:
    """Prior, aligned policy and, with an oracle, expert, measured unwatched.

    With an oracle, the table begins with their intervention rates over `WATCHED_STEPS` watched steps. All is
    measured on the simulator on which the task trains. If results are reported on another one, the first
    steps of an episode of the aligned policy are replayed there, and below the table it says how many were
    the same.
    """
    from mereq_min.rollout import watch

    oracle = task.oracle
    policies = {"prior": task.prior, "aligned": aligned}
    if oracle is not None:
        policies["expert"] = oracle.expert_policy
    measures: dict[str, dict[str, Any]] = {}
    for name, policy in policies.items():
        measures[name] = {}
        if oracle is not None:
            rate = watch(task, policy, oracle, WATCHED_STEPS, 0).intervention_rate
            measures[name]["intervention_rate"] = rate
        measures[name] |= task.evaluate(policy, episodes=getattr(task, "reported_episodes", None))
    table = evaluation_table("Before and after", task, measures)
    check = getattr(task, "spot_check", lambda policy: None)(aligned)
    if check is not None:
        table.caption = "Replayed on the reference simulator: {} of {} steps equal".format(*check)
        table.caption_justify = "left"
    return table


def evaluation_table(title: str, task: Task, measures: dict[str, dict[str, Any]]) -> Table:
    """Measures of `Task.evaluate` by policy, side by side."""
    table = Table(title=escape(title), title_justify="left")
    table.add_column("measure")
    for name in measures:
        table.add_column(escape(name), justify="right")
    for key in next(iter(measures.values())):
        columns = [np.atleast_1d(column[key]) for column in measures.values()]
        label = LABELS.get(key, key.replace("_", " "))
        names = [label] if len(columns[0]) == 1 else [f"{label} of {name}" for name in task.feature_names]
        for k, name in enumerate(names):
            table.add_row(escape(name), *(f"{column[k]:.3f}" for column in columns))
    return table


def fits_table(task: Task, log: Path, fits: Sequence[tuple[str, Row, Policy]]) -> Table:
    """What methods made of one log: the policies unwatched and, with an oracle, watched by its expert.

    Args:
        task: the task.
        log: the log.
        fits: the method, the last row and the policy of each run.
    """
    from mereq_min.rollout import watch

    oracle = task.oracle
    table = Table(title=f"{escape(task.name)}: fitted to {escape(str(log))}", title_justify="left")
    for name in ("method", "runs", "return"):
        table.add_column(name, justify="left" if name == "method" else "right")
    if oracle is not None:
        for name in ("rate", "KL to expert [nats]", "STARC distance"):
            table.add_column(escape(name), justify="right")

    def add(name: str, runs: str, measures: list[dict[str, Any]], policies: list[Policy]) -> None:
        keys = ["task_return"]
        rates = []
        if oracle is not None:
            rates = [watch(task, policy, oracle, WATCHED_STEPS, 0).intervention_rate for policy in policies]
            keys += ["kl_to_expert", "reward_distance"]
        cells = [_mean([each.get(key) for each in measures]) for key in keys]
        table.add_row(name, runs, cells[0], *([_mean(rates)] if rates else []), *cells[1:])

    add("prior", "-", [task.evaluate(task.prior)], [task.prior])
    for method in dict.fromkeys(method for method, _, _ in fits):
        mine = [(dict(row), policy) for name, row, policy in fits if name == method]
        add(method, str(len(mine)), [row for row, _ in mine], [policy for _, policy in mine])
    return table


def comparison_table(task: str, records: Sequence[Record]) -> Table:
    """Expert samples to each threshold by method, as the paper counts them."""
    from mereq_min.methods import METHODS
    from mereq_min.metrics import THRESHOLDS

    table = Table(
        title=f"{escape(task)}: expert samples until the rate is below delta, mean [95 % interval]",
        caption="cN: N runs never got there and count all they used, so that the mean is a lower bound.",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("method")
    table.add_column("seeds", justify="right")
    for threshold in THRESHOLDS:
        table.add_column(f"delta {threshold:.2f}", justify="right")
    table.add_column("last rate", justify="right")
    last_rows = [record["iterations"][-1] for record in records]
    has_kl = bool(last_rows) and all(row.get("kl_to_expert") is not None for row in last_rows)
    if has_kl:
        table.add_column("KL to expert", justify="right")
    for method in METHODS:
        runs = [record["iterations"] for record in records if record["config"]["method"] == method]
        if runs:
            cells = [_samples_cell(runs, threshold) for threshold in THRESHOLDS]
            cells.append(f"{np.mean([rows[-1]['intervention_rate'] for rows in runs]):.3f}")
            if has_kl:
                cells.append(f"{np.mean([rows[-1]['kl_to_expert'] for rows in runs]):.3f}")
            table.add_row(method, str(len(runs)), *cells)
    return table


def outcomes_table(task: str, records: Sequence[Record], returns: tuple[float, float] | None) -> Table:
    """What came of the methods, by measures that one lucky rate cannot move.

    Args:
        task: its name.
        records: the runs.
        returns: returns of prior and expert under the expert's reward; None if they are unknown.
    """
    from mereq_min.lab.runs.run import REMEASURED_EPISODES
    from mereq_min.methods import METHODS
    from mereq_min.metrics import THRESHOLDS, count_samples, paired_difference, samples_to_stay

    threshold = THRESHOLDS[0]
    table = Table(
        title=f"{escape(task)}: lasting results, mean [95 % interval]",
        caption=f"confirmed: samples until the rate is below {threshold} and is so again over at least "
        f"{REMEASURED_EPISODES} more episodes. stays below: until all later rates are. cN: N runs never got "
        "there. minus MEReQ: difference in 'stays below', paired by seed. norm. return: of the last policy "
        "under the expert's reward; 0 is the prior's return, 1 the expert's.",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("method")
    for name in ("confirmed", "stays below", "minus MEReQ", "success", "norm. return"):
        table.add_column(name, justify="right")
    by_method = {
        method: {
            record["config"]["seed"]: record["iterations"]
            for record in records
            if record["config"]["method"] == method
        }
        for method in METHODS
    }
    stays = {
        method: {
            seed: count_samples(rows, threshold, count=samples_to_stay).samples for seed, rows in runs.items()
        }
        for method, runs in by_method.items()
    }
    for method, by_seed in by_method.items():
        if not by_seed:
            continue
        runs = list(by_seed.values())
        shared = sorted(stays[method].keys() & stays["MEReQ"].keys())
        less = "-"
        if shared and method != "MEReQ":
            own, its = ([stays[each][seed] for seed in shared] for each in (method, "MEReQ"))
            less = _interval(paired_difference(own, its), "+.0f")
        table.add_row(
            method,
            _samples_cell(runs, threshold, confirmed=True),
            _samples_cell(runs, threshold, count=samples_to_stay),
            less,
            _number(_mean_of_last(runs, "success"), 2),
            "-" if returns is None else _way(_mean_of_last(runs, "expert_return"), returns),
        )
    return table


def _mean_of_last(runs: Sequence[Sequence[Row]], name: str) -> float | None:
    """The mean of a measure of the last policies; None if some run lacks it."""
    values: list[Any] = [rows[-1].get(name) for rows in runs]
    return None if None in values else float(np.mean(values))


def _way(value: float | None, returns: tuple[float, float]) -> str:
    from mereq_min.metrics import share_of_the_way

    prior, expert = returns
    return "-" if value is None or prior == expert else f"{share_of_the_way(value, prior, expert):.2f}"


def _interval(interval: Interval, form: str) -> str:
    mean, low, high = (format(each, form) for each in interval)
    return mean if np.isnan(interval.low) else f"{mean} [{low}, {high}]"


def _samples_cell(runs: Sequence[Sequence[Row]], threshold: float, **measure: Any) -> str:
    from mereq_min.metrics import samples_interval

    interval, censored = samples_interval(runs, threshold, **measure)
    spread = f" [{interval.low:.0f}, {interval.high:.0f}]" if len(runs) > 1 else ""
    return f"{interval.mean:.0f}{spread}" + (f" c{censored}" if censored else "")


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return _number(float(np.mean(known)) if known else None)
