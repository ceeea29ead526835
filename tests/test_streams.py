"""Live streams: every event once and in order, wherever a reader stopped, and no reader holds up anything."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from evertrain import Custom, Project, Series, Settings, on_data_change
from evertrain.control import ask, back, data, progress, work
from evertrain.control.progress import Open
from evertrain.events import Kind
from evertrain.executors.training import Fitting
from evertrain.server import app
from evertrain.server.service import Service
from evertrain.server.streams import Limits, Streams
from evertrain.store import items, leases, log

from .conftest import TOYS
from .process_kit import until


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    root = tmp_path_factory.mktemp("streams")
    shutil.copy(TOYS, root / "toys.py")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root))
        project = Project("test", root=root, settings=Settings(tick_s=0.05, check_s=3600), executor="inline")
        sales = project.dataset("sales", key=["day", "shop"], time="day")
        project.model(
            "demand", sales, target="sold", trainer=Custom("toys:Repeat"), partition_by=["shop"],
            series=Series(3, freq="D"), rollups=[[]], overall="Overall", triggers=[on_data_change("0s")],
        )  # fmt: skip
        sales.ingest(rows())
        project.refresh()
        found = Service(project.opened)
        yield found
        found.stopping.set()
        project.close()


def rows(sold=1):
    import polars as pl

    days = pl.date_range(pl.date(2026, 1, 1), pl.date(2026, 1, 28), eager=True)
    shops = [shop for shop in ("North", "South") for _ in days]
    return pl.DataFrame({"day": [*days, *days], "shop": shops, "sold": [i % 7 + sold for i in range(2 * len(days))]})


@pytest.fixture
def client(service):
    return TestClient(app.create(service), "http://127.0.0.1", client=("127.0.0.1", 5000))


@pytest.fixture
def quick(service, monkeypatch):
    """A service whose streams lose their patience soon."""
    service.__dict__["streams"] = Streams(service, Limits(beat_s=0.2, stall_s=0.3, longest_s=30))
    yield service.streams
    del service.__dict__["streams"]


def parsed(text):
    """The messages of a stream as (id, event, data)."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line and not line.startswith(":"))
        if "data" in fields or fields.get("event"):
            found.append(
                (int(fields["id"]) if "id" in fields else None, fields.get("event"), json.loads(fields["data"]))
            )
    return found


def read(client, path, enough, last=None):
    """Read a stream until `enough(messages)` or its end; return its messages."""
    text, deadline = "", time.monotonic() + 30
    with client.stream(
        "GET", f"/api/v1/{path}", headers={"Last-Event-ID": str(last)} if last is not None else {}
    ) as got:
        assert got.status_code == 200, got.read()
        assert got.headers["content-type"].startswith("text/event-stream")
        assert got.headers["cache-control"] == "no-store"
        assert got.headers["x-accel-buffering"] == "no"
        for part in got.iter_text():
            text += part
            assert time.monotonic() < deadline, text[-1000:]
            if enough(parsed(text)):
                break
    return parsed(text)


def write(service, number, text="epoch {}", run=None):
    with service.opened.store.write() as tx:
        for i in range(number):
            tx.event(Kind.ITEM_PROGRESS, model="demand", run_id=run, item=1, text=text.format(i), fraction=None)


def ended_run(service):
    with service.opened.store.read() as tx:
        run = tx.value("SELECT max(id) FROM runs WHERE state = 'succeeded'")
        return run, [one.id for one in log.of_run(tx, run)]


# --- the log ---------------------------------------------------------------------------------------------------------


def test_a_run_is_told_as_the_documents_print_it(service, client):
    """S4-11: progress in plain words, then one result; each message with an id, the state between without."""
    run, ids = ended_run(service)
    messages = read(client, f"runs/{run}/events", lambda _: False)

    unnamed = [(one, data) for one, event, data in messages if event is None]
    assert [one for one, _ in unnamed] == ids
    assert {"type": "progress", "data": "Starting Repeat training..."} in [data for _, data in unnamed]
    assert {"type": "progress", "data": "North: fitting"} in [data for _, data in unnamed]
    last = unnamed[-1][1]
    assert (last["type"], last["data"]["status"]) == ("result", "success")
    assert last["data"]["meta"]["run"] == run
    assert last["data"]["meta"]["outcome"] == "promoted"
    assert [data for data in unnamed if data[1]["type"] == "result"] == unnamed[-1:]
    named = [(one, data) for one, event, data in messages if event == "state"]
    assert named[-1] == (
        None,
        {"run": run, "model": "demand", "state": "succeeded", "done": 3, "total": 3, "fraction": 1.0, "eta_s": None,
         "text": "succeeded"},
    )  # fmt: skip


