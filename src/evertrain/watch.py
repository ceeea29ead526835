"""Watching sources: from a look at a file to which partitions hold other rows than were trained on.

A look costs one stat. Only a source that changed and then lay still is read, in a worker; what the read found is
compared here, partition by partition, and the rollups by the sum of their partitions.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from evertrain.errors import DataError
from evertrain.events import Kind
from evertrain.forecasting import infer_freq, parse_freq, reach
from evertrain.partitions import KeyText, closure, decode, encode, label, rollup
from evertrain.sources import read
from evertrain.sources.index import Leaf, comparable, leaves
from evertrain.specs import Auto, Cause, DataChange, Dataset, Drift, ModelSpec, ProjectSpec, ScoreDrop, Source
from evertrain.specs import encode as encode_spec
from evertrain.store import datasets, decisions, demand, items, marks, models, sources
from evertrain.store.connect import Record, Store, Tx
from evertrain.store.values import from_sql, to_sql
from evertrain.triggers import Change, Decision, on_change

_MODULUS = 2**256

Present = dict[KeyText, tuple[bool, int, str]]  # a key with rows: whether it is a leaf, how many rows, which mark


def look(tx: Tx, name: str, source: Source, root: Path) -> Record:
    """Look at a source and return what is known of it; a missing file is remembered as its problem."""
    try:
        if isinstance(source, Dataset):
            dataset = datasets.by_name(tx, name)
            version = dataset.version if dataset else 0
            return sources.looked(tx, name, str(version), None if version else datasets.no_rows(name))
        return sources.looked(tx, name, read.look(source, root), None)
    except DataError as error:
        return sources.looked(tx, name, None, str(error))


def has_batches(store: Store, name: str) -> bool:
    """Return whether a dataset has batches that its models have not been told of; takes no write lock."""
    with store.read() as tx:
        return is_behind(tx, name)


def is_behind(tx: Tx, name: str) -> bool:
    """Return whether a dataset has batches that its models have not been told of."""
    dataset, row = datasets.by_name(tx, name), sources.state(tx, name)
    return dataset is not None and (row is None or row.read_stat != str(dataset.version))


def catch_up(tx: Tx, project: ProjectSpec, name: str) -> None:
    """Tell the models of a dataset of its batches since the last look, where there are any."""
    if is_behind(tx, name):
        apply_versions(tx, project, name)


def needs_read(row: Record, users: Sequence[models.Model]) -> bool:
    """Return whether a source should be read at once, as far as its own state tells."""
    if row.problem and row.stat is None:
        return False
    if row.read_at is None:
        return True
    return acts_on_rows(users) and bool(row.stat != row.read_stat)


def acts_on_rows(users: Sequence[models.Model]) -> bool:
    """Return whether a model has a trigger that looks at rows."""
    return any(isinstance(one, DataChange | ScoreDrop | Drift) for user in users for one in user.spec.triggers)


def patience(users: Sequence[models.Model], *, is_dataset: bool = False) -> tuple[timedelta, timedelta]:
    """Return how long a source must lie still, and after what time it is read all the same: the shortest declared.

    A file may be half written, so it is waited for where nothing is declared; a batch is in a dataset as a whole.
    """
    undeclared = DataChange(quiet=timedelta(0)) if is_dataset else DataChange()
    rules = [one for user in users for one in user.spec.triggers if isinstance(one, DataChange)] or [undeclared]
    return min(rule.quiet for rule in rules), min(rule.max_delay for rule in rules)


def task(
    tx: Tx,
    project: ProjectSpec,
    name: str,
    users: Sequence[models.Model],
    *,
    root: Path,
    folder: Path,
    force: bool = False,
) -> dict[str, Any]:
    """Return the task of reading a source for the models that use it, for a worker."""
    source = project.sources[name]
    row = sources.state(tx, name)
    commit = tx.counter("commit")
    columns = sources.columns_of(row)
    return {
        "kind": "read",
        "source": encode_spec(source),
        "root": str(root),
        "known": row.read_stat if row else None,
        "force": force,
        "columns": columns,
        "name": name,
        "commit": commit,
        "models": [
            {
                "reading": _reading(user.spec, source),
                "recipe": user.recipe,
                "is_series": user.spec.series is not None,
                "freq": _freq(user),
                "now": tx.now.isoformat(),
                "path": str(folder / f"{user.id}-{commit}-{secrets.token_hex(6)}.arrow"),
            }
            for user in users
        ],
    }


def _freq(user: models.Model) -> str | None:
    """Return the frequency of a model's series, where it is declared or was told from its rows before."""
    if user.spec.series is None:
        return None
    if user.spec.series.freq:
        return user.spec.series.freq
    before = user.extract or {}
    known: str | None = (before.get("series") or {}).get("freq")
    return known if before.get("recipe") == user.recipe else None


