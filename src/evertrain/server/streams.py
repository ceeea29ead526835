"""Live streams: server-sent events that are read from the log, so that they resume where a reader stopped.

Every message that has an id stands for exactly one event of the log and carries its number; whatever else is sent
(heartbeats, the state of a run) has none. So `Last-Event-ID` says exactly what was read, also after a restart. There
is no queue per client: each stream keeps a place in the log and reads on from there, a few at once, and a
reader that does not read holds up itself only (html.spec.whatwg.org, 9.2 Server-sent events).
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import ipaddress
import logging
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import anyio
from fastapi.sse import format_sse_event
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from evertrain import registry
from evertrain.clock import from_text, to_text
from evertrain.control import progress, work
from evertrain.control.tell import where
from evertrain.errors import ConfigError, EvertrainError
from evertrain.events import Event, Kind, numbers, sentence
from evertrain.specs import Custom, Estimator
from evertrain.states import RunState
from evertrain.store import log, models, runs, tokens
from evertrain.store.connect import Store, dump

if TYPE_CHECKING:
    from evertrain.server.service import Service

logger = logging.getLogger("evertrain")

HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

MOST, MOST_EACH = 200, 10
PAGE = 25
_KEPT = 256  # events in memory, for all streams together; who is further behind reads the log
_PIECE = 8 << 10  # bytes sent at once: a reader that does not read holds little more than the connection itself
_LOOK_S, _REST_S = 0.25, 0.05
_STATE_S, _ETA_S = 1.0, 5.0
_RETRY_MS = 2000


@dataclass(frozen=True)
class Limits:
    """How long a stream may take, in seconds.

    Attributes:
        beat_s: silence after which a heartbeat is sent, and the time after which a revoked token ends a stream.
        stall_s: what a reader that does not read may hold up its stream.
        longest_s: a stream's whole life; its reader then begins a new one, where it stopped.
    """

    beat_s: float = 15.0
    stall_s: float = 15.0
    longest_s: float = 1800.0


# --- the end of the log, read once for all -------------------------------------------------------------------------


class Bell:
    """Wakes one stream, from whatever thread; `last` is set when the service ends."""

    def __init__(self) -> None:
        self._loop, self._rung, self.last = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()

    def ring(self, *, last: bool = False) -> None:
        with contextlib.suppress(RuntimeError):  # its event loop has ended
            self._loop.call_soon_threadsafe((self.last if last else self._rung).set)

    async def wait(self, seconds: float) -> None:
        """Wait until it rings, at most so long."""
        with anyio.move_on_after(seconds):
            await self._rung.wait()
        self._rung.clear()


class Tail:
    """The newest events. While anybody listens one thread reads the log, and wakes those who do."""

    def __init__(self, store: Store, stopping: threading.Event) -> None:
        self._store, self._stopping = store, stopping
        self._lock, self._poked = threading.Lock(), threading.Event()
        self._bells: set[Bell] = set()
        self._thread: threading.Thread | None = None
        self._kept: list[Event] = []
        self._told: dict[int, bytes] = {}
        self._since: int | None = None  # all that came behind it is in memory
        self._newest = 0
        store.listeners.append(lambda _: self._poked.set())

    @contextlib.contextmanager
    def heard_by(self, bell: Bell) -> Iterator[None]:
        """Wake the owner of a bell at every new event, and when the service stops, until the block ends."""
        with self._lock:
            self._bells.add(bell)
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="log", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._bells.discard(bell)

    def after(self, event_id: int) -> list[Event] | None:
        """Return the events behind one, a page of them; None where they are not in memory any more."""
        with self._lock:
            if self._since is None or event_id < self._since:
                return None
            start = bisect.bisect_right(self._kept, event_id, key=lambda one: one.id)
            return self._kept[start : start + PAGE]

    def told(self, event: Event) -> bytes:
        """Return an event as a message, rendered once for all who listen; called from the event loop alone."""
        found = self._told.get(event.id)
        if found is None:
            if len(self._told) >= _KEPT:
                del self._told[next(iter(self._told))]
            found = self._told[event.id] = format_sse_event(data_str=dump(as_json(event)), id=str(event.id))
        return found

    def _watch(self) -> None:
        while True:
            self._poked.clear()
            fresh: list[Event] = []
            was = self._since
            try:
                with self._store.read() as tx:
                    newest = log.newest(tx) if was is None else 0
                    fresh = log.after(tx, self._newest) if was is not None else []
            except EvertrainError as error:
                logger.warning("streams stand still: %s", error)
                newest = None
            stopping = self._stopping.is_set()
            with self._lock:
                if was is None and newest is not None:
                    self._kept, self._since, self._newest = [], newest, newest
                elif fresh:
                    self._take(fresh)
                if not self._bells:
                    self._thread = self._since = None
                    return
                # Also at the beginning: what came since a stream has read the log itself is behind its place.
                heard = list(self._bells) if fresh or stopping or was is None else []
            for bell in heard:
                bell.ring(last=stopping)
            time.sleep(_REST_S)  # a burst of events is one page, and not one each
            self._poked.wait(_LOOK_S)

    def _take(self, fresh: Sequence[Event]) -> None:
        self._kept += fresh
        self._newest = fresh[-1].id
        if len(self._kept) > _KEPT:
            self._since = self._kept[-_KEPT - 1].id
            del self._kept[:-_KEPT]


class Streams:
    """All open streams of a service, and what they share."""

    def __init__(self, service: Service, limits: Limits | None = None) -> None:
        self.service, self.limits = service, limits or Limits()
        self.tail = Tail(service.opened.store, service.stopping)
        self.open = 0
        self._by_peer: Counter[str] = Counter()
        self._progress: dict[int, tuple[float, progress.Progress]] = {}
        self._reading = threading.Lock()

    def enter(self, peer: str) -> bool:
        """Take a slot for a reader at an address, if there is one; `leave` gives it back."""
        if self.open >= MOST or (not _is_loopback(peer) and self._by_peer[peer] >= MOST_EACH):
            return False
        self.open += 1
        self._by_peer[peer] += 1
        return True

    def leave(self, peer: str) -> None:
        self.open -= 1
        self._by_peer[peer] -= 1
        if not self._by_peer[peer]:
            del self._by_peer[peer]

    async def how_far(self, run_id: int, *, fresh: bool = False) -> progress.Progress:
        """Return how far a run is, as read in the last second by whomever; `fresh` reads it now."""
        found = self._progress.get(run_id)
        if not fresh and found and time.monotonic() - found[0] < _STATE_S:
            return found[1]
        return await self.service.call(self._read_progress, run_id, time.monotonic())

    def _read_progress(self, run_id: int, asked: float) -> progress.Progress:
        with self._reading:
            found = self._progress.get(run_id)
            if found and found[0] >= asked:  # another stream read it while this one waited
                return found[1]
            began = time.monotonic()
            made = progress.of_run(self.service.opened, run_id)
            self._progress = {
                run: one for run, one in self._progress.items() if began - one[0] < 10 * _STATE_S and run != run_id
            }
            self._progress[run_id] = (began, made)
            return made

    def still_good(self, caller: tokens.Caller | None) -> bool:
        """Return whether a caller's token may still be used."""
        return caller is None or self.service.access.still_good(caller)


