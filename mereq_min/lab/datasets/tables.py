"""Logs as one table, in CSV or Parquet: one column per number, named as `columns` says."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mereq_min.lab.datasets.columns import ALIASES, find_columns, need
from mereq_min.lab.runs.files import LARGEST_ARRAYS, Arrays, read_file, write_file
from mereq_min.steps import Steps

LARGEST_CSV = 2**28
"""Size of the largest CSV file that is read [bytes]."""


def spread_columns(steps: Steps, feature_names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The columns of steps, each of them (N,); the entries of vectors are columns of their own."""
    spread: dict[str, NDArray[Any]] = {}
    for name, column in steps.columns().items():
        if column.ndim == 1:
            spread[name] = column
            continue
        flat = column.reshape(len(column), -1)
        entries = feature_names if name == "features" else range(flat.shape[1])
        spread |= {f"{name}.{entry}": each for entry, each in zip(entries, flat.T, strict=True)}
    return spread


def gather_columns(spread: Arrays, feature_names: Sequence[str]) -> Arrays:
    """The columns of a log; undoes `spread_columns`, but for the shapes of states and actions."""
    columns: Arrays = {}
    for column, names in find_columns(list(spread), feature_names).items():
        is_whole = names[0] in (column, *ALIASES[column])
        columns[column] = spread[names[0]] if is_whole else np.stack([spread[name] for name in names], axis=1)
    return columns


def write_csv(file: Path, steps: Steps, feature_names: Sequence[str]) -> None:
    """Write steps as CSV; each number has all its digits, and masks are 0 and 1."""
    spread = spread_columns(steps, feature_names)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(spread)
    columns = [map(int, column) if column.dtype == bool else column.tolist() for column in spread.values()]
    writer.writerows(zip(*columns, strict=True))
    write_file(file, text.getvalue().encode())


def read_csv(file: Path, feature_names: Sequence[str]) -> Arrays:
    """The columns of a log in a CSV file; columns of other names are left alone.

    Raises:
        OSError, ValueError: if the file cannot be read.
    """
    text = read_file(file, LARGEST_CSV).decode("utf-8-sig")
    rows = csv.reader(io.StringIO(text, newline=""))
    try:
        header = next(rows, [])
        table = [row for row in rows if row]
    except csv.Error as error:
        raise ValueError(f"it is not a CSV file: {error}") from error
    if any(len(row) != len(header) for row in table):
        raise ValueError("its rows are not all as long as its first line, which names the columns")
    if len(set(header)) < len(header):
        raise ValueError("two of its columns have the same name")
    wanted = [name for names in find_columns(header, feature_names).values() for name in names]
    places = {name: header.index(name) for name in wanted}
    return gather_columns(
        {name: np.array([_number(name, row[i]) for row in table]) for name, i in places.items()},
        feature_names,
    )


def _number(name: str, text: str) -> float:
    try:
        named = {"true": 1.0, "false": 0.0}.get(text.strip().lower())
        return float(text) if named is None else named
    except ValueError as error:
        raise ValueError(f"{name} holds {text!r:.40}, which is not a number") from error


def write_parquet(file: Path, steps: Steps, feature_names: Sequence[str]) -> None:
    """Write steps as Parquet, each column with its type of numbers; pages carry checksums."""
    pa, pq = need("pyarrow"), need("pyarrow.parquet")
    buffer = io.BytesIO()
    pq.write_table(pa.table(spread_columns(steps, feature_names)), buffer, write_page_checksum=True)
    write_file(file, buffer.getvalue())


def read_parquet(file: Path, feature_names: Sequence[str]) -> Arrays:
    """The columns of a log in a Parquet file, which may hold lists; others are not decoded.

    Raises:
        OSError, ValueError: if the file cannot be read.
    """
    pa, pq = need("pyarrow"), need("pyarrow.parquet")
    data = io.BytesIO(read_file(file, LARGEST_ARRAYS))
    try:
        parquet = pq.ParquetFile(data, page_checksum_verification=True)
        found = find_columns(parquet.schema_arrow.names, feature_names)
        wanted = [name for names in found.values() for name in names]
        table = _read_batches(parquet, wanted, pa)
        spread = {name: _to_array(name, table.column(name).combine_chunks(), pa) for name in wanted}
    except pa.ArrowException as error:
        raise ValueError(f"it is not a readable Parquet file: {error}") from error
    return gather_columns(spread, feature_names)


def _read_batches(parquet: Any, names: Sequence[str], pa: Any) -> Any:
    """The columns of a Parquet file, but not more than is read: runs of one number take no space in it."""
    batches, size = [], 0
    for batch in parquet.iter_batches(columns=names, use_pandas_metadata=False):
        batches.append(batch)
        size += batch.nbytes
        if size > LARGEST_ARRAYS:
            raise ValueError(f"it unpacks to more than the {LARGEST_ARRAYS} bytes that are read")
    return pa.Table.from_batches(batches, batches[0].schema if batches else parquet.schema_arrow)


def _to_array(name: str, column: Any, pa: Any) -> NDArray[Any]:
    """A column of Arrow as numbers (N,) or, if it holds lists, (N, D)."""
    compute, entries = need("pyarrow.compute"), column
    while pa.types.is_list(entries.type) or pa.types.is_fixed_size_list(entries.type):
        lengths = compute.min_max(compute.list_value_length(_without_nulls(name, entries)))
        if lengths["min"] != lengths["max"]:
            raise ValueError(f"{name} holds lists of different lengths")
        entries = entries.flatten()
    numbers = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    if not any(is_kind(entries.type) for is_kind in numbers):
        raise ValueError(f"{name} holds {entries.type}, which are not numbers")
    array = _without_nulls(name, entries).to_numpy(zero_copy_only=False)
    return array if entries is column else array.reshape(len(column), -1)


def _without_nulls(name: str, column: Any) -> Any:
    if column.null_count:
        raise ValueError(f"{name} has gaps in {column.null_count} rows")
    return column
