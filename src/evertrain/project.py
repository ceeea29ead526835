"""The project as Python sees it: declare it, keep it fresh, ask its models.

In `project.py` it is a declaration, read by a child process. In a notebook or a web application the same object
opens the store and works with it.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from evertrain import forecasting, specs
from evertrain import gate as gates
from evertrain import triggers as rules
from evertrain.clock import Clock
from evertrain.config import Settings
from evertrain.control import ask, back, data, drift, foresee, tell
from evertrain.control import observe as observed
from evertrain.control.forecast import filtered
from evertrain.control.opened import Opened, apply, open_project
from evertrain.control.work import Outcome, read_first, run_to_end
from evertrain.datasets import Batch
from evertrain.errors import ConfigError, UnknownName
from evertrain.events import Event
from evertrain.forecasts import Forecast, Forecasts
from evertrain.loop import Loop
from evertrain.observations import Labelled, Noted, Recorder
from evertrain.replay import WhatIf
from evertrain.reports import Report
from evertrain.serving import Predictor
from evertrain.specs import (
    Auto,
    Callback,
    Command,
    Custom,
    Dataset,
    Dimension,
    Estimator,
    Gate,
    Inline,
    Message,
    ModelSpec,
    ProjectSpec,
    Retention,
    Series,
    Source,
    Storm,
    Trigger,
)
from evertrain.trainers.describe import describe

if TYPE_CHECKING:
    import polars as pl
    from numpy.typing import NDArray

Keys = Mapping[str, Any] | Sequence[Mapping[str, Any]]


class SourceRef:
    """A declared source; give it to `Project.model`."""

    def __init__(self, name: str, spec: Source) -> None:
        self.name, self.spec = name, spec

    def __repr__(self) -> str:
        return f"SourceRef({self.name!r}, {self.spec!r})"


class DatasetRef(SourceRef):
    """A declared dataset: give it to `Project.model`, write to it, read any version of it."""

    def __init__(self, name: str, spec: Dataset, project: Project) -> None:
        super().__init__(name, spec)
        self._project = project

    def ingest(self, rows: Any, *, source: str = "", token: str | None = None) -> Batch:
        """Merge a pandas or Polars data frame, or a CSV or Parquet file, as one batch.

        The newer row of a key wins, and rows that are as they were are left alone: the same file again changes
        nothing. `token` names the request, so that it may be sent again.

        Raises:
            DataError: rows cannot be used; nothing at all is kept.
        """
        return data.ingest(self._project.opened, self.name, rows, source=source, actor=_user(), token=token)

    def edit(self, rows: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Batch:
        """Change some values of rows, each named by its key columns: `edit({"record_id": 7, "kg": 12.5})`."""
        return data.edit(self._project.opened, self.name, _listed(rows) or [], actor=_user())

    def delete(self, keys: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Batch:
        """Remove rows by their key columns."""
        return data.delete(self._project.opened, self.name, _listed(keys) or [], actor=_user())

    def undo(self, batch: int) -> Batch:
        """Reverse a batch; rows that a later batch touched are left alone and named in `left`.

        The answer names in `fits` what was trained on the batch. Champions among them gave way to the newest earlier
        fit that was not, and are in `rolled_back`; clean models are trained as after any other batch.
        """
        return data.undo(self._project.opened, self.name, batch, actor=_user())

    def erase(self, row: Mapping[str, Any]) -> Batch:
        """Remove every trace of a row, named by its key columns: all it ever was, its history, its bytes in the store.

        Its partition is due at once; the answer names in `fits` what was trained on it. Nothing can bring it back but
        a file that holds it. Copies outside the store are yours: backups, exports, files, reports of refused rows.

        Raises:
            NotFound: there never was such a row, as far as the history reaches.
        """
        return data.erase(self._project.opened, self.name, row, actor=_user())

    def at(self, version: int | None = None) -> pl.DataFrame:
        """Return the rows of a version, by default the newest, as a Polars frame."""
        return data.frame(self._project.opened, self.name, version)


class Project:
    """Declared sources and models that share one store.

    Args:
        name: of the project, a-z, 0-9, '.', '_', '-'.
        store: `sqlite:///FILE`, relative to `root`.
        root: the project's folder; by default the current one.
        zone: IANA time zone of schedules; by default the machine's.
        auto: what may be done without being asked: "train", "observe" (decide and record, train nothing), "off".
        executor: "children" trains in processes of their own; "inline" in this one, which also takes trainers that
            live in a notebook.
        notify: `Callback`, `Message` or a function `(model_name, status, duration, **kwargs)` of a module.
        keep: how long fits and events are kept.
        blackout: windows such as "mon-fri 08:00-18:00" in which no training of any model starts by itself.

    >>> from evertrain import CsvFile, Project
    >>> project = Project("shop")
    >>> sales = project.source("sales", CsvFile("sales.csv"))
    >>> project.model("demand", sales, target="sold", trainer="sklearn.linear_model:Ridge")
    >>> list(project.spec.models)
    ['demand']
    """

    __evertrain_project__ = True

    def __init__(
        self,
        name: str,
        *,
        store: str = "sqlite:///evertrain.db",
        root: str | Path | None = None,
        zone: str | None = None,
        auto: Literal["train", "observe", "off"] = "train",
        executor: Literal["children", "inline"] = "children",
        notify: Sequence[Callback | Message | Callable[..., Any]] | Callback | Message | Callable[..., Any] = (),
        keep: Retention | None = None,
        blackout: str | Sequence[str] = (),
        settings: Settings | None = None,
        clock: Clock | None = None,
    ) -> None:
        channels = notify if isinstance(notify, Sequence) else [notify]
        self._spec = ProjectSpec(
            name,
            store,
            zone,
            Auto(_one_of("auto", auto, Auto)),
            executor,
            {},
            {},
            tuple(_channel(one) for one in channels),
            keep or Retention(),
            blackout=cast("Any", blackout),
        )
        self.root = Path(root or os.environ.get("EVERTRAIN_PROJECT") or Path.cwd()).resolve()
        self._inline: dict[str, Any] = {}
        self._opened: Opened | None = None
        self._applied: ProjectSpec | None = None
        self._settings, self._clock = settings, clock
        self._forecasts: dict[str, Forecasts] = {}
        self._recorders: list[Recorder] = []

    @property
    def spec(self) -> ProjectSpec:
        """The declaration so far."""
        return self._spec

    # --- declaring --------------------------------------------------------------------------------------------

    def source(self, name: str, spec: Source) -> SourceRef:
        """Declare where rows are: `CsvFile`, `ParquetFile`, `SqlQuery`, `sql_table(…)` or `Function`."""
        if isinstance(spec, Dataset):
            raise ConfigError(
                f"source {name!r}", "a Dataset", "a source; a dataset is declared by `project.dataset(…)`"
            )
        if not isinstance(spec, Source):
            raise ConfigError(f"source {name!r}", spec, "CsvFile, ParquetFile, SqlQuery, sql_table(…) or Function")
        self._change(sources={**self._spec.sources, specs.parse_name_of("source", name): spec})
        return SourceRef(name, spec)

    def dataset(
        self,
        name: str,
        *,
        key: str | Sequence[str] = (),
        time: str | None = None,
        columns: Mapping[str, specs.ColumnKind] | None = None,
        **options: Any,
    ) -> DatasetRef:
        """Declare rows that Evertrain keeps, with every version they had.

        Args:
            key: columns that identify a row; without them a row is its content.
            time: column that says when a row happened; splits then go by time.
            columns: types (integer, number, boolean, date, instant, text) where the first batch may not show them.
            options: `delimiter`, `encoding`, `decimal` and `dates` of CSV files, `on_bad_rows`, `keep_history`; see
                `Dataset`.

        >>> shop = Project("shop")
        >>> harvests = shop.dataset("harvests", key="record_id", time="date")
        >>> shop.model("yield", harvests, target="kg", trainer="sklearn.linear_model:Ridge", partition_by="town")
        """
        named = (key,) if isinstance(key, str) else tuple(key)
        spec = Dataset(named, time, dict(columns or {}), **options)
        self._change(sources={**self._spec.sources, specs.parse_name_of("dataset", name): spec})
        return DatasetRef(name, spec, self)

    def model(
        self,
        name: str,
        source: SourceRef | str,
        *,
        target: str,
        trainer: Any,
        features: Sequence[str] | str | None = None,
        series: Series | None = None,
        scores: Sequence[str] = (),
        gate: Gate | None = None,
        triggers: Sequence[Trigger] | None = None,
        partition_by: str | Dimension | Sequence[str | Dimension] = (),
        rollups: Sequence[Sequence[str]] | None = None,
        overall: str = "Overall",
        storm: Storm | None = None,
        blackout: str | Sequence[str] = (),
        min_samples: int | None = None,
        window: str | timedelta | None = None,
        holdout: str | float = 0.2,
        gap: str | timedelta = timedelta(0),
        auto: Literal["train", "observe", "off"] = "train",
        trainer_version: int = 1,
        deadline: str | timedelta = timedelta(hours=1),
        memory_mb: int | None = None,
        max_attempts: int = 3,
    ) -> None:
        """Declare what is kept fresh.

        Args:
            source: what `source(…)` returned, or its name.
            target: the column to predict.
            trainer: a scikit-learn estimator, `Command("python train.py --data {data} --out {out}")`, an object
                with fit, save, load and predict, or the import path of a class.
            features: columns, or "module:function" that makes them from the rows (applied alike at predict); by
                default all but target, key, time and partition columns.
            series: for a forecasting model: how rows become one series, and how far ahead it is forecast.
            scores: shown with every fit; the first decides unless `gate` names one.
            gate: what a challenger must pass.
            triggers: when to train; by default when rows change.
            partition_by: columns that divide the model; each of their values is trained alone.
            rollups: models above partitions, each a list of the dimensions it keeps; by default one above all.
            overall: how a rollup is called in messages.
            storm: how many partitions one change may touch before the whole model is trained anew.
            blackout: windows such as "mon-fri 08:00-18:00", in the project's zone, in which nothing starts by itself.
            min_samples: rows without which nothing is trained; by default 100, and one for a forecast.
            window: train on rows of this age at most; needs `time=` at the source.
            holdout: share of the rows that is never trained on, to compare old and new.
            gap: time between training rows and hold-out that belongs to neither.
            auto: as for the project, for this model.
            trainer_version: raise it when your trainer's code changes what a model is; begins a new MAJOR.
            deadline, memory_mb, max_attempts: limits of one fit.

        Raises:
            ConfigError: a value is wrong; names it and what is allowed.
        """
        named = source.name if isinstance(source, SourceRef) else source
        if named not in self._spec.sources:
            raise UnknownName("source", named, self._spec.sources)
        given: dict[str, Any] = {
            "partition_by": partition_by,
            "window": window,
            "holdout": holdout,
            "gap": gap,
            "auto": auto,
            "blackout": blackout,
            "deadline": deadline,
        }
        spec = ModelSpec(
            name=name,
            source=named,
            target=target,
            trainer=self._trainer(name, trainer),
            features=features if isinstance(features, str) or features is None else tuple(features),
            series=series,
            scores=tuple(scores),
            gate=gate or Gate(),
            triggers=(specs.DataChange(),) if triggers is None else tuple(triggers),
            rollups=None if rollups is None else tuple(tuple(one) for one in rollups),
            overall=overall,
            storm=storm or Storm(),
            min_samples=min_samples,
            trainer_version=trainer_version,
            memory_mb=memory_mb,
            max_attempts=max_attempts,
            **given,
        )
        rules.check(spec)
        gates.check(spec)
        forecasting.check(spec)
        self._change(models={**self._spec.models, name: spec})

    def _trainer(self, model: str, trainer: Any) -> specs.TrainerSpec:
        if isinstance(trainer, Estimator | Command | Custom):
            return trainer
        if isinstance(trainer, str):
            if ":" in trainer and " " not in trainer:
                return Estimator(trainer) if trainer.startswith("sklearn.") else Custom(trainer)
            return Command(trainer)
        try:
            return describe(trainer)
        except ConfigError:
            if self._spec.executor != "inline":
                raise
            self._inline[model] = trainer
            return Inline(model)

    def _change(self, **values: Any) -> None:
        current = {name: getattr(self._spec, name) for name in self._spec.__dataclass_fields__}
        self._spec = ProjectSpec(**{**current, **values})

    # --- working ----------------------------------------------------------------------------------------------

    @property
    def opened(self) -> Opened:
        """The open store, with this declaration made current in it."""
        if self._opened is None:
            self._opened = open_project(
                self.root, store=self._spec.store, settings=self._settings, clock=self._clock, actor=_user()
            )
            self._opened.inline = self._inline
        if self._applied != self._spec and self._spec.sources:
            apply(self._opened, self._spec, "python")
            self._applied = self._spec
        return self._opened

    @classmethod
    def open(
        cls, root: str | Path = ".", *, store: str = "sqlite:///evertrain.db", clock: Clock | None = None
    ) -> Project:
        """Open the project in `root` as its store knows it, without importing its project file.

        This is for the application that asks models: it needs neither the trainers' code nor the right to declare.

        Raises:
            ConfigError: nothing was declared in that store yet.
        """
        opened = open_project(Path(root).resolve(), store=store, clock=clock, actor=_user())
        spec = opened.project()
        project = cls(spec.name, store=store, root=root)
        project._spec = project._applied = spec
        project._opened = opened
        return project

    def predictor(self, model: str, *, observe: bool = False) -> Predictor:
        """Return an object that predicts with a model's champion and follows every swap within a second.

        With `observe` it keeps what it answers, with the features, as `Project.observe` does, on a thread of its own;
        `Prediction.ids` are the ids for `actuals`, and `unlogged` counts what could not be kept.
        """
        opened = self.opened
        if model not in self._spec.models:
            raise UnknownName("model", model, self._spec.models)
        recorder = observed.recorder(opened, model) if observe else None
        if recorder is not None:
            self._recorders.append(recorder)
        return Predictor(opened.store, opened.artifacts, model, self._inline, recorder=recorder)

    def observe(
        self,
        model: str,
        rows: Any,
        *,
        prediction: str = "prediction",
        predictions: Any = None,
        id: str | None = None,  # noqa: A002 - the word of the column
        time: str | None = None,
        partition: Mapping[str, Any] | None = None,
        probabilities: Sequence[str] | Mapping[Any, str] | NDArray[Any] | None = None,
        actuals: Any = None,
    ) -> Noted:
        """Keep predictions with their features, so that drift and, with their actuals, live accuracy can be measured.

        Args:
            rows: a data frame, columns by name, one mapping per row, or the path of a CSV or Parquet file: features,
                and the columns that the other arguments name.
            prediction: the column of predictions; or give `predictions`, an array or the path of a `.npy` file.
            id: the column by which actuals will find their row; without it ids are drawn, see `Noted.ids`.
            time: the column that says when it was predicted; by default now.
            partition: of all rows; without it each row's partition columns decide.
            probabilities: their columns, named as the classes or by class; or an array of shape (rows, classes).
            actuals: an array or the path of a `.npy` file; a column "actual", or one named as the target, is
                taken by itself.

        Raises:
            DataError: rows cannot be used; nothing is kept.
        """
        return observed.observe(
            self.opened, model, rows, prediction=prediction, predictions=predictions, id=id, time=time,
            partition=partition, probabilities=probabilities, actuals=actuals,
        )  # fmt: skip

    def actuals(
        self,
        model: str,
        rows: Any,
        *,
        id: str = "id",  # noqa: A002 - the word of the column
        actual: str | None = None,
        time: str | None = None,
    ) -> Labelled:
        """Keep what really happened, found by id: before or long after the prediction, in part, or again to correct it.

        Args:
            rows: a data frame, columns by name, one mapping per row, or the path of a CSV or Parquet file.
            actual: the column of actuals; by default "actual", else the one named as the target.
            time: the column that says when each became known; by default now. The newest one counts.

        Raises:
            DataError: rows cannot be used; nothing is kept.
        """
        return observed.actuals(self.opened, model, rows, id=id, actual=actual, time=time)

    def forecasts(self, model: str) -> Forecasts:
        """Return an object that reads a model's forecasts, again and again, in any process and without its trainer."""
        opened = self.opened
        if model not in self._spec.models:
            raise UnknownName("model", model, self._spec.models)
        if model not in self._forecasts:
            self._forecasts[model] = Forecasts(opened.store, opened.artifacts, model, self._inline)
        return self._forecasts[model]

    def forecast(
        self,
        model: str,
        h: int | None = None,
        level: Sequence[int] | None = None,
        partition: Mapping[str, Any] | None = None,
        where: Mapping[str, Any] | None = None,
    ) -> Forecast:
        """Return the forecast of a partition or rollup of a forecasting model, or of rows that have some values.

        Args:
            h: periods ahead; by default those that the model declares.
            level: intervals in per cent, likewise.
            partition: values by column. All dimensions name a partition, some of them a rollup, none the whole; a
                partition without a model is answered by its nearest rollup, labelled.
            where: a value, or a list of them, by any column of the source. Where that is no partition or rollup, a
                forecaster is fitted on these rows for this question alone, and says so.

        Raises:
            NoModelYet: nothing was trained yet; says how far the first training is.
        """
        if where is None:
            return self.forecasts(model).read(partition, h, level)
        if partition is not None:
            raise ConfigError("forecast", "partition and where", "one of them")
        self.forecasts(model)  # an unknown model is named as such
        return filtered(self.opened, model, where, h, level)

    def trigger(
        self,
        model: str,
        partition: Keys | None = None,
        *,
        force: bool = False,
        wait: bool = True,
        progress: Callable[[Event], None] | None = None,
    ) -> Outcome:
        """Train now, of named partitions and the rollups above them or of all, and return what became of it.

        Args:
            force: train even where the champion knows exactly these rows already.
            wait: False only asks; whoever runs the loop trains.
            progress: called with every event of the run while one waits, whichever process trains; what a trainer
                reports is in those of kind "item.progress", as `event.data["text"]`.
        """
        read_first(self.opened, model)
        asked = ask.trigger(self.opened, model, _listed(partition), force=force, actor=_user())
        return run_to_end(self.opened, asked, progress=progress) if wait else Outcome.asked(asked)

    def changed(self, model: str, partition: Keys, *, wait: bool = False) -> Outcome:
        """Say that rows of these partitions changed, where your application keeps the records itself.

        They and the rollups above them are trained, nothing else; the source is read first, so it must hold the
        change already. With `wait=False` whoever runs the loop trains.

        >>> # after saving a harvest: project.changed("yield", {"fruit": "Avocado", "town": "Pilar"})
        """
        asked = ask.changed(self.opened, model, _listed(partition) or [], actor=_user())
        return run_to_end(self.opened, asked) if wait else Outcome.asked(asked)

    def plan(self, model: str, partition: Keys | None = None, *, full: bool = False) -> foresee.Preview:
        """Return what would be trained now, why, and for how long; writes nothing.

        Without `partition` and `full` it is what is due; with one of them, what `trigger` would train.
        """
        return foresee.preview(self.opened, model, _listed(partition), full=full, actor=_user())

    def refresh(self) -> None:
        """Do once what the loop does all the time, until nothing is left to do: look, decide, train what is due."""
        Loop(self.opened, watch_files=False).run(until_idle=True)

    def check(self, model: str, partition: Mapping[str, Any] | None = None) -> Report:
        """Look now whether a champion has drifted, and return what was found as a report; trains nothing.

        Without `partition` every one with new rows or observations is looked at, and the report is of the worst one.

        Raises:
            ConfigError: the model declares no `on_drift()`.
            NoModelYet: the partition has no champion.
        """
        spec = self.opened.project().models.get(model)
        keys = None if partition is None or spec is None else ask.keys_of(spec, [partition])
        decided = drift.look(self.opened, model, keys)
        spec = self.opened.project().models[model]
        key = next(iter(decided)) if len(decided) == 1 else None
        named = tell.where(spec, key) if key is not None and spec.partition_by else ""
        decision = decided[key] if key is not None else drift.together(spec, decided)
        return Report(decision, model, named, spec.drift)

    def last_check(self, model: str, partition: Mapping[str, Any] | None = None) -> Report | None:
        """Return the report of the last drift check of the loop; None where none was done yet.

        Without `partition` it is that of the partition worst off.
        """
        spec = self.opened.project().models.get(model)
        keys = None if partition is None or spec is None else ask.keys_of(spec, [partition])
        found = tell.last_check(self.opened, model, keys[0] if keys else None)
        return None if found is None else Report(found.decision, model, found.partition, found.trigger)

    def what_if(self, model: str, days: float = 30, **changes: Any) -> WhatIf:
        """Return how often other thresholds of `on_drift()` would have fired, on the stored evidence of past checks.

        >>> # project.what_if("demand", severity="medium", error_increase=0.10).fired_then
        """
        return tell.what_if(self.opened, model, days, **changes)

    def start(self, stop: Callable[[], bool] = lambda: False) -> None:
        """Keep the models fresh until `stop` answers true."""
        Loop(self.opened).run(stop)

    def rollback(
        self,
        model: str,
        *,
        to: str | None = None,
        partition: Keys | None = None,
        run: int | None = None,
        pin: bool = False,
        why: str = "asked by a person",
    ) -> back.RolledBack:
        """Let earlier fits serve again, after a trial load; `pin` keeps challengers away until unpinned."""
        return back.rollback(
            self.opened, model, version=to, partitions=_listed(partition), run_id=run, pin=pin, actor=_user(), why=why
        )

    def adopt(self, model: str, file: str | Path) -> str:
        """Make an existing model file the model's first champion, 1.0.0, after a trial on the current rows."""
        return back.adopt(self.opened, model, Path(file), actor=_user())

    def status(self) -> tell.Status:
        """Return how everything stands."""
        return tell.status(self.opened)

    def history(self, model: str | None = None, limit: int = 20) -> list[dict[str, Any]]:
        """Return ended and running trainings, newest first."""
        return tell.history(self.opened, model, limit)

    def close(self) -> None:
        """Write what predictors still have for the log of observations, and close the store."""
        for recorder in self._recorders:
            recorder.close()
        self._recorders.clear()
        if self._opened is not None:
            self._opened.close()
            self._opened = None


def _listed(partition: Keys | None) -> list[Mapping[str, Any]] | None:
    if partition is None:
        return None
    return [partition] if isinstance(partition, Mapping) else list(partition)


def _channel(one: Callback | Message | Callable[..., Any]) -> Callback | Message:
    if isinstance(one, Callback | Message):
        return one
    module, name = getattr(one, "__module__", ""), getattr(one, "__qualname__", "")
    if not callable(one) or module in ("", "__main__") or "<" in name:
        raise ConfigError("notify", one, "Callback('module:function'), Message(url), or a function of a module")
    return Callback(f"{module}:{name}")


def _one_of(name: str, value: str, kind: type[Auto]) -> str:
    if value not in [one.value for one in kind]:
        raise ConfigError(name, value, ", ".join(kind))
    return value


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
