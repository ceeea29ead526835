"""Fitting, in a worker: rows to a saved model that has been loaded again and measured beside the champion.

Nothing here knows the store. What is answered are files in the scratch folder and plain messages.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
import os
import resource
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from evertrain import holdout, scores
from evertrain.artifacts import Place, read_checked
from evertrain.errors import ArtifactError, ConfigError, DataError, EvertrainError, Retryable, TrainingError
from evertrain.partitions import KeyText, decode
from evertrain.sources import read
from evertrain.sources.extract import ROW, SIDE, rows_of
from evertrain.sources.table import ColumnType, Schema
from evertrain.specs import ModelSpec, ScoreDrop, Trainer, decode_model, decode_trainer
from evertrain.trainers.make import make

if TYPE_CHECKING:
    import pandas as pd

Message = dict[str, Any]
Emit = Callable[[Message], None]

SMALL = 256 * 1024  # larger models get a file of their own
_PACK_BYTES = 8 << 20
_REMEMBERED_ROWS = 200_000
_DRY_ROWS = 20
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
    trainers: dict[str, Trainer] = field(default_factory=dict)

    def trainer_of(self, encoded: Mapping[str, Any]) -> Trainer:
        """Return the trainer of an older fit, which may be another than today's."""
        name = repr(sorted(encoded.items(), key=str))
        if name not in self.trainers:
            self.trainers[name] = make(decode_trainer(encoded), self.scratch, self.inline)
        return self.trainers[name]

    @property
    def score(self) -> str:
        return self.spec.gate.score or (self.spec.scores or scores.default_scores(self.task))[0]

    @property
    def task(self) -> Any:
        return self.trainer.task

    @property
    def shown(self) -> list[str]:
        return list(dict.fromkeys([self.score, *(self.spec.scores or scores.default_scores(self.task))]))


def setting(task: Message, emit: Emit, inline: Mapping[str, Any] | None = None) -> Setting:
    """Return the setting of a task as the supervisor sent it."""
    spec, scratch = decode_model(task["model"]), Path(task["scratch"])
    return Setting(
        spec,
        make(spec.trainer, scratch, inline),
        task["columns"],
        task["extract"],
        scratch,
        task["time"],
        task["key"],
        datetime.fromisoformat(task["now"]),
        emit,
        inline or {},
    )


def train(task: Message, emit: Emit, inline: Mapping[str, Any] | None = None) -> None:
    """Fit every item of a batch and answer with packs of results."""
    shared = setting(task, emit, inline)
    packer = Packer(shared.scratch, emit)
    for item, frame in parts(shared, task["items"]):
        emit({"type": "begin", "item": item["id"]})
        meter = Meter()
        result: Message = {"item": item["id"]}
        try:
            result |= _fit(shared, item, frame, packer)
        except Insufficient as error:
            result |= {"state": "skipped", "reason": str(error)}
        except Exception as error:  # noqa: BLE001 - the one fence around the user's trainer
            result |= _failure(error)
        packer.add(result | meter.read())
    packer.flush()


def _failure(error: Exception) -> Message:
    known = isinstance(error, EvertrainError)
    name = getattr(error, "error_class", None) or type(error).__name__
    return {
        "state": "failed",
        "reason": str(error) if known else f"{type(error).__name__}: {error}",
        "error_class": name,
        "error": getattr(error, "remote_traceback", "") or traceback.format_exc()[-8000:],
        "retryable": isinstance(error, _RETRYABLE),
    }


# --- rows -------------------------------------------------------------------------------------------------------


def parts(shared: Setting, items: Sequence[Message]) -> Iterator[tuple[Message, pl.DataFrame]]:
    """Return each item with its rows; neighbours in the extract are read together."""
    scan = pl.scan_ipc(shared.extract)
    group: list[Message] = []
    for item in items:
        follows = group and item["start"] is not None and item["start"] == group[-1]["start"] + group[-1]["rows"]
        if group and not follows:
            yield from _group(scan, group)
            group = []
        if item["start"] is None:
            yield item, rows_of(scan.collect(), KeyText(item["key"]), None, None)
        else:
            group.append(item)
    yield from _group(scan, group)


def _group(scan: pl.LazyFrame, group: Sequence[Message]) -> Iterator[tuple[Message, pl.DataFrame]]:
    if not group:
        return
    first, last = group[0], group[-1]
    frame = scan.slice(first["start"], last["start"] + last["rows"] - first["start"]).collect()
    for item in group:
        yield item, frame.slice(item["start"] - first["start"], item["rows"])


