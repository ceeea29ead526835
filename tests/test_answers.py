"""Forecasts over HTTP: bytes rendered once, true within half a second, and there when the store is not."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import sqlite3
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

import polars as pl
import pytest
from sqlalchemy import event

from evertrain import Custom, Project, Series, Settings, forecasts, on_data_change, watch
from evertrain.clock import ManualClock
from evertrain.server import answers
from evertrain.server.app import create
from evertrain.server.service import Options, Service

from .conftest import TOYS

NOW = datetime(2026, 7, 10, 6, tzinfo=UTC)
TOWNS = (1, 2, 3)


def days(fruit, town, number, first=0):
    return [
        {"id": f"{fruit}-{town}-{n}", "fruit": fruit, "town": town, "day": (NOW - timedelta(days=number - n)).date(),
         "kg": 100.0 + n % 7}
        for n in range(first, number)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    root = tmp_path_factory.mktemp("answers") / "template"
    root.mkdir()
    shutil.copy(TOYS, root / "toys.py")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root))
        yield build(root)


def build(root):
    project = Project("test", root=root, executor="inline", clock=ManualClock(NOW), settings=Settings(check_s=3600))
    harvests = project.dataset("harvests", key="id", time="day")
    project.model(
        "kg", harvests, target="kg", series=Series(6, "D"), trainer=Custom("toys:Stamped"),
        partition_by=["fruit", "town"], rollups=[["fruit"], []], triggers=[on_data_change("0s")],
    )  # fmt: skip
    project.model("new", harvests, target="kg", series=Series(6, "D"), trainer=Custom("toys:Stamped"))
    harvests.ingest(
        pl.DataFrame([row for fruit in ("Avocado", "Chico") for town in TOWNS for row in days(fruit, town, 20)])
    )
    project.trigger("kg")
    project.close()
    return root


@dataclass
class Found:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


class Client:
    """Asks the application itself, without a socket, in one event loop."""

    def __init__(self, project):
        self.project = project
        self.app = create(Service(project.opened, Options(loop=False))).app
        self.counters = self.app._counters
        self.loop = asyncio.new_event_loop()

    async def asked(self, model="kg", given=None, *, method="GET", headers=None, query=None, **partition):
        query = urlencode({**(given or {}), **partition}, doseq=True) if query is None else query
        path = f"/api/v1/models/{model}/forecast"
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
            "path": path, "raw_path": path.encode(), "root_path": "", "query_string": query.encode(),
            "headers": [(k.encode(), v.encode()) for k, v in (headers or {}).items()],
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
        }  # fmt: skip
        sent = []

        async def receive():
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message):
            sent.append(message)

        await self.app(scope, receive, send)
        head = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return Found(sent[0]["status"], head, b"".join(one.get("body", b"") for one in sent[1:]))

    def get(self, *args, **options):
        return self.loop.run_until_complete(self.asked(*args, **options))

    def at_once(self, *questions):
        async def all_of_them():
            return await asyncio.gather(*questions)

        return self.loop.run_until_complete(all_of_them())


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Everything is looked up anew five times as often, and old as soon."""
    for name in ("_LOOK_S", "_LIFE_S", "_AGED_S", "_STALE_S"):
        monkeypatch.setattr(answers, name, getattr(answers, name) / 5)


@pytest.fixture
def root(template, tmp_path):
    return shutil.copytree(template, tmp_path / "project")


def opened(root, minutes):
    project = Project.open(root)
    project.opened.store.clock = ManualClock(NOW + timedelta(minutes=minutes))
    return project


@pytest.fixture
def client(root):
    project = opened(root, 10)
    found = Client(project)
    yield found
    found.loop.run_until_complete(asyncio.sleep(0))
    found.loop.close()
    project.close()


@pytest.fixture
def elsewhere(root):
    """The project as another process has it: its writes wake nobody here."""
    project = opened(root, 20)
    yield project
    project.close()


PLACE = {"fruit": "Avocado", "town": 2}


class Statements:
    """The statements that this process executes."""

    def __init__(self, store):
        self.seen = []
        event.listen(store._engine, "before_cursor_execute", lambda c, cur, sql, *rest: self.seen.append(sql))

    def about(self, word):
        return [one for one in self.seen if word in one]


def test_the_answer_is_the_stored_forecast_with_the_hash_of_its_bytes(client):
    found = client.get(**PLACE)
    assert found.status == 200
    assert found.json == json.loads(json.dumps(client.project.forecast("kg", partition=PLACE).plain()))
    assert found.headers["etag"] == f'"{hashlib.sha256(found.body).hexdigest()}"'
    assert found.headers["x-model-version"] == found.json["version"] == "1.0.0"
    assert found.headers["x-trained-at"] == "2026-07-10T06:00:00.000000Z"
    assert found.headers["cache-control"] == "no-cache"
    assert found.headers["content-type"] == "application/json"
    assert int(found.headers["content-length"]) == len(found.body)
    assert not {"age", "x-stale", "warning"} & set(found.headers)


