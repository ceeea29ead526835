"""The index of an extract: which partitions it holds, where their rows begin, and their fingerprints.

Light on purpose: the loop reads it, and the loop at rest holds no data frame library.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evertrain.errors import StoreError
from evertrain.partitions import KeyText


@dataclass(frozen=True)
class Leaf:
    """One partition's rows in an extract."""

    key: KeyText
    start: int
    rows: int
    fingerprint: str


def leaves(index: str | Path, keys: Sequence[KeyText] | None = None) -> Iterator[Leaf]:
    """Return partitions of an extract by its index: all, or those asked for that have rows.

    Raises:
        StoreError: the index cannot be read now; a damaged one is removed, so that the source is read anew.
    """
    try:
        with closing(sqlite3.connect(f"file:{index}?mode=ro", uri=True)) as database:
            if keys is None:
                rows = database.execute("SELECT * FROM leaves ORDER BY start").fetchall()
            else:
                listed = json.dumps(list(keys), ensure_ascii=False)
                rows = database.execute(
                    "SELECT * FROM leaves WHERE key IN (SELECT value FROM json_each(?)) ORDER BY start", (listed,)
                ).fetchall()
    except sqlite3.OperationalError as error:
        raise StoreError(f"{Path(index).name}: {error}") from error
    except sqlite3.DatabaseError as error:
        Path(index).unlink(missing_ok=True)
        raise StoreError(f"{Path(index).name}: {error}; it is a copy, so its source is read again") from error
    for key, start, number, fingerprint in rows:
        yield Leaf(KeyText(key), start, number, fingerprint)


def complete(extract: Mapping[str, Any] | None) -> bool:
    """Return whether an extract and its index are there."""
    return extract is not None and all(one in extract and Path(extract[one]).exists() for one in ("path", "index"))


def comparable(one: str | None, other: str | None) -> bool:
    """Return whether two fingerprints were made by the same algorithm."""
    return bool(one and other) and str(one).partition(":")[0] == str(other).partition(":")[0]
