"""The hold-out: no version ever trains on a row that it is judged by."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evertrain import holdout
from evertrain.sources.extract import SIDE, Reading, extract
from evertrain.sources.table import Table

shares = st.floats(0.01, 0.99)
numbers = st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=50).map(lambda n: np.array(n, dtype=np.uint64))
times = st.lists(st.one_of(st.integers(0, 20).map(float), st.just(math.nan)), min_size=1, max_size=40).map(np.array)


@given(numbers, numbers, shares)
def test_a_row_stays_on_its_side_whatever_rows_come_beside_it(one: np.ndarray, more: np.ndarray, share: float) -> None:
    alone = holdout.by_identity(one, share)
    among = holdout.by_identity(np.concatenate([more, one]), share)
    assert (among.held[len(more) :] == alone.held).all()
    assert (alone.train ^ alone.held).all()


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_about_the_declared_share_is_held_out(share: float) -> None:
    uniform = np.random.default_rng(7).integers(0, 2**64 - 1, 20_000, dtype=np.uint64)
    assert holdout.by_identity(uniform, share).held.mean() == pytest.approx(share, abs=0.01)


@given(times, shares, st.sampled_from([0.0, 1.0, 3.0]))
def test_held_out_rows_are_newer_than_every_training_row_by_the_gap(when: np.ndarray, share: float, gap: float) -> None:
    split = holdout.by_time(when, share, gap)

    assert not (split.train & split.held).any()
    assert split.train[np.isnan(when)].all()
    if not np.isnan(when).all():
        known = when[split.train & ~np.isnan(when)]
        assert split.until == known.max()
        assert (when[split.held] > split.until + gap).all()
        # rows of one instant stay together
        for moment in np.unique(when[~np.isnan(when)]):
            same = when == moment
            assert split.train[same].all() or not split.train[same].any()


def test_the_newest_fifth_is_held_out_and_the_gap_belongs_to_neither() -> None:
    when = np.arange(100.0)
    split = holdout.by_time(when, 0.2, gap=5)
    assert split.until == 79
    assert when[split.held].tolist() == list(range(85, 100))
    assert split.train.sum() == 80


def test_newer_rows_are_told_by_time_or_by_what_was_seen_or_not_at_all() -> None:
    ids = np.array([1, 2, 3], dtype=np.uint64)
    when = np.array([1.0, 2.0, math.nan])
    assert holdout.newer(when, ids, 1.0, None).tolist() == [False, True, False]
    assert holdout.newer(None, ids, None, [1, 3]).tolist() == [False, True, False]
    assert holdout.newer(None, ids, None, None).tolist() == [False, False, False]


# --- which number a row has -------------------------------------------------------------------------------------


def sides(frame: pl.DataFrame, folder: Path, **reading: object) -> dict[float, int]:
    """The side number of each row by its `x`."""
    target = folder / f"{len(list(folder.iterdir()))}.arrow"
    extract(Table(frame), Reading("m", "y", **reading), target)  # type: ignore[arg-type]
    found = pl.read_ipc(target)
    return dict(zip(found["x"].to_list(), found[SIDE].to_list(), strict=True))


FRAME = pl.DataFrame({"id": range(200), "x": [i / 2 for i in range(200)], "y": [float(i) for i in range(200)]})


def test_a_corrected_label_leaves_a_row_on_its_side(tmp_path: Path) -> None:
    corrected = FRAME.with_columns(y=pl.col("y") * -3)
    assert sides(FRAME, tmp_path) == sides(corrected, tmp_path)


def test_order_and_other_rows_do_not_move_a_row(tmp_path: Path) -> None:
    whole = sides(FRAME, tmp_path)
    part = sides(FRAME.reverse()[:150], tmp_path)
    assert {x: whole[x] for x in part} == part


def test_with_a_key_even_a_corrected_feature_leaves_a_row_on_its_side(tmp_path: Path) -> None:
    moved = FRAME.with_columns(x=pl.col("x") + 1000)
    by_key = sides(FRAME, tmp_path, key=("id",))
    assert list(by_key.values()) == list(sides(moved, tmp_path, key=("id",)).values())
    assert list(by_key.values()) != list(sides(moved, tmp_path).values())


def test_rows_of_equal_content_are_on_both_sides(tmp_path: Path) -> None:
    same = pl.DataFrame({"x": [1.0] * 400, "y": [2.0] * 400})
    target = tmp_path / "same.arrow"
    extract(Table(same), Reading("m", "y"), target)
    side = pl.read_ipc(target)[SIDE].to_numpy()
    assert 0.1 < holdout.by_identity(side, 0.2).held.mean() < 0.3
