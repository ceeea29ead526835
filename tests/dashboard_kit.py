"""A small project with a past worth showing: for the pages, in this process and in a browser."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest

from evertrain import CsvFile, Custom, Gate, Project, Series, Settings, max_age, on_data_change, on_drift, weekly

from .conftest import TOYS

MARKUP, TURNED, QUOTED = "<script>alert(1)</script>", "\u05d0\u202egnp", 'a/b?c&d="x"\''
TOWNS = (MARKUP, TURNED, QUOTED, "\x07bell")
ADDRESSES = (
    "/", "/models/line", "/models/kg", "/models/kg?q=script", "/models/kg?q=nobody", "/runs", "/runs?model=line",
    "/runs?state=failed", "/runs/1", "/runs/1?state=promoted", "/data", "/schedules", "/decisions",
    "/decisions?fired=yes&model=line", "/events", "/events?run=1", "/events?kind=run.ended", "/report", "/report?last=7d&price=0.5",
    "/notifications",
)  # fmt: skip


def frame(rows: list[tuple[str, str, str, float]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=["id", "town", "day", "kg"], orient="row").with_columns(
        pl.col("day").str.to_date()
    )


@contextmanager
def a_shop(folder: Path) -> Iterator[Project]:
    """Names that are markup, a refusal, a rollback, a drift check, a forecast, a batch that was undone."""
    shutil.copy(TOYS, folder / "toys.py")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        project = Project("shop", root=folder, executor="inline", settings=Settings(tick_s=0.05, check_s=3600))
        rows = [f"{i}.5,{2 * i + i % 7}" for i in range(200)]
        (folder / "line.csv").write_text("\n".join(["x,y", *rows]) + "\n")
        line = project.source("line", CsvFile("line.csv"))
        declared = {
            "target": "y",
            "triggers": [max_age("24h"), weekly("mon", "03:00"), on_drift("1d")],
            "min_samples": 20,
        }
        project.model("line", line, trainer=Custom("toys:Line"), gate=Gate("mae", tolerance="90%"), **declared)
        project.trigger("line")
        project.model(
            "line", line, trainer=Custom("toys:Line", {"noise": 0.5}), gate=Gate("mae", tolerance="90%"), **declared
        )
        project.trigger("line")
        project.model("line", line, trainer=Custom("toys:Line", {"noise": 500.0}), gate=Gate("mae"), **declared)
        project.trigger("line")
        project.rollback("line", why="<b>orders looked wrong</b>\u202e")
        rows += [f"{i + 900}.5,{i}" for i in range(80)]
        (folder / "line.csv").write_text("\n".join(["x,y", *rows]) + "\n")
        project.refresh()
        project.check("line")
        sales = project.dataset("sales", key=["id"], time="day")
        project.model(
            "kg",
            sales,
            target="kg",
            trainer=Custom("toys:Repeat"),
            series=Series(h=3, freq="D"),
            partition_by="town",
            rollups=[[]],
            triggers=[on_data_change(quiet="0s")],
        )
        days = [f"2026-01-{1 + n:02d}" for n in range(28)]
        first = [(f"{t}-{day}", town, day, float(n)) for t, town in enumerate(TOWNS) for n, day in enumerate(days)]
        sales.ingest(frame(first), source="first.csv")
        sales.undo(sales.ingest(frame([("x", QUOTED, "2026-01-29", 3.0)])).number)
        project.trigger("kg")
        yield project
        project.close()
        sys.modules.pop("toys", None)
