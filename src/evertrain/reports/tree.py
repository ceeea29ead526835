"""One check as lines under lines, for a terminal."""

from __future__ import annotations

from typing import NamedTuple

from evertrain.drift.signal import Evidence, Severity, Signal
from evertrain.reports import read
from evertrain.specs import Drift
from evertrain.triggers import Decision, plural

_LISTED = 5  # signals of a family
_STYLES = {
    Severity.NONE: "dim",
    Severity.LOW: "green",
    Severity.MEDIUM: "yellow",
    Severity.HIGH: "dark_orange",
    Severity.CRITICAL: "red",
}
_GRADE_STYLES = ("dim", "green", "dark_orange", "red")


class Line(NamedTuple):
    """A line, how it looks (a style of rich, or nothing), and the lines under it."""

    text: str
    style: str = ""
    children: tuple[Line, ...] = ()


def lines(decision: Decision, config: Drift | None = None) -> list[Line]:
    """Return the last evaluation as a tree: what was decided, how sure, on what, and what would have to change.

    >>> from evertrain.specs import Cause
    >>> lines(Decision(Cause.DRIFT, "drift", False, "quiet", "nothing changed"))
    [Line(text='drift: did not fire', style='dim', children=(Line(text='nothing changed', style='', children=()),))]
    """
    severity, found = decision.severity, decision.found
    head = f"{decision.rule}: {read.answer(decision)}"
    if severity is not Severity.NONE:
        head = f"{severity.upper()} ({decision.action}), {head}"
    under = [Line(decision.reason)]
    if told := read.sure(decision):
        under.append(Line(told))
    if found is not None:
        under += _evidence(found)
    if told_turning := turning(decision, config):
        title = "would not have fired" if decision.fired else "would have fired"
        under.append(Line(title, "", tuple(Line(one) for one in told_turning)))
    return [Line(head, _STYLES[severity], tuple(under))]


def _evidence(found: Evidence) -> list[Line]:
    looked = f"{plural(found.recent_rows, 'recent row')}, {found.labelled_rows} with their actual, "
    looked += f"against {plural(found.reference_rows, 'reference row')}"
    if found.since or found.until:
        looked += f"; {read.moment(found.since)} to {read.moment(found.until)}"
    told = [Line(f"looked at {looked}", "dim")]
    if found.changed_at:
        told.append(Line(f"losses changed {read.moment(found.changed_at)}"))
    for family, signals in read.families(found):
        worst = max(one.grade for one in signals)
        text = f"{family}: {read.GRADES[worst]}" + (", stop" if any(one.stop for one in signals) else "")
        rest = (
            (Line(f"and {len(signals) - _LISTED} more, with smaller effects", "dim"),) if len(signals) > _LISTED else ()
        )
        told.append(Line(text, _GRADE_STYLES[worst], (*(_signal(one) for one in signals[:_LISTED]), *rest)))
    for why, signals in read.unsaid(found):
        names = ", ".join(one.name for one in signals[:3]) + (
            f" and {len(signals) - 3} more" if len(signals) > 3 else ""
        )
        told.append(Line(f"not enough to say about {names}: {why}", "dim"))
    return [*told, *(Line(one, "dim") for one in found.notes)]


def _signal(one: Signal) -> Line:
    text = f"{one.name}, {read.kind(one)}: {read.size(one)}"
    if one.floor > 0:
        text += f", {one.ratio:.1f} x its floor {read.amount(one, one.floor)}"
    if (p := one.p if one.p_adjusted is None else one.p_adjusted) is not None:
        text += f", p {read.chance(p)}"
    return Line(f"{text}: {read.graded(one)}", "red" if one.stop else _GRADE_STYLES[one.grade])


def turning(decision: Decision, config: Drift | None) -> list[str]:
    """Return what would have turned the answer round, in sentences; nothing where the trigger is not known."""
    if config is None or decision.found is None:
        return []
    needed, told = Severity(config.severity), []
    confidence = decision.confidence or 0
    if decision.fired:
        higher = [one for one in Severity if one.reaches(decision.severity) and one is not decision.severity]
        if higher:
            told.append(f"with severity={higher[0].value!r} instead of {needed.value!r}")
        if decision.confidence is not None and confidence < 99:
            told.append(f"with min_confidence above {confidence}, which now is {config.min_confidence}")
        return told
    if not decision.severity.reaches(needed) and decision.severity is not Severity.NONE:
        told.append(f"with severity={decision.severity.value!r} instead of {needed.value!r}")
    if confidence < config.min_confidence:
        told.append(f"with min_confidence={confidence} instead of {config.min_confidence}")
    return told
