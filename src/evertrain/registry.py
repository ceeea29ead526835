"""The registry: fits, versions, champions, and what served when.

Every change of a champion goes through one statement that names the champion it replaces. A version is the fits of
one run; its state is derived from theirs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from evertrain.artifacts import Artifacts, Place
from evertrain.clock import from_text, to_text
from evertrain.errors import ArtifactError, Conflict
from evertrain.events import Kind, ranges
from evertrain.faults import fault_point
from evertrain.gate import Method, Verdict
from evertrain.partitions import WHOLE, KeyText, decode, encode, label
from evertrain.specs import Cause, ModelSpec
from evertrain.states import ItemState
from evertrain.store import champions, demand, items, runs
from evertrain.store.connect import Record, Tx, dump

# How fast the estimate of a fit's seconds follows new measurements.
_FOLLOW = 0.3


@dataclass(frozen=True)
class Fit:
    """A stored fit: where its bytes are and what it needs to predict."""

    id: int
    partition_id: int
    version: str
    place: Place
    trainer: Mapping[str, Any]
    signature: Mapping[str, Any]
    scores: Mapping[str, Any]
    verdict: Mapping[str, Any]
    rows: int
    input: str
    wanted: int
    trained_at: datetime

    def as_message(self, folder: str) -> dict[str, Any]:
        """Return what a worker needs to load and ask this fit."""
        return {
            "id": self.id,
            "path": folder,
            "artifact": self.place.artifact,
            "start": self.place.start,
            "size": self.place.size,
            "digest": self.place.digest,
            "trainer": dict(self.trainer),
            "signature": dict(self.signature),
        }


@dataclass(frozen=True)
class Proposal:
    """A challenger with its verdict, ready to be written.

    Attributes:
        compared_with: the champion that the verdict compared it with; None when there was none.
    """

    item_id: int
    fence: int
    run_id: int
    major: int
    partition_id: int
    wanted: int
    input: str
    compared_with: int | None
    place: Place
    artifact_size: int
    trainer: Mapping[str, Any]
    signature: Mapping[str, Any]
    scores: Mapping[str, Any]
    verdict: Verdict
    rows: int
    seconds: float
    cpu_s: float
    peak_mb: float | None
    forecast: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Closing:
    """An item that ends without a fit: skipped or failed for good."""

    end: items.End
    partition_id: int
    wanted: int
    input: str | None


def settle(
    tx: Tx, artifacts: Artifacts, owner: str, model_id: int, proposals: Sequence[Proposal], closings: Sequence[Closing]
) -> list[int]:
    """Write the ends of items: fits, champions, activations, considered and events, all in this transaction.

    Returns:
        Items whose champion has changed since they were judged; nothing is written for them, they must be judged
        again. Items of a partition that lost its rows meanwhile end as skipped.

    Raises:
        StaleAttempt: at least one item is no longer this owner's; nothing at all is written.
        ArtifactError: a file that was written a moment ago was collected meanwhile; nothing is written.
    """
    for digest in {one.place.artifact for one in proposals}:
        if artifacts.size(digest) is None:
            raise ArtifactError(f"artifact {digest[:12]} was collected meanwhile", digest=digest)
    now = {
        row.id: row
        for row in tx.rows(
            "SELECT id, state, champion_id, trained, pinned FROM partitions WHERE id IN :ids",
            ids=[one.partition_id for one in proposals],
        )
    }
    closings = [*closings, *(_closed(one) for one in proposals if now[one.partition_id].state == "retired")]
    changed: list[Proposal] = []
    ready: list[tuple[Proposal, ItemState, str]] = []
    for one in (one for one in proposals if now[one.partition_id].state == "live"):
        place = now[one.partition_id]
        state, reason = one.verdict.outcome, one.verdict.reason
        if place.champion_id != one.compared_with and place.trained > one.wanted:
            state, reason = ItemState.SUPERSEDED, "a champion that has seen newer data took its place meanwhile"
        elif place.champion_id != one.compared_with:
            changed.append(one)
            continue
        elif one.verdict.promotes and place.pinned:
            state, reason = ItemState.REJECTED, f"would have been promoted ({reason}), but the champion is pinned"
        ready.append((one, state, reason))
    ends = [
        items.End(one.item_id, one.fence, state, reason, seconds=one.seconds, cpu_s=one.cpu_s, peak_mb=one.peak_mb)
        for one, state, reason in ready
    ]
    items.end_items(tx, owner, [*ends, *(one.end for one in closings)])
    # Judging again costs a worker's time, which nobody owes for an item that another holds by now.
    items.check_held(tx, owner, [(one.item_id, one.fence) for one in changed])
    fault_point("settle.after_guard")
    # A run that was cancelled meanwhile gave its item to one that wants it, too.
    homes = {one: run_id for run_id, ids in items.homes(tx, [end.item_id for end in ends]).items() for one in ids}
    _store_fits(tx, model_id, [replace(one, run_id=homes[one.item_id]) for one, _, _ in ready])
    promoted = [one for one, state, _ in ready if state is ItemState.PROMOTED]
    _promote(tx, [(one.partition_id, one.item_id, one.verdict.reason) for one in promoted], actor="evertrain")
    demand.consider(
        tx,
        [
            *(
                {
                    "partition": one.partition_id,
                    "wanted": one.wanted,
                    "input": one.input,
                    "outcome": state,
                    "reason": reason,
                }
                for one, state, reason in ready
            ),
            *(
                {
                    "partition": one.partition_id,
                    "wanted": one.wanted,
                    "input": one.input,
                    "outcome": one.end.state,
                    "reason": one.end.reason,
                }
                for one in closings
            ),
        ],
    )
    if ready:
        mean = sum(one.seconds for one, _, _ in ready) / len(ready)
        tx.run(
            "UPDATE models SET seconds_each = CASE WHEN seconds_each IS NULL THEN :mean"
            " ELSE seconds_each + :follow * (:mean - seconds_each) END WHERE id = :id",
            mean=mean,
            follow=_FOLLOW,
            id=model_id,
        )
    runs.end_runs(tx, [end.item_id for end in [*ends, *(one.end for one in closings)]])
    fault_point("settle.before_commit")
    return [one.item_id for one in changed]


def _closed(one: Proposal) -> Closing:
    reason = "the partition has no rows any more"
    end = items.End(one.item_id, one.fence, ItemState.SKIPPED, reason, None, None, one.seconds, one.cpu_s, one.peak_mb)
    return Closing(end, one.partition_id, one.wanted, one.input)


def _store_fits(tx: Tx, model_id: int, proposals: Sequence[Proposal]) -> None:
    digests = {one.place.artifact: one.artifact_size for one in proposals}
    tx.many(
        "INSERT INTO artifacts(digest, size, created_at) VALUES (:digest, :size, :at)"
        " ON CONFLICT(digest) DO UPDATE SET state = 'live', condemned_at = NULL",
        [{"digest": digest, "size": size, "at": tx.now_text} for digest, size in digests.items()],
    )
    majors = {one.run_id: one.major for one in proposals}
    updates = {one.run_id for one in proposals if (one.signature.get("series") or {}).get("updates")}
    anew = {one.run_id for one in proposals if not (one.signature.get("series") or {}).get("updates")}
    versions = {
        run_id: runs.draw_version(tx, model_id, run_id, major, patch=run_id in updates - anew)[0]
        for run_id, major in sorted(majors.items())
    }
    tx.many(
        "INSERT INTO fits(id, version_id, partition_id, artifact, start, size, digest, trainer, verdict, scores, rows,"
        " input, wanted, trained_until, signature, trained_at) VALUES (:id, :version, :partition, :artifact, :start,"
        " :size, :digest, :trainer, :verdict, :scores, :rows, :input, :wanted, :until, :signature, :at)",
        [
            {
                "id": one.item_id,
                "version": versions[one.run_id],
                "partition": one.partition_id,
                "artifact": one.place.artifact,
                "start": one.place.start,
                "size": one.place.size,
                "digest": one.place.digest,
                "trainer": dump(one.trainer),
                "scores": dump(one.scores),
                "verdict": dump(
                    {
                        "outcome": one.verdict.outcome,
                        "method": one.verdict.method,
                        "reason": one.verdict.reason,
                        "against": one.compared_with,
                        **one.verdict.numbers,
                    }
                ),
                "rows": one.rows,
                "input": one.input,
                "wanted": one.wanted,
                "until": one.signature.get("until"),
                "signature": dump(one.signature),
                "at": tx.now_text,
            }
            for one in proposals
        ],
    )
    tx.many(
        "INSERT INTO forecasts(fit_id, frame, backtest) VALUES (:fit, :frame, :backtest)",
        [{"fit": one.item_id, **one.forecast} for one in proposals if one.forecast],
    )


def _promote(tx: Tx, changes: Sequence[tuple[int, int, str]], *, actor: str, pin: bool | None = None) -> None:
    """Make each (partition, fit, why) the champion, close the old activation and open the new one."""
    if not changes:
        return
    epoch, fence = tx.next("epoch"), tx.next("fence")
    rows = [
        {
            "partition": partition,
            "fit": fit,
            "why": why,
            "at": tx.now_text,
            "actor": actor,
            "epoch": epoch,
            "fence": fence,
            "pin": None if pin is None else int(pin),
        }
        for partition, fit, why in changes
    ]
    done = tx.many(
        "UPDATE partitions SET champion_id = :fit, (trained, trained_at, champion_input) ="
        " (SELECT wanted, trained_at, input FROM fits WHERE id = :fit), epoch = :epoch, fence = :fence,"
        " pinned = coalesce(:pin, pinned) WHERE id = :partition AND fence < :fence AND state = 'live'",
        rows,
    )
    if done != len(rows):
        raise Conflict(f"{len(rows) - done} of {len(rows)} partitions were retired or changed meanwhile")
    tx.many("UPDATE activations SET until_at = :at WHERE partition_id = :partition AND until_at IS NULL", rows)
    tx.many(
        "INSERT INTO activations(partition_id, fit_id, from_at, actor, why)"
        " VALUES (:partition, :fit, :at, :actor, :why)",
        rows,
    )


_FIT = "SELECT f.*, v.major, v.minor, v.patch FROM fits f JOIN versions v ON v.id = f.version_id"


# A fit whose bytes are there and were never found damaged.
_SOUND = "e.condemned = 0 AND EXISTS (SELECT 1 FROM artifacts s WHERE s.digest = e.artifact AND s.state <> 'removed')"


def _fit(row: Record) -> Fit:
    return Fit(
        row.id,
        row.partition_id,
        f"{row.major}.{row.minor}.{row.patch}",
        Place(row.artifact, row.start, row.size, row.digest),
        json.loads(row.trainer),
        json.loads(row.signature),
        json.loads(row.scores),
        json.loads(row.verdict),
        row.rows,
        row.input,
        row.wanted,
        from_text(row.trained_at),
    )


def fits(tx: Tx, ids: Sequence[int]) -> dict[int, Fit]:
    """Return fits by their number."""
    return {row.id: _fit(row) for row in tx.rows(f"{_FIT} WHERE f.id IN :ids", ids=list(ids))} if ids else {}


def champion(tx: Tx, model_id: int, key: KeyText) -> Fit | None:
    """Return the champion of a partition, in one statement; None when there is none."""
    row = tx.row(
        f"{_FIT} JOIN partitions p ON p.champion_id = f.id WHERE p.model_id = :model AND p.key = :key"
        " AND p.state = 'live'",
        model=model_id,
        key=key,
    )
    return None if row is None else _fit(row)


def forecasts(tx: Tx, ids: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Return what fits forecast when they were made, and their backtests, by the number of the fit."""
    rows = tx.rows("SELECT * FROM forecasts WHERE fit_id IN :ids", ids=list(ids)) if ids else []
    return {row.fit_id: {"frame": row.frame, "backtest": row.backtest} for row in rows}


