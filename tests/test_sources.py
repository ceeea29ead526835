"""Sources from look to training: what makes a partition due, what does not, and what is said of unusable rows."""

from __future__ import annotations

import json
import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest

from evertrain import CsvFile, Custom, Function, ParquetFile, Project, SqlQuery, on_data_change, sql_table
from evertrain.control import ask
from evertrain.errors import DataError
from evertrain.sources import read

from .conftest import line_model, write_rows
from .test_triggers import Monitor, Watch, declaring, watch

__all__ = ["watch"]  # a fixture

PROMOTED = ("", "data_change", "promoted")


def from_source(source: object, **options: object) -> object:
    def declare(project: Project) -> None:
        project.source("rows", source)  # type: ignore[arg-type]
        line_model(project, **options)

    return declare


def ages(monitor: Monitor) -> int:
    """Return how many items there ever were."""
    return len(monitor.fits())


# --- what is news, and what is not ------------------------------------------------------------------------------


def test_an_appended_line_makes_its_partition_and_the_rollup_due_and_nothing_else(watch: Watch, folder: Path) -> None:
    """S0-01, S2-07: the affected models only."""
    write_rows(folder / "rows.csv", towns=3)
    monitor = watch(declaring(partition_by="town"))
    monitor.settle()
    assert sorted(monitor.fits()) == [(town, "declaration", "promoted") for town in ("", "T00", "T01", "T02")]

    with (folder / "rows.csv").open("a") as file:
        file.write("T01,7.25,14.5\n")
    monitor.check()

    assert monitor.fits()[4:] == [("T01", "data_change", "promoted"), PROMOTED]
    assert re.search(r"rows\.csv .*1 of 3 towns", monitor.reason())


def test_an_edited_row_that_moves_makes_its_old_and_its_new_partition_due(watch: Watch, folder: Path) -> None:
    """S0-17: an edit that moves a record concerns both."""
    write_rows(folder / "rows.csv", towns=3)
    monitor = watch(declaring(partition_by="town"))
    monitor.settle()

    text = (folder / "rows.csv").read_text()
    (folder / "rows.csv").write_text(text.replace("T00,3.5,6.0", "T02,3.5,6.0"))
    monitor.check()

    assert {key for key, *_ in monitor.fits()[4:]} == {"T00", "T02", ""}


@pytest.mark.parametrize("write", ["touch", "same text again", "other order", "line ends", "floats"])
def test_a_file_that_is_written_with_the_same_rows_trains_nothing(watch: Watch, folder: Path, write: str) -> None:
    path = folder / "rows.csv"
    write_rows(path)
    monitor = watch()
    monitor.settle()

    text = path.read_text()
    header, *lines = text.splitlines()
    written = {
        "touch": text,
        "same text again": text,
        "other order": "\n".join([header, *reversed(lines)]) + "\n",
        "line ends": text.replace("\n", "\r\n"),
        "floats": text.replace(".0\n", ".00\n"),
    }[write]
    path.write_bytes(written.encode())
    os.utime(path, ns=(1, 10**18))
    monitor.check()

    assert len(monitor.fits()) == 1
    assert not monitor.last().fired
    assert re.search(r"rows\.csv .*60 rows are the same; 1\.0\.0 keeps serving", monitor.reason())


def test_a_file_replaced_by_rename_is_seen_with_its_old_size_and_time(watch: Watch, folder: Path) -> None:
    path = folder / "rows.csv"
    write_rows(path)
    monitor = watch()
    monitor.settle()
    before = path.stat()

    write_rows(folder / "new.csv", offset=1)
    (folder / "new.csv").write_text((folder / "new.csv").read_text().ljust(before.st_size, "\n"))
    assert (folder / "new.csv").stat().st_size >= before.st_size
    os.utime(folder / "new.csv", ns=(before.st_atime_ns, before.st_mtime_ns))
    (folder / "new.csv").replace(path)
    monitor.check()

    assert monitor.fits()[1:] == [PROMOTED]


