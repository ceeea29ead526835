"""Requests that are done once, however often they are sent: by caller and key, with their first answer, for a day.

The row of a request exists before anything is done for it, with the owner who does it. What is done in the caller's
name stores in its own transaction that it was done, and does not commit where another owns the request by then. So
whenever a process dies, the next one that is sent the request knows whether it was done.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from evertrain.clock import from_text, to_text
from evertrain.errors import ConfigError, StaleAttempt
from evertrain.events import Kind
from evertrain.store import leases
from evertrain.store.connect import Record, Tx, dump

KEPT = timedelta(hours=24)
# No request takes that long; one whose process cannot be seen from here, as in another container, is given up then.
_GIVEN_UP = timedelta(minutes=15)


@dataclass(frozen=True)
class Claim:
    """The right of one attempt to do a request."""

    caller: str
    key: str
    owner: str


@dataclass(frozen=True)
class Answer:
    """The first answer to a request."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Done:
    """A request was done, and its answer was lost with the process that would have given it; `run` is what it began."""

    at: str
    run: int | None


def begin(tx: Tx, claim: Claim, digest: str) -> Claim | Answer | Done | None:
    """Claim a request, and return the claim where it is to be done now; else what became of it, None while it is done.

    Raises:
        ConfigError: the key stands for another request.
    """
    tx.run("DELETE FROM requests WHERE at < :old", old=to_text(tx.now - KEPT))
    values = {
        "caller": claim.caller,
        "key": claim.key,
        "owner": claim.owner,
        "process": dump(leases.identity()),
        "at": tx.now_text,
    }
    mine = tx.run(
        "INSERT INTO requests(caller, key, digest, at, owner, process) VALUES (:caller, :key, :digest, :at, :owner,"
        " :process) ON CONFLICT DO NOTHING",
        digest=digest,
        **values,
    )
    if mine:
        return claim
    row = tx.row("SELECT * FROM requests WHERE caller = :caller AND key = :key", caller=claim.caller, key=claim.key)
    assert row is not None
    found = _known(tx, row, digest)
    if found is not None or not _given_up(tx, row):
        return found
    tx.run(
        "UPDATE requests SET owner = :owner, process = :process, at = :at WHERE caller = :caller AND key = :key",
        **values,
    )
    return claim


def look(tx: Tx, claim: Claim, digest: str) -> tuple[bool, Answer | Done | None]:
    """Return whether a request is still being done by somebody, and what became of it."""
    row = tx.row("SELECT * FROM requests WHERE caller = :caller AND key = :key", caller=claim.caller, key=claim.key)
    found = _known(tx, row, digest) if row is not None else None
    return row is not None and found is None and not _given_up(tx, row), found


def mark(tx: Tx, claim: Claim) -> None:
    """Store that a request was done, in the transaction that does it.

    Raises:
        StaleAttempt: another attempt does it by now; nothing of this one is kept.
    """
    runs = [one["run_id"] for one in tx.written if one["kind"] == Kind.RUN_CREATED]
    changed = tx.run(
        "UPDATE requests SET done = :done WHERE caller = :caller AND key = :key AND owner = :owner AND status IS NULL",
        done=dump({"at": tx.now_text, "run": runs[0] if runs else None}),
        caller=claim.caller,
        key=claim.key,
        owner=claim.owner,
    )
    if not changed:
        raise StaleAttempt("another attempt answers this request by now; nothing was done twice")


def answer(tx: Tx, claim: Claim, given: Answer) -> None:
    """Store the first answer to a request."""
    tx.run(
        "UPDATE requests SET status = :status, headers = :headers, body = :body"
        " WHERE caller = :caller AND key = :key AND owner = :owner",
        status=given.status,
        headers=dump(dict(given.headers)),
        body=given.body,
        caller=claim.caller,
        key=claim.key,
        owner=claim.owner,
    )


def release(tx: Tx, claim: Claim) -> None:
    """Forget a request that was refused or failed before anything was done: it may be sent again."""
    tx.run(
        "DELETE FROM requests WHERE caller = :caller AND key = :key AND owner = :owner AND done IS NULL",
        caller=claim.caller,
        key=claim.key,
        owner=claim.owner,
    )


def _known(tx: Tx, row: Record, digest: str) -> Answer | Done | None:
    if row.digest != digest:
        raise ConfigError("Idempotency-Key", row.key, "a new key: this one stands for another request of the last day")
    if row.status is not None:
        return Answer(row.status, json.loads(row.headers), bytes(row.body))
    if row.done is not None and _given_up(tx, row):
        return Done(**json.loads(row.done))
    return None


def _given_up(tx: Tx, row: Record) -> bool:
    return leases.is_gone(json.loads(row.process)) or from_text(row.at) < tx.now - _GIVEN_UP
