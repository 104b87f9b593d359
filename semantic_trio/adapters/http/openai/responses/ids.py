"""Names of responses and of their items: an item's says which response it belongs to.

Knows ids. What refers to an item by its id alone can so be looked up in a store that knows responses only.
"""

import re
import uuid

RESPONSE = "resp_"
ITEM = re.compile(r"[a-z]+_([0-9a-f]{32})_i?\d+")


def new_stem() -> str:
    """What all ids of a new response have in common."""
    return uuid.uuid4().hex


def response_id(stem: str) -> str:
    """The id of a response."""
    return RESPONSE + stem


def item_id(kind: str, stem: str, at: int) -> str:
    """The id of an item of a response's output."""
    return f"{kind}_{stem}_{at}"


def input_id(stem: str, at: int) -> str:
    """The id of an item that came with the request for a response, and had none."""
    return f"item_{stem}_i{at}"


def response_of(item: str) -> str | None:
    """The id of the response an item belongs to; None where the item's id is none of ours."""
    found = ITEM.fullmatch(item)
    return RESPONSE + found[1] if found else None
