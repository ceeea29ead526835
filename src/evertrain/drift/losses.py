"""Has the loss risen? A scan over the newest losses against those measured when the champion was promoted.

For worker children: SciPy is imported here. Losses are one number per labelled row, lower is better, in the order in
which they came; reference losses are out of sample.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri, stdtr, xlogy  # type: ignore[import-untyped]

from evertrain.drift.statistics import autocovariance, tau
from evertrain.errors import DataError

Floats = NDArray[np.float64]

LEAST_REFERENCE = 20  # below it nothing is said
LEAST_EFFECTIVE = 5  # likewise, of rows that are worth one each; Student's tails do the rest
FULL_REFERENCE = 200  # below it the tails are Student's: the reference is itself uncertain
SMALLEST_WINDOW = 32
RING = 20_000  # newest losses that a scan looks at
# The 22 nested windows are worth as much chance as so many independent ones: a fit to simulated months, of ranks, and of
# losses with two values.
TESTS, TESTS_OF_TWO = 7, 5
BLOCKS = 10
DRAWN = 40  # blocks of losses that are stored with a check
_STUDENT = 2.262157  # 97.5 % of Student's t with BLOCKS - 1 degrees of freedom
LAGS = 50  # of live losses: a slow rise, which is what is looked for, is no dependence
BETS = (0.1, 0.2, 0.4, 0.8, 1.6)
_WINDOWS = np.unique(np.round(SMALLEST_WINDOW * 1.35 ** np.arange(22)).astype(np.intp))
_STARTS = 2.11  # bounds the sum of 1 / (n ln² n) over n >= 2, so that the weights of all starts sum to at most 1


@dataclass(frozen=True)
class Scan:
    """What a scan found.

    Attributes:
        z: the largest standardised rise over all windows, in standard deviations.
        p: chance of a rise as large at one look while nothing changes; corrected for the search over windows.
        at: place, in the live losses as given, from which on they have risen; None where none could be.
        window: losses from there on.
        before, after: mean loss of the reference, and of the window.
        ratio, low, high: relative rise of `after` over `before`, with its 95 % interval.
        rise, variance: of the mean loss, in its own unit, with what the search over windows found by luck taken off.
        live, reference: losses used; those that are not finite are left out.
        memory: how many rows are worth one independent row.
        problem: why nothing can be said; then p is 1.
    """

    z: float = 0.0
    p: float = 1.0
    at: int | None = None
    window: int = 0
    before: float = 0.0
    after: float = 0.0
    ratio: float = 0.0
    low: float = 0.0
    high: float = 0.0
    rise: float = 0.0
    variance: float = 0.0
    live: int = 0
    reference: int = 0
    memory: float = 1.0
    problem: str = ""


def pit(reference: ArrayLike, losses: ArrayLike) -> Floats:
    """Return where each loss lies among the reference's, 0 to 1; equal ones count half (mid-ranks).

    It makes the scan independent of how losses are distributed, and of their unit.

    >>> pit([0.1, 0.2, 0.3, 0.4], [0.1, 0.25, 9.0]).tolist()
    [0.125, 0.5, 1.0]
    """
    known, new = np.sort(finite(reference, "reference losses")), np.asarray(losses, dtype=np.float64)
    if not known.size:
        raise DataError("there are no reference losses to rank against")
    return np.asarray((known.searchsorted(new, "left") + known.searchsorted(new, "right")) / (2 * known.size))


def scan(reference: ArrayLike, live: ArrayLike, *, groups: ArrayLike | None = None) -> Scan:
    """Return the best evidence that the newest losses are higher than before.

    Ranks against the reference; for windows of 32, 43, … up to 20,000 newest losses the mean rank is compared with
    that of everything before. Two-valued ranks (right or wrong) take the signed root of the likelihood ratio,
    which holds in the tails. Where losses depend on their neighbours, the variance is inflated by the
    autocorrelation time, where rows come in groups by the design effect.

    Args:
        reference: 20 or more; below 200 the tails are Student's. Order matters for their dependence only.
        live: oldest first; NaN is not labelled yet. Only the newest 20,000 are used.
        groups: a label per live loss, e.g. the customer.

    Raises:
        DataError: losses are no plain list of numbers, or `groups` are not as many.

    >>> found = scan(np.tile([0.0, 0.0, 0.0, 1.0], 100), np.r_[np.tile([0.0, 0.0, 0.0, 1.0], 50), np.ones(40)])
    >>> found.at, found.window, found.p < 1e-9
    (199, 41, True)
    """
    known, whole = finite(reference, "reference losses"), _plain(live, "losses")
    labels = None if groups is None else np.asarray(groups)
    if labels is not None and labels.shape != whole.shape:
        raise DataError(f"there are {labels.size} groups for {whole.size} losses")
    kept = np.flatnonzero(np.isfinite(whole))[-RING:]
    new = whole[kept]
    count, n0 = int(new.size), int(known.size)
    if n0 < LEAST_REFERENCE:
        return Scan(live=count, reference=n0, problem=f"{n0} reference losses, the scan needs {LEAST_REFERENCE}")
    if count < SMALLEST_WINDOW:
        return Scan(live=count, reference=n0, problem=f"{count} labelled rows, the scan needs {SMALLEST_WINDOW}")
    ranks = np.concatenate([pit(known, known), pit(known, new)])
    z, coarse = _best(ranks, _WINDOWS[count >= _WINDOWS])
    # The search that p pays for is over the 22 windows; between them only the place of the change is looked for.
    near = np.arange(max(SMALLEST_WINDOW, int(coarse / 1.35)), min(count, int(coarse * 1.35)) + 1)
    window = _best(ranks, near)[1]
    split = count - window
    own = ranks[n0:]
    # The reference may be in no order, as a shuffled hold-out is; then only the live losses show their dependence. Where
    # both do, one estimate from both is the least biased. A step within the reference is no dependence either.
    known_memory = _memory(_level(ranks[:n0], _step(ranks[:n0])))
    own_memory = _memory(_level(own, split), LAGS)
    memory = max(known_memory, own_memory)
    if min(known_memory, own_memory) > 1:
        memory = (n0 * known_memory + count * own_memory) / (n0 + count)
    if labels is not None:
        memory = max(memory, design_effect(own, labels[kept]))
    if min(n0, count) / memory < LEAST_EFFECTIVE:
        few = f"one row in {memory:.0f} is news: too few for a statement"
        return Scan(live=count, reference=n0, memory=memory, problem=few)
    z = _widened(z / np.sqrt(memory), n0 / memory)
    tests = TESTS_OF_TWO if np.unique(ranks).size == 2 else TESTS
    p = min(1.0, tests * float(ndtr(-z)))
    return _sized(known, new, z, p, window, memory, kept)


def _best(ranks: Floats, windows: NDArray[np.intp]) -> tuple[float, int]:
    """Return the largest standardised rise over these windows, and its window, before any inflation."""
    n = ranks.size
    sums, squares = np.r_[0.0, np.cumsum(ranks)], np.r_[0.0, np.cumsum(np.square(ranks))]
    before = n - windows
    mb, mw = sums[before] / before, (sums[n] - sums[before]) / windows
    values, counts = np.unique(ranks, return_counts=True)
    if values.size == 1:
        return 0.0, int(windows[0])
    if values.size == 2:
        low, width = values[0], values[1] - values[0]
        z = _signed_root((mw - low) / width, windows, (mb - low) / width, before)
    else:
        spread = squares[before] / before - mb**2
        if counts.max() > n / 2:
            # Mostly one value, e.g. no loss at all: a few rare ones in a window are no normal distribution.
            spread = np.maximum(spread, (squares[n] - squares[before]) / windows - mw**2)
        z = (mw - mb) / np.sqrt(np.maximum(spread, 1e-12) * (1 / windows + 1 / before))
    best = int(np.argmax(z))
    return float(z[best]), int(windows[best])


def _signed_root(mw: Floats, w: NDArray[np.intp], mb: Floats, nb: NDArray[np.intp]) -> Floats:
    mw, mb = np.clip(mw, 0.0, 1.0), np.clip(mb, 0.0, 1.0)  # differences of sums stray by rounding
    pooled = (w * mw + nb * mb) / (w + nb)
    ratio = w * _divergence(mw, pooled) + nb * _divergence(mb, pooled)
    return np.asarray(np.sign(mw - mb) * np.sqrt(2 * np.maximum(ratio, 0.0)))


def _divergence(a: Floats, b: Floats) -> Floats:
    """Return Kullback-Leibler's divergence of two Bernoulli distributions; where b is 0 or 1, a is too."""
    inside = (b > 0) & (b < 1)
    b = np.where(inside, b, 0.5)
    found = xlogy(a, a / b) + xlogy(1 - a, (1 - a) / (1 - b))
    return np.where(inside, found, 0.0)


