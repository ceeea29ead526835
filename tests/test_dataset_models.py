"""Models on datasets: a batch makes exactly the partitions due that it touches, and the rollups above them."""

from __future__ import annotations

import polars as pl
import pytest

from evertrain import CsvFile, Custom, on_data_change
from evertrain.control import back
from evertrain.errors import Conflict, NotFound
from evertrain.partitions import decode


def rows(pairs, *, start=0, each=20, slope=2.0):
    found = []
    for number, (fruit, town) in enumerate(pairs):
        for i in range(each):
            found.append({"id": start + number * each + i, "fruit": fruit, "town": town, "x": i + 0.5, "y": slope * i})
    return pl.DataFrame(found)


PAIRS = [(fruit, town) for fruit in ("Avocado", "Banana", "Mango") for town in ("Hermosa", "Pilar")]


@pytest.fixture(params=["inline", "children"])
def farm(request, make, folder):
    project = make(executor=request.param)
    harvests = project.dataset("harvests", key="id")
    project.model(
        "kg", harvests, target="y", features=["x"], trainer=Custom("toys:Line"), partition_by=["fruit", "town"],
        rollups=[["fruit"]], min_samples=5, triggers=[on_data_change("0s")],
    )  # fmt: skip
    harvests.ingest(rows(PAIRS))
    project.refresh()
    return project, harvests


def trained(project, run=0):
    """The partitions that the newest run trained, and what became of them."""
    with project.opened.store.read() as tx:
        number = tx.value("SELECT max(id) FROM runs")
        found = tx.rows(
            "SELECT p.key, i.state FROM items i JOIN partitions p ON p.id = i.partition_id WHERE i.run_id = :run",
            run=number,
        )
    return {tuple(decode(row.key).values()): row.state for row in found}


def runs(project):
    return len(project.history(limit=100))


def test_the_first_batch_brings_every_partition_and_rollup_to_life(farm):
    project, _ = farm
    assert trained(project) == {
        **dict.fromkeys(PAIRS, "promoted"), **dict.fromkeys([("Avocado",), ("Banana",), ("Mango",)], "promoted"),
    }  # fmt: skip
    assert project.predictor("kg").predict([{"fruit": "Avocado", "town": "Pilar", "x": 1.5}]).tolist() == pytest.approx(
        [2.0]
    )


def test_two_edits_retrain_two_leaves_and_their_two_rollups_and_nothing_else(farm):
    """S0-25, S0-01, S0-03, S0-04: Avocado in Hermosa and Banana in Pilar change: exactly four models."""
    project, harvests = farm
    harvests.edit([{"id": 0, "y": 1.0}, {"id": 60, "y": 1.0}])
    project.refresh()

    assert set(trained(project)) == {("Avocado", "Hermosa"), ("Banana", "Pilar"), ("Avocado",), ("Banana",)}
    assert runs(project) == 2


def test_an_edit_that_moves_a_record_makes_both_pairs_due(farm):
    """S0-17: the pair that the record left, the pair it came to, and the rollups above both."""
    project, harvests = farm
    harvests.edit({"id": 0, "fruit": "Mango", "town": "Pilar"})
    project.refresh()

    assert set(trained(project)) == {("Avocado", "Hermosa"), ("Avocado",), ("Mango", "Pilar"), ("Mango",)}


def test_deleting_knows_the_keys_of_what_is_gone(farm):
    """S0-10, S0-16: deletions still know their pairs; a pair without rows is retired."""
    project, harvests = farm
    harvests.delete([{"id": 20 + i} for i in range(20)])  # all of Avocado in Pilar
    project.refresh()

    assert set(trained(project)) == {("Avocado",)}
    with project.opened.store.read() as tx:
        gone = tx.rows("SELECT key FROM partitions WHERE state = 'retired'")
    assert [tuple(decode(row.key).values()) for row in gone] == [("Avocado", "Pilar")]


