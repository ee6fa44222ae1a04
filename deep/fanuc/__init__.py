"""Manipulation with a FANUC LR Mate 200iD/7L in MuJoCo: pushing a bottle, erasing ink, grasping a pillow."""

import os
import sys

if sys.platform == "linux":  # MuJoCo reads this on import; its default on Linux needs a display
    os.environ.setdefault("MUJOCO_GL", "egl")
