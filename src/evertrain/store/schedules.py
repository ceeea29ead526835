"""Schedules: declared ones and those added at run time, and the slots that fired.

Beside moments of the calendar, a drop of a score may be added at run time; it has no next moment.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from evertrain import calendar
from evertrain.clock import from_text, to_text
from evertrain.errors import NotFound
from evertrain.events import Kind
from evertrain.specs import ModelSpec, Schedule, ScoreDrop, decode_trigger, encode
from evertrain.store.connect import Record, Tx, dump


def declare(tx: Tx, model_id: int, spec: ModelSpec, zone: str) -> None:
    """Bring the declared schedules of a model in line with its declaration; added ones stay."""
    wanted = {dump(encode(one)): one for one in spec.triggers if isinstance(one, Schedule)}
    present = {
        row.rule: row.id
        for row in tx.rows(
            "SELECT id, rule FROM schedules WHERE model_id = :model AND origin = 'declared' AND removed_at IS NULL",
            model=model_id,
        )
    }
    for rule, number in present.items():
        if rule not in wanted:
            tx.run("UPDATE schedules SET removed_at = :at WHERE id = :id", at=tx.now_text, id=number)
    for rule, schedule in wanted.items():
        if rule not in present:
            _insert(tx, model_id, schedule, "declared", zone)


def add(
    tx: Tx, model_id: int, model: str, rule: Schedule | ScoreDrop, zone: str, *, min_samples: int | None = None
) -> int:
    """Add a rule at run time and return its number; one that is there already keeps the number it has.

    Args:
        min_samples: rows of the model's source without which this rule trains nothing.
    """
    if isinstance(rule, Schedule):
        calendar.check(rule)
    present = tx.value(
        "SELECT id FROM schedules WHERE model_id = :model AND rule = :rule AND origin = 'added' AND removed_at IS NULL"
        " AND min_samples IS :least",
        model=model_id,
        rule=dump(encode(rule)),
        least=min_samples,
    )
    if present is not None:
        return int(present)
    number = _insert(tx, model_id, rule, "added", zone, min_samples)
    tx.event(Kind.SCHEDULE_ADDED, model=model, schedule=number, rule=words(rule, zone))
    return number


def words(rule: Schedule | ScoreDrop, zone: str) -> str:
    """Return a rule for people.

    >>> words(ScoreDrop(0.15), "UTC")
    'when the score drops by more than 15 %'
    """
    if isinstance(rule, Schedule):
        return calendar.words(rule, zone)
    return f"when {rule.score or 'the score'} drops by more than {100 * rule.threshold:g} %"


def _insert(
    tx: Tx, model_id: int, rule: Schedule | ScoreDrop, origin: str, zone: str, min_samples: int | None = None
) -> int:
    following = calendar.next_fire(rule, zone, tx.now) if isinstance(rule, Schedule) else None
    return int(
        tx.value(
            "INSERT INTO schedules(model_id, rule, origin, min_samples, next_at)"
            " VALUES (:model, :rule, :origin, :least, :next) RETURNING id",
            model=model_id,
            rule=dump(encode(rule)),
            origin=origin,
            least=min_samples,
            next=to_text(following) if following else None,
        )
    )


def remove(tx: Tx, number: int) -> Record:
    """Remove a schedule.

    Raises:
        NotFound: no such schedule is active.
    """
    row = tx.row(
        "SELECT s.*, m.name AS model FROM schedules s JOIN models m ON m.id = s.model_id"
        " WHERE s.id = :id AND s.removed_at IS NULL",
        id=number,
    )
    if row is None:
        raise NotFound(f"schedule {number} does not exist")
    tx.run("UPDATE schedules SET removed_at = :at WHERE id = :id", at=tx.now_text, id=number)
    tx.event(Kind.SCHEDULE_REMOVED, model=row.model, schedule=number)
    return row


def due(tx: Tx) -> Sequence[Record]:
    """Return active schedules of declared models whose moment has come."""
    return tx.rows(
        "SELECT s.* FROM schedules s JOIN models m ON m.id = s.model_id WHERE s.removed_at IS NULL"
        " AND s.next_at <= :now AND m.retired_at IS NULL ORDER BY s.next_at",
        now=tx.now_text,
    )


def active(tx: Tx, number: int) -> Record | None:
    """Return a schedule that was not removed."""
    return tx.row("SELECT * FROM schedules WHERE id = :id AND removed_at IS NULL", id=number)


def fire(tx: Tx, row: Record, zone: str) -> tuple[datetime, int] | None:
    """Take the slot of a due schedule and move it on; None when another process took this slot.

    Returns:
        The latest slot that has come, for which one run stands, and how many earlier ones are skipped.
    """
    schedule = rule_of(row)
    assert isinstance(schedule, Schedule)
    first = from_text(row.next_at)
    slot, skipped = calendar.missed(schedule, zone, first, tx.now)
    slot, skipped = (slot, skipped + 1) if slot is not None else (first, 0)
    taken = tx.run(
        "INSERT INTO slots(schedule_id, slot_at, fired_at, skipped) VALUES (:id, :slot, :at, :skipped)"
        " ON CONFLICT DO NOTHING",
        id=row.id,
        slot=to_text(slot),
        at=tx.now_text,
        skipped=skipped,
    )
    following = calendar.next_fire(schedule, zone, max(slot, tx.now))
    tx.run(
        "UPDATE schedules SET next_at = :next, last_at = :slot WHERE id = :id",
        next=to_text(following),
        slot=to_text(slot),
        id=row.id,
    )
    if skipped:
        tx.event(Kind.SCHEDULE_SKIPPED, schedule=row.id, skipped=skipped, slot=to_text(slot))
    return (slot, skipped) if taken else None


def every(tx: Tx, model_id: int | None = None) -> Sequence[Record]:
    """Return the active schedules, with their model's name, in order of their next moment."""
    where = "" if model_id is None else "AND s.model_id = :model"
    params: dict[str, Any] = {} if model_id is None else {"model": model_id}
    return tx.rows(
        "SELECT s.*, m.name AS model FROM schedules s JOIN models m ON m.id = s.model_id"
        f" WHERE s.removed_at IS NULL AND m.retired_at IS NULL {where} ORDER BY s.next_at IS NULL, s.next_at, s.id",
        **params,
    )


def next_at(tx: Tx, model_id: int) -> datetime | None:
    """Return the next moment of any schedule of a model."""
    found = tx.value(
        "SELECT min(next_at) FROM schedules WHERE model_id = :model AND removed_at IS NULL", model=model_id
    )
    return from_text(found) if found else None


def drops(tx: Tx, model: str) -> list[tuple[ScoreDrop, int | None]]:
    """Return the drops of a score that were added to a model at run time, each with the rows that it needs."""
    rows = tx.rows(
        "SELECT s.* FROM schedules s JOIN models m ON m.id = s.model_id WHERE m.name = :model AND s.removed_at IS NULL"
        " AND s.next_at IS NULL ORDER BY s.id",
        model=model,
    )
    found = [(rule_of(row), row.min_samples) for row in rows]
    return [(rule, least) for rule, least in found if isinstance(rule, ScoreDrop)]


def rule_of(row: Record) -> Schedule | ScoreDrop:
    """Return the rule that a row stores."""
    found = decode_trigger(json.loads(row.rule))
    assert isinstance(found, Schedule | ScoreDrop)
    return found
