"""Cross-origin requests of web pages: preflights, and the headers without which a browser hides an
answer from the page.

Knows headers of the fetch standard; `access.py` decides which origins are admitted. Source:
https://fetch.spec.whatwg.org/#http-cors-protocol.
"""

import re
from collections.abc import Mapping

Header = tuple[bytes, bytes]

# Answers differ by origin, so no cache may give the answer for one origin to another.
VARY: Header = (b"vary", b"origin")
METHODS = b"GET, HEAD, POST, PUT, DELETE, OPTIONS"
# Seconds for which a browser may remember a preflight; more than two hours is ignored by all of
# them.
MAX_AGE_SECONDS = 7200
# Headers of an answer that a page may read, beside the few that it always may.
EXPOSED = (
    b"request-id, x-request-id, retry-after, x-should-retry, x-semantic-cache, x-semantic-unread, "
    b"content-disposition"
)
# Names of headers, with commas between them.
NAMES = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+(?:[ \t]*,[ \t]*[A-Za-z0-9!#$%&'*+.^_`|~-]+)*")


def is_preflight(method: str, headers: Mapping[str, str]) -> bool:
    """Return True for a preflight: a browser asks whether a page may send a request, and sends
    neither a key nor a body.
    """
    return (
        method == "OPTIONS" and "origin" in headers and "access-control-request-method" in headers
    )


def answer_headers(origin: str) -> list[Header]:
    """Return the headers that let a page of an admitted origin read a response, errors and streams
    included.
    """
    return [
        (b"access-control-allow-origin", origin.encode("latin1")),
        (b"access-control-expose-headers", EXPOSED),
    ]


def preflight_headers(headers: Mapping[str, str]) -> list[Header]:
    """Return the headers of a preflight's response: every method, and the headers that the page
    wants to send.

    The names are sent back because `*` does not stand for `authorization`.
    """
    found = [
        (b"access-control-allow-methods", METHODS),
        (b"access-control-max-age", str(MAX_AGE_SECONDS).encode()),
        (b"vary", b"access-control-request-method, access-control-request-headers"),
    ]
    wanted = headers.get("access-control-request-headers", "")
    if NAMES.fullmatch(wanted):
        found.append((b"access-control-allow-headers", wanted.encode("latin1")))
    # a page of a public site to this machine
    if headers.get("access-control-request-private-network") == "true":
        found.append((b"access-control-allow-private-network", b"true"))
    return found