def _is_loopback(peer: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(peer).is_loopback
    return peer in ("", "testclient")


# --- one stream ----------------------------------------------------------------------------------------------------

Body = Callable[["Reader"], AsyncGenerator[bytes, None]]


class Reader:
    """What the body of a stream has at hand: its service, and the bell that wakes it."""

    def __init__(self, streams: Streams, bell: Bell) -> None:
        self.streams, self.service, self.bell = streams, streams.service, bell
        self.grace_s = 0.0  # what the body is given to come to its end when the service stops


class EventStream(Response):
    """A stream of server-sent events: slots, heartbeats, time-outs, and the end of it all."""

    media_type = "text/event-stream"

    def __init__(self, service: Service, caller: tokens.Caller | None, body: Body) -> None:
        self.streams, self.caller, self.body_of = service.streams, caller, body
        self.status_code, self.background = 200, None
        self.init_headers(HEADERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        peer = (scope.get("client") or ("",))[0]
        if not self.streams.enter(peer):
            from evertrain.server.app import problem

            detail = f"{self.streams.open} streams are open, all that there may be; the pages and the API answer on"
            await problem(503, detail, {"Retry-After": "30"})(scope, receive, send)
            return
        bell = Bell()
        try:
            with self.streams.service.counters.stream(), self.streams.tail.heard_by(bell):
                await _Sending(self, Reader(self.streams, bell), receive, send).run()
        finally:
            self.streams.leave(peer)


class _Sending:
    """One stream on its way: the body, and beside it what watches the reader, the clock and the service."""

    def __init__(self, stream: EventStream, reader: Reader, receive: Receive, send: Send) -> None:
        self.stream, self.reader, self._receive, self._send = stream, reader, receive, send
        self.limits = stream.streams.limits
        self._turn = anyio.Lock()
        self._sent = time.monotonic()
        self._last = b""
        self._body = anyio.CancelScope()

    async def run(self) -> None:
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._until_gone, group.cancel_scope)
                group.start_soon(self._keep)
                await self._whole()
                group.cancel_scope.cancel()
        except* TimeoutError:
            logger.info("a stream was ended: its reader took nothing for %g s", self.limits.stall_s)

    async def _whole(self) -> None:
        with anyio.fail_after(self.limits.stall_s):
            await self._send({"type": "http.response.start", "status": 200, "headers": self.stream.raw_headers})
        with self._body:
            try:
                await self._put(format_sse_event(retry=_RETRY_MS))
                async with aclosing(self.stream.body_of(self.reader)) as chunks:
                    async for chunk in chunks:
                        await self._put(chunk)
            except EvertrainError as error:  # the reader comes again, and goes on where it stopped
                logger.warning("a stream was ended: %s", error)
        await self._put(self._last, more=False)

    async def _put(self, chunk: bytes, *, more: bool = True) -> None:
        async with self._turn:
            with anyio.fail_after(self.limits.stall_s):
                await self._send({"type": "http.response.body", "body": chunk, "more_body": more})
            self._sent = time.monotonic()

    async def _until_gone(self, scope: anyio.CancelScope) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        scope.cancel()

    async def _keep(self) -> None:
        streams, beat_s = self.stream.streams, self.limits.beat_s
        began = checked = time.monotonic()
        while True:
            with anyio.move_on_after(max(self._sent + beat_s - time.monotonic(), beat_s / 10)):
                await self.reader.bell.last.wait()
                await anyio.sleep(self.reader.grace_s)
                return self._end(
                    format_sse_event(event="server-restart", data_str='"the service ends"', retry=_RETRY_MS)
                )
            now = time.monotonic()
            if now - began >= self.limits.longest_s:
                return self._end(format_sse_event(retry=_RETRY_MS))
            if now - checked >= 0.9 * beat_s:
                checked = now
                if not streams.still_good(self.stream.caller):
                    return self._end(b"")
            if now - self._sent >= beat_s:
                await self._put(b":\n\n")

    def _end(self, last: bytes) -> None:
        self._last = last
        self._body.cancel()


# --- what is sent --------------------------------------------------------------------------------------------------


def message(kind: str, data: object, event_id: int | None = None) -> bytes:
    """Return `{"type": …, "data": …}` as one unnamed message."""
    return format_sse_event(data_str=dump({"type": kind, "data": data}), id=None if event_id is None else str(event_id))


def state(found: progress.Progress) -> bytes:
    """Return how far a run is, as a message called `state`; it has no id."""
    told = asdict(found)
    data = {name: told[name] for name in ("run", "model", "state", "done", "total", "fraction", "eta_s", "text")}
    return format_sse_event(event="state", data_str=dump(data))


def last_event_id(given: str | None) -> int | None:
    """Return the number that a reader's `Last-Event-ID` names, None where it has none.

    Raises:
        ConfigError: it is no number of ours.
    """
    if not given:
        return None
    if not (given.isascii() and given.isdigit() and len(given) <= 18):
        raise ConfigError("Last-Event-ID", given[:40], "the id of a message, or none")
    return int(given)


def start(service: Service, last: int | None) -> int:
    """Return the event behind which a stream of the whole log begins: the last one read, else the newest of now."""
    with service.opened.store.read() as tx:
        newest = log.newest(tx)
    # A store that was brought back from a backup has a shorter log than the reader remembers.
    return newest if last is None else min(last, newest)


async def pages(reader: Reader, place: int, run_id: int | None = None) -> AsyncGenerator[list[Event], None]:
    """Yield what comes into the log behind an event, a few at once; an empty page after a silence."""
    while True:
        kept = reader.streams.tail.after(place)
        if kept is None:
            found, place = await reader.service.call(_read, reader.service, place, run_id)
        else:
            found, place = kept, kept[-1].id if kept else place
        page = [one for one in found if run_id is None or one.run_id == run_id]
        if not found:
            await reader.bell.wait(_ETA_S)
        if page or not found:
            yield page


def _read(service: Service, place: int, run_id: int | None) -> tuple[list[Event], int]:
    """Return a page from the log, and up to where it was read."""
    with service.opened.store.read() as tx:
        found = log.after(tx, place, limit=PAGE) if run_id is None else log.of_run(tx, run_id, place, PAGE)
        return found, found[-1].id if len(found) == PAGE else max(place, log.newest(tx))


# --- the whole log ---------------------------------------------------------------------------------------------------


def as_json(event: Event) -> dict[str, Any]:
    """Return an event as readers of the log get it."""
    return {
        "id": event.id,
        "at": to_text(event.at),
        "kind": str(event.kind),
        "model": event.model,
        "run": event.run_id,
        "actor": event.actor,
        "data": dict(event.data),
        "text": sentence(event),
    }


def live(service: Service, caller: tokens.Caller | None, begin: int) -> EventStream:
    """Return the stream of every event behind `begin`."""

    async def body(reader: Reader) -> AsyncGenerator[bytes, None]:
        async with aclosing(pages(reader, begin)) as found:
            async for page in found:
                told = b""
                for one in page:
                    told += reader.streams.tail.told(one)
                    if len(told) > _PIECE or one is page[-1]:
                        yield told
                        told = b""

    return EventStream(service, caller, body)


# --- one run ---------------------------------------------------------------------------------------------------------


class RunMessages:
    """Turns the events of a run into messages: one each, with the event's number."""

    def __init__(self, service: Service, run_id: int) -> None:
        self.service, self.run_id = service, run_id
        with service.opened.store.read() as tx:
            self.model = models.by_id(tx, runs.run_row(tx, run_id).model_id)
        self._keys: dict[int, str] = {}

    def of(self, event: Event) -> bytes:
        """Return the message of an event, reading what it needs."""
        if event.kind is Kind.RUN_ENDED:
            return self._end(event)
        return message("progress", self.text(event), event.id)

    def text(self, event: Event) -> str:
        """Return an event of the run as one line."""
        if event.kind is Kind.RUN_STARTED:
            return f"Starting {trainer_name(self.model)} training..."
        if event.kind is Kind.ITEM_PROGRESS:
            return progress.named(self.model, self._key(event.data["item"]), str(event.data["text"]))
        return sentence(replace(event, run_id=None, model=None)).partition("\n")[0]

    def _key(self, item: int) -> str:
        if item not in self._keys and self.model.spec.partition_by:
            with self.service.opened.store.read() as tx:
                self._keys[item] = runs.key_of(tx, item)
        return self._keys.get(item, "{}")

    def tidied_away(self) -> Event | None:
        """Return an end for a run whose own is in the log no more, under the number of the newest event."""
        with self.service.opened.store.read() as tx:
            if log.newest_of(tx, self.run_id, Kind.RUN_ENDED, 1):
                return None
            row, newest = runs.run_row(tx, self.run_id), log.newest(tx)
        return Event(newest, from_text(row.ended_at), Kind.RUN_ENDED, row.model, self.run_id, data={"state": row.state})

    def _end(self, event: Event) -> bytes:
        found = work.outcome(self.service.opened, self.run_id)
        ended = RunState(event.data["state"])
        if ended in (RunState.FAILED, RunState.CANCELLED):
            return message("error", f"{self.model.name}: run {self.run_id} {ended}: {found.reason}", event.id)
        return message("result", result(found, ended), event.id)


def result(found: work.Outcome, ended: RunState) -> dict[str, Any]:
    """Return what became of a run as its stream's last message says it."""
    status = "success" if ended is RunState.SUCCEEDED else str(ended)
    told = {("run" if name == "run_id" else name): value for name, value in asdict(found).items()}
    return {"status": status, "meta": told}


def trainer_name(model: models.Model) -> str:
    """Return what a model's trainer is called: the name of its class, without a word for what every one is."""
    trainer = model.spec.trainer
    if isinstance(trainer, Estimator | Custom):
        name = trainer.path.rpartition(":")[2].rpartition(".")[2]
        return name.removesuffix("Forecaster").removesuffix("Trainer") or name
    return model.name


def run_goes_on(service: Service, run_id: int, last: int | None) -> bool:
    """Return whether the stream of a run has anything left to say behind the last event that was read.

    Raises:
        NotFound: no such run.
    """
    with service.opened.store.read() as tx:
        row = runs.run_row(tx, run_id)
        if last is None or row.state in (RunState.QUEUED, RunState.RUNNING):
            return True
        end = log.newest_of(tx, run_id, Kind.RUN_ENDED, 1)
        return bool(end) and last < end[0].id


def of_run(service: Service, caller: tokens.Caller | None, run_id: int, last: int) -> EventStream:
    """Return the stream of a run behind event `last`, up to its result; named `state` messages lie between."""

    async def body(reader: Reader) -> AsyncGenerator[bytes, None]:
        async with aclosing(run_messages(reader, run_id, last)) as found:
            async for chunk, _ in found:
                yield chunk

    return EventStream(service, caller, body)


async def run_messages(reader: Reader, run_id: int, last: int) -> AsyncGenerator[tuple[bytes, Event | None], None]:
    """Yield the messages of a run behind event `last`, each with its event if it has one, until the run has ended."""
    service, streams = reader.service, reader.streams
    told = await service.call(RunMessages, service, run_id)
    found = await streams.how_far(run_id)
    yield state(found), None
    if found.ended and (end := await service.call(told.tidied_away)):
        yield await service.call(told.of, end), end
        return
    shown, said = found, time.monotonic()
    async with aclosing(pages(reader, last, run_id)) as listened:
        async for page in listened:
            for event in page:
                if event.kind is Kind.RUN_ENDED:
                    yield state(await streams.how_far(run_id, fresh=True)), None
                    yield await service.call(told.of, event), event
                    return
                yield await service.call(told.of, event), event
            found = await streams.how_far(run_id)
            if replace(found, eta_s=shown.eta_s) != shown or time.monotonic() - said >= _ETA_S:
                shown, said = found, time.monotonic()
                yield state(found), None


# --- forecasts that changed --------------------------------------------------------------------------------------------


def changed_fits(event: Event) -> list[int]:
    """Return the fits that began to serve with an event."""
    if event.kind is Kind.ITEMS_SETTLED:
        return numbers(event.data["outcomes"].get("promoted", ""))
    if event.kind is Kind.CHAMPION_ROLLED_BACK:
        return numbers(event.data["fits"])
    if event.kind is Kind.CHAMPION_ADOPTED:
        return [event.data["fit"]]
    if event.kind is Kind.ARTIFACT_DAMAGED and event.data.get("champion"):
        return [event.data["champion"]]
    return []


_WHY = {
    Kind.ITEMS_SETTLED: "promoted",
    Kind.CHAMPION_ROLLED_BACK: "rolled back",
    Kind.CHAMPION_ADOPTED: "adopted",
    Kind.ARTIFACT_DAMAGED: "damaged",
}
_MOST_NAMED = 500


def forecast_change(service: Service, event: Event, model: str | None = None) -> bytes | None:
    """Return which forecasts changed with an event, as one message; None where none did."""
    if not (fits := changed_fits(event)):
        return None
    with service.opened.store.read() as tx:
        rows = registry.partitions_of(tx, fits[:_MOST_NAMED])
        if not rows:
            return None
        found = models.by_id(tx, rows[0].model_id)
    if found.spec.series is None or (model is not None and found.name != model):
        return None
    data = {
        "at": to_text(event.at),
        "model": found.name,
        "why": _WHY[event.kind],
        "count": len(fits),
        "forecasts": [
            {"partition": where(found.spec, one.key), "version": f"{one.major}.{one.minor}.{one.patch}"} for one in rows
        ],
    }
    return format_sse_event(data_str=dump({"type": "forecast", "data": data}), id=str(event.id))


def of_forecasts(service: Service, caller: tokens.Caller | None, begin: int, model: str | None) -> EventStream:
    """Return the stream of forecasts that changed behind event `begin`, of one model or of all."""

    async def body(reader: Reader) -> AsyncGenerator[bytes, None]:
        async with aclosing(pages(reader, begin)) as found:
            async for page in found:
                for event in page:
                    if changed_fits(event) and (one := await service.call(forecast_change, service, event, model)):
                        yield one

    return EventStream(service, caller, body)
