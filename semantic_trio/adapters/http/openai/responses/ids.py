"""Ids of responses and of their items: an item's id contains that of its response.

Knows ids. So an item that is referred to by its id alone can be looked up in a store that knows
responses only.
"""

import re
import uuid

RESPONSE = "resp_"
ITEM = re.compile(r"[a-z]+_([0-9a-f]{32})_i?\d+")


def new_stem() -> str:
    """Return a new stem, which all ids of a response share."""
    return uuid.uuid4().hex


def response_id(stem: str) -> str:
    """Return the id of a response."""
    return RESPONSE + stem


def item_id(kind: str, stem: str, at: int) -> str:
    """Return the id of an item of a response's output."""
    return f"{kind}_{stem}_{at}"


def input_id(stem: str, at: int) -> str:
    """Return the id of an input item that came without one."""
    return f"item_{stem}_i{at}"


def response_of(item: str) -> str | None:
    """Return the id of the response of an item; None where this server has not made the item's
    id.
    """
    found = ITEM.fullmatch(item)
    return RESPONSE + found[1] if found else None
