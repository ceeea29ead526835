"""Taking back, holding, and adopting: changes of champion that a person asks for, after a trial load."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evertrain import registry
from evertrain.artifacts import Place
from evertrain.control.ask import keys_of
from evertrain.control.opened import Opened
from evertrain.errors import ArtifactError, ConfigError, Conflict, DataError
from evertrain.executors.jobs import Lost, Message
from evertrain.executors.supervisor import Supervisor
from evertrain.partitions import WHOLE, KeyText
from evertrain.specs import encode
from evertrain.store import demand, models
from evertrain.store.connect import Record
from evertrain.trainers.make import family

# Loading a fit costs milliseconds to seconds; every digest is checked, and this many are loaded for a trial.
_TRIED = 50


@dataclass(frozen=True)
class RolledBack:
    """What a rollback came to: how many partitions, from which versions to which."""

    model: str
    partitions: int
    before: str
    after: str
    pinned: bool


def rollback(
    opened: Opened,
    model: str,
    *,
    version: str | None = None,
    partitions: Sequence[Mapping[str, Any]] | None = None,
    run_id: int | None = None,
    pin: bool = False,
    actor: str,
    why: str,
) -> RolledBack:
    """Let earlier fits serve again, all of them in one transaction, after their bytes were checked and tried.

    Raises:
        Conflict: there is no earlier fit, or a champion changed meanwhile.
        ArtifactError: an earlier fit is damaged or no longer loads; nothing changes.
    """
    with opened.store.read() as tx:
        found = models.by_name(tx, model)
        keys = keys_of(found.spec, partitions)
        ways = registry.returns(tx, found.id, keys=keys, version=version, run_id=run_id)
        before = models.serving_versions(tx, found.id, 3)
    if not ways:
        wanted = f"no fit of version {version} that served" if version else "no earlier fit"
        raise Conflict(f"{model} has {wanted} to go back to; {', '.join(before) or 'nothing'} serves")
    try_out(opened, found, [way.to for way in ways])
    with opened.store.write(actor) as tx:
        registry.roll_back(tx, model, ways, actor=actor, why=why, pin=pin)
        after = models.serving_versions(tx, found.id, 3)
    return RolledBack(model, len(ways), ", ".join(before), ", ".join(after), pin)


def pin(
    opened: Opened, model: str, *, pinned: bool, partitions: Sequence[Mapping[str, Any]] | None = None, actor: str
) -> int:
    """Hold champions against every challenger, or free them; return how many."""
    with opened.store.write(actor) as tx:
        found = models.by_name(tx, model)
        return registry.pin(tx, found.id, model, keys_of(found.spec, partitions), pinned=pinned)


def try_out(opened: Opened, model: models.Model, fits: Sequence[registry.Fit]) -> None:
    """Check the bytes of fits and load the first of them in a worker.

    Raises:
        ArtifactError: one is damaged or no longer loads; names its digest.
    """
    for fit in fits:
        opened.artifacts.read(fit.place)
    folder = opened.artifacts
    task = {"kind": "check", "fits": [fit.as_message(str(folder.path(fit.place.artifact))) for fit in fits[:_TRIED]]}
    answer = _ask(opened, task, family(model.spec.trainer))
    if answer["broken"]:
        number, reason = next(iter(answer["broken"].items()))
        version = next(fit.version for fit in fits if str(fit.id) == number)
        raise ArtifactError(
            f"{model.name} {version} cannot be loaded any more: {reason}; nothing was changed",
            digest=next(fit.place.artifact for fit in fits if str(fit.id) == number),
        )


def _ask(opened: Opened, task: Message, family_name: str) -> Message:
    """Have one task done by a worker of this process, and wait for it."""
    with opened.alone() as hands:
        return _wait(hands, task, family_name)


def _wait(hands: Supervisor, task: Message, family_name: str) -> Message:
    answers: list[Message | Lost] = []
    hands.ask(task, family_name, answers.append)
    while hands.busy and not answers:
        hands.step(0.1)
    answer = answers[0]
    if isinstance(answer, Lost):
        raise Conflict(f"the trial failed: {answer.reason}; nothing was changed")
    if answer["type"] == "error":
        raise Conflict(f"the trial failed: {answer['reason']}; nothing was changed")
    return answer


def adopt(opened: Opened, model: str, file: Path, *, actor: str) -> str:
    """Make an existing model file the first champion, 1.0.0, judged on the current hold-out; return its version.

    The file holds what the model's trainer saves: for scikit-learn a `.skops` file of an estimator that takes the
    model's feature columns. Its age is the file's.

    Raises:
        Conflict: there is a champion already.
        ConfigError: the model is partitioned, or the file is a pickle.
        ArtifactError: the file cannot be loaded safely.
    """
    with opened.store.read() as tx:
        found = models.by_name(tx, model)
        project = models.project(tx)
        place = demand.partition(tx, found.id, WHOLE)
    assert project is not None
    if found.spec.partition_by:
        raise ConfigError("model", model, "a model without partitions; a partitioned one trains its own")
    if found.spec.series:
        raise ConfigError("model", model, "a model that predicts rows; a forecaster is fitted on every row in seconds")
    if file.suffix in (".pkl", ".pickle", ".joblib"):
        raise ConfigError(
            "file", file.name, "a file that is safe to load: save it once with skops.io.dump(model, 'model.skops')"
        )
    if not file.is_file():
        raise ConfigError("file", str(file), "an existing model file")
    if place is None or place.champion_id is not None:
        raise Conflict(f"{model} has a champion already; adopt works before the first training")
    with opened.alone() as hands:
        answer = _judged(opened, hands, found, project, file)
    result = answer["result"]
    if result["state"] != "fitted":
        raise ArtifactError(f"{file.name} cannot be adopted: {result['reason']}", digest="")
    with opened.store.write(actor) as tx:
        seen = demand.partition(tx, found.id, WHOLE)
        assert seen is not None
        return registry.adopt(
            tx,
            found.id,
            model,
            seen.id,
            {
                "major": found.major,
                "place": answer["place"],
                "artifact_size": answer["size"],
                "trainer": encode(found.spec.trainer),
                "signature": {**result["signature"], "recipe": found.recipe, "beats_baseline": False},
                "scores": result["scores"],
                "numbers": {name: result["measured"].get(name) for name in ("score", "rows", "challenger")},
                "rows": result["rows"],
                "input": seen.seen,
                "trained_at": datetime.fromtimestamp(file.stat().st_mtime, UTC),
            },
        )


def _judged(opened: Opened, hands: Supervisor, model: models.Model, project: Any, file: Path) -> dict[str, Any]:
    """Load a file in a worker and measure it on the current hold-out, as a challenger would be."""
    read: list[Any] = []
    hands.read_source(model.spec.source, force=True, answer=read.append)
    while hands.busy:
        hands.step(0.1)
    with opened.store.read() as tx:
        model = models.by_name(tx, model.name)
        place = demand.partition(tx, model.id, WHOLE)
    if model.extract is None or place is None or place.seen is None:
        raise DataError(f"{model.name} has no usable rows to try {file.name} on")
    copy = hands.scratch / "adopted"
    shutil.copyfile(file, copy)
    artifact, size = opened.artifacts.take(copy)
    data = Place(artifact, 0, size, artifact)
    fitted = {
        "path": str(opened.artifacts.path(artifact)),
        "artifact": artifact,
        "start": 0,
        "size": size,
        "digest": artifact,
    }
    item = {"id": 0, "key": WHOLE, "leaf": True, "input": place.seen, "champion": None, "fitted": fitted}
    task = hands.task("train", model, project, [item])
    message = _wait(hands, task, family(model.spec.trainer))
    result = message["results"][0]
    if result["state"] == "fitted" and message["path"]:
        digest, size = opened.artifacts.take(Path(message["path"]))
        data = Place(digest, result["start"], result["size"], result["digest"])
    return {"result": result, "place": data, "size": size}


def can_return(opened: Opened, model: str) -> bool:
    """Return whether a rollback would find an earlier fit."""
    with opened.store.read() as tx:
        return bool(registry.returns(tx, models.by_name(tx, model).id, keys=None, version=None, run_id=None))


def versions(opened: Opened, model: str, limit: int = 20) -> list[dict[str, Any]]:
    """Return a model's versions, newest first: what each came to and how many partitions it serves."""
    with opened.store.read() as tx:
        found = models.by_name(tx, model)
        rows = registry.versions(tx, found.id, limit)
    return [version(row) for row in rows]


def version(row: Record) -> dict[str, Any]:
    """Return what a version came to, of its row."""
    verdict, shown = json.loads(row.verdict or "{}"), json.loads(row.scores or "{}")
    return {
        "version": f"{row.major}.{row.minor}.{row.patch}",
        "created_at": row.created_at,
        "run": row.run_id,
        "cause": row.cause,
        "reason": row.reason,
        "actor": row.actor,
        "state": "serving"
        if row.serving
        else "archived"
        if json.loads(row.outcomes or "{}").get("promoted")
        else str(row.state if row.state in ("queued", "running") else "refused" if row.fits else row.state),
        "fits": row.fits,
        "serving": row.serving,
        "score": verdict.get("score"),
        "value": verdict.get("challenger"),
        "verdict": verdict.get("reason"),
        "scores": shown.get("challenger"),
    }


def key_of(spec: Any, partition: Mapping[str, Any] | None) -> KeyText:
    """Return the key of one named partition; of none, the whole."""
    found = keys_of(spec, [partition or {}])
    assert found is not None
    return found[0]
