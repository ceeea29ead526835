"""Recent rows against a profile, column by column: quality, distribution, and the champion's answers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from evertrain.drift import statistics
from evertrain.drift.profile import (
    FEW,
    OUTLIER,
    Column,
    Levels,
    Numbers,
    Profile,
    answers,
    block_size,
    finite,
    kind_of,
    moments,
    outside,
    without_season,
)
from evertrain.drift.signal import Family, Signal
from evertrain.drift.statistics import Floats, Ints
from evertrain.drift.table import Cells, Kind, cells, instants
from evertrain.specs import Drift

ENOUGH = 20  # effective rows, below which nothing is said about a distribution
CAP = 100_000  # recent rows that are looked at
_EXACT = 10_000  # rows of the larger side, up to which p is exact where the smaller has under 30
_VARIETY = 0.05  # of the reference rows that had another value than the only one now
_DECILES = np.arange(1, 10) / 10


def floors(config: Drift) -> dict[str, float]:
    """Return the smallest effects that count: KS distance, PSI, W1 in standard deviations, total variation.

    All four are what the same shift of a normal column's mean shows: 0.2 standard deviations, 0.1 in profile
    "sensitive", 0.3 in "conservative".

    >>> floors(Drift())
    {'ks': 0.08, 'psi': 0.04, 'w1': 0.2, 'tv': 0.08}
    """
    found = {"sensitive": (0.04, 0.01, 0.10, 0.04), "conservative": (0.12, 0.09, 0.30, 0.12)}
    return dict(zip(("ks", "psi", "w1", "tv"), found.get(config.profile, (0.08, 0.04, 0.20, 0.08)), strict=True))


def compare(
    reference: Profile, recent: pd.DataFrame, config: Drift, *, times: object = None, predicted: object = None
) -> list[Signal]:
    """Return what changed from the reference to the recent rows, with p as tested, not yet corrected for their number.

    A test that could not come out significant, whatever the rows, is left out: nothing is missing on either side, or
    no value is out of range. So are columns of weight 0, unless they are gone or changed their type.
    More than 100,000 rows are thinned evenly in the order of time, unless the profile is exact.

    Args:
        recent: columns as the profile's; others are ignored.
        times: of the recent rows; needed for columns with a season.
        predicted: the champion's answer to each row.

    Raises:
        DataError: times or answers do not fit the rows.

    >>> old = pd.DataFrame({"x": np.arange(1000.0), "town": ["Graz", "Linz"] * 500})
    >>> for one in compare(Profile.of(old), old.assign(x=old.x + 100), Drift()):
    ...     print(one.family, one.name, one.kind, f"{one.p:.2g}", round(one.effect, 3), one.floor)
    data town chi2 1 0.0 0.08
    data x ks 9.1e-05 0.092 0.08
    """
    n = len(recent)
    rows, ticks = _rows(reference, n, times)
    m = n if rows is None else len(rows)
    check = _Check(reference, config, m, n / max(m, 1), ticks, floors(config))
    found = list(check.columns(cells(recent, rows)))
    if predicted is not None and reference.prediction is not None:
        found += check.prediction(reference.prediction, answers(predicted, n, rows))
    return found


def _rows(reference: Profile, n: int, times: object) -> tuple[Ints | None, Ints | None]:
    """Return the places of the rows to look at, in the order of time, None for all; and their steps of the clock."""
    moments = None if times is None else instants(times, n)
    rows = None
    if n > CAP and not reference.exact:
        every = np.arange(n) if moments is None else np.argsort(moments, kind="stable")
        rows = every[((np.arange(CAP) + 0.5) / CAP * n).astype(np.int64)]
    if moments is None or reference.clock is None:
        return rows, None
    return rows, reference.clock.ticks(moments if rows is None else moments[rows])


@dataclass(frozen=True, eq=False)
class _Check:
    reference: Profile
    config: Drift
    rows: int
    thinned: float  # how many rows one stands for
    ticks: Ints | None
    floors: Mapping[str, float]

    def columns(self, found: Iterator[Cells]) -> Iterator[Signal]:
        known = {column.name: column for column in self.reference.columns}
        weights, seen = self._weights(), set()
        while block := list(islice(found, block_size(self.rows))):
            numbers: list[tuple[Numbers, Cells]] = []
            for one in block:
                column = known.get(one.name)
                if column is None:
                    continue
                seen.add(one.name)
                if _changed(column, one.kind):
                    yield _type_changed(column, one, weights.get(one.name))
                elif weights.get(one.name) == 0 or not self.rows:
                    continue
                elif isinstance(column, Numbers) and one.kind is Kind.NUMBER:
                    numbers.append((column, one))
                elif isinstance(column, Levels) and one.kind is Kind.TEXT:
                    yield from self._levels(column, one, weights.get(one.name))
                else:
                    yield from self._missing(column, _missing(one), 0, weights.get(one.name))
            if numbers:
                yield from self._numbers(numbers, weights)
        for name, column in known.items():
            if name not in seen:
                yield Signal(
                    name, Family.QUALITY, "type", effect=1.0, floor=1.0, weight=weights.get(name), stop=True,
                    detail={"was": str(kind_of(column)), "is": "gone"},
                )  # fmt: skip

    def prediction(self, column: Column, one: Cells) -> list[Signal]:
        """Return the one signal of the champion's answers: their distribution."""
        if _changed(column, one.kind):
            return [_type_changed(column, one, None, Family.PREDICTION)]
        if isinstance(column, Numbers) and one.kind is Kind.NUMBER:
            return list(self._numbers([(column, one)], {}, Family.PREDICTION))
        if isinstance(column, Levels) and one.kind is Kind.TEXT:
            return list(self._levels(column, one, None, Family.PREDICTION))
        return []

    def _weights(self) -> dict[str, float]:
        weights = self.reference.weights
        total = sum(weights.values()) if weights else 0.0
        return {name: weight / total for name, weight in (weights or {}).items()} if total > 0 else {}

    def _missing(self, column: Column, missing: int, infinite: int, weight: float | None) -> Iterator[Signal]:
        before, n, m = column.missing, column.rows + column.missing, self.rows
        if (before == 0 and missing == 0) or not n:
            return
        tau = 1.0
        if isinstance(column, Numbers):
            tau = column.facts.missing_tau
        elif isinstance(column, Levels):
            tau = column.missing_tau
        detail: dict[str, Any] = {}
        if infinite or (isinstance(column, Numbers) and column.infinite):
            detail = {"infinite": [column.infinite if isinstance(column, Numbers) else 0, infinite]}
        yield self._share(
            column.name, "missing", (before, n), (missing, m), tau, self.config.missing_increase, weight, detail
        )

    def _share(
        self,
        name: str,
        kind: str,
        before: tuple[float, float],
        now: tuple[float, float],
        tau: float,
        floor: float,
        weight: float | None,
        detail: Mapping[str, Any] | None = None,
    ) -> Signal:
        """Return the signal of a share that rose; one that fell has no effect."""
        (hits, n), (recent, m) = before, now
        n_e, m_e = n / tau, min(m, m * self.thinned / tau)
        old, new = hits / n, recent / m
        return Signal(
            name, Family.QUALITY, kind, statistics.two_proportions(old * n_e, n_e, new * m_e, m_e), max(0.0, new - old),
            floor, "share of rows", n_e, m_e, weight, detail={"shares": [old, new], **(detail or {})},
        )  # fmt: skip

    def _constant(self, column: Numbers | Levels, rows: float, weight: float | None, value: object) -> Iterator[Signal]:
        """Return the signal of a column that has one value only, where it had several."""
        counts = column.counts
        if isinstance(column, Numbers) and not len(counts):
            counts = np.unique(column.values, return_counts=True)[1].astype(float)
        share = float(counts.max() / counts.sum())
        if len(counts) > 1 and rows > 1:
            yield Signal(
                column.name, Family.QUALITY, "constant", share ** (rows - 1), 1 - share, _VARIETY, "share of rows",
                column.rows, rows, weight, detail={"value": value},
            )  # fmt: skip

    def _new_values(
        self, column: Numbers | Levels, tau: float, new: int, rows: int, weight: float | None, examples: Sequence[str]
    ) -> Iterator[Signal]:
        """Return the signal of values that the reference does not have.

        As many of its rows have a value of their own as the next rows would have unseen ones (Good, 1953): names and
        other texts without end are no news.
        """
        singles = column.singles if isinstance(column, Levels) else int((column.counts == 1).sum())
        if new and column.rows:
            yield self._share(
                column.name, "new_values", (singles, column.rows), (new, rows), tau, self.config.new_values, weight,
                {"new": list(examples)},
            )  # fmt: skip

    def _levels(
        self, column: Levels, one: Cells, weight: float | None, family: Family = Family.QUALITY
    ) -> Iterator[Signal]:
        counts = np.bincount(one.codes[one.codes >= 0], minlength=len(one.levels))
        rows = int(counts.sum())
        if family is Family.QUALITY:
            yield from self._missing(column, one.rows - rows, 0, weight)
        places = {level: place for place, level in enumerate(column.levels)}
        now = np.zeros(len(places))
        unseen: dict[str, float] = {}
        for level, count in zip(one.levels, counts.tolist(), strict=True):
            if level in places:
                now[places[level]] = count
            elif count:
                unseen[level] = count
        names, before = column.levels, column.counts
        if column.other:  # its rare levels are not kept: what is not known may be one of them
            names, before, now = (
                (*names, "other"),
                np.append(before, column.other),
                np.append(now, sum(unseen.values())),
            )
        else:
            names, before = (*names, *unseen), np.append(before, np.zeros(len(unseen)))
            now = np.append(now, list(unseen.values()))
            if family is Family.QUALITY:
                newest = sorted(unseen, key=lambda level: -unseen[level])[:5]
                yield from self._new_values(column, column.tau, int(sum(unseen.values())), rows, weight, newest)
        if family is Family.QUALITY and rows and (now > 0).sum() == 1:
            yield from self._constant(column, rows / column.tau, weight, names[int(now.argmax())])
        yield self._counts(column.name, names, before, now, column.tau, weight, family)

    def _counts(
        self,
        name: str,
        names: Sequence[str | float],
        before: Floats,
        now: Floats,
        tau: float,
        weight: float | None,
        family: Family,
    ) -> Signal:
        """Return the signal of a column of levels, or of few distinct numbers."""
        family = Family.DATA if family is Family.QUALITY else family
        n, m = float(before.sum()), float(now.sum())
        n_e, m_e = n / tau, min(m, m * self.thinned / tau)
        insufficient = _insufficient(n_e, m_e)
        p, effect, detail = None, 0.0, {}
        if n and m:
            distance, noise = statistics.total_variation(before, now)
            # A share of dependent rows is as noisy as that of so many fewer.
            tau_shared = (1 / n_e + 1 / m_e) / (1 / n + 1 / m)
            statistic, freedom, p = statistics.chi_square(*statistics.pooled(before, now), tau_shared)
            if freedom:
                effect = statistics.total_variation_effect(distance, noise * math.sqrt(tau_shared))
            top = np.argsort(-(before / n + now / m), kind="stable")[:FEW]
            detail = {
                "tv": distance, "chi2": statistic, "df": freedom,
                "histogram": {
                    "levels": [names[place] for place in top],
                    "reference": (before[top] / n).tolist(), "recent": (now[top] / m).tolist(),
                },
            }  # fmt: skip
        return Signal(
            name, family, "chi2", None if insufficient else p, effect, self.floors["tv"], "total variation", n_e, m_e,
            weight, insufficient=insufficient, detail=detail,
        )  # fmt: skip

    def _numbers(
        self, pairs: Sequence[tuple[Numbers, Cells]], weights: Mapping[str, float], family: Family = Family.QUALITY
    ) -> Iterator[Signal]:
        columns = [column for column, _ in pairs]
        x, rows, infinite = finite([one for _, one in pairs])
        facts = np.array([column.facts for column in columns])
        with np.errstate(all="ignore"):
            means, sds = (one.tolist() for one in moments(x, rows))
            order = x.copy() if any(column.season.size for column in columns) else x
            order.sort(axis=1)
            if family is Family.QUALITY:
                yield from self._quality(columns, order, rows, infinite, facts, weights)
        spread: list[_Pair] = []
        for j, column in enumerate(columns):
            m, weight = int(rows[j]), weights.get(column.name)
            y = order[j, :m]
            if len(column.counts) and m:
                few = self._few(column, y)
                if few is not None:
                    values, before, now = few
                    if family is Family.QUALITY:
                        new = now[before == 0]
                        examples = [str(one) for one in values[before == 0][:5].tolist()]
                        yield from self._new_values(column, column.facts.tau, int(new.sum()), m, weight, examples)
                    yield self._counts(column.name, values.tolist(), before, now, column.facts.tau, weight, family)
                    continue
            if column.season.shape[1]:
                if self.ticks is None:
                    yield self._unsaid(
                        column, m, weight, family, "the column has a season, and the recent rows have no times"
                    )
                    continue
                y = np.sort(without_season(x[j], column.season, self.ticks))[:m]
            n_e, m_e = column.rows / column.facts.tau, min(m, m * self.thinned / column.facts.tau)
            if why := _insufficient(n_e, m_e):
                yield self._unsaid(column, m, weight, family, why)
                continue
            spread.append(_Pair(column, column.order, y, n_e, m_e, means[j], sds[j]))
        for same in _of_one_size(spread):
            yield from self._spreads(same, weights, family)

    def _few(self, column: Numbers, y: Floats) -> tuple[Floats, Floats, Floats] | None:
        """Return the distinct values of both sides with their counts; None where they are too many for levels."""
        values, counts = np.unique(y, return_counts=True)
        if len(values) > FEW:
            return None
        union = np.union1d(column.values, values)
        if len(union) > FEW:
            return None
        before, now = np.zeros(len(union)), np.zeros(len(union))
        before[union.searchsorted(column.values)] = column.counts
        now[union.searchsorted(values)] = counts
        return union, before, now

    def _quality(
        self,
        columns: Sequence[Numbers],
        order: Floats,
        rows: Ints,
        infinite: Ints,
        facts: Floats,
        weights: Mapping[str, float],
    ) -> Iterator[Signal]:
        _, _, median, spread, low, high, *_ = facts.T
        beyond = outside(order, rows, low, high).tolist()
        outliers = outside(order, rows, median - OUTLIER * spread, median + OUTLIER * spread).tolist()
        for j, column in enumerate(columns):
            m, weight, known = int(rows[j]), weights.get(column.name), column.facts
            yield from self._missing(column, self.rows - m, int(infinite[j]), weight)
            if not m:
                continue
            if beyond[j] or known.beyond:
                yield self._share(
                    column.name, "range", (known.beyond, column.rows), (beyond[j], m), known.tau, self.config.new_values,
                    weight, {"range": [known.low, known.high]},
                )  # fmt: skip
            if outliers[j] or known.outliers:
                yield self._share(
                    column.name, "outliers", (known.outliers, column.rows), (outliers[j], m), known.tau,
                    self.config.outlier_increase, weight,
                )  # fmt: skip
            if order[j, 0] == order[j, m - 1]:
                yield from self._constant(column, m / known.tau, weight, float(order[j, 0]))

    def _unsaid(self, column: Numbers, rows: int, weight: float | None, family: Family, why: str) -> Signal:
        family = Family.DATA if family is Family.QUALITY else family
        tau = column.facts.tau
        return Signal(
            column.name, family, "ks", floor=self.floors["ks"], unit="KS distance", reference_rows=column.rows / tau,
            recent_rows=min(rows, rows * self.thinned / tau), weight=weight, insufficient=why,
        )  # fmt: skip

    def _spreads(self, found: Sequence[_Pair], weights: Mapping[str, float], family: Family) -> Iterator[Signal]:
        """Yield the signals of distributions; pairs of samples have the same sizes."""
        family = Family.DATA if family is Family.QUALITY else family
        order, y = (np.array(one) for one in zip(*((one.order, one.recent) for one in found), strict=True))
        rows = np.array([one.column.rows for one in found])
        n, m = np.array([one.reference_rows for one in found]), np.array([one.recent_rows for one in found])
        kept, size = order.shape[1], y.shape[1]
        edges = order[:, np.ceil(_DECILES * kept).astype(np.int64) - 1]
        sd = np.array([one.column.facts.sd if not one.column.season.shape[1] else one.order.std() for one in found])
        distances = statistics.ks_distance(order, y)
        ps = statistics.ks_p(distances, n, m).tolist()
        before = _binned(order, edges) * (rows / kept)[:, np.newaxis]
        now = _binned(y, edges)
        index, bins = statistics.psi(before, now)
        with np.errstate(all="ignore"):
            w1 = np.nan_to_num(statistics.wasserstein(order, y) / sd, nan=0.0, posinf=0.0)
        details = zip(
            distances.tolist(), index.tolist(), statistics.psi_effect(index, n, m, bins).tolist(),
            statistics.psi_p(index, n, m, bins).tolist(), w1.tolist(),
            statistics.wasserstein_effect(w1, n, m).tolist(), edges.tolist(),
            (before / rows[:, np.newaxis]).tolist(), (now / size).tolist(),
            statistics.ks_effect(distances, n, m).tolist(), strict=True,
        )  # fmt: skip
        for j, (d, found_psi, psi_effect, psi_p, shift, shift_effect, at, old, new, effect) in enumerate(details):
            one = found[j]
            facts, p = one.column.facts, ps[j]
            if min(rows[j], size) < 30 and facts.tau == 1 and self.thinned == 1 and max(rows[j], size) <= _EXACT:
                p = statistics.ks_exact_p(d, int(rows[j]), size)
            detail = {
                "d": d, "psi": found_psi, "psi_effect": psi_effect, "psi_p": psi_p, "w1": shift,
                "w1_effect": shift_effect, "means": [facts.mean, one.mean], "sds": [facts.sd, one.sd], "tau": facts.tau,
                "histogram": {"edges": at, "reference": old, "recent": new},
            }  # fmt: skip
            if period := one.column.season.shape[1]:
                detail["season"] = period
            yield Signal(
                one.column.name, family, "ks", p, effect, self.floors["ks"], "KS distance", one.reference_rows,
                one.recent_rows, weights.get(one.column.name), detail=detail,
            )  # fmt: skip