_SERVED = (
    "SELECT p.id, p.key, p.leaf, p.trained_at, max(p.wanted, m.wanted) > p.trained AS behind, p.epoch, f.id AS fit,"
    " f.signature, f.rows, v.major, v.minor, v.patch, c.frame FROM models m JOIN partitions p ON p.model_id = m.id"
    " JOIN fits f ON f.id = p.champion_id JOIN versions v ON v.id = f.version_id JOIN forecasts c ON c.fit_id = f.id"
    " WHERE m.name = :model AND p.state = 'live'"
)


def served_forecasts(tx: Tx, model: str, keys: Sequence[KeyText]) -> dict[KeyText, Record]:
    """Return the champions of these partitions with their forecasts, in one statement.

    One, so that no promotion can come between a partition's champion and what it forecast.
    """
    return {KeyText(row.key): row for row in tx.rows(f"{_SERVED} AND p.key IN :keys", model=model, keys=list(keys))}


def serving_since(tx: Tx, partition_id: int) -> datetime | None:
    """Return since when a partition's champion serves; None where it has none."""
    at = tx.value("SELECT from_at FROM activations WHERE partition_id = :id AND until_at IS NULL", id=partition_id)
    return from_text(at) if at else None


def leaf_forecasts(tx: Tx, model: str, below: KeyText = WHOLE) -> Sequence[Record]:
    """Return the forecasts of the partitions below a rollup of a model, without those of rollups."""
    kept = decode(below).items()
    # Keys are canonical JSON: what a rollup keeps stands in the key of each partition below it, as it stands in its own.
    # A text of JSON can stand in another value too, so what was found is looked at once more.
    parts = {f"part{n}": encode({name: value}, [name])[1:-1] for n, (name, value) in enumerate(kept)}
    where = "".join(f" AND instr(p.key, :{part})" for part in parts)
    return [
        row for row in tx.rows(f"{_SERVED} AND p.leaf{where}", model=model, **parts) if kept <= decode(row.key).items()
    ]


