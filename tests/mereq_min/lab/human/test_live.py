"""Whole sessions over real sockets: somebody teaches, the server dies, the disk fills, tabs come and go."""

from __future__ import annotations

import asyncio
import random
import resource
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from person import Carpet, Page, serving, starting, teach_carpet, visit
from PIL import Image

from mereq_min.lab.commands.main import main
from mereq_min.lab.human.folder import same_steps
from mereq_min.lab.human.journal import Adopt, UndoUpdate, read_journal
from mereq_min.lab.human.replay import derive
from mereq_min.lab.plugins import HUMAN, load_task
from mereq_min.lab.runs.config import RunConfig
from mereq_min.lab.runs.records import read_config, read_rows, read_steps
from mereq_min.lab.runs.run import run
from mereq_min.loop import LoopConfig

STEPS = "25"
"""Short rounds, which end after one episode."""


def run_of(out: Path) -> Path:
    return out / "carpet/MEReQ-R/seed0"


def assert_derived_from_its_journal(path: Path) -> None:
    """Steps, weights and standard errors of a run are those that its journal leads to, bit for bit."""
    config = msgspec.convert(read_config(path)["config"], RunConfig)
    task, entries = load_task(config.task), read_journal(path / "live/journal.jsonl")
    session, updates = derive(task, config, entries)
    rows = read_rows(path)
    assert rows and len(rows) <= len(updates)
    for number, (row, update) in enumerate(zip(rows, updates, strict=False), 1):
        steps = session.rounds[number - 1].steps
        assert steps is not None and same_steps(read_steps(path, number), steps)
        assert row == update.row


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """One server, for all tests that leave it as they found it."""
    out = tmp_path_factory.mktemp("live") / "out"
    with serving(out, "--steps", "100") as (_, link):
        yield out, link


def play(link: str, what: Callable[[Page], Awaitable[None]], tab: str = "a") -> None:
    async def run() -> None:
        async with visit(link, tab) as page:
            await what(page)

    asyncio.run(run())


def test_a_person_teaches_the_policy_to_keep_off_the_carpet(server: tuple[Path, str]) -> None:
    out, link = server

    async def teach(page: Page) -> None:
        await teach_carpet(page, 3, Carpet())
        await page.send("pause", on=True)
        await page.until(lambda each: each.last["mode"]["paused"])

    play(link, teach)
    rows = read_rows(run_of(out))
    rates = [row["intervention_rate"] for row in rows]
    assert rates[0] >= 0.3 and min(rates[1:]) <= 0.1
    theta = rows[-1]["theta"]
    assert theta is not None and theta[load_task("carpet").feature_names.index("carpet")] < -0.5
    assert read_config(run_of(out))["config"]["expert"] == HUMAN
    assert run_of(out).stat().st_mode & 0o777 == 0o700
    assert_derived_from_its_journal(run_of(out))


def test_whoever_takes_a_whole_round_back_keeps_the_update(server: tuple[Path, str]) -> None:
    """Its policy began to drive in the middle of the round, so that this is taken back, and done again."""
    out, link = server
    rows = read_rows(run_of(out))

    async def undo(page: Page) -> None:
        await page.send("pause", on=True)
        await page.send("undo", steps=10_000)
        await page.until(lambda each: each.last["frame"]["rewound"])
        await page.until(lambda _: isinstance(read_journal(run_of(out) / "live/journal.jsonl")[-1], Adopt))
        await page.until(lambda each: each.last["mode"]["version"] == len(rows))

    play(link, undo)
    assert read_rows(run_of(out)) == rows


def test_undo_while_driving(server: tuple[Path, str]) -> None:
    _, link = server

    async def undo(page: Page) -> None:
        await page.send("pause", on=True)
        before = page.last["frame"]["n"]
        await page.tap(1)
        for k in range(1, 6):
            await page.send("go")
            await page.until(lambda each, n=before + k: each.last["frame"]["n"] == n)  # type: ignore[misc]
        assert page.last["frame"]["by"] == "person"
        await page.send("undo", steps=5)
        await page.until(lambda each: each.last["frame"]["rewound"])
        assert page.last["frame"]["n"] == before

    play(link, undo)


