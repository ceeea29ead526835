"""What forecasting trainers share: values and future labels of a series, intervals, and arrays as bytes."""

from __future__ import annotations

import hashlib
import io
import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray

from evertrain.errors import ArtifactError, DataError, EvertrainError

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
T = TypeVar("T")

_MOST_UNPACKED = 1 << 30

# Origins that a step of the horizon must have been forecast from before its own errors count.
_LEAST_ORIGINS = 5


def values(frame: pd.DataFrame, who: str, least: int, *, missing: bool = False) -> Floats:
    """Return the values of a series, checked.

    Args:
        least: fewest values that `who` learns from.
        missing: whether `who` can do without some of them.

    Raises:
        DataError: there are too few, or one is missing or infinite.
    """
    found = np.array(frame["y"], dtype=np.float64)
    if np.isinf(found).any():
        raise DataError("y is infinite in some periods", column="y")
    holes = int(np.isnan(found).sum())
    if holes and not missing:
        raise DataError(
            f"y is missing in {holes} of {found.size} periods, which {who} cannot use; "
            "declare gaps='zero' or gaps='linear'",
            column="y",
        )
    if found.size - holes < least:
        raise DataError(f"{found.size - holes} periods are too few for {who}, which needs {least}", column="y")
    return found


def mean_only(context: Any) -> bool:
    """Return whether the fit is one of a backtest, of which no interval will be asked."""
    return bool(getattr(context, "mean_only", False))


def labels_after(last: Any, freq: str, h: int) -> pd.DatetimeIndex:
    """Return the labels of the h periods behind the one labelled `last`."""
    import pandas as pd

    offset = pd.tseries.frequencies.to_offset(freq)
    return pd.date_range(pd.Timestamp(last) + offset, periods=h, freq=offset)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what a library says about series that are short, constant or zero: the answer is checked instead."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


@contextmanager
def fenced(who: str) -> Iterator[None]:
    """Turn what a library raises about a series, whatever its type, into one `DataError`; silence what it says."""
    try:
        with quiet():
            yield
    except EvertrainError:
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or "it does not say why"
        raise DataError(f"{who} cannot use this series ({type(error).__name__}: {reason})", column="y") from error


def nested(who: str, mean: Any, bounds: Mapping[int, tuple[Any, Any]]) -> dict[str, Floats]:
    """Return a forecast whose intervals hold the mean and each other.

    Intervals from draws, and those of multiplicative models, may miss the mean by a little.

    Args:
        bounds: lower and upper ends by level.

    Raises:
        DataError: some number of it is not finite.
    """
    found = {"mean": np.array(mean, dtype=np.float64)}
    inner_lo = inner_hi = found["mean"]
    for level in sorted(bounds):
        lo, hi = (np.asarray(one, dtype=np.float64) for one in bounds[level])
        inner_lo, inner_hi = np.minimum(inner_lo, lo), np.maximum(inner_hi, hi)
        found[f"lo-{level}"], found[f"hi-{level}"] = inner_lo, inner_hi
    if not all(np.isfinite(one).all() for one in found.values()):
        raise DataError(f"{who} answers no finite numbers for this series", column="y")
    return found


