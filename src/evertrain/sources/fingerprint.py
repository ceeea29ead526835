"""Fingerprints: whether rows are the same rows, whatever their order and whoever wrote the file.

Each row is a SHA-256 over its values in one canonical form; a set of rows is the sum of its rows' digests modulo
2^256, so that order does not matter, a row that stands twice counts twice, and the fingerprint of a rollup is the
sum of its partitions'. Incremental hashing by addition: Bellare and Micciancio, EUROCRYPT 1997 (AdHash).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from evertrain.sources.table import ColumnType, schema_of

# Another form of the same values has another number here: then rows are measured again, and nothing is retrained.
ALGORITHM = "1"
_MODULUS = 2**256
_EXACT = 2**53  # above it, a whole number is not one floating-point number any more

Digests = NDArray[np.uint8]


def row_digests(frame: pl.DataFrame, columns: Sequence[str]) -> Digests:
    """Return a digest of each row over `columns`, shape (rows, 32).

    The order of the columns does not matter, their names do. 5 and 5.0 are the same number, so that a column that
    becomes fractional changes the rows with fractions only. Missing values and NaN are one thing, -0.0 is 0.
    """
    names = sorted(columns)
    types = schema_of(frame.select(names))
    text = [name for name in names if types[name] == ColumnType.TEXT]
    plain = [name for name in names if name not in text]
    numbers = np.zeros((frame.height, 9 * len(plain)), dtype=np.uint8)
    for place, name in enumerate(plain):
        _put(numbers, 9 * place, frame[name], ColumnType(types[name]))
    start = hashlib.sha256(json.dumps([ALGORITHM, names]).encode())
    width, buffer = numbers.shape[1], memoryview(numbers.tobytes())
    out = bytearray(32 * frame.height)
    texts = [_bytes(frame[name]) for name in text]
    for row, at in enumerate(range(0, frame.height * width, width) if width else [0] * frame.height):
        digest = start.copy()
        digest.update(buffer[at : at + width])
        for cells in texts:
            digest.update(cells[row])
        out[32 * row : 32 * row + 32] = digest.digest()
    return np.frombuffer(bytes(out), dtype=np.uint8).reshape(-1, 32)


def _put(target: Digests, at: int, values: pl.Series, kind: ColumnType) -> None:
    """Write a tag and eight bytes for each value; a missing one stays all zero."""
    present = (~values.is_null()).to_numpy()
    if kind is ColumnType.INTEGER:
        whole = values.fill_null(0).cast(pl.Int64).to_numpy()
        big = np.abs(whole) > _EXACT
        floats = whole.astype(np.float64)
        raw = np.where(big, whole, floats.view(np.int64))
        tags = np.where(big, ord("i"), ord("n"))
    elif kind is ColumnType.NUMBER:
        floats = values.fill_null(np.nan).cast(pl.Float64).to_numpy()
        present &= ~np.isnan(floats)
        raw = (np.where(present, floats, 0.0) + 0.0).view(np.int64)
        tags = np.full(len(values), ord("n"))
    else:
        physical = values.cast(pl.Datetime("us")) if kind is ColumnType.INSTANT else values
        raw = physical.to_physical().cast(pl.Int64).fill_null(0).to_numpy()
        tags = np.full(len(values), {ColumnType.BOOLEAN: ord("b"), ColumnType.DATE: ord("d")}.get(kind, ord("t")))
    target[:, at] = np.where(present, tags, 0)
    eight = np.ascontiguousarray(np.where(present, raw, 0).astype("<i8")).view(np.uint8).reshape(-1, 8)
    target[:, at + 1 : at + 9] = eight


def _bytes(values: pl.Series) -> list[bytes]:
    """Return each text with its length before it, so that "ab" + "c" differs from "a" + "bc"."""
    found = []
    for text in values.cast(pl.String).to_list():
        data = b"" if text is None else text.encode()
        found.append((b"\xff\xff\xff\xff" if text is None else len(data).to_bytes(4, "little")) + data)
    return found


def sums(digests: Digests, starts: Sequence[int] | NDArray[np.int64]) -> list[str]:
    """Return the fingerprint of each group of consecutive rows; a group begins at each of `starts`."""
    if not len(starts):
        return []
    lanes = np.ascontiguousarray(digests).view("<u4").astype(np.uint64)
    totals = np.add.reduceat(lanes, np.asarray(starts, dtype=np.intp), axis=0)
    found = []
    for row in totals.tolist():
        total = sum(lane << (32 * place) for place, lane in enumerate(row)) % _MODULUS
        found.append(f"{ALGORITHM}:{total:064x}")
    return found


def combine(fingerprints: Iterable[str]) -> str:
    """Return the fingerprint of all rows together, e.g. of the rollup above these partitions."""
    total = sum(int(one.partition(":")[2], 16) for one in fingerprints) % _MODULUS
    return f"{ALGORITHM}:{total:064x}"
