"""Datasets: rows that are kept, the batches they came in, what is sent, corrected, taken back and written out."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from fastapi import Path, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from evertrain.control import data
from evertrain.errors import NotFound
from evertrain.server import uploads
from evertrain.server.routes.common import REPEATABLE, routes_of, shown
from evertrain.server.service import Service
from evertrain.store.tokens import Caller

router = routes_of("datasets", "/datasets")

_AT = "2026-03-02T03:00:12.000000Z"
_DATASET = {
    "dataset": "orders", "key": ["order"], "time": "day", "columns": {"order": "text", "day": "date", "sold": "integer"},
    "rows": 18250, "version": 12, "oldest_version": 0, "changed_at": _AT, "models": ["demand"],
}  # fmt: skip
_BATCH = {
    "batch": 5, "dataset": "orders", "version": 12, "kind": "ingest", "added": 900, "updated": 12, "removed": 0,
    "unchanged": 40, "set_aside": 0, "again": False, "left": [], "notes": [], "fits": [], "report": None,
    "text": "Batch 5: 900 added, 12 updated, 40 unchanged.",
    "announcements": ["Records updated. Models for Pilar and Overall are being updated in the background."],
}  # fmt: skip
_LISTED = {
    "batch": 5, "version": 12, "kind": "ingest", "source": "orders.csv", "actor": "ana", "at": _AT, "added": 900,
    "updated": 12, "removed": 0, "unchanged": 40, "set_aside": 0, "undoes": None, "report": None,
}  # fmt: skip
_SENT = {**_BATCH, "bad_rows": [], "runs": [17]}

Name = Annotated[str, Path(description="a declared dataset", max_length=200)]
Number = Annotated[int, Path(ge=1, lt=2**62, description="number of a batch")]
Limit = Annotated[int, Query(ge=1, le=1000)]

_REPORT = re.compile(r"[0-9a-f]{16}\.csv")
_FILE = {
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
    }
}


class Rows(BaseModel):
    """Rows by column; each names its key columns, and what is to change."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"rows": [{"order": "A-7", "sold": 12}]}})
    rows: Annotated[list[dict[str, str | int | float | bool | None]], Field(min_length=1, max_length=10_000)]


def _asked(request: Request) -> tuple[Service, Caller | None, str]:
    caller: Caller | None = getattr(request.state, "caller", None)
    return request.app.state.service, caller, caller.name if caller else ""


@router.get("", operation_id="list_datasets", responses=shown({"items": [_DATASET], "next": None}))
async def every(request: Request) -> dict[str, Any]:
    """List the datasets with how many rows they hold."""
    service, _, _ = _asked(request)
    return {"items": await service.call(data.listed, service.opened), "next": None}


@router.get("/{name}", operation_id="get_dataset", responses=shown(_DATASET))
async def one(request: Request, name: Name) -> dict[str, Any]:
    """Tell a dataset's key, its columns, its rows and the models that learn from it."""
    service, _, _ = _asked(request)
    await service.call(uploads.check_dataset, service, name)
    return await service.call(data.described, service.opened, name)


@router.get("/{name}/batches", operation_id="list_batches", responses=shown({"items": [_LISTED], "next": None}))
async def batches(request: Request, name: Name, limit: Limit = 50, cursor: str | None = None) -> dict[str, Any]:
    """List the batches of a dataset, the newest first."""
    service, _, _ = _asked(request)
    await service.call(uploads.check_dataset, service, name)
    before = uploads.before(cursor)
    found = await service.call(data.batches, service.opened, name, limit + 1, before)
    items = [uploads.listed(row) for row in found[:limit]]
    return {"items": items, "next": str(items[-1]["batch"]) if len(found) > limit else None}


@router.post(
    "/{name}/batches",
    operation_id="upload",
    status_code=201,
    openapi_extra=_FILE,
    response_class=Response,
    responses=shown(_SENT, 201, "Merged."),
)
async def upload(
    request: Request,
    name: Name,
    token: Annotated[str | None, Query(description="as Idempotency-Key: the same once more changes nothing")] = None,
    dry_run: Annotated[bool, Query(description="say what the file would do, and merge nothing")] = False,
    stream: Annotated[bool, Query(description="answer as server-sent events, up to the end of the runs")] = False,
) -> Response:
    """Send a CSV or Parquet file: it is checked, and merged as one batch or refused as a whole."""
    service, caller, actor = _asked(request)
    if stream and not dry_run:
        return await uploads.stream_upload(service, caller, name, request)
    await service.call(uploads.check_dataset, service, name)
    token = uploads.token_of(request)
    async with uploads.received(service, request) as file:
        task = {"do": "rehearse" if dry_run else "ingest", "dataset": name, "path": str(file.path),
                "source": file.name, "actor": actor, "token": token}  # fmt: skip
        found = await service.call(uploads.take_in, service, task)
    if dry_run:
        return JSONResponse(await service.call(uploads.would, service, found))
    batch = await service.call(uploads.told, service, found)
    return JSONResponse(batch, 200 if batch["again"] else 201)


@router.post(
    "/{name}/batches/{number}/undo", operation_id="undo_batch", openapi_extra=REPEATABLE, responses=shown(_BATCH)
)
async def undo(request: Request, name: Name, number: Number) -> dict[str, Any]:
    """Take a batch back; champions that learnt from it give way to earlier ones where there are any."""
    service, _, actor = _asked(request)
    await service.call(uploads.check_dataset, service, name)
    return await service.call(uploads.changed, service, data.undo, name, number, actor)


@router.patch("/{name}/rows", operation_id="edit_rows", responses=shown(_BATCH))
async def edit(request: Request, name: Name, body: Rows) -> dict[str, Any]:
    """Correct values of rows, each named by its key."""
    service, _, actor = _asked(request)
    await service.call(uploads.check_dataset, service, name)
    return await service.call(uploads.changed, service, data.edit, name, body.rows, actor)


@router.delete("/{name}/rows", operation_id="delete_rows", responses=shown(_BATCH))
async def delete(request: Request, name: Name, body: Rows) -> dict[str, Any]:
    """Remove rows, each named by its key."""
    service, _, actor = _asked(request)
    await service.call(uploads.check_dataset, service, name)
    return await service.call(uploads.changed, service, data.delete, name, body.rows, actor)


@router.get("/{name}/export", operation_id="export_dataset", response_class=Response)
async def export(
    request: Request,
    name: Name,
    version: Annotated[int | None, Query(ge=0, lt=2**62, description="an earlier one; by default the newest")] = None,
    format: Literal["csv", "parquet"] = "csv",  # noqa: A002 - the name of the parameter
) -> Response:
    """Write the rows out; a text that a spreadsheet would take for a formula begins with an apostrophe in CSV."""
    service, _, _ = _asked(request)
    await service.call(uploads.check_dataset, service, name)
    return await uploads.exported(service, name, version, format)


@router.get("/{name}/reports/{report}", operation_id="rows_set_aside", response_class=Response)
async def report(request: Request, name: Name, report: Annotated[str, Path(max_length=40)]) -> Response:
    """Write out the rows of a file that could not be used, with line, column, value and problem."""
    service, _, _ = _asked(request)
    await service.call(uploads.check_dataset, service, name)
    path = service.opened.home.reports / report
    if not _REPORT.fullmatch(report) or not path.is_file():
        raise NotFound("there is no such list of rows; they are kept for 30 days")
    return uploads.attachment(await service.call(path.read_bytes), report)
