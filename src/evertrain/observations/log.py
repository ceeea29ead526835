"""The file of observations: who writes it, what it keeps, how it is read."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from evertrain.clock import Clock
from evertrain.errors import DataError, StoreError
from evertrain.observations.rows import (
    EPOCH,
    MISSING,
    Value,
    Window,
    drawn,
    encoded,
    hash_of,
    id_of,
    instants,
    micros,
    per_row,
    plain,
    typed,
    window_of,
)  # fmt: skip
from evertrain.partitions import WHOLE, KeyText
from evertrain.store.connect import refuse_network, translated

DAYS, ROWS = 90, 1_000_000
_WAITING_DAYS = 30  # an actual without its prediction
_CHUNK = 5_000  # rows of one transaction: other writers get their turn between two
_PRUNE_S = 3_600.0  # whoever writes removes what is too old, so often
_SWEEP = 20_000  # row numbers that one transaction of thinning looks at
_ARRIVED = 0.95  # of the expected labels, before the watermark
_PROBES, _PROBED = 40, 256


_TABLES = """
CREATE TABLE models (
  id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,
  seq INTEGER NOT NULL DEFAULT 0,       -- number of the newest write that brought news
  rows INTEGER NOT NULL DEFAULT 0,      -- rows that are stored
  halvings INTEGER NOT NULL DEFAULT 0,  -- 1 in 2^halvings rows is kept
  swept INTEGER);                       -- row number up to which older rows were thinned, null for all of them
CREATE TABLE partitions (
  id INTEGER PRIMARY KEY, model INTEGER NOT NULL REFERENCES models, key TEXT NOT NULL,
  seq INTEGER NOT NULL DEFAULT 0,
  observed INTEGER NOT NULL DEFAULT 0,  -- kept rows that ever came, it never falls
  labelled INTEGER NOT NULL DEFAULT 0,  -- of those, rows whose actual ever came
  UNIQUE (model, key));
CREATE INDEX partitions_seq ON partitions (model, seq);
CREATE TABLE layouts (id INTEGER PRIMARY KEY, columns TEXT NOT NULL UNIQUE);
CREATE TABLE observed (
  id INTEGER PRIMARY KEY, model INTEGER NOT NULL REFERENCES models, name TEXT NOT NULL, hash INTEGER NOT NULL,
  partition INTEGER REFERENCES partitions, at INTEGER, layout INTEGER REFERENCES layouts, numbers BLOB, texts TEXT,
  predicted, version TEXT, actual, actual_at INTEGER, labelled_at INTEGER,
  UNIQUE (model, name),
  CHECK ((at IS NULL) = (partition IS NULL) AND (at IS NULL) = (layout IS NULL)),
  CHECK ((actual IS NULL) = (actual_at IS NULL) AND (actual IS NULL) = (labelled_at IS NULL)),
  CHECK (at IS NOT NULL OR actual IS NOT NULL));
