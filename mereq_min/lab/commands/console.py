"""The terminal: where results, errors and progress are printed."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

console = Console(emoji=False)
"""For results, on standard output; `:x:` in a name is no emoji."""
if not console.is_terminal:
    console.width = 120  # a pipe or a file has no width to wrap at
stderr_console = Console(stderr=True, emoji=False)
"""For errors, warnings and progress; standard output is for results alone."""


LONGEST = 2_000
"""Largest length of a complaint [characters]."""


def one_line(text: str) -> str:
    """A text without line breaks and without characters that would steer the terminal, cut if it is long."""
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(text.split()))
    return line if len(line) <= LONGEST else f"{line[:LONGEST]} ..."


def complain(text: str, style: str | None = None) -> None:
    """Print an error or a warning as it is: it may hold brackets, which are not markup."""
    stderr_console.print(one_line(text), style=style, markup=False, highlight=False, soft_wrap=True)


def progress_bar(time_left: ProgressColumn | None = None) -> Progress:
    """A progress bar with counts and the time that is left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        time_left or TimeRemainingColumn(),
        console=stderr_console,
    )
