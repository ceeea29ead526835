"""Fitting, in a worker: rows to a saved model that has been loaded again and measured beside the champion.

Nothing here knows the store. What is answered are files in the scratch folder and plain messages.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evertrain import gate, holdout, scores
from evertrain.artifacts import Place, read_checked
from evertrain.errors import ArtifactError, ConfigError, DataError, Retryable, TrainingError, reason_of
from evertrain.executors.jobs import Allowance, Message
from evertrain.executors.packs import Emit, Meter, Packer
from evertrain.executors.rows import Rows, parts, unpacked
from evertrain.partitions import decode
from evertrain.sources import read
from evertrain.sources.table import Schema
from evertrain.specs import Drift, ModelSpec, ScoreDrop, Series, Trainer, decode_model, decode_trainer
from evertrain.trainers.make import can_predict, check, make

if TYPE_CHECKING:
    import pandas as pd

_REMEMBERED_ROWS = 200_000
_DRY_ROWS = 20
_BEYOND_LUCK = 2.0  # standard errors
_RETRYABLE = (OSError, TimeoutError, Retryable)


class Insufficient(Exception):
    """There are too few rows to train; the item is skipped, not failed."""


@dataclass
class Setting:
    """What every item of a batch shares: the declaration, where the rows are, and this worker's means."""

    spec: ModelSpec
    trainer: Trainer
    columns: Schema
    extract: str
    scratch: Path
    time: str | None
    key: Sequence[str]
    now: datetime
    emit: Emit
    inline: Mapping[str, Any]
    own_extract: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)
    recipe: str = ""
    trainers: dict[str, Trainer] = field(default_factory=dict)

    def close(self) -> None:
        """Remove the extract, where it was made for this task alone."""
        if self.own_extract:
            for path in (Path(self.extract), Path(self.extract).with_suffix(".idx")):
                path.unlink(missing_ok=True)

    def trainer_of(self, encoded: Mapping[str, Any]) -> Trainer:
        """Return the trainer of an older fit, which may be another than today's."""
        name = repr(sorted(encoded.items(), key=str))
        if name not in self.trainers:
            self.trainers[name] = make(decode_trainer(encoded), self.scratch, self.inline)
        return self.trainers[name]

    @cached_property
    def features(self) -> list[str]:
        """The feature columns, where no function makes them."""
        if self.spec.features is not None:
            return list(self.spec.features)
        left_out = {self.spec.target, *self.spec.dimensions, *self.key, *([self.time] if self.time else [])}
        return [name for name in self.columns if name not in left_out]

    @cached_property
    def versions(self) -> dict[str, str]:
        return _versions(tuple(self.trainer.libraries))

    @cached_property
    def remembers_rows(self) -> bool:
        return any(isinstance(one, ScoreDrop | Drift) for one in self.spec.triggers)

    @property
    def series(self) -> Series:
        """How rows become a series, for a forecasting model."""
        assert self.spec.series is not None
        return self.spec.series

    @cached_property
    def score(self) -> str:
        return self.shown[0]

    @property
    def task(self) -> Any:
        return "regression" if self.spec.series else self.trainer.task

    @cached_property
    def shown(self) -> list[str]:
        usual = scores.FORECAST if self.spec.series else scores.default_scores(self.task)
        declared = self.spec.scores or usual
        return list(dict.fromkeys([self.spec.gate.score or declared[0], *declared]))


def setting(task: Message, emit: Emit, inline: Mapping[str, Any] | None = None, *, copied: bool = True) -> Setting:
    """Return the setting of a task as the supervisor sent it.

    Args:
        copied: whether rows copied out of a dataset are still to be unpacked.
    """
    spec, scratch = decode_model(task["model"]), Path(task["scratch"])
    columns, extract = task["columns"], task.get("extract", "")
    if copied := copied and "copied" in task:
        columns, extract = unpacked(task, spec)
    trainer = make(spec.trainer, scratch, inline)
    check(spec, trainer)
    gate.check(
        spec, getattr(trainer, "task", None)
    )  # known only now, where a trainer is an object or a class of the user's
    return Setting(
        spec,
        trainer,
        columns,
        extract,
        scratch,
        task["time"],
        task["key"],
        datetime.fromisoformat(task["now"]),
        emit,
        inline or {},
        copied,
        task.get("series") or {},
        task.get("recipe", ""),
    )