def all_forecasts(tx: Tx, model: str) -> Sequence[Record]:
    """Return the forecasts of all partitions and rollups of a model."""
    return tx.rows(_SERVED, model=model)


def no_model_yet(tx: Tx, model_id: int, spec: ModelSpec, key: KeyText) -> str:
    """Return why nothing answers yet, and how far the first training is."""
    name = label(decode(key), spec.dimensions, spec.overall) if spec.partition_by else spec.name
    place = demand.partition(tx, model_id, key)
    if place is not None and place.outcome in ("failed", "dead", "skipped", "rejected"):
        return f"no model yet for {name}: the last training {place.outcome} ({place.outcome_reason})"
    held = champion(tx, model_id, key)
    if held is not None:  # and yet it does not answer
        return f"the stored model {held.version} of {name} is damaged and no earlier one is left; it is trained anew"
    if items.open_of(tx, model_id):
        return f"no model yet: training, {champions.number(tx, model_id)} of {demand.live(tx, model_id)}"
    return f"no model yet for {name}: nothing is being trained; start the loop, or `evertrain trigger {spec.name}`"


def previous(tx: Tx, partition_id: int, before: int) -> Fit | None:
    """Return the newest earlier fit that served this partition and whose bytes are sound."""
    row = tx.row(
        f"{_FIT} WHERE f.id = (SELECT max(a.fit_id) FROM activations a JOIN fits e ON e.id = a.fit_id"
        f" WHERE a.partition_id = :partition AND a.fit_id < :before AND {_SOUND})",
        partition=partition_id,
        before=before,
    )
    return None if row is None else _fit(row)


