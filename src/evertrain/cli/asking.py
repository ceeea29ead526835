"""Asking: train, take back, predict, adopt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evertrain.cli import here, show
from evertrain.cli.here import Json, ModelName, Partitions, app

if TYPE_CHECKING:
    from evertrain.control.opened import Opened


@app.command()
def trigger(
    model: ModelName,
    partition: Partitions = None,
    force: Annotated[
        bool, typer.Option("--force", help="Train even where the champion knows exactly these rows.")
    ] = False,
    wait: Annotated[bool, typer.Option(help="Wait for the outcome.")] = True,
    as_json: Json = False,
) -> None:
    """Train now: the whole model, which is a full run, or partitions and the rollups above them."""
    from evertrain.cli.live import waiting
    from evertrain.control import ask
    from evertrain.control.work import read_first

    with here.opened() as opened:
        found = here.model(opened, model)
        if found.extract is None and found.spec.partition_by:
            with waiting("Reading the data"):
                read_first(opened, model)
            found = here.model(opened, model)
        asked = ask.trigger(opened, model, here.partitions(found, partition), force=force, actor=here.user())
        if not wait:
            if as_json:
                show.as_json(asked)
                return
            show.line(
                f"Run {asked.run_id} asks for {asked.partitions} of {asked.total}." if asked.run_id else asked.reason
            )
            show.following(f"runs {asked.run_id}" if asked.run_id else f"why {model}")
            return
        see_through(opened, model, asked, as_json=as_json)


def see_through(opened: Opened, model: str, asked: Any, *, as_json: bool) -> None:
    from evertrain.cli.live import watching
    from evertrain.control.work import run_to_end

    if as_json:
        outcome = run_to_end(opened, asked)
        show.as_json(outcome)
    else:
        if asked.run_id:
            show.line(f"Run {asked.run_id}: {asked.partitions} of {asked.total} of {model}")
        with watching(opened, asked.run_id or 0, model, asked.partitions) as progress:
            outcome = run_to_end(opened, asked, progress=progress)
        shown = outcome.outcome.replace("_", " ")
        shifted = (
            f" {outcome.old_version or 'nothing'} -> {outcome.new_version}" if outcome.outcome == "promoted" else ""
        )
        style = {"promoted": "green", "failed": "red", "refused": "yellow"}.get(outcome.outcome)
        show.line(f"{shown}{shifted}: {outcome.reason.removeprefix(f'{shown}: ')}", style)
        if outcome.outcome in ("refused", "failed"):
            _say_what_serves(opened, model)
        follow = {
            "failed": f"runs {outcome.run_id}",
            "promoted": f"versions {model}",
            "not_needed": f"trigger {model} --force",
        }
        show.following(follow.get(outcome.outcome, f"why {model}") if outcome.run_id else f"why {model}")
    if outcome.outcome == "failed":
        raise typer.Exit(5)


def _say_what_serves(opened: Opened, model: str) -> None:
    from evertrain.store import models

    with opened.store.read() as tx:
        serving = models.serving_versions(tx, models.by_name(tx, model).id, 3)
    show.line(f"{', '.join(serving)} keeps serving." if serving else "There is no model to serve yet.")


@app.command()
def rollback(
    model: ModelName,
    to: Annotated[str | None, typer.Option(help="Back to this version; else to the previous one.")] = None,
    partition: Partitions = None,
    run: Annotated[int | None, typer.Option(help="Only what this run brought.")] = None,
    pin: Annotated[bool, typer.Option("--pin", help="Keep it against every later challenger.")] = False,
    unpin: Annotated[
        bool, typer.Option("--unpin", help="Only free a pinned champion; nothing is rolled back.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Let an earlier version serve again, at once; it is loaded for a trial first."""
    from evertrain.cli.live import waiting
    from evertrain.control import back

    with here.opened() as opened:
        keys = here.partitions(here.model(opened, model), partition)
        if unpin:
            number = back.pin(opened, model, pinned=False, partitions=keys, actor=here.user())
            if as_json:
                show.as_json({"model": model, "partitions": number, "pinned": False})
                return
            show.line(f"{number} partitions of {model} are free for better models again.")
            show.following(f"trigger {model}")
            return
        with waiting("Trying the earlier model"):
            done = back.rollback(
                opened,
                model,
                version=to,
                partitions=keys,
                run_id=run,
                pin=pin,
                actor=here.user(),
                why=f"asked by {here.user()}",
            )
    if as_json:
        show.as_json(done)
        return
    many = f" ({done.partitions} partitions)" if done.partitions > 1 else ""
    show.line(f"Rolled back {model}: {done.before} -> {done.after}{many}{', pinned' if pin else ''}", "green")
    show.following(f"versions {model}")


