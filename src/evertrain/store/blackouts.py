"""Blackouts: which models may begin nothing by themselves now, and until when."""

from __future__ import annotations

import json
from datetime import datetime

from evertrain import calendar
from evertrain.clock import local_zone
from evertrain.store.connect import Tx


def held(tx: Tx) -> dict[int, datetime]:
    """Return the models that lie in a blackout window now, each with when it ends; of the project and of their own."""
    project = tx.row(
        "SELECT json_extract(body, '$.blackout') AS windows, json_extract(body, '$.zone') AS zone FROM snapshots"
        " ORDER BY id DESC LIMIT 1"
    )
    if project is None:
        return {}
    everywhere = json.loads(project.windows or "[]")
    found = {}
    for model_id, own in tx.rows("SELECT id, json_extract(spec, '$.blackout') FROM models WHERE retired_at IS NULL"):
        if windows := [*everywhere, *json.loads(own or "[]")]:
            until = calendar.blackout_until(windows, project.zone or local_zone(), tx.now)
            if until is not None:
                found[model_id] = until
    return found
