"""Grades, budget, severity and confidence: from p-values and effects to one judgement of a check.

Plain Python: the loop and the command line grade stored evidence without NumPy's or SciPy's help. Thresholds are
those of the defaults table; where they come from is said beside them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, TypeVar

from evertrain.drift.signal import DriftType, Evidence, Family, Severity, Signal
from evertrain.errors import DataError, UnknownName
from evertrain.specs import Drift

Key = TypeVar("Key")

# What a grade asks of a p-value and of the effect in multiples of its floor: mild, strong, very strong.
GRADES = ((0.05, 1.0), (1e-3, 2.0), (1e-6, 4.0))
# How the alarm budget is divided: what hurts may alarm most.
SPLIT = {Family.PERFORMANCE: 0.5, Family.DATA: 0.3, Family.PREDICTION: 0.1, Family.QUALITY: 0.1}
OVERLAP = 7  # a window counts as at most seven looks while it slides through: a fit to simulated months
UNIMPORTANT = 0.01  # a column with a smaller share of the importance never raises severity above low
SEED = "seed"

# The confidence formula: chance of a change before looking, of harm given a change and given none.
PRIOR, HARM, HARM_UNCHANGED = 0.10, 0.50, 0.05
# What decisions use in their place: on simulated checks, most of them quiet, the formula then says 20 % where it is so in
# 20 of 100 (expected calibration error 0.05 instead of 0.06, Brier score 0.021 instead of 0.026).
CALIBRATED = (0.40, 0.03)
# Without labels: how much of the importance must have moved, and how well old and new rows must be told apart.
UNLABELLED_SHARE, UNLABELLED_AUC = 0.5, 0.75


# --- many tests -------------------------------------------------------------------------------------------------


def adjust(p: Sequence[float], method: Literal["bh", "holm"] = "bh") -> list[float]:
    """Return p-values corrected for their number, in the order given.

    "bh" bounds the share of false ones among those called (Benjamini and Hochberg 1995), "holm" the chance of any
    (Holm 1979). NaN and values outside [0, 1] are refused.

    >>> adjust([0.01, 0.02, 0.5])
    [0.03, 0.03, 0.5]
    """
    _check(p)
    if method not in ("bh", "holm"):
        raise UnknownName("correction", method, ["bh", "holm"])
    count, found = len(p), [0.0] * len(p)
    order = sorted(range(count), key=p.__getitem__)
    if method == "bh":
        best = 1.0
        for rank in range(count, 0, -1):
            best = min(best, p[order[rank - 1]] * count / rank)
            found[order[rank - 1]] = max(best, p[order[rank - 1]])  # p * n / n may be a bit below p
    else:
        worst = 0.0
        for rank, place in enumerate(order):
            worst = min(1.0, max(worst, p[place] * (count - rank)))
            found[place] = worst
    return found


def simes(p: Iterable[float]) -> float:
    """Return one p-value for "any of these"; 1 for none. It equals the smallest that `adjust` returns.

    Source: Simes, Biometrika 73 (1986); valid under positive dependence.

    >>> simes([0.01, 0.02, 0.5])
    0.03
    """
    values = sorted(p)
    _check(values)
    return min([1.0, *(one * len(values) / rank for rank, one in enumerate(values, 1))])


def _check(p: Sequence[float]) -> None:
    wrong = [one for one in p if not 0 <= one <= 1]
    if wrong:
        raise DataError(f"a p-value is {wrong[0]!r}; allowed: 0 to 1")


# --- budget -----------------------------------------------------------------------------------------------------


def looks(checks: float, new_share: float = 1.0) -> float:
    """Return how many independent looks so many checks are, at least 1.

    Args:
        new_share: share of a check's rows that the check before had not seen: neighbouring windows that overlap see
            the same chance twice.

    >>> round(looks(120, 1 / 25), 1)
    33.6
    """
    return max(1.0, min(checks, OVERLAP * checks * max(0.0, new_share)))


def check_level(config: Drift, new_share: float = 1.0) -> float:
    """Return the chance of a false alarm that one check may have, so that a period of checks keeps the budget."""
    return config.budget / looks(config.period / config.every, new_share)


def grade(
    found: Evidence,
    config: Drift,
    *,
    level: float | None = None,
    new_share: float = 1.0,
    fleet: Mapping[Family, float] | None = None,
) -> Evidence:
    """Return the evidence with every signal graded and its p corrected: for its family, the budget and the fleet.

    A signal of profile "seed" keeps the grade its rule gave it. A p that holds at every look (an e-process) spends
    the budget once, the others once per look.

    Args:
        level: chance of a false alarm that this check may have; None is what the budget leaves it. It is divided among
            the families that were tested.
        new_share: see `check_level`. Losses are looked at as far back as the promotion, and their newest windows are
            wholly new at every look: for them nothing is discounted.
        fleet: factor on the p of each family, see `fleet_factors`.
    """
    if config.profile == SEED:
        return found
    tested = {one.family for one in found.signals if one.p is not None}
    shares = {family: SPLIT[family] / sum(SPLIT[one] for one in tested) for family in tested}
    graded: dict[int, Signal] = {}
    for family in Family:
        places = [i for i, one in enumerate(found.signals) if one.family is family and one.p is not None]
        corrected = adjust([found.signals[i].p or 0.0 for i in places], config.correction)
        for i, p in zip(places, corrected, strict=True):
            one = found.signals[i]
            spent = level
            if one.kind == "e_process":
                spent = config.budget
            elif spent is None:
                spent = check_level(config, 1.0 if family is Family.PERFORMANCE else new_share)
            scaled = min(1.0, p * (fleet or {}).get(family, 1.0) * (0.05 / (spent * shares[family])))
            graded[i] = replace(one, p_adjusted=scaled, grade=_grade(scaled, one))
    signals = tuple(graded.get(i, one) for i, one in enumerate(found.signals))
    return replace(found, signals=tuple(replace(one, grade=3) if one.stop else one for one in signals))


def _grade(p: float, signal: Signal) -> int:
    ratio = signal.ratio if signal.floor > 0 else math.inf
    proven = signal.kind == "e_process"  # its p says "beyond chance", not how far: there the size alone grades
    reached = sum(p <= (GRADES[0][0] if proven else limit) and ratio >= times for limit, times in GRADES)
    return min(reached, 1) if _is_unimportant(signal) else reached


def _is_unimportant(signal: Signal) -> bool:
    return signal.weight is not None and signal.weight < UNIMPORTANT


# --- severity ---------------------------------------------------------------------------------------------------


def severity(performance: int, other: int, families: int, *, broken: bool = False) -> Severity:
    """Return how much a check matters.

    Args:
        performance: the highest grade among the signals of performance.
        other: the highest grade among all others.
        families: how many families have a signal of grade 1 or more.
        broken: a column is gone, or the model is worse than always giving the same answer.

    >>> severity(1, 2, 2)
    <Severity.HIGH: 'high'>
    """
    if broken or performance >= 3 or (performance >= 2 and other >= 2):
        return Severity.CRITICAL
    if performance >= 2 or (performance >= 1 and other >= 2):
        return Severity.HIGH
    if families >= 2 or other >= 2:
        return Severity.MEDIUM
    return Severity.LOW if families else Severity.NONE


def highest(signals: Iterable[Signal], *families: Family) -> int:
    """Return the highest grade among the signals of these families; 0 for none."""
    return max((one.grade for one in signals if one.family in families), default=0)


def judge(found: Evidence, *, persists: bool = False) -> Severity:
    """Return the severity of graded evidence.

    Inputs alone never call for a retraining while there are labels, which would show the harm. Without labels they
    reach HIGH only where most of what the model relies on has moved, old and new rows are easily told apart, and
    the check before said so as well (`persists`).
    """
    weighty = [one for one in found.signals if not _is_unimportant(one) or one.stop]
    raised = {one.family for one in weighty if one.grade}
    broken = any(one.stop or (one.grade and one.detail.get("worse_than_guessing")) for one in weighty)
    others = highest(weighty, Family.DATA, Family.PREDICTION, Family.QUALITY)
    found_severity = severity(highest(weighty, Family.PERFORMANCE), others, len(raised), broken=broken)
    if found_severity is Severity.NONE and any(one.grade for one in found.signals):
        return Severity.LOW
    if not found.labelled_rows and found_severity is Severity.MEDIUM and persists and moved_far(found):
        return Severity.HIGH
    return found_severity


def moved_share(signals: Iterable[Signal]) -> float | None:
    """Return the share of the model's importance that lies in columns graded as shifted; None where none is known."""
    weights: dict[str, float] = {}
    moved: set[str] = set()
    for one in signals:
        if one.family is Family.DATA and one.weight is not None:
            weights[one.name] = one.weight
            if one.grade:
                moved.add(one.name)
    total = sum(weights.values())
    return sum(weights[name] for name in moved) / total if total > 0 else None


