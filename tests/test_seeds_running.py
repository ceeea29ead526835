"""The documents' scripts and their page against running processes and a real browser."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import uvicorn

from evertrain import Custom, Project, Series, Settings, on_data_change
from evertrain.compat import routes
from evertrain.server import app
from evertrain.server.service import Options, Service

from .conftest import TOYS

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[1] / "examples"


def module(path):
    """Return a script as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_the_commands_of_document_002_run_as_printed(tmp_path):
    """S2-03, S2-12, S2-13, S2-14, S2-15, S2-16, S2-17, S2-38: start, status, trigger, history, config, stop."""
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    for name in ("project.py", "make_data.py", "manage_retraining.py"):
        shutil.copy(EXAMPLES / "manage_retraining" / name, scripts if name.startswith("manage") else tmp_path)

    def typed(line):
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run(
            ["/bin/sh", "-c", line],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        return done.stdout

    typed("python make_data.py")
    try:
        assert "in the background" in typed("python scripts/manage_retraining.py start")
        assert "monitoring since" in typed("python scripts/manage_retraining.py status")
        assert "iris" in typed("python scripts/manage_retraining.py trigger iris")
        typed('echo "new_data" >> data/raw/iris.csv')
        assert "manual" in typed("python scripts/manage_retraining.py history --model iris --limit 10")
        assert "min_samples" in typed("python scripts/manage_retraining.py config --model iris")
    finally:
        assert "Monitoring ended" in typed("python scripts/manage_retraining.py stop")
    translated = module(scripts / "manage_retraining.py").translated
    assert translated(["start", "--iris-data", "/path/to/iris.csv", "--housing-data", "/path/to/housing.csv"]) == [
        "start", "--detach", "--data", "iris=/path/to/iris.csv", "--data", "housing=/path/to/housing.csv"
    ]  # fmt: skip


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """The address of a running service: the shop's rows, with a trainer that costs nothing; nothing is trained yet."""
    root = tmp_path_factory.mktemp("shop")
    shutil.copy(TOYS, root / "toys.py")
    made = [sys.executable, EXAMPLES / "shop_forecast" / "make_data.py", "--days", "60", "--folder", root]
    subprocess.run(made, check=True, capture_output=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root))
        patch.chdir(root)
        project = Project("shop", root=root, settings=Settings(tick_s=0.05, check_s=3600), executor="inline")
        sales = project.dataset("sales", key=["date", "product_id"], time="date")
        project.model("sales", sales, target="sales", trainer=Custom("toys:Repeat"), series=Series(7, "D"),
                      triggers=[on_data_change("0s")])  # fmt: skip
        sales.ingest(root / "large_dataset.csv")
        with socket.create_server(("127.0.0.1", 0)) as listening:
            port = listening.getsockname()[1]
            service = Service(project.opened, Options(port=port))
            guarded = app.create(service, routes.routers, [routes.STATIC])
            server = uvicorn.Server(uvicorn.Config(guarded, lifespan="off", log_config=None))
            service.start_loop()
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
            thread.start()
            yield f"http://127.0.0.1:{port}", root
            service.stopping.set()
            server.should_exit = True
            thread.join()
            service.wait_for_loop(20)
        project.close()


def test_the_integration_script_goes_through_every_door(shop, capsys, monkeypatch):
    """S4-10, S4-12, S4-13, S4-19, S4-20: page, upload of ten rows with its stream, both forecasts."""
    address, root = shop
    assert len((root / "test_upload.csv").read_text().splitlines()) == 11, "a header and ten rows"
    script = module(EXAMPLES / "shop_forecast" / "test_integration.py")
    monkeypatch.setattr(script, "UPLOAD", root / "test_upload.csv")
    script.main(address)
    said = capsys.readouterr().out
    assert said.startswith("page: there\n  Reading uploaded CSV...\n")
    assert "upload: " in said
    assert "order P001 at" in said


def test_the_page_uploads_shows_every_step_and_the_new_forecast(shop, tmp_path):
    """S4-13, S4-15, S4-16: in Chromium, under the content security policy; also what goes wrong is shown."""
    playwright = pytest.importorskip("playwright.sync_api")
    address, root = shop
    last = (root / "test_upload.csv").read_text().splitlines()
    changed = tmp_path / "week.csv"
    changed.write_text("\n".join([last[0], *(f"{line.rpartition(',')[0]},500.0" for line in last[1:])]) + "\n")
    bad = tmp_path / "bad.csv"
    bad.write_text("date,product_id\n2026-01-01,P001\n")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 800})
        problems = []
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(f"{address}/static/retrain.html")
        page.set_input_files("#file", str(changed))
        page.get_by_role("button", name="Upload & Retrain").click()
        page.wait_for_selector("#status.good, #status.bad", timeout=60_000)
        assert page.inner_text("#status").startswith("Done, "), page.inner_text("#status")
        steps = page.locator("#steps li").all_inner_texts()
        assert steps[0] == "Reading uploaded CSV..."
        assert any("training" in one for one in steps), steps
        page.wait_for_selector("#forecast tr")
        assert page.locator("#forecast tr").count() == 7
        assert "order when stock" in page.inner_text("#inventory")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, "it fits a phone"
        page.set_input_files("#file", str(bad))
        page.get_by_role("button", name="Upload & Retrain").click()
        page.wait_for_selector("#status.bad", timeout=60_000)
        assert "sales" in page.inner_text("#status")
        assert problems == []
        browser.close()
