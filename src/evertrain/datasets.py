"""Datasets: rows from files, frames and applications become versions of a table that Evertrain keeps.

Every write is a batch: who, from where, how many rows added, updated, removed and left alone. The newer row of a key
wins; the same batch again changes nothing; what cannot be used refuses the whole batch with its line.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evertrain.clock import to_text
from evertrain.errors import BadRow, Conflict, DataError, NotFound, StoreBusy
from evertrain.events import Kind
from evertrain.faults import fault_point
from evertrain.partitions import printable
from evertrain.specs import BadRows, CsvFile, Dataset, ParquetFile
from evertrain.store import datasets as table
from evertrain.store.connect import Record, Store, Tx
from evertrain.store.values import to_sql

if TYPE_CHECKING:
    import polars as pl

    from evertrain.sources.table import Table

CHUNK = 2000  # rows written in one transaction: other writers wait for no more than that
_TURN_S = 30.0
_MOST_COLUMNS = 1990  # SQLite keeps 2,000 in a table, and a few are ours (sqlite.org/limits.html, 2)


@dataclass(frozen=True)
class TrainedOn:
    """A fit that was trained on rows which an undo or an erasure takes away.

    Attributes:
        serving: it was the champion of its partition at that moment.
        back: the version that serves again in its place; None where it serves on, or had not served.
        stays: why a champion serves on until the partition is trained anew.
    """

    model: str
    version: str
    partition: str
    serving: bool = False
    back: str | None = None
    stays: str | None = None

    def __str__(self) -> str:
        return f"{self.model} {self.version} of {self.partition}"


@dataclass(frozen=True)
class Batch:
    """What one write came to.

    Attributes:
        again: a retry met the batch that was written before.
        version: the version that holds it; the one of before where nothing changed.
        left: keys that an undo left alone, because later batches touched them.
        fits: those that were trained on what an undo took away.
        rolled_back: those of them that served and gave way to an earlier one.
        notes: what else a person should know, each one sentence.
        report: the path of a CSV file that lists the rows which were set aside.
    """

    number: int
    dataset: str
    version: int
    kind: str
    added: int
    updated: int
    removed: int
    unchanged: int
    set_aside: int = 0
    again: bool = False
    left: tuple[str, ...] = ()
    fits: tuple[TrainedOn, ...] = ()
    rolled_back: tuple[TrainedOn, ...] = ()
    notes: tuple[str, ...] = ()
    report: str | None = None

    def __str__(self) -> str:
        parts = [
            f"{number:,} {what}"
            for number, what in (
                (self.added, "added"),
                (self.updated, "updated"),
                (self.removed, "removed"),
                (self.unchanged, "unchanged"),
                (self.set_aside, "set aside"),
            )
            if number
        ]
        return f"batch {self.number} of {self.dataset}: {', '.join(parts) or 'no rows'}; version {self.version}"


# --- writing ----------------------------------------------------------------------------------------------------


def ingest(
    store: Store,
    name: str,
    spec: Dataset,
    data: object,
    *,
    source: str = "",
    actor: str = "",
    token: str | None = None,
    report: Report | None = None,
    told: Sequence[Sequence[str]] = (),
    progress: Merged | None = None,
) -> Batch:
    """Merge rows into a dataset as one new version.

    Args:
        data: a pandas or Polars data frame, or the path of a CSV (`.csv`, `.txt`) or Parquet file.
        source: how the batch is called; by default the file's name.
        token: of the request: the same token again answers the batch that was written then.
        report: writes a file of all rows that cannot be used and returns its path.
        told: columns by which models tell partitions apart: their indexes are made while there are no rows.
        progress: is told how many rows are written, of how many.

    Raises:
        DataError: rows cannot be used, or two of them have one key and differ; nothing is kept.
        Conflict: the token was used for other rows.
    """
    while True:
        try:
            return _ingest(
                store, name, spec, data, source=source, actor=actor, token=token, report=report, told=told,
                progress=progress,
            )  # fmt: skip
        except _Regrown:
            continue  # another batch changed the columns between reading these rows and writing them


def _ordered(dataset: table.Dataset | None) -> list[tuple[str, str]] | None:
    return None if dataset is None else list(dataset.columns.items())


class _Regrown(Exception):
    """The columns are no longer those that the rows were prepared for."""


def _ingest(
    store: Store,
    name: str,
    spec: Dataset,
    data: object,
    *,
    source: str,
    actor: str,
    token: str | None,
    report: Report | None,
    told: Sequence[Sequence[str]],
    progress: Merged | None,
) -> Batch:
    with store.read() as tx:
        before = table.by_name(tx, name)
        known = table.by_token(tx, before, token) if before is not None and token is not None else None
    _same_key(name, spec, before)
    source = source or (Path(data).name if isinstance(data, str | Path) else "a data frame")
    rows = _usable(read(data, spec, before), spec, source, report)
    digest = _digest_of(rows.frame)
    if known is not None:  # before its columns are looked at: somebody may have added others since
        return _repeated(name, known, digest, token)
    columns = _columns(name, spec, before, rows, source, report)
    prepared, repeated = _prepared(spec, rows, columns, source, report)
    listed = report(rows.bad) if report and rows.bad is not None else None

    how = {"kind": "ingest", "source": source, "digest": digest, "set_aside": rows.set_aside_count, "token": token,
           "report": listed}  # fmt: skip
    counts = table.Counts(unchanged=repeated)

    def prepare(tx: Tx) -> table.Dataset:
        found = table.by_name(tx, name)
        # In their order, too: values go to columns by their place.
        if _ordered(found) not in (_ordered(before), list(columns.items())):
            raise _Regrown
        if found is None:
            found = table.create(tx, name, spec.key, columns)
            for one in told:
                if all(column in columns for column in one):
                    table.index(tx, found, one, spec.time)
        return table.widen(tx, found, columns)

    def work(tx: Tx, dataset: table.Dataset, chunk: Sequence[Any], is_last: bool) -> Batch | None:
        nonlocal counts
        if token is not None and (found := table.by_token(tx, dataset, token)) is not None:
            return _repeated(name, found, digest, token)
        version = dataset.version + 1 if counts.chunks else table.reserve(tx, dataset)
        if progress:
            progress(counts.chunks * CHUNK, len(prepared))
        counts += table.merge(tx, dataset, version, chunk)
        return _kept(tx, dataset, version, counts, how) if is_last else None

    if spec.key and len(prepared) > CHUNK:
        prepared.sort(key=itemgetter(0))  # neighbours in the index are written together, in a fifth of the time
    return _write(store, name, actor, prepared, work, prepare)


def _same_key(name: str, spec: Dataset, before: table.Dataset | None) -> None:
    if before is not None and before.key != spec.key:
        raise DataError(
            f"{name} was begun with key={list(before.key)} and declares key={list(spec.key)} now: its rows would not be"
            " found again. Declare a dataset of another name"
        )


@dataclass(frozen=True)
class Trial:
    """What a batch would come to if it were merged now; nothing was written.

    Attributes:
        columns: type by name, of the dataset with this batch in it; `fresh` are those that it brings.
        groups: for each list of columns that was asked for, the values of rows that would come, change or be left.
    """

    dataset: str
    rows: int
    added: int
    updated: int
    unchanged: int
    set_aside: int
    columns: Mapping[str, str]
    fresh: tuple[str, ...]
    groups: Mapping[tuple[str, ...], frozenset[tuple[Any, ...]]]
    report: str | None = None


def rehearse(
    store: Store,
    name: str,
    spec: Dataset,
    data: object,
    *,
    source: str = "",
    report: Report | None = None,
    told: Sequence[Sequence[str]] = (),
) -> Trial:
    """Return what `ingest` would do with the same rows, and write none of them.

    Raises:
        DataError: as `ingest`.
    """
    with store.read() as tx:
        before = table.by_name(tx, name)
    _same_key(name, spec, before)
    source = source or (Path(data).name if isinstance(data, str | Path) else "a data frame")
    rows = _usable(read(data, spec, before), spec, source, report)
    columns = _columns(name, spec, before, rows, source, report)
    prepared, repeated = _prepared(spec, rows, columns, source, report)
    asked = {tuple(one): [list(columns).index(column) for column in one] for one in told if set(one) <= columns.keys()}
    groups: dict[tuple[str, ...], set[tuple[Any, ...]]] = {one: set() for one in asked}
    added = updated = 0
    for at in range(0, len(prepared), CHUNK):
        chunk = prepared[at : at + CHUNK]
        had: dict[str, list[Any]] = {}
        if before is not None:
            with store.read() as tx:
                had = table.of_keys(tx, before, [key for key, *_ in chunk])
        for key, *values in chunk:
            old = had.get(key)
            if old is not None and [*old, *[None] * (len(values) - len(old))] == values:
                continue
            added, updated = added + (old is None), updated + (old is not None)
            for one, places in asked.items():
                groups[one].add(tuple(values[place] for place in places))
                if old is not None and all(place < len(old) for place in places):
                    groups[one].add(tuple(old[place] for place in places))
    return Trial(
        name, len(prepared) + repeated, added, updated, len(prepared) - added - updated + repeated,
        rows.set_aside_count, columns, tuple(one for one in columns if before is None or one not in before.columns),
        {one: frozenset(found) for one, found in groups.items()},
        report(rows.bad) if report and rows.bad is not None else None,
    )  # fmt: skip


def _repeated(name: str, found: Record, digest: str, token: str | None) -> Batch:
    if found.digest and found.digest != digest:  # a batch of which a row was erased has none any more
        raise Conflict(f"the token {token!r} was used for batch {found.id}, which held other rows")
    return _batch(name, found, again=True)


def edit(store: Store, name: str, rows: Sequence[Mapping[str, Any]], *, actor: str = "") -> Batch:
    """Change some values of rows that are there; each mapping names its row by the key columns.

    Raises:
        NotFound: no row has that key.
        DataError: a column does not exist, or a value is not of its type.
    """
    with store.read() as tx:
        dataset = _again(tx, name)
    _needs_key(dataset)
    wanted: dict[str, dict[str, Any]] = {}
    for one in rows:
        wanted.setdefault(key_of(dataset, one), {}).update(one)
    digest = _digest([(key, sorted(values.items(), key=repr)) for key, values in wanted.items()])
    how = {"kind": "edit", "source": "edit", "digest": digest}
    counts = table.Counts()

    def work(tx: Tx, dataset: table.Dataset, chunk: Sequence[Any], is_last: bool) -> Batch | None:
        nonlocal counts
        # First: what a dead writer left must not be read as a row's values.
        version = dataset.version + 1 if counts.chunks else table.reserve(tx, dataset)
        # Read where it is written: between two transactions another could change another column of the row.
        counts += table.merge(tx, dataset, version, _edited(tx, dataset, chunk))
        return _kept(tx, dataset, version, counts, how) if is_last else None

    return _write(store, name, actor, list(wanted.items()), work)


def _edited(tx: Tx, dataset: table.Dataset, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> list[tuple[Any, ...]]:
    values = table.of_keys(tx, dataset, [key for key, _ in rows])
    names = list(dataset.columns)
    for key, one in rows:
        if key not in values:
            raise NotFound(f"{dataset.name} has no row {printable(key)}")
        for column, value in one.items():
            if column not in dataset.columns:
                raise DataError(
                    f"{column!r} is no column of {dataset.name}; there are {', '.join(names)}", column=column
                )
            values[key][names.index(column)] = to_sql(dataset.columns[column], value, column)
    return [(key, *row) for key, row in values.items()]


def delete(store: Store, name: str, keys: Sequence[Mapping[str, Any]], *, actor: str = "") -> Batch:
    """Remove rows by their key columns; rows that are not there are counted as unchanged."""
    with store.read() as tx:
        dataset = _again(tx, name)
    _needs_key(dataset)
    found = list(dict.fromkeys(key_of(dataset, one) for one in keys))
    how = {"kind": "delete", "source": "delete", "digest": _digest([(key,) for key in found])}
    counts = table.Counts()

    def work(tx: Tx, dataset: table.Dataset, chunk: Sequence[Any], is_last: bool) -> Batch | None:
        nonlocal counts
        version = dataset.version + 1 if counts.chunks else table.reserve(tx, dataset)
        counts += table.remove(tx, dataset, version, chunk)
        return _kept(tx, dataset, version, counts, how) if is_last else None

    return _write(store, name, actor, found, work)


Told = Callable[[Tx, table.Dataset], tuple[TrainedOn, ...]]


def undo(store: Store, name: str, number: int, *, actor: str = "", told: Told | None = None) -> Batch:
    """Reverse a batch where no later one touched its rows; those that were touched are left and named.

    Args:
        told: is called once, in the transaction that makes the batch seen,
            and returns the fits that were trained on what it took away.

    Raises:
        NotFound: the dataset has no such batch.
        Conflict: the batch changed nothing, or everything it did was changed again since.
    """
    counts, left = table.Counts(), []
    with store.read() as tx:
        batch = _undoable(tx, _again(tx, name), number)
        keys = table.touched_keys(tx, _again(tx, name), batch.version)

    def work(tx: Tx, dataset: table.Dataset, chunk: Sequence[Any], is_last: bool) -> Batch | None:
        nonlocal counts
        if not counts.chunks:
            _undoable(tx, dataset, number)
        version = dataset.version + 1 if counts.chunks else table.reserve(tx, dataset)
        own, touched = table.undo(tx, dataset, version, batch.version, chunk)
        counts += own
        left.extend(touched)
        if not is_last:
            return None
        if not counts.changed:
            raise Conflict(f"every row of batch {number} was changed again by a later batch; undo that one first")
        how = {"kind": "undo", "source": f"undo of batch {number}", "digest": "", "undoes": number}
        made = _kept(tx, dataset, version, counts, how)
        fits = told(tx, dataset) if told else ()
        return replace(made, left=tuple(left), fits=fits, rolled_back=tuple(one for one in fits if one.back))

    return _write(store, name, actor, keys, work)


def _undoable(tx: Tx, dataset: table.Dataset, number: int) -> Record:
    batch = table.batch(tx, dataset, number)
    if batch.kind == "erase":
        raise Conflict(f"batch {number} erased a row for good, so it cannot be undone")
    if not batch.added + batch.updated + batch.removed:
        raise Conflict(f"batch {number} changed nothing, so there is nothing to undo")
    if batch.version <= dataset.horizon:
        raise Conflict(f"batch {number} is older than the history that {dataset.name} keeps, so it cannot be undone")
    return batch


def erase(
    store: Store,
    name: str,
    row: Mapping[str, Any],
    *,
    told: Sequence[str],
    before: Told,
    after: Callable[[Tx], None],
    actor: str = "",
) -> Batch:
    """Remove a row with everything it ever was, so that no version shows it any more; nobody can undo it.

    Args:
        row: its key columns.
        told: the columns that tell partitions apart, of all models of the dataset.
        before: is called before the row goes, in the same transaction, and returns the fits that were trained on it.
        after: is called when it is gone, and may read from `table.changes` what it was gone from.

    Raises:
        NotFound: there never was such a row, as far as the history reaches.
    """

    def work(tx: Tx, dataset: table.Dataset) -> Batch:
        _needs_key(dataset)
        key = key_of(dataset, row)
        version = table.reserve(tx, dataset)
        if not table.lives(tx, dataset, key, ()):
            raise NotFound(f"{name} has no row {printable(key)}, and had none that its history tells of")
        fits = before(tx, dataset)
        counts = table.erase(tx, dataset, version, key, told)
        made = _kept(tx, dataset, version, counts, {"kind": "erase", "source": "erase", "digest": ""})
        after(tx)
        table.bury(tx, dataset)
        return replace(made, fits=fits)

    return _at_once(store, name, actor, work)


def _kept(tx: Tx, dataset: table.Dataset, version: int, counts: table.Counts, how: dict[str, Any]) -> Batch:
    """Publish a version, or record that the batch changed nothing."""
    keep = table.publish if counts.changed else table.record
    number = keep(tx, dataset, version if counts.changed else version - 1, counts, **how)
    batch = _batch(dataset.name, table.batch(tx, dataset, number))
    tx.event(
        Kind.BATCH_WRITTEN,
        dataset=dataset.name,
        batch=number,
        version=batch.version,
        kind=batch.kind,
        source=how["source"],
        added=batch.added,
        updated=batch.updated,
        removed=batch.removed,
        unchanged=batch.unchanged,
        set_aside=batch.set_aside,
    )
    return batch


# --- one writer at a time ---------------------------------------------------------------------------------------

Work = Callable[[Tx, table.Dataset, Sequence[Any], bool], Batch | None]


def _write(
    store: Store,
    name: str,
    actor: str,
    rows: Sequence[Any],
    work: Work,
    prepare: Callable[[Tx], table.Dataset] | None = None,
) -> Batch:
    """Do a write in as many transactions as it has chunks; `work` returns the batch with the last one."""
    chunks = [rows[at : at + CHUNK] for at in range(0, len(rows), CHUNK)] or [[]]
    if len(chunks) > 1:
        return _in_steps(store, name, actor, chunks, work, prepare or (lambda tx: _again(tx, name)))
    return _at_once(store, name, actor, lambda tx, dataset: _made(work(tx, dataset, chunks[0], True)), prepare)


def _made(batch: Batch | None) -> Batch:
    assert batch is not None
    return batch


def _at_once(
    store: Store,
    name: str,
    actor: str,
    work: Callable[[Tx, table.Dataset], Batch],
    prepare: Callable[[Tx], table.Dataset] | None = None,
) -> Batch:
    """Do a whole write in one transaction, as soon as no larger one is under way."""
    deadline = time.monotonic() + 2 * _TURN_S
    while True:
        with store.write(actor or None) as tx:
            dataset = table.by_name(tx, name)
            if dataset is None or not table.is_taken(tx, dataset):
                dataset = prepare(tx) if prepare else _again(tx, name)
                table.free(tx, dataset)  # a turn that ran out is over: its owner must not go on beside this write
                return work(tx, dataset)
        _wait(store, name, deadline)


def _in_steps(
    store: Store,
    name: str,
    actor: str,
    chunks: Sequence[Sequence[Any]],
    work: Work,
    prepare: Callable[[Tx], table.Dataset],
) -> Batch:
    """Do a large write in transactions of one chunk each, so that others wait for one chunk and not for all."""
    writer = secrets.token_hex(16)
    _take_turn(store, name, writer, prepare)
    try:
        for place, chunk in enumerate(chunks):
            with store.write(actor or None) as tx:
                dataset = _held(tx, name, writer)
                made = work(tx, prepare(tx) if place == 0 else dataset, chunk, place == len(chunks) - 1)
                fault_point("chunk.before_commit")
            fault_point("chunk.after_commit")
            if made is not None:
                return made
    finally:
        with store.write() as tx:
            if found := table.by_name(tx, name):
                table.free(tx, found, writer)
    raise AssertionError("the last chunk publishes")


def _take_turn(store: Store, name: str, writer: str, prepare: Callable[[Tx], table.Dataset]) -> None:
    deadline = time.monotonic() + 2 * _TURN_S
    while True:
        with store.write() as tx:
            if table.take(tx, table.by_name(tx, name) or prepare(tx), writer, _TURN_S):
                return
        _wait(store, name, deadline)


def _wait(store: Store, name: str, deadline: float) -> None:
    """Wait until nobody's turn lasts; without the write lock, which those need whose turn it is."""
    while time.monotonic() < deadline:
        time.sleep(0.05)
        with store.read() as tx:
            dataset = table.by_name(tx, name)
            if dataset is None or not table.is_taken(tx, dataset):
                return
    raise StoreBusy(f"another large batch is being written to {name}; try again when it is done")


