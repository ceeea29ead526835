"""The report: how often models are retrained and why, how that ends, what it improves, how long it takes and costs."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from statistics import fmean, median
from typing import Any

from evertrain.clock import from_text
from evertrain.control.opened import Opened
from evertrain.errors import ConfigError
from evertrain.events import Kind
from evertrain.scores import format_score
from evertrain.specs import TRIGGER_TYPES, Cause, parse_duration
from evertrain.states import ItemState
from evertrain.store import champions, figures, models
from evertrain.store.connect import Record, Tx

# Per cent by which a promoted model may differ from the one before until it is worth a word; what reads as "0.0 % worse"
# is none.
_WORSE, _NOTABLE, _TAKE_BACK = -0.05, 10.0, -5.0
_SHOWN = 50
_LONGEST = timedelta(days=36_500)

VERDICTS = {
    ItemState.PROMOTED: "promoted", ItemState.REJECTED: "refused", ItemState.FAILED: "failed", ItemState.DEAD: "failed",
    ItemState.SKIPPED: "skipped", ItemState.CANCELLED: "cancelled", ItemState.SUPERSEDED: "superseded",
    ItemState.SHADOWED: "shadowed",
}  # fmt: skip


def trigger_type(cause: str) -> str:
    """Return the trigger type of a cause, one of `specs.TRIGGER_TYPES`.

    >>> trigger_type("drift"), trigger_type("declaration")
    ('drift', 'manual')
    """
    return Cause(cause).trigger_type


@dataclass(frozen=True)
class Spread:
    """How a number is spread over retrainings: `p90` is what nine in ten stay under."""

    median: float
    mean: float
    p90: float
    total: float


@dataclass(frozen=True)
class Gain:
    """By how much promoted models were better than those before, on the same rows; positive is better.

    Attributes:
        number: promoted retrainings that were compared with a champion.
        median_percent, mean_percent: relative; None where every champion scored 0.
        score, median_points: in the unit of the score; None where several scores decided.
    """

    number: int
    median_percent: float | None
    mean_percent: float | None
    score: str | None
    median_points: float | None


@dataclass(frozen=True)
class OfKind:
    """The retrainings of one kind of run, selective or full, beside the other's."""

    retrainings: int
    improvement: Gain | None
    wall_s: Spread | None
    cpu_s: Spread | None


@dataclass(frozen=True)
class Figures:
    """The figures of one model, or of all together (`model` is None).

    A retraining is a run in which something was trained; its improvement is that of its widest rollup.

    Attributes:
        per_week: retrainings in a week, over the time in which there was a project.
        triggers: retrainings by trigger type.
        success_percent: retrainings in which no training failed; a refused challenger is a success. None without any.
        verdicts: partitions by how they ended; skipped ones were not trained.
        wall_s: from the first start to the last verdict.
        cpu_s: seconds of one processor; `total` is what all took.
        money: of those seconds, at the price that was named; None without a price.
        fallbacks: how often a full run took the place of a selective one.
        forecast_fallbacks: series for which the naive forecast stood in.
        kinds: "selective" and "full".
    """

    model: str | None
    retrainings: int
    per_week: float
    triggers: Mapping[str, int]
    succeeded: int
    failed: int
    success_percent: float | None
    verdicts: Mapping[str, int]
    improvement: Gain | None
    wall_s: Spread | None
    cpu_s: Spread | None
    peak_mb: float | None
    money: float | None
    fallbacks: int
    forecast_fallbacks: int
    kinds: Mapping[str, OfKind] = field(default_factory=dict)


@dataclass(frozen=True)
class Remark:
    """A promoted retraining that is worth a word.

    Attributes:
        level: "warning" where the model got worse, "notable" where it got much better.
        command: what takes it back, as arguments of `evertrain`; of retrainings by hand alone, and while it serves.
    """

    level: str
    model: str
    run: int
    version: str | None
    at: datetime
    improvement: float
    text: str
    command: str | None = None


@dataclass(frozen=True)
class Report:
    """The figures of a span of time; `remarks` has at most 50, those that got worst first.

    Attributes:
        price: money per hour of one processor, as it was named.
    """

    since: datetime
    until: datetime
    together: Figures
    models: Sequence[Figures]
    remarks: Sequence[Remark]
    price: float | None = None


def span_of(text: str, called: str = "last") -> timedelta:
    """Return the span of time that a text such as "30d" names.

    Raises:
        ConfigError: it names none, or one of more than a century.
    """
    try:
        found = parse_duration(text)
    except ValueError as error:
        raise ConfigError(called, text, str(error)) from None
    if not timedelta(0) < found <= _LONGEST:
        raise ConfigError(called, text, f"longer than nothing, and at most {_LONGEST.days}d")
    return found


