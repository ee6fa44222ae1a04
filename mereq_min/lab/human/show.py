"""A recorded session in the page again, at any speed, forwards and backwards; nobody can take over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from mereq_min.interfaces import Task
from mereq_min.lab.human.folder import kept_file, read_report
from mereq_min.lab.human.protocol import (
    Act,
    Begin,
    Claim,
    Frame,
    FromPage,
    Go,
    HandBack,
    Mode,
    Notice,
    Pause,
    Ping,
    Pong,
    Report,
    SetPace,
    Stop,
    Undo,
)
from mereq_min.lab.human.replay import retrace
from mereq_min.lab.human.scenes import scene_of
from mereq_min.lab.human.server import Room
from mereq_min.lab.human.views import make_frame, make_welcome
from mereq_min.lab.runs.config import RunConfig


class Show:
    """Shows a recorded session until somebody stops it.

    `go`, `pause` and `pace` work as in a live session, and `undo` goes back.

    Args:
        path: the run's folder.
        task: its task.
        config: the run.
        port: port; 0 takes a free one.
        speed: factor on the task's own rate.
        on_open: called with the link.

    Raises:
        RunError: if the run holds no session, or its journal is damaged.
    """

    def __init__(
        self,
        path: Path,
        task: Task,
        config: RunConfig,
        *,
        port: int = 0,
        speed: float = 1.0,
        on_open: Callable[[str], None] = lambda link: None,
    ) -> None:
        self.path, self.task, self.config, self.speed = path, task, config, speed
        self.scene, self._on_open = scene_of(task), on_open
        self._coming = self._derive()
        self._frames: list[tuple[Frame, bool]] = [next(self._coming)]
        self._at, self._go, self._is_paused, self._is_over = 0, 0, False, False
        self._woken = asyncio.Event()
        self._fault: BaseException | None = None
        self._told = 0  # reports up to this version were sent
        self.room = Room(
            "127.0.0.1",
            port,
            on_message=self._hear,
            on_connect=self._greet,
            on_change=lambda why: self._send_mode(),
            on_fault=self._fail,
        )

    def _derive(self) -> Iterator[tuple[Frame, bool]]:
        """The frames of the session, and whether the person was in control."""
        for session in retrace(self.path, self.task, self.config, self.scene.render_mode):
            frame = make_frame(session, self.scene)
            yield frame, frame.by == "person"

    async def run(self) -> None:
        """Open the page, and show the session."""
        self._on_open(await self.room.open())
        try:
            while not self._is_over:
                await self._advance()
        finally:
            await self.room.close()

    def _fail(self, error: BaseException) -> None:
        self._fault = error
        self._woken.set()

    async def _advance(self) -> None:
        """Wait until the next frame is due, and show it."""
        self._woken.clear()
        if self._fault is not None:
            raise self._fault
        if (self._is_paused and not self._go) or self.room.controller is None:
            await self._woken.wait()
            return
        if not self._go:
            rate = self.scene.rate * self.speed
            try:
                await asyncio.wait_for(self._woken.wait(), 1 / rate)
                return
            except TimeoutError:
                pass
        self._go = max(0, self._go - 1)
        await asyncio.to_thread(self._look_ahead)
        if self._at + 1 < len(self._frames):
            self._at += 1
            self._send()
        else:
            self._is_paused = True
            self.room.send(Notice("this is where the session was left"))
            self._send_mode()

    def _look_ahead(self) -> None:
        if self._at + 1 == len(self._frames):
            self._frames.extend(found for found in [next(self._coming, None)] if found is not None)

    def _send(self, *, rewound: bool = False) -> None:
        frame, _ = self._frames[self._at]
        self.room.send(msgspec.structs.replace(frame, rewound=rewound))
        self._send_mode()
        if rewound:
            self._told = min(self._told, frame.version)
        while self._told < frame.version:
            self._told += 1
            self.room.send(self._report(self._told))

    def _report(self, version: int) -> Report:
        return read_report(kept_file(self.path, "report", version, "json"))

    def _hear(self, tab: str, message: FromPage) -> None:
        if isinstance(message, Ping):
            self.room.tell(tab, Pong(message.t))
            return
        if isinstance(message, Claim):
            self.room.give_control(tab)
        elif isinstance(message, Stop):
            self._is_over = True
        elif isinstance(message, Pause):
            self._is_paused = message.on
        elif isinstance(message, SetPace):
            self.speed = message.speed or self.speed
        elif isinstance(message, Go):
            self._go += self._is_paused
        elif isinstance(message, Undo):
            self._at, self._is_paused = max(0, self._at - message.steps), True
            self._send(rewound=True)
        elif not isinstance(message, Begin | HandBack | Act):
            self.room.tell(tab, Notice("this session is over; it is only shown"))
        self._woken.set()
        self._send_mode()

    def _greet(self, tab: str) -> list[msgspec.Struct]:
        self._woken.set()
        frame, _ = self._frames[self._at]
        reports = [self._report(version) for version in range(1, frame.version + 1)]
        self._told = frame.version
        welcome = make_welcome(self.task, self.scene, self.config, tab, replay=True)
        return [welcome, self._mode(), frame, *reports]

    def _send_mode(self) -> None:
        self.room.send(self._mode())

    def _mode(self) -> Mode:
        frame, is_person = self._frames[self._at]
        return Mode(
            phase="finished" if self._is_over else "driving",
            paused=self._is_paused,
            why="",
            person=is_person,
            pace="real time",
            speed=self.speed,
            release="key",
            controller=self.room.controller,
            tabs=self.room.tabs,
            learning=False,
            ready=True,
            version=frame.version,
            can_learn=False,
            can_undo=self._at > 0,
            can_undo_update=False,
        )
