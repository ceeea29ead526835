"""The guard before every route: whose address this is, who asks, what they may do, and how much is taken from them.

Pure ASGI, and memory only for who is known: it stands before every forecast that is read. Each answer, of whatever
part of the service, leaves through it and gets the headers that protect a browser.
"""

from __future__ import annotations

import logging
import re
import traceback
from collections import Counter
from collections.abc import Callable
from http import HTTPStatus
from urllib.parse import unquote_to_bytes

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from evertrain import dashboard
from evertrain.errors import ConfigError, StoreError
from evertrain.partitions import printable
from evertrain.server import limits, rights
from evertrain.server.access import SESSION, Access
from evertrain.server.limits import Body, Cut, Limiter
from evertrain.server.problems import PROTECTION, Headers, problem
from evertrain.server.rights import PUBLIC, Route
from evertrain.server.service import Options
from evertrain.store.tokens import Caller, Role

logger = logging.getLogger("evertrain")

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
# Two of these in one request are two readings of it: ours, and that of a proxy before us.
_SINGLE = frozenset({
    b"host", b"origin", b"content-length", b"content-type", b"transfer-encoding", b"content-encoding",
    b"sec-fetch-site", b"sec-fetch-mode", b"sec-fetch-dest",
})  # fmt: skip
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_-]+(?:\.[a-z0-9_-]+)*)(?::([0-9]{1,5}))?")
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
_PORTS = {"http": "80", "https": "443"}
# One spelling of each path: nothing escaped that needs no escape (RFC 3986, 2.3), no slash or control character hidden.
_ODD_PATH = re.compile(
    rb"//|/\.{1,2}(?:/|$)|[;\\\x00-\x20\x7f-\xff]|%(?![0-9A-Fa-f]{2})"
    rb"|%(?:2[DdEeFf]|5[CcFf]|7[EeFf]|3[0-9]|[46][1-9A-Fa-f]|[57][0-9Aa]|[01][0-9A-Fa-f])"
)
_CLOSE = (b"connection", b"close")
_FORM_BYTES = 4096
_GONE = 499  # what others, too, write to their logs where the client left first
_PREFLIGHT: Headers = [
    (b"access-control-allow-methods", b"GET, POST, PATCH, DELETE"),
    (b"access-control-allow-headers", b"Authorization, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID"),
    (b"access-control-max-age", b"600"),
    (b"cache-control", b"no-store"),
    (b"content-length", b"0"),
]
_WHO = "show a token: `Authorization: Bearer evt_…`, or log in at /login; `evertrain token create` makes one"


class Refused(Exception):
    """The guard's own answer to a request."""

    def __init__(self, status: int, detail: str, *headers: tuple[bytes, bytes]) -> None:
        self.status, self.detail, self.headers = status, detail, headers
        super().__init__(detail)


class NotForYou(Refused):
    """The guard's own answer to somebody it knows; people get it as a page."""

    def __init__(self, caller: Caller, status: int, detail: str, *headers: tuple[bytes, bytes]) -> None:
        self.caller = caller
        super().__init__(status, detail, *headers)