def to_pandas(frame: pl.DataFrame, columns: Schema) -> pd.DataFrame:
    """Return the rows as trainers get them: numbers with NaN for missing, texts as objects, instants in UTC without
    a zone, as pandas and scikit-learn expect them.
    """
    import pandas as pd

    found: dict[str, Any] = {}
    for name, kind in columns.items():
        series = frame[name]
        if kind == ColumnType.INSTANT:
            found[name] = series.dt.replace_time_zone(None).cast(pl.Datetime("ns")).to_numpy()
        elif kind == ColumnType.DATE:
            found[name] = series.cast(pl.Datetime("ns")).to_numpy()
        elif kind == ColumnType.TEXT or (kind == ColumnType.BOOLEAN and series.null_count()):
            found[name] = np.array(series.to_list(), dtype=object)
        else:
            found[name] = series.to_numpy()
    return pd.DataFrame(found, copy=False)


def times_of(frame: pl.DataFrame, time_column: str | None) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    """Return the rows' time as seconds (or the plain number, where time is a number); NaN where missing."""
    if time_column is None:
        return None
    series = frame[time_column]
    if series.dtype.is_temporal():
        found = series.cast(pl.Datetime("us")).dt.replace_time_zone(None).cast(pl.Int64).cast(pl.Float64) / 1e6
    elif series.dtype.is_numeric():
        found = series.cast(pl.Float64)
    else:
        raise DataError(f"the time column {time_column!r} holds text; dates must read YYYY-MM-DD", column=time_column)
    return np.asarray(found.fill_null(math.nan).to_numpy(), dtype=np.float64)


def features_of(shared: Setting, rows: pd.DataFrame, spec: ModelSpec) -> tuple[pd.DataFrame, list[str]]:
    """Return the rows with the columns a fit uses, and which of them are features."""
    if isinstance(spec.features, str):
        return built_features(rows, spec.features, spec.target)
    if spec.features is not None:
        return rows, list(spec.features)
    left_out = {spec.target, *spec.dimensions, *shared.key, *([shared.time] if shared.time else [])}
    return rows, [name for name in shared.columns if name not in left_out]


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
    last: float = 0.0

    def progress(self, text: str, fraction: float | None = None) -> None:
        # At most two a second: a log of every batch of an LSTM would be read by nobody and stored for ever.
        if time.monotonic() - self.last >= 0.5 or fraction == 1:
            self.last = time.monotonic()
            self.emit({"type": "progress", "item": self.item, "text": str(text)[:200], "fraction": fraction})


def seed_of(model: str, key: str, fingerprint: str) -> int:
    """Return the seed of a fit: the same rows of the same partition give the same bits, in whatever run."""
    return int.from_bytes(hashlib.sha256(f"{model}\n{key}\n{fingerprint}".encode()).digest()[:4], "big") >> 1


def _fit(shared: Setting, item: Message, frame: pl.DataFrame, packer: Packer) -> Message:
    spec = shared.spec
    frame = _inside_window(shared, frame)
    if frame.height < spec.min_samples:
        raise Insufficient(f"Insufficient samples: {frame.height} < {spec.min_samples}")
    times = times_of(frame, shared.time)
    sides = frame[SIDE].to_numpy()
    split = (
        holdout.by_time(times, spec.holdout, spec.gap.total_seconds())
        if times is not None
        else (holdout.by_identity(sides, spec.holdout))
    )
    rows = to_pandas(frame, shared.columns)
    made, features = features_of(shared, rows, spec)
    if not features:
        raise DataError(f"{spec.name} has no features: every column is target, key, time or partition")
    if missing := [name for name in features if name not in made.columns]:
        raise DataError(
            f"feature {missing[0]!r} is missing; there are {', '.join(map(str, made.columns))}", column=missing[0]
        )
    if not split.train.any():
        raise Insufficient(f"Insufficient samples: all {frame.height} rows are held out")
    context = Fitting(
        spec.target,
        features,
        seed_of(spec.name, item["key"], item["input"]),
        decode(item["key"]),
        item["id"],
        shared.emit,
    )
    own = made if split.train.all() else made[split.train].reset_index(drop=True)
    held = rows[split.held].reset_index(drop=True)
    data = _saved(shared, item, own, context)
    fitted = shared.trainer.load(data)
    actual = held[spec.target].to_numpy()
    train_actual = own[spec.target].to_numpy()
    measured, losses, values = _measure(
        shared, item, fitted, held, made[split.held].reset_index(drop=True), actual, train_actual, split
    )
    place = packer.put(data)
    signature = {
        "target": spec.target,
        "features": features,
        "task": shared.task,
        "types": {name: shared.columns[name] for name in features if name in shared.columns},
        "function": spec.features if isinstance(spec.features, str) else None,
        "until": split.until,
        "seed": context.seed,
        "trained": int(split.train.sum()),
        "held": int(split.held.sum()),
        "libraries": _versions(tuple(shared.trainer.libraries)),
    }
    if times is None and frame.height <= _REMEMBERED_ROWS and any(isinstance(one, ScoreDrop) for one in spec.triggers):
        signature["rows"] = packer.put(frame[ROW].cast(pl.UInt64).to_numpy().astype("<u8").tobytes())
    return {
        "state": "fitted",
        **place,
        "scores": values,
        "measured": measured,
        "losses": packer.losses(losses),
        "signature": signature,
        "rows": frame.height,
    }


