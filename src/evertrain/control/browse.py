"""Lists a page at a time: models, partitions, versions, what served, scores, runs, items, decisions, events.

A page costs what it shows: every list is read by an index, from where the page before ended, and none enumerates all
partitions. Where a page ended is its `next`: opaque text, which is checked when it comes back, and good for the same
list with the same filters alone.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

from evertrain import forecasts, registry
from evertrain.clock import from_text, to_text
from evertrain.control import attention, back, steer, tell
from evertrain.control.opened import Opened
from evertrain.errors import ConfigError, NoModelYet, NotFound
from evertrain.events import Event, Kind, sentence
from evertrain.partitions import KeyText, decode, encode
from evertrain.specs import Cause, ModelSpec
from evertrain.specs import encode as as_data
from evertrain.states import ItemState, RunState
from evertrain.store import champions, decisions, demand, items, log, models, runs
from evertrain.store.champions import version_text
from evertrain.store.connect import Record, Tx, dump

MOST = 1000
"""Entries of one page, at most."""

_CURSOR = 4096  # characters, at most
_WORDS, _WORD = 8, 200  # of a search: so many, so long
_SECRET_DATA = ("error",)  # the remote traceback, which is for logs

T = TypeVar("T")


@dataclass(frozen=True)
class Page(Generic[T]):
    """Some entries of a list; `next` is the cursor of the page behind, null on the last one."""

    items: list[T]
    next: str | None


# --- where a page ended -----------------------------------------------------------------------------------------


def write_cursor(listed: str, filters: Mapping[str, Any], place: Sequence[str | int]) -> str:
    """Return where a page ended as text for its caller, who gives it back unchanged."""
    return base64.urlsafe_b64encode(dump([_seal(listed, filters), *place]).encode()).decode().rstrip("=")


def read_cursor(text: str | None, listed: str, filters: Mapping[str, Any], *kinds: type) -> tuple[Any, ...] | None:
    """Return the place that a cursor names, None without one.

    A cursor can only say from where on to read what its caller may read anyway, so it is checked, not signed.

    Raises:
        ConfigError: it is none of this list with these filters.
    """
    if text is None:
        return None
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        seal, *place = json.loads(raw.decode()) if len(text) <= _CURSOR else [None]
    except (ValueError, TypeError, RecursionError, binascii.Error):
        seal, place = None, []
    right = len(place) == len(kinds) and all(
        type(one) is kind and (not isinstance(one, int) or 0 <= one < 2**63)
        for one, kind in zip(place, kinds, strict=True)
    )
    if seal != _seal(listed, filters) or not right:
        raise ConfigError("cursor", text[:60], "the `next` of the page before, of the same list with the same filters")
    return tuple(place)


def _seal(listed: str, filters: Mapping[str, Any]) -> str:
    told = dump([listed, sorted((name, str(value)) for name, value in filters.items() if value is not None)])
    return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _sized(limit: int) -> int:
    if not 1 <= limit <= MOST:
        raise ConfigError("limit", limit, f"1 to {MOST}")
    return limit


def _one_of(name: str, value: str | None, allowed: Sequence[str]) -> str | None:
    if value is not None and value not in allowed:
        raise ConfigError(name, value, ", ".join(allowed))
    return value


def need_list(opened: Opened, limit: int = 50, cursor: str | None = None) -> Page[attention.Need]:
    """Return what needs a human, the most urgent first."""
    after = read_cursor(cursor, "attention", {}, int)
    start = after[0] if after else 0
    found = attention.attention(opened)
    end = start + _sized(limit)
    return Page(found[start:end], write_cursor("attention", {}, [end]) if len(found) > end else None)


# --- models -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ModelDetail(tell.ModelStatus):
    """How one model stands, and what its declaration says.

    Attributes:
        paused: whether it is kept from training by hand, alone or with the whole project.
        auto: what may be done by itself: "train", "observe" or "off".
        dimensions: columns that divide it; `rollups` are the models above, each by the dimensions it keeps.
        trainer, gate, series: as declared; `series` is null where it predicts rows.
        triggers: the kinds of what makes it train.
        generation: MAJOR of the next version.
    """

    paused: bool
    auto: str
    source: str
    target: str
    features: list[str] | str | None
    dimensions: list[str]
    rollups: list[list[str]]
    overall: str
    trainer: dict[str, Any]
    series: dict[str, Any] | None
    triggers: list[str]
    gate: dict[str, Any]
    holdout: float
    generation: int


def model_list(opened: Opened, limit: int = 50, cursor: str | None = None) -> Page[tell.ModelStatus]:
    """Return how models stand, by name."""
    after = read_cursor(cursor, "models", {}, str)
    project = opened.project()
    with opened.store.read() as tx:
        found = models.page(tx, after[0] if after else "", _sized(limit) + 1)
        held = items.held_back(tx)
        shown = [tell.model_status(tx, project, model, held) for model in found[:limit]]
    return Page(shown, write_cursor("models", {}, [shown[-1].name]) if len(found) > limit else None)


def model(opened: Opened, name: str) -> ModelDetail:
    """Return how one model stands and what it is.

    Raises:
        NotFound: no such model.
    """
    project = opened.project()
    with opened.store.read() as tx:
        found = models.by_name(tx, name)
        status = tell.model_status(tx, project, found, items.held_back(tx))
        paused = models.is_paused(tx, name)
    spec, data = found.spec, as_data(found.spec)
    return ModelDetail(
        **asdict(status),
        paused=paused,
        auto=str(models.auto_of(project, spec)),
        source=spec.source,
        target=spec.target,
        features=list(spec.features) if isinstance(spec.features, tuple) else spec.features,
        dimensions=spec.dimensions,
        rollups=[list(kept) for kept in spec.levels],
        overall=spec.overall,
        trainer=data["trainer"],
        series=data["series"],
        triggers=[str(one["kind"]) for one in data["triggers"]],
        gate=data["gate"],
        holdout=spec.holdout,
        generation=found.major,
    )


# --- partitions -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Partition:
    """One partition or rollup of a model: what serves it and how its last training ended.

    Attributes:
        name: as people read it.
        rows: at the last read, null before.
        due, behind: whether it waits for training, and whether its champion does not know the newest yet.
        outcome, outcome_reason: of its last training.
    """

    partition: dict[str, Any]
    name: str
    rollup: bool
    rows: int | None
    version: str | None
    trained_at: datetime | None
    due: bool
    behind: bool
    pinned: bool
    outcome: str | None
    outcome_reason: str | None
    outcome_at: datetime | None


def partition_list(
    opened: Opened, model: str, q: str | None = None, limit: int = 50, cursor: str | None = None, **filters: Any
) -> Page[Partition]:
    """Return partitions and rollups of a model, by key; a page may be short, even empty, before the last one.

    Args:
        q: words, each of which must be part of some value of a key.
        filters: `rollup`, `due`, `behind`, `serving`, `pinned` (true or false) and `outcome`.
    """
    _one_of("outcome", filters.get("outcome"), list(ItemState))
    words = [one for one in re.split(r"[\s,]+", q or "") if one]
    if len(words) > _WORDS or any(len(one) > _WORD for one in words):
        raise ConfigError("q", (q or "")[:60], f"up to {_WORDS} words of up to {_WORD} characters")
    asked = {name: value for name, value in filters.items() if value is not None}
    sealed = {**asked, "model": model, "q": " ".join(words)}
    after = read_cursor(cursor, "partitions", sealed, str)
    with opened.store.read() as tx:
        found = models.by_name(tx, model)
        rows, end = champions.page(
            tx, found.id, found.spec.dimensions, words=words, after=after[0] if after else "", limit=_sized(limit),
            filters=asked,
        )  # fmt: skip
    return Page(
        [_partition(found.spec, row) for row in rows],
        None if end is None else write_cursor("partitions", sealed, [end]),
    )


def _partition(spec: ModelSpec, row: Record) -> Partition:
    return Partition(
        decode(row.key),
        tell.where(spec, row.key),
        not row.leaf,
        row.rows,
        version_text(row),
        _instant(row.trained_at),
        bool(row.due),
        bool(row.behind),
        bool(row.pinned),
        row.outcome,
        row.outcome_reason,
        _instant(row.considered_at),
    )


def key_of(opened: Opened, model: str, named: Mapping[str, str] | None) -> KeyText | None:
    """Return the key of the partition that somebody named in text, with values of the columns' types; of none, None.

    Raises:
        NotFound: no such model, or a name is no dimension of it.
    """
    with opened.store.read() as tx:
        found = models.by_name(tx, model)
    return back.key_of(found.spec, forecasts.typed(found, named)) if named else None


def _place(tx: Tx, model: models.Model, key: KeyText | None) -> Record:
    """Return a partition's row; without a key, of the one that speaks for the model."""
    if key is None:
        place = champions.widest(tx, model.id)
        if place is None:
            raise NoModelYet(registry.no_model_yet(tx, model.id, model.spec, encode({}, model.spec.dimensions)))
        return place
    place = demand.partition(tx, model.id, key)
    if place is None:
        some = ", ".join(champions.some_keys(tx, model.id))
        raise NotFound(f"{model.name} has no partition {key}; it has {some or 'none yet'}")
    return place


