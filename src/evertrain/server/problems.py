"""What every answer of the service carries, and the answers that are given before any route is asked."""

from __future__ import annotations

import json
from collections.abc import Iterable
from http import HTTPStatus

Headers = list[tuple[bytes, bytes]]

# Nothing but files of our own, and no page of others around ours; so no inline script and no inline style (CSP level 3).
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
PROTECTION: tuple[tuple[bytes, bytes], ...] = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


def problem(status: int, detail: str, headers: Iterable[tuple[bytes, bytes]] = ()) -> tuple[Headers, bytes]:
    """Return headers and body of an answer in the one shape of all errors (RFC 9457)."""
    title = HTTPStatus(status).phrase
    # ASCII only: what a client sent and gets told again may hold a lone surrogate, which UTF-8 has no bytes for.
    body = json.dumps({"type": "about:blank", "title": title, "status": status, "detail": detail}).encode()
    own = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
    ]
    return [*own, *headers], body


def raw(status: int, detail: str) -> bytes:
    """Return a whole HTTP/1.1 answer that ends its connection, for what is no request at all."""
    headers, body = problem(status, detail, [*PROTECTION, (b"connection", b"close")])
    lines = b"".join(b"%s: %s\r\n" % one for one in headers)
    return b"HTTP/1.1 %d %s\r\n%s\r\n%s" % (status, HTTPStatus(status).phrase.encode(), lines, body)
