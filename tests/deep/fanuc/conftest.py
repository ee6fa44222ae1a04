"""The kinds of cell, and a way to bring a tip where a test wants it."""

import numpy as np
import pytest

from deep.fanuc.bottle import BottleCells, TopplingBottleCells
from deep.fanuc.cells import SPEED, SUB_STEPS
from deep.fanuc.eraser import EraserCells
from deep.fanuc.pillow import PillowCells

KINDS = (BottleCells, TopplingBottleCells, EraserCells, PillowCells)


@pytest.fixture(params=KINDS, ids=lambda kind: kind.scene)
def kind(request):
    return request.param


def drive_to(cells, target, n_steps, grip=0.0):
    """Move the first tip to a point (3,) by feedback within so many steps."""
    reach = SPEED * SUB_STEPS * cells.model.opt.timestep
    action = np.full((1, cells.n_actions), float(grip))
    for _ in range(n_steps):
        action[0, :3] = np.clip(0.5 * (target - cells.tip[0]) / reach, -1, 1)
        cells.step(action)


@pytest.fixture
def drive():
    return drive_to
