"""Try every door of the running service: page, upload with its stream, forecasts with and without filters.

python test_integration.py [http://localhost:8000]
"""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

UPLOAD = Path(__file__).with_name("test_upload.csv")
MARK = "a-line-that-is-in-no-file"


def asked(url: str, body: bytes | None = None, kind: str = "application/json") -> Any:
    """Return an open answer."""
    request = urllib.request.Request(url, body, {"Content-Type": kind} if body is not None else {})
    return urllib.request.urlopen(request, timeout=600)


def uploaded(url: str, file: Path) -> Iterator[dict[str, Any]]:
    """Send a file as a browser does, and yield the messages as they come."""
    head = f'--{MARK}\r\nContent-Disposition: form-data; name="file"; filename="{file.name}"\r\nContent-Type: text/csv\r\n\r\n'
    body = head.encode() + file.read_bytes() + f"\r\n--{MARK}--\r\n".encode()
    with asked(f"{url}/retrain", body, f"multipart/form-data; boundary={MARK}") as answer:
        named = False
        for line in answer:
            text = line.decode().strip()
            named = (named or text.startswith("event:")) and bool(text)
            if text.startswith("data:") and not named:
                yield json.loads(text.removeprefix("data:"))


def forecast(url: str, **wanted: Any) -> Any:
    """Return a forecast."""
    with asked(f"{url}/forecast", json.dumps(wanted).encode()) as answer:
        return json.load(answer)


def main(url: str = "http://localhost:8000") -> None:
    """Go through all of it; what is not as it should be is said and ends it."""
    with asked(f"{url}/static/retrain.html") as page:
        assert b"Upload &amp; Retrain" in page.read(), "the page is not there"
    print("page: there")

    last: dict[str, Any] = {}
    for last in uploaded(url, UPLOAD):
        if last["type"] == "progress":
            print(f"  {last['data']}")
    assert last["type"] == "result", last
    assert last["data"]["status"] == "success", last
    print(f"upload: {last['data']['meta'].get('outcome', 'its rows were known')}")

    everything = forecast(url, days=7)
    assert len(everything["forecast"]) == 7, everything
    assert not everything["model"]["temporary"], "the champion answers"
    own = forecast(url, days=7, product_id="P001")
    assert own["filters"] == {"product_id": "P001"}, own
    assert own["inventory"]["reorder_point"] > 0, own
    print(f"forecast: {sum(one['sales'] for one in everything['forecast']):.0f} in a week, order P001 at"
          f" {own['inventory']['reorder_point']:.0f}")  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
