"""Reading the append-only log of events."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from evertrain.clock import from_text, to_text
from evertrain.events import Event, Kind
from evertrain.store.connect import Record, Tx


def after(tx: Tx, event_id: int, *, limit: int = 1000, kinds: Sequence[Kind] = ()) -> list[Event]:
    """Return the events behind `event_id`, oldest first."""
    where = "AND kind IN :kinds" if kinds else ""
    params: dict[str, Any] = {"kinds": list(kinds)} if kinds else {}
    rows = tx.rows(
        f"SELECT * FROM events WHERE id > :id {where} ORDER BY id LIMIT :limit", id=event_id, limit=limit, **params
    )
    return [_event(row) for row in rows]


def of_run(tx: Tx, run_id: int, after_id: int = 0, limit: int = 1000) -> list[Event]:
    """Return the events of one run, oldest first."""
    rows = tx.rows(
        "SELECT * FROM events WHERE run_id = :run AND id > :id ORDER BY id LIMIT :limit",
        run=run_id,
        id=after_id,
        limit=limit,
    )
    return [_event(row) for row in rows]


def before(
    tx: Tx, event_id: int | None, *, limit: int, model: str | None = None, run_id: int | None = None,
    kinds: Sequence[Kind] = (),
) -> list[Event]:  # fmt: skip
    """Return the events before `event_id`, or the newest ones, newest first; of a model, a run, or some kinds.

    Kind by kind and merged, so that each part is read from its index and stops at the limit.
    """
    given = {"model": model, "run_id": run_id}
    used = {name: value for name, value in given.items() if value is not None}
    where = "".join(f" AND {name} = :{name}" for name in used)
    params: dict[str, Any] = {**used, "limit": limit, "before": 2**63 - 1 if event_id is None else event_id}
    parts = [f"id < :before{where}"]
    if kinds:
        # Of a model or a run the kind is looked up, not searched by: "+" keeps SQLite from its index.
        plus = "+" if used else ""
        parts = [f"{plus}kind = :kind{n} AND {parts[0]}" for n in range(len(kinds))]
        params |= {f"kind{n}": kind for n, kind in enumerate(kinds)}
    rows = tx.rows(
        " UNION ALL ".join(
            f"SELECT * FROM (SELECT * FROM events WHERE {part} ORDER BY id DESC LIMIT :limit)" for part in parts
        )
        + " ORDER BY id DESC LIMIT :limit",
        **params,
    )
    return [_event(row) for row in rows]


def newest_of(tx: Tx, run_id: int, kind: Kind, limit: int) -> Sequence[Record]:
    """Return the last rows of one kind that a run wrote, the newest first."""
    return tx.rows(
        "SELECT id, at, data FROM events WHERE run_id = :run AND kind = :kind ORDER BY id DESC LIMIT :limit",
        run=run_id,
        kind=kind,
        limit=limit,
    )


def cursor(tx: Tx, reader: str) -> Record | None:
    """Return how far a reader of the log has come, None for a new one."""
    return tx.row("SELECT * FROM cursors WHERE reader = :name", name=reader)


def move_cursor(tx: Tx, reader: str, event_id: int) -> None:
    """Move a reader on, to behind `event_id`."""
    tx.run(
        "INSERT INTO cursors(reader, event_id) VALUES (:name, :id) ON CONFLICT(reader) DO UPDATE"
        " SET event_id = excluded.event_id, failures = 0, next_at = ''",
        name=reader,
        id=event_id,
    )


def delay_cursor(tx: Tx, reader: str, failures: int, until: datetime) -> None:
    """Keep a reader where it is and let it wait: its last delivery failed."""
    tx.run(
        "UPDATE cursors SET failures = :failures, next_at = :later WHERE reader = :name",
        failures=failures,
        later=to_text(until),
        name=reader,
    )


def newest(tx: Tx) -> int:
    """Return the number of the newest event, 0 in an empty log."""
    return int(tx.value("SELECT coalesce(max(id), 0) FROM events"))


def _event(row: Record) -> Event:
    return Event(row.id, from_text(row.at), Kind(row.kind), row.model, row.run_id, row.actor, json.loads(row.data))