def _reading(spec: ModelSpec, source: Source) -> dict[str, Any]:
    return {
        "model": spec.name,
        "target": spec.target,
        "dimensions": spec.dimensions,
        "columns": [] if spec.series else list(spec.features) if isinstance(spec.features, tuple) else None,
        "key": list(source.key),
        "time": source.time,
    }


@dataclass(frozen=True)
class Found:
    """What a read came to for one model.

    Attributes:
        decision: where it has a rule for changes.
        asked: how many partitions were asked for.
        problem: why it cannot use what was read.
    """

    model: str
    decision: Decision | None
    asked: int
    problem: str | None = None


def apply(
    tx: Tx, project: ProjectSpec, name: str, answer: Mapping[str, Any], asked: Mapping[str, Any], *, force: bool = False
) -> list[Found]:
    """Make the answer of a read the state of the store: extracts, partitions, decisions and what is wanted.

    Args:
        asked: the task that the answer belongs to.
        force: accept a source that lost most of its rows.
    """
    users = [user for user in models.every(tx) if user.spec.source == name]
    if answer.get("unchanged"):
        sources.was_read(tx, name, stat=answer["stat"], rows=None, columns=None, problem=None)
        return []
    source = project.sources[name]
    before = sources.state(tx, name)
    problem = _shrunk(source, before, answer, force=force)
    aside = _aside(answer)
    if not answer["rows"] and not problem:
        problem = f"{answer['called']} has no usable row"
    sources.was_read(
        tx,
        name,
        stat=answer["stat"],
        rows=None if problem else answer["rows"],
        columns=None if problem else answer["columns"],
        problem=problem,
    )
    found = []
    asked_models = {one["reading"]["model"] for one in asked["models"]}
    for user in users:
        if user.name in asked_models:
            own = problem or answer["problems"].get(user.name)
            found.append(_apply_model(tx, project, user, answer, asked, own, aside))
    kind = Kind.SOURCE_FAILED if problem or answer["problems"] else Kind.SOURCE_READ
    tx.event(
        kind,
        source=name,
        rows=answer["rows"],
        set_aside=answer["set_aside_count"],
        seconds=answer.get("seconds"),
        problem=problem or next(iter(answer["problems"].values()), None),
        notes=answer["notes"],
    )
    return found


def failed(tx: Tx, project: ProjectSpec, name: str, reason: str) -> list[Found]:
    """Record that a source could not be read at all; every model of it says so and serves on."""
    row = sources.state(tx, name)
    sources.was_read(tx, name, stat=row.stat if row else None, rows=None, columns=None, problem=reason)
    found = []
    for user in models.every(tx):
        if user.spec.source == name:
            change = Change(read.called(project.sources[name]), 0, problem=reason, serving=serving(tx, user))
            found.append(Found(user.name, _decide(tx, project, user, change, (), Cause.DATA_CHANGE), 0, reason))
    if row is None or row.problem != reason:  # else it was said before; the decisions above count on
        tx.event(Kind.SOURCE_FAILED, source=name, problem=reason)
    return found


def serving(tx: Tx, user: models.Model) -> str | None:
    """Return the version that serves a model meanwhile, for messages; the newest where partitions differ."""
    return next(iter(models.serving_versions(tx, user.id, 1)), None)


