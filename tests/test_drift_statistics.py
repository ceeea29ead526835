"""The kernels of drift: numbers from papers, test vectors and other libraries, and laws."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from evertrain.drift import statistics as s

GOLDEN = Path(__file__).resolve().parents[2] / "shared/data/vectors/drift_stats.json"
REF = np.arange(1, 21) / 10
CUR = np.array([0.85, 1.05, 1.15, 1.25, 1.35, 1.55, 1.65, 1.85, 1.95, 2.15])

samples = st.lists(st.integers(-30, 30).map(float), min_size=1, max_size=60).map(lambda x: np.sort(np.array(x)))
counts = st.lists(st.integers(0, 400), min_size=2, max_size=12).map(lambda x: np.array(x, float))


def close(found, wanted, tolerance=1e-6):
    assert found == pytest.approx(wanted, abs=tolerance)


# --- vectors ----------------------------------------------------------------------------------------------------


def test_vector_1_kolmogorov_smirnov():
    """S3-01"""
    d = s.ks_distance(REF, CUR)
    close(d, 0.4)
    close(s.ks_exact_p(d, 20, 10), 0.221391069)
    close(s.ks_p(d, 20, 10), 0.236490071)
    close(s.ks_p(d, 10, 5), 0.660386020)  # rows that depend on their neighbours, tau = 2
    close(s.ks_effect(d, 20, 10), 0.227211)
    close(s.wasserstein(REF, CUR) / REF.std(), 0.745714574)
    close(s.ks_distance(np.array([1.0, 1, 2, 2, 3]), np.array([1.0, 2, 2, 2, 3, 3])), 0.233333)


def test_vector_3_population_stability():
    for recent, index, noise, effect, p in (
        ([16, 18, 20, 20, 20, 20, 20, 20, 22, 24], 0.009623122, 0.054, 0.0, 0.996300491),
        ([20, 24, 32, 36, 40, 40, 44, 48, 56, 60], 0.096317895, 0.0315, 0.064818, 0.001147100),
    ):
        found, bins = s.psi([100] * 10, recent)
        m = sum(recent)
        close(found, index)
        assert bins == 10
        close(9 * (1 / 1000 + 1 / m), noise)
        close(s.psi_effect(found, 1000, m, bins), effect)
        close(s.psi_p(found, 1000, m, bins), p)
    close(s.psi_p(0.101513866, 1000, 200, 10), 0.05)


def test_vector_4_levels():
    before, now = np.array([400.0, 300, 200, 90, 8, 2]), np.array([70.0, 60, 50, 15, 4, 1])
    pooled = s.pooled(before, now)
    assert [one.tolist() for one in pooled] == [[400, 300, 200, 100], [70, 60, 50, 20]]
    statistic, freedom, p = s.chi_square(*pooled)
    close(statistic, 3.063829787)
    assert freedom == 3
    close(p, stats.chi2_contingency(pooled)[1], 1e-12)
    distance, noise = s.total_variation(before, now)
    close(distance, 0.065)
    close(noise, 0.055144486)
    close(s.total_variation_effect(distance, noise), 0.034410545)


def test_vector_5_shares():
    close(s.two_proportions(20, 1000, 16, 200), 5.605019e-06, 1e-11)
    close(s.fisher(20, 1000, 16, 200), 6.519934e-05, 1e-11)
    close(s.two_proportions(0, 1000, 6, 200), 2.012124e-05, 1e-11)


def test_vector_6_autocorrelation_time():
    x = np.zeros(121)
    for k in range(1, 121):
        x[k] = 0.8 * x[k - 1] + ((7919 * k) % 101) / 101 - 0.5
    x = x[1:]
    close(x[:5].tolist(), [-0.094059, 0.236634, -0.092871, 0.049465, -0.430725])
    close(s.tau(x), 2.078367)
    close(s.tau(x <= np.median(x)), 2.0)
    close(np.mean(s.tau(x <= np.quantile(x, (0.1, 0.25, 0.5, 0.75, 0.9))[:, np.newaxis])), 1.960741)


def test_vector_16_auc_of_samples_that_do_not_differ():
    close(s.auc_null_sd(1000, 300), 0.019010231)


@pytest.mark.parametrize(("phi", "mean", "median"), [(0.5, 3.0, 2.307176), (0.9, 19.0, 13.278869)])
def test_autocorrelation_times_of_ar1_are_those_of_theory(phi, mean, median):
    noise, x = np.random.default_rng(3).normal(size=200_000), np.zeros(200_000)
    for k in range(1, len(x)):
        x[k] = phi * x[k - 1] + noise[k]
    assert s.tau(x) == pytest.approx(mean, rel=0.12)
    assert s.tau(x <= np.median(x)) == pytest.approx(median, rel=0.12)


# --- other libraries --------------------------------------------------------------------------------------------


def golden(*tests):
    if not GOLDEN.exists():
        pytest.skip("the shared vectors are not beside this checkout")
    found = [one for one in json.loads(GOLDEN.read_text()) if one["test"] in tests]
    assert found
    return found


def table(one):
    before, now = Counter(map(str, one["reference"])), Counter(map(str, one["current"]))
    levels = sorted(before | now)
    return tuple(np.array([side[level] for level in levels], float) for side in (before, now))


@pytest.mark.shared
def test_golden_kolmogorov_smirnov():
    two_sided = [one for one in golden("ks_2samp") if one["alternative"] == "two-sided"]
    assert len(two_sided) == 11
    for one in two_sided:
        reference, recent = np.sort(one["reference"]), np.sort(one["current"])
        d = s.ks_distance(reference, recent)
        close(d, one["expected"]["statistic"], one["tol"])
        close(s.ks_exact_p(d, len(reference), len(recent)), one["expected"]["p"], one["tol"])


@pytest.mark.shared
def test_golden_exact_shares():
    for one in golden("fisher_exact_p"):
        a, b = (Counter(side)["a"] for side in (one["reference"], one["current"]))
        close(s.fisher(a, len(one["reference"]), b, len(one["current"])), one["expected"], one["tol"])


@pytest.mark.shared
def test_golden_chi_square():
    """Of the golden p, those of one-sample tests are left out: they take the reference's shares as certain."""
    (one,) = golden("frouros_chi2")
    statistic, _, p = s.chi_square(*table(one))
    close(statistic, one["expected"]["statistic"], one["tol"])
    close(p, one["expected"]["p"], one["tol"])
    same = [one for one in golden("chi2_p") if one["expected"] == 1.0]
    close(s.chi_square(*table(same[0]))[2], 1.0)


