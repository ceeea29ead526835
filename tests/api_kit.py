"""A small project behind its API, in this process: two models, a few runs, a refusal, a rollback."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from evertrain import CsvFile, Custom, Project, Settings, daily, on_data_change
from evertrain.clock import ManualClock
from evertrain.control.ask import Asked
from evertrain.control.work import Outcome, run_to_end
from evertrain.server.app import create
from evertrain.server.service import Options, Service

from .conftest import TOYS, write_rows

ANA = "ana"


class Api:
    """Asks the application itself, as a person called ana."""

    def __init__(self, project: Project, **options: object) -> None:
        self.project, self.opened = project, project.opened
        self.service = Service(self.opened, Options(loop=False, **options))  # type: ignore[arg-type]
        self.app = create(self.service)
        self.client = TestClient(self.app, "http://127.0.0.1:8000", raise_server_exceptions=False)

    def get(self, path: str, status: int = 200, **query: object):
        return self._checked(self.client.get(f"/api/v1{path}", params=query), status)

    def post(self, path: str, body: object = None, status: int = 200, **headers: str):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self._checked(self.client.post(f"/api/v1{path}", json=body, headers=named), status)

    def delete(self, path: str, status: int = 200):
        return self._checked(self.client.delete(f"/api/v1{path}"), status)

    @staticmethod
    def _checked(answer, status):
        assert answer.status_code == status, (answer.status_code, answer.text[:500])
        if status >= 400:
            told = answer.json()
            assert answer.headers["content-type"] == "application/problem+json"
            assert told["status"] == status
            assert told["detail"]
            assert "Traceback" not in answer.text
        return answer.json() if answer.content else None

    def train(self, run: int) -> Outcome:
        return run_to_end(self.opened, Asked(run, 0, 0, ""))


def declare(root: Path, **options: object) -> Project:
    settings = Settings(tick_s=0.05, check_s=3600)
    project = Project("shop", root=root, executor="inline", settings=settings, clock=ManualClock())
    project.opened.store.actor = ANA  # who asks on loopback, where no token is needed
    rows = project.source("rows", CsvFile("rows.csv"))
    common = {"target": "y", "trainer": Custom("toys:Line"), "features": ["x"], "min_samples": 10}
    quiet = [on_data_change("0s"), daily("03:00")]
    project.model("line", rows, partition_by="town", triggers=quiet, **common, **options)  # type: ignore[arg-type]
    project.model("whole", rows, triggers=[], **common)  # type: ignore[arg-type]
    project.model("new", rows, triggers=[], auto="off", **common)  # type: ignore[arg-type]
    return project


@contextmanager
def opened(root: Path, **options: object) -> Iterator[Api]:
    """Open a project of four towns whose model has been trained, trained anew, and rolled back in one town."""
    root.mkdir(exist_ok=True)
    shutil.copy(TOYS, root / "toys.py")
    write_rows(root / "rows.csv", 160, towns=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root))
        project = declare(root)
        project.trigger("whole")
        project.trigger("line")
        project.trigger("line", {"town": "T01"}, force=True)
        project.rollback("line", partition={"town": "T01"}, why="a test")
        api = Api(project, **options)
        yield api
        api.service.stopping.set()
        project.close()
