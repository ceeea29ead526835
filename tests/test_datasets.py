"""Datasets: batches become versions; nothing is lost, doubled or half-written, and any version can be read again."""

from __future__ import annotations

import threading

import polars as pl
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sqlalchemy.exc import IntegrityError

from evertrain import datasets
from evertrain.clock import ManualClock
from evertrain.errors import BadRow, Conflict, DataError, NotFound
from evertrain.specs import Dataset
from evertrain.store.connect import Store
from evertrain.store.migrations import migrate

SPEC = Dataset(key=("record_id",), time="date")


def harvest(*rows):
    return pl.DataFrame(
        [dict(zip(("record_id", "date", "town", "kg"), row, strict=True)) for row in rows],
        schema={"record_id": pl.Int64, "date": pl.String, "town": pl.String, "kg": pl.Float64},
    ).with_columns(pl.col("date").str.to_date())


FIRST = [(1, "2026-01-01", "Hermosa", 10.0), (2, "2026-01-02", "Pilar", 20.0), (3, "2026-01-03", "Pilar", 30.0)]


def contents(store, version=None, name="harvests"):
    return {row["record_id"]: (row["town"], row["kg"]) for row in datasets.frame_at(store, name, version).to_dicts()}


@pytest.fixture
def filled(store):
    datasets.ingest(store, "harvests", SPEC, harvest(*FIRST))
    return store


def test_a_batch_is_merged_the_newer_row_wins_and_every_version_stays(filled):
    """S4-04: rows are told apart by their key; one new version for each batch that changes something."""
    second = datasets.ingest(
        filled, "harvests", SPEC, harvest((2, "2026-01-02", "Orani", 25.0), (4, "2026-01-04", "Bagac", 1.0))
    )

    assert (second.added, second.updated, second.removed, second.unchanged, second.version) == (1, 1, 0, 0, 2)
    assert contents(filled)[2] == ("Orani", 25.0)
    assert contents(filled, 1) == {1: ("Hermosa", 10.0), 2: ("Pilar", 20.0), 3: ("Pilar", 30.0)}
    assert contents(filled, 0) == {}
    assert datasets.frame_at(filled, "harvests").schema["date"] == pl.Date


def test_the_same_file_again_changes_nothing_and_a_file_after_another_does(filled):
    """P-36: ingest is idempotent; the order of rows does not matter."""
    again = datasets.ingest(filled, "harvests", SPEC, harvest(*reversed(FIRST)))
    assert (again.added, again.updated, again.unchanged, again.version) == (0, 0, 3, 1)

    datasets.ingest(filled, "harvests", SPEC, harvest((1, "2026-01-01", "Hermosa", 99.0)))
    back = datasets.ingest(filled, "harvests", SPEC, harvest(*FIRST))
    assert (back.updated, back.version, contents(filled)[1]) == (1, 3, ("Hermosa", 10.0))