@pytest.mark.shared
def test_golden_wasserstein():
    for one, (mean, n) in zip(golden("wasserstein"), ((1, 10_000), (-4, 100_000)), strict=True):
        random = np.random.RandomState(one["numpy_legacy_seed"])
        reference, recent = np.sort(random.normal(0, 1, n)), np.sort(random.normal(mean, 1, 1000))
        close(s.wasserstein(reference, recent), one["expected"], one["tol"])


@given(samples, samples)
def test_distances_are_those_of_scipy(reference, recent):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SciPy divides by the distance of equal samples
        found = stats.ks_2samp(reference, recent, method="asymp")
    close(s.ks_distance(reference, recent), found.statistic, 1e-12)
    close(s.wasserstein(reference, recent), stats.wasserstein_distance(reference, recent), 1e-9)


@given(st.integers(1, 60), st.integers(1, 60), st.floats(0, 1))
def test_the_exact_p_is_that_of_scipy(n, m, share):
    reference = np.arange(n, dtype=float)
    recent = np.sort(np.arange(m) * n / m + share * n - 0.5)
    with warnings.catch_warnings(record=True) as failed:
        warnings.simplefilter("always")
        found = stats.ks_2samp(reference, recent, method="exact")
    if failed:  # SciPy says that it fell back
        return
    close(s.ks_exact_p(found.statistic, n, m), found.pvalue, 1e-10)


@given(st.integers(1, 200), st.integers(1, 200), st.data())
def test_fishers_p_is_that_of_scipy(n, m, data):
    a, c = data.draw(st.integers(0, n)), data.draw(st.integers(0, m))
    close(s.fisher(a, n, c, m), stats.fisher_exact([[a, n - a], [c, m - c]])[1], 1e-9)


@given(counts, st.data())
def test_chi_square_is_that_of_scipy(before, data):
    now = np.array(data.draw(st.lists(st.integers(0, 400), min_size=len(before), max_size=len(before))), float)
    used = before + now > 0
    if not before.sum() or not now.sum() or used.sum() < 2:
        return
    found = stats.chi2_contingency(np.stack([before, now])[:, used], correction=False)
    statistic, freedom, p = s.chi_square(before, now)
    assert (statistic, freedom, p) == (pytest.approx(found[0], abs=1e-8), found[2], pytest.approx(found[1], abs=1e-9))


