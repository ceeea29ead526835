"""Runs: how far they are, what became of their items; cancelling, and trying again what failed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Query, Response

from evertrain.control import ask, browse
from evertrain.control.browse import Page
from evertrain.server.routes.common import REPEATABLE, Cursor, Limit, OfModel, RunId, Served, Who, routes_of, shown
from evertrain.server.routes.models import REQUESTED, RUN_HEADER, Requested, accepted
from evertrain.states import ItemState, RunState

router = routes_of("runs", "/runs")

_AT = datetime(2026, 3, 2, 3, 0, 0, tzinfo=UTC)
_RUN = browse.Run(
    17, "demand", "succeeded", "selective", "data_change", "912 new rows", "evertrain", "1.4.0", _AT, _AT, _AT, 3, 3,
    {"promoted": 3}, 1.2, 1.1, "mae fell by 4.5 %",
)  # fmt: skip
_DETAIL = browse.RunDetail(
    **asdict(_RUN), old_version="1.3.0", new_version="1.4.0", score="mae", old_value=3.36, new_value=3.21,
    improvement=4.5, held_until=None,
)  # fmt: skip
_ITEM = browse.Item(
    804, {"town": "Pilar"}, "Pilar", "promoted", "data_change", "mae fell by 4.5 %", 1, 0.41, 0.4, 182.0, None, _AT, _AT,
    False,
)  # fmt: skip


@router.get("", operation_id="list_runs", responses=shown(Page([_RUN], None)))
def list_runs(
    service: Served,
    model: OfModel = None,
    state: Annotated[RunState | None, Query(description="Only in this state.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[browse.Run]:
    """List runs with how far each is, newest first."""
    return browse.run_list(service.opened, model, state and str(state), limit, cursor)


@router.get("/{run}", operation_id="get_run", responses=shown(_DETAIL))
def get_run(service: Served, run: RunId) -> browse.RunDetail:
    """Show a run: how far it is, and what it came to."""
    return browse.run(service.opened, run)


@router.get("/{run}/items", operation_id="list_items", responses=shown(Page([_ITEM], None)))
def list_items(
    service: Served,
    run: RunId,
    state: Annotated[ItemState | None, Query(description="Only in this state.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[browse.Item]:
    """List the items of a run, one per partition, with what became of each."""
    return browse.item_list(service.opened, run, state and str(state), limit, cursor)


@dataclass(frozen=True)
class Cancelled:
    """The state of a run after it was asked to end; "running" while its workers end."""

    run: int
    state: str


@router.post(
    "/{run}/cancel", operation_id="cancel_run", openapi_extra=REPEATABLE, responses=shown(Cancelled(17, "cancelled"))
)
def cancel_run(service: Served, who: Who, run: RunId) -> Cancelled:
    """Cancel a run; items that other runs want go on for those, and what serves goes on."""
    return Cancelled(run, ask.cancel(service.opened, run, who.name))


@router.post(
    "/{run}/retry-failed",
    operation_id="retry_failed",
    status_code=202,
    openapi_extra=REPEATABLE,
    responses=shown(REQUESTED, 202, "Taken on as a new run.", headers=RUN_HEADER),
)
def retry_failed(service: Served, who: Who, response: Response, run: RunId) -> Requested:
    """Train again exactly what failed, died or was cancelled in a run."""
    asked = ask.retry_failed(service.opened, run, who.name, service.options.max_queue)
    return accepted(response, Requested.of_asked(browse.run(service.opened, run).model, asked))