# --- taking back ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Return:
    """One partition's way back: from its champion to an earlier fit."""

    partition_id: int
    key: KeyText
    champion: int
    to: Fit


def returns(
    tx: Tx,
    model_id: int,
    *,
    keys: Sequence[KeyText] | None = None,
    version: str | None = None,
    run_id: int | None = None,
    without: Sequence[int] = (),
) -> list[Return]:
    """Return which fit each partition would go back to.

    Args:
        keys: only these partitions; None is every one.
        version: back to the fits of this version; None is each partition's previous fit.
        run_id: only partitions whose champion came from this run.
        without: fits that nobody goes back to.
    """
    where, params = "", {"model": model_id}
    extra: dict[str, Any] = {}
    if keys is not None:
        where, extra = " AND p.key IN (SELECT value FROM json_each(:keys))", {"keys": dump(list(keys))}
    if run_id is not None:
        where += " AND p.champion_id IN (SELECT f.id FROM fits f JOIN versions v ON v.id = f.version_id WHERE v.run_id = :run)"
        extra["run"] = run_id
    if version is None:
        target = (
            "(SELECT max(a.fit_id) FROM activations a JOIN fits e ON e.id = a.fit_id WHERE a.partition_id = p.id"
            f" AND a.fit_id < p.champion_id AND {_SOUND} AND a.fit_id NOT IN (SELECT value FROM json_each(:without)))"
        )
        extra["without"] = json.dumps(list(without))
    else:
        target = (
            "(SELECT max(a.fit_id) FROM activations a JOIN fits e ON e.id = a.fit_id JOIN versions v"
            " ON v.id = e.version_id WHERE a.partition_id = p.id AND a.fit_id <> p.champion_id"
            f" AND {_SOUND} AND v.major || '.' || v.minor || '.' || v.patch = :version)"
        )
        extra["version"] = version
    rows = tx.rows(
        f"SELECT p.id, p.key, p.champion_id, {target} AS back FROM partitions p WHERE p.model_id = :model"
        f" AND p.state = 'live' AND p.champion_id IS NOT NULL{where} ORDER BY p.id",
        **params,
        **extra,
    )
    found = [row for row in rows if row.back is not None]
    known: dict[int, Fit] = {}
    for start in range(0, len(found), 500):
        known |= fits(tx, [row.back for row in found[start : start + 500]])
    return [Return(row.id, KeyText(row.key), row.champion_id, known[row.back]) for row in found]


