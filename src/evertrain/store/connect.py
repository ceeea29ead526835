"""Connections and transactions: the one place where a transaction is opened.

SQLite in WAL mode with several processes has sharp edges, and each rule here removes one. A writing transaction
begins with BEGIN IMMEDIATE, since one that turns from reading to writing fails at once whatever the busy timeout
(sqlite.org/isolation.html). Every answer is read to its end before COMMIT, since an unread cursor keeps the write
lock. A connection is never carried over a fork. Database files are never opened by hand in this process, since
closing such a descriptor drops this process's locks (sqlite.org/howtocorrupt.html, 2.2).
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Row, TextClause, bindparam, create_engine, event, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.pool import QueuePool

from evertrain.clock import Clock, SystemClock, to_text
from evertrain.errors import ConfigError, StoreBusy, StoreError
from evertrain.events import Kind

# Commits beside a checkpoint can corrupt the WAL before this release (sqlite.org/wal.html#walresetbug).
FIXED_SQLITE = (3, 51, 3)
_NETWORK_FILE_SYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "9p", "afs", "ceph", "fuse.glusterfs"}

_TRIES, _PAUSE_S = 100, 0.02

Record = Row[*tuple[Any, ...]]

# What a request that must be done once brings into every transaction that is written in its caller's name: that it was
# done is stored together with what it did, or neither is.
with_it: ContextVar[Callable[[Tx], None] | None] = ContextVar("with_it", default=None)


class Tx:
    """One open transaction: statements in, plain rows out, and the events that belong to it."""

    def __init__(self, connection: Connection, now: datetime, boottime: float, boot_id: str, actor: str) -> None:
        self._connection = connection
        self.now, self.boottime, self.boot_id, self.actor = now, boottime, boot_id, actor
        self.written: list[dict[str, Any]] = []

    @property
    def now_text(self) -> str:
        return to_text(self.now)

    def rows(self, sql: str, **params: Any) -> Sequence[Record]:
        """Return all rows of the answer; a list parameter expands for `IN :name`."""
        return self._connection.execute(_statement(sql, params), params).fetchall()

    def row(self, sql: str, **params: Any) -> Record | None:
        """Return the first row, or None."""
        found = self.rows(sql, **params)
        return found[0] if found else None

    def value(self, sql: str, **params: Any) -> Any:
        """Return the first column of the first row, or None."""
        found = self.rows(sql, **params)
        return found[0][0] if found else None

    def run(self, sql: str, **params: Any) -> int:
        """Execute a statement that answers no rows; return how many rows it changed."""
        return self._connection.execute(_statement(sql, params), params).rowcount

    def many(self, sql: str, each: Sequence[Mapping[str, Any]]) -> int:
        """Execute a statement once for each mapping; return how many rows were changed in all."""
        if not each:
            return 0
        return self._connection.execute(text(sql), each).rowcount

    def counter(self, name: str) -> int:
        """Return where a counter stands: `commit`, `fence`, `epoch`, `fallbacks`, `runs_full` and others."""
        return int(self.value("SELECT value FROM counters WHERE name = :name", name=name))

    def next(self, counter: str) -> int:
        """Draw the next number of a counter; see `counter` for their names."""
        return int(self.value("UPDATE counters SET value = value + 1 WHERE name = :name RETURNING value", name=counter))

    def event(
        self,
        event_kind: Kind,
        /,
        *,
        model: str | None = None,
        run_id: int | None = None,
        actor: str | None = None,
        **data: Any,
    ) -> None:
        """Append to the log, in this transaction; what belongs to a run belongs to its model."""
        if model is None and run_id is not None:
            model = self.value(
                "SELECT m.name FROM runs r JOIN models m ON m.id = r.model_id WHERE r.id = :id", id=run_id
            )
        row = {"at": self.now_text, "kind": event_kind, "model": model, "run_id": run_id, "actor": actor or self.actor}
        self.run(
            "INSERT INTO events(at, kind, model, run_id, actor, data)"
            " VALUES (:at, :kind, :model, :run_id, :actor, :data)",
            **row,
            data=dump(data),
        )
        self.written.append({**row, "data": data})


class Store:
    """The project's database. Thread-safe; one per process and project.

    Args:
        url: `sqlite:///path`; a relative path is relative to `root`.
        root: the project's folder.
        busy_s: seconds to wait for another process's write lock.
        keeper: whether this process moves the WAL into the database; on a SQLite with the WAL-reset bug only the
            loop does, so that commit and checkpoint come from one process.
    """

    def __init__(
        self, url: str, root: Path, *, clock: Clock | None = None, busy_s: float = 5.0, keeper: bool = False
    ) -> None:
        self.path = database_path(url, root)
        self.clock: Clock = clock or SystemClock()
        self.actor = "evertrain"
        self.listeners: list[Callable[[list[dict[str, Any]]], None]] = []
        self._pid, self.busy_s, self._keeper = os.getpid(), busy_s, keeper
        refuse_network(self.path.parent)
        self._engine = create_engine(
            f"sqlite:///{self.path}",
            poolclass=QueuePool,
            max_overflow=64,
            connect_args={"timeout": busy_s, "check_same_thread": False},
        )
        _configure(self._engine, 1000 if self.may_checkpoint else 0)
        self._create_private()

    def _create_private(self) -> None:
        # Created before SQLite opens it, with a mode of our own, so that no umask makes the store world-readable.
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600))

    @contextmanager
    def read(self) -> Iterator[Tx]:
        """Open a reading transaction: all its statements see one state of the store."""
        with self._transaction("BEGIN") as tx:
            yield tx

    @contextmanager
    def write(self, actor: str | None = None) -> Iterator[Tx]:
        """Open a writing transaction; it commits at the end of the block and is rolled back by any error.

        Args:
            actor: in whose name; None is this process's.

        Raises:
            StoreBusy: another process held the write lock for longer than `busy_s`.
            StoreError: the database failed, e.g. because the disk is full.
        """
        with self._transaction("BEGIN IMMEDIATE", actor) as tx:
            yield tx
            if actor is not None and (beside := with_it.get()) is not None:
                beside(tx)
        if tx.written:
            for listener in self.listeners:
                listener(tx.written)

    @contextmanager
    def _transaction(self, begin: str, actor: str | None = None) -> Iterator[Tx]:
        if os.getpid() != self._pid:
            raise StoreError("this store was opened by another process; open it anew after a fork")
        try:
            with self._engine.connect().execution_options(begin=begin) as connection, connection.begin():
                yield Tx(connection, self.clock.now(), self.clock.boottime(), self.clock.boot_id, actor or self.actor)
        except IntegrityError:
            raise
        except DBAPIError as error:
            raise translated(str(error.orig), self.path) from error
        except sqlite3.Error as error:  # while a connection was being opened: SQLAlchemy does not wrap those
            raise translated(str(error), self.path) from error

    @property
    def may_checkpoint(self) -> bool:
        """Whether this process may move the WAL into the database while others commit."""
        return self._keeper or sqlite3.sqlite_version_info >= FIXED_SQLITE

    def checkpoint(self) -> bool:
        """Move the WAL into the database and empty it; return whether that was done: a reader may need it still."""
        with self._engine.connect().execution_options(begin="") as connection:
            busy, *_ = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()[0]
        return not busy

    def vacuum(self) -> None:
        """Write the whole database anew: only then no page holds bytes of rows that are gone.

        `PRAGMA secure_delete` is not enough: when a page is divided, what moved to another leaves its bytes behind,
        outside of every row, and nothing overwrites them later.

        Raises:
            StoreBusy: another process held the write lock for longer than `busy_s`.
        """
        try:
            with self._engine.connect().execution_options(begin="") as connection:
                connection.exec_driver_sql("VACUUM")
        except DBAPIError as error:
            raise translated(str(error.orig), self.path) from error

    def backup(self, target: Path) -> None:
        """Write a complete copy to `target`, under writers (sqlite.org/lang_vacuum.html, VACUUM INTO)."""
        with self._engine.connect().execution_options(begin="") as connection:
            connection.exec_driver_sql("VACUUM INTO ?", (str(target),))

    def copy_out(self, select: str, values: Mapping[str, Any], target: Path) -> None:
        """Write the answer of a SELECT to the table `rows` of a new database: worker children never open this one."""
        with closing(sqlite3.connect(self.path, timeout=self.busy_s, isolation_level=None)) as connection:
            # Not this pool's connections: a database is attached outside of any transaction only.
            connection.execute("ATTACH ? AS target", (str(target),))
            connection.execute("PRAGMA target.journal_mode=OFF").fetchall()
            connection.execute("PRAGMA target.synchronous=OFF")
            connection.execute("BEGIN")
            connection.execute(f"CREATE TABLE target.rows AS {select}", dict(values))
            connection.execute("COMMIT")

    def close(self) -> None:
        self._engine.dispose()


def database_path(url: str, root: Path) -> Path:
    """Return the file behind a `sqlite:///` URL.

    Raises:
        ConfigError: the URL names another database.
    """
    if not (found := re.fullmatch(r"sqlite:///(.+)", url)) or ":memory:" in url:
        raise ConfigError("store", url, "sqlite:///FILE, e.g. sqlite:///evertrain.db")
    return root / found[1]


def dump(data: object) -> str:
    """Return compact JSON; numbers that JSON has no name for are refused."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=str)