# --- versions and champions -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Version:
    """The fits of one run.

    Attributes:
        state: "serving" (somewhere), "archived" (it served), "refused", or the state of its run.
        fits, serving: how many it has, and how many partitions they serve.
        score, value, verdict: of its last fit.
    """

    version: str
    state: str
    created_at: datetime
    run: int | None
    cause: str | None
    reason: str | None
    actor: str | None
    fits: int
    serving: int
    score: str | None
    value: float | None
    verdict: str | None
    scores: dict[str, float | None]


def version_list(opened: Opened, model: str, limit: int = 50, cursor: str | None = None) -> Page[Version]:
    """Return a model's versions, newest first."""
    before = read_cursor(cursor, "versions", {"model": model}, int)
    with opened.store.read() as tx:
        found = models.by_name(tx, model)
        rows = registry.versions(tx, found.id, _sized(limit) + 1, before[0] if before else None)
    shown = [back.version(row) for row in rows[:limit]]
    return Page(
        [
            Version(**{**one, "created_at": from_text(one["created_at"]), "scores": one["scores"] or {}})
            for one in shown
        ],
        write_cursor("versions", {"model": model}, [rows[limit - 1].id]) if len(rows) > limit else None,
    )


@dataclass(frozen=True)
class Champion:
    """What serves a partition now.

    Attributes:
        since_at, actor, why: from when on it serves, who made it champion, and why.
        scores: on the hold-out rows of its training.
        rows: it was trained on.
        pinned: whether challengers are kept away.
    """

    model: str
    partition: dict[str, Any]
    name: str
    version: str
    fit: int
    trained_at: datetime
    age_s: float
    since_at: datetime | None
    actor: str | None
    why: str | None
    rows: int
    scores: dict[str, float | None]
    verdict: dict[str, Any]
    pinned: bool
    behind: bool