def _held(tx: Tx, name: str, writer: str) -> table.Dataset:
    dataset = _again(tx, name)
    if not table.holds(tx, dataset, writer):
        raise StoreBusy(
            f"this batch took too long between two steps and lost its turn on {name}; nothing of it was kept"
        )
    table.take(tx, dataset, writer, _TURN_S)
    return dataset


def _again(tx: Tx, name: str) -> table.Dataset:
    if (found := table.by_name(tx, name)) is None:
        raise NotFound(table.no_rows(name))
    return found


def _needs_key(dataset: table.Dataset) -> None:
    if not dataset.key:
        raise Conflict(f"{dataset.name} declares no key=, so a single row has no name; ingest the whole file again")


def _batch(name: str, row: Record, *, again: bool = False, left: tuple[str, ...] = ()) -> Batch:
    return Batch(
        row.id,
        name,
        row.version,
        row.kind,
        row.added,
        row.updated,
        row.removed,
        row.unchanged,
        row.set_aside,
        again,
        left,
        report=row.report,
    )


# --- from what people have to rows ------------------------------------------------------------------------------


def read(data: object, spec: Dataset, before: table.Dataset | None) -> Table:
    """Return a frame or a file as a table whose columns have the types that the dataset has.

    Rows that cannot be used are set aside in it, however many they are; `_usable` refuses too many.
    """
    from evertrain.sources import read as sources

    expected = {**(before.columns if before else {}), **spec.columns}
    if isinstance(data, str | Path):
        path = Path(data)
        if path.suffix.lower() in (".parquet", ".pq"):
            found = sources.read(ParquetFile(str(path)), Path())
        elif path.suffix.lower() in (".csv", ".txt", ".tsv"):
            every = BadRows(1.0, 0)
            own = CsvFile(
                str(path), delimiter=spec.delimiter, encoding=spec.encoding, decimal=spec.decimal, dates=spec.dates,
                on_bad_rows=every,
            )  # fmt: skip
            return sources.read(own, Path(), expected)
        else:
            raise DataError(f"{path.name} has an ending that is not read; .csv, .txt, .tsv, .parquet and .pq are")
    else:
        found = sources.framed(data, "the batch")
    return _typed(found.frame, spec, expected)


