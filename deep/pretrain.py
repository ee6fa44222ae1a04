"""The command `mereq pretrain`: train a prior or an expert, from scratch or by customising another policy."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from gymnasium.spaces import Discrete
from gymnasium.vector import VectorEnv, VectorWrapper
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from deep.classic import RESIDUAL_WEIGHTS
from deep.engines import choose_engine
from deep.gym_task import GymTask
from deep.learner import Agent
from deep.residual_dqn import DQNConfig, ResidualDQN
from deep.residual_sac import ResidualSAC, SACConfig
from deep.rollouts import features_of, interact
from deep.streams import stream
from mereq_min.interfaces import Policy
from mereq_min.lab.plugins import UsageError, load_environment, load_policy
from mereq_min.lab.runs.files import RunError, save_arrays, write_file
from mereq_min.lab.runs.provenance import provenance
from mereq_min.validation import Array, check_number


@dataclass(frozen=True)
class Pretrain:
    """Train a policy for a task's reward; the same command resumes an interrupted training."""

    task: tyro.conf.Positional[str]
    """Name of a task, or CartPole-v1, MountainCarContinuous-v0, LunarLander-v3, LunarLander-v3:continuous or
    HalfCheetah-v5."""
    algo: Literal["dqn", "soft-dqn", "sac"] = "soft-dqn"
    """Learning algorithm; with --prior, its residual form."""
    reward: Literal["prior", "expert"] = "prior"
    """Whose reward the policy is trained for; with --prior, it is always the residual reward."""
    prior: str | None = None
    """Policy to customise by the expert's residual reward (see `mereq evaluate` for what may be given);
    omega' is --temperature."""
    temperature: float = 0.05
    """alpha of the policy, ignored by dqn; for sac with a target entropy, its initial value [reward]."""
    steps: int = 500_000
    """Transitions to learn from; rounded up to whole steps of all environments [transitions]."""
    num_envs: int = 32
    """Parallel environments [environments]."""
    steps_per_update: float = 4.0
    """Transitions for each gradient update [transitions]."""
    steps_per_checkpoint: int = 20_000
    """Transitions between checkpoints. Environments are reset at a checkpoint, so that a resumed training
    ends bit for bit like an uninterrupted one [transitions]."""
    anneal: bool = False
    """Decrease the learning rate linearly to a twentieth."""
    seed: int = 0
    """Seed of the whole training."""
    out: Path = Path("policies")
    """Folder for the policy and its record."""
    overwrite: bool = False
    """Discard an earlier training in the same place, and start over."""
    dqn: DQNConfig = field(default_factory=DQNConfig)
    """Settings of dqn and soft-dqn."""
    sac: SACConfig = field(default_factory=SACConfig)
    """Settings of sac."""

    def __post_init__(self) -> None:
        check_number("steps", self.steps, 1, integer=True)
        check_number("steps_per_checkpoint", self.steps_per_checkpoint, 1, integer=True)
        check_number("num_envs", self.num_envs, 1, integer=True)
        check_number("steps_per_update", self.steps_per_update, 0, exclusive=True)
        check_number("seed", self.seed, 0, integer=True)

    def __call__(self) -> int:
        """Train with checkpoints, write the policy and its record, and return the exit code 0."""
        task = load_environment(self.task)
        if not isinstance(task, GymTask):
            raise UsageError(f"{self.task} is not a GymTask: tabular tasks are solved without training")
        reward = self.reward if self.prior is None else "residual"
        path = self.out / f"{self.task.replace(':', '-')}-{reward}-{self.algo}-seed{self.seed}"
        train(self, task, path, report=lambda row: print(json.dumps(row), file=sys.stderr))
        print(f"policy: {path}.safetensors\nrecord: {path}.json")
        return 0


def train(settings: Pretrain, task: GymTask, path: Path, report: Callable[[dict[str, Any]], None]) -> Policy:
    """Train a policy, or continue its training from the last checkpoint.

    Args:
        settings: what to train, and how.
        task: the task to train on.
        path: common path of the files, without suffix. `.safetensors` holds the policy; `.json` holds the
            settings, versions, and measures at each checkpoint; `.checkpoint-<number>.safetensors` holds the
            state from which training continues.
        report: called with the measures at each checkpoint.

    Returns:
        The trained policy.

    Raises:
        RunError: if the files at `path` are of a training with other settings, or damaged.
        UsageError: if the algorithm does not suit the task, or the expert's reward is unknown.
    """
    record = _claim(settings, path)
    agent = make_agent(settings, task)
    if settings.overwrite:  # only now, when the settings have proved valid
        _suffixed(path, ".json").unlink(missing_ok=True)
    done = len(record["measures"])
    _discard_checkpoints(path, keep=done)  # files that an interruption may have left
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
        save_arrays(_checkpoint(path, number + 1), agent.arrays())
        # The checkpoint becomes valid when the record mentions it, so the record is written last.
        write_file(_suffixed(path, ".json"), json.dumps(record, indent=1).encode())
        _discard_checkpoints(path, keep=number + 1)
        report(record["measures"][-1])
    envs.close()
    return agent.policy()


