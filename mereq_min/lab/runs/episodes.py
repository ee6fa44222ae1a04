"""How policies behave over whole episodes, unwatched: what features and returns are drawn from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mereq_min.interfaces import Policy, Task
from mereq_min.lab.runs.files import ArraysError, RunError, hash_arrays, load_arrays, save_arrays
from mereq_min.lab.runs.records import (
    find_runs,
    flatten,
    is_complete,
    read_policy,
    read_record,
    read_sealed_rows,
)
from mereq_min.lab.runs.run import define_task
from mereq_min.methods import METHODS
from mereq_min.rollout import rollout
from mereq_min.validation import Array


@dataclass(frozen=True)
class Episodes:
    """Steps of whole episodes.

    Attributes:
        features: (N, K) of each step.
        episode: (N,) numbers of the episodes, from 0, each that of the step before or the next.

    Raises:
        ValueError: if they are something else.
    """

    features: Array
    episode: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.episode.ndim != 1 or self.episode.dtype.kind != "i" or len(self.episode) == 0:
            raise ValueError("episode must hold one integer per step")
        if self.episode[0] != 0 or not np.isin(np.diff(self.episode), (0, 1)).all():
            raise ValueError("episode must count from 0, without a gap")
        shape, kind = self.features.shape, self.features.dtype.kind
        if len(shape) != 2 or len(self.episode) != shape[0] or kind != "f":
            raise ValueError("features must hold one row per step")
        if not np.isfinite(self.features).all():
            raise ValueError("features must be finite")

    def returns(self, weights: Array) -> Array:
        """Undiscounted sum of weights (K,) . f in each episode (E,) [reward]."""
        return np.bincount(self.episode, self.features @ weights).astype(np.float64)


Behaviour = dict[str, list[Episodes]]
"""Episodes of every seed by policy: the prior, the expert (if there is an oracle) and the methods."""


def save_behaviour(file: Path, behaviour: Behaviour) -> None:
    """Write episodes as one file; features keep seven digits, which halves its size."""
    arrays: dict[str, NDArray[Any]] = {}
    for label, seeds in behaviour.items():
        for number, episodes in enumerate(seeds):
            arrays[f"{label}/{number}/features"] = episodes.features.astype(np.float32)
            arrays[f"{label}/{number}/episode"] = episodes.episode
    save_arrays(file, arrays)


def load_behaviour(file: Path) -> Behaviour:
    """The episodes of a file written by `save_behaviour`, prior and expert first, then method by method.

    Raises:
        ArraysError: if the file is missing or damaged.
    """
    arrays, behaviour = load_arrays(file), {}
    for label in ("prior", "expert", *METHODS):
        count = sum(name.startswith(f"{label}/") and name.endswith("/episode") for name in arrays)
        try:
            seeds = [
                Episodes(arrays[f"{label}/{n}/features"], arrays[f"{label}/{n}/episode"])
                for n in range(count)
            ]
        except (KeyError, ValueError) as error:
            raise ArraysError(file, error) from error
        if seeds:
            behaviour[label] = seeds
    return behaviour


def roll_out(task: Task, policy: Policy, n_episodes: int, seed: int) -> Episodes:
    """Roll a policy out over whole episodes, on the simulator on which the task trains."""
    # No episode is longer than the horizon: so many steps hold as many whole ones, and perhaps more.
    steps = rollout(task, policy, None, n_episodes * task.horizon, np.random.default_rng(seed))
    wanted = steps.episode < n_episodes
    return Episodes(steps.features[wanted], steps.episode[wanted])


def read_behaviour(task: Task, folder: Path, n_episodes: int) -> Iterator[tuple[str, Episodes]]:
    """Roll out the policies of a task's runs, and its prior and expert as often; reuse what lies on disk.

    The episodes lie beside the run folders, as `seed<k>.episodes.safetensors`.

    Args:
        task: what was run.
        folder: `<out>/<task>`, where its runs are; only finished ones are looked at.
        n_episodes: episodes of each policy and seed.

    Yields:
        prior, expert (if the task has an oracle) or the name of a method, and episodes; one pair per seed.

    Raises:
        RunError: if a run was made on another definition of the task, or is damaged.
    """
    runs = [(path, record) for path in find_runs(folder) if is_complete(record := read_record(path))]
    policies = {
        path: arrays for path, _ in runs if (arrays := read_policy(path, read_sealed_rows(path))) is not None
    }
    runs = [(path, record) for path, record in runs if path in policies]
    now = flatten(define_task(task)).items()
    for path, record in runs:
        if not flatten(record["definition"]).items() <= now:  # an older record may not say everything
            raise RunError(f"{path} was run before the task {task.name} was changed; run it again")
    seeds = sorted({record["config"]["seed"] for _, record in runs})
    own: dict[str, Policy] = {"prior": task.prior}
    if task.oracle is not None and runs:
        own["expert"] = task.oracle.expert_policy
    for label, policy in own.items():
        for seed in seeds:
            yield label, _cached(folder / label / f"seed{seed}", task, policy, n_episodes, seed)
    for path, record in sorted(runs, key=lambda run: list(METHODS).index(run[1]["config"]["method"])):
        policy, config = task.load_policy(policies[path]), record["config"]
        yield config["method"], _cached(path, task, policy, n_episodes, config["seed"])


def _cached(path: Path, task: Task, policy: Policy, n_episodes: int, seed: int) -> Episodes:
    """The episodes of a policy from the file beside `path`, rolled out first if that holds others."""
    file = path.with_name(f"{path.name}.episodes.safetensors")
    origin = _fingerprint(task, policy, n_episodes, seed)
    if origin is not None and (kept := _read_kept(file, origin)) is not None:
        return kept
    episodes = roll_out(task, policy, n_episodes, seed)
    if origin is not None:
        arrays = {**vars(episodes), "origin": origin}
        save_arrays(file, {**arrays, "sha256": np.frombuffer(hash_arrays(arrays), dtype=np.uint8)})
    return episodes


def _read_kept(file: Path, origin: NDArray[np.uint8]) -> Episodes | None:
    """The episodes of a file, None if it holds others or is damaged: they can be rolled out again."""
    if not file.exists():
        return None
    try:
        arrays = load_arrays(file)
        whole = arrays.pop("sha256").tobytes() == hash_arrays(arrays)
        return Episodes(**arrays) if np.array_equal(arrays.pop("origin"), origin) and whole else None
    except (ArraysError, KeyError, TypeError, ValueError):
        return None


def _fingerprint(task: Task, policy: Policy, n_episodes: int, seed: int) -> NDArray[np.uint8] | None:
    """Hash of everything that episodes depend on; None if the prior or the policy offers no arrays."""
    arrays: dict[str, Any] = {}
    for label, each in (("prior", task.prior), ("policy", policy)):  # a residual policy needs its prior
        if not hasattr(each, "arrays"):
            return None
        arrays |= {f"{label}/{name}": array for name, array in each.arrays().items()}
    settings = json.dumps([define_task(task), n_episodes, seed]).encode()
    arrays["settings"] = np.frombuffer(settings, dtype=np.uint8)
    return np.frombuffer(hash_arrays(arrays), dtype=np.uint8)