def test_a_batch_that_changes_nothing_trains_nothing(farm):
    project, harvests = farm
    again = harvests.ingest(rows(PAIRS))
    project.refresh()

    assert (again.unchanged, runs(project)) == (120, 1)


def test_a_new_pair_is_due_from_birth(farm):
    project, harvests = farm
    harvests.ingest(rows([("Mango", "Orani")], start=1000))
    project.refresh()

    assert set(trained(project)) == {("Mango", "Orani"), ("Mango",)}


def test_a_thousand_edits_between_two_looks_are_one_retraining(farm):
    """P-08: each edit is a version; the look takes them in together."""
    project, harvests = farm
    for number in range(200):
        harvests.edit({"id": 0, "y": float(number)})
    project.refresh()

    assert runs(project) == 2
    assert set(trained(project)) == {("Avocado", "Hermosa"), ("Avocado",)}


def test_undo_makes_clean_retraining_due(farm):
    project, harvests = farm
    wrong = harvests.ingest(rows([("Avocado", "Hermosa")], slope=-50.0))
    project.refresh()
    harvests.undo(wrong.number)
    project.refresh()

    assert set(trained(project)) == {("Avocado", "Hermosa"), ("Avocado",)}
    assert harvests.at().equals(harvests.at(1)) or harvests.at().sort("id").equals(harvests.at(1).sort("id"))


def serving(project, model="kg"):
    """The version that serves each partition."""
    with project.opened.store.read() as tx:
        found = tx.rows(
            "SELECT p.key, v.major || '.' || v.minor || '.' || v.patch FROM partitions p JOIN fits f"
            " ON f.id = p.champion_id JOIN versions v ON v.id = f.version_id JOIN models m ON m.id = p.model_id"
            " WHERE m.name = :model AND p.state = 'live'",
            model=model,
        )
    return {tuple(decode(row[0]).values()): row[1] for row in found}


def test_undo_names_the_fits_trained_on_the_batch_rolls_those_back_and_trains_clean_ones(farm):
    """P-36: champions that learnt from a wrong batch give way at once to those that did not."""
    project, harvests = farm
    wrong = harvests.ingest(rows([("Avocado", "Hermosa")], slope=2.1))
    project.refresh()
    touched = [("Avocado", "Hermosa"), ("Avocado",)]
    before = serving(project)
    assert {before[key] for key in touched} == {"1.1.0"}

    undone = harvests.undo(wrong.number)

    named = {(one.model, one.version, one.partition, one.back) for one in undone.fits}
    assert named == {("kg", "1.1.0", "Avocado, Hermosa", "1.0.0"), ("kg", "1.1.0", "Avocado, Overall", "1.0.0")}
    assert undone.rolled_back == undone.fits
    assert serving(project) == before | dict.fromkeys(touched, "1.0.0")
    with project.opened.store.read() as tx:
        told = tx.row("SELECT * FROM events WHERE kind = 'fits.questioned'")
        assert '"versions":["1.1.0"]' in told.data
    project.refresh()
    assert serving(project) == before | dict.fromkeys(touched, "1.2.0")
    assert set(trained(project)) == set(touched)


def test_undo_leaves_a_champion_that_saw_another_batch_or_has_none_to_give_way_to(make, folder):
    project = make()
    harvests = project.dataset("harvests", key="id")
    declare(project, rollups=None)
    first = harvests.ingest(rows(PAIRS))
    project.refresh()
    harvests.ingest(rows([("Mango", "Pilar")], start=500, slope=3.0))
    project.refresh()

    undone = harvests.undo(first.number)

    stays = {one.partition: one.stays for one in undone.fits if one.serving}
    assert stays == {
        **{f"{fruit}, {town}": "there is no earlier fit without that batch" for fruit, town in PAIRS},
        "Overall": "there is no earlier fit without that batch",
    }
    assert undone.rolled_back == ()
    assert serving(project)[("Mango", "Pilar")] == "1.1.0"


