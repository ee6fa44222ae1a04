"""Whose mistake an exception is: found by the place in the code that raised it, and told in a sentence."""

from __future__ import annotations

import dis
import functools
import sysconfig
import tempfile
import traceback
from pathlib import Path
from types import CodeType, TracebackType
from typing import NamedTuple

import mereq_min

OURS = ("mereq_min", "gridworlds", "deep")
"""The packages of this distribution."""
_RAISE = dis.opmap["RAISE_VARARGS"]
_named: set[str] = set()


class Place(NamedTuple):
    """Where an exception was raised."""

    file: Path
    line: int
    is_ours: bool
    """Whether the file belongs to this distribution; otherwise it is the user's."""

    def __str__(self) -> str:
        return f"{self.file.name}, line {self.line}"


def remember_module(name: str) -> None:
    """Remember a module that the command line or an entry point names: wherever it lies, it is not ours."""
    _named.add(name.partition(".")[0])


def named_modules() -> list[str]:
    """The modules beside ours that took part so far."""
    return sorted(_named.difference(OURS))


def find_place(error: BaseException) -> Place | None:
    """Find the innermost line of an exception that is either ours or the user's.

    Frames of the standard library and of installed packages only did what they were asked to do.

    Returns:
        The place; None if no such line took part.
    """
    if isinstance(error, SyntaxError) and error.filename and _is_ours(error.filename) is not None:
        return Place(Path(error.filename), error.lineno or 1, bool(_is_ours(error.filename)))
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        is_ours = _is_ours(frame.f_code.co_filename)
        if is_ours is not None:
            return Place(Path(frame.f_code.co_filename), line, is_ours)
    return None


def is_refusal(error: BaseException) -> bool:
    """Whether a `raise` in our code made a ValueError: it refuses what it was given, in a sentence.

    A ValueError that an operation raised, as numpy does on shapes that do not fit, is nobody's sentence.
    """
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if not isinstance(error, ValueError) or last is None or not _is_ours(last.tb_frame.f_code.co_filename):
        return False
    return _is_raise(last.tb_frame.f_code, last)


def describe_fault(error: BaseException) -> str:
    """Tell in a sentence what was raised where, and whose code it was."""
    kind, message, place = type(error).__name__, _message(error), find_place(error)
    if place is None or place.is_ours:
        return f"{kind}{'' if place is None else f' in {place.file.parent.name}/{place}'}{message}"
    if isinstance(error, SyntaxError):
        return f"your module {place.file.name} has an error in its syntax at line {place.line}: {error.msg}"
    return f"your module {place.file.name} raised {kind} at line {place.line}{message}"


def keep_traceback(error: BaseException) -> str:
    """Write the traceback of an exception to a temporary file; returns where it is, in words."""
    text = "".join(traceback.format_exception(error))
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="mereq-", suffix=".traceback.txt", delete=False, encoding="utf-8", errors="replace"
        ) as file:
            file.write(text)
    except OSError:
        return "mereq --debug COMMAND shows the traceback"
    return f"the traceback is in {file.name}"


def _message(error: BaseException) -> str:
    """The message of an exception after a colon; nothing if it has none, or fails to tell it."""
    try:
        message = str(error)
    except Exception:
        message = ""
    return f": {message}" if message else ""


def _is_raise(code: CodeType, last: TracebackType) -> bool:
    return code.co_code[last.tb_lasti] == _RAISE


def _is_ours(file: str) -> bool | None:
    """Whether a source file is ours; None if it is neither ours nor the user's."""
    path = Path(file).absolute()
    if not path.is_file():  # such as <frozen importlib>, or the source of a compiled package
        return None
    if any(path.is_relative_to(folder) for folder in _own_folders()):
        return True
    top = next((folder for folder in _foreign_folders() if path.is_relative_to(folder)), None)
    if top is None:
        return False
    return False if path.relative_to(top).parts[0].removesuffix(".py") in _named else None


@functools.cache
def _own_folders() -> list[Path]:
    root = Path(mereq_min.__file__).absolute().parents[1]
    return [root / name for name in OURS]


@functools.cache
def _foreign_folders() -> list[Path]:
    """Folders of installed packages and of the standard library, the innermost first."""
    paths = {
        Path(sysconfig.get_path(name)).absolute() for name in ("stdlib", "platstdlib", "purelib", "platlib")
    }
    paths |= {path.resolve() for path in paths}
    return sorted(paths, key=lambda path: -len(path.parts))
