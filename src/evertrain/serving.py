"""Serving: a predictor that always answers with the champion, and swaps to a new one without a gap.

It looks at one number in the store, at most a few times a second; only when that number moved does it look up which
fit is champion. A fit whose bytes are damaged is refused, the previous good one answers, and the log says so. When
the store is away it goes on predicting with what it has.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from evertrain import registry
from evertrain.artifacts import Artifacts
from evertrain.errors import (
    ArtifactError,
    DataError,
    EvertrainError,
    NoModelYet,
    NotFound,
    StoreError,
    TrainingError,
    reason_of,
)
from evertrain.observations import Answered, Recorder
from evertrain.observations.rows import drawn, id_of
from evertrain.partitions import WHOLE, KeyText, decode, encode, fallbacks, label
from evertrain.sources import read
from evertrain.specs import Inline, ModelSpec, Trainer, decode_trainer
from evertrain.store import champions, demand, models
from evertrain.store.connect import Store, Tx
from evertrain.trainers.make import make

if TYPE_CHECKING:
    import pandas as pd

_LOOK_S = 0.25
_KEPT = 256


Rows: TypeAlias = "pd.DataFrame | Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]]"


@dataclass(frozen=True, eq=False)
class Prediction:
    """Predictions with what gave them.

    Attributes:
        values: one per row, in order.
        versions: version that answered each row.
        answered_by: name of the partition or rollup that answered each row; another than the row's own where that
            has no model.
        fallback: whether any row was answered by a rollup in place of its own partition.
        ids: by which actuals find the rows, where the predictor observes itself or the caller named them.
    """

    values: NDArray[Any]
    versions: list[str]
    answered_by: list[str]
    fallback: bool
    ids: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class _Loaded:
    fit: registry.Fit
    trainer: Trainer
    model: Any


class Predictor:
    """Answers with the champions of one model. Thread-safe; every process has its own.

    Args:
        kept: how many fitted models stay in memory.
        recorder: writes what is answered to the log of observations.
    """

    def __init__(
        self,
        store: Store,
        artifacts: Artifacts,
        model: str,
        inline: Mapping[str, Any] | None = None,
        kept: int = _KEPT,
        recorder: Recorder | None = None,
    ) -> None:
        self._recorder = recorder
        self.store, self.artifacts, self.model = store, artifacts, model
        self.inline = dict(inline or {})
        self.kept = kept
        self._lock = threading.RLock()
        self._loaded: OrderedDict[int, _Loaded] = OrderedDict()
        self._champions: dict[KeyText, int | None] = {}
        self._epoch = -1
        self._looked = -1e9
        self._scratch = Path(tempfile.gettempdir())
        self._spec: ModelSpec | None = None
        self._id = 0

    # --- answering --------------------------------------------------------------------------------------------

    def predict(self, rows: Rows, partition: Mapping[str, Any] | None = None) -> NDArray[Any]:
        """Return one prediction per row.

        Args:
            rows: a data frame, columns by name, or a list of one mapping per row; features must be there, other columns
                are ignored.
            partition: whose model answers; without it each row's partition columns decide.

        Raises:
            NoModelYet: nothing was trained yet; says how far the first training is.
            DataError: a feature is missing or holds something else than the model was trained on.
        """
        return self.answer(rows, partition).values

    def answer(
        self, rows: Rows, partition: Mapping[str, Any] | None = None, *, ids: Sequence[Any] | None = None
    ) -> Prediction:
        """Return predictions with the version and the partition that answered each row.

        Args:
            ids: names of the rows, by which their actuals will find them; where the predictor observes itself they
                are drawn otherwise.
        """
        frame = _framed(rows)
        names = tuple(id_of(one, place) for place, one in enumerate(ids, 1)) if ids is not None else ()
        if ids is not None and len(names) != len(frame):
            raise DataError(f"there are {len(names)} ids for {len(frame)} rows")
        spec = self._current()
        if spec.series:
            raise DataError(f"{spec.name} is a forecasting model: ask `project.forecast({spec.name!r})`")
        if not len(frame):
            return Prediction(np.empty(0), [], [], fallback=False)
        groups = self._groups(spec, frame, partition)
        parts: list[tuple[Any, NDArray[Any], _Loaded, str]] = []
        fallback = False
        for key, places in groups.items():
            loaded, answering = self._loaded_for(spec, key)
            fallback |= answering != key
            name = label(decode(answering), spec.dimensions, spec.overall) if spec.partition_by else spec.name
            parts.append((places, self._ask(loaded, frame.iloc[places].reset_index(drop=True)), loaded, name))
        values = np.empty(
            len(frame), dtype=np.result_type(*(part[1].dtype for part in parts)) if _numeric(parts) else object
        )
        versions, answered_by = [""] * len(frame), [""] * len(frame)
        for places, found, loaded, name in parts:
            values[places] = found
            for place in places:
                versions[place], answered_by[place] = loaded.fit.version, name
        if self._recorder is not None:
            now = self.store.clock.now()
            names = names or tuple(drawn(now, len(frame)))
            self._recorder.add(_answered(frame, values, groups, versions, names, now, [part[2] for part in parts]))
        return Prediction(values, versions, answered_by, fallback, names)

    @property
    def unlogged(self) -> int:
        """How many answered rows could not be written to the log of observations."""
        return self._recorder.unlogged if self._recorder is not None else 0

    def close(self) -> None:
        """Write what still waits for the log of observations; the predictor goes on answering, unobserved."""
        if self._recorder is not None:
            self._recorder.close()

    @property
    def version(self) -> str:
        """The version that answers for the whole model now (of a partitioned one: its widest rollup's).

        Raises:
            NoModelYet: nothing was trained yet.
        """
        spec = self._current()
        key = encode({}, spec.dimensions)
        return self._loaded_for(spec, key)[0].fit.version

    def fitted(self, partition: Mapping[str, Any] | None = None) -> Any:
        """Return the champion itself, as its trainer loaded it: for what only your own class can do with it.

        Where a partition has none, that of its nearest rollup; where the bytes are damaged, the previous good one.

        Raises:
            NoModelYet: nothing was trained yet, or nothing good is left.
        """
        spec = self._current()
        try:
            key = encode(partition or {}, spec.dimensions)
        except ValueError as error:
            raise DataError(f"{spec.name}: {error}") from None
        return self._loaded_for(spec, key)[0].model

    def _groups(
        self, spec: ModelSpec, frame: pd.DataFrame, partition: Mapping[str, Any] | None
    ) -> dict[KeyText, list[int]]:
        everything = list(range(len(frame)))
        if partition is not None or not spec.partition_by:
            try:
                return {encode(partition or {}, spec.dimensions): everything}
            except ValueError as error:
                raise DataError(f"{spec.name}: {error}") from None
        if missing := [name for name in spec.dimensions if name not in frame.columns]:
            raise DataError(
                f"column {missing[0]!r} tells which partition of {spec.name} answers; add it, or name partition=",
                column=missing[0],
            )
        groups: dict[KeyText, list[int]] = {}
        for place, values in enumerate(zip(*(frame[name].tolist() for name in spec.dimensions), strict=True)):
            try:
                key = encode(dict(zip(spec.dimensions, values, strict=True)), spec.dimensions)
            except ValueError as error:
                raise DataError(f"{spec.name}, row {place + 1}: {error}") from None
            groups.setdefault(key, []).append(place)
        return groups

    @staticmethod
    def _ask(loaded: _Loaded, frame: pd.DataFrame) -> NDArray[Any]:
        signature = loaded.fit.signature
        if signature["function"]:
            frame = read.load(signature["function"])(frame)
        if missing := [name for name in signature["features"] if name not in frame.columns]:
            raise DataError(
                f"feature {missing[0]!r} is missing; {loaded.fit.version} needs {', '.join(signature['features'])}",
                column=missing[0],
            )
        for name, kind in signature["types"].items():
            if name in frame.columns and kind in ("number", "integer") and frame[name].dtype == object:
                raise DataError(
                    f"feature {name!r} holds text; {loaded.fit.version} was trained on numbers", column=name
                )
        try:
            values = np.asarray(loaded.trainer.predict(loaded.model, frame)).reshape(-1)
        except EvertrainError:
            raise
        except Exception as error:
            # What was trained on other rows and works there meets these: the rows are told first.
            reason = (str(error).splitlines() or [""])[0]
            raise DataError(
                f"{loaded.fit.version} cannot predict these rows: {type(error).__name__}: {reason}"
            ) from error
        if len(values) != len(frame):
            raise TrainingError(f"{loaded.fit.version} answered {len(values)} predictions for {len(frame)} rows")
        return values

    # --- following the champion -------------------------------------------------------------------------------

    def _current(self) -> ModelSpec:
        """Look whether a champion changed, at most every quarter second, and return the declaration."""
        if time.monotonic() - self._looked < _LOOK_S and self._spec is not None:
            return self._spec
        with self._lock:
            if time.monotonic() - self._looked < _LOOK_S and self._spec is not None:
                return self._spec
            try:
                with self.store.read() as tx:
                    epoch = tx.counter("epoch")
                    if epoch != self._epoch or self._spec is None:
                        found = models.by_name(tx, self.model)
                        changed = [] if self._epoch < 0 else champions.moved(tx, found.id, self._epoch)
                        for key in changed:
                            self._champions.pop(key, None)
                        self._champions = {key: fit for key, fit in self._champions.items() if fit is not None}
                        self._spec, self._id, self._epoch = found.spec, found.id, epoch
            except StoreError:
                if self._spec is None:
                    raise
                # The store is away: what is in memory goes on answering.
            self._looked = time.monotonic()
            return self._spec

    def _loaded_for(self, spec: ModelSpec, key: KeyText) -> tuple[_Loaded, KeyText]:
        """Return the fit that answers for a key: its own champion, or the nearest rollup's."""
        for candidate in (key, *fallbacks(decode(key), spec.dimensions, spec.levels)):
            with self._lock:
                loaded = self._champion(candidate)
            if loaded is not None:
                return loaded, candidate
        raise NoModelYet(self._waiting(spec, key))

    def _champion(self, key: KeyText) -> _Loaded | None:
        if key in self._champions:
            number = self._champions[key]
            if number is None:
                return None
            if number in self._loaded:
                self._loaded.move_to_end(number)
                return self._loaded[number]
        with self.store.read() as tx:
            fit = registry.champion(tx, self._id, key)
        while fit is not None:
            if fit.id in self._loaded:
                break
            try:
                self._keep(self._load(fit))
                break
            except ArtifactError as error:
                fit = self._refuse(fit, error)
        self._champions[key] = fit.id if fit else None
        return self._loaded[fit.id] if fit else None

    def _load(self, fit: registry.Fit) -> _Loaded:
        spec = decode_trainer(fit.trainer)
        if isinstance(spec, Inline) and spec.name not in self.inline:
            raise NotFound(f"{fit.version} lives in the process that declared its trainer; ask there")
        data = self.artifacts.read(fit.place)
        trainer = make(spec, self._scratch, self.inline)
        try:
            return _Loaded(fit, trainer, trainer.load(data))
        except Exception as error:
            # The bytes are those that were written, so they are not damaged: the libraries here are others.
            reason = reason_of(error)
            raise TrainingError(f"{fit.version} cannot be loaded here: {reason}") from error

    def _keep(self, loaded: _Loaded) -> None:
        self._loaded[loaded.fit.id] = loaded
        while len(self._loaded) > self.kept:
            self._loaded.popitem(last=False)

    def _refuse(self, fit: registry.Fit, error: EvertrainError) -> registry.Fit | None:
        """Condemn a fit that cannot be loaded and return the one that serves in its place."""
        try:
            with self.store.write() as tx:
                return registry.condemn(tx, self.model, fit, str(error))
        except StoreError:
            with self.store.read() as tx:
                return registry.previous(tx, fit.partition_id, fit.id)

    def _waiting(self, spec: ModelSpec, key: KeyText) -> str:
        with self.store.read() as tx:
            return registry.no_model_yet(tx, self._id, spec, key)


def _framed(rows: Rows) -> pd.DataFrame:
    import pandas as pd

    try:
        frame = (
            rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(rows if isinstance(rows, Mapping) else list(rows))
        )
    except (TypeError, ValueError) as error:
        raise DataError(
            f"the rows are {type(rows).__name__} ({error}); give a data frame, columns by name, or a list of one mapping"
            " per row"
        ) from None
    return frame.reset_index(drop=True)


def _answered(
    frame: pd.DataFrame,
    values: NDArray[Any],
    groups: Mapping[KeyText, list[int]],
    versions: list[str],
    ids: tuple[str, ...],
    at: datetime,
    loaded: Sequence[_Loaded],
) -> Answered:
    """Return what is worth keeping of an answer: the features, not what else a row may hold."""
    names = dict.fromkeys(name for one in loaded for name in one.fit.signature["features"])
    made = any(one.fit.signature["function"] for one in loaded)
    keys = [WHOLE] * len(frame)
    for key, places in groups.items():
        for place in places:
            keys[place] = key
    return Answered(frame, None if made else tuple(names), values, keys, versions, ids, at)


def _numeric(parts: Sequence[tuple[Any, NDArray[Any], _Loaded, str]]) -> bool:
    return bool(parts) and all(part[1].dtype.kind in "biuf" for part in parts)


def served_at(tx: Tx, model_id: int, key: KeyText, at: datetime) -> str | None:
    """Return the version that served a partition at a moment, and why, in words."""
    place = demand.partition(tx, model_id, key)
    row = registry.served(tx, place.id, at) if place else None
    return f"{row.major}.{row.minor}.{row.patch} ({row.why})" if row else None
