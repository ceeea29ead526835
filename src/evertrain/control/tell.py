"""Telling how things stand: status, history, why; values for every face to render."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from evertrain import notify, registry, replay, scores
from evertrain.clock import from_text
from evertrain.control.opened import Opened, zone_of
from evertrain.errors import ConfigError, NotFound
from evertrain.partitions import KeyText, decode, label
from evertrain.replay import WhatIf
from evertrain.specs import Auto, Drift, MaxAge, ModelSpec, ProjectSpec, encode
from evertrain.store import champions, decisions, demand, evaluations, items, leases, models, runs, schedules, sources
from evertrain.store.connect import Record, Tx
from evertrain.triggers import Decision

_CHECKS_AT_ONCE = 5000


@dataclass(frozen=True)
class ModelStatus:
    """How one model stands.

    Attributes:
        health: "fresh", "behind", "training", "held", "refused", "failing", "no model", "paused", "observing" or "off".
        versions: that serve, newest first; partitions may differ.
        age_s, limit_s: of the oldest champion, and where `max_age` is declared its limit.
        score, value, change: the deciding score, its value for the widest champion, and how much better it was than
            the champion before, in per cent.
        rows, min_rows: usable rows at the last read, and how many a training needs.
        decision, decided_by: the last answer of any trigger in words, and which of them gave it.
        held, held_until: how many trainings wait for the end of a blackout window, and when that is.
    """

    name: str
    health: str
    versions: list[str]
    partitions: int
    due: int
    behind: int
    serving: int
    trained_at: datetime | None
    age_s: float | None
    limit_s: float | None
    score: str | None
    value: float | None
    change: float | None
    rows: int | None
    min_rows: int
    decision: str | None
    decided_at: datetime | None
    next_at: datetime | None
    open_items: int
    problem: str | None
    held: int = 0
    held_until: datetime | None = None
    decided_by: str | None = None


@dataclass(frozen=True)
class Status:
    """How a project stands; `monitoring` says whether a loop is alive, `process` which.

    Attributes:
        fallbacks: how many times a model fell back to a full run since the store began.
    """

    project: str
    zone: str
    auto: str
    monitoring: bool
    since_at: datetime | None
    process: Mapping[str, Any] | None
    paused: bool
    waiting: int
    running: int
    models: list[ModelStatus]
    fallbacks: int = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def status(opened: Opened) -> Status:
    """Return how everything stands now, in one consistent read."""
    project = opened.project()
    with opened.store.read() as tx:
        held = leases.holder(tx, "loop")
        counts, waiting = items.open_counts(tx), items.held_back(tx)
        return Status(
            project.name,
            zone_of(project),
            project.auto,
            held is not None,
            from_text(held["since_at"]) if held else None,
            held["process"] if held else None,
            models.is_paused(tx),
            counts.get("waiting", 0),
            counts.get("running", 0),
            [model_status(tx, project, model, waiting) for model in models.every(tx)],
            tx.counter("fallbacks"),
        )


def model_status(
    tx: Tx, project: ProjectSpec, model: models.Model, held: Mapping[int, tuple[int, datetime]]
) -> ModelStatus:
    """Return how one model stands; `held` are the trainings that blackouts hold back, by model."""
    spec, counted = model.spec, demand.counts(tx, model.id)
    widest = champions.widest(tx, model.id)
    fit = registry.fits(tx, [widest.champion_id]).get(widest.champion_id) if widest and widest.champion_id else None
    oldest = champions.oldest_at(tx, model.id)
    score = (fit.verdict.get("score") if fit else None) or spec.gate.score
    last = next(iter(decisions.latest(tx, model.id)), None)
    limit = next((one.limit.total_seconds() for one in spec.triggers if isinstance(one, MaxAge)), None)
    source = sources.state(tx, spec.source)
    open_items = items.open_of(tx, model.id)
    waiting, until = held.get(model.id, (0, None))
    return ModelStatus(
        name=spec.name,
        health=_health(tx, project, model, counted, open_items, waiting),
        versions=models.serving_versions(tx, model.id, 3),
        partitions=counted["live"],
        due=counted["due"],
        behind=counted["behind"],
        serving=counted["serving"],
        trained_at=oldest,
        age_s=(tx.now - oldest).total_seconds() if oldest else None,
        limit_s=limit,
        score=score,
        value=(fit.scores.get("challenger") or {}).get(score) if fit else None,
        change=fit.verdict.get("improvement") if fit else None,
        rows=model.extract["rows"] if model.extract else None,
        min_rows=spec.least_rows,
        decision=last.reason if last else None,
        decided_at=from_text(last.last_at) if last else None,
        next_at=schedules.next_at(tx, model.id),
        open_items=open_items,
        problem=source.problem if source else None,
        held=waiting,
        held_until=until,
        decided_by=last.cause if last else None,
    )


def _health(
    tx: Tx, project: ProjectSpec, model: models.Model, counted: Mapping[str, int], open_items: int, held: int
) -> str:
    auto = models.auto_of(project, model.spec)
    if model.paused or models.is_paused(tx):
        return "paused"
    if open_items:
        return "training" if open_items > held else "held"
    ended = champions.unserved_ends(tx, model.id)
    if ended & {"failed", "dead"}:
        return "failing"
    if not counted["serving"]:
        return "no model"
    if "rejected" in ended:
        return "refused"
    if auto is not Auto.TRAIN:
        return "observing" if auto is Auto.OBSERVE else "off"
    return "behind" if counted["due"] else "fresh"


def history(opened: Opened, model: str | None = None, limit: int = 20) -> list[dict[str, Any]]:
    """Return runs, newest first: what triggered them, how they ended, how long they took, on which rows.

    Raises:
        NotFound: no such model.
    """
    with opened.store.read() as tx:
        rows = runs.newest(tx, models.by_name(tx, model).id if model else None, limit)
        return [_past(tx, row) for row in rows]


def _past(tx: Tx, row: Record) -> dict[str, Any]:
    told = notify.describe(tx, row.id) or {}
    first = next(iter(runs.items_of(tx, row.id, 1)), None)
    fit = runs.speaking_fit(tx, row.id)
    return {
        "run": row.id,
        "model": row.model,
        "cause": row.cause,
        "kind": row.kind,
        "at": row.created_at,
        "status": told.get("status", row.state),
        "state": row.state,
        "duration_s": told.get("duration"),
        "data_hash": fit.input if fit else first.considered_input if first else None,
        "description": row.reason,
        "actor": row.actor,
        "version": champions.version_text(row),
        "partitions": row.partitions,
        "outcomes": json.loads(row.outcomes or "{}"),
        "verdict": told.get("verdict") or told.get("error") or (first.reason if first else None),
        "improvement": told.get("improvement"),
        "old_version": told.get("old_version"),
        "new_version": told.get("new_version"),
    }


def why(opened: Opened, model: str, key: KeyText | None = None) -> dict[str, Any]:
    """Return why a model was, or was not, trained: the last answer of each trigger, and the last end of a partition.

    Raises:
        NotFound: no such model or partition.
    """
    with opened.store.read() as tx:
        found = models.by_name(tx, model)
        answers = [
            {
                "rule": row.rule,
                "cause": row.cause,
                "fired": bool(row.fired),
                "action": row.action,
                "code": row.code,
                "severity": row.severity,
                "reason": row.reason,
                "evidence": decisions.evidence_of(row),
                "first_at": row.first_at,
                "last_at": row.last_at,
                "times": row.times,
            }
            for row in decisions.latest(tx, found.id)
        ]
        place = _place(tx, found, key)
        fit = registry.fits(tx, [place.champion_id]).get(place.champion_id) if place and place.champion_id else None
        check = evaluations.latest(tx, place.id) if place else None
        source = sources.state(tx, found.spec.source)
    return {
        "model": model,
        "decisions": answers,
        "source": {"problem": source.problem, "read_at": source.read_at} if source else None,
        "partition": None
        if place is None
        else {
            "key": place.key,
            "name": where(found.spec, place.key),
            "rows": place.rows,
            "version": fit.version if fit else None,
            "trained_at": place.trained_at,
            "verdict": fit.verdict if fit else None,
            "outcome": place.outcome,
            "outcome_reason": place.outcome_reason,
            "considered_at": place.considered_at,
            "due": bool(place.wanted > place.considered),
            "wanted": place.reason if place.wanted > place.considered else None,
            "not_before": place.not_before if place.wanted > place.planned else None,
        },
        "drift": None
        if check is None
        else {
            "at": check.at,
            "of_champion": place is not None and check.fit_id == place.champion_id,
            **as_json(check.decision),
        },
    }


def as_json(decision: Decision) -> dict[str, Any]:
    """Return a decision on drift as plain values, with every signal."""
    return {
        "triggered": decision.fired,
        "drift_type": decision.drift_type.value,
        "severity": decision.severity.value,
        "action": decision.action,
        "confidence": decision.confidence,
        "code": decision.code,
        "reason": decision.reason,
        "needs": decision.evidence.get("needs"),
        "evidence": decision.found.as_json() if decision.found else None,
    }


@dataclass(frozen=True)
class Check:
    """The last drift check of a partition: when it was, what was decided, and by which trigger as declared now."""

    at: str
    partition: str
    decision: Decision
    trigger: Drift | None


def last_check(opened: Opened, model: str, key: KeyText | None = None) -> Check | None:
    """Return the last drift check of a partition, without `key` of the one worst off; None where none was checked yet.

    Raises:
        NotFound: no such model or partition.
    """
    with opened.store.read() as tx:
        found = models.by_name(tx, model)
        if key is None:
            check = evaluations.worst(tx, found.id)
        else:
            place = _place(tx, found, key)
            check = evaluations.latest(tx, place.id) if place else None
    if check is None:
        return None
    partition = where(found.spec, check.key) if found.spec.partition_by else ""
    return Check(check.at, partition, check.decision, found.spec.drift)


def what_if(opened: Opened, model: str, days: float = 30, **changes: Any) -> WhatIf:
    """Return how often other thresholds would have fired, on the stored evidence of the checks of some days.

    Raises:
        NotFound: no such model.
        ConfigError: it declares no `on_drift()`, or a change is none that it could declare.
    """
    with opened.store.read() as tx:
        found = models.by_name(tx, model)
        trigger = found.spec.drift
        if trigger is None:
            raise ConfigError(f"triggers of {model}", None, "on_drift(), whose checks are looked at")
        since = tx.now - timedelta(days=days)
        past = evaluations.history(tx, found.id, since, _CHECKS_AT_ONCE)
        if not past:  # before the loop's first check there may be those of a person
            past = evaluations.history(tx, found.id, since, _CHECKS_AT_ONCE, by_hand=True)
    known = [one.decision.found for one in reversed(past) if one.decision.found]
    return replay.what_if(known, trigger, **changes)


def _place(tx: Tx, model: models.Model, key: KeyText | None) -> Record | None:
    if key is None:
        return champions.widest(tx, model.id)
    place = demand.partition(tx, model.id, key)
    if place is None:
        raise NotFound(f"{model.name} has no partition {key}")
    return place


def run_list(opened: Opened, model: str | None = None, limit: int = 20) -> list[dict[str, Any]]:
    """Return runs with how far each is."""
    found = history(opened, model, limit)
    with opened.store.read() as tx:
        for one in found:
            counts = runs.counts_of(tx, runs.run_row(tx, one["run"]))
            one["counts"] = counts
            one["done"] = sum(number for state, number in counts.items() if state not in ("waiting", "running"))
    return found


def run_detail(opened: Opened, run_id: int, limit: int = 100) -> dict[str, Any]:
    """Return one run with its items: state, reason, tries, seconds, memory.

    Raises:
        NotFound: no such run.
    """
    with opened.store.read() as tx:
        row = runs.run_row(tx, run_id)
        spec = models.by_id(tx, row.model_id).spec
        listed = runs.items_of(tx, run_id, limit)
        past = _past(tx, row)
        past["counts"] = runs.counts_of(tx, row)
    past["items"] = [
        {
            "item": one.id,
            "partition": where(spec, one.key),
            "state": one.state,
            "reason": one.reason,
            "attempt": one.attempt,
            "seconds": one.seconds,
            "cpu_s": one.cpu_s,
            "peak_mb": one.peak_mb,
            "error_class": one.error_class,
            "error": one.error,
            "joined": one.run_id != run_id,
        }
        for one in listed
    ]
    return past


def schedule_list(opened: Opened) -> list[dict[str, Any]]:
    """Return the active schedules with their next moment and where they come from."""
    zone = zone_of(opened.project())
    with opened.store.read() as tx:
        return [
            {
                "schedule": row.id,
                "model": row.model,
                "rule": schedules.words(schedules.rule_of(row), zone),
                "next_at": row.next_at,
                "last_at": row.last_at,
                "origin": row.origin,
            }
            for row in schedules.every(tx)
        ]


def config(opened: Opened, model: str) -> dict[str, Any]:
    """Return a model's effective declaration, and which fields were overridden at run time."""
    with opened.store.read() as tx:
        found = models.by_name(tx, model)
        return {"model": model, "declaration": encode(found.spec), "overrides": models.overrides(tx, model)}


def shown_score(one: ModelStatus) -> str:
    """Return a model's score as people read it, with its change."""
    if one.score is None or one.value is None:
        return "-"
    change = f" ({one.change:+.1f} %)" if one.change is not None else ""
    return f"{one.score} {scores.format_score(one.score, one.value)}{change}"


def where(spec: ModelSpec, key: str) -> str:
    """Return the name of a partition as people read it."""
    return label(decode(key), spec.dimensions, spec.overall) if spec.partition_by else spec.name