def test_a_fit_whose_rows_were_changed_again_before_it_was_trained_is_not_named(orchard):
    """Only what read the batch's rows was trained on them: a correction of all of them came before the training."""
    project, harvests = orchard
    wrong = harvests.edit([{"id": 0, "y": 1.0}, {"id": 60, "y": 1.0}])  # Avocado in Hermosa, Banana in Pilar
    harvests.edit({"id": 0, "y": 2.0})
    project.refresh()

    undone = harvests.undo(wrong.number)

    assert undone.left == ("[0]",)
    assert {one.partition for one in undone.fits} == {"Banana, Pilar", "Banana, Overall"}
    assert {key for key, version in serving(project).items() if version == "1.1.0"} == {
        ("Avocado", "Hermosa"), ("Avocado",)
    }  # fmt: skip


def test_a_pinned_champion_and_a_damaged_way_back_are_told(orchard):
    project, harvests = orchard
    with project.opened.store.read() as tx:
        digests = [row[0] for row in tx.rows("SELECT digest FROM artifacts")]
    wrong = harvests.edit([{"id": 0, "y": 1.0}, {"id": 60, "y": 1.0}])
    project.refresh()
    back.pin(project.opened, "kg", pinned=True, partitions=[{"fruit": "Avocado", "town": "Hermosa"}], actor="ana")
    for digest in digests:
        project.opened.artifacts.path(digest).write_bytes(b"damaged")

    undone = harvests.undo(wrong.number)

    stays = {one.partition: one.stays for one in undone.fits if one.serving}
    assert stays["Avocado, Hermosa"] == "it is pinned"
    assert stays["Banana, Pilar"] == "the earlier fit is damaged"
    assert undone.rolled_back == ()
    project.refresh()
    assert serving(project)[("Banana", "Pilar")] == "1.2.0"


def test_selective_and_full_retraining_give_the_same_bits(farm):
    """S0-21: same parameters, same rows, same seed: the artifact of a partition is the same in either run."""
    project, harvests = farm
    harvests.edit({"id": 0, "y": 5.0})
    project.refresh()
    with project.opened.store.read() as tx:
        first = {r.key: r.digest for r in tx.rows(
            "SELECT p.key, f.digest FROM partitions p JOIN fits f ON f.id = p.champion_id")}  # fmt: skip
    project.trigger("kg", force=True)
    with project.opened.store.read() as tx:
        second = {r.key: r.digest for r in tx.rows(
            "SELECT p.key, f.digest FROM partitions p JOIN fits f ON f.id = p.champion_id")}  # fmt: skip
    assert first == second
    assert len(first) == 9


def test_a_column_that_the_model_needs_and_the_dataset_lacks_is_told(make, folder):
    project = make()
    sales = project.dataset("sales", key="id")
    project.model(
        "s", sales, target="amount", trainer=Custom("toys:Line"), min_samples=5, triggers=[on_data_change("0s")]
    )
    sales.ingest(pl.DataFrame({"id": [1, 2], "x": [1.0, 2.0]}))
    project.refresh()

    with project.opened.store.read() as tx:
        reason = tx.value("SELECT reason FROM decisions ORDER BY id DESC LIMIT 1")
    assert "column 'amount', which s needs, is missing" in reason


def test_a_dataset_without_rows_says_how_to_bring_some(make, folder):
    project = make()
    sales = project.dataset("sales", key="id")
    project.model("s", sales, target="y", trainer=Custom("toys:Line"))
    project.refresh()

    with project.opened.store.read() as tx:
        problem = tx.value("SELECT problem FROM sources WHERE name = 'sales'")
    assert problem == "dataset sales holds no rows yet; `evertrain ingest sales FILE.csv` brings the first"


