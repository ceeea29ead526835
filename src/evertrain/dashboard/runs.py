"""Runs: in time, as a list, and each one with its log and what its partitions came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from evertrain.control import browse, progress
from evertrain.control.opened import Opened, zone_of
from evertrain.dashboard import drawing
from evertrain.dashboard.drawing import RIGHT
from evertrain.dashboard.page import shown
from evertrain.errors import NotFound
from evertrain.states import ItemState, RunState
from evertrain.store.tokens import Caller

_LISTED, _ITEMS, _LINES = 50, 50, 200
_LANE, _NAMES = 30, 150


def render(opened: Opened, caller: Caller, _: Mapping[str, str], query: Mapping[str, str]) -> str:
    """Return runs, newest first, and the same in time."""
    state = query.get("state") or None
    found = browse.run_list(opened, query.get("model") or None, state, _LISTED, query.get("cursor") or None)
    project = opened.project()
    return shown(
        "runs.html",
        opened,
        caller,
        query,
        title="Runs",
        here="/runs",
        runs=found,
        states=list(RunState),
        models=sorted(project.models),
        timeline=_timeline(found.items, ZoneInfo(zone_of(project)), opened.store.clock.now()),
    )


def _timeline(found: Sequence[browse.Run], zone: ZoneInfo, now: datetime) -> dict[str, Any] | None:
    begun = [one for one in found if one.started_at is not None]
    if not begun:
        return None
    spans = [
        (one.started_at.astimezone(zone), (one.ended_at or now).astimezone(zone), one.model, one)
        for one in reversed(begun)
        if one.started_at is not None
    ]
    scale, along = drawing.moments([at for start, end, _, _ in spans for at in (start, end)], _NAMES, RIGHT)
    names, bars = drawing.lanes(spans, scale)
    return {"names": names, "bars": bars, "along": along, "height": _LANE * len(names) + 40, "lane": _LANE}


def one(opened: Opened, caller: Caller, path: Mapping[str, str], query: Mapping[str, str]) -> str:
    """Return one run.

    Raises:
        NotFound: no such run.
    """
    number = path["id"]
    if not (number.isascii() and number.isdigit() and len(number) < 19):
        raise NotFound(f"run {number[:40]} does not exist")
    found = browse.run(opened, int(number))
    items = browse.item_list(opened, found.run, query.get("state") or None, _ITEMS, query.get("cursor") or None)
    log = browse.event_list(opened, run=found.run, limit=_LINES)
    ended = found.ended_at is not None
    return shown(
        "run.html",
        opened,
        caller,
        query,
        title=f"Run {found.run}",
        here="/runs",
        run=found,
        ended=ended,
        progress=progress.of_run(opened, found.run),
        items=items,
        log=log.items[::-1],
        earlier=log.next is not None,
        states=[str(state) for state in ItemState if found.counts.get(state)],
        retriable=sum(found.counts.get(state, 0) for state in ("failed", "dead", "cancelled")) if ended else 0,
        took_s=(found.ended_at - found.started_at).total_seconds() if found.ended_at and found.started_at else None,
    )