def file_system(folder: Path) -> str:
    """Return the type of the file system that holds `folder`, or "" where the system does not tell."""
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return ""
    best, kind = "", ""
    for line in mounts:
        _, point, found, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        if folder.resolve().is_relative_to(point) and len(point) >= len(best):
            best, kind = point, found
    return kind


def refuse_network(folder: Path) -> None:
    """Raise StoreError where `folder` is on a network file system."""
    if (kind := file_system(folder)) in _NETWORK_FILE_SYSTEMS:
        raise StoreError(f"{folder} is on {kind}: SQLite's WAL corrupts on network file systems; use a local disk")


def _configure(engine: Engine, autocheckpoint: int) -> None:
    @event.listens_for(engine, "connect")
    def connect(driver: sqlite3.Connection, _: object) -> None:
        driver.isolation_level = None  # Python opens no transaction of its own; `begin` below does
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",  # NORMAL may lose the last commits at power loss
            "foreign_keys=ON",
            "journal_size_limit=67108864",
            "cache_size=-32768",  # kB, at most: with the default 2 MB every index of a large table is read again and again
            f"wal_autocheckpoint={autocheckpoint}",
        ):
            _set(driver, pragma)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if statement := connection.get_execution_options().get("begin", "BEGIN"):
            connection.exec_driver_sql(statement)


def _set(driver: sqlite3.Connection, pragma: str) -> None:
    """Execute a pragma; that of the journal answers "locked" at once, whatever the timeout, while others open the file."""
    for attempt in range(_TRIES):
        try:
            driver.execute(f"PRAGMA {pragma}").fetchall()
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or attempt == _TRIES - 1:
                raise
            time.sleep(_PAUSE_S)
        else:
            return


@lru_cache(maxsize=512)
def _prepared(sql: str, lists: tuple[str, ...]) -> TextClause:
    found = text(sql)
    return found.bindparams(*(bindparam(name, expanding=True) for name in lists)) if lists else found


def _statement(sql: str, params: Mapping[str, Any]) -> TextClause:
    return _prepared(sql, tuple(name for name, value in params.items() if isinstance(value, list)))


def translated(message: str, path: Path) -> StoreError:
    """Return SQLite's message as an error of ours."""
    if "locked" in message or "busy" in message:
        return StoreBusy(f"{path.name} is being written by another process; try again in a moment")
    if "full" in message:
        return StoreError(f"the disk is full: {path.name} cannot grow; reads go on, free some space")
    return StoreError(f"{path.name}: {message}")
