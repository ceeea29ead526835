"""Who may use the service: logging in and out of the pages, and tokens."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from pydantic import ConfigDict, Field

from evertrain.clock import to_text
from evertrain.control import access as use
from evertrain.server.access import Access
from evertrain.server.guard import cookie, cookie_name
from evertrain.server.once import Route
from evertrain.server.routes.common import API, PROBLEMS, Body, TokenId, shown
from evertrain.server.service import Options, Service
from evertrain.store.tokens import SESSION, Role, Token

_FORM_BYTES = 4096  # of a form that holds a token and nothing else

_TOKEN = {
    "id": 4, "name": "viewer-1", "role": "viewer", "ends": "x7Qk", "created_at": "2026-03-02T03:00:12.000000Z",
    "created_by": "ana", "expires_at": "2026-05-31T03:00:12.000000Z", "revoked_at": None,
}  # fmt: skip


class _ShownOnce(Route):
    """A route whose answer holds a secret, which is kept nowhere."""

    repeatable = False


pages = APIRouter(include_in_schema=False)
tokens = APIRouter(prefix=f"{API}/tokens", tags=["access"], route_class=_ShownOnce, responses=PROBLEMS)


@pages.get("/login")
async def login_form(request: Request) -> Response:
    """Show the form for a token; where none is needed there is nothing to log in to."""
    service: Service = request.app.state.service
    if not service.options.needs_token:
        return RedirectResponse("/", 303)
    return _page(None)


@pages.post("/login")
async def log_in(request: Request) -> Response:
    """Begin a session for a token, and keep its secret in a cookie that no script can read."""
    service: Service = request.app.state.service
    access: Access = request.app.state.service.access
    if not service.options.needs_token:
        return RedirectResponse("/", 303)
    peer = request.client.host if request.client else "?"
    if _protected(request, service.options) and request.url.scheme != "https":
        # The browser would drop the cookie without a word.
        return _page("Logging in needs HTTPS: serve with --ssl-certfile, or behind a proxy with --behind-proxy.", 403)
    body = (await request.body())[:_FORM_BYTES]
    token = parse_qs(body.decode("utf-8", "replace")).get("token", [""])[0].strip()
    secret = await service.call(access.log_in, token.encode("utf-8", "replace"), peer)
    if secret is None:
        if wait := access.refused(peer):
            return _page(f"Too many wrong tokens; try again in {wait} s.", 429, {"Retry-After": str(wait)})
        return _page("This token is wrong, revoked or expired. `evertrain token create` makes a new one.", 401)
    answer = RedirectResponse("/", 303)
    answer.set_cookie(
        cookie_name(service.options), secret, int(SESSION.total_seconds()), path="/", httponly=True, samesite="strict",
        secure=_protected(request, service.options),
    )  # fmt: skip
    return answer


@pages.post("/logout")
async def log_out(request: Request) -> Response:
    """End the session of this browser."""
    service: Service = request.app.state.service
    access: Access = request.app.state.service.access
    name = cookie_name(service.options)
    secret = cookie(request.headers.get("cookie", "").encode("latin-1"), name)
    if secret:
        await service.call(access.log_out, secret)
    answer = RedirectResponse("/login", 303)
    secure = _protected(request, service.options)
    answer.delete_cookie(name, path="/", httponly=True, samesite="strict", secure=secure)
    return answer


class TokenWanted(Body):
    """A token to be made."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"role": "viewer", "expires": "90d"}]})

    role: Role = Field(strict=False, description="viewer reads and predicts, operator trains, admin does everything")
    expires: str = Field(use.EXPIRES, max_length=40, description="a duration such as 90d, or never")
    name: str | None = Field(None, max_length=64, description="for the log; else the role's, with a number")


@tokens.get("", operation_id="list_tokens", responses=shown({"items": [_TOKEN], "next": None}))
async def every(request: Request) -> dict[str, Any]:
    """List all tokens, also revoked and expired ones, without their secrets."""
    service: Service = request.app.state.service
    return {"items": [_told(one) for one in await service.call(use.every, service.opened)], "next": None}


@tokens.post(
    "",
    status_code=201,
    operation_id="create_token",
    responses=shown({**_TOKEN, "secret": "shown once"}, 201, "Created."),
)
async def create(request: Request, wanted: TokenWanted) -> dict[str, Any]:
    """Create a token; `secret` is shown in this answer and never again."""
    service: Service = request.app.state.service
    actor = request.state.caller.name
    token, secret = await service.call(
        use.create, service.opened, wanted.role, wanted.expires, wanted.name, actor=actor
    )
    return {**_told(token), "secret": secret}


@tokens.delete("/{id}", operation_id="revoke_token", responses=shown(_TOKEN, text="Revoked."))
async def revoke(request: Request, id: TokenId) -> dict[str, Any]:  # noqa: A002 - the name in the path
    """Revoke a token: it and the sessions begun with it are worth nothing from now on."""
    service: Service = request.app.state.service
    access: Access = request.app.state.service.access
    token = await service.call(use.revoke, service.opened, id, actor=request.state.caller.name)
    await service.call(access.look)
    return _told(token)


def _page(problem: str | None, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    from evertrain.dashboard import login_page

    return HTMLResponse(login_page(problem), status, headers)


def _protected(request: Request, options: Options) -> bool:
    return request.url.scheme == "https" or not options.loopback


def _told(token: Token) -> dict[str, Any]:
    return {
        "id": token.id, "name": token.name, "role": str(token.role), "ends": token.ends,
        "created_at": to_text(token.created_at), "created_by": token.created_by,
        "expires_at": to_text(token.expires_at) if token.expires_at else None,
        "revoked_at": to_text(token.revoked_at) if token.revoked_at else None,
    }  # fmt: skip


router = APIRouter()
router.include_router(pages)
router.include_router(tokens)
