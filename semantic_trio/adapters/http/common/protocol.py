"""The wire protocol of a request.

Knows paths and headers. Knows nothing of bodies.
"""

import enum


class Protocol(enum.StrEnum):
    """The protocol whose errors and events a client expects."""

    ANTHROPIC = "anthropic"
    OPENAI = "openai"


def protocol_of(path: str, headers: dict[str, str]) -> Protocol:
    """Return the protocol of a path; of a path that both have, that of the version header, which
    every Anthropic client sends.
    """
    if path.startswith("/v1/messages"):
        return Protocol.ANTHROPIC
    if path.startswith(("/v1/chat/", "/v1/responses")):
        return Protocol.OPENAI
    return Protocol.ANTHROPIC if "anthropic-version" in headers else Protocol.OPENAI
