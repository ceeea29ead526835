"""Evaluations: what each drift check measured of each partition, and what was decided from it.

The newest one of a partition is what `why` shows; the earlier ones are what a what-if decides anew.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from evertrain.clock import to_text
from evertrain.drift.signal import DriftType, Evidence, Severity
from evertrain.partitions import KeyText
from evertrain.specs import Cause
from evertrain.store.connect import Record, Tx, dump
from evertrain.triggers import Decision

_MANY = 100  # partitions of one round
_BY_THE_LOOP = "json_extract(e.evidence, '$.more.by_hand') IS NULL"
_PICTURES = ("histogram", "series", "change")


@dataclass(frozen=True)
class Evaluation:
    """One partition of one check, as it was decided."""

    key: KeyText
    at: str
    fit_id: int
    decision: Decision


def record(tx: Tx, model_id: int, each: Sequence[tuple[int, int, Decision]]) -> None:
    """Store the decision on each partition: (partition, champion, decision).

    A what-if needs earlier checks, quiet ones among them. Of a round over many partitions the quiet ones before are
    dropped, or ten thousand partitions would add a gigabyte a month.
    """
    if not each:
        return
    if len(each) > _MANY:
        tx.run(
            "DELETE FROM evaluations WHERE latest = 1 AND severity = 'none' AND partition_id IN (SELECT value FROM"
            " json_each(:ids))",
            ids=dump([partition for partition, _, _ in each]),
        )
    tx.many(
        "UPDATE evaluations SET latest = 0 WHERE partition_id = :partition AND latest = 1",
        [{"partition": partition} for partition, _, _ in each],
    )
    tx.many(
        "INSERT INTO evaluations(model_id, partition_id, fit_id, at, code, fired, severity, confidence, drift_type, reason,"
        " rows, evidence) VALUES (:model, :partition, :fit, :at, :code, :fired, :severity, :confidence, :type, :reason,"
        " :rows, :evidence)",
        [
            {
                "model": model_id,
                "partition": partition,
                "fit": fit,
                "at": tx.now_text,
                "code": decision.code,
                "fired": int(decision.fired),
                "severity": decision.severity,
                "confidence": decision.confidence,
                "type": decision.drift_type,
                "reason": decision.reason,
                "rows": decision.found.recent_rows if decision.found else 0,
                "evidence": dump({"more": dict(decision.evidence), "found": _told(decision, len(each) > _MANY)}),
            }
            for partition, fit, decision in each
        ],
    )


def _told(decision: Decision, is_one_of_many: bool) -> dict[str, Any] | None:
    """Return what was measured; a quiet check of many does without what only pictures need."""
    if decision.found is None:
        return None
    told = decision.found.as_json()
    if is_one_of_many and decision.severity is Severity.NONE:
        for one in told["signals"]:
            one["detail"] = {name: value for name, value in one["detail"].items() if name not in _PICTURES}
    return told


def states(tx: Tx, partitions: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Return what the check before leaves for the next one, of partitions that still have the same champion."""
    rows = tx.rows(
        "SELECT e.partition_id, json_extract(e.evidence, '$.more.state') AS state FROM evaluations e JOIN partitions p"
        f" ON p.id = e.partition_id AND p.champion_id = e.fit_id WHERE e.latest = 1 AND {_BY_THE_LOOP}"
        " AND e.partition_id IN (SELECT value FROM json_each(:ids))",
        ids=dump(list(partitions)),
    )
    return {row.partition_id: json.loads(row.state) for row in rows if row.state}


def latest(tx: Tx, partition_id: int) -> Evaluation | None:
    """Return the newest evaluation of a partition."""
    row = tx.row(
        "SELECT e.*, p.key FROM evaluations e JOIN partitions p ON p.id = e.partition_id"
        " WHERE e.partition_id = :partition AND e.latest = 1",
        partition=partition_id,
    )
    return None if row is None else _of(row)


def worst(tx: Tx, model_id: int) -> Evaluation | None:
    """Return the newest evaluation of the partition that is worst off."""
    row = tx.row(
        "SELECT e.*, p.key FROM evaluations e JOIN partitions p ON p.id = e.partition_id WHERE e.model_id = :model"
        " AND e.latest = 1 AND p.state = 'live' ORDER BY e.fired DESC, CASE e.severity WHEN 'critical' THEN 0"
        " WHEN 'high' THEN 1 WHEN 'medium' THEN 2 WHEN 'low' THEN 3 ELSE 4 END, e.confidence DESC, e.id LIMIT 1",
        model=model_id,
    )
    return None if row is None else _of(row)


def history(tx: Tx, model_id: int, since: datetime, limit: int, *, by_hand: bool = False) -> list[Evaluation]:
    """Return the loop's evaluations since a moment, newest first; a look by hand is no check of the schedule."""
    rows = tx.rows(
        "SELECT e.*, p.key FROM evaluations e JOIN partitions p ON p.id = e.partition_id WHERE e.model_id = :model"
        f" AND e.at >= :since AND ({_BY_THE_LOOP} OR :by_hand) ORDER BY e.id DESC LIMIT :limit",
        model=model_id,
        since=to_text(since),
        limit=limit,
        by_hand=int(by_hand),
    )
    return [_of(row) for row in rows]


def told(tx: Tx, model_id: int, since: datetime, limit: int) -> Sequence[Record]:
    """Return when the loop's checks were and what they came to, newest first, without their evidence."""
    return tx.rows(
        "SELECT e.at, e.severity, e.fired, e.reason, p.key FROM evaluations e JOIN partitions p ON p.id = e.partition_id"
        f" WHERE e.model_id = :model AND e.at >= :since AND {_BY_THE_LOOP} ORDER BY e.id DESC LIMIT :limit",
        model=model_id,
        since=to_text(since),
        limit=limit,
    )


def since(tx: Tx, partitions: Sequence[int]) -> dict[int, str]:
    """Return from when on rows count, of the partitions whose champion's losses have changed by its last evaluation."""
    rows = tx.rows(
        "SELECT e.partition_id, json_extract(e.evidence, '$.more.since') AS at FROM evaluations e JOIN partitions p"
        " ON p.id = e.partition_id AND p.champion_id = e.fit_id WHERE e.latest = 1 AND e.fired"
        " AND e.partition_id IN (SELECT value FROM json_each(:ids))",
        ids=dump(list(partitions)),
    )
    return {row.partition_id: row.at for row in rows if row.at}


def prune(tx: Tx, before: datetime, most: int = 5000) -> int:
    """Remove old evaluations, but for the newest one of each partition; at most so many at once."""
    return tx.run(
        "DELETE FROM evaluations WHERE id IN (SELECT id FROM evaluations WHERE latest = 0 AND at < :before"
        " ORDER BY id LIMIT :most)",
        before=to_text(before),
        most=most,
    )


def _of(row: Record) -> Evaluation:
    stored: dict[str, Any] = json.loads(row.evidence)
    decision = Decision(
        Cause.DRIFT,
        "drift",
        bool(row.fired),
        row.code,
        row.reason,
        Severity(row.severity),
        stored["more"],
        confidence=row.confidence,
        drift_type=DriftType(row.drift_type),
        found=Evidence.from_json(stored["found"]) if stored["found"] else None,
    )
    return Evaluation(KeyText(row.key), row.at, row.fit_id, decision)
