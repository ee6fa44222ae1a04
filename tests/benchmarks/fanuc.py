"""Time the robot cells, and what more threads would give them, and print a table.

    taskset -c 0 python tests/benchmarks/fanuc.py    # one core
    python tests/benchmarks/fanuc.py --threads 1 2   # the same steps on threads

Environments take random actions, resets and observations included; MuJoCo's part is timed from the middle of
such episodes. All run in turns; medians over the turns. On one core the seconds are the processor's, so that
a neighbour on it does not count. Threads are timed by the clock on the wall: only idle cores tell.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mujoco
import numpy as np
from measuring import describe_measurement, time_in_turns
from mujoco.rollout import Rollout

from deep.fanuc.bottle import BottleCells
from deep.fanuc.cells import HORIZON, SUB_STEPS, Cells
from deep.fanuc.envs import FanucEnv, FanucVectorEnv
from deep.fanuc.eraser import EraserCells
from deep.fanuc.pillow import PillowCells

KINDS = (BottleCells, EraserCells, PillowCells)
PACKAGES = ("mereq-min", "mujoco", "gymnasium", "numpy")
WEIGHTS = np.zeros(4)
FULL = mujoco.mjtState.mjSTATE_FULLPHYSICS


def step_env(env: FanucEnv, n_steps: int) -> Callable[[], int]:
    """Return a run that takes `n_steps` steps and returns their number."""
    actions = np.random.default_rng(0).uniform(-1, 1, size=(n_steps, *env.action_space.shape))
    env.reset(seed=0)

    def run() -> int:
        for action in actions:
            _, _, _, truncated, _ = env.step(action)
            if truncated:
                env.reset()
        return n_steps

    return run


def step_envs(envs: FanucVectorEnv, n_steps: int) -> Callable[[], int]:
    """Return a run that takes `n_steps` steps in all cells together and returns their number."""
    actions = np.random.default_rng(0).uniform(
        -1, 1, size=(n_steps // envs.num_envs, *envs.action_space.shape)
    )
    envs.reset(seed=0)

    def run() -> int:
        for row in actions:
            envs.step(row)
        return len(actions) * envs.num_envs

    return run


class Mechanics:
    """What MuJoCo does in a step of N cells in the middle of an episode, with their controls held."""

    def __init__(self, kind: type[Cells], count: int, n_steps: int) -> None:
        cells, rng = kind(count), np.random.default_rng(0)
        for n in range(count):
            cells.reset(n, rng)
        for _ in range(HORIZON // 2):
            cells.step(rng.uniform(-1, 1, size=(count, kind.n_actions)))
        self.model, self.data, self.n_steps = cells.model, cells.data, n_steps // count
        self.start = np.array([self._state(data) for data in self.data])

    def _state(self, data: mujoco.MjData) -> np.ndarray:
        state = np.empty(mujoco.mj_stateSize(self.model, FULL))
        mujoco.mj_getState(self.model, data, state, FULL)
        return state

    def _rewind(self) -> None:
        for data, state in zip(self.data, self.start, strict=True):
            mujoco.mj_setState(self.model, data, state, FULL)

    def _step(self, data: list[mujoco.MjData]) -> None:
        for each in data:
            mujoco.mj_step(self.model, each, nstep=SUB_STEPS)

    def loop(self) -> int:
        """One cell after the other."""
        self._rewind()
        for _ in range(self.n_steps):
            self._step(self.data)
        return self.n_steps * len(self.data)

    def pool(self, n_threads: int) -> Callable[[], int]:
        """The cells dealt to threads, which meet after each step."""
        executor = ThreadPoolExecutor(n_threads)
        hands = [self.data[i::n_threads] for i in range(n_threads)]

        def run() -> int:
            self._rewind()
            for _ in range(self.n_steps):
                list(executor.map(self._step, hands))
            return self.n_steps * len(self.data)

        return run

    def rollout(self, n_threads: int) -> Callable[[], int]:
        """`mujoco.rollout` of every step, and the state after it taken over as the next start."""
        workers = [mujoco.MjData(self.model) for _ in range(max(1, n_threads))]
        # Without threads of its own it runs on this one.
        rollout = Rollout(nthread=n_threads if n_threads > 1 else 0)
        control = np.array([np.tile(data.ctrl, (SUB_STEPS, 1)) for data in self.data])

        def run() -> int:
            state = self.start
            for _ in range(self.n_steps):
                state = rollout.rollout(self.model, workers, state, control)[0][:, -1]
            return self.n_steps * len(self.data)

        return run


def print_rates(rates: dict[str, dict[str, list[float]]]) -> None:
    """A table with a column for each kind of cell."""
    print(f"\n| steps a second | {' | '.join(rates)} |\n| --- |{' --- |' * len(rates)}")
    for name in next(iter(rates.values())):
        medians = [f"{statistics.median(of_kind[name]):,.0f}" for of_kind in rates.values()]
        print(f"| {name} | {' | '.join(medians)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=7, help="turns that count")
    parser.add_argument("--steps", type=int, default=1_600, help="steps of a turn, over all cells")
    parser.add_argument("--cells", type=int, nargs="+", default=[16, 64], help="cells side by side")
    parser.add_argument("--threads", type=int, nargs="+", help="time these numbers of threads instead")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder for fanuc.json")
    arguments = parser.parse_args()

    path = arguments.out / "fanuc.json"
    result = json.loads(path.read_text()) if path.exists() else {}
    result |= describe_measurement(PACKAGES)
    rates = {}
    for kind in KINDS:
        mechanics = Mechanics(kind, arguments.cells[-1], arguments.steps)
        if arguments.threads:
            runs = {"mechanics, loop": mechanics.loop}
            for n in arguments.threads:
                runs[f"mechanics, pool of {n}"] = mechanics.pool(n)
                runs[f"mechanics, mujoco.rollout on {n}"] = mechanics.rollout(n)
            clock = time.perf_counter
        else:
            runs = {"single": step_env(FanucEnv(kind, WEIGHTS), arguments.steps)}
            for n in arguments.cells:
                runs[f"{n} side by side"] = step_envs(FanucVectorEnv(kind, n, WEIGHTS), arguments.steps)
            runs["mechanics alone, loop"] = mechanics.loop
            runs["mechanics alone, mujoco.rollout"] = mechanics.rollout(1)
            clock = time.process_time
        rates[kind.scene] = time_in_turns(runs, arguments.turns, clock)
    print_rates(rates)
    key = "threads" if arguments.threads else "one core"
    result[key] = {"load average": os.getloadavg()[0], "steps a second": rates}
    arguments.out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"\nwrote {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