def champion(opened: Opened, model: str, key: KeyText | None = None) -> Champion:
    """Return the champion of a partition; without `key`, of the whole.

    Raises:
        NotFound: no such model or partition.
        NoModelYet: nothing serves it yet; says how far the first training is.
    """
    with opened.store.read() as tx:
        found = models.by_name(tx, model)
        place = _place(tx, found, key)
        fit = registry.fits(tx, [place.champion_id]).get(place.champion_id) if place.champion_id else None
        if fit is None:
            raise NoModelYet(registry.no_model_yet(tx, found.id, found.spec, KeyText(place.key)))
        since = next(iter(registry.activations(tx, place.id, 1)), None)
        whole = demand.whole(tx, found.id)
        now = tx.now
    return Champion(
        model,
        decode(place.key),
        tell.where(found.spec, place.key),
        fit.version,
        fit.id,
        fit.trained_at,
        (now - fit.trained_at).total_seconds(),
        _instant(since.from_at) if since else None,
        since.actor if since else None,
        since.why if since else None,
        fit.rows,
        dict(fit.scores.get("challenger") or {}),
        dict(fit.verdict),
        bool(place.pinned),
        max(place.wanted, whole.wanted) > place.trained,
    )


@dataclass(frozen=True)
class Activation:
    """From when to when a fit was champion of a partition, by whom and why.

    Attributes:
        until_at: null while it serves.
        rolled_back: whether an earlier fit took its place.
    """

    version: str
    fit: int
    from_at: datetime
    until_at: datetime | None
    actor: str
    why: str
    rolled_back: bool


