"""Predicting: what a caller may give, and what is told where no answer can be given."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from evertrain import DataError
from evertrain.control import ask

from .conftest import line_model, write_rows


@pytest.fixture
def project(make, folder):
    write_rows(folder / "rows.csv")
    made = make()
    line_model(made)
    made.refresh()
    return made


@pytest.mark.parametrize(
    "rows",
    [pd.DataFrame({"x": [1.5, 2.5]}), {"x": [1.5, 2.5]}, [{"x": 1.5}, {"x": 2.5}]],
    ids=["frame", "columns", "rows"],
)
def test_rows_come_as_a_frame_as_columns_or_one_by_one(project, rows):
    assert project.predictor("line").predict(rows).tolist() == pytest.approx([2.0, 4.0])


def test_no_rows_are_no_predictions(project):
    assert project.predictor("line").predict(pd.DataFrame({"x": []})).shape == (0,)


@pytest.mark.parametrize("rows", [None, {"x": 1.5}, 7, [[1.5]]])
def test_what_is_no_table_is_told_so(project, rows):
    with pytest.raises(DataError, match=r"give a data frame|is missing"):
        project.predictor("line").predict(rows)


def test_what_the_model_cannot_predict_is_told_as_the_rows_fault(make, folder):
    """No raw error of a library reaches the caller: the version and the reason in one sentence."""
    from sklearn.linear_model import LinearRegression

    write_rows(folder / "rows.csv")
    project = make()
    line_model(project, trainer=LinearRegression())
    project.refresh()

    with pytest.raises(DataError, match=r"1\.0\.0 cannot predict these rows: ValueError: Input X contains infinity"):
        project.predictor("line").predict({"x": [np.inf]})


def test_a_rollback_is_not_undone_by_what_its_own_training_had_asked_for(make, folder):
    """P-32: rows that were read for a training by hand are no news afterwards, so the rollback stays."""
    write_rows(folder / "rows.csv")
    project = make()
    line_model(project)
    project.refresh()
    write_rows(folder / "rows.csv", 70)
    project.trigger("line")
    assert project.predictor("line").version == "1.1.0"
    assert ask.plan_all(project.opened) == []

    project.rollback("line")
    project.refresh()

    assert project.predictor("line").version == "1.0.0"


def test_asking_while_paused_says_so_and_does_not_wait(project):
    from evertrain import Conflict
    from evertrain.store import models

    with project.opened.store.write() as tx:
        models.pause(tx, None, paused=True)
    with pytest.raises(Conflict, match="line is paused, so run 2 waits"):
        project.trigger("line", force=True)


def test_the_first_version_is_1_0_0_whatever_was_declared_before_it(make, folder):
    project = make()
    line_model(project, target="x")
    _ = project.opened
    write_rows(folder / "rows.csv")
    line_model(project)
    project.refresh()
    assert project.predictor("line").version == "1.0.0"
