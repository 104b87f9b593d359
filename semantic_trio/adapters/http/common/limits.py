"""The most tokens of an answer, and the most messages and tools of a conversation, as every API has them.

Knows numbers. Other servers take -1 for an answer without a limit of its own, and so do these APIs.
"""

from typing import Annotated

import msgspec

from semantic_trio.domain.errors import InvalidRequestError

NO_LIMIT = -1
# More than any conversation has; what it costs to look at one is the event loop's.
MOST_MESSAGES = 20_000
# More than any client offers; each is read, put in order and written into the prompt before it is known that they do not fit.
MOST_TOOLS = 4_096

MaxTokens = Annotated[int, msgspec.Meta(ge=NO_LIMIT, extra_json_schema={"not": {"const": 0}})]


def token_limit(request: object, *fields: str) -> int | None:
    """The limit in the first of these fields that a request has; None for as much as the context leaves. Raises `InvalidRequestError` for 0."""
    field, limit = next(((field, given) for field in fields if (given := getattr(request, field)) is not None), ("", None))
    if limit == 0:
        raise InvalidRequestError("Expected `int` >= 1, or -1 for no limit", field, quotes=False)
    return None if limit == NO_LIMIT else limit