def trained_on(tx: Tx, model_id: int, spans: Sequence[tuple[KeyText, int, int | None]]) -> Sequence[Record]:
    """Return the fits that read their partition of a dataset between two of its versions, oldest first.

    Args:
        spans: partition, first version and the one behind the last; None is every later one.
    """
    read = "CAST(substr(f.input, 9) AS INTEGER)"  # behind "version:"
    return tx.rows(
        "SELECT DISTINCT f.id, f.partition_id, p.key, p.pinned, p.champion_id IS f.id AS serving,"
        " v.major || '.' || v.minor || '.' || v.patch AS version FROM json_each(:spans) s CROSS JOIN partitions p"
        " JOIN fits f ON f.partition_id = p.id JOIN versions v ON v.id = f.version_id WHERE p.model_id = :model"
        f" AND p.key = s.value ->> 0 AND f.input LIKE 'version:%' AND {read} >= s.value ->> 1"
        f" AND {read} < coalesce(s.value ->> 2, {read} + 1) ORDER BY f.id",
        model=model_id,
        spans=dump([list(one) for one in spans]),
    )


def roll_back(tx: Tx, model: str, ways: Sequence[Return], *, actor: str, why: str, pin: bool) -> None:
    """Make the earlier fits champions again, all in one transaction.

    Raises:
        Conflict: a champion changed since `ways` was made.
    """
    now = {
        row.id: row.champion_id
        for row in tx.rows(
            "SELECT id, champion_id FROM partitions WHERE id IN (SELECT value FROM json_each(:ids))",
            ids=json.dumps([way.partition_id for way in ways]),
        )
    }
    if moved := [way for way in ways if now[way.partition_id] != way.champion]:
        raise Conflict(f"the champion of {moved[0].key} changed meanwhile; look again and repeat")
    _promote(tx, [(way.partition_id, way.to.id, f"rolled back: {why}") for way in ways], actor=actor, pin=pin or None)
    first = ways[0]
    tx.event(
        Kind.CHAMPION_ROLLED_BACK,
        model=model,
        actor=actor,
        why=why,
        to=first.to.version,
        pinned=pin,
        partitions=ranges([way.partition_id for way in ways]),
        fits=ranges([way.to.id for way in ways]),
    )


def pin(tx: Tx, model_id: int, model: str, keys: Sequence[KeyText] | None, *, pinned: bool) -> int:
    """Hold the champions, or free them: a pinned champion is not replaced by any challenger."""
    where = "" if keys is None else " AND key IN :keys"
    extra = {} if keys is None else {"keys": list(keys)}
    changed = tx.run(
        f"UPDATE partitions SET pinned = :pinned WHERE model_id = :model{where}",
        pinned=int(pinned),
        model=model_id,
        **extra,
    )
    tx.event(Kind.CHAMPION_PINNED, model=model, pinned=pinned, partitions=changed)
    return changed


