"""What every forecasting trainer promises: honest intervals, the same bits again, and one clear error for what it cannot use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.linear_model import Ridge, SGDRegressor

from evertrain.errors import ArtifactError, ConfigError, DataError
from evertrain.trainers import lags, series, statsforecast
from evertrain.trainers.describe import build, describe
from evertrain.trainers.lags import SklearnForecaster
from evertrain.trainers.prophet import ProphetForecaster
from evertrain.trainers.statsforecast import Forecaster

TRAINERS: dict[str, Callable[[], Any]] = {
    "AutoETS": lambda: Forecaster("AutoETS"),
    "AutoTheta": lambda: Forecaster("AutoTheta"),
    "AutoARIMA": lambda: Forecaster("AutoARIMA", max_p=2, max_q=2, max_order=3),
    "MSTL": lambda: Forecaster("MSTL", season_length=[12]),
    "WindowAverage": lambda: Forecaster("WindowAverage", window_size=4),  # knows no intervals
    "MFLES": lambda: Forecaster("MFLES"),  # keeps what is no plain value: fitted anew when loaded
    "Ridge": lambda: SklearnForecaster(Ridge()),
    "RandomForest": lambda: SklearnForecaster(RandomForestRegressor(10), calendar=False),
    "SGD": lambda: SklearnForecaster(SGDRegressor(), lags=[1, 2, 12], difference=True),
    "Prophet": lambda: ProphetForecaster("PH", n_changepoints=10),
}
NEEDS = {name: "statsforecast" for name, make in TRAINERS.items() if isinstance(make(), Forecaster)}
NEEDS["Prophet"] = "prophet"
FOLLOW_TREND_AND_SEASON = ["Prophet", "AutoETS", "AutoARIMA", "MSTL", "Ridge", "SGD", "RandomForest"]
LEARN_ON = ["AutoETS", "AutoTheta", "AutoARIMA", "MSTL", "SGD"]


@dataclass
class Told:
    """A context of monthly series."""

    freq: str = "MS"
    season: int = 12
    h: int = 12
    level: tuple[int, ...] = (80, 95)
    seed: int = 7
    target: str = "y"
    features: list[str] = field(default_factory=list)

    def progress(self, text: str, fraction: float | None = None) -> None:
        pass


def frame(values: Any, first: str = "2015-01-01", freq: str = "MS") -> pd.DataFrame:
    y = np.array(values, dtype=np.float64)
    return pd.DataFrame({"ds": pd.date_range(first, periods=y.size, freq=freq), "y": y})


def simulated(rng: np.random.Generator, n: int, trend: float = 0.0) -> Any:
    """A season of 12, a trend, and a disturbance that fades by 0.6 a period."""
    noise = np.zeros(n + 50)
    for i, shock in enumerate(rng.normal(size=noise.size - 1), start=1):
        noise[i] = 0.6 * noise[i - 1] + shock
    at = np.arange(n)
    return 50 + trend * at + 4 * np.sin(2 * np.pi * at / 12) + 2 * (at % 12 == 11) + noise[50:]


SERIES: dict[str, Any] = {
    "usual": simulated(np.random.default_rng(1), 60, 0.1),
    "short": [3.0, 5, 4, 6, 5, 7, 6, 8, 7, 9, 8],
    "tiny": [1.0, 2, 3],
    "constant": np.full(40, 5.0),
    "zero": np.zeros(40),
    "counts": np.random.default_rng(1).poisson(0.4, 48),
    "gappy": np.where(np.arange(48) % 7 == 3, np.nan, simulated(np.random.default_rng(2), 48)),
    "missing": np.full(40, np.nan),
    "huge": 1e12 * simulated(np.random.default_rng(3), 48),
    "negative": -simulated(np.random.default_rng(4), 48, 0.5),
    "infinite": [*range(39), np.inf],
}


def trainer(name: str) -> Any:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    return TRAINERS[name]()


def sound(found: Any, h: int, level: tuple[int, ...]) -> None:
    """Assert that a forecast has its length, finite numbers and intervals that hold the mean and each other."""
    assert set(found) == {"mean", *(f"{end}-{one}" for one in level for end in ("lo", "hi"))}
    for column in found.values():
        assert column.shape == (h,)
        assert np.isfinite(column).all()
    inner = (found["mean"], found["mean"])
    for one in sorted(level):
        assert (found[f"lo-{one}"] <= inner[0]).all()
        assert (found[f"hi-{one}"] >= inner[1]).all()
        inner = (found[f"lo-{one}"], found[f"hi-{one}"])


def equal(one: Any, other: Any) -> bool:
    return set(one) == set(other) and all(one[key].tobytes() == other[key].tobytes() for key in one)


@pytest.mark.parametrize("kind", SERIES)
@pytest.mark.parametrize("name", TRAINERS)
def test_any_series_gets_a_sound_forecast_or_one_clear_error(name: str, kind: str) -> None:
    forecaster, y = trainer(name), np.array(SERIES[kind], dtype=float)
    holes = np.isnan(y).any() and name != "Prophet"
    if holes or np.isinf(y).any() or np.isfinite(y).sum() < forecaster.least(12):
        with pytest.raises(DataError) as raised:
            forecaster.fit(frame(y), Told())
        assert "\n" not in str(raised.value)
        return

    fitted = forecaster.fit(frame(y), Told())

    for h, level in ((12, (80, 95)), (30, (50,)), (1, ())):
        sound(forecaster.forecast(fitted, h, level), h, level)


@pytest.mark.parametrize("name", TRAINERS)
def test_a_missing_value_names_the_ways_out(name: str) -> None:
    if name == "Prophet":
        return  # it can do without
    with pytest.raises(DataError, match=r"missing in 7 of 48 periods.*gaps='zero' or gaps='linear'"):
        trainer(name).fit(frame(SERIES["gappy"]), Told())


@pytest.mark.parametrize("name", TRAINERS)
def test_fewer_periods_than_the_least_are_refused_and_the_least_are_enough(name: str) -> None:
    forecaster, y = trainer(name), SERIES["usual"]
    least = forecaster.least(12)

    sound(forecaster.forecast(forecaster.fit(frame(y[:least]), Told()), 6, (80,)), 6, (80,))
    with pytest.raises(DataError, match=f"{least - 1} periods are too few"):
        forecaster.fit(frame(y[: least - 1]), Told())


@pytest.mark.parametrize("name", TRAINERS)
def test_a_saved_forecaster_and_a_second_fit_answer_the_same_bits(name: str) -> None:
    forecaster, rows = trainer(name), frame(SERIES["usual"])
    fitted = forecaster.fit(rows.copy(), Told())
    found = forecaster.forecast(fitted, 15, (80, 95))
    np.random.seed(5)  # what others drew meanwhile changes nothing

    loaded = forecaster.load(forecaster.save(fitted))

    assert equal(forecaster.forecast(loaded, 15, (95, 80)), found)
    assert equal(forecaster.forecast(loaded, 15, (95, 80)), found)
    assert equal(forecaster.forecast(trainer(name).fit(rows.copy(), Told()), 15, (80, 95)), found)
    assert b"pickle" not in forecaster.save(fitted)


@pytest.mark.parametrize("name", TRAINERS)
def test_a_forecaster_is_described_as_json_and_built_alike(name: str) -> None:
    forecaster = trainer(name)
    found = describe(forecaster)
    built = build(found.path, json.loads(json.dumps(found.params)))

    assert describe(built) == found
    assert vars(built).keys() == vars(forecaster).keys()
    rows = frame(SERIES["usual"])
    one, other = (each.forecast(each.fit(rows.copy(), Told()), 3, (80,)) for each in (forecaster, built))
    assert equal(one, other)


@pytest.mark.parametrize("name", FOLLOW_TREND_AND_SEASON)
def test_a_trend_and_a_season_are_followed_better_than_by_last_years_values(name: str) -> None:
    y = simulated(np.random.default_rng(8), 84, 0.8)
    forecaster = trainer(name)

    mean = forecaster.forecast(forecaster.fit(frame(y[:72]), Told()), 12, ())["mean"]

    assert np.abs(mean - y[72:]).mean() < 0.5 * np.abs(y[60:72] - y[72:]).mean()


@pytest.mark.parametrize("name", LEARN_ON)
def test_new_periods_are_learned_without_the_old_ones(name: str) -> None:
    y = simulated(np.random.default_rng(8), 72, 0.8)
    forecaster, rows = trainer(name), frame(y[:60])
    fitted = forecaster.fit(rows, Told())
    before = forecaster.forecast(fitted, 12, (80,))
    new = frame(y, "2015-01-01").iloc[60:66].reset_index(drop=True)

    updated = forecaster.update(forecaster.load(forecaster.save(fitted)), new, Told())
    again = forecaster.load(forecaster.save(updated))

    found = forecaster.forecast(again, 6, (80, 95))
    sound(found, 6, (80, 95))
    assert equal(found, forecaster.forecast(updated, 6, (80, 95)))
    assert equal(before, forecaster.forecast(fitted, 12, (80,)))  # the old one is as it was
    assert np.abs(found["mean"] - y[66:]).mean() < 0.5 * np.abs(y[54:60] - y[66:]).mean()
    with pytest.raises(DataError, match="missing"):
        forecaster.update(again, frame([np.nan], "2020-07-01"), Told())


def test_only_forecasters_that_can_learn_on_say_so() -> None:
    assert not hasattr(SklearnForecaster(Ridge()), "update")
    assert not hasattr(Forecaster("MFLES"), "update")
    assert hasattr(SklearnForecaster(SGDRegressor()), "update")


@pytest.mark.parametrize("freq", ["D", "h", "15min", "W-MON", "ME", "QS", "YS", "B"])
@pytest.mark.parametrize("name", ["AutoTheta", "Ridge", "Prophet"])
def test_every_frequency_is_forecast(name: str, freq: str) -> None:
    forecaster, season = trainer(name), {"YS": 1, "QS": 4, "D": 7, "B": 5}.get(freq, 12)

    fitted = forecaster.fit(frame(SERIES["usual"], freq=freq), Told(freq, season))

    sound(forecaster.forecast(fitted, 9, (80,)), 9, (80,))


@pytest.mark.parametrize(
    "data",
    [b"", b"PK", b"{}", b"\x80\x05N.", series.pack({"model": "AutoETS"}), series.pack({"model": "AutoETS"})[:-40]],
)
@pytest.mark.parametrize("name", ["AutoETS", "Ridge", "Prophet"])
def test_bytes_that_are_no_forecaster_are_refused_with_their_digest(name: str, data: bytes) -> None:
    with pytest.raises(ArtifactError, match="no forecaster that can be loaded") as raised:
        TRAINERS[name]().load(data)

    assert len(raised.value.digest) == 64


def test_a_file_that_unpacks_too_far_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = series.pack({"y": np.zeros(100_000)})
    assert series.unpack(data, lambda found: found["y"].size) == 100_000
    monkeypatch.setattr(series, "_MOST_UNPACKED", 800_000)

    with pytest.raises(ArtifactError, match="would unpack to"):
        series.unpack(data, lambda found: found)


def test_a_saved_model_names_no_class_but_those_of_the_library() -> None:
    forecaster = Forecaster("Naive")
    state = {"trend_forecaster": {"$model": "Popen", "state": {}}}
    data = series.pack(
        {"model": "Naive", "params": {}, "y": np.ones(20), "state": state, "forward": False, "errors": None}
    )

    with pytest.raises(ConfigError, match="model is 'Popen'"):
        forecaster.forecast(forecaster.load(data), 1, ())


def test_nothing_heavy_is_imported_before_it_is_used() -> None:
    code = (
        "import sys\n"
        "import evertrain.trainers.lags, evertrain.trainers.prophet, evertrain.trainers.statsforecast\n"
        "evertrain.trainers.statsforecast.Forecaster('MSTL', season_length=[7, 30]).least(7)\n"
        "print([m for m in ('statsforecast', 'prophet', 'sklearn', 'skops', 'pandas', 'scipy') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"


# --- intervals --------------------------------------------------------------------------------------------------


def coverage(estimator: Any, n: int, number: int) -> dict[int, float]:
    """How often intervals hold what came, over simulated series of n known periods."""
    rng, held = np.random.default_rng(11), {80: [], 95: []}
    for _ in range(number):
        y = simulated(rng, n + 12, 0.2)
        forecaster = SklearnForecaster(estimator)
        found = forecaster.forecast(forecaster.fit(frame(y[:n]), Told()), 12, (80, 95))
        for one, hits in held.items():
            hits.append(np.mean((found[f"lo-{one}"] <= y[n:]) & (y[n:] <= found[f"hi-{one}"])))
    return {one: float(np.mean(hits)) for one, hits in held.items()}


@pytest.mark.parametrize("n", [60, 120])
def test_intervals_of_regressors_hold_as_often_as_they_say(n: int) -> None:
    found = coverage(Ridge(), n, 200)

    assert 0.75 <= found[80] <= 0.90
    assert 0.91 <= found[95] <= 0.99


def test_intervals_of_regressors_that_know_their_rows_by_heart_are_as_honest() -> None:
    """Errors on the rows that a forest has learned from are a third of those to come."""
    found = coverage(RandomForestRegressor(10, random_state=0), 60, 40)

    assert 0.75 <= found[80] <= 0.93


def test_intervals_widen_with_the_distance_and_with_fewer_origins() -> None:
    errors = np.random.default_rng(1).normal(size=(100, 4)) * [1, 2, 3, 4]

    found = series.half_widths(errors, 9, 80)

    assert (np.diff(found) > 0).all()
    assert found[0] == pytest.approx(1.28, rel=0.25)  # the normal quantile
    assert found[8] == pytest.approx(found[3] * 1.5)  # the square root of 9 / 4
    few = np.mean([series.half_widths(one[np.newaxis, :].T, 1, 80)[0] for one in errors[:, 0].reshape(20, 5)])
    assert few > 1.2 * found[0]


def test_an_interval_that_misses_the_mean_or_a_narrower_one_is_widened() -> None:
    found = series.nested("x", [1.0, 5.0], {95: ([0.0, 4.5], [2.0, 5.1]), 80: ([1.5, 4.0], [1.7, 5.2])})

    sound(found, 2, (80, 95))
    assert found["lo-80"].tolist() == [1.0, 4.0]
    assert found["hi-95"].tolist() == [2.0, 5.2]
    with pytest.raises(DataError, match="no finite numbers"):
        series.nested("x", [1.0], {80: ([np.nan], [2.0])})


# --- statsforecast ----------------------------------------------------------------------------------------------


def test_the_names_are_those_of_the_library() -> None:
    models = pytest.importorskip("statsforecast.models")
    without = {"ARCH", "ConformalSeasonalPool", "ConstantModel", "GARCH", "NaNModel", "SklearnModel", "ZeroModel"}

    assert set(statsforecast.MODELS) == set(models.__all__) - without
    assert set(statsforecast._FORWARD) == {
        one for one in statsforecast.MODELS if hasattr(getattr(models, one), "forward")
    }


def test_an_unknown_model_and_wrong_parameters_are_refused_in_words() -> None:
    with pytest.raises(ConfigError, match="model is 'AutoEST'; allowed: ADIDA, ARIMA, AutoARIMA, AutoCES, AutoETS"):
        Forecaster("AutoEST")
    pytest.importorskip("statsforecast")
    with pytest.raises(ConfigError, match=r"parameters of AutoETS.*colour"):
        Forecaster("AutoETS", colour="red").fit(frame(SERIES["usual"]), Told())
    with pytest.raises(ConfigError, match="season_length is 1; allowed: at least 2 for MSTL"):
        Forecaster("MSTL").fit(frame(SERIES["usual"]), Told(season=1))


def test_forecasts_are_those_of_the_library_to_the_bit() -> None:
    models = pytest.importorskip("statsforecast.models")
    y = np.array(SERIES["usual"])

    for name in ("AutoETS", "AutoTheta", "SeasonalNaive"):
        forecaster = Forecaster(name)
        found = forecaster.forecast(forecaster.fit(frame(y), Told()), 6, (80,))
        expected = getattr(models, name)(season_length=12).forecast(y=y, h=6, level=[80])
        assert found["mean"].tobytes() == expected["mean"].tobytes()
        assert found["hi-80"].tobytes() == expected["hi-80"].tobytes()


def test_a_loaded_model_forecasts_without_being_fitted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    models = pytest.importorskip("statsforecast.models")
    forecaster = Forecaster("AutoARIMA")
    fitted = forecaster.fit(frame(SERIES["usual"]), Told())
    data = forecaster.save(fitted)
    monkeypatch.setattr(models.AutoARIMA, "fit", None)

    sound(forecaster.forecast(forecaster.load(data), 6, (80,)), 6, (80,))


def test_a_parameter_called_model_and_models_as_parameters_are_given_in_params() -> None:
    models = pytest.importorskip("statsforecast.models")
    plain = Forecaster("AutoETS", {"model": "ANN"})
    mixed = Forecaster("MSTL", trend_forecaster=models.AutoETS(model="AAN"))

    assert plain.fit(frame(SERIES["usual"]), Told()).live.model_["components"] == "ANNN"
    fitted = mixed.load(mixed.save(mixed.fit(frame(SERIES["usual"]), Told())))
    sound(mixed.forecast(fitted, 6, (80,)), 6, (80,))


# --- Prophet ----------------------------------------------------------------------------------------------------


def test_a_child_leaves_nothing_behind_says_nothing_and_answers_the_same_bits(tmp_path: Path) -> None:
    pytest.importorskip("prophet")
    told, y = Told(), SERIES["usual"]
    forecaster = ProphetForecaster("PH")
    expected = forecaster.forecast(forecaster.fit(frame(y), told), 3, (80,))
    code = (
        "import os, types, numpy, pandas\n"
        "from evertrain.trainers.prophet import ProphetForecaster\n"
        f"y = numpy.array({np.asarray(y).tolist()})\n"
        "told = types.SimpleNamespace(freq='MS', season=12, h=12, level=(80, 95), seed=7)\n"
        "one = ProphetForecaster('PH')\n"
        "rows = pandas.DataFrame({'ds': pandas.date_range('2015-01-01', periods=60, freq='MS'), 'y': y})\n"
        "data = one.save(one.fit(rows, told))\n"
        "found = one.forecast(one.load(data), 3, (80,))\n"
        "print(found['mean'].tolist(), found['hi-80'].tolist(), flush=True)\n"
        "os._exit(0)  # as a child that ends without its farewells\n"
    )

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stderr == ""
    assert done.stdout.strip() == f"{expected['mean'].tolist()} {expected['hi-80'].tolist()}"
    assert list(tmp_path.iterdir()) == []


def test_holidays_of_a_country_are_learned() -> None:
    pytest.importorskip("prophet")
    rows = frame(np.random.default_rng(1).normal(10, 0.1, 365 * 2), "2023-01-02", "D")
    rows.loc[rows["ds"].dt.strftime("%m-%d").isin(["12-25", "05-01"]), "y"] += 30
    told = Told("D", 7)

    def on_labour_day(forecaster: Any) -> float:
        return float(forecaster.forecast(forecaster.fit(rows.copy(), told), 130, ())["mean"][120])

    assert rows["ds"].iloc[-1] + pd.Timedelta(days=121) == pd.Timestamp("2025-05-01")
    assert on_labour_day(ProphetForecaster("DE", yearly_seasonality=False)) > 35
    assert on_labour_day(ProphetForecaster(yearly_seasonality=False)) < 15


def test_a_saved_prophet_is_prophets_own_json() -> None:
    serialize = pytest.importorskip("prophet.serialize")
    forecaster = ProphetForecaster()

    found = serialize.model_from_json(forecaster.save(forecaster.fit(frame(SERIES["gappy"]), Told())).decode())

    assert found.history["y"].notna().sum() == 41


def test_draws_leave_the_generator_of_others_alone() -> None:
    pytest.importorskip("prophet")
    forecaster = ProphetForecaster()
    fitted = forecaster.fit(frame(SERIES["usual"]), Told())
    np.random.seed(5)
    expected = np.random.normal(size=3)
    np.random.seed(5)

    seven, eight = (forecaster.fit(frame(SERIES["usual"]), Told(seed=seed)) for seed in (7, 8))

    assert np.random.normal(size=3).tolist() == expected.tolist()
    assert equal(forecaster.forecast(seven, 3, (80,)), forecaster.forecast(fitted, 3, (80,)))
    assert not equal(forecaster.forecast(seven, 3, (80,)), forecaster.forecast(eight, 3, (80,)))


def test_what_prophet_cannot_do_is_refused_in_words() -> None:
    with pytest.raises(ConfigError, match="growth is 'logistic'; allowed: 'linear' or 'flat'"):
        ProphetForecaster(growth="logistic")
    with pytest.raises(ConfigError, match="uncertainty_samples is 0"):
        ProphetForecaster(uncertainty_samples=0)
    with pytest.raises(ConfigError, match="holidays is 3"):
        ProphetForecaster(3)  # type: ignore[arg-type]
    pytest.importorskip("prophet")
    with pytest.raises(ConfigError, match="holidays is 'Atlantis'; allowed: a country"):
        ProphetForecaster("Atlantis").fit(frame(SERIES["usual"]), Told())
    with pytest.raises(ConfigError, match=r"parameters of Prophet.*colour"):
        ProphetForecaster(colour="red").fit(frame(SERIES["usual"]), Told())


# --- regressors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"estimator": Ridge}, "estimator"),
        ({"estimator": Ridge(), "lags": [0]}, "lags"),
        ({"estimator": Ridge(), "lags": []}, "lags"),
        ({"estimator": Ridge(), "rolling": [2.5]}, "rolling"),
        ({"estimator": Ridge(), "difference": "twice"}, "difference"),
    ],
)
def test_wrong_parameters_are_named(given: Any, named: str) -> None:
    with pytest.raises(ConfigError, match=f"^{named} is"):
        SklearnForecaster(**given)


def test_the_seed_is_used_where_no_other_was_given() -> None:
    rows = frame(SERIES["usual"])

    def mean(estimator: Any, seed: int) -> bytes:
        forecaster = SklearnForecaster(estimator)
        found = forecaster.forecast(forecaster.fit(rows.copy(), Told(seed=seed)), 3, ())["mean"]
        return found.tobytes()

    unset, chosen = RandomForestRegressor(5), RandomForestRegressor(5, random_state=1)
    assert mean(unset, 7) == mean(unset, 7) != mean(unset, 8)
    assert mean(chosen, 7) == mean(chosen, 8) == mean(unset, 1)


def test_trees_go_on_with_a_trend_behind_the_values_they_have_seen() -> None:
    y = 10 + 2.0 * np.arange(60) + np.random.default_rng(1).normal(size=60)
    forecaster = SklearnForecaster(HistGradientBoostingRegressor())
    fitted = forecaster.fit(frame(y), Told(season=1))

    found = forecaster.forecast(fitted, 20, ())["mean"]

    assert fitted.layout.difference
    assert np.abs(found - (10 + 2.0 * np.arange(60, 80))).mean() < 6


def test_no_forecast_runs_away() -> None:
    forecaster = SklearnForecaster(Ridge(1e-6), lags=[1], rolling=[], difference=False)
    y = 1.2 ** np.arange(40)

    found = forecaster.forecast(forecaster.fit(frame(y), Told()), 500, ())["mean"]

    assert found.max() < 3 * y.max()


def test_learning_on_changes_the_regressor_and_no_copy_of_it() -> None:
    forecaster = SklearnForecaster(SGDRegressor())
    fitted = forecaster.fit(frame(SERIES["usual"]), Told())
    before = fitted.regressor.coef_.copy()

    updated = forecaster.update(fitted, frame([60.0, 61.0], "2020-01-01"), Told())

    assert fitted.regressor.coef_.tolist() == before.tolist()
    assert updated.regressor.coef_.tolist() != before.tolist()


def test_the_calendar_and_lags_are_those_that_the_series_can_tell() -> None:
    def layout(n: int, freq: str, season: int) -> Any:
        rows = frame(simulated(np.random.default_rng(1), n), freq=freq)
        return SklearnForecaster(Ridge()).fit(rows, Told(freq, season)).layout

    assert (layout(36, "MS", 12).lags, layout(36, "MS", 12).cycles) == ((1, 2, 3, 12), ("year",))
    assert (layout(20, "MS", 12).lags, layout(20, "MS", 12).cycles) == ((1, 2, 3), ())
    assert (layout(60, "D", 7).lags, layout(60, "D", 7).cycles) == ((1, 2, 3, 7, 8), ("week",))
    assert layout(24 * 20, "h", 24).cycles == ("hour", "week")
    assert layout(40, "YS", 1).cycles == ()


def test_a_level_that_moves_is_told_from_one_that_stays() -> None:
    rng = np.random.default_rng(1)
    walks = [np.cumsum(rng.normal(size=100)) for _ in range(40)]
    still = [simulated(rng, 120) for _ in range(40)]

    assert sum(lags._moves(one, 1) for one in walks) > 30
    assert sum(lags._moves(one, 12) for one in still) < 12


def test_a_library_that_is_not_installed_is_named_before_the_first_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine with the base install alone."""
    from evertrain.specs import Command, ModelSpec, Series
    from evertrain.trainers import make

    monkeypatch.setattr(make, "find_spec", lambda _: None)
    model = ModelSpec("kg", "rows", "kg", Command("train"), series=Series(3))
    with pytest.raises(ConfigError, match=r"statsforecast beside it: pip install 'evertrain\[forecast\]'"):
        make.check(model, build("evertrain:Forecaster", {}))


