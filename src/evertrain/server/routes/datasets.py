"""Datasets: rows that are kept, the batches they came in, what is sent, corrected, taken back and written out."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from fastapi import Path, Query, Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from pydantic import ConfigDict, Field

from evertrain.control import data
from evertrain.errors import NotFound
from evertrain.server import uploads
from evertrain.server.routes.common import PROBLEMS, REPEATABLE, Body, Key, Limit, Served, Who, routes_of, shown

router = routes_of("datasets", "/datasets")

Name = Annotated[str, Path(description="Name of a dataset.", max_length=200, examples=["sales"])]
Number = Annotated[int, Path(ge=1, lt=2**62, description="Number of a batch.", examples=[12])]

_REPORT = re.compile(r"[0-9a-f]{16}\.csv")
_FILE: dict[str, Any] = {
    **REPEATABLE,
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"file": {"type": "string", "format": "binary"}},
                    "required": ["file"],
                }
            },
            "text/csv": {"schema": {"type": "string"}, "example": "day,shop,sold\n2026-01-01,North,7\n"},
            "application/vnd.apache.parquet": {"schema": {"type": "string", "format": "binary"}},
        },
    },
}
_AT = "2026-03-02T03:00:00.000000Z"
_DATASET = {
    "dataset": "sales", "key": ["day", "shop"], "time": "day",
    "columns": {"day": "date", "shop": "text", "sold": "integer"}, "rows": 40, "version": 3, "oldest_version": 0,
    "changed_at": _AT, "models": ["demand"],
}  # fmt: skip
_LISTED = {
    "batch": 12, "version": 3, "kind": "ingest", "source": "june.csv", "actor": "ana", "at": _AT, "added": 2, "updated": 1,
    "removed": 0, "unchanged": 37, "set_aside": 0, "undoes": None, "report": None,
}  # fmt: skip
_BATCH = {
    "batch": 12, "dataset": "sales", "version": 3, "kind": "ingest", "added": 2, "updated": 1, "removed": 0,
    "unchanged": 37, "set_aside": 0, "again": False, "left": [], "notes": [], "fits": [], "report": None,
    "text": "batch 12 of sales: 2 added, 1 updated, 37 unchanged; version 3.",
    "announcements": ["Records updated. Forecast models for North and Overall are being updated in the background."],
}  # fmt: skip
_FILED: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/csv": {"schema": {"type": "string"}}}, "description": "A file to keep."}
}
_TAKEN: dict[int | str, dict[str, Any]] = {
    **shown({**_BATCH, "bad_rows": [], "runs": [17]}, 201, "Merged as one batch."),
    200: {
        "description": "Merged before, rehearsed, or followed as server-sent events.",
        "content": {
            "application/json": {"example": {**_BATCH, "again": True, "bad_rows": [], "runs": []}},
            "text/event-stream": {"example": 'data: {"type": "progress", "data": "Reading uploaded CSV..."}\n\n'},
        },
    },
    **PROBLEMS,
}


class Rows(Body):
    """Rows by column; each names its key columns, and what is to change."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"rows": [{"day": "2026-01-01", "shop": "North", "sold": 8}]}}
    )

    rows: Annotated[list[Key], Field(min_length=1, max_length=10_000)]


@router.get("", operation_id="list_datasets", responses=shown({"items": [_DATASET], "next": None}))
def list_datasets(service: Served) -> dict[str, Any]:
    """List the datasets with how many rows they hold, and the models that learn from them."""
    return {"items": data.listed(service.opened), "next": None}


@router.get("/{name}", operation_id="get_dataset", responses=shown(_DATASET))
def get_dataset(service: Served, name: Name) -> dict[str, Any]:
    """Show a dataset: its key, its columns, its rows and the models that learn from it."""
    uploads.check_dataset(service, name)
    return data.described(service.opened, name)


@router.get("/{name}/batches", operation_id="list_batches", responses=shown({"items": [_LISTED], "next": None}))
def list_batches(
    service: Served,
    name: Name,
    limit: Limit = 50,
    cursor: Annotated[str | None, Query(max_length=40, description="The `next` of the page before.")] = None,
) -> dict[str, Any]:
    """List the batches of a dataset, the newest first."""
    uploads.check_dataset(service, name)
    found = data.batches(service.opened, name, limit + 1, uploads.before(cursor))
    items = [uploads.listed(row) for row in found[:limit]]
    return {"items": items, "next": str(items[-1]["batch"]) if len(found) > limit else None}


