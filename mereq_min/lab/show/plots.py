"""Plots of runs: the curve of one, and the figures of the paper from many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from mereq_min.interfaces import RewardModel, Task
from mereq_min.lab.runs.episodes import Behaviour
from mereq_min.lab.runs.records import Record, Row, find_runs, is_complete, read_bundle, read_record
from mereq_min.lab.show.published import PAPER_NAMES, read_published
from mereq_min.metrics import THRESHOLDS, bootstrap_mean, samples_interval
from mereq_min.validation import Array


def draw_curve(task: Task, rows: Sequence[Row], reward: RewardModel | None, title: str) -> Figure:
    """Draw the intervention rate by iteration and, if a reward was inferred, theta with standard errors.

    Args:
        task: what was done.
        rows: one for each iteration of the run.
        reward: which reward theta stands for; None for imitation.
        title: of the figure.
    """
    figure = Figure(figsize=(9.0, 3.2) if reward else (4.5, 3.2), dpi=130, layout="constrained")
    left, *right = figure.subplots(1, 2 if reward else 1, squeeze=False)[0]
    iterations = [row["iteration"] for row in rows]
    left.plot(iterations, [row["intervention_rate"] for row in rows], "o-", color="#0072B2")
    for threshold in THRESHOLDS:
        left.axhline(threshold, color="0.7", lw=0.8, ls="--")
    left.set(xlabel="iteration", ylabel="intervention rate", ylim=(0, None))
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    if reward is not None:
        truth = None if task.oracle is None else task.oracle.true_weights(reward)
        _draw_theta(right[0], task.feature_names, rows, truth)
        known = "" if truth is None else "dashed: the true weights"
        figure.legend(loc="outside right center", frameon=False, fontsize=8, title=known)
    figure.suptitle(title, fontsize=10)
    return figure


def _draw_theta(ax: Axes, names: Sequence[str], rows: Sequence[Row], truth: Array | None) -> None:
    """Draw inferred weights with standard errors by iteration, and the true ones if they are known."""
    iterations = [row["iteration"] for row in rows]
    thetas = np.array([row["theta"] for row in rows], dtype=np.float64)
    for k, name in enumerate(names):
        errors = [row["standard_errors"][k] or 0.0 for row in rows]
        line = ax.errorbar(iterations, thetas[:, k], errors, marker="o", ms=4, capsize=2, label=name)
        if truth is not None:
            ax.axhline(truth[k], color=line.lines[0].get_color(), lw=0.8, ls="--")
    # A feature that the data say little about must not flatten the others: its error bars are cut off.
    shown = thetas if truth is None else np.vstack([thetas, truth])
    margin = 0.5 * np.ptp(shown) + 0.05
    ylim = (shown.min() - margin, shown.max() + margin)
    ax.set(xlabel="iteration", ylabel="theta ± standard error [reward]", ylim=ylim)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


Runs = dict[str, list[list[Row]]]
"""Rows of every run by method."""

METHOD_COLOURS = {
    "MEReQ": "#D55E00",
    "MEReQ-NP": "#E69F00",
    "MaxEnt": "#999999",
    "MaxEnt-FT": "#56B4E9",
    "HG-DAgger-FT": "#009E73",
    "IWR-FT": "#CC79A7",
    "MEReQ-L": "#0072B2",
    "MEReQ-R": "#000000",
}
"""Colour of each recorded method, from the palette of Okabe and Ito, which colour-blind readers can tell
apart."""
OTHER_COLOURS = {
    "MEReQ-all": "#A64A00",
    "MEReQ-S": "#6FA8DC",
    "HG-DAgger-1": "#5FBFA0",
    "Residual-BC": "#006B50",
    "RLIF": "#8C2D62",
    "PVP": "#E8B4CE",
    "MILE": "#6B7A1E",
    "PPL": "#B5C334",
}
"""Colour of the methods that are not recorded on all tasks."""
COLOURS = {"prior": "#B8A98C", "expert": "#8A5FBF", **METHOD_COLOURS, **OTHER_COLOURS}
"""Colours of the methods, the prior and the expert."""

MOST_LEVELS = 20
"""A feature of at most so many different values is drawn as bars, since it has no density."""

GREY = "#777777"
"""Colour of lines and marks that are not a policy's data; visible on white and on black."""

STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.dpi": 110,
    "savefig.dpi": 160,
    "legend.frameon": False,
}
"""Settings of matplotlib that all figures share."""