CREATE INDEX observed_model ON observed (model, at);
CREATE INDEX observed_partition ON observed (partition, at) WHERE partition IS NOT NULL;
PRAGMA user_version = 1;
"""


@dataclass(frozen=True)
class Noted:
    """What became of rows that were observed.

    Attributes:
        rows: that were given: `new`, `replaced` (the id was known), `unchanged` (the same again), `older` (a newer
            prediction is stored under the id), `too_old` (past the age at which rows go) and `sampled_out` (see `share`).
        ids: one per row, in order; drawn where none were given.
        share: of the rows that are kept, such as 0.5.
        thinned: whether that share was halved now.
        actuals: what became of actuals that came with them.
    """

    rows: int
    new: int = 0
    replaced: int = 0
    unchanged: int = 0
    older: int = 0
    too_old: int = 0
    sampled_out: int = 0
    share: float = 1.0
    thinned: bool = False
    actuals: Labelled | None = None
    ids: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Labelled:
    """What became of actuals.

    Attributes:
        rows: that were given.
        matched: got the first actual of an observation.
        waiting: have no observation yet, or not any more; they wait 30 days for one.
        corrected: replaced an actual that was known.
        unchanged: were known, or are older than what is known.
        missing: hold no value, so they say nothing.
        sampled_out: belong to rows that are not kept.
    """

    rows: int
    matched: int = 0
    waiting: int = 0
    corrected: int = 0
    unchanged: int = 0
    missing: int = 0
    sampled_out: int = 0


@dataclass(frozen=True)
class News:
    """A partition with news: the number to ask from next time, and how many rows and labels ever came."""

    key: KeyText
    mark: int
    observed: int
    labelled: int


@dataclass(frozen=True)
class Pruned:
    """What was too old: rows, actuals whose prediction never came, and rows thinned away."""

    rows: int = 0
    waiting: int = 0
    thinned: int = 0


class Observations:
    """The observations of one project. Thread-safe; any process may write.

    Args:
        path: the file; made with the first write.
        days: age at which rows go.
        rows: of one model; past it every second one goes, see the module.
        busy_s: seconds to wait for another process's write.

    >>> import tempfile; from evertrain.clock import ManualClock
    >>> seen = Observations(Path(tempfile.mkdtemp()) / "observations.db", ManualClock())
    >>> seen.observe("m", {"x": [1.0, 2.0]}, predicted=[3, 4], ids=["a", "b"])
    Noted(rows=2, new=2, replaced=0, unchanged=0, older=0, too_old=0, sampled_out=0, share=1.0, thinned=False, actuals=None)
    >>> seen.actuals("m", ["a"], [3.5]).matched
    1
    >>> seen.window("m").actual
    array([3.5, nan])
    """

    def __init__(self, path: Path, clock: Clock, *, days: int = DAYS, rows: int = ROWS, busy_s: float = 5.0) -> None:
        self.path, self.clock, self.days, self.bound = path, clock, days, rows
        self._busy_s, self._pid = busy_s, os.getpid()
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._pruned = -_PRUNE_S

    # --- writing ----------------------------------------------------------------------------------------------

    def observe(
        self,
        model: str,
        frame: object,
        *,
        predicted: Iterable[object],
        probabilities: object = None,
        classes: Sequence[object] | None = None,
        keys: Sequence[KeyText] | None = None,
        ids: Sequence[object] | None = None,
        times: Sequence[object] | None = None,
        versions: Sequence[str] | None = None,
    ) -> Noted:
        """Write predictions with their features.

        Args:
            frame: the features: a pandas or Polars frame, columns by name, or one mapping per row.
            predicted: a number or a text per row; missing where the model gave none.
            probabilities: shape (rows, classes).
            classes: what their columns stand for; by default 0, 1, …
            keys: partition of each row; by default the whole model.
            ids: by which actuals find their row; by default drawn. An id given again replaces its row, unless that
                is newer.
            times: when it was predicted, UTC unless they name a zone; by default now.
            versions: of the model, that answered.

        Raises:
            DataError: a value cannot be kept; nothing is written.
            StoreBusy: another process held the write lock for too long.
        """
        columns = typed(frame)
        values = plain(predicted, "prediction")
        count = len(values)
        if columns.width and columns.height != count:
            raise DataError(f"there are {count} predictions for {columns.height} rows")
        now = self.clock.now()
        layout, numbers, texts = encoded(columns, count, probabilities, classes)
        given = per_row("key", keys, count)
        moments = instants(times, now, count, "the time of a prediction")
        told = per_row("version", versions, count)
        listed = per_row("id", ids, count)
        names = tuple(drawn(now, count) if listed is None else map(id_of, listed, range(1, count + 1)))
        rows = list(
            zip(  # noqa: B905 - what is alike for all rows is repeated without end
                names, map(hash_of, names), repeat(WHOLE) if given is None else given, moments, numbers, texts, values,
                repeat(None) if told is None else told,
            )
        )  # fmt: skip
        total: Counter[str] = Counter()
        thinned = False
        for start in range(0, count, _CHUNK):
            counts, halved = self._observe(model, layout, rows[start : start + _CHUNK], ids is None, times is not None)
            total += counts
            thinned = thinned or halved
        share = self.share(model)
        if self.clock.boottime() - self._pruned >= _PRUNE_S:
            self._forget()
        became: dict[str, Any] = dict(total)
        return Noted(count, **became, share=share, thinned=thinned, ids=names)

    def _observe(
        self, model: str, layout: str, rows: list[tuple[Any, ...]], new: bool, timed: bool
    ) -> tuple[Counter[str], bool]:
        """Write some rows; return what became of them, and whether fewer rows are kept from now on."""
        counts: Counter[str] = Counter()
        news: Counter[KeyText] = Counter()
        labels: Counter[KeyText] = Counter()
        oldest = micros(self.clock.now() - timedelta(days=self.days))
        with self._write() as run:
            owner = _model(run, model)
            mask = (1 << owner.halvings) - 1
            place = _layout(run, layout)
            kept = [row for row in rows if row[3] >= oldest]
            counts["too_old"] = len(rows) - len(kept)
            kept = [row for row in kept if not row[1] & mask] if mask else kept
            counts["sampled_out"] = len(rows) - counts["too_old"] - len(kept)
            known = {} if new else _observed(run, owner.id, [row[0] for row in kept])
            fresh: dict[str, tuple[Any, ...]] = {}
            changed: dict[str, tuple[Any, ...]] = {}
            for row in kept:
                name, _, key, at, numbers, texts, predicted, version = row
                content = (key, place, numbers, texts, predicted, version)
                before = known.get(name)
                if before is None or before[1] is None:
                    counts["new"] += 1
                    news[key] += 1
                    labels[key] += before is not None  # its actual waited
                elif content == before[2] and (at == before[1] or not timed):
                    counts["unchanged"] += 1
                    continue
                elif at < before[1]:
                    counts["older"] += 1
                    continue
                else:
                    counts["replaced"] += 1
                    news[key] += 0
                known[name] = (before[0] if before else None, at, content)
                (fresh if known[name][0] is None else changed)[name] = row
            numbers_of = _partitions(run, owner.id, news)
            run.executemany(
                "INSERT INTO observed (model, name, hash, partition, at, layout, numbers, texts, predicted, version)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (owner.id, name, mark, numbers_of[key], at, place, numbers, texts, predicted, version)
                    for name, mark, key, at, numbers, texts, predicted, version in fresh.values()
                ],
            )
            run.executemany(
                "UPDATE observed SET partition = ?, at = ?, layout = ?, numbers = ?, texts = ?, predicted = ?,"
                " version = ? WHERE id = ?",
                [
                    (numbers_of[key], at, place, numbers, texts, predicted, version, known[name][0])
                    for name, _, key, at, numbers, texts, predicted, version in changed.values()
                ],
            )
            thinned = _grown(run, owner, len(fresh), self.bound)
            _tell(run, owner.id, {numbers_of[key]: (news[key], labels[key]) for key in news})
        if thinned or owner.swept is not None:
            self._sweep(model, steps=1)  # the rest with the next writes, so that none of them takes long
        return counts, thinned

    def actuals(
        self, model: str, ids: Sequence[object], values: Iterable[object], *, times: Sequence[object] | None = None
    ) -> Labelled:
        """Write what really happened; before, after or long after the predictions, in part, or again to correct it.

        Args:
            ids: of the observations.
            values: a number or a text each; a missing one says nothing.
            times: when each became known, UTC unless they name a zone; by default now. The newest is the one that
                counts, and of equally new ones the last.

        Raises:
            DataError: a value cannot be kept; nothing is written.
        """
        found = plain(values, "actual")
        count = len(found)
        listed = per_row("id", ids, count)
        names = [id_of(one, number) for number, one in enumerate(listed or [], 1)]
        moments = instants(times, self.clock.now(), count, "the time of an actual")
        rows = [row for row in zip(names, moments, found, strict=True) if row[2] is not None]
        total: Counter[str] = Counter(rows=count, missing=count - len(rows))
        for start in range(0, len(rows), _CHUNK):
            total += self._actuals(model, rows[start : start + _CHUNK], times is not None)
        return Labelled(**total)

    def _actuals(self, model: str, rows: list[tuple[str, int, Value]], timed: bool) -> Counter[str]:
        counts: Counter[str] = Counter()
        news: Counter[int] = Counter()
        with self._write() as run:
            owner = _model(run, model)
            mask = (1 << owner.halvings) - 1
            known = _labels(run, owner.id, [row[0] for row in rows])
            touched: dict[str, None] = {}
            for name, at, value in rows:
                if mask and hash_of(name) & mask:
                    counts["sampled_out"] += 1
                    continue
                number, partition, before, since, first = known.get(name) or (None, None, None, None, None)
                if since is None or first is None:
                    counts["waiting" if partition is None else "matched"] += 1
                    if partition is not None:
                        news[partition] += 1
                    known[name] = (number, partition, value, at, at)
                    touched[name] = None
                    continue
                same = value == before and isinstance(value, str) == isinstance(before, str)
                if at < since or same:
                    counts["unchanged"] += 1
                    if not timed:
                        continue
                else:
                    counts["corrected"] += 1
                    if partition is not None:
                        news[partition] += 0
                wins = value if at >= since else before
                known[name] = (number, partition, wins, max(at, since), min(at, first))
                touched[name] = None
            fresh = [name for name in touched if known[name][0] is None]
            run.executemany(
                "INSERT INTO observed (model, name, hash, actual, actual_at, labelled_at) VALUES (?, ?, ?, ?, ?, ?)",
                [(owner.id, name, hash_of(name), *known[name][2:]) for name in fresh],
            )
            run.executemany(
                "UPDATE observed SET actual = ?, actual_at = ?, labelled_at = ? WHERE id = ?",
                [(*known[name][2:], known[name][0]) for name in touched if known[name][0] is not None],
            )
            thinned = _grown(run, owner, len(fresh), self.bound)
            _tell(run, owner.id, {number: (0, labels) for number, labels in news.items()})
        if thinned or owner.swept is not None:
            self._sweep(model, steps=1)  # the rest with the next writes, so that none of them takes long
        return counts

    # --- reading ----------------------------------------------------------------------------------------------

    def window(
        self,
        model: str,
        keys: Sequence[KeyText] | None = None,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 10_000,
        labelled: bool = False,
    ) -> Window:
        """Return the newest observations; costs what is returned, not what is stored.

        Args:
            keys: partitions; by default all rows of the model.
            since, until: bounds of the time of prediction; the first is part of it, the second is not.
            limit: rows at most.
            labelled: only rows whose actual is known; costs the rows passed over, too.
        """
        with self._read() as run:
            rows, share = [], 1.0
            if run is not None and (owner := _known(run, model)) is not None:
                rows, share = _newest(run, owner, keys, since, until, limit, labelled), 0.5**owner.halvings
            layouts = _layouts(run, {row[5] for row in rows}) if run is not None else {}
        return window_of(rows, layouts, share)

    def keys_with_news(self, model: str, since: int = 0, limit: int = 10_000) -> list[News]:
        """Return the partitions that were written to after the mark `since`, oldest news first.

        The largest `mark` of the answer is what to ask from next; costs what changed, at any number of partitions.
        """
        with self._read() as run:
            if run is None or (owner := _known(run, model)) is None:
                return []
            found = run.execute(
                "SELECT key, seq, observed, labelled FROM partitions WHERE model = ? AND seq > ? ORDER BY seq LIMIT ?",
                (owner.id, since, limit),
            ).fetchall()
            if len(found) == limit:  # partitions of one write have one number, and none of them may be left out
                found += run.execute(
                    "SELECT key, seq, observed, labelled FROM partitions WHERE model = ? AND seq = ?",
                    (owner.id, found[-1][1]),
                ).fetchall()
        return [News(KeyText(key), *rest) for key, *rest in dict.fromkeys(found)]

    def share(self, model: str) -> float:
        """Return the share of the model's rows that is kept, such as 0.5 where it is 1 in 2."""
        with self._read() as run:
            owner = _known(run, model) if run is not None else None
        return 0.5**owner.halvings if owner else 1.0

    def watermark(
        self, model: str, key: KeyText | None = None, *, declared: timedelta | None = None
    ) -> datetime | None:
        """Return the time before which 95 % of the labels that will come have come; None where none are known.

        Labels that come fast are no random choice, so what is younger is not to be judged by them. The share of rows
        that ever get a label is learnt from those in the older half of the time that is kept. A declared delay wins.
        The answer is on the safe side, early by up to a third of the delay.
        """
        now = self.clock.now()
        if declared is not None:
            return now - declared
        with self._read() as run:
            if run is None or (owner := _known(run, model)) is None:
                return None
            probed = _probed(run, owner, key, micros(now))
        found = arrived(probed, micros(now))
        return None if found is None else EPOCH + timedelta(microseconds=found)

    # --- removing ---------------------------------------------------------------------------------------------

    def prune(self) -> Pruned:
        """Remove what is too old, and what thinning has left to do."""
        if not self.path.exists():
            return Pruned()
        with self._read() as run:
            owners = [row[0] for row in run.execute("SELECT name FROM models")] if run is not None else []
        thinned = sum(map(self._sweep, owners))
        return replace(self._forget(), thinned=thinned)

    def _forget(self) -> Pruned:
        """Remove what is too old; whoever observes does so once an hour."""
        self._pruned, now = self.clock.boottime(), self.clock.now()
        rows = self._expire("at < ?", micros(now - timedelta(days=self.days)))
        waiting = self._expire("at IS NULL AND actual_at < ?", micros(now - timedelta(days=_WAITING_DAYS)))
        if rows:
            with self._write() as run:
                run.execute(
                    "DELETE FROM partitions WHERE NOT EXISTS (SELECT 1 FROM observed WHERE partition = partitions.id)"
                )
        return Pruned(rows, waiting)

    def _expire(self, rule: str, limit: int) -> int:
        with self._read() as run:
            owners = [row[0] for row in run.execute("SELECT id FROM models")] if run is not None else []
        total = 0
        for owner in owners:
            while True:
                with self._write() as run:
                    gone = run.execute(
                        f"DELETE FROM observed WHERE id IN (SELECT id FROM observed WHERE model = ? AND {rule} LIMIT ?)",
                        (owner, limit, _CHUNK),
                    ).rowcount
                    run.execute("UPDATE models SET rows = rows - ? WHERE id = ?", (gone, owner))
                total += gone
                if gone < _CHUNK:
                    break
        return total

    def erase(self, model: str, ids: Sequence[object]) -> int:
        """Remove rows and their bytes, those of rows that went earlier, too; return how many there were.

        The file is written anew, since a page that was divided or freed keeps bytes outside of every row: seconds
        per GB, in which nobody else writes.
        """
        names = [id_of(one, number) for number, one in enumerate(ids, 1)]
        if not self.path.exists():
            return 0
        with self._write() as run:
            owner = _model(run, model)
            gone = run.execute(
                "DELETE FROM observed WHERE id IN (SELECT o.id FROM json_each(?) AS j CROSS JOIN observed AS o"
                " ON o.model = ? AND o.name = j.value)",
                (json.dumps(names), owner.id),
            ).rowcount
            run.execute("UPDATE models SET rows = rows - ? WHERE id = ?", (gone, owner.id))
        with self._fenced():
            self._open().execute("VACUUM")
        return gone

    def _sweep(self, model: str, steps: int = sys.maxsize) -> int:
        """Remove the rows that a lowered share leaves out, in short transactions; readers leave them out already."""
        total = 0
        for _ in range(steps):
            with self._write() as run:
                owner = _model(run, model)
                if owner.swept is None:
                    return total
                last = run.execute("SELECT max(id) FROM observed").fetchone()[0] or 0
                gone = run.execute(
                    "DELETE FROM observed WHERE id > ? AND id <= ? AND model = ? AND hash & ? != 0",
                    (owner.swept, owner.swept + _SWEEP, owner.id, (1 << owner.halvings) - 1),
                ).rowcount
                swept = owner.swept + _SWEEP
                run.execute(
                    "UPDATE models SET rows = rows - ?, swept = ? WHERE id = ?",
                    (gone, swept if swept < last else None, owner.id),
                )
                if swept >= last:
                    _grown(run, _model(run, model), 0, self.bound)  # one halving may not be enough
            total += gone
        return total

    def backup(self, target: Path) -> bool:
        """Write a complete copy under writers; return whether there was anything to copy."""
        with self._read() as run:
            if run is None:
                return False
        with self._fenced():
            self._open().execute("VACUUM INTO ?", (str(target),))
        return True

    def check(self) -> str | None:
        """Return what SQLite finds wrong with the file, None where it is sound."""
        with self._fenced():
            if not self.path.exists():
                return None
            found = self._open().execute("PRAGMA quick_check(1)").fetchone()[0]
        return None if found == "ok" else str(found)

    # --- the file ---------------------------------------------------------------------------------------------

    def close(self) -> None:
        with self._lock:
            if self._connection is not None and os.getpid() == self._pid:
                self._connection.close()
            self._connection = None

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None:
            return self._connection
        refuse_network(self.path.parent)
        if not self.path.exists():  # as the store's: no umask makes it world-readable
            self.path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600))
        found = sqlite3.connect(self.path, timeout=self._busy_s, isolation_level=None, check_same_thread=False)
        try:
            for pragma in (
                "journal_mode=TRUNCATE", "synchronous=FULL", "foreign_keys=ON", "cache_size=-32768",
            ):  # fmt: skip
                found.execute(f"PRAGMA {pragma}").fetchall()
            if not found.execute("PRAGMA user_version").fetchone()[0]:
                found.execute("BEGIN IMMEDIATE")
                if not found.execute("PRAGMA user_version").fetchone()[0]:  # another process may have been first
                    for statement in _TABLES.split(";"):
                        found.execute(statement)
                found.execute("COMMIT")
        except BaseException:
            found.close()
            raise
        self._connection = found
        return found

    @contextmanager
    def _fenced(self) -> Iterator[None]:
        if os.getpid() != self._pid:
            raise StoreError(f"{self.path.name} was opened by another process; open it anew after a fork")
        with self._lock:
            try:
                yield
            except sqlite3.Error as error:
                raise translated(str(error), self.path) from error
            except UnicodeEncodeError as error:
                raise DataError(f"{error.object!r} is no Unicode text (a lone surrogate)") from None

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._fenced():
            run = self._open()
            run.execute("BEGIN IMMEDIATE")
            try:
                yield run
                run.execute("COMMIT")
            except BaseException:
                if run.in_transaction:
                    run.execute("ROLLBACK")
                raise

    @contextmanager
    def _read(self) -> Iterator[sqlite3.Connection | None]:
        """Open a reading transaction; None where nothing was ever written."""
        with self._fenced():
            if not self.path.exists():
                yield None
                return
            run = self._open()
            run.execute("BEGIN")
            try:
                yield run
            finally:
                run.execute("ROLLBACK")