def test_ten_clients_with_one_file_at_once_make_one_version(tmp_path, store):
    """P-36: from ten clients at once, the dataset is as after one."""
    path = tmp_path / "rows.csv"
    path.write_text("record_id,date,town,kg\n" + "".join(f"{i},2026-01-01,T{i % 7},{i}\n" for i in range(12_000)))
    made, wrong = [], []

    def client():
        own = Store("sqlite:///evertrain.db", tmp_path, clock=ManualClock())
        try:
            made.append(datasets.ingest(own, "harvests", SPEC, path))
        except Exception as error:  # noqa: BLE001 - every error is the finding
            wrong.append(error)
        own.close()

    threads = [threading.Thread(target=client) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not wrong
    assert sorted(one.added for one in made) == [0] * 9 + [12_000]
    assert {one.version for one in made} == {1}
    assert datasets.frame_at(store, "harvests").height == 12_000


def test_two_rows_of_one_key_in_one_file_refuse_it_by_line(tmp_path, store):
    path = tmp_path / "rows.csv"
    path.write_text("record_id,date,town,kg\n1,2026-01-01,Pilar,1\n2,2026-01-01,Pilar,1\n1,2026-01-01,Pilar,2\n")

    with pytest.raises(DataError, match=r"rows\.csv line 4 has the key \[1\] of line 2"):
        datasets.ingest(store, "harvests", SPEC, path)
    with pytest.raises(NotFound, match="holds no rows yet"):
        datasets.frame_at(store, "harvests")


def test_without_a_key_rows_are_their_content_and_equal_rows_are_counted(store):
    rows = pl.DataFrame({"date": ["a", "a", "b"], "sales": [1, 1, 2]})
    first = datasets.ingest(store, "sales", Dataset(), rows)
    again = datasets.ingest(store, "sales", Dataset(), rows)
    more = datasets.ingest(store, "sales", Dataset(), pl.concat([rows, rows[:1]]))

    assert (first.added, again.added, again.unchanged, more.added, more.unchanged) == (3, 0, 3, 1, 3)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (harvest((None, "2026-01-01", "Pilar", 1.0)), "row 1: the key column 'record_id' is empty"),
        (harvest(*FIRST).drop("kg"), "column 'kg' of harvests is missing; the batch has record_id, date, town"),
        (
            harvest(*FIRST).with_columns(pl.lit("much").alias("kg")),
            "column 'kg' of harvests holds number, the batch has text",
        ),
        ([1, 2], "the batch is list; a pandas or Polars data frame is needed"),
    ],
)
def test_what_cannot_be_used_refuses_the_whole_batch(filled, rows, message):
    """S4-03: the error names what is wrong, and nothing was kept."""
    with pytest.raises(DataError, match=message):
        datasets.ingest(filled, "harvests", SPEC, rows)
    assert contents(filled) == contents(filled, 1)


def test_a_column_may_be_added_and_an_integer_may_become_a_number(store):
    datasets.ingest(store, "s", Dataset(key=("id",)), pl.DataFrame({"id": [1, 2], "n": [5, 6]}))
    wider = datasets.ingest(store, "s", Dataset(key=("id",)), pl.DataFrame({"id": [2], "n": [6.5], "note": ["x"]}))

    assert wider.updated == 1
    assert datasets.frame_at(store, "s").sort("id").rows() == [(1, 5.0, None), (2, 6.5, "x")]
    again = datasets.ingest(store, "s", Dataset(key=("id",)), pl.DataFrame({"id": [2], "n": [7], "note": ["x"]}))
    assert (again.updated, datasets.frame_at(store, "s").sort("id").rows()[1]) == (1, (2, 7.0, "x"))


def test_edit_and_delete_are_batches_too(filled):
    edited = datasets.edit(filled, "harvests", [{"record_id": 1, "town": "Orani"}], actor="ana")
    removed = datasets.delete(filled, "harvests", [{"record_id": 3}, {"record_id": 77}])

    assert (edited.kind, edited.updated) == ("edit", 1)
    assert (removed.kind, removed.removed, removed.unchanged) == ("delete", 1, 1)
    assert contents(filled) == {1: ("Orani", 10.0), 2: ("Pilar", 20.0)}
    with pytest.raises(NotFound, match=r"no row \[9\]"):
        datasets.edit(filled, "harvests", [{"record_id": 9, "town": "Orani"}])
    with pytest.raises(DataError, match="'kilo' is no column of harvests"):
        datasets.edit(filled, "harvests", [{"record_id": 1, "kilo": 1}])
    with pytest.raises(DataError, match="kg is 'much'; allowed: number"):
        datasets.edit(filled, "harvests", [{"record_id": 1, "kg": "much"}])


def test_undo_reverses_what_no_later_batch_touched_and_names_the_rest(filled):
    wrong = datasets.ingest(
        filled,
        "harvests",
        SPEC,
        harvest((1, "2026-01-01", "X", 0.0), (2, "2026-01-02", "X", 0.0), (9, "2026-01-09", "X", 0.0)),
    )
    datasets.edit(filled, "harvests", [{"record_id": 2, "kg": 7.0}])

    undone = datasets.undo(filled, "harvests", wrong.number)

    assert undone.left == ("[2]",)
    assert (undone.updated, undone.removed, undone.added) == (1, 1, 0)
    assert contents(filled) == {1: ("Hermosa", 10.0), 2: ("X", 7.0), 3: ("Pilar", 30.0)}
    with pytest.raises(Conflict, match="changed again by a later batch"):
        datasets.undo(filled, "harvests", wrong.number)


