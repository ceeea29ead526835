"""What people do to records all day, as change sets: each operation trains its pairs and their Overalls, nothing else.

Harvests and plantings are two datasets of verified records, each with a model by commodity and municipality.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence

import polars as pl
import pytest

from evertrain import Custom, Dimension, Project, on_data_change
from evertrain.control import ask, data
from evertrain.datasets import Batch
from evertrain.partitions import closure, decode, encode
from evertrain.project import DatasetRef

Pair = tuple[str, str]
FRUITS, TOWNS = ["Avocado", "Banana", "Calamansi", "Durian"], ["Hermosa", "Orani", "Pilar"]
PAIRS = [(fruit, town) for fruit in FRUITS for town in TOWNS]
EACH = 10


def rows(pairs: Sequence[Pair], *, start: int = 0, each: int = EACH) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {
                "record": start + n * each + i,
                "commodity": fruit,
                "municipality": town,
                "x": float(i),
                "kg": (n + 2.0) * i,
            }
            for n, (fruit, town) in enumerate(pairs)
            for i in range(each)
        ]
    )


def record(pair: Pair, number: int = 0) -> int:
    return PAIRS.index(pair) * EACH + number


class Office:
    """A project with both kinds of records, trained, and what was trained since."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.harvests, self.plantings = (project.dataset(name, key="record") for name in ("harvests", "plantings"))
        for model, source in (("yield", self.harvests), ("planted", self.plantings)):
            project.model(
                model, source, target="kg", features=["x"], trainer=Custom("toys:Line"), min_samples=5, rollups=[["commodity"]],
                partition_by=[
                    Dimension("commodity", "commodity", "commodities"),
                    Dimension("municipality", "municipality", "municipalities"),
                ],
                triggers=[on_data_change("0s")],
            )  # fmt: skip
            source.ingest(rows(PAIRS))
        project.refresh()
        self.told = self.items()

    def items(self) -> dict[int, tuple[str, str]]:
        with self.project.opened.store.read() as tx:
            found = tx.rows(
                "SELECT i.id, p.key, m.name FROM items i JOIN partitions p ON p.id = i.partition_id"
                " JOIN models m ON m.id = i.model_id"
            )
        return {row.id: (row.name, row.key) for row in found}

    def champions(self) -> dict[tuple[str, str], int]:
        with self.project.opened.store.read() as tx:
            found = tx.rows(
                "SELECT m.name, p.key, p.champion_id FROM partitions p JOIN models m ON m.id = p.model_id"
                " WHERE p.state = 'live'"
            )
        return {(row.name, row.key): row.champion_id for row in found}

    def trained(self) -> list[tuple[str, tuple[str, ...]]]:
        """Model and key values of every item since this was asked last, sorted."""
        self.project.refresh()
        now = self.items()
        fresh = [one for number, one in now.items() if number not in self.told]
        self.told = now
        return sorted((model, tuple(decode(key).values())) for model, key in fresh)


@pytest.fixture
def office(make) -> Office:
    return Office(make())


def models(pairs: Iterable[Pair], model: str = "yield") -> list[tuple[str, tuple[str, ...]]]:
    """What must be trained for these pairs: each once, and the Overall of each commodity once."""
    leaves = dict.fromkeys(pairs)
    return sorted((model, key) for key in [*leaves, *((fruit,) for fruit in {fruit for fruit, _ in leaves})])


def one_set(source: DatasetRef, pair: Pair) -> Batch:
    return source.edit({"record": record(pair), "kg": 77.0})


def csv_of(pairs: Sequence[Pair]) -> Callable[[DatasetRef], Batch]:
    def upload(source: DatasetRef) -> Batch:
        path = source._project.root / "upload.csv"
        rows(pairs, start=1000, each=3).write_csv(path)
        return source.ingest(path)

    return upload


A, B, C = ("Avocado", "Hermosa"), ("Banana", "Pilar"), ("Durian", "Orani")

OPERATIONS = {
    "S0-12 harvest records are verified, a batch": (lambda s: s.ingest(rows([A, B], start=1000, each=2)), [A, B]),
    "S0-14 a CSV file is uploaded": (csv_of([A, B, C]), [A, B, C]),
    "S0-15 one record comes from a form": (
        lambda s: s.ingest(rows([A], start=5000, each=1)), [A]
    ),
    "S0-16 records are deleted in bulk": (
        lambda s: s.delete([{"record": record(pair, i)} for pair in (A, B) for i in range(3)]), [A, B]
    ),
    "S0-17 one record is edited": (lambda s: one_set(s, B), [B]),
    "S0-17 one record is edited and moves": (
        lambda s: s.edit({"record": record(A), "commodity": "Durian", "municipality": "Orani"}), [A, C]
    ),
    "S0-18 records are rejected after they had been verified": (lambda s: s.delete([{"record": record(C, 4)}]), [C]),
}  # fmt: skip


@pytest.mark.parametrize("operation", OPERATIONS)
def test_each_operation_trains_its_pairs_and_their_overalls(office: Office, operation: str) -> None:
    """S0-12, S0-14, S0-15, S0-16, S0-17, S0-18, S0-01, S0-03, S0-04."""
    act, pairs = OPERATIONS[operation]
    batch = act(office.harvests)
    said = data.announcements(office.project.opened, batch)

    assert office.trained() == models(pairs)
    fruits, towns = (sorted({pair[place] for pair in pairs}) for place in (0, 1))
    where = f"{', '.join(fruits)} in {', '.join(towns)} and Overall"
    assert said == [f"Records updated. Models for {where} are being updated in the background."]


