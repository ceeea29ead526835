"""The dashboard: pages that show how a project stands and let people act; rendered here, mounted by the server.

Pages read through `control` alone, and act through the HTTP API with the one script in `STATIC`.
"""

from evertrain.dashboard import model, overview
from evertrain.dashboard.page import STATIC, Page, error_page, login_page

PAGES: tuple[Page, ...] = (Page("/", "Overview", overview.render), Page("/models/{name}", "Model", model.render))

__all__ = ["PAGES", "STATIC", "Page", "error_page", "login_page"]
