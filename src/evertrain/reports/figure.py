"""One check as a matplotlib figure: losses, effects against their floors, distributions then and now."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from evertrain.drift.signal import Evidence, Severity, Signal
from evertrain.errors import ConfigError
from evertrain.partitions import printable
from evertrain.reports import read
from evertrain.triggers import Decision

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INK, _SOFT, _LINE, _THEN, _NOW = "#1c1e21", "#5a6068", "#e3e4e6", "#b4bac2", "#1f5fd0"
_COLOURS = {
    Severity.NONE: ("#6b7280", "#ffffff"),
    Severity.LOW: ("#1a7f37", "#ffffff"),
    Severity.MEDIUM: ("#f2c218", "#1c1600"),
    Severity.HIGH: ("#f07a1a", "#1f0f00"),
    Severity.CRITICAL: ("#c8201c", "#ffffff"),
}
_BARS, _DRAWN, _WIDEST, _LETTERS = 15, 6, 5.0, 26


def figure(decision: Decision, model: str, partition: str) -> Figure:
    """Return the pictures that the evidence has data for."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError("plot", "report", "matplotlib beside it: pip install 'evertrain[plot]'") from None
    found = decision.found or Evidence()
    bars, losses = read.features(found), read.losses(found)
    drawn = read.distributions(found)[:_DRAWN]
    heights = [1.1]
    if losses and losses.mean:
        heights.append(2.8)
    if bars:
        heights.append(0.8 + 0.3 * min(len(bars), _BARS))
    down = math.ceil(len(drawn) / 3)
    if drawn:
        heights += [0.2, 2.0 * down]
    drawing = Figure(figsize=(10, sum(heights) + 0.4), layout="constrained", dpi=120)
    drawing.get_layout_engine().set(hspace=0.06, h_pad=0.1, w_pad=0.1)  # type: ignore[union-attr, call-arg]
    FigureCanvasAgg(drawing)
    rows: Any = drawing.add_gridspec(len(heights), 1, height_ratios=heights)
    _title(drawing.add_subplot(rows[0]), decision, model, partition)
    at = 1
    if losses and losses.mean:
        _losses(drawing.add_subplot(rows[at]), losses)
        at += 1
    if bars:
        _effects(drawing.add_subplot(rows[at]), bars)
        at += 1
    if drawn:
        head = drawing.add_subplot(rows[at])
        _plain(head, "Then and now")
        head.set_title("share of rows: reference grey, recent blue", loc="right", fontsize=8, color=_SOFT)
        head.axis("off")
        at += 1
        cells = rows[at].subgridspec(down, 3)
        for place, (one, told) in enumerate(drawn):
            _distribution(drawing.add_subplot(cells[divmod(place, 3)]), one.name, told)
    return drawing


def _cut(name: str) -> str:
    # A dollar sign would begin a formula.
    shown = printable(name)
    return (shown if len(shown) <= _LETTERS else f"{shown[: _LETTERS - 9]}…{shown[-8:]}").replace("$", r"\$")


def _title(axes: Any, decision: Decision, model: str, partition: str) -> None:
    axes.axis("off")
    colour, ink = _COLOURS[decision.severity]
    word = "nothing to do" if decision.severity.value == "none" else f"{decision.severity.upper()} · {decision.action}"
    of = " · ".join(_cut(one) for one in (model, partition) if one)
    axes.text(
        0,
        0.98,
        word,
        color=ink,
        weight="bold",
        va="top",
        bbox={"boxstyle": "round,pad=0.4", "fc": colour, "ec": "none"},
    )
    axes.text(1, 0.98, of, ha="right", va="top", color=_SOFT)
    axes.text(
        0, 0.5, read.headline(decision).replace("$", r"\$"), size=15, weight="bold", va="top", color=_INK, wrap=True
    )
    said = "; ".join(one for one in (read.answer(decision), read.sure(decision)) if one)
    axes.text(0, 0.1, said, va="top", color=_SOFT)


def _said(axes: Any, text: str, at: tuple[float, float], shift: tuple[float, float], **more: Any) -> None:
    axes.annotate(text.replace("$", r"\$"), at, xytext=shift, textcoords="offset points", **{"size": 8, **more})


