"""From a file of rows to a project file: what is guessed, why, and that what is written means what was guessed."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evertrain import errors
from evertrain.control import begin


def guess(folder: Path, header: str, row, rows: int = 200, name: str = "data.csv", **options) -> dict[str, begin.Guess]:
    """Return the guesses about a file of `rows` lines, by what they are about."""
    (folder / name).write_text(header + "\n" + "".join(row(n) + "\n" for n in range(rows)))
    found = begin.guess(folder / name, folder, **options)
    return {one.what: one for one in found.guesses} | {"": begin.Guess("", found.name, found.text)}


def day(n: int, step: int = 1) -> str:
    from datetime import date, timedelta

    return str(date(2026, 1, 1) + timedelta(days=n * step))


@pytest.mark.parametrize(
    ("header", "target"),
    [
        ("a,price,b", "price"),
        ("Target,a,b", "Target"),
        ("a,b,c", "c"),
        ("sales,a,label", "label"),
        ("id,a,species", "species"),
    ],
)
def test_the_target_is_a_usual_name_or_the_last_column(tmp_path, header, target):
    found = guess(tmp_path, header, lambda n: f"{n},{n * 2},{n % 3}.5")

    assert found["target"].value == target
    assert found["target"].reason


def test_a_named_target_is_taken_and_one_that_is_no_column_is_refused_with_the_columns(tmp_path):
    assert guess(tmp_path, "a,b,c", lambda n: f"{n},1,2", target="a")["target"].reason == "you named it"
    with pytest.raises(errors.ConfigError, match=r"--target is 'd'; allowed: a, b, c"):
        guess(tmp_path, "a,b,c", lambda n: f"{n},1,2", target="d")


@pytest.mark.parametrize(
    ("value", "task"),
    [
        (lambda n: "yes" if n % 2 else "no", "classification"),
        (lambda n: "true" if n % 2 else "false", "classification"),
        (lambda n: str(n % 20), "classification"),
        (lambda n: str(n % 21), "regression"),
        (lambda n: f"{n % 2}.5", "regression"),
    ],
    ids=["texts", "truths", "20 whole numbers", "21 whole numbers", "2 numbers"],
)
def test_the_task_follows_from_the_kind_and_number_of_different_values(tmp_path, value, task):
    found = guess(tmp_path, "x,y", lambda n: f"{n}.5,{value(n)}")

    assert found["task"].value == task
    assert "Classifier" in found[""].reason if task == "classification" else "Regressor" in found[""].reason


@pytest.mark.parametrize(
    ("moment", "frequency"),
    [
        (lambda n: f"2026-01-{1 + n // 24:02d}T{n % 24:02d}:00:00", "hourly"),
        (day, "daily"),
        (lambda n: day(n, 7), "weekly"),
        (lambda n: f"{2000 + n // 12}-{1 + n % 12:02d}-01", "monthly"),
        (lambda n: day(n, 3), None),
    ],
    ids=["hourly", "daily", "weekly", "monthly", "every third day"],
)
def test_the_frequency_follows_from_the_usual_step(tmp_path, moment, frequency):
    found = guess(tmp_path, "at,x,y", lambda n: f"{moment(n)},{n % 7},{n}.5")

    assert found["time"].value == "at"
    assert (found["frequency"].value if "frequency" in found else None) == frequency


def test_a_column_of_equal_days_makes_no_frequency_and_numbers_make_no_time(tmp_path):
    assert "frequency" not in guess(tmp_path, "at,x,y", lambda n: f"2026-01-01,{n},{n}.5")
    assert "time" not in guess(tmp_path, "year,x,y", lambda n: f"{2000 + n},{n},{n}.5")


@pytest.mark.parametrize(
    ("header", "value", "key"),
    [
        ("id,x,y", lambda n: n, "id"),
        ("order_id,x,y", lambda n: f"O{n}", "order_id"),
        ("id,x,y", lambda n: n % 199, None),
        ("id,x,y", lambda n: n or "", None),
        ("id,x,y", lambda n: f"{n}.5", None),
        ("x1,x,y", lambda n: n, None),
    ],
    ids=["whole numbers", "texts", "twice", "missing", "fractions", "other name"],
)
def test_a_key_stands_once_in_every_row_and_is_named_like_one(tmp_path, header, value, key):
    found = guess(tmp_path, header, lambda n: f"{value(n)},{n % 5},{n}.5")

    assert (found["key"].value if "key" in found else None) == key


@pytest.mark.parametrize(("towns", "rows", "offered"), [(4, 200, True), (4, 199, False), (1, 200, False)])
def test_a_partition_is_offered_in_a_comment_and_never_declared(tmp_path, towns, rows, offered):
    found = guess(tmp_path, "town,x,y", lambda n: f"T{n % towns},{n % 5},{n}.5", rows)

    assert ("partition?" in found) == offered
    assert ('# partition_by="town"' in found[""].reason) == offered
    assert not [node for node in ast.walk(ast.parse(found[""].reason)) if getattr(node, "arg", "") == "partition_by"]


@pytest.mark.parametrize(("rows", "least"), [(12, 10), (40, 20), (200, 100), (1000, 100)])
def test_the_least_number_of_rows_is_half_of_them_up_to_a_hundred(tmp_path, rows, least):
    found = guess(tmp_path, "x,y", lambda n: f"{n % 5},{n}.5", rows)

    assert f"min_samples={least}," in found[""].reason


@pytest.mark.parametrize(
    ("file", "name"), [("Sales 2026.csv", "sales_2026"), ("Ünï.csv", "n"), ("---.csv", "model"), ("a.b.csv", "a_b")]
)
def test_a_name_is_made_from_the_file_that_a_model_can_have(tmp_path, file, name):
    assert guess(tmp_path, "x,y", lambda n: f"{n},1.5", name=file)[""].value == name


def test_rows_that_are_set_aside_are_counted_with_the_first_reason(tmp_path):
    found = guess(tmp_path, "x,y", lambda n: f"{n},1.5" if n != 7 else "1,2,3,4")

    assert found["rows"].value == "199"
    assert "1 set aside" in found["rows"].reason


def test_a_parquet_file_is_taken_as_well(tmp_path):
    import polars as pl

    pl.DataFrame({"x": range(50), "y": [n / 2 for n in range(50)]}).write_parquet(tmp_path / "data.parquet")

    found = begin.guess(tmp_path / "data.parquet", tmp_path)

    assert found.target == "y"
    assert 'ParquetFile("data.parquet")' in found.text


def test_a_file_elsewhere_is_named_by_its_whole_path(tmp_path):
    (tmp_path / "shop").mkdir()
    (tmp_path / "data.csv").write_text("x,y\n1,2.5\n2,3.5\n")

    found = begin.guess(tmp_path / "data.csv", tmp_path / "shop")

    assert f'CsvFile("{tmp_path / "data.csv"}")' in found.text


@given(st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=12))
def test_whatever_a_column_is_called_the_project_file_declares_exactly_it(name):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.parquet"
        import polars as pl

        pl.DataFrame({f"x{name}": [1, 2, 3], name: [0.5, 1.5, 2.5]}).write_parquet(path)

        text = begin.guess(path, Path(folder), target=name).text

    (target,) = [node.value for node in ast.walk(ast.parse(text)) if getattr(node, "arg", "") == "target"]
    assert ast.literal_eval(target) == name


def test_the_example_is_python_that_declares_one_model():
    calls = [node for node in ast.walk(ast.parse(begin.EXAMPLE)) if isinstance(node, ast.Call)]

    assert [one.func.attr for one in calls if isinstance(one.func, ast.Attribute)] == ["source", "model"]


# --- what may have been misread ---------------------------------------------------------------------------------


def warned(folder: Path, text: str, **options) -> begin.Guessed:
    (folder / "data.csv").write_text(text)
    return begin.guess(folder / "data.csv", folder, **options)


def lines(header: str, row, rows: int = 60) -> str:
    return header + "\n" + "".join(row(n) + "\n" for n in range(rows))


def test_numbers_with_a_decimal_comma_are_read_and_a_choice_that_is_open_is_told(tmp_path):
    read = warned(tmp_path, lines("size;price", lambda n: f"{n};{n},{n % 10}5"))
    assert (read.target, read.task, read.warnings) == ("price", "regression", [])

    feature = warned(tmp_path, lines("size,sold", lambda n: f'"{n},{n % 10}5",{n}'))
    assert feature.target == "sold"
    assert (
        "column 'size', line 2, has '0,05', in a file whose cells are divided by commas; declare decimal=','"
        in (feature.warnings[0])
    )
    with pytest.raises(errors.ConfigError, match=r"--target is 'price'.*60 different texts.*decimal comma"):
        warned(tmp_path, lines("size,price", lambda n: f'{n},"{n},{n % 10}5"'), target="price")


@pytest.mark.parametrize(
    ("different", "rows", "refused"), [(21, 41, True), (21, 42, False), (20, 20, False)], ids=["most", "half", "few"]
)
def test_texts_that_are_mostly_different_are_no_target(tmp_path, different, rows, refused):
    text = lines("x,label", lambda n: f"{n}.5,t{n % different}", rows)

    if refused:
        with pytest.raises(errors.ConfigError, match=r"such as x; it holds 21 different texts in 41 rows"):
            warned(tmp_path, text)
    else:
        assert warned(tmp_path, text).task == "classification"


def test_a_last_column_that_is_no_target_is_passed_over(tmp_path):
    found = warned(tmp_path, lines("x,kg,remark", lambda n: f"{n % 5},{n}.5,said {n}"))

    assert (found.target, found.task) == ("kg", "regression")
    assert "the last column that could be a target" in found.text


def test_a_first_line_of_data_is_no_header(tmp_path):
    with pytest.raises(errors.DataError, match=r"line 1 of data\.csv does not look like column names: 5\.1, 3\.5, 7"):
        warned(tmp_path, lines("5.1,3.5,7", lambda n: f"{n}.5,{n},1"))

    with pytest.raises(errors.DataError, match=r"line 1 of data\.csv does not look like column names: 7, 1,5, 2"):
        warned(tmp_path, lines("7;1,5;2", lambda n: f"{n};{n};{n}"))

    some = warned(tmp_path, lines("5.1,3.5,setosa", lambda n: f"{n}.5,{n},{'ab'[n % 2]}"))
    years = warned(tmp_path, lines("town,2025,2026,sold", lambda n: f"T{n % 2},{n},{n},{n}.5"))

    assert some.warnings[0].startswith("line 1 does not look like column names")
    assert years.warnings == []


@pytest.mark.parametrize(
    ("moment", "order"),
    [
        (lambda n: f"{1 + n % 28:02d}/{1 + n % 12:02d}/2026", None),
        (lambda n: f"{1 + n % 12}/{1 + n % 28}/26", "m/d/Y"),
        (lambda n: f"{1 + n % 12}.{1 + n % 12}.2026 08:15", None),
        (lambda n: f"{40 + n % 28}/{1 + n % 12}/2026", None),
    ],
)
def test_dates_that_are_read_as_text_are_told(tmp_path, moment, order):
    found = warned(tmp_path, lines("date,x,sold", lambda n: f"{moment(n)},{n % 5},{n}.5"))

    assert found.warnings == (
        [f"column 'date' looks like dates written {order}; write YYYY-MM-DD, or rows are split at random"]
        if order
        else []
    )
