"""Models: how they stand, what serves, what they answer; training, taking back and holding them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Query, Request, Response
from pydantic import Field

from evertrain.control import ask, back, browse, foresee, observe, steer, tell
from evertrain.control.ask import keys_of
from evertrain.control.browse import Page
from evertrain.errors import ConfigError
from evertrain.observations import Labelled, Noted
from evertrain.partitions import decode
from evertrain.server.routes.common import (
    API,
    BY_PARTITION,
    REPEATABLE,
    Body,
    Cursor,
    Key,
    Keys,
    Limit,
    ModelName,
    Scalar,
    Served,
    Text,
    Who,
    partition_of,
    routes_of,
    shown,
)
from evertrain.states import ItemState
from evertrain.store import models

router = routes_of("models", "/models")

_AT = datetime(2026, 3, 2, 3, 0, 12, tzinfo=UTC)
_STATUS = tell.ModelStatus(
    "demand", "fresh", ["1.4.0"], 42, 0, 0, 42, _AT, 3600.0, 2592000.0, "mae", 3.21, 4.5, 18250, 100,
    "the champion is 1 h old, 30 d are allowed", _AT, _AT, 0, None,
)  # fmt: skip
_TRAINER = {"kind": "estimator", "path": "sklearn.linear_model:Ridge", "params": {"alpha": 1.0}}
_DETAIL = browse.ModelDetail(
    **vars(_STATUS), paused=False, auto="train", source="orders", target="sold", features=["price", "weekday"],
    dimensions=["town"], rollups=[[]], overall="Overall", trainer=_TRAINER, series=None, triggers=["data_change", "age"],
    gate={"score": "mae", "tolerance": 0.02}, holdout=0.2, generation=1,
)  # fmt: skip
_CONFIG = {"model": "demand", "declaration": {"target": "sold", "trainer": _TRAINER}, "overrides": {"auto": "observe"}}
_WHY = {
    "model": "demand",
    "decisions": [{"rule": "age", "fired": False, "reason": "the champion is 1 h old, 30 d are allowed", "times": 12}],
    "source": {"problem": None, "read_at": "2026-03-02T03:00:00.000000Z"},
    "partition": {"key": "{}", "name": "Overall", "rows": 18250, "version": "1.4.0", "due": False},
    "drift": None,
}
_PARTITION = browse.Partition(
    {"town": "Pilar"}, "Pilar", False, 912, "1.4.0", _AT, False, False, False, "promoted", "mae fell by 4.5 %", _AT
)
_VERSION = browse.Version(
    "1.4.0", "serving", _AT, 17, "data_change", "912 new rows", "evertrain", 42, 42, "mae", 3.21, "mae fell by 4.5 %",
    {"mae": 3.21},
)  # fmt: skip
_CHAMPION = browse.Champion(
    "demand", {"town": "Pilar"}, "Pilar", "1.4.0", 804, _AT, 3600.0, _AT, "evertrain", "mae fell by 4.5 %", 912,
    {"mae": 3.21}, {"outcome": "promoted", "score": "mae", "challenger": 3.21, "champion": 3.36}, False, False,
)  # fmt: skip
_ACTIVATION = browse.Activation("1.4.0", 804, _AT, None, "evertrain", "mae fell by 4.5 %", False)
_SCORED = browse.Scored(
    804, "1.4.0", 17, "data_change", _AT, "promoted", "mae fell by 4.5 %", "mae", 3.21, 3.36, 4.5, {"mae": 3.21}, 912,
    0.41, True, False, [browse.Span(_AT, None)],
)  # fmt: skip
_DECIDED = browse.Decided(
    91, "demand", "age", "age", False, "none", "young", "none", None, "the champion is 1 h old, 30 d are allowed",
    {"age_s": 3600.0}, _AT, _AT, 12,
)  # fmt: skip
_PREVIEW = foresee.Preview(
    "demand", "selective", 3, 2, 1, 42, {"data_change": 3}, "912 new rows", 1.2, 0.4, 3, 0, None, None
)


# --- looking ----------------------------------------------------------------------------------------------------


@router.get("", operation_id="list_models", responses=shown(Page([_STATUS], None)))
def list_models(service: Served, limit: Limit = 50, cursor: Cursor = None) -> Page[tell.ModelStatus]:
    """List models with how each stands, by name."""
    return browse.model_list(service.opened, limit, cursor)


@router.get("/{name}", operation_id="get_model", responses=shown(_DETAIL))
def get_model(service: Served, name: ModelName) -> browse.ModelDetail:
    """Show how a model stands and what its declaration says."""
    return browse.model(service.opened, name)


@router.get("/{name}/config", operation_id="get_model_config", responses=shown(_CONFIG))
def get_model_config(service: Served, name: ModelName) -> dict[str, Any]:
    """Show a model's whole declaration as it is in effect, and which fields were overridden at run time."""
    return tell.config(service.opened, name)


