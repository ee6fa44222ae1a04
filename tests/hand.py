"""A simulated person at the page of a live session, in a real browser.

It looks at what the page shows, reacts as late as people do, misses things, presses wrong keys, tires, and
lets go late: the errors are those of `mereq_min.experts.make_human`, by which studies without a browser
simulate people too. There, times are whole steps; here, what is left of a step is waited for.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from browsing import press
from gymnasium.spaces import Discrete
from numpy.typing import NDArray
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from mereq_min.experts import SimulatedExpert, make_human
from mereq_min.interfaces import Imperfections
from mereq_min.lab.plugins import load_task
from mereq_min.policies import UniformPolicy

Message = dict[str, Any]
"""A message of the protocol."""

# What a script in the page is given: what the page knows.
PAGE = (
    "const done = arguments[arguments.length - 1]; import(new URL('page.js', location.href)).then((page) => "
)
SPEEDS = {0.25: "1", 0.5: "2", 1: "3", 2: "4", 4: "5", 10: "6"}
"""Keys that set the speed."""


def ask(browser: Chrome, expression: str) -> Any:
    """What the page knows, such as `state.mode.paused`."""
    script = f"{PAGE} {{ const {{ state, link }} = page; done({expression}); }}).catch(e => done(String(e)))"
    return browser.execute_async_script(script)


def wait(browser: Chrome, expression: str, seconds: float = 20) -> None:
    """Wait until something about what the page knows holds."""

    def holds(driver: Chrome) -> bool:
        found = ask(driver, f"Boolean(state.mode && state.frame && ({expression}))")
        assert isinstance(found, bool), found
        return found

    WebDriverWait(browser, seconds, poll_frequency=0.05).until(holds, f"never: {expression}")


def enter(browser: Chrome, link: str, *, running: bool = True) -> None:
    """Open the page, past the tutorial, in control."""
    browser.get(link)
    wait(browser, "link.isLive")
    if ask(browser, "state.mode.phase") == "tutorial":
        press(browser, "Enter")
        wait(browser, "state.mode.phase === 'driving'")
    if ask(browser, "state.mode.controller !== link.tab"):
        browser.find_element(By.ID, "claim").click()
        wait(browser, "state.mode.controller === link.tab")
    pause(browser, not running)


def pause(browser: Chrome, on: bool) -> None:
    """Pause or go on."""
    browser.execute_script("document.querySelector('#stage').focus()")
    if ask(browser, "state.mode.paused") != on:
        press(browser, " ")
        wait(browser, f"state.mode.paused === {json.dumps(on)}")


class Carpet:
    """What the expert of `carpet` wants, told from what the page shows."""

    def __init__(self) -> None:
        self.task: Any = load_task("carpet")
        self._states = {tuple(cell): s for s, cell in enumerate(self.task.layout.cells.tolist())}

    def see(self, scene: Message) -> NDArray[Any]:
        """The state."""
        return np.array(self._states[tuple(scene["cell"])])

    def make_expert(self, errors: Imperfections) -> SimulatedExpert:
        """The person, with these errors."""
        expert: SimulatedExpert = self.task.oracle.make_expert(errors)
        return expert


class Highway:
    """Somebody who wants to keep right where there is room, and judges that by eye."""

    LANE, LAST = 4.0, 2
    """Width of a lane [m], and number of the right-most one."""
    BEHIND, AHEAD = 12.0, 20.0
    """Room that a change of lanes needs [m]."""
    UP, STAY, DOWN, SLOWER = 0, 1, 2, 4

    def see(self, scene: Message) -> NDArray[Any]:
        """The cars (n, 2) as x, y [m], the own one first."""
        return np.array([car[:2] for car in scene["cars"]])

    def make_expert(self, errors: Imperfections) -> SimulatedExpert:
        """The person, with these errors; the noise of decisions by eye is their own."""
        return SimulatedExpert(
            self, self.objects, patience=1, release=3,
            imperfections=replace(errors, temperature_ratio=1.0), slips=UniformPolicy(Discrete(5)),
        )  # fmt: skip

    def objects(self, cars: NDArray[Any], action: NDArray[Any]) -> bool:
        """Whether the person would have another action."""
        wish, lane = self._wish(cars), self._lane(cars[0])
        if wish == self.DOWN:
            return int(action) != self.DOWN
        leaves = int(action) == self.UP and lane == self.LAST
        return leaves and self._is_free(cars, lane)

    def sample(self, states: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """What the person does."""
        return np.array([self._wish(cars) for cars in states])

    def log_prob(self, state: NDArray[Any], action: NDArray[Any]) -> NDArray[Any]:
        """Nobody knows."""
        raise NotImplementedError

    def _wish(self, cars: NDArray[Any]) -> int:
        lane = self._lane(cars[0])
        if lane < self.LAST and self._is_free(cars, lane + 1):
            return self.DOWN
        return self.STAY if self._is_free(cars, lane) else self.SLOWER

    def _lane(self, car: NDArray[Any]) -> int:
        return int(np.clip(np.rint(car[1] / self.LANE), 0, self.LAST))

    def _is_free(self, cars: NDArray[Any], lane: int) -> bool:
        """Whether there is room in a lane: ahead in the own one, and behind too in another."""
        own = self._lane(cars[0]) == lane
        return not any(
            (0 if own else -self.BEHIND) < car[0] - cars[0, 0] < self.AHEAD and self._lane(car) == lane
            for car in cars[1:]
        )


class Hand:
    """A person who watches the page, and takes over and hands back by its keys.

    Args:
        browser: shows the page, past the tutorial and in control.
        mind: what the person wants.
        speed: at which they watch, one of the page's.
        share: by how much they are human, see `make_human`.
        seed: the same person each time.

    Attributes:
        on_look: called with what the page knows, whenever the hand looks.
    """

    def __init__(
        self, browser: Chrome, mind: Carpet | Highway, *, speed: float = 1, share: float = 1.0, seed: int = 0
    ) -> None:
        self.browser, self.mind = browser, mind
        self.on_look: Callable[[Message], None] = lambda seen: None
        pause(browser, False)
        press(browser, SPEEDS[speed])
        wait(browser, f"state.mode.speed === {speed}")
        welcome = ask(browser, "state.welcome")
        self._rate = welcome["rate"] * speed
        self._keys = {each["action"]: each["key"] for each in welcome["actions"]}
        self._expert = mind.make_expert(make_human(self._rate, share))
        self._rng = np.random.default_rng(seed)
        self._expert.reset(self._rng)
        self._seen: tuple[int, ...] = ()
        # So that a look takes no more than a call.
        ask(
            browser,
            "(window.look = () => ({ ...state, welcome: null, reports: [...state.reports.values()] })) && 0",
        )

    def teach(self, rounds: int, seconds: float) -> list[Message]:
        """Teach until so many rounds are reported; returns the reports.

        Raises:
            TimeoutError: if that takes longer.
        """
        end = time.monotonic() + seconds
        while len(reports := self.step()) < rounds:
            if time.monotonic() > end:
                raise TimeoutError(f"{len(reports)} of {rounds} rounds after {seconds:.0f} s")
        return reports

    def step(self) -> list[Message]:
        """Look once, and do what there is to do; returns the reports so far."""
        seen = self.browser.execute_script("return look()")
        self.on_look(seen)
        self.respond(seen["frame"], seen["mode"])
        reports: list[Message] = seen["reports"]
        return reports

    def respond(self, frame: Message, mode: Message) -> None:
        """Do what the person does about a frame that was not seen yet."""
        moment = (frame["n"], frame["version"], frame["t"])
        if moment == self._seen or frame["proposal"] is None or mode["paused"]:
            return
        self._seen = moment
        if frame["t"] == 0:
            self._expert.reset(self._rng)
        action = self._expert.intervene(self.mind.see(frame["scene"]), np.array(frame["proposal"]))
        if action is not None:
            if not mode["person"]:
                time.sleep(self._expert.delay % 1.0 / self._rate)
            press(self.browser, self._keys[int(action)])
        elif mode["person"]:
            press(self.browser, "Enter")
