"""Draw for all pages: figures in one style, readable on white and on black, maps as heat, and tables."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.image import AxesImage
from matplotlib_inline.backend_inline import set_matplotlib_formats
from numpy.typing import ArrayLike

from gridworlds import Layout

plt.style.use(Path(__file__).with_name("book.mplstyle"))
set_matplotlib_formats("svg")


def draw_heat(
    ax: Axes, layout: Layout, values: ArrayLike, *, outline: str = "", **kwargs: object
) -> AxesImage:
    """Draw values (S,) on the map, walls left empty, with cells of the `outline` letters framed."""
    image = ax.imshow(layout.heat(values), **kwargs)
    inside = np.isin(layout.letters, list(outline))
    y, x = np.nonzero(inside[:-1] != inside[1:])
    level = np.stack([np.column_stack([x - 0.5, y + 0.5]), np.column_stack([x + 0.5, y + 0.5])], axis=1)
    y, x = np.nonzero(inside[:, :-1] != inside[:, 1:])
    upright = np.stack([np.column_stack([x + 0.5, y - 0.5]), np.column_stack([x + 0.5, y + 0.5])], axis=1)
    ax.add_collection(LineCollection([*level, *upright], colors="#D55E00", linewidths=1.2))
    ax.set_axis_off()
    return image


def tabulate(caption: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> Markdown:
    """Set out a table with a numbered caption; columns of numbers are aligned to the right.

    Cells may hold formulas and links; None is an empty cell, and anything else is written as it stands.
    """
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    is_number = [
        all(not cell or cell[0] in "0123456789-+>" for cell in column) for column in zip(*cells, strict=True)
    ]
    ruler = ["---:" if number else "---" for number in is_number]
    lines = ("| " + " | ".join(row) + " |" for row in (header, ruler, *cells))
    return Markdown("\n".join([f":::{{table}} {caption}", *lines, ":::"]))
