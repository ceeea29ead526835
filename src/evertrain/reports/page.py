"""One check as a page: a single HTML file with its own style and drawings, readable on paper and on a phone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cache
from html import escape
from importlib.resources import files

from evertrain.drift.signal import Evidence, Severity, Signal
from evertrain.partitions import printable
from evertrain.reports import read
from evertrain.reports.tree import turning
from evertrain.specs import Drift
from evertrain.triggers import Decision, plural

_DRAWN = 6  # distributions shown at once; the others are folded
_LEVELS = 6  # values of one column, likewise
_WIDEST = 5.0  # floors that a bar spans; a larger effect is cut there and says so
_LONG = 90  # letters of a name


def page(decision: Decision, model: str, partition: str, config: Drift | None) -> str:
    """Return the whole page; everything that data named is escaped."""
    found = decision.found or Evidence()
    title = " · ".join(one for one in (model, partition) if one) or "check"
    parts = [
        _head(decision, title),
        _facts(found) if decision.found else "",
        _meaning(decision),
        _losses(found),
        _effects(found),
        _distributions(found),
        _turning(decision, config),
        _unsaid(found),
        _notes(found.notes),
        _table(found),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{_text(title)}: {decision.severity}</title>\n<style>\n{_style()}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(one for one in parts if one)
        + "\n</main>\n</body>\n</html>\n"
    )


@cache
def _style() -> str:
    return files(__package__).joinpath("page.css").read_text(encoding="utf-8")


def _text(value: object) -> str:
    return escape(printable(str(value)))


def _name(value: str) -> str:
    """Return a name that data chose; a very long one is cut in the middle and whole in its tooltip."""
    if len(value) <= _LONG:
        return f"<bdi>{_text(value)}</bdi>"
    cut = f"{value[: _LONG * 2 // 3]}…{value[-_LONG // 4 :]}"
    return f'<bdi title="{_text(value[:2000])}">{_text(cut)}</bdi>'


def _section(title: str, body: str, said: str = "", kind: str = "") -> str:
    lead = f'<p class="lead">{said}</p>' if said else ""
    return f'<section class="{kind}">\n<h2>{_text(title)}</h2>\n{lead}{body}\n</section>'


# --- what was found ---------------------------------------------------------------------------------------------

# Severity has a shape beside its colour and its word, for eyes and printers that see no colour.
_SHAPES = {
    Severity.NONE: '<circle cx="8" cy="8" r="5.5" fill="none" stroke="currentColor" stroke-width="2"/>',
    Severity.LOW: '<circle cx="8" cy="8" r="6"/>',
    Severity.MEDIUM: '<path d="M8 1 15 8 8 15 1 8z"/>',
    Severity.HIGH: '<path d="M8 1.5 15.5 14.5H.5z"/>',
    Severity.CRITICAL: '<path fill-rule="evenodd" d="M5 .5h6L15.5 5v6L11 15.5H5L.5 11V5zM7 3.2h2v6H7zm0 7.6h2v2H7z"/>',
}


def _head(decision: Decision, title: str) -> str:
    severity = decision.severity
    word = "nothing to do" if severity is Severity.NONE else f"{severity.upper()} · {decision.action}"
    shape = f'<svg viewBox="0 0 16 16" width="14" height="14" fill="currentColor" aria-hidden="true">{_SHAPES[severity]}</svg>'
    headline = read.headline(decision)
    reason = "" if headline.lower() == decision.reason.lower() else f'<p class="reason">{_text(decision.reason)}</p>'
    meter = ""
    if decision.confidence is not None:
        meter = (
            f'<p class="sure"><strong>{_text(read.sure(decision))}</strong></p>'
            '<svg class="meter" width="100%" height="8" aria-hidden="true"><rect class="empty" width="100%" height="8" rx="4"/>'
            f'<rect class="full" width="{min(max(decision.confidence, 0), 100)}%" height="8" rx="4"/></svg>'
        )
    return (
        f'<header class="{severity}">\n<p class="of">{_name(title)}</p>\n'
        f'<p class="badges"><span class="pill">{shape}{_text(word)}</span><span class="fired">{_text(read.answer(decision))}</span></p>\n'
        f"<h1>{_text(headline)}</h1>\n{reason}\n{meter}\n</header>"
    )


def _facts(found: Evidence) -> str:
    listed = [
        ("Recent rows", f"{found.recent_rows:,}"),
        ("Labelled rows", f"{found.labelled_rows:,}"),
        ("Reference rows", f"{found.reference_rows:,}"),
    ]
    if period := read.period(found):
        listed.append(("Period", period))
    if found.changed_at:
        listed.append(("Loss changed", read.moment(found.changed_at)))
    cells = "".join(f"<div><dt>{_text(what)}</dt><dd>{_text(value)}</dd></div>" for what, value in listed)
    return f'<dl class="facts">{cells}</dl>'


def _meaning(decision: Decision) -> str:
    told = read.explained(decision)
    if told is None:
        return ""
    cells = "".join(
        f"<div><h2>{_text(what)}</h2><p>{_text(text)}</p></div>"
        for what, text in (("What it means", told.what), ("Impact", told.impact), ("What to do", told.solution))
    )
    return f'<section class="meaning">{cells}</section>'


def _turning(decision: Decision, config: Drift | None) -> str:
    told = turning(decision, config)
    if not told:
        return ""
    title = "What would have kept it from firing" if decision.fired else "What would have made it fire"
    return _section(title, f"<ul>{''.join(f'<li>{_text(one)}</li>' for one in told)}</ul>", kind="words")


def _notes(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    return _section("Notes", f"<ul>{''.join(f'<li>{_text(one)}</li>' for one in notes)}</ul>", kind="words")


# --- losses -----------------------------------------------------------------------------------------------------


def _losses(found: Evidence) -> str:
    shown = read.losses(found)
    if shown is None:
        return ""
    return _section("Loss over time", _chart(shown) if shown.mean else "", _text(str(shown)))


def _chart(shown: read.Losses) -> str:
    lines = [*shown.mean, *(one for one in (shown.baseline, shown.after) if one is not None)]
    low, high = min(lines), max(lines)
    pad = 0.12 * (high - low) or 0.1 * abs(high) or 1.0
    low, high = (max(low - pad, 0.0) if low >= 0 else low - pad), high + 1.6 * pad

    def y(value: float) -> str:
        return f"{100 * (1 - (value - low) / (high - low)):.2f}"

    def x(share: float) -> str:
        return f"{2 + 96 * share:.2f}"

    marks = read.ticks(low, high)
    behind = "".join(f'<line class="grid" x1="0" x2="100%" y1="{y(one)}%" y2="{y(one)}%"/>' for one in marks)
    before = ""
    if shown.change is not None:
        at = x(shown.at[shown.change])
        behind = f'<rect class="since" x="{at}%" width="{100 - float(at):.2f}%" height="100%"/>{behind}'
        side, nudge = ("end", -6) if float(at) > 55 else ("start", 6)
        before = (
            f'<line class="change" x1="{at}%" x2="{at}%" y1="0" y2="100%"/>'
            f'<text class="change" x="{at}%" dx="{nudge}" y="15" text-anchor="{side}">'
            f"changed {_text(shown.labels[shown.change])}</text>"
        )
        if shown.after is not None:
            before += f'<line class="after" x1="{at}%" x2="98%" y1="{y(shown.after)}%" y2="{y(shown.after)}%"/>'
    if shown.baseline is not None:
        clear = "" if shown.change is not None else " clear"
        behind += f'<line class="baseline" x1="0" x2="100%" y1="{y(shown.baseline)}%" y2="{y(shown.baseline)}%"/>'
        before += (
            f'<text class="baseline{clear}" x="100%" dx="-4" y="{y(shown.baseline)}%" dy="15" text-anchor="end">'
            f"baseline {read.number(shown.baseline)}</text>"
        )
    points = " ".join(f"{x(at)},{y(mean)}" for at, mean in zip(shown.at, shown.mean, strict=True))
    dots = "".join(
        f'<circle class="dot" cx="{x(at)}%" cy="{y(mean)}%" r="3">'
        f"<title>{_text(label)}: {read.number(mean)}, {rows:,.0f} rows</title></circle>"
        for at, mean, label, rows in zip(shown.at, shown.mean, shown.labels, shown.rows, strict=True)
    )
    labels = "".join(f'<span style="top:{y(one)}%">{read.number(one)}</span>' for one in marks)
    said = _text(f"Mean loss over time. {shown}")
    return (
        f'<figure class="chart"><div class="scale">{labels}</div>'
        f'<svg class="losses" width="100%" height="240" role="img" aria-label="{said}">{behind}'
        '<svg width="100%" height="100%" viewBox="0 0 100 100" preserveAspectRatio="none">'
        f'<polyline class="line" points="{points}" vector-effect="non-scaling-stroke"/></svg>{dots}{before}</svg>'
        f"<figcaption><span>{_text(shown.labels[0])}</span><span>{_text(shown.labels[-1])}</span></figcaption></figure>"
    )


# --- effects and distributions ----------------------------------------------------------------------------------


def _effects(found: Evidence) -> str:
    listed = read.features(found)
    if not listed:
        return ""
    counting = sum(one.grade > 0 or one.stop for one in listed)
    rule = "by more than chance, and by more than its floor, the smallest effect that counts"
    if any("rule" in one.detail for one in listed):
        rule = "beyond the limit of its rule"
    said = f"{counting or 'None'} of {len(listed)} changed {rule}."
    marks = "".join(
        f'<span style="left:{100 * times / _WIDEST:g}%">{label}</span>'
        for times, label in ((1, "floor"), (2, "2 ×"), (4, "4 ×"))
    )
    axis = f'<div class="axis" aria-hidden="true"><div></div><div class="marks">{marks}</div><div></div></div>'
    bars = "".join(_bar(one) for one in listed[: read.SHOWN])
    body = f'{axis}<ol class="bars">{bars}</ol>'
    if rest := listed[read.SHOWN :]:
        names = ", ".join(f"{_name(one.name)}&nbsp;{_times(one)}" for one in rest)
        body += (
            f'<details><summary>{len(rest)} more, with smaller effects</summary><p class="names">{names}</p></details>'
        )
    return _section("What moved", body, said)


def _times(signal: Signal) -> str:
    return f"{signal.ratio:.1f}&nbsp;×" if signal.floor > 0 and math.isfinite(signal.ratio) else ""


def _bar(signal: Signal) -> str:
    share = read.times(signal, _WIDEST) / _WIDEST
    counts = signal.grade > 0 or signal.stop
    cut = '<path class="cut" d="M-9 -2 -4 9M-5 -2 0 9" />' if signal.ratio > _WIDEST else ""
    cut = f'<svg x="97%" y="3" overflow="visible">{cut}</svg>' if cut else ""
    floor = f'<line class="floor" x1="{100 / _WIDEST:g}%" x2="{100 / _WIDEST:g}%" y1="0" y2="14"/>'
    weight = "" if signal.weight is None else f" · importance {100 * signal.weight:.0f}&nbsp;%"
    moved = f" · {_text(told)}" if (told := read.moved(signal)) else ""
    times = f" · {_times(signal)}&nbsp;floor" if signal.floor > 0 and signal.ratio >= 0 else ""
    bar = (
        '<svg class="track" width="100%" height="14" aria-hidden="true">'
        '<rect class="empty" width="100%" height="10" y="2" rx="2"/>'
        f'<rect class="full" width="{100 * share:.1f}%" height="10" y="2" rx="2"/>{floor}{cut}</svg>'
    )
    return (
        f'<li class="{"counts" if counts else "quiet"}"><b>{_name(signal.name)}</b>'
        f"<small>{_text(read.kind(signal))}{moved}{weight}</small>"
        f"{bar if signal.floor > 0 or signal.stop else '<span></span>'}"
        f'<b class="grade">{_text(read.graded(signal))}</b><small class="size">{_text(read.size(signal))}{times}</small></li>'
    )


def _distributions(found: Evidence) -> str:
    drawn = read.distributions(found)
    cards = [_card(one, told) for one, told in drawn]
    if not cards:
        return ""
    body = f'<div class="cards">{"".join(cards[:_DRAWN])}</div>'
    if rest := cards[_DRAWN:]:
        body += f'<details><summary>{len(rest)} more</summary><div class="cards">{"".join(rest)}</div></details>'
    key = '<span class="key then"></span>reference, <span class="key now"></span>recent'
    tenths = " Numbers are divided at tenths of the reference." if any(not told.levels for _, told in drawn) else ""
    return _section("Then and now", body, f"Share of rows: {key}.{tenths}")


def _card(signal: Signal, told: read.Histogram) -> str:
    head = f"<h3>{_name(signal.name)}</h3><p>{_text(read.size(signal))}{f', {_times(signal)} floor' if signal.floor > 0 else ''}</p>"
    return f'<figure class="card">{head}{_levels(told) if told.levels else _bins(told)}</figure>'


def _bins(told: read.Histogram) -> str:
    then, now = told.heights()
    bins = len(then)

    def steps(heights: Iterable[float]) -> str:
        spots = ["0,100"]
        for place, height in enumerate(heights):
            top = f"{100 - 96 * height:.2f}"
            spots += [f"{100 * one / bins:.2f},{top}" for one in (place, place + 1)]
        return " ".join([*spots, "100,100"])

    return (
        '<svg width="100%" height="110" viewBox="0 0 100 100" preserveAspectRatio="none" role="img" aria-label="Distribution then and now">'
        f'<polygon class="then" points="{steps(then)}"/>'
        f'<polygon class="now" points="{steps(now)}" vector-effect="non-scaling-stroke"/></svg>'
        f'<figcaption class="ticks">{"".join(_tick(at / bins, text) for at, text in told.ticks)}</figcaption>'
    )


def _tick(share: float, text: str) -> str:
    return f'<span style="left:{100 * share:.2f}%;transform:translateX(-{100 * share:.0f}%)">{text}</span>'


def _levels(told: read.Histogram) -> str:
    moved = told.moved()
    top = max((*told.reference, *told.recent)) or 1.0
    rows = "".join(
        f"<li><span>{_name(name)}</span><span>{100 * then:.0f}&nbsp;% → {100 * now:.0f}&nbsp;%</span>"
        f'<svg width="100%" height="14" aria-hidden="true"><rect class="then" width="{100 * then / top:.1f}%" height="6"/>'
        f'<rect class="now" width="{100 * now / top:.1f}%" height="6" y="7"/></svg></li>'
        for name, then, now in moved[:_LEVELS]
    )
    more = f"<figcaption>{plural(len(moved) - _LEVELS, 'more value')}</figcaption>" if len(moved) > _LEVELS else ""
    return f'<ul class="levels">{rows}</ul>{more}'


# --- all of it --------------------------------------------------------------------------------------------------


def _unsaid(found: Evidence) -> str:
    listed = read.unsaid(found)
    if not listed:
        return ""
    rows = ""
    for why, signals in listed:
        names = [_name(one) for one in dict.fromkeys(one.name for one in signals)]
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        rows += f"<li><b>{_text(why)}</b><br>{', '.join(names[:10])}{more}</li>"
    many = sum(len(signals) for _, signals in listed)
    said = f"{plural(many, 'comparison')} of {len(found.signals)} could not be made."
    return _section("Not enough to say", f"<ul>{rows}</ul>", said, kind="words")


def _table(found: Evidence) -> str:
    if not found.signals:
        return ""
    told = [one for _, signals in read.families(found) for one in signals]
    listed = [*told, *(one for _, signals in read.unsaid(found) for one in signals)]
    listed.sort(key=lambda one: (bool(one.insufficient), -one.grade, -one.ratio if math.isfinite(one.ratio) else 0.0))
    head = "".join(
        f'<th scope="col"{" class=n" if right else ""}>{what}</th>'
        for what, right in (
            ("what", 0), ("compared", 0), ("family", 0), ("grade", 0), ("effect", 1), ("floor", 1), ("× floor", 1), ("p", 1),
            ("corrected", 1), ("rows then", 1), ("now", 1),
        )
    )  # fmt: skip
    rows = [_row(one) for one in listed]
    body = _rows(head, rows[: read.SHOWN])
    if rest := rows[read.SHOWN :]:
        body += f"<details><summary>{len(rest)} more</summary>{_rows(head, rest)}</details>"
    said = (
        "An effect has its sampling noise taken off; p is corrected for everything its family tested; rows are "
        "effective rows, fewer than there are where rows depend on their neighbours."
    )
    return _section(f"Everything compared: {len(listed)}", body, said)


def _rows(head: str, rows: Sequence[str]) -> str:
    start = '<div class="wide" tabindex="0" role="region" aria-label="Everything compared"><table><thead><tr>'
    return f"{start}{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"


def _count(rows: float) -> str:
    return f"{rows:,.0f}" if rows else "-"


def _row(one: Signal) -> str:
    start = (
        f'<tr class="{"counts" if one.grade or one.stop else "quiet"}"><th scope="row">{_name(one.name)}</th>'
        f"<td>{_text(', '.join(filter(None, (read.kind(one), one.unit))))}</td><td>{one.family}</td>"
    )
    if one.insufficient:
        return f'{start}<td colspan="8">insufficient: {_text(one.insufficient)}</td></tr>'
    cells = (
        read.amount(one, one.effect), read.amount(one, one.floor) if one.floor > 0 else "-", f"{one.ratio:.1f}" if one.floor > 0 else "-",
        read.chance(one.p), read.chance(one.p_adjusted), _count(one.reference_rows), _count(one.recent_rows),
    )  # fmt: skip
    return (
        f"{start}<td>{_text(read.graded(one))}</td>{''.join(f'<td class=n>{_text(cell)}</td>' for cell in cells)}</tr>"
    )
