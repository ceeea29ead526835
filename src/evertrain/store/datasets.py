"""Datasets: rows that Evertrain keeps, each with the versions between which it held.

A change closes the old row and opens a new one, so every earlier version can be read, compared and trained on. A
version is written under a reserved number that no reader sees, in one transaction or in many, and published in one;
what a dead writer left under a reserved number is swept by the next one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evertrain.errors import Conflict, NotFound
from evertrain.store.connect import Record, Store, Tx, dump

LIVE = "since <= :version AND (until IS NULL OR until > :version)"
_INCOMING = "incoming"


@dataclass
class Dataset:
    """One dataset as the store knows it.

    Attributes:
        key: columns that identify a row; empty: its content does.
        columns: type by column name, in order; the n-th is kept in SQL column `c<n>`.
        version: the newest one that readers see; 0 before the first batch.
        horizon: the oldest version that can still be read.
    """

    id: int
    name: str
    key: tuple[str, ...]
    columns: dict[str, str]
    version: int
    rows: int
    horizon: int = 0

    @property
    def table(self) -> str:
        return f"ds_{self.id}"

    def sql(self, column: str) -> str:
        """Return the SQL name of a column."""
        return f"c{list(self.columns).index(column) + 1}"

    @property
    def listed(self) -> str:
        """Return the SQL names of all columns, separated by commas."""
        return ", ".join(f"c{place}" for place in range(1, len(self.columns) + 1))


@dataclass
class Counts:
    """What a batch did to rows."""

    added: int = 0
    updated: int = 0
    removed: int = 0
    unchanged: int = 0
    chunks: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.added + other.added,
            self.updated + other.updated,
            self.removed + other.removed,
            self.unchanged + other.unchanged,
            self.chunks + other.chunks,
        )

    @property
    def changed(self) -> int:
        return self.added + self.updated + self.removed


def by_name(tx: Tx, name: str) -> Dataset | None:
    """Return a dataset, None before its first batch."""
    row = tx.row("SELECT * FROM datasets WHERE name = :name", name=name)
    if row is None:
        return None
    return Dataset(
        row.id, row.name, tuple(json.loads(row.key)), json.loads(row.columns), row.version, row.rows, row.horizon
    )


def no_rows(name: str) -> str:
    """Return what is told of a dataset before its first batch."""
    return f"dataset {name} holds no rows yet; `evertrain ingest {name} FILE.csv` brings the first"


def create(tx: Tx, name: str, key: Sequence[str], columns: Mapping[str, str]) -> Dataset:
    """Create a dataset and its table."""
    number = int(
        tx.value(
            "INSERT INTO datasets(name, key, columns, created_at) VALUES (:name, :key, :columns, :at) RETURNING id",
            name=name,
            key=dump(list(key)),
            columns=dump(dict(columns)),
            at=tx.now_text,
        )
    )
    made = Dataset(number, name, tuple(key), dict(columns), 0, 0)
    tx.run(
        f"CREATE TABLE {made.table}(row INTEGER PRIMARY KEY, key TEXT NOT NULL, since INTEGER NOT NULL, until INTEGER,"
        f" {made.listed})"
    )
    tx.run(f"CREATE UNIQUE INDEX {made.table}_key ON {made.table}(key) WHERE until IS NULL")
    tx.run(f"CREATE INDEX {made.table}_history ON {made.table}(key, since)")
    tx.run(f"CREATE INDEX {made.table}_since ON {made.table}(since)")
    tx.run(f"CREATE INDEX {made.table}_until ON {made.table}(until) WHERE until IS NOT NULL")
    return made


def widen(tx: Tx, dataset: Dataset, columns: Mapping[str, str]) -> Dataset:
    """Give a dataset the columns it has not, and the wider types it needs; rows of before have no value there."""
    grown = {**dataset.columns, **columns}
    if grown == dataset.columns:
        return dataset
    for place in range(len(dataset.columns) + 1, len(grown) + 1):
        tx.run(f"ALTER TABLE {dataset.table} ADD COLUMN c{place}")
    tx.run("UPDATE datasets SET columns = :columns WHERE id = :id", columns=dump(grown), id=dataset.id)
    return replace(dataset, columns=grown)


def index(tx: Tx, dataset: Dataset, columns: Sequence[str], time: str | None = None) -> None:
    """Make the rows of one partition cheap to find at any version, and those of its last days among them.

    The time stands last, so that older rows of the partition are passed over without a look at them in the table.
    """
    if columns:
        names = [*(dataset.sql(name) for name in columns), "since", "until", *([dataset.sql(time)] if time else [])]
        tx.run(
            f"CREATE INDEX IF NOT EXISTS {dataset.table}_by_{'_'.join(names)} ON {dataset.table}({', '.join(names)})"
        )


# --- writing ----------------------------------------------------------------------------------------------------


def take(tx: Tx, dataset: Dataset, writer: str, seconds: float) -> bool:
    """Make `writer` the only one that writes this dataset, for some seconds; return whether it may."""
    return bool(
        tx.run(
            "UPDATE datasets SET writer = :writer, writer_boot = :boot, writer_until = :until WHERE id = :id"
            " AND (writer IS NULL OR writer = :writer OR writer_boot <> :boot OR writer_until < :boottime)",
            id=dataset.id,
            writer=writer,
            boot=tx.boot_id,
            until=tx.boottime + seconds,
            boottime=tx.boottime,
        )
    )


def is_taken(tx: Tx, dataset: Dataset) -> bool:
    """Return whether somebody's turn to write lasts."""
    return bool(
        tx.value(
            "SELECT 1 FROM datasets WHERE id = :id AND writer IS NOT NULL AND writer_boot = :boot"
            " AND writer_until >= :boottime",
            id=dataset.id,
            boot=tx.boot_id,
            boottime=tx.boottime,
        )
    )