# --- statements -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Owner:
    id: int
    rows: int
    halvings: int
    swept: int | None


def _known(run: sqlite3.Connection, name: str) -> _Owner | None:
    row = run.execute("SELECT id, rows, halvings, swept FROM models WHERE name = ?", (name,)).fetchone()
    return _Owner(*row) if row else None


def _model(run: sqlite3.Connection, name: str) -> _Owner:
    run.execute("INSERT OR IGNORE INTO models (name) VALUES (?)", (name,))
    found = _known(run, name)
    assert found is not None
    return found


def _layout(run: sqlite3.Connection, columns: str) -> int:
    run.execute("INSERT OR IGNORE INTO layouts (columns) VALUES (?)", (columns,))
    return int(run.execute("SELECT id FROM layouts WHERE columns = ?", (columns,)).fetchone()[0])


def _layouts(run: sqlite3.Connection, numbers: set[int]) -> dict[int, dict[str, Any]]:
    found = run.execute(
        "SELECT id, columns FROM layouts WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(sorted(numbers)),)
    )
    return {number: json.loads(columns) for number, columns in found}


def _partitions(run: sqlite3.Connection, owner: int, keys: Iterable[KeyText]) -> dict[KeyText, int]:
    listed = json.dumps(list(keys))
    run.execute("INSERT OR IGNORE INTO partitions (model, key) SELECT ?, value FROM json_each(?)", (owner, listed))
    return dict(
        run.execute(
            "SELECT p.key, p.id FROM json_each(?) AS j CROSS JOIN partitions AS p ON p.model = ? AND p.key = j.value",
            (listed, owner),
        ).fetchall()
    )