def _typed(frame: pl.DataFrame, spec: Dataset, expected: Mapping[str, str]) -> Table:
    """Return a frame with the types that the dataset has; rows with texts that are no such values are set aside."""
    import polars as pl

    from evertrain.sources import conventions
    from evertrain.sources.table import DTYPES, ColumnType, Table, as_type, bad_rows, schema_of

    lines = pl.int_range(1, frame.height + 1, eager=True)
    good, bad, changes = pl.repeat(True, frame.height, eager=True), [], []
    for name, kind in schema_of(frame).items():
        wanted, values = expected.get(name, kind), frame[name]
        if wanted == kind or values.null_count() == frame.height:
            changes.append(values.cast(DTYPES[ColumnType(wanted)]))
        elif (kind, wanted) == (ColumnType.INTEGER, ColumnType.NUMBER):
            changes.append(values.cast(pl.Float64))
        elif (kind, wanted) == (ColumnType.DATE, ColumnType.INSTANT):
            changes.append(values.cast(pl.Datetime("us")).dt.replace_time_zone("UTC"))
        elif kind == ColumnType.TEXT:
            texts = values.cast(pl.String)
            if spec.decimal == ",":
                texts = conventions.with_points(texts)
            texts = conventions.with_years_first(texts, spec.dates) if spec.dates else texts
            found = as_type(texts, wanted)
            wrong = found.is_null() & values.is_not_null()
            if wrong.sum() == len(values) - values.null_count():
                continue  # it is another column altogether, which `_columns` tells better
            good &= ~wrong
            bad.append(bad_rows(lines.filter(wrong), name, values.filter(wrong), f"not {wanted}"))
            changes.append(found.alias(name))
    frame = frame.with_columns(changes)
    if good.all():
        return Table(frame, lines, counted="row")
    listed = pl.concat(bad).unique("line", keep="first", maintain_order=True).sort("line", maintain_order=True)
    return Table(frame.filter(good), lines.filter(good), set_aside_count=listed.height, bad=listed, counted="row")


