"""scikit-learn estimators as trainers: fit, save without pickle, load without trust, predict.

Imported in worker children and predictors only: scikit-learn and skops take seconds and 180 MB.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pandas as pd
import skops.io
from pandas.api.types import infer_dtype, is_bool_dtype, is_numeric_dtype
from scipy.sparse import issparse  # type: ignore[import-untyped]
from sklearn.base import BaseEstimator, is_classifier, is_regressor
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.neighbors import BallTree, KDTree
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder
from sklearn.tree._tree import Tree
from skops.io.exceptions import UntrustedTypesFoundException

from evertrain.errors import ArtifactError, ConfigError, DataError, TrainingError
from evertrain.specs import Context, Estimator
from evertrain.trainers.describe import build

# What a saved model may hold beside skops's own list (the public estimators, arrays, ufuncs). A file can make any
# object here with any attributes and call any name here with any arguments, so each was read for what that can do:
# nothing but arithmetic on its own values. Not here, on purpose: KDTree, BallTree and the distance metrics (C code
# that trusts its indices; rebuilt from the data instead) and SciPy's BSpline (the same, and cannot be rebuilt).
_KERNELS = (
    "CompoundKernel ConstantKernel DotProduct ExpSineSquared Exponentiation Matern PairwiseKernel Product RBF "
    "RationalQuadratic Sum WhiteKernel"
)
_CLASSIFICATION_SCORES = (
    "accuracy_score balanced_accuracy_score brier_score_loss f1_score jaccard_score log_loss matthews_corrcoef "
    "precision_score recall_score"
)
_REGRESSION_SCORES = (
    "explained_variance_score max_error mean_absolute_error mean_absolute_percentage_error mean_gamma_deviance "
    "mean_poisson_deviance mean_squared_error mean_squared_log_error median_absolute_error r2_score "
    "root_mean_squared_error root_mean_squared_log_error"
)
_SPLITTERS = (
    "GroupKFold GroupShuffleSplit KFold LeaveOneOut ShuffleSplit StratifiedGroupKFold StratifiedKFold "
    "StratifiedShuffleSplit TimeSeriesSplit"
)
_REVIEWED = {
    # Node tables that C code follows without looking: `_check` looks first.
    "sklearn.tree._tree": "Tree",
    "sklearn.ensemble._hist_gradient_boosting.predictor": "TreePredictor",
    "scipy.sparse._csr": "csr_array csr_matrix",
    "scipy.sparse._csc": "csc_array csc_matrix",
    # Parts of fitted estimators that are attributes and arithmetic on them.
    "numpy": "dtype",
    "sklearn._loss.loss": "HalfTweedieLoss HalfTweedieLossIdentity",
    "sklearn.calibration": "_CalibratedClassifier _SigmoidCalibration _TemperatureScaling",
    "sklearn.compose._column_transformer": "make_column_selector",
    "sklearn.gaussian_process._gpc": "_BinaryGaussianProcessClassifierLaplace",
    "sklearn.gaussian_process.kernels": _KERNELS,
    "sklearn.impute._iterative": "IterativeImputer _ImputerTriplet",
    "sklearn.metrics._scorer": "_CurveScorer _PassthroughScorer _Scorer",
    "sklearn.model_selection._split": _SPLITTERS,
    "sklearn.neural_network._stochastic_optimizers": "AdamOptimizer SGDOptimizer",
    "sklearn.utils._bunch": "Bunch",
    "sklearn.utils._metadata_requests": "MetadataRequest MethodMetadataRequest",
    # Functions from arrays to numbers or arrays, and `partial`, which can hold no other function than these.
    "functools": "partial",
    "sklearn.feature_selection._mutual_info": "mutual_info_classif mutual_info_regression",
    "sklearn.feature_selection._univariate_selection": "chi2 f_classif f_regression r_regression",
    "sklearn.metrics._classification": _CLASSIFICATION_SCORES,
    "sklearn.metrics._ranking": "average_precision_score roc_auc_score top_k_accuracy_score",
    "sklearn.metrics._regression": _REGRESSION_SCORES,
    "sklearn.utils.validation": "check_array",
    # Ours, below. Saved models name it: renamed, it makes those unreadable.
    "evertrain.trainers.sklearn": "read_columns",
}
TRUSTED = [f"{module}.{name}" for module, names in _REVIEWED.items() for name in names.split()]

# A zip member can unpack to 1,032 times its size. Sparse coefficients honestly reach a few hundred, which is harmless
# while small, so the ratio counts beyond 256 MB only.
_MAX_UNPACKED = 4 << 30
_MAX_RATIO, _RATIO_COUNTS_FROM = 200, 256 << 20

_NEIGHBOUR_TREES = {"kd_tree": KDTree, "ball_tree": BallTree}

_MISSING = "(missing)"
_MAX_CATEGORIES = 50
_WIDTH = {"number": 1, "date": 3, "instant": 4, "text": 0}  # in numbers


def seeded(estimator: Any, seed: int) -> Any:
    """Return an estimator in which every `random_state` that is None became the seed, in nested ones too."""
    for one in (estimator, *estimator.get_params(deep=True).values()):
        if getattr(one, "random_state", seed) is None:
            one.random_state = seed % 2**32  # scikit-learn takes no larger one
    return estimator


class SklearnTrainer:
    """A scikit-learn classifier or regressor, or a Pipeline that ends in one.

    Unless the declaration says otherwise, a bare estimator gets columns that it can use: numbers with the median for
    missing ones and a column that says where they were missing; text, categories and truth values one-hot encoded,
    at most 50 of each column, unseen ones as the rare ones; dates as day, month, weekday and hour. A Pipeline gets
    the frame as it is.

    Raises:
        ConfigError: the estimator cannot be built, or is neither a classifier nor a regressor.
    """

    def __init__(self, spec: Estimator) -> None:
        self._spec = spec
        made = build(spec.path, spec.params)
        if not (isinstance(made, BaseEstimator) and (is_classifier(made) or is_regressor(made))):
            allowed = "a scikit-learn classifier or regressor, or a Pipeline that ends in one"
            raise ConfigError("trainer", spec.path, allowed)
        self.task = "classification" if is_classifier(made) else "regression"
        self.libraries = ("scikit-learn", "numpy", "scipy", *_other_libraries(spec))

    def fit(self, frame: pd.DataFrame, context: Context) -> Any:
        """Return a fitted Pipeline, or the fitted estimator itself where nothing is prepared.

        Every `random_state` that is None becomes the seed of `context`, in nested estimators and splitters too.

        Raises:
            DataError: the target has missing values, is no number for a regression, or one class only.
        """
        estimator = build(self._spec.path, self._spec.params)
        seeded(estimator, context.seed)
        features = frame[context.features]
        prepare = self._spec.preprocess
        if prepare or (prepare is None and not isinstance(estimator, Pipeline)):
            estimator = Pipeline([*_preparation(features), ("model", estimator)])
        fitted = estimator.fit(features, _target(frame[context.target], self.task))
        fitted.evertrain_features = list(context.features)
        return fitted

    def save(self, fitted: Any) -> bytes:
        """Return `fitted` as bytes that `load` accepts.

        Raises:
            TrainingError: it holds what cannot be saved safely; names the estimator and the type.
        """
        way_out = "write a trainer class with fit, save, load and predict for it"
        try:
            with _without_neighbour_trees(fitted):
                data: bytes = skops.io.dumps(fitted, compression=ZIP_DEFLATED)
            untrusted = _untrusted(data)
        except Exception as error:
            reason = str(error).partition("\n")[0]
            text = f"{self._spec.path} cannot be saved safely ({type(error).__name__}: {reason}); {way_out}"
            raise TrainingError(text, error_class=type(error).__name__) from error
        if untrusted:
            raise TrainingError(
                f"{self._spec.path} cannot be saved safely: {', '.join(untrusted)} was not reviewed; {way_out}"
            )
        return data

    def load(self, data: bytes) -> Any:
        return load(data)

    def predict(self, fitted: Any, frame: pd.DataFrame) -> Any:
        return predict(fitted, frame)

    def predict_proba(self, fitted: Any, frame: pd.DataFrame) -> tuple[Any, Any] | None:
        return predict_proba(fitted, frame)


def load(data: bytes) -> Any:
    """Return the model in `data`, a skops file, whoever made it.

    Only types of the reviewed list are made, nothing is imported or called before all of them were checked, and
    there is no other loader to fall back to. A crafted file may still crash the C code of an estimator (SVM tables,
    say, that contradict each other), so a file from elsewhere is tried in a child first.

    Raises:
        ArtifactError: it is no skops file, is damaged, would unpack to more than 4 GB or, beyond 256 MB, to more than
            200 times its size, or holds a type outside the list, which is named.
    """
    try:
        _unpacked_size(data)
        model = skops.io.loads(data, trusted=TRUSTED)
        _check(model)
    except UntrustedTypesFoundException as error:
        text = f"the model holds {', '.join(_untrusted(data))}, which was not reviewed and is not loaded"
        raise ArtifactError(text, digest=hashlib.sha256(data).hexdigest()) from error
    except Exception as error:
        text = f"the bytes are no model that can be loaded ({type(error).__name__}: {error})"
        raise ArtifactError(text, digest=hashlib.sha256(data).hexdigest()) from error
    return model


def predict(fitted: Any, frame: pd.DataFrame) -> Any:
    """Return one prediction per row of `frame`, in its order.

    Raises:
        DataError: a column that the model was fitted with is missing.
    """
    found = np.asarray(fitted.predict(_features(fitted, frame)))
    return found.reshape(len(frame)) if found.ndim > 1 and found.size == len(frame) else found


def predict_proba(fitted: Any, frame: pd.DataFrame) -> tuple[Any, Any] | None:
    """Return the classes and an array of shape (rows, classes), or None if the model knows no probabilities."""
    if not hasattr(fitted, "predict_proba"):
        return None
    return fitted.classes_, np.asarray(fitted.predict_proba(_features(fitted, frame)))


def _features(fitted: Any, frame: pd.DataFrame) -> Any:
    names: Any = getattr(fitted, "evertrain_features", getattr(fitted, "feature_names_in_", None))
    if names is None:  # somebody else fitted it, on columns without names
        return frame.to_numpy()
    if missing := [name for name in names if name not in frame.columns]:
        raise DataError(f"the model needs the column {missing[0]!r}, which is missing", column=missing[0])
    return frame[list(names)]


def _other_libraries(spec: Estimator) -> list[str]:
    """Distributions of estimators that are not scikit-learn's own, nested ones too; a module of yours has none."""
    nested = re.findall(r'"\$(?:object|import)": "(\w+)', json.dumps(dict(spec.params)))
    roots = {spec.path.partition(".")[0].partition(":")[0], *nested} - {"sklearn", "numpy", "scipy", "builtins"}
    installed = importlib.metadata.packages_distributions() if roots else {}
    return sorted({name for root in roots for name in installed.get(root, [])[:1]})


