"""Versions and git commit, kept beside every recorded result."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import subprocess
from pathlib import Path

from mereq_min.lab.runs.records import Record


def provenance() -> Record:
    """Versions and git hash, to be kept beside every recorded result."""
    versions = {"python": platform.python_version()}
    for name in ("mereq-min", "numpy", "scipy", "gymnasium", "torch", "numba", "highway-env"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # the latter are extras
            versions[name] = importlib.metadata.version(name)
    return {"versions": versions, "git": _git_hash()}


def _git_hash() -> str | None:
    """Commit of the source tree that this package runs from, None outside of one."""
    here = Path(__file__)

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, cwd=here.parent, capture_output=True, text=True, check=True).stdout

    try:
        git("ls-files", "--error-unmatch", here.name)  # an installed copy may lie inside somebody else's tree
        return git("describe", "--always", "--dirty", "--abbrev=40").strip()
    except (OSError, subprocess.CalledProcessError):
        return None
