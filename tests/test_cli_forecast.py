"""Forecasts from the command line: a table, a CSV file, a picture, JSON, and what is refused."""

from __future__ import annotations

import shutil

import pandas as pd
import pytest

from .conftest import TOYS
from .test_cli import Shell, shell

__all__ = ["shell"]  # a fixture

DECLARED = """
name = "farm"
executor = "inline"

[datasets.harvests]
key = ["id"]
time = "day"

[models.kg]
source = "harvests"
target = "kg"
trainer = "toys:Repeat"
series = {h = 3, freq = "MS"}
partition_by = ["fruit", "town"]
rollups = [["fruit"]]
"""


@pytest.fixture
def farm(tmp_path, monkeypatch, shell: Shell):
    shutil.copy(TOYS, tmp_path / "toys.py")
    (tmp_path / "evertrain.toml").write_text(DECLARED)
    days = pd.date_range("2023-01-01", periods=36, freq="MS")
    rows = [f"{f}-{t}-{i},{f},{t},{d:%Y-%m-%d},{100 + i % 12}" for f in "AB" for t in "XY" for i, d in enumerate(days)]
    (tmp_path / "rows.csv").write_text("id,fruit,town,day,kg\n" + "\n".join(rows) + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    shell.ok("ingest", "harvests", "rows.csv")
    shell.ok("trigger", "kg")
    return shell


def test_a_forecast_is_a_table_with_its_intervals_and_where_it_comes_from(farm):
    answer = farm.ok("forecast", "kg", "-p", "fruit=A,town=X", "--level", "80")
    said = answer.out
    assert "kg 1.0.0: A, X, 3 periods of MS after 2025-12-01" in said
    assert "2026-01-01  100       89.9 to 110.1" in said
    assert "periods have ended since the last one it has seen." in said
    assert answer.following.endswith("why kg")


def test_a_rollup_and_more_periods_are_asked_for_alike(farm):
    said = farm.ok("forecast", "kg", "-p", "fruit=A", "--h", "14", "--level", "50").out
    assert "kg 1.0.0: A, Overall, 14 periods of MS after 2025-12-01" in said
    assert "2027-02-01" in said


def test_a_file_and_a_picture_are_written(farm, tmp_path):
    said = farm.ok("forecast", "kg", "-p", "fruit=A,town=X", "--csv", "out.csv", "--plot", "out.png").out
    assert "Written to out.csv" in said
    assert list(pd.read_csv(tmp_path / "out.csv").columns) == [
        "unique_id",
        "ds",
        "mean",
        "lo-80",
        "hi-80",
        "lo-95",
        "hi-95",
    ]
    assert (tmp_path / "out.png").read_bytes()[:4] == b"\x89PNG"


def test_a_partition_named_like_a_formula_is_text_in_a_spreadsheet(farm, tmp_path):
    """A-39"""
    (tmp_path / "more.csv").write_text(
        "id,fruit,town,day,kg\n" + "".join(f"e{i},=1+1,X,2025-{i:02d}-01,5\n" for i in range(1, 13))
    )
    farm.ok("ingest", "harvests", "more.csv")
    farm.ok("trigger", "kg")
    farm.ok("forecast", "kg", "-p", '{"fruit":"=1+1","town":"X"}', "--csv", "out.csv")
    assert pd.read_csv(tmp_path / "out.csv")["unique_id"][0] == "'=1+1, X"


def test_json_carries_version_age_and_fallback(farm):
    found = farm.ok("forecast", "kg", "-p", "fruit=A,town=Z", "--json").json
    assert (found["version"], found["as_of"], found["answered_by"]) == ("1.0.0", "2025-12-01", "A, Overall")
    assert found["fallback"] == "A, Z has no model of its own; A, Overall answers"
    assert len(found["mean"]) == len(found["lo-95"]) == 3


def test_rows_that_no_partition_holds_get_a_forecast_of_their_own(farm):
    said = farm.ok("forecast", "kg", "--where", "town=X").out
    assert "kg: rows where town=X, 3 periods of MS after 2025-12-01" in said
    assert "made of 72 rows for this question" in said
    assert "kept from an earlier question" in farm.ok("forecast", "kg", "--where", "town=X").out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["kg"], "kg forecasts fruit=… and fruit=…, town=…; not everything together"),
        (["kg", "-p", "colour=red"], "allowed: fruit=…,town=…, or Overall"),
        (["kg", "-p", "fruit=Q"], "no model yet for Q, Overall"),
        (["kg", "--where", "town"], "column=value"),
        (["kg", "--where", "town=Q"], "0 rows have town=Q; a forecast of their own needs 10"),
        (["kg", "-p", "fruit=A", "--where", "town=X"], "and not both"),
        (["kg", "-p", "fruit=A", "--plot", "out.exe"], "a file name that ends in .png or .svg"),
        (["kg", "-p", "fruit=A", "--h", "0"], "greater than or equal to 1"),
        (["nothing"], "nothing"),
    ],
)
def test_what_cannot_be_answered_says_what_can(farm, arguments, said):
    answer = farm("forecast", *arguments)
    assert answer.code
    assert said in answer.err