def _target(column: pd.Series[Any], task: str) -> Any:
    name, values = str(column.name), column.astype(object).infer_objects()
    example = next(iter(values), None)
    if values.isna().any():
        raise DataError(f"{name} is missing in {values.isna().sum()} of {len(values)} rows", column=name)
    if task == "regression" and (not is_numeric_dtype(values) or is_bool_dtype(values)):
        raise DataError(f"{name} is no number, for example {example!r}; a regression needs one", column=name)
    if task == "classification" and values.nunique() < 2:
        raise DataError(f"{name} is {example!r} in every row; a classifier needs two classes", column=name)
    return values.to_numpy()


# --- columns that an estimator can use --------------------------------------------------------------------------


def _preparation(frame: pd.DataFrame) -> list[tuple[str, Any]]:
    kinds = {name: _kind(frame[name]) for name in frame.columns}
    numeric = sum(_WIDTH[kind] for kind in kinds.values())
    fill = SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)
    encode = OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=_MAX_CATEGORIES, sparse_output=False)
    blocks: list[tuple[str, Any, slice]] = [("fill", fill, slice(0, numeric))] if numeric else []
    if "text" in kinds.values():
        blocks.append(("encode", encode, slice(numeric, None)))
    read = FunctionTransformer(read_columns, kw_args={"kinds": kinds})
    return [("read", read), ("prepare", ColumnTransformer(blocks, sparse_threshold=0))]


