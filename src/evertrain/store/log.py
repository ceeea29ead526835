"""Reading the append-only log of events."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from evertrain.clock import from_text
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


def newest(tx: Tx) -> int:
    """Return the number of the newest event, 0 in an empty log."""
    return int(tx.value("SELECT coalesce(max(id), 0) FROM events"))


def _event(row: Record) -> Event:
    return Event(row.id, from_text(row.at), Kind(row.kind), row.model, row.run_id, row.actor, json.loads(row.data))