Report = Callable[["pl.DataFrame"], str]
Merged = Callable[[int, int], None]


def _usable(rows: Table, spec: Dataset, source: str, report: Report | None) -> Table:
    """Return the rows without those that no dataset can hold, once they are few enough to be set aside.

    Raises:
        DataError: more rows cannot be used than `on_bad_rows` allows; its fields name the first 100.
    """
    import polars as pl

    from evertrain.sources.csvtext import refuse_too_many
    from evertrain.sources.table import SHOWN, SetAside, bad_rows

    frame, lines = rows.frame, rows.lines
    assert lines is not None
    good, bad = pl.repeat(True, frame.height, eager=True), [] if rows.bad is None else [rows.bad]
    for name in frame.columns:
        for wrong, problem in _problems(frame[name], is_key=name in spec.key):
            if (own := wrong & good).any():
                bad.append(bad_rows(lines.filter(own), name, frame[name].filter(own), problem))
                good &= ~own
    if not bad:
        return rows
    listed = pl.concat(bad).sort("line", maintain_order=True)
    told = {one.line: one for one in rows.set_aside}
    aside = [
        told.get(line)
        or SetAside(line, f"{column} is '{printable(value[:40])}', {problem}" if problem[:4] == "not " else problem, "")
        for line, column, value, problem in listed.head(SHOWN).iter_rows()
    ]
    total = frame.height + (0 if rows.bad is None else rows.bad.height)
    try:
        refuse_too_many(listed, aside, listed.height, total, spec.on_bad_rows, source, rows.counted)
    except DataError as error:
        raise _reported(str(error), listed, report, source, error.column) from None
    return replace(
        rows, frame=frame.filter(good), lines=lines.filter(good), set_aside=aside, set_aside_count=listed.height,
        bad=listed,
    )  # fmt: skip


