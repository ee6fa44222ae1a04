"""Versions and git commit, kept beside every recorded result."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import TypedDict


class Provenance(TypedDict):
    """What software a result came from."""

    versions: dict[str, str]
    """Versions of Python and of the packages that may change numbers."""
    git: str | None
    """Commit of the source tree, with `-dirty` if it was changed; None outside of one."""


def provenance() -> Provenance:
    """Describe the software that is running."""
    versions = {"python": platform.python_version()}
    packages = ("mereq-min", "numpy", "scipy", "gymnasium", "torch", "jax", "numba", "highway-env", "mujoco")
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # not all need be installed
            versions[name] = importlib.metadata.version(name)
    return {"versions": versions, "git": _git_hash()}


def _git_hash() -> str | None:
    """Commit of the source tree that this package runs from, None outside of one."""
    here = Path(__file__)

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, cwd=here.parent, capture_output=True, text=True, check=True).stdout

    try:
        git("ls-files", "--error-unmatch", here.name)  # an installed copy may lie in another project's tree
        return git("describe", "--always", "--dirty", "--abbrev=40").strip()
    except (OSError, subprocess.CalledProcessError):
        return None
