"""What routes share: who asks whom, pages, partitions in a query, and what the OpenAPI page shows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import to_jsonable_python

from evertrain.control import browse
from evertrain.errors import ConfigError, NotFound
from evertrain.partitions import KeyText
from evertrain.server.once import Route
from evertrain.server.service import Service
from evertrain.store.tokens import Caller

API = "/api/v1"


async def _service(request: Request) -> Service:
    found: Service = request.app.state.service
    return found


async def _caller(request: Request) -> Caller:
    found: Caller = request.state.caller
    return found


Served = Annotated[Service, Depends(_service)]
Who = Annotated[Caller, Depends(_caller)]

Limit = Annotated[int, Query(ge=1, le=browse.MOST, description="Entries of a page.")]
Cursor = Annotated[str | None, Query(max_length=4096, description="The `next` of the page before.")]
ModelName = Annotated[str, Path(description="Name of a model.", max_length=200, examples=["demand"])]
OfModel = Annotated[str | None, Query(alias="model", description="Only of this model.", max_length=200)]


def _number(what: str) -> BeforeValidator:
    def read(text: object) -> int:
        if not (isinstance(text, str) and re.fullmatch("[1-9][0-9]{0,17}", text)):
            raise NotFound(f"{what} {str(text)[:40]} does not exist")
        return int(text)

    return BeforeValidator(read)


RunId = Annotated[int, _number("run"), Path(description="Number of a run.", examples=[17])]
TokenId = Annotated[int, _number("token"), Path(description="Number of a token.", examples=[4])]
ScheduleId = Annotated[int, _number("schedule"), Path(description="Number of a schedule.", examples=[3])]


class Body(BaseModel):
    """What is sent: exact types, nothing that is not known."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


Text = Annotated[str, Field(max_length=4096)]
Scalar = Text | int | float | bool | None
Key = Annotated[dict[Annotated[str, Field(max_length=200)], Scalar], Field(max_length=50)]
Keys = Annotated[list[Key], Field(max_length=10_000)]


class Problem(BaseModel):
    """What is wrong, what is allowed, and what still serves (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    field: str | None = None
    allowed: str | None = None
    serving: str | None = None

    model_config = ConfigDict(extra="allow")


_EXAMPLE = {
    "type": "about:blank",
    "title": "Not Found",
    "status": 404,
    "detail": "model 'sales' is not declared; declared: demand",
}
_PROBLEM: dict[str, Any] = {
    "model": Problem,
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}, "example": _EXAMPLE}},
}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    "4XX": {"description": "Refused: says what is wrong and what is allowed.", **_PROBLEM},
    "5XX": {"description": "Failed for now: says what still serves, and `Retry-After` when to ask again.", **_PROBLEM},
}


# FastAPI leaves out of its document what is null, also inside of examples; they are put in afterwards.
_EXAMPLES: list[Any] = []


def with_examples(document: dict[str, Any]) -> dict[str, Any]:
    """Return an OpenAPI document with the examples that `shown` keeps in their places."""
    for methods in document["paths"].values():
        for told in methods.values():
            for answer in told.get("responses", {}).values():
                kept = answer.get("content", {}).get("application/json", {}).get("example")
                if isinstance(kept, dict) and kept.keys() == {"shown"}:
                    answer["content"]["application/json"]["example"] = _EXAMPLES[kept["shown"]]
    return document


def shown(
    example: Any, status: int = 200, text: str = "Done.", headers: Mapping[str, str] | None = None
) -> dict[int | str, dict[str, Any]]:
    """Return the documented answer of a route, with an example; `headers` say what each of them means."""
    _EXAMPLES.append(to_jsonable_python(example))
    found: dict[str, Any] = {"content": {"application/json": {"example": {"shown": len(_EXAMPLES) - 1}}}}
    if headers:
        told = {name: {"description": said, "schema": {"type": "string"}} for name, said in headers.items()}
        found["headers"] = told
    return {status: {"description": text, **found}}


REPEATABLE: dict[str, Any] = {
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "required": False,
            "description": "Any text of your own. The same request with the same key within 24 hours is done once and"
            " answered alike.",
            "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
        }
    ]
}
BY_PARTITION: dict[str, Any] = {
    "parameters": [
        {
            "name": "partition",
            "in": "query",
            "required": False,
            "style": "form",
            "explode": True,
            "description": "The model's dimensions name a partition, as in `?town=Pilar`; some of them name a rollup, none"
            " the whole.",
            "schema": {"type": "object", "additionalProperties": {"type": "string"}},
        }
    ]
}


def routes_of(noun: str, prefix: str = "") -> APIRouter:
    """Return a router for one noun, whose routes take requests strictly."""
    return APIRouter(prefix=f"{API}{prefix}", tags=[noun], route_class=Route, responses=PROBLEMS)


def partition_of(service: Service, request: Request, model: str, besides: tuple[str, ...] = ()) -> KeyText | None:
    """Return the partition that the query names by the model's dimensions; None where it names none.

    Raises:
        NotFound: no such model.
        ConfigError: a parameter is no dimension of it, or given twice.
    """
    named: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name in besides:
            continue
        if name in named:
            raise ConfigError(name, value[:60], "one value")
        named[name] = value
    try:
        return browse.key_of(service.opened, model, named)
    except NotFound as error:
        if named and "is no dimension" in str(error):
            raise ConfigError("query parameter", str(error), ", ".join(besides) or "the model's dimensions") from None
        raise