def test_a_token_answers_a_retry_with_the_first_batch_and_refuses_another_body(filled):
    """P-09: the same request again is the same batch; another body under its token is refused."""
    rows = harvest((5, "2026-01-05", "Pilar", 5.0))
    first = datasets.ingest(filled, "harvests", SPEC, rows, token="t1")
    again = datasets.ingest(filled, "harvests", SPEC, rows, token="t1")

    assert (again.number, again.again) == (first.number, True)
    with pytest.raises(Conflict, match="was used for batch"):
        datasets.ingest(filled, "harvests", SPEC, harvest((6, "2026-01-05", "Pilar", 5.0)), token="t1")


def test_a_writer_that_died_between_chunks_leaves_nothing_behind(filled, monkeypatch):
    """P-03: a large batch is seen whole or not at all, and its successor is not disturbed by what it left."""
    monkeypatch.setattr(datasets, "CHUNK", 2)
    real, calls = datasets.table.merge, []

    def dying(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args)

    big = harvest(*[(n, "2026-02-01", "New", 1.0) for n in range(1, 9)])
    monkeypatch.setattr(datasets.table, "merge", dying)
    with pytest.raises(KeyboardInterrupt):
        datasets.ingest(filled, "harvests", SPEC, big)
    monkeypatch.setattr(datasets.table, "merge", real)

    assert contents(filled) == {1: ("Hermosa", 10.0), 2: ("Pilar", 20.0), 3: ("Pilar", 30.0)}
    made = datasets.ingest(filled, "harvests", SPEC, big)
    assert (made.added, made.updated, made.version) == (5, 3, 2)
    assert contents(filled, 1) == {1: ("Hermosa", 10.0), 2: ("Pilar", 20.0), 3: ("Pilar", 30.0)}


def test_the_turn_of_a_writer_that_is_gone_passes_on_and_it_cannot_come_back(filled, clock):
    """P-06: one that slept past its turn writes nothing any more."""
    datasets._take_turn(filled, "harvests", "sleeper", lambda tx: None)
    clock.advance(seconds=datasets._TURN_S + 1)
    datasets.ingest(filled, "harvests", SPEC, harvest((5, "2026-01-05", "Pilar", 5.0)))

    with pytest.raises(datasets.StoreBusy, match="lost its turn"), filled.write() as tx:
        datasets._held(tx, "harvests", "sleeper")


def test_large_edits_deletions_and_undos_are_written_in_chunks_and_published_once(filled, monkeypatch):
    """P-03: no write holds the lock for longer than one chunk takes; a reader sees all of a batch or nothing."""
    held = []

    def counted(real):
        def call(*given):
            held.append(len(given[-1]))
            return real(*given)

        return call

    big = harvest(*[(n, "2026-02-01", "New", 1.0) for n in range(1, 10)])
    made = datasets.ingest(filled, "harvests", SPEC, big)
    monkeypatch.setattr(datasets, "CHUNK", 2)
    for name in ("merge", "remove", "undo"):
        monkeypatch.setattr(datasets.table, name, counted(getattr(datasets.table, name)))

    edited = datasets.edit(filled, "harvests", [{"record_id": n, "kg": 2.0} for n in range(1, 10)])
    back = datasets.undo(filled, "harvests", edited.number)
    assert (edited.updated, edited.version, back.updated, back.version) == (9, 3, 9, 4)
    assert contents(filled, 4) == contents(filled, 2)
    with pytest.raises(Conflict, match="changed again by a later batch"):
        datasets.undo(filled, "harvests", made.number)
    gone = datasets.delete(filled, "harvests", [{"record_id": n} for n in range(1, 10)])
    assert (gone.removed, gone.version, contents(filled)) == (9, 5, {})
    assert held == [2, 2, 2, 2, 1] * 4


