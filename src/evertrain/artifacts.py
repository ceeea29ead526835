"""Artifacts: fitted models as bytes at rest, found by the SHA-256 of their content.

Written beside, flushed, renamed, and only then named by a row of the store; checked again whenever they are read.
Small models are packed: one file for a batch, and each fit knows its place in it. No name that a user chose ever
becomes part of a path.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from evertrain.errors import ArtifactError
from evertrain.faults import fault_point

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Place:
    """Where the bytes of one fit are: a file named by its digest, a part of it, and that part's own digest."""

    artifact: str
    start: int
    size: int
    digest: str


class Artifacts:
    """A folder of artifacts: `sha256/ab/abcd…`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, digest: str) -> Path:
        """Return where an artifact is or would be."""
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise ArtifactError(f"{digest!r} is no SHA-256 digest", digest=digest)
        return self.folder / "sha256" / digest[:2] / digest

    def take(self, written: Path) -> tuple[str, int]:
        """Move a finished file into the folder and return its digest and size, durable when this returns.

        A failed flush is final for these bytes: the kernel may have dropped them, so nothing is retried here
        (the caller's next try writes everything anew).
        """
        digest, size = digest_of(written)
        target = self.path(digest)
        _make_folder(target.parent)
        with written.open("rb") as file:
            os.fsync(file.fileno())
        fault_point("artifact.before_rename")
        written.rename(target)
        target.chmod(0o600)
        _sync_folder(target.parent)
        fault_point("artifact.after_rename")
        return digest, size

    def read(self, place: Place) -> bytes:
        """Return the bytes of one fit after checking them.

        Raises:
            ArtifactError: the file is missing, no regular file, too short, or the bytes are not those that were
                written.
        """
        return read_checked(self.path(place.artifact), place)

    def size(self, digest: str) -> int | None:
        """Return the size of an artifact's file, None when it is missing or no regular file."""
        try:
            found = self.path(digest).lstat()
        except OSError:
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def remove(self, digest: str) -> int:
        """Delete an artifact that no row names any more and return the bytes freed."""
        path = self.path(digest)
        freed = self.size(digest) or 0
        path.unlink(missing_ok=True)
        if path.parent.exists():
            _sync_folder(path.parent)
        return freed

    def every(self) -> Iterator[Path]:
        """Return the files of all artifacts, in no order."""
        yield from (self.folder / "sha256").glob("??/*")


def read_checked(path: Path, place: Place) -> bytes:
    """Return a part of a file after checking its digest; the file is opened once and never followed as a link."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise ArtifactError(
            f"artifact {place.artifact[:12]} cannot be opened: {error.strerror}", digest=place.artifact
        ) from None
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ArtifactError(f"artifact {place.artifact[:12]} is no regular file", digest=place.artifact)
        with os.fdopen(os.dup(handle), "rb") as file:
            file.seek(place.start)
            data = file.read(place.size)
    except OSError as error:
        raise ArtifactError(
            f"artifact {place.artifact[:12]} cannot be read: {error.strerror}", digest=place.artifact
        ) from None
    finally:
        os.close(handle)
    if len(data) != place.size:
        raise ArtifactError(
            f"artifact {place.artifact[:12]} is cut short: {len(data)} of {place.size} bytes", digest=place.artifact
        )
    if not hmac.compare_digest(hashlib.sha256(data).hexdigest(), place.digest):
        raise ArtifactError(f"artifact {place.artifact[:12]} is damaged: its digest differs", digest=place.artifact)
    return data


def digest_of(path: Path) -> tuple[str, int]:
    """Return the SHA-256 of a file, in hexadecimal, and its size."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            size += len(block)
    return digest.hexdigest(), size


def _make_folder(folder: Path) -> None:
    if not folder.exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _sync_folder(folder.parent)
        _sync_folder(folder.parent.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
