"""Input items of the Responses API, as they are on the wire.

Knows the fields of each kind of item, and what an item may hold. Items are decoded one by one,
later.
"""

from typing import Annotated, Literal

import msgspec

from semantic_trio.adapters.http.common.openapi import one_of
from semantic_trio.adapters.http.common.unreadable_content import UNREADABLE

# Most characters of ids and names, which are stored as they are: more than any client or server
# makes.
MOST_ID_CHARACTERS = 512
ItemId = Annotated[str, msgspec.Meta(max_length=MOST_ID_CHARACTERS)]

TEXTS = ("input_text", "output_text", "text")


class Typed(msgspec.Struct, frozen=True):
    """The fields that distinguish items and their parts; a message needs no type."""

    type: str | None = None
    role: object = None
    id: object = None


class TextPart(msgspec.Struct, frozen=True):
    """A run of text."""

    type: Literal["input_text", "output_text", "text"]
    text: str


class RefusalPart(msgspec.Struct, frozen=True, tag_field="type", tag="refusal"):
    """The text of a refusal."""

    refusal: str


class UnreadablePart(msgspec.Struct, frozen=True):
    """An image, a file or a recording, which is replaced by a placeholder."""

    type: Annotated[str, msgspec.Meta(pattern=f"^({'|'.join(UNREADABLE)})$")]
    filename: object = None


class OtherPart(msgspec.Struct, frozen=True):
    """Any other part, which is left out."""

    type: Annotated[
        str, msgspec.Meta(pattern=rf"^(?!({'|'.join((*TEXTS, *UNREADABLE, 'refusal'))})$)")
    ]


ContentPart = Annotated[msgspec.Raw, one_of(TextPart, RefusalPart, UnreadablePart, OtherPart)]


class MessageItem(msgspec.Struct, frozen=True):
    """A message. System and developer messages keep their place."""

    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[ContentPart]
    type: Literal["message"] | None = None


class ThoughtPart(msgspec.Struct, frozen=True):
    """A part of a thought."""

    type: str
    text: str = ""


class ReasoningItem(msgspec.Struct, frozen=True, tag_field="type", tag="reasoning"):
    """A thought of the model. A summary is not read, for it is no thought."""

    content: list[ThoughtPart] | None = None


class FunctionCallItem(msgspec.Struct, frozen=True, tag_field="type", tag="function_call"):
    """A call of a function."""

    call_id: ItemId
    name: ItemId
    arguments: str | dict[str, object] = "{}"


class FunctionOutputItem(msgspec.Struct, frozen=True, tag_field="type", tag="function_call_output"):
    """The result of a function call."""

    call_id: ItemId
    output: str | list[ContentPart]


class CustomCallItem(msgspec.Struct, frozen=True, tag_field="type", tag="custom_tool_call"):
    """A call of a custom tool, which takes text."""

    call_id: ItemId
    name: ItemId
    input: str = ""


class CustomOutputItem(
    msgspec.Struct, frozen=True, tag_field="type", tag="custom_tool_call_output"
):
    """The result of a custom tool's call."""

    call_id: ItemId
    output: str | list[ContentPart]


class ItemReference(msgspec.Struct, frozen=True):
    """A reference to an item of a stored response, by its id."""

    id: ItemId
    type: Literal["item_reference"] | None = None


KNOWN = (
    "message",
    "reasoning",
    "function_call",
    "function_call_output",
    "custom_tool_call",
    "custom_tool_call_output",
    "item_reference",
)


class OtherItem(msgspec.Struct, frozen=True):
    """Any other item, which is left out: calls and results of other servers' tools, and items of
    future versions.
    """

    type: Annotated[str, msgspec.Meta(pattern=rf"^(?!({'|'.join(KNOWN)})$)")]


Item = (
    MessageItem
    | ReasoningItem
    | FunctionCallItem
    | FunctionOutputItem
    | CustomCallItem
    | CustomOutputItem
    | ItemReference
    | OtherItem
)
InputItem = Annotated[
    msgspec.Raw,
    one_of(
        MessageItem,
        ReasoningItem,
        FunctionCallItem,
        FunctionOutputItem,
        CustomCallItem,
        CustomOutputItem,
        ItemReference,
        OtherItem,
    ),
]