@pytest.mark.parametrize(
    ("partition", "name"),
    [({}, "Overall"), ({"fruit": "Chico"}, "Chico, Overall"), ({"town": 3, "fruit": "Chico"}, "Chico, 3")],
)
def test_query_parameters_name_a_partition_or_a_rollup_with_values_of_the_columns_types(client, partition, name):
    found = client.get(**partition)
    assert (found.status, found.json["partition"], found.json["answered_by"]) == (200, name, name)


def test_a_partition_without_a_model_is_answered_by_its_rollup_and_says_so(client):
    found = client.get(fruit="Chico", town=99).json
    assert found["answered_by"] == "Chico, Overall"
    assert "no model of its own" in found["fallback"]


def test_who_has_the_answer_gets_304(client):
    etag = client.get(**PLACE).headers["etag"]
    for value in (etag, f'"other", W/{etag}', "*"):
        found = client.get(**PLACE, headers={"if-none-match": value})
        assert (found.status, found.body, found.headers["etag"]) == (304, b"", etag)
        assert found.headers["x-model-version"] == "1.0.0"
        assert "content-length" not in found.headers
    assert client.get(**PLACE, headers={"if-none-match": '"other"'}).status == 200


def test_periods_and_intervals_are_those_that_are_asked_for(client):
    found = client.get(given={"h": 2, "level": 95}, **PLACE).json
    assert (len(found["ds"]), len(found["mean"]), len(found["lo-95"])) == (2, 2, 2)
    assert "lo-80" not in found
    assert set(client.get(given={"level": "80,95"}, **PLACE).json) >= {"lo-80", "lo-95"}
    assert set(client.get(given={"level": [80, 95]}, **PLACE).json) >= {"lo-80", "lo-95"}


def test_more_than_is_stored_is_asked_of_the_same_fit_and_kept(client, monkeypatch):
    anew = []
    whole = forecasts.Forecasts._asked_anew
    monkeypatch.setattr(forecasts.Forecasts, "_asked_anew", lambda self, *args: anew.append(args) or whole(self, *args))
    stored = client.get(**PLACE).json
    for _ in range(3):
        found = client.get(given={"h": 9, "level": 50}, **PLACE).json
        time.sleep(answers._LIFE_S)
    assert found["mean"][:6] == stored["mean"], "one fit's"
    assert (len(found["mean"]), "lo-50" in found) == (9, True)
    assert len(anew) == 1, "looked at again, and nothing new to ask for"


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("colour=red", "only h, level, fruit, town"),
        ("fruit=Chico&colour=red", "only h, level, fruit, town"),
        ("h=0", "a whole number from 1 to 10,000"),
        ("h=1e3", "a whole number from 1 to 10,000"),
        ("h=-1", "a whole number from 1 to 10,000"),
        ("h=99999999999999999999", "a whole number from 1 to 10,000"),
        ("h=%D9%A3", "a whole number from 1 to 10,000"),
        ("level=100", "a whole number from 1 to 99"),
        ("level=80,", "a whole number from 1 to 99"),
        ("h=3&h=4", "each parameter once, but for level"),
        ("fruit=Chico&fruit=Avocado", "each parameter once, but for level"),
        ("fruit=%FF", "at most 50 parameters, in UTF-8"),
        ("&".join(f"a{n}=1" for n in range(51)), "at most 50 parameters, in UTF-8"),
    ],
)
def test_a_parameter_that_is_none_is_refused_with_what_is_allowed(client, query, said):
    found = client.get(query=query)
    assert (found.status, found.headers["content-type"]) == (422, "application/problem+json")
    assert found.json["allowed"] == said
    assert found.json["field"] == query.split("=")[0] or found.json["field"] in ("colour", "query")


def test_what_is_not_there_is_404_and_says_how_far_the_first_training_is(client):
    assert client.get("other").status == 404
    assert "declared: kg, new" in client.get("other").json["detail"]
    found = client.get("new")
    assert found.status == 404
    assert "no model yet" in found.json["detail"]
    assert client.get(town=2).json["answered_by"] == "Overall", "no rollup by town is declared"


def test_an_error_is_not_kept(client, elsewhere):
    assert client.get("new").status == 404
    elsewhere.trigger("new")
    assert client.get("new").status == 200


def test_for_a_moment_nobody_asks_the_store(client, monkeypatch):
    client.get(**PLACE)
    monkeypatch.setattr(answers, "_LOOK_S", 10)
    monkeypatch.setattr(answers, "_LIFE_S", 20)
    statements = Statements(client.project.opened.store)
    bodies = {client.get(**PLACE).body for _ in range(50)}
    assert (len(bodies), statements.seen) == (1, [])