def test_where_there_is_nothing_to_take_back_nothing_is_written(server: tuple[Path, str]) -> None:
    out, link = server

    async def undo(page: Page) -> None:
        await page.send("undo", steps=10_000)
        await page.until(lambda each: not each.last["mode"]["can_undo"])
        before = read_journal(run_of(out) / "live/journal.jsonl")
        await page.send("undo")
        await page.until(lambda each: "there is no step of this round to take back" in each.notices)
        assert read_journal(run_of(out) / "live/journal.jsonl") == before
        assert page.last["frame"]["round_steps"] == 0

    play(link, undo)


def test_step_by_step_through_the_end_of_an_episode(server: tuple[Path, str]) -> None:
    _, link = server

    async def step(page: Page) -> None:
        await page.send("pause", on=True)
        n, episode = page.last["frame"]["n"], page.last["frame"]["episode"]
        while page.last["frame"]["episode"] == episode:
            before = page.last.pop("frame")
            await page.send("go")
            await page.until(lambda each: "frame" in each.last)
            assert page.last["frame"]["n"] == before["n"] + (not before["ended"])
        assert page.last["frame"]["t"] == 0 and page.last["frame"]["by"] is None
        await page.send("undo", steps=100)
        await page.until(lambda each: each.last["frame"]["rewound"])
        assert page.last["frame"]["n"] <= n

    play(link, step)


def test_a_second_tab_watches_and_may_claim(server: tuple[Path, str]) -> None:
    _, link = server

    async def run() -> None:
        async with visit(link, "one") as one, visit(link, "two") as two:
            await two.send("act", action=1)
            await two.until(lambda each: bool(each.notices))
            assert "another tab is in control" in two.notices[0]
            assert two.last["mode"]["controller"] == "one" and not two.last["mode"]["person"]
            await two.send("claim")
            await one.until(lambda each: each.last["mode"]["controller"] == "two")
            assert one.last["mode"]["paused"]  # it goes on when the new one says so

    asyncio.run(run())


def test_a_closed_tab_pauses_with_nobody_in_control(server: tuple[Path, str]) -> None:
    _, link = server

    async def run() -> None:
        async with visit(link, "watching") as watching:
            async with visit(link, "driving") as driving:
                await driving.send("claim")
                await driving.send("begin")
                await driving.send("pause", on=False)
                await driving.send("act", action=1)
                await driving.until(lambda each: each.last["mode"]["person"])
            await watching.until(lambda each: each.last["mode"]["controller"] is None)
            mode = watching.last["mode"]
            assert mode["paused"] and not mode["person"] and "closed" in mode["why"]

    asyncio.run(run())


END = "this is where the session was left"


def test_a_session_is_shown_again(server: tuple[Path, str], tmp_path: Path) -> None:
    """The page of a replay is sent the states that were seen live, and goes forwards and back."""
    out, _ = server
    path = run_of(out)
    command = [sys.executable, "-m", "mereq_min.lab.commands.main", "replay", str(path)]
    with starting([*command, "--no-browser", "--speed", "10"], tmp_path / "log") as (_, link):

        async def watch(page: Page) -> None:
            assert page.last["welcome"]["replay"]
            cells = [page.last["frame"]["scene"]["cell"]]
            while len(cells) < 20:
                message = await page.receive()
                if message["type"] == "frame" and message["by"] is not None:
                    cells.append(message["scene"]["cell"])
            wanted = read_steps(path, 1)
            layout: Any = load_task("carpet").layout  # type: ignore[attr-defined]
            assert cells == layout.cells[wanted.state[:20]].tolist()
            await page.send("act", action=1)  # nobody can take over
            await page.send("learn")
            await page.send("undo", steps=10**4)
            await page.until(lambda each: each.last["frame"]["rewound"])
            assert page.last["frame"]["n"] == 0
            assert "only shown" in page.notices[0]
            await page.send("pause", on=False)
            await page.until(lambda each: each.notices[-1] == END and each.last["mode"]["paused"])
            await page.send("go")
            await page.until(lambda each: each.notices[-2:] == [END, END])
            await page.send("stop")
            await page.until(lambda each: each.last["mode"]["phase"] == "finished")

        play(link, watch)