def _reported(message: str, listed: pl.DataFrame, report: Report | None, source: str, column: str | None) -> DataError:
    """Return the error that names the first bad rows and, where reports are kept, the file that lists them all."""
    from evertrain.sources.table import SHOWN

    path = report(listed) if report else None
    return DataError(
        message + (f". All of them are listed in {path}" if path else ""),
        source=source,
        column=column,
        bad_rows=[BadRow(*row) for row in listed.head(SHOWN).iter_rows()],
        bad_count=listed.height,
        report=path,
    )


def _problems(values: pl.Series, *, is_key: bool) -> Iterator[tuple[pl.Series, str]]:
    """Yield what may be wrong with the values of a column: which ones it is, and why."""
    import polars as pl

    name = printable(values.name)
    is_number = values.dtype.is_float()
    if is_key:
        empty = values.is_null()
        yield (empty | values.is_nan().fill_null(False)) if is_number else empty, f"the key column '{name}' is empty"
    if is_number:
        infinite = values.is_infinite().fill_null(False)
        yield infinite, f"column '{name}' holds infinity; allowed: numbers, or nothing"
    if values.dtype == pl.String:
        nul = values.str.contains("\0", literal=True).fill_null(False)
        yield nul, f"column '{name}' holds a NUL character, which no text does"


