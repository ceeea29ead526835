"""Who may use the service: tokens, sessions, roles, limits and the log of what was asked."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from fastapi import APIRouter, FastAPI, Request

from evertrain.clock import ManualClock
from evertrain.control import access as use
from evertrain.events import Kind
from evertrain.server import app, rights, run
from evertrain.server.access import SESSION, Access
from evertrain.server.guard import Guard
from evertrain.server.rights import PUBLIC, RIGHTS
from evertrain.server.service import Options, Service
from evertrain.store import log, tokens
from evertrain.store.connect import Store
from evertrain.store.tokens import Caller, Role

from .http_kit import ELSEWHERE, Wire, kept, service, wired
from .test_cli import Shell, shell  # noqa: F401 - the fixture

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")


async def reached(scope, receive, send) -> None:
    """Answer everything, so that only the guard decides."""
    if any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"]):
        while (await receive()).get("more_body"):
            pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"reached"})


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as found:
        yield found


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with service(tmp_path_factory.mktemp("served"), ELSEWHERE, clock=ManualClock()) as found:
        yield found


@pytest.fixture(scope="module")
def secrets(served: Service) -> dict[str, str]:
    """A token of each role, with its secret."""
    return {role: use.create(served.opened, role, "90d", f"the {role}", actor="ana")[1] for role in Role}


@contextmanager
def guarded(
    store: Store, runner: asyncio.Runner, options: Options = ELSEWHERE, **more
) -> Iterator[tuple[Access, Wire]]:
    """Yield the guard before an application that answers everything."""
    access = Access(store, None if options.needs_token else Caller("ana", Role.ADMIN))
    wire = Wire(Guard(reached, access, options), runner, **more)
    try:
        yield access, wire
    finally:
        access.close()


def bearer(secret: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {secret}")]


def events(store: Store, *kinds: Kind) -> list[log.Event]:
    with store.read() as tx:
        return log.after(tx, 0, kinds=kinds)


# --- rights -------------------------------------------------------------------------------------------------------


def live_routes(routes, before: str = "") -> Iterator[tuple[str, str]]:
    """Yield method and template of every route of an application, also of mounted ones and included routers."""
    for route in routes:
        if inner := getattr(route, "original_router", None):
            prefix = getattr(getattr(route, "include_context", None), "prefix", "") or ""
            yield from live_routes(inner.routes, before + prefix)
        elif methods := getattr(route, "methods", None):
            yield from ((method, before + route.path) for method in sorted(methods))
        elif own := getattr(route, "routes", None):
            yield from live_routes(own, before + route.path)
        elif hasattr(route, "app"):
            yield "GET", before + route.path + "/{path:path}"
        else:
            yield "WEBSOCKET", before + getattr(route, "path", repr(route))


def example(template: str) -> str:
    """Return a path of a route."""
    return re.sub(
        r"\{(id|run|run_id|job_id|schedule|number|batch)(:int)?\}",
        "1",
        re.sub(r"\{\w*name\}|\{model_type\}", "x", template),
    )


def unclassified(found: FastAPI) -> list[tuple[str, str]]:
    """Return the routes that the table of rights does not know, or takes for others."""
    missing = []
    for method, template in live_routes(found.routes):
        sample = example(template)
        row = rights.find(sample).get("GET" if method == "HEAD" else method)
        if row is None or plain(row.template) != plain(template):
            missing.append((method, template))
    return missing


def plain(template: str) -> str:
    """Return a template whose parameters have no names: they are a matter of each route."""
    return re.sub(r"\{[^}]*\}", "{}", template)


def all_routers() -> tuple[APIRouter, ...]:
    from evertrain.cli import serving

    return tuple(serving.routers())


def test_every_live_route_is_in_the_table_of_rights(served):
    """A-01: a route that nobody classified is found here, and refused to everybody there."""
    guard = app.create(served, all_routers())

    assert unclassified(guard.app.behind) == []


def test_the_table_of_rights_has_no_row_without_a_route(served):
    """A-01: a right that nothing answers would be taken by the next route of that name."""
    live = {(method, plain(path)) for method, path in live_routes(app.create(served, all_routers()).app.behind.routes)}

    assert [row for row in RIGHTS if (row[0], plain(row[1])) not in live] == []


def test_a_route_that_is_not_in_the_table_is_refused_even_to_an_admin(served, runner, secrets):
    """A-01"""
    forgotten = APIRouter()
    forgotten.add_api_route("/api/v1/forgotten", lambda: "secret", methods=["GET"])

    with wired(served, runner, [forgotten]) as (guard, wire):
        wire.host = "models.example"
        assert unclassified(guard.app.behind) == [("GET", "/api/v1/forgotten")]
        assert wire("GET", "/api/v1/forgotten", bearer(secrets["admin"])).status == 404
        assert wire("GET", "/api/v1/forgotten").status == 401


def test_only_health_login_and_static_files_are_public():
    public = {row for row, right in RIGHTS.items() if right is PUBLIC}

    assert public == {
        ("GET", "/health"), ("GET", "/ready"), ("GET", "/login"), ("POST", "/login"), ("GET", "/static/{name}"),
    }  # fmt: skip


def test_every_route_method_and_role_is_answered_as_the_table_says(served, runner, secrets):
    """A-01, A-04, A-06: the table, the routes of the application, and every method of HTTP."""
    live = {template for _, template in live_routes(app.create(served, all_routers()).app.behind.routes)}
    named = {(method, plain(template)): right for (method, template), right in RIGHTS.items()}
    templates = {plain(template): template for template in sorted(live | {template for _, template in RIGHTS})}
    with guarded(served.opened.store, runner) as (access, wire):
        access._wrong = access._wrong.__class__(10**9)
        wire.host = "models.example"
        wire.application._writes = wire.application._writes.__class__(10**9)
        for template, path in ((one, example(full)) for one, full in templates.items()):
            for method in METHODS:
                needed = named.get(("GET" if method == "HEAD" else method, template))
                for role, secret in [(None, None), *secrets.items()]:
                    got = wire(method, path, bearer(secret) if secret else ()).status
                    if needed is PUBLIC or (needed is not None and role is not None and Role(role).covers(needed)):
                        wanted = 200
                    else:
                        wanted = 401 if role is None else 405 if needed is None else 403
                        wanted = 303 if (method, path, role) == ("POST", "/logout", None) else wanted
                    assert got == wanted, (method, path, role)


def test_a_viewer_can_change_nothing_and_an_operator_makes_no_tokens():
    """A-04: what the roles mean, beside the table that says it."""
    changing = {row: right for row, right in RIGHTS.items() if row[0] != "GET"}

    assert {path for (_, path), right in changing.items() if right is Role.VIEWER} == {
        "/api/v1/models/{name}/predict", "/api/v1/models/{name}/observations", "/api/v1/models/{name}/actuals",
        "/forecast", "/logout",
    }  # fmt: skip
    assert {right for (_, path), right in RIGHTS.items() if "token" in path} == {Role.ADMIN}


def test_a_path_part_that_looks_like_the_table_s_own_names_is_a_name():
    for part in ("{name}", "/any", "**", "GET", "path"):
        found = rights.find(f"/api/v1/models/{part}")
        assert (list(found) == ["GET"]) == ("/" not in part)
    assert rights.find("/static/a/GET/b") == {}
    assert rights.find("/static/") == rights.find("/static") == rights.find("") == {}


# --- tokens and sessions ------------------------------------------------------------------------------------------


def test_on_loopback_nobody_needs_a_token_but_a_wrong_one_is_refused(store, runner):
    with guarded(store, runner, Options()) as (_, wire):
        assert wire("GET", "/api/v1/tokens").status == 200
        refused = wire("GET", "/api/v1/tokens", bearer("evt_" + "a" * 43))

    assert (refused.status, refused.header("www-authenticate")) == (401, "Bearer")


@pytest.mark.parametrize(
    "options",
    [Options("0.0.0.0", allowed_hosts=("h",)), Options(require_token=True), Options(behind_proxy=("10.0.0.1",))],
)
def test_elsewhere_nobody_gets_in_without_a_token(store, runner, options):
    """A-01: other addresses, by wish, and behind a proxy that speaks for the whole world."""
    with guarded(store, runner, options) as (_, wire):
        assert wire("GET", "/health").status == 200
        assert wire("GET", "/api/v1/status").status == 401


def test_a_token_ends_at_its_very_moment(store, clock, runner):
    with store.write() as tx:
        _, secret = tokens.create(tx, "short", Role.VIEWER, timedelta(hours=1))
    with guarded(store, runner) as (access, wire):
        wire.host = "models.example"
        assert wire("GET", "/runs", bearer(secret)).status == 200
        caller = access.known(secret.encode())
        clock.advance(seconds=3599.999)
        access.look()
        assert (wire("GET", "/runs", bearer(secret)).status, access.still_good(caller)) == (200, True)
        clock.advance(seconds=0.001)
        assert (wire("GET", "/runs", bearer(secret)).status, access.still_good(caller)) == (401, False)


def test_a_token_revoked_in_another_process_is_worth_nothing_within_a_second(tmp_path, runner):
    """A-74: also for streams that are open."""
    with service(tmp_path, ELSEWHERE) as served:
        other = Store("sqlite:///evertrain.db", tmp_path)
        token, secret = use.create(served.opened, "operator", actor="ana")
        with guarded(served.opened.store, runner) as (access, wire):
            wire.host = "models.example"
            assert wire("GET", "/runs", bearer(secret)).status == 200
            caller = access.known(secret.encode())
            assert caller == Caller("operator", Role.OPERATOR, token.id)
            assert access.still_good(caller)

            with other.write() as tx:
                tokens.revoke(tx, token.id)
            time.sleep(1.0)

            assert access.known(secret.encode()) is None
            assert not access.still_good(caller)
            assert wire("GET", "/runs", bearer(secret)).status == 401
        other.close()


def test_what_was_read_before_a_token_was_revoked_is_not_remembered_after(store):
    with store.write() as tx:
        token, secret = tokens.create(tx, "late", Role.VIEWER, None)
    access = Access(store)
    access.look()

    def slowly(tx):
        found = tokens.caller(tx, secret)
        with store.write() as later:
            tokens.revoke(later, token.id)
        access.look()
        return found

    assert access._find(secret.encode(), slowly) is not None  # asked a moment earlier, it was good
    assert access.known(secret.encode()) is None
    access.close()


def test_a_token_made_a_moment_ago_is_good_at_once(store, runner):
    with guarded(store, runner) as (_, wire):
        wire.host = "models.example"
        for name in "abc":
            with store.write() as tx:
                _, secret = tokens.create(tx, name, Role.VIEWER, None)
            assert wire("GET", "/runs", bearer(secret)).status == 200


def test_who_is_known_is_answered_for_a_while_when_the_store_cannot_be_read(store, clock, runner, monkeypatch):
    from evertrain.errors import StoreError

    with store.write() as tx:
        _, secret = tokens.create(tx, "known", Role.VIEWER, None)
    with guarded(store, runner) as (access, wire):
        wire.host = "models.example"
        assert wire("GET", "/runs", bearer(secret)).status == 200

        access._stop.set()

        def gone():
            raise StoreError("evertrain.db: disk I/O error")

        monkeypatch.setattr(store, "read", gone)
        clock.advance(seconds=15)
        assert wire("GET", "/runs", bearer(secret)).status == 200
        clock.advance(seconds=0.1)
        answer = wire("GET", "/runs", bearer(secret))
        assert (answer.status, answer.header("retry-after")) == (503, "5")
        monkeypatch.undo()


def test_a_session_is_another_secret_than_a_token(store, runner):
    with store.write() as tx:
        _, secret = tokens.create(tx, "page", Role.VIEWER, None)
    with guarded(store, runner) as (access, wire):
        wire.host = "models.example"
        session = access.log_in(secret.encode(), "198.51.100.1")
        for value, status in ((session, 200), (secret, 401), (session[:-1], 401), ("", 401)):
            assert wire("GET", "/metrics", [("cookie", f"a=b; evertrain_8000={value}")]).status == status
        assert access.known(SESSION + session.encode()) is not None
        assert wire("GET", "/metrics", bearer(session)).status == 401
        assert access.log_in(b"evt_" + b"x" * 43, "198.51.100.1") is None

        access.log_out(session)
        assert wire("GET", "/metrics", [("cookie", f"evertrain_8000={session}")]).status == 401


def test_a_page_sends_strangers_to_the_login_and_programs_get_a_problem(store, runner):
    with guarded(store, runner) as (_, wire):
        wire.host = "models.example"
        html = [("accept", "text/html,application/xhtml+xml")]
        page = wire("GET", "/runs", html)
        late = wire("POST", "/logout")  # the session has ended by itself meanwhile
        assert {(one.status, one.header("location")) for one in (page, late)} == {(303, "/login")}
        for found in (wire("GET", "/runs"), wire("GET", "/api/v1/runs", html), wire("POST", "/retrain", html)):
            assert (found.status, found.header("content-type")) == (401, "application/problem+json")


def test_a_person_gets_a_page_for_what_is_not_there_or_not_for_them(store, runner):
    with guarded(store, runner, Options()) as (_, wire):
        found = wire("GET", "/<script>alert(1)</script>", [("accept", "text/html")])
        plain = wire("GET", "/nothing")

    assert (found.status, found.header("content-type")) == (404, "text/html; charset=utf-8")
    assert b"<script>alert" not in found.body
    assert found.header("content-security-policy")
    assert (plain.status, plain.header("content-type")) == (404, "application/problem+json")


# --- wrong tokens -------------------------------------------------------------------------------------------------


def test_wrong_tokens_are_slowed_down_per_address_and_right_ones_are_not(store, clock, runner):
    """A-70, A-71: ten a minute from one address; told of once a minute, never once per try."""
    with store.write() as tx:
        _, good = tokens.create(tx, "good", Role.VIEWER, None)
    with guarded(store, runner, peer="198.51.100.1") as (access, wire):
        wire.host = "models.example"
        statuses = [wire("GET", "/runs", bearer(f"evt_{number:043d}")).status for number in range(100)]
        assert statuses == [401] * 10 + [429] * 90
        slowed = wire("GET", "/runs", bearer("evt_" + "z" * 43))
        assert (slowed.status, slowed.header("retry-after")) == (429, "6")
        assert wire("GET", "/runs", bearer(good)).status == 200
        wire.peer = "198.51.100.2"
        assert wire("GET", "/runs", bearer("evt_" + "z" * 43)).status == 401
        wire.peer = "198.51.100.1"
        clock.advance(seconds=6)
        assert wire("GET", "/runs", bearer("evt_" + "z" * 43)).status == 401
        clock.advance(seconds=54)
        access._tell_rest()
    told = [(one.data["peer"], one.data["count"]) for one in events(store, Kind.SESSION_REFUSED)]

    assert sorted(told) == [("198.51.100.1", 1), ("198.51.100.1", 101), ("198.51.100.2", 1)]


def test_tries_from_many_addresses_are_told_of_in_few_lines(store, runner):
    """A-71: spread over 1,000 addresses; of IPv6 a whole network of one customer is one."""
    access = Access(store)
    for number in range(1000):
        access.refused(f"10.0.{number // 256}.{number % 256}")
        access.refused(f"2001:db8:0:7::{number:x}")
    access.close()
    told = {one.data["peer"]: 0 for one in events(store, Kind.SESSION_REFUSED)}
    for one in events(store, Kind.SESSION_REFUSED):
        told[one.data["peer"]] += one.data["count"]

    assert len(events(store, Kind.SESSION_REFUSED)) < 110
    assert sum(told.values()) == 2000
    assert told["2001:db8:0:7::/64"] == 1000


@pytest.mark.parametrize(
    "shown",
    [
        "", "Bearer", "Bearer ", "Bearer  x", "Basic YTpi", "bearer evt_short", "Bearer evt_" + "a" * 43, "evt_" + "a" * 43,
        "Bearer evt_" + "a" * 42 + "\0", "Bearer evt_" + "\xb2" * 43, "Bearer " + "a" * 12_000, "Bearer admin:admin",
        "Bearer evt_' OR 1=1 --", "Digest username=admin", "Bearer null", "Bearer evt_" + "a" * 44,
    ],
)  # fmt: skip
def test_every_wrong_token_gets_the_same_answer(store, runner, shown):
    """A-70, A-72: also default names and passwords, which do not exist."""
    with guarded(store, runner) as (_, wire):
        wire.host = "models.example"
        first = wire("GET", "/api/v1/runs", [("authorization", "Bearer evt_" + "b" * 43)])
        found = wire("GET", "/api/v1/runs", [("authorization", shown)])

    assert (found.status, found.headers, found.body) == (401, first.headers, first.body)


def test_two_tokens_or_one_in_the_address_are_none(store, runner):
    """A-70, A-73"""
    with store.write() as tx:
        _, good = tokens.create(tx, "good", Role.VIEWER, None)
    with guarded(store, runner) as (_, wire):
        wire.host = "models.example"
        assert wire("GET", "/runs", [*bearer(good), *bearer(good)]).status == 401
        for query in (f"token={good}", f"access_token={good}", f"authorization=Bearer%20{good}"):
            assert wire("GET", f"/runs?{query}").status == 401
        assert wire("GET", "/runs", [("x-api-key", good)]).status == 401
        assert wire("GET", "/runs", [("authorization", f"bEaReR {good}")]).status == 200  # RFC 9110, 11.1


def test_no_address_is_believed_that_only_a_header_names(store, runner):
    """A-71: X-Forwarded-For counts from named proxies alone."""
    with guarded(store, runner, peer="198.51.100.9") as (_, wire):
        wire.host = "models.example"
        for number in range(11):
            shown = [
                *bearer("evt_" + "a" * 43),
                ("x-forwarded-for", f"203.0.113.{number}"),
                ("forwarded", "for=1.2.3.4"),
            ]
            found = wire("GET", "/runs", shown)

    assert found.status == 429


@pytest.mark.parametrize(
    ("proxies", "peer", "counted"),
    [((), "198.51.100.9", 11), (("198.51.100.9",), "198.51.100.9", 1), (("10.0.0.1",), "198.51.100.9", 11)],
    ids=["no proxy", "the proxy", "somebody else"],
)
def test_the_address_that_counts_is_told_by_named_proxies_alone(tmp_path, runner, proxies, peer, counted):
    """A-71: as the service is really put together."""
    with service(tmp_path, Options(require_token=True, behind_proxy=proxies)) as served:
        server = run._Server(served, app.create(served), lambda: None)
        server.config.load()
        wire = Wire(server.config.loaded_app, runner, peer=peer)
        answers = [
            wire("GET", "/runs", [*bearer("evt_" + "a" * 43), ("x-forwarded-for", f"203.0.113.{number}")]).status
            for number in range(11)
        ]

    assert answers == ([401] * 11 if counted == 1 else [401] * 10 + [429])


# --- limits and the log -------------------------------------------------------------------------------------------


def test_sixty_changes_a_minute_and_as_many_reads_as_one_likes(store, clock, runner):
    with store.write() as tx:
        secrets = [tokens.create(tx, name, Role.OPERATOR, None)[1] for name in "ab"]
    with guarded(store, runner) as (_, wire):
        wire.host = "models.example"
        first, second = (bearer(secret) for secret in secrets)
        assert {wire("POST", "/api/v1/runs/1/cancel", first).status for _ in range(60)} == {200}
        slowed = wire("POST", "/api/v1/runs/1/cancel", first)
        assert (slowed.status, slowed.header("retry-after")) == (429, "1")
        assert wire("POST", "/api/v1/models/iris/predict", first, {"rows": []}).status == 200
        assert {wire("GET", "/api/v1/runs", first).status for _ in range(100)} == {200}
        assert wire("POST", "/api/v1/runs/1/cancel", second).status == 200
        clock.advance(seconds=1)
        assert [wire("POST", "/api/v1/runs/1/cancel", first).status for _ in range(2)] == [200, 429]


def test_without_a_token_on_loopback_nothing_is_limited(store, runner):
    with guarded(store, runner, Options()) as (_, wire):
        assert {wire("POST", "/api/v1/runs/1/cancel").status for _ in range(100)} == {200}


def test_what_may_change_something_is_in_the_log_with_who_what_and_from_where(store, runner):
    with store.write() as tx:
        _, secret = tokens.create(tx, "robot", Role.OPERATOR, None)
    with guarded(store, runner, peer="198.51.100.7") as (_, wire):
        wire.host = "models.example"
        wire("POST", "/api/v1/models/iris/retrain", bearer(secret), {"force": True})
        wire("POST", f"/api/v1/models/{'m' * 300}/pause", bearer(secret))
        for path, method in (("/runs", "GET"), ("/api/v1/models/iris/predict", "POST"), ("/logout", "POST")):
            wire(method, path, bearer(secret))
        wire("POST", "/api/v1/tokens", bearer(secret), {"role": "admin"})  # refused: counted, not logged
        assert wire.application.refused == {403: 1}
    first, second = events(store, Kind.REQUEST_MADE)

    assert (first.actor, dict(first.data)) == (
        "robot",
        {"method": "POST", "path": "/api/v1/models/iris/retrain", "status": 200, "peer": "198.51.100.7"},
    )
    assert (second.data["method"], len(second.data["path"])) == ("POST", 200)


def test_a_client_that_leaves_in_the_middle_is_told_of_as_that_and_not_as_a_failure(store, runner, caplog):
    async def reads(scope, receive, send) -> None:
        await Request(scope, receive).body()

    access = Access(store, Caller("ana", Role.ADMIN))
    Wire(Guard(reads, access, Options()), runner)(
        "POST", "/retrain", [("content-type", "text/csv"), ("transfer-encoding", "chunked")], [b"half", None]
    )
    access.close()

    assert [one.data["status"] for one in events(store, Kind.REQUEST_MADE)] == [499]
    assert caplog.text == ""


def test_a_log_that_cannot_be_written_does_not_stop_the_answer(store, runner, monkeypatch, caplog):
    from evertrain.errors import StoreBusy

    with guarded(store, runner, Options()) as (access, wire):

        def busy(**_):
            raise StoreBusy("evertrain.db is being written by another process")

        monkeypatch.setattr(store, "write", busy)
        assert wire("POST", "/api/v1/runs/1/cancel").status == 200
        access._writing.shutdown()
        monkeypatch.undo()

    assert "lacks an entry" in caplog.text


# --- the routes for tokens and sessions -----------------------------------------------------------------------------


def test_tokens_are_made_listed_and_revoked_over_http(tmp_path, runner):
    with service(tmp_path) as served, wired(served, runner) as (_, wire):
        made = wire("POST", "/api/v1/tokens", body={"role": "viewer", "expires": "30d", "name": "a dashboard"})
        assert (made.status, made.header("cache-control")) == (201, "no-store")
        secret = made.json["secret"]
        listed = wire("GET", "/api/v1/tokens")
        assert [(one["name"], one["role"], one["ends"]) for one in listed.json["items"]] == [
            ("a dashboard", "viewer", secret[-4:])
        ]
        assert secret not in listed.body.decode()
        assert wire("GET", "/api/v1/tokens", bearer(secret)).status == 403

        gone = wire("DELETE", f"/api/v1/tokens/{made.json['id']}")
        assert (gone.status, gone.json["revoked_at"] is not None) == (200, True)
        assert wire("GET", "/api/v1/tokens", bearer(secret)).status == 401  # at once, in this process
        assert wire("DELETE", f"/api/v1/tokens/{made.json['id']}").status == 409
        assert wire("DELETE", "/api/v1/tokens/99").status == 404


@pytest.mark.parametrize(
    "wanted",
    [{}, {"role": "root"}, {"role": "viewer", "expires": "soon"},
     {"role": "viewer", "expires": "0s"}, {"role": "viewer", "expires": "9999999d"},
     {"role": "viewer", "name": ""}, {"role": "viewer", "name": "a\nb"}, {"role": "viewer", "id": 7}, [], None, "viewer"],
)  # fmt: skip
def test_a_token_that_makes_no_sense_is_refused_with_what_is_allowed(served, runner, secrets, wanted):
    before = kept(served.opened.store)
    with wired(served, runner) as (_, wire):
        wire.host = "models.example"
        found = wire("POST", "/api/v1/tokens", bearer(secrets["admin"]), wanted)

    assert (found.status, found.header("content-type")) == (422, "application/problem+json")
    assert kept(served.opened.store) == before


def test_no_secret_is_in_the_store_the_log_or_any_file(tmp_path, runner):
    """A-73"""
    with service(tmp_path, Options(require_token=True)) as served, wired(served, runner) as (guard, wire):
        secret = use.create(served.opened, "admin", actor="ana")[1]
        more = wire("POST", "/api/v1/tokens", bearer(secret), {"role": "viewer"}).json["secret"]
        session = guard.access.log_in(secret.encode(), "198.51.100.1")
        wire("GET", "/api/v1/tokens", bearer("evt_" + "w" * 43))
    texts = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]

    assert texts
    assert not [
        one for one in (secret, more, session, "evt_" + "w" * 43) if any(one.encode() in text for text in texts)
    ]


def test_logging_in_gives_a_cookie_that_no_script_and_no_other_site_can_use(tmp_path, runner):
    """A-73: the session's cookie."""
    form = ("content-type", "application/x-www-form-urlencoded")
    with service(tmp_path, Options(require_token=True)) as served, wired(served, runner) as (_, wire):
        secret = use.create(served.opened, "viewer", actor="ana")[1]
        ours = ("origin", "http://127.0.0.1:8000")
        page = wire("GET", "/login")
        assert (page.status, b"<form" in page.body) == (200, True)
        answer = wire("POST", "/login", [form, ours], f"token={secret}".encode())
        assert (answer.status, answer.header("location")) == (303, "/")
        value, *marks = answer.header("set-cookie").split("; ")
        assert {one.lower() for one in marks} == {"httponly", "samesite=strict", "path=/", "max-age=43200"}
        cookie = ("cookie", value)
        assert wire("GET", "/api/v1/tokens", [cookie]).status == 403
        assert wire("POST", "/logout", [cookie, ours]).header("location") == "/login"
        assert wire("GET", "/api/v1/tokens", [cookie]).status == 401

        wrong = [wire("POST", "/login", [form, ours], b"token=evt_wrong").status for _ in range(11)]
        assert wrong == [401] * 10 + [429]
        wire.scheme, ours = "https", ("origin", "https://127.0.0.1:8000")
        secured = wire("POST", "/login", [form, ours], f"token={secret}".encode())
        assert "secure" in secured.header("set-cookie").lower()