def half_widths(errors: Floats, h: int, level: int) -> Floats:
    """Return how far an interval reaches on either side of the mean, for each of h steps.

    Each step has the root mean square of its own errors as scale, never less than an earlier step's. How many scales
    an interval spans is the conformal quantile of the errors of all steps in these scales, and Student's factor more:
    both bring few origins a wider interval. Steps that were not tried often enough grow with the square root of
    their distance.

    Args:
        errors: shape (origins, steps), of forecasts of values that the forecaster had not seen; NaN where a step
            lies behind the end of the series. The first step of at least one origin is there.

    Source: Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World (2005), for the quantile.

    >>> half_widths(np.full((50, 2), 3.0), 4, 80).round(2)
    array([3.04, 3.04, 3.72, 4.3 ])
    """
    from scipy.special import ndtri, stdtrit  # type: ignore[import-untyped]

    counts = (~np.isnan(errors)).sum(axis=0)
    tried = max(1, int((counts >= min(_LEAST_ORIGINS, counts[0])).sum()))
    errors, origins = errors[:, :tried], int(counts[0])
    scale = np.maximum.accumulate(np.sqrt(np.nanmean(errors**2, axis=0)))
    if h > tried:
        scale = np.append(scale, scale[-1] * np.sqrt(np.arange(tried + 1, h + 1) / tried))
    if not scale[tried - 1]:
        return np.zeros(h)
    sizes = np.abs(errors) / np.maximum(scale[:tried], np.finfo(np.float64).tiny)
    share = level / 100
    spans = np.quantile(sizes[~np.isnan(sizes)], min(1.0, share * (1 + 1 / origins)), method="higher")
    student = stdtrit(origins, (1 + share) / 2) / ndtri((1 + share) / 2)
    widths: Floats = scale[:h] * spans * student
    return widths


# --- saved forecasters ------------------------------------------------------------------------------------------


def pack(tree: Any) -> bytes:
    """Return a tree of dicts with text keys, lists, tuples, plain values and arrays as an npz file without pickle.

    The arrays of one type are one entry of the file: a small fit has many, and each entry costs more than what it holds.
    """
    arrays: dict[str, list[Any]] = {}
    text = json.dumps(_to_json(tree, arrays))
    entries = {f"a{name}": np.concatenate(parts) for name, parts in arrays.items()}
    out = io.BytesIO()
    np.savez_compressed(out, allow_pickle=False, tree=np.frombuffer(text.encode(), dtype=np.uint8), **entries)
    return out.getvalue()


def unpack(data: bytes, make: Callable[[Any], T]) -> T:
    """Return what `make` makes of the tree that `pack` was given; it is the same bit for bit.

    Raises:
        ArtifactError: the bytes are no such file, are damaged, would unpack to more than 1 GB, or `make` fails.
    """
    try:
        with ZipFile(io.BytesIO(data)) as archive:
            size = sum(one.file_size for one in archive.infolist())
        if size > _MOST_UNPACKED:
            raise ValueError(f"{len(data)} bytes would unpack to {size}, more than the {_MOST_UNPACKED} allowed")
        with np.load(io.BytesIO(data), allow_pickle=False) as found:
            entries = {name: found[name] for name in found.files}
        return make(_from_json(json.loads(entries.pop("tree").tobytes()), entries))
    except EvertrainError:
        raise
    except Exception as error:
        text = f"the bytes are no forecaster that can be loaded ({type(error).__name__}: {error})"
        raise ArtifactError(text, digest=hashlib.sha256(data).hexdigest()) from error


def _to_json(value: Any, arrays: dict[str, list[Any]]) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        flat = np.ascontiguousarray(value).reshape(-1)
        parts = arrays.setdefault(flat.dtype.str, [])
        start = sum(one.size for one in parts)
        parts.append(flat)
        return {"$array": f"a{flat.dtype.str}", "start": start, "shape": list(np.shape(value))}
    if isinstance(value, tuple):
        return {"$tuple": [_to_json(one, arrays) for one in value]}
    if isinstance(value, list):
        return [_to_json(one, arrays) for one in value]
    if isinstance(value, dict):
        return {key: _to_json(one, arrays) for key, one in value.items()}
    return value


def _from_json(value: Any, arrays: Mapping[str, Any]) -> Any:
    match value:
        case {"$array": name, "start": start, "shape": shape}:
            part = arrays[name][start : start + math.prod(shape)]
            return part.reshape(shape).copy()[()]  # a copy: what changes one array must leave the others alone
        case {"$tuple": items}:
            return tuple(_from_json(one, arrays) for one in items)
        case list():
            return [_from_json(one, arrays) for one in value]
        case dict():
            return {key: _from_json(one, arrays) for key, one in value.items()}
    return value


def level_of(level: Sequence[int]) -> list[int]:
    """Return levels as a sorted list, each once."""
    return sorted({int(one) for one in level})
