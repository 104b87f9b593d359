"""The streams of both completions APIs, as far as they are the same: what each chunk begins with, comments, failures, the end.

Knows the wire. Knows nothing of what is answered.
"""

import time
import uuid
from collections.abc import Sequence

import attrs

from semantic_trio.adapters.http.common.faults import fault_of, openai_error
from semantic_trio.adapters.http.common.protocol import Protocol
from semantic_trio.adapters.http.openai.common.usage import CompletionUsage
from semantic_trio.adapters.http.serving.sse import encode_event
from semantic_trio.domain.errors import SemanticError

PING = b": ping\n\n"  # each data line would be parsed as a chunk
DONE = b"data: [DONE]\n\n"


@attrs.frozen
class Head:
    """What tells one completion from others."""

    id: str
    created: int  # seconds since 1970, UTC
    model: str

    @classmethod
    def new(cls, kind: str, model: str) -> "Head":
        """Of a completion that begins now; its id begins with the kind."""
        return cls(f"{kind}-{uuid.uuid4().hex}", int(time.time()), model)


@attrs.frozen
class Chunks:
    """How the chunks of one completion are written."""

    kind: str
    head: Head
    with_usage: bool  # then every chunk has a place for it, and the last one tells it

    def chunk(self, choices: Sequence[object], usage: CompletionUsage | None = None, **more: object) -> bytes:
        """One event."""
        head = self.head
        event: dict[str, object] = {"id": head.id, "object": self.kind, "created": head.created, "model": head.model, "choices": choices, **more}
        if self.with_usage:
            event["usage"] = usage
        return encode_event(event)

    def ending(self, usage: CompletionUsage, **more: object) -> bytes:
        """The usage when asked for, and `[DONE]`."""
        return (self.chunk([], usage, **more) if self.with_usage else b"") + DONE


def failure(error: SemanticError) -> bytes:
    """The error, and no `[DONE]`."""
    return encode_event(openai_error(fault_of(error, Protocol.OPENAI)))
