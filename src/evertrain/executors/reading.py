"""Reading a source, in a worker: hostile files, large files and users' functions never meet the loop itself."""

from __future__ import annotations

import json
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from evertrain import forecasting
from evertrain.errors import DataError
from evertrain.executors.jobs import Message
from evertrain.executors.packs import Emit
from evertrain.sources import read
from evertrain.sources.extract import Reading, extract
from evertrain.sources.table import schema_of
from evertrain.specs import Function, Source, decode_source

_TRIES = 5
_PAUSE_S = 0.2


def read_source(task: Message, emit: Emit) -> None:
    """Read a source once and write an extract for each model that uses it; answer what was found."""
    source, root = decode_source(task["source"]), Path(task["root"])
    started = time.monotonic()
    if (probe := _probe(source)) is not None and probe == task.get("known") and not task["force"]:
        emit({"type": "read", "unchanged": True, "stat": probe})
        return
    stat, table = _stable(source, root, task)
    if probe is not None:
        stat = probe
    name = read.called(source)
    answer: Message = {
        "type": "read",
        "stat": stat,
        "rows": table.frame.height,
        "columns": schema_of(table.frame),
        "notes": table.notes,
        "set_aside_count": table.set_aside_count,
        "called": name,
        "set_aside": [f"{name} line {one.line}: {one.reason} ({one.text})" for one in table.set_aside],
        "models": {},
        "problems": {},
    }
    for wanted in task["models"]:
        reading = Reading(
            **{**wanted["reading"], **{k: tuple(v) for k, v in wanted["reading"].items() if isinstance(v, list)}}
        )
        try:
            answer["models"][reading.model] = extract(table, reading, Path(wanted["path"])).as_dict() | series_facts(
                table.frame, reading, wanted
            )
        except (DataError, ValueError) as error:
            answer["problems"][reading.model] = f"{name}: {error}"
    answer["seconds"] = round(time.monotonic() - started, 3)
    emit(answer)


def series_facts(frame: pl.DataFrame, reading: Reading, wanted: Message) -> dict[str, Any]:
    """Return what every series of a forecasting model must know of all rows: their frequency, and the newest time."""
    if not wanted["is_series"] or reading.time is None:
        return {}
    times = frame.filter(pl.col(reading.target).is_not_null())[reading.time].drop_nulls()
    if not times.dtype.is_temporal():
        raise DataError(f"the time column {reading.time!r} holds no dates; a forecast needs dates", column=reading.time)
    distinct = times.unique().sort().cast(pl.Datetime("us")).dt.replace_time_zone(None).to_numpy()
    freq = wanted["freq"] or forecasting.infer_freq(distinct)
    come = distinct[
        distinct < np.datetime64(forecasting.reach(forecasting.parse_freq(freq), datetime.fromisoformat(wanted["now"])))
    ]
    newest = str(come[-1].astype("datetime64[s]")) if come.size else None
    return {"series": {"freq": freq, "latest": newest}}


def _probe(source: Source) -> str | None:
    if isinstance(source, Function) and source.probe:
        return json.dumps(read.call(source.probe), default=str)
    return None


def _stable(source: Source, root: Path, task: Message) -> tuple[str | None, Any]:
    """Read a source that did not change while it was read; a file that is being written is waited for.

    A last line that is cut short and has no line end is likely being written. After the last try it is taken as it
    stands, and the line is set aside.
    """
    for attempt in range(_TRIES):
        before = read.look(source, root)
        table = read.read(source, root, task.get("columns"))
        if before == read.look(source, root) and not (table.unfinished_line and attempt < _TRIES - 1):
            return before, table
        time.sleep(_PAUSE_S)
    raise DataError(f"{read.called(source)} kept changing while it was read; it is tried again at the next check")