def test_rows_that_come_back_to_what_was_trained_on_are_known(watch: Watch, folder: Path) -> None:
    path = folder / "rows.csv"
    write_rows(path, towns=2)
    monitor = watch(declaring(partition_by="town", auto="observe"))
    monitor.settle()
    before = path.read_text()
    assert monitor.project.spec.models["line"].auto == "observe"

    path.write_text(before + "T00,1,2\n")
    monitor.check()
    assert monitor.last().fired
    path.write_text(before)
    monitor.check()

    assert not monitor.last().fired
    assert monitor.last().code == "known"


def test_a_partition_that_appears_is_trained_and_one_that_goes_is_retired(watch: Watch, folder: Path) -> None:
    path = folder / "rows.csv"
    write_rows(path, towns=2)
    monitor = watch(declaring(partition_by="town"))
    monitor.settle()

    text = path.read_text()
    path.write_text(text + "".join(f"T09,{i},{2 * i}\n" for i in range(20)))
    monitor.check()
    assert {key for key, *_ in monitor.fits()[3:]} == {"T09", ""}
    assert "1 partition appeared" in monitor.reason()

    path.write_text(text)
    monitor.check()
    assert [key for key, *_ in monitor.fits()[5:]] == [""]
    assert monitor.rows("SELECT state FROM partitions WHERE key LIKE '%T09%'")[0].state == "retired"
    assert "1 partition lost all rows" in monitor.reason()