def train(task: Message, emit: Emit, inline: Mapping[str, Any] | None = None) -> None:
    """Fit every item of a batch and answer with packs of results."""
    shared = setting(task, emit, inline)
    packer = Packer(shared.scratch, emit)
    fit = _fit
    if shared.spec.series:
        from evertrain.executors.series import fit_series as fit
    for item, rows in parts(shared.extract, shared.columns, shared.time, task["items"]):
        emit({"type": "begin", "item": item["id"]})
        meter = Meter()
        result: Message = {"item": item["id"]}
        try:
            result |= fit(shared, item, rows, packer)
        except Insufficient as error:
            result |= {"state": "skipped", "reason": str(error)}
        except MemoryError:
            raise  # this process is no longer to be trusted; its supervisor sees it end
        except Exception as error:  # noqa: BLE001 - the one fence around the user's trainer
            result |= _failure(error)
        packer.add(result | meter.read())
    packer.flush()
    shared.close()


def _failure(error: Exception) -> Message:
    name = getattr(error, "error_class", None) or type(error).__name__
    return {
        "state": "failed",
        "reason": reason_of(error),
        "error_class": name,
        "error": getattr(error, "remote_traceback", "") or traceback.format_exc()[-8000:],
        "retryable": isinstance(error, _RETRYABLE),
    }


# --- features ----------------------------------------------------------------------------------------------------


def built_features(rows: pd.DataFrame, function: str, target: str | None) -> tuple[pd.DataFrame, list[str]]:
    """Return what the user's feature function makes of the rows, with the target beside it where there is one.

    Raises:
        DataError: it answered something else than one row per row.
    """
    own = read.load(function)(rows.drop(columns=[target]) if target in rows.columns else rows)
    if not hasattr(own, "columns") or len(own) != len(rows):
        raise DataError(
            f"{function} answered {type(own).__name__} of {len(own)} rows for {len(rows)}; one row each is needed"
        )
    names = [str(name) for name in own.columns]
    made = own.set_axis(names, axis=1).reset_index(drop=True)
    return (made.assign(**{str(target): rows[target].to_numpy()}) if target in rows.columns else made), names


# --- fitting ----------------------------------------------------------------------------------------------------


@dataclass
class Fitting:
    """What a trainer is told beside the rows; the `Context` of the trainer protocol."""

    target: str
    features: list[str]
    seed: int
    partition: dict[str, Any]
    item: int
    emit: Emit
    allowance: Allowance = field(default_factory=Allowance)
    about: str = ""
    part: int = 0  # of `parts` fits that one item needs, such as those of a backtest
    parts: int = 1
    began: float = field(default_factory=time.monotonic)

    def progress(self, text: str, fraction: float | None = None) -> None:
        if fraction is not None:
            fraction = (self.part + min(fraction, 1.0)) / self.parts
        if self.allowance.take() or fraction == 1:
            text = f"{self.about}{text}"[:200]
            self.emit({"type": "progress", "item": self.item, "text": text, "fraction": fraction})


def seed_of(model: str, key: str, fingerprint: str) -> int:
    """Return the seed of a fit: the same rows of the same partition give the same bits, in whatever run."""
    return int.from_bytes(hashlib.sha256(f"{model}\n{key}\n{fingerprint}".encode()).digest()[:4], "big") >> 1


