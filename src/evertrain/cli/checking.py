"""Checking and executing with files in hand: JSON on standard output and nothing else, words on standard error."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evertrain.cli import here, show
from evertrain.cli.here import Json, Partitions, app

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from evertrain.control.execute import Executed
    from evertrain.specs import Drift
    from evertrain.triggers import Decision

TRIGGERED = 10

_REFERENCE = typer.Option("--reference-data", help="Rows that the model was trained on: CSV or Parquet.")
_RECENT = typer.Option("--recent-data", help="Rows since, oldest first.")
Profile = Annotated[
    str | None, typer.Option(help="default, sensitive, conservative, guaranteed, or seed: the plain old rules.")
]
MinConfidence = Annotated[
    int | None, typer.Option("--min-confidence", help="Per cent below which nothing is triggered, 0 to 99.")
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", help="Another setting of the check: name=value, such as error_increase=20%; see `Drift`."),
]
Html = Annotated[Path | None, typer.Option(metavar="FILE", help="Also write a page for people to this file.")]
ExitCode = Annotated[bool, typer.Option("--exit-code", help=f"End with {TRIGGERED} where retraining is asked for.")]


@app.command()
def check(
    model: Annotated[
        str | None, typer.Argument(help="A model of this project with `on_drift()`; or files instead.")
    ] = None,
    partition: Partitions = None,
    reference_data: Annotated[Path | None, _REFERENCE] = None,
    recent_data: Annotated[Path | None, _RECENT] = None,
    recent_predictions: Annotated[
        Path | None, typer.Option("--recent-predictions", help="What the model answered for recent rows: a .npy array.")
    ] = None,
    recent_actuals: Annotated[
        Path | None, typer.Option("--recent-actuals", help="What came true, as many: a .npy array.")
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(help="A score of the model when it was made: name=value, such as r2=0.85; may be repeated."),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(help="The column that is predicted: no input, and the actuals where they are not given."),
    ] = None,
    time: Annotated[str | None, typer.Option(help="The column that says when a row happened.")] = None,
    profile: Profile = None,
    min_confidence: MinConfidence = None,
    settings: Sets = None,
    html: Html = None,
    exit_code: ExitCode = False,
    as_json: Json = False,
) -> None:
    """Say whether a model should be retrained; nothing is trained.

    With files no project is needed, and the answer is always JSON. By name, a model's champion is looked at now, as
    the loop does every day.
    """
    from evertrain.sources.npy import read_npy

    files = (reference_data, recent_data, recent_predictions, recent_actuals)
    more = (baseline, target, time, profile, min_confidence, settings)
    if model is not None:
        if any(one is not None for one in (*files, *more)):
            raise typer.BadParameter("give a model, whose declaration says how it is checked, or files; not both")
        decision = _check_model(model, partition, html, as_json=as_json)
    else:
        if reference_data is None or recent_data is None:
            raise typer.BadParameter("give a model, or --reference-data and --recent-data")
        if partition:
            raise typer.BadParameter("--partition is of a model")
        with _only_json():
            _may_write(html)
            config = _config(profile, min_confidence, settings)
            predictions, actuals = (
                one if one is None else read_npy(one) for one in (recent_predictions, recent_actuals)
            )
            reference, recent, scores = _rows(reference_data), _rows(recent_data), _scores(baseline)
            with here.patiently("Comparing"):
                decision = _decide(reference, recent, predictions, actuals, scores, target, time, config)
            _page(html, decision, target or "", config)
        show.as_json(told(decision, config))
        _say(decision)
    if exit_code and decision.fired:
        raise typer.Exit(TRIGGERED)


def _check_model(model: str, partition: list[str] | None, html: Path | None, *, as_json: bool) -> Decision:
    from rich.tree import Tree

    from evertrain.cli.live import waiting
    from evertrain.control import drift
    from evertrain.control.ask import keys_of
    from evertrain.reports import lines
    from evertrain.specs import Drift

    _may_write(html)
    with here.opened() as opened:
        found = here.model(opened, model)
        keys = keys_of(found.spec, here.partitions(found, partition))
        with waiting(f"Checking {model}"):
            decided = drift.look(opened, model, keys)
    trigger = found.spec.drift or Drift()
    decision = drift.together(found.spec, decided)
    _page(html, decision, model, trigger)
    if as_json:
        show.as_json({"model": model, **told(decision, trigger)})
        return decision
    tree = Tree(show.cell(model))
    for line in lines(decision, trigger):
        show.add_line(tree, line)
    show.console().print(tree)
    show.following(f"trigger {model}" if decision.fired else f"why {model}")
    return decision


@app.command()
def execute(
    reference_data: Annotated[Path, _REFERENCE],
    recent_data: Annotated[Path, _RECENT],
    target: Annotated[
        str | None, typer.Option(help="The column to predict; where there is no project, one is begun for it.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="A model of this project; else the one with the target.")] = None,
    trainer: Annotated[
        str | None, typer.Option(help="For a new project: an import path, or a command such as 'python train.py …'.")
    ] = None,
    profile: Profile = None,
    min_confidence: MinConfidence = None,
    settings: Sets = None,
    html: Html = None,
    force: Annotated[bool, typer.Option("--force", help="Retrain whatever the check says.")] = False,
    exit_code: ExitCode = False,
) -> None:
    """Check, and where it is needed retrain: the new model must prove itself on recent rows that neither has seen.

    The rows of both files are trained on, but for a fifth that no version ever sees. Without a project, `--target`
    begins one in this folder, and the first model is made of the reference rows.
    """
    from evertrain.cli.live import waiting
    from evertrain.control import begin
    from evertrain.control.execute import execute as run
    from evertrain.control.execute import model_of, trainer_of

    with _only_json():
        _may_write(html)
        config = _config(profile, min_confidence, settings)
        reference, recent = begin.rows_of(reference_data), begin.rows_of(recent_data)
        with _project(reference_data, target, trainer) as opened:
            meant = model_of(opened, model, target, trainer_of(trainer) if trainer else None)
            with waiting(f"Executing for {meant.name}"):
                done = run(opened, meant, reference.frame, recent.frame, config=config, force=force, actor=here.user())
        if done.check is not None:
            _page(html, done.check, done.model, config)
    show.as_json(executed(done, config))
    _say(done.check, done)
    if done.outcome == "failed":
        raise typer.Exit(5)
    if exit_code and done.triggered:
        raise typer.Exit(TRIGGERED)


def _decide(
    reference: pd.DataFrame,
    recent: pd.DataFrame,
    predictions: NDArray[np.generic] | None,
    actuals: NDArray[np.generic] | None,
    baseline: Mapping[str, float],
    target: str | None,
    time: str | None,
    config: Drift,
) -> Decision:
    """Return the decision on the rows of two files."""
    from evertrain import evidence
    from evertrain.errors import ConfigError

    for option, column, frame, file in (
        ("--target", target, reference, "--reference-data"), ("--time", time, recent, "--recent-data"),
    ):  # fmt: skip
        if column is not None and column not in frame.columns:
            raise ConfigError(option, column, f"a column of {file}: {', '.join(frame.columns)}")
    if actuals is None and predictions is not None and target in recent.columns:
        actuals = recent[target].to_numpy()
    apart = [one for one in (target, time) if one is not None]
    return evidence.should_retrain(
        reference.drop(columns=apart, errors="ignore"), recent.drop(columns=apart, errors="ignore"), predictions,
        actuals, baseline, config=config, times=None if time is None else recent[time].to_numpy(),
        ref_times=reference[time].to_numpy() if time in reference.columns else None,
    )  # fmt: skip


# --- input ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _only_json() -> Iterator[None]:
    """Send what trainers and libraries print to standard error: standard output is the answer alone."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


