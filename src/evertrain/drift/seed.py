"""Profile "seed": the plain rules of older retraining scripts, with their names and thresholds.

They are kept for who must reproduce them. They look at every column by itself, at every check anew, and at scores
without their uncertainty: in a simulated month in which nothing changes, 47 % of checks alarm.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from evertrain.drift.signal import DriftType, Family, Severity, Signal
from evertrain.specs import Drift

if TYPE_CHECKING:
    import pandas as pd

WARNING = 'profile "seed" alarms often: in 47 % of checks while nothing changes'
LIMIT_Z = 3.0
_ROUNDING = 1e-9  # 0.90 to 0.765 is a fall of 15.000000000000002 % in floating point
_STRONGER = (1, 50, 50_000)  # 0.05, 0.001 and a millionth at the usual threshold

# What each rule asks for, in the words of the scripts.
ACTIONS = {
    "data_drift": "check features",
    "outliers": "flag data quality",
    "concept_drift": "high priority",
    "performance_drop": "investigate",
    "rmse_increase": "monitor",
}


def columns(reference: pd.DataFrame, recent: pd.DataFrame, config: Drift) -> list[Signal]:
    """Return the signals of the two rules about inputs, one per numeric column that both tables have.

    data_drift: the two-sample Kolmogorov-Smirnov test has p < `config.p_value`. outliers: more than
    `config.outlier_share` of the recent values lie over 3 standard deviations from their own mean. Missing and
    infinite values are left out; a column with fewer than two values left gives no signal.
    """
    import numpy as np
    from scipy import stats  # type: ignore[import-untyped]

    found = []
    for name in recent.columns:
        if name not in reference.columns or recent[name].dtype.kind not in "fiu" or reference[name].dtype.kind not in "fiu":  # fmt: skip
            continue
        old, new = (frame[name].to_numpy(dtype=float) for frame in (reference, recent))
        old, new = old[np.isfinite(old)], new[np.isfinite(new)]
        if min(old.size, new.size) < 2:
            continue
        test = stats.ks_2samp(old, new, method="asymp")
        found.append(data_drift(str(name), float(test.pvalue), float(test.statistic), config))
        spread = float(new.std())
        share = float(np.mean(np.abs(new - new.mean()) > LIMIT_Z * spread)) if spread > 0 else 0.0
        found.append(outliers(str(name), share, config))
    return found


def data_drift(name: str, p: float, distance: float, config: Drift) -> Signal:
    """Return the signal of the rule "p < `p_value`" for one column."""
    grade = sum(p < config.p_value / times for times in _STRONGER)
    return Signal(
        name, Family.DATA, "data_drift", p, distance, unit="KS distance", p_adjusted=p, grade=grade,
        detail={"rule": f"p below {config.p_value:g}", "action": ACTIONS["data_drift"]},
    )  # fmt: skip


def outliers(name: str, share: float, config: Drift) -> Signal:
    """Return the signal of the rule "more than `outlier_share` of the values are outliers" for one column."""
    rule = f"share of |z| > 3 above {config.outlier_share:.3g}"
    return _rule(name, Family.QUALITY, "outliers", share, config.outlier_share, "share of rows", rule)


def performance(baseline: Mapping[str, float], recent: Mapping[str, float], config: Drift) -> list[Signal]:
    """Return the signals of the three rules about scores; a rule without its scores gives none.

    concept_drift: the error (1 - accuracy, else mae, else rmse) rises by more than `config.error_increase`;
    performance_drop: r2 falls by more than `config.r2_drop`; rmse_increase: rmse rises by more than
    `config.rmse_increase`. All are shares of the baseline.

    >>> [one.grade for one in performance({"r2": 0.80}, {"r2": 0.75}, Drift(profile="seed"))]
    [1]
    """
    both = [name for name in baseline if name in recent and math.isfinite(recent[name])]
    found = []
    if "accuracy" in both:
        rise = _rise(1 - baseline["accuracy"], 1 - recent["accuracy"])
        found.append(_performance("error rate", "concept_drift", rise, config.error_increase, "rise"))
    elif error := next((name for name in ("mae", "rmse") if name in both), None):
        rise = _rise(baseline[error], recent[error])
        found.append(_performance(error, "concept_drift", rise, config.error_increase, "rise"))
    if "r2" in both:
        drop = _rise(baseline["r2"], 2 * baseline["r2"] - recent["r2"])
        found.append(_performance("r2", "performance_drop", drop, config.r2_drop, "drop"))
    if "rmse" in both:
        rise = _rise(baseline["rmse"], recent["rmse"])
        found.append(_performance("rmse", "rmse_increase", rise, config.rmse_increase, "rise"))
    return found


def _rise(old: float, new: float) -> float:
    """Return how far `new` lies above `old`, as a share of it; a rise from nothing is one beyond any threshold."""
    if abs(old) > _ROUNDING:
        return (new - old) / abs(old)
    return math.inf if new > old + _ROUNDING else 0.0


def _performance(name: str, kind: str, change: float, limit: float, word: str) -> Signal:
    return _rule(name, Family.PERFORMANCE, kind, change, limit, "of baseline", f"{word} above {limit:.3g} of baseline")


def _rule(name: str, family: Family, kind: str, value: float, limit: float, unit: str, rule: str) -> Signal:
    detail = {"rule": rule, "action": ACTIONS[kind]}
    value = min(value, 1e9)  # finite, so that it stays JSON
    return limited(Signal(name, family, kind, None, value, unit=unit, detail=detail), limit)


def limited(signal: Signal, limit: float) -> Signal:
    """Return the signal of a rule about size under another limit."""
    return replace(signal, floor=limit, grade=sum(signal.effect > limit * times + _ROUNDING for times in (1, 2, 4)))


def severity(signals: Iterable[Signal]) -> Severity:
    """Return low for one rule that speaks, medium for several, high for a strong one, critical for a very strong one.

    Strong is twice the threshold, p below a fiftieth of it, or any rise of the error, which the scripts call high
    priority; very strong is four times the threshold, or p below a 50,000th of it. Data drift is one rule, however
    many columns drift.
    """
    raised = [one for one in signals if one.grade]
    best = max((one.grade for one in raised), default=0)
    if best >= 3:
        return Severity.CRITICAL
    if best == 2 or any(one.kind == "concept_drift" for one in raised):
        return Severity.HIGH
    rules = {one.kind for one in raised}
    return Severity.MEDIUM if len(rules) > 1 else Severity.LOW if rules else Severity.NONE


def drift_type(signals: Iterable[Signal]) -> DriftType:
    """Return the kind of change that the most urgent speaking rule names."""
    raised = {one.kind for one in signals if one.grade}
    order = {
        "concept_drift": DriftType.CONCEPT,
        "performance_drop": DriftType.PERFORMANCE,
        "rmse_increase": DriftType.PERFORMANCE,
        "data_drift": DriftType.DATA,
        "outliers": DriftType.OUTLIERS,
    }
    return next((kind for rule, kind in order.items() if rule in raised), DriftType.NONE)