def _tell(run: sqlite3.Connection, owner: int, news: Mapping[int, tuple[int, int]]) -> None:
    """Number what a write brought, for those who look for news."""
    if not news:
        return
    run.execute("UPDATE models SET seq = seq + 1 WHERE id = ?", (owner,))
    run.executemany(
        "UPDATE partitions SET seq = (SELECT seq FROM models WHERE id = ?), observed = observed + ?,"
        " labelled = labelled + ? WHERE id = ?",
        [(owner, rows, labels, number) for number, (rows, labels) in news.items()],
    )


def _grown(run: sqlite3.Connection, owner: _Owner, rows: int, bound: int) -> bool:
    """Count new rows; return whether they pass the bound, from where on every second row is kept."""
    if past := owner.rows + rows > bound and owner.swept is None:
        run.execute("UPDATE models SET halvings = halvings + 1, swept = 0 WHERE id = ?", (owner.id,))
    run.execute("UPDATE models SET rows = rows + ? WHERE id = ?", (rows, owner.id))
    return past


def _observed(run: sqlite3.Connection, owner: int, names: list[str]) -> dict[str, tuple[Any, ...]]:
    """Return row number, time and content of what is stored under names; time is None while an actual waits."""
    found = run.execute(
        "SELECT o.name, o.id, o.at, p.key, o.layout, o.numbers, o.texts, o.predicted, o.version FROM json_each(?) AS j"
        " CROSS JOIN observed AS o ON o.model = ? AND o.name = j.value LEFT JOIN partitions AS p ON p.id = o.partition",
        (json.dumps(names), owner),
    )
    return {name: (number, at, tuple(content)) for name, number, at, *content in found}


