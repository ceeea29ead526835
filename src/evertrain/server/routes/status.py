"""The project: how everything stands, pausing all training, starting and stopping the loop."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from evertrain.control import steer, tell
from evertrain.server.routes.common import REPEATABLE, Served, Who, routes_of, shown
from evertrain.server.routes.models import Paused

router = routes_of("project")

_STATUS = tell.Status(
    "shop", "Europe/Berlin", "train", True, datetime(2026, 3, 1, 8, 0, tzinfo=UTC), {"host": "pi", "pid": 812}, False, 0,
    0, [], 0,
)  # fmt: skip


@router.get("/status", operation_id="get_status", responses=shown(_STATUS))
def get_status(service: Served) -> tell.Status:
    """Show how everything stands, in one consistent read."""
    return tell.status(service.opened)


@router.post("/pause", operation_id="pause", openapi_extra=REPEATABLE, responses=shown(Paused(None, True)))
def pause(service: Served, who: Who) -> Paused:
    """Train nothing until it is resumed; what runs goes on, and everything serves."""
    steer.pause(service.opened, paused=True, actor=who.name)
    return Paused(None, True)


@router.post("/resume", operation_id="resume", openapi_extra=REPEATABLE, responses=shown(Paused(None, False)))
def resume(service: Served, who: Who) -> Paused:
    """Train again."""
    steer.pause(service.opened, paused=False, actor=who.name)
    return Paused(None, False)


@dataclass(frozen=True)
class Monitoring:
    """Whether models are kept fresh; `changed` says whether this request did it."""

    monitoring: bool
    changed: bool


@router.post(
    "/monitoring/start",
    operation_id="start_monitoring",
    openapi_extra=REPEATABLE,
    responses=shown(Monitoring(True, True)),
)
def start_monitoring(service: Served) -> Monitoring:
    """Begin to keep the models fresh in this process."""
    return Monitoring(True, service.start_loop())


@router.post(
    "/monitoring/stop",
    operation_id="stop_monitoring",
    openapi_extra=REPEATABLE,
    responses=shown(Monitoring(False, True)),
)
def stop_monitoring(service: Served) -> Monitoring:
    """End the loop, wherever it runs; what runs gets time to finish, and everything serves."""
    return Monitoring(False, service.stop_loop())
