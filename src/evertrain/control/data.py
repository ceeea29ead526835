"""Data that changes: batches into datasets, and what the people who send them are told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evertrain import datasets, plan, watch
from evertrain.control.opened import Opened
from evertrain.datasets import Batch
from evertrain.errors import ConfigError, UnknownName
from evertrain.specs import Auto, Dataset
from evertrain.store import datasets as table
from evertrain.store import demand, models
from evertrain.store.connect import Record

if TYPE_CHECKING:
    import polars as pl


def declared(opened: Opened, name: str) -> Dataset:
    """Return the declaration of a dataset.

    Raises:
        UnknownName: no dataset is declared under this name.
    """
    known = {one: spec for one, spec in opened.project().sources.items() if isinstance(spec, Dataset)}
    if name not in known:
        raise UnknownName("dataset", name, known)
    return known[name]


def ingest(
    opened: Opened, name: str, data: object, *, source: str = "", actor: str = "", token: str | None = None
) -> Batch:
    """Merge a data frame or a file into a dataset; see `datasets.ingest`."""
    return datasets.ingest(opened.store, name, declared(opened, name), data, source=source, actor=actor, token=token)


def edit(opened: Opened, name: str, rows: Sequence[Mapping[str, Any]], *, actor: str = "") -> Batch:
    """Change values of rows; see `datasets.edit`."""
    declared(opened, name)
    return datasets.edit(opened.store, name, rows, actor=actor)


def delete(opened: Opened, name: str, keys: Sequence[Mapping[str, Any]], *, actor: str = "") -> Batch:
    """Remove rows; see `datasets.delete`."""
    declared(opened, name)
    return datasets.delete(opened.store, name, keys, actor=actor)


def undo(opened: Opened, name: str, number: int, *, actor: str = "") -> Batch:
    """Reverse a batch; see `datasets.undo`."""
    declared(opened, name)
    return datasets.undo(opened.store, name, number, actor=actor)


def announcements(opened: Opened, batch: Batch) -> list[str]:
    """Return for each model what a batch made due, as the people who sent it read it."""
    said = []
    with opened.store.read() as tx:
        dataset = table.by_name(tx, batch.dataset)
        users = [user for user in models.every(tx) if user.spec.source == batch.dataset]
        if dataset is None or batch.again or not batch.added + batch.updated + batch.removed:
            return []
        project = opened.project()
        for user in users:
            if models.auto_of(project, user.spec) is not Auto.TRAIN:
                continue
            missing = [name for name in user.spec.dimensions if name not in dataset.columns]
            try:
                keys = [] if missing else watch.touched(tx, user.spec, dataset, batch.version - 1, batch.version)
            except (ValueError, TypeError):  # they cannot be told, so the whole model is trained
                said.append(plan.announcement(user.spec, None))
                continue
            if keys:
                storm = len(keys) > user.spec.storm.cap(demand.leaves(tx, user.id))
                all_keys = None if storm else watch.closure_of(user.spec, keys)
                said.append(plan.announcement(user.spec, all_keys))
    return said


def batches(opened: Opened, name: str, limit: int = 20) -> Sequence[Record]:
    """Return the newest batches of a dataset."""
    declared(opened, name)
    with opened.store.read() as tx:
        found = table.by_name(tx, name)
        return table.batches(tx, found, limit) if found else []


def frame(opened: Opened, name: str, version: int | None = None) -> pl.DataFrame:
    """Return the rows of a version, by default the newest, as a Polars frame."""
    declared(opened, name)
    return datasets.frame_at(opened.store, name, version)


def export(opened: Opened, name: str, target: Path, version: int | None = None) -> int:
    """Write the rows of a version to a CSV or Parquet file and return how many they are.

    Raises:
        ConfigError: the file's ending is neither.
    """
    if target.suffix.lower() not in (".csv", ".parquet"):
        raise ConfigError("file", target.name, "a name that ends in .csv or .parquet")
    found = frame(opened, name, version)
    if target.suffix.lower() == ".csv":
        found.write_csv(target)
    else:
        found.write_parquet(target)
    return found.height
