"""Data that changes: batches into datasets, and what the people who send them are told."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evertrain import datasets, plan, registry, watch
from evertrain.control import back
from evertrain.control.opened import Opened
from evertrain.datasets import Batch, TrainedOn, Trial
from evertrain.errors import ArtifactError, ConfigError, NotFound, StoreBusy, UnknownName
from evertrain.events import Kind, ranges
from evertrain.partitions import KeyText, decode, label
from evertrain.specs import Auto, Dataset, ModelSpec
from evertrain.store import datasets as table
from evertrain.store import demand, leases, models, runs, temporary, upkeep
from evertrain.store.connect import Record, Tx

if TYPE_CHECKING:
    import polars as pl

Span = tuple[KeyText, int, int | None]

_SCRUB_S = 15.0
_REPORTS, _REPORT_DAYS = 50, 30
_NOT_YET = (
    "the row is gone, but somebody reads an older state of the store, so its bytes are still in the file; the loop"
    " removes them as soon as that is over"
)


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
    opened: Opened,
    name: str,
    data: object,
    *,
    source: str = "",
    actor: str = "",
    token: str | None = None,
    progress: datasets.Merged | None = None,
) -> Batch:
    """Merge a data frame or a file into a dataset; see `datasets.ingest`."""
    spec = declared(opened, name)
    return datasets.ingest(
        opened.store, name, spec, data, source=source, actor=actor, token=token, told=_told(opened, name),
        report=lambda listed: report(opened, listed), progress=progress,
    )  # fmt: skip


def rehearse(opened: Opened, name: str, data: object, *, source: str = "") -> tuple[Trial, list[str]]:
    """Return what a file would do to a dataset, and for each model what it would make due; nothing is merged."""
    spec = declared(opened, name)
    trial = datasets.rehearse(
        opened.store, name, spec, data, source=source, told=_told(opened, name),
        report=lambda listed: report(opened, listed),
    )  # fmt: skip
    said = []
    with opened.store.read() as tx:
        users = [user for user in models.every(tx) if user.spec.source == name]
        for user in users:
            groups = trial.groups.get(tuple(user.spec.dimensions), frozenset())
            try:
                keys = watch.keys_of(user.spec, trial.columns, groups)
            except (ValueError, TypeError):  # they cannot be told, so the whole model would be trained
                keys = []
            if trial.added + trial.updated:
                storm = not keys or len(keys) > user.spec.storm.cap(demand.leaves(tx, user.id) or len(keys))
                said.append(_would(user.spec, None if storm else watch.closure_of(user.spec, keys)))
    return trial, said


def _would(spec: ModelSpec, keys: Sequence[KeyText] | None) -> str:
    return f"{spec.name}: {plan.message(spec, keys) if keys is not None else 'all of it'} would be trained"


def _told(opened: Opened, name: str) -> list[list[str]]:
    with opened.store.read() as tx:
        return [user.spec.dimensions for user in models.every(tx) if user.spec.source == name]


def report(opened: Opened, listed: pl.DataFrame) -> str:
    """Write rows that cannot be used to a CSV file, and return its path; old ones make room.

    A value that a spreadsheet would compute begins with an apostrophe there: what people upload is no formula of ours.
    """
    folder = opened.home.reports
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    text = harmless(listed).write_csv().encode()
    path = folder / f"{hashlib.sha256(text).hexdigest()[:16]}.csv"
    part = path.with_suffix(f".{secrets.token_hex(4)}")
    part.write_bytes(text)
    part.chmod(0o600)
    part.replace(path)
    now = opened.store.clock.now().timestamp()
    kept = sorted(folder.iterdir(), key=lambda one: one.stat().st_mtime, reverse=True)
    for place, one in enumerate(kept):
        if one != path and (place >= _REPORTS or now - one.stat().st_mtime > _REPORT_DAYS * 86400):
            one.unlink(missing_ok=True)
    return str(path)


def harmless(frame: pl.DataFrame) -> pl.DataFrame:
    """Return a frame whose texts no spreadsheet takes for a formula: those that could be one begin with an apostrophe."""
    import polars as pl

    texts = [one for one, kind in frame.schema.items() if kind == pl.String]
    return frame.with_columns(
        pl.when(pl.col(one).str.contains(r"^[=+@\t\r＝＋＠－-]") & ~pl.col(one).str.contains(r"^[+-]?[0-9.,]+$"))
        .then(pl.lit("'") + pl.col(one))
        .otherwise(pl.col(one))
        .alias(one)
        for one in texts
    )


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


def erase(opened: Opened, name: str, row: Mapping[str, Any], *, actor: str = "") -> Batch:
    """Remove every trace of a row from a dataset: all it ever was, and its bytes in the store's file.

    Its partition is due at once, and the answer names the fits that were trained on it. Where the bytes cannot leave
    the file now, since somebody reads an older state of it, a note says so and the loop removes them.
    """
    declared(opened, name)
    project = opened.project()

    def before(tx: Tx, dataset: table.Dataset) -> tuple[TrainedOn, ...]:
        watch.catch_up(tx, project, name)  # what came before is told before a part of it is forgotten
        found: list[TrainedOn] = []
        for user in _users(tx, dataset):
            dimensions = user.spec.dimensions
            felt = watch.spans_of(
                user.spec, dataset, table.lives(tx, dataset, datasets.key_of(dataset, row), dimensions)
            )
            found += _questioned(tx, user, registry.trained_on(tx, user.id, felt), dataset.name, None, "erased", actor)
        return tuple(found)

    def after(tx: Tx) -> None:
        watch.catch_up(tx, project, name)
        for user in models.every(tx):
            if user.spec.source == name:
                temporary.forget(tx, user.id)
        upkeep.ask_to_scrub(tx)

    with opened.store.read() as tx:
        dataset = table.by_name(tx, name)
        told = [] if dataset is None else [one for user in _users(tx, dataset) for one in user.spec.dimensions]
    made = datasets.erase(
        opened.store, name, row, told=list(dict.fromkeys(told)), before=before, after=after, actor=actor
    )
    return made if _scrub(opened) else replace(made, notes=(*made.notes, _NOT_YET))


def _scrub(opened: Opened) -> bool:
    """Write the store's file anew and empty the log beside it; return whether that was done before patience ran out."""
    deadline = time.monotonic() + _SCRUB_S
    while True:
        with opened.store.read() as tx:
            wanted, held = upkeep.scrub_asked(tx), leases.holder(tx, "loop")
        if wanted is None:
            return True
        try:
            # Beside a running loop only the loop moves the log into the file, see `Store`.
            if opened.store.may_checkpoint or held is None:
                scrub_once(opened, wanted)
            elif wanted == "vacuum":
                vacuum(opened)
        except StoreBusy:
            wanted = None
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05 if wanted == "vacuum" else 0.2)


