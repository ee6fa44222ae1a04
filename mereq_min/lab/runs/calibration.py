"""How often the expert intervenes on a task's prior and on itself: measured once, kept beside the task.

Each package that offers tasks may hold a file calibration.json with the measurements of its tasks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from mereq_min.interfaces import Policy, Task


@dataclass(frozen=True)
class Calibration:
    """What was measured of a task and its simulated expert."""

    wish: dict[str, float]
    """What the expert wants beyond the prior: the entries of theta* that are not 0, by feature [reward]."""
    prior_rate: float
    """Intervention rate of the watched prior, lambda_0."""
    expert_rate: float
    """Intervention rate of the expert's own policy, watched."""
    prior_success: float | None
    """Share of the prior's episodes in which the task is done, None if the task does not say."""
    expert_success: float | None
    """The same of the expert's."""
    steps: int
    """Steps for which each was watched [steps]."""
    seed: int
    """Seed of the rollouts."""


def measure(task: Task, steps: int, seed: int) -> Calibration | None:
    """Watch a task's prior and its expert; None if the task has no oracle.

    Args:
        task: the task.
        steps: for which each is watched [steps].
        seed: of the rollouts.
    """
    from mereq_min.rollout import watch

    oracle = task.oracle
    if oracle is None:
        return None

    def rate(policy: Policy) -> float:
        return watch(task, policy, oracle, steps, seed).intervention_rate

    def success(policy: Policy) -> float | None:
        share = task.evaluate(policy).get("success")
        return None if share is None else round(float(share), 4)

    expert = oracle.expert_policy
    theta = zip(task.feature_names, oracle.true_theta, strict=True)
    wish = {name: float(weight) for name, weight in theta if weight}
    return Calibration(
        wish, rate(task.prior), rate(expert), success(task.prior), success(expert), steps, seed
    )


def find_file(entry: EntryPoint) -> Path | None:
    """Where the package of an entry point keeps its calibration, without importing it.

    Returns:
        `calibration.json` in the folder of the top-level package, whether it exists or not; None if the entry
        point is in no package.
    """
    spec = find_spec(entry.module.partition(".")[0])
    folders = None if spec is None else spec.submodule_search_locations
    return Path(next(iter(folders))) / "calibration.json" if folders else None


def read(file: Path | None) -> dict[str, Calibration]:
    """The calibration of each task in a file; empty if there is no file.

    Raises:
        ValueError: if the file is damaged.
    """
    if file is None or not file.exists():
        return {}
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, Calibration])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{file} is damaged ({error}); `mereq tasks --measure --record` writes it again"
        ) from error


def write(file: Path, calibrations: Mapping[str, Calibration]) -> None:
    """Write the calibration of each task to a file."""
    from mereq_min.lab.runs.files import write_file

    numbers = {name: asdict(calibration) for name, calibration in sorted(calibrations.items())}
    write_file(file, (json.dumps(numbers, indent=1) + "\n").encode())