def holds(tx: Tx, dataset: Dataset, writer: str) -> bool:
    """Return whether `writer` still is the one that writes; one that slept too long may not be."""
    return bool(tx.value("SELECT writer = :writer FROM datasets WHERE id = :id", id=dataset.id, writer=writer))


def free(tx: Tx, dataset: Dataset, writer: str | None = None) -> None:
    """End the turn of `writer`, or of whoever had it."""
    tx.run(
        "UPDATE datasets SET writer = NULL WHERE id = :id AND writer = coalesce(:writer, writer)",
        id=dataset.id,
        writer=writer,
    )


def reserve(tx: Tx, dataset: Dataset) -> int:
    """Return the number under which the next version is written, after sweeping what a dead writer left there."""
    version = dataset.version + 1
    tx.run(f"DELETE FROM {dataset.table} WHERE since = :version", version=version)
    tx.run(f"UPDATE {dataset.table} SET until = NULL WHERE until = :version", version=version)
    return version


def merge(tx: Tx, dataset: Dataset, version: int, rows: Sequence[Sequence[Any]]) -> Counts:
    """Write rows, each its key text and then its values in the order of the columns; the newer row of a key wins.

    Rows that are as they were are left alone. No key may stand twice in `rows`.
    """
    places = range(1, len(dataset.columns) + 1)
    tx.run(f"CREATE TEMP TABLE {_INCOMING}(key TEXT PRIMARY KEY, {dataset.listed}) WITHOUT ROWID")
    try:
        names = ", ".join(f":c{place}" for place in places)
        tx.many(
            f"INSERT INTO {_INCOMING} VALUES (:key, {names})",
            [{"key": row[0], **{f"c{place}": row[place] for place in places}} for row in rows],
        )
        same = _all([f"d.c{place} IS b.c{place}" for place in places])
        closed = tx.run(
            # CROSS JOIN keeps the batch outside: what it costs must not know how many other rows there are.
            f"UPDATE {dataset.table} SET until = :version WHERE row IN (SELECT d.row FROM {_INCOMING} b"
            f" CROSS JOIN {dataset.table} d WHERE d.key = b.key AND d.until IS NULL AND NOT ({same}))",
            version=version,
        )
        opened = tx.run(
            f"INSERT INTO {dataset.table}(key, since, {dataset.listed}) SELECT b.key, :version, {dataset.listed}"
            f" FROM {_INCOMING} b WHERE NOT EXISTS"
            f" (SELECT 1 FROM {dataset.table} d WHERE d.key = b.key AND d.until IS NULL)",
            version=version,
        )
    finally:
        tx.run(f"DROP TABLE {_INCOMING}")
    return Counts(opened - closed, closed, 0, len(rows) - opened, 1)


