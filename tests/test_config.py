"""Settings: what may not be is refused under the name that the person wrote."""

from __future__ import annotations

import pytest

from evertrain.config import Settings, read_settings
from evertrain.errors import ConfigError


@pytest.mark.parametrize(
    ("variable", "value", "allowed"),
    [
        ("EVERTRAIN_CHILDREN", "-1", "at least 0"),
        ("EVERTRAIN_CHILDREN", "1.5", "a whole number"),
        ("EVERTRAIN_BATCH_ITEMS", "0", "above 0"),
        ("EVERTRAIN_TICK_S", "0", "above 0"),
        ("EVERTRAIN_TICK_S", "nan", "finite"),
        ("EVERTRAIN_LEASE_S", "inf", "finite"),
        ("EVERTRAIN_LEASE_S", "14", "three times beat_s, 15"),
        ("EVERTRAIN_BEAT_S", "11", "a third of lease_s, 10"),
        ("EVERTRAIN_BUSY_S", "soon", "a number"),
        ("EVERTRAIN_LOG", "xml", "plain or json"),
        ("EVERTRAIN_NONSENSE", "1", "EVERTRAIN_TICK_S"),
        ("TZ", "Mars/Base", "Europe/Berlin"),
    ],
)
def test_a_variable_that_cannot_be_is_refused_by_its_name(variable: str, value: str, allowed: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings({variable: value})

    assert variable in str(caught.value)
    assert allowed in str(caught.value)


def test_a_misspelt_variable_is_answered_with_those_it_may_be() -> None:
    with pytest.raises(ConfigError, match=r"^variable is 'EVERTRAIN_TIK_S'; allowed: EVERTRAIN_TICK_S$"):
        read_settings({"EVERTRAIN_TIK_S": "1"})


@pytest.mark.parametrize(
    "variable",
    ["EVERTRAIN_PROJECT", "EVERTRAIN_DEBUG", "EVERTRAIN_FAULT", "EVERTRAIN_SERVICE_HOST", "EVERTRAIN_PORT_80_TCP_ADDR"],
)
def test_a_variable_that_is_no_setting_but_has_its_place_is_let_be(variable: str) -> None:
    assert read_settings({variable: "x"}) == Settings()


@pytest.mark.parametrize("zone", ["", "UTC", ":Europe/Berlin", "CET-1CEST,M3.5.0,M10.5.0/3", "/usr/share/zoneinfo/UTC"])
def test_a_time_zone_that_the_machine_understands_is_let_be(zone: str) -> None:
    assert read_settings({"TZ": zone}) == Settings()


def test_the_bounds_of_a_setting_are_allowed() -> None:
    found = read_settings({"EVERTRAIN_CHILDREN": "0", "EVERTRAIN_LEASE_S": "15", "EVERTRAIN_DRAIN_S": "0"})

    assert (found.children, found.lease_s, found.drain_s) == (0, 15.0, 0.0)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_setting_made_in_python_is_named_by_its_field(value: float) -> None:
    with pytest.raises(ConfigError, match=r"^tick_s is"):
        Settings(tick_s=value)
