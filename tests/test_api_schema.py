"""Whatever is sent to whatever is described, nothing fails: schemathesis finds no 5xx over the whole OpenAPI."""

from __future__ import annotations

import contextlib
from collections import Counter

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from . import api_kit

pytestmark = pytest.mark.slow


CALM = settings(
    max_examples=20,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
    deadline=None,
    database=None,
)
# Streams do not end; and a loop would train in this process whatever is asked for here.
LEFT_OUT = ("/events/live", "/forecasts/events", "/runs/{run_id}/events", "/monitoring/start")


REAL = {"name": "line", "run": "2", "number": "1", "model_name": "line", "model_type": "line"}


def test_nothing_that_is_sent_to_what_is_described_makes_it_fail(tmp_path):
    wrong: dict[str, str] = {}
    answered: Counter[int] = Counter()
    with api_kit.opened(tmp_path / "shop") as api:
        found = schemathesis.openapi.from_asgi("/api/v1/openapi.json", api.app)
        asked = [one for one in (each.ok() for each in found.get_all_operations()) if not one.path.endswith(LEFT_OUT)]
        for operation in asked:
            kinds = [operation.as_strategy(generation_mode=mode) for mode in GenerationMode]

            @CALM
            @given(case=st.one_of(kinds), real=st.booleans())
            def holds(case, real):
                if real:  # made up names are mostly answered by 404
                    case.path_parameters |= {name: REAL[name] for name in case.path_parameters if name in REAL}
                answer = case.call()
                answered[answer.status_code] += 1
                if answer.status_code >= 500:
                    wrong[f"{case.method} {case.path}"] = f"{case.as_curl_command()[:600]} -> {answer.text[:200]}"

            with contextlib.suppress(Unsatisfiable):
                holds()
    assert not wrong, wrong
    assert len(asked) > 30
    assert answered[200] > 100
    assert answered[404] > 50
    assert answered[422] > 100
