"""The page of a live session in a real browser: somebody who teaches, by keys, and what may go wrong."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from browsing import browsing, list_requests, press, send_key, set_screen, take_screenshot
from hand import Carpet, Hand, Highway, ask, enter, pause, wait
from person import serving, tunnel
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By

from mereq_min.interfaces import Policy
from mereq_min.lab.plugins import load_task
from mereq_min.lab.runs.files import load_arrays
from mereq_min.lab.runs.records import read_rows
from mereq_min.rollout import watch

ROOT = Path(__file__).parents[4]
AXE = ROOT / "build/axe-core/axe.min.js"
SCREENSHOTS = ROOT / "build/screenshots"

pytestmark = pytest.mark.skipif(
    not shutil.which("chromedriver"), reason="no chromedriver; `make browser` installs it"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    with browsing() as driver:
        driver.set_script_timeout(120)
        yield driver


@pytest.fixture(scope="module")
def carpet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Link of a session on carpet, for all tests that pause it before they leave."""
    with serving(tmp_path_factory.mktemp("page") / "out", "--steps", "30") as (_, link):
        yield link


def touch(browser: Chrome, selector: str) -> None:
    """Touch an element with a finger, once it has come to rest."""
    place = """
        const [selector, tell] = arguments, element = document.querySelector(selector);
        element.scrollIntoView({ block: "center" });
        const look = (last) => {
            const { x, y, width, height } = element.getBoundingClientRect();
            if (x === last.x && y === last.y) tell({ x: x + width / 2, y: y + height / 2 });
            else requestAnimationFrame(() => requestAnimationFrame(() => look({ x, y })));
        };
        look({});
    """
    point = browser.execute_async_script(place, selector)
    for kind, points in (("touchStart", [point]), ("touchEnd", [])):
        browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})


def words(browser: Chrome, name: str) -> str:
    return browser.find_element(By.ID, name).text


def complaints(browser: Chrome) -> list[str]:
    """What the console says is wrong, such as a script that the content security policy stops."""
    return [each["message"] for each in browser.get_log("browser") if each["level"] in ("WARNING", "SEVERE")]


# --- Driving ------------------------------------------------------------------------------------------------


def test_take_over_hand_back_and_undo_by_the_keyboard_alone(browser: Chrome, carpet: str) -> None:
    set_screen(browser, 1200, 900)
    list_requests(browser)
    complaints(browser)
    enter(browser, carpet)
    pause(browser, True)
    assert words(browser, "who-words") == "The policy drives" and "Paused" in words(browser, "hint")
    n = ask(browser, "state.frame.n")
    press(browser, "ArrowUp")  # takes over, and takes one step: turn by turn
    wait(browser, f"state.mode.person && state.frame.n === {n + 1}")
    assert words(browser, "who-words") == "You drive"
    assert ask(browser, "state.frame.by") == "person" and ask(browser, "state.frame.action") == 0
    press(browser, "d")  # WASD are the arrows
    wait(browser, f"state.frame.n === {n + 2}")
    assert ask(browser, "state.frame.action") == 1
    press(browser, "Backspace")
    wait(browser, f"state.frame.n === {n + 1} && state.frame.rewound && state.mode.paused")
    press(browser, ".")
    wait(browser, f"state.frame.n === {n + 2}")
    press(browser, "ArrowUp")
    wait(browser, "state.mode.person")
    press(browser, "Enter")
    wait(browser, "!state.mode.person")
    press(browser, "4")
    wait(browser, "state.mode.speed === 2")
    wait(browser, "document.querySelector('#announcer').textContent.length > 0")
    pause(browser, True)
    assert list_requests(browser) == {urlsplit(carpet).netloc}
    assert complaints(browser) == []


STICK = """
    const [right, pressed] = arguments;
    const buttons = Array.from({ length: 17 }, (_, k) => ({ pressed: k === pressed }));
    navigator.getGamepads = () => [null, { connected: true, axes: [right, 0, 0, 0], buttons }];
"""


def test_a_finger_and_a_gamepad_take_over_and_hand_back(browser: Chrome, carpet: str) -> None:
    set_screen(browser, 390, 844)
    enter(browser, carpet, running=False)
    n = ask(browser, "state.frame.n")
    touch(browser, "#pad .down")
    wait(browser, f"state.mode.person && state.frame.n > {n} && state.frame.action === 2")
    touch(browser, "#hand-back")
    wait(browser, "!state.mode.person")
    touch(browser, "#pause")
    wait(browser, "state.mode.paused")
    n = ask(browser, "state.frame.n")
    browser.execute_script(STICK, 1, None)
    wait(browser, f"state.mode.person && state.frame.n > {n} && state.frame.action === 1")
    browser.execute_script(STICK, 0, 0)  # the lowest button
    wait(browser, "!state.mode.person")
    browser.execute_script(STICK, 0, 9)  # start
    wait(browser, "state.mode.paused")
    browser.execute_script(STICK, 0, None)
    set_screen(browser, 1200, 900)


