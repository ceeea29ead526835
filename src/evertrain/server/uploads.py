"""Uploads: a file that somebody sends, from the first byte to the batch it becomes.

It is written down as it arrives, under a name of ours, and read by a child with limits (`intake`). Whatever goes wrong
on the way, the file goes and the dataset stays what it was: a batch is seen when it is whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import anyio
from fastapi import HTTPException, Request
from fastapi.responses import Response, StreamingResponse
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from evertrain import errors
from evertrain.control import ask, data, work
from evertrain.datasets import Batch
from evertrain.errors import BadRow, ConfigError, Conflict, DataError, EvertrainError, NotFound, StoreBusy, UnknownName
from evertrain.events import Kind
from evertrain.partitions import printable
from evertrain.server import intake, streams
from evertrain.server.limits import Cut
from evertrain.server.staging import MOST_AT_ONCE
from evertrain.server.streams import EventStream, Reader, message
from evertrain.states import RunState
from evertrain.store.connect import Record
from evertrain.store.tokens import Caller

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

    from evertrain.server.service import Service

logger = logging.getLogger("evertrain")

_READ_S, _STEP_S = 60.0, 60.0
_END_S = 5.0
_BLOCK = 1 << 20
_NAME = 200
_AROUND = 64 << 10  # what a multipart body holds beside the file: boundaries and headers
_CSV = ("text/csv", "application/csv", "text/plain", "application/vnd.ms-excel")  # the last: browsers on Windows
_PARQUET = ("application/vnd.apache.parquet", "application/x-parquet")
_OTHERS = (b"PK", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"%PDF", b"\xd0\xcf\x11\xe0", b"SQLite")


@dataclass(frozen=True)
class Upload:
    """A file that arrived, as it lies in the staging folder.

    Attributes:
        name: how its sender calls it, for people; it names no file here.
    """

    path: Path
    name: str
    size: int


# --- from the wire to a file -----------------------------------------------------------------------------------------


@asynccontextmanager
async def received(service: Service, request: Request) -> AsyncIterator[Upload]:
    """Write down the file of a request; it is removed at the end of the block, whatever happened.

    Raises:
        HTTPException: 400 no file, or not a whole one; 408 too slow; 413 too large; 415 neither CSV nor Parquet.
    """
    limit = service.options.upload_bytes
    if request.headers.get("content-encoding", "identity") != "identity":
        raise HTTPException(415, "a file is taken as it is: no Content-Encoding")
    if (length := request.headers.get("content-length", "")).isdigit() and int(length) > limit + _AROUND:
        raise _too_large(limit)
    kind, options = parse_options_header(request.headers.get("content-type"))
    declared = kind.decode("latin-1")
    path, descriptor = service.staging.create()
    final = path
    try:
        try:
            if declared == "multipart/form-data":
                name, declared, size = await _from_form(request, descriptor, options.get(b"boundary", b""), limit)
            else:
                name, size = "", await _from_body(request, descriptor, limit)
            final = path.with_suffix(_ending(name, declared, os.pread(descriptor, 8, 0)))
            if not size:
                raise HTTPException(400, "the file is empty")
        finally:
            os.close(descriptor)
        path.rename(final)
        yield Upload(final, shown(name) or f"upload{final.suffix}", size)
    finally:
        path.unlink(missing_ok=True)
        final.unlink(missing_ok=True)


def shown(name: str) -> str:
    """Return a file's name as people may read it: its last part, printable, at most 200 characters.

    >>> shown("../../etc/passwd"), shown("C:/data/june.csv")
    ('passwd', 'june.csv')
    """
    return printable(re.split(r"[/\\]", name)[-1].strip())[:_NAME]


def _too_large(limit: int) -> HTTPException:
    return HTTPException(413, f"the file is larger than the {limit / (1 << 20):g} MiB that are taken; send it in parts")


def _ending(name: str, declared: str, head: bytes) -> str:
    """Return the ending that a file is read by, from what its sender and its first bytes say.

    Raises:
        HTTPException: it is neither CSV nor Parquet.

    >>> _ending("june.csv", "", b"day,sold"), _ending("", "application/octet-stream", b"PAR1....")
    ('.csv', '.parquet')
    """
    said = Path(name).suffix.lower() if name else ""
    if head.startswith(b"PAR1") and said in ("", ".parquet") and declared not in _CSV[:2]:
        return ".parquet"
    is_text = said == ".csv" or (not said and declared in (*_CSV, "application/octet-stream", ""))
    if is_text and declared not in _PARQUET and not head.startswith((b"PAR1", *_OTHERS)):
        return ".csv"
    what = said or declared or "what came"
    raise HTTPException(415, f"{printable(what)[:100]} is not taken; send a .csv or .parquet file")


class _File:
    """Writes what arrives, in blocks, and knows how much that is."""

    def __init__(self, descriptor: int, limit: int) -> None:
        self._descriptor, self._limit = descriptor, limit
        self._block = bytearray()
        self.size = 0

    def take(self, part: bytes) -> None:
        self.size += len(part)
        if self.size > self._limit:
            raise _too_large(self._limit)
        self._block += part

    async def flush(self, *, at_least: int = 0) -> None:
        if len(self._block) > at_least:
            block, self._block = self._block, bytearray()
            await anyio.to_thread.run_sync(_write_all, self._descriptor, block)


def _write_all(descriptor: int, block: bytearray) -> None:
    view = memoryview(block)
    while view:
        view = view[os.write(descriptor, view) :]


async def _parts(request: Request) -> AsyncGenerator[bytes, None]:
    while True:
        try:
            received = await request.receive()
        except Cut as cut:  # too much, or too slow
            raise HTTPException(cut.status, cut.detail) from None
        if received["type"] == "http.disconnect":
            raise HTTPException(400, "its sender left in the middle; nothing was kept")
        if part := received.get("body", b""):
            yield part
        if not received.get("more_body", False):
            return


async def _from_body(request: Request, descriptor: int, limit: int) -> int:
    file = _File(descriptor, limit)
    async with aclosing(_parts(request)) as parts:
        async for part in parts:
            file.take(part)
            await file.flush(at_least=_BLOCK)
    await file.flush()
    return file.size


async def _from_form(request: Request, descriptor: int, boundary: bytes, limit: int) -> tuple[str, str, int]:
    """Write down the field `file` of a form; return its file's name, its declared type and its size."""
    file = _File(descriptor, limit)
    form = _Form(file)
    if not boundary:
        raise HTTPException(400, "the form cannot be read: its boundary is missing")
    total = 0
    try:
        parser = MultipartParser(boundary, form.callbacks())
        async with aclosing(_parts(request)) as parts:
            async for part in parts:
                total += len(part)
                if total > limit + _AROUND:
                    raise _too_large(limit)
                parser.write(part)
                await file.flush(at_least=_BLOCK)
        parser.finalize()
    except FormParserError as error:
        raise HTTPException(400, f"the form cannot be read: {printable(str(error))[:200]}") from None
    await file.flush()
    if not form.seen:
        raise HTTPException(400, "the field `file` is missing: a form with one file is needed")
    if not form.ended:
        raise HTTPException(400, "the form ends in the middle; nothing was kept")
    return form.name, form.declared, file.size


