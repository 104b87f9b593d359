"""Chunks, as the streams of both completions APIs have them: the head of each chunk, comments,
failures, the end.

Knows the wire. Knows nothing of the content.
"""

import time
import uuid
from collections.abc import Sequence

import attrs

from semantic_trio.adapters.http.common.faults import fault_of, openai_error
from semantic_trio.adapters.http.common.priority import ServedTier
from semantic_trio.adapters.http.common.protocol import Protocol
from semantic_trio.adapters.http.openai.common.usage import CompletionUsage
from semantic_trio.adapters.http.serving.sse import encode_event
from semantic_trio.domain.errors import SemanticError

PING = b": ping\n\n"  # each data line would be parsed as a chunk
DONE = b"data: [DONE]\n\n"


@attrs.frozen
class Head:
    """The fields that identify a completion."""

    id: str
    created: int  # seconds since 1970, UTC
    model: str
    service_tier: ServedTier | None = None  # None: the request says nothing of it

    @classmethod
    def new(cls, kind: str, model: str, service_tier: ServedTier | None = None) -> "Head":
        """Create the head of a completion that begins now; its id begins with the kind."""
        return cls(f"{kind}-{uuid.uuid4().hex}", int(time.time()), model, service_tier)


@attrs.frozen
class Chunks:
    """Encodes the chunks of one completion."""

    kind: str
    head: Head
    with_usage: bool  # true: every chunk has the field, and the last one has the usage

    def chunk(
        self, choices: Sequence[object], usage: CompletionUsage | None = None, **more: object
    ) -> bytes:
        """Encode one event."""
        head = self.head
        event: dict[str, object] = {
            "id": head.id,
            "object": self.kind,
            "created": head.created,
            "model": head.model,
            "choices": choices,
            **more,
        }
        if head.service_tier is not None:
            event["service_tier"] = head.service_tier
        if self.with_usage:
            event["usage"] = usage
        return encode_event(event)

    def ending(self, usage: CompletionUsage, **more: object) -> bytes:
        """Encode the usage where it is asked for, and `[DONE]`."""
        return (self.chunk([], usage, **more) if self.with_usage else b"") + DONE


@attrs.define(eq=False)
class CompletionSignals:
    """The events that a completion may have before its first chunk."""

    ping: bytes = attrs.field(init=False, default=PING)

    def failure(self, error: SemanticError) -> bytes:
        """Encode the error, without `[DONE]`."""
        return encode_event(openai_error(fault_of(error, Protocol.OPENAI)))
