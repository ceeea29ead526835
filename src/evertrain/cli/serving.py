"""The service: HTTP, pages, live streams, and the loop."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evertrain.cli import here, show
from evertrain.cli.here import app

if TYPE_CHECKING:
    from fastapi import APIRouter


@app.command()
def serve(
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; other than loopback needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port to listen on.")] = 8000,
    loop: Annotated[bool, typer.Option("--loop/--no-loop", help="Keep the models fresh as well.")] = True,
    workers: Annotated[int, typer.Option("--workers", min=1, max=64, help="Processes that answer.")] = 1,
    require_token: Annotated[bool, typer.Option("--require-token", help="Ask for a token on loopback, too.")] = False,
    behind_proxy: Annotated[
        list[str] | None,
        typer.Option(
            "--behind-proxy", metavar="ADDRESS", help="Proxy whose X-Forwarded headers are believed; may be repeated."
        ),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allowed-host", metavar="NAME", help="A name that clients use for this machine; may be repeated."
        ),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option("--cors-origin", metavar="ORIGIN", help="Origin whose pages may call the API; may be repeated."),
    ] = None,
    certfile: Annotated[str | None, typer.Option("--ssl-certfile", help="Certificate, for HTTPS.")] = None,
    keyfile: Annotated[str | None, typer.Option("--ssl-keyfile", help="Its private key.")] = None,
    upload_mb: Annotated[
        int, typer.Option("--upload-mb", min=1, help="Largest file that may be uploaded, in MB.")
    ] = 50,
) -> None:
    """Serve forecasts, predictions, the API and the dashboard, and keep the models fresh."""
    from evertrain.control import opened as use
    from evertrain.server import run
    from evertrain.server.service import Options, Service

    options = Options(
        host, port, loop, workers, require_token, tuple(behind_proxy or ()), tuple(allowed_host or ()),
        tuple(cors_origin or ()), certfile, keyfile, upload_bytes=upload_mb << 20,
    )  # fmt: skip
    with here.opened(keeper=True, terminal=True) as opened:
        service = Service(opened, options)
        service.check()
        for change in use.reload(opened):
            show.line(change)
        listening = run.bind(options)

        def ready() -> None:
            names = ", ".join(opened.project().models) or "no models yet"
            show.line(
                f"Serving {names} at {options.address}. Ctrl-C ends it; what runs gets {opened.settings.drain_s:g} s."
            )
            if not options.loopback and not options.certfile and not options.behind_proxy:
                show.line(
                    "Tokens travel in plain text: --ssl-certfile, or a proxy with --behind-proxy, protects them.",
                    style="yellow",
                )
            show.following("status")

        worker = [sys.executable, "-m", "evertrain.cli.serving", str(opened.home.root)]
        run.serve(service, listening, routers(), assets(), on_ready=ready, worker=worker if workers > 1 else ())
    show.line("The service ended; models serve on.")
    show.following("serve")


def routers() -> Sequence[APIRouter]:
    """Return the routes beside those of the service itself: the names of systems that people come from."""
    from evertrain.compat import routes

    return routes.routers


def assets() -> Sequence[Path]:
    """Return the folders of static files beside those of the service itself."""
    from evertrain.compat import routes

    return [routes.STATIC]


def _worker() -> None:
    """Answer beside the first process of a service, on the socket that it handed over."""
    import os
    import socket
    from dataclasses import replace

    from evertrain.control.opened import open_project
    from evertrain.executors.child import end_with_parent
    from evertrain.server import run
    from evertrain.server.service import Options, Service

    root, descriptor, given = Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
    end_with_parent(os.getppid())
    from evertrain.cli.logs import log_to

    log_to(root / "logs" / "retraining.log")
    lists = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    options = replace(Options(**{**given, **lists}), loop=False, workers=1)
    service = Service(open_project(root, actor=here.user()), options)
    run.serve(service, socket.socket(fileno=descriptor), routers(), assets())


if __name__ == "__main__":
    _worker()
