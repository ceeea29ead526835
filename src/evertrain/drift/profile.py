"""A champion's profile: what its rows, answers and losses looked like, small enough to keep beside every fit.

No raw row is needed later. A column of numbers is kept as at most 4,096 equally spaced order statistics of all its
rows, which are within 1/4096 of its distribution function; a column of text as counts of its levels.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from evertrain.drift import statistics
from evertrain.drift.statistics import Floats, Ints
from evertrain.drift.table import Cells, Kind, cells, column_cells, instants
from evertrain.errors import ArtifactError, DataError

KEPT = 4_096  # order statistics of a column
FEW = 10  # distinct values up to which numbers are compared like levels
OUTLIER = 3.5  # robust standard deviations
PERIODS = (24, 7, 168, 12, 52)  # rows of a season
_LEVELS = 10_000
_LOSSES = 20_000
_MEMORY = 16_384  # newest rows in which neighbours are looked at
_BLOCK = 1 << 18  # cells that are worked on at once
_SAMPLE = 2_000
_MAGIC, _VERSION = b"EVTPROF", 1


class Facts(NamedTuple):
    """What is known of a column of numbers, in its unit; all but `tau` are of the rows as they came."""

    mean: float
    sd: float
    median: float
    spread: float  # robust standard deviation; NaN where most values are equal
    low: float  # the range: 0.1 % and 99.9 % quantile, widened by the interquartile range
    high: float
    beyond: float  # rows outside the range
    outliers: float  # rows more than OUTLIER spreads off the median
    tau: float
    missing_tau: float  # of being missing


@dataclass(frozen=True, eq=False, slots=True)
class Numbers:
    """A column of numbers.

    Attributes:
        rows: with a finite value.
        missing: without, infinities included.
        values: order statistics, without the season where there is one; where `counts` are, the distinct values.
        counts: rows of each distinct value, where there are at most 10 of those.
        season: mean and standard deviation at each place of the period, shape (2, period); else empty.
    """

    name: str
    rows: int
    missing: int
    infinite: int
    facts: Facts
    values: Floats
    counts: Floats
    season: Floats

    @property
    def order(self) -> Floats:
        """Order statistics, with ties."""
        if not len(self.counts):
            return self.values
        kept = min(self.rows, KEPT)
        places = (np.arange(kept) + 0.5) / kept * self.rows
        return self.values[np.searchsorted(np.cumsum(self.counts), places, "right")]


@dataclass(frozen=True, eq=False, slots=True)
class Levels:
    """A column of text: how many rows have each level; `other` rows have one that is not kept, `singles` one of their own."""

    name: str
    rows: int
    missing: int
    tau: float
    missing_tau: float
    levels: tuple[str, ...]
    counts: Floats
    other: int
    singles: int


@dataclass(frozen=True, eq=False, slots=True)
class Unread:
    """A column of times, or one without any value: whether it is there, and how much is missing, is all that is compared."""

    name: str
    kind: Kind
    rows: int
    missing: int


Column = Numbers | Levels | Unread


def kind_of(column: Column) -> Kind:
    """Return what the cells of a profile's column were."""
    if isinstance(column, Unread):
        return column.kind
    return Kind.NUMBER if isinstance(column, Numbers) else Kind.TEXT


class Clock(NamedTuple):
    """Regular times: the first, and the step, in nanoseconds; a step of 0 is a calendar month."""

    first: int
    step: int

    def ticks(self, times: Ints) -> Ints:
        """Return how many steps after the first each time is, rounded."""
        if not self.step:
            return _months(times) - _months(np.array([self.first]))
        return np.asarray(np.rint((times - self.first) / self.step), np.int64)


def _months(times: Ints) -> Ints:
    return times.astype("datetime64[ns]").astype("datetime64[M]").astype(np.int64)


