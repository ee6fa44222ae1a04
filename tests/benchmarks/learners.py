"""Time our learners against Stable-Baselines3 and compare what they learn: one core, one thread, one run.

    taskset -c 0 .venv-bench-deep/bin/python tests/benchmarks/learners.py    # updates a second
    taskset -c 0 .venv-bench-deep/bin/python tests/benchmarks/learners.py --curves Pendulum-v1
    taskset -c 0 .venv-bench-deep/bin/python tests/benchmarks/learners.py --curves Fanuc-pusher-v0

All sides are plain SAC (no prior) with the same nets, batch and temperature: tuned on Pendulum-v1, fixed on
the arm, where they learn its prior's reward. Ours is there twice, with torch and compiled with JAX. The speed
is that of `SAC.train()` and `ResidualSAC.update()` on a replay of 10,000 transitions of random actions, with
sampling, losses, Adam and Polyak averaging, without the environment and without compilation. A second table
has residual soft DQN, which Stable-Baselines3 does not offer, with a prior, 25 inputs, 5 actions and 5
features as on the highway. Seconds are those of the processor, and the sides take turns, so that a busy
machine does not decide. Curves are stored run by run; a killed run can go on. Where Stable-Baselines3 is not
installed, torch and JAX are compared without it.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces.utils import flatdim
from measuring import describe_measurement, find_versions, time_in_turns

from deep.engines import Engine
from deep.learner import Agent
from deep.nets import mlp
from deep.policies import DiscretePolicy
from deep.residual_dqn import DQNConfig, ResidualDQN
from deep.residual_sac import ResidualSAC, SACConfig

RATE, POLYAK, START = 1e-3, 0.005, 100
ENGINES: dict[str, Engine] = {"mereq-min, torch": "torch", "mereq-min, JAX": "jax"}
THEIRS = "Stable-Baselines3"
HAS_THEIRS = find_spec("stable_baselines3") is not None
PACKAGES = ("mereq-min", "numpy", "torch", "jax", "gymnasium", *(["stable-baselines3"] if HAS_THEIRS else []))
Act = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Problem:
    """What both sides learn, and with which settings."""

    env: str
    horizon: int
    gamma: float
    hidden: tuple[int, ...]
    batch_size: int
    temperature: float | None
    """None tunes it for a mean entropy of -1 nat an action dimension."""
    steps: int
    checkpoints: int


PENDULUM = Problem("Pendulum-v1", 200, 0.99, (64, 64), 256, None, steps=10_000, checkpoints=10)
PUSHER = Problem("Fanuc-pusher-v0", 100, 0.98, (128, 128), 128, 0.02, steps=20_000, checkpoints=10)
PROBLEMS = {problem.env: problem for problem in (PENDULUM, PUSHER)}


def make_ours(problem: Problem, seed: int, engine: Engine) -> ResidualSAC:
    env = gym.make(problem.env)
    tuned = -float(flatdim(env.action_space)) if problem.temperature is None else None
    config = SACConfig(problem.hidden, RATE, problem.batch_size, problem.steps, POLYAK, tuned, engine)
    inputs, temperature = flatdim(env.observation_space), problem.temperature or 1.0
    return ResidualSAC(
        inputs, env.action_space, 1, gamma=problem.gamma, temperature=temperature, config=config, seed=seed
    )


def make_theirs(problem: Problem, seed: int) -> Any:
    from stable_baselines3 import SAC
    from stable_baselines3.common.logger import Logger

    model = SAC(
        "MlpPolicy", gym.make(problem.env), learning_rate=RATE, buffer_size=problem.steps,
        learning_starts=START, batch_size=problem.batch_size, tau=POLYAK, gamma=problem.gamma,
        ent_coef=problem.temperature or "auto", policy_kwargs={"net_arch": list(problem.hidden)},
        seed=seed, device="cpu",
    )  # fmt: skip
    model.set_logger(Logger(None, []))
    return model


# --- Speed -----------------------------------------------------------------------------------------------


def time_updates(hidden: tuple[int, ...], rounds: int, updates: int) -> dict[str, list[float]]:
    """Updates a second of SAC on each side in each round."""
    problem = replace(PENDULUM, hidden=hidden)
    ours = {name: make_ours(problem, 0, engine) for name, engine in ENGINES.items()}
    theirs = make_theirs(problem, 0) if HAS_THEIRS else None
    env = gym.make(problem.env)
    space = env.action_space
    space.seed(0)
    state, _ = env.reset(seed=0)
    for _ in range(10_000):
        action = space.sample()
        following, reward, terminated, truncated, _ = env.step(action)
        for agent in ours.values():
            agent.add(
                state[None], action[None], np.array([[reward]]), following[None], np.array([terminated])
            )
        if theirs is not None:
            unit, done = (action / space.high)[None], np.array([terminated or truncated])
            theirs.replay_buffer.add(state[None], following[None], unit, np.array([reward]), done, [{}])
        state = env.reset()[0] if truncated else following

    def update_theirs() -> int:
        theirs.train(updates, problem.batch_size)
        return updates

    sides = {name: partial(update_ours, agent, np.ones(1), updates) for name, agent in ours.items()}
    if theirs is not None:
        sides[THEIRS] = update_theirs
    return time_in_turns(sides, rounds, time.process_time)


def update_ours(agent: Agent, theta: np.ndarray, updates: int) -> int:
    agent.update(theta, updates)
    return updates


def time_dqn(hidden: tuple[int, ...], rounds: int, updates: int) -> dict[str, list[float]]:
    """Updates a second of residual soft DQN on each engine in each round."""
    inputs, actions, features, n = 25, 5, 5, 10_000
    prior = DiscretePolicy(mlp([inputs, 64, actions], seed=1), 1.0)
    agents = {
        name: ResidualDQN(
            inputs, actions, features, gamma=0.8, temperature=0.05, prior=prior, scaled_prior_weight=0.05,
            config=DQNConfig(hidden, batch_size=PENDULUM.batch_size, engine=engine),
        )
        for name, engine in ENGINES.items()
    }  # fmt: skip
    rng = np.random.default_rng(0)
    state, following = rng.normal(size=(2, n, inputs))
    values = rng.random((n, features))
    for agent in agents.values():
        agent.add(state, rng.integers(actions, size=n), values, following, rng.random(n) < 0.1)
    theta = np.linspace(-0.5, 0.5, features)
    sides = {name: partial(update_ours, agent, theta, updates) for name, agent in agents.items()}
    return time_in_turns(sides, rounds, time.process_time)


def print_speed(what: str, result: dict[str, dict[str, list[float]]], base: str) -> None:
    print(f"\n| updates of {what} a second (times {base}) | " + " | ".join(result) + " |")
    print("| --- " * (1 + len(result)) + "|")
    for name in next(iter(result.values())):
        cells = []
        for rates in result.values():
            median = statistics.median(rates[name])
            cells.append(f"{median:.0f} ({median / statistics.median(rates[base]):.2f})")
        print(f"| {name} | " + " | ".join(cells) + " |")


# --- Learning curves -------------------------------------------------------------------------------------


def evaluate(problem: Problem, act: Act, seed: int, episodes: int = 10) -> float:
    """Mean return of episodes under the policy as it is, draws included."""
    envs = gym.make_vec(problem.env, episodes)
    state, _ = envs.reset(seed=10_000 + seed)
    total = np.zeros(episodes)
    for _ in range(problem.horizon):
        state, reward, *_ = envs.step(act(state))
        total += reward
    envs.close()
    return float(total.mean())


def learn_ours(problem: Problem, seed: int, checkpoints: list[int], engine: Engine) -> list[float]:
    agent, env, rng = make_ours(problem, seed, engine), gym.make(problem.env), np.random.default_rng(seed)
    env.action_space.seed(seed)
    state, _ = env.reset(seed=seed)
    returns = []
    for step in range(1, checkpoints[-1] + 1):
        warm = step > START
        action = agent.policy().sample(state[None], rng)[0] if warm else env.action_space.sample()
        following, reward, terminated, truncated, _ = env.step(action)
        agent.add(state[None], action[None], np.array([[reward]]), following[None], np.array([terminated]))
        state = env.reset()[0] if terminated or truncated else following
        if warm:
            agent.update(np.ones(1), 1)
        if step in checkpoints:
            policy = agent.policy()
            returns.append(evaluate(problem, lambda states, policy=policy: policy.sample(states, rng), seed))
    return returns


def learn_theirs(problem: Problem, seed: int, checkpoints: list[int]) -> list[float]:
    model = make_theirs(problem, seed)
    returns = []
    for done, until in zip([0, *checkpoints], checkpoints, strict=False):
        model.learn(until - done, reset_num_timesteps=done == 0)
        returns.append(evaluate(problem, lambda states: model.predict(states)[0], seed))
    return returns


LEARNERS: dict[str, Callable[[Problem, int, list[int]], list[float]]] = {
    **{name: partial(learn_ours, engine=engine) for name, engine in ENGINES.items()},
    **({THEIRS: learn_theirs} if HAS_THEIRS else {}),
}


def bootstrap_interval(returns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % bootstrap interval of the mean over seeds; (seeds, checkpoints) -> 2 x (checkpoints,)."""
    rows = np.random.default_rng(0).integers(len(returns), size=(10_000, len(returns)))
    low, high = np.quantile(returns[rows].mean(axis=1), (0.025, 0.975), axis=0)
    return low, high


