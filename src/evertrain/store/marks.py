"""Marks: how many rows each partition holds and their fingerprint, as last seen and as last asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from evertrain.partitions import KeyText
from evertrain.store.connect import Record, Tx, dump

_MARKS = (
    "p.id, p.key, p.leaf, p.state, p.rows, p.seen, p.asked, p.wanted, p.considered, p.considered_input, p.champion_id"
)


def of_model(tx: Tx, model_id: int) -> dict[str, Record]:
    """Return all partitions of a model by key, retired ones too."""
    return {
        row.key: row for row in tx.rows(f"SELECT {_MARKS} FROM partitions p WHERE p.model_id = :model", model=model_id)
    }


def some(tx: Tx, model_id: int, keys: Sequence[KeyText]) -> dict[str, Record]:
    """Return those of these partitions that are known, by key."""
    return {
        row.key: row
        for row in tx.rows(
            f"SELECT {_MARKS} FROM json_each(:keys) j CROSS JOIN partitions p"
            " WHERE p.model_id = :model AND p.key = j.value",
            keys=dump(list(keys)),
            model=model_id,
        )
    }


def update(tx: Tx, changes: Sequence[Mapping[str, Any]]) -> None:
    """Record rows, seen and asked marks of partitions by number."""
    tx.many("UPDATE partitions SET rows = :rows, seen = :seen, asked = :asked WHERE id = :id", changes)


def begin(tx: Tx, model_id: int, fresh: Mapping[KeyText, tuple[bool, int, str]]) -> None:
    """Record the first marks of partitions that appeared: they are due from birth, so their rows count as asked for."""
    tx.many(
        "UPDATE partitions SET rows = :rows, seen = :seen, asked = :seen WHERE model_id = :model AND key = :key",
        [{"model": model_id, "key": key, "rows": rows, "seen": mark} for key, (_, rows, mark) in fresh.items()],
    )


def too_small(tx: Tx, model_id: int, small: Mapping[KeyText, tuple[str, str]]) -> None:
    """Record that nothing is owed to partitions without a model and with too few rows, until more come.

    Args:
        small: mark and reason by key.
    """
    tx.many(
        "UPDATE partitions SET planned = wanted, considered = wanted, considered_input = :seen, outcome = 'skipped',"
        " outcome_reason = :reason WHERE model_id = :model AND key = :key AND champion_id IS NULL",
        [{"model": model_id, "key": key, "seen": seen, "reason": reason} for key, (seen, reason) in small.items()],
    )


def asked(tx: Tx, model_id: int, keys: Iterable[KeyText]) -> None:
    """Record that training was asked for the rows as they are seen now."""
    tx.many(
        "UPDATE partitions SET asked = seen WHERE model_id = :model AND key = :key",
        [{"model": model_id, "key": key} for key in keys],
    )


def extracted(tx: Tx, model_id: int, extract: Mapping[str, Any]) -> None:
    """Record where the newest copy of a model's rows is."""
    tx.run("UPDATE models SET extract = :extract WHERE id = :id", extract=dump(extract), id=model_id)
