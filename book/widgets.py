"""Make interactive widgets that need no server: HTML with its data, animated by `_static/widgets.js`."""

import json
from base64 import b64encode
from collections.abc import Sequence
from html import escape
from io import StringIO
from math import prod

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import HTML
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from gridworlds import Layout, TabularTask
from gridworlds.draw import CELL_COLOURS


def make_sliders(
    layout: Layout,
    axes: dict[str, Sequence[str]],
    frames: Sequence[ArrayLike],
    notes: Sequence[str],
    *,
    alt: str,
    norm: Normalize,
    start: Sequence[int],
    outline: str = "",
) -> HTML:
    """Return a map as heat with one slider for each axis.

    Args:
        layout: the map.
        axes: for each slider its name and what it shows at each of its places.
        frames: values (S,) of the map for each combination of places, the last axis fastest.
        notes: a line of text for each frame.
        alt: what the map shows, for those who do not see it.
        norm: scale of the colours.
        start: place of each slider at first.
        outline: letters of the cells to be framed.

    Raises:
        ValueError: if frames or notes are not as many as there are combinations.
    """
    if not len(frames) == len(notes) == prod(map(len, axes.values())):
        raise ValueError("frames and notes must be one for each combination of the sliders' places")
    colours = plt.colormaps["viridis"](np.arange(256), bytes=True)[:, :3]
    data = {
        "letters": ["".join(row) for row in layout.letters],
        "cells": layout.cells.tolist(),
        "outline": outline,
        "frames": [_pack(np.clip(256 * norm(np.asarray(values)), 0, 255)) for values in frames],
        "palette": _pack(colours),
        "lengths": [len(places) for places in axes.values()],
        "labels": list(axes.values()),
        "notes": list(notes),
    }
    inputs = "".join(
        f'<label>{name} = <output></output> <input type="range" min="0" max="{len(places) - 1}" '
        f'value="{at}" aria-label="{escape(name)}"></label>'
        for (name, places), at in zip(axes.items(), start, strict=True)
    )
    canvas = f'<canvas role="img" aria-label="{escape(alt)}"></canvas>'
    return _widget("sliders", f'{canvas}{inputs}<p data-part="note" aria-live="polite"></p>', data)


def _pack(values: ArrayLike) -> str:
    return b64encode(np.asarray(values).astype(np.uint8).tobytes()).decode()


def make_steps(panels: Sequence[tuple[str, Figure, str]]) -> HTML:
    """Return panels of which one is shown at a time.

    Args:
        panels: for each its text as HTML, its figure and what that shows, for those who do not see it.
    """
    buttons = (
        '<p class="buttons"><button type="button" data-part="back">&lsaquo; back</button> '
        '<span data-part="count"></span> <button type="button" data-part="on">on &rsaquo;</button></p>'
    )
    shown = "".join(
        f'<div data-part="panel"><p>{text}</p><img src="data:image/svg+xml;base64,{_to_svg(figure)}" '
        f'alt="{escape(alt)}"></div>'
        for text, figure, alt in panels
    )
    return HTML(f'<div class="steps widget">{buttons}{shown}</div>')


def _to_svg(figure: Figure) -> str:
    file = StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    plt.close(figure)
    return b64encode(file.getvalue().encode()).decode()


def pack_room(task: TabularTask) -> dict[str, object]:
    """Return what `_static/mereq.js` needs of a task: dynamics, features and the prior, but no reward."""
    S, A, K = task.mdp.features.shape
    transition = task.mdp.transition.tocsr()
    return {
        "S": S,
        "A": A,
        "K": K,
        "gamma": task.gamma,
        "temperature": task.temperature,
        "priorWeight": task.scaled_prior_weight,
        "horizon": task.horizon,
        "features": task.mdp.features.ravel().tolist(),
        "logPrior": task.prior.log_policy.ravel().tolist(),
        "indptr": transition.indptr.tolist(),
        "next": transition.indices.tolist(),
        "chance": transition.data.tolist(),
        "initial": task.mdp.initial.tolist(),
    }


def make_playroom(task: TabularTask) -> HTML:
    """Return a room in which the robot acts and the reader takes over with the arrow keys."""
    layout = task.layout
    picture = {
        "letters": ["".join(row) for row in layout.letters],
        "cells": layout.cells.tolist(),
        "colours": {letter: "rgb({},{},{})".format(*colour) for letter, colour in CELL_COLOURS.items()},
    }
    arrows = "".join(
        f'<button type="button" data-action="{action}" aria-label="{name}">{sign}</button>'
        for action, (name, sign) in enumerate(
            (("up", "▲"), ("right", "▶"), ("down", "▼"), ("left", "◀"), ("stay", "■"))
        )
    )
    rows = "".join(f"<tr><th>{name}</th><td></td><td></td></tr>" for name in task.feature_names)
    body = f"""
<canvas tabindex="0" role="application" aria-label="The room from above. Arrow keys take over."></canvas>
<p class="buttons"><button type="button" data-part="run">Start</button>
<button type="button" data-part="learn">Learn from my steps</button>
<button type="button" data-part="forget">Forget</button></p>
<p class="buttons arrows">{arrows}</p>
<p data-part="rounds"></p>
<p data-part="message" role="status"></p>
<table class="table" data-part="theta">
<thead><tr><th>feature</th><th colspan="2">θ, inferred</th></tr></thead>
<tbody>{rows}</tbody></table>"""
    return _widget("playroom", body, pack_room(task) | picture)


def _widget(kind: str, body: str, data: dict[str, object]) -> HTML:
    """Return a widget with its data; `</` cannot occur in them, or it would end the script."""
    text = json.dumps(data, separators=(",", ":")).replace("</", "<\\/")
    return HTML(
        f'<div class="{kind} widget">{body}<script type="application/json">{text}</script>'
        "<noscript><p>This figure needs JavaScript.</p></noscript></div>"
    )
