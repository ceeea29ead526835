"""What would be trained, why, and for how long: plans looked at before they are made. Writes nothing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from evertrain import plan
from evertrain.clock import from_text
from evertrain.control import ask
from evertrain.control.opened import Opened
from evertrain.partitions import closure
from evertrain.specs import Cause
from evertrain.store import blackouts, demand, models
from evertrain.store.connect import Tx


@dataclass(frozen=True)
class Preview:
    """What would be trained of a model now.

    Attributes:
        kind: "full" or "selective".
        partitions, leaves, rollups: how many would be trained; `of` is how many there are.
        causes: how many of them each cause brought.
        estimate_s: seconds of one worker, by the last measured fits, at most: what knows its rows already is skipped.
        wall_s: the same on all `workers`.
        later, later_at: how many rollups wait for the end of their quiet period, and when the last one is planned.
        held_until: when the blackout ends that keeps what nobody asked for by hand from starting.
    """

    model: str
    kind: str
    partitions: int
    leaves: int
    rollups: int
    of: int
    causes: Mapping[str, int]
    reason: str
    estimate_s: float | None
    wall_s: float | None
    workers: int
    later: int
    later_at: datetime | None
    held_until: datetime | None


def preview(
    opened: Opened,
    model: str,
    partitions: Sequence[Mapping[str, Any]] | None = None,
    *,
    full: bool = False,
    actor: str = "evertrain",
) -> Preview:
    """Return what would be trained of a model now; of named partitions, or with `full`, as if `actor` asked by hand.

    Raises:
        NotFound: no such model or partition.
    """
    workers = 1 if opened.project().executor == "inline" else opened.settings.child_count
    with opened.store.read() as tx:
        found = models.by_name(tx, model)
        due, _ = ask.preview(tx, found)
        made = _asked(tx, found, partitions, due, actor) if partitions is not None or full else due
        by_hand = partitions is not None or full
        held = None if by_hand else blackouts.held(tx).get(found.id)
        waits = demand.later(tx, found.id)
        total = demand.live(tx, found.id)
    wanted = made.wanted if made else ()
    waves = math.ceil(made.fresh / workers) if made else 0
    return Preview(
        model=model,
        kind="full" if made and made.full else "selective",
        partitions=len(wanted),
        leaves=sum(one.leaf for one in wanted),
        rollups=sum(not one.leaf for one in wanted),
        of=total,
        causes={str(cause): number for cause, number in Counter(one.cause for one in wanted).most_common()},
        reason=made.reason if made else "nothing new is due",
        estimate_s=made.estimate_s if made else 0.0,
        wall_s=None if made and found.seconds_each is None else waves * (found.seconds_each or 0.0),
        workers=workers,
        later=waits.number,
        later_at=from_text(waits.until) if waits.until else None,
        held_until=held,
    )


def _asked(
    tx: Tx, model: models.Model, partitions: Sequence[Mapping[str, Any]] | None, due: plan.Plan | None, actor: str
) -> plan.Plan | None:
    """Return the plan that a request by hand would make, with what is due anyway."""
    if partitions is None:
        rows = demand.to_plan(tx, model.id, everything=True)
    else:
        keys = ask.known(tx, model, ask.keys_of(model.spec, partitions) or [])
        rows = demand.places(tx, model.id, list(closure(keys, model.spec.dimensions, model.spec.levels)))
    wanted = {one.partition_id: one for one in (due.wanted if due else ())}
    for row in rows:
        wanted[row.id] = plan.Wanted(
            row.id, row.key, bool(row.leaf), Cause.MANUAL, f"asked by {actor}", actor, waiting_item=row.waiting_item
        )
    return plan.make(model.spec, list(wanted.values()), demand.live(tx, model.id), model.seconds_each)
