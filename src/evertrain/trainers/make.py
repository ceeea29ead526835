"""From a trainer's declaration to the object that fits."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from evertrain.errors import ConfigError
from evertrain.specs import Command, Custom, Estimator, Inline, ModelSpec, Trainer, TrainerSpec
from evertrain.trainers.describe import METHODS, build, is_trainer


def can_predict(trainer: Trainer) -> bool:
    """Return whether a trainer's models can be asked; a command need not declare how."""
    return getattr(trainer, "can_predict", True) is not False


def make(spec: TrainerSpec, scratch: Path, inline: Mapping[str, Any] | None = None) -> Trainer:
    """Return the trainer that a declaration describes.

    Args:
        scratch: a folder for files that the trainer needs for the time of a call.
        inline: trainer objects of this process, by name; only the inline executor has any.

    Raises:
        ConfigError: the class does not exist or lacks a method that a trainer must have.
    """
    if isinstance(spec, Estimator):
        from evertrain.trainers.sklearn import SklearnTrainer

        return SklearnTrainer(spec)
    if isinstance(spec, Command):
        from evertrain.trainers.command import CommandTrainer

        return CommandTrainer(spec, scratch)
    if isinstance(spec, Inline):
        if spec.name not in (inline or {}):
            raise ConfigError("trainer", spec.name, "a trainer object of this process; it lives where it was declared")
        found = (inline or {})[spec.name]
    else:
        found = build(spec.path, spec.params)
    if not is_trainer(found):
        missing = next(name for name in (*METHODS, "predict") if not callable(getattr(found, name, None)))
        raise ConfigError(
            "trainer",
            type(found).__name__,
            f"a class with fit, save, load and predict (or forecast, for series); {missing} is missing",
        )
    trainer: Trainer = found
    return trainer


def check(model: ModelSpec, trainer: object) -> None:
    """Raise `ConfigError` for a trainer that cannot do what its model is for: predict rows, or forecast a series.

    A library of an extra that is not installed is told here, before the first fit.
    """
    for library, extra in getattr(trainer, "extras", {}).items():
        if find_spec(library) is None:
            raise ConfigError(
                f"{model.name}.trainer",
                type(trainer).__name__,
                f"{library} beside it: pip install 'evertrain[{extra}]'",
            )
    if model.series and not callable(getattr(trainer, "forecast", None)):
        raise ConfigError(
            f"{model.name}.trainer",
            type(trainer).__name__,
            "a forecaster: Forecaster, SklearnForecaster, ProphetForecaster, or a class with forecast(fitted, h, level)",
        )
    if not model.series and not callable(getattr(trainer, "predict", None)):
        raise ConfigError(
            f"{model.name}.trainer",
            type(trainer).__name__,
            "a trainer with predict; a forecaster needs series=Series(h=…)",
        )


def family(spec: TrainerSpec) -> str:
    """Return which children may fit it: those that have its libraries in memory already."""
    if isinstance(spec, Custom) and spec.path.startswith("evertrain"):
        return spec.path  # each of ours stands on a library of its own
    if isinstance(spec, Custom | Estimator):
        return spec.path.partition(":")[0].partition(".")[0]
    return spec.kind