def _all(conditions: Sequence[str]) -> str:
    """Return one condition of many: in groups, since each AND is a level of the tree, and SQLite takes a thousand."""
    groups = [" AND ".join(conditions[at : at + 50]) for at in range(0, len(conditions), 50)]
    return " AND ".join(f"({one})" for one in groups)


def remove(tx: Tx, dataset: Dataset, version: int, keys: Sequence[str]) -> Counts:
    """End the rows of these keys."""
    removed = tx.run(
        f"UPDATE {dataset.table} SET until = :version WHERE until IS NULL"
        " AND key IN (SELECT value FROM json_each(:keys))",
        version=version,
        keys=dump(list(keys)),
    )
    return Counts(removed=removed, unchanged=len(keys) - removed, chunks=1)


def publish(tx: Tx, dataset: Dataset, version: int, counts: Counts, **how: Any) -> int:
    """Let readers see a version, record its batch (see `record`), and return the batch's number.

    Raises:
        Conflict: another writer has published meanwhile.
    """
    changed = tx.run(
        "UPDATE datasets SET version = :version, rows = rows + :more WHERE id = :id AND version = :before",
        version=version,
        more=counts.added - counts.removed,
        id=dataset.id,
        before=version - 1,
    )
    if not changed:
        raise Conflict(f"{dataset.name} was written by another process meanwhile; nothing of this batch was kept")
    return record(tx, dataset, version, counts, **how)


def record(
    tx: Tx,
    dataset: Dataset,
    version: int,
    counts: Counts,
    *,
    kind: str,
    source: str,
    digest: str,
    set_aside: int = 0,
    undoes: int | None = None,
    token: str | None = None,
    report: str | None = None,
) -> int:
    """Record a batch and return its number; one that changed nothing is recorded at the version it found."""
    return int(
        tx.value(
            "INSERT INTO batches(dataset_id, version, kind, source, actor, at, added, updated, removed, unchanged,"
            " set_aside, digest, undoes, token, report) VALUES (:dataset, :version, :kind, :source, :actor, :at, :added,"
            " :updated, :removed, :unchanged, :aside, :digest, :undoes, :token, :report) RETURNING id",
            dataset=dataset.id,
            version=version,
            kind=kind,
            source=source,
            actor=tx.actor,
            at=tx.now_text,
            added=counts.added,
            updated=counts.updated,
            removed=counts.removed,
            unchanged=counts.unchanged,
            aside=set_aside,
            digest=digest,
            undoes=undoes,
            token=token,
            report=report,
        )
    )


# --- reading ----------------------------------------------------------------------------------------------------


def changes(tx: Tx, dataset: Dataset, after: int, upto: int, columns: Sequence[str]) -> list[tuple[Any, ...]]:
    """Return the distinct values that rows changed after one version and up to another have in `columns`.

    The values of before are among them: a record that moved is news for the partition it left, too.
    """
    names = ", ".join(dataset.sql(name) for name in columns) or "NULL"
    found = tx.rows(
        f"SELECT {names} FROM {dataset.table} WHERE since > :after AND since <= :upto UNION"
        f" SELECT {names} FROM {dataset.table} WHERE until > :after AND until <= :upto",
        after=after,
        upto=upto,
    )
    return [tuple(row) for row in found]


