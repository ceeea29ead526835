"""Forecasts over HTTP, from bytes that are rendered once: in front of all other routes, without their machinery.

Each process keeps the forecasts that were asked for. What is kept is looked up in the store again, in one statement,
while readers go on, and rendered anew only where the store holds something else; a reader waits for the look only where
what is kept is nearly a second old, or this process has written to the log since. So a swap is served everywhere within
a second, what `behind` and `stale` say is as young, and no answer mixes two fits. When the store is away, what is kept
answers on, labelled.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import anyio
import anyio.to_thread
from fastapi import APIRouter, Request, Response

from evertrain import registry
from evertrain.clock import to_text
from evertrain.control.opened import Opened
from evertrain.errors import ConfigError, EvertrainError, StoreBusy, StoreError
from evertrain.forecasts import Forecast, Forecasts, Stored, typed
from evertrain.server.metrics import Counters
from evertrain.store.connect import dump

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

logger = logging.getLogger("evertrain")

_LOOK_S = 0.4  # after which what is kept is looked up again, when somebody asks for it
_LIFE_S = 0.8  # after which readers wait for that
_PATIENCE_S = 1.0  # that a reader waits for the store where what is kept can answer
_LONGEST_S = 10.0  # that a reader waits where nothing can
_RENDER_S = 60.0  # that a reader waits for a model that is asked for more than is stored
_AGED_S = 1.0  # without a look at the store, after which answers tell their age
_STALE_S = 5.0  # likewise, after which they warn
_KEPT_BYTES = 32 << 20
_KEPT_QUESTIONS = 10_000
_KEPT_ADDRESS = 512  # bytes of one that is kept
_MOST_RENDERS = 64  # answers that wait to be made at once
_KEPT_VARIANTS = 20  # of one place
_BEFORE, _AFTER = "/api/v1/models/", "/forecast"

Headers = list[tuple[bytes, bytes]]
_Place = tuple[str, tuple[tuple[str, str], ...]]  # model, and values by dimension as they came
_Variant = tuple[int | None, tuple[int, ...] | None]  # h and level


@dataclass(frozen=True)
class _Question:
    place: _Place
    variant: _Variant


@dataclass(frozen=True)
class _Answer:
    body: bytes
    etag: bytes
    headers: Headers
    headers_with_length: Headers


@dataclass(eq=False)
class _Kept:
    """What the store held for a place, when that was looked up, and the answers rendered of it."""

    stored: Stored
    looked: float
    answers: dict[_Variant, _Answer] = field(default_factory=dict)
    size: int = 0

    def __post_init__(self) -> None:
        self.trained = self.stored.trained_at.timestamp()
        self.by = "own" if self.stored.answering == self.stored.key else "rollup"
        self.behind = bool(self.stored.row.behind)


class Answers:
    """ASGI: answers `GET /api/v1/models/{name}/forecast` itself and leaves everything else to the application behind.

    Args:
        counters: count every answer, and how long after its promotion a champion is served here.
    """

    def __init__(self, behind: ASGIApp, opened: Opened, counters: Counters) -> None:
        self.behind, self._opened, self._counters = behind, opened, counters
        self._questions: dict[tuple[str, bytes], _Question] = {}
        self._kept: dict[_Place, _Kept] = {}
        self._size = 0
        self._looks: dict[_Place, tuple[asyncio.Task[_Kept], float]] = {}
        self._renders: dict[tuple[int, _Variant], asyncio.Task[_Answer]] = {}
        self._readers: dict[str, Forecasts] = {}
        self._away = self._written = -1e9
        # Threads of their own: slow requests of others must not keep forecasts waiting, nor one slow trainer all.
        self._quick, self._slow = anyio.CapacityLimiter(2), anyio.CapacityLimiter(1)
        opened.store.listeners.append(self._wrote)

    def _wrote(self, _: list[dict[str, Any]]) -> None:
        self._written = time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope.get("path", "")
        if not (
            path.endswith(_AFTER)
            and path.startswith(_BEFORE)
            and "/" not in path[len(_BEFORE) : -len(_AFTER)]
            and scope["type"] == "http"
            and scope["method"] in ("GET", "HEAD")
        ):
            await self.behind(scope, receive, send)
            return
        try:
            question = self._questions.get((path, scope["query_string"])) or self._read(path, scope["query_string"])
            kept = self._kept.get(question.place)
            age = time.monotonic() - kept.looked if kept is not None else _LIFE_S
            if kept is None or age >= _LIFE_S or kept.looked <= self._written:
                kept = await self._looked(question, kept)
            elif age >= _LOOK_S and question.place not in self._looks and not self._is_away():
                self._begin_look(question, kept)
            answer = kept.answers.get(question.variant) or await self._rendered(question, kept)
        except EvertrainError as error:
            from evertrain.server.app import of_error

            await of_error(error)(scope, receive, send)
            return
        same = any(name == b"if-none-match" and _named(value, answer.etag) for name, value in scope["headers"])
        headers = answer.headers if same else answer.headers_with_length
        if (age := time.monotonic() - kept.looked) >= _AGED_S:
            headers = headers + _aged(int(age))
        await send({"type": "http.response.start", "status": 304 if same else 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if same else answer.body})
        age_s = self._opened.store.clock.now().timestamp() - kept.trained
        self._counters.read(question.place[0], answer=kept.by, behind=kept.behind, age_s=age_s)

    def _read(self, path: str, query: bytes) -> _Question:
        """Return what an address asks for.

        Raises:
            ConfigError: it cannot be read as a question about a forecast.
        """
        values: dict[str, str] = {}
        h: int | None = None
        level: list[int] = []
        try:
            pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=50)
        except ValueError:
            raise ConfigError("query", query[:100].decode("latin-1"), "at most 50 parameters, in UTF-8") from None
        for name, value in pairs:
            if name == "level":
                level += [_whole(name, one, 99) for one in value.split(",")]
            elif name in values or (name == "h" and h is not None):
                raise ConfigError(name, value, "each parameter once, but for level")
            elif name == "h":
                h = _whole(name, value, 10_000)
            else:
                values[name] = value
        variant = h, tuple(sorted(set(level))) or None
        found = _Question((path[len(_BEFORE) : -len(_AFTER)], tuple(sorted(values.items()))), variant)
        if len(path) + len(query) <= _KEPT_ADDRESS:
            if len(self._questions) >= _KEPT_QUESTIONS:
                self._questions.pop(next(iter(self._questions)))
            self._questions[path, query] = found
        return found

    # --- looking --------------------------------------------------------------------------------------------------

    async def _looked(self, question: _Question, kept: _Kept | None) -> _Kept:
        """Return what the store holds now; what is kept where it does not answer in time.

        Raises:
            StoreError: it does not answer, and nothing is kept.
        """
        now = time.monotonic()
        if kept is not None and self._is_away():
            return kept
        task, begun = self._looks.get(question.place, (None, now))
        if task is None or begun <= self._written:
            # One look for all who ask at the same time; one that began before the last write may not have seen it.
            task, begun = self._begin_look(question, kept)
        await _done(task, (_LONGEST_S if kept is None else _PATIENCE_S) - (now - begun))
        try:
            if not task.done():
                raise StoreBusy(f"the store did not answer within {_LONGEST_S:g} s; try again in a moment")
            return task.result()
        except StoreError:
            if (known := self._kept.get(question.place, kept)) is None:
                raise
            return known

    def _is_away(self) -> bool:
        """Whether the store failed a moment ago: it is not asked by every reader then."""
        return time.monotonic() - self._away < _LOOK_S

    def _begin_look(self, question: _Question, kept: _Kept | None) -> tuple[asyncio.Task[_Kept], float]:
        task = asyncio.create_task(self._look(question, kept))
        task.add_done_callback(_seen)
        found = self._looks[question.place] = task, time.monotonic()
        return found

    async def _look(self, question: _Question, kept: _Kept | None) -> _Kept:
        place, began = question.place, time.monotonic()
        try:
            found = await anyio.to_thread.run_sync(self._found, question, kept, began, limiter=self._quick)
        except EvertrainError as error:
            if isinstance(error, StoreError):
                if began - self._away > _STALE_S:
                    logger.warning("forecasts are answered from memory, the store failed: %s", error)
                self._away = time.monotonic()
            else:
                self._forget(place)
            raise
        finally:
            if self._looks.get(place, (None,))[0] is asyncio.current_task():
                del self._looks[place]
        newest = self._kept.get(place)
        if newest is not None and newest.looked > began:
            return newest  # a look that began later was done earlier
        found.looked = began
        self._forget(place)
        self._keep(place, found)
        return found

    def _found(self, question: _Question, kept: _Kept | None, began: float) -> _Kept:
        model, values = question.place
        opened = self._opened
        reader = self._readers.get(model) or Forecasts(opened.store, opened.artifacts, model, opened.inline)
        declared = reader.declared
        self._readers[model] = reader
        for name, value in values:
            if name not in declared.spec.dimensions:
                raise ConfigError(name, value, f"only {', '.join(['h', 'level', *declared.spec.dimensions])}")
        stored = reader.look(typed(declared, dict(values)), known=kept.stored if kept else None)
        if kept is not None and stored is kept.stored:
            return kept
        # Of what nobody asked for meanwhile the time says nothing.
        if kept is not None and stored.row.fit != kept.stored.row.fit and began - kept.looked < _STALE_S:
            with opened.store.read() as tx:
                since = registry.serving_since(tx, stored.row.id)
                self._counters.swapped((tx.now - since).total_seconds() if since else 0.0)
        found = _Kept(stored, began, size=4 * len(stored.row.frame) + sum(len(str(one)) for one in stored.leaves))
        with suppress(EvertrainError):  # others wait for this look, whose questions may be better ones
            if stored.holds(*question.variant):
                self._add(found, question.variant, _render(reader.answer(stored, *question.variant)))
        return found

    def _keep(self, place: _Place, found: _Kept) -> None:
        self._kept[place] = found
        self._size += found.size
        while self._size > _KEPT_BYTES and len(self._kept) > 1:
            self._forget(next(iter(self._kept)))

    def _forget(self, place: _Place) -> None:
        if (before := self._kept.pop(place, None)) is not None:
            self._size -= before.size

    # --- rendering ------------------------------------------------------------------------------------------------

    async def _rendered(self, question: _Question, kept: _Kept) -> _Answer:
        """Return an answer of periods or intervals that nobody asked for till now; the model may have to be asked."""
        key = id(kept), question.variant
        task = self._renders.get(key)
        if task is None:
            if len(self._renders) >= _MOST_RENDERS:
                raise StoreBusy("many forecasts of other periods are being made; try again in a moment")
            limiter = self._quick if kept.stored.holds(*question.variant) else self._slow
            task = asyncio.create_task(self._render(question, kept, limiter))
            task.add_done_callback(_seen)
            self._renders[key] = task
        await _done(task, _RENDER_S)
        if not task.done():
            raise StoreBusy(f"the model did not answer within {_RENDER_S:g} s; try again in a moment")
        return task.result()

    async def _render(self, question: _Question, kept: _Kept, limiter: anyio.CapacityLimiter) -> _Answer:
        try:
            reader = self._readers[question.place[0]]
            found = await anyio.to_thread.run_sync(reader.answer, kept.stored, *question.variant, limiter=limiter)
        finally:
            del self._renders[id(kept), question.variant]
        answer = _render(found)
        present = self._kept.get(question.place) is kept
        if present:
            self._forget(question.place)
        self._add(kept, question.variant, answer)
        if present:
            self._keep(question.place, kept)
        return answer

    @staticmethod
    def _add(kept: _Kept, variant: _Variant, answer: _Answer) -> None:
        if len(kept.answers) >= _KEPT_VARIANTS:
            kept.size -= len(kept.answers.pop(next(iter(kept.answers))).body)
        kept.answers[variant] = answer
        kept.size += len(answer.body)


def _render(found: Forecast) -> _Answer:
    body = dump(found.plain()).encode()
    etag = f'"{hashlib.sha256(body).hexdigest()}"'.encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"etag", etag),
        (b"cache-control", b"no-cache"),
        (b"x-model-version", found.version.encode()),
        (b"x-trained-at", to_text(found.trained_at).encode()),
    ]
    return _Answer(body, etag, headers, [*headers, (b"content-length", str(len(body)).encode())])


async def _done(task: asyncio.Task[Any], seconds: float) -> None:
    """Wait for a task that others wait for, too; it goes on when the time is over."""
    if not task.done() and seconds > 0:
        await asyncio.wait({task}, timeout=seconds)


def _seen(task: asyncio.Task[Any]) -> None:
    """Take note of an error that nobody may be waiting for any more: it was no accident of the event loop."""
    if not task.cancelled():
        task.exception()


def _named(value: bytes, etag: bytes) -> bool:
    """Return whether an If-None-Match header names this answer."""
    return value == etag or any(one.strip().removeprefix(b"W/") in (etag, b"*") for one in value.split(b","))


def _aged(age_s: int) -> Headers:
    """Return the headers of an answer from memory that could not be looked up again."""
    said = [(b"age", str(age_s).encode())]
    if age_s >= _STALE_S:
        warning = f'110 - "the store does not answer; this was known {age_s} s ago"'
        said += [(b"warning", warning.encode()), (b"x-stale", str(age_s).encode())]
    return said


def _whole(name: str, text: str, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 6 and 1 <= int(text) <= most):
        raise ConfigError(name, text, f"a whole number from 1 to {most:,}")
    return int(text)


# --- the description of it ----------------------------------------------------------------------------------------

router = APIRouter(tags=["models"])


class _Handed(Response):
    """Hands the request to `Answers`, wherever that stands."""

    def __init__(self, answers: Answers) -> None:
        super().__init__()
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._answers(scope, receive, send)


_NUMBERS = {"type": "array", "items": {"type": "number"}}
_EXAMPLE = {
    "model": "harvest", "partition": "Avocado, Pilar", "answered_by": "Avocado, Pilar", "version": "1.4.0",
    "ds": ["2026-07-01", "2026-08-01"], "mean": [140.2, 133.9], "freq": "MS", "as_of": "2026-06-01",
    "trained_at": "2026-07-02T03:10:00+00:00", "stale": 0, "behind": False, "fallback": None, "temporary": False,
    "note": None, "lo-80": [120.1, 112.5], "hi-80": [160.3, 155.3],
}  # fmt: skip
_SCHEMA = {
    "type": "object",
    "required": [name for name in _EXAMPLE if not name.endswith("-80")],
    "properties": {
        **{name: {"type": "string"} for name in ("model", "partition", "answered_by", "version", "freq", "as_of")},
        "ds": {"type": "array", "items": {"type": "string"}, "description": "Label of each period, ISO text."},
        "mean": {**_NUMBERS, "description": "One value for each period."},
        "trained_at": {"type": "string", "format": "date-time"},
        "stale": {"type": "integer", "description": "Whole periods that ended since the last one that was learnt."},
        "behind": {"type": "boolean", "description": "Rows changed since; a training is due or under way."},
        "fallback": {"type": ["string", "null"], "description": "Why another than the partition's own model answered."},
        "temporary": {"type": "boolean"},
        "note": {"type": ["string", "null"]},
    },
    "additionalProperties": {
        "type": "array",
        "items": {"type": ["number", "null"]},
        "description": "Bounds of an interval: lo-80, hi-80, ….",
    },
}
_PARAMETERS = [
    {
        "name": "h", "in": "query", "description": "Periods ahead; by default as many as the model declares.",
        "schema": {"type": "integer", "minimum": 1, "maximum": 10_000},
    },
    {
        "name": "level", "in": "query", "description": "Intervals in per cent, repeated or with commas between them.",
        "style": "form", "explode": False,
        "schema": {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 99}}, "example": [80, 95],
    },
    {
        "name": "partition", "in": "query", "style": "form", "explode": True,
        "description": "Values by dimension, such as fruit=Avocado&town=Pilar; fewer name a rollup.",
        "schema": {"type": "object", "additionalProperties": {"type": "string"}},
        "example": {"fruit": "Avocado", "town": "Pilar"},
    },
    {
        "name": "If-None-Match", "in": "header", "description": "ETag of an answer that one has.",
        "schema": {"type": "string"},
    },
]  # fmt: skip


@router.get(
    "/api/v1/models/{name}/forecast",
    operation_id="forecast",
    summary="The stored forecast of a partition or rollup",
    response_class=Response,
    responses={
        200: {
            "description": "The forecast, with ETag, X-Model-Version and X-Trained-At in the headers; Age, and from"
            " 5 seconds on X-Stale and Warning, where the store does not answer and memory does.",
            "content": {"application/json": {"schema": _SCHEMA, "example": _EXAMPLE}},
        },
        304: {"description": "It is what If-None-Match names."},
        404: {"description": "No such model or partition, or nothing was trained yet."},
        422: {"description": "A parameter is no dimension of the model, or its value is not allowed."},
    },
    openapi_extra={"parameters": _PARAMETERS},
)
async def forecast(request: Request, name: str) -> Response:  # noqa: ARG001 - `name` is read from the path
    """Return what a partition or rollup is expected to be, at once: stored with the champion, and never missing.

    A partition without a model of its own is answered by its nearest rollup, and says so.
    """
    return _Handed(request.app.state.answers)