class _Pair(NamedTuple):
    """Sorted samples of a column, their effective sizes, and the recent mean and standard deviation."""

    column: Numbers
    order: Floats
    recent: Floats
    reference_rows: float
    recent_rows: float
    mean: float
    sd: float


def _of_one_size(pairs: Sequence[_Pair]) -> Iterable[list[_Pair]]:
    found: dict[tuple[int, int], list[_Pair]] = {}
    for one in pairs:
        found.setdefault((len(one.order), len(one.recent)), []).append(one)
    return found.values()


def _binned(order: Floats, edges: Floats) -> Floats:
    """Return how many values of sorted samples are in each bin; one on an edge is in the bin below it."""
    below = np.zeros((len(order), edges.shape[1] + 2))
    below[:, 1:-1] = statistics.counts_at_most(order, edges)
    below[:, -1] = order.shape[1]
    return np.diff(below, axis=1)


def _insufficient(n: float, m: float) -> str:
    if m < ENOUGH:
        return f"{m:.0f} effective recent rows; {ENOUGH} are needed"
    return f"{n:.0f} effective reference rows; {ENOUGH} are needed" if n < ENOUGH else ""


def _missing(one: Cells) -> int:
    if one.kind is Kind.NUMBER:
        return int((~np.isfinite(one.numbers)).sum())
    return int((one.codes < 0).sum()) if one.kind is Kind.TEXT else one.missing


def _changed(column: Column, kind: Kind) -> bool:
    """Return whether the cells became another kind; a column without a value has none."""
    return Kind.EMPTY not in (kind_of(column), kind) and kind_of(column) is not kind


def _type_changed(column: Column, one: Cells, weight: float | None, family: Family = Family.QUALITY) -> Signal:
    detail: dict[str, Any] = {"was": str(kind_of(column)), "is": str(one.kind)}
    if one.levels:
        detail["example"] = one.levels[0]
    return Signal(column.name, family, "type", effect=1.0, floor=1.0, weight=weight, stop=True, detail=detail)