def times(tx: Tx, dataset: Dataset, time: str, needed: str, limit: int = 20_000) -> list[Any]:
    """Return the different times among the rows written last that have a value in `needed`."""
    return [
        row[0]
        for row in tx.rows(
            f"SELECT DISTINCT time FROM (SELECT {dataset.sql(time)} AS time FROM {dataset.table} WHERE {LIVE}"
            f" AND {dataset.sql(needed)} IS NOT NULL ORDER BY row DESC LIMIT :limit) WHERE time IS NOT NULL",
            version=dataset.version,
            limit=limit,
        )
    ]


def newest(
    tx: Tx, dataset: Dataset, time: str, needed: str, after: int = 0, known: Any = None, until: Any = None
) -> Any:
    """Return the newest time of the rows that have a value in `needed`.

    Args:
        until: rows after this time are not looked at.
        after, known: what it was in an earlier version; then only what changed since is looked at, unless a row of
            that time went away.
    """
    column, has = dataset.sql(time), f"{dataset.sql(needed)} IS NOT NULL"
    has += "" if until is None else f" AND {column} <= :until"
    since, values = "", {} if until is None else {"until": until}
    if known is not None:
        gone = tx.value(
            f"SELECT max({column}) FROM {dataset.table} WHERE until > :after AND until <= :version AND {has}",
            after=after,
            version=dataset.version,
            **values,
        )
        since = " AND since > :after" if gone is None or gone < known else ""
    found = tx.value(
        f"SELECT max({column}) FROM {dataset.table} WHERE {LIVE} AND {has}{since}",
        version=dataset.version,
        **values,
        **({"after": after} if since else {}),
    )
    return max((one for one in (found, known if since else None) if one is not None), default=None)


def rows_at(tx: Tx, dataset: Dataset, version: int, where: str = "1", **values: Any) -> Sequence[Record]:
    """Return the rows of a version, in the order in which they were first written."""
    return tx.rows(
        f"SELECT key, {dataset.listed} FROM {dataset.table} WHERE {LIVE} AND {where} ORDER BY row",
        version=version,
        **values,
    )


def values_of(tx: Tx, dataset: Dataset, columns: Sequence[str], where: Mapping[str, Sequence[Any]]) -> Sequence[Record]:
    """Return some columns of the newest rows that have one of the values in each column of `where`."""
    conditions, values = [], {}
    for number, (name, wanted) in enumerate(where.items()):
        column = dataset.sql(name)
        null = f" OR {column} IS NULL" if None in wanted else ""
        conditions.append(f"({column} IN (SELECT value FROM json_each(:w{number})){null})")
        values[f"w{number}"] = dump(list(wanted))
    return tx.rows(
        f"SELECT {', '.join(map(dataset.sql, columns))} FROM {dataset.table}"
        f" WHERE {' AND '.join([LIVE, *conditions])} ORDER BY row",
        version=dataset.version,
        **values,
    )


def of_keys(tx: Tx, dataset: Dataset, keys: Sequence[str]) -> dict[str, list[Any]]:
    """Return the values of the newest rows of these keys, where there are any."""
    found = tx.rows(
        f"SELECT d.key, {dataset.listed} FROM json_each(:keys) j CROSS JOIN {dataset.table} d"
        " WHERE d.key = j.value AND d.until IS NULL",
        keys=dump(list(keys)),
    )
    return {row.key: list(row)[1:] for row in found}


def batches(tx: Tx, dataset: Dataset, limit: int, before: int | None = None) -> Sequence[Record]:
    """Return the newest batches, or the newest of those before one."""
    return tx.rows(
        "SELECT * FROM batches WHERE dataset_id = :id AND id < :before ORDER BY id DESC LIMIT :limit",
        id=dataset.id,
        before=2**62 if before is None else before,
        limit=limit,
    )


def batch(tx: Tx, dataset: Dataset, number: int) -> Record:
    """Return one batch.

    Raises:
        NotFound: the dataset has no such batch.
    """
    found = tx.row("SELECT * FROM batches WHERE dataset_id = :dataset AND id = :id", dataset=dataset.id, id=number)
    if found is None:
        raise NotFound(f"{dataset.name} has no batch {number}; `evertrain batches {dataset.name}` lists them")
    return found