def adopt(tx: Tx, model_id: int, model: str, partition_id: int, fit: Mapping[str, Any]) -> str:
    """Make an existing model file the champion of a partition that has none, and return its version, e.g. 1.0.0.

    Raises:
        Conflict: the partition has a champion already.
    """
    place = tx.row("SELECT champion_id, wanted FROM partitions WHERE id = :id", id=partition_id)
    assert place is not None
    if place.champion_id is not None:
        raise Conflict(f"{model} has a champion already; adopt works before the first training")
    run_id = int(
        tx.value(
            "INSERT INTO runs(model_id, state, kind, cause, reason, actor, items, partitions, created_at, started_at,"
            " ended_at, outcomes) VALUES (:model, 'succeeded', 'selective', 'manual', 'an existing model file was adopted',"
            " :actor, 1, 1, :at, :at, :at, :outcomes) RETURNING id",
            outcomes=dump({ItemState.PROMOTED: 1}),
            model=model_id,
            actor=tx.actor,
            at=tx.now_text,
        )
    )
    item_id = int(
        tx.value(
            "INSERT INTO items(run_id, model_id, partition_id, state, cause, correction, available_at, wanted, started_at,"
            " ended_at, reason) VALUES (:run, :model, :partition, 'promoted', 'manual', 1, :at, :wanted, :at, :at,"
            " 'adopted') RETURNING id",
            run=run_id,
            model=model_id,
            partition=partition_id,
            at=tx.now_text,
            wanted=place.wanted,
        )
    )
    major = int(fit["major"])
    _, version = runs.draw_version(tx, model_id, run_id, major)
    verdict = Verdict(ItemState.PROMOTED, Method.FIRST, "adopted from a file", dict(fit["numbers"]))
    _store_fits(
        tx,
        model_id,
        [
            Proposal(
                item_id,
                0,
                run_id,
                major,
                partition_id,
                place.wanted,
                fit["input"],
                None,
                fit["place"],
                fit["artifact_size"],
                fit["trainer"],
                fit["signature"],
                fit["scores"],
                verdict,
                fit["rows"],
                0.0,
                0.0,
                None,
            )
        ],
    )
    tx.run("UPDATE fits SET trained_at = :at WHERE id = :id", at=to_text(fit["trained_at"]), id=item_id)
    _promote(tx, [(partition_id, item_id, "adopted from a file")], actor=tx.actor)
    demand.consider(
        tx,
        [
            {
                "partition": partition_id,
                "wanted": place.wanted,
                "input": fit["input"],
                "outcome": ItemState.PROMOTED,
                "reason": "adopted from a file",
            }
        ],
    )
    tx.run(
        "UPDATE partitions SET planned = max(planned, wanted), seen = :input, asked = :input, rows = :rows WHERE id = :id",
        input=fit["input"],
        rows=fit["rows"],
        id=partition_id,
    )
    tx.event(Kind.CHAMPION_ADOPTED, model=model, run_id=run_id, version=version, partition=partition_id, fit=item_id)
    return version


def condemn(tx: Tx, model: str, fit: Fit, reason: str) -> Fit | None:
    """Record that a fit's bytes are damaged and return the previous good fit, which becomes champion.

    The damaged bytes are kept for inspection. Doing it twice changes nothing.
    """
    if not tx.run("UPDATE fits SET condemned = 1 WHERE id = :id AND condemned = 0", id=fit.id):
        current = tx.value("SELECT champion_id FROM partitions WHERE id = :id", id=fit.partition_id)
        return fits(tx, [current]).get(current) if current is not None and current != fit.id else None
    back = previous(tx, fit.partition_id, fit.id)
    is_champion = tx.value("SELECT champion_id FROM partitions WHERE id = :id", id=fit.partition_id) == fit.id
    if back is not None and is_champion:
        _promote(tx, [(fit.partition_id, back.id, f"{fit.version} is damaged")], actor="evertrain")
    elif is_champion:
        # Nothing is left to serve, so nobody has to ask for another.
        place = tx.row("SELECT model_id, key FROM partitions WHERE id = :id", id=fit.partition_id)
        assert place is not None
        request = demand.Request(Cause.ENVIRONMENT, f"the stored model {fit.version} is damaged", forced=True)
        demand.want(tx, place.model_id, model, request, [KeyText(place.key)])
    tx.event(
        Kind.ARTIFACT_DAMAGED,
        model=model,
        fit=fit.id,
        version=fit.version,
        reason=reason,
        serving=back.version if back else None,
        partition=fit.partition_id,
        champion=back.id if back is not None and is_champion else None,
    )
    return back


