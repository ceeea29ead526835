"""Tokens: who may use the service from elsewhere, and as what. A secret is shown once and stored as its digest."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from evertrain.clock import from_text, to_text
from evertrain.errors import ConfigError, Conflict, NotFound
from evertrain.events import Kind
from evertrain.store.connect import Record, Tx

_PREFIX = "evt_"
SESSION = timedelta(hours=12)


class Role(StrEnum):
    """What somebody may do; each role may do what those before it may."""

    VIEWER = "viewer"  # read everything, predict, keep observations
    OPERATOR = "operator"  # train, roll back, upload, undo, pause, schedule
    ADMIN = "admin"  # tokens, settings, erasing, starting and stopping

    def covers(self, needed: Role) -> bool:
        """Return whether this role may do what `needed` may.

        >>> Role.OPERATOR.covers(Role.VIEWER), Role.OPERATOR.covers(Role.ADMIN)
        (True, False)
        """
        order = list(Role)
        return order.index(self) >= order.index(needed)


@dataclass(frozen=True)
class Caller:
    """Who makes a request: the name for the log, and what they may do.

    Attributes:
        token_id: of the token or of the session's token; None on loopback, where none is needed.
    """

    name: str
    role: Role
    token_id: int | None = None


@dataclass(frozen=True)
class Token:
    """A token as it can be listed; `ends` are its last four characters, to tell it from others."""

    id: int
    name: str
    role: Role
    ends: str
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None


def create(tx: Tx, name: str, role: Role, expires: timedelta | None) -> tuple[Token, str]:
    """Create a token and return it with its secret, which can be shown this once only.

    Raises:
        ConfigError: the name is empty, too long or not printable.
        Conflict: an active token has that name.
    """
    if not (0 < len(name) <= 64 and name.isprintable() and name.strip() == name):
        raise ConfigError("token name", name, "1 to 64 printable characters")
    if tx.row("SELECT 1 FROM tokens WHERE name = :name AND revoked_at IS NULL", name=name):
        raise Conflict(f"there is a token called {name!r}; revoke it first, or choose another name")
    secret = _PREFIX + secrets.token_urlsafe(32)
    number = tx.value(
        "INSERT INTO tokens(name, role, digest, ends, created_at, created_by, expires_at)"
        " VALUES (:name, :role, :digest, :ends, :at, :by, :until) RETURNING id",
        name=name, role=role, digest=digest_of(secret), ends=secret[-4:], at=tx.now_text, by=tx.actor,
        until=to_text(tx.now + expires) if expires else None,
    )  # fmt: skip
    tx.next("access")
    tx.event(Kind.TOKEN_CREATED, token=name, role=str(role), expires_s=expires.total_seconds() if expires else None)
    return _token(_row(tx, number)), secret


def revoke(tx: Tx, number: int) -> Token:
    """Make a token and every session begun with it worthless.

    Raises:
        NotFound: no such token.
        Conflict: it is revoked already.
    """
    row = _row(tx, number)
    if row.revoked_at:
        raise Conflict(f"token {number} ({row.name}) is revoked already")
    tx.run("UPDATE tokens SET revoked_at = :now WHERE id = :id", now=tx.now_text, id=number)
    tx.run("DELETE FROM sessions WHERE token_id = :id", id=number)
    tx.next("access")
    tx.event(Kind.TOKEN_REVOKED, token=row.name, role=row.role)
    return _token(_row(tx, number))


def every(tx: Tx) -> list[Token]:
    """Return all tokens, also those that are worth nothing any more, oldest first."""
    return [_token(row) for row in tx.rows("SELECT * FROM tokens ORDER BY id")]


def any_active(tx: Tx) -> bool:
    """Return whether anybody could use the service with a token now."""
    return tx.row(f"SELECT 1 FROM tokens WHERE {_ACTIVE} LIMIT 1", now=tx.now_text) is not None


def caller(tx: Tx, secret: str) -> tuple[Caller, datetime | None] | None:
    """Return who holds this secret and until when it is good; None where nobody does."""
    row = tx.row(
        f"SELECT * FROM tokens WHERE digest = :digest AND {_ACTIVE}", digest=digest_of(secret), now=tx.now_text
    )
    return _caller(row, row.expires_at) if row else None


def begin_session(tx: Tx, who: Caller, peer: str) -> str:
    """Begin a session for somebody who showed a token; return its secret, for a cookie."""
    secret = secrets.token_urlsafe(32)
    tx.run("DELETE FROM sessions WHERE expires_at <= :now", now=tx.now_text)
    tx.run(
        "INSERT INTO sessions(digest, token_id, created_at, expires_at) VALUES (:digest, :token, :now, :until)",
        digest=digest_of(secret), token=who.token_id, now=tx.now_text, until=to_text(tx.now + SESSION),
    )  # fmt: skip
    tx.event(Kind.SESSION_BEGUN, peer=peer)
    return secret


def session(tx: Tx, secret: str) -> tuple[Caller, datetime | None] | None:
    """Return who began a session and until when it is good; None where it is none, or its token is worth nothing now."""
    row = tx.row(
        "SELECT t.*, min(s.expires_at, coalesce(t.expires_at, s.expires_at)) AS good_until"
        " FROM sessions s JOIN tokens t ON t.id = s.token_id"
        " WHERE s.digest = :digest AND s.expires_at > :now AND t.revoked_at IS NULL"
        " AND (t.expires_at IS NULL OR t.expires_at > :now)",
        digest=digest_of(secret), now=tx.now_text,
    )  # fmt: skip
    return _caller(row, row.good_until) if row else None


def end_session(tx: Tx, secret: str) -> None:
    """End a session: its cookie is worth nothing any more."""
    tx.run("DELETE FROM sessions WHERE digest = :digest", digest=digest_of(secret))
    tx.next("access")


def epoch(tx: Tx) -> int:
    """Return a number that grows whenever a token or a session is taken away: what was remembered must be asked again."""
    return tx.counter("access")


def digest_of(secret: str) -> str:
    """Return what is stored of a secret: all are 256 random bits, so a fast digest without salt is enough."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


_ACTIVE = "revoked_at IS NULL AND (expires_at IS NULL OR expires_at > :now)"


def _row(tx: Tx, number: int) -> Record:
    row = tx.row("SELECT * FROM tokens WHERE id = :id", id=number)
    if row is None:
        raise NotFound(f"there is no token {number}")
    return row


def _caller(row: Record, until: str | None) -> tuple[Caller, datetime | None]:
    return Caller(row.name, Role(row.role), row.id), from_text(until) if until else None


def _token(row: Record) -> Token:
    return Token(
        row.id, row.name, Role(row.role), row.ends, from_text(row.created_at), row.created_by,
        from_text(row.expires_at) if row.expires_at else None, from_text(row.revoked_at) if row.revoked_at else None,
    )  # fmt: skip
