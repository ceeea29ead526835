"""Plans: from what is wanted to the items of one run, and how to say it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evertrain.partitions import decode, label
from evertrain.specs import Cause, ModelSpec

# Who is served first when there is more to do than hands: people and their corrections before the clock.
PRIORITY: dict[Cause, int] = {
    Cause.MANUAL: 30,
    Cause.UPLOAD: 25,
    Cause.DATA_CHANGE: 20,
    Cause.SCORE_DROP: 15,
    Cause.DRIFT: 15,
    Cause.DECLARATION: 10,
    Cause.AGE: 5,
    Cause.SCHEDULE: 5,
    Cause.ENVIRONMENT: 5,
}


@dataclass(frozen=True)
class Wanted:
    """One partition that needs a place in a run."""

    partition_id: int
    key: str
    leaf: bool
    cause: Cause
    reason: str
    actor: str = "evertrain"
    forced: bool = False
    waiting_item: int | None = None


@dataclass(frozen=True)
class Plan:
    """Which partitions of a model to retrain, and why.

    Attributes:
        cause, reason, actor: of the most urgent partition; each keeps its own.
        full: whether every partition of the model is in it.
        estimate_s: seconds of one worker, by the last measured fits; None before any was measured.
        fallback: why it is of the whole model, where it could not be told which partitions are due.
    """

    model: str
    wanted: Sequence[Wanted]
    total: int
    cause: Cause
    reason: str
    actor: str
    estimate_s: float | None
    fallback: str | None = None

    @property
    def full(self) -> bool:
        return len(self.wanted) == self.total

    @property
    def fresh(self) -> int:
        return sum(one.waiting_item is None for one in self.wanted)

    def summary(self) -> str:
        """Return "2 of 41", and why."""
        return f"{len(self.wanted)} of {self.total}: {self.reason}"


def make(spec: ModelSpec, wanted: Sequence[Wanted], total: int, seconds_each: float | None) -> Plan | None:
    """Return the plan for what is wanted, or None when nothing is.

    Partitions before rollups, so that a rollup's fit is as fresh as its parts when work is cut short.
    """
    if not wanted:
        return None
    ordered = sorted(wanted, key=lambda one: (-PRIORITY[one.cause], not one.leaf, one.partition_id))
    first = ordered[0]
    fresh = sum(one.waiting_item is None for one in ordered)
    return Plan(
        spec.name,
        ordered,
        total,
        first.cause,
        first.reason,
        first.actor,
        None if seconds_each is None else seconds_each * fresh,
    )


def message(spec: ModelSpec, keys: Sequence[str]) -> str:
    """Return which forecasts or predictions are being updated, as users of the application read it.

    Up to three values of each dimension are named, sorted; beyond that in any dimension all are counted.

    >>> from evertrain.specs import Command
    >>> spec = ModelSpec("m", "s", "y", Command("train"), partition_by=["town"])
    >>> message(spec, ['{"town":"Pilar"}', '{}'])
    'Pilar and Overall'
    """
    found = [decode(key) for key in keys]
    whole = any(len(key) < len(spec.dimensions) for key in found)
    values = [
        sorted({label({one.name: key[one.name]}, [one.name]) for key in found if one.name in key})
        for one in spec.partition_by
    ]
    values = [one for one in values if one]
    if not values:
        return spec.overall if spec.partition_by else spec.name
    if all(len(one) <= 3 for one in values):
        listed = " in ".join(", ".join(one) for one in values)
    else:
        named = [dimension for dimension in spec.partition_by if any(dimension.name in key for key in found)]
        listed = " in ".join(dimension.count(len(one)) for dimension, one in zip(named, values, strict=True))
    return f"{listed} and {spec.overall}" if whole else listed


def announcement(spec: ModelSpec, keys: Sequence[str] | None) -> str:
    """Return the sentence for whoever changed records: which models are being updated.

    Args:
        keys: the partitions and rollups that are trained; None is the whole model.

    >>> from evertrain.specs import Command
    >>> spec = ModelSpec("m", "s", "y", Command("train"), partition_by=["town"])
    >>> announcement(spec, ['{"town":"Pilar"}', '{}'])
    'Records updated. Models for Pilar and Overall are being updated in the background.'
    """
    if keys is None:
        return f"Records updated. All {_models(spec).lower()} of {spec.name} are being updated in the background."
    return f"Records updated. {_models(spec)} for {message(spec, keys)} are being updated in the background."


def _models(spec: ModelSpec) -> str:
    return "Models" if spec.series is None else "Forecast models"