def activation_list(
    opened: Opened, model: str, key: KeyText | None = None, limit: int = 50, cursor: str | None = None
) -> Page[Activation]:
    """Return what served a partition, newest first; without `key`, the whole."""
    filters = {"model": model, "key": key}
    before = read_cursor(cursor, "activations", filters, int)
    with opened.store.read() as tx:
        found = models.by_name(tx, model)
        place = _place(tx, found, key)
        rows = registry.activations(tx, place.id, _sized(limit) + 1, before[0] if before else None)
    return Page(
        [
            Activation(
                version_text(row) or "",
                row.fit_id,
                from_text(row.from_at),
                _instant(row.until_at),
                row.actor,
                row.why,
                row.back_to is not None,
            )
            for row in rows[:limit]
        ],
        write_cursor("activations", filters, [rows[limit - 1].id]) if len(rows) > limit else None,
    )


@dataclass(frozen=True)
class Scored:
    """One fit of a partition as the gate judged it, and whether and when it served: a point of the chart of scores.

    Attributes:
        outcome: "promoted", "rejected", "shadowed", "superseded", or "adopted".
        score, value: the score that decided, and what the fit has; `champion_value` is the champion's on the same rows.
        improvement: per cent, positive is better.
        served: when it was champion; `rolled_back` says that an earlier fit took its place.
    """

    fit: int
    version: str
    run: int | None
    cause: str | None
    trained_at: datetime
    outcome: str
    reason: str
    score: str | None
    value: float | None
    champion_value: float | None
    improvement: float | None
    scores: dict[str, float | None]
    rows: int
    seconds: float | None
    serving: bool
    rolled_back: bool
    served: list[Span] = field(default_factory=list)


@dataclass(frozen=True)
class Span:
    """From when to when; `until_at` is null while it lasts."""

    from_at: datetime
    until_at: datetime | None


def score_list(
    opened: Opened, model: str, key: KeyText | None = None, limit: int = 50, cursor: str | None = None
) -> Page[Scored]:
    """Return the fits of a partition with their verdicts, newest first; without `key`, of the whole."""
    filters = {"model": model, "key": key}
    before = read_cursor(cursor, "scores", filters, int)
    with opened.store.read() as tx:
        found = models.by_name(tx, model)
        place = _place(tx, found, key)
        rows = registry.judged(tx, place.id, _sized(limit) + 1, before[0] if before else None)
        served = registry.served_fits(tx, place.id, [row.id for row in rows[:limit]])
    return Page(
        [_scored(row, [one for one in served if one.fit_id == row.id]) for row in rows[:limit]],
        write_cursor("scores", filters, [rows[limit - 1].id]) if len(rows) > limit else None,
    )


def _scored(row: Record, served: Sequence[Record]) -> Scored:
    verdict = json.loads(row.verdict)
    return Scored(
        row.id,
        version_text(row) or "",
        row.run_id,
        row.cause,
        from_text(row.trained_at),
        row.state or "adopted",
        row.reason or verdict.get("reason") or "",
        verdict.get("score"),
        verdict.get("challenger"),
        verdict.get("champion"),
        verdict.get("improvement"),
        json.loads(row.scores).get("challenger") or {},
        row.rows,
        row.seconds,
        bool(row.serving),
        any(one.back_to is not None for one in served),
        [Span(from_text(one.from_at), _instant(one.until_at)) for one in served],
    )


