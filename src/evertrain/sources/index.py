"""The index of an extract: which partitions it holds, where their rows begin, and their fingerprints.

Light on purpose: the loop reads it, and the loop at rest holds no data frame library.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from evertrain.partitions import KeyText


@dataclass(frozen=True)
class Leaf:
    """One partition's rows in an extract."""

    key: KeyText
    start: int
    rows: int
    fingerprint: str


def leaves(index: str | Path, keys: Sequence[KeyText] | None = None) -> Iterator[Leaf]:
    """Return partitions of an extract by its index: all, or those asked for that have rows."""
    with closing(sqlite3.connect(f"file:{index}?mode=ro", uri=True)) as database:
        if keys is None:
            rows = database.execute("SELECT * FROM leaves ORDER BY start").fetchall()
        else:
            listed = json.dumps(list(keys), ensure_ascii=False)
            rows = database.execute(
                "SELECT * FROM leaves WHERE key IN (SELECT value FROM json_each(?)) ORDER BY start", (listed,)
            ).fetchall()
    for key, start, number, fingerprint in rows:
        yield Leaf(KeyText(key), start, number, fingerprint)


def comparable(one: str | None, other: str | None) -> bool:
    """Return whether two fingerprints were made by the same algorithm."""
    return bool(one and other) and str(one).partition(":")[0] == str(other).partition(":")[0]
