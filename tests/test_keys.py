"""Keys of all kinds, from the rows to the answer: found as they appear, trained alone, retired, answered for by others."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl
import pytest

from evertrain import CsvFile, Custom, Project, on_data_change
from evertrain.partitions import decode, label

NAUGHTY = Path(__file__).resolve().parents[2] / "shared/data/vectors/blns.json"

ODD = [
    "a,b", '"', 'say "hi"', "it's", "'; DROP TABLE partitions; --", "two\nlines", "\ttab", " spaces ", "back\\slash",
    "🍌", "👩‍🌾 Ana", "Ñuñoa", "e\u0301", "é", "\x1b[31mred", "../../etc/passwd", "=1+1", "%s {0} :key", "{}", "[]",
    "{\"town\":\"Pilar\"}", "overall", "Overall", "0", "1.0", "true", "None", "\u202eright to left", "x" * 300,
]  # fmt: skip


def declare(project: Project, source: object = "records") -> None:
    project.model(
        "kg", source, target="y", features=["x"], trainer=Custom("toys:Line"), partition_by=["word"], min_samples=3,
        triggers=[on_data_change("0s")],
    )  # fmt: skip


EACH = 12


def rows(words: Sequence[str], each: int = EACH) -> pl.DataFrame:
    """Rows in which the n-th word, from 1 on, has y = n x."""
    return pl.DataFrame(
        {
            "id": range(len(words) * each),
            "word": [word for word in words for _ in range(each)],
            "x": [float(i + 1) for _ in words for i in range(each)],
            "y": [float((n + 1) * (i + 1)) for n in range(len(words)) for i in range(each)],
        }
    )


def trained(project: Project) -> set[str | None]:
    """The words that the newest run trained; None stands for the rollup."""
    with project.opened.store.read() as tx:
        found = tx.rows(
            "SELECT p.key FROM items i JOIN partitions p ON p.id = i.partition_id"
            " WHERE i.state IN ('promoted', 'rejected') AND i.run_id = (SELECT max(id) FROM runs)"
        )
    return {decode(row.key).get("word") for row in found}


def check(project: Project, words: Sequence[str], answers: Callable[[int], float]) -> None:
    """Every word is answered by its own model."""
    answer = project.predictor("kg").answer(pl.DataFrame({"word": list(words), "x": [1.0] * len(words)}).to_pandas())
    assert answer.values.tolist() == pytest.approx([answers(n) for n in range(len(words))], abs=1e-6)
    assert answer.answered_by == [label({"word": word}, ["word"]) for word in words]
    assert not answer.fallback


def live_through(project: Project, words: Sequence[str]) -> None:
    """Discover, train, predict, edit one, empty one, ask for one that was never seen."""
    records = project.dataset("records", key="id")
    declare(project)
    records.ingest(rows(words))
    project.refresh()
    assert trained(project) == {*words, None}
    check(project, words, lambda n: n + 1.0)

    edited, gone = len(words) // 2, len(words) - 1
    records.edit([{"id": edited * EACH + i, "y": -1.0 * (i + 1)} for i in range(EACH)])
    project.refresh()
    assert trained(project) == {words[edited], None}
    check(project, words, lambda n: -1.0 if n == edited else n + 1.0)

    records.delete([{"id": gone * EACH + i} for i in range(EACH)])
    project.refresh()
    assert trained(project) == {None}
    with project.opened.store.read() as tx:
        retired = [decode(row.key)["word"] for row in tx.rows("SELECT key FROM partitions WHERE state = 'retired'")]
    assert retired == [words[gone]]
    for unseen in (words[gone], "a word that nobody wrote"):
        answer = project.predictor("kg").answer([{"word": unseen, "x": 1.0}])
        assert (answer.answered_by, answer.fallback) == (["Overall"], True)


def test_odd_keys_live_from_the_first_row_to_the_last(make) -> None:
    """Commas, quotes, line ends, emoji, escapes, paths, and texts that look like numbers, JSON or the rollup's name."""
    live_through(make(), ODD)


@pytest.mark.shared
@pytest.mark.skipif(not NAUGHTY.exists(), reason="the shared vectors are not beside this checkout")
def test_all_naughty_strings_live_from_the_first_row_to_the_last(make) -> None:
    words = list(dict.fromkeys(json.loads(NAUGHTY.read_text())))
    assert len(words) > 500
    live_through(make(), words)


@pytest.mark.shared
@pytest.mark.skipif(not NAUGHTY.exists(), reason="the shared vectors are not beside this checkout")
@pytest.mark.parametrize("kept", [False, True], ids=["file", "dataset"])
def test_all_naughty_strings_of_a_csv_file_are_keys_but_for_the_empty_one(make, folder, kept) -> None:
    """Read by the grammar of CSV: an empty cell is no value; texts such as "null" are texts in a column of texts."""
    words = list(dict.fromkeys(json.loads(NAUGHTY.read_text())))
    with (folder / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "word", "x", "y"])
        writer.writerows(rows(words).rows())
    project = make()
    if kept:
        project.dataset("records", key="id").ingest(folder / "rows.csv")
    else:
        project.source("records", CsvFile("rows.csv"))
    declare(project)
    project.refresh()

    expected = set(words) - {""}
    found = trained(project)
    assert found == {*expected, None}  # None is the rollup, and the key without a value
    answers = project.predictor("kg").answer([{"word": word, "x": 1.0} for word in sorted(expected)])
    assert answers.values.tolist() == pytest.approx([words.index(word) + 1.0 for word in sorted(expected)], abs=1e-6)
    assert project.predictor("kg").answer([{"word": None, "x": 1.0}]).answered_by == ["no value"]


