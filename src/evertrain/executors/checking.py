"""Asking champions, in a worker: do they still load, and how do they score on rows they have not seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from evertrain import holdout, scores
from evertrain.errors import reason_of
from evertrain.executors.jobs import Message
from evertrain.executors.packs import Emit
from evertrain.executors.rows import Rows, parts
from evertrain.executors.training import champion_bytes, champion_features, predictions, setting
from evertrain.specs import decode_trainer
from evertrain.trainers.make import make


def evaluate(task: Message, emit: Emit, inline: dict[str, Any] | None = None) -> None:
    """Score each champion on labelled rows newer than its training; answer rows, and the score where rows suffice."""
    shared = setting(task, emit, inline)
    name = scores.get(task["score"] or shared.score).name
    if shared.spec.series:
        from evertrain.executors.series import issued_score
    found = []
    for item, rows in parts(shared.extract, shared.columns, shared.time, task["items"]):
        emit({"type": "begin", "item": item["id"]})
        champion = item["champion"]
        signature = champion["signature"]
        answer: Message = {"id": item["id"], "rows": 0, "value": None}
        try:
            if shared.spec.series:
                answer |= issued_score(shared, rows, champion, name, task["min_rows"])
                found.append(answer)
                continue
            mask = unseen(champion, rows)
            answer["rows"] = int(mask.sum())
            if answer["rows"] >= task["min_rows"]:
                fresh = rows.frame(mask)
                actual = fresh[shared.spec.target].to_numpy(copy=True)
                trainer = shared.trainer_of(champion["trainer"])
                made = champion_features(signature, fresh)
                own = predictions(trainer, trainer.load(champion_bytes(champion)), made, [name])
                if "problem" in own:
                    answer["problem"] = own["problem"]
                else:
                    value = scores.compute(name, actual, **own)
                    answer["value"] = value if np.isfinite(value) else None
        except Exception as error:  # noqa: BLE001 - the user's trainer; what it raised is recorded
            answer["problem"] = reason_of(error)
        found.append(answer)
    shared.close()
    emit({"type": "evaluated", "score": name, "found": found})


def unseen(champion: Message, rows: Rows) -> holdout.Mask:
    """Return which rows a champion cannot have been trained on."""
    signature = champion["signature"]
    seen = np.frombuffer(champion_bytes({**champion, **signature["rows"]}), "<u8") if "rows" in signature else None
    return holdout.newer(rows.times, rows.numbers, signature["until"], seen)


def load_check(task: Message, emit: Emit, inline: dict[str, Any] | None = None) -> None:
    """Load each given fit from its checked bytes; answer which cannot be loaded, and why."""
    broken = {}
    for item in task["fits"]:
        try:
            make(decode_trainer(item["trainer"]), Path(task["scratch"]), inline).load(champion_bytes(item))
        except Exception as error:  # noqa: BLE001 - any failure to load is the answer
            broken[str(item["id"])] = reason_of(error)
    emit({"type": "checked", "broken": broken})