def test_welch_is_that_of_scipy_with_many_rows():
    random = np.random.default_rng(5)
    first, second = random.normal(0, 1, 5_000), random.normal(0.05, 2, 4_000)
    z, p = s.welch(first, second)
    found = stats.ttest_ind(second, first, equal_var=False)
    close(z, found.statistic, 1e-9)
    close(p, found.pvalue, 1e-3)


# --- laws -------------------------------------------------------------------------------------------------------


@given(samples, samples)
def test_the_ks_distance_is_symmetrical_and_blind_to_increasing_transforms(reference, recent):
    d = s.ks_distance(reference, recent)
    close(s.ks_distance(recent, reference), d, 1e-12)
    close(s.ks_distance(np.exp(reference / 10), np.exp(recent / 10)), d, 1e-12)


@given(counts, counts)
def test_pooled_levels_are_large_enough_and_lose_no_row(before, now):
    size = min(len(before), len(now))
    before, now = before[:size], now[:size]
    if not before.sum() or not now.sum():
        return
    first, second = s.pooled(before, now)
    assert (first.sum(), second.sum()) == (before.sum(), now.sum())
    limit = 5 * (before.sum() + now.sum()) / min(before.sum(), now.sum())
    assert len(first) == 1 or (first + second).min() >= limit


def test_effects_have_no_size_where_nothing_changed():
    """With 100 rows the KS distance alone is over the floor of 0.08 in most samples; its effect in few."""
    random = np.random.default_rng(11)
    reference = np.sort(random.normal(size=1_000))
    found = [s.ks_distance(reference, np.sort(random.normal(size=100))) for _ in range(400)]
    assert np.mean(np.array(found) > 0.08) > 0.5
    assert np.mean(s.ks_effect(found, 1_000, 100) > 0.08) < 0.25


def test_the_psi_p_has_its_nominal_size():
    random = np.random.default_rng(12)
    found = [s.psi(random.multinomial(1000, [0.1] * 10), random.multinomial(200, [0.1] * 10))[0] for _ in range(1000)]
    assert 0.03 < np.mean(s.psi_p(found, 1000, 200, 10) < 0.05) < 0.075


@pytest.mark.parametrize("levels", [5, 50, 1000])
def test_the_pooled_chi_square_has_its_nominal_size(levels):
    random = np.random.default_rng(13)
    shares = 1 / np.arange(1, levels + 1)
    shares /= shares.sum()
    found = [
        s.chi_square(*s.pooled(random.multinomial(1000, shares) * 1.0, random.multinomial(200, shares) * 1.0))[2]
        for _ in range(1000)
    ]
    assert 0.03 < np.mean(np.array(found) < 0.05) < 0.075


def test_series_without_memory_or_without_change_have_time_one():
    assert s.tau(np.ones(50)) == 1
    assert s.tau(np.full(50, 0.1)) == 1
    assert s.tau([3.0]) == 1
    assert s.tau(np.tile([0.0, 1.0], 50)) == 1


def test_a_matrix_of_series_has_the_times_of_each():
    x = np.cumsum(np.random.default_rng(1).normal(size=(3, 200)), axis=1)
    close(s.tau(x).tolist(), [float(s.tau(one)) for one in x], 1e-9)


def test_the_robust_spread_is_not_masked_by_outliers():
    """S3-02: 8 % of outliers raise the standard deviation until they hide behind it; not the median deviation."""
    random = np.random.default_rng(2)
    x = random.normal(size=2_000)
    x[:160] += 6
    median = np.median(x)
    spread = s.robust_spread(np.median(np.abs(x - median)), np.subtract(*np.quantile(x, [0.75, 0.25])))
    assert np.mean(np.abs(x - x.mean()) / x.std() > 3) < 0.05
    assert np.mean(np.abs(x - median) / spread > 3.5) > 0.07


def test_the_robust_spread_of_mostly_equal_values_is_not_there():
    assert np.isnan(s.robust_spread(0.0, 0.0))
    close(s.robust_spread(0.0, 1.349), 1.0)


@pytest.mark.parametrize(("levels", "n", "m"), [(5, 1000, 100), (50, 1000, 200), (1000, 1000, 1000), (2000, 500, 250)])
def test_the_noise_of_levels_is_known_however_rare_they_are(levels, n, m):
    random, shares = np.random.default_rng(14), 1 / np.arange(1, levels + 1)
    shares /= shares.sum()
    drawn = [[random.multinomial(size, shares) * 1.0 for size in (n, m)] for _ in range(200)]
    found = [distance - noise for distance, noise in (s.total_variation(*both) for both in drawn)]
    assert abs(np.mean(found)) < 0.005