def _columns(
    name: str, spec: Dataset, before: table.Dataset | None, rows: Table, source: str, report: Report | None
) -> dict[str, str]:
    """Return the columns of a dataset with this batch in it.

    Raises:
        DataError: a column is missing, or would have to change its type by more than from integer to number.
    """
    from evertrain.sources.table import ColumnType, bad_rows, schema_of

    frame, found = rows.frame, schema_of(rows.frame)
    known = before.columns if before else {}
    needed = {*known, *spec.key, *spec.columns, *([spec.time] if spec.time else [])}
    if missing := sorted(needed - found.keys()):
        raise DataError(
            f"column {missing[0]!r} of {name} is missing; the batch has {', '.join(map(printable, found))}."
            " A column without values may be empty, but must be there",
            column=missing[0],
        )
    for column, kind in found.items():
        had = known.get(column) or spec.columns.get(column) or kind
        if had != kind and (had, kind) != (ColumnType.INTEGER, ColumnType.NUMBER):
            there = frame[column].is_not_null()
            lines = pl.int_range(1, frame.height + 1, eager=True) if rows.lines is None else rows.lines
            listed = bad_rows(lines.filter(there), column, frame[column].filter(there), f"not {had}")
            text = f"column {column!r} of {name} holds {had}, the batch has {kind}; only an integer may become a number"
            raise _reported(text, listed, report, source, column)
    if not known and not frame.height:
        raise DataError(f"{name} holds no rows yet, and the batch has none; the first rows show what the columns are")
    # A column without a single value does not show its type: it is begun by the batch that has one.
    empty = [one for one in found if one not in needed and frame[one].null_count() == frame.height]
    columns = {**known, **{one: kind for one, kind in found.items() if one in known or one not in empty}}
    if len(columns) > _MOST_COLUMNS:
        raise DataError(
            f"{name} would have {len(columns):,} columns with this batch; at most {_MOST_COLUMNS:,} are kept"
        )
    return columns


