"""Paths of requests, as the routes spell them.

Knows base URLs that clients get slightly wrong. Knows no protocol. No two routes have the same path after this, so nothing becomes ambiguous.
"""

import re
from collections.abc import Iterable

import attrs
from hypercorn.typing import HTTPScope

API_PREFIX = "/v1/"
SLASHES = re.compile(r"/{2,}")
# A base URL that ends in /v1, and a client that adds its own.
REPEATED_PREFIX = re.compile(r"^(?:/v1)+(?=/v1(?:/|$))")


@attrs.frozen
class Paths:
    """The paths of one application."""

    api_names: frozenset[str]  # first segment of each path below /v1/

    @classmethod
    def of(cls, rules: Iterable[str]) -> "Paths":
        """The paths behind the URL rules of an application."""
        return cls(frozenset(rule.split("/")[2] for rule in rules if rule.startswith(API_PREFIX)))

    def normalised(self, scope: HTTPScope) -> HTTPScope:
        """The scope with the path that the routes know: single slashes, none at the end, `/v1` once and where the API has it."""
        path = REPEATED_PREFIX.sub("", SLASHES.sub("/", scope["path"]))
        path = path.rstrip("/") or "/"
        if path.split("/")[1] in self.api_names:
            path = f"/v1{path}"
        return scope if path == scope["path"] else {**scope, "path": path, "raw_path": path.encode()}