def by_token(tx: Tx, dataset: Dataset, token: str) -> Record | None:
    """Return the batch that was sent with this token before."""
    return tx.row(
        "SELECT * FROM batches WHERE dataset_id = :dataset AND token = :token", dataset=dataset.id, token=token
    )


def touched_keys(tx: Tx, dataset: Dataset, version: int) -> list[str]:
    """Return the keys of the rows that began or ended with a version, in their order."""
    found = tx.rows(
        f"SELECT key FROM {dataset.table} WHERE since = :version UNION"
        f" SELECT key FROM {dataset.table} WHERE until = :version ORDER BY 1",
        version=version,
    )
    return [row[0] for row in found]


def undo(tx: Tx, dataset: Dataset, version: int, undone: int, keys: Sequence[str]) -> tuple[Counts, list[str]]:
    """Reverse what version `undone` did to rows of these keys that no later version touched; return the other keys."""
    # By key and never by version: what a chunk costs must not know how large the batch is.
    of_key = f"json_each(:keys) j CROSS JOIN {dataset.table} d WHERE d.key = j.value"
    later = {
        row[0]
        for row in tx.rows(
            f"SELECT DISTINCT d.key FROM {of_key} AND (d.since > :undone OR d.until > :undone)",
            undone=undone,
            keys=dump(list(keys)),
        )
    }
    free = dump([key for key in keys if key not in later])
    closed = tx.run(
        f"UPDATE {dataset.table} SET until = :version WHERE row IN"
        f" (SELECT d.row FROM {of_key} AND d.since = :undone AND d.until IS NULL)",
        version=version,
        undone=undone,
        keys=free,
    )
    opened = tx.run(
        f"INSERT INTO {dataset.table}(key, since, {dataset.listed}) SELECT d.key, :version, {dataset.listed}"
        f" FROM {of_key} AND d.until = :undone",
        version=version,
        undone=undone,
        keys=free,
    )
    both = int(
        tx.value(
            f"SELECT count(*) FROM {of_key} AND d.since = :version AND EXISTS"
            f" (SELECT 1 FROM {dataset.table} o WHERE o.key = d.key AND o.until = :version)",
            version=version,
            keys=free,
        )
    )
    return Counts(opened - both, both, closed - both, len(later), 1), sorted(later)


def spans(tx: Tx, dataset: Dataset, version: int, columns: Sequence[str]) -> list[tuple[Any, ...]]:
    """Return for each group of values in `columns` that a version touched, from which version to which it is felt.

    It is felt from that version until its last row was touched again; None where one never was.
    """
    names = ", ".join(f"t.{dataset.sql(name)}" for name in columns) or "NULL"
    again = (
        f"SELECT min(n) FROM (SELECT l.since AS n FROM {dataset.table} l WHERE l.key = t.key AND l.since > :version"
        f" UNION ALL SELECT l.until FROM {dataset.table} l WHERE l.key = t.key AND l.until > :version)"
    )
    found = tx.rows(
        f"SELECT {names}, :version, CASE WHEN sum(over IS NULL) THEN NULL ELSE max(over) END FROM"
        f" (SELECT t.*, ({again}) AS over FROM (SELECT * FROM {dataset.table} WHERE since = :version"
        f" UNION SELECT * FROM {dataset.table} WHERE until = :version) t) t GROUP BY {names}",
        version=version,
    )
    return [tuple(row) for row in found]


def lives(tx: Tx, dataset: Dataset, key: str, columns: Sequence[str]) -> list[tuple[Any, ...]]:
    """Return for each row that a key ever had its values in `columns` and the versions from and until which it held."""
    names = "".join(f"{dataset.sql(name)}, " for name in columns)
    found = tx.rows(f"SELECT {names}since, until FROM {dataset.table} WHERE key = :key ORDER BY since", key=key)
    return [tuple(row) for row in found]


