"""Steering at run time: pausing and going on, schedules that a person adds."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from evertrain.clock import from_text
from evertrain.control.opened import Opened, zone_of
from evertrain.specs import Schedule
from evertrain.store import models, schedules
from evertrain.store.connect import Record


@dataclass(frozen=True)
class Scheduled:
    """An active schedule.

    Attributes:
        rule: in words, with its time zone.
        next_at: None where no clock but a drop of a score decides.
        origin: "declared" in the project file, or "added" at run time.
    """

    schedule: int
    model: str
    rule: str
    next_at: datetime | None
    last_at: datetime | None
    origin: str


def pause(opened: Opened, model: str | None = None, *, paused: bool, actor: str) -> None:
    """Stop or go on training, of one model or of all; what runs goes on, and everything serves.

    Raises:
        NotFound: no such model.
    """
    with opened.store.write(actor) as tx:
        models.pause(tx, model, paused=paused)


def schedule_list(opened: Opened, model: str | None = None) -> list[Scheduled]:
    """Return the active schedules, in order of their next moment.

    Raises:
        NotFound: no such model.
    """
    zone = zone_of(opened.project())
    with opened.store.read() as tx:
        number = models.by_name(tx, model).id if model is not None else None
        return [_told(row, zone) for row in schedules.every(tx, number)]


def add_schedule(opened: Opened, model: str, rule: Schedule, *, actor: str) -> Scheduled:
    """Add a schedule; it stays until removed, whatever the project file says.

    Raises:
        NotFound: no such model.
        ConfigError: the rule is wrong, or never fires.
    """
    zone = zone_of(opened.project())
    with opened.store.write(actor) as tx:
        number = schedules.add(tx, models.by_name(tx, model).id, model, rule, zone)
        row = next(one for one in schedules.every(tx) if one.id == number)
    return _told(row, zone)


def remove_schedule(opened: Opened, number: int, *, actor: str) -> Scheduled:
    """Remove a schedule and return it; a declared one comes back with the next reload unless the file drops it.

    Raises:
        NotFound: no such schedule is active.
    """
    with opened.store.write(actor) as tx:
        row = schedules.remove(tx, number)
        declared = models.project(tx)
        if declared is not None and row.model in declared.models:
            models.declare_again(tx, row.model)  # a drop of a score is one of its triggers no longer
    return _told(row, zone_of(opened.project()))


def _told(row: Record, zone: str) -> Scheduled:
    return Scheduled(
        row.id,
        row.model,
        schedules.words(schedules.rule_of(row), zone),
        from_text(row.next_at) if row.next_at else None,
        from_text(row.last_at) if row.last_at else None,
        row.origin,
    )
