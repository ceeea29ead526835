"""Data: bring rows into a dataset, see what came, take it back, write it out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evertrain.cli import here, show
from evertrain.cli.here import Json, app

if TYPE_CHECKING:
    from evertrain.datasets import Batch

DatasetName = Annotated[str, typer.Argument(help="Name of the dataset.")]


@app.command()
def ingest(
    dataset: DatasetName,
    file: Annotated[Path, typer.Argument(help="A CSV or Parquet file.")],
    token: Annotated[str | None, typer.Option(help="A name for this request: sent again, it changes nothing.")] = None,
    as_json: Json = False,
) -> None:
    """Merge the rows of a file into a dataset as one batch: the newer row of a key wins."""
    from evertrain.cli.live import waiting
    from evertrain.control import data
    from evertrain.control.work import loop_alive

    with here.opened() as opened:
        with waiting(f"Merging {file.name}"):
            batch = data.ingest(opened, dataset, file, actor=here.user(), token=token)
        if as_json:
            show.as_json(batch)
            return
        show.line(f"{str(batch)[0].upper()}{str(batch)[1:]}.", "green")
        for one in data.announcements(opened, batch):
            show.line(one)
        if batch.report:
            show.line(f"The rows set aside are listed in {batch.report}", "yellow")
        if batch.again:
            show.line("It was written before, under this token; nothing changed now.")
        show.following("start --detach" if not loop_alive(opened) else f"batches {dataset}")


@app.command()
def batches(dataset: DatasetName, limit: Annotated[int, typer.Option(min=1)] = 20, as_json: Json = False) -> None:
    """List the batches of a dataset, newest first."""
    from evertrain.control import data

    with here.opened() as opened:
        found = data.batches(opened, dataset, limit)
        if as_json:
            show.as_json([dict(row._mapping) for row in found])
            return
        if not found:
            show.line(f"{dataset} holds no rows yet.")
            show.following(f"ingest {dataset} FILE.csv")
            return
        show.table(
            ["batch", "version", "what", "from", "by", "at", "added", "updated", "removed", "unchanged"],
            [
                [str(row.id), str(row.version), row.kind, row.source, row.actor, show.moment(row.at),
                 *(f"{number:,}" for number in (row.added, row.updated, row.removed, row.unchanged))]
                for row in found
            ],
        )  # fmt: skip
        show.following(f"undo {dataset} {found[0].id}")


@app.command()
def undo(
    dataset: DatasetName, batch: Annotated[int, typer.Argument(help="Number of the batch.")], as_json: Json = False
) -> None:
    """Reverse a batch, but for rows that a later batch touched."""
    from evertrain.control import data

    with here.opened() as opened:
        made = data.undo(opened, dataset, batch, actor=here.user())
        if as_json:
            show.as_json(made)
            return
        show.line(f"Undone batch {batch}: {made}.", "green")
        if made.left:
            listed = ", ".join(made.left[:10]) + (" …" if len(made.left) > 10 else "")
            show.line(f"{len(made.left)} left alone, since later batches changed them: {listed}", "yellow")
        _tell_fits(made)
        show.following("plan")


@app.command()
def erase(
    dataset: DatasetName,
    row: Annotated[list[str], typer.Argument(metavar="KEY=VALUE...", help="The key columns of the row.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask: erase it.")] = False,
    as_json: Json = False,
) -> None:
    """Remove every trace of a row, its history too; it cannot be undone."""
    from evertrain.cli.live import waiting
    from evertrain.control import data
    from evertrain.errors import ConfigError

    named = here.assigned(row, "the key columns of the row, such as record_id=7", "KEY=VALUE")
    with here.opened() as opened:
        values = data.typed(opened, dataset, named)
        if not yes and not (sys.stdin.isatty() and typer.confirm(f"Erase {' '.join(row)} of {dataset} for good?")):
            raise ConfigError("--yes", "missing", "given, since nothing brings an erased row back")
        with waiting("Erasing"):
            made = data.erase(opened, dataset, values, actor=here.user())
        if as_json:
            show.as_json(made)
            return
        show.line(f"Erased: {made}.", "green")
        if made.fits:
            listed = _some([str(one) for one in made.fits])
            show.line(
                f"Trained on it: {listed}. Those that serve do so until their partition is trained anew.", "yellow"
            )
        for note in made.notes:
            show.line(f"{note[0].upper()}{note[1:]}.", "yellow")
        show.following("plan")


def _tell_fits(made: Batch) -> None:
    """Say which fits were trained on what is gone, and what serves in their place."""
    if not made.fits:
        return
    show.line(f"Trained on it: {_some([str(one) for one in made.fits])}.")
    if made.rolled_back:
        listed = _some([f"{one.model} of {one.partition} to {one.back}" for one in made.rolled_back])
        show.line(f"Rolled back until clean models are trained: {listed}.", "green")
    if stay := [one for one in made.fits if one.stays]:
        listed = _some([f"{one} ({one.stays})" for one in stay])
        show.line(f"Still serving until clean models are trained: {listed}.", "yellow")


def _some(texts: list[str], most: int = 10) -> str:
    return "; ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")


@app.command(name="export")
def export_(
    dataset: DatasetName,
    file: Annotated[Path, typer.Argument(help="File to write, .csv or .parquet.")],
    version: Annotated[int | None, typer.Option(help="An earlier version; by default the newest.")] = None,
) -> None:
    """Write the rows of a dataset to a file, as they are now or were at an earlier version."""
    from evertrain.control import data

    with here.opened() as opened:
        rows = data.export(opened, dataset, file, version)
        show.line(f"Wrote {rows:,} rows to {file}.", "green")
        show.following(f"batches {dataset}")