def policy_arrays(policy: Any) -> dict[str, NDArray[Any]]:
    """Return the arrays of a policy and, with the prefix `prior.`, those of the policy that it customises."""
    prior = getattr(policy, "prior", None)
    of_prior = policy_arrays(prior) if hasattr(prior, "arrays") else {}
    return {**policy.arrays(), **{f"prior.{name}": array for name, array in of_prior.items()}}


def make_problem(settings: Pretrain, task: GymTask) -> tuple[VectorEnv[Any, Any, Any], Array]:
    """Return environments, and theta for the features that they report.

    On a prior, these are the task's features and theta*. Without one, the reward is the only feature.
    """
    envs = task.make_vector_env(settings.num_envs)
    if settings.prior is not None:
        return envs, find_true_theta(task)
    added = find_true_theta(task) if settings.reward == "expert" else None
    return RewardAlone(envs, added), np.ones(1)


def find_true_theta(task: GymTask) -> Array:
    """Return theta* (K,), the expert's residual reward.

    Raises:
        UsageError: if it is unknown.
    """
    theta = RESIDUAL_WEIGHTS.get(task.name) if task.oracle is None else task.oracle.true_theta
    if theta is None:
        raise UsageError(f"{task.name} has no oracle: an expert's reward is not known")
    return theta


class RewardAlone(VectorWrapper[Any, Any, Any]):
    """Hides the features of a step, so that agents learn from the reward itself, including its constants.

    Args:
        envs: the environments.
        added: (K,) theta of a residual reward that is added to the environments' own, None for none.
    """

    def __init__(self, envs: VectorEnv[Any, Any, Any], added: Array | None) -> None:
        super().__init__(envs)
        self.added = added

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Take a step in each environment."""
        state, reward, terminated, truncated, info = self.env.step(actions)
        if self.added is not None:
            reward = reward + features_of(reward, info) @ self.added
        kept: dict[str, Any] = {name: info[name] for name in ("final_obs", "_final_obs") if name in info}
        return state, reward, terminated, truncated, kept


def make_agent(settings: Pretrain, task: GymTask) -> ResidualDQN | ResidualSAC:
    """Return an untrained agent for a task.

    Raises:
        UsageError: if the algorithm does not suit the task's actions, or cannot customise a prior.
    """
    if settings.algo == "dqn" and settings.prior is not None:
        raise UsageError("dqn is greedy, which a customised prior cannot be: choose --algo soft-dqn or sac")
    n_inputs, actions = task.n_inputs, task.action_space
    prior = None if settings.prior is None else load_policy(settings.prior, task)
    shared: dict[str, Any] = {
        "gamma": task.gamma,
        "temperature": 0.0 if settings.algo == "dqn" else settings.temperature,
        "prior": prior,
        "scaled_prior_weight": 0.0 if prior is None else settings.temperature,
        "seed": settings.seed,
    }
    n_features = 1 if prior is None else len(task.feature_names)
    if settings.algo == "sac":
        return ResidualSAC(n_inputs, actions, n_features, config=settings.sac, **shared)
    if not isinstance(actions, Discrete):
        raise UsageError(f"{settings.algo} needs a finite set of actions, got {actions}; choose --algo sac")
    scale = None if isinstance(task.input_scale, str) else task.input_scale  # no prior to derive it from
    return ResidualDQN(n_inputs, int(actions.n), n_features, input_scale=scale, config=settings.dqn, **shared)


def anneal(agent: ResidualDQN | ResidualSAC, progress: float) -> None:
    """Set the learning rate at a given progress in [0, 1] of the training."""
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
    """Learn from `n_steps` transitions after checkpoint `number`; return the metrics of the last update."""
    rng = stream(settings.seed, "training", number)
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
    """The current exploration policy of an agent that is learning.

    Args:
        agent: the agent.
    """

    def __init__(self, agent: Agent) -> None:
        self.agent = agent

    def log_prob(self, state: NDArray[Any], action: NDArray[Any]) -> Array:
        """Return the log-probability (N,) of actions (N, ...) in states (N, ...)."""
        return self.agent.explorer().log_prob(state, action)

    def sample(self, state: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """Draw actions (N, ...) in states (N, ...)."""
        return self.agent.explorer().sample(state, rng)


def _claim(settings: Pretrain, path: Path) -> dict[str, Any]:
    """Return the record at `path` if its training can be continued, else a new record."""
    file = _suffixed(path, ".json")
    engine = choose_engine((settings.sac if settings.algo == "sac" else settings.dqn).engine)
    wanted = json.loads(json.dumps({**asdict(settings), "out": None, "overwrite": None, "engine": engine}))
    for config in (wanted["dqn"], wanted["sac"]):
        del config["engine"]  # None if it was left open; the engine in use is recorded above
    if file.exists() and not settings.overwrite:
        record = _read_record(file)
        found = {"engine": "torch", **record["settings"]}  # records without an engine are from torch
        differing = [
            f"{name} {found.get(name)} there, {wanted[name]} now"
            for name in wanted
            if found.get(name) != wanted[name]
        ]
        if differing:
            raise RunError(
                f"{file} is of other settings ({'; '.join(differing)}): choose another --out, or pass "
                "--overwrite"
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


def _discard_checkpoints(path: Path, keep: int) -> None:
    for file in path.parent.glob(f"{path.name}.checkpoint-*.safetensors"):
        if file != _checkpoint(path, keep):
            file.unlink()


def _suffixed(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
