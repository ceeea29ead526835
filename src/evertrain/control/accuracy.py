"""Live accuracy: how champions score on the predictions that were logged, once their actuals are there."""

from __future__ import annotations

from evertrain import registry, scores
from evertrain.control.opened import Opened
from evertrain.partitions import KeyText, decode, label
from evertrain.specs import ScoreDrop
from evertrain.store import champions, models
from evertrain.triggers import Recheck

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
