"""Evidence, gathered in a worker: what a champion was promoted on, and how recent rows differ from it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from evertrain import evidence, scores
from evertrain.drift.profile import Profile
from evertrain.drift.signal import Evidence
from evertrain.errors import DataError, reason_of
from evertrain.executors.checking import unseen
from evertrain.executors.jobs import ACTUAL, AT, PREDICTED, Message
from evertrain.executors.packs import Emit
from evertrain.executors.rows import Rows, parts, to_pandas
from evertrain.executors.training import Setting, champion_bytes, champion_features, predictions, setting
from evertrain.sources.table import ColumnType, schema_of
from evertrain.specs import Drift, Trainer, decode_trigger
from evertrain.trainers.make import can_predict

if TYPE_CHECKING:
    import pandas as pd

# Rows that are asked of a model to learn which columns it uses; all columns' copies go in one question.
_ASKED_ROWS = 200
_ASKED_IN_ALL = 20_000
_SAID = 300  # characters of what a trainer raised


def importances(
    trainer: Trainer, fitted: Any, rows: pd.DataFrame, features: Sequence[str], seed: int
) -> dict[str, float]:
    """Return how much each column moves the predictions of a model, as shares that add up to 1.

    Each column in turn is shuffled, and the mean change of the answers counts: of the probabilities where the model
    has them, of the number for a regression, else how many labels turn. 0 is a column that the model does not read.
    No actual is needed. Empty where nothing moves the answers.

    Source: permutation importance (Breiman, Random Forests, 2001), of the predictions instead of the error.
    """
    import pandas as pd

    number = min(len(rows), _ASKED_ROWS, max(1, _ASKED_IN_ALL // (len(features) + 1)))
    if number < 2:
        return {}
    rng = np.random.default_rng(seed)
    some = rows.iloc[np.sort(rng.choice(len(rows), number, replace=False))]
    # One question for all: the rows as they are, then once for each column with its values in another order.
    places = np.tile(np.arange(number), len(features) + 1)
    copies = {}
    for block, name in enumerate(features, start=1):
        own_places = places.copy()
        own_places[number * block : number * (block + 1)] = rng.permutation(number)
        copies[name] = some[name].array.take(own_places)
    answers = _numbers(trainer, fitted, pd.DataFrame(copies))
    own = answers[:number]
    moved = {
        name: float(np.abs(answers[number * place : number * (place + 1)] - own).mean())
        for place, name in enumerate(features, start=1)
    }
    total = sum(moved.values())
    if not np.isfinite(total) or total <= 0:
        return {}
    return {name: value / total for name, value in moved.items()}


def _numbers(trainer: Trainer, fitted: Any, rows: pd.DataFrame) -> Any:
    """Return the answers of a model as a matrix of numbers, one row each."""
    ask = getattr(trainer, "predict_proba", None)
    if trainer.task == "classification" and ask and (answer := ask(fitted, rows)) is not None:
        return np.asarray(answer[1], dtype=float)
    values = np.asarray(trainer.predict(fitted, rows)).reshape(-1)
    if values.dtype.kind in "biuf":
        return values.astype(float).reshape(-1, 1)
    labels = np.unique(values.astype(str))
    return (values.astype(str)[:, None] == labels[None, :]).astype(float)


def profile(
    shared: Setting, fitted: Any, known: pd.DataFrame, held: pd.DataFrame, predicted: Any, times: Any, seed: int
) -> bytes:
    """Return what drift will be measured against if this fit is promoted: a sketch, which holds no row.

    Args:
        known: every row of this moment as the model reads it, the held-out ones last.
        held: the rows that the fit did not see, as they were read.
        predicted: what it answers to those; None where it could not be asked.
        times: of `known`, in seconds; None without time.
    """
    moments = moments_of(times)
    assert shared.spec.drift is not None
    weights = None
    if can_predict(shared.trainer):
        weights = importances(shared.trainer, fitted, known, list(known.columns), seed) or None
    found = Profile.of(known, times=moments, weights=weights, joint=bool(shared.spec.drift.joint))
    if predicted is None:
        return found.to_bytes()
    losses = scores.losses(loss_score(shared), held[shared.spec.target].to_numpy(copy=True), predicted)
    newest = None if moments is None else moments[-len(held) :]
    if newest is not None:
        losses = losses[np.argsort(newest, kind="stable")]
    # Answers to rows that were trained on are closer to the truth than any that will come.
    proven = Profile.of(known.iloc[-len(held) :, :0], times=newest, predicted=predicted, losses=losses)
    return replace(found, prediction=proven.prediction, losses=proven.losses).to_bytes()


def moments_of(times: Any) -> Any:
    """Return seconds as instants; None for None."""
    return None if times is None else (np.asarray(times, dtype=float) * 1e6).astype("datetime64[us]")


def weigh(task: Message, emit: Emit, inline: dict[str, Any] | None = None) -> None:
    """Measure how the recent rows of each partition differ from what its champion was promoted on.

    Recent rows are observations of the champion where an item names a copy of them, else the labelled rows of the source
    that are newer than its training, as it predicts them now.
    """
    shared = setting(task, emit, inline)
    config = decode_trigger(task["drift"])
    assert isinstance(config, Drift)
    listed: Iterable[tuple[Message, Rows | None]]
    listed = [(item, None) for item in task["items"]] if task["observed"] else _parts(shared, task)
    found = []
    for item, rows in listed:
        emit({"type": "begin", "item": item["id"]})
        answer: Message = {"id": item["id"]}
        try:
            recent = _logged(item) if rows is None else _new(shared, item["champion"], rows, config)
            answer["evidence"] = _measured(shared, item["champion"], recent, config, logged=rows is None).as_json()
        except Exception as error:  # noqa: BLE001 - the user's trainer; what it raised is recorded
            said = reason_of(error)
            answer["problem"] = said if len(said) <= _SAID else f"{said[:_SAID]} ..."
        found.append(answer)
    shared.close()
    emit({"type": "weighed", "found": found})


def _parts(shared: Setting, task: Message) -> Iterable[tuple[Message, Rows | None]]:
    return parts(shared.extract, shared.columns, shared.time, task["items"])


@dataclass(frozen=True)
class _Recent:
    """Recent rows as the champion reads them, with what it answered and what happened; NaN or None is not known."""

    frame: pd.DataFrame
    predicted: Any
    actual: Any
    times: Any


def _measured(shared: Setting, champion: Message, recent: _Recent, config: Drift, *, logged: bool) -> Evidence:
    signature = champion["signature"]
    if "profile" not in signature:
        raise DataError("the champion was trained before drift was watched; the next training keeps what a check needs")
    reference = Profile.from_bytes(champion_bytes({**champion, **signature["profile"]}))
    found = evidence.measure(
        reference,
        recent.frame[signature["features"]],
        recent.predicted,
        recent.actual,
        times=moments_of(recent.times),
        score=loss_score(shared),
        config=config,
    )
    if (
        shared.time is not None
        and shared.columns[shared.time] in (ColumnType.INTEGER, ColumnType.NUMBER)
        and not logged
    ):
        return replace(found, since=None, until=None, changed_at=None)  # a plain number is no moment
    return found


def loss_score(shared: Setting) -> str:
    """Return the score whose losses are watched: the deciding one's, and of classifiers whether the label was right.

    Labels are all that every log of predictions holds; a right or wrong answer is judged without any probability.
    """
    return shared.score if scores.get(shared.score).task == "regression" else "accuracy"


def _new(shared: Setting, champion: Message, rows: Rows, config: Drift) -> _Recent:
    """Return the newest labelled rows that the champion was not trained on."""
    newest = champion["signature"].get("newest")
    # Held-out rows are unseen, too, and what losses are compared with.
    fresh = rows.only(unseen(champion, rows) if newest is None or rows.times is None else rows.times > newest)
    order = np.arange(len(fresh)) if fresh.times is None else np.argsort(fresh.times, kind="stable")
    fresh = fresh.only(order[-config.max_rows :])
    frame = fresh.frame()
    actual = frame[shared.spec.target].to_numpy(copy=True)
    trainer = shared.trainer_of(champion["trainer"])
    made = champion_features(champion["signature"], frame)
    if not len(frame):
        return _Recent(made, np.empty(0), actual, fresh.times)
    own = predictions(trainer, trainer.load(champion_bytes(champion)), made, [])
    if "problem" in own:
        raise DataError(f"the champion cannot be asked: {own['problem']}")
    return _Recent(made, own["predicted"], actual, fresh.times)


def _logged(item: Message) -> _Recent:
    """Return the observations in a copy; the copy is removed."""
    path = Path(item["observed"])
    table = pl.read_ipc(path)
    path.unlink()
    kept = [name for name in table.columns if name not in (AT, PREDICTED, ACTUAL)]
    frame = to_pandas(table.select(kept), schema_of(table.select(kept)))
    made = champion_features(item["champion"]["signature"], frame)
    return _Recent(made, _plain(table[PREDICTED]), _plain(table[ACTUAL]), table[AT].to_numpy())


def _plain(series: pl.Series) -> Any:
    return np.array(series.to_list(), dtype=object) if series.dtype == pl.String else series.cast(pl.Float64).to_numpy()