def _kind(column: pd.Series[Any]) -> str:
    found = infer_dtype(column, skipna=True)
    if found in ("date", "datetime", "datetime64"):
        at = _instants(column).dropna()
        return "date" if (at == at.dt.normalize()).all() else "instant"
    return "number" if found in ("integer", "floating", "mixed-integer-float", "decimal", "empty") else "text"


def read_columns(frame: pd.DataFrame, kinds: Mapping[str, str]) -> pd.DataFrame:
    """Return the columns as floats, dates as several of them, and behind these the texts; saved models call this.

    What cannot be read as its column's kind is missing. Dates become days since 1970, month, weekday and, if any of
    those fitted had a time of day, the hour, in UTC.
    """
    numbers: list[pd.Series[Any]] = []
    texts: list[pd.Series[Any]] = []
    for name, kind in kinds.items():
        column = frame[name]
        if kind == "number":
            read = pd.to_numeric(column, errors="coerce").to_numpy("float64", na_value=np.nan)
            numbers.append(pd.Series(read, column.index))
        elif kind == "text":
            texts.append(column.astype(object).astype(str).mask(column.isna(), _MISSING))
        else:
            at = _instants(column)
            days = (at - pd.Timestamp(0, tz="UTC")).dt.total_seconds() // 86400
            dated = [days, at.dt.month, at.dt.weekday, at.dt.hour]
            numbers += [one.astype("float64") for one in dated[: _WIDTH[kind]]]
    return pd.concat([*numbers, *texts], axis=1, ignore_index=True)


