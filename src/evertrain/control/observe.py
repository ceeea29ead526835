"""Observations: what people and applications send about predictions and what really happened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evertrain import datasets
from evertrain.control.opened import Opened
from evertrain.errors import DataError, UnknownName
from evertrain.events import Kind
from evertrain.observations import Labelled, Noted, Recorder, Value
from evertrain.observations.rows import plain, typed
from evertrain.partitions import KeyText, encode
from evertrain.sources.npy import read_npy
from evertrain.specs import CsvFile, Dataset, ModelSpec, ProjectSpec

if TYPE_CHECKING:
    import polars as pl
    from numpy.typing import NDArray


def observe(
    opened: Opened,
    model: str,
    rows: object,
    *,
    prediction: str = "prediction",
    predictions: object = None,
    id: str | None = None,  # noqa: A002 - the word of the declaration
    time: str | None = None,
    partition: Mapping[str, Any] | None = None,
    probabilities: Sequence[str] | Mapping[Any, str] | NDArray[Any] | None = None,
    actuals: object = None,
) -> Noted:
    """Write predictions, their features and, where they are known, their actuals; see `Project.observe`."""
    project = opened.project()
    spec = _declared(project, model)
    frame = _read(rows, project, spec, [id] if id else [])
    predicted = _values(frame, predictions, prediction, "prediction") or []
    known = _values(frame, actuals, _first(frame, ("actual", spec.target)), "actual", needed=False)
    keys = _keys(spec, frame, partition)
    shares, classes, used = _shares(frame, probabilities)
    named = {one: _column(frame, one, what) for what, one in (("id", id), ("time", time)) if one}
    without = {prediction, "actual", spec.target, *named, *used, *spec.dimensions}
    log = opened.observations()
    noted = log.observe(
        model,
        frame.select(_features(project, spec, frame, without)),
        predicted=predicted,
        probabilities=shares,
        classes=classes,
        keys=keys,
        ids=named.get(id) if id else None,
        times=named.get(time) if time else None,
    )
    if known is not None:
        noted = replace(noted, actuals=log.actuals(model, noted.ids, known))
    if noted.thinned:
        tell_thinned(opened, model, noted.share)
    return noted


def actuals(
    opened: Opened,
    model: str,
    rows: object,
    *,
    id: str = "id",  # noqa: A002 - the word of the declaration
    actual: str | None = None,
    time: str | None = None,
) -> Labelled:
    """Write what really happened; see `Project.actuals`."""
    project = opened.project()
    spec = _declared(project, model)
    frame = _read(rows, project, spec, [id])
    ids = _column(frame, id, "id")
    name = actual or _first(frame, ("actual", spec.target)) or "actual"
    times = _column(frame, time, "time") if time else None
    return opened.observations().actuals(model, ids, _column(frame, name, "actual"), times=times)


def recorder(opened: Opened, model: str) -> Recorder:
    """Return what writes the answers of a model's predictor to the log."""
    return Recorder(opened.observations(), model, thinned=lambda share: tell_thinned(opened, model, share))


def tell_thinned(opened: Opened, model: str, share: float) -> None:
    """Write to the log that fewer of a model's observations are kept from now on."""
    with opened.store.write() as tx:
        tx.event(Kind.OBSERVATIONS_THINNED, model=model, one_in=round(1 / share), rows=opened.observations().bound)


def _declared(project: ProjectSpec, model: str) -> ModelSpec:
    if model not in project.models:
        raise UnknownName("model", model, project.models)
    spec = project.models[model]
    if spec.series:
        raise DataError(f"{model} is a forecasting model: the rows of {spec.source} are its actuals")
    return spec


