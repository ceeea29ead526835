"""Forecasts of rows that no partition holds: a temporary fit for one question, kept for the next one who asks it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from evertrain.clock import from_text, to_text
from evertrain.control.opened import Opened
from evertrain.errors import ConfigError, Conflict, DataError, EvertrainError, NoModelYet, NotFound, TrainingError
from evertrain.events import Kind
from evertrain.executors.child import work
from evertrain.executors.jobs import Job, Lost, Message
from evertrain.forecasting import NoData, parse_freq, regular
from evertrain.forecasts import Forecast, Forecasts, asked_for
from evertrain.partitions import printable
from evertrain.sources import read
from evertrain.specs import Dataset, ModelSpec, ProjectSpec, encode
from evertrain.store import datasets, models, sources, temporary
from evertrain.store.values import from_sql, to_sql
from evertrain.trainers.make import family

Progress = Callable[[str, float | None], None]
_MOST_VALUES = 1000
_MOST_SAID = 200


def filtered(
    opened: Opened,
    model: str,
    where: Mapping[str, Any],
    h: int | None = None,
    level: Sequence[int] | None = None,
    *,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Forecast:
    """Return the forecast of the rows that have these values.

    Where they are those of a partition or a rollup, its stored forecast answers. Else a forecaster is fitted on the
    rows for this question alone, labelled so: one at a time, within a deadline, and kept until rows or declaration
    change.

    Args:
        where: a value, or a list of values, by column.
        stop: asked again and again; where it answers true the question is given up.

    Raises:
        DataError: a column does not exist, or too few rows have these values.
        ConfigError: `where` names no values or far too many, or `h` or `level` is none that a model could declare.
        Conflict: another one is being made, and was not done in time.
    """
    reader = Forecasts(opened.store, opened.artifacts, model, opened.inline)
    spec = reader.spec
    wanted = _listed(where)
    if not wanted:
        return reader.read(None, h, level)
    named = set(wanted) <= set(spec.dimensions) and all(len(values) == 1 for values in wanted.values())
    if named:
        with suppress(NoModelYet, NotFound):
            return reader.read({name: values[0] for name, values in wanted.items()}, h, level, exactly=True)
    question = _Temporary(opened, spec, wanted, h, level, progress, stop)
    if named:  # "3" may have been typed for the partition 3
        with suppress(NoModelYet, NotFound):
            return reader.read({name: values[0] for name, values in question.where.items()}, h, level, exactly=True)
    return question.answer()


def _listed(where: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the values by column, each a list.

    Raises:
        ConfigError: it is no mapping, a list is empty, or there are more combinations than one may ask for.
    """
    if not isinstance(where, Mapping):
        raise ConfigError("where", where, 'values by column, such as {"region": "north"}')
    wanted = {name: list(value) if isinstance(value, list | tuple | set) else [value] for name, value in where.items()}
    if empty := [name for name, values in wanted.items() if not values]:
        raise ConfigError(f"where[{empty[0]!r}]", where[empty[0]], "a value, or a list of at least one")
    if (number := math.prod(map(len, wanted.values()))) > _MOST_VALUES:
        raise ConfigError("where", f"{number} combinations of values", f"at most {_MOST_VALUES}")
    return wanted


def actuals(opened: Opened, model: str, where: Mapping[str, Any]) -> tuple[list[str], list[float]]:
    """Return what happened: labels and values of the series of the rows that have these values, oldest first."""
    with opened.store.read() as tx:
        found, project = models.by_name(tx, model), models.project(tx)
        dataset = datasets.by_name(tx, found.spec.source)
        spec, facts = found.spec, (found.extract or {}).get("series")
        if spec.series is None or facts is None or project is None:
            return [], []
        source = project.sources[spec.source]
        names = [source.time or "", spec.target]
        wanted = _listed(where)
        rows: Sequence[Any] = []
        if dataset is not None:
            kinds = dataset.columns
            stored = {n: [to_sql(kinds[n], _typed(kinds[n], v, n), n) for v in values] for n, values in wanted.items()}
            rows = [
                tuple(from_sql(kinds[name], value) for name, value in zip(names, row, strict=True))
                for row in datasets.values_of(tx, dataset, names, stored)
            ]
        now = tx.now
    if dataset is None:
        from evertrain.sources.extract import rows_where
        from evertrain.sources.table import schema_of

        frame = read.read(source, opened.home.root).frame
        kinds = {name: str(kind) for name, kind in schema_of(frame).items()}
        typed = {name: [_typed(kinds[name], one, name) for one in values] for name, values in wanted.items()}
        rows = rows_where(frame, typed).select(names).rows()
    times = np.array([None if at is None else str(at)[:19] for at, _ in rows], dtype="datetime64[us]")
    values = np.array([np.nan if value is None else value for _, value in rows], dtype=np.float64)
    freq = parse_freq(facts["freq"])
    latest = facts["latest"] and datetime.fromisoformat(facts["latest"])
    try:
        series = regular(times, values, spec.series, freq, now=now, latest=latest)
    except NoData:
        return [], []
    return freq.texts(series.periods), series.values.tolist()


