"""scikit-learn trainers: declared as data, fitted on frames as they are, saved without pickle, loaded without trust."""

from __future__ import annotations

import inspect
import io
import json
import pickle
import re
import struct
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pandas as pd
import pytest
import skops.io
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from scipy.special import expit
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.datasets import load_diabetes, load_iris
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier, RandomForestRegressor
from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, WhiteKernel
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier
from sklearn.model_selection import GridSearchCV, KFold, ShuffleSplit
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, SplineTransformer, StandardScaler
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils import all_estimators

from evertrain.errors import ArtifactError, ConfigError, DataError, TrainingError
from evertrain.specs import Custom, Estimator
from evertrain.trainers import sklearn as trainer
from evertrain.trainers.describe import build, describe
from evertrain.trainers.sklearn import SklearnTrainer

# Refused by scikit-learn itself, because they want several targets or one feature.
NEED_OTHER_ROWS = {
    "ClassifierChain",
    "IsotonicRegression",
    "MultiOutputClassifier",
    "MultiOutputRegressor",
    "MultiTaskElasticNet",
    "MultiTaskElasticNetCV",
    "MultiTaskLasso",
    "MultiTaskLassoCV",
    "RegressorChain",
}
CANNOT_BE_SAVED: set[str] = set()  # of those with default parameters; see also the test of what is refused

IRIS = load_iris(as_frame=True).frame
DIABETES = load_diabetes(as_frame=True).frame


@dataclass
class Told:
    target: str
    features: list[str]
    seed: int = 7

    def progress(self, text: str, fraction: float | None = None) -> None:
        pass


class Methods:
    def fit(self) -> None: ...
    def save(self) -> None: ...
    def load(self) -> None: ...
    def predict(self) -> None: ...


@dataclass
class Forecaster(Methods):
    """A trainer of the user's."""

    value: Any = None
    names: list[str] = field(default_factory=list)


class Plain(Methods):
    """Another, whose parameters are the attributes named like those of `__init__`."""

    def __init__(self, value: Any, *, depth: int = 2) -> None:
        self.value, self.depth = value, depth


def doubled(frame: Any) -> Any:
    return frame * 2


def told(frame: pd.DataFrame, seed: int = 7) -> Told:
    *features, target = frame.columns
    return Told(target, features, seed)


def fitted(estimator: Any, frame: pd.DataFrame, seed: int = 7) -> tuple[SklearnTrainer, Any]:
    found = SklearnTrainer(describe(estimator))
    return found, found.fit(frame, told(frame, seed))


def with_defaults(cls: type, inner: Any) -> Any:
    """An estimator with the parameters it cannot do without, or cannot do without on our rows."""
    needed: dict[str, Any] = {"estimator": inner, "estimators": [("one", inner), ("other", inner)]}
    needed |= {"steps": [("only", inner)], "transformers": [], "transformer_list": [], "dictionary": np.eye(2)}
    needed |= {"param_grid": {"a": [1, 2]}, "param_distributions": {}}
    required = {
        name
        for name, one in inspect.signature(cls).parameters.items()
        if one.default is inspect.Parameter.empty and one.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    }
    given = {name: value for name, value in needed.items() if name in required}
    if cls.__name__ == "SelfTrainingClassifier":
        given["estimator"] = inner
    if cls.__name__ in ("CCA", "PLSCanonical"):
        given["n_components"] = 1
    return cls(**given)


# --- objects as data --------------------------------------------------------------------------------------------


def test_every_estimator_of_scikit_learn_is_described_and_built_alike() -> None:
    for _, cls in all_estimators():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # some are on their way out
            found = describe(with_defaults(cls, Ridge()))
            again = describe(build(found.path, json.loads(json.dumps(found.params, allow_nan=False))))

        assert again == found