def save_figure(figure: Figure, file: Path) -> None:
    """Write a figure; equal figures give equal bytes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, bbox_inches="tight", metadata={"Software": None})


def find_tasks(root: Path) -> list[str]:
    """Names of the folders and bundles of runs in `root`, one for each task, those of the paper first."""
    folders = {path.relative_to(root).parts[0] for path in root.glob("*/*/seed*/iterations.jsonl")}
    names = folders | {path.name.removesuffix(".jsonl.gz") for path in root.glob("*.jsonl.gz")}
    names = {name for name in names if name and not name.startswith(".")}  # ".." would lead out of the folder
    return [name for name in PAPER_NAMES if name in names] + sorted(names - set(PAPER_NAMES))


def read_records(root: Path, task: str) -> list[Record]:
    """The finished runs of a task: those of its bundle, if there is one, else those of its run folders."""
    file = root / f"{task}.jsonl.gz"
    found = read_bundle(file) if file.exists() else map(read_record, find_runs(root / task))
    return list(filter(is_complete, found))


def read_runs(root: Path, task: str) -> Runs:
    """The rows of a task's finished runs by method, see `read_records`."""
    runs: Runs = {}
    for record in read_records(root, task):
        runs.setdefault(record["config"]["method"], []).append(record["iterations"])
    return runs


