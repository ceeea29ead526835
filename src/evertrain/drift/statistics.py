"""The statistics of drift: distances between two samples, and their p.

Distances are biased upwards in small samples, so each has an `_effect`: what is left once the distance that equal
distributions would show is taken off. Then one threshold holds at every size.
Numbers of rows may be effective ones: fewer than there are, where rows depend on their neighbours (see `tau`).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import chdtrc, gammaln, kolmogorov, ndtr  # type: ignore[import-untyped]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# Squared mean of the null distribution, per (1/n + 1/m): of the KS distance, and of W1/sd of a normal column.
_KS_NOISE, _W1_NOISE = 0.7225, 1.61
_TIE = 1 + 1e-7  # two probabilities that differ by rounding alone are equal


def ks_distance(reference: Floats, recent: Floats) -> Floats:
    """Return the largest distance between two empirical distribution functions.

    Args:
        reference, recent: sorted ascending, not empty, without NaN, shapes (..., n) and (..., m). Ties are exact.

    Source: Smirnov (1939). Costs the smaller sample times the logarithm of the larger.

    >>> ks_distance(np.array([1.0, 1, 2, 2, 3]), np.array([1.0, 2, 2, 2, 3, 3])).round(6)
    np.float64(0.233333)
    """
    few, many = (reference, recent) if reference.shape[-1] <= recent.shape[-1] else (recent, reference)
    steps = _steps(few.shape[-1])
    above = (steps[1:] - counts_at_most(many, few) / many.shape[-1]).max(axis=-1)
    below = (counts_at_most(many, few, "left") / many.shape[-1] - steps[:-1]).max(axis=-1)
    return np.asarray(np.maximum(above, below))[()]


def counts_at_most(order: Floats, limits: Floats, side: Literal["left", "right"] = "right") -> Ints:
    """Return how many values of sorted samples are at most each limit, or with side "left", below it."""
    if order.ndim == 1:
        return order.searchsorted(limits, side)
    found = np.empty(limits.shape, np.int64)
    for one, values, at in zip(found, order, limits, strict=True):
        one[:] = values.searchsorted(at, side)
    return found


@lru_cache(maxsize=8)
def _steps(n: int) -> Floats:
    return np.arange(n + 1) / n


def ks_p(distance: npt.ArrayLike, n: npt.ArrayLike, m: npt.ArrayLike) -> Floats:
    """Return the asymptotic p of KS distances between samples of `n` and `m` (effective) rows.

    >>> ks_p(0.4, 20, 10).round(9)
    np.float64(0.236490071)
    """
    n, m = np.asarray(n, float), np.asarray(m, float)
    return np.asarray(kolmogorov(np.sqrt(n * m / (n + m)) * np.asarray(distance)))[()]


def ks_exact_p(distance: float, n: int, m: int) -> float:
    """Return the exact p of a KS distance: the share of orders of `n` and `m` rows that show at least as much.

    Counts lattice paths inside the band, row by row; with ties it is an upper bound.
    Good to about 1e-12, and for up to about 1,000 rows on either side, or 29 on one.

    Source: Hodges, The significance probability of the Smirnov two-sample test (1958).

    >>> round(ks_exact_p(0.4, 20, 10), 9)
    0.221391069
    """
    n, m = min(n, m), max(n, m)
    band = round(distance * n * m)
    if band <= 0:
        return 1.0
    paths = np.zeros(m + 1)
    last = min(m, (band - 1) // n)
    paths[: last + 1] = 1
    logarithm = 0.0
    for i in range(1, n + 1):
        first, last = max(0, (i * m - band) // n + 1), min(m, (i * m + band - 1) // n)
        inside = np.cumsum(paths[first : last + 1])
        paths = np.zeros(m + 1)
        paths[first : last + 1] = inside
        largest = float(inside[-1]) if len(inside) else 0.0
        if largest == 0:
            return 1.0
        paths /= largest  # counts of paths outgrow a float
        logarithm += math.log(largest)
    every = math.lgamma(n + m + 1) - math.lgamma(n + 1) - math.lgamma(m + 1)
    return min(1.0, max(0.0, -math.expm1(logarithm - every)))


def ks_effect(distance: npt.ArrayLike, n: npt.ArrayLike, m: npt.ArrayLike) -> Floats:
    """Return D*: the KS distance without its sampling noise."""
    return _without(distance, _KS_NOISE * (1 / np.asarray(n, float) + 1 / np.asarray(m, float)))


def wasserstein(reference: Floats, recent: Floats) -> Floats:
    """Return W1: how far, on average, a value must move to turn one sample into the other, in their unit.

    Args:
        reference, recent: sorted ascending, not empty, without NaN, shapes (..., n) and (..., m).

    >>> wasserstein(np.array([0.0, 1, 3]), np.array([5.0, 6, 8])).round(12)
    np.float64(5.0)
    """
    first, second, width = _pairs(reference.shape[-1], recent.shape[-1])
    gaps = reference.take(first, axis=-1)
    gaps -= recent.take(second, axis=-1)
    return np.asarray(np.abs(gaps, out=gaps) @ width)[()]


@lru_cache(maxsize=4)
def _pairs(n: int, m: int) -> tuple[Ints, Ints, Floats]:
    """Return which values of sorted samples of `n` and `m` meet at which share of the quantile axis."""
    # In units of 1/(n m), so that the steps of both sides are whole numbers, and equal ones are equal.
    ends = np.concatenate([np.arange(1, n + 1, dtype=np.int64) * m, np.arange(1, m + 1, dtype=np.int64) * n])
    ends.sort(kind="stable")
    steps = np.diff(ends, prepend=0)
    ends, steps = ends[steps > 0], steps[steps > 0]
    return (ends - 1) // m, (ends - 1) // n, steps / (n * m)


def wasserstein_effect(distance: npt.ArrayLike, n: npt.ArrayLike, m: npt.ArrayLike) -> Floats:
    """Return W*: W1 in standard deviations of the reference, without its sampling noise (of a normal column)."""
    return _without(distance, _W1_NOISE * (1 / np.asarray(n, float) + 1 / np.asarray(m, float)))


def _without(distance: npt.ArrayLike, noise: npt.ArrayLike) -> Floats:
    return np.asarray(np.sqrt(np.maximum(0.0, np.square(np.asarray(distance, float)) - noise)))[()]


def psi(reference: npt.ArrayLike, recent: npt.ArrayLike) -> tuple[Floats, Ints]:
    """Return the population stability index of binned counts, and how many bins are in use.

    Each bin counts half a row more, so the index is finite. A bin that is empty on both sides is no bin.

    Args:
        reference, recent: counts, shape (..., bins).

    Source: Siddiqi, Credit Risk Scorecards (2006).

    >>> psi([100] * 10, [20, 24, 32, 36, 40, 40, 44, 48, 56, 60])[0].round(9)
    np.float64(0.096317895)
    """
    first, second = np.asarray(reference, float), np.asarray(recent, float)
    used = first + second > 0
    bins = used.sum(axis=-1)
    shares = [(one + 0.5) / (one.sum(axis=-1, keepdims=True) + 0.5 * bins[..., np.newaxis]) for one in (first, second)]
    parts = (shares[1] - shares[0]) * np.log(shares[1] / shares[0])
    return np.where(used, parts, 0.0).sum(axis=-1)[()], bins


def psi_effect(index: npt.ArrayLike, n: npt.ArrayLike, m: npt.ArrayLike, bins: npt.ArrayLike) -> Floats:
    """Return PSI*: the index without what it is on average where nothing changed."""
    noise = (np.asarray(bins) - 1) * (1 / np.asarray(n, float) + 1 / np.asarray(m, float))
    return np.asarray(np.maximum(0.0, np.asarray(index) - noise))[()]


def psi_p(index: npt.ArrayLike, n: npt.ArrayLike, m: npt.ArrayLike, bins: npt.ArrayLike) -> Floats:
    """Return the p of a population stability index: `nm/(n+m) PSI` is about chi-square with bins - 1 degrees."""
    n, m = np.asarray(n, float), np.asarray(m, float)
    return np.asarray(chdtrc(np.asarray(bins) - 1, n * m / (n + m) * np.asarray(index)))[()]


def total_variation(reference: Floats, recent: Floats) -> tuple[float, float]:
    """Return half the summed differences of two counts' shares, and what that is on average if nothing changed.

    The difference of a share is taken as normal, but of a level with one or two rows it is known exactly: names, which
    occur once, differ altogether, and that is no change.

    >>> tv, noise = total_variation(np.array([400.0, 300, 200, 90, 8, 2]), np.array([70.0, 60, 50, 15, 4, 1]))
    >>> round(tv, 9), round(noise, 9)
    (0.065, 0.055144486)
    >>> total_variation(np.array([1.0, 1, 0, 0]), np.array([0.0, 0, 1, 1]))
    (1.0, 1.0)
    """
    n, m, both = reference.sum(), recent.sum(), reference + recent
    pooled = both / (n + m)
    noise = np.sqrt(2 / np.pi * pooled * (1 - pooled) * (1 / n + 1 / m))
    noise[both == 1] = 2 / (n + m)
    noise[both == 2] = 2 * (n + m + abs(n - m)) / (n + m) ** 2
    return float(np.abs(reference / n - recent / m).sum() / 2), float(noise.sum() / 2)


def total_variation_effect(distance: float, noise: float) -> float:
    """Return TV*: the total variation without its sampling noise."""
    return math.sqrt(max(0.0, distance**2 - noise**2))


def pooled(reference: Floats, recent: Floats) -> tuple[Floats, Floats]:
    """Return the two counts with rare levels put together, so that every expected count is at least 5.

    Levels whose count over both is below `5 (n+m)/min(n,m)` become one, which takes in the next smallest level while
    it is still too small. Fewer than two levels may be left; then there is nothing to test.

    >>> pooled(np.array([400.0, 300, 200, 90, 8, 2]), np.array([70.0, 60, 50, 15, 4, 1]))[1].tolist()
    [70.0, 60.0, 50.0, 20.0]
    """
    both, n, m = reference + recent, reference.sum(), recent.sum()
    limit = 5 * (n + m) / max(min(n, m), 1)
    rare = both < limit
    if not rare.any():
        return reference, recent
    order = np.argsort(-both, kind="stable")
    kept = len(both) - int(rare.sum())
    while kept and both[order[kept:]].sum() < limit:
        kept -= 1
    few, others = order[:kept], order[kept:]
    return np.append(reference[few], reference[others].sum()), np.append(recent[few], recent[others].sum())


def chi_square(reference: Floats, recent: Floats, tau: float = 1.0) -> tuple[float, int, float]:
    """Return statistic, degrees of freedom and p of the two-sample chi-square of counts, one cell per level.

    Args:
        reference, recent: counts of the same levels; levels without any row are left out.
        tau: integrated autocorrelation time of the rows; the statistic is divided by it.

    >>> counts = pooled(np.array([400.0, 300, 200, 90, 8, 2]), np.array([70.0, 60, 50, 15, 4, 1]))
    >>> statistic, freedom, p = chi_square(*counts)
    >>> round(statistic, 9), freedom, round(p, 9)
    (3.063829787, 3, 0.381888196)
    """
    both = reference + recent
    first, second, both = reference[both > 0], recent[both > 0], both[both > 0]
    n, m = first.sum(), second.sum()
    if len(both) < 2 or not n or not m:
        return 0.0, 0, 1.0
    # The sum over both rows of (observed - expected)^2 / expected, in one.
    statistic = float((np.square(m * first - n * second) / both).sum() / (n * m)) / tau
    return statistic, len(both) - 1, float(chdtrc(len(both) - 1, statistic))


def two_proportions(hits: float, rows: float, recent_hits: float, recent_rows: float) -> float:
    """Return the two-sided p of two shares being equal: Fisher's exact test where an expected count is below 5.

    >>> round(two_proportions(20, 1000, 16, 200), 12)
    5.605019e-06
    >>> round(two_proportions(0, 1000, 6, 200), 11)
    2.012124e-05
    """
    both, n = hits + recent_hits, rows + recent_rows
    if both <= 0 or both >= n or not rows or not recent_rows:
        return 1.0
    if min(both, n - both) * min(rows, recent_rows) / n < 5:
        return fisher(round(hits), round(rows), round(recent_hits), round(recent_rows))
    share = both / n
    spread = math.sqrt(share * (1 - share) * (1 / rows + 1 / recent_rows))
    return math.erfc(abs(recent_hits / recent_rows - hits / rows) / spread / math.sqrt(2))


@lru_cache(maxsize=4096)
def fisher(hits: int, rows: int, recent_hits: int, recent_rows: int) -> float:
    """Return the two-sided p of Fisher's exact test: all tables with these sums that are no likelier than this one.

    >>> round(fisher(20, 1000, 16, 200), 11)
    6.519934e-05
    """
    both, n = hits + recent_hits, rows + recent_rows
    low, high = max(0, both - rows), min(recent_rows, both)
    if low == high:
        return 1.0
    k = np.arange(low, high + 1)
    logarithms = -(gammaln(k + 1) + gammaln(recent_rows - k + 1) + gammaln(both - k + 1) + gammaln(rows - both + k + 1))
    constant = (
        math.lgamma(both + 1) + math.lgamma(n - both + 1) + math.lgamma(rows + 1) + math.lgamma(recent_rows + 1)
    ) - math.lgamma(n + 1)
    shares = np.exp(logarithms + constant)
    return min(1.0, float(shares[shares <= shares[recent_hits - low] * _TIE].sum()))


def robust_spread(mad: npt.ArrayLike, iqr: npt.ArrayLike) -> Floats:
    """Return a standard deviation that outliers do not move: 1.4826 MAD, else IQR/1.349; NaN where both are 0.

    Source: Iglewicz and Hoaglin, How to detect and handle outliers (1993), whose limit is 3.5 of them.
    """
    mad, iqr = np.asarray(mad, float), np.asarray(iqr, float)
    found = np.where(mad > 0, 1.4826 * mad, iqr / 1.349)
    return np.where(found > 0, found, np.nan)


def tau(series: npt.ArrayLike, window: float = 5.0) -> Floats:
    """Return the integrated autocorrelation time of series in time order: n rows say as much as n/tau independent ones.

    The sum of autocorrelations ends at the smallest lag that is at least `window` times the time found so far.
    At least 1; 1 for a constant series. KS looks at indicators such as being at most the median, so their times are
    what it needs: those of the values would be too careful, and do not exist for heavy tails.

    Args:
        series: shape (..., rows), without NaN.

    Source: Sokal, Monte Carlo methods in statistical mechanics (1997), eq. 3.19.

    >>> tau([1.0, -1, 1, -1, 1, -1])
    np.float64(1.0)
    """
    x = np.asarray(series, float)
    n = x.shape[-1]
    if n < 2:
        return np.ones(x.shape[:-1])[()]
    x = x - x.mean(axis=-1, keepdims=True)
    correlations = autocovariance(x)
    variance = correlations[..., :1]
    with np.errstate(divide="ignore", invalid="ignore"):
        times = 2 * np.cumsum(correlations / variance, axis=-1) - 1
    enough = np.arange(n) >= window * times
    last = np.where(enough.any(axis=-1), enough.argmax(axis=-1), n - 1)
    found = np.take_along_axis(times, last[..., np.newaxis], axis=-1)[..., 0]
    constant = variance[..., 0] <= 1e-12 * n
    return np.where(constant, 1.0, np.maximum(1.0, found))[()]


def autocovariance(x: Floats) -> Floats:
    """Return the summed products of a centred series with itself, at every lag; shape (..., rows)."""
    n = x.shape[-1]
    size = 1 << (2 * n - 1).bit_length()
    spectrum = np.fft.rfft(x, size)
    return np.fft.irfft(spectrum.real**2 + spectrum.imag**2, size)[..., :n]


def welch(first: Floats, second: Floats) -> tuple[float, float]:
    """Return z of the second mean over the first, variances unequal, and its two-sided p from the normal.

    >>> z, p = welch(np.array([0.0, 1, 2, 3]), np.array([0.0, 1, 2, 3]))
    >>> z, p
    (0.0, 1.0)
    """
    variance = first.var(ddof=1) / len(first) + second.var(ddof=1) / len(second)
    z = float((second.mean() - first.mean()) / math.sqrt(variance)) if variance > 0 else 0.0
    return z, float(2 * ndtr(-abs(z)))


def auc_null_sd(n: float, m: float) -> float:
    """Return the standard deviation of an AUC between samples of `n` and `m` rows that do not differ.

    Source: Mann and Whitney (1947).

    >>> round(auc_null_sd(1000, 300), 9)
    0.019010231
    """
    return math.sqrt((n + m + 1) / (12 * n * m))
