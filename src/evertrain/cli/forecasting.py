"""Forecasts: what is stored of a partition or rollup, or made of the rows that are named."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evertrain.cli import here, show
from evertrain.cli.here import Json, ModelName, app

if TYPE_CHECKING:
    from evertrain.control.opened import Opened
    from evertrain.forecasts import Forecast


@app.command()
def forecast(
    model: ModelName,
    partition: Annotated[
        str | None, typer.Option("--partition", "-p", help="Such as fruit=Avocado,town=Pilar; fewer name a rollup.")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            help="Only rows with column=value; may be repeated. Where no partition holds them, a model is made."
        ),
    ] = None,
    h: Annotated[int | None, typer.Option("--h", min=1, max=10_000, help="Periods ahead.")] = None,
    level: Annotated[list[int] | None, typer.Option(min=1, max=99, help="An interval, in per cent.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the forecast to this CSV file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw it, behind what happened, into this PNG or SVG file.")] = None,
    as_json: Json = False,
) -> None:
    """Forecast: what a partition or rollup is expected to be, at once; or of the rows that are named."""
    if partition and where:
        raise typer.BadParameter("give --partition or --where, and not both")
    with here.opened() as opened:
        spec = here.model(opened, model)
        wanted = (here.partitions(spec, [partition]) or [{}])[0] if partition else {}
        named: dict[str, Any] = {**here.assigned(where or [], "column=value", called="--where")}
        found = _found(opened, model, wanted, named, h, level)
        if plot is not None:
            _draw(opened, found, spec.spec.target, named or wanted, plot)
        if csv is not None:
            found.frame().assign(unique_id=_for_spreadsheets(found.partition)).to_csv(csv, index=False)
        if as_json:
            show.as_json(found.plain())
            return
        _tell(found, csv, plot)


def _found(
    opened: Opened, model: str, partition: dict[str, Any], where: dict[str, Any], h: int | None, level: list[int] | None
) -> Forecast:
    from evertrain.cli.live import waiting
    from evertrain.control.forecast import filtered
    from evertrain.forecasts import Forecasts

    if where:
        with waiting("Making a forecast of these rows"):
            return filtered(opened, model, where, h, level)
    reader = Forecasts(opened.store, opened.artifacts, model, opened.inline)
    with waiting("Reading the forecast"):
        return reader.read(partition, h, level)


def _draw(opened: Opened, found: Forecast, target: str, where: dict[str, Any], plot: Path) -> None:
    from evertrain.cli.live import waiting
    from evertrain.control.forecast import actuals
    from evertrain.plots import forecast_plot

    with waiting("Drawing"):
        ds, y = actuals(opened, found.model, where)
        forecast_plot(found, ds, y, target, plot)


def _for_spreadsheets(name: str) -> str:
    """Return a name that no spreadsheet takes for a formula: partitions are called as uploaded rows say."""
    return f"'{name}" if name.startswith(("=", "+", "-", "@", "\t", "\r")) else name


def _tell(found: Forecast, csv: Path | None, plot: Path | None) -> None:
    who = f"{found.model} {found.version}" if found.version else found.model
    show.line(f"{who}: {found.partition}, {len(found.ds)} periods of {found.freq} after {found.as_of}")
    if found.fallback:
        show.line(found.fallback, "yellow")
    if found.note:
        show.line(found.note)
    if found.stale:
        show.line(f"{found.stale} periods have ended since the last one it has seen.", "yellow")
    if found.behind:
        show.line("Rows changed since; a newer one is due or under way.", "yellow")
    head = ["period", "forecast", *(f"{one} % interval" for one in found.level)]
    rows = [
        [ds, _number(found.mean[place]), *(_interval(found, one, place) for one in found.level)]
        for place, ds in enumerate(found.ds)
    ]
    show.table(head, rows)
    for target in (csv, plot):
        if target is not None:
            show.line(f"Written to {target}")
    show.following(f"why {found.model}" if found.version else f"forecast {found.model}")


def _interval(found: Forecast, level: int, place: int) -> str:
    low, high = found.intervals[f"lo-{level}"][place], found.intervals[f"hi-{level}"][place]
    return f"{_number(low)} to {_number(high)}" if low is not None and high is not None else "unknown"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
