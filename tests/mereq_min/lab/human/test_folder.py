"""The run folder of a session: what is in it, and whom it does not let in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mereq_min.lab.commands.replay import film_session
from mereq_min.lab.human.films import film_policy
from mereq_min.lab.human.folder import Folder
from mereq_min.lab.human.journal import Adopt, Learn, Take, UndoUpdate
from mereq_min.lab.human.learning import Pupil, Update, find_telling
from mereq_min.lab.human.replay import derive, retrace
from mereq_min.lab.human.report import find_unsure, make_report, say_change
from mereq_min.lab.human.scenes import scene_of
from mereq_min.lab.human.session import Session
from mereq_min.lab.plugins import HUMAN, load_task
from mereq_min.lab.runs.config import RunConfig
from mereq_min.lab.runs.files import RunError
from mereq_min.lab.runs.records import is_complete, read_record, read_rows, read_sealed_rows, read_steps
from mereq_min.lab.runs.run import run
from mereq_min.loop import LoopConfig, settings_of

TASK = load_task("carpet")
CONFIG = RunConfig("carpet", "MEReQ-L", 0, LoopConfig(1000, 25), settings_of(TASK).estimators, expert=HUMAN)


class Live:
    """A session without a clock and without pages."""

    def __init__(self, out: Path, config: RunConfig = CONFIG) -> None:
        self.folder = Folder(TASK, config, out)
        try:
            self.folder.begin(1.0)
            n = config.loop.steps_per_iteration
            self.session = Session(TASK, config.seed, self.folder.policy, steps_per_round=n)
            self.folder.resume(self.session)
        except BaseException:
            self.folder.close()
            raise
        self.pupil = Pupil(TASK, config)

    def do(self, *decisions: object) -> None:
        for decision in decisions:
            self.folder.journal.append(decision)  # type: ignore[arg-type]
            self.session.apply(decision)  # type: ignore[arg-type]

    def teach(self, actions: int = 8) -> Update:
        """Go a round up and to the right, learn from it, and let the policy take over."""
        takes = [
            Take(2.0, action=k % 2, keys=1, seconds=0.5) if k < actions else Take(2.0) for k in range(25)
        ]
        self.do(*takes, Learn(3.0, 1, asked=False))
        steps = self.session.batches
        update = self.pupil.update(steps, 1)
        report = make_report(
            TASK, scene_of(TASK), update, self.folder.rows, steps[-1], takes, 1, [40.0, 50.0]
        )
        self.folder.commit(update, steps[-1], report)
        self.do(Adopt(4.0))
        return update


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    found = Live(tmp_path)
    yield found
    found.folder.close()


@pytest.mark.parametrize("longest", [300, 20])
def test_a_film_has_a_frame_of_each_moment_or_is_thinned_evenly(
    live: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, longest: int
) -> None:
    live.teach()
    live.do(*(Take(5.0) for _ in range(30)))
    path, moments = live.folder.path, sum(1 for _ in retrace(live.folder.path, TASK, CONFIG))
    n_decisions = 25 + 2 + 30
    assert moments > n_decisions + 1  # episodes began, too
    monkeypatch.setattr("mereq_min.lab.commands.replay.LONGEST_FILM", longest)
    film_session(path, TASK, CONFIG, tmp_path / "film.gif")
    with Image.open(tmp_path / "film.gif") as film:
        shown = getattr(film, "n_frames", 1)
    assert shown == (moments if longest == 300 else len(range(0, n_decisions + 1, 3)))


def test_a_round_becomes_an_iteration_of_an_ordinary_run(live: Live) -> None:
    updates = [live.teach(), live.teach()]
    live.do(Take(5.0))
    path = live.folder.path
    assert read_rows(path) == [update.row for update in updates]
    assert [row["steps"] for row in read_rows(path)] == [25, 50]
    assert read_steps(path, 2).policy_version.tolist() == [0] + [1] * 24  # the first was proposed before
    assert all(file.stat().st_mode & 0o077 == 0 for file in (path, path / "live"))
    session, again = derive(TASK, CONFIG, live.folder.journal.entries)
    assert [update.row for update in again] == read_rows(path) and session.n_steps == 51


def test_a_session_goes_on_where_it_was(live: Live, tmp_path: Path) -> None:
    live.teach()
    live.do(Take(5.0), Take(5.0, action=1))
    live.folder.close()
    again = Live(tmp_path)
    assert again.session.history == live.session.history
    assert again.session.n_steps == 27 and again.session.version == 1
    assert again.folder.reports == live.folder.reports
    assert (again.session.proposal, again.session.drive.state) == (
        live.session.proposal, live.session.drive.state,
    )  # fmt: skip
    live.folder = again.folder


@pytest.mark.parametrize("rounds", [1, 2])
def test_an_update_is_taken_back_with_its_files(live: Live, tmp_path: Path, rounds: int) -> None:
    for _ in range(rounds):
        live.teach()
    path = live.folder.path
    kept = read_sealed_rows(path)[:-1]
    policy = (path / "live/policy-001.safetensors").read_bytes()
    live.do(UndoUpdate(6.0))
    live.folder.close()  # as if it were killed here: the files are those of the update that is gone
    again = Live(tmp_path)
    assert read_sealed_rows(path) == kept and len(again.session.rounds) == rounds
    assert not (path / f"steps-{rounds:03d}.safetensors").exists()
    if rounds == 2:
        assert (path / "policy.safetensors").read_bytes() == policy
    else:
        assert not (path / "policy.safetensors").exists()
    live.folder = again.folder


def test_an_update_that_was_written_before_the_end_need_not_be_made_again(live: Live, tmp_path: Path) -> None:
    """Killed between the commit and the decision to adopt."""
    live.teach()
    entries = live.folder.journal.entries
    assert isinstance(entries[-1], Adopt)
    file = live.folder.journal.file
    lines = file.read_bytes().splitlines(keepends=True)
    live.folder.close()
    file.write_bytes(b"".join(lines[:-1]))
    again = Live(tmp_path)
    assert again.session.is_learning and len(again.folder.rows) == 1
    live.folder = again.folder


def test_a_session_that_was_finished_can_be_gone_on_with(live: Live, tmp_path: Path) -> None:
    live.teach()
    live.folder.finish()
    live.folder.close()
    assert is_complete(read_record(live.folder.path))
    again = Live(tmp_path)
    assert not is_complete(read_record(live.folder.path)) and again.session.version == 1
    again.pupil.restore(again.folder.checkpoint(1), [again.session.rounds[0].steps], 1)  # type: ignore[list-item]
    again.teach()
    _, updates = derive(TASK, CONFIG, again.folder.journal.entries)
    assert [update.row for update in updates] == read_rows(live.folder.path)
    live.folder = again.folder


def test_the_most_telling_state_is_that_in_which_an_action_lowers_the_error_most(live: Live) -> None:
    update = live.teach()
    learner = live.pupil.aligner.learner  # type: ignore[attr-defined]
    film = film_policy(TASK, live.folder.policy(1), 0)
    errors = np.array(update.row["standard_errors"], dtype=float)
    entropies = []
    for t in range(len(film.steps)):
        information = learner.information(film.steps.select(np.arange(len(film.steps)) == t))
        entropies.append(np.linalg.slogdet(np.diag(errors**-2) + information)[1])
    assert update.telling == np.argmax(entropies)
    assert find_telling(learner, film.steps, np.full(5, np.inf)) is None
    assert find_telling(learner, film.steps, np.zeros(5)) is None


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (
            RunConfig("carpet", "MEReQ-L", 0, LoopConfig(1000, 50), CONFIG.estimators, expert=HUMAN),
            "per_round 25",
        ),
    ],
)
def test_another_session_is_not_let_in(live: Live, tmp_path: Path, other: RunConfig, why: str) -> None:
    live.do(Take(1.0))
    live.folder.close()
    with pytest.raises(RunError, match=why):
        Live(tmp_path, other)
    live.folder = Live(tmp_path).folder


def test_two_at_a_time_are_not_let_in(live: Live, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is being written by process"):
        Live(tmp_path)


def test_a_run_of_the_simulated_expert_is_no_session(tmp_path: Path) -> None:
    simulated = RunConfig("carpet", "MEReQ-L", 0, LoopConfig(1, 25), CONFIG.estimators)
    run(TASK, simulated, tmp_path)
    with pytest.raises(RunError, match=r"config\.expert simulated there, human now"):
        Live(tmp_path)


def test_steps_that_the_journal_does_not_lead_to_are_refused(live: Live, tmp_path: Path) -> None:
    """The journal is whole, and the run too, but they do not belong together."""
    live.teach(actions=8)
    live.folder.close()
    other = Live(tmp_path / "other")
    other.teach(actions=9)
    other.folder.close()
    journal = "live/journal.jsonl"
    (live.folder.path / journal).write_bytes((other.folder.path / journal).read_bytes())
    with pytest.raises(RunError, match="does not lead to the steps of its iteration 1"):
        Live(tmp_path)
    live.folder = Live(tmp_path / "third").folder


def test_the_report_says_what_was_done_and_what_changed(live: Live) -> None:
    live.teach(actions=8)
    report = live.folder.reports[0]
    assert (report.round, report.steps, report.takeovers, report.keystrokes) == (1, 25, 1, 8)
    assert (
        report.rate == 8 / 25
        and report.rates == [8 / 25]
        and (report.person_seconds, report.round_trip_ms) == (4.0, 45.0)
    )
    theta = read_rows(live.folder.path)[0]["theta"]
    assert report.weights is not None and theta is not None
    assert [each.theta for each in report.weights] == theta == [each.change for each in report.weights]
    assert report.before is not None and report.after is not None
    assert report.before.scenes[0] == report.after.scenes[0] and len(report.before.scenes) == 26
    layout = TASK.layout  # type: ignore[attr-defined]
    assert report.arrows is not None and len(report.arrows) == len(layout.cells)


def test_changes_in_words() -> None:
    words = {"right_lane": ("keeps right more", "keeps right less")}
    assert say_change("right_lane", 0.413, words) == "keeps right more: +0.41"
    assert say_change("right_lane", -0.2, words) == "keeps right less: -0.20"
    assert say_change("speed", 0.2, words) == "more speed: +0.20"
    assert say_change("speed", 0.001, words) == "speed: as before"


def test_what_is_least_known_is_told_with_what_more_takeovers_would_do() -> None:
    row = {"iteration": 1, "standard_errors": [0.1, 0.4]}
    assert "b is the least certain (+-0.40)" in find_unsure(("a", "b"), row)  # type: ignore[arg-type]
    assert "+-0.28" in find_unsure(("a", "b"), row)  # type: ignore[arg-type]
    assert "do not determine" in find_unsure(("a",), {"standard_errors": [None]})  # type: ignore[arg-type,typeddict-item]
    assert find_unsure(("a",), {}) == ""  # type: ignore[arg-type,typeddict-item]
