"""Drift checks: which partitions have news, what a worker measures of them, and what follows from it.

A round looks at every partition with news, in batches. When the last answer is in, all of them are decided together:
the chance of a false alarm is that of the model, and not of each of its partitions.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from pathlib import Path

from evertrain import evidence, registry, watch
from evertrain.clock import from_text
from evertrain.control.opened import Opened
from evertrain.drift import grades
from evertrain.drift.signal import DriftType, Evidence, Family, Severity
from evertrain.errors import ConfigError, NoModelYet, StoreError
from evertrain.executors.jobs import ACTUAL, AT, PREDICTED, Lost, Message
from evertrain.executors.supervisor import Supervisor
from evertrain.observations import News
from evertrain.partitions import KeyText, closure, decode, label
from evertrain.sources.index import complete
from evertrain.specs import Cause, Dataset, Drift, ModelSpec, ProjectSpec, encode
from evertrain.states import ItemState
from evertrain.store import champions, decisions, evaluations, models
from evertrain.store.connect import Record, Tx
from evertrain.trainers.make import family
from evertrain.triggers import Decision, plural

# Partitions that one worker is asked about at once, and that one round looks at.
_AT_ONCE = 500
_IN_A_ROUND = 100_000
_LOGGED_AT_ONCE = 50  # copying their observations is done here, and nothing else meanwhile
_NAMED = 3

Decided = Callable[[Tx, Decision], None]


@dataclass
class Round:
    """One check of a model under way.

    Attributes:
        left: partitions not asked about yet, each with whether its observations are looked at, or rows of the source.
        mark: up to where the log of observations was looked at.
        before: up to where the round before looked; where the log cannot be read, the next one looks from there again.
        broken: why it could not be looked at.
        out: how many questions are with workers.
        found: what was measured, by partition.
        problems: why a partition could not be measured, by partition.
        follow: what is done with the decision on the model; None is a person who only looks.
        decided: in the end, by partition.
        at_once: partitions that one worker is asked about; fewer once a worker died on them, so that one of them alone
            is left unmeasured, and not its neighbours.
    """

    model: models.Model
    trigger: Drift
    follow: Decided | None
    left: list[tuple[Record, bool]]
    mark: int
    broken: str = ""
    out: int = 0
    places: dict[int, Record] = field(default_factory=dict)
    found: dict[int, Evidence] = field(default_factory=dict)
    problems: dict[int, str] = field(default_factory=dict)
    at_once: int = _AT_ONCE
    before: int = 0
    decided: dict[int, Decision] = field(default_factory=dict)

    @property
    def is_over(self) -> bool:
        return not self.left and not self.out


def is_due(tx: Tx, model: models.Model, trigger: Drift) -> bool:
    """Return whether the last check of a model is long enough ago."""
    last = decisions.last(tx, model.id, evidence.RULE)
    return last is None or from_text(last.last_at) + trigger.every <= tx.now


def begin(opened: Opened, project: ProjectSpec, model: models.Model, trigger: Drift, follow: Decided | None) -> Round:
    """Return a round over the partitions with news: observations since the last check, or rows not trained on."""
    with opened.store.read() as tx:
        last = decisions.last(tx, model.id, evidence.RULE)
    mark = decisions.evidence_of(last).get("mark", 0) if last else 0
    news, broken = _news(opened, model, mark)
    with opened.store.read() as tx:
        observed = champions.serving(tx, model.id, [one.key for one in news])
        others = champions.with_news(tx, model.id, _IN_A_ROUND) if has_rows(project, model) else []
    known = {row.id for row in observed}
    left = [(row, True) for row in observed] + [(row, False) for row in others if row.id not in known]
    newest = max((one.mark for one in news), default=mark)
    return Round(model, trigger, follow, left[:_IN_A_ROUND], newest, broken, before=mark)


def _news(opened: Opened, model: models.Model, mark: int) -> tuple[list[News], str]:
    """Return the partitions with new observations; none, and why, where the log of them cannot be read."""
    try:
        return opened.observations().keys_with_news(model.name, mark), ""
    except StoreError as error:
        return [], str(error)


def look(opened: Opened, name: str, keys: Sequence[KeyText] | None = None) -> dict[KeyText, Decision]:
    """Check now, and return what would be decided on each partition with news, or on the named ones; trains nothing.

    Raises:
        NotFound: no such model.
        ConfigError: it declares no `on_drift()`.
        NoModelYet: a named partition has no champion.
    """
    project = opened.project()
    with opened.store.write() as tx:
        model = models.by_name(tx, name)
        if isinstance(project.sources[model.spec.source], Dataset):
            watch.catch_up(tx, project, model.spec.source)  # a person who asks now means the rows of now
            model = models.by_name(tx, name)
    trigger = model.spec.drift
    if trigger is None:
        raise ConfigError(
            f"triggers of {name}", None, "on_drift(): what a check compares with is kept from the next training on"
        )
    current = begin(opened, project, model, trigger, None)
    if keys is not None:
        with opened.store.read() as tx:
            places = champions.serving(tx, model.id, keys, even_if_due=True)
        if missing := set(keys) - {KeyText(row.key) for row in places}:
            raise NoModelYet(
                f"{label(decode(min(missing)), model.spec.dimensions, model.spec.overall)} of {name} has no model yet"
            )
        logged = {row.id for row, is_logged in current.left if is_logged}
        current.left = [(row, row.id in logged or _is_logged(opened, model, row)) for row in places]
    with opened.alone() as hands:
        while not proceed(opened, hands, project, current):
            hands.step(0.1)
    return {KeyText(current.places[number].key): one for number, one in current.decided.items()}


def _is_logged(opened: Opened, model: models.Model, row: Record) -> bool:
    return bool(
        len(opened.observations().window(model.name, [KeyText(row.key)], since=from_text(row.trained_at), limit=1))
    )


def has_rows(project: ProjectSpec, model: models.Model) -> bool:
    """Return whether rows of the model can be had without reading its source."""
    kept = isinstance(project.sources[model.spec.source], Dataset)
    return model.extract is not None if kept else complete(model.extract)


def proceed(opened: Opened, hands: Supervisor, project: ProjectSpec, current: Round) -> bool:
    """Ask workers as far as any are free; decide when all have answered. Return whether the round is over."""
    while current.left and hands.executor.free("work") > 0:
        is_logged = current.left[0][1]
        many = min(current.at_once, _LOGGED_AT_ONCE) if is_logged else current.at_once
        some = [row for row, logged in islice(current.left, many) if logged is is_logged]
        if not _ask(opened, hands, project, current, some, is_logged=is_logged):
            break
        del current.left[: len(some)]
    if current.is_over:
        _decide(opened, current)
    return current.is_over


def _ask(
    opened: Opened, hands: Supervisor, project: ProjectSpec, current: Round, rows: Sequence[Record], *, is_logged: bool
) -> bool:
    model, trigger = current.model, current.trigger
    with opened.store.read() as tx:
        fits = registry.fits(tx, [row.champion_id for row in rows])
    messages: list[Message] = []
    for row in rows:
        message: Message = {
            "id": row.id,
            "key": row.key,
            "leaf": bool(row.leaf),
            "champion": hands.asked(fits[row.champion_id], {}),
        }
        if is_logged:
            try:
                if current.broken:  # waiting for it again for each partition would hold up the loop
                    raise StoreError(current.broken)
                message["observed"] = str(_copy(opened, hands, model, trigger, row, fits[row.champion_id].trained_at))
            except StoreError as error:  # the log of observations is a file of its own: without it all else goes on
                current.problems[row.id] = current.broken = str(error)
                current.mark = current.before
                continue
        messages.append(message)
    current.places |= {row.id: row for row in rows}
    if not messages:
        return True
    task = hands.task("weigh", model, project, messages, rows=not is_logged, observed=is_logged, drift=encode(trigger))

    def answer(message: Message | Lost) -> None:
        current.out -= 1
        for one in messages if is_logged else []:
            Path(one["observed"]).unlink(missing_ok=True)  # a worker that died has left them
        if isinstance(message, Lost) and len(rows) > 1:
            current.left += [(row, is_logged) for row in rows]
            current.at_once = max(1, len(rows) // 10)
        elif isinstance(message, Lost) or message["type"] == "error":
            reason = message.reason if isinstance(message, Lost) else str(message["reason"])
            current.problems |= dict.fromkeys((row.id for row in rows), reason)
        else:
            for one in message["found"]:
                if "problem" in one:
                    current.problems[one["id"]] = one["problem"]
                else:
                    current.found[one["id"]] = Evidence.from_json(one["evidence"])

    asked = hands.ask(
        task,
        family(model.spec.trainer),
        answer,
        deadline_s=model.spec.deadline.total_seconds(),
        memory_mb=model.spec.memory_mb,
    )
    current.out += asked
    return asked


def _copy(
    opened: Opened, hands: Supervisor, model: models.Model, trigger: Drift, row: Record, trained_at: datetime
) -> Path:
    """Write the newest observations of a champion to a file: workers open no store.

    Actuals of rows younger than the label watermark are left out: labels that come fast are no random choice.
    """
    import numpy as np
    import polars as pl

    keys = [KeyText(row.key)]
    window = opened.observations().window(model.name, keys, since=trained_at, limit=trigger.max_rows)
    mature = opened.observations().watermark(model.name, keys[0], declared=trigger.label_delay)
    known = window.has_actual & (window.times < np.datetime64(mature.replace(tzinfo=None) if mature else "NaT"))
    actual = [value if is_known else None for value, is_known in zip(window.actual.tolist(), known, strict=True)]
    path = hands.scratch / f"observed-{secrets.token_hex(8)}.arrow"
    window.features.with_columns(
        pl.Series(AT, window.times.astype("datetime64[us]").astype("int64") / 1e6),
        pl.Series(PREDICTED, window.predicted.tolist(), strict=False),
        pl.Series(ACTUAL, actual, strict=False),
    ).write_ipc(path)
    return path


# --- deciding ---------------------------------------------------------------------------------------------------


def _decide(opened: Opened, current: Round) -> None:
    """Decide every partition of a round, store what was decided, and do what follows unless a person only looks."""
    trigger, spec = current.trigger, current.model.spec
    with opened.store.read() as tx:
        same = champions.same(tx, {number: row.champion_id for number, row in current.places.items()})
        states = evaluations.states(tx, list(current.found))
    # What was promoted, rolled back or removed while the round went on is another question.
    current.places = {number: row for number, row in current.places.items() if number in same}
    current.found = {number: one for number, one in current.found.items() if number in same}
    current.problems = {number: one for number, one in current.problems.items() if number in same}
    factors = grades.fleet_factors(current.found)
    each = {
        number: evidence.decide(found, trigger, state=states.get(number, {}), fleet=factors[number])
        for number, found in current.found.items()
    }
    for number, problem in current.problems.items():
        each[number] = Decision(Cause.DRIFT, "drift", False, "failed", f"the check failed: {problem}", Severity.HIGH)
    current.decided = {number: _waits(spec, trigger, current.places[number], one) for number, one in each.items()}
    by_hand = {"by_hand": True} if current.follow is None else {}
    each = {number: replace(one, evidence={**one.evidence, **by_hand}) for number, one in current.decided.items()}
    with opened.store.write() as tx:
        evaluations.record(
            tx, current.model.id, [(number, current.places[number].champion_id, one) for number, one in each.items()]
        )
        if current.follow is None:
            return
        decision = together(spec, {KeyText(current.places[number].key): one for number, one in each.items()})
        if current.broken:
            said = f"{decision.reason}; the log of predictions cannot be read: {current.broken}"
            decision = replace(decision, code="unread", reason=said, severity=Severity.HIGH)
        current.follow(tx, replace(decision, evidence={**decision.evidence, "mark": current.mark}))


def _waits(spec: ModelSpec, trigger: Drift, place: Record, decision: Decision) -> Decision:
    """Return the decision on a partition, held back where training now could only bring a model that is no better.

    That is where its rows were tried already, and where the rows since the change are too few to learn from but enough
    will be there soon: a fit on the rows before it would learn what is no longer true, and be measured by it.
    """
    if not decision.fired:
        return decision
    if place.outcome not in (None, ItemState.PROMOTED) and place.considered_input in (None, place.seen):
        said = f"{decision.reason}; the last try on these rows was {place.outcome}, so it waits for new rows"
        return replace(decision, fired=False, code="no_news", reason=said)
    found = decision.found
    if found is None or found.changed_at is None:
        return decision
    rows = next((int(one.detail.get("window", 0)) for one in found.signals if one.family is Family.PERFORMANCE), 0)
    if rows >= spec.least_rows:
        return replace(decision, evidence={**decision.evidence, "since": found.changed_at})
    passed = datetime.fromisoformat(found.until or found.changed_at) - datetime.fromisoformat(found.changed_at)
    if rows and passed * ((spec.least_rows - rows) / rows) <= trigger.period:
        said = f"{decision.reason}; {plural(rows, 'row')} since the change, retraining waits for {spec.least_rows}"
        return replace(decision, fired=False, code="few_since", reason=said)
    return decision


def together(spec: ModelSpec, each: Mapping[KeyText, Decision]) -> Decision:
    """Return one decision on a model from those on its partitions, by key."""
    if not each:
        said = "no champion has new observations, or labelled rows newer than its training"
        return Decision(Cause.DRIFT, "drift", False, "nothing_new", said)
    worst_key, worst = max(each.items(), key=lambda pair: _rank(pair[1]))
    if not spec.partition_by:
        return replace(worst, evidence=_summary(each))
    failed = sum(one.code == "failed" for one in each.values())
    checked = f"{plural(len(each) - failed, 'partition')} checked" + (f", {failed} could not be" if failed else "")
    if failed == len(each):
        checked = f"{plural(failed, 'partition')} could not be checked"
    fired = {key: one for key, one in each.items() if one.fired}
    name = label(decode(worst_key), spec.dimensions, spec.overall)
    if not fired:
        said = f"{checked}; none asks for training; most noticeable {name}: {worst.reason}"
        return replace(worst, reason=said, evidence=_summary(each))
    listed = sorted(fired, key=lambda key: _rank(fired[key]), reverse=True)
    names = ", ".join(label(decode(key), spec.dimensions, spec.overall) for key in listed[:_NAMED])
    more = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
    said = f"{len(fired)} of {checked}: {names}{more}; {name}: {worst.reason}"
    keys = tuple(closure(listed, spec.dimensions, spec.levels))
    return replace(worst, reason=said, keys=keys, evidence=_summary(each))


def _rank(decision: Decision) -> tuple[bool, int, int]:
    return decision.fired, list(Severity).index(decision.severity), decision.confidence or 0


def _summary(each: Mapping[KeyText, Decision]) -> dict[str, object]:
    kinds = [one.drift_type for one in each.values() if one.drift_type is not DriftType.NONE]
    return {
        "checked": len(each),
        "fired": sum(one.fired for one in each.values()),
        "severity": {str(level): sum(one.severity is level for one in each.values()) for level in Severity},
        "types": {str(kind): kinds.count(kind) for kind in dict.fromkeys(kinds)},
    }