class Versions(RuleBasedStateMachine):
    """Batches in any order: every version reads as a dictionary that did the same would."""

    def __init__(self):
        super().__init__()
        import tempfile
        from pathlib import Path

        self.folder = tempfile.TemporaryDirectory()
        self.store = Store("sqlite:///evertrain.db", Path(self.folder.name), clock=ManualClock())
        migrate(self.store)
        self.states = [{}]
        self.numbers = []

    @rule(rows=st.dictionaries(st.integers(0, 6), st.integers(0, 2), min_size=1, max_size=4))
    def ingest(self, rows):
        frame = pl.DataFrame({"record_id": list(rows), "kg": [float(v) for v in rows.values()]})
        made = datasets.ingest(self.store, "d", Dataset(key=("record_id",)), frame)
        self.follow(made, {**self.states[-1], **rows})

    @precondition(lambda self: self.numbers)
    @rule(keys=st.lists(st.integers(0, 6), min_size=1, max_size=3))
    def delete(self, keys):
        made = datasets.delete(self.store, "d", [{"record_id": key} for key in keys])
        self.follow(made, {k: v for k, v in self.states[-1].items() if k not in keys})

    @precondition(lambda self: len(self.states) > 1)
    @rule(data=st.data())
    def undo(self, data):
        version = data.draw(st.integers(1, len(self.states) - 1))
        before, after = self.states[version - 1], self.states[version]
        touched = [k for k in {*before, *after} if before.get(k) != after.get(k)]
        free = [k for k in touched if all(state.get(k) == after.get(k) for state in self.states[version:])]
        try:
            made = datasets.undo(self.store, "d", self.numbers[version - 1])
        except Conflict:
            assert not free
            return
        now = dict(self.states[-1])
        for key in free:
            now.pop(key, None)
            if key in before:
                now[key] = before[key]
        self.follow(made, now)

    def follow(self, made, now):
        if now != self.states[-1]:
            self.states.append(now)
            self.numbers.append(made.number)
        assert made.version == len(self.states) - 1

    @invariant()
    def every_version_reads_as_it_was(self):
        if self.numbers:
            for version, state in enumerate(self.states):
                rows = datasets.frame_at(self.store, "d", version).to_dicts()
                assert {row["record_id"]: row["kg"] for row in rows} == state
            with self.store.read() as tx:
                found = datasets.table.by_name(tx, "d")
                assert found.rows == len(self.states[-1])

    def teardown(self):
        self.store.close()
        self.folder.cleanup()


TestVersions = Versions.TestCase
TestVersions.settings = settings(max_examples=40, stateful_step_count=12, deadline=None)


def test_versions_older_than_what_is_kept_are_forgotten_and_the_newest_stays_whole(filled, clock):
    from datetime import timedelta

    spec = Dataset(key=("record_id",), keep_history=timedelta(days=90))
    wrong = datasets.edit(filled, "harvests", [{"record_id": 1, "kg": 1.0}])
    clock.advance(days=100)
    datasets.edit(filled, "harvests", [{"record_id": 1, "kg": 2.0}])

    assert datasets.compact(filled, "harvests", spec, newest=1) == 0  # a model has not taken in version 2 yet
    assert datasets.compact(filled, "harvests", spec, newest=3) == 1
    assert contents(filled) == {1: ("Hermosa", 2.0), 2: ("Pilar", 20.0), 3: ("Pilar", 30.0)}
    assert contents(filled, 2)[1] == ("Hermosa", 1.0)
    with pytest.raises(NotFound, match="versions 2 to 3 can be read"):
        contents(filled, 1)
    with pytest.raises(Conflict, match="older than the history that harvests keeps"):
        datasets.undo(filled, "harvests", wrong.number)


def test_an_edit_never_sees_what_a_dead_writer_left(filled, clock):
    """P-03: rows under a reserved version are swept before anything is read of them."""
    with filled.write() as tx:
        dataset = datasets.table.by_name(tx, "harvests")
        datasets.table.take(tx, dataset, "dead", 30)
        datasets.table.merge(
            tx, dataset, 2, [("[1]", 1, "2026-01-01", "Nowhere", 666.0), ("[9]", 9, "2026-01-01", "X", 1.0)]
        )
    clock.advance(seconds=31)

    with pytest.raises(NotFound):
        datasets.edit(filled, "harvests", [{"record_id": 9, "kg": 2.0}])
    datasets.edit(filled, "harvests", [{"record_id": 1, "town": "Orani"}])

    assert contents(filled) == {1: ("Orani", 10.0), 2: ("Pilar", 20.0), 3: ("Pilar", 30.0)}