def _widened(z: float, reference: float) -> float:
    if reference >= FULL_REFERENCE:
        return float(z)
    return _student(z, reference - 1)


def _student(z: float, freedom: float) -> float:
    """Return the normal z as unlikely as one of Student's t."""
    return float(-ndtri(max(float(stdtr(freedom, -z)), 1e-300)))


def _sized(known: Floats, new: Floats, z: float, p: float, window: int, memory: float, kept: NDArray[np.intp]) -> Scan:
    """Return the scan with how large the rise is, in the losses' own unit."""
    before, after = float(known.mean()), float(new[-window:].mean())
    base = abs(before)
    if base == 0.0:
        # No loss at all so far. It could still be half a typical one: a ratio needs something to divide by.
        base = float(np.abs(new[new != 0]).mean()) * 0.5 / (known.size + 1) if np.any(new) else 1.0
    known_var, after_var = mean_variance(known, memory), mean_variance(new[-window:], memory)
    ratio = (after - before) / base
    half = _STUDENT * float(np.sqrt(after_var + (1 + ratio) ** 2 * known_var)) / base
    # Over all live losses; where the search has found a change among them, over the window from there on, pulled back
    # to what that search leaves of its z.
    rise, variance = float(new.mean()) - before, mean_variance(new, memory) + known_var
    if p <= 0.05:
        left = -NormalDist().inv_cdf(max(p, 1e-300))
        found, found_variance = (after - before) * left / z, after_var + known_var
        if found * np.sqrt(variance) > rise * np.sqrt(found_variance):
            rise, variance = found, found_variance
    return Scan(
        z, p, int(kept[-window]), window, before, after, ratio, ratio - half, ratio + half, rise, variance,
        int(new.size), int(known.size), memory,
    )  # fmt: skip


