"""What an attacker sends, row by row of the attack list: refused, nothing changed, and the next request works.

Each input is a parameter. What only shows on the wire is in test_slow_clients.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest
from fastapi import APIRouter
from scipy import stats

from evertrain.cli.logs import log_to
from evertrain.control import access as use
from evertrain.control.opened import open_project, reload
from evertrain.errors import ConfigError
from evertrain.events import Kind
from evertrain.server import limits
from evertrain.server.access import Access
from evertrain.server.guard import Guard
from evertrain.server.problems import PROTECTION
from evertrain.server.rights import PUBLIC, RIGHTS, UPLOADS
from evertrain.server.service import Options, Service
from evertrain.store import log
from evertrain.store.tokens import Caller, Role

from .conftest import TOYS, write_rows
from .http_kit import Answer, Wire, kept, wired
from .test_access import all_routers, plain

OURS = [("origin", "http://127.0.0.1:8000")]
JSON = ("content-type", "application/json")
DECLARED = """
name = "shop"
executor = "inline"

[sources.rows]
path = "rows.csv"

[models.line]
source = "rows"
target = "y"
features = ["x"]
trainer = "toys:Line"
min_samples = 10
"""


class Target:
    """The real application over a small project, and whether anything of it changed."""

    def __init__(self, served: Service, guard: Guard, wire: Wire) -> None:
        self.served, self.guard, self.wire = served, guard, wire
        # Also warms up what is made once, such as the pages of the API.
        described = wire("GET", "/api/v1/openapi.json").json["paths"] if wire("GET", "/api/docs").status == 200 else {}
        self.parameters = {
            plain(path): {one["name"] for one in methods.get("get", {}).get("parameters", ()) if one["in"] == "query"}
            for path, methods in described.items()
        }
        self._before: object = None
        self._watch = sqlite3.connect(served.opened.store.path)
        self._commits = -1

    def remember(self) -> None:
        if self._commits != (commits := self._watched()):
            self._before, self._commits = self._state(), commits

    def is_unharmed(self) -> None:
        if self._commits != self._watched():  # else nobody has written anything at all
            assert self._state() == self._before
        assert self.wire("GET", "/health").status == 200

    def close(self) -> None:
        self._watch.close()

    def _watched(self) -> int:
        return int(self._watch.execute("PRAGMA data_version").fetchone()[0])

    def _state(self) -> object:
        root = self.served.opened.home.root
        files = {
            str(path.relative_to(root)): path.stat().st_size
            for path in root.rglob("*")
            if path.is_file() and not path.name.endswith((".db", ".db-wal", ".db-shm", ".log"))
        }
        return kept(self.served.opened.store), files


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as found:
        yield found


def _served(root: Path, options: Options, runner: asyncio.Runner, routers: tuple[APIRouter, ...]) -> Iterator[Target]:
    (root / "toys.py").write_text(TOYS.read_text())
    (root / "evertrain.toml").write_text(DECLARED)
    write_rows(root / "rows.csv", 40)
    opened = open_project(root, actor="ana")
    reload(opened)
    served = Service(opened, options)
    try:
        with wired(served, runner, routers) as (guard, wire), closing(Target(served, guard, wire)) as found:
            yield found
    finally:
        served.close()


@pytest.fixture(scope="module")
def module_target(tmp_path_factory: pytest.TempPathFactory, runner: asyncio.Runner) -> Iterator[Target]:
    yield from _served(tmp_path_factory.mktemp("open"), Options(), runner, all_routers())


@pytest.fixture
def target(module_target: Target) -> Target:
    """The service on loopback, where no token is needed: whoever gets past the guard may do everything."""
    module_target.remember()
    return module_target


@pytest.fixture(scope="module")
def module_closed(tmp_path_factory: pytest.TempPathFactory, runner: asyncio.Runner) -> Iterator[Target]:
    yield from _served(tmp_path_factory.mktemp("closed"), Options(require_token=True), runner, all_routers())


@pytest.fixture
def closed(module_closed: Target) -> Target:
    """The service where everybody needs a token."""
    module_closed.remember()
    return module_closed


def is_a_problem(found: Answer, *statuses: int) -> None:
    assert found.status in statuses, found
    assert found.header("content-type") == "application/problem+json", found
    assert {"type", "title", "status", "detail"} <= set(found.json)
    assert found.json["status"] == found.status
    assert b"Traceback" not in found.body
    assert b"/src/evertrain" not in found.body
    is_protected(found)


def is_protected(found: Answer) -> None:
    """A-15."""
    for name, value in PROTECTION:
        assert found.header(name.decode()) == value.decode(), name
    assert found.header("cache-control")


# --- 3.1 who may do what ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/api/v1/tokens/1", [("x-http-method-override", "DELETE")]),
        ("POST", "/api/v1/tokens/1", [("x-http-method-override", "DELETE")]),
        ("POST", "/api/v1/tokens/1?_method=DELETE", []),
        ("GET", "/api/v1/tokens/1?_method=DELETE", [("x-method-override", "DELETE")]),
        ("TRACE", "/api/v1/tokens", []),
        ("delete", "/api/v1/tokens/1", []),
        ("PROPFIND", "/api/v1/tokens", []),
        ("PATCH", "/api/v1/tokens/1", []),
        ("GET\x00", "/api/v1/tokens", []),
    ],
)
def test_a_method_is_what_the_first_line_says(target, method, path, headers):
    """A-06"""
    token, _ = use.create(target.served.opened, "viewer", actor="ana")
    target.remember()
    is_a_problem(target.wire(method, path.replace("/1", f"/{token.id}"), headers), 404, 405)
    target.is_unharmed()


PATHS = [
    "//api/v1/tokens", "/api/v1/tokens/", "/API/v1/tokens", "/api/v1/./tokens", "/health/../api/v1/tokens",
    "/static/../api/v1/tokens", "/api/v1/tokens;x=1", "/api/v1/tokens%2f", "/%61pi/v1/tokens", "/api/v1//tokens",
    "/api/v1/tokens%00", "/api/v1/tokens%20", "/api%2fv1%2ftokens", "/api\\v1\\tokens", "/api%5cv1%5ctokens",
    "/login/../api/v1/tokens", "/health/%2e%2e/api/v1/tokens", "/.%2e/api/v1/tokens", "/api/v1/tokens/.", "/api/v1/tokens/..",
    "/api/v1/x/../tokens", "/api/v1/tokens%3f", "/api/v1/tokens%23", "/api/v1/tokens/%2e", "/health;/../api/v1/tokens", "",
    "api/v1/tokens", "/api/v1/tokens\r\nX: 1", "/api/v1/tokens%0d%0aX:1", "/api/v1/tok\x65ns%", "/api/v1/tokens%zz",
    "/api/v1/t%c0%afkens", "/api/v1/%E2%80%8Btokens", "/health%2f..%2fapi/v1/tokens", "/api/v1/tokens..", "*",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_each_path_has_one_spelling(target, closed, path):
    """A-07: never 200 without a token; and with every right no second spelling of it."""
    is_a_problem(closed.wire("GET", path), 400, 401, 404)
    is_a_problem(target.wire("GET", path), 400, 404)
    closed.is_unharmed()


@pytest.mark.parametrize("number", ["0", "-1", str(2**63), "1e9", "01", "%201", "1.0", "0x1", "9" * 400, "a", "½", "١"])
def test_the_number_of_nothing_is_the_number_of_nothing(target, number):
    """A-05: one answer for all that is not there."""
    path = f"/api/v1/tokens/{quote(number, safe='%')}"
    is_a_problem(target.wire("DELETE", path), 404, 422)
    target.is_unharmed()


# --- 3.2 the browser as the attacker --------------------------------------------------------------------------------

GOOD_HOSTS = ["127.0.0.1:8000", "localhost:8000", "localhost", "[::1]:8000", "LOCALHOST:8000", "127.0.0.1:9999"]
BAD_HOSTS = [
    "evil.example", "127.0.0.1.evil.example", "localhost:1@evil", "localhost.", "", " ", "evil.example:8000", "localhost:",
    "localhost:80a", "localhost:999999", "[::2]", "[::1", "::1", "0", "0.0.0.0", "127.1", "2130706433", "127.0.0.2",
    "localhost,evil.example", "evil.example localhost", "localhost/evil", "localhost#", "localhost\t", "löcalhost", "-",
    "http://localhost", "xn--lcalhost-n4a", "localhost\x00", "a" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("host", GOOD_HOSTS)
def test_a_name_of_this_machine_is_served(target, host):
    """A-10: upper case is the same name (RFC 9110, 4.2.3), and a tunnel has a port of its own."""
    assert target.wire("GET", "/api/v1/tokens", [("host", host)], host=False).status == 200


@pytest.mark.parametrize("host", BAD_HOSTS)
@pytest.mark.parametrize("path", ["/api/v1/tokens", "/health", "/static/style.css", "/api/v1/events/live", "/"])
def test_a_name_that_is_not_ours_is_refused(target, host, path):
    """A-10: a page of others that rebinds its own name to this machine (DNS rebinding)."""
    is_a_problem(target.wire("GET", path, [("host", host)], host=False), 400, 421)


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
def test_no_host_or_two_are_refused(target, method):
    """A-10"""
    is_a_problem(target.wire(method, "/api/v1/tokens", host=False), 400)
    is_a_problem(target.wire(method, "/api/v1/tokens", [("host", "127.0.0.1:8000")]), 400)
    target.is_unharmed()


def test_names_are_served_that_were_allowed(tmp_path, runner):
    """A-10: elsewhere than on loopback; the address of the connection itself is a name that nobody can rebind."""
    target = next(found := _served(tmp_path, Options("0.0.0.0", allowed_hosts=("Models.example",)), runner, ()))
    for host, status in (
        ("models.example", 200),
        ("models.example:8443", 200),
        ("127.0.0.1", 200),
        ("evil.example", 421),
    ):
        assert target.wire("GET", "/health", [("host", host)], host=False).status == status, host
    found.close()


@pytest.mark.parametrize("name", ["", "*", "a b", "models.example:80", "http://models.example", "*.example"])
def test_an_allowed_host_must_be_a_name(store, name):
    with pytest.raises(ConfigError, match="--allowed-host"):
        Guard(lambda *_: None, Access(store), Options(allowed_hosts=(name,)))


CROSS = [
    [("origin", "https://evil.example")], [("origin", "null")], [("origin", "")], [("origin", "http://127.0.0.1:9000")],
    [("origin", "https://127.0.0.1:8000")], [("origin", "http://localhost:8000")], [("origin", "http://127.0.0.1")],
    [("origin", "http://127.0.0.1:8000.evil.example")], [("origin", "http://127.0.0.1:8000/")], [("origin", "127.0.0.1:8000")],
    [("origin", "http://evil.example@127.0.0.1:8000")], [("origin", "file://")], [("origin", "HTTP://127.0.0.1:8000x")],
    [("sec-fetch-site", "cross-site")], [("sec-fetch-site", "same-site")], [("sec-fetch-site", "same-originx")],
    [*OURS, ("sec-fetch-site", "cross-site")],
    [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")],
    [("cookie", "a=b")], [("cookie", "evertrain_8000=x")],
]  # fmt: skip
CHANGES = [
    ("POST", "/api/v1/tokens", [JSON], b'{"role":"admin"}'),
    ("DELETE", "/api/v1/tokens/1", [], ()),
    ("POST", "/logout", [], ()),
    ("POST", "/login", [("content-type", "application/x-www-form-urlencoded")], b"token=x"),
    ("POST", "/api/v1/models/line/retrain", [JSON], b'{"force":true}'),
    ("POST", "/api/v1/pause", [], ()),
    ("POST", "/retraining/start", [], ()),
    ("POST", "/retrain", [("content-type", "multipart/form-data; boundary=x")], b"--x--"),
    ("PUT", "/api/v1/tokens", [JSON], b"{}"),
    ("PATCH", "/api/v1/tokens", [JSON], b"{}"),
]


@pytest.mark.parametrize("headers", CROSS, ids=lambda headers: " ".join(f"{name}={value}" for name, value in headers))
def test_a_page_of_others_can_change_nothing(target, headers):
    """A-11: on loopback without a token, where only these checks stand before it."""
    for method, path, own, body in CHANGES:
        is_a_problem(target.wire(method, path, [*own, *headers], body), 403)
    target.is_unharmed()


@pytest.mark.parametrize(
    "headers",
    [[*OURS], [*OURS, ("cookie", "a=b")], [("sec-fetch-site", "same-origin"), ("cookie", "a=b")], [("sec-fetch-site", "none")], []],
)  # fmt: skip
def test_our_own_pages_and_programs_can(target, headers):
    """A-11, the other way round."""
    found = target.wire("POST", "/api/v1/tokens", headers, {"role": "nobody"})

    assert found.status == 422


@pytest.mark.parametrize("kind", ["text/plain", "", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded",
                                  "text/json", "application/jsonx", "application/json/x", "text/plain; application/json"])  # fmt: skip
def test_a_form_of_another_page_is_no_json(target, kind):
    """A-11: what a page can send without being asked (a simple request) is not taken, even from nowhere."""
    found = target.wire("POST", "/api/v1/tokens", [("content-type", kind)] if kind else [], b'{"role":"admin"}')

    is_a_problem(found, 415)
    assert "application/json" in found.json["detail"]
    target.is_unharmed()


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:3000", "*"])
def test_no_origin_is_told_that_it_may_read(target, origin):
    """A-12"""
    asks = [("origin", origin), ("access-control-request-method", "POST"), ("access-control-request-headers", "x")]
    for method in ("OPTIONS", "GET", "POST"):
        found = target.wire(method, "/api/v1/tokens", asks)
        is_a_problem(found, 403)
        assert not [name for name, _ in found.headers if name.startswith(b"access-control-")]
        assert origin not in found.body.decode()


def test_an_origin_that_was_allowed_may_call_but_brings_no_cookie(tmp_path, runner):
    """A-12: that one, exactly; never together with credentials."""
    options = Options(cors_origins=("https://intranet.example",))
    target = next(found := _served(tmp_path, options, runner, ()))
    allowed = [("origin", "https://intranet.example"), ("sec-fetch-site", "cross-site")]
    asked = target.wire("OPTIONS", "/api/v1/tokens", [*allowed, ("access-control-request-method", "POST")])
    read = target.wire("GET", "/api/v1/tokens", allowed)
    for one, status in ((asked, 204), (read, 200)):
        assert (one.status, one.header("access-control-allow-origin")) == (status, "https://intranet.example")
        assert one.header("access-control-allow-credentials") is None
        assert one.header("vary") == "Origin"
        is_protected(one)
    for other in ("https://intranet.example.evil", "http://intranet.example", "https://intranet.example:8443"):
        is_a_problem(target.wire("GET", "/api/v1/tokens", [("origin", other)]), 403)
    found.close()


@pytest.mark.parametrize("origin", ["*", "null", "intranet.example", "https://*.example", "https://a.example/path", ""])
def test_an_allowed_origin_must_be_one(store, origin):
    """A-12"""
    with pytest.raises(ConfigError, match="--cors-origin"):
        Guard(lambda *_: None, Access(store), Options(cors_origins=(origin,)))


def test_others_can_neither_frame_a_page_nor_open_a_stream(target):
    """A-13; a link that a person follows still works."""
    cross = ("sec-fetch-site", "cross-site")
    for path in ("/", "/api/v1/tokens", "/api/v1/events/live", "/health", "/static/style.css"):
        for how in (
            [("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")],
            [("sec-fetch-mode", "no-cors")],
            [],
        ):
            is_a_problem(target.wire("GET", path, [cross, *how]), 403)
        is_a_problem(target.wire("GET", path, [("origin", "https://evil.example")]), 403)
    followed = target.wire("GET", "/", [cross, ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")])
    assert followed.status == 200
    assert "frame-ancestors 'none'" in followed.header("content-security-policy")


def test_every_answer_protects_the_browser_that_gets_it(target, closed):
    """A-15: whatever the status, and whoever wrote it."""

    html = [("accept", "text/html")]
    large = [JSON, ("content-length", str(10 << 30))]
    answers = {
        200: [target.wire("GET", "/health"), target.wire("GET", "/"), target.wire("GET", "/static/style.css"),
              closed.wire("GET", "/login", html)],
        303: [closed.wire("GET", "/", html), target.wire("GET", "/login")],
        400: [target.wire("GET", "//")],
        401: [closed.wire("GET", "/"), closed.wire("GET", "/api/v1/tokens")],
        404: [target.wire("GET", "/nothing"), target.wire("GET", "/nothing", html), target.wire("DELETE", "/api/v1/tokens/99")],
        405: [target.wire("PUT", "/health")],
        413: [target.wire("POST", "/api/v1/tokens", large)],
        415: [target.wire("POST", "/api/v1/tokens", [("content-length", "1")], [b"x"])],
        421: [target.wire("GET", "/", [("host", "evil.example")], host=False)],
        422: [target.wire("POST", "/api/v1/tokens", body={})],
        431: [target.wire("GET", "/", [("x", "y" * 17_000)])],
    }  # fmt: skip
    for status, found in answers.items():
        for one in found:
            assert one.status == status
            is_protected(one)
    policy = answers[200][0].header("content-security-policy")
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy


@pytest.mark.parametrize("given", [
    "//evil.example", "/\\evil.example", "https:evil.example", "/%0d%0aSet-Cookie:x=1", "javascript:alert(1)"])  # fmt: skip
def test_nobody_is_sent_where_an_address_says(target, closed, given):
    """A-16: there is no such parameter, and no header of an answer is made of a request."""
    page = [("accept", "text/html")]
    for key in ("next", "url", "redirect", "return_to"):
        assert closed.wire("GET", f"/runs?{key}={quote(given)}", page).header("location") == "/login"
        assert target.wire("GET", f"/login?{key}={quote(given)}", page).header("location") == "/"
    found = target.wire("GET", "/runs", [*page, ("x-forwarded-host", "evil.example"), ("x-forwarded-proto", "gopher")])
    assert b"evil.example" not in found.body


# --- 3.3 names ----------------------------------------------------------------------------------------------------

NAMES = [
    "../x", "../../etc/passwd", "./../x", "x/../y", "/etc/passwd", "//etc/passwd", "//proc/self/root", "..\\..\\x", "\\..\\..\\x",
    "C:x", "C:\\x", "\\\\host\\share", "....//....//x", "%2e%2e%2fx", "%252e%252e%252fx", "..%c0%afx", "..%00/x", "x\0.json",
    "file:///etc/passwd", "http:///#/../../etc/", "http://h/?/../../etc", "x;/../../y", ".", "..", "", " ", "x.", "x ", "~",
    "~root", "-rf", "--help", "CON", "nul.txt", "a:b", "x" * 256, "." * 300, "ｌine", "LINE", "a\u202egpj.csv", "a\nb", "a\x1b[2J",
    "<script>alert(1)</script>", "'; DROP TABLE runs;--", "{{7*7}}", "$(id)", "%s%n", "x" * 7000,
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_a_name_and_never_a_path(target, name):
    """A-20, A-09: in every parameter of every route; raw as far as HTTP takes it, and escaped once."""
    spelled = {quote(name, safe=""), quote(name, safe="/:;%<>'(){}$.*~-")}
    for method, template in RIGHTS:
        if "{" not in template or (method, template) in STREAMS:
            continue
        body = () if method in ("GET", "DELETE") else b"{}"
        kind = [] if body == () else [("content-type", "text/csv") if template in UPLOADS else JSON]
        for one in spelled:
            found = target.wire(method, re.sub(r"\{[^}]*\}", lambda _: one, template), kind, body)
            assert found.status in (400, 404, 405, 409, 414, 415, 422), (method, template, one, found)
            is_protected(found)
            assert b"<script>alert" not in found.body or b"json" in found.header("content-type").encode()
            assert b"root:x:0" not in found.body
    target.is_unharmed()


STREAMS = {("GET", "/api/v1/events/live"), ("GET", "/api/v1/forecasts/events")}


# --- 3.4 bodies and heads ---------------------------------------------------------------------------------------------

ALL_CHANGES = sorted(template for (method, template) in RIGHTS if method == "POST" and template != "/logout")


@pytest.mark.parametrize("template", ALL_CHANGES)
def test_a_body_that_says_it_is_too_large_is_never_asked_for(target, template):
    """A-30: 413 before the first byte is read, so no `100 Continue` is ever sent for it."""
    path = re.sub(r"\{[^}]*\}", "1", template)
    kind = (
        "text/csv" if template in UPLOADS else "application/x-www-form-urlencoded" if template == "/login" else JSON[1]
    )
    for length in (10 << 30, (50 << 20 if template in UPLOADS else 1 << 20) + 1, 10**18 - 1):
        headers = [("content-type", kind), ("content-length", str(length)), ("expect", "100-continue")]
        found = target.wire("POST", path, headers, iter([b"x"]))
        is_a_problem(found, 413)
        assert found.events == []
        assert found.header("connection") == "close"
    target.is_unharmed()


def test_a_body_without_end_is_cut_and_nothing_of_it_kept(target):
    """A-31: chunked, where only counting tells."""
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 65_536
            yield b" " * 65_536

    found = target.wire("POST", "/api/v1/tokens", [JSON, ("transfer-encoding", "chunked")], endless())

    is_a_problem(found, 413)
    assert taken <= (1 << 20) + 3 * 65_536
    assert found.header("connection") == "close"
    target.is_unharmed()


@pytest.mark.parametrize(
    "path", ["/api/v1/tokens", "/api/v1/datasets/rows/batches", "/retrain", "/api/v1/models/line/retrain"]
)
def test_a_client_that_breaks_off_or_is_cut_is_no_failure_of_ours(target, caplog, path):
    """A-31, A-75: nobody fills the log with our errors by what they send, or leave out."""
    kind = "text/csv" if path in ("/api/v1/datasets/rows/batches", "/retrain") else JSON[1]
    scope_of = [("content-type", kind), ("transfer-encoding", "chunked")]
    endless = target.wire("POST", path, scope_of, (b"x,y\n1,2\n" * 8192 for _ in range(10_000)))
    target.wire("POST", path, scope_of, [b"half", None])

    assert endless.status in (404, 413, 415, 422), endless
    assert [one for one in caplog.records if one.levelno >= logging.ERROR] == []
    target.is_unharmed()


def test_a_limit_is_exact(target):
    """A-31: one byte below it, and one above, declared or not."""
    head = b'{"role":"nobody","more":"'
    for extra, status in ((0, 422), (1, 413)):
        body = head + b"x" * ((1 << 20) - len(head) - 2 + extra) + b'"}'
        assert target.wire("POST", "/api/v1/tokens", [JSON], body).status == status
        chunked = [JSON, ("transfer-encoding", "chunked")]
        assert target.wire("POST", "/api/v1/tokens", chunked, [body[:70_000], body[70_000:]]).status == status


def test_a_body_that_stalls_or_drips_is_ended_with_408(store, runner, monkeypatch):
    """A-31: nothing for as long as that, or a byte now and then for ever."""
    monkeypatch.setattr(limits, "STALL_S", 0.1)
    monkeypatch.setattr(limits, "GRACE_S", 0.3)

    async def reads(scope, receive, send) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"all of it"})

    async def asked(pause_s: float, size: int, pieces: int) -> list[dict]:
        sent, left = [], pieces

        async def receive():
            nonlocal left
            left -= 1
            await asyncio.sleep(pause_s)
            return {"type": "http.request", "body": b"x" * size, "more_body": left > 0}

        async def send(message):
            sent.append(message)

        scope = {
            "type": "http", "method": "POST", "path": "/api/v1/tokens", "raw_path": b"/api/v1/tokens", "query_string": b"",
            "scheme": "http", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "state": {},
            "headers": [(b"host", b"localhost"), (b"content-type", b"application/json"), (b"transfer-encoding", b"chunked")],
        }  # fmt: skip
        await Guard(reads, access, Options())(scope, receive, send)
        return sent

    access = Access(store, Caller("ana", Role.ADMIN))
    for pause_s, size, pieces, status in (
        (0.2, 1, 5, 408),
        (0.05, 1, 50, 408),
        (0.05, 8192, 12, 200),
        (0.05, 1, 3, 200),
    ):
        sent = runner.run(asked(pause_s, size, pieces))
        assert sent[0]["status"] == status, (pause_s, size, pieces)
        assert len(sent) == 2
    access.close()


LENGTHS = [
    [("content-length", "2"), ("content-length", "2")], [("content-length", "-1")], [("content-length", "+5")],
    [("content-length", " 5")], [("content-length", "0x5")], [("content-length", "5,5")], [("content-length", "")],
    [("content-length", "2"), ("transfer-encoding", "chunked")], [("transfer-encoding", "xchunked")],
    [("transfer-encoding", "gzip, chunked")], [("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
    [("transfer-encoding", "chunked, identity")], [("content-length", "9" * 20)], [("content-length", "٥")],
]  # fmt: skip


@pytest.mark.parametrize("headers", [
    one for one in LENGTHS if all(value.isascii() for _, value in one)
], ids=str)  # fmt: skip
def test_a_length_that_can_be_read_in_two_ways_is_refused(target, headers):
    """A-33: whatever stands before us, or instead of our own parser."""
    found = target.wire("POST", "/api/v1/tokens", [JSON, *headers], iter([b"{}"]))

    is_a_problem(found, 400)
    assert (found.events, found.header("connection")) == ([], "close")
    target.is_unharmed()


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/health", [("x-large", "a" * 17_000)], 431),
        ("/health", [(f"x-{number}", "a" * 150) for number in range(110)], 431),
        ("/health", [(f"x-{number}", "1") for number in range(1000)], 431),
        ("/health", [("cookie", "a" * 9000), ("cookie", "b" * 9000)], 431),
        ("/health?q=" + "a" * 1_000_000, [], 414),
        ("/" + "a" * 9000, [], 414),
        ("/health?" + "&".join(["a=1"] * 500), [], 400),
    ],
    ids=["one header", "all of them", "a thousand", "cookies", "query", "path", "parameters"],
)
def test_a_head_has_a_size(target, path, headers, status):
    """A-34"""
    is_a_problem(target.wire("GET", path, headers), status)


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate", "identity", "gzip, gzip", "zstd"])
def test_no_body_is_unpacked(target, coding):
    """A-35: a bomb stays packed."""
    is_a_problem(target.wire("POST", "/api/v1/tokens", [JSON, ("content-encoding", coding)], b"\x1f\x8b" * 20), 415)
    target.is_unharmed()


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000, b'{"a":' * 100_000, b'{"role":"' + b"x" * 1_000_000 + b'"}', b'{"__class__":"os.system"}',
        b'{"role":' + b"9" * 100_000 + b"}", b'{"role":"\\ud800"}', b'{"role":"viewer"/* */}', b'{"role":"viewer"} trailing',
        b"", b"null", b"NaN", b'{"role":Infinity}', b"\xff\xfe\x00", b'{"role":"viewer","name":"\\ud800"}', b"1e999", b"{]",
        ("{" + ",".join(f'"k{n}":1' for n in range(80_000)) + "}").encode(),
    ],
    ids=range(17),
)  # fmt: skip
def test_json_that_is_none_or_a_trap_is_refused_quickly(target, body):
    """A-40, A-84: within 50 ms on a quiet machine; ten times that here."""
    began = time.process_time()
    found = target.wire("POST", "/api/v1/tokens", [JSON], body)

    assert time.process_time() - began < 0.5
    is_a_problem(found, 400, 422)
    assert len(found.body) < 20_000
    target.is_unharmed()


@pytest.mark.parametrize(
    "ranges", ["bytes=" + ",".join(["0-"] * 1000), "bytes=5-1", "bytes=-0", "bytes=0-0,0-0", "lines=1"]
)
def test_ranges_cost_nothing(target, ranges):
    """A-42: the whole file, or 416."""
    whole = target.wire("GET", "/static/style.css").body
    began = time.process_time()
    found = target.wire("GET", "/static/style.css", [("range", ranges), ("if-range", '"x"')])

    assert time.process_time() - began < 0.5
    assert (found.status, found.body) == (200, whole) or found.status == 416


QUERIES = [
    ("q", "(a+)+$" * 100), ("q", "%_" * 500), ("q", "*" * 100), ("q", "' OR 1=1 --"), ("q", '");DROP TABLE runs;--'), ("q", "\0"),
    ("q", "$[?(@.x)]"), ("q", "\ud800"), ("sort", "id;DROP TABLE runs"), ("limit", "-1"), ("limit", str(10**9)), ("limit", "nan"),
    ("limit", "1e3"), ("offset", str(10**18)), ("cursor", "AAAA"), ("cursor", "' OR 1=1"), ("cursor", "9" * 5000),
    ("cursor", "eyJpZCI6IDl9"), ("model", "x' UNION SELECT 1 FROM tokens --"), ("run", str(2**63)), ("run", "-1"),
    ("kind", "x"), ("state", "running' OR 'a'='a"), ("last", "99999999999d"), ("last", "-1d"), ("after", str(2**64)), ("h", str(10**9)),
    ("h", "-1"), ("h", "nan"), ("level", "1e999"), ("partition", "{}"), ("__proto__", "x"), ("", ""),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), QUERIES, ids=lambda one: ascii(one)[1:30])
def test_a_query_is_data_and_quickly_answered(target, name, value):
    """A-43, A-82: in every list and page; what it does not know it refuses, and what it takes is bound, not pasted."""
    query = f"?{quote(name)}={quote(value, errors='replace')}"
    for method, template in RIGHTS:
        if method != "GET" or (method, template) in STREAMS:
            continue
        path = re.sub(r"\{\w+:int\}", "1", re.sub(r"\{\w+\}", "line", template))
        if path.startswith("/api/v1/") and name not in (*target.parameters.get(plain(template), ()), "__proto__"):
            continue  # refused by all in the same way, which one name shows
        began = time.process_time()
        found = target.wire("GET", path + query)
        assert time.process_time() - began < 0.5, path
        assert found.status in (200, 204, 303, 404, 409, 422), (path, found)
        assert b"sqlite" not in found.body.lower()
        assert b"digest" not in found.body or path.startswith(("/api/v1/openapi", "/static/", "/api/docs"))
        is_protected(found)
    target.is_unharmed()


def test_asking_a_hundred_times_is_asking_once(tmp_path, runner):
    """A-81: however often one unit is asked for, it waits once."""
    target = next(found := _served(tmp_path, Options(), runner, all_routers()))
    statuses = {target.wire("POST", "/api/v1/models/line/retrain", body={"force": True}).status for _ in range(100)}
    with target.served.opened.store.read() as tx:
        waiting = tx.value("SELECT count(*) FROM items WHERE state = 'waiting'")
    found.close()

    assert statuses <= {200, 202, 409, 429}
    assert waiting == 1


# --- 3.7 tokens, and what reaches the log -------------------------------------------------------------------------------


def test_time_does_not_tell_how_much_of_a_token_is_right(closed):
    """A-70: a digest is looked up, so no part of a right token is ever compared with a wrong one."""
    _, secret = use.create(closed.served.opened, "viewer", actor="ana")
    near, far = secret[:-1] + ("A" if secret[-1] != "A" else "B"), "evt_" + "".join(reversed(secret[4:]))

    def times() -> dict[str, list[float]]:
        found: dict[str, list[float]] = {near: [], far: []}
        for number in range(1200):
            shown = (near, far)[
                (number // 2 + number) % 2
            ]  # in turn, so that a machine that gets slower is so for both
            began = time.perf_counter()
            assert closed.guard.access.of_token(shown.encode()) is None
            found[shown].append(time.perf_counter() - began)
        return found

    for _ in range(3):  # a leak is there every time
        found = times()
        if stats.mannwhitneyu(found[near], found[far]).pvalue >= 1e-6:
            return
    pytest.fail("wrong tokens that begin like a right one take another time")


LINES = [
    "x\n2026-01-01 INFO admin logged in", "x%0a2026-01-01 INFO admin", "\x1b[2J", "\x1b]0;title\x07", "%s%n%d", "{}", "{0.__class__}",
    "\u2028", "\u202e", "\x85", "a" * 7000, "\r\n\r\n", "\x00", "\ud800",
]  # fmt: skip


def test_nothing_that_a_client_sends_begins_a_line_of_the_log(tmp_path, runner):
    """A-75: paths, addresses, names and methods."""
    target = next(found := _served(tmp_path, Options(), runner, ()))
    path = tmp_path / "logs" / "test.log"
    logger, before = logging.getLogger("evertrain"), list(logging.getLogger("evertrain").handlers)
    log_to(path)
    try:
        for line in LINES:
            spelled = quote(line, safe="", errors="replace")
            target.wire("DELETE", f"/api/v1/schedules/{spelled}")
            target.wire("POST", f"/api/v1/models/{spelled}/retrain", body={})
            target.wire.peer = line
            target.wire("POST", "/api/v1/tokens", body={"role": "viewer", "name": line})
            target.wire("GET", "/api/v1/tokens", [("authorization", "Bearer evt_x")])
            target.wire.peer = "127.0.0.1"
        target.guard.access.close()
        lines = path.read_text().splitlines()
    finally:
        logger.handlers[:] = before
        logger.propagate = True
    found.close()

    assert len(lines) > 20
    for line in lines:
        assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d{4} (info|warning|error)", line), line
        assert line.isprintable()
        assert len(line) < 8300


def test_a_failure_tells_the_client_nothing_but_the_log_everything(target, monkeypatch, caplog):
    """A-76: neither the message nor a path nor the traceback."""

    def fails(_: object) -> None:
        raise RuntimeError("password=hunter2 at /srv/home/secret")

    monkeypatch.setattr(use, "every", fails)
    answer = target.wire("GET", "/api/v1/tokens")

    is_a_problem(answer, 500)
    assert b"hunter2" not in answer.body
    assert b"/srv" not in answer.body
    assert "hunter2" in caplog.text
    assert "Traceback" in caplog.text


def test_half_an_answer_that_fails_is_not_taken_for_a_whole_one(store, runner):
    """A-76: only the end of the connection can tell."""

    async def fails(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise RuntimeError("our own mistake")

    wire = Wire(Guard(fails, Access(store, Caller("ana", Role.ADMIN)), Options()), runner)
    with pytest.raises(RuntimeError):
        wire("GET", "/runs")


def test_what_is_kept_is_for_its_owner_alone_whatever_the_umask(tmp_path):
    """A-77: with a umask that hides nothing."""
    before = os.umask(0)
    try:
        opened = open_project(tmp_path, store="sqlite:///evertrain.db")
        use.create(opened, "admin", actor="ana")
        opened.close()
    finally:
        os.umask(before)

    assert {path.name: oct(path.stat().st_mode & 0o077) for path in tmp_path.rglob("*.db*")} == {"evertrain.db": "0o0"}


def test_a_flood_of_wrong_tokens_is_a_few_lines_in_the_log_and_keeps_nobody_out(closed):
    """A-70, A-71, A-80: 2,000 tries; who is known is answered all the while."""
    _, secret = use.create(closed.served.opened, "viewer", actor="ana")
    good = [("authorization", f"Bearer {secret}")]
    closed.wire.peer = "198.51.100.77"
    for number in range(2000):
        status = closed.wire("GET", "/metrics", [("authorization", f"Bearer evt_{number:043d}")]).status
        assert status in (401, 429)
        if number % 200 == 0:
            assert closed.wire("GET", "/api/v1/tokens", good).status == 403
    closed.wire.peer = "127.0.0.1"
    with closed.served.opened.store.read() as tx:
        told = [one for one in log.after(tx, 0, kinds=[Kind.SESSION_REFUSED]) if one.data["peer"] == "198.51.100.77"]

    assert len(told) <= 1


def test_a_route_that_is_public_answers_strangers_nothing_but_that_it_lives(closed):
    for (method, template), right in RIGHTS.items():
        if right is PUBLIC and method == "GET" and "{" not in template:
            body = closed.wire("GET", template).body
            assert str(closed.served.opened.home.root).encode() not in body
            assert b"shop" not in body
            assert b"line" not in body.replace(b"outline", b"") or template == "/login"


def test_deep_answers_are_json(target):
    assert json.loads(target.wire("GET", "/api/v1/openapi.json").body)["openapi"].startswith("3.")