def test_a_half_written_line_is_waited_for_and_then_set_aside(
    watch: Watch, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "rows.csv"
    write_rows(path)
    whole = path.read_text()
    path.write_text(whole + "99.5")
    naps: list[float] = []

    def finish(seconds: float) -> None:
        naps.append(seconds)
        path.write_text(whole + "99.5,199.0\n")

    monkeypatch.setattr("evertrain.executors.reading.time.sleep", finish)
    monitor = watch()
    monitor.settle()
    assert naps
    assert monitor.rows("SELECT rows FROM partitions")[0].rows == 61

    # one that is never finished is set aside
    path.write_text(whole + "99.5")
    monkeypatch.setattr("evertrain.executors.reading.time.sleep", naps.append)
    monitor.check()
    assert monitor.rows("SELECT rows FROM partitions")[0].rows == 60
    assert re.search(r"line 62.*set aside", monitor.reason())


def test_a_file_that_keeps_changing_while_it_is_read_is_not_used(
    watch: Watch, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "rows.csv"
    write_rows(path)
    monitor = watch()
    monitor.settle()
    reading = read.read

    def restless(*args: object, **kwargs: object) -> object:
        found = reading(*args, **kwargs)  # type: ignore[arg-type]
        with path.open("a") as file:
            file.write("1,2\n")
        return found

    monkeypatch.setattr(read, "read", restless)
    monkeypatch.setattr("evertrain.executors.reading.time.sleep", lambda _: None)
    path.write_text("x,y\n1,2\n")
    monitor.settle("rows")
    assert "kept changing while it was read" in monitor.reason()
    assert ages(monitor) == 1

    # once it lies still it is read and used
    monkeypatch.setattr(read, "read", reading)
    write_rows(path, 70)
    monitor.check()
    assert ages(monitor) == 2


# --- unusable rows and files ------------------------------------------------------------------------------------


def test_a_line_that_is_no_row_is_set_aside_in_words_and_trains_nothing(watch: Watch, folder: Path) -> None:
    """S2-07 with `echo "new_data" >>`, as decided in 4.6 (28)."""
    path = folder / "rows.csv"
    write_rows(path)
    monitor = watch()
    monitor.settle()

    with path.open("a") as file:
        file.write("new_data\n")
    monitor.check()

    assert ages(monitor) == 1
    assert not monitor.last().fired
    assert re.search(r"rows\.csv line 62: .*1 of 2 columns.*new_data.*set aside", monitor.reason())
    assert "1.0.0 keeps serving" in monitor.reason()


def test_wrong_cells_are_set_aside_by_column_beside_rows_that_are_trained_on(watch: Watch, folder: Path) -> None:
    path = folder / "rows.csv"
    write_rows(path)
    monitor = watch()
    monitor.settle()

    with path.open("a") as file:
        file.write("hot,5\n2.5,5\n")
    monitor.check()

    assert monitor.fits()[1:] == [PROMOTED]
    assert re.search(r"line 62: x is 'hot', not a number.*set aside", monitor.reason())


@pytest.mark.parametrize(
    ("rows", "bad", "used"), [(200, 10, True), (200, 11, False), (2000, 20, True), (2000, 22, False)]
)
def test_up_to_ten_rows_or_one_per_cent_are_set_aside(
    watch: Watch, folder: Path, rows: int, bad: int, used: bool
) -> None:
    path = folder / "rows.csv"
    write_rows(path, rows)
    monitor = watch()
    monitor.settle()

    with path.open("a") as file:
        file.write("1.5,2.5\n" + "only one\n" * bad)
    monitor.check()

    assert ages(monitor) == (2 if used else 1)
    if not used:
        assert re.search(rf"{bad} of [\d,]+ rows cannot be used, \d+ may be set aside: line", monitor.reason())
        assert "1.0.0 keeps serving" in monitor.reason()


PROBLEMS = {
    "missing": (None, "rows.csv is missing"),
    "empty": ("", "rows.csv: the file is empty"),
    "header only": ("x,y\n", "rows.csv"),
    "no target": ("x,z\n" + "1,2\n" * 60, "column 'y', the target of line, is missing; there are x, z"),
    "too few": ("x,y\n" + "".join(f"{i},{i}\n" for i in range(37)), "Insufficient samples: 37 < 50"),
    "shrunk": ("x,y\n" + "".join(f"{i},{i}\n" for i in range(40)), "rows.csv fell from 100 to 40 usable rows (-60 %)"),
    "unclosed quote": ("x,y\n" + "1,2\n" * 60 + '1,"2\n', "is never closed"),
    "NUL": ("x,y\n1,2\n\0\0\n", "line 3 holds a NUL character"),
    "twice": ("x,y,y\n1,2,3\n", "has 'y' more than once"),
    "no name": ("x,y,\n1,2,3\n", "column 3 of 3 has no name"),
    "text": ("x,y\n" + "hot,cold\n" * 100, "rows cannot be used"),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_an_unusable_file_is_a_decision_that_says_so_and_nothing_is_lost(
    watch: Watch, folder: Path, problem: str
) -> None:
    """S2-11, S2-35, S1-15, S2-30: the champion serves on, and other models are not concerned."""
    path, (text, said) = folder / "rows.csv", PROBLEMS[problem]
    write_rows(path, 100 if problem == "shrunk" else 60)
    write_rows(folder / "other.csv")

    def declare(project: Project) -> None:
        line_model(project, min_samples=10 if problem == "shrunk" else 50)
        project.source("other", CsvFile("other.csv"))
        project.model("other", "other", target="y", trainer=Custom("toys:Line"), min_samples=10)

    monitor = watch(declare)
    monitor.settle()
    path.unlink()
    if text is not None:
        path.write_text(text)
    write_rows(folder / "other.csv", 61)
    monitor.check()

    # the decision says what is wrong, the champion serves on
    assert ages(monitor) == 1
    assert not monitor.last().fired
    assert said in monitor.reason()
    assert "1.0.0 keeps serving" in monitor.reason()
    assert monitor.project.predictor("line").predict({"x": [4.5]}).tolist() == pytest.approx([8.0])
    # the other model is monitored as before
    assert monitor.fits("other")[1:] == [PROMOTED]

    # and when the file is well again, so is the model
    write_rows(path, 110)
    monitor.check()
    assert monitor.fits()[1:] == [PROMOTED]


def test_an_unusable_file_is_said_once_however_often_it_is_looked_at(watch: Watch, folder: Path) -> None:
    path = folder / "rows.csv"
    write_rows(path)
    monitor = watch()
    monitor.settle()

    path.write_text("x,z\n" + "1,2\n" * 60)
    for _ in range(5):
        monitor.check()

    assert [one.code for one in monitor.decisions(rule="data_change")].count("unusable") == 1
    assert len(monitor.rows("SELECT 1 FROM events WHERE kind = 'source.failed'")) == 1


def test_a_missing_file_that_comes_back_unchanged_is_no_news(watch: Watch, folder: Path) -> None:
    path = folder / "rows.csv"
    write_rows(path)
    monitor = watch()
    monitor.settle()

    path.rename(folder / "away.csv")
    monitor.check()
    (folder / "away.csv").rename(path)
    monitor.check()

    assert ages(monitor) == 1
    with monitor.opened.store.read() as tx:
        assert tx.row("SELECT problem FROM sources").problem is None


def test_a_model_whose_file_was_never_there_waits_for_it(watch: Watch, folder: Path) -> None:
    monitor = watch()
    monitor.settle()
    assert "rows.csv is missing" in monitor.reason()

    write_rows(folder / "rows.csv")
    monitor.check()

    assert [state for *_, state in monitor.fits()][-1] == "promoted"


def test_a_shrunk_file_is_accepted_with_force(watch: Watch, folder: Path) -> None:
    path = folder / "rows.csv"
    write_rows(path, 100)
    monitor = watch()
    monitor.settle()
    write_rows(path, 30)
    monitor.check()
    assert ages(monitor) == 1

    monitor.force("line")

    assert monitor.fits()[1] == ("", "manual", "promoted")
    assert [state for *_, state in monitor.fits()].count("promoted") == 2
    assert monitor.rows("SELECT rows FROM partitions")[0].rows == 30


def test_a_shrunk_file_is_not_accepted_by_asking_without_force(watch: Watch, folder: Path) -> None:
    path = folder / "rows.csv"
    write_rows(path, 100)
    monitor = watch()
    monitor.settle()
    write_rows(path, 30)
    monitor.check()

    ask.trigger(monitor.opened, "line", actor="ann")
    monitor.settle()

    assert monitor.fits()[1:] == [("", "manual", "failed")]


def test_a_model_whose_target_was_never_there_says_so_and_comes_to_rest(watch: Watch, folder: Path) -> None:
    write_rows(folder / "rows.csv")
    monitor = watch(declaring(target="z"))

    monitor.settle()

    assert "column 'z', the target of line, is missing; there are x, y" in monitor.reason()
    assert [state for *_, state in monitor.fits()] == ["failed"]


def test_too_few_rows_at_first_are_no_failure_and_enough_rows_begin_the_model(watch: Watch, folder: Path) -> None:
    """S1-15: a warning and a skip, word for word."""
    path = folder / "rows.csv"
    write_rows(path, 37)
    monitor = watch(declaring(min_samples=50))
    monitor.settle()
    monitor.check()
    assert [state for *_, state in monitor.fits()] in ([], ["skipped"])
    assert monitor.rows("SELECT outcome_reason FROM partitions")[0][0] == "Insufficient samples: 37 < 50"

    write_rows(path, 50)
    monitor.check()

    assert monitor.fits()[-1][2] == "promoted"


# --- hostile content --------------------------------------------------------------------------------------------

ROWS = "".join(f"{i}.5,{2 * i}.0\n" for i in range(60))
HOSTILE = {
    "BOM": b"\xef\xbb\xbfx,y\n" + ROWS.encode(),
    "UTF-16": ("\ufeffx,y\n" + ROWS).encode("utf-16-le"),
    "CRLF": ("x,y\n" + ROWS).replace("\n", "\r\n").encode(),
    "CR": ("x,y\n" + ROWS).replace("\n", "\r").encode(),
    "quotes": ('"x","y"\n' + re.sub(r"([^,\n]+)", r'"\1"', ROWS)).encode(),
    "semicolons": ("x,y\n" + ROWS).replace(",", ";").encode(),
    "1e400": ("x,y\n" + ROWS + "1e400,1\n").encode(),
    "nan and inf": ("x,y\n" + ROWS + "inf,1\n-Infinity,1\n1_000,1\n").encode(),
    "ragged": ("x,y\n" + ROWS + "1,2,3\n,,,,\n").encode(),
    "no target": ("x,y\n" + ROWS + "1,\n2,NA\n").encode(),
    "blank lines": ("\n\nx,y\n\n" + ROWS + "\n\n\n").encode(),
}


@pytest.mark.parametrize("content", HOSTILE)
def test_hostile_rows_train_the_model_of_the_usable_ones(watch: Watch, folder: Path, content: str) -> None:
    """A-36, A-37."""
    (folder / "rows.csv").write_bytes(HOSTILE[content])
    monitor = watch()

    monitor.settle()

    assert monitor.rows("SELECT rows FROM partitions")[0].rows == 60
    assert monitor.project.predictor("line").predict({"x": [4.5]}).tolist() == pytest.approx([8.0])


@pytest.mark.parametrize("cell", ["9" * 400, "1e400", "nan", "0x10", "=1+1", "+1+1", "\u0661\u0662", "1_000"])
def test_a_cell_that_is_no_number_here_is_set_aside_once_the_column_is_known(
    watch: Watch, folder: Path, cell: str
) -> None:
    """A-37, A-39: never a number by another grammar, never the cause of a training."""
    path = folder / "rows.csv"
    write_rows(path)
    monitor = watch(from_source(CsvFile("rows.csv", null=[])))
    monitor.settle()

    with path.open("a") as file:
        file.write(f"{cell},1.5\n")
    monitor.check()

    assert ages(monitor) == 1
    assert re.search("line 62: x is .*, not a number.*set aside", monitor.reason())


def test_bytes_that_are_no_utf8_are_refused_by_line_and_read_as_declared(watch: Watch, folder: Path) -> None:
    text = "town,x,y\n" + "".join(f"Málaga,{i},{2 * i}\n" for i in range(60))
    (folder / "rows.csv").write_bytes(text.encode("cp1252"))
    monitor = watch(declaring(partition_by="town"))
    monitor.settle()
    assert re.search(r"rows\.csv: line 2 holds byte 0xe1.*encoding='cp1252'", monitor.reason())

    other = watch(from_source(CsvFile("rows.csv", encoding="cp1252"), partition_by="town"), store="sqlite:///other.db")
    other.settle()
    assert {key for key, *_ in other.fits()} == {"Málaga", ""}


VALUES = ["../x", "..", "/etc/passwd", "🍌 Ω", "=cmd|' /C calc'!A0", "@SUM(1)", "None", "NaN ", "null", "1", "a,b", 'q"q',
    "\x1b[2J", "two\nlines", "'; DROP TABLE runs; --", "%2e%2e%2f", "x" * 300, "<script>", "{}", "T\u202e00"]  # fmt: skip


def test_partition_values_are_data_and_never_paths_or_commands(watch: Watch, folder: Path) -> None:
    """A-20, A-39: every value makes its own partition, and no file outside of the project's own folders."""
    frame = pl.DataFrame(
        [{"town": value, "x": float(i), "y": 2.0 * i + place} for place, value in enumerate(VALUES) for i in range(12)]
    )
    frame.write_csv(folder / "rows.csv")
    before = {path.name for path in folder.parent.iterdir()}
    monitor = watch(from_source(CsvFile("rows.csv", null=[]), partition_by="town"))

    monitor.settle()

    assert {key for key, *_ in monitor.fits()} == {*VALUES, ""}
    assert {state for *_, state in monitor.fits()} == {"promoted"}
    predictor = monitor.project.predictor("line")
    for place, value in enumerate(VALUES):
        asked = {"x": [3.0], "town": [value]}
        assert predictor.predict(asked).tolist() == pytest.approx([6.0 + place]), value
    assert {path.name for path in folder.parent.iterdir()} == before
    named = [path.name for path in folder.rglob("*")]
    assert not [name for name in named if any(value in name for value in VALUES if len(value) > 3)]
    assert "\x1b" not in monitor.reason()


@pytest.mark.parametrize(
    ("cells", "keys"),
    [
        (["1", "1.0", "1"], ["1"]),  # one number, however it is written
        (["1", "2", ""], ["None", "1", "2"]),  # a missing value is a key of its own
        (["a", "1", "1.0"], ["1", "1.0", "a"]),  # among texts each is itself
        (["a", "None", ""], ["None", "None", "a"]),  # the text None is not the missing value
        (["a", "NaN", "nan"], ["NaN", "a", "nan"]),
        (["a", "A", " a"], [" a", "A", "a"]),
        (["é", "e\u0301", "z"], ["e\u0301", "z", "é"]),
    ],
)
def test_equal_values_are_one_partition_and_others_are_others(
    watch: Watch, folder: Path, cells: list[str], keys: list[str]
) -> None:
    lines = [f"{cell},{i},{2 * i}" for cell in cells for i in range(12)]
    (folder / "rows.csv").write_text("\n".join(["town,x,y", *lines]) + "\n")
    monitor = watch(declaring(partition_by="town"))

    monitor.settle()

    assert sorted(key for key, *_ in monitor.fits() if key != "") == sorted(keys)
    assert {state for *_, state in monitor.fits()} == {"promoted"}


def test_a_column_named_as_our_own_is_refused(watch: Watch, folder: Path) -> None:
    (folder / "rows.csv").write_text("x,y,__side__\n" + "1,2,3\n" * 60)
    monitor = watch()
    monitor.settle()
    assert "'__side__'" in monitor.reason()


# --- other kinds of sources -------------------------------------------------------------------------------------


def test_a_parquet_file_is_watched_as_a_csv_file_is(watch: Watch, folder: Path) -> None:
    path = folder / "rows.parquet"
    frame = pl.DataFrame({"town": ["A", "B"] * 30, "x": [float(i) for i in range(60)]}).with_columns(y=2 * pl.col("x"))
    frame.write_parquet(path)
    monitor = watch(from_source(ParquetFile("rows.parquet"), partition_by="town"))
    monitor.settle()
    assert sorted(monitor.fits()) == [(key, "declaration", "promoted") for key in ("", "A", "B")]

    frame.reverse().write_parquet(path)
    monitor.check()
    assert ages(monitor) == 3

    pl.concat([frame, frame[:1]]).write_parquet(path)
    monitor.check()
    assert {key for key, *_ in monitor.fits()[3:]} == {"A", ""}

    path.write_bytes(path.read_bytes()[:100])
    monitor.check()
    assert "rows.parquet is no usable Parquet file" in monitor.reason()
    assert ages(monitor) == 5


@pytest.fixture
def shop(folder: Path) -> Path:
    path = folder / "shop.db"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE sales(id INTEGER PRIMARY KEY, town TEXT, x REAL, y REAL)")
        database.executemany(
            "INSERT INTO sales(town, x, y) VALUES (?, ?, ?)", [("AB"[i % 2], float(i), 2.0 * i) for i in range(60)]
        )
    return path


def change(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(statement)


@pytest.mark.parametrize("probe", [None, "select max(id), count(*) from sales"])
def test_a_table_is_watched_by_rows_or_by_its_probe(watch: Watch, shop: Path, probe: str | None) -> None:
    source = sql_table("sqlite:///shop.db", "sales", key=["id"], probe=probe)
    monitor = watch(from_source(source, partition_by="town"))
    monitor.settle()
    assert sorted(monitor.fits()) == [(key, "declaration", "promoted") for key in ("", "A", "B")]

    monitor.check()
    assert ages(monitor) == 3
    change(shop, "INSERT INTO sales(town, x, y) VALUES ('B', 3, 6)")
    monitor.check()
    assert {key for key, *_ in monitor.fits()[3:]} == {"B", ""}


def test_a_query_reads_what_it_says_and_can_change_nothing(watch: Watch, shop: Path) -> None:
    monitor = watch(from_source(SqlQuery("sqlite:///shop.db", "select x, y from sales where town = 'A'")))
    monitor.settle()
    assert monitor.rows("SELECT rows FROM partitions")[0].rows == 30

    hostile = watch(from_source(SqlQuery("sqlite:///shop.db", "delete from sales")), store="sqlite:///other.db")
    hostile.settle()
    assert "readonly" in hostile.reason()
    with closing(sqlite3.connect(shop)) as database:
        assert database.execute("SELECT count(*) FROM sales").fetchone() == (60,)


def test_a_database_that_is_not_there_is_said_and_not_made(watch: Watch, folder: Path) -> None:
    monitor = watch(from_source(sql_table("sqlite:///shop.db", "sales")))
    monitor.settle()
    assert "shop.db is missing" in monitor.reason()
    assert not (folder / "shop.db").exists()


def test_a_password_in_a_variable_is_written_nowhere(
    watch: Watch, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A-64: neither in the decision, nor in the log, nor in any file of the project."""
    monkeypatch.setenv("SHOP_URL", "nosuchdialect://ann:s3cr3t-word@db.example/shop?password=s3cr3t-word")
    monitor = watch(from_source(SqlQuery("env:SHOP_URL", "select * from sales")))
    monitor.settle()
    monitor.check()

    assert "failed" in monitor.reason()
    written = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert b"s3cr3t-word" not in written
    assert "s3cr3t-word" not in caplog.text


def test_an_unset_variable_is_named(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHOP_URL", raising=False)
    monitor = watch(from_source(SqlQuery("env:SHOP_URL", "select 1")))
    monitor.settle()
    assert "SHOP_URL" in monitor.reason()


CALLABLE = """
import pandas as pd
from pathlib import Path

def rows(more=0):
    word = Path("word").read_text() if Path("word").exists() else ""
    if word == "raise":
        raise RuntimeError("the shop is closed")
    if word == "exit":
        raise SystemExit(3)
    if word == "none":
        return None
    n = 60 + more + (10 if word == "more" else 0)
    return pd.DataFrame({"x": [float(i) for i in range(n)], "y": [2.0 * i for i in range(n)]})

def probe():
    return Path("word").read_text() if Path("word").exists() else ""
"""


@pytest.mark.parametrize("probe", [None, "shop_rows:probe"])
def test_a_function_is_a_source_and_its_failures_are_decisions(watch: Watch, folder: Path, probe: str | None) -> None:
    (folder / "shop_rows.py").write_text(CALLABLE)
    monitor = watch(from_source(Function("shop_rows:rows", {"more": 5}, probe=probe)))
    monitor.settle()
    assert monitor.fits() == [("", "declaration", "promoted")]
    assert monitor.rows("SELECT rows FROM partitions")[0].rows == 65

    monitor.check()
    assert ages(monitor) == 1

    for word, said in (("raise", "the shop is closed"), ("none", "NoneType")):
        (folder / "word").write_text(word)
        monitor.check()
        assert said in monitor.reason()
        assert ages(monitor) == 1

    (folder / "word").write_text("more")
    monitor.check()
    assert monitor.fits()[1:] == [PROMOTED]


def test_a_look_refuses_what_is_no_file(folder: Path) -> None:
    """A-22: a folder or a FIFO is no source, and nobody hangs on it."""
    os.mkfifo(folder / "pipe.csv")
    (folder / "folder.csv").mkdir()
    for name in ("pipe.csv", "folder.csv"):
        with pytest.raises(DataError, match=f"{name} is no regular file"):
            read.look(CsvFile(name), folder)


def test_a_quiet_period_of_the_shortest_rule_counts(watch: Watch, folder: Path) -> None:
    write_rows(folder / "rows.csv")

    def declare(project: Project) -> None:
        line_model(project, "slow", triggers=[on_data_change(quiet="60s")])
        line_model(project, "quick", triggers=[on_data_change(quiet="2s")])

    monitor = watch(declare)
    monitor.settle()
    write_rows(folder / "rows.csv", 70)
    start = monitor.clock.now()
    monitor.settle("rows")

    assert (monitor.clock.now() - start).total_seconds() == pytest.approx(2, abs=1)
    assert len(monitor.fits("slow")) == len(monitor.fits("quick")) == 2
    assert json.loads(monitor.last(model="quick").evidence)["rows"] == 70
