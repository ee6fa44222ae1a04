"""Measure how late the server of a live session is, at rest and while it learns, and print a table.

    python tests/benchmarks/live.py

A scripted page in another process drives with keys at random. Late: by how much a step comes after it is due.
Answer: time from a key, or from the step that it is for if that is due later, to the frame that shows what it
did. Round trip: of a ping of that page. Update: from the wish to the new policy. All are wall times [ms]: on
a machine that does something else, they measure that too, so that the load is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from measuring import describe_measurement

sys.path.insert(0, str(Path(__file__).parents[1]))

from person import Page, visit

from mereq_min.lab.commands.teach import Teach
from mereq_min.lab.human.conduct import Conductor
from mereq_min.lab.plugins import load_task

SPEEDS = {"carpet": 10 / 3, "highway": 5.0, "bottle": 1.0}
"""Factor on each task's rate: 10, 5 and 20 steps a second."""
QUANTILES = (50, 95, 99, 100)
"""Quantiles of the times that are printed [%]."""


async def drive(link: str, seconds: float) -> dict[str, Any]:
    """Press keys at random while the session learns, after as long without learning.

    Returns:
        Round trips in both halves [ms], and the times of the updates [s].
    """
    rng = np.random.default_rng(0)
    found: dict[str, list[float]] = {"rest": [], "learning": [], "updates": []}
    async with visit(link) as page:
        actions = [each["action"] for each in page.last["welcome"]["actions"]]
        await page.until(lambda each: each.last["mode"]["ready"])
        await page.send("begin")
        await page.send("pace", pace="real time", speed=SPEEDS[page.last["welcome"]["task"]])
        for half in ("rest", "learning"):
            print(half, flush=True)
            await press(page, rng, actions, seconds, found, half)
        print("end", flush=True)
        await page.send("stop")
        await page.until(lambda each: each.last["mode"]["phase"] == "finished")
    return found


async def press(
    page: Page,
    rng: np.random.Generator,
    actions: list[Any],
    seconds: float,
    found: dict[str, list[float]],
    half: str,
) -> None:
    """Press and release keys, and ping, for some time."""
    end, asked = time.monotonic() + seconds, 0.0
    pinged = 0.0
    while time.monotonic() < end:
        now = time.monotonic()
        if now - pinged > 0.1:
            pinged = now
            await page.send("ping", t=now)
        if rng.random() < 0.02:
            action = actions[rng.integers(len(actions))]
            await page.send("act", action=action)
            await page.send("act", action=action, down=False)
        if rng.random() < 0.004:
            await page.send("hand_back")
        can_learn = page.last["mode"]["can_learn"] and page.last["frame"]["round_person"] > 5
        if half == "learning" and can_learn and not asked:
            asked = now
            await page.send("learn")
        try:
            message = await asyncio.wait_for(page.receive(), 0.01)
        except TimeoutError:
            continue
        if message["type"] == "pong":
            found[half].append(1e3 * (time.monotonic() - message["t"]))
        if message["type"] == "report" and asked:
            found["updates"].append(time.monotonic() - asked)
            asked = 0.0


async def measure(name: str, seconds: float) -> list[tuple[str, dict[str, list[float]]]]:
    """The times of one task, at rest and while learning [ms]."""
    command = replace(Teach(task=name).with_recorded_settings(), steps=10_000)
    task, marks = load_task(name), dict[str, tuple[int, int]]()
    with tempfile.TemporaryDirectory() as out:
        conductor = Conductor(task, command.config, Path(out), on_open=lambda link: links.put_nowait(link))
        links: asyncio.Queue[str] = asyncio.Queue()
        running = asyncio.create_task(conductor.run())
        page = await asyncio.create_subprocess_exec(
            sys.executable, __file__, "--page", await links.get(), "--seconds", str(seconds),
            stdout=subprocess.PIPE, limit=2**24,
        )  # fmt: skip
        assert page.stdout is not None
        lines = []
        while line := (await page.stdout.readline()).decode().strip():
            lines.append(line)
            marks[line] = len(conductor.lateness), len(conductor.latencies)
        await running
    found = json.loads(lines[-1])
    late, latencies = list(conductor.lateness), list(conductor.latencies)
    halves = []
    for half, after in (("rest", "learning"), ("learning", "end")):
        (a, b), (c, d) = marks[half], marks[after]
        times = {"late": [1e3 * t for t in late[a:c]], "answer": [1e3 * t for t in latencies[b:d]]}
        halves.append((half, {**times, "round trip": found[half]}))
    halves.append(("learning", {"update": [1e3 * t for t in found["updates"]]}))
    return halves


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="*", default=list(SPEEDS))
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--record", type=Path, help="file for the numbers (.json)")
    parser.add_argument("--page", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.page:
        print(json.dumps(asyncio.run(drive(options.page, options.seconds))), flush=True)
        return
    record: dict[str, Any] = {
        **describe_measurement(("mereq-min", "websockets", "numpy", "torch", "jax", "mujoco")),
        "processors": os.cpu_count(), "load": [os.getloadavg()[0]], "quantiles": QUANTILES, "times [ms]": {},
    }  # fmt: skip
    print(record)
    print(f"{'task':8} {'':9} {'':11} {'n':>6}", *(f"{q:7g}%" for q in QUANTILES))
    for name in options.tasks:
        record["times [ms]"][name] = {"rest": {}, "learning": {}}
        for half, times in asyncio.run(measure(name, options.seconds)):
            for what, values in times.items():
                if values:
                    spread = np.percentile(values, QUANTILES).round(1).tolist()
                    record["times [ms]"][name][half][what] = {"n": len(values), "quantiles": spread}
                    shown = " ".join(f"{each:8.1f}" for each in spread)
                    print(f"{name:8} {half:9} {what:11} {len(values):6} {shown}", flush=True)
        record["load"].append(os.getloadavg()[0])
    print("load", *record["load"])
    if options.record:
        options.record.parent.mkdir(parents=True, exist_ok=True)
        options.record.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
