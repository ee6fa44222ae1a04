"""Time the compiled highway against highway-env and print a table.

    taskset -c 0 python tests/benchmarks/highway.py                 # one core
    python tests/benchmarks/highway.py --threads 1 2                # threads
    taskset -c 0 python tests/benchmarks/highway.py --equality 100  # what agrees, over whole episodes

All run the scene of Highway-Sim with random actions, resets and observations included, in turns; medians over
the turns. On one core the seconds are those of the processor, so that a neighbour on it does not count.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from measuring import describe_measurement, time_in_turns

from deep.highway import HighwayEnv, HighwayVectorEnv, ReferenceEnv, RoadConfig

REFERENCE = "highway-env"
PACKAGES = ("mereq-min", "highway-env", "gymnasium", "numpy", "numba")
STYLES = {
    "random": (0.2, 0.2, 0.2, 0.2, 0.2),
    "always faster": (0.0, 0.0, 0.0, 1.0, 0.0),
    "weaving": (0.4, 0.1, 0.4, 0.1, 0.0),
    "mostly slower": (0.1, 0.1, 0.1, 0.1, 0.6),
}


def drive_single(env: HighwayEnv | ReferenceEnv, n_steps: int) -> Callable[[], int]:
    """Return a run that takes `n_steps` policy steps and returns their number."""
    actions = np.random.default_rng(0).integers(5, size=n_steps).tolist()
    env.reset(seed=0)

    def run() -> int:
        for action in actions:
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()
        return n_steps

    return run


def drive_batch(envs: HighwayVectorEnv, n_steps: int) -> Callable[[], int]:
    """Return a run that takes `n_steps` policy steps on every road and returns their number."""
    actions = np.random.default_rng(0).integers(5, size=(n_steps, envs.num_envs))
    envs.reset(seed=0)

    def run() -> int:
        for row in actions:
            envs.step(row)
        return n_steps * envs.num_envs

    return run


def print_rates(rates: dict[str, list[float]], baseline: str) -> None:
    print(f"\n| | policy steps a second | times {baseline} |\n| --- | --- | --- |")
    base = statistics.median(rates[baseline])
    for name, values in rates.items():
        median = statistics.median(values)
        print(f"| {name} | {median:,.0f} | {median / base:,.3g} |")


def compare(n_episodes: int) -> dict[str, float]:
    """Drive both through `n_episodes` episodes up to the ego's crash, and count what agrees."""
    ours, theirs = HighwayEnv(), ReferenceEnv()
    real = ("x", "y", "heading", "speed", "target_speed", "timer")
    whole = ("lane", "target_lane", "crashed", "has_impact")
    result = {
        "episodes": n_episodes,
        "policy steps": 0,
        "first states identical": 0,
        "whole numbers equal": 0,
    }
    result |= {"ends equal": 0, "observations identical": 0, "rewards identical": 0}
    worst = dict.fromkeys(("state [m, rad, m/s, s]", "observation", "feature", "reward"), 0.0)
    for seed in range(n_episodes):
        same = np.array_equal(ours.reset(seed=seed)[0], theirs.reset(seed=seed)[0])
        result["first states identical"] += same and _gap(ours, theirs, real) == 0
        rng, chances = np.random.default_rng(seed), list(STYLES.values())[seed % len(STYLES)]
        ended = False
        while not ended:
            action = int(rng.choice(5, p=chances))
            o, r, *end, info = ours.step(action)
            their_o, their_r, *their_end, their_info = theirs.step(action)
            gaps = (
                _gap(ours, theirs, real),
                float(np.abs(o - their_o).max()),
                float(np.abs(info["features"] - their_info["features"]).max()),
                abs(r - their_r),
            )
            worst = {name: max(gap, worst[name]) for name, gap in zip(worst, gaps, strict=True)}
            result["policy steps"] += 1
            result["whole numbers equal"] += _gap(ours, theirs, whole) == 0
            result["ends equal"] += end == their_end
            result["observations identical"] += gaps[1] == 0
            result["rewards identical"] += gaps[3] == 0
            ended = any(their_end)
    return result | {f"largest gap of a {name}": gap for name, gap in worst.items()}


def _gap(ours: HighwayEnv, theirs: ReferenceEnv, names: tuple[str, ...]) -> float:
    a, b = ours.get_state().cars, theirs.get_state().cars
    return max(float(np.abs(a[name].astype(float) - b[name].astype(float)).max()) for name in names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=7, help="turns that count")
    parser.add_argument("--roads", type=int, default=64, help="roads of the vector environment")
    parser.add_argument("--threads", type=int, nargs="+", help="time these numbers of threads instead")
    parser.add_argument("--equality", type=int, metavar="N", help="compare N episodes instead")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder for highway.json")
    arguments = parser.parse_args()

    path = arguments.out / "highway.json"
    result = json.loads(path.read_text()) if path.exists() else {}
    result |= describe_measurement(PACKAGES)
    result |= {"scene": RoadConfig().highway_env()}
    if arguments.equality:
        result["equality"] = compare(arguments.equality)
        print("| | |\n| --- | --- |")
        for name, value in result["equality"].items():
            print(f"| {name} | {value:,.3g} |" if isinstance(value, float) else f"| {name} | {value:,} |")
    elif arguments.threads:
        roads = 16 * arguments.roads
        batches = {f"{n} threads": HighwayVectorEnv(roads, threads=n) for n in arguments.threads}
        rates = time_in_turns(
            {name: drive_batch(b, 20) for name, b in batches.items()}, arguments.turns, time.perf_counter
        )
        print_rates(rates, f"{arguments.threads[0]} threads")
        result["threads"] = {"roads": roads, "policy steps a second": rates}
    else:
        runs = {
            REFERENCE: drive_single(ReferenceEnv(), 30),
            "single environment": drive_single(HighwayEnv(), 10_000),
            f"{arguments.roads} roads": drive_batch(HighwayVectorEnv(arguments.roads), 200),
        }
        rates = time_in_turns(runs, arguments.turns, time.process_time)
        print_rates(rates, REFERENCE)
        result["one core"] = {"policy steps a second": rates}
    arguments.out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"\nwrote {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
