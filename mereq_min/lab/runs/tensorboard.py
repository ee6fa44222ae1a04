"""TensorBoard event files of a run."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from mereq_min.lab.plugins import install_hint
from mereq_min.lab.runs.files import RunError
from mereq_min.lab.runs.records import Row


def write_events(folder: Path, rows: Sequence[Row], names: Sequence[str]) -> None:
    """Write the rows of a run as TensorBoard event files, replacing those of an earlier call.

    Args:
        folder: for the files.
        rows: one for each iteration of the run.
        names: (K,) names of the features, by which the entries of vectors such as theta are called.

    Raises:
        RunError: if TensorBoard is not installed.
    """
    try:
        from tensorboard.summary import Writer
    except ModuleNotFoundError as error:
        raise RunError(f"--tensorboard needs TensorBoard; {install_hint('deep')}") from error
    shutil.rmtree(folder, ignore_errors=True)
    writer = Writer(str(folder))
    for row in rows:
        for key, value in row.items():
            vector = dict(zip(names, value, strict=True)) if isinstance(value, list) else {}
            tags = {f"{key}/{name}": entry for name, entry in vector.items()} or {key: value}
            for tag, number in tags.items():
                if number is not None:
                    writer.add_scalar(tag, float(number), row["iteration"])
    writer.close()
