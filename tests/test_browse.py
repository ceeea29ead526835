"""Lists cost what they show: each is read by an index in its own order, whatever there is."""

from __future__ import annotations

import pytest

from evertrain.control import browse, tell
from evertrain.store.connect import Tx

from . import api_kit


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    with api_kit.opened(tmp_path_factory.mktemp("browse") / "shop") as api:
        yield api.opened


# What is asked, and which tables it may walk through in the order of their numbers or names, until its page is full.
ASKED = [
    (lambda o: browse.model_list(o, 1), {"models"}),
    (lambda o: browse.model(o, "line"), set()),
    (tell.status, {"models"}),
    (lambda o: browse.partition_list(o, "line", limit=1), set()),
    (lambda o: browse.partition_list(o, "line", "T01", behind=False, limit=1), set()),
    (lambda o: browse.version_list(o, "line", 1), set()),
    (lambda o: browse.champion(o, "line"), set()),
    (lambda o: browse.activation_list(o, "line", None, 1), set()),
    (lambda o: browse.score_list(o, "line", None, 1), set()),
    (lambda o: browse.run_list(o, limit=1), {"r"}),
    (lambda o: browse.run_list(o, "line", "succeeded", 1), set()),
    (lambda o: browse.run_list(o, None, "succeeded", 1), set()),
    (lambda o: browse.run(o, 2), set()),
    (lambda o: browse.item_list(o, 2, None, 1), set()),
    (lambda o: browse.item_list(o, 2, "promoted", 1), set()),
    (lambda o: browse.decision_list(o, limit=1), {"d"}),
    (lambda o: browse.decision_list(o, "line", limit=1), set()),
    (lambda o: browse.event_list(o, limit=1), {"events"}),
    (lambda o: browse.event_list(o, "line", kinds=["run.ended", "run.created"], limit=1), set()),
    (lambda o: browse.event_list(o, run=2, limit=1), set()),
]
# Tables that grow with what people declare, or hold a row or two; and answers of statements within a statement.
_SMALL = {
    "models",
    "m",
    "schedules",
    "s",
    "roles",
    "workers",
    "w",
    "settings",
    "overrides",
    "snapshots",
    "counters",
    "sources",
    "json_each",
}
_OPEN = {"items_open", "items_ready", "items_running", "items_one_running"}  # hold what waits and runs alone


@pytest.mark.parametrize("number", range(len(ASKED)))
def test_no_list_walks_through_all_there_is(opened, monkeypatch, number):
    ask, may = ASKED[number]
    plans: list[tuple[str, str]] = []
    real = Tx.rows

    def explained(self, sql, **params):
        if sql.lstrip().startswith(("SELECT", "WITH")):
            plans.extend((row[3], sql) for row in real(self, f"EXPLAIN QUERY PLAN {sql}", **params))
        return real(self, sql, **params)

    monkeypatch.setattr(Tx, "rows", explained)
    ask(opened)

    plans = [(line, sql) for line, sql in plans if not _OPEN & set(line.split())]
    walks = [(line, sql) for line, sql in plans if line.startswith("SCAN") or "PRIMARY KEY (rowid" in line]
    scanned = [(line, sql) for line, sql in walks if "rowid=?" not in line and line.split()[1] not in _SMALL | may]
    whole = [
        one for one in scanned if one[0].split()[1].isidentifier() and one[0].split()[1] not in ("k", "o", "CONSTANT")
    ]
    assert whole == []
    sorted_ = [sql for line, sql in plans if "TEMP B-TREE FOR ORDER BY" in line and "partitions" in sql]
    assert [sql for sql in sorted_ if "UNION ALL" not in sql and "f.version_id = :version" not in sql] == []


def test_a_search_looks_at_a_bounded_number_of_keys(opened, monkeypatch):
    from evertrain.store import champions

    monkeypatch.setattr(champions, "_SEARCHED", 2)
    first = browse.partition_list(opened, "line", "T03")
    assert (first.items, first.next is not None) == ([], True)
    found, cursor = [], first.next
    while cursor:
        page = browse.partition_list(opened, "line", "T03", cursor=cursor)
        found, cursor = found + page.items, page.next
    assert [one.name for one in found] == ["T03"]
