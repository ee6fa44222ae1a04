"""Time what a user waits for that is not learning, and print a table.

    taskset -c 0 python tests/benchmarks/waiting.py    # one core

Both sides of each row run in one process, in turns; medians over the turns. The seconds are those of the
processor, so that a neighbour on the core does not count.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
from measuring import describe_measurement, time_in_turns

import deep
from gridworlds import TASKS, env
from mereq_min import METHODS, align, make_aligner
from mereq_min.exact import ExactLearner

PACKAGES = ("mereq-min", "highway-env", "mujoco", "gymnasium", "numpy", "scipy", "numba", "torch")


def evaluate(task: deep.GymTask, episodes: int, reference: bool) -> Callable[[], int]:
    """Return a run that measures the prior over whole episodes, as a table does, and returns their number."""

    def run() -> int:
        task.evaluate(task.prior, episodes=episodes, reference=reference)
        return episodes

    return run


def film(task: deep.GymTask, n_steps: int, reference: bool, slow: bool = False) -> Callable[[], int]:
    """Return a run that takes `n_steps` steps of the prior and draws each, and returns their number.

    With `slow`, MuJoCo casts shadows and smooths edges as it does by default.
    """
    scene = task.make_env("rgb_array", reference=reference)
    rng = np.random.default_rng(0)
    if slow:
        model = scene.unwrapped._episodes.cells.model
        model.light_castshadow[:], model.vis.quality.offsamples = True, 4
        model.vis.quality.shadowsize = 2048
    scene.reset(seed=0)
    scene.render()
    if slow:  # all cells share the model; a renderer keeps its own settings of quality
        model.vis.quality.offsamples = 0

    def run() -> int:
        state, _ = scene.reset(seed=0)
        for _ in range(n_steps):
            state = scene.step(task.prior.sample(state[None], rng)[0])[0]
            if slow:
                model.light_castshadow[:] = True
            scene.render()
            if slow:
                model.light_castshadow[:] = False
        return n_steps

    return run


def align_carpet(method: str, anew: bool) -> Callable[[], int]:
    """Return a run that aligns the prior of carpet once.

    With `anew`, every solve is left to Newton's method, and every environment makes its own tables.
    """
    task = TASKS["carpet"]()

    def run() -> int:
        for _ in align(task, make_aligner(task, METHODS[method]), seed=0):
            if anew:
                env._tables.clear()
        return 1

    def run_anew() -> int:
        with patch.object(ExactLearner, "_approach", lambda self, reward: (self._v, None, 0)):
            return run()

    return run_anew if anew else run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=5, help="turns that count")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder for waiting.json")
    arguments = parser.parse_args()

    highway, bottle = deep.TASKS["highway"](), deep.TASKS["bottle"]()
    pairs = {
        "table of the highway [episodes]": (evaluate(highway, 1, True), evaluate(highway, 20, False)),
        "film of the highway [frames]": (film(highway, 5, True), film(highway, 5, False)),
        "film of the bottle [frames]": (film(bottle, 5, False, slow=True), film(bottle, 5, False)),
        "MEReQ on carpet [runs]": (align_carpet("MEReQ", True), align_carpet("MEReQ", False)),
        "MEReQ-L on carpet [runs]": (align_carpet("MEReQ-L", True), align_carpet("MEReQ-L", False)),
    }
    rates = {}
    print("| | each, before [ms] | each, now [ms] | ratio |\n| --- | --- | --- | --- |")
    for name, (before, now) in pairs.items():
        rates[name] = time_in_turns({"before": before, "now": now}, arguments.turns, time.process_time)
        medians = {side: statistics.median(each) for side, each in rates[name].items()}
        costs = " | ".join(f"{1000 / rate:,.2f}" for rate in medians.values())
        print(f"| {name} | {costs} | {medians['now'] / medians['before']:.1f} |", flush=True)
    result = describe_measurement(PACKAGES)
    result |= {"load average": os.getloadavg()[0], "a second": rates}
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "waiting.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"\nwrote {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
