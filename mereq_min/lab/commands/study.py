"""The command `mereq study`."""

from __future__ import annotations

import asyncio
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from mereq_min.lab.commands.console import console
from mereq_min.lab.plugins import UsageError
from mereq_min.lab.runs.lock import hold
from mereq_min.lab.study.host import Host
from mereq_min.lab.study.participants import Study
from mereq_min.lab.study.plan import read_plan
from mereq_min.lab.study.table import write_table


@tyro.conf.configure(tyro.conf.OmitArgPrefixes)
@dataclass(frozen=True)
class RunStudy:
    """Run a user study: each participant teaches every task with every method, rates it, and compares.

    PLAN is a TOML file; name, tasks and methods are required:

        name = "carpets"
        tasks = ["carpet", "lanes"]
        methods = ["MEReQ-R", "HG-DAgger-1"]
        rounds = 3              # per session
        steps = 100             # per round
        practice = "windy"      # task of a first session, which does not count
        compare = true          # finally compare each pair of methods, blind
        consent = "..."         # what participants agree to

    The order is counterbalanced across participants. Each call runs one participant, or resumes one who was
    interrupted. All data stay in a folder on this computer; results.csv is a tidy table.
    """

    plan: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PLAN")]
    """The plan."""
    out: Path = Path("studies")
    """Folder for studies."""
    new: tyro.conf.FlagCreatePairsOff[bool] = False
    """Start a new participant even if another is not done."""
    delete: str | None = None
    """Delete all data of the participant with this pseudonym, and start no session."""
    port: int = 0
    """Port of the page; sessions take the next one. 0 takes free ones."""
    browser: bool = True
    """Open the page in a browser."""

    def __call__(self) -> int:
        """Run a participant, or delete the data of one."""
        plan = read_plan(self.plan)
        if not 0 <= self.port <= 65534:
            raise UsageError(f"port must be from 0 to 65534, got {self.port}")
        path = self.out / plan.name
        with hold(path):
            study = Study(path, plan)
            if self.delete is not None:
                study.erase(self.delete)
            else:
                asyncio.run(self._lead(study))
            write_table(study)
        console.print(f"results: {path / 'results.csv'}", highlight=False, soft_wrap=True)
        return 0

    async def _lead(self, study: Study) -> None:
        participant = study.admit(new=self.new)

        def show_link(link: str) -> None:
            name = participant.pseudonym
            console.print(f"participant {name} takes part here: {link}", highlight=False, soft_wrap=True)
            if self.browser:
                webbrowser.open(link)

        await Host(study, participant, port=self.port, on_open=show_link).run()
