"""Forecasts by Prophet: a trend that bends, the seasons of a calendar, and a country's holidays."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from evertrain.errors import ArtifactError, ConfigError
from evertrain.specs import Context
from evertrain.trainers import series
from evertrain.trainers.series import Floats

if TYPE_CHECKING:
    import pandas as pd

_LEAST = 10
_LOGGERS = ("cmdstanpy", "prophet", "prophet.models", "prophet.plot")
# Prophet draws from NumPy's one generator of the process.
_ONE_AT_A_TIME = threading.Lock()


@dataclass
class Fitted:
    """A fitted Prophet model.

    Attributes:
        text: Prophet's own JSON, which also says what came last and what draws start from, under "evertrain".
    """

    text: str
    _live: Any = field(default=None, repr=False, compare=False)

    @property
    def live(self) -> Any:
        """The model itself, made from the text once."""
        if self._live is None:
            from prophet.serialize import model_from_json

            self._live = model_from_json(self.text)
        return self._live


class ProphetForecaster:
    """Prophet with the seasons that the series is long enough for, unless parameters say otherwise.

    Periods may be missing. Intervals are quantiles of Prophet's draws, which start from the seed.

    Args:
        holidays: country whose holidays count, such as "DE" or "PH"; the package `holidays` knows them, offline.
        params: of the class `Prophet`; those that have no such name here may also be given by keyword.

    Raises:
        ConfigError: a parameter asks for what a series alone cannot give.

    >>> ProphetForecaster("PH", seasonality_mode="multiplicative").params
    {'seasonality_mode': 'multiplicative'}
    """

    libraries: Sequence[str] = ("prophet", "holidays", "numpy")
    extras: ClassVar[Mapping[str, str]] = {"prophet": "prophet"}

    def __init__(self, holidays: str | None = None, params: Mapping[str, Any] | None = None, **more: Any) -> None:
        self.holidays = holidays
        self.params: dict[str, Any] | None = {**(params or {}), **more} or None
        given = self.params or {}
        if holidays is not None and not isinstance(holidays, str):
            raise ConfigError("holidays", holidays, "a country such as 'DE' or 'PH'")
        if given.get("growth", "linear") not in ("linear", "flat"):
            raise ConfigError("growth", given["growth"], "'linear' or 'flat'; others need a limit for each period")
        if not given.get("uncertainty_samples", True):
            raise ConfigError("uncertainty_samples", given["uncertainty_samples"], "at least 1: intervals are drawn")

    def least(self, season: int) -> int:  # noqa: ARG002 - seasons that the series is too short for are left out
        """Return the fewest periods with a value that it learns from."""
        return _LEAST

    def fit(self, frame: pd.DataFrame, context: Context) -> Fitted:
        """Return the model fitted to a series.

        Raises:
            ConfigError: Prophet refuses its parameters, or the country is unknown.
            DataError: the series is too short, or Prophet cannot be fitted to it.
        """
        told: Any = context
        series.values(frame, "Prophet", _LEAST, missing=True)
        seed = context.seed % 2**31  # Stan takes no larger one
        with _ONE_AT_A_TIME, series.fenced("Prophet"), _tidy(), tempfile.TemporaryDirectory() as folder:
            model = self._made()
            model.fit(frame[["ds", "y"]], seed=seed, output_dir=folder)
            model.fit_kwargs = {}  # they name the folder
            text = _text(model, {"freq": told.freq, "last": str(frame["ds"].iloc[-1]), "seed": seed})
        # Not `model` itself: its JSON is rounded, and what was fitted and what is loaded are to answer the same.
        fitted = Fitted(text)
        self.forecast(fitted, told.h, told.level)
        return fitted

    def forecast(self, fitted: Fitted, h: int, level: Sequence[int]) -> dict[str, Floats]:
        """Return the mean and intervals of the next h periods.

        Raises:
            DataError: Prophet answers no finite numbers.
        """
        import pandas as pd

        about, levels = json.loads(fitted.text)["evertrain"], series.level_of(level)
        future = pd.DataFrame({"ds": series.labels_after(about["last"], about["freq"], h)})
        bounds: dict[int, tuple[Any, Any]] = {}
        with _ONE_AT_A_TIME, series.fenced("Prophet"), _tidy():
            model = fitted.live
            with _drawing_from(about["seed"]):
                draws: Any = model.predictive_samples(future)["yhat"] if levels else None
            number, model.uncertainty_samples = model.uncertainty_samples, 0  # the mean needs none
            mean = model.predict(future)["yhat"].to_numpy()
            model.uncertainty_samples = number
            for one in levels:
                lo, hi = np.quantile(draws, [0.5 - one / 200, 0.5 + one / 200], axis=1)
                bounds[one] = (lo, hi)
        return series.nested("Prophet", mean, bounds)

    def save(self, fitted: Fitted) -> bytes:
        return fitted.text.encode()

    def load(self, data: bytes) -> Fitted:
        """Return the model in `data`.

        Raises:
            ArtifactError: it is no such JSON, or damaged.
        """
        try:
            fitted = Fitted(data.decode())
            about = json.loads(fitted.text)["evertrain"]
            series.labels_after(about["last"], about["freq"], 1)
            with _ONE_AT_A_TIME, series.quiet(), _tidy():
                _ = fitted.live
        except Exception as error:
            text = f"the bytes are no forecaster that can be loaded ({type(error).__name__}: {error})"
            raise ArtifactError(text, digest=hashlib.sha256(data).hexdigest()) from error
        return fitted

    def _made(self) -> Any:
        from prophet import Prophet

        try:
            model = Prophet(**(self.params or {}))
        except Exception as error:
            raise ConfigError("parameters of Prophet", self.params, f"what Prophet takes ({error})") from error
        if self.holidays is not None:
            try:
                model.add_country_holidays(self.holidays)
            except Exception as error:
                allowed = "a country that the package holidays knows, such as 'DE' or 'PH'"
                raise ConfigError("holidays", self.holidays, allowed) from error
        return model


def _text(model: Any, about: Mapping[str, Any]) -> str:
    from prophet.serialize import model_to_json

    return json.dumps({**json.loads(model_to_json(model)), "evertrain": about})


@contextmanager
def _drawing_from(seed: int) -> Iterator[None]:
    """Start NumPy's generator from a seed, and give it back as it was."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)


@contextmanager
def _tidy() -> Iterator[None]:
    """Silence Prophet and Stan, and leave nothing of theirs among the temporary files.

    cmdstanpy makes a folder when it is imported and removes it when the process ends well, which a child need not do.
    It is gone after each use here; where others imported cmdstanpy, the folder is theirs.
    """
    ours = _folder_is_ours()
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [one.disabled for one in loggers]
    for one in loggers:
        one.disabled = True
    try:
        import cmdstanpy

        folder = Path(cmdstanpy._TMPDIR)
        folder.mkdir(mode=0o700, exist_ok=True)
        try:
            yield
        finally:
            if ours:
                with contextlib.suppress(OSError):
                    folder.rmdir()
    finally:
        for one, disabled in zip(loggers, before, strict=True):
            one.disabled = disabled


@cache
def _folder_is_ours() -> bool:
    return "cmdstanpy" not in sys.modules
