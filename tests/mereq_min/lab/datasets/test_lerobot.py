"""Our LeRobot export read by LeRobot itself, and a dataset of its own read by us.

LeRobot wants other versions than ours, so that it lives in an environment of its own:

    python -m venv lerobot && lerobot/bin/pip install lerobot==0.4.4
    LEROBOT_PYTHON=lerobot/bin/python pytest -m slow tests/mereq_min/lab/datasets/test_lerobot.py
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import make_tiny

from mereq_min import Steps, concatenate, watch
from mereq_min.lab.datasets.logs import LogSource, write_log

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

WRITE = """
import json, sys
import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset
dtypes = {"observation.state": "float32", "action": "float32", "intervention": "bool"}
features = {name: {"dtype": dtype, "shape": (1,), "names": None} for name, dtype in dtypes.items()}
data = LeRobotDataset.create("mereq/theirs", fps=5, root=sys.argv[1], features=features, use_videos=False)
for episode in json.loads(sys.argv[2]):
    for row in episode:
        frame = {name: np.array([x], dtype=dtypes[name]) for name, x in zip(dtypes, row, strict=True)}
        data.add_frame({**frame, "task": "tidy up"})
    data.save_episode()
data.finalize()
"""


def run_lerobot(code: str, home: Path, *arguments: str) -> str:
    """Run code in LeRobot's environment and return what it printed; skip the test where there is none."""
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(home), "PYTHONPATH": ""}
    probe = [PYTHON, "-c", "import lerobot.datasets.lerobot_dataset"]
    if subprocess.run(probe, env=offline, capture_output=True, check=False).returncode:
        pytest.skip(f"{PYTHON} has no lerobot; LEROBOT_PYTHON names one that has, see the head of this file")
    command = [PYTHON, "-c", code, *arguments]
    run = subprocess.run(command, env=offline, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


def make_steps() -> Steps:
    """Some whole episodes of the tiny task, watched."""
    task = make_tiny()
    parts = [watch(task, task.prior, task.oracle, 60, seed) for seed in range(2)]
    return concatenate(parts)


@pytest.mark.slow
def test_lerobot_reads_our_export(tmp_path):
    steps = make_steps()
    write_log(tmp_path / "set", "lerobot", steps, make_tiny())
    found = json.loads(run_lerobot(READ, tmp_path / "home", str(tmp_path / "set")).splitlines()[-1])
    columns = {name: np.array(column) for name, column in found["columns"].items()}
    assert found["frames"] == len(steps) and found["episodes"] == np.sum(steps.t == 0)
    assert found["task"] == make_tiny().name
    np.testing.assert_array_equal(columns["observation.state"], steps.state.astype(np.float32))
    np.testing.assert_array_equal(columns["action"], steps.action.astype(np.float32))
    np.testing.assert_array_equal(columns["intervention"], steps.is_intervention)
    np.testing.assert_allclose(columns["features"], steps.features, rtol=1e-6)
    np.testing.assert_array_equal(columns["frame_index"], steps.t)
    np.testing.assert_allclose(columns["timestamp"], steps.t / found["fps"], rtol=1e-6)
    assert found["mean action"] == pytest.approx([steps.action.mean()], rel=1e-6)


@pytest.mark.slow
def test_we_read_what_lerobot_wrote(tmp_path):
    steps, task = make_steps(), make_tiny()
    starts = np.flatnonzero(steps.t == 0)
    rows = np.column_stack([steps.state, steps.action, steps.is_intervention]).tolist()
    episodes = [rows[start:end] for start, end in zip(starts, [*starts[1:], len(rows)], strict=True)]
    run_lerobot(WRITE, tmp_path / "home", str(tmp_path / "theirs"), json.dumps(episodes))
    found = LogSource(tmp_path / "theirs").load(task).steps
    for name in ("state", "action", "is_intervention", "t", "features"):
        np.testing.assert_array_equal(found.columns()[name], steps.columns()[name], err_msg=name)
    np.testing.assert_array_equal(
        np.unique(found.episode, return_counts=True)[1], np.diff([*starts, len(rows)])
    )
