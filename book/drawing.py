"""What the figures of all pages share: one style, readable on white and on black, and maps as heat."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
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
