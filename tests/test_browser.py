"""The dashboard in a real browser, before a real service: what is seen, what is clicked, and what comes of it."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from evertrain import Project
from evertrain.control import data
from evertrain.server import run
from evertrain.server.service import Options, Service
from evertrain.store import tokens
from evertrain.store.tokens import Role

from .dashboard_kit import ADDRESSES, MARKUP, a_shop

sync_api = pytest.importorskip("playwright.sync_api")
sync_api.expect.set_options(timeout=30_000)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]

SECONDS = 60_000  # a loaded machine is no failure
GRAVE = ("critical", "serious")
# One of each page: filters draw nothing new.
PAGES = [one for one in ADDRESSES if "?" not in one]


@contextmanager
def serving(project: Project, port: int = 0, **options: Any) -> Iterator[str]:
    """Yield the address of a service of a project, with its loop in this process."""
    listening = run.bind(Options(port=port))
    port = listening.getsockname()[1]
    service = Service(project.opened, Options(port=port, **options))
    server = run._Server(service, run.app.create(service), lambda: None)
    server.install_signal_handlers = lambda: None
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    service.start_loop()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        service.stopping.set()
        service.stop_loop()
        server.should_exit = True
        thread.join(30)
        listening.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    with a_shop(tmp_path_factory.mktemp("shop")) as project:
        yield project


@pytest.fixture(scope="module")
def address(shop: Project) -> Iterator[str]:
    with serving(shop) as found:
        yield found


@contextmanager
def tab(browser: Any, *, calm: bool = True, **options: Any) -> Iterator[Any]:
    """Yield a page that must not complain if all is to be `calm`, and must not ask any other host for anything."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    context.set_default_timeout(SECONDS)
    page = context.new_page()
    complaints: list[str] = []
    asked: set[str] = set()
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.add(request.url.split("/")[2]) if "//" in request.url else None)
    yield page
    assert complaints == [] or not calm
    assert len(asked) <= 1, asked
    context.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_page_has_a_serious_fault_of_accessibility(browser, address, theme):
    """axe-core, on every page in both themes, and one of them as narrow as a phone."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    width = 1280 if theme == "light" else 390
    # The checker puts its script into the page, which the policy of the pages would not let it.
    with tab(browser, color_scheme=theme, bypass_csp=True, viewport={"width": width, "height": 844}) as page:
        for path in PAGES:
            page.goto(address + path)
            page.wait_for_selector("#live.on")
            found = [one for one in axe.run(page).response["violations"] if one["impact"] in GRAVE]
            assert not found, (path, [(one["id"], one["nodes"][0]["html"]) for one in found])


def test_every_page_opens_under_the_policy_and_fits_a_phone(browser, address):
    with tab(browser, viewport={"width": 390, "height": 844}) as page:
        for path in PAGES:
            page.goto(address + path)
            page.wait_for_selector("#live.on")
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, path


def test_the_theme_is_kept(browser, address):
    with tab(browser, color_scheme="light") as page:
        page.goto(address)
        paper = "getComputedStyle(document.body).backgroundColor"
        light = page.evaluate(paper)
        page.get_by_role("button", name="Change between light and dark").click()
        assert page.evaluate(paper) != light
        page.goto(f"{address}/runs")
        assert page.evaluate(paper) != light


def test_training_is_asked_for_watched_and_taken_back(browser, address, shop):
    with tab(browser) as page:
        page.goto(address)
        card = page.locator("article", has=page.get_by_role("link", name="line"))
        card.get_by_role("button", name="Retrain now").click()
        dialog = page.locator("#retrain")
        sync_api.expect(dialog).to_contain_text("1 of 1 partitions would be trained")
        dialog.get_by_label("Force").check()
        dialog.get_by_role("button", name="Retrain now").click()
        answer = card.locator(".answer")
        sync_api.expect(answer).to_contain_text("Retraining line in the background: 1 of 1 partitions.")
        answer.get_by_role("link").click()
        sync_api.expect(page.locator("#run-actions")).to_contain_text("succeeded")
        sync_api.expect(page.locator("#log")).to_contain_text("items ended")

        page.goto(f"{address}/models/line")
        page.get_by_role("button", name="Roll back").click()
        dialog = page.locator("#rollback")
        dialog.get_by_label("Serve again").select_option("1.1.0")
        dialog.get_by_label("Why").fill("orders look wrong")
        dialog.get_by_role("button", name="Roll back").click()
        sync_api.expect(page.locator("#say-model")).to_contain_text("1.1.0 serves again")
        sync_api.expect(page.locator("#facts")).to_contain_text("1.1.0")
    assert shop.status().models[1].versions == ["1.1.0"]


def test_a_file_goes_in_and_its_forecast_comes_out(browser, address, tmp_path):
    """Validated, merged, trained: live, and with the announcement of S0-24 where the file was dropped."""
    file = tmp_path / "more.csv"
    file.write_text(f'id,town,day,kg\nnew-1,"{MARKUP}",2026-01-29,5000\n')
    with tab(browser) as page:
        page.goto(f"{address}/data")
        page.locator("input[type=file]").set_input_files(str(file))
        sync_api.expect(page.locator("#steps")).to_contain_text("1 added")
        said = page.locator("#say-upload")
        sync_api.expect(said).to_contain_text("are being updated in the background")
        assert MARKUP in said.inner_text(), "a name that is markup is text here too"
        page.goto(f"{address}/models/kg")
        sync_api.expect(page.locator("#forecast")).to_contain_text("from rows up to 2026-01-29")


def test_one_can_look_first_what_a_file_would_do(browser, address, shop, tmp_path):
    file = tmp_path / "look.csv"
    file.write_text(f'id,town,day,kg\nlook-1,"{MARKUP}",2026-01-30,1\n')
    with tab(browser) as page:
        page.goto(f"{address}/data")
        page.get_by_label("Only look").check()
        page.locator("input[type=file]").set_input_files(str(file))
        sync_api.expect(page.locator("#steps")).to_contain_text("1 would be added")
        sync_api.expect(page.locator("#say-upload")).to_contain_text("would be trained")
    assert "look.csv" not in [batch.source for batch in data.batches(shop.opened, "sales")]


def test_a_file_that_cannot_be_used_is_refused_with_its_line(browser, address, tmp_path):
    file = tmp_path / "bad.csv"
    file.write_text("id,town,day,kg\nnew-2,T,someday,1\n")
    with tab(browser) as page:
        page.goto(f"{address}/data")
        page.locator("input[type=file]").set_input_files(str(file))
        said = page.locator("#say-upload.bad")
        sync_api.expect(said).to_contain_text("line 2")
        sync_api.expect(said).to_contain_text("someday")


def test_notifications_open_in_a_drawer_and_close_by_key(browser, address):
    """S1-21 on channel admin."""
    with tab(browser) as page:
        page.goto(address)
        page.get_by_role("link", name="Notifications").click()
        drawer = page.locator("#drawer")
        sync_api.expect(drawer).to_contain_text("Model retrained: line v1.1.0")
        page.keyboard.press("Escape")
        sync_api.expect(drawer).to_be_hidden()


def test_a_search_finds_a_partition_while_one_types(browser, address):
    with tab(browser) as page:
        page.goto(f"{address}/models/kg")
        page.get_by_role("searchbox").press_sequentially("script")
        sync_api.expect(page.locator("#found a")).to_have_count(1)
        page.locator("#found a").click()
        sync_api.expect(page.get_by_role("heading", name="Partition:")).to_contain_text(MARKUP)


def test_a_broken_stream_is_said_and_heals(browser, shop):
    with tab(browser, calm=False) as page:
        with serving(shop) as address:
            page.goto(address)
            page.wait_for_selector("#live.on")
        live = page.locator("#live")
        sync_api.expect(live).to_contain_text("Not live since", timeout=SECONDS)
        with serving(shop, int(address.rpartition(":")[2])):
            sync_api.expect(live).to_have_text("Live", timeout=SECONDS)


def test_a_viewer_logs_in_looks_and_logs_out(browser, shop):
    with shop.opened.store.write("ana") as tx:
        _, secret = tokens.create(tx, "vera", Role.VIEWER, None)
    with serving(shop, require_token=True) as address, tab(browser) as page:
        page.goto(address)
        assert page.url.endswith("/login")
        page.get_by_label("Token").fill(secret)
        page.get_by_role("button", name="Log in").click()
        sync_api.expect(page.get_by_role("heading", name="Overview")).to_be_visible()
        sync_api.expect(page.locator(".who")).to_contain_text("vera")
        assert page.get_by_role("button", name="Retrain now").count() == 0
        page.get_by_role("button", name="Log out").click()
        sync_api.expect(page.get_by_role("heading", name="Log in")).to_be_visible()
