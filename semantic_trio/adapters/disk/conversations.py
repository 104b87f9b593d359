"""Conversations in a form that can be written: every part with its kind, every rank by its name.

Knows what a file has, field by field: the names here are those in files, whatever the domain calls
things one day.
"""

from typing import Any

import attrs
import msgspec

from semantic_trio.adapters.disk.parsing import UnfitError, shown
from semantic_trio.domain.conversation import (
    Calling,
    Conversation,
    Message,
    Part,
    Role,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from semantic_trio.domain.eviction import Rank


class FileStruct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A structure in a file.

    It has exactly these fields; later ones are left out where they hold defaults, as in older
    files.
    """


class WrittenText(FileStruct, tag="text", frozen=True):
    """See `Text`."""

    text: str


class WrittenThinking(FileStruct, tag="thinking", frozen=True):
    """See `Thinking`."""

    text: str


class WrittenCall(FileStruct, tag="call", frozen=True):
    """See `ToolCall`."""

    id: str
    name: str
    arguments: str


class WrittenResult(FileStruct, tag="result", frozen=True):
    """See `ToolResult`."""

    call_id: str
    text: str
    is_error: bool
    loads: tuple[str, ...]


WrittenPart = WrittenText | WrittenThinking | WrittenCall | WrittenResult


class WrittenMessage(FileStruct, frozen=True):
    """See `Message`."""

    role: Role
    parts: tuple[WrittenPart, ...]
    rank: str | None


class WrittenTool(FileStruct, frozen=True):
    """See `Tool`."""

    name: str
    description: str
    parameters: str
    is_deferred: bool
    is_strict: bool = False


class WrittenChoice(FileStruct, frozen=True):
    """See `ToolChoice`."""

    calling: Calling
    name: str | None
    is_single: bool
    allowed: tuple[str, ...] | None = None


class WrittenConversation(FileStruct, frozen=True):
    """See `Conversation`."""

    messages: tuple[WrittenMessage, ...]
    tools: tuple[WrittenTool, ...]
    choice: WrittenChoice
    thinks: bool | None
    schema: str | None = None
    effort: str | None = None
    thought_budget: int | None = None


def written(conversation: Conversation) -> WrittenConversation:
    """A conversation to be written."""
    return WrittenConversation(
        messages=tuple(_written_message(message) for message in conversation.messages),
        tools=tuple(WrittenTool(**_fields(tool)) for tool in conversation.tools),
        choice=WrittenChoice(**_fields(conversation.choice)),
        thinks=conversation.thinks,
        schema=conversation.schema,
        effort=conversation.effort,
        thought_budget=conversation.thought_budget,
    )


def conversation_of(found: WrittenConversation) -> Conversation:
    """The conversation again. Raises `UnfitError`."""
    return Conversation(
        messages=tuple(_message(message) for message in found.messages),
        tools=tuple(Tool(**msgspec.structs.asdict(tool)) for tool in found.tools),
        choice=ToolChoice(**msgspec.structs.asdict(found.choice)),
        thinks=found.thinks,
        schema=found.schema,
        effort=found.effort,
        thought_budget=found.thought_budget,
    )


def _written_message(message: Message) -> WrittenMessage:
    return WrittenMessage(
        message.role,
        tuple(_written_part(part) for part in message.parts),
        None if message.rank is None else message.rank.name,
    )


def _written_part(part: Part) -> WrittenPart:
    match part:
        case Text():
            return WrittenText(part.text)
        case Thinking():
            return WrittenThinking(part.text)
        case ToolCall():
            return WrittenCall(**_fields(part))
        case ToolResult():
            return WrittenResult(part.call_id, part.text, part.is_error, part.loads)


def _message(found: WrittenMessage) -> Message:
    if found.rank is not None and found.rank not in Rank.__members__:
        raise UnfitError(f"has a message of rank {shown(found.rank)}")
    return Message(
        found.role,
        tuple(_part(part) for part in found.parts),
        None if found.rank is None else Rank[found.rank],
    )


def _part(found: WrittenPart) -> Part:
    match found:
        case WrittenText():
            return Text(found.text)
        case WrittenThinking():
            return Thinking(found.text)
        case WrittenCall():
            return ToolCall(**msgspec.structs.asdict(found))
        case WrittenResult():
            return ToolResult(**msgspec.structs.asdict(found))


def _fields(of: attrs.AttrsInstance) -> dict[str, Any]:
    return attrs.asdict(of, recurse=False)