def test_first_batches_at_once_in_other_orders_of_columns_keep_each_value_in_its_column(tmp_path, store):
    spec, wrong = Dataset(key=("id",)), []

    def client(names, start):
        own = Store("sqlite:///evertrain.db", tmp_path, clock=ManualClock())
        number = 9_000
        values = {"id": range(start, start + number), "x": [1.0] * number, "y": [2.0] * number}
        try:
            datasets.ingest(own, "d", spec, pl.DataFrame({name: values[name] for name in names}))
        except Exception as error:  # noqa: BLE001 - every error is the finding
            wrong.append(error)
        own.close()

    threads = [threading.Thread(target=client, args=one) for one in ((["id", "x", "y"], 0), (["y", "x", "id"], 9_000))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not wrong
    assert datasets.frame_at(store, "d").select("x", "y").unique().rows() == [(1.0, 2.0)]
    assert datasets.frame_at(store, "d").height == 18_000


def test_columns_that_grew_meanwhile_are_not_narrowed_again(store, monkeypatch):
    spec = Dataset(key=("id",))
    datasets.ingest(store, "d", spec, pl.DataFrame({"id": [1], "x": [1]}))
    real, other = datasets._prepared, []

    def late(*args):
        if not other:
            other.append(1)
            datasets.ingest(store, "d", spec, pl.DataFrame({"id": [2], "x": [1.5], "note": ["new"]}))
        return real(*args)

    monkeypatch.setattr(datasets, "_prepared", late)
    with pytest.raises(DataError, match="column 'note' of d is missing"):
        datasets.ingest(store, "d", spec, pl.DataFrame({"id": [3], "x": [7]}))
    assert sorted(datasets.frame_at(store, "d").rows()) == [(1, 1.0, None), (2, 1.5, "new")]


def test_whole_numbers_that_pandas_made_floats_name_the_same_rows(filled):
    floats = harvest((1, "2026-01-01", "Hermosa", 11.0)).with_columns(pl.col("record_id").cast(pl.Float64))
    made = datasets.ingest(filled, "harvests", SPEC, floats)

    assert (made.added, made.updated) == (0, 1)
    assert datasets.edit(filled, "harvests", [{"record_id": 2, "kg": 5}]).updated == 1


def test_another_key_and_an_empty_beginning_are_refused(filled, store):
    with pytest.raises(DataError, match=r"was begun with key=\['record_id'\] and declares key=\['town'\] now"):
        datasets.ingest(filled, "harvests", Dataset(key=("town",)), harvest(*FIRST))
    with pytest.raises(DataError, match="the first rows show what the columns are"):
        datasets.ingest(store, "fresh", Dataset(key=("id",)), pl.DataFrame({"id": [], "x": []}))


def test_a_column_without_values_shows_no_type_and_gets_it_from_the_first_that_comes(store):
    spec = Dataset(key=("id",))
    datasets.ingest(store, "d", spec, pl.DataFrame({"id": [1], "x": [None]}))
    datasets.ingest(store, "d", spec, pl.DataFrame({"id": [2], "x": [2.5]}))
    assert datasets.frame_at(store, "d").sort("id").rows() == [(1, None), (2, 2.5)]


def test_without_a_key_a_wider_column_or_a_new_empty_one_doubles_nothing(store):
    datasets.ingest(store, "d", Dataset(), pl.DataFrame({"a": [1, 2], "b": ["x", "y"]}))
    again = datasets.ingest(store, "d", Dataset(), pl.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"], "c": [None, None]}))
    assert (again.added, again.unchanged) == (0, 2)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [("town", "a\0b", "holds a NUL character|allowed: text"), ("kg", float("inf"), "holds infinity|allowed: number")],
)
def test_values_that_no_key_could_hold_are_refused(filled, column, value, message):
    row = {"record_id": 1, "date": "2026-01-01", "town": "Pilar", "kg": 1.0} | {column: value}
    with pytest.raises(DataError, match=message):
        datasets.ingest(filled, "harvests", SPEC, pl.DataFrame([row]).with_columns(pl.col("date").str.to_date()))
    with pytest.raises(DataError, match=message):
        datasets.edit(filled, "harvests", [{"record_id": 1, column: value}])


@pytest.mark.parametrize("value", [2**70, "\ud800", 10**400])
def test_values_beyond_what_can_be_stored_are_told(filled, value):
    column = "town" if isinstance(value, str) else "kg" if value > 2**200 else "record_id"
    with pytest.raises(DataError):
        datasets.edit(filled, "harvests", [{"record_id": 1, column: value}])


def test_batches_of_before_survive_the_migration_that_allows_erasing(tmp_path, monkeypatch):
    """P-37: a store of the release before keeps its batches, which may name each other."""
    from evertrain.store import migrations

    before = migrations.MIGRATIONS[: migrations.MIGRATIONS.index(migrations._allow_erase)]
    own = Store("sqlite:///evertrain.db", tmp_path, clock=ManualClock())
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "MIGRATIONS", before)
        migrate(own)
    with own.write() as tx:
        tx.run("INSERT INTO datasets(name, key, columns, version, created_at) VALUES ('d', '[\"id\"]', '{}', 2, '')")
        for undoes, token in ((None, "a"), (1, None)):
            tx.run(
                "INSERT INTO batches(dataset_id, version, kind, source, actor, at, added, updated, removed, unchanged,"
                " set_aside, digest, undoes, token) VALUES (1, 1, 'edit', 's', 'a', '', 1, 0, 0, 0, 0, 'd', :undoes, :token)",
                undoes=undoes,
                token=token,
            )
    migrate(own)

    with own.write() as tx:
        assert [tuple(row) for row in tx.rows("SELECT id, undoes, token FROM batches")] == [
            (1, None, "a"),
            (2, 1, None),
        ]
        assert tx.rows("PRAGMA foreign_key_check") == []
        tx.run("UPDATE batches SET kind = 'erase' WHERE id = 1")
        with pytest.raises(IntegrityError):
            tx.run("UPDATE batches SET undoes = 9 WHERE id = 1")
    own.close()


