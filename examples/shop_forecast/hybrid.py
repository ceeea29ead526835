"""A forecaster of your own: 60 % Prophet and 40 % LSTM, with an interval measured on days that neither had seen.

Evertrain imports `HybridForecaster` in its worker processes, and asks it for four things: fit, save, load, forecast.
Everything that is heavy is imported where it is used, so that declaring a project stays light.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evertrain import ArtifactError, ConfigError, ProphetForecaster
from evertrain.trainers import series
from evertrain.trainers.prophet import Fitted as Prophet

if TYPE_CHECKING:
    import pandas as pd

LOOKBACK, LAYERS, UNITS, DROPOUT = 10, 2, 50, 0.2
LEARNING_RATE = 0.003
PROPHET, WEIGHTS, SCALER, META = (
    "prophet_model.json", "lstm_model_retrained.safetensors", "lstm_scaler.json", "model_meta.json",
)  # fmt: skip
HELD = 56  # days at the end on which the interval is measured, where the series is long enough
MOST_BYTES = 64 << 20  # a file of an artifact; one that claims to unpack to more is no model of ours

PARTS = ProphetForecaster()  # loads and asks a fitted Prophet, whatever its seasons

Tell = Callable[[str, float | None], None]


def _network() -> Any:
    from torch import nn

    return nn.ModuleDict(
        {"lstm": nn.LSTM(1, UNITS, LAYERS, dropout=DROPOUT, batch_first=True), "out": nn.Linear(UNITS, 1)}
    )


def _next(network: Any, windows: Any) -> Any:
    """Return the next value of each window, shape (n, 1)."""
    return network["out"](network["lstm"](windows.unsqueeze(-1))[0][:, -1])


@dataclass(frozen=True)
class LSTMModel:
    """A network that reads the last ten values, scaled to 0 … 1, and says the next one.

    Attributes:
        weights: the network, in the safetensors format.
        low, high: the values that scaling makes 0 and 1.
    """

    weights: bytes
    low: float
    high: float

    @classmethod
    def train_with_progress(
        cls, y: np.ndarray[Any, Any], *, seed: int, epochs: int = 50, batch_size: int = 32, tell: Tell | None = None
    ) -> LSTMModel:
        """Return a network trained on a series; `tell` hears the loss of every epoch.

        The same values and seed give the same bits: one thread, and a generator that is given back as it was.
        """
        import torch
        from safetensors.torch import save

        torch.set_num_threads(1)
        low, high = float(y.min()), float(y.max())
        scaled = torch.tensor((y - low) / ((high - low) or 1.0), dtype=torch.float32)
        windows, following = scaled.unfold(0, LOOKBACK, 1)[:-1], scaled[LOOKBACK:].unsqueeze(-1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = _network()
            optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
            for epoch in range(1, epochs + 1):
                total = 0.0
                for batch in torch.randperm(len(windows)).split(batch_size):
                    optimizer.zero_grad()
                    loss = ((_next(network, windows[batch]) - following[batch]) ** 2).mean()
                    loss.backward()
                    optimizer.step()
                    total += loss.item() * len(batch)
                if tell:
                    tell(f"LSTM epoch {epoch}/{epochs} - loss={total / len(windows):.4f}", epoch / epochs)
        return cls(save(network.state_dict()), low, high)

    def forecast(self, windows: np.ndarray[Any, Any], h: int) -> np.ndarray[Any, Any]:
        """Return h values behind each window of ten, each made of those before it; shape (n, h)."""
        import torch
        from safetensors.torch import load

        torch.set_num_threads(1)
        network, span = _network(), (self.high - self.low) or 1.0
        network.load_state_dict(load(self.weights))
        network.eval()
        known = torch.tensor((windows - self.low) / span, dtype=torch.float32)
        with torch.no_grad():
            for _ in range(h):
                known = torch.cat([known, _next(network, known[:, -LOOKBACK:])], dim=1)
        return known[:, LOOKBACK:].numpy().astype(np.float64) * span + self.low

    def files(self) -> dict[str, bytes]:
        return {WEIGHTS: self.weights, SCALER: json.dumps({"low": self.low, "high": self.high}).encode()}

    @classmethod
    def of(cls, files: Mapping[str, bytes]) -> LSTMModel:
        scaler = json.loads(files[SCALER])
        found = cls(files[WEIGHTS], float(scaler["low"]), float(scaler["high"]))
        found.forecast(np.full((1, LOOKBACK), found.low), 1)  # weights of another network are refused here
        return found

    def save(self, folder: str | Path) -> None:
        """Write weights and scaler into a folder."""
        _write(Path(folder), self.files())

    @classmethod
    def load(cls, folder: str | Path) -> LSTMModel:
        """Return the network that `save` wrote.

        Raises:
            ArtifactError: a file is missing, or is no such network.
        """
        return _checked(cls.of, _read(Path(folder), (WEIGHTS, SCALER)))


@dataclass(frozen=True)
class InventoryForecastModel:
    """Prophet and LSTM fitted to one series, and how wrong both together were on days that they had not seen.

    Attributes:
        meta: when and on what it was trained: `last` day, the `tail` that the LSTM begins with, the `share` of
            Prophet, `errors` (origins by days ahead; null where a day was still to come), `floor` of sales.
    """

    prophet: Prophet
    lstm: LSTMModel
    meta: Mapping[str, Any]

    def forecast(self, h: int, level: Sequence[int] = (95,)) -> dict[str, np.ndarray[Any, Any]]:
        """Return "mean", "lo-95" and "hi-95" of the next h days."""
        said = PARTS.forecast(self.prophet, h, ())["mean"]
        learnt = self.lstm.forecast(np.array([self.meta["tail"]]), h)[0]
        mean = self.meta["share"] * said + (1 - self.meta["share"]) * learnt
        errors = np.array(self.meta["errors"], dtype=np.float64)  # null becomes NaN
        floor = self.meta["floor"]
        mean = mean if floor is None else np.maximum(mean, floor)
        bounds = {}
        for one in level:
            reach = series.half_widths(errors, h, one)
            bounds[one] = (mean - reach if floor is None else np.maximum(mean - reach, floor), mean + reach)
        return series.nested("the hybrid", mean, bounds)

    def files(self) -> dict[str, bytes]:
        meta = json.dumps(dict(self.meta), sort_keys=True, allow_nan=False)
        return {PROPHET: self.prophet.text.encode(), **self.lstm.files(), META: meta.encode()}

    @classmethod
    def of(cls, files: Mapping[str, bytes]) -> InventoryForecastModel:
        found = cls(PARTS.load(files[PROPHET]), LSTMModel.of(files), json.loads(files[META]))
        found.forecast(1)
        return found

    def save(self, folder: str | Path) -> None:
        """Write prophet_model.json, lstm_model_retrained.safetensors, lstm_scaler.json and model_meta.json."""
        _write(Path(folder), self.files())

    @classmethod
    def load(cls, folder: str | Path) -> InventoryForecastModel:
        """Return the model that `save` wrote.

        Raises:
            ArtifactError: a file is missing, or is no such model.
        """
        return _checked(cls.of, _read(Path(folder), (PROPHET, WEIGHTS, SCALER, META)))


class HybridForecaster:
    """The trainer: what `project.py` declares, and what Evertrain calls.

    Args:
        epochs, batch_size: of the LSTM.
        share: of Prophet in the mean; the rest is the LSTM's.
        holidays: country whose holidays Prophet knows.
    """

    libraries: Sequence[str] = ("prophet", "torch", "safetensors")

    def __init__(self, epochs: int = 50, batch_size: int = 32, share: float = 0.6, holidays: str = "US") -> None:
        for name, value in (("epochs", epochs), ("batch_size", batch_size)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(name, value, "a whole number, at least 1")
        self.epochs, self.batch_size, self.share, self.holidays = epochs, batch_size, share, holidays

    def least(self, season: int) -> int:
        """Return the fewest days that it learns from: below, Evertrain's naive forecast stands in, and says so."""
        return max(4 * season, 3 * LOOKBACK)

    def fit(self, frame: pd.DataFrame, context: Any) -> InventoryForecastModel:
        """Return both parts fitted to every day, and the errors of both together, fitted again to fewer days."""
        y = frame["y"].to_numpy(dtype=np.float64)
        prophet, lstm = self._parts(frame, context, context.progress)
        errors = [[0.0]]  # a backtest asks for no interval
        if not context.mean_only:
            context.progress("Measuring the interval on days held back...", None)
            errors = self._errors(frame, context)
        meta = {
            "first": str(frame["ds"].iloc[0].date()), "last": str(frame["ds"].iloc[-1].date()), "days": len(y),
            "tail": y[-LOOKBACK:].tolist(), "share": self.share, "errors": errors, "seed": context.seed,
            "epochs": self.epochs, "batch_size": self.batch_size, "floor": 0.0 if y.min() >= 0 else None,
        }  # fmt: skip
        return InventoryForecastModel(prophet, lstm, meta)

    def save(self, fitted: InventoryForecastModel) -> bytes:
        """Return a zip of four files, none of which can run code; the same model gives the same bytes."""
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in fitted.files().items():
                archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)  # without today's date
        return out.getvalue()

    def load(self, data: bytes) -> InventoryForecastModel:
        """Return the model in a zip that `save` made.

        Raises:
            ArtifactError: it is none.
        """
        return _checked(lambda data: InventoryForecastModel.of(_unzipped(data)), data)

    def forecast(self, fitted: InventoryForecastModel, h: int, level: Sequence[int]) -> dict[str, np.ndarray[Any, Any]]:
        return fitted.forecast(h, level)

    def _parts(self, frame: pd.DataFrame, context: Any, tell: Tell | None) -> tuple[Prophet, LSTMModel]:
        if tell:
            tell("Starting Prophet training...", 0.0)
        # A year that was seen only in part is no season yet: its curve would be the noise of some weeks.
        year = len(frame) >= 365
        prophet = ProphetForecaster(
            self.holidays, yearly_seasonality=year, weekly_seasonality=True, daily_seasonality=True
        )
        fitted = prophet.fit(frame[["ds", "y"]], context)
        y = frame["y"].to_numpy(dtype=np.float64)
        lstm = LSTMModel.train_with_progress(
            y, seed=context.seed, epochs=self.epochs, batch_size=self.batch_size, tell=tell
        )
        return fitted, lstm

    def _errors(self, frame: pd.DataFrame, context: Any) -> list[list[float | None]]:
        """Return by how much the ensemble misses days that it has not seen, from each of the last origins.

        Fitted once without these days, asked from every one of them: Prophet as it stands, the LSTM with the ten
        values before that day. Neither Prophet's own interval nor the residuals of the training know of this.
        """
        y = frame["y"].to_numpy(dtype=np.float64)
        held = max(1, min(HELD, len(y) // 4))
        start = len(y) - held
        prophet, lstm = self._parts(frame.iloc[:start], context, None)
        said = PARTS.forecast(prophet, held, ())["mean"]
        windows = np.lib.stride_tricks.sliding_window_view(y[start - LOOKBACK : -1], LOOKBACK)
        learnt = lstm.forecast(windows, context.h)
        found: list[list[float | None]] = []
        for origin in range(held):
            ahead = min(context.h, held - origin)
            mean = self.share * said[origin : origin + ahead] + (1 - self.share) * learnt[origin, :ahead]
            missed = y[start + origin : start + origin + ahead] - mean
            found.append([*missed.tolist(), *[None] * (context.h - ahead)])
        return found


# --- files ------------------------------------------------------------------------------------------------------


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        part = folder / f"{name}.part"
        part.write_bytes(data)
        part.replace(folder / name)


def _read(folder: Path, names: Sequence[str]) -> dict[str, bytes]:
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise ArtifactError(f"{folder} holds no {missing[0]}", digest="")
    return {name: (folder / name).read_bytes() for name in names}


def _unzipped(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        found = {one.filename: one.file_size for one in archive.infolist()}
        if set(found) != {PROPHET, WEIGHTS, SCALER, META} or max(found.values()) > MOST_BYTES:
            raise ValueError(f"it holds {found}")
        return {name: archive.read(name) for name in found}


def _checked(make: Callable[[Any], Any], what: Any) -> Any:
    try:
        return make(what)
    except Exception as error:
        digest = hashlib.sha256(what).hexdigest() if isinstance(what, bytes) else ""
        text = f"this is no hybrid model that can be loaded ({type(error).__name__}: {error})"
        raise ArtifactError(text, digest=digest) from error
