"""What is declared: snapshots of the project, its models, run-time overrides, and what is paused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from evertrain.errors import ConfigError, NotFound, UnknownName
from evertrain.events import Kind
from evertrain.partitions import WHOLE
from evertrain.specs import Auto, Cause, Estimator, ModelSpec, ProjectSpec, decode_model, decode_project, encode
from evertrain.store import demand, schedules
from evertrain.store.connect import Record, Tx, dump

# Fields whose change means that the champion was trained by another recipe.
_TRAINING = ("source", "target", "trainer", "trainer_version", "features", "window", "holdout", "gap", "partition_by")
# Fields that the project file owns alone: changing them at run time would make another model of it.
_FIXED = ("name", "source", "target", "trainer", "trainer_version", "features", "series", "partition_by", "rollups")


@dataclass(frozen=True)
class Model:
    """A declared model as the store knows it: its effective declaration and where its versions stand."""

    id: int
    name: str
    spec: ModelSpec
    major: int
    paused: bool
    seconds_each: float | None
    recipe: str
    extract: dict[str, Any] | None


def apply(tx: Tx, project: ProjectSpec, file_digest: str) -> list[str]:
    """Make a declaration the current one and return what changed, in words; an unchanged one writes nothing.

    A model that is new, or whose recipe changed, is due. Another trainer or target, a removed feature or a raised
    `trainer_version` begins a new generation: MAJOR is raised and MINOR starts at 0.
    """
    body = dump(encode(project))
    digest = hashlib.sha256(body.encode()).hexdigest()
    newest = tx.row("SELECT digest FROM snapshots ORDER BY id DESC LIMIT 1")
    if newest and newest.digest == digest:
        return []
    tx.run(
        "INSERT INTO snapshots(digest, body, file_digest, applied_at) VALUES (:digest, :body, :file, :at)",
        digest=digest,
        body=body,
        file=file_digest,
        at=tx.now_text,
    )
    changes = [change for spec in project.models.values() for change in _declare(tx, spec)]
    last = tx.value("SELECT body FROM snapshots ORDER BY id DESC LIMIT 1 OFFSET 1")
    if last is not None and json.loads(last).get("auto") != project.auto:
        tx.run("UPDATE sources SET read_stat = NULL")  # what was only observed till now may be owed
    for row in tx.rows("SELECT id, name FROM models WHERE retired_at IS NULL"):
        if row.name not in project.models:
            tx.run("UPDATE models SET retired_at = :at WHERE id = :id", at=tx.now_text, id=row.id)
            tx.event(Kind.MODEL_RETIRED, model=row.name)
            changes.append(f"{row.name} is no longer declared; its history stays")
    tx.event(Kind.PROJECT_APPLIED, digest=digest, changes=changes)
    return changes or ["settings changed; no model is affected"]


def declare_again(tx: Tx, model: str) -> Model:
    """Bring a model in line with what was set or added at run time, and return it."""
    declared = project(tx)
    assert declared is not None
    _declare(tx, declared.models[model])
    return by_name(tx, model)


def _declare(tx: Tx, declared: ModelSpec) -> list[str]:
    spec = effective(declared, overrides(tx, declared.name))
    added = [rule for rule, _ in schedules.drops(tx, declared.name) if rule not in spec.triggers]
    if added:
        spec = replace(spec, triggers=(*spec.triggers, *dict.fromkeys(added)))
    generation, training = _digest(_generation(spec)), _digest(_recipe(spec))
    row = tx.row("SELECT * FROM models WHERE name = :name", name=spec.name)
    if row is None:
        model_id = int(
            tx.value(
                "INSERT INTO models(name, spec, generation, training, declared_at)"
                " VALUES (:name, :spec, :generation, :training, :at) RETURNING id",
                name=spec.name,
                spec=dump(encode(spec)),
                generation=generation,
                training=training,
                at=tx.now_text,
            )
        )
        tx.event(Kind.MODEL_DECLARED, model=spec.name)
        _look_again(tx, spec)
        _first_partition(tx, model_id, spec)
        return [f"{spec.name} is new"]
    before = decode_model(json.loads(row.spec))
    tx.run("UPDATE models SET spec = :spec, retired_at = NULL WHERE id = :id", spec=dump(encode(spec)), id=row.id)
    if row.training == training and row.retired_at is None and before == spec:
        return []
    _look_again(tx, spec)
    if row.training == training and row.retired_at is None:
        tx.event(Kind.MODEL_CHANGED, model=spec.name, recipe=False)
        return [f"{spec.name}: settings changed, nothing to train for"]
    renewed = row.generation != generation or _lost_feature(before, spec)
    tx.run(
        "UPDATE models SET training = :training, generation = :generation WHERE id = :id",
        training=training,
        generation=generation,
        id=row.id,
    )
    if renewed:
        # Before the first fit there is no generation to end: the first version is 1.0.0 whatever was changed till then.
        tx.run(
            "UPDATE models SET major = major + 1 WHERE id = :id AND EXISTS (SELECT 1 FROM versions WHERE model_id = :id)",
            id=row.id,
        )
    tx.event(Kind.MODEL_CHANGED, model=spec.name, recipe=True, generation=renewed)
    _first_partition(tx, row.id, spec)
    demand.want(tx, row.id, spec.name, demand.Request(Cause.DECLARATION, "its declaration changed"))
    return [f"{spec.name}: {'a new generation begins' if renewed else 'its recipe changed'}; it will be retrained"]


def _first_partition(tx: Tx, model_id: int, spec: ModelSpec) -> None:
    if not spec.partition_by:
        request = demand.Request(Cause.DECLARATION, "no model yet")
        demand.find_partitions(tx, model_id, spec.name, {WHOLE: True}, request)


def _look_again(tx: Tx, spec: ModelSpec) -> None:
    """Have the source of a model taken in anew: rows that were no news to others may be to this one."""
    tx.run("UPDATE sources SET read_stat = NULL WHERE name = :name", name=spec.source)


def _recipe(spec: ModelSpec) -> dict[str, Any]:
    data = encode(spec)
    # What tells nothing is left out, so that a new kind of declaration is no news to models that do not use it.
    return {name: data[name] for name in _TRAINING} | ({"series": data["series"]} if data["series"] else {})


def _generation(spec: ModelSpec) -> dict[str, Any]:
    """What MAJOR counts: the kind of trainer, not its parameters; the target; the declared dimensions."""
    trainer = encode(spec)["trainer"]
    kind = (
        _paths(trainer)
        if isinstance(spec.trainer, Estimator)
        else {k: trainer.get(k) for k in ("kind", "path", "name")}
    )
    return {"trainer": kind, "target": spec.target, "version": spec.trainer_version}


def _paths(node: Any) -> Any:
    """Return the import paths inside an encoded trainer, without its parameters."""
    if isinstance(node, Mapping):
        own = [node[name] for name in ("path", "$object") if name in node]
        return own + [inner for value in node.values() if (inner := _paths(value))]
    if isinstance(node, list):
        return [inner for value in node if (inner := _paths(value))]
    return []


def _lost_feature(before: ModelSpec, after: ModelSpec) -> bool:
    if isinstance(before.features, tuple) and isinstance(after.features, tuple):
        return bool(set(before.features) - set(after.features))
    return before.features != after.features and isinstance(after.features, tuple)


def _digest(data: object) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


# --- reading ----------------------------------------------------------------------------------------------------


def project(tx: Tx) -> ProjectSpec | None:
    """Return the current declaration, or None before the first."""
    body = tx.value("SELECT body FROM snapshots ORDER BY id DESC LIMIT 1")
    return decode_project(json.loads(body)) if body else None


def file_digest(tx: Tx) -> str | None:
    """Return the digest of the project file that the current declaration came from."""
    found = tx.value("SELECT file_digest FROM snapshots ORDER BY id DESC LIMIT 1")
    return str(found) if found else None


def every(tx: Tx) -> list[Model]:
    """Return the declared models, by name."""
    return [_model(row) for row in tx.rows("SELECT * FROM models WHERE retired_at IS NULL ORDER BY name")]


def page(tx: Tx, after: str, limit: int) -> list[Model]:
    """Return declared models behind a name, by name."""
    return [
        _model(row)
        for row in tx.rows(
            "SELECT * FROM models WHERE name > :after AND retired_at IS NULL ORDER BY name LIMIT :limit",
            after=after,
            limit=limit,
        )
    ]


def by_name(tx: Tx, name: str) -> Model:
    """Return one model.

    Raises:
        NotFound: no such model is declared; names those that are.
    """
    row = tx.row("SELECT * FROM models WHERE name = :name AND retired_at IS NULL", name=name)
    if row is None:
        names = ", ".join(one[0] for one in tx.rows("SELECT name FROM models WHERE retired_at IS NULL ORDER BY name"))
        raise NotFound(f"model {name!r} is not declared; declared: {names or 'none yet'}")
    return _model(row)


def by_id(tx: Tx, model_id: int) -> Model:
    """Return the model with this number."""
    row = tx.row("SELECT * FROM models WHERE id = :id", id=model_id)
    assert row is not None
    return _model(row)


def _model(row: Record) -> Model:
    return Model(
        row.id,
        row.name,
        decode_model(json.loads(row.spec)),
        row.major,
        bool(row.paused),
        row.seconds_each,
        row.training,
        json.loads(row.extract) if row.extract else None,
    )


def serving_versions(tx: Tx, model_id: int, limit: int = 5) -> list[str]:
    """Return the versions that serve a model, the newest first; partitions may differ."""
    rows = tx.rows(
        "SELECT major, minor, patch FROM versions WHERE model_id = :model AND serving > 0 ORDER BY id DESC LIMIT :limit",
        model=model_id,
        limit=limit,
    )
    return [f"{row.major}.{row.minor}.{row.patch}" for row in rows]


def auto_of(declared: ProjectSpec, spec: ModelSpec) -> Auto:
    """Return what may be done by itself for a model: the more careful of the project's word and its own."""
    order = [Auto.OFF, Auto.OBSERVE, Auto.TRAIN]
    return min(declared.auto, spec.auto, key=order.index)


