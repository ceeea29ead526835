"""Tokens as people ask for them: with a duration in words, and a name of their own where none is given."""

from __future__ import annotations

from datetime import timedelta

from evertrain.control.opened import Opened
from evertrain.errors import ConfigError
from evertrain.specs import parse_duration
from evertrain.store import tokens
from evertrain.store.tokens import Role, Token

EXPIRES = "90d"


def create(
    opened: Opened, role: str, expires: str = EXPIRES, name: str | None = None, *, actor: str
) -> tuple[Token, str]:
    """Create a token and return it with its secret, which can be shown this once only.

    Args:
        expires: a duration such as "90d", or "never".
        name: None takes the role's, with a number where that is taken.

    Raises:
        ConfigError: there is no such role, the duration is none, or the name cannot be one.
        Conflict: an active token has that name.
    """
    if role not in list(Role):
        raise ConfigError("role", role, ", ".join(Role))
    until = _until(expires)
    with opened.store.write(actor=actor) as tx:
        if name is None:
            taken = {one.name for one in tokens.every(tx) if one.revoked_at is None}
            names = [role, *(f"{role}-{number}" for number in range(2, len(taken) + 3))]
            name = next(one for one in names if one not in taken)
        return tokens.create(tx, name, Role(role), until)


def every(opened: Opened) -> list[Token]:
    """Return all tokens, also those that are worth nothing any more, oldest first."""
    with opened.store.read() as tx:
        return tokens.every(tx)


def revoke(opened: Opened, number: int, *, actor: str) -> Token:
    """Make a token, and every session begun with it, worthless.

    Raises:
        NotFound: no such token.
        Conflict: it is revoked already.
    """
    with opened.store.write(actor=actor) as tx:
        return tokens.revoke(tx, number)


def _until(expires: str) -> timedelta | None:
    if expires == "never":
        return None
    try:
        found = parse_duration(expires)
    except ValueError as error:
        raise ConfigError("expires", expires, f"{error}, or 'never'") from None
    if not timedelta(0) < found <= timedelta(days=3650):
        raise ConfigError("expires", expires, "longer than nothing and at most 3650d, or 'never'")
    return found
