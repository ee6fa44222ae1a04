"""Who may connect, and what a connection may do: by attack, over real sockets."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from mereq_min.lab.human import server
from mereq_min.lab.human.protocol import FASTEST, LARGEST_MESSAGE, FromPage, Notice, read
from mereq_min.lab.human.server import Room

PING = '{"type":"ping","t":0}'


class Heard:
    """What a room passes on."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, FromPage]] = []
        self.changes: list[str] = []
        self.faults: list[BaseException] = []


@asynccontextmanager
async def opened() -> AsyncIterator[tuple[Room, str, Heard]]:
    heard = Heard()
    room = Room(
        "127.0.0.1",
        0,
        on_message=lambda tab, message: heard.messages.append((tab, message)),
        on_connect=lambda tab: [Notice(f"welcome {tab}")],
        on_change=heard.changes.append,
        on_fault=heard.faults.append,
    )
    link = await room.open()
    try:
        yield room, link, heard
    finally:
        await room.close()
    assert not heard.faults


def enter(link: str, tab: str = "a", **options: Any) -> connect:
    origin = link.rsplit("/", 2)[0]
    options = {"origin": origin, **options}
    return connect(f"{link.replace('http', 'ws')}ws?tab={tab}", **options)


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(400):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not come to that")


def attack(play: Callable[[Room, str, Heard], Awaitable[None]]) -> None:
    async def run() -> None:
        async with opened() as (room, link, heard):
            await play(room, link, heard)

    asyncio.run(run())


async def ask(link: str, path: str, *lines: str) -> tuple[int, str]:
    """Send a request as it is; returns status and answer."""
    port = urlsplit(link).port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write("\r\n".join([f"GET {path} HTTP/1.1", *lines, "", ""]).encode())
    answer = (await reader.read()).decode()
    writer.close()
    return int(answer.split()[1]), answer


def path_of(link: str) -> str:
    return urlsplit(link).path


def host_of(link: str) -> str:
    return f"Host: {urlsplit(link).netloc}"


def test_the_page_is_served_to_whoever_has_the_link() -> None:
    async def play(room: Room, link: str, heard: Heard) -> None:
        status, answer = await ask(link, path_of(link), host_of(link))
        assert status == 200 and "<title>" in answer
        head = answer.partition("\r\n\r\n")[0]
        assert "default-src 'none'" in head and "no-referrer" in head and "nosniff" in head
        status, _ = await ask(link, path_of(link) + "page.js", host_of(link))
        assert status == 200

    attack(play)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/wrong/",
        "/index.html",
        "{token}/../{token}/",
        "{token}x/",
        "{token}/../../etc/passwd",
        "{token}/..%2fserver.py",
        "{token}/server.py",
        "{token}/__init__.py",
        "{token}/static/page.js",
        "{token}//etc/passwd",
    ],
)
def test_no_other_file_and_nothing_without_the_token(path: str) -> None:
    async def play(room: Room, link: str, heard: Heard) -> None:
        status, answer = await ask(link, path.replace("{token}", f"/{room.token}"), host_of(link))
        assert status in (403, 404) and "root:" not in answer and "import" not in answer

    attack(play)


@pytest.mark.parametrize(
    "lines",
    [
        ("Host: evil.example",),
        ("Host: evil.example:{port}",),
        ("Host: 127.0.0.1.evil.example:{port}",),
        ("Host: localhost.evil.example",),
        ("Host: ",),
        (),
        ("Host: 127.0.0.1:{port}", "Host: evil.example"),
        ("Host: 127.0.0.1:{port}", "Origin: http://evil.example"),
        ("Host: 127.0.0.1:{port}", "Origin: null"),
        ("Host: 127.0.0.1:{port}", "Origin: http://127.0.0.1:1"),
        ("Host: 127.0.0.1:{port}", "Origin: https://127.0.0.1:{port}"),
        ("Host: 127.0.0.1:{port}", "Origin: http://127.0.0.1:{port}", "Origin: http://evil.example"),
    ],
)
def test_another_host_or_origin_gets_nothing_even_with_the_token(lines: tuple[str, ...]) -> None:
    async def play(room: Room, link: str, heard: Heard) -> None:
        port = str(urlsplit(link).port)
        status, answer = await ask(link, path_of(link), *(line.replace("{port}", port) for line in lines))
        assert status in (400, 403, 421) and "<title>" not in answer

    attack(play)


def test_a_tunnel_with_another_port_is_let_in() -> None:
    """`ssh -L 8000:127.0.0.1:<port>` makes the browser say localhost:8000."""

    async def play(room: Room, link: str, heard: Heard) -> None:
        status, _ = await ask(link, path_of(link), "Host: localhost:8000", "Origin: http://localhost:8000")
        assert status == 200

    attack(play)


@pytest.mark.parametrize("options", [{"origin": None}, {"origin": "http://evil.example"}, {"origin": "null"}])
def test_a_socket_must_come_from_the_page(options: dict[str, Any]) -> None:
    async def play(room: Room, link: str, heard: Heard) -> None:
        with pytest.raises(InvalidStatus):
            async with enter(link, **options):
                pass
        assert room.controller is None and not heard.messages

    attack(play)