def _shrunk(source: Source, before: Record | None, answer: Mapping[str, Any], *, force: bool) -> str | None:
    rows = before.rows if before else None
    if force or not rows or answer["rows"] >= rows * (1 - source.max_shrink):
        return None
    lost = 100 * (1 - answer["rows"] / rows)
    return (
        f"{answer['called']} fell from {rows} to {answer['rows']} usable rows (-{lost:.0f} %), which looks cut off;"
        " nothing was trained. `evertrain trigger MODEL --force` accepts it"
    )


def _aside(answer: Mapping[str, Any]) -> tuple[str, ...]:
    count = answer["set_aside_count"]
    said = [f"{one}, set aside" for one in answer["set_aside"][:3]]
    if count > 3:
        said.append(f"{count - 3} more were set aside")
    return tuple(said)


def _apply_model(
    tx: Tx,
    project: ProjectSpec,
    user: models.Model,
    answer: Mapping[str, Any],
    asked: Mapping[str, Any],
    problem: str | None,
    aside: tuple[str, ...],
) -> Found:
    called = answer["called"]
    if problem:
        change = Change(called, answer["rows"], problem=problem, serving=serving(tx, user), set_aside=aside)
        return Found(user.name, _decide(tx, project, user, change, (), Cause.DATA_CHANGE), 0, problem)
    extract = answer["models"][user.name]
    recipe = next(one["recipe"] for one in asked["models"] if one["reading"]["model"] == user.name)
    present = _with_rollups(user.spec, list(leaves(extract["index"])))
    change = Change(
        called,
        extract["rows"],
        of=sum(leaf for leaf, _, _ in present.values()),
        set_aside=aside,
        first=user.extract is None,
        serving=serving(tx, user),
    )
    change, affected, fresh_keys = _compare(tx, user, change, present, marks.of_model(tx, user.id))
    # Whatever is asked for below is about these very rows, so the extract is as fresh as that request, unless
    # somebody else asked meanwhile.
    quiet = tx.counter("commit") == asked["commit"]
    _discover(tx, user, fresh_keys)
    decision = _decide(tx, project, user, change, affected, Cause.DATA_CHANGE)
    fresh = tx.counter("commit") if quiet else asked["commit"]
    copy = {**extract, "stat": answer["stat"], "commit": fresh, "read_at": tx.now_text, "recipe": recipe}
    marks.extracted(tx, user.id, copy)
    return Found(user.name, decision, len(affected) if decision and decision.fired else 0)


def _with_rollups(spec: ModelSpec, found: Sequence[Leaf]) -> Present:
    """Return every key with rows: whether it is a leaf, how many rows, which fingerprint."""
    present: Present = {leaf.key: (True, leaf.rows, leaf.fingerprint) for leaf in found}
    if not spec.partition_by:
        return present
    algorithm = found[0].fingerprint.partition(":")[0] if found else "1"
    totals: dict[KeyText, list[int]] = {}
    for leaf in found:
        number, key = int(leaf.fingerprint.partition(":")[2], 16), decode(leaf.key)
        for kept in spec.levels:
            total = totals.setdefault(encode(rollup(key, kept), spec.dimensions), [0, 0])
            total[0] += leaf.rows
            total[1] += number
    for key_text, (rows, total_mark) in totals.items():
        present[key_text] = (False, rows, f"{algorithm}:{total_mark % _MODULUS:064x}")
    return present