class Guard:
    """Stands before an application.

    Args:
        on_answer: called with the status of every answer.

    Attributes:
        refused: how many requests were answered by the guard itself, by status.

    Raises:
        ConfigError: an allowed origin or host is none.
    """

    def __init__(
        self, app: ASGIApp, access: Access, options: Options, on_answer: Callable[[int], None] = lambda _: None
    ) -> None:
        self.app, self.access, self.options, self._on_answer = app, access, options, on_answer
        self.refused: Counter[int] = Counter()
        bound = f"[{options.host}]" if ":" in options.host else options.host
        self._hosts = _LOOPBACK | {_host_name(name) for name in options.allowed_hosts}
        if not options.wildcard:
            self._hosts |= {bound.lower()}
        self._origins = frozenset(_origin(one) for one in options.cors_origins)
        self._writes = Limiter(limits.WRITES_A_MINUTE)
        self._cookie = cookie_name(options)
        self._foreign = "a page of another origin asks; --cors-origin allows one"
        if options.behind_proxy:
            self._foreign += "; or the proxy does not pass on the Host header that it got"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # nothing here speaks WebSocket
            await send({"type": "websocket.close", "code": 1008})
            return
        answer = _Answer(send)
        try:
            found = _headers(scope)
            origin = self._check_where_from(scope, found)
            if origin is not None and scope["method"] == "OPTIONS":
                await answer.whole(204, [*_PREFLIGHT, *_allowing(origin)], b"")
                return
            route, caller = await self._check_who(scope, found)
            body = self._check_what(scope, found, route, caller, receive)
        except Refused as refusal:
            self.refused[refusal.status] += 1
            self._on_answer(refusal.status)
            # Nobody reads a body that was refused, however much of it is still to come.
            pending = _has_body(dict(scope["headers"])) and _CLOSE not in refusal.headers
            headers = [*refusal.headers, *([_CLOSE] if pending else [])]
            if isinstance(refusal, NotForYou) and _is_page(scope, found):
                own = dashboard.error_page(
                    refusal.status, HTTPStatus(refusal.status).phrase, refusal.detail, refusal.caller
                ).encode()
                headers += [(b"content-type", b"text/html; charset=utf-8"), (b"content-length", b"%d" % len(own))]
                await answer.whole(refusal.status, [*headers, (b"cache-control", b"no-store")], own)
                return
            await answer.whole(refusal.status, *problem(refusal.status, refusal.detail, headers))
            return
        if caller is not None:
            scope.setdefault("state", {})["caller"] = caller
        answer.more = _allowing(origin) if origin is not None else []
        answer.cache = b"no-cache" if route.revalidated else b"no-store"
        answer.body = body
        await self._pass_on(scope, receive if body is None else body.receive, answer)
        self._on_answer(answer.status)
        if (
            not route.routine
            and caller is not None
            and scope["method"] not in _SAFE
            and answer.status not in (401, 403)
        ):
            self.access.later(self.access.keep, caller, scope["method"], scope["path"], answer.status, _peer(scope))

    async def _pass_on(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        try:
            await self.app(scope, receive, answer.send)
        except ClientDisconnect:
            answer.status = answer.status or _GONE  # nobody is left to answer, and it is no failure of ours
            return
        except Exception as error:
            cut = answer.body.cut if answer.body else None
            if cut is None and not isinstance(error, Cut):
                told = "".join(traceback.format_exception(error))
                logger.error("a request failed: %s %s\n%s", scope["method"], scope["path"][:200], told)
            if answer.complete:
                return
            if answer.status:
                raise  # half an answer is on its way: only the end of the connection tells that it is no whole one
            if cut is None:
                await answer.whole(500, *problem(500, "something failed that should not have; the log says what"))
        if answer.body and answer.body.cut and not answer.status:
            cut = answer.body.cut
            await answer.whole(cut.status, *problem(cut.status, cut.detail, [_CLOSE]))

    # --- whose address, from which page ----------------------------------------------------------------------------

    def _check_where_from(self, scope: Scope, found: dict[bytes, bytes]) -> str | None:
        """Return the origin of a page of others that may read the answer; None where the page is ours, or there is none.

        Raises:
            Refused: for another host, or from a page that may not ask.
        """
        path = scope.get("raw_path") or b"/"
        if _ODD_PATH.search(path) or not path.startswith(b"/") or (b"%" in path and not _is_text(path)):
            raise Refused(400, "this path has another, plain spelling; use that")
        host = self._check_host(scope, found)
        origin, site = found.get(b"origin"), found.get(b"sec-fetch-site")
        if origin is not None and origin.decode("latin-1") in self._origins:
            return origin.decode("latin-1")
        method = scope["method"]
        ours = origin is None or self._is_ours(origin.decode("latin-1"), scope["scheme"], host)
        if not ours and b"authorization" in found and method != "OPTIONS":
            ours = True  # no page of others can know a token, and none gets the answer to read
        if not ours:
            raise Refused(403, self._foreign)
        if site is not None and site not in (b"same-origin", b"none") and b"authorization" not in found:
            followed = found.get(b"sec-fetch-mode") == b"navigate" and found.get(b"sec-fetch-dest") == b"document"
            if method not in _SAFE or not followed:
                raise Refused(403, self._foreign)
        if (
            method not in _SAFE
            and origin is None
            and site is None
            and b"cookie" in found
            and b"authorization" not in found
        ):
            raise Refused(403, "a request with a cookie must say from which page it comes: Origin is missing")
        return None

    def _check_host(self, scope: Scope, found: dict[bytes, bytes]) -> str:
        # A page of others can make its own name lead here (DNS rebinding); then only this header tells.
        host = found.get(b"host", b"").decode("latin-1").lower()
        match = _HOST.fullmatch(host)
        if match is None:
            raise Refused(400, "one Host header with a plain name is needed")
        if match[1] in self._hosts:
            return host
        server = scope.get("server")
        if server and match[1] == (f"[{server[0]}]" if ":" in server[0] else server[0]):
            return host  # the very address of this connection: no name that could lead elsewhere
        raise Refused(421, f"{printable(match[1])[:100]} is not served here; --allowed-host adds a name")

    def _is_ours(self, origin: str, scheme: str, host: str) -> bool:
        own, _, place = origin.partition("://")
        if own != scheme and not (own == "https" and self.options.behind_proxy):
            return False
        default = f":{_PORTS.get(own, '')}"
        return place.removesuffix(default) == host.removesuffix(default)

    # --- who, and may they -------------------------------------------------------------------------------------------

    async def _check_who(self, scope: Scope, found: dict[bytes, bytes]) -> tuple[Route, Caller | None]:
        """Return the row of the table for a request, and who makes it; nobody where the route is public.

        Raises:
            Refused: nobody known, or nobody who may; or there is no such route.
        """
        method = scope["method"]
        routes = rights.find(scope["path"])
        route = routes.get("GET" if method == "HEAD" else method)
        if route is not None and route.right is PUBLIC:
            return route, None
        caller = await self._caller(scope, found)
        if caller is None:
            if _is_page(scope, found) or (route is not None and route.takes == rights.FORM):
                raise Refused(303, "log in first", (b"location", b"/login"))
            raise Refused(401, _WHO, (b"www-authenticate", b"Bearer"))
        if route is None:
            if routes:
                raise NotForYou(
                    caller, 405, f"{method} is nothing here", (b"allow", ", ".join(sorted(routes)).encode())
                )
            raise NotForYou(caller, 404, f"{printable(scope['path'])[:200]} is not here")
        if not isinstance(route.right, Role) or not caller.role.covers(route.right):
            raise NotForYou(
                caller, 403, f"this needs the role {route.right}; {printable(caller.name)} is {caller.role}"
            )
        return route, caller

    async def _caller(self, scope: Scope, found: dict[bytes, bytes]) -> Caller | None:
        shown = found.get(b"authorization")
        try:
            if shown is not None:
                scheme, _, secret = shown.partition(b" ")
                given = secret if scheme.lower() == b"bearer" else b""
                return self.access.known(given) or await self._by_token(given, _peer(scope))
            session = cookie(found.get(b"cookie", b""), self._cookie)
            if session is not None:
                shown = SESSION + session.encode()
                known = self.access.known(shown) or await self.access.ask(self.access.of_session, shown)
                if known is not None:
                    return known
        except StoreError as error:
            logger.warning("nobody new can be let in: %s", error)
            detail = "who asks cannot be looked up now; who was known a moment ago is answered on"
            raise Refused(503, detail, (b"retry-after", b"5")) from error
        return self.access.local

    async def _by_token(self, secret: bytes, peer: str) -> Caller:
        caller = await self.access.ask(self.access.of_token, secret)
        if caller is not None:
            return caller
        if wait := self.access.refused(peer):
            raise Refused(429, "too many wrong tokens from this address", (b"retry-after", b"%d" % wait))
        raise Refused(401, _WHO, (b"www-authenticate", b"Bearer"))

    # --- how much ----------------------------------------------------------------------------------------------------

    def _check_what(
        self, scope: Scope, found: dict[bytes, bytes], route: Route, caller: Caller | None, receive: Receive
    ) -> Body | None:
        """Return what receives the body within its limits, None where there is no body.

        Raises:
            Refused: the body is too large or of the wrong kind, or there were too many requests.
        """
        if caller is not None and caller.token_id is not None and scope["method"] not in _SAFE and not route.routine:
            wait = self._writes.wait(caller.token_id, self.access.boottime())
            if wait:
                detail = f"more than {limits.WRITES_A_MINUTE} requests a minute that change something; reads go on"
                raise Refused(429, detail, (b"retry-after", b"%d" % wait))
        if not _has_body(found):
            return None
        if scope["method"] in _SAFE:
            raise Refused(400, f"{scope['method']} takes no body")
        if b"content-encoding" in found:
            raise Refused(415, "a body is taken as it is: no Content-Encoding")
        kind = found.get(b"content-type", b"").partition(b";")[0].strip().lower().decode("latin-1")
        if kind not in route.takes:
            raise Refused(
                415, f"Content-Type {printable(kind)[:100] or 'is missing'}; allowed: {', '.join(route.takes)}"
            )
        limit = self.options.upload_bytes if route.upload else self.options.body_bytes
        if route.takes == rights.FORM:  # a token and nothing else, from anybody
            limit = min(limit, _FORM_BYTES)
        if int(found.get(b"content-length", b"0")) > limit:
            raise Refused(413, limits.too_large(limit).detail)
        return Body(receive, limit)


class _Answer:
    """Sends an answer with the headers that every answer has, and knows how far it has come."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status, self.complete = 0, False
        self.cache = b"no-store"
        self.more: Headers = []
        self.body: Body | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if self.body is not None and self.body.cut and not self.status:
                return  # what the application makes of half a body is not the reason
            self.status = message["status"]
            headers = [*message.get("headers", ()), *PROTECTION, *self.more]
            if not any(name == b"cache-control" for name, _ in headers):
                headers.append((b"cache-control", self.cache))
            if self.body is not None and self.body.more:
                headers.append(_CLOSE)  # nobody reads the rest
            message = {**message, "headers": headers}
        elif not self.status:
            return
        elif not message.get("more_body", False):
            self.complete = True
        await self._send(message)

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """Send an answer of the guard's own."""
        self.status, self.complete = status, True
        await self._send({"type": "http.response.start", "status": status, "headers": [*headers, *PROTECTION]})
        await self._send({"type": "http.response.body", "body": body})


def cookie_name(options: Options) -> str:
    """Return the name of the cookie of a session: cookies know no ports, so two services on one machine need two."""
    return f"evertrain_{options.port}"


def cookie(header: bytes, name: str) -> str | None:
    """Return one value of a Cookie header.

    >>> cookie(b"a=1; evertrain_8000=xyz", "evertrain_8000")
    'xyz'
    """
    for part in header.decode("latin-1").split(";"):
        own, equals, value = part.strip().partition("=")
        if equals and own == name:
            return value
    return None


def _headers(scope: Scope) -> dict[bytes, bytes]:
    """Return the headers by name.

    Raises:
        Refused: there are too many or too large ones, or such as can be read in two ways.
    """
    if scope["type"] == "http" and len(scope.get("raw_path") or b"") + len(scope["query_string"]) > limits.URL_BYTES:
        raise Refused(414, f"the address is longer than {limits.URL_BYTES >> 10} KiB", _CLOSE)
    if scope["query_string"].count(b"&") >= limits.QUERY_PARAMETERS:
        raise Refused(400, f"more than {limits.QUERY_PARAMETERS} parameters in the address", _CLOSE)
    found: dict[bytes, bytes] = {}
    size = 0
    for name, value in scope["headers"]:
        size += len(name) + len(value)
        if name not in found:
            found[name] = value
        elif name in _SINGLE:
            raise Refused(400, f"more than one header {name.decode('latin-1')}", _CLOSE)
        elif name == b"authorization":
            found[name] = b""  # of two neither counts
        else:
            found[name] += (b"; " if name == b"cookie" else b", ") + value
    if size > limits.HEAD_BYTES or len(scope["headers"]) > limits.HEADERS:
        detail = f"more than {limits.HEADERS} headers, or more than {limits.HEAD_BYTES >> 10} KiB of them"
        raise Refused(431, detail, _CLOSE)
    length, coding = found.get(b"content-length"), found.get(b"transfer-encoding")
    if (length is not None and not (length.isdigit() and len(length) < 19)) or (
        coding is not None and (coding.lower() != b"chunked" or length is not None)
    ):
        # Where a proxy before us reads one of them and we the other, a body becomes a request (RFC 9112, 6.3).
        raise Refused(
            400, "the length of the body cannot be told: one Content-Length, or Transfer-Encoding: chunked", _CLOSE
        )
    return found


def _is_page(scope: Scope, found: dict[bytes, bytes]) -> bool:
    """Return whether a person looks at the answer."""
    return (
        scope["method"] == "GET"
        and b"text/html" in found.get(b"accept", b"")
        and not scope["path"].startswith(("/api/", "/static/"))
    )


def _has_body(found: dict[bytes, bytes]) -> bool:
    return b"transfer-encoding" in found or found.get(b"content-length", b"0").strip(b"0") != b""


def _is_text(path: bytes) -> bool:
    try:
        unquote_to_bytes(path).decode()
    except UnicodeDecodeError:
        return False
    return True


def _peer(scope: Scope) -> str:
    return str(scope["client"][0]) if scope.get("client") else "?"


def _allowing(origin: str) -> Headers:
    return [
        (b"access-control-allow-origin", origin.encode()),
        (b"access-control-expose-headers", b"ETag, Location, Retry-After, X-Model-Version, X-Trained-At"),
        (b"vary", b"Origin"),
    ]


def _host_name(name: str) -> str:
    found = _HOST.fullmatch(name.lower())
    if found is None or found[2]:
        raise ConfigError("--allowed-host", name, "a name without port, such as models.example.com")
    return found[1]


def _origin(text: str) -> str:
    scheme, _, place = text.partition("://")
    if scheme not in _PORTS or not _HOST.fullmatch(place):
        raise ConfigError("--cors-origin", text, "one exact origin, such as https://intranet.example.com")
    return text