def erase(tx: Tx, dataset: Dataset, version: int, key: str, told: Sequence[str]) -> Counts:
    """Remove every row that a key ever had, and the digests of the batches that wrote them.

    For the time of this transaction a row stays that holds in no version, with the values of the columns `told`
    alone: `changes` tells from it which partitions lost one. `bury` removes it.
    """
    tx.run(
        "UPDATE batches SET digest = '' WHERE dataset_id = :id AND version IN"
        f" (SELECT since FROM {dataset.table} WHERE key = :key UNION"
        f" SELECT until FROM {dataset.table} WHERE key = :key)",
        id=dataset.id,
        key=key,
    )
    names = "".join(f", {dataset.sql(name)}" for name in told)
    removed = tx.run(
        f"INSERT INTO {dataset.table}(key, since, until{names}) SELECT '', :version, :version{names}"
        f" FROM {dataset.table} WHERE key = :key AND until IS NULL",
        key=key,
        version=version,
    )
    tx.run(f"DELETE FROM {dataset.table} WHERE key = :key", key=key)
    return Counts(removed=removed)


def bury(tx: Tx, dataset: Dataset) -> None:
    """Remove what `erase` left so that partitions could be told of it."""
    tx.run(f"DELETE FROM {dataset.table} WHERE key = '' AND since = until")


def _same(dataset: Dataset, columns: Sequence[str]) -> str:
    """Return the condition that a row of `d` has the values listed in `j` in these columns."""
    same = (f"d.{dataset.sql(name)} IS json_extract(j.value, '$[{place}]')" for place, name in enumerate(columns))
    return " AND ".join(same) or "1"


def count_by(
    tx: Tx, dataset: Dataset, version: int, columns: Sequence[str], groups: Sequence[Sequence[Any]], needed: str
) -> list[int]:
    """Return for each group of values how many rows have them in `columns` and a value in `needed`."""
    found = tx.rows(
        f"SELECT j.key, count(d.row) FROM json_each(:groups) j CROSS JOIN {dataset.table} d"
        f" WHERE {_same(dataset, columns)} AND {LIVE} AND d.{dataset.sql(needed)} IS NOT NULL"
        " GROUP BY j.key",
        groups=dump([list(group) for group in groups]),
        version=version,
    )
    counts = {row[0]: row[1] for row in found}
    return [counts.get(place, 0) for place in range(len(groups))]


def copy_rows(
    store: Store, dataset: Dataset, version: int, groups: Sequence[tuple[Sequence[str], Sequence[Any]]], target: Path
) -> None:
    """Copy rows of a version into a database of their own, in the order in which they were written.

    Args:
        groups: columns, and lists of the values that wanted rows have in them; no columns means every row.
    """
    selects, values = [], {}
    for number, (columns, wanted) in enumerate(groups):
        selects.append(
            f"SELECT d.row FROM json_each(:g{number}) j CROSS JOIN {dataset.table} d WHERE {_same(dataset, columns)}"
            if columns
            else f"SELECT row FROM {dataset.table}"
        )
        values[f"g{number}"] = dump([list(one) for one in wanted])
    store.copy_out(
        f"SELECT {dataset.listed} FROM {dataset.table} WHERE row IN ({' UNION '.join(selects)})"
        f" AND {LIVE} ORDER BY row",
        {**values, "version": version},
        target,
    )


def old_version(tx: Tx, dataset: Dataset, before: str) -> int:
    """Return the newest version that was already there at a moment, 0 where none was."""
    return int(
        tx.value(
            "SELECT coalesce(max(version), 0) FROM batches WHERE dataset_id = :id AND at < :before",
            id=dataset.id,
            before=before,
        )
    )


def compact(tx: Tx, dataset: Dataset, horizon: int, limit: int) -> int:
    """Remove rows that ended before version `horizon` began, at most `limit` of them; return how many."""
    tx.run("UPDATE datasets SET horizon = max(horizon, :horizon) WHERE id = :id", horizon=horizon, id=dataset.id)
    return tx.run(
        f"DELETE FROM {dataset.table} WHERE row IN"
        f" (SELECT row FROM {dataset.table} WHERE until <= :horizon LIMIT :limit)",
        horizon=horizon,
        limit=limit,
    )