@app.command()
def predict(
    model: ModelName,
    data: Annotated[Path | None, typer.Option(help="A CSV or Parquet file with the features.")] = None,
    values: Annotated[
        list[str] | None, typer.Option("--set", help="One feature of one row: name=value; may be repeated.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the rows with their predictions to this CSV file.")] = None,
    as_json: Json = False,
) -> None:
    """Predict with the champion: rows of a file, or one row typed here."""
    from evertrain.serving import Predictor

    if data is None and not values:
        raise typer.BadParameter("there is nothing to predict: give --data FILE, or --set name=value for each feature")
    if data is not None and values:
        raise typer.BadParameter("give --data FILE, or --set name=value for each feature, and not both")
    with here.opened() as opened:
        if out is not None:
            _may_write(opened, out)
        frame = _rows(data, values or [])
        from evertrain.cli.live import waiting

        with waiting("Loading the model"):
            answer = Predictor(opened.store, opened.artifacts, model).answer(frame)
    if out is not None:
        frame.assign(prediction=answer.values, version=answer.versions).to_csv(out, index=False)
        if as_json:
            show.as_json({"written": len(frame), "to": str(out)})
            return
        show.line(f"{len(frame)} predictions written to {out}")
    elif as_json:
        show.as_json(
            {
                "predictions": answer.values.tolist(),
                "versions": answer.versions,
                "answered_by": answer.answered_by,
                "fallback": answer.fallback,
            }
        )
        return
    else:
        rows = [
            [f"{value:.6g}" if isinstance(value, float) else str(value), version, name]
            for value, version, name in zip(answer.values[:20], answer.versions, answer.answered_by, strict=False)
        ]
        show.table(["prediction", "version", "answered by"], rows)
        if len(frame) > 20:
            show.line(f"... and {len(frame) - 20} more; --out FILE.csv writes all of them")
    show.following(f"why {model}")


def _may_write(opened: Opened, out: Path) -> None:
    """Refuse a target that would end in an error after all the work, or overwrite the rows a model learns from."""
    from evertrain.errors import ConfigError
    from evertrain.specs import CsvFile, ParquetFile

    if not out.resolve().parent.is_dir():
        raise ConfigError("--out", str(out), "a file in a folder that exists")
    for name, source in opened.project().sources.items():
        if isinstance(source, CsvFile | ParquetFile) and (opened.home.root / source.path).resolve() == out.resolve():
            raise ConfigError("--out", str(out), f"another file: this is the source {name}")


def _rows(data: Path | None, values: list[str]) -> Any:
    import pandas as pd

    from evertrain.executors.rows import to_pandas
    from evertrain.sources.read import read
    from evertrain.sources.table import schema_of
    from evertrain.specs import CsvFile, ParquetFile

    if data is not None:
        source = ParquetFile(data.name) if data.suffix in (".parquet", ".pq") else CsvFile(data.name)
        frame = read(source, data.resolve().parent).frame
        return to_pandas(frame, schema_of(frame))
    row: dict[str, Any] = {}
    for name, value in here.assigned(values, "name=value").items():
        try:
            row[name] = float(value)
        except ValueError:
            row[name] = value
    return pd.DataFrame([row])


@app.command()
def adopt(
    model: ModelName, file: Annotated[Path, typer.Argument(help="An existing model file, e.g. model.skops.")]
) -> None:
    """Make an existing model file the model's first champion, 1.0.0, after a trial on the current rows."""
    from evertrain.cli.live import waiting
    from evertrain.control import back

    with here.opened() as opened, waiting("Trying the model on the current rows"):
        version = back.adopt(opened, model, file, actor=here.user())
    show.line(f"{file.name} serves as {model} {version}.", "green")
    show.following(f"why {model}")
