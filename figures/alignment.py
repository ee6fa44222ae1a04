"""One alignment on a map, from its run folder: where the prior goes, where it is stopped, what is learned.

Usage:

    python figures/alignment.py runs/carpet/MEReQ/seed0
"""

from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.lines import Line2D
from style import METHOD_COLOURS, save

from gridworlds import TabularTask
from mereq_min import METHODS
from mereq_min.exact import visitation
from mereq_min.lab.runs.files import load_arrays
from mereq_min.lab.runs.records import Row, read_config, read_rows, read_steps
from mereq_min.lab.runs.run import load_run_task

CARPET, FLAG = "#8c2d19", "#0072B2"
PALETTE, MARKERS = [colour for name, colour in METHOD_COLOURS.items() if name != "MaxEnt"], "os^Dv*"
PANELS = [["prior", "aligned", "rate"], ["true", "inferred", "theta"]]


@dataclass(frozen=True)
class Arguments:
    """Draw one alignment."""

    run: tyro.conf.Positional[Path]
    """Folder of the run."""
    out: Path = Path("figures/alignment.png")
    """The picture."""


def draw(path: Path) -> plt.Figure:
    config = read_config(path)["config"]
    task, rows = load_run_task(path), read_rows(path)
    reward = METHODS[config["method"]].reward
    if reward is None:
        raise SystemExit(f"{config['method']} infers no reward to draw; choose a run of another method")
    truth = None if task.oracle is None else task.oracle.true_weights(reward)
    if truth is None:
        raise SystemExit(f"the true {reward} reward of {path} is not known, so that it cannot be drawn")
    aligned = load_arrays(path / "policy.safetensors")["log_policy"]
    height, width = task.layout.letters.shape
    size = (9.2, 6.8) if height > width else (9.2, 5.2)
    figure, axes = plt.subplot_mosaic(PANELS, figsize=size, layout="constrained")
    figure.suptitle(f"{config['method']} on {config['task']}, seed {config['seed']}", fontsize=11)
    draw_visits([axes["prior"], axes["aligned"]], task, aligned)
    draw_takeovers(axes["prior"], task, path)
    draw_rewards([axes["true"], axes["inferred"]], task, reward, [truth, np.array(rows[-1]["theta"])])
    draw_rates(axes["rate"], rows, METHOD_COLOURS[config["method"]])
    draw_theta(axes["theta"], task.feature_names, truth, rows)
    return figure


def draw_visits(axes: list[Axes], task: TabularTask, aligned: np.ndarray) -> None:
    policies = {"Prior, first takeovers": task.log_prior, "Aligned": aligned}
    visits = [visitation(task.mdp, p, task.horizon, 1.0).sum(axis=1) for p in policies.values()]
    shares = [task.layout.heat(visit / visit.sum()) for visit in visits]
    top = np.nanquantile(shares, 0.99)
    for ax, title, share in zip(axes, policies, shares, strict=True):
        image = show_map(ax, task, share, cmap="Greys", vmin=0, vmax=top)
        ax.set_title(title)
    ax.figure.colorbar(image, ax=axes, label="share of steps", shrink=0.7, pad=0.01)


def draw_takeovers(ax: Axes, task: TabularTask, path: Path) -> None:
    """Each takeover segment as a line from where the expert took over; jittered so that overlaps show."""
    steps, rng = read_steps(path, 1), np.random.default_rng(0)
    for segment in steps.segments():
        rows, columns = task.layout.cells[steps.state[segment]].T + rng.uniform(-0.25, 0.25, (2, 1))
        ax.plot(columns, rows, color="#D55E00", lw=1.0, alpha=0.8)
        ax.plot(columns[0], rows[0], "o", color="#D55E00", ms=3)
    handles = [
        Line2D([], [], marker="o", color="#D55E00", ms=3, lw=1, label="takeover"),
        Line2D([], [], marker="$⚑$", ls="", color=FLAG, ms=9, label="goal"),
    ]
    if (task.layout.letters == "c").any():
        handles.append(Line2D([], [], color=CARPET, lw=0.8, label="edge of a carpet"))
    ax.figure.legend(handles=handles, loc="outside lower left", ncols=3, fontsize=8)


def draw_rewards(axes: list[Axes], task: TabularTask, reward: str, weights: list[np.ndarray]) -> None:
    rewards = [task.mdp.reward(each).mean(axis=1) for each in weights]
    count = task.layout.heat(np.ones(task.mdp.n_states))
    heats = [task.layout.heat(reward) / count for reward in rewards]
    top = np.nanmax(np.abs(heats))
    for ax, heat, title in zip(axes, heats, ("True", "Inferred"), strict=True):
        image = show_map(ax, task, heat, cmap="RdBu", vmin=-top, vmax=top)
        ax.set_title(f"{title} {reward} reward")
    axes[0].figure.colorbar(image, ax=axes, label="reward, mean over actions", shrink=0.7, pad=0.01)


def show_map(ax: Axes, task: TabularTask, heat: np.ndarray, **image: object) -> object:
    shown = ax.imshow(heat, interpolation="nearest", **image)
    walls = np.where(task.layout.letters == "#", 1.0, np.nan)
    ax.imshow(walls, cmap=ListedColormap(["#555b66"]), interpolation="nearest")
    ax.contour(task.layout.letters == "c", levels=[0.5], colors=CARPET, linewidths=0.8)
    rows, columns = np.nonzero(task.layout.letters == "G")
    ax.plot(columns, rows, ls="", marker="$⚑$", color=FLAG, ms=8)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return shown


def draw_rates(ax: Axes, rows: list[Row], colour: str) -> None:
    iterations = [row["iteration"] for row in rows]
    ax.plot(iterations, [row["intervention_rate"] for row in rows], "o-", color=colour, ms=4)
    ax.axhline(0.05, color="#444", lw=0.8, ls="--")
    ax.text(iterations[-1], 0.06, "δ = 0.05", ha="right", va="bottom", fontsize=8)
    ax.set(xlabel="iteration", ylabel="intervention rate", ylim=(0, None), xticks=iterations)
    ax.set_title("How often the expert takes over")


def draw_theta(ax: Axes, names: tuple[str, ...], truth: np.ndarray, rows: list[Row]) -> None:
    """One colour a feature: inferred weight with one standard error, dashed the true one."""
    iterations = np.array([row["iteration"] for row in rows])
    for k, name in enumerate(names):
        theta = np.array([row["theta"][k] for row in rows])
        errors = np.array([row["standard_errors"][k] or np.nan for row in rows])
        shift = 0.08 * (k - len(truth) / 2)
        colour, marker = PALETTE[k % len(PALETTE)], MARKERS[k % len(MARKERS)]
        style = {"color": colour, "marker": marker, "ms": 4, "lw": 1, "capsize": 2}
        ax.errorbar(iterations + shift, theta, errors, label=name, **style)
        ax.axhline(truth[k], color=colour, lw=0.8, ls="--")
    ax.set(xlabel="iteration", ylabel="θ [reward]", xticks=iterations)
    ax.set_title("Inferred weights ± s.e. (dashed: true)")
    limit = 2.0 * max(1.0, np.abs([row["theta"] for row in rows]).max())
    ax.set_ylim(np.clip(ax.get_ylim(), -limit, limit))  # an open direction has an error beyond all bounds
    ax.legend(fontsize=7, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.2))


if __name__ == "__main__":
    arguments = tyro.cli(Arguments)
    save(draw(arguments.run), arguments.out)
