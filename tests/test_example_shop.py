"""The shop example is run as a user would: its own trainer class, its own functions, real Prophet and real LSTM."""

from __future__ import annotations

import importlib
import json
import math
import queue
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from statistics import NormalDist
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from evertrain import ArtifactError, ConfigError, DataError

pytest.importorskip("prophet")
pytest.importorskip("safetensors")
torch = pytest.importorskip("torch")

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[1] / "examples" / "shop_forecast"
MODULES = ("model", "project", "hybrid", "make_data")
NAMES = ["prophet_model.json", "lstm_model_retrained.safetensors", "lstm_scaler.json", "model_meta.json"]
LAST = datetime.now(UTC).date() - timedelta(days=12)  # of the data and the upload; then there is room for ten days more


def copied(folder):
    """Copy the example's own files into a folder, and nothing that somebody made by running it."""
    for path in EXAMPLE.glob("*.py"):
        shutil.copy(path, folder)
    return folder


def edited(folder, old, new):
    """Change the project file, as a user would."""
    text = (folder / "project.py").read_text()
    assert old in text
    (folder / "project.py").write_text(text.replace(old, new))


def ran(folder, *command):
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    return done.stdout


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """The example with 400 days of data and an LSTM of three epochs, imported: so it is trained already."""
    folder = tmp_path_factory.mktemp("shop")
    copied(folder)
    edited(folder, "BATCH_SIZE = 50, 32", "BATCH_SIZE = 3, 32")
    ran(folder, "make_data.py", "--days", "400", "--end", str(LAST))
    sys.path.insert(0, str(folder))
    try:
        model = importlib.import_module("model")
        yield SimpleNamespace(folder=folder, model=model, project=model.project, hybrid=sys.modules["hybrid"])
        model.project.close()
    finally:
        sys.path.remove(str(folder))
        for name in MODULES:
            sys.modules.pop(name, None)


def upload(shop, rows, name="upload.csv", header="date,product_id,category,region,sales"):
    path = shop.folder / name
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def streamed(shop, path, **options):
    """Return every message of a retraining in a thread of its own."""
    q: queue.Queue = queue.Queue()
    thread = threading.Thread(target=shop.model.retrain_model_with_queue, args=(path, q), kwargs=options)
    thread.start()
    found = []
    while not found or found[-1]["type"] == "progress":
        found.append(q.get(timeout=600))
    thread.join(60)
    assert not thread.is_alive()
    assert q.empty(), "nothing comes behind the last message"
    return found


# --- the service ------------------------------------------------------------------------------------------------


def test_importing_trains_where_nothing_is_stored_and_loads_where_something_is(shop):
    """S4-07: load saved models if present, else train."""
    assert shop.model.GLOBAL_MODEL.meta["last"] == str(LAST - timedelta(days=2))
    runs = len(shop.project.history("sales", limit=99))
    code = "import json, model; print(json.dumps([model.GLOBAL_MODEL.meta, len(model.project.history('sales', limit=99))]))"
    meta, number = json.loads(ran(shop.folder, "-c", code).splitlines()[-1])
    assert (meta, number) == (json.loads(json.dumps(shop.model.GLOBAL_MODEL.meta)), runs), "nothing was trained again"


def test_an_empty_folder_has_no_model_and_says_so(tmp_path):
    """S4-07."""
    copied(tmp_path)
    code = (
        "import model; print(model.GLOBAL_MODEL)\ntry: model.forecast()\nexcept model.NoModelYet as error: print(error)"
    )
    said = ran(tmp_path, "-c", code)
    assert said.splitlines()[0] == "None"
    assert "no model yet for sales" in said