async def upload(
    request: Request,
    service: Served,
    caller: Who,
    name: Name,
    token: Annotated[str | None, Query(description="As Idempotency-Key: the same once more changes nothing.")] = None,
    dry_run: Annotated[bool, Query(description="Say what the file would do, and merge nothing.")] = False,
    stream: Annotated[bool, Query(description="Answer as server-sent events, up to the end of the runs.")] = False,
) -> Response:
    """Send a CSV or Parquet file: it is checked, and merged as one batch or refused as a whole."""
    if stream and not dry_run:
        return await uploads.stream_upload(service, caller, name, request)
    await service.call(uploads.check_dataset, service, name)
    token = uploads.token_of(request)
    async with uploads.received(service, request) as file:
        task = {"do": "rehearse" if dry_run else "ingest", "dataset": name, "path": str(file.path),
                "source": file.name, "actor": caller.name, "token": token}  # fmt: skip
        found = await service.call(uploads.take_in, service, task)
    if dry_run:
        return JSONResponse(await service.call(uploads.would, service, found))
    batch = await service.call(uploads.told, service, found)
    return JSONResponse(batch, 200 if batch["again"] else 201)


# Not by the strict route, which keeps a whole body in memory to know it again: a file's rows are known by their digest.
router.add_api_route(
    "/{name}/batches", upload, methods=["POST"], operation_id="upload", status_code=201, openapi_extra=_FILE,
    response_class=Response, responses=_TAKEN, route_class_override=APIRoute,
)  # fmt: skip


@router.post(
    "/{name}/batches/{number}/undo", operation_id="undo_batch", responses=shown(_BATCH), openapi_extra=REPEATABLE
)
def undo_batch(service: Served, caller: Who, name: Name, number: Number) -> dict[str, Any]:
    """Take a batch back; champions that learnt from it give way to earlier ones where there are any."""
    uploads.check_dataset(service, name)
    return uploads.changed(service, data.undo, name, number, caller.name)


@router.patch("/{name}/rows", operation_id="edit_rows", responses=shown(_BATCH))
def edit_rows(service: Served, caller: Who, name: Name, body: Rows) -> dict[str, Any]:
    """Correct values of rows, each named by its key."""
    uploads.check_dataset(service, name)
    return uploads.changed(service, data.edit, name, body.rows, caller.name)


@router.delete("/{name}/rows", operation_id="delete_rows", responses=shown(_BATCH))
def delete_rows(service: Served, caller: Who, name: Name, body: Rows) -> dict[str, Any]:
    """Remove rows, each named by its key."""
    uploads.check_dataset(service, name)
    return uploads.changed(service, data.delete, name, body.rows, caller.name)


@router.get("/{name}/export", operation_id="export_dataset", response_class=Response, responses=_FILED)
async def export_dataset(
    service: Served,
    name: Name,
    version: Annotated[int | None, Query(ge=0, lt=2**62, description="An earlier one; by default the newest.")] = None,
    format: Annotated[Literal["csv", "parquet"], Query(description="Of the file.")] = "csv",  # noqa: A002 - as it is asked
) -> Response:
    """Write the rows out; a text that a spreadsheet would take for a formula begins with an apostrophe."""
    await service.call(uploads.check_dataset, service, name)
    return await uploads.exported(service, name, version, format)


@router.get("/{name}/reports/{report}", operation_id="get_rows_set_aside", response_class=Response, responses=_FILED)
def get_rows_set_aside(service: Served, name: Name, report: Annotated[str, Path(max_length=40)]) -> Response:
    """Write out the rows of a file that could not be used, with line, column, value and problem."""
    uploads.check_dataset(service, name)
    path = service.opened.home.reports / report
    if not _REPORT.fullmatch(report) or not path.is_file():
        raise NotFound("there is no such list of rows; they are kept for 30 days")
    return uploads.attachment(path.read_bytes(), report)
