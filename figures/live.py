"""A film of the page of `mereq teach`, at which a simulated hand teaches in a real browser.

    python figures/live.py                  # teach, then film; ten minutes; needs chromium and chromedriver
    python figures/live.py --run FOLDER     # film a session that was kept

The hand sees what the page shows and presses keys, see tests/hand.py. It reacts in real time, so that no two
sessions are alike. The page is filmed afterwards, one decision after the other, as `mereq replay` shows the
session again: pictures taken while the hand teaches would make the page late. The buttons are left out.
"""

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import tyro
from PIL import Image
from selenium.webdriver import Chrome

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from browsing import browsing, capture, press, set_screen
from hand import Carpet, Hand, Highway, ask, enter, pause, wait
from person import serving, starting

MINDS = {"carpet": Carpet, "highway": Highway}
"""Scripted person of each task that can be filmed."""
SCREEN, WIDTH = (1000, 480), 800
"""Size of the page, and width of the film [pixels]."""
STYLE = """
    header, #desk, #paused, #hint, #who button, #notice, #round button, #save, #films, #weights-part {
        display: none !important
    }
    main { padding-top: 12px !important }
"""
"""Leaves out what a film has no use for."""
PAUSE, READING = 160, 2_500
"""Time of a frame, and of the first one with a new policy [ms]."""


@dataclass(frozen=True)
class Arguments:
    """Teach at the page, and film that."""

    task: str = "highway"
    """carpet or highway."""
    rounds: int = 3
    """Rounds of the session."""
    steps: int = 60
    """Steps of a round [steps]."""
    shown: int = 40
    """Of these, the first so many are filmed [steps]."""
    speed: float = 1.0
    """Of the session; on a busy machine the hand is late at higher ones."""
    run: Path | None = None
    """Folder of a session to film, in place of a new one."""
    out: Path = Path("figures/live.gif")
    """The film."""


def teach(arguments: Arguments, folder: Path) -> Path:
    """Let the hand teach; returns the folder of the run."""
    with browsing() as browser:
        set_screen(browser, 1200, 900)
        steps = ("--steps", str(arguments.steps))
        with serving(folder / "out", *steps, task=arguments.task) as (_, link):
            enter(browser, link, running=False)
            wait(browser, "state.mode.ready", 600)
            hand = Hand(browser, MINDS[arguments.task](), speed=arguments.speed)
            reports = hand.teach(arguments.rounds, 900)
            pause(browser, True)
            print("rates:", *(f"{each['rate']:.2f}" for each in reports))
    return next((folder / "out").glob("*/*/seed0"))


def film_page(run: Path, shown: int) -> Iterator[tuple[Image.Image, int]]:
    """Yield pictures of the first decisions of each round, and how long each is to be seen [ms]."""
    command = [sys.executable, "-m", "mereq_min.lab.commands.main", "replay", str(run), "--no-browser"]
    with tempfile.TemporaryDirectory() as logs, browsing() as browser:
        set_screen(browser, *SCREEN, still=True)
        with starting(command, Path(logs) / "replay.log") as (_, link):
            enter(browser, link, running=False)
            ask(browser, "link.send({ type: 'undo', steps: 10_000 })")
            wait(browser, "state.frame.n === 0")
            restyle(browser)
            version = 0
            for frame in step_through(browser):
                if frame["round_steps"] < shown:
                    yield take_picture(browser), READING if frame["version"] > version else PAUSE
                    version = frame["version"]


def restyle(browser: Chrome) -> None:
    """Add `STYLE` to the page, whose security policy rules out style elements."""
    script = "const sheet = new CSSStyleSheet(); sheet.replaceSync(arguments[0]);"
    browser.execute_script(script + "document.adoptedStyleSheets = [sheet];", STYLE)


def step_through(browser: Chrome) -> Iterator[dict[str, Any]]:
    """Show all frames of a session, and yield what the page knows of each."""
    wait(browser, "true")
    while not ask(browser, "Boolean(state.frame.isSeen)"):
        yield ask(browser, "(state.frame.isSeen = true, state.frame)")
        press(browser, ".")
        at_end = "document.querySelector('#notice').textContent.includes('session was left')"
        wait(browser, f"!state.frame.isSeen || {at_end}")


def take_picture(browser: Chrome) -> Image.Image:
    """Return a picture of the screen, as wide as the film."""
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    image = Image.open(BytesIO(capture(browser))).convert("RGB")
    return image.resize((WIDTH, WIDTH * image.height // image.width), Image.Resampling.LANCZOS)


def save_film(pictures: list[tuple[Image.Image, int]], file: Path) -> None:
    """Write a GIF whose frames share one palette, so that no colour flickers."""
    images, times = zip(*pictures, strict=True)
    palette = Image.new("RGB", (images[0].width, images[0].height * 4))
    for place in range(4):
        palette.paste(images[place * (len(images) - 1) // 3], (0, place * images[0].height))
    palette = palette.quantize(64)
    frames = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    times = [*times[:-1], READING]
    frames[0].save(file, save_all=True, append_images=frames[1:], duration=times, loop=0, optimize=True)
    print(f"film: {file}, {len(frames)} frames, {file.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    arguments = tyro.cli(Arguments)
    with tempfile.TemporaryDirectory() as place:
        run = arguments.run or teach(arguments, Path(place))
        save_film(list(film_page(run, arguments.shown)), arguments.out)