def compare_curves(problem: Problem, learners: list[str], seeds: int, path: Path) -> None:
    """Learn with every seed on some sides, writing each curve as soon as it is there."""
    interval = problem.steps // problem.checkpoints
    checkpoints = list(range(interval, problem.steps + 1, interval))
    setting = {"problem": {**asdict(problem), "hidden": list(problem.hidden)}, "checkpoints": checkpoints}
    record = {**setting, "versions": {}, "returns": {}}
    if path.exists():
        record = json.loads(path.read_text())
    versions = find_versions(PACKAGES)
    if any(record[key] != value for key, value in setting.items()) or any(
        record["versions"].setdefault(name, versions) != versions for name in learners
    ):
        raise SystemExit(f"{path} holds curves of other settings or versions: move it away first")
    for seed, name in product(range(seeds), learners):
        returns = record["returns"].setdefault(name, {})
        if str(seed) not in returns:
            print(f"{name}, seed {seed} ...", file=sys.stderr, flush=True)
            returns[str(seed)] = LEARNERS[name](problem, seed, checkpoints)
            write(path, record)
    print_curves(record)


def print_curves(record: dict) -> None:
    print(
        "\n| return, mean [95 % interval] | "
        + " | ".join(f"{n:,} steps" for n in record["checkpoints"])
        + " |"
    )
    print("| --- " * (1 + len(record["checkpoints"])) + "|")
    for name, runs in record["returns"].items():
        returns = np.array(list(runs.values()))
        columns = zip(returns.mean(axis=0), *bootstrap_interval(returns), strict=True)
        cells = [f"{mean:.1f} [{low:.1f}, {high:.1f}]" for mean, low, high in columns]
        print(f"| {name} ({len(returns)} seeds) | " + " | ".join(cells) + " |")


