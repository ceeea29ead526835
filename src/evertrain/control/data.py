"""Data that changes: batches into datasets, and what the people who send them are told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evertrain import datasets, plan, registry, watch
from evertrain.control import back
from evertrain.control.opened import Opened
from evertrain.datasets import Batch, TrainedOn
from evertrain.errors import ArtifactError, ConfigError, NotFound, UnknownName
from evertrain.events import Kind, ranges
from evertrain.partitions import KeyText, decode, label
from evertrain.specs import Auto, Dataset
from evertrain.store import datasets as table
from evertrain.store import models
from evertrain.store.connect import Record, Tx

if TYPE_CHECKING:
    import polars as pl

Span = tuple[KeyText, int, int | None]


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
    """Reverse a batch, and let champions that were trained on it give way to the newest earlier fit that was not.

    Where there is no such fit the champion serves on until its partition is trained anew, and the answer says so.
    See `datasets.undo`.
    """
    declared(opened, name)
    with opened.store.read() as tx:
        felt = {
            user.id: watch.spans_of(user.spec, dataset, table.spans(tx, dataset, batch.version, user.spec.dimensions))
            for dataset, batch, user in _concerned(tx, name, number)
        }
        ways = {user.name: (user, _ways(tx, user, felt[user.id])) for user in models.every(tx) if user.id in felt}
    tried, broken = _tried(opened, [(user, own) for user, own in ways.values() if own])

    def told(tx: Tx, dataset: table.Dataset) -> tuple[TrainedOn, ...]:
        found: list[TrainedOn] = []
        for user in models.every(tx):
            if user.id in felt:
                cleaned = set(watch.closure_of(user.spec, watch.touched(tx, user.spec, dataset, *_around(tx, dataset))))
                found += _taken_back(tx, user, felt[user.id], cleaned, tried, broken, number, dataset.name, actor)
        return tuple(found)

    return datasets.undo(opened.store, name, number, actor=actor, told=told)


def _around(tx: Tx, dataset: table.Dataset) -> tuple[int, int]:
    """Return the newest version of a dataset and the one before it."""
    now = table.by_name(tx, dataset.name)
    assert now is not None
    return now.version - 1, now.version


def _concerned(tx: Tx, name: str, number: int) -> list[tuple[table.Dataset, Record, models.Model]]:
    """Return a dataset, one of its batches, and each model whose partitions its columns tell."""
    if (dataset := table.by_name(tx, name)) is None:
        raise NotFound(table.no_rows(name))
    batch = table.batch(tx, dataset, number)
    return [
        (dataset, batch, user)
        for user in models.every(tx)
        if user.spec.source == name and all(one in dataset.columns for one in user.spec.dimensions)
    ]


def _ways(tx: Tx, user: models.Model, felt: Sequence[Span]) -> list[registry.Return]:
    """Return how champions that were trained on a batch would give way to fits that were not."""
    seen = registry.trained_on(tx, user.id, felt)
    keys = list(dict.fromkeys(KeyText(one.key) for one in seen if one.serving and not one.pinned))
    return registry.returns(tx, user.id, keys=keys, without=[one.id for one in seen]) if keys else []


def _tried(opened: Opened, ways: Sequence[tuple[models.Model, list[registry.Return]]]) -> tuple[set[int], set[int]]:
    """Return the fits that may serve again, and those whose bytes are damaged or no longer load."""
    good: set[int] = set()
    broken: set[int] = set()
    for user, own in ways:
        fits = [way.to for way in own]
        while fits:
            try:
                back.try_out(opened, user, fits)
            except ArtifactError as error:
                bad = {fit.id for fit in fits if fit.place.artifact == error.digest}
                broken |= bad
                fits = [fit for fit in fits if fit.id not in bad] if bad else []
            else:
                good |= {fit.id for fit in fits}
                break
    return good, broken


def _taken_back(
    tx: Tx,
    user: models.Model,
    felt: Sequence[Span],
    cleaned: set[KeyText],
    tried: set[int],
    broken: set[int],
    number: int,
    name: str,
    actor: str,
) -> list[TrainedOn]:
    """Roll champions back that were trained on a batch which is being undone, and name every fit that was."""
    seen = registry.trained_on(tx, user.id, felt)
    ways = [way for way in _ways(tx, user, felt) if way.key in cleaned]
    usable = {way.key: way for way in ways if way.to.id in tried}
    if usable:
        registry.roll_back(
            tx, user.name, list(usable.values()), actor=actor or tx.actor, why=f"batch {number} of {name} was undone",
            pin=False,
        )  # fmt: skip
    damaged = {way.key for way in ways if way.to.id in broken}
    found = []
    for one in seen:
        back_to = usable[one.key].to.version if one.serving and one.key in usable else None
        found.append(
            TrainedOn(
                user.name,
                one.version,
                label(decode(one.key), user.spec.dimensions, user.spec.overall),
                bool(one.serving),
                back_to,
                None if back_to or not one.serving else _why_it_stays(one, cleaned, damaged),
            )
        )
    if found:
        tx.event(
            Kind.FITS_QUESTIONED,
            model=user.name,
            actor=actor or None,
            dataset=name,
            batch=number,
            kind="undone",
            count=len(found),
            fits=ranges([one.id for one in seen]),
            versions=list(dict.fromkeys(one.version for one in seen))[-20:],
            rolled_back=len(usable),
        )
    return found


def _why_it_stays(fit: Record, cleaned: set[KeyText], damaged: set[KeyText]) -> str:
    if fit.pinned:
        return "it is pinned"
    if fit.key not in cleaned:
        return "later batches changed those rows"
    return "the earlier fit is damaged" if fit.key in damaged else "there is no earlier fit without that batch"


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
            keys = [] if missing else watch.touched(tx, user.spec, dataset, batch.version - 1, batch.version)
            if keys:
                said.append(
                    f"Records updated. Models for {plan.message(user.spec, watch.closure_of(user.spec, keys))} are being"
                    " updated in the background."
                )
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