# --- bad rows ---------------------------------------------------------------------------------------------------


def as_csv(folder, frame):
    frame.write_csv(folder / "batch.csv")
    return folder / "batch.csv"


def as_parquet(folder, frame):
    frame.write_parquet(folder / "batch.parquet")
    return folder / "batch.parquet"


FORMS = {"csv": as_csv, "parquet": as_parquet, "frame": lambda folder, frame: frame}


def texts(number, bad):
    """A batch whose kg are texts, some of them no numbers, and one row without a key."""
    return pl.DataFrame(
        {
            "record_id": [None, *range(2, number + 1)],
            "date": ["2026-02-01"] * number,
            "town": ["Pilar"] * number,
            "kg": ["much" if n in bad else f"{n}.5" for n in range(1, number + 1)],
        }
    )


@pytest.mark.parametrize("form", FORMS)
def test_bad_rows_refuse_a_batch_of_any_form_and_every_one_is_reported(filled, tmp_path, form):
    """S4-03: the first hundred are fields of the error, all of them are listed."""
    listed = []
    data = FORMS[form](tmp_path, texts(400, set(range(100, 260))))
    with pytest.raises(DataError, match=r"161 of 400 rows cannot be used, 0 may be set aside: .* is empty") as caught:
        datasets.ingest(filled, "harvests", SPEC, data, report=lambda bad: listed.append(bad) or "there.csv")

    first = 2 if form == "csv" else 1
    error = caught.value
    assert (error.bad_count, len(error.bad_rows), error.report) == (161, 100, "there.csv")
    assert error.bad_rows[0] == BadRow(first, "record_id", None, "the key column 'record_id' is empty")
    assert (error.bad_rows[1].line, error.bad_rows[1].column, error.bad_rows[1].value) == (99 + first, "kg", "much")
    assert error.bad_rows[1].problem in ("not a number", "not number")
    assert listed[0].height == 161
    assert "there.csv" in str(error)
    assert contents(filled) == contents(filled, 1)


@pytest.mark.parametrize("form", FORMS)
def test_few_bad_rows_of_any_form_are_set_aside_where_that_is_declared(filled, tmp_path, form):
    spec = Dataset(key=("record_id",), time="date", on_bad_rows="set_aside")
    data = FORMS[form](tmp_path, texts(400, {7, 8}))
    made = datasets.ingest(filled, "harvests", spec, data, report=lambda bad: f"{bad.height} listed")

    assert (made.set_aside, made.added + made.updated, made.report) == (3, 397, "3 listed")
    assert contents(filled)[9] == ("Pilar", 9.5)
    assert 7 not in contents(filled)
    eleven = FORMS[form](tmp_path, texts(400, set(range(100, 110))))
    with pytest.raises(DataError, match="11 of 400 rows cannot be used, 10 may be set aside"):
        datasets.ingest(filled, "harvests", spec, eleven)


