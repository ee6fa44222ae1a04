"""Pictures of single states, drawn with numpy: fast enough to film an episode."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gridworlds.maps import Layout

Image = NDArray[np.uint8]
"""RGB image (height, width, 3)."""
Draw = Callable[[Layout, int, str], Image]
"""(layout, state, controller) -> RGB image (height, width, 3)."""

CELL_COLOURS = {
    "#": (71, 78, 92),
    ".": (243, 240, 233),
    "S": (243, 240, 233),
    "G": (190, 222, 184),
    "c": (196, 105, 98),
    "p": (158, 196, 221),
    "t": (222, 211, 189),
    "x": (46, 42, 46),
}
"""RGB colours of cells, by letter: wall, floor, start, goal, carpet, puddle, tiles, pit."""
OTHER_COLOUR = (176, 158, 205)
"""RGB colour of cells with any other letter."""
CONTROLLER_COLOURS = {"policy": (38, 84, 160), "expert": (232, 129, 28)}
"""RGB colours of the agent by who is in control: blue for the policy, orange for the expert."""
INK = (40, 44, 52)
"""RGB colour of outlines."""
PAPER = (243, 240, 233)
"""RGB colour of the background."""


def draw_map(layout: Layout, state: int, controller: str = "policy") -> Image:
    """Draw a map seen from above: cells by letter, a flag on each goal, the agent as a disc."""
    size = _cell_size(layout)
    image = _draw_cells(layout).copy()
    row, column = layout.cells[state]
    _paint_agent(image, (row + 0.5) * size, (column + 0.5) * size, 0.36 * size, controller)
    return _to_image(image)


def _cell_size(layout: Layout) -> int:
    rows, columns = layout.letters.shape
    return max(16, -(-240 // rows), -(-360 // columns))


@lru_cache(maxsize=8)
def _draw_cells(layout: Layout) -> NDArray[np.float64]:
    """Draw what is the same in all pictures of a map."""
    size = _cell_size(layout)
    colours = np.array([[CELL_COLOURS.get(letter, OTHER_COLOUR) for letter in row] for row in layout.letters])
    image = colours.repeat(size, axis=0).repeat(size, axis=1).astype(float)
    image[::size] -= 8.0  # a thin line between cells
    image[:, ::size] -= 8.0
    for row, column in np.argwhere(layout.letters == "G"):
        _paint_flag(image, (row + 0.5) * size, (column + 0.5) * size, size)
    return image


def _paint_agent(image: NDArray[np.float64], y: float, x: float, radius: float, controller: str) -> None:
    _paint_disc(image, y, x, radius + 1.5, (255, 255, 255))
    _paint_disc(image, y, x, radius, CONTROLLER_COLOURS[controller])


def _paint_flag(image: NDArray[np.float64], y: float, x: float, size: float) -> None:
    _paint_box(image, y, x - 0.18 * size, 0.6 * size, 0.07 * size, INK)
    _paint_box(image, y - 0.16 * size, x + 0.05 * size, 0.28 * size, 0.4 * size, (62, 140, 74))


def _paint_disc(
    image: NDArray[np.float64], y: float, x: float, radius: float, colour: tuple[int, int, int]
) -> None:
    _paint_box(image, y, x, 2 * radius, 2 * radius, colour, corner=radius)


def _paint_box(
    image: NDArray[np.float64],
    y: float,
    x: float,
    height: float,
    width: float,
    colour: tuple[int, int, int],
    corner: float = 0.0,
) -> None:
    """Blend a box around (y, x) [pixels] with rounded corners into the image, anti-aliased.

    The coverage of a pixel is 1/2 minus its signed distance from the edge of the box.
    """
    rows, columns = image.shape[:2]
    top, bottom = int(max(y - height / 2 - 1, 0)), int(min(y + height / 2 + 2, rows))
    left, right = int(max(x - width / 2 - 1, 0)), int(min(x + width / 2 + 2, columns))
    down = np.abs(np.arange(top, bottom) + 0.5 - y)[:, None] - (height / 2 - corner)
    across = np.abs(np.arange(left, right) + 0.5 - x) - (width / 2 - corner)
    outside = np.hypot(np.maximum(down, 0.0), np.maximum(across, 0.0))
    distance = outside + np.minimum(np.maximum(down, across), 0.0) - corner
    coverage = np.clip(0.5 - distance, 0.0, 1.0)[..., None]
    window = image[top:bottom, left:right]
    window += coverage * (np.array(colour) - window)


def _to_image(image: NDArray[np.float64]) -> Image:
    np.clip(image, 0.0, 255.0, out=image)
    return np.rint(image, out=image).astype(np.uint8)


def draw_lanes(
    layout: Layout, state: int, controller: str = "policy", *, shape: tuple[int, int, int, int]
) -> Image:
    """Draw a road seen from above: the ego car on the left, the other car a gap ahead, streaks for speed.

    Args:
        layout: ignored; the state determines the picture.
        state: index into `shape`, or the one after it for a crash.
        controller: who is in control.
        shape: numbers of (lanes, lanes of the other car, gaps, speeds).
    """
    lanes, _, gaps, _ = shape
    step, width, verge = 44, 80, 12
    image = np.full((lanes * width + 2 * verge, (gaps + 2) * step, 3), (116, 122, 132), dtype=float)
    image[:verge] = image[-verge:] = (158, 184, 140)
    image[verge : verge + 4] = image[-verge - 4 : -verge] = (235, 235, 235)
    for line in range(1, lanes):
        for dash in range(gaps + 2):
            _paint_box(image, verge + line * width, (dash + 0.5) * step, 4, 22, (235, 235, 235))
    if state >= np.prod(shape):
        for radius, colour in ((46, (196, 60, 48)), (32, (236, 146, 50)), (18, (250, 222, 120))):
            _paint_disc(image, image.shape[0] / 2, image.shape[1] / 2, radius, colour)
        return _to_image(image)
    lane, other_lane, gap, speed = (int(index) for index in np.unravel_index(state, shape))
    y, other_y = (verge + (i + 0.5) * width for i in (lane, other_lane))
    x = 0.75 * step
    for offset in (-12, 0, 12):
        _paint_box(image, y + offset, x - 22 - 5 * speed, 3, 10 * speed, (250, 250, 250))
    _paint_car(image, other_y, x + (gap + 1) * step, (208, 210, 214))
    _paint_car(image, y, x, CONTROLLER_COLOURS[controller])
    return _to_image(image)


def _paint_car(image: NDArray[np.float64], y: float, x: float, colour: tuple[int, int, int]) -> None:
    _paint_box(image, y, x, 32, 40, INK, corner=8)
    _paint_box(image, y, x, 29, 37, colour, corner=7)
    _paint_box(image, y, x + 4, 21, 9, INK, corner=3)


def draw_shelf(
    layout: Layout, state: int, controller: str = "policy", *, shape: tuple[int, int, int]
) -> Image:
    """Draw a shelf from the side: the bottle, the hand behind it at its height, and the goal.

    Args:
        layout: ignored; the state determines the picture.
        state: index into `shape`.
        controller: who is in control.
        shape: numbers of (places of the bottle, distances of the hand, heights).
    """
    places, distances, heights = shape
    place, distance, height = (int(index) for index in np.unravel_index(state, shape))
    step, rise, board = 36, 44, 26
    image = np.full((heights * rise + 3 * board, (places + distances) * step, 3), PAPER, dtype=float)
    floor = image.shape[0] - board
    image[floor:] = (150, 111, 78)
    image[floor : floor + 4] = (124, 88, 58)
    goal_x, bottle_x = ((p + distances + 0.25) * step for p in (places - 1, place))
    _paint_box(image, floor + 4, goal_x, 8, 30, (62, 140, 74))
    _paint_flag(image, floor - 22, goal_x + 8, 60)
    _paint_box(image, floor - 62, bottle_x, 124, 26, (58, 104, 82), corner=9)
    _paint_box(image, floor - 140, bottle_x, 60, 11, (58, 104, 82), corner=4)
    _paint_box(image, floor - 60, bottle_x, 44, 26, (236, 226, 196))
    hand_y, hand_x = floor - (height + 0.5) * rise, bottle_x - 26 - distance * step
    _paint_box(image, hand_y, hand_x / 2 - 20, 9, hand_x + 40, INK)
    _paint_agent(image, hand_y, hand_x, 12, controller)
    return _to_image(image)
