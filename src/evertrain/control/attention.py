"""Attention: what needs a human, the most urgent first, each with what clears it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from evertrain.clock import from_text
from evertrain.control.opened import Opened
from evertrain.control.report import notable
from evertrain.control.tell import where
from evertrain.control.work import LOOP_ROLE
from evertrain.partitions import decode
from evertrain.specs import Auto, Dataset, ModelSpec, spoken
from evertrain.states import ItemState
from evertrain.store import champions, decisions, demand, figures, items, leases, models, needs, schedules
from evertrain.store.connect import Record, Tx
from evertrain.triggers import plural

# A request that has waited longer, with a loop that lives and nothing that holds it back, is stuck; so is a loop that
# gave no sign for as long: it signs every half minute.
_TOO_LONG = timedelta(hours=1)
_NO_SIGN = timedelta(minutes=5)
# One refusal is the gate at work; so many in a row say that new rows no longer make better models.
_REFUSALS = 3
# What happened longer ago is history.
_RECENT = timedelta(days=7)


class Urgency(StrEnum):
    """How soon somebody should look."""

    CRITICAL = "critical"  # something does not serve, or nothing is kept fresh
    WARNING = "warning"  # a model stays behind, or a person's choice holds it
    NOTE = "note"  # good to know


@dataclass(frozen=True)
class Call:
    """The request to the API that does what a command does."""

    method: str
    path: str
    body: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Need:
    """One thing that needs a human.

    Attributes:
        code: what it is, in one word, the same each time.
        model: that it is about; None for the project.
        text: one sentence.
        since: from when on; None where that cannot be told.
        command: what clears it, or shows how, as arguments of `evertrain`.
        call: the same for the API, where it has that.
        file: a file to look at, such as the list of rows that were set aside.
    """

    code: str
    severity: Urgency
    model: str | None
    text: str
    since: datetime | None
    command: str
    call: Call | None = None
    file: str | None = None


def attention(opened: Opened) -> list[Need]:
    """Return what needs a human, the most urgent first, then what is so for longest; nothing where all is well.

    Costs what is wrong, not what exists: partitions are counted, and one is an example.
    """
    with opened.store.read() as tx:
        declared = {one.name: one for one in models.every(tx)}
        found = [
            *_loop(tx),
            *_pauses(tx),
            *_sources(tx, declared),
            *_unserved(tx, declared),
            *_broken(tx, declared),
            *_damaged(tx, declared),
            *_again(tx),
            *_refused(tx, declared),
            *_pinned(tx),
            *_drift(tx),
            *_worse(tx),
            *_aside(tx, declared),
            *_channels(tx),
            *_held(tx, declared),
        ]
    order = list(Urgency)
    return sorted(found, key=lambda one: (order.index(one.severity), one.since is None, one.since, one.model or ""))


def _at(text: str | None) -> datetime | None:
    return from_text(text) if text else None


def _retrain(model: str, *, force: bool = False) -> Call:
    return Call("POST", f"/api/v1/models/{model}/retrain", {"partitions": None, "force": force})


# --- who works, and who was told not to -------------------------------------------------------------------------


def _loop(tx: Tx) -> Iterator[Need]:
    held, lost = leases.holder(tx, LOOP_ROLE), needs.orphans(tx)
    oldest = figures.oldest_waiting(tx)
    begin = Call("POST", "/api/v1/monitoring/start")
    if held is None:
        due = needs.something_waits(tx) or bool(demand.models_to_plan(tx)) or bool(schedules.due(tx))
        since = _at(figures.last_tick(tx, LOOP_ROLE))
        if due and items.open_counts(tx).get("running", 0) <= lost:  # else somebody trains without a loop
            said = "nothing keeps the models fresh: trainings are due, and no loop runs"
            yield Need("no_loop", Urgency.CRITICAL, None, said, since, "start --detach", begin)
        if lost:
            said = f"a process that is gone has {plural(lost, 'training')}; the next loop takes that up again"
            yield Need("orphans", Urgency.WARNING, None, said, since, "start --detach", begin)
        return
    signed = _at(held["ticked_at"]) or from_text(held["since_at"])
    if tx.now - signed > _NO_SIGN:
        said = f"the loop (process {held['process']['pid']}) gave its last sign {spoken(tx.now - signed)} ago"
        yield Need("silent_loop", Urgency.CRITICAL, None, said, signed, "stop", Call("POST", "/api/v1/monitoring/stop"))
    if oldest is None or oldest.state != "queued":  # one that runs has workers, however long it takes
        return
    if tx.now - from_text(oldest.at) <= _TOO_LONG or models.is_paused(tx, oldest.model):
        return
    if items.held_until(tx, oldest.id) is None:
        waits = spoken(tx.now - from_text(oldest.at))
        said = f"run {oldest.id} of {oldest.model} has waited for {waits} for a free worker"
        call = Call("GET", f"/api/v1/runs/{oldest.id}")
        yield Need("slow_queue", Urgency.WARNING, oldest.model, said, from_text(oldest.at), f"runs {oldest.id}", call)


def _pauses(tx: Tx) -> Iterator[Need]:
    if (row := needs.pause(tx)) is not None:
        said = f"everything was paused by {row.actor}: nothing is trained, what there is serves"
        yield Need("paused", Urgency.WARNING, None, said, _at(row.at), "resume", Call("POST", "/api/v1/resume"))
    for row in needs.paused_models(tx):
        by = f" by {row.actor}" if row.actor else ""
        said = f"{row.model} was paused{by}: it is not trained, what there is serves"
        call = Call("POST", f"/api/v1/models/{row.model}/resume")
        yield Need("paused", Urgency.WARNING, row.model, said, _at(row.at), f"resume {row.model}", call)


# --- rows -------------------------------------------------------------------------------------------------------


def _sources(tx: Tx, declared: Mapping[str, models.Model]) -> Iterator[Need]:
    users = models.sources_of(declared.values())
    project = models.project(tx)
    kept = {name for name, one in project.sources.items() if isinstance(one, Dataset)} if project else set()
    for row in needs.failed_sources(tx):
        if row.name not in users:
            continue
        name = users[row.name][0].name
        answer = decisions.last(tx, users[row.name][0].id, "data_change")
        since = answer.first_at if answer is not None and answer.code == "unusable" else row.checked_at
        # A read that lost most of its rows is taken as it is by force alone.
        force = "--force" in row.problem
        command = f"batches {row.name}" if row.name in kept else f"trigger {name}{' --force' if force else ''}"
        call = None if row.name in kept else _retrain(name, force=force)
        said = f"{row.name} cannot be used, and its models wait: {row.problem}"
        yield Need("source", Urgency.WARNING, name, said, _at(since), command, call)


def _aside(tx: Tx, declared: Mapping[str, models.Model]) -> Iterator[Need]:
    for row in needs.set_aside(tx, tx.now - _RECENT):
        origin = f" from {row.source}" if row.source else ""
        said = f"batch {row.id} of {row.dataset}{origin} set {plural(row.number, 'row')} aside; correct and send again"
        call = Call("GET", f"/api/v1/datasets/{row.dataset}/batches")
        yield Need("set_aside", Urgency.NOTE, None, said, _at(row.at), f"batches {row.dataset}", call, row.report)
    for name, model in declared.items():
        answer = decisions.last(tx, model.id, "data_change")
        if answer is not None and decisions.evidence_of(answer).get("set_aside"):
            said = f"rows of {model.spec.source} were set aside: {decisions.evidence_of(answer)['set_aside'][0]}"
            yield Need("set_aside", Urgency.NOTE, name, said, _at(answer.last_at), f"why {name}")


# --- trainings --------------------------------------------------------------------------------------------------


def _unserved(tx: Tx, declared: Mapping[str, models.Model]) -> Iterator[Need]:
    without, project = needs.unserved(tx), models.project(tx)
    for name, model in declared.items():
        if model.id not in without or items.open_of(tx, model.id):
            continue
        place = champions.widest(tx, model.id)
        answer = next(iter(decisions.latest(tx, model.id)), None)
        if place is not None and place.outcome is not None and place.champion_id is None:
            why, since = f"the last training {place.outcome} ({place.outcome_reason})", place.considered_at
        elif answer is not None:
            why, since = answer.reason, answer.first_at
        else:
            why, since = "nothing was trained yet", None
        said = f"{name} has no model: {why}"
        # Who trains by hand alone knows; where the loop should have done it, something is wrong.
        by_hand = project is not None and models.auto_of(project, model.spec) is Auto.OFF
        yield Need(
            "no_model",
            Urgency.NOTE if by_hand else Urgency.CRITICAL,
            name,
            said,
            _at(since),
            f"trigger {name}",
            _retrain(name),
        )


def _broken(tx: Tx, declared: Mapping[str, models.Model]) -> Iterator[Need]:
    for row in needs.broken(tx):
        example = _example(declared[row.model].spec, row)
        dead = f", {row.dead} of them killed their process" if row.dead else ""
        serves = "; earlier models serve" if row.serving else ""
        said = f"{plural(row.number, 'training')} of {row.model} failed for good{dead}{serves}: {example}{row.reason}"
        if row.run_id is None:
            yield Need(
                "failed", Urgency.WARNING, row.model, said, _at(row.at), f"trigger {row.model}", _retrain(row.model)
            )
            continue
        call = Call("POST", f"/api/v1/runs/{row.run_id}/retry-failed")
        command = f"runs {row.run_id} --retry-failed"
        yield Need("failed", Urgency.WARNING, row.model, said, _at(row.at), command, call)


def _damaged(tx: Tx, declared: Mapping[str, models.Model]) -> Iterator[Need]:
    for row in needs.damaged(tx):
        model = declared[row.model]
        keys = decode(row.key)
        serves = "nothing is left to serve" if row.silent else "earlier ones serve"
        said = f"damaged bytes: {plural(row.number, 'partition')} of {row.model}; {serves}"
        only = row.number == 1 and bool(keys)
        named = f" --partition {shlex.quote(row.key)}" if only else ""
        call = Call(
            "POST", f"/api/v1/models/{row.model}/retrain", {"partitions": [keys] if only else None, "force": True}
        )
        severity = Urgency.CRITICAL if row.silent else Urgency.WARNING
        yield Need("damaged", severity, model.name, said, None, f"trigger {row.model}{named} --force", call)


def _again(tx: Tx) -> Iterator[Need]:
    for row in needs.waiting_again(tx):
        said = f"{row.model}: {plural(row.number, 'training')} failed and will be tried again: {row.reason or row.error_class}"
        call = Call("GET", f"/api/v1/runs/{row.run_id}")
        yield Need("retrying", Urgency.NOTE, row.model, said, None, f"runs {row.run_id}", call)


def _refused(tx: Tx, declared: Mapping[str, models.Model]) -> Iterator[Need]:
    for name, model in declared.items():
        ended = needs.verdicts(tx, model.id, 20)
        number = next((place for place, row in enumerate(ended) if row.verdict != ItemState.REJECTED), len(ended))
        if number >= _REFUSALS:
            said = f"the last {number}{' or more' if number == 20 else ''} challengers of {name} were refused; the old model serves"
            since = ended[number - 1].ended_at
            yield Need(
                "refused",
                Urgency.WARNING,
                name,
                said,
                _at(since),
                f"why {name}",
                Call("GET", f"/api/v1/decisions?model={name}"),
            )


def _pinned(tx: Tx) -> Iterator[Need]:
    for row in needs.pinned(tx):
        said = f"{plural(row.number, 'newer model')} of {row.model} passed, and the champion is pinned"
        call = Call("POST", f"/api/v1/models/{row.model}/pin", {"pinned": False})
        yield Need("pinned", Urgency.WARNING, row.model, said, _at(row.at), f"rollback {row.model} --unpin", call)


def _drift(tx: Tx) -> Iterator[Need]:
    for row in needs.unacted(tx):
        did = "it is only observed" if row.action == "observe" else "a training would not help"
        said = f"{row.model}: {row.reason}; {did}"
        train = row.action == "observe"
        severity = Urgency.WARNING if row.severity in ("high", "critical") else Urgency.NOTE
        command = f"trigger {row.model}" if train else f"why {row.model}"
        call = _retrain(row.model) if train else Call("GET", f"/api/v1/decisions?model={row.model}")
        yield Need("drift", severity, row.model, said, _at(row.at), command, call)


def _worse(tx: Tx) -> Iterator[Need]:
    for one in notable(tx, tx.now - _RECENT):
        if one.command is not None:
            call = Call("POST", f"/api/v1/models/{one.model}/rollback", {"run": one.run})
            yield Need("worse", Urgency.WARNING, one.model, one.text, one.at, one.command, call)


def _example(spec: ModelSpec, row: Record) -> str:
    return f"{where(spec, row.key)}: " if spec.partition_by else ""


# --- people and windows -----------------------------------------------------------------------------------------


def _channels(tx: Tx) -> Iterator[Need]:
    for row in needs.undelivered(tx, tx.now - _RECENT):
        name = row.channel.partition(":")[2]
        # An address may hold a password; a function's name does not.
        shown = name if "://" not in name else f"{name.partition('://')[0]}://…"
        now = "is not delivered" if row.failures else "was given up"
        said = f"a message by {shown} {now} after {plural(max(row.tries, row.failures), 'try', 'tries')}: {row.problem}"
        yield Need("notify", Urgency.WARNING, None, said, _at(row.at), "doctor")


def _held(tx: Tx, declared: Mapping[str, models.Model]) -> Iterator[Need]:
    by_id = {one.id: one.name for one in declared.values()}
    for model_id, (number, until) in items.held_back(tx).items():
        name = by_id[model_id]
        said = f"a blackout of {name} holds {plural(number, 'training')} back, for {spoken(until - tx.now)}"
        yield Need("blackout", Urgency.NOTE, name, said, None, f"trigger {name}", _retrain(name))
