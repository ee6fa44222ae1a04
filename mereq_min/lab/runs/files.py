"""Files: atomic writes, and named arrays in the safetensors format."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
"""Arrays by name."""


class RunError(RuntimeError):
    """A run folder cannot be used as asked; the message says what to do."""


class ArraysError(ValueError):
    """A file of arrays is missing or damaged; the message says which and why, without advice.

    Args:
        file: the file.
        reason: what is wrong with it.
    """

    def __init__(self, file: Path, reason: object) -> None:
        super().__init__(f"{file} is missing or damaged ({reason})")
        self.reason = reason


def load_arrays(file: Path) -> Arrays:
    """Read named arrays from a safetensors file.

    Raises:
        ArraysError: if the file is missing or damaged, or holds numbers that numpy does not have.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return load(file.read_bytes())
    except KeyError as error:
        raise ArraysError(file, f"numpy has no numbers of type {error}; save it in float32") from error
    except (OSError, SafetensorError) as error:
        raise ArraysError(file, error) from error


def save_arrays(file: Path, arrays: Arrays) -> None:
    """Write named arrays atomically as a safetensors file."""
    from safetensors.numpy import save

    # safetensors writes the buffer as it lies in memory, whatever the strides.
    write_file(file, save({name: np.asarray(array, order="C") for name, array in arrays.items()}))


def hash_arrays(arrays: Arrays) -> bytes:
    """SHA-256 (32 bytes) of the names, types, shapes and values of arrays."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode() + np.asarray(array).tobytes())
    return digest.digest()


def write_file(file: Path, data: bytes) -> None:
    """Write a file atomically: a crash leaves either the old file or the new one.

    A crash may also leave a hidden temporary file behind; the next write of the same file replaces it.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.part")
    with temporary.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(file)


def damaged(file: Path, reason: object) -> RunError:
    """The error for a missing or damaged file of a run, with advice on what to do about it."""
    return RunError(
        f"{file} is missing or damaged ({reason}); delete {file.parent} or pass --overwrite to run it again"
    )