def _compare(
    tx: Tx, user: models.Model, change: Change, present: Present, known: Mapping[str, Record]
) -> tuple[Change, list[KeyText], Present]:
    """Compare what is there with what was seen and trained on, and bring rows and marks up to date.

    Args:
        present: the partitions that have rows, among those that were looked at.
        known: the partitions that were looked at and have a place in the store.

    Returns:
        The change with its numbers, the partitions that have news, and those that appeared.
    """
    spec = user.spec
    changed, affected, short, already = [], [], {}, 0
    updates = []
    for key, (leaf, rows, mark) in present.items():
        row = known.get(key)
        if row is None or row.state == "retired" or row.seen is None:
            continue  # discovered below, and due from birth
        same_way = comparable(row.seen, mark)
        if row.seen != mark or row.rows != rows:
            updates.append({"id": row.id, "rows": rows, "seen": mark, "asked": row.asked if same_way else mark})
        if not same_way:
            continue  # measured by another algorithm: measured again, never retrained for
        if mark in (row.asked, row.considered_input):
            # A mark that was asked for is no news. One that was merely seen is, as under auto="observe".
            already += leaf and row.seen != mark
        elif rows < spec.least_rows:
            short[label(decode(key), spec.dimensions, spec.overall)] = rows
        else:
            affected.append(key)
            if leaf:
                changed.append(key)
    gone = [row.id for key, row in known.items() if row.state == "live" and key not in present]
    marks.update(tx, updates)
    demand.retire_partitions(tx, user.name, gone)
    items.skip_retired(tx, gone)
    live = {key for key, row in known.items() if row.state == "live" and row.seen is not None}
    fresh = {key: value for key, value in present.items() if key not in live}
    for key, (leaf, rows, _) in fresh.items():
        if leaf and rows < spec.least_rows:
            short[label(decode(key), spec.dimensions, spec.overall)] = rows
    found = sum(leaf for leaf, _, _ in fresh.values())
    change = replace(change, changed=tuple(changed), short=short, known=already, gone=len(gone), found=found)
    return change, affected, fresh


def _discover(tx: Tx, user: models.Model, fresh: Present) -> None:
    """Add partitions that appeared: due from birth, where they have rows enough."""
    if not fresh:
        return
    spec = user.spec
    request = demand.Request(Cause.DECLARATION, "no model yet")
    known = marks.some(tx, user.id, list(fresh))
    # Its first try ended before there was anything to read, such as on a missing file; nobody else asks again.
    tried = [
        KeyText(key)
        for key, row in known.items()
        if row.state == "live" and row.champion_id is None and row.considered >= row.wanted
    ]
    demand.find_partitions(tx, user.id, user.name, {key: leaf for key, (leaf, _, _) in fresh.items()}, request)
    if tried:
        demand.want(tx, user.id, user.name, request, tried)
    marks.begin(tx, user.id, fresh)
    small = {
        key: (mark, f"Insufficient samples: {rows} < {spec.least_rows}")
        for key, (_, rows, mark) in fresh.items()
        if rows < spec.least_rows
    }
    marks.too_small(tx, user.id, small)


def _decide(
    tx: Tx, project: ProjectSpec, user: models.Model, change: Change, affected: Sequence[KeyText], cause: Cause
) -> Decision | None:
    auto = models.auto_of(project, user.spec)
    if auto is Auto.OFF or not any(isinstance(one, DataChange) for one in user.spec.triggers):
        return None
    decision = on_change(change, user.spec, affected)
    if not decision.fired:
        decisions.record(tx, user.id, user.name, decision, action="none")
        return decision
    if auto is Auto.OBSERVE:
        decisions.record(tx, user.id, user.name, decision, action="observe")
        return decision
    request = demand.Request(cause, decision.reason)
    if change.lost:
        commit = demand.fall_back(tx, user.id, user.name, demand.Request(cause, change.lost, forced=True))
    elif decision.keys is None:
        commit = demand.want(tx, user.id, user.name, request)
    else:
        commit = demand.want(tx, user.id, user.name, request, affected, delay_of(user.spec, affected))
    marks.asked(tx, user.id, affected)
    decisions.record(tx, user.id, user.name, decision, action="train", wanted=commit)
    return decision


def delay_of(spec: ModelSpec, affected: Sequence[KeyText]) -> demand.Delay | None:
    """Return how long the rollups among changed partitions wait, where they have a quiet period of their own."""
    rule = next((one for one in spec.triggers if isinstance(one, DataChange) and one.rollups), None)
    above = [key for key in affected if rule and len(decode(key)) < len(spec.dimensions)]
    return demand.Delay(above, rule.rollups, rule.max_delay) if rule and rule.rollups and above else None


# --- datasets ---------------------------------------------------------------------------------------------------


