"""One look of the loop at the clock, the files and the champions: facts gathered, decisions made, plans stored.

A look costs what changed, not what exists: schedules by their next moment, sources by one stat, ages by an index,
plans by what is due.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar

from evertrain import registry, triggers, watch
from evertrain.control import accuracy, drift, jobs
from evertrain.control.ask import plan_all
from evertrain.control.opened import Opened, zone_of
from evertrain.drift.signal import Severity
from evertrain.errors import StoreError
from evertrain.executors.jobs import Lost, Message
from evertrain.executors.supervisor import Supervisor
from evertrain.forecasting import parse_freq
from evertrain.partitions import KeyText
from evertrain.specs import Auto, Cause, DataChange, Dataset, Drift, Environment, MaxAge, ProjectSpec, ScoreDrop
from evertrain.states import ItemState
from evertrain.store import champions, decisions, demand, models, runs, schedules, sources
from evertrain.store.connect import Record, Tx
from evertrain.trainers.make import family
from evertrain.triggers import Decision

# How many partitions one score check asks at once; the rest gets its turn at the next check.
_CHECKED_AT_ONCE = 500


_T = TypeVar("_T")


@dataclass
class Memory:
    """What one process remembers between two looks; losing it costs one check too many, never a decision."""

    checked_at: datetime | None = None
    looked: dict[str, datetime] = field(default_factory=dict)
    evaluated: dict[tuple[int, str], str] = field(default_factory=dict)
    under_way: set[str] = field(default_factory=set)
    periods: dict[int, int] = field(default_factory=dict)
    marks: dict[int, int] = field(default_factory=dict)
    rounds: dict[int, drift.Round] = field(default_factory=dict)


def look(opened: Opened, hands: Supervisor, memory: Memory, hints: Sequence[str] = ()) -> None:
    """Do one look: fire schedules, watch sources, check ages, scores and libraries, and plan what is due.

    Args:
        hints: sources that a file watcher saw change; they are looked at now and not at the next check.
    """
    project = opened.project()
    now = opened.store.clock.now()
    _fire_schedules(opened, project)
    regular = memory.checked_at is None or now - memory.checked_at >= timedelta(seconds=opened.settings.check_s)
    _watch_sources(opened, hands, project, memory, set(hints), regular=regular)
    if regular:
        memory.checked_at = now
        _check_ages(opened, project)
        _check_periods(opened, project, memory)
        _check_scores(opened, hands, project, memory)
        _check_environment(opened, hands, project, memory)
        _begin_drift(opened, project, memory)
    if memory.rounds:
        go_on(opened, hands, memory)
    plan_all(opened)


def go_on(opened: Opened, hands: Supervisor, memory: Memory) -> bool:
    """Go on with the drift checks under way, as far as workers are free and have answered; return whether one is over."""
    project = opened.project()
    over = [number for number, current in memory.rounds.items() if drift.proceed(opened, hands, project, current)]
    for number in over:
        del memory.rounds[number]
    if over:
        plan_all(opened)
    return bool(over)


def _acts(project: ProjectSpec, model: models.Model) -> Auto:
    return models.auto_of(project, model.spec)


def _follow(tx: Tx, project: ProjectSpec, model: models.Model, decision: Decision) -> None:
    """Record a decision and do what it asks for, as far as the model may act by itself."""
    auto = _acts(project, model)
    if not decision.fired:
        decisions.record(tx, model.id, model.name, decision, action="none")
    elif not decision.retrain:
        decisions.record(tx, model.id, model.name, decision, action="report")
    elif auto is Auto.OBSERVE:
        decisions.record(tx, model.id, model.name, decision, action="observe")
    else:
        commit = demand.want(tx, model.id, model.name, demand.Request(decision.cause, decision.reason), decision.keys)
        decisions.record(tx, model.id, model.name, decision, action="train", wanted=commit)


# --- schedules --------------------------------------------------------------------------------------------------


def _fire_schedules(opened: Opened, project: ProjectSpec) -> None:
    with opened.store.read() as tx:
        due = schedules.due(tx)
    for row in due:
        with opened.store.write() as tx:
            model = models.by_id(tx, row.model_id)
            current = schedules.active(tx, row.id)
            if current is None or current.next_at != row.next_at:
                continue  # another process took it between the two transactions
            decision = jobs.fire(tx, model, current, zone_of(project))
            if decision is not None and _acts(project, model) is not Auto.OFF:
                _follow(tx, project, model, decision)


# --- sources ----------------------------------------------------------------------------------------------------


def _watch_sources(
    opened: Opened, hands: Supervisor, project: ProjectSpec, memory: Memory, hints: set[str], *, regular: bool
) -> None:
    with opened.store.read() as tx:
        users = models.sources_of(models.every(tx))
    for name, own in users.items():
        if all(_acts(project, user) is Auto.OFF for user in own):
            continue
        kept = isinstance(project.sources[name], Dataset)  # its version is in the store: looking costs nothing
        if not (kept or regular or name in hints or name in memory.looked):
            continue
        still = name not in memory.looked  # else its quiet period goes on, be it of the very first rows
        if kept and not regular and still and not (watch.acts_on_rows(own) and watch.has_batches(opened.store, name)):
            continue
        with opened.store.write() as tx:
            before = sources.state(tx, name)
            row = watch.look(tx, name, project.sources[name], opened.home.root)
            if row.problem and (before is None or before.problem != row.problem):
                watch.failed(tx, project, name, row.problem)
            quiet, delay = watch.patience(own, is_dataset=kept)
            # A source that only reading can tell about is read at every regular check.
            blind = row.stat is None and not row.problem and regular
            restless = watch.needs_read(row, own)
            ripe = blind or (restless and sources.ripe(row, quiet=quiet, max_delay=delay, now=tx.now))
        if restless and not ripe:
            memory.looked[name] = opened.store.clock.now()  # looked at on every tick until it lies still
        else:
            memory.looked.pop(name, None)
        if ripe:
            hands.read_source(name)


def _with_trigger(opened: Opened, project: ProjectSpec, kind: type[_T]) -> list[tuple[models.Model, _T]]:
    """Return each model that may act with each of its triggers of one kind."""
    with opened.store.read() as tx:
        return [
            (model, one)
            for model in models.every(tx)
            for one in model.spec.triggers
            if isinstance(one, kind) and _acts(project, model) is not Auto.OFF
        ]


# --- age --------------------------------------------------------------------------------------------------------


def _check_ages(opened: Opened, project: ProjectSpec) -> None:
    for model, trigger in _with_trigger(opened, project, MaxAge):
        with opened.store.write() as tx:
            _follow(tx, project, model, triggers.on_age(trigger, _ages(tx, model, trigger), tx.now))


def _check_periods(opened: Opened, project: ProjectSpec, memory: Memory) -> None:
    """Train series whose newest rows lay in a period that has ended since; looked at once in each period."""
    with opened.store.read() as tx:
        own = [one for one in models.every(tx) if one.spec.series and _acts(project, one) is not Auto.OFF]
    for model in own:
        name = ((model.extract or {}).get("series") or {}).get("freq")
        if name is None or not any(isinstance(one, DataChange) for one in model.spec.triggers):
            continue
        freq = parse_freq(name)
        period = freq.period_of(opened.store.clock.now())
        if memory.periods.get(model.id) == period:
            continue
        with opened.store.write() as tx:
            keys = champions.outlived(tx, model.id, freq.start_of(period))
            if keys:
                _follow(tx, project, model, triggers.on_period_end(freq.text(period - 1), keys))
        memory.periods[model.id] = period


def _ages(tx: Tx, model: models.Model, trigger: MaxAge) -> triggers.Ages:
    oldest, number = champions.oldest_at(tx, model.id), champions.number(tx, model.id)
    if oldest is None or oldest > tx.now - trigger.limit:
        return triggers.Ages(oldest, of=number)
    due, news, open_ = [], 0, 0
    for row in champions.trained_before(tx, model.id, tx.now - trigger.limit):
        if row.due:
            open_ += 1
        elif row.outcome not in (None, ItemState.PROMOTED) and row.considered_input in (None, row.seen):
            news += 1  # tried on these very rows, and not promoted: only new rows can change that
        else:
            due.append(KeyText(row.key))
    return triggers.Ages(oldest, tuple(due), news, open_, number)


# --- score ------------------------------------------------------------------------------------------------------


def _score_drops(opened: Opened, project: ProjectSpec) -> list[tuple[models.Model, ScoreDrop]]:
    """Return each model that may act with one drop of each score: of those declared and added, the smallest.

    Whatever a larger one would fire for has fired it before: asking the same champion twice would train it twice. Those
    that were added and need more rows than there are do not count.
    """
    found = _with_trigger(opened, project, ScoreDrop)
    strict: dict[tuple[int, str | None], tuple[models.Model, ScoreDrop]] = {}
    with opened.store.read() as tx:
        short = {model.id: jobs.short_drops(tx, project, model) for model, _ in found}
    for model, trigger in found:
        known = strict.get((model.id, trigger.score))
        if trigger not in short[model.id] and (known is None or trigger.threshold < known[1].threshold):
            strict[model.id, trigger.score] = (model, trigger)
    return list(strict.values())


def _check_scores(opened: Opened, hands: Supervisor, project: ProjectSpec, memory: Memory) -> None:
    """Ask champions how they do on rows newer than their training, where there are such rows."""
    for model, trigger in _score_drops(opened, project):
        if model.spec.series:  # a whole horizon is all that a forecast ever says
            trigger = replace(trigger, min_rows=min(trigger.min_rows, model.spec.series.h))  # noqa: PLW2901
        seen = _score_logged(opened, project, model, trigger, memory)
        name = f"score:{model.name}"
        if name in memory.under_way or hands.executor.free("work") <= 0 or not drift.has_rows(project, model):
            continue
        with opened.store.read() as tx:
            rows = champions.with_news(tx, model.id, _CHECKED_AT_ONCE)
            fits = registry.fits(tx, [row.champion_id for row in rows])
            forecasts = registry.forecasts(tx, list(fits)) if model.spec.series else {}
        # The same champion on the same rows answers the same: it is asked again when there are others.
        fresh = [
            row
            for row in rows
            if row.key not in seen and memory.evaluated.get((row.id, "score")) != f"{row.champion_id}:{row.seen}"
        ]
        if not fresh:
            with opened.store.write() as tx:
                if not rows and not seen:
                    _follow(
                        tx,
                        project,
                        model,
                        triggers.on_score(trigger, trigger.score or accuracy.deciding(tx, model), []),
                    )
            continue
        items = [
            {
                "id": row.id,
                "key": row.key,
                "leaf": bool(row.leaf),
                "champion": hands.asked(fits[row.champion_id], forecasts),
            }
            for row in fresh
        ]
        task = hands.task("evaluate", model, project, items, score=trigger.score, min_rows=trigger.min_rows)
        for row in fresh:
            memory.evaluated[row.id, "score"] = f"{row.champion_id}:{row.seen}"
        answer = _on_scores(opened, project, model, trigger, fresh, fits, memory, name)
        if hands.ask(task, family(model.spec.trainer), answer, deadline_s=model.spec.deadline.total_seconds()):
            memory.under_way.add(name)
        else:
            for row in fresh:
                memory.evaluated.pop((row.id, "score"), None)


def _score_logged(
    opened: Opened, project: ProjectSpec, model: models.Model, trigger: ScoreDrop, memory: Memory
) -> set[str]:
    """Score champions on their logged predictions, and return the keys of those that had any news."""
    if model.spec.series:
        return set()
    with opened.store.read() as tx:
        score = trigger.score or accuracy.deciding(tx, model)
    try:
        found, memory.marks[model.id] = accuracy.logged(opened, model, trigger, score, memory.marks.get(model.id, 0))
    except StoreError as error:
        said = f"the log of predictions cannot be read: {error}"
        decision = Decision(Cause.SCORE_DROP, "score_drop", False, "unread", said, Severity.HIGH)
        with opened.store.write() as tx:
            _follow(tx, project, model, decision)
        return set()
    if found:
        with opened.store.write() as tx:
            _follow(tx, project, model, triggers.on_score(trigger, score, found))
    return {one.key for one in found}


def _on_scores(
    opened: Opened,
    project: ProjectSpec,
    model: models.Model,
    trigger: ScoreDrop,
    rows: Sequence[Record],
    fits: dict[int, registry.Fit],
    memory: Memory,
    name: str,
) -> Callable[[Message | Lost], None]:
    def answer(message: Message | Lost) -> None:
        memory.under_way.discard(name)
        if isinstance(message, Lost) or message["type"] == "error":
            reason = message.reason if isinstance(message, Lost) else message["reason"]
            decision = Decision(
                Cause.SCORE_DROP, "score_drop", False, "failed", f"the check failed: {reason}", Severity.HIGH
            )
        else:
            found = accuracy.rechecks(model, rows, fits, message)
            decision = triggers.on_score(trigger, message["score"], found)
        with opened.store.write() as tx:
            _follow(tx, project, model, decision)
        plan_all(opened)

    return answer


def _begin_drift(opened: Opened, project: ProjectSpec, memory: Memory) -> None:
    """Begin the drift checks whose time has come; those under way go on with every look."""
    for model, trigger in _with_trigger(opened, project, Drift):
        with opened.store.read() as tx:
            due = (
                model.id not in memory.rounds and champions.oldest_at(tx, model.id) and drift.is_due(tx, model, trigger)
            )
        if due:
            follow = partial(_follow_later, project, model)
            memory.rounds[model.id] = drift.begin(opened, project, model, trigger, follow)


def _follow_later(project: ProjectSpec, model: models.Model, tx: Tx, decision: Decision) -> None:
    _follow(tx, project, model, decision)


# --- environment ------------------------------------------------------------------------------------------------


def _check_environment(opened: Opened, hands: Supervisor, project: ProjectSpec, memory: Memory) -> None:
    """Compare the libraries of each model's oldest champion with those of today; a changed one must still load."""
    for model, trigger in _with_trigger(opened, project, Environment):
        name = f"environment:{model.name}"
        with opened.store.read() as tx:
            oldest = champions.oldest(tx, model.id)
            fit = registry.fits(tx, [oldest.champion_id]).get(oldest.champion_id) if oldest else None
        if fit is None or name in memory.under_way:
            continue
        before = dict(fit.signature.get("libraries", {}))
        now = {library: _version(library) for library in before}
        unchanged = triggers.on_environment(trigger, before, now, loads=None, busy=False).code == "same"
        mark = f"{fit.id}:{sorted(now.items())}"
        if unchanged or memory.evaluated.get((model.id, "environment")) == mark:
            if unchanged:
                with opened.store.write() as tx:
                    _follow(tx, project, model, triggers.on_environment(trigger, before, now, loads=None, busy=False))
            continue
        task = {"kind": "check", "fits": [fit.as_message(str(opened.artifacts.path(fit.place.artifact)))]}
        answer = _on_environment(opened, project, model, trigger, before, now, memory, mark)
        if hands.ask(task, family(model.spec.trainer), answer):
            memory.under_way.add(name)


def _on_environment(
    opened: Opened,
    project: ProjectSpec,
    model: models.Model,
    trigger: Environment,
    before: dict[str, str],
    now: dict[str, str],
    memory: Memory,
    mark: str,
) -> Callable[[Message | Lost], None]:
    def answer(message: Message | Lost) -> None:
        memory.under_way.discard(f"environment:{model.name}")
        loads = not isinstance(message, Lost) and message["type"] == "checked" and not message["broken"]
        with opened.store.write() as tx:
            busy = runs.open_elsewhere(tx, Cause.ENVIRONMENT, model.id)
            decision = triggers.on_environment(trigger, before, now, loads=loads, busy=busy)
            if decision.code != "queued":
                memory.evaluated[model.id, "environment"] = mark
            _follow(tx, project, model, decision)
        plan_all(opened)

    return answer


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "gone"