def test_a_champion_is_asked_how_it_does_on_newer_rows_of_its_dataset(make, folder):
    """S2-09: labelled rows that came after the training show that the model fell behind."""
    from evertrain import on_score_drop

    project = make()
    sales = project.dataset("sales", key="id")
    project.model(
        "s", sales, target="y", features=["x"], trainer=Custom("toys:Line"), min_samples=5,
        triggers=[on_score_drop("5%", min_rows=30)],
    )  # fmt: skip
    sales.ingest(rows([("Mango", "Pilar")], each=60).drop("fruit", "town"))
    project.refresh()
    sales.ingest(rows([("Mango", "Pilar")], each=40, start=500, slope=-3.0).drop("fruit", "town"))
    project.refresh()  # takes the rows in
    project.refresh()  # the next regular check

    with project.opened.store.read() as tx:
        reason = tx.value("SELECT reason FROM decisions WHERE cause = 'score_drop' AND fired = 1")
    assert reason is not None
    assert "fell from" in reason
    assert "on 40 labelled rows newer than the training" in reason


def test_who_sends_records_reads_which_models_are_being_updated(farm):
    """S0-23, S0-24: up to three of each dimension by name, sorted; beyond that all are counted."""
    from evertrain.control import data

    project, harvests = farm
    batch = harvests.edit([{"id": 0, "y": 1.0}, {"id": 60, "y": 1.0}])
    assert data.announcements(project.opened, batch) == [
        "Records updated. Models for Avocado, Banana in Hermosa, Pilar and Overall are being updated in the background."
    ]
    same = harvests.edit({"id": 0, "y": 1.0})
    assert data.announcements(project.opened, same) == []


def test_an_application_that_keeps_its_own_records_says_what_changed(make, folder):
    """S0-02: pairs go in, those pairs and the rollups above them are trained."""
    project = make()
    rows(PAIRS).write_csv(folder / "rows.csv")
    source = project.source("harvests", CsvFile("rows.csv"))
    project.model(
        "kg", source, target="y", features=["x"], trainer=Custom("toys:Line"), partition_by=["fruit", "town"],
        rollups=[["fruit"]], min_samples=5, triggers=[],
    )  # fmt: skip
    project.refresh()
    rows(PAIRS, slope=3.0).write_csv(folder / "rows.csv")

    done = project.changed("kg", [{"fruit": "Mango", "town": "Pilar"}], wait=True)

    assert done.counts == {"promoted": 2}
    assert done.announcement == (
        "Records updated. Models for Mango in Pilar and Overall are being updated in the background."
    )
    assert set(trained(project)) == {("Mango", "Pilar"), ("Mango",)}
    unknown = project.changed("kg", [{"fruit": "Durian", "town": "Pilar"}], wait=True)
    assert "none of these partitions is known yet" in unknown.reason


def test_a_pair_that_an_application_names_first_is_found_and_trained(make, folder):
    """S0-02: nothing else reads the source of this model, which has no trigger."""
    project = make()
    rows(PAIRS).write_csv(folder / "rows.csv")
    source = project.source("harvests", CsvFile("rows.csv"))
    project.model(
        "kg", source, target="y", features=["x"], trainer=Custom("toys:Line"), partition_by=["fruit", "town"],
        rollups=[["fruit"]], min_samples=5, triggers=[],
    )  # fmt: skip
    project.refresh()
    rows([*PAIRS, ("Durian", "Pilar")]).write_csv(folder / "rows.csv")

    project.changed("kg", {"fruit": "Durian", "town": "Pilar"})
    project.refresh()

    assert set(trained(project)) == {("Durian", "Pilar"), ("Durian",)}


def declare(project, **options):
    project.model(
        "kg", "harvests", **{"target": "y", "features": ["x"], "trainer": Custom("toys:Line"), "min_samples": 5,
        "partition_by": ["fruit", "town"], "rollups": [["fruit"]], "triggers": [on_data_change("0s")], **options},
    )  # fmt: skip


def live(project):
    with project.opened.store.read() as tx:
        found = tx.rows("SELECT key, rows, champion_id FROM partitions WHERE state = 'live'")
    return {tuple(decode(row.key).values()): row.rows for row in found if row.champion_id is not None}


