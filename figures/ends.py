"""Measure the last policies of runs on the highway over 2,000 episodes.

    python figures/ends.py RUNS    # RUNS/highway holds the run folders; six minutes on one core

A collision weighs -60 and happens in one episode of twenty. Over the 100 episodes that each iteration is
measured by, the return is therefore mostly luck.
"""

import sys
from pathlib import Path

import msgspec
from rich.progress import track

from mereq_min.lab.plugins import load_task
from mereq_min.lab.runs.files import write_file
from mereq_min.lab.runs.provenance import provenance
from mereq_min.lab.runs.records import find_runs, read_policy, read_record, read_sealed_rows

FILE = Path(__file__).with_name("ends.json")
TASK, EPISODES = "highway", 2_000
MEASURES = ("success", "task_return", "expert_return")


def main() -> None:
    """Measure all runs in a folder."""
    task, commit = load_task(TASK), provenance()
    ends: dict[str, dict[str, dict[str, float]]] = {}
    for path in track(find_runs(Path(sys.argv[1]) / TASK), "measuring"):
        config = read_record(path)["config"]
        policy = task.load_policy(read_policy(path, read_sealed_rows(path)))
        measured = task.evaluate(policy, episodes=EPISODES)
        kept = {name: float(measured[name]) for name in MEASURES}
        ends.setdefault(config["method"], {})[str(config["seed"])] = kept
    record = {"task": TASK, "episodes": EPISODES, "measures": MEASURES, "ends": ends, **commit}
    write_file(FILE, msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")


if __name__ == "__main__":
    main()