def vacuum(opened: Opened) -> None:
    """Write the store's file anew."""
    opened.store.vacuum()
    with opened.store.write() as tx:
        upkeep.vacuumed(tx)


def scrub_once(opened: Opened, wanted: str) -> None:
    """Do what is left to do so that erased bytes leave the store's file, as far as readers let us."""
    if wanted == "vacuum":
        vacuum(opened)
    if opened.store.checkpoint():
        with opened.store.write() as tx:
            upkeep.scrubbed(tx)


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
    return [(dataset, batch, user) for user in _users(tx, dataset)]


def _users(tx: Tx, dataset: table.Dataset) -> list[models.Model]:
    """Return the models of a dataset whose partitions its columns tell."""
    return [
        user
        for user in models.every(tx)
        if user.spec.source == dataset.name and all(one in dataset.columns for one in user.spec.dimensions)
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
    given_way = {str(key): way.to.version for key, way in usable.items()}
    found = _questioned(tx, user, seen, name, number, "undone", actor, given_way)
    return [
        replace(one, stays=_why_it_stays(row, cleaned, damaged)) if one.serving and not one.back else one
        for one, row in zip(found, seen, strict=True)
    ]


def _questioned(
    tx: Tx,
    user: models.Model,
    seen: Sequence[Record],
    name: str,
    batch: int | None,
    kind: str,
    actor: str,
    given_way: Mapping[str, str] | None = None,
) -> list[TrainedOn]:
    """Name the fits that were trained on rows which are undone or erased, in the answer and in one event."""
    back_to = given_way or {}
    if seen:
        tx.event(
            Kind.FITS_QUESTIONED,
            model=user.name,
            actor=actor or None,
            dataset=name,
            batch=batch,
            kind=kind,
            count=len(seen),
            fits=ranges([one.id for one in seen]),
            versions=list(dict.fromkeys(one.version for one in seen))[-20:],
            rolled_back=len(back_to),
        )
    return [
        TrainedOn(
            user.name,
            one.version,
            label(decode(one.key), user.spec.dimensions, user.spec.overall),
            bool(one.serving),
            back_to.get(one.key) if one.serving else None,
        )
        for one in seen
    ]


def _why_it_stays(fit: Record, cleaned: set[KeyText], damaged: set[KeyText]) -> str:
    if fit.pinned:
        return "it is pinned"
    if fit.key not in cleaned:
        return "later batches changed those rows"
    return "the earlier fit is damaged" if fit.key in damaged else "there is no earlier fit without that batch"


def typed(opened: Opened, name: str, row: Mapping[str, str]) -> dict[str, Any]:
    """Return texts that a person typed as values of the columns they are for.

    Raises:
        ConfigError: the dataset has no such column, or a number is none.
    """
    declared(opened, name)
    with opened.store.read() as tx:
        if (dataset := table.by_name(tx, name)) is None:
            raise NotFound(table.no_rows(name))
    values: dict[str, Any] = {}
    for column, text in row.items():
        if column not in dataset.columns:
            raise UnknownName("column", column, dataset.columns)
        kind = dataset.columns[column]
        try:
            values[column] = {"integer": int, "number": float}.get(kind, str)(text)
        except ValueError:
            raise ConfigError(column, text, kind) from None
        if kind == "boolean":
            values[column] = {"true": True, "false": False}.get(text.lower(), text)
    return values


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


def batches(opened: Opened, name: str, limit: int = 20, before: int | None = None) -> Sequence[Record]:
    """Return the newest batches of a dataset, or the newest of those before one."""
    declared(opened, name)
    with opened.store.read() as tx:
        found = table.by_name(tx, name)
        return table.batches(tx, found, limit, before) if found else []


def listed(opened: Opened) -> list[dict[str, Any]]:
    """Return every dataset with its rows, and the models that learn from it."""
    return [described(opened, name) for name, spec in opened.project().sources.items() if isinstance(spec, Dataset)]


def described(opened: Opened, name: str) -> dict[str, Any]:
    """Return a dataset: key, columns with their types, rows, version, newest batch, and the models that learn from it.

    Raises:
        UnknownName: no dataset is declared under this name.
    """
    spec = declared(opened, name)
    with opened.store.read() as tx:
        found = table.by_name(tx, name)
        newest = table.batches(tx, found, 1) if found else []
        users = [user.name for user in models.every(tx) if user.spec.source == name]
    return {
        "dataset": name,
        "key": list(spec.key),
        "time": spec.time,
        "columns": dict(found.columns) if found else dict(spec.columns),
        "rows": found.rows if found else 0,
        "version": found.version if found else 0,
        "oldest_version": found.horizon if found else 0,
        "changed_at": newest[0].at if newest else None,
        "models": users,
    }


def runs_of(opened: Opened, name: str) -> list[int]:
    """Return the runs of a dataset's models that have not ended."""
    with opened.store.read() as tx:
        return runs.open_of(tx, [user.id for user in models.every(tx) if user.spec.source == name])


def frame(opened: Opened, name: str, version: int | None = None) -> pl.DataFrame:
    """Return the rows of a version, by default the newest, as a Polars frame."""
    declared(opened, name)
    return datasets.frame_at(opened.store, name, version)


def export(
    opened: Opened, name: str, target: Path, version: int | None = None, *, for_spreadsheets: bool = False
) -> int:
    """Write the rows of a version to a CSV or Parquet file and return how many they are.

    Args:
        for_spreadsheets: see `harmless`.

    Raises:
        ConfigError: the file's ending is neither.
    """
    if target.suffix.lower() not in (".csv", ".parquet"):
        raise ConfigError("file", target.name, "a name that ends in .csv or .parquet")
    found = frame(opened, name, version)
    if for_spreadsheets:
        found = harmless(found)
    if target.suffix.lower() == ".csv":
        found.write_csv(target)
    else:
        found.write_parquet(target)
    return found.height
