"""The server of a session: who may connect, and what becomes of their messages.

It listens on the loopback by default. The link holds a token, which every request must repeat; Host and
Origin must be those of this server, so that no other page, and no name that was made to point here, can use
it. Large and frequent messages end a connection. Nothing that comes over the network names a module, a file
or a path: the files of the page are known by name.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from http import HTTPStatus
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
from websockets.asyncio.server import Server, ServerConnection, broadcast, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from mereq_min.lab.human.protocol import FASTEST, LARGEST_MESSAGE, SILENCE, read, write

MOST_TABS = 16
"""Connections at a time."""
BURST = 3.0
"""Seconds' worth of messages that may come at once [s]."""
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
"""Names by which a browser on this machine, or behind `ssh -L`, finds the server."""
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""Kinds of files of the page by suffix."""
SOURCES = (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self' data:",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'self' http://localhost:* http://127.0.0.1:*",  # a notebook may frame it
)
HEADERS = {
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Headers of every answer: the page loads nothing from elsewhere."""
FRAMES = ("frame-src http://127.0.0.1:*",)
"""Further source of a page that frames the page of a session."""


@dataclass(frozen=True)
class Site:
    """A page and how its messages are read.

    Attributes:
        index: name of the page's file.
        packages: those whose folders `static` hold its files.
        read: reads a message; raises ValueError if it is not valid.
        sources: further rules of its content security policy.
    """

    index: str
    packages: tuple[str, ...]
    read: Callable[[str | bytes], Any]
    sources: tuple[str, ...] = ()


SESSION = Site("index.html", ("mereq_min.lab.human",), read)
"""The page of a live session."""


@dataclass(eq=False)
class Tab:
    """A page that is connected."""

    connection: ServerConnection
    name: str
    heard: float = field(default_factory=time.monotonic)
    """When its last message came [s]."""
    allowance: float = FASTEST * BURST
    """Messages that it may send at once."""

    def count(self, now: float) -> bool:
        """Note a message; returns whether it came too soon."""
        self.allowance = min(FASTEST * BURST, self.allowance + (now - self.heard) * FASTEST) - 1
        self.heard = now
        return self.allowance < 0


