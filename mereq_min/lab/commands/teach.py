"""The command `mereq teach`."""

from __future__ import annotations

import asyncio
import webbrowser
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Self

import tyro

from mereq_min.interfaces import Task
from mereq_min.lab.commands.console import console
from mereq_min.lab.commands.show import count_iterations, show_rows
from mereq_min.lab.human.conduct import Conductor
from mereq_min.lab.human.defaults import quick_estimators
from mereq_min.lab.plugins import HUMAN, UsageError, check_name, load_task
from mereq_min.lab.runs.config import RunConfig
from mereq_min.lab.runs.run import load_config_task
from mereq_min.loop import LoopConfig
from mereq_min.methods import METHODS, EstimatorConfig, choose_method
from mereq_min.validation import check_number

LONGEST_SESSION = 1_000
"""Most rounds of a session."""


@tyro.conf.configure(tyro.conf.OmitArgPrefixes)
@dataclass(frozen=True)
class Teach:
    """Teach a policy yourself: watch it in the browser, take over, and see it learn.

    Prints a link. The same command resumes a session that was stopped or interrupted.
    """

    task: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TASK")] = tyro.MISSING
    """Name of the task (see `mereq tasks`), or module:attribute of your own."""
    method: str = "MEReQ-L"
    """One of MEReQ, MEReQ-NP, MaxEnt, MaxEnt-FT, HG-DAgger-FT, IWR-FT, MEReQ-L, MEReQ-R, MEReQ-all,
    MEReQ-S, Residual-BC, RLIF, PVP, MILE, PPL; on tabular tasks also HG-DAgger-1. The default is MEReQ-R for
    tabular tasks, since it tolerates wrong keys, else MEReQ-L."""
    prior: str | None = None
    """The policy to align, in place of the task's own, see `mereq align`."""
    out: Path = Path("runs/live")
    """Folder for the runs."""
    seed: int = 0
    """Seed of the run."""
    steps: int = 100
    """Steps per round; the policy is updated at the end of the episode, or when you ask for it [steps]."""
    reaction: float = 0.5
    """Your reaction time if it cannot be measured [s]: what the policy did that shortly before a takeover
    does not count as good enough."""
    host: str = "127.0.0.1"
    """Address to listen on, also used in the link. Beyond the loopback, anyone who sees the link on the
    network can use the session; an ssh -L tunnel is safer."""
    port: int = 0
    """Port; 0 takes a free one."""
    browser: bool = True
    """Open the page in a browser."""
    estimators: EstimatorConfig = field(default_factory=EstimatorConfig)
    """Settings of the estimators."""

    def with_recorded_settings(self) -> Self:
        """The defaults of this command for its task: its recorded settings, but quick to update, and the
        method that suits a person."""
        task = load_task(self.task)
        return type(self)(task=self.task, method=choose_method(task), estimators=quick_estimators(task))

    @property
    def config(self) -> RunConfig:
        """The run that the session makes."""
        loop = LoopConfig(LONGEST_SESSION, self.steps)
        return RunConfig(
            self.task, self.method, self.seed, loop, self.estimators, prior=self.prior, expert=HUMAN
        )

    def __call__(self) -> int:
        """Serve the page until the session is stopped, and show what came of it."""
        check_name("method", self.method, METHODS)
        check_number("reaction", self.reaction, 0, 10)
        if self.host in ("", "0.0.0.0", "::"):
            raise UsageError("--host must be the one address by which the browser will find this machine")
        task = load_config_task(self.config, self.out)

        teach(
            task,
            self.config,
            self.out,
            host=self.host,
            port=self.port,
            reaction=self.reaction,
            browser=self.browser,
        )
        return 0


def teach(
    task: Task,
    config: RunConfig,
    out: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    reaction: float = 0.5,
    browser: bool = True,
) -> None:
    """Serve the page of a session until it is stopped, and show what came of it.

    Args:
        task: the task.
        config: the run.
        out: root of the run folders.
        host: address to listen on.
        port: port; 0 takes a free one.
        reaction: the person's reaction time, where it cannot be measured [s].
        browser: whether to open a browser.
    """

    def show_link(link: str) -> None:
        console.print(f"teach {config.task} here: {link}", highlight=False, soft_wrap=True)
        if browser:
            webbrowser.open(link)

    async def conduct() -> Path:
        conductor = Conductor(task, config, out, host=host, port=port, reaction=reaction, on_open=show_link)
        await conductor.run()
        return conductor.folder.path

    path = asyncio.run(conduct())
    if count_iterations(path):
        show_rows(path, task)
        console.print(f"mereq show {path} measures the policy too", highlight=False, soft_wrap=True)