def moved_far(found: Evidence) -> bool:
    """Return whether enough has moved to call for a retraining without a single label."""
    areas = [float(one.detail["auc"]) for one in found.signals if one.kind == "classifier" and "auc" in one.detail]
    return (moved_share(found.signals) or 0.0) >= UNLABELLED_SHARE and max(areas, default=0.0) >= UNLABELLED_AUC


def damage(signals: Sequence[Signal]) -> list[Signal]:
    """Return the graded signals of quality that are not merely another view of a shifted column.

    A column that moved as a whole has values out of its old range, and far from its old middle.
    """
    moved = {one.name for one in signals if one.family is Family.DATA and one.grade}
    return [
        one
        for one in signals
        if one.family is Family.QUALITY and one.grade and not (one.kind in ("outliers", "range") and one.name in moved)
    ]


def drift_type(signals: Sequence[Signal]) -> DriftType:
    """Return what kind of change graded signals show."""
    performance = highest(signals, Family.PERFORMANCE)
    damaged = damage(signals)
    moved, quality = highest(signals, Family.DATA, Family.PREDICTION), highest(damaged, Family.QUALITY)
    if performance:
        return DriftType.PERFORMANCE if moved or quality else DriftType.CONCEPT
    if quality and quality >= moved:
        worst = [one for one in damaged if one.grade == quality]
        return DriftType.OUTLIERS if all(one.kind == "outliers" for one in worst) else DriftType.QUALITY
    return DriftType.DATA if moved else DriftType.NONE