@contextlib.contextmanager
def _project(reference: Path, target: str | None, trainer: str | None) -> Iterator[Any]:
    """Open the project that is here; where there is none, begin one for the target."""
    from evertrain.control.execute import begin_project
    from evertrain.errors import ConfigError

    begun: Path | None = None
    root = here.root[0] if here.root else Path.cwd()
    try:
        here.folder()
    except ConfigError:
        if target is None or (here.root and root.exists() and not root.is_dir()):
            raise
        begun = begin_project(root, reference, target, trainer)
        here.root[:] = [root]
    with contextlib.ExitStack() as stack:
        try:
            opened = stack.enter_context(here.opened())
        except ConfigError:
            if begun:
                begun.unlink()  # a trainer that does not exist: the next try begins anew
            raise
        yield opened


def _config(profile: str | None, min_confidence: int | None, settings: list[str] | None) -> Drift:
    from evertrain.specs import Drift

    own = {"profile": profile, "min_confidence": min_confidence}
    return Drift(
        **here.drift_settings(settings or []) | {name: value for name, value in own.items() if value is not None}
    )


def _scores(given: list[str] | None) -> dict[str, float]:
    from evertrain.errors import ConfigError

    found = {}
    for name, value in here.assigned(given or [], "name=value, such as r2=0.85", "--baseline").items():
        try:
            found[name] = float(value)
        except ValueError:
            raise ConfigError(f"--baseline {name}", value, "a number") from None
        if not math.isfinite(found[name]):
            raise ConfigError(f"--baseline {name}", value, "a finite number")
    return found


