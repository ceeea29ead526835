"""Forecasts of filtered rows that were made for one question and may be asked again: a small cache."""

from __future__ import annotations

import json
from typing import Any

from evertrain.clock import to_text
from evertrain.store.connect import Tx, dump

_KEPT = 200


def get(tx: Tx, key: str) -> dict[str, Any] | None:
    """Return the answer that was kept under a key."""
    found = tx.value("SELECT answer FROM temporary_forecasts WHERE key = :key", key=key)
    answer: dict[str, Any] | None = None if found is None else json.loads(found)
    return answer


def put(tx: Tx, key: str, model_id: int, answer: dict[str, Any]) -> None:
    """Keep an answer, and of all answers the newest few."""
    tx.run(
        "INSERT INTO temporary_forecasts(key, model_id, answer, made_at) VALUES (:key, :model, :answer, :at)"
        " ON CONFLICT(key) DO UPDATE SET answer = excluded.answer, made_at = excluded.made_at",
        key=key,
        model=model_id,
        answer=dump(answer),
        at=to_text(tx.now),
    )
    tx.run(
        "DELETE FROM temporary_forecasts WHERE key NOT IN"
        " (SELECT key FROM temporary_forecasts ORDER BY made_at DESC, key LIMIT :kept)",
        kept=_KEPT,
    )


def forget(tx: Tx, model_id: int) -> None:
    """Remove what was kept of a model: rows that it was made of are to leave no trace."""
    tx.run("DELETE FROM temporary_forecasts WHERE model_id = :model", model=model_id)
