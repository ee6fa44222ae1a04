"""Kinematics of the FANUC LR Mate 200iD/7L: its data sheet, and joint angles in closed form."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mereq_min.validation import Array


class Joint(NamedTuple):
    """A hinge; its frame is parallel to the base's where all angles are 0."""

    origin: tuple[float, float, float]
    """In the frame of the joint before it [m]."""
    axis: tuple[float, float, float]
    limits: tuple[float, float]
    """[deg]."""
    speed: float
    """Largest [deg/s]."""


JOINTS = (
    Joint((0, 0, 0.330), (0, 0, 1), (-170, 170), 370),
    Joint((0.050, 0, 0), (0, 1, 0), (-100, 145), 310),
    Joint((0, 0, 0.440), (0, -1, 0), (-70, 213), 410),
    Joint((0, 0, 0.035), (-1, 0, 0), (-190, 190), 550),
    Joint((0.420, 0, 0), (0, -1, 0), (-125, 125), 545),
    Joint((0.080, 0, 0), (-1, 0, 0), (-360, 360), 1000),
)
"""Joints 1 to 6 of the data sheet; the flange is at the last one's origin and faces along x."""

SHOULDER = JOINTS[1].origin[0], JOINTS[0].origin[2]  # in the arm's vertical plane: radius and height [m]
UPPER_ARM = JOINTS[2].origin[2]
FOREARM = float(np.hypot(JOINTS[4].origin[0], JOINTS[3].origin[2]))
FOREARM_RISE = float(
    np.arctan2(JOINTS[3].origin[2], JOINTS[4].origin[0])
)  # of its line, where all angles are 0
WRIST = JOINTS[5].origin[0]


def inverse_kinematics(tip: Array, pitch: float, tool_length: float) -> Array:
    """Joint angles that bring the tool's tip to a point, elbow up and the tool in the arm's vertical plane.

    The base turns to the point; upper arm and forearm are a planar two-link arm to the wrist's centre; joint
    5 keeps the tool's pitch. Joint 4 rests, joint 6 undoes the base's turn, which is the tool's yaw where it
    points straight down.

    Args:
        tip: (N, 3) points in the base's frame [m]; those out of reach are approached as far as the arm goes.
        pitch: of the tool below the horizontal [rad].
        tool_length: from the flange to the tip [m].

    Returns:
        (N, 6) angles [rad]; not clipped to the joints' limits.
    """
    x, y, z = tip.T
    reach = WRIST + tool_length
    radius = np.hypot(x, y) - reach * np.cos(pitch) - SHOULDER[0]
    height = z + reach * np.sin(pitch) - SHOULDER[1]
    distance = np.clip(np.hypot(radius, height), abs(UPPER_ARM - FOREARM) + 1e-6, UPPER_ARM + FOREARM - 1e-6)
    # The triangle of shoulder, elbow and wrist by the law of cosines.
    squares = UPPER_ARM**2 - FOREARM**2
    at_shoulder = np.arccos((distance**2 + squares) / (2 * UPPER_ARM * distance))
    at_wrist = np.arccos((distance**2 - squares) / (2 * FOREARM * distance))
    rise = np.arctan2(height, radius)
    angles = np.zeros((len(tip), 6))
    angles[:, 0] = np.arctan2(y, x)
    angles[:, 1] = np.pi / 2 - (rise + at_shoulder)
    angles[:, 2] = angles[:, 1] + (rise - at_wrist) - FOREARM_RISE
    angles[:, 4] = angles[:, 1] - angles[:, 2] - pitch
    angles[:, 5] = -angles[:, 0]
    return angles
