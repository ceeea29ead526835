"""The dashboard: pages that show how a project stands and let people act; rendered here, mounted by the server.

Pages read through `control` alone, and act through the HTTP API with the one script in `STATIC`.
"""

from evertrain.dashboard import figures, lists, model, overview, runs
from evertrain.dashboard.page import STATIC, Page, error_page, login_page, prepare

PAGES: tuple[Page, ...] = (
    Page("/", "Overview", overview.render),
    Page("/models/{name}", "Model", model.render),
    Page("/runs", "Runs", runs.render),
    Page("/runs/{id}", "Run", runs.one),
    Page("/data", "Data", lists.data),
    Page("/schedules", "Schedules", lists.schedules),
    Page("/decisions", "Decisions", lists.decisions),
    Page("/events", "Events", lists.events),
    Page("/report", "Report", figures.render),
    Page("/notifications", "Notifications", lists.notifications),
)

__all__ = ["PAGES", "STATIC", "Page", "error_page", "login_page", "prepare"]
