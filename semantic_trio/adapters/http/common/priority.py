"""The priority of a request: what its header or its `service_tier` says.

Knows the header and OpenAI's tiers. Knows nothing of queues.
"""

from collections.abc import Mapping
from typing import Literal

from semantic_trio.domain.errors import InvalidRequestError
from semantic_trio.domain.priority import Priority

# For every API, and before `service_tier` where both are sent: a proxy or a command line sets it
# for a client whose body it does not write.
PRIORITY_HEADER = "X-Semantic-Priority"

# The tiers of OpenAI's APIs that a response can name.
ServedTier = Literal["default", "flex"]
# OpenAI's tier for cheap work that may wait. All other tiers ask for no less than the usual.
FLEX: Literal["flex"] = "flex"


def priority_of(headers: Mapping[str, str], service_tier: str | None = None) -> Priority:
    """Return the priority of a request.

    Raises `InvalidRequestError` for a header with another value than the two.
    """
    given = headers.get(PRIORITY_HEADER.lower())
    if given is None:
        return Priority.BACKGROUND if service_tier == FLEX else Priority.INTERACTIVE
    try:
        return Priority(given.strip().lower())
    except ValueError:
        known = " or ".join(Priority)
        raise InvalidRequestError(f"the header is {known}", PRIORITY_HEADER, quotes=False) from None


def served_tier(priority: Priority) -> ServedTier:
    """Return the tier that a request was served with, in OpenAI's words."""
    return FLEX if priority is Priority.BACKGROUND else "default"
