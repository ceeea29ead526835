"""Routes that take what they are sent strictly, and do what is repeated with one `Idempotency-Key` once."""

from __future__ import annotations

import hashlib
import json
import math
import secrets
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
from fastapi import HTTPException, Request, Response
from fastapi.dependencies.utils import get_flat_params
from fastapi.params import Query
from fastapi.routing import APIRoute

from evertrain.errors import ConfigError
from evertrain.server.service import Service
from evertrain.store import requests
from evertrain.store.connect import Tx, with_it
from evertrain.store.tokens import Caller

_WAIT_S, _POLL_S = 20.0, 0.1
_KEY = 255  # characters
_FIELDS = 1000  # of one JSON object
_KEPT_HEADERS = ("content-type", "location", "x-model-version")

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class StrictRequest(Request):
    """A request whose JSON is taken strictly: no NaN, no infinite number, no name twice, no half of a character."""

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            body = await self.body()
            try:
                self._json = parse(body)
            except RecursionError:
                raise HTTPException(422, "the body: JSON is nested too deeply") from None
            except ValueError as error:
                raise HTTPException(422, f"the body is not valid JSON: {error}") from None
        return self._json


def parse(body: bytes) -> Any:
    """Return what strict JSON says.

    Raises:
        ValueError: it is none.

    >>> parse(b'[1, 1e999]')
    Traceback (most recent call last):
    ValueError: 1e999 is no finite number
    """
    found = json.loads(body, parse_constant=_refuse, parse_float=_finite, parse_int=_whole, object_pairs_hook=_named)
    if b"\\ud" in body.lower():  # an escape that may be half of a character, which no encoding can store
        try:
            json.dumps(found, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("a text holds half of a character (a lone surrogate)") from None
    return found


def _refuse(text: str) -> Any:
    raise ValueError(f"{text} is no finite number")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)


def _whole(text: str) -> int:
    if len(text) > 19 or not -(2**63) <= (value := int(text)) < 2**63:
        raise ValueError(f"{text[:30]} is a whole number of more than 64 bits")
    return value


def _named(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has a name twice")
    if len(found) > _FIELDS:
        raise ValueError(f"an object has {len(found):,} names; at most {_FIELDS:,} are read")
    return found


class Route(APIRoute):
    """A route that refuses query parameters it does not know, and JSON that is not strict.

    Where its description names the header `Idempotency-Key`, what is sent again with the same key is done once.
    """

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()
        known = {one.alias for one in get_flat_params(self.dependant) if isinstance(one.field_info, Query)}
        described = {one.get("name") for one in (self.openapi_extra or {}).get("parameters", ())}

        async def strictly(request: Request) -> Response:
            strict = StrictRequest(request.scope, request.receive)
            if "partition" not in described and (strange := [one for one in request.query_params if one not in known]):
                raise ConfigError("query parameter", strange[0][:60], ", ".join(sorted(known)) or "none here")
            key = request.headers.get("idempotency-key") if "Idempotency-Key" in described else None
            return await (handle(strict) if key is None else once(strict, key, handle))

        return strictly


async def once(request: Request, key: str, handle: Handler) -> Response:
    """Return the answer to a request: by handling it, or the one that was given before."""
    if not (0 < len(key) <= _KEY and key.isascii() and key.isprintable()):
        raise ConfigError("Idempotency-Key", key[:60], f"1 to {_KEY} printable ASCII characters")
    service: Service = request.app.state.service
    claim = requests.Claim(_caller(request.state.caller), key, secrets.token_hex(16))
    digest = await _digest(request)
    found = await _begun(service, claim, digest)
    if isinstance(found, requests.Answer):
        return Response(found.body, found.status, {**found.headers, "Idempotency-Replayed": "true"})
    if isinstance(found, requests.Done):
        return _done(found)
    token = with_it.set(lambda tx: requests.mark(tx, claim))
    try:
        response = await handle(request)
    except BaseException:
        await _end(service, lambda tx: requests.release(tx, claim))
        raise
    finally:
        with_it.reset(token)
    if response.status_code >= 400:
        await _end(service, lambda tx: requests.release(tx, claim))
        return response
    kept = {name: value for name, value in response.headers.items() if name in _KEPT_HEADERS}
    given = requests.Answer(response.status_code, kept, bytes(response.body))
    await _end(service, lambda tx: requests.answer(tx, claim, given))
    return response


def _caller(caller: Caller) -> str:
    return caller.name if caller.token_id is None else f"token {caller.token_id}"


async def _digest(request: Request) -> str:
    said = [request.method, request.url.path, request.url.query, request.headers.get("content-type", "")]
    return hashlib.sha256("\n".join(said).encode("utf-8", "replace") + b"\n" + await request.body()).hexdigest()


async def _begun(
    service: Service, claim: requests.Claim, digest: str
) -> requests.Claim | requests.Answer | requests.Done:
    def begin() -> requests.Claim | requests.Answer | requests.Done | None:
        with service.opened.store.write() as tx:
            return requests.begin(tx, claim, digest)

    def look() -> tuple[bool, requests.Answer | requests.Done | None]:
        with service.opened.store.read() as tx:
            return requests.look(tx, claim, digest)

    with anyio.move_on_after(_WAIT_S):
        while True:
            found = await service.call(begin)
            if found is not None:
                return found
            busy, known = True, None
            while busy:
                await anyio.sleep(_POLL_S)
                busy, known = await service.call(look)
            if known is not None:
                return known
    raise HTTPException(
        409, "the first request with this Idempotency-Key is still being done; ask again", {"Retry-After": "5"}
    )


def _done(found: requests.Done) -> Response:
    body = {
        "done_at": found.at,
        "run": found.run,
        "detail": "this request was done; the process that would have answered it ended before it could",
    }
    headers = {} if found.run is None else {"Location": f"/api/v1/runs/{found.run}"}
    return Response(json.dumps(body), 200, {**headers, "Idempotency-Replayed": "true"}, "application/json")


async def _end(service: Service, write: Callable[[Tx], None]) -> None:
    def ended() -> None:
        with service.opened.store.write() as tx:
            write(tx)

    with anyio.CancelScope(shield=True):  # whoever asked may be gone; the answer is kept all the same
        await service.call(ended)