@pytest.mark.parametrize(
    ("header", "row", "said"),
    [
        (
            "day,sales",
            "2026-01-01,3",
            "missing: date and product_id; a file needs the columns date, sales, product_id, and this one has day, sales",
        ),
        ("date,product_id", "2026-01-01,P001", "missing: sales"),
        ("a,b", "1,2", "missing: date and sales and product_id"),
        ("date,product_id,category,region,sales", "yesterday,P001,dairy,north,3", "yesterday"),
        ("date,product_id,category,region,sales", "2026-01-01,P001,dairy,north,many", "many"),
        ("date,sales", "2026-01-01,3", "missing: product_id"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_and_changes_nothing(shop, header, row, said):
    """S4-03: required columns, and a clear error that names what is missing; dates that are none."""
    before = shop.model.sales.at()
    path = upload(shop, [row], "bad.csv", header)
    with pytest.raises(DataError, match=re.escape(said)):
        shop.model.retrain_model(path)
    messages = streamed(shop, path, epochs=3)
    assert messages[0] == {"type": "progress", "data": "Reading uploaded CSV..."}
    assert messages[-1]["type"] == "error"
    assert said in messages[-1]["data"]
    assert shop.model.sales.at().equals(before)


def test_a_file_that_is_not_there_ends_the_stream_with_an_error(shop):
    assert streamed(shop, shop.folder / "none.csv", epochs=3)[-1] == {
        "type": "error", "data": "none.csv cannot be read: [Errno 2] No such file or directory:"
        f" '{shop.folder / 'none.csv'}'",
    }  # fmt: skip


def test_an_upload_is_merged_trained_saved_and_served_at_once(shop):
    """S4-01, S4-04, S4-06, S4-09: one call, and the next forecast comes from the retrained model."""
    rows = (shop.folder / "test_upload.csv").read_text().splitlines()
    assert len(rows) == 1 + 10
    before = shop.model.sales.at().height
    found = shop.model.retrain_model(shop.folder / "test_upload.csv")
    meta = found["meta"]
    assert (found["status"], meta["outcome"], meta["added"], meta["updated"]) == ("success", "promoted", 10, 0)
    assert meta["version"] == shop.model.forecast()["model"]["version"]
    assert shop.model.GLOBAL_MODEL.meta["last"] == str(LAST) == shop.model.forecast()["model"]["data_to"]
    assert shop.model.forecast()["forecast"][0]["date"] == str(LAST + timedelta(days=1))

    # The champion in memory is the one that answers, to the last bit.
    stored = shop.project.forecast("sales", level=[95])
    own = shop.model.GLOBAL_MODEL.forecast(7, [95])
    assert (own["mean"].tolist(), own["hi-95"].tolist()) == (stored.mean, stored.intervals["hi-95"])

    # Files, by the names they always had where that is honest.
    assert meta["files"] == [*NAMES, "large_dataset.csv", "forecast_plot.png"]
    assert all((shop.folder / name).stat().st_size for name in meta["files"])
    assert (shop.folder / "forecast_plot.png").read_bytes().startswith(b"\x89PNG")
    assert len((shop.folder / "large_dataset.csv").read_text().splitlines()) == 1 + before + 10
    loaded = shop.model.InventoryForecastModel.load(shop.folder)
    assert loaded.forecast(7)["mean"].tolist() == stored.mean

    # The same rows again, and one of them corrected: rows are known by date and product.
    again = shop.model.retrain_model(shop.folder / "test_upload.csv")
    assert (again["status"], again["meta"]["outcome"], again["meta"]["unchanged"]) == ("success", "not_needed", 10)
    day, product, *rest, value = rows[-1].split(",")
    corrected = shop.model.retrain_model(upload(shop, [",".join([day, product, *rest, str(float(value) + 1)])]))
    assert (corrected["meta"]["added"], corrected["meta"]["updated"]) == (0, 1)

    # A file without the optional columns: its products keep the category and region that they are known by.
    path = upload(shop, [f"{day},{product},{value}", f"{day},P009,4"], "short.csv", "date,product_id,sales")
    batch = shop.model._merged(path, shop.model._header(path))
    assert (batch.added, batch.updated) == (1, 1)
    kept = shop.model.sales.at()
    assert kept.filter((kept["product_id"] == product) & (kept["date"].cast(str) == day)).rows()[0][2:4] == tuple(rest)
    assert kept.filter(kept["product_id"] == "P009").rows()[0][2:4] == (None, None)
    assert kept.select("date", "product_id").is_unique().all()


def test_ten_days_at_three_times_the_level_raise_the_next_week_by_more_than_half(shop):
    """S4-02, S4-09, S4-16, S4-17: every step and each of the 50 epochs is streamed, and what was learnt is served."""
    last = shop.model.sales.at()["date"].max()
    rows = shop.model.sales.at().filter(shop.model.sales.at()["date"] > last - timedelta(days=7))
    level = {one["product_id"]: one for one in rows.group_by("product_id", "category", "region").mean().to_dicts()}
    before = sum(one["sales"] for one in shop.model.forecast()["forecast"])
    days = [last + timedelta(days=number) for number in range(1, 11)]
    path = upload(
        shop,
        [
            f"{day},{p},{one['category']},{one['region']},{3 * one['sales']:.1f}"
            for day in days
            for p, one in level.items()
        ],
        "tripled.csv",
    )
    messages = streamed(shop, path, epochs=50)
    assert messages[-1]["type"] == "result"
    assert messages[-1]["data"]["status"] == "success", messages[-1]
    assert messages[-1]["data"]["meta"]["outcome"] == "promoted"
    said = [one["data"] for one in messages[:-1]]
    assert all(one["type"] == "progress" for one in messages[:-1])
    assert said[:2] == ["Reading uploaded CSV...", "Merging with large_dataset.csv..."]
    assert said[-1] == "Saving model and data..."
    epochs = [one for one in said if one.startswith("LSTM epoch ")]
    assert [re.sub(r"\d\.\d{4}$", "", one) for one in epochs] == [f"LSTM epoch {n}/50 - loss=" for n in range(1, 51)]
    losses = [float(one.rpartition("=")[2]) for one in epochs]
    assert losses[-1] < losses[0] / 2, "it learns"
    assert said.index("Starting Prophet training...") < said.index(epochs[0])
    found = shop.model.forecast()
    assert sum(one["sales"] for one in found["forecast"]) > 1.5 * before
    assert found["model"]["data_to"] == str(days[-1])
    assert all(one["lower"] <= one["sales"] <= one["upper"] for one in found["forecast"])


def test_filters_are_answered_by_a_model_of_their_own_rows_and_stock_is_recommended(shop):
    """S4-08, S4-12: plain values; with filters a temporary model, labelled."""
    everything = shop.model.forecast(3)
    assert json.loads(json.dumps(everything)) == everything
    assert (everything["model"]["temporary"], everything["filters"], len(everything["forecast"])) == (False, {}, 3)
    found = shop.model.forecast(days=3, product_id="P001", region="north")
    assert (found["model"]["temporary"], found["model"]["version"]) == (True, None)
    assert found["model"]["answered_by"] == "rows where product_id=P001, region=north"
    assert found["forecast"][0]["sales"] < everything["forecast"][0]["sales"]

    stock = everything["inventory"]
    mean, upper = (np.array([one[name] for one in everything["forecast"]]) for name in ("sales", "upper"))
    sigma = (upper - mean) / NormalDist().inv_cdf(0.975)
    assert stock["safety_stock"] == pytest.approx(NormalDist().inv_cdf(0.95) * math.sqrt((sigma**2).sum()), abs=0.2)
    assert stock["reorder_point"] == pytest.approx(mean.sum() + stock["safety_stock"], abs=0.3)
    assert shop.model.forecast(1)["inventory"] == stock, "goods take three days, whatever was asked for"
    assert len(shop.model.forecast(30)["forecast"]) == 30

    for wrong in (0, 91, True, "7"):
        with pytest.raises(ConfigError, match=r"days is .*; allowed: a whole number from 1 to 90"):
            shop.model.forecast(wrong)
    with pytest.raises(DataError, match="0 rows have category=shoes"):
        shop.model.forecast(category="shoes")


def test_a_damaged_model_falls_back_to_the_one_before_and_then_to_training(shop):
    """S4-07: fall back if saved models are corrupt."""
    code = "import json, model; print(json.dumps([model.predictor.version, model.GLOBAL_MODEL.forecast(3)['mean'].tolist()]))"
    code += "; print(json.dumps(model.forecast(3)['model']['version']))"
    store = shop.project.opened.store

    def damage(where):
        with store.read() as tx:
            names = [row.artifact for row in tx.rows(f"SELECT DISTINCT artifact FROM fits {where}")]
        for name in names:
            path = shop.project.opened.artifacts.path(name)
            path.chmod(0o600)
            path.write_bytes(path.read_bytes()[:-100])

    if len(served(shop)) < 2:
        shop.model.retrain_model(shop.folder / "test_upload.csv")
    *_, older, newest = served(shop)
    damage("WHERE id = (SELECT champion_id FROM partitions WHERE champion_id IS NOT NULL)")
    (version, mean), answered = map(json.loads, ran(shop.folder, "-c", code).splitlines()[-2:])
    assert (version, answered) == (older, older) != (newest, newest)
    assert np.isfinite(mean).all()

    damage("")
    (version, mean), answered = map(json.loads, ran(shop.folder, "-c", code).splitlines()[-2:])
    assert version == answered == served(shop)[-1]
    assert version not in (newest, older), "nothing good was left, so it was trained anew"
    assert np.isfinite(mean).all()


def served(shop):
    """Return the versions that ever were champion, the last one now."""
    with shop.project.opened.store.read() as tx:
        rows = tx.rows(
            "SELECT v.major, v.minor, v.patch FROM activations a JOIN fits f ON f.id = a.fit_id"
            " JOIN versions v ON v.id = f.version_id ORDER BY a.id"
        )
    return [f"{row.major}.{row.minor}.{row.patch}" for row in rows]


def test_with_partitions_a_product_is_answered_by_its_own_champion_and_without_product_id_the_key_is_the_date(tmp_path):
    """S4-04, S4-08, S4-12: the partition's model when one matches."""
    parted, plain = tmp_path / "parted", tmp_path / "plain"
    for folder in (parted, plain):
        folder.mkdir()
        copied(folder)
        edited(folder, "BATCH_SIZE = 50, 32", "BATCH_SIZE = 1, 32")
    edited(parted, 'target="sales",', 'target="sales", partition_by="product_id",')
    days = [LAST - timedelta(days=59 - number) for number in range(60)]
    (parted / "large_dataset.csv").write_text(
        "date,product_id,sales\n"
        + "".join(f"{d},{p},{k + d.weekday()}\n" for d in days for p, k in (("A", 9), ("B", 99)))
    )
    (plain / "large_dataset.csv").write_text("date,sales\n" + "".join(f"{d},{9 + d.weekday()}\n" for d in days))
    code = "import json, model; print(json.dumps([model.forecast(3), model.forecast(3, product_id='A')]))"
    everything, own = json.loads(ran(parted, "-c", code).splitlines()[-1])
    assert (everything["model"]["version"], own["model"]["version"]) == ("1.0.0", "1.0.0")
    assert (everything["model"]["temporary"], own["model"]["temporary"]) == (False, False)
    assert own["model"]["answered_by"] == "A"
    assert own["forecast"][0]["sales"] < everything["forecast"][0]["sales"]

    (plain / "one.csv").write_text(f"date,sales\n{LAST},500\n")
    code = "import model; print(model.sales.ingest('one.csv'))"
    assert "1 updated" in ran(plain, "-c", code)


# --- the trainer ------------------------------------------------------------------------------------------------


@dataclass
class Told:
    freq: str = "D"
    season: int = 7
    h: int = 7
    level: tuple[int, ...] = (80, 95)
    seed: int = 7
    said: list[str] = field(default_factory=list)

    def progress(self, text, fraction=None):
        self.said.append(text)


def sold(number, seed=0, first="2024-01-01"):
    """Daily sales with a trend and a week; generated."""
    i, draw = np.arange(number), np.random.default_rng(seed)
    y = (200 + 0.1 * i) * (1 + 0.15 * np.sin(2 * np.pi * i / 7)) * np.exp(draw.normal(0, 0.08, number))
    return pd.DataFrame({"ds": pd.date_range(first, periods=number), "y": y})


def test_it_is_sixty_per_cent_prophet_and_forty_lstm_of_the_declared_shape(shop):
    """S4-17: seasons, trend, holidays and interval of Prophet; two layers of 50, dropout, 10 steps, 50 epochs, MinMax."""
    trainer, told = shop.hybrid.HybridForecaster(), Told()
    assert (trainer.epochs, trainer.batch_size, trainer.share) == (50, 32, 0.6)
    frame = sold(400)
    fitted = trainer.load(trainer.save(trainer.fit(frame, told)))
    assert sum(one.startswith("LSTM epoch ") for one in told.said) == 50
    prophet = fitted.prophet.live
    assert set(prophet.seasonalities) == {"yearly", "weekly", "daily"}
    assert (prophet.growth, prophet.country_holidays) == ("linear", "US")
    from safetensors.torch import load

    shapes = {name: tuple(one.shape) for name, one in load(fitted.lstm.weights).items()}
    assert shapes["lstm.weight_hh_l0"] == shapes["lstm.weight_hh_l1"] == (4 * 50, 50)
    assert "lstm.weight_hh_l2" not in shapes
    assert shop.hybrid._network()["lstm"].dropout == 0.2
    assert (fitted.lstm.low, fitted.lstm.high) == (frame["y"].min(), frame["y"].max())
    assert fitted.meta["tail"] == frame["y"].tolist()[-10:]
    parts = (
        shop.hybrid.PARTS.forecast(fitted.prophet, 7, ())["mean"],
        fitted.lstm.forecast(np.array([fitted.meta["tail"]]), 7)[0],
    )
    assert fitted.forecast(7)["mean"] == pytest.approx(0.6 * parts[0] + 0.4 * parts[1])
    assert abs(parts[0] - parts[1]).max() > 1, "they differ, so the weights matter"


def test_the_interval_is_the_ensembles_own_and_holds_what_it_says(shop):
    """S4-17: of 95 % intervals, about 95 % hold; Prophet's own around the ensemble would hold fewer."""
    trainer, inside = shop.hybrid.HybridForecaster(epochs=8), []
    for seed in range(14):
        frame = sold(207, seed)
        found = trainer.fit(frame.iloc[:200], Told(seed=seed)).forecast(7, [80, 95])
        actual = frame["y"].to_numpy()[200:]
        inside.append([(actual >= found[f"lo-{one}"]) & (actual <= found[f"hi-{one}"]) for one in (80, 95)])
    share = np.mean(inside, axis=(0, 2))
    assert 0.70 <= share[0] <= 0.95
    assert 0.90 <= share[1] <= 1.0


def test_an_artifact_is_four_files_none_of_which_is_a_pickle(shop, tmp_path):
    """S4-05, S4-06: weights, scaler, Prophet and what they were trained on; names with honest endings."""
    trainer = shop.hybrid.HybridForecaster(epochs=1)
    fitted = trainer.fit(sold(60), Told())
    data = trainer.save(fitted)
    with zipfile.ZipFile(BytesIO(data)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    assert list(files) == NAMES
    for name, body in files.items():
        head = (
            json.loads(body) if name.endswith(".json") else json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
        )
        assert isinstance(head, dict), name

    want = fitted.forecast(7)["mean"].tolist()
    fitted.save(tmp_path / "all")
    assert sorted(one.name for one in (tmp_path / "all").iterdir()) == sorted(NAMES)
    assert shop.model.InventoryForecastModel.load(tmp_path / "all").forecast(7)["mean"].tolist() == want
    fitted.lstm.save(tmp_path / "lstm")
    assert shop.model.LSTMModel.load(tmp_path / "lstm") == fitted.lstm
    heard = []
    shop.model.LSTMModel.train_with_progress(
        sold(40)["y"].to_numpy(), seed=1, epochs=2, tell=lambda *one: heard.append(one)
    )
    assert [round(one[1], 2) for one in heard] == [0.5, 1.0]


def test_damaged_bytes_are_refused(shop, tmp_path):
    trainer = shop.hybrid.HybridForecaster(epochs=1)
    data = trainer.save(trainer.fit(sold(60), Told()))
    with zipfile.ZipFile(BytesIO(data)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}

    def zipped(changed):
        out = BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            for name, body in changed.items():
                archive.writestr(name, body)
        return out.getvalue()

    import pickle

    hostile = [
        b"", b"no zip", data[:-200], zipped({**files, "more": b""}), zipped({NAMES[0]: files[NAMES[0]]}),
        *(zipped({**files, name: files[name][: len(files[name]) // 2]}) for name in NAMES),
        zipped({**files, NAMES[1]: pickle.dumps({"lstm": 1})}), zipped({**files, NAMES[2]: b'{"low": 0}'}),
    ]  # fmt: skip
    for one in hostile:
        with pytest.raises(ArtifactError):
            trainer.load(one)
    with pytest.raises(ArtifactError, match=r"holds no prophet_model\.json"):
        shop.model.InventoryForecastModel.load(tmp_path)
    assert trainer.load(zipped(files)).forecast(1)["mean"].size == 1


def test_the_same_seed_gives_the_same_bytes_in_another_process(shop):
    code = (
        "import hashlib, numpy as np, pandas as pd; from types import SimpleNamespace as N; from hybrid import HybridForecaster\n"
        "y = 50 + 9 * np.sin(np.arange(80) / 3) + np.arange(80) % 5\n"
        "frame = pd.DataFrame({'ds': pd.date_range('2026-01-01', periods=80), 'y': y})\n"
        "def bits(seed):\n"
        "    told = N(freq='D', season=7, h=7, level=(95,), seed=seed, progress=lambda *_: None)\n"
        "    trainer = HybridForecaster(epochs=3)\n"
        "    return hashlib.sha256(trainer.save(trainer.fit(frame, told))).hexdigest()\n"
        "print(bits(7), bits(8))"
    )
    first, second = (ran(shop.folder, "-c", code).split() for _ in range(2))
    assert first == second
    assert first[0] != first[1]


def test_short_and_constant_series_get_an_answer(shop):
    trainer = shop.hybrid.HybridForecaster(epochs=1)
    assert (trainer.least(7), trainer.least(1)) == (30, 30)
    least = sold(trainer.least(7))
    level = pd.DataFrame({"ds": least["ds"], "y": 5.0})
    for frame in (least, level, level.assign(y=0.0)):
        found = trainer.fit(frame, Told()).forecast(14, [80, 95])
        assert all(np.isfinite(one).all() and one.size == 14 for one in found.values())
        assert (found["lo-95"] >= 0).all(), "nobody sells less than nothing"
    with pytest.raises(ConfigError, match="epochs is 0; allowed: a whole number, at least 1"):
        shop.hybrid.HybridForecaster(epochs=0)
