"""Time the exact solvers and their peers on n x n grids: `taskset -c 0 python tests/benchmarks/solvers.py`.

`gridworlds.grid` with slip 0.1 (a move goes sideways) and gamma 0.99, temperature 0.1, a standard normal
reward for each (s, a), everything started from V = 0 and solved to a Bellman error of 1e-8; seconds are of
the processor.
Ours are Newton's method in scipy and in numba. Their peers:

- value iteration, in the library on its sparse matrix and below on shifted views of the grid,
- modified policy iteration, in the library, 30 sweeps for each policy,
- `imitation`, which has the soft backup of a finite horizon on a dense matrix: as many steps as value
  iteration has sweeps, at temperature 1,
- QuantEcon's modified policy iteration, for the same MDP without entropy, which is the easier problem.

The last two need `pip install '.[bench]'`. A table of single sweeps compares where the work is the same.
"""

import argparse
import json
import re
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from measuring import describe_measurement

from gridworlds import grid
from mereq_min import TabularMDP, solve_soft
from mereq_min.mdp import Array
from mereq_min.soft import bellman_q, soft_value

TEMPERATURE, TOL = 0.1, 1e-8  # both in the unit of the reward
SLIP, GAMMA = 0.1, 0.99
OURS = ("Newton (default)", "Newton, numba")
IMITATION, QUANTECON = "imitation, dense matrix", "QuantEcon, without entropy"
MOST_DENSE, MOST_SPARSE = 32, 316
"""Largest sides for which `imitation`, and value iteration on the sparse matrix, are timed."""
PACKAGES = ("mereq-min", "numpy", "scipy", "numba", "gymnasium", "imitation", "quantecon")


def draw_reward(mdp: TabularMDP) -> Array:
    return np.random.default_rng(0).normal(size=(mdp.n_states, mdp.n_actions))


def iterate_on_stencil(n: int, reward: Array) -> Array:
    """Value iteration by shifted views of the grid: no matrix, no index, all work in place."""
    r = np.ascontiguousarray(reward.T).reshape(4, n, n) / TEMPERATURE
    v = np.zeros((n, n))
    q = np.empty((4, n, n))  # up, right, down, left
    while True:
        q[0, 0], q[0, 1:] = v[0], v[:-1]
        q[1, :, -1], q[1, :, :-1] = v[:, -1], v[:, 1:]
        q[2, -1], q[2, :-1] = v[-1], v[1:]
        q[3, :, 0], q[3, :, 1:] = v[:, 0], v[:, :-1]
        slip_of_vertical, slip_of_horizontal = q[1] + q[3], q[0] + q[2]
        q *= GAMMA * (1.0 - SLIP)
        slip_of_vertical *= GAMMA * SLIP / 2
        slip_of_horizontal *= GAMMA * SLIP / 2
        q[0::2] += slip_of_vertical
        q[1::2] += slip_of_horizontal
        q += r
        top = q.max(axis=0)
        q -= top
        np.exp(q, out=q)
        backed_up = q.sum(axis=0)
        np.log(backed_up, out=backed_up)
        backed_up += top
        v -= backed_up
        error = TEMPERATURE * max(v.max(), -v.min())
        v = backed_up
        if error <= TOL:
            return TEMPERATURE * v.ravel()


def solvers(n: int, mdp: TabularMDP, reward: Array) -> dict[str, Callable[[], Array]]:
    def solve(**options: str) -> Callable[[], Array]:
        return lambda: solve_soft(mdp, reward, TEMPERATURE, tol=TOL / TEMPERATURE, **options).v  # type: ignore[arg-type]

    runs = {
        "value iteration, sparse matrix": solve(method="value_iteration"),
        "value iteration, stencil": lambda: iterate_on_stencil(n, reward),
        "modified policy iteration": solve(method="modified_policy_iteration"),
        "Newton (default)": solve(),
        "Newton, numba": solve(backend="numba"),
    }
    if n > MOST_SPARSE:
        del runs["value iteration, sparse matrix"]
    return runs


