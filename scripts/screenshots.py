"""Writes a picture of every page into a folder: light, dark, and as wide as a phone.

    python scripts/screenshots.py PROJECT [PROJECT …] --into docs/screenshots

Each project is served on a free port of this machine, without a loop, so that nothing moves while it is drawn.
Pictures of the first project are named by page; those of the others have the project's folder before that.
"""

import argparse
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

MODES = {
    "light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 800}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1280, "height": 800}},
    "phone": {"color_scheme": "light", "viewport": {"width": 390, "height": 844}},
}
PAGES = {
    "overview": "/", "runs": "/runs", "data": "/data", "schedules": "/schedules", "decisions": "/decisions",
    "events": "/events", "report": "/report?last=365d", "notifications": "/notifications",
}  # fmt: skip
PATIENCE_S = 60
TALLEST = 1600  # what is further down is more of the same


@contextlib.contextmanager
def served(project):
    """Serve a project until the block ends; yield its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "evertrain", "-C", str(project), "serve", "--port", str(port), "--no-loop"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                urllib.request.urlopen(f"{address}/health", timeout=5).close()
                break
            if process.poll() is not None:
                sys.exit(f"{project} cannot be served: see above")
            time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def shoot(browser, address, folder, before):
    """Write every page of one service; return how many pictures that were."""
    number = 0
    for mode, options in MODES.items():
        context = browser.new_context(**options, reduced_motion="reduce")
        page = context.new_page()
        page.goto(address)
        models = [one.get_attribute("href") for one in page.locator("article h3 a").all()]
        pages = {**PAGES, **{f"model-{Path(one).name}": one for one in models}}
        page.goto(f"{address}/runs")
        with contextlib.suppress(IndexError):
            pages["run"] = page.locator("#list td a").all()[0].get_attribute("href")
        for name, path in pages.items():
            page.goto(address + path)
            page.wait_for_selector("#live.on")
            high = min(page.evaluate("document.documentElement.scrollHeight"), TALLEST)
            clip = {"x": 0, "y": 0, "width": options["viewport"]["width"], "height": high}
            page.screenshot(path=str(folder / f"{before}{name}-{mode}.png"), full_page=True, clip=clip)
            number += 1
        context.close()
    return number


def main():
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("projects", nargs="+", type=Path, help="folders of projects")
    parser.add_argument("--into", type=Path, default=Path("docs/screenshots"))
    given = parser.parse_args()
    given.into.mkdir(parents=True, exist_ok=True)
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for place, project in enumerate(given.projects):
            with served(project) as address:
                number = shoot(browser, address, given.into, f"{project.name}-" if place else "")
            print(f"{number} pictures of {project} in {given.into}")
        browser.close()


if __name__ == "__main__":
    main()
