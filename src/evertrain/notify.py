"""Notifications: ended runs told to people and programs, from a stored place in the log, never in anyone's way.

Delivery happens in a worker child. A message that cannot be delivered is tried again later; after the last try the
log says so and the next one gets its turn.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from evertrain.errors import ConfigError
from evertrain.events import Kind
from evertrain.scores import format_score
from evertrain.sources import read
from evertrain.specs import Callback, Message, encode
from evertrain.store import log, runs
from evertrain.store.champions import version_text
from evertrain.store.connect import Tx

_TRIES = 8
_FIRST_WAIT_S = 5


def reader(channel: Callback | Message) -> str:
    """Return the name of a channel's place in the log."""
    return f"notify:{channel.function if isinstance(channel, Callback) else channel.url}"


def pending(tx: Tx, channel: Callback | Message, limit: int = 50) -> dict[int, dict[str, Any] | None] | None:
    """Return ended runs by the number of their event, oldest first, each with what has to be told of it, if anything.

    None when nothing new ended or it is not yet time to try again. A new channel begins at the end of the log: it is
    not told of the past.
    """
    name = reader(channel)
    place = log.cursor(tx, name)
    if place is None:
        log.move_cursor(tx, name, log.newest(tx))
        return None
    if place.next_at > tx.now_text:
        return None
    found = log.after(tx, place.event_id, limit=limit, kinds=[Kind.RUN_ENDED])
    if not found:
        return None
    told = {event.id: describe(tx, event.run_id) if event.run_id else None for event in found}
    if isinstance(channel, Message) and channel.on == "changed":
        told = {
            event: one if one and (one["status"] != "success" or one["promoted"]) else None
            for event, one in told.items()
        }
    return told


def delivered(
    tx: Tx, channel: Callback | Message, told: Mapping[int, Mapping[str, Any] | None], done: int, problem: str | None
) -> None:
    """Move a channel's place behind what it was told; a message that fails waits longer each time, up to its last try.

    Args:
        told: what `pending` returned.
        done: how many messages were delivered before the problem.
    """
    name = reader(channel)
    if problem is None:
        log.move_cursor(tx, name, max(told))
        return
    messages = [event for event, one in told.items() if one is not None]
    if done:
        log.move_cursor(tx, name, messages[done - 1])
    place = log.cursor(tx, name)
    failures = (place.failures if place else 0) + 1
    if failures in (1, _TRIES):
        tx.event(Kind.NOTIFY_FAILED, channel=name, problem=problem[:500], tries=failures)
    if failures < _TRIES:
        log.delay_cursor(tx, name, failures, tx.now + timedelta(seconds=_FIRST_WAIT_S * 2**failures))
    else:
        log.move_cursor(tx, name, messages[min(done, len(messages) - 1)])  # past this one; the next get their turn


def describe(tx: Tx, run_id: int) -> dict[str, Any] | None:
    """Return an ended run as channels tell it: status, duration in seconds, versions, scores and a sentence."""
    run = runs.find(tx, run_id)
    if run is None:
        return None
    fit = _speaking_fit(tx, run_id)
    failed = runs.first_failure(tx, run_id)
    seconds = runs.seconds(tx, run_id)
    status = "failed" if run.state in ("failed", "partial") else "success" if run.state == "succeeded" else run.state
    told: dict[str, Any] = {
        "type": "model_retrained",
        "run_id": run_id,
        "model": run.model,
        "status": status,
        "duration": round(seconds or 0.0, 3),
        "cause": run.cause,
        "reason": run.reason,
        "promoted": 0,
    }
    if failed is not None:
        told |= {"error": failed.reason, "error_class": failed.error_class}
    if fit is not None:
        told |= fit
    told["text"] = _text(told)
    return told


def _speaking_fit(tx: Tx, run_id: int) -> dict[str, Any] | None:
    """Return old and new version and score of a run: of its one fit, or of the widest rollup among several."""
    row = runs.speaking_fit(tx, run_id)
    if row is None:
        return None
    verdict = json.loads(row.verdict)
    old = version_text(runs.version_of_fit(tx, verdict.get("against")))
    new = version_text(row)
    return {
        "promoted": row.promoted,
        "old_version": old,
        "new_version": new if row.state == "promoted" else old,
        "version": new,
        "score": verdict.get("score"),
        "old_score": verdict.get("champion"),
        "new_score": verdict.get("challenger"),
        "improvement": verdict.get("improvement"),
        "verdict": row.reason,
    }


def _text(told: Mapping[str, Any]) -> str:
    model = told["model"]
    if told["status"] == "failed":
        return f"Retraining failed: {model} ({told.get('error') or told['reason']})"
    if told["promoted"] and told.get("score"):
        shown = told["new_score"]
        value = (
            f"{shown:.2%}" if told["score"] == "accuracy" and shown is not None else format_score(told["score"], shown)
        )
        more = f", {told['promoted']} partitions" if told["promoted"] > 1 else ""
        return f"Model retrained: {model} v{told['version']} ({told['score']}: {value}{more})"
    if told["promoted"]:
        return f"Model retrained: {model} v{told.get('version')}"
    return f"Retrained and not promoted: {model}, {told.get('verdict') or told['status']}"


def task(channel: Callback | Message, told: Mapping[int, Mapping[str, Any] | None]) -> dict[str, Any]:
    """Return the task of delivering messages, for a worker."""
    return {"kind": "notify", "channel": encode(channel), "told": [one for one in told.values() if one is not None]}


def deliver(task_: Mapping[str, Any], emit: Any) -> None:
    """Deliver messages, in a worker; answer how many were, and the problem with the next, if any."""
    channel, problem, done = task_["channel"], None, 0
    try:
        if channel["kind"] == "callback":
            function = read.load(channel["function"])
            for one in task_["told"]:
                function(
                    one["model"],
                    one["status"],
                    one["duration"],
                    **{name: value for name, value in one.items() if name not in ("model", "status", "duration")},
                )
                done += 1
        elif task_["told"]:
            _send(channel["url"], [one["text"] for one in task_["told"]])
    except Exception as error:  # noqa: BLE001 - a subscriber's failure is recorded, never ours
        problem = f"{type(error).__name__}: {error}"
    emit({"type": "delivered", "done": done, "problem": problem})


def _send(url: str, texts: Sequence[str]) -> None:
    try:
        import apprise
    except ImportError:
        raise ConfigError("notify", "Message", "an installed `evertrain[notify]`") from None
    if url.startswith("env:"):
        url = os.environ.get(url.removeprefix("env:"), "")
    sender = apprise.Apprise()
    if not url or not sender.add(url):
        raise ConfigError("notify.url", "(hidden)", "an Apprise URL, or env:NAME of a variable that holds one")
    if not sender.notify(body="\n".join(texts), title="Evertrain"):
        raise OSError("the service did not take the message")
