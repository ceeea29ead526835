"""Live objects as import path and plain JSON parameters, and back: what a snapshot holds in the place of a pickle."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import math
import sys
import warnings
from collections.abc import Mapping
from functools import reduce
from typing import Any

from evertrain.errors import ConfigError
from evertrain.specs import Custom, Estimator

_WAYS_OUT = (
    "what JSON can hold, and objects, classes and functions that can be imported by name: "
    "put it into a module, or use executor='inline' to train in this process"
)
_NO_DEFAULT = inspect.Parameter.empty
METHODS = ("fit", "save", "load")


def is_trainer(obj: object) -> bool:
    """Return whether an object has what a trainer must have: it fits, is saved and loaded, and predicts or forecasts."""
    asked = any(callable(getattr(obj, name, None)) for name in ("predict", "forecast"))
    return asked and all(callable(getattr(obj, name, None)) for name in METHODS)


def describe(obj: object) -> Estimator | Custom:
    """Return the declaration that `build` turns into an equal object.

    A scikit-learn estimator becomes an `Estimator`; any other object with `fit`, `save`, `load` and `predict` or
    `forecast` a `Custom`. Parameters come from `get_params`, the fields of a dataclass, or the attributes named like the
    parameters of `__init__`; those that equal the constructor's defaults are left out.

    Raises:
        ConfigError: it is no trainer, or a parameter cannot be expressed: a lambda, a function inside a function, a
            class of a notebook or of `__main__`, a random generator. The error names the parameter.

    >>> from sklearn.linear_model import Ridge
    >>> describe(Ridge(alpha=2.0))
    Estimator(path='sklearn.linear_model:Ridge', params={'alpha': 2.0}, preprocess=None, kind='sklearn')
    """
    if isinstance(obj, type):
        raise ConfigError("trainer", obj.__name__, f"an object: {obj.__name__}()")
    base = sys.modules.get("sklearn.base")  # an estimator cannot exist before its base class was imported
    is_estimator = base is not None and isinstance(obj, base.BaseEstimator)
    if not is_estimator and not is_trainer(obj):
        raise ConfigError(
            "trainer", obj, "a scikit-learn estimator, or an object with fit, save, load and predict or forecast"
        )
    where = type(obj).__name__
    path, params = _import_path(type(obj), where), _params(obj, where)
    return Estimator(path, params) if is_estimator else Custom(path, params)


def build(path: str, params: Mapping[str, Any]) -> Any:
    """Return the object that `describe` found, freshly constructed.

    Raises:
        ConfigError: a module or a name in it does not exist, or the constructor refuses the parameters.

    >>> build("sklearn.linear_model:Ridge", {"alpha": 2.0})
    Ridge(alpha=2.0)
    """
    made, given = _import(path), {name: _decode(value) for name, value in params.items()}
    try:
        return made(**given)
    except TypeError as error:
        raise ConfigError(f"parameters of {path}", sorted(given), str(error)) from error


def _params(obj: object, where: str) -> dict[str, Any]:
    try:
        defaults = _defaults(type(obj))
        values = _values(obj, defaults)
    except (AttributeError, ValueError) as error:  # a parameter that is no attribute; a type without a signature
        raise ConfigError(where, obj, _WAYS_OUT) from error
    found = {}
    for name, value in values.items():
        default = defaults.get(name, _NO_DEFAULT)
        if value is default:
            continue
        encoded = _encode(value, f"{where}.{name}")
        # Compared as text, because 1 == 1.0 == True, and max_features=1 is one feature where 1.0 is all of them.
        if default is _NO_DEFAULT or json.dumps(encoded) != _text(default):
            found[name] = encoded
    return found


def _values(obj: Any, defaults: Mapping[str, object]) -> dict[str, object]:
    if hasattr(obj, "get_params"):
        takes_deep = "deep" in inspect.signature(obj.get_params).parameters
        return dict(obj.get_params(deep=False) if takes_deep else obj.get_params())
    if dataclasses.is_dataclass(obj):
        return {one.name: getattr(obj, one.name) for one in dataclasses.fields(obj) if one.init}
    return {name: getattr(obj, name) for name in defaults}


def _defaults(cls: type) -> dict[str, object]:
    """The default of each parameter of the constructor."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(cls).parameters.values()
    if any(one.kind is inspect.Parameter.POSITIONAL_ONLY for one in parameters):
        raise ValueError(f"{cls.__name__} takes parameters that have no name")
    return {one.name: one.default for one in parameters if one.kind in named}


