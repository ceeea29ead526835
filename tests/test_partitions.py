"""Keys, rollups and plans: which partitions a change concerns, and what they are called."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evertrain import plan
from evertrain.partitions import WHOLE, closure, decode, encode, fallbacks, label, printable, rollup
from evertrain.specs import Cause, Custom, Dimension, ModelSpec

NAMES = ["fruit", "town", "year"]
values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=8)
)
dimensions = st.integers(1, 3).map(lambda n: NAMES[:n])


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[str], list[tuple[str, ...]], list[dict[str, object]]]:
    """Dimensions, rollups that each drop at least one of them, and leaf keys."""
    names = draw(dimensions)
    proper = [tuple(n for n, bit in zip(names, bits, strict=True) if bit) for bits in _bits(len(names))]
    levels = draw(st.lists(st.sampled_from([one for one in proper if len(one) < len(names)]), unique=True))
    keys = draw(
        st.lists(st.fixed_dictionaries(dict.fromkeys(names, st.sampled_from(["a", "b", 1, "1", None]))), max_size=6)
    )
    return names, levels, keys


def _bits(number: int) -> list[tuple[int, ...]]:
    return [tuple((i >> place) & 1 for place in range(number)) for i in range(2**number)]


def model(**options: object) -> ModelSpec:
    return ModelSpec("m", "rows", **{"target": "y", "trainer": Custom("toys:Line"), **options})  # type: ignore[arg-type]


def wanted(number: int, *, leaf: bool = True, cause: Cause = Cause.AGE, item: int | None = None) -> plan.Wanted:
    return plan.Wanted(number, "{}", leaf, cause, f"because {number}", waiting_item=item)


# --- closure ----------------------------------------------------------------------------------------------------


@given(worlds())
def test_a_closure_is_the_keys_and_every_declared_rollup_above_them_and_nothing_else(
    world: tuple[list[str], list[tuple[str, ...]], list[dict[str, object]]],
) -> None:
    """S0-01, S0-04."""
    names, levels, rows = world
    keys = [encode(row, names) for row in rows]

    found = closure(keys, names, levels)

    expected = {*keys, *(encode({n: row[n] for n in kept}, names) for row in rows for kept in levels)}
    assert set(found) == expected
    # closing again adds nothing, and neither order nor repetition of the keys matters
    assert closure(found, names, levels) == found
    assert set(closure([*reversed(keys), *keys], names, levels)) == set(found)


@given(worlds())
def test_a_closure_grows_by_union(world: tuple[list[str], list[tuple[str, ...]], list[dict[str, object]]]) -> None:
    names, levels, rows = world
    keys = [encode(row, names) for row in rows]
    apart = [set(closure([key], names, levels)) for key in keys]
    assert set(closure(keys, names, levels)) == set().union(*apart)


def test_two_pairs_of_the_example_are_exactly_four_models() -> None:
    """S0-25: Avocado-Hermosa and Banana-Pilar change; two leaves and two Overalls are due."""
    names = ["fruit", "town"]
    pairs = [("Avocado", "Hermosa"), ("Banana", "Pilar")]
    found = closure([encode({"fruit": f, "town": t}, names) for f, t in pairs], names, [["fruit"]])
    assert [label(decode(key), names) for key in found] == [
        "Avocado, Hermosa",
        "Banana, Pilar",
        "Avocado, Overall",
        "Banana, Overall",
    ]


@given(worlds())
def test_who_may_answer_for_a_key_stands_above_it_nearest_first(
    world: tuple[list[str], list[tuple[str, ...]], list[dict[str, object]]],
) -> None:
    names, levels, rows = world
    for row in rows:
        found = fallbacks(decode(encode(row, names)), names, levels)
        assert set(found) == set(closure([encode(row, names)], names, levels)) - {encode(row, names)}
        sizes = [len(decode(key)) for key in found]
        assert sizes == sorted(sizes, reverse=True)


# --- keys -------------------------------------------------------------------------------------------------------


@given(st.fixed_dictionaries(dict.fromkeys(NAMES, values)))
def test_a_key_reads_back_and_is_written_one_way(key: dict[str, object]) -> None:
    text = encode(key, NAMES)
    assert encode(decode(text), NAMES) == text
    assert encode(dict(reversed(key.items())), NAMES) == text
    assert list(decode(text)) == NAMES
    assert "\n" not in text


@given(values, values)
def test_keys_are_equal_exactly_when_their_values_are(one: object, other: object) -> None:
    same = encode({"fruit": one}, NAMES) == encode({"fruit": other}, NAMES)
    numbers = [isinstance(v, int | float) and not isinstance(v, bool) for v in (one, other)]
    assert same == (one == other and (all(numbers) or type(one) is type(other)))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (1, 1.0, True),
        (1, "1", False),
        (1, True, False),
        (None, "None", False),
        (None, "", False),
        (None, float("nan"), True),
        ("NaN", float("nan"), False),
        (0.0, -0.0, True),
        (date(2026, 1, 2), "2026-01-02", True),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00+00:00", True),
        (10**30, 1e30, False),
        ("é", "e\u0301", False),
    ],
)
def test_values_that_look_alike(one: object, other: object, same: bool) -> None:
    assert (encode({"town": one}, ["town"]) == encode({"town": other}, ["town"])) is same


@pytest.mark.parametrize("value", [float("inf"), "\ud800", b"x", [1], {"a": 1}, object()])
def test_what_cannot_be_a_key_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="cannot be the value of a partition key"):
        encode({"town": value}, ["town"])


def test_a_name_that_is_no_dimension_is_refused_with_those_that_are() -> None:
    with pytest.raises(ValueError, match="'city' is no dimension; the dimensions are fruit, town"):
        encode({"city": "Pilar"}, ["fruit", "town"])


@given(st.text())
def test_a_label_is_one_printable_line_whatever_the_value(value: str) -> None:
    """A-75: no control character reaches a terminal or begins a line of a log."""
    assert label({"town": value}, ["town"]).isprintable() or not value
    assert printable("a\x1b[2J\r\n\u202e") == "a\\x1b[2J\\r\\n\\u202e"


def test_a_rollup_keeps_the_order_of_the_key() -> None:
    assert list(rollup({"fruit": 1, "town": 2, "year": 3}, ["year", "fruit"])) == ["fruit", "year"]
    assert encode(rollup({"town": 1}, []), ["town"]) == WHOLE


# --- plans ------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(list(Cause))), max_size=12))
def test_a_plan_holds_what_is_wanted_and_the_most_urgent_first(listed: list[tuple[bool, Cause]]) -> None:
    found = [wanted(i, leaf=leaf, cause=cause) for i, (leaf, cause) in enumerate(listed)]
    made = plan.make(model(), found, 20, 2.0)
    if made is None:
        assert not found
        return
    assert sorted(one.partition_id for one in made.wanted) == list(range(len(found)))
    ranks = [(-plan.PRIORITY[one.cause], not one.leaf) for one in made.wanted]
    assert ranks == sorted(ranks)
    assert made.cause is made.wanted[0].cause
    assert made.estimate_s == 2.0 * len(found)
    assert not made.full


def test_a_plan_of_everything_is_full_and_waiting_items_cost_nothing_more() -> None:
    made = plan.make(model(), [wanted(1), wanted(2, item=7)], 2, 3.0)
    assert made is not None
    assert made.full
    assert (made.fresh, made.estimate_s) == (1, 3.0)
    assert made.summary() == "2 of 2: because 1"


def test_the_message_names_up_to_three_of_each_and_counts_more() -> None:
    """S0-23, S0-24, 4.6 (25)."""
    spec = model(
        partition_by=[
            Dimension("fruit", "commodity", "commodities"),
            Dimension("town", "municipality", "municipalities"),
        ],
        rollups=[["fruit"]],
    )

    def say(*pairs: tuple[str, str]) -> str:
        leaves = [json.dumps({"fruit": fruit, "town": town}) for fruit, town in pairs]
        return plan.message(spec, [*leaves, *{json.dumps({"fruit": fruit}) for fruit, _ in pairs}])

    assert say(("Banana", "Pilar"), ("Avocado", "Hermosa")) == "Avocado, Banana in Hermosa, Pilar and Overall"
    many = [(f"fruit {i}", f"town {i % 3}") for i in range(5)]
    assert say(*many) == "5 commodities in 3 municipalities and Overall"


def fruit_shop(**options: object) -> ModelSpec:
    made = model(
        partition_by=[
            Dimension("fruit", "commodity", "commodities"),
            Dimension("town", "municipality", "municipalities"),
        ],
        rollups=[["fruit"]],
        **options,
    )
    object.__setattr__(made, "series", "stands for any declaration of a series")
    return made


def told(spec: ModelSpec, pairs: list[tuple[str, str]]) -> str:
    leaves = [encode({"fruit": fruit, "town": town}, spec.dimensions) for fruit, town in pairs]
    return plan.announcement(spec, list(closure(leaves, spec.dimensions, spec.levels)))


def test_few_forecast_models_are_announced_by_name() -> None:
    """S0-23, word for word."""
    assert told(fruit_shop(), [("Banana", "Pilar"), ("Avocado", "Hermosa")]) == (
        "Records updated. Forecast models for Avocado, Banana in Hermosa, Pilar and Overall are being updated in the"
        " background."
    )


def test_many_forecast_models_are_announced_by_number() -> None:
    """S0-24, word for word."""
    assert told(fruit_shop(), [(f"fruit {i}", f"town {i % 3}") for i in range(5)]) == (
        "Records updated. Forecast models for 5 commodities in 3 municipalities and Overall are being updated in the"
        " background."
    )


@pytest.mark.parametrize(
    ("fruits", "towns", "said"),
    [
        (1, 1, "F0 in T0 and Overall"),
        (3, 3, "F0, F1, F2 in T0, T1, T2 and Overall"),
        (4, 1, "4 commodities in 1 municipality and Overall"),
        (1, 4, "1 commodity in 4 municipalities and Overall"),
        (4, 4, "4 commodities in 4 municipalities and Overall"),
    ],
)
def test_beyond_three_of_either_both_are_counted_and_one_is_singular(fruits: int, towns: int, said: str) -> None:
    """S0-23, S0-24, 4.6 (25): the boundary, and the singular."""
    pairs = [(f"F{i}", f"T{j}") for i in range(fruits) for j in range(towns)]
    assert f"Forecast models for {said} are" in told(fruit_shop(), pairs)


def test_models_without_a_series_and_other_words_for_the_rollup_are_announced_so() -> None:
    """S0-23: the words are the declaration's."""
    spec = model(partition_by=["town"], overall="all towns")
    leaves = [encode({"town": "Pilar"}, ["town"])]
    assert plan.announcement(spec, list(closure(leaves, ["town"], spec.levels))) == (
        "Records updated. Models for Pilar and all towns are being updated in the background."
    )
