"""A film of a live session: a simulated hand teaches at the page of `mereq teach`, in a real browser.

    python figures/live.py    # two minutes; needs chromium and chromedriver

The hand sees what the page shows and presses keys, see tests/hand.py. The film is drawn from the session's
journal, as `mereq replay --film` draws it: pictures of the page itself would be taken too late on a busy
machine. No two films are alike, for the hand reacts in real time.
"""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import msgspec
import tyro

from mereq_min.lab.commands.replay import film_session
from mereq_min.lab.plugins import load_task
from mereq_min.lab.runs.config import RunConfig
from mereq_min.lab.runs.records import read_config

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from browsing import browsing, set_screen
from hand import Carpet, Hand, Highway, enter, pause, wait
from person import serving

MINDS = {"carpet": Carpet, "highway": Highway}
"""Scripted person of each task that can be filmed."""


@dataclass(frozen=True)
class Arguments:
    """Teach, and film that."""

    task: str = "carpet"
    """carpet or highway."""
    rounds: int = 3
    """Rounds of the session."""
    steps: int = 50
    """Steps of a round [steps]."""
    speed: float = 0.5
    """Of the session; on a busy machine the hand is late at higher ones."""
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


if __name__ == "__main__":
    arguments = tyro.cli(Arguments)
    with tempfile.TemporaryDirectory() as place:
        run = teach(arguments, Path(place))
        config = msgspec.convert(read_config(run)["config"], RunConfig)
        film_session(run, load_task(arguments.task), config, arguments.out)