def fixed_r2(mse: float, r2: float, rmse: float) -> float:
    """Return the r2 of a mean squared error against the target's variance when `r2` and `rmse` were measured.

    The plain r2 falls when the target varies less, though the errors are the same. NaN where the baseline was
    perfect, so that it does not tell the variance.

    >>> round(fixed_r2(0.1225, r2=0.85, rmse=0.35), 6)
    0.85
    """
    return 1 - mse * (1 - r2) / rmse**2 if rmse > 0 and r2 < 1 else math.nan


def mean_variance(values: Floats, memory: float = 1.0) -> float:
    """Return the variance of the mean; from ten block means where rows depend on their neighbours (`memory` > 1)."""
    if values.size < 2:
        return 0.0
    plain = float(values.var(ddof=1)) / values.size
    if memory <= 1 or values.size < 2 * BLOCKS:
        return plain * memory
    means = values[values.size % BLOCKS :].reshape(BLOCKS, -1).mean(axis=1)
    return max(plain, float(means.var(ddof=1)) / BLOCKS)


def _memory(ranks: Floats, lags: int | None = None) -> float:
    """Return the integrated autocorrelation time, of so many lags; 1 where neighbours are not clearly alike."""
    if ranks.size < 50 or not np.any(ranks != ranks[0]):
        return 1.0
    away = ranks - ranks.mean()
    correlations = autocovariance(away) / (away @ away)
    if correlations[1] * np.sqrt(ranks.size) <= 2.33:
        return 1.0
    if lags is None:
        return float(tau(ranks))
    times = 2 * np.cumsum(correlations[: lags + 1]) - 1
    enough = np.arange(times.size) >= 5 * times
    return max(1.0, float(times[enough.argmax() if enough.any() else -1]))


