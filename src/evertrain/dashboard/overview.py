"""Overview: what needs a human, each model at a glance, and what one can do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from evertrain.control import attention, browse, charts, progress, tell
from evertrain.control.opened import Opened
from evertrain.control.tell import ModelStatus
from evertrain.dashboard import drawing
from evertrain.dashboard.page import segment, shown
from evertrain.errors import ConfigError
from evertrain.store.tokens import Caller, Role

_SPARKED = 30  # models whose line is drawn, fits in such a line
_FITS = 24
_RUNS, _FOLLOWED = 100, 12  # open runs looked at, and models whose progress is told
_SERVED = ("promoted", "adopted")


@dataclass(frozen=True)
class Glance:
    """One model on the overview: how it stands, how far its run is, and the line of its score."""

    status: ModelStatus
    progress: progress.Progress | None
    spark: drawing.Spark | None
    spoken: str


def render(opened: Opened, caller: Caller, _: Mapping[str, str], query: Mapping[str, str]) -> str:
    """Return the overview."""
    try:
        status = tell.status(opened)
    except ConfigError as error:
        return shown("begin.html", opened, caller, query, title="Overview", here="/", problem=str(error))
    open_runs = running(opened)
    glances = [
        _glance(opened, one, open_runs.get(one.name), drawn=place < _SPARKED) for place, one in enumerate(status.models)
    ]
    return shown(
        "overview.html",
        opened,
        caller,
        query,
        title="Overview",
        here="/",
        status=status,
        glances=glances,
        needs=_needed(opened, caller),
    )


# Calls that a button of the first panel makes at once; what takes something away is asked for on its own page.
_BUTTONS = {
    "start": "Start monitoring", "resume": "Resume", "retrain": "Retrain", "retry-failed": "Retry failed", "pin": "Free",
}  # fmt: skip


@dataclass(frozen=True)
class Needed:
    """What needs a human, with the button that clears it, or the page to look at."""

    of: attention.Need
    button: str | None
    page: str | None


def _needed(opened: Opened, caller: Caller) -> list[Needed]:
    found = []
    for one in attention.attention(opened):
        call = one.call
        name = _BUTTONS.get(call.path.rsplit("/", 1)[-1]) if call and call.method != "GET" else None
        needed = Role.ADMIN if call and "/monitoring/" in call.path else Role.OPERATOR
        # What is forced takes in what was held back for a good reason: that is asked for on the model's own page.
        forced = bool(call and (call.body or {}).get("force"))
        button = name if caller.role.covers(needed) and not forced else None
        found.append(Needed(one, button, None if button else _page(one)))
    return found


def _page(need: attention.Need) -> str | None:
    path = need.call.path.removeprefix("/api/v1") if need.call else ""
    if path.startswith("/datasets/"):
        return "/data"
    if path.startswith(("/runs/", "/decisions")):
        return path.removesuffix("/retry-failed")
    return f"/models/{segment(need.model)}" if need.model else None


def running(opened: Opened, only: str | None = None) -> dict[str, progress.Progress]:
    """Return how far the run of each model is that goes on now; of several the one that works, else the oldest."""
    found = [one for state in ("queued", "running") for one in browse.run_list(opened, only, state, _RUNS).items]
    telling = {one.model: one for one in sorted(found, key=lambda one: (one.state == "running", -one.run))}
    return {model: progress.of_run(opened, one.run) for model, one in list(telling.items())[:_FOLLOWED]}


def _glance(opened: Opened, one: ModelStatus, run: progress.Progress | None, *, drawn: bool) -> Glance:
    past = charts.over_time(opened, one.name, limit=_FITS) if drawn else None
    known = [fit.value for fit in past.fits if fit.value is not None and fit.outcome in _SERVED] if past else []
    found = drawing.spark(known)
    spoken = ""
    if found and past:
        spoken = f"{past.score} of the last {len(known)} versions that served, from {known[0]:.3g} to {known[-1]:.3g}"
    return Glance(one, run, found, spoken)
