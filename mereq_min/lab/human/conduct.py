"""Conducting a live session: the clock, the person's hands, the journal, the updates and the pages.

One coroutine drives. Messages only say what is wanted, and wake it up; everything that takes time (the disk,
the simulator, networks, pictures) happens in a thread while it waits, so that the server always answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from mereq_min.interfaces import Task
from mereq_min.lab.human.folder import Folder
from mereq_min.lab.human.hands import make_hands
from mereq_min.lab.human.journal import Adopt, Learn, Take, Undo, UndoUpdate
from mereq_min.lab.human.learning import Update, Worker
from mereq_min.lab.human.protocol import (
    Act,
    Begin,
    Claim,
    Frame,
    FromPage,
    Go,
    HandBack,
    LearnNow,
    Mode,
    Notice,
    Pause,
    Ping,
    Pong,
    Report,
    SavePolicy,
    SetPace,
    Stop,
)
from mereq_min.lab.human.protocol import Undo as UndoSteps
from mereq_min.lab.human.protocol import UndoUpdate as UndoTheUpdate
from mereq_min.lab.human.reaction import Reactions
from mereq_min.lab.human.report import hide_method, make_report
from mereq_min.lab.human.scenes import scene_of
from mereq_min.lab.human.server import Room
from mereq_min.lab.human.session import Session
from mereq_min.lab.human.views import make_frame, make_welcome
from mereq_min.lab.plugins import make_closed_env
from mereq_min.lab.runs.config import RunConfig
from mereq_min.lab.runs.records import is_finished

MOMENT = 0.7
"""Time for which the last state of an episode is shown [s]."""
MOST_TIMES = 100_000
"""Times that are kept of what is measured."""
MOST_ROUND_TRIPS = 60
"""Round trips of the page that are kept."""
LONGEST_THOUGHT = 10.0
"""Most of the time between two keys that counts as the person's, turn by turn [s]."""


