"""Which wire protocol a request speaks.

Knows paths and headers. Knows nothing of bodies.
"""

import enum


class Protocol(enum.StrEnum):
    """Whose error envelopes and events a client expects."""

    ANTHROPIC = "anthropic"
    OPENAI = "openai"


def protocol_of(path: str, headers: dict[str, str]) -> Protocol:
    """The path decides; where both protocols share one, the version header that every Anthropic client sends."""
    if path.startswith("/v1/messages"):
        return Protocol.ANTHROPIC
    if path.startswith(("/v1/chat/", "/v1/responses")):
        return Protocol.OPENAI
    return Protocol.ANTHROPIC if "anthropic-version" in headers else Protocol.OPENAI
