"""Decisions: every evaluation of every trigger, with its reason."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from evertrain.events import Kind
from evertrain.store.connect import Record, Tx, dump
from evertrain.triggers import Decision


def record(tx: Tx, model_id: int, model: str, decision: Decision, *, action: str, wanted: int | None = None) -> int:
    """Store a decision and return its number.

    An answer of the same kind as the rule's last one, not fired, prolongs that row with the newest numbers: "young"
    every five minutes for a day is one row, and a change of mind is never lost.

    Args:
        action: what followed: "train", "observe" (would have), "report", or "none".
    """
    before = last(tx, model_id, decision.rule)
    values: dict[str, Any] = {
        "reason": decision.reason,
        "evidence": dump(dict(decision.evidence)),
        "at": tx.now_text,
        "severity": decision.severity,
        "confidence": decision.confidence,
    }
    if before is not None and not decision.fired and not before.fired and before.code == decision.code:
        tx.run(
            "UPDATE decisions SET reason = :reason, evidence = :evidence, last_at = :at, severity = :severity,"
            " confidence = :confidence, times = times + 1 WHERE id = :id",
            id=before.id,
            **values,
        )
        return int(before.id)
    if before is not None:
        tx.run("UPDATE decisions SET latest = 0 WHERE id = :id", id=before.id)
    number = int(
        tx.value(
            "INSERT INTO decisions(model_id, cause, rule, code, fired, action, severity, confidence, reason, evidence,"
            " first_at, last_at, wanted) VALUES (:model, :cause, :rule, :code, :fired, :action, :severity, :confidence,"
            " :reason, :evidence, :at, :at, :wanted) RETURNING id",
            model=model_id,
            cause=decision.cause,
            rule=decision.rule,
            code=decision.code,
            fired=int(decision.fired),
            action=action,
            wanted=wanted,
            **values,
        )
    )
    if decision.fired:
        tx.event(
            Kind.DECISION_FIRED,
            model=model,
            decision=number,
            cause=decision.cause,
            severity=decision.severity,
            action=action,
            reason=decision.reason,
        )
    return number


def last(tx: Tx, model_id: int, rule: str) -> Record | None:
    """Return the last answer of one rule of a model."""
    return tx.row(
        "SELECT * FROM decisions WHERE model_id = :model AND rule = :rule AND latest = 1", model=model_id, rule=rule
    )


def latest(tx: Tx, model_id: int) -> Sequence[Record]:
    """Return the last answer of each rule of a model, newest first."""
    return tx.rows(
        "SELECT * FROM decisions WHERE model_id = :model AND latest = 1 ORDER BY last_at DESC, id DESC", model=model_id
    )


def history(tx: Tx, model_id: int | None = None, limit: int = 20) -> Sequence[Record]:
    """Return decisions, newest first."""
    return page(tx, model_id=model_id, limit=limit)


def page(
    tx: Tx, *, model_id: int | None = None, cause: str | None = None, fired: bool | None = None,
    before: tuple[str, int] | None = None, limit: int,
) -> Sequence[Record]:  # fmt: skip
    """Return decisions, newest first, behind one that was given last: by when and its number."""
    given: dict[str, Any] = {"model_id": model_id, "cause": cause, "fired": None if fired is None else int(fired)}
    params = {name: value for name, value in given.items() if value is not None}
    where = [f"d.{name} = :{name}" for name in params]
    if before is not None:
        where.append("(d.last_at, d.id) < (:at, :before)")
        params |= {"at": before[0], "before": before[1]}
    return tx.rows(
        "SELECT d.*, m.name AS model FROM decisions d JOIN models m ON m.id = d.model_id"
        f" {'WHERE ' + ' AND '.join(where) if where else ''} ORDER BY d.last_at DESC, d.id DESC LIMIT :limit",
        limit=limit,
        **params,
    )


def evidence_of(row: Record) -> dict[str, Any]:
    """Return the numbers behind a stored decision."""
    found: dict[str, Any] = json.loads(row.evidence)
    return found
