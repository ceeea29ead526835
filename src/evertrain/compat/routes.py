"""The routes of the documents, answered on the service's own server: the same control plane in their words."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

import anyio
import anyio.to_thread
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from evertrain.compat import forecast, monitoring, words
from evertrain.compat.retraining import AutomatedRetrainingService
from evertrain.control import jobs, steer
from evertrain.control.work import loop_alive
from evertrain.errors import ConfigError, Conflict
from evertrain.server import uploads
from evertrain.server.service import Service

P = ParamSpec("P")
R = TypeVar("R")

_AWAITED = 8  # trainings that somebody waits for at once; each of them has a thread
_SOON_S = 5.0  # until a loop has begun or ended

retraining = APIRouter(prefix="/api/v1/ai", tags=["compat: automated retraining"])
manager = APIRouter(prefix="/retraining", tags=["compat: retraining manager"])
forecaster = APIRouter(tags=["compat: retrainable forecaster"])
routers = (retraining, manager, forecaster)
STATIC = Path(__file__).parent / "static"
"""Give both to `evertrain.server.app.create`: routers, and a folder of static files."""

_waiting = anyio.CapacityLimiter(_AWAITED)
_asking = anyio.CapacityLimiter(4)  # a model may be made for a question: those who wait for it hold no other's thread


def _service(request: Request) -> Service:
    found: Service = request.app.state.service
    return found


def _actor(request: Request) -> str:
    return str(request.state.caller.name)


async def _awaited(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Wait for a training in a thread of its own, beside those that answer reads.

    Raises:
        Conflict: too many wait already.
    """
    if _waiting.borrowed_tokens >= _AWAITED:
        raise Conflict(
            f"{_AWAITED} requests wait for a training already; POST /api/v1/models/NAME/retrain asks without waiting"
        )
    return await anyio.to_thread.run_sync(lambda: function(*args, **kwargs), limiter=_waiting, abandon_on_cancel=False)


def _example(body: Mapping[str, Any]) -> dict[int | str, dict[str, Any]]:
    return {200: {"content": {"application/json": {"example": body}}}}


# --- document 001 -----------------------------------------------------------------------------------------------

_RESULT = {
    "model_type": "climate_optimizer", "old_version": "1.2.0", "new_version": "1.3.0",
    "old_metrics": {"accuracy": 0.87, "f1_score": 0.85}, "new_metrics": {"accuracy": 0.91, "f1_score": 0.89},
    "improvement": 4.6, "training_samples": 1523, "training_duration": 45.2, "outcome": "promoted",
    "reason": "better on 305 rows that neither has learnt", "improvement_points": 0.04,
}  # fmt: skip
_JOB = {
    "job_id": 1, "model_type": "climate_optimizer", "schedule_type": "weekly",
    "schedule_config": {"day": 2, "time": "03:00"}, "last_run": "2026-02-11T03:00:00Z",
    "next_run": "2026-02-18T03:00:00Z",
}  # fmt: skip


@retraining.post("/retrain/{model_type}", operation_id="ai_retrain", responses=_example(_RESULT))
async def retrain(request: Request, model_type: str, force: bool = False) -> dict[str, Any]:
    """Retrain a model and wait for what becomes of it; without `force` only where its drift check asks for it."""
    service = _service(request)
    own = AutomatedRetrainingService(service.opened, actor=_actor(request))
    done = await _awaited(own.retrain_model, model_type, force, stop=service.stopping.is_set)
    return done.as_dict()


@retraining.get("/retraining/schedule", operation_id="ai_schedule", responses=_example({"jobs": [_JOB]}))
async def schedule(request: Request) -> dict[str, Any]:
    """List the retraining jobs; moments are UTC."""
    service = _service(request)
    found = await service.call(jobs.every, service.opened)
    return {
        "jobs": [
            {
                "job_id": one.number,
                "model_type": one.model,
                "schedule_type": words.schedule_type(one.rule),
                "schedule_config": words.schedule_config(one.rule),
                "last_run": words.utc(one.last_at),
                "next_run": words.utc(one.next_at),
            }
            for one in found
        ]
    }


