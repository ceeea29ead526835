"""The description of the API for people: one page made from the OpenAPI document, without a script."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse
from markupsafe import Markup, escape

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class Parameter:
    """One parameter of an operation, as a row of a table."""

    name: str
    place: str
    kind: str
    needed: bool
    text: str


@dataclass(frozen=True)
class Operation:
    """One operation as the page shows it; `body` and `answers` are examples, as JSON."""

    id: str
    method: str
    path: str
    summary: str
    text: str
    parameters: tuple[Parameter, ...]
    body_text: str
    body: str | None
    answers: tuple[tuple[str, str, str | None], ...]
    curl: str


@router.get("/api/docs", response_class=HTMLResponse)
async def docs(request: Request) -> HTMLResponse:
    """Show every operation by noun: its parameters, examples, and a line to paste."""
    address = f"{request.url.scheme}://{request.headers.get('host', '127.0.0.1:8000')}"
    return HTMLResponse(_page().render(title=request.app.title, nouns=nouns(request.app, address)))


@cache
def _page() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    found = Environment(loader=PackageLoader("evertrain.server"), autoescape=True, undefined=StrictUndefined)
    found.filters["said"] = _said
    return found.get_template("docs.html")


def _said(text: str) -> Markup:
    """Return a text with what stands between backticks as code."""
    return Markup(re.sub("`([^`]*)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped just before


def nouns(app: FastAPI, address: str) -> dict[str, list[Operation]]:
    """Return the operations of an application by noun, as an address elsewhere would be asked."""
    document, found = app.openapi(), dict[str, list[Operation]]()
    for path, methods in document["paths"].items():
        for method, told in methods.items():
            for noun in told.get("tags", ["other"]):
                found.setdefault(noun, []).append(_operation(document, address, method.upper(), path, told))
    return found


def _operation(document: Mapping[str, Any], address: str, method: str, path: str, told: Mapping[str, Any]) -> Operation:
    summary, _, rest = told.get("description", told.get("summary", "")).partition("\n")
    content = dict[str, Any](told.get("requestBody", {"content": {}})["content"])
    kind, shape = next(iter(content.items()), ("", dict[str, Any]()))
    schema = _resolved(document, shape.get("schema", {}))
    body = shape.get("example", schema.get("example"))
    return Operation(
        told["operationId"],
        method,
        path,
        summary,
        rest.strip(),
        tuple(_parameters(document, told)),
        schema.get("description", "").partition("\n\nAttributes")[0],
        None if body is None else _json(body),
        tuple(_answers(told)),
        _curl(address, method, path, kind, body),
    )


def _parameters(document: Mapping[str, Any], told: Mapping[str, Any]) -> Iterator[Parameter]:
    for one in told.get("parameters", ()):
        schema = one.get("schema", {})
        options = [_resolved(document, each) for each in schema.get("anyOf", [schema])]
        kinds = [each for each in options if each.get("type") != "null"]
        allowed = [str(value) for each in kinds for value in each.get("enum", each.get("items", {}).get("enum", []))]
        limits = [said.format(each[name]) for each in kinds for name, said in _LIMITS.items() if name in each]
        notes = [one.get("description", ""), ", ".join(allowed), ", ".join(limits)]
        if schema.get("default") is not None:
            notes.append(f"default {json.dumps(schema['default'])}")
        text = "; ".join(filter(None, (note.rstrip(".") for note in notes)))
        kind = " or ".join(str(each.get("type", "text")) for each in kinds)
        yield Parameter(one["name"], one["in"], kind, bool(one.get("required")), text)


_LIMITS = {"minimum": "at least {}", "maximum": "at most {}", "maxLength": "at most {} characters"}


def _answers(told: Mapping[str, Any]) -> Iterator[tuple[str, str, str | None]]:
    for status, answer in told["responses"].items():
        contents: list[dict[str, Any]] = list(answer.get("content", {}).values())
        example = contents[0].get("example") if contents else None
        yield status, answer.get("description", ""), None if example is None else _json(example)


def _resolved(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    if (place := schema.get("$ref")) is None:
        return schema
    found: Mapping[str, Any] = document["components"]["schemas"][place.rpartition("/")[2]]
    return found


def _curl(address: str, method: str, path: str, kind: str, body: Any) -> str:
    for name, value in (
        ("{name}", "demand"),
        ("{run}", "17"),
        ("{run_id}", "17"),
        ("{schedule}", "3"),
        ("{number}", "5"),
    ):
        path = path.replace(name, value)
    words = ["curl"] + (["-X", method] if method not in ("GET", "POST") or (method == "POST" and not kind) else [])
    words.append(f"{address}{path}")
    if body is not None:
        words += ["--json", json.dumps(body, ensure_ascii=False)]
    elif kind:
        words += ["-F", "file=@rows.csv"] if kind.startswith("multipart") else ["-H", f"Content-Type: {kind}"]
    return shlex.join(words)


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