def test_the_commands_that_read_a_session(server: tuple[Path, str], tmp_path: Path) -> None:
    out, _ = server
    path = run_of(out)
    assert main(["replay", str(path), "--check"]) == 0
    assert main(["replay", str(path), "--film", str(tmp_path / "film.gif")]) == 0
    with Image.open(tmp_path / "film.gif") as film:
        assert getattr(film, "n_frames", 1) > 100
    assert main(["show", str(path)]) == 0
    assert main(["evaluate", str(path / "policy.safetensors"), "carpet"]) == 0


def test_two_servers_on_one_session_are_refused(server: tuple[Path, str]) -> None:
    out, _ = server
    command = [sys.executable, "-m", "mereq_min.lab.commands.main", "teach", "carpet", "--no-browser"]
    second = subprocess.run(
        [*command, "--out", str(out), "--steps", "100"], capture_output=True, text=True, check=False
    )
    assert second.returncode == 1
    assert "is being written by process" in second.stderr and "Traceback" not in second.stderr


def test_taking_an_update_back(server: tuple[Path, str]) -> None:
    out, link = server
    before = len(read_rows(run_of(out)))

    async def undo(page: Page) -> None:
        await page.send("undo_update")
        await page.until(lambda each: each.last["mode"]["version"] == before - 1)
        assert page.last["frame"]["rewound"]
        await page.send("learn")
        await page.until(lambda each: each.last.get("report", {}).get("round") == before)
        await page.until(lambda each: each.last["mode"]["version"] == before)

    first = read_rows(run_of(out))
    play(link, undo)
    assert any(isinstance(each, UndoUpdate) for each in read_journal(run_of(out) / "live/journal.jsonl"))
    assert read_rows(run_of(out))[:-1] == first[:-1]
    assert_derived_from_its_journal(run_of(out))


@pytest.mark.slow
def test_align_with_a_person_is_the_same_session(tmp_path: Path) -> None:
    """It ends by itself after the rounds that were asked for."""
    command = [sys.executable, "-m", "mereq_min.lab.commands.main", "align", "carpet", "--expert", "human"]
    options = ["--iterations", "1", "--steps-per-iteration", "25", "--method", "MEReQ"]
    with starting([*command, *options, "--out", str(tmp_path / "out")], tmp_path / "log") as (process, link):

        async def teach(page: Page) -> None:
            await teach_carpet(page, 1, Carpet())
            await page.until(lambda each: each.last["mode"]["phase"] == "finished")

        play(link, teach)
        assert process.wait(60) == 0
    assert_derived_from_its_journal(tmp_path / "out/carpet/MEReQ/seed0")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("teach", "carpet", "--host", "0.0.0.0"), "the one address"),
        (("teach", "carpet", "--method", "MERQ"), "did you mean 'MEReQ'"),
        (("teach", "carpet", "--reaction", "-1"), "reaction must be"),
        (("teach", "karpet"), "did you mean 'carpet'"),
        (("replay", "nowhere"), "is not a run"),
        (("align", "carpet", "--expert", "me"), "simulated, human or module:attribute"),
    ],
)
def test_what_cannot_be_is_told_in_a_sentence(
    arguments: tuple[str, ...], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) in (1, 2)
    told = capsys.readouterr().err
    assert why in told and "Traceback" not in told


def test_a_run_without_a_session_cannot_be_replayed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = RunConfig("carpet", "MEReQ-L", 0, LoopConfig(1, 25))
    path = run(load_task("carpet"), config, tmp_path)
    assert main(["replay", str(path)]) == 1
    assert "holds no session of a person" in capsys.readouterr().err