def other_packages(n: int, mdp: TabularMDP, reward: Array) -> dict[str, Callable[[], object]]:
    """Solves of other packages, for the sides that they can hold."""
    from quantecon.markov import DiscreteDP

    state, action = np.divmod(np.arange(reward.size), mdp.n_actions)
    hard = DiscreteDP(reward.ravel(), mdp.transition, GAMMA, state, action)
    # QuantEcon bounds the error of the values, which is up to 1 / (1 - gamma) of the Bellman error.
    options = {"method": "modified_policy_iteration", "epsilon": 2.0 * TOL / (1.0 - GAMMA), "k": 30}
    runs: dict[str, Callable[[], object]] = {QUANTECON: lambda: hard.solve(**options, max_iter=100_000)}
    if n <= MOST_DENSE:
        from imitation.algorithms.mce_irl import mce_partition_fh

        sweeps = solve_soft(
            mdp, reward, TEMPERATURE, tol=TOL / TEMPERATURE, method="value_iteration"
        ).iterations
        dense = dense_environment(mdp, reward[:, 0] / TEMPERATURE, sweeps)
        runs[IMITATION] = lambda: mce_partition_fh(dense, discount=GAMMA)
    return runs


def dense_environment(mdp: TabularMDP, state_reward: Array, horizon: int) -> SimpleNamespace:
    """The MDP as `imitation` takes it, with a reward (S,)."""
    S, A = mdp.n_states, mdp.n_actions
    return SimpleNamespace(
        horizon=horizon,
        state_dim=S,
        action_dim=A,
        transition_matrix=mdp.transition.toarray().reshape(S, A, S),
        reward_matrix=state_reward,
    )


def time_runs(run: Callable[[], object], *, budget: float = 3.0, most: int = 15) -> list[float]:
    """Processor seconds of each run: at least one, and more while they fit into `budget` seconds."""
    seconds: list[float] = []
    while len(seconds) < most and sum(seconds) <= budget:
        start = time.process_time()
        run()
        seconds.append(time.process_time() - start)
    return seconds


def time_solvers(n: int) -> dict[str, list[float]]:
    mdp = grid(n, slip=SLIP, gamma=GAMMA)
    reward = draw_reward(mdp)
    runs = solvers(n, mdp, reward)
    reference = runs["Newton (default)"]()
    for name, run in runs.items():
        if n <= 100 and not np.abs(run() - reference).max() <= 2 * TOL / (1 - GAMMA):
            raise RuntimeError(f"{name} and the default disagree on {n}x{n}")
    timed: dict[str, Callable[[], object]] = {**runs}
    try:
        timed = {**other_packages(n, mdp, reward), **runs}
    except ImportError as error:
        print(f"without other packages: {error}; pip install '.[bench]'", file=sys.stderr)
    return {name: time_runs(run) for name, run in timed.items()}


