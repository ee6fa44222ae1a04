"""What a study keeps: a folder, and in it one of each participant, under a pseudonym.

plan.json                         the plan, which must not change once somebody took part
participants/bakoli/answers.json  how far the participant is, and the answers
participants/bakoli/session-1/    the run of the first session, with its journal
results.csv                       everything as a table, see `table`
"""

from __future__ import annotations

import secrets
import shutil
import time
from pathlib import Path

import msgspec

from mereq_min.lab.plugins import UsageError
from mereq_min.lab.runs.config import run_folder
from mereq_min.lab.runs.files import RunError, make_folder, read_file, write_file
from mereq_min.lab.study.plan import Plan, Stage, configure, list_stages

LARGEST_ANSWERS = 2**22
"""Size of the largest file of answers that is read [bytes]."""
SCALES = ("mental demand", "physical demand", "temporal demand", "performance", "effort", "frustration")
"""The six scales of the NASA-TLX, each from 0 to 100."""


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What came of a stage that is done."""

    at: float
    """When, in seconds since 1970 [s]."""
    scores: list[int] = []
    """Of the scales of the NASA-TLX, from 0 to 100."""
    preferred: str = ""
    """The method that was preferred in a comparison; empty if neither was."""


class Participant(msgspec.Struct):
    """How far a participant is."""

    pseudonym: str
    """By which the participant is known, here and to themselves."""
    number: int
    """Which order of the plan is theirs."""
    secret: int
    """Decides which policy of a comparison is called A."""
    answers: list[Answer] = []
    """Of the stages that are done."""


class Study:
    """The folder of a study, which one process at a time may write: see `lock.hold`.

    Args:
        path: the folder.
        plan: the plan.

    Raises:
        UsageError: if it holds participants of another plan.
    """

    def __init__(self, path: Path, plan: Plan) -> None:
        self.path, self.plan = path, plan
        file = path / "plan.json"
        if self.participants():
            if file.read_bytes() != msgspec.json.encode(plan):
                raise UsageError(
                    f"the plan of {path} has changed since people took part; give it another name"
                )
            return
        make_folder(path)
        path.chmod(0o700)
        write_file(file, msgspec.json.encode(plan))

    def participants(self) -> list[Participant]:
        """Everybody, by number.

        Raises:
            RunError: if a file is damaged.
        """
        found = [_read(file) for file in self.path.glob("participants/*/answers.json")]
        return sorted(found, key=lambda each: each.number)

    def stages(self, participant: Participant) -> list[Stage]:
        """What the participant goes through; the stage that is next has the index `len(answers)`."""
        return list_stages(self.plan, participant.number)

    def is_done(self, participant: Participant) -> bool:
        """Whether nothing is left to do."""
        return len(participant.answers) >= len(self.stages(participant))

    def admit(self, *, new: bool = False) -> Participant:
        """Go on with whoever is not done, or admit the next participant.

        The order of somebody whose data was deleted is given to the next, so that orders stay balanced.

        Args:
            new: whether it must be a new one.
        """
        known = self.participants()
        waiting = [each for each in known if not self.is_done(each)]
        if waiting and not new:
            return waiting[-1]
        taken = {each.number for each in known}
        number = next(k for k in range(len(known) + 1) if k not in taken)
        names = {each.pseudonym for each in known}
        pseudonym = next(name for name in iter(_make_pseudonym, None) if name not in names)
        participant = Participant(pseudonym, number, secrets.randbits(32))
        self._write(participant)
        self.folder(participant).chmod(0o700)
        return participant

    def keep(self, participant: Participant, answer: Answer) -> None:
        """Write down that the participant's next stage is done."""
        participant.answers.append(answer)
        self._write(participant)

    def erase(self, pseudonym: str) -> None:
        """Delete everything of a participant.

        Raises:
            UsageError: if there is none of that pseudonym.
        """
        if pseudonym not in {each.pseudonym for each in self.participants()}:
            raise UsageError(f"there is no participant {pseudonym!r} in {self.path}")
        shutil.rmtree(self.path / "participants" / pseudonym)

    def folder(self, participant: Participant) -> Path:
        """The folder of everything of a participant."""
        return self.path / "participants" / participant.pseudonym

    def session_root(self, participant: Participant, stage: Stage) -> Path:
        """Root of the run folder of a session."""
        name = "practice" if stage.kind == "practice" else f"session-{stage.position}"
        return self.folder(participant) / name

    def session_run(self, participant: Participant, stage: Stage) -> Path:
        """Folder of the run of a session."""
        return run_folder(
            self.session_root(participant, stage), configure(self.plan, stage, participant.number)
        )

    def _write(self, participant: Participant) -> None:
        write_file(self.folder(participant) / "answers.json", msgspec.json.encode(participant))


def answer_now(*, scores: list[int] | None = None, preferred: str = "") -> Answer:
    """An answer that is given now."""
    return Answer(round(time.time(), 3), scores or [], preferred)


def raw_tlx(scores: list[int]) -> float:
    """The raw NASA-TLX, which is the mean of the six scales, from 0 to 100. Hart 2006."""
    return sum(scores) / len(SCALES)


def name_policies(participant: Participant, index: int, stage: Stage) -> tuple[str, str]:
    """The methods behind A and B in the comparison at an index of the participant's stages."""
    first, second = stage.methods
    is_swapped = (participant.secret >> (index % 32)) & 1
    return (second, first) if is_swapped else (first, second)


def _make_pseudonym() -> str:
    return "".join(secrets.choice("bdfgklmnprstvz") + secrets.choice("aeiou") for _ in range(4))


def _read(file: Path) -> Participant:
    try:
        found = msgspec.json.decode(read_file(file, LARGEST_ANSWERS), type=Participant)
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        raise RunError(f"{file} is damaged ({error}); mend it, or delete the folder {file.parent}") from error
    if found.pseudonym != file.parent.name:
        raise RunError(f"{file} is of {found.pseudonym!r}; call its folder by that name")
    return found