@pytest.mark.parametrize(
    ("estimator", "params"),
    [
        (RandomForestClassifier(), {}),
        (RandomForestClassifier(n_estimators=np.int64(7)), {"n_estimators": 7}),
        (RandomForestRegressor(max_features=1), {"max_features": 1}),  # one feature; the default 1.0 is all of them
        (LogisticRegression(class_weight={"a": 2.0}), {"class_weight": {"a": 2.0}}),
        (LogisticRegression(class_weight={0: 1.0, 1: 2.0}), {"class_weight": {"$dict": [[0, 1.0], [1, 2.0]]}}),
        (Ridge(tol=float("inf")), {"tol": {"$float": "inf"}}),
        (Ridge(alpha=np.array([1.0, 2.0])), {"alpha": {"$array": [1.0, 2.0], "dtype": "<f8"}}),
        (SelectKBest(f_classif, k=2), {"k": 2}),
        (FunctionTransformer(np.log1p), {"func": {"$import": "numpy:log1p"}}),
        (FunctionTransformer(expit), {"func": {"$import": "scipy.special:expit"}}),
        (
            GridSearchCV(Ridge(alpha=2), {"alpha": [1]}, cv=KFold(3)),
            {
                "estimator": {"$object": "sklearn.linear_model:Ridge", "params": {"alpha": 2}},
                "param_grid": {"alpha": [1]},
                "cv": {"$object": "sklearn.model_selection:KFold", "params": {"n_splits": 3}},
            },
        ),
        (
            GaussianProcessRegressor(RBF(2.0)),
            {"kernel": {"$object": "sklearn.gaussian_process.kernels:RBF", "params": {"length_scale": 2.0}}},
        ),
    ],
)
def test_parameters_are_json_and_only_those_that_differ(estimator: Any, params: Any) -> None:
    found = describe(estimator)

    assert found.params == params
    assert describe(build(found.path, json.loads(json.dumps(found.params)))) == found


@pytest.mark.parametrize(
    ("estimator", "path"),
    [
        (RandomForestClassifier(), "sklearn.ensemble:RandomForestClassifier"),  # defined in sklearn.ensemble._forest
        (make_pipeline(Ridge()), "sklearn.pipeline:Pipeline"),
    ],
)
def test_a_path_is_the_shortest_that_exports_the_class(estimator: Any, path: str) -> None:
    assert describe(estimator).path == path


def test_nested_pipelines_survive_the_way_through_json() -> None:
    numbers = make_column_selector(dtype_include=np.number)
    columns = ColumnTransformer([("scale", StandardScaler(), numbers), ("rest", "passthrough", slice(2))])
    found = describe(make_pipeline(columns, GaussianProcessRegressor(2.0 * RBF() + WhiteKernel())))

    built = build(found.path, json.loads(json.dumps(found.params)))

    assert describe(built) == found
    assert built[0].transformers[0][2].dtype_include is np.number
    assert built[0].transformers[1] == ("rest", "passthrough", slice(2))
    assert built[1].kernel == 2.0 * RBF() + WhiteKernel()


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers() | st.just("$tuple"), inner)
    ),
    max_leaves=20,
)


@settings(deadline=None)
@given(values)
def test_any_plain_value_comes_back_equal_and_of_the_same_type(value: Any) -> None:
    found = describe(Forecaster(value))

    built = build(found.path, json.loads(json.dumps(found.params, allow_nan=False)))

    assert repr(built.value) == repr(value)


def test_other_trainers_are_described_by_fields_or_by_the_parameters_of_init() -> None:
    by_fields, by_init = describe(Forecaster(3)), describe(Plain("a"))

    assert isinstance(by_fields, Custom)
    assert by_fields.path.endswith("test_trainer_sklearn:Forecaster")
    assert by_fields.params == {"value": 3, "names": []}
    assert by_init.params == {"value": "a"}
    assert build(by_init.path, by_init.params).depth == 2


def nested_function(x: Any) -> Callable[[Any], Any]:
    def inner(y: Any) -> Any:
        return x, y

    return inner


@pytest.mark.parametrize("func", [lambda x: x, nested_function(1), Forecaster(1).fit])
def test_a_function_without_an_import_path_is_refused_with_both_ways_out(func: Any) -> None:
    pipeline = make_pipeline(FunctionTransformer(func), Ridge())

    with pytest.raises(ConfigError, match=r"Pipeline\.steps\[0\]\[1\]\.func") as raised:
        describe(pipeline)

    assert "put it into a module" in str(raised.value)
    assert "executor='inline'" in str(raised.value)


