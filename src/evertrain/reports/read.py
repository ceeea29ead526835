"""What there is to see in a decision: values that the page, the picture and the terminal draw alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from evertrain.drift.signal import DriftType, Evidence, Family, Severity, Signal
from evertrain.evidence import EXPLANATIONS, Explanation, loss_in_words
from evertrain.triggers import Decision

SHOWN = 30  # features drawn; the others are counted, and listed where there is room
GRADES = ("nothing", "mild", "strong", "very strong")
KINDS = {
    "ks": "distribution",
    "chi2": "shares of values",
    "missing": "missing values",
    "outliers": "outliers",
    "new_values": "new values",
    "range": "out of range",
    "constant": "constant",
    "type": "type",
    "pca": "columns together, PCA",
    "classifier": "columns together, classifier",
    "loss_scan": "scan of the losses",
    "e_process": "e-process of the losses",
    "baseline": "losses against the baseline",
    "data_drift": "distribution",
    "concept_drift": "errors",
    "performance_drop": "score",
    "rmse_increase": "errors",
}
HEADLINES = {
    DriftType.NONE: "Nothing has changed that counts",
    DriftType.DATA: "The data have changed",
    DriftType.CONCEPT: "The model errs more, on inputs like those before",
    DriftType.PERFORMANCE: "The model has become worse, and its inputs have changed",
    DriftType.QUALITY: "The data are not in order",
    DriftType.OUTLIERS: "There are more outliers than before",
}


def headline(decision: Decision) -> str:
    """Return what was found, in one line."""
    found = decision.found
    if found is not None and decision.drift_type is DriftType.NONE and decision.severity is Severity.NONE:
        if not found.signals or all(one.insufficient for one in found.signals):
            return "Nothing can be said yet"
    elif decision.drift_type is DriftType.NONE:
        return decision.reason[:1].upper() + decision.reason[1:]
    elif decision.drift_type is DriftType.CONCEPT and found is not None and _inputs_changed(found):
        return "The model errs more"  # rules of profile "seed" call it so whatever the inputs do
    return HEADLINES[decision.drift_type]


def _inputs_changed(found: Evidence) -> bool:
    return any(one.grade for one in found.signals if one.family in (Family.DATA, Family.QUALITY))


def answer(decision: Decision) -> str:
    """Return whether it fired, and what that asks for."""
    if not decision.fired:
        return "did not fire"
    return "fired, asks for retraining" if decision.retrain else "fired, reports without retraining"


def sure(decision: Decision) -> str:
    """Return the confidence as a sentence, or nothing where none was weighed."""
    if decision.confidence is None:
        return ""
    return f"{decision.confidence} % sure that the model has become worse"


def explained(decision: Decision) -> Explanation | None:
    """Return what a change of this type means, its impact, and what to do; None where nothing was weighed or found."""
    return None if decision.drift_type is DriftType.NONE else EXPLANATIONS[decision.drift_type]


def graded(signal: Signal) -> str:
    """Return how strong a signal is, in words."""
    if signal.insufficient:
        return "insufficient"
    if signal.stop:
        return "stop"
    if signal.grade == 0 and signal.floor > 0:
        return "not certain" if signal.ratio >= 1 else "below its floor"
    return GRADES[signal.grade]


def kind(signal: Signal) -> str:
    """Return what was compared, in words; a kind without words is its own name."""
    return KINDS.get(signal.kind, signal.kind.replace("_", " "))


def size(signal: Signal) -> str:
    """Return the effect with its unit; a share is told in per cent.

    >>> size(Signal("loss", Family.PERFORMANCE, "loss_scan", effect=0.342, unit="of the baseline loss"))
    '34.2 % of the baseline loss'
    """
    unit = signal.unit.removeprefix("share ")
    return amount(signal, signal.effect) + (f" {unit}" if unit else "")


def amount(signal: Signal, value: float) -> str:
    """Return an effect or a floor of a signal without its unit."""
    return f"{number(100 * value)} %" if signal.unit.startswith(("of ", "share")) else number(value)


def moved(signal: Signal) -> str:
    """Return what it was and what it is, where the signal tells: a share, a mean, a type; else nothing.

    >>> moved(Signal("x", Family.QUALITY, "missing", detail={"shares": [0.012, 0.25]}))
    '1.2 % to 25 % of rows'
    """
    told = signal.detail
    for name, text, times in (("shares", "{} % to {} % of rows", 100), ("means", "mean {} to {}", 1)):
        if name in told:
            was, now = (number(times * one) for one in told[name])
            return "" if was == now else text.format(was, now)
    return f"{told['was']} to {told['is']}" if "was" in told else str(told.get("rule", ""))


def times(signal: Signal, most: float) -> float:
    """Return how long the bar of a signal is: its effect in floors, at most `most`; what calls for a stop is full."""
    if signal.stop or signal.ratio == math.inf:
        return most
    return min(max(signal.ratio, 0.0), most) if math.isfinite(signal.ratio) else 0.0


def number(value: float | None) -> str:
    """Return a number as people read it, to three digits.

    >>> [number(one) for one in (0.30519, 1234.5, 25, 0, 0.000012, float("nan"), None)]
    ['0.305', '1,234', '25', '0', '1.2e-05', 'not a number', '-']
    """
    if value is None:
        return "-"
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "beyond any number"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def chance(p: float | None) -> str:
    """Return a p-value as people read it.

    >>> [chance(one) for one in (0.25, 0.0312, 2.3e-8, 0.0, None)]
    ['0.25', '0.031', '2e-08', '< 1e-300', '-']
    """
    if p is None:
        return "-"
    if p < 1e-300:
        return "< 1e-300"
    return f"{p:.2g}" if p >= 1e-3 else f"{p:.0e}"


def moment(text: str | None) -> str:
    """Return an instant to the minute, in UTC, or what else is written there.

    >>> moment("2026-05-03T14:07:31.5+00:00"), moment("2026-05-03T00:00:00Z"), moment("block 7")
    ('2026-05-03 14:07 UTC', '2026-05-03', 'block 7')
    """
    if text is None:
        return "-"
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return text
    found = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    return f"{found:%Y-%m-%d}" if (found.hour, found.minute) == (0, 0) else f"{found:%Y-%m-%d %H:%M} UTC"


def period(found: Evidence) -> str:
    """Return from when to when the recent rows are, or nothing without times."""
    if found.since is None and found.until is None:
        return ""
    since, until = moment(found.since), moment(found.until)
    return f"{since.removesuffix(' UTC') if until.endswith(' UTC') else since} to {until}"


def _strength(signal: Signal) -> tuple[bool, float]:
    # A rule without a floor of effect is as strong as its grade says.
    ratio = signal.ratio if signal.floor > 0 else float(signal.grade)
    return signal.stop, 0.0 if math.isnan(ratio) else ratio


def by_effect(signals: Sequence[Signal]) -> list[Signal]:
    """Return the signals that say something, the largest effect against its floor first."""
    told = [one for one in signals if not one.insufficient]
    return sorted(told, key=lambda one: (*(-part for part in _strength(one)), one.name, one.kind))


def features(found: Evidence) -> list[Signal]:
    """Return the largest signal of every name, the largest first; a column is one bar, however often it was tested."""
    largest: dict[tuple[str, Family | None], Signal] = {}
    for one in by_effect(found.signals):
        # A column may be called "loss": what is said about losses is not said about that column.
        largest.setdefault((one.name, one.family if one.family in _NOT_COLUMNS else None), one)
    return list(largest.values())


_NOT_COLUMNS = (Family.PERFORMANCE, Family.PREDICTION)


def families(found: Evidence) -> list[tuple[Family, list[Signal]]]:
    """Return the signals of each family that was looked at, performance first, the largest first."""
    told = by_effect(found.signals)
    listed = [(family, [one for one in told if one.family is family]) for family in reversed(Family)]
    return [(family, signals) for family, signals in listed if signals]


def unsaid(found: Evidence) -> list[tuple[str, list[Signal]]]:
    """Return what could not be said, by its reason, the most frequent first."""
    why: dict[str, list[Signal]] = {}
    for one in found.signals:
        if one.insufficient:
            why.setdefault(one.insufficient, []).append(one)
    return sorted(why.items(), key=lambda pair: -len(pair[1]))


# --- pictures ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Histogram:
    """A column then and now.

    Attributes:
        reference, recent: share of rows in each level, or in each tenth of the reference. Tenths are drawn equally wide,
            since the first and the last one have no end.
        levels: of categories, else empty.
        ticks: of numbers, a few limits between tenths: how many bins lie below, and the value there.
    """

    reference: tuple[float, ...]
    recent: tuple[float, ...]
    levels: tuple[str, ...] = ()
    ticks: tuple[tuple[int, str], ...] = ()

    def heights(self) -> tuple[list[float], list[float]]:
        """Return the shares in parts of the largest."""
        top = max(*self.reference, *self.recent) or 1.0
        return [one / top for one in self.reference], [one / top for one in self.recent]

    def moved(self) -> list[tuple[str, float, float]]:
        """Return levels with their shares then and now, the one that moved most first."""
        listed = list(zip(self.levels, self.reference, self.recent, strict=True))
        return sorted(listed, key=lambda one: (-round(abs(one[2] - one[1]), 9), -one[1], one[0]))


def distributions(found: Evidence) -> list[tuple[Signal, Histogram]]:
    """Return the columns drawn as features that carry their distributions, in the same order."""
    drawn: dict[tuple[str, Family], tuple[Signal, Histogram]] = {}
    order = {one.name: place for place, one in reversed(list(enumerate(features(found)[:SHOWN])))}
    for one in by_effect(found.signals):
        if one.name in order and (one.name, one.family) not in drawn and (told := histogram(one)):
            drawn[one.name, one.family] = one, told
    return sorted(drawn.values(), key=lambda pair: order[pair[0].name])


def histogram(signal: Signal) -> Histogram | None:
    """Return the distributions that a signal carries, or None; tenths between equal limits are one with the one below.

    `detail["histogram"]` holds shares of rows, "reference" and "recent", with "levels", or with the "edges" between them.

    >>> told = {"edges": [1.0, 1.0, 2.0], "reference": [0.25, 0.25, 0.25, 0.25], "recent": [0.1, 0, 0.5, 0.4]}
    >>> found = histogram(Signal("x", Family.DATA, "ks", detail={"histogram": told}))
    >>> found.reference, found.recent, found.ticks
    ((0.5, 0.25, 0.25), (0.1, 0.5, 0.4), ((1, '1'), (2, '2')))
    """
    told = signal.detail.get("histogram")
    if told is None:
        return None
    if levels := told.get("levels"):
        names = tuple(f"{one:g}" if isinstance(one, float) else str(one) for one in levels)
        return Histogram(tuple(told["reference"]), tuple(told["recent"]), names)
    limits: list[float] = []
    bins: list[tuple[float, float]] = []
    pairs = list(zip(told["reference"], told["recent"], strict=True))
    for limit, (then, now) in zip([*told["edges"], math.inf], pairs, strict=True):
        if limits and limit == limits[-1]:
            bins[-1] = bins[-1][0] + then, bins[-1][1] + now
        else:
            limits.append(limit)
            bins.append((then, now))
    values = limits[:-1]
    places = sorted({0, len(values) // 2, len(values) - 1})
    reference, recent = zip(*bins, strict=True)
    return Histogram(reference, recent, ticks=tuple((place + 1, number(values[place])) for place in places))


@dataclass(frozen=True)
class Losses:
    """What became of the mean loss.

    Attributes:
        loss: of which kind, a value of `scores.Loss`, or what a score without row losses is called.
        baseline: the mean when the model was promoted.
        after: the mean since the change; None where there was none.
        rise, low, high: of `after` over the baseline, a share of it, with its 95 % interval.
        at: where each block stands, 0 to 1, by time where every block has one, else by its place; empty without a
            series.
        labels: when each block was.
        mean, rows: of each block.
        change: the first block after the change; None where there was none, or no series.
    """

    loss: str
    baseline: float | None = None
    after: float | None = None
    rise: float | None = None
    low: float | None = None
    high: float | None = None
    at: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    rows: tuple[float, ...] = ()
    change: int | None = None

    def __str__(self) -> str:
        """Return it as one sentence."""
        if self.baseline is None:
            return ""
        was = f"The {loss_in_words(self.loss)} was {number(self.baseline)} at promotion"
        if self.after is None or self.rise is None:
            return f"{was}, and has not risen beyond chance."
        since = f" since {self.labels[self.change]}" if self.change is not None else ""
        sure = ""
        if self.low is not None and self.high is not None:
            sure = f" (95 % interval {100 * self.low:+.0f} to {100 * self.high:+.0f} %)"
        return f"{was} and is {number(self.after)}{since}: {100 * self.rise:+.0f} %{sure}."


def losses(found: Evidence) -> Losses | None:
    """Return what the signal of performance says about losses, with the series that it carries; else None."""
    for signal in found.signals:
        told = signal.detail
        if signal.family is not Family.PERFORMANCE or not ("series" in told or "after" in told) or signal.insufficient:
            continue
        blocks = told.get("series", [])
        if len(blocks) < 2:  # one block is no line
            blocks = []
        marks, mean, rows = zip(*blocks, strict=True) if blocks else ((), (), ())
        change = told.get("change") if blocks and signal.grade else None
        baseline, after = told.get("before"), told.get("after") if signal.grade else None
        if after is None and change is not None:
            after = sum(m * n for m, n in zip(mean[change:], rows[change:], strict=True)) / sum(rows[change:])
        rise = told.get("ratio")
        if rise is None and after is not None and baseline:
            rise = (after - baseline) / abs(baseline)
        return Losses(
            str(told["loss"]), baseline, after, rise, told.get("low"), told.get("high"), _places(marks) if marks else (),
            tuple(moment(one) if isinstance(one, str) else f"row {one}" for one in marks), mean, rows, change,
        )  # fmt: skip
    return None


def _places(marks: Sequence[str | int]) -> tuple[float, ...]:
    """Return where blocks stand, 0 to 1: by their moments, else by the places of their first rows."""
    told = [datetime.fromisoformat(one).timestamp() if isinstance(one, str) else float(one) for one in marks]
    if told[0] == told[-1]:
        told = [float(place) for place in range(len(marks))]
    return tuple((one - told[0]) / (told[-1] - told[0]) for one in told)


def ticks(low: float, high: float, many: int = 4) -> list[float]:
    """Return round numbers from `low` to `high`, about so many.

    >>> ticks(0.13, 0.52)
    [0.2, 0.3, 0.4, 0.5]
    """
    span = high - low
    if not (math.isfinite(span) and span > 0):
        return [low] if math.isfinite(low) else []
    step = 10.0 ** math.floor(math.log10(span / many))
    step *= min((1, 2, 5, 10), key=lambda times: abs(span / (times * step) - many))
    first = math.ceil(low / step)
    return [round(place * step, 12) for place in range(first, math.floor(high / step) + 1)]
