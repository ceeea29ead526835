"""The application: all routes behind one guard, and the one table that turns errors into answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException

from evertrain import __version__, dashboard, errors
from evertrain.server import answers
from evertrain.server.guard import Guard
from evertrain.server.routes import (
    access,
    common,
    datasets,
    decisions,
    docs,
    events,
    figures,
    health,
    live,
    models,
    pages,
    runs,
    schedules,
    status,
)
from evertrain.server.service import Service

# The first row that fits answers. Whatever is not in here is our own mistake: 500, and the log has the rest.
STATUSES: tuple[tuple[type[Exception], int], ...] = (
    (errors.NotFound, 404),
    (errors.QueueFull, 429),
    (errors.Conflict, 409),
    (errors.ConfigError, 422),
    (errors.DataError, 422),
    (errors.TrainingError, 422),
    (errors.StoreBusy, 503),
    (errors.StoreError, 503),
    (errors.ArtifactError, 503),
)


def status_of(error: Exception) -> int:
    """Return the HTTP status of an error.

    >>> status_of(errors.NoModelYet("no model yet")), status_of(ValueError("ours"))
    (404, 500)
    """
    if isinstance(error, errors.StoreError) and "full" in str(error):
        return 507
    return next((status for kind, status in STATUSES if isinstance(error, kind)), 500)


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None, **more: Any) -> JSONResponse:
    """Return an answer in the one shape of all errors (RFC 9457)."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail, **more}
    return JSONResponse(body, status, dict(headers or {}), "application/problem+json")


def of_error(error: Exception) -> JSONResponse:
    """Return the answer to an error: what is wrong and what is allowed; never a traceback."""
    status = status_of(error)
    if status == 500:
        # It is raised once more after this answer, and the guard writes it to the log.
        return problem(500, "something failed that should not have; the log of the service says what")
    more: dict[str, Any] = {}
    if isinstance(error, errors.ConfigError):
        more = {"field": error.name, "allowed": error.allowed}
    if isinstance(error, errors.NoModelYet):
        more = {"serving": "nothing of this yet; every other model answers on"}
    if isinstance(error, errors.Conflict | errors.TrainingError):
        more = {"serving": "what served before serves on"}
    if isinstance(error, errors.DataError) and error.bad_rows:
        more = {"bad_rows": [vars(one) for one in error.bad_rows[:20]], "bad_count": error.bad_count}
    if isinstance(error, errors.StoreError):
        more = {"serving": "forecasts and predictions that are in memory are answered on"}
    headers = {"Retry-After": "5"} if status in (429, 503, 507) else None
    return problem(status, str(error), headers, **more)


def create(service: Service, routers: Sequence[APIRouter] = (), assets: Sequence[Traversable] = ()) -> Guard:
    """Return the application of a service, behind its guard.

    Args:
        routers: mounted beside its own.
        assets: folders of static files, beside its own.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield

    app = FastAPI(
        title="Evertrain",
        version=__version__,
        summary="Keeps machine-learning models fresh.",
        openapi_url="/api/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    plain = app.openapi
    app.openapi = lambda: common.with_examples(plain())  # type: ignore[method-assign]
    app.state.service = service
    own = pages.assets([resources.files("evertrain.server") / "static", dashboard.STATIC, *assets])
    for router in (*own_routers(), *routers, own, pages.pages()):
        app.include_router(router)

    async def ours(request: Request, error: Exception) -> Response:
        return as_page(request, of_error(error), str(error))

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        said = (
            error.detail if error.detail != HTTPStatus(error.status_code).phrase else f"{request.url.path} is not here"
        )
        return as_page(request, problem(error.status_code, said, error.headers), said)

    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        found = [
            {"field": ".".join(str(part)[:60] for part in one["loc"][1:]) or one["loc"][0], "problem": one["msg"]}
            for one in error.errors()
        ]
        if not found:
            return problem(422, "the request cannot be read")
        field, allowed = found[0]["field"], found[0]["problem"]
        return problem(422, f"{field}: {allowed}", field=field, allowed=allowed, problems=found[:20])

    app.add_exception_handler(errors.EvertrainError, ours)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Exception, ours)
    app.state.answers = answers.Answers(app, service.opened, service.counters)
    return Guard(app.state.answers, service.access, service.options, service.counters.request)


def as_page(request: Request, answer: Response, detail: str) -> Response:
    """Return an error as a page where a person looks at it, else as it is."""
    if request.url.path.startswith(("/api/", "/static/")) or "text/html" not in request.headers.get("accept", ""):
        return answer
    title = HTTPStatus(answer.status_code).phrase
    said = (
        "something failed that should not have; the log of the service says what"
        if answer.status_code == 500
        else detail
    )
    text = dashboard.error_page(answer.status_code, title, said, getattr(request.state, "caller", None))
    return HTMLResponse(text, answer.status_code)


def own_routers() -> tuple[APIRouter, ...]:
    """Return the routers of the API."""
    modules = (
        health,
        status,
        access,
        models,
        runs,
        schedules,
        decisions,
        events,
        figures,
        answers,
        live,
        datasets,
        docs,
    )
    return (*(one.router for one in modules), figures.metrics)
