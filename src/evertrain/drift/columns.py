"""Recent rows against a profile, column by column: quality, distribution, and the champion's answers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

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
    without_season,
)
from evertrain.drift.signal import Family, Signal
from evertrain.drift.statistics import Floats, Ints
from evertrain.drift.table import Cells, Kind, cells, instants
from evertrain.specs import Drift

ENOUGH = 20  # effective rows, below which nothing is said about a distribution
CAP = 100_000  # recent rows that are looked at
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
        order = np.sort(x, axis=1)
        facts = np.array([column.facts for column in columns])
        with np.errstate(all="ignore"):
            moments = _moments(x, rows)
            if family is Family.QUALITY:
                yield from self._quality(columns, order, rows, infinite, facts, weights)
        spread: list[_Spread] = []
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
                    yield self._unsaid(column, m, family, "the column has a season, and the recent rows have no times")
                    continue
                y = np.sort(without_season(x[j], column.season, self.ticks))[:m]
            n_e, m_e = column.rows / column.facts.tau, min(m, m * self.thinned / column.facts.tau)
            if why := _insufficient(n_e, m_e):
                yield self._unsaid(column, m, family, why)
                continue
            spread.append(_spread(column, y, n_e, m_e, moments[j], self.thinned))
        yield from self._spreads(spread, weights, family)

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
        _, _, median, spread, low, high, _, _, _, _ = facts.T[:, :, np.newaxis]
        beyond = ((order < low) | (order > high)).sum(axis=1).tolist()
        outliers = (np.abs(order - median) > OUTLIER * spread).sum(axis=1).tolist()
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

    def _unsaid(self, column: Numbers, rows: int, family: Family, why: str) -> Signal:
        family = Family.DATA if family is Family.QUALITY else family
        tau = column.facts.tau
        return Signal(
            column.name, family, "ks", floor=self.floors["ks"], unit="KS distance", reference_rows=column.rows / tau,
            recent_rows=rows / tau, insufficient=why,
        )  # fmt: skip

    def _spreads(self, found: Sequence[_Spread], weights: Mapping[str, float], family: Family) -> Iterator[Signal]:
        if not found:
            return
        family = Family.DATA if family is Family.QUALITY else family
        before, now = (np.diff(np.array(one), axis=1) for one in zip(*((s.before, s.now) for s in found), strict=True))
        n, m = (np.array([getattr(s, name) for s in found]) for name in ("reference_rows", "recent_rows"))
        distances = np.array([s.distance for s in found])
        w1 = np.array([s.w1 for s in found])
        index, bins = statistics.psi(before, now)
        effects = statistics.ks_effect(distances, n, m).tolist()
        ps = statistics.ks_p(distances, n, m).tolist()
        psi_effects = statistics.psi_effect(index, n, m, bins).tolist()
        psi_ps = statistics.psi_p(index, n, m, bins).tolist()
        w1_effects = statistics.wasserstein_effect(w1, n, m).tolist()
        shares = [(one / np.maximum(one.sum(axis=1, keepdims=True), 1)).tolist() for one in (before, now)]
        indices = index.tolist()
        for j, s in enumerate(found):
            facts = s.column.facts
            detail = {
                "d": s.distance, "psi": indices[j], "psi_effect": psi_effects[j], "psi_p": psi_ps[j], "w1": s.w1,
                "w1_effect": w1_effects[j], "means": [facts.mean, s.mean], "sds": [facts.sd, s.sd], "tau": facts.tau,
                "histogram": {"edges": s.edges, "reference": shares[0][j], "recent": shares[1][j]},
            }  # fmt: skip
            if s.column.season.shape[1]:
                detail["season"] = s.column.season.shape[1]
            yield Signal(
                s.column.name, family, "ks", ps[j] if s.exact_p is None else s.exact_p, effects[j], self.floors["ks"],
                "KS distance", s.reference_rows, s.recent_rows, weights.get(s.column.name), detail=detail,
            )  # fmt: skip


@dataclass(frozen=True, eq=False, slots=True)
class _Spread:
    """Distances between the distributions of a column."""

    column: Numbers
    reference_rows: float
    recent_rows: float
    distance: float
    exact_p: float | None
    w1: float
    before: Floats  # rows at most at each edge, from none to all
    now: Floats
    edges: list[float]
    mean: float
    sd: float


def _spread(
    column: Numbers, y: Floats, n_e: float, m_e: float, moments: tuple[float, float], thinned: float
) -> _Spread:
    order = column.order
    kept, m = len(order), len(y)
    distance = statistics.ks_distance(order, y)
    edges = order[np.ceil(_DECILES * kept).astype(np.int64) - 1]
    before, now = np.zeros(11), np.zeros(11)
    before[1:10], before[10] = order.searchsorted(edges, "right"), kept
    now[1:10], now[10] = y.searchsorted(edges, "right"), m
    sd = column.facts.sd if not column.season.shape[1] else float(order.std())
    exact = None
    if min(column.rows, m) < 30 and column.facts.tau == 1 and thinned == 1 and max(column.rows, m) <= 10_000:
        exact = statistics.ks_exact_p(distance, column.rows, m)
    with np.errstate(all="ignore"):
        w1 = statistics.wasserstein(order, y) / sd if sd > 0 else 0.0
    return _Spread(
        column, n_e, m_e, distance, exact, w1 if math.isfinite(w1) else 0.0, before * (column.rows / kept), now,
        edges.tolist(), *moments,
    )  # fmt: skip


def _moments(x: Floats, rows: Ints) -> list[tuple[float, float]]:
    mean = np.nansum(x, axis=1) / rows
    sd = np.sqrt(np.nansum(np.square(x - mean[:, np.newaxis]), axis=1) / rows)
    return list(zip(mean.tolist(), sd.tolist(), strict=True))


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