def _labels(run: sqlite3.Connection, owner: int, names: list[str]) -> dict[str, tuple[Any, Any, Any, Any, Any]]:
    found = run.execute(
        "SELECT o.name, o.id, o.partition, o.actual, o.actual_at, o.labelled_at FROM json_each(?) AS j"
        " CROSS JOIN observed AS o ON o.model = ? AND o.name = j.value",
        (json.dumps(names), owner),
    )
    return {name: (number, partition, actual, at, first) for name, number, partition, actual, at, first in found}


def _newest(
    run: sqlite3.Connection,
    owner: _Owner,
    keys: Sequence[KeyText] | None,
    since: datetime | None,
    until: datetime | None,
    limit: int,
    labelled: bool,
) -> list[tuple[Any, ...]]:
    """Return rows in order of time, and of their names where they are of one time."""
    if keys is None:
        scopes = [("o.model = ?", owner.id)]
    else:
        listed = (json.dumps(list(keys)), owner.id)
        found = run.execute(
            "SELECT p.id FROM json_each(?) AS j CROSS JOIN partitions AS p ON p.model = ? AND p.key = j.value", listed
        )
        scopes = [("o.partition = ?", row[0]) for row in found.fetchall()]
    low = micros(since) if since else MISSING
    high = micros(until) if until else -MISSING - 1
    rows: list[tuple[Any, ...]] = []
    for scope, number in scopes:
        rows += run.execute(
            "SELECT o.at, o.name, o.partition, p.key, o.version, o.layout, o.numbers, o.texts, o.predicted, o.actual,"
            f" o.labelled_at FROM observed AS o CROSS JOIN partitions AS p ON p.id = o.partition WHERE {scope}"
            f" AND o.at >= ? AND o.at < ? AND o.hash & ? = 0 {'AND o.labelled_at IS NOT NULL' if labelled else ''}"
            " ORDER BY o.at DESC, o.name DESC LIMIT ?",
            (number, low, high, (1 << owner.halvings) - 1, limit),
        ).fetchall()
    rows.sort(key=lambda row: (row[0], row[1]))
    return rows[-limit:] if limit > 0 else []