class _Temporary:
    """One question about filtered rows."""

    def __init__(
        self,
        opened: Opened,
        spec: ModelSpec,
        where: Mapping[str, list[Any]],
        h: int | None,
        level: Sequence[int] | None,
        progress: Progress | None,
        stop: Callable[[], bool],
    ) -> None:
        assert spec.series is not None
        self.opened, self.spec = opened, spec
        series = asked_for(spec, h, level)
        self.h, self.level = series.h, series.level
        self.progress, self.stop = progress, stop
        with opened.store.read() as tx:
            project = models.project(tx)
            self.model = models.by_name(tx, spec.name)
            row = sources.state(tx, spec.source)
            self.dataset = datasets.by_name(tx, spec.source)
        assert project is not None
        self.project: ProjectSpec = project
        extract = self.model.extract or {}
        if "series" not in extract:
            raise NoModelYet(
                f"the rows of {spec.name} were not read yet; start the loop, or `evertrain trigger {spec.name}`"
            )
        self.facts: Mapping[str, Any] = extract["series"]
        columns = self.dataset.columns if self.dataset else sources.columns_of(row) or {}
        if unknown := [name for name in where if name not in columns]:
            raise DataError(
                f"{unknown[0]!r} is no column of {spec.source}; there are {', '.join(columns)}", column=unknown[0]
            )
        self.where = {name: [_typed(columns[name], one, name) for one in values] for name, values in where.items()}
        said = ", ".join(
            f"{name}={' or '.join(printable(str(one)) for one in values)}" for name, values in where.items()
        )
        self.said = said if len(said) <= _MOST_SAID else f"{said[:_MOST_SAID]}…"

    def answer(self) -> Forecast:
        key = self._key()
        if found := self._kept(key):
            return found
        with _alone(self.opened, self.said, self.stop):
            if found := self._kept(key):  # another has made it meanwhile
                return found
            answer = self._made()
            with self.opened.store.write() as tx:
                answer = {**answer, "at": to_text(tx.now)}
                if key:
                    temporary.put(tx, key, self.model.id, answer)
                tx.event(
                    Kind.FORECAST_TEMPORARY,
                    model=self.spec.name,
                    # Not the values: a row that is erased must leave no trace in the log.
                    columns=", ".join(self.where),
                    rows=answer["rows"],
                    seconds=answer["seconds"],
                )
        return self._forecast(answer, "")

    def _key(self) -> str | None:
        """Return what the answer depends on, as one text; None where nobody can tell whether the rows changed."""
        source = self.project.sources[self.spec.source]
        version = str(self.dataset.version) if self.dataset else read.look(source, self.opened.home.root)
        if version is None:
            return None
        period = parse_freq(self.facts["freq"]).period_of(self.opened.store.clock.now())
        said = [self.model.id, self.model.recipe, version, dict(self.facts), self.where, self.h, self.level, period]
        return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()

    def _kept(self, key: str | None) -> Forecast | None:
        if key is None:
            return None
        with self.opened.store.read() as tx:
            found = temporary.get(tx, key)
        return self._forecast(found, "; kept from an earlier question") if found else None

    def _forecast(self, answer: Mapping[str, Any], more: str) -> Forecast:
        frame = dict(answer["frame"])
        name = f"rows where {self.said}"
        return Forecast(
            self.spec.name,
            name,
            name,
            "",
            frame.pop("ds"),
            frame.pop("mean"),
            frame,
            self.facts["freq"],
            answer["as_of"],
            from_text(answer["at"]),
            fallback=answer["fallback"] and f"the naive forecast: {answer['fallback']}",
            temporary=True,
            note=f"made of {answer['rows']} rows for this question{more}",
        )

    # --- making it ----------------------------------------------------------------------------------------------

    def _made(self) -> Message:
        opened, spec = self.opened, self.spec
        scratch = opened.home.scratch / f"temporary-{secrets.token_hex(8)}"
        scratch.mkdir(parents=True, mode=0o700)
        try:
            source = self.project.sources[spec.source]
            task: Message = {
                "kind": "temporary",
                "root": str(opened.home.root),
                "scratch": str(scratch),
                "model": encode(replace(spec, partition_by=(), rollups=None, triggers=())),
                "source": encode(source),
                "time": source.time,
                "key": list(source.key),
                "now": opened.store.clock.now().isoformat(),
                "series": dict(self.facts),
                "where": self.where,
                "said": self.said,
                "floor": opened.settings.temporary_rows,
                "h": self.h,
                "level": list(self.level),
            }
            if isinstance(source, Dataset):
                task |= self._copied(scratch / "rows.db")
            return self._worked(task)
        finally:
            for path in scratch.iterdir():
                path.unlink(missing_ok=True)
            scratch.rmdir()

    def _copied(self, target: Path) -> Message:
        assert self.dataset is not None
        dataset, names = self.dataset, list(self.where)
        combined = [list(one) for one in product(*self.where.values())]
        values = [
            [to_sql(dataset.columns[name], v, name) for name, v in zip(names, one, strict=True)] for one in combined
        ]
        datasets.copy_rows(self.opened.store, dataset, dataset.version, [(names, values)], target)
        return {"copied": str(target), "columns": dataset.columns}

    def _worked(self, task: Message) -> Message:
        """Have a worker do it, and return its answer."""
        if self.project.executor == "inline":
            found: list[Message] = []
            try:
                work(task, found.append, dict(self.opened.inline))
            except EvertrainError:
                raise
            except Exception as error:  # what a trainer of a user's raises
                said = f"{type(error).__name__}: {error}"
                raise TrainingError(f"the forecast of rows where {self.said} failed: {said}") from error
            return next(one for one in found if one["type"] == "answer")
        executor = self.opened.executor()
        job = Job(
            task, family(self.spec.trainer), deadline_s=self.opened.settings.temporary_s, memory_mb=self.spec.memory_mb
        )
        try:
            executor.start(job)
            while True:
                _go_on(self.stop)
                for _, message in executor.poll(0.2):
                    if isinstance(message, Lost):
                        raise TrainingError(f"the forecast of rows where {self.said} {message.reason}")
                    if message["type"] == "error":
                        kind = DataError if message["data"] else TrainingError
                        raise kind(message["reason"].removeprefix("DataError: "))
                    if message["type"] == "answer":
                        return message
                    if message["type"] == "progress" and self.progress:
                        self.progress(message["text"], message["fraction"])
        finally:
            executor.close()