def test_every_control_is_reached_and_pressed_by_tab(browser: Chrome, carpet: str) -> None:
    """What has the focus keeps it, and Enter presses it: it does not hand back."""
    set_screen(browser, 1200, 900)
    enter(browser, carpet, running=False)
    reached = []
    for _ in range(60):
        press(browser, "Tab")
        name = browser.execute_script("return document.activeElement.id || document.activeElement.innerText")
        if name in reached:
            break
        if browser.execute_script("return document.activeElement === document.body"):
            continue  # from the last one to the first
        assert browser.execute_script(
            "return getComputedStyle(document.activeElement).outlineStyle === 'solid'"
        ), name
        reached.append(name)
    assert {"open-help", "stage", "hand-back", "pause", "undo", "go", "learn", "open-stop"} <= set(reached)
    browser.execute_script("document.querySelector('#pause').focus()")
    press(browser, "Enter")
    wait(browser, "!state.mode.paused")
    assert browser.execute_script("return document.activeElement.id") == "pause"
    press(browser, "Enter")
    wait(browser, "state.mode.paused")


def test_a_reload_keeps_control_and_a_second_tab_watches_and_may_claim(browser: Chrome, carpet: str) -> None:
    set_screen(browser, 1200, 900)
    enter(browser, carpet, running=False)
    tab, n = ask(browser, "link.tab"), ask(browser, "state.frame.n")
    browser.refresh()
    wait(browser, "link.isLive && state.mode.controller === link.tab")
    assert ask(browser, "link.tab") == tab and ask(browser, "state.frame.n") == n
    first = browser.current_window_handle
    browser.switch_to.new_window("tab")
    set_screen(browser, 1200, 900)
    browser.get(carpet)
    wait(browser, "link.isLive")
    assert ask(browser, "link.tab") != tab
    wait(browser, "document.querySelector('#hint').textContent.startsWith('Another tab is in control')")
    press(browser, "ArrowUp")
    press(browser, " ")
    assert ask(browser, "state.mode.paused && !state.mode.person && state.frame.n") == n
    browser.find_element(By.ID, "claim").click()
    wait(browser, "state.mode.controller === link.tab")
    second = browser.current_window_handle
    browser.switch_to.window(first)
    wait(browser, "state.mode.controller !== link.tab")
    browser.switch_to.window(second)
    browser.close()
    browser.switch_to.window(first)
    wait(browser, "state.mode.controller === null && state.mode.paused")  # a closed tab pauses
    assert "closed" in ask(browser, "state.mode.why")


@pytest.mark.slow
def test_old_pictures_are_not_shown_as_live(browser: Chrome, tmp_path: Path) -> None:
    """A server that falls silent, and one that dies: the page says so; it goes on when there is one again."""
    set_screen(browser, 1200, 900)
    with serving(tmp_path / "out", "--steps", "30") as (server, link):
        enter(browser, link)
        port = urlsplit(link).port
        server.send_signal(19)  # SIGSTOP
        wait(browser, "!link.isLive")
        assert words(browser, "who-words") == "Not connected" and "old" in words(browser, "veil-words")
        assert "stale" in browser.find_element(By.ID, "stage").get_attribute("class")
        server.send_signal(18)  # SIGCONT
        wait(browser, "link.isLive")
    wait(browser, "!link.isOpen")
    assert "Trying again" in words(browser, "veil-words")
    n = ask(browser, "state.frame.n")
    with serving(tmp_path / "out", "--steps", "30", "--port", str(port)) as (_, link):
        browser.get(link)  # the token is a new one
        wait(browser, "link.isLive")
        assert ask(browser, "state.frame.n") >= n and ask(browser, "state.mode.paused")


@pytest.mark.slow
@pytest.mark.parametrize("lag", [50, 150, 300])
def test_a_slow_network_is_measured_and_can_be_driven_through(browser: Chrome, carpet: str, lag: int) -> None:
    """Turn by turn, however late the page and the server hear of each other [ms]."""
    set_screen(browser, 1200, 900)
    with tunnel(carpet, lag / 1000) as link:
        enter(browser, link, running=False)
        wait(browser, f"link.roundTrips.length >= 5 && Math.abs(link.roundTrip - {lag}) <= 20", 60)
        assert 0 <= ask(browser, "Math.min(...link.roundTrips)") - lag <= 20
        n = ask(browser, "state.frame.n")
        press(browser, "ArrowUp")
        wait(browser, "state.mode.person && state.frame.by === 'person'")
        press(browser, "Enter")
        wait(browser, "!state.mode.person")
        pause(browser, True)
        assert ask(browser, "state.frame.n") >= n + 1


