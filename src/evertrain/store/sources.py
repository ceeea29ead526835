"""What is known of each source: when it changed, when it was read, and what is wrong with it."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

from evertrain.clock import from_text
from evertrain.store.connect import Record, Tx, dump


def state(tx: Tx, name: str) -> Record | None:
    """Return the row of a source, None before its first look."""
    return tx.row("SELECT * FROM sources WHERE name = :name", name=name)


def looked(tx: Tx, name: str, stat: str | None, problem: str | None) -> Record:
    """Record a look at a source; a stat other than the last begins or prolongs its unrest."""
    tx.run(
        "INSERT INTO sources(name, stat, changed_first_at, changed_last_at, checked_at, problem)"
        " VALUES (:name, :stat, :at, :at, :at, :problem) ON CONFLICT(name) DO UPDATE SET"
        " changed_last_at = CASE WHEN stat IS NOT :stat THEN :at ELSE changed_last_at END,"
        " changed_first_at = CASE WHEN stat IS NOT :stat THEN coalesce(changed_first_at, :at) ELSE changed_first_at END,"
        " stat = :stat, checked_at = :at, problem = :problem",
        name=name,
        stat=stat,
        at=tx.now_text,
        problem=problem,
    )
    row = state(tx, name)
    assert row is not None
    return row


def ripe(row: Record, *, quiet: timedelta, max_delay: timedelta, now: datetime) -> bool:
    """Return whether a changed source has lain still for long enough, or has been restless for too long."""
    if row.stat == row.read_stat and row.read_at is not None:
        return False
    if row.changed_last_at is None:
        return True
    return now - from_text(row.changed_last_at) >= quiet or now - from_text(row.changed_first_at) >= max_delay


def was_read(
    tx: Tx, name: str, *, stat: str | None, rows: int | None, columns: dict[str, str] | None, problem: str | None
) -> None:
    """Record a read; rows and columns are those of the last usable one."""
    tx.run(
        "INSERT INTO sources(name, stat, read_stat, checked_at, read_at, rows, columns, problem)"
        " VALUES (:name, :stat, :stat, :at, :at, :rows, :columns, :problem) ON CONFLICT(name) DO UPDATE SET"
        " stat = coalesce(:stat, stat), read_stat = coalesce(:stat, stat), read_at = :at,"
        " changed_first_at = NULL, changed_last_at = NULL, rows = coalesce(:rows, rows),"
        " columns = coalesce(:columns, columns), problem = :problem",
        name=name,
        stat=stat,
        at=tx.now_text,
        rows=rows,
        columns=None if columns is None else dump(columns),
        problem=problem,
    )


def read_again(tx: Tx, name: str) -> None:
    """Have a source read at the next look, however it looks."""
    tx.run("UPDATE sources SET read_at = NULL, read_stat = NULL WHERE name = :name", name=name)


def columns_of(row: Record | None) -> dict[str, str] | None:
    """Return the column types that earlier reads established."""
    if row is None or row.columns is None:
        return None
    found: dict[str, Any] = json.loads(row.columns)
    return found
