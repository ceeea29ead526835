"""What charts are drawn from: scores over time, drift checks, forecasts beside what happened.

Every read here is bounded, and none enumerates partitions.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from evertrain import notify, registry, scores
from evertrain.clock import from_text
from evertrain.control import browse, forecast, tell
from evertrain.control.opened import Opened
from evertrain.errors import EvertrainError, NoModelYet, NotFound, reason_of
from evertrain.events import Kind
from evertrain.forecasts import Forecast, Forecasts
from evertrain.partitions import KeyText, Value, encode
from evertrain.specs import Dataset, ModelSpec
from evertrain.store import champions, datasets, demand, evaluations, models, sources
from evertrain.store.connect import Record

_MOST_ROWS = 20_000  # of a dataset, up to which a page reads the rows below a rollup: more would keep it waiting
_DAYS = 90


@dataclass(frozen=True)
class Back:
    """A rollback: when an earlier version took over, by whom and why."""

    at: datetime
    version: str
    actor: str
    why: str


_BACK = 20  # rollbacks of a model that are looked at


@dataclass(frozen=True)
class ScoresOverTime:
    """How a partition's fits scored, oldest first, when they served, and which gave way again.

    Attributes:
        score: the one that decides; empty before the first fit.
        back, elsewhere: the newest rollbacks of this partition, and those of others of the model.
        before: all scores of the champion that the newest fit was compared with, on the same rows; empty without one.
    """

    partition: str
    key: KeyText
    pinned: bool
    score: str
    unit: str
    higher_is_better: bool
    fits: tuple[browse.Scored, ...] = ()
    back: tuple[Back, ...] = ()
    elsewhere: tuple[Back, ...] = ()
    before: Mapping[str, float | None] = field(default_factory=dict)


def over_time(opened: Opened, model: str, key: KeyText | None = None, limit: int = 60) -> ScoresOverTime | None:
    """Return the scores of a partition's newest fits; without `key` of the widest, None where there is none yet.

    Raises:
        NotFound: no such model or partition.
    """
    with opened.store.read() as tx:
        found = models.by_name(tx, model)
        place = champions.widest(tx, found.id) if key is None else demand.partition(tx, found.id, key)
    if place is None:
        return None
    key = KeyText(place.key)
    fits = browse.score_list(opened, model, key, limit).items
    served = browse.activation_list(opened, model, key, limit).items
    back = [
        Back(now.from_at, now.version, now.actor, now.why)
        for now, before in itertools.pairwise(served)
        if before.rolled_back
    ]
    score = next((one.score for one in fits if one.score), None) or found.spec.gate.score
    # A model may have been judged by another score before: one line is of one score.
    fits = [
        one
        if one.score in (None, score)
        else replace(one, value=one.scores.get(score) if score else None, champion_value=None, improvement=None)
        for one in fits
    ]
    known = scores.get(score) if score else None
    before: Mapping[str, float | None] = {}
    if fits:
        with opened.store.read() as tx:
            before = registry.fits(tx, [fits[0].fit])[fits[0].fit].scores.get("champion") or {}
    return ScoresOverTime(
        tell.where(found.spec, key),
        key,
        bool(place.pinned),
        score or "",
        known.unit if known else "",
        known.higher_is_better if known else True,
        tuple(reversed(fits)),
        tuple(reversed(back)),
        tuple(_elsewhere(opened, model, [one.at for one in back])),
        before,
    )


def _elsewhere(opened: Opened, model: str, own: Sequence[datetime]) -> list[Back]:
    told = browse.event_list(opened, model, kinds=[Kind.CHAMPION_ROLLED_BACK], limit=_BACK).items
    return [Back(one.at, one.data["to"], one.actor, one.data["why"]) for one in reversed(told) if one.at not in own]


@dataclass(frozen=True)
class Checked:
    """One drift check in the past."""

    at: datetime
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
        Checked(from_text(row.at), tell.where(found.spec, row.key), row.severity, bool(row.fired), row.reason)
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

    The rows below a rollup of a large dataset are not read for it: they would take longer than anybody waits.

    Raises:
        NotFound: a name is no dimension, or the model declares no such rollup.
    """
    try:
        found = Forecasts(opened.store, opened.artifacts, model, opened.inline).read(partition)
    except NoModelYet as error:
        return Ahead(None, unsaid=str(error))
    with opened.store.read() as tx:
        spec = models.by_name(tx, model).spec
        dataset = datasets.by_name(tx, spec.source)
    if dataset is None:
        return Ahead(found, unsaid="its rows are in a file, which is not read for a picture")
    if dataset.rows > _MOST_ROWS and set(partition) != set(spec.dimensions):
        return Ahead(found, unsaid=f"{dataset.rows:,} rows are too many to be read for a picture")
    try:
        labels, values = forecast.actuals(opened, model, partition)
    except EvertrainError as error:
        return Ahead(found, unsaid=reason_of(error))
    known = [(at, value) for at, value in zip(labels, values, strict=True) if value == value]
    return Ahead(found, tuple(known[-periods:]))


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
        # Eight dimensions of four readings each would be too many keys to ask for.
        combined = itertools.islice(itertools.product(*(_readings(text) for text in wanted.values())), 256)
        tried = [encode(dict(zip(wanted, one, strict=True)), found.spec.dimensions) for one in combined]
        there = champions.known_keys(tx, found.id, tried)
    key = next((one for one in tried if one in there), None)
    if key is None:
        said = ", ".join(f"{name}={text}" for name, text in wanted.items())
        raise NotFound(f"{model} has no partition {said}; the search box on its page finds those that it has")
    return key