def kill_again_and_again(tmp_path: Path, times: int, seed: int) -> None:
    """Kill the server at random moments of a session, then end it, and derive everything again."""
    rng, out, person = random.Random(seed), tmp_path / "out", Carpet()
    shown = 0

    async def drive(link: str, seconds: float, kill: Callable[[], None]) -> int:
        async with visit(link) as page:
            start = page.last["frame"]["n"]
            assert start >= shown - 1  # what the page saw, but for the decision in flight
            if start:
                assert page.last["mode"]["phase"] == "driving" and page.last["mode"]["paused"]
            asyncio.get_running_loop().call_later(seconds, kill)
            try:
                await teach_carpet(page, 10**9, person)
            except Exception:  # the connection was cut
                return int(page.last["frame"]["n"])
        raise AssertionError("the server lives")

    for _ in range(times):
        with serving(out, "--steps", STEPS) as (process, link):
            shown = asyncio.run(drive(link, rng.uniform(0.05, 4.0), process.kill))
    with serving(out, "--steps", STEPS) as (process, link):

        async def finish(page: Page) -> None:
            done = max(page.reports, default=0)
            await teach_carpet(page, done + 2, person)
            await page.send("stop")
            await page.until(lambda each: each.last["mode"]["phase"] == "finished")

        play(link, finish)
        assert process.wait(60) == 0
    assert_derived_from_its_journal(run_of(out))
    assert read_config(run_of(out))["config"]["loop"]["iterations"] == len(read_rows(run_of(out)))


def test_a_server_that_is_killed_goes_on_at_the_same_step(tmp_path: Path) -> None:
    kill_again_and_again(tmp_path, 2, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_twenty_kills(tmp_path: Path, seed: int) -> None:
    kill_again_and_again(tmp_path, 5, seed=seed)


def limit_files(process: subprocess.Popen[str], size: int) -> None:
    """Let no file of a process grow beyond a size [bytes], as a full disk does."""
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def test_a_full_disk_pauses_says_so_and_loses_nothing(tmp_path: Path) -> None:
    """First there is no room for an update, and then none for the journal."""
    out = tmp_path / "out"
    with serving(out, "--steps", "1000") as (process, link):

        async def fill_before_the_update(page: Page) -> None:
            await page.send("begin")
            await page.send("pause", on=True)
            for _ in range(8):
                await page.tap(1)
                await page.send("go")
            await page.until(lambda each: each.last["frame"]["round_person"] >= 8)
            limit_files(process, 7_000)  # more than the journal has, less than the policy needs
            await page.send("learn")
            await page.until(lambda each: "nothing is lost" in each.last["mode"]["why"])
            assert page.last["mode"]["learning"] and not page.reports
            limit_files(process, resource.RLIM_INFINITY)
            await page.send("pause", on=False)
            await page.until(lambda each: each.last["mode"]["version"] == 1 and bool(each.reports))

        async def fill(page: Page) -> None:
            await page.send("pause", on=False)
            await page.send("pace", speed=10)
            n = page.last["frame"]["n"]
            await page.until(lambda each: each.last["frame"]["n"] >= n + 5)
            limit_files(process, 512)
            await page.until(lambda each: each.last["mode"]["paused"])
            assert "nothing is lost" in page.last["mode"]["why"]
            n = page.last["frame"]["n"]
            limit_files(process, resource.RLIM_INFINITY)
            await page.send("pause", on=False)
            await page.until(lambda each: each.last["frame"]["n"] >= n + 5)
            await page.send("pause", on=True)
            await page.until(lambda each: each.last["mode"]["paused"])

        play(link, fill_before_the_update)
        play(link, fill)
    assert_derived_from_its_journal(run_of(out))


@pytest.mark.slow
@pytest.mark.parametrize(("task", "action"), [("highway", 2), ("bottle", [0.5, 0.0, -1.0])])
def test_networks_learn_live_and_come_out_the_same_when_derived_again(
    tmp_path: Path, task: str, action: Any
) -> None:
    out, made_by = tmp_path / "out", f"person:make_quick_{task}"
    with serving(out, "--max-iterations", "3", "--steps", "1000", task=made_by) as (_, link):

        async def teach(page: Page) -> None:
            await page.send("begin")
            await page.send("pace", speed=10)
            for number in (1, 2):
                await page.send("act", action=action)
                await page.until(lambda each: each.last["frame"]["round_person"] >= 10)
                await page.send("act", action=action if task == "highway" else [0.0] * 3, down=False)
                await page.send("hand_back")
                await page.until(lambda each: not each.last["mode"]["person"])
                await page.send("learn")
                await page.until(lambda each, n=number: n in each.reports)  # type: ignore[misc]
            await page.send("stop")
            await page.until(lambda each: each.last["mode"]["phase"] == "finished")
            assert page.last["frame"]["version"] == 2

        play(link, teach)
    assert_derived_from_its_journal(out / f"person-make_quick_{task}" / "MEReQ-L/seed0")
