"""How `evertrain serve` begins and ends: what it says, what it refuses, and in which order it goes."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from evertrain.control.opened import open_project, reload
from evertrain.control.work import loop_alive
from evertrain.errors import ConfigError, Conflict
from evertrain.server import run
from evertrain.server.service import Options, Service
from evertrain.store import tokens
from evertrain.store.tokens import Role

from .conftest import TOYS, write_rows
from .process_kit import until

DECLARED = """
name = "shop"

[sources.rows]
path = "rows.csv"

[models.line]
source = "rows"
target = "y"
features = ["x"]
trainer = "toys:Line"
min_samples = 10
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "toys.py").write_text(TOYS.read_text())
    (tmp_path / "evertrain.toml").write_text(DECLARED)
    write_rows(tmp_path / "rows.csv", 40)
    return tmp_path


@pytest.fixture
def service(root: Path) -> Iterator[Service]:
    opened = open_project(root)
    reload(opened)
    found = Service(opened)
    yield found
    found.close()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def serving(root: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "evertrain", "-C", str(root), "serve", "--port", str(port), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        address = f"http://127.0.0.1:{port}"
        until(lambda: process.poll() is not None or _answers(address), 60, "the service answers")
        yield process, address
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


@pytest.mark.slow
def test_serve_answers_keeps_fresh_and_ends_with_code_0(root):
    """One command: HTTP and the loop; SIGTERM ends both in good order, and the next line works when pasted."""
    with serving(root) as (process, _):
        with closing(open_project(root)) as opened:
            until(lambda: loop_alive(opened), 20, "the loop of the service")
            until(lambda: _trained(opened), 60, "the first training")
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    assert re.search(r"Serving line at http://127\.0\.0\.1:\d+\. Ctrl-C ends it", out)
    assert out.strip().splitlines()[-1].startswith("Next: ")


def _trained(opened) -> bool:
    with opened.store.read() as tx:
        return bool(tx.value("SELECT count(*) FROM fits"))


@pytest.mark.slow
def test_a_further_process_answers_and_is_replaced_when_it_dies(root):
    with serving(root, "--workers", "2", "--no-loop") as (process, address):

        def others() -> list[int]:
            found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False)
            return [int(one) for one in found.stdout.split()]

        (first,) = until(others, 20, "the further process")
        subprocess.run(["kill", "-KILL", str(first)], check=True)
        until(lambda: others() and others() != [first], 20, "its replacement")
        assert _answers(address)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=40)
        assert process.returncode == 0


def test_a_taken_port_is_named_with_the_way_out(service):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(Conflict, match=rf"127.0.0.1:{port} cannot be used.*--port"):
            run.bind(Options(port=port))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "shop.example"])
def test_elsewhere_than_loopback_it_does_not_begin_without_a_token(service, host):
    """A-02."""
    service.options = Options(host, allowed_hosts=("shop.example",))
    with pytest.raises(Conflict, match="evertrain token create"):
        service.check()
    with service.opened.store.write() as tx:
        token, _ = tokens.create(tx, "boss", Role.ADMIN, timedelta(hours=1))
    service.check()
    with service.opened.store.write() as tx:
        tokens.revoke(tx, token.id)
    with pytest.raises(Conflict, match="token"):
        service.check()


def test_on_every_address_it_does_not_begin_without_a_name_for_clients(service):
    """A-10: without one, any Host header would have to be believed."""
    with service.opened.store.write() as tx:
        tokens.create(tx, "boss", Role.ADMIN, None)
    service.options = Options("0.0.0.0")
    with pytest.raises(ConfigError, match="--allowed-host"):
        service.check()


def test_a_proxy_on_this_machine_speaks_for_the_world(service):
    service.options = Options(behind_proxy=("127.0.0.1",))
    assert service.options.needs_token
    with pytest.raises(Conflict, match="--behind-proxy"):
        service.check()


def test_a_service_that_ends_begins_no_loop(service):
    service.stopping.set()
    with pytest.raises(Conflict, match="about to end"):
        service.start_loop()


def test_the_loop_can_be_stopped_and_begun_again(service):
    assert service.start_loop()
    until(lambda: loop_alive(service.opened), 10, "the loop")
    assert not service.start_loop()
    assert service.stop_loop()
    until(lambda: not loop_alive(service.opened), 10, "the end of the loop")
    service.wait_for_loop(5)
    assert not service.stop_loop()
    assert service.start_loop()


def test_a_loop_that_fails_begins_anew(service, monkeypatch):
    """P-24: whatever a round raises, the models are kept fresh on."""
    monkeypatch.setattr("evertrain.server.service._AGAIN_S", 0.01)
    rounds = []

    def fails_once(self) -> None:
        rounds.append(self)
        if len(rounds) == 1:
            raise RuntimeError("our own mistake")

    monkeypatch.setattr("evertrain.loop.Loop._round", fails_once)
    service.start_loop()
    until(lambda: len(rounds) > 2, 10, "rounds after the failure")
    assert rounds[0] is not rounds[-1]
    assert service.loop.age_s < 5


def test_a_loop_that_is_still_ending_is_not_said_to_be_on(service, monkeypatch):
    """Who begins monitoring while the last training drains would else be told that it is on, and nothing would be."""
    ended = threading.Event()
    monkeypatch.setattr("evertrain.loop.Loop.run", lambda self, stop: ended.wait(20))
    service.start_loop()
    service.stop_loop()
    with pytest.raises(Conflict, match="still ending"):
        service.start_loop()
    ended.set()
    service.wait_for_loop(5)
    assert service.start_loop()


def test_a_signal_that_a_group_is_told_twice_is_one(service, monkeypatch):
    """Of several processes each hears Ctrl-C, and the further ones hear of it from the first once more."""
    left, now = [], [100.0]
    monkeypatch.setattr("os._exit", left.append)
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("evertrain.server.run._Server._end", lambda self: None)
    server = run._Server(service, None, lambda: None)
    server.handle_exit(signal.SIGINT, None)
    now[0] += 0.9
    server.handle_exit(signal.SIGTERM, None)
    assert (service.stopping.is_set(), left) == (True, [])
    now[0] += 0.2
    server.handle_exit(signal.SIGTERM, None)
    assert left == [128 + signal.SIGTERM]
