"""Limits that all protocols share: tokens of an answer, messages and tools of a conversation.

Knows numbers. As on other servers, -1 is an answer without a limit of its own.
"""

from typing import Annotated

import msgspec

from semantic_trio.domain.errors import InvalidRequestError

NO_LIMIT = -1
# More than any conversation has; the event loop pays for each.
MOST_MESSAGES = 20_000
# More than any client offers; each is read, sorted and written into the prompt before the length of
# the prompt is known.
MOST_TOOLS = 4_096

MaxTokens = Annotated[int, msgspec.Meta(ge=NO_LIMIT, extra_json_schema={"not": {"const": 0}})]


def token_limit(request: object, *fields: str) -> int | None:
    """Return the limit in the first of these fields that is given; None for as much as the context
    leaves.

    Raises `InvalidRequestError` for 0.
    """
    field, limit = next(
        ((field, given) for field in fields if (given := getattr(request, field)) is not None),
        ("", None),
    )
    if limit == 0:
        raise InvalidRequestError("Expected `int` >= 1, or -1 for no limit", field, quotes=False)
    return None if limit == NO_LIMIT else limit
