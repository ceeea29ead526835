"""The declaration: verified records that Evertrain keeps, and a forecast for each commodity in each municipality."""

from __future__ import annotations

from pathlib import Path

from sklearn.linear_model import Ridge

from evertrain import Dimension, Project, Series, SklearnForecaster, on_data_change

project = Project("fruitcast", root=Path(__file__).resolve().parent)
verified = {}
for record_type, model in (("harvest", "harvest"), ("plant", "planting")):
    verified[record_type] = project.dataset(
        f"{record_type}_records",
        key="record_id",
        time="date",
        columns={"record_id": "integer", "date": "date", "commodity": "text", "municipality": "text", "kg": "number"},
    )
    project.model(
        model,
        verified[record_type],
        target="kg",
        series=Series(3, freq="MS", windows=1),
        trainer=SklearnForecaster(Ridge()),
        partition_by=[
            Dimension("commodity", "commodity", "commodities"),
            Dimension("municipality", "municipality", "municipalities"),
        ],
        # Their row 14, "Overall", is the model of a commodity above its municipalities.
        rollups=[["commodity"]],
        overall="Overall",
        triggers=[on_data_change(quiet="0s")],
    )
