"""Evertrain keeps machine-learning models fresh.

It watches data, model age and live accuracy, decides with evidence when a model must be retrained, retrains what is
affected, lets the new model prove itself against the old one, swaps it in without a gap, and can take it back.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if sys.platform == "win32":
    raise ImportError("Evertrain runs on Linux and macOS; on Windows use WSL2: https://learn.microsoft.com/windows/wsl")

# Imported when first used, so that `import evertrain` and the command line start at once.
_PLACES = {
    "evertrain.project": ["Project"],
    "evertrain.specs": [
        "BadRows", "Callback", "Command", "CsvFile", "Custom", "Dimension", "Drift", "Estimator", "Function", "Gate", "Message",
        "ParquetFile", "Retention", "Series", "SqlQuery", "Storm", "cron", "daily", "max_age", "monthly",
        "on_data_change", "on_drift",
        "on_environment_change", "on_score_drop", "sql_table", "weekly",
    ],
    "evertrain.evidence": ["should_retrain"],
    "evertrain.config": ["Settings"],
    "evertrain.trainers.lags": ["SklearnForecaster"],
    "evertrain.trainers.prophet": ["ProphetForecaster"],
    "evertrain.trainers.statsforecast": ["Forecaster"],
    "evertrain.errors": [
        "ArtifactError", "ConfigError", "Conflict", "DataError", "EvertrainError", "NoModelYet", "NotFound", "Retryable",
        "StoreError", "TrainingError", "UnknownName",
    ],
}  # fmt: skip
_HOME = {name: module for module, names in _PLACES.items() for name in names}
__all__ = list(_HOME)

if TYPE_CHECKING:
    from evertrain.config import Settings as Settings
    from evertrain.errors import ArtifactError as ArtifactError
    from evertrain.errors import ConfigError as ConfigError
    from evertrain.errors import Conflict as Conflict
    from evertrain.errors import DataError as DataError
    from evertrain.errors import EvertrainError as EvertrainError
    from evertrain.errors import NoModelYet as NoModelYet
    from evertrain.errors import NotFound as NotFound
    from evertrain.errors import Retryable as Retryable
    from evertrain.errors import StoreError as StoreError
    from evertrain.errors import TrainingError as TrainingError
    from evertrain.errors import UnknownName as UnknownName
    from evertrain.evidence import should_retrain as should_retrain
    from evertrain.project import Project as Project
    from evertrain.specs import BadRows as BadRows
    from evertrain.specs import Callback as Callback
    from evertrain.specs import Command as Command
    from evertrain.specs import CsvFile as CsvFile
    from evertrain.specs import Custom as Custom
    from evertrain.specs import Dimension as Dimension
    from evertrain.specs import Drift as Drift
    from evertrain.specs import Estimator as Estimator
    from evertrain.specs import Function as Function
    from evertrain.specs import Gate as Gate
    from evertrain.specs import Message as Message
    from evertrain.specs import ParquetFile as ParquetFile
    from evertrain.specs import Retention as Retention
    from evertrain.specs import Series as Series
    from evertrain.specs import SqlQuery as SqlQuery
    from evertrain.specs import Storm as Storm
    from evertrain.specs import cron as cron
    from evertrain.specs import daily as daily
    from evertrain.specs import max_age as max_age
    from evertrain.specs import monthly as monthly
    from evertrain.specs import on_data_change as on_data_change
    from evertrain.specs import on_drift as on_drift
    from evertrain.specs import on_environment_change as on_environment_change
    from evertrain.specs import on_score_drop as on_score_drop
    from evertrain.specs import sql_table as sql_table
    from evertrain.specs import weekly as weekly
    from evertrain.trainers.lags import SklearnForecaster as SklearnForecaster
    from evertrain.trainers.prophet import ProphetForecaster as ProphetForecaster
    from evertrain.trainers.statsforecast import Forecaster as Forecaster


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'evertrain' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
