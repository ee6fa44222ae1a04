"""Engines of the learners' updates: torch, or the same updates compiled with JAX."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Literal, cast

from torch import nn

from deep.nets import is_mlp

Engine = Literal["torch", "jax"]
"""Name of an engine that computes a learner's updates."""


def check_engine(engine: Engine | None) -> None:
    """Raise ValueError if there is no such engine; None leaves the choice to `choose_engine`."""
    if engine not in (None, "torch", "jax"):
        raise ValueError(f"engine must be 'torch', 'jax' or None, got {engine!r}")


def choose_engine(wanted: Engine | None, nets: Iterable[nn.Module] = ()) -> Engine:
    """Return the engine of a learner with these networks.

    Args:
        wanted: what the config asks for; None takes what the environment variable MEREQ_ENGINE names, and
            without it "jax" if JAX is installed and can compute the networks, else "torch".
        nets: the networks that an update evaluates.

    Raises:
        ValueError: if the wanted engine is unknown, or cannot compute the networks.
        ImportError: if the wanted engine is "jax" and JAX is not installed.
    """
    named = os.environ.get("MEREQ_ENGINE")
    if wanted is None and named:
        if named not in ("torch", "jax"):
            raise ValueError(f"MEREQ_ENGINE must be 'torch' or 'jax', got {named!r}")
        wanted = cast(Engine, named)
    check_engine(wanted)
    unusual = next((net for net in nets if not is_mlp(net)), None)
    has_jax = find_spec("jax") is not None
    if wanted is None:
        return "jax" if has_jax and unusual is None else "torch"
    if wanted == "jax" and not has_jax:
        raise ImportError(
            "engine 'jax' needs JAX: run pip install -e '.[fast]' in your checkout of mereq-min"
        )
    if wanted == "jax" and unusual is not None:
        raise ValueError(f"engine 'jax' needs networks built like `deep.nets.mlp`, got {unusual}")
    return wanted


@cache
def import_compiled() -> ModuleType:
    """Import `deep.compiled`, with JAX on one thread of the processor and with a cache of what it compiled.

    Settings that the user made in the environment are left as they are.
    """
    # The networks are small: threads would only get into one another's way, and change the last bits.
    one_thread = "--xla_cpu_multi_thread_eigen=false"
    os.environ["XLA_FLAGS"] = f"{one_thread} {os.environ.get('XLA_FLAGS', '')}".strip()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("NPROC", "1")  # threads that XLA starts
    import jax

    folder = _cache_folder()
    chosen = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if chosen is None and folder is not None:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    from deep import compiled

    return compiled


def _cache_folder() -> Path | None:
    """Return a folder in the user's cache for this kind of processor, whose instructions others may not have.

    Returns None if nothing can be written there.
    """
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    kind = platform.machine() + next(
        (line for line in lines if line.startswith("flags")), platform.processor()
    )
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = home / "mereq-min" / f"jax-{hashlib.sha256(kind.encode()).hexdigest()[:12]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None