def partitions_of(tx: Tx, fit_ids: Sequence[int]) -> Sequence[Record]:
    """Return model, key and version of fits."""
    return tx.rows(
        "SELECT f.id, p.model_id, p.key, v.major, v.minor, v.patch FROM fits f JOIN partitions p ON p.id = f.partition_id"
        " JOIN versions v ON v.id = f.version_id WHERE f.id IN :ids ORDER BY f.id",
        ids=list(fit_ids),
    )


# --- history ----------------------------------------------------------------------------------------------------


def versions(tx: Tx, model_id: int, limit: int = 20, before: int | None = None) -> Sequence[Record]:
    """Return the newest versions with what their items came to and how many partitions they serve."""
    where, extra = ("", {}) if before is None else (" AND v.id < :before", {"before": before})
    return tx.rows(
        "SELECT v.id, v.major, v.minor, v.patch, v.created_at, v.run_id, r.cause, r.reason, r.actor, r.state, r.outcomes,"
        " v.fits, v.serving,"
        " (SELECT f.verdict FROM fits f WHERE f.version_id = v.id ORDER BY f.id DESC LIMIT 1) AS verdict,"
        " (SELECT f.scores FROM fits f WHERE f.version_id = v.id ORDER BY f.id DESC LIMIT 1) AS scores"
        f" FROM versions v LEFT JOIN runs r ON r.id = v.run_id WHERE v.model_id = :model{where}"
        " ORDER BY v.id DESC LIMIT :limit",
        model=model_id,
        limit=limit,
        **extra,
    )


def served(tx: Tx, partition_id: int, at: datetime) -> Record | None:
    """Return what served a partition at a moment, and why."""
    return tx.row(
        "SELECT a.*, v.major, v.minor, v.patch FROM activations a JOIN fits f ON f.id = a.fit_id"
        " JOIN versions v ON v.id = f.version_id WHERE a.partition_id = :partition AND a.from_at <= :at"
        " AND (a.until_at IS NULL OR a.until_at > :at) ORDER BY a.id DESC LIMIT 1",
        partition=partition_id,
        at=to_text(at),
    )


def judged(tx: Tx, partition_id: int, limit: int, before: int | None = None) -> Sequence[Record]:
    """Return the newest fits of a partition with their verdicts, how their items ended and whether they serve."""
    where, extra = ("", {}) if before is None else (" AND f.id < :before", {"before": before})
    return tx.rows(
        "SELECT f.id, f.verdict, f.scores, f.rows, f.trained_at, v.run_id, v.major, v.minor, v.patch, i.state,"
        " i.reason, i.cause, i.seconds, p.champion_id IS f.id AS serving FROM fits f JOIN versions v ON v.id = f.version_id"
        f" JOIN partitions p ON p.id = f.partition_id LEFT JOIN items i ON i.id = f.id WHERE f.partition_id = :partition{where}"
        " ORDER BY f.id DESC LIMIT :limit",
        partition=partition_id,
        limit=limit,
        **extra,
    )


def activations(tx: Tx, partition_id: int, limit: int, before: int | None = None) -> Sequence[Record]:
    """Return what served a partition, newest first: from when to when, by whom and why.

    Each says in `back_to` which fit took its place, where that was an earlier one.
    """
    where, extra = ("", {}) if before is None else (" AND a.id < :before", {"before": before})
    return tx.rows(
        "SELECT a.*, v.major, v.minor, v.patch, (SELECT n.fit_id FROM activations n WHERE n.id = (SELECT min(id)"
        " FROM activations WHERE partition_id = a.partition_id AND id > a.id) AND n.fit_id < a.fit_id) AS back_to"
        " FROM activations a JOIN fits f ON f.id = a.fit_id JOIN versions v ON v.id = f.version_id"
        f" WHERE a.partition_id = :partition{where} ORDER BY a.id DESC LIMIT :limit",
        partition=partition_id,
        limit=limit,
        **extra,
    )