def test_verified_plantings_train_models_of_plantings_and_none_of_harvests(office: Office) -> None:
    """S0-13: the other type of record has its own dataset and its own models."""
    office.plantings.ingest(rows([A, B], start=1000, each=2))
    assert office.trained() == models([A, B], "planted")


def test_only_named_pairs_and_their_overalls_get_another_model_and_the_rest_keep_theirs(office: Office) -> None:
    """S0-11: the steps of one run."""
    before = office.champions()
    for number in range(3):
        office.harvests.edit({"record": record(A, number), "kg": -1.0 * number})
    office.project.refresh()
    after = office.champions()

    changed = {key for key in after if after[key] != before[key]}
    assert changed <= {
        ("yield", '{"commodity":"Avocado","municipality":"Hermosa"}'),
        ("yield", '{"commodity":"Avocado"}'),
    }
    assert before.keys() == after.keys()
    assert len(before) - len(changed) >= 2 * (12 + 4) - 2


def test_one_record_costs_two_models_of_sixteen(office: Office) -> None:
    """S0-29."""
    one_set(office.harvests, A)
    assert len(office.trained()) == 2


@pytest.mark.parametrize("fruits", [1, 2, 4])
def test_what_a_bulk_operation_trains_grows_with_what_it_touches(office: Office, fruits: int) -> None:
    """S0-30: one pair of each commodity: a leaf and an Overall for each, and no more."""
    pairs = [(fruit, "Pilar") for fruit in FRUITS[:fruits]]
    office.harvests.edit([{"record": record(pair), "kg": 77.0} for pair in pairs])
    assert len(office.trained()) == 2 * fruits


def test_mixed_commodities_and_municipalities_in_mixed_operations_are_one_union(office: Office) -> None:
    """S0-31, S0-03: set operations, over both types of record and between two looks."""
    office.harvests.edit({"record": record(A), "kg": 5.0})
    office.harvests.edit({"record": record(("Avocado", "Pilar")), "commodity": "Banana"})
    office.harvests.delete({"record": record(C)})
    office.harvests.ingest(rows([A], start=3000, each=2))
    office.plantings.edit({"record": record(C), "kg": 5.0})

    expected = models([A, ("Avocado", "Pilar"), B, C]) + models([C], "planted")
    assert office.trained() == sorted(expected)


def test_what_was_undone_between_two_looks_is_found_to_be_known(office: Office) -> None:
    batch = office.harvests.edit({"record": record(A), "kg": 5.0})
    office.harvests.undo(batch.number)
    touched = office.trained()
    assert set(touched) <= set(models([A]))


def test_two_pairs_are_exactly_four_trainings_and_all_others_answer_from_the_same_version(office: Office) -> None:
    """S0-25: Avocado in Hermosa and Banana in Pilar."""
    predictor = office.project.predictor("yield")
    ask_all = [{"commodity": fruit, "municipality": town, "x": 1.0} for fruit, town in PAIRS]
    before = predictor.answer(ask_all)
    office.harvests.edit([{"record": record(A), "kg": 5.0}, {"record": record(B), "kg": 5.0}])

    assert office.trained() == models([A, B])
    assert len(models([A, B])) == 4
    after = office.project.predictor("yield").answer(ask_all)
    for place, pair in enumerate(PAIRS):
        if pair not in (A, B):
            assert (after.values[place], after.versions[place]) == (before.values[place], before.versions[place])
    assert not after.fallback


def test_selective_and_full_runs_give_the_same_bits_at_one_moment(office: Office) -> None:
    """S0-21: whichever way a pair came to be trained, on the same rows it is the same model."""
    office.harvests.edit([{"record": record(A), "kg": 5.0}, {"record": record(B), "kg": 5.0}])
    office.project.refresh()

    def digests() -> dict[str, str]:
        with office.project.opened.store.read() as tx:
            found = tx.rows(
                "SELECT p.key, f.digest FROM fits f JOIN partitions p ON p.id = f.partition_id"
                " JOIN models m ON m.id = p.model_id WHERE m.name = 'yield' ORDER BY f.id"
            )
        return {row.key: row.digest for row in found}

    selective = digests()
    office.project.trigger("yield", force=True)
    with office.project.opened.store.read() as tx:
        assert tx.value("SELECT kind FROM runs ORDER BY id DESC LIMIT 1") == "full"
    assert digests() == selective


def test_an_application_names_pairs_by_number_as_it_keeps_them(make) -> None:
    """S0-02: `[{"commodity": 3, "municipality": 7}]`."""
    project = make()
    records = project.dataset("records", key="record")
    project.model(
        "yield", records, target="kg", features=["x"], trainer=Custom("toys:Line"), partition_by=["commodity", "municipality"],
        rollups=[["commodity"]], min_samples=5, triggers=[],
    )  # fmt: skip
    frame = rows([("3", "7"), ("3", "8"), ("4", "7")]).with_columns(pl.col("commodity", "municipality").cast(pl.Int64))
    records.ingest(frame)
    project.refresh()
    records.edit({"record": 0, "kg": 9.0})

    done = project.changed("yield", [{"commodity": 3, "municipality": 7}], wait=True)

    assert sum(done.counts.values()) == 2
    assert done.announcement == "Records updated. Models for 3 in 7 and Overall are being updated in the background."
    with project.opened.store.read() as tx:
        keys = {row[0] for row in tx.rows("SELECT p.key FROM items i JOIN partitions p ON p.id = i.partition_id"
                                          " WHERE i.run_id = :run", run=done.run_id)}  # fmt: skip
    assert keys == set(closure([encode({"commodity": 3, "municipality": 7}, ["commodity", "municipality"])],
                               ["commodity", "municipality"], [["commodity"]]))  # fmt: skip
    assert json.loads(next(iter(keys)))["commodity"] == 3
    assert ask.plan_all(project.opened) == []
