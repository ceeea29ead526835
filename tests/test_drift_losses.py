"""The loss scan: numbers by hand, laws, false alarms on simulated streams, and published change points.

Numbers without another source were computed with NumPy and SciPy beside the specification.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from evertrain.drift import losses
from evertrain.drift.losses import (
    DRAWN,
    Scan,
    blocks,
    design_effect,
    guaranteed_p,
    mean_variance,
    pit,
    rise_over,
    scan,
    upper_mean,
)
from evertrain.errors import DataError

STREAMS = Path(__file__).resolve().parents[2] / "shared/data/vectors/detectors.json"


def ones(rng, rows, share):
    return (rng.random(rows) < share).astype(float)


def neighbours(rng, rows, phi):
    """A standard normal series in which each value depends on the one before."""
    noise = rng.normal(size=rows) * np.sqrt(1 - phi**2)
    noise[0] = rng.normal()
    for i in range(1, rows):
        noise[i] += phi * noise[i - 1]
    return noise


# --- vectors ----------------------------------------------------------------------------------------------------


def test_pit_is_the_mid_rank():
    reference = np.arange(1, 11) / 10
    assert pit(reference, reference) == pytest.approx(np.arange(0.05, 1, 0.1))
    assert pit(reference, [0.35, 0.85, 0.95, 1.2]) == pytest.approx([0.3, 0.8, 0.9, 1.0])


@pytest.mark.parametrize(("window", "z"), [(2, 2.050759), (3, 2.294358), (4, 1.471225)])
def test_the_standardised_rise_of_ranks_is_the_one_computed_by_hand(window, z):
    ranks = np.r_[np.arange(0.05, 1, 0.1), 0.3, 0.8, 0.9, 1.0]
    assert losses._best(ranks, np.array([window])) == (pytest.approx(z, abs=1e-6), window)


def test_right_or_wrong_takes_the_signed_root_of_the_likelihood_ratio():
    reference, live = np.r_[np.zeros(90), np.ones(10)], np.r_[np.zeros(40), np.ones(10)]
    ranks = np.concatenate([pit(reference, reference), pit(reference, live)])
    assert losses._best(ranks, np.array([32, 43])) == (pytest.approx(3.092457, abs=1e-6), 32)


# --- false alarms and delay -------------------------------------------------------------------------------------


def alarms(draw, streams=40, reference=1000, rows=3000, every=100, alpha=0.05):
    """How many of the streams alarm at any of their checks."""
    level, found = alpha * every / rows, 0
    for number in range(streams):
        whole = draw(np.random.default_rng(number), reference + rows)
        old, live = whole[:reference], whole[reference:]
        found += any(scan(old, live[:k]).p < level for k in range(every, rows + 1, every))
    return found


@pytest.mark.parametrize(
    "draw",
    [
        pytest.param(lambda rng, n: ones(rng, n, 0.2), id="one in five wrong"),
        pytest.param(lambda rng, n: ones(rng, n, 0.02), id="one in fifty wrong"),
        pytest.param(lambda rng, n: rng.normal(size=n) ** 2, id="squared normal errors"),
        pytest.param(lambda rng, n: np.exp(3 * rng.standard_t(3, size=n)), id="losses without a mean"),
        pytest.param(lambda rng, n: np.where(rng.random(n) < 0.03, rng.exponential(size=n), 0.0), id="rare losses"),
        pytest.param(lambda rng, n: neighbours(rng, n, 0.3) ** 2, id="neighbours alike, squared"),
        pytest.param(lambda rng, n: (neighbours(rng, n, 0.3) > 0.84).astype(float), id="neighbours alike, wrong"),
    ],
)
def test_streams_in_which_nothing_changes_keep_the_budget(draw):
    """5 % are promised; of 40 streams 6 or fewer is what chance allows in 99.7 of 100 seeds."""
    assert alarms(draw) <= 6


def test_a_small_reference_makes_no_more_false_alarms():
    assert alarms(lambda rng, n: rng.normal(size=n) ** 2, reference=60) <= 6


def test_a_shuffled_reference_does_not_hide_that_live_losses_depend_on_their_neighbours():
    def draw(rng, n):
        series = (neighbours(rng, n, 0.7) > 0.84).astype(float)
        return np.r_[rng.permutation(series[:1000]), series[1000:]]

    assert alarms(draw) <= 8  # on 300 streams 24 %: blocks of one value are not wholly accounted for


def test_half_more_errors_are_found_after_some_hundred_rows():
    delays = []
    for number in range(30):
        rng = np.random.default_rng(number)
        old, calm, risen = ones(rng, 1000, 0.2), ones(rng, 2000, 0.2), ones(rng, 3000, 0.3)
        live = np.r_[calm, risen]
        delays.append(next((k for k in range(50, 3001, 50) if scan(old, live[: 2000 + k]).p < 0.05 / 100), 3000))
    assert np.mean(delays) < 400  # measured on 200 streams: 285


def test_the_place_of_the_change_is_found():
    rng = np.random.default_rng(3)
    found = scan(ones(rng, 1000, 0.1), np.r_[ones(rng, 700, 0.1), ones(rng, 300, 0.4)])
    assert found.at is not None
    assert abs(found.at - 700) < 60
    assert found.before < 0.15 < 0.3 < found.after
    assert found.low < 3.0 < found.high  # the true relative rise
    assert found.rise == pytest.approx(0.3, abs=0.1)


def test_places_count_rows_that_are_not_labelled_yet():
    rng = np.random.default_rng(3)
    live = np.r_[ones(rng, 700, 0.1), ones(rng, 300, 0.4)]
    gaps = np.full(2000, np.nan)
    gaps[::2] = live
    reference = ones(rng, 1000, 0.1)
    plain, spread = scan(reference, live), scan(reference, gaps)
    assert (spread.z, spread.window) == (plain.z, plain.window)
    assert spread.at == 2 * plain.at


@pytest.mark.shared
@pytest.mark.skipif(not STREAMS.exists(), reason="the shared vectors are not beside this checkout")
@pytest.mark.parametrize(
    ("stream", "start", "change", "sign"),
    [("s1", 0, 1000, 1), ("s2", 0, 1000, 1), ("s3", 0, 500, 1), ("s3", 560, 1000, -1), ("s3", 1060, 1500, 1)],
)
def test_the_first_alarm_comes_within_60_rows_after_the_published_change(stream, start, change, sign):
    """Each part starts anew after the alarm before; a fall of s3 is a rise of what is left of 1."""
    values = sign * np.array(json.loads(STREAMS.read_text())["streams"][stream], dtype=float)
    reference, first = values[start : start + 300], start + 300
    level = 0.05 * 5 / (change + 60 - first)
    alarm = next(k for k in range(first + 32, len(values), 5) if scan(reference, values[first:k]).p < level)
    assert change < alarm <= change + 60


# --- laws -------------------------------------------------------------------------------------------------------

LOSSES = st.lists(st.integers(0, 40), min_size=60, max_size=120)


@given(LOSSES, LOSSES)
def test_the_scan_is_the_same_after_any_increasing_change_of_unit(reference, live):
    plain = scan(np.array(reference, float), np.array(live, float))
    other = scan(np.exp(np.array(reference) / 5), np.exp(np.array(live) / 5))
    assert (other.z, other.at, other.p) == (plain.z, plain.at, plain.p)


@given(st.permutations(list(range(300))))
def test_a_permutation_of_the_reference_never_alarms(order):
    reference = np.arange(300.0)
    assert scan(reference, reference[order]).p * 30 > 0.05


@settings(max_examples=30)
@given(st.integers(0, 1000), st.floats(0.05, 0.6))
def test_a_larger_rise_never_looks_smaller(seed, share):
    rng = np.random.default_rng(seed)
    reference, level = ones(rng, 500, 0.2), rng.random(400)
    some, more = (scan(reference, (level < one).astype(float)) for one in (share, share + 0.1))
    assert more.ratio >= some.ratio or more.z >= some.z


# --- by a proof -------------------------------------------------------------------------------------------------


def test_the_bound_on_the_mean_holds_and_narrows():
    wrong = sum(upper_mean(ones(np.random.default_rng(i), 300, 0.2), 0.05) < 0.2 for i in range(300))
    assert wrong <= 15
    sample = ones(np.random.default_rng(0), 5000, 0.2)
    assert upper_mean(sample, 0.05) < sample.mean() + 3.5 * stats.sem(sample)
    assert upper_mean(np.ones(50), 0.05) == 1.0
    assert 0 < upper_mean(np.zeros(1000), 0.05) < 0.012


def test_the_guarantee_holds_over_all_looks_at_once():
    false = sum(
        guaranteed_p(ones(rng, 500, 0.2), ones(rng, 3000, 0.2), alpha=0.05) <= 0.05
        for rng in map(np.random.default_rng, range(60))
    )
    assert false <= 3


def test_the_guarantee_still_sees_a_true_rise():
    rng = np.random.default_rng(0)
    old, live = ones(rng, 1000, 0.2), np.r_[ones(rng, 2000, 0.2), ones(rng, 900, 0.35)]
    assert guaranteed_p(old, live[:2000], alpha=0.05) > 0.05
    assert guaranteed_p(old, live, alpha=0.05) <= 0.05


def test_an_alarm_of_the_guaranteed_profile_is_not_taken_back_by_later_rows():
    rng = np.random.default_rng(0)
    old, live = ones(rng, 1000, 0.2), np.r_[ones(rng, 400, 0.6), ones(rng, 2000, 0.1)]
    assert guaranteed_p(old, live, alpha=0.05) <= guaranteed_p(old, live[:400], alpha=0.05)


def test_losses_of_any_size_are_capped_by_the_reference():
    rng = np.random.default_rng(0)
    old = rng.exponential(size=1000)
    assert guaranteed_p(old, rng.exponential(size=1000), alpha=0.05) > 0.05
    assert guaranteed_p(old, 3 * rng.exponential(size=1000), alpha=0.05) <= 0.05
    one_huge = rng.exponential(size=1000)
    one_huge[7] = 1e12
    assert guaranteed_p(old, one_huge, alpha=0.05) > 0.05


def test_negative_losses_cannot_be_guaranteed():
    with pytest.raises(DataError, match="negative"):
        guaranteed_p(np.linspace(-1, 1, 100), np.ones(50), alpha=0.05)


# --- a mean alone -----------------------------------------------------------------------------------------------


def test_a_baseline_is_as_uncertain_as_the_rows_it_was_measured_on():
    rng = np.random.default_rng(0)
    live = ones(rng, 400, 0.15)
    assert rise_over(0.1, 100_000, live).p < rise_over(0.1, 500, live).p < rise_over(0.1, 60, live).p
    assert rise_over(0.1, 1000, ones(rng, 400, 0.1)).p > 0.01


def test_the_p_of_a_rise_over_a_baseline_is_uniform_enough():
    below = sum(
        rise_over(float(rng.normal(size=800).var()), 800, rng.normal(size=300) ** 2).p < 0.05
        for rng in map(np.random.default_rng, range(400))
    )
    assert below <= 400 * 0.08


# --- degenerate input -------------------------------------------------------------------------------------------


def test_a_model_that_was_never_wrong_alarms_only_after_several_errors():
    one = scan(np.zeros(500), np.r_[np.zeros(100), 1.0])
    assert one.p > 0.01
    many = scan(np.zeros(500), np.r_[np.zeros(100), np.ones(20)])
    assert many.p < 1e-6
    assert np.isfinite([many.ratio, many.low, many.high, many.rise, many.variance]).all()
    assert scan(np.zeros(500), np.r_[np.zeros(100), 0.5]).p > 0.01


def test_losses_that_never_change_say_nothing():
    for constant in (0.0, 0.3, 1.0):
        found = scan(np.full(300, constant), np.full(100, constant))
        assert (found.p, found.ratio, found.rise) == pytest.approx((1.0, 0.0, 0.0))


def test_few_losses_are_named_instead_of_judged():
    assert scan(np.arange(19.0), np.arange(100.0)).problem == "19 reference losses, the scan needs 20"
    assert scan(np.sin(np.arange(20.0) ** 2), np.sin(np.arange(100.0) ** 2)).problem == ""
    assert scan(np.arange(100.0), np.arange(31.0)).problem == "31 labelled rows, the scan needs 32"
    assert scan(np.arange(100.0), np.full(500, np.nan)).problem == "0 labelled rows, the scan needs 32"
    assert scan([], []) == Scan(problem="0 reference losses, the scan needs 20")
    assert rise_over(0.1, 5, np.ones(50)).problem


def test_a_step_within_the_reference_does_not_silence_the_scan():
    """A hold-out whose newest half was harder says little about how alike neighbours are; the harm after it is plain."""
    rng = np.random.default_rng(4)
    reference = np.r_[rng.random(580) < 0.09, rng.random(580) < 0.5].astype(float)
    found = scan(reference, (rng.random(1400) < 0.75).astype(float))
    assert not found.problem
    assert found.memory < 3
    assert found.p < 1e-6


def test_the_smaller_the_reference_the_less_sure():
    live = np.r_[np.linspace(0, 1, 60), np.linspace(0.5, 1.5, 60)]
    p = [scan(np.random.default_rng(1).permutation(np.linspace(0, 1, n)), live).p for n in (2000, 200, 60, 25)]
    assert p == sorted(p)


def test_losses_that_are_not_finite_are_left_out():
    rng = np.random.default_rng(0)
    reference, live = rng.random(300), rng.random(200)
    dirty = np.r_[np.nan, reference, np.inf]
    assert scan(dirty, np.r_[live, np.nan]).z == scan(reference, live).z


def test_only_the_newest_20_000_losses_are_looked_at():
    rng = np.random.default_rng(0)
    found = scan(rng.random(500), rng.random(30_000))
    assert found.live == 20_000
    assert found.at is not None
    assert found.at >= 10_000


def test_input_that_is_no_list_of_numbers_is_refused():
    for wrong in (["a", "b"], [[1.0, 2.0]], "losses", 3.0):
        with pytest.raises(DataError, match="numbers"):
            scan(np.ones(100), wrong)
    with pytest.raises(DataError, match="2 groups for 40 losses"):
        scan(np.arange(100.0), np.arange(40.0), groups=["a", "b"])
    with pytest.raises(DataError, match="no reference losses"):
        pit([], [1.0])


def test_rows_of_one_group_count_less():
    rng = np.random.default_rng(0)
    owners = np.repeat(np.arange(20), 20)
    bad_owners = np.repeat(rng.random(20) < 0.35, 20).astype(float)
    reference = ones(rng, 1000, 0.2)
    order = rng.permutation(400)  # so that it is the groups and not the order that say it
    alone, grouped = scan(reference, bad_owners[order]), scan(reference, bad_owners[order], groups=owners[order])
    assert grouped.memory == pytest.approx(20.0)
    assert grouped.p > alone.p
    assert design_effect(rng.random(400), owners) < 2
    assert design_effect([1.0, 2.0, 3.0], ["a", "b", "c"]) == 1.0
    assert design_effect([1.0, 1.0, 1.0, 1.0], ["a", "a", "b", "b"]) == 1.0


def test_the_variance_of_a_mean_by_blocks_agrees_with_theory():
    """AR(1): the variance of the mean is (1 + phi) / (1 - phi) / n times that of a value."""
    found = [mean_variance(neighbours(np.random.default_rng(i), 2000, 0.6), 4.0) for i in range(60)]
    assert np.mean(found) == pytest.approx(4.0 / 2000, rel=0.2)
    sample = np.random.default_rng(0).random(50)
    assert mean_variance(sample) == pytest.approx(float(stats.sem(sample)) ** 2)
    assert mean_variance(np.array([1.0])) == 0.0


# --- over time -------------------------------------------------------------------------------------------------


@given(
    losses=st.lists(st.floats(0, 10) | st.just(float("nan")), max_size=300),
    at=st.none() | st.integers(0, 299),
    most=st.integers(1, 50),
)
def test_no_loss_is_lost_and_no_block_lies_across_the_change(losses, at, most):
    found, change = blocks(losses, at=at, most=most)

    finite = [one for one in losses if one == one]
    assert sum(rows for _, _, rows in found) == len(finite)
    assert sum(mean * rows for _, mean, rows in found) == pytest.approx(sum(finite))
    assert len(found) <= most + 1
    if change is not None:
        assert at is not None
        assert found[change][0] >= at
        assert all(first < at for first, _, _ in found[:change])


def test_blocks_say_when_they_begin_and_are_plain_json():
    times = np.datetime64("2026-05-01T00:00:00.5") + np.arange(100) * np.timedelta64(1, "h")

    found, change = blocks(np.r_[np.zeros(50), np.ones(50)], times, 50)

    assert found[0] == ["2026-05-01T00:00:00+00:00", 0.0, 3]
    assert change is not None
    assert found[change] == ["2026-05-03T02:00:00+00:00", 1.0, 3]
    assert len(found) <= DRAWN + 1
    assert json.loads(json.dumps(found)) == found
