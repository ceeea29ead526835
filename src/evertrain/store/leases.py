"""Who is working: time-limited ownership, and how the work of the dead is found.

A supervising process registers a random owner and beats its lease; items name that owner. A lease that ran out is
dead for ever, so a process that slept too long cannot come back under its old name.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evertrain.errors import StaleAttempt
from evertrain.events import Kind
from evertrain.store.connect import Tx, dump

ALIVE = "ended_at IS NULL AND boot = :boot AND lease_until >= :boottime"


def new_owner() -> str:
    """Return a name that no other process start ever had: a reused host or pod name would hide orphans."""
    return secrets.token_hex(16)


def identity() -> dict[str, Any]:
    """Return what tells whether this very process is still there, to others on this machine."""
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "start": _start(pid), "namespace": _namespace()}


def is_gone(process: Mapping[str, Any]) -> bool:
    """Return True only when the process can be seen to be gone; one in another namespace cannot be seen."""
    if not process.get("namespace") or process["namespace"] != _namespace() or process["host"] != socket.gethostname():
        return False
    return bool(_start(int(process["pid"])) != process["start"])


def register(tx: Tx, owner: str, lease_s: float) -> None:
    """Begin a lease for a new owner."""
    tx.run(
        "INSERT INTO workers(owner, boot, lease_until, process, started_at)"
        " VALUES (:owner, :boot, :until, :process, :at)",
        owner=owner,
        boot=tx.boot_id,
        until=tx.boottime + lease_s,
        process=dump(identity()),
        at=tx.now_text,
    )


def beat(tx: Tx, owner: str, lease_s: float) -> None:
    """Stretch a lease that still holds.

    Raises:
        StaleAttempt: the lease has run out; its owner must stop at once and discard what it has.
    """
    changed = tx.run(
        f"UPDATE workers SET lease_until = :until WHERE owner = :owner AND {ALIVE}",
        owner=owner,
        until=tx.boottime + lease_s,
        boot=tx.boot_id,
        boottime=tx.boottime,
    )
    if not changed:
        raise StaleAttempt(f"the lease of {owner[:8]} has run out")


def check(tx: Tx, owner: str) -> None:
    """Raise `StaleAttempt` unless the owner's lease holds now."""
    alive = tx.value(
        f"SELECT 1 FROM workers WHERE owner = :owner AND {ALIVE}", owner=owner, boot=tx.boot_id, boottime=tx.boottime
    )
    if not alive:
        raise StaleAttempt(f"the lease of {owner[:8]} has run out")


def end(tx: Tx, owner: str) -> None:
    """End a lease in good order."""
    tx.run("UPDATE workers SET ended_at = :at WHERE owner = :owner AND ended_at IS NULL", owner=owner, at=tx.now_text)


def lost(tx: Tx) -> list[tuple[str, bool]]:
    """Return owners who are gone and left something behind, each with whether that blames none of their items.

    Gone are those whose lease ran out or whose process is no more. One that ended in good order and still holds
    items could not give them back: no other sweep would ever look at those.
    """
    found = []
    for owner, boot, until, process in tx.rows(
        "SELECT owner, boot, lease_until, process FROM workers WHERE ended_at IS NULL"
    ):
        restarted = boot != tx.boot_id
        if restarted or until < tx.boottime or is_gone(json.loads(process)):
            found.append((owner, restarted))
    left = tx.rows(
        "SELECT owner FROM workers WHERE ended_at IS NOT NULL"
        " AND owner IN (SELECT DISTINCT owner FROM items WHERE state = 'running')"
    )
    return found + [(row[0], True) for row in left]


def bury(tx: Tx, owner: str, items: int) -> None:
    """Mark a lost owner as ended, so that it can never write again."""
    tx.run("UPDATE workers SET ended_at = :at WHERE owner = :owner AND ended_at IS NULL", owner=owner, at=tx.now_text)
    tx.event(Kind.WORKER_LOST, owner=owner, items=items)


def take_role(tx: Tx, role: str, owner: str) -> bool:
    """Take a role that only one process may have, such as the loop; False while another lives that has it."""
    holder = tx.row(
        "SELECT r.owner, w.boot, w.lease_until, w.ended_at, w.process FROM roles r JOIN workers w ON w.owner = r.owner"
        " WHERE r.role = :role",
        role=role,
    )
    if holder and holder.owner == owner:
        check(tx, owner)
        return True
    alive = holder and holder.ended_at is None and holder.boot == tx.boot_id and holder.lease_until >= tx.boottime
    if holder and alive and not is_gone(json.loads(holder.process)):
        return False
    check(tx, owner)
    tx.run(
        "INSERT INTO roles(role, owner, since_at) VALUES (:role, :owner, :at) ON CONFLICT(role) DO UPDATE"
        " SET owner = excluded.owner, since_at = excluded.since_at, stop_requested = 0, ticked_at = NULL",
        role=role,
        owner=owner,
        at=tx.now_text,
    )
    return True


def sign(tx: Tx, role: str) -> None:
    """Record that the holder of a role is at work."""
    tx.run("UPDATE roles SET ticked_at = :at WHERE role = :role", at=tx.now_text, role=role)


def ask_to_stop(tx: Tx, role: str) -> None:
    """Ask the holder of a role to end; it looks every second or so."""
    tx.run("UPDATE roles SET stop_requested = 1 WHERE role = :role", role=role)


def holder(tx: Tx, role: str) -> dict[str, Any] | None:
    """Return who has a role now: owner, process, since when, last tick; None when nobody alive has it."""
    row = tx.row(
        "SELECT r.owner, r.since_at, r.ticked_at, r.stop_requested, w.process, w.boot, w.lease_until FROM roles r"
        " JOIN workers w ON w.owner = r.owner WHERE r.role = :role AND w.ended_at IS NULL",
        role=role,
    )
    if row is None or row.boot != tx.boot_id or row.lease_until < tx.boottime:
        return None
    process = json.loads(row.process)
    if is_gone(process):
        return None
    return {
        "owner": row.owner,
        "since_at": row.since_at,
        "ticked_at": row.ticked_at,
        "process": process,
        "stop_requested": bool(row.stop_requested),
    }


def _start(pid: int) -> str | None:
    try:
        # Field 22 of the stat file, counted behind the command name, which may itself hold blanks and brackets.
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if stat[0] == "Z" else stat[19]


def _namespace() -> int | None:
    try:
        return Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return None
