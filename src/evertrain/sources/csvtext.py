"""CSV as the world writes it, read into a typed frame that knows the line of every row.

Quotes are resolved first: the content of a quoted cell replaces it, and what would divide the text there becomes a
stand-in. What is left has one row per line and one cell between two delimiters, so that numpy can count the cells of
each line, and Polars' reader and RFC 4180 mean the same. Without a quote character the first step costs nothing.
"""

from __future__ import annotations

import codecs
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import polars as pl

from evertrain.errors import BadRow, ConfigError, DataError, Undecided
from evertrain.partitions import printable
from evertrain.sources import conventions
from evertrain.sources.table import BAD, SHOWN, ColumnType, Schema, SetAside, Table, as_type, bad_rows
from evertrain.specs import BadRows, CsvFile

Positions = npt.NDArray[np.intp]

_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_DELIMITERS = (b",", b";", b"\t", b"|")
_MAX_COLUMNS = 10_000
_MAX_CELL = 1_000_000
_CHUNK = 4 << 20  # bytes of whole lines at a time: bounds what numpy's positions cost, at 8 bytes per line and cell

# Stand-ins begin with NUL, which no text may hold, and end with a letter, which no delimiter is.
_EMPTY, _DELIMITER, _CRLF, _CR, _LF = b"\0e", b"\0d", b"\0c", b"\0r", b"\0n"
_BREAKS = np.frombuffer(b"crn", np.uint8)

_ZONE = r"(Z|[+-][0-9]{2}(:?[0-9]{2})?)[ \t]*$"

_ENOUGH = 20  # cells that show a column's type in spite of others

_CALLED = {
    ColumnType.INTEGER: "an integer",
    ColumnType.NUMBER: "a number",
    ColumnType.BOOLEAN: "true or false",
    ColumnType.DATE: "a date such as 2024-02-29",
    ColumnType.INSTANT: "an instant such as 2024-02-29T12:30:00Z",
}


def parse(data: bytes, source: CsvFile, *, expected: Schema | None = None, complete: bool = True) -> Table:
    r"""Return the rows of a CSV file.

    Rows with too few or too many cells, and rows with a cell that is not of its column's type, are set aside.

    Args:
        data: the bytes of the file.
        source: how they are to be read.
        expected: the types that earlier reads established; other columns get the type that their cells show.
        complete: False while others may be writing: an unfinished last line then never makes the file refused.

    Raises:
        DataError: the text cannot be read as a table, or more rows were set aside than `source.on_bad_rows` allows.
        ConfigError: the declared encoding or delimiter cannot be used.

    >>> parse(b"town;height\nPilar;1.5\nHermosa;2", CsvFile("towns.csv")).frame.rows()
    [('Pilar', 1.5), ('Hermosa', 2.0)]
    """
    text = _decoded(data, source)
    delimiter = _delimiter(text, source)
    plain = _without_quotes(text, delimiter, source)
    names, start, line = _header(plain, delimiter, source)
    rows = _Rows(names, delimiter)
    for chunk in _chunks(plain, start):
        line = rows.add(chunk, line, source)
    return _table(rows, source, expected or {}, complete)


def _fault(source: CsvFile, text: str, column: str | None = None) -> DataError:
    return DataError(f"{printable(source.path)}: {text}", source=source.path, column=column)


def _short(text: str, limit: int = 80) -> str:
    return printable(text[:limit])[:limit]


# --- from bytes to lines ----------------------------------------------------------------------------------------


def _decoded(data: bytes, source: CsvFile) -> bytes:
    """Return the text as UTF-8, without a byte order mark and without NUL."""
    mark, encoding = next((one for one in _MARKS if data.startswith(one[0])), (b"", source.encoding))
    body = data[len(mark) :]
    try:
        text = body.decode(encoding)
        utf8 = body if codecs.lookup(encoding).name == "utf-8" else text.encode()
    except UnicodeDecodeError as error:
        before = body[: error.start].decode(encoding, "replace").encode()
        raise _fault(
            source,
            f"line {_line(before)} holds byte 0x{body[error.start]:02x}, at offset {len(mark) + error.start}, which is "
            f"not {printable(encoding)}; declare the encoding it was written in, such as encoding='cp1252' or 'utf-16'",
        ) from None
    except (LookupError, ValueError):
        allowed = "an encoding of text that Python knows, such as 'utf-8', 'cp1252' or 'utf-16'"
        raise ConfigError("encoding", source.encoding, allowed) from None
    if (at := utf8.find(0)) >= 0:
        raise _fault(
            source,
            f"line {_line(utf8[:at])} holds a NUL character, which no text does; "
            "UTF-16 without a byte order mark needs encoding='utf-16-le' or 'utf-16-be'",
        )
    return utf8


