"""The message of an answer: its content blocks, and why it ended.

Knows the wire and how generations end. Knows nothing of requests or of events.
"""

from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

import attrs
import msgspec

from semantic_trio.adapters.http.anthropic.thinking import Display, signature
from semantic_trio.adapters.http.anthropic.usage import Usage, usage_of
from semantic_trio.application.answer import WholeAnswer
from semantic_trio.domain.conversation import Part, Text, Thinking, ToolCall
from semantic_trio.domain.generation import Finished, FinishReason
from semantic_trio.domain.priority import Priority
from semantic_trio.domain.prompt import Breakpoint

StopReason = Literal[
    "end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"
]

CUT_OFF: dict[FinishReason, StopReason] = {
    FinishReason.MAX_TOKENS: "max_tokens",
    FinishReason.CONTEXT_FULL: "model_context_window_exceeded",
    # the only reason that tells clients that a call is cut off
    FinishReason.BROKEN_CALL: "max_tokens",
}
NO_INPUT = msgspec.Raw(b"{}")


class TextContent(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    """A run of text."""

    text: str


class ThinkingContent(msgspec.Struct, frozen=True, tag_field="type", tag="thinking"):
    """A thought of the model; empty where the client wants thinking omitted."""

    thinking: str
    signature: str


class ToolUseContent(msgspec.Struct, frozen=True, tag_field="type", tag="tool_use"):
    """A tool call of the model."""

    id: str
    name: str
    input: Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema={"type": "object"})]


AnswerContent = TextContent | ThinkingContent | ToolUseContent


@attrs.frozen
class MessageAnswer:
    """A whole message."""

    id: str
    model: str
    content: list[AnswerContent]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: Usage
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"


@attrs.frozen
class TokenCount:
    """The number of tokens of a prompt."""

    input_tokens: int


@attrs.frozen
class MessageFormat:
    """The format of one answer: its id and model, and what its request says about its form."""

    message_id: str
    model: str
    # those of the request; a generation has others too
    stop_sequences: frozenset[str] = frozenset()
    display: Display = Display.NONE
    breakpoints: tuple[Breakpoint, ...] = ()
    priority: Priority = Priority.INTERACTIVE

    def usage(self, finished: Finished) -> Usage:
        """Return the usage of a generation."""
        return usage_of(finished, self.breakpoints, self.priority)


def message_answer(whole: WholeAnswer, answer_format: MessageFormat) -> MessageAnswer:
    """Return the message of a whole answer. An answer without text has no content, as in a stream.

    A call that was cut off is text: as an object it could be taken for a whole one.
    """
    content = list(_content(whole.parts_with_cut, answer_format.display))
    has_calls = any(isinstance(block, ToolUseContent) for block in content)
    reason, sequence = stop_reason_of(
        whole.finished, answer_format.stop_sequences, has_calls=has_calls
    )
    return MessageAnswer(
        answer_format.message_id,
        answer_format.model,
        content,
        reason,
        sequence,
        answer_format.usage(whole.finished),
    )


def stop_reason_of(
    finished: Finished, stop_sequences: frozenset[str], *, has_calls: bool
) -> tuple[StopReason, str | None]:
    """Return why an answer ended, and the client's stop sequence if that is why.

    `tool_use` stands for an answer with calls that was not cut off.
    """
    if finished.reason is FinishReason.STOP_STRING and finished.stop_string in stop_sequences:
        return "stop_sequence", finished.stop_string
    return CUT_OFF.get(finished.reason, "tool_use" if has_calls else "end_turn"), None


def _content(parts: Iterable[Part], display: Display) -> Iterator[AnswerContent]:
    for part in parts:
        match part:
            case Text(text) if text.strip():
                yield TextContent(text)
            case Thinking(thought) if thought.strip() and display is Display.SHOWN:
                yield ThinkingContent(thought, signature())
            case Thinking(thought) if thought.strip() and display is Display.OMITTED:
                yield ThinkingContent("", signature(thought))
            case ToolCall():
                yield ToolUseContent(part.id, part.name, msgspec.Raw(part.arguments.encode()))