def _prepared(
    spec: Dataset, rows: Table, columns: Mapping[str, str], source: str, report: Report | None
) -> tuple[list[tuple[Any, ...]], int]:
    """Return key text and SQL values of each row, each key once, and how many rows were exact repetitions.

    Raises:
        DataError: rows of one key differ.
    """
    import polars as pl

    from evertrain.sources.table import BAD

    assert rows.lines is not None
    frame = rows.frame.select(
        [pl.lit(None).alias(name) if name not in rows.frame.columns else pl.col(name) for name in columns]
    )
    values = list(zip(*[_sql_values(frame[name], columns[name]) for name in columns], strict=True)) if columns else []
    places = [list(columns).index(name) for name in spec.key]
    found: dict[str, tuple[Any, ...]] = {}
    first: dict[str, int] = {}
    doubled: list[tuple[int, str]] = []
    times: dict[str, int] = {}
    repeated = 0
    for at, row in enumerate(values):
        if places:
            key = _key_text([row[place] for place in places])
        else:
            # By the values that are there: a column that is added later, or widened, leaves a row what it was.
            named = [(name, _whole(value)) for name, value in zip(columns, row, strict=True) if value is not None]
            content = hashlib.sha256(repr(sorted(named)).encode()).hexdigest()
            times[content] = times.get(content, 0) + 1
            key = f"{content}:{times[content]}"
        if key not in found:
            found[key], first[key] = row, at
        elif found[key] == row:
            repeated += 1
        else:
            doubled.append((at, key))
    if doubled:
        # Which of them is newer nobody can say, so they are never set aside.
        at, key = doubled[0]
        said = [
            (rows.lines[at], spec.key[0], key, f"other values than{_line(rows, first[key])}") for at, key in doubled
        ]
        text = (
            f"{printable(source)}{_line(rows, at)} has the key {printable(key)} of{_line(rows, first[key])} and other"
            " values; one file may name a row once"
        )
        raise _reported(text, pl.DataFrame(said, schema=BAD, orient="row"), report, source, spec.key[0])
    return [(key, *row) for key, row in found.items()], repeated


def _line(rows: Table, at: int) -> str:
    assert rows.lines is not None
    return f" {rows.counted} {rows.lines[at]}"