@router.get("/{name}/why", operation_id="why_model", openapi_extra=BY_PARTITION, responses=shown(_WHY))
def why_model(service: Served, request: Request, name: ModelName) -> dict[str, Any]:
    """Show why a model was, or was not, trained: the last answer of each trigger, and the last end of a partition."""
    return tell.why(service.opened, name, partition_of(service, request, name))


@router.get("/{name}/versions", operation_id="list_versions", responses=shown(Page([_VERSION], None)))
def list_versions(service: Served, name: ModelName, limit: Limit = 50, cursor: Cursor = None) -> Page[browse.Version]:
    """List a model's versions, newest first."""
    return browse.version_list(service.opened, name, limit, cursor)


@router.get(
    "/{name}/champion",
    operation_id="get_champion",
    openapi_extra=BY_PARTITION,
    responses=shown(_CHAMPION, headers={"X-Model-Version": "The version that serves."}),
)
def get_champion(service: Served, request: Request, response: Response, name: ModelName) -> browse.Champion:
    """Show what serves a partition, since when and why; without one in the query, the whole."""
    found = browse.champion(service.opened, name, partition_of(service, request, name))
    response.headers["X-Model-Version"] = found.version
    return found


@router.get(
    "/{name}/activations",
    operation_id="list_activations",
    openapi_extra=BY_PARTITION,
    responses=shown(Page([_ACTIVATION], None)),
)
def list_activations(
    service: Served, request: Request, name: ModelName, limit: Limit = 50, cursor: Cursor = None
) -> Page[browse.Activation]:
    """List what served a partition when, by whom and why, newest first."""
    key = partition_of(service, request, name, ("limit", "cursor"))
    return browse.activation_list(service.opened, name, key, limit, cursor)


@router.get(
    "/{name}/scores", operation_id="list_scores", openapi_extra=BY_PARTITION, responses=shown(Page([_SCORED], None))
)
def list_scores(
    service: Served, request: Request, name: ModelName, limit: Limit = 50, cursor: Cursor = None
) -> Page[browse.Scored]:
    """List the fits of a partition with their scores and verdicts, and when they served, newest first."""
    key = partition_of(service, request, name, ("limit", "cursor"))
    return browse.score_list(service.opened, name, key, limit, cursor)


