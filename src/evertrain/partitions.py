"""Partition keys: what a partition is called, which rollups stand above it, and how people read it.

A key is a mapping of dimension names to values, in the order in which the model declares its dimensions. A rollup
keeps some dimensions and drops the others; a model without dimensions has one partition, whose key is empty. In the
store a key is canonical JSON, so that equal keys are equal text and `3` differs from `"3"`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import NewType

Value = str | int | float | bool | None
Key = Mapping[str, Value]
KeyText = NewType("KeyText", str)

WHOLE = KeyText("{}")


def encode(key: Mapping[str, object], dimensions: Sequence[str]) -> KeyText:
    """Return the canonical text of a key.

    Dates become ISO text and a missing value (None, NaN) becomes null, so that a key read from a file and one typed
    by a person meet.

    Raises:
        ValueError: a value is of a type that cannot be a key, or a name is no dimension.

    >>> encode({"town": "Pilar", "fruit": 3}, ["fruit", "town"])
    '{"fruit":3,"town":"Pilar"}'
    """
    unknown = [name for name in key if name not in dimensions]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no dimension; the dimensions are {', '.join(dimensions) or 'none'}")
    ordered = {name: _plain(key[name]) for name in dimensions if name in key}
    return KeyText(json.dumps(ordered, ensure_ascii=False, separators=(",", ":"), allow_nan=False))


def decode(text: str) -> dict[str, Value]:
    """Return the key that `encode` wrote."""
    key: dict[str, Value] = json.loads(text)
    return key


def rollup(key: Key, kept: Sequence[str]) -> dict[str, Value]:
    """Return the key of the rollup above `key` that keeps the dimensions `kept`."""
    return {name: key[name] for name in key if name in kept}


def closure(
    keys: Iterable[KeyText], dimensions: Sequence[str], rollups: Iterable[Sequence[str]]
) -> dict[KeyText, None]:
    """Return the given keys and every declared rollup above them, in a stable order and each once.

    A rollup stands above a key when it keeps a proper part of the key's dimensions.

    >>> closure([encode({"fruit": "Avocado", "town": "Hermosa"}, ["fruit", "town"])], ["fruit", "town"], [["fruit"]])
    {'{"fruit":"Avocado","town":"Hermosa"}': None, '{"fruit":"Avocado"}': None}
    """
    levels = [tuple(kept) for kept in rollups]
    found: dict[KeyText, None] = dict.fromkeys(keys)
    for text in list(found):
        key = decode(text)
        for kept in levels:
            if set(kept) < set(key):
                found.setdefault(encode(rollup(key, kept), dimensions))
    return found


def fallbacks(key: Key, dimensions: Sequence[str], rollups: Iterable[Sequence[str]]) -> list[KeyText]:
    """Return the rollups that may answer for `key`, nearest first: the one that keeps most dimensions.

    Among rollups that keep equally many, the one declared first is nearer.
    """
    above = [kept for kept in rollups if set(kept) < set(key)]
    above.sort(key=len, reverse=True)
    return [encode(rollup(key, kept), dimensions) for kept in above]


def label(key: Key, dimensions: Sequence[str], overall: str = "Overall") -> str:
    """Return the name people read: the values kept, and `overall` where dimensions were dropped.

    >>> label({"fruit": "Avocado"}, ["fruit", "town"])
    'Avocado, Overall'
    >>> label({}, ["town"])
    'Overall'
    """
    parts = ["no value" if value is None else printable(str(value)) for value in key.values()]
    if len(key) < len(dimensions):
        parts.append(overall)
    return ", ".join(parts)


def printable(text: str) -> str:
    """Return `text` with control characters escaped, safe for a terminal and for one line of a log."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _plain(value: object) -> Value:
    if isinstance(value, str) and not _is_utf8(value):
        raise ValueError(f"{value!r} cannot be the value of a partition key: it is no Unicode text (a lone surrogate)")
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float) and not math.isinf(value):
        return None if math.isnan(value) else int(value) if value.is_integer() else value
    if isinstance(value, datetime | date):
        return value.isoformat() if value == value else None  # pandas' NaT is a datetime, too
    raise ValueError(f"{value!r} ({type(value).__name__}) cannot be the value of a partition key")
