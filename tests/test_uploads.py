"""Uploads: a whole file becomes one batch, and of anything else nothing is left."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import threading
from pathlib import Path

import anyio
import polars as pl
import pytest
from starlette.requests import Request
from starlette.testclient import TestClient

from evertrain import Custom, Project, Settings, on_data_change
from evertrain.loop import Loop
from evertrain.server import app, intake, uploads
from evertrain.server.service import Options, Service

from .conftest import TOYS
from .test_streams import parsed

URL = "/api/v1/datasets/sales/batches"
LIMIT = 1 << 20


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    root = tmp_path_factory.mktemp("uploads")
    (root / "toys.py").write_text(TOYS.read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root))
        project = Project("test", root=root, settings=Settings(tick_s=0.05, check_s=3600), executor="inline")
        sales = project.dataset("sales", key=["day", "shop"], time="day")
        project.model(
            "demand", sales, target="sold", features=["price"], trainer=Custom("toys:Line"), partition_by=["shop"],
            rollups=[[]], overall="Overall", min_samples=5, triggers=[on_data_change("0s")],
        )  # fmt: skip
        found = Service(project.opened, Options(upload_bytes=LIMIT))
        yield found
        found.stopping.set()
        found.staging.close()
        project.close()


@pytest.fixture
def client(service):
    with TestClient(app.create(service), "http://127.0.0.1") as found:
        yield found


@pytest.fixture(autouse=True)
def nothing_left(service):
    """P-35: no file and no descriptor outlives its request."""
    service.staging.close()
    before = descriptors()
    service.staging.folder.mkdir(parents=True, exist_ok=True)
    yield
    assert list(service.staging.folder.iterdir()) == []
    service.staging.close()
    left = {number: name for number, name in descriptors().items() if before.get(number) != name}
    assert [name for name in left.values() if "uploads-" in name or "(deleted)" in name] == []


def descriptors():
    found = {}
    for one in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found[one.name] = str(one.readlink())
    return found


def csv(days=20, shops=("North", "South"), sold=1, first=1):
    lines = ["day,shop,price,sold"]
    for day in range(first, first + days):
        lines += [f"2026-01-{day:02d},{shop},{day}.5,{2 * day + sold}" for shop in shops]
    return "\n".join(lines) + "\n"


def post(client, body, kind="text/csv", **params):
    return client.post(URL, content=body, headers={"Content-Type": kind}, params=params)


def send(client, content, name="june.csv", kind="text/csv", **params):
    return client.post(URL, files={"file": (name, content, kind)}, params=params)


def rows(service):
    with service.opened.store.read() as tx:
        found = tx.row("SELECT rows, version FROM datasets WHERE name = 'sales'")
    return tuple(found) if found else (0, 0)


# --- what becomes a batch --------------------------------------------------------------------------------------------


def test_a_file_becomes_one_batch_however_it_is_sent(service, client):
    """S4-10: as a form or as the body itself, as CSV or Parquet; S0-23 in the answer; Polars stays out of here."""
    made = post(client, csv())
    assert made.status_code == 201, made.text
    first = made.json()
    assert (first["added"], first["dataset"], first["kind"]) == (40, "sales", "ingest")
    assert first["announcements"] == [
        "Records updated. Models for North, South and Overall are being updated in the background."
    ]

    form = send(client, csv(sold=3, days=2)).json()
    assert (form["added"], form["updated"], form["unchanged"]) == (0, 4, 0)
    frame = pl.read_csv(csv(sold=3, days=1, first=25).encode(), try_parse_dates=True)
    path = service.opened.home.root / "rows.parquet"
    frame.write_parquet(path)
    third = post(client, path.read_bytes(), "application/vnd.apache.parquet")
    assert third.json()["added"] == 2

    batches = client.get(URL, params={"limit": 2}).json()
    assert [one["source"] for one in batches["items"]] == ["upload.parquet", "june.csv"]
    rest = client.get(URL, params={"limit": 2, "cursor": batches["next"]}).json()
    assert ([one["batch"] for one in rest["items"]], rest["next"]) == ([first["batch"]], None)
    undone = client.post(f"{URL}/{third.json()['batch']}/undo").json()
    assert (undone["kind"], undone["removed"]) == ("undo", 2)


def test_a_request_that_is_repeated_changes_nothing(client):
    once = client.post(
        URL, content=csv(first=21, days=1), headers={"Content-Type": "text/csv", "Idempotency-Key": "a1"}
    )
    again = post(client, csv(first=21, days=1), token="a1")
    other = post(client, csv(first=22, days=1), token="a1")
    assert (once.status_code, again.status_code, other.status_code) == (201, 200, 409)
    assert again.json()["again"]
    assert again.json()["batch"] == once.json()["batch"]


def test_a_rehearsal_says_what_a_file_would_do_and_merges_nothing(service, client):
    before = rows(service)
    found = send(client, csv(days=21, first=1, shops=("North", "West"), sold=3), dry_run=1)
    assert found.status_code == 200, found.text
    told = found.json()
    assert (told["added"], told["set_aside"], told["fresh"]) == (21, 0, [])
    assert told["updated"] + told["unchanged"] == 21
    assert told["would"] == ["demand: North, West and Overall would be trained"]
    assert rows(service) == before


def test_an_upload_is_followed_to_the_new_model(service, client):
    """S4-10, S4-11, 4.6 item 16: reading, merging, the run, and one result at the end, in the shapes of the documents."""
    stop = threading.Event()
    loop = threading.Thread(target=lambda: Loop(service.opened).run(stop.is_set))
    loop.start()
    try:
        with client.stream(
            "POST", URL, params={"stream": 1}, files={"file": ("a.csv", csv(sold=9), "text/csv")}
        ) as got:
            assert got.headers["content-type"].startswith("text/event-stream")
            messages = [data for _, event, data in parsed("".join(got.iter_text())) if event is None]
    finally:
        stop.set()
        loop.join()
    texts = [one["data"] for one in messages if one["type"] == "progress"]
    assert texts[0] == "Reading uploaded CSV..."
    assert texts[1].startswith("Merging 0 of 40 rows into sales...")
    assert "Starting Line training..." in texts
    assert [one["type"] for one in messages].count("result") == 1
    last = messages[-1]
    assert (last["type"], last["data"]["status"]) == ("result", "success")
    # The loop may have begun the very first training before the file came: then there are two runs to follow.
    assert last["data"]["meta"]["runs"][-1]["outcome"] == "promoted"
    assert last["data"]["meta"]["batch"]["updated"] == 40


def test_a_stream_ends_with_the_reason_why_a_file_is_refused(client):
    with client.stream("POST", f"{URL}?stream=1", files={"file": ("a.csv", "day,shop\n", "text/csv")}) as got:
        messages = [data for _, event, data in parsed("".join(got.iter_text())) if event is None]
    assert [one["type"] for one in messages] == ["progress", "error"]


# --- what does not ---------------------------------------------------------------------------------------------------


def form(*parts, end=True):
    body = b"".join(b"--XX\r\n" + head + b"\r\n\r\n" + content + b"\r\n" for head, content in parts)
    return body + (b"--XX--\r\n" if end else b"")


FILE = b'Content-Disposition: form-data; name="file"; filename="a.csv"\r\nContent-Type: text/csv'
GOOD = csv(days=1).encode()
FORM = "multipart/form-data; boundary=XX"


@pytest.mark.parametrize(
    ("body", "kind", "status", "says"),
    [
        (b"", "text/csv", 400, "empty"),
        (form((FILE, b"")), FORM, 400, "empty"),
        (form((FILE, GOOD), end=False), FORM, 400, "ends in the middle"),
        (form((FILE, GOOD), (FILE, GOOD)), FORM, 400, "more than one file"),
        (form((b'Content-Disposition: form-data; name="note"', b"x"), (FILE, GOOD)), FORM, 400, "'note'"),
        (form((b'Content-Disposition: form-data; name="file"', GOOD)), FORM, 400, "`file`"),
        (form(*[(b'Content-Disposition: form-data; name="x%d"' % i, b"") for i in range(99)]), FORM, 400, "'x0'"),
        (form((FILE + b"\r\nX: " + b"y" * 9000, GOOD)), FORM, 400, "cannot be read"),
        (b"--" + b"-" * 3000, "multipart/form-data; boundary=" + "-" * 3000, 400, "cannot be read"),
        (GOOD, "multipart/form-data", 400, "boundary"),
        (b"x" * (LIMIT + 1), "text/csv", 413, "1 MiB"),
        (form((FILE, b"x" * (LIMIT + 1))), FORM, 413, "1 MiB"),
        (gzip.compress(GOOD, mtime=0), "text/csv", 415, "csv"),
        (b"PK\x03\x04", "application/octet-stream", 415, ".csv or .parquet"),
        (form((FILE.replace(b"a.csv", b"a.csv.gz"), GOOD)), FORM, 415, ".gz"),
        (form((FILE.replace(b"a.csv", b"a.xlsx"), GOOD)), FORM, 415, ".xlsx"),
        (b'day,shop,price,sold\n2026-01-01,"never closed\n', "text/csv", 422, "upload.csv"),
    ],
)  # fmt: skip
def test_what_is_no_whole_good_file_leaves_everything_as_it_was(service, client, body, kind, status, says):
    """P-35, A-32, A-35, A-36, S4-21: refused with the reason, and nothing kept."""
    before = rows(service)
    found = post(client, body, kind)
    assert (found.status_code, says in found.json()["detail"]) == (status, True), found.text
    assert str(service.opened.home.root) not in found.text
    assert rows(service) == before


def test_lines_that_cannot_be_used_are_named(client):
    """A-36: line, column, value and problem of each."""
    bad = csv(days=3) + "2026-02-30,North,1.5,1\n,South,1.5,1\n"
    found = post(client, bad)
    assert found.status_code == 422
    assert [one["line"] for one in found.json()["bad_rows"]] == [8, 9]
    assert found.json()["bad_count"] == 2


def test_more_is_refused_before_it_is_read(tmp_path, monkeypatch):
    """Rows and columns are counted first."""
    from evertrain.errors import DataError

    path = tmp_path / "a.csv"
    path.write_text(csv())
    intake.check_size(path)
    monkeypatch.setattr(intake, "ROWS", 39)
    with pytest.raises(DataError, match="41 rows; at most 39"):
        intake.check_size(path)
    path.write_text(",".join(f"c{i}" for i in range(501)) + "\n")
    with pytest.raises(DataError, match="501 columns; at most 500"):
        intake.check_size(path)
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        intake.check_size(tmp_path / "b.parquet")
    pl.DataFrame({"x": range(41)}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match="41 rows; at most 39"):
        intake.check_size(tmp_path / "a.parquet")


@pytest.mark.parametrize("name", ["../../../etc/passwd.csv", "..\\..\\evil.csv", "C:x.csv", "é" * 400 + ".csv", "-rf.csv",
                                  "con.csv", "~root.csv", "%2e%2e%2fx.csv", "a\u202egpj.csv", "/proc/self/root/x.csv"])  # fmt: skip
def test_a_file_name_is_shown_and_never_a_path(service, name):
    """A-21: on disk a file has a name of ours, whatever its sender calls it."""
    head = b'Content-Disposition: form-data; name="file"; filename="' + name.encode() + b'"\r\nContent-Type: text/csv'

    async def receive():
        return {"type": "http.request", "body": form((head, GOOD))}

    async def take():
        scope = {"type": "http", "method": "POST", "headers": [(b"content-type", FORM.encode())]}
        async with uploads.received(service, Request(scope, receive)) as upload:
            assert upload.path.parent == service.staging.folder
            assert re.fullmatch(r"[0-9a-f]{32}\.csv", upload.path.name)
            assert upload.path.stat().st_mode & 0o777 == 0o600
            assert upload.path.read_bytes() == GOOD
            assert len(upload.name) <= 200
            assert upload.name.isprintable()
            assert "/" not in upload.name

    anyio.run(take)


def test_who_leaves_in_the_middle_leaves_nothing(service):
    """P-35: a hundred uploads that end at half; the fixture looks for what they left."""
    before = rows(service)
    asgi = app.create(service)

    async def half(kind, parts):
        heard = iter([*({"type": "http.request", "body": one, "more_body": True} for one in parts),
                      {"type": "http.disconnect"}])  # fmt: skip

        async def receive():
            return next(heard)

        async def send(message):
            pass

        scope = {"type": "http", "method": "POST", "path": URL, "raw_path": URL.encode(), "query_string": b"",
                 "headers": [(b"host", b"127.0.0.1"), (b"content-type", kind),
                             (b"transfer-encoding", b"chunked")], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
                 "scheme": "http", "http_version": "1.1", "root_path": "", "state": {}}  # fmt: skip
        await asgi(scope, receive, send)

    async def many():
        for i in range(50):
            await half(b"text/csv", [GOOD[: i + 1]])
            await half(FORM.encode(), [form((FILE, GOOD), end=False)[: 4 * i + 1]])

    anyio.run(many)
    assert rows(service) == before


@pytest.mark.parametrize(("code", "status"), [("os._exit(137)", 422), ("os.kill(os.getpid(), 6)", 422),
                                              ("os._exit(3)", 503), ("raise RuntimeError('x')", 503)])  # fmt: skip
def test_the_death_of_a_child_is_an_answer(service, client, tmp_path, monkeypatch, code, status):
    """A file can end the process that reads it, and nothing else."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif 'evertrain.server.intake' in sys.orig_argv:\n"
        f"    sys.stdin.buffer.read()\n    import threading\n    {code}\n    os._exit(0)\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    before = rows(service)
    found = post(client, csv())
    assert found.status_code == status, found.text
    assert rows(service) == before