# --- run-time overrides -----------------------------------------------------------------------------------------


def overrides(tx: Tx, model: str) -> dict[str, Any]:
    """Return the overrides of a model: dotted field name to value."""
    return {
        row.field: json.loads(row.value)
        for row in tx.rows("SELECT field, value FROM overrides WHERE model = :model ORDER BY field", model=model)
    }


def effective(declared: ModelSpec, changed: Mapping[str, Any]) -> ModelSpec:
    """Return a declaration with overrides applied, validated again.

    Raises:
        ConfigError: a field may not be overridden, does not exist, or its value is not allowed.
    """
    data: Any = encode(declared)
    for name, value in changed.items():
        first, *rest = name.split(".")
        if first in _FIXED:
            raise ConfigError(name, value, f"fields other than {', '.join(_FIXED)}; those belong to the project file")
        steps = [first, *rest]
        place = data
        for step in steps[:-1]:
            place = _inside(place, step, name)
        _inside(place, steps[-1], name)
        if isinstance(place, list):
            place[int(steps[-1])] = value
        else:
            place[steps[-1]] = value
    return decode_model(data)


def _inside(place: Any, step: str, name: str) -> Any:
    if isinstance(place, list):
        # Triggers are a list; their kind is the name people use: `triggers.age.limit`.
        for index, one in enumerate(place):
            if (isinstance(one, Mapping) and one.get("kind") == step) or step == str(index):
                return one
        raise UnknownName(
            name, step, [str(one.get("kind", i)) for i, one in enumerate(place) if isinstance(one, Mapping)]
        )
    if not isinstance(place, Mapping) or step not in place:
        raise UnknownName(name, step, place if isinstance(place, Mapping) else [])
    return place[step]