def measure_peak(n: int, backend: str) -> float:
    """Peak memory [GiB] of a fresh process that builds the grid and solves it once."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_solve_and_report_peak, n, backend).result()


def _solve_and_report_peak(n: int, backend: str) -> float:
    mdp = grid(n, slip=SLIP, gamma=GAMMA)
    solve_soft(mdp, draw_reward(mdp), TEMPERATURE, tol=TOL, backend=backend)  # type: ignore[arg-type]
    # Linux passes ru_maxrss on to a process that is spawned, with the peak of the one that spawns it.
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) / 2**20  # type: ignore[index]


def time_peers(n: int, horizon: int = 50) -> dict[str, list[float]]:
    """Seconds a sweep over all states, where other packages do the same or less in one.

    `imitation` has the soft backup of a finite horizon at temperature 1, on a dense matrix: the same sums,
    and the values are compared. QuantEcon's DiscreteDP has the hard one, on a sparse matrix: ours does more,
    exp and log. Neither solves the soft problem of an infinite horizon, hence no row for a whole solve.
    """
    from imitation.algorithms.mce_irl import mce_partition_fh
    from quantecon.markov import DiscreteDP

    mdp = grid(n, slip=SLIP, gamma=GAMMA)
    S, A = mdp.n_states, mdp.n_actions
    state_reward = np.random.default_rng(0).normal(size=S)
    reward = np.repeat(state_reward[:, None], A, axis=1)
    dense = dense_environment(mdp, state_reward, horizon)
    state, action = np.divmod(np.arange(S * A), A)
    hard = DiscreteDP(reward.ravel(), mdp.transition, GAMMA, state, action)

    def sweep_softly() -> Array:
        v = np.zeros(S)
        for _ in range(horizon):
            v = soft_value(mdp, bellman_q(mdp, v, reward), 1.0)
        return v

    def sweep_hard() -> Array:
        v = np.zeros(S)
        for _ in range(horizon):
            v = hard.bellman_operator(v)
        return v

    theirs = mce_partition_fh(dense, discount=GAMMA)[0][0]
    if not np.allclose(sweep_softly(), theirs, atol=1e-9):
        raise RuntimeError("our finite-horizon values are not those of imitation")
    sweep_hard()
    runs = {
        "ours, soft, sparse": sweep_softly,
        "imitation, soft, dense": lambda: mce_partition_fh(dense, discount=GAMMA),
        "QuantEcon, hard, sparse": sweep_hard,
    }
    return {name: [t / horizon for t in time_runs(run)] for name, run in runs.items()}


def print_table(title: str, columns: dict[str, dict[str, str]]) -> None:
    """Print cells by column and row as a markdown table; what was not run stays empty."""
    names = {name: None for cells in columns.values() for name in cells}
    print(f"\n| {title} | " + " | ".join(columns) + " |")
    print("| --- " * (1 + len(columns)) + "|")
    for name in names:
        print(f"| {name} | " + " | ".join(cells.get(name, "") for cells in columns.values()) + " |")


def summarise(seconds: dict[str, list[float]]) -> dict[str, str]:
    """Cells of one side for RESULTS.md: medians, and how many times faster ours are than the best peer."""
    medians = {name: statistics.median(runs) for name, runs in seconds.items()}
    peers = {name: median for name, median in medians.items() if name not in OURS}
    best = min(peers, key=lambda name: peers[name])
    cells = {
        "value iteration": min(median for name, median in peers.items() if name.startswith("value iteration"))
    } | {name: median for name, median in peers.items() if not name.startswith("value iteration")}
    shown = {name: f"{median:.2g}" for name, median in cells.items()}
    name_of_best = "value iteration" if best.startswith("value iteration") else best
    shown[name_of_best] = f"**{shown[name_of_best]}**"
    return shown | {name: f"{medians[name]:.2g} ({peers[best] / medians[name]:.2g}x)" for name in OURS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 32, 100, 316, 1000], help="side lengths")
    parser.add_argument(
        "--peer-sizes", type=int, nargs="+", default=[10, 32], help="side lengths; dense peers"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"), help="folder for solvers.json")
    arguments = parser.parse_args()

    result = describe_measurement(PACKAGES)
    solve_soft(grid(2), np.zeros((4, 4)), TEMPERATURE, backend="numba")  # compile
    seconds = {}
    for n in arguments.sizes:
        print(f"{n}x{n} ...", file=sys.stderr)
        seconds[n] = time_solvers(n)
    print_table("method", {f"{n}x{n}": summarise(runs) for n, runs in seconds.items()})
    result["seconds"] = seconds

    largest = max(arguments.sizes)
    peaks = {backend: measure_peak(largest, backend) for backend in ("scipy", "numba")}
    print(f"\nPeak memory of a process that builds and solves {largest}x{largest}:")
    for backend, peak in peaks.items():
        print(f"- backend {backend}: {peak:.2f} GiB")
    result["peak_gib"] = {"side": largest, **peaks}

    try:
        peers = {n: time_peers(n) for n in arguments.peer_sizes}
    except ImportError as error:
        print(f"\nNo table of peers: {error}; pip install '.[bench]'")
    else:
        sweeps = {
            f"{n}x{n}": {name: f"{statistics.median(runs):.2g}" for name, runs in cells.items()}
            for n, cells in peers.items()
        }
        print_table("processor seconds a sweep", sweeps)
        result["seconds_a_sweep"] = peers

    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "solvers.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