def _step(values: Floats) -> int:
    """Return where the mean of the values most likely changed, leaving a tenth at both ends."""
    n = values.size
    places = np.arange(max(1, n // 10), max(2, n - n // 10))
    gone = np.cumsum(values - values.mean())[places - 1]
    return int(places[np.argmax(np.abs(gone) / np.sqrt(places * (n - places)))])


def _level(values: Floats, split: int) -> Floats:
    """Return the values without the step between the first `split` and the rest."""
    parts = [one - one.mean() for one in (values[:split], values[split:]) if one.size]
    return np.concatenate(parts)


def rise_over(before: float, rows: int, live: ArrayLike, *, groups: ArrayLike | None = None) -> Scan:
    """Return whether the mean loss is above a mean that is all that is known of the past.

    There is no search for a change point: all live losses are compared. The old mean counts as measured on `rows`
    rows whose losses spread like the live ones, in proportion to their mean.

    >>> round(rise_over(0.1, 1000, [0.0, 0.0, 0.0, 1.0] * 50).z, 2)
    5.4
    """
    whole = _plain(live, "losses")
    kept = np.flatnonzero(np.isfinite(whole))
    new = whole[kept]
    count = int(new.size)
    if few := _too_few(count, rows):
        return few
    memory = _memory(_level(new, _step(new)), LAGS)
    if groups is not None:
        memory = max(memory, design_effect(new, np.asarray(groups)[kept]))
    after, variance = float(new.mean()), mean_variance(new, memory)
    if np.isin(new, (0.0, 1.0)).all():
        base_variance = before * (1 - before) / rows
        counts = np.array([count], dtype=np.intp), np.array([rows], dtype=np.intp)
        z = float(_signed_root(np.array([after]), counts[0], np.array([before]), counts[1])[0]) / np.sqrt(memory)
        variance = max(variance, after * (1 - after) / count * memory, (1 - before) * before / count * memory)
    else:
        base_variance = float(new.var()) * (before / after) ** 2 / rows if after else 0.0
        total = variance + base_variance
        z = (after - before) / np.sqrt(total) if total > 0 else float(np.sign(after - before)) * 40.0
    z = _widened(float(z), count / memory)
    return _without_search(z, before, after, variance, base_variance, count, rows, memory)


def fell(before: float, rows: int, score: Callable[[slice | None], float], count: int) -> Scan:
    """Return whether a score that is no mean of row losses is worse than it was.

    Args:
        before: how far the baseline is from perfect, lower is better.
        rows: on how many rows that was measured.
        score: the same of all live rows (None), or of all but a slice of them.
        count: live rows.

    Source: the jackknife over ten blocks in order of time (Künsch 1989), which also holds for dependent rows; few
    blocks, so the tails are Student's.
    """
    if few := _too_few(count, rows):
        return few
    after = score(None)
    edges = np.linspace(0, count, BLOCKS + 1).astype(int).tolist()
    without = np.array([score(slice(low, high)) for low, high in itertools.pairwise(edges)])
    if not np.isfinite([after, *without]).all():
        return Scan(live=count, reference=rows, problem="the score of the baseline is not defined on the recent rows")
    variance = (BLOCKS - 1) * float(without.var()) * (1 + count / rows)
    z = (after - before) / np.sqrt(variance) if variance > 0 else 0.0
    z = _student(z, BLOCKS - 1)
    return _without_search(z, before, after, variance, 0.0, count, rows)


def _too_few(count: int, rows: int) -> Scan | None:
    if count >= SMALLEST_WINDOW and rows >= LEAST_REFERENCE:
        return None
    few = f"{count} labelled rows and a baseline of {rows} rows"
    return Scan(live=count, reference=rows, problem=f"{few}; needed are {SMALLEST_WINDOW} and {LEAST_REFERENCE}")


def _without_search(
    z: float, before: float, after: float, variance: float, base_variance: float, count: int, rows: int,
    memory: float = 1.0,
) -> Scan:  # fmt: skip
    """Return the scan of all live rows against one number."""
    base = abs(before) or (abs(after) or 1.0) * 0.5 / (rows + 1)
    ratio = (after - before) / base
    half = _STUDENT * float(np.sqrt(variance + (1 + ratio) ** 2 * base_variance)) / base
    return Scan(
        z, float(ndtr(-z)), None, count, before, after, ratio, ratio - half, ratio + half, after - before,
        variance + base_variance, count, rows, memory,
    )  # fmt: skip


def design_effect(values: ArrayLike, groups: ArrayLike) -> float:
    """Return by how much rows of a group being alike inflates the variance of the mean: 1 + (m - 1) ICC.

    Source: Kish, Survey Sampling (1965); the intraclass correlation by one-way analysis of variance.

    >>> design_effect([0.0, 0.0, 1.0, 1.0, 2.0, 2.0], ["a", "a", "b", "b", "c", "c"])
    2.0
    """
    numbers = np.asarray(values, dtype=np.float64)
    _, codes, sizes = np.unique(np.asarray(groups).astype(str), return_inverse=True, return_counts=True)
    n, k = numbers.size, sizes.size
    if k < 2 or k == n:
        return 1.0
    means = np.bincount(codes, numbers) / sizes
    between = float(sizes @ np.square(means - numbers.mean())) / (k - 1)
    within = float(np.square(numbers - means[codes]).sum()) / (n - k)
    typical = (n - float(sizes @ sizes) / n) / (k - 1)
    total = between + (typical - 1) * within
    alike = max(0.0, (between - within) / total) if total > 0 else 0.0
    return 1 + (float(sizes @ sizes) / n - 1) * alike


# --- by a proof, at any time ------------------------------------------------------------------------------------


def upper_mean(values: Floats, alpha: float) -> float:
    """Return what the mean of values in [0, 1] is below, with a chance of at least 1 - alpha, at any number of rows.

    A bet against every larger mean would have made 1/alpha of its stake on these very values.

    Source: Waudby-Smith and Ramdas, J. R. Stat. Soc. B 86 (2024), section 4, with constant bets.
    """
    shares = 0.5 ** np.arange(1, 10)
    low, high = float(values.mean()), 1.0
    for _ in range(40):
        middle = (low + high) / 2
        if middle >= 1.0:
            break
        wealth = np.log1p(np.outer(shares / (1 - middle), middle - values)).sum(axis=1)
        low, high = (low, middle) if np.logaddexp.reduce(wealth) > np.log(shares.size / alpha) else (middle, high)
    return high


def guaranteed_p(reference: ArrayLike, live: ArrayLike, *, alpha: float, bound: float | None = None) -> float:
    """Return a p-value for "the mean loss rose" that holds at every look at once, since the first live loss.

    What is guaranteed: while the mean of the (capped) loss, given the past, is no higher than it was, the chance that
    p ever falls to `alpha` or below is at most `alpha`, for any number of losses and checks, and any distribution.
    What must hold: reference losses are independent draws from the time of the promotion, and every call is given
    all live losses since the same first one. Where the reference, in order of time, shows that losses depend on their
    neighbours, they go in as means of blocks, which makes the guarantee an approximation. p is never below
    `alpha`/2, which is spent on not knowing the mean of the reference.

    Losses count up to `bound`; None is 1 where the reference holds zeros and ones only, else the largest of its first
    fifth, which is then used for nothing else. What a loss exceeds the bound by is not seen.

    Source: bets on starts at every time, weighed so that they sum to one: the e-detector of Shin, Ramdas and Rinaldo
    (2023) with a proper prior instead of a threshold on the average run length.
    """
    known, new = finite(reference, "reference losses"), finite(live, "losses")
    if known.size < LEAST_REFERENCE or not new.size:
        return 1.0
    if min(known.min(), new.min()) < 0:
        raise DataError("a loss is negative; the guaranteed profile needs losses of 0 or more")
    if bound is None and not np.isin(known, (0.0, 1.0)).all():
        apart = max(LEAST_REFERENCE // 2, known.size // 5)
        bound, known = float(known[:apart].max()), known[apart:]
    bound = 1.0 if bound is None else bound
    if bound <= 0:
        bound = float(np.finfo(np.float64).tiny)  # nothing but zeros: any loss at all counts in full
    known, new = np.minimum(known / bound, 1.0), np.minimum(new / bound, 1.0)
    # By the reference alone: blocks that changed with what came in would be another bet at every look.
    if (memory := _memory(known)) > 1:
        known, new = _block_means(known, memory), _block_means(new, memory)
        if known.size < 2 or not new.size:
            return 1.0
    spent = alpha / 2
    least = upper_mean(known, spent)
    return min(1.0, spent + float(np.exp(-_log_wealth(new - least, least))))


def _log_wealth(gains: Floats, least: float) -> float:
    """Return the logarithm of the largest wealth of bets that started at every 32nd gain.

    Each start has its share of the stake, and the more starts, the smaller the shares.
    """
    bets = np.minimum(BETS, 0.9 / least) if least > 0 else np.asarray(BETS)
    sums = np.cumsum(np.log1p(np.outer(bets, gains)), axis=1)
    starts = np.arange(0, gains.size, SMALLEST_WINDOW)
    places = np.arange(2, starts.size + 2)
    weights = np.full(gains.size, -np.inf)
    weights[starts] = -np.log(_STARTS * places * np.log(places) ** 2)
    earlier = np.concatenate([np.zeros((bets.size, 1)), sums[:, :-1]], axis=1)
    wealth = sums + np.logaddexp.accumulate(weights - earlier, axis=1)
    return float((np.logaddexp.reduce(wealth, axis=0) - np.log(bets.size)).max())


def _block_means(values: Floats, memory: float) -> Floats:
    size = int(np.ceil(4 * memory))
    return np.asarray(values[: values.size - values.size % size].reshape(-1, size).mean(axis=1))


# --- over time -------------------------------------------------------------------------------------------------


def blocks(
    losses: ArrayLike, times: NDArray[np.datetime64] | None = None, at: int | None = None, *, most: int = DRAWN
) -> tuple[list[list[str | int | float]], int | None]:
    """Return the mean loss block by block, few enough to store and to draw, and which block begins at `at`.

    Blocks are of about equal numbers of rows, and none lies across `at`. A block is its first moment (ISO 8601 UTC;
    the place of its first loss without times), its mean loss, and its number of losses.

    Args:
        losses: oldest first; those that are not finite are left out.
        times: UTC instants, one per loss.
        at: place in `losses` from which on they changed; None where they did not.
        most: how many blocks; one more where they change.

    >>> blocks([1.0, 1.0, 1.0, 5.0, 5.0], at=3, most=3)
    ([[0, 1.0, 2], [2, 1.0, 1], [3, 5.0, 2]], 2)
    """
    values = np.asarray(losses, dtype=np.float64)
    kept = np.flatnonzero(np.isfinite(values) if times is None else np.isfinite(values) & ~np.isnat(times))
    if not kept.size:
        return [], None
    split = kept.size if at is None else int(kept.searchsorted(at))
    each = max(1, -(-kept.size // most))
    starts = [*range(0, split, each), *range(split, kept.size, each)]
    found: list[list[str | int | float]] = []
    for first, last in zip(starts, [*starts[1:], kept.size], strict=True):
        places = kept[first:last]
        when = int(places[0]) if times is None else f"{np.datetime_as_string(times[places[0]], unit='s')}+00:00"
        found.append([when, float(values[places].mean()), len(places)])
    change = starts.index(split) if at is not None and split < kept.size else None
    return found, change


# --- input ------------------------------------------------------------------------------------------------------


def _plain(values: ArrayLike, what: str) -> Floats:
    try:
        found = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{what} have to be numbers: {error}") from error
    if found.ndim != 1:
        raise DataError(f"{what} have to be a list of numbers; got the shape {found.shape}")
    return found


def finite(values: ArrayLike, what: str) -> Floats:
    """Return the finite ones of a list of numbers."""
    found = _plain(values, what)
    return found[np.isfinite(found)]
