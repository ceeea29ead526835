"""The service under load: readers during swaps, beside a bare route, its streams, its end, and its memory for long."""

from __future__ import annotations

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import polars as pl

from benchmarks import lists
from benchmarks.load import Asked, Told
from benchmarks.measure import Row, memory_mb, spread, timed
from evertrain import registry
from evertrain.control import ask, data
from evertrain.control.opened import Opened, open_project, reload
from evertrain.control.work import run_to_end
from evertrain.partitions import decode
from evertrain.store import models, tokens
from evertrain.store.tokens import Role

FRUITS = ("Avocado", "Banana", "Chico", "Durian", "Guava", "Kiwi", "Mango", "Papaya")
TOWNS = ("Bagac", "Hermosa", "Orani", "Pilar", "Samal")
DECLARED = """
name = "load"
[datasets.harvests]
key = ["id"]
time = "day"
[models.kg]
source = "harvests"
target = "kg"
trainer = "toys:Stamped"
series = {h = 12, freq = "D"}
partition_by = ["fruit", "town"]
rollups = [["fruit"], []]
"""
_ROOT = Path(__file__).parents[1]
PATH = "/api/v1/models/kg/forecast"

# What uvicorn is told in `evertrain serve`, around a route that any FastAPI application may have.
_BARE = """
import sys
from fastapi import FastAPI, Response
import uvicorn
app, body = FastAPI(), open(sys.argv[1], "rb").read()
@app.get("/forecast")
async def forecast() -> Response:
    return Response(body, media_type="application/json")
uvicorn.run(app, port=int(sys.argv[2]), http="httptools", ws="none", lifespan="off", log_config=None, access_log=False,
            server_header=False, proxy_headers=False)
"""


# --- a project, and a service of it -------------------------------------------------------------------------------


@contextmanager
def farm(versions: int, fruits: tuple[str, ...] = FRUITS) -> Iterator[Path]:
    """A folder with a project that was trained so many times, each time all of it."""
    with tempfile.TemporaryDirectory(prefix="evertrain-bench-") as name:
        root = Path(name)
        (root / "toys.py").write_text(Path(__file__).with_name("toys.py").read_text())
        (root / "evertrain.toml").write_text(DECLARED)
        opened = open_project(root)
        reload(opened)
        first = date.today() - timedelta(days=20)
        rows = [
            {"id": f"{f}-{t}-{n}", "fruit": f, "town": t, "day": first + timedelta(days=n), "kg": 100.0 + n % 7}
            for f in fruits for t in TOWNS for n in range(20)
        ]  # fmt: skip
        data.ingest(opened, "harvests", pl.DataFrame(rows), source="", actor="bench")
        for _ in range(versions):
            outcome = run_to_end(opened, ask.trigger(opened, "kg", force=True))
            assert not {"failed", "skipped"} & set(outcome.counts), outcome
        opened.close()
        yield root


def paths(root: Path) -> list[str]:
    """Return the address of the forecast of every partition and rollup."""
    opened = open_project(root)
    with opened.store.read() as tx:
        keys = [decode(row.key) for row in tx.rows("SELECT key FROM partitions WHERE state = 'live' ORDER BY id")]
    opened.close()
    return [PATH + ("?" + urlencode(key) if key else "") for key in keys]  # type: ignore[arg-type]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Serving:
    """A running `evertrain serve`."""

    def __init__(self, root: Path, *options: str, **environment: str) -> None:
        self.root, self.port = root, free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.log = root / "serve.out"
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "evertrain", "-C", str(root), "serve", "--port", str(self.port), *options],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, env={**os.environ, **environment},
            )  # fmt: skip
        wait_for(self.port, self.process, self.log)

    def get(self, path: str, token: str | None = None) -> bytes:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        with urllib.request.urlopen(urllib.request.Request(f"http://{self.address}{path}", headers=headers)) as found:
            body: bytes = found.read()
            return body

    def end(self, seconds: float = 60.0) -> float:
        """Ask it to end; return how long that took.

        Raises:
            AssertionError: it ended with another code than 0.
        """
        began = time.monotonic()
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the service did not end within {seconds:g} s") from None
        assert code == 0, (code, self.log.read_text()[-2000:])
        return time.monotonic() - began


@contextmanager
def serving(root: Path, *options: str, **environment: str) -> Iterator[Serving]:
    """A service that is ended with the block, in good order."""
    found = Serving(root, *options, **environment)
    try:
        yield found
    except BaseException:
        found.process.kill()
        found.process.wait()
        raise
    if found.process.poll() is None:
        found.end()


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path | None = None, path: str = "/health") -> None:
    """Wait until a server answers."""
    deadline = time.monotonic() + 60
    while True:
        assert process.poll() is None, log.read_text()[-2000:] if log else "the server ended"
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5):
            return
        assert time.monotonic() < deadline, "the server does not answer"
        time.sleep(0.05)


