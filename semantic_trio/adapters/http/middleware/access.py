"""Access rules: the host a request names, the page it came from, the key it carries.

Knows headers. Raises `Fault`. A web page can make a browser send requests to this machine. It
cannot choose their `Host` and cannot hide their `Origin`: these two tell such requests from those
of the user's own programs.
"""

import hmac
import ipaddress
from urllib.parse import urlsplit

import attrs

from semantic_trio.adapters.http.common.browsers import wants_page
from semantic_trio.adapters.http.common.faults import Fault
from semantic_trio.adapters.http.common.protocol import Protocol, protocol_of
from semantic_trio.adapters.http.serving.app_state import HttpSettings

# Probes carry no key, and neither does what a browser loads before it can ask its user for one:
# files of the package, the same for everybody.
OPEN_PATHS, OPEN_PREFIXES = (
    frozenset({"/healthz", "/dashboard"}),
    ("/health/", "/dashboard/static/"),
)
# Messages for a wrong key. Claude Code matches Anthropic's words, and asks its user for another
# key.
WRONG_KEY = {
    Protocol.ANTHROPIC: "invalid x-api-key",
    Protocol.OPENAI: "missing or wrong API key: send it as Authorization: Bearer or x-api-key",
}


@attrs.frozen
class Access:
    """The access rules of one server."""

    settings: HttpSettings

    def check(self, path: str, headers: dict[str, str]) -> None:
        """Raise `Fault` 403 for a foreign host or page, 401 without the key."""
        self.check_page(headers)
        if self.settings.api_key is not None and not _is_open(path, headers):
            self._check_key(self.settings.api_key, headers, protocol_of(path, headers))

    def check_page(self, headers: dict[str, str]) -> None:
        """Raise `Fault` 403 for a foreign host or page."""
        host, origin = headers.get("host", ""), headers.get("origin", "")
        if host and not self._is_ours(host):
            raise Fault(
                403,
                (
                    f"requests for host {host!r} are not answered; name it in allowed_hosts if it "
                    "is this server"
                ),
            )
        if origin and not self.admits(origin):
            raise Fault(
                403,
                (
                    f"requests from pages of {origin!r} are not answered; name it in "
                    "allowed_origins if they are to be"
                ),
            )

    def admits(self, origin: str) -> bool:
        """True if pages of an origin may send requests and read their answers."""
        if origin.lower() in {
            allowed.lower().rstrip("/") for allowed in self.settings.allowed_origins
        }:
            return True
        scheme, _, authority = origin.partition("://")
        if scheme in {"http", "https"}:
            return self._is_ours(authority)
        # what sandboxed pages send; desktop programs have schemes of their own
        return origin != "null"

    def _is_ours(self, authority: str) -> bool:
        settings = self.settings
        if settings.allow_remote and not settings.allowed_hosts:
            return True  # remote access needs a key, which a rebinding page lacks
        try:
            name = (urlsplit(f"//{authority}").hostname or "").rstrip(".")
        except ValueError:
            return False
        return is_loopback(name) or name in {
            host.lower().strip("[]") for host in (settings.host, *settings.allowed_hosts)
        }

    def _check_key(self, key: str, headers: dict[str, str], protocol: Protocol) -> None:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        offered = (
            headers.get("x-api-key", ""),
            token.strip() if scheme.lower() == "bearer" else "",
        )
        matches = [hmac.compare_digest(candidate.encode(), key.encode()) for candidate in offered]
        if not any(matches):
            raise Fault(401, WRONG_KEY[protocol], code="invalid_api_key")


def _is_open(path: str, headers: dict[str, str]) -> bool:
    """Return True for what needs no key.

    A browser that opens `/` is sent to the page, which asks for the key.
    """
    is_sent_on = path == "/" and wants_page(headers.get("accept", ""))
    return is_sent_on or path in OPEN_PATHS or path.startswith(OPEN_PREFIXES)


def is_loopback(name: str) -> bool:
    """Return True if a host name or address means this machine."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