# --- confidence -------------------------------------------------------------------------------------------------


def confidence(
    drift_p: float | None = None,
    rise: float | None = None,
    variance: float | None = None,
    baseline: float | None = None,
    *,
    harm: tuple[float, float] = (HARM, HARM_UNCHANGED),
) -> float:
    """Return the probability, 0 to 1, that the model has really become worse.

    A change of inputs or answers is worth the e-value 1/(2 sqrt(p)) (Sellke-type calibrator); a change halves the
    doubt about harm; and the rise of the loss is weighed by the Bayes factor of a half-normal rise against none, half
    the baseline wide, or as wide as the noise where that is more. Without labels it stays at 50 % or below.

    Args:
        drift_p: see `Evidence.drift_p`; None is no evidence either way.
        rise, variance, baseline: of the mean loss, in its own unit; None without labels.
        harm: chance of harm where something changed, and where nothing did.

    >>> round(confidence(0.003, 0.03, 0.012**2, 0.10), 6)
    0.772744
    """
    odds = PRIOR / (1 - PRIOR)
    if drift_p is not None:
        odds *= min(max(0.5 / math.sqrt(drift_p), 0.5), 1e6) if drift_p > 0 else 1e6
    change = odds / (1 + odds)
    expected = harm[0] * change + harm[1] * (1 - change)
    if rise is None or variance is None or baseline is None or not all(map(math.isfinite, (rise, variance, baseline))):
        return expected
    logit = math.log(expected / (1 - expected)) + _log_bayes(rise, variance, baseline)
    return 1 / (1 + math.exp(-logit)) if logit > -700 else 0.0


def _log_bayes(rise: float, variance: float, baseline: float) -> float:
    if variance <= 0:  # nothing to weigh against: a certain rise is certain, and so is none
        return 700.0 if rise > 0 else -700.0
    # Narrower than the noise it would hold a seventeenfold rise for luck, because it expects none of that size.
    width = max(0.5 * abs(baseline), math.sqrt(variance))
    total = variance + width**2
    z = rise * width / math.sqrt(variance * total)
    # exp(z²/2) Phi(z); far below zero by Mills' ratio, which is exact to 1 % there, where both factors leave their range.
    below = z <= -10
    grown = -math.log(-z * math.sqrt(2 * math.pi)) if below else z * z / 2 + math.log(math.erfc(-z / math.sqrt(2)) / 2)
    return math.log(2) + 0.5 * math.log(variance / total) + grown


def per_cent(share: float) -> int:
    """Return a probability in whole per cent, from 1 to 99: nothing measured is certain."""
    return min(99, max(1, round(100 * share)))


# --- many partitions --------------------------------------------------------------------------------------------


def fleet_factors(found: Mapping[Key, Evidence]) -> dict[Key, dict[Family, float]]:
    """Return, per partition and family, the factor by which a p grows because so many partitions were looked at.

    Benjamini-Hochberg over the family p-values of one round of checks. A factor is 1 or more.

    >>> one = Evidence((Signal("x", Family.DATA, "ks", p=0.01),))
    >>> fleet_factors({"a": one, "b": Evidence((Signal("x", Family.DATA, "ks", p=0.5),))})["a"]
    {<Family.DATA: 'data'>: 2.0}
    """
    factors: dict[Key, dict[Family, float]] = {key: {} for key in found}
    for family in Family:
        p = {
            key: simes(tested)
            for key, one in found.items()
            if (tested := [s.p for s in one.signals if s.family is family and s.p is not None])
        }
        for key, corrected in zip(p, adjust(list(p.values())), strict=True):
            factors[key][family] = max(1.0, corrected / p[key]) if p[key] > 0 else float(len(p))
    return factors


def rows_to_label(share: float = 0.1, rise: float = 0.05) -> int:
    """Return how many labelled rows show a rise of an error rate: 80 % of the time, at 5 % one-sided.

    >>> rows_to_label()
    223
    """
    share = min(max(share, 0.01), 0.99)
    return math.ceil((1.645 + 0.84) ** 2 * share * (1 - share) / rise**2)