class Room:
    """The tabs that are connected, one of which may be in control.

    Args:
        host: address to listen on.
        port: port; 0 takes a free one.
        on_message: called with a tab's name and its message.
        on_connect: returns the messages that a new tab begins with.
        on_change: called when control changes, with a sentence if it was lost: by a reload too, for the keys
            that were held then will never be let go.
        on_fault: called with what these functions raise: a mistake of ours, which ends the connection.
        site: the page.

    Attributes:
        controller: name of the tab in control, None if nobody is.
        token: what the link holds.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        on_message: Callable[[str, Any], None],
        on_connect: Callable[[str], list[msgspec.Struct]],
        on_change: Callable[[str], None],
        on_fault: Callable[[BaseException], None],
        site: Site = SESSION,
    ) -> None:
        self._site = site
        self._host, self._port, self._on_fault = host, port, on_fault
        self._on_message, self._on_connect, self._on_change = on_message, on_connect, on_change
        self._tabs: dict[ServerConnection, Tab] = {}
        self.controller: str | None = None
        self.token = secrets.token_urlsafe(24)
        self._server: Server | None = None
        self._watch: asyncio.Task[None] | None = None

    async def open(self) -> str:
        """Begin to listen; returns the link."""
        self._server = await serve(
            self._talk,
            self._host,
            self._port,
            process_request=self._receive,
            max_size=LARGEST_MESSAGE,
            max_queue=32,
            compression=None,
            ping_interval=20,
            ping_timeout=20,
            server_header=None,
            logger=_quiet(),
        )
        self._watch = asyncio.create_task(self._watch_silence())
        port = self._server.sockets[0].getsockname()[1]
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{port}/{self.token}/"

    async def close(self) -> None:
        """Say goodbye to every tab, and stop listening."""
        if self._watch is not None:
            self._watch.cancel()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    @property
    def tabs(self) -> int:
        """Tabs that are connected."""
        return len(self._tabs)

    def send(self, message: msgspec.Struct) -> None:
        """Send a message to every tab."""
        broadcast(self._tabs, write(message))

    def tell(self, name: str, message: msgspec.Struct) -> None:
        """Send a message to one tab."""
        broadcast([each.connection for each in self._tabs.values() if each.name == name], write(message))

    def give_control(self, name: str | None, why: str = "") -> None:
        """Give control to a tab, or to nobody."""
        if self.controller != name:
            self.controller = name
            self._on_change(why)

    # --- Connections ----------------------------------------------------------------------------------------

    async def _talk(self, connection: ServerConnection) -> None:
        """Take the messages of one connection until it ends."""
        assert connection.request is not None  # it was just processed
        name = parse_qs(urlsplit(connection.request.path).query).get("tab", ["?"])[0][:40]
        for other in [each for each in self._tabs.values() if each.name == name]:
            self._leave(other.connection, "the page in control was reloaded")
            other.connection.transport.abort()  # what is left of the old one gives no orders
        tab = self._tabs[connection] = Tab(connection, name)
        try:
            if self.controller is None:
                self.give_control(name)
            for message in self._on_connect(name):
                await connection.send(write(message))
            async for data in connection:
                if connection not in self._tabs:
                    return
                if tab.count(time.monotonic()):
                    await connection.close(1008, "too many messages")
                    return
                try:
                    message = self._site.read(data)
                except ValueError:
                    await connection.close(1008, "not a message of this protocol")
                    return
                self._on_message(name, message)
        except ConnectionClosed:
            pass
        except Exception as error:
            self._on_fault(error)
            raise
        finally:
            self._leave(connection, "the page in control was closed")

    def _leave(self, connection: ServerConnection, why: str) -> None:
        tab = self._tabs.pop(connection, None)
        if tab is not None and tab.name == self.controller:
            self.give_control(None, why)

    async def _watch_silence(self) -> None:
        """Drop tabs that have gone silent: a socket may stay half open for minutes."""
        while True:
            await asyncio.sleep(0.25)
            now = time.monotonic()
            for tab in [each for each in self._tabs.values() if now - each.heard > SILENCE]:
                self._leave(tab.connection, "the page in control cannot be reached")
                tab.connection.transport.abort()

    # --- Requests -------------------------------------------------------------------------------------------

    def _receive(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer a request, or return None to let a WebSocket begin."""
        headers = request.headers
        if len(headers.get_all("Host")) != 1 or not self._is_ours(headers["Host"]):
            return _refuse(HTTPStatus.MISDIRECTED_REQUEST, "this server answers to its own address only")
        origins = headers.get_all("Origin")
        own = f"http://{headers['Host']}"
        if any(origin != own for origin in origins):
            return _refuse(HTTPStatus.FORBIDDEN, "another page may not use this server")
        token, _, name = urlsplit(request.path).path.removeprefix("/").partition("/")
        if not hmac.compare_digest(token.encode(), self.token.encode()):
            return _refuse(HTTPStatus.FORBIDDEN, "open the complete link that mereq printed")
        if name != "ws":
            return self._serve_file(name or self._site.index)
        if not origins:
            return _refuse(HTTPStatus.FORBIDDEN, "a WebSocket must name its origin")
        if len(self._tabs) >= MOST_TABS:
            return _refuse(HTTPStatus.SERVICE_UNAVAILABLE, "too many tabs are open; close some")
        return None

    def _serve_file(self, name: str) -> Response:
        suffix, found = "." + name.rpartition(".")[2], _load_files(self._site.packages)
        if name not in found or suffix not in TYPES:
            return _refuse(HTTPStatus.NOT_FOUND, "there is no such file")
        return _answer(HTTPStatus.OK, found[name], TYPES[suffix], self._site.sources)

    def _is_ours(self, host: str) -> bool:
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        return name.lower() in (*LOOPBACK, self._host.lower(), f"[{self._host.lower()}]")


@cache
def _load_files(packages: tuple[str, ...]) -> dict[str, bytes]:
    """The files of a page by name."""
    folders = [files(package) / "static" for package in packages]
    return {file.name: file.read_bytes() for folder in folders for file in folder.iterdir() if file.is_file()}


def _refuse(status: HTTPStatus, text: str) -> Response:
    return _answer(status, f"{text}\n".encode(), "text/plain; charset=utf-8")


def _answer(status: HTTPStatus, body: bytes, kind: str, sources: Sequence[str] = ()) -> Response:
    own: dict[str, Any] = {
        "Content-Type": kind,
        "Content-Length": str(len(body)),
        "Connection": "close",
        "Content-Security-Policy": "; ".join((*SOURCES, *sources)),
        **HEADERS,
    }
    return Response(status.value, status.phrase, Headers(own), body)


def _quiet() -> Any:
    """A logger that says nothing of connections which end or never become one: that is no fault of ours."""
    import logging

    logger = logging.getLogger("mereq_min.lab.human.server")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    return logger