def test_two_rows_of_one_key_are_never_set_aside_and_all_such_are_named(filled):
    spec = Dataset(key=("record_id",), time="date", on_bad_rows="set_aside")
    twice = harvest((1, "2026-01-01", "A", 1.0), (1, "2026-01-01", "B", 1.0), (1, "2026-01-01", "C", 1.0))
    with pytest.raises(DataError, match=r"row 2 has the key \[1\] of row 1") as caught:
        datasets.ingest(filled, "harvests", spec, twice)
    assert [(one.line, one.value, one.problem) for one in caught.value.bad_rows] == [
        (2, "[1]", "other values than row 1"), (3, "[1]", "other values than row 1")
    ]  # fmt: skip


def test_another_type_of_a_whole_column_names_its_rows_too(filled):
    with pytest.raises(DataError, match="holds number, the batch has text") as caught:
        datasets.ingest(filled, "harvests", SPEC, harvest(*FIRST).with_columns(pl.lit("much").alias("kg")))
    assert caught.value.bad_rows[0] == BadRow(1, "kg", "much", "not number")


def test_a_dataset_declares_how_its_files_write_numbers_and_days(tmp_path, store):
    spec = Dataset(key=("id",), decimal=",", dates="dmy")
    path = tmp_path / "rows.csv"
    path.write_text("id;at;kg\n1;01/02/2024;3,500\n")
    datasets.ingest(store, "d", spec, path)
    datasets.ingest(store, "d", spec, pl.DataFrame({"id": [2], "at": ["03/02/2024"], "kg": ["1.234,5"]}))

    rows = datasets.frame_at(store, "d").with_columns(pl.col("at").cast(pl.String)).rows()
    assert rows == [(1, "2024-02-01", 3.5), (2, "2024-02-03", 1234.5)]


# --- retries and width ------------------------------------------------------------------------------------------


def test_a_retry_after_somebody_widened_the_columns_answers_the_first_batch(store):
    """P-09: what the dataset looks like by now does not change which rows were sent."""
    spec = Dataset(key=("id",))
    rows = pl.DataFrame({"id": [1, 2], "n": [5, 6]})
    first = datasets.ingest(store, "d", spec, rows, token="t")
    datasets.ingest(store, "d", spec, pl.DataFrame({"id": [3], "n": [7.5], "note": ["x"]}))

    again = datasets.ingest(store, "d", spec, rows[::-1], token="t")
    assert (again.number, again.again) == (first.number, True)
    with pytest.raises(Conflict, match="was used for batch"):
        datasets.ingest(store, "d", spec, rows.with_columns(n=pl.col("n") + 1), token="t")


def test_as_many_columns_as_a_table_can_have_are_kept_and_one_more_is_refused(store):
    wide = pl.DataFrame({"id": [1, 2], **{f"c{n}": [n, n] for n in range(1989)}})
    datasets.ingest(store, "d", Dataset(key=("id",)), wide)
    assert datasets.ingest(store, "d", Dataset(key=("id",)), wide.with_columns(c7=pl.lit(0))).updated == 2
    with pytest.raises(DataError, match="d would have 1,991 columns with this batch; at most 1,990 are kept"):
        datasets.ingest(store, "d", Dataset(key=("id",)), wide.with_columns(more=pl.lit(0)))


def test_indexes_by_which_models_find_their_rows_are_made_while_there_are_none(store):
    """Made later over a million rows, such an index would hold the write lock for as long as that takes."""
    datasets.ingest(store, "d", Dataset(key=("id",)), pl.DataFrame({"id": [1], "a": [1]}), told=[("a",), ("missing",)])
    with store.read() as tx:
        found = tx.rows("SELECT sql FROM sqlite_master WHERE type = 'index' AND sql LIKE '%(c2, since, until)'")
    assert len(found) == 1