def _text(default: object) -> str | None:
    try:
        return json.dumps(_encode(default, ""))
    except ConfigError:
        return None


def _encode(value: Any, where: str) -> Any:
    import numpy as np

    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": str(value)}
    if isinstance(value, list | tuple):
        items = [_encode(one, f"{where}[{i}]") for i, one in enumerate(value)]
        return items if isinstance(value, list) else {"$tuple": items}
    if isinstance(value, dict):
        pairs = [[_encode(key, where), _encode(one, f"{where}[{key!r}]")] for key, one in value.items()]
        plain = all(isinstance(key, str) and not key.startswith("$") for key in value)
        return dict(pairs) if plain else {"$dict": pairs}
    if isinstance(value, slice):
        return {"$slice": [_encode(one, where) for one in (value.start, value.stop, value.step)]}
    if isinstance(value, np.ndarray):
        return {"$array": _encode(value.tolist(), where), "dtype": value.dtype.str}
    if isinstance(value, np.random.RandomState | np.random.Generator):
        raise ConfigError(where, value, "a whole number, or None for a seed of Evertrain's")
    if isinstance(value, np.ufunc) or hasattr(value, "__qualname__"):
        return {"$import": _import_path(value, where)}
    return {"$object": _import_path(type(value), where), "params": _params(value, where)}


def _decode(value: Any) -> Any:
    match value:
        case list():
            return [_decode(one) for one in value]
        case {"$float": text}:
            return float(text)
        case {"$tuple": items}:
            return tuple(_decode(items))
        case {"$dict": pairs}:
            return {_decode(key): _decode(one) for key, one in pairs}
        case {"$slice": parts}:
            return slice(*_decode(parts))
        case {"$array": items, "dtype": dtype}:
            import numpy as np

            return np.array(_decode(items), dtype=dtype)
        case {"$import": path}:
            return _import(path)
        case {"$object": path, "params": params}:
            return build(path, params)
        case Mapping():
            return {key: _decode(one) for key, one in value.items()}
    return value


def _import_path(obj: Any, where: str) -> str:
    """The shortest public path under which `obj` itself is found: its module's parents come first."""
    module = getattr(obj, "__module__", None) or "scipy.special"  # whose ufuncs do not say where they are from
    name = getattr(obj, "__qualname__", obj.__name__)
    parts = module.split(".")
    parents = [".".join(parts[:n]) for n in range(1, len(parts)) if not any(one[0] == "_" for one in parts[:n])]
    if module != "__main__" and "<" not in name:  # <lambda>, <locals>
        for candidate in (*parents, module):
            if _lookup(candidate, name) is obj:
                return f"{candidate}:{name}"
    raise ConfigError(where, obj, _WAYS_OUT)


def _lookup(module: str, name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # packages warn when asked for names that they used to have
        try:
            return reduce(getattr, name.split("."), importlib.import_module(module))
        except (AttributeError, ImportError):
            return None


def _import(path: str) -> Any:
    module, _, name = path.partition(":")
    try:
        return reduce(getattr, name.split("."), importlib.import_module(module))
    except ModuleNotFoundError as error:
        raise ConfigError(
            "import path", path, f"a module that is installed or in the project's folder ({error})"
        ) from error
    except AttributeError as error:
        raise ConfigError("import path", path, f"a name that {module} has ({error})") from error
