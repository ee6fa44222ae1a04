"""Plans, orders, answers and the table of a study; what is told to its page; a whole study in a browser."""

from __future__ import annotations

import asyncio
import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from browsing import browsing, list_requests, press, set_screen, take_screenshot
from hypothesis import given
from hypothesis import strategies as st
from person import Message, starting
from selenium.common.exceptions import (
    NoSuchElementException,
    NoSuchWindowException,
    StaleElementReferenceException,
)
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait
from websockets.asyncio.client import ClientConnection, connect

from mereq_min.lab.commands.main import main
from mereq_min.lab.human.journal import Begin, Entry, Take, Undo
from mereq_min.lab.human.protocol import Report
from mereq_min.lab.human.report import hide_method
from mereq_min.lab.plugins import UsageError
from mereq_min.lab.runs.files import RunError
from mereq_min.lab.study.host import read
from mereq_min.lab.study.participants import (
    SCALES,
    Participant,
    Study,
    answer_now,
    name_policies,
    raw_tlx,
)
from mereq_min.lab.study.plan import Plan, Stage, balance, list_stages, read_plan
from mereq_min.lab.study.table import COLUMNS, measure_effort, write_table
from mereq_min.methods import METHODS

ROOT = Path(__file__).parents[4]
AXE = ROOT / "build/axe-core/axe.min.js"
SCREENSHOTS = ROOT / "build/screenshots"
PLAN = """
name = "tiny"
tasks = ["carpet"]
methods = ["MEReQ-R", "HG-DAgger-1"]
rounds = 1
steps = 10
practice = "lanes"
"""


def make_plan(**changes: Any) -> Plan:
    return Plan(**{"name": "tiny", "tasks": ["carpet"], "methods": ["MEReQ-R", "MEReQ"], **changes})


# --- Orders -------------------------------------------------------------------------------------------------