def test_a_class_of_main_or_inside_a_function_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Local(Ridge):  # type: ignore[misc]
        pass

    with pytest.raises(ConfigError, match="put it into a module"):
        describe(Local())
    monkeypatch.setattr(Forecaster, "__module__", "__main__")
    with pytest.raises(ConfigError, match="put it into a module"):
        describe(Forecaster())


def test_what_is_no_trainer_is_refused_in_words() -> None:
    with pytest.raises(ConfigError, match=r"allowed: an object: Ridge\(\)"):
        describe(Ridge)
    with pytest.raises(ConfigError, match="fit, save, load and predict"):
        describe("Ridge")
    with pytest.raises(ConfigError, match=r"SGDClassifier\.random_state .* a whole number"):
        describe(SGDClassifier(random_state=np.random.RandomState(1)))
    with pytest.raises(ConfigError, match=r"Forecaster\.value is .*put it into a module"):
        describe(Forecaster({1, 2}))
    with pytest.raises(ConfigError, match=r"Forecaster\.value is .*put it into a module"):
        describe(Forecaster(partial(print, "x")))


def test_what_cannot_be_built_is_named() -> None:
    with pytest.raises(ConfigError, match="'shop_models:Best'"):
        build("shop_models:Best", {})
    with pytest.raises(ConfigError, match=r"sklearn\.linear_model.*Rigde"):
        build("sklearn.linear_model:Rigde", {})
    with pytest.raises(ConfigError, match=r"parameters of sklearn\.linear_model:Ridge.*alhpa"):
        build("sklearn.linear_model:Ridge", {"alhpa": 1})


def test_describing_needs_no_scikit_learn() -> None:
    code = "import sys, evertrain.trainers.describe; print({'sklearn', 'skops', 'numpy', 'pandas'} & set(sys.modules))"

    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)

    assert answer.stdout == "set()\n"


# --- fitting on frames as they are ------------------------------------------------------------------------------


def test_only_classifiers_and_regressors_are_trainers() -> None:
    for path in ("sklearn.cluster:KMeans", "sklearn.preprocessing:StandardScaler", "collections:OrderedDict"):
        with pytest.raises(ConfigError, match="a scikit-learn classifier or regressor"):
            SklearnTrainer(Estimator(path))


def test_the_task_and_the_libraries_follow_from_the_estimator() -> None:
    forest = SklearnTrainer(describe(RandomForestClassifier()))
    pipeline = SklearnTrainer(describe(make_pipeline(StandardScaler(), Ridge())))
    foreign = describe(make_pipeline(FunctionTransformer(pytest.approx), Ridge()))

    assert (forest.task, pipeline.task) == ("classification", "regression")
    assert forest.libraries == ("scikit-learn", "numpy", "scipy")
    assert SklearnTrainer(foreign).libraries == ("scikit-learn", "numpy", "scipy", "pytest")


def shop(rows: int = 60) -> pd.DataFrame:
    """Rows as a shop has them: text, categories, dates, missing values and a column without any value."""
    random, at = np.random.default_rng(3), pd.date_range("2024-01-01 06:30", periods=rows, freq="7h", tz="UTC")
    town = pd.Series(random.choice(["Pilar", "Hermosa", None], rows))
    frame = pd.DataFrame(
        {
            "size": random.normal(size=rows),
            "count": pd.array(random.integers(0, 9, rows), dtype="Int64"),
            "cost": [Decimal(i) for i in range(rows)],
            "town": town,
            "kind": town.astype("string"),
            "code": town.astype("string"),
            "grade": pd.Categorical(random.choice(["a", "b"], rows)),
            "open": random.choice([True, False, None], rows),
            "day": [None, *at.date[1:]],
            "at": at,
            "nothing": pd.Series([None] * rows, dtype=object),
            "empty": np.full(rows, np.nan),
        }
    )
    frame.loc[3:9, ["size", "count", "at"]] = None
    frame["price"] = frame["size"].fillna(0) * 2 + (frame["town"] == "Pilar") * 10
    return frame