def test_logging_in_over_plain_http_from_elsewhere_says_what_is_missing(served, runner, secrets):
    """The browser would drop the cookie without a word."""
    form = ("content-type", "application/x-www-form-urlencoded")
    with wired(served, runner) as (_, wire):
        wire.host = "models.example"
        found = wire(
            "POST", "/login", [form, ("origin", "http://models.example")], f"token={secrets['viewer']}".encode()
        )

    assert (found.status, b"--ssl-certfile" in found.body) == (403, True)


# --- the command line ---------------------------------------------------------------------------------------------


@pytest.fixture
def at(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:  # noqa: F811 - the fixture
    (tmp_path / "rows.csv").write_text("x,y\n1,2\n")
    (tmp_path / "evertrain.toml").write_text('name = "shop"\n[sources.rows]\npath = "rows.csv"\n')
    monkeypatch.chdir(tmp_path)
    return shell


def test_token_commands_show_a_secret_once_and_end_with_what_is_next(at):
    empty = at.ok("token", "list")
    assert "no tokens" in empty.out
    assert empty.following == "evertrain token create --role viewer"
    made = at.ok("token", "create", "--role", "operator", "--expires", "30d")
    secret = re.search(r"^evt_\S{43}$", made.out, re.MULTILINE)[0]
    listed = at.paste(made)
    assert secret not in listed.out
    assert f"…{secret[-4:]}" in listed.out
    assert listed.following == "evertrain status"
    never = at.ok("token", "create", "--role", "operator", "--expires", "never", "--json").json
    assert (never["token"]["name"], never["token"]["expires_at"]) == ("operator-2", None)
    gone = at.ok("token", "revoke", "1")
    assert "worth nothing" in gone.out
    assert "revoked" in at.paste(gone).out
    assert at("token", "revoke", "1").code == 4
    assert at("token", "create", "--role", "root").code == 2
    assert "viewer, operator, admin" in at("token", "create", "--role", "root").err
    assert json.loads(at.ok("token", "list", "--json").out)["tokens"][0]["revoked_at"]


def test_listing_tokens_loads_no_server(at):
    at.ok("token", "list")

    assert "evertrain.server.guard" in sys.modules or "uvicorn" not in sys.modules


def test_guessed_sessions_push_nobody_out(served, secrets, monkeypatch):
    """A-71: what is remembered of guesses is kept apart from who is known."""
    monkeypatch.setattr("evertrain.server.access._REMEMBERED", 3)
    access = Access(served.opened.store)
    try:
        access.look()
        token = secrets["viewer"].encode()
        assert access.of_token(token) is not None
        for number in range(10):
            assert access.of_session(SESSION + f"{number:043d}".encode()) is None
        assert access.known(token) is not None
        assert len(access._none) == 3
    finally:
        access.close()