# --- Looks --------------------------------------------------------------------------------------------------

TOO_WIDE = """
    return [...document.querySelectorAll("body *")].filter((each) => each.checkVisibility()
        && !each.closest(".unseen") && each.getBoundingClientRect().right > innerWidth + 1)
        .map((each) => each.outerHTML.slice(0, 80))
"""
TOO_SMALL = """
    return [...document.querySelectorAll("button, summary")].filter((each) => each.checkVisibility())
        .map((each) => [each.textContent, each.getBoundingClientRect()])
        .filter(([, box]) => box.width < 44 || box.height < 44).map(([text]) => text)
"""


@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_fits_the_screen(browser: Chrome, carpet: str, width: int) -> None:
    set_screen(browser, width, 844)
    enter(browser, carpet, running=False)
    for dialog in ("", "open-help", "open-stop"):
        if dialog:
            browser.execute_script(f"document.querySelector('#{dialog}').click()")
        assert browser.execute_script(TOO_WIDE) == []
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        assert browser.execute_script(TOO_SMALL) == []
        browser.execute_script("for (const each of document.querySelectorAll('dialog')) each.close()")


@pytest.fixture(scope="session")
def axe() -> str:
    """The script of axe-core, which looks for faults that keep people out."""
    if not AXE.exists():
        if not shutil.which("npm"):
            pytest.skip("no npm, which fetches axe-core")
        subprocess.run(["make", str(AXE.relative_to(ROOT))], cwd=ROOT, check=True, capture_output=True)
    return AXE.read_text(encoding="utf-8")


def find_barriers(browser: Chrome, axe: str) -> list[str]:
    browser.execute_script(axe)
    found = browser.execute_async_script("axe.run().then(arguments[0], (e) => arguments[0](String(e)))")
    return [f"{each['id']}: {node['html'][:120]}" for each in found["violations"] for node in each["nodes"]]


def test_nothing_keeps_people_out(browser: Chrome, carpet: str, axe: str) -> None:
    set_screen(browser, 1200, 900)
    enter(browser, carpet, running=False)
    assert find_barriers(browser, axe) == []
    browser.execute_script("document.querySelector('#open-help').click()")
    assert find_barriers(browser, axe) == []


# --- Teaching -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_person_at_the_page_teaches_the_carpet(browser: Chrome, tmp_path: Path, axe: str) -> None:
    set_screen(browser, 1200, 900)
    with serving(tmp_path / "out", "--steps", "100") as (_, link):
        enter(browser, link, running=False)
        ask(browser, "link.send({ type: 'undo', steps: 1000 })")  # what was not watched
        wait(browser, "state.frame.n === 0")
        reports = Hand(browser, Carpet(), speed=2).teach(3, 240)
        pause(browser, True)
        rates = [each["rate"] for each in reports]
        assert rates[0] >= 0.2 and min(rates[1:]) < 0.5 * rates[0]
        weights = {each["feature"]: each["theta"] for each in reports[-1]["weights"]}
        assert weights["carpet"] < -0.2
        shown = browser.find_element(By.CSS_SELECTOR, "#weights tbody").text
        assert all(name in shown for name in weights)
        assert "keeps off the carpet more" in browser.find_element(By.ID, "report").text + str(reports[0])
        for width, scheme in ((1200, "light"), (1200, "dark"), (390, "light"), (390, "dark")):
            set_screen(browser, width, 900, scheme)
            assert browser.execute_script(TOO_WIDE) == [] and browser.execute_script(TOO_SMALL) == []
            assert find_barriers(browser, axe) == []
            take_screenshot(browser, SCREENSHOTS / f"carpet-report-{width}-{scheme}.png")
        set_screen(browser, 1200, 900)
        browser.find_element(By.ID, "save").click()
        wait(browser, "document.querySelector('#notice').textContent.includes('saved')")
        browser.find_element(By.ID, "undo-update").click()
        wait(browser, "state.mode.version === 2 && state.reports.size === 2")
        browser.find_element(By.ID, "open-stop").click()
        browser.find_element(By.ID, "stop").click()
        wait(browser, "state.mode.phase === 'finished'")
        assert words(browser, "who-words") == "Finished"
        assert find_barriers(browser, axe) == []
    path, task = tmp_path / "out/carpet/MEReQ-R/seed0", load_task("carpet")
    assert [row["intervention_rate"] for row in read_rows(path)] == rates[:2]
    taught = task.load_policy(load_arrays(path / "saved-003.safetensors"))
    assert share_left(task, taught) < 0.5


