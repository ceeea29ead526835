"""One check as lines under lines, for a terminal."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from evertrain.drift import grades
from evertrain.drift.signal import Evidence, Family, Severity, Signal
from evertrain.evidence import decide
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
    [Line(text='drift did not fire', style='dim', children=(Line(text='nothing changed', style='', children=()),))]
    """
    severity, found = decision.severity, decision.found
    head = f"{decision.rule} {read.answer(decision)}"
    if severity is not Severity.NONE:
        head = f"{severity.upper()} ({decision.action}): {head}"
    under = [Line(decision.reason)]
    if told := read.sure(decision):
        under.append(Line(told))
    if meaning := read.explained(decision):
        kind = decision.drift_type.value.replace("_", " ")
        under.append(
            Line(f"{kind}: {meaning.what}", "", (Line(meaning.impact), Line(f"What to do: {meaning.solution}")))
        )
    if found is not None:
        under += _evidence(found)
    if told_turning := turning(decision, config):
        title = "would not have fired with" if decision.fired else "would have fired with"
        under.append(Line(title, "", tuple(Line(one) for one in told_turning)))
    return [Line(head, _STYLES[severity], tuple(under))]


def _evidence(found: Evidence) -> list[Line]:
    looked = f"{plural(found.recent_rows, 'recent row')} and {plural(found.labelled_rows, 'labelled row')}, "
    looked += f"against {plural(found.reference_rows, 'reference row')}"
    if period := read.period(found):
        looked += f"; {period}"
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
    moved = f" ({told})" if (told := read.moved(one)) else ""
    text = f"{one.name}, {read.kind(one)}{moved}: {read.size(one)}"
    if one.floor > 0:
        text += f", {one.ratio:.1f} x its floor {read.amount(one, one.floor)}"
    if (p := one.p if one.p_adjusted is None else one.p_adjusted) is not None:
        text += f", p {read.chance(p)}"
    return Line(f"{text}: {read.graded(one)}", "red" if one.stop else _GRADE_STYLES[one.grade])


def turning(decision: Decision, config: Drift | None) -> list[str]:
    """Return what would have turned the answer round; every line but the first was tried on the same evidence.

    Without the trigger's configuration only what the decision itself says that it needs.
    """
    found = decision.found
    needs = decision.evidence.get("needs")
    told = [str(needs)] if needs and not decision.fired else []
    if config is None or found is None:
        return told

    def fires(evidence: Evidence, **changes: Any) -> bool:
        return decide(
            evidence,
            replace(config, **changes),
            level=decision.evidence.get("level"),
            new_share=decision.evidence.get("new_share"),
        ).fired

    if fires(found) != decision.fired:  # what the check before had found, or other partitions, tipped the scales
        return told
    order = [one.value for one in Severity if one is not Severity.NONE]
    for severity in order if decision.fired else reversed(order):
        if fires(found, severity=severity) != decision.fired:
            told.append(f"severity={severity!r} instead of {config.severity!r}")
            break
    sure = min((decision.confidence or 0) + decision.fired, 99)
    if fires(found, min_confidence=sure) != decision.fired:
        told.append(f"min_confidence={sure} instead of {config.min_confidence}")
    if decision.fired:
        told += [f"no signal of {family}" for family, _ in read.families(found) if not fires(_without(found, family))]
    return told


def _without(found: Evidence, family: Family) -> Evidence:
    rest = tuple(one for one in found.signals if one.family is not family)
    if family is Family.PERFORMANCE:
        return replace(found, signals=rest, loss_rise=None, loss_variance=None, loss_baseline=None)
    tested = [one.p for one in rest if one.p is not None and one.family is not Family.PERFORMANCE]
    return replace(found, signals=rest, drift_p=grades.simes(tested) if tested else None)
