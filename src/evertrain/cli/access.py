"""Tokens: who may use the service from elsewhere."""

from __future__ import annotations

from typing import Annotated

import typer

from evertrain.cli import here, show
from evertrain.cli.here import Json, token_app


@token_app.command("create")
def token_create(
    role: Annotated[str, typer.Option(help="viewer reads and predicts, operator trains, admin does everything.")],
    expires: Annotated[str, typer.Option(help="After which it is worth nothing, or `never`.")] = "90d",
    name: Annotated[str | None, typer.Option(help="Its name in the log; else the role's, with a number.")] = None,
    as_json: Json = False,
) -> None:
    """Make a token; its secret is shown once and cannot be shown again."""
    from evertrain.control import access

    with here.opened() as opened:
        token, secret = access.create(opened, role, expires, name, actor=here.user())
    if as_json:
        show.as_json({"token": token, "secret": secret})
        return
    until = f"until {show.moment(token.expires_at)}" if token.expires_at else "until it is revoked"
    show.line(f"Token {token.id} ({token.name}) is good {until}. This is shown once:")
    show.line()
    show.line(secret, style="bold")
    show.line()
    show.following("token list")


@token_app.command("list")
def token_list(as_json: Json = False) -> None:
    """List all tokens with their last four characters, also those that are worth nothing any more."""
    from evertrain.control import access

    with here.opened() as opened:
        found, now = access.every(opened), opened.store.clock.now()
    if as_json:
        show.as_json({"tokens": found})
        return
    if not found:
        show.line("There are no tokens. On this machine none is needed; from elsewhere nobody gets in without.")
        show.following("token create --role viewer")
        return
    good = [one.revoked_at is None and (one.expires_at is None or one.expires_at > now) for one in found]
    show.table(
        ["token", "name", "role", "ends", "made", "by", "state"],
        [
            [
                str(one.id),
                one.name,
                one.role,
                f"…{one.ends}",
                show.moment(one.created_at),
                one.created_by,
                f"revoked {show.moment(one.revoked_at)}"
                if one.revoked_at
                else ("" if useful else "expired ")
                + (show.moment(one.expires_at) if one.expires_at else "until it is revoked"),
            ]
            for one, useful in zip(found, good, strict=True)
        ],
        styles=["green" if useful else "dim" for useful in good],
    )
    show.following("status" if any(good) else "token create --role viewer")


@token_app.command("revoke")
def token_revoke(
    number: Annotated[int, typer.Argument(help="Its number, as `token list` shows it.")], as_json: Json = False
) -> None:
    """Make a token and every session begun with it worthless, within a second."""
    from evertrain.control import access

    with here.opened() as opened:
        token = access.revoke(opened, number, actor=here.user())
    if as_json:
        show.as_json(token)
        return
    show.line(f"Token {token.id} ({token.name}) is worth nothing any more.")
    show.following("token list")
