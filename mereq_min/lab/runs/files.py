"""Reading and writing files of a run: atomic writes, and arrays as safetensors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save


class RunError(RuntimeError):
    """A run folder cannot be used as asked; the message says what to do."""


def load_arrays(file: Path) -> dict[str, NDArray[Any]]:
    """Read named arrays from a safetensors file.

    Raises:
        RunError: if the file is missing or damaged.
    """
    try:
        return load(file.read_bytes())
    except (OSError, SafetensorError, KeyError) as error:  # KeyError: numbers of a type that numpy has not
        raise damaged(file, error) from error


def save_arrays(file: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Write named arrays as a safetensors file, in one step."""
    # safetensors writes the buffer as it lies in memory, whatever the strides.
    write_file(file, save({name: np.asarray(array, order="C") for name, array in arrays.items()}))


def write_file(file: Path, data: bytes) -> None:
    """Replace a file in one step, so that a kill leaves the old one or the new one.

    What a kill leaves of the hidden temporary, the next write of the same file replaces.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.part")
    with temporary.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(file)


def damaged(file: Path, error: Exception) -> RunError:
    """Say that a file of a run is missing or damaged, and what to do about it."""
    return RunError(
        f"{file} is missing or damaged ({error}); delete {file.parent} or pass --overwrite to run it again"
    )