def draw_comparison(comparison: Mapping[str, Runs]) -> Figure:
    """Expert samples by method, beside the paper's: one row per threshold, one column per task.

    Args:
        comparison: runs by task; one column each.
    """
    published = read_published()
    methods, columns = name_methods(comparison), len(comparison)
    figure = Figure(figsize=(1.1 + 1.9 * columns, 6.4), layout="constrained")
    axes = figure.subplots(len(THRESHOLDS), columns, squeeze=False, sharex="col", sharey=True)
    for column, (task, runs) in zip(axes.T, comparison.items(), strict=True):
        for ax, threshold in zip(column, THRESHOLDS, strict=True):
            draw_needs(ax, runs, threshold, methods)
            for (method, delta), mean in published.get(task, {}).items():
                if delta == threshold:
                    ax.plot(mean, methods.index(method), "x", color=GREY, ms=5, mew=1.2)
        least, most = column[-1].get_xlim()
        if most > 100 * least:  # there is no room for more ticks
            column[-1].xaxis.set_major_locator(LogLocator())
        column[0].set_title(f"{task}\n({count_seeds(runs)})")
        column[-1].set_xlabel("expert samples")
    for ax, threshold in zip(axes[:, 0], THRESHOLDS, strict=True):
        ax.set_ylabel(f"until rate < {threshold:.2f}")
    style: dict[str, Any] = {"ls": "", "marker": "o", "color": GREY}
    handles = [
        Line2D([], [], label="mean, 95 % interval", **style),
        Line2D(
            [],
            [],
            mfc="white",
            label="lower bound; at the right edge, how many runs never got there",
            **style,
        ),
    ]
    if any(task in published for task in comparison):
        handles.append(Line2D([], [], ls="", marker="x", color=GREY, label="Chen et al. 2025"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def name_methods(comparison: Mapping[str, Runs]) -> list[str]:
    """The recorded methods and those that were run besides, in the order in which they are drawn."""
    ran = {method for runs in comparison.values() for method in runs}
    return [*METHOD_COLOURS, *(method for method in OTHER_COLOURS if method in ran)]


def draw_needs(ax: Axes, runs: Runs, threshold: float, methods: Sequence[str]) -> None:
    """Expert samples to one threshold on a logarithmic axis, one line per method; hollow if a lower bound."""
    for method, colour in _present(runs):
        (mean, low, high), censored = samples_interval(runs[method], threshold)
        y = methods.index(method)
        ax.plot([low, high], [y, y], color=colour, lw=1.5)
        ax.plot(mean, y, "o", color=colour, mfc="white" if censored else colour, ms=5)
        if censored:
            ax.text(1.01, y, str(censored), transform=ax.get_yaxis_transform(), va="center", fontsize=7.5)
    ax.set(xscale="log", ylim=(len(methods) - 0.5, -0.5))
    ax.set_yticks(range(len(methods)), methods)
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.grid(axis="x", color="0.9", lw=0.6)


def draw_rate_panels(comparison: Mapping[str, Runs]) -> Figure:
    """Mean intervention rate by iteration with 95 % intervals: a row for each task, a panel for each method.

    The panels of a row share their axes, and each repeats the other methods in grey.

    Args:
        comparison: runs by task.
    """
    methods = [name for name in name_methods(comparison) if any(name in runs for runs in comparison.values())]
    rows = len(comparison)
    figure = Figure(figsize=(8.8, 0.9 + 1.35 * rows), layout="constrained")
    axes = figure.subplots(rows, len(methods), squeeze=False, sharex=True, sharey="row")
    for row, (task, runs) in zip(axes, comparison.items(), strict=True):
        for ax, method in zip(row, methods, strict=True):
            for other in runs:
                if other != method:
                    ax.plot(*_mean_rates(runs[other])[:2], color="0.85", lw=0.8)
            draw_rates(ax, {method: runs[method]} if method in runs else {})
            ax.set(xlabel="", xticks=[1, 5, 10])
        row[0].set(ylabel=task, ylim=(0, 1.05 * max(float(ax.dataLim.ymax) for ax in row)))
    for ax, method in zip(axes[0], methods, strict=True):
        ax.set_title(method, fontsize=9)
    figure.supxlabel("iteration", fontsize=9)
    figure.supylabel(f"intervention rate (dashed: {THRESHOLDS[0]:.2f})", fontsize=9)
    return figure


def count_seeds(runs: Runs) -> str:
    """How many seeds all methods have, in words."""
    count = min(len(each) for each in runs.values())
    return f"{count} seed{'s' * (count > 1)}"


def draw_rates(ax: Axes, runs: Runs) -> None:
    """Mean intervention rate by iteration with 95 % intervals over seeds."""
    for method, colour in _present(runs):
        iterations, means, low, high = _mean_rates(runs[method])
        ax.plot(iterations, means, color=colour, lw=1.5)
        ax.fill_between(iterations, low, high, color=colour, alpha=0.2, lw=0)
    ax.axhline(THRESHOLDS[0], color=GREY, lw=0.8, ls="--")
    ax.set(xlabel="iteration", ylim=(0, None))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _mean_rates(runs: Sequence[Sequence[Row]]) -> tuple[Array, Array, Array, Array]:
    """Iterations, and the mean rate of each with the ends of its 95 % interval."""
    iterations = range(1, max(len(rows) for rows in runs) + 1)
    # The policy of a run that stopped below its threshold is the one that its last rate was measured on.
    rates = np.array(
        [[rows[min(k, len(rows)) - 1]["intervention_rate"] for k in iterations] for rows in runs]
    )
    intervals = np.array([bootstrap_mean(column, np.random.default_rng(0)) for column in rates.T])
    return np.array(iterations), *intervals.T


def draw_samples(ax: Axes, runs: Runs) -> None:
    """Bars with 95 % intervals; hatched if some runs never reached the threshold: then a lower bound."""
    methods = name_methods({"": runs})
    for method, _ in _present(runs):
        for group, threshold in enumerate(THRESHOLDS):
            (mean, low, high), censored = samples_interval(runs[method], threshold)
            x = draw_bar(ax, group, method, mean, hatch="////" if censored else None, methods=methods)
            ax.errorbar(x, mean, [[mean - low], [high - mean]], color=GREY, lw=0.8, capsize=1.5)
            if censored:
                top = np.nanmax([mean, high])  # one seed has no interval
                ax.text(x, top, f" {censored}", rotation=90, ha="center", va="bottom", fontsize=5.5)
    label_thresholds(ax)


def _present(runs: Runs) -> list[tuple[str, str]]:
    """Methods that were run, with their colours."""
    return [(method, colour) for method, colour in COLOURS.items() if method in runs]


def draw_published(ax: Axes, samples: Mapping[tuple[str, float], float]) -> None:
    """The paper's mean expert samples of one task by method and threshold."""
    for (method, threshold), mean in samples.items():
        draw_bar(ax, THRESHOLDS.index(threshold), method, mean)
    label_thresholds(ax)


def draw_bar(
    ax: Axes,
    group: int,
    method: str,
    height: float,
    hatch: str | None = None,
    methods: Sequence[str] = tuple(METHOD_COLOURS),
) -> float:
    """One method's bar among those of `methods` in the group of a threshold; returns where it stands."""
    width = 0.8 / len(methods)
    x = group + (list(methods).index(method) - (len(methods) - 1) / 2) * width
    ax.bar(x, height, 0.92 * width, color=COLOURS[method], hatch=hatch, edgecolor="white", lw=0)
    return x


def label_thresholds(ax: Axes) -> None:
    """Name the groups of bars."""
    ax.set_xticks(range(len(THRESHOLDS)), [f"δ = {threshold:.2f}" for threshold in THRESHOLDS])


# --- Behaviour -------------------------------------------------------------------------------------------


def draw_features(task: Task, behaviour: Behaviour) -> Figure:
    """Distribution of each feature over all steps by policy, seeds pooled.

    Strokes are means, the dotted line the expert's. Each distribution is scaled to its own peak; a feature of
    few values is drawn as a bar for each value.

    Args:
        task: what was done.
        behaviour: episodes of the policies on it.
    """
    names = task.feature_names
    figure = Figure(figsize=(1.2 + 1.85 * len(names), 4.0), layout="constrained")
    for k, ax in enumerate(figure.subplots(1, len(names), squeeze=False, sharey=True)[0]):
        _draw_distributions(
            ax,
            {
                label: np.concatenate([episodes.features[:, k] for episodes in seeds])
                for label, seeds in behaviour.items()
            },
        )
        ax.set_title(names[k])
    figure.suptitle(f"{task.name}: features of a step", fontsize=10)
    return figure


def draw_returns(behaviours: Sequence[tuple[Task, Behaviour]]) -> Figure:
    """Distribution of an episode's return under the expert's reward by policy; one column per task.

    Seeds are pooled. Strokes are means, the dotted line the expert's. Each is scaled to its own peak.

    Args:
        behaviours: tasks whose expert's full weights are known, and their policies at each.
    """
    figure = Figure(figsize=(1.2 + 2.5 * len(behaviours), 4.2), layout="constrained")
    columns = figure.subplots(1, len(behaviours), squeeze=False, sharey=True)[0]
    for ax, (task, behaviour) in zip(columns, behaviours, strict=True):
        weights = full_weights(task)
        if weights is None:
            raise ValueError(f"the weights of the expert's full reward on {task.name} are not known")
        returns = {
            label: np.concatenate([episodes.returns(weights) for episodes in seeds])
            for label, seeds in behaviour.items()
        }
        _draw_distributions(ax, returns, margin=0.08)
        ax.set(title=task.name, xlabel="return of an episode")
    return figure


def _draw_distributions(ax: Axes, columns: Mapping[str, Array], margin: float = 0.0) -> None:
    """Draw the distribution of each policy's values on a line of its own, with its mean and the expert's."""
    heights = range(0, -len(columns), -1)
    levels = np.unique(np.concatenate(list(columns.values())))
    grid = _grid(list(columns.values()), margin)
    for height, (label, values) in zip(heights, columns.items(), strict=True):
        if len(levels) <= MOST_LEVELS:
            shares = np.array([(values == level).mean() for level in levels])
            width = 0.8 * min([np.ptp(levels) / 8, *np.diff(levels)]) or 1.0
            ax.bar(levels, 0.9 * shares / shares.max(), width, bottom=height, color=COLOURS[label])
        else:
            top = height + 0.9 * _density(values, grid)
            ax.fill_between(grid, height, top, color=COLOURS[label], lw=0)
        ax.plot(values.mean(), height, "|", color=GREY, ms=9)
        if label == "expert":
            ax.axvline(values.mean(), color=GREY, lw=0.6, ls=":")
    ax.set_yticks(heights, list(columns))
    ax.set_ylim(heights[-1] - 0.35, 1.1)


def full_weights(task: Task) -> Array | None:
    """Weights (K,) of the expert's full reward, None if there is no oracle or it does not know them."""
    return None if task.oracle is None else task.oracle.true_weights("full")


def _grid(columns: Sequence[Array], margin: float = 0.0) -> Array:
    """Points (200,) to draw densities at: the range of all columns, widened by a share of it."""
    low, high = min(map(np.min, columns)), max(map(np.max, columns))
    margin = margin * (high - low) + 1e-6  # constant columns have no range
    return np.linspace(low - margin, high + margin, 200)


def _density(values: Array, grid: Array) -> Array:
    """Kernel density of values at the points of a grid, scaled to a peak of 1.

    The Gaussian kernel's standard deviation is 2 % of the grid for every policy: a bandwidth chosen from the
    spread of the data would blur everything where a few values, such as crashes, lie far away.
    """
    width = 0.02 * np.ptp(grid)
    density = np.exp(-0.5 * ((grid[:, None] - values) / width) ** 2).sum(axis=1)
    return density / density.max()
