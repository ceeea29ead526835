"""What charts are drawn from: scores over time, drift checks, forecasts with what happened, runs in time.

Every read here is bounded, and none enumerates partitions.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from evertrain import registry, scores
from evertrain.control import forecast, tell
from evertrain.control.opened import Opened
from evertrain.errors import EvertrainError, NoModelYet, NotFound, reason_of
from evertrain.forecasts import Forecast, Forecasts
from evertrain.partitions import KeyText, Value, decode, encode
from evertrain.specs import ModelSpec
from evertrain.store import champions, datasets, demand, evaluations, models, runs
from evertrain.store.champions import version_text
from evertrain.store.connect import Record, Tx

_MOST_ROWS = 20_000  # of a dataset, below which a page reads the rows of a rollup; they would take it too long
_DAYS = 90


@dataclass(frozen=True)
class Judged:
    """One fit of a partition as the gate judged it.

    Attributes:
        outcome: how its item ended: "promoted", "rejected", "shadowed", "superseded", …; "adopted" for an existing
            file.
        value, champion: the deciding score of it and of the champion it was compared with, on the same rows.
        serving: whether it serves now.
    """

    at: str
    version: str
    run: int | None
    outcome: str
    reason: str
    value: float | None
    champion: float | None
    improvement: float | None
    rows: int
    seconds: float | None
    serving: bool
    scores: Mapping[str, float | None] = field(default_factory=dict)
    before: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Served:
    """From when to when a version was champion of a partition; `back` where it was a rollback."""

    from_at: str
    until_at: str | None
    version: str
    actor: str
    why: str
    back: bool


@dataclass(frozen=True)
class ScoresOverTime:
    """How a partition's fits scored, oldest first, and what served when.

    Attributes:
        score: the one that decides; empty before the first fit.
    """

    partition: str
    key: KeyText
    score: str
    unit: str
    higher_is_better: bool
    fits: tuple[Judged, ...] = ()
    served: tuple[Served, ...] = ()

    @property
    def back(self) -> tuple[Served, ...]:
        """The rollbacks."""
        return tuple(one for one in self.served if one.back)


def over_time(opened: Opened, model: str, key: KeyText | None = None, limit: int = 60) -> ScoresOverTime | None:
    """Return the scores of a partition's newest fits; without `key` of the widest, None where there is none yet.

    Raises:
        NotFound: no such model or partition.
    """
    with opened.store.read() as tx:
        found = models.by_name(tx, model)
        place = _place(tx, found, key)
        if place is None:
            return None
        rows = registry.judged(tx, place.id, limit)
        changes = registry.activations(tx, place.id, limit)
    fits = [_judged(row) for row in reversed(rows)]
    score = next((one for row in rows if (one := json.loads(row.verdict).get("score"))), None) or found.spec.gate.score
    known = scores.get(score) if score else None
    served = [_served(row, changes[n + 1] if n + 1 < len(changes) else None) for n, row in enumerate(changes)]
    return ScoresOverTime(
        tell.where(found.spec, place.key),
        KeyText(place.key),
        score or "",
        known.unit if known else "",
        known.higher_is_better if known else True,
        tuple(fits),
        tuple(reversed(served)),
    )


def _place(tx: Tx, model: models.Model, key: KeyText | None) -> Record | None:
    if key is None:
        return champions.widest(tx, model.id)
    place = demand.partition(tx, model.id, key)
    if place is None:
        raise NotFound(f"{model.name} has no partition {key}")
    return place


def _judged(row: Record) -> Judged:
    verdict, told = json.loads(row.verdict), json.loads(row.scores)
    return Judged(
        row.trained_at,
        version_text(row) or "",
        row.run_id,
        row.state or "adopted",
        row.reason or verdict.get("reason") or "",
        verdict.get("challenger"),
        verdict.get("champion"),
        verdict.get("improvement"),
        row.rows,
        row.seconds,
        bool(row.serving),
        told.get("challenger") or {},
        told.get("champion") or {},
    )


def _served(row: Record, before: Record | None) -> Served:
    back = before is not None and row.fit_id < before.fit_id
    return Served(row.from_at, row.until_at, version_text(row) or "", row.actor, row.why, back)


@dataclass(frozen=True)
class Checked:
    """One drift check in the past."""

    at: str
    partition: str
    severity: str
    fired: bool
    reason: str


def checks(opened: Opened, model: str, days: int = _DAYS, limit: int = 200) -> list[Checked]:
    """Return the newest drift checks of some days, oldest first."""
    with opened.store.read() as tx:
        found = models.by_name(tx, model)
        past = evaluations.told(tx, found.id, tx.now - timedelta(days=days), limit)
    return [
        Checked(row.at, tell.where(found.spec, row.key), row.severity, bool(row.fired), row.reason)
        for row in reversed(past)
    ]


@dataclass(frozen=True)
class Ahead:
    """A forecast beside what happened before it.

    Attributes:
        actuals: label and value of the newest periods, oldest first.
        unsaid: why there is no forecast, or why nothing of the past is drawn; empty otherwise.
    """

    forecast: Forecast | None
    actuals: tuple[tuple[str, float], ...] = ()
    unsaid: str = ""


def ahead(opened: Opened, model: str, partition: Mapping[str, Any], periods: int = 48) -> Ahead:
    """Return the forecast of a partition or rollup and the actuals of the periods before.

    The rows of a rollup above very many are not read for it: the actuals of its backtest are there at once.

    Raises:
        NotFound: a name is no dimension, or the model declares no such rollup.
    """
    try:
        found = Forecasts(opened.store, opened.artifacts, model, opened.inline).read(partition)
    except NoModelYet as error:
        return Ahead(None, unsaid=str(error))
    with opened.store.read() as tx:
        spec = models.by_name(tx, model)
        dataset = datasets.by_name(tx, spec.spec.source)
    few = dataset is not None and (dataset.rows <= _MOST_ROWS or set(partition) == set(spec.spec.dimensions))
    if few:
        try:
            labels, values = forecast.actuals(opened, model, partition)
        except EvertrainError as error:
            return Ahead(found, unsaid=reason_of(error))
        known = tuple((at, value) for at, value in zip(labels, values, strict=True) if value == value)
        return Ahead(found, known[-periods:])
    return Ahead(found, unsaid="the rows behind it are too many to be read for a picture; the forecast is complete")


def search(opened: Opened, model: str, text: str, limit: int = 20) -> list[dict[str, Any]]:
    """Return partitions whose key holds a text: `key`, its `name` and values, version-free and quick."""
    with opened.store.read() as tx:
        found = models.by_name(tx, model)
        rows = demand.search(tx, found.id, text.strip(), limit)
    return [
        {
            "name": tell.where(found.spec, row.key),
            "partition": decode(row.key),
            "rows": row.rows,
            "serving": row.champion_id is not None,
            "due": bool(row.wanted > row.considered),
            "outcome": row.outcome,
            "trained_at": row.trained_at,
            "pinned": bool(row.pinned),
        }
        for row in rows
    ]


@dataclass(frozen=True)
class Span:
    """A run in time.

    Attributes:
        done, total: how many of its items have ended, and how many there are; joined ones count.
        counts: how many items are in which state.
        estimate_s: seconds of one worker that the plan expected; None where nothing was measured before.
    """

    run: int
    model: str
    state: str
    kind: str
    cause: str
    reason: str
    actor: str
    version: str | None
    created_at: str
    started_at: str | None
    ended_at: str | None
    done: int
    total: int
    counts: Mapping[str, int]
    estimate_s: float | None

    @property
    def open(self) -> bool:
        """Whether it has not ended."""
        return self.ended_at is None


def spans(
    opened: Opened, model: str | None = None, state: str | None = None, limit: int = 50, before: int | None = None
) -> list[Span]:
    """Return runs, newest first, each with how far it is. Costs the runs that are listed, not their items.

    Args:
        before: only runs with a smaller number.

    Raises:
        NotFound: no such model.
    """
    with opened.store.read() as tx:
        known = models.by_name(tx, model).id if model else None
        return [_span(tx, row) for row in runs.listed(tx, known, state, limit, before)]


def open_runs(opened: Opened) -> list[Span]:
    """Return the runs that have not ended, oldest first, of the newest hundred."""
    with opened.store.read() as tx:
        return [_span(tx, row) for row in reversed(runs.listed(tx, None, "open", 100, None))]


def _span(tx: Tx, row: Record) -> Span:
    counts = json.loads(row.outcomes) if row.outcomes else {str(k): n for k, n in runs.outcomes_of(tx, row.id).items()}
    done = sum(number for one, number in counts.items() if one not in ("waiting", "running"))
    return Span(
        row.id, row.model, row.state, row.kind, row.cause, row.reason, row.actor, version_text(row), row.created_at,
        row.started_at, row.ended_at, done, row.partitions, counts, row.estimate_s,
    )  # fmt: skip


def named(opened: Opened, model: str, given: Mapping[str, str]) -> KeyText | None:
    """Return the partition that texts name, such as those of an address: "3" is the number where that is a partition.

    None where nothing is named.

    Raises:
        NotFound: no such model, or no such partition of it.
    """
    with opened.store.read() as tx:
        found = models.by_name(tx, model)
        wanted = {name: given[name] for name in found.spec.dimensions if name in given}
        if not wanted:
            return None
        tried = [
            encode(dict(zip(wanted, one, strict=True)), found.spec.dimensions)
            for one in itertools.product(*(_readings(text) for text in wanted.values()))
        ]
        there = champions.known_keys(tx, found.id, tried)
    key = next((one for one in tried if one in there), None)
    if key is None:
        said = ", ".join(f"{name}={text}" for name, text in wanted.items())
        raise NotFound(f"{model} has no partition {said}; the search box on its page finds those that it has")
    return key


def _readings(text: str) -> list[Value]:
    """Return what a text may stand for: itself, then the number, the truth value or the missing value it writes."""
    found: list[Value] = [text]
    with contextlib.suppress(ValueError):
        plain = json.loads(text)
        if plain is None or isinstance(plain, bool | int) or (isinstance(plain, float) and math.isfinite(plain)):
            found.append(plain)
    return found


def declaration(opened: Opened, model: str) -> ModelSpec:
    """Return a model's effective declaration.

    Raises:
        NotFound: no such model.
    """
    with opened.store.read() as tx:
        return models.by_name(tx, model).spec


def is_pinned(opened: Opened, model: str, key: KeyText) -> bool:
    """Return whether a partition's champion is held against every challenger."""
    with opened.store.read() as tx:
        place = demand.partition(tx, models.by_name(tx, model).id, key)
        return place is not None and bool(place.pinned)
