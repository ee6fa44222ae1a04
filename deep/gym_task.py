"""What the simulator tasks and their environments check and seed alike."""

from __future__ import annotations

from typing import Any

from mereq_min.validation import check_array, check_number


def check_settings(task: Any) -> None:
    """Check what every simulator task is made of; its weights become arrays (K,) of their own.

    Args:
        task: a frozen dataclass that is being made.

    Raises:
        ValueError: naming the argument, what it got and what would be right.
    """
    if not 0 < task.gamma < 1:
        raise ValueError(f"gamma must be above 0 and below 1, got {task.gamma!r}")
    check_number("prior_weight", task.prior_weight, 0)
    for name in ("prior_temperature", "temperature"):
        check_number(name, getattr(task, name), 0, above=True)
    for name in ("patience", "release"):
        check_number(name, getattr(task, name), 1, whole=True)
    for name in ("prior_weights", "expert_weights"):
        weights = check_array(name, getattr(task, name), shape=(len(task.feature_names),))
        object.__setattr__(task, name, weights)
    if task.own_prior is not None and not hasattr(task.own_prior, "log_prob"):
        raise ValueError(f"own_prior must offer log_prob(state, action), got {task.own_prior!r}")
