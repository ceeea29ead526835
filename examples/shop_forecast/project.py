"""The declaration: sales that Evertrain keeps, and one model that forecasts them a week ahead."""

from __future__ import annotations

from pathlib import Path

from hybrid import HybridForecaster

from evertrain import Gate, Project, Series, on_data_change

HERE = Path(__file__).resolve().parent
DATA = HERE / "large_dataset.csv"
EPOCHS, BATCH_SIZE = 50, 32

# A row is one product's day. A file that has no product_id holds one row a day, and its key is the date alone.
HEADER = DATA.read_text(encoding="utf-8-sig").partition("\n")[0] if DATA.is_file() else "date,product_id"
KEY = ["date", "product_id"] if "product_id" in HEADER else ["date"]

project = Project("shop", root=HERE)
sales = project.dataset("sales", key=KEY, time="date", columns={"date": "date", "sales": "number"})


def declare(epochs: int = EPOCHS, batch_size: int = BATCH_SIZE) -> None:
    """Declare the model. With `partition_by="product_id"` each product would have a champion of its own."""
    project.model(
        "sales",
        sales,
        target="sales",
        series=Series(7, "D", windows=1),
        trainer=HybridForecaster(epochs, batch_size),
        triggers=[on_data_change(quiet="30s")],
        # A week whose level nobody foresaw is missed by every forecast alike, and is no reason to refuse what learnt it.
        gate=Gate(beat_baseline=False),
    )


declare()
