"""The functions of a shop's forecasting service, over Evertrain: retrain from an uploaded file, forecast, recommend.

Evertrain keeps the rows, trains in a process of its own, lets the new model prove itself, swaps it in and stores its
forecast. What is here turns that into the calls of the service, and keeps `GLOBAL_MODEL`, the champion in memory.
"""

from __future__ import annotations

import csv
import queue
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from hybrid import InventoryForecastModel, LSTMModel
from project import BATCH_SIZE, DATA, EPOCHS, HERE, KEY, declare, project, sales

from evertrain import DataError, EvertrainError, NoModelYet, NotFound, TrainingError
from evertrain.compat.forecast import answer, inventory

__all__ = [
    "GLOBAL_MODEL", "InventoryForecastModel", "LSTMModel", "forecast", "inventory", "retrain_model",
    "retrain_model_with_queue", "save_artifacts",
]  # fmt: skip

REQUIRED = ("date", "sales")
PLOT = "forecast_plot.png"

Tell = Callable[[str], None]


# --- retraining -------------------------------------------------------------------------------------------------


def retrain_model(new_data_path: str | Path) -> dict[str, Any]:
    """Merge a CSV file into the data, retrain both parts of the model, and return what became of it.

    Returns:
        `status`: "success" (the new model serves, or the rows were known already) or "refused" (the gate kept the old
        one, and `meta["reason"]` says why); `meta`: versions, rows, seconds, files.

    Raises:
        DataError: the file cannot be used; nothing of it is kept, and what served goes on.
        TrainingError: the training failed; what served goes on.
    """
    return _retrained(Path(new_data_path), lambda _: None, EPOCHS, BATCH_SIZE)


def retrain_model_with_queue(
    new_data_path: str | Path, q: queue.Queue[dict[str, Any]], epochs: int = EPOCHS, batch_size: int = BATCH_SIZE
) -> None:
    """Do the same and put every step into a queue as {"type": "progress", "data": text}, also every epoch.

    The last message is {"type": "result", "data": {"status": …, "meta": …}} or {"type": "error", "data": text}.
    Made for a thread of its own, whose reader would wait for ever without a last message.
    """
    try:
        found = _retrained(
            Path(new_data_path), lambda text: q.put({"type": "progress", "data": text}), epochs, batch_size
        )
    except EvertrainError as error:
        q.put({"type": "error", "data": str(error)})
    except BaseException as error:
        q.put({"type": "error", "data": f"the retraining failed: {type(error).__name__}"})
        raise
    else:
        q.put({"type": "result", "data": found})


def _retrained(path: Path, tell: Tell, epochs: int, batch_size: int) -> dict[str, Any]:
    global GLOBAL_MODEL
    declare(epochs, batch_size)
    tell("Reading uploaded CSV...")
    header = _header(path)
    _validate_required_columns(header)
    tell(f"Merging with {DATA.name}...")
    batch = _merged(path, header)
    tell(str(batch))
    outcome = _trained(tell)
    if outcome.outcome not in ("promoted", "not_needed", "refused"):
        raise TrainingError(f"{outcome.outcome}: {outcome.reason}")
    GLOBAL_MODEL = _champion()
    tell("Saving model and data...")
    files = save_artifacts(HERE)
    meta = {
        "outcome": outcome.outcome, "reason": outcome.reason, "version": predictor.version, "run": outcome.run_id,
        "added": batch.added, "updated": batch.updated, "unchanged": batch.unchanged,
        "seconds": round(outcome.seconds, 1), "epochs": epochs, "batch_size": batch_size, "files": files,
    }  # fmt: skip
    return {"status": "refused" if outcome.outcome == "refused" else "success", "meta": meta}


def _trained(tell: Tell, *, force: bool = False) -> Any:
    def hear(event: Any) -> None:
        if event.kind == "item.progress":
            tell(event.data["text"])

    return project.trigger("sales", force=force, progress=hear)


