"""A film of a live session: a simulated hand teaches a car at the page of `mereq teach`.

    python figures/live.py    # a few minutes; needs chromium and chromedriver

The hand sees what the page shows and presses keys, see tests/hand.py. The film shows the first round, what
was learned, and the beginning of the next round; waiting for the update is cut out. No two films are alike,
for the hand reacts in real time.
"""

import io
import sys
import tempfile
import time
from base64 import b64decode
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from hero import save_film
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from browsing import browsing, set_screen
from hand import Carpet, Hand, Highway, enter, wait
from person import serving
from selenium.webdriver import Chrome

SCREEN, SHOWN = (1000, 720), 800
"""Size of the page, and width of the film [px]."""
INTERVAL = 0.3
"""Least time between two pictures [s]."""
PAUSE = 200
"""Time of a picture in the film [ms]."""
MINDS = {"highway": Highway, "carpet": Carpet}
"""Who can be taught what."""


@dataclass(frozen=True)
class Arguments:
    """Film a live session."""

    task: str = "highway"
    """highway or carpet."""
    steps: int = 80
    """Steps of a round [steps]."""
    speed: float = 2
    """Of the session."""
    driving: int = 45
    """Pictures of the first round, from its start."""
    after: int = 30
    """Pictures of the next round."""
    out: Path = Path("figures/live.gif")
    """The film."""


def take_picture(browser: Chrome) -> Image.Image:
    """The page as it is now."""
    clip = {"x": 0, "y": 0, "width": SCREEN[0], "height": SCREEN[1], "scale": SHOWN / SCREEN[0]}
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip})
    return Image.open(io.BytesIO(b64decode(shot["data"]))).convert("RGB")


class Camera:
    """Takes pictures of the page while the hand looks at it, at most `most`."""

    def __init__(self, browser: Chrome, most: int) -> None:
        self.browser, self.most = browser, most
        self.pictures: list[Image.Image] = []
        self._last = 0.0

    def look(self, seen: dict[str, Any]) -> None:
        """See what the hand sees."""
        if len(self.pictures) < self.most and time.monotonic() - self._last > INTERVAL:
            self.pictures.append(take_picture(self.browser))
            self._last = time.monotonic()


def film(arguments: Arguments) -> list[Image.Image]:
    """The pictures of a session."""
    with tempfile.TemporaryDirectory() as folder, browsing() as browser:
        set_screen(browser, *SCREEN)
        steps = ("--steps", str(arguments.steps))
        with serving(Path(folder) / "out", *steps, task=arguments.task) as (_, link):
            enter(browser, link, running=False)
            wait(browser, "state.mode.ready", 600)
            hand = Hand(browser, MINDS[arguments.task](), speed=arguments.speed)
            first, second = (Camera(browser, most) for most in (arguments.driving, arguments.after))
            hand.on_look = first.look
            hand.teach(1, 600)
            hand.on_look = second.look
            while len(second.pictures) < arguments.after:
                hand.step()
            return first.pictures + second.pictures


if __name__ == "__main__":
    arguments = tyro.cli(Arguments)
    save_film(film(arguments), arguments.out, pause=PAUSE)
