"""The example of real panels: what it measures is what came, and where it says better, the gate says so too."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
EXAMPLE = ROOT / "examples" / "panels" / "panels.py"
there = pytest.mark.skipif(
    not (DATA / "air_passengers.csv").exists(), reason="the shared panels are not beside this checkout"
)


@pytest.fixture(scope="module")
def panels():
    pytest.importorskip("statsforecast")
    found = importlib.util.spec_from_file_location("panels", EXAMPLE)
    module = importlib.util.module_from_spec(found)
    sys.modules["panels"] = module  # dataclasses look their module up
    found.loader.exec_module(module)
    yield module
    del sys.modules["panels"]


def panel_of(panels, name):
    return next(one for one in panels.PANELS if one.name == name)


@pytest.mark.shared
@there
@pytest.mark.parametrize(("name", "better"), [("air_passengers", "AutoTheta"), ("air_passengers", "Ridge")])
def test_a_forecaster_that_beats_the_seasonal_naive_passes_the_gate_saying_so(panels, name, better, tmp_path):
    panel = panel_of(panels, name)
    found = {one.trainer: one for one in panels.measure(panel, DATA, only=(panels.NAIVE, better))}
    assert found[better].mase < found[panels.NAIVE].mase
    assert len(found[better].errors) == panel.h * panel.origins * (len(panel.columns) + 1 if panel.several else 1)

    project = panels.project_of(panel, DATA, tmp_path, datetime(2026, 1, 1, tzinfo=UTC), windows=4, only=[better])
    project.refresh()
    with project.opened.store.read() as tx:
        rows = tx.rows("SELECT f.signature FROM partitions p JOIN fits f ON f.id = p.champion_id")
    beats = [json.loads(row.signature)["beats_baseline"] for row in rows]
    project.close()
    assert len(beats) == (len(panel.columns) + 1 if panel.several else 1)
    assert all(beats)


@pytest.mark.shared
@there
def test_no_forecast_knows_what_came_after_its_origin(panels):
    """The same forecasts come out of a file that ends at the last origin."""
    panel = panel_of(panels, "air_passengers")
    (found,) = panels.measure(panel, DATA, only=("AutoTheta",))
    said = found.newest["air_passengers"]
    assert said.as_of == "1959-12-01"
    assert said.ds == [f"1960-{month:02d}-01" for month in range(1, 13)]


def test_a_folder_without_the_panels_is_told(tmp_path):
    pytest.importorskip("statsforecast")
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), str(tmp_path), "--out", str(tmp_path / "out")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "air_passengers.csv is not there; air_passengers is left out" in done.stderr
    assert f"no panel is in {tmp_path}" in done.stderr