def load(asked: Asked) -> Told:
    """Have a process of their own do what readers do."""
    return loads([asked])[0]


def loads(asked: list[Asked], also: Any = None) -> list[Told]:
    """Have several processes do so at the same time, and meanwhile call `also`."""
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.load", json.dumps(asdict(one))], cwd=_ROOT, stdout=subprocess.PIPE
        )
        for one in asked
    ]
    if also:
        also()
    found = []
    for one in running:
        out, _ = one.communicate(timeout=300)
        assert one.returncode == 0, "the readers failed"
        found.append(Told(**json.loads(out)))
    return found


# --- swaps, and what readers may have seen ------------------------------------------------------------------------


def swap(root: str, seconds: float, every_s: float) -> None:
    """Let one version after the other serve everywhere, again and again: a process of its own does this."""
    opened = open_project(Path(root))
    with opened.store.read() as tx:
        found = models.by_name(tx, "kg")
        versions = [f"{row.major}.{row.minor}.{row.patch}" for row in registry.versions(tx, found.id, 1000)][::-1]
    print("now", flush=True)
    ends, number = time.monotonic() + seconds, 0
    due = time.monotonic()
    while time.monotonic() < ends:
        with opened.store.write("bench") as tx:
            ways = registry.returns(tx, found.id, version=versions[number % len(versions)])
            if ways:
                registry.roll_back(tx, "kg", ways, actor="bench", why="the next turn", pin=False)
        number += 1
        due = max(due + every_s, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))
    opened.close()