def test_a_socket_needs_the_token() -> None:
    async def play(room: Room, link: str, heard: Heard) -> None:
        wrong = link.replace(room.token, "A" * len(room.token))
        with pytest.raises(InvalidStatus):
            async with enter(wrong):
                pass

    attack(play)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ("no json", 1008),
        ("[]", 1008),
        ('{"type":"__import__"}', 1008),
        ('{"type":"ping","t":0,"module":"os"}', 1008),
        ('{"type":"act","action":-1}', 1008),
        ('{"type":"act","action":[2.0]}', 1008),
        ('{"type":"act","action":NaN}', 1008),
        ('{"type":"undo","steps":1e9}', 1008),
        ("[" * 3000, 1008),
        (b"\xff\xfe\x00", 1008),
        ('{"type":"ping","t":' + "1" * LARGEST_MESSAGE + "}", 1009),
    ],
)
def test_junk_ends_the_connection_and_reaches_nobody(data: str | bytes, code: int) -> None:
    async def play(room: Room, link: str, heard: Heard) -> None:
        async with enter(link) as page:
            await page.recv()
            await page.send(data)
            with pytest.raises(ConnectionClosed) as closed:
                await page.recv()
        assert closed.value.rcvd is not None and closed.value.rcvd.code == code
        await until(lambda: room.controller is None)
        assert not heard.messages and heard.changes == ["", "the page in control was closed"]

    attack(play)


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_whatever_comes_is_a_message_or_a_value_error(data: str | bytes) -> None:
    try:
        read(data)
    except ValueError:
        return
    raise AssertionError("hypothesis found a message by chance")


def test_a_flood_ends_the_connection() -> None:
    async def play(room: Room, link: str, heard: Heard) -> None:
        async with enter(link) as page:
            with pytest.raises(ConnectionClosed):
                for _ in range(20_000):
                    await page.send(PING)
                while True:
                    await page.recv()
        assert page.close_code == 1008
        assert len(heard.messages) < 10 * FASTEST

    attack(play)


def test_a_lively_page_is_no_flood() -> None:
    async def play(room: Room, link: str, heard: Heard) -> None:
        async with enter(link) as page:
            for _ in range(100):
                await page.send(PING)
                await asyncio.sleep(0.005)
            await until(lambda: len(heard.messages) == 100)

    attack(play)


def test_there_are_only_so_many_tabs() -> None:
    async def play(room: Room, link: str, heard: Heard) -> None:
        pages = [await enter(link, f"t{i}") for i in range(server.MOST_TABS)]
        await until(lambda: room.tabs == server.MOST_TABS)
        with pytest.raises(InvalidStatus):
            await enter(link, "more")
        for page in pages:
            await page.close()

    attack(play)


def test_a_second_tab_watches_until_it_is_given_control() -> None:
    async def play(room: Room, link: str, heard: Heard) -> None:
        async with enter(link, "one"), enter(link, "two") as second:
            await until(lambda: room.tabs == 2)
            assert room.controller == "one"
            await second.send('{"type":"claim"}')
            await until(lambda: len(heard.messages) == 1)
            room.give_control("two")
            assert room.controller == "two"
        await until(lambda: room.controller is None)

    attack(play)


def test_a_reloaded_tab_takes_the_place_of_its_old_socket() -> None:
    """A proxy may keep the old one open for long; what still comes through it gives no orders."""

    async def play(room: Room, link: str, heard: Heard) -> None:
        old: ClientConnection = await enter(link, "same")
        await until(lambda: room.tabs == 1)
        async with enter(link, "same") as new:
            await new.send(PING)
            await until(lambda: len(heard.messages) == 1)
            with pytest.raises(ConnectionClosed):
                while True:
                    await old.recv()
            assert room.tabs == 1 and room.controller == "same"
            assert heard.changes == ["", "the page in control was reloaded", ""]

    attack(play)


def test_a_page_that_is_closed_or_cannot_be_reached_loses_control(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half open: the socket is there and says nothing, not even that it ended."""
    monkeypatch.setattr(server, "SILENCE", 0.6)

    async def play(room: Room, link: str, heard: Heard) -> None:
        page = await enter(link)
        await until(lambda: room.controller == "a")
        await page.close()
        await until(lambda: room.controller is None)
        page = await enter(link)
        await until(lambda: room.controller == "a")
        page.transport.pause_reading()  # it answers no ping and closes nothing
        await until(lambda: room.controller is None)
        assert heard.changes == [
            "", "the page in control was closed", "", "the page in control cannot be reached",
        ]  # fmt: skip
        page.transport.abort()

    attack(play)


def test_whoever_reads_nothing_holds_nobody_up() -> None:
    async def play(room: Room, link: str, heard: Heard) -> None:
        deaf = socket.create_connection(("127.0.0.1", urlsplit(link).port or 0))
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lines = (
            f"GET {path_of(link)}ws?tab=deaf HTTP/1.1", host_of(link), "Upgrade: websocket",
            "Connection: Upgrade", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Version: 13", f"Origin: {link.rsplit('/', 2)[0]}",
        )  # fmt: skip
        deaf.sendall("\r\n".join([*lines, "", ""]).encode())
        await until(lambda: room.tabs == 1)
        async with enter(link, "b") as page:
            await page.recv()
            for i in range(200):
                room.send(Notice("x" * 10_000 + str(i)))
            for i in range(200):
                assert json.loads(await asyncio.wait_for(page.recv(), 5))["text"].endswith(f"x{i}")
        deaf.close()

    attack(play)