@pytest.mark.parametrize("name", ["AutoETS", "AutoTheta", "WindowAverage", "Ridge", "RandomForest"])
def test_a_fit_of_a_backtest_says_the_same_without_the_work_that_only_intervals_need(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    forecaster, y = trainer(name), SERIES["usual"]
    usual = forecaster.forecast(forecaster.fit(frame(y), Told()), 12, ())["mean"]

    def needless(*arguments: Any) -> Any:
        raise AssertionError("forecasts in hindsight are for intervals")

    for module in (lags, statsforecast):
        monkeypatch.setattr(module, "_errors", needless)
    told = Told(level=())
    told.mean_only = True  # type: ignore[attr-defined]
    fitted = forecaster.fit(frame(y), told)

    assert forecaster.forecast(fitted, 12, ())["mean"].tobytes() == usual.tobytes()


def test_many_arrays_of_one_saved_fit_stay_what_and_as_apart_as_they_were() -> None:
    arrays = [
        np.arange(6.0).reshape(2, 3), np.array(7.0), np.empty((0, 4)), np.arange(3), np.array([True, False]),
        np.arange(3, dtype="i1"), np.asfortranarray(np.arange(4.0).reshape(2, 2)), np.float32(1.5),
    ]  # fmt: skip
    found = series.unpack(series.pack({"arrays": arrays}), lambda tree: tree["arrays"])
    for one, other in zip(arrays, found, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert np.array_equal(one, other)
    found[0][:] = -1
    assert found[6][0, 0] == 0