def _inside_window(shared: Setting, frame: pl.DataFrame) -> pl.DataFrame:
    if shared.spec.window is None:
        return frame
    times = times_of(frame, shared.time)
    if times is None:
        raise ConfigError("window", shared.spec.window, "a window only where the source declares time=")
    since = (shared.now - shared.spec.window).timestamp()
    return frame.filter(pl.Series(~(times < since)))


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
    actual: Any,
    train_actual: Any,
    split: holdout.Split,
) -> tuple[Message, dict[str, Any], Message]:
    """Return what the gate needs, the losses of each row, and all shown scores."""
    measured: Message = {"score": shared.score, "rows": len(held), "has_champion": bool(item.get("champion"))}
    losses: dict[str, Any] = {}
    values: Message = {}
    if getattr(shared.trainer, "can_predict", True) is False:
        measured["incomparable"] = "its command declares no predict"
        measured["rows"] = 0
        return measured, losses, values
    if not len(held):
        return measured, losses, values
    own = predictions(shared.trainer, fitted, made, shared.shown)
    if problem := own.get("problem"):
        return {**measured, "problem": problem}, losses, values
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
    return measured, losses, values


def _champion(shared: Setting, champion: Message, held: pd.DataFrame, split: holdout.Split) -> Message:
    signature = champion["signature"]
    if signature["target"] != shared.spec.target:
        raise DataError(f"the champion predicts {signature['target']}")
    if split.until is not None and signature["until"] is not None and signature["until"] > split.until:
        raise DataError("the champion was trained on newer rows than are held out")
    trainer = shared.trainer_of(champion["trainer"])
    if getattr(trainer, "can_predict", True) is False:
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


# --- what goes back ---------------------------------------------------------------------------------------------


class Packer:
    """Collects results and their bytes, and sends them off in packs: at least every second, and at every large model."""

    def __init__(self, scratch: Path, emit: Emit, every_s: float = 1.0) -> None:
        self.scratch, self.emit, self.every_s = scratch, emit, every_s
        self.number = 0
        self._begin()

    def _begin(self) -> None:
        self.number += 1
        self.since = time.monotonic()
        self.data = bytearray()
        self.loss_rows: list[Any] = []
        self.loss_count = 0
        self.results: list[Message] = []

    def put(self, data: bytes) -> Message:
        """Add bytes and return their place in the pack."""
        start = len(self.data)
        self.data += data
        return {"start": start, "size": len(data), "digest": hashlib.sha256(data).hexdigest()}

    def losses(self, losses: Mapping[str, Any]) -> dict[str, list[int]]:
        """Add per-row losses and return their places in the pack's file of losses."""
        places = {}
        for name, values in losses.items():
            places[name] = [self.loss_count, len(values)]
            self.loss_rows.append(np.asarray(values, dtype="<f8"))
            self.loss_count += len(values)
        return places

    def add(self, result: Message) -> None:
        self.results.append(result)
        if (
            len(self.data) >= _PACK_BYTES
            or result.get("size", 0) >= SMALL
            or time.monotonic() - self.since >= self.every_s
        ):
            self.flush()

    def flush(self) -> None:
        """Send what is there as one pack."""
        if not self.results:
            return
        name = f"pack-{os.getpid()}-{self.number}-{time.monotonic_ns()}"
        path, losses = self.scratch / name, self.scratch / f"{name}.losses"
        message: Message = {"type": "pack", "results": self.results, "path": None, "losses": None}
        if self.data:
            _write(path, self.data)
            message["path"] = str(path)
        if self.loss_rows:
            _write(losses, np.concatenate(self.loss_rows).tobytes())
            message["losses"] = str(losses)
        self.emit(message)
        self._begin()


def _write(path: Path, data: bytes | bytearray) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)


class Meter:
    """Wall and CPU seconds of a piece of work, and the peak of this process's memory meanwhile."""

    def __init__(self) -> None:
        _reset_peak()
        self.wall, self.cpu = time.perf_counter(), _cpu()

    def read(self) -> Message:
        return {
            "seconds": round(time.perf_counter() - self.wall, 6),
            "cpu_s": round(_cpu() - self.cpu, 6),
            "peak_mb": _peak_mb(),
        }


def _cpu() -> float:
    found = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        found += usage.ru_utime + usage.ru_stime
    return found


def _reset_peak() -> None:
    try:
        with open("/proc/self/clear_refs", "w") as file:  # noqa: PTH123 - the fastest way, once per item
            file.write("5")
    except OSError:
        return  # then the peak is that of the process so far


def _peak_mb() -> float | None:
    try:
        with open("/proc/self/status") as file:  # noqa: PTH123 - the fastest way, once per item
            for line in file:
                if line.startswith("VmHWM"):
                    return round(int(line.split()[1]) / 1024, 1)
    except OSError:
        pass
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
