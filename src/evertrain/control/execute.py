"""Executing a retraining with two files in hand: check, train on both, judge on recent rows, record.

A project that begins here keeps nothing but what it was given: each training writes the rows of both files to one
file, which is the model's source. A fifth of all rows, told by their content, is never trained on, whatever file they
come in: the recent ones among them are the hold-out on which old and new are compared. That of each version is kept:
its losses there are what later losses are compared with.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from evertrain import evidence, holdout, registry, scores
from evertrain.control import ask, begin, data
from evertrain.control.opened import Opened
from evertrain.control.work import Outcome, Progress, read_now, run_to_end
from evertrain.drift.signal import DriftType
from evertrain.errors import ConfigError, DataError
from evertrain.sources.fingerprint import row_digests
from evertrain.sources.table import schema_of
from evertrain.specs import Command, Custom, Dataset, Drift, Estimator, ModelSpec, ParquetFile, TrainerSpec
from evertrain.store import champions, decisions, models, runs, sources
from evertrain.triggers import Decision

if TYPE_CHECKING:
    import pandas as pd

# The file that a project begun here is trained on, and the key of its rows. Beside it: the numbers of rows that any
# version may have learnt, and the hold-outs of the newest versions.
GIVEN, KEY = ".evertrain/given.parquet", "evertrain_row"
_LEARNT, _HELD, _KEPT = "learnt.npy", "held", 20
# Reference losses below which the scores of the champion's verdict are the better baseline.
_LEAST_LOSSES = 100
_JUDGED = ("accuracy", "r2", "rmse", "mae", "log_loss")
_PROJECT = '''"""What `evertrain execute` keeps fresh: a model of the rows it was given last. Change what you like."""

from evertrain import Gate, ParquetFile, Project

project = Project({name!r})

rows = project.source("rows", ParquetFile({given!r}, key=[{key!r}], max_shrink="100%"))

project.model(
    {name!r},
    rows,
    target={target!r},
    features={features!r},
    trainer={trainer!r},  # any scikit-learn estimator, a command, or a class of yours
    scores={scores!r},  # the first one decides whether a new model may serve
    gate=Gate(tolerance="5%"),  # a new model may be worse by this much and no more
    triggers=[],  # `evertrain execute` says when
)
'''


@dataclass(frozen=True)
class Executed:
    """What became of one execution.

    Attributes:
        triggered: whether the check asks for a retraining.
        outcome: "promoted", "refused", "not_needed", "insufficient_samples", "failed", or another end of a run.
        new_version: unless promoted, the old one.
        score: by which the two were judged, on the same recent rows; `scores` has all, of "champion" and "challenger".
        improvement: relative per cent, positive is better; None where nothing was compared.
        check: the decision; None where there was no champion to check and no rows to begin with.
    """

    model: str
    triggered: bool
    outcome: str
    reason: str
    old_version: str | None
    new_version: str | None
    score: str | None = None
    old_score: float | None = None
    new_score: float | None = None
    improvement: float | None = None
    scores: Mapping[str, Any] = field(default_factory=dict)
    run: int | None = None
    duration_s: float = 0.0
    check: Decision | None = None


# --- a project for the rows in hand -----------------------------------------------------------------------------


def begin_project(root: Path, reference: Path, target: str, trainer: str | None) -> Path:
    """Write a project file for a model of this target, guessed from the reference rows.

    Raises:
        ConfigError: there is no such column, or it cannot be a target.
        DataError: the file cannot be read.
    """
    found = begin.guess(reference, root, target=target)
    by = {one.what: one.value for one in found.guesses}
    frame = begin.rows_of(reference).frame
    features = [name for name in frame.columns if name not in (target, by.get("time"), by.get("key"), KEY)]
    classifies = found.task == "classification"
    name = re.sub(r"[^a-z0-9]+", "_", target.lower()).strip("_")[:64] or "model"
    text = _PROJECT.format(
        name=name, given=GIVEN, key=KEY, target=target, features=features,
        trainer=trainer or f"sklearn.ensemble:RandomForest{'Classifier' if classifies else 'Regressor'}",
        scores=["accuracy", "f1"] if classifies else ["r2", "rmse"],
    )  # fmt: skip
    return begin.write(root, text)


def model_of(opened: Opened, name: str | None, target: str | None, trainer: TrainerSpec | None) -> models.Model:
    """Return the model that is meant: the named one, the one with this target, or the only one.

    Raises:
        NotFound, ConfigError: there is no such model, or more than one; or it has another trainer than was named.
    """
    with opened.store.read() as tx:
        if name is not None:
            found = [models.by_name(tx, name)]
        else:
            found = [one for one in models.every(tx) if target in (None, one.spec.target)]
            every = ", ".join(f"{one.name} (of {one.spec.target})" for one in models.every(tx)) or "none"
    where = f"the project in {opened.home.root} has: {every if name is None else found[0].name}"
    if len(found) != 1:
        elsewhere = "; -C DIR begins one elsewhere" if target else ""
        raise ConfigError("--target" if target else "--model", target, f"one model, by --model; {where}{elsewhere}")
    spec = found[0].spec
    if target not in (None, spec.target):
        raise ConfigError("--target", target, f"{spec.target}, which {spec.name} predicts")
    if spec.series:
        raise ConfigError("--model", spec.name, "a model of single rows; this one forecasts a series")
    if trainer not in (None, spec.trainer):
        raise ConfigError("--trainer", trainer, f"what the project declares, {spec.trainer}; change it there")
    return found[0]


def trainer_of(text: str) -> TrainerSpec:
    """Return the trainer that a text names: an import path, or a command."""
    if ":" in text and " " not in text:
        return Estimator(text) if text.startswith("sklearn.") else Custom(text)
    return Command(text)


# --- rows -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Rows:
    """Labelled rows of one file: what a model needs of them, and on which side of the hold-out each is."""

    frame: pl.DataFrame
    held: NDArray[np.bool_]
    numbers: NDArray[np.uint64]

    def only(self, mask: NDArray[np.bool_]) -> pd.DataFrame:
        from evertrain.executors.rows import to_pandas

        return to_pandas(self.frame.filter(pl.Series(mask)), schema_of(self.frame))


def _prepared(frame: pl.DataFrame, spec: ModelSpec, called: str, like: pl.DataFrame | None = None) -> _Rows:
    """Return the labelled rows with their keys: what they hold, and which of equal ones they are.

    Raises:
        DataError: a column is missing, or of another type than the reference's.
    """
    named = spec.features if isinstance(spec.features, tuple) else (like if like is not None else frame).columns
    used = [one for one in dict.fromkeys([*named, *spec.dimensions, spec.target]) if one != KEY]
    for name in used:
        if name not in frame.columns:
            raise DataError(f"{called} has no column {name!r}; it has {', '.join(frame.columns)}", column=name)
    own = frame.select(used).filter(pl.col(spec.target).is_not_null())
    if like is not None:
        own = own.select(_as(own[name], like[name], called) for name in own.columns)
    digests = row_digests(own, own.columns)
    place = own.select(pl.int_range(pl.len()).over(own.columns)).to_series().to_list() if own.height else []
    keys = pl.Series(KEY, [f"{one.tobytes()[:12].hex()}-{n}" for one, n in zip(digests, place, strict=True)], pl.String)
    own = own.with_columns(keys)
    numbers = row_digests(own.select(KEY), [KEY])[:, :8].copy().view("<u8").reshape(-1)
    return _Rows(own, holdout.by_identity(numbers, spec.holdout).held, numbers)


def _as(column: pl.Series, like: pl.Series, called: str) -> pl.Series:
    if column.dtype == like.dtype or (column.dtype.is_numeric() and like.dtype.is_numeric()):
        return column
    if column.null_count() == len(column):
        return column.cast(like.dtype)
    own, other = (next(iter(schema_of(one.to_frame()).values())) for one in (column, like))
    raise DataError(f"column {column.name!r} of {called} holds {own}, and {other} in the reference", column=column.name)


def _write(opened: Opened, frame: pl.DataFrame, learnt: NDArray[np.uint64]) -> None:
    """Write the rows to train on; first, which rows a version may know from now on."""
    place = opened.home.root / GIVEN
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = place.with_suffix(f".{os.getpid()}")
    with part.open("wb") as file:
        np.save(file, np.unique(np.concatenate([_learnt(opened), learnt])))
    part.replace(place.parent / _LEARNT)
    frame.write_parquet(part)
    part.replace(place)


def _learnt(opened: Opened) -> NDArray[np.uint64]:
    try:
        found: NDArray[np.uint64] = np.load((opened.home.root / GIVEN).parent / _LEARNT, allow_pickle=False)
    except FileNotFoundError:
        return np.empty(0, np.uint64)
    return found


def _keep(opened: Opened, rows: _Rows, done: Outcome) -> None:
    """Keep the hold-out of a version that was promoted; the oldest make room."""
    folder = (opened.home.root / GIVEN).parent / _HELD
    folder.mkdir(exist_ok=True, mode=0o700)
    rows.frame.filter(pl.Series(rows.held)).write_parquet(folder / f"{done.new_version}.parquet")
    for one in sorted(folder.iterdir(), key=lambda one: one.stat().st_mtime)[:-_KEPT]:
        one.unlink()


def _held(opened: Opened, champion: registry.Fit) -> pd.DataFrame | None:
    from evertrain.executors.rows import to_pandas

    path = (opened.home.root / GIVEN).parent / _HELD / f"{champion.version}.parquet"
    if not path.is_file():
        return None
    frame = pl.read_parquet(path)
    return to_pandas(frame, schema_of(frame))


def _read(opened: Opened, source: str, *, force: bool) -> None:
    """Take in what a model's source holds now; `force` accepts one that lost most of its rows.

    Raises:
        DataError: it cannot be used.
    """
    read_now(opened, [source], force=force)
    with opened.store.read() as tx:
        state = sources.state(tx, source)
    if state is not None and state.problem:
        raise DataError(state.problem, source=source)


# --- executing --------------------------------------------------------------------------------------------------


def execute(
    opened: Opened,
    model: models.Model,
    reference: pl.DataFrame,
    recent: pl.DataFrame,
    *,
    config: Drift | None = None,
    force: bool = False,
    actor: str = "evertrain",
    progress: Progress | None = None,
) -> Executed:
    """Check whether a model's champion should be retrained, and if so, or by `force`, retrain, judge and record.

    A model begun by `begin_project` without a champion is first trained on the reference rows. One whose rows are a
    dataset has the recent ones merged into it before it is trained; any other source is trained on as it is.

    Raises:
        DataError: rows cannot be used.
        Conflict: training is paused or held back.
    """
    started, config, spec = time.monotonic(), config or Drift(), model.spec
    old = _prepared(reference, spec, "the reference")
    new = _prepared(recent, spec, "the recent file", old.frame)
    if not old.frame.height:
        raise DataError(f"the reference has no row with a value of {spec.target!r}", column=spec.target)
    own = isinstance(source := opened.project().sources[spec.source], ParquetFile) and source.path == GIVEN
    if _champion(opened, model) is None:
        begun = _train(opened, model, old if own else None, None, actor, progress)
        if begun is not None and begun.outcome != "promoted":
            return _told(opened, spec.name, begun, None, started)
    decision = _check(opened, model, old, new, config, own=own)
    if not (decision.fired or force):
        _record(opened, model, decision)
        short = decision.code == "few_rows"
        return _ended(opened, model, decision, "insufficient_samples" if short else "not_needed", started)
    if isinstance(source, Dataset):
        data.ingest(opened, spec.source, recent, source="execute", actor=actor)
    for rows in _candidates(old, new, decision, spec.least_rows) if own else [None]:
        done = _train(opened, model, rows, decision, actor, progress, force=force)
        if done is None:
            _record(opened, model, decision)
            known = "the champion was trained on these very rows"
            return _ended(opened, model, decision, "not_needed", started, known)
        if done.outcome != "refused":
            break
    assert done is not None
    return _told(opened, spec.name, done, decision, started)


def _train(
    opened: Opened,
    model: models.Model,
    rows: _Rows | None,
    decision: Decision | None,
    actor: str,
    progress: Progress | None,
    *,
    force: bool = False,
) -> Outcome | None:
    """Train on the given rows, or on those that the model's source has, and see it through.

    Returns:
        None where the champion knows exactly these rows, and nothing was forced.
    """
    if rows is not None:
        _write(opened, rows.frame, rows.numbers[~rows.held])
    _read(opened, model.spec.source, force=rows is not None)
    if not force and _is_known(opened, model):
        return None
    if decision is not None and decision.fired:
        asked = ask.retrain(opened, model.name, decision, actor=actor)
    else:
        if decision is not None:
            _record(opened, model, decision)
        asked = ask.trigger(opened, model.name, force=force, actor=actor)
    done = run_to_end(opened, asked, progress=progress)
    if rows is not None and done.outcome == "promoted":
        _keep(opened, rows, done)
    return done


def _candidates(old: _Rows, new: _Rows, decision: Decision, least: int) -> list[_Rows]:
    """Return what to train on, the next where the challenger of the one before is refused.

    Where the errors have grown, older rows may teach a relation that is no longer true: the recent ones come first,
    alone, where they suffice. The hold-out is the same: what is held of the recent rows.
    """
    fresh = ~np.isin(old.frame[KEY].to_numpy(), new.frame[KEY].to_numpy()) & ~old.held
    both = _Rows(
        pl.concat([old.frame.filter(pl.Series(fresh)), new.frame], how="vertical_relaxed"),
        np.concatenate([old.held[fresh], new.held]),
        np.concatenate([old.numbers[fresh], new.numbers]),
    )
    worse = decision.drift_type in (DriftType.CONCEPT, DriftType.PERFORMANCE)
    return [new, both] if worse and new.frame.height >= least else [both]


def _champion(opened: Opened, model: models.Model) -> registry.Fit | None:
    with opened.store.read() as tx:
        place = champions.widest(tx, model.id)
        number = place.champion_id if place else None
        return registry.fits(tx, [number]).get(number) if number else None


def _is_known(opened: Opened, model: models.Model) -> bool:
    """Return whether the champion was trained on the rows that are there now."""
    with opened.store.read() as tx:
        place = champions.widest(tx, model.id)
    return bool(place and place.champion_id and place.seen and place.seen == place.champion_input)


def _check(opened: Opened, model: models.Model, old: _Rows, new: _Rows, config: Drift, *, own: bool) -> Decision:
    """Return the decision on the champion: its losses are of rows that no version has learnt."""
    from evertrain.serving import Predictor

    champion, spec = _champion(opened, model), model.spec
    assert champion is not None
    known = champion.scores.get("challenger") or {}
    baseline = {name: known[name] for name in _JUDGED if known.get(name) is not None}
    columns = [name for name in old.frame.columns if name not in (KEY, spec.target)]
    every = np.ones(new.frame.height, dtype=bool)
    fresh = new.held | ~np.isin(new.numbers, _learnt(opened)) if own else every
    labelled = new.only(fresh)
    predictor = Predictor(opened.store, opened.artifacts, model.name, opened.inline)
    losses = None
    if own and (before := _held(opened, champion)) is not None and len(before) >= _LEAST_LOSSES:
        task = scores.get(str(champion.verdict["score"])).task
        said = predictor.predict(before[columns])
        losses = scores.losses(scores.default_score(task), before[spec.target].to_numpy(), said)
    return evidence.should_retrain(
        old.only(np.ones(old.frame.height, dtype=bool))[columns],
        new.only(every)[columns],
        predictor.predict(labelled[columns]) if len(labelled) else None,
        labelled[spec.target].to_numpy() if len(labelled) else None,
        baseline,
        ref_losses=losses,
        config=config,
    )


def _record(opened: Opened, model: models.Model, decision: Decision) -> None:
    with opened.store.write() as tx:
        decisions.record(tx, model.id, model.name, decision, action="none")


def _ended(
    opened: Opened, model: models.Model, decision: Decision, outcome: str, started: float, reason: str | None = None
) -> Executed:
    """Return what became of an execution that trained nothing."""
    champion = _champion(opened, model)
    version = champion.version if champion else None
    took = round(time.monotonic() - started, 3)
    return Executed(
        model.name, decision.fired, outcome, reason or decision.reason, version, version, duration_s=took, check=decision
    )  # fmt: skip


def _told(opened: Opened, model: str, found: Outcome, decision: Decision | None, started: float) -> Executed:
    """Return what became of a run."""
    shown: Mapping[str, Any] = {}
    if found.run_id is not None:
        with opened.store.read() as tx:
            fit = runs.speaking_fit(tx, found.run_id)
        shown = json.loads(fit.scores) if fit else {}
    new = found.new_version if found.outcome in ("promoted", "mixed") else found.old_version
    return Executed(
        model, bool(decision and decision.fired), found.outcome, found.reason, found.old_version, new, found.score,
        found.old_score, found.new_score, found.improvement, shown, found.run_id, round(time.monotonic() - started, 3),
        decision,
    )  # fmt: skip
