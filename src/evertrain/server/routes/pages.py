"""The pages of the dashboard, and the files that they and others load."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from importlib.resources.abc import Traversable
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse

from evertrain import dashboard
from evertrain.errors import NotFound
from evertrain.server.service import Service

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
}


def pages() -> APIRouter:
    """Return a route for each page of the dashboard."""
    dashboard.prepare()
    router = APIRouter(include_in_schema=False)
    for page in dashboard.PAGES:
        router.add_api_route(page.path, _answering(page), methods=["GET"], name=page.path)
    return router


def _answering(page: dashboard.Page) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        service: Service = request.app.state.service
        query = dict(request.query_params)
        text = await service.call(page.render, service.opened, request.state.caller, request.path_params, query)
        return HTMLResponse(text)

    return answer


def assets(folders: Sequence[Path | Traversable]) -> APIRouter:
    """Return the route of all static files: those that are in some folders now, by name; nothing else is ever opened."""
    router = APIRouter(include_in_schema=False)
    known: dict[str, tuple[bytes, str, str]] = {}
    for folder in folders:
        for file in folder.iterdir():
            kind = _TYPES.get(Path(file.name).suffix)
            if kind and file.is_file():
                body = file.read_bytes()
                known[file.name] = body, kind, f'"{hashlib.sha256(body).hexdigest()[:20]}"'

    @router.get("/static/{name}", name="static")
    async def static(request: Request, name: str) -> Response:
        if name not in known:
            raise NotFound("there is no such file")
        body, kind, tag = known[name]
        headers = {"ETag": tag, "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(body, media_type=kind, headers=headers)

    return router