@dataclass(frozen=True, eq=False)
class Profile:
    """The reference that recent rows are compared with.

    Attributes:
        rows: how many it was made of.
        columns: in the order of the frame.
        prediction: the champion's answers to these rows, None where they were not given.
        losses: its out-of-sample losses in time order, float64, at most the newest 20,000; may be empty.
        weights: importance of columns, None where it is not known.
        clock: the times, where they are regular.
        ordered: rows had times.
        exact: all values were kept.
        sample: at most 2,000 rows without missing numbers, shape (rows, columns), for looking at columns together;
            empty unless asked for.
        sampled: the names of its columns.

    >>> frame = pd.DataFrame({"area": np.arange(100.0), "town": ["Graz", "Linz"] * 50})
    >>> profile = Profile.of(frame, losses=np.ones(3))
    >>> again = Profile.from_bytes(profile.to_bytes())
    >>> again.rows, [column.name for column in again.columns], again.losses.tolist()
    (100, ['area', 'town'], [1.0, 1.0, 1.0])
    """

    rows: int
    columns: tuple[Column, ...]
    prediction: Column | None = None
    losses: Floats = field(default_factory=lambda: np.empty(0))
    weights: Mapping[str, float] | None = None
    clock: Clock | None = None
    ordered: bool = False
    exact: bool = False
    sample: Floats = field(default_factory=lambda: np.empty((0, 0)))
    sampled: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        frame: pd.DataFrame,
        *,
        times: object = None,
        predicted: object = None,
        losses: npt.ArrayLike | None = None,
        weights: Mapping[str, float] | None = None,
        exact: bool = False,
        joint: bool = False,
    ) -> Profile:
        """Return the profile of the rows that a champion learnt from, or better, was proven on.

        Args:
            frame: what the model reads, one column per feature.
            times: of the rows, in any order; without them rows are taken as independent.
            predicted: the champion's answer to each row: numbers, or classes.
            losses: out-of-sample losses, in time order; not necessarily of these rows. NaNs are left out.
            weights: importance of columns, in any unit; below 0 counts as 0, and such columns are not compared.
            exact: keep all values instead of 4,096 of each column.
            joint: also keep a sample of rows, for comparing columns together.

        Raises:
            DataError: times or answers do not fit the rows, or losses are no numbers.
        """
        n = len(frame)
        order, clock = None, None
        if times is not None:
            moments = instants(times, n)
            clock = _clock(np.sort(moments))
            order = np.argsort(moments, kind="stable")
            if clock is not None:
                ticks = clock.ticks(moments[order])
            if (order[1:] > order[:-1]).all():
                order = None
        memory = _Memory(times is not None, None if clock is None else ticks)
        columns = tuple(_columns(cells(frame, order), n, memory, exact))
        prediction = None
        if predicted is not None:
            prediction = next(_columns(iter([answers(predicted, n, order)]), n, memory, exact))
        sampled, sample = _sample(frame, order, columns) if joint else ((), np.empty((0, 0)))
        return cls(
            n, columns, prediction, _losses(losses), None if weights is None else _weights(weights), clock,
            times is not None, exact, sample, sampled,
        )  # fmt: skip

    def to_bytes(self) -> bytes:
        """Return the profile as bytes: a header of JSON, then little-endian float64, then a checksum."""
        described, arrays = [], []
        everything = (*self.columns, *(() if self.prediction is None else (self.prediction,)))
        for column in everything:
            one, parts = _packed(column)
            described.append(one)
            arrays += parts
        arrays += [self.losses, self.sample.ravel()]
        header = json.dumps(
            {
                "rows": self.rows, "columns": described, "prediction": self.prediction is not None,
                "losses": len(self.losses), "weights": self.weights, "clock": self.clock, "ordered": self.ordered,
                "exact": self.exact,
                "sampled": self.sampled, "sample": len(self.sample),
            },
            separators=(",", ":"),
        ).encode()  # fmt: skip
        body = struct.pack("<7sBI", _MAGIC, _VERSION, len(header)) + header
        body += np.concatenate(arrays).astype("<f8", copy=False).tobytes()
        return body + struct.pack("<I", zlib.crc32(body))

    @classmethod
    def from_bytes(cls, data: bytes) -> Profile:
        """Return the profile that `to_bytes` wrote.

        Raises:
            ArtifactError: the bytes are damaged, or no profile of a version known here.
        """
        digest = hashlib.sha256(data).hexdigest()
        size = struct.calcsize("<7sBI")
        if len(data) < size + 4 or not data.startswith(_MAGIC):
            raise ArtifactError(f"{len(data)} bytes are no profile", digest=digest)
        _, version, length = struct.unpack_from("<7sBI", data)
        if version != _VERSION:
            raise ArtifactError(f"a profile of version {version}; known is {_VERSION}", digest=digest)
        if zlib.crc32(data[:-4]) != struct.unpack("<I", data[-4:])[0]:
            raise ArtifactError("a profile's bytes are not those that were written", digest=digest)
        try:
            header = json.loads(data[size : size + length])
            return cls._unpacked(header, np.frombuffer(data[size + length : -4], "<f8"))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ArtifactError(f"a profile cannot be read: {error}", digest=digest) from error

    @classmethod
    def _unpacked(cls, header: Mapping[str, Any], numbers: Floats) -> Profile:
        left = _Reader(numbers.astype(np.float64, copy=False))
        columns = [_unpacked(one, left) for one in header["columns"]]
        prediction = columns.pop() if header["prediction"] else None
        losses, sampled = left.take(header["losses"]), tuple(header["sampled"])
        sample = left.take(header["sample"] * len(sampled)).reshape(header["sample"], len(sampled))
        left.done()
        clock = None if header["clock"] is None else Clock(*header["clock"])
        return cls(
            header["rows"],
            tuple(columns),
            prediction,
            losses,
            header["weights"],
            clock,
            header["ordered"],
            header["exact"],
            sample,
            sampled,
        )


