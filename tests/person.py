"""A scripted person: a page without a screen, which watches, takes over and hands back over a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from websockets.asyncio.client import ClientConnection, connect

from mereq_min.interfaces import Task
from mereq_min.lab.plugins import load_task

Message = dict[str, Any]
"""A message of the protocol."""


class Page:
    """A page that is connected, and the last message of each kind.

    Attributes:
        last: the last message by type.
        reports: all reports, by round.
    """

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.last: dict[str, Message] = {}
        self.reports: dict[int, Message] = {}
        self.notices: list[str] = []

    async def send(self, kind: str, **fields: Any) -> None:
        """Send a message."""
        await self.socket.send(json.dumps({"type": kind, **fields}))

    async def receive(self) -> Message:
        """Wait for a message."""
        message: Message = json.loads(await asyncio.wait_for(self.socket.recv(), 60))
        self.last[message["type"]] = message
        if message["type"] == "report":
            self.reports[message["round"]] = message
        if message["type"] == "notice":
            self.notices.append(message["text"])
        return message

    async def until(self, condition: Callable[[Page], bool]) -> None:
        """Receive until a condition holds."""
        while not condition(self):
            await self.receive()

    async def tap(self, action: int) -> None:
        """Press a key and let it go."""
        await self.send("act", action=action)
        await self.send("act", action=action, down=False)


@asynccontextmanager
async def visit(link: str, tab: str = "a") -> AsyncIterator[Page]:
    """Open the page of a session, greeted, pinging every second."""
    origin = link.rsplit("/", 2)[0]
    async with connect(f"{link.replace('http', 'ws')}ws?tab={tab}", origin=origin, max_size=2**26) as socket:
        page = Page(socket)

        async def ping() -> None:
            while True:
                await page.send("ping", t=time.time())
                await asyncio.sleep(1)

        pinging = asyncio.create_task(ping())
        try:
            await page.until(lambda each: {"welcome", "mode", "frame"} <= each.last.keys())
            yield page
        finally:
            pinging.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await pinging


class Carpet:
    """What the simulated expert of `carpet` would do, told from what the page shows."""

    def __init__(self, seed: int = 0) -> None:
        self.task: Task = load_task("carpet")
        self._rng = np.random.default_rng(seed)
        layout: Any = self.task.layout  # type: ignore[attr-defined]
        self._states = {tuple(cell): s for s, cell in enumerate(layout.cells.tolist())}
        self.calm = 0

    async def respond(self, page: Page) -> None:
        """Look at the last frame, and take over, go on, or hand back."""
        frame, mode = page.last["frame"], page.last["mode"]
        if frame["proposal"] is None or mode["paused"]:
            return
        oracle = self.task.oracle
        assert oracle is not None
        state = np.array(self._states[tuple(frame["scene"]["cell"])])
        objects = oracle.violates(state, np.array(frame["proposal"]))
        if not objects and not mode["person"]:
            return
        self.calm = 0 if objects else self.calm + 1
        if mode["person"] and self.calm >= oracle.release:
            self.calm = 0
            await page.send("hand_back")
        else:
            await page.tap(int(oracle.expert_policy.sample(state[None], self._rng)[0]))


async def teach_carpet(page: Page, rounds: int, person: Carpet) -> None:
    """Teach until a round is reported."""
    await page.send("begin")
    await page.send("pause", on=False)
    await page.send("pace", speed=10)
    while max(page.reports, default=0) < rounds:
        message = await page.receive()
        if message["type"] == "frame":
            await person.respond(page)


def make_quick_highway() -> Any:
    """The highway with a learner that learns next to nothing, in no time."""
    return _make_quick("highway")


def make_quick_bottle() -> Any:
    """The bottle with such a learner."""
    return _make_quick("bottle")


def _make_quick(name: str) -> Any:
    from deep.learner import LearnerConfig

    task: Any = load_task(name)
    return replace(task, learner=LearnerConfig(num_envs=2, updates=4, first_rounds=2), oracle=None)


@contextmanager
def serving(out: Path, *options: str, task: str = "carpet") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server of a session in a process of its own, and its link; killed at the end."""
    command = [sys.executable, "-m", "mereq_min.lab.commands.main", "teach", task, "--no-browser"]
    with starting([*command, "--out", str(out), *options], out.parent / f"{out.name}.log") as server:
        yield server


@contextmanager
def starting(command: list[str], log: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A command that prints a link in a process of its own, and the link; killed at the end."""
    found_here = os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), str(Path(__file__).parent)])
    environment = {**os.environ, "BROWSER": "true", "PYTHONPATH": found_here}
    with log.open("a") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        found = re.search(r"http://\S+", line)
        assert found, line + log.read_text()
        yield process, found[0]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@contextmanager
def tunnel(link: str, round_trip: float) -> Iterator[str]:
    """The link of a server through a tunnel that adds a time to each round trip [s]."""
    host, port = "127.0.0.1", urlsplit(link).port

    async def carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """Write what is read, half a round trip later."""
        arriving: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        now = asyncio.get_running_loop().time

        async def deliver() -> None:
            try:
                while True:
                    due, data = await arriving.get()
                    await asyncio.sleep(due - now())
                    if not data:
                        return
                    sink.write(data)
            finally:
                sink.close()

        async def read() -> None:
            data = b"?"
            while data:
                data = await source.read(2**16)
                await arriving.put((now() + round_trip / 2, data))

        await asyncio.gather(read(), deliver())

    async def connect_through(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward_reader, onward = await asyncio.open_connection(host, port)
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(carry(reader, onward), carry(onward_reader, writer))

    async def serve() -> None:
        server = await asyncio.start_server(connect_through, host, 0)
        opened.set_result(server.sockets[0].getsockname()[1])
        await asyncio.to_thread(closing.wait)
        server.close()  # not wait_closed(): the browser may keep its connection

    opened: Future[int] = Future()
    closing = Event()
    thread = Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        yield link.replace(f":{port}/", f":{opened.result(10)}/")
    finally:
        closing.set()
        thread.join()
