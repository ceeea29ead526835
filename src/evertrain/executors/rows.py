"""Rows as trainers get them: out of a copy that is mapped into memory, cut by partition, in pandas frames."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import polars as pl

from evertrain.datasets import framed
from evertrain.errors import DataError
from evertrain.executors.jobs import Message
from evertrain.partitions import KeyText
from evertrain.sources.extract import ROW, SIDE, Reading, extract, rows_of
from evertrain.sources.index import leaves
from evertrain.sources.table import ColumnType, Schema, Table
from evertrain.specs import ModelSpec

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Rows:
    """Rows of one partition, column by column; frames are made of those that are asked for.

    Attributes:
        sides: a uniform number of each row's identity, which says whether it is held out.
        numbers: a number of each row's whole content.
        times: seconds, or the plain number where time is a number; NaN where missing; None without time.
    """

    columns: Mapping[str, Array]
    sides: Array
    numbers: Array
    times: Array | None

    def __len__(self) -> int:
        return len(self.sides)

    def frame(self, which: Array | None = None) -> pd.DataFrame:
        """Return the rows, or those under a mask, in a frame that its owner may change."""
        import pandas as pd

        columns = self.columns.items()
        return pd.DataFrame(
            {name: values.copy() if which is None else values[which] for name, values in columns}, copy=False
        )

    def only(self, which: Array) -> Rows:
        """Return the rows under a mask, or at places, in that order."""
        return Rows(
            {name: values[which] for name, values in self.columns.items()},
            self.sides[which],
            self.numbers[which],
            None if self.times is None else self.times[which],
        )


def unpacked(task: Message, spec: ModelSpec) -> tuple[Schema, str]:
    """Make an extract of the rows that were copied out of a dataset, and tell the items where theirs are in it.

    Returns:
        The columns and the path of the extract; both files are the caller's to remove.
    """
    copied = Path(task["copied"])
    frame = copied_rows(copied, task["columns"])
    reading = Reading(
        spec.name,
        spec.target,
        tuple(spec.dimensions),
        spec.features if isinstance(spec.features, tuple) else None,
        tuple(task["key"]),
        task["time"],
    )
    # A series is split by its periods, and the dataset's own index says whether its rows changed.
    made = extract(Table(frame), reading, copied.with_suffix(".arrow"), identities=spec.series is None)
    where = {leaf.key: leaf for leaf in leaves(made.index)}
    for item in task["items"]:
        if item["leaf"]:
            leaf = where.get(item["key"])
            item["start"], item["rows"] = (leaf.start, leaf.rows) if leaf else (0, 0)
        else:
            item["start"], item["rows"] = None, None  # those of a rollup lie apart
    return made.columns, made.path


def copied_rows(copied: Path, columns: Schema) -> pl.DataFrame:
    """Return rows that were copied out of a dataset, and remove the copy."""
    with closing(sqlite3.connect(copied)) as database:
        rows = database.execute("SELECT * FROM rows").fetchall()
    copied.unlink()
    return framed(columns, rows)


def parts(path: str, columns: Schema, time: str | None, items: Sequence[Message]) -> Iterator[tuple[Message, Rows]]:
    """Return each item with its rows; neighbours in the extract are read together."""
    scan = pl.scan_ipc(path)
    group: list[Message] = []
    for item in items:
        follows = group and item["start"] is not None and item["start"] == group[-1]["start"] + group[-1]["rows"]
        if group and not follows:
            yield from _group(scan, columns, time, group)
            group = []
        if item["start"] is None:
            frame = rows_of(scan.collect(), KeyText(item["key"]), None, None)
            yield item, _Converted(frame, columns, time).cut(0, frame.height)
        else:
            group.append(item)
    if group:
        yield from _group(scan, columns, time, group)


def _group(
    scan: pl.LazyFrame, columns: Schema, time: str | None, group: Sequence[Message]
) -> Iterator[tuple[Message, Rows]]:
    first, last = group[0]["start"], group[-1]["start"] + group[-1]["rows"]
    converted = _Converted(scan.slice(first, last - first).collect(), columns, time)
    for item in group:
        yield item, converted.cut(item["start"] - first, item["rows"])


class _Converted:
    """Neighbouring partitions, converted at once: for small ones that is where the time would go."""

    def __init__(self, frame: pl.DataFrame, columns: Schema, time: str | None) -> None:
        self.names = list(columns)
        self.at_once: dict[str, Array] = {}
        self.each: dict[str, tuple[pl.Series, str]] = {}
        for name, kind in columns.items():
            series = frame[name]
            nullable = kind in (ColumnType.INTEGER, ColumnType.BOOLEAN) and series.null_count()
            if nullable or (kind in (ColumnType.DATE, ColumnType.INSTANT) and _is_far(series)):
                # Their dtype depends on missing values, or on a date far away, and a partition must look the same
                # whoever its neighbours are.
                self.each[name] = series, kind
            else:
                self.at_once[name] = to_numpy(series, kind)
        self.sides, self.numbers = frame[SIDE].to_numpy(), frame[ROW].cast(pl.UInt64).to_numpy()
        self.times = times_of(frame, time)

    def cut(self, start: int, number: int) -> Rows:
        place = slice(start, start + number)
        found = {name: values[place] for name, values in self.at_once.items()}
        for name, (series, kind) in self.each.items():
            found[name] = to_numpy(series[place], kind)
        return Rows(
            {name: found[name] for name in self.names} if self.each else found,
            self.sides[place],
            self.numbers[place],
            None if self.times is None else self.times[place],
        )


def to_numpy(series: pl.Series, kind: str) -> Array:
    """Return a column as trainers get it: numbers with NaN for missing, texts as objects, instants in UTC without a
    zone, as pandas and scikit-learn expect them; in microseconds where one is too far away for nanoseconds.
    """
    if kind in (ColumnType.INSTANT, ColumnType.DATE):
        plain = series.dt.replace_time_zone(None) if kind == ColumnType.INSTANT else series
        return plain.cast(pl.Datetime("us" if _is_far(series) else "ns")).to_numpy()
    if kind == ColumnType.TEXT or (kind == ColumnType.BOOLEAN and series.null_count()):
        return np.array(series.to_list(), dtype=object)
    return series.to_numpy()


def _is_far(series: pl.Series) -> bool:
    """Return whether a date or an instant is none that 64 bits of nanoseconds hold: of 1677 or before, 2262 or after."""
    years = series.dt.year()
    low, high = years.min(), years.max()
    return low is not None and not (cast("int", low) > 1677 and cast("int", high) < 2262)


def to_pandas(frame: pl.DataFrame, columns: Schema) -> pd.DataFrame:
    """Return a whole table as trainers get it."""
    import pandas as pd

    return pd.DataFrame({name: to_numpy(frame[name], kind) for name, kind in columns.items()}, copy=False)


def times_of(frame: pl.DataFrame, time_column: str | None) -> Array | None:
    """Return the rows' time as seconds (or the plain number, where time is a number); NaN where missing."""
    if time_column is None:
        return None
    series = frame[time_column]
    if series.dtype.is_temporal():
        found = series.cast(pl.Datetime("us")).dt.replace_time_zone(None).cast(pl.Int64).cast(pl.Float64) / 1e6
    elif series.dtype.is_numeric():
        found = series.cast(pl.Float64)
    else:
        raise DataError(f"the time column {time_column!r} holds text; dates must read YYYY-MM-DD", column=time_column)
    return np.asarray(found.fill_null(math.nan).to_numpy(), dtype=np.float64)