def _line(before: bytes) -> int:
    return 1 + before.count(b"\n") + before.count(b"\r") - before.count(b"\r\n")


def _quoted_cell(delimiters: bytes) -> bytes:
    """Return the pattern of a quoted cell: its content, and the closing quote or nothing at the end of the text.

    A quote opens a cell only where a cell begins; elsewhere, as in 6'2", it is a character like others.
    """
    return rb'"(?<![^%b\r\n]")([^"]*+(?:""[^"]*+)*+)("?)' % re.escape(delimiters)


def _delimiter(text: bytes, source: CsvFile) -> bytes:
    """Return the declared delimiter, or the one that divides the header most often."""
    if source.delimiter is not None:
        if not source.delimiter.isascii() or source.delimiter.isalnum() or source.delimiter in '"\r\n\0':
            allowed = "one ASCII character that is no letter, digit, quote or line end"
            raise ConfigError("delimiter", source.delimiter, allowed)
        return source.delimiter.encode()
    quoted = _quoted_cell(b"".join(_DELIMITERS))
    start = len(text) - len(text.lstrip(b"\r\n"))
    header = re.compile(rb"(?:%b|[^\r\n])*+" % quoted).match(text, start, start + _MAX_CELL)
    assert header is not None
    bare = re.sub(quoted, b"", header[0])
    return max(_DELIMITERS, key=bare.count)


def _without_quotes(text: bytes, delimiter: bytes, source: CsvFile) -> bytes:
    """Return the text with line feeds at line ends, and stand-ins for what divides nothing because it was quoted."""
    if b'"' in text:
        out, done = bytearray(), 0
        for cell in re.finditer(_quoted_cell(delimiter), text):
            if not cell[2]:
                raise _fault(source, f"the quote that opens in line {_line(text[: cell.start()])} is never closed")
            out += text[done : cell.start()]
            out += _protected(cell[1], delimiter)
            done = cell.end()
        out += text[done:]
        text = bytes(out)
    return text.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in text else text


def _protected(cell: bytes, delimiter: bytes) -> bytes:
    cell = cell.replace(b'""', b'"').replace(delimiter, _DELIMITER)
    # A line that holds nothing but "" is a row, so an empty cell must not vanish.
    return cell.replace(b"\r\n", _CRLF).replace(b"\r", _CR).replace(b"\n", _LF) or _EMPTY


def _meanings(delimiter: bytes) -> dict[str, str]:
    meanings = {_EMPTY: b"", _DELIMITER: delimiter, _CRLF: b"\r\n", _CR: b"\r", _LF: b"\n"}
    return {stand_in.decode(): meant.decode() for stand_in, meant in meanings.items()}


def _restored(text: bytes, delimiter: bytes) -> str:
    found = text.decode()
    for stand_in, meant in _meanings(delimiter).items():
        found = found.replace(stand_in, meant)
    return found


# --- from lines to cells ----------------------------------------------------------------------------------------


def _header(plain: bytes, delimiter: bytes, source: CsvFile) -> tuple[list[str], int, int]:
    """Return the names of the columns, and offset and number of the line behind them."""
    found = re.compile(rb"(\n*+)([^\n]*+)\n?").match(plain)
    assert found is not None
    if not found[2]:
        raise _fault(source, "the file is empty")
    line, width = len(found[1]) + 1, found[2].count(delimiter) + 1
    if width > _MAX_COLUMNS:
        raise _fault(source, f"line {line} names {width:,} columns; at most {_MAX_COLUMNS:,} are read")
    cells = found[2].split(delimiter)
    _check_cells(cells, line, source)
    names = [_restored(cell, delimiter).strip() for cell in cells]
    if "" in names:
        raise _fault(source, f"column {names.index('') + 1} of {len(names)} has no name in the header, line {line}")
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        listed = ", ".join(f"'{_short(name)}'" for name in twice[:3])
        raise _fault(source, f"the header, line {line}, has {listed} more than once", twice[0])
    return names, found.end(), line + _line(_restored(found[2], delimiter).encode())