# --- runs -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One execution of a plan and how far it is.

    Attributes:
        kind: "full" or "selective".
        reason: why it was made; `outcome` says how it ended, in words.
        counts: how many of its items are in which state; `done` of `partitions` have ended.
        estimate_s: seconds of one worker, as foreseen; `seconds` what its fits took together.
    """

    run: int
    model: str
    state: str
    kind: str
    cause: str
    reason: str
    actor: str
    version: str | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    partitions: int
    done: int
    counts: dict[str, int]
    estimate_s: float | None
    seconds: float | None
    outcome: str | None


@dataclass(frozen=True, kw_only=True)
class RunDetail(Run):
    """One run with what it came to for its widest partition: versions and scores before and after."""

    old_version: str | None
    new_version: str | None
    score: str | None
    old_value: float | None
    new_value: float | None
    improvement: float | None
    held_until: datetime | None


def run_list(
    opened: Opened, model: str | None = None, state: str | None = None, limit: int = 50, cursor: str | None = None
) -> Page[Run]:
    """Return runs, newest first, of a model and in a state where these are named."""
    _one_of("state", state, list(RunState))
    filters = {"model": model, "state": state}
    before = read_cursor(cursor, "runs", filters, int)
    with opened.store.read() as tx:
        number = models.by_name(tx, model).id if model is not None else None
        rows = runs.page(
            tx, model_id=number, state=state, before=before[0] if before else None, limit=_sized(limit) + 1
        )
        shown = [_run(tx, row) for row in rows[:limit]]
    return Page(shown, write_cursor("runs", filters, [shown[-1].run]) if len(rows) > limit else None)


def run(opened: Opened, run_id: int) -> RunDetail:
    """Return one run.

    Raises:
        NotFound: no such run.
    """
    from evertrain import notify

    with opened.store.read() as tx:
        row = runs.run_row(tx, run_id)
        told = notify.describe(tx, run_id) or {}
        held = items.held_until(tx, run_id) if row.ended_at is None else None
        found = _run(tx, row)
    return RunDetail(
        **asdict(found),
        old_version=told.get("old_version"),
        new_version=told.get("new_version"),
        score=told.get("score"),
        old_value=told.get("old_score"),
        new_value=told.get("new_score"),
        improvement=told.get("improvement"),
        held_until=held,
    )


def _run(tx: Tx, row: Record) -> Run:
    counts = runs.counts_of(tx, row)
    return Run(
        row.id,
        row.model,
        row.state,
        row.kind,
        row.cause,
        row.reason,
        row.actor,
        version_text(row),
        from_text(row.created_at),
        _instant(row.started_at),
        _instant(row.ended_at),
        row.partitions,
        sum(number for state, number in counts.items() if state not in ("waiting", "running")),
        counts,
        row.estimate_s,
        row.seconds,
        row.message,
    )


@dataclass(frozen=True)
class Item:
    """One partition of a run.

    Attributes:
        attempt: how many times it was tried.
        seconds, cpu_s, peak_mb: of its last try.
        joined: whether it was waiting for another run already, which this one joined.
    """

    item: int
    partition: dict[str, Any]
    name: str
    state: str
    cause: str
    reason: str | None
    attempt: int
    seconds: float | None
    cpu_s: float | None
    peak_mb: float | None
    error_class: str | None
    started_at: datetime | None
    ended_at: datetime | None
    joined: bool


def item_list(
    opened: Opened, run_id: int, state: str | None = None, limit: int = 50, cursor: str | None = None
) -> Page[Item]:
    """Return the items of a run, its own and those it joined, by number.

    Raises:
        NotFound: no such run.
    """
    _one_of("state", state, list(ItemState))
    filters = {"run": run_id, "state": state}
    after = read_cursor(cursor, "items", filters, int)
    with opened.store.read() as tx:
        spec = models.by_id(tx, runs.run_row(tx, run_id).model_id).spec
        states = [state] if state else list(ItemState)
        rows = runs.items_page(tx, run_id, states, after[0] if after else 0, _sized(limit) + 1)
    return Page(
        [
            Item(
                row.id,
                decode(row.key),
                tell.where(spec, row.key),
                row.state,
                row.cause,
                row.reason,
                row.attempt,
                row.seconds,
                row.cpu_s,
                row.peak_mb,
                row.error_class,
                _instant(row.started_at),
                _instant(row.ended_at),
                row.run_id != run_id,
            )
            for row in rows[:limit]
        ],
        write_cursor("items", filters, [rows[limit - 1].id]) if len(rows) > limit else None,
    )


# --- schedules, decisions and events ---------------------------------------------------------------------------------------


def schedule_list(
    opened: Opened, model: str | None = None, limit: int = 50, cursor: str | None = None
) -> Page[steer.Scheduled]:
    """Return the active schedules, in order of their next moment."""
    filters = {"model": model}
    after = read_cursor(cursor, "schedules", filters, str, int)
    found = steer.schedule_list(opened, model)  # people wrote them, so there are few
    rest = [one for one in found if after is None or _moment_of(one) > after]
    last = rest[limit - 1] if len(rest) > _sized(limit) else None
    return Page(rest[:limit], None if last is None else write_cursor("schedules", filters, list(_moment_of(last))))


def _moment_of(one: steer.Scheduled) -> tuple[str, int]:
    # "~" is behind every digit: what has no next moment comes last, as the store lists it.
    return to_text(one.next_at) if one.next_at else "~", one.schedule


@dataclass(frozen=True)
class Decided:
    """One answer of a trigger, and how often it was given in a row.

    Attributes:
        fired: whether it asks for training; `action` is what followed: "train", "observe", "report" or "none".
        code, reason, evidence: why, for machines, for people, and the numbers behind it.
        first_at, last_at, times: when and how often the same was answered.
    """

    decision: int
    model: str
    rule: str
    cause: str
    fired: bool
    action: str
    code: str
    severity: str
    confidence: float | None
    reason: str
    evidence: dict[str, Any]
    first_at: datetime
    last_at: datetime
    times: int


def decision_list(
    opened: Opened, model: str | None = None, cause: str | None = None, fired: bool | None = None, limit: int = 50,
    cursor: str | None = None,
) -> Page[Decided]:  # fmt: skip
    """Return decisions, newest first."""
    _one_of("cause", cause, list(Cause))
    filters = {"model": model, "cause": cause, "fired": fired}
    before = read_cursor(cursor, "decisions", filters, str, int)
    with opened.store.read() as tx:
        number = models.by_name(tx, model).id if model is not None else None
        rows = decisions.page(tx, model_id=number, cause=cause, fired=fired, before=before, limit=_sized(limit) + 1)
    return Page(
        [
            Decided(
                row.id,
                row.model,
                row.rule,
                row.cause,
                bool(row.fired),
                row.action,
                row.code,
                row.severity,
                row.confidence,
                row.reason,
                decisions.evidence_of(row),
                from_text(row.first_at),
                from_text(row.last_at),
                row.times,
            )
            for row in rows[:limit]
        ],
        write_cursor("decisions", filters, [rows[limit - 1].last_at, rows[limit - 1].id])
        if len(rows) > limit
        else None,
    )


@dataclass(frozen=True)
class Told:
    """One entry of the log; `text` says it in one plain line."""

    id: int
    at: datetime
    kind: str
    model: str | None
    run: int | None
    actor: str
    data: dict[str, Any]
    text: str


def told(event: Event) -> Told:
    """Return an event as clients get it: whole but for the traceback of a trainer, which is for the log of the service."""
    data = {name: value for name, value in event.data.items() if name not in _SECRET_DATA}
    plain = Event(event.id, event.at, event.kind, event.model, event.run_id, event.actor, data)
    return Told(event.id, event.at, str(event.kind), event.model, event.run_id, event.actor, data, sentence(plain))


def event_list(
    opened: Opened, model: str | None = None, run: int | None = None, kinds: Sequence[str] = (), limit: int = 50,
    cursor: str | None = None,
) -> Page[Told]:  # fmt: skip
    """Return events, newest first."""
    known = [_one_of("kind", one, list(Kind)) for one in kinds]
    filters = {"model": model, "run": run, "kinds": sorted(set(kinds)) or None}
    before = read_cursor(cursor, "events", filters, int)
    with opened.store.read() as tx:
        found = log.before(
            tx, before[0] if before else None, limit=_sized(limit) + 1, model=model, run_id=run,
            kinds=[Kind(one) for one in dict.fromkeys(known) if one],
        )  # fmt: skip
    return Page(
        [told(event) for event in found[:limit]],
        write_cursor("events", filters, [found[limit - 1].id]) if len(found) > limit else None,
    )


def _instant(text: str | None) -> datetime | None:
    return from_text(text) if text else None
