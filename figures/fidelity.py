"""Measure how each choice of the authors' published learner changes MEReQ on the highway, alone and together.

    python figures/fidelity.py                # draw what is recorded
    python figures/fidelity.py --record       # run what is missing (about 2 hours of one core), then draw

The choices are those of the sheet of fidelity in RESULTS.md. Each variant changes them in MEReQ as it is
here; task, expert, loop and critic stay. The critic has outputs psi and h, so that the Huber loss is of their
errors, where the authors' is of Q_R's. On the gridworlds, which are solved exactly, only the accumulation of
steps can differ. The highway needs JAX (`pip install -e '.[fast]'`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import tyro
from gymnasium.spaces import Discrete
from matplotlib.axes import Axes
from numpy.typing import NDArray
from recording import append_missing, describe_run, read_record
from style import save

from deep.engines import import_compiled
from deep.gym_task import GymTask
from deep.highway.roads import FEATURES
from deep.learner import LearnerConfig, NeuralLearner
from deep.policies import all_log_probs
from deep.residual_dqn import ResidualDQN
from deep.rollouts import Rollout, collect
from deep.streams import stream
from mereq_min import METHODS, Steps, Task, align, make_aligner, settings_of
from mereq_min.inverse import FeatureMatchingConfig
from mereq_min.lab.plugins import load_task
from mereq_min.methods import EstimatorConfig, InverseRL
from mereq_min.metrics import bootstrap_mean, samples_to_stay, share_of_the_way

THRESHOLD = 0.05
"""delta."""
LAST = 5
"""Iterations at the end whose rates are averaged."""
OBSERVED_SPEED = 80.0
"""Speed that the observation shows as 1 [m/s]."""


@dataclass(frozen=True)
class Choices:
    """The choices of a learner; the defaults are ours."""

    tolerance: float = 0.01
    """See `FeatureMatchingConfig`."""
    tolerance_errors: float = 0.5
    """See `FeatureMatchingConfig`."""
    max_steps: int = 50
    """See `FeatureMatchingConfig`."""
    greedy: bool = False
    """Whether f_bar of the policy is that of its most probable actions, over 25 episodes (1,000 steps)."""
    temperature: float | None = None
    """alpha_hat and omega', None for the task's [reward]."""
    huber: bool = False
    """Whether errors of the critic above 1 count linearly."""
    clipped: bool = True
    """Whether the feature of the speed is clipped to [0, 1]."""
    batch_size: int = 256
    """See `DQNConfig`."""
    num_envs: int = 64
    """See `LearnerConfig`."""
    updates: int = 100
    """See `LearnerConfig`."""
    first_rounds: int = 30
    """See `LearnerConfig`."""
    rounds: int = 1
    """Rounds of each later solve."""
    method: str = "MEReQ"
    """Row of `METHODS`: MEReQ fits the steps of the last iteration, MEReQ-all those of all."""


AUTHORS: dict[str, dict[str, Any]] = {
    "tolerance 0.05": {"tolerance": 0.05, "tolerance_errors": 0.0},
    "greedy f_bar": {"greedy": True},
    "temperatures 1": {"temperature": 1.0},
    "Huber loss": {"huber": True},
    "speed unclipped": {"clipped": False},
    "batch 32": {"batch_size": 32},
    # Stable-Baselines3 takes an update every four steps by default.
    "theta each 1,000 steps": {"num_envs": 25, "updates": 250, "first_rounds": 1},
}
"""Choices of the authors' learner that differ from ours, by name."""
VARIANTS: dict[str, dict[str, Any]] = {
    "ours": {},
    **AUTHORS,
    "all of these": {name: value for choice in AUTHORS.values() for name, value in choice.items()},
    "all iterations": {"method": "MEReQ-all"},
    "4 rounds, 12 steps": {"rounds": 4, "max_steps": 12},
}
"""Variants that are run, as changes of `Choices`; the last two are a reading of the paper and our remedy."""
READINGS = ("ours", "all iterations")
"""Variants that differ on tables."""
MEASURES = {
    "rate": f"rate in the last {LAST} iterations",
    "samples": "samples to stay below 0.05",
    "way": "expert's return, share of the way",
    "kl": "KL to the expert [nats]",
}
"""Measures of a run and their names."""


@dataclass(frozen=True)
class Arguments:
    """Draw, or record and draw, MEReQ with the choices of the authors' learner."""

    record: bool = False
    """Run what the record lacks."""
    tasks: tuple[str, ...] = ("carpet", "lanes", "shelf", "windy", "highway")
    """Tasks to run."""
    first_seed: int = 2_100
    """The first seed."""
    seeds: int = 30
    """Runs of each on the gridworlds."""
    highway_seeds: int = 8
    """Runs of each on the highway."""
    data: Path = Path("figures/fidelity.jsonl")
    """The record."""
    out: Path = Path("figures/fidelity.png")
    """The picture."""