def write(path: Path, record: dict) -> None:
    """Replace the file in one step, so that a kill leaves the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(record, indent=2) + "\n")
    part.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--curves", choices=PROBLEMS, help="compare learning curves instead of speed")
    parser.add_argument(
        "--units", type=int, nargs="+", default=[64, 128, 256], help="of the two hidden layers"
    )
    parser.add_argument("--rounds", type=int, default=11, help="timings of each side")
    parser.add_argument("--updates", type=int, default=300, help="updates of one timing")
    parser.add_argument(
        "--learners", nargs="+", choices=LEARNERS, default=list(LEARNERS), help="sides of curves"
    )
    parser.add_argument("--seeds", type=int, default=8, help="learning curves of each side")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"), help="folder for the JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.curves:
        path = arguments.out / f"learners_curves-{arguments.curves}.json"
        compare_curves(PROBLEMS[arguments.curves], arguments.learners, arguments.seeds, path)
        return
    speed, of_dqn = {}, {}
    for width in arguments.units:
        print(f"2x{width} ...", file=sys.stderr)
        size = (width, width), arguments.rounds, arguments.updates
        speed[f"2x{width}"], of_dqn[f"2x{width}"] = time_updates(*size), time_dqn(*size)
    print_speed("SAC", speed, THEIRS if HAS_THEIRS else next(iter(ENGINES)))
    print_speed("residual soft DQN", of_dqn, next(iter(ENGINES)))
    record = {
        **describe_measurement(PACKAGES),
        "batch_size": PENDULUM.batch_size,
        "updates_a_second": speed,
        "dqn_updates_a_second": of_dqn,
    }
    write(arguments.out / "learners.json", record)


if __name__ == "__main__":
    main()