@router.get("/{name}/partitions", operation_id="list_partitions", responses=shown(Page([_PARTITION], None)))
def list_partitions(
    service: Served,
    name: ModelName,
    q: Annotated[str | None, Query(max_length=500, description="Words, each part of some value of the key.")] = None,
    rollup: Annotated[bool | None, Query(description="Only rollups, or only partitions.")] = None,
    due: Annotated[bool | None, Query(description="Only those that wait for training, or those that do not.")] = None,
    behind: Annotated[bool | None, Query(description="Only those whose champion lacks the newest.")] = None,
    serving: Annotated[bool | None, Query(description="Only those that have a champion, or have none.")] = None,
    pinned: Annotated[bool | None, Query(description="Only those held against challengers.")] = None,
    outcome: Annotated[ItemState | None, Query(description="How their last training ended.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[browse.Partition]:  # fmt: skip
    """List or search partitions and rollups, by key. A page may be short, even empty: go on while `next` is not null."""
    return browse.partition_list(
        service.opened, name, q, limit, cursor,
        rollup=rollup, due=due, behind=behind, serving=serving, pinned=pinned, outcome=outcome and str(outcome),
    )  # fmt: skip


@router.get("/{name}/decisions", operation_id="list_model_decisions", responses=shown(Page([_DECIDED], None)))
def list_model_decisions(
    service: Served,
    name: ModelName,
    fired: Annotated[bool | None, Query(description="Only those that asked for training, or that did not.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[browse.Decided]:
    """List why a model was, or was not, to be trained, newest first."""
    return browse.decision_list(service.opened, name, fired=fired, limit=limit, cursor=cursor)


@router.get("/{name}/plan", operation_id="preview_plan", openapi_extra=BY_PARTITION, responses=shown(_PREVIEW))
def preview_plan(
    service: Served,
    request: Request,
    who: Who,
    name: ModelName,
    full: Annotated[bool, Query(description="As if the whole model were asked for by hand.")] = False,
) -> foresee.Preview:
    """Foresee what would be trained now, why, and for how long; of a partition, as if it were asked for by hand."""
    key = partition_of(service, request, name, ("full",))
    return foresee.preview(service.opened, name, None if key is None else [decode(key)], full=full, actor=who.name)


# --- answering --------------------------------------------------------------------------------------------------

Rows = Annotated[list[dict[Annotated[str, Field(max_length=200)], Scalar]], Field(min_length=1, max_length=10_000)]


class PredictBody(Body, json_schema_extra={"example": {"rows": [{"price": 2.5, "weekday": "mon"}], "observe": False}}):
    """Rows to predict: one object per row, features by name.

    `partition` names whose model answers; without it each row's partition columns do. `observe` keeps what is
    answered, so that drift and, with actuals, live accuracy can be measured; `ids` name the rows for that.
    """

    rows: Rows
    partition: Key | None = None
    observe: bool = False
    ids: Annotated[list[Text | int], Field(max_length=10_000)] | None = None


@dataclass(frozen=True)
class Predicted:
    """Predictions in the order of the rows, each with the version and the partition or rollup that answered.

    Attributes:
        fallback: whether any row was answered by a rollup in place of its own partition.
        ids: by which actuals find the rows; empty where they were not observed.
    """

    model: str
    predictions: list[Any]
    versions: list[str]
    answered_by: list[str]
    fallback: bool
    ids: list[str]


@router.post(
    "/{name}/predict",
    operation_id="predict",
    responses=shown(
        Predicted("demand", [12.4], ["1.4.0"], ["Pilar"], fallback=False, ids=[]),
        headers={"X-Model-Version": "The versions that answered."},
    ),
)
def predict(service: Served, response: Response, name: ModelName, body: PredictBody) -> Predicted:
    """Predict rows with the champions that serve now."""
    predictor = service.predictor(name, observe_rows=body.observe)
    found = predictor.answer(body.rows, body.partition, ids=body.ids)
    response.headers["X-Model-Version"] = ", ".join(list(dict.fromkeys(found.versions))[:20])
    values = [None if isinstance(one, float) and not math.isfinite(one) else one for one in found.values.tolist()]
    return Predicted(name, values, found.versions, found.answered_by, found.fallback, list(found.ids))


class ObservationsBody(
    Body,
    json_schema_extra={
        "example": {"rows": [{"order": "A-7", "price": 2.5, "weekday": "mon", "prediction": 12.4}], "id": "order"}
    },
):
    """Predictions that were made elsewhere, with their features: one object per row.

    `prediction`, `id`, `time` and `probabilities` name columns of the rows; a column "actual", or one named as the
    target, is taken as what really happened.
    """

    rows: Rows
    prediction: Text = "prediction"
    id: Text | None = None
    time: Text | None = None
    partition: Key | None = None
    probabilities: Annotated[list[Text], Field(max_length=1000)] | None = None


_NOTED = Noted(1, new=1, ids=("A-7",))


@router.post(
    "/{name}/observations",
    operation_id="add_observations",
    status_code=201,
    openapi_extra=REPEATABLE,
    responses=shown(_NOTED, 201, "Kept."),
)
def add_observations(service: Served, name: ModelName, body: ObservationsBody) -> Noted:
    """Keep predictions with their features, so that drift and live accuracy can be measured."""
    return observe.observe(
        service.opened, name, body.rows, prediction=body.prediction, id=body.id, time=body.time,
        partition=body.partition, probabilities=body.probabilities,
    )  # fmt: skip


class ActualsBody(Body, json_schema_extra={"example": {"rows": [{"order": "A-7", "actual": 13}], "id": "order"}}):
    """What really happened: one object per row; `id`, `actual` and `time` name columns of the rows."""

    rows: Rows
    id: Text = "id"
    actual: Text | None = None
    time: Text | None = None


@router.post(
    "/{name}/actuals",
    operation_id="add_actuals",
    status_code=201,
    openapi_extra=REPEATABLE,
    responses=shown(Labelled(1, matched=1), 201, "Kept."),
)
def add_actuals(service: Served, name: ModelName, body: ActualsBody) -> Labelled:
    """Keep what really happened, found by id: before or long after the prediction, or again to correct it."""
    return observe.actuals(service.opened, name, body.rows, id=body.id, actual=body.actual, time=body.time)


# --- training and taking back -----------------------------------------------------------------------------------


class RetrainBody(Body, json_schema_extra={"example": {"partitions": [{"town": "Pilar"}], "force": False}}):
    """What to train: named partitions with the rollups above them, or all.

    `force` trains even where the champion knows exactly these rows. `changed` says that an application has changed
    rows of the named partitions in records of its own: the source is read again first.
    """

    partitions: Keys | None = None
    force: bool = False
    changed: bool = False


@dataclass(frozen=True)
class Requested:
    """What became of a request for training.

    Attributes:
        run: its number; null where nothing can be trained yet, `reason` says why.
        partitions, of: how many are trained, and how many there are.
        announcement: what users of the application may read, where its records changed.
    """

    run: int | None
    model: str
    partitions: int
    of: int
    reason: str
    announcement: str | None

    @classmethod
    def of_asked(cls, model: str, asked: ask.Asked) -> Requested:
        return cls(asked.run_id, model, asked.partitions, asked.total, asked.reason, asked.announcement or None)


REQUESTED = Requested(17, "demand", 2, 42, "asked by ana", None)
RUN_HEADER = {"Location": "The run."}


def accepted(response: Response, requested: Requested) -> Requested:
    """Return the answer to a request for training, with the address of its run in the headers."""
    if requested.run is not None:
        response.headers["Location"] = f"{API}/runs/{requested.run}"
    return requested


@router.post(
    "/{name}/retrain",
    operation_id="retrain",
    status_code=202,
    openapi_extra=REPEATABLE,
    responses=shown(REQUESTED, 202, "Taken on; the run goes on by itself.", headers=RUN_HEADER),
)
def retrain(service: Served, who: Who, response: Response, name: ModelName, body: RetrainBody) -> Requested:
    """Ask for training by hand. What serves goes on until something better is there."""
    most = service.options.max_queue
    if body.changed:
        if body.partitions is None or body.force:
            raise ConfigError("changed", True, "beside `partitions`, and without `force`")
        asked = ask.changed(service.opened, name, body.partitions, actor=who.name, most_waiting=most)
    else:
        asked = ask.trigger(service.opened, name, body.partitions, force=body.force, actor=who.name, most_waiting=most)
    return accepted(response, Requested.of_asked(name, asked))


class RollbackBody(Body, json_schema_extra={"example": {"to": "1.3.0", "pin": True, "why": "orders look wrong"}}):
    """Which earlier fits are to serve again: those of version `to`, else of each the one before.

    Of one `partition`, of what a `run` promoted, or of the whole model. `pin` keeps challengers away afterwards.
    """

    to: Annotated[str, Field(pattern=r"^[0-9]{1,9}\.[0-9]{1,9}\.[0-9]{1,9}$")] | None = None
    partition: Key | None = None
    run: Annotated[int, Field(ge=1, lt=2**63)] | None = None
    pin: bool = False
    why: Annotated[str, Field(min_length=1, max_length=500)] = "asked by a person"


@router.post(
    "/{name}/rollback",
    operation_id="rollback",
    openapi_extra=REPEATABLE,
    responses=shown(
        back.RolledBack("demand", 42, "1.4.0", "1.3.0", True),
        headers={"X-Model-Version": "The versions that serve now."},
    ),
)
def rollback(service: Served, who: Who, response: Response, name: ModelName, body: RollbackBody) -> back.RolledBack:
    """Let earlier fits serve again, all at once, after a trial load."""
    found = back.rollback(
        service.opened, name, version=body.to, partitions=None if body.partition is None else [body.partition],
        run_id=body.run, pin=body.pin, actor=who.name, why=body.why,
    )  # fmt: skip
    response.headers["X-Model-Version"] = found.after
    return found


class PinBody(Body, json_schema_extra={"example": {"pinned": True, "partitions": [{"town": "Pilar"}]}}):
    """Whether champions are held against every challenger, of named partitions or of all."""

    pinned: bool = True
    partitions: Keys | None = None


@dataclass(frozen=True)
class Pinned:
    """How many champions are held, or free again."""

    model: str
    pinned: bool
    partitions: int


@router.post("/{name}/pin", operation_id="pin", openapi_extra=REPEATABLE, responses=shown(Pinned("demand", True, 1)))
def pin(service: Served, who: Who, name: ModelName, body: PinBody) -> Pinned:
    """Hold champions against every challenger, or free them."""
    if body.partitions is not None:
        known(service, name, body.partitions)
    number = back.pin(service.opened, name, pinned=body.pinned, partitions=body.partitions, actor=who.name)
    return Pinned(name, body.pinned, number)


def known(service: Any, name: str, partitions: Sequence[dict[str, Any]]) -> None:
    """Refuse partitions that do not exist, by name."""
    with service.opened.store.read() as tx:
        found = models.by_name(tx, name)
        ask.known(tx, found, keys_of(found.spec, partitions) or [])


@dataclass(frozen=True)
class Paused:
    """Whether training is paused, of a model or, without one, of the project."""

    model: str | None
    paused: bool


@router.post(
    "/{name}/pause", operation_id="pause_model", openapi_extra=REPEATABLE, responses=shown(Paused("demand", True))
)
def pause_model(service: Served, who: Who, name: ModelName) -> Paused:
    """Train nothing of a model until it is resumed; what runs goes on, and everything serves."""
    steer.pause(service.opened, name, paused=True, actor=who.name)
    return Paused(name, True)


@router.post(
    "/{name}/resume", operation_id="resume_model", openapi_extra=REPEATABLE, responses=shown(Paused("demand", False))
)
def resume_model(service: Served, who: Who, name: ModelName) -> Paused:
    """Train a model again."""
    steer.pause(service.opened, name, paused=False, actor=who.name)
    return Paused(name, False)