def report(opened: Opened, since: timedelta, *, model: str | None = None, price: float | None = None) -> Report:
    """Return the figures of the last `since`, of every model or of one; costs what was retrained, not what exists.

    Args:
        price: money per hour of one processor.

    Raises:
        NotFound: no such model is declared, and none of that name was trained then.
        ConfigError: the span or the price is none.
    """
    if not timedelta(0) < since <= _LONGEST:
        raise ConfigError("last", since, f"longer than nothing, and at most {_LONGEST.days} days")
    if price is not None and not (math.isfinite(price) and price >= 0):
        raise ConfigError("price", price, "money per hour of one processor, such as 0.05")
    with opened.store.read() as tx:
        start = tx.now - since
        of_model: dict[str, list[_Group]] = defaultdict(list)
        for row in figures.trainings(tx, start):
            of_model[row.model].append(_group(row))
        ends: dict[str, Counter[str]] = defaultdict(Counter)
        for row in figures.ends(tx, start):
            ends[row.model][VERDICTS[ItemState(row.state)]] += row.number
        stood_in: dict[str, Counter[str]] = defaultdict(Counter)
        for row in figures.fallbacks(tx, start):
            stood_in[row.model][row.kind] += row.number
        declared = [one.name for one in models.every(tx)]
        names = sorted({*declared, *of_model, *ends})
        if model is not None:
            if model not in names:
                models.by_name(tx, model)
            names = [model]
        began = figures.first_moment(tx)
        weeks = max(tx.now - max(start, began or tx.now), timedelta(days=1)) / timedelta(weeks=1)

        def told(name: str | None, of: Sequence[str]) -> Figures:
            rows = [row for one in of for row in of_model.get(one, ())]
            return _figures(name, rows, _sum(ends, of), _sum(stood_in, of), weeks, price)

        each = [told(name, [name]) for name in names]
        return Report(start, tx.now, told(None, names), each, notable(tx, start, names if model else None), price)


@dataclass(frozen=True)
class _Group:
    """Retrainings of one model, cause, kind, verdict and score, with the numbers of each."""

    cause: str
    kind: str
    verdict: str | None
    score: str | None
    runs: int
    failed: int
    seconds: list[float]
    cpus: list[float]
    peak: float | None
    percents: list[float]
    points: list[float]


def _group(row: Record) -> _Group:
    seconds, cpus, percents, points = (
        json.loads(one or "[]") for one in (row.seconds, row.cpus, row.percents, row.points)
    )
    return _Group(
        row.cause, row.kind, row.verdict, row.score, row.runs, row.failed, seconds, cpus, row.peak, percents, points
    )  # fmt: skip


def _sum(counts: Mapping[str, Counter[str]], names: Sequence[str]) -> Counter[str]:
    return sum((counts[one] for one in names if one in counts), Counter())


def _figures(
    model: str | None,
    rows: Sequence[_Group],
    ends: Counter[str],
    stood_in: Counter[str],
    weeks: float,
    price: float | None,
) -> Figures:
    number, failed = sum(row.runs for row in rows), sum(row.failed for row in rows)
    triggers: Counter[str] = Counter()
    for row in rows:
        triggers[trigger_type(row.cause)] += row.runs
    cpu = _spread([one for row in rows for one in row.cpus])
    return Figures(
        model,
        number,
        number / weeks,
        {one: triggers[one] for one in TRIGGER_TYPES if triggers[one]},
        number - failed,
        failed,
        100 * (number - failed) / number if number else None,
        {one: ends[one] for one in dict.fromkeys(VERDICTS.values()) if ends[one]},
        _gain(rows),
        _spread([one for row in rows for one in row.seconds]),
        cpu,
        max((row.peak for row in rows if row.peak is not None), default=None),
        None if price is None else (cpu.total if cpu else 0.0) / 3600 * price,
        stood_in[Kind.RUN_FALLBACK],
        stood_in[Kind.FORECAST_FALLBACK],
        {kind: _of_kind([row for row in rows if row.kind == kind]) for kind in ("selective", "full")},
    )


def _of_kind(rows: Sequence[_Group]) -> OfKind:
    wall, cpu = (_spread([one for row in rows for one in getattr(row, name)]) for name in ("seconds", "cpus"))
    return OfKind(sum(row.runs for row in rows), _gain(rows), wall, cpu)


def _spread(found: Sequence[float]) -> Spread | None:
    """Return how numbers are spread; the 90th percentile is the smallest number that nine in ten do not exceed."""
    if not found:
        return None
    ordered = sorted(found)
    return Spread(median(ordered), fmean(ordered), ordered[math.ceil(0.9 * len(ordered)) - 1], math.fsum(ordered))


def _gain(rows: Sequence[_Group]) -> Gain | None:
    compared = [row for row in rows if row.verdict == ItemState.PROMOTED and row.points]
    if not compared:
        return None
    percents, points = ([one for row in compared for one in getattr(row, name)] for name in ("percents", "points"))
    names = {row.score for row in compared}
    return Gain(
        len(points),
        median(percents) if percents else None,
        fmean(percents) if percents else None,
        *((names.pop(), median(points)) if len(names) == 1 else (None, None)),
    )


def notable(tx: Tx, since: datetime, names: Sequence[str] | None = None) -> list[Remark]:
    """Return the promoted retrainings since a moment that are worth a word, of all models or of some."""
    found = figures.notable(tx, since, below=_WORSE, above=_NOTABLE, limit=_SHOWN, models=names)
    return [_remark(tx, row) for row in found]


def _remark(tx: Tx, row: Any) -> Remark:
    version = champions.version_text(row)
    points = "" if row.points is None else f", {row.score} {_signed(row.score, row.points)}"
    what = f"{row.model} {version or ''} (run {row.id}, {trigger_type(row.cause)})"
    if row.improvement > _NOTABLE:
        text = f"{what} is {row.improvement:.1f} % better than the model before{points}"
        return Remark("notable", row.model, row.id, version, from_text(row.ended_at), row.improvement, text)
    text = f"{what} is {-row.improvement:.1f} % worse than the model before{points}"
    by_hand = row.cause == Cause.MANUAL and row.improvement < _TAKE_BACK
    command = f"rollback {row.model} --run {row.id}" if by_hand and figures.way_back(tx, row.id) else None
    if by_hand and command is None:
        text += "; it does not serve any more, or nothing earlier could take its place"
    return Remark("warning", row.model, row.id, version, from_text(row.ended_at), row.improvement, text, command)


def _signed(score: str, points: float) -> str:
    shown = format_score(score, abs(points))
    return f"better by {shown}" if points > 0 else f"worse by {shown}"
