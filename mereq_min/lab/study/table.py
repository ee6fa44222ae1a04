"""The results of a study as one tidy table: a row is one measured value of one session or comparison."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from statistics import median
from typing import Any

from mereq_min.lab.human.folder import journal_file
from mereq_min.lab.human.journal import Take, read_journal
from mereq_min.lab.runs.files import write_file
from mereq_min.lab.runs.records import read_rows
from mereq_min.lab.study.participants import SCALES, Answer, Participant, Study, raw_tlx
from mereq_min.lab.study.plan import Stage

COLUMNS = ("participant", "order", "position", "task", "method", "against", "round", "measure", "value")
"""Names of the columns; what does not apply to a row is empty.

`order` is the number of the participant's order; `against` the other method of a comparison, in which
`preferred` is 1, 0, or 0.5 for both if neither was preferred. Times are in seconds; scales of the NASA-TLX go
from 0 to 100.
"""


def write_table(study: Study) -> None:
    """Write `results.csv` of a study's folder anew; practice is left out."""
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    for participant in study.participants():
        for stage, answer in zip(study.stages(participant), participant.answers, strict=False):
            for row in _describe(study, participant, stage, answer):
                table.writerow({"participant": participant.pseudonym, "order": participant.number, **row})
    write_file(study.path / "results.csv", text.getvalue().encode())


def _describe(
    study: Study, participant: Participant, stage: Stage, answer: Answer
) -> Iterator[dict[str, Any]]:
    where: dict[str, Any] = {"task": stage.task}
    if stage.kind in ("session", "tlx"):
        where |= {"position": stage.position, "method": stage.methods[0]}
    if stage.kind == "session":
        run = study.session_run(participant, stage)
        for measure, value in measure_effort(read_journal(journal_file(run))).items():
            yield {**where, "measure": measure, "value": value}
        for row in read_rows(run):
            rate = row["intervention_rate"]
            yield {**where, "round": row["iteration"], "measure": "intervention rate", "value": rate}
    elif stage.kind == "tlx":
        for measure, value in zip(SCALES, answer.scores, strict=True):
            yield {**where, "measure": measure, "value": value}
        yield {**where, "measure": "raw tlx", "value": raw_tlx(answer.scores)}
    elif stage.kind == "compare":
        for method, other in (stage.methods, stage.methods[::-1]):
            value = 0.5 if not answer.preferred else float(answer.preferred == method)
            yield {**where, "method": method, "against": other, "measure": "preferred", "value": value}


def measure_effort(entries: list[Any]) -> dict[str, float]:
    """What a session cost the person, by its journal; steps that were taken back cost something too.

    Returns:
        `steps`, `takeovers`, `keystrokes`, `seconds in control` and, if the oracle told any violation that
        the person reacted to, `reaction time`, the median.
    """
    takes = [each for each in entries if isinstance(each, Take)]
    person = [each.action is not None for each in takes]
    found: dict[str, float] = {
        "steps": len(takes),
        "takeovers": sum(now and not before for before, now in zip([False, *person], person, strict=False)),
        "keystrokes": sum(each.keys for each in takes),
        "seconds in control": round(sum(each.seconds for each in takes), 3),
    }
    reactions = [each.reaction for each in takes if each.reaction is not None]
    return {**found, "reaction time": median(reactions)} if reactions else found
