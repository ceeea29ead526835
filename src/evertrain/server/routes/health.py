"""Whether the service lives, and whether it is ready for work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import anyio
import anyio.to_thread
from fastapi import APIRouter, Response

from evertrain.errors import EvertrainError
from evertrain.server.routes.common import Problem, Served, shown
from evertrain.server.service import Service

router = APIRouter(tags=["service"])

_STUCK_S, _PATIENCE_S = 60.0, 5.0


@dataclass(frozen=True)
class Health:
    """That the process answers."""

    status: str


@dataclass(frozen=True)
class Ready:
    """That the service takes requests; `loop_age_s` since its loop last began a round, null where it has none."""

    status: str
    loop_age_s: float | None


_NOT_READY: dict[int | str, dict[str, Any]] = {
    503: {"model": Problem, "description": "Not ready: `detail` says why, and `Retry-After` when to ask again."}
}


@router.get("/health", operation_id="health", responses=shown(Health("ok"), text="It answers."))
async def health() -> Health:
    """Tell that this process answers; touches nothing."""
    return Health("ok")


@router.get(
    "/ready",
    operation_id="ready",
    response_model=Ready,
    responses=_NOT_READY | shown(Ready("ready", 0.4), text="It is."),
)
async def ready(service: Served) -> Ready | Response:
    """Tell whether this process takes requests: it is not about to end, its store answers, and its loop goes round."""
    from evertrain.server.app import problem

    why = await _unready(service)
    if why is not None:
        return problem(503, why, {"Retry-After": "5"}, serving="forecasts and predictions that are in memory")
    loop = service.loop
    return Ready("ready", None if loop is None else round(loop.age_s, 1))


async def _unready(service: Service) -> str | None:
    if service.stopping.is_set():
        return "the service is about to end"
    loop = service.loop
    if loop is not None and loop.age_s > _STUCK_S:
        return f"the loop has not gone round for {loop.age_s:.0f} s"
    with anyio.move_on_after(_PATIENCE_S):
        return await anyio.to_thread.run_sync(_store_problem, service, abandon_on_cancel=True)
    return f"the store did not answer within {_PATIENCE_S:g} s"


def _store_problem(service: Service) -> str | None:
    try:
        with service.opened.store.read() as tx:
            tx.counter("commit")
    except EvertrainError as error:
        return str(error)
    return None
