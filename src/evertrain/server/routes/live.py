"""What happens, while it happens: the log, one run, and forecasts that changed, as server-sent events."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response

from evertrain.server import streams
from evertrain.server.routes.common import RunId
from evertrain.server.service import Service
from evertrain.store.tokens import Caller

router = APIRouter(prefix="/api/v1", tags=["live"])

LastId = Annotated[str | None, Header(alias="Last-Event-ID", description="id of the last message that was read")]
After = Annotated[str | None, Query(description="the same, for a first request that cannot set the header")]

_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "server-sent events"},
    503: {"description": "as many streams are open as there may be; Retry-After says when to come again"},
}
_RUN = {**_STREAM, 204: {"description": "the run has ended, and all of it was read"}}


def _asked(request: Request) -> tuple[Service, Caller | None]:
    return request.app.state.service, getattr(request.state, "caller", None)


@router.get("/events/live", operation_id="live_events", responses=_STREAM, response_class=Response)
async def live(request: Request, last_event_id: LastId = None, after: After = None) -> Response:
    """Follow every event of the log from now on, or behind the last one that was read."""
    service, caller = _asked(request)
    last = streams.last_event_id(last_event_id or after)
    return streams.live(service, caller, await service.call(streams.start, service, last))


@router.get("/forecasts/events", operation_id="live_forecasts", responses=_STREAM, response_class=Response)
async def forecasts(
    request: Request, model: str | None = None, last_event_id: LastId = None, after: After = None
) -> Response:
    """Follow which forecasts change, by promotion or rollback, so that who shows one can fetch it anew."""
    service, caller = _asked(request)
    last = streams.last_event_id(last_event_id or after)
    return streams.of_forecasts(service, caller, await service.call(streams.start, service, last), model)


@router.get("/runs/{run_id}/events", operation_id="live_run", responses=_RUN, response_class=Response)
async def of_run(request: Request, run_id: RunId, last_event_id: LastId = None, after: After = None) -> Response:
    """Follow a run from its beginning, or behind the last message that was read, to its result."""
    service, caller = _asked(request)
    last = streams.last_event_id(last_event_id or after)
    if not await service.call(streams.run_goes_on, service, run_id, last):
        return Response(status_code=204)  # the one answer on which browsers do not come again
    begin = 0 if last is None else await service.call(streams.start, service, last)
    return streams.of_run(service, caller, run_id, begin)
