"""Kinematics of the FANUC LR Mate 200iD/7L: dimensions from its data sheet, and inverse kinematics."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mereq_min.validation import Array


class Joint(NamedTuple):
    """A revolute joint; its frame is parallel to the base's when all joint angles are 0."""

    origin: tuple[float, float, float]
    """Position in the frame of the previous joint [m]."""
    axis: tuple[float, float, float]
    """Unit vector along the axis of rotation."""
    limits: tuple[float, float]
    """Smallest and largest angle [deg]."""
    speed: float
    """Largest angular speed [deg/s]."""


JOINTS = (
    Joint((0, 0, 0.330), (0, 0, 1), (-170, 170), 370),
    Joint((0.050, 0, 0), (0, 1, 0), (-100, 145), 310),
    Joint((0, 0, 0.440), (0, -1, 0), (-70, 213), 410),
    Joint((0, 0, 0.035), (-1, 0, 0), (-190, 190), 550),
    Joint((0.420, 0, 0), (0, -1, 0), (-125, 125), 545),
    Joint((0.080, 0, 0), (-1, 0, 0), (-360, 360), 1000),
)
"""Joints 1 to 6 of the data sheet; the flange is at the origin of joint 6 and faces along x."""

SHOULDER = JOINTS[1].origin[0], JOINTS[0].origin[2]
"""Radius and height of the shoulder in the arm's vertical plane [m]."""
UPPER_ARM = JOINTS[2].origin[2]
"""Length of the upper arm, from shoulder to elbow [m]."""
FOREARM = float(np.hypot(JOINTS[4].origin[0], JOINTS[3].origin[2]))
"""Distance from the elbow to the centre of the wrist [m]."""
FOREARM_RISE = float(np.arctan2(JOINTS[3].origin[2], JOINTS[4].origin[0]))
"""Angle above the horizontal of the line from elbow to wrist when all joint angles are 0 [rad]."""
WRIST = JOINTS[5].origin[0]
"""Distance from the centre of the wrist to the flange [m]."""


def inverse_kinematics(tip: Array, pitch: float, tool_length: float) -> Array:
    """Return the joint angles that bring the tool's tip to a point, with the elbow up (inverse kinematics).

    The tool stays in the arm's vertical plane. Joint 1 turns the arm towards the point; joints 2 and 3 are
    those of a planar two-link arm whose end is the centre of the wrist; joint 4 stays at 0; joint 5 keeps the
    pitch of the tool. Joint 6 undoes the rotation of joint 1, so that a tool that points straight down keeps
    its yaw.

    Args:
        tip: (N, 3) points in the base's frame [m]; towards a point out of reach, the arm stretches as far as
            it can.
        pitch: angle of the tool below the horizontal [rad].
        tool_length: distance from the flange to the tip [m].

    Returns:
        (N, 6) angles [rad]; they are not clipped to the joints' limits.
    """
    x, y, z = tip.T
    reach = WRIST + tool_length
    radius = np.hypot(x, y) - reach * np.cos(pitch) - SHOULDER[0]
    height = z + reach * np.sin(pitch) - SHOULDER[1]
    distance = np.clip(np.hypot(radius, height), abs(UPPER_ARM - FOREARM) + 1e-6, UPPER_ARM + FOREARM - 1e-6)
    # The law of cosines gives the angles of the triangle of shoulder, elbow and wrist.
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
