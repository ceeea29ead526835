"""Looks and changes that keep a store healthy: integrity, what is needed, what may go."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

from evertrain.clock import to_text
from evertrain.store.connect import Tx

_EVENTS_AT_ONCE = 1000
_EVENTS_KEPT = 10_000


def quick_check(tx: Tx) -> str | None:
    """Return what SQLite finds wrong with the store, None when it is sound."""
    found = str(tx.value("PRAGMA quick_check(1)"))
    return None if found == "ok" else found


def needed_artifacts(tx: Tx) -> list[tuple[str, int]]:
    """Return digest and size of the artifacts that hold champions."""
    return [
        (row[0], row[1])
        for row in tx.rows(
            "SELECT DISTINCT a.digest, a.size FROM partitions p JOIN fits f ON f.id = p.champion_id"
            " JOIN artifacts a ON a.digest = f.artifact WHERE p.state = 'live'"
        )
    ]


def all_artifacts(tx: Tx) -> set[str]:
    """Return the digests of all artifacts whose files should be there."""
    return {row[0] for row in tx.rows("SELECT digest FROM artifacts WHERE state <> 'removed'")}


def dead_items(tx: Tx) -> list[tuple[int, str]]:
    """Return run and model of partitions whose last item died, and that nothing was done about since."""
    return [
        (row[0], row[1])
        for row in tx.rows(
            "SELECT max(i.run_id), m.name FROM items i JOIN models m ON m.id = i.model_id"
            " JOIN partitions p ON p.id = i.partition_id WHERE i.state = 'dead' AND p.outcome = 'dead' GROUP BY m.name"
        )
    ]


def forget_processes(tx: Tx) -> None:
    """Make every lease one of another machine's life: in a restored copy no process of then holds anything."""
    tx.run("UPDATE workers SET boot = 'restored' WHERE ended_at IS NULL")


def kept_because(tx: Tx, *, newest: int, days: int) -> dict[str, int]:
    """Return how many fits are kept for which reason; a fit may have several."""
    young = to_text(tx.now - timedelta(days=days))
    row = tx.row(
        "SELECT (SELECT count(DISTINCT champion_id) FROM partitions) AS champions,"
        " (SELECT count(*) FROM fits WHERE trained_at >= :young) AS young,"
        " (SELECT count(*) FROM (SELECT row_number() OVER (PARTITION BY partition_id ORDER BY id DESC) AS place FROM fits)"
        " WHERE place <= :newest) AS newest, (SELECT count(*) FROM fits WHERE condemned = 1) AS damaged",
        young=young,
        newest=newest,
    )
    assert row is not None
    return {
        "champions and their predecessors": row.champions,
        f"younger than {days} days": row.young,
        f"among the newest {newest} of a partition": row.newest,
        "damaged, kept for inspection": row.damaged,
    }


def trim_events(tx: Tx, *, days: int) -> int:
    """Delete events older than `days`, at most a thousand at once, and never the newest ten thousand."""
    return tx.run(
        "DELETE FROM events WHERE id IN (SELECT id FROM events WHERE at < :before"
        " AND id <= (SELECT max(id) FROM events) - :kept ORDER BY id LIMIT :limit)",
        before=to_text(tx.now - timedelta(days=days)),
        kept=_EVENTS_KEPT,
        limit=_EVENTS_AT_ONCE,
    )


# --- erased bytes ------------------------------------------------------------------------------------------------


def ask_to_scrub(tx: Tx) -> None:
    """Remember that the file may hold bytes of rows that were erased, until somebody has written it anew."""
    tx.run(
        "INSERT INTO settings(name, value, set_at, actor) VALUES ('scrub', 'vacuum', :at, :actor)"
        " ON CONFLICT(name) DO UPDATE SET value = 'vacuum', set_at = excluded.set_at",
        at=tx.now_text,
        actor=tx.actor,
    )


def scrub_asked(tx: Tx) -> str | None:
    """Return what is still to be done so that erased bytes leave the file: "vacuum", then "checkpoint"."""
    found: str | None = tx.value("SELECT value FROM settings WHERE name = 'scrub'")
    return found


def vacuumed(tx: Tx) -> None:
    """Record that the file was written anew; the log beside it still holds the old pages."""
    tx.run("UPDATE settings SET value = 'checkpoint' WHERE name = 'scrub'")


def scrubbed(tx: Tx) -> None:
    """Record that nothing erased is left in the file or in the log beside it."""
    tx.run("DELETE FROM settings WHERE name = 'scrub' AND value = 'checkpoint'")


# --- a finished copy of a store, read without opening it as one ---------------------------------------------------


def problem_of_copy(database: Path) -> str | None:
    """Return what is wrong with a copied store, None when it is sound."""
    if (state := _ask(database, "PRAGMA integrity_check")[0][0]) != "ok":
        return str(state)
    broken = _ask(database, "PRAGMA foreign_key_check")
    return f"{len(broken)} rows point nowhere" if broken else None


def artifacts_of_copy(database: Path) -> list[str]:
    """Return the digests of the artifacts that a copied store names."""
    return [row[0] for row in _ask(database, "SELECT digest FROM artifacts WHERE state <> 'removed'")]


def events_of_copy(database: Path) -> int:
    """Return the number of the newest event in a copied store."""
    return int(_ask(database, "SELECT coalesce(max(id), 0) FROM events")[0][0])


def _ask(database: Path, statement: str) -> list[Any]:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as found:
        return found.execute(statement).fetchall()
