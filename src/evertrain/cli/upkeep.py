"""Upkeep: doctor, gc, backup, restore."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evertrain.cli import here, show
from evertrain.cli.here import Json, app

if TYPE_CHECKING:
    pass


@app.command()
def doctor(as_json: Json = False) -> None:
    """Look for what is wrong with this machine and project; changes nothing."""
    from evertrain.control import upkeep

    root = here.root[0].resolve() if here.root else _anywhere()
    found = upkeep.doctor(root)
    if as_json:
        show.as_json(found)
    else:
        show.table(
            ["", "about", "found", "what helps"],
            [[one.level, one.about, one.text, one.help] for one in found],
            styles=[show.LEVEL[one.level] for one in found],
        )
        problems = [one for one in found if one.level == "problem"]
        help_ = next(
            (
                one.help.removeprefix("evertrain ")
                for one in problems
                if one.help.startswith("evertrain ") and one.help.islower()  # BACKUP is for a person to fill in
            ),
            None,
        )
        show.following(help_ or "status")
    if any(one.level == "problem" for one in found):
        raise typer.Exit(1)


def _anywhere() -> Path:
    from evertrain.config import find_project
    from evertrain.errors import ConfigError

    try:
        return find_project(Path.cwd())
    except ConfigError:
        return Path.cwd()


@app.command()
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go and why the rest stays.")] = False,
    as_json: Json = False,
) -> None:
    """Remove stored models that nothing needs: never a champion's or its predecessor's."""
    from evertrain.control import upkeep

    with here.opened() as opened:
        found = upkeep.gc(opened, dry_run=dry_run)
    if as_json:
        show.as_json(found)
        return
    verb = "would be removed" if dry_run else "removed"
    show.line(
        f"{found.removed} artifacts, {found.bytes / 2**20:.1f} MB, {verb}."
        + (f" {found.marked} more are marked; they go in an hour at the earliest." if found.marked else "")
    )
    show.table(["fits kept", "because they are"], [[str(number), reason] for reason, number in found.kept.items()])
    show.following("gc" if dry_run and found.removed else "status")


@app.command()
def backup(folder: Annotated[Path, typer.Argument(help="A new folder for the copy.")], as_json: Json = False) -> None:
    """Write a complete, verified copy of store, models and project file; training may go on meanwhile."""
    from evertrain.cli.live import waiting
    from evertrain.control import upkeep

    with here.opened() as opened, waiting("Copying and verifying"):
        made = upkeep.backup(opened, folder, here.user())
    if as_json:
        show.as_json(made)
        return
    show.line(f"Backed up to {made.path}: {made.artifacts} artifacts, {made.bytes / 2**20:.1f} MB, verified.")
    show.line(f"Should it be needed: {show.command_line(f'restore {show.quoted(folder)} --force')}")
    show.following("status")


@app.command()
def restore(
    folder: Annotated[Path, typer.Argument(help="A folder that `backup` wrote.")],
    force: Annotated[bool, typer.Option("--force", help="Replace the store that is here; it is kept beside.")] = False,
) -> None:
    """Verify a backup and put it in place; work that ran then is taken up again."""
    from evertrain.control import upkeep

    root = here.root[0].resolve() if here.root else _anywhere()
    upkeep.restore(root, folder, force=force)
    show.line(f"Restored from {folder}.")
    show.following("status")
