"""The declaration: two files, and a model of each that is kept fresh."""

from __future__ import annotations

from pathlib import Path

from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import Ridge

from evertrain import CsvFile, Project, max_age, on_data_change, on_score_drop

project = Project("flowers-and-houses", root=Path(__file__).resolve().parent)

iris = project.source("iris", CsvFile("data/raw/iris.csv"))
project.model(
    "iris",
    iris,
    target="species",
    trainer=RandomForestClassifier(n_estimators=50, random_state=0),
    triggers=[on_data_change(), max_age("24h"), on_score_drop(0.05)],
    min_samples=50,
)

housing = project.source("housing", CsvFile("data/raw/housing.csv"))
project.model(
    "housing",
    housing,
    target="price",
    trainer=Ridge(),
    triggers=[on_data_change(), max_age("48h"), on_score_drop(0.03)],
    min_samples=100,
)
