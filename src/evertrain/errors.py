"""The errors that Evertrain raises: one tree, each with fields and a sentence a person can act on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class EvertrainError(Exception):
    """Base of every error raised on purpose; `str(error)` is a sentence for the user."""


class ConfigError(EvertrainError):
    """A setting or a declaration is wrong.

    >>> str(ConfigError("gate.tolerance", "five", "a share such as '5%'"))
    "gate.tolerance is 'five'; allowed: a share such as '5%'"
    """

    def __init__(self, name: str, value: object, allowed: str) -> None:
        self.name, self.value, self.allowed = name, value, allowed
        super().__init__(f"{name} is {value!r}; allowed: {allowed}")


class UnknownName(ConfigError):
    """Nothing is registered under this name; lists what is."""

    def __init__(self, what: str, value: object, choices: Iterable[str]) -> None:
        self.choices = sorted(choices)
        listed = ", ".join(self.choices[:20]) or "nothing is declared yet"
        more = f" and {len(self.choices) - 20} more" if len(self.choices) > 20 else ""
        super().__init__(what, value, listed + more)


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used: its line in the file (else its place), the column and value at fault, and why."""

    line: int | None
    column: str | None
    value: str
    problem: str


class DataError(EvertrainError):
    """Rows that cannot be used: names the source, the column where one is at fault, and an example.

    Attributes:
        bad_rows: the first 100 of them, where single rows are at fault.
        bad_count: how many there are.
        report: the path of a CSV file that lists them all.
    """

    def __init__(
        self,
        message: str,
        *,
        source: str | None = None,
        column: str | None = None,
        bad_rows: Sequence[BadRow] = (),
        bad_count: int = 0,
        report: str | None = None,
    ) -> None:
        self.source, self.column = source, column
        self.bad_rows, self.bad_count, self.report = tuple(bad_rows), bad_count, report
        super().__init__(message)


class Undecided(DataError):
    """Values of a file can be read in two ways, and nothing says which is meant; names the choice."""


class NotFound(EvertrainError):
    """A model, partition, run or version does not exist."""


class NoModelYet(NotFound):
    """A declared model has no champion yet; the sentence says how far its first training is."""


class Conflict(EvertrainError):
    """The request contradicts the current state."""


class IllegalTransition(Conflict):
    """A state may not follow another; names the thing, its state and the state asked for."""

    def __init__(self, thing: str, state: str, wanted: str) -> None:
        self.thing, self.state, self.wanted = thing, state, wanted
        super().__init__(f"{thing} is {state} and cannot become {wanted}")


class QueueFull(Conflict):
    """So much waits already that nothing more is taken on; asking again later helps."""


class StaleAttempt(Conflict):
    """Another attempt owns this item now, or the lease has run out: the late result is discarded."""


class TrainingError(EvertrainError):
    """The user's trainer failed; `remote_traceback` is what it printed, for logs only."""

    def __init__(self, message: str, *, error_class: str = "TrainingError", remote_traceback: str = "") -> None:
        self.error_class, self.remote_traceback = error_class, remote_traceback
        super().__init__(message)


class Retryable(TrainingError):
    """A failed training for which trying again may help."""


class ArtifactError(EvertrainError):
    """Stored bytes are missing or damaged; names their digest."""

    def __init__(self, message: str, *, digest: str) -> None:
        self.digest = digest
        super().__init__(message)


class StoreError(EvertrainError):
    """The database failed; the driver's error is the cause."""


class StoreBusy(StoreError):
    """Another process holds the write lock for longer than we wait; trying again later helps."""


def reason_of(error: Exception) -> str:
    """Return what an error says: ours speak for themselves, others with their type before it.

    >>> reason_of(ValueError("x is 3"))
    'ValueError: x is 3'
    """
    return str(error) if isinstance(error, EvertrainError) else f"{type(error).__name__}: {error}"
