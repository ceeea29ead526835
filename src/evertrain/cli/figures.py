"""Figures: the report on retraining, and what needs a human."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from evertrain.cli import here, show
from evertrain.cli.here import Json, app

if TYPE_CHECKING:
    from evertrain.control.report import Figures, Gain, Report, Spread

_WIDTH = 24
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_URGENCY = {"critical": "red", "warning": "yellow", "note": "blue"}


@app.command()
def report(
    last: Annotated[str, typer.Option(help="Of how long, up to now: 30d, 12h.")] = "30d",
    model: Annotated[str | None, typer.Option("--model", "-m", help="Only this model.")] = None,
    price: Annotated[
        float | None, typer.Option(help="Money per hour of one processor; costs are told in it as well.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show how retraining does: how often, why, how it ends, what it improves, how long it takes and what it costs."""
    from evertrain.control import report as figures
    from evertrain.specs import spoken

    span = figures.span_of(last, "--last")
    with here.opened() as opened:
        found = figures.report(opened, span, model=model, price=price)
    if as_json:
        told = asdict(found)
        for one in told["remarks"]:
            one["command"] = one["command"] and show.command_line(one["command"])
        show.as_json(told)
        return
    if not found.together.retrainings and not found.together.verdicts:
        show.line(f"Nothing was retrained in the last {spoken(span)}.")
        show.following("status")
        return
    show.line(f"The last {spoken(span)}, since {show.moment(found.since)}")
    _show_models(found)
    together = found.together
    _bars("What caused retrainings", together.triggers)
    _bars("How trainings of partitions ended", together.verdicts)
    _show_kinds(together)
    if together.fallbacks:
        show.line(f"Fell back to a full run: {together.fallbacks} x", "yellow")
    if together.forecast_fallbacks:
        show.line(f"The naive forecast stood in for {together.forecast_fallbacks} series.", "yellow")
    for remark in found.remarks:
        show.line(f"{remark.level}: {remark.text}", "yellow" if remark.level == "warning" else "green")
    back = next((one.command for one in found.remarks if one.command), None)
    show.following(back or "attention")


def _show_models(found: Report) -> None:
    shown = [*found.models, *([found.together] if len(found.models) != 1 else [])]
    styles = ["bold" if one.model is None else None for one in shown]
    money = found.price is not None
    rows = [
        [
            one.model or "together",
            str(one.retrainings),
            f"{one.per_week:.1f}",
            "-" if one.success_percent is None else f"{one.success_percent:.0f} %",
            _typical(one.wall_s),
            _typical(one.cpu_s),
            "-" if one.peak_mb is None else f"{one.peak_mb:.0f} MB",
            *([f"{one.money:.4f}"] if money else []),
        ]
        for one in shown
    ]
    columns = ["model", "trained", "a week", "success", "takes", "CPU", "memory", *(["cost"] if money else [])]
    show.table(columns, rows, styles=styles)
    total = found.together.cpu_s
    if total:
        show.line(
            f"Half of the retrainings take no longer, in brackets nine in ten; in all {show.duration(total.total)} of CPU.",
            "dim",
        )
    gains = [(one, one.improvement) for one in shown if one.improvement]
    rows = [
        [
            one.model or "together",
            str(gain.number),
            _percent(gain.median_percent),
            _percent(gain.mean_percent),
            _points(gain),
        ]
        for one, gain in gains
    ]
    if rows:
        styles = ["bold" if one.model is None else None for one, _ in gains]
        show.table(["promoted", "compared", "better by, median", "mean", "in its score"], rows, styles=styles)


def _percent(found: float | None) -> str:
    return "-" if found is None else f"{found:+.1f} %"


def _points(found: Gain) -> str:
    """Return the median improvement in the unit of the score, in words: of an error, a sign could be read either way."""
    from evertrain.scores import format_score

    if found.score is None or found.median_points is None:
        return "-"
    word = "better" if found.median_points >= 0 else "worse"
    return f"{found.score} {word} by {format_score(found.score, abs(found.median_points))}"


def _typical(found: Spread | None) -> str:
    return "-" if found is None else f"{show.duration(found.median)} ({show.duration(found.p90)})"


def _bars(title: str, found: Mapping[str, int]) -> None:
    """Print how a whole is divided; with bars on a terminal, else as plain lines."""
    whole = sum(found.values())
    if not whole:
        return
    show.line(f"{title}:")
    lively, width = show.lively(sys.stdout), max(map(len, found))
    for name, number in sorted(found.items(), key=lambda one: -one[1]):
        drawn = f"  {bar(number / whole)}" if lively else ""
        show.line(f"  {name:{width}}{drawn}  {number} ({100 * number / whole:.0f} %)")


def bar(share: float, width: int = _WIDTH) -> str:
    """Return a share as a bar of that many characters, to an eighth of one.

    >>> bar(0.5, 4), bar(0.28, 4), bar(0, 2)
    ('██  ', '█▏  ', '  ')
    """
    eighths = round(share * width * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (_EIGHTHS[rest] if rest else "")).ljust(width)


def _show_kinds(found: Figures) -> None:
    rows = [
        [
            kind,
            str(one.retrainings),
            _percent(one.improvement.median_percent) if one.improvement else "-",
            _typical(one.wall_s),
            _typical(one.cpu_s),
        ]
        for kind, one in found.kinds.items()
        if one.retrainings
    ]
    if len(rows) > 1:
        show.table(["run", "trained", "better by", "takes", "CPU"], rows)


@app.command()
def attention(as_json: Json = False) -> None:
    """Show what needs a human, the most urgent first, each with the command that clears it."""
    from evertrain.control import attention as needs

    with here.opened() as opened:
        found = needs.attention(opened)
    if as_json:
        show.as_json([{**asdict(one), "command": show.command_line(one.command)} for one in found])
        return
    if not found:
        show.line("Nothing needs you.", "green")
        show.following("status")
        return
    for one in found:
        since = f"  [{show.moment(one.since)}]" if one.since else ""
        show.line(f"{one.severity}: {one.text}{since}", _URGENCY[one.severity])
        if one.file:
            show.line(f"  the list: {show.quoted(one.file)}")
        show.line(f"  {show.command_line(one.command)}")
    show.following(found[0].command)
