"""Checking and executing with files in hand: JSON on standard output and nothing else, words on standard error."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
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

Reference = Annotated[
    Path, typer.Option("--reference-data", help="Rows that the model was trained on: CSV or Parquet.")
]
Recent = Annotated[Path, typer.Option("--recent-data", help="Rows since, oldest first.")]
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
    reference_data: Annotated[
        Path | None, typer.Option("--reference-data", help="Rows that the model was trained on: CSV or Parquet.")
    ] = None,
    recent_data: Annotated[Path | None, typer.Option("--recent-data", help="Rows since, oldest first.")] = None,
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
            given = _Given(
                _rows(reference_data), _rows(recent_data), _array(recent_predictions), _array(recent_actuals),
                _scores(baseline), target, time,
            )  # fmt: skip
            with here.patiently("Comparing"):
                decision = given.decide(config, reference_data.name, recent_data.name)
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
    trigger = drift.trigger_of(found.spec) or Drift()
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
    reference_data: Reference,
    recent_data: Recent,
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
    from evertrain.control import begin
    from evertrain.control.execute import execute as run
    from evertrain.control.execute import model_of, trainer_of

    with _only_json():
        _may_write(html)
        config = _config(profile, min_confidence, settings)
        reference, recent = begin.rows_of(reference_data), begin.rows_of(recent_data)
        with _project(reference_data, target, trainer) as opened:
            meant = model_of(opened, model, target, trainer_of(trainer) if trainer else None)
            from evertrain.cli.live import waiting

            with waiting(f"Executing for {meant.name}"):
                done = run(
                    opened, meant, reference.frame, recent.frame, config=config, force=force, actor=here.user()
                )  # fmt: skip
        if done.check is not None:
            _page(html, done.check, done.model, config)
    show.as_json(executed(done, config))
    _say_executed(done)
    if done.outcome == "failed":
        raise typer.Exit(5)
    if exit_code and done.triggered:
        raise typer.Exit(TRIGGERED)


@dataclass(frozen=True, eq=False)
class _Given:
    """What the files and options of a check say."""

    reference: pd.DataFrame
    recent: pd.DataFrame
    predictions: NDArray[np.generic] | None
    actuals: NDArray[np.generic] | None
    baseline: Mapping[str, float]
    target: str | None
    time: str | None

    def decide(self, config: Drift, reference: str, recent: str) -> Decision:
        """Return the decision; the two names are of the files."""
        from evertrain import evidence
        from evertrain.errors import ConfigError

        for option, column, frame, file in (
            ("--target", self.target, self.reference, reference),
            ("--time", self.time, self.recent, recent),
        ):
            if column is not None and column not in frame.columns:
                raise ConfigError(option, column, f"a column of {file}: {', '.join(frame.columns)}")
        actuals = self.actuals
        if actuals is None and self.predictions is not None and self.target in self.recent.columns:
            actuals = self.recent[self.target].to_numpy()
        apart = [one for one in (self.target, self.time) if one is not None]
        return evidence.should_retrain(
            self.reference.drop(columns=apart, errors="ignore"), self.recent.drop(columns=apart, errors="ignore"),
            self.predictions, actuals, self.baseline, config=config,
            times=None if self.time is None else self.recent[self.time].to_numpy(),
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

    given: dict[str, Any] = here.assigned(settings or [], "name=value, such as error_increase=20%")
    if "joint" in given:
        given["joint"] = tuple(given["joint"].split(","))
    own = {"profile": profile, "min_confidence": min_confidence}
    return Drift(**given | {name: value for name, value in own.items() if value is not None})


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


def _array(file: Path | None) -> NDArray[np.generic] | None:
    """Return a .npy array of one value per row.

    Mapped into memory, so that a header that promises more than the file holds is refused, not believed; pickled
    objects cannot be mapped, so that nothing in the file is ever run (numpy.lib.format, "NEP 1").

    Raises:
        DataError: the file cannot be read as such.
    """
    import numpy as np

    from evertrain.errors import DataError

    if file is None:
        return None
    try:
        found: NDArray[np.generic] = np.array(np.lib.format.open_memmap(file, mode="r"))
    except FileNotFoundError:
        raise DataError(f"{file} is missing", source=str(file)) from None
    except Exception as error:  # noqa: BLE001 - a damaged header ends in errors of Python's own tokenizer, and more
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise DataError(
            f"{file.name} is no plain .npy array: {reason}; save it with numpy.save", source=file.name
        ) from None
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.ndim != 1 or found.dtype.kind not in "biufUS":
        raise DataError(
            f"{file.name} holds {found.dtype} of shape {found.shape}; one number or text per row is needed",
            source=file.name,
        )
    return found


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
    answer = {**{name: value for name, value in vars(done).items() if name != "check"}}
    plain: dict[str, Any] = _plain(answer)
    return {**plain, "check": told(done.check, config) if done.check else None}


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


def _say(decision: Decision) -> None:
    """Tell a person in front of a terminal; a program has the JSON."""
    if not sys.stderr.isatty():
        return
    from evertrain.partitions import printable

    out = show.console(stderr=True)
    word = "retrain" if decision.fired else "do not retrain"
    out.print(f"{decision.severity.upper()}: {word}", style=show.SEVERITY.get(decision.severity))
    out.print(printable(decision.reason))


def _say_executed(done: Executed) -> None:
    if not sys.stderr.isatty():
        return
    from evertrain.partitions import printable

    if done.check is not None:
        _say(done.check)
    out = show.console(stderr=True)
    shifted = f" {done.old_version or 'nothing'} -> {done.new_version}" if done.outcome == "promoted" else ""
    out.print(printable(f"{done.outcome.replace('_', ' ')}{shifted}: {done.reason}"))
    out.print(f"Next: {show.command_line(f'history --model {done.model}')}", style="bold")
