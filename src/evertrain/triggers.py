"""Triggers: from facts to decisions. Every evaluation answers with a reason, also when it does not fire.

Pure: facts in, decisions out. Who gathers the facts, and what a decision causes, is `control`'s business.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from evertrain import calendar, scores
from evertrain.drift.signal import DriftType, Evidence, Severity
from evertrain.partitions import KeyText
from evertrain.specs import Cause, Environment, MaxAge, ModelSpec, Schedule, ScoreDrop, spoken

_VISIBLE = 1e-9  # a smaller change of a score that was 0 is rounding


@dataclass(frozen=True)
class Decision:
    """One evaluation of a trigger.

    Attributes:
        rule: which trigger of the model; evaluations of one rule form a history.
        code: the kind of answer in one word, equal for answers that differ in numbers alone.
        keys: the partitions it speaks of; None is the whole model.
        retrain: whether a fired decision asks for training; False only reports.
        confidence: probability in per cent, 1 to 99, that the model has really become worse; None where the trigger
            does not weigh evidence.
        found: what was measured, with every signal graded; None likewise.
    """

    cause: Cause
    rule: str
    fired: bool
    code: str
    reason: str
    severity: Severity = Severity.NONE
    evidence: Mapping[str, Any] = field(default_factory=dict)
    keys: tuple[KeyText, ...] | None = None
    retrain: bool = True
    confidence: int | None = None
    drift_type: DriftType = DriftType.NONE
    found: Evidence | None = None

    @property
    def triggered(self) -> bool:
        """Whether it fired."""
        return self.fired

    @property
    def action(self) -> str:
        """What its severity asks for: none, monitor, investigate, plan retraining, retrain now.

        No retraining mends damaged data, or a check that failed.
        """
        if self.code in ("fix_data", "failed", "unread"):
            return Severity.MEDIUM.action
        return self.severity.action


def check(spec: ModelSpec) -> None:
    """Raise `ConfigError` for a trigger that could never be evaluated: a bad calendar rule, an unknown score."""
    for trigger in spec.triggers:
        if isinstance(trigger, Schedule):
            calendar.check(trigger)
        elif isinstance(trigger, ScoreDrop) and trigger.score:
            scores.get(trigger.score)


def plural(number: int, one: str, many: str | None = None) -> str:
    """Return "1 row", "3 rows"."""
    return f"{number} {one if number == 1 else many or one + 's'}"


# --- data -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """What a read found, against what was seen and trained on before.

    Attributes:
        source: how the source is called in messages, e.g. "iris.csv".
        rows: usable rows now.
        changed: partitions with other rows than any training was asked for; rollups are not among them.
        short: partitions that changed but hold fewer rows than the model needs, with their number of rows.
        known: changed partitions whose rows are those the champion or the last item has read already.
        gone: how many partitions lost their last row.
        found: how many partitions appeared; they are due from birth, without a decision.
        first: whether this is the first read of all.
        of: how many leaf partitions the model has.
        set_aside: sentences about unusable rows.
        problem: why the read cannot be used at all.
        lost: why it cannot be told which partitions changed.
    """

    source: str
    rows: int
    changed: tuple[KeyText, ...] = ()
    short: Mapping[str, int] = field(default_factory=dict)
    known: int = 0
    gone: int = 0
    found: int = 0
    first: bool = False
    of: int = 1
    set_aside: tuple[str, ...] = ()
    problem: str | None = None
    lost: str | None = None
    serving: str | None = None


def on_change(change: Change, spec: ModelSpec, affected: Sequence[KeyText]) -> Decision:
    """Decide on a read of a source; `affected` are the changed partitions and the rollups above them."""
    said = "; ".join(change.set_aside)
    aside = f"; {said}" if said else ""
    keeps = f"; {change.serving} keeps serving" if change.serving else ""
    rule = "data_change"
    evidence: dict[str, Any] = {
        "rows": change.rows,
        "changed": len(change.changed),
        "of": change.of,
        "gone": change.gone,
    }
    if change.set_aside:
        evidence["set_aside"] = list(change.set_aside)
    if change.problem:
        return Decision(Cause.DATA_CHANGE, rule, False, "unusable", f"{change.problem}{keeps}", Severity.HIGH, evidence)
    if change.lost:
        said = f"{change.source} changed, and {change.lost}: the whole model is asked for"
        return Decision(Cause.DATA_CHANGE, rule, True, "fallback", said, Severity.HIGH, evidence)
    if len(change.changed) > (cap := spec.storm.cap(change.of)):
        said = f"{_what_changed(change, spec)}, more than {cap}: the whole model is asked for"
        evidence["cap"] = cap
        return Decision(Cause.DATA_CHANGE, rule, True, "storm", said + aside, Severity.HIGH, evidence)
    if affected or (change.found and not change.first and not change.short):
        return Decision(
            Cause.DATA_CHANGE,
            rule,
            True,
            "changed",
            _what_changed(change, spec) + aside,
            Severity.MEDIUM,
            evidence,
            tuple(affected),
        )
    code, reason, severity = "untouched", "", Severity.NONE
    if change.short:
        name, rows = next(iter(change.short.items()))
        more = f" and {len(change.short) - 1} more" if len(change.short) > 1 else ""
        where = f" in {name}{more}" if spec.partition_by else ""
        code, severity = "insufficient", Severity.LOW
        reason = f"Insufficient samples: {rows} < {spec.least_rows}{where}{keeps}{aside}"
    elif change.first:
        code, reason = "first", f"first read: {plural(change.rows, 'row')}{_among(change.of, spec)}{aside}"
    elif change.known:
        code = "known"
        reason = f"{change.source} changed, and the last training has read these rows already{keeps}{aside}"
    elif change.set_aside:
        code, severity = "set_aside", Severity.LOW
        reason = f"{said}; no usable row changed{keeps.replace(';', ',')}. Next: correct it and save, or leave it so"
    else:
        reason = f"{change.source} was written, but its {plural(change.rows, 'row')} are the same{keeps}"
    return Decision(Cause.DATA_CHANGE, rule, False, code, reason, severity, evidence)


def _what_changed(change: Change, spec: ModelSpec) -> str:
    if not spec.partition_by:
        return f"{change.source} has new or changed rows"
    parts = []
    if change.changed:
        parts.append(
            f"{change.source} has new or changed rows in {len(change.changed)}{_among(change.of, spec, ' of ')}"
        )
    if change.found:
        parts.append(f"{plural(change.found, 'partition')} appeared")
    if change.gone:
        parts.append(f"{plural(change.gone, 'partition')} lost all rows")
    return "; ".join(parts) or f"{change.source} has new or changed rows"


def _among(number: int, spec: ModelSpec, before: str = " in ") -> str:
    if not spec.partition_by:
        return ""
    only = spec.partition_by[0] if len(spec.partition_by) == 1 else None
    return before + (only.count(number) if only else plural(number, "partition"))


# --- age and schedule -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ages:
    """How old the champions of a model are.

    Attributes:
        oldest_at: when the oldest champion was trained.
        due: keys of champions older than the limit that may be retrained.
        waiting_for_news: how many are older, but ended without promotion on the rows that are still there.
        open: how many are older and already waiting or running.
        of: how many champions there are.
    """

    oldest_at: datetime | None
    due: tuple[KeyText, ...] = ()
    waiting_for_news: int = 0
    open: int = 0
    of: int = 0


def on_age(trigger: MaxAge, ages: Ages, now: datetime) -> Decision:
    """Decide whether champions are too old."""
    limit = spoken(trigger.limit)
    if ages.oldest_at is None:
        return Decision(Cause.AGE, "age", False, "no_champion", "no champion yet, so none can be too old")
    age = now - ages.oldest_at
    evidence = {"age_s": round(age.total_seconds()), "limit_s": trigger.limit.total_seconds(), "old": len(ages.due)}
    if ages.due:
        many = (
            f"{len(ages.due)} of {ages.of} champions are older than {limit}"
            if ages.of > 1
            else (f"the champion is {spoken(age)} old, the limit is {limit}")
        )
        keys = None if len(ages.due) == ages.of else ages.due
        return Decision(Cause.AGE, "age", True, "old", many, Severity.MEDIUM, evidence, keys)
    if ages.open:
        return Decision(
            Cause.AGE, "age", False, "already", f"{spoken(age)} old, and already being retrained", evidence=evidence
        )
    if ages.waiting_for_news:
        return Decision(
            Cause.AGE,
            "age",
            False,
            "no_news",
            f"{spoken(age)} of {limit}, but the last try on these rows was not promoted; waits for new rows",
            Severity.LOW,
            evidence,
        )
    return Decision(Cause.AGE, "age", False, "young", f"{spoken(age)} of {limit}", evidence=evidence)


def on_period_end(period: str, keys: Sequence[KeyText]) -> Decision:
    """Decide on series that hold rows of a period that has ended since they were fitted."""
    reason = f"period {period} has ended, and {plural(len(keys), 'series', 'series')} hold rows of it"
    return Decision(Cause.AGE, "period_end", True, "ended", reason, Severity.LOW, {"series": len(keys)}, tuple(keys))


def on_schedule(trigger: Schedule, rule: str, zone: str, slot: datetime, skipped: int, now: datetime) -> Decision:
    """Decide for a schedule whose slot has come; one catch-up stands for all slots missed."""
    late = now - slot
    reason = calendar.words(trigger, zone)
    if skipped or late > timedelta(minutes=5):
        missed = f"{plural(skipped, 'earlier slot')} skipped" if skipped else f"{spoken(late)} late"
        reason += f"; one catch-up ({missed})"
    return Decision(
        Cause.SCHEDULE,
        rule,
        True,
        "slot",
        reason,
        Severity.LOW,
        {"skipped": skipped, "late_s": round(late.total_seconds())},
    )


# --- score and environment --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recheck:
    """How a champion does on labelled rows newer than its training.

    Attributes:
        baseline: the score when it was promoted, on its hold-out.
        value: the score on the newer rows; None when there are too few to say.
    """

    key: KeyText
    name: str
    rows: int
    baseline: float | None
    value: float | None


def on_score(trigger: ScoreDrop, score: str, found: Sequence[Recheck]) -> Decision:
    """Decide whether champions score worse on new labelled rows than when they were promoted."""
    rule, shown = "score_drop", scores.get(score)
    dropped: list[tuple[Recheck, float | None]] = []
    judged = [
        one for one in found if one.value is not None and one.baseline is not None and one.rows >= trigger.min_rows
    ]
    for one in judged:
        assert one.value is not None
        assert one.baseline is not None
        change = scores.improvement(score, one.baseline, one.value)
        # From nothing there is no percentage: an error that was 0 and is there now has grown beyond any.
        if -change.points > _VISIBLE if change.percent is None else change.percent < -100 * trigger.threshold:
            dropped.append((one, change.percent))
    evidence = {
        "score": shown.name,
        "checked": len(judged),
        "rows": {one.name: one.rows for one in found[:20]},
        "dropped": {one.name: None if change is None else round(change, 2) for one, change in dropped[:20]},
    }
    if not judged:
        rows = max((one.rows for one in found), default=0)
        return Decision(
            Cause.SCORE_DROP,
            rule,
            False,
            "few_rows",
            f"{plural(rows, 'labelled row')} newer than the training; the check needs {trigger.min_rows}",
            evidence=evidence,
        )
    if not dropped:
        best = judged[0]
        assert best.value is not None
        assert best.baseline is not None
        return Decision(
            Cause.SCORE_DROP,
            rule,
            False,
            "steady",
            f"{shown.name} {scores.format_score(score, best.value)} on {plural(best.rows, 'newer row')}"
            f" against {scores.format_score(score, best.baseline)} at promotion",
            evidence=evidence,
        )
    worst, percent = min(dropped, key=lambda pair: -math.inf if pair[1] is None else pair[1])
    assert worst.value is not None
    assert worst.baseline is not None
    where = (
        f" in {worst.name}" + (f" and {len(dropped) - 1} more" if len(dropped) > 1 else "") if len(found) > 1 else ""
    )
    return Decision(
        Cause.SCORE_DROP,
        rule,
        True,
        "dropped",
        f"{shown.name} fell from {scores.format_score(score, worst.baseline)} to {scores.format_score(score, worst.value)}"
        f"{'' if percent is None else f' ({percent:+.1f} %)'} on {plural(worst.rows, 'labelled row')} newer than the training{where}",
        Severity.HIGH,
        evidence,
        tuple(one.key for one, _ in dropped),
    )


def on_environment(
    trigger: Environment, before: Mapping[str, str], now: Mapping[str, str], *, loads: bool | None, busy: bool
) -> Decision:
    """Decide on changed library versions.

    Args:
        before: version of each library when the oldest champion was trained.
        loads: whether that champion still loads; None when nothing changed, so nobody tried.
        busy: whether another model is being retrained for this cause; one at a time.
    """
    rule = "environment"
    changed = {
        name: (old, now.get(name, "gone")) for name, old in before.items() if _minor(old) != _minor(now.get(name, ""))
    }
    evidence = {"changed": {name: list(pair) for name, pair in changed.items()}}
    if not changed:
        return Decision(
            Cause.ENVIRONMENT, rule, False, "same", "the libraries are those of the training", evidence=evidence
        )
    listed = ", ".join(f"{name} {old} -> {new}" for name, (old, new) in changed.items())
    if loads is False:
        return Decision(
            Cause.ENVIRONMENT,
            rule,
            True,
            "broken",
            f"the champion no longer loads: {listed}",
            Severity.CRITICAL,
            evidence,
        )
    if trigger.action == "report":
        return Decision(
            Cause.ENVIRONMENT,
            rule,
            True,
            "changed",
            f"{listed}; the champion still loads",
            Severity.LOW,
            evidence,
            retrain=False,
        )
    if busy:
        return Decision(
            Cause.ENVIRONMENT,
            rule,
            False,
            "queued",
            f"{listed}; another model is first, one at a time",
            Severity.LOW,
            evidence,
        )
    return Decision(Cause.ENVIRONMENT, rule, True, "changed", listed, Severity.MEDIUM, evidence)


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