def _rows(file: Path) -> pd.DataFrame:
    from evertrain.control import begin
    from evertrain.executors.rows import to_pandas
    from evertrain.partitions import printable
    from evertrain.sources.table import schema_of

    table = begin.rows_of(file)
    if table.set_aside_count:
        first = table.set_aside[0]
        said = f"{file.name}: {table.set_aside_count} rows set aside, the first: line {first.line}, {first.reason}"
        show.console(stderr=True).print(printable(said), style="yellow")
    return to_pandas(table.frame, schema_of(table.frame))


def _may_write(html: Path | None) -> None:
    """Refuse a page that could not be written, before the work."""
    from evertrain.errors import ConfigError

    if html is not None and (not html.resolve().parent.is_dir() or html.is_dir()):
        raise ConfigError("--html", str(html), "a file in a folder that exists")


# --- output -----------------------------------------------------------------------------------------------------


def told(decision: Decision, config: Drift) -> dict[str, Any]:
    """Return a decision as JSON values."""
    from evertrain.evidence import EXPLANATIONS

    found = decision.found
    answer = {
        "triggered": decision.fired,
        "drift_type": decision.drift_type,
        "severity": decision.severity,
        "confidence": decision.confidence,
        "reason": decision.reason,
        "action": decision.action,
        "code": decision.code,
        "profile": config.profile,
        "explanation": None if decision.code in ("failed", "unread") else asdict(EXPLANATIONS[decision.drift_type]),
        "evidence": {name: value for name, value in decision.evidence.items() if name != "state"},
        **({} if found is None else found.as_json()),
        "signals": sorted(found.as_json()["signals"], key=lambda one: -one["grade"]) if found else [],
    }
    plain: dict[str, Any] = _plain(answer)
    return plain


def executed(done: Executed, config: Drift) -> dict[str, Any]:
    """Return an execution as JSON values."""
    plain: dict[str, Any] = _plain({**vars(done), "check": done.check and told(done.check, config)})
    return plain


def _page(html: Path | None, decision: Decision, called: str, config: Drift) -> None:
    from evertrain.reports import Report

    if html is not None:
        Report(decision, called, config=config).save(html)


def _plain(value: Any) -> Any:
    """Return values that JSON has: a number that is none becomes null."""
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if hasattr(value, "tolist") and not isinstance(value, str):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _say(decision: Decision | None, done: Executed | None = None) -> None:
    """Tell a person in front of a terminal; a program has the JSON."""
    if not sys.stderr.isatty():
        return
    from evertrain.partitions import printable

    out = show.console(stderr=True)
    if decision is not None:
        word = "retrain" if decision.fired else "do not retrain"
        out.print(f"{decision.severity.upper()}: {word}", style=show.SEVERITY.get(decision.severity))
        out.print(printable(decision.reason))
    if done is not None:
        shifted = f" {done.old_version or 'nothing'} -> {done.new_version}" if done.outcome == "promoted" else ""
        out.print(printable(f"{done.outcome.replace('_', ' ')}{shifted}: {done.reason}"))
        out.print(f"Next: {show.command_line(f'history --model {done.model}')}", style="bold")