def share_left(task: Any, policy: Policy) -> float:
    """The rate at which somebody who errs in nothing stops a policy, as a share of that of the prior."""
    before, after = (watch(task, each, task.oracle, 2000, 0) for each in (task.prior, policy))
    return after.intervention_rate / before.intervention_rate


@pytest.mark.slow
def test_a_person_at_the_page_teaches_a_car_in_real_time(browser: Chrome, tmp_path: Path) -> None:
    """One round of a person who is late, tires and errs takes about a third of the interventions away.

    At twice the speed: at four times, half a second of reaction is two steps, and few takeovers are left.
    """
    set_screen(browser, 1200, 900)
    with serving(tmp_path / "out", "--steps", "160", task="highway") as (_, link):
        enter(browser, link, running=False)
        ask(browser, "link.send({ type: 'undo', steps: 1000 })")  # what was not watched
        wait(browser, "state.frame.n === 0 && state.mode.ready", 240)
        (report,) = Hand(browser, Highway(), speed=2).teach(1, 400)
        pause(browser, True)
        assert report["rate"] >= 0.1 and report["takeovers"] >= 3
        weights = {each["feature"]: each["theta"] for each in report["weights"]}
        assert weights["right_lane"] > 0.1
    path, task = tmp_path / "out/highway/MEReQ-L/seed0", load_task("highway")
    assert share_left(task, task.load_policy(load_arrays(path / "policy.safetensors"))) < 0.85


PINGS = """
    const [count, done] = arguments;
    import(new URL("page.js", location.href)).then(({ state, link }) => {
      let left = count;
      const timer = setInterval(() => {
        if (left-- > 0) link.ping();
        else {
          clearInterval(timer);
          setTimeout(() => done([link.roundTrips.slice(-count), state.mode.learning]), 500);
        }
      }, 50);
    });
"""


def drag(browser: Chrome) -> None:
    """Drag the picture to the right, which takes over; it is let go, and handed back."""
    scene = browser.find_element(By.ID, "scene")
    ActionChains(browser).click_and_hold(scene).move_by_offset(90, 0).perform()
    wait(browser, "state.mode.person && state.frame.by === 'person' && state.frame.action[0] > 0.3")
    ActionChains(browser).release().perform()
    press(browser, "Enter")
    wait(browser, "!state.mode.person")


def take_over_for_a_while(browser: Chrome, key: str) -> None:
    n = ask(browser, "state.frame.n")
    send_key(browser, "keyDown", key)
    wait(browser, f"state.mode.person && state.frame.by === 'person' && state.frame.n > {n + 2}")
    send_key(browser, "keyUp", key)
    press(browser, "Enter")
    wait(browser, "!state.mode.person && state.frame.by === 'policy'")


@pytest.mark.slow
@pytest.mark.parametrize(("task", "key"), [("highway", "ArrowDown"), ("bottle", "s")])
def test_a_car_and_an_arm_answer_while_their_policy_learns(
    browser: Chrome, tmp_path: Path, record_property: Any, task: str, key: str
) -> None:
    """The update itself takes minutes on a busy machine, and is not waited for."""
    set_screen(browser, 1200, 900)
    with serving(tmp_path / "out", "--steps", "1000", task=task) as (_, link):
        enter(browser, link)
        take_over_for_a_while(browser, key)
        if task == "bottle":
            drag(browser)
        take_screenshot(browser, SCREENSHOTS / f"{task}-driving.png")
        browser.find_element(By.ID, "learn").click()
        wait(browser, "state.mode.learning")
        trips, learns = browser.execute_async_script(PINGS, 100)
        take_over_for_a_while(browser, key)
        assert learns
        late = float(np.percentile(trips, 99))
        print(f"{task}: round trip {np.median(trips):.0f} ms, p99 {late:.0f} ms while it learns")
        record_property("round_trip_p99_ms", late)
        assert np.median(trips) < 250


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "key", "feature"), [("highway", "ArrowDown", "right_lane"), ("bottle", "s", "table_dist")]
)
def test_what_a_car_and_an_arm_learned_is_shown(
    browser: Chrome, tmp_path: Path, task: str, key: str, feature: str
) -> None:
    set_screen(browser, 1200, 900)
    quick = {"task": f"person:make_quick_{task}"}
    with serving(tmp_path / "out", "--max-iterations", "3", "--steps", "1000", **quick) as (_, link):
        enter(browser, link)
        take_over_for_a_while(browser, key)
        browser.find_element(By.ID, "learn").click()
        wait(browser, "state.reports.size === 1 && state.mode.version === 1", 120)
        pause(browser, True)
        assert feature in browser.find_element(By.ID, "weights").text
        assert browser.execute_script(TOO_WIDE) == []
        take_screenshot(browser, SCREENSHOTS / f"{task}-report.png")
        assert [each for each in complaints(browser) if link in each] == []
