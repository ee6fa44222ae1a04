"""One participant at the page of a study: forms of its own, and around each live session a frame.

What the page is told names no method. Sessions are those of `lab.human`, told to hide theirs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec

from mereq_min.interfaces import Policy
from mereq_min.lab.human.conduct import Conductor
from mereq_min.lab.human.films import film_policy
from mereq_min.lab.human.folder import load_kept_policy
from mereq_min.lab.human.protocol import ActionName, Ping, Pong, decode
from mereq_min.lab.human.scenes import scene_of
from mereq_min.lab.human.server import FRAMES, Room, Site
from mereq_min.lab.plugins import load_task
from mereq_min.lab.runs.records import read_config, read_rows
from mereq_min.lab.study.participants import (
    SCALES,
    Answer,
    Participant,
    Study,
    answer_now,
    name_policies,
)
from mereq_min.lab.study.plan import Stage, configure
from mereq_min.lab.study.table import write_table

STARTS = 3
"""Starts from which two policies are compared."""

_Score = Annotated[int, msgspec.Meta(ge=0, le=100)]


class Reply(msgspec.Struct, tag="reply", forbid_unknown_fields=True):
    """The participant is done with a stage."""

    stage: int
    """Its index, so that a late or second click does no harm."""
    choice: Literal["yes", "no", "A", "B", "neither", "done"] = "done"
    """What was chosen."""
    scores: Annotated[list[_Score], msgspec.Meta(max_length=len(SCALES))] = []
    """Of the scales of the NASA-TLX, all or none."""


class Erase(msgspec.Struct, tag="erase", forbid_unknown_fields=True):
    """Delete everything of this participant, and end."""


class Show(msgspec.Struct, tag="show"):
    """What to show; it replaces what was shown before."""

    stage: int
    """Index of the stage."""
    stages: int
    """How many there are."""
    kind: Literal["consent", "practice", "session", "tlx", "compare", "end", "over"]
    """What is done."""
    pseudonym: str
    """Of the participant."""
    text: str = ""
    """Words of this stage."""
    link: str = ""
    """Of the live session; empty until it is ready."""
    scales: list[str] = []
    """What is asked about."""
    scene: dict[str, Any] = {}
    """What stands still in films, see `scenes`."""
    actions: list[ActionName] = []
    """Of the task."""
    rate: float = 1.0
    """Steps a second [1/s]."""
    films: list[list[list[dict[str, Any]]]] = []
    """For each start, the scenes of A and of B."""


_decoder: msgspec.json.Decoder[Ping | Reply | Erase] = msgspec.json.Decoder(Ping | Reply | Erase)


def read(data: str | bytes) -> Ping | Reply | Erase:
    """Read a message of the page, see `protocol.decode`."""
    return decode(_decoder, data)


SITE = Site("study.html", ("mereq_min.lab.study", "mereq_min.lab.human"), read, FRAMES)
"""What is served."""


class _Left(Exception):  # noqa: N818 (no error)
    """The participant wants everything deleted."""


class Host:
    """Leads one participant through a study.

    Args:
        study: the study, whose lock is held.
        participant: goes on at the first stage that is not done.
        port: of the page; sessions take the next one. 0 takes free ones.
        on_open: called with the link.
    """

    def __init__(
        self,
        study: Study,
        participant: Participant,
        *,
        port: int = 0,
        on_open: Callable[[str], None] = lambda link: None,
    ) -> None:
        self.study, self.participant = study, participant
        self._port, self._on_open = port, on_open
        self._screen: Show | None = None
        self._replies: asyncio.Queue[Reply | Erase | BaseException] = asyncio.Queue()
        self._left = asyncio.Event()  # the participant wants everything deleted
        self.room = Room(
            "127.0.0.1", port, on_message=self._hear, on_connect=self._greet, on_change=lambda why: None,
            on_fault=self._replies.put_nowait, site=SITE,
        )  # fmt: skip

    async def run(self) -> None:
        """Open the page, and stay until the participant is done or gone."""
        self._on_open(await self.room.open())
        try:
            try:
                await self._go_through()
                words = "Thank you. You are done, and can close this page."
            except _Left:
                self.study.erase(self.participant.pseudonym)
                write_table(self.study)
                words = "Everything that was recorded about you is deleted. You can close this page."
            self._show("over", text=words)
            await asyncio.sleep(0.2)  # so that this is sent
        finally:
            await self.room.close()

    @property
    def _index(self) -> int:
        return len(self.participant.answers)

    async def _go_through(self) -> None:
        stages = self.study.stages(self.participant)
        while self._index < len(stages):
            stage = stages[self._index]
            if stage.kind in ("practice", "session"):
                await self._conduct(stage)
                answer = answer_now()
            else:
                self._show(stage.kind, **await asyncio.to_thread(self._fill_in, stage))
                answer = await self._receive(stage)
            self.study.keep(self.participant, answer)
            await asyncio.to_thread(write_table, self.study)

    # --- Sessions -------------------------------------------------------------------------------------------

    async def _conduct(self, stage: Stage) -> None:
        """Hold the session of a stage, or go on with it, unless it is over."""
        if self._is_over(stage):
            return
        config = configure(self.study.plan, stage, self.participant.number)
        self._show(stage.kind)

        def show_link(link: str) -> None:
            self._show(stage.kind, link=link)

        root = self.study.session_root(self.participant, stage)
        port = self._port + 1 if self._port else 0
        task = load_task(stage.task)
        conductor = Conductor(task, config, root, port=port, blind=True, on_open=show_link)
        session = asyncio.create_task(conductor.run())
        leaving = asyncio.create_task(self._left.wait())
        await asyncio.wait((session, leaving), return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()
        if self._left.is_set():
            conductor.stop()
        await session
        if self._left.is_set():
            raise _Left

    def _is_over(self, stage: Stage) -> bool:
        """Whether a session ended before this process began: after its last round, or when it was stopped."""
        run = self.study.session_run(self.participant, stage)
        if not (run / "config.json").exists():
            return False
        rows = read_rows(run)
        return bool(rows) and len(rows) >= read_config(run)["config"]["loop"]["iterations"]

    def _taught(self, task: str, method: str) -> Policy:
        """What the participant taught a task by a method."""
        stages = self.study.stages(self.participant)
        stage = next(e for e in stages if (e.kind, e.task, e.methods) == ("session", task, (method,)))
        run = self.study.session_run(self.participant, stage)
        return load_kept_policy(run, load_task(task), len(read_rows(run)))

    # --- Forms ----------------------------------------------------------------------------------------------

    def _fill_in(self, stage: Stage) -> dict[str, Any]:
        """What the form of a stage shows."""
        if stage.kind == "consent":
            return {"text": self.study.plan.consent}
        if stage.kind == "tlx":
            return {"scales": list(SCALES)}
        if stage.kind != "compare":
            return {}
        task = load_task(stage.task)
        scene = scene_of(task)
        names = name_policies(self.participant, self._index, stage)
        policies = [self._taught(stage.task, each) for each in names]
        return {
            "scene": {"kind": scene.kind, **scene.still},
            "actions": list(scene.actions),
            "rate": scene.rate,
            "films": [[film_policy(task, each, seed).scenes for each in policies] for seed in range(STARTS)],
        }

    async def _receive(self, stage: Stage) -> Answer:
        """Wait for a reply that answers a stage."""
        while True:
            reply = await self._replies.get()
            if isinstance(reply, BaseException):
                raise reply
            if isinstance(reply, Erase):
                raise _Left
            if reply.stage != self._index:
                continue
            if stage.kind == "consent" and reply.choice == "no":
                raise _Left
            if stage.kind == "consent" and reply.choice == "yes":
                return answer_now()
            if stage.kind == "tlx" and len(reply.scores) == len(SCALES):
                return answer_now(scores=reply.scores)
            if stage.kind == "compare" and reply.choice in ("A", "B", "neither"):
                named = dict(zip("AB", name_policies(self.participant, self._index, stage), strict=True))
                return answer_now(preferred=named.get(reply.choice, ""))
            if stage.kind == "end":
                return answer_now()

    # --- The page -------------------------------------------------------------------------------------------

    def _show(self, kind: Any, **what: Any) -> None:
        stages = len(self.study.stages(self.participant))
        self._screen = Show(self._index, stages, kind, self.participant.pseudonym, **what)
        self.room.send(self._screen)

    def _greet(self, tab: str) -> list[msgspec.Struct]:
        return [] if self._screen is None else [self._screen]

    def _hear(self, tab: str, message: Ping | Reply | Erase) -> None:
        if isinstance(message, Ping):
            self.room.tell(tab, Pong(message.t))
        else:
            self._replies.put_nowait(message)
            if isinstance(message, Erase):
                self._left.set()
