"""Figures: what needs a human, how retraining does, and the metrics for a monitoring system."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import Query, Response

from evertrain.control import attention, browse, report
from evertrain.control.browse import Page
from evertrain.server.metrics import CONTENT_TYPE
from evertrain.server.routes.common import Cursor, Limit, OfModel, Served, routes_of, shown

router = routes_of("figures")
metrics = routes_of("figures")
metrics.prefix = ""

_AT = datetime(2026, 3, 2, 3, 0, 12, tzinfo=UTC)
_NEED = attention.Need(
    "paused", attention.Urgency.WARNING, "demand", "demand is paused by ana, so it is not trained", _AT, "resume demand",
    attention.Call("POST", "/api/v1/models/demand/resume"),
)  # fmt: skip
_SPREAD = report.Spread(1.1, 1.4, 2.9, 33.6)
_GAIN = report.Gain(20, 1.2, 1.6, "mae", 0.05)
_FIGURES = report.Figures(
    None, 24, 5.6, {"data_change": 20, "drift": 3, "manual": 1}, 23, 1, 95.8, {"promoted": 21, "refused": 2, "failed": 1},
    _GAIN, _SPREAD, _SPREAD, 182.0, None, 0, 0, {"selective": report.OfKind(24, _GAIN, _SPREAD, _SPREAD)},
)  # fmt: skip
_REMARK = report.Remark(
    "warning", "demand", 17, "1.4.0", _AT, -6.2, "demand got worse by 6.2 % when it was trained by hand",
    "rollback demand --run 17",
)  # fmt: skip
_REPORT = report.Report(_AT - timedelta(days=30), _AT, _FIGURES, [], [_REMARK])


@router.get("/attention", operation_id="list_needs", responses=shown(Page([_NEED], None)))
def list_needs(service: Served, limit: Limit = 50, cursor: Cursor = None) -> Page[attention.Need]:
    """List what needs a human, the most urgent first, each with the command and the request that clear it."""
    return browse.need_list(service.opened, limit, cursor)


@router.get("/report", operation_id="get_report", responses=shown(_REPORT))
def get_report(
    service: Served,
    last: Annotated[str, Query(description="How far back, such as 7d, 30d, 12h.", max_length=20)] = "30d",
    model: OfModel = None,
    price: Annotated[
        float | None, Query(description="Money for one hour of one processor.", ge=0, le=1e6, allow_inf_nan=False)
    ] = None,
) -> report.Report:
    """Tell how often models were retrained, why, how that ended, what it gained and what it cost."""
    return report.report(service.opened, report.span_of(last), model=model, price=price)


@metrics.get("/metrics", operation_id="get_metrics", response_class=Response)
def get_metrics(service: Served) -> Response:
    """Return all metrics as Prometheus reads them."""
    return Response(service.metrics.render(), media_type=CONTENT_TYPE)