def _probed(run: sqlite3.Connection, owner: _Owner, key: KeyText | None, now: int) -> list[tuple[int, int | None]]:
    """Return time and time of label of rows around moments spread evenly over the logarithm of the age."""
    scope, number = "model = ?", owner.id
    if key is not None:
        found = run.execute("SELECT id FROM partitions WHERE model = ? AND key = ?", (owner.id, key)).fetchone()
        if found is None:
            return []
        scope, number = "partition = ?", found[0]
    mask = (1 << owner.halvings) - 1
    oldest = run.execute(f"SELECT min(at) FROM observed WHERE {scope} AND at IS NOT NULL", (number,)).fetchone()[0]
    if oldest is None:
        return []
    age = max(now - oldest, 2_000_000)
    rows: dict[int, tuple[int, int | None]] = {}
    for one in [0, *np.geomspace(1_000_000, age, _PROBES).tolist()]:
        rows |= {
            row[0]: row[1:]
            for row in run.execute(
                f"SELECT id, at, labelled_at FROM observed WHERE {scope} AND at <= ? AND hash & ? = 0"
                " ORDER BY at DESC LIMIT ?",
                (number, now - int(one), mask, _PROBED),
            )
        }
    return sorted(rows.values(), key=lambda row: row[0])


def arrived(rows: Sequence[tuple[int, int | None]], now: int) -> int | None:
    """Return the time before which 95 % of the expected labels have arrived, None where none are expected.

    Args:
        rows: time and time of label (None: none yet) in microseconds, in order of time.
        now: in microseconds.

    >>> day = 86_400_000_000
    >>> rows = [(i * day // 100, None if i > 800 else i * day // 100) for i in range(1000)]
    >>> round(arrived(rows, 10 * day) / day, 2)
    8.0
    """
    if not rows:
        return None
    at = np.array([row[0] for row in rows])
    has = np.array([row[1] is not None for row in rows])
    old = at <= (at[0] + now) // 2
    expected = float(has[old].mean())
    if not expected:
        return None
    size = min(_PROBED, len(rows))
    sums = np.concatenate([[0], np.cumsum(has)])
    shares = (sums[size:] - sums[:-size]) / size  # of the `size` rows up to and with each
    enough = np.flatnonzero(shares >= _ARRIVED * min(expected, 1.0))
    if not len(enough):
        return None
    # The newest of them may be without a label to the last: there the labels have not come yet.
    return int(at[np.flatnonzero(has[: enough[-1] + size])[-1]]) + 1