def _read(rows: object, project: ProjectSpec, spec: ModelSpec, texts: Sequence[str]) -> pl.DataFrame:
    """Return a file as its model's source writes files, or rows in memory; ids stay the texts that they are."""
    if not isinstance(rows, str | Path):
        return typed(rows)
    source, how = project.sources[spec.source], {}
    if isinstance(source, CsvFile | Dataset):
        how = {name: getattr(source, name) for name in ("delimiter", "encoding", "decimal", "dates")}
    try:
        found = datasets.read(rows, Dataset(columns=dict.fromkeys(texts, "text"), **how), None)
    except DataError as error:
        if isinstance(error.__cause__ or error.__context__, OSError):
            raise DataError(f"{rows} cannot be read", source=str(rows)) from None
        raise
    if found.bad is not None:
        line, column, value, problem = found.bad.row(0)
        raise DataError(
            f"{Path(rows).name}: {found.set_aside_count:,} rows cannot be used, such as {found.counted} {line}:"
            f" {column or 'the row'} is {value!r}, {problem}",
            source=str(rows),
            column=column,
        )
    return found.frame


def _first(frame: pl.DataFrame, names: Sequence[str]) -> str | None:
    return next((name for name in names if name in frame.columns), None)


def _column(frame: pl.DataFrame, name: str, what: str) -> list[Any]:
    if name not in frame.columns:
        raise DataError(f"there is no {what} column {name!r}; there are {', '.join(frame.columns)}", column=name)
    return frame[name].to_list()


def _values(
    frame: pl.DataFrame, given: object, column: str | None, what: str, *, needed: bool = True
) -> list[Value] | None:
    """Return predictions or actuals: those that were given, the `.npy` file of that path, or a column."""
    if given is None:
        return plain(_column(frame, column, what), what) if needed or column else None  # type: ignore[arg-type]
    found = plain(read_npy(Path(given)) if isinstance(given, str | Path) else given, what)  # type: ignore[arg-type]
    if len(found) != frame.height:
        raise DataError(f"there are {len(found):,} {what}s for {frame.height:,} rows")
    return found


def _keys(spec: ModelSpec, frame: pl.DataFrame, partition: Mapping[str, Any] | None) -> list[KeyText] | None:
    try:
        if partition is not None:
            return [encode(partition, spec.dimensions)] * frame.height
        if not spec.dimensions:
            return None
        for name in spec.dimensions:
            if name not in frame.columns:
                raise DataError(
                    f"column {name!r} tells which partition of {spec.name} a row is of; add it, or name partition=",
                    column=name,
                )
        known: dict[tuple[Any, ...], KeyText] = {}
        for values in frame.select(spec.dimensions).unique().iter_rows():
            known[values] = encode(dict(zip(spec.dimensions, values, strict=True)), spec.dimensions)
        return [known[values] for values in frame.select(spec.dimensions).iter_rows()]
    except ValueError as error:
        raise DataError(f"{spec.name}: {error}") from None


def _features(project: ProjectSpec, spec: ModelSpec, frame: pl.DataFrame, without: set[str]) -> list[str]:
    """Return the columns to keep: the declared features, else all that are nothing else."""
    if isinstance(spec.features, tuple):
        return [name for name in spec.features if name in frame.columns]
    source = project.sources[spec.source]
    besides = without | ({source.time} if source.time else set()) | set(source.key)
    return [name for name in frame.columns if name not in (without if spec.features else besides)]


def _shares(
    frame: pl.DataFrame, given: Sequence[str] | Mapping[Any, str] | NDArray[Any] | None
) -> tuple[object, list[Any] | None, list[str]]:
    """Return probabilities, their classes, and the columns that held them."""
    import numpy as np

    if given is None or isinstance(given, np.ndarray):
        return given, None, []
    named = given if isinstance(given, Mapping) else {name: name for name in given}
    found = [_column(frame, name, "probability") for name in named.values()]
    try:
        shares = np.array(found, dtype=np.float64).T.reshape(frame.height, len(found))
    except (TypeError, ValueError) as error:
        raise DataError(f"the probabilities are no numbers: {error}") from None
    return shares, list(named), list(named.values())
