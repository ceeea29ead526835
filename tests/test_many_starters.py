"""Many at once: whoever starts beside others, one migrates, one ticks, and nothing is done twice."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from evertrain.loop import Loop
from evertrain.store import leases
from evertrain.store.connect import Store
from evertrain.store.migrations import MIGRATIONS, migrate

from .conftest import line_model, write_rows


def test_five_starters_on_an_empty_folder_migrate_once(tmp_path):
    """P-37: all come up at the newest schema, and one event tells of one migration."""
    ready = threading.Barrier(5)

    def start(_):
        store = Store("sqlite:///evertrain.db", tmp_path)
        ready.wait()
        found = migrate(store)
        with store.read() as tx:
            told = tx.value("SELECT count(*) FROM events WHERE kind = 'store.migrated'")
        store.close()
        return found, told

    with ThreadPoolExecutor(5) as pool:
        assert list(pool.map(start, range(5))) == [(len(MIGRATIONS), 1)] * 5


def test_ten_loops_on_one_project_tick_one_at_a_time_and_train_once(make, folder):
    """P-23: the role passes on when its holder ends; what is due is trained once, whoever ticks."""
    write_rows(folder / "rows.csv", 120, towns=6)
    project = make()
    line_model(project, partition_by="town", features=["x"])
    opened = project.opened
    over, together, wrong = threading.Event(), [0], []
    loops = [Loop(opened, watch_files=False) for _ in range(10)]

    def run(loop):
        try:
            loop.run(over.is_set)
        except Exception as error:  # noqa: BLE001 - every error is the finding
            wrong.append(error)

    threads = [threading.Thread(target=run, args=(loop,)) for loop in loops]
    for thread in threads:
        thread.start()
    for _ in range(200):
        with opened.store.read() as tx:
            done = tx.value("SELECT count(*) FROM items WHERE state = 'promoted'")
            held = leases.holder(tx, "loop")
        together[0] = max(
            together[0], sum(loop.ticking and held is not None and loop.hands.owner == held["owner"] for loop in loops)
        )
        if done == 7:
            break
        over.wait(0.05)
    over.set()
    for thread in threads:
        thread.join()

    assert not wrong
    assert together == [1]
    with opened.store.read() as tx:
        assert tx.value("SELECT count(*) FROM items") == tx.value("SELECT count(*) FROM fits") == 7
        assert tx.value("SELECT count(*) FROM runs") == 1
