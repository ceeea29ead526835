"""Jobs: rules that are added at run time, told, done at once, and taken back."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from evertrain import triggers
from evertrain.clock import from_text, to_text
from evertrain.control import ask
from evertrain.control.opened import Opened, zone_of
from evertrain.drift.signal import Severity
from evertrain.errors import NotFound
from evertrain.specs import Cause, ProjectSpec, Schedule, ScoreDrop
from evertrain.store import decisions, models, runs, schedules
from evertrain.store.connect import Record, Tx
from evertrain.triggers import Decision


@dataclass(frozen=True)
class Job:
    """A rule with a number: a moment of the calendar, or a drop of the score.

    Attributes:
        min_samples: rows without which it trains nothing, beside what its model needs anyway.
        last_at: its last moment; of a drop, when the last training for one was asked for.
        next_at: its next moment; None for a drop.
        origin: "declared" in the project file, or "added" at run time.
    """

    number: int
    model: str
    rule: Schedule | ScoreDrop
    min_samples: int | None
    last_at: datetime | None
    next_at: datetime | None
    origin: str


def add(
    opened: Opened, model: str, rule: Schedule | ScoreDrop, *, min_samples: int | None = None, actor: str = "evertrain"
) -> int:
    """Add a rule to a model and return its number; one that is there already keeps the number it has.

    Fewer rows than a model needs by default are taken for its need from then on; a number that the project file
    declares is left alone.

    Raises:
        NotFound: no such model.
        ConfigError: the rule can never fire.
    """
    with opened.store.write(actor) as tx:
        found = models.by_name(tx, model)
        number = schedules.add(tx, found.id, model, rule, zone_of(opened.project()), min_samples=min_samples)
        if min_samples is not None:
            lower_floor(tx, found, min_samples)
        models.declare_again(tx, model)
        return number


def lower_floor(tx: Tx, model: models.Model, rows: int) -> None:
    """Let a model that needs its rows by default alone need fewer, as an override; a declared number is left alone."""
    declared = "min_samples" not in models.overrides(tx, model.name) and model.spec.min_samples is not None
    if not declared and rows < model.spec.least_rows:
        models.set_override(tx, model.name, "min_samples", rows)


def every(opened: Opened) -> list[Job]:
    """Return the active rules, in order of their next moment."""
    with opened.store.read() as tx:
        found = []
        for row in schedules.every(tx):
            rule = schedules.rule_of(row)
            last = (
                row.last_at if isinstance(rule, Schedule) else runs.newest_of_cause(tx, row.model_id, Cause.SCORE_DROP)
            )
            found.append(
                Job(
                    row.id, row.model, rule, row.min_samples, from_text(last) if last else None,
                    from_text(row.next_at) if row.next_at else None, row.origin,
                )
            )  # fmt: skip
        return found


def execute(opened: Opened, number: int, *, moment: datetime | None = None, actor: str = "evertrain") -> ask.Asked:
    """Ask for what a job asks for, now; one whose moment has come has had it then, and does not fire for it again.

    Args:
        moment: what the caller knows as the job's next one; where that has come and was had since, nothing is done.

    Raises:
        NotFound: no such job is active.
    """
    with opened.store.write(actor) as tx:
        row = schedules.active(tx, number)
        if row is None:
            raise NotFound(f"schedule {number} does not exist")
        model, zone = models.by_id(tx, row.model_id), zone_of(opened.project())
        if moment is not None and moment <= tx.now and row.next_at != to_text(moment):
            return ask.Asked(None, 0, 0, f"the moment {to_text(moment)[:16]}Z of job {number} was had already")
        if row.next_at is not None and row.next_at <= tx.now_text:
            decision = fire(tx, model, row, zone)
            if decision is None:
                return ask.Asked(None, 0, 0, "another process has had this moment already")
        else:
            cause = Cause.SCORE_DROP if row.next_at is None else Cause.SCHEDULE
            said = f"{schedules.words(schedules.rule_of(row), zone)}; done now, asked by {actor}"
            decision = too_few(model, row) or Decision(cause, f"schedule:{number}", True, "asked", said, Severity.LOW)
        if not decision.fired:
            decisions.record(tx, model.id, model.name, decision, action="none")
            return ask.Asked(None, 0, 0, decision.reason)
    return ask.retrain(opened, model.name, decision, actor=actor)


def fire(tx: Tx, model: models.Model, row: Record, zone: str) -> Decision | None:
    """Take the moment of a schedule that has come and return what is decided; None where another process took it."""
    fired = schedules.fire(tx, row, zone)
    if fired is None:
        return None
    rule = schedules.rule_of(row)
    assert isinstance(rule, Schedule)
    return too_few(model, row) or triggers.on_schedule(rule, f"schedule:{row.id}", zone, *fired, tx.now)


def too_few(model: models.Model, row: Record) -> Decision | None:
    """Return the decision of a rule that needs more rows than there are; None where they suffice or are not known."""
    rows = model.extract["rows"] if model.extract else None
    if row.min_samples is None or rows is None or rows >= row.min_samples:
        return None
    said = f"Insufficient samples: {rows} < {row.min_samples}"
    return Decision(Cause.SCHEDULE, f"schedule:{row.id}", False, "insufficient", said, Severity.LOW)


def short_drops(tx: Tx, project: ProjectSpec, model: models.Model) -> set[ScoreDrop]:
    """Return the drops of a score that were added to a model and need more rows than it has."""
    rows = model.extract["rows"] if model.extract else None
    added = schedules.drops(tx, model.name)
    enough = {rule for rule, least in added if least is None or rows is None or rows >= least}
    return {rule for rule, _ in added} - enough - set(project.models[model.name].triggers)