class _Reader:
    def __init__(self, numbers: Floats) -> None:
        self.numbers, self.place = numbers, 0

    def take(self, size: int) -> Floats:
        found = self.numbers[self.place : self.place + size]
        if size < 0 or len(found) != size:
            raise ValueError(f"{size} numbers are missing at {self.place}")
        self.place += size
        return found

    def done(self) -> None:
        if self.place != len(self.numbers):
            raise ValueError(f"{len(self.numbers) - self.place} numbers too many")


def _packed(column: Column) -> tuple[dict[str, Any], list[Floats]]:
    one: dict[str, Any] = {"name": column.name, "kind": kind_of(column), "rows": column.rows, "missing": column.missing}
    if isinstance(column, Numbers):
        one |= {"infinite": column.infinite, "values": len(column.values), "counts": len(column.counts)}
        one["season"] = column.season.shape[-1]
        return one, [np.array(column.facts), column.values, column.counts, column.season.ravel()]
    if isinstance(column, Levels):
        one |= {"levels": column.levels, "other": column.other, "singles": column.singles}
        return one, [np.array([column.tau, column.missing_tau]), column.counts]
    return one, []


def _unpacked(one: Mapping[str, Any], left: _Reader) -> Column:
    kind, common = Kind(one["kind"]), (one["name"], one["rows"], one["missing"])
    if kind is Kind.NUMBER:
        facts = Facts(*left.take(len(Facts._fields)).tolist())
        values, counts = left.take(one["values"]), left.take(one["counts"])
        return Numbers(*common, one["infinite"], facts, values, counts, left.take(2 * one["season"]).reshape(2, -1))
    if kind is Kind.TEXT:
        (tau, missing_tau), levels = left.take(2).tolist(), tuple(one["levels"])
        return Levels(*common, tau, missing_tau, levels, left.take(len(levels)), one["other"], one["singles"])
    return Unread(one["name"], kind, one["rows"], one["missing"])


class _Memory(NamedTuple):
    """Whether rows are in the order of time, and how many steps of a clock each is after the first."""

    ordered: bool
    ticks: Ints | None


