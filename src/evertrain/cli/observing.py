"""Observations: predictions that were made, and what really happened."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evertrain.cli import here, show
from evertrain.cli.here import Json, ModelName, app

if TYPE_CHECKING:
    from evertrain.observations import Labelled


@app.command()
def observe(
    model: ModelName,
    file: Annotated[Path, typer.Argument(help="A CSV or Parquet file: the features and what the options name.")],
    prediction: Annotated[str, typer.Option(help="Column of the predictions.")] = "prediction",
    predictions: Annotated[
        Path | None, typer.Option(help="A .npy file with one prediction per row, in the place of the column.")
    ] = None,
    actuals: Annotated[Path | None, typer.Option(help="A .npy file with one actual per row.")] = None,
    id_: Annotated[str | None, typer.Option("--id", help="Column by which actuals will find their row.")] = None,
    time: Annotated[str | None, typer.Option(help="Column that says when it was predicted; by default now.")] = None,
    partition: Annotated[
        str | None, typer.Option("--partition", "-p", help="Of all rows, as town=Pilar; else columns tell.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Keep predictions with their features, and their actuals where the file has them."""
    from evertrain.cli.live import waiting
    from evertrain.control import observe as control

    with here.opened() as opened:
        found = here.partitions(here.model(opened, model), [partition] if partition else None)
        with waiting(f"Reading {file.name}"):
            noted = control.observe(
                opened, model, file, prediction=prediction, predictions=predictions, id=id_, time=time,
                partition=found[0] if found else None, actuals=actuals,
            )  # fmt: skip
        if as_json:
            show.as_json(noted)
            return
        counts = {"new": noted.new, "replaced": noted.replaced, "unchanged": noted.unchanged,
                  "older than what is known": noted.older, "too old to keep": noted.too_old, "not sampled": noted.sampled_out}  # fmt: skip
        show.line(f"Observed {noted.rows:,} predictions of {model}: {_counted(counts)}.", "green")
        if noted.actuals is not None:
            show.line(f"Actuals: {_counted(_of(noted.actuals))}.")
        if noted.share < 1:
            show.line(f"1 in {round(1 / noted.share)} rows is kept, a uniform sample.", "yellow")
        show.following(f"why {model}")


@app.command()
def actuals(
    model: ModelName,
    file: Annotated[Path, typer.Argument(help="A CSV or Parquet file.")],
    id_: Annotated[str, typer.Option("--id", help="Column of the ids that the predictions had.")] = "id",
    actual: Annotated[str | None, typer.Option(help='Column of the actuals; else "actual", or the target.')] = None,
    time: Annotated[str | None, typer.Option(help="Column that says when each became known; by default now.")] = None,
    as_json: Json = False,
) -> None:
    """Keep what really happened, for predictions that were or will be observed; the newest of an id counts."""
    from evertrain.cli.live import waiting
    from evertrain.control import observe as control

    with here.opened() as opened:
        here.model(opened, model)
        with waiting(f"Reading {file.name}"):
            found = control.actuals(opened, model, file, id=id_, actual=actual, time=time)
        if as_json:
            show.as_json(found)
            return
        show.line(f"Read {found.rows:,} actuals of {model}: {_counted(_of(found))}.", "green")
        show.following(f"why {model}")


def _of(found: Labelled) -> dict[str, int]:
    return {"matched": found.matched, "corrected": found.corrected, "unchanged": found.unchanged,
            "waiting for their prediction": found.waiting, "without a value": found.missing,
            "of rows not sampled": found.sampled_out}  # fmt: skip


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{number:,} {what}" for what, number in counts.items() if number) or "none"
