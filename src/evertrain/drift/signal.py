"""Signals and evidence: what was measured, in plain values that print, compare and turn into JSON.

Nothing here computes; the loop and the command line read evidence without SciPy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Family(StrEnum):
    """Signals of one family are views of one fact, and never count twice."""

    QUALITY = "quality"
    DATA = "data"
    PREDICTION = "prediction"
    PERFORMANCE = "performance"


class DriftType(StrEnum):
    """What kind of change a decision speaks of."""

    NONE = "none"
    DATA = "data_drift"
    CONCEPT = "concept_drift"
    PERFORMANCE = "performance_degradation"
    QUALITY = "data_quality"
    OUTLIERS = "outlier_increase"


class Severity(StrEnum):
    """How much a decision matters: monitor, investigate, plan retraining, retrain now."""

    NONE = "none"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"

    @property
    def action(self) -> str:
        """What it asks for, in words."""
        return _ACTIONS[self]

    def reaches(self, other: Severity) -> bool:
        """Return whether it is at least `other`.

        >>> Severity.HIGH.reaches(Severity.MEDIUM), Severity.LOW.reaches(Severity.HIGH)
        (True, False)
        """
        order = list(Severity)
        return order.index(self) >= order.index(other)


_ACTIONS = {
    Severity.NONE: "none",
    Severity.LOW: "monitor",
    Severity.MEDIUM: "investigate",
    Severity.HIGH: "plan retraining",
    Severity.CRITICAL: "retrain now",
}


@dataclass(frozen=True)
class Signal:
    """One thing that was compared.

    Attributes:
        name: the column; "prediction", "loss", or what was compared over all columns.
        kind: the test or rule: "ks", "chi2", "missing", "outliers", "new_values", "range", "constant", "type", "pca",
            "classifier", "loss_scan", "e_process", …
        p: of the test, uncorrected; None where the kind is no test.
        effect: size of the difference, with its sampling noise taken off; 0 is none.
        floor: the smallest effect that counts.
        unit: of effect and floor, e.g. "KS distance", "% of baseline loss".
        reference_rows, recent_rows: effective numbers of rows: fewer than there are where rows depend on their
            neighbours.
        weight: share of the model's importance that the column has, 0 to 1; None where it is not known.
        p_adjusted: corrected for all signals of its family, as graded.
        grade: 0 nothing, 1 mild, 2 strong, 3 very strong.
        stop: it calls for a stop by itself, without statistics: a column is gone or changed its type.
        insufficient: why nothing can be said; then p is None.
        detail: more numbers, for people and plots; plain JSON.
    """

    name: str
    family: Family
    kind: str
    p: float | None = None
    effect: float = 0.0
    floor: float = 0.0
    unit: str = ""
    reference_rows: float = 0.0
    recent_rows: float = 0.0
    weight: float | None = None
    p_adjusted: float | None = None
    grade: int = 0
    stop: bool = False
    insufficient: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """How many times the floor the effect is."""
        return self.effect / self.floor if self.floor > 0 else 0.0


@dataclass(frozen=True)
class Evidence:
    """Everything that one check measured; grades, severity and confidence are decided from it.

    Attributes:
        signals: with raw p and effect, not yet graded.
        reference_rows, recent_rows, labelled_rows: rows looked at.
        drift_p: one p for "the inputs or answers changed", over all signals but those of performance; None where
            nothing was tested.
        loss_rise, loss_variance, loss_baseline: rise of the mean loss over its baseline, the variance of that rise, and
            the baseline, in the loss's own unit; None without labels.
        since, until: the first and last moment of the recent rows, ISO 8601 UTC, or None without times.
        changed_at: when the losses changed, where they did.
        notes: what could not be looked at, and why; sentences.
    """

    signals: tuple[Signal, ...] = ()
    reference_rows: int = 0
    recent_rows: int = 0
    labelled_rows: int = 0
    drift_p: float | None = None
    loss_rise: float | None = None
    loss_variance: float | None = None
    loss_baseline: float | None = None
    since: str | None = None
    until: str | None = None
    changed_at: str | None = None
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values; `detail` is the signal's own, not a copy."""
        # `asdict` would copy every number in it, which took most of a decision on thousands of partitions.
        return {**vars(self), "signals": [dict(vars(one)) for one in self.signals], "notes": list(self.notes)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Evidence:
        """Return the evidence that `as_json` wrote."""
        signals = tuple(Signal(**{**one, "family": Family(one["family"])}) for one in data["signals"])
        return cls(**{**data, "signals": signals, "notes": tuple(data["notes"])})
