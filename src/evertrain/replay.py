"""What if: how often other thresholds would have fired on evidence that is stored. No training, and no rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from evertrain.drift import grades, seed
from evertrain.drift.signal import Evidence, Family, Signal
from evertrain.errors import ConfigError, UnknownName
from evertrain.evidence import decide
from evertrain.specs import Drift
from evertrain.triggers import Decision, plural

# Thresholds that are the floor of a measured effect: the effect is stored, so that another floor can be tried.
_FLOORS = {
    "error_increase": ("loss_scan", "e_process", "baseline"),
    "outlier_increase": ("outliers",),
    "missing_increase": ("missing",),
    "new_values": ("new_values",),
}
_JUDGING = ("severity", "min_confidence", "budget", "period", "correction", "min_rows")
_LIMITS = {"concept_drift": "error_increase", "performance_drop": "r2_drop", "rmse_increase": "rmse_increase"}
_OF_SEED = ("p_value", "outlier_share", *_LIMITS.values())


@dataclass(frozen=True)
class WhatIf:
    """How often a trigger fired, and how often it would have.

    Attributes:
        checks: checks that were decided again.
        fired_now, fired_then: how many fire as configured, and with the changes.
        by_day: checks, fired now and fired then of every day that had checks, oldest first; "" without times.
        now, then: the decisions, in the order of the evidence.
    """

    checks: int
    fired_now: int
    fired_then: int
    by_day: Mapping[str, tuple[int, int, int]]
    now: tuple[Decision, ...]
    then: tuple[Decision, ...]

    def __str__(self) -> str:
        """Return it as one sentence."""
        return f"of {self.checks} checks {self.fired_now} fire now, and {self.fired_then} would"


def what_if(evidences: Sequence[Evidence], config: Drift, **changes: Any) -> WhatIf:
    """Return how often other thresholds would have fired, on the stored evidence of past checks.

    Every check is decided twice, by the same rules as it was, each with the state of the check before. What a
    retraining in between would have changed is not played: the evidence stays as it was measured.

    Args:
        evidences: of one partition, oldest first, as measured under `config`.
        changes: fields of `Drift` that judge: severity, min_confidence, budget, period, correction, error_increase,
            outlier_increase, missing_increase, new_values, a larger min_rows; under profile "seed" its p_value,
            outlier_share, r2_drop and rmse_increase instead of the middle three.

    Raises:
        UnknownName: `Drift` has no such field.
        ConfigError: a field changes what is measured, which evidence cannot tell, or has a value that is not allowed.

    >>> found = Evidence((Signal("loss", Family.PERFORMANCE, "loss_scan", 1e-9, 0.4, 0.15),), 500, 200, 200)
    >>> str(what_if([found], Drift(), severity="critical"))
    'of 1 checks 1 fire now, and 0 would'
    """
    tried = _changed(config, changes)
    now = _decided(evidences, config)
    then = _decided([_remeasured(one, config, tried) for one in evidences], tried)
    by_day: dict[str, tuple[int, int, int]] = {}
    for found, before, after in zip(evidences, now, then, strict=True):
        day = (found.until or "")[:10]
        checks, fired, would = by_day.get(day, (0, 0, 0))
        by_day[day] = (checks + 1, fired + before.fired, would + after.fired)
    return WhatIf(
        len(now), sum(one.fired for one in now), sum(one.fired for one in then), dict(sorted(by_day.items())),
        tuple(now), tuple(then),
    )  # fmt: skip


def _changed(config: Drift, changes: Mapping[str, Any]) -> Drift:
    """Return the configuration with the changes, where stored evidence can answer for them."""
    known = [one.name for one in fields(config)]
    allowed = [*_JUDGING, *(_OF_SEED if config.profile == grades.SEED else _FLOORS)]
    for name, value in changes.items():
        if name not in known:
            raise UnknownName("field of Drift", name, known)
        if name not in allowed:
            listed = ", ".join(sorted(allowed))
            raise ConfigError(f"what_if.{name}", value, f"a change of {listed}; others need new measurements")
    tried = replace(config, **changes)
    if tried.min_rows < config.min_rows:
        allowed_rows = f"at least {config.min_rows}: about fewer rows nothing was measured"
        raise ConfigError("what_if.min_rows", tried.min_rows, allowed_rows)
    return tried


def _decided(evidences: Sequence[Evidence], config: Drift) -> list[Decision]:
    state: Mapping[str, Any] | None = None
    found = []
    for one in evidences:
        found.append(decide(one, config, state=state))
        state = found[-1].evidence["state"]
    return found


def _remeasured(found: Evidence, config: Drift, tried: Drift) -> Evidence:
    """Return the evidence as it would have been measured under other thresholds."""
    if config.profile == grades.SEED:
        return replace(found, signals=tuple(_by_rule(one, tried) for one in found.signals))
    signals = tuple(_floored(one, config, tried) for one in found.signals)
    if found.labelled_rows < tried.min_rows:
        few = f"{plural(found.labelled_rows, 'labelled row')}, the check needs {tried.min_rows}"
        signals = tuple(
            replace(one, p=None, insufficient=few) if one.family is Family.PERFORMANCE and not one.insufficient else one
            for one in signals
        )
    return replace(found, signals=signals)


def _floored(one: Signal, config: Drift, tried: Drift) -> Signal:
    for field, kinds in _FLOORS.items():
        if one.kind in kinds and getattr(tried, field) != getattr(config, field):
            return replace(one, floor=getattr(tried, field))
    return one


def _by_rule(one: Signal, tried: Drift) -> Signal:
    if one.kind == "data_drift":
        return seed.data_drift(one.name, 1.0 if one.p is None else one.p, one.effect, tried)
    if one.kind == "outliers":
        return seed.outliers(one.name, one.effect, tried)
    return seed.limited(one, getattr(tried, _LIMITS[one.kind]))
