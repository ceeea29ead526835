"""The one table: the words of older retraining documents, and ours. Everything in this room translates by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from evertrain.clock import from_text
from evertrain.errors import ConfigError, UnknownName
from evertrain.specs import Cause, Schedule, ScoreDrop, daily, monthly, weekly

SAMPLES_FLOOR = 100

# --- jobs -------------------------------------------------------------------------------------------------------

SCHEDULE_TYPES = ("daily", "weekly", "monthly", "on_drift")
_EVERY = {"day": "daily", "week": "weekly", "month": "monthly", "cron": "cron"}


def rule_of(
    schedule_type: str, schedule_day: int | None, schedule_time: str | None, drift_threshold: float | None
) -> Schedule | ScoreDrop:
    """Return our rule for a job of theirs.

    Raises:
        UnknownName: no such schedule type.
        ConfigError: a value is missing, wrong, or means nothing for this type.

    >>> rule_of("weekly", 2, "03:00", None)
    Schedule(every='week', at='03:00', day=2, cron=None, zone=None, kind='schedule')
    """
    if schedule_type not in SCHEDULE_TYPES:
        raise UnknownName("schedule_type", schedule_type, SCHEDULE_TYPES)
    if schedule_type == "on_drift":
        for name, value in (("schedule_day", schedule_day), ("schedule_time", schedule_time)):
            if value is not None:
                raise ConfigError(name, value, "nothing where schedule_type is 'on_drift'")
        if drift_threshold is None or not 0 < drift_threshold < 1:
            raise ConfigError(
                "drift_threshold", drift_threshold, "a share of the accuracy above 0 and below 1, e.g. 0.15"
            )
        return ScoreDrop(drift_threshold)
    if drift_threshold is not None:
        raise ConfigError("drift_threshold", drift_threshold, "nothing but where schedule_type is 'on_drift'")
    at = schedule_time or "03:00"
    if schedule_type == "weekly":
        if schedule_day is None:
            raise ConfigError("schedule_day", None, "0 (Monday) to 6 (Sunday)")
        return weekly(schedule_day, at)
    if schedule_type == "monthly":
        return monthly(at, 1 if schedule_day is None else schedule_day)
    if schedule_day is not None:
        raise ConfigError("schedule_day", schedule_day, "nothing where schedule_type is 'daily'")
    return daily(at)


def schedule_type(rule: Schedule | ScoreDrop) -> str:
    """Return their word for a rule; "cron" is ours, they had none."""
    return _EVERY[rule.every] if isinstance(rule, Schedule) else "on_drift"


def schedule_config(rule: Schedule | ScoreDrop) -> dict[str, Any]:
    """Return a rule's settings as their lists of jobs have them.

    >>> schedule_config(weekly(2)), schedule_config(ScoreDrop(0.15))
    ({'day': 2, 'time': '03:00'}, {'drift_threshold': 0.15})
    """
    if isinstance(rule, ScoreDrop):
        return {"drift_threshold": rule.threshold}
    if rule.every == "cron":
        return {"cron": rule.cron}
    return {"time": rule.at} if rule.day is None else {"day": rule.day, "time": rule.at}


# --- scores and results -----------------------------------------------------------------------------------------

METRICS = {"f1": "f1_score"}
"""Scores that they call by another name."""


def metrics(scores: Mapping[str, float | None] | None) -> dict[str, float]:
    """Return scores by their names for them; those that are undefined are left out."""
    return {METRICS.get(name, name): value for name, value in (scores or {}).items() if value is not None}


def ours_of(metric: str) -> str:
    """Return our name of a score of theirs."""
    return next((ours for ours, theirs in METRICS.items() if theirs == metric), metric)


# --- records ----------------------------------------------------------------------------------------------------

# Their field: ours, as `control.tell.history` has it, and how its value is translated.
_Field = tuple[str, Callable[[Any], Any]]


def _as_it_is(value: Any) -> Any:
    return value


HISTORY: Mapping[str, _Field] = {
    "model_name": ("model", _as_it_is),
    "trigger_type": ("cause", lambda cause: Cause(cause).trigger_type),
    "trigger_time": ("at", _as_it_is),
    "status": ("status", _as_it_is),
    "duration": ("duration_s", _as_it_is),
    "data_hash": ("data_hash", _as_it_is),
    "description": ("description", _as_it_is),
    "run_id": ("run", _as_it_is),
    "outcome": ("verdict", _as_it_is),
}

INSIGHT: Mapping[str, _Field] = {
    "model_type": ("model", _as_it_is),
    "trigger_type": ("cause", lambda cause: Cause(cause).trigger_type),
    "old_version": ("old_version", _as_it_is),
    "new_version": ("new_version", _as_it_is),
    # They compare it with numbers: nothing measured is no improvement.
    "improvement": ("improvement", lambda value: 0.0 if value is None else value),
    "training_duration": ("duration_s", _as_it_is),
}


def record(table: Mapping[str, _Field], ours: Mapping[str, Any]) -> dict[str, Any]:
    """Return one of our records in their words."""
    return {theirs: translate(ours[name]) for theirs, (name, translate) in table.items()}


def wall(moment: datetime | str | None) -> datetime | None:
    """Return an instant as this machine's clock shows it, without a zone: what `datetime.now()` can be compared with."""
    found = from_text(moment) if isinstance(moment, str) else moment
    return None if found is None else found.astimezone().replace(tzinfo=None)


def utc(moment: datetime | None) -> str | None:
    """Return an instant as their HTTP answers have it, e.g. 2026-02-12T03:00:00Z."""
    return None if moment is None else moment.strftime("%Y-%m-%dT%H:%M:%SZ")


# --- how things stand -------------------------------------------------------------------------------------------

MODEL: Mapping[str, _Field] = {
    "model_name": ("name", _as_it_is),
    "status": ("health", _as_it_is),
    "version": ("versions", lambda versions: next(iter(versions), None)),
    "last_trained": ("trained_at", utc),
    "model_age_seconds": ("age_s", _as_it_is),
    "max_model_age_hours": ("limit_s", lambda seconds: None if seconds is None else seconds / 3600),
    "metric": ("score", lambda score: METRICS.get(score, score)),
    "performance": ("value", _as_it_is),
    "change_percent": ("change", _as_it_is),
    "data_size": ("rows", _as_it_is),
    "min_data_size": ("min_rows", _as_it_is),
    "is_retraining": ("health", lambda health: health == "training"),
    "last_decision": ("decision", _as_it_is),
    "problem": ("problem", _as_it_is),
}