def block_size(rows: int) -> int:
    """Return how many columns of so many rows are worked on at once."""
    return max(1, _BLOCK // max(rows, 1))


def _columns(found: Iterator[Cells], rows: int, memory: _Memory, exact: bool) -> Iterator[Column]:
    """Yield profiles of columns; numbers are worked on in blocks, so that large frames need little more memory."""
    while block := list(islice(found, block_size(rows))):
        numbers = [one for one in block if one.kind is Kind.NUMBER]
        made = dict(zip((one.name for one in numbers), _numbers(numbers, memory, exact), strict=True))
        for one in block:
            if one.kind is Kind.NUMBER:
                yield made[one.name]
            elif one.kind is Kind.TEXT:
                yield _levels(one, memory)
            else:
                yield Unread(one.name, one.kind, one.rows - one.missing, one.missing)


def finite(numbers: Sequence[Cells]) -> tuple[Floats, Ints, Ints]:
    """Return columns of numbers as a matrix with NaN for all that is not finite, and counts of the finite and infinite."""
    x = np.stack([one.numbers for one in numbers])
    good = np.isfinite(x)
    rows = good.sum(axis=1)
    infinite = np.zeros(len(x), np.int64)
    if not good.all():
        infinite = np.isinf(x).sum(axis=1)
        x[~good] = np.nan
    return x, rows, infinite


def moments(x: Floats, rows: Ints) -> tuple[Floats, Floats]:
    """Return mean and standard deviation (of all rows, not n - 1) of columns of which so many rows are not NaN."""
    gaps = None if rows.size and rows.min() == x.shape[1] else np.isnan(x)
    mean = (x if gaps is None else np.where(gaps, 0.0, x)).sum(axis=1) / rows
    off = x - mean[:, np.newaxis]
    if gaps is not None:
        off[gaps] = 0.0
    return mean, np.sqrt(np.einsum("ij,ij->i", off, off) / rows)


def _numbers(numbers: Sequence[Cells], memory: _Memory, exact: bool) -> list[Column]:
    if not numbers:
        return []
    x, rows, infinite = finite(numbers)
    d, n = x.shape
    made: list[Column] = [Unread(one.name, Kind.EMPTY, 0, n) for one in numbers]
    if not n:
        return made
    with np.errstate(all="ignore"):  # empty columns, and squares of huge numbers
        mean, sd = moments(x, rows)
        # Numbers without an order in time are not needed as they came; memory for large frames is slow to get.
        order = x.copy() if memory.ordered else x
        order.sort(axis=1)
        low, q1, median, q3, high = _quantiles(order, rows, (0.001, 0.25, 0.5, 0.75, 0.999)).T
        kept = order if n <= KEPT else np.take_along_axis(order, _places(KEPT, rows), axis=1)
        deviations = np.sort(np.abs(kept - median[:, np.newaxis]), axis=1)
        mad = _quantiles(deviations, rows if n <= KEPT else np.where(rows > 0, KEPT, 0), (0.5,))[:, 0]
        spread = statistics.robust_spread(mad, q3 - q1)
        low, high = low - (q3 - q1), high + (q3 - q1)
        distinct = (order[:, 1:] > order[:, :-1]).sum(axis=1) + 1
        beyond = outside(order, rows, low, high)
        outliers = outside(order, rows, median - OUTLIER * spread, median + OUTLIER * spread)
        seasons = _seasons(x, rows, distinct, memory.ticks)
        for j, season in seasons.items():
            x[j] = without_season(x[j], season, memory.ticks)
            periods = rows[j] / season.shape[1]
            # Each row is compared with the other periods alone, as recent rows will be.
            x[j] *= periods / (periods - 1)
            order[j] = np.sort(x[j])
        tau, missing_tau = np.ones(d), np.ones(d)
        if memory.ordered:
            tau = _taus(x, order, rows)
            missing_tau = np.asarray(statistics.tau(np.isnan(x[:, -_MEMORY:]))) if rows.min() < n else missing_tau
    facts = np.stack([mean, sd, median, spread, low, high, beyond, outliers, tau, missing_tau], axis=1).tolist()
    for j, one in enumerate(numbers):
        m = int(rows[j])
        if not m:
            continue
        values, counts = order[j, :m], np.empty(0)
        if distinct[j] <= FEW:
            values, each = np.unique(values, return_counts=True)
            counts = each.astype(float)
        elif m > KEPT and not exact:
            values = values[_places(KEPT, rows[j : j + 1])[0]]
        season = seasons.get(j, np.empty((2, 0)))
        made[j] = Numbers(one.name, m, n - m, int(infinite[j]), Facts(*facts[j]), values.copy(), counts, season)
    return made


def outside(order: Floats, rows: Ints, low: Floats, high: Floats) -> Ints:
    """Return how many values of each sorted column are below or above its limits; none where those are NaN."""
    limits = np.stack([np.nextafter(low, -np.inf), high], axis=1)
    at_most = statistics.counts_at_most(order, limits)
    return np.where(np.isnan(low), 0, at_most[:, 0] + rows - at_most[:, 1])


def _quantiles(order: Floats, rows: Ints, shares: tuple[float, ...]) -> Floats:
    """Return order statistics of sorted rows of which the first `rows` count; NaN where there are none."""
    places = np.ceil(np.array(shares) * rows[:, np.newaxis]).astype(np.int64) - 1
    return np.take_along_axis(order, np.maximum(places, 0), axis=1)


def _places(kept: int, rows: Ints) -> Ints:
    """Return the places of `kept` equally spaced order statistics of so many rows each."""
    return ((np.arange(kept) + 0.5) / kept * rows[:, np.newaxis]).astype(np.int64)


def _taus(x: Floats, order: Floats, rows: Ints) -> Floats:
    """Return the mean autocorrelation time of being at most each of five quantiles."""
    limits = _quantiles(order, rows, (0.1, 0.25, 0.5, 0.75, 0.9))
    newest = x[:, -_MEMORY:]
    at_most = newest[:, np.newaxis, :] <= limits[:, :, np.newaxis]
    found: Floats = np.asarray(statistics.tau(at_most)).mean(axis=1)
    return found


def _seasons(x: Floats, rows: Ints, distinct: Ints, ticks: Ints | None) -> dict[int, Floats]:
    """Return mean and standard deviation at each place of the season, for the columns that have one."""
    n = x.shape[1]
    periods = sorted(period for period in PERIODS if n >= 8 * period)
    if ticks is None or not periods:
        return {}
    found: dict[int, Floats] = {}
    newest = x[:, -_MEMORY:]
    mean, _ = moments(newest, np.isfinite(newest).sum(axis=1))
    centred = newest - mean[:, np.newaxis]
    every = statistics.autocovariance(np.where(np.isnan(centred), 0.0, centred))
    correlations = every / np.maximum(every[:, :1], 1e-300)
    likely = (correlations[:, periods] > 0.3).any(axis=1) & (distinct > FEW) & (rows >= 0.9 * n)
    for j in np.flatnonzero(likely).tolist():
        if period := _period(correlations[j], periods):
            place = ticks % period
            known = np.isfinite(x[j])
            sizes = np.bincount(place[known], minlength=period)
            if sizes.min() < 2:
                continue
            mean = np.bincount(place[known], x[j][known], period) / sizes
            squares = np.bincount(place[known], np.square(x[j][known] - mean[place[known]]), period)
            sd = np.sqrt(squares / (sizes - 1))
            found[j] = np.stack([mean, np.where(sd > 0, sd, 1.0)])
    return found


def _period(correlation: Floats, periods: list[int]) -> int:
    """Return the shortest lag at which the autocorrelation has a clear peak about as high as any; 0 without one."""
    peaks = [
        lag
        for lag in periods
        if correlation[lag] > 0.3
        and correlation[lag] > max(correlation[lag - 1], correlation[lag + 1]) - 0.05  # of few periods, noise moves it
        and correlation[lag] - correlation[1:lag].min() > 0.1
    ]
    best = max((correlation[lag] for lag in peaks), default=0.0)
    return min((lag for lag in peaks if correlation[lag] >= best - 0.05), default=0)


def without_season(values: Floats, season: Floats, ticks: Ints | None) -> Floats:
    """Return values as standard deviations off the mean of their place in the season."""
    assert ticks is not None
    place = ticks % season.shape[1]
    return np.asarray((values - season[0][place]) / season[1][place])


def _levels(one: Cells, memory: _Memory) -> Levels:
    known = one.codes[one.codes >= 0]
    counts = np.bincount(known, minlength=len(one.levels))
    order = np.argsort(-counts, kind="stable")[:_LEVELS]
    tau = missing_tau = 1.0
    if memory.ordered:
        newest = one.codes[-_MEMORY:]
        tau = float(np.mean(statistics.tau(newest == order[:5, np.newaxis])))
        missing_tau = float(statistics.tau(newest < 0))
    kept = counts[order]
    singles = int((counts == 1).sum())
    names = tuple(one.levels[place] for place in order)
    return Levels(
        one.name,
        len(known),
        one.rows - len(known),
        tau,
        missing_tau,
        names,
        kept.astype(float),
        len(known) - int(kept.sum()),
        singles,
    )


def _clock(times: Ints) -> Clock | None:
    """Return the clock of sorted times: nearly all steps equal, the others whole multiples; None where there is none."""
    if len(times) < 8 * min(PERIODS):
        return None
    months = _months(times)
    if (np.diff(months) == 1).all():
        return Clock(int(times[0]), 0)
    steps = np.diff(times)
    step = int(np.median(steps))
    if step <= 0 or (steps % step).any() or (steps == step).mean() < 0.95 or steps.min() <= 0:
        return None
    return Clock(int(times[0]), step)


def answers(predicted: object, rows: int, order: Ints | None) -> Cells:
    """Return the champion's answers as a column."""
    try:
        series = pd.Series(predicted)
    except ValueError as error:
        raise DataError(f"predictions are one value for each row: {error}") from error
    if len(series) != rows:
        raise DataError(f"there are {len(series)} predictions for {rows} rows")
    return column_cells("prediction", series, order)


def _losses(losses: npt.ArrayLike | None) -> Floats:
    if losses is None:
        return np.empty(0)
    try:
        found = np.asarray(losses, np.float64).ravel()
    except (TypeError, ValueError) as error:
        raise DataError(f"losses are no numbers: {error}") from error
    return found[np.isfinite(found)][-_LOSSES:].copy()


def _weights(weights: Mapping[str, float]) -> dict[str, float]:
    found = {str(name): float(weight) for name, weight in weights.items()}
    if bad := [name for name, weight in found.items() if not np.isfinite(weight)]:
        raise DataError(f"the weight of {bad[0]!r} is {found[bad[0]]}; it must be a finite number")
    return {name: max(0.0, weight) for name, weight in found.items()}


def _sample(frame: pd.DataFrame, order: Ints | None, columns: Sequence[Column]) -> tuple[tuple[str, ...], Floats]:
    """Return at most 2,000 equally spaced rows without missing numbers, in the order of time where it is known."""
    names = tuple(column.name for column in columns if isinstance(column, Numbers))
    return names, evenly(complete(frame, names, order), _SAMPLE)


def evenly(rows: Floats, most: int) -> Floats:
    """Return at most so many rows, equally spaced."""
    return rows if len(rows) <= most else rows[_places(most, np.array([len(rows)]))[0]]


def complete(frame: pd.DataFrame, names: Sequence[str], order: Ints | None = None) -> Floats:
    """Return the rows whose numbers are all there, shape (rows, names).

    Raises:
        DataError: a column is gone, or has no numbers.
    """
    found = {one.name: one for one in cells(frame, order) if one.kind is Kind.NUMBER and one.name in set(names)}
    if gone := [name for name in names if name not in found]:
        raise DataError(f"{gone[0]!r} is no column of numbers any more", column=gone[0])
    if not names:
        return np.empty((0, 0))
    x = np.stack([found[name].numbers for name in names], axis=1)
    return np.asarray(x[np.isfinite(x).all(axis=1)])
