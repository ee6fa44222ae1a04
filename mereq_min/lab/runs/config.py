"""What a run is asked to be, and the folder that it is kept in."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from mereq_min.experts import PRESETS
from mereq_min.interfaces import Imperfections
from mereq_min.lab.plugins import SIMULATED
from mereq_min.loop import LoopConfig
from mereq_min.methods import METHODS, EstimatorConfig
from mereq_min.validation import check_number

RECORDED = "recorded"
"""The expert of a run that fits a log."""


@dataclass(frozen=True)
class RecordedLog:
    """A log whose steps a run fits, in place of rollouts."""

    name: str
    """What it is called in the name of the run's folder."""
    sha256: str
    """Of its columns, see `files.hash_arrays`."""
    patience: int
    """Steps before a takeover that provoked it; they do not count as good enough [steps]."""

    def __post_init__(self) -> None:
        check_number("patience", self.patience, 0, integer=True)


@dataclass(frozen=True)
class RunConfig:
    """Everything that a run depends on beside the task's own definition."""

    task: str
    """Name of the task."""
    method: str = "MEReQ"
    """Name of the method, see `mereq_min.METHODS`."""
    seed: int = 0
    """Seed of all randomness."""
    loop: LoopConfig = field(default_factory=LoopConfig)
    estimators: EstimatorConfig = field(default_factory=EstimatorConfig)
    prior: str | None = None
    """Name of the prior, see `plugins.load_policy`; None is the task's own."""
    expert: str = SIMULATED
    """Who watches, see `plugins.load_expert`."""
    temperature: float | None = None
    """alpha_hat [reward]; None: that of the task."""
    prior_weight: float | None = None
    """omega; None: that of the task."""
    log: RecordedLog | None = None
    """What is fitted in place of rollouts; the expert is then `RECORDED`."""

    def __post_init__(self) -> None:
        check_number("seed", self.seed, 0, integer=True)
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {self.method!r}")
        if self.temperature is not None:
            check_number("temperature", self.temperature, 0, exclusive=True)
        if self.prior_weight is not None:
            check_number("prior_weight", self.prior_weight, 0)
        simulates = self.loop.demonstrations or self.loop.imperfections != Imperfections()
        if simulates and self.expert != SIMULATED:
            raise ValueError(
                f"demonstrations and imperfections are those of the simulated expert, but expert is "
                f"{self.expert!r}; leave one of the two out"
            )


def slug(config: RunConfig) -> str:
    """The name of the folder that holds the runs of a task, without characters that Windows or scp refuse.

    Runs with another prior, runs that learn from demonstrations or a log, and runs whose expert errs as one
    of `experts.PRESETS` have folders of their own.
    """
    parts = [_portable(config.task)]
    if config.prior is not None:
        name = Path(config.prior).name
        parts.append(_portable(name if ":" in name else Path(name).stem))
    if config.loop.demonstrations:
        parts.append("demonstrations")
    errs = config.loop.imperfections
    parts += [name for name, preset in PRESETS.items() if errs == preset != Imperfections()]
    if config.log is not None:
        parts.append(_portable(f"log-{config.log.name}"))
    return "-".join(parts)


def _portable(name: str) -> str:
    return re.sub(r'[<>:"/\\|?*\s]+', "-", name).strip("-. ")


def run_folder(out: Path, config: RunConfig) -> Path:
    """The folder of a run under `out`."""
    return out / slug(config) / config.method / f"seed{config.seed}"