@given(st.integers(1, 12))
def test_each_condition_is_as_often_at_each_position(n: int) -> None:
    orders = balance(n)
    assert all(sorted(order) == list(range(n)) for order in orders)
    for position in zip(*orders, strict=True):
        assert set(Counter(position).values()) == {len(orders) // n}
        assert len(Counter(position)) == n


@given(st.integers(2, 12))
def test_each_condition_comes_as_often_right_after_each_other_one(n: int) -> None:
    """Once each for an even number of conditions, whose square has n rows; twice each for an odd one."""
    orders = balance(n)
    follows = Counter(pair for order in orders for pair in pairwise(order))
    assert follows == {(a, b): 1 + n % 2 for a in range(n) for b in range(n) if a != b}
    assert len(orders) == n * (1 + n % 2)


def test_everybody_teaches_every_task_by_every_method_once() -> None:
    plan = make_plan(tasks=["carpet", "lanes"], practice="windy")
    for number in range(9):
        stages = list_stages(plan, number)
        sessions = [each for each in stages if each.kind == "session"]
        assert sorted((each.task, *each.methods) for each in sessions) == sorted(plan.conditions)
        assert [each.position for each in sessions] == [1, 2, 3, 4]
        assert [each.kind for each in stages] == [
            "consent", "practice", *["session", "tlx"] * 4, "compare", "compare", "end"
        ]  # fmt: skip
    assert list_stages(plan, 0) == list_stages(plan, 4) != list_stages(plan, 1)


# --- Plans --------------------------------------------------------------------------------------------------


def test_a_plan_is_read(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(PLAN)
    found = Plan("tiny", ["carpet"], ["MEReQ-R", "HG-DAgger-1"], 1, 10, "lanes")
    assert read_plan(tmp_path / "plan.toml") == found


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("tasks = [", "is not a study plan"),
        ('tasks = "carpet"', "Expected `array`, got `str` - at `$.tasks`"),
        ("method = 1", "unknown field `method`"),
        ("tasks = []", "tasks must name at least one"),
        ('methods = ["MEReQ", "MEReQ"]', "none twice"),
        ('methods = ["MERQ"]', "unknown method 'MERQ'; did you mean 'MEReQ'?"),
        ('tasks = ["rug"]', "unknown task 'rug'"),
        ('practice = "rug"', "unknown task 'rug'"),
        ('tasks = ["bottle"]', "HG-DAgger-1 works on tables only, and bottle is none"),
        ("rounds = 0", "rounds must be from 1 to 100, got 0"),
        ("steps = 1000000", "steps must be from 1 to 100000"),
        ('name = "../away"', "name must be letters, digits, - and _"),
        ('name = ""', "name must be letters"),
    ],
)
def test_a_plan_that_cannot_be_is_told_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, why: str
) -> None:
    plan = PLAN
    kept = [each for each in plan.splitlines() if each.split(" ")[0] != line.split(" ")[0]]
    (tmp_path / "plan.toml").write_text("\n".join([*kept, line]))
    assert main(["study", str(tmp_path / "plan.toml"), "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert why in told and "Traceback" not in told
    assert not (tmp_path / "out").exists()


def test_a_plan_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        read_plan(tmp_path / "plan.toml")


# --- Participants -------------------------------------------------------------------------------------------


def finish(study: Study, participant: Participant) -> None:
    for _ in range(len(study.stages(participant)) - len(participant.answers)):
        study.keep(participant, answer_now())


def test_whoever_is_not_done_goes_on_and_orders_stay_balanced(tmp_path: Path) -> None:
    study = Study(tmp_path / "tiny", make_plan())
    first = study.admit()
    study.keep(first, answer_now())
    again = Study(tmp_path / "tiny", make_plan()).admit()
    assert again == first
    second = study.admit(new=True)
    assert (first.number, second.number) == (0, 1)
    finish(study, second)
    assert study.admit() == first
    finish(study, first)
    study.erase(first.pseudonym)
    third = study.admit()
    assert third.number == 0 and third.pseudonym not in (first.pseudonym, second.pseudonym)


def test_a_study_keeps_its_plan(tmp_path: Path) -> None:
    Study(tmp_path / "tiny", make_plan(rounds=2))
    study = Study(tmp_path / "tiny", make_plan())  # nobody took part yet
    study.admit()
    with pytest.raises(UsageError, match="has changed since people took part; give it another name"):
        Study(tmp_path / "tiny", make_plan(rounds=2))


def test_damaged_answers_are_told(tmp_path: Path) -> None:
    study = Study(tmp_path / "tiny", make_plan())
    file = study.folder(study.admit()) / "answers.json"
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(RunError, match=r"answers.json is damaged .* mend it"):
        study.participants()


def test_only_its_owner_may_read_a_study(tmp_path: Path) -> None:
    study = Study(tmp_path / "tiny", make_plan())
    for path in (study.path, study.folder(study.admit())):
        assert path.stat().st_mode & 0o777 == 0o700


@pytest.fixture
def told(tmp_path: Path) -> tuple[Study, Participant]:
    """A study with a participant whose answers are there, and whose sessions are not."""
    study = Study(tmp_path / "tiny", make_plan(methods=["MEReQ-R", "MEReQ", "MEReQ-L"]))
    return study, study.admit()


def test_everything_of_a_pseudonym_is_deleted(told: tuple[Study, Participant]) -> None:
    study, participant = told
    study.keep(participant, answer_now())
    other = study.admit(new=True)
    write_table(study)
    study.erase(participant.pseudonym)
    write_table(study)
    everything = [*study.path.rglob("*"), *study.path.parent.rglob("*")]
    assert not any(participant.pseudonym in str(each) for each in everything)
    assert not any(participant.pseudonym.encode() in e.read_bytes() for e in everything if e.is_file())
    assert study.folder(other).is_dir()
    with pytest.raises(UsageError, match="there is no participant"):
        study.erase(participant.pseudonym)
    with pytest.raises(UsageError, match="there is no participant"):
        study.erase("..")


def test_a_and_b_are_called_so_by_chance() -> None:
    stage = Stage("compare", 0, "carpet", ("MEReQ", "MEReQ-R"))
    named = Counter(name_policies(Participant("x", 0, secret), 5, stage)[0] for secret in range(64))
    assert named == {"MEReQ": 32, "MEReQ-R": 32}


# --- What is measured ---------------------------------------------------------------------------------------


def test_the_raw_tlx_is_the_mean_of_six_scales() -> None:
    assert raw_tlx([0, 20, 40, 60, 80, 100]) == 50
    assert len(SCALES) == 6


def test_effort_counts_what_was_taken_back_too() -> None:
    def take(action: int | None, **what: Any) -> Take:
        return Take(0.0, action, **what)

    entries: list[Entry] = [
        Begin("carpet", "MEReQ", 0, 10, 0.0),
        take(None),
        take(1, keys=2, reaction=0.4, seconds=1.5),
        take(1, keys=1, seconds=0.25),
        Undo(0.0, 1),
        take(None),
        take(2, keys=1, reaction=0.6, seconds=0.5),
    ]
    assert measure_effort(entries) == {
        "steps": 5, "takeovers": 2, "keystrokes": 4, "seconds in control": 2.25, "reaction time": 0.5
    }  # fmt: skip
    assert "reaction time" not in measure_effort(entries[:2])


def read_table(study: Path) -> list[dict[str, str]]:
    with (study / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# --- What the page is told ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data", ["", "[]", '{"type":"go"}', '{"type":"reply"}', '{"type":"reply","stage":0,"scores":[101]}',
             '{"type":"reply","stage":0,"scores":[1,2,3,4,5,6,7]}', '{"type":"erase","who":"x"}', "x" * 5000],
)  # fmt: skip
def test_what_is_no_message_of_the_page_is_refused(data: str) -> None:
    with pytest.raises(ValueError, match="message"):
        read(data)


def test_a_report_of_any_method_looks_the_same() -> None:
    """All that is left depends on the person and the task, not on what is inferred."""
    names = {each.name for each in msgspec.structs.fields(Report)}
    fields: dict[str, Any] = dict.fromkeys(names, 1)
    hidden = hide_method(
        Report(**{**fields, "weights": [], "heat": [], "unsure": "carpet is the least certain"})
    )
    assert (hidden.weights, hidden.heat, hidden.telling, hidden.unsure) == (None, None, None, "")
    assert hidden.update_seconds == 0


@contextmanager
def hosting(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    (folder / "plan.toml").write_text(PLAN)
    command = [sys.executable, "-m", "mereq_min.lab.commands.main", "study", str(folder / "plan.toml")]
    with starting(
        [*command, "--out", str(folder / "out"), "--no-browser", *options], folder / "log"
    ) as found:
        yield found


class Visitor:
    """A page without a screen."""

    def __init__(self, socket: Any) -> None:
        self.socket, self.all_data = socket, ""
        self.show: Message = {}

    async def until(self, kind: str, *, ready: bool = False) -> Message:
        async with asyncio.timeout(60):
            while self.show.get("kind") != kind or (ready and not self.show["link"]):
                data = await self.socket.recv()
                self.all_data += data
                message = json.loads(data)
                if message["type"] == "show":
                    self.show = message
        return self.show

    async def reply(self, **what: Any) -> None:
        await self.socket.send(json.dumps({"type": "reply", "stage": self.show["stage"], **what}))


@asynccontextmanager
async def visiting(link: str) -> AsyncIterator[ClientConnection]:
    """A socket that pings every second."""
    url, origin = f"{link.replace('http', 'ws')}ws?tab=a", link.rsplit("/", 2)[0]
    async with connect(url, origin=origin, max_size=2**26) as socket:

        async def ping() -> None:
            while True:
                await socket.send('{"type":"ping","t":0}')
                await asyncio.sleep(1)

        pinging = asyncio.create_task(ping())
        try:
            yield socket
        finally:
            pinging.cancel()
            await asyncio.gather(pinging, return_exceptions=True)


async def drive(link: str, stop_after: int = 1000) -> str:
    """Take over until the session ends, or so many steps are taken; returns all that was told."""
    told = ""
    async with visiting(link) as socket:
        await socket.send(json.dumps({"type": "begin"}))
        await socket.send(json.dumps({"type": "pace", "pace": "real time", "speed": 10}))
        await socket.send(json.dumps({"type": "pause", "on": False}))
        await socket.send(json.dumps({"type": "act", "action": 1}))
        async for data in socket:
            told += data
            message = json.loads(data)
            if message["type"] == "frame" and message["n"] >= stop_after:
                return told
            if message["type"] == "mode" and message["phase"] == "finished":
                return told
    return told


@pytest.mark.slow
def test_a_study_that_is_killed_goes_on_and_names_no_method(tmp_path: Path) -> None:
    """Killed in the practice, between two stages and in a session; then done, without a name of a method."""
    study = tmp_path / "out/tiny"

    async def begin(link: str) -> None:
        async with visiting(link) as socket:
            page = Visitor(socket)
            await page.until("consent")
            await page.reply(choice="yes")
            await drive((await page.until("practice", ready=True))["link"], 4)

    async def practise(link: str) -> None:
        async with visiting(link) as socket:
            page = Visitor(socket)
            shown = await page.until("practice", ready=True)
            assert shown["stage"] == 1
            await drive(shown["link"])
            await page.until("session", ready=True)
            await drive(page.show["link"], 3)

    async def go_through(link: str) -> str:
        told = ""
        async with visiting(link) as socket:
            page = Visitor(socket)
            for position in range(2):
                shown = await page.until("session", ready=True)
                assert shown["stage"] == 2 + 2 * position
                told += await drive(shown["link"])
                await page.until("tlx")
                await page.reply(scores=[10] * 5)  # one is missing, which is no answer
                await page.reply(scores=[10 * position + 10] * 6)
            await page.until("compare")
            assert len(page.show["films"]) == 3 and all(len(pair) == 2 for pair in page.show["films"])
            await page.reply(choice="A")
            await page.until("end")
            await page.reply(choice="done")
            await page.until("over")
            return told + page.all_data

    for part in (begin, practise):
        with hosting(tmp_path) as (process, link):
            asyncio.run(part(link))
            process.send_signal(signal.SIGKILL)
            process.wait()
    with hosting(tmp_path) as (process, link):
        told = asyncio.run(go_through(link))
        assert process.wait(20) == 0
    assert "report" in told and '"proposal"' in told and '"films"' in told
    assert not any(f'"{name}"' in told or f"/{name}" in told for name in METHODS)
    assert '"theta"' not in told and "MEReQ" not in told and "DAgger" not in told
    check_table(study)


def check_table(study: Path) -> None:
    """A row is one value, of one session or comparison; effort, rates, scales and the choice are there."""
    rows = read_table(study)
    assert list(rows[0]) == list(COLUMNS)
    keys = [tuple(row[name] for name in COLUMNS if name != "value") for row in rows]
    assert len(set(keys)) == len(keys)
    assert all(np.isfinite(float(row["value"])) for row in rows)
    assert {row["task"] for row in rows} == {"carpet"}  # practice is left out
    sessions = {(row["position"], row["method"]) for row in rows if row["position"]}
    assert sorted(position for position, _ in sessions) == ["1", "2"]
    assert {method for _, method in sessions} == {"MEReQ-R", "HG-DAgger-1"}
    for position, _ in sessions:
        mine = {row["measure"]: float(row["value"]) for row in rows if row["position"] == position}
        assert {"steps", "takeovers", "keystrokes", "seconds in control", "intervention rate"} <= set(mine)
        assert {*SCALES, "raw tlx"} <= set(mine)
        assert mine["raw tlx"] == pytest.approx(np.mean([mine[scale] for scale in SCALES]))
        assert mine["steps"] >= 10 and mine["takeovers"] >= 1
    choices = [row for row in rows if row["measure"] == "preferred"]
    assert sorted(float(row["value"]) for row in choices) == [0, 1]


@pytest.mark.slow
def test_whoever_leaves_in_a_session_leaves_nothing(tmp_path: Path) -> None:
    async def leave(link: str) -> None:
        async with visiting(link) as socket:
            page = Visitor(socket)
            await page.until("consent")
            await page.reply(choice="yes")
            await drive((await page.until("practice", ready=True))["link"], 3)
            await socket.send(json.dumps({"type": "erase"}))
            assert "deleted" in (await page.until("over"))["text"]

    with hosting(tmp_path) as (process, link):
        asyncio.run(leave(link))
        assert process.wait(20) == 0
    study = tmp_path / "out/tiny"
    assert list((study / "participants").iterdir()) == [] and read_table(study) == []


# --- In a browser -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    if not shutil.which("chromedriver"):
        pytest.skip("no chromedriver; `make browser` installs it")
    with browsing() as driver:
        yield driver


def see(browser: Chrome, name: str, seconds: float = 60) -> None:
    """Wait until a part of the page is shown."""
    WebDriverWait(browser, seconds).until(lambda driver: driver.find_element(By.ID, name).is_displayed())


def find_barriers(browser: Chrome) -> list[str]:
    if not AXE.exists():
        return []
    browser.execute_script(AXE.read_text(encoding="utf-8"))
    script = "axe.run({ iframes: false }).then(arguments[0], (e) => arguments[0](String(e)))"
    found = browser.execute_async_script(script)
    return [f"{each['id']}: {node['html'][:120]}" for each in found["violations"] for node in each["nodes"]]


def teach(browser: Chrome) -> None:
    """Take over by the keyboard until the session is over."""
    waiting = WebDriverWait(
        browser, 60, ignored_exceptions=(NoSuchElementException, StaleElementReferenceException)
    )
    waiting.until(lambda driver: driver.find_element(By.ID, "frame").get_attribute("src"))
    browser.switch_to.frame("frame")
    # Open to nobody until this tab has been given the robot.
    waiting.until(
        lambda driver: driver.find_element(By.CSS_SELECTOR, "#begin[aria-disabled=false]").is_displayed()
    )
    browser.find_element(By.ID, "begin").click()
    stage = browser.find_element(By.ID, "stage")
    key = cycle(("ArrowUp", "ArrowRight"))
    start = time.monotonic()
    # Its successor's page has a stage too: this one is gone, or in a frame that is gone or hidden.
    while is_shown(stage):
        press(browser, next(key), 0.02)
        assert time.monotonic() - start < 180
    browser.switch_to.default_content()


def is_shown(element: WebElement) -> bool:
    try:
        return element.is_displayed()
    except (StaleElementReferenceException, NoSuchWindowException):
        return False


@pytest.mark.slow
def test_a_whole_study_by_keyboard_and_mouse(browser: Chrome, tmp_path: Path) -> None:
    set_screen(browser, 1200, 900)
    list_requests(browser)
    hosts = set()
    with hosting(tmp_path) as (process, link):
        browser.get(link)
        see(browser, "consent")
        look(browser, "consent")
        browser.find_element(By.CSS_SELECTOR, "#consent [data-choice=yes]").click()
        teach(browser)
        for _ in range(2):
            see(browser, "session")
            teach(browser)
            see(browser, "tlx")
            browser.find_element(By.ID, "rated").click()
            assert "move every slider" in browser.find_element(By.ID, "missing").text
            for scale in browser.find_elements(By.CSS_SELECTOR, "#scales input"):
                scale.send_keys("\ue014")  # to the right
            look(browser, "tlx")
            browser.find_element(By.ID, "rated").click()
        see(browser, "compare")
        browser.find_element(By.ID, "another").click()
        look(browser, "compare")
        shown = browser.execute_script("return document.body.innerHTML")
        assert not any(name in shown for name in METHODS)
        browser.find_element(By.CSS_SELECTOR, "#compare [data-choice=neither]").click()
        see(browser, "end")
        look(browser, "end")
        browser.find_element(By.CSS_SELECTOR, "#end [data-choice=done]").click()
        see(browser, "over")
        hosts |= list_requests(browser)
        assert process.wait(20) == 0
    assert all(host.startswith("127.0.0.1:") for host in hosts)
    rows = read_table(tmp_path / "out/tiny")
    assert [float(row["value"]) for row in rows if row["measure"] == "preferred"] == [0.5, 0.5]
    assert [float(row["value"]) for row in rows if row["measure"] == "raw tlx"] == [55, 55]


def look(browser: Chrome, name: str) -> None:
    """See that a screen fits, keeps nobody out, and how it looks."""
    for width, scheme in ((1200, "light"), (390, "dark")):
        set_screen(browser, width, 900, scheme)
        assert find_barriers(browser) == []
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        take_screenshot(browser, SCREENSHOTS / f"study-{name}-{width}.png")
    set_screen(browser, 1200, 900)