def record(arguments: Arguments) -> None:
    """Append what the record lacks, seed by seed."""
    config = {"choices": {name: asdict(Choices(**changes)) for name, changes in VARIANTS.items()}}
    tasks = {name: load_task(name) for name in arguments.tasks}

    def run(name: str, variant: str, seed: int) -> dict[str, Any]:
        return measure(tasks[name], Choices(**VARIANTS[variant]), seed)

    jobs = list_jobs(arguments)
    append_missing(arguments.data, config, ("task", "variant", "seed"), jobs, run, describe_tasks)


def describe_tasks() -> dict[str, Any]:
    """Return the settings of the loop, and the returns of prior and expert, by task."""
    tasks = {name: load_task(name) for name in Arguments().tasks}
    return {
        "loops": {name: asdict(settings_of(task).loop) for name, task in tasks.items()},
        "returns": {name: reference_returns(task) for name, task in tasks.items()},
    }


def list_jobs(arguments: Arguments) -> Iterator[tuple[str, str, int]]:
    """Yield task, variant and seed of each run."""
    for number in range(max(arguments.seeds, arguments.highway_seeds)):
        for name in arguments.tasks:
            on_highway = name == "highway"
            if number < (arguments.highway_seeds if on_highway else arguments.seeds):
                for variant in VARIANTS if on_highway else READINGS:
                    yield name, variant, arguments.first_seed + number


def reference_returns(task: Task) -> dict[str, float]:
    """Return the expert's return of prior and expert."""
    policies = {"prior": task.prior, "expert": task.oracle.expert_policy}
    return {who: task.evaluate(policy)["expert_return"] for who, policy in policies.items()}


def measure(task: Task, choices: Choices, seed: int, iterations: int | None = None) -> dict[str, Any]:
    """Run once; the last measures are those of the last policy."""
    loop = settings_of(task).loop
    loop = replace(loop, iterations=iterations or loop.iterations)
    if isinstance(task, GymTask):
        with critic_loss(choices.huber):
            turns = list(align(task, choose_aligner(task, choices, seed), loop, seed=seed))
    else:
        turns = list(align(task, make_aligner(task, METHODS[choices.method], seed=seed), loop, seed=seed))
    return {
        **describe_run(task, turns),
        "solves": [turn.info.get("solves") for turn in turns],
        "converged": [turn.info.get("converged") for turn in turns],
    }


def choose_aligner(task: GymTask, choices: Choices, seed: int) -> InverseRL:
    """Build MEReQ with these choices; with the defaults it is `mereq_min.make_aligner`'s."""
    matching = FeatureMatchingConfig(
        tolerance=choices.tolerance, tolerance_errors=choices.tolerance_errors, max_steps=choices.max_steps
    )
    arguments = (
        METHODS[choices.method],
        ChosenLearner(task, choices, seed),
        EstimatorConfig(matching=matching),
    )
    return InverseRL(task, *arguments) if choices.clipped else Unclipped(task, *arguments)


class ChosenLearner(NeuralLearner):
    """A learner with some choices.

    Args:
        task: the highway.
        choices: the choices.
        seed: seed of networks, environments and actions.
    """

    def __init__(self, task: GymTask, choices: Choices, seed: int) -> None:
        assert isinstance(task.action_space, Discrete)
        n_actions = int(task.action_space.n)
        agent = ResidualDQN(
            task.n_inputs,
            n_actions,
            len(task.feature_names),
            gamma=task.gamma,
            temperature=choices.temperature or task.temperature,
            prior=task.prior,
            scaled_prior_weight=choices.temperature or task.scaled_prior_weight,
            input_scale=task.observation_scale,
            config=replace(task.dqn, batch_size=choices.batch_size, engine="jax"),
            seed=seed,
        )
        budget = LearnerConfig(choices.num_envs, choices.updates, choices.first_rounds)
        super().__init__(agent, task.make_vector_env, horizon=task.horizon, config=budget, seed=seed)
        self._choices, self._n_actions = choices, n_actions
        self._greedy_envs = task.make_vector_env(25)

    def solve(self, theta: NDArray[np.float64]) -> Any:
        """Solve in as many rounds as chosen; mean features are then greedy, if that was chosen."""
        is_first = self._rollouts == 0
        for _ in range(1 if is_first else self._choices.rounds):
            policy = super().solve(theta)
        if self._choices.greedy:
            # The replay has the sampled episodes; these are for the feature expectation alone.
            rng = stream(self.seed, "paths", self._rollouts)
            greedy, seed = Greedy(policy, self._n_actions), int(rng.integers(2**31))
            self._episodes = self._chosen(collect(self._greedy_envs, greedy, self.horizon, rng, seed=seed))
        return policy

    def _collect(self, number: int) -> Rollout:
        return self._chosen(super()._collect(number))

    def _chosen(self, steps: Rollout) -> Rollout:
        return steps if self._choices.clipped else replace(steps, features=unclip(steps))


class Greedy:
    """Takes the most probable action of a policy.

    Args:
        policy: the policy.
        n_actions: A, the number of actions.
    """

    def __init__(self, policy: Any, n_actions: int) -> None:
        self.policy, self.n_actions = policy, n_actions

    def sample(self, state: NDArray[Any], rng: np.random.Generator) -> NDArray[np.int64]:
        """Return the actions (N,) in states (N, ...)."""
        return all_log_probs(self.policy, state, self.n_actions).argmax(axis=1)


