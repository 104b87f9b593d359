"""Request paths, normalised to the paths of the routes.

Knows base URLs that clients get slightly wrong. Knows no protocol. No two routes share a path after
this, so nothing becomes ambiguous.
"""

import re
from collections.abc import Iterable

import attrs
from hypercorn.typing import HTTPScope

API_PREFIX = "/v1/"
SLASHES = re.compile(r"/{2,}")
# The prefix of a client that adds /v1 to a base URL which ends in it.
REPEATED_PREFIX = re.compile(r"^(?:/v1)+(?=/v1(?:/|$))")


@attrs.frozen
class Paths:
    """The route paths of one application."""

    api_names: frozenset[str]  # first segment of each path below /v1/

    @classmethod
    def of(cls, rules: Iterable[str]) -> "Paths":
        """Collect the paths of an application's URL rules."""
        return cls(frozenset(rule.split("/")[2] for rule in rules if rule.startswith(API_PREFIX)))

    def normalised(self, scope: HTTPScope) -> HTTPScope:
        """Return the scope with a path that routes know: single slashes, none at the end, `/v1`
        once where the API has it.
        """
        path = REPEATED_PREFIX.sub("", SLASHES.sub("/", scope["path"]))
        path = "/" + path.strip("/")  # that of `OPTIONS *` and of CONNECT has no slash
        if path.split("/")[1] in self.api_names:
            path = f"/v1{path}"
        return (
            scope if path == scope["path"] else {**scope, "path": path, "raw_path": path.encode()}
        )
