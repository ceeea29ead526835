"""Extracts: the rows that a model trains on, copied out of its source in one read, sorted by partition.

The copy is an Arrow file that children map into memory; beside it stands a small index of partitions with where
their rows begin, how many they are, and their fingerprint. So a batch of two partitions costs two partitions, also
beside a hundred thousand others.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from evertrain.errors import DataError
from evertrain.partitions import WHOLE, KeyText, decode, encode
from evertrain.sources.fingerprint import row_digests, sums
from evertrain.sources.table import Schema, Table, schema_of

ROW, SIDE = "__row__", "__side__"
_RESERVED = (ROW, SIDE)
Numbers = NDArray[np.uint64]


@dataclass(frozen=True)
class Reading:
    """What one model needs of a source.

    Attributes:
        columns: the columns it uses; None is every column.
        key: columns that identify a row; empty: its content does.
    """

    model: str
    target: str
    dimensions: tuple[str, ...] = ()
    columns: tuple[str, ...] | None = None
    key: tuple[str, ...] = ()
    time: str | None = None


@dataclass(frozen=True)
class Extract:
    """A finished copy: where it is and what it holds. `unlabelled` rows have no target and are left out."""

    path: str
    index: str
    rows: int
    unlabelled: int
    leaves: int
    columns: Schema

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def extract(table: Table, reading: Reading, target: Path, *, identities: bool = True) -> Extract:
    """Write the rows that a model needs to `target` (an Arrow file) and `target`.idx (the index).

    Two numbers are added to each row: `__row__` begins its digest and tells rows apart; `__side__` is uniform over
    64 bits and decides on which side of the hold-out it falls. The side comes from the key, or from the content
    without the target, so that a corrected label leaves a row where it is.

    Args:
        identities: False leaves both numbers zero and the index without fingerprints, for a copy that nobody compares
            or splits by rows; they take most of the time.

    Raises:
        DataError: a column that the model needs is missing.
    """
    used = _used(table.frame, reading)
    frame = table.frame.select(used)
    labelled = frame.filter(pl.col(reading.target).is_not_null())
    codes, keys = _keys(labelled, reading.dimensions)
    digests = row_digests(labelled, used) if identities else np.zeros((labelled.height, 32), np.uint8)
    sides = _sides(labelled, reading, used) if identities else np.zeros(labelled.height, np.uint64)
    # Rows of one partition keep their order: two reads of the same rows train the same model.
    order = codes.to_frame("code").select(pl.arg_sort_by("code", maintain_order=True)).to_series()
    labelled = labelled.with_columns(
        pl.Series(ROW, digests[:, :8].copy().view("<u8").reshape(-1), dtype=pl.UInt64),
        pl.Series(SIDE, sides, dtype=pl.UInt64),
    )[order]
    places = codes[order].to_numpy()
    starts = np.flatnonzero(np.diff(places, prepend=-1)).tolist()
    marks = sums(digests[order.to_numpy()], starts) if identities else [""] * len(starts)
    ends = [*starts[1:], labelled.height]
    labelled.write_ipc(target, compression="uncompressed", record_batch_size=4096)
    index = target.with_suffix(".idx")
    with closing(sqlite3.connect(index)) as database, database:
        database.execute("CREATE TABLE leaves(key TEXT PRIMARY KEY, start INTEGER, rows INTEGER, fingerprint TEXT)")
        database.executemany(
            "INSERT INTO leaves VALUES (?, ?, ?, ?)",
            (
                (keys[places[start]], start, end - start, mark)
                for start, end, mark in zip(starts, ends, marks, strict=True)
            ),
        )
    return Extract(
        str(target), str(index), labelled.height, frame.height - labelled.height, len(starts), schema_of(frame)
    )


def rows_of(frame: pl.DataFrame, key: KeyText, start: int | None, number: int | None) -> pl.DataFrame:
    """Return the rows of a partition (by place) or of a rollup (by the values it keeps)."""
    if start is not None and number is not None:
        return frame.slice(start, number)
    kept = decode(key)
    if not kept:
        return frame
    return frame.filter(pl.all_horizontal([_equals(pl.col(name), frame.schema[name], v) for name, v in kept.items()]))


def rows_where(frame: pl.DataFrame, where: Mapping[str, Sequence[Any]]) -> pl.DataFrame:
    """Return the rows that have one of the values in each column."""
    for name, values in where.items():
        keys = dict.fromkeys(encode({name: one}, [name]) for one in values)
        frame = pl.concat([rows_of(frame, key, None, None) for key in keys])
    return frame


def _equals(column: pl.Expr, dtype: pl.DataType, value: Any) -> pl.Expr:
    """Return whether a column holds what `encode` made this value of a key from."""
    if value is None:
        return column.is_null() | column.is_nan() if dtype.is_float() else column.is_null()
    if dtype == pl.Date:
        value = date.fromisoformat(value)
    elif dtype == pl.Datetime:
        value = datetime.fromisoformat(value)
    elif dtype.is_float():
        value = float(value)  # 2.0 is 2 in a key, and 1e300 a number that no integer column could hold
    same: pl.Expr = column == value
    return same


def _used(frame: pl.DataFrame, reading: Reading) -> list[str]:
    if taken := [name for name in _RESERVED if name in frame.columns]:
        raise DataError(f"column {taken[0]!r} is a name that Evertrain uses itself; rename it", column=taken[0])
    named = [reading.target, *reading.dimensions, *reading.key, *([reading.time] if reading.time else [])]
    wanted = list(dict.fromkeys([*(frame.columns if reading.columns is None else reading.columns), *named]))
    for name in wanted:
        if name not in frame.columns:
            role = "the target" if name == reading.target else "a column"
            raise DataError(
                f"column {name!r}, {role} of {reading.model}, is missing; there are {', '.join(frame.columns)}",
                column=name,
            )
    return wanted


def _keys(frame: pl.DataFrame, dimensions: Sequence[str]) -> tuple[pl.Series, list[KeyText]]:
    """Return the distinct keys, sorted, and for each row which of them it has; each key is encoded once."""
    if not dimensions:
        return pl.repeat(0, frame.height, dtype=pl.UInt32, eager=True), [WHOLE]
    values = frame.select(dimensions)
    distinct = values.unique()
    texts = [encode(row, dimensions) for row in distinct.iter_rows(named=True)]
    # By text, because values that differ can be one key: a missing number and NaN.
    keys = sorted(set(texts))
    places = {text: place for place, text in enumerate(keys)}
    named = distinct.with_columns(pl.Series("__code__", [places[text] for text in texts], dtype=pl.UInt32))
    codes = values.join(named, on=list(dimensions), how="left", nulls_equal=True, maintain_order="left")["__code__"]
    return codes, keys


def _sides(frame: pl.DataFrame, reading: Reading, used: Sequence[str]) -> Numbers:
    identity = list(reading.key) or [name for name in used if name != reading.target] or [reading.target]
    digests = row_digests(frame, identity)
    numbers: Numbers = digests[:, :8].copy().view("<u8").reshape(-1)
    if reading.key:
        return numbers
    # Rows of equal content are told apart by their place among themselves; else a column with few values could put
    # every row on one side.
    place = pl.DataFrame({"n": numbers}).select(pl.int_range(pl.len()).over("n")).to_series().to_numpy()
    return np.asarray(numbers + place.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15), dtype=np.uint64)
