"""Events: the append-only log of everything that happened."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import Query

from evertrain.control import browse
from evertrain.control.browse import Page
from evertrain.events import Kind
from evertrain.server.routes.common import Cursor, Limit, OfModel, Served, routes_of, shown

router = routes_of("events", "/events")

_TOLD = browse.Told(
    5120, datetime(2026, 3, 2, 3, 0, 12, tzinfo=UTC), "run.ended", "demand", 17, "evertrain",
    {"state": "succeeded", "outcomes": {"promoted": 3}}, "run 17 demand: succeeded: 3 promoted",
)  # fmt: skip


@router.get("", operation_id="list_events", responses=shown(Page([_TOLD], None)))
def list_events(
    service: Served,
    model: OfModel = None,
    run: Annotated[int | None, Query(ge=1, lt=2**63, description="Only of this run.")] = None,
    kind: Annotated[list[Kind] | None, Query(description="Only of this kind; may be repeated.", max_length=50)] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[browse.Told]:
    """List what happened, newest first."""
    return browse.event_list(service.opened, model, run, [str(one) for one in kind or ()], limit, cursor)
