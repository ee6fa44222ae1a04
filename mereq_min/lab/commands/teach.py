"""The command `mereq teach`."""

from __future__ import annotations

import asyncio
import webbrowser
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import tyro

from mereq_min.lab.commands.console import console
from mereq_min.lab.commands.show import show_run
from mereq_min.lab.human.conduct import Conductor
from mereq_min.lab.plugins import HUMAN, check_name, load_task
from mereq_min.lab.runs.config import RunConfig
from mereq_min.lab.runs.run import load_config_task
from mereq_min.loop import LoopConfig, settings_of
from mereq_min.methods import METHODS, EstimatorConfig
from mereq_min.validation import check_number

LONGEST_SESSION = 1_000
"""Most rounds of a session."""


@tyro.conf.configure(tyro.conf.OmitArgPrefixes)
@dataclass(frozen=True)
class Teach:
    """Teach a policy yourself: watch it in the browser, take over, and see it become yours.

    Prints a link. The same command goes on with a session that was stopped or cut off.
    """

    task: tyro.conf.Positional[str] = tyro.MISSING
    """Name of the task (see `mereq tasks`), or module:attribute of your own."""
    method: str = "MEReQ-L"
    """One of MEReQ, MEReQ-NP, MaxEnt, MaxEnt-FT, HG-DAgger-FT, IWR-FT, MEReQ-L."""
    prior: str | None = None
    """The policy to align, in place of the task's own, see `mereq align`."""
    out: Path = Path("runs/live")
    """Folder for the runs."""
    seed: int = 0
    """Seed of the run."""
    steps: int = 100
    """Steps after which the policy is updated, at the end of an episode; the page can also ask for it."""
    reaction: float = 0.5
    """Your reaction time, where it cannot be measured [s]: what the policy did so long before you took over
    does not count as good enough."""
    host: str = "127.0.0.1"
    """Address to listen on. With another than the loopback, whoever has the link can use the session."""
    port: int = 0
    """Port; 0 takes a free one."""
    browser: bool = True
    """Open the page in a browser."""
    estimators: EstimatorConfig = field(default_factory=EstimatorConfig)

    def with_recorded_settings(self) -> Self:
        """The defaults of this command for its task: with the settings of the task's recorded runs."""
        return type(self)(task=self.task, estimators=settings_of(load_task(self.task)).estimators)

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
        task = load_config_task(self.config, self.out)

        def show_link(link: str) -> None:
            console.print(f"teach {self.task} here: {link}", highlight=False, soft_wrap=True)
            if self.browser:
                webbrowser.open(link)

        async def conduct() -> Conductor:
            conductor = Conductor(
                task,
                self.config,
                self.out,
                host=self.host,
                port=self.port,
                reaction=self.reaction,
                on_open=show_link,
            )
            await conductor.run()
            return conductor

        conductor = asyncio.run(conduct())
        if conductor.folder.log:
            show_run(conductor.folder.path, task)
        return 0
