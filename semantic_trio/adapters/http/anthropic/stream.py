"""The events of a message that streams.

Knows the order of events: blocks in ascending order, each started, sent in deltas, and stopped
before the next. Knows nothing of requests.
"""

from collections.abc import Iterator

import attrs

from semantic_trio.adapters.http.anthropic.message import (
    NO_INPUT,
    AnswerContent,
    MessageAnswer,
    MessageFormat,
    TextContent,
    ThinkingContent,
    ToolUseContent,
    stop_reason_of,
)
from semantic_trio.adapters.http.anthropic.thinking import Display, signature
from semantic_trio.adapters.http.anthropic.usage import Usage
from semantic_trio.adapters.http.common.cache_report import Cache
from semantic_trio.adapters.http.common.faults import anthropic_error, fault_of
from semantic_trio.adapters.http.common.protocol import Protocol
from semantic_trio.adapters.http.serving.sse import encode_event
from semantic_trio.domain.conversation import (
    AnswerPart,
    CallPiece,
    CutCall,
    Text,
    Thinking,
    ToolCall,
)
from semantic_trio.domain.errors import SemanticError
from semantic_trio.domain.generation import Finished

# Most characters of a call's arguments in one event: some clients show arguments as they arrive.
PIECE_CHARACTERS = 4096


@attrs.define
class MessageSignals:
    """The events that a message may have before `message_start`."""

    request_id: str
    ping: bytes = attrs.field(init=False, default=encode_event({"type": "ping"}, "ping"))

    def failure(self, error: SemanticError) -> bytes:
        """Encode the `error` event."""
        fault = fault_of(error, Protocol.ANTHROPIC)
        return encode_event(anthropic_error(fault, self.request_id), "error")


@attrs.define
class MessageEncoder(MessageSignals):
    """Encodes `message_start` to `message_stop`.

    Leading blanks are held back until text follows: clients send no blank block back.
    """

    answer_format: MessageFormat
    expected: Usage  # the usage as known when the stream opens; the last one counts
    _index: int = attrs.field(init=False, default=0)  # of the open block, or of the next
    _has_calls: bool = attrs.field(init=False, default=False)
    # of the current block
    _kind: type[Text] | type[Thinking] = attrs.field(init=False, default=Text)
    _pieces: list[str] = attrs.field(init=False, factory=list)  # text of the current block so far
    # True when the block's start event was sent
    _is_open: bool = attrs.field(init=False, default=False)
    # characters sent of the open call's arguments; None: no call is open
    _sent_characters: int | None = attrs.field(init=False, default=None)

    def opening(self) -> bytes:
        """Encode `message_start` and a `ping`: a client that gets these waits."""
        message = MessageAnswer(
            self.answer_format.message_id, self.answer_format.model, [], None, None, self.expected
        )
        return _event("message_start", message=message) + self.ping

    def part(self, part: AnswerPart) -> bytes:
        """Encode more of the block of the part's kind, or a block of its own."""
        match part:
            case ToolCall():
                return (
                    self._call_start(part)
                    + self._arguments(part.arguments[self._sent_characters or 0 :])
                    + self._call_stop()
                )
            case CallPiece():
                return self._call_start(part) + self._arguments(part.arguments)
            case CutCall():
                return self._call_stop()
            case Thinking() if self.answer_format.display is Display.NONE:
                return self._block_end()
            case Text(text) | Thinking(text):
                return self._switched_to(type(part)) + self._text(text)
        return b""

    def ending(self, finished: Finished) -> bytes:
        """Encode the block's end, the reason, the usage, and the message's end."""
        reason, sequence = stop_reason_of(
            finished, self.answer_format.stop_sequences, has_calls=self._has_calls
        )
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        message_delta = _event(
            "message_delta",
            delta=delta,
            usage=self.answer_format.usage(finished),
            semantic_cache=Cache.of(finished.reuse),
        )
        return self._block_end() + message_delta + _event("message_stop")

    def _switched_to(self, kind: type[Text] | type[Thinking]) -> bytes:
        if kind is self._kind:
            return b""
        closed, self._kind = self._block_end(), kind
        return closed

    def _text(self, text: str) -> bytes:
        self._pieces.append(text)
        if self._is_open:
            return self._delta(text)
        if not text.strip():
            return b""
        self._is_open = True
        return self._start(
            TextContent("") if self._kind is Text else ThinkingContent("", "")
        ) + self._delta("".join(self._pieces))

    def _delta(self, text: str) -> bytes:
        if self._kind is Text:
            return self._block_event(
                "content_block_delta", delta={"type": "text_delta", "text": text}
            )
        if self.answer_format.display is Display.OMITTED:
            return b""
        return self._block_event(
            "content_block_delta", delta={"type": "thinking_delta", "thinking": text}
        )

    def _block_end(self) -> bytes:
        """Encode the end of the open block; blanks held back for a block that never began are
        dropped.
        """
        text = "".join(self._pieces)
        self._pieces.clear()
        if not self._is_open:
            return b""
        self._is_open = False
        return (self._signature(text) if self._kind is Thinking else b"") + self._stop()

    def _signature(self, thought: str) -> bytes:
        signed = signature(thought if self.answer_format.display is Display.OMITTED else "")
        return self._block_event(
            "content_block_delta", delta={"type": "signature_delta", "signature": signed}
        )

    def _call_start(self, call: ToolCall | CallPiece) -> bytes:
        """Encode the start of a call's block, unless it has begun."""
        if self._sent_characters is not None:
            return b""
        closed, self._has_calls, self._sent_characters = self._block_end(), True, 0
        return closed + self._start(ToolUseContent(call.id, call.name, NO_INPUT))

    def _arguments(self, arguments: str) -> bytes:
        """Encode more of the open call's arguments."""
        self._sent_characters = (self._sent_characters or 0) + len(arguments)
        deltas = (
            {"type": "input_json_delta", "partial_json": piece} for piece in _pieces(arguments)
        )
        return b"".join(self._block_event("content_block_delta", delta=delta) for delta in deltas)

    def _call_stop(self) -> bytes:
        self._sent_characters = None
        return self._stop()

    def _start(self, content: AnswerContent) -> bytes:
        return self._block_event("content_block_start", content_block=content)

    def _stop(self) -> bytes:
        stop = self._block_event("content_block_stop")
        self._index += 1
        return stop

    def _block_event(self, name: str, **fields: object) -> bytes:
        return _event(name, index=self._index, **fields)


def _pieces(arguments: str) -> Iterator[str]:
    return (
        arguments[start : start + PIECE_CHARACTERS]
        for start in range(0, len(arguments), PIECE_CHARACTERS)
    )


def _event(name: str, **fields: object) -> bytes:
    return encode_event({"type": name, **fields}, name)
