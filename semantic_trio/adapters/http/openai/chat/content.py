"""Content parts of chat messages, and their conversion to parts of the neutral conversation.

Knows the fields of each kind of part, in the words of Messages and Responses too, for clients keep
histories of several servers. Knows nothing of requests. Parts of unknown types are left out.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal

import msgspec

from semantic_trio.adapters.http.common.json_decoding import decode
from semantic_trio.adapters.http.common.openapi import one_of
from semantic_trio.adapters.http.common.unreadable_content import UNREADABLE, placeholder_text
from semantic_trio.domain.conversation import Part, Text, Thinking, ToolCall, ToolResult

TEXTS = ("text", "input_text", "output_text")


class Typed(msgspec.Struct, frozen=True):
    """The field that distinguishes parts."""

    type: str


class TextPart(msgspec.Struct, frozen=True):
    """A run of text."""

    type: Literal["text", "input_text", "output_text"]
    text: str


class RefusalPart(msgspec.Struct, frozen=True, tag_field="type", tag="refusal"):
    """The text of a refusal."""

    refusal: str


class ThinkingPart(msgspec.Struct, frozen=True, tag_field="type", tag="thinking"):
    """A thought of an earlier turn, as Messages has it."""

    thinking: str | None = None


class ReasoningPart(msgspec.Struct, frozen=True, tag_field="type", tag="reasoning"):
    """A thought of an earlier turn, as other clients have it; only text is read."""

    text: object = None
    reasoning: object = None

    @property
    def thought(self) -> str:
        """Return the text of the thought."""
        return next((found for found in (self.text, self.reasoning) if isinstance(found, str)), "")


class ToolUsePart(msgspec.Struct, frozen=True, tag_field="type", tag="tool_use"):
    """A call, as Messages has it."""

    id: str
    name: str
    input: dict[str, object] = {}


class UnreadablePart(msgspec.Struct, frozen=True):
    """An image, a file or a recording, which is replaced by a placeholder."""

    type: Annotated[str, msgspec.Meta(pattern=f"^({'|'.join(UNREADABLE)})$")]
    filename: object = None
    title: object = None
    file: object = None


KNOWN = (*TEXTS, *UNREADABLE, "refusal", "thinking", "reasoning", "tool_use", "tool_result")


class OtherPart(msgspec.Struct, frozen=True):
    """Any other part, which is left out."""

    type: Annotated[str, msgspec.Meta(pattern=rf"^(?!({'|'.join(KNOWN)})$)")]


ResultContent = Annotated[msgspec.Raw, one_of(TextPart, RefusalPart, UnreadablePart, OtherPart)]


class ToolResultPart(msgspec.Struct, frozen=True, tag_field="type", tag="tool_result"):
    """The result of a call, as Messages has it."""

    tool_use_id: str
    content: str | list[ResultContent] | None = None
    is_error: bool | None = None


KINDS: Mapping[str, type[msgspec.Struct]] = {
    **dict.fromkeys(TEXTS, TextPart),
    **dict.fromkeys(UNREADABLE, UnreadablePart),
    "refusal": RefusalPart,
    "thinking": ThinkingPart,
    "reasoning": ReasoningPart,
    "tool_use": ToolUsePart,
    "tool_result": ToolResultPart,
}
ContentPart = Annotated[
    msgspec.Raw,
    one_of(
        TextPart,
        RefusalPart,
        ThinkingPart,
        ReasoningPart,
        ToolUsePart,
        ToolResultPart,
        UnreadablePart,
        OtherPart,
    ),
]


def parts_of(content: str | Sequence[msgspec.Raw] | None, at: str) -> tuple[Part, ...]:
    """Convert a message's content. Raises `Fault` that names the place."""
    if isinstance(content, str):
        return (Text(content),)
    return tuple(
        part for index, raw in enumerate(content or ()) for part in _parts(raw, f"{at}.{index}")
    )


def result_of(
    call_id: str, content: str | Sequence[msgspec.Raw] | None, at: str, *, is_error: bool = False
) -> ToolResult:
    """Return the result of a call: its texts, and placeholders for unreadable content.

    Raises `Fault` that names the place.
    """
    texts = [part for part in parts_of(content, at) if isinstance(part, Text)]
    unread = tuple(part.unread for part in texts if part.unread is not None)
    return ToolResult(call_id, "\n\n".join(part.text for part in texts), is_error, unread=unread)


def _parts(raw: msgspec.Raw, at: str) -> Iterator[Part]:
    part = decode(raw, KINDS.get(decode(raw, Typed, at).type, OtherPart), at)
    match part:
        case TextPart(text=text) | RefusalPart(refusal=text):
            yield Text(text)
        case ThinkingPart(thinking=str(thought)) | ReasoningPart(thought=thought) if thought:
            yield Thinking(thought)
        case ToolUsePart():
            yield ToolCall(part.id, part.name, msgspec.json.encode(part.input).decode())
        case ToolResultPart():
            yield result_of(
                part.tool_use_id, part.content, f"{at}.content", is_error=bool(part.is_error)
            )
        case UnreadablePart():
            yield placeholder_text(UNREADABLE[part.type], at, _file_name(part))


def _file_name(part: UnreadablePart) -> str:
    """Return the name of a file, or an empty text."""
    file = part.file.get("filename") if isinstance(part.file, dict) else None
    return next((name for name in (part.filename, file, part.title) if isinstance(name, str)), "")
