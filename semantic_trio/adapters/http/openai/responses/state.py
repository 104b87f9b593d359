"""Responses of one server: those that are stored, and those that are being generated."""

import attrs

from semantic_trio.adapters.http.openai.responses.active_responses import ActiveResponses
from semantic_trio.adapters.http.openai.responses.response_store import ResponseStoreClient


@attrs.frozen(eq=False)
class ResponsesState:
    """The store of responses, and the responses under way.

    Built once by the entry point, read by the routes of the Responses API.
    """

    store: ResponseStoreClient
    active: ActiveResponses = attrs.field(factory=ActiveResponses)