def _fit(shared: Setting, item: Message, rows: Rows, packer: Packer) -> Message:
    spec = shared.spec
    rows = inside_window(shared, rows)
    if len(rows) < spec.least_rows:
        raise Insufficient(f"Insufficient samples: {len(rows)} < {spec.least_rows}")
    every, (rows, split, data) = len(rows), _choose(shared, item, rows)
    if not split.train.any():
        raise Insufficient(f"Insufficient samples: all {len(rows)} rows are held out")
    own, made, held, features = _sides(shared, rows, split)
    context = _context(shared, item, features)
    train_actual = own[spec.target].to_numpy(copy=True)  # as it was before the trainer got the frame
    # Likewise: what drift is later measured against is every row of this moment, trained on or held out.
    known = _joined(own, made, features) if shared.spec.drift else None
    data = data or _saved(shared, item, own, context)
    fitted = shared.trainer.load(data)
    measured, losses, values, predicted = _measure(shared, item, fitted, held, made, train_actual, split)
    place = packer.put(data)
    signature = {
        "target": spec.target,
        "features": features,
        "task": shared.task,
        "types": {name: shared.columns[name] for name in features if name in shared.columns},
        "function": spec.features if isinstance(spec.features, str) else None,
        "until": split.until,
        "newest": None if rows.times is None else _latest(rows.times),
        "seed": context.seed,
        "trained": int(split.train.sum()),
        "held": int(split.held.sum()),
        "libraries": shared.versions,
    }
    if len(rows) < every:  # the next training is not to take up again by itself what this one dropped
        signature["since"] = item.get("since") or item["kept_since"]
    if rows.times is None and len(rows) <= _REMEMBERED_ROWS and shared.remembers_rows:
        signature["rows"] = packer.put(rows.numbers.astype("<u8").tobytes())
    if known is not None:
        from evertrain.executors.evidence import profile

        times = None if rows.times is None else np.concatenate([rows.times[split.train], rows.times[split.held]])
        signature["profile"] = packer.put(profile(shared, fitted, known, held, predicted, times, context.seed))
    return {
        "state": "fitted",
        **place,
        "scores": values,
        "measured": measured,
        "losses": packer.losses(losses),
        "signature": signature,
        "rows": len(rows),
    }


def _context(shared: Setting, item: Message, features: list[str]) -> Fitting:
    seed = seed_of(shared.spec.name, item["key"], item["input"])
    return Fitting(shared.spec.target, features, seed, decode(item["key"]), item["id"], shared.emit)


def _choose(shared: Setting, item: Message, rows: Rows) -> tuple[Rows, holdout.Split, bytes | None]:
    """Return the rows to train on and their split; with a fit of them, where it was made to choose.

    Where the champion's losses have risen, rows before the rise may teach what is no longer true, or what will be true
    again. So two are fitted, on all rows and on those since, and the newest rows, which neither has seen, decide. The old
    rows are dropped only if that is better beyond luck: what is newest need not be what comes next. Later trainings of
    a champion that did without them choose likewise, whatever they are there for.
    """
    change = item.get("since") or item.get("kept_since")
    if not change or rows.times is None or item.get("fitted"):
        return rows, _split(shared.spec, rows), None
    try:
        young = _since(rows, datetime.fromisoformat(change), shared.spec.least_rows)
    except Insufficient:
        if item.get("since"):
            raise
        return rows, _split(shared.spec, rows), None  # rows were removed since; nobody waits for others
    split = _split(shared.spec, young)
    if split.until is None or not split.train.any() or not split.held.any():
        return young, split, None
    gap = shared.spec.gap.total_seconds()
    whole = holdout.Split(~(rows.times > split.until), rows.times > split.until + gap, split.until)
    if not can_predict(shared.trainer):
        return rows, whole, None
    tried = []
    for some, own_split in ((rows, whole), (young, split)):
        own, made, held, features = _sides(shared, some, own_split)
        train_actual = own[shared.spec.target].to_numpy(copy=True)
        alone = {**item, "champion": None}
        data = _saved(shared, alone, own, _context(shared, item, features))
        _, losses, _, _ = _measure(shared, alone, shared.trainer.load(data), held, made, train_actual, own_split)
        tried.append((some, own_split, data, losses.get("challenger")))
    (_, _, _, of_all), (_, _, _, of_young) = tried
    if of_all is None or of_young is None:
        return tried[of_all is None][:3]
    gain = of_all - of_young
    luck = _BEYOND_LUCK * float(np.std(gain)) / math.sqrt(gain.size)
    return tried[bool(float(np.mean(gain)) > luck)][:3]


def _latest(times: Any) -> float | None:
    known = times[~np.isnan(times)]
    return float(known.max()) if known.size else None


