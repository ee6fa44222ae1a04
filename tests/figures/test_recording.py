"""Records that are continued where they stopped."""

import pytest


@pytest.fixture(scope="module")
def recording(load_script):
    """The script."""
    return load_script("recording")


def test_a_record_is_continued_where_it_was_cut(recording, tmp_path):
    file, ran = tmp_path / "record.jsonl", []

    def measure(task, seed):
        if seed == 2:
            raise KeyboardInterrupt
        ran.append((task, seed))
        return {"sum": len(task) + seed}

    jobs = [("a", 0), ("a", 1), ("bc", 2), ("bc", 3)]
    arguments = file, {"steps": 10}, ("task", "seed")
    with pytest.raises(KeyboardInterrupt):
        recording.append_missing(*arguments, jobs, measure, lambda: {"unit": "steps"})
    recording.append_missing(*arguments, [jobs[0], jobs[3]], measure)
    assert ran == [jobs[0], jobs[1], jobs[3]]
    header, runs = recording.read_record(file)
    assert header["config"] == {"steps": 10} and header["unit"] == "steps" and "git" in header
    assert [(run["task"], run["seed"], run["sum"]) for run in runs] == [
        ("a", 0, 1),
        ("a", 1, 2),
        ("bc", 3, 5),
    ]


def test_records_of_other_settings_are_left_alone(recording, tmp_path):
    file = tmp_path / "record.jsonl"
    recording.append_missing(file, {"steps": 10}, ("seed",), [(0,)], lambda seed: {})
    before = file.read_bytes()
    with pytest.raises(SystemExit, match="was recorded with other settings"):
        recording.append_missing(file, {"steps": 20}, ("seed",), [(0,)], lambda seed: {})
    assert file.read_bytes() == before


def test_runs_of_another_commit_name_it(recording, tmp_path, monkeypatch):
    file = tmp_path / "record.jsonl"
    for commit, seed in (("old", 0), ("old", 1), ("new", 2)):
        monkeypatch.setattr(recording, "provenance", lambda commit=commit: {"git": commit})
        recording.append_missing(file, {}, ("seed",), [(seed,)], lambda seed: {})
    header, runs = recording.read_record(file)
    assert header["git"] == "old"
    assert runs == [{"seed": 0}, {"seed": 1}, {"seed": 2, "git": "new"}]