def _instants(column: pd.Series[Any]) -> pd.Series[Any]:
    return pd.to_datetime(column.astype(object), errors="coerce", utc=True, format="ISO8601")


# --- saved models -----------------------------------------------------------------------------------------------


def _untrusted(data: bytes) -> list[str]:
    return sorted(set(skops.io.get_untrusted_types(data=data)) - set(TRUSTED))


def _unpacked_size(data: bytes) -> int:
    """Read every member of a zip file, and of zip files in it (sparse matrices), without keeping any."""
    with ZipFile(io.BytesIO(data)) as archive:
        size = sum(one.file_size for one in archive.infolist())
        allowed = min(_MAX_UNPACKED, max(_RATIO_COUNTS_FROM, _MAX_RATIO * len(data)))
        for name in archive.namelist() if size <= allowed else ():
            with archive.open(name) as member:
                nested = member.read(2) == b"PK"
                while member.read(1 << 20):  # in pieces: a member may unpack to more than it declares
                    pass
            size += _unpacked_size(archive.read(name)) if nested else 0
    if size > allowed:
        raise ValueError(f"{len(data)} bytes would unpack to {size}, more than the {allowed} allowed")
    return size


def _parts(model: Any) -> Iterator[Any]:
    """Every object in `model` that has attributes, found through attributes, lists, tuples, mappings and arrays."""
    seen, left = set(), [model]
    while left:
        one = left.pop()
        if id(one) in seen or isinstance(one, type):
            continue
        seen.add(id(one))
        if isinstance(one, Mapping):
            left.extend(one.values())
        elif isinstance(one, list | tuple | set) or (isinstance(one, np.ndarray) and one.dtype == object):
            left.extend(np.ravel(one) if isinstance(one, np.ndarray) else one)
        elif hasattr(one, "__dict__"):
            yield one
            left.extend(vars(one).values())


@contextmanager
def _without_neighbour_trees(model: Any) -> Iterator[None]:
    """Take search trees out of neighbour models while they are saved: `_check` rebuilds them from the data."""
    held = [(one, one._tree) for one in _parts(model) if getattr(one, "_fit_method", None) in _NEIGHBOUR_TREES]
    for one, _ in held:
        one._tree = None
    try:
        yield
    finally:
        for one, tree in held:
            one._tree = tree


def _check(model: Any) -> None:
    """Refuse tables whose indices point outside of them, and give neighbour models their search trees.

    skops checks types, not contents: scikit-learn 1.9 follows these indices without looking
    (https://github.com/scikit-learn/scikit-learn/pull/34558).
    """
    for one in _parts(model):
        if issparse(one):
            one.check_format(full_check=True)
        if getattr(one, "_fit_method", None) in _NEIGHBOUR_TREES:
            make = _NEIGHBOUR_TREES[one._fit_method]
            one._tree = make(one._fit_X, one.leaf_size, metric=one.effective_metric_, **one.effective_metric_params_)
        tree = vars(one).get("tree_")
        if isinstance(tree, Tree):
            left = tree.children_left
            features = min(tree.n_features, one.n_features_in_)
            _check_nodes(left == -1, left, tree.children_right, tree.feature, features)
        for predictor in (each for row in getattr(one, "_predictors", ()) for each in row):
            nodes, sets = predictor.nodes, predictor.raw_left_cat_bitsets
            leaf = nodes["is_leaf"] != 0
            _check_nodes(leaf, nodes["left"], nodes["right"], nodes["feature_idx"], one.n_features_in_)
            split = nodes[~leaf & (nodes["is_categorical"] != 0)]
            known = np.asarray(one._bin_mapper.is_categorical_)
            if len(split) and not (split["bitset_idx"].max() < len(sets) and known[split["feature_idx"]].all()):
                raise ValueError("a decision tree splits categories that it does not have")


def _check_nodes(leaf: Any, left: Any, right: Any, feature: Any, n_features: int) -> None:
    """Children come after their parent, so that every walk ends, and inside the table, and so do features."""
    inner = np.flatnonzero(~leaf)
    children = np.stack([left, right])[:, inner].astype("int64")
    used = feature[inner].astype("int64")
    inside = ((children > inner) & (children < len(leaf))).all() and ((used >= 0) & (used < n_features)).all()
    if not len(leaf) or not inside:
        raise ValueError("a decision tree points outside of its nodes or features")