def _plain(axes: Any, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, weight="bold", color=_INK)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_SOFT)
    axes.tick_params(length=0, labelsize=8, colors=_SOFT)


def _losses(axes: Any, shown: read.Losses) -> None:
    _plain(axes, "Loss over time")
    axes.set_title(str(shown).replace("$", r"\$"), loc="right", fontsize=8, color=_SOFT)
    axes.grid(axis="y", color=_LINE)
    if shown.baseline is not None:
        axes.axhline(shown.baseline, color=_SOFT, lw=1, ls="--")
        _said(axes, f"baseline {read.number(shown.baseline)}", (1, shown.baseline), (-4, -11), ha="right", color=_SOFT)
    axes.plot(shown.at, shown.mean, color=_NOW, lw=1.8, marker="o", ms=4)
    if shown.change is not None:
        at = shown.at[shown.change]
        axes.axvspan(at, 1.02, color=_NOW, alpha=0.1, lw=0)
        axes.axvline(at, color=_INK, lw=1.3)
        side, shift = ("left", 5) if at <= 0.55 else ("right", -5)
        top = {"xycoords": ("data", "axes fraction"), "ha": side, "weight": "bold", "color": _INK}
        _said(axes, f"changed {shown.labels[shown.change]}", (at, 1), (shift, -11), **top)
        if shown.after is not None:
            axes.plot([at, 1], [shown.after] * 2, color=_NOW, lw=1.6, ls=":")
    axes.set_xlim(-0.02, 1.02)
    axes.margins(y=0.25)
    axes.set_xticks([0, 1], [shown.labels[0].replace("$", r"\$"), shown.labels[-1].replace("$", r"\$")])
    axes.get_xticklabels()[0].set_ha("left")
    axes.get_xticklabels()[1].set_ha("right")


def _effects(axes: Any, bars: list[Signal]) -> None:
    shown = bars[:_BARS]
    more = f", {len(bars) - _BARS} more with smaller effects" if len(bars) > _BARS else ""
    _plain(axes, f"What moved: effect in multiples of its floor{more}")
    widths = [read.times(one, _WIDEST) for one in shown]
    places = range(len(shown))
    colours = [_NOW if one.grade or one.stop else _THEN for one in shown]
    axes.barh(places, widths, color=colours, height=0.62)
    axes.axvline(1, color=_INK, lw=1.6)
    for place, (one, width) in enumerate(zip(shown, widths, strict=True)):
        beyond = f" ({one.ratio:.0f} ×)" if one.ratio > _WIDEST else ""
        text = f"{read.size(one)}, {read.graded(one)}{beyond}"
        _said(axes, text, (max(width, 1), place), (5, 0), va="center", color=_SOFT)
    axes.set_yticks(places, [_cut(one.name) for one in shown], color=_INK)
    axes.set_xticks([1, 2, 4], ["floor", "2 ×", "4 ×"])
    axes.set_xlim(0, _WIDEST * 1.45)
    axes.set_ylim(len(shown) - 0.5, -0.5)


def _distribution(axes: Any, name: str, told: read.Histogram) -> None:
    _plain(axes, "")
    axes.set_title(_cut(name), loc="left", fontsize=9, color=_INK)
    if told.levels:
        moved = told.moved()[:5]
        for shift, which, colour in ((-0.19, 1, _THEN), (0.19, 2, _NOW)):
            shares = [100 * (one[1] if which == 1 else one[2]) for one in moved]
            axes.barh([place + shift for place in range(len(moved))], shares, 0.34, color=colour)
        axes.set_yticks(range(len(moved)), [_cut(one[0]) for one in moved])
        axes.set_ylim(len(moved) - 0.5, -0.5)
        axes.xaxis.set_major_formatter("{x:g} %")
        return
    then, now = told.heights()
    axes.stairs(then, fill=True, color=_THEN)
    axes.stairs(now, color=_NOW, lw=1.8)
    axes.set_xticks([at for at, _ in told.ticks], [text for _, text in told.ticks])
    axes.set_yticks([])
    axes.set_ylim(0, 1.08)