def test_every_place_of_a_run_resumes_without_a_gap_or_a_duplicate(service, client):
    """P-56: whatever message was the last one read, exactly those behind it follow; behind the end there is nothing."""
    run, ids = ended_run(service)
    for place, one in enumerate(ids[:-1]):
        found = [number for number, _, _ in read(client, f"runs/{run}/events", lambda _: False, last=one) if number]
        assert found == ids[place + 1 :]
    assert client.get(f"/api/v1/runs/{run}/events", headers={"Last-Event-ID": str(ids[-1])}).status_code == 204
    assert client.get(f"/api/v1/runs/{run}/events?after={ids[-1]}").status_code == 204
    assert client.get("/api/v1/runs/999/events").status_code == 404
    assert client.get(f"/api/v1/runs/{run}/events", headers={"Last-Event-ID": "x"}).status_code == 422


def test_the_live_log_is_read_once_by_everyone_and_resumes(service, client):
    """P-56: readers that come and go while events are written see each of them once, in order."""
    with service.opened.store.read() as tx:
        begin = log.newest(tx)
    write(service, 300)
    writer = threading.Thread(target=lambda: [(write(service, 7), time.sleep(0.01)) for _ in range(30)])
    writer.start()
    seen, last = [], begin
    while len(seen) < 510:
        size = min(70, 510 - len(seen))  # several pages, also where the log is read and not what is in memory
        found = read(client, "events/live", lambda got, size=size: len(got) >= size, last=last)
        seen += [one for one, _, _ in found]
        last = seen[-1]
    writer.join()
    assert seen == list(range(begin + 1, begin + len(seen) + 1))


def test_a_stream_of_the_log_begins_now(service, client):
    write(service, 1, "before {}")
    with client.stream("GET", "/api/v1/events/live") as got:
        write(service, 1, "now {}")
        text = ""
        for part in got.iter_text():
            text += part
            if "data: " in text:
                break
    ((number, event, data),) = parsed(text)
    assert event is None
    assert number == data["id"]
    assert (data["kind"], data["model"], data["text"]) == ("item.progress", "demand", "demand: item 1: now 0")
    assert set(data) == {"id", "at", "kind", "model", "run", "actor", "data", "text"}


def test_listeners_hear_which_forecasts_changed_and_to_what(service, client):
    """S0-41: a promotion and a rollback tell model, partition, version and moment to those who show a forecast."""
    with service.opened.store.read() as tx:
        begin = log.newest(tx)
    project = service.opened
    data.ingest(project, "sales", rows(sold=2))
    asked = ask.trigger(project, "demand", force=True, actor="tests")
    work.run_to_end(project, asked)
    back.rollback(project, "demand", actor="tests", why="a test")
    found = read(
        client, "forecasts/events", lambda got: any(one[2]["data"]["why"] == "rolled back" for one in got), begin
    )

    changed = [(data["data"]["why"], one["partition"]) for _, _, data in found for one in data["data"]["forecasts"]]
    assert {one for why, one in changed if why == "promoted"} == {"North", "South", "Overall"}
    assert {one for why, one in changed if why == "rolled back"} == {"North", "South", "Overall"}
    assert found[-1][2]["data"]["forecasts"][0]["version"] == "1.0.0"
    assert found[-1][2]["data"]["at"].endswith("Z")
    assert [one for one, _, _ in found] == sorted({one for one, _, _ in found})


# --- readers ---------------------------------------------------------------------------------------------------------


def test_a_reader_that_takes_nothing_is_dropped_and_its_slot_is_free(service, quick, client):
    """P-56: the stream ends after the stall limit, whatever is waiting for its reader."""
    with client.stream("GET", "/api/v1/events/live"):
        assert quick.open == 1
        write(service, 5)
        deadline = time.monotonic() + 5
        while quick.open and time.monotonic() < deadline:
            time.sleep(0.02)
        assert quick.open == 0


def test_a_silent_stream_beats_without_an_id_and_a_gone_reader_frees_its_slot(quick, client):
    with client.stream("GET", "/api/v1/events/live") as got:
        text = ""
        for part in got.iter_text():
            text += part
            if text.count(":\n\n") >= 2:
                break
    assert "id:" not in text
    assert text.startswith("retry: ")
    deadline = time.monotonic() + 5
    while quick.open and time.monotonic() < deadline:
        time.sleep(0.02)
    assert quick.open == 0


