"""Decisions: every answer of every trigger, with its reason."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import Query

from evertrain.control import browse
from evertrain.control.browse import Page
from evertrain.server.routes.common import Cursor, Limit, OfModel, Served, routes_of, shown
from evertrain.specs import Cause

router = routes_of("decisions", "/decisions")

_AT = datetime(2026, 3, 2, 3, 0, 12, tzinfo=UTC)
_DECIDED = browse.Decided(
    91, "demand", "drift", "drift", True, "train", "harm", "high", 0.97, "errors rose by 31 % since 24 February",
    {"increase": 0.31}, _AT, _AT, 1,
)  # fmt: skip


@router.get("", operation_id="list_decisions", responses=shown(Page([_DECIDED], None)))
def list_decisions(
    service: Served,
    model: OfModel = None,
    cause: Annotated[Cause | None, Query(description="Only of this kind of trigger.")] = None,
    fired: Annotated[bool | None, Query(description="Only those that asked for training, or that did not.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[browse.Decided]:
    """List why models were, or were not, to be trained, newest first."""
    return browse.decision_list(service.opened, model, cause and str(cause), fired, limit, cursor)