def _since(rows: Rows, change: datetime, least: int) -> Rows:
    """Return the rows since the champion's losses changed.

    Raises:
        Insufficient: they are too few; the answers that were logged may be ahead of the source.
    """
    young = rows.only(~(np.asarray(rows.times) < change.timestamp()))
    if len(young) < least:
        raise Insufficient(f"Insufficient samples since the change of {change:%Y-%m-%d}: {len(young)} < {least}")
    return young


def _split(spec: ModelSpec, rows: Rows) -> holdout.Split:
    if rows.times is None:
        return holdout.by_identity(rows.sides, spec.holdout)
    return holdout.by_time(rows.times, spec.holdout, spec.gap.total_seconds())


def _sides(
    shared: Setting, rows: Rows, split: holdout.Split
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, list[str]]:
    """Return the training rows, the held-out rows with the features of today, and the same as they were read."""
    spec = shared.spec
    if isinstance(spec.features, str):
        # All rows at once: a feature may be made of the rows before.
        built, features = built_features(rows.frame(), spec.features, spec.target)
        own, made = (built[mask].reset_index(drop=True) for mask in (split.train, split.held))
        held = rows.frame(split.held)
    else:
        features = shared.features
        own, held = rows.frame(split.train), rows.frame(split.held)
        made = held.copy()  # a trainer may change what it is given, and the champion gets the same rows
    if not features:
        raise DataError(f"{spec.name} has no features: every column is target, key, time or partition")
    if missing := [name for name in features if name not in own.columns]:
        raise DataError(
            f"feature {missing[0]!r} is missing; there are {', '.join(map(str, own.columns))}", column=missing[0]
        )
    return own, made, held, features


def _joined(own: pd.DataFrame, made: pd.DataFrame, features: Sequence[str]) -> pd.DataFrame:
    import pandas as pd

    return pd.concat([own[list(features)], made[list(features)]], ignore_index=True)


def inside_window(shared: Setting, rows: Rows) -> Rows:
    """Return the rows that are young enough to be trained on."""
    if shared.spec.window is None:
        return rows
    if rows.times is None:
        raise ConfigError("window", shared.spec.window, "a window only where the source declares time=")
    since = (shared.now - shared.spec.window).timestamp()
    return rows.only(~(rows.times < since))


def _saved(shared: Setting, item: Message, own: pd.DataFrame, context: Fitting) -> bytes:
    """Return the fitted model as bytes, or those of a fit that only has to be judged again."""
    if item.get("fitted"):
        return champion_bytes(item["fitted"])
    trainer = shared.trainer
    if not item.get("champion") and len(own) > 50 * _DRY_ROWS:
        # A model that cannot be saved is found here, not at the end of an hour's fit.
        try:
            dry = trainer.fit(own.sample(_DRY_ROWS, random_state=0), context)
        except Exception:  # noqa: BLE001, S110 - twenty rows may be too few; the real fit will tell
            pass
        else:
            trainer.save(dry)
    data = trainer.save(trainer.fit(own, context))
    if not isinstance(data, bytes):
        raise TrainingError(f"{type(trainer).__name__}.save answered {type(data).__name__}; bytes are needed")
    return data


def champion_bytes(place: Message) -> bytes:
    """Return the checked bytes of a stored fit."""
    return read_checked(Path(place["path"]), Place(place["artifact"], place["start"], place["size"], place["digest"]))


# --- measuring --------------------------------------------------------------------------------------------------


