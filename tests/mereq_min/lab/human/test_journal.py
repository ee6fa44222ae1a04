"""The journal: whole lines survive anything, and only the line in flight is ever lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mereq_min.lab.human.journal import (
    Adopt,
    Begin,
    Journal,
    Learn,
    Take,
    Undo,
    UndoUpdate,
    effective,
    read_journal,
)
from mereq_min.lab.runs.files import RunError

BEGIN = Begin("carpet", "MEReQ-L", 0, 100, 1.0)
SEVERAL = [
    BEGIN,
    Take(2.0),
    Take(3.0, action=2, by="a", keys=3, reaction=0.41, seconds=1.25),
    Take(3.5, action=[0.1, -1 / 3, 1e-17], by="a"),
    Learn(4.0, 2, asked=True),
    Adopt(5.0),
    Undo(6.0, 3),
    UndoUpdate(7.0),
]


def write(file: Path, entries: list) -> Path:
    journal = Journal(file)
    for entry in entries:
        journal.append(entry)
    journal.close()
    return file


def test_what_was_written_is_read(tmp_path: Path) -> None:
    file = write(tmp_path / "live/journal.jsonl", SEVERAL)
    assert read_journal(file) == SEVERAL
    assert file.stat().st_mode & 0o777 == 0o600
    reopened = Journal(file)
    assert reopened.entries == SEVERAL
    reopened.append(Take(9.0))
    reopened.close()
    assert read_journal(file) == [*SEVERAL, Take(9.0)]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_line_that_was_cut_off_is_the_only_one_lost(data: st.DataObject, tmp_path: Path) -> None:
    file = tmp_path / "journal.jsonl"
    file.unlink(missing_ok=True)
    whole = write(file, SEVERAL).read_bytes()
    size = data.draw(st.integers(0, len(whole)))
    file.write_bytes(whole[:size] + data.draw(st.sampled_from([b"", b"\0\0\0\0"])))
    kept = whole[:size].count(b"\n")
    assert read_journal(file) == SEVERAL[:kept]
    journal = Journal(file)
    for entry in SEVERAL[kept:]:
        journal.append(entry)
    journal.close()
    assert file.read_bytes() == whole


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_change_anywhere_else_is_found(data: st.DataObject, tmp_path: Path) -> None:
    file = tmp_path / "journal.jsonl"
    file.unlink(missing_ok=True)
    whole = write(file, SEVERAL).read_bytes()
    last = whole[:-1].rindex(b"\n") + 1
    at = data.draw(st.integers(0, last - 1))
    value = data.draw(st.integers(0, 255).filter(lambda byte: byte != whole[at]))
    file.write_bytes(whole[:at] + bytes([value]) + whole[at + 1 :])
    with pytest.raises(RunError, match="is damaged"):
        read_journal(file)


def test_lines_that_changed_places_or_are_missing_are_found(tmp_path: Path) -> None:
    lines = write(tmp_path / "journal.jsonl", SEVERAL).read_bytes().splitlines(keepends=True)
    for changed in ([*lines[:2], lines[3], lines[2], *lines[4:]], [*lines[:3], *lines[4:]], lines[1:]):
        (tmp_path / "other.jsonl").write_bytes(b"".join(changed))
        with pytest.raises(RunError, match="is damaged"):
            read_journal(tmp_path / "other.jsonl")


def test_there_must_be_a_journal(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no session of a person"):
        read_journal(tmp_path / "live/journal.jsonl")


FULL = """
import resource, sys
from pathlib import Path
from mereq_min.lab.human.journal import Begin, Journal, Take
journal = Journal(Path(sys.argv[1]))
journal.append(Begin("carpet", "MEReQ-L", 0, 100, 1.0))
size = journal.file.stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 50, resource.RLIM_INFINITY))
for _ in range(3):
    try:
        journal.append(Take(2.0))
    except OSError:
        print("refused", journal.file.stat().st_size == size, len(journal.entries))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
journal.append(Take(3.0))
"""


def test_where_there_is_no_room_nothing_is_written_and_nothing_is_lost(tmp_path: Path) -> None:
    """The operating system itself refuses the rest of a line, after its beginning was written."""
    file = tmp_path / "journal.jsonl"
    run = subprocess.run([sys.executable, "-c", FULL, str(file)], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ["refused True 1"] * 3
    assert read_journal(file) == [BEGIN, Take(3.0)]


def test_undo_goes_back_to_the_last_update_and_no_further() -> None:
    a, b, c = Take(1.0), Take(2.0), Take(3.0)
    learn, adopt = Learn(2.5, 1, asked=False), Adopt(2.6)
    assert effective([BEGIN, a, b, Undo(0.0, 1), c]) == [a, c]
    assert effective([BEGIN, a, learn, b, adopt, c, Undo(0.0, 2)]) == [a, learn]
    assert effective([BEGIN, a, learn, adopt, c, Undo(0.0, 9)]) == [a, learn, adopt]
    assert effective([BEGIN, a, learn, adopt, c, UndoUpdate(0.0)]) == [a]
    assert effective([BEGIN, a, learn, adopt, c, UndoUpdate(0.0), Undo(0.0, 1), b]) == [b]
    assert effective([BEGIN, UndoUpdate(0.0), a]) == [a]
