"""Files: atomic writes, reads of bounded size, and named arrays in the safetensors format."""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
"""Arrays by name."""

LARGEST_ARRAYS = 2**31
"""Size of the largest file of arrays that is read [bytes]."""


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


def read_file(file: Path, largest: int) -> bytes:
    """The contents of a file.

    Args:
        file: the file.
        largest: size up to which it is read [bytes].

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is larger, or a pipe or a device, which may have no end.
    """
    # Without waiting: a pipe that nobody writes to would hold up the opening itself.
    descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(descriptor, "rb") as stream:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise ValueError("it is not a regular file")
        if about.st_size > largest:
            raise ValueError(f"it has {about.st_size} bytes, more than the {largest} that are read")
        return stream.read()


def load_arrays(file: Path, *, sha256: str | None = None) -> Arrays:
    """Read named arrays from a safetensors file.

    Args:
        file: the file.
        sha256: SHA-256 that the file must have, in hexadecimal; None if it is not known.

    Raises:
        ArraysError: if the file is missing or damaged, or holds numbers that numpy does not have.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        data = read_file(file, LARGEST_ARRAYS)
        if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
            raise ValueError("it was changed after it was written (SHA-256 mismatch)")
        return load(data)
    except KeyError as error:
        raise ArraysError(file, f"numpy has no numbers of type {error}; save it in float32") from error
    except (OSError, SafetensorError, ValueError, OverflowError) as error:
        raise ArraysError(file, error) from error


def save_arrays(file: Path, arrays: Arrays) -> str:
    """Write named arrays atomically as a safetensors file; returns its SHA-256 in hexadecimal."""
    from safetensors.numpy import save

    # safetensors writes the buffer as it lies in memory, whatever the strides.
    data = save({name: np.asarray(array, order="C") for name, array in arrays.items()})
    write_file(file, data)
    return hashlib.sha256(data).hexdigest()


def hash_arrays(arrays: Arrays) -> bytes:
    """SHA-256 (32 bytes) of the names, types, shapes and values of arrays."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode() + np.asarray(array).tobytes())
    return digest.digest()


def write_file(file: Path, data: bytes) -> None:
    """Write a file atomically and durably: a crash leaves either the old file or the new one.

    A link in its place is replaced and its target left alone. A process that is killed may leave a hidden
    temporary file `.<name>.<random>.part` behind; that of a run goes when the run is opened again.
    """
    make_folder(file.parent)
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(8)}.part")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NEW_FILE, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(descriptor)
        move_file(temporary, file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


NEW_FILE = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
"""Flags with which a file is opened for writing: never through a link, never as text (Windows)."""


def move_file(file: Path, target: Path) -> None:
    """Put a file in the place of another in the same folder, atomically and durably."""
    file.replace(target)
    sync_folder(target.parent)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, durably."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on disk."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows opens no folders
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def damaged(file: Path, reason: object) -> RunError:
    """The error for a missing or damaged file of a run, with advice on what to do about it."""
    return RunError(f"{file} is missing or damaged ({reason}); delete {file.parent} to start over")