def _readings(text: str) -> list[Value]:
    """Return what a text may stand for: itself, then the number, the truth value or the missing value it writes."""
    found: list[Value] = [text]
    if text in ("", "None"):
        found.append(None)
    with contextlib.suppress(ValueError):
        plain = json.loads(text)
        if isinstance(plain, bool | int) or (isinstance(plain, float) and math.isfinite(plain)):
            found.append(plain)
    return found


def declaration(opened: Opened, model: str) -> ModelSpec:
    """Return a model's effective declaration.

    Raises:
        NotFound: no such model.
    """
    with opened.store.read() as tx:
        return models.by_name(tx, model).spec


@dataclass(frozen=True)
class Kept:
    """One declared dataset as it stands.

    Attributes:
        columns: type by name; empty before the first batch.
        users: the models that are trained on it.
        batches: the newest ones.
    """

    name: str
    key: tuple[str, ...]
    time: str | None
    rows: int
    version: int
    columns: Mapping[str, str]
    users: tuple[str, ...]
    batches: Sequence[Record]


def kept(opened: Opened, limit: int = 20) -> list[Kept]:
    """Return the declared datasets, each with its newest batches."""
    project = opened.project()
    found = []
    with opened.store.read() as tx:
        declared = models.every(tx)
        for name, source in project.sources.items():
            if not isinstance(source, Dataset):
                continue
            dataset = datasets.by_name(tx, name)
            found.append(
                Kept(
                    name,
                    tuple(source.key),
                    source.time,
                    dataset.rows if dataset else 0,
                    dataset.version if dataset else 0,
                    dataset.columns if dataset else {},
                    tuple(one.name for one in declared if one.spec.source == name),
                    datasets.batches(tx, dataset, limit) if dataset else (),
                )
            )
    return found


@dataclass(frozen=True)
class Elsewhere:
    """A source that stays where it is, as it was read last."""

    name: str
    kind: str
    rows: int | None
    read_at: str | None
    problem: str | None
    users: tuple[str, ...]


def elsewhere(opened: Opened) -> list[Elsewhere]:
    """Return the sources that are no datasets."""
    project = opened.project()
    with opened.store.read() as tx:
        declared = models.every(tx)
        states = {name: sources.state(tx, name) for name in project.sources}
    return [
        Elsewhere(
            name,
            source.kind,
            row.rows if row else None,
            row.read_at if row else None,
            row.problem if row else None,
            tuple(one.name for one in declared if one.spec.source == name),
        )
        for name, source in project.sources.items()
        if not isinstance(source, Dataset)
        for row in [states[name]]
    ]


@dataclass(frozen=True)
class Notice:
    """What channels are told of an ended run."""

    at: datetime
    run: int
    status: str
    promoted: bool
    text: str


def notices(opened: Opened, limit: int = 20) -> list[Notice]:
    """Return what the channels were told of the newest ended runs, newest first; runs with nothing to tell are left out."""
    ended = browse.event_list(opened, kinds=[Kind.RUN_ENDED], limit=limit).items
    with opened.store.read() as tx:
        told = [(event, notify.describe(tx, event.run)) for event in ended if event.run is not None]
    return [
        Notice(event.at, one["run_id"], one["status"], bool(one["promoted"]), one["text"])
        for event, one in told
        if one is not None and (one["promoted"] or one["status"] != "success" or one.get("verdict"))
    ]
