"""CSV text becomes a typed frame; what cannot be used is set aside, in words and with its line."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from unittest import mock

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from evertrain.errors import BadRow, ConfigError, DataError
from evertrain.sources import csvtext
from evertrain.sources.csvtext import parse
from evertrain.sources.table import ColumnType, SetAside, as_type, schema_of
from evertrain.specs import BadRows, CsvFile

SPECTRUM = Path(__file__).parents[2] / "shared" / "data" / "vectors" / "csv-spectrum"
IRIS = b"sepal_length,sepal_width,petal_length,petal_width,species\n" + b"5.1,3.5,1.4,0.2,setosa\n" * 150
FILE = CsvFile("iris.csv")
ANY = CsvFile("any.csv", on_bad_rows=BadRows(1.0, 1_000_000))


def texts(data: bytes, source: CsvFile = FILE) -> list[tuple[object, ...]]:
    """All cells as texts."""
    names = parse(data, source).frame.columns
    return parse(data, source, expected=dict.fromkeys(names, "text")).frame.rows()


def column(cells: list[str], **options: object) -> pl.Series:
    """The column that these cells become, each on a line of its own."""
    return parse("\n".join(["x,n", *(f"{cell},1" for cell in cells)]).encode(), ANY, **options).frame["x"]


def kind(cells: list[str]) -> str:
    return schema_of(column(cells).to_frame())["x"]


def refusal(data: bytes, source: CsvFile = FILE) -> str:
    with pytest.raises(DataError) as caught:
        parse(data, source)
    assert caught.value.source == source.path
    assert str(caught.value).isprintable()
    return str(caught.value)


# --- the text ---------------------------------------------------------------------------------------------------


@pytest.mark.shared
@pytest.mark.skipif(not SPECTRUM.exists(), reason="the shared vectors are not beside this checkout")
@pytest.mark.parametrize("name", sorted(path.stem for path in SPECTRUM.glob("csvs/*.csv")))
def test_csv_spectrum_is_read_exactly(name: str) -> None:
    data = (SPECTRUM / f"csvs/{name}.csv").read_bytes()
    if name.endswith("_crlf"):  # git turned the line ends of this copy into LF
        data = data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    wanted = json.loads((SPECTRUM / f"json/{name}.json").read_text("utf-8"))

    header = parse(data, FILE).frame.columns
    found = parse(data, FILE, expected=dict.fromkeys(header, "text")).frame.fill_null("").to_dicts()

    if name == "location_coordinates":  # its authors made the number in the JSON anonymous, not the one in the CSV
        assert found[0].pop("Contact Phone Number") == "2095257564"
        del wanted["Contact Phone Number"]
        wanted = [wanted]
    assert found == wanted


def test_csv_spectrum_is_complete() -> None:
    if not SPECTRUM.exists():
        pytest.skip("the shared vectors are not beside this checkout")
    assert len(list(SPECTRUM.glob("csvs/*.csv"))) == 12


@pytest.mark.parametrize(
    ("data", "rows"),
    [
        pytest.param(b'a,b\n1,"x, y"', [("1", "x, y")], id="a delimiter in quotes"),
        pytest.param(b'a,b\n1,"ha ""ha"" ha"\n', [("1", 'ha "ha" ha')], id="doubled quotes"),
        pytest.param(b'a,b\n1,""\n2,\n', [("1", None), ("2", None)], id="empty, quoted or not, is missing"),
        pytest.param(b'a,b\n1,"x\ny"\n2,z\n', [("1", "x\ny"), ("2", "z")], id="a line feed in quotes"),
        pytest.param(b'a,b\r\n1,"x\r\ny"\r\n', [("1", "x\r\ny")], id="CRLF inside and outside of quotes"),
        pytest.param(b'a,b\r1,"x\ry"\r', [("1", "x\ry")], id="A-36 CR alone ends a line"),
        pytest.param(b"a,b\n1,2\r\n3,4\r5,6", [("1", "2"), ("3", "4"), ("5", "6")], id="mixed line ends"),
        pytest.param(b"\n\na,b\n\n1,2\r\n\r\n3,4\n\n", [("1", "2"), ("3", "4")], id="blank lines are no rows"),
        pytest.param(b"a,b\n ,\x1a\n", [(" ", "\x1a")], id="A-36 blanks and ctrl-z are text"),
        pytest.param(b"""a,b\n6'2",12'"x"\n""", [("6'2\"", '12\'"x"')], id="a quote within a cell is a character"),
        pytest.param(b'a,b\n"x"yz,"x"y"z\n', [("xyz", 'xy"z')], id="text behind a closing quote belongs to the cell"),
        pytest.param(b'a\n""\nx\n', [(None,), ("x",)], id="a line of nothing but quotes is a row"),
        pytest.param("a\n\ufeffx\n".encode(), [("\ufeffx",)], id="a byte order mark further down is a character"),
        pytest.param(b"a,b\n=1+1,@SUM(1)\n", [("=1+1", "@SUM(1)")], id="A-39 formulas are text like any other"),
        pytest.param(b"a\n\xc2\x85\n\xe2\x80\xa8\n", [("\x85",), ("\u2028",)], id="only CR and LF end lines"),
    ],
)
def test_the_cells_are_those_of_rfc_4180(data: bytes, rows: list[tuple[str | None, ...]]) -> None:
    assert texts(data) == rows


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be-with-mark"])
def test_a_byte_order_mark_wins_over_the_declared_encoding(encoding: str) -> None:
    text = "naïve,Ω\né,1\n"
    data = b"\xfe\xff" + text.encode("utf-16-be") if encoding.endswith("mark") else text.encode(encoding)
    declared = "utf-8" if encoding == "utf-8" else "cp1252"

    frame = parse(data, CsvFile("x.csv", encoding=declared)).frame

    assert frame.to_dicts() == [{"naïve": "é", "Ω": 1}]


def test_a_declared_encoding_is_used() -> None:
    assert texts("a\nGrün €\n".encode("cp1252"), CsvFile("x.csv", encoding="cp1252")) == [("Grün €",)]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        pytest.param(b"", "x.csv: the file is empty", id="no bytes"),
        pytest.param(b"\xef\xbb\xbf\r\n\n", "the file is empty", id="a byte order mark and blank lines"),
        pytest.param(
            b"a,b\n1,2\nCaf\xe9,3\n", "line 3 holds byte 0xe9, at offset 11, which is not utf-8", id="Latin-1"
        ),
        pytest.param(
            b"\xef\xbb\xbfa\n\xff", "byte 0xff, at offset 5", id="the offset counts from the file's beginning"
        ),
        pytest.param(b"a,b\r\n1,\0\r\n", "line 2 holds a NUL character", id="NUL"),
        pytest.param("a,b\n1,2\n".encode("utf-16-le"), "needs encoding='utf-16-le'", id="UTF-16 without a mark"),
        pytest.param(b'a,b\n"x\ny",2\n3,"4\n5,6\n', "the quote that opens in line 4 is never closed", id="open quote"),
        pytest.param(b'a,b\n"x\ny","z\n', "the quote that opens in line 3", id="open quote behind a quoted line end"),
        pytest.param(b"a,b,a,b,c\n", "the header, line 1, has 'a', 'b' more than once", id="duplicate names"),
        pytest.param(b"\na, b,b ,c\n", "the header, line 2, has 'b' more than once", id="duplicates but for blanks"),
        pytest.param(b"a,, ,d\n", "column 2 of 4 has no name in the header, line 1", id="empty names"),
        pytest.param(
            b",".join([b"x%d" % i for i in range(10_001)]), "line 1 names 10,001 columns", id="10,001 columns"
        ),
        pytest.param(b"a,b\n1,2\n1," + b"x" * 10_000_000, "line 3 has a cell of 10,000,000 bytes", id="10 MB cell"),
        pytest.param(b'a,b\n1,2\n1,"' + b"x" * 1_000_001 + b'"', "line 3 has a cell of 1,000,001", id="quoted 1 MB"),
    ],
)
def test_a_36_what_is_no_table_is_refused_with_its_line(data: bytes, words: str) -> None:
    message = refusal(data, CsvFile("x.csv"))

    assert words in message
    assert len(message) < 300


def test_a_36_a_cell_may_have_a_megabyte() -> None:
    assert texts(b"a,b\n1," + b"x" * 1_000_000)[0][1] == "x" * 1_000_000


def test_a_36_ten_thousand_columns_are_read() -> None:
    names = ",".join(f"c{i}" for i in range(10_000))

    table = parse(f"{names}\n{names}\n1,2\n".encode(), FILE, expected={f"c{i}": "text" for i in range(10_000)})

    assert table.frame.shape == (1, 10_000)
    assert table.set_aside == [SetAside(3, "2 of 10000 columns", "1,2")]


def test_a_36_any_printable_name_is_a_name() -> None:
    assert parse(b'__proto__, constructor ,"a,\nb"\n1,2,3\n', FILE).frame.columns == [
        "__proto__",
        "constructor",
        "a,\nb",
    ]


def test_a_header_alone_is_a_table_without_rows() -> None:
    table = parse(b"a,b", FILE, expected={"a": "number"})

    assert (table.frame.shape, table.set_aside_count, table.unfinished_line) == ((0, 2), 0, False)
    assert schema_of(table.frame) == {"a": "number", "b": "text"}
    assert table.lines is not None
    assert table.lines.to_list() == []


@pytest.mark.parametrize("encoding", ["klingon", "hex", "undefined", "utf\0"])
def test_an_encoding_that_is_none_is_a_wrong_setting(encoding: str) -> None:
    with pytest.raises(ConfigError, match="encoding is"):
        parse(b"a\n1\n", CsvFile("x.csv", encoding=encoding))


@pytest.mark.parametrize("delimiter", ['"', "\n", "\r", "\0", "x", "0", "§"])
def test_a_delimiter_that_cannot_divide_is_a_wrong_setting(delimiter: str) -> None:
    with pytest.raises(ConfigError, match="delimiter is"):
        parse(b"a\n1\n", CsvFile("x.csv", delimiter=delimiter))


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        pytest.param("a,b;c", 2, id="a tie goes to the comma"),
        pytest.param("a;b;c,d", 3, id="most often wins"),
        pytest.param('a;"b,c,d,e";f', 3, id="A-36 what is quoted divides nothing"),
        pytest.param('"x,1";"y,2";"z,3"', 3, id="A-36 every name quoted and with a comma"),
        pytest.param('5" x;6" y;7" z', 3, id="quotes within names open nothing"),
        pytest.param("a\tb", 2, id="tab"),
        pytest.param("a|b|c", 3, id="bar"),
        pytest.param("a", 1, id="a single column"),
    ],
)
def test_the_delimiter_is_the_one_that_divides_the_header(header: str, columns: int) -> None:
    assert len(parse(header.encode(), FILE).frame.columns) == columns


@pytest.mark.parametrize("delimiter", [" ", ":", "\x1f", "^", "]", "-", "\\", "'", "#"])
def test_a_declared_delimiter_divides(delimiter: str) -> None:
    data = f'p{delimiter}q\n1{delimiter}"x{delimiter}y"\n'.encode()

    assert texts(data, CsvFile("x.csv", delimiter=delimiter)) == [("1", f"x{delimiter}y")]


# --- two readings of one text -----------------------------------------------------------------------------------


@settings(deadline=None)  # a busy machine is no failure
@given(
    body=st.text(st.sampled_from('",;\n\r ab\ufeff'), max_size=40) | st.text(st.sampled_from('",\n'), max_size=12),
    chunk=st.integers(1, 50),
)
@example(body='\r"\r\n"",\r', chunk=1)
@example(body="\ufeff,\n\ufeff,", chunk=1)
@example(body='"\n",a\nb,c\nd,e\n', chunk=1)
def test_cells_lines_and_ragged_rows_are_those_of_the_csv_module(body: str, chunk: int) -> None:
    reader = csv.reader(io.StringIO("x,y\n" + body, newline=""))
    rows, before = [], 0
    for row in reader:
        rows.append((before + 1, row))
        before = reader.line_num
    still_open = list(csv.reader([*io.StringIO(body, newline=""), "\0,"]))[-1] != ["\0", ""]

    with mock.patch.object(csvtext, "_CHUNK", chunk):
        if still_open:
            assert "is never closed" in refusal(("x,y\n" + body).encode(), ANY)
            return
        table = parse(("x,y\n" + body).encode(), ANY, expected={"x": "text", "y": "text"})

    good = [(line, tuple(cell or None for cell in row)) for line, row in rows[1:] if len(row) == 2]
    ragged = [(line, f"{len(row)} of 2 columns") for line, row in rows[1:] if len(row) not in (0, 2)]
    assert table.lines is not None
    assert list(zip(table.lines.to_list(), table.frame.rows(), strict=True)) == good
    assert [(one.line, one.reason) for one in table.set_aside] == ragged
    assert table.set_aside_count == len(ragged)


CELL = st.sampled_from(
    ["", "1", "-2", "1.5", "007", "9" * 20, "NA", "true", "x", "2024-02-29", "2024-02-29 10:00Z", "é "]
)


@settings(deadline=None)
@given(st.lists(st.tuples(CELL, CELL), max_size=30))
def test_quoting_every_cell_changes_nothing(rows: list[tuple[str, str]]) -> None:
    bare = "\n".join(["a,b", *(",".join(row) for row in rows)])
    quoted = "\n".join(['"a","b"', *(",".join(f'"{cell}"' for cell in row) for row in rows)])

    one, two = parse(bare.encode(), ANY), parse(quoted.encode(), ANY)

    assert one.frame.equals(two.frame)
    assert one.frame.schema == two.frame.schema
    assert (one.set_aside, one.notes) == (two.set_aside, two.notes)


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)


@settings(deadline=None)
@given(
    width=st.integers(1, 4),
    data=st.data(),
    ends=st.sampled_from(["\n", "\r\n", "\r"]),
    delimiter=st.sampled_from([None, ",", ";", "\t", "|"]),
)
def test_texts_come_back_as_they_were_written(
    width: int, data: st.DataObject, ends: str, delimiter: str | None
) -> None:
    rows = data.draw(st.lists(st.lists(TEXT, min_size=width, max_size=width), max_size=8))
    names = [f"c{i}" for i in range(width)]
    out, lines = io.StringIO(newline=""), []
    # Before Python 3.13 the csv module leaves a lone CR unquoted where lines end with LF, and the other way round.
    quoting = csv.QUOTE_MINIMAL if ends == "\r\n" else csv.QUOTE_ALL
    writer = csv.writer(out, lineterminator=ends, quoting=quoting, delimiter=delimiter or ",")
    for row in [names, *rows]:
        lines.append(1 + len(re.findall("\r\n|\r|\n", out.getvalue())))
        writer.writerow(row)

    source = CsvFile("x.csv", delimiter=delimiter)
    table = parse(out.getvalue().encode(), source, expected=dict.fromkeys(names, "text"))

    assert table.frame.rows() == [tuple(cell or None for cell in row) for row in rows]
    assert table.lines is not None
    assert table.lines.to_list() == lines[1:]
    assert table.set_aside_count == 0


# --- rows that are set aside ------------------------------------------------------------------------------------


def test_s2_07_a_malformed_appended_line_is_set_aside_with_its_line() -> None:
    table = parse(IRIS + b"new_data\n", FILE)

    assert table.set_aside == [SetAside(152, "1 of 5 columns", "new_data")]
    assert table.set_aside_count == 1
    assert not table.unfinished_line
    assert table.frame.equals(parse(IRIS, FILE).frame)
    assert table.lines is not None
    assert table.lines.to_list() == list(range(2, 152))


def test_an_unfinished_last_line_is_told_and_does_not_count_while_others_write() -> None:
    strict = CsvFile("iris.csv", on_bad_rows="refuse")

    table = parse(IRIS + b"5.1,3.5", strict, complete=False)

    assert table.unfinished_line
    assert table.set_aside == [SetAside(152, "2 of 5 columns", "5.1,3.5")]
    assert "1 of 151 rows cannot be used, 0 may be set aside: line 152: 2 of 5 columns, in '5.1,3.5'" in refusal(
        IRIS + b"5.1,3.5", strict
    )
    assert "1 of 151 rows" in refusal(IRIS + b"5.1,3.5\n", strict)


def test_a_last_line_with_all_its_cells_needs_no_line_end() -> None:
    table = parse(IRIS + b"5.1,3.5,1.4,0.2,set", FILE, complete=False)

    assert not table.unfinished_line
    assert len(table.frame) == 151


@pytest.mark.parametrize("bad", [b"one\n", b"1,2,3\n", b"x,2\n"])
def test_ten_unusable_rows_of_500_are_set_aside_and_eleven_are_refused(bad: bytes) -> None:
    def data(count: int) -> bytes:
        return b"a,b\n" + b"1,2\n" * (500 - count) + bad * count

    table = parse(data(10), FILE, expected={"a": "integer"})
    assert (table.set_aside_count, len(table.frame)) == (10, 490)
    with pytest.raises(DataError, match=r"iris.csv: 11 of 500 rows cannot be used, 10 may be set aside: line 491: "):
        parse(data(11), FILE, expected={"a": "integer"})


def test_a_share_of_the_rows_may_be_set_aside() -> None:
    source = CsvFile("x.csv", on_bad_rows=BadRows(0.29, 0))

    assert parse(b"a,b\n" + b"1,2\n" * 71 + b"1\n" * 29, source).set_aside_count == 29
    message = refusal(b"a,b\n" + b"1,2\n" * 70 + b"1\n" * 30, source)
    assert message.endswith(
        "29 may be set aside: line 72: 1 of 2 columns, in '1'; line 73: 1 of 2 columns, in '1'; "
        "line 74: 1 of 2 columns, in '1'"
    )


def test_the_first_hundred_are_shown_in_order_and_all_are_counted() -> None:
    data = b"a,b\n" + b"x,1\n1\n" * 100 + b"1,2\n" * 100

    table = parse(data, ANY, expected={"a": "integer", "b": "integer"})

    assert [one.line for one in table.set_aside] == list(range(2, 102))
    assert table.set_aside_count == 200
    assert len(table.frame) == 100


def test_reasons_and_texts_are_one_printable_line() -> None:
    data = b"a\x1b,b\n" + b"1,2\n" * 20 + b'"\x1b[2J' + b"y" * 500 + b'\nz",3\n'

    (one,) = parse(data, FILE).set_aside

    assert one.line == 22
    assert one.reason == "a\\x1b is '\\x1b[2J" + "y" * 33 + "', not an integer"
    assert one.text == "\\x1b[2J" + "y" * 73
    assert (one.reason + one.text).isprintable()


def test_a_row_with_two_wrong_cells_is_one_row() -> None:
    table = parse(b"a,b\nx,y\n1,2024-01-01\n", FILE, expected={"a": "integer", "b": "date"})

    assert table.set_aside == [SetAside(2, "a is 'x', not an integer", "x,y")]
    assert table.set_aside_count == 1


# --- types that the cells show ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "wanted"),
    [
        (["1", "-2", "+3", " 4 ", ""], "integer"),
        (["9223372036854775807", "-9223372036854775808"], "integer"),
        (["9223372036854775808", "1"], "text"),
        (["9223372036854775808", "1.5"], "text"),
        (["0", "-0", "10"], "integer"),
        (["007", "8"], "text"),
        (["-07", "8.5"], "text"),
        (["0.5", "1"], "number"),
        (["1.", ".5", "1e3", "-2E-3"], "number"),
        (["TRUE", "false", "True"], "boolean"),
        (["true", "1"], "text"),
        (["2024-02-29", "0001-01-01"], "date"),
        (["2024-02-29T10:00", "2024-02-29 10:00:30.5+02:00"], "instant"),
        (["2024-02-29", "2024-02-29T10:00"], "text"),
        (["29/02/2024", "01/03/2024"], "date"),
        (["29/02/2024", "01/31/2024"], "text"),
        (["31/02/2024", "01/12/2024"], "text"),
        (["", " ", "NA"], "text"),
        (["NA", "Namibia"], "text"),
        (["1", "NA", "2"], "integer"),
        (["abc", "1"], "text"),
    ],
)
def test_a_column_has_the_type_that_its_cells_show(cells: list[str], wanted: str) -> None:
    assert kind(cells) == wanted


@pytest.mark.parametrize(
    "cell",
    ["nan", "inf", "-inf", "Infinity", "1e999", "1_000", "١٢", "１", "0x10", "9" * 5000, ".", "+", "1e", "--1", "1 2"],
)
def test_a_37_what_only_looks_like_a_number_is_text(cell: str) -> None:
    assert as_type(pl.Series([cell]), "number").to_list() == [None]
    assert kind([cell]) == "text"


@pytest.mark.parametrize(("cell", "value"), [(" 5 ", 5), ("-0", 0), ("1e308", 1e308), ("1e-400", 0.0), ("\t7", 7)])
def test_a_37_what_is_a_number_is_read(cell: str, value: float) -> None:
    assert column([cell]).to_list() == [value]


@pytest.mark.parametrize(
    ("data", "rows"),
    [
        (b"a;b\n1,5;2\n", [(1.5, 2)]),
        (b"a;b\n1.234,56;x\n-0,5;y\n7;z\n", [(1234.56, "x"), (-0.5, "y"), (7.0, "z")]),
        (b"a;b\n1,5;1.234\n2,5;5.678\n", [(1.5, 1234), (2.5, 5678)]),
        (b"a\tb\n0,500\tx\n", [(0.5, "x")]),
        (b"a;b\n1,5;v1.2\n", [(1.5, "v1.2")]),
        (b"a;b\n1,5;2024-01-02T10:00:00.5Z\n", [(1.5, datetime(2024, 1, 2, 10, 0, 0, 500_000, UTC))]),
        (b'a,b\n"1,234.5",2\n', [("1,234.5", 2)]),
        (b"a;b\nx,y;2\n1,5;3\n", [("x,y", 2), ("1,5", 3)]),
    ],
)
def test_a_37_a_decimal_comma_is_read_where_values_leave_no_doubt(data: bytes, rows: list[tuple[object, ...]]) -> None:
    assert parse(data, FILE).frame.rows() == rows


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            b"a;b\n3,500;2\n",
            "column 'a', line 2, has '3,500', which may be one number with a decimal comma or thousands",
        ),
        (b'a,b\n"3,5",2\n', "column 'a', line 2, has '3,5', in a file whose cells are divided by commas"),
        (b"a;b\n3,5;2.5\n", "column 'a', line 2, has '3,5', and column 'b' has decimal points"),
        (b"a;b\n3,5;1,234.5\n", "and column 'b' has thousands divided by commas"),
    ],
)
def test_a_37_a_comma_that_may_mean_two_things_is_refused_with_the_choice(data: bytes, words: str) -> None:
    message = refusal(data)
    assert words in message
    assert "declare decimal=',' to read such cells as numbers or decimal='.' to leave them as they are" in message
    assert "decimal" not in str(parse(data, CsvFile("iris.csv", decimal=".")).frame.schema)
    assert parse(data, CsvFile("iris.csv", decimal=",")).frame["a"].dtype == pl.Float64
    assert parse(data, FILE, expected={"a": "text", "b": "text"}).frame["a"].dtype == pl.String


def test_a_37_with_a_declared_comma_a_point_divides_thousands_and_nothing_else() -> None:
    source = CsvFile("x.csv", decimal=",", on_bad_rows=BadRows(1.0, 0))
    table = parse(b"a;b\n1.234;x\n3.5;y\n1,5;z\n", source, expected={"a": "number"})

    assert table.frame.rows() == [(1234.0, "x"), (1.5, "z")]
    assert [one.line for one in table.set_aside] == [3]


@pytest.mark.parametrize(
    ("cells", "days"),
    [
        (["31/12/2024", "01/02/2024"], [date(2024, 12, 31), date(2024, 2, 1)]),
        (["12/31/2024", "01/02/2024"], [date(2024, 12, 31), date(2024, 1, 2)]),
        (["31.12.2024", "1.2.2024"], [date(2024, 12, 31), date(2024, 2, 1)]),
        (["05/05/2024", "6/6/2024"], [date(2024, 5, 5), date(2024, 6, 6)]),
        (["2024/02/29", "2024/3/1"], [date(2024, 2, 29), date(2024, 3, 1)]),
        (["2024-02-29"], [date(2024, 2, 29)]),
    ],
)
def test_a_38_days_are_read_by_the_order_that_a_value_shows(cells: list[str], days: list[date]) -> None:
    assert column(cells).to_list() == days


def test_a_38_days_that_may_be_two_are_refused_with_the_choice() -> None:
    data = b"at,n\n05/05/2024,1\n01/02/2024,2\n"
    message = refusal(data)

    assert "column 'at', line 3, has '01/02/2024', which may be 2024-02-01 or 2024-01-02" in message
    assert "declare dates='dmy' where the day comes first or dates='mdy' where the month does" in message
    assert parse(data, CsvFile("x.csv", dates="dmy")).frame["at"].to_list()[1] == date(2024, 2, 1)
    assert parse(data, CsvFile("x.csv", dates="mdy")).frame["at"].to_list()[1] == date(2024, 1, 2)
    assert parse(data, FILE, expected={"at": "text"}).frame["at"].to_list()[1] == "01/02/2024"


def test_a_38_another_column_of_the_file_may_show_the_order_and_a_time_may_follow() -> None:
    table = parse(b"at,due\n01/02/2024 10:30,13/02/2024\n", FILE)
    assert table.frame.rows() == [(datetime(2024, 2, 1, 10, 30, tzinfo=UTC), date(2024, 2, 13))]


def test_a_38_a_declared_order_sets_aside_what_it_cannot_read() -> None:
    source = CsvFile("x.csv", dates="mdy", on_bad_rows=BadRows(1.0, 0))
    table = parse(b"at,n\n12/31/2024,1\n31/12/2024,2\n", source, expected={"at": "date"})

    assert table.frame.rows() == [(date(2024, 12, 31), 1)]
    assert table.set_aside[0].reason == "at is '31/12/2024', not a date such as 2024-02-29"


def test_a_36_a_cell_of_more_than_a_megabyte_is_refused_with_its_line() -> None:
    message = refusal(b"a,b\n1,2\n1," + b"x" * 1_000_001 + b"\n")
    assert "line 3 has a cell of 1,000,001 bytes; at most 1,000,000 are read, so nothing of this file is" in message


def test_a_refusal_names_the_first_hundred_rows_in_fields_and_the_table_holds_all_of_them() -> None:
    data = b"a,b\n" + b"x,1\n1\n" * 100 + b"1,2\n" * 100
    with pytest.raises(DataError) as caught:
        parse(data, FILE, expected={"a": "integer"})

    assert caught.value.bad_count == 200
    assert len(caught.value.bad_rows) == 100
    assert caught.value.bad_rows[:2] == (BadRow(2, "a", "x", "not an integer"), BadRow(3, None, "1", "1 of 2 columns"))
    assert parse(data, ANY, expected={"a": "integer"}).bad.height == 200


@pytest.mark.parametrize(
    "cell",
    ["0000-00-00", "0000-01-01", "10000-01-01", "02/03/04", "2023-02-29", "2024-1-1", "+024-01-01", "1704067200000"],
)
def test_a_38_what_only_looks_like_a_date_is_none(cell: str) -> None:
    assert as_type(pl.Series([cell]), "date").to_list() == [None]
    assert as_type(pl.Series([f"{cell}T10:00"]), "instant").to_list() == [None]


@pytest.mark.parametrize(
    "cell",
    ["2024-01-01T24:00", "2024-01-01T10:60", "2024-01-01T10:00:60", "2024-01-01T10", "2024-01-01T10:00.5",
     "2024-01-01T10:00+24:00", "0001-01-01T00:00+01:00", "9999-12-31T23:59-01:00", "2024-01-01t10:00"],
)  # fmt: skip
def test_a_38_what_only_looks_like_an_instant_is_none(cell: str) -> None:
    assert as_type(pl.Series([cell]), "instant").to_list() == [None]


def test_a_38_zoned_instants_become_utc_and_mixing_is_told() -> None:
    table = parse(b"at\n2024-01-01T10:00:00+05:30\n2024-01-01 10:00Z\n2024-01-01 10:00\n", FILE)

    assert table.frame["at"].to_list() == [
        datetime(2024, 1, 1, hour, minute, tzinfo=UTC) for hour, minute in [(4, 30), (10, 0), (10, 0)]
    ]
    assert table.notes == [
        "at names its zone in some rows only and is read as UTC in the others: line 4 has '2024-01-01 10:00'"
    ]
    assert parse(b"at\n2024-01-01 10:00\n", FILE).notes == []


ZONE = st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(
    lambda t: timezone(timedelta(minutes=t // timedelta(minutes=1)))
)


@settings(deadline=None)
@given(
    st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31), timezones=st.none() | ZONE),  # noqa: DTZ001
    st.sampled_from(["T", " "]),
    st.sampled_from(["auto", "seconds", "microseconds"]),
)
def test_instants_are_those_of_the_standard_library(moment: datetime, between: str, precision: str) -> None:
    text = moment.isoformat(between, precision)

    wanted = datetime.fromisoformat(text)
    wanted = wanted.replace(tzinfo=UTC) if wanted.tzinfo is None else wanted.astimezone(UTC)
    assert as_type(pl.Series([text]), "instant").to_list() == [wanted]


@settings(deadline=None)
@given(st.text(st.sampled_from("0123456789+-.eE _xnaif١"), max_size=8) | st.floats().map(repr) | st.integers().map(str))
def test_numbers_are_those_of_the_grammar(text: str) -> None:
    grammar = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
    bare = text.strip(" \t")
    value = float(bare) if grammar.fullmatch(bare) else math.nan

    assert as_type(pl.Series([text]), "number").to_list() == [value if math.isfinite(value) else None]
    integer = re.fullmatch(r"[+-]?\d+", bare, re.ASCII) and -(2**63) <= int(bare) < 2**63
    assert as_type(pl.Series([text]), "integer").to_list() == [int(bare) if integer else None]


def test_a_missing_token_is_missing_in_numbers_and_a_word_in_texts() -> None:
    frame = parse(b"country,height\nNA,1.5\nDE,NA\n,null\nFR, NaN \n", FILE).frame

    assert frame["country"].to_list() == ["NA", "DE", None, "FR"]
    assert frame["height"].to_list() == [1.5, None, None, None]


def test_a_declared_token_is_missing_even_where_it_is_a_number() -> None:
    source = CsvFile("x.csv", null=("-999",))

    assert parse(b"a\n1\n-999\n", source).frame["a"].to_list() == [1, None]
    assert parse(b"a\n1\nNA\n", source).frame["a"].to_list() == ["1", "NA"]


@pytest.mark.parametrize(
    ("good", "bad", "wanted"),
    [
        (19, 1, "text"),
        (20, 1, "integer"),
        (49, 10, "text"),
        (50, 10, "integer"),
        (100, 11, "text"),
        (1089, 11, "integer"),
        (1088, 11, "text"),
    ],
)
def test_few_misfits_leave_a_column_its_type(good: int, bad: int, wanted: str) -> None:
    assert kind(["1"] * good + ["abc"] * bad) == wanted
    assert kind(["abc"] * bad + ["1"] * good) == wanted


def test_a_misfit_among_numbers_is_set_aside_in_words() -> None:
    table = parse(IRIS.replace(b"5.1", b"abc", 1), FILE)

    assert table.set_aside == [SetAside(2, "sepal_length is 'abc', not a number", "abc,3.5,1.4,0.2,setosa")]
    assert schema_of(table.frame)["sepal_length"] == "number"


def test_integers_with_few_fractions_and_a_word_are_numbers() -> None:
    table = parse(b"a,b\n" + b"1,2\n" * 30 + b"1.5,2\nx,2\n", FILE)

    assert schema_of(table.frame) == {"a": "number", "b": "integer"}
    assert [one.line for one in table.set_aside] == [33]


@pytest.mark.parametrize(
    ("cell", "wanted"), [("2024-01-01", "date"), ("2024-01-01T10:00", "instant"), ("true", "text")]
)
def test_misfits_are_tolerated_among_dates_and_not_among_truths(cell: str, wanted: str) -> None:
    assert kind([cell] * 50 + ["soon"]) == wanted


# --- types that were established --------------------------------------------------------------------------------


def test_an_integer_column_that_meets_a_fraction_widens_and_says_so() -> None:
    table = parse(b"a,b\n1,1\n1.5,2\nx,3\n", FILE, expected={"a": "integer", "b": "number"})

    assert table.frame.rows() == [(1.0, 1.0), (1.5, 2.0)]
    assert table.notes == ["a was integer and is now number: line 3 has '1.5'"]
    assert table.set_aside == [SetAside(4, "a is 'x', not a number", "x,3")]


def test_a_number_column_never_narrows() -> None:
    assert parse(b"a\n1\n2\n", FILE, expected={"a": "number"}).frame["a"].to_list() == [1.0, 2.0]


def test_an_integer_beyond_64_bits_does_not_make_the_others_inexact() -> None:
    table = parse(f"a\n{2**62 + 1}\n{2**63}\n".encode(), FILE, expected={"a": "integer"})

    assert table.frame["a"].to_list() == [2**62 + 1]
    assert table.set_aside[0].reason == f"a is '{2**63}', not an integer"


@pytest.mark.parametrize(
    ("established", "cell", "called"),
    [
        ("number", "abc", "a number"),
        ("integer", "abc", "an integer"),
        ("boolean", "1", "true or false"),
        ("date", "2023-02-29", "a date such as 2024-02-29"),
        ("instant", "2024-01-01", "an instant such as 2024-02-29T12:30:00Z"),
    ],
)
def test_a_cell_that_is_not_of_the_established_type_is_set_aside(established: str, cell: str, called: str) -> None:
    table = parse(f"a,b\n{cell},1\n,2\n".encode(), FILE, expected={"a": established})

    assert table.set_aside == [SetAside(2, f"a is '{cell}', not {called}", f"{cell},1")]
    assert table.frame.rows() == [(None, 2)]


def test_a_text_column_stays_text() -> None:
    assert parse(b"a\n1\n", FILE, expected={"a": "text"}).frame["a"].to_list() == ["1"]


def test_schemas_name_every_type_and_refuse_others() -> None:
    frame = pl.DataFrame(
        {
            "a": [1],
            "b": [1.5],
            "c": [True],
            "d": [date(2024, 1, 1)],
            "e": [datetime(2024, 1, 1, tzinfo=UTC)],
            "f": ["x"],
        }
    )

    assert list(schema_of(frame).values()) == [str(one) for one in ColumnType]
    with pytest.raises(DataError, match=r"column 'a' holds List\(Int64\); use integer, number, boolean") as caught:
        schema_of(pl.DataFrame({"a": [[1]]}))
    assert caught.value.column == "a"
