"""Beginning: a project file, and the first model."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evertrain.cli import here, show
from evertrain.cli.here import Json, app

if TYPE_CHECKING:
    pass


@app.command()
def init(
    file: Annotated[Path | None, typer.Argument(help="A CSV or Parquet file to begin with.")] = None,
    target: Annotated[str | None, typer.Option(help="The column to predict; guessed where not named.")] = None,
    train: Annotated[bool, typer.Option(help="Train the first model at once.")] = True,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a project file that is there.")] = False,
) -> None:
    """Write a project file; from a data file, guess what it holds, train, and show how good the model is."""
    from evertrain.control import begin

    root = here.root[0] if here.root else Path.cwd()
    if file is None:
        path = begin.write(root, begin.EXAMPLE, force=force)
        show.line(f"Wrote {path.name}: an example to change. `evertrain init FILE.csv` makes one from your data.")
        show.following("doctor")
        return
    with contextlib.suppress(OSError):
        root.mkdir(parents=True, exist_ok=True)
    from evertrain.cli.live import waiting

    with waiting(f"Reading {file.name}"):
        found = begin.guess(file, root, target=target)
    show.table(["guess", "value", "because"], [[one.what, one.value, one.reason] for one in found.guesses])
    for text in found.warnings:
        show.line(f"Warning: {text}", "yellow")
    path = begin.write(root, found.text, force=force)
    show.line(f"Wrote {path.name}; change what was guessed wrong there.")
    if not train:
        show.following(f"trigger {found.name}")
        return
    here.root[:] = [root]
    _first_training(found.name)


def _first_training(name: str) -> None:
    from evertrain.cli.live import waiting
    from evertrain.control.opened import reload
    from evertrain.loop import Loop
    from evertrain.partitions import WHOLE
    from evertrain.scores import format_score, improvement
    from evertrain.store import demand

    with here.opened() as opened:
        with here.patiently("Reading the project file"):
            reload(opened, only_if_changed=True)
        with waiting(f"Training {name}"):
            Loop(opened, watch_files=False).run(until_idle=True)
        from evertrain.control import tell

        told = tell.why(opened, name, None)["partition"] or {}
        verdict = told.get("verdict")
        if not verdict:
            with opened.store.read() as tx:
                place = demand.partition(tx, here.model(opened, name).id, WHOLE)
            show.line(f"No model yet: {place.outcome_reason if place else 'nothing was read'}", "yellow")
            show.following(f"why {name}")
            return
        score = verdict["score"]
        show.line(
            f"{name} {told['version']}: {score} {format_score(score, verdict['challenger'])} on {verdict['rows']} rows it"
            f" never saw; always the same answer would get {format_score(score, verdict['baseline'])}."
        )
        if not improvement(score, verdict["baseline"], verdict["challenger"]).is_better:
            show.line("Warning: it is no better than always the same answer; look at what was guessed above.", "yellow")
            show.following(f"why {name}")
            return
    show.following("start --detach")


@app.command()
def reload(as_json: Json = False) -> None:
    """Read the project file again and make what it declares current."""
    from evertrain import loader
    from evertrain.cli.live import waiting
    from evertrain.control import opened as use

    with here.opened() as opened:
        doing = "Reading the project file"
        with waiting(doing) if show.lively(sys.stderr) else here.patiently(doing):
            project = use.declared(opened.home.root, fresh=True)
            loader.check(project, opened.home.root)
            changes = use.apply(opened, project, loader.digest(opened.home.root) or "")
        if as_json:
            show.as_json({"changes": changes})
            return
        for change in changes or ["Nothing changed."]:
            show.line(change)
    show.following("status")
