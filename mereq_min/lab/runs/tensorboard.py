"""TensorBoard event files of a run."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from mereq_min.lab.runs.files import RunError
from mereq_min.lab.runs.records import Row


def write_events(folder: Path, rows: Sequence[Row], names: Sequence[str]) -> None:
    """Write the rows of a run as TensorBoard event files, in place of those that are there.

    Args:
        folder: for the files.
        rows: of the run's iterations.
        names: (K,) of the features, which name the entries of vectors such as theta.

    Raises:
        RunError: if TensorBoard is not installed.
    """
    try:
        from tensorboard.summary import Writer
    except ModuleNotFoundError as error:
        raise RunError("--tensorboard needs TensorBoard; pip install 'mereq-min[deep]'") from error
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