def apply_versions(tx: Tx, project: ProjectSpec, name: str) -> list[Found]:
    """Make the batches of a dataset since the last look the state of the store, for every model of it.

    Costs what changed: partitions that no batch touched are not looked at.
    """
    dataset = datasets.by_name(tx, name)
    if dataset is None or not dataset.version:
        return failed(tx, project, name, datasets.no_rows(name))
    found = [_apply_versions(tx, project, user, dataset) for user in models.every(tx) if user.spec.source == name]
    problem = next((one.problem for one in found if one.problem), None)
    stat = str(dataset.version)
    sources.was_read(tx, name, stat=stat, rows=dataset.rows, columns=dataset.columns, problem=problem)
    kind = Kind.SOURCE_FAILED if problem else Kind.SOURCE_READ
    tx.event(kind, source=name, rows=dataset.rows, set_aside=0, version=dataset.version, problem=problem)
    return found


def _apply_versions(tx: Tx, project: ProjectSpec, user: models.Model, dataset: datasets.Dataset) -> Found:
    spec, before = user.spec, user.extract or {}
    change = Change(dataset.name, dataset.rows, first=user.extract is None, serving=serving(tx, user))
    if missing := [one for one in (spec.target, *spec.dimensions) if one not in dataset.columns]:
        problem = f"{dataset.name}: column {missing[0]!r}, which {spec.name} needs, is missing"
        decision = _decide(tx, project, user, replace(change, problem=problem), (), Cause.UPLOAD)
        return Found(spec.name, decision, 0, problem)
    rows = {"dataset": dataset.id, "target": spec.target}
    shape = {**rows, "dimensions": list(spec.dimensions), "levels": [list(one) for one in spec.levels]}
    after = int(before.get("version", 0))
    # Marks of before mean something where they are of these rows, and what changed since can still be told.
    continues = after >= dataset.horizon and rows.items() <= before.get("shape", {}).items()
    # Looked at once more without a new version: the declaration changed, and with it what is owed.
    everything = not continues or before["shape"] != shape or after == dataset.version
    if before.get("shape") != shape:
        datasets.index(tx, dataset, spec.dimensions, project.sources[spec.source].time)
    try:
        facts = _series_facts(tx, project, user, dataset, after if continues else 0)
    except DataError as error:
        problem = f"{dataset.name}: {error}"
        decision = _decide(tx, project, user, replace(change, problem=problem), (), Cause.UPLOAD)
        return Found(spec.name, decision, 0, problem)
    lost = None
    if before and after < dataset.horizon:
        lost = f"its rows before version {dataset.horizon} are gone, and {spec.name} has seen version {after}"
    present: Present = {}
    known: dict[str, Record] = {}
    try:
        present, known = _touched(tx, user, dataset, after if continues else 0, everything=everything)
    except (ValueError, TypeError) as error:  # a stored value that is none of its column's type
        lost = f"the keys of its rows cannot be told ({error})"
        shape = rows  # the next look compares all partitions
    change, affected, fresh = _compare(tx, user, change, present, known)
    _discover(tx, user, fresh)
    change = replace(change, of=demand.leaves(tx, user.id), lost=lost)
    decision = None
    if after != dataset.version or affected or fresh or change.gone or lost:
        decision = _decide(tx, project, user, change, affected, Cause.UPLOAD)
    copy = {"version": dataset.version, "rows": dataset.rows, "columns": dataset.columns, "shape": shape, **facts}
    marks.extracted(tx, user.id, {**copy, "read_at": tx.now_text})
    return Found(spec.name, decision, len(affected) if decision and decision.fired else 0)