class NewJob(BaseModel):
    """A job to add."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {
                "model_type": "climate_optimizer", "schedule_type": "weekly", "schedule_day": 2,
                "schedule_time": "03:00", "min_samples": 100,
            }
        },
    )  # fmt: skip
    model_type: str
    schedule_type: str
    schedule_day: int | None = None
    schedule_time: str | None = None
    drift_threshold: float | None = None
    min_samples: Annotated[int, Field(ge=1, le=2**31)] | None = None


@retraining.post(
    "/retraining/schedule",
    operation_id="ai_add_job",
    responses=_example({"job_id": 3, "message": "Retraining job scheduled"}),
)
async def add_job(request: Request, job: NewJob) -> dict[str, Any]:
    """Add a retraining job; the same one again keeps its number."""
    service = _service(request)
    own = AutomatedRetrainingService(service.opened, actor=_actor(request))
    number = await service.call(own.add_job, **job.model_dump())
    return {"job_id": number, "message": "Retraining job scheduled"}


@retraining.delete(
    "/retraining/schedule/{job_id}",
    operation_id="ai_remove_job",
    responses=_example({"message": "Retraining job removed"}),
)
async def remove_job(request: Request, job_id: int) -> dict[str, Any]:
    """Remove a retraining job."""
    service = _service(request)
    await service.call(steer.remove_schedule, service.opened, _row_number(job_id), actor=_actor(request))
    return {"message": "Retraining job removed"}


def _row_number(number: int) -> int:
    """Return a number that a row may have; one beyond what a database can hold is none."""
    return number if abs(number) < 2**63 else 0


# --- document 002 -----------------------------------------------------------------------------------------------


_STARTED = {"message": "Retraining monitoring started", "is_running": True}
_STOPPED = {"message": "Retraining monitoring stopped; models serve on", "is_running": False}
_ENDED = {
    "model_name": "iris", "trigger_type": "data_change", "trigger_time": "2026-03-02T03:00:12Z", "status": "success",
    "duration": 2.4, "data_hash": "5f2b8c", "description": "Data file modified: data/raw/iris.csv",
}  # fmt: skip
_ASKED = {
    "message": "Retraining of iris was asked for; GET /retraining/history tells how it ends", "model_name": "iris",
    "trigger_type": "manual", "run_id": 17, "status": "queued", "reason": "asked by ana",
}  # fmt: skip


@manager.post("/start", operation_id="retraining_start", responses=_example(_STARTED))
async def start(request: Request) -> dict[str, Any]:
    """Begin to keep the models fresh."""
    service = _service(request)
    was_alive = await service.call(loop_alive, service.opened)
    await service.call(service.start_loop)
    running = await service.call(_comes_true, lambda: loop_alive(service.opened))
    return {"message": f"Retraining monitoring {'is on already' if was_alive else 'started'}", "is_running": running}


@manager.post("/stop", operation_id="retraining_stop", responses=_example(_STOPPED))
async def stop(request: Request) -> dict[str, Any]:
    """End monitoring; what runs gets time to finish, and every model serves on."""
    service = _service(request)
    was_alive = await service.call(service.stop_loop)
    ended = await service.call(_comes_true, lambda: not loop_alive(service.opened))
    said = "stopped" if ended else "ends when what runs has finished"
    return {
        "message": f"Retraining monitoring {said if was_alive else 'is off already'}; models serve on",
        "is_running": not ended,
    }


def _comes_true(claim: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + _SOON_S
    while not claim() and time.monotonic() < deadline:
        time.sleep(0.05)
    return claim()


@manager.get("/status", operation_id="retraining_status")
async def status(request: Request) -> dict[str, Any]:
    """Tell how everything stands: `is_running`, and each model with age, performance, and whether its rows suffice."""
    service = _service(request)
    return await service.call(monitoring.status, service.opened)


@manager.get("/history", operation_id="retraining_history", responses=_example({"history": [_ENDED]}))
async def history(
    request: Request, model_name: str | None = None, limit: Annotated[int, Query(ge=1, le=1000)] = 20
) -> dict[str, Any]:
    """List what was trained, newest first."""
    service = _service(request)
    return {"history": await service.call(monitoring.history, service.opened, model_name, limit)}


@manager.post("/trigger/{model_name}", operation_id="retraining_trigger", responses=_example(_ASKED))
async def trigger(request: Request, model_name: str) -> dict[str, Any]:
    """Ask for a training by hand. Where monitoring is off it is trained before the answer."""
    service = _service(request)
    return await _awaited(
        monitoring.trigger, service.opened, model_name, wait=False, actor=_actor(request),
        stop=service.stopping.is_set,
    )  # fmt: skip


# --- document 004 -----------------------------------------------------------------------------------------------


_FILE = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}},
                }
            }
        },
    }
}
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {
            "text/event-stream": {
                "example": 'data: {"type": "progress", "data": "Reading uploaded CSV..."}\n\n'
                'data: {"type": "result", "data": {"status": "success", "meta": {"outcome": "promoted"}}}\n\n'
            }
        }
    }
}  # fmt: skip


@forecaster.post(
    "/retrain", operation_id="compat_retrain", openapi_extra=_FILE, response_class=Response, responses=_STREAM
)
async def upload(request: Request, model: str | None = None) -> Response:
    """Send a CSV file and retrain on it; the answer is a stream of what happens, with one result at its end."""
    service = _service(request)

    def dataset() -> str:
        return forecast.dataset_of(service.opened, forecast.model_of(service.opened, model))

    return await uploads.stream_upload(service, request.state.caller, await service.call(dataset), request)


class Wanted(BaseModel):
    """How many days to forecast, and of which rows: any column of the data with a value, or a list of them."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"example": {"days": 7, "product_id": "P001"}})
    days: int = 7


Value = str | int | float | bool


@forecaster.post("/forecast", operation_id="compat_forecast")
async def forecasts(request: Request, wanted: Wanted, model: str | None = None) -> dict[str, Any]:
    """Forecast days ahead, with a recommendation for the stock; filters that no partition answers get a model made for
    the question.
    """
    service = _service(request)
    where = dict(wanted.model_extra or {})
    for name, value in where.items():
        listed = value if isinstance(value, list) else [value]
        if value is not None and not all(isinstance(one, Value) for one in listed):
            raise ConfigError(name, value, "a text, a number, true or false, or a list of them")
    return await anyio.to_thread.run_sync(
        lambda: forecast.answer(service.opened, wanted.days, where, model, stop=service.stopping.is_set),
        limiter=_asking,
    )