def _typed(kind: str, value: Any, name: str) -> Any:
    """Return a value as the column holds it, in JSON's words; a number that a person typed is a text at first."""
    if isinstance(value, str) and kind in ("integer", "number"):
        try:
            value = int(value) if kind == "integer" else float(value)
        except ValueError:
            raise DataError(f"{name} is {value!r}; allowed: {kind}", column=name) from None
    if isinstance(value, str) and kind == "boolean" and value.lower() in ("true", "false"):
        value = value.lower() == "true"
    found = from_sql(kind, to_sql(kind, value, name))  # raises where it is not of the column's type
    return found.isoformat() if hasattr(found, "isoformat") else found


def _go_on(stop: Callable[[], bool]) -> None:
    if stop():
        raise Conflict("this process is about to end; ask again when the next one answers")


@contextmanager
def _alone(opened: Opened, said: str, stop: Callable[[], bool]) -> Iterator[None]:
    """Let one process at a time make a temporary forecast: a page of filters must not starve training."""
    path = opened.home.folder / "temporary.lock"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + opened.settings.temporary_s
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise Conflict(
                        f"another forecast of filtered rows is being made, and was not done in"
                        f" {opened.settings.temporary_s:g} s; ask for {said} again later"
                    ) from None
                _go_on(stop)
                time.sleep(0.05)
        yield
    finally:
        os.close(handle)
