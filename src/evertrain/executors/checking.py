"""Asking champions, in a worker: do they still load, and how do they score on rows they have not seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from evertrain import holdout, scores
from evertrain.errors import EvertrainError
from evertrain.executors.training import (
    Emit,
    Message,
    champion_bytes,
    champion_features,
    parts,
    predictions,
    setting,
    times_of,
    to_pandas,
)
from evertrain.sources.extract import ROW
from evertrain.specs import decode_trainer
from evertrain.trainers.make import make


def evaluate(task: Message, emit: Emit, inline: dict[str, Any] | None = None) -> None:
    """Score each champion on labelled rows newer than its training; answer rows, and the score where rows suffice."""
    shared = setting(task, emit, inline)
    name = scores.get(task["score"] or shared.score).name
    found = []
    for item, frame in parts(shared, task["items"]):
        emit({"type": "begin", "item": item["id"]})
        champion = item["champion"]
        signature = champion["signature"]
        answer: Message = {"id": item["id"], "rows": 0, "value": None}
        try:
            seen = (
                np.frombuffer(champion_bytes({**champion, **signature["rows"]}), "<u8") if "rows" in signature else None
            )
            mask = holdout.newer(times_of(frame, shared.time), frame[ROW].to_numpy(), signature["until"], seen)
            answer["rows"] = int(mask.sum())
            if answer["rows"] >= task["min_rows"]:
                rows = to_pandas(frame, shared.columns)[mask].reset_index(drop=True)
                trainer = shared.trainer_of(champion["trainer"])
                made = champion_features(signature, rows)
                own = predictions(trainer, trainer.load(champion_bytes(champion)), made, [name])
                if "problem" in own:
                    answer["problem"] = own["problem"]
                else:
                    value = scores.compute(name, rows[shared.spec.target].to_numpy(), **own)
                    answer["value"] = value if np.isfinite(value) else None
        except Exception as error:  # noqa: BLE001 - the user's trainer; what it raised is recorded
            answer["problem"] = str(error) if isinstance(error, EvertrainError) else f"{type(error).__name__}: {error}"
        found.append(answer)
    emit({"type": "evaluated", "score": name, "found": found})


def load_check(task: Message, emit: Emit, inline: dict[str, Any] | None = None) -> None:
    """Load each given fit from its checked bytes; answer which cannot be loaded, and why."""
    broken = {}
    for item in task["fits"]:
        try:
            make(decode_trainer(item["trainer"]), Path(task["scratch"]), inline).load(champion_bytes(item))
        except Exception as error:  # noqa: BLE001 - any failure to load is the answer
            broken[str(item["id"])] = (
                str(error) if isinstance(error, EvertrainError) else f"{type(error).__name__}: {error}"
            )
    emit({"type": "checked", "broken": broken})
