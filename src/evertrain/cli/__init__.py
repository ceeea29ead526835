"""The command line."""

from __future__ import annotations

import sys

# One table of exit codes; the reference page is made from it.
EXIT_CODES = {
    0: "done, whatever the answer was",
    1: "something failed that should not have, the message names the log; or `doctor` found a problem",
    2: "a wrong argument, setting, declaration or row",
    3: "no such model, partition, run or version",
    4: "the request contradicts the current state",
    5: "a training failed",
    6: "the store cannot be reached or is busy",
    7: "stored bytes are damaged or missing",
    10: "`check` or `execute` with `--exit-code`: retraining is asked for",
    130: "interrupted",
}


def exit_code(error: Exception) -> int:
    """Return the exit code of an error of ours."""
    from evertrain import errors

    table = [
        (errors.NotFound, 3), (errors.Conflict, 4), (errors.TrainingError, 5), (errors.StoreError, 6),
        (errors.ArtifactError, 7), (errors.ConfigError, 2), (errors.DataError, 2),
    ]  # fmt: skip
    return next((code for kind, code in table if isinstance(error, kind)), 1)


def main() -> None:
    """Run the command line and end the process with its exit code."""
    from evertrain.cli.commands import app
    from evertrain.cli.show import complain

    try:
        code = app(standalone_mode=False)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)  # the reader of our output went away, e.g. `| head`
    except Exception as error:  # noqa: BLE001 - the one place where errors become words and codes
        sys.exit(complain(error))
    sys.exit(code if isinstance(code, int) else 0)
