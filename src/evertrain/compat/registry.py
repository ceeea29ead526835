"""The model registry of document 001: versions and their states, over the one that keeps every fit."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from evertrain.control import back
from evertrain.control.opened import Opened
from evertrain.errors import Conflict, NotFound, UnknownName
from evertrain.project import Project

logger = logging.getLogger("evertrain")

_MANY = 10_000
_SERVED = ("serving", "archived")


class ModelStatus(StrEnum):
    """Whether a version serves."""

    ACTIVE = "active"
    ARCHIVED = "archived"


@dataclass(frozen=True)
class ModelMetadata:
    """What is known of a version; a plain value for code that makes one."""

    model_type: str
    version: str
    performance_metrics: dict[str, float] = field(default_factory=dict)
    feature_names: list[str] = field(default_factory=list)
    training_samples: int = 0
    training_duration: Any = 0.0


def _bump_version(old_version: str, bump_type: str = "minor") -> str:
    """Return the version behind another one. Versions here are drawn by the store; this is for what calculates ahead.

    Raises:
        UnknownName: `bump_type` is no part of a version.

    >>> _bump_version("1.2.0"), _bump_version("1.2.3", "major"), _bump_version("1.2.3", "patch")
    ('1.3.0', '2.0.0', '1.2.4')
    """
    major, minor, patch = map(int, old_version.split("."))
    following = {
        "major": f"{major + 1}.0.0",
        "minor": f"{major}.{minor + 1}.0",
        "patch": f"{major}.{minor}.{patch + 1}",
    }
    if bump_type not in following:
        raise UnknownName("bump_type", bump_type, following)
    return following[bump_type]


class ModelRegistry:
    """Versions that serve or served. A model is never without one: archiving is what making another active does."""

    def __init__(self, project: Project | Opened, *, actor: str | None = None) -> None:
        self.opened = project.opened if isinstance(project, Project) else project
        self._actor = actor or self.opened.store.actor

    def get_latest_version(self, model_type: str) -> str:
        """Return the highest version that serves or served.

        Raises:
            NotFound: no such model, or none of its versions ever served.
        """
        known = self._served(model_type)
        if not known:
            raise NotFound(f"{model_type} has no version yet")
        return max(known, key=_numbers)

    def get_previous_version(self, model_type: str, current_version: str) -> str:
        """Return the highest version below `current_version` that served.

        Raises:
            NotFound: there is none.
        """
        known = [one for one in self._served(model_type) if _numbers(one) < _numbers(current_version)]
        if not known:
            raise NotFound(f"{model_type} has no version before {current_version}")
        return max(known, key=_numbers)

    def get_model_status(self, model_type: str, version: str) -> ModelStatus:
        """Return whether a version serves.

        Raises:
            NotFound: it never served.
        """
        known = self._served(model_type)
        if version not in known:
            raise NotFound(
                f"{model_type} has no version {version} that served; there are {', '.join(known) or 'none yet'}"
            )
        return ModelStatus.ACTIVE if known[version] == "serving" else ModelStatus.ARCHIVED

    def set_model_status(self, model_type: str, version: str, status: ModelStatus | str) -> None:
        """Make a version active, which archives the one that served; a trial load comes first.

        To archive the version that serves changes nothing yet, and a warning says so: make another one active.

        Raises:
            NotFound: no such version served.
            ArtifactError: the version is damaged or no longer loads; nothing changes.
        """
        if status not in list(ModelStatus):
            raise UnknownName("status", str(status), list(ModelStatus))
        now = self.get_model_status(model_type, version)
        if status == ModelStatus.ARCHIVED:
            if now is ModelStatus.ACTIVE:
                logger.warning("%s v%s serves until another version is made active", model_type, version)
            else:
                logger.info("Archived %s v%s", model_type, version)
            return
        if now is ModelStatus.ACTIVE:
            return
        done = back.rollback(
            self.opened, model_type, version=version, actor=self._actor, why=f"{version} was made active"
        )
        logger.warning("Rolled back %s: v%s → v%s", model_type, done.before, done.after)

    def register_model(self, model_type: str, model: object, metadata: ModelMetadata) -> None:  # noqa: ARG002
        """Refuse: a version is registered by the training that made it, with what it was trained on and judged by.

        Raises:
            Conflict: always; names what to do instead.
        """
        raise Conflict(
            f"a version of {model_type} is registered by its training: call retrain_model({model_type!r});"
            " for a first model made elsewhere, Project.adopt(model, file)"
        )

    def _served(self, model_type: str) -> dict[str, str]:
        found = back.versions(self.opened, model_type, _MANY)
        return {one["version"]: one["state"] for one in found if one["state"] in _SERVED}


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