def test_one_statement_reads_champion_and_forecast_for_all_who_ask_at_once(client):
    """P-31: two statements could be of two moments."""
    client.get(**PLACE)
    statements = Statements(client.project.opened.store)
    time.sleep(answers._LIFE_S)
    found = client.at_once(*(client.asked(**PLACE, given={"h": 1 + place % 6}) for place in range(60)))
    assert {one.status for one in found} == {200}
    assert {one.json["mean"][0] for one in found} == {found[0].json["mean"][0]}
    assert len(statements.about("forecasts c")) == 1
    assert len(statements.about("p.champion_id")) == 1


def test_a_swap_elsewhere_is_served_within_a_second(client, elsewhere):
    """P-30, P-32: another process promotes, and takes it back."""
    first = client.get(**PLACE)
    elsewhere.trigger("kg", force=True)
    time.sleep(answers._LIFE_S)
    second = client.get(**PLACE)
    assert second.json["version"] == second.headers["x-model-version"] == "1.1.0"
    assert second.headers["etag"] != first.headers["etag"]
    assert second.json["mean"] != first.json["mean"]
    elsewhere.rollback("kg", to="1.0.0")
    time.sleep(answers._LIFE_S)
    assert client.get(**PLACE).json["version"] == "1.0.0"


def test_readers_do_not_wait_for_the_look_that_comes_in_time(client, elsewhere, monkeypatch):
    monkeypatch.setattr(answers, "_LIFE_S", 10)
    assert client.get(**PLACE).json["version"] == "1.0.0"
    elsewhere.trigger("kg", force=True)
    time.sleep(answers._LOOK_S)
    assert client.get(**PLACE).json["version"] == "1.0.0", "and this begins one"
    client.loop.run_until_complete(asyncio.sleep(0.2))
    assert client.get(**PLACE).json["version"] == "1.1.0"


def test_what_this_process_writes_is_served_at_once(client):
    assert client.get(**PLACE).json["version"] == "1.0.0"
    client.project.trigger("kg", force=True)
    assert client.get(**PLACE).json["version"] == "1.1.0"
    client.project.rollback("kg", to="1.0.0")
    assert client.get(**PLACE).json["version"] == "1.0.0"


def test_behind_and_stale_stay_true_without_a_new_fit(client, elsewhere):
    before = client.get(**PLACE).json
    assert (before["behind"], before["stale"]) == (False, 0)
    elsewhere.dataset("harvests", key="id", time="day").edit({"id": "Avocado-2-7", "kg": 7.0})
    with elsewhere.opened.store.write() as tx:
        watch.apply_versions(tx, elsewhere.spec, "harvests")
    time.sleep(answers._LIFE_S)
    assert client.get(**PLACE).json == {**before, "behind": True}
    client.project.opened.store.clock.advance(hours=49)
    time.sleep(answers._LIFE_S)
    assert client.get(**PLACE).json == {**before, "behind": True, "stale": 2}


def test_a_slow_look_never_brings_back_what_was_replaced(client, monkeypatch):
    """P-30: the version never goes back; a look that read the old champion ends after one that read the new."""
    assert client.get(**PLACE).json["version"] == "1.0.0"
    look, held, read = forecasts.Forecasts.look, threading.Event(), threading.Event()

    def slow(self, *args, **options):
        found = look(self, *args, **options)
        if not read.is_set():
            read.set()
            held.wait(5)
        return found

    monkeypatch.setattr(forecasts.Forecasts, "look", slow)
    time.sleep(answers._LIFE_S)

    async def both():
        late = asyncio.create_task(client.asked(**PLACE))
        await asyncio.to_thread(read.wait, 5)
        await asyncio.to_thread(client.project.trigger, "kg", force=True)
        new = await client.asked(**PLACE)
        held.set()
        return new, await late, await client.asked(**PLACE)

    assert [one.json["version"] for one in client.loop.run_until_complete(both())] == ["1.1.0"] * 3