def _measure(
    shared: Setting,
    item: Message,
    fitted: Any,
    held: pd.DataFrame,
    made: pd.DataFrame,
    train_actual: Any,
    split: holdout.Split,
) -> tuple[Message, dict[str, Any], Message, Any]:
    """Return what the gate needs, the losses of each row, all shown scores, and the predictions; None for none."""
    measured: Message = {"score": shared.score, "rows": len(held), "has_champion": bool(item.get("champion"))}
    losses: dict[str, Any] = {}
    values: Message = {}
    if not can_predict(shared.trainer):
        measured["incomparable"] = "its command declares no predict"
        measured["rows"] = 0
        return measured, losses, values, None
    if not len(held):
        return measured, losses, values, None
    actual = held[shared.spec.target].to_numpy(copy=True)
    own = predictions(shared.trainer, fitted, made, shared.shown)
    if problem := own.get("problem"):
        return {**measured, "problem": problem}, losses, values, None
    scale = scores.naive_error(train_actual) if "mase" in shared.shown else None
    values["challenger"] = _all_scores(shared.shown, actual, own, scale)
    measured["challenger"] = values["challenger"][shared.score]
    losses["challenger"] = _losses(shared.score, actual, own)
    guess = _guess(shared.score, train_actual, len(held))
    measured["baseline"] = _finite(scores.compute(shared.score, actual, scale=scale, **guess))
    losses["baseline"] = _losses(shared.score, actual, guess)
    if champion := item.get("champion"):
        try:
            old = _champion(shared, champion, held, split)
        except (DataError, ArtifactError) as error:
            measured["incomparable"] = str(error)
        except Exception as error:  # noqa: BLE001 - a champion that fails on these rows cannot be compared with
            measured["incomparable"] = f"the champion cannot be asked: {type(error).__name__}: {error}"
        else:
            values["champion"] = _all_scores(shared.shown, actual, old, scale)
            measured["champion"] = values["champion"][shared.score]
            losses["champion"] = _losses(shared.score, actual, old)
    return measured, losses, values, own["predicted"]


def _champion(shared: Setting, champion: Message, held: pd.DataFrame, split: holdout.Split) -> Message:
    signature = champion["signature"]
    if signature["target"] != shared.spec.target:
        raise DataError(f"the champion predicts {signature['target']}")
    if split.until is not None and signature["until"] is not None and signature["until"] > split.until:
        raise DataError("the champion was trained on newer rows than are held out")
    trainer = shared.trainer_of(champion["trainer"])
    if not can_predict(trainer):
        raise DataError("its command declares no predict")
    found = predictions(
        trainer, trainer.load(champion_bytes(champion)), champion_features(signature, held), shared.shown
    )
    if problem := found.get("problem"):
        raise DataError(f"the champion cannot be asked: {problem}")
    return found


def champion_features(signature: Message, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows as an older fit wants them.

    Raises:
        DataError: a feature of that fit is no longer among the columns.
    """
    if signature["function"]:
        rows, _ = built_features(rows, signature["function"], signature["target"])
    if missing := [name for name in signature["features"] if name not in rows.columns]:
        raise DataError(f"the champion needs {missing[0]!r}, which is gone", column=missing[0])
    return rows


def predictions(trainer: Trainer, fitted: Any, rows: pd.DataFrame, shown: Sequence[str]) -> Message:
    """Return predictions, with probabilities where a score needs them, or the problem with them."""
    values = np.asarray(trainer.predict(fitted, rows)).reshape(-1)
    if len(values) != len(rows):
        return {"problem": f"it answered {len(values)} predictions for {len(rows)} rows"}
    if values.dtype.kind == "f" and (bad := int((~np.isfinite(values)).sum())):
        return {"problem": f"{bad} of {len(values)} predictions are no numbers"}
    found: Message = {"predicted": values}
    if any(scores.get(name).loss is scores.Loss.SURPRISE for name in shown):
        ask = getattr(trainer, "predict_proba", None)
        if (answer := ask(fitted, rows) if ask else None) is not None:
            found |= {"classes": answer[0], "probabilities": answer[1]}
    return found


def _all_scores(names: Sequence[str], actual: Any, found: Message, scale: float | None) -> dict[str, float | None]:
    return {name: _finite(scores.compute(name, actual, scale=scale, **found)) for name in names}


def _losses(name: str, actual: Any, found: Message) -> Any:
    return scores.losses(name, actual, **found)


def _guess(name: str, train_actual: Any, rows: int) -> Message:
    """Return what guessing would answer: the same for every row, learnt from the training rows."""
    value = scores.baseline(name, train_actual)
    predicted = np.full(rows, value, dtype=train_actual.dtype if train_actual.dtype.kind in "OUS" else None)
    if scores.get(name).loss is not scores.Loss.SURPRISE:
        return {"predicted": predicted}
    shares = scores.class_shares(train_actual)
    return {
        "predicted": predicted,
        "classes": list(shares),
        "probabilities": np.tile(np.array(list(shares.values())), (rows, 1)),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _versions(libraries: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for name in libraries:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found