def _header(path: Path) -> list[str]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return next(csv.reader(file), [])
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path.name} cannot be read: {error}") from None


def _validate_required_columns(columns: Iterable[str]) -> None:
    """Raise `DataError` that names what is missing: date, sales, and product_id where rows are known by it."""
    given, needed = list(columns), list(dict.fromkeys([*REQUIRED, *KEY]))
    if missing := [name for name in needed if name not in given]:
        raise DataError(
            f"missing: {' and '.join(missing)}; a file needs the columns {', '.join(needed)}, and this one has"
            f" {', '.join(given) or 'none'}",
            column=missing[0],
        )


def _merged(path: Path, header: list[str]) -> Any:
    """Merge a file. Columns that it may lack are those that its products are known by, else empty."""
    try:
        rows = sales.at()
    except NotFound:
        return sales.ingest(path)
    lacking = [name for name in rows.columns if name not in header]
    if not lacking:
        return sales.ingest(path)
    by = "product_id" if "product_id" in header else "date"
    known = {str(one[by]): one for one in rows.sort("date").select(by, *lacking).to_dicts()}
    with path.open(newline="", encoding="utf-8-sig") as file, tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / path.name
        with whole.open("w", newline="", encoding="utf-8") as out:
            writer = csv.writer(out)
            for number, line in enumerate(csv.reader(file)):
                about = known.get(line[header.index(by)], {}) if len(line) == len(header) else {}
                writer.writerow([*line, *(lacking if number == 0 else [about.get(name) for name in lacking])])
        return sales.ingest(whole)


# --- the model in memory ----------------------------------------------------------------------------------------

predictor = project.predictor("sales")


def _champion() -> InventoryForecastModel | None:
    """Return the champion; where its bytes are damaged the one before it, None where nothing good is left."""
    try:
        found: InventoryForecastModel = predictor.fitted()
    except (NoModelYet, TrainingError):
        return None
    return found


def _load_or_train(tell: Tell = lambda _: None) -> InventoryForecastModel | None:
    """Return the champion, else one trained on the rows there are; None where there is no row yet either."""
    if found := _champion():
        return found
    if DATA.is_file():
        _validate_required_columns(_header(DATA))
        sales.ingest(DATA)
    try:
        sales.at()
    except NotFound:
        return None
    _trained(tell, force=True)
    return _champion()


# --- forecasting ------------------------------------------------------------------------------------------------


def forecast(
    days: int = 7, product_id: str | None = None, category: str | None = None, region: str | None = None
) -> dict[str, Any]:
    """Return a forecast with a recommendation for the stock, as plain values.

    Without filters the champion answers. With filters the partition's champion does where there is one, else a model
    made of these rows for this question, which says so under "temporary" and is kept until rows change.

    Raises:
        ConfigError: `days` is no whole number from 1 to 90.
        DataError: too few rows have these values.
        NoModelYet: nothing was trained yet.
    """
    return answer(project.opened, days, {"product_id": product_id, "category": category, "region": region}, "sales")


# --- files ------------------------------------------------------------------------------------------------------


def save_artifacts(folder: str | Path = HERE) -> list[str]:
    """Write the champion's files, the data and a picture of the forecast into a folder, and return their names.

    Raises:
        NoModelYet: nothing was trained yet.
    """
    from evertrain.plots import forecast_plot

    folder = Path(folder)
    model: InventoryForecastModel = predictor.fitted()
    model.save(folder)
    part = folder / f"{DATA.name}.part"
    rows = sales.at()
    rows.write_csv(part)
    part.replace(folder / DATA.name)
    past = rows.select("date", "sales").group_by("date").sum().sort("date")
    days = [str(one) for one in past["date"]]
    forecast_plot(project.forecast("sales"), days, past["sales"].to_list(), "sales", folder / PLOT)
    return [*model.files(), DATA.name, PLOT]


# As the module is imported: from then on a forecast is answered at once.
GLOBAL_MODEL = _load_or_train()
