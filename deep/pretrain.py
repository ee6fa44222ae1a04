"""`mereq pretrain`: make a prior or an expert for a task, from scratch or on top of another policy."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import gymnasium as gym
import numpy as np
import tyro
from gymnasium.vector import VectorEnv, VectorWrapper
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from deep.learner import Agent
from deep.residual_dqn import DQNConfig, ResidualDQN
from deep.residual_sac import ResidualSAC, SACConfig
from deep.rollouts import interact
from mereq_min.interfaces import Policy
from mereq_min.lab.plugins import UsageError, load_environment, load_policy
from mereq_min.lab.runs.files import RunError, save_arrays, write_file
from mereq_min.lab.runs.provenance import provenance
from mereq_min.validation import Array, check_number


class Trainable(Protocol):
    """What pretraining asks of a task."""

    @property
    def gamma(self) -> float:
        """Discount factor."""
        ...

    @property
    def prior_weights(self) -> Array:
        """Weights (K,) of the prior's reward."""
        ...

    @property
    def expert_weights(self) -> Array:
        """Weights (K,) of the expert's reward."""
        ...

    def make_env(self, render_mode: str | None = None) -> gym.Env[Any, Any]:
        """Return one environment."""
        ...

    def make_vector_env(self, num_envs: int, weights: Array) -> VectorEnv[Any, Any, Any]:
        """Return environments side by side whose reward has the given weights (K,)."""
        ...

    def evaluate(self, policy: Policy, *, episodes: int | None = None) -> dict[str, Any]:
        """Measure a policy."""
        ...


@dataclass(frozen=True)
class Pretrain:
    """Train a policy for a task's reward; the same command resumes what was interrupted."""

    task: tyro.conf.Positional[str]
    """Name of the task, or a gymnasium id of CartPole, MountainCarContinuous or LunarLander."""
    algo: Literal["dqn", "soft-dqn", "sac"] = "soft-dqn"
    """Learner; with --prior its residual form."""
    reward: Literal["prior", "expert"] = "prior"
    """Whose reward, without --prior."""
    prior: str | None = None
    """Customise this policy (see `mereq evaluate`) by what the expert's reward adds to the prior's; omega' is
    --temperature."""
    temperature: float = 0.05
    """alpha of the policy; for sac with a target entropy where it begins [reward]."""
    steps: int = 500_000
    """Transitions to learn from; rounded up to whole steps of all environments [transitions]."""
    num_envs: int = 32
    """Environments side by side [environments]."""
    steps_per_update: float = 4.0
    """Transitions for each gradient update [transitions]."""
    steps_per_checkpoint: int = 20_000
    """Transitions between checkpoints, where environments begin anew: nothing of them has to be saved, and a
    resumed run ends bit for bit like an unbroken one [transitions]."""
    anneal: bool = False
    """Let the learning rate fall, in a straight line, to a twentieth."""
    seed: int = 0
    """Seed of everything."""
    out: Path = Path("policies")
    """Folder for the policy and its record."""
    overwrite: bool = False
    """Discard what is there and start over."""
    dqn: DQNConfig = field(default_factory=DQNConfig)
    sac: SACConfig = field(default_factory=SACConfig)

    def __post_init__(self) -> None:
        check_number("steps", self.steps, 1, whole=True)
        check_number("steps_per_checkpoint", self.steps_per_checkpoint, 1, whole=True)
        check_number("num_envs", self.num_envs, 1, whole=True)
        check_number("steps_per_update", self.steps_per_update, 0, above=True)
        check_number("seed", self.seed, 0, whole=True)

    def __call__(self) -> int:
        """Train with checkpoints, and write policy and record."""
        task = load_environment(self.task)
        if not hasattr(task, "make_vector_env"):
            raise UsageError(f"{self.task} has no make_vector_env, the environments to learn in side by side")
        reward = self.reward if self.prior is None else "residual"
        path = self.out / f"{self.task.replace(':', '-')}-{reward}-{self.algo}-seed{self.seed}"
        train(self, task, path, report=lambda row: print(json.dumps(row), file=sys.stderr))
        print(f"policy: {path}.safetensors\nrecord: {path}.json")
        return 0


