"""Losses over time, block by block."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evertrain.drift.series import BLOCKS, blocks
from evertrain.errors import DataError


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
    assert len(found) <= BLOCKS + 1
    assert json.loads(json.dumps(found)) == found


def test_other_numbers_of_times_are_refused():
    with pytest.raises(DataError, match="2 times for 3 losses"):
        blocks([1, 2, 3], np.array(["2026-05-01", "2026-05-02"], dtype="datetime64[s]"))