def _sql_values(values: pl.Series, kind: str) -> list[Any]:
    import polars as pl

    from evertrain.sources.table import ColumnType

    if kind == ColumnType.DATE:
        return values.dt.to_string("%Y-%m-%d").to_list() if values.dtype == pl.Date else values.to_list()
    if kind == ColumnType.INSTANT:
        return values.cast(pl.Datetime("us", "UTC")).to_physical().to_list()
    if kind == ColumnType.BOOLEAN:
        return values.cast(pl.Int64).to_list()
    if kind == ColumnType.NUMBER:
        return values.cast(pl.Float64).fill_nan(None).to_list()
    return values.cast(pl.String).to_list() if kind == ColumnType.TEXT else values.to_list()


def key_of(dataset: table.Dataset, row: Mapping[str, Any]) -> str:
    """Return the key text of a row that is named by its key columns.

    Raises:
        DataError: a key column is missing.
    """
    if missing := [name for name in dataset.key if row.get(name) is None]:
        raise DataError(
            f"the key column {missing[0]!r} is missing; {dataset.name} names rows by {', '.join(dataset.key)}"
        )
    parts = [to_sql(dataset.columns[name], row[name], name) for name in dataset.key]
    return _key_text(parts)


def _key_text(parts: Sequence[Any]) -> str:
    return json.dumps([_whole(part) for part in parts], ensure_ascii=False, separators=(",", ":"))


def _whole(value: Any) -> Any:
    """Return 1 for 1.0: pandas makes numbers of whole numbers as soon as one is missing."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _digest_of(frame: pl.DataFrame) -> str:
    """Return what tells two files apart, whatever the order of their rows and whatever columns the dataset has by now."""
    from evertrain.sources.fingerprint import combine, row_digests, sums

    named = [one for one in frame.columns if frame[one].null_count() < frame.height]
    return combine(sums(row_digests(frame, named), [0])) if named and frame.height else ""


def _digest(rows: Sequence[tuple[Any, ...]]) -> str:
    """Return what tells two batches apart, whatever the order of their rows."""
    total = sum(int.from_bytes(hashlib.sha256(repr(row).encode()).digest(), "big") for row in rows) % 2**256
    return f"{total:064x}"


def compact(store: Store, name: str, spec: Dataset, *, newest: int) -> int:
    """Forget versions older than `keep_history`, in small transactions, and return how many rows that removed.

    Args:
        newest: versions from this one on stay whatever their age: a model has yet to take in what changed since.
    """
    removed = 0
    while True:
        with store.write() as tx:
            dataset = table.by_name(tx, name)
            if dataset is None:
                return removed
            horizon = min(newest, table.old_version(tx, dataset, to_text(tx.now - spec.keep_history)))
            found = table.compact(tx, dataset, horizon, CHUNK) if horizon > 0 else 0
        removed += found
        if found < CHUNK:
            return removed


# --- reading ----------------------------------------------------------------------------------------------------


def frame_at(store: Store, name: str, version: int | None = None) -> pl.DataFrame:
    """Return the rows of a version, by default the newest, as a Polars frame.

    Raises:
        NotFound: there is no such version.
    """
    with store.read() as tx:
        dataset = _again(tx, name)
        wanted = dataset.version if version is None else version
        if not dataset.horizon <= wanted <= dataset.version:
            raise NotFound(
                f"{name} has no version {wanted}; versions {dataset.horizon} to {dataset.version} can be read"
            )
        rows = table.rows_at(tx, dataset, wanted)
    return framed(dataset.columns, [tuple(row)[1:] for row in rows])


def framed(columns: Mapping[str, str], rows: Sequence[tuple[Any, ...]]) -> pl.DataFrame:
    """Return stored rows as a frame with the dataset's types."""
    import polars as pl

    from evertrain.sources.table import DTYPES, ColumnType

    stored = {ColumnType.BOOLEAN: pl.Int64(), ColumnType.DATE: pl.String(), ColumnType.INSTANT: pl.Int64()}
    kinds = {name: ColumnType(kind) for name, kind in columns.items()}
    frame = pl.DataFrame(
        rows, schema={name: stored.get(kind, DTYPES[kind]) for name, kind in kinds.items()}, orient="row"
    )
    changes = []
    for name, kind in kinds.items():
        if kind is ColumnType.BOOLEAN:
            changes.append(pl.col(name).cast(pl.Boolean))
        elif kind is ColumnType.DATE:
            changes.append(pl.col(name).str.to_date("%Y-%m-%d"))
        elif kind is ColumnType.INSTANT:
            changes.append(pl.col(name).cast(DTYPES[ColumnType.INSTANT]))
    return frame.with_columns(changes)
