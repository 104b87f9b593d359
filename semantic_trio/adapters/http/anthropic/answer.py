"""What the Messages API answers: a whole message, or its events.

Knows the wire and how generations end. Knows nothing of requests.
"""

from typing import Literal

import attrs

from semantic_trio.adapters.http.faults import anthropic_error, fault_of
from semantic_trio.adapters.http.protocol import Protocol
from semantic_trio.adapters.http.reuse import Cache
from semantic_trio.adapters.http.sse import encode_event
from semantic_trio.domain.errors import SemanticError
from semantic_trio.domain.generation import Finished, FinishReason, GenerationResult

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "model_context_window_exceeded"]

STOP_REASONS: dict[FinishReason, StopReason] = {
    FinishReason.END_OF_TURN: "end_turn",
    FinishReason.STOP_STRING: "stop_sequence",
    FinishReason.MAX_TOKENS: "max_tokens",
    FinishReason.CONTEXT_FULL: "model_context_window_exceeded",
}


@attrs.frozen
class Usage:
    """What a request is billed."""

    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0

    @classmethod
    def of(cls, prompt_tokens: int, reused: int, output_tokens: int, *, has_breakpoints: bool) -> "Usage":
        """Each token of the prompt once: read from memory, written to it for a client that asked so by `cache_control`, or plain input.

        Breakpoints are taken to be at the prompt's end, where clients move their last one to.
        """
        computed = prompt_tokens - reused
        created = computed if has_breakpoints else 0
        return cls(computed - created, output_tokens, created, reused)


@attrs.frozen
class TextContent:
    """A run of text."""

    text: str
    type: Literal["text"] = "text"


@attrs.frozen
class MessageAnswer:
    """A whole message."""

    id: str
    model: str
    content: list[TextContent]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: Usage
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"


@attrs.frozen
class TokenCount:
    """How many tokens a prompt has."""

    input_tokens: int


def usage_of(finished: Finished, *, has_breakpoints: bool) -> Usage:
    """The usage of a generation."""
    return Usage.of(finished.prompt_tokens, finished.reuse.tokens, finished.completion_tokens, has_breakpoints=has_breakpoints)


def whole_message(message_id: str, model: str, result: GenerationResult, *, has_breakpoints: bool) -> MessageAnswer:
    """The answer of a request that does not stream. One without text has no content, as in a stream."""
    finished = result.finished
    return MessageAnswer(
        id=message_id,
        model=model,
        content=[TextContent(result.text)] if result.text else [],
        stop_reason=STOP_REASONS[finished.reason],
        stop_sequence=finished.stop_string,
        usage=usage_of(finished, has_breakpoints=has_breakpoints),
    )


@attrs.define
class MessageEncoder:
    """The events of one message, from `message_start` to `message_stop`."""

    message_id: str
    model: str
    request_id: str
    expected: Usage  # as far as it is known when the stream opens; the last one counts
    has_breakpoints: bool = False
    ping: bytes = encode_event({"type": "ping"}, "ping")
    _block_is_open: bool = attrs.field(init=False, default=False)

    def opening(self) -> bytes:
        """`message_start` and a `ping`: a client that sees these waits."""
        message = MessageAnswer(self.message_id, self.model, [], None, None, self.expected)
        return _event("message_start", message=message) + self.ping

    def text(self, text: str) -> bytes:
        """A delta; before the first one its block begins."""
        delta = _event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})
        if self._block_is_open:
            return delta
        self._block_is_open = True
        return _event("content_block_start", index=0, content_block=TextContent("")) + delta

    def ending(self, finished: Finished) -> bytes:
        """The block's end, the reason, the usage, the message's end."""
        stop = _event("content_block_stop", index=0) if self._block_is_open else b""
        delta = {"stop_reason": STOP_REASONS[finished.reason], "stop_sequence": finished.stop_string}
        usage = usage_of(finished, has_breakpoints=self.has_breakpoints)
        told = _event("message_delta", delta=delta, usage=usage, semantic_cache=Cache.of(finished.reuse))
        return stop + told + _event("message_stop")

    def failure(self, error: SemanticError) -> bytes:
        """The `error` event."""
        fault = fault_of(error, Protocol.ANTHROPIC)
        return encode_event(anthropic_error(fault, self.request_id), "error")


def _event(name: str, **fields: object) -> bytes:
    return encode_event({"type": name, **fields}, name)
