"""Our LeRobot export, read by LeRobot itself, in whichever environment has it.

LeRobot wants Python 3.12 and other versions than ours, so that it lives in an environment of its own:

    python3.12 -m venv lerobot && lerobot/bin/pip install torch==2.13.0 'lerobot[dataset]'
    LEROBOT_PYTHON=lerobot/bin/python pytest -m slow tests/mereq_min/lab/datasets/test_lerobot.py
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from tiny import make_tiny

from mereq_min import Steps, concatenate, watch
from mereq_min.lab.datasets.logs import write_log

PYTHON = os.environ.get("LEROBOT_PYTHON", sys.executable)
READ = """
import json, sys
from lerobot.datasets.lerobot_dataset import LeRobotDataset
data = LeRobotDataset("mereq/tiny", root=sys.argv[1])
names = "observation.state", "action", "intervention", "features", "frame_index", "timestamp"
print(json.dumps({
    "episodes": data.num_episodes, "frames": data.num_frames, "fps": data.fps, "task": data[0]["task"],
    "columns": {name: [data[k][name].tolist() for k in range(len(data))] for name in names},
    "mean action": data.meta.stats["action"]["mean"].tolist(),
}))
"""


def make_steps() -> Steps:
    """Some whole episodes of the tiny task, watched."""
    task = make_tiny()
    parts = [watch(task, task.prior, task.oracle, 60, seed) for seed in range(2)]
    return concatenate(parts)


@pytest.mark.slow
def test_lerobot_reads_our_export(tmp_path):
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": ""}
    probe = [PYTHON, "-c", "import lerobot.datasets.lerobot_dataset"]
    if subprocess.run(probe, env=offline, capture_output=True, check=False).returncode:
        pytest.skip(f"{PYTHON} has no lerobot; LEROBOT_PYTHON names one that has, see the head of this file")
    steps = make_steps()
    write_log(tmp_path / "set", "lerobot", steps, make_tiny())
    command = [PYTHON, "-c", READ, str(tmp_path / "set")]
    run = subprocess.run(command, env=offline, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    columns = {name: np.array(column) for name, column in found["columns"].items()}
    assert found["frames"] == len(steps) and found["episodes"] == len(np.unique(steps.episode))
    assert found["task"] == make_tiny().name
    np.testing.assert_array_equal(columns["observation.state"], steps.state.astype(np.float32))
    np.testing.assert_array_equal(columns["action"], steps.action.astype(np.float32))
    np.testing.assert_array_equal(columns["intervention"], steps.is_intervention)
    np.testing.assert_allclose(columns["features"], steps.features, rtol=1e-6)
    np.testing.assert_array_equal(columns["frame_index"], steps.t)
    np.testing.assert_allclose(columns["timestamp"], steps.t / found["fps"], rtol=1e-6)
    assert found["mean action"] == pytest.approx([steps.action.mean()], rel=1e-6)
