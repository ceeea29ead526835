"""A program of the user's own as a trainer: files in, files out, no shell."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evertrain.errors import ConfigError, TrainingError
from evertrain.specs import Command, Context

if TYPE_CHECKING:
    import pandas as pd

# What a training program may see of this process's environment; secrets stay here.
_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH", "OMP_NUM_THREADS",
                "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # fmt: skip
_PLACES = {"data", "out", "model", "seed"}


class CommandTrainer:
    """Runs `train.py --data rows.csv --out model` and, where declared, its `predict`."""

    libraries: Sequence[str] = ()

    def __init__(self, spec: Command, scratch: Path) -> None:
        self.spec, self.scratch, self.task = spec, scratch, spec.task
        _arguments(spec.run, dict.fromkeys(_PLACES, ""))
        if spec.predict:
            _arguments(spec.predict, dict.fromkeys(_PLACES, ""))

    @property
    def can_predict(self) -> bool:
        return bool(self.spec.predict) or self.spec.format == "skops"

    def fit(self, frame: pd.DataFrame, context: Context) -> bytes:
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            data, out = Path(folder, "data.csv"), Path(folder, "model")
            frame[[*context.features, context.target]].to_csv(data, index=False)
            _run(self.spec.run, {"data": data, "out": out, "model": out, "seed": context.seed})
            if not out.is_file() or not out.stat().st_size:
                raise TrainingError(f"{_called(self.spec.run)} ended well but wrote no model to {{out}}")
            return out.read_bytes()

    def save(self, fitted: bytes) -> bytes:
        return fitted

    def load(self, data: bytes) -> Any:
        if self.spec.format == "skops":
            from evertrain.trainers import sklearn

            return sklearn.load(data)
        return data

    def predict(self, fitted: Any, frame: pd.DataFrame) -> Any:
        import pandas as pd

        if self.spec.format == "skops":
            from evertrain.trainers import sklearn

            return sklearn.predict(fitted, frame)
        if not self.spec.predict:
            raise ConfigError(
                "predict", None, "a command such as 'python predict.py --model {model} --data {data} --out {out}'"
            )
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            data, out, model = Path(folder, "data.csv"), Path(folder, "out.csv"), Path(folder, "model")
            model.write_bytes(fitted)
            frame.to_csv(data, index=False)
            _run(self.spec.predict, {"data": data, "out": out, "model": model, "seed": 0})
            try:
                answer = pd.read_csv(out).iloc[:, -1]
            except (OSError, ValueError, IndexError) as error:
                raise TrainingError(f"{_called(self.spec.predict)} wrote no predictions to {{out}}: {error}") from None
            return np.asarray(answer)


def _arguments(template: str, values: dict[str, Any]) -> list[str]:
    try:
        words = shlex.split(template)
        # Split first, filled in afterwards: a path with blanks stays one argument, and nothing is ever interpreted.
        found = [word.format(**values) for word in words]
    except (ValueError, KeyError, IndexError, AttributeError) as error:
        raise ConfigError("command", template, f"words and {{data}}, {{out}}, {{model}}, {{seed}} ({error})") from None
    if not found:
        raise ConfigError("command", template, "a program and its arguments")
    if Path(found[0]).name in ("python", "python3"):
        found[0] = sys.executable  # the environment that Evertrain runs in, whatever PATH says
    return found


def _called(template: str) -> str:
    words = shlex.split(template)
    return " ".join(words[:2])


def _run(template: str, values: dict[str, Any]) -> None:
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    try:
        done = subprocess.run(  # noqa: S603 - the project file's own command, split without a shell
            _arguments(template, values), env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
    except OSError as error:
        raise TrainingError(f"{_called(template)} cannot be started: {error.strerror}") from None
    output = (done.stdout + done.stderr).decode(errors="replace")
    sys.stderr.write(output)
    if done.returncode:
        last = output.strip().splitlines()[-1:] or ["it printed nothing"]
        raise TrainingError(
            f"{_called(template)} ended with code {done.returncode}: {last[0][:200]}",
            error_class="CommandFailed",
            remote_traceback=output[-8000:],
        )
