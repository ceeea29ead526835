"""Who may call what: one table for every route of the service. What is not in it is refused for everybody."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from evertrain.store.tokens import Role


class Access(StrEnum):
    """That a route needs nobody to say who they are."""

    PUBLIC = "public"


PUBLIC = Access.PUBLIC
VIEWER, OPERATOR, ADMIN = Role.VIEWER, Role.OPERATOR, Role.ADMIN

_PAGES = "/ /models/{name} /notifications /runs /runs/{id:int} /data /schedules /decisions /events /report"
_READ = """
    status attention events events/live report decisions schedules datasets datasets/{name} datasets/{name}/batches
    datasets/{name}/export datasets/{name}/reports/{report}
    models models/{name} models/{name}/versions models/{name}/champion models/{name}/activations
    models/{name}/why models/{name}/partitions models/{name}/scores models/{name}/decisions models/{name}/plan
    models/{name}/config models/{name}/forecast forecasts/events runs runs/{id:int} runs/{id:int}/items runs/{id:int}/events openapi.json
"""

# (method, template) -> who may; a parameter is in braces, and one that counts things is a number of one spelling.
RIGHTS: dict[tuple[str, str], Role | Access] = {
    ("GET", "/health"): PUBLIC,
    ("GET", "/ready"): PUBLIC,
    ("GET", "/login"): PUBLIC,
    ("POST", "/login"): PUBLIC,
    ("GET", "/static/{name}"): PUBLIC,
    ("POST", "/logout"): VIEWER,
    ("GET", "/metrics"): VIEWER,
    ("GET", "/api/docs"): VIEWER,
    **{("GET", page): VIEWER for page in _PAGES.split()},
    **{("GET", f"/api/v1/{path}"): VIEWER for path in _READ.split()},
    ("POST", "/api/v1/models/{name}/predict"): VIEWER,
    ("POST", "/api/v1/models/{name}/observations"): VIEWER,
    ("POST", "/api/v1/models/{name}/actuals"): VIEWER,
    ("POST", "/api/v1/models/{name}/retrain"): OPERATOR,
    ("POST", "/api/v1/models/{name}/rollback"): OPERATOR,
    ("POST", "/api/v1/models/{name}/pin"): OPERATOR,
    ("POST", "/api/v1/models/{name}/pause"): OPERATOR,
    ("POST", "/api/v1/models/{name}/resume"): OPERATOR,
    ("POST", "/api/v1/datasets/{name}/batches"): OPERATOR,
    ("POST", "/api/v1/datasets/{name}/batches/{number:int}/undo"): OPERATOR,
    ("PATCH", "/api/v1/datasets/{name}/rows"): OPERATOR,
    ("DELETE", "/api/v1/datasets/{name}/rows"): OPERATOR,
    ("POST", "/api/v1/runs/{id:int}/cancel"): OPERATOR,
    ("POST", "/api/v1/runs/{id:int}/retry-failed"): OPERATOR,
    ("POST", "/api/v1/schedules"): OPERATOR,
    ("DELETE", "/api/v1/schedules/{id:int}"): OPERATOR,
    ("POST", "/api/v1/pause"): OPERATOR,
    ("POST", "/api/v1/resume"): OPERATOR,
    ("POST", "/api/v1/monitoring/start"): ADMIN,
    ("POST", "/api/v1/monitoring/stop"): ADMIN,
    ("GET", "/api/v1/tokens"): ADMIN,
    ("POST", "/api/v1/tokens"): ADMIN,
    ("DELETE", "/api/v1/tokens/{id:int}"): ADMIN,
    # The routes of `compat`.
    ("POST", "/retraining/start"): ADMIN,
    ("POST", "/retraining/stop"): ADMIN,
    ("GET", "/retraining/status"): VIEWER,
    ("GET", "/retraining/history"): VIEWER,
    ("POST", "/retraining/trigger/{model_name}"): OPERATOR,
    ("POST", "/retrain"): OPERATOR,
    ("POST", "/forecast"): VIEWER,
    ("POST", "/api/v1/ai/retrain/{model_type}"): OPERATOR,
    ("GET", "/api/v1/ai/retraining/schedule"): VIEWER,
    ("POST", "/api/v1/ai/retraining/schedule"): OPERATOR,
    ("DELETE", "/api/v1/ai/retraining/schedule/{job_id:int}"): OPERATOR,
}

# Rows of data go in here, and what a person typed there; every other body is JSON.
UPLOADS = frozenset({"/api/v1/datasets/{name}/batches", "/retrain"})
FORMS = frozenset({"/login", "/logout"})
FORM = ("application/x-www-form-urlencoded",)
_ROWS = ("multipart/form-data", "text/csv", "application/vnd.apache.parquet", "application/octet-stream")
# Asked for as often as models are used: no entry in the log for each, and no limit a minute.
ROUTINE = frozenset({
    "/api/v1/models/{name}/predict", "/api/v1/models/{name}/observations", "/api/v1/models/{name}/actuals", "/forecast",
    "/login", "/logout",
})  # fmt: skip
# Answered with a digest of their content, so a copy may be kept and asked about.
REVALIDATED = frozenset({"/api/v1/models/{name}/forecast", "/static/{name}"})


@dataclass(frozen=True)
class Route:
    """A row of the table as the guard needs it."""

    template: str
    method: str
    right: Role | Access
    takes: tuple[str, ...]
    upload: bool
    routine: bool
    revalidated: bool


_HERE, _ANY, _NUMBER = (
    "/",
    "/any",
    "/number",
)  # names in the tree that no part of a path can have: a part holds no slash
# Fewer digits than 2^63: a row of the store can have that number, and nothing else is spelled so.
_WHOLE = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
Tree = dict[str, Any]


def find(path: str) -> dict[str, Route]:
    """Return what the table knows of a decoded path: a route for each method, and nothing for an unknown path.

    >>> [(method, str(found.right)) for method, found in find("/api/v1/models/iris/retrain").items()]
    [('POST', 'operator')]
    >>> find("/api/v1/models/iris/retrain/"), find("/API/v1/models"), find("/api/v1/runs/01")
    ({}, {}, {})
    """
    exact: dict[str, Route] | None = _EXACT.get(path)
    if exact is not None:
        return exact
    return _walk(_TREE, path.split("/")[1:], 0) if path.startswith("/") else {}


def _walk(tree: Tree, parts: list[str], place: int) -> dict[str, Route]:
    if place == len(parts):
        ended: dict[str, Route] = tree.get(_HERE, {})
        return ended
    part = parts[place]
    if part and (below := tree.get(part)) and (found := _walk(below, parts, place + 1)):
        return found
    if (below := tree.get(_NUMBER)) and _WHOLE.fullmatch(part) and (found := _walk(below, parts, place + 1)):
        return found
    if part and (below := tree.get(_ANY)) and (found := _walk(below, parts, place + 1)):
        return found
    return {}


def _grown() -> tuple[Tree, dict[str, dict[str, Route]]]:
    tree: Tree = {}
    exact: dict[str, dict[str, Route]] = {}
    for (method, template), right in RIGHTS.items():
        upload = template in UPLOADS
        takes = _ROWS if upload else FORM if template in FORMS else ("application/json",)
        route = Route(template, method, right, takes, upload, template in ROUTINE, template in REVALIDATED)
        if "{" not in template:
            exact.setdefault(template, {})[method] = route
            continue
        below = tree
        for part in template.split("/")[1:]:
            below = below.setdefault(part if part[:1] != "{" else _NUMBER if part.endswith(":int}") else _ANY, {})
        below.setdefault(_HERE, {})[method] = route
    return tree, exact


_TREE, _EXACT = _grown()