def test_text_dates_and_missing_values_work_without_asking() -> None:
    frame = shop()

    found, model = fitted(Ridge(alpha=0.1), frame)
    loaded = found.load(found.save(model))

    assert np.array_equal(found.predict(model, frame), found.predict(loaded, frame))
    assert np.corrcoef(found.predict(loaded, frame), frame["price"])[0, 1] > 0.99


def test_prediction_takes_what_fitting_never_saw() -> None:
    found, model = fitted(Ridge(), shop())
    strange = pd.DataFrame(
        {
            "size": [None, "many"],
            "count": [1.5, None],
            "cost": ["3", None],
            "town": ["Atlantis", None],
            "kind": [1, 2],
            "code": [None, None],
            "grade": ["z", pd.NA],
            "open": [True, "perhaps"],
            "day": ["2024-02-30", date(2031, 1, 1)],
            "at": ["2024-01-01T10:00:00+02:00", pd.NaT],
            "nothing": ["something", 1],
            "empty": [1.0, None],
        },
        index=[7, 7],
    )

    assert np.isfinite(found.predict(model, strange)).all()
    assert np.isfinite(found.predict(model, strange[::-1][strange.columns[::-1]])).all()


def test_dates_become_numbers_and_only_instants_have_an_hour() -> None:
    frame = pd.DataFrame(
        {"day": [date(1970, 1, 2), None], "at": pd.to_datetime(["1970-02-01T05:00", "1969-12-31T23:59"], utc=True)}
    )
    kinds = {name: trainer._kind(frame[name]) for name in frame}

    assert kinds == {"day": "date", "at": "instant"}
    assert trainer.read_columns(frame, kinds).iloc[0].tolist() == [1, 1, 4, 31, 2, 6, 5]
    assert trainer.read_columns(frame, kinds).iloc[1, 3:].tolist() == [-1, 12, 2, 23]


def test_a_text_column_becomes_at_most_fifty_columns() -> None:
    frame = pd.DataFrame({"id": [f"row {i}" for i in range(400)], "y": np.arange(400.0)})

    _, model = fitted(Ridge(), frame)

    assert model[-1].n_features_in_ == 50


def test_a_pipeline_gets_the_frame_as_it_is_unless_told_otherwise() -> None:
    pipeline = describe(make_pipeline(StandardScaler(), Ridge()))
    frame = DIABETES.assign(town="Pilar")[["town", "bmi", "target"]]

    with pytest.raises(ValueError, match="Pilar"):
        SklearnTrainer(pipeline).fit(frame, told(frame))
    prepared = SklearnTrainer(Estimator(pipeline.path, pipeline.params, preprocess=True))
    plain = SklearnTrainer(Estimator("sklearn.linear_model:Ridge", preprocess=False))

    assert prepared.predict(prepared.fit(frame, told(frame)), frame).shape == (442,)
    assert isinstance(plain.fit(DIABETES, told(DIABETES)), Ridge)


def test_a_missing_column_is_named() -> None:
    found, model = fitted(Ridge(), DIABETES)

    with pytest.raises(DataError, match="'bmi'") as raised:
        found.predict(model, DIABETES.drop(columns="bmi"))

    assert raised.value.column == "bmi"


@pytest.mark.parametrize(
    ("estimator", "target", "message"),
    [
        (Ridge(), ["a", "b", "c"], "y is no number, for example 'a'"),
        (Ridge(), [True, False, True], "y is no number, for example True"),
        (Ridge(), [1.0, None, 2.0], "y is missing in 1 of 3 rows"),
        (LogisticRegression(), ["only"] * 3, "y is 'only' in every row"),
    ],
)
def test_targets_that_cannot_be_learnt_are_refused(estimator: Any, target: list[Any], message: str) -> None:
    frame = pd.DataFrame({"x": [1, 2, 3], "y": target})

    with pytest.raises(DataError, match=message) as raised:
        fitted(estimator, frame)

    assert raised.value.column == "y"


