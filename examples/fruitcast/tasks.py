"""The two background tasks by their old names. `delay` only asks: whoever runs the loop trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from project import project

from evertrain.control.work import Outcome

COMMODITIES = {1: "Avocado", 2: "Banana", 3: "Calamansi"}
MUNICIPALITIES = {1: "Hermosa", 2: "Orani", 3: "Pilar", 14: "Overall"}

Pair = Mapping[str, int]


class Task:
    """A function that is asked for in the background by `delay`."""

    def __init__(self, function: Callable[..., Outcome]) -> None:
        self._function = function

    def delay(self, *arguments: Any) -> Outcome:
        """Ask, and return at once."""
        return self._function(*arguments, wait=False)

    def __call__(self, *arguments: Any) -> Outcome:
        """Do it, and wait for its end."""
        return self._function(*arguments, wait=True)


def _key(pair: Pair) -> dict[str, str]:
    """Return the partition of a pair; that of municipality 14 is the commodity's Overall."""
    commodity = {"commodity": COMMODITIES[pair["commodity_id"]]}
    town = MUNICIPALITIES[pair["municipality_id"]]
    return commodity if town == "Overall" else {**commodity, "municipality": town}


@Task
def retrain_selective_models_task(pairs: Sequence[Pair], model: str = "harvest", *, wait: bool) -> Outcome:
    """Train the models of these pairs, and the Overall of each of their commodities with them."""
    return project.trigger(model, [_key(pair) for pair in pairs], wait=wait)


@Task
def retrain_and_generate_forecasts_task(model: str = "harvest", *, wait: bool) -> Outcome:
    """Train every model; those whose rows are known are skipped."""
    return project.trigger(model, wait=wait)