def _check_cells(cells: Sequence[bytes], line: int, source: CsvFile) -> None:
    if (longest := max(map(len, cells))) > _MAX_CELL:
        raise _fault(
            source,
            f"line {line} has a cell of {longest:,} bytes; at most {_MAX_CELL:,} are read, so nothing of this file is."
            " A quote that opens there by mistake makes one cell of many lines",
        )


def _chunks(plain: bytes, start: int) -> Iterator[bytes]:
    """Yield whole lines, at least once: a file without rows has its columns all the same."""
    while True:
        end = plain.find(b"\n", start + _CHUNK) + 1 or len(plain)
        yield plain[start:end]
        if end == len(plain):
            return
        start = end


@dataclass
class _Rows:
    """Cells as texts, null where empty, and the rows that have too few or too many of them."""

    names: list[str]
    delimiter: bytes
    cells: list[pl.DataFrame] = field(default_factory=list)
    lines: list[Positions] = field(default_factory=list)
    ragged: list[SetAside] = field(default_factory=list)
    all_ragged: list[tuple[int, None, str, str]] = field(default_factory=list)
    unfinished: bool = False

    def add(self, chunk: bytes, line: int, source: CsvFile) -> int:
        """Take whole lines, of which the first has the number `line`, and return the number of the line behind."""
        codes = np.frombuffer(chunk if chunk.endswith(b"\n") else chunk + b"\n", np.uint8)
        ends = np.flatnonzero(codes == ord("\n"))
        starts = np.append(0, ends[:-1] + 1)
        width = np.diff(np.searchsorted(np.flatnonzero(codes == ord(self.delimiter)), ends), prepend=0) + 1
        stand_ins = np.flatnonzero(codes == 0)
        breaks = stand_ins[np.isin(codes[stand_ins + 1], _BREAKS)]
        lines = line + np.arange(len(ends)) + np.searchsorted(breaks, starts)
        for i in np.flatnonzero(ends - starts > _MAX_CELL):
            _check_cells(chunk[starts[i] : ends[i]].split(self.delimiter), int(lines[i]), source)
        blank = starts == ends
        good = (width == len(self.names)) & ~blank
        ragged = np.flatnonzero(~good & ~blank)
        for i in ragged:
            text = _short(_restored(chunk[starts[i] : min(ends[i], starts[i] + 400)], self.delimiter))
            problem = f"{width[i]} of {len(self.names)} columns"
            self.all_ragged.append((int(lines[i]), None, text, problem))
            if len(self.ragged) < SHOWN:
                self.ragged.append(SetAside(int(lines[i]), problem, text))
        self.unfinished = not chunk.endswith(b"\n") and len(ends) - 1 in ragged
        self.cells.append(self._split(chunk if good.all() else codes[np.repeat(good, ends - starts + 1)].tobytes()))
        self.lines.append(lines[good])
        return line + len(ends) + len(breaks)

    def _split(self, chunk: bytes) -> pl.DataFrame:
        schema = {str(i): pl.String() for i in range(len(self.names))}
        # Polars drops a byte order mark at the very beginning; behind a header of our own it is a character.
        header = self.delimiter.join(name.encode() for name in schema) + b"\n"
        cells = pl.read_csv(header + chunk, separator=self.delimiter.decode(), quote_char=None, schema=schema)
        if b"\0" not in chunk:
            return cells  # an empty cell is null
        meant = _meanings(self.delimiter)
        restored = pl.all().str.replace_many(list(meant), list(meant.values()))
        return cells.with_columns(pl.when(restored != "").then(restored).name.keep())


# --- from cells to values ---------------------------------------------------------------------------------------