# --- several dimensions -----------------------------------------------------------------------------------------

LEAVES = [
    (fruit, town, grade)
    for fruit in ("Avocado", "Banana")
    for town in ("Hermosa", "Pilar")
    for grade in (1, 2)
    if (fruit, town, grade) != ("Banana", "Pilar", 2)
]


def crops(leaves: Sequence[tuple[str, str, int]], each: int = 4, start: int = 0) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {"id": start + n * each + i, "fruit": fruit, "town": town, "grade": grade, "x": float(i), "y": float(n * i)}
            for n, (fruit, town, grade) in enumerate(leaves)
            for i in range(each)
        ]
    )


@pytest.fixture
def market(make):
    project = make()
    harvests = project.dataset("harvests", key="id")
    project.model(
        "kg", harvests, target="y", features=["x"], trainer=Custom("toys:Line"), min_samples=3,
        partition_by=["fruit", "town", "grade"], rollups=[["fruit", "town"], ["fruit"], ["grade"], []],
        triggers=[on_data_change("0s")],
    )  # fmt: skip
    harvests.ingest(crops(LEAVES))
    project.refresh()
    return project, harvests


def newest(project: Project) -> set[tuple[object, ...]]:
    with project.opened.store.read() as tx:
        found = tx.rows(
            "SELECT p.key FROM items i JOIN partitions p ON p.id = i.partition_id"
            " WHERE i.state IN ('promoted', 'rejected') AND i.run_id = (SELECT max(id) FROM runs)"
        )
    return {tuple(decode(row.key).items()) for row in found}


def keyed(**key: object) -> tuple[tuple[str, object], ...]:
    return tuple(key.items())


def test_a_change_below_three_dimensions_trains_its_leaf_and_one_of_each_level_above(market) -> None:
    """S0-01, S0-04: rollups of any number of dimensions."""
    project, harvests = market
    assert len(newest(project)) == 7 + 4 + 2 + 2 + 1
    harvests.edit({"id": 0, "y": 9.0})
    project.refresh()

    assert newest(project) == {
        keyed(fruit="Avocado", town="Hermosa", grade=1), keyed(fruit="Avocado", town="Hermosa"), keyed(fruit="Avocado"),
        keyed(grade=1), keyed(),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"fruit": "Avocado", "town": "Hermosa", "grade": 1}, "Avocado, Hermosa, 1"),
        ({"fruit": "Banana", "town": "Pilar", "grade": 2}, "Banana, Pilar, Overall"),
        ({"fruit": "Banana", "town": "Orani", "grade": 2}, "Banana, Overall"),
        ({"fruit": "Durian", "town": "Pilar", "grade": 2}, "2, Overall"),
        ({"fruit": "Durian", "town": "Pilar", "grade": 3}, "Overall"),
        ({"fruit": "Avocado", "town": "Hermosa", "grade": "1"}, "Avocado, Hermosa, Overall"),  # a text is no number
    ],
)
def test_a_partition_that_was_never_seen_is_answered_by_the_nearest_rollup_and_labelled(market, row, named) -> None:
    project, _ = market
    answer = project.predictor("kg").answer([row | {"x": 1.0}])
    assert answer.answered_by == [named]
    assert answer.fallback is ("Overall" in named)


def test_an_emptied_partition_and_the_rollups_that_are_empty_with_it_are_retired_and_come_back(market) -> None:
    """S0-16: Banana in Pilar had one grade, so the pair goes with it, and Banana stays."""
    project, harvests = market
    at = LEAVES.index(("Banana", "Pilar", 1)) * 4
    deleted = harvests.delete([{"id": at + i} for i in range(4)])
    project.refresh()

    with project.opened.store.read() as tx:
        gone = {tuple(decode(row.key).items()) for row in tx.rows("SELECT key FROM partitions WHERE state = 'retired'")}
    assert gone == {keyed(fruit="Banana", town="Pilar", grade=1), keyed(fruit="Banana", town="Pilar")}
    assert newest(project) == {keyed(fruit="Banana"), keyed(grade=1), keyed()}
    ask = {"fruit": "Banana", "town": "Pilar", "grade": 1, "x": 1.0}
    assert project.predictor("kg").answer([ask]).answered_by == ["Banana, Overall"]

    harvests.undo(deleted.number)
    project.refresh()
    assert newest(project) >= gone
    assert project.predictor("kg").answer([ask]).answered_by == ["Banana, Pilar, 1"]
