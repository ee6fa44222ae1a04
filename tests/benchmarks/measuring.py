"""What benchmarks share: timing in turns, and what they ran on, to be kept beside their numbers."""

import platform
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mereq_min.lab.runs.provenance import provenance


def time_in_turns(
    runs: dict[str, Callable[[], int]], turns: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Steps a second of every run in each turn, after one that is not counted.

    Args:
        runs: by name; each takes its steps and returns their number.
        turns: how many count.
        clock: `time.process_time`, to which a neighbour on the core does not matter, or `time.perf_counter`.
    """
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(-1, turns):
        for name, run in runs.items():
            start = clock()
            n_steps = run()
            if turn >= 0:
                rates[name].append(n_steps / (clock() - start))
    return rates


def describe_measurement(packages: Sequence[str]) -> dict[str, Any]:
    """What is measured, and on what: versions of packages, commit, processor and platform."""
    cpu, machine = find_cpu(), platform.platform()
    return {"versions": find_versions(packages), "git": provenance()["git"], "cpu": cpu, "platform": machine}


def find_versions(packages: Sequence[str]) -> dict[str, str]:
    """Versions of Python and of those packages that are installed."""
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def find_cpu() -> str:
    """Name of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
