"""The container of document 001, and the small parts in it that read: samples, features, insights."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from evertrain.clock import from_text
from evertrain.compat import words
from evertrain.compat.drift import DriftDetector
from evertrain.compat.registry import ModelRegistry
from evertrain.compat.retraining import AutomatedRetrainingService
from evertrain.control import data, tell
from evertrain.control.opened import Opened
from evertrain.errors import ConfigError, Conflict, UnknownName
from evertrain.project import Project
from evertrain.sources import read
from evertrain.specs import Dataset, parse_duration
from evertrain.store import models

if TYPE_CHECKING:
    import pandas as pd

    from evertrain.serving import Predictor

logger = logging.getLogger("evertrain")

TARGET = "target_variable"
"""The name by which the documents' workflow finds what is predicted, beside the column's own."""


class Container:
    """What an application of document 001 reaches for, over a project.

    `optional_ai.automated_retraining` is None unless ENABLE_AUTOMATED_RETRAINING is true.

    Args:
        environment: where the ENABLE_… variables are; by default this process's.
    """

    def __init__(self, project: Project, environment: Mapping[str, str] | None = None) -> None:
        values = os.environ if environment is None else environment
        self._project, self._collect = project, _on(values, "ENABLE_TRAINING_DATA_COLLECTION")
        service = AutomatedRetrainingService(project) if _on(values, "ENABLE_AUTOMATED_RETRAINING") else None
        self.optional_ai = OptionalAI(service)
        self.ai = AI(
            ModelRegistry(project), DriftDetector(project), TrainingData(project), FeatureEngineer(project), Trainer()
        )
        self.analytics_repo = Analytics(project)

    def predictor(self, model_type: str) -> Predictor:
        """Return what predicts with a model; with ENABLE_TRAINING_DATA_COLLECTION it keeps what it answers."""
        return self._project.predictor(model_type, observe=self._collect)


def _on(environment: Mapping[str, str], name: str) -> bool:
    text = environment.get(name, "").strip().lower()
    if text not in ("", "true", "false", "1", "0"):
        raise ConfigError(name, text, "true or false")
    return text in ("true", "1")


@dataclass(frozen=True)
class OptionalAI:
    """What may be absent."""

    automated_retraining: AutomatedRetrainingService | None


@dataclass(frozen=True)
class AI:
    """What is always there."""

    model_registry: ModelRegistry
    drift_detector: DriftDetector
    training_data_repo: TrainingData
    feature_engineer: FeatureEngineer
    ml_trainer: Trainer


# --- rows -------------------------------------------------------------------------------------------------------


class TrainingData:
    """Reads the rows that a model is trained on."""

    def __init__(self, project: Project | Opened) -> None:
        self.opened = project.opened if isinstance(project, Project) else project

    def fetch_samples(
        self, model_type: str, min_samples: int | None = None, time_range: str | None = None
    ) -> pd.DataFrame:
        """Return the rows of a model's source as they are now, the target also as "target_variable".

        Args:
            min_samples: fewer rows are returned as they are, with a warning in the log.
            time_range: "last_90d": only rows of the last 90 days, by the source's time column.

        Raises:
            ConfigError: `time_range` is none, or the source declares no time column.
        """
        import pandas as pd

        from evertrain.executors.rows import to_pandas
        from evertrain.sources.table import schema_of

        with self.opened.store.read() as tx:
            spec = models.by_name(tx, model_type).spec
        source = self.opened.project().sources[spec.source]
        kept = isinstance(source, Dataset)
        rows = data.frame(self.opened, spec.source) if kept else read.read(source, self.opened.home.root).frame
        frame = to_pandas(rows, schema_of(rows))
        if time_range is not None:
            since = self.opened.store.clock.now() - _span(time_range)
            if source.time is None:
                raise ConfigError("time_range", time_range, f"nothing: {spec.source} declares no time column")
            frame = frame[pd.to_datetime(frame[source.time], utc=True) >= since].reset_index(drop=True)
        if min_samples is not None and len(frame) < min_samples:
            logger.warning("Insufficient samples: %d < %d", len(frame), min_samples)
        return frame if spec.target not in frame or TARGET in frame else frame.assign(**{TARGET: frame[spec.target]})


def _span(time_range: str) -> timedelta:
    try:
        if time_range.startswith("last_"):
            return parse_duration(time_range.removeprefix("last_"))
    except ValueError:
        pass
    raise ConfigError("time_range", time_range, 'a text such as "last_90d"')


@dataclass(frozen=True)
class Features:
    """What a model learns from: a frame of shape (samples, features), and their names."""

    feature_matrix: pd.DataFrame
    feature_names: list[str]


class FeatureEngineer:
    """Makes a model's features of raw rows, as a training does."""

    def __init__(self, project: Project | Opened) -> None:
        self.opened = project.opened if isinstance(project, Project) else project

    def engineer_features(self, raw_data: pd.DataFrame, feature_set: str) -> Features:
        """Return the features of the model that `feature_set` names: "climate_optimizer_v1".

        A declared feature function is imported and called here, in the caller's process.

        Raises:
            NotFound: no such model is declared.
        """
        from evertrain.executors.training import built_features

        name = feature_set.rpartition("_v")[0] or feature_set
        with self.opened.store.read() as tx:
            spec = models.by_name(tx, name).spec
        source = self.opened.project().sources[spec.source]
        rows = raw_data.drop(columns=[TARGET], errors="ignore")
        if isinstance(spec.features, str):
            made, names = built_features(rows, spec.features, spec.target)
            return Features(made[names], names)
        others = {spec.target, *source.key, source.time, *spec.dimensions}
        names = list(spec.features or [one for one in rows.columns if one not in others])
        return Features(rows[names], names)


class Trainer:
    """Refuses, and says what to use: a fit that nobody judged and recorded is none that could serve."""

    def train_model(self, *_: object, **__: object) -> None:
        """Refuse.

        Raises:
            Conflict: always.
        """
        raise Conflict(
            "a model is trained by its run: call retrain_model(model_type), which fits the declared trainer in a process of"
            " its own, compares old and new on rows that neither has learnt, and registers what passes"
        )

    def validate_model(self, *_: object, **__: object) -> None:
        """Refuse.

        Raises:
            Conflict: always.
        """
        raise Conflict(
            "a model is validated by the gate of its run: retrain_model(model_type) answers old_metrics and new_metrics"
        )


# --- insights ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Insight:
    """Something that happened: `data["model_type"]`, `data["improvement"]` (relative per cent) and more."""

    type: str
    created_at: datetime
    data: dict[str, Any]


class Analytics:
    """Reads what retraining came to."""

    def __init__(self, project: Project | Opened) -> None:
        self.opened = project.opened if isinstance(project, Project) else project

    def get_insights(self, type: str = "model_retrained", time_range: str = "last_7d") -> list[Insight]:  # noqa: A002
        """Return the retrainings whose model serves or served, newest first.

        Raises:
            UnknownName: `type` is another than "model_retrained".
            ConfigError: `time_range` is none such as "last_7d".
        """
        if type != "model_retrained":
            raise UnknownName("type", type, ["model_retrained"])
        since = self.opened.store.clock.now() - _span(time_range)
        limit, found = 100, tell.history(self.opened, None, 100)
        while len(found) == limit and from_text(found[-1]["at"]) >= since:
            limit *= 4
            found = tell.history(self.opened, None, limit)
        return [
            Insight(type, from_text(one["at"]), {"type": type, **words.record(words.INSIGHT, one)})
            for one in found
            if one["version"] and one["new_version"] == one["version"] and from_text(one["at"]) >= since
        ]
