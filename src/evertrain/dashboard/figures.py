"""The report: how often models are retrained and why, how that ends, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from evertrain.control import report
from evertrain.control.opened import Opened
from evertrain.dashboard.page import shown
from evertrain.errors import ConfigError
from evertrain.specs import TRIGGER_TYPES, parse_duration
from evertrain.store.tokens import Caller

_SPANS = (("7d", "7 days"), ("30d", "30 days"), ("90d", "90 days"), ("365d", "a year"))
_DEFAULT = "30d"


def render(opened: Opened, caller: Caller, _: Mapping[str, str], query: Mapping[str, str]) -> str:
    """Return the report of the last `last`, at a price per hour of one processor where one is given.

    Raises:
        ConfigError: the span or the price is none.
    """
    last = query.get("last") or _DEFAULT
    found = report.report(opened, _span(last), model=query.get("model") or None, price=_price(query))
    most = max((number for number in found.together.triggers.values()), default=1)
    return shown(
        "report.html",
        opened,
        caller,
        query,
        title="Report",
        here="/report",
        report=found,
        last=last,
        spans=_SPANS,
        models=sorted(opened.project().models),
        most=most,
        trigger_types=TRIGGER_TYPES,
    )


def _span(text: str) -> timedelta:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise ConfigError("last", text[:40], str(error)) from None


def _price(query: Mapping[str, str]) -> float | None:
    text = query.get("price", "").strip()
    try:
        return float(text) if text else None
    except ValueError:
        raise ConfigError("price", text[:40], "money per hour of one processor, such as 0.05") from None