def test_a_revoked_token_ends_its_stream(service, quick, client, monkeypatch):
    """A-74: within one beat."""

    class Access:
        def still_good(self, caller):
            return False

    monkeypatch.setattr(service, "access", Access(), raising=False)
    from evertrain.server import streams
    from evertrain.store.tokens import Caller, Role

    monkeypatch.setattr(
        streams, "live", lambda s, _, begin, live=streams.live: live(s, Caller("ann", Role.VIEWER, 1), begin)
    )
    began = time.monotonic()
    assert read(client, "events/live", lambda _: False) == []
    assert time.monotonic() - began < 5


def test_streams_are_capped_in_all_and_for_each_address(quick, service, client, monkeypatch):
    """A-80, P-55: over the cap the answer is 503 with Retry-After; an end frees the place."""
    from evertrain.server import streams

    monkeypatch.setattr(streams, "MOST", 2)
    held = [client.stream("GET", "/api/v1/events/live") for _ in range(2)]
    for one in held:
        one.__enter__()
    refused = client.get("/api/v1/events/live")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "30")
    assert refused.json()["status"] == 503
    for one in held:
        one.__exit__(None, None, None)

    taken = [quick.enter("10.0.0.9") for _ in range(2)]
    monkeypatch.setattr(streams, "MOST", 200)
    taken += [quick.enter("10.0.0.9") for _ in range(9)]
    assert taken == [True] * 10 + [False]
    assert quick.enter("10.0.0.8")
    assert quick.enter("127.0.0.1")
    for peer in ["10.0.0.9"] * 10 + ["10.0.0.8", "127.0.0.1"]:
        quick.leave(peer)


def test_every_stream_says_goodbye_when_the_service_ends(service, client):
    """P-12: at the signal, not when connections are gone."""
    threading.Timer(0.3, service.stopping.set).start()
    try:
        began = time.monotonic()
        with client.stream("GET", "/api/v1/events/live") as got:
            text = "".join(got.iter_text())
        assert time.monotonic() - began < 5
        assert text.rstrip().endswith("retry: 2000")
        assert "event: server-restart" in text
    finally:
        service.stopping.clear()


# --- how far a run is -------------------------------------------------------------------------------------------------


def test_nothing_is_promised_that_was_never_measured():
    assert progress.eta_s([Open(None), Open(10)], 1) is None
    assert progress.eta_s([Open(10, batch=1, ran_s=21)], 1) is None
    assert progress.eta_s([Open(10, batch=1, ran_s=19)], 1) == 0


def test_the_time_left_is_that_of_the_slowest_batch_at_least():
    assert progress.eta_s([Open(10, batch=1), Open(10, batch=1), Open(1, batch=2)], 8) == 20
    assert progress.eta_s([Open(2, count=100)], 4) == 50


def test_a_trainer_that_tells_its_share_is_believed_once_it_is_under_way():
    assert progress.eta_s([Open(None, batch=1, ran_s=30, share=0.25)], 1) == 90
    assert progress.eta_s([Open(100, batch=1, ran_s=1, share=0.01)], 1) == 99
    assert progress.fraction(3, [Open(None, batch=1, share=0.5), Open(None)]) == 0.7


def test_the_fits_of_a_backtest_are_parts_of_one_item():
    """What a trainer says of one fit is told as the share of all that the item needs, and never runs over."""
    told = []
    context = Fitting("y", [], 0, {}, 7, told.append, about="backtest to May: ", part=2, parts=4)
    context.progress("epoch 1/2", 0.5)
    context.progress("epoch 3/2", 1.5)
    context.progress("who knows")
    assert [one["fraction"] for one in told] == [0.625, 0.75, None]
    assert told[0]["text"] == "backtest to May: epoch 1/2"


def test_progress_reaches_down_to_the_epoch_of_the_partition_in_training(service):
    """S4-11, S4-16: the last word of the trainer, its share, and what the same partitions took before."""
    opened = service.opened
    asked = ask.trigger(opened, "demand", force=True, actor="tests")
    before = progress.of_run(opened, asked.run_id)
    assert (before.state, before.done, before.total, before.fraction) == ("queued", 0, 3, 0.0)
    assert before.text == "waiting for a worker"
    assert before.eta_s is not None  # what they took in earlier runs

    with opened.store.write() as tx:
        leases.register(tx, "me", 60)
        claimed = items.claim(tx, "me", most=3, seconds=60)
        first = claimed.items[0].id
        tx.event(Kind.ITEM_PROGRESS, model="demand", run_id=asked.run_id, item=first, text="epoch 3/4", fraction=0.75)
    inside = progress.of_run(opened, asked.run_id)
    assert (inside.state, inside.text, inside.fraction) == ("running", "North: epoch 3/4", 0.25)

    with opened.store.write() as tx:
        items.release_items(tx, "me", [(one.id, one.fence) for one in claimed.items])
        leases.end(tx, "me")
    work.run_to_end(opened, asked)
    after = progress.of_run(opened, asked.run_id)
    assert (after.state, after.done, after.fraction, after.eta_s) == ("succeeded", 3, 1.0, None)