def _table(rows: _Rows, source: CsvFile, expected: Schema, complete: bool) -> Table:
    cells, lines = pl.concat(rows.cells), pl.Series("line", np.concatenate(rows.lines))
    fault = np.full(len(lines), -1, np.int32)  # the first column whose cell is not of its type
    every = [_present(cells[:, at], source.null).alias(name) for at, name in enumerate(rows.names)]
    agreed = _agreed(every, rows, source, expected, lines)
    kinds: list[ColumnType] = []
    columns: list[pl.Series] = []
    notes: list[str] = []
    for at, name in enumerate(rows.names):
        present = every[at]
        kind, values = _typed(_plain(present, agreed, name), cells[:, at], expected.get(name))
        fault[(values.is_null() & present.is_not_null()).to_numpy() & (fault < 0)] = at
        kinds.append(kind)
        columns.append(values.alias(name))
        notes += _notes(name, kind, expected.get(name), present, values, lines)
    bad = np.flatnonzero(fault >= 0)
    wrong = [_set_aside(cells.row(i), int(fault[i]), lines[i], rows, kinds) for i in bad[:SHOWN].tolist()]
    aside = sorted(rows.ragged + wrong, key=lambda one: one.line or 0)[:SHOWN]
    count = len(rows.all_ragged) + len(bad)
    waiting = int(rows.unfinished and not complete)
    report = _report(rows, cells, lines, fault, kinds) if count else None
    refuse_too_many(report, aside, count - waiting, len(cells) + len(rows.all_ragged), source.on_bad_rows, source.path)
    frame, good = pl.DataFrame(columns), pl.Series(fault < 0)
    if len(bad):
        frame, lines = frame.filter(good), lines.filter(good)
    return Table(frame, lines, aside, count, notes, rows.unfinished, report)


def _agreed(
    every: Sequence[pl.Series], rows: _Rows, source: CsvFile, expected: Schema, lines: pl.Series
) -> conventions.Conventions:
    """Return how numbers and days are written in this file, from what it declares and from what its cells show."""
    open_ = [one for one in every if expected.get(one.name) != ColumnType.TEXT]
    try:
        return conventions.decide(
            open_, decimal=source.decimal, dates=source.dates, divides=rows.delimiter.decode(), lines=lines
        )
    except Undecided as error:
        raise Undecided(f"{printable(source.path)}: {error}", source=source.path, column=error.column) from None


def _plain(present: pl.Series, agreed: conventions.Conventions, name: str) -> pl.Series:
    """Return cells with numbers and days written as everywhere else."""
    if agreed.decimal == ",":
        present = conventions.with_points(present)
    return conventions.with_years_first(present, agreed.dates[name]) if name in agreed.dates else present


def _report(
    rows: _Rows, cells: pl.DataFrame, lines: pl.Series, fault: npt.NDArray[np.int32], kinds: Sequence[ColumnType]
) -> pl.DataFrame:
    """Return all rows that cannot be used, in the order of their lines."""
    parts = [pl.DataFrame(rows.all_ragged, schema=BAD, orient="row")]
    for at in sorted({int(one) for one in fault[fault >= 0]}):
        own = pl.Series(np.flatnonzero(fault == at))
        parts.append(bad_rows(lines[own], rows.names[at], cells[:, at][own], f"not {_CALLED[kinds[at]]}"))
    return pl.concat(parts).sort("line", maintain_order=True)


def _present(cells: pl.Series, null: Sequence[str]) -> pl.Series:
    """Return the cells with null for every text that means missing, as it does in all columns but those of texts."""
    cell = pl.col("cell")
    missing = cell.str.strip_chars(" \t").is_in(["", *null])
    return cells.alias("cell").to_frame().select(pl.when(~missing).then(cell)).to_series()


def _typed(present: pl.Series, cells: pl.Series, expected: str | None) -> tuple[ColumnType, pl.Series]:
    """Return the type of a column and its values, null where a cell is missing or not of that type."""
    if expected is None:
        return _inferred(present, cells)
    kind = ColumnType(expected)
    if kind is ColumnType.TEXT:
        return kind, cells
    if kind is ColumnType.INTEGER and _fractions(present).any():
        kind = ColumnType.NUMBER
    return kind, as_type(present, kind)