def _series_facts(
    tx: Tx, project: ProjectSpec, user: models.Model, dataset: datasets.Dataset, after: int
) -> dict[str, Any]:
    """Return what every series of a forecasting model must know of all rows: their frequency, and the newest time."""
    time = project.sources[user.spec.source].time
    if user.spec.series is None or time is None:
        return {}
    if (kind := dataset.columns.get(time)) not in ("date", "instant"):
        said = f"holds {kind}s" if kind else "is missing"
        raise DataError(f"the time column {time!r} {said}; a forecast needs dates", column=time)
    before = (user.extract or {}).get("series") or {} if after else {}
    freq = _freq(user)
    if freq is None:
        found = [from_sql(kind, one).isoformat()[:19] for one in datasets.times(tx, dataset, time, user.spec.target)]
        freq = infer_freq(np.array(found, dtype="datetime64[us]"))
    known = to_sql(kind, before.get("newest", before.get("latest")), time)
    newest = datasets.newest(tx, dataset, time, user.spec.target, after, known)
    until = to_sql(kind, (reach(parse_freq(freq), tx.now) - timedelta(microseconds=1)).isoformat(), time)
    latest = newest
    if newest is not None and newest > until:
        latest = datasets.newest(tx, dataset, time, user.spec.target, until=until)
    facts = {
        name: one if one is None else from_sql(kind, one).isoformat()
        for name, one in (("latest", latest), ("newest", newest))
    }
    return {"series": {"freq": freq, **facts}, "recipe": user.recipe}


def _touched(
    tx: Tx, user: models.Model, dataset: datasets.Dataset, after: int, *, everything: bool
) -> tuple[Present, dict[str, Record]]:
    """Return the partitions that have rows, and those that are known, among those that were touched, or of all.

    Touched are those that rows left or came to after version `after`, and the rollups above; others keep their mark.
    """
    spec, mark = user.spec, f"version:{dataset.version}"
    news = touched(tx, spec, dataset, after, dataset.version)
    groups = _groups(tx, spec, dataset, 0 if everything else after, dataset.version)
    rows = datasets.count_by(tx, dataset, dataset.version, spec.dimensions, groups, spec.target)
    keys = keys_of(spec, dataset.columns, groups)
    known = marks.of_model(tx, user.id) if everything else marks.some(tx, user.id, closure_of(spec, keys))
    before = {} if everything else {key: row.rows or 0 for key, row in known.items() if row.state == "live"}
    totals: dict[str, int] = dict(before)
    for key, number in zip(keys, rows, strict=True):
        for one in closure_of(spec, [key]):
            totals[one] = totals.get(one, 0) + number - before.get(key, 0)
    fresh = set(closure_of(spec, news))
    leaves_found = set(keys)
    present = {}
    for key in closure_of(spec, keys):
        row = known.get(key)
        own = mark if key in fresh or row is None or row.seen is None else row.seen
        if totals[key] > 0:
            present[key] = (key in leaves_found, totals[key], own)
    return present, known


def touched(tx: Tx, spec: ModelSpec, dataset: datasets.Dataset, after: int, upto: int) -> list[KeyText]:
    """Return the partitions that rows left or came to between two versions."""
    return keys_of(spec, dataset.columns, _groups(tx, spec, dataset, after, upto))


def _groups(tx: Tx, spec: ModelSpec, dataset: datasets.Dataset, after: int, upto: int) -> list[tuple[Any, ...]]:
    if not spec.dimensions:
        return [()] if after < upto else []
    return datasets.changes(tx, dataset, after, upto, spec.dimensions)


def keys_of(spec: ModelSpec, columns: Mapping[str, str], groups: Iterable[tuple[Any, ...]]) -> list[KeyText]:
    """Return the partitions that stored values of a model's dimensions name."""
    kinds = [columns[name] for name in spec.dimensions]
    named = [zip(spec.dimensions, kinds, group, strict=True) for group in groups]
    return [encode({name: from_sql(kind, value) for name, kind, value in one}, spec.dimensions) for one in named]


def spans_of(
    spec: ModelSpec, dataset: datasets.Dataset, found: Sequence[tuple[Any, ...]]
) -> list[tuple[KeyText, int, int | None]]:
    """Return partitions, and the rollups above them, each with the first version and the one behind the last.

    Args:
        found: values of the dimensions, then the two versions, as `datasets.spans` returns them.
    """
    keys = keys_of(spec, dataset.columns, [row[: len(spec.dimensions)] for row in found])
    return [(one, row[-2], row[-1]) for key, row in zip(keys, found, strict=True) for one in closure_of(spec, [key])]


def closure_of(spec: ModelSpec, keys: Sequence[KeyText]) -> list[KeyText]:
    """Return keys and the rollups above them."""
    return list(closure(keys, spec.dimensions, spec.levels))
