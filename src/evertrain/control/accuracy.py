"""Live accuracy: how champions score on labelled rows they have not seen, of the source and of the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from evertrain import registry, scores, triggers
from evertrain.control.drift import has_rows
from evertrain.control.opened import Opened
from evertrain.errors import TrainingError
from evertrain.executors.jobs import Lost, Message
from evertrain.executors.supervisor import Supervisor
from evertrain.partitions import KeyText, decode, label
from evertrain.specs import ScoreDrop
from evertrain.store import champions, models
from evertrain.store.connect import Record, Tx
from evertrain.trainers.make import family
from evertrain.triggers import Decision, Recheck

# Newest labelled rows of a champion that are scored, and champions that are asked at one look.
_ROWS, _AT_ONCE = 10_000, 500


def logged(opened: Opened, model: models.Model, trigger: ScoreDrop, score: str, mark: int) -> tuple[list[Recheck], int]:
    """Return how champions score on what was logged since their training, and the mark to ask from next time.

    Only champions with news after `mark` are looked at, and only rows older than the label watermark: actuals that
    come fast are no random choice.
    """
    log = opened.observations()
    news = log.keys_with_news(model.name, mark, _AT_ONCE)
    if not news:
        return [], mark
    with opened.store.read() as tx:
        rows = champions.serving(tx, model.id, [one.key for one in news])
        fits = registry.fits(tx, [row.champion_id for row in rows])
    found = []
    for row in rows:
        key, fit = KeyText(row.key), fits[row.champion_id]
        window = log.window(
            model.name, [key], since=fit.trained_at, until=log.watermark(model.name, key), limit=_ROWS, labelled=True
        )
        if not len(window):
            continue
        value = None
        if len(window) >= trigger.min_rows:
            value = scores.compute(
                score, window.actual, window.predicted, probabilities=window.probabilities, classes=window.classes
            )
        promoted = (fit.scores.get("challenger") or {}).get(score)
        called = label(decode(key), model.spec.dimensions, model.spec.overall)
        known = value if value is not None and value == value else None
        found.append(Recheck(key, called, len(window), promoted, known))
    return found, max(one.mark for one in news)


def deciding(tx: Tx, model: models.Model) -> str:
    """Return the score that a model's gate decides by, as its champions were judged."""
    if model.spec.gate.score:
        return model.spec.gate.score
    return champions.deciding_score(tx, model.id) or "accuracy"


def rechecks(
    model: models.Model, rows: Sequence[Record], fits: Mapping[int, registry.Fit], message: Message
) -> list[Recheck]:
    """Return what a worker answered about champions, beside their scores at promotion."""
    by_id = {row.id: row for row in rows}
    found = []
    for one in message["found"]:
        row = by_id[one["id"]]
        promoted = (fits[row.champion_id].scores.get("challenger") or {}).get(message["score"])
        called = label(decode(row.key), model.spec.dimensions, model.spec.overall)
        found.append(Recheck(KeyText(row.key), called, one["rows"], promoted, one["value"]))
    return found


def look(opened: Opened, name: str, trigger: ScoreDrop) -> Decision:
    """Ask now how a model does on labelled rows newer than its training; decides, and trains nothing.

    Raises:
        NotFound: no such model.
        TrainingError: its champion cannot be asked.
    """
    project = opened.project()
    with opened.store.read() as tx:
        model = models.by_name(tx, name)
        score = trigger.score or deciding(tx, model)
    if model.spec.series:  # a whole horizon is all that a forecast ever says
        trigger = replace(trigger, min_rows=min(trigger.min_rows, model.spec.series.h))
    found = [] if model.spec.series else logged(opened, model, trigger, score, 0)[0]
    seen = {one.key for one in found}
    with opened.alone() as hands:
        hands.read_source(model.spec.source)  # whoever asks now means the rows of now
        while hands.busy:
            hands.step(0.1)
        with opened.store.read() as tx:
            model = models.by_name(tx, name)
            news = champions.with_news(tx, model.id, _AT_ONCE, even_if_due=True) if has_rows(project, model) else []
            rows = [row for row in news if row.key not in seen]
            fits = registry.fits(tx, [row.champion_id for row in rows])
            issued = registry.forecasts(tx, list(fits)) if model.spec.series else {}
        if rows:
            asked = [
                {"id": row.id, "key": row.key, "leaf": bool(row.leaf), "champion": hands.asked(fits[row.champion_id], issued)}
                for row in rows
            ]  # fmt: skip
            task = hands.task("evaluate", model, project, asked, score=trigger.score, min_rows=trigger.min_rows)
            answer = _asked(hands, task, model)
            found += rechecks(model, rows, fits, answer)
    return triggers.on_score(trigger, score, found)


def _asked(hands: Supervisor, task: Message, model: models.Model) -> Message:
    answers: list[Message | Lost] = []
    hands.ask(task, family(model.spec.trainer), answers.append, deadline_s=model.spec.deadline.total_seconds())
    while hands.busy and not answers:
        hands.step(0.1)
    answer = answers[0]
    if isinstance(answer, Lost) or answer["type"] == "error":
        why = answer.reason if isinstance(answer, Lost) else answer["reason"]
        raise TrainingError(f"the champion of {model.name} could not be asked: {why}")
    return answer
