"""Datasets from the command line: bring rows in, see what came, take it back, write it out."""

from __future__ import annotations

import json
import shutil

import pytest

from .conftest import TOYS
from .test_cli import Shell, shell

__all__ = ["shell"]  # a fixture

DECLARED = """
name = "farm"
executor = "inline"

[datasets.harvests]
key = ["id"]

[models.kg]
source = "harvests"
target = "y"
features = ["x"]
trainer = "toys:Line"
partition_by = ["town"]
min_samples = 5
triggers = [{kind = "data_change", quiet = "0s"}]
"""


@pytest.fixture
def farm(tmp_path, monkeypatch):
    shutil.copy(TOYS, tmp_path / "toys.py")
    (tmp_path / "evertrain.toml").write_text(DECLARED)
    lines = [f"{i},T{i % 2},{i}.5,{2 * i}" for i in range(40)]
    (tmp_path / "first.csv").write_text("id,town,x,y\n" + "\n".join(lines) + "\n")
    (tmp_path / "second.csv").write_text("id,town,x,y\n0,T0,0.5,77\n100,T0,1.5,3\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_file_comes_in_is_listed_taken_back_and_written_out(shell: Shell, farm):
    first = shell.ok("ingest", "harvests", "first.csv")
    assert "Batch 1 of harvests: 40 added; version 1." in first.out
    assert first.following == "evertrain start --detach"
    second = shell.ok("ingest", "harvests", "second.csv")
    assert "1 added, 1 updated" in second.out
    assert "Models for T0 and Overall are being updated in the background." in second.out

    listed = shell.ok("batches", "harvests")
    assert "second.csv" in listed.out
    assert listed.following == "evertrain undo harvests 2"
    undone = shell.paste(listed)
    assert (undone.code, "Undone batch 2" in undone.out) == (0, True)

    shell.ok("export", "harvests", "out.csv")
    assert sorted((farm / "out.csv").read_text().split()) == sorted((farm / "first.csv").read_text().split())
    shell.ok("export", "harvests", "older.csv", "--version", "2")
    assert len((farm / "older.csv").read_text().splitlines()) == 42


def test_taking_a_batch_back_names_what_was_trained_on_it_and_what_serves_instead(shell: Shell, farm):
    """P-36"""
    shell.ok("ingest", "harvests", "first.csv")
    shell.ok("trigger", "kg")
    (farm / "steep.csv").write_text("id,town,x,y\n" + "".join(f"{i},T0,{i}.5,{2.1 * i:.1f}\n" for i in range(0, 40, 2)))
    shell.ok("ingest", "harvests", "steep.csv")
    shell.ok("trigger", "kg", "-p", "town=T0")

    undone = shell.ok("undo", "harvests", "2")

    assert "Trained on it: kg 1.1.0 of T0; kg 1.1.0 of Overall." in undone.out
    assert "Rolled back until clean models are trained: kg of T0 to 1.0.0" in undone.out
    assert undone.following == "evertrain plan"


def test_a_row_is_erased_after_a_yes_only(shell: Shell, farm):
    shell.ok("ingest", "harvests", "first.csv")
    shell.ok("trigger", "kg")

    refused = shell("erase", "harvests", "id=4")
    assert (refused.code, "--yes" in refused.err) == (2, True)
    assert "id is 'four'; allowed: integer" in shell("erase", "harvests", "id=four", "--yes").err
    assert "column is 'ID'; allowed: id, town" in shell("erase", "harvests", "ID=4", "--yes").err
    assert shell("erase", "harvests", "id=444", "--yes").code == 3

    erased = shell.ok("erase", "harvests", "id=4", "--yes")
    assert "1 removed" in erased.out
    assert "Trained on it: kg 1.0.0 of T0; kg 1.0.0 of Overall." in erased.out
    assert shell.paste(erased).code == 0


def test_the_same_request_again_is_told_and_changes_nothing(shell: Shell, farm):
    """P-09"""
    shell.ok("ingest", "harvests", "first.csv", "--token", "a")
    again = shell.ok("ingest", "harvests", "first.csv", "--token", "a", "--json").json

    assert (again["number"], again["again"], again["version"]) == (1, True, 1)
    refused = shell("ingest", "harvests", "second.csv", "--token", "a")
    assert refused.code != 0
    assert "was used for batch 1" in refused.err


def test_what_cannot_be_used_is_refused_with_its_line(shell: Shell, farm):
    """S4-03: nothing is kept, the sentence names the line."""
    (farm / "bad.csv").write_text("id,town,x,y\n1,T0,0.5,1\n2,T0,much\n")
    refused = shell("ingest", "harvests", "bad.csv")

    assert refused.code != 0
    assert "line 3" in refused.err
    empty = shell.ok("batches", "harvests")
    assert "holds no rows yet" in empty.out
    assert empty.following == "evertrain ingest harvests FILE.csv"


def test_a_refused_file_names_the_report_of_all_its_bad_rows(shell: Shell, farm):
    """S4-03, A-39: the report lists each with its line; nothing in it is a formula to a spreadsheet."""
    shell.ok("ingest", "harvests", "first.csv")
    (farm / "bad.csv").write_text('id,town,x,y\n1,T0,=1+1,1\n2,T0,much,-5\n3,T0,"a, b",-5\n')
    refused = shell("ingest", "harvests", "bad.csv")

    (path,) = (farm / ".evertrain/reports").iterdir()
    assert f"All of them are listed in {path}" in refused.err.replace("\n", "")
    assert f"Next: less {path}" in refused.err
    assert path.read_text() == (
        'line,column,value,problem\n2,x,\'=1+1,not a number\n3,x,much,not a number\n4,x,"a, b",not a number\n'
    )
    assert path.stat().st_mode & 0o777 == 0o600
    shell("ingest", "harvests", "bad.csv")
    assert [path] == list((farm / ".evertrain/reports").iterdir())


def test_old_reports_and_more_than_fifty_of_them_make_room(shell: Shell, farm):
    import os
    import time

    folder = farm / ".evertrain/reports"
    shell.ok("ingest", "harvests", "first.csv")
    folder.mkdir()
    for number in range(60):
        (folder / f"{number:02}.csv").write_text("x")
        os.utime(folder / f"{number:02}.csv", (time.time() - 100 + number,) * 2)
    os.utime(folder / "59.csv", (time.time() - 31 * 86400,) * 2)
    (farm / "bad.csv").write_text("id,town,x,y\n1,T0,much,1\n")
    shell("ingest", "harvests", "bad.csv")

    left = {path.name for path in folder.iterdir()}
    assert len(left) == 50
    assert "59.csv" not in left
    assert "58.csv" in left


@pytest.mark.parametrize(
    "words", [["ingest", "harvest", "first.csv"], ["batches", "rows"], ["export", "harvest", "x.csv"]]
)
def test_an_unknown_dataset_lists_those_there_are(shell: Shell, farm, words):
    answer = shell(*words)
    assert answer.code != 0
    assert "allowed: harvests" in answer.err


def test_a_file_that_is_not_there_or_of_no_kind_is_told(shell: Shell, farm):
    (farm / "rows.xlsx").write_text("x")
    assert "nothing.csv" in shell("ingest", "harvests", "nothing.csv").err
    assert ".csv, .txt, .tsv, .parquet" in shell("ingest", "harvests", "rows.xlsx").err
    assert ".csv or .parquet" in shell("export", "harvests", "out.xlsx").err


def test_predictions_are_never_written_over_a_source_nor_lost_at_the_end(shell: Shell, tmp_path, monkeypatch):
    shutil.copy(TOYS, tmp_path / "toys.py")
    (tmp_path / "rows.csv").write_text("x,y\n" + "".join(f"{i},{2 * i}\n" for i in range(40)))
    (tmp_path / "evertrain.toml").write_text(
        'name = "p"\nexecutor = "inline"\n[sources.rows]\npath = "rows.csv"\n'
        '[models.line]\nsource = "rows"\ntarget = "y"\ntrainer = "toys:Line"\nmin_samples = 10\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    shell.ok("trigger", "line")
    before = (tmp_path / "rows.csv").read_bytes()

    assert "this is the source rows" in shell("predict", "line", "--data", "rows.csv", "--out", "rows.csv").err
    assert "a folder that exists" in shell("predict", "line", "--data", "rows.csv", "--out", "nowhere/x.csv").err
    assert (tmp_path / "rows.csv").read_bytes() == before
    (tmp_path / "none.csv").write_text("x\n")
    assert "0 predictions written" in shell.ok("predict", "line", "--data", "none.csv", "--out", "out.csv").out


def test_a_plan_is_looked_at_before_it_is_asked_for(shell: Shell, farm):
    """S0-19: of a partition with what stands above it, and of the whole model; and what status counts afterwards."""
    shell.ok("ingest", "harvests", "first.csv")
    shell.ok("trigger", "kg")
    one = shell.ok("plan", "kg", "--partition", "town=T0")
    assert "2 of 3 (1 + 1 above)" in one.out
    assert one.following == "evertrain trigger kg --partition town=T0"
    whole = json.loads(shell.ok("plan", "kg", "--full", "--json").out)[0]
    assert (whole["kind"], whole["leaves"], whole["rollups"], whole["causes"]) == ("full", 2, 1, {"manual": 3})
    assert whole["wall_s"] == whole["estimate_s"] > 0
    assert shell.ok("plan", "kg", "--full").following == "evertrain trigger kg"
    assert "Nothing new is due." in shell.ok("plan").out
    assert "allowed: the name of a model" in shell("plan", "--full").err
    assert "Fell back" not in shell.ok("status").out