# --- a real server ----------------------------------------------------------------------------------------------------

SERVER = """
import sys
from pathlib import Path
from evertrain.control.opened import open_project
from evertrain.server import run
from evertrain.server.service import Options, Service
from evertrain.server.streams import Limits, Streams

run._UNREAD_MS = 3000
service = Service(open_project(Path(sys.argv[1]), store="sqlite:///evertrain.db"), Options(port=int(sys.argv[2]), loop=False))
service.__dict__["streams"] = Streams(service, Limits(beat_s=2, stall_s=2))
listening = run.bind(service.options)
run.serve(service, listening, on_ready=lambda: print(listening.getsockname()[1], flush=True))
"""


class Server:
    """A service in a process of its own, on the store of this one."""

    def __init__(self, root):
        self.root, self.port, self.process = root, 0, None

    def start(self):
        command = [sys.executable, "-c", SERVER, str(self.root), str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.port = int(self.process.stdout.readline())

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        code = self.process.wait(20)
        self.process.stdout.close()
        return code

    def open(self, last=None):
        found = socket.socket()
        found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        found.settimeout(10)
        found.connect(("127.0.0.1", self.port))
        more = f"Last-Event-ID: {last}\r\n" if last is not None else ""
        found.sendall(f"GET /api/v1/events/live HTTP/1.1\r\nHost: 127.0.0.1\r\n{more}\r\n".encode())
        return found

    def sockets(self):
        folder = Path(f"/proc/{self.process.pid}/fd")
        return sum(str(one.readlink()).startswith("socket") for one in folder.iterdir() if one.is_symlink())

    def memory_kb(self):
        return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())[1])


@pytest.fixture
def server(tmp_path):
    project = Project("test", root=tmp_path, executor="inline")
    found = Server(tmp_path)
    found.opened = project.opened
    found.start()
    yield found
    if found.process.poll() is None:
        found.end(signal.SIGKILL)
    project.close()


@pytest.mark.slow
def test_a_reader_misses_nothing_and_sees_nothing_twice_across_restarts(server):
    """P-56, P-12: events are written all the time; the service is ended in good order, and once it is killed."""
    with server.opened.store.read() as tx:
        begin = log.newest(tx)
    done = threading.Event()

    def writing():
        while not done.is_set():
            write(server, 3)
            time.sleep(0.003)

    writer = threading.Thread(target=writing)
    writer.start()
    seen, goodbyes = [], 0
    try:
        for how in (signal.SIGTERM, signal.SIGKILL, None):
            reader = server.open(seen[-1] if seen else begin)
            enough = threading.Timer(0.5, server.end, (how,)) if how else None
            if enough:
                enough.start()
            text = b""
            with reader:
                while part := _received(reader):
                    text += part
                    if not how and text.count(b"\nid: ") > 300:
                        break
            if enough:
                enough.join()
                assert how == signal.SIGKILL or server.process.returncode == 0
                server.start()
            goodbyes += b"event: server-restart" in text
            whole = text[: text.rfind(b"\n\n") + 2]  # a message that was cut off by the end does not count for browsers
            seen += [int(one) for one in re.findall(rb"\nid: (\d+)\n\n", whole)]
    finally:
        done.set()
        writer.join()
    assert len(seen) > 300
    assert seen == list(range(begin + 1, begin + 1 + len(seen)))
    assert goodbyes == 1


def _received(reader):
    try:
        return reader.recv(1 << 16)
    except ConnectionResetError:
        return b""


@pytest.mark.slow
def test_readers_that_never_read_cost_little_and_are_cut_off(server):
    """P-56, A-80: their connections are gone soon, and the service ends in time beside one."""
    write(server, 10_000, "x" * 300)
    sockets, most = server.sockets(), []
    with contextlib.ExitStack() as stack:
        for readers in (60, 160):  # the first of them bring up the threads that all share
            used = []
            for _ in range(readers):
                stack.enter_context(server.open(last=0))
            until(lambda: used.append(server.memory_kb()) or server.sockets() <= sockets, 40)
            most.append(max(used))
        assert (most[1] - most[0]) / 100 < 150  # kB, of which the buffer of the connection is 64
        stack.enter_context(server.open(last=0))
        began = time.monotonic()
        assert server.end() == 0
        assert time.monotonic() - began < 10  # the five seconds of grace for what is on its way, and no more