@contextmanager
def swaps(root: Path, seconds: float, every_s: float) -> Iterator[None]:
    """Another process that swaps during the block, at most so long."""
    code = f"from benchmarks.service import swap; swap({str(root)!r}, {seconds}, {every_s})"
    with subprocess.Popen([sys.executable, "-c", code], cwd=_ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()  # it is at it
        yield
        process.wait(seconds + 60)
    assert process.returncode == 0, "the swaps failed"


def problems(root: Path, told: Told, late_s: float = 1.0) -> list[str]:
    """Return what readers saw that was wrong by what the store says served when.

    An answer must be one that served some time between `late_s` before it was asked for and its arrival, or as much
    earlier as it says itself; and each reader may only go on in the list of what served: what is swapped back is in it
    once more.
    """
    opened = open_project(root)
    with opened.store.read() as tx:
        rows = tx.rows(
            "SELECT p.key, v.major || '.' || v.minor || '.' || v.patch || ' '"
            " || CAST(json_extract(c.frame, '$.mean[0]') AS INTEGER) AS version,"
            " (julianday(a.from_at) - 2440587.5) * 86400 AS from_at FROM activations a JOIN fits f ON f.id = a.fit_id"
            " JOIN partitions p ON p.id = a.partition_id JOIN versions v ON v.id = f.version_id"
            " JOIN forecasts c ON c.fit_id = f.id ORDER BY a.id"
        )
    opened.close()
    served: dict[str, list[tuple[str, float]]] = {}
    for row in rows:
        key = decode(row.key)
        served.setdefault(PATH + ("?" + urlencode(key) if key else ""), []).append((row.version, row.from_at))
    found = [f"{number} × {error}" for error, number in told.errors.items()]
    for path, changes in told.seen.items():
        list_of = served[path]
        places: dict[int, int] = {}
        for reader, asked_at, answered_at, version, age_s in changes:
            # From where this reader is, as julianday knows milliseconds; an age is told in whole seconds.
            later = range(places.get(reader, 0), len(list_of))
            own = [place for place in later if list_of[place][0] == version and list_of[place][1] < answered_at + 0.01]
            ends = {place: list_of[place + 1][1] if place + 1 < len(list_of) else float("inf") for place in own}
            since = asked_at - late_s - (age_s + 1 if age_s else 0)
            if not own:
                found.append(f"{path}: {version} came back before it served again")
            elif (place := next((place for place in own if ends[place] >= since), -1)) < 0:
                found.append(f"{path}: {version} is {since - ends[own[-1]]:.3f} s late, of an age of {age_s} s")
            else:
                places[reader] = place
    return found


# --- the rows -----------------------------------------------------------------------------------------------------


def token_of(root: Path) -> str:
    """Return a new token of a viewer."""
    opened = open_project(root)
    with opened.store.write("bench") as tx:
        _, secret = tokens.create(tx, f"bench-{time.time_ns()}", Role.VIEWER, None)
    opened.close()
    return secret


def _told(told: Told) -> str:
    assert not told.errors, told.errors
    return f"{told.a_second:,.0f} answers a second, half of them within {told.p50_ms:.1f} ms"


def measure_readers(turns: int, seconds: float, number: int = 1000) -> list[Row]:
    """Readers that each ask about twice a second, with a swap of everything they read every 50 ms, and without."""
    with farm(30, FRUITS[:2]) as root, farm(30, FRUITS[:2]) as other:
        every = paths(root)
        with serving(root) as service:
            found: dict[str, list[Told]] = {"alone": [], "beside": [], "swaps": [], "streams": [], "halves": []}
            for _ in range(turns):
                # In turns: what else the machine does falls on all alike.
                for what, told in found.items():
                    asked = Asked(
                        service.address, every, number, seconds, pause_s=0.5, skip_s=1.5, check=True,
                        streams=200 if what == "streams" else 0, halves=500 if what == "halves" else 0,
                    )  # fmt: skip
                    if what == "alone":
                        told.append(load(asked))
                    else:
                        with swaps(other if what == "beside" else root, seconds + 1, 0.05):
                            told.append(load(asked))
                    wrong = problems(root, told[-1])
                    assert not wrong, wrong[:10]
                    assert not told[-1].stale, f"{what}: {told[-1].stale} answers were five seconds old, or more"
            alone, beside, swapped, streams, halves = (
                [one.p99_ms for one in told] for told in found.values()
            )  # fmt: skip
            answers = sum(one.requests for told in found.values() for one in told)
            ended = _ended(service, every)
    ratio = _ratio(swapped, alone)
    what = f"{number:,} readers of {len(every)} forecasts, 99 % within, "
    return [
        Row(
            f"{what}during swaps of all every 50 ms (P-30, P-31)", f"{statistics.median(swapped):.1f} ms",
            spread(min(swapped), max(swapped), "ms", 1),
            f"{ratio:.2f} × of without swaps ({statistics.median(alone):.1f} ms), {_ratio(swapped, beside):.2f} × of the"
            f" same writes to another project; {_told(found['swaps'][-1])}; {answers:,} answers checked, none an error, of"
            " two fits, or backward", "at most 1.5 ×; 0 errors",
        ),
        Row(
            f"{what}during swaps and 200 open streams (P-55)", f"{statistics.median(streams):.1f} ms",
            spread(min(streams), max(streams), "ms", 1),
            f"{_ratio(streams, swapped):.2f} × of without streams, which got {found['streams'][-1].stream_bytes:,} bytes",
            "-",
        ),
        Row(
            f"{what}during swaps, beside 500 connections with half a request (P-55)",
            f"{statistics.median(halves):.1f} ms", spread(min(halves), max(halves), "ms", 1),
            f"{_ratio(halves, swapped):.2f} × of without them", "at most 2 ×",
        ),
        Row(
            "SIGTERM with 200 open streams and 500 readers (P-12)", f"{ended:.1f} s", "-", "ends with code 0",
            "under 30 s",
        ),
    ]  # fmt: skip


def _ratio(ours: list[float], theirs: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def _ended(service: Serving, every: list[str]) -> float:
    """Ask the service to end while readers and streams are at it."""
    took = []

    def end() -> None:
        time.sleep(4)
        took.append(service.end())

    loads([Asked(service.address, every, 500, 8.0, pause_s=0.5, streams=200)], also=end)
    return took[0]


def measure_bare(turns: int, seconds: float) -> list[Row]:
    """Requests a second with a token, beside a bare FastAPI route that returns the same bytes."""
    with farm(1, FRUITS[:2]) as root:
        every, secret = paths(root)[:1], token_of(root)
        with serving(root, "--require-token") as service:
            (root / "body").write_bytes(service.get(every[0], secret))
            port = free_port()
            process = subprocess.Popen([sys.executable, "-c", _BARE, str(root / "body"), str(port)])
            try:
                wait_for(port, process, path="/forecast")
                ours, theirs, costs = [], [], [[], []]  # type: ignore[var-annotated]
                for _ in range(turns):
                    for found, cost, pid, address, path, token in (
                        (ours, costs[0], service.process.pid, service.address, every[0], secret),
                        (theirs, costs[1], process.pid, f"127.0.0.1:{port}", "/forecast", None),
                    ):
                        spent = _processor_s(pid)
                        told = load(Asked(address, [path], 50, seconds, token=token))
                        _told(told)
                        found.append(told.a_second)
                        cost.append((_processor_s(pid) - spent) / told.requests * 1e6)
            finally:
                process.terminate()
                process.wait(20)
    return [
        Row(
            "forecasts a second over HTTP with a token, one process, 50 connections (P-30)",
            f"{statistics.median(ours):,.0f}", spread(min(ours), max(ours), "", 0).strip(),
            f"{_ratio(ours, theirs):.2f} × of a bare FastAPI route with the same body ({statistics.median(theirs):,.0f}),"
            f" {_ratio(costs[1], costs[0]):.2f} × by processor time ({statistics.median(costs[0]):.0f} and"
            f" {statistics.median(costs[1]):.0f} µs each)", "at least 0.7 ×",
        )
    ]  # fmt: skip


def _processor_s(pid: int) -> float:
    """Return the seconds of a processor that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure_memory(retrains: int) -> list[Row]:
    """Memory of the service at rest and after many retrainings, with what else must not grow."""
    with farm(1, FRUITS[:2]) as root:
        quick = {"EVERTRAIN_TICK_S": "0.05", "EVERTRAIN_CHILD_ITEMS": "50", "EVERTRAIN_CHILD_IDLE_S": "3"}
        with serving(root, **quick) as service:
            pid = service.process.pid
            time.sleep(8)
            rest = memory_mb(pid)
            opened = open_project(root)
            held = []
            for number in range(retrains):
                _retrained(opened, {"fruit": FRUITS[number % 2], "town": TOWNS[number % 5]})
                service.get(f"{PATH}?fruit={FRUITS[number % 2]}&town={TOWNS[number % 5]}")
                if number + 1 in (50, retrains):
                    time.sleep(2)
                    held.append(_held(root, pid))
            opened.close()
    early, late = held[0], held[-1]
    grown = 100 * (late["mb"] / early["mb"] - 1)
    return [
        Row("memory of `evertrain serve` at rest", f"{rest:.0f} MB", "-", "-", "under 180 MB"),
        Row(
            f"memory of `evertrain serve` after {retrains} retrains (P-40)", f"{late['mb']:.0f} MB", "-",
            f"{grown:+.1f} % of after the 50th; open files {early['files']:.0f} and {late['files']:.0f}, files in scratch"
            f" folders {late['scratch']:.0f}, write-ahead log {late['wal_mb']:.1f} MB", "at most 5 % more; log under 64 MB",
        ),
    ]  # fmt: skip


def _retrained(opened: Opened, partition: Mapping[str, Any]) -> None:
    """Have the service train one partition, and wait for it."""
    asked = ask.trigger(opened, "kg", [partition], force=True, rollups=False)
    deadline = time.monotonic() + 60
    while True:
        with opened.store.read() as tx:
            if tx.value("SELECT ended_at FROM runs WHERE id = :id", id=asked.run_id):
                return
        assert time.monotonic() < deadline, "the service trains nothing"
        time.sleep(0.01)


def _held(root: Path, pid: int) -> dict[str, float]:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    scratch = root / ".evertrain" / "scratch"
    wal = root / "evertrain.db-wal"
    return {
        "mb": pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        "files": len(list(Path(f"/proc/{pid}/fd").iterdir())),
        "scratch": sum(path.is_file() for path in scratch.rglob("*")),
        "wal_mb": wal.stat().st_size / 2**20 if wal.exists() else 0.0,
    }


# Declares what `lists.project_of` declares.
_MANY = """
from pathlib import Path
from benchmarks.lists import project_of
project = project_of(Path(__file__).parent)
"""
_PAGES = (
    "/", "/models/line", "/models/line?q=Shop-000077", "/runs", "/runs/2", "/data", "/schedules", "/decisions",
    "/events", "/report", "/notifications", "/metrics", "/api/v1/models", "/api/v1/models/line",
    "/api/v1/models/line/partitions?q=77", "/api/v1/runs/2/items", "/api/v1/attention", "/api/v1/status",
)  # fmt: skip


def measure_pages(number: int) -> list[Row]:
    """How long every page, and the larger lists of the API, take in a project of so many partitions."""
    with tempfile.TemporaryDirectory(prefix="evertrain-bench-") as name:
        made = lists.project_of(Path(name))
        with made.opened.store.write() as tx:
            lists.fill(tx, number)
        made.close()
        (made.root / "project.py").write_text(_MANY)
        first, later = {}, {}
        with serving(
            made.root, "--no-loop", PYTHONPATH=os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
        ) as service:
            for page in _PAGES:
                took = [timed(lambda page=page: service.get(page)) * 1e3 for _ in range(6)]  # type: ignore[misc]
                first[page], later[page] = took[0], statistics.median(took[1:])
    slowest, soonest = max(later, key=lambda one: later[one]), max(first, key=lambda one: first[one])
    return [
        Row(
            f"the slowest of {len(_PAGES)} pages and lists, {number:,} partitions: {slowest}",
            f"{later[slowest]:.0f} ms", spread(min(later.values()), max(later.values()), "ms", 0),
            f"half of them within {statistics.median(later.values()):.0f} ms; after a start the slowest is {soonest},"
            f" {first[soonest]:.0f} ms", "under 300 ms",
        )
    ]  # fmt: skip
