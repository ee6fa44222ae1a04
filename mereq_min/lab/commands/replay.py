"""The command `mereq replay`."""

from __future__ import annotations

import asyncio
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import tyro

from mereq_min.interfaces import Task
from mereq_min.lab.commands.console import console, stderr_console
from mereq_min.lab.human.folder import journal_file, same_steps
from mereq_min.lab.human.journal import effective, read_journal
from mereq_min.lab.human.replay import derive, retrace
from mereq_min.lab.human.show import Show
from mereq_min.lab.runs.config import RunConfig
from mereq_min.lab.runs.files import RunError, write_file
from mereq_min.lab.runs.records import read_config, read_rows, read_steps
from mereq_min.lab.runs.run import load_run_task
from mereq_min.validation import check_number

LONGEST_FILM = 300
"""Most frames of the film of a session, beside the starts of episodes in a short one [frames]."""


@dataclass(frozen=True)
class Replay:
    """Show a session of `mereq teach` again: in the page, or as a film."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Folder of the run, such as runs/live/carpet/MEReQ-L/seed0."""
    speed: float = 1.0
    """Playback speed from 0.1 to 10; 1 is the task's own rate."""
    film: Path | None = None
    """Draw a film into this file (.gif), in place of the page."""
    check: tyro.conf.FlagCreatePairsOff[bool] = False
    """Derive the session anew from its journal, updates included, and compare it with the run, in place of
    the page."""
    port: int = 0
    """Port; 0 takes a free one."""
    browser: bool = True
    """Open the page in a browser."""
    task: str | None = None
    """module:attribute of the run's task, if it is one of your own."""
    prior: str | None = None
    """The run's prior, if it was one of your own that could not be saved beside the run."""

    def __call__(self) -> int:
        """Show, film or check the session."""
        check_number("speed", self.speed, 0.1, 10)
        config = msgspec.convert(read_config(self.run)["config"], RunConfig)
        read_journal(journal_file(self.run))
        task = load_run_task(self.run, task=self.task, prior=self.prior)
        if self.check:
            check_session(self.run, task, config)
        elif self.film is not None:
            film_session(self.run, task, config, self.film)
        else:
            asyncio.run(self._show(task, config))
        return 0

    async def _show(self, task: Task, config: RunConfig) -> None:
        def show_link(link: str) -> None:
            console.print(f"see the session here: {link}", highlight=False, soft_wrap=True)
            if self.browser:
                webbrowser.open(link)

        await Show(self.run, task, config, port=self.port, speed=self.speed, on_open=show_link).run()


def check_session(path: Path, task: Task, config: RunConfig) -> None:
    """Derive a session anew, updates included.

    Raises:
        RunError: if that does not lead to the run.
    """
    rows = read_rows(path)
    with stderr_console.status("deriving the session and its updates anew"):
        session, updates = derive(task, config, read_journal(journal_file(path)))
    for row, update, found in zip(rows, updates, session.rounds, strict=False):
        number = row["iteration"]
        if found.steps is None or not same_steps(read_steps(path, number), found.steps):
            raise RunError(f"the journal of {path} does not lead to the steps of iteration {number}")
        if update.row != row:
            raise RunError(f"the journal of {path} does not lead to the update of iteration {number}")
    console.print(
        f"the journal leads to the run, bit for bit: {session.n_steps} steps, {len(rows)} updates",
        highlight=False,
    )


def film_session(path: Path, task: Task, config: RunConfig, file: Path) -> None:
    """Draw a session as a GIF, with the takeovers marked."""
    from mereq_min.lab.show.film import EXPERT_COLOUR, POLICY_COLOUR, decorate, to_gif

    n_decisions = len(effective(read_journal(journal_file(path))))
    stride = -(-(n_decisions + 1) // LONGEST_FILM)
    frames, drawn = [], -1
    for session in retrace(path, task, config, "rgb_array"):
        number = len(session.history)
        # The same number twice: an episode begins, which only a short film has the time to show.
        if number % stride or (stride > 1 and number == drawn):
            continue
        drawn = number
        is_person = session.last is not None and session.last.action is not None
        who = "YOU DRIVE" if is_person else f"policy {session.version}"
        title = (
            f"round {len(session.rounds)}: {who}, {session.person_steps} of {len(session.drive)} steps yours"
        )
        picture = session.drive.env.render()
        frames.append(decorate(picture, title, EXPERT_COLOUR if is_person else POLICY_COLOUR))
    write_file(file, to_gif([frames]))
    console.print(f"film: {file}", highlight=False, soft_wrap=True)
