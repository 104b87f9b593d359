"""Validators of single settings. Each raises `ValueError` that names the setting and the value."""

import re
from collections.abc import Callable
from typing import Any

import attrs

# Tokens of a conversation. With less than one block there is no room for the words of a chat
# template, a question and an answer.
LEAST_CONTEXT, MOST_CONTEXT = 256, 16_777_216
# An origin as browsers send it; `null` is that of a file.
ORIGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/\s*]+/?|null")
# The address of a collector, without credentials: it stands in the log.
ENDPOINT = re.compile(
    r"https?://[^/\s@:?#]+(:[0-9]{1,5})?(/[^\s?#]*)?|https?://\[[0-9a-fA-F:]+\](:[0-9]{1,5})?(/[^\s?#]*)?"
)
# Address of a daemon that is sent to by UDP, an IPv6 address in brackets.
DAEMON = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")

Validator = Callable[[Any, "attrs.Attribute[Any]", Any], None]  # as attrs types validators


def between(low: float, high: float) -> Validator:
    """Refuse numbers outside of a range, whose ends are allowed."""

    def check(_: object, attribute: "attrs.Attribute[Any]", value: float) -> None:
        if not low <= value <= high:
            raise ValueError(f"{attribute.name}: {value} is out of range: {low:,} to {high:,}")

    return check


def one_of(*allowed: int) -> Validator:
    """Refuse numbers that are none of these."""

    def check(_: object, attribute: "attrs.Attribute[int]", value: int) -> None:
        if value not in allowed:
            raise ValueError(f"{attribute.name}: {value} is none of {', '.join(map(str, allowed))}")

    return check


def context_tokens(_: object, attribute: "attrs.Attribute[int]", value: int) -> None:
    """Refuse lengths of a context that no model can be served with; 0 is the model's own."""
    if value and not LEAST_CONTEXT <= value <= MOST_CONTEXT:
        raise ValueError(
            f"{attribute.name}: {value} is out of range: {LEAST_CONTEXT} to {MOST_CONTEXT:,}, or 0"
        )


def aliases(
    _: object, attribute: "attrs.Attribute[tuple[str, ...]]", value: tuple[str, ...]
) -> None:
    """Refuse pairs that do not name an alias and a model."""
    for pair in value:
        alias, _equals, model = pair.partition("=")
        if not alias.strip(" *") or not model.strip():
            raise ValueError(f"{attribute.name}: {pair!r} is no alias: write alias=model")


def origins(
    _: object, attribute: "attrs.Attribute[tuple[str, ...]]", value: tuple[str, ...]
) -> None:
    """Refuse text that no browser sends as an origin, `*` among it: every page of the web could use
    this machine.
    """
    for origin in value:
        if not ORIGIN.fullmatch(origin):
            raise ValueError(
                f"{attribute.name}: {origin!r} is no origin: write scheme://host or "
                "scheme://host:port"
            )


def daemon_address(_: object, attribute: "attrs.Attribute[str]", value: str) -> None:
    """Refuse what is no `host:port`; empty: none."""
    found = DAEMON.fullmatch(value)
    if value and not (found and 0 < int(found[1]) < 65_536):
        raise ValueError(f"{attribute.name}: {value!r} is no address of a daemon: write host:port")


def collector_address(_: object, attribute: "attrs.Attribute[str]", value: str) -> None:
    """Refuse what is no address of a collector; empty: none."""
    if value and not ENDPOINT.fullmatch(value):
        raise ValueError(
            f"{attribute.name}: {value!r} is no address of a collector: write http://host:port, "
            "with a path if it has one"
        )
