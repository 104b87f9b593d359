"""Input items, converted to messages of the neutral conversation, and as they are stored.

Knows items and the neutral conversation. Knows nothing of requests. An answer that comes back, from
a client or from the store, becomes the very message that is in the token history: adjacent
thoughts, texts and calls of the assistant are one message.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import attrs
import msgspec

from semantic_trio.adapters.http.common.json_decoding import decode
from semantic_trio.adapters.http.common.unreadable_content import UNREADABLE, placeholder_text
from semantic_trio.adapters.http.openai.common.tools import custom_call
from semantic_trio.adapters.http.openai.responses.ids import input_id
from semantic_trio.adapters.http.openai.responses.input_items import (
    KNOWN,
    MOST_ID_CHARACTERS,
    TEXTS,
    CustomCallItem,
    CustomOutputItem,
    FunctionCallItem,
    FunctionOutputItem,
    Item,
    ItemReference,
    MessageItem,
    OtherItem,
    OtherPart,
    ReasoningItem,
    RefusalPart,
    TextPart,
    Typed,
    UnreadablePart,
)
from semantic_trio.domain.conversation import (
    Message,
    Part,
    Role,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)

ROLES = {
    "user": Role.USER,
    "assistant": Role.ASSISTANT,
    "system": Role.SYSTEM,
    "developer": Role.SYSTEM,
}
KINDS: Mapping[str, type[Item]] = {
    "message": MessageItem,
    "reasoning": ReasoningItem,
    "function_call": FunctionCallItem,
    "function_call_output": FunctionOutputItem,
    "custom_tool_call": CustomCallItem,
    "custom_tool_call_output": CustomOutputItem,
    "item_reference": ItemReference,
}
assert set(KINDS) == set(KNOWN)
# fields with text that a model reads
READ = frozenset({"content", "text", "refusal", "output", "arguments", "input"})
# Most characters stored of a text that no model reads: an id or a link is shorter, an image is
# longer.
MOST_UNREAD_CHARACTERS = 4096
UNSTORED = "[{count} characters that are not stored]"


@attrs.frozen
class ReadItem:
    """An item as it was sent, and what it was decoded to."""

    raw: msgspec.Raw
    item: Item
    turn: tuple[Role, tuple[Part, ...]] | None  # None: the item adds nothing to the conversation
    id: str = ""  # empty for an item without one

    @property
    def refers(self) -> bool:
        """True if the item refers to a stored item."""
        return isinstance(self.item, ItemReference)


def read_input(given: str | Sequence[msgspec.Raw], at: str = "input") -> tuple[ReadItem, ...]:
    """Decode the items of a request or of the store; a text is a user message.

    Raises `Fault` and `InvalidRequestError`, which name the place.
    """
    if isinstance(given, str):
        given = [
            msgspec.Raw(msgspec.json.encode({"type": "message", "role": "user", "content": given}))
        ]
    return tuple(_read(raw, f"{at}.{index}") for index, raw in enumerate(given))


def messages_of(items: Iterable[ReadItem]) -> tuple[Message, ...]:
    """Return the messages of items, in order."""
    messages: list[Message] = []
    for role, parts in (one.turn for one in items if one.turn is not None):
        if role is Role.ASSISTANT and messages and messages[-1].role is Role.ASSISTANT:
            messages[-1] = attrs.evolve(messages[-1], parts=messages[-1].parts + parts)
        else:
            messages.append(Message(role, parts))
    return tuple(messages)


def stored_items(items: Iterable[ReadItem], stem: str) -> bytes:
    """Encode items as they are stored: as they were sent, but each with an id, and messages with
    type and parts.
    """
    return msgspec.json.encode([_whole(one, input_id(stem, at)) for at, one in enumerate(items)])


def _read(raw: msgspec.Raw, at: str) -> ReadItem:
    typed = decode(raw, Typed, at)
    item = decode(raw, _kind(typed), at)
    return ReadItem(raw, item, _turn(item, at), typed.id if isinstance(typed.id, str) else "")


def _kind(typed: Typed) -> type[Item]:
    if typed.type is None:
        return MessageItem if typed.role is not None else ItemReference
    return KINDS.get(typed.type, OtherItem)


def _turn(item: Item, at: str) -> tuple[Role, tuple[Part, ...]] | None:
    match item:
        case MessageItem():
            return ROLES[item.role], tuple(_texts(item.content, f"{at}.content"))
        case ReasoningItem():
            thought = "\n\n".join(part.text for part in item.content or () if part.text)
            return (Role.ASSISTANT, (Thinking(thought),)) if thought else None
        case FunctionCallItem():
            return Role.ASSISTANT, (ToolCall(item.call_id, item.name, _arguments(item)),)
        case CustomCallItem():
            return Role.ASSISTANT, (ToolCall(item.call_id, item.name, custom_call(item.input)),)
        case FunctionOutputItem() | CustomOutputItem():
            return Role.USER, (_result(item, f"{at}.output"),)
    return None


def _arguments(item: FunctionCallItem) -> str:
    """Return the arguments of a call as JSON; some clients send them as an object."""
    return (
        item.arguments
        if isinstance(item.arguments, str)
        else msgspec.json.encode(item.arguments).decode()
    )


def _result(item: FunctionOutputItem | CustomOutputItem, at: str) -> ToolResult:
    texts = list(_texts(item.output, at))
    unread = tuple(text.unread for text in texts if text.unread is not None)
    return ToolResult(item.call_id, "\n\n".join(text.text for text in texts), unread=unread)


def _texts(content: str | Sequence[msgspec.Raw], at: str) -> Iterator[Text]:
    """Return the texts of a message or of a call's result, with placeholders for unreadable
    content.
    """
    if isinstance(content, str):
        yield Text(content)
        return
    for index, raw in enumerate(content):
        place = f"{at}.{index}"
        kind = decode(raw, Typed, place).type or ""
        if kind in TEXTS:
            yield Text(decode(raw, TextPart, place).text)
        elif kind == "refusal":
            yield Text(decode(raw, RefusalPart, place).refusal)
        elif kind in UNREADABLE:
            name = decode(raw, UnreadablePart, place).filename
            yield placeholder_text(UNREADABLE[kind], place, name if isinstance(name, str) else "")
        else:
            decode(raw, OtherPart, place)


def _whole(read: ReadItem, own_id: str) -> dict[str, object]:
    item = {
        name: _bounded(value, is_read=name in READ and read.turn is not None)
        for name, value in decode(read.raw, dict[str, object]).items()
    }
    if not 0 < len(read.id) <= MOST_ID_CHARACTERS:
        item["id"] = own_id
    if isinstance(read.item, MessageItem):
        item |= {"type": "message", "content": _parts(read.item)}
        if read.item.role == "assistant":
            item.setdefault("status", "completed")
    return item


def _bounded(value: object, *, is_read: bool) -> object:
    """Return a value as it is stored: texts that no model reads (images, files, encrypted thoughts)
    only where they are short.
    """
    match value:
        case str() if not is_read and len(value) > MOST_UNREAD_CHARACTERS:
            return UNSTORED.format(count=len(value))
        case list():
            return [_bounded(one, is_read=is_read) for one in value]
        case dict():
            return {name: _bounded(one, is_read=name in READ) for name, one in value.items()}
    return value


def _parts(message: MessageItem) -> object:
    if not isinstance(message.content, str):
        return message.content
    if message.role == "assistant":
        return [{"type": "output_text", "text": message.content, "annotations": []}]
    return [{"type": "input_text", "text": message.content}]
