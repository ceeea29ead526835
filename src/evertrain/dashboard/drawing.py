"""Where things stand in a chart: pure geometry, from values to coordinates; templates draw it.

Coordinates are those of an SVG `viewBox`; no mark is told from another by its colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class Tick:
    """A line of the grid: where it is and what stands beside it."""

    at: float
    text: str


@dataclass(frozen=True)
class Scale:
    """Values between two limits, drawn between two coordinates."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return where a value stands, to a tenth of a unit."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def nice(low: float, high: float, about: int = 4) -> list[float]:
    """Return round numbers from at most `low` to at least `high`, evenly spaced.

    >>> nice(0.71, 0.98)
    [0.7, 0.8, 0.9, 1.0]
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        return [0.0, 1.0]
    if low == high:
        around = abs(low) / 10 or 1.0
        low, high = low - around, high + around
    rough = (high - low) / about
    power = 10 ** math.floor(math.log10(rough))
    step = next(one * power for one in (1, 2, 2.5, 5, 10) if one * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(n * step, 12) for n in range(first, last + 1)]


def values(found: Sequence[float], top: float, bottom: float) -> tuple[Scale, list[Tick]]:
    """Return the scale of values from bottom to top, with its grid."""
    marks = nice(min(found), max(found))
    scale = Scale(marks[0], marks[-1], bottom, top)
    return scale, [Tick(scale(one), f"{one:,.10g}") for one in marks]


def moments(found: Sequence[datetime], left: float, right: float, most: int = 4) -> tuple[Scale, list[Tick]]:
    """Return the scale of moments from left to right, with a few of them named."""
    low, high = min(found).timestamp(), max(found).timestamp()
    if high - low < 1:
        low, high = low - 1800, high + 1800
    scale = Scale(low, high, left, right)
    zone = found[0].tzinfo
    form = (
        "%H:%M:%S"
        if high - low < 600
        else "%H:%M"
        if high - low < 86400
        else "%d %b"
        if high - low < 200 * 86400
        else "%b %Y"
    )
    marks = [low + (high - low) * n / most for n in range(most + 1)]
    return scale, [Tick(scale(one), datetime.fromtimestamp(one, zone).strftime(form).lstrip("0")) for one in marks]


def line(points: Sequence[tuple[float, float]]) -> str:
    """Return points for a polyline.

    >>> line([(0, 1.5), (2, 3)])
    '0,1.5 2,3'
    """
    return " ".join(f"{x:g},{y:g}" for x, y in points)


@dataclass(frozen=True)
class Spark:
    """A line as small as a word: its points, and where it ends."""

    points: str
    x: float
    y: float


def spark(found: Sequence[float], width: float = 120, height: float = 28) -> Spark | None:
    """Return a sparkline; of less than two values there is none."""
    known = [one for one in found if math.isfinite(one)]
    if len(known) < 2:
        return None
    low, high = min(known), max(known)
    y = Scale(low, high, height - 4, 4) if high > low else None
    x = Scale(0, len(known) - 1, 3, width - 5)
    points = [(x(n), y(one) if y else height / 2) for n, one in enumerate(known)]
    return Spark(line(points), *points[-1])


@dataclass(frozen=True)
class Mark:
    """One thing on a chart: where, what symbol, and what is said of it."""

    x: float
    y: float
    kind: str
    text: str


@dataclass(frozen=True)
class Chart:
    """A drawn chart: its grid, its lines and areas by name, and its marks."""

    width: float
    height: float
    left: float
    bottom: float
    across: list[Tick]
    along: list[Tick]
    lines: dict[str, str]
    marks: list[Mark]
    areas: dict[str, str]
    rules: list[Tick]


WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760.0, 240.0, 58.0, 748.0, 16.0, 208.0


def chart(
    across: list[Tick],
    along: list[Tick],
    *,
    lines: dict[str, str] | None = None,
    marks: list[Mark] | None = None,
    areas: dict[str, str] | None = None,
    rules: list[Tick] | None = None,
    height: float = HEIGHT,
) -> Chart:
    """Return a chart of the usual size."""
    return Chart(WIDTH, height, LEFT, BOTTOM, across, along, lines or {}, marks or [], areas or {}, rules or [])


def band(low: Sequence[tuple[float, float]], high: Sequence[tuple[float, float]]) -> str:
    """Return the outline of the area between two lines."""
    return line([*low, *reversed(high)])


@dataclass(frozen=True)
class Bar:
    """A bar of a timeline: where it begins, how wide it is, in which lane, and what it stands for."""

    x: float
    width: float
    lane: int
    of: Any


def lanes(spans: Sequence[tuple[datetime, datetime, str, Any]], scale: Scale) -> tuple[list[str], list[Bar]]:
    """Return the names of lanes in their order, and the bars in them; a short bar is still wide enough to be hit."""
    names = list(dict.fromkeys(name for _, _, name, _ in spans))
    bars = []
    for start, end, name, of in spans:
        x = scale(start.timestamp())
        bars.append(Bar(x, max(4.0, round(scale(end.timestamp()) - x, 1)), names.index(name), of))
    return names, bars