def test_memory_answers_while_the_store_is_away_and_says_how_old_that_is(client, root, caplog):
    """P-30: what was known goes on being answered, what never was is refused for now."""
    known = client.get(**PLACE)
    store, path = client.project.opened.store, root / "evertrain.db"
    store.close()
    path.rename(root / "away")
    path.write_bytes(b"no database at all, but not an empty file either" * 40)
    time.sleep(1)
    found = client.get(**PLACE)
    assert (found.status, found.body, found.headers["x-model-version"]) == (200, known.body, "1.0.0")
    assert found.headers["x-stale"] == found.headers["age"] == "1"
    assert found.headers["warning"].startswith('110 - "the store does not answer')
    assert [one.message.split(":")[0] for one in caplog.records if one.levelname == "WARNING"] == [
        "forecasts are answered from memory, the store failed"
    ]
    refused = client.get(fruit="Chico")
    assert (refused.status, refused.headers["retry-after"]) == (503, "5")
    store.close()
    path.unlink()
    for name in ("evertrain.db-wal", "evertrain.db-shm"):
        (root / name).unlink(missing_ok=True)
    (root / "away").rename(path)
    time.sleep(answers._LIFE_S)
    back = client.get(**PLACE)
    assert (back.status, back.body) == (200, known.body)
    assert "x-stale" not in back.headers
    assert client.get(fruit="Chico").status == 200


def test_a_write_lock_of_another_program_is_no_concern_of_readers(client, root):
    """P-30, P-51."""
    client.get(**PLACE)
    with closing(sqlite3.connect(root / "evertrain.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        time.sleep(answers._AGED_S)
        began = time.monotonic()
        found = client.get(**PLACE), client.get(fruit="Chico")
        assert time.monotonic() - began < 1
        assert [(one.status, "age" in one.headers) for one in found] == [(200, False)] * 2


def test_a_store_that_hangs_keeps_nobody_waiting_who_can_be_answered(client, monkeypatch):
    client.get(**PLACE)
    held = threading.Event()
    look = forecasts.Forecasts.look
    monkeypatch.setattr(forecasts.Forecasts, "look", lambda *args, **kw: (held.wait(20), look(*args, **kw))[1])
    monkeypatch.setattr(answers, "_PATIENCE_S", 0.1)
    time.sleep(answers._LIFE_S)
    began = time.monotonic()
    found = client.at_once(*(client.asked(**PLACE) for _ in range(20)), client.asked(**PLACE))
    again = client.get(**PLACE)
    took = time.monotonic() - began
    held.set()
    assert {one.status for one in (*found, again)} == {200}
    assert took < 1


def test_what_is_kept_is_bounded(client, monkeypatch):
    one = client.get(**PLACE)
    monkeypatch.setattr(answers, "_KEPT_BYTES", 3 * client.app._size)
    monkeypatch.setattr(answers, "_KEPT_QUESTIONS", 5)
    for h in range(1, 30):
        client.get(fruit="Chico", given={"h": h})
    for town in TOWNS:
        for fruit in ("Avocado", "Chico", "other"):
            assert client.get(fruit=fruit, town=town).status == 200
            kept = client.app._kept
            assert client.app._size == sum(place.size for place in kept.values())
            assert client.app._size <= answers._KEPT_BYTES
            assert max(len(place.answers) for place in kept.values()) <= answers._KEPT_VARIANTS
    assert 0 < len(client.app._kept) < 9
    assert len(client.app._questions) <= 5
    assert client.get(**PLACE).body == one.body


def test_reads_are_counted_with_the_age_of_what_they_got(client):
    client.get(**PLACE)
    etag = client.get(**PLACE).headers["etag"]
    client.get(**PLACE, headers={"if-none-match": etag})
    client.get("other")
    client.get(fruit="Chico", town=99)
    assert client.counters.reads == {("kg", "own", False): 3, ("kg", "rollup", False): 1}
    assert client.counters.ages.counts[1] == 4  # of ten minutes, the second bound
    assert client.counters.ages.sum == pytest.approx(4 * 600.0)


def test_a_swap_is_counted_with_how_long_it_took_to_be_served_here(client, elsewhere):
    client.get(**PLACE)
    client.project.opened.store.clock.advance(minutes=10, seconds=2)  # two seconds ahead of the other process
    elsewhere.trigger("kg", force=True)
    time.sleep(answers._LIFE_S)
    client.get(**PLACE)
    assert (sum(client.counters.swaps.counts), client.counters.swaps.sum) == (1, 2.0)
    elsewhere.rollback("kg", to="1.0.0")
    time.sleep(answers._STALE_S)
    assert client.get(**PLACE).json["version"] == "1.0.0"
    assert sum(client.counters.swaps.counts) == 1, "nobody had asked: how long that was tells nothing"


def test_everything_else_is_left_to_the_application_behind(client):
    assert client.get("a/b").status == 404
    assert client.get(method="POST").status == 405


def test_it_is_described_for_clients(client):
    described = client.app.behind.openapi()["paths"]["/api/v1/models/{name}/forecast"]["get"]
    assert {one["name"] for one in described["parameters"]} == {"name", "h", "level", "partition", "If-None-Match"}
    schema = described["responses"]["200"]["content"]["application/json"]["schema"]
    assert set(client.get(**PLACE).json) - {"lo-80", "hi-80", "lo-95", "hi-95"} == set(schema["required"])
