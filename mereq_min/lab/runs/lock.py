"""One writer at a time: the lock of a run folder."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from mereq_min.lab.runs.files import NEW_FILE, RunError, make_folder


@contextlib.contextmanager
def hold(path: Path) -> Iterator[None]:
    """Hold the lock of a run folder; no other process or thread can at the same time.

    It is a lock of the operating system on the file `.<name>.lock` beside the folder, so that the folder need
    not exist and may be deleted. The lock ends with the process that holds it, however that process ends. The
    file stays: two processes might lock two files of the same name if one of them deleted it.

    Raises:
        RunError: if another holds it; the message says which process on which machine.
    """
    file = path.with_name(f".{path.name}.lock")
    make_folder(file.parent)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | NEW_FILE, 0o666)
    try:
        _lock(descriptor, file, path)
        try:
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
            yield
        finally:
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, file: Path, path: Path) -> None:
    """Lock an open lock file, and empty it."""
    import portalocker

    about = os.fstat(descriptor)
    if not stat.S_ISREG(about.st_mode) or about.st_nlink != 1:  # it would be written to
        raise RunError(f"{file} is not a lock file but a link to something else; move it away")
    try:
        portalocker.lock(descriptor, portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING)
    except portalocker.AlreadyLocked as error:
        raise RunError(
            f"{path} is being written by {_read_holder(file)}; wait until that ends, or choose another --out"
        ) from error
    except portalocker.LockException as error:
        raise RunError(
            f"{path} cannot be locked ({error}); choose an --out on a file system that has locks"
        ) from error
    os.ftruncate(descriptor, 0)  # a process that was killed left its name there


def _read_holder(file: Path) -> str:
    """Who holds a lock, in words; the holder writes that down just after it has got the lock."""
    for _ in range(20):
        with contextlib.suppress(OSError):  # Windows lets nobody else read a locked file
            if holder := file.read_bytes()[:200].decode(errors="replace"):
                return holder
        time.sleep(0.05)
    return "another process"
