"""Tables for people to read in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from mereq_min.interfaces import Policy, RewardModel, Task
from mereq_min.lab.runs.records import Record, Row
from mereq_min.methods import METHODS
from mereq_min.metrics import THRESHOLDS, samples_interval, true_weights
from mereq_min.rollout import watched_rate

LABELS = {
    "expert_return": "return, expert's reward",
    "prior_return": "return, prior's reward",
    "kl_to_expert": "KL to expert [nats]",
    "feature_divergence": "JS divergence [bits]",
    "mean_speed": "mean speed [m/s]",
    "length": "length [steps]",
}
"""What a measure is called in a table, where its name alone would not do."""


def tasks_table(tasks: Iterable[Task], n_steps: int, seed: int) -> Table:
    """Calibration of tasks: how often the prior and the expert are intervened on, and how well they do."""
    table = Table(
        title=f"Tasks: what the expert wants beyond the prior, and intervention rates over {n_steps} steps",
        title_justify="left",
    )
    table.add_column("task")
    table.add_column("theta*, where not 0")
    for name in ("rate\nprior", "rate\nexpert", "success\nprior", "success\nexpert"):
        table.add_column(name, justify="right")
    for task in tasks:
        theta = zip(task.feature_names, true_weights(task, "residual"), strict=True)
        policies = (task.prior, task.expert_policy)
        table.add_row(
            task.name,
            ", ".join(f"{name} {weight:+.2g}" for name, weight in theta if weight),
            *(f"{watched_rate(task, policy, n_steps, seed):.3f}" for policy in policies),
            *(f"{task.evaluate(policy)['success']:.3f}" for policy in policies),
        )
    return table


def iterations_table(rows: Sequence[Row], title: str) -> Table:
    """Intervention rate and expert samples by iteration, and what the update then reached."""
    table = Table(title=title, title_justify="left")
    columns = ("iteration", "intervention\nrate", "expert\nsamples", "KL to expert\nafter update [nats]")
    for name in columns:
        table.add_column(escape(name), justify="right")  # rich takes [nats] for markup
    for row in rows:
        table.add_row(
            str(row["iteration"]),
            f"{row['intervention_rate']:.3f}",
            str(row["expert_samples"]),
            f"{row['kl_to_expert']:.4f}",
        )
    return table


def theta_table(task: Task, row: Row, reward: RewardModel) -> Table:
    """The inferred weights with standard errors beside the true ones."""
    known = row["reward_distance"] is not None  # a prior of one's own has no reward to compare with
    title = f"Inferred {reward} reward"
    if known:
        title += f" (STARC distance {row['reward_distance']:.3f})"
    table = Table(title=title, title_justify="left")
    for name in ("feature", "inferred", "standard error", "true"):
        table.add_column(name, justify="left" if name == "feature" else "right")
    truth = true_weights(task, reward)
    columns = zip(task.feature_names, row["theta"], row["standard_errors"], truth, strict=True)
    for name, value, error, true in columns:
        table.add_row(
            name,
            f"{value:+.3f}",
            "-" if error is None else f"{error:.3f}",
            f"{true:+.3f}" if known else "unknown",
        )
    return table


def before_after_table(task: Task, aligned: Policy) -> Table:
    """Prior, aligned policy and expert on the reference simulator, unwatched.

    Their intervention rates are those of 2,000 watched steps where the task trains.
    """
    policies = {"prior": task.prior, "aligned": aligned, "expert": task.expert_policy}
    measures = {name: task.evaluate(policy, reference=True) for name, policy in policies.items()}
    for name, policy in policies.items():
        measures[name] = {"intervention_rate": watched_rate(task, policy, 2_000, 0), **measures[name]}
    return evaluation_table("Before and after", task, measures)


def evaluation_table(title: str, task: Task, measures: dict[str, dict[str, Any]]) -> Table:
    """Measures of `Task.evaluate` by policy, side by side."""
    table = Table(title=title, title_justify="left")
    table.add_column("measure")
    for name in measures:
        table.add_column(name, justify="right")
    for key in next(iter(measures.values())):
        columns = [np.atleast_1d(column[key]) for column in measures.values()]
        label = LABELS.get(key, key.replace("_", " "))
        names = [label] if len(columns[0]) == 1 else [f"{label} of {name}" for name in task.feature_names]
        for k, name in enumerate(names):
            table.add_row(escape(name), *(f"{column[k]:.3f}" for column in columns))
    return table


def comparison_table(task: str, records: Sequence[Record]) -> Table:
    """Expert samples to each threshold by method, as the paper counts them."""
    table = Table(
        title=f"{task}: expert samples until the intervention rate is below delta, mean [95 % interval]",
        caption="cN: N runs never got there and count all they used, so that the mean is a lower bound.",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("method")
    table.add_column("seeds", justify="right")
    for threshold in THRESHOLDS:
        table.add_column(f"delta {threshold:.2f}", justify="right")
    table.add_column("last rate", justify="right")
    table.add_column("KL to expert", justify="right")
    for method in METHODS:
        runs = [record["iterations"] for record in records if record["config"]["method"] == method]
        if runs:
            cells = [_samples_cell(runs, threshold) for threshold in THRESHOLDS]
            rate = np.mean([rows[-1]["intervention_rate"] for rows in runs])
            kl = np.mean([rows[-1]["kl_to_expert"] for rows in runs])
            table.add_row(method, str(len(runs)), *cells, f"{rate:.3f}", f"{kl:.3f}")
    return table


def _samples_cell(runs: Sequence[Sequence[Row]], threshold: float) -> str:
    interval, censored = samples_interval(runs, threshold)
    spread = f" [{interval.low:.0f}, {interval.high:.0f}]" if len(runs) > 1 else ""
    return f"{interval.mean:.0f}{spread}" + (f" c{censored}" if censored else "")