def _fractions(present: pl.Series) -> pl.Series:
    """Return for each cell whether it is a number that is not written as an integer."""
    written = present.str.contains("[.eE]").fill_null(False)
    return written & as_type(present, ColumnType.NUMBER).is_not_null() if written.any() else written


def _inferred(present: pl.Series, cells: pl.Series) -> tuple[ColumnType, pl.Series]:
    known = present.drop_nulls()
    spare = max(10, len(known) // 100)
    head = known.head(2 * spare + _ENOUGH)
    for kind in _CALLED if len(known) else ():
        # More misfits among the first cells than the column may have at all: no need to look at the others.
        if len(head) < len(known) and as_type(head, kind).null_count() > spare:
            continue
        values = as_type(present, kind)
        misfits = present.filter(values.is_null() & present.is_not_null())
        if _fits(kind, known, misfits, spare):
            return kind, values
    return ColumnType.TEXT, cells


def _fits(kind: ColumnType, known: pl.Series, misfits: pl.Series, spare: int) -> bool:
    if kind in (ColumnType.INTEGER, ColumnType.NUMBER) and _has_codes(known):
        return False
    if len(misfits) == 0:
        return True
    if kind is ColumnType.BOOLEAN or (kind is ColumnType.INTEGER and as_type(misfits, ColumnType.NUMBER).count()):
        return False
    good = len(known) - len(misfits)
    return len(misfits) <= spare and good >= max(_ENOUGH, 5 * len(misfits))


def _has_codes(known: pl.Series) -> bool:
    """Return whether an integer such as 007, or one beyond 64 bits, shows that the column only looks like numbers."""
    digits = known.filter(known.str.contains(r"^[ \t]*[+-]?(0[0-9]+|[0-9]{19,})[ \t]*$"))
    if len(digits) == 0:
        return False
    return bool((digits.str.contains(r"^[ \t]*[+-]?0") | as_type(digits, ColumnType.INTEGER).is_null()).any())


def _notes(
    name: str, kind: ColumnType, expected: str | None, present: pl.Series, values: pl.Series, lines: pl.Series
) -> list[str]:
    if kind is ColumnType.NUMBER and expected == ColumnType.INTEGER:
        told, odd = "was integer and is now number", _fractions(present)
    elif kind is ColumnType.INSTANT and (zoned := present.str.contains(_ZONE)).any():
        told, odd = "names its zone in some rows only and is read as UTC in the others", ~zoned & values.is_not_null()
    else:
        return []
    first = odd.arg_true().head(1).to_list()
    return [f"{_short(name)} {told}: line {lines[at]} has '{_short(present[at], 40)}'" for at in first]


def _set_aside(row: Sequence[str | None], at: int, line: int, rows: _Rows, kinds: Sequence[ColumnType]) -> SetAside:
    reason = f"{_short(rows.names[at])} is '{_short(row[at] or '', 40)}', not {_CALLED[kinds[at]]}"
    return SetAside(line, reason, _short(rows.delimiter.decode().join(cell or "" for cell in row)))


def refuse_too_many(
    report: pl.DataFrame | None,
    aside: Sequence[SetAside],
    count: int,
    total: int,
    limit: BadRows,
    name: str,
    counted: str = "line",
) -> None:
    """Refuse a table of which more rows cannot be used than may be set aside.

    Raises:
        DataError: there are more; its fields hold the first 100.
    """
    allowed = max(limit.rows, math.floor(limit.share * total + 1e-9))  # 0.29 * 100 is a little less than 29
    if count > allowed:
        shown = "; ".join(
            f"{counted} {one.line}: {one.reason}" + (f", in '{one.text}'" if one.text else "") for one in aside[:3]
        )
        first = [] if report is None else [BadRow(*row) for row in report.head(SHOWN).iter_rows()]
        raise DataError(
            f"{printable(name)}: {count:,} of {total:,} rows cannot be used, {allowed:,} may be set aside: {shown}",
            source=name,
            column=first[0].column if first else None,
            bad_rows=first,
            bad_count=count,
        )
