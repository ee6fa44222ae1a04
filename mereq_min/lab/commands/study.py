"""The command `mereq study`."""

from __future__ import annotations

import asyncio
import webbrowser
from dataclasses import dataclass
from pathlib import Path

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
    """Lead people through a study: they teach every task by every method, say how it was, and compare.

    PLAN is a TOML file; name, tasks and methods are needed:

        name = "carpets"
        tasks = ["carpet", "lanes"]
        methods = ["MEReQ-R", "HG-DAgger-1"]
        rounds = 3              # of a session
        steps = 100             # of a round
        practice = "windy"      # task of a first session, which does not count
        compare = true          # compare what was taught by each two methods, blind
        consent = "..."         # what participants agree to

    Orders are balanced over participants. Each call leads one participant, and goes on with somebody who was
    cut off. All stays in a folder on this computer, with results.csv as a tidy table.
    """

    plan: tyro.conf.Positional[Path]
    """The plan."""
    out: Path = Path("studies")
    """Folder for studies."""
    new: tyro.conf.FlagCreatePairsOff[bool] = False
    """Admit a new participant, although another is not done."""
    delete: str | None = None
    """Delete everything of the participant of this pseudonym, and do nothing else."""
    port: int = 0
    """Port of the page; sessions take the next one. 0 takes free ones."""
    browser: bool = True
    """Open the page in a browser."""

    def __call__(self) -> int:
        """Lead a participant, or delete what is kept of one."""
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