@pytest.fixture
def orchard(make, folder):
    project = make()
    harvests = project.dataset("harvests", key="id")
    declare(project)
    harvests.ingest(rows(PAIRS))
    project.refresh()
    return project, harvests


def test_a_rollup_that_is_declared_later_is_trained_alone(orchard):
    project, _ = orchard
    declare(project, rollups=[["fruit"], []])
    project.refresh()

    assert trained(project) == {(): "promoted"}
    assert live(project)[()] == 120


def test_other_dimensions_take_the_place_of_the_old_ones(orchard):
    project, _ = orchard
    declare(project, partition_by=["town"], rollups=None)
    project.refresh()

    assert live(project) == {("Hermosa",): 60, ("Pilar",): 60, (): 120}


def test_what_was_only_observed_is_owed_once_training_is_allowed(orchard):
    project, harvests = orchard
    declare(project, auto="observe")
    harvests.edit({"id": 0, "y": 9.0})
    project.refresh()
    assert runs(project) == 1

    declare(project)
    project.refresh()

    assert set(trained(project)) == {("Avocado", "Hermosa"), ("Avocado",)}


def test_a_model_that_is_declared_on_a_filled_dataset_begins_at_once(orchard):
    project, _ = orchard
    project.model(
        "second",
        "harvests",
        target="x",
        trainer=Custom("toys:Line"),
        features=["y"],
        partition_by="town",
        min_samples=5,
    )
    project.refresh()

    assert project.history("second")[0]["outcomes"] == {"promoted": 3}
    assert runs(project) == 2  # and the first model has no news


def test_another_target_is_counted_by_its_own_values(orchard):
    project, harvests = orchard
    harvests.ingest(rows(PAIRS).with_columns(z=pl.when(pl.col("town") == "Pilar").then(1.5)))
    declare(project, target="z", features=["x"])
    project.refresh()

    assert set(live(project)) == {(fruit, "Pilar") for fruit in ("Avocado", "Banana", "Mango")} | {
        ("Avocado",), ("Banana",), ("Mango",)
    }  # fmt: skip


def test_a_dataset_and_a_file_live_in_one_project(orchard, folder):
    """A read of the file sweeps old copies of rows; a dataset has none."""
    project, harvests = orchard
    rows([("Mango", "Pilar")]).write_csv(folder / "rows.csv")
    project.source("file", CsvFile("rows.csv"))
    project.model("other", "file", target="y", features=["x"], trainer=Custom("toys:Line"), min_samples=5)
    project.refresh()
    harvests.edit({"id": 0, "y": 9.0})
    project.refresh()

    assert project.history("other")[0]["version"] == "1.0.0"
    assert project.history("kg")[0]["outcomes"] == {"promoted": 2}


def test_a_batch_of_items_without_news_takes_nothing_in(orchard):
    """Training by hand costs what is trained: the dataset is looked at anew only where a batch came."""
    project, _ = orchard
    with project.opened.store.read() as tx:
        before = tx.value("SELECT count(*) FROM events WHERE kind = 'source.read'")
    project.trigger("kg", {"fruit": "Mango", "town": "Pilar"}, force=True)

    with project.opened.store.read() as tx:
        assert tx.value("SELECT count(*) FROM events WHERE kind = 'source.read'") == before


# --- erasing ----------------------------------------------------------------------------------------------------


def left_of(folder, text):
    """The files of a project that hold a text, read as bytes."""
    found = [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]
    return [str(path.relative_to(folder)) for path in found if path.suffix != ".py"]


@pytest.fixture
def people(make, folder):
    project = make()
    visits = project.dataset("visits", key="id")
    project.model(
        "v", visits, target="y", features=["x"], trainer=Custom("toys:Line"), partition_by="town", min_samples=5,
        triggers=[on_data_change("0s")],
    )  # fmt: skip
    frame = rows(PAIRS, each=300).drop("fruit").with_columns(name=pl.format("visitor-{}-of-us", pl.col("id")))
    with project.opened.store.read() as tx:
        tx.rows("PRAGMA secure_delete = OFF")  # some builds overwrite what is deleted, most do not
    visits.ingest(frame)
    for seed in range(3):
        visits.ingest(frame.with_columns(y=pl.col("y") + seed / 1000).sample(fraction=0.6, shuffle=True, seed=seed))
    project.refresh()
    return project, visits


