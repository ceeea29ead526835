"""Pages that list: data, schedules, decisions, events, notifications."""

from __future__ import annotations

import json
from collections.abc import Mapping

from evertrain.control import browse, charts, tell
from evertrain.control.opened import Opened, zone_of
from evertrain.dashboard.page import shown
from evertrain.events import Kind
from evertrain.specs import Cause
from evertrain.store.tokens import Caller

_LISTED = 50


def data(opened: Opened, caller: Caller, _: Mapping[str, str], query: Mapping[str, str]) -> str:
    """Return the page of data: datasets with their batches, a place to drop a file, sources elsewhere."""
    found = charts.kept(opened)
    return shown(
        "data.html", opened, caller, query, title="Data", here="/data", kept=found, elsewhere=charts.elsewhere(opened)
    )


def schedules(opened: Opened, caller: Caller, _: Mapping[str, str], query: Mapping[str, str]) -> str:
    """Return the schedules of all models."""
    project = opened.project()
    return shown(
        "schedules.html",
        opened,
        caller,
        query,
        title="Schedules",
        here="/schedules",
        schedules=tell.schedule_list(opened),
        models=sorted(project.models),
        project_zone=zone_of(project),
    )


def decisions(opened: Opened, caller: Caller, _: Mapping[str, str], query: Mapping[str, str]) -> str:
    """Return why models were, or were not, trained."""
    fired = {"yes": True, "no": False}.get(query.get("fired", ""))
    model, cause = query.get("model") or None, query.get("cause") or None
    found = browse.decision_list(opened, model, cause, fired, _LISTED, query.get("cursor") or None)
    return shown(
        "decisions.html",
        opened,
        caller,
        query,
        title="Decisions",
        here="/decisions",
        decisions=found,
        models=sorted(opened.project().models),
        causes=list(Cause),
        pretty=lambda one: json.dumps(one, indent=2, ensure_ascii=False, default=str),
    )


def events(opened: Opened, caller: Caller, _: Mapping[str, str], query: Mapping[str, str]) -> str:
    """Return the log, newest first."""
    model, kind, run = query.get("model") or None, query.get("kind") or None, query.get("run", "")
    number = int(run) if run.isascii() and run.isdigit() and len(run) < 19 else None
    kinds = [kind] if kind else []
    found = browse.event_list(opened, model, number, kinds, _LISTED * 2, query.get("cursor") or None)
    return shown(
        "events.html",
        opened,
        caller,
        query,
        title="Events",
        here="/events",
        events=found,
        models=sorted(opened.project().models),
        kinds=list(Kind),
    )


def notifications(opened: Opened, caller: Caller, _: Mapping[str, str], query: Mapping[str, str]) -> str:
    """Return what the channels were told; the drawer of every page is filled from this one."""
    return shown(
        "notifications.html",
        opened,
        caller,
        query,
        title="Notifications",
        here="/notifications",
        notices=charts.notices(opened),
    )
