"""The thinnest true path: rows in a file to predictions of a champion, and what changes it."""

from __future__ import annotations

import time

import pandas as pd
import pytest

from evertrain import NoModelYet

from .conftest import line_model, write_rows


def test_a_declared_model_is_trained_promoted_and_predicts(make, folder):
    write_rows(folder / "rows.csv")
    project = make()
    line_model(project)

    with pytest.raises(NoModelYet, match="no model yet"):
        project.predictor("line").predict({"x": [1.0]})
    project.refresh()

    predictor = project.predictor("line")
    assert predictor.predict(pd.DataFrame({"x": [1.5]})).tolist() == pytest.approx([2.0])
    assert predictor.version == "1.0.0"


def test_new_rows_are_trained_on_and_a_touched_file_is_not(make, folder):
    write_rows(folder / "rows.csv")
    project = make()
    line_model(project)
    project.refresh()

    (folder / "rows.csv").touch()
    project.refresh()
    assert [one["state"] for one in project.history()] == ["succeeded"]

    write_rows(folder / "rows.csv", 70)
    project.refresh()
    time.sleep(0.3)
    assert [one["version"] for one in project.history()] == ["1.1.0", "1.0.0"]