class _Form:
    """Follows a form: one field called `file`, with a file, and nothing else."""

    def __init__(self, file: _File) -> None:
        self._file = file
        self._field, self._value = bytearray(), bytearray()
        self._headers: dict[bytes, bytes] = {}
        self.seen = self.ended = False
        self.name = self.declared = ""

    def callbacks(self) -> MultipartCallbacks:
        found: dict[str, Any] = {
            "on_part_begin": self._headers.clear,
            "on_header_field": self._on_field,
            "on_header_value": self._on_value,
            "on_header_end": self._on_header,
            "on_headers_finished": self._on_headers,
            "on_part_data": self._on_data,
            "on_end": self._on_end,
        }
        return cast("MultipartCallbacks", found)

    def _on_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header(self) -> None:
        self._headers[bytes(self._field).lower()] = bytes(self._value)
        self._field, self._value = bytearray(), bytearray()

    def _on_headers(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        if options.get(b"name") != b"file" or b"filename" not in options:
            other = printable(options.get(b"name", b"").decode(errors="replace"))[:60]
            raise HTTPException(400, f"the form has the field {other!r}; one field `file` with a file is taken")
        if self.seen:
            raise HTTPException(400, "the form has more than one file; send one at a time")
        if b"content-transfer-encoding" in self._headers:
            raise HTTPException(415, "a file is taken as it is: no Content-Transfer-Encoding")
        self.seen = True
        self.name = options[b"filename"].decode(errors="replace")
        kind, _ = parse_options_header(self._headers.get(b"content-type"))
        self.declared = kind.decode("latin-1")

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        self._file.take(data[start:end])

    def _on_end(self) -> None:
        self.ended = True


# --- from a file to a batch ------------------------------------------------------------------------------------------

Tell = Callable[[dict[str, Any]], None]


def take_in(service: Service, task: dict[str, Any], tell: Tell = lambda _: None) -> dict[str, Any]:
    """Let a child do something with a file and return what came of it; call it in a thread, it waits.

    Args:
        task: `do`, `dataset` and `path`, see `intake.work`.
        tell: is called with how far the child is.

    Raises:
        DataError: the file cannot be read, or needs more memory or time than there is.
        StoreBusy: too many files are being read, or the child died for a reason of its own.
    """
    staging, opened = service.staging, service.opened
    if not staging.at_once.acquire(timeout=1):
        raise StoreBusy(f"{MOST_AT_ONCE} files are being read already; send it again in a moment")
    try:
        whole = {
            "root": str(opened.home.root),
            "store": f"sqlite:///{opened.store.path}",
            "busy_s": opened.settings.busy_s,
            "source": "",
            "actor": "",
            "token": None,
            "version": None,
            **task,
        }
        return _Child(service, whole).answer(tell)
    finally:
        staging.at_once.release()


class _Child:
    """The child that reads one file, and what it says."""

    def __init__(self, service: Service, task: dict[str, Any]) -> None:
        self._stopping = service.stopping
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `answer`
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "evertrain.server.intake"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            start_new_session=True,
            env={**os.environ, "POLARS_MAX_THREADS": "2", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        self._task = task

    def answer(self, tell: Tell) -> dict[str, Any]:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with contextlib.suppress(BrokenPipeError), process.stdin as stdin:
                stdin.write(json.dumps(self._task).encode())
            found = self._listen(process.stdout.fileno(), tell)
        finally:
            self._end()
            process.stdout.close()
            self._said.seek(0)
            said = self._said.read()[-2000:].decode(errors="replace")
            self._said.close()
        if found is None:
            raise self._lost(process.returncode, said)
        if "refused" in found:
            raise _error(found["refused"])
        done: dict[str, Any] = found["done"]
        return done

    def _listen(self, descriptor: int, tell: Tell) -> dict[str, Any] | None:
        """Return the child's last line; None where it ended without one.

        Raises:
            DataError: it took longer than it may.
        """
        deadline, rest, asked = time.monotonic() + _READ_S, b"", 0.0
        waiting = select.poll()  # not select(): beside a thousand connections its numbers are too small
        waiting.register(descriptor, select.POLLIN)
        while True:
            if self._stopping.is_set() and not asked:
                asked = time.monotonic() + _END_S
            if waiting.poll(100):
                part = os.read(descriptor, 1 << 16)
                if not part:
                    self._process.wait(_END_S)  # so that its own end is seen, and not the one we bring
                    return None
                *lines, rest = (rest + part).split(b"\n")
                for line in lines:
                    found: dict[str, Any] = json.loads(line)
                    if "done" in found or "refused" in found:
                        return found
                    deadline = time.monotonic() + _STEP_S
                    tell(found)
            elif asked and time.monotonic() > asked:
                raise StoreBusy("the service is about to end; nothing of the file was kept, send it again")
            elif time.monotonic() > deadline:
                raise DataError(f"the file could not be read in {_READ_S:g} s; nothing was kept. Send it in parts")

    def _end(self) -> None:
        """End the child with all that it may have started: what it has said is done is done."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _lost(self, code: int, said: str) -> EvertrainError:
        logger.warning("the child that read %s ended with %s: %s", self._task["source"] or "a file", code, said)
        out_of_memory = code in (intake.OUT_OF_MEMORY, -signal.SIGABRT, -signal.SIGKILL, -signal.SIGSEGV)
        if out_of_memory or "MemoryError" in said or "memory allocation" in said:
            return DataError(
                f"the file needs more than the {intake.MEMORY >> 20} MiB of memory that one is given; nothing was kept."
                " Send it in parts"
            )
        return StoreBusy("the file could not be read, for a reason of the service, which its log has; nothing was kept")


def _error(told: dict[str, Any]) -> EvertrainError:
    """Return what a child raised."""
    kind = getattr(errors, told["kind"])
    if kind is DataError:
        text = told["text"].replace(f". All of them are listed in {told['report']}", "")  # a path of this machine
        rows = [BadRow(**one) for one in told["bad_rows"]]
        return DataError(
            text, source=told["source"], column=told["column"], bad_rows=rows, bad_count=told["bad_count"],
            report=told["report"],
        )  # fmt: skip
    if issubclass(kind, ConfigError):
        return ConfigError(told["name"], told["value"], told["allowed"])
    is_plain = issubclass(kind, Conflict | NotFound | errors.StoreError)
    found: EvertrainError = kind(told["text"]) if is_plain else errors.StoreError(told["text"])
    return found


def token_of(request: Request) -> str | None:
    """Return the name of a request under which it is done once only.

    Raises:
        HTTPException: 400, it is too long or not printable.
    """
    found = request.headers.get("idempotency-key") or request.query_params.get("token")
    if found is not None and not (0 < len(found) <= 200 and found.isascii() and found.isprintable()):
        raise HTTPException(400, "Idempotency-Key is 1 to 200 printable ASCII characters")
    return found


def check_dataset(service: Service, name: str) -> None:
    """Refuse a dataset that is not declared.

    Raises:
        NotFound: lists those that are.
    """
    try:
        data.declared(service.opened, name)
    except UnknownName as error:
        raise NotFound(str(error)) from None


def told(service: Service, found: dict[str, Any]) -> dict[str, Any]:
    """Return a batch as it is answered, with what its sender may tell others (S0-23, S0-24)."""
    batch = Batch(**{**found["batch"], "left": tuple(found["batch"]["left"]), "notes": tuple(found["batch"]["notes"])})
    answer = as_json(batch)
    return answer | {
        "announcements": data.announcements(service.opened, batch),
        "bad_rows": bad_rows(service, answer["report"]),
        "runs": data.runs_of(service.opened, batch.dataset),
    }


def as_json(batch: Batch) -> dict[str, Any]:
    """Return a batch as the API answers it."""
    return {
        "batch": batch.number,
        "dataset": batch.dataset,
        "version": batch.version,
        "kind": batch.kind,
        "added": batch.added,
        "updated": batch.updated,
        "removed": batch.removed,
        "unchanged": batch.unchanged,
        "set_aside": batch.set_aside,
        "again": batch.again,
        "left": list(batch.left),
        "notes": list(batch.notes),
        "fits": [vars(one) for one in batch.fits],
        "report": Path(batch.report).name if batch.report else None,
        "text": f"{batch}.",
    }


def would(service: Service, found: dict[str, Any]) -> dict[str, Any]:
    """Return what a file would do, as it is answered."""
    trial = dict(found["trial"])
    report = Path(trial.pop("report")).name if trial["report"] else None
    return {**trial, "would": found["would"], "report": report, "bad_rows": bad_rows(service, report)}


def changed(service: Service, change: Callable[..., Batch], name: str, what: object, actor: str) -> dict[str, Any]:
    """Do an edit, a deletion or an undo, and return the batch that it is, as it is answered."""
    batch = change(service.opened, name, what, actor=actor)
    return as_json(batch) | {"announcements": data.announcements(service.opened, batch)}


def before(cursor: str | None) -> int | None:
    """Return the batch that a page ended with.

    Raises:
        ConfigError: the cursor is none of ours.
    """
    if cursor is not None and not (cursor.isascii() and cursor.isdigit() and len(cursor) <= 18):
        raise ConfigError("cursor", cursor[:40], "the `next` of an earlier page")
    return None if cursor is None else int(cursor)


def listed(row: Record) -> dict[str, Any]:
    """Return a batch of the list, as it is answered."""
    names = (
        "version",
        "kind",
        "source",
        "actor",
        "at",
        "added",
        "updated",
        "removed",
        "unchanged",
        "set_aside",
        "undoes",
    )
    report = Path(row.report).name if row.report else None
    return {"batch": row.id, **{name: getattr(row, name) for name in names}, "report": report}


async def exported(service: Service, name: str, version: int | None, kind: str) -> Response:
    """Return the rows of a dataset as a file to keep; a child writes it, and it goes when it was sent."""
    path, descriptor = service.staging.create(f".{kind}")
    os.close(descriptor)
    try:
        task = {"do": "export", "dataset": name, "path": str(path), "version": version}
        await service.call(take_in, service, task)
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    finally:
        path.unlink()
    media = "text/csv; charset=utf-8" if kind == "csv" else "application/vnd.apache.parquet"
    return StreamingResponse(_blocks(descriptor), media_type=media, headers=_as_file(f"{name}.{kind}"))


async def _blocks(descriptor: int) -> AsyncGenerator[bytes, None]:
    try:
        while block := await anyio.to_thread.run_sync(os.read, descriptor, _BLOCK):
            yield block
    finally:
        os.close(descriptor)


def attachment(content: bytes, name: str) -> Response:
    """Return text as a file to keep."""
    return Response(content, media_type="text/csv; charset=utf-8", headers=_as_file(name))


def _as_file(name: str) -> dict[str, str]:
    return {
        "Content-Disposition": f'attachment; filename="{re.sub("[^A-Za-z0-9._-]", "_", name)}"',
        "X-Content-Type-Options": "nosniff",
    }


def bad_rows(service: Service, report: str | None, most: int = 20) -> list[dict[str, str]]:
    """Return the first rows that were set aside, from the file that lists them."""
    import csv

    if report is None:
        return []
    with (service.opened.home.reports / report).open(newline="") as file:
        return [row for _, row in zip(range(most), csv.DictReader(file), strict=False)]


# --- as a stream -----------------------------------------------------------------------------------------------------


async def stream_upload(service: Service, caller: Caller | None, dataset: str, request: Request) -> Response:
    """Answer an upload as server-sent events: its reading, its merging, the runs that it causes, and one result.

    What can be refused at once is refused as any request is; from the first message on an error is one of the stream.
    """
    await service.call(check_dataset, service, dataset)
    token = token_of(request)
    arriving = received(service, request)
    upload = await arriving.__aenter__()

    async def body(reader: Reader) -> AsyncGenerator[bytes, None]:
        reader.grace_s = _END_S
        what = "CSV" if upload.path.suffix == ".csv" else "Parquet"
        yield message("progress", f"Reading uploaded {what}...")
        try:
            task = {
                "do": "ingest", "dataset": dataset, "path": str(upload.path), "source": upload.name,
                "actor": caller.name if caller else "", "token": token,
            }  # fmt: skip
            found, since = None, await service.call(ask.newest_run, service.opened)
            async with aclosing(_taking_in(service, task)) as heard:
                async for one in heard:
                    if "merging" in one:
                        yield message("progress", f"Merging {one['merging']:,} of {one['of']:,} rows into {dataset}...")
                    else:
                        found = one
            assert found is not None
            batch = await service.call(told, service, found)
            yield message("progress", f"Merged {batch['text']}")
            for said in batch["announcements"]:
                yield message("progress", said)
            reader.grace_s = 0.0
            ended = []
            async with aclosing(_runs_of(reader, dataset, batch, since)) as heard_runs:
                async for chunk, outcome in heard_runs:
                    if outcome is not None:
                        ended.append(outcome)
                    if chunk:
                        yield chunk
        except EvertrainError as error:
            yield message("error", str(error))
            return
        yield _last(batch, ended)

    return _UploadStream(service, caller, body, lambda: arriving.__aexit__(None, None, None))


class _UploadStream(EventStream):
    """A stream whose file goes with it, also where it is not begun since there are too many."""

    def __init__(self, service: Service, caller: Caller | None, body: streams.Body, close: Callable[[], Any]) -> None:
        super().__init__(service, caller, body)
        self._close = close

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._close()


async def _taking_in(service: Service, task: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
    """Yield how far a child is, and in the end what came of it."""
    loop = asyncio.get_running_loop()
    said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def tell(one: dict[str, Any]) -> None:
        loop.call_soon_threadsafe(said.put_nowait, one)

    working = asyncio.ensure_future(service.call(take_in, service, task, tell))
    try:
        while not working.done() or not said.empty():
            waiting = asyncio.ensure_future(said.get())
            await asyncio.wait((working, waiting), return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                yield waiting.result()
            else:
                waiting.cancel()
        yield await working
    finally:
        # Its sender is gone: what was sent is whole, so it is merged all the same.
        with contextlib.suppress(EvertrainError), anyio.CancelScope(shield=True):
            await asyncio.wait((working,))
            working.exception()


async def _runs_of(
    reader: Reader, dataset: str, batch: dict[str, Any], since: int
) -> AsyncGenerator[tuple[bytes, work.Outcome | None], None]:
    """Yield the messages of the runs that a batch causes, one run after the other, each with its outcome at its end."""
    service = reader.service
    changed = batch["added"] + batch["updated"] + batch["removed"]
    found = await service.call(ask.plan_dataset, service.opened, dataset, since) if changed else []
    opened = service.opened
    waiting = await service.call(data.runs_of, opened, dataset)
    if set(found) & set(waiting) and not await service.call(work.loop_alive, opened):
        numbers = ", ".join(map(str, found))
        yield message("progress", f"Nothing trains now: `evertrain start` begins run {numbers}"), None
        return
    for run_id in found:
        async with aclosing(streams.run_messages(reader, run_id, 0)) as heard:
            async for chunk, event in heard:
                if event is None or event.kind is not Kind.RUN_ENDED:
                    yield chunk, None
        outcome = await service.call(work.outcome, service.opened, run_id)
        if len(found) > 1:
            yield message("progress", f"{outcome.model}: {outcome.outcome}, {outcome.reason}"), None
        yield b"", outcome


def _last(batch: dict[str, Any], ended: list[work.Outcome]) -> bytes:
    """Return the one result of an upload: of its run, of several, or of the batch alone where it caused none."""
    failed = [one for one in ended if one.outcome in ("failed", "cancelled")]
    if failed and len(failed) == len(ended):
        return message("error", "; ".join(f"{one.model}: {one.outcome}, {one.reason}" for one in failed))
    told_runs = [streams.result(one, RunState.SUCCEEDED)["meta"] for one in ended]
    meta = (told_runs[0] if len(told_runs) == 1 else {}) | {"batch": batch, "runs": told_runs}
    return message("result", {"status": "partial" if failed else "success", "meta": meta})