def test_erasing_leaves_no_trace_of_a_row_neither_in_any_version_nor_in_the_files(people, folder):
    project, visits = people
    visits.edit({"id": 7, "name": "visitor-7-of-us, moved", "town": "Pilar"})
    visits.edit({"id": 7, "y": 9.0})
    project.refresh()
    assert left_of(folder, "visitor-7-of-us")

    erased = visits.erase({"id": 7})

    assert (erased.kind, erased.removed, erased.notes) == ("erase", 1, ())
    assert left_of(folder, "visitor-7-of-us") == []
    assert left_of(folder, "visitor-8-of-us") != []
    assert all(7 not in visits.at(version)["id"] for version in range(1, erased.version + 1))
    with pytest.raises(Conflict, match="erased a row for good"):
        visits.undo(erased.number)
    with pytest.raises(NotFound, match="has no row"):
        visits.erase({"id": 7})


def test_erasing_names_the_fits_trained_on_the_row_and_makes_its_partition_due(people):
    project, visits = people
    visits.edit({"id": 7, "town": "Pilar"})  # from Hermosa
    project.refresh()
    before = live(project)

    erased = visits.erase({"id": 7})

    assert {(one.version, one.partition) for one in erased.fits} == {
        ("1.0.0", "Hermosa"), ("1.0.0", "Overall"), ("1.1.0", "Pilar"), ("1.1.0", "Overall")
    }  # fmt: skip
    project.refresh()
    assert set(trained(project)) == {("Pilar",), ()}
    assert live(project) == {**before, ("Pilar",): before[("Pilar",)] - 1, (): before[()] - 1}
    assert visits.at().height == 1799


def test_a_row_that_was_deleted_long_ago_is_erased_from_history_and_trains_nothing(people, folder):
    project, visits = people
    visits.delete({"id": 7})
    project.refresh()
    number = runs(project)

    erased = visits.erase({"id": 7})
    project.refresh()

    assert (erased.removed, erased.version, runs(project)) == (0, 4, number)
    assert left_of(folder, "visitor-7-of-us") == []


def test_bytes_that_a_reader_holds_are_told_and_removed_by_the_loop_afterwards(people, folder, monkeypatch):
    from evertrain.control import data

    project, visits = people
    monkeypatch.setattr(data, "_SCRUB_S", 0.5)
    with project.opened.store.read() as tx:
        tx.value("SELECT count(*) FROM events")
        erased = visits.erase({"id": 7})
        assert "its bytes are still in the file" in erased.notes[0]
    assert left_of(folder, "visitor-7-of-us") != []

    project.refresh()

    assert left_of(folder, "visitor-7-of-us") == []


def test_a_retry_by_token_of_a_batch_of_which_a_row_was_erased_does_not_bring_it_back(make, folder):
    project = make()
    visits = project.dataset("visits", key="id")
    first = visits.ingest(pl.DataFrame({"id": [1, 2], "x": [1.0, 2.0]}), token="t")
    visits.erase({"id": 1})
    again = visits.ingest(pl.DataFrame({"id": [1, 2], "x": [1.0, 2.0]}), token="t")

    assert (again.number, again.again, visits.at().height) == (first.number, True, 1)


def test_a_person_who_asks_right_after_a_batch_means_its_rows_and_partitions(orchard):
    project, harvests = orchard
    harvests.ingest(rows([("Papaya", "Pilar")], start=10_000))
    outcome = project.trigger("kg", {"fruit": "Papaya", "town": "Pilar"})
    assert outcome.counts == {"promoted": 2}
