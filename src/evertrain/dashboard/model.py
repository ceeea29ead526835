"""The page of one model: scores over time, verdicts, drift, forecasts, and going back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from evertrain.control import browse, charts, tell
from evertrain.control.opened import Opened, zone_of
from evertrain.control.tell import Check
from evertrain.dashboard import drawing
from evertrain.dashboard.drawing import BOTTOM, LEFT, RIGHT, TOP, Chart, Mark, Tick
from evertrain.dashboard.overview import running
from evertrain.dashboard.page import percent, score, shown
from evertrain.drift.signal import Evidence
from evertrain.errors import NotFound
from evertrain.partitions import KeyText, decode
from evertrain.reports import read
from evertrain.specs import ModelSpec
from evertrain.store.tokens import Caller

_FOUND, _LONGEST, _EFFECTS, _CHECKS, _WIDEST = 12, 200, 12, 60, 4.0


def render(opened: Opened, caller: Caller, path: Mapping[str, str], query: Mapping[str, str]) -> str:
    """Return the page of a model, of the partition that the query names or of its widest one."""
    name = path["name"]
    spec = charts.declaration(opened, name)
    key = charts.named(opened, name, query)
    past = charts.over_time(opened, name, key)
    zone = ZoneInfo(zone_of(opened.project()))
    return shown(
        "model.html",
        opened,
        caller,
        query,
        title=name,
        here="/",
        name=name,
        spec=spec,
        m=browse.model(opened, name),
        past=past,
        named=key is not None,
        partition=decode(past.key) if past else {},
        chart=scores_chart(past, zone) if past else None,
        newest=past.fits[-1] if past and past.fits else None,
        returns=_returns(past),
        found=browse.partition_list(opened, name, query.get("q", "")[:_LONGEST], _FOUND) if spec.partition_by else None,
        drift=_drift(opened, name, key, zone),
        ahead=_ahead(opened, spec, past),
        run=running(opened, name).get(name),
    )


def _returns(past: charts.ScoresOverTime | None) -> list[browse.Scored]:
    """Return the fits that served before and could again, newest first."""
    return [one for one in reversed(past.fits) if one.served and not one.serving] if past else []


# --- scores -----------------------------------------------------------------------------------------------------


def scores_chart(past: charts.ScoresOverTime, zone: ZoneInfo) -> Chart | None:
    """Return fits by time and score, with what served; None before there is a value to draw."""
    fits = [(one, one.value) for one in past.fits if one.value is not None and math.isfinite(one.value)]
    if not fits:
        return None
    by_version = {one.version: value for one, value in fits}
    back = [one for one in past.back if one.version in by_version]
    against = [
        (one, value, one.champion_value)
        for one, value in fits
        if one.champion_value is not None and math.isfinite(one.champion_value)
    ]
    y, across = drawing.values([*(value for _, value in fits), *(then for _, _, then in against)], TOP, BOTTOM)
    begin = min(one.trained_at for one, _ in fits)
    instants = [*(one.trained_at for one, _ in fits), *(one.at for one in (*back, *past.elsewhere) if one.at >= begin)]
    x, along = drawing.moments([one.astimezone(zone) for one in instants], LEFT + 12, RIGHT - 12)

    def place(at: datetime) -> float:
        return min(max(x(at.timestamp()), LEFT), RIGHT)

    marks = [Mark(place(one.trained_at), y(value), _kind(one.outcome), _said(past, one)) for one, value in fits]
    marks += [
        Mark(place(one.at), y(by_version[one.version]), "rollback", f"back to {one.version} by {one.actor}: {one.why}")
        for one in back
    ]
    marks += [
        Mark(place(one.at), BOTTOM, "rollback", f"another partition back to {one.version} by {one.actor}: {one.why}")
        for one in past.elsewhere
        if one.at >= begin
    ]
    periods = [(span.from_at, span.until_at, value) for one, value in fits for span in one.served]
    periods.sort(key=lambda one: (one[0], one[1] is None))
    steps = [
        (at, y(value))
        for start, end, value in periods
        for at in (place(start), place(end) if end else RIGHT)
    ]  # fmt: skip
    lines = {
        f"against-{n}": drawing.line([(place(one.trained_at), y(then)), (place(one.trained_at), y(value))])
        for n, (one, value, then) in enumerate(against)
    }
    return drawing.chart(across, along, lines={**lines, "served": drawing.line(steps)}, marks=marks)


def _kind(outcome: str) -> str:
    return {"promoted": "promoted", "adopted": "promoted", "rejected": "rejected"}.get(outcome, "other")


def _said(past: charts.ScoresOverTime, one: browse.Scored) -> str:
    against = f" against {score(one.champion_value, past.score)}" if one.champion_value is not None else ""
    change = f" ({percent(one.improvement)})" if one.improvement is not None else ""
    return f"{one.version} {one.outcome}: {past.score} {score(one.value, past.score)}{against}{change}"


# --- drift ------------------------------------------------------------------------------------------------------


def _drift(opened: Opened, name: str, key: KeyText | None, zone: ZoneInfo) -> dict[str, Any] | None:
    check = tell.last_check(opened, name, key)
    if check is None:
        return None
    past = charts.checks(opened, name, limit=_CHECKS)
    return {
        **_told(check),
        "past": past,
        "squares": _squares(past),
        "since": past[0].at if past else None,
        "zone": zone,
    }


def _told(check: Check) -> dict[str, Any]:
    decision = check.decision
    found = decision.found or Evidence()
    explained = read.explained(decision)
    losses = read.losses(found)
    return {
        "at": check.at,
        "partition": check.partition,
        "severity": decision.severity.value,
        "headline": read.headline(decision),
        "answer": read.answer(decision),
        "sure": read.sure(decision),
        "reason": decision.reason,
        "explained": explained,
        "action": decision.severity.action,
        "effects": [
            {
                "name": one.name,
                "kind": read.kind(one),
                "size": read.size(one),
                "graded": read.graded(one),
                "moved": read.moved(one),
                "width": round(100 * read.times(one, _WIDEST) / _WIDEST, 1),
                "floor": round(100 / _WIDEST, 1),
                "strong": bool(one.grade or one.stop),
            }
            for one in read.features(found)[:_EFFECTS]
        ],
        "more": max(0, len(read.features(found)) - _EFFECTS),
        "notes": found.notes,
        "losses": _losses(losses) if losses and losses.mean else None,
        "loss_said": str(losses) if losses else "",
        "blocks": list(zip(losses.labels, losses.mean, losses.rows, strict=True)) if losses and losses.mean else [],
    }


def _squares(past: Sequence[charts.Checked]) -> list[dict[str, Any]]:
    if not past:
        return []
    each = min(22.0, 690.0 / len(past))
    return [
        {"x": round(LEFT + n * each, 1), "width": round(each - 2, 1), "severity": one.severity, "of": one}
        for n, one in enumerate(past)
    ]


def _losses(told: read.Losses) -> Chart:
    more = [one for one in (told.baseline, told.after) if one is not None]
    y, across = drawing.values([*told.mean, *more], TOP, BOTTOM)
    x = drawing.Scale(0.0, 1.0, LEFT + 8, RIGHT - 8)
    points = [(x(at), y(mean)) for at, mean in zip(told.at, told.mean, strict=True)]
    along = [Tick(x(0.0), told.labels[0]), Tick(x(1.0), told.labels[-1])]
    lines = {"path": drawing.line(points)}
    rules = []
    if told.baseline is not None:
        lines["then"] = drawing.line([(LEFT, y(told.baseline)), (RIGHT, y(told.baseline))])
    if told.change is not None:
        rules.append(Tick(x(told.at[told.change]), f"changed {told.labels[told.change]}"))
    marks = [
        Mark(at, value, "promoted", f"{label}: {read.number(mean)} on {read.number(rows)} rows")
        for (at, value), label, mean, rows in zip(points, told.labels, told.mean, told.rows, strict=True)
    ]
    return drawing.chart(across, along, lines=lines, rules=rules, marks=marks)


# --- forecasts --------------------------------------------------------------------------------------------------


def _ahead(opened: Opened, spec: ModelSpec, past: charts.ScoresOverTime | None) -> dict[str, Any] | None:
    if spec.series is None or past is None:
        return None
    try:
        found = charts.ahead(opened, spec.name, decode(past.key))
    except NotFound as error:
        found = charts.Ahead(None, unsaid=str(error))
    return {"of": found, "chart": _forecast_chart(found), "rows": _rows(found)}


def _rows(found: charts.Ahead) -> list[dict[str, Any]]:
    if found.forecast is None:
        return []
    f = found.forecast
    return [
        {
            "ds": ds,
            "mean": mean,
            "intervals": [(one, f.intervals[f"lo-{one}"][n], f.intervals[f"hi-{one}"][n]) for one in f.level],
        }
        for n, (ds, mean) in enumerate(zip(f.ds, f.mean, strict=True))
    ]


def _short(label: str, freq: str) -> str:
    """Return the label of a period as a chart has room for it: months need no day."""
    return label[:7] if freq[:1] in "MQYA" else label[5:10] if freq[:1] in "DWB" else label[5:16].replace("T", " ")


def _forecast_chart(found: charts.Ahead) -> Chart | None:
    f = found.forecast
    if f is None or not f.ds:
        return None
    known = [value for _, value in found.actuals]
    ends = [value for values in f.intervals.values() for value in values if value is not None]
    y, across = drawing.values([*known, *f.mean, *ends], TOP, BOTTOM)
    labels = [*(at for at, _ in found.actuals), *f.ds]
    x = drawing.Scale(0, max(1, len(labels) - 1), LEFT + 8, RIGHT - 8)
    start = len(found.actuals)
    before = [(x(n), y(value)) for n, value in enumerate(known)]
    ahead = [(x(start + n), y(value)) for n, value in enumerate(f.mean)]
    areas = {}
    for number, one in enumerate(sorted(f.level, reverse=True)):
        sides = [
            [(x(start + n), y(v)) for n, v in enumerate(f.intervals[f"{side}-{one}"]) if v is not None]
            for side in ("lo", "hi")
        ]
        if sides[0] and sides[1]:
            areas["outer" if number == 0 else f"inner-{number}"] = drawing.band(*(before[-1:] + side for side in sides))
    steps = max(1, (len(labels) - 1) // 4)
    along = [Tick(x(n), _short(labels[n], f.freq)) for n in range(0, len(labels), steps)]
    lines = {"actual": drawing.line(before), "path": drawing.line([*before[-1:], *ahead])}
    rules = [Tick(x(start - 0.5), "forecast")] if start else []
    marks = [
        Mark(px, py, "other", f"{ds}: {read.number(mean)}")
        for (px, py), ds, mean in zip(ahead, f.ds, f.mean, strict=True)
    ]
    return drawing.chart(across, along, lines=lines, areas=areas, rules=rules, marks=marks)