def train(
    settings: Pretrain, task: Trainable, path: Path, report: Callable[[dict[str, Any]], None]
) -> Policy:
    """Train a policy, or go on with it from its last checkpoint.

    Args:
        settings: what to train, and how.
        task: on which task.
        path: where, without suffix: `.safetensors` is the policy, `.json` the settings, versions and measures
            at each checkpoint, `.checkpoint-<number>.safetensors` what training goes on from.
        report: called with the measures at each checkpoint.

    Raises:
        RunError: if there is a policy of other settings at `path`, or a damaged one.
    """
    record = _claim(settings, path)
    agent = make_agent(settings, task)
    if settings.overwrite:  # not before the settings have turned out to make sense
        _suffixed(path, ".json").unlink(missing_ok=True)
    done = len(record["measures"])
    _discard_checkpoints(path, but=done)  # what a kill left
    if done:
        _restore(agent, _checkpoint(path, done))
    envs, theta = make_problem(settings, task)
    chunk = settings.steps_per_checkpoint
    for number in range(done, -(-settings.steps // chunk)):
        n_steps = min(chunk, settings.steps - number * chunk)
        metrics = learn(agent, envs, theta, n_steps, settings, number)
        row = {"steps": number * chunk + n_steps, **metrics, **task.evaluate(agent.policy())}
        record["measures"].append({name: value for name, value in row.items() if np.isscalar(value)})
        save_arrays(_suffixed(path, ".safetensors"), policy_arrays(agent.policy()))
        save_arrays(_checkpoint(path, number + 1), agent.state())
        # The checkpoint counts from the moment that the record speaks of it.
        write_file(_suffixed(path, ".json"), json.dumps(record, indent=1).encode())
        _discard_checkpoints(path, but=number + 1)
        report(record["measures"][-1])
    envs.close()
    return agent.policy()


def policy_arrays(policy: Any) -> dict[str, NDArray[Any]]:
    """A policy's `state()`, and under `prior.` that of the policy that it customises."""
    prior = getattr(policy, "prior", None)
    of_prior = policy_arrays(prior) if hasattr(prior, "state") else {}
    return {**policy.state(), **{f"prior.{name}": array for name, array in of_prior.items()}}


def make_problem(settings: Pretrain, task: Trainable) -> tuple[VectorEnv[Any, Any, Any], Array]:
    """Environments, and theta for their features: the residual reward on a prior, else the reward itself."""
    if settings.prior is not None:
        envs = task.make_vector_env(settings.num_envs, task.prior_weights)
        return envs, task.expert_weights - task.prior_weights
    weights = task.prior_weights if settings.reward == "prior" else task.expert_weights
    return RewardAlone(task.make_vector_env(settings.num_envs, weights)), np.ones(1)


class RewardAlone(VectorWrapper[Any, Any, Any]):
    """Hides the features of a step, so that the reward is learned from as a whole, constants and all."""

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Take a step in each environment."""
        *outcome, info = self.env.step(actions)
        return *outcome, {name: info[name] for name in ("final_obs", "_final_obs") if name in info}


def make_agent(settings: Pretrain, task: Trainable) -> ResidualDQN | ResidualSAC:
    """The agent for a task's spaces.

    Raises:
        UsageError: if the algorithm does not fit the task's actions, or a prior.
    """
    if settings.algo == "dqn" and settings.prior is not None:
        raise UsageError("dqn is greedy, a policy on a prior cannot be; choose --algo soft-dqn or sac")
    env = task.make_env()
    n_inputs = int(np.prod(env.observation_space.shape or ()))
    actions = env.action_space
    env.close()
    prior = None if settings.prior is None else load_policy(settings.prior, task)
    shared: dict[str, Any] = {
        "gamma": task.gamma,
        "temperature": 0.0 if settings.algo == "dqn" else settings.temperature,
        "prior": prior,
        "scaled_prior_weight": 0.0 if prior is None else settings.temperature,
        "seed": settings.seed,
    }
    n_features = 1 if prior is None else len(task.prior_weights)
    if settings.algo == "sac":
        return ResidualSAC(n_inputs, actions, n_features, config=settings.sac, **shared)
    if not isinstance(actions, gym.spaces.Discrete):
        raise UsageError(f"{settings.algo} needs a finite set of actions, got {actions}; choose --algo sac")
    if actions.start != 0:
        raise UsageError(f"{settings.algo} needs actions that count from 0, got {actions}")
    scale = getattr(task, "input_scale", None)
    return ResidualDQN(n_inputs, int(actions.n), n_features, input_scale=scale, config=settings.dqn, **shared)


def anneal(agent: ResidualDQN | ResidualSAC, progress: float) -> None:
    """Set the learning rate for the share of the training that is done."""
    for group in agent.optimiser.param_groups:
        group["lr"] = agent.config.learning_rate * (1.0 - 0.95 * progress)


def learn(
    agent: ResidualDQN | ResidualSAC,
    envs: VectorEnv[Any, Any, Any],
    theta: Array,
    n_steps: int,
    settings: Pretrain,
    number: int,
) -> dict[str, float]:
    """Learn from `n_steps` transitions, the part `number` of the training; returns the last metrics."""
    rng = np.random.default_rng([settings.seed, number])
    rounds = -(-n_steps // settings.num_envs)
    metrics: dict[str, float] = {}
    due, seen = 0.0, number * settings.steps_per_checkpoint
    for row in interact(envs, Exploring(agent), rounds, rng, seed=int(rng.integers(2**31))):
        agent.add(*row[:5])
        seen += settings.num_envs
        if settings.anneal:
            anneal(agent, min(seen / settings.steps, 1.0))
        due += settings.num_envs / settings.steps_per_update
        if due >= 1:
            metrics = agent.update(theta, int(due))
            due -= int(due)
    return metrics


class Exploring:
    """The policy with which an agent explores at that moment."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent

    def log_prob(self, state: NDArray[Any], action: NDArray[Any]) -> Array:
        """Log-probability (N,) of actions (N, ...) in states (N, ...)."""
        return self.agent.explorer().log_prob(state, action)

    def sample(self, state: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """Draw actions (N, ...) in states (N, ...)."""
        return self.agent.explorer().sample(state, rng)


def _claim(settings: Pretrain, path: Path) -> dict[str, Any]:
    """The record at `path`, if there is one to go on from, else a new one."""
    file = _suffixed(path, ".json")
    wanted = json.loads(json.dumps({**asdict(settings), "out": None, "overwrite": None}))
    if file.exists() and not settings.overwrite:
        record = _read_record(file)
        found = record["settings"]
        differing = [
            f"{name} {found.get(name)} there, {wanted[name]} now"
            for name in wanted
            if found.get(name) != wanted[name]
        ]
        if differing:
            raise RunError(
                f"{file} is of other settings ({'; '.join(differing)}): choose another --out, or --overwrite"
            )
        return record
    command = "mereq " + " ".join(sys.argv[1:])
    return {"command": command, "settings": wanted, **provenance(), "measures": []}


def _read_record(file: Path) -> dict[str, Any]:
    try:
        record = json.loads(file.read_text())
        if not isinstance(record["settings"], dict) or not isinstance(record["measures"], list):
            raise ValueError("it does not say what was trained")
    except (ValueError, TypeError, KeyError) as error:
        raise RunError(f"{file} is damaged ({error}); pass --overwrite to train again") from error
    return record


def _restore(agent: Agent, checkpoint: Path) -> None:
    try:
        agent.restore(load(checkpoint.read_bytes()))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{checkpoint} is missing or damaged ({error}); pass --overwrite to train again"
        ) from error


def _checkpoint(path: Path, number: int) -> Path:
    return _suffixed(path, f".checkpoint-{number:03d}.safetensors")


def _discard_checkpoints(path: Path, but: int) -> None:
    for file in path.parent.glob(f"{path.name}.checkpoint-*.safetensors"):
        if file != _checkpoint(path, but):
            file.unlink()


def _suffixed(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
