"""What people do to records all day, by the old names: each returns what they read afterwards.

Merging verified rows is all that a view has to do: Evertrain sees which pairs a batch, an edit or a deletion touches,
those that a record left as well, and trains these and their Overalls. Nobody has to extract pairs, but everybody may.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from project import project, verified
from tasks import COMMODITIES, MUNICIPALITIES, retrain_and_generate_forecasts_task

from evertrain.control.data import announcements
from evertrain.datasets import Batch

FARM_LANDS = {"Riverside": "Hermosa", "Hilltop": "Pilar"}
PENDING: dict[int, dict[str, Any]] = {}
"""Records that nobody has verified yet: record_type, date, commodity, farm_land or municipality, kg."""


def _municipality(record: dict[str, Any]) -> str:
    """Return the municipality of a record's farm, else the one that was typed in."""
    return str(FARM_LANDS[record["farm_land"]] if record.get("farm_land") else record["municipality"])


def _row(number: int, record: dict[str, Any]) -> dict[str, Any]:
    return {
        "record_id": number,
        "date": record["date"],
        "commodity": record["commodity"],
        "municipality": _municipality(record),
        "kg": record["kg"],
    }


def extract_commodity_municipality_pairs(selected_ids: Sequence[int], record_type: str) -> list[dict[str, int]]:
    """Return the pairs of records, pending or verified, each once; call it before records are deleted."""
    rows = [_row(one, PENDING[one]) for one in selected_ids if one in PENDING]
    known = verified[record_type].at()
    rows += known.filter(known["record_id"].is_in(list(selected_ids))).to_dicts()
    towns, fruits = ({name: number for number, name in one.items()} for one in (MUNICIPALITIES, COMMODITIES))
    pairs = {(fruits[row["commodity"]], towns[row["municipality"]]) for row in rows}
    return [{"commodity_id": fruit, "municipality_id": town} for fruit, town in sorted(pairs)]


def _said(batch: Batch) -> str:
    return " ".join(announcements(project.opened, batch)) or "Records updated. No forecast model is affected."


def _verify(selected_ids: Sequence[int], record_type: str) -> str:
    rows = [_row(one, PENDING[one]) for one in selected_ids]
    said = _said(verified[record_type].ingest(_frame(rows), source="verified"))
    for one in selected_ids:
        del PENDING[one]
    return said


def _frame(rows: Sequence[dict[str, Any]]) -> Any:
    import polars as pl

    return pl.DataFrame(list(rows))


def admin_verifyharvestrec(selected_ids: Sequence[int]) -> str:
    """Verify harvests."""
    return _verify(selected_ids, "harvest")


def admin_verifyplantrec(selected_ids: Sequence[int]) -> str:
    """Verify plantings."""
    return _verify(selected_ids, "plant")


def admin_rejectrec(selected_ids: Sequence[int], record_type: str = "harvest") -> str:
    """Reject records, also some that were verified."""
    for one in selected_ids:
        PENDING.pop(one, None)
    return admin_harvestverified(selected_ids, record_type)


def admin_add_verifyharvestrec(upload: str | Path | dict[str, Any]) -> str:
    """Add verified harvests: a CSV file, or the record of a form."""
    rows = _frame([_row(upload["record_id"], upload)]) if isinstance(upload, dict) else Path(upload)
    return _said(verified["harvest"].ingest(rows))


def admin_harvestverified(selected_ids: Sequence[int], record_type: str = "harvest") -> str:
    """Delete verified records."""
    known = verified[record_type].at()
    there = known.filter(known["record_id"].is_in(list(selected_ids)))["record_id"].to_list()
    return _said(verified[record_type].delete([{"record_id": one} for one in there])) if there else "No such record."


def admin_harvestverified_edit(record_id: int, **changes: Any) -> str:
    """Correct a verified record; where it moves to another municipality, the one it leaves is trained as well."""
    return _said(verified["harvest"].edit({"record_id": record_id, **changes}))


def retrain_forecast_model() -> str:
    """Train every model: the button."""
    return retrain_and_generate_forecasts_task.delay().reason