def test_a_child_that_takes_too_long_is_ended(service, client, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, time\nif 'evertrain.server.intake' in sys.orig_argv:\n    time.sleep(60)\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setattr(uploads, "_READ_S", 0.5)
    found = post(client, csv())
    assert (found.status_code, "could not be read in 0.5 s" in found.json()["detail"]) == (422, True)


# --- the other routes ------------------------------------------------------------------------------------------------


def test_rows_are_corrected_removed_and_written_out(client):
    """A-39: numbers stay numbers, and a text that could be a formula is none for a spreadsheet."""
    send(client, csv(days=1, shops=("=1+1", "-2+3"), first=27))
    edited = client.patch(
        "/api/v1/datasets/sales/rows", json={"rows": [{"day": "2026-01-27", "shop": "=1+1", "sold": -7}]}
    )
    assert edited.json()["updated"] == 1, edited.text
    out = client.get("/api/v1/datasets/sales/export")
    assert out.headers["content-disposition"] == 'attachment; filename="sales.csv"'
    assert out.headers["content-type"] == "text/csv; charset=utf-8"
    lines = [line for line in out.text.splitlines() if line.startswith("2026-01-27")]
    assert sorted(lines) == ["2026-01-27,'-2+3,27.5,55", "2026-01-27,'=1+1,27.5,-7"]
    gone = client.request(
        "DELETE", "/api/v1/datasets/sales/rows",
        json={"rows": [{"day": "2026-01-27", "shop": one} for one in ("=1+1", "-2+3")]},
    )  # fmt: skip
    assert gone.json()["removed"] == 2
    assert client.patch("/api/v1/datasets/sales/rows", json={"rows": [{"day": "2026-01-27"}]}).status_code == 422


def test_datasets_are_listed_with_what_learns_from_them(service, client):
    (one,) = client.get("/api/v1/datasets").json()["items"]
    assert one == client.get("/api/v1/datasets/sales").json()
    assert (one["dataset"], one["key"], one["models"]) == ("sales", ["day", "shop"], ["demand"])
    assert one["columns"] == {"day": "date", "shop": "text", "price": "number", "sold": "integer"}
    assert one["rows"] == rows(service)[0]
    for path in (
        "other",
        "other/batches",
        "other/export",
        "sales/reports/..%2f..%2fevertrain.db",
        "sales/reports/x.csv",
    ):
        assert client.get(f"/api/v1/datasets/{path}").status_code in (400, 404)
    assert json.loads(client.post("/api/v1/datasets/other/batches", content=b"").text)["status"] == 404