@pytest.mark.parametrize("dtype", ["object", "string", "category"])
def test_classes_may_be_text_of_any_kind(dtype: str) -> None:
    frame = IRIS.assign(target=IRIS["target"].map({0: "setosa", 1: "versicolor", 2: "virginica"}).astype(dtype))

    found, model = fitted(DecisionTreeClassifier(), frame)
    loaded = found.load(found.save(model))
    classes, shares = found.predict_proba(loaded, frame) or ([], [])

    assert found.predict(loaded, frame).tolist() == frame["target"].tolist()
    assert list(classes) == ["setosa", "versicolor", "virginica"]
    assert shares.shape == (150, 3)
    assert found.predict_proba(fitted(Ridge(), DIABETES)[1], DIABETES) is None


def test_the_same_seed_gives_the_same_bits_and_an_explicit_one_wins() -> None:
    def outcome(seed: int, estimator: Any) -> list[float]:
        found, model = fitted(estimator, DIABETES, seed)
        return list(found.predict(found.load(found.save(model)), DIABETES))

    unset, chosen = RandomForestRegressor(5), RandomForestRegressor(5, random_state=1)

    assert outcome(7, unset) == outcome(7, unset) == outcome(7 + 2**32, unset)
    assert outcome(7, unset) != outcome(8, unset)
    assert outcome(7, chosen) == outcome(8, chosen) == outcome(1, unset)
    assert outcome(7, make_pipeline(unset)) == outcome(7, make_pipeline(unset))
    assert fitted(GridSearchCV(Ridge(), {"alpha": [1]}, cv=ShuffleSplit(2)), DIABETES)[1][-1].cv.random_state == 7


# --- saved models -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_classifier_and_regressor_predicts_the_same_after_a_load() -> None:
    unfit, unsaved = set(), set()
    binary = IRIS[IRIS["target"] < 2]
    for kind, inner in (("classifier", LogisticRegression()), ("regressor", Ridge())):
        for name, cls in all_estimators(kind):
            frame = DIABETES if kind == "regressor" else binary if "Threshold" in name else IRIS
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # defaults do not converge, and some estimators are on their way out
                try:
                    found, model = fitted(with_defaults(cls, inner), frame)
                    loaded = found.load(found.save(model))
                except (ValueError, IndexError):
                    unfit.add(name)
                    continue
                except TrainingError:
                    unsaved.add(name)
                    continue
            expected, actual = found.predict(model, frame), found.predict(loaded, frame)
            shares, again = found.predict_proba(model, frame), found.predict_proba(loaded, frame)
            assert np.array_equal(expected, actual), name
            assert actual.shape == (len(frame),), name
            assert shares is None or (again is not None and np.array_equal(shares[1], again[1])), name

    assert unfit == NEED_OTHER_ROWS
    assert unsaved == CANNOT_BE_SAVED


@pytest.mark.parametrize(
    ("estimator", "culprit"),
    [
        (make_pipeline(SplineTransformer(), GaussianNB()), "BSpline"),  # C code that trusts its indices
        (HistGradientBoostingClassifier(early_stopping=True, scoring="accuracy"), "RecursionError"),  # of skops
        (make_pipeline(FunctionTransformer(doubled), GaussianNB()), "doubled was not reviewed"),  # nobody read it
    ],
)
def test_what_cannot_be_saved_safely_is_found_when_it_is_saved(estimator: Any, culprit: str) -> None:
    found, model = fitted(estimator, IRIS)

    with pytest.raises(TrainingError, match=f"cannot be saved safely.*{culprit}"):
        found.save(model)


@pytest.mark.parametrize("algorithm", ["kd_tree", "ball_tree"])
def test_search_trees_are_rebuilt_from_the_data_and_never_stored(algorithm: str) -> None:
    found, model = fitted(GridSearchCV(KNeighborsClassifier(algorithm=algorithm), {"p": [1, 2]}), IRIS)

    data = found.save(model)
    loaded = found.load(data)

    assert b"Tree" not in ZipFile(io.BytesIO(data)).read("schema.json")
    assert type(loaded[-1].best_estimator_._tree) is type(model[-1].best_estimator_._tree)
    assert found.predict(loaded, IRIS).tolist() == found.predict(model, IRIS).tolist()