def set_override(tx: Tx, model: str, field: str, value: Any) -> Model:
    """Set a field at run time; it wins over the project file until it is reset."""
    found = by_name(tx, model)
    declared = project(tx)
    assert declared is not None
    effective(declared.models[model], {**overrides(tx, model), field: value})
    tx.run(
        "INSERT INTO overrides(model, field, value, set_at, actor) VALUES (:model, :field, :value, :at, :actor)"
        " ON CONFLICT(model, field) DO UPDATE SET value = excluded.value, set_at = excluded.set_at,"
        " actor = excluded.actor",
        model=model,
        field=field,
        value=dump(value),
        at=tx.now_text,
        actor=tx.actor,
    )
    tx.event(Kind.CONFIG_SET, model=found.name, field=field, value=value)
    _declare(tx, declared.models[model])
    return by_name(tx, model)


def reset_override(tx: Tx, model: str, field: str | None) -> Model:
    """Take back one override, or all of a model."""
    found = by_name(tx, model)
    declared = project(tx)
    assert declared is not None
    where = "AND field = :field" if field else ""
    changed = tx.run(
        f"DELETE FROM overrides WHERE model = :model {where}", model=model, **({"field": field} if field else {})
    )
    if field and not changed:
        raise UnknownName("field", field, overrides(tx, model))
    tx.event(Kind.CONFIG_RESET, model=found.name, field=field or "all")
    _declare(tx, declared.models[model])
    return by_name(tx, model)


def pause(tx: Tx, model: str | None, *, paused: bool) -> None:
    """Stop or go on training, of one model or of all; what runs goes on, and everything serves."""
    if model is None:
        tx.run("DELETE FROM settings WHERE name = 'paused'")
        if paused:
            tx.run(
                "INSERT INTO settings(name, value, set_at, actor) VALUES ('paused', '1', :at, :actor)",
                at=tx.now_text,
                actor=tx.actor,
            )
        tx.event(Kind.PROJECT_PAUSED if paused else Kind.PROJECT_RESUMED)
        return
    found = by_name(tx, model)
    tx.run("UPDATE models SET paused = :paused WHERE id = :id", paused=int(paused), id=found.id)
    tx.event(Kind.MODEL_PAUSED if paused else Kind.MODEL_RESUMED, model=model)


def is_paused(tx: Tx, model: str | None = None) -> bool:
    """Return whether nothing is trained now, or nothing of one model."""
    return bool(
        tx.value("SELECT 1 FROM settings WHERE name = 'paused'")
        or tx.value("SELECT 1 FROM models WHERE name = :model AND paused", model=model)
    )


def sources_of(found: Iterable[Model]) -> dict[str, list[Model]]:
    """Return the models by the source they read."""
    grouped: dict[str, list[Model]] = {}
    for model in found:
        grouped.setdefault(model.spec.source, []).append(model)
    return grouped
