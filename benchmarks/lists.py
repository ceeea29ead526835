"""What a page of a list costs over HTTP where a model has a hundred thousand partitions."""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from benchmarks.measure import Row, spread, timed
from evertrain import CsvFile, Project
from evertrain.server.app import create
from evertrain.server.service import Options, Service
from evertrain.store.connect import Tx

_AT = "2026-03-01T00:00:00.000000Z"
_ASKED = (
    ("how a model stands", "/models/line", 100),
    ("the first page of partitions", "/models/line/partitions", 100),
    ("a page of 1,000 partitions", "/models/line/partitions?limit=1000", 300),
    ("a search that finds one partition", "/models/line/partitions?q={last}", 100),
    ("a search that finds nothing", "/models/line/partitions?q=nowhere", 100),
    ("partitions that are behind, of which there are none", "/models/line/partitions?behind=true", 100),
    ("versions", "/models/line/versions", 100),
    ("scores of a partition", "/models/line/scores", 100),
    ("runs", "/runs", 100),
    ("a run of all partitions", "/runs/1", 100),
    ("its items", "/runs/1/items", 100),
    ("its failed items", "/runs/1/items?state=failed", 100),
    ("events of a model", "/events?model=line", 100),
)
SHOWN = tuple(what for what, _, _ in _ASKED)


def rows(number: int, times: int = 7) -> list[Row]:
    """Return what each list takes, from the request to the last byte of its answer, in this process."""
    with tempfile.TemporaryDirectory() as name:
        project = project_of(Path(name))
        with project.opened.store.write() as tx:
            fill(tx, number)
        client = TestClient(create(Service(project.opened, Options(loop=False))), "http://127.0.0.1:8000")
        found = []
        for what, path, target in _ASKED:
            address = f"/api/v1{path.format(last=f'shop-{number - 1:06d}')}"
            assert client.get(address).status_code == 200, address
            each = [timed(lambda address=address: client.get(address)) * 1000 for _ in range(times)]  # type: ignore[misc]
            middle = f"{statistics.median(each):.1f} ms"
            said = f"{what}, {number:,} partitions"
            found.append(Row(said, middle, spread(min(each), max(each), "ms", 1), "-", f"under {target} ms"))
        project.close()
    return found


def project_of(root: Path) -> Project:
    """Declare a model of partitions by town and shop, with two rollups."""
    (root / "rows.csv").write_text("town,shop,x,y\n" + "".join(f"T{i},S{i},{i},{i}\n" for i in range(20)))
    project = Project("lists", root=root, executor="inline")
    options: dict[str, Any] = {"target": "y", "trainer": "sklearn.linear_model:Ridge", "min_samples": 1}
    project.model(
        "line", project.source("rows", CsvFile("rows.csv")), partition_by=["town", "shop"], rollups=[["town"], []],
        **options,
    )  # fmt: skip
    return project


def fill(tx: Tx, number: int) -> None:
    """Write partitions with two full runs behind them, as training would."""
    model = tx.value("SELECT id FROM models WHERE name = 'line'")
    keys: list[dict[str, str]] = [{"town": f"Town {i % 400}", "shop": f"Shop-{i:06d}"} for i in range(number)]
    above: list[dict[str, str]] = [{"town": f"Town {i}"} for i in range(400)] + [{}]
    tx.many(
        "INSERT INTO partitions(model_id, key, leaf, rows, wanted, planned, considered) VALUES (:m, :k, :leaf, 100, 1, 1, 1)",
        [{"m": model, "k": json.dumps(one, separators=(",", ":")), "leaf": len(one) == 2} for one in keys + above],
    )
    places = [row[0] for row in tx.rows("SELECT id FROM partitions WHERE model_id = :m", m=model)]
    tx.run("INSERT INTO artifacts(digest, size, created_at) VALUES ('d', 1, :at)", at=_AT)
    verdict = json.dumps({"score": "mae", "challenger": 1.0, "champion": 2.0, "improvement": 50.0})
    for minor in range(2):
        run = tx.value(
            "INSERT INTO runs(model_id, state, kind, cause, reason, actor, items, partitions, created_at, started_at,"
            " ended_at, outcomes) VALUES (:m, 'succeeded', 'full', 'schedule', 'daily', 'evertrain', :n, :n, :at, :at, :at,"
            " :outcomes) RETURNING id",
            m=model, n=len(places), at=_AT, outcomes=json.dumps({"promoted": len(places)}),
        )  # fmt: skip
        version = tx.value(
            "INSERT INTO versions(model_id, run_id, major, minor, created_at) VALUES (:m, :r, 1, :n, :at) RETURNING id",
            m=model, r=run, n=minor, at=_AT,
        )  # fmt: skip
        tx.many(
            "INSERT INTO items(run_id, model_id, partition_id, state, cause, correction, available_at, reason)"
            " VALUES (:r, :m, :p, 'promoted', 'schedule', 0, :at, 'better')",
            [{"r": run, "m": model, "p": place, "at": _AT} for place in places],
        )
        items = tx.rows("SELECT id, partition_id FROM items WHERE run_id = :r", r=run)
        each = [{"i": item, "p": place, "v": version, "verdict": verdict, "at": _AT} for item, place in items]
        tx.many(
            "INSERT INTO fits(id, version_id, partition_id, artifact, start, size, digest, trainer, verdict, scores, rows,"
            " input, wanted, signature, trained_at) VALUES (:i, :v, :p, 'd', 0, 1, 'd', '{}', :verdict, '{}', 100, 'x', 1, '{}',"
            " :at)",
            each,
        )
        tx.many("UPDATE activations SET until_at = :at WHERE partition_id = :p AND until_at IS NULL", each)
        tx.many(
            "INSERT INTO activations(partition_id, fit_id, from_at, actor, why) VALUES (:p, :i, :at, 'evertrain', 'better')",
            each,
        )
        tx.many("UPDATE partitions SET champion_id = :i, trained = 1, trained_at = :at WHERE id = :p", each)
    told = [{"at": _AT, "m": "line" if n % 2 else "other"} for n in range(number)]
    tx.many(
        "INSERT INTO events(at, kind, model, run_id, actor, data) VALUES (:at, 'item.progress', :m, 1, 'evertrain', '{}')",
        told,
    )