class Unclipped(InverseRL):
    """Inverse RL that sees the speed unclipped."""

    def update(self, steps: Steps, patience: int) -> Any:
        """Fit theta to the steps with the unclipped speed."""
        return super().update(replace(steps, features=unclip(steps)), patience)


def unclip(steps: Steps | Rollout) -> NDArray[np.float64]:
    """Return the features of steps with high_speed = (v cos(heading) - 20) / 10, from the observations."""
    assert steps.next_state is not None
    features = steps.features.copy()
    speed = OBSERVED_SPEED * steps.next_state[..., 0, 3].astype(np.float64)
    features[..., FEATURES.index("high_speed")] = (speed - 20) / 10
    return features


@contextmanager
def critic_loss(is_huber: bool) -> Iterator[None]:
    """Compile updates with the Huber loss, or leave the squared one."""
    compiled = import_compiled()
    usual = compiled.critic_loss
    if is_huber:
        compiled.critic_loss = huber_loss
    compiled.dqn_updates.clear_cache()
    try:
        yield
    finally:
        compiled.critic_loss = usual
        compiled.dqn_updates.clear_cache()


def huber_loss(values: Any, target: Any) -> Any:
    """Return the Huber loss (1964), linear above 1, averaged over the batch and summed over outputs."""
    error = abs(values - target)
    near = error.clip(max=1)
    return (near * (error - near / 2)).sum() / len(target)


def summarise(row: dict[str, Any], returns: dict[str, float]) -> dict[str, float]:
    """Return the measures of a run, and whether it never stayed below the threshold."""
    count = samples_to_stay(row["rate"], row["expert_samples"], THRESHOLD)
    return {
        "rate": float(np.mean(row["rate"][-LAST:])),
        "samples": count.samples,
        "way": share_of_the_way(row["expert_return"], returns["prior"], returns["expert"]),
        "kl": row["kl_to_expert"],
        "censored": count.censored,
    }


Runs = dict[str, list[dict[str, float]]]
"""Measures of the runs of each variant, in the order of their seeds."""


def read(file: Path, task: str) -> Runs:
    """Return the measures of the runs on a task."""
    header, rows = read_record(file)
    mine = sorted((row for row in rows if row["task"] == task), key=lambda row: row["seed"])
    returns = header["returns"][task]
    runs = {name: [summarise(row, returns) for row in mine if row["variant"] == name] for name in VARIANTS}
    return {name: each for name, each in runs.items() if each}


def tabulate(file: Path, task: str) -> str:
    """Return the means of a task's runs as a table in Markdown; cN: N runs never stayed below delta."""
    rows = [
        f"| {task} | runs | " + " | ".join(MEASURES.values()) + " |",
        "| --- " * (2 + len(MEASURES)) + "|",
    ]
    for name, each in read(file, task).items():
        mean = {measure: np.mean([run[measure] for run in each]) for measure in MEASURES}
        censored = sum(run["censored"] for run in each)
        samples = f"{mean['samples']:.0f}" + (f" c{censored:.0f}" if censored else "")
        cells = f"{mean['rate']:.3f}", samples, f"{100 * mean['way']:.0f} %", f"{mean['kl']:.2f}"
        rows.append(" | ".join((f"| {name}", str(len(each)), *cells)) + " |")
    return "\n".join(rows)


def draw(file: Path) -> plt.Figure:
    runs = read(file, "highway")
    if not runs:
        raise SystemExit(f"{file} holds no run on the highway; pass --record to run what is missing")
    figure, axes = plt.subplots(1, len(MEASURES), figsize=(11, 4.2), layout="constrained", sharey=True)
    for ax, measure in zip(axes, MEASURES, strict=True):
        draw_measure(ax, measure, runs)
    axes[0].set_yticks(range(len(runs)), list(runs))
    axes[0].invert_yaxis()
    axes[0].axvline(THRESHOLD, color="#777777", ls="--", lw=1)
    return figure


def draw_measure(ax: Axes, measure: str, runs: Runs) -> None:
    """A stroke a run, and the mean with its 95 % interval; open where a run never stayed below delta."""
    theirs = (*AUTHORS, "all of these")
    for y, (name, each) in enumerate(runs.items()):
        colour = "#0072b2" if name == "ours" else "#d55e00" if name in theirs else "#555555"
        values = [run[measure] for run in each]
        mean, low, high = bootstrap_mean(values, np.random.default_rng(0))
        is_open = measure == "samples" and any(run["censored"] for run in each)
        ax.plot(values, np.full(len(values), y), "|", color=colour, alpha=0.5, ms=7)
        ax.plot([low, high], [y, y], color=colour, lw=1.5)
        ax.plot(mean, y, "o", color=colour, ms=5, mfc="white" if is_open else colour)
    ax.set_xlabel(MEASURES[measure])


if __name__ == "__main__":
    arguments = tyro.cli(Arguments, config=(tyro.conf.FlagCreatePairsOff,))
    if arguments.record:
        record(arguments)
    for task in Arguments().tasks:
        print(tabulate(arguments.data, task), end="\n\n")
    save(draw(arguments.data), arguments.out)
