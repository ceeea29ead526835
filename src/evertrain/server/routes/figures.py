"""Figures: what needs a human, how retraining does, and the metrics for a monitoring system."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import Query, Response

from evertrain.control import attention, report
from evertrain.server.metrics import CONTENT_TYPE
from evertrain.server.routes.common import Served, routes_of, shown

router = routes_of("figures")
metrics = routes_of("figures")
metrics.prefix = ""

_SINCE = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)


_NEED = attention.Need(
    "pinned", attention.Urgency.WARNING, "demand", "1.2.0 is pinned and holds back 1.3.0", _SINCE, "versions demand"
)
_GAIN = report.Gain(9, 2.4, 3.1, "mae", 0.8)
_SPREAD = report.Spread(4.1, 4.6, 7.9, 55.2)
_FIGURES = report.Figures(
    "demand", 12, 2.8, {"schedule": 8, "drift": 4}, 12, 0, 100.0, {"promoted": 9, "refused": 3}, _GAIN, _SPREAD, _SPREAD,
    310.0, 0.0008, 0, 0, {"full": report.OfKind(12, _GAIN, _SPREAD, _SPREAD)},
)  # fmt: skip
_REPORT = report.Report(_SINCE, datetime(2026, 3, 31, 8, 0, tzinfo=UTC), _FIGURES, [_FIGURES], [], 0.05)


@router.get("/attention", operation_id="list_needs", responses=shown([_NEED]))
def list_needs(service: Served) -> list[attention.Need]:
    """List what needs a human, most urgent first, each with the command and the request that clear it."""
    return attention.attention(service.opened)


@router.get("/report", operation_id="get_report", responses=shown(_REPORT))
def get_report(
    service: Served,
    last: Annotated[str, Query(description="How far back, such as 7d, 30d, 12h.", max_length=20)] = "30d",
    model: Annotated[str | None, Query(description="Only of this model.", max_length=200)] = None,
    price: Annotated[float | None, Query(description="Money for one hour of one processor.", ge=0, le=1e6)] = None,
) -> report.Report:
    """Tell how often models were retrained, why, how that ended, what it gained and what it cost."""
    return report.report(service.opened, report.span_of(last), model=model, price=price)


@metrics.get("/metrics", operation_id="get_metrics", response_class=Response)
def get_metrics(service: Served) -> Response:
    """Return all metrics as Prometheus reads them."""
    return Response(service.metrics.render(), media_type=CONTENT_TYPE)
