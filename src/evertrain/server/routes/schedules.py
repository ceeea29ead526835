"""Schedules: when models are trained by the clock; adding and removing them at run time."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import Response
from pydantic import Field

from evertrain import specs
from evertrain.control import browse, steer
from evertrain.control.browse import Page
from evertrain.errors import ConfigError
from evertrain.server.routes.common import (
    API,
    REPEATABLE,
    Body,
    Cursor,
    Limit,
    OfModel,
    ScheduleId,
    Served,
    Who,
    routes_of,
    shown,
)

router = routes_of("schedules", "/schedules")

_AT = datetime(2026, 3, 9, 2, 0, tzinfo=UTC)
_SCHEDULED = steer.Scheduled(3, "demand", "every Monday at 03:00 Europe/Berlin", _AT, None, "added")


@router.get("", operation_id="list_schedules", responses=shown(Page([_SCHEDULED], None)))
def list_schedules(
    service: Served, model: OfModel = None, limit: Limit = 50, cursor: Cursor = None
) -> Page[steer.Scheduled]:
    """List the active schedules, in order of their next moment."""
    return browse.schedule_list(service.opened, model, limit, cursor)


class ScheduleBody(Body, json_schema_extra={"example": {"model": "demand", "weekly": "mon", "at": "03:00"}}):
    """Exactly one of `daily` ("HH:MM"), `weekly` ("mon" to "sun"), `monthly` (day) and `cron` (five fields).

    `at` ("HH:MM") goes with weekly and monthly, by default 03:00; `zone` is an IANA time zone, by default the project's.
    """

    model: Annotated[str, Field(max_length=200)]
    daily: Annotated[str, Field(max_length=5)] | None = None
    weekly: Annotated[str, Field(max_length=9)] | None = None
    monthly: Annotated[int, Field(ge=1, le=31)] | None = None
    cron: Annotated[str, Field(max_length=500)] | None = None
    at: Annotated[str, Field(max_length=5)] | None = None
    zone: Annotated[str, Field(max_length=64)] | None = None

    def rule(self) -> specs.Schedule:
        given = {name: getattr(self, name) for name in ("daily", "weekly", "monthly", "cron")}
        given = {name: value for name, value in given.items() if value is not None}
        if len(given) != 1:
            raise ConfigError("schedule", ", ".join(given) or "nothing", "exactly one of daily, weekly, monthly, cron")
        if self.at is not None and (self.daily is not None or self.cron is not None):
            raise ConfigError("at", self.at, "beside weekly or monthly; daily and cron say the time themselves")
        at = self.at or "03:00"
        if self.daily is not None:
            return specs.daily(self.daily, self.zone)
        if self.weekly is not None:
            return specs.weekly(self.weekly, at, self.zone)
        if self.monthly is not None:
            return specs.monthly(at, self.monthly, self.zone)
        return specs.cron(str(self.cron), self.zone)


@router.post(
    "",
    operation_id="add_schedule",
    status_code=201,
    openapi_extra=REPEATABLE,
    responses=shown(_SCHEDULED, 201, "Added.", headers={"Location": "The schedules."}),
)
def add_schedule(service: Served, who: Who, response: Response, body: ScheduleBody) -> steer.Scheduled:
    """Add a schedule; it stays until it is removed, whatever the project file says."""
    added = steer.add_schedule(service.opened, body.model, body.rule(), actor=who.name)
    response.headers["Location"] = f"{API}/schedules"
    return added


@router.delete("/{schedule}", operation_id="remove_schedule", responses=shown(_SCHEDULED, text="Removed."))
def remove_schedule(service: Served, who: Who, schedule: ScheduleId) -> steer.Scheduled:
    """Remove a schedule; a declared one comes back with the next reload unless the project file drops it."""
    return steer.remove_schedule(service.opened, schedule, actor=who.name)