def served_fits(tx: Tx, partition_id: int, fits: Sequence[int]) -> Sequence[Record]:
    """Return the activations of some fits of a partition, oldest first, each with which earlier fit took its place."""
    return tx.rows(
        "SELECT a.*, (SELECT n.fit_id FROM activations n WHERE n.id = (SELECT min(id) FROM activations"
        " WHERE partition_id = a.partition_id AND id > a.id) AND n.fit_id < a.fit_id) AS back_to FROM activations a"
        " WHERE a.partition_id = :partition AND a.fit_id IN (SELECT value FROM json_each(:fits)) ORDER BY a.id",
        partition=partition_id,
        fits=dump(list(fits)),
    )


# --- retention --------------------------------------------------------------------------------------------------

_NEEDED = """
  SELECT p.champion_id AS id FROM partitions p WHERE p.champion_id IS NOT NULL
  UNION SELECT max(a.fit_id) FROM activations a JOIN partitions p ON p.id = a.partition_id
    WHERE p.champion_id IS NOT NULL AND a.fit_id < p.champion_id GROUP BY a.partition_id
  UNION SELECT f.id FROM fits f WHERE f.trained_at >= :young OR f.condemned = 1
  UNION SELECT id FROM (SELECT f.id, row_number() OVER (PARTITION BY f.partition_id ORDER BY f.id DESC) AS place
    FROM fits f) WHERE place <= :newest
"""


def collectable(tx: Tx, *, newest: int, days: int) -> list[tuple[str, int]]:
    """Return artifacts (digest, size) in which no fit is a champion, its predecessor, among the newest or young."""
    rows = tx.rows(
        "SELECT a.digest, a.size FROM artifacts a WHERE a.state <> 'removed'"
        " AND NOT EXISTS (SELECT 1 FROM fits f WHERE f.artifact = a.digest"
        f" AND f.id IN ({_NEEDED})) ORDER BY a.created_at",
        newest=newest,
        young=to_text(tx.now - timedelta(days=days)),
    )
    return [(row.digest, row.size) for row in rows]


def collect(tx: Tx, artifacts: Artifacts, *, newest: int, days: int, grace: timedelta) -> tuple[list[str], int]:
    """Mark what nothing needs, remove what was marked for longer than `grace`, and return what was removed.

    Two steps, so that a settle or a rollback that brings the same bytes again finds them. Files are removed inside
    the transaction: a settle checks in its own that the file is there, so neither can slip between the other's steps.
    Rows of fits and activations stay: what served, and why, can be told for every moment.
    """
    unneeded = dict(collectable(tx, newest=newest, days=days))
    marked = {
        row.digest: row.condemned_at
        for row in tx.rows("SELECT digest, condemned_at FROM artifacts WHERE state = 'condemned'")
    }
    tx.many(
        "UPDATE artifacts SET state = 'live', condemned_at = NULL WHERE digest = :digest",
        [{"digest": digest} for digest in marked if digest not in unneeded],
    )
    tx.many(
        "UPDATE artifacts SET state = 'condemned', condemned_at = :at WHERE digest = :digest",
        [{"digest": digest, "at": tx.now_text} for digest in unneeded if digest not in marked],
    )
    ripe = [digest for digest, at in marked.items() if digest in unneeded and at <= to_text(tx.now - grace)]
    tx.many(
        "DELETE FROM forecasts WHERE fit_id IN (SELECT id FROM fits WHERE artifact = :digest)",
        [{"digest": one} for one in ripe],
    )
    tx.many("UPDATE artifacts SET state = 'removed' WHERE digest = :digest", [{"digest": one} for one in ripe])
    fault_point("collect.before_unlink")
    freed = sum(artifacts.remove(digest) for digest in ripe)
    if ripe:
        tx.event(Kind.ARTIFACTS_COLLECTED, count=len(ripe), bytes=freed)
    return ripe, freed