def test_categories_of_boosted_trees_survive() -> None:
    frame = pd.DataFrame({"c": pd.Categorical(list("abc") * 50), "y": [0, 1, 1] * 50})
    found = SklearnTrainer(Estimator("sklearn.ensemble:HistGradientBoostingClassifier", preprocess=False))

    loaded = found.load(found.save(found.fit(frame, told(frame))))

    assert found.predict(loaded, frame).tolist() == frame["y"].tolist()


def test_a_model_that_somebody_else_saved_predicts_by_its_names_or_by_position() -> None:
    two, y = DIABETES[["bmi", "age"]], DIABETES["target"]
    named = trainer.load(skops.io.dumps(Ridge().fit(two, y)))
    bare = trainer.load(skops.io.dumps(Ridge().fit(two.to_numpy(), y)))

    expected = Ridge().fit(two, y).predict(two)

    assert trainer.predict(named, DIABETES[["target", "age", "bmi"]]).tolist() == expected.tolist()
    assert trainer.predict(bare, two).tolist() == expected.tolist()


# --- saved models from elsewhere: A-50, A-53 --------------------------------------------------------------------


@dataclass
class Planted:
    canary: str

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path(self.canary),)


def small_model() -> bytes:
    found, model = fitted(DecisionTreeClassifier(max_depth=2), IRIS)
    return found.save(model)


