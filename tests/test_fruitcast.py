"""The fruit example is run as its application would: each click trains its pairs and their Overalls, nothing else."""

from __future__ import annotations

import importlib
import shutil
import sys
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from evertrain.partitions import decode

from .conftest import TOYS

EXAMPLE = Path(__file__).parents[1] / "examples" / "fruitcast"
MODULES = ("views", "tasks", "project", "toys")
FRUITS, TOWNS = ("Avocado", "Banana", "Calamansi"), ("Hermosa", "Orani", "Pilar")


def records(months=14):
    random, found = np.random.default_rng(5), []
    for place, (fruit, town) in enumerate((fruit, town) for fruit in FRUITS for town in TOWNS):
        for month in range(months):
            day = date(2024 + month // 12, 1 + month % 12, 5)
            found.append({"record_id": 100 * place + month, "date": day, "commodity": fruit, "municipality": town,
                          "kg": 50.0 + 5 * place + month + round(float(random.normal(0, 2)), 2)})  # fmt: skip
    return pl.DataFrame(found)


@pytest.fixture(scope="module")
def fruit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fruitcast")
    for path in EXAMPLE.glob("*.py"):
        shutil.copy(path, folder)
    text = (folder / "project.py").read_text()
    text = text.replace('Project("fruitcast",', 'Project("fruitcast", executor="inline",')
    text = text.replace("import Dimension,", "import Custom, Dimension,")
    (folder / "project.py").write_text(text.replace("SklearnForecaster(Ridge())", 'Custom("toys:Repeat")'))
    shutil.copy(TOYS, folder)
    sys.path.insert(0, str(folder))
    try:
        views = importlib.import_module("views")
        project = views.project
        views.verified["harvest"].ingest(records())
        views.verified["plant"].ingest(records().filter(pl.col("municipality") == "Orani"))
        project.refresh()
        yield SimpleNamespace(views=views, tasks=sys.modules["tasks"], project=project, folder=folder)
        project.close()
    finally:
        sys.path.remove(str(folder))
        for name in MODULES:
            sys.modules.pop(name, None)


def trained(fruit, click):
    """Do something; return what it said, and the models that it had trained."""
    store = fruit.project.opened.store

    def items():
        with store.read() as tx:
            return tx.rows(
                "SELECT i.id, m.name, p.key FROM items i JOIN partitions p ON p.id = i.partition_id"
                " JOIN models m ON m.id = i.model_id WHERE i.state <> 'skipped'"
            )

    before = {row.id for row in items()}
    said = click()
    fruit.project.refresh()
    return said, sorted((row.name, *decode(row.key).values()) for row in items() if row.id not in before)


def pending(fruit, number, town=None, farm=None, name="Avocado", kind="harvest"):
    fruit.views.PENDING[number] = {"record_type": kind, "date": date(2025, 6, 20), "commodity": name, "farm_land": farm,
                                   "municipality": town, "kg": 9.0}  # fmt: skip
    return number


def updated(what):
    return f"Records updated. Forecast models for {what} are being updated in the background."


def test_each_click_says_and_trains_its_pairs_and_their_overalls(fruit):
    """S0-01, S0-04, S0-07, S0-08, S0-09, S0-10, S0-12, S0-13, S0-14, S0-15, S0-16, S0-17, S0-18, S0-23, S0-25."""
    views = fruit.views
    two = [pending(fruit, 5001, farm="Riverside"), pending(fruit, 5002, town="Pilar", name="Banana")]
    pairs = [{"commodity_id": 1, "municipality_id": 1}, {"commodity_id": 2, "municipality_id": 3}]
    assert views.extract_commodity_municipality_pairs([*two, 5001], "harvest") == pairs
    assert trained(fruit, lambda: views.admin_verifyharvestrec(two)) == (
        updated("Avocado, Banana in Hermosa, Pilar and Overall"),
        [
            ("harvest", "Avocado"),
            ("harvest", "Avocado", "Hermosa"),
            ("harvest", "Banana"),
            ("harvest", "Banana", "Pilar"),
        ],
    )
    assert views.extract_commodity_municipality_pairs(two, "harvest") == pairs, "verified ones are known as well"
    plants = [pending(fruit, 6001, town="Orani", kind="plant")]
    assert trained(fruit, lambda: views.admin_verifyplantrec(plants)) == (
        updated("Avocado in Orani and Overall"), [("planting", "Avocado"), ("planting", "Avocado", "Orani")]
    )  # fmt: skip
    path = fruit.folder / "upload.csv"
    records(2).filter(pl.col("municipality") == "Orani").with_columns(pl.col("record_id") + 9000).write_csv(path)
    said, found = trained(fruit, lambda: views.admin_add_verifyharvestrec(path))
    assert said == updated("Avocado, Banana, Calamansi in Orani and Overall")
    assert len(found) == 6
    form = {"record_id": 7001, "date": date(2025, 5, 2), "commodity": "Calamansi", "municipality": "Pilar", "kg": 3.0}
    assert len(trained(fruit, lambda: views.admin_add_verifyharvestrec(form))[1]) == 2
    said, found = trained(fruit, lambda: views.admin_harvestverified_edit(7001, municipality="Hermosa"))
    assert found == [("harvest", "Calamansi"), ("harvest", "Calamansi", "Hermosa"), ("harvest", "Calamansi", "Pilar")]
    assert said == updated("Calamansi in Hermosa, Pilar and Overall")
    assert trained(fruit, lambda: views.admin_rejectrec([7001]))[1] == found[:2]
    assert trained(fruit, lambda: views.admin_harvestverified([123456])) == ("No such record.", [])


def test_the_tasks_by_their_names_train_pairs_and_their_overalls_or_everything(fruit):
    """S0-02, S0-11, S0-19: `delay` only asks; without a change nothing is fitted again."""
    task = fruit.tasks.retrain_selective_models_task
    fruit.views.verified["harvest"].edit({"record_id": 3, "kg": 1.0})
    asked = task.delay([{"commodity_id": 1, "municipality_id": 1}])
    assert asked.outcome == "asked"
    done = task([{"commodity_id": 2, "municipality_id": 14}])
    assert sum(done.counts.values()) == 1, "municipality 14 is the Overall alone"
    assert trained(fruit, fruit.views.retrain_forecast_model)[1] in (
        [], [("harvest", "Avocado"), ("harvest", "Avocado", "Hermosa")]
    )  # fmt: skip
    assert fruit.project.forecast("harvest", partition={"commodity": "Avocado"}).answered_by == "Avocado, Overall"
