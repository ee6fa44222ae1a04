"""The run folder of a session: an ordinary run, and beside its files a folder `live` with

    journal.jsonl             the truth, see `journal`
    policy-001.safetensors    the policy after each update, from which steps are derived again
    checkpoint-001.safetensors  what the update after it depends on, so that updates can be taken back
    report-001.json           what the person was told, see `protocol.Report`

Everything but the journal can be derived from it.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import msgspec

from mereq_min.interfaces import Policy, Task
from mereq_min.lab.human.journal import Begin, Journal, Learn, effective
from mereq_min.lab.human.learning import Update
from mereq_min.lab.human.protocol import Report
from mereq_min.lab.human.session import Session
from mereq_min.lab.runs.config import RunConfig, run_folder
from mereq_min.lab.runs.files import (
    Arrays,
    RunError,
    load_arrays,
    make_folder,
    move_file,
    read_file,
    save_arrays,
    write_file,
)
from mereq_min.lab.runs.lock import hold
from mereq_min.lab.runs.records import read_config, write_config
from mereq_min.lab.runs.run import (
    checkpoint_file,
    claim,
    commit,
    open_run,
    read_done,
    save_prior,
    write_rows_file,
)
from mereq_min.steps import Steps

LARGEST_REPORT = 2**26
"""Size of the largest report that is read [bytes]."""


class Folder:
    """The run folder of a session, with its lock held until `close`.

    Args:
        task: the task.
        config: the run.
        out: root of the run folders.

    Attributes:
        path: the folder.
        journal: its journal.
        rows: the rows of its iterations, see `records.read_sealed_rows`.
        reports: what the person was told after each of them.

    Raises:
        RunError: if another process holds it, or it holds another run, or is damaged.
    """

    def __init__(self, task: Task, config: RunConfig, out: Path) -> None:
        self.task, self.config, self.path = task, config, run_folder(out, config)
        self._held = ExitStack()
        self._held.enter_context(hold(self.path))
        try:
            self._open()
        except BaseException:
            self._held.close()
            raise

    def _open(self) -> None:
        config = self.config
        header, self.rows = claim(self.path, config, self.task)
        self.path.chmod(0o700)
        make_folder(self.live)
        self.live.chmod(0o700)
        self.journal = Journal(journal_file(self.path))
        open_run(self.path, header, self.rows, config)
        if not self.rows:
            save_prior(self.path, config, self.task)
        self.reports: list[Report] = []

    @property
    def live(self) -> Path:
        """The folder of what an ordinary run does not have."""
        return self.path / "live"

    def begin(self, at: float) -> None:
        """Make sure that the journal is that of this run, and begin it if it is empty.

        Raises:
            RunError: if it is that of another run.
        """
        config = self.config
        wanted = Begin(config.task, config.method, config.seed, config.loop.steps_per_iteration, at)
        if not self.journal.entries:
            self.journal.append(wanted)
            return
        found = self.journal.entries[0]
        assert isinstance(found, Begin)  # the journal checks it
        for name in ("task", "method", "seed", "steps_per_round"):
            if getattr(found, name) != getattr(wanted, name):
                raise RunError(
                    f"{self.path} holds a session with {name} {getattr(found, name)}, not "
                    f"{getattr(wanted, name)}; choose another --out, or pass the same settings"
                )

    def policy(self, version: int) -> Policy:
        """The policy after an update, from the arrays that were kept; 0 is the first one."""
        return load_kept_policy(self.path, self.task, version)

    def keep_first_policy(self, arrays: Arrays | None) -> None:
        """Keep the policy that drives first, if it is not the prior."""
        if arrays is not None:
            save_arrays(self._file("policy", 0), arrays)

    def checkpoint(self, version: int) -> Arrays:
        """What the update after a version depends on; nothing for version 0."""
        return load_arrays(self._file("checkpoint", version)) if version else {}

    def resume(self, session: Session) -> None:
        """Bring a new session, and the iterations of the run, to where the journal ends.

        Raises:
            RunError: if what the journal comes to is not what the run's files say.
        """
        history = effective(self.journal.entries)
        learned = sum(isinstance(each, Learn) for each in history)
        while len(self.rows) > learned:
            self.take_back()
        self.reports = [read_report(self._file("report", row["iteration"], "json")) for row in self.rows]
        session.replay(history)
        done = read_done(self.path, self.rows, self.task, self.config)
        for number, (steps, found) in enumerate(zip(done, session.rounds, strict=False), 1):
            if found.steps is None or not same_steps(steps, found.steps):
                raise RunError(
                    f"the journal of {self.path} does not lead to the steps of its iteration {number} here: "
                    "another machine, or another version of mereq-min, wrote it; choose another --out"
                )

    def commit(self, update: Update, steps: Steps, report: Report) -> None:
        """Write an update down as the next iteration of the run."""
        number = update.row["iteration"]
        save_arrays(self._file("policy", number), update.policy)
        save_arrays(self._file("checkpoint", number), update.checkpoint)
        write_file(self._file("report", number, "json"), msgspec.json.encode(report))
        commit(self.path, self.rows, update.row, steps, update.checkpoint, update.policy)
        self.reports.append(report)

    def take_back(self) -> None:
        """Take back the last iteration of the run."""
        number = self.rows[-1]["iteration"]
        kept = number - 1
        if kept:
            save_arrays(checkpoint_file(self.path, kept), self.checkpoint(kept))
            save_arrays(self.path / f"policy-{kept:03d}.safetensors", load_arrays(self._file("policy", kept)))
        self.rows.pop()
        self.reports = self.reports[:kept]
        write_rows_file(self.path, self.rows)
        if kept:
            move_file(self.path / f"policy-{kept:03d}.safetensors", self.path / "policy.safetensors")
        else:
            (self.path / "policy.safetensors").unlink(missing_ok=True)
        checkpoint_file(self.path, number).unlink(missing_ok=True)
        (self.path / f"steps-{number:03d}.safetensors").unlink(missing_ok=True)

    def finish(self) -> None:
        """Say that the run is finished with the iterations that it has."""
        if self.rows:
            header = read_config(self.path)
            header["config"]["loop"]["iterations"] = len(self.rows)
            write_config(self.path, header)

    def save_policy(self, version: int) -> Path:
        """Keep a copy of a policy beside the run, as `evaluate` and `--prior` read it; returns the file."""
        file = self.path / f"saved-{version:03d}.safetensors"
        arrays = load_arrays(self._file("policy", version))
        save_arrays(file, arrays)
        return file

    def close(self) -> None:
        """Give the lock back."""
        self.journal.close()
        self._held.close()

    def _file(self, kind: str, number: int, suffix: str = "safetensors") -> Path:
        return kept_file(self.path, kind, number, suffix)


def journal_file(path: Path) -> Path:
    """The journal of the session in a run's folder."""
    return path / "live" / "journal.jsonl"


def kept_file(path: Path, kind: str, number: int, suffix: str = "safetensors") -> Path:
    """What a run's folder keeps of an update: its `policy`, `checkpoint` or `report`."""
    return path / "live" / f"{kind}-{number:03d}.{suffix}"


def load_kept_policy(path: Path, task: Task, version: int) -> Policy:
    """The policy after an update, from the arrays that a run's folder keeps; 0 is the first one."""
    file = kept_file(path, "policy", version)
    if version == 0 and not file.exists():
        return task.prior
    return task.load_policy(load_arrays(file))


def read_report(file: Path) -> Report:
    """Read a report.

    Raises:
        RunError: if it is missing or damaged.
    """
    try:
        return msgspec.json.decode(read_file(file, LARGEST_REPORT), type=Report)
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        raise RunError(f"{file} is missing or damaged ({error}); only the reports need it") from error


def same_steps(one: Steps, other: Steps) -> bool:
    """Whether two tables of steps are the same, bit for bit."""
    columns = zip(one.columns().values(), other.columns().values(), strict=True)
    return all(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in columns)