class Conductor:
    """Conducts one session until it is stopped.

    Args:
        task: the task.
        config: the run.
        out: root of the run folders.
        host: address to listen on.
        port: port; 0 takes a free one.
        reaction: time from what provokes a takeover to the key, where it cannot be measured [s].
        blind: whether pages are told nothing that depends on the kind of the method.
        on_open: called with the link.

    Attributes:
        lateness: by how much each step came after it was due, in real time [s].
        latencies: time from a key (or from when its step was due, if later) to the frame that shows it [s].

    Raises:
        RunError: if the run's folder is in use, holds another run, or is damaged.
    """

    def __init__(
        self,
        task: Task,
        config: RunConfig,
        out: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        reaction: float = 0.5,
        blind: bool = False,
        on_open: Callable[[str], None] = lambda link: None,
    ) -> None:
        self.task, self.config, self.scene = task, config, scene_of(task)
        self._out, self._on_open, self._blind = out, on_open, blind
        self.folder = Folder(task, config, out)
        self.room = Room(
            host,
            port,
            on_message=self._hear,
            on_connect=self._greet,
            on_change=self._change_control,
            on_fault=self._fail,
        )
        env = make_closed_env(task)
        self.hands = make_hands(env.action_space, self.scene.idle)
        self.reactions = Reactions(task.oracle, reaction)
        self.session: Session | None = None
        self.phase, self.paused, self.why = "tutorial", True, ""
        self.pace, self.speed = self.scene.pace, 1.0
        self.lateness: deque[float] = deque(maxlen=MOST_TIMES)
        self.latencies: deque[float] = deque(maxlen=MOST_TIMES)
        self._keyed: float | None = None  # when a key came that no frame has shown yet [s]
        self._wishes: deque[FromPage] = deque()
        self._go = 0
        self._woken = asyncio.Event()
        self._fault: BaseException | None = None
        self._worker: Worker | None = None
        self._is_ready = False
        self._request, self._asked = 0, False  # number of the last request, and whether it is an update
        self._requests: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()
        self._writing = asyncio.Lock()  # of the run's iterations
        self._frame: Frame | None = None
        self._stepped = time.monotonic()
        self._round_trips: deque[float] = deque(maxlen=MOST_ROUND_TRIPS)

    # --- Life -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Open the session's page, and drive until somebody stops it."""
        try:
            self._worker = Worker(self.config, self._out)
            first = (await asyncio.to_thread(self._worker.receive))[2]
            await asyncio.to_thread(self._start, first)
            beside = [asyncio.create_task(each) for each in (self._listen(), self._pass_on())]
            for each in beside:
                each.add_done_callback(self._look_for_fault)
            self._on_open(await self.room.open())
            try:
                await self._drive()
            finally:
                for each in beside:
                    each.cancel()
                await self.room.close()
        finally:
            if self._worker is not None:
                self._worker.close()
            if self.session is not None:
                self.session.close()
            self.folder.close()

    def stop(self) -> None:
        """End the session after the current action, like the page's button."""
        self._want(Stop())
        self._woken.set()

    def _start(self, first: Any) -> None:
        """Bring the session to where its journal ends."""
        self.folder.begin(time.time())
        self.folder.keep_first_policy(first)
        self.session = Session(
            self.task,
            self.config.seed,
            self.folder.policy,
            steps_per_round=self.config.loop.steps_per_iteration,
            render_mode=self.scene.render_mode,
        )
        self.folder.resume(self.session)
        if self._live.history:
            self.phase = "driving"
        batches = self._live.batches
        done = len(self.folder.rows)
        if done:
            self._ask("restore", self.folder.checkpoint(done), batches[:done], self._patience_of(done))
        for each in self._live.history:
            if isinstance(each, Take):
                self.reactions.remember(each.reaction)
        self._frame = make_frame(self._live, self.scene)

    def _patience_of(self, round_number: int) -> int:
        learns = [each for each in self._live.history if isinstance(each, Learn)]
        return learns[round_number - 1].patience

    @property
    def _live(self) -> Session:
        assert self.session is not None  # made before anybody can connect
        return self.session

    def _look_for_fault(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """Let `_drive` end with a mistake of ours that was made elsewhere."""
        self._fault = self._fault or error
        self._woken.set()

    # --- Driving --------------------------------------------------------------------------------------------

    async def _drive(self) -> None:
        """Do what is wanted and what is due, one thing after another."""
        due = time.monotonic()
        while self.phase != "finished":
            self._woken.clear()
            if self._fault is not None:
                raise self._fault
            try:
                if self._wishes:
                    await self._grant(self._wishes.popleft())
                elif self._live.is_learning and len(self.folder.reports) > self._live.version:
                    await self._adopt()
                elif self._live.is_learning and not self._asked:
                    self._begin_update()
                elif self._live.is_due:
                    await self._decide(self._learn(asked=False))
                elif self.phase == "tutorial" or (self.paused and not self._go):
                    due = await self._wait_for_wish()
                elif self._live.ended:
                    due = await self._begin_episode()
                elif self.pace == "turns" and self.hands.is_waited_for and not self._go:
                    due = await self._wait_for_wish()
                elif not self._go and await self._wait_until(due):
                    continue  # something else may be wanted now
                else:
                    due = await self._step(due)
            except OSError as error:
                self._halt_for_disk(error)

    async def _wait_for_wish(self) -> float:
        await self._woken.wait()
        return time.monotonic()  # the next step is due at once

    async def _wait_until(self, due: float) -> bool:
        """Wait until a step is due; returns whether something was wanted before."""
        left = due - time.monotonic()
        if left <= 0:
            return False
        try:
            await asyncio.wait_for(self._woken.wait(), left)
        except TimeoutError:
            return False
        turn = self.pace == "turns" and self.hands.in_control and not self.hands.is_waited_for
        return not turn  # a key of the person's turn takes its step at once

    async def _begin_episode(self) -> float:
        """Show the end of an episode for a moment, or until `go`, then the beginning of the next."""
        if not self._go:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), MOMENT / self.speed)
            if self._wishes or self.paused:
                return time.monotonic()
        self._go = max(0, self._go - 1)
        await self._work(self._live.proceed)
        return time.monotonic() + self._interval

    async def _step(self, due: float) -> float:
        """Take a step; returns when the next one is due."""
        now = time.monotonic()
        if not self._go and self.pace == "real time":
            self.lateness.append(now - due)
        self._go = max(0, self._go - 1)
        keyed, self._keyed = self._keyed, None
        keys, person = self.hands.keys, self.hands.in_control
        action = self.hands.decide(self._live.proposal)
        taken = Take(
            at=round(time.time(), 3),
            action=action,
            by=(self.room.controller or "") if action is not None else "",
            keys=keys,
            reaction=self.reactions.take_measured(),
            seconds=round(min(now - self._stepped, LONGEST_THOUGHT), 3) if action is not None else 0.0,
        )
        self._stepped = now
        await self._decide(taken)
        if keyed is not None:
            self.latencies.append(time.monotonic() - max(keyed, min(due, now)))
        if person != self.hands.in_control:
            self._send_mode()
        late = time.monotonic() - (due + self._interval) > self._interval
        return time.monotonic() if late else due + self._interval

    @property
    def _interval(self) -> float:
        """Time between two steps [s]."""
        return 1 / (self.scene.rate * self.speed)

    async def _decide(self, decision: Any) -> None:
        """Write a decision down, do it, and show what comes of it."""

        def do() -> None:
            self.folder.journal.append(decision)
            self._live.apply(decision)

        await self._work(do, rewound=isinstance(decision, Undo | UndoUpdate))

    async def _work(self, do: Callable[[], Any], *, rewound: bool = False) -> None:
        """Do something to the session beside the server, and show what comes of it."""

        def both() -> None:
            do()
            self._frame = make_frame(self._live, self.scene, rewound=rewound)

        await asyncio.to_thread(both)
        assert self._frame is not None  # just made
        self.room.send(self._frame)
        self._see_proposal()

    def _see_proposal(self) -> None:
        """Note when the person could first see that the policy was about to do something wrong."""
        live = self._live
        if not live.ended and not self.hands.in_control:
            self.reactions.see(live.drive.state, live.proposal, time.monotonic())

    # --- Updates --------------------------------------------------------------------------------------------

    def _learn(self, *, asked: bool) -> Learn:
        rate = self.scene.rate * self.speed
        waits = self.pace == "turns" and self.paused
        return Learn(time.time(), 0 if waits else self.reactions.patience(rate), asked)

    def _begin_update(self) -> None:
        batches = self._live.batches
        self._asked = True
        self._ask("update", batches, self._patience_of(len(batches)))
        self._send_mode()

    def _ask(self, request: str, *arguments: Any) -> None:
        """Ask the worker for something; only the answer to the last request counts."""
        self._request += 1
        self._requests.put_nowait((self._request, request, *arguments))

    async def _pass_on(self) -> None:
        """Pass requests on: while the worker is busy it reads nothing, and would hold up whoever writes."""
        assert self._worker is not None
        while True:
            await asyncio.to_thread(self._worker.ask, *await self._requests.get())

    async def _listen(self) -> None:
        """Hear what the worker says."""
        assert self._worker is not None
        while True:
            try:
                kind, number, found = await asyncio.to_thread(self._worker.receive)
            except EOFError:
                self._halt("the process that learns has ended; start the same command again to continue")
                return
            if kind == "ready":
                self._is_ready = True
                self._send_mode()
            elif number != self._request:
                continue  # it was taken back meanwhile
            elif kind == "failed":
                self._halt(f'the update failed ({found}); press "Undo last update" or "End session"')
            elif isinstance(found, Update):
                await self._write_down(number, found)
            self._woken.set()

    async def _write_down(self, request: int, update: Update) -> None:
        """Make an update the next iteration of the run, while the policy from before drives on."""
        while True:
            async with self._writing:
                if request != self._request:
                    return
                number, rounds = update.row["iteration"], self._live.rounds
                finished = rounds[number - 1]
                assert finished.steps is not None  # the update was made from them
                decisions = self._live.history[finished.first : rounds[number].first]
                report = make_report(
                    self.task,
                    self.scene,
                    update,
                    self.folder.rows,
                    finished.steps,
                    [each for each in decisions if isinstance(each, Take)],
                    self._patience_of(number),
                    self._round_trips,
                )
                try:
                    await asyncio.to_thread(self.folder.commit, update, finished.steps, report)
                    return
                except OSError as error:
                    self._halt_for_disk(error)
            while self.paused:
                await asyncio.sleep(0.1)

    async def _adopt(self) -> None:
        """Let the policy of an update that is written down take over, and report.

        It may have done so before: whoever takes back the first steps of a round takes that back too, and a
        crash may have come before it.
        """
        report = self.folder.reports[self._live.version]
        await self._decide(Adopt(time.time()))
        self._asked = False
        self.room.send(self._tell(report))
        if is_finished(self.folder.rows, self.config.loop):
            await self._finish()
        self._send_mode()

    # --- What is wanted -------------------------------------------------------------------------------------

    def _hear(self, tab: str, message: FromPage) -> None:
        """Take a message of a tab; what takes time is left to `_drive`."""
        if isinstance(message, Ping):
            self.room.tell(tab, Pong(message.t))
            if message.round_trip_ms is not None and tab == self.room.controller:
                self._round_trips.append(message.round_trip_ms)
        elif isinstance(message, Claim):
            self.room.give_control(tab)
        elif tab != self.room.controller:
            self.room.tell(
                tab, Notice('another tab is in control; press "Take control here" first', wrong=True)
            )
        elif isinstance(message, Act):
            self._act(tab, message)
        else:
            self._want(message)
            self._woken.set()

    def _act(self, tab: str, act: Act) -> None:
        if self.phase == "finished":
            return
        try:
            took_over = self.hands.act(act.action, act.down, act.keys)
        except ValueError as error:
            self.room.tell(tab, Notice(str(error), wrong=True))
            return
        now = time.monotonic()
        self._keyed = self._keyed or now
        if took_over:
            self.reactions.take_over(now)
            self._stepped = now
            self._send_mode()
        self._woken.set()

    def _want(self, message: FromPage) -> None:
        if isinstance(message, Begin):
            if self.phase == "tutorial":
                self.phase, self.paused = "driving", False
        elif isinstance(message, HandBack):
            self.hands.hand_back()
        elif isinstance(message, Pause):
            self.paused, self.why, self._go = message.on, "", 0
            self.reactions.forget()
            if not message.on:
                self._see_proposal()
        elif isinstance(message, Go):
            self._go += self.paused
        elif isinstance(message, SetPace):
            self.pace = message.pace or self.pace
            self.speed = message.speed or self.speed
            self.hands.release = message.release or self.hands.release
        elif len(self._wishes) < 16:
            self._wishes.append(message)
        self._send_mode()

    async def _grant(self, wish: FromPage) -> None:
        """Do what takes time."""
        live = self._live
        if isinstance(wish, UndoSteps):
            self.paused, self.why = True, ""
            self.hands.let_go()
            if live.takes:
                await self._decide(Undo(time.time(), min(wish.steps, len(live.takes))))
            else:
                self.room.send(Notice("there is no step of this round to take back"))
        elif isinstance(wish, UndoTheUpdate):
            await self._undo_update()
        elif isinstance(wish, LearnNow):
            if live.is_learning or not live.takes:
                self.room.send(Notice("there is nothing to learn from yet, or an update is being made"))
            else:
                await self._decide(self._learn(asked=True))
        elif isinstance(wish, SavePolicy):
            await self._save_policy()
        elif isinstance(wish, Stop):
            await self._finish()
        self._send_mode()

    async def _finish(self) -> None:
        await asyncio.to_thread(self.folder.finish)
        self.phase = "finished"

    async def _undo_update(self) -> None:
        if len(self._live.rounds) == 1:
            self.room.send(Notice("there is no update to take back"))
            return
        self.paused, self.why = True, ""
        self.hands.let_go()
        async with self._writing:
            await self._decide(UndoUpdate(time.time()))
            while len(self.folder.rows) >= len(self._live.rounds):
                await asyncio.to_thread(self.folder.take_back)
            done = len(self.folder.rows)
            batches = self._live.batches
            self._asked = False
            self._ask(
                "restore", self.folder.checkpoint(done), batches, self._patience_of(done) if done else 0
            )

    async def _save_policy(self) -> None:
        if not self._live.version:
            self.room.send(Notice("nothing was learned yet, so there is no policy to save"))
            return
        file = await asyncio.to_thread(self.folder.save_policy, self._live.version)
        self.room.send(Notice("the policy is saved" if self._blind else f"the policy is saved as {file}"))

    # --- What is told ---------------------------------------------------------------------------------------

    def _change_control(self, why: str) -> None:
        """Control went to another tab, or to nobody: hands that are gone hold nothing."""
        self.hands.let_go()
        if self.phase == "driving":
            self._halt(why)
        else:
            self._send_mode()

    def _halt_for_disk(self, error: OSError) -> None:
        self._halt(f"{error.strerror or error}: nothing is lost; fix this (is the disk full?), then resume")

    def _halt(self, why: str) -> None:
        """Pause, and say why."""
        self.paused, self.why, self._go = True, why, 0
        self._send_mode()
        self._woken.set()

    def _send_mode(self) -> None:
        if self.session is not None:
            self.room.send(self._mode())

    def _mode(self) -> Mode:
        live = self._live
        return Mode(
            phase=self.phase,  # type: ignore[arg-type]
            paused=self.paused,
            why=self.why if self.paused else "",
            person=self.hands.in_control,
            pace=self.pace,
            speed=self.speed,
            release=self.hands.release,
            controller=self.room.controller,
            tabs=self.room.tabs,
            learning=live.is_learning,
            ready=self._is_ready,
            version=live.version,
            can_learn=bool(live.takes) and not live.is_learning,
            can_undo=bool(live.takes),
            can_undo_update=len(live.rounds) > 1,
        )

    def _greet(self, tab: str) -> list[msgspec.Struct]:
        assert self._frame is not None  # made before anybody can connect
        welcome = make_welcome(self.task, self.scene, self.config, tab, replay=False)
        if self._blind:
            welcome.method = ""
        return [welcome, self._mode(), self._frame, *map(self._tell, self.folder.reports)]

    def _tell(self, report: Report) -> Report:
        """What pages are told of a report."""
        return hide_method(report) if self._blind else report
