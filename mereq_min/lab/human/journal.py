"""The journal of a session: each decision is on disk before it acts.

A file of lines, `{"sha256": ..., "entry": {...}}`. The hash covers the entry and the hash of the line before,
so that a line which was changed, lost or moved is found. Whatever ends the process, at most the line that was
being written is damaged: it is the last, its decision has not acted yet, and it is cut off when the journal
is opened again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from mereq_min.lab.runs.files import NEW_FILE, RunError, make_folder, read_file, sync_folder

LARGEST_JOURNAL = 2**30
"""Size of the largest journal that is read [bytes]."""


wait_for_disk = getattr(os, "fdatasync", os.fsync)
"""Waits until what was written to a file is on disk, but not for the time of its last change."""


class Begin(msgspec.Struct, tag="begin", frozen=True):
    """The first entry: which session this is the journal of."""

    task: str
    """Name of the task."""
    method: str
    """Name of the method."""
    seed: int
    """Seed of the run."""
    steps_per_round: int
    """Steps by the newest policy after which a round ends, at the end of the episode [steps]."""
    at: float
    """When it began, in seconds since 1970 [s]."""
    form: Literal[1] = 1
    """Version of the form of this file."""


class Take(msgspec.Struct, tag="take", frozen=True, omit_defaults=True):
    """A step is taken."""

    at: float
    """When it was decided, in seconds since 1970 [s]."""
    action: int | list[float] | None = None
    """The person's own action; None where the policy's proposal is taken."""
    by: str = ""
    """Tab of the person."""
    keys: int = 0
    """Keystrokes since the step before."""
    reaction: float | None = None
    """At a takeover: time since the first violation that was shown [s]."""
    seconds: float = 0.0
    """Time that this step took, while the person was in control [s]."""


class Learn(msgspec.Struct, tag="learn", frozen=True):
    """The round ends here, and an update is made from all rounds so far."""

    at: float
    """When it was decided, in seconds since 1970 [s]."""
    patience: int
    """Steps before each takeover that count as its cause [steps]."""
    asked: bool
    """Whether the person asked for it."""


class Adopt(msgspec.Struct, tag="adopt", frozen=True):
    """The policy of the update takes over, from the next proposal on."""

    at: float
    """When it was decided, in seconds since 1970 [s]."""


class Undo(msgspec.Struct, tag="undo", frozen=True):
    """The last steps are taken back."""

    at: float
    """When it was decided, in seconds since 1970 [s]."""
    steps: int
    """How many [steps]."""


class UndoUpdate(msgspec.Struct, tag="undo update", frozen=True):
    """The last `Learn` is taken back, and everything since."""

    at: float
    """When it was decided, in seconds since 1970 [s]."""


Entry = Begin | Take | Learn | Adopt | Undo | UndoUpdate
"""Any entry."""


class _Line(msgspec.Struct):
    sha256: str
    entry: msgspec.Raw


class Journal:
    """A journal that is open for writing; whoever opens it holds the lock of the run that it is part of.

    Args:
        file: the file, which is made if it is not there.

    Attributes:
        entries: all entries so far.

    Raises:
        RunError: if the file is damaged anywhere but in its last line.
    """

    def __init__(self, file: Path) -> None:
        make_folder(file.parent)
        is_new = not file.exists()
        self.file = file
        self.entries, self._hash, self._size = ([], "", 0) if is_new else _read(file)
        flags = os.O_RDWR | os.O_CREAT | NEW_FILE
        self._descriptor = os.open(file, flags, 0o600)
        os.ftruncate(self._descriptor, self._size)
        os.lseek(self._descriptor, 0, os.SEEK_END)
        os.fsync(self._descriptor)
        if is_new:
            sync_folder(file.parent)

    def append(self, entry: Entry) -> None:
        """Write an entry and wait until it is on disk.

        Raises:
            OSError: if it cannot be, for instance because the disk is full; the journal then is as before.
        """
        payload = msgspec.json.encode(entry)
        sha256 = _hash(self._hash, payload)
        line = msgspec.json.encode({"sha256": sha256, "entry": msgspec.Raw(payload)}) + b"\n"
        try:
            written = 0
            while written < len(line):
                written += os.write(self._descriptor, line[written:])
            wait_for_disk(self._descriptor)
        except BaseException:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self._size)
                os.lseek(self._descriptor, 0, os.SEEK_END)
            raise
        self._hash, self._size = sha256, self._size + len(line)
        self.entries.append(entry)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def read_journal(file: Path) -> list[Entry]:
    """The entries of a journal; a damaged last line is left out.

    Raises:
        RunError: if there is none, or it is damaged elsewhere.
    """
    if not file.is_file():
        raise RunError(f"{file.parent} holds no session of a person: it has no {file.name}")
    return _read(file)[0]


def _read(file: Path) -> tuple[list[Entry], str, int]:
    """The entries of a file, the hash of the last, and the size of the part that is whole [bytes]."""
    try:
        data = read_file(file, LARGEST_JOURNAL)
    except (OSError, ValueError) as error:
        raise RunError(f"{file} cannot be read ({error})") from error
    entries: list[Entry] = []
    previous, size = "", 0
    lines = data.splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        try:
            entry, sha256 = _parse(line, previous)
            _check_place(entry, number)
        except (ValueError, msgspec.MsgspecError, RecursionError) as error:
            if number == len(lines):
                break
            raise RunError(
                f"line {number} of {file} is damaged ({error}); cut the file before that line to go on from "
                "there, or move the run away"
            ) from error
        entries.append(entry)
        previous, size = sha256, size + len(line)
    return entries, previous, size


def _parse(line: bytes, previous: str) -> tuple[Entry, str]:
    if not line.endswith(b"\n"):
        raise ValueError("it has no end")
    found = msgspec.json.decode(line, type=_Line)
    payload = bytes(found.entry)
    if found.sha256 != _hash(previous, payload):
        raise ValueError("it was changed after it was written (SHA-256 mismatch)")
    return msgspec.json.decode(payload, type=Entry), found.sha256


def _check_place(entry: Entry, number: int) -> None:
    if isinstance(entry, Begin) != (number == 1):
        raise ValueError(
            "it is out of place: a journal has one entry of the kind begin, and that is its first"
        )


def _hash(previous: str, payload: bytes) -> str:
    return hashlib.sha256(previous.encode() + payload).hexdigest()


def effective(entries: Sequence[Any]) -> list[Take | Learn | Adopt]:
    """What a journal comes to: its entries without those that were taken back later.

    Undoing steps goes back to the last `Learn` at most, and takes an `Adopt` between them back too, which
    then happens anew.
    """
    history: list[Take | Learn | Adopt] = []
    for entry in entries:
        if isinstance(entry, Undo):
            for _ in range(entry.steps):
                rewind(history)
        elif isinstance(entry, UndoUpdate):
            while history and not isinstance(history.pop(), Learn):
                pass
        elif isinstance(entry, Take | Learn | Adopt):
            history.append(entry)
    return history


def rewind(history: list[Take | Learn | Adopt]) -> None:
    """Remove the last step, and what came after it, if there is one since the last `Learn`."""
    for index in reversed(range(len(history))):
        if isinstance(history[index], Learn):
            return
        if isinstance(history[index], Take):
            del history[index:]
            return
