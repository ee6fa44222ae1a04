"""The terminal: where results, errors and progress are printed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

console = Console()
if not console.is_terminal:
    console.width = 120  # into a pipe or a file nothing has to wrap at 80
complaints = Console(stderr=True)
"""Errors and progress; results alone go to standard output."""


def progress_bar(time_left: ProgressColumn | None = None) -> Progress:
    """A progress bar with counts and the time that is left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        time_left or TimeRemainingColumn(),
        console=complaints,
    )


def progress(items: Iterable[Any], label: str, total: int | None = None) -> Iterable[Any]:
    """Go through items under a progress bar."""
    with progress_bar() as bar:
        yield from bar.track(items, total=total, description=label)