def changed(data: bytes, change: Callable[[str, bytes], bytes]) -> bytes:
    """The same archive with every member passed through `change`."""
    out = io.BytesIO()
    with ZipFile(io.BytesIO(data)) as old, ZipFile(out, "w", ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return out.getvalue()


def test_a_pickle_is_refused_and_never_run(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    data = pickle.dumps(Planted(str(canary)))

    with pytest.raises(ArtifactError, match="no model that can be loaded"):
        trainer.load(data)

    assert not canary.exists()
    pickle.loads(data)
    assert canary.exists()  # the canary sings for a loader that unpickles


@pytest.mark.parametrize(
    "data", [b"", b"PK", b"\x00" * 4096, np.random.default_rng(1).bytes(4096), b"{}", b"\x80\x05N."]
)
def test_bytes_that_are_no_model_are_refused_with_their_digest(data: bytes) -> None:
    with pytest.raises(ArtifactError, match="no model that can be loaded") as raised:
        trainer.load(data)

    assert len(raised.value.digest) == 64


def test_a_truncated_or_damaged_model_is_refused() -> None:
    data = small_model()
    damaged = bytearray(data)
    damaged[len(data) // 2] ^= 0xFF

    for bad in (data[: len(data) // 2], data[:-1], bytes(damaged)):
        with pytest.raises(ArtifactError):
            trainer.load(bad)


@pytest.mark.parametrize(
    ("loader", "module", "name", "content"),
    [
        ("ConstructorFromReduceNode", "os", "system", ["touch"]),
        ("FunctionNode", "os", "system", None),
        ("TypeNode", "subprocess", "Popen", None),
        ("ObjectNode", "sklearn.neighbors._kd_tree", "KDTree", None),
        ("OperatorFuncNode", "operator", "methodcaller", ["system"]),
    ],
)
def test_a_type_outside_the_list_is_named_and_not_made(
    loader: str, module: str, name: str, content: Any, tmp_path: Path
) -> None:
    canary = tmp_path / "canary"

    def plant(member: str, data: bytes) -> bytes:
        if member != "schema.json":
            return data
        schema = json.loads(data)
        text = {
            "__class__": "str",
            "__module__": "builtins",
            "__loader__": "JsonNode",
            "content": json.dumps(f"touch {canary}"),
        }
        arguments = {"__class__": "tuple", "__module__": "builtins", "__loader__": "TupleNode", "content": [text]}
        planted = {"__class__": name, "__module__": module, "__loader__": loader}
        planted |= {"content": arguments, "attrs": arguments} if content else {}
        schema["content"]["content"]["planted"] = planted
        return json.dumps(schema).encode()

    with pytest.raises(ArtifactError, match=rf"{module}\.{name}, which was not reviewed"):
        trainer.load(changed(small_model(), plant))

    assert not canary.exists()


def test_an_archive_that_unpacks_too_far_is_refused_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    data = small_model()
    size = sum(one.file_size for one in ZipFile(io.BytesIO(data)).infolist())
    monkeypatch.setattr(trainer, "_RATIO_COUNTS_FROM", 0)
    monkeypatch.setattr(trainer, "_MAX_RATIO", 1000)

    monkeypatch.setattr(trainer, "_MAX_UNPACKED", size)
    trainer.load(data)
    monkeypatch.setattr(trainer, "_MAX_UNPACKED", size - 1)
    with pytest.raises(ArtifactError, match=f"would unpack to {size}"):
        trainer.load(data)
    monkeypatch.setattr(trainer, "_MAX_UNPACKED", 4 << 30)
    monkeypatch.setattr(trainer, "_MAX_RATIO", size // len(data))
    with pytest.raises(ArtifactError, match="would unpack to"):
        trainer.load(data)


@pytest.mark.parametrize("declared", [4, 2**32 - 2])
def test_an_archive_that_lies_about_its_sizes_is_refused(declared: int) -> None:
    data = bytearray(small_model())
    entry = data.index(b"PK\x01\x02")  # APPNOTE 4.3.12: the uncompressed size is at offset 24 of a central header
    struct.pack_into("<I", data, entry + 24, declared)

    with pytest.raises(ArtifactError):
        trainer.load(bytes(data))


def test_a_bomb_inside_a_sparse_matrix_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = io.BytesIO()
    with ZipFile(inner, "w", ZIP_DEFLATED) as archive:
        archive.writestr("data.npy", bytes(1 << 20))
    outer = io.BytesIO()
    with ZipFile(outer, "w") as archive:
        archive.writestr("1.npz", inner.getvalue())
    monkeypatch.setattr(trainer, "_RATIO_COUNTS_FROM", 1 << 20)

    with pytest.raises(ArtifactError, match="would unpack to"):
        trainer.load(outer.getvalue())


@pytest.mark.parametrize(
    ("estimator", "column", "value"),
    [
        (DecisionTreeClassifier(max_depth=2), "left_child", 10**6),
        (DecisionTreeClassifier(max_depth=2), "right_child", 0),  # a circle: the walk would never end
        (DecisionTreeClassifier(max_depth=2), "feature", 4),
        (DecisionTreeClassifier(max_depth=2), "feature", -1),
        (HistGradientBoostingClassifier(max_iter=1), "left", 10**6),
        (HistGradientBoostingClassifier(max_iter=1), "right", 0),
        (HistGradientBoostingClassifier(max_iter=1), "feature_idx", 4),
        (HistGradientBoostingClassifier(max_iter=1), "is_categorical", 1),
    ],
)
def test_a_tree_that_points_outside_of_itself_is_refused(estimator: Any, column: str, value: int) -> None:
    found, model = fitted(estimator, IRIS)

    def point(member: str, data: bytes) -> bytes:
        if not member.endswith(".npy"):
            return data
        nodes = np.load(io.BytesIO(data))
        if column in (nodes.dtype.names or ()):
            nodes[column][0] = value
        out = io.BytesIO()
        np.save(out, nodes, allow_pickle=False)
        return out.getvalue()

    with pytest.raises(ArtifactError, match="a decision tree"):
        found.load(changed(found.save(model), point))


def test_a_tree_without_nodes_is_refused() -> None:
    def count(member: str, data: bytes) -> bytes:
        return re.sub(rb'("node_count": {[^}]*"content": ")\d+', rb"\g<1>0", data) if "schema" in member else data

    with pytest.raises(ArtifactError, match="a decision tree"):
        trainer.load(changed(small_model(), count))


def test_a_sparse_matrix_is_loaded_unless_it_points_outside_of_itself() -> None:
    model = KNeighborsClassifier().fit(csr_matrix(IRIS.iloc[:, :4]), IRIS["target"])

    assert trainer.predict(trainer.load(skops.io.dumps(model)), IRIS.iloc[:, :4]).shape == (150,)
    model._fit_X.indices[0] = 10**6
    with pytest.raises(ArtifactError, match="indices"):
        trainer.load(skops.io.dumps(model))
